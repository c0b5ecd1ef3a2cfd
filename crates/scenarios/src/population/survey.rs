//! Running what was drawn, and what comes out.

use std::collections::BTreeMap;
use std::time::Duration;

use natlab::nat::{Allocation, Dependence, Refusal};
use tcpunch_core::plan::Rules;

use super::pair::{Pair, draw};
use super::parameters::{Error, Parameters, Point, numbers};
use crate::sim::{self, Options, Strategy};
use crate::{Arrangement, Network, Scenario, Verdict, each};

/// What a network is to who wants to come in over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Everybody comes in.
    Open,
    /// Who was dialled comes in; the others get no answer at once.
    Silent,
    /// The same, and the others are refused.
    Refusing,
    /// Who was dialled comes in, but not with a bare SYN.
    Strict,
    /// Each who is dialled sees another port: the next one.
    Stepping,
    /// The same: one of a block.
    Block,
    /// The same: any.
    Random,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Silent, Self::Refusing, Self::Strict, Self::Stepping, Self::Block, Self::Random];

    /// That of a network: of all its layers, what makes it hardest.
    pub fn of(network: &Network) -> Self {
        let symmetric =
            network.layers.iter().filter(|it| it.translates && it.mapping != Dependence::Endpoint);
        let hardest = symmetric
            .filter_map(|it| match it.allocation {
                Allocation::Preserving(_) => None,
                Allocation::Stepping(_) => Some(Self::Stepping),
                Allocation::Block(_) => Some(Self::Block),
                Allocation::Random => Some(Self::Random),
            })
            .max();
        let any = |what: fn(&natlab::nat::Behaviour) -> bool| network.layers.iter().any(what);
        match hardest {
            Some(class) => class,
            None if !any(|it| it.filtering != Dependence::Endpoint) => Self::Open,
            None if any(|it| !it.simultaneous_open) => Self::Strict,
            None if any(|it| matches!(it.refusal, Refusal::Reset | Refusal::Icmp(_))) => Self::Refusing,
            None => Self::Silent,
        }
    }

    /// Whether each who is dialled sees another port.
    pub fn is_symmetric(self) -> bool {
        self >= Self::Stepping
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Silent => "silent",
            Self::Refusing => "refusing",
            Self::Strict => "strict",
            Self::Stepping => "stepping",
            Self::Block => "block",
            Self::Random => "random",
        }
    }
}

/// What kind of pair it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Both in one network.
    OneNetwork,
    /// Both have IPv6.
    Ipv6,
    /// The broker is in the waiter's LAN, and does not see from outside where that one is.
    BesideBroker,
    /// IPv4 alone, the easier side first.
    Ipv4(Class, Class),
}

impl Kind {
    /// That of a scenario.
    pub fn of(scenario: &Scenario) -> Self {
        let [one, other] = scenario.sides.each_ref().map(|side| &side.network);
        if scenario.arrangement == Arrangement::Together {
            Self::OneNetwork
        } else if one.ipv6.is_some() && other.ipv6.is_some() {
            Self::Ipv6
        } else if scenario.arrangement == Arrangement::BrokerInside && !one.layers.is_empty() {
            Self::BesideBroker
        } else {
            let (one, other) = (Class::of(one), Class::of(other));
            Self::Ipv4(one.min(other), one.max(other))
        }
    }
}

/// A way of connecting.
#[derive(Debug, Clone, Copy)]
pub struct Contestant {
    /// For tables.
    pub name: &'static str,
    /// How it is run.
    pub options: Options,
    /// Whether it asks a router for a port mapping.
    pub maps: bool,
}

