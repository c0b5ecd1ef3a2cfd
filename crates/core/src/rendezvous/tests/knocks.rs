//! The broker connects back to where an observation came from: to nowhere else, and not too often.

use super::*;
use crate::limits::KNOCK_AGAIN_AFTER;
use crate::wire::KnockAnswer;

const QUESTION: [u8; 8] = [5; 8];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn with_second() -> Config {
    let beside = Probe { ip: None, port: 7767 };
    let second = Probe { ip: Some(ip("203.0.113.2")), port: 7767 };
    Config { probes: vec![beside, second], ..Config::default() }
}

impl World {
    fn token_after(&mut self, n: u8, address: &str) -> [u8; 8] {
        self.input(Input::LinkUp {
            link: link(n),
            peer: key(n),
            observed: address.parse().unwrap(),
            token: token_of(link(n)),
        });
        token_of(link(n))
    }

    fn observe(&mut self, token: [u8; 8], from: &str) -> usize {
        let mut full = [0; 16];
        full[..8].copy_from_slice(&token);
        full[8..].copy_from_slice(&QUESTION);
        let before = self.knocks.len();
        let from = from.parse().unwrap();
        let dialled = Some(ip("203.0.113.1"));
        self.input(Input::Observation { token: full, from, knock_from: dialled });
        self.knocks.len() - before
    }
}

#[test]
fn it_knocks_where_the_observation_came_from_and_tells_what_came_of_it() {
    let mut world = World::new(with_second());
    let token = world.token_after(1, "198.51.100.1:1111");
    assert_eq!(world.observe(token, "198.51.100.1:5555"), 2);
    let to: SocketAddr = "198.51.100.1:5555".parse().unwrap();
    assert_eq!(world.next(1), Some(FromBroker::Observed { question: QUESTION, from: to }));
    let knocks = world.knocks.clone();
    let from: Vec<(IpAddr, SocketAddr)> = knocks.iter().map(|(_, from, to)| (*from, *to)).collect();
    assert_eq!(from, [(ip("203.0.113.2"), to), (ip("203.0.113.1"), to)]);
    for ((knock, ..), answer) in knocks.iter().zip([KnockAnswer::Refused, KnockAnswer::Accepted]) {
        world.input(Input::Knocked { knock: *knock, answer: Some(answer) });
    }
    let knocked = |elsewhere, answer| Some(FromBroker::Knocked { question: QUESTION, elsewhere, answer });
    assert_eq!(world.next(1), knocked(true, KnockAnswer::Refused));
    assert_eq!(world.next(1), knocked(false, KnockAnswer::Accepted));
    world.input(Input::Knocked { knock: knocks[0].0, answer: Some(KnockAnswer::Accepted) });
    assert_eq!(world.next(1), None, "a knock is answered once");
}

#[test]
fn what_is_not_answered_at_once_is_knocked_at_again_and_told_once() {
    use KnockAnswer::{Refused, Silent};
    // Whether the second knock is told to begin with, what each ends with, and what is told of them.
    let cases = [
        (false, [Some(Refused), Some(Silent)], Some(Refused)),
        (false, [Some(Silent), Some(Refused)], Some(Refused)),
        (true, [Some(Refused), Some(Silent)], Some(Refused)),
        (true, [Some(Silent), Some(Refused)], Some(Refused)),
        (false, [Some(Silent), Some(Silent)], Some(Silent)),
        (false, [None, Some(Silent)], Some(Silent)),
        (false, [Some(Silent), None], None),
        (false, [Some(Refused), Some(Refused)], Some(Refused)),
    ];
    for (second_first, ends, told) in cases {
        let mut world = World::new(Config::default());
        let token = world.token_after(1, "198.51.100.1:1111");
        assert_eq!(world.observe(token, "198.51.100.1:5555"), 1);
        world.next(1);
        world.pass(KNOCK_AGAIN_AFTER - Duration::from_millis(1));
        assert_eq!(world.knocks.len(), 1);
        world.pass(Duration::from_millis(1));
        let [first, second] = world.knocks[..] else { panic!("{:?}", world.knocks) };
        assert_eq!((first.1, first.2), (second.1, second.2));
        let [one, other] = if second_first { [second, first] } else { [first, second] };
        world.input(Input::Knocked { knock: one.0, answer: ends[0] });
        world.input(Input::Knocked { knock: other.0, answer: ends[1] });
        let told = told.map(|answer| FromBroker::Knocked { question: QUESTION, elsewhere: false, answer });
        assert_eq!((world.next(1), world.next(1)), (told, None), "{second_first} {ends:?}");
        assert!(world.broker.knocks.is_empty());
    }
}

