//! The lab and its core.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Error;
use crate::availability::availability;
use crate::kernel::address::{Addressing, Plan, Prefix};
use crate::kernel::cable::{End, Link, Mac};
use crate::kernel::gateway::{GatewayBuilder, Upstream};
use crate::kernel::nft::KernelNat;
use crate::kernel::node::{HostBuilder, Role};
use crate::kernel::wire::{Cabling, Wire};
use crate::namespace::{Namespace, full_name, next_lab};

/// What no router of the internet has a route to; most drop it without a word.
const MARTIANS: [&str; 6] =
    ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
pub(crate) struct Core {
    label: String,
    namespace: Arc<Namespace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: HashSet<String>,
    namespaces: Vec<Arc<Namespace>>,
    wires: Vec<Arc<Wire>>,
    plan: Plan,
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
        Ok(Self { core: Arc::new(Core { label, namespace, state: Mutex::new(state) }) })
    }

    /// A host directly on the internet: addresses of its own, no firewall. At most 64.
    ///
    /// `name` is unique in the lab: 1 to 32 ASCII letters, digits or hyphens.
    pub fn public_host(&self, name: &str) -> HostBuilder {
        HostBuilder::new(self.core.clone(), name)
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
            (std::mem::take(&mut state.wires), std::mem::take(&mut state.namespaces))
        };
        Namespace::remove_all(namespaces.iter().map(Arc::as_ref));
        Wire::stop_all(wires.iter().map(Arc::as_ref));
    }
}

impl Core {
    pub(crate) fn namespace(&self, name: &str, router: bool) -> Result<Arc<Namespace>, Error> {
        let valid =
            (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
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

    pub(crate) fn keep_wire(&self, link: &Link) {
        locked(&self.state).wires.extend(link.wire());
    }

    pub(crate) fn plan<T>(&self, take: impl FnOnce(&mut Plan) -> T) -> T {
        take(&mut locked(&self.state).plan)
    }

    /// Connects a namespace to the core. With `ipv6` the site gets a prefix that is routed to it.
    pub(crate) fn attach(
        &self,
        namespace: &Arc<Namespace>,
        role: Role,
        cabling: Cabling,
        ipv6: bool,
    ) -> Result<(Link, Addressing, Option<Prefix>), Error> {
        let cabling = cabling.checked()?;
        let (router, ipv4) = self.plan(|plan| plan.uplink(role == Role::Router))?;
        let prefix = self.plan(Plan::site);
        let near =
            End { namespace: namespace.clone(), interface: role.interface().to_owned(), mac: Mac::next() };
        let far = End {
            namespace: self.namespace.clone(),
            interface: format!(
                "{}{}",
                if role == Role::Router { "gw" } else { "host" },
                (router.to_bits() & 0xff) >> 2
            ),
            mac: Mac::next(),
        };
        let link = Link::lay(near, far, None, cabling)?;
        let port = &link.far().interface;
        let mut batch = format!("addr replace {router}/30 dev {port}\n");
        let ipv6 = ipv6.then(|| (prefix.uplink(2), prefix.uplink(1)));
        if let Some((own, router)) = ipv6 {
            let _ = writeln!(batch, "addr replace {router}/64 dev {port} nodad");
            let _ = writeln!(batch, "route replace {} via {own} dev {port}", prefix.network());
        }
        link.configure_far(&batch)?;
        let addressing = Addressing { ipv4, length: 30, router, ipv6 };
        Ok((link, addressing, ipv6.map(|_| prefix)))
    }
}

/// Makes both ends know the other's Ethernet address, where asking for it would take a delayed round trip (or a lost
/// one) that no real uplink takes.
pub(crate) fn introduce(
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
        Some((IpAddr::from(addressing.ipv4), IpAddr::from(addressing.router))),
        addressing.ipv6.map(|(own, router)| (own.into(), router.into())),
    ];
    for (own, router) in routers.into_iter().flatten() {
        let _ = writeln!(
            inside,
            "neigh replace {router} lladdr {router_mac} dev {} nud permanent",
            near.interface
        );
        let _ =
            writeln!(outside, "neigh replace {own} lladdr {} dev {router_interface} nud permanent", near.mac);
    }
    near.namespace.ip(&inside)?;
    link.configure_far(&outside)
}
