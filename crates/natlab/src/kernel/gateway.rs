//! NATs and firewalls with the LANs behind them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::Error;
use crate::kernel::address::{Addressing, Prefix, plus};
use crate::kernel::cable::{End, Link, Mac};
use crate::kernel::lab::{Core, locked};
use crate::kernel::nft::{self, Ipv6Policy, KernelNat, Refusal, Translation};
use crate::kernel::node::{Host, Node, Role};
use crate::kernel::wire::Cabling;
use crate::namespace::Namespace;

#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    Core(Arc<Core>),
    Gateway(Gateway),
}

impl Upstream {
    fn core(&self) -> &Arc<Core> {
        match self {
            Self::Core(core) => core,
            Self::Gateway(gateway) => gateway.node.core(),
        }
    }

    /// Whether what hangs on it has an address that all the internet can reach, firewalls permitting.
    fn public(&self) -> bool {
        match self {
            Self::Core(_) => true,
            Self::Gateway(gateway) => gateway.inner.public_lan,
        }
    }

    /// Makes a node that hangs on this. A router that wants IPv6 gets a prefix that is routed to it.
    pub(crate) fn plug_in(
        &self,
        name: String,
        role: Role,
        cabling: Cabling,
        ipv6: bool,
    ) -> Result<(Node, Option<Prefix>), Error> {
        let core = self.core().clone();
        let namespace = core.namespace(&name, role == Role::Router)?;
        let (link, addressing, prefix) = match self {
            Self::Core(core) => core.attach(&namespace, role, cabling, ipv6)?,
            Self::Gateway(outer) => outer.attach(&namespace, role, cabling, ipv6)?,
        };
        let node = Node::new(core, name, namespace, link, addressing)?;
        match self {
            Self::Core(_) => node.introduce_to_core()?,
            Self::Gateway(outer) => node.introduce(outer.inner.lan_mac, "lan")?,
        }
        Ok((node, prefix))
    }
}

/// A gateway to be.
#[derive(Debug)]
#[must_use = "nothing is there before `start`"]
pub struct GatewayBuilder {
    upstream: Upstream,
    name: String,
    nat: KernelNat,
    cabling: Cabling,
    ipv6: Option<Ipv6Policy>,
    lan: Option<(Ipv4Addr, u8)>,
}

impl GatewayBuilder {
    pub(crate) fn new(upstream: Upstream, name: &str, nat: KernelNat) -> Self {
        Self { upstream, name: name.to_owned(), nat, cabling: Cabling::PERFECT, ipv6: None, lan: None }
    }

    /// The one-way delay of its uplink; see [`HostBuilder::delay`](crate::kernel::HostBuilder::delay).
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.cabling = self.cabling.delayed(one_way);
        self
    }

    /// The probability (0.0 to 1.0) that a packet is lost on its uplink, in each direction, decided from `seed`.
    pub fn loss(mut self, probability: f64, seed: u64) -> Self {
        self.cabling = self.cabling.losing(probability, seed);
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
                return Err(Error::OutOfRange(format!("a LAN's prefix length is 16 to 29, not {length}")));
            }
            None => (core.plan(|plan| plan.lan(public_lan))?, 24),
        };
        let (node, prefix) =
            self.upstream.plug_in(self.name, Role::Router, self.cabling, self.ipv6.is_some())?;

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
        node.inside().ip(&batch)?;
        node.inside().nft(&nft::gateway(&self.nat, node.ipv4(), (lan, length), self.ipv6))?;
        if self.nat.translation() == Translation::None {
            announce(&self.upstream, &node, format!("{lan}/{length}"))?;
        }
        if let (Upstream::Gateway(_), Some(prefix), Some(own)) = (&self.upstream, prefix, node.ipv6()) {
            node.link().configure_far(&format!("route replace {} via {own} dev lan\n", prefix.network()))?;
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
                members: Mutex::default(),
            }),
        })
    }
}

/// Makes the way to a LAN without NAT known as far out as its addresses are seen.
fn announce(upstream: &Upstream, node: &Node, network: String) -> Result<(), Error> {
    let link = node.link();
    let interface = match upstream {
        Upstream::Core(_) => link.far().interface.as_str(),
        Upstream::Gateway(_) => "lan",
    };
    link.configure_far(&format!("route replace {network} via {} dev {interface}\n", node.ipv4()))?;
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
    members: Mutex<Members>,
}