/// One shot, DCUtR and ours; then ours without each of its rules.
pub fn contestants() -> Vec<Contestant> {
    let way = |name, strategy| Contestant {
        name,
        options: Options { strategy, ..Options::default() },
        maps: matches!(strategy, Strategy::Ours),
    };
    let without = |name, off: fn(&mut Rules)| {
        let mut rules = Rules::default();
        off(&mut rules);
        Contestant { name, options: Options { rules: [rules; 2], ..Options::default() }, maps: true }
    };
    vec![
        way("one shot", Strategy::OneShot),
        way("DCUtR", Strategy::Dcutr),
        way("tcpunch", Strategy::Ours),
        without("refire", |it| it.refire = false),
        without("icmp_at_once", |it| it.icmp_at_once = false),
        without("rounds", |it| it.rounds = false),
        without("prediction", |it| it.prediction = false),
        without("birthday", |it| it.birthday = false),
        without("order", |it| it.order = false),
        without("stagger", |it| it.stagger = false),
        without("caution", |it| it.caution = false),
        Contestant { name: "port mapping", options: Options::default(), maps: false },
    ]
}

/// How a pair ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// For both.
    pub verdict: Verdict,
    /// From the introduction until the later of both had the connection.
    pub elapsed: Option<Duration>,
    /// First SYNs of both.
    pub syns: u64,
}

fn end(pair: &Pair, options: Options, maps: bool) -> End {
    let options = Options { mapped: [maps && pair.forwards, false], ..options };
    let report = sim::run_closely(&pair.scenario, options).report;
    End { verdict: report.verdict(), elapsed: report.elapsed(), syns: report.syns.iter().sum() }
}

/// Runs each pair.
pub fn run(pairs: &[Pair], contestant: &Contestant, threads: usize) -> Vec<End> {
    each(pairs, threads, |pair| end(pair, contestant.options, contestant.maps))
}

/// Some ends as one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// How many there were.
    pub runs: usize,
    /// How many connected.
    pub connected: usize,
    /// How many ended [wrong](Verdict::Wrong).
    pub wrong: usize,
    /// Of those that connected, the median of the time, and within what 95 of 100 did, in seconds.
    pub seconds: Option<[f64; 2]>,
    /// Of all, the median of the SYNs, and how many 95 of 100 stayed within.
    pub syns: Option<[u64; 2]>,
}

impl Figures {
    /// The share that connected; `None` of nothing.
    pub fn share(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.connected as f64 / self.runs as f64)
    }
}

/// Of these.
pub fn figures<'a>(ends: impl IntoIterator<Item = &'a End>) -> Figures {
    let mut figures = Figures::default();
    let (mut seconds, mut syns) = (Vec::new(), Vec::new());
    for end in ends {
        figures.runs += 1;
        figures.connected += usize::from(end.verdict == Verdict::Connected);
        figures.wrong += usize::from(end.verdict == Verdict::Wrong);
        seconds.extend(end.elapsed.filter(|_| end.verdict == Verdict::Connected));
        syns.push(end.syns);
    }
    seconds.sort_unstable();
    syns.sort_unstable();
    let rank = |count: usize, percent: usize| (count * percent).div_ceil(100).max(1) - 1;
    let time = |percent| seconds.get(rank(seconds.len(), percent)).map(Duration::as_secs_f64);
    figures.seconds = time(50).zip(time(95)).map(|(median, late)| [median, late]);
    let count = |percent| syns.get(rank(syns.len(), percent)).copied();
    figures.syns = count(50).zip(count(95)).map(|(median, most)| [median, most]);
    figures
}

/// What one number is worth: the share that connects where it is at either end of its range, and all others at their best guess.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// Its name.
    pub name: String,
    /// The share at its low end.
    pub low: f64,
    /// The share at its high end.
    pub high: f64,
}

impl Sensitivity {
    /// How much hangs on it.
    pub fn spread(&self) -> f64 {
        (self.high - self.low).abs()
    }
}

