//! Bounds at their very ends, who is told what, and what is left when somebody goes.

use super::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn far_key(n: u32) -> PublicKey {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey(key)
}

/// The n-th of many peers, each with an address of its own.
fn far_up(world: &mut World, n: u32) -> LinkId {
    let link = LinkId(10_000 + u64::from(n));
    let observed = SocketAddr::new(IpAddr::V4((0x0b00_0000 + n).into()), 2000);
    world.input(Input::LinkUp { link, peer: far_key(n), observed, token: token_of(link) });
    link
}

fn say(world: &mut World, link: LinkId, message: ToBroker) -> Vec<FromBroker> {
    world.inbox.remove(&link);
    world.input(Input::Message { link, message, round_trip: None });
    world.inbox.remove(&link).unwrap_or_default().into()
}

fn open() -> ToBroker {
    ToBroker::Open { request: 0, verb: Verb::Listen, again: None }
}

fn profile(translated: bool) -> ToBroker {
    ToBroker::Profile(NatProfile { translated: Some(translated), ..NatProfile::default() })
}

/// Two in the lobby that were introduced, and a third peer that was not.
fn introduced() -> (World, IntroductionId) {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    world.say(1, join());
    world.say(2, join());
    world.next(2);
    let Some(FromBroker::Introduced(Introduction { id, .. })) = world.next(2) else { panic!() };
    world.inbox.clear();
    (world, id)
}

/// A code of peer 1 that peer 2 has claimed.
fn claimed() -> (World, u32, ClaimId) {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    let number = world.code(1);
    let claim = world.claimed(2, number);
    world.inbox.clear();
    (world, number, claim)
}

fn prove(claim: ClaimId) -> ToBroker {
    ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![3; 48] }
}

#[test]
fn a_change_of_either_side_reaches_the_other_and_nobody_elses_does() {
    let (mut world, id) = introduced();
    world.say(3, profile(true));
    world.input(Input::LinkUp {
        link: link(30),
        peer: key(3),
        observed: "[2001:db8::3]:1".parse().unwrap(),
        token: token_of(link(30)),
    });
    assert_eq!((world.next(1), world.next(2)), (None, None), "a stranger's");
    for (from, to) in [(1, 2), (2, 1)] {
        world.say(from, profile(true));
        let told = world.next(to);
        assert!(matches!(told, Some(FromBroker::ProfileOf { introduction, .. }) if introduction == id));
        let late = format!("[2001:db8::{from}]:1111").parse().unwrap();
        world.input(Input::LinkUp {
            link: link(10 + from),
            peer: key(from),
            observed: late,
            token: token_of(link(10 + from)),
        });
        assert_eq!(world.next(to), Some(FromBroker::SeenAt { introduction: id, address: late }));
        assert_eq!(world.next(from), None);
    }
}

#[test]
fn an_introduction_tells_so_many_addresses_and_no_more() {
    let (mut world, _) = introduced();
    for n in 0..40 {
        // The second family comes and goes.
        let observed = format!("[2001:db8:{n}::1]:1111").parse().unwrap();
        world.input(Input::LinkUp {
            link: link(100 + n),
            peer: key(1),
            observed,
            token: token_of(link(100 + n)),
        });
        world.input(Input::LinkDown { link: link(100 + n) });
    }
    // Two were told with the introduction.
    assert_eq!(world.inbox[&link(2)].len(), 2 * MAX_OBSERVED - 2);
}

#[test]
fn what_an_introduction_relays_is_counted_by_side_up_to_its_bound() {
    let (mut world, id) = introduced();
    let relay = ToBroker::Relay { introduction: id, signal: Signal::Answer(vec![0; 48]) };
    world.say(3, relay.clone());
    assert_eq!((world.next(1), world.next(2)), (None, None), "a stranger relays nothing");
    for (from, to) in [(1, 2), (2, 1)] {
        for _ in 0..MAX_RELAYED {
            world.say(from, relay.clone());
            assert!(matches!(world.next(to), Some(FromBroker::Relayed { .. })));
        }
        world.say(from, relay.clone());
        assert_eq!(world.next(to), None);
    }
}

