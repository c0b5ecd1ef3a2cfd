use std::collections::BTreeSet;

use super::*;
use crate::limits::{
    ROUND_AFTER, ROUND_AFTER_DOUBT, ROUND_AFTER_VOLLEY, ROUNDS, SYMMETRIC_WITHIN, VOLLEY_WITHIN,
};
use crate::profile::{Allocation, Behaviour, Refusal};
use proptest::prelude::{
    Just, Strategy as Generated, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

mod anything;
mod rounds;
mod volley;

const MS: Duration = Duration::from_millis(1);

struct Rig {
    puncher: Puncher<ChaCha20Rng>,
    start: Instant,
    now: Instant,
    outputs: Vec<Output>,
}

fn remote(n: u8) -> SocketAddr {
    format!("203.0.113.{n}:40000").parse().unwrap()
}

fn config(controlling: bool, round_trip: Duration, own: NatProfile, peer: NatProfile) -> Config {
    let now = Instant::now();
    Config {
        controlling,
        round_trip_bound: round_trip,
        introduced: now,
        deadline: now + Duration::from_secs(15),
        own,
        peer,
        seen_over_v6: true,
        strangers: false,
        sockets: 2000,
        avoid: Vec::new(),
        rules: Rules { stagger: false, ..Rules::default() },
    }
}

/// Behind a NAT that keeps one port and lets in whom it was sent to.
fn easy(refusal: Refusal) -> NatProfile {
    NatProfile {
        translated: Some(true),
        mapping: Behaviour::EndpointIndependent,
        allocation: Allocation::Preserving,
        filtering: Behaviour::AddressAndPortDependent,
        refusal,
        simultaneous_open: None,
    }
}

fn symmetric(allocation: Allocation, refusal: Refusal) -> NatProfile {
    NatProfile { mapping: Behaviour::AddressAndPortDependent, allocation, ..easy(refusal) }
}

impl Rig {
    fn new(controlling: bool, round_trip: Duration) -> Self {
        Self::between(controlling, round_trip, NatProfile::default(), NatProfile::default())
    }

    fn between(controlling: bool, round_trip: Duration, own: NatProfile, peer: NatProfile) -> Self {
        Self::of(config(controlling, round_trip, own, peer))
    }

    fn of(config: Config) -> Self {
        let now = config.introduced;
        Rig { puncher: Puncher::new(config, ChaCha20Rng::seed_from_u64(5)), start: now, now, outputs: vec![] }
    }

    fn lane(&mut self, n: u8) {
        self.input(Input::Candidate(Candidate { address: remote(n), kind: Kind::Reflexive }));
    }

    fn input(&mut self, input: Input) {
        self.puncher.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) -> Instant {
        loop {
            match self.puncher.poll(self.now) {
                Output::Wait(at) => return at,
                output => self.outputs.push(output),
            }
        }
    }

    fn until(&mut self, end: Instant) {
        loop {
            let at = self.drain();
            if at > end {
                break;
            }
            self.now = at;
            if self.finished().is_some() {
                break;
            }
        }
        self.now = self.now.max(end);
        self.drain();
    }

    fn dials(&self) -> Vec<SocketId> {
        self.outputs
            .iter()
            .filter_map(|output| match output {
                Output::Dial { socket, .. } => Some(*socket),
                _ => None,
            })
            .collect()
    }

    fn finished(&self) -> Option<&Finished> {
        self.outputs.iter().find_map(|output| match output {
            Output::Finished(finished) => Some(&**finished),
            _ => None,
        })
    }

    fn dialled(&mut self, socket: SocketId, outcome: Dialled) {
        self.input(Input::Dialled { socket, outcome });
    }

    /// Every SYN is refused after that delay; returns when each was sent.
    fn refuse_all(&mut self, after: Duration, outcome: Dialled, end: Instant) -> Vec<Instant> {
        let mut sent = vec![];
        loop {
            let seen = self.dials().len();
            if seen > sent.len() {
                sent.push(self.now);
                let socket = *self.dials().last().unwrap();
                self.now += after;
                self.dialled(socket, outcome);
                continue;
            }
            let at = self.drain();
            if self.dials().len() > sent.len() {
                continue;
            }
            if at > end || self.finished().is_some() {
                return sent;
            }
            self.now = at;
        }
    }
}

#[test]
fn the_first_syns_leave_a_little_after_go_at_random() {
    let round_trip = 200 * MS;
    let after_go = |seed| {
        let mut config = config(true, round_trip, NatProfile::default(), NatProfile::default());
        config.rules = Rules::default();
        let mut rig = Rig::of(config);
        rig.puncher.rng = ChaCha20Rng::seed_from_u64(seed);
        rig.lane(1);
        rig.input(Input::Go);
        let at = rig.drain();
        assert!(rig.dials().is_empty() && at < rig.start + round_trip.mul_f64(STAGGER));
        rig.until(at);
        assert_eq!(rig.dials().len(), 1);
        at - rig.start
    };
    let different: BTreeSet<Duration> = (0..8).map(after_go).collect();
    assert_eq!(different.len(), 8, "{different:?}");
}

#[test]
fn nothing_is_sent_before_go() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.until(rig.start + 100 * MS);
    assert!(rig.dials().is_empty());
    rig.input(Input::Go);
    assert_eq!(rig.dials().len(), 1);
}

