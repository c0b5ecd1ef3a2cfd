//! From runs of the table to pages: a heat map, and figures by link and skew.

mod heat_map;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::Verdict;

pub use heat_map::heat_map;

/// One run of one pair of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The networks' places in [`Grid::names`]: who waits, who arrives.
    pub pair: [usize; 2],
    /// Between the two, and between each and the broker.
    pub round_trip: Duration,
    /// The probability that a packet between the two is lost.
    pub loss: f64,
    /// How much later than the other one side hears Go.
    pub skew: Duration,
    /// Whether [chance decides](crate::table::Entry::by_chance) how it ends.
    pub by_chance: bool,
    /// How it should end.
    pub expected: Verdict,
    /// How it ended.
    pub verdict: Verdict,
    /// From the claim to the connection, as a multiple of the [least time](crate::least_time); where connected.
    pub multiple: Option<f64>,
}

/// The link and the timing of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// Between the two, and between each and the broker.
    pub round_trip: Duration,
    /// The probability that a packet between the two is lost.
    pub loss: f64,
    /// How much later than the other one side hears Go.
    pub skew: Duration,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round_trip, loss, skew } = self;
        write!(f, "{} ms, loss {} %, skew {} ms", round_trip.as_millis(), loss * 100.0, skew.as_millis())
    }
}

/// Runs of pairs of networks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// The networks, as they stand on both axes.
    pub names: Vec<String>,
    /// What was run.
    pub runs: Vec<Run>,
}

/// Some runs as one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// How many there were.
    pub runs: usize,
    /// Of these, how many should have connected.
    pub expected: usize,
    /// How many did.
    pub connected: usize,
    /// How many ended [wrong](Verdict::Wrong).
    pub wrong: usize,
    /// Of those that did, the median of the time, as a multiple of the least.
    pub median: Option<f64>,
    /// The same, the 95th percentile.
    pub late: Option<f64>,
}

impl Summary {
    /// Of these runs.
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Self {
        let mut summary = Self::default();
        let mut multiples = Vec::new();
        for run in runs {
            summary.runs += 1;
            summary.expected += usize::from(run.expected == Verdict::Connected);
            summary.connected += usize::from(run.verdict == Verdict::Connected);
            summary.wrong += usize::from(run.verdict == Verdict::Wrong);
            multiples.extend(run.multiple);
        }
        multiples.sort_by(f64::total_cmp);
        summary.median = percentile(&multiples, 50);
        summary.late = percentile(&multiples, 95);
        summary
    }

    /// The share that connected, from 0 to 1; `None` of nothing.
    pub fn share(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.connected as f64 / self.runs as f64)
    }
}

/// Of sorted values, the least that is not below so many percent of them.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

impl Grid {
    /// Of one pair.
    pub fn cell(&self, waits: usize, arrives: usize) -> Summary {
        Summary::of(self.runs.iter().filter(|run| run.pair == [waits, arrives]))
    }

    /// Runs that did not end as they should: the pair's names and the run.
    pub fn surprises(&self) -> impl Iterator<Item = ([&str; 2], &Run)> {
        let name = |at: usize| self.names.get(at).map_or("?", String::as_str);
        self.runs.iter().filter(|run| run.verdict != run.expected).map(move |run| (run.pair.map(name), run))
    }

    /// How many pairs there are of which at least one run connected, and how many at all.
    pub fn pairs(&self) -> (usize, usize) {
        let mut pairs: BTreeMap<[usize; 2], bool> = BTreeMap::new();
        for run in &self.runs {
            *pairs.entry(run.pair).or_default() |= run.verdict == Verdict::Connected;
        }
        (pairs.values().filter(|connected| **connected).count(), pairs.len())
    }
}

/// One page for the results in simulation and on real kernels, with the pictures that stand beside it.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// In virtual time.
    pub simulation: &'a Grid,
    /// On real kernels, through user-space NATs.
    pub kernels: &'a Grid,
    /// The command that wrote it.
    pub command: &'a str,
}

impl Page<'_> {
    /// As Markdown; the pictures are `matrix-sim.svg` and `matrix-kernels.svg` beside it.
    pub fn markdown(&self) -> String {
        let mut page = format!(
            "\nWritten by `{}`; the networks are in `crates/scenarios/src/table.rs`.\n",
            self.command
        );
        let parts = [
            ("In simulation", "matrix-sim.svg", self.simulation, "in virtual time"),
            (
                "On real kernels",
                "matrix-kernels.svg",
                self.kernels,
                "the kernel's TCP stack on every host, through NATs in user space",
            ),
        ];
        for (title, picture, grid, what) in parts {
            let (connect, pairs) = grid.pairs();
            let kept = |run: &&Run| [run.expected, run.verdict] == [Verdict::Connected; 2];
            let summary = Summary::of(&grid.runs);
            let _ = write!(
                page,
                "\n### {title}\n\n![{title}]({picture})\n\n{} runs, {what}. {connect} of {pairs} pairs connect; {} of {} runs\n\
                 that should connect did, {} ended wrong (one side connected and the other not, or it broke before).\n",
                thousands(summary.runs),
                thousands(grid.runs.iter().filter(kept).count()),
                thousands(summary.expected),
                summary.wrong,
            );
            page.push_str(&tables(grid));
        }
        page
    }
}

