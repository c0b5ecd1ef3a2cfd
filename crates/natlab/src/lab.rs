//! The lab: a core, the public hosts and gateways on it, and the LANs behind those.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Error;
use crate::availability::availability;
use crate::link::{End, Link, Mac};
use crate::netns::{Namespace, full_name, next_lab};
use crate::nft::{self, Ipv6Policy, KernelNat, Refusal, Translation};
use crate::wire::{Conditions, Wire};

/// The network of the public hosts, a /30 each.
const HOSTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// The network of the gateways' outside addresses, a /30 each.
const GATEWAYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// Further addresses of public hosts.
const FURTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
/// LANs with public addresses, a /24 each.
const PUBLIC_LANS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// LANs behind NATs, a /24 each.
const PRIVATE_LANS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 0);
/// Sites with IPv6 get a /48 each of 2001:db8::/32, the one with their number.
const IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
/// What no router of the internet has a route to; most drop it without a word.
const MARTIANS: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An internet in one process.
///
/// It begins as a *core*, a router with public networks. [Public hosts](Lab::public_host) and
/// [gateways](Lab::gateway) hang on the core, each by an uplink of its own with its own delay; LAN hosts and further
/// gateways hang on gateways. Every node is a network namespace with a real TCP stack.
///
/// All addresses are from ranges for documentation and tests; nothing reaches the machine's own network. The core is
/// one hop: it counts a packet's TTL down, drops packets to private addresses in silence and answers ICMP
/// net-unreachable for addresses nobody has.
///
/// Dropping the lab kills what runs inside and removes everything, also when a test panics. Handles of nodes do not keep
/// it alive: after that they answer errors. What a process leaves behind that is killed, the next process that makes a
/// lab sweeps.
#[derive(Debug)]
pub struct Lab {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    label: String,
    namespace: Arc<Namespace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: HashSet<String>,
    namespaces: Vec<Arc<Namespace>>,
    wires: Vec<Arc<Wire>>,
    sites: u16,
    hosts: u32,
    gateways: u32,
    further: u32,
    public_lans: u32,
    private_lans: u32,
}

impl Lab {
    /// Makes an internet with nobody on it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where none can be made, or a failure of `ip`.
    pub fn new() -> Result<Self, Error> {
        availability()?;
        let label = next_lab().to_string();
        let namespace = Arc::new(Namespace::create(full_name(&label, "core"), true)?);
        let mut batch = String::new();
        for network in MARTIANS {
            // Writing to a String can't fail.
            let _ = writeln!(batch, "route add blackhole {network}");
        }
        namespace.ip(&batch)?;
        let state = State {
            names: HashSet::from(["core".to_owned()]),
            namespaces: vec![namespace.clone()],
            ..State::default()
        };
        Ok(Self {
            core: Arc::new(Core {
                label,
                namespace,
                state: Mutex::new(state),
            }),
        })
    }

    /// A host directly on the internet: addresses of its own, no firewall. At most 64.
    ///
    /// `name` is unique in the lab: 1 to 32 ASCII letters, digits or hyphens.
    pub fn public_host(&self, name: &str) -> HostBuilder {
        HostBuilder {
            core: self.core.clone(),
            name: name.to_owned(),
            conditions: Conditions::PERFECT,
            ipv6: true,
        }
    }

    /// A NAT or firewall between the internet and a LAN. At most 64.
    ///
    /// `name` is unique in the lab: 1 to 32 ASCII letters, digits or hyphens.
    pub fn gateway(&self, name: &str, nat: KernelNat) -> GatewayBuilder {
        GatewayBuilder::new(Upstream::Core(self.core.clone()), name, nat)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let (wires, namespaces) = {
            let mut state = locked(&self.core.state);
            (
                std::mem::take(&mut state.wires),
                std::mem::take(&mut state.namespaces),
            )
        };
        Namespace::remove_all(namespaces.iter().map(Arc::as_ref));
        Wire::stop_all(wires.iter().map(Arc::as_ref));
    }
}

impl Core {
    fn namespace(&self, name: &str, router: bool) -> Result<Arc<Namespace>, Error> {
        let valid = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !valid {
            return Err(Error::Name(name.to_owned()));
        }
        if !locked(&self.state).names.insert(name.to_owned()) {
            return Err(Error::NameTaken(name.to_owned()));
        }
        let namespace = Arc::new(Namespace::create(full_name(&self.label, name), router)?);
        locked(&self.state).namespaces.push(namespace.clone());
        Ok(namespace)
    }

