//! `cargo xtask check`: every step runs even when an earlier one failed, so that one run shows all that is wrong.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::rules::{self, Finding, Tree};

/// Runs the checks at `root`; `quick` leaves out what compiles.
///
/// # Errors
/// When any step failed; its name is in the message and its findings are on stderr.
pub(crate) fn run(root: &Path, quick: bool) -> Result<()> {
    let mut failed = Vec::new();
    let mut step = |name: &'static str, work: &dyn Fn() -> Result<bool>| -> Result<()> {
        let start = Instant::now();
        let good = work()?;
        let seconds = start.elapsed().as_secs_f64();
        let verdict = if good { "ok" } else { "FAILED" };
        println!("check: {name:<9} {verdict:<6} {seconds:6.1} s");
        if !good {
            failed.push(name);
        }
        Ok(())
    };

    let tree = Tree::read(root)?;
    step("sources", &|| Ok(report(&rules::sources(&tree))))?;
    step("documents", &|| Ok(report(&rules::documents(&tree))))?;
    if !quick {
        step("fmt", &|| cargo(root, &["fmt", "--all", "--check"], &[]))?;
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step("clippy", &|| cargo(root, &clippy, &[]))?;
        let doc = ["doc", "--workspace", "--no-deps"];
        step("doc", &|| cargo(root, &doc, &[("RUSTDOCFLAGS", "-D warnings")]))?;
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    Ok(())
}

fn report(findings: &[Finding]) -> bool {
    for finding in findings {
        eprintln!("{finding}");
    }
    findings.is_empty()
}

fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
    Ok(status.success())
}
