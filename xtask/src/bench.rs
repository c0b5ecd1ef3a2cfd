//! Benchmarks, built as the program is released.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub(crate) fn run(root: &Path, quick: bool) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root).args(["bench", "--package", "tcpunch-cli", "--bench", "speed"]);
    if quick {
        command.args(["--", "--quick"]);
    }
    let status = command.status().context("run cargo bench")?;
    ensure!(status.success(), "the benchmark failed: {status}");
    Ok(())
}

/// Punches a second in virtual time.
pub(crate) fn simulation(root: &Path) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root).args(["bench", "--package", "tcpunch-scenarios", "--bench", "sim"]);
    let status = command.status().context("run cargo bench")?;
    ensure!(status.success(), "the benchmark failed: {status}");
    Ok(())
}
