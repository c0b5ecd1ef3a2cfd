//! What is promised: which pairs of networks are reached, how surely, how soon and with how many SYNs. Measured by
//! `cargo xtask matrix --rows`.

mod ablation;
mod families;
mod measured;
mod page;

use std::time::Duration;

use crate::report::Condition;
use crate::{Arrangement, Network, Report, Scenario, Verdict, least_time, sim, table};

pub use ablation::{Without, World, ablation};
pub use measured::{Figures, Promise, figures, wilson};
pub use page::{details, legend, rewrite, summary};

/// Two networks: who waits is first.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Who waits, and who arrives.
    pub networks: [Network; 2],
    /// Where the broker is.
    pub arrangement: Arrangement,
    /// Whose router forwards a port on request; only in simulation.
    pub mapped: [bool; 2],
}

impl Pair {
    /// Both names.
    pub fn name(&self) -> String {
        let ([one, other], [first, second]) = (&self.networks, self.mapped);
        let [waits, arrives] = [(one, first), (other, second)].map(|(network, forwards)| {
            format!("{}{}", network.name, if forwards { " forwarding" } else { "" })
        });
        match self.arrangement {
            Arrangement::BrokerInside => format!("broker beside {waits} × {arrives}"),
            Arrangement::Apart | Arrangement::Together => format!("{waits} × {arrives}"),
        }
    }
}

/// How soon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Within {
    /// The median, without loss: so many times the least time, and 8 ms more; with `added`, that and the skew on top.
    Least {
        /// How many times the [least time](least_time).
        times: f64,
        /// On top, with the skew; `None` for neither.
        added: Option<Duration>,
    },
    /// Each run, from the claim on.
    Each(Duration),
    /// Each run within the first; the median, without loss, below the second and four round trips.
    EachAndMedian(Duration, Duration),
    /// There is no path, and both are told within this, from the introduction on.
    NoPath(Duration),
}

/// What computing and a machine's scheduler may take on top of a multiple of the least time.
const GRACE: Duration = Duration::from_millis(8);
/// How much later it may be at a loss of [`HEAVY_LOSS`].
const HEAVY_LOSS_GRACE: Duration = Duration::from_secs(3);
/// The loss at which less is promised.
pub const HEAVY_LOSS: f64 = 0.1;
/// Then of the runs.
const HEAVY_LOSS_SHARE: f64 = 0.95;

/// One promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// By which it is chosen on the command line.
    pub name: &'static str,
    /// In words.
    pub says: String,
    /// To which pairs it applies; each stands in both orders.
    pub pairs: Vec<Pair>,
    /// What share of the runs connects, or ends without a path where [none](Within::NoPath) is promised.
    pub share: f64,
    /// The same at a loss of [`HEAVY_LOSS`].
    pub share_at_heavy_loss: f64,
    /// How soon.
    pub within: Within,
    /// First SYNs of both sides together, at most; a third more with repetitions.
    pub syns: Option<u64>,
}

impl Row {
    /// The share that is promised at this loss.
    pub fn share(&self, loss: f64) -> f64 {
        if loss >= HEAVY_LOSS { self.share_at_heavy_loss } else { self.share }
    }

    /// The latest time of a run that is in time, from the claim on: for the median without loss, else for each.
    pub fn latest(&self, condition: Condition, least: Duration) -> Option<Duration> {
        let heavy = condition.loss >= HEAVY_LOSS;
        let grace = if heavy { HEAVY_LOSS_GRACE } else { Duration::ZERO };
        match self.within {
            Within::Least { times, added } => {
                let added = added.map_or(Duration::ZERO, |added| added + condition.skew);
                (condition.loss <= 0.0 || heavy).then(|| least.mul_f64(times) + GRACE + added + grace)
            }
            Within::Each(latest) | Within::EachAndMedian(latest, _) | Within::NoPath(latest) => {
                Some(latest + grace)
            }
        }
    }

