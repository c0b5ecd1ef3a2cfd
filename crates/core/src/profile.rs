//! What is known of a peer's network: from samples to a NAT profile, and to words.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::candidate::{Scope, scope};
use crate::limits::{BLOCK_MOST, BLOCKS, FRESH_PORTS_LEAST, RANGE_DOUBT, STEP_MOST, USER_PORTS};
use crate::wire::KnockAnswer;

/// How a NAT's mapping or filtering depends on the other end (RFC 4787 sections 4.1 and 5, RFC
/// 5382 REQ-1 and REQ-3). One enum for both axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behaviour {
    /// Not observed.
    #[default]
    Unknown,
    /// The same for all destinations.
    EndpointIndependent,
    /// The same for all ports of one address: endpoint-independent or address-dependent, one
    /// observer can't tell which.
    PortIndependent,
    /// Differs by address only.
    AddressDependent,
    /// Differs by address, or by address and port: observers at one port each can't tell which.
    EndpointDependent,
    /// Differs by address and port: "symmetric" where it is the mapping.
    AddressAndPortDependent,
}

/// How a NAT chooses the outside port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// Not observed.
    #[default]
    Unknown,
    /// The same as inside.
    Preserving,
    /// Another one; too little was seen to say more.
    Changing,
    /// Each new mapping gets the port so many above the last one's; less than 0: below.
    Stepping(i16),
    /// Any of these consecutive ports, the last included.
    Block {
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
    },
    /// Any.
    Random,
}

/// What a NAT or firewall answers to a SYN that nobody asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Not observed.
    #[default]
    Unknown,
    /// Nothing.
    Drop,
    /// A TCP reset.
    Reset,
    /// An ICMP error.
    Icmp,
}

/// What the peer's own side looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatProfile {
    /// Whether an address translator stands between the peer and the broker, by comparing its own
    /// address with the observed one; `None` before the observation.
    pub translated: Option<bool>,
    /// How the mapping depends on the destination.
    pub mapping: Behaviour,
    /// How outside ports are chosen.
    pub allocation: Allocation,
    /// From whom SYNs come in that nobody asked for, to a port that has a mapping.
    pub filtering: Behaviour,
    /// What the others are answered.
    pub refusal: Refusal,
    /// Whether a bare SYN comes in where one went out before (RFC 5382 REQ-2); `None`: not observed.
    pub simultaneous_open: Option<bool>,
}

/// One observation: a local address as the other end saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The socket's own address.
    pub local: SocketAddr,
    /// Where it was connected to.
    pub destination: SocketAddr,
    /// What the destination saw.
    pub observed: SocketAddr,
}

/// What came of one knock at a mapping, from a port that nobody behind it ever contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Whether from another address than the one that the mapping was made for.
    pub elsewhere: bool,
    /// What came of it.
    pub answer: KnockAnswer,
}

/// Classifies samples, which stand in the order in which their connections were begun.
///
/// How the mapping depends on the destination is told by samples of one local port. How ports are chosen is told by
/// samples of several: each local port's first sample is a new mapping. What was seen on this side of the NAT, as by a
/// broker on this machine or in its LAN, tells nothing of the NAT.
pub fn classify(samples: &[Sample]) -> NatProfile {
    let outside = |sample: &&Sample| scope(canonical(sample.observed).ip()) == Scope::Global;
    let samples: Vec<&Sample> = samples.iter().filter(outside).collect();
    let translated = samples
        .iter()
        .map(|sample| canonical(sample.local) != canonical(sample.observed))
        .reduce(|a, b| a || b);
    if translated == Some(false) {
        let (mapping, allocation) = (Behaviour::EndpointIndependent, Allocation::Preserving);
        return NatProfile { translated, mapping, allocation, ..NatProfile::default() };
    }
    let (mapping, allocation) = (mapping(&samples), allocation(&samples));
    NatProfile { translated, mapping, allocation, ..NatProfile::default() }
}