/// Tables by round trip, loss and skew, of the runs that should connect.
fn tables(grid: &Grid) -> String {
    let milliseconds = |duration: Duration| format!("{} ms", duration.as_millis());
    let by = |title: &str, key: &dyn Fn(&Run) -> (u64, String)| {
        let mut groups: BTreeMap<(u64, String), Vec<&Run>> = BTreeMap::new();
        for run in grid.runs.iter().filter(|run| run.expected == Verdict::Connected) {
            groups.entry(key(run)).or_default().push(run);
        }
        let mut table =
            format!("\n| {title} | Runs | Connected | Median | 95 of 100 within |\n|---|--:|--:|--:|--:|\n");
        for ((_, name), runs) in groups {
            let summary = Summary::of(runs);
            let _ = writeln!(
                table,
                "| {name} | {} | {} | {} | {} |",
                thousands(summary.runs),
                percent(summary.share()),
                times(summary.median),
                times(summary.late)
            );
        }
        table
    };
    [
        by("Round trip", &|run| (run.round_trip.as_micros() as u64, milliseconds(run.round_trip))),
        by("Loss", &|run| ((run.loss * 1e6) as u64, format!("{} %", run.loss * 100.0))),
        by("Skew", &|run| (run.skew.as_micros() as u64, milliseconds(run.skew))),
    ]
    .concat()
}

/// A count for people.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share for people; 100 % only where it is all.
pub(crate) fn percent(share: Option<f64>) -> String {
    match share {
        None => "–".to_owned(),
        Some(share) if share >= 1.0 || share <= 0.0 => format!("{:.0} %", share * 100.0),
        Some(share) => format!("{:.1} %", (share * 100.0).clamp(0.1, 99.9)),
    }
}

/// A multiple for people.
pub(crate) fn times(multiple: Option<f64>) -> String {
    match multiple {
        None => "–".to_owned(),
        Some(multiple) if multiple < 9.95 => format!("{multiple:.1} ×"),
        Some(multiple) => format!("{multiple:.0} ×"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn run(pair: [usize; 2], round_trip: u64, verdict: Verdict, multiple: Option<f64>) -> Run {
        Run {
            pair,
            round_trip: Duration::from_millis(round_trip),
            loss: if round_trip == 50 { 0.02 } else { 0.0 },
            skew: Duration::ZERO,
            by_chance: false,
            expected: if pair == [1, 1] { Verdict::NoPath } else { Verdict::Connected },
            verdict,
            multiple,
        }
    }

    pub(super) fn grid() -> Grid {
        let connected =
            |pair, round_trip, multiple| run(pair, round_trip, Verdict::Connected, Some(multiple));
        Grid {
            names: vec!["public".into(), "symmetric <random>".into()],
            runs: vec![
                connected([0, 0], 1, 3.0),
                connected([0, 0], 50, 1.0),
                connected([0, 0], 50, 1.04),
                connected([0, 1], 50, 12.3),
                run([0, 1], 50, Verdict::Wrong, None),
                connected([1, 0], 1, 2.0),
                run([1, 1], 50, Verdict::NoPath, None),
            ],
        }
    }

    #[test]
    fn a_cell_sums_up_its_runs() {
        let cell = grid().cell(0, 0);
        assert_eq!((cell.runs, cell.connected, cell.median), (3, 3, Some(1.04)));
        assert_eq!(cell.share(), Some(1.0));
        let cell = grid().cell(0, 1);
        assert_eq!((cell.runs, cell.connected, cell.wrong, cell.share()), (2, 1, 1, Some(0.5)));
        assert_eq!(grid().cell(7, 7).share(), None);
        assert_eq!(grid().pairs(), (3, 4));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(50.0));
        assert_eq!(percentile(&values, 95), Some(95.0));
        assert_eq!(percentile(&[7.0], 95), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn what_did_not_end_as_it_should_is_named() {
        let grid = grid();
        let surprises: Vec<_> = grid.surprises().collect();
        assert_eq!(surprises.len(), 1);
        assert_eq!(surprises[0].0, ["public", "symmetric <random>"]);
    }

    #[test]
    fn all_is_said_of_all_alone() {
        assert_eq!(percent(Some(1.0)), "100 %");
        assert_eq!(percent(Some(0.9999)), "99.9 %");
        assert_eq!(percent(Some(0.0001)), "0.1 %");
        assert_eq!(percent(Some(0.0)), "0 %");
        assert_eq!(
            [0, 999, 1000, 86_700, 1_234_567].map(thousands).join(" "),
            "0 999 1,000 86,700 1,234,567"
        );
        assert_eq!(times(Some(1.04)), "1.0 ×");
        assert_eq!(times(Some(9.96)), "10 ×");
    }

    #[test]
    fn a_page_shows_both_pictures_and_each_table() {
        let (simulation, kernels) = (grid(), Grid::default());
        let page =
            Page { simulation: &simulation, kernels: &kernels, command: "cargo xtask matrix" }.markdown();
        for wanted in [
            "(matrix-sim.svg)",
            "(matrix-kernels.svg)",
            "`cargo xtask matrix`",
            "3 of 4 pairs connect; 5 of 6 runs\nthat should connect did, 1 ended wrong",
            "| 1 ms | 2 | 100 % | 2.0 × | 3.0 × |",
            "| 2 % | 4 | 75.0 % | 1.0 × | 12 × |",
            "| 0 ms | 6 | 83.3 % | 2.0 × | 12 × |",
        ] {
            assert!(page.contains(wanted), "{wanted} in\n{page}");
        }
        assert!(page.lines().all(|line| line.starts_with('|') || line.chars().count() <= 200), "{page}");
    }
}