    /// The latest median.
    pub fn latest_median(&self, condition: Condition, least: Duration) -> Option<Duration> {
        if condition.loss > 0.0 {
            return None;
        }
        match self.within {
            Within::Least { .. } => self.latest(condition, least),
            Within::EachAndMedian(_, base) => Some(base + 4 * condition.round_trip),
            Within::Each(_) | Within::NoPath(_) => None,
        }
    }

    /// Whether only the median has to be in time.
    pub fn median_counts(&self, condition: Condition) -> bool {
        matches!(self.within, Within::Least { .. }) && condition.loss < HEAVY_LOSS
    }

    /// How each run should end.
    pub fn verdict(&self) -> Verdict {
        match self.within {
            Within::NoPath(_) => Verdict::NoPath,
            Within::Least { .. } | Within::Each(_) | Within::EachAndMedian(..) => Verdict::Connected,
        }
    }

    /// Whether every run without loss has to keep it.
    pub fn is_certain(&self) -> bool {
        self.share >= 1.0
    }
}

/// Every network of these with every one of those, in both orders, each pair once.
fn across(these: &[Network], those: &[Network], fits: impl Fn(&Network, &Network) -> bool) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for one in these {
        for other in those.iter().filter(|other| fits(one, other)) {
            for networks in [[one, other], [other, one]] {
                let networks = networks.map(Clone::clone);
                let pair = Pair { networks, arrangement: Arrangement::Apart, mapped: [false; 2] };
                // Where the two families overlap.
                if !pairs.contains(&pair) {
                    pairs.push(pair);
                }
            }
        }
    }
    pairs
}

const SECOND: Duration = Duration::from_secs(1);
/// The attempt's own pace; what is on top of it where nobody computes.
const LEAST: Within = Within::Least { times: 1.2, added: None };

/// Where each in its own network, the broker on the core.
fn apart() -> Vec<Row> {
    let both = |one: &Network, other: &Network| families::resets(one) && families::resets(other);
    let any = |_: &Network, _: &Network| true;
    let not_both = |one: &Network, other: &Network| !both(one, other);
    let (open, independent, ipv6) = (families::open(), families::independent(), families::ipv6());
    let (stepping, random) = (families::stepping(), families::random());
    let silent = families::no_simultaneous_open();
    let (small, large) = (families::block(64), families::block(1024));
    let everyone = [&open[..], &independent, &silent, &stepping, &small, &large, &random].concat();
    let narrow = [&stepping[..], &small].concat();
    let row = |name, says: &str, pairs, share, within, syns| Row {
        name,
        says: says.to_owned(),
        pairs,
        share,
        share_at_heavy_loss: f64::min(share, HEAVY_LOSS_SHARE),
        within,
        syns,
    };
    let after_skew = Within::Least { times: 1.2, added: Some(Duration::from_millis(50)) };
    vec![
        row(
            "open",
            "at least one side public, or endpoint-independent filtering",
            across(&open, &everyone, any),
            1.0,
            LEAST,
            None,
        ),
        row(
            "independent",
            "both endpoint-independent mapping, any refusal, any allocation, NAT behind NAT",
            across(&independent, &independent, not_both),
            1.0,
            LEAST,
            None,
        ),
        row(
            "independent-resets",
            "the same, both resetting",
            across(&independent, &independent, both),
            1.0,
            after_skew,
            Some(100),
        ),
        row(
            "ipv6",
            "IPv6 firewalls on both sides, any refusal",
            across(&ipv6, &ipv6, not_both),
            1.0,
            LEAST,
            None,
        ),
        row(
            "ipv6-resets",
            "the same, both resetting",
            across(&ipv6, &ipv6, both),
            1.0,
            after_skew,
            Some(100),
        ),
        row(
            "no-simultaneous-open",
            "one side drops bare inbound SYNs on half-open sessions",
            across(&silent, &independent, any),
            1.0,
            Within::Each(2 * SECOND),
            None,
        ),
        row(
            "narrow",
            "stepping, or a 64-port block, on one side",
            across(&narrow, &independent, any),
            1.0,
            Within::Each(2 * SECOND),
            Some(300),
        ),
        row(
            "stepping-both",
            "stepping on both sides",
            across(&stepping, &stepping, any),
            0.99,
            Within::Each(3 * SECOND),
            None,
        ),
        row(
            "block-1024",
            "1024-port block on one side",
            across(&large, &independent, any),
            0.99,
            Within::Each(3 * SECOND),
            Some(300),
        ),
        Row {
            share_at_heavy_loss: 0.98,
            ..row(
                "random",
                "random symmetric on one side, at most one of the two resetting",
                across(&random, &independent, not_both),
                0.99,
                Within::EachAndMedian(5 * SECOND, SECOND / 2),
                Some(1500),
            )
        },
        row(
            "random-resets",
            "random symmetric on one side, both resetting",
            across(&random, &independent, both),
            0.7,
            Within::Each(8 * SECOND),
            None,
        ),
        row(
            "random-both-ipv6",
            "random symmetric on both, IPv6",
            across(&ipv6, &ipv6, any),
            1.0,
            Within::Least { times: 2.0, added: None },
            None,
        ),
        row(
            "random-both",
            "random symmetric on both, nothing else",
            across(&random, &random, any),
            1.0,
            Within::NoPath(8 * SECOND),
            None,
        ),
    ]
}

