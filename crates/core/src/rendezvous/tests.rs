use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

struct World {
    broker: Rendezvous<ChaCha20Rng>,
    now: Instant,
    inbox: HashMap<LinkId, VecDeque<FromBroker>>,
    closed: Vec<LinkId>,
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn link(n: u8) -> LinkId {
    LinkId(u64::from(n))
}

impl World {
    fn new(config: Config) -> Self {
        World {
            broker: Rendezvous::new(config, ChaCha20Rng::seed_from_u64(1)),
            now: Instant::now(),
            inbox: HashMap::new(),
            closed: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        self.broker.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match self.broker.poll(self.now) {
                Output::Send { link, message } => self.inbox.entry(link).or_default().push_back(*message),
                Output::Close { link } => self.closed.push(link),
                Output::Event(_) => {}
                Output::Wait(_) => return,
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            match self.broker.poll(self.now) {
                Output::Wait(Some(at)) if at <= end => self.now = at,
                Output::Wait(_) => break,
                Output::Send { link, message } => self.inbox.entry(link).or_default().push_back(*message),
                Output::Close { link } => self.closed.push(link),
                Output::Event(_) => {}
            }
        }
        self.now = end;
    }

    fn up(&mut self, n: u8, address: &str) {
        self.input(Input::LinkUp { link: link(n), peer: key(n), observed: address.parse().unwrap() });
        assert!(matches!(self.next(n), Some(FromBroker::Welcome { .. })));
    }

    fn say(&mut self, n: u8, message: ToBroker) {
        self.say_after(n, message, None);
    }

    fn say_after(&mut self, n: u8, message: ToBroker, round_trip: Option<Duration>) {
        self.input(Input::Message { link: link(n), message, round_trip });
    }

    fn next(&mut self, n: u8) -> Option<FromBroker> {
        self.inbox.get_mut(&link(n)).and_then(VecDeque::pop_front)
    }

    fn refusal(&mut self, n: u8) -> Option<Refusal> {
        match self.next(n) {
            Some(FromBroker::Refused { refusal, .. }) => Some(refusal),
            _ => None,
        }
    }

    fn down(&mut self, n: u8) {
        self.input(Input::LinkDown { link: link(n) });
    }

    fn code(&mut self, n: u8) -> u32 {
        self.say(n, ToBroker::Open { verb: Verb::Listen, again: None });
        let Some(FromBroker::Opened { number, .. }) = self.next(n) else { panic!() };
        self.say(n, ToBroker::Wait { number, share: vec![n; SHARE] });
        number
    }

    fn claimed(&mut self, n: u8, number: u32) -> ClaimId {
        self.say(n, ToBroker::Claim { number, verb: Verb::Connect });
        match self.next(n) {
            Some(FromBroker::Claimed { claim, .. }) => claim,
            other => panic!("{other:?}"),
        }
    }
}

fn join() -> ToBroker {
    ToBroker::Join { connected: vec![], openers: vec![vec![7; 32]; LOBBY_MEMBERS - 1] }
}

#[test]
fn two_in_the_lobby_are_introduced_with_each_others_addresses() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.say(1, join());
    assert!(matches!(world.next(1), Some(FromBroker::Joined { members: 0, introductions: 0, .. })));
    world.say(2, join());
    assert!(matches!(world.next(2), Some(FromBroker::Joined { members: 1, introductions: 1, .. })));
    let Some(FromBroker::Introduced(arriver)) = world.next(2) else { panic!() };
    let Some(FromBroker::Introduced(waiter)) = world.next(1) else { panic!() };
    assert_eq!(arriver.peer, key(1));
    assert_eq!(arriver.addresses, ["198.51.100.1:1111".parse().unwrap()]);
    assert_eq!(arriver.meeting, Met::LobbyArriver { opener: 0 });
    assert_eq!(waiter.peer, key(2));
    assert_eq!(waiter.addresses, ["203.0.113.2:2222".parse().unwrap()]);
    assert_eq!(waiter.meeting, Met::LobbyWaiter { opener: vec![7; 32] });
    assert_eq!((arriver.id, arriver.nonce), (waiter.id, waiter.nonce));
    assert_eq!(world.next(1), Some(FromBroker::Go { introduction: arriver.id }));
    assert_eq!(world.next(2), Some(FromBroker::Go { introduction: arriver.id }));
}

#[test]
fn go_reaches_both_at_the_same_moment() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.say_after(1, join(), Some(Duration::from_millis(10)));
    world.say_after(2, join(), Some(Duration::from_millis(70)));
    let go = |message| matches!(message, Some(FromBroker::Go { .. }));
    world.inbox.get_mut(&link(1)).unwrap().retain(|message| matches!(message, FromBroker::Go { .. }));
    world.inbox.get_mut(&link(2)).unwrap().retain(|message| matches!(message, FromBroker::Go { .. }));
    assert!(go(world.next(2)), "the farther side hears at once");
    world.pass(Duration::from_millis(29));
    assert_eq!(world.next(1), None);
    world.pass(Duration::from_millis(1));
    assert!(go(world.next(1)), "the nearer one half of the difference later");
}

