use super::introductions::By;
use super::*;
use crate::code::Verb;
use crate::limits::{
    Allowance, BROKER_CODES, CLAIM_LIFE, CLAIMS_PER_CODE, CODE_LIFE, CODES_PER_SESSION,
    EARLY_OBSERVATION_LIFE, EARLY_OBSERVATIONS, FAIR_SHARE, GO_DELAY_MOST, INTRODUCTION_LIFE,
    INTRODUCTIONS_PER_SESSION, KNOCK_WITHIN, KNOCKS_PER_SESSION, LINK_DEAD_AFTER, LOBBY_MEMBERS_MOST,
    MAX_HANDSHAKE, MAX_OBSERVED, MAX_RELAYED, MAX_RELAYED_BYTES, MISSES_COUNTED, NUMBER_FIRST, NUMBER_LAST,
    OBSERVATIONS_PER_SESSION, PROFILES_PER_SESSION, ROUNDS,
};
use crate::secure::SHARE;
use crate::wire::{About, Introduction, Met, Refusal, Signal};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

mod bounds;
mod knocks;
mod rounds;

struct World {
    broker: Rendezvous<ChaCha20Rng>,
    now: Instant,
    inbox: HashMap<LinkId, VecDeque<FromBroker>>,
    closed: Vec<LinkId>,
    knocks: Vec<(KnockId, IpAddr, SocketAddr)>,
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn link(n: u8) -> LinkId {
    LinkId(u64::from(n))
}

fn token_of(link: LinkId) -> [u8; 8] {
    (link.0 << 8 | 0xf1).to_be_bytes()
}

impl World {
    fn new(config: Config) -> Self {
        World {
            broker: Rendezvous::new(config, ChaCha20Rng::seed_from_u64(1)),
            now: Instant::now(),
            inbox: HashMap::new(),
            closed: Vec::new(),
            knocks: Vec::new(),
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
                Output::Knock { knock, from, to } => self.knocks.push((knock, from, to)),
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
                Output::Knock { knock, from, to } => self.knocks.push((knock, from, to)),
                Output::Event(_) => {}
            }
        }
        self.now = end;
    }

    fn up(&mut self, n: u8, address: &str) {
        self.input(Input::LinkUp {
            link: link(n),
            peer: key(n),
            observed: address.parse().unwrap(),
            token: token_of(link(n)),
        });
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

    /// All that was told to anybody, in no order between links.
    fn told(&mut self) -> Vec<(LinkId, FromBroker)> {
        let inboxes = std::mem::take(&mut self.inbox);
        inboxes
            .into_iter()
            .flat_map(|(link, inbox)| inbox.into_iter().map(move |message| (link, message)))
            .collect()
    }

    fn refusal(&mut self, n: u8) -> Option<Refusal> {
        match self.next(n) {
            Some(FromBroker::Refused { refusal, .. }) => Some(refusal),
            _ => None,
        }
    }

    /// A link of a session of its own.
    fn anyone(&mut self, n: u32, ip: IpAddr) -> LinkId {
        let link = LinkId(10_000 + u64::from(n));
        let mut peer = [0; 32];
        peer[..4].copy_from_slice(&n.to_be_bytes());
        peer[31] = 1;
        let observed = SocketAddr::new(ip, 2000);
        self.input(Input::LinkUp { link, peer: PublicKey(peer), observed, token: token_of(link) });
        link
    }

    fn down(&mut self, n: u8) {
        self.input(Input::LinkDown { link: link(n) });
    }

    fn code(&mut self, n: u8) -> u32 {
        self.say(n, ToBroker::Open { request: 0, verb: Verb::Listen, again: None });
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
fn a_claim_that_is_made_again_takes_the_place_of_the_first() {
    let prove = |claim| ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] };
    let accept = |claim| ToBroker::Accept { claim, handshake: vec![4; 48] };
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    let number = world.code(1);
    let first = world.claimed(2, number);
    let second = world.claimed(2, number);
    world.say(2, prove(first));
    assert_eq!(world.refusal(2), Some(Refusal::NoSuchCode), "of the first");
    world.say(2, prove(second));
    world.say(1, accept(second));
    assert!(matches!(world.next(2), Some(FromBroker::Introduced(_))), "and nothing is refused before");
    world.inbox.clear();

    let number = world.code(1);
    let checked = world.claimed(2, number);
    world.say(2, prove(checked));
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.next(2), None, "the share is being used");
    world.inbox.clear();
    world.say(1, accept(checked));
    assert_eq!(world.next(1), Some(FromBroker::Gone { claim: checked }));
    world.say(1, ToBroker::Wait { number, share: vec![9; SHARE] });
    let Some(FromBroker::Claimed { claim, .. }) = world.next(2) else { panic!() };
    world.say(2, prove(claim));
    world.say(1, accept(claim));
    assert!(matches!(world.next(2), Some(FromBroker::Introduced(_))));
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
    world.input(Input::LinkUp {
        link: link(9),
        peer: key(1),
        observed: "198.51.100.1:1".parse().unwrap(),
        token: token_of(link(9)),
    });
    world.say(9, ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(number) });
    assert!(matches!(world.next(9), Some(FromBroker::Opened { number: same, .. }) if same == number));
}

