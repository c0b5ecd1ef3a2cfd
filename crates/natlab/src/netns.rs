//! An internet in real time: each host a network namespace with the kernel's TCP stack, wire and NATs ours.
//!
//! A [`Lab`] takes an [`Internet`] and makes a network namespace of each of its hosts. The only interface of a host, beside
//! its loopback, is a TUN device that the lab holds: one thread reads what the host's kernel sends, hands it to the internet,
//! and writes what arrives to the device of the host where it does. Whole programs and parts of this one run inside. It needs
//! Linux, root, `ip` (iproute2) and `/dev/net/tun`.
//!
//! ```no_run
//! use std::net::{TcpListener, TcpStream};
//! use std::time::Duration;
//! use natlab::link::Conditions;
//! use natlab::netns::Lab;
//! use natlab::{Internet, Place};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut internet = Internet::new(1);
//! let near = internet.host(Place::Core, Conditions::delay(Duration::from_millis(20)));
//! let far = internet.host(Place::Core, Conditions::delay(Duration::from_millis(5)).losing(0.01));
//!
//! let lab = Lab::start(internet)?;
//! let (near, far) = (lab.host(near), lab.host(far));
//! let listener = far.run(|| TcpListener::bind("0.0.0.0:7000"))??;
//! let address = far.address(true).ok_or("every public host has IPv4")?;
//! let stream = near.run(|| TcpStream::connect((address, 7000)))??;
//! let routes = near.command("ip").arg("route").output()?;
//! # drop((listener, stream, routes));
//! # Ok(())
//! # }
//! ```

mod pcap;
mod wire;

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use crate::availability::without_nat as availability;
use crate::device::{self, Kind};
pub use crate::kernel::SentSyn;
use crate::namespace::{Namespace, full_name, next_lab};
use crate::{Error, HostId, Internet};
use wire::Wire;

/// The interface of a host.
const INTERFACE: &str = "eth0";

/// An internet in real time.
///
/// Time runs from its start. Dropping it kills what runs inside and removes everything, also when a test panics; only threads
/// that are inside can't be killed: their network is gone. Handles of hosts do not keep it alive. What a process leaves
/// behind that is killed, the next process that makes a lab sweeps.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    wire: Wire,
}

impl Lab {
    /// Makes a namespace of each host, and lets packets flow. The hosts are named `host0`, `host1` and so on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where none can be made, or a failure of `ip` or of the system.
    pub fn start(internet: Internet) -> Result<Self, Error> {
        availability()?;
        let label = next_lab().to_string();
        let make = &|id: HostId| {
            let name = format!("host{}", id.0);
            let namespace = Namespace::make(full_name(&label, &name), false)?;
            let device = namespace.run(|| device::open(INTERFACE, Kind::Tun))??;
            namespace.ip(&settings(&internet, id))?;
            let addresses = internet.addresses(id).to_vec();
            Ok((Host { inner: Arc::new(HostInner { name, namespace, addresses }) }, device))
        };
        // Each is a matter of waiting for the kernel and for a process.
        let made: Vec<Result<_, Error>> = thread::scope(|scope| {
            let start = |number| thread::Builder::new().spawn_scoped(scope, move || make(HostId(number)));
            let threads: Vec<_> = (0..internet.hosts()).map(start).collect();
            let join = |thread: io::Result<thread::ScopedJoinHandle<'_, _>>| {
                let thread = thread.map_err(|source| Error::io("start a thread", source))?;
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        let (hosts, devices) = made.into_iter().collect::<Result<_, _>>()?;
        let wire = Wire::start(format!("natlab-{label}"), internet, devices)?;
        Ok(Self { hosts, wire })
    }

    /// One of its hosts.
    ///
    /// # Panics
    /// On a number that no host had when the lab was started.
    #[allow(clippy::indexing_slicing, reason = "documented: it is the caller's number")]
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0]
    }

    /// All of its hosts, in the order of their numbers.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Changes the internet while it runs: pulls cables, sets conditions, restarts NATs. A host that is added has no
    /// namespace.
    ///
    /// No packet moves until `what` returns.
    pub fn change<T>(&self, what: impl FnOnce(&mut Internet) -> T) -> T {
        self.wire.change(what)
    }

    /// Writes every packet on a host's interface from now on to a file, for tcpdump or Wireshark. A second call for the same
    /// host begins another file and ends the first.
    ///
    /// # Errors
    /// When the file is not to be written. Where that happens later, the file ends there.
    pub fn capture(&self, host: HostId, file: impl AsRef<Path>) -> Result<(), Error> {
        self.wire.capture(host, file.as_ref())
    }

    /// Every SYN that a host sent so far, in the order of their first transmissions. Loopback does not count.
    pub fn syns(&self, host: HostId) -> Vec<SentSyn> {
        self.wire.syns(host)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Self { hosts, wire } = self;
        // Both are a matter of waiting for the kernel.
        thread::scope(|scope| {
            // Where there are no more threads it is stopped last, by its own drop.
            let _ = thread::Builder::new().spawn_scoped(scope, || wire.stop());
            Namespace::remove_all(hosts.iter().map(|host| &host.inner.namespace));
        });
    }
}

/// What `ip` is told to make of a host's devices.
fn settings(internet: &Internet, host: HostId) -> String {
    // The length of the queue is what the lab's thread may lag behind without losing packets of its own accord.
    let mut batch = format!(
        "link set lo up\nlink set {INTERFACE} mtu {} txqueuelen 10000 addrgenmode none up\n",
        internet.mtu(host)
    );
    for (address, length) in internet.addresses(host) {
        let nodad = if address.is_ipv4() { "" } else { " nodad" };
        // Writing to a String can't fail.
        let _ = writeln!(batch, "addr add {address}/{length} dev {INTERFACE}{nodad}");
    }
    for v4 in [true, false] {
        if let (Some(_), Some(router)) = (internet.address(host, v4), internet.router(host, v4)) {
            let _ = writeln!(batch, "route add default via {router} dev {INTERFACE} onlink");
        }
    }
    batch
}

/// A host of a [`Lab`]. Clones are the same machine.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<HostInner>,
}

#[derive(Debug)]
struct HostInner {
    name: String,
    namespace: Namespace,
    addresses: Vec<(IpAddr, u8)>,
}

impl Host {
    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The name of its namespace, for `ip netns exec` by hand while a test waits.
    pub fn namespace(&self) -> &str {
        self.inner.namespace.name()
    }

    /// Its first address of a family, before any NAT.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses().iter().map(|(ip, _)| *ip).find(|ip| ip.is_ipv4() == v4)
    }

    /// Its addresses and the lengths of their prefixes, IPv4 first.
    pub fn addresses(&self) -> &[(IpAddr, u8)] {
        &self.inner.addresses
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
}
