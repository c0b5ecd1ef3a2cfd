//! What holds for whatever networks two peers are in. Each case is a seed; `PROPTEST_CASES` makes more of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use natlab::nat::{Allocation, Behaviour, Dependence, Ends, Pooling, Refusal};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tcpunch_core::candidate::{Scope, Surroundings, scope};
use tcpunch_core::limits::{
    ARRIVALS, BIRTHDAY_SPREAD, LANES_PER_ATTEMPT, LOWEST_DIALLED_PORT, REFIRES_OF_VOLLEY, ROUNDS,
    SYMMETRIC_WITHIN, SYNS_PER_ATTEMPT,
};
use tcpunch_scenarios::draw::{draw, troubled};
use tcpunch_scenarios::sim::{self, Insight, Options, Run};
use tcpunch_scenarios::{Arrangement, Outcome, Scenario, Verdict};

/// What a timer may be late in virtual time: nothing but the puncher's own clock.
const SLACK: Duration = Duration::from_millis(1);

/// So much apart are the moments at which two sides see the end of one handshake, and their introductions.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Runs of one scenario with other random ports, where these may decide.
const SEEDS: u64 = 5;
/// And where those few were not of one mind.
const MORE_SEEDS: u64 = 40;

/// As many as asked for, or enough for every day.
fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok());
    // A smaller seed is no simpler scenario.
    ProptestConfig {
        cases: asked.unwrap_or(300),
        max_shrink_iters: 0,
        failure_persistence: None,
        // The same cases every day; others with PROPTEST_RNG_SEED.
        rng_seed: match ProptestConfig::default().rng_seed {
            RngSeed::Random => RngSeed::Fixed(4),
            asked @ RngSeed::Fixed(_) => asked,
        },
        ..ProptestConfig::default()
    }
}

fn failed(scenario: &Scenario, why: impl std::fmt::Display) -> TestCaseError {
    let (report, diagram) = sim::run_recorded(scenario);
    TestCaseError::fail(format!("{why}\nseed {}\n{scenario:#?}\n{report:#?}\n{diagram}", scenario.seed))
}

fn closely(scenario: &Scenario) -> Run {
    sim::run_closely(scenario, Options::default())
}

/// The verdicts of so many runs that differ in what is random.
fn connected(scenario: &Scenario, seeds: std::ops::Range<u64>) -> usize {
    let again = |seed: u64| Scenario { seed: scenario.seed.wrapping_add(seed << 32), ..scenario.clone() };
    seeds.filter(|seed| sim::run(&again(*seed)).verdict() == Verdict::Connected).count()
}

/// Both decided for the same connection, or both for none.
///
/// Who gives up at its deadline can't know that the other side gets the last word of the handshake at that very moment.
/// And what a NAT does to a connection once both have it (some end a whole mapping on a reset that answers another lane) is
/// not the peers' disagreement.
fn agreed(scenario: &Scenario, run: &Run) -> bool {
    let [one, other] = &run.report.sides;
    let [first, second] = &run.sides;
    let last_moment = |after: &Insight, none: &Outcome| match none {
        Outcome::NoPath { elapsed, .. } => {
            let deadline = *elapsed == SYMMETRIC_WITHIN || *elapsed == scenario.timeout;
            deadline && after.connected_after.is_some_and(|it| it.abs_diff(*elapsed) < LAST_MOMENT)
        }
        Outcome::Connected { .. } | Outcome::Broken(_) => false,
    };
    let begun = run.sides.iter().all(|side| side.here.is_some());
    let none = matches!([one, other], [Outcome::NoPath { .. }, Outcome::NoPath { .. }]);
    !begun || none || run.same_connection || last_moment(first, other) || last_moment(second, one)
}

fn share_prefix(one: IpAddr, other: IpAddr, length: u8) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 4),
        IpAddr::V6(v6) => (v6.to_bits(), 6),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    bits(one).1 == bits(other).1 && (bits(one).0 ^ bits(other).0) & mask == 0
}

