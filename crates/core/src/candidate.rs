//! Addresses where a peer may be reached, and which of them may be dialled at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::limits::LOWEST_DIALLED_PORT;

/// What kind of address it is (RFC 8445 section 5.1.1, RFC 6544).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// The address of one of the peer's own interfaces, as the peer says.
    Host,
    /// As the broker saw it.
    Reflexive,
    /// Not observed, but concluded: where a peer on the broker's side appears from outside.
    Predicted,
    /// A port that the peer had its router forward (UPnP IGD, PCP, NAT-PMP).
    Mapped,
}

/// An address of a peer with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where to dial.
    pub address: SocketAddr,
    /// What it rests on.
    pub kind: Kind,
}

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine only.
    Loopback,
    /// A private network: RFC 1918, RFC 4193, link-local, or the shared space of carriers (RFC
    /// 6598).
    Private,
    /// Everywhere else.
    Global,
}

/// The scope of an address, IPv4-in-IPv6 taken apart first.
pub fn scope(address: IpAddr) -> Scope {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() => Scope::Loopback,
        IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() || is_shared(v4) => Scope::Private,
        IpAddr::V4(_) => Scope::Global,
        IpAddr::V6(v6) if v6.is_loopback() => Scope::Loopback,
        IpAddr::V6(v6) if v6.is_unique_local() || v6.is_unicast_link_local() => Scope::Private,
        IpAddr::V6(_) => Scope::Global,
    }
}

fn is_shared(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [100, 64..=127, _, _])
}

/// An IPv4-mapped IPv6 address as the IPv4 address it is; every check comes after this (CVE-2026-73212
/// of a relay came from checking before).
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a peer knows of itself when it judges addresses of others.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Own interface addresses with the length of their prefix.
    pub interfaces: Vec<(IpAddr, u8)>,
    /// Own port, that of listener and link.
    pub port: u16,
    /// Own addresses as brokers saw them.
    pub observed: Vec<SocketAddr>,
    /// Addresses of brokers in use.
    pub brokers: Vec<SocketAddr>,
    /// The routers of this machine's default routes.
    pub gateways: Vec<IpAddr>,
}

/// Whether a broker at `broker` can have seen this peer at `observed`, whose own end of the link is
/// `local`.
///
/// What a broker says of a peer's own address decides whether the peer dials private and loopback
/// addresses. A lie would open its machine and its network to whomever the broker names.
pub fn is_plausible(observed: IpAddr, local: IpAddr, broker: IpAddr, gateways: &[IpAddr]) -> bool {
    let (observed, local) = (observed.to_canonical(), local.to_canonical());
    match scope(observed) {
        Scope::Loopback => scope(broker) == Scope::Loopback,
        // A broker that is dialled at a public address can sit on this side of the router all the same.
        Scope::Private => {
            scope(broker) <= Scope::Private || observed == local || gateways.contains(&observed)
        }
        Scope::Global => true,
    }
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Port 0, or below 1024 on this machine or in its network.
    #[error("its port is reserved")]
    Port,
    /// Unspecified, multicast, broadcast or link-local IPv6, which names no interface.
    #[error("it is no address of a single reachable host")]
    NotUnicast,
    /// This peer itself: a TCP connection to oneself succeeds.
    #[error("it is this peer itself")]
    Oneself,
    /// The broker.
    #[error("it is the broker")]
    Broker,
    /// The router.
    #[error("it is this network's router")]
    Gateway,
    /// Loopback, where not both peers were seen there.
    #[error("loopback is another machine for the other side")]
    Loopback,
    /// A port that a router is said to forward, elsewhere than where the broker saw the peer.
    #[error("the broker saw the other side nowhere there")]
    NotThePeers,
    /// A host candidate outside every network this machine is in.
    #[error("it is in no network of this machine")]
    Elsewhere,
}