#[test]
fn a_link_made_again_before_the_old_one_is_missed_keeps_the_number() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    world.input(Input::LinkUp {
        link: link(9),
        peer: key(1),
        observed: "198.51.100.7:1".parse().unwrap(),
        token: token_of(link(9)),
    });
    world.say(9, ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(number) });
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
    while world.broker.may_introduce(world.now, By::Code, &key(1), &key(2)) {}
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
        world.say(1, ToBroker::Open { request: 0, verb: Verb::Listen, again: None });
        if let Some(FromBroker::Opened { number, .. }) = world.next(1) {
            opened += 1;
            world.say(1, ToBroker::Withdraw { number });
        }
    }
    assert_eq!(opened, OPENS_PER_ADDRESS.burst);
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
    for _ in 0..=MAX_RELAYED {
        world.say(2, relay(10));
    }
    assert_eq!(world.inbox[&link(1)].len(), usize::from(MAX_RELAYED), "few");
    world.inbox.clear();
    for _ in 0..10 {
        world.say(1, relay(MAX_HANDSHAKE));
    }
    assert_eq!(world.inbox[&link(2)].len(), MAX_RELAYED_BYTES / MAX_HANDSHAKE, "and fewer of the longest");
    world.inbox.clear();
    world.pass(INTRODUCTION_LIFE);
    world.say(1, relay(10));
    assert_eq!(world.next(2), None);
}

/// Bytes that their sender chose.
fn chosen(message: &FromBroker) -> usize {
    match message {
        FromBroker::Claimed { share, .. } => 32 + share.len(),
        FromBroker::Proof { share, handshake, .. } => 32 + share.len() + handshake.len(),
        FromBroker::Relayed { signal: Signal::Answer(bytes) | Signal::Sealed(bytes), .. } => bytes.len(),
        FromBroker::Introduced(introduction) => match &introduction.meeting {
            Met::LobbyWaiter { opener } => 32 + opener.len(),
            Met::CodeArriver { answer, .. } => answer.len(),
            Met::LobbyArriver { .. } | Met::CodeWaiter { .. } => 0,
        },
        FromBroker::ProfileOf { .. } => 3,
        FromBroker::Observed { .. } => 10,
        FromBroker::WrongWords { .. } => 1,
        _ => 0,
    }
}