    fn keep_wire(&self, link: &Link) {
        locked(&self.state).wires.extend(link.wire());
    }

    /// The core's and the site's address of a fresh /30.
    fn uplink_network(&self, gateway: bool) -> Result<(Ipv4Addr, Ipv4Addr), Error> {
        let mut state = locked(&self.state);
        let (base, count, what) = if gateway {
            (GATEWAYS, &mut state.gateways, "addresses for gateways")
        } else {
            (HOSTS, &mut state.hosts, "addresses for public hosts")
        };
        let network = nth(base, 4, count, 64, what)?;
        Ok((plus(network, 1), plus(network, 2)))
    }

    fn further_address(&self) -> Result<Ipv4Addr, Error> {
        let mut state = locked(&self.state);
        let address = nth(FURTHER, 1, &mut state.further, 254, "further addresses")?;
        Ok(plus(address, 1))
    }

    fn lan_network(&self, public: bool) -> Result<Ipv4Addr, Error> {
        let mut state = locked(&self.state);
        if public {
            nth(PUBLIC_LANS, 256, &mut state.public_lans, 256, "public LANs")
        } else {
            nth(
                plus(PRIVATE_LANS, 256),
                256,
                &mut state.private_lans,
                255,
                "private LANs",
            )
        }
    }

    fn site_prefix(&self) -> Prefix {
        let mut state = locked(&self.state);
        // 0 is left out so that no site has the prefix of the whole; 64 hosts and 64 gateways can't exhaust the rest.
        state.sites = state.sites.saturating_add(1);
        Prefix {
            bits: IPV6.to_bits() | u128::from(state.sites) << 80,
            length: 48,
        }
    }
}

fn nth(
    base: Ipv4Addr,
    step: u32,
    count: &mut u32,
    capacity: u32,
    what: &'static str,
) -> Result<Ipv4Addr, Error> {
    if *count >= capacity {
        return Err(Error::Exhausted(what));
    }
    let address = plus(base, step * *count);
    *count += 1;
    Ok(address)
}

fn plus(address: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().saturating_add(offset))
}

/// An IPv6 prefix that a site may use.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    /// The link between a site and the core.
    fn uplink(self, host: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits | host)
    }

    /// The LAN's own /64.
    fn lan(self, host: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits | 1 << 64 | host)
    }

    /// What a gateway on the LAN gets for its own, of 15 such parts; the part 0 holds the LAN and the uplink.
    fn part(self, index: u16) -> Result<Self, Error> {
        if self.length >= 60 || !(1..=15).contains(&index) {
            return Err(Error::Exhausted(
                "IPv6 prefixes for gateways behind a gateway",
            ));
        }
        let length = self.length + 4;
        Ok(Self {
            bits: self.bits | u128::from(index) << (128 - length),
            length,
        })
    }

    fn network(self) -> String {
        format!("{}/{}", Ipv6Addr::from_bits(self.bits), self.length)
    }
}

/// How a node is addressed on its interface.
#[derive(Debug, Clone, Copy)]
struct Addressing {
    ipv4: Ipv4Addr,
    length: u8,
    router: Ipv4Addr,
    // Own address and router, in a /64.
    ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl Addressing {
    fn batch(&self, link: &Link) -> String {
        let interface = &link.near().interface;
        let Self {
            ipv4,
            length,
            router,
            ipv6,
        } = self;
        let mut batch = format!(
            "addr add {ipv4}/{length} dev {interface}\nroute add default via {router} dev {interface}\n"
        );
        if let Some((address, router)) = ipv6 {
            let _ = writeln!(batch, "addr add {address}/64 dev {interface} nodad");
            let _ = writeln!(batch, "route add default via {router} dev {interface}");
        }
        batch
    }
}

/// Makes both ends know the other's Ethernet address, where asking for it would take a delayed round trip (or a lost
/// one) that no real uplink takes.
fn introduce(
    link: &Link,
    addressing: &Addressing,
    router_mac: Mac,
    router_interface: &str,
) -> Result<(), Error> {
    if link.wire().is_none() {
        return Ok(());
    }
    let near = link.near();
    let (mut inside, mut outside) = (String::new(), String::new());
    let routers = [
        Some((
            IpAddr::from(addressing.ipv4),
            IpAddr::from(addressing.router),
        )),
        addressing
            .ipv6
            .map(|(own, router)| (own.into(), router.into())),
    ];
    for (own, router) in routers.into_iter().flatten() {
        let _ = writeln!(
            inside,
            "neigh replace {router} lladdr {router_mac} dev {} nud permanent",
            near.interface
        );
        let _ = writeln!(
            outside,
            "neigh replace {own} lladdr {} dev {router_interface} nud permanent",
            near.mac
        );
    }
    near.namespace.ip(&inside)?;
    link.configure_far(&outside)
}

/// Bytes and packets of an interface since it exists, Ethernet headers (14 bytes each), address resolution and IPv6's
/// own chatter included. Where the kernel hands over packets larger than the MTU (no delay: no hardware to split them)
/// such a packet counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
}