/// Whether an address may be dialled, as a candidate of that kind of a peer that the broker saw
/// at `peer_observed`.
///
/// # Errors
///
/// The first rule that forbids it. The rules are those of politeness: off its LAN a peer dials only
/// what the broker observed.
pub fn may_dial(
    candidate: Candidate,
    here: &Surroundings,
    peer_observed: &[SocketAddr],
) -> Result<(), Forbidden> {
    let address = canonical(candidate.address);
    let ip = address.ip();
    // What listens below is the system's, and its network's, whoever names it.
    let named_by_the_peer = matches!(candidate.kind, Kind::Host | Kind::Mapped);
    let low = address.port() < LOWEST_DIALLED_PORT && (named_by_the_peer || scope(ip) <= Scope::Private);
    if address.port() == 0 || low {
        return Err(Forbidden::Port);
    }
    let unicast = match ip {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240)
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()),
    };
    let directed_broadcast = here.interfaces.iter().any(|(own, prefix)| is_broadcast_of(ip, *own, *prefix));
    if !unicast || directed_broadcast {
        return Err(Forbidden::NotUnicast);
    }
    let own_ip = here.interfaces.iter().any(|(own, _)| own.to_canonical() == ip);
    let loopback = scope(ip) == Scope::Loopback;
    if (address.port() == here.port && (own_ip || loopback))
        || here.observed.iter().any(|own| canonical(*own) == address)
    {
        return Err(Forbidden::Oneself);
    }
    if here.brokers.iter().any(|broker| canonical(*broker) == address) {
        return Err(Forbidden::Broker);
    }
    let both_on_loopback = here.observed.iter().any(|own| scope(own.ip()) == Scope::Loopback)
        && peer_observed.iter().any(|peer| scope(peer.ip()) == Scope::Loopback);
    if loopback && !both_on_loopback {
        return Err(Forbidden::Loopback);
    }
    if here.gateways.contains(&ip) {
        return Err(Forbidden::Gateway);
    }
    // What a broker calls the peer's address must not make this machine knock in its own network.
    let own_side = here.observed.iter().any(|own| scope(own.ip()) <= Scope::Private);
    if candidate.kind == Kind::Reflexive && scope(ip) == Scope::Private && !own_side {
        return Err(Forbidden::Elsewhere);
    }
    // Its port is the peer's word alone. What is at that address is the peer's own business, elsewhere it would be others'.
    if candidate.kind == Kind::Mapped {
        let seen_there = peer_observed.iter().any(|peer| peer.ip().to_canonical() == ip);
        if scope(ip) != Scope::Global || !seen_there {
            return Err(Forbidden::NotThePeers);
        }
    }
    if candidate.kind == Kind::Host {
        let in_own_network = here.interfaces.iter().any(|(own, prefix)| shares_prefix(ip, *own, *prefix));
        let near = here.observed.iter().any(|own| {
            peer_observed.iter().any(|peer| {
                own.ip().to_canonical() == peer.ip().to_canonical()
                    || (scope(own.ip()) <= Scope::Private && scope(peer.ip()) <= Scope::Private)
            })
        });
        if !(loopback || in_own_network || (scope(ip) == Scope::Private && near)) {
            return Err(Forbidden::Elsewhere);
        }
    }
    Ok(())
}

/// Whether the two addresses are in one network with that prefix length.
pub fn shares_prefix(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            prefix > 0 && (a.to_bits() & mask) == (b.to_bits() & mask)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            prefix > 0 && (a.to_bits() & mask) == (b.to_bits() & mask)
        }
        _ => false,
    }
}

