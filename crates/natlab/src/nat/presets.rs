//! Behaviours named after what was observed, with the source.
//!
//! "Measured" is: in the lab of [`kernel`](crate::kernel), on Linux 6.18. Each kind of
//! [`KernelNat`](crate::kernel::KernelNat) has its twin here.

use super::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Refusal, Rewriting, Timeouts,
    Tracking,
};
use crate::Unreachable;

/// All that a port may be.
const ALL_PORTS: (u16, u16) = (1, 65535);
/// Ports that are no well-known ones.
const PORTS: (u16, u16) = (1024, 65535);

/// Linux as a home router, or as a box with the usual script: nftables `masquerade`, dropping what is unsolicited
/// (measured). Twin of [`KernelNat::masquerade`](crate::kernel::KernelNat::masquerade).
///
/// Mappings are for one remote endpoint each, but the port is kept unless another inside host uses it toward the same one:
/// from outside it looks endpoint-independent.
pub fn linux_masquerade() -> Behaviour {
    Behaviour {
        translates: true,
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Preserving(Clash::Random),
        ports: ALL_PORTS,
        refusal: Refusal::Drop,
        refuses_invalid: false,
        // icmp_ratelimit, and the burst of the kernel's inet_peer_xrlim_allow.
        icmp_limit: Some(Rate { per_second: 1, burst: 6 }),
        simultaneous_open: true,
        tracking: Tracking::Linux,
        early_reset: Ends::Session,
        reset: Ends::SessionLater,
        fin: Ends::SessionLater,
        icmp: Ends::Nothing,
        counts_ttl: true,
        timeouts: Timeouts::LINUX,
        hairpin: Hairpin::No,
        pooling: Pooling::Paired,
        syn_limit: None,
        rewriting: Rewriting::None,
    }
}

/// OpenWrt as installed (firewall4): a masquerade that resets the unsolicited and the invalid, and takes no more than 25 of
/// their SYNs a second after 50 (its nftables rules; measured). Twin of
/// [`KernelNat::openwrt`](crate::kernel::KernelNat::openwrt).
pub fn openwrt() -> Behaviour {
    Behaviour {
        refusal: Refusal::Reset,
        refuses_invalid: true,
        syn_limit: Some(Rate { per_second: 25, burst: 50 }),
        ..linux_masquerade()
    }
}

/// A Linux masquerade that rejects the unsolicited by ICMP, as `reject` does without further words with port unreachable
/// (measured with host and port unreachable).
pub fn icmp_rejecting(unreachable: Unreachable) -> Behaviour {
    Behaviour { refusal: Refusal::Icmp(unreachable), ..linux_masquerade() }
}

/// `masquerade random,fully-random`: symmetric, any port for each remote endpoint (measured; pfSense and many firewalls of
/// companies and mobile networks behave so). Twin of [`KernelNat::symmetric`](crate::kernel::KernelNat::symmetric).
pub fn linux_random() -> Behaviour {
    Behaviour { allocation: Allocation::Random, ports: PORTS, ..linux_masquerade() }
}

/// Linux with a full-cone module, game modes of home routers: who knows the outside endpoint comes in (RFC 3489 section
/// 5). Twin of [`KernelNat::full_cone`](crate::kernel::KernelNat::full_cone).
pub fn full_cone() -> Behaviour {
    Behaviour { mapping: Dependence::Endpoint, filtering: Dependence::Endpoint, ..linux_masquerade() }
}

/// A NAT that changes every port, the same for all destinations, and filters by connection. Twin of
/// [`KernelNat::remapping`](crate::kernel::KernelNat::remapping), seen from outside.
pub fn remapping() -> Behaviour {
    Behaviour {
        mapping: Dependence::Endpoint,
        allocation: Allocation::Random,
        ports: PORTS,
        ..linux_masquerade()
    }
}

