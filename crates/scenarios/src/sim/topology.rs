//! From a scenario to an internet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use natlab::link::Conditions;
use natlab::nat::{Pooling, presets};
use natlab::{Attachment, GatewayId, HostId, Internet, Node, Place, Site};
use tcpunch_core::limits::BROKER_PORT;

use crate::{Arrangement, Network, Scenario};

/// Outside addresses of a NAT that chooses [any](Pooling::Arbitrary) of them.
pub(crate) const POOL: u8 = 4;

/// A scenario's internet, and who is where on it.
pub(crate) struct Topology {
    pub(crate) internet: Internet,
    pub(crate) broker: HostId,
    pub(crate) peers: [HostId; 2],
    /// Where each peer reaches the broker, IPv6 first.
    pub(crate) brokers: [Vec<SocketAddr>; 2],
    /// Whether each peer has IPv6.
    pub(crate) v6: [bool; 2],
    /// What the broker is told of its own public address, where it can't know it.
    pub(crate) public: Option<IpAddr>,
    /// The gateways of each peer, from the outermost on.
    pub(crate) gateways: [Vec<GatewayId>; 2],
}

impl Topology {
    /// Has every gateway of a peer forward the port to it, and returns where the port is then; nothing where no NAT is in the
    /// way.
    pub(crate) fn forward(&mut self, scenario: &Scenario, side: usize, port: u16) -> Option<SocketAddr> {
        let (gateways, peer) = (self.gateways.get(side)?, *self.peers.get(side)?);
        let layers = match scenario.arrangement {
            Arrangement::Together => &scenario.sides.first()?.network.layers,
            Arrangement::Apart | Arrangement::BrokerInside => &scenario.sides.get(side)?.network.layers,
        };
        let (outermost, _) = gateways.iter().zip(layers).find(|(_, it)| it.translates)?;
        let outside = self.internet.outside(*outermost).iter().copied().find(IpAddr::is_ipv4)?;
        for gateway in gateways {
            self.internet.forward_port(*gateway, port, peer);
        }
        Some(SocketAddr::new(outside, port))
    }
}

/// Plugs in a network; where its hosts belong, its gateways from the outermost on, and whether it has IPv6.
fn network(
    internet: &mut Internet,
    network: &Network,
    number: u8,
    cable: Attachment,
) -> (Place, Vec<GatewayId>) {
    let mut place = Place::Core;
    let mut gateways = Vec::new();
    let mut translated = false;
    let innermost = network.layers.len().saturating_sub(1);
    for (depth, behaviour) in network.layers.iter().enumerate() {
        translated |= behaviour.translates;
        let mut site = Site::ipv4(behaviour.clone());
        if behaviour.pooling == Pooling::Arbitrary {
            site = site.outside_addresses(POOL);
        }
        // A carrier's shared space between its NAT and the customers'; behind a firewall alone the LAN is public.
        if translated && (depth < innermost || !behaviour.translates) {
            let third = number * 16 + u8::try_from(depth).unwrap_or(15);
            site = site.lan(Ipv4Addr::new(100, 64, third, 0), 24);
        }
        if let Some(firewall) = &network.ipv6 {
            site = site.and_ipv6(if depth == innermost { firewall.clone() } else { presets::router() });
        }
        let attachment = if depth == 0 { cable } else { Conditions::PERFECT.into() };
        let gateway = internet.gateway(place, site, attachment);
        internet.name(Node::Gateway(gateway), &format!("NAT {number}.{}", depth + 1));
        gateways.push(gateway);
        place = Place::Behind(gateway);
    }
    (place, gateways)
}

/// Builds it.
pub(crate) fn build(scenario: &Scenario) -> Topology {
    let mut internet = Internet::new(scenario.seed);
    let [first, second] = &scenario.sides;
    let (first_place, first_gateways) = network(&mut internet, &first.network, 1, first.cable);
    // A public host has its network's cable itself.
    let host = |internet: &mut Internet, place: Place, cable: Attachment| match place {
        Place::Core => internet.host(place, cable),
        Place::Behind(_) => internet.host(place, Conditions::PERFECT),
    };
    let one = host(&mut internet, first_place, first.cable);
    let (second_network, second_gateways, other) = match scenario.arrangement {
        Arrangement::Together => {
            (&first.network, first_gateways.clone(), host(&mut internet, first_place, first.cable))
        }
        Arrangement::Apart | Arrangement::BrokerInside => {
            let (place, gateways) = network(&mut internet, &second.network, 2, second.cable);
            (&second.network, gateways, host(&mut internet, place, second.cable))
        }
    };
    let inside = scenario.arrangement == Arrangement::BrokerInside;
    let broker = if inside {
        host(&mut internet, first_place, first.cable)
    } else {
        internet.host(Place::Core, scenario.broker)
    };
    for (host, name) in [(one, "waiter"), (other, "arriver"), (broker, "broker")] {
        internet.name(Node::Host(host), name);
    }
    let own: Vec<IpAddr> = internet.addresses(broker).iter().map(|(ip, _)| *ip).collect();
    let mut outside = own.clone();
    let mut public = None;
    if inside && !first_gateways.is_empty() {
        for gateway in &first_gateways {
            internet.forward_port(*gateway, BROKER_PORT, broker);
        }
        // As seen from outside: at the outermost NAT.
        let translating = first_gateways.iter().zip(&first.network.layers).find(|(_, it)| it.translates);
        let own = || own.iter().copied().find(IpAddr::is_ipv4);
        public = match translating {
            Some((gateway, _)) => internet.outside(*gateway).iter().copied().find(IpAddr::is_ipv4),
            None => own(),
        };
        outside.retain(IpAddr::is_ipv6);
        outside.extend(public);
    }
    let addresses = |mut ips: Vec<IpAddr>| {
        ips.sort_by_key(IpAddr::is_ipv4);
        ips.into_iter().map(|ip| SocketAddr::new(ip, BROKER_PORT)).collect()
    };
    let v6 = [first.network.ipv6.is_some(), second_network.ipv6.is_some()];
    let brokers = [addresses(own), addresses(outside)];
    let gateways = [first_gateways, second_gateways];
    Topology { internet, broker, peers: [one, other], brokers, v6, public, gateways }
}