#[test]
fn go_leaves_alone_what_came_in_before_it() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    rig.input(Input::Go);
    assert!(rig.dials().is_empty(), "the 4-tuple is alive");
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, socket);
}

#[test]
fn a_stranger_does_not_make_a_lane_fire_before_go() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    rig.input(Input::Failed { socket });
    rig.until(rig.start + 300 * MS);
    assert!(rig.dials().is_empty());
    rig.input(Input::Go);
    assert_eq!(rig.dials().len(), 1);
}

#[test]
fn a_lost_go_does_not_hang_the_attempt() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.until(rig.start + GO_DELAY_MOST + 60 * MS);
    assert_eq!(rig.dials().len(), 1);
}

#[test]
fn go_is_waited_for_as_long_as_it_may_be_under_way() {
    let mut rig = Rig::new(true, 500 * MS);
    rig.lane(1);
    rig.until(rig.start + GO_DELAY_MOST + 499 * MS);
    assert!(rig.dials().is_empty());
    rig.until(rig.start + GO_DELAY_MOST + 500 * MS);
    assert_eq!(rig.dials().len(), 1);
}

#[test]
fn many_lanes_are_fired_one_after_the_other() {
    for late in [false, true] {
        let mut rig = Rig::new(true, 50 * MS);
        if late {
            rig.input(Input::Go);
        }
        for n in 0..9 {
            rig.lane(n);
        }
        rig.input(Input::Go);
        for n in 0..4 {
            rig.until(rig.start + n * LANE_PACE);
            assert_eq!(rig.dials().len(), LANES_AT_ONCE + n as usize, "late: {late}");
            rig.until(rig.now + LANE_PACE - MS);
            assert_eq!(rig.dials().len(), LANES_AT_ONCE + n as usize, "late: {late}");
        }
    }
}

#[test]
fn what_is_hopeless_is_given_up_early() {
    let random = symmetric(Allocation::Random, Refusal::Unknown);
    let mut rig = Rig::between(true, 50 * MS, random, random);
    rig.lane(1);
    rig.input(Input::Go);
    assert!(!rig.puncher.is_over());
    rig.until(rig.start + SYMMETRIC_WITHIN - MS);
    assert!(!rig.puncher.is_over() && rig.finished().is_none());
    rig.until(rig.start + SYMMETRIC_WITHIN);
    assert!(rig.puncher.is_over() && rig.finished().is_some());
}

#[test]
fn a_silent_lane_keeps_its_one_socket() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    rig.until(rig.start + 14_000 * MS);
    assert_eq!(rig.dials().len(), 1);
    assert!(!rig.outputs.iter().any(|output| matches!(output, Output::Close { .. })));
    rig.until(rig.start + 15_000 * MS);
    let finished = rig.finished().unwrap();
    assert_eq!((finished.winner, finished.syns), (None, 1));
}

#[test]
fn a_refused_lane_fires_again_at_the_pace_of_its_refusals() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    let sent = rig.refuse_all(20 * MS, Dialled::Refused, rig.start + 600 * MS);
    for pair in sent.windows(2) {
        let gap = pair[1] - pair[0];
        assert!((20 * MS..=30 * MS).contains(&gap), "{gap:?}");
    }
    assert!(sent.len() > 20);
    let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "two peers must not run in step");
}

