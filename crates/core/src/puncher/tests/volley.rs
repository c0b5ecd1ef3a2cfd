//! Many ports at once: how fast, how long, how many, and which of them counts.

use std::collections::BTreeSet;

use super::*;
use crate::limits::{
    BIRTHDAY_PORTS, BIRTHDAY_SPREAD, BLOCK_PORTS, BLOCK_SPREAD, CROSSING_BLOCK_OVER, CROSSING_NEAR,
    CROSSING_STEPS_OVER, CROSSING_WITHIN, FIRED_WITHIN, HURRIES_FROM, MISS_HELD, REFIRES_OF_VOLLEY,
    REFUSAL_KNOWN_WITHIN, ROUND_AFTER_SMALL_VOLLEY, ROUND_TRIP_LEAST, SECOND_REST_WITHIN, SECOND_WITHIN,
    SECOND_WITHIN_LONG, SPREAD_HELD, STEPS_AHEAD, STEPS_BOTH, STEPS_SPREAD, SYNS_BESIDE_VOLLEY, VOLLEY_BATCH,
    VOLLEY_PACE,
};

fn random(refusal: Refusal) -> NatProfile {
    symmetric(Allocation::Random, refusal)
}

fn block(ports: u16) -> NatProfile {
    symmetric(Allocation::Block { first: 50_000, last: 50_000 + ports - 1 }, Refusal::Drop)
}

/// The peer was seen at `remote(1)`, and Go was heard.
fn begun(config: Config) -> Rig {
    let mut rig = Rig::of(config);
    rig.lane(1);
    rig.input(Input::Go);
    rig
}

fn between(own: NatProfile, peer: NatProfile) -> Rig {
    begun(config(true, 50 * MS, own, peer))
}

/// The second round, with the peer's fresh port at `port`.
fn second_round(own: NatProfile, peer: NatProfile, port: u16) -> Rig {
    let mut rig = between(own, peer);
    rig.input(round(1, port));
    rig.until(rig.now + 100 * MS);
    rig
}

fn round(round: u8, port: u16) -> Input {
    let address = SocketAddr::new(remote(1).ip(), port);
    Input::Round { round, candidates: vec![Candidate { address, kind: Kind::Reflexive }] }
}

const BOTH_WORDS: [(u8, Word); 2] = [(0, Word::Ready), (0, Word::Fired)];

/// How long after the first batch the last of so many leaves.
fn volley_takes(shots: u16) -> Duration {
    let batches = usize::from(shots).div_ceil(VOLLEY_BATCH);
    VOLLEY_PACE * (u32::try_from(batches).unwrap() - 1)
}

impl Rig {
    fn shots(&self) -> Vec<(SocketId, Origin, SocketAddr)> {
        let shot = |output: &Output| match output {
            Output::Dial { socket, origin, remote, many: true } => Some((*socket, *origin, *remote)),
            _ => None,
        };
        self.outputs.iter().filter_map(shot).collect()
    }

    fn targets(&self) -> Vec<u16> {
        self.shots().iter().map(|(_, _, remote)| remote.port()).collect()
    }

    fn closed(&self) -> BTreeSet<SocketId> {
        let closed = |output: &Output| match output {
            Output::Close { socket } => Some(*socket),
            _ => None,
        };
        self.outputs.iter().filter_map(closed).collect()
    }

    fn released(&self) -> BTreeSet<SocketId> {
        let released = |output: &Output| match output {
            Output::Release { socket } => Some(*socket),
            _ => None,
        };
        self.outputs.iter().filter_map(released).collect()
    }

    fn told(&self) -> Vec<(u8, Word)> {
        let told = |output: &Output| match output {
            Output::Tell { round, word } => Some((*round, *word)),
            _ => None,
        };
        self.outputs.iter().filter_map(told).collect()
    }
}

#[test]
fn many_ports_are_dialled_from_one_in_paced_batches() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    let (_, shots) = BIRTHDAY_SPREAD;
    let mut expected = 0;
    while expected < usize::from(shots) {
        expected = (expected + VOLLEY_BATCH).min(usize::from(shots));
        assert_eq!(rig.shots().len(), expected);
        rig.until(rig.now + VOLLEY_PACE - MS / 10);
        assert_eq!(rig.shots().len(), expected, "not before its time");
        rig.until(rig.now + MS / 10);
    }
    rig.until(rig.start + 250 * MS);
    let targets: BTreeSet<u16> = rig.targets().into_iter().collect();
    assert_eq!((rig.shots().len(), targets.len()), (shots.into(), shots.into()), "each port once");
    assert!(*targets.first().unwrap() >= BIRTHDAY_PORTS.0);
    let from_door = |(_, origin, to): &(SocketId, Origin, SocketAddr)| {
        *origin == Origin::Round(0) && to.ip() == remote(1).ip()
    };
    assert!(rig.shots().iter().all(from_door));
    assert_eq!(rig.dials().len(), rig.shots().len(), "where it was seen nobody is");
    let finished_ports = |rig: &mut Rig| {
        rig.until(rig.start + Duration::from_secs(15));
        let report = rig.finished().unwrap().volleys[0];
        (report.own_ports, report.peer_ports, report.syns)
    };
    assert_eq!(finished_ports(&mut rig), (1, shots.into(), shots.into()));
}

