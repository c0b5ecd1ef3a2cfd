//! Hosts, LANs, gateways and links as one state machine.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Index, IndexMut};

use crate::Time;
use crate::hash::Map;
use crate::link::{Conditions, Fate, Link};
use crate::nat::{Behaviour, Nat, Side};
use crate::packet::{ErrorKind, Packet, Unreachable};

/// Names a host of an [`Internet`]; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// Names a gateway of an [`Internet`]; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub usize);

/// Where something is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Directly on the internet.
    Core,
    /// In the LAN of a gateway.
    Behind(GatewayId),
}

/// The cable by which something is plugged in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attachment {
    /// Away from it.
    pub up: Conditions,
    /// Toward it.
    pub down: Conditions,
}

impl From<Conditions> for Attachment {
    /// The same in both directions.
    fn from(both: Conditions) -> Self {
        Self { up: both, down: both }
    }
}

/// What a gateway does, and what its LAN has.
#[derive(Debug, Clone)]
pub struct Site {
    ipv4: Option<Behaviour>,
    ipv6: Option<Behaviour>,
    outside: u8,
    lan: Option<(Ipv4Addr, u8)>,
}

impl Site {
    /// A site that has IPv4 alone.
    pub fn ipv4(behaviour: Behaviour) -> Self {
        Self { ipv4: Some(behaviour), ipv6: None, outside: 1, lan: None }
    }

    /// A site that has IPv6 alone; commonly behind a [firewall](crate::nat::presets::firewall).
    pub fn ipv6(behaviour: Behaviour) -> Self {
        Self { ipv4: None, ipv6: Some(behaviour), outside: 1, lan: None }
    }

    /// The same, with IPv6 too.
    #[must_use]
    pub fn and_ipv6(self, behaviour: Behaviour) -> Self {
        Self { ipv6: Some(behaviour), ..self }
    }

    /// The same, with so many outside addresses a family, 1 to 16.
    #[must_use]
    pub fn outside_addresses(self, count: u8) -> Self {
        Self { outside: count.clamp(1, 16), ..self }
    }

    /// The same, with this IPv4 network for the LAN; without it, one of 192.168.0.0/16, or a public one behind a firewall
    /// that does not translate. Two sites may well have the same.
    #[must_use]
    pub fn lan(self, network: Ipv4Addr, prefix_length: u8) -> Self {
        Self { lan: Some((network, prefix_length.clamp(8, 29))), ..self }
    }
}

/// A part of an internet that has cables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// The router in the middle.
    Core,
    /// A host.
    Host(HostId),
    /// A gateway.
    Gateway(GatewayId),
}

/// One packet on one cable.
#[derive(Debug, Clone)]
pub struct Passage {
    /// When it was sent.
    pub sent: Time,
    /// When it arrives; `None` if it is lost.
    pub arrives: Option<Time>,
    /// From where.
    pub from: Node,
    /// To where.
    pub to: Node,
    /// What.
    pub packet: Packet,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (network.to_bits() ^ ip.to_bits()).checked_shr(32 - u32::from(self.length)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (network.to_bits() ^ ip.to_bits()).checked_shr(128 - u32::from(self.length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What hangs on the core or on a LAN.
#[derive(Debug, Default)]
struct Segment {
    members: Map<IpAddr, Node>,
    routes: Vec<(Prefix, Node)>,
    given: u32,
}

impl Segment {
    fn find(&self, ip: IpAddr) -> Option<Node> {
        let route = || self.routes.iter().find(|(prefix, _)| prefix.contains(ip)).map(|(_, node)| *node);
        self.members.get(&ip).copied().or_else(route)
    }
}

#[derive(Debug)]
struct Cable {
    place: Place,
    up: Link,
    down: Link,
    cut: bool,
}

#[derive(Debug)]
struct HostNode {
    cable: Cable,
    addresses: Vec<(IpAddr, u8)>,
}

#[derive(Debug)]
struct GatewayNode {
    cable: Cable,
    ipv4: Option<Nat>,
    ipv6: Option<Nat>,
    outside: Vec<IpAddr>,
    /// Its own addresses in the LAN.
    inside: Vec<IpAddr>,
    lan: Option<Prefix>,
    lan_ipv6: Option<Prefix>,
    segment: Segment,
}

impl GatewayNode {
    fn nat(&mut self, of: IpAddr) -> Option<&mut Nat> {
        if of.is_ipv4() { self.ipv4.as_mut() } else { self.ipv6.as_mut() }
    }
}

/// A packet under way to a node.
#[derive(Debug)]
struct Flight {
    node: Node,
    /// It comes from what is nearer to the core.
    from_above: bool,
    packet: Packet,
}

/// What is under way, by arrival; at the same time by when it was sent.
#[derive(Debug, Default)]
struct Flights {
    /// Arrival, number and slot: packets stay where they are while their order is found.
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// What arrives no earlier than what was put here before, as over cables without delay.
    at_once: VecDeque<(Time, u64, Flight)>,
    number: u64,
}

impl Flights {
    fn push(&mut self, now: Time, at: Time, flight: Flight) {
        self.number += 1;
        if at <= now && self.at_once.back().is_none_or(|(last, ..)| *last <= at) {
            self.at_once.push_back((at, self.number, flight));
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(flight);
            self.order.push(Reverse((at, self.number, slot)));
        }
    }

    fn next(&self) -> Option<Time> {
        let later = self.order.peek().map(|Reverse((at, ..))| *at);
        self.at_once.front().map(|(at, ..)| *at).into_iter().chain(later).min()
    }

    fn pop(&mut self) -> Option<(Time, Flight)> {
        let later = self.order.peek().map(|Reverse((at, number, _))| (*at, *number));
        match (self.at_once.front().map(|(at, number, _)| (*at, *number)), later) {
            (Some(at_once), later) if later.is_none_or(|later| at_once < later) => {
                self.at_once.pop_front().map(|(at, _, flight)| (at, flight))
            }
            _ => {
                let Reverse((at, _, slot)) = self.order.pop()?;
                self.free.push(slot);
                Some((at, self.slots.get_mut(slot)?.take()?))
            }
        }
    }
}

/// Hosts or gateways by their ids.
#[derive(Debug)]
struct Table<T>(Vec<T>);

macro_rules! by_id {
    ($id:ty, $node:ty) => {
        impl Index<$id> for Table<$node> {
            type Output = $node;

            #[allow(
                clippy::indexing_slicing,
                reason = "ids come from this internet, and nothing is unplugged for good"
            )]
            fn index(&self, id: $id) -> &$node {
                &self.0[id.0]
            }
        }

        impl IndexMut<$id> for Table<$node> {
            #[allow(clippy::indexing_slicing, reason = "as above")]
            fn index_mut(&mut self, id: $id) -> &mut $node {
                &mut self.0[id.0]
            }
        }
    };
}

by_id!(HostId, HostNode);
by_id!(GatewayId, GatewayNode);

/// One more of what there are so many of at most.
fn count(counter: &mut u8, most: u8, what: &str) -> u8 {
    assert!(*counter < most, "at most {most} {what}");
    *counter += 1;
    *counter
}

/// What no router of the internet has a route to; most drop it without a word. From fe00:: on it is link-local and
/// multicast.
const MARTIANS: [Prefix; 11] = [
    Prefix { network: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 8 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), length: 8 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), length: 10 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), length: 8 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), length: 16 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), length: 12 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), length: 16 },
    Prefix { network: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), length: 3 },
    Prefix { network: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 64 },
    Prefix { network: IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), length: 7 },
    Prefix { network: IpAddr::V6(Ipv6Addr::new(0xfe00, 0, 0, 0, 0, 0, 0, 0)), length: 7 },
];

