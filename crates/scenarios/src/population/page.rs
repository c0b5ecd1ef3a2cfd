//! The page with what came out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::pair::Pair;
use super::survey::{Contestant, End, Figures, Kind, Sensitivity, figures};
use crate::report::thousands;
use crate::rows::wilson;

/// How many numbers are shown that much hangs on.
const SHOWN: usize = 12;

/// How many of the contestants are whole ways of connecting, not ours without a rule.
const WAYS: usize = 3;
/// Ours, among the contestants.
const OURS: usize = 2;

/// All that the page says.
#[derive(Debug)]
pub struct Page<'a> {
    /// The pairs at the best guesses.
    pub pairs: &'a [Pair],
    /// Who ran them, and how that ended: one shot, DCUtR, ours, and ours without each rule.
    pub runs: &'a [(Contestant, Vec<End>)],
    /// How the pairs of the lower end did, for the first three.
    pub lower: &'a [Figures],
    /// What each number is worth, the most first.
    pub sensitivity: &'a [Sensitivity],
    /// From how many pairs that was measured.
    pub measured_on: usize,
    /// The seed.
    pub seed: u64,
    /// The command that wrote it.
    pub command: &'a str,
}

impl Page<'_> {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut page = String::from(
            "# Which share of pairs connects\n\n\
             Pairs of networks, drawn from what is known and what has to be guessed of the networks that people have, in simulation.\n\
             Nothing here is a target: it says what to expect, how sure that is, and on which guesses it hangs. The numbers that pairs are\n\
             drawn from, their ranges, their sources, how a pair is drawn and what is left out are in\n\
             [`crates/scenarios/population.toml`](../crates/scenarios/population.toml), committed before the first run. Most of them are\n\
             assumed: nobody has published them.\n",
        );
        let _ = write!(
            page,
            "\nWritten by `{}`: {} pairs, seed {}, each met by every way of connecting.\n",
            self.command,
            thousands(self.pairs.len()),
            self.seed
        );
        page.push_str(&self.ways());
        page.push_str(&self.kinds());
        page.push_str(&self.rules());
        page.push_str(&self.numbers());
        page
    }

    /// Both ends of a pair are behind NATs or carriers.
    fn natted(pair: &Pair) -> bool {
        let translates = |at: &crate::Side| at.network.layers.iter().any(|layer| layer.translates);
        pair.scenario.sides.iter().all(translates)
    }

    fn of(&self, ends: &[End], what: impl Fn(&Pair) -> bool) -> Figures {
        figures(self.pairs.iter().zip(ends).filter(|(pair, _)| what(pair)).map(|(_, end)| end))
    }

    fn ways(&self) -> String {
        let mut text = String::from(
            "\n## Beside others\n\n\
             | | Connected | Lower end | Both behind NATs | The same, IPv4 alone | Seconds | SYNs | Wrong |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for (nth, (contestant, ends)) in self.runs.iter().take(WAYS).enumerate() {
            let all = figures(ends);
            let natted = self.of(ends, Self::natted);
            let ipv4 = self
                .of(ends, |pair| Self::natted(pair) && matches!(Kind::of(&pair.scenario), Kind::Ipv4(..)));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                contestant.name,
                sure(&all),
                self.lower.get(nth).map_or("–".to_owned(), sure),
                sure(&natted),
                sure(&ipv4),
                seconds(&all),
                syns(&all),
                percent(Some(all.wrong as f64 / all.runs.max(1) as f64)),
            );
        }
        text.push_str(
            "\nWith 95 % confidence for the draw; it says nothing of the guesses. That is what the lower end is for: every number at that end\n\
             of its range at which fewer pairs connect with tcpunch, all at once. Seconds: from the introduction until both have the\n\
             connection and know each other, the median and what 95 of 100 stay within, of those that connect. SYNs: first SYNs of both\n\
             sides, the median and what 95 of 100 stay within, of all. Wrong: one side has a connection and the other none.\n\n\
             *One shot* dials every address that the broker observed of the other side once, when the broker says so, and listens. *DCUtR*\n\
             is libp2p's over TCP: CONNECT and SYNC through a relayed connection that stands already, half a measured round trip's wait, three\n\
             tries of five seconds, each ended by a refusal of all its dials. Where nothing is known of it, what is better for it is\n\
             assumed: it knows IPv6 and LAN addresses, and needs no handshake of its own.\n\n\
             In the field DCUtR connects 70 ± 7.1 % of the pairs that could be told to try (Trautwein et al. 2025, 4.4 million tries; over TCP\n\
             as over QUIC, IPv6 hardly used). The nearest figure here is its last share. The simulation is kinder to all three than the\n\
             field is: no program crashes, no address is out of date, no router runs out of memory. The broker has one address, so a NAT\n\
             that maps by address is not told from one that maps by port. Who waits behind a symmetric NAT, its only one, asks it for a\n\
             port mapping with tcpunch, and has it in the share of homes whose routers make one. Who comes does not here, though the program\n\
             asks then too: UPnP may take longer than there is. A carrier's PCP is out of reach behind the router of a home.\n",
        );
        text
    }

    fn kinds(&self) -> String {
        let mut groups: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        for (at, pair) in self.pairs.iter().enumerate() {
            groups.entry(Kind::of(&pair.scenario)).or_default().push(at);
        }
        let mut text = String::from(
            "\n## Which pairs fail\n\n| Pair | Share of all | One shot | DCUtR | tcpunch | Its seconds |\n|---|--:|--:|--:|--:|--:|\n",
        );
        for (kind, members) in groups {
            let name = match kind {
                Kind::OneNetwork => "in one network".to_owned(),
                Kind::Ipv6 => "IPv6 on both sides".to_owned(),
                Kind::BesideBroker => "broker in the waiter's LAN".to_owned(),
                Kind::Ipv4(one, other) => format!("{} × {}", one.word(), other.word()),
            };
            let all = members.len() as f64 / self.pairs.len().max(1) as f64;
            let _ = write!(text, "| {name} | {} |", percent(Some(all)));
            let of = |ends: &[End]| figures(members.iter().filter_map(|at| ends.get(*at)));
            for (_, ends) in self.runs.iter().take(WAYS) {
                let _ = write!(text, " {} |", percent(of(ends).share()));
            }
            let ours = self.runs.get(OURS).map_or("–".to_owned(), |(_, ends)| seconds(&of(ends)));
            let _ = writeln!(text, " {ours} |");
        }
        text.push_str(
            "\nAll but the first three rows over IPv4 alone, the broker elsewhere, the easier side first. *Open* lets everybody in;\n\
             *silent* lets in who was dialled and does not answer others at once; *refusing* answers them with a reset or by ICMP; *strict*\n\
             drops a bare SYN even of who was dialled. Behind *stepping*, *block* and *random* each who is dialled sees another port: the\n\
             next one, one of a block, any one. A pair that connects though both sides are such has one that lets everybody in.\n",
        );
        text
    }

    fn rules(&self) -> String {
        let mut text = String::from(
            "\n## What each rule is worth\n\nThe same pairs, with one rule of the plan off on both sides.\n\n\
             | Without | Connected | Lost | Won | Seconds | SYNs | Wrong |\n|---|--:|--:|--:|--:|--:|--:|\n",
        );
        let Some((_, ours)) = self.runs.get(OURS) else { return text };
        for (nth, (contestant, ends)) in self.runs.iter().enumerate().skip(OURS) {
            let all = figures(ends);
            let connects = |end: &End| end.verdict == crate::Verdict::Connected;
            let differ = |lost: bool| {
                let count = ours
                    .iter()
                    .zip(ends)
                    .filter(|(with, without)| connects(with) == lost && connects(without) != lost)
                    .count();
                if nth == OURS { "–".to_owned() } else { thousands(count) }
            };
            let name = if nth == OURS { "nothing".to_owned() } else { format!("`{}`", contestant.name) };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {} |",
                percent(all.share()),
                differ(true),
                differ(false),
                seconds(&all),
                syns(&all),
                percent(Some(all.wrong as f64 / all.runs.max(1) as f64)),
            );
        }
        text.push_str(
            "\nLost and won: pairs that connect only with the rule, and only without it. The rules are the fields of\n\
             `tcpunch_core::plan::Rules`; *port mapping*: no router is asked for one. A rule that is off makes other random choices fall otherwise, so a few pairs are won and lost by\n\
             chance.\n",
        );
        text
    }

    fn numbers(&self) -> String {
        let mut text = format!(
            "\n## Which guesses it hangs on\n\n\
             The share that tcpunch connects with one number at either end of its range and all others at their best guess ({} pairs),\n\
             the {SHOWN} that matter most. A share here is what to go and measure first.\n\n\
             | Number | At its low end | At its high end |\n|---|--:|--:|\n",
            thousands(self.measured_on)
        );
        for Sensitivity { name, low, high } in self.sensitivity.iter().take(SHOWN) {
            let _ = writeln!(text, "| `{name}` | {} | {} |", percent(Some(*low)), percent(Some(*high)));
        }
        text
    }
}

