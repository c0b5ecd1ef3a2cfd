//! How scenarios drawn by seed end in virtual time, with a few seeds of each kind of end:
//! `cargo run --release -p tcpunch-scenarios --example sim_survey -- [COUNT] [FIRST] [lossy|kernel]`.
#![allow(clippy::print_stdout, reason = "it is read by a person")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tcpunch_scenarios::draw::{draw, draw_kernel, troubled};
use tcpunch_scenarios::{Outcome, sim};

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Connected { path, .. } => path.word().to_owned(),
        Outcome::NoPath { .. } => "no path".to_owned(),
        Outcome::Broken(what) => what.clone(),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|it| it.parse().ok());
    let (count, first): (u64, u64) = (number(0).unwrap_or(1000), number(1).unwrap_or(0));
    let kind = arguments.get(2).map_or("", String::as_str);
    let ends: Mutex<BTreeMap<String, Vec<u64>>> = Mutex::default();
    let times: Mutex<Vec<Duration>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (ends, times) = (&ends, &times);
            scope.spawn(move || {
                for seed in (first..first + count).filter(|seed| seed % threads == thread) {
                    let scenario = match kind {
                        "lossy" => troubled(draw(seed)),
                        "kernel" => draw_kernel(seed),
                        _ => draw(seed),
                    };
                    let run = sim::run_closely(&scenario, sim::Options::default());
                    let [one, other] = run.report.sides.each_ref().map(word);
                    let mixed = one != "no path" && run.sides.iter().any(|it| it.finishes != 1);
                    let end = format!("{one} | {other}{}", if mixed { " (no attempt)" } else { "" });
                    if let (Some(took), Ok(mut times)) = (run.report.elapsed(), times.lock()) {
                        times.push(took);
                    }
                    if let Ok(mut ends) = ends.lock() {
                        ends.entry(end).or_default().push(seed);
                    }
                }
            });
        }
    });
    let mut times = times.into_inner().unwrap_or_default();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(1).max(1);
    println!("connected after {:?} in the median, {:?} in 90 of 100, {mean:?} on average", at(50), at(90));
    for (end, seeds) in ends.into_inner().unwrap_or_default() {
        println!("{:>7}  {end}   {:?}", seeds.len(), seeds.iter().take(8).collect::<Vec<_>>());
    }
}
