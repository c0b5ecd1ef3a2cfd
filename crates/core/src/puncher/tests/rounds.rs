//! Further rounds from fresh ports: when they are opened, and what their lanes do.

use super::*;

impl Rig {
    fn opened(&self) -> Vec<(u8, bool)> {
        let opened = |output: &Output| match output {
            Output::Open { round, v6, .. } => Some((*round, *v6)),
            _ => None,
        };
        self.outputs.iter().filter_map(opened).collect()
    }

    fn listens_in(&self, round: u8) -> bool {
        self.outputs
            .iter()
            .any(|output| matches!(output, Output::Open { round: of, listen: true, .. } if *of == round))
    }

    fn begin(&mut self, round: u8, n: u8) {
        let candidates = vec![Candidate { address: remote(n), kind: Kind::Reflexive }];
        self.input(Input::Round { round, candidates });
    }

    fn origin_of(&self, n: u8) -> Option<Origin> {
        self.outputs.iter().find_map(|output| match output {
            Output::Dial { origin, remote: to, .. } if *to == remote(n) => Some(*origin),
            _ => None,
        })
    }
}

fn plain() -> Rig {
    let mut rig = Rig::between(true, 50 * MS, easy(Refusal::Drop), easy(Refusal::Drop));
    rig.lane(1);
    rig.input(Input::Go);
    rig
}

const PATIENCE: Duration = Duration::from_millis(2 * 50 + 400);

#[test]
fn a_round_that_leads_to_nothing_is_followed_by_another_up_to_so_many() {
    let mut rig = plain();
    rig.until(rig.start + PATIENCE - MS);
    assert_eq!(rig.opened(), []);
    rig.until(rig.start + PATIENCE);
    assert_eq!(rig.opened(), [(1, false)]);
    rig.until(rig.start + 3000 * MS);
    assert_eq!(rig.opened().len(), 1, "the next waits for the broker's word on this one");
    for round in 1..ROUNDS {
        rig.begin(round, 1 + round);
        let pause = 2 * 50 * MS + ROUND_AFTER * u32::from(round + 1);
        rig.until(rig.now + pause - MS);
        assert_eq!(rig.opened().len(), usize::from(round));
        rig.until(rig.now + MS);
        assert_eq!(rig.opened().len(), usize::from((round + 1).min(ROUNDS - 1)));
    }
    rig.begin(ROUNDS, 9);
    rig.until(rig.start + Duration::from_secs(15));
    let finished = rig.finished().unwrap();
    assert_eq!((finished.rounds, finished.lanes.len()), (ROUNDS, ROUNDS.into()));
    assert_eq!(rig.origin_of(9), None);
}

#[test]
fn lanes_of_a_round_begin_at_its_own_port() {
    let mut rig = plain();
    for round in 1..ROUNDS {
        rig.begin(round, 1 + round);
        rig.until(rig.now + 50 * MS);
    }
    for round in 0..ROUNDS {
        assert_eq!(rig.origin_of(1 + round), Some(Origin::Round(round)));
    }
    let socket = *rig.dials().last().unwrap();
    rig.dialled(socket, Dialled::Connected);
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(rig.finished().unwrap().winner.unwrap().round, ROUNDS - 1);
}

#[test]
fn what_is_no_next_round_is_ignored() {
    let mut rig = plain();
    for round in [0, 2, 3, ROUNDS, u8::MAX] {
        rig.begin(round, 7);
        rig.input(Input::RoundWanted { round: round.max(2) });
        rig.input(Input::PeerSays { round, word: Word::Fired });
    }
    rig.begin(1, 2);
    rig.begin(1, 3);
    rig.until(rig.now + 100 * MS);
    assert_eq!((rig.origin_of(7), rig.origin_of(3)), (None, None));
    assert_eq!(rig.origin_of(2), Some(Origin::Round(1)));
    assert!(!rig.opened().contains(&(1, false)), "the broker has begun it");
}

#[test]
fn a_port_that_steps_is_looked_at_just_before() {
    for (own, peer) in [
        (easy(Refusal::Drop), symmetric(Allocation::Stepping(1), Refusal::Drop)),
        (symmetric(Allocation::Stepping(1), Refusal::Drop), easy(Refusal::Drop)),
    ] {
        let mut rig = Rig::between(true, 50 * MS, own, peer);
        rig.lane(1);
        assert_eq!(rig.opened(), [(1, false)], "before Go");
        rig.input(Input::Go);
        rig.until(rig.start + 400 * MS);
        assert!(rig.dials().is_empty(), "no step in vain");
    }
}

#[test]
fn the_peers_wish_for_a_round_is_met_once() {
    let mut rig = plain();
    rig.input(Input::RoundWanted { round: 1 });
    rig.input(Input::RoundWanted { round: 1 });
    assert_eq!(rig.opened(), [(1, false)]);
    rig.begin(1, 2);
    rig.input(Input::RoundWanted { round: 2 });
    assert_eq!(rig.opened(), [(1, false), (2, false)]);
}