/// A carrier's NAT that obeys RFC 6888 (REQ-1: RFC 4787 and 5382; REQ-2: paired addresses) in mapping, and is strict in
/// filtering.
pub fn carrier_eim() -> Behaviour {
    Behaviour {
        mapping: Dependence::Endpoint,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Random,
        ports: PORTS,
        refusal: Refusal::Drop,
        hairpin: Hairpin::OutsideSource,
        ..rfc_compliant()
    }
}

/// A carrier's NAT that gives each subscriber a block of so many ports (512, 1,000, 1,024 and 2,048 are common), and
/// of these a new one for each remote endpoint.
pub fn carrier_block(size: u16) -> Behaviour {
    Behaviour {
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Block(size),
        hairpin: Hairpin::No,
        ..carrier_eim()
    }
}

/// What RFC 4787, 5382 and 7857 demand and recommend: endpoint-independent mapping and filtering, ports kept, silence for
/// six seconds, hairpin, the least time-outs.
pub fn rfc_compliant() -> Behaviour {
    Behaviour {
        translates: true,
        mapping: Dependence::Endpoint,
        filtering: Dependence::Endpoint,
        allocation: Allocation::Preserving(Clash::Random),
        ports: ALL_PORTS,
        refusal: Refusal::IcmpLater(Unreachable::Port),
        refuses_invalid: false,
        icmp_limit: Some(Rate { per_second: 1, burst: 6 }),
        simultaneous_open: true,
        tracking: Tracking::Flags,
        early_reset: Ends::SessionLater,
        reset: Ends::SessionLater,
        fin: Ends::SessionLater,
        icmp: Ends::Nothing,
        counts_ttl: true,
        timeouts: Timeouts::RFC,
        hairpin: Hairpin::OutsideSource,
        pooling: Pooling::Paired,
        syn_limit: None,
        rewriting: Rewriting::None,
    }
}

/// A symmetric NAT (RFC 3489 section 5) with random ports that follows flags alone.
pub fn symmetric_random() -> Behaviour {
    Behaviour {
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Random,
        ports: PORTS,
        refusal: Refusal::Drop,
        hairpin: Hairpin::No,
        ..rfc_compliant()
    }
}

/// A symmetric NAT whose ports can be predicted: each new mapping gets the port so many above the last one's ("Symmetric
/// NAT and its port prediction", draft-takeda-symmetric-nat-traversal-00; deltas of 1 and 2 are the most common).
pub fn symmetric_stepping(step: u16) -> Behaviour {
    Behaviour { allocation: Allocation::Stepping(step), ..symmetric_random() }
}

/// A stateful firewall before addresses that are not translated, silent: a university's, a company's, a cloud's security
/// group (measured with nftables). Twin of [`KernelNat::firewall`](crate::kernel::KernelNat::firewall).
pub fn firewall() -> Behaviour {
    Behaviour { translates: false, ..linux_masquerade() }
}

/// A router that passes everything and keeps no state: the carrier's side of most IPv6 networks.
pub fn router() -> Behaviour {
    Behaviour { filtering: Dependence::Endpoint, ..firewall() }
}

/// A NAT that drops a bare SYN from outside though the way is open, against RFC 5382 REQ-2. Twin of
/// [`KernelNat::simultaneous_open(false)`](crate::kernel::KernelNat::simultaneous_open).
pub fn no_simultaneous_open() -> Behaviour {
    Behaviour { simultaneous_open: false, ..linux_masquerade() }
}

/// A home router that keeps the port whoever had it: the last inside host that uses it owns it (RFC 4787 section 4.2.1,
/// "port overloading", which its REQ-3 forbids).
pub fn home_overloading() -> Behaviour {
    Behaviour {
        mapping: Dependence::Endpoint,
        filtering: Dependence::AddressAndPort,
        allocation: Allocation::Preserving(Clash::Overload),
        refusal: Refusal::Drop,
        hairpin: Hairpin::No,
        ..rfc_compliant()
    }
}
