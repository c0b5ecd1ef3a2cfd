//! The kernel's own NATs and firewalls, from nftables.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::Unreachable;

/// What a gateway answers to a connection attempt that nobody inside asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Silence. Most home routers and nearly all carrier-grade NATs.
    Drop,
    /// A TCP reset, so that the dialler sees ECONNREFUSED. OpenWrt's `REJECT`.
    ///
    /// What is not TCP is answered with ICMP port-unreachable, as OpenWrt does.
    Reset,
    /// An ICMP error; netfilter's `REJECT` as older routers use it.
    ///
    /// The kernel limits them to one a second and destination after a burst of about six (over IPv6 ten a second), here
    /// as on a real router: the ones beyond are silence.
    ///
    /// Over IPv6 give one of the two sites a delay. Else the answer comes while the dialler's `connect` still holds its
    /// socket, which no real network is quick enough for, and Linux ignores it until the SYN is retransmitted.
    Icmp(Unreachable),
}

impl Refusal {
    fn statements(self, family: Family) -> String {
        let (icmp, port) = match family {
            Family::V4 => ("icmp", "port-unreachable"),
            Family::V6 => ("icmpv6", "port-unreachable"),
        };
        match self {
            Self::Drop => "drop".into(),
            Self::Reset => {
                format!("meta l4proto tcp reject with tcp reset\nreject with {icmp} {port}")
            }
            Self::Icmp(kind) => {
                let kind = match (kind, family) {
                    (Unreachable::Net, Family::V4) => "net-unreachable",
                    (Unreachable::Net, Family::V6) => "no-route",
                    (Unreachable::Port, _) => port,
                    (Unreachable::Host, Family::V4) => "host-unreachable",
                    (Unreachable::Host, Family::V6) => "addr-unreachable",
                    (Unreachable::Prohibited, _) => "admin-prohibited",
                };
                format!("reject with {icmp} {kind}")
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// How a gateway rewrites what leaves its LAN over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Translation {
    /// Not at all: the LAN has public addresses.
    None,
    /// Each connection keeps its port while that 4-tuple is free (seen from outside: endpoint-independent mapping);
    /// comes back only what belongs to a connection (address-and-port-dependent filtering).
    PortPreserving,
    /// The first packet from an inside port opens it to everybody (endpoint-independent mapping and filtering).
    FullCone,
    /// Every inside address and port has one other outside port for all destinations (endpoint-independent mapping);
    /// comes back only what belongs to a connection (address-and-port-dependent filtering).
    Remapping,
    /// Every connection gets a random port (address-and-port-dependent mapping and filtering).
    Random,
}

/// A NAT or firewall as the kernel makes it: what it does to IPv4.
///
/// All of them track connections (`nf_conntrack`), drop packets that belong to none (`ct state invalid`) unless said
/// otherwise, answer pings, and don't hairpin unless told: what a LAN host sends to the gateway's outside address is
/// taken by the gateway itself, which has nothing listening there and resets.
///
/// Start from the one that is named after the thing to be modelled, then adjust:
///
/// ```
/// use natlab::Unreachable;
/// use natlab::kernel::{KernelNat, Refusal};
/// let quiet_openwrt = KernelNat::openwrt().refusing(Refusal::Drop);
/// let rejecting = KernelNat::masquerade().refusing(Refusal::Icmp(Unreachable::Host));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelNat {
    translation: Translation,
    refusal: Refusal,
    refuses_invalid: bool,
    limits_syns: bool,
    simultaneous_open: bool,
    hairpin: bool,
}

impl KernelNat {
    fn new(translation: Translation) -> Self {
        Self {
            translation,
            refusal: Refusal::Drop,
            refuses_invalid: false,
            limits_syns: false,
            simultaneous_open: true,
            hairpin: false,
        }
    }

    /// A stateful firewall before public addresses, silent: a university's, a company's, or a cloud's security group.
    pub fn firewall() -> Self {
        Self::new(Translation::None)
    }

    /// `masquerade` with a dropping input and forward policy: a home router, or a Linux box with the usual script.
    pub fn masquerade() -> Self {
        Self::new(Translation::PortPreserving)
    }

    /// OpenWrt as installed (firewall4): masquerade; from outside input and forward are `REJECT`, a TCP reset; SYNs to
    /// the router are limited to 25 a second after a burst of 50, the rest dropped; packets from outside that belong to
    /// no connection are refused like any other (`drop_invalid` is off), those from inside are dropped.
    pub fn openwrt() -> Self {
        Self {
            refusal: Refusal::Reset,
            refuses_invalid: true,
            limits_syns: true,
            ..Self::new(Translation::PortPreserving)
        }
    }

    /// A full-cone NAT (RFC 3489's word; endpoint-independent mapping and filtering in RFC 4787's): Linux with a
    /// full-cone module, game modes of home routers, some carrier-grade NATs.
    ///
    /// An outside port belongs to the host that first sent from it, for an hour since; another host with the same inside
    /// port gets a random outside port for each connection, and nothing unsolicited. Ports below 1024 are never open.
    pub fn full_cone() -> Self {
        Self::new(Translation::FullCone)
    }

    /// A NAT that changes every port but the same way for all destinations, and filters by connection: a carrier-grade
    /// NAT that obeys RFC 6888 and RFC 5382 in mapping (they demand endpoint-independence) and is strict in filtering.
    ///
    /// Inside ports 20001 to 32767 of the first two addresses inside have an outside port of their own each, above
    /// 32767. All others, TCP and UDP, share 1024 to 19999 by a hash: two of them can meet on one outside port, and
    /// then only one of them can connect to the same destination.
    pub fn remapping() -> Self {
        Self::new(Translation::Remapping)
    }

    /// A symmetric NAT with random ports: `masquerade random,fully-random`; pfSense and many firewalls of companies
    /// and mobile networks behave so.
    pub fn symmetric() -> Self {
        Self::new(Translation::Random)
    }

    /// What unsolicited connection attempts from outside are answered with.
    #[must_use]
    pub fn refusing(mut self, refusal: Refusal) -> Self {
        self.refusal = refusal;
        self
    }

    /// Whether packets from outside that fit no state of their connection are refused like unsolicited ones (`true`) or
    /// dropped (`false`, except for [`openwrt`](Self::openwrt)).
    ///
    /// With [`Refusal::Reset`] this kills a connection whose peer answers for another socket than the one that opened
    /// the hole.
    #[must_use]
    pub fn refusing_invalid(mut self, refuse: bool) -> Self {
        self.refuses_invalid = refuse;
        self
    }

    /// Whether a SYN from outside may answer a SYN from inside (RFC 5382 REQ-2 demands it; the default). Where not, it
    /// is dropped silently, though the hole is there.
    #[must_use]
    pub fn simultaneous_open(mut self, passes: bool) -> Self {
        self.simultaneous_open = passes;
        self
    }

    /// Whether LAN hosts reach what is open to the outside (full cone, forwarded ports) at the outside address (RFC 4787
    /// REQ-9, "NAT loopback"). Off unless asked for.
    #[must_use]
    pub fn hairpin(mut self, hairpin: bool) -> Self {
        self.hairpin = hairpin;
        self
    }

    /// How it rewrites what leaves.
    pub fn translation(&self) -> Translation {
        self.translation
    }

    /// What it answers to the unsolicited.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }
}

/// What a gateway does to IPv6. There is no address translation for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ipv6Policy {
    /// Routes everything.
    Open,
    /// Stateful: only what belongs to a connection from inside, and pings, come in (RFC 6092).
    Firewall(Refusal),
}

/// Inside ports that [`Translation::Remapping`] maps one to one.
const REMAPPED: RangeInclusive<u16> = 20001..=32767;
const REMAPPED_COUNT: u16 = *REMAPPED.end() - *REMAPPED.start() + 1;
/// The first outside port of the first block.
const REMAPPED_TO: u16 = 32768;
/// Blocks of `REMAPPED_COUNT` that fit above `REMAPPED_TO`.
const REMAPPED_BLOCKS: u16 = 2;

/// The commands that make a gateway of a namespace whose interfaces are `wan` and `lan`.
///
/// The tables are not named `gateway` because nft 1.0.6 takes that for a keyword after `reject with icmp`. What the
/// gateway itself sends is not translated: a reset that refuses would else count as the first packet of a mapping.
pub(crate) fn gateway(
    nat: &KernelNat,
    wan: Ipv4Addr,
    lan: (Ipv4Addr, u8),
    ipv6: Option<Ipv6Policy>,
) -> String {
    let mut script = ipv4_table(nat, wan, lan);
    match ipv6 {
        Some(Ipv6Policy::Firewall(refusal)) => script.push_str(&ipv6_table(refusal, nat)),
        Some(Ipv6Policy::Open) | None => {}
    }
    script
}

/// The commands that make the same gateway of it once more, with another outside address.
pub(crate) fn again(nat: &KernelNat, wan: Ipv4Addr, lan: (Ipv4Addr, u8)) -> String {
    format!("delete table ip box\n{}", ipv4_table(nat, wan, lan))
}

fn ipv4_table(nat: &KernelNat, wan: Ipv4Addr, (lan, prefix): (Ipv4Addr, u8)) -> String {
    let refused = nat.refusal.statements(Family::V4);
    let simultaneous = if nat.simultaneous_open {
        ""
    } else {
        "iifname wan ct direction reply tcp flags & (fin | syn | rst | ack) == syn drop"
    };
    let invalid =
        if nat.refuses_invalid { "iifname lan ct state invalid drop" } else { "ct state invalid drop" };
    let limit = if nat.limits_syns {
        "tcp flags & (fin | syn | rst | ack) == syn limit rate over 25/second burst 50 packets drop"
    } else {
        ""
    };
    let (cone_in, hairpin_cone_in) = match nat.translation {
        Translation::FullCone => (
            "iifname wan dnat to tcp dport map @cone",
            format!("iifname lan ip daddr {wan} dnat to tcp dport map @cone"),
        ),
        _ => ("", String::new()),
    };
    let hairpin_in = if nat.hairpin {
        format!("iifname lan ip daddr {wan} jump forwards\n{hairpin_cone_in}")
    } else {
        String::new()
    };
    let hairpin_out = if nat.hairpin {
        // RFC 4787 REQ-9: the one who is dialled sees the dialler's outside address.
        format!("oifname lan ip saddr {lan}/{prefix} ct status dnat snat to {wan}")
    } else {
        String::new()
    };
    let out = match nat.translation {
        Translation::None => String::new(),
        Translation::PortPreserving => "oifname wan masquerade".into(),
        Translation::FullCone => "
            oifname wan tcp sport < 1024 masquerade
            oifname wan ip saddr . tcp sport @owner masquerade
            oifname wan tcp sport @cone masquerade fully-random
            oifname wan meta l4proto tcp add @owner { ip saddr . tcp sport } add @cone { tcp sport : ip saddr }
            oifname wan masquerade"
            .into(),
        Translation::Remapping => format!(
            "
            oifname wan meta l4proto tcp snat to {wan} : ip saddr . tcp sport map @remapped
            oifname wan meta l4proto tcp snat to {wan} : jhash ip saddr . tcp sport mod 18976 seed 0x6e61746c offset 1024
            oifname wan meta l4proto udp snat to {wan} : jhash ip saddr . udp sport mod 18976 seed 0x6e61746c offset 1024
            oifname wan masquerade"
        ),
        Translation::Random => "oifname wan masquerade random,fully-random".into(),
    };
    format!(
        "table ip box {{
            map cone {{ type inet_service : ipv4_addr; flags dynamic,timeout; size 65535; timeout 1h; }}
            set owner {{ type ipv4_addr . inet_service; flags dynamic,timeout; size 65535; timeout 1h; }}
            map remapped {{ type ipv4_addr . inet_service : inet_service; }}
            chain forwards {{ }}
            chain openings {{ }}
            chain refused {{
                {refused}
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat; policy accept;
                iifname wan ip daddr {wan} jump forwards
                {cone_in}
                {hairpin_in}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                ip saddr {wan} return
                {hairpin_out}
                {out}
            }}
            chain input {{
                type filter hook input priority filter; policy accept;
                {simultaneous}
                ct state established,related accept
                {invalid}
                {limit}
                iifname wan icmp type echo-request accept
                iifname wan jump refused
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                {simultaneous}
                {invalid}
                ct state established,related accept
                iifname lan accept
                iifname wan ct status dnat accept
                iifname wan jump openings
                iifname wan jump refused
            }}
        }}
        "
    )
}