/// One SYN that a node sent (with its retransmissions, which have the same sequence number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentSyn {
    /// Where it came from, before any NAT.
    pub local: SocketAddr,
    /// Where it was sent.
    pub remote: SocketAddr,
    /// How often: 1 and the retransmissions.
    pub transmissions: u64,
}

/// How many SYNs a node sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SynCount {
    /// First SYNs: one for each time a socket began to connect.
    pub first: u64,
    /// All SYNs, retransmissions included.
    pub total: u64,
}

/// A machine of the lab: what hosts and gateways have in common. Clones are the same machine.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<NodeInner>,
}

#[derive(Debug)]
struct NodeInner {
    core: Arc<Core>,
    name: String,
    namespace: Arc<Namespace>,
    link: Link,
    addressing: Addressing,
}

impl Node {
    fn new(
        core: Arc<Core>,
        name: String,
        namespace: Arc<Namespace>,
        link: Link,
        addressing: Addressing,
    ) -> Result<Self, Error> {
        core.keep_wire(&link);
        namespace.ip(&addressing.batch(&link))?;
        namespace.nft(nft::SYN_BOOK)?;
        Ok(Self {
            inner: Arc::new(NodeInner {
                core,
                name,
                namespace,
                link,
                addressing,
            }),
        })
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The name of its namespace, for `ip netns exec` by hand while a test waits.
    pub fn namespace(&self) -> &str {
        self.inner.namespace.name()
    }

    /// Its IPv4 address; a gateway's outside address.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.inner.addressing.ipv4
    }

    /// Its global IPv6 address, if it has one; a gateway's outside address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.inner.addressing.ipv6.map(|(address, _)| address)
    }

    /// A command that will run inside, to be used like any other [`Command`].
    ///
    /// It is `ip netns exec NAMESPACE PROGRAM`, which becomes the program: the child's pid is the program's. Whatever
    /// still runs inside when the lab is dropped is killed.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.inner.namespace.command(program)
    }

    /// Runs `work` inside, on a thread of its own, and waits for it.
    ///
    /// Sockets opened inside stay there wherever they are used afterwards, and threads started inside are inside, those
    /// of a tokio runtime too. A panic goes on in the caller.
    ///
    /// # Errors
    /// When no thread can be started or the namespace is not to be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.inner.namespace.run(work)
    }

    /// Starts a thread inside and does not wait for it.
    ///
    /// # Errors
    /// When no thread can be started or the namespace is not to be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Error> {
        self.inner.namespace.spawn(work)
    }

    /// What went over its cable (a gateway: the outside one) so far.
    ///
    /// # Errors
    /// When the kernel's table is not to be read.
    pub fn traffic(&self) -> Result<Traffic, Error> {
        let interface = &self.inner.link.near().interface;
        let table = self
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?
            .map_err(|source| Error::io("read the counters of interfaces", source))?;
        parse_traffic(&table, interface).ok_or_else(|| Error::Answer {
            program: "/proc/net/dev",
            message: format!("no counters of {interface}"),
        })
    }

    /// Every SYN that its own sockets sent so far, in no order; at most 65,536 for each of IPv4 and IPv6. A gateway's
    /// are its own, not those it forwards.
    ///
    /// # Errors
    /// When nftables can't be asked.
    pub fn syns(&self) -> Result<Vec<SentSyn>, Error> {
        let mut syns = Vec::new();
        for set in ["v4", "v6"] {
            let answer = self
                .inner
                .namespace
                .nft_json(&["list", "set", "inet", "syns", set])?;
            syns.extend(parse_syns(&answer)?);
        }
        Ok(syns)
    }

    /// Counts the SYNs that its own sockets sent to where `counts` says true, for example
    /// `|to| to.ip() != broker`.
    ///
    /// # Errors
    /// When nftables can't be asked.
    pub fn syns_sent(&self, counts: impl Fn(SocketAddr) -> bool) -> Result<SynCount, Error> {
        let syns = self.syns()?;
        let counted = syns.iter().filter(|syn| counts(syn.remote));
        Ok(counted.fold(SynCount::default(), |count, syn| SynCount {
            first: count.first + 1,
            total: count.total + syn.transmissions,
        }))
    }

    /// Pulls its cable (a gateway: the outside one). It notices (no carrier) and keeps addresses and routes.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_down(&self) -> Result<(), Error> {
        self.inner.link.down()
    }

    /// Plugs its cable in again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_up(&self) -> Result<(), Error> {
        self.inner.link.up()
    }
}

