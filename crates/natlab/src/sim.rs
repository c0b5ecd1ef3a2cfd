//! Hosts in virtual time: a TCP stack of its own on each, and anything that implements [`Agent`] on top.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::{HostId, Internet, Time};

/// Names a socket of one host; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// A program on a simulated host.
///
/// It never waits: it is told what happened and acts through [`Os`].
pub trait Agent {
    /// Something happened. The first thing is [`Event::Started`].
    fn handle(&mut self, os: &mut Os<'_>, event: Event);
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The program starts.
    Started,
    /// The time given to [`Os::wake_at`] has come.
    Woken,
    /// A connection came in.
    Accepted {
        /// The listener.
        listener: SocketId,
        /// The connection.
        socket: SocketId,
    },
    /// A connect came through.
    Connected(SocketId),
    /// A connect failed; the socket is gone.
    Failed(SocketId, SocketError),
    /// There is something to [read](Os::read).
    Readable(SocketId),
    /// The other end sends no more; everything before it was told.
    Finished(SocketId),
    /// A connection broke: reset, or no answer for too long. The socket is gone.
    Broken(SocketId, SocketError),
}

/// The error numbers of connecting, by the names of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketError {
    /// ECONNREFUSED: a reset, or ICMP port unreachable.
    Refused,
    /// ECONNRESET.
    Reset,
    /// EHOSTUNREACH: ICMP host unreachable, prohibited (IPv4) or time exceeded.
    HostUnreachable,
    /// ENETUNREACH: ICMP net unreachable, or no address of that family.
    NetUnreachable,
    /// EACCES: ICMPv6 prohibited.
    Prohibited,
    /// ETIMEDOUT.
    TimedOut,
    /// EADDRNOTAVAIL: the 4-tuple is alive, or the source address is none of this host's.
    AddressNotAvailable,
    /// EADDRINUSE: another socket listens there.
    AddressInUse,
    /// EMFILE: the host's limit of descriptors.
    TooManyFiles,
}

/// What to connect with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The source address; without it, the first of the destination's family.
    pub source: Option<IpAddr>,
    /// The source port; 0 for one of the ephemeral range.
    pub port: u16,
    /// The TTL, else [`Packet::TTL`](crate::packet::Packet::TTL).
    pub ttl: Option<u8>,
}

/// The system calls of a simulated host. All sockets have SO_REUSEADDR and SO_REUSEPORT, except that only one listens on
/// a port.
#[derive(Debug)]
pub struct Os<'a> {
    _host: std::marker::PhantomData<&'a mut ()>,
}

impl Os<'_> {
    /// The time.
    pub fn now(&self) -> Time {
        todo!()
    }

    /// Which host this is.
    pub fn host(&self) -> HostId {
        todo!()
    }

    /// The addresses of this host and the lengths of their prefixes.
    pub fn addresses(&self) -> &[(IpAddr, u8)] {
        todo!()
    }

    /// The router for a family.
    pub fn router(&self, v4: bool) -> Option<IpAddr> {
        let _ = v4;
        todo!()
    }

    /// Random bits, from the seed of the simulation.
    pub fn random(&mut self) -> u64 {
        todo!()
    }

    /// Calls the program then with [`Event::Woken`], and not at the time given before.
    pub fn wake_at(&mut self, at: Time) {
        let _ = at;
        todo!()
    }

    /// Listens on a port of both families.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`], [`SocketError::TooManyFiles`].
    pub fn listen(&mut self, port: u16) -> Result<SocketId, SocketError> {
        let _ = port;
        todo!()
    }

    /// Begins to connect; sends the SYN. [`Event::Connected`] or [`Event::Failed`] follows.
    ///
    /// # Errors
    /// What `connect` says at once: [`SocketError::AddressNotAvailable`], [`SocketError::NetUnreachable`],
    /// [`SocketError::TooManyFiles`].
    pub fn connect(&mut self, remote: SocketAddr, options: ConnectOptions) -> Result<SocketId, SocketError> {
        let _ = (remote, options);
        todo!()
    }

    /// Sends bytes on a connection that stands. What it can't send yet it keeps.
    pub fn write(&mut self, socket: SocketId, bytes: &[u8]) {
        let _ = (socket, bytes);
        todo!()
    }

    /// Takes all that was received and not read.
    pub fn read(&mut self, socket: SocketId) -> Vec<u8> {
        let _ = socket;
        todo!()
    }

    /// The own end of a socket.
    pub fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        let _ = socket;
        todo!()
    }

    /// The other end of a connection.
    pub fn remote(&self, socket: SocketId) -> Option<SocketAddr> {
        let _ = socket;
        todo!()
    }

    /// The least round trip measured on a connection (`tcpi_min_rtt`).
    pub fn round_trip(&self, socket: SocketId) -> Option<Duration> {
        let _ = socket;
        todo!()
    }

    /// Closes a socket: what was written is sent, then a FIN. In SYN_SENT nothing is sent.
    pub fn close(&mut self, socket: SocketId) {
        let _ = socket;
        todo!()
    }

    /// Closes a socket with a reset (SO_LINGER 0). In SYN_SENT nothing is sent.
    pub fn abort(&mut self, socket: SocketId) {
        let _ = socket;
        todo!()
    }
}

/// An internet in virtual time, with one program on each host that has one.
#[derive(Debug)]
pub struct Sim<A> {
    _agents: Vec<Option<A>>,
}

impl<A: Agent> Sim<A> {
    /// Time stands at zero; nobody runs. What is random in hosts comes from `seed`.
    pub fn new(internet: Internet, seed: u64) -> Self {
        let _ = (internet, seed);
        todo!()
    }

    /// Puts a program on a host; it starts at this time.
    pub fn place(&mut self, host: HostId, at: Time, agent: A) {
        let _ = (host, at, agent);
        todo!()
    }

    /// Limits the sockets of a host; 1,024 without it (the soft limit of most systems).
    pub fn limit_sockets(&mut self, host: HostId, limit: usize) {
        let _ = (host, limit);
        todo!()
    }

    /// The program on a host.
    pub fn agent(&self, host: HostId) -> Option<&A> {
        let _ = host;
        todo!()
    }

    /// The program on a host.
    pub fn agent_mut(&mut self, host: HostId) -> Option<&mut A> {
        let _ = host;
        todo!()
    }

    /// Ends the program on a host: its sockets are closed as a killed process' are. It is given back.
    pub fn kill(&mut self, host: HostId) -> Option<A> {
        let _ = host;
        todo!()
    }

    /// The internet, to change it.
    pub fn internet_mut(&mut self) -> &mut Internet {
        todo!()
    }

    /// The time.
    pub fn now(&self) -> Time {
        todo!()
    }

    /// How many first SYNs a host sent so far to whom `counts` is true for, and how many with repetitions.
    pub fn syns(&self, host: HostId, counts: impl Fn(SocketAddr) -> bool) -> (u64, u64) {
        let _ = (host, counts);
        todo!()
    }

    /// Runs until `done`, or until this time, or until nothing will ever happen. Whether it was `done`.
    pub fn run(&mut self, until: Time, done: impl FnMut(&Self) -> bool) -> bool {
        let _ = (until, done);
        todo!()
    }

    /// Its segments so far as a sequence diagram (mermaid), if the internet was told to
    /// [record](Internet::record).
    pub fn diagram(&mut self) -> String {
        todo!()
    }
}