#[test]
fn one_port_is_dialled_from_many_which_are_held_for_a_peer_that_is_late() {
    let mut rig = between(random(Refusal::Drop), easy(Refusal::Drop));
    let (spread, _) = BIRTHDAY_SPREAD;
    let last = volley_takes(spread);
    rig.until(rig.start + last);
    assert_eq!(rig.targets(), vec![remote(1).port(); spread.into()]);
    assert!(rig.shots().iter().all(|(_, origin, _)| *origin == Origin::Scratch));
    rig.until(rig.start + last + SPREAD_HELD - MS);
    assert!(rig.released().is_empty());
    rig.until(rig.start + last + SPREAD_HELD);
    let released = rig.released();
    assert_eq!(released.len(), spread.into());
    // The peer's SYN came in on one of them: it is the last that is heard of.
    let late = *released.last().unwrap();
    for socket in released.into_iter().filter(|socket| *socket != late) {
        rig.dialled(socket, Dialled::TimedOut);
    }
    rig.dialled(late, Dialled::Connected);
    assert!(rig.outputs.contains(&Output::Authenticate { socket: late, nominate: false, cautious: false }));
    rig.input(Input::Failed { socket: late });
    assert!(rig.finished().is_none(), "the peer may still come in");
}

#[test]
fn misses_are_kept_long_enough_and_closed_before_the_kernel_repeats_them() {
    let (_, shots) = BIRTHDAY_SPREAD;
    let last = volley_takes(shots);
    assert!(last + MISS_HELD < Duration::from_secs(1), "the first shot is not repeated either");
    for (refusal, round_trip) in
        [(Refusal::Drop, MS), (Refusal::Drop, 200 * MS), (Refusal::Drop, 2000 * MS), (Refusal::Reset, MS)]
    {
        let mut rig = begun(config(true, round_trip, easy(refusal), random(Refusal::Drop)));
        rig.until(rig.start + last + MISS_HELD - MS);
        assert!(rig.released().is_empty(), "{refusal:?} {round_trip:?}");
        rig.until(rig.start + last + MISS_HELD);
        assert_eq!(rig.released().len(), shots.into(), "{refusal:?} {round_trip:?}");
    }
}

#[test]
fn a_hit_is_not_nominated_before_it_has_shown_who_it_is_and_wins_then() {
    for controlling in [true, false] {
        let mut rig = begun(config(controlling, 50 * MS, easy(Refusal::Drop), random(Refusal::Drop)));
        rig.until(rig.start + 100 * MS);
        let socket = rig.shots()[700].0;
        rig.dialled(socket, Dialled::Connected);
        assert!(rig.outputs.contains(&Output::Authenticate { socket, nominate: false, cautious: false }));
        assert!(rig.puncher.is_birthday(socket), "the other side is told");
        rig.input(Input::Verified { socket, nominated: !controlling });
        assert_eq!(rig.outputs.contains(&Output::Nominate { socket }), controlling);
        let winner = Winner { socket, kind: None, round: 0, birthday: true };
        assert_eq!(rig.finished().unwrap().winner, Some(winner));
        let others = rig.shots().iter().map(|shot| shot.0).filter(|shot| *shot != socket).collect();
        assert_eq!(rig.closed(), others, "all but the hit are closed");
    }
}

#[test]
fn what_comes_in_from_a_port_that_nobody_saw_was_perhaps_dialled_where_this_side_was_seen() {
    let mut rig = between(random(Refusal::Drop), easy(Refusal::Drop));
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: "203.0.113.1:5".parse().unwrap() });
    rig.input(Input::Verified { socket, nominated: false });
    let winner = Winner { socket, kind: None, round: 0, birthday: false };
    assert_eq!(rig.finished().unwrap().winner, Some(winner));
}

#[test]
fn a_block_is_no_matter_of_luck() {
    let mut rig = between(easy(Refusal::Drop), block(64));
    rig.until(rig.start + 10 * MS);
    let targets: BTreeSet<u16> = rig.targets().into_iter().collect();
    assert_eq!(targets, (50_000..50_064).collect(), "all of it");
    let socket = rig.shots()[3].0;
    rig.dialled(socket, Dialled::Connected);
    rig.input(Input::Verified { socket, nominated: false });
    assert!(!rig.finished().unwrap().winner.unwrap().birthday);
    let mut large = between(easy(Refusal::Drop), block(1024));
    large.until(large.start + 100 * MS);
    let targets: BTreeSet<u16> = large.targets().into_iter().collect();
    assert!(
        targets.len() == usize::from(BLOCK_PORTS)
            && targets.iter().all(|port| (50_000..51_024).contains(port))
    );
}

#[test]
fn a_stranger_at_one_of_so_many_ports_ends_nothing() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    rig.until(rig.start + 100 * MS);
    let [stranger, peer] = [1, 2].map(|n| rig.shots()[n].0);
    rig.dialled(stranger, Dialled::Connected);
    rig.input(Input::Failed { socket: stranger });
    rig.dialled(peer, Dialled::Connected);
    rig.input(Input::Verified { socket: peer, nominated: false });
    let finished = rig.finished().unwrap();
    assert_eq!((finished.winner.unwrap().socket, finished.volleys[0].impostors), (peer, 1));
}

#[test]
fn whose_nat_resets_fires_first_and_says_so_as_soon_as_all_is_out_before_the_word_comes() {
    let mut rig = between(easy(Refusal::Reset), random(Refusal::Drop));
    assert!(!rig.shots().is_empty(), "at once");
    rig.until(rig.start + 200 * MS);
    assert_eq!(rig.told(), BOTH_WORDS);
    let fired = |output: &Output| matches!(output, Output::Tell { word: Word::Fired, .. });
    let at = rig.outputs.iter().position(fired).unwrap();
    let after = rig.outputs[at..].iter().filter(|output| matches!(output, Output::Dial { .. })).count();
    // Half the bound of the round trip is 25 ms.
    assert!((1..=25 * VOLLEY_BATCH).contains(&after), "{after}");
    let mut spread = between(random(Refusal::Reset), easy(Refusal::Drop));
    spread.until(spread.start + 200 * MS);
    assert_eq!(spread.told(), BOTH_WORDS);
    let mut neither = between(easy(Refusal::Drop), random(Refusal::Drop));
    neither.until(neither.start + 200 * MS);
    assert_eq!(neither.told(), BOTH_WORDS, "the other side may not know yet that nothing is refused here");
}