fn parse_traffic(table: &str, interface: &str) -> Option<Traffic> {
    let counters = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface).then_some(counters)
    })?;
    let column = |nth: usize| counters.split_whitespace().nth(nth)?.parse().ok();
    Some(Traffic {
        bytes_in: column(0)?,
        packets_in: column(1)?,
        bytes_out: column(8)?,
        packets_out: column(9)?,
    })
}

fn parse_syns(answer: &serde_json::Value) -> Result<Vec<SentSyn>, Error> {
    let unreadable = || Error::Answer {
        program: "nft",
        message: "the list of SYNs has another form".into(),
    };
    let objects = answer
        .get("nftables")
        .and_then(|it| it.as_array())
        .ok_or_else(unreadable)?;
    let set = objects
        .iter()
        .find_map(|object| object.get("set"))
        .ok_or_else(unreadable)?;
    let Some(elements) = set.get("elem").and_then(|it| it.as_array()) else {
        return Ok(Vec::new());
    };
    elements
        .iter()
        .map(|element| parse_syn(element).ok_or_else(unreadable))
        .collect()
}

fn parse_syn(element: &serde_json::Value) -> Option<SentSyn> {
    let element = element.get("elem")?;
    let key = element.pointer("/val/concat")?;
    let address = |at: usize| -> Option<SocketAddr> {
        let ip: IpAddr = key.get(at)?.as_str()?.parse().ok()?;
        let port = u16::try_from(key.get(at + 1)?.as_u64()?).ok()?;
        Some(SocketAddr::new(ip, port))
    };
    Some(SentSyn {
        local: address(0)?,
        remote: address(2)?,
        transmissions: element.pointer("/counter/packets")?.as_u64()?,
    })
}

/// A computer: on the internet itself or in the LAN of a gateway. Everything else is in [`Node`].
#[derive(Debug, Clone)]
pub struct Host {
    node: Node,
    public: bool,
}

impl Deref for Host {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Host {
    /// Gives a public host one more IPv4 address. At most 254 in a lab.
    ///
    /// # Errors
    /// [`Error::NotPublic`] for a LAN host, or a failure of `ip`.
    pub fn add_ipv4(&self) -> Result<Ipv4Addr, Error> {
        self.must_be_public()?;
        let inner = &self.node.inner;
        let address = inner.core.further_address()?;
        let (near, far) = (inner.link.near(), inner.link.far());
        inner.link.configure_far(&format!(
            "route replace {address} via {} dev {}\n",
            inner.addressing.ipv4, far.interface
        ))?;
        inner
            .namespace
            .ip(&format!("addr add {address}/32 dev {}\n", near.interface))?;
        Ok(address)
    }

    /// Gives a public host one more IPv6 address.
    ///
    /// # Errors
    /// [`Error::NotPublic`] for a LAN host, [`Error::NoIpv6`] for a host without, or a failure of `ip`.
    pub fn add_ipv6(&self) -> Result<Ipv6Addr, Error> {
        self.must_be_public()?;
        let inner = &self.node.inner;
        let (own, _) = inner
            .addressing
            .ipv6
            .ok_or_else(|| Error::NoIpv6(inner.name.clone()))?;
        // Its number in 192.0.2.0/24 is one that no other address of this host has.
        let number = inner.core.further_address()?.to_bits() - FURTHER.to_bits();
        let address = Ipv6Addr::from_bits(own.to_bits() + (u128::from(number) << 16));
        let (near, far) = (inner.link.near(), inner.link.far());
        inner.link.configure_far(&format!(
            "route replace {address}/128 via {own} dev {}\n",
            far.interface
        ))?;
        inner.namespace.ip(&format!(
            "addr add {address}/128 dev {} nodad\n",
            near.interface
        ))?;
        Ok(address)
    }

