//! What is promised.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tcpunch_scenarios::report::thousands;
use tcpunch_scenarios::rows::{
    Done, HEAVY_LOSS, Plan, Promise, Row, Trial, Without, World, ablation, details, figures, legend, summary,
};
use tcpunch_scenarios::{Verdict, each, sim, userspace};

use crate::{Wanted, write};

/// Simulated runs of each row on each link: thousands of each row without loss.
const SIMULATED: u64 = 1000;
/// Runs of each row on each link on real kernels: 20 of a certain one, and of one that leaves something to chance 200 on the nine links of
/// each loss.
const ON_KERNELS: [u64; 2] = [20, 23];
/// Runs of each row on each link with each rule turned off.
const ABLATED: u64 = 200;
/// How often progress is told.
const TOLD_EVERY: usize = 200;
/// Failing pairs that are told, of each row.
const TOLD_PAIRS: usize = 12;
/// Links on which they fail, of each.
const TOLD_LINKS: usize = 3;

/// So many trials of each row that is wanted, on each link. What ends soon and what waits for its time-out are mixed, so that
/// processors are busy alike all the time.
fn trials(plan: &Plan, wanted: &Wanted, [certain, chancy]: [u64; 2]) -> Vec<Trial> {
    let mut trials = plan.trials(|row, _| {
        let chosen = wanted.rows.is_empty() || wanted.rows.iter().any(|it| it == row.name);
        match (chosen, row.is_certain()) {
            (false, _) => 0,
            (true, true) => certain,
            (true, false) => chancy,
        }
    });
    trials.shuffle(&mut StdRng::seed_from_u64(1));
    trials
}

/// All rows, on the terminal, and into the page.
pub(crate) fn fully(wanted: &Wanted, writes: bool) -> io::Result<()> {
    let plan = Plan::whole();
    let mut kinds: Vec<(&str, Vec<Done>)> = Vec::new();
    let mut page = format!("\n{}\n{}", WORDS.trim(), legend(&plan));
    for (kind, counts) in [
        ("simulation", [wanted.simulated.unwrap_or(SIMULATED); 2]),
        ("kernels", wanted.kernels.map_or(ON_KERNELS, |it| [it; 2])),
    ] {
        let mut trials = trials(&plan, wanted, counts);
        trials.retain(|trial| kind == "simulation" || trial.runs_on_kernels());
        if trials.is_empty() {
            continue;
        }
        let began = Instant::now();
        let done = match kind {
            "simulation" => simulate(&trials),
            _ => on_kernels(&trials, wanted.labs, None),
        };
        let took = began.elapsed().as_secs();
        let _ = write!(page, "\n{}: {} runs, in {took} s.\n", kind, thousands(done.len()));
        println!("# {kind}: {} runs in {took} s", done.len());
        println!("{}", summary(&plan, &[(kind, &done)]));
        if wanted.details {
            println!("{}", details(&plan, &done));
        }
        failures(&plan, &done);
        kinds.push((kind, done));
    }
    if !writes || !wanted.rows.is_empty() {
        return Ok(());
    }
    let kinds: Vec<(&str, &[Done])> = kinds.iter().map(|(kind, done)| (*kind, &done[..])).collect();
    page.push_str(&summary(&plan, &kinds));
    write("rows", &page)
}

/// What stands above the rows.
const WORDS: &str = "
Written by `cargo xtask matrix --rows --write`; the rows are in `crates/scenarios/src/rows.rs`, their networks in
`crates/scenarios/src/rows/families.rs`.
";