fn is_broadcast_of(ip: IpAddr, own: IpAddr, prefix: u8) -> bool {
    match (ip, own.to_canonical()) {
        (IpAddr::V4(ip), IpAddr::V4(own)) if prefix < 31 => {
            let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            ip.to_bits() == (own.to_bits() | hosts)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn here() -> Surroundings {
        Surroundings {
            interfaces: vec![
                ("127.0.0.1".parse().unwrap(), 8),
                ("192.168.1.5".parse().unwrap(), 24),
                ("2001:db8:1::5".parse().unwrap(), 64),
            ],
            port: 23456,
            observed: vec!["198.51.100.1:23456".parse().unwrap()],
            brokers: vec!["203.0.113.1:7766".parse().unwrap()],
            gateways: vec!["192.168.1.1".parse().unwrap()],
        }
    }

    fn judge(address: &str, kind: Kind, peer: &str) -> Result<(), Forbidden> {
        let candidate = Candidate { address: address.parse().unwrap(), kind };
        may_dial(candidate, &here(), &[peer.parse().unwrap()])
    }

    #[test]
    fn what_the_broker_observed_is_dialled() {
        assert_eq!(judge("203.0.113.9:40000", Kind::Reflexive, "203.0.113.9:40000"), Ok(()));
        assert_eq!(judge("[2001:db8:2::1]:40000", Kind::Reflexive, "203.0.113.9:4"), Ok(()));
    }

    #[test]
    fn never_oneself_the_broker_or_the_router() {
        let peer = "198.51.100.1:30000";
        assert_eq!(judge("198.51.100.1:23456", Kind::Reflexive, peer), Err(Forbidden::Oneself));
        assert_eq!(judge("[::ffff:198.51.100.1]:23456", Kind::Reflexive, peer), Err(Forbidden::Oneself));
        assert_eq!(judge("192.168.1.5:23456", Kind::Host, peer), Err(Forbidden::Oneself));
        assert_eq!(judge("127.0.0.1:23456", Kind::Host, peer), Err(Forbidden::Oneself));
        assert_eq!(judge("203.0.113.1:7766", Kind::Reflexive, peer), Err(Forbidden::Broker));
        assert_eq!(judge("192.168.1.1:30000", Kind::Host, peer), Err(Forbidden::Gateway));
    }

    #[test]
    fn never_what_is_no_single_host() {
        for address in [
            "0.0.0.0:5000",
            "0.1.2.3:5000",
            "224.0.0.1:5000",
            "255.255.255.255:5000",
            "240.0.0.1:5000",
            "192.168.1.255:5000",
            "[::]:5000",
            "[ff02::1]:5000",
            "[fe80::1]:5000",
            "[::ffff:224.0.0.1]:5000",
        ] {
            for kind in [Kind::Host, Kind::Reflexive, Kind::Predicted] {
                assert_eq!(judge(address, kind, "198.51.100.1:1"), Err(Forbidden::NotUnicast), "{address}");
            }
        }
        assert_eq!(judge("203.0.113.9:0", Kind::Reflexive, "203.0.113.9:0"), Err(Forbidden::Port));
    }

    #[test]
    fn loopback_only_if_both_are_there() {
        assert_eq!(judge("127.0.0.1:30000", Kind::Host, "127.0.0.1:30000"), Err(Forbidden::Loopback));
        assert_eq!(judge("[::1]:30000", Kind::Reflexive, "[::1]:30000"), Err(Forbidden::Loopback));
        let local = Surroundings { observed: vec!["127.0.0.1:23456".parse().unwrap()], ..here() };
        let candidate = Candidate { address: "127.0.0.1:30000".parse().unwrap(), kind: Kind::Reflexive };
        assert_eq!(may_dial(candidate, &local, &[candidate.address]), Ok(()));
    }

    #[test]
    fn host_candidates_stay_within_the_own_network() {
        let same = "198.51.100.1:30000";
        let other = "203.0.113.9:30000";
        assert_eq!(judge("192.168.1.7:30000", Kind::Host, other), Ok(()));
        assert_eq!(judge("10.9.9.9:30000", Kind::Host, same), Ok(()));
        assert_eq!(judge("10.9.9.9:30000", Kind::Host, other), Err(Forbidden::Elsewhere));
        assert_eq!(judge("8.8.8.8:30000", Kind::Host, same), Err(Forbidden::Elsewhere));
        assert_eq!(judge("192.168.1.7:443", Kind::Host, same), Err(Forbidden::Port));
    }

    #[test]
    fn a_forwarded_port_is_dialled_only_where_the_broker_saw_the_peer() {
        let peer = "203.0.113.9:40000";
        assert_eq!(judge("203.0.113.9:23456", Kind::Mapped, peer), Ok(()));
        assert_eq!(judge("[::ffff:203.0.113.9]:23456", Kind::Mapped, peer), Ok(()));
        assert_eq!(judge("203.0.113.10:23456", Kind::Mapped, peer), Err(Forbidden::NotThePeers));
        assert_eq!(judge("203.0.113.9:443", Kind::Mapped, peer), Err(Forbidden::Port));
        assert_eq!(judge("192.168.1.7:23456", Kind::Mapped, "192.168.1.7:1"), Err(Forbidden::NotThePeers));
        // Behind one NAT: this side's own outside, where its own door may be forwarded too.
        assert_eq!(
            judge("198.51.100.1:23456", Kind::Mapped, "198.51.100.1:9"),
            Err(Forbidden::Oneself),
            "as the broker saw this side"
        );
    }

    #[test]
    fn a_broker_cannot_make_a_peer_knock_in_its_own_network() {
        assert_eq!(judge("192.168.1.7:4430", Kind::Reflexive, "192.168.1.7:4430"), Err(Forbidden::Elsewhere));
        assert_eq!(judge("192.168.1.1:4430", Kind::Reflexive, "192.168.1.1:4430"), Err(Forbidden::Gateway));
        assert_eq!(judge("192.168.1.7:443", Kind::Reflexive, "192.168.1.7:443"), Err(Forbidden::Port));
        assert_eq!(judge("203.0.113.9:443", Kind::Reflexive, "203.0.113.9:443"), Ok(()));
        let beside = Surroundings { observed: vec!["192.168.1.5:23456".parse().unwrap()], ..here() };
        let candidate = Candidate { address: "192.168.1.7:30000".parse().unwrap(), kind: Kind::Reflexive };
        assert_eq!(may_dial(candidate, &beside, &[candidate.address]), Ok(()));
    }

    #[test]
    fn a_broker_cannot_say_that_this_peer_is_where_it_is_not() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let plausible = |observed, broker| {
            is_plausible(ip(observed), ip("192.168.1.5"), ip(broker), &[ip("192.168.1.1")])
        };
        assert!(plausible("198.51.100.1", "203.0.113.1"));
        // Seen through the router's public address, with and without its own in place.
        assert!(plausible("192.168.1.5", "203.0.113.1") && plausible("192.168.1.1", "203.0.113.1"));
        assert!(plausible("172.17.0.1", "192.168.1.9") && plausible("172.17.0.1", "127.0.0.1"));
        assert!(plausible("127.0.0.1", "127.0.0.1") && plausible("::ffff:127.0.0.1", "127.0.0.1"));
        assert!(!plausible("10.0.0.1", "203.0.113.1"));
        for observed in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(!plausible(observed, "203.0.113.1") && !plausible(observed, "192.168.1.9"), "{observed}");
        }
    }

    proptest! {
        #[test]
        fn forwarded_ports_never_lead_to_others(bits: u32, seen: u32, port: u16) {
            prop_assume!(bits != seen);
            let at = |bits: u32, port| SocketAddr::new(Ipv4Addr::from_bits(bits).into(), port);
            let candidate = Candidate { address: at(bits, port), kind: Kind::Mapped };
            prop_assert!(may_dial(candidate, &here(), &[at(seen, 40000)]).is_err());
        }

        #[test]
        fn host_candidates_never_reach_the_wide_internet(bits: u32, port: u16) {
            let ip = Ipv4Addr::from_bits(bits);
            prop_assume!(scope(ip.into()) == Scope::Global);
            let candidate = Candidate { address: SocketAddr::new(ip.into(), port), kind: Kind::Host };
            prop_assert!(may_dial(candidate, &here(), &here().observed).is_err());
        }
    }
}
