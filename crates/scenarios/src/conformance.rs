//! Simulation and real kernels agree, or one of them has a bug.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use natlab::Error;

use crate::{Outcome, Report, Scenario, Verdict, nftables, sim, userspace};

/// The same scenario, run by more than one.
#[derive(Debug)]
pub struct Comparison {
    /// What was run.
    pub scenario: Scenario,
    /// In virtual time.
    pub simulated: Report,
    /// On real kernels, through user-space NATs.
    pub userspace: Report,
    /// Through the kernel's NATs, if they were asked and can be this.
    pub nftables: Option<Report>,
    /// Where both sides' packets on the user-space NATs were written to.
    pub captured: PathBuf,
}

/// Runs a scenario in simulation and on user-space NATs, and with `kernel` also on the kernel's, where it can be run
/// there. `captured` is made, and is gone again where all agree.
///
/// # Errors
/// There can be no lab here, or it failed.
pub fn compare(scenario: Scenario, kernel: bool, captured: &Path) -> Result<Comparison, Error> {
    let simulated = sim::run(&scenario);
    let userspace = userspace::run_captured(&scenario, captured)?;
    let nftables = if kernel { nftables::run(&scenario)? } else { None };
    let captured = captured.to_owned();
    let comparison = Comparison { scenario, simulated, userspace, nftables, captured };
    if comparison.agrees() {
        // A directory that stays behind does no harm.
        let _ = fs::remove_dir_all(&comparison.captured);
    }
    Ok(comparison)
}

impl Comparison {
    /// Whether all have the same verdict, and, where both sides connected, the same kind of path on each side.
    pub fn agrees(&self) -> bool {
        let others = [Some(&self.userspace), self.nftables.as_ref()];
        others.into_iter().flatten().all(|other| same(&self.simulated, other))
    }

    /// What there is to know of a difference: scenario, reports, where the real packets are, the simulated ones.
    pub fn story(&self) -> String {
        let (_, diagram) = sim::run_recorded(&self.scenario);
        format!(
            "{self}\n\n{:#?}\n\nsimulated: {:#?}\n\nuser space: {:#?}\n\nnftables: {:#?}\n\npackets of the user-space run: {}\n\n\
             ```mermaid\n{diagram}\n```\n",
            self.scenario,
            self.simulated,
            self.userspace,
            self.nftables,
            self.captured.display()
        )
    }
}

impl fmt::Display for Comparison {
    /// One line: the seed and how it ended for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: simulated {}", self.scenario.seed, verdict(&self.simulated))?;
        write!(f, ", user space {}", verdict(&self.userspace))?;
        if let Some(report) = &self.nftables {
            write!(f, ", nftables {}", verdict(report))?;
        }
        Ok(())
    }
}

pub(crate) fn same(one: &Report, other: &Report) -> bool {
    let paths = |report: &Report| {
        report.sides.each_ref().map(|outcome| match outcome {
            Outcome::Connected { path, .. } => Some(*path),
            Outcome::NoPath { .. } | Outcome::Broken(_) => None,
        })
    };
    let verdict = one.verdict();
    verdict == other.verdict() && (verdict != Verdict::Connected || paths(one) == paths(other))
}

fn verdict(report: &Report) -> String {
    match report.verdict() {
        Verdict::Connected => {
            let [one, other] = report.sides.each_ref().map(|outcome| match outcome {
                Outcome::Connected { path, .. } => path.word(),
                Outcome::NoPath { .. } | Outcome::Broken(_) => "?",
            });
            let took = report.since_claim.unwrap_or_default().as_millis();
            if one == other { format!("{one} ({took} ms)") } else { format!("{one}/{other} ({took} ms)") }
        }
        Verdict::NoPath => "no path".to_owned(),
        Verdict::Wrong => {
            let [one, other] = report.sides.each_ref().map(|outcome| match outcome {
                Outcome::Connected { .. } => "connected",
                Outcome::NoPath { .. } => "no path",
                Outcome::Broken(reason) => reason,
            });
            format!("WRONG ({one} / {other})")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tcpunch_core::plan::Path;

    use super::*;

    fn report(sides: [Outcome; 2]) -> Report {
        Report { sides, since_claim: None, syns: [1; 2], wire_syns: [1; 2] }
    }

    #[test]
    fn paths_count_where_both_connected_and_times_never() {
        let connected = |path, ms| Outcome::Connected { path, elapsed: Duration::from_millis(ms) };
        let no_path =
            |ms: u64| Outcome::NoPath { reason: ms.to_string(), elapsed: Duration::from_millis(ms) };
        let punched = report([connected(Path::Punched, 1), connected(Path::Punched, 2)]);
        let slower = report([connected(Path::Punched, 900), connected(Path::Punched, 2)]);
        let direct = report([connected(Path::Direct, 1), connected(Path::Direct, 2)]);
        let none = report([no_path(1), no_path(2)]);
        let half = report([connected(Path::Punched, 1), no_path(2)]);
        assert!(same(&punched, &slower));
        assert!(!same(&punched, &direct));
        assert!(!same(&punched, &none));
        assert!(same(&none, &report([no_path(9), no_path(10)])));
        assert!(!same(&half, &none) && !same(&half, &punched));
        assert!(verdict(&half).starts_with("WRONG"));
    }
}
