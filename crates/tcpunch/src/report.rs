//! What is known of the own network, for who asks why something does not connect.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use tcpunch_core::plan::Path;
use tcpunch_core::profile::NatProfile;

use crate::gather;
use crate::memory::Memory;

/// An address of this machine that others could reach, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name in the system.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Length of the prefix of the network that it is in.
    pub prefix: u8,
}

/// A link to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The broker's end.
    pub broker: SocketAddr,
    /// The own end.
    pub local: SocketAddr,
    /// The own address as the broker sees it; `None`: it did not say, or what it said can't be.
    pub observed: Option<SocketAddr>,
}

/// Where a profile comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was measured, now or before.
    Nothing,
    /// Measured in this network so long ago, by an earlier run or before the machine moved.
    Remembered(Duration),
    /// Measured now.
    Measured,
}

/// What is known of the own network.
#[derive(Clone, Debug)]
pub struct Report {
    /// Addresses of interfaces that have a carrier, loopback and link-local left out.
    pub interfaces: Vec<Interface>,
    /// Routers of the default routes, as far as the system tells.
    pub routers: Vec<IpAddr>,
    /// Links to the broker, at most one a family; none where none stands.
    pub links: Vec<Registered>,
    /// How the NAT or firewall behaves.
    pub profile: NatProfile,
    /// Where that comes from.
    pub origin: Origin,
    /// How the last connection through this network ran.
    pub worked: Option<Path>,
    /// Connections through this network that stood, and attempts that found no path, within the time of memory.
    pub tried: (u32, u32),
}

impl Report {
    /// What can be told without asking anybody.
    pub(crate) fn of_memory(memory: &Memory) -> Self {
        let known = memory.known();
        let age = |learnt: SystemTime| SystemTime::now().duration_since(learnt).unwrap_or_default();
        Report {
            interfaces: gather::told(),
            routers: gather::gateways(),
            links: Vec::new(),
            profile: known.map(|known| known.profile).unwrap_or_default(),
            origin: known.map_or(Origin::Nothing, |known| Origin::Remembered(age(known.learnt))),
            worked: known.and_then(|known| known.worked),
            tried: known.map_or((0, 0), |known| (known.connected, known.failed)),
        }
    }
}
