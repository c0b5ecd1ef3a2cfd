//! What is known of a peer's network: from samples to a NAT profile, and to words.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::candidate::{Scope, scope};

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

/// Classifies samples taken from one local port.
///
/// Samples of several local ports may be mixed; only those with the same local port are compared. What was seen on this
/// side of the NAT, as by a broker on this machine or in its LAN, tells nothing of the NAT.
pub fn classify(samples: &[Sample]) -> NatProfile {
    let outside = |sample: &&Sample| scope(canonical(sample.observed).ip()) == Scope::Global;
    let samples: Vec<&Sample> = samples.iter().filter(outside).collect();
    let translated = samples
        .iter()
        .map(|sample| canonical(sample.local) != canonical(sample.observed))
        .reduce(|a, b| a || b);
    let allocation = samples
        .iter()
        .map(|sample| sample.local.port() == sample.observed.port())
        .reduce(|a, b| a && b)
        .map_or(Allocation::Unknown, |kept| if kept { Allocation::Preserving } else { Allocation::Changing });
    let mut mapping =
        if translated == Some(false) { Behaviour::EndpointIndependent } else { Behaviour::Unknown };
    for (at, one) in samples.iter().enumerate() {
        for other in samples.iter().skip(at + 1) {
            if one.local.port() != other.local.port() || one.destination == other.destination {
                continue;
            }
            let same = one.observed == other.observed;
            let same_address = one.destination.ip() == other.destination.ip();
            mapping = match (same, same_address, mapping) {
                (true, _, Behaviour::Unknown) => Behaviour::EndpointIndependent,
                (true, _, known) => known,
                (false, true, _) => Behaviour::AddressAndPortDependent,
                (false, false, Behaviour::AddressAndPortDependent) => Behaviour::AddressAndPortDependent,
                (false, false, _) => Behaviour::EndpointDependent,
            };
        }
    }
    NatProfile { translated, mapping, allocation, ..NatProfile::default() }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl NatProfile {
    /// Whether connections to different destinations leave through different ports, so that the
    /// address that the broker saw is of no use to another peer.
    pub fn is_symmetric(&self) -> bool {
        matches!(
            self.mapping,
            Behaviour::AddressDependent | Behaviour::AddressAndPortDependent | Behaviour::EndpointDependent
        )
    }
}

impl fmt::Display for NatProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_symmetric() {
            return f.write_str(
                "a symmetric NAT: it opens another port for each destination \
                 (address-and-port-dependent mapping), so nobody can be told where to knock",
            );
        }
        match (self.translated, self.mapping) {
            (Some(false), _) => f.write_str("no address translation; a firewall may stand in front"),
            (Some(true), Behaviour::EndpointIndependent) => {
                f.write_str("a NAT that keeps one port for all destinations (endpoint-independent mapping)")
            }
            (Some(true), _) => f.write_str("a NAT whose mapping is not known"),
            (None, _) => f.write_str("a network of which nothing is known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(classify(&[first, same]).mapping, Behaviour::EndpointIndependent);
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

    #[test]
    fn nothing_observed_is_nothing_known() {
        assert_eq!(classify(&[]), NatProfile::default());
    }
}
