//! Machines of the lab: what can be done with and seen of them, and the hosts among them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Error;
use crate::kernel::address::{Addressing, Plan, number};
use crate::kernel::cable::{Link, Mac};
use crate::kernel::gateway::Upstream;
use crate::kernel::lab::{Core, introduce, locked};
use crate::kernel::nft;
use crate::kernel::wire::Cabling;
use crate::namespace::Namespace;

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

/// What a node is to what it hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Host,
    Router,
}

impl Role {
    /// The interface of its cable.
    pub(crate) fn interface(self) -> &'static str {
        match self {
            Self::Host => "eth0",
            Self::Router => "wan",
        }
    }
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
    place: Mutex<Place>,
}

/// Where it is plugged in, and as what.
#[derive(Debug, Clone)]
struct Place {
    link: Arc<Link>,
    addressing: Addressing,
}

impl Node {
    pub(crate) fn new(
        core: Arc<Core>,
        name: String,
        namespace: Arc<Namespace>,
        link: Link,
        addressing: Addressing,
    ) -> Result<Self, Error> {
        core.keep_wire(&link);
        namespace.ip(&addressing.batch(&link))?;
        namespace.nft(nft::SYN_BOOK)?;
        let place = Mutex::new(Place { link: Arc::new(link), addressing });
        Ok(Self { inner: Arc::new(NodeInner { core, name, namespace, place }) })
    }

    /// Pulls its cable for good and plugs in another, which gives it other addresses.
    pub(crate) fn replug(&self, link: Link, addressing: Addressing) -> Result<(), Error> {
        self.inner.core.keep_wire(&link);
        self.inner.namespace.ip(&addressing.batch(&link))?;
        *locked(&self.inner.place) = Place { link: Arc::new(link), addressing };
        Ok(())
    }

    /// Takes its IPv4 address away and gives it another on the same cable.
    pub(crate) fn renumber(&self, addressing: Addressing) -> Result<(), Error> {
        let old = self.addressing();
        let link = self.link();
        let interface = &link.near().interface;
        let Addressing { ipv4, length, router, .. } = addressing;
        self.inner.namespace.ip(&format!(
            "addr del {}/{} dev {interface}\naddr add {ipv4}/{length} dev {interface}\n\
             route replace default via {router} dev {interface}\n",
            old.ipv4, old.length
        ))?;
        locked(&self.inner.place).addressing = addressing;
        Ok(())
    }

    pub(crate) fn addressing(&self) -> Addressing {
        locked(&self.inner.place).addressing
    }

    /// A host in a LAN.
    pub(crate) fn into_lan_host(self) -> Host {
        Host { node: self, public: false }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        locked(&self.inner.place).link.clone()
    }

    pub(crate) fn inside(&self) -> &Arc<Namespace> {
        &self.inner.namespace
    }

    pub(crate) fn introduce_to_core(&self) -> Result<(), Error> {
        let link = self.link();
        let far = link.far();
        self.introduce(far.mac, &far.interface)
    }

    /// Makes it and its router know each other's Ethernet addresses on a delayed cable.
    pub(crate) fn introduce(&self, router: Mac, interface: &str) -> Result<(), Error> {
        introduce(&self.link(), &self.addressing(), router, interface)
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
        self.addressing().ipv4
    }

    /// Its global IPv6 address, if it has one; a gateway's outside address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.addressing().ipv6.map(|(address, _)| address)
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
        let link = self.link();
        let interface = &link.near().interface;
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
            let answer = self.inner.namespace.nft_json(&["list", "set", "inet", "syns", set])?;
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
        self.link().down()
    }

    /// Plugs its cable in again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_up(&self) -> Result<(), Error> {
        self.link().up()
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
    let unreadable = || Error::Answer { program: "nft", message: "the list of SYNs has another form".into() };
    let objects = answer.get("nftables").and_then(|it| it.as_array()).ok_or_else(unreadable)?;
    let set = objects.iter().find_map(|object| object.get("set")).ok_or_else(unreadable)?;
    let Some(elements) = set.get("elem").and_then(|it| it.as_array()) else {
        return Ok(Vec::new());
    };
    elements.iter().map(|element| parse_syn(element).ok_or_else(unreadable)).collect()
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
        let address = inner.core.plan(Plan::further)?;
        let link = self.link();
        let (near, far) = (link.near(), link.far());
        link.configure_far(&format!("route replace {address} via {} dev {}\n", self.ipv4(), far.interface))?;
        inner.namespace.ip(&format!("addr add {address}/32 dev {}\n", near.interface))?;
        Ok(address)
    }

    /// Gives a public host one more IPv6 address.
    ///
    /// # Errors
    /// [`Error::NotPublic`] for a LAN host, [`Error::NoIpv6`] for a host without, or a failure of `ip`.
    pub fn add_ipv6(&self) -> Result<Ipv6Addr, Error> {
        self.must_be_public()?;
        let inner = &self.node.inner;
        let (own, _) = self.addressing().ipv6.ok_or_else(|| Error::NoIpv6(inner.name.clone()))?;
        // Its number in 192.0.2.0/24 is one that no other address of this host has.
        let number = number(inner.core.plan(Plan::further)?);
        let address = Ipv6Addr::from_bits(own.to_bits() + (u128::from(number) << 16));
        let link = self.link();
        let (near, far) = (link.near(), link.far());
        link.configure_far(&format!("route replace {address}/128 via {own} dev {}\n", far.interface))?;
        inner.namespace.ip(&format!("addr add {address}/128 dev {} nodad\n", near.interface))?;
        Ok(address)
    }

    fn must_be_public(&self) -> Result<(), Error> {
        if self.public { Ok(()) } else { Err(Error::NotPublic(self.name().to_owned())) }
    }
}

/// A public host to be.
#[derive(Debug)]
#[must_use = "nothing is there before `start`"]
pub struct HostBuilder {
    core: Arc<Core>,
    name: String,
    cabling: Cabling,
    ipv6: bool,
}

impl HostBuilder {
    pub(crate) fn new(core: Arc<Core>, name: &str) -> Self {
        Self { core, name: name.to_owned(), cabling: Cabling::PERFECT, ipv6: true }
    }

    /// The one-way delay of its uplink. Two sites are twice the sum of their delays apart, round trip.
    ///
    /// Zero (the default) makes a plain veth, as fast as the kernel; anything else goes through a thread of this process,
    /// late by some tens of microseconds at most on an idle machine.
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.cabling = self.cabling.delayed(one_way);
        self
    }

    /// The probability (0.0 to 1.0) that a packet is lost on its uplink, in each direction, decided from `seed`.
    pub fn loss(mut self, probability: f64, seed: u64) -> Self {
        self.cabling = self.cabling.losing(probability, seed);
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
        let upstream = Upstream::Core(self.core);
        let (node, _) = upstream.plug_in(self.name, Role::Host, self.cabling, self.ipv6)?;
        Ok(Host { node, public: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