#[test]
fn the_other_side_fires_at_that_word_and_not_never_without_it() {
    for (own, peer) in
        [(easy(Refusal::Drop), random(Refusal::Reset)), (random(Refusal::Drop), easy(Refusal::Reset))]
    {
        let mut rig = between(own, peer);
        rig.until(rig.start + 77 * MS);
        assert!(rig.shots().is_empty());
        rig.input(Input::PeerSays { round: 1, word: Word::Fired });
        assert!(rig.shots().is_empty(), "another round's");
        rig.input(Input::PeerSays { round: 0, word: Word::Fired });
        assert_eq!(rig.shots().len(), VOLLEY_BATCH);
        let mut lost = between(own, peer);
        let dials = own == easy(Refusal::Drop);
        let by_itself = if dials { SECOND_WITHIN_LONG } else { SECOND_WITHIN - 75 * MS };
        lost.until(lost.start + by_itself - MS);
        assert!(lost.shots().is_empty());
        lost.until(lost.start + by_itself);
        assert_eq!(lost.shots().len(), VOLLEY_BATCH);
        assert_eq!(lost.told(), [(0, Word::Ready)]);
        // Ports that dial one port are held longer than those that are dialled: of the former a part is for who is late.
        lost.until(lost.start + SECOND_REST_WITHIN - MS);
        let (spread, shots) = BIRTHDAY_SPREAD;
        let first_half = (spread / 2).next_multiple_of(VOLLEY_BATCH.try_into().unwrap());
        assert_eq!(lost.shots().len(), if dials { shots } else { first_half }.into());
        lost.until(lost.start + SECOND_REST_WITHIN + volley_takes(spread));
        assert_eq!(lost.shots().len(), if dials { shots } else { spread }.into());
    }
}

#[test]
fn who_has_kept_quiet_dials_when_the_other_turns_out_to_let_in() {
    let own = NatProfile { filtering: Behaviour::PortIndependent, ..random(Refusal::Drop) };
    let unmeasured = NatProfile {
        mapping: Behaviour::Unknown,
        allocation: Allocation::Unknown,
        filtering: Behaviour::Unknown,
        ..easy(Refusal::Unknown)
    };
    let mut rig = between(own, unmeasured);
    assert!(rig.dials().is_empty() && rig.told().is_empty(), "its SYN would be the double of what comes in");
    let peer = NatProfile { filtering: Behaviour::PortIndependent, ..easy(Refusal::Unknown) };
    rig.input(Input::Profiles { own, peer });
    rig.until(rig.now + 10 * MS);
    assert_eq!((rig.dials().len(), rig.shots().len()), (1, 0));
    assert!(!rig.outputs.iter().any(|output| matches!(output, Output::Open { .. })), "from the same port");
}

/// A second round far away, of one that is second in it; nothing of it has been heard yet.
fn far_second_round(own: NatProfile, peer: NatProfile, bound: Duration) -> Rig {
    let mut rig = begun(config(true, bound, own, peer));
    rig.input(round(1, 40_000));
    rig
}

#[test]
fn far_away_who_is_second_to_ports_that_step_does_not_wait_for_the_word() {
    let stepping = |refusal| symmetric(Allocation::Stepping(1), refusal);
    for (own, peer, shots) in [
        (easy(Refusal::Drop), stepping(Refusal::Reset), STEPS_AHEAD),
        (stepping(Refusal::Drop), easy(Refusal::Reset), STEPS_SPREAD),
    ] {
        let mut rig = far_second_round(own, peer, 400 * MS);
        let began = rig.now;
        rig.until(began + 50 * MS - MS);
        assert!(rig.shots().is_empty(), "first the other side");
        rig.until(began + 50 * MS + volley_takes(shots));
        assert_eq!(rig.shots().len(), shots.into());
        // The other side is late, and its NAT has refused all of it.
        rig.until(began + 250 * MS);
        for (socket, ..) in rig.shots() {
            rig.dialled(socket, Dialled::Refused);
        }
        rig.until(began + 400 * MS);
        assert_eq!(rig.shots().len(), shots.into(), "it would be refused again");
        rig.input(Input::PeerSays { round: 1, word: Word::Fired });
        rig.until(rig.now + volley_takes(shots));
        assert_eq!(rig.shots().len(), 2 * usize::from(shots), "the other side's ports are open now");
        rig.until(began + 400 * MS + MISS_HELD - MS);
        assert!(rig.released().is_empty(), "held as long as all");
        rig.until(began + 400 * MS + MISS_HELD + 1000 * MS);
        assert!(!rig.released().is_empty());
        // Another such round would leave too little for the last.
        rig.input(round(2, 41_000));
        rig.until(rig.now + 300 * MS);
        assert_eq!(rig.shots().len(), 2 * usize::from(shots));
    }
}

#[test]
fn who_is_second_waits_for_the_word_nearby_and_where_the_ports_of_both_step() {
    let stepping = |refusal| symmetric(Allocation::Stepping(1), refusal);
    let near = HURRIES_FROM - MS;
    for (own, peer, bound) in [
        (easy(Refusal::Drop), stepping(Refusal::Reset), near),
        (stepping(Refusal::Drop), easy(Refusal::Reset), near),
        (stepping(Refusal::Drop), stepping(Refusal::Reset), 400 * MS),
    ] {
        let mut rig = far_second_round(own, peer, bound);
        rig.until(rig.now + 150 * MS);
        assert!(rig.shots().is_empty(), "{own:?}");
        rig.input(Input::PeerSays { round: 1, word: Word::Fired });
        assert!(!rig.shots().is_empty());
    }
}