/// What each rule is worth, on the terminal and into the page: in simulation, or on real kernels where these are asked for.
pub(crate) fn ablate(wanted: &Wanted, writes: bool) -> io::Result<()> {
    let plan = if wanted.round_trips.is_empty() { Plan::whole() } else { Plan::at(&wanted.round_trips) };
    let (world, count, at_once) = match (wanted.kernels, wanted.nftables) {
        (None, _) => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (World::Simulated, wanted.simulated.unwrap_or(ABLATED), processors)
        }
        (Some(count), false) => (World::Kernels, count, wanted.labs),
        (Some(count), true) => (World::Nftables, count, wanted.labs),
    };
    let mut trials = trials(&plan, wanted, [count; 2]);
    trials.retain(|trial| plan.conditions.get(trial.condition).is_some_and(|link| link.loss < HEAVY_LOSS));
    trials.retain(|trial| world == World::Simulated || trial.runs_on_kernels());
    let mut rules = Without::each();
    rules.retain(|it| {
        it.rule.is_none_or(|rule| wanted.rules.is_empty() || wanted.rules.iter().any(|it| it == rule))
    });
    // With and without one after the other: a machine is not busy alike all the time.
    let jobs: Vec<(&Trial, &Without)> =
        trials.iter().flat_map(|trial| rules.iter().map(move |rule| (trial, rule))).collect();
    let told = AtomicUsize::new(0);
    let mut done = each(&jobs, at_once, |(trial, without)| {
        let count = told.fetch_add(1, Ordering::Relaxed) + 1;
        if world != World::Simulated && count.is_multiple_of(TOLD_EVERY) {
            eprintln!("{count} of {} on real kernels", jobs.len());
        }
        without.run(trial, world).unwrap_or_else(|error| {
            eprintln!("seed {}: {error}", trial.scenario.seed);
            None
        })
    })
    .into_iter();
    let mut runs: Vec<(Without, Vec<Done>)> = rules.iter().map(|rule| (*rule, Vec::new())).collect();
    for _ in &trials {
        let runs_of_one = runs.iter_mut().zip(done.by_ref());
        runs_of_one.for_each(|((_, all), one)| all.extend(one));
    }
    let table = ablation(&plan, &runs, world == World::Simulated);
    for (without, done) in &runs {
        let count = |verdict| done.iter().filter(|it| it.verdict == verdict).count();
        println!(
            "{}: {} runs, {} connected, {} without a path, {} wrong",
            without.rule.unwrap_or("all rules"),
            done.len(),
            count(Verdict::Connected),
            count(Verdict::NoPath),
            count(Verdict::Wrong)
        );
    }
    println!("{table}");
    if !writes || world != World::Simulated || !(wanted.rows.is_empty() && wanted.rules.is_empty()) {
        return Ok(());
    }
    let words = format!(
        "\nWritten by `cargo xtask matrix --ablation --write`: {} simulated runs of the rows, at losses of 0 and 2 %, with \
         each\nrule.\n",
        thousands(trials.len())
    );
    write("ablation", &format!("{words}{table}"))
}

/// Every pair that is certain, without loss, in simulation, and on real kernels as many as fit in: whether all that should connect do.
pub(crate) fn quickly(labs: usize, within: Duration) -> bool {
    let plan = Plan::whole();
    let mut trials = plan.each_pair(Row::is_certain, |condition| condition.loss <= 0.0);
    let mut good = judge(&plan, "in simulation", &simulate(&trials));
    if let Err(missing) = natlab::availability() {
        println!("rows, on real kernels: not run, {}", missing.reason());
        return good && std::env::var("TCPUNCH_LAB").as_deref() != Ok("required");
    }
    let connects =
        |trial: &Trial| plan.rows.get(trial.row).is_some_and(|row| row.verdict() == Verdict::Connected);
    trials.retain(|trial| trial.runs_on_kernels() && connects(trial));
    trials.shuffle(&mut StdRng::seed_from_u64(1));
    let done = on_kernels(&trials, labs, Some(Instant::now() + within));
    good &= judge(&plan, "on real kernels", &done) & crate::enough(done.len());
    good
}

