//! The networks that the rows pair: each family is all that a row's words allow.

use natlab::Unreachable;
use natlab::nat::{Behaviour, Dependence, Refusal, presets};

use crate::Network;

/// A refusal that is ICMP, though not one that RFC 5382 REQ-4 asks for: it comes at once.
const ICMP: Refusal = Refusal::Icmp(Unreachable::Host);
/// What a network answers to a SYN that nobody asked for, with its word.
const REFUSALS: [(&str, Refusal); 3] = [("drop", Refusal::Drop), ("reset", Refusal::Reset), ("icmp", ICMP)];

pub(super) fn network(name: impl Into<String>, layers: Vec<Behaviour>) -> Network {
    Network { name: name.into(), layers, ipv6: None }
}

fn refusing(behaviour: Behaviour, refusal: Refusal) -> Behaviour {
    Behaviour { refusal, ..behaviour }
}

/// Public hosts, and NATs that let everybody in where a port is open.
pub(super) fn open() -> Vec<Network> {
    let open = |behaviour: Behaviour| Behaviour { filtering: Dependence::Endpoint, ..behaviour };
    vec![
        network("public", vec![]),
        network("full-cone", vec![presets::full_cone()]),
        network("rfc-compliant", vec![presets::rfc_compliant()]),
        network("open-remapping", vec![open(presets::remapping())]),
        // Mapping by destination: nobody knows where its SYNs come from, and everybody comes in where the broker saw it.
        network("open-symmetric", vec![open(presets::symmetric_random())]),
    ]
}

/// One port for all destinations, filtered by address and port or by address: every refusal with every allocation, alone and
/// behind a carrier's NAT that refuses alike; firewalls; filters by address.
pub(super) fn independent() -> Vec<Network> {
    let openwrt = presets::openwrt();
    let mut networks = Vec::new();
    for (word, refusal) in REFUSALS {
        let preserving = match refusal {
            Refusal::Reset => openwrt.clone(),
            Refusal::Drop | Refusal::Icmp(_) | Refusal::IcmpLater(_) => {
                refusing(presets::linux_masquerade(), refusal)
            }
        };
        let random = refusing(presets::remapping(), refusal);
        let overloading = refusing(presets::home_overloading(), refusal);
        for (allocation, behaviour) in
            [("preserving", preserving.clone()), ("random", random), ("overloading", overloading)]
        {
            let carrier = Behaviour { refusal, allocation: behaviour.allocation, ..presets::carrier_eim() };
            networks.push(network(format!("{allocation}-{word}"), vec![behaviour]));
            let behind = vec![carrier, preserving.clone()];
            networks.push(network(format!("carrier-{allocation}-{word}"), behind));
        }
        networks.push(network(format!("firewall-{word}"), vec![refusing(presets::firewall(), refusal)]));
        let by_address = Behaviour { filtering: Dependence::Address, ..presets::remapping() };
        networks.push(network(format!("by-address-{word}"), vec![refusing(by_address, refusal)]));
    }
    let later = refusing(presets::carrier_eim(), Refusal::IcmpLater(Unreachable::Port));
    networks.push(network("carrier-icmp-later", vec![later]));
    networks
}

/// A bare SYN from outside does not pass, whatever went out before.
pub(super) fn no_simultaneous_open() -> Vec<Network> {
    let plain = presets::no_simultaneous_open();
    REFUSALS
        .map(|(word, refusal)| network(format!("no-open-{word}"), vec![refusing(plain.clone(), refusal)]))
        .into()
}

fn symmetric(name: &str, behaviour: &Behaviour) -> Vec<Network> {
    let mut networks: Vec<Network> = REFUSALS
        .map(|(word, refusal)| network(format!("{name}-{word}"), vec![refusing(behaviour.clone(), refusal)]))
        .into();
    let behind = vec![behaviour.clone(), presets::linux_masquerade()];
    networks.push(network(format!("home-behind-{name}"), behind));
    networks
}

/// Another port for each destination: so many above the last one's.
pub(super) fn stepping() -> Vec<Network> {
    [1, 2]
        .into_iter()
        .flat_map(|step| symmetric(&format!("stepping-{step}"), &presets::symmetric_stepping(step)))
        .collect()
}

/// Another port for each destination, out of a block.
pub(super) fn block(size: u16) -> Vec<Network> {
    symmetric(&format!("block-{size}"), &presets::carrier_block(size))
}

/// Any port for each destination.
pub(super) fn random() -> Vec<Network> {
    let mut networks = symmetric("symmetric", &presets::symmetric_random());
    networks.push(network("symmetric-linux", vec![presets::linux_random()]));
    networks
}

/// Nothing of use over IPv4, and over IPv6 each kind of firewall.
pub(super) fn ipv6() -> Vec<Network> {
    let firewall = presets::firewall();
    let flags = Behaviour { translates: false, ..presets::carrier_eim() };
    let prohibited = Refusal::Icmp(Unreachable::Prohibited);
    let kinds = [
        ("drop", firewall.clone()),
        ("reset", refusing(firewall.clone(), Refusal::Reset)),
        ("icmp", refusing(firewall, prohibited)),
        // RFC 6092 REC-32: an error after six seconds, if nothing went out before.
        ("icmp-later", refusing(flags.clone(), Refusal::IcmpLater(Unreachable::Prohibited))),
        ("flags", flags),
    ];
    kinds
        .map(|(word, firewall)| Network {
            name: format!("ipv6-{word}"),
            layers: vec![presets::symmetric_random()],
            ipv6: Some(firewall),
        })
        .into()
}

/// Homes whose owner forwards a port to the broker beside them.
pub(super) fn homes() -> Vec<Network> {
    let homes = ["preserving-drop", "preserving-reset", "preserving-icmp"];
    independent().into_iter().filter(|it| homes.contains(&it.name.as_str())).collect()
}

/// Whether its IPv4 NATs, or its IPv6 firewall where it has one, reset what nobody asked for.
pub(super) fn resets(network: &Network) -> bool {
    match &network.ipv6 {
        Some(firewall) => firewall.refusal == Refusal::Reset,
        // The outermost sees it.
        None => network.layers.first().is_some_and(|it| it.refusal == Refusal::Reset),
    }
}