#[test]
fn the_lobby_keeps_to_its_size_and_tells_who_left() {
    let mut world = World::new(Config { lobby: 2, ..Config::default() });
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
        world.say(n, join());
    }
    assert_eq!(world.refusal(3), Some(Refusal::LobbyFull));
    world.inbox.clear();
    world.down(1);
    assert_eq!(world.next(2), Some(FromBroker::Left { peer: key(1) }));
    world.say(3, join());
    assert!(matches!(world.next(3), Some(FromBroker::Joined { members: 1, .. })));
    let mut off = World::new(Config { lobby: 0, ..Config::default() });
    off.up(1, "198.51.100.1:1111");
    off.say(1, join());
    assert_eq!(off.refusal(1), Some(Refusal::LobbyOff));
}

#[test]
fn members_that_are_connected_are_not_introduced_again() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    world.say(3, ToBroker::Join { connected: vec![key(1)], openers: vec![vec![7; 32]; 15] });
    assert!(matches!(world.next(3), Some(FromBroker::Joined { introductions: 1, .. })));
    let Some(FromBroker::Introduced(introduction)) = world.next(3) else { panic!() };
    assert_eq!(introduction.peer, key(2));
    assert_eq!(world.next(1), None);
}

#[test]
fn no_address_is_told_before_the_waiter_accepts() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    let claim = world.claimed(2, number);
    assert_eq!(world.next(1), None);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![3; 48] });
    assert!(matches!(world.next(1), Some(FromBroker::Proof { peer, .. }) if peer == key(2)));
    assert_eq!(world.next(2), None);
    world.say(1, ToBroker::Accept { claim, handshake: vec![4; 48] });
    let Some(FromBroker::Introduced(arriver)) = world.next(2) else { panic!() };
    assert_eq!(arriver.meeting, Met::CodeArriver { claim, answer: vec![4; 48] });
    assert!(matches!(world.next(1), Some(FromBroker::Introduced(_))));
    world.up(3, "203.0.113.3:3333");
    world.say(3, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(3), Some(Refusal::NoSuchCode), "a code serves once");
}

#[test]
fn a_wrong_guess_is_told_and_the_code_goes_on_with_a_fresh_share() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    let number = world.code(1);
    let claim = world.claimed(2, number);
    let late = world.claimed(3, number);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
    world.next(1);
    world.say(3, ToBroker::Prove { claim: late, share: vec![2; SHARE], handshake: vec![] });
    assert_eq!(world.next(1), None, "the share was used up by the first proof");
    world.say(1, ToBroker::Reject { claim, left: 2 });
    assert_eq!(world.next(2), Some(FromBroker::WrongWords { claim, left: 2 }));
    world.say(1, ToBroker::Wait { number, share: vec![9; SHARE] });
    assert_eq!(
        world.next(3),
        Some(FromBroker::Claimed { number, claim: late, waiter: key(1), share: vec![9; SHARE] })
    );
    world.say(3, ToBroker::Prove { claim: late, share: vec![2; SHARE], handshake: vec![] });
    assert!(matches!(world.next(1), Some(FromBroker::Proof { .. })));
    world.say(1, ToBroker::Reject { claim: late, left: 0 });
    assert_eq!(world.next(3), Some(FromBroker::WrongWords { claim: late, left: 0 }));
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(2), Some(Refusal::NoSuchCode));
}

#[test]
fn the_other_verb_is_named_and_burns_nothing() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    let number = world.code(1);
    world.say(2, ToBroker::Claim { number, verb: Verb::ChatJoin });
    assert_eq!(world.refusal(2), Some(Refusal::OtherVerb(Verb::Listen)));
    world.claimed(2, number);
}

#[test]
fn codes_expire() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let number = world.code(1);
    for _ in 0..=CODE_LIFE.as_secs() / 30 {
        world.pass(Duration::from_secs(30));
        world.say(1, ToBroker::Ping(1));
    }
    let expired = world.inbox[&link(1)].contains(&FromBroker::Expired { number });
    assert!(expired);
    world.inbox.clear();
    world.say(1, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(1), Some(Refusal::NoSuchCode));
}

