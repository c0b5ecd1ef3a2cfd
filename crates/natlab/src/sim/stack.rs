//! The network stack of one host: its sockets, and what answers where there is none.

use std::collections::VecDeque;
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::net::Net;
use super::tcp::{After, Context, Owner, Socket, State};
use super::{ConnectOptions, Event, SocketError, SocketId};
use crate::hash::{Map, Quick};
use crate::packet::{Body, Echo, ErrorKind, Flags, IcmpError, Packet, Protocol, Segment, Unreachable};
use crate::{HostId, Time};

/// net.ipv4.ip_local_port_range.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// The soft limit of most systems.
const DESCRIPTORS: usize = 1024;

/// Both ends of a connection; IPv4 mapped into IPv6, for quick comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FourTuple {
    local: u128,
    remote: u128,
    ports: u32,
}

impl FourTuple {
    fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let bits = |ip| match ip {
            IpAddr::V4(ip) => 0xffff_0000_0000 | u128::from(Ipv4Addr::to_bits(ip)),
            IpAddr::V6(ip) => Ipv6Addr::to_bits(ip),
        };
        let ports = u32::from(local.port()) << 16 | u32::from(remote.port());
        Self { local: bits(local.ip()), remote: bits(remote.ip()), ports }
    }
}

#[derive(Debug)]
enum Entry {
    Listener { port: u16 },
    Connection(Box<Socket>),
}

#[derive(Debug)]
pub(super) struct Stack {
    pub(super) host: HostId,
    /// By their ids, which are never used twice.
    entries: Vec<Option<Entry>>,
    tuples: Map<FourTuple, u32>,
    listeners: Map<u16, u32>,
    /// Connections that wait for a descriptor.
    queue: VecDeque<u32>,
    descriptors: usize,
    pub(super) limit: usize,
    pub(super) random: SmallRng,
    /// Keeps the sequence numbers of hosts apart.
    secret: u64,
    /// First SYNs and all SYNs by destination.
    pub(super) syns: Map<SocketAddr, (u64, u64)>,
    pub(super) events: VecDeque<Event>,
    /// When the program wants to be woken.
    pub(super) wake: Option<Time>,
    /// Which program that was placed is the one that runs here.
    pub(super) placed: u32,
}

impl Stack {
    pub(super) fn new(host: HostId, seed: u64) -> Self {
        Self {
            host,
            entries: Vec::new(),
            tuples: Map::default(),
            listeners: Map::default(),
            queue: VecDeque::new(),
            descriptors: 0,
            limit: DESCRIPTORS,
            random: SmallRng::seed_from_u64(seed),
            secret: seed,
            syns: Map::default(),
            events: VecDeque::new(),
            wake: None,
            placed: 0,
        }
    }

    fn entry(&self, id: u32) -> Option<&Entry> {
        self.entries.get(id as usize)?.as_ref()
    }

    /// The connection that the program knows by this name.
    pub(super) fn held(&self, id: SocketId) -> Option<&Socket> {
        match self.entry(id.0)? {
            Entry::Connection(socket) if socket.owner == Owner::Program => Some(socket),
            Entry::Connection(_) | Entry::Listener { .. } => None,
        }
    }

    /// The port of a listener.
    pub(super) fn port(&self, id: SocketId) -> Option<u16> {
        match self.entry(id.0)? {
            Entry::Listener { port } => Some(*port),
            Entry::Connection(_) => None,
        }
    }