#[test]
fn an_introduction_relays_to_the_end_of_its_life() {
    let (mut world, id) = introduced();
    world.pass(INTRODUCTION_LIFE - MS);
    let relay = ToBroker::Relay { introduction: id, signal: Signal::Answer(vec![0; 8]) };
    world.say(1, relay.clone());
    assert!(matches!(world.next(2), Some(FromBroker::Relayed { .. })));
    world.pass(MS);
    world.say(1, relay);
    assert_eq!(world.next(2), None);
}

#[test]
fn a_broker_that_still_knows_an_introduction_is_not_empty() {
    let (mut world, _) = introduced();
    assert!(!world.broker.is_empty());
    for n in 1..=3 {
        world.down(n);
    }
    assert!(!world.broker.is_empty());
    world.pass(INTRODUCTION_LIFE);
    assert!(world.broker.is_empty());
}

#[test]
fn a_link_that_cannot_be_had_is_told_why() {
    let mut world = World::new(Config::default());
    for n in 0..BROKER_LINKS_PER_ADDRESS as u64 + 1 {
        let observed = "198.51.100.1:1111".parse().unwrap();
        world.input(Input::LinkUp {
            link: LinkId(n),
            peer: far_key(n as u32),
            observed,
            token: token_of(LinkId(n)),
        });
    }
    let crowded = LinkId(BROKER_LINKS_PER_ADDRESS as u64);
    let refused = |refusal| Some(FromBroker::Refused { about: About::Link, refusal });
    assert_eq!(world.inbox.get_mut(&crowded).unwrap().pop_front(), refused(Refusal::TooMany));
    world.input(Input::LinkDown { link: LinkId(5) });
    let again = LinkId(9_999);
    let observed = "198.51.100.1:1112".parse().unwrap();
    world.input(Input::LinkUp { link: again, peer: key(7), observed, token: token_of(again) });
    assert!(!world.inbox.contains_key(&again) && !world.closed.contains(&again), "one has gone");

    let mut full = World::new(Config::default());
    for n in 0..BROKER_LINKS as u32 {
        far_up(&mut full, n);
    }
    assert_eq!(full.broker.links(), BROKER_LINKS);
    let one_more = far_up(&mut full, BROKER_LINKS as u32);
    assert_eq!(full.inbox.get_mut(&one_more).unwrap().pop_front(), refused(Refusal::Full));
    assert_eq!(full.closed, [one_more]);
}

#[test]
fn a_session_lives_as_long_as_one_of_its_links() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    world.input(Input::LinkUp {
        link: link(11),
        peer: key(1),
        observed: "[2001:db8::1]:1".parse().unwrap(),
        token: token_of(link(11)),
    });
    let number = world.code(1);
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    world.down(1);
    assert_eq!(world.next(2), None, "it is still there");
    world.claimed(2, number);
    world.input(Input::LinkDown { link: link(11) });
    let told: Vec<FromBroker> = world.inbox.remove(&link(2)).unwrap().into();
    assert!(told.contains(&FromBroker::Left { peer: key(1) }));
    let gone = FromBroker::Refused { about: About::Claim(number), refusal: Refusal::NoSuchCode };
    assert!(told.contains(&gone), "who waits for a code that went hears of it");
}

