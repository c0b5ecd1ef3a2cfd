//! `cargo xtask population`: which share of pairs of networks connects, as `docs/population.md` shows it. The program is
//! `crates/scenarios/src/bin/population.rs`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Builds it, and runs it at the root; what follows `population` on the command line goes to it. Its quick form is built as tests
/// are, so that it costs no build after them.
///
/// # Errors
/// It could not be built, or it found nonsense; it says which.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = if arguments.contains(&"--quick") { "dev" } else { "release" };
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["run", "--profile", profile, "--package", "tcpunch-scenarios", "--bin", "population", "--"])
        .args(arguments)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the population failed");
    }
    Ok(())
}