fn ipv6_table(refusal: Refusal, nat: &KernelNat) -> String {
    let refused = refusal.statements(Family::V6);
    let invalid =
        if nat.refuses_invalid { "iifname lan ct state invalid drop" } else { "ct state invalid drop" };
    format!(
        "table ip6 box {{
            chain openings {{ }}
            chain refused {{
                {refused}
            }}
            chain input {{
                type filter hook input priority filter; policy accept;
                ct state established,related accept
                iifname wan icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, echo-request }} accept
                {invalid}
                iifname wan jump refused
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                {invalid}
                ct state established,related accept
                iifname lan accept
                iifname wan icmpv6 type echo-request accept
                iifname wan jump openings
                iifname wan jump refused
            }}
        }}
        "
    )
}

/// The commands to be run when the `index`-th address (from 0) appears inside.
pub(crate) fn inside(nat: &KernelNat, index: u16, address: Ipv4Addr) -> Option<String> {
    if nat.translation != Translation::Remapping || index >= REMAPPED_BLOCKS {
        return None;
    }
    let first = REMAPPED_TO + index * REMAPPED_COUNT;
    let mut script = String::from("add element ip box remapped {");
    for (nth, inside) in (0..).zip(REMAPPED) {
        let outside = first + scattered(nth);
        // Writing to a String can't fail.
        let _ = write!(script, "{address} . {inside} : {outside},");
    }
    script.push_str("}\n");
    Some(script)
}