/// Two that want to talk through the broker do all they can, with as many sessions as a broker lets
/// an address begin, each saying as much as a link may.
#[test]
fn signalling_is_no_way_to_move_data() {
    let mut world = World::new(Config { lobby: LOBBY_MEMBERS_MOST, ..Config::default() });
    let (left, right) = (public(1), public(2));
    let (mut to_left, mut to_right) = (0, 0);
    let mut n = 0;
    let mut lobby: VecDeque<LinkId> = VecDeque::new();
    let minutes = 20;
    for _ in 0..minutes * 60 {
        world.pass(Duration::from_secs(1));
        let [a, b] = [world.anyone(n, left), world.anyone(n + 1, right)];
        n += 2;
        let say = |link, message| Input::Message { link, message, round_trip: None };
        for link in [a, b] {
            let openers = vec![vec![0; MAX_HANDSHAKE]; 5];
            world.input(say(link, ToBroker::Join { connected: vec![], openers }));
        }
        for wrong in 0..4 {
            world.input(say(a, ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(n) }));
            for (link, message) in world.told() {
                let told = chosen(&message);
                if world.broker.links.get(&link).is_some_and(|link| link.observed.ip() == left) {
                    to_left += told;
                } else {
                    to_right += told;
                }
                match message {
                    FromBroker::Opened { number, .. } => {
                        world.input(say(a, ToBroker::Wait { number, share: vec![1; SHARE] }));
                        world.input(say(b, ToBroker::Claim { number, verb: Verb::Connect }));
                    }
                    FromBroker::Claimed { claim, .. } => {
                        let handshake = vec![0; MAX_HANDSHAKE];
                        world.input(say(b, ToBroker::Prove { claim, share: vec![1; SHARE], handshake }));
                    }
                    FromBroker::Proof { claim, .. } if wrong < 3 => {
                        world.input(say(a, ToBroker::Reject { claim, left: 9 }));
                    }
                    FromBroker::Proof { claim, .. } => {
                        world.input(say(a, ToBroker::Accept { claim, handshake: vec![0; MAX_HANDSHAKE] }));
                    }
                    FromBroker::Introduced(introduction) => {
                        for _ in 0..MAX_RELAYED {
                            let signal = Signal::Sealed(vec![0; MAX_HANDSHAKE]);
                            world.input(say(link, ToBroker::Relay { introduction: introduction.id, signal }));
                        }
                    }
                    _ => {}
                }
            }
        }
        lobby.extend([a, b]);
        while lobby.len() > 8 {
            let link = lobby.pop_front().unwrap();
            world.input(Input::LinkDown { link });
        }
    }
    let most =
        |of: Allowance| of.burst as usize + minutes as usize * 60_000_000 / of.every.as_micros() as usize;
    let most = most(SIGNALS_PER_ADDRESS) + OPENS_PER_ADDRESS.burst as usize * (32 + SHARE) * minutes as usize;
    assert!(to_left > 100_000 && to_right > 100_000, "they did get something through: {to_left}, {to_right}");
    assert!(to_left <= most && to_right <= most, "{to_left} and {to_right} bytes, {most} at most");
    assert!(most / minutes as usize <= 32 * 1024, "a minute, the burst shared out");
}

#[test]
fn one_session_has_less_to_say_than_its_address() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let mut passed = 0;
    while world.broker.may_signal(world.now, link(1), MAX_HANDSHAKE) {
        passed += MAX_HANDSHAKE;
    }
    assert!(passed <= SIGNALS_PER_SESSION.burst as usize);
    world.pass(Duration::from_secs(40));
    while world.broker.may_signal(world.now, link(1), 0) {
        passed += SIGNAL_OVERHEAD;
    }
    assert!(passed < SIGNALS_PER_SESSION.burst as usize + 4096, "4 KiB a minute");
}

/// Whatever became of a number, who asks for it hears the same, at once.
#[test]
fn numbers_that_lead_nowhere_are_all_alike() {
    let mut world = World::new(Config::default());
    for n in 1..=2 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    let reject = |world: &mut World, number, left| {
        let claim = world.claimed(2, number);
        world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
        world.say(1, ToBroker::Reject { claim, left });
    };
    let withdrawn = world.code(1);
    world.say(1, ToBroker::Withdraw { number: withdrawn });
    let burnt = world.code(1);
    reject(&mut world, burnt, 0);
    world.inbox.clear();
    let used = world.code(1);
    let claim = world.claimed(2, used);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
    world.say(1, ToBroker::Accept { claim, handshake: vec![] });
    world.inbox.clear();
    let expired = world.code(1);
    for _ in 0..=CODE_LIFE.as_secs() / 20 {
        world.pass(Duration::from_secs(20));
        world.say(1, ToBroker::Ping(1));
        world.say(2, ToBroker::Ping(1));
    }
    world.up(3, "198.51.100.3:1111");
    let lost = world.code(3);
    world.down(3);
    let never = (100..1000).find(|n| ![withdrawn, burnt, used, expired, lost].contains(n)).unwrap();
    for number in [never, withdrawn, burnt, used, expired, lost, 0, u32::MAX] {
        world.inbox.clear();
        let timers = world.broker.timers.len();
        for verb in [Verb::Connect, Verb::ChatJoin, Verb::Listen] {
            world.say(2, ToBroker::Claim { number, verb });
            let told: Vec<FromBroker> = world.inbox.remove(&link(2)).unwrap().into();
            let refusal = Refusal::NoSuchCode;
            assert_eq!(told, [FromBroker::Refused { about: About::Claim(number), refusal }]);
        }
        assert_eq!(world.told(), [], "nobody else hears of it");
        assert_eq!(world.broker.timers.len(), timers, "and nothing is left of it");
    }
}