#[test]
fn what_is_answered_at_once_is_not_knocked_at_again() {
    let mut world = World::new(Config::default());
    let token = world.token_after(1, "198.51.100.1:1111");
    world.observe(token, "198.51.100.1:5555");
    world.input(Input::Knocked { knock: world.knocks[0].0, answer: Some(KnockAnswer::Refused) });
    world.pass(KNOCK_WITHIN);
    assert_eq!(world.knocks.len(), 1);
}

#[test]
fn it_knocks_only_for_whom_it_observes() {
    let mut world = World::new(with_second());
    let token = world.token_after(1, "198.51.100.1:1111");
    assert_eq!(world.observe([9; 8], "198.51.100.1:5555"), 0);
    world.input(Input::LinkDown { link: link(1) });
    assert_eq!(world.observe(token, "198.51.100.1:5555"), 0);
}

#[test]
fn with_one_address_it_knocks_from_there_and_from_no_other_family() {
    let mut world = World::new(Config::default());
    let token = world.token_after(1, "198.51.100.1:1111");
    assert_eq!(world.observe(token, "198.51.100.1:5555"), 1);
    let other = Probe { ip: Some(ip("2001:db8::2")), port: 7767 };
    let mut world = World::new(Config { probes: vec![other], ..Config::default() });
    let token = world.token_after(1, "198.51.100.1:1111");
    assert_eq!(world.observe(token, "198.51.100.1:5555"), 1);
}

#[test]
fn a_session_and_an_address_are_knocked_at_only_so_often() {
    let mut world = World::new(with_second());
    let token = world.token_after(1, "198.51.100.1:1111");
    let ends = |world: &mut World| {
        for (knock, ..) in std::mem::take(&mut world.knocks) {
            world.input(Input::Knocked { knock, answer: None });
        }
    };
    let mut times = 0;
    for _ in 0..20 {
        times += usize::from(world.observe(token, "198.51.100.1:5555") > 0);
        ends(&mut world);
    }
    assert_eq!(times, KNOCKS_PER_SESSION.burst as usize);
    // With tokens of others, which go over the network in the clear.
    let mut at_one = 0;
    for n in 10..100 {
        let token = world.token_after(n, &format!("198.51.100.{n}:1111"));
        at_one += world.observe(token, "192.0.2.77:80");
        ends(&mut world);
    }
    assert_eq!(2 * at_one, KNOCKS_PER_ADDRESS.burst as usize, "each may be made twice");
}

#[test]
fn knocks_under_way_are_bounded_and_forgotten() {
    let mut world = World::new(Config { knocks: 7, ..with_second() });
    for n in 10..30 {
        let address = format!("198.51.100.{n}:1111");
        let token = world.token_after(n, &address);
        world.observe(token, &address);
        let seen = world.inbox[&link(n)].len();
        assert_eq!(seen, 1, "it is observed all the same");
    }
    assert_eq!(world.knocks.len(), 6, "two at a time");
    world.pass(KNOCK_AGAIN_AFTER);
    assert_eq!(world.knocks.len(), 7);
    world.pass(3 * KNOCK_WITHIN);
    assert!(world.broker.knocks.is_empty(), "a driver that says nothing leaves nothing");
}