#[test]
fn over_ipv6_few_are_fired_before_the_peer_can_know_where_to_fire() {
    let over_v6 = |seen| {
        let profile = NatProfile::default();
        let mut rig = Rig::of(Config { seen_over_v6: seen, ..config(true, MS, profile, profile) });
        let candidate = Candidate { address: "[2001:db8::1]:40000".parse().unwrap(), kind: Kind::Reflexive };
        rig.input(Input::Candidate(candidate));
        rig.input(Input::Go);
        rig
    };
    let mut rig = over_v6(false);
    let sent = rig.refuse_all(MS, Dialled::Refused, rig.start + 3_000 * MS);
    assert_eq!(sent.len(), SYNS_BEFORE_SEEN as usize);
    rig.input(Input::SeenOverV6);
    assert_eq!(rig.dials().len(), 1 + SYNS_BEFORE_SEEN as usize, "at once, for now the peer fires too");
    let seen = rig.now;
    let sent = rig.refuse_all(MS, Dialled::Refused, rig.start + 15_000 * MS);
    assert_eq!(rig.dials().len(), SYNS_PER_LANE as usize, "and no more of them in all");
    assert!(*sent.last().unwrap() - seen < REFIRE_FAST_FOR, "as fast as at the beginning");
    let mut rig = over_v6(true);
    let sent = rig.refuse_all(MS, Dialled::Refused, rig.start + 15_000 * MS);
    assert_eq!(sent.len(), SYNS_PER_LANE as usize);
}

#[test]
fn refusals_from_nearby_are_spaced_and_bounded() {
    let mut rig = Rig::new(true, MS);
    rig.lane(1);
    rig.input(Input::Go);
    let sent = rig.refuse_all(MS / 5, Dialled::Refused, rig.start + 15_000 * MS);
    let (at_once, spaced) = sent.split_at(REFUSED_AT_ONCE as usize + 1);
    assert!(at_once.windows(2).all(|pair| pair[1] - pair[0] == MS / 5), "few are fired at once");
    assert!(spaced.windows(2).all(|pair| pair[1] - pair[0] >= REFIRE_LEAST / 2));
    assert_eq!(sent.len(), SYNS_PER_LANE as usize);
    let lasted = *sent.last().unwrap() - rig.start;
    assert!(lasted > 150 * MS, "the other side may hear Go 100 ms later, and needs some of them: {lasted:?}");
    let finished = rig.finished().unwrap();
    assert_eq!(finished.lanes[0].refused, SYNS_PER_LANE);
    assert!(rig.now < rig.start + 10_000 * MS, "nobody waits for lanes that are dead");
}

#[test]
fn refusals_that_take_longer_are_not_fired_at_again_at_once() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    let sent = rig.refuse_all(REFIRE_LEAST, Dialled::Refused, rig.start + 50 * MS);
    assert!(sent.windows(2).take(8).any(|pair| pair[1] - pair[0] > REFIRE_LEAST));
}

#[test]
fn icmp_is_answered_at_once_so_that_the_hole_keeps_a_live_socket() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    rig.now += 50 * MS;
    rig.dialled(rig.dials()[0], Dialled::Unreachable);
    assert_eq!(rig.dials().len(), 2);
    // Also where the answer takes no time at all; but not for ever.
    for nth in 1..20 {
        let dials = rig.dials();
        if dials.len() == nth {
            break;
        }
        rig.dialled(dials[nth], Dialled::Unreachable);
    }
    assert_eq!(rig.dials().len(), 1 + REFIRE_AT_ONCE as usize);
}

#[test]
fn an_address_in_use_waits_for_the_accept_and_goes_on() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    rig.dialled(rig.dials()[0], Dialled::InUse);
    rig.until(rig.start + 290 * MS);
    assert_eq!(rig.dials().len(), 1);
    rig.until(rig.start + 301 * MS);
    assert_eq!(rig.dials().len(), 2, "stuck: tried afresh");
    let socket = rig.puncher.name_socket();
    rig.dialled(rig.dials()[1], Dialled::InUse);
    rig.input(Input::Accepted { socket, remote: remote(1) });
    assert!(rig.outputs.contains(&Output::Authenticate { socket, nominate: true, cautious: false }));
    rig.until(rig.start + 600 * MS);
    assert_eq!(rig.dials().len(), 2, "what came in is the lane");
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(
        rig.finished().unwrap().winner,
        Some(Winner { socket, kind: Some(Kind::Reflexive), round: 0, birthday: false })
    );
    assert_eq!(rig.finished().unwrap().syns, 0);
}

