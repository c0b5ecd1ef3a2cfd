//! `cargo xtask lab`: two networks of one's choice, to try any program in by hand. The lab itself is
//! `crates/natlab/examples/lab.rs`.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Builds the lab as it is released, and becomes it, where the terminal is; what follows `lab` on the command line goes to
/// it.
///
/// # Errors
/// It could not be built or started.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--quiet", "--release", "--package", "natlab", "--example", "lab"])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the lab does not build");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let lab = target.join("release/examples/lab");
    // Ctrl-C is then the lab's alone, and the shell waits until it has cleaned up.
    Err(Command::new(lab).args(arguments).exec()).context("cannot run the lab")
}
