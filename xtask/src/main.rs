//! Developer tasks: `cargo xtask` lists them. Nothing to install beyond the toolchain.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's command line: its output is for the terminal"
)]

mod abuse;
mod bench;
mod check;
mod fuzz;
mod lab;
mod matrix;
mod population;
mod rules;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

const TASKS: &str = "\
cargo xtask check           format, lints, docs, and the rules on sources and documents
cargo xtask check --quick   only the rules on sources and documents (under a second)
cargo xtask bench           speed, cost, memory and latency beside baselines, through two kernel NATs; as root
cargo xtask bench --quick   the same with less data and fewer repetitions
cargo xtask bench sim       punches a second in virtual time
cargo xtask abuse [FLOOD...]  floods against a broker while honest pairs are introduced (five minutes)
cargo xtask abuse --quick   a second and a half of each flood; timing fails nothing
cargo xtask lab --nat A,B [-- COMMAND]
                            an internet of two networks and a broker's host, to try programs in by hand; as root
cargo xtask lab --help      all about it
cargo xtask fuzz [TARGET...] [--seconds N] [--jobs N] [--keep]
                            looks for inputs that break a parser or a state machine
cargo xtask matrix          who connects with whom, and what is promised of it: writes docs/matrix.md; as root (an hour)
cargo xtask matrix --rows [--write] [--simulated RUNS] [--kernels RUNS] [--row NAME]
                            what is promised alone; --heat, --ablation and --replay SEED alike
cargo xtask matrix --quick  whether all that should connect does: in simulation, and on real kernels as many as fit
                            into a minute
cargo xtask population [--pairs N] [--seed S]
                            which share of pairs of networks connects: writes docs/population.md (minutes)
cargo xtask population --quick  some pairs: fails on nonsense only";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            println!("{TASKS}");
            return ExitCode::SUCCESS;
        }
        ["check"] => root().and_then(|root| check::run(&root, false)),
        ["abuse", rest @ ..] => root().and_then(|root| abuse::run(&root, rest)),
        ["check", "--quick"] => root().and_then(|root| check::run(&root, true)),
        ["bench"] => root().and_then(|root| bench::run(&root, false)),
        ["bench", "--quick"] => root().and_then(|root| bench::run(&root, true)),
        ["bench", "sim"] => root().and_then(|root| bench::simulation(&root)),
        ["lab", rest @ ..] => root().and_then(|root| lab::run(&root, rest)),
        ["fuzz", rest @ ..] => root().and_then(|root| fuzz::run(&root, rest)),
        ["matrix", rest @ ..] => root().and_then(|root| matrix::run(&root, rest)),
        ["population", rest @ ..] => root().and_then(|root| population::run(&root, rest)),
        _ => {
            eprintln!("unknown task: {}\n\n{TASKS}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: the directory above this package, wherever the task was called from.
fn root() -> Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set: run this as `cargo xtask`")?;
    let package = PathBuf::from(package);
    let root = package.parent().context("the package has no parent")?;
    Ok(root.to_path_buf())
}
