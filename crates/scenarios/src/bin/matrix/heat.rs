//! Every network with every other.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tcpunch_scenarios::report::{Condition, Grid, Page, Run, Summary, heat_map, thousands};
use tcpunch_scenarios::table::{self, Entry};
use tcpunch_scenarios::{Verdict, each, sim, userspace};

use crate::{Wanted, write};

/// Simulated runs of each pair on each link: 25 times 12 links are 300 a cell.
const SIMULATED: usize = 25;
/// Runs of each pair on real kernels, each on another link.
const ON_KERNELS: usize = 3;
/// How often progress is told.
const TOLD_EVERY: usize = 200;

const COMMAND: &str = "cargo xtask matrix --heat";

/// All of it, into `docs`.
pub(crate) fn fully(wanted: &Wanted) -> io::Result<()> {
    let runs =
        |asked: Option<u64>, otherwise| asked.and_then(|it| usize::try_from(it).ok()).unwrap_or(otherwise);
    let (simulated, kernels) = (runs(wanted.simulated, SIMULATED), runs(wanted.kernels, ON_KERNELS));
    let conditions = table::conditions();
    let simulation = grid(simulate(&conditions, simulated));
    tell("in simulation", &simulation);
    let mut entries = some(&conditions, kernels);
    // What ends soon and what waits for its time-out are mixed, so that labs are busy alike all the time.
    entries.shuffle(&mut StdRng::seed_from_u64(1));
    let kernels = grid(on_kernels(&entries, wanted.labs, None));
    tell("on real kernels", &kernels);
    let docs = Path::new("docs");
    for (file, title, what, grid) in [
        ("matrix-sim.svg", "In simulation", "in virtual time", &simulation),
        ("matrix-kernels.svg", "On real kernels", "real TCP stacks, NATs in user space", &kernels),
    ] {
        let summary = Summary::of(&grid.runs);
        let subtitle = format!(
            "{} runs, {what}; round trips of 1, 50 and 200 ms, losses of 0 and 2 %, skews of 0 and 100 ms",
            thousands(summary.runs)
        );
        fs::write(docs.join(file), heat_map(title, &subtitle, grid))?;
    }
    let page = Page { simulation: &simulation, kernels: &kernels, command: COMMAND };
    write("heat map", &page.markdown())
}

/// Enough to see that something broke: whether nothing that should connect does not.
pub(crate) fn quickly(labs: usize, within: Duration) -> bool {
    let conditions = table::conditions();
    let simulation = grid(simulate(&conditions, 1));
    let mut good = judge("in simulation", &simulation);
    if let Err(missing) = natlab::availability() {
        println!("on real kernels: not run, {}", missing.reason());
        return good && std::env::var("TCPUNCH_LAB").as_deref() != Ok("required");
    }
    // What should connect, and chance does not decide: it ends within a second or two.
    let mut entries = all(&conditions, 1);
    entries.retain(|entry| entry.expected == Verdict::Connected && !entry.by_chance());
    entries.shuffle(&mut StdRng::seed_from_u64(1));
    let kernels = grid(on_kernels(&entries, labs, Some(Instant::now() + within)));
    good &= judge("on real kernels", &kernels) & crate::enough(kernels.runs.len());
    good
}

/// Tells a result; whether nothing that should have connected did not.
fn judge(how: &str, grid: &Grid) -> bool {
    tell(how, grid);
    let mut good = true;
    for ([waits, arrives], run) in grid.surprises() {
        // What chance decides is judged by shares, in the full form.
        let fails = run.expected == Verdict::Connected && !run.by_chance;
        good &= !fails;
        println!(
            "  {}{waits} × {arrives}, round trip {} ms, loss {} %, skew {} ms: {:?}, not {:?}",
            if fails { "FAILS: " } else { "" },
            run.round_trip.as_millis(),
            run.loss * 100.0,
            run.skew.as_millis(),
            run.verdict,
            run.expected
        );
    }
    good
}

fn tell(how: &str, grid: &Grid) {
    let summary = Summary::of(&grid.runs);
    let (connect, pairs) = grid.pairs();
    println!(
        "{how}: {} runs, {connect} of {pairs} pairs connect, {} of {} runs that should, {} ended wrong",
        summary.runs,
        grid.runs.iter().filter(|run| [run.expected, run.verdict] == [Verdict::Connected; 2]).count(),
        summary.expected,
        summary.wrong
    );
}

fn grid(runs: Vec<Run>) -> Grid {
    Grid { names: table::networks().into_iter().map(|network| network.name).collect(), runs }
}

/// Every pair on every link, so many times.
fn all(conditions: &[Condition], times: usize) -> Vec<Entry> {
    let each = |condition| (1..=times as u64).flat_map(move |seed| table::entries(condition, seed));
    conditions.iter().copied().flat_map(each).collect()
}

/// Every pair on so many links, which are others for the next pair.
fn some(conditions: &[Condition], links: usize) -> Vec<Entry> {
    let all: Vec<Vec<Entry>> = (0..links.div_ceil(conditions.len().max(1)))
        .flat_map(|round| {
            conditions.iter().map(move |condition| table::entries(*condition, round as u64 + 1))
        })
        .collect();
    let pairs = all.first().map_or(0, Vec::len);
    let mut chosen = Vec::new();
    for pair in 0..pairs {
        // 5 has no factor in common with the 12 links, so the links of a pair are spread over all kinds.
        chosen.extend((0..links).filter_map(|nth| all.get((pair + nth * 5) % all.len())?.get(pair).cloned()));
    }
    chosen
}

fn simulate(conditions: &[Condition], times: usize) -> Vec<Run> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let entries = all(conditions, times);
    each(&entries, processors, |entry| entry.run(&sim::run(&entry.scenario)))
}

/// What a lab says, until some time; a run that the lab itself could not do is told and left out.
fn on_kernels(entries: &[Entry], labs: usize, until: Option<Instant>) -> Vec<Run> {
    let done = AtomicUsize::new(0);
    let runs = each(entries, labs, |entry| {
        if until.is_some_and(|until| Instant::now() > until) {
            return None;
        }
        let count = done.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(TOLD_EVERY) {
            eprintln!("{count} of {} on real kernels", entries.len());
        }
        match userspace::run(&entry.scenario) {
            Ok(report) => Some(entry.run(&report)),
            Err(error) => {
                eprintln!("{}: {error}", entry.name());
                None
            }
        }
    });
    runs.into_iter().flatten().collect()
}