#[test]
fn an_operator_hears_of_peers_and_introductions_once() {
    let mut broker = Rendezvous::new(Config::default(), ChaCha20Rng::seed_from_u64(1));
    let now = Instant::now();
    let seen: [SocketAddr; 2] = ["198.51.100.1:1".parse().unwrap(), "198.51.100.2:1".parse().unwrap()];
    let also: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
    for (n, at) in [(1, seen[0]), (2, seen[1])] {
        broker.handle(
            now,
            Input::LinkUp { link: link(n), peer: key(n), observed: at, token: token_of(link(n)) },
        );
    }
    broker
        .handle(now, Input::LinkUp { link: link(3), peer: key(1), observed: also, token: token_of(link(3)) });
    for n in [1, 2] {
        broker.handle(now, Input::Message { link: link(n), message: join(), round_trip: None });
    }
    for n in [3, 1, 2] {
        broker.handle(now, Input::LinkDown { link: link(n) });
    }
    let mut events = Vec::new();
    loop {
        match broker.poll(now) {
            Output::Event(event) => events.push(event),
            Output::Wait(_) => break,
            Output::Send { .. } | Output::Close { .. } | Output::Knock { .. } => {}
        }
    }
    let expected = [
        Event::Registered { peer: key(1), observed: seen[0] },
        Event::Registered { peer: key(2), observed: seen[1] },
        Event::Introduced { arriver: (key(2), vec![seen[1]]), waiter: (key(1), vec![seen[0], also]) },
        Event::Go { arriver: key(2), waiter: key(1) },
        Event::Left { peer: key(1) },
        Event::Left { peer: key(2) },
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_silent_link_is_closed_after_its_time_and_one_that_speaks_is_not() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    world.pass(LINK_DEAD_AFTER - S);
    world.say(2, ToBroker::Pong(1));
    assert!(world.closed.is_empty());
    world.pass(SWEEP_EVERY + S);
    assert_eq!(world.closed, [link(1)]);
    world.pass(LINK_DEAD_AFTER + SWEEP_EVERY);
    assert_eq!(world.closed, [link(1), link(2)]);
}

#[test]
fn pings_are_answered_on_their_own_link() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    world.say(2, ToBroker::Ping(77));
    assert_eq!((world.next(1), world.next(2)), (None, Some(FromBroker::Pong(77))));
}

#[test]
fn a_long_opener_introduces_nobody() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    world.say(1, join());
    world.say(2, join());
    world.inbox.clear();
    let openers = vec![vec![7; MAX_HANDSHAKE + 1], vec![8; MAX_HANDSHAKE]];
    world.say(3, ToBroker::Join { connected: vec![], openers });
    assert_eq!(world.next(1), None);
    let Some(FromBroker::Introduced(told)) = world.next(2) else { panic!() };
    assert_eq!(told.meeting, Met::LobbyWaiter { opener: vec![8; MAX_HANDSHAKE] });
    world.next(3);
    let Some(FromBroker::Introduced(told)) = world.next(3) else { panic!() };
    assert_eq!(told.meeting, Met::LobbyArriver { opener: 1 });
}

#[test]
fn a_session_has_so_many_codes_and_all_sessions_together() {
    let mut world = World::new(Config::default());
    let one = far_up(&mut world, 0);
    for _ in 0..CODES_PER_SESSION {
        assert!(matches!(say(&mut world, one, open())[..], [FromBroker::Opened { expires_s: 600, .. }]));
    }
    let refused = |refusal| [FromBroker::Refused { about: About::Open(0), refusal }];
    assert_eq!(say(&mut world, one, open()), refused(Refusal::TooMany));
    for n in 1..(BROKER_CODES / CODES_PER_SESSION) as u32 {
        let link = far_up(&mut world, n);
        for _ in 0..CODES_PER_SESSION {
            assert!(matches!(say(&mut world, link, open())[..], [FromBroker::Opened { .. }]));
        }
    }
    let late = far_up(&mut world, 100_000);
    assert!(matches!(say(&mut world, late, open())[..], [FromBroker::Opened { .. }]), "another makes place");
    assert_eq!(world.broker.codes.len(), BROKER_CODES);
}

#[test]
fn numbers_get_longer_before_a_guess_meets_one_in_a_hundred() {
    let mut world = World::new(Config::default());
    let mut live = 0;
    let drawn = |world: &mut World| {
        let numbers: Vec<u32> = (0..500).map(|_| world.broker.free_number(world.now)).collect();
        (*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap())
    };
    for (codes, longest) in [(0, 999), (7, 999), (8, 9_999), (97, 9_999), (99, 99_999)] {
        while live < codes {
            let link = far_up(&mut world, live);
            say(&mut world, link, open());
            live += 1;
        }
        let (least, most) = drawn(&mut world);
        assert!(least >= NUMBER_FIRST, "{least}");
        assert!((longest / 2..=longest).contains(&most), "{codes} codes: {most}");
    }
}