/// A permutation of the block, so that nobody can guess one mapping from another by adding.
fn scattered(nth: u16) -> u16 {
    // 12,767 = 17 * 751 has no factor in common with the multiplier.
    let place = u32::from(nth) * 7919 % u32::from(REMAPPED_COUNT);
    u16::try_from(place).unwrap_or(nth)
}

/// The command that opens an outside port to one inside.
pub(crate) fn forward(nat: &KernelNat, port: u16, inside: Ipv4Addr) -> String {
    match nat.translation {
        Translation::None => {
            format!("add rule ip box openings ip daddr {inside} tcp dport {port} accept\n")
        }
        _ => format!("add rule ip box forwards tcp dport {port} dnat to {inside}:{port}\n"),
    }
}

/// The command that lets IPv6 in to one port inside.
pub(crate) fn pinhole(port: u16, inside: Ipv6Addr) -> String {
    format!("add rule ip6 box openings ip6 daddr {inside} tcp dport {port} accept\n")
}

/// The commands that keep a book of the SYNs which a namespace sends itself.
///
/// A retransmitted SYN has its first one's sequence number, and so falls on the same entry. Sets have no type for a
/// sequence number, hence the way over the packet's mark, which nothing here uses.
pub(crate) const SYN_BOOK: &str = "table inet syns {
    set v4 { type ipv4_addr . inet_service . ipv4_addr . inet_service . mark; flags dynamic; size 65536; counter; }
    set v6 { type ipv6_addr . inet_service . ipv6_addr . inet_service . mark; flags dynamic; size 65536; counter; }
    chain output {
        type filter hook output priority filter; policy accept;
        meta nfproto ipv4 tcp flags & (syn | ack) == syn meta mark set tcp sequence add @v4 { ip saddr . tcp sport . ip daddr . tcp dport . meta mark }
        meta nfproto ipv6 tcp flags & (syn | ack) == syn meta mark set tcp sequence add @v6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport . meta mark }
    }
}
";

