use super::*;
use crate::limits::KNOCK_WITHIN;
use crate::profile::{Behaviour, Refusal};
use crate::wire::PREFACE;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const ROUND_TRIP: Duration = Duration::from_millis(40);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A NAT as a function from a local port and a destination to the port outside.
struct World<F> {
    survey: Survey,
    now: Instant,
    began: Instant,
    outside: F,
    /// What happens when; the number keeps the order of what happens at once.
    events: Vec<(Instant, usize, Happens)>,
    number: usize,
    next_port: u16,
    made: Vec<(Port, SocketAddr, Preface)>,
    learnt: Vec<(Duration, NatProfile)>,
    /// What knocks come to, from the same address and from elsewhere; none: the broker does not.
    knocks: [Option<KnockAnswer>; 2],
    /// From this port to there nothing comes through.
    lost: Option<(u16, SocketAddr)>,
}

enum Happens {
    Connected(ConnectionId, SocketAddr),
    Observed([u8; 8], SocketAddr),
    Knocked([u8; 8], bool, KnockAnswer),
}

const INSIDE: &str = "10.0.0.2";
const OUTSIDE: &str = "198.51.100.9";
const BROKER: &str = "203.0.113.1:7766";

fn second() -> Probe {
    Probe { ip: Some("203.0.113.2".parse().unwrap()), port: 7767 }
}

fn beside() -> Probe {
    Probe { ip: None, port: 7767 }
}

