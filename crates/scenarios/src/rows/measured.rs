//! From trials to what was kept of a promise.

use std::collections::{BTreeMap, BTreeSet};

use super::{Done, Plan, Row};
use crate::Verdict;
use crate::report::percentile;

/// Runs of one pair that a median is judged by, at least.
const MEDIAN_OF: usize = 5;

/// Between which two shares the true one lies, with 95 % confidence (Wilson 1927), of so many kept among so many.
pub fn wilson(kept: usize, runs: usize) -> [f64; 2] {
    const Z: f64 = 1.96;
    if runs == 0 {
        return [0.0, 1.0];
    }
    let (count, share) = (runs as f64, kept as f64 / runs as f64);
    let square = Z * Z / count;
    let middle = share + square / 2.0;
    let width = Z * (share * (1.0 - share) / count + square / (4.0 * count)).sqrt();
    [((middle - width) / (1.0 + square)).max(0.0), ((middle + width) / (1.0 + square)).min(1.0)]
}

/// What became of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// It holds.
    Holds,
    /// The share is below, but so little that chance can explain it.
    Unclear,
    /// It does not hold.
    Missed,
}

/// Some runs of one row as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// How many there were.
    pub runs: usize,
    /// How many ended as promised, and each in time where each has to.
    pub kept: usize,
    /// The same, in time or not.
    pub ended: usize,
    /// How many ended [wrong](Verdict::Wrong).
    pub wrong: usize,
    /// Seconds, of those that ended as promised: the median and the 95th percentile.
    pub seconds: [Option<f64>; 2],
    /// The same as multiples of the least time.
    pub multiples: [Option<f64>; 2],
    /// First SYNs of both sides: the median, the 95th percentile, and the most.
    pub syns: [f64; 3],
    /// The same on average.
    pub mean_syns: f64,
    /// The most with repetitions.
    pub wire_syns: u64,
    /// Whether as many ended as promised.
    pub share: Promise,
    /// Medians that are too late, of how many that were judged: each pair's on each link, or where there are too few runs of each,
    /// that of all pairs on each link.
    pub late: [usize; 2],
    /// Of pairs with enough runs, those whose medians are.
    pub late_pairs: Vec<usize>,
    /// Whether medians are in time.
    pub time: Promise,
    /// Whether there were no more SYNs.
    pub politeness: Promise,
    /// Seeds of what was not kept.
    pub failures: Vec<u64>,
}

impl Figures {
    /// The worst of all.
    pub fn promise(&self) -> Promise {
        self.share.max(self.time).max(self.politeness)
    }

    /// The share that was kept; `None` of nothing.
    pub fn kept_share(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.kept as f64 / self.runs as f64)
    }
}

impl Row {
    /// Whether a run keeps what is promised of each.
    fn keeps(&self, plan: &Plan, done: &Done) -> bool {
        let Some(condition) = plan.conditions.get(done.condition) else { return false };
        let latest = self.latest(*condition, done.least).filter(|_| !self.median_counts(*condition));
        done.verdict == self.verdict() && latest.is_none_or(|latest| done.took.is_some_and(|it| it <= latest))
    }
}

fn spread<const N: usize>(mut values: Vec<f64>, percents: [usize; N]) -> [Option<f64>; N] {
    values.sort_by(f64::total_cmp);
    percents.map(|percent| percentile(&values, percent))
}

/// Of runs of this row.
pub fn figures<'a>(plan: &Plan, row: &Row, runs: impl Iterator<Item = &'a Done> + Clone) -> Figures {
    let mut failures: Vec<u64> = Vec::new();
    let (mut count, mut wrong, mut promised) = (0, 0, 1.0_f64);
    // Of a pair on a link: how many, and how many of them in time.
    let mut pairs: BTreeMap<(usize, usize), [usize; 2]> = BTreeMap::new();
    for done in runs.clone() {
        let Some(condition) = plan.conditions.get(done.condition) else { continue };
        count += 1;
        wrong += usize::from(done.verdict == Verdict::Wrong);
        promised = promised.min(row.share(condition.loss));
        if !row.keeps(plan, done) {
            failures.push(done.seed);
        }
        if let Some(latest) = row.latest_median(*condition, done.least) {
            let [all, in_time] = pairs.entry((done.condition, done.pair)).or_default();
            *all += 1;
            *in_time += usize::from(done.took.is_some_and(|took| took <= latest));
        }
    }
    let ended = runs.clone().filter(|done| done.verdict == row.verdict());
    let seconds = ended.clone().filter_map(|done| done.took).map(|took| took.as_secs_f64()).collect();
    let multiple = |done: &Done| Some(done.took?.as_secs_f64() / done.least.as_secs_f64());
    let syns = spread(runs.clone().map(|done| done.syns as f64).collect(), [50, 95, 100]);
    let mean_syns = runs.clone().map(|done| done.syns as f64).sum::<f64>() / f64::max(count as f64, 1.0);
    let wire_syns = runs.map(|done| done.wire_syns).max().unwrap_or(0);
    let kept = count - failures.len();
    let ended_well = ended.clone().count();
    let share = if kept as f64 >= promised * count as f64 {
        Promise::Holds
    } else if promised < 1.0 && wilson(kept, count)[1] >= promised {
        Promise::Unclear
    } else {
        Promise::Missed
    };
    let few = pairs.values().any(|[all, _]| *all < MEDIAN_OF);
    let is_late = |[all, in_time]: &[usize; 2]| in_time * 2 < *all;
    let late_pairs: BTreeSet<usize> =
        pairs.iter().filter(|(_, runs)| !few && is_late(runs)).map(|((_, pair), _)| *pair).collect();
    let judged: Vec<[usize; 2]> = if few {
        let mut links: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
        for ((link, _), [all, in_time]) in pairs {
            let sum = links.entry(link).or_default();
            *sum = [sum[0] + all, sum[1] + in_time];
        }
        links.into_values().collect()
    } else {
        pairs.into_values().collect()
    };
    let late = [judged.iter().filter(|runs| is_late(runs)).count(), judged.len()];
    let broken = |broken: bool| if broken { Promise::Missed } else { Promise::Holds };
    let most = syns[2].unwrap_or(0.0);
    let politeness = row.syns.is_some_and(|limit| most > limit as f64 || wire_syns > limit + limit / 3);
    Figures {
        runs: count,
        kept,
        ended: ended_well,
        wrong,
        seconds: spread(seconds, [50, 95]),
        multiples: spread(ended.filter_map(multiple).collect(), [50, 95]),
        syns: syns.map(|it| it.unwrap_or(0.0)),
        mean_syns,
        wire_syns,
        share,
        late,
        late_pairs: late_pairs.into_iter().collect(),
        time: broken(late[0] > 0),
        politeness: broken(politeness),
        failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_one_of_the_literature() {
        // Brown, Cai and DasGupta 2001: 0 of 10 is up to 0.278; 10 of 100 from 0.055 to 0.174.
        assert!((wilson(0, 10)[1] - 0.278).abs() < 0.001 && wilson(0, 10)[0] < 1e-9);
        let [low, high] = wilson(10, 100);
        assert!((low - 0.0552).abs() < 0.001 && (high - 0.1744).abs() < 0.001, "{low} {high}");
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }
}
