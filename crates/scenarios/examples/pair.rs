//! Runs one pair of the table many times in virtual time, both knowing their networks:
//! `cargo run --release -p tcpunch-scenarios --example pair -- WAITS ARRIVES ROUND_TRIP_MS SKEW_MS LOSS RUNS`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it is read by a person"
)]

use std::time::Duration;

use natlab::nat::{self, Dependence};
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal};
use tcpunch_scenarios::report::Condition;
use tcpunch_scenarios::{Network, Verdict, least_time, sim, table};

fn network(name: &str) -> Network {
    let (base, reset) = match name.strip_suffix("+reset") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let layers = match base {
        "block-64" => vec![nat::presets::carrier_block(64)],
        "random-conntrack" => vec![nat::presets::linux_random()],
        "remapping" => vec![nat::presets::remapping()],
        base => table::networks().into_iter().find(|it| it.name == base).unwrap().layers,
    };
    let layers = layers
        .into_iter()
        .map(|layer| if reset { nat::Behaviour { refusal: nat::Refusal::Reset, ..layer } } else { layer });
    Network { name: name.to_owned(), layers: layers.collect(), ipv6: None }
}

fn profile(network: &Network) -> NatProfile {
    let dependence = |it| match it {
        Dependence::Endpoint => Behaviour::EndpointIndependent,
        Dependence::Address => Behaviour::AddressDependent,
        Dependence::AddressAndPort => Behaviour::AddressAndPortDependent,
    };
    let Some(layer) = network.layers.last() else {
        return NatProfile {
            translated: Some(false),
            mapping: Behaviour::EndpointIndependent,
            allocation: Allocation::Preserving,
            filtering: Behaviour::EndpointIndependent,
            ..NatProfile::default()
        };
    };
    let (mapping, allocation) = match layer.allocation {
        nat::Allocation::Preserving(_) => (Behaviour::EndpointIndependent, Allocation::Preserving),
        nat::Allocation::Stepping(step) => (dependence(layer.mapping), Allocation::Stepping(step as i16)),
        nat::Allocation::Random => (dependence(layer.mapping), Allocation::Random),
        // The blocks of these presets begin anywhere: the examples' runs are to know nothing that can't be known.
        nat::Allocation::Block(_) => (dependence(layer.mapping), Allocation::Random),
    };
    NatProfile {
        translated: Some(layer.translates),
        mapping,
        allocation,
        filtering: dependence(layer.filtering),
        refusal: match layer.refusal {
            nat::Refusal::Drop | nat::Refusal::IcmpLater(_) => Refusal::Drop,
            nat::Refusal::Reset => Refusal::Reset,
            nat::Refusal::Icmp(_) => Refusal::Icmp,
        },
        simultaneous_open: None,
    }
}

fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let ms = |n: usize| Duration::from_millis(a[n].parse().unwrap());
    let condition = Condition { round_trip: ms(2), skew: ms(3), loss: a[4].parse().unwrap() };
    let networks = [network(&a[0]), network(&a[1])];
    let runs: u64 = a[5].parse().unwrap();
    let (mut connected, mut wrong, mut times, mut syns, mut wire, mut paths) =
        (0, 0, vec![], vec![], vec![], std::collections::BTreeMap::new());
    for seed in 0..runs {
        let scenario = table::scenario(&networks[0], &networks[1], condition, seed);
        let options = sim::Options {
            known: networks.each_ref().map(|it| Some(profile(it))),
            record: a.len() > 6,
            ..Default::default()
        };
        let run = sim::run_closely(&scenario, options);
        if a.len() > 6 {
            println!("{}\n{:?}", run.diagram, run.report);
        }
        let report = run.report;
        *paths
            .entry(format!(
                "{:?}",
                report.sides.each_ref().map(|it| match it {
                    tcpunch_scenarios::Outcome::Connected { path, .. } => path.word().to_owned(),
                    tcpunch_scenarios::Outcome::NoPath { elapsed, .. } =>
                        format!("none after {} s", elapsed.as_secs()),
                    tcpunch_scenarios::Outcome::Broken(why) => why.clone(),
                })
            ))
            .or_insert(0) += 1;
        match report.verdict() {
            Verdict::Connected => connected += 1,
            Verdict::Wrong => {
                wrong += 1;
                println!("wrong: {seed} {:?}", report.sides)
            }
            Verdict::NoPath => {}
        }
        if let Some(t) = report.since_claim {
            times.push(t.as_secs_f64() * 1000.0)
        }
        syns.push(report.syns[0] + report.syns[1]);
        wire.push(report.wire_syns[0] + report.wire_syns[1]);
        if seed + 1 == runs {
            println!("least {:?}", least_time(&scenario))
        }
    }
    times.sort_by(f64::total_cmp);
    syns.sort_unstable();
    wire.sort_unstable();
    let at = |v: &[f64], q: f64| v.get(((v.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(0.0);
    println!(
        "{connected}/{runs} wrong {wrong}; ms median {:.1} 95% {:.1} max {:.1}; SYNs median {} max {}; wire median {} max {}",
        at(&times, 0.5),
        at(&times, 0.95),
        at(&times, 1.0),
        syns[syns.len() / 2],
        syns[syns.len() - 1],
        wire[wire.len() / 2],
        wire[wire.len() - 1]
    );
    println!("{paths:#?}");
}
