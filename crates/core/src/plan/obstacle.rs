//! Why two did not connect, and what would help.

use std::fmt;

use crate::candidate::{Candidate, Kind};
use crate::profile::NatProfile;
use crate::puncher::Finished;

/// Why two peers did not connect, in words for both users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is known of this side's network.
    pub own: NatProfile,
    /// What is known of the peer's.
    pub peer: NatProfile,
    /// What was tried.
    pub tried: Finished,
    /// Whether the peer sits beside the broker and nobody knows its address from outside.
    pub beside_broker: bool,
}

impl Obstacle {
    /// Whose network is in the way, and what it does.
    pub fn reason(&self) -> String {
        let both = self.own.is_symmetric() && self.peer.is_symmetric();
        let impostors: u32 = self.tried.lanes.iter().map(|lane| lane.impostors).sum();
        let refused: u32 = self.tried.lanes.iter().map(|lane| lane.refused).sum();
        if both {
            "both networks are symmetric NATs: each opens another port for every destination".to_owned()
        } else if self.own.is_symmetric() {
            "your network is a symmetric NAT: it opens another port for every destination, so the \
             other side can't know where to knock"
                .to_owned()
        } else if self.peer.is_symmetric() {
            "the other side's network is a symmetric NAT: it opens another port for every \
             destination, so you can't know where to knock"
                .to_owned()
        } else if self.beside_broker {
            "the other side runs beside the broker, and nobody said under which public address it \
             can be reached"
                .to_owned()
        } else if self.tried.lanes.is_empty() {
            "the two have no address family in common, or none that may be dialled".to_owned()
        } else if self.tried.lanes.iter().all(|lane| lane.no_route) {
            "this machine has no route to any address of the other side".to_owned()
        } else if impostors > 0 {
            "something answered at the other side's address that is not the other side".to_owned()
        } else if refused > 0 {
            "every attempt was reset: a firewall on one of the two sides refuses".to_owned()
        } else {
            "no answer came: a firewall drops what comes in, on one of the two sides, even after \
             that side has knocked itself"
                .to_owned()
        }
    }

    /// What would help.
    pub fn remedy(&self) -> &'static str {
        if self.own.is_symmetric() || self.peer.is_symmetric() {
            "use another network on the symmetric side (a home line instead of a mobile one), IPv6 \
             on both sides, or forward a port there and start with --bind PORT"
        } else if self.beside_broker {
            "start the broker with --public HOST, the address under which its network is reached"
        } else {
            "forward a port on either side and start there with --bind PORT, or use IPv6 on both"
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no direct path: {}", self.reason())?;
        writeln!(f, "  this side   {}", self.own)?;
        writeln!(f, "  other side  {}", self.peer)?;
        for lane in &self.tried.lanes {
            let Candidate { address, kind } = lane.candidate;
            let kind = match kind {
                Kind::Host => "its own address",
                Kind::Reflexive => "as the broker saw it",
                Kind::Predicted => "beside the broker",
                Kind::Mapped => "a port that its router forwards",
            };
            write!(f, "  tried       {address} ({kind}): ")?;
            if lane.no_route {
                writeln!(f, "no route")?;
                continue;
            }
            write!(f, "{} SYN{}", lane.syns, if lane.syns == 1 { "" } else { "s" })?;
            for (count, what) in [
                (lane.refused, "reset"),
                (lane.unreachable, "answered by ICMP"),
                (lane.impostors, "answered by something else"),
            ] {
                if count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
            writeln!(
                f,
                "{}",
                if lane.refused + lane.unreachable + lane.impostors == 0 { ", no answer" } else { "" }
            )?;
        }
        write!(f, "  remedy      {}", self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Behaviour;

    #[test]
    fn a_failure_names_whose_network_it_is() {
        let symmetric = NatProfile {
            translated: Some(true),
            mapping: Behaviour::AddressAndPortDependent,
            ..NatProfile::default()
        };
        let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..symmetric };
        let tried = Finished { winner: None, syns: 0, lanes: vec![], volleys: vec![], rounds: 1 };
        let obstacle = |own, peer| Obstacle { own, peer, tried: tried.clone(), beside_broker: false };
        assert!(obstacle(symmetric, plain).reason().starts_with("your network"));
        assert!(obstacle(plain, symmetric).reason().starts_with("the other side's network"));
        assert!(obstacle(symmetric, symmetric).reason().starts_with("both networks"));
        assert!(obstacle(plain, plain).to_string().contains("remedy"));
    }
}
