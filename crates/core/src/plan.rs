//! From two profiles and the introduction to lanes, and from a failure to its reason.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::candidate::{Candidate, Kind, Scope, Surroundings, canonical, may_dial, scope};
use crate::limits::{INTRODUCTION_WINDOW, SYNS_PER_ADDRESS, VOLLEY_SYNS_PER_ADDRESS};
use crate::profile::NatProfile;
use crate::rendezvous::subscriber;

mod obstacle;
mod strategy;

pub use obstacle::Obstacle;
pub use strategy::{Aim, Order, Rules, Strategy, Volley, strategy};
pub(crate) use strategy::{is_in_the_way, lets_in, may_be_open, may_be_symmetric};

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Between private or loopback addresses, or within one machine.
    Lan,
    /// One end was dialled at the address of its own interface, firewalled or not.
    Direct,
    /// One end was dialled at the address of a NAT, on both sides.
    Punched,
    /// As [`Path::Punched`], at one of many ports that were tried.
    Birthday,
    /// One end was dialled at a port that its router forwards.
    Mapped,
}

impl Path {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Path::Lan => "lan",
            Path::Direct => "direct",
            Path::Punched => "punched",
            Path::Birthday => "birthday",
            Path::Mapped => "mapped",
        }
    }

    /// How the connection between these addresses runs. `translated`: whether a NAT stands
    /// between each side and the broker, own side first, as far as known.
    pub fn of(local: SocketAddr, remote: SocketAddr, translated: [Option<bool>; 2]) -> Self {
        let near = |address: SocketAddr| scope(address.ip()) <= Scope::Private;
        if (near(local) && near(remote)) || local.ip() == remote.ip() {
            Path::Lan
        } else if remote.is_ipv6() || translated.contains(&Some(false)) {
            Path::Direct
        } else {
            Path::Punched
        }
    }
}

/// Whether a NAT stands between a side and the broker, as far as known, for [`Path::of`].
///
/// None does where the public address at one end of the connection is also among `others`: for the own side, its
/// interface's address among those that the broker observed; for the peer, the address that it is seen at among its host
/// candidates. Else what the profile says: a broker on this side of the NAT sees no NAT either.
pub fn translated(profile: NatProfile, at: SocketAddr, others: &[SocketAddr]) -> Option<bool> {
    let ip = at.ip().to_canonical();
    let same = others.iter().any(|other| other.ip().to_canonical() == ip);
    if same && scope(ip) == Scope::Global { Some(false) } else { profile.translated }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The addresses to dial first, from what the broker said of the peer: as observed, and, for a
/// peer on the broker's own side, the broker's addresses with the peer's port.
///
/// What may not be dialled is left out.
pub fn first_candidates(addresses: &[SocketAddr], public: &[IpAddr], here: &Surroundings) -> Vec<Candidate> {
    let observed =
        addresses.iter().map(|address| Candidate { address: canonical(*address), kind: Kind::Reflexive });
    let beside_broker = addresses.iter().all(|address| scope(address.ip()) != Scope::Global);
    let brokers = here.brokers.iter().map(SocketAddr::ip).chain(public.iter().copied());
    let predicted = brokers.filter(|_| beside_broker).flat_map(|ip| {
        let ip = ip.to_canonical();
        addresses.iter().map(move |address| Candidate {
            address: SocketAddr::new(ip, address.port()),
            kind: Kind::Predicted,
        })
    });
    filtered(observed.chain(predicted), addresses, here)
}

/// The peer's host candidates that may be dialled. All have one port, the peer's own: a list of
/// ports of one machine would be a scan.
pub fn host_candidates(
    hosts: &[SocketAddr],
    addresses: &[SocketAddr],
    here: &Surroundings,
) -> Vec<Candidate> {
    let port = hosts.first().map(SocketAddr::port);
    let hosts = hosts
        .iter()
        .filter(|address| Some(address.port()) == port)
        .map(|address| Candidate { address: canonical(*address), kind: Kind::Host });
    filtered(hosts, addresses, here)
}

/// The port that the peer's router forwards to it, if it may be dialled: where the broker saw the peer, or, for a peer on the
/// broker's own side, at one of the broker's addresses.
pub fn mapped_candidate(
    mapped: SocketAddr,
    addresses: &[SocketAddr],
    public: &[IpAddr],
    here: &Surroundings,
) -> Option<Candidate> {
    let beside_broker = addresses.iter().all(|address| scope(address.ip()) != Scope::Global);
    let brokers = here.brokers.iter().map(SocketAddr::ip).chain(public.iter().copied());
    let brokers = brokers.filter(|_| beside_broker).map(|ip| SocketAddr::new(ip, 0));
    let seen: Vec<SocketAddr> = addresses.iter().copied().chain(brokers).collect();
    let candidate = Candidate { address: canonical(mapped), kind: Kind::Mapped };
    may_dial(candidate, here, &seen).is_ok().then_some(candidate)
}

/// Whether a port that the own router forwards is worth telling: not where further out is another NAT, behind which nobody
/// reaches it. A broker on this side of the router can't know, and the other side has the last word.
pub fn may_tell_mapped(mapped: SocketAddr, observed: &[SocketAddr]) -> bool {
    let ip = mapped.ip().to_canonical();
    let seen_there = observed.iter().any(|own| own.ip().to_canonical() == ip);
    let beside_broker = !observed.is_empty() && observed.iter().all(|own| scope(own.ip()) != Scope::Global);
    scope(ip) == Scope::Global && (seen_there || beside_broker)
}

fn filtered(
    candidates: impl Iterator<Item = Candidate>,
    addresses: &[SocketAddr],
    here: &Surroundings,
) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let known = kept.iter().any(|other| other.address == candidate.address);
        if !known && may_dial(candidate, here, addresses).is_ok() {
            kept.push(candidate);
        }
    }
    kept
}

