//! One point of the parameters, as the draw asks for it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A choice: each kind with its share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(bound(deserialize = "K: Ord + Deserialize<'de>"))]
pub struct Mix<K: Ord>(BTreeMap<K, f64>);

impl<K: Ord + Copy> Mix<K> {
    /// The kind at this place between 0 and 1; `fallback` of an empty mix.
    pub(super) fn at(&self, place: f64, fallback: K) -> K {
        let mut sum = 0.0;
        for (kind, share) in &self.0 {
            sum += share;
            if place < sum {
                return *kind;
            }
        }
        self.0.iter().rev().find(|(_, share)| **share > 0.0).map_or(fallback, |(kind, _)| *kind)
    }

    /// How often a kind is.
    pub fn share(&self, kind: K) -> f64 {
        self.0.get(&kind).copied().unwrap_or(0.0)
    }
}

/// What a side sits behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nothing.
    Public,
    /// A stateful firewall, no NAT.
    Firewalled,
    /// A router at home.
    Home,
    /// The same, behind a carrier's NAT.
    HomeBehindCarrier,
    /// A cellular network's NAT.
    Cellular,
    /// A company's gateway.
    Company,
}

/// Which port outside stands for one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The same.
    Preserving,
    /// Another, the same for all who are dialled.
    Remapping,
    /// The same; who uses it last owns it.
    Overloading,
    /// Any, the same for all who are dialled.
    Independent,
    /// Another for each who is dialled, of the customer's block.
    Block,
    /// The next one for each who is dialled.
    Stepping,
    /// Any for each who is dialled.
    Random,
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Everybody.
    Endpoint,
    /// Addresses that were dialled.
    Address,
    /// Addresses and ports that were dialled.
    AddressAndPort,
}

/// What answers the unsolicited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusing {
    /// Nothing does.
    Drop,
    /// A reset.
    Reset,
    /// An ICMP error.
    Icmp,
    /// The same after six seconds.
    IcmpLater,
}

/// What stands before IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ipv6 {
    /// Nothing.
    Open,
    /// A firewall that drops.
    Drop,
    /// One that resets.
    Reset,
    /// One that answers by ICMP.
    Icmp,
    /// The same after six seconds.
    IcmpLater,
}

/// Ports of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// 64.
    B64,
    /// 512.
    B512,
    /// 1,024.
    B1024,
    /// 2,048.
    B2048,
}

/// A kind of NAT.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    pub(super) mapping: Mix<Mapping>,
    pub(super) filtering: Mix<Filtering>,
    pub(super) refusal: Mix<Refusing>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Firewall {
    pub(super) refusal: Mix<Refusing>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ipv6Mixes {
    pub(super) fixed: Mix<Ipv6>,
    pub(super) cellular: Mix<Ipv6>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mixes {
    pub(super) access: Mix<Access>,
    pub(super) block: Mix<Block>,
    pub(super) home: Nat,
    pub(super) carrier: Nat,
    pub(super) cellular: Nat,
    pub(super) company: Nat,
    pub(super) firewalled: Firewall,
    pub(super) ipv6: Ipv6Mixes,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HomeShares {
    pub(super) double: f64,
    pub(super) linux: f64,
    pub(super) no_simultaneous_open: f64,
    pub(super) reset_ends_mapping: f64,
    pub(super) port_mapping: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CarrierShares {
    pub(super) no_simultaneous_open: f64,
    pub(super) arbitrary_pooling: f64,
    pub(super) port_mapping: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CellularShares {
    pub(super) no_simultaneous_open: f64,
    pub(super) arbitrary_pooling: f64,
    pub(super) tethered: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StrictShare {
    pub(super) no_simultaneous_open: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ipv6Shares {
    pub(super) public: f64,
    pub(super) firewalled: f64,
    pub(super) home: f64,
    pub(super) home_behind_carrier: f64,
    pub(super) cellular: f64,
    pub(super) company: f64,
    pub(super) no_simultaneous_open: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PairShares {
    pub(super) same_network: f64,
    pub(super) broker_inside: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shares {
    pub(super) home: HomeShares,
    pub(super) carrier: CarrierShares,
    pub(super) cellular: CellularShares,
    pub(super) company: StrictShare,
    pub(super) firewalled: StrictShare,
    pub(super) ipv6: Ipv6Shares,
    pub(super) pair: PairShares,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cable {
    pub(super) delay_most_ms: f64,
    pub(super) loss_mean: f64,
    pub(super) jitter_most_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrokerCable {
    pub(super) delay_most_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lateness {
    pub(super) late_most_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Amounts {
    pub(super) fixed: Cable,
    pub(super) cellular: Cable,
    pub(super) broker: BrokerCable,
    pub(super) pair: Lateness,
}

/// All numbers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    pub(super) mix: Mixes,
    pub(super) share: Shares,
    pub(super) amount: Amounts,
}

impl Numbers {
    /// How often sides are behind what.
    pub fn access(&self) -> &Mix<Access> {
        &self.mix.access
    }
}
