//! Scenarios drawn by seed: the same seed, the same scenario.

use std::time::Duration;

use natlab::link::Conditions;
use natlab::nat::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Refusal, Rewriting, Timeouts,
    Tracking, presets,
};
use natlab::{Attachment, Unreachable};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tcpunch_core::limits::ATTEMPT_WITHIN;

use crate::{Arrangement, Network, Scenario, Side};

/// The least delay of a cable where a side refuses: with none at all, real kernels decide by chance whose SYN is first.
const REFUSING_DELAY_LEAST: Duration = Duration::from_micros(500);

/// Longest delay of a cable, and longest skew.
const DELAY_MOST: Duration = Duration::from_millis(100);

/// Draws over all knobs of a NAT, none to two NATs a side, IPv6, delays, skew and arrangements; without loss and jitter,
/// where the timers of kernels decide.
pub fn draw(seed: u64) -> Scenario {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let random = &mut random;
    let networks = [network(random, "first"), network(random, "second")];
    let arrangement = match random.random_range(0..8) {
        0 => Arrangement::Together,
        1 => Arrangement::BrokerInside,
        _ => Arrangement::Apart,
    };
    scenario(random, networks, arrangement, seed)
}

/// Draws what the kernel's own NATs can be too (`natlab::kernel::KernelNat`).
pub fn draw_kernel(seed: u64) -> Scenario {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let random = &mut random;
    let networks = [kernel_network(random), kernel_network(random)];
    scenario(random, networks, Arrangement::Apart, seed)
}

/// The same with up to 10 % loss, 20 ms jitter and 10 % reordered packets on every cable, each way.
pub fn troubled(scenario: Scenario) -> Scenario {
    // Other numbers than those that drew it.
    let mut random = ChaCha8Rng::seed_from_u64(scenario.seed ^ 0x7700_b1ed);
    let mut trouble = |cable: Attachment| {
        let mut one = |way: Conditions| Conditions {
            jitter: upto(&mut random, Duration::from_millis(20)),
            reorder: random.random_range(0.0..0.1),
            reorder_by: Duration::from_millis(5),
            ..way.losing(random.random_range(0.0..0.1))
        };
        Attachment { up: one(cable.up), down: one(cable.down) }
    };
    let Scenario { mut sides, broker, arrangement, timeout, seed } = scenario;
    for side in &mut sides {
        side.cable = trouble(side.cable);
    }
    Scenario { broker: trouble(broker), sides, arrangement, timeout, seed }
}

fn scenario(
    random: &mut ChaCha8Rng,
    networks: [Network; 2],
    arrangement: Arrangement,
    seed: u64,
) -> Scenario {
    let refuses = networks.iter().any(refuses);
    let sides = networks.map(|network| Side {
        network,
        cable: delay(random, refuses).into(),
        late: if random.random_bool(0.5) { Duration::ZERO } else { upto(random, DELAY_MOST) },
    });
    let broker = delay(random, refuses).into();
    Scenario { sides, broker, arrangement, timeout: ATTEMPT_WITHIN, seed }
}

fn upto(random: &mut ChaCha8Rng, most: Duration) -> Duration {
    most.mul_f64(random.random())
}

/// Short ones as often as long ones.
fn delay(random: &mut ChaCha8Rng, refuses: bool) -> Conditions {
    let most = *[DELAY_MOST / 100, DELAY_MOST / 5, DELAY_MOST].choose(random).unwrap_or(&DELAY_MOST);
    let drawn = upto(random, most);
    Conditions::delay(if refuses { drawn.max(REFUSING_DELAY_LEAST) } else { drawn })
}

/// Whether anything in it answers what is unsolicited.
fn refuses(network: &Network) -> bool {
    network.layers.iter().chain(&network.ipv6).any(|it| it.refusal != Refusal::Drop)
}

fn network(random: &mut ChaCha8Rng, name: &str) -> Network {
    let count = *[0, 1, 1, 1, 1, 2].choose(random).unwrap_or(&1);
    let layers: Vec<Behaviour> = (0..count).map(|_| behaviour(random)).collect();
    let ipv6 = random.random_bool(0.25).then(|| firewall(random));
    Network { name: name.to_owned(), layers, ipv6 }
}

fn dependence(random: &mut ChaCha8Rng) -> Dependence {
    let all = [Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort];
    *all.choose(random).unwrap_or(&Dependence::Endpoint)
}

fn unreachable(random: &mut ChaCha8Rng) -> Unreachable {
    let all = [Unreachable::Net, Unreachable::Host, Unreachable::Port, Unreachable::Prohibited];
    *all.choose(random).unwrap_or(&Unreachable::Host)
}

fn refusal(random: &mut ChaCha8Rng) -> Refusal {
    match random.random_range(0..8) {
        0..=3 => Refusal::Drop,
        4 | 5 => Refusal::Reset,
        6 => Refusal::Icmp(unreachable(random)),
        _ => Refusal::IcmpLater(unreachable(random)),
    }
}

fn ends(random: &mut ChaCha8Rng) -> Ends {
    let all = [Ends::Nothing, Ends::SessionLater, Ends::Session, Ends::Mapping];
    *all.choose(random).unwrap_or(&Ends::Nothing)
}

fn rate(random: &mut ChaCha8Rng) -> Rate {
    Rate { per_second: random.random_range(1..=50), burst: random.random_range(1..=50) }
}

