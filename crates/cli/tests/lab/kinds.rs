//! The kinds of networks that peers are in.

use std::time::Duration;

use natlab::Unreachable;
use natlab::kernel::{Gateway, Host, KernelNat, Lab, Refusal};

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Public,
    FirewallDrop,
    FirewallReset,
    FirewallIcmp,
    PreservingDrop,
    PreservingReset,
    PreservingIcmp,
    FullCone,
    Independent,
    Nested,
    /// As [`PreservingIcmp`](Self::PreservingIcmp) with netfilter's default error, which a dialler can't tell from a reset.
    PreservingIcmpPort,
    /// Connects with few others.
    Symmetric,
}

impl Kind {
    /// Those of which every pair is tried.
    pub(crate) const ALL: [Self; 10] = [
        Self::Public,
        Self::FirewallDrop,
        Self::FirewallReset,
        Self::FirewallIcmp,
        Self::PreservingDrop,
        Self::PreservingReset,
        Self::PreservingIcmp,
        Self::FullCone,
        Self::Independent,
        Self::Nested,
    ];

    /// In names of tests, and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::FirewallDrop => "firewall-drop",
            Self::FirewallReset => "firewall-reset",
            Self::FirewallIcmp => "firewall-icmp",
            Self::PreservingDrop => "preserving-drop",
            Self::PreservingReset => "preserving-reset",
            Self::PreservingIcmp => "preserving-icmp",
            Self::FullCone => "full-cone",
            Self::Independent => "independent",
            Self::Nested => "nat-behind-nat",
            Self::PreservingIcmpPort => "preserving-icmp-port",
            Self::Symmetric => "symmetric",
        }
    }

    /// Whether it answers a SYN that nobody inside asked for.
    pub(crate) fn refuses(self) -> bool {
        matches!(
            self,
            Self::FirewallReset
                | Self::FirewallIcmp
                | Self::PreservingReset
                | Self::PreservingIcmp
                | Self::PreservingIcmpPort
        )
    }

    /// Both of the kernel's sorts of ICMP errors are there: the firewall's as firewalld sends it, the NAT's as old
    /// scripts do; a dialler sees EHOSTUNREACH and ECONNREFUSED.
    pub(crate) fn nat(self) -> Option<KernelNat> {
        match self {
            Self::Public => None,
            Self::FirewallDrop => Some(KernelNat::firewall()),
            Self::FirewallReset => Some(KernelNat::firewall().refusing(Refusal::Reset)),
            Self::FirewallIcmp => {
                Some(KernelNat::firewall().refusing(Refusal::Icmp(Unreachable::Prohibited)))
            }
            Self::PreservingDrop | Self::Nested => Some(KernelNat::masquerade()),
            Self::PreservingReset => Some(KernelNat::openwrt()),
            Self::PreservingIcmp => Some(KernelNat::masquerade().refusing(Refusal::Icmp(Unreachable::Host))),
            Self::PreservingIcmpPort => {
                Some(KernelNat::masquerade().refusing(Refusal::Icmp(Unreachable::Port)))
            }
            Self::FullCone => Some(KernelNat::full_cone()),
            Self::Independent => Some(KernelNat::remapping()),
            Self::Symmetric => Some(KernelNat::symmetric()),
        }
    }

    /// A host in a network of this kind, so far from the core.
    pub(crate) fn site(self, lab: &Lab, name: &str, delay: Duration) -> Host {
        let Some(nat) = self.nat() else {
            // IPv4 only, as the others: else two public hosts would race both families.
            return lab.public_host(name).without_ipv6().delay(delay).start().unwrap();
        };
        let gateway = if self == Self::Nested {
            let carrier = carrier(lab, &format!("{name}-carrier"), delay);
            carrier.gateway(&format!("{name}-home"), nat).start().unwrap()
        } else {
            lab.gateway(&format!("{name}-home"), nat).delay(delay).start().unwrap()
        };
        gateway.host(name).unwrap()
    }
}

/// A carrier's NAT as RFC 6888 asks for: endpoint-independent, on 100.64.0.0/16.
fn carrier(lab: &Lab, name: &str, delay: Duration) -> Gateway {
    lab.gateway(name, KernelNat::remapping()).lan([100, 64, 0, 0].into(), 16).delay(delay).start().unwrap()
}