/// Tells what did not end as it should; whether everything did.
fn judge(plan: &Plan, how: &str, done: &[Done]) -> bool {
    let ends = |it: &&Done| plan.rows.get(it.row).is_none_or(|row| row.verdict() == it.verdict);
    let failed: Vec<&Done> = done.iter().filter(|it| !ends(it)).collect();
    println!("rows, {how}: {} runs, {} ended otherwise than promised", done.len(), failed.len());
    for one in &failed {
        println!("  FAILS: {}: {:?}, seed {}", plan.name(one), one.verdict, one.seed);
    }
    failed.is_empty()
}

/// Runs one again: in simulation, and shows every segment; or on real kernels up to so many times, and keeps what was captured of
/// the first that ends otherwise than promised.
pub(crate) fn replay(seed: u64, kernels: Option<u64>) -> ExitCode {
    let plan = Plan::whole();
    let Some(trial) = plan.again(seed) else {
        eprintln!("no run has this seed");
        return ExitCode::from(2);
    };
    if let Some(runs) = kernels {
        return again_on_kernels(&plan, &trial, runs);
    }
    let run = sim::run_closely(&trial.scenario, sim::Options { record: true, ..trial.options() });
    println!("{}", run.diagram);
    println!("{:#?}\n{:#?}", run.report, run.sides);
    println!("{}", plan.name(&trial.done(&run.report)));
    ExitCode::SUCCESS
}

fn again_on_kernels(plan: &Plan, trial: &Trial, runs: u64) -> ExitCode {
    let expected = plan.rows.get(trial.row).map(Row::verdict);
    let captured = std::env::temp_dir().join(format!("tcpunch-replay-{}", trial.scenario.seed));
    for run in 1..=runs {
        let report = match userspace::run_captured(&trial.scenario, &captured) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let done = trial.done(&report);
        println!("{run}: {}: {:?} {:?}, {} SYNs", plan.name(&done), done.verdict, done.took, done.syns);
        if expected.is_some_and(|expected| expected != done.verdict) {
            println!("{report:#?}\ncaptured in {}", captured.display());
            return ExitCode::FAILURE;
        }
    }
    if let Err(error) = fs::remove_dir_all(&captured) {
        eprintln!("can't remove {}: {error}", captured.display());
    }
    ExitCode::SUCCESS
}

/// Tells what failed of each row: which pairs on which links, with a seed of each.
fn failures(plan: &Plan, done: &[Done]) {
    for (at, row) in plan.rows.iter().enumerate() {
        let mut failed: BTreeMap<usize, Vec<&Done>> = BTreeMap::new();
        for (nth, condition) in plan.conditions.iter().enumerate() {
            let here = done.iter().filter(|it| it.row == at && it.condition == nth);
            let all = figures(plan, row, here.clone());
            if all.promise() == Promise::Holds {
                continue;
            }
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
            let most = here.clone().max_by_key(|it| it.syns);
            if let (Promise::Missed, Some(one)) = (&all.politeness, most) {
                let pair = row.pairs.get(one.pair).map_or_else(String::new, |pair| pair.name());
                println!("    most SYNs: {pair}, seed {}", one.seed);
            }
            for late in &all.late_pairs {
                let slowest = here.clone().filter(|it| it.pair == *late).max_by_key(|it| it.took);
                if let (Some(pair), Some(one)) = (row.pairs.get(*late), slowest) {
                    println!(
                        "    late: {}, up to {:?} seed {}",
                        pair.name(),
                        one.took.unwrap_or_default(),
                        one.seed
                    );
                }
            }
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
}

fn simulate(trials: &[Trial]) -> Vec<Done> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    each(trials, processors, |trial| trial.done(&sim::run_closely(&trial.scenario, trial.options()).report))
}

/// What a lab says, until some time; a run that the lab itself could not do is told and left out.
fn on_kernels(trials: &[Trial], labs: usize, until: Option<Instant>) -> Vec<Done> {
    let told = AtomicUsize::new(0);
    let runs = each(trials, labs, |trial| {
        if until.is_some_and(|until| Instant::now() > until) {
            return None;
        }
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
