//! Draws pairs of networks and lets them meet; started by `cargo xtask population`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's program: its output is for the terminal"
)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tcpunch_scenarios::population::{
    Contestant, End, Figures, Numbers, Page, Pair, Parameters, contestants, draw, figures, numbers, run,
    worse_ends,
};
use tcpunch_scenarios::rows::wilson;

/// Pairs that everybody runs.
const PAIRS: usize = 10_000;
/// Of these, on how many each number's ends are measured.
const MEASURED: usize = 2_000;
/// Pairs of the quick form.
const QUICK: usize = 300;
/// More than so many of a hundred that end [wrong](tcpunch_scenarios::Verdict::Wrong) with our own way are a bug. Most of what ends so
/// is a connection that a NAT or a loss breaks right after it was made.
const WRONG_MOST: f64 = 2.0;
/// How many ways of connecting come before ours without a rule.
const WAYS: usize = 3;

const COMMAND: &str = "cargo xtask population";
const USAGE: &str = "population [--quick] [--pairs N] [--seed S]";

fn main() -> ExitCode {
    let (mut quick, mut pairs, mut seed) = (false, None, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--quick" {
            quick = true;
            continue;
        }
        let number = arguments.next().and_then(|text| text.parse::<u32>().ok());
        match (argument.as_str(), number) {
            ("--pairs", Some(number)) if number > 0 => pairs = Some(number as usize),
            ("--seed", Some(number)) => seed = u64::from(number),
            _ => {
                eprintln!("{argument}: {USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let done =
        if quick { quickly(pairs.unwrap_or(QUICK), seed) } else { fully(pairs.unwrap_or(PAIRS), seed) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Pairs with numbers of their own for each seed.
fn drawn(numbers: &Numbers, count: usize, seed: u64) -> Vec<Pair> {
    (0..count as u64).map(|nth| draw(numbers, (seed << 32) + nth)).collect()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Enough to see that it runs, and that nothing ends in a way that nothing should.
fn quickly(count: usize, seed: u64) -> Result<bool, Box<dyn Error>> {
    let parameters = Parameters::load()?;
    let pairs = drawn(&numbers(&parameters.best())?, count, seed);
    let mut good = true;
    for contestant in contestants().into_iter().take(WAYS) {
        let figures = figures(&ran(&pairs, &contestant));
        let own = contestant.options.strategy == tcpunch_scenarios::sim::Strategy::Ours;
        let wrong = figures.wrong as f64 * 100.0 / figures.runs.max(1) as f64;
        if figures.connected == 0 || (own && wrong > WRONG_MOST) {
            println!("FAILS: {}: {} connected, {wrong:.1} % wrong", contestant.name, figures.connected);
            good = false;
        }
    }
    Ok(good)
}

fn ran(pairs: &[Pair], contestant: &Contestant) -> Vec<End> {
    let began = Instant::now();
    let ends = run(pairs, contestant, threads());
    tell(contestant.name, &figures(&ends), began);
    ends
}

fn tell(name: &str, figures: &Figures, began: Instant) {
    let [low, high] = wilson(figures.connected, figures.runs).map(|it| it * 100.0);
    let share = figures.share().unwrap_or(0.0) * 100.0;
    println!(
        "{name:>14}  {share:5.1} % ({low:.1} to {high:.1})  wrong {:3}  seconds {:?}  SYNs {:?}  [{:.0} s]",
        figures.wrong,
        figures.seconds.unwrap_or_default(),
        figures.syns.unwrap_or_default(),
        began.elapsed().as_secs_f64()
    );
}

/// All of it, into `docs`.
fn fully(count: usize, seed: u64) -> Result<bool, Box<dyn Error>> {
    let parameters = Parameters::load()?;
    let pairs = drawn(&numbers(&parameters.best())?, count, seed);
    let runs: Vec<(Contestant, Vec<End>)> =
        contestants().into_iter().map(|contestant| (contestant, ran(&pairs, &contestant))).collect();
    let ours = runs.get(WAYS - 1).map(|(_, ends)| ends.as_slice()).unwrap_or_default();
    let base: Vec<(Pair, End)> = pairs.iter().cloned().zip(ours.iter().copied()).take(MEASURED).collect();
    let began = Instant::now();
    let (sensitivity, worst) = worse_ends(&parameters, &base, threads())?;
    println!("each number at both ends of its range [{:.0} s]", began.elapsed().as_secs_f64());
    for it in sensitivity.iter().take(20) {
        println!("  {:<36} {:5.1} % {:5.1} %", it.name, it.low * 100.0, it.high * 100.0);
    }
    println!("the lower end over all ranges:");
    let worst = drawn(&numbers(&worst)?, count, seed);
    let lower: Vec<Figures> =
        runs.iter().take(WAYS).map(|(contestant, _)| figures(&ran(&worst, contestant))).collect();
    let page = Page {
        pairs: &pairs,
        runs: &runs,
        lower: &lower,
        sensitivity: &sensitivity,
        measured_on: base.len(),
        seed,
        command: COMMAND,
    };
    fs::write(Path::new("docs").join("population.md"), page.markdown())?;
    Ok(true)
}