/// All that is promised.
pub fn rows() -> Vec<Row> {
    let mut rows = apart();
    let homes = families::homes();
    // Who waits lives beside the broker, and the other side anywhere: as the row says that fits the two.
    let inside = |row: &Row| -> Vec<Pair> {
        let beside = |pair: &Pair| homes.contains(&pair.networks[0]);
        let pairs = row.pairs.iter().filter(|pair| beside(pair));
        pairs.map(|pair| Pair { arrangement: Arrangement::BrokerInside, ..pair.clone() }).collect()
    };
    let names = [
        ("open", "inside-open"),
        ("independent", "inside-independent"),
        ("independent-resets", "inside-independent-resets"),
        ("no-simultaneous-open", "inside-no-simultaneous-open"),
        ("narrow", "inside-narrow"),
        ("block-1024", "inside-block-1024"),
        ("random", "inside-random"),
        ("random-resets", "inside-random-resets"),
    ];
    let beside: Vec<Row> = names
        .into_iter()
        .filter_map(|(name, beside)| {
            let row = rows.iter().find(|row| row.name == name)?;
            Some(Row {
                name: beside,
                says: format!("{INSIDE}: {}", row.says),
                pairs: inside(row),
                ..row.clone()
            })
        })
        .collect();
    rows.extend(beside);
    rows.push(mapped());
    rows
}

/// Nothing but a forwarded port leads from one to the other. One that the innermost router forwards is of no use behind
/// another NAT, and not told there.
fn mapped() -> Row {
    let random = families::random();
    let alone: Vec<Network> = random.iter().filter(|it| it.layers.len() == 1).cloned().collect();
    let mut pairs = Vec::new();
    for one in &alone {
        for other in &random {
            for (networks, mapped) in [([one, other], [true, false]), ([other, one], [false, true])] {
                let networks = networks.map(Clone::clone);
                pairs.push(Pair { networks, arrangement: Arrangement::Apart, mapped });
            }
        }
    }
    Row {
        name: "random-both-mapped",
        says:
            "random symmetric on both, UPnP or PCP on one side (in simulation; on real kernels the tests of \
               `crates/cli/tests/lab/portmap.rs`, with miniupnpd)"
                .to_owned(),
        pairs,
        share: 1.0,
        share_at_heavy_loss: HEAVY_LOSS_SHARE,
        within: Within::Least { times: 2.0, added: None },
        syns: None,
    }
}