/// Measures each number at both ends of its range, and puts all at the worse one.
///
/// Pairs that a number does not change are not run again.
///
/// # Errors
/// The parameters are wrong.
pub fn worse_ends(
    parameters: &Parameters,
    base: &[(Pair, End)],
    threads: usize,
) -> Result<(Vec<Sensitivity>, Point), Error> {
    let best = parameters.best();
    let mut all = Vec::new();
    let mut worst = best.clone();
    let mut slopes: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, range) in parameters.ranges() {
        let mut shares = [0.0; 2];
        let mut at = [0.0; 2];
        for ((share, at), value) in shares.iter_mut().zip(&mut at).zip([range.low, range.high]) {
            let point = parameters.with(&best, name, value);
            *at = point.get(name).copied().unwrap_or(value);
            let numbers = numbers(&point)?;
            let connected = each(base, threads, |(pair, before)| {
                let changed = draw(&numbers, pair.scenario.seed);
                let after = if changed == *pair { *before } else { end(&changed, Options::default(), true) };
                after.verdict == Verdict::Connected
            });
            *share = connected.iter().filter(|it| **it).count() as f64 / base.len().max(1) as f64;
        }
        let ([low, high], [from, to]) = (shares, at);
        if !name.starts_with("mix.") && low != high {
            worst.insert(name.clone(), if low < high { range.low } else { range.high });
        }
        slopes.insert(name, if to > from { (high - low) / (to - from) } else { 0.0 });
        all.push(Sensitivity { name: name.clone(), low, high });
    }
    for parts in parameters.mixes().values() {
        let mut order = parts.clone();
        let slope = |name: &String| slopes.get(name.as_str()).copied().unwrap_or(0.0);
        order.sort_by(|one, other| slope(one).total_cmp(&slope(other)));
        worst = parameters.filled(&worst, &order);
    }
    all.sort_by(|one, other| other.spread().total_cmp(&one.spread()));
    Ok((all, worst))
}

#[cfg(test)]
mod tests {
    use natlab::nat::{Behaviour, presets};

    use super::*;

    fn behind(layers: Vec<Behaviour>) -> Network {
        Network { name: String::new(), layers, ipv6: None }
    }

    #[test]
    fn a_network_is_as_hard_as_its_hardest_layer() {
        for (class, layers) in [
            (Class::Open, vec![]),
            (Class::Open, vec![presets::full_cone()]),
            (Class::Silent, vec![presets::linux_masquerade()]),
            (Class::Silent, vec![presets::full_cone(), presets::linux_masquerade()]),
            (Class::Refusing, vec![presets::carrier_eim(), presets::openwrt()]),
            (Class::Strict, vec![presets::no_simultaneous_open()]),
            (Class::Stepping, vec![presets::symmetric_stepping(1)]),
            (Class::Block, vec![presets::carrier_block(512), presets::linux_masquerade()]),
            (Class::Random, vec![presets::linux_random(), presets::symmetric_stepping(1)]),
        ] {
            assert_eq!(Class::of(&behind(layers)), class);
        }
    }

    #[test]
    fn figures_count_what_connected() {
        let end =
            |verdict, ms: Option<u64>, syns| End { verdict, elapsed: ms.map(Duration::from_millis), syns };
        let ends = [
            end(Verdict::Connected, Some(100), 2),
            end(Verdict::Connected, Some(300), 4),
            end(Verdict::Connected, Some(200), 3),
            end(Verdict::NoPath, None, 50),
            end(Verdict::Wrong, None, 1),
        ];
        let figures = figures(&ends);
        assert_eq!((figures.runs, figures.connected, figures.wrong), (5, 3, 1));
        assert_eq!((figures.seconds, figures.syns), (Some([0.2, 0.3]), Some([3, 50])));
        assert_eq!(super::figures(&[]).share(), None);
    }

    #[test]
    fn each_rule_is_off_in_exactly_one() {
        let contestants = contestants();
        let all = contestants.iter().filter(|it| it.options.strategy == Strategy::Ours);
        let off: Vec<usize> = all
            .map(|it| {
                assert_eq!(it.options.rules[0], it.options.rules[1]);
                let Rules { stagger, refire, icmp_at_once, rounds, prediction, birthday, order, caution } =
                    it.options.rules[0];
                let rules = [stagger, refire, icmp_at_once, rounds, prediction, birthday, order, caution];
                rules.into_iter().chain([it.maps]).filter(|on| !on).count()
            })
            .collect();
        assert_eq!(off, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
