//! Measures what is promised; started by `cargo xtask matrix --rows`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's program: its output is for the terminal"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tcpunch_scenarios::rows::{Done, Plan, Promise, Trial, details, figures, summary};
use tcpunch_scenarios::{each, sim, userspace};

/// Labs at a time: more, and two processors let packets wait.
const LABS: usize = 10;
/// How often progress is told.
const TOLD_EVERY: usize = 200;
/// Failing pairs that are told, of each row.
const TOLD_PAIRS: usize = 12;
/// Links on which they fail, of each.
const TOLD_LINKS: usize = 3;

const USAGE: &str =
    "rows [--simulated RUNS] [--kernels RUNS] [--row NAME]... [--details] | rows --replay SEED";

struct Wanted {
    simulated: u64,
    kernels: u64,
    rows: Vec<String>,
    details: bool,
    replay: Option<u64>,
}

fn wanted() -> Option<Wanted> {
    let mut wanted = Wanted { simulated: 0, kernels: 0, rows: Vec::new(), details: false, replay: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--simulated" => wanted.simulated = arguments.next()?.parse().ok()?,
            "--kernels" => wanted.kernels = arguments.next()?.parse().ok()?,
            "--row" => wanted.rows.push(arguments.next()?),
            "--details" => wanted.details = true,
            "--replay" => wanted.replay = Some(arguments.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let Some(wanted) = wanted() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let plan = Plan::whole();
    if let Some(seed) = wanted.replay {
        return replay(&plan, seed);
    }
    let trials = |count: u64| {
        plan.trials(|row, _| {
            let chosen = wanted.rows.is_empty() || wanted.rows.iter().any(|it| it == row.name);
            if chosen { count } else { 0 }
        })
    };
    let mut good = true;
    for (how, count) in [("in simulation", wanted.simulated), ("on real kernels", wanted.kernels)] {
        if count == 0 {
            continue;
        }
        let mut trials = trials(count);
        // What ends soon and what waits for its time-out are mixed, so that processors are busy alike all the time.
        trials.shuffle(&mut StdRng::seed_from_u64(1));
        let began = Instant::now();
        let done = if how == "in simulation" { simulate(&trials) } else { on_kernels(&trials) };
        println!("## {how}: {} runs in {:.0} s", done.len(), began.elapsed().as_secs_f64());
        println!("{}", summary(&plan, &done));
        if wanted.details {
            println!("{}", details(&plan, &done));
        }
        good &= failures(&plan, &done);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one again, and shows every segment.
fn replay(plan: &Plan, seed: u64) -> ExitCode {
    let Some(trial) = plan.again(seed) else {
        eprintln!("no run has this seed");
        return ExitCode::from(2);
    };
    if let (Some(row), Some(condition)) = (plan.rows.get(trial.row), plan.conditions.get(trial.condition)) {
        let pair = row.pairs.get(trial.pair).map_or_else(String::new, |pair| pair.name());
        println!("{}: {pair}, {condition}", row.name);
    }
    let run = sim::run_closely(&trial.scenario, sim::Options { record: true, ..sim::Options::default() });
    println!("{}", run.diagram);
    println!("{:#?}\n{:#?}", run.report, run.sides);
    println!("{:?}", trial.done(&run.report));
    ExitCode::SUCCESS
}

/// Tells what failed of each row: which pairs on which links, with a seed of each; whether nothing did.
fn failures(plan: &Plan, done: &[Done]) -> bool {
    let mut good = true;
    for (at, row) in plan.rows.iter().enumerate() {
        let mut failed: BTreeMap<usize, Vec<&Done>> = BTreeMap::new();
        for (nth, condition) in plan.conditions.iter().enumerate() {
            let here = done.iter().filter(|it| it.row == at && it.condition == nth);
            let all = figures(plan, row, here.clone());
            if all.promise() == Promise::Holds {
                continue;
            }
            good = false;
            let word = |it: &Promise| format!("{it:?}").to_lowercase();
            println!(
                "{}, {condition}: share {} ({} of {}, {} wrong), time {} ({:?} s), SYNs {} ({} at most, {} on the wire)",
                row.name,
                word(&all.share),
                all.kept,
                all.runs,
                all.wrong,
                word(&all.time),
                all.seconds,
                word(&all.politeness),
                all.syns[2],
                all.wire_syns
            );
            for one in here.filter(|it| all.failures.contains(&it.seed)) {
                failed.entry(one.pair).or_default().push(one);
            }
        }
        let mut failed: Vec<(usize, Vec<&Done>)> = failed.into_iter().collect();
        failed.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.len()));
        for (pair, runs) in failed.iter().take(TOLD_PAIRS) {
            let name = row.pairs.get(*pair).map_or_else(String::new, |pair| pair.name());
            println!("    {} × {name}", runs.len());
            let mut links: BTreeMap<usize, Vec<&Done>> = BTreeMap::new();
            for one in runs {
                links.entry(one.condition).or_default().push(one);
            }
            for (condition, runs) in links.iter().take(TOLD_LINKS) {
                let Some((link, first)) = plan.conditions.get(*condition).zip(runs.first()) else { continue };
                let took = first.took.unwrap_or_default();
                println!("        {} × {link}: {:?} {took:?} seed {}", runs.len(), first.verdict, first.seed);
            }
        }
        if failed.len() > TOLD_PAIRS {
            println!("    and {} more pairs", failed.len() - TOLD_PAIRS);
        }
    }
    good
}

fn simulate(trials: &[Trial]) -> Vec<Done> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    each(trials, processors, |trial| trial.done(&sim::run(&trial.scenario)))
}

/// What a lab says; a run that the lab itself could not do is told and left out.
fn on_kernels(trials: &[Trial]) -> Vec<Done> {
    let told = AtomicUsize::new(0);
    let runs = each(trials, LABS, |trial| {
        let count = told.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(TOLD_EVERY) {
            eprintln!("{count} of {} on real kernels", trials.len());
        }
        match userspace::run(&trial.scenario) {
            Ok(report) => Some(trial.done(&report)),
            Err(error) => {
                eprintln!("seed {}: {error}", trial.scenario.seed);
                None
            }
        }
    });
    runs.into_iter().flatten().collect()
}
