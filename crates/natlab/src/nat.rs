//! NATs and firewalls as a state machine: packets and a time in, packets out.

mod behaviour;
pub mod presets;

use std::net::IpAddr;

pub use behaviour::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Refusal, Rewriting, Timeouts,
    Tracking,
};

use crate::Time;
use crate::packet::Packet;

/// On which side of a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The hosts that it serves.
    Inside,
    /// The rest of the world.
    Outside,
}

/// A NAT or firewall for one family of addresses.
#[derive(Debug, Clone)]
pub struct Nat {
    behaviour: Behaviour,
}

impl Nat {
    /// A NAT that has seen nothing yet.
    ///
    /// `outside` are its outside addresses, one at least; a firewall's is the address that it answers from. `inside` is its
    /// own address inside. What is random comes from `seed`.
    pub fn new(behaviour: Behaviour, inside: IpAddr, outside: Vec<IpAddr>, seed: u64) -> Self {
        let _ = (inside, outside, seed);
        Self { behaviour }
    }

    /// What it does.
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Takes a packet that came to it from one side: from inside whatever is not for a neighbour, from outside whatever is
    /// routed to it. What becomes of it is in [`poll`](Self::poll).
    pub fn handle(&mut self, now: Time, from: Side, packet: Packet) {
        let _ = (now, from, packet);
        todo!()
    }

    /// The next packet that it sends, and to which side.
    pub fn poll(&mut self) -> Option<(Side, Packet)> {
        todo!()
    }

    /// When [`wake`](Self::wake) is to be called next, if nothing comes before. Forgetting needs no call.
    pub fn next(&self) -> Option<Time> {
        todo!()
    }

    /// Does what is due by now: errors that were to be sent later.
    pub fn wake(&mut self, now: Time) {
        let _ = now;
        todo!()
    }

    /// Opens an outside TCP port to one inside address and port, for everybody and for ever, as a user does by hand. A
    /// firewall opens that port of the inside address.
    pub fn forward(&mut self, outside_port: u16, inside: std::net::SocketAddr) {
        let _ = (outside_port, inside);
        todo!()
    }

    /// Forgets every mapping and session, as a restart does.
    pub fn forget(&mut self) {
        todo!()
    }
}