#[test]
fn who_is_ready_to_fire_first_has_fired_soon_after() {
    for (own, peer) in
        [(easy(Refusal::Drop), random(Refusal::Reset)), (random(Refusal::Drop), easy(Refusal::Reset))]
    {
        let mut rig = between(own, peer);
        rig.until(rig.start + 80 * MS);
        rig.input(Input::PeerSays { round: 0, word: Word::Ready });
        rig.until(rig.start + 80 * MS + FIRED_WITHIN - MS);
        assert!(rig.shots().is_empty());
        rig.until(rig.start + 80 * MS + FIRED_WITHIN);
        assert_eq!(rig.shots().len(), VOLLEY_BATCH);
        let all = volley_takes(1024);
        rig.until(rig.now + all);
        let (spread, shots) = BIRTHDAY_SPREAD;
        let planned = if own == easy(Refusal::Drop) { shots } else { spread };
        assert_eq!(rig.shots().len(), planned.into(), "all of them");
    }
}

#[test]
fn what_is_learnt_of_refusals_before_the_first_shot_sets_the_order() {
    let (own, peer) = (random(Refusal::Drop), easy(Refusal::Unknown));
    let learnt = |refusal| Input::Profiles { own, peer: easy(refusal) };
    let mut silent = between(own, peer);
    silent.until(silent.start + 5 * MS);
    assert!(silent.shots().is_empty(), "it may reset");
    silent.input(learnt(Refusal::Drop));
    assert_eq!(silent.shots().len(), VOLLEY_BATCH);
    let mut resetting = between(own, peer);
    resetting.input(learnt(Refusal::Reset));
    resetting.until(resetting.start + 77 * MS);
    assert!(resetting.shots().is_empty());
    resetting.input(Input::PeerSays { round: 0, word: Word::Fired });
    assert_eq!(resetting.shots().len(), VOLLEY_BATCH);
    let mut told = between(own, peer);
    told.input(Input::PeerSays { round: 0, word: Word::Fired });
    let first = told.shots().len();
    told.input(learnt(Refusal::Reset));
    told.until(told.start + 5 * MS);
    assert!(told.shots().len() > first, "what has begun goes on");
}

#[test]
fn a_word_that_comes_before_its_round_is_kept() {
    let (own, peer) = (easy(Refusal::Drop), random(Refusal::Reset));
    let mut rig = Rig::between(true, 50 * MS, own, peer);
    rig.lane(1);
    rig.input(Input::PeerSays { round: 0, word: Word::Fired });
    assert!(rig.dials().is_empty(), "Go is waited for");
    rig.input(Input::Go);
    assert_eq!(rig.shots().len(), VOLLEY_BATCH);
    let stepping = symmetric(Allocation::Stepping(1), Refusal::Reset);
    let mut second = between(easy(Refusal::Drop), stepping);
    second.input(Input::PeerSays { round: 1, word: Word::Fired });
    second.input(round(1, 40_000));
    assert_eq!(second.shots().len(), VOLLEY_BATCH);
    let mut other = between(easy(Refusal::Drop), stepping);
    other.input(Input::PeerSays { round: 0, word: Word::Fired });
    other.input(round(1, 40_000));
    assert!(other.shots().is_empty(), "another round's");
}

#[test]
fn where_both_reset_both_begin_when_the_later_has_heard_go() {
    // The word takes half a bound of the round trip; whoever heard Go later hears it sooner after.
    for (word, begins) in [(10 * MS, 50 * MS), (49 * MS, 50 * MS), (80 * MS, 80 * MS)] {
        for (own, peer) in
            [(easy(Refusal::Reset), random(Refusal::Reset)), (random(Refusal::Unknown), easy(Refusal::Reset))]
        {
            let mut rig = begun(config(true, 100 * MS, own, peer));
            assert_eq!(rig.told(), [(0, Word::Ready)], "said at once");
            rig.until(rig.start + word - MS / 10);
            assert!(rig.shots().is_empty(), "{word:?}");
            rig.until(rig.start + word);
            rig.input(Input::PeerSays { round: 0, word: Word::Ready });
            let at_once = if word == begins { VOLLEY_BATCH } else { 0 };
            assert_eq!(rig.shots().len(), at_once, "{word:?}");
            rig.until(rig.start + begins);
            assert_eq!(rig.shots().len(), VOLLEY_BATCH, "{word:?}");
        }
    }
    let mut lost = begun(config(true, 100 * MS, easy(Refusal::Reset), random(Refusal::Reset)));
    lost.until(lost.start + 200 * MS + CROSSING_WITHIN);
    assert_eq!(lost.shots().len(), VOLLEY_BATCH);
}

#[test]
fn what_is_refused_is_fired_again_only_where_syns_must_cross_and_within_the_budget() {
    let (_, shots) = BIRTHDAY_SPREAD;
    for (refusal, most) in [(Refusal::Reset, shots + REFIRES_OF_VOLLEY), (Refusal::Drop, shots)] {
        let mut rig = between(easy(refusal), random(Refusal::Reset));
        rig.input(Input::PeerSays { round: 0, word: Word::Fired });
        let mut answered = 0;
        while rig.now < rig.start + 400 * MS {
            let sockets: Vec<SocketId> = rig.shots().iter().skip(answered).map(|shot| shot.0).collect();
            answered += sockets.len();
            rig.until(rig.now + 5 * MS);
            sockets.into_iter().for_each(|socket| rig.dialled(socket, Dialled::Refused));
        }
        assert_eq!(rig.shots().len(), most.into(), "{refusal:?}");
        assert_eq!(rig.puncher.syns(), most.into());
    }
}

#[test]
fn a_hole_that_icmp_left_open_gets_a_live_socket_a_few_times() {
    let mut rig = between(random(Refusal::Drop), easy(Refusal::Drop));
    let (spread, _) = BIRTHDAY_SPREAD;
    rig.until(rig.start + 100 * MS);
    for (socket, ..) in rig.shots() {
        rig.dialled(socket, Dialled::Unreachable);
    }
    let again = rig.shots().len() - usize::from(spread);
    assert_eq!(again, REFIRE_AT_ONCE as usize);
}