/// Whether two peers that the broker saw at these addresses may tell each other their interface
/// addresses though neither proved anything: both at one public address, or one of them on the
/// broker's own side, where the broker's view of it is of no use to the other.
pub fn may_tell_hosts(own: &[SocketAddr], peer: &[SocketAddr]) -> bool {
    own.iter().any(|own| {
        peer.iter().any(|peer| {
            own.ip().to_canonical() == peer.ip().to_canonical()
                || (scope(own.ip()) <= Scope::Private && scope(peer.ip()) <= Scope::Private)
        })
    }) || [own, peer]
        .iter()
        .any(|side| !side.is_empty() && side.iter().all(|address| scope(address.ip()) <= Scope::Private))
}

/// The source address of a connect, from that of the link to the broker in the same family: the same, so that the NAT's mapping
/// is the same. Not on this side of the NAT, where the kernel's routes know better.
pub fn source(link: Option<IpAddr>, remote: SocketAddr) -> Option<IpAddr> {
    link.filter(|ip| scope(remote.ip()) == Scope::Global && scope(*ip) != Scope::Loopback)
}

/// Whether a peer that was observed at these addresses sits beside the broker, while this side does not, and the broker named
/// no `public` address for it: then nobody knows where it is from outside.
pub fn hidden_beside_broker(addresses: &[SocketAddr], public: &[IpAddr], here: &Surroundings) -> bool {
    let near = |address: &SocketAddr| scope(address.ip()) <= Scope::Private;
    !addresses.is_empty()
        && addresses.iter().all(near)
        && public.is_empty()
        && !here.observed.iter().any(near)
}

/// Counts SYNs toward each subscriber, over all attempts of a peer.
#[derive(Debug, Default)]
pub struct SynBudget(HashMap<(IpAddr, bool), (Instant, u32)>);