    /// Does something with a connection and whatever follows.
    fn with<T>(
        &mut self,
        net: &mut Net,
        id: u32,
        act: impl FnOnce(&mut Socket, &mut Context<'_>) -> T,
    ) -> Option<T> {
        match self.entries.get_mut(id as usize)?.as_mut()? {
            Entry::Connection(socket) => {
                let mut cx = Context { net, host: self.host, events: &mut self.events };
                Some(act(socket, &mut cx))
            }
            Entry::Listener { .. } => None,
        }
    }

    /// Whether an address is this host's.
    fn owns(&self, net: &Net, ip: IpAddr) -> bool {
        ip.is_loopback() || net.internet.addresses(self.host).iter().any(|(own, _)| *own == ip)
    }

    fn send(&self, net: &mut Net, packet: Packet) {
        let itself = self.owns(net, packet.destination);
        net.send(self.host, itself, packet);
    }

    fn take_descriptor(&mut self) -> Result<(), SocketError> {
        if self.descriptors >= self.limit {
            return Err(SocketError::TooManyFiles);
        }
        self.descriptors += 1;
        Ok(())
    }

    fn give_descriptor_back(&mut self) {
        self.descriptors -= 1;
        self.accept();
    }

    /// Hands connections over as far as there are descriptors.
    fn accept(&mut self) {
        while self.descriptors < self.limit
            && let Some(id) = self.queue.pop_front()
        {
            if let Some(Some(Entry::Connection(socket))) = self.entries.get_mut(id as usize) {
                self.descriptors += 1;
                socket.owner = Owner::Program;
                let listener = SocketId(socket.listener);
                self.events.push_back(Event::Accepted { listener, socket: SocketId(id) });
                socket.tell_past(&mut self.events);
            }
        }
    }

    pub(super) fn listen(&mut self, port: u16) -> Result<SocketId, SocketError> {
        if self.listeners.contains_key(&port) {
            return Err(SocketError::AddressInUse);
        }
        self.take_descriptor()?;
        let id = self.entries.len() as u32;
        self.entries.push(Some(Entry::Listener { port }));
        self.listeners.insert(port, id);
        Ok(SocketId(id))
    }

    pub(super) fn connect(
        &mut self,
        net: &mut Net,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<SocketId, SocketError> {
        if self.descriptors >= self.limit {
            return Err(SocketError::TooManyFiles);
        }
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let v4 = remote.is_ipv4();
        let own = self.owns(net, remote.ip());
        let source = match options.source {
            Some(ip) if ip.is_ipv4() != v4 || !self.owns(net, ip) || ip.is_loopback() && !own => {
                return Err(SocketError::AddressNotAvailable);
            }
            Some(ip) => ip,
            None if own => remote.ip(),
            None => net.internet.address(self.host, v4).ok_or(SocketError::NetUnreachable)?,
        };
        if remote.ip().is_unspecified() || remote.ip().is_multicast() {
            return Err(SocketError::NetUnreachable);
        }
        let port = if options.port == 0 { self.ephemeral(source, remote)? } else { options.port };
        let local = SocketAddr::new(source, port);
        let tuple = FourTuple::new(local, remote);
        if let Some(other) = self.tuples.get(&tuple).copied() {
            match self.entry(other) {
                Some(Entry::Connection(socket)) if socket.gives_way() => self.forget(other),
                Some(_) | None => return Err(SocketError::AddressNotAvailable),
            }
        }
        self.take_descriptor()?;
        let id = self.entries.len() as u32;
        let ttl = options.ttl.unwrap_or(Packet::TTL);
        let first = self.first_sequence(net.now, &tuple);
        let mut cx = Context { net, host: self.host, events: &mut self.events };
        let mut socket = Box::new(Socket::new(&cx, (id, id), (local, remote), own, ttl, first));
        socket.open(&mut cx);
        self.entries.push(Some(Entry::Connection(socket)));
        self.tuples.insert(tuple, id);
        let (firsts, all) = self.syns.entry(remote).or_default();
        *firsts += 1;
        *all += 1;
        Ok(SocketId(id))
    }

    /// A port of the ephemeral range that is free for this remote end.
    fn ephemeral(&mut self, source: IpAddr, remote: SocketAddr) -> Result<u16, SocketError> {
        let begin = self.random.random_range(EPHEMERAL);
        (begin..=*EPHEMERAL.end())
            .chain(*EPHEMERAL.start()..begin)
            .find(|port| {
                let tuple = FourTuple::new(SocketAddr::new(source, *port), remote);
                !self.listeners.contains_key(port) && !self.tuples.contains_key(&tuple)
            })
            .ok_or(SocketError::AddressNotAvailable)
    }

    pub(super) fn write(&mut self, net: &mut Net, id: SocketId, bytes: &[u8]) {
        if self.held(id).is_some() {
            self.with(net, id.0, |socket, cx| socket.write(cx, bytes));
        }
    }

    pub(super) fn read(&mut self, id: SocketId) -> Vec<u8> {
        match self.entries.get_mut(id.0 as usize) {
            Some(Some(Entry::Connection(socket))) if socket.owner == Owner::Program => socket.read(),
            Some(_) | None => Vec::new(),
        }
    }

    pub(super) fn close(&mut self, net: &mut Net, id: SocketId, reset: bool) {
        match self.entry(id.0) {
            Some(Entry::Listener { port }) => {
                let port = *port;
                self.close_listener(net, id.0, port);
            }
            Some(Entry::Connection(socket)) if socket.owner == Owner::Program => {
                self.forget_events(id);
                let after = self.with(net, id.0, |socket, cx| {
                    let after = if reset { socket.abort(cx) } else { socket.close(cx) };
                    socket.owner = Owner::Nobody;
                    after
                });
                if let Some(After::Gone) = after {
                    self.forget(id.0);
                }
                self.give_descriptor_back();
            }
            Some(Entry::Connection(_)) | None => {}
        }
    }

    /// Requests end in silence, and what nobody took over is reset.
    fn close_listener(&mut self, net: &mut Net, listener: u32, port: u16) {
        self.listeners.remove(&port);
        if let Some(entry) = self.entries.get_mut(listener as usize) {
            *entry = None;
        }
        let pending: Vec<u32> = self
            .entries
            .iter()
            .flatten()
            .filter_map(|entry| match entry {
                Entry::Connection(socket) if socket.owner == Owner::Queue && socket.listener == listener => {
                    Some(socket.id)
                }
                Entry::Connection(_) | Entry::Listener { .. } => None,
            })
            .collect();
        self.queue.retain(|id| !pending.contains(id));
        for id in pending {
            self.with(net, id, |socket, cx| socket.abort(cx));
            self.forget(id);
        }
        self.events
            .retain(|event| !matches!(event, Event::Accepted { listener: of, .. } if of.0 == listener));
        self.give_descriptor_back();
    }

    /// Closes everything, as the kernel does for a process that has died.
    pub(super) fn kill(&mut self, net: &mut Net) {
        self.wake = None;
        let all = 0..self.entries.len() as u32;
        // Listeners first, so that what waits at them is not handed over.
        for id in all.clone().map(SocketId).filter(|id| self.port(*id).is_some()).collect::<Vec<_>>() {
            self.close(net, id, false);
        }
        for id in all {
            self.close(net, SocketId(id), false);
        }
        self.events.clear();
    }

    /// What happened to a socket that the program has closed meanwhile is not told.
    fn forget_events(&mut self, id: SocketId) {
        self.events.retain(|event| match event {
            Event::Started | Event::Woken => true,
            Event::Accepted { socket, .. }
            | Event::Connected(socket)
            | Event::Failed(socket, _)
            | Event::Readable(socket)
            | Event::Finished(socket)
            | Event::Broken(socket, _) => *socket != id,
        });
    }

    fn forget(&mut self, id: u32) {
        if let Some(Entry::Connection(socket)) = self.entries.get_mut(id as usize).and_then(Option::take) {
            let tuple = FourTuple::new(socket.local, socket.remote);
            if self.tuples.get(&tuple) == Some(&id) {
                self.tuples.remove(&tuple);
            }
        }
    }

    /// Whether a socket's timer that ends then means anything still.
    pub(super) fn due(&mut self, net: &mut Net, id: u32, at: Time) -> bool {
        self.with(net, id, |socket, cx| socket.due(cx, at)).unwrap_or(false)
    }

    pub(super) fn timed_out(&mut self, net: &mut Net, id: u32) {
        let acted = self.with(net, id, |socket, cx| {
            let repeats = (socket.state == State::SynSent).then_some(socket.remote);
            (socket.timed_out(cx), repeats)
        });
        let Some((after, repeats)) = acted else { return };
        if let (After::Stays, Some(remote)) = (&after, repeats) {
            self.syns.entry(remote).or_default().1 += 1;
        }
        self.follow(net, id, after);
    }

    fn follow(&mut self, net: &mut Net, id: u32, after: After) {
        match after {
            After::Stays => {}
            After::Gone => {
                let held = self.held(SocketId(id)).is_some();
                self.forget(id);
                if held {
                    self.give_descriptor_back();
                }
            }
            After::Accepted(segment) => {
                self.queue.push_back(id);
                self.accept();
                let after = self.with(net, id, |socket, cx| socket.receive(cx, segment));
                if let Some(after) = after {
                    self.follow(net, id, after);
                }
            }
            After::Unmatched(segment) => {
                if let Some(Entry::Connection(socket)) = self.entry(id) {
                    let (local, remote) = (socket.local, socket.remote);
                    self.receive_unmatched(net, local, remote, segment);
                }
            }
            After::Reopened(segment) => {
                if let Some(Entry::Connection(socket)) = self.entry(id) {
                    let (local, remote) = (socket.local, socket.remote);
                    if self.listeners.contains_key(&local.port()) {
                        self.forget(id);
                        self.receive_unmatched(net, local, remote, segment);
                    } else {
                        self.with(net, id, |socket, cx| socket.acknowledge(cx));
                    }
                }
            }
        }
    }

    pub(super) fn receive(&mut self, net: &mut Net, packet: Packet) {
        if !self.owns(net, packet.destination) {
            return;
        }
        match packet.body {
            Body::Tcp(segment) => {
                let local = SocketAddr::new(packet.destination, segment.destination_port);
                let remote = SocketAddr::new(packet.source, segment.source_port);
                match self.tuples.get(&FourTuple::new(local, remote)).copied() {
                    Some(id) => {
                        let after = self.with(net, id, |socket, cx| socket.receive(cx, segment));
                        if let Some(after) = after {
                            self.follow(net, id, after);
                        }
                    }
                    None => self.receive_unmatched(net, local, remote, segment),
                }
            }
            Body::Error(IcmpError { kind, quoted }) => {
                if quoted.protocol == Protocol::Tcp
                    && let Some(id) =
                        self.tuples.get(&FourTuple::new(quoted.source, quoted.destination)).copied()
                    && let Some(after) =
                        self.with(net, id, |socket, cx| socket.receive_error(cx, kind, quoted.sequence))
                {
                    self.follow(net, id, after);
                }
            }
            Body::Echo(Echo { request: true, identifier, sequence, payload }) => {
                let body = Body::Echo(Echo { request: false, identifier, sequence, payload });
                let (source, destination) = (packet.destination, packet.source);
                self.send(net, Packet { source, destination, ttl: Packet::TTL, body });
            }
            Body::Udp(_) => {
                let kind = ErrorKind::Unreachable(Unreachable::Port);
                if let Some(error) = packet.error(packet.destination, kind) {
                    self.send(net, error);
                }
            }
            Body::Echo(_) | Body::Other { .. } => {}
        }
    }

    /// The sequence number that a connection begins with: it grows by one each 64 ns for the same four-tuple (RFC 6528 section
    /// 3, `secure_tcp_seq` of Linux). Who follows connections relies on that.
    fn first_sequence(&self, now: Time, tuple: &FourTuple) -> u32 {
        let mut hasher = Quick::default();
        (self.secret, tuple).hash(&mut hasher);
        (hasher.finish() as u32).wrapping_add((now.as_nanos() / 64) as u32)
    }

    /// A segment for which there is no connection.
    fn receive_unmatched(&mut self, net: &mut Net, local: SocketAddr, remote: SocketAddr, segment: Segment) {
        match self.listeners.get(&local.port()).copied() {
            Some(listener) if segment.opens() && !segment.flags.has(Flags::FIN) => {
                let id = self.entries.len() as u32;
                let first = self.first_sequence(net.now, &FourTuple::new(local, remote));
                let own = self.owns(net, remote.ip());
                let mut cx = Context { net, host: self.host, events: &mut self.events };
                let ends = (local, remote);
                let mut socket = Box::new(Socket::new(&cx, (id, listener), ends, own, Packet::TTL, first));
                socket.request(&mut cx, &segment);
                self.entries.push(Some(Entry::Connection(socket)));
                self.tuples.insert(FourTuple::new(local, remote), id);
            }
            Some(_) if !segment.flags.has(Flags::ACK) => {}
            Some(_) | None => {
                if let Some(reset) = Packet::tcp(remote.ip(), local.ip(), segment).reset() {
                    self.send(net, reset);
                }
            }
        }
    }
}