#[test]
fn a_lane_for_which_no_descriptor_was_left_fires_later() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    rig.dialled(rig.dials()[0], Dialled::NoDescriptor);
    assert_eq!((rig.puncher.syns(), rig.dials().len()), (0, 1));
    rig.until(rig.now + REFIRE_SLOW.mul_f64(1.5));
    assert_eq!((rig.puncher.syns(), rig.dials().len()), (1, 2));
    rig.dialled(rig.dials()[1], Dialled::Connected);
    assert!(rig.outputs.iter().any(|output| matches!(output, Output::Authenticate { .. })));
}

#[test]
fn what_was_no_syn_does_not_count_as_one() {
    let mut rig = Rig::new(true, 50 * MS);
    for n in 1..=3 {
        rig.lane(n);
    }
    rig.input(Input::Go);
    assert_eq!(rig.puncher.syns(), 3);
    rig.dialled(rig.dials()[0], Dialled::InUse);
    assert_eq!(rig.puncher.syns(), 2);
    rig.dialled(rig.dials()[1], Dialled::NoRoute);
    assert_eq!(rig.puncher.syns(), 1);
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    rig.input(Input::Verified { socket, nominated: false });
    let finished = rig.finished().unwrap();
    assert_eq!(finished.syns, 1);
    let lanes: Vec<_> = finished.lanes.iter().map(|lane| (lane.syns, lane.no_route)).collect();
    assert_eq!(lanes, [(0, false), (0, true), (1, false)]);
}

#[test]
fn what_comes_in_where_a_syn_waits_takes_the_place_of_that_syn() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    let dialling = rig.dials()[0];
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    assert!(rig.outputs.contains(&Output::Close { socket: dialling }));
    let cautious = Output::Authenticate { socket, nominate: false, cautious: true };
    assert!(rig.outputs.contains(&cautious), "had that SYN been under way it would have taken this in");
    assert_eq!(rig.puncher.syns(), 0);
    rig.dialled(dialling, Dialled::Connected);
    rig.until(rig.start + 400 * MS);
    assert_eq!(rig.dials().len(), 1, "the lane is open");
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, socket);
}

#[test]
fn the_first_connection_is_nominated_and_wins_when_it_verifies() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.lane(2);
    rig.input(Input::Go);
    let dials = rig.dials();
    rig.dialled(dials[1], Dialled::Connected);
    rig.dialled(dials[0], Dialled::Connected);
    assert!(rig.outputs.contains(&Output::Authenticate {
        socket: dials[1],
        nominate: true,
        cautious: false
    }));
    assert!(rig.outputs.contains(&Output::Authenticate {
        socket: dials[0],
        nominate: false,
        cautious: false
    }));
    rig.input(Input::Verified { socket: dials[0], nominated: false });
    assert!(rig.finished().is_none(), "the other one was nominated and may be in use already");
    rig.input(Input::Verified { socket: dials[1], nominated: false });
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, dials[1]);
    assert!(rig.outputs.contains(&Output::Close { socket: dials[0] }));
}

#[test]
fn if_the_nominated_one_dies_a_verified_one_takes_its_place() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.lane(2);
    rig.input(Input::Go);
    let dials = rig.dials();
    rig.dialled(dials[0], Dialled::Connected);
    rig.dialled(dials[1], Dialled::Connected);
    rig.input(Input::Verified { socket: dials[1], nominated: false });
    rig.until(rig.start + 2 * 50 * MS + NOMINATED_WITHIN + MS);
    assert!(rig.outputs.contains(&Output::Close { socket: dials[0] }));
    assert!(rig.outputs.contains(&Output::Nominate { socket: dials[1] }));
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, dials[1]);
}

