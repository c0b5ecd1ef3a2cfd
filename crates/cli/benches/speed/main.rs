//! How fast, how dear, how big: each figure beside a baseline of the same run, through two kernel NATs.
//!
//! `cargo xtask bench` runs it; `--quick` moves less and repeats less. Needs root for network namespaces. Figures are
//! printed; only what does not work fails.

// A benchmark says what broke by panicking, and what it measured on its output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod idle;
mod running;
mod scene;
mod start;
mod subjects;
mod throughput;

use std::process::ExitCode;

/// How much is measured.
pub(crate) struct Extent {
    /// Bytes of one transfer.
    pub(crate) bytes: u64,
    /// Transfers of each kind, one kind after the other in each round.
    pub(crate) rounds: usize,
    /// Starts of a connect.
    pub(crate) starts: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((subject, rest)) = arguments.split_first()
        && subjects::is_one(subject)
    {
        subjects::run(subject, rest);
        return ExitCode::SUCCESS;
    }
    // `cargo test --benches` asks whether it works at all; cargo bench gives `--bench`.
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let extent = if quick {
        Extent { bytes: 256 << 20, rounds: 3, starts: 5 }
    } else {
        Extent { bytes: 2 << 30, rounds: 7, starts: 31 }
    };
    if let Err(missing) = natlab::availability() {
        println!("not measured: {missing}");
        return ExitCode::FAILURE;
    }
    throughput::measure(&extent);
    idle::measure();
    start::measure(&extent);
    ExitCode::SUCCESS
}

/// The middle one; of an even number the upper of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