impl SynBudget {
    /// Whether one more may leave toward this address now, `many`: as one of many to or from different ports; counts it if
    /// so.
    pub fn allow(&mut self, now: Instant, to: IpAddr, many: bool) -> bool {
        // What attempts dial in a window bounds the table.
        self.0.retain(|_, (since, _)| now.duration_since(*since) < INTRODUCTION_WINDOW);
        let (_, sent) = self.0.entry((subscriber(to), many)).or_insert((now, 0));
        let allowed = *sent < if many { VOLLEY_SYNS_PER_ADDRESS } else { SYNS_PER_ADDRESS };
        *sent += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn here() -> Surroundings {
        Surroundings {
            interfaces: vec![("192.168.1.5".parse().unwrap(), 24)],
            port: 23456,
            observed: vec![address("198.51.100.1:23456")],
            brokers: vec![address("203.0.113.1:7766")],
            gateways: vec![],
        }
    }

    #[test]
    fn paths_are_named_alike_on_both_sides() {
        let (a, b) = (address("10.0.0.2:1"), address("198.51.100.2:2"));
        assert_eq!(Path::of(a, b, [Some(true), Some(true)]), Path::Punched);
        assert_eq!(Path::of(a, b, [Some(true), Some(false)]), Path::Direct);
        assert_eq!(Path::of(b, address("203.0.113.7:1"), [Some(false), Some(true)]), Path::Direct);
        assert_eq!(Path::of(address("127.0.0.1:1"), address("127.0.0.1:2"), [None; 2]), Path::Lan);
        assert_eq!(Path::of(b, address("198.51.100.2:9"), [None; 2]), Path::Lan);
        assert_eq!(Path::of(address("[2001:db8::1]:1"), address("[2001:db8::2]:1"), [None; 2]), Path::Direct);
    }

    #[test]
    fn a_forwarded_port_counts_where_the_peer_was_seen_or_beside_the_broker() {
        let public: [IpAddr; 1] = ["203.0.113.7".parse().unwrap()];
        let dials = |mapped: &str, seen: &[SocketAddr]| {
            mapped_candidate(address(mapped), seen, &public, &here()).map(|candidate| candidate.address)
        };
        let seen = [address("198.51.100.9:40000"), address("[2001:db8::9]:1")];
        assert_eq!(dials("198.51.100.9:5000", &seen), Some(address("198.51.100.9:5000")));
        assert_eq!(dials("198.51.100.10:5000", &seen), None, "another NAT is further out");
        assert_eq!(dials("203.0.113.7:5000", &seen), None, "it is not the broker's neighbour");
        let beside = [address("192.168.7.2:1")];
        assert_eq!(dials("203.0.113.7:5000", &beside), Some(address("203.0.113.7:5000")));
        assert_eq!(
            dials("203.0.113.1:5000", &beside),
            Some(address("203.0.113.1:5000")),
            "as it was dialled"
        );
        assert_eq!(dials("203.0.113.1:7766", &beside), None, "the broker itself");
        assert_eq!(dials("198.51.100.9:5000", &beside), None);
        assert_eq!(dials("192.168.7.2:5000", &beside), None);
    }

    #[test]
    fn a_forwarded_port_behind_another_nat_is_not_told() {
        let told = |mapped: &str, seen: &str| may_tell_mapped(address(mapped), &[address(seen)]);
        assert!(told("198.51.100.1:9", "198.51.100.1:40000"));
        assert!(!told("100.64.0.5:9", "198.51.100.1:40000"), "carrier-grade");
        assert!(!told("198.51.100.2:9", "198.51.100.1:40000"));
        assert!(told("198.51.100.2:9", "192.168.1.5:40000"), "the broker is on this side");
        assert!(!told("10.0.0.1:9", "192.168.1.5:40000"));
        assert!(!may_tell_mapped(address("198.51.100.2:9"), &[]));
    }

    #[test]
    fn what_goes_through_the_nat_leaves_from_where_the_link_does() {
        let link: Option<IpAddr> = Some("192.168.1.5".parse().unwrap());
        assert_eq!(source(link, address("198.51.100.9:1")), link);
        assert_eq!(source(link, address("192.168.1.9:1")), None);
        assert_eq!(source(Some("127.0.0.1".parse().unwrap()), address("198.51.100.9:1")), None);
    }

    #[test]
    fn a_peer_beside_the_broker_is_hidden_from_others_unless_the_broker_knows_its_own_address() {
        let lan = [address("192.168.7.2:1")];
        assert!(hidden_beside_broker(&lan, &[], &here()));
        assert!(!hidden_beside_broker(&lan, &["203.0.113.7".parse().unwrap()], &here()));
        assert!(!hidden_beside_broker(&[address("198.51.100.9:1")], &[], &here()));
        assert!(!hidden_beside_broker(&[], &[], &here()), "nothing is known of it");
        let beside_too = Surroundings { observed: lan.to_vec(), ..here() };
        assert!(!hidden_beside_broker(&lan, &[], &beside_too));
    }

    #[test]
    fn an_address_that_is_its_own_is_not_translated_whatever_the_profile_knows() {
        let unknown = NatProfile::default();
        let public = address("198.51.100.2:2");
        assert_eq!(translated(unknown, public, &[address("198.51.100.2:9")]), Some(false));
        assert_eq!(translated(unknown, public, &[address("192.168.1.5:2")]), None);
        let behind = NatProfile { translated: Some(true), ..unknown };
        assert_eq!(translated(behind, public, &[]), Some(true));
        // The broker is in the same LAN.
        assert_eq!(translated(behind, address("192.168.1.5:2"), &[address("192.168.1.5:2")]), Some(true));
    }

    #[test]
    fn a_peer_beside_the_broker_is_looked_for_at_the_broker() {
        let seen = [address("127.0.0.1:30000")];
        let candidates = first_candidates(&seen, &["203.0.113.7".parse().unwrap()], &here());
        let expected = ["203.0.113.1:30000", "203.0.113.7:30000"]
            .map(|text| Candidate { address: address(text), kind: Kind::Predicted });
        assert_eq!(candidates, expected);
    }

    #[test]
    fn a_peer_elsewhere_is_dialled_only_where_it_was_observed() {
        let seen = [address("198.51.100.9:30000")];
        let candidates = first_candidates(&seen, &[], &here());
        assert_eq!(candidates, [Candidate { address: seen[0], kind: Kind::Reflexive }]);
    }

    #[test]
    fn hosts_are_told_without_proof_only_within_one_network() {
        let one = [address("198.51.100.1:1")];
        let same = [address("198.51.100.1:2")];
        let other = [address("203.0.113.9:2")];
        assert!(may_tell_hosts(&one, &same));
        assert!(!may_tell_hosts(&one, &other));
        assert!(may_tell_hosts(&[address("192.168.1.2:1")], &[address("127.0.0.1:1")]));
    }

    #[test]
    fn syns_toward_one_subscriber_are_bounded() {
        let mut budget = SynBudget::default();
        let now = Instant::now();
        let ip = |n: u32| IpAddr::from(std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(n)));
        let allowed = (0..2 * SYNS_PER_ADDRESS).filter(|n| budget.allow(now, ip(*n), false)).count();
        assert_eq!(allowed, SYNS_PER_ADDRESS as usize);
        assert!(budget.allow(now, "192.0.2.1".parse().unwrap(), false));
        assert!(budget.allow(now + INTRODUCTION_WINDOW, ip(0), false));
    }
}