#[test]
fn what_was_refused_before_makes_a_hit_cautious() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    let [refused, hit] = [0, 1].map(|n| rig.shots()[n].0);
    rig.dialled(refused, Dialled::Refused);
    rig.dialled(hit, Dialled::Connected);
    let cautious = |socket| Output::Authenticate { socket, nominate: false, cautious: true };
    assert!(rig.outputs.contains(&cautious(hit)));
    let socket = rig.puncher.name_socket();
    rig.input(Input::Accepted { socket, remote: "203.0.113.1:5".parse().unwrap() });
    assert!(rig.outputs.contains(&cautious(socket)));
}

#[test]
fn what_comes_in_where_a_syn_is_under_way_follows_a_refusal_that_nobody_has_told_yet() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    let (_, _, target) = rig.shots()[3];
    let mut accepted = |remote: SocketAddr| {
        let socket = rig.puncher.name_socket();
        rig.input(Input::Accepted { socket, remote });
        rig.outputs.iter().find_map(|output| match output {
            Output::Authenticate { socket: it, cautious, .. } if *it == socket => Some(*cautious),
            _ => None,
        })
    };
    assert_eq!(accepted("203.0.113.1:5".parse().unwrap()), Some(false));
    assert_eq!(accepted(target), Some(true));
}

#[test]
fn what_is_refused_of_a_small_volley_leaves_enough_for_later_rounds() {
    for own in [easy(Refusal::Drop), easy(Refusal::Reset)] {
        let mut rig = second_round(own, symmetric(Allocation::Stepping(1), Refusal::Reset), 40_000);
        for number in 1..ROUNDS {
            let (before, began) = (rig.shots().len(), rig.now);
            if number > 1 {
                rig.input(round(number, 50_000 + 100 * u16::from(number)));
            }
            rig.input(Input::PeerSays { round: number, word: Word::Fired });
            let mut answered = if number > 1 { before } else { 0 };
            while rig.now < began + MISS_HELD {
                rig.until(rig.now + 5 * MS);
                let sockets: Vec<SocketId> = rig.shots().iter().skip(answered).map(|shot| shot.0).collect();
                answered += sockets.len();
                sockets.into_iter().for_each(|socket| rig.dialled(socket, Dialled::Refused));
            }
            let fired = rig.shots().len() - if number > 1 { before } else { 0 };
            assert!(fired >= STEPS_AHEAD.into(), "{own:?} round {number}: {fired}");
        }
        let all = rig.shots().len();
        assert!((96..=128).contains(&all) && all > 96, "some again, and not without end: {all}");
    }
}

/// When each shot leaves, since Go; both sides have heard it at once.
fn fired(config: Config, until: Duration) -> (Rig, Vec<Duration>) {
    let rig = begun(config);
    fired_in(rig, 0, until)
}

/// When each shot of a round that begins leaves, since then.
fn fired_in(mut rig: Rig, nth: u8, until: Duration) -> (Rig, Vec<Duration>) {
    let begins = rig.now;
    if nth > 0 {
        rig.input(round(nth, 40_000));
    }
    rig.input(Input::PeerSays { round: nth, word: Word::Ready });
    let mut fired = vec![];
    let end = begins + until;
    while rig.now < end {
        fired.resize(rig.shots().len(), rig.now - begins);
        let next = rig.drain().min(end);
        rig.until(next);
    }
    (rig, fired)
}

/// Whether they leave one after the other, each soon after the one before, and the last of them so long after the first.
fn leave_evenly(shots: &[Duration], over: Duration) -> bool {
    let pauses = shots.windows(2).map(|pair| pair[1] - pair[0]);
    let took = *shots.last().unwrap() - shots[0];
    pauses.max().unwrap() < MS && (over * 3 / 4..=over).contains(&took)
}

#[test]
fn what_must_cross_nearby_leaves_both_sides_evenly_where_any_two_ports_may_meet() {
    let resetting = |ports| NatProfile { refusal: Refusal::Reset, ..block(ports) };
    let agreed = MS / 2;
    for (ports, own_ports, dialled) in [(64, 8, 64), (1024, BLOCK_SPREAD.into(), BLOCK_PORTS.into())] {
        let (_, spread) = fired(config(true, MS, resetting(ports), easy(Refusal::Reset)), 20 * MS);
        let (_, shots) = fired(config(true, MS, easy(Refusal::Reset), resetting(ports)), 20 * MS);
        assert_eq!((spread.len(), shots.len()), (own_ports, dialled));
        for fired in [spread, shots] {
            assert_eq!(fired[0], agreed);
            assert!(leave_evenly(&fired, CROSSING_BLOCK_OVER), "{fired:?}");
        }
    }
    let (_, spread) = fired(config(true, CROSSING_NEAR, resetting(64), easy(Refusal::Reset)), 20 * MS);
    assert_eq!(spread, [CROSSING_NEAR / 2; 8], "everything crosses");
    let (_, ordered) = fired(config(true, MS, block(64), easy(Refusal::Drop)), 20 * MS);
    assert_eq!(ordered, [Duration::ZERO; 8], "nothing must");
}

#[test]
fn what_must_cross_nearby_leaves_one_side_at_once_in_the_middle_where_each_port_has_one_counterpart() {
    let stepping = symmetric(Allocation::Stepping(1), Refusal::Reset);
    let agreed = MS / 2;
    let (_, spread) = fired_in(begun(config(true, MS, stepping, easy(Refusal::Reset))), 1, 20 * MS);
    assert_eq!((spread.len(), spread[0]), (STEPS_SPREAD.into(), agreed));
    assert!(leave_evenly(&spread, CROSSING_STEPS_OVER), "{spread:?}");
    let (_, shots) = fired_in(begun(config(true, MS, easy(Refusal::Reset), stepping)), 1, 20 * MS);
    assert_eq!(shots, [agreed + CROSSING_STEPS_OVER / 2; STEPS_AHEAD as usize]);
}

