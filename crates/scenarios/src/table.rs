//! The table: networks that people have, each with each, and how it ends today.

use std::time::Duration;

use natlab::link::Conditions;
use natlab::nat::{Allocation, Behaviour, Dependence, Refusal, presets};
use natlab::{Attachment, Unreachable};
use tcpunch_core::limits::ATTEMPT_WITHIN;

use crate::report::{Condition, Run};
use crate::{Arrangement, Network, Report, Scenario, Side, Verdict, least_time};

/// The networks of the table, over IPv4 alone: IPv6 would connect them all.
pub fn networks() -> Vec<Network> {
    let firewall = presets::firewall;
    let behind = |inner: Behaviour| vec![presets::carrier_eim(), inner];
    let table: [(&str, Vec<Behaviour>); 17] = [
        ("public", vec![]),
        ("firewall", vec![firewall()]),
        ("firewall-reset", vec![Behaviour { refusal: Refusal::Reset, ..firewall() }]),
        ("firewall-icmp", vec![Behaviour { refusal: Refusal::Icmp(Unreachable::Prohibited), ..firewall() }]),
        ("linux-masquerade", vec![presets::linux_masquerade()]),
        ("openwrt", vec![presets::openwrt()]),
        ("icmp", vec![presets::icmp_rejecting(Unreachable::Host)]),
        ("full-cone", vec![presets::full_cone()]),
        ("rfc-compliant", vec![presets::rfc_compliant()]),
        ("carrier", vec![presets::carrier_eim()]),
        ("home-behind-carrier", behind(presets::linux_masquerade())),
        ("openwrt-behind-carrier", behind(presets::openwrt())),
        ("port-overloading", vec![presets::home_overloading()]),
        ("no-simultaneous-open", vec![presets::no_simultaneous_open()]),
        ("symmetric-stepping", vec![presets::symmetric_stepping(1)]),
        ("symmetric-block-1024", vec![presets::carrier_block(1024)]),
        ("symmetric-random", vec![presets::symmetric_random()]),
    ];
    table.into_iter().map(|(name, layers)| Network { name: name.to_owned(), layers, ipv6: None }).collect()
}

/// Round trips between the two, and between each and the broker.
pub const ROUND_TRIPS: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(50), Duration::from_millis(200)];
/// The probabilities that a packet between the two, or between one and the broker, is lost, in each direction.
pub const LOSSES: [f64; 2] = [0.0, 0.02];
/// How much later than who arrives who waits hears Go.
pub const SKEWS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(100)];

/// Every link with every skew.
pub fn conditions() -> Vec<Condition> {
    let mut conditions = Vec::new();
    for round_trip in ROUND_TRIPS {
        for loss in LOSSES {
            conditions.extend(SKEWS.map(|skew| Condition { round_trip, loss, skew }));
        }
    }
    conditions
}

/// One pair of the table.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Who waits and who arrives, as places in [`networks`].
    pub pair: [usize; 2],
    /// On which link.
    pub condition: Condition,
    /// What it should come to today.
    pub expected: Verdict,
    /// How to run it.
    pub scenario: Scenario,
}

impl Entry {
    /// What a report says of it.
    pub fn run(&self, report: &Report) -> Run {
        let Condition { round_trip, loss, skew } = self.condition;
        let least = least_time(&self.scenario).as_secs_f64();
        Run {
            pair: self.pair,
            round_trip,
            loss,
            skew,
            by_chance: self.by_chance(),
            expected: self.expected,
            verdict: report.verdict(),
            multiple: report.since_claim.map(|took| took.as_secs_f64() / least),
        }
    }

    /// Whether chance decides it: packets are lost, or ports have to be guessed.
    pub fn by_chance(&self) -> bool {
        let [waits, arrives] = self.scenario.sides.each_ref().map(|side| &side.network);
        self.condition.loss > 0.0 || (guessed(waits, arrives) && !found(waits, arrives))
    }

    /// Whether it hangs on who fires first, and nobody knows: ports have to be guessed, and one side drops a bare SYN even of
    /// who was dialled, so that its own must come second.
    pub fn hangs_on_order(&self) -> bool {
        let [waits, arrives] = self.scenario.sides.each_ref().map(|side| &side.network);
        let strict = |who: &Network| who.layers.iter().any(|layer| !lets_in(layer, true));
        guessed(waits, arrives) && !found(waits, arrives) && (strict(waits) || strict(arrives))
    }

    /// Its networks' names and its link.
    pub fn name(&self) -> String {
        let [waits, arrives] = self.scenario.sides.each_ref().map(|side| &side.network.name);
        let Condition { round_trip, loss, skew } = self.condition;
        format!(
            "{waits} × {arrives}, round trip {} ms, loss {} %, skew {} ms, seed {}",
            round_trip.as_millis(),
            loss * 100.0,
            skew.as_millis(),
            self.scenario.seed
        )
    }
}

/// Every pair of the table on this link; what is random differs from pair to pair, and from one `round` to the next.
pub fn entries(condition: Condition, round: u64) -> Vec<Entry> {
    let networks = networks();
    let mut entries = Vec::new();
    let mut seed = round << 32;
    for (waits, first) in networks.iter().enumerate() {
        for (arrives, second) in networks.iter().enumerate() {
            seed += 1;
            entries.push(Entry {
                pair: [waits, arrives],
                condition,
                expected: expected(first, second),
                scenario: scenario(first, second, condition, seed),
            });
        }
    }
    entries
}