/// Hosts, LANs, gateways and links: packets that hosts send and a time in, packets for hosts out.
///
/// It begins as a core, a router on which public hosts and gateways hang, each by a cable of its own; further hosts and
/// gateways hang on gateways. The core is one hop: it counts the TTL down, drops packets to private addresses in silence
/// and answers ICMP net unreachable for addresses nobody has. Addresses are given in order, from ranges for documentation
/// and tests, so that the same calls always make the same internet.
///
/// # Panics
/// Ids of another internet may panic wherever an id is taken.
#[derive(Debug)]
pub struct Internet {
    hosts: Table<HostNode>,
    gateways: Table<GatewayNode>,
    names: Vec<(Node, String)>,
    core: Segment,
    public_hosts: u8,
    outside: u8,
    further: u8,
    lans: u8,
    sites: u16,
    seed: u64,
    flights: Flights,
    ready: VecDeque<(HostId, Packet)>,
    log: Option<Vec<Passage>>,
}

impl Internet {
    /// The core's own addresses, from which its ICMP errors come.
    pub const CORE: (Ipv4Addr, Ipv6Addr) =
        (Ipv4Addr::new(198, 51, 100, 254), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe));

    /// An internet with nobody on it. What is random in it, losses and ports, comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            hosts: Table(Vec::new()),
            gateways: Table(Vec::new()),
            names: Vec::new(),
            core: Segment::default(),
            public_hosts: 0,
            outside: 0,
            further: 0,
            lans: 0,
            sites: 0,
            seed,
            flights: Flights::default(),
            ready: VecDeque::new(),
            log: None,
        }
    }

    /// Plugs a host in. On the core it has IPv4 and IPv6, both public; in a LAN what the gateway has.
    ///
    /// # Panics
    /// More than 200 public hosts, or more hosts in a LAN than its network has addresses.
    pub fn host(&mut self, place: Place, attachment: impl Into<Attachment>) -> HostId {
        let id = HostId(self.hosts.0.len());
        let addresses = self.addresses_in(place, Node::Host(id));
        let cable = self.cable(place, attachment.into());
        self.hosts.0.push(HostNode { cable, addresses });
        id
    }

    /// Plugs a gateway in, with a LAN behind it.
    ///
    /// # Panics
    /// More than 200 outside addresses or 250 LANs.
    pub fn gateway(&mut self, place: Place, site: Site, attachment: impl Into<Attachment>) -> GatewayId {
        let id = GatewayId(self.gateways.0.len());
        let node = Node::Gateway(id);
        let cable = self.cable(place, attachment.into());
        let mut outside = Vec::new();
        for _ in 0..site.outside {
            outside.extend(self.outside_in(place, node, &site));
        }
        let mut inside = Vec::new();
        let (mut lan, mut lan_ipv6) = (None, None);
        if let Some(behaviour) = &site.ipv4 {
            let (network, length) = site.lan.unwrap_or_else(|| {
                let number = count(&mut self.lans, 250, "LANs");
                let base = if behaviour.translates { (192, 168) } else { (198, 18) };
                (Ipv4Addr::from([base.0, base.1, number, 0]), 24)
            });
            let mask = u32::MAX << (32 - u32::from(length));
            let network = Ipv4Addr::from_bits(network.to_bits() & mask);
            inside.push(IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() + 1)));
            lan = Some(Prefix { network: network.into(), length });
        }
        if site.ipv6.is_some() {
            self.sites += 1;
            let network = Ipv6Addr::new(0x2001, 0xdb8, self.sites, 1, 0, 0, 0, 0);
            inside.push(IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() + 1)));
            lan_ipv6 = Some(Prefix { network: network.into(), length: 64 });
        }
        let untranslated =
            |behaviour: &Option<Behaviour>| behaviour.as_ref().is_some_and(|it| !it.translates);
        for (prefix, behaviour) in [(lan, &site.ipv4), (lan_ipv6, &site.ipv6)] {
            if let (Some(prefix), true) = (prefix, untranslated(behaviour)) {
                self.announce(place, prefix, node);
            }
        }
        let nat = |behaviour: Option<Behaviour>, v4: bool, seed: u64| {
            let behaviour = behaviour?;
            let own = |ip: &&IpAddr| ip.is_ipv4() == v4;
            let inside = inside.iter().find(own).copied()?;
            Some(Nat::new(behaviour, inside, outside.iter().filter(own).copied().collect(), seed))
        };
        let seed = self.next_seed();
        let ipv4 = nat(site.ipv4, true, seed);
        let ipv6 = nat(site.ipv6, false, seed ^ 1);
        let segment = Segment::default();
        self.gateways.0.push(GatewayNode { cable, ipv4, ipv6, outside, inside, lan, lan_ipv6, segment });
        id
    }

    /// Gives a public host one more IPv4 address.
    ///
    /// # Panics
    /// A host in a LAN, or more than 250 such addresses.
    pub fn further_address(&mut self, host: HostId) -> IpAddr {
        let number = count(&mut self.further, 250, "further addresses");
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number));
        let entry = &mut self.hosts[host];
        assert!(entry.cable.place == Place::Core, "only a public host has further addresses");
        entry.addresses.push((address, 32));
        self.core.members.insert(address, Node::Host(host));
        address
    }

    /// A host's addresses and the lengths of their prefixes, IPv4 first.
    pub fn addresses(&self, host: HostId) -> &[(IpAddr, u8)] {
        &self.hosts[host].addresses
    }

    /// A host's first address of a family.
    pub fn address(&self, host: HostId, v4: bool) -> Option<IpAddr> {
        self.addresses(host).iter().map(|(ip, _)| *ip).find(|ip| ip.is_ipv4() == v4)
    }

    /// The router that a host has for a family: the gateway's address in the LAN, or the core's.
    pub fn router(&self, host: HostId, v4: bool) -> Option<IpAddr> {
        match self.hosts[host].cable.place {
            Place::Core => Some(if v4 { Self::CORE.0.into() } else { Self::CORE.1.into() }),
            Place::Behind(gateway) => {
                self.gateways[gateway].inside.iter().find(|ip| ip.is_ipv4() == v4).copied()
            }
        }
    }

    /// A gateway's outside addresses.
    pub fn outside(&self, gateway: GatewayId) -> &[IpAddr] {
        &self.gateways[gateway].outside
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.hosts.0.len()
    }

    /// The MTU of a host's own cable, in bytes.
    pub fn mtu(&self, host: HostId) -> u16 {
        self.hosts[host].cable.up.conditions().mtu
    }

    /// Gives a host or gateway a name, for diagrams.
    pub fn name(&mut self, node: Node, name: &str) {
        self.names.retain(|(other, _)| *other != node);
        self.names.push((node, name.to_owned()));
    }

    /// The name that was given, else one by kind and number: `host0`, `gateway0`, `core`.
    pub fn name_of(&self, node: Node) -> String {
        let given = self.names.iter().find(|(other, _)| *other == node).map(|(_, name)| name.clone());
        given.unwrap_or_else(|| match node {
            Node::Core => "core".to_owned(),
            Node::Host(id) => format!("host{}", id.0),
            Node::Gateway(id) => format!("gateway{}", id.0),
        })
    }

    /// Where something is plugged in; the core nowhere.
    pub fn place(&self, node: Node) -> Option<Place> {
        match node {
            Node::Core => None,
            Node::Host(id) => Some(self.hosts[id].cable.place),
            Node::Gateway(id) => Some(self.gateways[id].cable.place),
        }
    }

    /// How many gateways there are.
    pub fn gateways(&self) -> usize {
        self.gateways.0.len()
    }

    /// Forwards an outside TCP port of a gateway to the same port of a host in its LAN, or of the gateway between them
    /// where that translates.
    pub fn forward_port(&mut self, gateway: GatewayId, port: u16, host: HostId) {
        for (mut target, _) in self.hosts[host].addresses.clone() {
            let v4 = target.is_ipv4();
            let mut place = self.hosts[host].cable.place;
            while let Place::Behind(between) = place
                && between != gateway
            {
                let between = &self.gateways[between];
                let nat = if v4 { &between.ipv4 } else { &between.ipv6 };
                if nat.as_ref().is_some_and(|nat| nat.behaviour().translates)
                    && let Some(outside) = between.outside.iter().find(|ip| ip.is_ipv4() == v4)
                {
                    target = *outside;
                }
                place = between.cable.place;
            }
            if let Some(nat) = self.gateways[gateway].nat(target) {
                nat.forward(port, SocketAddr::new(target, port));
            }
        }
    }

    /// Makes a gateway forget its mappings and sessions, as a restart does.
    pub fn restart(&mut self, gateway: GatewayId) {
        let gateway = &mut self.gateways[gateway];
        for nat in gateway.ipv4.iter_mut().chain(&mut gateway.ipv6) {
            nat.forget();
        }
    }

    /// Pulls a host's or gateway's cable, or plugs it in again. What is under way arrives.
    pub fn set_cut(&mut self, node: Node, cut: bool) {
        if let Some(cable) = self.cable_of(node) {
            cable.cut = cut;
        }
    }

    /// Changes what a host's or gateway's cable does.
    pub fn set_conditions(&mut self, node: Node, attachment: impl Into<Attachment>) {
        let Attachment { up, down } = attachment.into();
        if let Some(cable) = self.cable_of(node) {
            cable.up.set_conditions(up);
            cable.down.set_conditions(down);
        }
    }

    /// Keeps a record of every packet on every cable from now on.
    pub fn record(&mut self) {
        self.log.get_or_insert_default();
    }

    /// What was recorded so far; empty without [`record`](Self::record).
    pub fn take_record(&mut self) -> Vec<Passage> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A host sends a packet. One to an address of its own must not come here.
    pub fn send(&mut self, now: Time, from: HostId, packet: Packet) {
        self.upward(now, Node::Host(from), packet);
    }

    /// When something happens next, if nothing is sent before.
    pub fn next(&self) -> Option<Time> {
        if !self.ready.is_empty() {
            return Some(Time::ZERO);
        }
        let arrival = self.flights.next();
        let nats = self.gateways.0.iter().flat_map(|gateway| gateway.ipv4.iter().chain(&gateway.ipv6));
        nats.filter_map(Nat::next).chain(arrival).min()
    }

    /// The next packet that reached a host by now.
    pub fn poll(&mut self, now: Time) -> Option<(HostId, Packet)> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let arrival = self.flights.next().filter(|at| *at <= now);
            let woken = self.earliest_nat().filter(|(at, ..)| *at <= now);
            match (arrival, woken) {
                (None, None) => return None,
                (Some(at), Some((wake, ..))) if at <= wake => self.arrive(),
                (Some(_), None) => self.arrive(),
                (_, Some((at, gateway, v4))) => {
                    let id = GatewayId(gateway);
                    let gateway = &mut self.gateways[id];
                    let nat = if v4 { &mut gateway.ipv4 } else { &mut gateway.ipv6 };
                    if let Some(nat) = nat {
                        nat.wake(at);
                    }
                    self.drain(at, id, v4);
                }
            }
        }
    }

    fn earliest_nat(&self) -> Option<(Time, usize, bool)> {
        let nats = self.gateways.0.iter().enumerate().flat_map(|(at, gateway)| {
            gateway
                .ipv4
                .iter()
                .map(move |nat| (nat, at, true))
                .chain(gateway.ipv6.iter().map(move |nat| (nat, at, false)))
        });
        nats.filter_map(|(nat, at, v4)| Some((nat.next()?, at, v4))).min()
    }

    fn next_seed(&mut self) -> u64 {
        // Any odd number of many bits keeps seeds apart; this is the golden ratio's.
        self.seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed
    }

    fn cable(&mut self, place: Place, Attachment { up, down }: Attachment) -> Cable {
        let (up_seed, down_seed) = (self.next_seed(), self.next_seed());
        Cable { place, up: Link::new(up, up_seed), down: Link::new(down, down_seed), cut: false }
    }

    fn cable_of(&mut self, node: Node) -> Option<&mut Cable> {
        match node {
            Node::Core => None,
            Node::Host(id) => self.hosts.0.get_mut(id.0).map(|host| &mut host.cable),
            Node::Gateway(id) => self.gateways.0.get_mut(id.0).map(|gateway| &mut gateway.cable),
        }
    }

    fn addresses_in(&mut self, place: Place, node: Node) -> Vec<(IpAddr, u8)> {
        let addresses = match place {
            Place::Core => {
                let number = count(&mut self.public_hosts, 200, "public hosts");
                self.sites += 1;
                vec![
                    (IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)), 32),
                    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, self.sites, 0, 0, 0, 0, 1)), 128),
                ]
            }
            Place::Behind(gateway) => self.member(gateway),
        };
        self.join(place, node, addresses.iter().map(|(ip, _)| *ip));
        addresses
    }

    /// One more outside address of each family that the site has.
    fn outside_in(&mut self, place: Place, node: Node, site: &Site) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = match place {
            Place::Core => {
                let number = count(&mut self.outside, 200, "outside addresses");
                self.sites += 1;
                vec![
                    Ipv4Addr::new(203, 0, 113, number).into(),
                    Ipv6Addr::new(0x2001, 0xdb8, self.sites, 0, 0, 0, 0, 1).into(),
                ]
            }
            Place::Behind(gateway) => self.member(gateway).into_iter().map(|(ip, _)| ip).collect(),
        };
        addresses.retain(|ip| if ip.is_ipv4() { site.ipv4.is_some() } else { site.ipv6.is_some() });
        self.join(place, node, addresses.iter().copied());
        addresses
    }

    /// One more address of each family in a LAN.
    fn member(&mut self, gateway: GatewayId) -> Vec<(IpAddr, u8)> {
        let gateway = &mut self.gateways[gateway];
        gateway.segment.given += 1;
        let number = gateway.segment.given + 1;
        let mut addresses = Vec::new();
        for prefix in gateway.lan.iter().chain(&gateway.lan_ipv6) {
            let ip = match prefix.network {
                IpAddr::V4(network) => {
                    assert!(
                        number < (1 << (32 - u32::from(prefix.length))) - 1,
                        "the LAN has no more addresses"
                    );
                    Ipv4Addr::from_bits(network.to_bits() + number).into()
                }
                IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + u128::from(number)).into(),
            };
            addresses.push((ip, prefix.length));
        }
        addresses
    }

    fn join(&mut self, place: Place, node: Node, addresses: impl Iterator<Item = IpAddr>) {
        let segment = match place {
            Place::Core => &mut self.core,
            Place::Behind(gateway) => &mut self.gateways[gateway].segment,
        };
        segment.members.extend(addresses.map(|ip| (ip, node)));
    }

    /// Makes the way to a LAN that is not translated known as far out as its addresses are seen.
    fn announce(&mut self, place: Place, prefix: Prefix, node: Node) {
        match place {
            Place::Core => self.core.routes.push((prefix, node)),
            Place::Behind(id) => {
                let outer = &mut self.gateways[id];
                outer.segment.routes.push((prefix, node));
                let place = outer.cable.place;
                if outer.nat(prefix.network).is_some_and(|nat| !nat.behaviour().translates) {
                    self.announce(place, prefix, Node::Gateway(id));
                }
            }
        }
    }

    /// From a node toward the core.
    fn upward(&mut self, now: Time, from: Node, packet: Packet) {
        let Some(cable) = self.cable_of(from) else { return };
        let to = match cable.place {
            Place::Core => Node::Core,
            Place::Behind(gateway) => Node::Gateway(gateway),
        };
        let fate = if cable.cut { Fate::Lost } else { cable.up.carry(now, packet.length()) };
        let mtu = cable.up.conditions().mtu;
        self.carry(now, fate, from, to, false, packet, mtu);
    }

    /// From the core or a LAN to what hangs on it.
    fn downward(&mut self, now: Time, from: Node, to: Node, packet: Packet) {
        let Some(cable) = self.cable_of(to) else { return };
        let fate = if cable.cut { Fate::Lost } else { cable.down.carry(now, packet.length()) };
        let mtu = cable.down.conditions().mtu;
        self.carry(now, fate, from, to, true, packet, mtu);
    }

    #[allow(clippy::too_many_arguments)]
    fn carry(
        &mut self,
        now: Time,
        fate: Fate,
        from: Node,
        to: Node,
        from_above: bool,
        packet: Packet,
        mtu: u16,
    ) {
        let arrives = match fate {
            Fate::Arrives(at) => Some(at),
            Fate::Lost => None,
            Fate::TooBig => {
                let router = self.own_address(from, packet.source.is_ipv4());
                let error = router.and_then(|router| packet.error(router, ErrorKind::TooBig { mtu }));
                if let Some(error) = error {
                    self.too_big(now, from, from_above, error);
                }
                None
            }
        };
        if let Some(log) = &mut self.log {
            log.push(Passage { sent: now, arrives, from, to, packet: packet.clone() });
        }
        if let Some(at) = arrives {
            self.flights.push(now, at, Flight { node: to, from_above, packet });
        }
    }

    fn own_address(&self, node: Node, v4: bool) -> Option<IpAddr> {
        match node {
            Node::Core => Some(if v4 { Self::CORE.0.into() } else { Self::CORE.1.into() }),
            Node::Host(id) => self.address(id, v4),
            Node::Gateway(id) => self.gateways[id].inside.iter().find(|ip| ip.is_ipv4() == v4).copied(),
        }
    }

    /// A node says that the next cable does not take a packet. Its NAT has translated that packet already, so what is said
    /// about it goes back through the NAT, from the side where the cable is.
    fn too_big(&mut self, now: Time, node: Node, downward: bool, error: Packet) {
        match node {
            Node::Core => self.at_core(now, error, false),
            Node::Host(id) => self.ready.push_back((id, error)),
            Node::Gateway(id) => {
                let inside = self.gateways[id].segment.find(error.destination);
                match inside {
                    Some(to) if downward => self.downward(now, node, to, error),
                    Some(_) | None => {
                        let v4 = error.destination.is_ipv4();
                        let side = if downward { Side::Inside } else { Side::Outside };
                        if let Some(nat) = self.gateways[id].nat(error.destination) {
                            nat.handle(now, side, error);
                            self.drain(now, id, v4);
                        }
                    }
                }
            }
        }
    }

    fn arrive(&mut self) {
        let Some((at, Flight { node, from_above, packet })) = self.flights.pop() else { return };
        match node {
            Node::Core => self.at_core(at, packet, true),
            Node::Host(id) => self.ready.push_back((id, packet)),
            Node::Gateway(id) => self.at_gateway(at, id, from_above, packet),
        }
    }

    fn at_core(&mut self, now: Time, mut packet: Packet, passes: bool) {
        if passes {
            packet.ttl = packet.ttl.saturating_sub(1);
        }
        let own = |packet: &Packet| -> IpAddr {
            if packet.source.is_ipv4() { Self::CORE.0.into() } else { Self::CORE.1.into() }
        };
        let error = if packet.ttl == 0 {
            ErrorKind::TimeExceeded
        } else if let Some(to) = self.core.find(packet.destination) {
            return self.downward(now, Node::Core, to, packet);
        } else if packet.destination == own(&packet)
            || MARTIANS.iter().any(|it| it.contains(packet.destination))
        {
            return;
        } else {
            ErrorKind::Unreachable(Unreachable::Net)
        };
        if let Some(error) = packet.error(own(&packet), error)
            && let Some(to) = self.core.find(error.destination)
        {
            self.downward(now, Node::Core, to, error);
        }
    }

    fn at_gateway(&mut self, now: Time, id: GatewayId, from_above: bool, packet: Packet) {
        let gateway = &mut self.gateways[id];
        if !from_above {
            let on_link =
                gateway.lan.iter().chain(&gateway.lan_ipv6).any(|it| it.contains(packet.destination));
            if on_link || gateway.segment.routes.iter().any(|(prefix, _)| prefix.contains(packet.destination))
            {
                if let Some(to) = gateway.segment.find(packet.destination) {
                    return self.downward(now, Node::Gateway(id), to, packet);
                }
                if gateway.inside.contains(&packet.destination)
                    && let Some(reset) = packet.reset()
                    && let Some(to) = gateway.segment.find(reset.destination)
                {
                    // Nothing listens on the router.
                    return self.downward(now, Node::Gateway(id), to, reset);
                }
                return;
            }
        }
        let v4 = packet.destination.is_ipv4();
        let Some(nat) = gateway.nat(packet.destination) else { return };
        nat.handle(now, if from_above { Side::Outside } else { Side::Inside }, packet);
        self.drain(now, id, v4);
    }

    fn drain(&mut self, now: Time, id: GatewayId, v4: bool) {
        loop {
            let gateway = &mut self.gateways[id];
            let nat = if v4 { gateway.ipv4.as_mut() } else { gateway.ipv6.as_mut() };
            match nat.and_then(Nat::poll) {
                Some((Side::Outside, packet)) => self.upward(now, Node::Gateway(id), packet),
                Some((Side::Inside, packet)) => {
                    if let Some(to) = self.gateways[id].segment.find(packet.destination) {
                        self.downward(now, Node::Gateway(id), to, packet);
                    }
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::nat::presets;
    use crate::packet::{Body, Flags, IcmpError, Quoted, Segment};

    const MS: Duration = Duration::from_millis(1);

    fn segment(from: IpAddr, to: IpAddr, flags: Flags, bytes: usize) -> Packet {
        let segment = Segment {
            source_port: 7,
            destination_port: 9,
            sequence: 5,
            flags,
            payload: vec![0; bytes],
            ..Segment::default()
        };
        Packet::tcp(from, to, segment)
    }

    fn syn(from: IpAddr, to: IpAddr) -> Packet {
        segment(from, to, Flags::SYN, 0)
    }

    /// All that reaches hosts until nothing is under way, and when.
    fn arrivals(internet: &mut Internet) -> Vec<(Time, HostId, Packet)> {
        let mut arrived = Vec::new();
        while let Some(at) = internet.next() {
            while let Some((host, packet)) = internet.poll(at) {
                arrived.push((at, host, packet));
            }
        }
        arrived
    }

    fn sent(internet: &mut Internet, from: HostId, packet: Packet) -> Vec<(Time, HostId, Packet)> {
        internet.send(Time::ZERO, from, packet);
        arrivals(internet)
    }

    fn address(internet: &Internet, host: HostId) -> IpAddr {
        internet.address(host, true).unwrap()
    }

    fn error(packet: &Packet) -> (ErrorKind, Quoted) {
        match packet.body {
            Body::Error(IcmpError { kind, quoted }) => (kind, quoted),
            _ => panic!("no error: {packet:?}"),
        }
    }

    /// A NAT with a host behind it, and a public host.
    fn home(behaviour: Behaviour) -> (Internet, GatewayId, HostId, HostId) {
        let mut internet = Internet::new(1);
        let gateway = internet.gateway(Place::Core, Site::ipv4(behaviour), Conditions::PERFECT);
        let inside = internet.host(Place::Behind(gateway), Conditions::PERFECT);
        let outside = internet.host(Place::Core, Conditions::PERFECT);
        (internet, gateway, inside, outside)
    }

    #[test]
    fn a_packet_takes_both_cables_and_a_hop() {
        let mut internet = Internet::new(1);
        let hosts = [3, 4].map(|ms| internet.host(Place::Core, Conditions::delay(ms * MS)));
        for v4 in [true, false] {
            let [from, to] = hosts.map(|host| internet.address(host, v4).unwrap());
            let expected = Packet { ttl: 63, ..syn(from, to) };
            assert_eq!(sent(&mut internet, hosts[0], syn(from, to)), [(7 * MS, hosts[1], expected)]);
        }
    }

    #[test]
    fn the_core_answers_where_the_ttl_ends_and_where_nobody_is() {
        let mut internet = Internet::new(1);
        let host = internet.host(Place::Core, Conditions::delay(MS));
        for (v4, nobody) in [(true, "203.0.113.99"), (false, "2001:db8:99::1")] {
            let from = internet.address(host, v4).unwrap();
            let packet = syn(from, nobody.parse().unwrap());
            let quoted = packet.quote().unwrap();
            for (ttl, kind) in [(1, ErrorKind::TimeExceeded), (2, ErrorKind::Unreachable(Unreachable::Net))] {
                let arrived = sent(&mut internet, host, Packet { ttl, ..packet.clone() });
                assert_eq!(arrived.len(), 1);
                assert_eq!(arrived[0].0, 2 * MS);
                assert_eq!(Some(arrived[0].2.source), internet.router(host, v4));
                assert_eq!(error(&arrived[0].2), (kind, quoted));
            }
            let reset = segment(from, nobody.parse().unwrap(), Flags::RST, 0);
            assert_eq!(sent(&mut internet, host, reset), [], "no error about a reset");
        }
    }

    #[test]
    fn no_route_leads_to_private_addresses_and_nobody_says_so() {
        let mut internet = Internet::new(1);
        let host = internet.host(Place::Core, Conditions::PERFECT);
        for to in [
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.0.1",
            "192.168.0.1",
            "224.0.0.251",
            "255.255.255.255",
            "0.0.0.0",
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            let to: IpAddr = to.parse().unwrap();
            let from = internet.address(host, to.is_ipv4()).unwrap();
            assert_eq!(sent(&mut internet, host, syn(from, to)), [], "{to}");
        }
        for public in ["172.32.0.1", "100.128.0.1", "223.255.255.255", "2001:db8:77::"] {
            let to: IpAddr = public.parse().unwrap();
            let from = internet.address(host, to.is_ipv4()).unwrap();
            assert_eq!(sent(&mut internet, host, syn(from, to)).len(), 1, "{to}");
        }
    }

    #[test]
    fn a_pulled_cable_carries_nothing_but_what_was_under_way() {
        let (mut internet, gateway, inside, outside) = home(presets::linux_masquerade());
        internet.set_conditions(Node::Host(outside), Conditions::delay(5 * MS));
        let packet = syn(address(&internet, inside), address(&internet, outside));
        internet.send(Time::ZERO, inside, packet.clone());
        assert_eq!(internet.poll(MS), None);
        for node in [Node::Host(inside), Node::Gateway(gateway), Node::Host(outside)] {
            internet.set_cut(node, true);
            assert_eq!(arrivals(&mut internet).len(), usize::from(node == Node::Host(inside)));
            assert_eq!(sent(&mut internet, inside, packet.clone()), []);
            internet.set_cut(node, false);
        }
        assert_eq!(sent(&mut internet, inside, packet).len(), 1);
    }

    #[test]
    fn too_big_is_said_in_terms_of_who_sent_it() {
        let narrow = Conditions { mtu: 1280, ..Conditions::PERFECT };
        let too_big = ErrorKind::TooBig { mtu: 1280 };
        for node in ["own", "gateway", "far"] {
            let (mut internet, gateway, inside, outside) = home(presets::linux_masquerade());
            let packet = segment(address(&internet, inside), address(&internet, outside), Flags::SYN, 1400);
            internet.set_conditions(
                match node {
                    "own" => Node::Host(inside),
                    "gateway" => Node::Gateway(gateway),
                    _ => Node::Host(outside),
                },
                narrow,
            );
            let arrived = sent(&mut internet, inside, packet.clone());
            assert_eq!(arrived.len(), 1, "{node}: {arrived:?}");
            assert_eq!(arrived[0].1, inside, "{node}");
            assert_eq!(error(&arrived[0].2), (too_big, packet.quote().unwrap()), "{node}");
        }
    }

    #[test]
    fn too_big_for_a_cable_inside_is_said_in_terms_of_who_is_outside() {
        let (mut internet, gateway, inside, outside) = home(presets::linux_masquerade());
        let packet = syn(address(&internet, inside), address(&internet, outside));
        sent(&mut internet, inside, packet);
        internet.set_conditions(Node::Host(inside), Conditions { mtu: 1280, ..Conditions::PERFECT });
        let answer = Segment {
            source_port: 9,
            destination_port: 7,
            sequence: 1,
            acknowledgement: 6,
            flags: Flags::SYN.with(Flags::ACK),
            payload: vec![0; 1400],
            ..Segment::default()
        };
        let answer = Packet::tcp(address(&internet, outside), internet.outside(gateway)[0], answer);
        let arrived = sent(&mut internet, outside, answer.clone());
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        assert_eq!(arrived[0].1, outside);
        assert_eq!(error(&arrived[0].2), (ErrorKind::TooBig { mtu: 1280 }, answer.quote().unwrap()));
        assert_eq!(arrived[0].2.source, internet.outside(gateway)[0]);
    }

    #[test]
    fn neighbours_reach_each_other_directly_and_the_router_listens_nowhere() {
        let (mut internet, gateway, inside, outside) = home(presets::linux_masquerade());
        let neighbour = internet.host(Place::Behind(gateway), Conditions::PERFECT);
        let (from, to) = (address(&internet, inside), address(&internet, neighbour));
        assert_eq!(sent(&mut internet, inside, syn(from, to)), [(Time::ZERO, neighbour, syn(from, to))]);
        let router = internet.router(inside, true).unwrap();
        let arrived = sent(&mut internet, inside, syn(from, router));
        assert_eq!(arrived, [(Time::ZERO, inside, syn(from, router).reset().unwrap())]);
        assert_eq!(internet.router(outside, true), Some(Internet::CORE.0.into()));
        assert_eq!(internet.router(inside, false), None, "the site has no IPv6");
    }

    #[test]
    fn two_nats_in_a_row_both_translate_and_forward() {
        let mut internet = Internet::new(1);
        let carrier =
            internet.gateway(Place::Core, Site::ipv4(presets::carrier_eim()), Conditions::delay(MS));
        let site = Site::ipv4(presets::linux_masquerade());
        let router = internet.gateway(Place::Behind(carrier), site, Conditions::delay(MS));
        let inside = internet.host(Place::Behind(router), Conditions::PERFECT);
        let outside = internet.host(Place::Core, Conditions::PERFECT);
        let packet = syn(address(&internet, inside), address(&internet, outside));
        let arrived = sent(&mut internet, inside, packet);
        assert_eq!(arrived.len(), 1);
        assert_eq!((arrived[0].0, arrived[0].1), (2 * MS, outside));
        assert_eq!(arrived[0].2.source, internet.outside(carrier)[0]);
        assert_eq!(arrived[0].2.ttl, 61);
        for gateway in [carrier, router] {
            internet.forward_port(gateway, 9, inside);
        }
        let packet = syn(address(&internet, outside), internet.outside(carrier)[0]);
        let arrived = sent(&mut internet, outside, packet);
        assert_eq!(arrived.len(), 1);
        assert_eq!((arrived[0].1, arrived[0].2.destination), (inside, address(&internet, inside)));
    }

    #[test]
    fn a_lan_that_is_not_translated_is_known_as_far_as_its_addresses_go() {
        let mut internet = Internet::new(1);
        let nat = internet.gateway(Place::Core, Site::ipv4(presets::linux_masquerade()), Conditions::PERFECT);
        let open = Site::ipv4(presets::router()).and_ipv6(presets::router());
        let public = internet.gateway(Place::Core, open.clone(), Conditions::PERFECT);
        let deeper = internet.gateway(Place::Behind(public), open.clone(), Conditions::PERFECT);
        let hidden = internet.gateway(Place::Behind(nat), open, Conditions::PERFECT);
        let outside = internet.host(Place::Core, Conditions::PERFECT);
        let routed = internet.host(Place::Behind(deeper), Conditions::PERFECT);
        for v4 in [true, false] {
            let [from, to] = [outside, routed].map(|host| internet.address(host, v4).unwrap());
            let arrived = sent(&mut internet, outside, syn(from, to));
            assert_eq!(arrived, [(Time::ZERO, routed, Packet { ttl: 61, ..syn(from, to) })]);
        }
        let behind_nat = internet.host(Place::Behind(hidden), Conditions::PERFECT);
        let [from, to] = [outside, behind_nat].map(|host| address(&internet, host));
        let arrived = sent(&mut internet, outside, syn(from, to));
        assert_eq!(error(&arrived[0].2).0, ErrorKind::Unreachable(Unreachable::Net));
        let arrived = sent(&mut internet, behind_nat, syn(to, from));
        assert_eq!(arrived[0].2.source, internet.outside(nat)[0], "and inside the NAT it is translated");
        let neighbour = internet.host(Place::Behind(nat), Conditions::PERFECT);
        let from = address(&internet, neighbour);
        let arrived = sent(&mut internet, neighbour, syn(from, to));
        assert_eq!((arrived[0].1, arrived[0].2.source), (behind_nat, from), "inside it is only routed");
    }

    #[test]
    fn a_firewall_for_ipv6_lets_out_and_not_in() {
        let mut internet = Internet::new(1);
        let site = Site::ipv6(presets::firewall());
        let gateway = internet.gateway(Place::Core, site, Conditions::PERFECT);
        let inside = internet.host(Place::Behind(gateway), Conditions::PERFECT);
        let outside = internet.host(Place::Core, Conditions::PERFECT);
        assert_eq!(internet.address(inside, true), None);
        assert!(internet.outside(gateway).iter().all(|ip| !ip.is_ipv4()));
        let [own, other] = [inside, outside].map(|host| internet.address(host, false).unwrap());
        assert_eq!(sent(&mut internet, outside, syn(other, own)), []);
        let arrived = sent(&mut internet, inside, syn(own, other));
        assert_eq!((arrived[0].1, arrived[0].2.source), (outside, own));
        let mut back = syn(own, other).reset().unwrap();
        back.body =
            Body::Tcp(Segment { flags: Flags::SYN.with(Flags::ACK), ..back.segment().cloned().unwrap() });
        assert_eq!(sent(&mut internet, outside, back).len(), 1, "the answer is let in");
    }

    #[test]
    fn every_outside_address_of_a_site_leads_to_it() {
        let mut internet = Internet::new(1);
        let site = Site::ipv4(presets::carrier_eim()).outside_addresses(4);
        let gateway = internet.gateway(Place::Core, site, Conditions::PERFECT);
        let inside = internet.host(Place::Behind(gateway), Conditions::PERFECT);
        let outside = internet.host(Place::Core, Conditions::PERFECT);
        assert_eq!(internet.outside(gateway).len(), 4);
        let packet = syn(address(&internet, inside), address(&internet, outside));
        let mapped = sent(&mut internet, inside, packet)[0].2.source;
        assert!(internet.outside(gateway).contains(&mapped));
        internet.record();
        for to in internet.outside(gateway).to_vec() {
            let packet = syn(address(&internet, outside), to);
            let arrived = sent(&mut internet, outside, packet);
            assert!(arrived.iter().all(|(_, host, _)| *host != outside), "{to} is somebody's");
        }
        let reached = internet.take_record().iter().filter(|it| it.to == Node::Gateway(gateway)).count();
        assert_eq!(reached, 4);
        assert!(internet.take_record().is_empty());
    }

    #[test]
    fn further_addresses_and_networks_of_ones_own() {
        let mut internet = Internet::new(1);
        let host = internet.host(Place::Core, Conditions::PERFECT);
        let further = internet.further_address(host);
        assert_eq!(internet.addresses(host).last(), Some(&(further, 32)));
        let site = || Site::ipv4(presets::linux_masquerade()).lan([10, 0, 0, 77].into(), 29);
        let gateways = [0, 1].map(|_| internet.gateway(Place::Core, site(), Conditions::PERFECT));
        let members = gateways.map(|gateway| internet.host(Place::Behind(gateway), Conditions::PERFECT));
        for member in members {
            assert_eq!(
                internet.addresses(member),
                [([10, 0, 0, 74].into(), 29)],
                "two sites may have the same"
            );
            let packet = syn(address(&internet, member), further);
            let arrived = sent(&mut internet, member, packet);
            assert_eq!(arrived[0].1, host);
        }
    }

    #[test]
    #[should_panic(expected = "the LAN has no more addresses")]
    fn a_lan_has_so_many_addresses_and_no_more() {
        let mut internet = Internet::new(1);
        let site = Site::ipv4(presets::linux_masquerade()).lan([10, 0, 0, 0].into(), 29);
        let gateway = internet.gateway(Place::Core, site, Conditions::PERFECT);
        for _ in 0..6 {
            internet.host(Place::Behind(gateway), Conditions::PERFECT);
        }
    }

    #[test]
    fn nodes_have_names() {
        let (mut internet, gateway, inside, _) = home(presets::linux_masquerade());
        internet.name(Node::Host(inside), "one");
        internet.name(Node::Host(inside), "other");
        assert_eq!(internet.name_of(Node::Host(inside)), "other");
        assert_eq!(internet.name_of(Node::Gateway(gateway)), "gateway0");
        assert_eq!(internet.name_of(Node::Core), "core");
    }

    proptest! {
        /// Whatever is put in and taken out between, the earliest comes first, and of the simultaneous the first sent.
        #[test]
        fn flights_arrive_in_order(delays in prop::collection::vec((0..4u32, 0..3u8), 1..200)) {
            let mut flights = Flights::default();
            let mut waiting: Vec<(Time, u8)> = Vec::new();
            let mut now = Time::ZERO;
            for (number, (delay, takes)) in delays.into_iter().enumerate() {
                let label = number as u8;
                let packet = Packet { ttl: label, ..syn([1, 1, 1, 1].into(), [2, 2, 2, 2].into()) };
                flights.push(now, now + MS * delay, Flight { node: Node::Core, from_above: false, packet });
                waiting.push((now + MS * delay, label));
                waiting.sort_by_key(|(at, _)| *at);
                for _ in 0..takes.min(waiting.len() as u8) {
                    let (at, label) = waiting.remove(0);
                    prop_assert_eq!(flights.next(), Some(at));
                    let (popped, flight) = flights.pop().unwrap();
                    prop_assert_eq!((popped, flight.packet.ttl), (at, label));
                    now = now.max(at);
                }
            }
            prop_assert_eq!(flights.next(), waiting.first().map(|(at, _)| *at));
        }

        #[test]
        fn a_prefix_contains_what_shares_its_bits(network: u32, ip: u32, length in 0..=32u8, flip in 0..32u32) {
            let prefix = Prefix { network: IpAddr::V4(network.into()), length };
            let shared = (network ^ ip).leading_zeros() >= u32::from(length);
            prop_assert_eq!(prefix.contains(IpAddr::V4(ip.into())), shared);
            let near = network ^ (1 << flip);
            prop_assert_eq!(prefix.contains(IpAddr::V4(near.into())), 31 - flip >= u32::from(length));
            prop_assert!(!prefix.contains(IpAddr::V6(u128::from(network).into())));
        }
    }
}
