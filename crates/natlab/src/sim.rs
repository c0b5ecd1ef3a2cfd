//! Hosts in virtual time: a TCP stack of its own on each, and anything that implements [`Agent`] on top.

mod diagram;
mod net;
mod stack;
mod tcp;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::{HostId, Internet, Passage, Time};
use net::{Net, Purpose};
use stack::Stack;

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
    stack: &'a mut Stack,
    net: &'a mut Net,
}

impl Os<'_> {
    /// The time.
    pub fn now(&self) -> Time {
        self.net.now
    }

    /// Which host this is.
    pub fn host(&self) -> HostId {
        self.stack.host
    }

    /// The addresses of this host and the lengths of their prefixes.
    pub fn addresses(&self) -> &[(IpAddr, u8)] {
        self.net.internet.addresses(self.stack.host)
    }

    /// The router for a family.
    pub fn router(&self, v4: bool) -> Option<IpAddr> {
        self.net.internet.router(self.stack.host, v4)
    }

    /// Random bits, from the seed of the simulation.
    pub fn random(&mut self) -> u64 {
        self.stack.random.random()
    }

    /// Calls the program then with [`Event::Woken`], and not at the time given before; at once for a time that is past.
    pub fn wake_at(&mut self, at: Time) {
        let at = at.max(self.net.now);
        if self.stack.wake != Some(at) {
            self.stack.wake = Some(at);
            self.net.set(at, self.stack.host, Purpose::Wake);
        }
    }

    /// Listens on a port of both families.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`], [`SocketError::TooManyFiles`].
    pub fn listen(&mut self, port: u16) -> Result<SocketId, SocketError> {
        self.stack.listen(port)
    }

    /// Begins to connect; sends the SYN. [`Event::Connected`] or [`Event::Failed`] follows.
    ///
    /// # Errors
    /// What `connect` says at once: [`SocketError::AddressNotAvailable`], [`SocketError::NetUnreachable`],
    /// [`SocketError::TooManyFiles`].
    pub fn connect(&mut self, remote: SocketAddr, options: ConnectOptions) -> Result<SocketId, SocketError> {
        self.stack.connect(self.net, remote, options)
    }

    /// Sends bytes on a connection that stands. What it can't send yet it keeps.
    pub fn write(&mut self, socket: SocketId, bytes: &[u8]) {
        self.stack.write(self.net, socket, bytes);
    }

    /// Takes all that was received and not read.
    pub fn read(&mut self, socket: SocketId) -> Vec<u8> {
        self.stack.read(socket)
    }

    /// The own end of a socket; a listener's address is unspecified.
    pub fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        let listens = || Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.stack.port(socket)?));
        self.stack.held(socket).map(|socket| socket.local).or_else(listens)
    }

    /// The other end of a connection.
    pub fn remote(&self, socket: SocketId) -> Option<SocketAddr> {
        self.stack.held(socket).map(|socket| socket.remote)
    }

    /// Whether a SYN came in on it and the handshake has not ended (SYN_RECV).
    pub fn is_half_open(&self, socket: SocketId) -> bool {
        self.stack.held(socket).is_some_and(tcp::Socket::is_half_open)
    }

    /// The least round trip measured on a connection (`tcpi_min_rtt`).
    pub fn round_trip(&self, socket: SocketId) -> Option<Duration> {
        self.stack.held(socket)?.least_round_trip
    }

    /// Closes a socket: what was written is sent, then a FIN; what was received and not read makes it a reset. In
    /// SYN_SENT nothing is sent.
    pub fn close(&mut self, socket: SocketId) {
        self.stack.close(self.net, socket, false);
    }

    /// Closes a socket with a reset (SO_LINGER 0). In SYN_SENT nothing is sent.
    pub fn abort(&mut self, socket: SocketId) {
        self.stack.close(self.net, socket, true);
    }
}

/// An internet in virtual time, with one program on each host that has one.
///
/// Same internet, same seed, same programs: the very same run. What happens at the same time happens in a fixed order:
/// packets in the order in which they were sent, then timers in the order in which they were set.
#[derive(Debug)]
pub struct Sim<A> {
    net: Net,
    seed: u64,
    stacks: Vec<Stack>,
    agents: Vec<Option<A>>,
    placed: u32,
    passages: Vec<Passage>,
    reaction: Duration,
    /// Of each host, whether its program will get round to what happened.
    reacting: Vec<bool>,
    random: SmallRng,
}

impl<A: Agent> Sim<A> {
    /// Time stands at zero; nobody runs. What is random in hosts comes from `seed`.
    pub fn new(internet: Internet, seed: u64) -> Self {
        let mut sim = Self {
            net: Net::new(internet),
            seed,
            stacks: Vec::new(),
            agents: Vec::new(),
            placed: 0,
            passages: Vec::new(),
            reaction: Duration::ZERO,
            reacting: Vec::new(),
            random: SmallRng::seed_from_u64(!seed),
        };
        sim.know_hosts();
        sim
    }

    /// Makes a stack for each host that was plugged in since.
    fn know_hosts(&mut self) {
        for number in self.stacks.len()..self.net.internet.hosts() {
            // An odd factor of many bits keeps the seeds of neighbours apart.
            let seed = self.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.stacks.push(Stack::new(HostId(number), seed));
            self.agents.push(None);
            self.reacting.push(false);
        }
    }

    /// Makes the machines busy: a program gets round to what happened only after a random time, up to this; zero without
    /// it. The stacks answer at once, as kernels do.
    pub fn react_within(&mut self, reaction: Duration) {
        self.reaction = reaction;
    }

