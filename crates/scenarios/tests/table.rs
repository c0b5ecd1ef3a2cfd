//! Every pair of the table ends as it is expected to: all in simulation, a sample on real kernels.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use libtest_mimic::{Arguments, Trial};
use natlab::testing::trial;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tcpunch_scenarios::report::Condition;
use tcpunch_scenarios::{Verdict, nftables, sim, table, userspace};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";
/// Labs at a time. They mostly wait.
const LABS: usize = 6;
/// Pairs that real kernels play.
const SAMPLE: usize = 24;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(LABS));
    let mut trials: Vec<Trial> = table::conditions().into_iter().map(simulated).collect();
    // What chance decides is judged by shares, in the matrix.
    let mut entries: Vec<table::Entry> =
        table::conditions().iter().flat_map(|it| table::entries(*it, 1)).collect();
    entries.retain(|entry| !entry.by_chance());
    let sample: Vec<table::Entry> =
        entries.choose_multiple(&mut StdRng::seed_from_u64(4), SAMPLE).cloned().collect();
    for entry in sample {
        let name = entry.name();
        trials.push(trial(format!("kernels: {name}"), VARIABLE, move || {
            let report = userspace::run(&entry.scenario).unwrap();
            assert_eq!(report.verdict(), entry.expected, "{report:#?}");
            if let Some(report) = nftables::run(&entry.scenario).unwrap() {
                assert_eq!(report.verdict(), entry.expected, "through nftables: {report:#?}");
            }
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// All pairs on one link.
fn simulated(condition: Condition) -> Trial {
    let Condition { round_trip, loss, skew } = condition;
    let name = format!(
        "simulated: round trip {} ms, loss {} %, skew {} ms",
        round_trip.as_millis(),
        loss * 100.0,
        skew.as_millis()
    );
    Trial::test(name, move || {
        let entries = table::entries(condition, 1);
        let mut wrong = Vec::new();
        for entry in &entries {
            let report = sim::run(&entry.scenario);
            let either = entry.hangs_on_order() && report.verdict() == Verdict::NoPath;
            if report.verdict() != entry.expected && !either {
                wrong.push(format!("{}: not {:?} but {:#?}", entry.name(), entry.expected, report.sides));
            }
        }
        // Where packets are lost, or ports guessed, a run may be unlucky; the matrix has the shares.
        let unlucky = entries.len() / 100;
        if wrong.len() <= unlucky { Ok(()) } else { Err(wrong.join("\n").into()) }
    })
}