    fn must_be_public(&self) -> Result<(), Error> {
        if self.public {
            Ok(())
        } else {
            Err(Error::NotPublic(self.name().to_owned()))
        }
    }
}

/// A public host to be.
#[derive(Debug)]
#[must_use = "nothing is there before `start`"]
pub struct HostBuilder {
    core: Arc<Core>,
    name: String,
    conditions: Conditions,
    ipv6: bool,
}

impl HostBuilder {
    /// The one-way delay of its uplink. Two sites are twice the sum of their delays apart, round trip.
    ///
    /// Zero (the default) makes a plain veth, as fast as the kernel; anything else goes through a thread of this process,
    /// late by some tens of microseconds at most on an idle machine.
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.conditions.delay = one_way;
        self
    }

    /// The probability (0.0 to 1.0) that a packet is lost on its uplink, in each direction, decided from `seed`.
    pub fn loss(mut self, probability: f64, seed: u64) -> Self {
        self.conditions.loss = probability;
        self.conditions.seed = seed;
        self
    }

    /// Without IPv6.
    pub fn without_ipv6(mut self) -> Self {
        self.ipv6 = false;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// A name that is taken or unusable, no more addresses, or a failure of `ip` or `nft`.
    pub fn start(self) -> Result<Host, Error> {
        let namespace = self.core.namespace(&self.name, false)?;
        let (link, addressing, _) = attach_to_core(
            &self.core,
            &namespace,
            "eth0",
            self.conditions,
            false,
            self.ipv6,
        )?;
        let node = Node::new(self.core, self.name, namespace, link, addressing)?;
        introduce_to_core(&node)?;
        Ok(Host { node, public: true })
    }
}

fn checked(conditions: Conditions) -> Result<Conditions, Error> {
    if !(0.0..=1.0).contains(&conditions.loss) {
        return Err(Error::OutOfRange(format!(
            "a loss is a probability from 0.0 to 1.0, not {}",
            conditions.loss
        )));
    }
    if conditions.delay > Duration::from_secs(60) {
        return Err(Error::OutOfRange(format!(
            "a delay is at most a minute, not {:?}",
            conditions.delay
        )));
    }
    Ok(conditions)
}

fn attach_to_core(
    core: &Arc<Core>,
    namespace: &Arc<Namespace>,
    interface: &str,
    conditions: Conditions,
    gateway: bool,
    ipv6: bool,
) -> Result<(Link, Addressing, Option<Prefix>), Error> {
    let conditions = checked(conditions)?;
    let (router, ipv4) = core.uplink_network(gateway)?;
    let prefix = core.site_prefix();
    let near = End {
        namespace: namespace.clone(),
        interface: interface.to_owned(),
        mac: Mac::next(),
    };
    let far = End {
        namespace: core.namespace.clone(),
        interface: format!(
            "{}{}",
            if gateway { "gw" } else { "host" },
            (router.to_bits() & 0xff) >> 2
        ),
        mac: Mac::next(),
    };
    let link = Link::lay(near, far, None, conditions)?;
    let port = &link.far().interface;
    let mut batch = format!("addr replace {router}/30 dev {port}\n");
    let ipv6 = ipv6.then(|| (prefix.uplink(2), prefix.uplink(1)));
    if let Some((own, router)) = ipv6 {
        let _ = writeln!(batch, "addr replace {router}/64 dev {port} nodad");
        let _ = writeln!(
            batch,
            "route replace {} via {own} dev {port}",
            prefix.network()
        );
    }
    link.configure_far(&batch)?;
    let addressing = Addressing {
        ipv4,
        length: 30,
        router,
        ipv6,
    };
    Ok((link, addressing, ipv6.map(|_| prefix)))
}

fn introduce_to_core(node: &Node) -> Result<(), Error> {
    let link = &node.inner.link;
    let far = link.far();
    introduce(link, &node.inner.addressing, far.mac, &far.interface)
}

#[derive(Debug, Clone)]
enum Upstream {
    Core(Arc<Core>),
    Gateway(Gateway),
}

impl Upstream {
    fn core(&self) -> &Arc<Core> {
        match self {
            Self::Core(core) => core,
            Self::Gateway(gateway) => &gateway.node.inner.core,
        }
    }

    /// Whether what hangs on it has an address that all the internet can reach, firewalls permitting.
    fn public(&self) -> bool {
        match self {
            Self::Core(_) => true,
            Self::Gateway(gateway) => gateway.inner.public_lan,
        }
    }
}

/// A gateway to be.
#[derive(Debug)]
#[must_use = "nothing is there before `start`"]
pub struct GatewayBuilder {
    upstream: Upstream,
    name: String,
    nat: KernelNat,
    conditions: Conditions,
    ipv6: Option<Ipv6Policy>,
    lan: Option<(Ipv4Addr, u8)>,
}

impl GatewayBuilder {
    fn new(upstream: Upstream, name: &str, nat: KernelNat) -> Self {
        Self {
            upstream,
            name: name.to_owned(),
            nat,
            conditions: Conditions::PERFECT,
            ipv6: None,
            lan: None,
        }
    }