#[test]
fn who_does_not_show_that_it_is_the_peer_is_given_up_in_time() {
    let cases = [
        (true, Kind::Reflexive, NOMINATED_WITHIN),
        (true, Kind::Host, AUTHENTICATE_WITHIN),
        // The record that nominates it may be the one that is lost.
        (false, Kind::Reflexive, NOMINATED_WITHIN),
        (false, Kind::Host, AUTHENTICATE_WITHIN),
    ];
    for (controlling, kind, patience) in cases {
        let mut rig = Rig::new(controlling, 50 * MS);
        rig.input(Input::Candidate(Candidate { address: remote(1), kind }));
        rig.input(Input::Go);
        let socket = rig.dials()[0];
        rig.dialled(socket, Dialled::Connected);
        rig.until(rig.start + 2 * 50 * MS + patience - MS);
        assert!(!rig.outputs.contains(&Output::Close { socket }));
        rig.until(rig.start + 2 * 50 * MS + patience);
        assert!(rig.outputs.contains(&Output::Close { socket }));
        assert_eq!(rig.dials().len(), 1, "not fired at again at once");
        rig.until(rig.now + REFIRE_SLOW / 2 - MS);
        assert_eq!(rig.dials().len(), 1);
        rig.until(rig.now + REFIRE_SLOW + MS);
        assert_eq!(rig.dials().len(), 2);
    }
}

#[test]
fn the_controlled_side_takes_what_is_nominated() {
    let mut rig = Rig::new(false, 50 * MS);
    rig.lane(1);
    rig.lane(2);
    rig.input(Input::Go);
    let dials = rig.dials();
    rig.dialled(dials[0], Dialled::Connected);
    rig.dialled(dials[1], Dialled::Connected);
    assert!(rig.outputs.contains(&Output::Authenticate {
        socket: dials[0],
        nominate: false,
        cautious: false
    }));
    rig.input(Input::Verified { socket: dials[0], nominated: false });
    assert!(rig.finished().is_none());
    rig.input(Input::Nominated { socket: dials[1] });
    assert!(rig.finished().is_none(), "it did not verify");
    rig.input(Input::Nominated { socket: dials[0] });
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, dials[0]);
}

#[test]
fn a_machine_of_the_own_network_is_not_nominated_before_it_has_shown_who_it_is() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.input(Input::Candidate(Candidate { address: remote(1), kind: Kind::Host }));
    rig.lane(2);
    rig.input(Input::Go);
    let dials = rig.dials();
    rig.dialled(dials[0], Dialled::Connected);
    rig.dialled(dials[1], Dialled::Connected);
    assert!(rig.outputs.contains(&Output::Authenticate {
        socket: dials[0],
        nominate: false,
        cautious: false
    }));
    assert!(rig.outputs.contains(&Output::Authenticate {
        socket: dials[1],
        nominate: true,
        cautious: false
    }));
    let mut alone = Rig::new(true, 50 * MS);
    alone.input(Input::Candidate(Candidate { address: remote(1), kind: Kind::Host }));
    alone.input(Input::Go);
    let socket = alone.dials()[0];
    alone.dialled(socket, Dialled::Connected);
    alone.input(Input::Verified { socket, nominated: false });
    assert!(alone.outputs.contains(&Output::Nominate { socket }));
    assert_eq!(alone.finished().unwrap().winner.unwrap().socket, socket);
}

#[test]
fn an_impostor_at_the_address_does_not_end_the_lane() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    let first = rig.dials()[0];
    rig.dialled(first, Dialled::Connected);
    rig.input(Input::Failed { socket: first });
    rig.until(rig.start + 200 * MS);
    let second = rig.dials()[1];
    rig.dialled(second, Dialled::Connected);
    assert!(rig.outputs.contains(&Output::Authenticate { socket: second, nominate: true, cautious: false }));
    rig.input(Input::Verified { socket: second, nominated: false });
    assert_eq!(rig.finished().unwrap().lanes[0].impostors, 1);
}

#[test]
fn what_comes_through_the_listener_after_a_refusal_must_be_acknowledged() {
    for outcome in [Dialled::Refused, Dialled::Unreachable] {
        let mut rig = Rig::new(true, 50 * MS);
        rig.lane(1);
        rig.input(Input::Go);
        rig.dialled(rig.dials()[0], outcome);
        let socket = rig.puncher.name_socket();
        rig.input(Input::Accepted { socket, remote: remote(1) });
        assert!(rig.outputs.contains(&Output::Authenticate { socket, nominate: false, cautious: true }));
        rig.input(Input::Verified { socket, nominated: false });
        assert!(rig.outputs.contains(&Output::Nominate { socket }));
        assert_eq!(rig.finished().unwrap().winner.unwrap().socket, socket);
    }
}