#[test]
fn a_number_that_is_no_codes_or_anothers_is_not_given_again() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    let taken = world.code(1);
    for (again, given) in
        [(99, false), (taken, false), (NUMBER_LAST + 1, false), (100, true), (NUMBER_LAST, true)]
    {
        world.say(2, ToBroker::Open { request: 0, verb: Verb::Listen, again: Some(again) });
        let Some(FromBroker::Opened { number, .. }) = world.next(2) else { panic!() };
        assert_eq!(number == again, given, "{again}");
    }
    world.claimed(2, taken);
}

#[test]
fn a_share_is_taken_from_who_opened_the_code_once_and_whole() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    world.say(1, open());
    let Some(FromBroker::Opened { number, .. }) = world.next(1) else { panic!() };
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE - 1] });
    world.say(3, ToBroker::Wait { number, share: vec![3; SHARE] });
    assert_eq!(world.next(2), None);
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    let Some(FromBroker::Claimed { claim, share, .. }) = world.next(2) else { panic!() };
    assert_eq!(share, vec![1; SHARE]);
    world.say(1, ToBroker::Wait { number, share: vec![5; SHARE] });
    world.say(3, ToBroker::Claim { number, verb: Verb::Connect });
    assert!(matches!(world.next(3), Some(FromBroker::Claimed { share, .. }) if share == vec![1; SHARE]));
    world.say(2, prove(claim));
    world.say(1, ToBroker::Wait { number, share: vec![6; SHARE] });
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.next(2), None, "no share is out while a proof is checked");
}

#[test]
fn a_proof_for_a_share_that_was_used_up_gets_the_fresh_one() {
    let (mut world, number, claim) = claimed();
    let late = world.claimed(3, number);
    world.say(2, prove(claim));
    world.next(1);
    world.say(1, ToBroker::Reject { claim, left: 2 });
    world.say(1, ToBroker::Wait { number, share: vec![9; SHARE] });
    world.say(3, prove(late));
    assert_eq!(world.next(1), None, "it would count as a wrong guess");
    let fresh = FromBroker::Claimed { number, claim: late, waiter: key(1), share: vec![9; SHARE] };
    assert_eq!(world.next(3), Some(fresh));
}

#[test]
fn a_code_is_not_withdrawn_by_others() {
    let (mut world, number, _) = claimed();
    world.say(3, ToBroker::Withdraw { number });
    world.claimed(3, number);
    world.say(1, ToBroker::Withdraw { number });
    let gone = FromBroker::Refused { about: About::Claim(number), refusal: Refusal::NoSuchCode };
    assert_eq!((world.next(2), world.next(3)), (Some(gone.clone()), Some(gone)));
}

#[test]
fn nobody_claims_the_own_code() {
    let (mut world, number, _) = claimed();
    world.say(1, ToBroker::Claim { number, verb: Verb::Connect });
    assert_eq!(world.refusal(1), Some(Refusal::OutOfOrder));
}

#[test]
fn so_many_claims_wait_for_a_share() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.say(1, open());
    let Some(FromBroker::Opened { number, .. }) = world.next(1) else { panic!() };
    let claim = ToBroker::Claim { number, verb: Verb::Connect };
    let waiting: Vec<LinkId> = (0..CLAIMS_PER_CODE as u32).map(|n| far_up(&mut world, n)).collect();
    for link in &waiting {
        assert!(say(&mut world, *link, claim.clone()).is_empty());
    }
    let too_many = [FromBroker::Refused { about: About::Claim(number), refusal: Refusal::TooMany }];
    let late = far_up(&mut world, 100);
    assert_eq!(say(&mut world, late, claim.clone()), too_many);
    // When their time is over there is room again.
    world.pass(CLAIM_LIFE);
    for _ in 0..=CLAIMS_PER_CODE {
        assert!(say(&mut world, late, claim.clone()).is_empty(), "each takes the place of the one before");
    }
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    assert_eq!(world.inbox[&late].len(), 1);
}