#[test]
fn a_small_volley_of_which_every_syn_was_refused_is_followed_by_the_next_round_soon() {
    let wants = |rig: &Rig| rig.outputs.iter().any(|output| matches!(output, Output::Open { round: 1, .. }));
    let resetting = NatProfile { refusal: Refusal::Reset, ..block(64) };
    for all in [true, false] {
        let (mut rig, _) = fired(config(true, MS, resetting, easy(Refusal::Reset)), 10 * MS);
        let shots = rig.shots();
        let refused = if all { &shots[..] } else { &shots[1..] };
        for (socket, ..) in refused {
            rig.dialled(*socket, Dialled::Refused);
        }
        // Nothing is fired again: its budget is for the later rounds.
        rig.until(rig.now + 2 * ROUND_TRIP_LEAST + 2 * MS);
        assert_eq!((rig.shots().len(), wants(&rig)), (shots.len(), all));
        if all {
            continue;
        }
        let (open, ..) = shots[0];
        rig.dialled(open, Dialled::Connected);
        rig.until(rig.now + 2 * ROUND_TRIP_LEAST + 2 * MS);
        assert!(!wants(&rig), "it may become the connection");
    }
    // The other network was taken for one that does not refuse: what it does may be known a little later.
    let (mut ordered, _) = fired(config(true, MS, resetting, easy(Refusal::Drop)), 10 * MS);
    for (socket, ..) in ordered.shots() {
        ordered.dialled(socket, Dialled::Refused);
    }
    ordered.until(ordered.now + ROUND_AFTER_SMALL_VOLLEY / 2);
    assert!(!wants(&ordered));
    ordered.until(ordered.now + ROUND_AFTER_SMALL_VOLLEY);
    assert!(wants(&ordered));
}

#[test]
fn ports_of_a_stepping_nat_are_foreseen_round_the_end_of_the_range() {
    let (first, last) = BIRTHDAY_PORTS;
    let steps = i32::from(STEPS_AHEAD);
    for (step, port, expected) in [
        (1, 40_000, (40_001..=40_032).collect::<Vec<u16>>()),
        (2, 65_530, [[65_532, 65_534].to_vec(), (0..30).map(|n| first + 2 * n).collect()].concat()),
        (-1, first + 1, [[first].to_vec(), (0..31).map(|n| last - n).collect()].concat()),
    ] {
        let rig =
            second_round(easy(Refusal::Drop), symmetric(Allocation::Stepping(step), Refusal::Drop), port);
        assert_eq!(rig.targets(), expected, "{step} from {port}");
        assert_eq!(i32::try_from(expected.len()), Ok(steps));
        assert!(rig.shots().iter().all(|(_, origin, _)| *origin == Origin::Round(1)));
        assert_eq!(rig.dials().len(), expected.len(), "nor where it was seen, which costs a step");
    }
}

#[test]
fn two_stepping_nats_are_both_aimed_at_where_the_other_will_be() {
    let stepping = |step| symmetric(Allocation::Stepping(step), Refusal::Drop);
    let rig = second_round(stepping(1), stepping(-2), 40_000);
    assert_eq!(rig.targets(), vec![40_000 - 2 * STEPS_BOTH; STEPS_BOTH.into()]);
    assert!(rig.shots().iter().all(|(_, origin, _)| *origin == Origin::Scratch));
    let alone = second_round(stepping(1), easy(Refusal::Drop), 40_000);
    assert_eq!(alone.targets(), vec![40_000; STEPS_SPREAD.into()]);
}

#[test]
fn nothing_is_fired_at_oneself_or_the_broker() {
    let own = SocketAddr::new(remote(1).ip(), 50_007);
    let config = Config { avoid: vec![own], ..config(true, 50 * MS, easy(Refusal::Drop), block(64)) };
    let mut rig = begun(config.clone());
    rig.until(rig.start + 100 * MS);
    assert_eq!(rig.shots().len(), 63);
    assert!(!rig.targets().contains(&own.port()));
    let mut seen_there = Rig::of(Config { own: random(Refusal::Drop), peer: easy(Refusal::Drop), ..config });
    seen_there.input(Input::Candidate(Candidate { address: own, kind: Kind::Reflexive }));
    seen_there.input(Input::Go);
    seen_there.until(seen_there.start + 200 * MS);
    assert!(seen_there.shots().is_empty());
}

#[test]
fn few_descriptors_make_it_smaller_and_too_few_make_it_none() {
    let (_, shots) = BIRTHDAY_SPREAD;
    let enough = usize::from(shots) / 2;
    for (sockets, expected) in
        [(2 * enough, 2 * enough), (enough + 1, enough + 1), (enough, enough), (enough - 1, 0)]
    {
        let config = Config { sockets, ..config(true, 50 * MS, easy(Refusal::Drop), random(Refusal::Drop)) };
        let mut rig = begun(config);
        rig.until(rig.start + 200 * MS);
        assert_eq!(rig.shots().len(), expected);
        rig.until(rig.start + Duration::from_secs(16));
        assert!(rig.finished().is_some());
    }
}

#[test]
fn what_was_no_syn_of_a_volley_does_not_count_as_one() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    assert_eq!(rig.puncher.syns() as usize, VOLLEY_BATCH);
    let [in_use, no_route, lost] = [0, 1, 2].map(|n| rig.shots()[n].0);
    rig.dialled(in_use, Dialled::InUse);
    rig.dialled(no_route, Dialled::NoRoute);
    rig.dialled(lost, Dialled::TimedOut);
    assert_eq!(rig.puncher.syns() as usize, VOLLEY_BATCH - 2);
    assert_eq!(rig.closed(), [in_use, no_route, lost].into());
}