#[test]
fn what_is_dialled_after_a_refusal_must_be_acknowledged_too() {
    for outcome in [Dialled::Refused, Dialled::Unreachable] {
        let mut rig = Rig::new(true, 50 * MS);
        rig.lane(1);
        rig.input(Input::Go);
        rig.dialled(rig.dials()[0], outcome);
        rig.until(rig.start + 200 * MS);
        let socket = rig.dials()[1];
        rig.dialled(socket, Dialled::Connected);
        assert!(rig.outputs.contains(&Output::Authenticate { socket, nominate: false, cautious: true }));
        rig.input(Input::Verified { socket, nominated: false });
        assert!(rig.outputs.contains(&Output::Nominate { socket }));
    }
}

#[test]
fn a_lane_that_icmp_answers_without_end_slows_down() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    rig.input(Input::Go);
    let sent = rig.refuse_all(MS / 5, Dialled::Unreachable, rig.start + 15_000 * MS);
    assert!(sent[7] - sent[0] == 7 * MS / 5, "at once at first");
    assert!(sent[99] - sent[8] > 60 * MS);
    assert_eq!(sent.len(), SYNS_PER_LANE as usize);
}

#[test]
fn candidates_that_come_late_are_fired_at_once() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.input(Input::Go);
    rig.lane(1);
    rig.lane(1);
    assert_eq!(rig.dials().len(), 1);
}

#[test]
fn a_side_without_lanes_listens_on_for_a_while() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.input(Input::Go);
    rig.until(rig.start + LISTEN_ON_FOR);
    assert!(rig.finished().is_none());
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(9) });
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(
        rig.finished().unwrap().winner,
        Some(Winner { socket, kind: None, round: 0, birthday: false })
    );
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Go,
    Lane(u8),
    Dial(usize, Dialled),
    Accept(u8),
    Verify(usize, bool),
    Nominate(usize),
    Fail(usize),
}

fn step() -> impl Generated<Value = Step> {
    let outcome = prop_oneof![
        Just(Dialled::Connected),
        Just(Dialled::Refused),
        Just(Dialled::Unreachable),
        Just(Dialled::InUse),
        Just(Dialled::NoRoute),
        Just(Dialled::NoDescriptor),
        Just(Dialled::TimedOut),
    ];
    prop_oneof![
        (0u64..400).prop_map(Step::Pass),
        Just(Step::Go),
        (0u8..30).prop_map(Step::Lane),
        (0usize..300, outcome).prop_map(|(n, outcome)| Step::Dial(n, outcome)),
        (0u8..30).prop_map(Step::Accept),
        (0usize..300, any::<bool>()).prop_map(|(n, yes)| Step::Verify(n, yes)),
        (0usize..300).prop_map(Step::Nominate),
        (0usize..300).prop_map(Step::Fail),
    ]
}

proptest! {
    #[test]
    fn it_finishes_once_by_the_deadline_within_its_budgets(
        controlling: bool,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut rig = Rig::new(controlling, 30 * MS);
        let socket = |n: usize| SocketId((n % 250) as u32);
        for step in steps {
            match step {
                Step::Pass(ms) => rig.until(rig.now + ms as u32 * MS),
                Step::Go => rig.input(Input::Go),
                Step::Lane(n) => rig.lane(n),
                Step::Dial(n, outcome) => {
                    let dials = rig.dials();
                    if let Some(socket) = dials.get(n % dials.len().max(1)) {
                        rig.dialled(*socket, outcome);
                    }
                }
                Step::Accept(n) => {
                    let socket = rig.puncher.name_socket();
                    rig.input(Input::Accepted { socket, remote: remote(n) });
                }
                Step::Verify(n, nominated) => rig.input(Input::Verified { socket: socket(n), nominated }),
                Step::Nominate(n) => rig.input(Input::Nominated { socket: socket(n) }),
                Step::Fail(n) => rig.input(Input::Failed { socket: socket(n) }),
            }
        }
        rig.until(rig.start + Duration::from_secs(16));
        let ends = rig.outputs.iter().filter(|output| matches!(output, Output::Finished(_))).count();
        prop_assert_eq!(ends, 1);
        prop_assert!(matches!(rig.outputs.last(), Some(Output::Finished(_))), "nothing comes after the end");
        prop_assert!(rig.dials().len() as u32 <= 2 * SYNS_PER_ATTEMPT);
        prop_assert!(rig.finished().unwrap().syns <= SYNS_PER_ATTEMPT);
        prop_assert!(rig.finished().unwrap().lanes.len() <= LANES_PER_ATTEMPT);
    }
}
