//! `cargo xtask abuse`: the broker under floods, as a program of its own. The drill itself is
//! `crates/broker/examples/abuse`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Builds the program and the drill as they are released, and runs it; what follows `abuse` on the
/// command line goes to the drill.
///
/// # Errors
/// Nothing could be built, or the drill found a fault; it says which.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    cargo(root, &["build", "--release", "--package", "tcpunch-cli", "--bin", "tcpunch"])?;
    cargo(root, &["build", "--release", "--package", "tcpunch-broker", "--example", "abuse"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let built = target.join("release");
    let status = Command::new(built.join("examples").join("abuse"))
        .current_dir(root)
        .arg(built.join("tcpunch"))
        .args(arguments)
        .status()
        .context("cannot run the drill")?;
    if !status.success() {
        bail!("the drill failed");
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