    /// The one-way delay of its uplink; see [`HostBuilder::delay`].
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.conditions.delay = one_way;
        self
    }

    /// The probability (0.0 to 1.0) that a packet is lost on its uplink, in each direction, decided from `seed`.
    pub fn loss(mut self, probability: f64, seed: u64) -> Self {
        self.conditions.loss = probability;
        self.conditions.seed = seed;
        self
    }

    /// Gives the LAN global IPv6 addresses behind a stateful firewall that answers the unsolicited like this. Without
    /// this or [`ipv6_open`](Self::ipv6_open) the LAN has no IPv6.
    pub fn ipv6(mut self, refusal: Refusal) -> Self {
        self.ipv6 = Some(Ipv6Policy::Firewall(refusal));
        self
    }

    /// Gives the LAN global IPv6 addresses and no firewall for them: the carrier's side of most networks.
    pub fn ipv6_open(mut self) -> Self {
        self.ipv6 = Some(Ipv6Policy::Open);
        self
    }

    /// The LAN's IPv4 network, with a prefix length of 16 to 29; two gateways may well have the same.
    ///
    /// Without this it is one of 192.168.0.0/16, and behind a firewall without NAT a public one, /24 and different for
    /// each gateway of the lab. The gateway has the network's first address, hosts have the following.
    pub fn lan(mut self, network: Ipv4Addr, prefix_length: u8) -> Self {
        self.lan = Some((network, prefix_length));
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// A name that is taken or unusable, no more addresses, [`Error::NoIpv6`] when what it hangs on has none to give, or
    /// a failure of `ip` or `nft`.
    pub fn start(self) -> Result<Gateway, Error> {
        let core = self.upstream.core().clone();
        let public_lan = self.nat.translation() == Translation::None && self.upstream.public();
        let (lan, length) = match self.lan {
            Some((network, length)) if (16..=29).contains(&length) => {
                let mask = u32::MAX << (32 - u32::from(length));
                (Ipv4Addr::from_bits(network.to_bits() & mask), length)
            }
            Some((_, length)) => {
                return Err(Error::OutOfRange(format!(
                    "a LAN's prefix length is 16 to 29, not {length}"
                )));
            }
            None => (core.lan_network(public_lan)?, 24),
        };
        let namespace = core.namespace(&self.name, true)?;
        let wants_ipv6 = self.ipv6.is_some();
        let (link, addressing, prefix) = match &self.upstream {
            Upstream::Core(core) => {
                attach_to_core(core, &namespace, "wan", self.conditions, true, wants_ipv6)?
            }
            Upstream::Gateway(outer) => {
                outer.attach(&namespace, "wan", self.conditions, wants_ipv6)?
            }
        };

        let lan_mac = Mac::next();
        let mut batch = format!(
            "link add lan address {lan_mac} type bridge mcast_snooping 0\nlink set lan up\naddr add {}/{length} dev lan\n",
            plus(lan, 1)
        );
        if let Some(prefix) = prefix {
            let _ = writeln!(batch, "addr add {}/64 dev lan nodad", prefix.lan(1));
            // Else what nobody has would go back and forth over the uplink until its TTL ends (RFC 7084, WPD-5).
            let _ = writeln!(batch, "route add unreachable {}", prefix.network());
        }
        namespace.ip(&batch)?;
        let wan = addressing.ipv4;
        namespace.nft(&nft::gateway(&self.nat, wan, (lan, length), self.ipv6))?;

        let node = Node::new(core, self.name, namespace, link, addressing)?;
        match &self.upstream {
            Upstream::Core(_) => introduce_to_core(&node)?,
            Upstream::Gateway(outer) => outer.introduce(&node)?,
        }
        if self.nat.translation() == Translation::None {
            announce(&self.upstream, &node, format!("{lan}/{length}"))?;
        }
        if let (Upstream::Gateway(_), Some(prefix), Some(own)) =
            (&self.upstream, prefix, node.ipv6())
        {
            node.inner.link.configure_far(&format!(
                "route replace {} via {own} dev lan\n",
                prefix.network()
            ))?;
        }
        Ok(Gateway {
            node,
            inner: Arc::new(GatewayInner {
                nat: self.nat,
                upstream: self.upstream,
                lan,
                length,
                lan_mac,
                ipv6: self.ipv6,
                prefix,
                public_lan,
                members: Mutex::new(0),
            }),
        })
    }
}

/// Makes the way to a LAN without NAT known as far out as its addresses are seen.
fn announce(upstream: &Upstream, node: &Node, network: String) -> Result<(), Error> {
    let link = &node.inner.link;
    let interface = match upstream {
        Upstream::Core(_) => link.far().interface.as_str(),
        Upstream::Gateway(_) => "lan",
    };
    link.configure_far(&format!(
        "route replace {network} via {} dev {interface}\n",
        node.ipv4()
    ))?;
    match upstream {
        Upstream::Gateway(outer) if outer.inner.nat.translation() == Translation::None => {
            announce(&outer.inner.upstream, &outer.node, network)
        }
        _ => Ok(()),
    }
}

/// A NAT or firewall with a LAN behind it. Clones are the same machine.
///
/// As a [`Node`] it is what its outside is: [`ipv4`](Node::ipv4) is the outside address, [`traffic`](Node::traffic) that
/// of the uplink.
#[derive(Debug, Clone)]
pub struct Gateway {
    node: Node,
    inner: Arc<GatewayInner>,
}

#[derive(Debug)]
struct GatewayInner {
    nat: KernelNat,
    upstream: Upstream,
    lan: Ipv4Addr,
    length: u8,
    lan_mac: Mac,
    ipv6: Option<Ipv6Policy>,
    prefix: Option<Prefix>,
    public_lan: bool,
    members: Mutex<u16>,
}

impl Deref for Gateway {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Gateway {
    /// A host in the LAN, by an undelayed cable, with the gateway as its router. It has IPv6 if the gateway has.
    ///
    /// # Errors
    /// A name that is taken or unusable, no more addresses in the LAN, or a failure of `ip` or `nft`.
    pub fn host(&self, name: &str) -> Result<Host, Error> {
        let core = self.node.inner.core.clone();
        let namespace = core.namespace(name, false)?;
        let (link, addressing, _) = self.attach(&namespace, "eth0", Conditions::PERFECT, false)?;
        let node = Node::new(core, name.to_owned(), namespace, link, addressing)?;
        Ok(Host {
            node,
            public: false,
        })
    }

