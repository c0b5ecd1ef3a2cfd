//! Each rule of the plan turned off, alone and on both sides: what it is worth.

use std::fmt::Write as _;

use natlab::Error;
use tcpunch_core::plan::Rules;

use super::measured::{Figures, figures};
use super::page::milliseconds;
use super::{Done, Plan, Trial, Within};
use crate::report::{percent, thousands};
use crate::{nftables, sim, userspace};

/// The plan without one of its rules.
#[derive(Debug, Clone, Copy)]
pub struct Without {
    /// The rule, as [`Rules`] names it; none for the plan as it is.
    pub rule: Option<&'static str>,
    /// All others.
    pub rules: Rules,
}

impl Without {
    /// The plan as it is, and then without each rule.
    pub fn each() -> Vec<Self> {
        let all = Rules::default();
        let off = |rule, rules| Self { rule: Some(rule), rules };
        vec![
            Self { rule: None, rules: all },
            off("refire", Rules { refire: false, ..all }),
            off("icmp_at_once", Rules { icmp_at_once: false, ..all }),
            off("rounds", Rules { rounds: false, ..all }),
            off("prediction", Rules { prediction: false, ..all }),
            off("birthday", Rules { birthday: false, ..all }),
            off("order", Rules { order: false, ..all }),
            off("stagger", Rules { stagger: false, ..all }),
            off("caution", Rules { caution: false, ..all }),
        ]
    }

    /// A run with neither side following the rule; `None` where it can't be run there.
    ///
    /// # Errors
    /// There can be no lab here, or it failed.
    pub fn run(&self, trial: &Trial, world: World) -> Result<Option<Done>, Error> {
        let scenario = &trial.scenario;
        let report = match world {
            World::Simulated => {
                let options = sim::Options { rules: [self.rules; 2], ..trial.options() };
                Some(sim::run_closely(scenario, options).report)
            }
            World::Kernels => Some(userspace::run_by(scenario, self.rules)?),
            World::Nftables => nftables::run_by(scenario, self.rules)?,
        };
        Ok(report.map(|report| trial.done(&report)))
    }
}

/// Where runs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// In virtual time.
    Simulated,
    /// On real kernels, through user-space NATs.
    Kernels,
    /// On real kernels, through their own NATs; pairs that these can't be are left out.
    Nftables,
}

/// By how much a figure has to move to be told: the share, and others as a part of what they were.
const SHARE_TOLD: f64 = 0.003;
const CHANGE_TOLD: f64 = 0.1;
/// What is less than this is no change in time: seconds.
const TIME_TOLD: f64 = 0.01;

/// What a comparison looks at.
struct Compared {
    share: f64,
    wrong: f64,
    median: f64,
    late: f64,
    syns: f64,
}

impl Compared {
    fn of(figures: &Figures) -> Self {
        Self {
            share: figures.kept_share().unwrap_or(0.0),
            wrong: figures.wrong as f64 / figures.runs.max(1) as f64,
            median: figures.seconds[0].unwrap_or(0.0),
            late: figures.seconds[1].unwrap_or(0.0),
            syns: figures.mean_syns,
        }
    }

    fn differs(&self, other: &Self) -> bool {
        let part = |one: f64, other: f64| (one - other).abs() > CHANGE_TOLD * one.max(other);
        let time = |one: f64, other: f64| part(one, other) && (one - other).abs() > TIME_TOLD;
        (self.share - other.share).abs() > SHARE_TOLD
            || (self.wrong - other.wrong).abs() > SHARE_TOLD
            || time(self.median, other.median)
            || time(self.late, other.late)
            || part(self.syns, other.syns)
    }
}

/// A line for each rule and row, or only where turning the rule off changes something; `runs` are as [`Without::each`].
pub fn ablation(plan: &Plan, runs: &[(Without, Vec<Done>)], only_changes: bool) -> String {
    let mut page = String::from(
        "\n| Without | Row | Kept | Ended wrong | Median, 95th, ms | SYNs, mean |\n|---|---|--:|--:|--:|--:|\n",
    );
    let of = |done: &[Done], row: usize| {
        let what = plan.rows.get(row)?;
        let figures = figures(plan, what, done.iter().filter(|it| it.row == row));
        (figures.runs > 0).then(|| Compared::of(&figures))
    };
    let Some((_, whole)) = runs.iter().find(|(without, _)| without.rule.is_none()) else { return page };
    for (without, done) in runs {
        let Some(rule) = without.rule else { continue };
        let mut nothing = true;
        for (at, row) in plan.rows.iter().enumerate() {
            if matches!(row.within, Within::NoPath(_)) {
                continue;
            }
            let Some((with, without)) = of(whole, at).zip(of(done, at)) else { continue };
            if only_changes && !with.differs(&without) {
                continue;
            }
            nothing = false;
            let _ = writeln!(
                page,
                "| {rule} | {} | {} → {} | {} → {} | {}, {} → {}, {} | {} → {} |",
                row.name,
                percent(Some(with.share)),
                percent(Some(without.share)),
                percent(Some(with.wrong)),
                percent(Some(without.wrong)),
                milliseconds(Some(with.median)),
                milliseconds(Some(with.late)),
                milliseconds(Some(without.median)),
                milliseconds(Some(without.late)),
                thousands(with.syns.round() as usize),
                thousands(without.syns.round() as usize),
            );
        }
        if nothing {
            let _ = writeln!(page, "| {rule} | none | | | | |");
        }
    }
    page
}