/// A share with its interval.
fn sure(figures: &Figures) -> String {
    let [low, high] = wilson(figures.connected, figures.runs);
    match figures.share() {
        None => "–".to_owned(),
        Some(share) => format!("{:.1} % ({:.1}–{:.1})", share * 100.0, low * 100.0, high * 100.0),
    }
}

/// A share; all and nothing only where it is.
fn percent(share: Option<f64>) -> String {
    match share {
        None => "–".to_owned(),
        Some(share) if share >= 1.0 || share <= 0.0 => format!("{:.0} %", share * 100.0),
        Some(share) => format!("{:.1} %", (share * 100.0).clamp(0.1, 99.9)),
    }
}

fn seconds(figures: &Figures) -> String {
    figures.seconds.map_or("–".to_owned(), |[median, late]| format!("{median:.2}, {late:.2}"))
}

fn syns(figures: &Figures) -> String {
    figures.syns.map_or("–".to_owned(), |[median, most]| format!("{median}, {most}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Verdict;
    use crate::population::{Parameters, contestants, draw, numbers};

    #[test]
    fn a_page_shows_each_way_each_rule_and_each_kind() {
        let numbers = numbers(&Parameters::load().unwrap().best()).unwrap();
        let pairs: Vec<Pair> = (0..400).map(|seed| draw(&numbers, seed)).collect();
        let end = |connected| End {
            verdict: if connected { Verdict::Connected } else { Verdict::NoPath },
            elapsed: connected.then_some(Duration::from_millis(80)),
            syns: 3,
        };
        let runs: Vec<(Contestant, Vec<End>)> = contestants()
            .into_iter()
            .enumerate()
            .map(|(nth, it)| (it, (0..400).map(|at| end(at % 10 != nth)).collect()))
            .collect();
        let lower: Vec<Figures> = runs.iter().take(3).map(|(_, ends)| figures(&ends[..40])).collect();
        let sensitivity = [Sensitivity { name: "share.home.linux".to_owned(), low: 0.5, high: 0.75 }];
        let page = Page {
            pairs: &pairs,
            runs: &runs,
            lower: &lower,
            sensitivity: &sensitivity,
            measured_on: 1234,
            seed: 5,
            command: "cargo xtask population",
        };
        let text = page.markdown();
        for wanted in [
            "400 pairs, seed 5",
            "| one shot | 90.0 % (86.7–92.6) | 90.0 % (76.9–96.0) |",
            "| DCUtR |",
            "| nothing | 90.0 % | – | – | 0.08, 0.08 | 3, 3 | 0 % |",
            "| `birthday` | 90.0 % | 40 | 40 |",
            "| silent × refusing |",
            "| IPv6 on both sides |",
            "(1,234 pairs)",
            "| `share.home.linux` | 50.0 % | 75.0 % |",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with('|') || line.chars().count() <= 200), "{text}");
    }
}