#[test]
fn an_arriver_that_leaves_does_not_take_the_code_along() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    let claim = world.claimed(2, number);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
    world.next(1);
    world.down(2);
    world.say(1, ToBroker::Accept { claim, handshake: vec![] });
    assert_eq!(world.next(1), Some(FromBroker::Gone { claim }));
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    world.up(3, "203.0.113.3:2222");
    world.claimed(3, number);
}

#[test]
fn a_lost_code_gets_its_number_again() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let number = world.code(1);
    world.down(1);
    world.inbox.clear();
    world.input(Input::LinkUp { link: link(9), peer: key(1), observed: "198.51.100.1:1".parse().unwrap() });
    world.next(9);
    world.say(9, ToBroker::Open { verb: Verb::Listen, again: Some(number) });
    assert!(matches!(world.next(9), Some(FromBroker::Opened { number: same, .. }) if same == number));
}

#[test]
fn a_link_made_again_before_the_old_one_is_missed_keeps_the_number() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    world.input(Input::LinkUp { link: link(9), peer: key(1), observed: "198.51.100.7:1".parse().unwrap() });
    world.next(9);
    world.say(9, ToBroker::Open { verb: Verb::Listen, again: Some(number) });
    assert!(matches!(world.next(9), Some(FromBroker::Opened { number: same, .. }) if same == number));
    world.say(9, ToBroker::Wait { number, share: vec![5; SHARE] });
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert!(matches!(world.next(2), Some(FromBroker::Claimed { share, .. }) if share == vec![5; SHARE]));
}

#[test]
fn an_introduction_that_is_refused_burns_nothing() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    let claim = world.claimed(2, number);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
    world.next(1);
    for _ in 0..=INTRODUCTIONS_PER_ADDRESS {
        world.broker.may_introduce(world.now, &key(1), &key(2));
    }
    world.say(1, ToBroker::Accept { claim, handshake: vec![] });
    assert_eq!(world.refusal(2), Some(Refusal::TooMany));
    assert_eq!(world.next(1), Some(FromBroker::Gone { claim }), "the waiter goes on with a fresh share");
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    world.claimed(2, number);
}

#[test]
fn opening_and_withdrawing_leaves_nothing_behind() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let before = world.broker.timers.len();
    let mut opened = 0;
    for _ in 0..200 {
        world.say(1, ToBroker::Open { verb: Verb::Listen, again: None });
        if let Some(FromBroker::Opened { number, .. }) = world.next(1) {
            opened += 1;
            world.say(1, ToBroker::Withdraw { number });
        }
    }
    assert_eq!(opened, CLAIMS_PER_ADDRESS);
    assert_eq!(world.broker.timers.len(), before);
}

#[test]
fn a_profile_is_no_channel() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    for n in 0..100 {
        let profile = NatProfile { translated: Some(n % 2 == 0), ..NatProfile::default() };
        world.say(1, ToBroker::Profile(profile));
    }
    assert_eq!(world.inbox[&link(2)].len(), usize::from(PROFILES_PER_SESSION));
}

#[test]
fn relayed_signals_are_counted_and_bounded() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.up(3, "203.0.113.3:2222");
    world.say(1, join());
    world.say(2, join());
    world.next(2);
    let Some(FromBroker::Introduced(Introduction { id, .. })) = world.next(2) else { panic!() };
    world.inbox.clear();
    let relay = |bytes: usize| ToBroker::Relay { introduction: id, signal: Signal::Sealed(vec![0; bytes]) };
    world.say(3, relay(10));
    world.say(2, relay(MAX_HANDSHAKE + 1));
    assert_eq!(world.next(1), None, "neither a stranger nor anything long");
    for _ in 0..10 {
        world.say(2, relay(MAX_HANDSHAKE));
    }
    assert_eq!(world.inbox[&link(1)].len(), usize::from(MAX_RELAYED));
    world.inbox.clear();
    world.pass(INTRODUCTION_LIFE);
    world.say(1, relay(10));
    assert_eq!(world.next(2), None);
}

#[test]
fn observations_reach_only_the_session_they_name() {
    let mut world = World::new(Config::default());
    world.input(Input::LinkUp { link: link(1), peer: key(1), observed: "198.51.100.1:1".parse().unwrap() });
    let Some(FromBroker::Welcome { token, .. }) = world.next(1) else { panic!() };
    let from = "198.51.100.1:5555".parse().unwrap();
    let mut full = [0; 16];
    full[..8].copy_from_slice(&token);
    full[8..].copy_from_slice(&[5; 8]);
    world.input(Input::Observation { token: full, from });
    assert_eq!(world.next(1), Some(FromBroker::Observed { question: [5; 8], from }));
    full[0] ^= 1;
    world.input(Input::Observation { token: full, from });
    assert_eq!(world.next(1), None);
}