#[test]
fn a_wrong_proof_is_answered_by_the_waiter_alone() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "203.0.113.2:2222");
    let number = world.code(1);
    for left in [2, 1, 0] {
        let claim = world.claimed(2, number);
        world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
        assert_eq!(world.next(2), None, "the broker can't tell right words from wrong ones");
        // A waiter that claims to count otherwise burns its code all the same.
        world.say(1, ToBroker::Reject { claim, left: 9 });
        assert_eq!(world.next(2), Some(FromBroker::WrongWords { claim, left }));
        world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    }
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(2), Some(Refusal::NoSuchCode));
}

#[test]
fn a_number_is_given_again_only_to_whose_it_was() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    let open = |again| ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(again) };
    let opened = |world: &mut World, n| match world.next(n) {
        Some(FromBroker::Opened { number, .. }) => number,
        other => panic!("{other:?}"),
    };
    // Just started, it can't know whose a number was.
    world.say(2, open(777));
    assert_eq!(opened(&mut world, 2), 777);
    let number = world.code(1);
    world.say(2, open(number));
    assert_ne!(opened(&mut world, 2), number, "in use");
    world.down(1);
    world.say(2, open(number));
    assert_ne!(opened(&mut world, 2), number, "kept for who lost its link");
    world.up(1, "198.51.100.1:1111");
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(2), Some(Refusal::NoSuchCode), "not before it is opened again");
    world.say(1, open(number));
    assert_eq!(opened(&mut world, 1), number);
    for _ in 0..=CODE_LIFE.as_secs() / 20 {
        world.pass(Duration::from_secs(20));
        world.say(2, ToBroker::Ping(1));
    }
    world.inbox.clear();
    world.say(2, open(778));
    assert_ne!(opened(&mut world, 2), 778, "by now it would know");
}

#[test]
fn observations_with_a_token_that_others_saw_are_limited() {
    let mut world = World::new(Config::default());
    let up = |link, address: &str| Input::LinkUp {
        link,
        peer: key(1),
        observed: address.parse().unwrap(),
        token: token_of(link),
    };
    world.input(up(link(1), "198.51.100.1:1"));
    let first = token_of(link(1));
    let from = "203.0.113.9:5555".parse().unwrap();
    let observe = |token: [u8; 8]| {
        let mut full = [5; 16];
        full[..8].copy_from_slice(&token);
        Input::Observation { token: full, from, knock_from: None }
    };
    for _ in 0..500 {
        world.input(observe(first));
    }
    assert_eq!(world.inbox[&link(1)].len(), OBSERVATIONS_PER_SESSION.burst as usize);
    world.input(up(link(2), "198.51.100.1:2"));
    world.pass(Duration::from_secs(30));
    world.input(observe(first));
    assert_eq!(world.next(2), None, "it ends with the link");
}

#[test]
fn links_that_come_and_go_leave_one_timer() {
    let mut world = World::new(Config::default());
    for n in 0..100 {
        let link = world.anyone(n, public(n));
        world.input(Input::LinkDown { link });
    }
    assert_eq!(world.broker.timers.len(), 1);
}