#[test]
fn so_many_claims_a_session_has() {
    let mut world = World::new(Config::default());
    let owners = 1..=u8::try_from(CLAIMS_PER_CODE + 1).unwrap();
    let opened = owners.clone().map(|n| {
        world.up(n, &format!("198.51.100.{n}:1111"));
        world.say(n, open());
        let Some(FromBroker::Opened { number, .. }) = world.next(n) else { panic!() };
        number
    });
    let numbers: Vec<u32> = opened.collect();
    let claim = |number: &u32| ToBroker::Claim { number: *number, verb: Verb::Connect };
    let late = far_up(&mut world, 100);
    let (last, first) = numbers.split_last().unwrap();
    for number in first {
        assert!(say(&mut world, late, claim(number)).is_empty());
    }
    let too_many = [FromBroker::Refused { about: About::Claim(*last), refusal: Refusal::TooMany }];
    assert_eq!(say(&mut world, late, claim(last)), too_many);
    for (n, number) in owners.zip(&numbers) {
        world.say(n, ToBroker::Wait { number: *number, share: vec![1; SHARE] });
    }
    assert_eq!(world.inbox[&late].len(), CLAIMS_PER_CODE);
    assert_eq!(say(&mut world, late, claim(last)), too_many, "they still count");
}

#[test]
fn who_still_waits_for_a_share_gets_it_though_anothers_time_is_over() {
    let mut world = World::new(Config::default());
    for n in 1..=3 {
        world.up(n, &format!("198.51.100.{n}:1111"));
    }
    world.say(1, open());
    let Some(FromBroker::Opened { number, .. }) = world.next(1) else { panic!() };
    world.say(2, ToBroker::Claim { number, verb: Verb::Connect });
    world.pass(CLAIM_LIFE / 2);
    world.say(3, ToBroker::Claim { number, verb: Verb::Connect });
    world.pass(CLAIM_LIFE / 2);
    world.say(1, ToBroker::Wait { number, share: vec![1; SHARE] });
    assert_eq!(world.next(2), None);
    assert!(matches!(world.next(3), Some(FromBroker::Claimed { .. })));
}

#[test]
fn a_claim_can_be_proven_as_long_as_it_lives() {
    let (mut world, _, claim) = claimed();
    world.pass(CLAIM_LIFE - MS);
    world.say(2, prove(claim));
    assert!(matches!(world.next(1), Some(FromBroker::Proof { .. })));
    let (mut world, _, claim) = claimed();
    world.pass(CLAIM_LIFE);
    world.say(2, prove(claim));
    assert_eq!(world.refusal(2), Some(Refusal::NoSuchCode));
    assert_eq!(world.next(1), None);
}

#[test]
fn who_leaves_takes_the_own_claims_along_and_no_others() {
    let (mut world, number, claim) = claimed();
    let other = world.claimed(3, number);
    world.down(3);
    world.say(2, prove(claim));
    assert!(matches!(world.next(1), Some(FromBroker::Proof { .. })));
    assert!(!world.broker.claims.contains_key(&other));
}

#[test]
fn a_proof_comes_from_who_claimed_and_has_its_form() {
    let (mut world, _, claim) = claimed();
    world.say(3, prove(claim));
    assert_eq!(world.refusal(3), Some(Refusal::NoSuchCode));
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE + 1], handshake: vec![] });
    assert_eq!(world.refusal(2), Some(Refusal::OutOfOrder));
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![3; MAX_HANDSHAKE + 1] });
    assert_eq!(world.refusal(2), Some(Refusal::OutOfOrder));
    assert_eq!(world.next(1), None);
    world.say(2, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![3; MAX_HANDSHAKE] });
    assert!(matches!(world.next(1), Some(FromBroker::Proof { .. })));
}

