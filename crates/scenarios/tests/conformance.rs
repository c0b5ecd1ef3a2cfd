//! Simulation and real kernels agree, seed by seed.
//!
//! A trial a seed, so that one can be run alone: `cargo test -p tcpunch-scenarios --test conformance -- drawn_17`. The
//! seeds are 0 to 23 over all knobs and 0 to 11 over those that nftables has as well; others with `TCPUNCH_SEEDS=0..200` and
//! `TCPUNCH_KERNEL_SEEDS=0..60`. Where a seed's scenario ends by chance, as `chance` tells, the next one that does not is
//! taken instead, and a trial `chance_drawn_17` demands of the first that it ends in one of the ways that the simulation knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::ops::Range;
use std::path::PathBuf;

use libtest_mimic::{Arguments, Trial};
use natlab::testing::trial;
use tcpunch_scenarios::chance::{decided, is_decided, may_end_like};
use tcpunch_scenarios::draw::{draw, draw_kernel};
use tcpunch_scenarios::{Scenario, conformance};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";
/// Labs at a time. They mostly wait.
const LABS: usize = 4;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(LABS));
    let mut all = trials("TCPUNCH_SEEDS", 0..24, draw, false);
    all.extend(trials("TCPUNCH_KERNEL_SEEDS", 0..12, draw_kernel, true));
    libtest_mimic::run(&arguments, all).exit();
}

/// The trials of a kind of draw, for the seeds that a variable names.
fn trials(variable: &str, default: Range<u64>, draw: fn(u64) -> Scenario, kernel: bool) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for seed in seeds(variable, default) {
        let name = format!("{}_{seed}", if kernel { "kernel" } else { "drawn" });
        let chance = format!("chance_{name}");
        trials.push(trial(name.clone(), VARIABLE, move || agree(&name, decided(draw, seed), kernel)));
        if !is_decided(&draw(seed)) {
            trials.push(trial(chance.clone(), VARIABLE, move || possible(&chance, draw(seed), kernel)));
        }
    }
    trials
}

/// A range as Rust writes it.
fn seeds(variable: &str, default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var(variable) else { return default };
    let (first, end) = text.split_once("..").expect("seeds are given as FIRST..END");
    first.parse().expect("the first seed")..end.parse().expect("the seed after the last")
}

fn agree(name: &str, scenario: Scenario, kernel: bool) {
    let captured = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conformance").join(name);
    let comparison = conformance::compare(scenario, kernel, &captured).unwrap();
    eprintln!("{name}: {comparison}");
    assert!(!kernel || comparison.nftables.is_some(), "nftables can't be this:\n{}", comparison.story());
    assert!(comparison.agrees(), "{}", comparison.story());
}

fn possible(name: &str, scenario: Scenario, kernel: bool) {
    let captured = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conformance").join(name);
    let comparison = conformance::compare(scenario, kernel, &captured).unwrap();
    eprintln!("{name}: {comparison}");
    for real in [Some(&comparison.userspace), comparison.nftables.as_ref()].into_iter().flatten() {
        assert!(may_end_like(&comparison.scenario, real), "{}", comparison.story());
    }
}