fn mapping(samples: &[&Sample]) -> Behaviour {
    // Whether it differs by port, and whether by address, where two samples could show it.
    let (mut by_port, mut by_address) = (None, None);
    for (at, one) in samples.iter().enumerate() {
        for other in samples.iter().skip(at + 1) {
            if one.local != other.local || one.destination == other.destination {
                continue;
            }
            let same_address = one.destination.ip() == other.destination.ip();
            let axis = if same_address { &mut by_port } else { &mut by_address };
            *axis = Some(axis.unwrap_or(false) || one.observed != other.observed);
        }
    }
    match (by_port, by_address) {
        (None, None) => Behaviour::Unknown,
        (Some(true), _) => Behaviour::AddressAndPortDependent,
        (Some(false), None) => Behaviour::PortIndependent,
        (None | Some(false), Some(false)) => Behaviour::EndpointIndependent,
        (Some(false), Some(true)) => Behaviour::AddressDependent,
        (None, Some(true)) => Behaviour::EndpointDependent,
    }
}

fn allocation(samples: &[&Sample]) -> Allocation {
    let mut fresh: Vec<&Sample> = Vec::new();
    for sample in samples {
        if !fresh.iter().any(|it| it.local == sample.local) {
            fresh.push(sample);
        }
    }
    let kept = fresh.iter().filter(|sample| sample.local.port() == sample.observed.port()).count();
    if fresh.is_empty() {
        return Allocation::Unknown;
    }
    // A NAT that keeps ports gives another one where two hosts inside want the same.
    if kept * 2 > fresh.len() {
        // Some keep a port for its first destination only: what comes then is not seen on fresh ports.
        let changes = |one: &&Sample| {
            samples.iter().any(|it| it.local == one.local && it.observed.port() != one.observed.port())
        };
        return if fresh.iter().any(changes) { Allocation::Changing } else { Allocation::Preserving };
    }
    if fresh.len() < FRESH_PORTS_LEAST {
        return Allocation::Changing;
    }
    let ports: Vec<u16> = fresh.iter().map(|sample| sample.observed.port()).collect();
    if let Some(step) = step(&ports) {
        return Allocation::Stepping(step);
    }
    let mut ports: Vec<u16> = samples.iter().map(|sample| sample.observed.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    match range(&ports) {
        Some((first, last)) if last - first < BLOCK_MOST => Allocation::Block { first, last },
        Some(_) | None => Allocation::Random,
    }
}

/// The step from each new mapping to the next, if most are the same: other hosts behind the NAT take ports in between.
fn step(ports: &[u16]) -> Option<i16> {
    let next = ports.iter().skip(1);
    let steps = ports.iter().zip(next).map(|(one, next)| i32::from(*next) - i32::from(*one));
    let steps: Vec<i16> = steps.map(|step| i16::try_from(step).unwrap_or(0)).collect();
    let times = |step: i16| steps.iter().filter(|other| **other == step).count();
    let most = steps.iter().copied().max_by_key(|step| times(*step))?;
    (times(most) * 2 > steps.len() && most != 0 && most.unsigned_abs() <= STEP_MOST).then_some(most)
}

/// First and last of the ports that a NAT draws from, by these of them, sorted and each once.
///
/// Of uniform draws neither end is seen. Blocks of carriers are mostly powers of two and aligned, to 0 or to where the
/// ports of users begin; so the smallest such block that has all the ports is taken, unless they fill so little of it
/// that another block must have crossed its borders (less than [`RANGE_DOUBT`]). Then so much is added at each side that
/// either end is beyond it in half of [`RANGE_DOUBT`] of the cases only: of n uniform draws that span s, an end is
/// further than m s away with the probability (1 + m)^(1 - n).
fn range(ports: &[u16]) -> Option<(u16, u16)> {
    let (first, last) = (*ports.first()?, *ports.last()?);
    let count = i32::try_from(ports.len()).unwrap_or(i32::MAX);
    let span = f64::from(last - first) + 1.0;
    for size in BLOCKS {
        for anchor in [0, USER_PORTS] {
            let Some(from_anchor) = first.checked_sub(anchor) else { continue };
            let begins = anchor + from_anchor / size * size;
            let ends = begins.saturating_add(size - 1);
            if last <= ends {
                let filled = span / f64::from(size);
                let (draws, all) = (f64::from(count), filled.powi(count));
                let chance = draws * filled.powi(count - 1) - (draws - 1.0) * all;
                if chance >= RANGE_DOUBT {
                    return Some((begins, ends));
                }
            }
        }
    }
    if count < 2 {
        return None;
    }
    let margin = (2.0 / RANGE_DOUBT).powf(1.0 / f64::from(count - 1)) - 1.0;
    let beyond = (margin * span).ceil();
    let least = if first >= USER_PORTS { USER_PORTS } else { 1 };
    let port = |at: f64| at.clamp(f64::from(least), f64::from(u16::MAX)) as u16;
    Some((port(f64::from(first) - beyond), port(f64::from(last) + beyond)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl NatProfile {
    /// The same, with what knocks at a mapping tell: who is let in, and what the others are answered.
    ///
    /// Knocks from elsewhere tell more, if there were any. Who lets everybody in refuses nobody, so that its refusal stays
    /// unknown.
    #[must_use]
    pub fn with_knocks(self, knocks: &[Knock]) -> NatProfile {
        let answers = |answer| knocks.iter().any(|knock| knock.answer == answer);
        let accepted = |elsewhere| {
            let asked = knocks.iter().filter(|knock| knock.elsewhere == elsewhere);
            asked.map(|knock| knock.answer == KnockAnswer::Accepted).reduce(|a, b| a || b)
        };
        let filtering = match (accepted(false), accepted(true)) {
            (None, None) => return self,
            (_, Some(true)) => Behaviour::EndpointIndependent,
            (Some(true), None) => Behaviour::PortIndependent,
            (Some(true), Some(false)) => Behaviour::AddressDependent,
            (Some(false), _) => Behaviour::AddressAndPortDependent,
            (None, Some(false)) => Behaviour::EndpointDependent,
        };
        let refusal = if answers(KnockAnswer::Refused) {
            Refusal::Reset
        } else if answers(KnockAnswer::Unreachable) {
            Refusal::Icmp
        } else if answers(KnockAnswer::Silent) {
            Refusal::Drop
        } else {
            Refusal::Unknown
        };
        NatProfile { filtering, refusal, ..self }
    }

    /// The same, with what is not known taken from what was known of this network before; nothing, where that was another
    /// network by the look of it.
    #[must_use]
    pub fn filled_from(self, before: NatProfile) -> NatProfile {
        if self.translated.is_some() && self.translated != before.translated {
            return self;
        }
        let behaviour = |now, before| if now == Behaviour::Unknown { before } else { now };
        NatProfile {
            translated: self.translated.or(before.translated),
            mapping: behaviour(self.mapping, before.mapping),
            allocation: if self.allocation == Allocation::Unknown {
                before.allocation
            } else {
                self.allocation
            },
            filtering: behaviour(self.filtering, before.filtering),
            refusal: if self.refusal == Refusal::Unknown { before.refusal } else { self.refusal },
            simultaneous_open: self.simultaneous_open.or(before.simultaneous_open),
        }
    }

    /// Whether connections to different destinations leave through different ports, so that the
    /// address that the broker saw is of no use to another peer.
    ///
    /// Where ports are kept it is the outside address that differs, and one of several can't be guessed at by ports.
    pub fn is_symmetric(&self) -> bool {
        let dependent = matches!(
            self.mapping,
            Behaviour::AddressDependent | Behaviour::AddressAndPortDependent | Behaviour::EndpointDependent
        );
        dependent && self.allocation != Allocation::Preserving
    }

    /// Whether a SYN that nobody asked for is answered with a reset: it ends the other side's attempt at once.
    pub fn resets(&self) -> bool {
        self.refusal == Refusal::Reset
    }

    /// Whether a SYN that nobody asked for comes in from everywhere: nobody need dial outward from here.
    pub fn lets_everybody_in(&self) -> bool {
        self.filtering == Behaviour::EndpointIndependent
    }

    /// The same in the terms of RFC 4787 and RFC 5382, one line.
    pub fn rfc_terms(&self) -> impl fmt::Display {
        RfcTerms(*self)
    }
}

impl Behaviour {
    /// Whether no NAT fits both.
    pub fn contradicts(self, other: Self) -> bool {
        // Endpoint-independent, address-dependent, address-and-port-dependent: those that it may be.
        let may_be = |behaviour: Self| match behaviour {
            Behaviour::Unknown => 0b111_u8,
            Behaviour::EndpointIndependent => 0b001,
            Behaviour::PortIndependent => 0b011,
            Behaviour::AddressDependent => 0b010,
            Behaviour::EndpointDependent => 0b110,
            Behaviour::AddressAndPortDependent => 0b100,
        };
        may_be(self) & may_be(other) == 0
    }

    /// The term of RFC 4787, as far as it is known.
    pub fn term(self) -> &'static str {
        match self {
            Behaviour::Unknown => "not known",
            Behaviour::EndpointIndependent => "endpoint-independent",
            Behaviour::PortIndependent => "endpoint-independent or address-dependent",
            Behaviour::AddressDependent => "address-dependent",
            Behaviour::EndpointDependent => "address-dependent or address-and-port-dependent",
            Behaviour::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

struct RfcTerms(NatProfile);

impl fmt::Display for RfcTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = &self.0;
        match profile.translated {
            None => return f.write_str("address translation not known"),
            Some(false) => f.write_str("no address translation")?,
            Some(true) => {
                write!(f, "{} mapping, port assignment ", profile.mapping.term())?;
                match profile.allocation {
                    Allocation::Unknown => f.write_str("not known")?,
                    Allocation::Preserving => f.write_str("preserving")?,
                    Allocation::Changing => f.write_str("not preserving")?,
                    Allocation::Stepping(step) => write!(f, "sequential ({step:+})")?,
                    Allocation::Block { first, last } => write!(f, "random within {first}-{last}")?,
                    Allocation::Random => f.write_str("random")?,
                }
            }
        }
        write!(f, ", {} filtering", profile.filtering.term())?;
        match profile.refusal {
            Refusal::Unknown => {}
            Refusal::Drop => f.write_str(", unsolicited SYNs dropped")?,
            Refusal::Reset => f.write_str(", unsolicited SYNs answered with RST")?,
            Refusal::Icmp => f.write_str(", unsolicited SYNs answered with ICMP")?,
        }
        match profile.simultaneous_open {
            None => Ok(()),
            Some(true) => f.write_str(", simultaneous open supported"),
            Some(false) => f.write_str(", simultaneous open not supported"),
        }
    }
}

impl fmt::Display for NatProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_symmetric() {
            let opens = "a symmetric NAT: it opens another port for each destination";
            let term = self.mapping.term();
            match self.allocation {
                Allocation::Stepping(step) => write!(f, "{opens}, each {step:+} from the last one")?,
                Allocation::Block { first, last } => write!(f, "{opens}, one between {first} and {last}")?,
                Allocation::Unknown | Allocation::Preserving | Allocation::Changing | Allocation::Random => {
                    write!(f, "{opens} ({term} mapping), so nobody can be told where to knock")?;
                }
            }
            return self.say_who_comes_in(f);
        }
        let keeps = "a NAT that keeps one port for all destinations";
        match (self.translated, self.mapping) {
            (Some(false), _) if self.lets_everybody_in() => {
                return f.write_str("no address translation, and no firewall in front");
            }
            (Some(false), _) => f.write_str("no address translation; a firewall may stand in front")?,
            (Some(true), Behaviour::EndpointIndependent) => {
                write!(f, "{keeps} (endpoint-independent mapping)")?;
            }
            (Some(true), Behaviour::PortIndependent) => write!(f, "{keeps}, as far as one broker can see")?,
            (
                Some(true),
                Behaviour::AddressDependent
                | Behaviour::EndpointDependent
                | Behaviour::AddressAndPortDependent,
            ) => f.write_str("a NAT that keeps ports and has several addresses")?,
            (Some(true), Behaviour::Unknown) => f.write_str("a NAT whose mapping is not known")?,
            (None, _) => return f.write_str("a network of which nothing is known"),
        }
        self.say_who_comes_in(f)
    }
}

impl NatProfile {
    fn say_who_comes_in(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lets_everybody_in() {
            return f.write_str("; everybody may come in there");
        }
        match self.refusal {
            Refusal::Unknown => Ok(()),
            Refusal::Drop => f.write_str("; strangers get no answer"),
            Refusal::Reset => f.write_str("; strangers are reset"),
            Refusal::Icmp => f.write_str("; strangers are told that nobody is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    fn sample(local: &str, destination: &str, observed: &str) -> Sample {
        Sample {
            local: local.parse().unwrap(),
            destination: destination.parse().unwrap(),
            observed: observed.parse().unwrap(),
        }
    }

    #[test]
    fn a_public_host_is_not_translated() {
        let profile = classify(&[sample("198.51.100.9:5000", "203.0.113.1:7766", "198.51.100.9:5000")]);
        assert_eq!(profile.translated, Some(false));
        assert_eq!(profile.mapping, Behaviour::EndpointIndependent);
        assert_eq!(profile.allocation, Allocation::Preserving);
    }

    #[test]
    fn one_sample_behind_a_nat_leaves_the_mapping_unknown() {
        let profile = classify(&[sample("10.0.0.2:5000", "203.0.113.1:7766", "198.51.100.9:6000")]);
        assert_eq!(profile.translated, Some(true));
        assert_eq!(profile.mapping, Behaviour::Unknown);
        assert_eq!(profile.allocation, Allocation::Changing);
    }

    #[test]
    fn two_ports_of_one_observer_tell_symmetric_from_independent() {
        let first = sample("10.0.0.2:5000", "203.0.113.1:7766", "198.51.100.9:6000");
        let same = sample("10.0.0.2:5000", "203.0.113.1:7767", "198.51.100.9:6000");
        let other = sample("10.0.0.2:5000", "203.0.113.1:7767", "198.51.100.9:6001");
        assert_eq!(classify(&[first, same]).mapping, Behaviour::PortIndependent);
        assert_eq!(classify(&[first, other]).mapping, Behaviour::AddressAndPortDependent);
        assert!(classify(&[first, other]).is_symmetric());
    }

    #[test]
    fn two_observers_alone_cannot_tell_address_from_port() {
        let first = sample("10.0.0.2:5000", "203.0.113.1:7766", "198.51.100.9:6000");
        let other = sample("10.0.0.2:5000", "203.0.113.2:7766", "198.51.100.9:6001");
        assert_eq!(classify(&[first, other]).mapping, Behaviour::EndpointDependent);
    }

    #[test]
    fn samples_of_different_local_ports_are_not_compared() {
        let first = sample("10.0.0.2:5000", "203.0.113.1:7766", "198.51.100.9:6000");
        let other = sample("10.0.0.2:5001", "203.0.113.1:7767", "198.51.100.9:6001");
        assert_eq!(classify(&[first, other]).mapping, Behaviour::Unknown);
    }

    #[test]
    fn a_broker_on_this_side_tells_nothing_of_the_nat() {
        let loopback = sample("127.0.0.1:5000", "127.0.0.1:7766", "127.0.0.1:5000");
        let lan = sample("192.168.1.2:5000", "192.168.1.3:7766", "192.168.1.2:5000");
        assert_eq!(classify(&[loopback, lan]), NatProfile::default());
    }

    /// One scratch port at a broker: two ports of its first address, and one of its second.
    fn at(first: u16, beside: u16, second: Option<u16>) -> NatProfile {
        let seen =
            |destination, port: u16| sample("10.0.0.2:5000", destination, &format!("198.51.100.9:{port}"));
        let mut samples = vec![seen("203.0.113.1:7766", first), seen("203.0.113.1:7767", beside)];
        samples.extend(second.map(|port| seen("203.0.113.2:7767", port)));
        classify(&samples)
    }

    #[test]
    fn a_second_address_tells_what_one_cannot() {
        let mapping = |first, beside, second| at(first, beside, second).mapping;
        assert_eq!(mapping(6000, 6000, None), Behaviour::PortIndependent);
        assert_eq!(mapping(6000, 6000, Some(6000)), Behaviour::EndpointIndependent);
        assert_eq!(mapping(6000, 6000, Some(6001)), Behaviour::AddressDependent);
        assert_eq!(mapping(6000, 6001, None), Behaviour::AddressAndPortDependent);
        assert_eq!(mapping(6000, 6001, Some(6002)), Behaviour::AddressAndPortDependent);
        assert!(at(6000, 6000, Some(6001)).is_symmetric());
        assert!(!at(6000, 6000, None).is_symmetric());
    }

    #[test]
    fn several_outside_addresses_that_keep_ports_are_no_ports_to_guess_at() {
        let first = sample("10.0.0.2:5000", "203.0.113.1:7766", "198.51.100.9:5000");
        let other = sample("10.0.0.2:5000", "203.0.113.1:7767", "198.51.100.8:5000");
        let profile = classify(&[first, other]);
        assert_eq!(profile.mapping, Behaviour::AddressAndPortDependent);
        assert_eq!(profile.allocation, Allocation::Preserving);
        assert!(!profile.is_symmetric());
    }

    /// Fresh local ports at one place, with these ports outside.
    fn fresh(ports: impl IntoIterator<Item = u16>) -> Allocation {
        let samples: Vec<Sample> = ports
            .into_iter()
            .zip(40_000..)
            .map(|(port, local)| {
                let (local, seen) = (format!("10.0.0.2:{local}"), format!("198.51.100.9:{port}"));
                sample(&local, "203.0.113.1:7766", &seen)
            })
            .collect();
        classify(&samples).allocation
    }

    #[test]
    fn steps_are_found_though_others_take_ports_in_between() {
        assert_eq!(fresh((0..12).map(|n| 50_000 + n)), Allocation::Stepping(1));
        assert_eq!(fresh((0..12).map(|n| 50_000 - 2 * n)), Allocation::Stepping(-2));
        let with_others = [500, 503, 506, 512, 515, 518, 521, 530, 533, 536, 539, 551];
        assert_eq!(fresh(with_others), Allocation::Stepping(3));
        let round_the_end = [65_530, 65_532, 65_534, 1024, 1026, 1028, 1030, 1032];
        assert_eq!(fresh(round_the_end), Allocation::Stepping(2));
    }

    #[test]
    fn ports_are_kept_though_two_hosts_want_one() {
        let with_a_clash = (0..12).map(|n| if n == 5 { 1234 } else { 40_000 + n });
        assert_eq!(fresh(with_a_clash), Allocation::Preserving);
    }

    #[test]
    fn few_fresh_ports_tell_no_rule() {
        assert_eq!(fresh((0..7).map(|n| 50_000 + n)), Allocation::Changing);
        assert_eq!(fresh([]), Allocation::Unknown);
    }

    #[test]
    fn ports_all_over_are_random() {
        let mut random = ChaCha20Rng::seed_from_u64(7);
        for _ in 0..2000 {
            let ports: Vec<u16> = (0..16).map(|_| random.random_range(1024..=u16::MAX)).collect();
            assert_eq!(fresh(ports.iter().copied()), Allocation::Random, "{ports:?}");
        }
    }

    /// Ports of blocks of this size, each with what is made of so many of its ports.
    fn blocks(size: u16, aligned: bool, draws: usize) -> Vec<((u16, u16), (u16, u16))> {
        let mut random = ChaCha20Rng::seed_from_u64(u64::from(size));
        let mut found = Vec::new();
        for _ in 0..2000 {
            let first = if aligned {
                USER_PORTS + size * random.random_range(0..64_512 / size)
            } else {
                random.random_range(USER_PORTS..=u16::MAX - size)
            };
            let last = first + (size - 1);
            let offsets = rand::seq::index::sample(&mut random, usize::from(size), draws);
            let ports = offsets.iter().map(|offset| first + u16::try_from(offset).unwrap());
            let Allocation::Block { first: seen, last: until } = fresh(ports) else { panic!("no block") };
            found.push(((first, last), (seen, until)));
        }
        found
    }

    #[test]
    fn blocks_as_carriers_give_them_are_found_as_they_are() {
        for size in BLOCKS {
            let found = blocks(size, true, 16);
            let exact = found.iter().filter(|(real, seen)| real == seen).count();
            assert!(exact * 100 >= found.len() * 98, "{size}: {exact} of {}", found.len());
        }
    }

    #[test]
    fn of_any_other_block_nearly_all_ports_are_in_what_is_found_and_few_besides() {
        for size in [100, 500, 1000, 1024, 3000, 10_000] {
            let found = blocks(size, false, 16);
            let (mut covered, mut width) = (0, 0);
            for ((first, last), (seen, until)) in &found {
                let common = i64::from(*last.min(until)) - i64::from(*first.max(seen)) + 1;
                covered += common.max(0);
                width += i64::from(until - seen) + 1;
            }
            let all = i64::from(size) * i64::try_from(found.len()).unwrap();
            assert!(covered * 100 >= all * 99, "{size}: {covered} of {all}");
            assert!(width < all * 2, "{size}: {width} for {all}");
        }
    }

    fn knocked(same: Option<KnockAnswer>, elsewhere: Option<KnockAnswer>) -> (Behaviour, Refusal) {
        let knocks: Vec<Knock> = [(false, same), (true, elsewhere)]
            .into_iter()
            .filter_map(|(elsewhere, answer)| Some(Knock { elsewhere, answer: answer? }))
            .collect();
        let profile = NatProfile::default().with_knocks(&knocks);
        (profile.filtering, profile.refusal)
    }

    #[test]
    fn knocks_tell_who_is_let_in_and_what_others_are_answered() {
        use KnockAnswer::{Accepted, Refused, Silent, Unreachable};
        let open = (Behaviour::EndpointIndependent, Refusal::Unknown);
        assert_eq!(knocked(Some(Accepted), Some(Accepted)), open);
        assert_eq!(knocked(Some(Accepted), None), (Behaviour::PortIndependent, Refusal::Unknown));
        assert_eq!(knocked(Some(Accepted), Some(Refused)), (Behaviour::AddressDependent, Refusal::Reset));
        assert_eq!(knocked(Some(Accepted), Some(Silent)), (Behaviour::AddressDependent, Refusal::Drop));
        let strict = |refusal| (Behaviour::AddressAndPortDependent, refusal);
        assert_eq!(knocked(Some(Refused), None), strict(Refusal::Reset));
        assert_eq!(knocked(Some(Silent), Some(Unreachable)), strict(Refusal::Icmp));
        assert_eq!(knocked(Some(Silent), Some(Silent)), strict(Refusal::Drop));
        assert_eq!(knocked(None, Some(Silent)), (Behaviour::EndpointDependent, Refusal::Drop));
        assert_eq!(knocked(None, None), (Behaviour::Unknown, Refusal::Unknown));
    }

    #[test]
    fn words_say_what_is_known_and_that_something_is_not() {
        let stepping = NatProfile { allocation: Allocation::Stepping(2), ..at(6000, 6002, None) };
        assert!(stepping.to_string().starts_with("a symmetric NAT"), "{stepping}");
        assert!(stepping.to_string().contains("+2"), "{stepping}");
        let resets = NatProfile { refusal: Refusal::Reset, ..at(5000, 5000, Some(5000)) };
        assert!(resets.to_string().contains("keeps one port for all destinations"), "{resets}");
        assert!(resets.to_string().contains("reset"), "{resets}");
        assert_eq!(
            NatProfile { filtering: Behaviour::PortIndependent, ..at(6000, 6000, None) }
                .rfc_terms()
                .to_string(),
            "endpoint-independent or address-dependent mapping, port assignment not preserving, \
             endpoint-independent or address-dependent filtering"
        );
        assert_eq!(NatProfile::default().rfc_terms().to_string(), "address translation not known");
    }

    proptest! {
        #[test]
        fn a_block_holds_every_port_that_was_seen(
            ports in proptest::collection::vec(any::<u16>(), 0..30),
            low in any::<u16>(),
            span in 1..3000_u16,
        ) {
            let near = ports.iter().map(|port| low.saturating_add(port % span));
            let seen: Vec<u16> = near.collect();
            if let Allocation::Block { first, last } = fresh(seen.iter().copied()) {
                prop_assert!(seen.iter().all(|port| (first..=last).contains(port)));
            }
        }
    }

    #[test]
    fn nothing_observed_is_nothing_known() {
        assert_eq!(classify(&[]), NatProfile::default());
    }
}
