//! An internet in one process: hosts, NATs and links, to test what has to get through them.
//!
//! One model, driven twice. An [`Internet`] is hosts, LANs, gateways with a [`nat::Nat`], links and a core router, as
//! one state machine: packets and a time in, packets out. In virtual time, [`sim`] puts a TCP stack of its own on each
//! host, and anything that implements [`sim::Agent`] on it: thousands of scenarios a second, each the same for the same
//! seed. In real time, [`netns`] makes a network namespace of each host, so that whole programs on the kernel's own TCP
//! stack meet through the same NATs and links; it needs Linux and root.
//!
//! [`kernel`] is the second opinion: the same topologies with the kernel's own NAT (nftables).

mod availability;
mod device;
mod error;
mod hash;
mod internet;
pub mod kernel;
pub mod link;
mod namespace;
pub mod nat;
pub mod netns;
pub mod packet;
pub mod sim;
#[cfg(feature = "testing")]
pub mod testing;

use std::time::Duration;

pub use availability::{Unavailable, availability};
pub use error::Error;
pub use internet::{Attachment, GatewayId, HostId, Internet, Node, Passage, Place, Site};
pub use namespace::leftovers;
pub use packet::Unreachable;

/// A moment: the time since the lab began.
pub type Time = Duration;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