#[test]
fn members_of_a_lobby_are_not_fired_at() {
    let config = config(true, 50 * MS, easy(Refusal::Drop), random(Refusal::Drop));
    let mut rig = begun(Config { strangers: true, ..config });
    rig.input(round(1, 40_000));
    rig.until(rig.start + 1000 * MS);
    assert!(rig.shots().is_empty() && !rig.dials().is_empty());
}

#[test]
fn many_ports_are_given_up_in_time() {
    let mut rig = between(easy(Refusal::Drop), random(Refusal::Drop));
    rig.until(rig.start + VOLLEY_WITHIN - MS);
    assert!(rig.finished().is_none());
    rig.until(rig.start + VOLLEY_WITHIN);
    assert!(rig.finished().is_some());
}

#[test]
fn what_needs_no_luck_goes_first() {
    for other in [
        Candidate { address: "[2001:db8::1]:40000".parse().unwrap(), kind: Kind::Reflexive },
        Candidate { address: remote(2), kind: Kind::Mapped },
    ] {
        let mut rig = Rig::of(config(true, 50 * MS, easy(Refusal::Drop), random(Refusal::Drop)));
        rig.lane(1);
        rig.input(Input::Candidate(other));
        rig.input(Input::Go);
        assert_eq!((rig.dials().len(), rig.shots().len()), (1, 0), "{other:?}");
        rig.until(rig.start + 75 * MS - MS / 10);
        assert!(rig.shots().is_empty());
        rig.until(rig.start + 75 * MS);
        assert_eq!(rig.shots().len(), VOLLEY_BATCH);
        rig.until(rig.start + VOLLEY_WITHIN);
        assert!(rig.finished().is_none(), "it gets the whole time");
    }
}

#[test]
fn many_ports_wait_for_what_is_measured_of_the_other_network() {
    let unmeasured =
        NatProfile { mapping: Behaviour::Unknown, allocation: Allocation::Unknown, ..easy(Refusal::Unknown) };
    let mut rig = between(random(Refusal::Drop), unmeasured);
    rig.until(rig.start + 100 * MS);
    assert!(rig.shots().is_empty() && rig.dials().len() == 1);
    rig.input(Input::Profiles { own: random(Refusal::Drop), peer: easy(Refusal::Drop) });
    assert_eq!(rig.shots().len(), VOLLEY_BATCH, "known now");
    let next = |rig: &Rig| rig.outputs.iter().any(|output| matches!(output, Output::Open { .. }));
    rig.until(rig.start + 100 * MS + ROUND_AFTER_VOLLEY);
    assert!(!next(&rig), "the round has begun anew");
    rig.until(rig.start + 300 * MS + ROUND_AFTER_VOLLEY);
    assert!(next(&rig));
}

#[test]
fn where_a_symmetric_side_was_seen_a_few_syns_are_enough() {
    let peer = NatProfile { filtering: Behaviour::Unknown, ..random(Refusal::Drop) };
    let mut rig = between(easy(Refusal::Drop), peer);
    while let Some(lane) = rig
        .dials()
        .into_iter()
        .find(|socket| rig.shots().iter().all(|shot| shot.0 != *socket) && !rig.closed().contains(socket))
    {
        rig.dialled(lane, Dialled::Refused);
        rig.until(rig.now + 60 * MS);
    }
    let lanes = rig.dials().len() - rig.shots().len();
    assert_eq!(lanes, SYNS_BESIDE_VOLLEY as usize);
    // So it is where there is no volley, or not yet one.
    let unmeasured = NatProfile { filtering: Behaviour::Unknown, ..easy(Refusal::Reset) };
    for (own, peer) in [
        (random(Refusal::Drop), random(Refusal::Drop)),
        (symmetric(Allocation::Stepping(1), Refusal::Drop), unmeasured),
    ] {
        let mut rig = between(own, peer);
        while let Some(lane) = rig.dials().into_iter().find(|socket| !rig.closed().contains(socket)) {
            rig.dialled(lane, Dialled::Refused);
            rig.until(rig.now + 60 * MS);
        }
        assert_eq!(rig.dials().len(), SYNS_BESIDE_VOLLEY as usize);
    }
}

#[test]
fn a_volley_that_has_not_begun_gives_way_to_one_syn_where_somebody_turns_out_to_let_in() {
    let unmeasured = NatProfile { filtering: Behaviour::Unknown, ..easy(Refusal::Unknown) };
    let open = NatProfile { filtering: Behaviour::PortIndependent, ..unmeasured };
    let own = random(Refusal::Drop);
    let mut waits = between(own, unmeasured);
    assert_eq!((waits.dials().len(), waits.shots().len()), (1, 0), "who is there may let everybody in");
    waits.input(Input::Profiles { own, peer: open });
    waits.input(Input::PeerSays { round: 0, word: Word::Ready });
    waits.until(waits.now + CROSSING_WITHIN + 200 * MS);
    assert!(waits.shots().is_empty());
    waits.input(Input::Profiles { own, peer: easy(Refusal::Drop) });
    waits.until(waits.now + 100 * MS);
    assert_eq!((waits.shots().is_empty(), waits.told()), (false, BOTH_WORDS.to_vec()), "each word once");
    let mut begun = between(own, unmeasured);
    begun.input(Input::PeerSays { round: 0, word: Word::Ready });
    begun.until(begun.start + 25 * MS);
    let shots = begun.shots().len();
    begun.input(Input::Profiles { own, peer: open });
    begun.until(begun.now + 100 * MS);
    assert!(begun.shots().len() > shots, "what has begun goes on");
    // The one that lets in hears it of itself.
    let mut passive = between(unmeasured, own);
    assert!(passive.dials().is_empty());
    passive.input(Input::Profiles { own: open, peer: own });
    passive.until(passive.now + 10 * MS);
    assert_eq!((passive.dials().len(), passive.shots().len()), (1, 0));
}