#[test]
fn introductions_are_bounded_and_the_oldest_ends_first() {
    let mut world = World::new(Config::default());
    world.up(1, "10.0.0.1:1111");
    world.up(2, "10.0.0.2:1111");
    let introduce = |world: &mut World| {
        let met = (Met::CodeWaiter { claim: 0 }, Met::CodeWaiter { claim: 0 });
        world.broker.introduce(world.now, (key(1), met.0), (key(2), met.1));
        world.drain();
        world.broker.introduced.back().copied().unwrap()
    };
    let first = introduce(&mut world);
    for _ in 1..INTRODUCTIONS_PER_SESSION {
        introduce(&mut world);
    }
    let relay = |introduction| ToBroker::Relay { introduction, signal: Signal::Sealed(vec![1]) };
    world.inbox.clear();
    world.say(1, relay(first));
    assert!(matches!(world.next(2), Some(FromBroker::Relayed { .. })));
    introduce(&mut world);
    world.inbox.clear();
    world.say(1, relay(first));
    assert_eq!(world.next(2), None);
    assert_eq!(world.broker.introductions.len(), INTRODUCTIONS_PER_SESSION);
}

#[test]
fn observations_reach_only_the_session_they_name() {
    let mut world = World::new(Config::default());
    world.input(Input::LinkUp {
        link: link(1),
        peer: key(1),
        observed: "198.51.100.1:1".parse().unwrap(),
        token: token_of(link(1)),
    });
    let token = token_of(link(1));
    let from = "198.51.100.1:5555".parse().unwrap();
    let mut full = [0; 16];
    full[..8].copy_from_slice(&token);
    full[8..].copy_from_slice(&[5; 8]);
    world.input(Input::Observation { token: full, from, knock_from: None });
    assert_eq!(world.next(1), Some(FromBroker::Observed { question: [5; 8], from }));
    full[0] ^= 1;
    world.input(Input::Observation { token: full, from, knock_from: None });
    assert_eq!(world.next(1), None);
}

#[test]
fn observations_that_come_before_their_link_wait_for_it() {
    let mut world = World::new(Config::default());
    let from = "203.0.113.9:5555".parse().unwrap();
    let observe = |token: [u8; 8], question: [u8; 8]| {
        let mut full = [0; 16];
        full[..8].copy_from_slice(&token);
        full[8..].copy_from_slice(&question);
        Input::Observation { token: full, from, knock_from: None }
    };
    for question in [[1; 8], [2; 8]] {
        world.input(observe(token_of(link(1)), question));
    }
    world.input(observe(token_of(link(2)), [3; 8]));
    world.up(1, "198.51.100.1:1111");
    for question in [[1; 8], [2; 8]] {
        assert_eq!(world.next(1), Some(FromBroker::Observed { question, from }));
    }
    assert_eq!(world.next(1), None);
    world.pass(EARLY_OBSERVATION_LIFE);
    world.up(2, "198.51.100.2:1111");
    assert_eq!(world.next(2), None, "too late");

    for n in 0..2 * EARLY_OBSERVATIONS as u64 {
        world.input(observe((n << 16).to_be_bytes(), [4; 8]));
    }
    world.input(observe(token_of(link(3)), [5; 8]));
    assert_eq!(world.broker.early.len(), EARLY_OBSERVATIONS);
    world.up(3, "198.51.100.3:1111");
    assert_eq!(world.next(3), Some(FromBroker::Observed { question: [5; 8], from }), "the oldest go");
    for n in 1..=3 {
        world.down(n);
    }
    world.pass(EARLY_OBSERVATION_LIFE);
    world.pass(Duration::from_secs(120));
    assert!(world.broker.is_empty());
}