/// Why a peer must not have dialled there: politeness and safety, as the design has them.
fn forbidden(remote: SocketAddr, side: &Insight, here: &Surroundings) -> Option<&'static str> {
    let ip = remote.ip();
    let private = |ip: IpAddr| scope(ip) <= Scope::Private;
    let told = side.told.contains(&remote);
    let seen = side.peer_observed.contains(&remote);
    let own_private = here.observed.iter().any(|it| private(it.ip()));
    let peer_private = side.peer_observed.iter().any(|it| private(it.ip()));
    let beside_broker = here.brokers.iter().any(|it| it.ip() == ip)
        && side.peer_observed.iter().any(|it| it.port() == remote.port() && private(it.ip()));
    let one_address = here.observed.iter().any(|own| side.peer_observed.iter().any(|it| it.ip() == own.ip()));
    let in_own_network = here.interfaces.iter().any(|(own, length)| share_prefix(*own, ip, *length));
    let same_address = side.peer_observed.iter().any(|it| it.ip() == ip);
    if remote.port() == 0 || (private(ip) && remote.port() < LOWEST_DIALLED_PORT) {
        Some("a reserved port")
    } else if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        Some("no address of another host")
    } else if here.observed.contains(&remote)
        || (remote.port() == here.port && here.interfaces.iter().any(|(own, _)| *own == ip))
    {
        Some("itself")
    } else if here.brokers.contains(&remote) {
        Some("the broker")
    } else if here.gateways.contains(&ip) {
        Some("the router")
    // Other ports of the same address are guessed, or are fresh ones of a further round.
    } else if !(seen || told || beside_broker || (same_address && remote.port() >= LOWEST_DIALLED_PORT)) {
        Some("an address that nobody named")
    } else if !seen
        && told
        && !(in_own_network || (private(ip) && (one_address || own_private && peer_private)))
    {
        Some("a host in a network that it has no part in")
    } else if seen && !told && private(ip) && !own_private {
        Some("a private address that only the broker named")
    } else {
        None
    }
}

fn elapsed(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Connected { elapsed, .. } | Outcome::NoPath { elapsed, .. } => Some(*elapsed),
        Outcome::Broken(_) => None,
    }
}

/// Turns one knob of every layer of a side, if there is one to turn.
fn turned(scenario: &Scenario, side: usize, turn: impl Fn(&Behaviour) -> Behaviour) -> Option<Scenario> {
    let mut turned = scenario.clone();
    for layer in turned.sides.get_mut(side).into_iter().flat_map(|side| &mut side.network.layers) {
        *layer = turn(layer);
    }
    (turned != *scenario).then_some(turned)
}

/// Whether another connection to the same place can get another outside address or port: then every further try is a
/// further chance, and a refusal that makes one try again does good.
fn draws_anew(scenario: &Scenario) -> bool {
    scenario.sides.iter().flat_map(|side| &side.network.layers).any(|it| {
        it.translates
            && (it.mapping != Dependence::Endpoint || it.early_reset != Ends::Nothing)
            && (!matches!(it.allocation, Allocation::Preserving(_)) || it.pooling == Pooling::Arbitrary)
    })
}