#[test]
fn a_session_has_one_link_a_family() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let v6 = Input::LinkUp { link: link(2), peer: key(1), observed: "[2001:db8::1]:1111".parse().unwrap() };
    world.input(v6);
    assert!(world.closed.is_empty());
    let again = Input::LinkUp { link: link(3), peer: key(1), observed: "198.51.100.1:1111".parse().unwrap() };
    world.input(again);
    assert_eq!(world.closed, [link(1)]);
    world.up(4, "203.0.113.2:2222");
    world.say(2, join());
    world.say(4, join());
    world.next(4);
    let Some(FromBroker::Introduced(introduction)) = world.next(4) else { panic!() };
    assert_eq!(introduction.addresses.len(), 2);
}

#[test]
fn an_address_that_comes_late_is_told_once() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    let late: SocketAddr = "[2001:db8::1]:1111".parse().unwrap();
    world.input(Input::LinkUp { link: link(3), peer: key(1), observed: late });
    assert!(matches!(world.next(2), Some(FromBroker::SeenAt { address, .. }) if address == late));
    world.input(Input::LinkUp { link: link(4), peer: key(1), observed: late });
    assert_eq!(world.next(2), None);
}

#[test]
fn a_member_that_comes_back_before_it_was_missed_is_introduced_again() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
        world.say(n, join());
    }
    world.inbox.clear();
    // Over another link, from another port; the broker has not heard that the first is gone.
    let moved: SocketAddr = "203.0.113.1:2222".parse().unwrap();
    world.input(Input::LinkUp { link: link(9), peer: key(1), observed: moved });
    assert_eq!(world.closed, [link(1)]);
    assert_eq!(world.next(2), None, "what runs toward the old address is not told the new one");
    world.next(9);
    world.say(9, ToBroker::Join { connected: vec![key(3)], openers: vec![vec![7; 32]; 15] });
    assert!(matches!(world.next(9), Some(FromBroker::Joined { members: 2, introductions: 1, .. })));
    let Some(FromBroker::Introduced(introduced)) = world.next(2) else { panic!() };
    assert_eq!((introduced.peer, introduced.addresses), (key(1), vec![moved]));
    assert_eq!(world.next(3), None, "who is connected is left alone");
    // It is still one member.
    world.down(9);
    assert_eq!(world.broker.lobby, [key(2), key(3)]);
}

#[test]
fn joining_again_is_limited() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.say(1, join());
    world.inbox.clear();
    for _ in 0..CLAIMS_PER_ADDRESS {
        world.say(1, join());
        assert!(matches!(world.next(1), Some(FromBroker::Joined { members: 0, introductions: 0, .. })));
    }
    world.say(1, join());
    assert_eq!(world.refusal(1), Some(Refusal::TooMany));
    world.pass(CLAIM_WINDOW);
    world.say(1, ToBroker::Ping(1));
    world.inbox.clear();
    world.up(2, "198.51.100.1:1112");
    world.say(2, join());
    assert!(matches!(world.next(2), Some(FromBroker::Joined { .. })));
}

#[test]
fn a_profile_that_comes_late_reaches_the_other_side() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    let profile = NatProfile { translated: Some(true), ..NatProfile::default() };
    world.say(1, ToBroker::Profile(profile));
    world.say(1, ToBroker::Profile(profile));
    assert!(matches!(world.next(2), Some(FromBroker::ProfileOf { profile: told, .. }) if told == profile));
    assert_eq!(world.next(2), None);
}

#[test]
fn a_peer_beside_the_broker_is_known_from_outside_by_the_brokers_address() {
    let public: IpAddr = "203.0.113.9".parse().unwrap();
    let mut world = World::new(Config { public: vec![public], ..Config::default() });
    world.up(1, "127.0.0.1:1111");
    world.up(2, "198.51.100.2:2222");
    world.say(1, join());
    world.say(2, join());
    world.next(2);
    let Some(FromBroker::Introduced(outside)) = world.next(2) else { panic!() };
    world.next(1);
    let Some(FromBroker::Introduced(beside)) = world.next(1) else { panic!() };
    assert_eq!(outside.public, [public]);
    assert!(beside.public.is_empty());
}