/// Each on a cable of its own; all three are equally far from each other.
pub fn scenario(waits: &Network, arrives: &Network, condition: Condition, seed: u64) -> Scenario {
    let Condition { round_trip, loss, skew } = condition;
    // A packet passes two cables: half of what is lost is lost on each.
    let cable = Conditions::delay(round_trip / 4);
    let cable = Attachment::from(if loss > 0.0 { cable.losing(1.0 - (1.0 - loss).sqrt()) } else { cable });
    let side = |network: &Network, late| Side { network: network.clone(), cable, late };
    Scenario {
        sides: [side(waits, skew), side(arrives, Duration::ZERO)],
        broker: cable,
        arrangement: Arrangement::Apart,
        timeout: ATTEMPT_WITHIN,
        seed,
    }
}

/// How two networks end, as far as NATs decide it.
pub fn expected(one: &Network, other: &Network) -> Verdict {
    if found(one, other) || guessed(one, other) { Verdict::Connected } else { Verdict::NoPath }
}

/// Whether one of the two is reached where the broker saw it: its port is the same for the other peer, and its NAT or firewall lets
/// the other in, from wherever that one really comes. Refusals and their order are overcome.
fn found(one: &Network, other: &Network) -> bool {
    let reached = |who: &Network, by: &Network| {
        // Where everybody comes in, the door that the broker saw is as good as any.
        let open = who.layers.iter().all(|layer| lets_in(layer, false));
        (open || keeps_ports(who)) && who.layers.iter().all(|layer| lets_in(layer, keeps_ports(by)))
    };
    reached(one, other) || reached(other, one)
}

/// Whether ports are found without being told: one side's NAT chooses them and the other's keeps them, or both step. One side then
/// has to let in who comes from where it knocked.
fn guessed(one: &Network, other: &Network) -> bool {
    let lets_in = |who: &Network| who.layers.iter().all(|layer| lets_in(layer, true));
    let ports = match [one, other].map(keeps_ports) {
        [true, true] => false,
        [true, false] | [false, true] => true,
        [false, false] => steps(one) && steps(other),
    };
    ports && (lets_in(one) || lets_in(other))
}

/// Whether every port that it gives away follows the last one.
fn steps(network: &Network) -> bool {
    let mut chosen = network.layers.iter().filter(|layer| layer.translates && !keeps_port(layer));
    chosen.all(|layer| matches!(layer.allocation, Allocation::Stepping(_)))
}

/// Whether everybody sees the port that the broker saw.
fn keeps_ports(network: &Network) -> bool {
    network.layers.iter().all(keeps_port)
}

fn keeps_port(layer: &Behaviour) -> bool {
    !layer.translates
        || layer.mapping == Dependence::Endpoint
        || matches!(layer.allocation, Allocation::Preserving(_))
}

/// Whether a SYN comes in after one went out to where the broker saw the other; `from_there`: whether it comes from there.
fn lets_in(layer: &Behaviour, from_there: bool) -> bool {
    match layer.filtering {
        Dependence::Endpoint => true,
        // Another port of the same address is another session there: no half-open one is in the way.
        Dependence::Address => !from_there || layer.simultaneous_open,
        Dependence::AddressAndPort => from_there && layer.simultaneous_open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Network {
        networks().into_iter().find(|network| network.name == name).unwrap()
    }

    #[test]
    fn what_is_expected_is_what_facts_say() {
        let expect = |one: &str, other: &str, verdict| {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(expected(&named(one), &named(other)), verdict, "{one} × {other}");
            }
        };
        let symmetric = ["symmetric-stepping", "symmetric-block-1024", "symmetric-random"];
        for one in symmetric {
            for other in [
                "public",
                "full-cone",
                "rfc-compliant",
                "firewall",
                "openwrt",
                "carrier",
                "home-behind-carrier",
            ] {
                expect(one, other, Verdict::Connected);
            }
            for other in symmetric.into_iter().filter(|other| *other != "symmetric-stepping") {
                expect(one, other, Verdict::NoPath);
            }
        }
        expect("symmetric-stepping", "symmetric-stepping", Verdict::Connected);
        expect("openwrt", "openwrt", Verdict::Connected);
        expect("home-behind-carrier", "openwrt-behind-carrier", Verdict::Connected);
        expect("no-simultaneous-open", "openwrt", Verdict::Connected);
        expect("no-simultaneous-open", "symmetric-random", Verdict::Connected);
        expect("no-simultaneous-open", "no-simultaneous-open", Verdict::NoPath);
    }

    #[test]
    fn the_order_of_the_two_does_not_matter() {
        for one in networks() {
            for other in networks() {
                assert_eq!(expected(&one, &other), expected(&other, &one), "{} × {}", one.name, other.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = networks().into_iter().map(|network| network.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), networks().len());
    }

    #[test]
    fn the_three_are_equally_far_apart() {
        let condition =
            Condition { round_trip: Duration::from_millis(200), loss: 0.02, skew: Duration::ZERO };
        let scenario = scenario(&named("public"), &named("openwrt"), condition, 1);
        let trips = crate::least::round_trips(&scenario);
        assert_eq!([trips.waiter, trips.arriver, trips.peers], [condition.round_trip; 3]);
        assert_eq!(least_time(&scenario), condition.round_trip * 9 / 2);
    }
}