#[test]
fn a_session_has_one_link_a_family() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let v6 = Input::LinkUp {
        link: link(2),
        peer: key(1),
        observed: "[2001:db8::1]:1111".parse().unwrap(),
        token: token_of(link(2)),
    };
    world.input(v6);
    assert!(world.closed.is_empty());
    let again = Input::LinkUp {
        link: link(3),
        peer: key(1),
        observed: "198.51.100.1:1111".parse().unwrap(),
        token: token_of(link(3)),
    };
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
    world.input(Input::LinkUp { link: link(3), peer: key(1), observed: late, token: token_of(link(3)) });
    assert!(matches!(world.next(2), Some(FromBroker::SeenAt { address, .. }) if address == late));
    world.input(Input::LinkUp { link: link(4), peer: key(1), observed: late, token: token_of(link(4)) });
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
    world.input(Input::LinkUp { link: link(9), peer: key(1), observed: moved, token: token_of(link(9)) });
    assert_eq!(world.closed, [link(1)]);
    assert_eq!(world.next(2), None, "what runs toward the old address is not told the new one");
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
    for _ in 0..JOINS_PER_ADDRESS.burst {
        world.say(1, join());
        assert!(matches!(world.next(1), Some(FromBroker::Joined { members: 0, introductions: 0, .. })));
    }
    world.say(1, join());
    assert_eq!(world.refusal(1), Some(Refusal::TooMany));
    assert_eq!(world.closed, [link(1)]);
    world.pass(JOINS_PER_ADDRESS.every);
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

/// An address a number, all public.
fn public(n: u32) -> IpAddr {
    IpAddr::V4((u32::from_be_bytes([11, 0, 0, 0]) + n).into())
}

#[test]
fn introductions_toward_one_address_are_limited() {
    let mut world = World::new(Config { lobby: 2, ..Config::default() });
    world.up(1, "198.51.100.1:1111");
    world.say(1, join());
    let mut introduced = 0;
    for n in 0..LOBBY_INTRODUCTIONS_PER_ADDRESS.burst + 20 {
        let id = world.anyone(n, public(n));
        world.input(Input::Message { link: id, message: join(), round_trip: None });
        let told = world.inbox.remove(&id).unwrap();
        introduced += told.iter().filter(|message| matches!(message, FromBroker::Introduced(_))).count();
        world.input(Input::LinkDown { link: id });
    }
    assert_eq!(introduced, LOBBY_INTRODUCTIONS_PER_ADDRESS.burst as usize);
    world.up(2, "203.0.113.2:2222");
    world.inbox.clear();
    let number = world.code(1);
    let claim = world.claimed(2, number);
    world.inbox.clear();
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![] });
    world.say(1, ToBroker::Accept { claim, handshake: vec![] });
    let told = &world.inbox[&link(2)];
    assert!(
        matches!(told[0], FromBroker::Introduced(_)),
        "strangers in the lobby take no code's introductions"
    );
}

#[test]
fn a_classroom_behind_one_address_meets_in_the_lobby_and_by_code_at_once() {
    let mut world = World::new(Config { lobby: LOBBY_MEMBERS_MOST, ..Config::default() });
    let school = public(1);
    let pupils: Vec<LinkId> = (0..30).map(|n| world.anyone(n, school)).collect();
    for link in &pupils {
        let openers = vec![vec![7; 34]; LOBBY_MEMBERS_MOST - 1];
        let message = ToBroker::Join { connected: vec![], openers };
        world.input(Input::Message { link: *link, message, round_trip: None });
    }
    let mut introduced = Vec::new();
    for (link, message) in world.told() {
        match message {
            FromBroker::Introduced(introduction) => introduced.push((link, introduction.id)),
            FromBroker::Refused { .. } => panic!("{message:?}"),
            _ => {}
        }
    }
    assert_eq!(introduced.len(), 30 * 29);
    for (link, introduction) in introduced {
        let message = ToBroker::Relay { introduction, signal: Signal::Answer(vec![0; 106]) };
        world.input(Input::Message { link, message, round_trip: None });
    }
    let relayed = |message: &&FromBroker| matches!(message, FromBroker::Relayed { .. });
    let relayed: usize = world.inbox.values().map(|inbox| inbox.iter().filter(relayed).count()).sum();
    assert_eq!(relayed, 30 * 29, "each side's answer reaches the other");
    world.inbox.clear();
    let mut codes = Vec::new();
    for link in &pupils[..15] {
        let message = ToBroker::Open { request: 0, verb: Verb::Listen, again: None };
        world.input(Input::Message { link: *link, message, round_trip: None });
        let Some(FromBroker::Opened { number, .. }) = world.inbox.get_mut(link).unwrap().pop_front() else {
            panic!()
        };
        let message = ToBroker::Wait { number, share: vec![1; SHARE] };
        world.input(Input::Message { link: *link, message, round_trip: None });
        codes.push(number);
    }
    for (arriver, number) in pupils[15..].iter().zip(codes) {
        let message = ToBroker::Claim { number, verb: Verb::Connect };
        world.input(Input::Message { link: *arriver, message, round_trip: None });
        let claimed = world.inbox.get_mut(arriver).unwrap().pop_front();
        let Some(FromBroker::Claimed { claim, .. }) = claimed else { panic!("{claimed:?}") };
        let message = ToBroker::Prove { claim, share: vec![1; SHARE], handshake: vec![0; 150] };
        world.input(Input::Message { link: *arriver, message, round_trip: None });
        let waiter = pupils[codes_at(&world, number)];
        let message = ToBroker::Accept { claim, handshake: vec![0; 150] };
        world.input(Input::Message { link: waiter, message, round_trip: None });
        let told = world.inbox.get_mut(arriver).unwrap().pop_front();
        assert!(matches!(told, Some(FromBroker::Introduced(_))), "{told:?}");
    }
}

