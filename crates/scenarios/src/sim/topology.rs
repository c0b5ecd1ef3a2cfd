//! From a scenario to an internet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use natlab::link::Conditions;
use natlab::nat::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Refusal, Rewriting, Timeouts, Tracking,
};
use natlab::{GatewayId, HostId, Internet, Place, Site};
use tcpunch_core::limits::{BROKER_PORT, PROBE_PORT};

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
}

/// What lets everything pass.
pub(crate) fn open() -> Behaviour {
    Behaviour {
        translates: false,
        mapping: Dependence::Endpoint,
        filtering: Dependence::Endpoint,
        allocation: Allocation::Preserving(Clash::Random),
        ports: (1024, 65535),
        refusal: Refusal::Drop,
        refuses_invalid: false,
        icmp_limit: None,
        simultaneous_open: true,
        tracking: Tracking::Flags,
        early_reset: Ends::Nothing,
        reset: Ends::Nothing,
        fin: Ends::Nothing,
        icmp: Ends::Nothing,
        counts_ttl: true,
        timeouts: Timeouts::RFC,
        hairpin: Hairpin::No,
        pooling: Pooling::Paired,
        syn_limit: None,
        rewriting: Rewriting::None,
    }
}

/// Plugs in a network; where its hosts belong, its gateways from the outermost on, and whether it has IPv6.
fn network(
    internet: &mut Internet,
    network: &Network,
    number: u8,
    cable: natlab::Attachment,
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
            site = site.and_ipv6(if depth == innermost { firewall.clone() } else { open() });
        }
        let attachment = if depth == 0 { cable } else { Conditions::PERFECT.into() };
        let gateway = internet.gateway(place, site, attachment);
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
    let cable = |place: Place, cable: natlab::Attachment| match place {
        Place::Core => cable,
        Place::Behind(_) => Conditions::PERFECT.into(),
    };
    let one = internet.host(first_place, cable(first_place, first.cable));
    let (second_network, second_place) = match scenario.arrangement {
        Arrangement::Together => (&first.network, first_place),
        Arrangement::Apart | Arrangement::BrokerInside => {
            (&second.network, network(&mut internet, &second.network, 2, second.cable).0)
        }
    };
    let other = internet.host(second_place, cable(second_place, second.cable));
    let inside = scenario.arrangement == Arrangement::BrokerInside;
    let broker_place = if inside { first_place } else { Place::Core };
    let broker = internet.host(broker_place, cable(broker_place, scenario.broker));
    let own: Vec<IpAddr> = internet.addresses(broker).iter().map(|(ip, _)| *ip).collect();
    let mut outside = own.clone();
    if inside {
        for port in [BROKER_PORT, PROBE_PORT] {
            if let Some(outermost) = first_gateways.first() {
                internet.forward_port(*outermost, port, broker);
            }
        }
        // As seen from outside: at the outermost NAT.
        let translating = first_gateways.iter().zip(&first.network.layers).find(|(_, it)| it.translates);
        if let Some((gateway, _)) = translating {
            let seen = internet.outside(*gateway).iter().copied().find(IpAddr::is_ipv4);
            outside.retain(IpAddr::is_ipv6);
            outside.extend(seen);
        }
    }
    let addresses = |mut ips: Vec<IpAddr>| {
        ips.sort_by_key(IpAddr::is_ipv4);
        ips.into_iter().map(|ip| SocketAddr::new(ip, BROKER_PORT)).collect()
    };
    let v6 = [first.network.ipv6.is_some(), second_network.ipv6.is_some()];
    let brokers = [addresses(own), addresses(outside)];
    Topology { internet, broker, peers: [one, other], brokers, v6 }
}