    /// Puts a program on a host; it starts at this time. One that was there is killed.
    pub fn place(&mut self, host: HostId, at: Time, agent: A) {
        self.kill(host);
        if let Some(place) = self.agents.get_mut(host.0) {
            *place = Some(agent);
            self.placed += 1;
            let (at, placed) = (at.max(self.net.now), self.placed);
            if let Some(stack) = self.stacks.get_mut(host.0) {
                stack.placed = placed;
            }
            self.net.set(at, host, Purpose::Start(placed));
        }
    }

    /// Limits the sockets of a host; 1,024 without it (the soft limit of most systems).
    pub fn limit_sockets(&mut self, host: HostId, limit: usize) {
        self.know_hosts();
        if let Some(stack) = self.stacks.get_mut(host.0) {
            stack.limit = limit;
        }
    }

    /// The program on a host.
    pub fn agent(&self, host: HostId) -> Option<&A> {
        self.agents.get(host.0)?.as_ref()
    }

    /// The program on a host.
    pub fn agent_mut(&mut self, host: HostId) -> Option<&mut A> {
        self.agents.get_mut(host.0)?.as_mut()
    }

    /// Ends the program on a host: its sockets are closed as a killed process' are. It is given back.
    pub fn kill(&mut self, host: HostId) -> Option<A> {
        self.know_hosts();
        let agent = self.agents.get_mut(host.0)?.take();
        if let Some(stack) = self.stacks.get_mut(host.0) {
            stack.kill(&mut self.net);
        }
        agent
    }

    /// The internet, to change it.
    pub fn internet_mut(&mut self) -> &mut Internet {
        &mut self.net.internet
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.net.now
    }

    /// How many first SYNs a host sent so far to whom `counts` is true for, and how many with repetitions.
    pub fn syns(&self, host: HostId, counts: impl Fn(SocketAddr) -> bool) -> (u64, u64) {
        let Some(stack) = self.stacks.get(host.0) else { return (0, 0) };
        let counted = stack.syns.iter().filter(|(remote, _)| counts(**remote));
        counted.fold((0, 0), |(firsts, all), (_, (first, every))| (firsts + first, all + every))
    }

    /// Runs until `done`, or until this time, or until nothing will ever happen. Whether it was `done`.
    ///
    /// `done` is asked before the first and after every step, a step being one packet or timer and what the programs make
    /// of it. When it returns the time is that of the last step, or `until` where that is reached first.
    pub fn run(&mut self, until: Time, mut done: impl FnMut(&Self) -> bool) -> bool {
        self.know_hosts();
        loop {
            if done(self) {
                return true;
            }
            let (packet, timer) = (self.net.next_packet(), self.net.next_timer());
            let Some(next) = packet.into_iter().chain(timer).min() else { return false };
            if next > until {
                self.net.now = self.net.now.max(until);
                return false;
            }
            let host = if packet == Some(next) { self.packet(next) } else { self.timer() };
            if let Some(host) = host {
                self.tell(host);
            }
        }
    }

    /// Lets the next packet arrive, perhaps at a host.
    fn packet(&mut self, at: Time) -> Option<HostId> {
        self.net.now = at;
        let (host, packet) = self.net.arrived()?;
        self.stacks.get_mut(host.0)?.receive(&mut self.net, packet);
        Some(host)
    }

    /// Lets the next timer end; for one that means nothing any more, time does not pass.
    fn timer(&mut self) -> Option<HostId> {
        let timer = self.net.take_timer()?;
        let stack = self.stacks.get_mut(timer.host.0)?;
        let at = timer.at.max(self.net.now);
        match timer.purpose {
            Purpose::Start(placed) if placed == stack.placed => {
                self.net.now = at;
                stack.events.push_back(Event::Started);
            }
            Purpose::Wake if stack.wake == Some(timer.at) => {
                self.net.now = at;
                stack.wake = None;
                stack.events.push_back(Event::Woken);
            }
            Purpose::Start(_) | Purpose::Wake => {}
            Purpose::React => {
                self.net.now = at;
                self.react(timer.host);
                return None;
            }
            Purpose::Socket(id) => {
                if stack.due(&mut self.net, id, timer.at) {
                    self.net.now = at;
                    stack.timed_out(&mut self.net, id);
                }
            }
        }
        Some(timer.host)
    }

    /// Tells the program on a host what happened, now or when it gets round to it.
    fn tell(&mut self, host: HostId) {
        let (Some(stack), Some(place)) = (self.stacks.get_mut(host.0), self.agents.get_mut(host.0)) else {
            return;
        };
        let Some(agent) = place else { return stack.events.clear() };
        if !self.reaction.is_zero() {
            if let Some(reacting @ false) = self.reacting.get_mut(host.0)
                && !stack.events.is_empty()
            {
                *reacting = true;
                let after = self.reaction.mul_f64(self.random.random());
                self.net.set(self.net.now + after, host, Purpose::React);
            }
            return;
        }
        while let Some(event) = stack.events.pop_front() {
            agent.handle(&mut Os { stack, net: &mut self.net }, event);
        }
    }

    /// Tells the program on a host what happened so far.
    fn react(&mut self, host: HostId) {
        if let Some(reacting) = self.reacting.get_mut(host.0) {
            *reacting = false;
        }
        if let (Some(stack), Some(Some(agent))) = (self.stacks.get_mut(host.0), self.agents.get_mut(host.0)) {
            while let Some(event) = stack.events.pop_front() {
                agent.handle(&mut Os { stack, net: &mut self.net }, event);
            }
        }
    }

    /// Its segments so far as a sequence diagram (mermaid), if the internet was told to
    /// [record](Internet::record) and nobody else has taken the record.
    pub fn diagram(&mut self) -> String {
        self.passages.append(&mut self.net.internet.take_record());
        diagram::draw(&self.net.internet, &self.passages)
    }
}