/// What rows with a broker inside say, before what the two are.
const INSIDE: &str = "broker inside the waiter's LAN behind a forwarded port";

/// The later side's skews: none, half a round trip of 50 ms, half one of 200 ms, where errors and SYNs meet.
pub const SKEWS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(25), Duration::from_millis(100)];
/// As of [`table`], with the one at which less is promised.
pub const LOSSES: [f64; 3] = [0.0, 0.02, HEAVY_LOSS];

/// Every link with every skew.
pub fn conditions() -> Vec<Condition> {
    let mut conditions = Vec::new();
    for loss in LOSSES {
        for round_trip in table::ROUND_TRIPS {
            conditions.extend(SKEWS.map(|skew| Condition { round_trip, loss, skew }));
        }
    }
    conditions
}

/// One run of a row.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Its place in [`rows`].
    pub row: usize,
    /// Its place in the row's pairs.
    pub pair: usize,
    /// Its place in [`conditions`].
    pub condition: usize,
    /// How to run it. Its seed tells all of the above: [`Plan::again`].
    pub scenario: Scenario,
    /// Whose router forwards a port.
    pub mapped: [bool; 2],
}

/// A trial's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    /// Its place in [`rows`].
    pub row: usize,
    /// Its place in the row's pairs.
    pub pair: usize,
    /// Its place in [`conditions`].
    pub condition: usize,
    /// By which it is run again.
    pub seed: u64,
    /// The least time.
    pub least: Duration,
    /// How it ended.
    pub verdict: Verdict,
    /// From the claim until both are connected; where there is no path, from the introduction until both were told.
    pub took: Option<Duration>,
    /// First SYNs of both.
    pub syns: u64,
    /// The same with repetitions.
    pub wire_syns: u64,
}

impl Trial {
    /// How it is run in simulation.
    pub fn options(&self) -> sim::Options {
        sim::Options { mapped: self.mapped, ..sim::Options::default() }
    }

    /// Whether real kernels can run it as well: no router of their lab forwards a port on request.
    pub fn runs_on_kernels(&self) -> bool {
        self.mapped == [false; 2]
    }

    /// What a report says of it.
    pub fn done(&self, report: &Report) -> Done {
        Done {
            row: self.row,
            pair: self.pair,
            condition: self.condition,
            seed: self.scenario.seed,
            least: least_time(&self.scenario),
            verdict: report.verdict(),
            took: report.since_claim.or_else(|| report.told_after()),
            syns: report.syns.iter().sum(),
            wire_syns: report.wire_syns.iter().sum(),
        }
    }
}

/// Rows and conditions, with the trials of each.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is promised.
    pub rows: Vec<Row>,
    /// On which links.
    pub conditions: Vec<Condition>,
}

/// Bits of a seed that count the trials of a row on a link.
const NTH: u32 = 24;

/// From one trial's pair to the next one's.
const PAIR_STRIDE: u64 = 7919;

impl Plan {
    /// All of it.
    pub fn whole() -> Self {
        Self { rows: rows(), conditions: conditions() }
    }

    /// The same on links of other round trips; seeds are this plan's own.
    pub fn at(round_trips: &[Duration]) -> Self {
        let mut conditions = conditions();
        conditions.retain(|link| link.round_trip == table::ROUND_TRIPS[0]);
        let at = |round_trip| conditions.iter().map(move |link| Condition { round_trip, ..*link });
        Self { rows: rows(), conditions: round_trips.iter().flat_map(|it| at(*it)).collect() }
    }

    /// Row, pair and link of a run.
    pub fn name(&self, done: &Done) -> String {
        let row = self.rows.get(done.row);
        let pair = row.and_then(|row| row.pairs.get(done.pair)).map_or_else(String::new, Pair::name);
        let link = self.conditions.get(done.condition).map_or_else(String::new, Condition::to_string);
        format!("{}: {pair}, {link}", row.map_or("?", |row| row.name))
    }