    /// A gateway whose outside is in this one's LAN: the home router behind a carrier-grade NAT, the guest's access
    /// point behind the host's.
    pub fn gateway(&self, name: &str, nat: KernelNat) -> GatewayBuilder {
        GatewayBuilder::new(Upstream::Gateway(self.clone()), name, nat)
    }

    /// What it does to IPv4.
    pub fn nat(&self) -> &KernelNat {
        &self.inner.nat
    }

    /// Its IPv4 address in the LAN.
    pub fn lan_ipv4(&self) -> Ipv4Addr {
        plus(self.inner.lan, 1)
    }

    /// Forwards a TCP port of its outside address to the same port of `to`, which is a host or gateway in its LAN: what
    /// a user sets up by hand. A firewall without NAT opens that port of `to` instead. IPv4 only.
    ///
    /// # Errors
    /// [`Error::NotInside`], or a failure of `nft`.
    pub fn forward_port(&self, port: u16, to: &Node) -> Result<(), Error> {
        self.must_be_inside(to)?;
        let command = nft::forward(&self.inner.nat, port, to.ipv4());
        self.node.inner.namespace.nft(&command)
    }

    /// Lets connections from outside in to one IPv6 TCP port of `to`.
    ///
    /// # Errors
    /// [`Error::NoIpv6`], [`Error::NotInside`], or a failure of `nft`.
    pub fn open_ipv6_port(&self, port: u16, to: &Node) -> Result<(), Error> {
        self.must_be_inside(to)?;
        let address = to
            .ipv6()
            .ok_or_else(|| Error::NoIpv6(to.name().to_owned()))?;
        match self.inner.ipv6 {
            Some(Ipv6Policy::Firewall(_)) => {
                self.node.inner.namespace.nft(&nft::pinhole(port, address))
            }
            Some(Ipv6Policy::Open) => Ok(()),
            None => Err(Error::NoIpv6(self.name().to_owned())),
        }
    }

    fn must_be_inside(&self, node: &Node) -> Result<(), Error> {
        let far = node.inner.link.far();
        if Arc::ptr_eq(&far.namespace, &self.node.inner.namespace) {
            Ok(())
        } else {
            Err(Error::NotInside {
                node: node.name().to_owned(),
                gateway: self.name().to_owned(),
            })
        }
    }