/// Some as in the RFCs, some as Linux has them, some so short that an attempt outlives them.
fn timeouts(random: &mut ChaCha8Rng) -> Timeouts {
    let seconds = |random: &mut ChaCha8Rng, least: u64, most: u64| {
        Duration::from_secs(random.random_range(least..=most))
    };
    match random.random_range(0..4) {
        0 => Timeouts::RFC,
        1 | 2 => Timeouts::LINUX,
        _ => Timeouts {
            // Longer than who waits is silent before the other side comes.
            established: seconds(random, 5, 60),
            transitory: seconds(random, 2, 30),
            closing: seconds(random, 2, 10),
            unsolicited: seconds(random, 2, 8),
            ..Timeouts::LINUX
        },
    }
}

fn allocation(random: &mut ChaCha8Rng) -> Allocation {
    let clashes = [Clash::Random, Clash::Next, Clash::Overload];
    match random.random_range(0..8) {
        0..=3 => Allocation::Preserving(*clashes.choose(random).unwrap_or(&Clash::Random)),
        4 => Allocation::Stepping(random.random_range(1..=4)),
        5 | 6 => Allocation::Random,
        _ => Allocation::Block(random.random_range(64..=1024)),
    }
}

fn behaviour(random: &mut ChaCha8Rng) -> Behaviour {
    let translates = random.random_bool(0.85);
    let hairpins = [Hairpin::No, Hairpin::OutsideSource, Hairpin::InsideSource];
    let mapping = if random.random_bool(0.6) { Dependence::Endpoint } else { dependence(random) };
    Behaviour {
        translates,
        mapping,
        filtering: dependence(random),
        allocation: allocation(random),
        ports: if random.random_bool(0.8) { (1024, 65535) } else { (35_000, 65_535) },
        refusal: refusal(random),
        refuses_invalid: random.random_bool(0.3),
        icmp_limit: random.random_bool(0.5).then_some(Rate { per_second: 1, burst: 6 }),
        simultaneous_open: random.random_bool(0.8),
        tracking: if random.random_bool(0.5) { Tracking::Flags } else { Tracking::Linux },
        early_reset: ends(random),
        reset: ends(random),
        fin: ends(random),
        icmp: ends(random),
        counts_ttl: random.random_bool(0.8),
        timeouts: timeouts(random),
        hairpin: *hairpins.choose(random).unwrap_or(&Hairpin::No),
        pooling: if random.random_bool(0.8) { Pooling::Paired } else { Pooling::Arbitrary },
        syn_limit: random.random_bool(0.2).then(|| rate(random)),
        rewriting: match random.random_range(0..10) {
            0 => Rewriting::Binary,
            1 => Rewriting::Text,
            _ => Rewriting::None,
        },
    }
}

/// For IPv6: nothing is translated.
fn firewall(random: &mut ChaCha8Rng) -> Behaviour {
    Behaviour { translates: false, pooling: Pooling::Paired, rewriting: Rewriting::None, ..behaviour(random) }
}

/// Twins of the presets of `KernelNat`, with the knobs that it has.
fn kernel_network(random: &mut ChaCha8Rng) -> Network {
    let kinds: [(&str, fn() -> Behaviour); 6] = [
        ("masquerade", presets::linux_masquerade),
        ("openwrt", presets::openwrt),
        ("full cone", presets::full_cone),
        ("remapping", presets::remapping),
        ("symmetric", presets::linux_random),
        ("firewall", presets::firewall),
    ];
    let (name, nat) = *kinds.choose(random).unwrap_or(&("masquerade", presets::linux_masquerade));
    let nat = nat();
    let refusal = match random.random_range(0..4) {
        0 | 1 => nat.refusal,
        2 => Refusal::Reset,
        _ => Refusal::Icmp(unreachable(random)),
    };
    let refuses_invalid = nat.refuses_invalid || random.random_bool(0.3);
    let simultaneous_open = random.random_bool(0.8);
    let layer = Behaviour { refusal, refuses_invalid, simultaneous_open, ..nat };
    Network { name: name.to_owned(), layers: vec![layer], ipv6: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        for seed in 0..50 {
            assert_eq!(draw(seed), draw(seed));
            assert_eq!(draw_kernel(seed), draw_kernel(seed));
        }
        assert_ne!(draw(1).sides, draw(2).sides);
    }

    #[test]
    fn what_decides_by_chance_is_not_drawn() {
        for scenario in (0..500).flat_map(|seed| [draw(seed), draw_kernel(seed)]) {
            let refusing = scenario.sides.iter().any(|side| refuses(&side.network));
            for cable in scenario.sides.iter().map(|side| side.cable).chain([scenario.broker]) {
                assert_eq!(cable.up, Conditions::delay(cable.up.delay), "a delay and nothing else");
                assert!(!refusing || cable.up.delay >= REFUSING_DELAY_LEAST);
            }
        }
    }

    #[test]
    fn every_knob_is_turned() {
        let drawn: Vec<Scenario> = (0..500).map(draw).collect();
        let layers = || drawn.iter().flat_map(|it| &it.sides).flat_map(|it| &it.network.layers);
        let some = |with: &dyn Fn(&Behaviour) -> bool| layers().any(with) && !layers().all(with);
        assert!(some(&|it| it.translates) && some(&|it| it.refuses_invalid) && some(&|it| it.counts_ttl));
        assert!(some(&|it| it.simultaneous_open) && some(&|it| it.syn_limit.is_some()));
        assert!(some(&|it| it.pooling == Pooling::Arbitrary) && some(&|it| it.rewriting != Rewriting::None));
        assert!(some(&|it| matches!(it.refusal, Refusal::IcmpLater(_))));
        for arrangement in [Arrangement::Apart, Arrangement::Together, Arrangement::BrokerInside] {
            assert!(drawn.iter().any(|it| it.arrangement == arrangement));
        }
        for layers in 0..=2 {
            assert!(drawn.iter().any(|it| it.sides[0].network.layers.len() == layers));
        }
    }
}