#[test]
fn only_who_opened_a_code_judges_a_proof() {
    for message in [
        |claim| ToBroker::Accept { claim, handshake: vec![4; 48] },
        |claim| ToBroker::Reject { claim, left: 0 },
    ] {
        let (mut world, _, claim) = claimed();
        world.say(1, message(claim));
        assert_eq!((world.next(1), world.next(2)), (None, None), "before there is a proof");
        world.say(2, prove(claim));
        world.next(1);
        world.say(3, message(claim));
        world.say(2, message(claim));
        world.say(1, message(claim + 1));
        assert_eq!((world.next(1), world.next(2), world.next(3)), (None, None, None));
        world.say(1, message(claim));
        assert!(world.next(2).is_some());
    }
}

#[test]
fn an_answer_has_its_bound() {
    for (length, introduced) in [(MAX_HANDSHAKE, true), (MAX_HANDSHAKE + 1, false)] {
        let (mut world, _, claim) = claimed();
        world.say(2, prove(claim));
        world.next(1);
        world.say(1, ToBroker::Accept { claim, handshake: vec![4; length] });
        assert_eq!(matches!(world.next(2), Some(FromBroker::Introduced(_))), introduced);
        assert_eq!(world.next(1) == Some(FromBroker::Gone { claim }), !introduced);
    }
}

#[test]
fn a_wrong_guess_frees_the_place_of_its_claim() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    for _ in 0..2 * CLAIMS_PER_CODE {
        let number = world.code(1);
        let claim = world.claimed(2, number);
        world.say(2, prove(claim));
        world.next(1);
        world.say(1, ToBroker::Reject { claim, left: 1 });
        assert!(matches!(world.next(2), Some(FromBroker::WrongWords { left: 1, .. })));
    }
}

#[test]
fn a_code_expires_at_its_time() {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    let number = world.code(1);
    let mut passed = Duration::ZERO;
    while passed < CODE_LIFE - MS {
        let step = (20 * S).min(CODE_LIFE - MS - passed);
        world.pass(step);
        passed += step;
        world.say(1, ToBroker::Pong(1));
    }
    assert_eq!(world.next(1), None);
    world.pass(MS);
    assert_eq!(world.next(1), Some(FromBroker::Expired { number }));
}

/// Introduces 2 to 1, which are so far from the broker; when each hears Go, and the bound they are told.
fn went(near: Option<Duration>, far: Option<Duration>) -> ([Duration; 2], u32) {
    let mut world = World::new(Config::default());
    world.up(1, "198.51.100.1:1111");
    world.up(2, "198.51.100.2:1111");
    world.say_after(1, join(), near);
    world.say_after(2, join(), far);
    world.next(2);
    let Some(FromBroker::Introduced(told)) = world.next(2) else { panic!() };
    let start = world.now;
    let heard = [1, 2].map(|n| {
        let go = |world: &World| {
            world.inbox[&link(n)].iter().any(|message| matches!(message, FromBroker::Go { .. }))
        };
        while !go(&world) {
            world.pass(MS);
            assert!(world.now - start < S, "Go is lost");
        }
        world.now - start
    });
    (heard, told.round_trip_bound_us)
}

#[test]
fn the_nearer_side_hears_later_and_both_learn_how_far_they_may_be() {
    assert_eq!(went(Some(70 * MS), Some(10 * MS)), ([Duration::ZERO, 30 * MS], 80_000));
    assert_eq!(went(Some(50 * MS), Some(50 * MS)), ([Duration::ZERO, Duration::ZERO], 100_000));
    assert_eq!(went(Some(20 * MS), None), ([(UNKNOWN_ROUND_TRIP - 20 * MS) / 2; 2], 120_000));
    assert_eq!(went(Some(Duration::ZERO), Some(5 * S)), ([GO_DELAY_MOST; 2], 5_000_000));
}