/// Which of [`World::anyone`] owns the code.
fn codes_at(world: &World, number: u32) -> usize {
    let [a, b, c, d, ..] = world.broker.codes[&number].owner.0;
    u32::from_be_bytes([a, b, c, d]) as usize
}

#[test]
fn guessing_numbers_is_limited() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let mut answered = 0;
    for number in 0..200 {
        world.say(1, ToBroker::Claim { number: 100 + number, verb: Verb::Connect });
        answered += u32::from(world.refusal(1) == Some(Refusal::NoSuchCode));
    }
    assert_eq!(answered, CLAIMS_PER_ADDRESS.burst);
}

#[test]
fn asking_again_for_the_same_number_is_no_guess() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    for _ in 0..200 {
        world.say(1, ToBroker::Claim { number: 555, verb: Verb::Connect });
        assert_eq!(world.refusal(1), Some(Refusal::NoSuchCode));
    }
    assert_eq!(world.broker.misses.lately(world.now), 1);
}

#[test]
fn numbers_get_longer_while_somebody_guesses() {
    let mut world = World::new(Config::default());
    world.up(250, "192.0.2.250:1111");
    assert!(world.code(250) <= 999);
    for n in 0..50 {
        let guesser = world.anyone(n, public(n));
        for number in 0..CLAIMS_PER_ADDRESS.burst {
            let message = ToBroker::Claim { number: 1000 + number, verb: Verb::Connect };
            world.input(Input::Message { link: guesser, message, round_trip: None });
        }
    }
    let digits = |number: u32| number.to_string().len();
    let mut longest = (0..5).map(|_| digits(world.code(250))).max();
    assert!(longest >= Some(6), "3,000 misses ask for numbers out of 300,000");
    for n in 100..102 {
        world.pass(MISSES_COUNTED);
        let later = world.anyone(n, public(n));
        let message = ToBroker::Open { request: 0, verb: Verb::Listen, again: None };
        world.input(Input::Message { link: later, message, round_trip: None });
        let told = world.inbox.get_mut(&later).unwrap().pop_front();
        let Some(FromBroker::Opened { number, .. }) = told else { panic!("{told:?}") };
        longest = Some(digits(number));
    }
    assert_eq!(longest, Some(3));
}

#[test]
fn joins_are_limited_by_address() {
    let mut world = World::new(Config { lobby: 2, ..Config::default() });
    let mut joined = 0;
    for n in 0..JOINS_PER_ADDRESS.burst + 10 {
        let link = world.anyone(n, public(1));
        world.input(Input::Message { link, message: join(), round_trip: None });
        let told = world.inbox.get_mut(&link).unwrap().pop_front();
        joined += u32::from(matches!(told, Some(FromBroker::Joined { .. })));
        world.input(Input::LinkDown { link });
    }
    assert_eq!(joined, JOINS_PER_ADDRESS.burst);
    assert_eq!(world.closed.len(), 10, "told, and closed");
}