/// Knobs, each toward what lets more pass.
fn permissive(knob: usize, behaviour: &Behaviour) -> Behaviour {
    let behaviour = behaviour.clone();
    match knob {
        0 => Behaviour { filtering: Dependence::Endpoint, ..behaviour },
        1 if matches!(behaviour.allocation, Allocation::Preserving(_)) => {
            Behaviour { mapping: Dependence::Endpoint, ..behaviour }
        }
        2 if behaviour.refusal == Refusal::Reset => Behaviour { refusal: Refusal::Drop, ..behaviour },
        3 => Behaviour { simultaneous_open: true, ..behaviour },
        4 => Behaviour { refuses_invalid: false, ..behaviour },
        _ => behaviour,
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn both_have_the_same_connection_or_both_say_that_there_is_none(seed: u64) {
        let scenario = draw(seed);
        if !agreed(&scenario, &closely(&scenario)) {
            return Err(failed(&scenario, "the two do not agree"));
        }
    }

    #[test]
    fn an_attempt_ends_once_and_in_time(seed: u64) {
        let scenario = draw(seed);
        let run = closely(&scenario);
        for (outcome, side) in run.report.sides.iter().zip(&run.sides) {
            let late = elapsed(outcome).or(side.connected_after).is_some_and(|it| it > scenario.timeout + SLACK);
            if side.here.is_some() && (side.finishes != 1 || late) {
                return Err(failed(&scenario, format!("ended {} times, {outcome:?}", side.finishes)));
            }
        }
    }

    #[test]
    fn budgets_of_syns_and_sockets_are_kept(seed: u64) {
        let scenario = draw(seed);
        let run = closely(&scenario);
        for (syns, side) in run.report.syns.iter().zip(&run.sides) {
            let many = BIRTHDAY_SPREAD.0 + BIRTHDAY_SPREAD.1 + REFIRES_OF_VOLLEY;
            let sockets = LANES_PER_ATTEMPT + usize::from(ROUNDS) + ARRIVALS + usize::from(many);
            if *syns > u64::from(SYNS_PER_ATTEMPT) + u64::from(many) || side.most_sockets > sockets {
                return Err(failed(&scenario, format!("{syns} SYNs, {} sockets", side.most_sockets)));
            }
        }
    }

    #[test]
    fn no_forbidden_address_is_dialled(seed: u64) {
        let scenario = draw(seed);
        let run = closely(&scenario);
        for side in &run.sides {
            let Some(here) = &side.here else { continue };
            for dial in &side.dials {
                if let Some(why) = forbidden(dial.remote, side, here) {
                    return Err(failed(&scenario, format!("{} dialled: {why}\n{side:#?}", dial.remote)));
                }
            }
        }
    }

    #[test]
    fn a_more_permissive_nat_never_makes_it_worse(seed: u64, knob in 0usize..5, side in 0usize..2) {
        let before = draw(seed);
        let Some(after) = turned(&before, side, |it| permissive(knob, it)) else { return Ok(()) };
        if knob == 2 && draws_anew(&before) {
            return Ok(());
        }
        if connected(&before, 0..SEEDS) == SEEDS as usize && connected(&after, 0..SEEDS) < SEEDS as usize {
            // Ports are random: what connects by luck now and then is not lost by bad luck.
            let [was, is] = [&before, &after].map(|it| connected(it, SEEDS..SEEDS + MORE_SEEDS));
            if is + MORE_SEEDS as usize / 4 < was {
                return Err(failed(&after, format!("{was} of {MORE_SEEDS} before, {is} after; {before:#?}")));
            }
        }
    }

    #[test]
    fn swapping_the_sides_changes_nothing(seed: u64) {
        let scenario = Scenario { arrangement: Arrangement::Apart, ..draw(seed) };
        // Where ports are guessed, it can hang on who hears Go first: that order is not made up for yet.
        let guessed = |it: &Behaviour| it.translates && !matches!(it.allocation, Allocation::Preserving(_));
        if scenario.sides.iter().any(|side| side.network.layers.iter().any(guessed)) {
            return Ok(());
        }
        let mut swapped = scenario.clone();
        swapped.sides.reverse();
        let all = SEEDS as usize;
        let [one, other] = [&scenario, &swapped].map(|it| connected(it, 0..SEEDS));
        if one.abs_diff(other) > all / 2 {
            let [one, other] = [&scenario, &swapped].map(|it| connected(it, SEEDS..SEEDS + MORE_SEEDS));
            if one.abs_diff(other) > MORE_SEEDS as usize / 3 {
                return Err(failed(&swapped, format!("{one} of {MORE_SEEDS}, swapped {other}")));
            }
        }
    }

    #[test]
    fn the_broker_forgets_everything(seed: u64) {
        let scenario = draw(seed);
        let run = sim::run_closely(&scenario, Options { until_empty: true, ..Options::default() });
        if run.emptied.is_none() {
            return Err(failed(&scenario, "the rendezvous is not empty"));
        }
    }
}

/// How many pairs of so many do not agree with up to a tenth lost on each cable each way, jitter and reordering.
fn alone(seeds: std::ops::Range<u64>) -> Vec<u64> {
    let disagree = |seed: &u64| {
        let scenario = troubled(draw(*seed));
        !agreed(&scenario, &closely(&scenario))
    };
    seeds.filter(disagree).collect()
}

#[test]
fn loss_jitter_and_reordering_leave_few_alone() {
    let alone = alone(0..1000);
    assert!(alone.len() <= 30, "{alone:?}");
}

/// The controlling side gives a nominated connection up after `NOMINATED_WITHIN` and two round trips. Where so much is lost
/// that the other side's first record needs longer, that side has taken the connection already, its attempt is over, and
/// nobody answers when the first one dials again.
#[test]
#[ignore = "a fault of the puncher: who has taken a connection does not take its successor"]
fn loss_jitter_and_reordering_leave_nobody_alone() {
    let alone = alone(0..1000);
    assert!(alone.is_empty(), "{alone:?}");
}

/// Nearly all who want to are introduced: what the properties say is not said of nobody.
#[test]
fn most_are_introduced() {
    let introduced =
        (0..300).filter(|seed| closely(&draw(*seed)).sides.iter().all(|side| side.here.is_some()));
    assert!(introduced.count() >= 297);
}

#[test]
fn both_call_the_path_alike() {
    for seed in 0..2000 {
        let scenario = draw(seed);
        if let [Outcome::Connected { path: one, .. }, Outcome::Connected { path: other, .. }] =
            &closely(&scenario).report.sides
        {
            assert_eq!(one, other, "seed {seed}");
        }
    }
}