#[test]
fn many_ports_wait_for_one_syn_where_somebody_lets_in() {
    let lets_in = |profile| NatProfile { filtering: Behaviour::PortIndependent, ..profile };
    let (easy, random) = (easy(Refusal::Drop), random(Refusal::Drop));
    for (own, peer, dials) in [(easy, lets_in(random), 1), (lets_in(random), easy, 0)] {
        let mut rig = between(own, peer);
        rig.until(rig.start + 75 * MS - MS / 10);
        assert_eq!((rig.dials().len(), rig.shots().len()), (dials, 0));
        rig.until(rig.start + 75 * MS);
        assert_eq!(rig.shots().len(), VOLLEY_BATCH, "it let in the broker's address alone");
        // Too few descriptors for many ports change nothing of who dials.
        let mut poor = begun(Config { sockets: 10, ..config(true, 50 * MS, own, peer) });
        poor.until(poor.start + 300 * MS);
        assert_eq!((poor.dials().len(), poor.shots().len()), (dials, 0));
    }
}

#[test]
fn a_volley_ends_what_rested_on_less_knowledge() {
    let mut rig = between(easy(Refusal::Drop), easy(Refusal::Drop));
    rig.until(rig.start + REFIRE_FAST_FOR);
    rig.dialled(rig.dials()[0], Dialled::Refused);
    rig.until(rig.now + 2 * MS);
    rig.dialled(rig.dials()[1], Dialled::Refused);
    rig.input(Input::Profiles { own: easy(Refusal::Drop), peer: random(Refusal::Drop) });
    rig.input(round(1, 40_000));
    rig.until(rig.now + 400 * MS);
    assert_eq!(rig.dials().len(), 2 + rig.shots().len(), "not fired again where the door was seen");
}

#[test]
fn what_would_cross_nearby_waits_until_it_is_known_who_refuses() {
    let unknown = NatProfile { refusal: Refusal::Unknown, ..random(Refusal::Drop) };
    let near = |own, peer| {
        let mut rig = Rig::of(config(true, MS, own, peer));
        rig.lane(1);
        rig.input(Input::Go);
        rig
    };
    let mut rig = near(unknown, easy(Refusal::Reset));
    rig.until(rig.start + 20 * MS);
    assert!(rig.shots().is_empty() && rig.told().is_empty());
    rig.input(Input::Profiles { own: random(Refusal::Drop), peer: easy(Refusal::Reset) });
    rig.until(rig.start + 40 * MS);
    assert!(rig.shots().is_empty(), "the other side refuses, and fires first");
    rig.input(Input::PeerSays { round: 0, word: Word::Fired });
    assert!(!rig.shots().is_empty());

    let mut hasty = near(unknown, easy(Refusal::Reset));
    hasty.input(Input::PeerSays { round: 0, word: Word::Fired });
    hasty.until(hasty.now + MS);
    assert!(!hasty.shots().is_empty(), "whoever fired knew more");

    let mut never = near(unknown, easy(Refusal::Reset));
    never.until(never.start + REFUSAL_KNOWN_WITHIN + 2 * ROUND_TRIP_LEAST);
    assert_eq!(never.told(), [(0, Word::Ready)], "it is not waited for without end");
    never.input(Input::PeerSays { round: 0, word: Word::Ready });
    never.until(never.now + MS);
    assert!(!never.shots().is_empty());

    let mut far = Rig::of(config(true, 300 * MS, unknown, easy(Refusal::Reset)));
    far.lane(1);
    far.input(Input::Go);
    assert_eq!(far.told(), [(0, Word::Ready)], "far apart they cross under way");

    // It is one side alone that may refuse, and nobody learns whether it does: then it is as if it did.
    let mut doubt = near(random(Refusal::Drop), easy(Refusal::Unknown));
    doubt.until(doubt.start + REFUSAL_KNOWN_WITHIN + 2 * ROUND_TRIP_LEAST + 20 * MS);
    assert!(doubt.told() == [(0, Word::Ready)] && doubt.shots().is_empty());
    doubt.input(Input::PeerSays { round: 0, word: Word::Fired });
    assert!(!doubt.shots().is_empty());
    let mut first = near(unknown, easy(Refusal::Drop));
    first.input(Input::PeerSays { round: 0, word: Word::Ready });
    assert!(!first.shots().is_empty(), "the other side has waited for both");
}

#[test]
fn small_volleys_are_fired_in_every_round_together_first_and_then_one_side_after_the_other() {
    let stepping = symmetric(Allocation::Stepping(1), Refusal::Drop);
    for (peer, together) in [(stepping, 1), (block(64), 0)] {
        for controlling in [true, false] {
            let mut rig = begun(config(controlling, 50 * MS, easy(Refusal::Drop), peer));
            rig.until(rig.now + 20 * MS);
            let mut syns = rig.shots().len();
            for number in 1..ROUNDS {
                rig.input(round(number, 50_000 + 100 * u16::from(number)));
                rig.until(rig.now + 10 * MS);
                let fires = rig.shots().len() > syns;
                let first = controlling == (number % 2 == 0);
                assert_eq!(fires, number <= together || first, "{peer:?} {controlling} {number}");
                rig.input(Input::PeerSays { round: number, word: Word::Fired });
                rig.until(rig.now + MISS_HELD + 20 * MS);
                assert!(rig.shots().len() > syns, "{number}");
                syns = rig.shots().len();
            }
            assert!(syns <= 300);
        }
    }
}