#[test]
fn one_address_cannot_fill_the_lobby() {
    let mut world = World::new(Config::default());
    let mut joined = 0;
    for n in 0..LOBBY_MEMBERS as u32 {
        let link = world.anyone(n, public(1));
        world.input(Input::Message { link, message: join(), round_trip: None });
        joined += usize::from(world.broker.lobby.len() > joined);
    }
    assert_eq!(joined, LOBBY_MEMBERS - 1);
    world.up(250, "192.0.2.250:1111");
    world.say(250, join());
    assert!(matches!(world.next(250), Some(FromBroker::Joined { .. })));
}

#[test]
fn codes_of_one_address_are_limited() {
    let mut world = World::new(Config::default());
    let mut refused = 0;
    for n in 0..CODES_PER_ADDRESS as u32 + 10 {
        // Not too fast for the rate, and with a link that stays.
        world.pass(OPENS_PER_ADDRESS.every);
        let link = world.anyone(n, public(1));
        let message = ToBroker::Open { request: 0, verb: Verb::Listen, again: None };
        world.input(Input::Message { link, message, round_trip: None });
        let told = world.inbox.get_mut(&link).unwrap().pop_front();
        refused += u32::from(matches!(told, Some(FromBroker::Refused { refusal: Refusal::TooMany, .. })));
    }
    assert_eq!(world.broker.codes.len(), CODES_PER_ADDRESS);
    assert_eq!(refused, 10);
}

#[test]
fn full_tables_make_place_for_who_has_less_than_its_share() {
    let mut world = World::new(Config::default());
    let greedy = public(1);
    for n in 0..BROKER_LINKS_PER_ADDRESS as u32 {
        world.anyone(n, greedy);
    }
    let mut n = 1000;
    while world.broker.links() < BROKER_LINKS {
        world.anyone(n, public(n / FAIR_SHARE as u32));
        n += 1;
    }
    world.inbox.clear();
    let newest = LinkId(10_000 + BROKER_LINKS_PER_ADDRESS as u64 - 1);
    world.up(1, "192.0.2.1:1111");
    assert_eq!(world.closed, [newest]);
    assert!(matches!(
        world.inbox[&newest][0],
        FromBroker::Refused { about: About::Link, refusal: Refusal::Full }
    ));
    world.closed.clear();
    world.anyone(n, public(2000 / FAIR_SHARE as u32));
    assert_eq!(world.closed, [LinkId(10_000 + u64::from(n))], "who has its share makes nobody go");
}

#[test]
fn a_full_table_of_codes_makes_place_for_who_has_none() {
    let mut world = World::new(Config::default());
    let mut n = 0;
    let open = ToBroker::Open { request: 0, verb: Verb::Listen, again: None };
    while world.broker.codes.len() < BROKER_CODES {
        let link = world.anyone(n, public(n / 4));
        for _ in 0..CODES_PER_SESSION {
            world.input(Input::Message { link, message: open.clone(), round_trip: None });
        }
        n += 1;
    }
    world.inbox.clear();
    world.up(250, "192.0.2.250:1111");
    world.code(250);
    let expired = |message: &FromBroker| matches!(message, FromBroker::Expired { .. });
    assert_eq!(world.inbox.values().flatten().filter(|message| expired(message)).count(), 1);
    assert_eq!(world.broker.codes.len(), BROKER_CODES);
}

#[test]
fn one_address_cannot_take_all_links() {
    let mut world = World::new(Config::default());
    for n in 0..BROKER_LINKS_PER_ADDRESS as u64 + 5 {
        let mut peer = [0; 32];
        peer[..8].copy_from_slice(&n.to_be_bytes());
        let observed = "[2001:db8::1]:1111".parse().unwrap();
        world.input(Input::LinkUp {
            link: LinkId(n),
            peer: PublicKey(peer),
            observed,
            token: token_of(LinkId(n)),
        });
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
        Just(ToBroker::Open { request: 0, verb: Verb::Listen, again: None }),
        (100u32..110).prop_map(|n| ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(n) }),
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
                    let input = Input::LinkUp { link: *own, peer: key(n), observed: format!("198.51.100.{n}:1111").parse().unwrap(), token: token_of(*own) };
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