/// What of a LAN is given away.
#[derive(Debug, Default)]
struct Members {
    addresses: u16,
    prefixes: u16,
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
        let upstream = Upstream::Gateway(self.clone());
        let (node, _) = upstream.plug_in(name.to_owned(), Role::Host, Cabling::PERFECT, false)?;
        Ok(node.into_lan_host())
    }

    /// Moves a LAN host of any gateway into this LAN, by another cable: its addresses and its router are others, and what
    /// runs on it goes on. Where it came from nothing is told.
    ///
    /// # Errors
    /// No more addresses in the LAN, or a failure of `ip` or `nft`.
    pub fn take_in(&self, host: &Host) -> Result<(), Error> {
        let interface = host.link().near().interface.clone();
        // With it goes the other end.
        host.inside().ip(&format!("link del {interface}\n"))?;
        let (link, addressing, _) = self.attach(host.inside(), Role::Host, Cabling::PERFECT, false)?;
        host.replug(link, addressing)
    }

    /// Gives a host in this LAN another IPv4 address, as a DHCP server may when the lease is renewed: the old one is gone
    /// at once.
    ///
    /// # Errors
    /// [`Error::NotInside`], no more addresses in the LAN, or a failure of `ip` or `nft`.
    pub fn renumber(&self, host: &Host) -> Result<Ipv4Addr, Error> {
        self.must_be_inside(host)?;
        let member = self.member()?;
        let ipv4 = self.address(member)?;
        host.renumber(Addressing { ipv4, ..host.addressing() })?;
        Ok(ipv4)
    }

    /// What a restart of a home router does: every mapping and every forwarded port is forgotten, and the outside address
    /// is another one. Hosts inside notice nothing. Only for a gateway that hangs on the core.
    ///
    /// # Errors
    /// [`Error::NotPublic`], no more addresses, or a failure of `ip` or `nft`.
    pub fn restart(&self) -> Result<Ipv4Addr, Error> {
        let Upstream::Core(core) = &self.inner.upstream else {
            return Err(Error::NotPublic(self.name().to_owned()));
        };
        let old = self.node.addressing();
        let (router, ipv4) = core.plan(|plan| plan.uplink(true))?;
        let link = self.node.link();
        let far = &link.far().interface;
        link.configure_far(&format!("addr replace {router}/{} dev {far}\n", old.length))?;
        self.node.renumber(Addressing { ipv4, router, ..old })?;
        self.node.introduce_to_core()?;
        let members = locked(&self.inner.members).addresses;
        let mut script = nft::again(&self.inner.nat, ipv4, (self.inner.lan, self.inner.length));
        for member in 0..members {
            script.extend(nft::inside(&self.inner.nat, member, plus(self.inner.lan, u32::from(member) + 2)));
        }
        self.node.inside().nft(&script)?;
        self.node.inside().forget_connections()?;
        Ok(ipv4)
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
        self.node.inside().nft(&command)
    }

    /// Lets connections from outside in to one IPv6 TCP port of `to`.
    ///
    /// # Errors
    /// [`Error::NoIpv6`], [`Error::NotInside`], or a failure of `nft`.
    pub fn open_ipv6_port(&self, port: u16, to: &Node) -> Result<(), Error> {
        self.must_be_inside(to)?;
        let address = to.ipv6().ok_or_else(|| Error::NoIpv6(to.name().to_owned()))?;
        match self.inner.ipv6 {
            Some(Ipv6Policy::Firewall(_)) => self.node.inside().nft(&nft::pinhole(port, address)),
            Some(Ipv6Policy::Open) => Ok(()),
            None => Err(Error::NoIpv6(self.name().to_owned())),
        }
    }

    fn must_be_inside(&self, node: &Node) -> Result<(), Error> {
        if Arc::ptr_eq(&node.link().far().namespace, self.node.inside()) {
            Ok(())
        } else {
            Err(Error::NotInside { node: node.name().to_owned(), gateway: self.name().to_owned() })
        }
    }

    /// The number of one more address in the LAN.
    fn member(&self) -> Result<u16, Error> {
        let mut members = locked(&self.inner.members);
        // Without the network, the gateway and the broadcast address.
        let capacity = (1u32 << (32 - u32::from(self.inner.length))) - 3;
        if u32::from(members.addresses) >= capacity {
            return Err(Error::Exhausted("addresses in that LAN"));
        }
        members.addresses += 1;
        Ok(members.addresses - 1)
    }

    /// That address, known to the NAT.
    fn address(&self, member: u16) -> Result<Ipv4Addr, Error> {
        let ipv4 = plus(self.inner.lan, u32::from(member) + 2);
        if let Some(commands) = nft::inside(&self.inner.nat, member, ipv4) {
            self.node.inside().nft(&commands)?;
        }
        Ok(ipv4)
    }

    /// Connects a namespace to the LAN. A router that wants IPv6 gets a prefix of its own.
    fn attach(
        &self,
        namespace: &Arc<Namespace>,
        role: Role,
        cabling: Cabling,
        prefix_wanted: bool,
    ) -> Result<(Link, Addressing, Option<Prefix>), Error> {
        let cabling = cabling.checked()?;
        let prefix = match (prefix_wanted, self.inner.prefix) {
            (false, _) => None,
            (true, Some(prefix)) => {
                let mut members = locked(&self.inner.members);
                let part = prefix.part(members.prefixes + 1)?;
                members.prefixes += 1;
                Some(part)
            }
            (true, None) => return Err(Error::NoIpv6(self.name().to_owned())),
        };
        let member = self.member()?;
        let number = u32::from(member) + 2;
        let ipv6 = match self.inner.prefix {
            Some(prefix) if prefix_wanted || role == Role::Host => {
                Some((prefix.lan(number.into()), prefix.lan(1)))
            }
            _ => None,
        };
        let near =
            End { namespace: namespace.clone(), interface: role.interface().to_owned(), mac: Mac::next() };
        let far = End {
            namespace: self.node.inside().clone(),
            interface: format!("port{number}"),
            mac: Mac::next(),
        };
        let link = Link::lay(near, far, Some("lan"), cabling)?;
        let ipv4 = self.address(member)?;
        let addressing = Addressing { ipv4, length: self.inner.length, router: self.lan_ipv4(), ipv6 };
        Ok((link, addressing, prefix))
    }
}
