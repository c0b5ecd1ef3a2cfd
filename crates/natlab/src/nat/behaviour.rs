//! The knobs of a NAT.

use std::time::Duration;

use crate::Unreachable;

/// What a mapping, or a filter, depends on (RFC 4787 sections 4.1 and 5, RFC 5382 REQ-1 and REQ-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependence {
    /// On nothing at the other end.
    Endpoint,
    /// On the other end's address.
    Address,
    /// On the other end's address and port.
    AddressAndPort,
}

/// How outside ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// The same as inside, if it is free.
    Preserving(Clash),
    /// Each new mapping gets the port so many above the last one's, round the range.
    Stepping(u16),
    /// Any.
    Random,
    /// Any of a block of so many consecutive ports that belongs to the inside address (a carrier's "port block"); when the
    /// block is used up, no further mapping is made.
    Block(u16),
}

/// What happens when a port that is to be preserved is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clash {
    /// A random port is taken instead, as Linux does.
    Random,
    /// The next free one above.
    Next,
    /// The port is shared: the latest inside host to use it owns it, and the older mapping is dead (RFC 4787 section
    /// 4.2.1, "port overloading"; forbidden by its REQ-3).
    Overload,
}

/// What the unsolicited is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Silence.
    Drop,
    /// A TCP reset; what is not TCP gets ICMP port unreachable.
    Reset,
    /// An ICMP error at once.
    Icmp(Unreachable),
    /// An ICMP error when no SYN from inside came within [`Timeouts::unsolicited`]; silence until then (RFC 5382 REQ-4), and
    /// for what is not a SYN.
    IcmpLater(Unreachable),
}

/// How a NAT follows TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// Flags only: any SYN may follow any SYN (RFC 7857 section 2).
    Flags,
    /// As Linux' nf_conntrack, with its table of states and its windows: once SYNs have crossed, a SYN or SYN-ACK with
    /// another sequence number is invalid; what is invalid is not translated, and dropped.
    Linux,
}

/// What a packet ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Nothing: time-outs go on as before.
    Nothing,
    /// Its session, after [`Timeouts::closing`].
    SessionLater,
    /// Its session at once; the mapping lives as long as it has another.
    Session,
    /// The mapping with all its sessions, at once.
    Mapping,
}

/// Whether hosts inside reach each other at outside addresses (RFC 4787 REQ-9, RFC 5382 REQ-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hairpin {
    /// No: the router takes such a packet for itself and resets.
    No,
    /// Yes, and who is dialled sees the dialler's outside address, as REQ-9 a) demands.
    OutsideSource,
    /// Yes, and who is dialled sees the dialler's inside address.
    InsideSource,
}

/// How a NAT with several outside addresses chooses one (RFC 4787 REQ-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// An inside address keeps its outside address.
    Paired,
    /// Each mapping gets any.
    Arbitrary,
}

/// Which payloads a NAT rewrites: an "application layer gateway" that was not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rewriting {
    /// None.
    None,
    /// The inside address as four (sixteen) bytes, wherever it stands, becomes the outside address on its way out, and the
    /// other way round on its way in: why STUN hides addresses (RFC 8489 section 14.2).
    Binary,
    /// The inside address as text. Where the lengths differ, sequence numbers of the session are moved.
    Text,
}

/// A limit of events a second, with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Events a second.
    pub per_second: u32,
    /// Events at once.
    pub burst: u32,
}

/// When things are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// An idle TCP session that was established: RFC 5382 REQ-5 wants 2 h 4 min at least.
    pub established: Duration,
    /// One that is being opened: RFC 5382 REQ-5 wants 4 min at least, Linux has 120 s.
    pub transitory: Duration,
    /// One that is being closed, and after a reset where it [ends the session later](Ends::SessionLater). Under
    /// [`Tracking::Linux`] that of its state CLOSE; the other closing states have 3 to 12 times that, as there.
    pub closing: Duration,
    /// How long an unsolicited SYN waits for one from inside: RFC 5382 REQ-4 wants 6 s.
    pub unsolicited: Duration,
    /// An idle UDP mapping: RFC 4787 REQ-5 wants 2 min at least.
    pub udp: Duration,
    /// An idle ICMP query mapping: RFC 5508 REQ-2 wants 60 s at least.
    pub echo: Duration,
}

impl Timeouts {
    /// The least that RFC 4787, 5382 and 5508 allow.
    pub const RFC: Self = Self {
        established: Duration::from_secs(2 * 3600 + 4 * 60),
        transitory: Duration::from_secs(4 * 60),
        closing: Duration::from_secs(4 * 60),
        unsolicited: Duration::from_secs(6),
        udp: Duration::from_secs(2 * 60),
        echo: Duration::from_secs(60),
    };

    /// Linux' nf_conntrack without settings.
    pub const LINUX: Self = Self {
        established: Duration::from_secs(5 * 24 * 3600),
        transitory: Duration::from_secs(120),
        closing: Duration::from_secs(10),
        unsolicited: Duration::from_secs(6),
        udp: Duration::from_secs(30),
        echo: Duration::from_secs(30),
    };
}

/// What a NAT or firewall does. Start from a [preset](super::presets), then change fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// Whether it translates at all; a firewall does not, and the knobs of mapping and allocation mean nothing there.
    pub translates: bool,
    /// What a mapping depends on.
    pub mapping: Dependence,
    /// From whom packets are let in to a mapping. What is not translated is mapped as it is: a firewall that lets everybody
    /// in is a router that keeps no state.
    pub filtering: Dependence,
    /// How outside ports are chosen.
    pub allocation: Allocation,
    /// The first and last outside port.
    pub ports: (u16, u16),
    /// What unsolicited TCP and UDP from outside is answered with.
    pub refusal: Refusal,
    /// Whether what is invalid to [`Tracking`] is refused like the unsolicited, where it comes from outside; else it is
    /// dropped.
    pub refuses_invalid: bool,
    /// How ICMP errors of its own are limited, a destination; Linux: one a second after a burst of six.
    pub icmp_limit: Option<Rate>,
    /// Whether a bare SYN from outside passes where a SYN from inside has opened the way (RFC 5382 REQ-2, simultaneous
    /// open).
    pub simultaneous_open: bool,
    /// How it follows connections.
    pub tracking: Tracking,
    /// What a reset ends where nothing came from the other side yet.
    pub early_reset: Ends,
    /// What a later reset ends.
    pub reset: Ends,
    /// What a FIN of both sides ends.
    pub fin: Ends,
    /// What an ICMP error about a session ends (RFC 5382 REQ-10: nothing).
    pub icmp: Ends,
    /// Whether it counts the TTL down, and answers where it ends.
    pub counts_ttl: bool,
    /// When things are forgotten.
    pub timeouts: Timeouts,
    /// Whether hosts inside reach each other at outside addresses; pings are answered by the NAT itself.
    pub hairpin: Hairpin,
    /// How it chooses among its outside addresses.
    pub pooling: Pooling,
    /// How many SYNs from outside it takes, the rest is dropped; `None` for all. Counted as OpenWrt counts: those that
    /// belong to no session.
    pub syn_limit: Option<Rate>,
    /// Which payloads it rewrites.
    pub rewriting: Rewriting,
}