    /// The trial of this number, of a row on a link: pairs take turns.
    pub fn trial(&self, row: usize, condition: usize, nth: u64) -> Option<Trial> {
        let pairs = &self.rows.get(row)?.pairs;
        let link = *self.conditions.get(condition)?;
        // Few trials are spread over all pairs, and others on each link: a prime that no number of pairs has as a factor.
        let at = (nth + condition as u64).wrapping_mul(PAIR_STRIDE) % pairs.len().max(1) as u64;
        let pair = usize::try_from(at).ok()?;
        let Pair { networks: [waits, arrives], arrangement, mapped } = pairs.get(pair)?;
        let cell = (row * self.conditions.len() + condition) as u64;
        let mut scenario = table::scenario(waits, arrives, link, cell << NTH | nth);
        scenario.arrangement = *arrangement;
        Some(Trial { row, pair, condition, scenario, mapped: *mapped })
    }

    /// The trial that has this seed.
    pub fn again(&self, seed: u64) -> Option<Trial> {
        let cell = usize::try_from(seed >> NTH).ok()?;
        let conditions = self.conditions.len().max(1);
        self.trial(cell / conditions, cell % conditions, seed & ((1 << NTH) - 1))
    }

    /// Each pair of these rows once, their pairs spread over these links.
    pub fn each_pair(&self, rows: impl Fn(&Row) -> bool, links: impl Fn(Condition) -> bool) -> Vec<Trial> {
        let chosen = self.conditions.iter().enumerate().filter(|(_, link)| links(**link));
        let chosen: Vec<usize> = chosen.map(|(at, _)| at).collect();
        let mut trials = Vec::new();
        for (row, what) in self.rows.iter().enumerate().filter(|(_, row)| rows(row)) {
            let of_each = what.pairs.len().div_ceil(chosen.len().max(1)) as u64;
            for (nth, condition) in chosen.iter().enumerate() {
                // Where `trial` begins on each link is made up for, so that no pair is left out.
                let first = nth as u64 * of_each + (self.conditions.len() - condition) as u64;
                trials.extend((first..first + of_each).filter_map(|nth| self.trial(row, *condition, nth)));
            }
        }
        trials
    }

    /// So many trials of each row on each link.
    pub fn trials(&self, count: impl Fn(&Row, Condition) -> u64) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (row, what) in self.rows.iter().enumerate() {
            for (condition, link) in self.conditions.iter().enumerate() {
                trials.extend((0..count(what, *link)).filter_map(|nth| self.trial(row, condition, nth)));
            }
        }
        trials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_what_is_expected_of_the_two() {
        for row in apart().iter().filter(|row| row.pairs.iter().all(|pair| pair.networks[0].ipv6.is_none())) {
            for pair in &row.pairs {
                let [one, other] = &pair.networks;
                assert_eq!(table::expected(one, other), row.verdict(), "{}: {}", row.name, pair.name());
            }
        }
    }

    #[test]
    fn every_pair_of_a_row_stands_in_both_orders_and_once() {
        for row in apart() {
            let names: Vec<[&str; 2]> =
                row.pairs.iter().map(|pair| pair.networks.each_ref().map(|it| it.name.as_str())).collect();
            for (at, [one, other]) in names.iter().enumerate() {
                assert!(names.contains(&[other, one]), "{}: {other} × {one}", row.name);
                assert!(!names[at + 1..].contains(&[one, other]), "{}: {one} × {other} twice", row.name);
            }
        }
    }