    /// Connects a namespace to the LAN. A router that wants IPv6 gets a prefix of its own.
    fn attach(
        &self,
        namespace: &Arc<Namespace>,
        interface: &str,
        conditions: Conditions,
        prefix_wanted: bool,
    ) -> Result<(Link, Addressing, Option<Prefix>), Error> {
        let conditions = checked(conditions)?;
        let router = interface == "wan";
        let member = {
            let mut members = locked(&self.inner.members);
            // Without the network, the gateway and the broadcast address.
            let capacity = (1u32 << (32 - u32::from(self.inner.length))) - 3;
            if u32::from(*members) >= capacity {
                return Err(Error::Exhausted("addresses in that LAN"));
            }
            *members += 1;
            *members - 1
        };
        let number = u32::from(member) + 2;
        let prefix = match (prefix_wanted, self.inner.prefix) {
            (false, _) => None,
            (true, Some(prefix)) => Some(prefix.part(member + 1)?),
            (true, None) => return Err(Error::NoIpv6(self.name().to_owned())),
        };
        let ipv6 = match self.inner.prefix {
            Some(prefix) if prefix_wanted || !router => {
                Some((prefix.lan(number.into()), prefix.lan(1)))
            }
            _ => None,
        };
        let near = End {
            namespace: namespace.clone(),
            interface: interface.to_owned(),
            mac: Mac::next(),
        };
        let far = End {
            namespace: self.node.inner.namespace.clone(),
            interface: format!("port{number}"),
            mac: Mac::next(),
        };
        let link = Link::lay(near, far, Some("lan"), conditions)?;
        let ipv4 = plus(self.inner.lan, number);
        if let Some(commands) = nft::inside(&self.inner.nat, member, ipv4) {
            self.node.inner.namespace.nft(&commands)?;
        }
        let addressing = Addressing {
            ipv4,
            length: self.inner.length,
            router: self.lan_ipv4(),
            ipv6,
        };
        Ok((link, addressing, prefix))
    }

    fn introduce(&self, inner: &Node) -> Result<(), Error> {
        let link = &inner.inner.link;
        introduce(link, &inner.inner.addressing, self.inner.lan_mac, "lan")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_gateways_behind_gateways_do_not_overlap() {
        let site = Prefix {
            bits: IPV6.to_bits() | 1 << 80,
            length: 48,
        };
        assert_eq!(site.uplink(1).to_string(), "2001:db8:1::1");
        assert_eq!(site.lan(2).to_string(), "2001:db8:1:1::2");
        let first = site.part(1).unwrap();
        assert_eq!(first.network(), "2001:db8:1:1000::/52");
        assert_eq!(first.lan(1).to_string(), "2001:db8:1:1001::1");
        let deepest = first.part(15).unwrap().part(2).unwrap();
        assert_eq!(deepest.network(), "2001:db8:1:1f20::/60");
        assert!(deepest.part(1).is_err());
        assert!(site.part(16).is_err());
    }

    #[test]
    fn counters_of_an_interface_are_found_by_its_whole_name() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes packets errs\n    \
                     lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  \
                     eth0: 50 6 0 0 0 0 0 0 70 8 0 0 0 0 0 0\n";
        let traffic = parse_traffic(table, "eth0").unwrap();
        assert_eq!((traffic.bytes_in, traffic.packets_in), (50, 6));
        assert_eq!((traffic.bytes_out, traffic.packets_out), (70, 8));
        assert!(parse_traffic(table, "eth").is_none());
    }

    #[test]
    fn syns_are_read_from_what_nft_prints() {
        let answer = serde_json::json!({"nftables": [{"metainfo": {}}, {"set": {"name": "v6", "elem": [
            {"elem": {"val": {"concat": ["2001:db8::1", 59886, "2001:db8::2", 99, 3711408576u32]},
                      "counter": {"packets": 3, "bytes": 240}}}]}}]});
        let syns = parse_syns(&answer).unwrap();
        assert_eq!(syns.len(), 1);
        assert_eq!(syns[0].remote, "[2001:db8::2]:99".parse().unwrap());
        assert_eq!(syns[0].transmissions, 3);
        let empty = serde_json::json!({"nftables": [{"set": {"name": "v4"}}]});
        assert!(parse_syns(&empty).unwrap().is_empty());
        assert!(parse_syns(&serde_json::json!({})).is_err());
    }
}