impl<F: FnMut(u16, SocketAddr) -> u16> World<F> {
    fn new(door: u16, probes: &[Probe], mut outside: F) -> Self {
        let now = Instant::now();
        let local = SocketAddr::new(INSIDE.parse().unwrap(), door);
        let seen = outside(door, address(BROKER));
        let observed = SocketAddr::new(OUTSIDE.parse().unwrap(), seen);
        let door = Sample { local, destination: address(BROKER), observed };
        let survey = Survey::begin(now, door, probes, &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
        World {
            survey,
            now,
            began: now,
            outside,
            events: Vec::new(),
            number: 0,
            next_port: 40_000,
            made: Vec::new(),
            learnt: Vec::new(),
            knocks: [Some(KnockAnswer::Refused); 2],
            lost: None,
        }
    }

    fn after(&mut self, time: Duration, what: Happens) {
        self.number += 1;
        self.events.push((self.now + time, self.number, what));
    }

    fn run(mut self) -> Self {
        loop {
            match self.survey.poll(self.now) {
                Output::Connect { connection, from, destination, preface, question } => {
                    let port = match from {
                        Port::Kept(number) => 25_000 + u16::from(number),
                        Port::Fresh => {
                            self.next_port += 1;
                            self.next_port
                        }
                    };
                    self.made.push((from, destination, preface));
                    if self.lost == Some((port, destination)) {
                        continue;
                    }
                    let local = SocketAddr::new(INSIDE.parse().unwrap(), port);
                    let seen = (self.outside)(port, destination);
                    let seen = SocketAddr::new(OUTSIDE.parse().unwrap(), seen);
                    self.after(ROUND_TRIP, Happens::Connected(connection, local));
                    self.after(2 * ROUND_TRIP, Happens::Observed(question, seen));
                    if preface == Preface::Knock {
                        for (elsewhere, answer) in [false, true].into_iter().zip(self.knocks) {
                            let Some(answer) = answer else { continue };
                            let silent = answer == KnockAnswer::Silent;
                            let after = if silent { KNOCK_WITHIN } else { ROUND_TRIP };
                            let happens = Happens::Knocked(question, elsewhere, answer);
                            self.after(2 * ROUND_TRIP + after, happens);
                        }
                    }
                }
                Output::Learnt(profile) => self.learnt.push((self.now - self.began, profile)),
                Output::Wait(until) => {
                    assert!(until > self.now, "it waits for what has been");
                    let next = self.events.iter().map(|(at, number, _)| (*at, *number)).min();
                    match next.filter(|(at, _)| *at <= until) {
                        Some(next) => {
                            self.now = next.0;
                            let at = self.events.iter().position(|(at, n, _)| (*at, *n) == next).unwrap();
                            match self.events.remove(at).2 {
                                Happens::Connected(id, local) => self.survey.connected(self.now, id, local),
                                Happens::Observed(question, from) => {
                                    self.survey.observed(self.now, question, from);
                                }
                                Happens::Knocked(question, elsewhere, answer) => {
                                    self.survey.knocked(question, elsewhere, answer);
                                }
                            }
                        }
                        None => self.now = until,
                    }
                }
                Output::Finished => return self,
            }
        }
    }

    fn last(&self) -> NatProfile {
        self.learnt.last().unwrap().1
    }

    /// When something was known as it was in the end.
    fn known_after<T: PartialEq>(&self, what: impl Fn(&NatProfile) -> T) -> Duration {
        let end = what(&self.last());
        let wrong = self.learnt.iter().rposition(|(_, profile)| what(profile) != end);
        self.learnt[wrong.map_or(0, |at| at + 1)].0
    }
}

fn symmetric() -> impl FnMut(u16, SocketAddr) -> u16 {
    let mut last = 30_000;
    move |_, _| {
        last += 2;
        last
    }
}

#[test]
fn a_nat_that_keeps_ports_takes_two_round_trips_and_few_connections() {
    let world = World::new(25_500, &[beside(), second()], |port, _| port).run();
    assert_eq!(world.last().mapping, Behaviour::EndpointIndependent);
    assert_eq!(world.last().allocation, Allocation::Preserving);
    assert_eq!(world.known_after(|profile| profile.mapping), 2 * ROUND_TRIP);
    assert_eq!(world.made.len(), 6);
}

#[test]
fn a_connection_that_is_lost_delays_nothing_where_another_port_says_the_same() {
    for lost in [(25_000, BROKER), (25_000, "203.0.113.1:7767"), (25_002, BROKER)] {
        let mut world = World::new(25_500, &[beside()], |port, _| port);
        world.lost = Some((lost.0, address(lost.1)));
        let world = world.run();
        assert_eq!(world.known_after(|profile| profile.mapping), 2 * ROUND_TRIP, "{lost:?}");
        assert!(!world.last().is_symmetric() && world.last().mapping != Behaviour::Unknown);
    }
}

#[test]
fn of_a_symmetric_nat_all_but_the_filtering_is_known_after_two_round_trips() {
    let world = World::new(25_500, &[beside()], symmetric()).run();
    assert!(world.last().is_symmetric());
    assert_eq!(world.last().allocation, Allocation::Stepping(2));
    assert_eq!(world.known_after(|profile| (profile.mapping, profile.allocation)), 2 * ROUND_TRIP);
    assert_eq!(world.known_after(|profile| profile.refusal), 3 * ROUND_TRIP);
}

#[test]
fn a_nat_that_keeps_a_port_for_its_first_destination_alone_is_looked_at_further() {
    let mut others = 50_000;
    let first_only = move |port, to: SocketAddr| {
        others += 1;
        if to == address(BROKER) { port } else { others }
    };
    let world = World::new(25_500, &[beside()], first_only).run();
    assert!(world.last().is_symmetric());
    assert_eq!(world.last().allocation, Allocation::Changing);
    assert_eq!(world.made.iter().filter(|(from, ..)| *from == Port::Fresh).count(), FRESH_PORTS);
}

#[test]
fn silence_is_taken_for_dropping_before_it_is_final() {
    let mut world = World::new(25_500, &[beside()], |port, _| port);
    world.knocks = [Some(KnockAnswer::Silent), None];
    let world = world.run();
    assert_eq!(world.last().refusal, Refusal::Drop);
    assert_eq!(world.last().filtering, Behaviour::AddressAndPortDependent);
    let soon = 2 * ROUND_TRIP + ROUND_TRIP * 3 / 2 + KNOCK_SILENT_AFTER;
    assert_eq!(world.known_after(|profile| profile.refusal), soon);
}

/// One whose broker knocks and says nothing of it by itself; and the question of that connection.
fn knocked_at() -> (World<impl FnMut(u16, SocketAddr) -> u16>, [u8; 8]) {
    let mut world = World::new(25_500, &[beside()], |port, _| port);
    world.knocks = [None, None];
    let question = world
        .survey
        .outputs
        .iter()
        .find_map(|output| match output {
            Output::Connect { preface: Preface::Knock, question, .. } => Some(*question),
            _ => None,
        })
        .unwrap();
    (world, question)
}

#[test]
fn silence_that_a_busy_broker_tells_late_is_final_all_the_same() {
    let (mut world, question) = knocked_at();
    world.after(KNOCK_TOLD_WITHIN, Happens::Knocked(question, false, KnockAnswer::Silent));
    let world = world.run();
    assert_eq!(world.last().refusal, Refusal::Drop);
}

#[test]
fn an_answer_that_comes_late_counts_more_than_the_silence_before_it() {
    let (mut world, question) = knocked_at();
    // As slow as a SYN that was lost.
    world.after(KNOCK_WITHIN, Happens::Knocked(question, false, KnockAnswer::Accepted));
    let world = world.run();
    assert!(world.learnt.iter().any(|(_, profile)| profile.refusal == Refusal::Drop));
    assert_eq!(
        (world.last().filtering, world.last().refusal),
        (Behaviour::PortIndependent, Refusal::Unknown)
    );
}

#[test]
fn a_broker_that_does_not_knock_leaves_the_filtering_unknown() {
    let mut world = World::new(25_500, &[beside()], |port, _| port);
    world.knocks = [None, None];
    let world = world.run();
    assert_eq!((world.last().filtering, world.last().refusal), (Behaviour::Unknown, Refusal::Unknown));
    assert!(world.now - world.began < Duration::from_secs(3));
}

#[test]
fn a_broker_that_says_nothing_is_not_waited_for() {
    let mut world = World::new(25_500, &[beside()], |port, _| port);
    world.events.clear();
    let began = world.now;
    let mut now = began;
    let end = loop {
        match world.survey.poll(now) {
            Output::Wait(at) => now = at,
            Output::Finished => break now,
            Output::Connect { .. } => {}
            Output::Learnt(profile) => panic!("{profile:?}"),
        }
    };
    assert_eq!(end - began, OBSERVE_WITHIN);
}

#[test]
fn an_address_of_its_own_is_only_knocked_at() {
    let now = Instant::now();
    let local = address("198.51.100.9:25500");
    let door = Sample { local, destination: address(BROKER), observed: local };
    let mut survey =
        Survey::begin(now, door, &[beside(), second()], &mut ChaCha20Rng::seed_from_u64(1)).unwrap();
    let Output::Connect { from: Port::Kept(_), preface: Preface::Knock, destination, .. } = survey.poll(now)
    else {
        panic!();
    };
    assert_eq!(destination, address(BROKER));
    assert!(matches!(survey.poll(now), Output::Wait(_)));
}

#[test]
fn a_broker_makes_nobody_knock_in_the_own_network() {
    let near = ["192.168.1.1", "127.0.0.1", "10.0.0.1", "224.0.0.1", "0.0.0.0", "::1"];
    let mut probes: Vec<Probe> =
        near.iter().map(|ip| Probe { ip: Some(ip.parse().unwrap()), port: 7767 }).collect();
    probes.push(Probe { port: 25, ..second() });
    let world = World::new(25_500, &probes, |port, _| port).run();
    assert!(world.made.iter().all(|(_, to, _)| *to == address(BROKER)), "{:?}", world.made);
    let many: Vec<Probe> = (0..100).map(|n| Probe { port: 7000 + n, ..second() }).collect();
    let world = World::new(25_500, &many, symmetric()).run();
    assert!(world.made.len() <= SURVEY_PLACES + PLACES_AGAIN + 1 + FRESH_PORTS);
}

#[test]
fn where_the_broker_is_on_this_side_there_is_nothing_to_learn() {
    let begin = |local: &str, destination: &str, observed: &str| {
        let door =
            Sample { local: address(local), destination: address(destination), observed: address(observed) };
        Survey::begin(Instant::now(), door, &[], &mut ChaCha20Rng::seed_from_u64(1)).is_some()
    };
    assert!(!begin("127.0.0.1:5000", "127.0.0.1:7766", "127.0.0.1:5000"));
    assert!(!begin("192.168.1.2:5000", "192.168.1.3:7766", "192.168.1.2:5000"));
    assert!(!begin("[2001:db8::2]:5000", "[2001:db8:1::1]:7766", "[2001:db8::2]:5000"));
    assert!(begin("192.168.1.2:5000", BROKER, "198.51.100.9:5000"));
}

#[test]
fn a_fresh_port_is_observed_twice_at_one_address() {
    let token = [7; 8];
    let places = |link: &str, probes: &[Probe]| Observer::new(address(link), probes, token).places;
    assert_eq!(places(BROKER, &[second(), beside()]), [address(BROKER), address("203.0.113.1:7767")]);
    assert_eq!(
        places(BROKER, &[second()]),
        [address(BROKER)],
        "to another address some NATs map another way"
    );
    let itself = Probe { ip: None, port: address(BROKER).port() };
    assert_eq!(places(BROKER, &[itself]), [address(BROKER)]);
    let many: Vec<Probe> = (8000..8100).map(|port| Probe { ip: None, port }).collect();
    assert_eq!(places(BROKER, &many).len(), OBSERVED_AT);
    let linked = "[fe80::1%3]:7766";
    assert_eq!(places(linked, &[beside()]), [address(linked), address("[fe80::1%3]:7767")]);
    let greeting = Observer::new(address(BROKER), &[], token).greeting([9; 8]);
    let (preface, rest) = greeting.split_at(PREFACE);
    assert_eq!(Preface::decode(preface.try_into().unwrap()), Ok(Preface::Observe));
    assert_eq!(rest, [[7; 8], [9; 8]].concat());
}