    #[test]
    fn a_router_that_forwards_stands_on_either_side_and_in_front_of_no_other() {
        let row = mapped();
        for (at, pair) in row.pairs.iter().enumerate() {
            let [one, other] = &pair.networks;
            let turned = Pair {
                networks: [other.clone(), one.clone()],
                mapped: [pair.mapped[1], pair.mapped[0]],
                ..pair.clone()
            };
            assert!(row.pairs.contains(&turned), "{} in one order only", pair.name());
            assert!(!row.pairs[at + 1..].contains(pair), "{} twice", pair.name());
            assert_ne!(pair.mapped[0], pair.mapped[1], "{}", pair.name());
            let forwarding = if pair.mapped[0] { one } else { other };
            assert_eq!(forwarding.layers.len(), 1, "{}", pair.name());
            assert_eq!(table::expected(one, other), Verdict::NoPath, "{} connects without it", pair.name());
        }
    }

    #[test]
    fn a_seed_leads_back_to_its_run() {
        let plan = Plan::whole();
        let trials = plan.trials(|_, _| 3);
        assert_eq!(trials.len(), plan.rows.len() * plan.conditions.len() * 3);
        for trial in trials {
            let again = plan.again(trial.scenario.seed).unwrap();
            assert_eq!(
                (again.row, again.pair, again.condition, &again.scenario, again.mapped),
                (trial.row, trial.pair, trial.condition, &trial.scenario, trial.mapped)
            );
        }
        assert!(plan.again(u64::MAX).is_none());
    }

    #[test]
    fn the_quick_form_leaves_out_no_pair() {
        let plan = Plan::whole();
        let trials = plan.each_pair(Row::is_certain, |link| link.loss <= 0.0);
        for (at, row) in plan.rows.iter().enumerate().filter(|(_, row)| row.is_certain()) {
            let mut met: Vec<usize> =
                trials.iter().filter(|trial| trial.row == at).map(|trial| trial.pair).collect();
            met.sort_unstable();
            met.dedup();
            assert!(
                met.len() * 10 >= row.pairs.len() * 9,
                "{}: {} of {}",
                row.name,
                met.len(),
                row.pairs.len()
            );
        }
    }

    #[test]
    fn a_promise_is_kept_up_to_its_bound_and_no_further() {
        let plan = Plan::whole();
        let at = |name: &str| plan.rows.iter().position(|row| row.name == name).unwrap();
        let done = |row: usize, condition: usize, milliseconds: u64, syns: u64| Done {
            row,
            pair: 0,
            condition,
            seed: 7,
            least: Duration::from_millis(100),
            verdict: Verdict::Connected,
            took: Some(Duration::from_millis(milliseconds)),
            syns,
            wire_syns: syns,
        };
        let judge = |name: &str, condition: usize, milliseconds: u64, syns: u64| {
            let row = at(name);
            let runs = vec![done(row, condition, milliseconds, syns); 5];
            figures(&plan, &plan.rows[row], runs.iter()).promise()
        };
        let link = |loss: f64, round_trip: u64| {
            let wanted =
                Condition { loss, round_trip: Duration::from_millis(round_trip), skew: Duration::ZERO };
            plan.conditions.iter().position(|condition| *condition == wanted).unwrap()
        };
        let (plain, lossy, heavy) = (link(0.0, 50), link(0.02, 50), link(HEAVY_LOSS, 50));
        for (name, condition, latest) in [
            ("independent", plain, 128),
            ("independent-resets", plain, 178),
            ("independent", heavy, 3128),
            ("narrow", plain, 2000),
            ("narrow", lossy, 2000),
            ("narrow", heavy, 5000),
            ("random", plain, 700),
            ("random", lossy, 5000),
            ("random-both-ipv6", plain, 208),
        ] {
            assert_eq!(judge(name, condition, latest, 2), Promise::Holds, "{name}");
            assert_eq!(judge(name, condition, latest + 1, 2), Promise::Missed, "{name}");
        }
        // With packets lost the median is not judged.
        assert_eq!(judge("independent", lossy, 14_000, 2), Promise::Holds);
        assert_eq!(judge("narrow", plain, 100, 300), Promise::Holds);
        assert_eq!(judge("narrow", plain, 100, 301), Promise::Missed);
    }
}