#[test]
fn introductions_toward_one_address_are_limited() {
    let mut world = World::new(Config { lobby: 2, ..Config::default() });
    world.up(1, "198.51.100.1:1111");
    world.say(1, join());
    let mut introduced = 0;
    for n in 0..(INTRODUCTIONS_PER_ADDRESS + 20) as u16 {
        let id = LinkId(1000 + u64::from(n));
        let observed = SocketAddr::new(IpAddr::V4([203, 0, (n >> 8) as u8, n as u8].into()), 2000);
        let mut peer = [0; 32];
        peer[..2].copy_from_slice(&n.to_be_bytes());
        peer[31] = 1;
        world.input(Input::LinkUp { link: id, peer: PublicKey(peer), observed });
        world.input(Input::Message { link: id, message: join(), round_trip: None });
        let told = world.inbox.remove(&id).unwrap();
        introduced += told.iter().filter(|message| matches!(message, FromBroker::Introduced(_))).count();
        world.input(Input::LinkDown { link: id });
    }
    assert_eq!(introduced, INTRODUCTIONS_PER_ADDRESS);
}

#[test]
fn guessing_numbers_is_limited() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let mut answered = 0;
    for number in 0..200 {
        world.say(1, ToBroker::Claim { number: 100 + number, verb: Verb::Connect });
        answered += usize::from(world.refusal(1) == Some(Refusal::NoSuchCode));
    }
    assert_eq!(answered, CLAIMS_PER_ADDRESS);
}

#[test]
fn one_address_cannot_take_all_links() {
    let mut world = World::new(Config::default());
    for n in 0..BROKER_LINKS_PER_ADDRESS as u64 + 5 {
        let mut peer = [0; 32];
        peer[..8].copy_from_slice(&n.to_be_bytes());
        let observed = "[2001:db8::1]:1111".parse().unwrap();
        world.input(Input::LinkUp { link: LinkId(n), peer: PublicKey(peer), observed });
    }
    assert_eq!(world.broker.links(), BROKER_LINKS_PER_ADDRESS);
    assert_eq!(world.closed.len(), 5);
}

#[test]
fn silent_links_are_closed() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    for _ in 0..8 {
        world.pass(Duration::from_secs(10));
        world.say(2, ToBroker::Ping(0));
    }
    assert_eq!(world.closed, [link(1)]);
}

fn any_message() -> impl Strategy<Value = ToBroker> {
    prop_oneof![
        Just(join()),
        Just(ToBroker::Open { verb: Verb::Listen, again: None }),
        (100u32..110).prop_map(|n| ToBroker::Open { verb: Verb::Listen, again: Some(n) }),
        (100u32..110).prop_map(|number| ToBroker::Wait { number, share: vec![0; SHARE] }),
        (100u32..110).prop_map(|number| ToBroker::Claim { number, verb: Verb::Connect }),
        (100u32..110).prop_map(|number| ToBroker::Withdraw { number }),
        Just(ToBroker::Register { profile: NatProfile::default() }),
    ]
}

proptest! {
    #[test]
    fn tables_return_to_empty(steps in proptest::collection::vec((1u8..6, 0u8..8, any_message(), any::<bool>()), 1..80)) {
        let mut world = World::new(Config::default());
        let mut current = [link(0); 6];
        for (at, (n, what, message, yes)) in steps.into_iter().enumerate() {
            let own = &mut current[usize::from(n)];
            match what {
                0 => {
                    *own = LinkId(at as u64 + 10);
                    let input = Input::LinkUp { link: *own, peer: key(n), observed: format!("198.51.100.{n}:1111").parse().unwrap() };
                    world.input(input);
                }
                1 => {
                    let input = Input::LinkDown { link: *own };
                    world.input(input);
                }
                2 => world.pass(Duration::from_secs(7)),
                _ => {
                    let input = Input::Message { link: *own, message, round_trip: None };
                    world.input(input);
                }
            }
            let told: Vec<(LinkId, FromBroker)> = world.inbox.iter_mut().flat_map(|(link, inbox)| inbox.drain(..).map(|message| (*link, message)).collect::<Vec<_>>()).collect();
            for (from, message) in told {
                let answer = match message {
                    FromBroker::Claimed { claim, .. } => ToBroker::Prove { claim, share: vec![1; SHARE], handshake: vec![] },
                    FromBroker::Proof { claim, .. } if yes => ToBroker::Accept { claim, handshake: vec![] },
                    FromBroker::Proof { claim, .. } => ToBroker::Reject { claim, left: u8::from(n % 2 == 0) },
                    _ => continue,
                };
                world.input(Input::Message { link: from, message: answer, round_trip: None });
            }
        }
        for link in current {
            world.input(Input::LinkDown { link });
        }
        world.pass(CODE_LIFE + CLAIM_LIFE);
        prop_assert!(world.broker.is_empty());
    }
}