/// Commands that need all that any gateway or host needs of the kernel, to find out whether it has that.
pub(crate) fn everything() -> String {
    let wan = Ipv4Addr::new(203, 0, 113, 2);
    let lan = (Ipv4Addr::new(192, 168, 1, 0), 24);
    let mut script = String::from(SYN_BOOK);
    for nat in [
        KernelNat::openwrt().hairpin(true).simultaneous_open(false),
        KernelNat::full_cone().refusing(Refusal::Icmp(Unreachable::Host)),
        KernelNat::remapping(),
        KernelNat::symmetric(),
    ] {
        let ipv6 = Some(Ipv6Policy::Firewall(nat.refusal));
        script.push_str(&gateway(&nat, wan, lan, ipv6));
        script.push_str("delete table ip box\ndelete table ip6 box\n");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn remapping_gives_every_port_of_two_hosts_an_outside_port_of_its_own() {
        let mut outside = HashSet::new();
        for index in 0..REMAPPED_BLOCKS {
            for nth in 0..REMAPPED_COUNT {
                let port = REMAPPED_TO.checked_add(index * REMAPPED_COUNT + scattered(nth)).unwrap();
                assert!(!REMAPPED.contains(&port));
                assert!(outside.insert(port), "port {port} twice");
            }
        }
    }

    #[test]
    fn a_third_host_behind_a_remapping_nat_has_no_block() {
        let address = Ipv4Addr::new(192, 168, 1, 4);
        assert!(inside(&KernelNat::remapping(), 1, address).is_some());
        assert!(inside(&KernelNat::remapping(), 2, address).is_none());
        assert!(inside(&KernelNat::masquerade(), 0, address).is_none());
    }
}