#[test]
fn a_better_profile_begins_a_round_only_where_it_changes_what_is_done() {
    let (known, random) = (easy(Refusal::Drop), symmetric(Allocation::Random, Refusal::Drop));
    let resetting = easy(Refusal::Reset);
    for (own, peer, expected) in [
        (known, known, &[][..]),
        (known, resetting, &[]),
        (random, random, &[]),
        (known, random, &[]),
        (known, symmetric(Allocation::Stepping(1), Refusal::Drop), &[(1, false)]),
    ] {
        let mut rig = plain();
        rig.input(Input::Profiles { own, peer });
        rig.input(Input::Profiles { own, peer });
        assert_eq!(rig.opened(), expected, "{own:?} {peer:?}");
    }
}

#[test]
fn nothing_is_sent_or_said_before_go_whatever_is_learned_of_the_networks() {
    let random = symmetric(Allocation::Random, Refusal::Drop);
    let block = symmetric(Allocation::Block { first: 40_960, last: 41_023 }, Refusal::Reset);
    for (own, peer) in [
        (easy(Refusal::Drop), random),
        (random, easy(Refusal::Drop)),
        (block, easy(Refusal::Reset)),
        (easy(Refusal::Icmp), block),
    ] {
        let mut rig = Rig::new(true, 50 * MS);
        rig.lane(1);
        rig.input(Input::Profiles { own, peer });
        rig.until(rig.start + 200 * MS);
        assert_eq!(rig.outputs, [], "{own:?} {peer:?}");
        rig.input(Input::Go);
        rig.until(rig.now + 300 * MS);
        let begins = |output: &Output| matches!(output, Output::Dial { .. } | Output::Tell { .. });
        assert!(rig.outputs.iter().any(begins), "{own:?} {peer:?}");
    }
}

#[test]
fn ports_that_turn_out_to_step_before_go_are_looked_at_just_before_they_are_dialled() {
    let mut rig = Rig::new(true, 50 * MS);
    rig.lane(1);
    let stepping = symmetric(Allocation::Stepping(1), Refusal::Drop);
    rig.input(Input::Profiles { own: easy(Refusal::Drop), peer: stepping });
    rig.input(Input::Profiles { own: easy(Refusal::Drop), peer: stepping });
    assert_eq!(rig.opened(), [(1, false)]);
    rig.input(Input::Go);
    rig.until(rig.start + 300 * MS);
    assert!(rig.dials().is_empty(), "no step in vain");
}

#[test]
fn a_doubt_about_the_mapping_shortens_the_first_round() {
    let doubtful =
        NatProfile { mapping: Behaviour::Unknown, allocation: Allocation::Changing, ..easy(Refusal::Drop) };
    let mut rig = Rig::between(true, 50 * MS, easy(Refusal::Drop), doubtful);
    rig.lane(1);
    rig.input(Input::Go);
    rig.until(rig.start + 2 * 50 * MS + ROUND_AFTER_DOUBT - MS);
    assert_eq!(rig.opened(), []);
    rig.until(rig.start + 2 * 50 * MS + ROUND_AFTER_DOUBT);
    assert_eq!(rig.opened(), [(1, false)]);
}

#[test]
fn a_lane_that_icmp_spoiled_is_no_reason_to_wait() {
    let mut rig = plain();
    rig.until(rig.start + 30 * MS);
    rig.dialled(rig.dials()[0], Dialled::Unreachable);
    assert_eq!(rig.opened(), [], "the hole is open still");
    rig.dialled(rig.dials()[1], Dialled::InUse);
    assert_eq!(rig.opened(), [(1, false)]);
    assert!(!rig.listens_in(1), "nothing can come in between two SYNs there");
    rig.until(rig.start + PATIENCE);
    rig.begin(1, 2);
    rig.until(rig.now + 2 * 50 * MS + 2 * ROUND_AFTER);
    assert!(rig.opened().len() == 2 && rig.listens_in(2), "without a reason it listens");
    let mut accepted = plain();
    accepted.dialled(accepted.dials()[0], Dialled::InUse);
    assert_eq!(accepted.opened(), [], "what comes in is good");
}

#[test]
fn what_comes_in_between_two_syns_after_icmp_spoils_a_lane_whoever_tells_first() {
    let mut rig = plain();
    rig.dialled(rig.dials()[0], Dialled::Unreachable);
    let crossed = rig.dials()[1];
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    assert_eq!((rig.opened(), rig.listens_in(1)), (vec![(1, false)], false));
    rig.dialled(crossed, Dialled::InUse);
    rig.until(rig.start + PATIENCE);
    rig.begin(1, 2);
    rig.until(rig.now + MS);
    assert_eq!(rig.opened(), [(1, false)], "one reason, one round");
}

#[test]
fn a_lane_that_icmp_spoils_while_its_next_round_is_on_the_way_is_no_reason_for_a_third() {
    let mut rig = plain();
    rig.input(Input::RoundWanted { round: 1 });
    assert!(rig.opened() == [(1, false)] && rig.listens_in(1));
    rig.dialled(rig.dials()[0], Dialled::Unreachable);
    rig.dialled(rig.dials()[1], Dialled::InUse);
    rig.until(rig.now + 10 * MS);
    rig.begin(1, 2);
    rig.until(rig.now + MS);
    assert_eq!(rig.opened(), [(1, false)]);
}