#[test]
fn private_addresses_are_introduced_without_a_limit_and_public_ones_count_on_both_sides() {
    let mut world = World::new(Config::default());
    world.up(1, "192.168.1.1:1111");
    world.up(2, "192.168.1.2:1111");
    world.up(3, "198.51.100.3:1111");
    let most = INTRODUCTIONS_PER_ADDRESS.burst;
    for _ in 0..2 * most {
        assert!(world.broker.may_introduce(world.now, By::Code, &key(1), &key(2)));
    }
    for _ in 0..most {
        assert!(world.broker.may_introduce(world.now, By::Code, &key(1), &key(3)));
    }
    assert!(!world.broker.may_introduce(world.now, By::Code, &key(1), &key(3)));
    assert!(!world.broker.may_introduce(world.now, By::Code, &key(3), &key(1)));
    world.pass(INTRODUCTIONS_PER_ADDRESS.every);
    assert!(world.broker.may_introduce(world.now, By::Code, &key(3), &key(1)));
    world.up(4, "198.51.100.3:1112");
    for _ in 0..2 * most {
        assert!(world.broker.may_introduce(world.now, By::Code, &key(3), &key(4)), "they fire at themselves");
    }
}

#[test]
fn the_address_beside_the_broker_is_told_to_those_outside_alone() {
    let public: IpAddr = "203.0.113.9".parse().unwrap();
    for (addresses, told) in [
        (["127.0.0.1:1", "198.51.100.2:1"], [false, true]),
        (["198.51.100.2:1", "192.168.1.2:1"], [true, false]),
        (["192.168.1.1:1", "192.168.1.2:1"], [false, false]),
        (["198.51.100.1:1", "198.51.100.2:1"], [false, false]),
    ] {
        let mut world = World::new(Config { public: vec![public], ..Config::default() });
        world.up(1, addresses[0]);
        world.up(2, addresses[1]);
        world.say(1, join());
        world.say(2, join());
        let found = [1, 2].map(|n| {
            world.inbox[&link(n)]
                .iter()
                .any(|message| matches!(message, FromBroker::Introduced(told) if told.public == [public]))
        });
        assert_eq!(found, told, "{addresses:?}");
    }
}

#[test]
fn proofs_of_one_address_are_limited_in_number_and_in_bytes() {
    let bytes = SIGNALS_PER_SESSION.burst as usize / (SHARE + MAX_HANDSHAKE + SIGNAL_OVERHEAD);
    for (length, most) in [(48, PROOFS_PER_ADDRESS.burst as usize), (MAX_HANDSHAKE, bytes)] {
        let mut world = World::new(Config::default());
        for n in 1..=5 {
            world.up(n, &format!("198.51.100.{n}:1111"));
        }
        let mut proven = 0;
        // Two wrong proofs burn no code, and asking for it once more is no guess.
        'codes: for code in 0..4 * CODES_PER_SESSION as u8 {
            let owner = 1 + code % 4;
            let number = world.code(owner);
            for _ in 0..2 {
                let claim = world.claimed(5, number);
                world.say(5, ToBroker::Prove { claim, share: vec![2; SHARE], handshake: vec![3; length] });
                match world.next(owner) {
                    Some(FromBroker::Proof { .. }) => proven += 1,
                    told => {
                        assert_eq!((told, world.refusal(5)), (None, Some(Refusal::TooMany)));
                        break 'codes;
                    }
                }
                world.say(owner, ToBroker::Reject { claim, left: 1 });
                world.say(owner, ToBroker::Wait { number, share: vec![1; SHARE] });
                world.inbox.clear();
            }
        }
        assert_eq!(proven, most, "{length}");
    }
}

#[test]
fn a_profile_is_told_within_what_a_session_may_have_passed_on() {
    let (mut world, id) = introduced();
    world.say(1, profile(true));
    assert!(matches!(world.next(2), Some(FromBroker::ProfileOf { introduction, .. }) if introduction == id));
    let used = SIGNALS_PER_SESSION.burst - SIGNAL_OVERHEAD as u32;
    let session = world.broker.sessions.get_mut(&key(1)).unwrap();
    assert!(session.signals.take(world.now, SIGNALS_PER_SESSION, used));
    world.say(1, profile(false));
    assert_eq!(world.next(2), None);
}