#[test]
fn many_ports_get_longer_than_one_before_the_next_round() {
    let mut rig =
        Rig::between(true, 50 * MS, easy(Refusal::Drop), symmetric(Allocation::Random, Refusal::Drop));
    rig.lane(1);
    rig.input(Input::Go);
    rig.until(rig.start + 2 * 50 * MS + ROUND_AFTER_VOLLEY - MS);
    assert_eq!(rig.opened(), []);
    rig.until(rig.start + 2 * 50 * MS + ROUND_AFTER_VOLLEY);
    assert_eq!(rig.opened(), [(1, false)]);
}

#[test]
fn where_ports_are_hopeless_only_ipv6_has_further_rounds() {
    let random = symmetric(Allocation::Random, Refusal::Drop);
    let mut rig = Rig::between(true, 50 * MS, random, random);
    rig.lane(1);
    rig.input(Input::Go);
    rig.until(rig.start + 5000 * MS);
    assert_eq!(rig.opened(), []);
    let mut both = Rig::between(true, 50 * MS, random, random);
    both.lane(1);
    let address = "[2001:db8::1]:40000".parse().unwrap();
    both.input(Input::Candidate(Candidate { address, kind: Kind::Reflexive }));
    both.input(Input::Go);
    both.until(both.start + SYMMETRIC_WITHIN + MS);
    assert_eq!(both.opened(), [(1, true)]);
    assert!(both.finished().is_none(), "IPv6 gets the whole time");
}

#[test]
fn there_is_no_further_round_while_a_connection_has_shown_that_it_is_the_peers() {
    let mut rig = Rig::between(false, 50 * MS, easy(Refusal::Drop), easy(Refusal::Drop));
    rig.lane(1);
    rig.input(Input::Go);
    let socket = rig.dials()[0];
    rig.dialled(socket, Dialled::Connected);
    rig.input(Input::Verified { socket, nominated: false });
    rig.until(rig.start + 3000 * MS);
    assert_eq!(rig.opened(), []);
}

#[test]
fn in_further_rounds_each_side_fires_first_once_or_who_refuses_does() {
    let late = |controlling, own, peer, round| {
        let mut rig = Rig::between(controlling, 100 * MS, easy(own), easy(peer));
        rig.lane(1);
        rig.input(Input::Go);
        (1..round).for_each(|before| rig.begin(before, 1 + before));
        rig.until(rig.now + 99 * MS);
        rig.begin(round, 9);
        let at_once = rig.origin_of(9).is_some();
        rig.until(rig.now + 25 * MS);
        assert!(rig.origin_of(9).is_some());
        !at_once
    };
    let unknown = Refusal::Unknown;
    for round in 1..ROUNDS {
        let sides = [true, false].map(|controlling| late(controlling, unknown, unknown, round));
        assert_eq!(sides, [round % 2 == 1, round % 2 == 0], "round {round}");
        assert!(!late(true, Refusal::Reset, Refusal::Drop, round));
        assert!(late(false, Refusal::Drop, Refusal::Reset, round));
    }
}

#[test]
fn where_a_symmetric_side_was_seen_it_is_not_dialled_and_may_come_in() {
    let config = config(true, 50 * MS, easy(Refusal::Drop), symmetric(Allocation::Random, Refusal::Drop));
    let mut rig = Rig::of(Config { sockets: 0, ..config });
    rig.lane(1);
    rig.input(Input::Go);
    rig.lane(2);
    let stranger = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket: stranger, remote: remote(1) });
    rig.input(Input::Failed { socket: stranger });
    rig.begin(1, 3);
    rig.until(rig.start + 5000 * MS);
    assert_eq!(rig.dials(), []);
    assert!(rig.finished().is_none(), "listening is all it does, and enough");
    rig.input(Input::Candidate(Candidate { address: remote(4), kind: Kind::Host }));
    assert_eq!(rig.dials().len(), 1, "in the own network there is no NAT");
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: remote(1) });
    rig.input(Input::Verified { socket, nominated: false });
    assert_eq!(rig.finished().unwrap().winner.unwrap().socket, socket);
}

#[test]
fn rounds_that_are_switched_off_never_begin() {
    let (easy, random) = (easy(Refusal::Drop), symmetric(Allocation::Random, Refusal::Drop));
    let mut config = config(true, 50 * MS, easy, easy);
    config.rules.rounds = false;
    let mut rig = Rig::of(config);
    rig.lane(1);
    rig.input(Input::Go);
    rig.input(Input::RoundWanted { round: 1 });
    rig.input(Input::Profiles { own: easy, peer: random });
    rig.begin(1, 2);
    rig.until(rig.start + 5000 * MS);
    assert_eq!((rig.opened(), rig.origin_of(2)), (vec![], None));
}
