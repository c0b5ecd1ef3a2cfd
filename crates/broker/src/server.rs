//! The broker on real sockets: listeners, and the one task that owns the rendezvous.

use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rand::SeedableRng;
use rand::rand_core::OsError;
use rand::rngs::OsRng;
use rand_chacha::ChaCha20Rng;
use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::limits::{
    ACCEPT_PAUSE, BROKER_ACCEPTS_AT_ONCE, BROKER_CONNECTIONS_LEAST, BROKER_DESCRIPTORS_RESERVED,
    BROKER_GATES_SWEPT, BROKER_HANDSHAKES, BROKER_HANDSHAKES_PER_ADDRESS, BROKER_KNOCKS, BROKER_LINKS,
    BROKER_OBSERVERS, BROKER_OBSERVERS_PER_ADDRESS, BROKER_PORT, BROKER_REPORTS, BROKER_RESOLVED_WITHIN,
    LOBBY_MEMBERS, LOBBY_MEMBERS_MOST, MAX_HOST_CANDIDATES, PROBE_PORT,
};
use tcpunch_core::rendezvous::{Config, Event, Input, KnockId, LinkId, Output, Rendezvous};
use tcpunch_core::wire::{KnockAnswer, Probe};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::advertise::{advertised, host_and_port, interface_addresses};
use crate::gate::Gate;
use crate::link::{Door, Handle, Report, Shared, serve};
use crate::listen::{Failed, canonical, concerns_one_connection, listen, most_descriptors};
use crate::traffic::Traffic;

/// How a broker is run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where links are accepted. An unspecified address means both IPv4 and IPv6; port 0 any port
    /// that is free for both.
    pub listen: SocketAddr,
    /// Where observations are answered besides. An unspecified address means both families, port 0
    /// any free port. Peers are told of another address than that of `listen` with its port, and are
    /// knocked at from there too: a second address lets the broker tell more of their NATs.
    pub probes: Vec<SocketAddr>,
    /// Members of the lobby, at most [`LOBBY_MEMBERS_MOST`]; 0 turns it off.
    pub lobby: usize,
    /// Host names or addresses by which others reach this broker, best first, each with
    /// `:port` where it is not the one of `listen`. May be empty.
    pub public: Vec<String>,
    /// The broker's key.
    pub key: SecretKey,
}

impl ServerConfig {
    /// Port 7766 of all addresses, with observations at port 7767.
    pub fn new(key: SecretKey) -> Self {
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        ServerConfig::listening_on(SocketAddr::new(any, BROKER_PORT), key)
    }

    /// Another address; observations are answered there at port 7767, or at any free port where
    /// `listen` has port 0.
    pub fn listening_on(listen: SocketAddr, key: SecretKey) -> Self {
        let mut probe = listen;
        probe.set_port(if listen.port() == 0 { 0 } else { PROBE_PORT });
        ServerConfig { listen, probes: vec![probe], lobby: LOBBY_MEMBERS, public: Vec::new(), key }
    }
}

/// Why a broker cannot run. All of it is the machine's or the operator's doing.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another program listens there.
    #[error("another program listens on {address}")]
    Taken {
        /// The address, with the family that is taken.
        address: SocketAddr,
    },
    /// It cannot be listened on, for instance because it is no address of this machine.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Randomness(#[source] OsError),
}

impl From<Failed> for ServerError {
    fn from(Failed { address, error }: Failed) -> Self {
        if error.kind() == io::ErrorKind::AddrInUse {
            ServerError::Taken { address }
        } else {
            ServerError::Listen { address, error }
        }
    }
}

/// What a broker does without.
#[derive(Debug, thiserror::Error)]
pub enum Note {
    /// Observations are not answered at an address; peers know less about their NAT.
    #[error("no observations at {address}, so peers learn less about their NAT: {error}")]
    NoProbe {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A public name has no address; peers on the broker's own side of a NAT are harder to reach.
    #[error("{host} cannot be resolved: {error}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// The addresses of this machine cannot be listed, so only loopback is advertised.
    #[error("the addresses of this machine cannot be listed: {0}")]
    NoInterfaces(io::Error),
}

/// A broker that listens.
pub struct Server {
    key: SecretKey,
    config: Config,
    advertised: Vec<String>,
    doors: Vec<(TcpListener, Door)>,
    addresses: Vec<SocketAddr>,
    notes: Vec<Note>,
    traffic: Traffic,
}

impl Server {
    /// Listens, and resolves the public names. Peers that connect wait until [`Server::run`].
    ///
    /// # Errors
    ///
    /// The main address is taken or cannot be listened on. Probes and names are not worth an
    /// error: see [`Server::notes`].
    pub async fn bind(config: ServerConfig) -> Result<Server, ServerError> {
        let mut notes = Vec::new();
        let mut doors = Vec::new();
        let mut addresses = Vec::new();
        for listener in listen(config.listen)? {
            let address = local_address(&listener, config.listen)?;
            addresses.push(address);
            doors.push((listener, Door::Main));
        }
        let mut probes: Vec<Probe> = Vec::new();
        for probe in config.probes {
            if let Some(told) = covered(&doors, probe) {
                match is_own(probe.ip()) {
                    Ok(()) if probes.contains(&told) => {}
                    Ok(()) => probes.push(told),
                    Err(error) => notes.push(Note::NoProbe { address: probe, error }),
                }
                continue;
            }
            let listeners = match listen(probe) {
                Ok(listeners) => listeners,
                Err(Failed { address, error }) => {
                    notes.push(Note::NoProbe { address, error });
                    continue;
                }
            };
            for listener in listeners {
                let address = local_address(&listener, probe)?;
                let beside_link =
                    address.ip().is_unspecified() || addresses.iter().any(|main| main.ip() == address.ip());
                let ip = (!beside_link).then_some(address.ip());
                let probe = Probe { ip, port: address.port() };
                if !probes.contains(&probe) {
                    probes.push(probe);
                }
                doors.push((listener, Door::Probe));
            }
        }
        let interfaces = interface_addresses().unwrap_or_else(|error| {
            notes.push(Note::NoInterfaces(error));
            Vec::new()
        });
        let advertised = advertised(&config.public, &addresses, &interfaces);
        let public = resolve(&config.public, &mut notes).await;
        Ok(Server {
            key: config.key,
            config: Config {
                lobby: config.lobby.min(LOBBY_MEMBERS_MOST),
                public,
                probes,
                ..Config::default()
            },
            advertised,
            doors,
            addresses,
            notes,
            traffic: Traffic::default(),
        })
    }

    /// Where links are accepted: one address a family, with the real port.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where observations are answered too, as peers are told.
    pub fn probes(&self) -> &[Probe] {
        &self.config.probes
    }

    /// Ports that answer observations and that peers are told of.
    pub fn probe_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.config.probes.iter().map(|probe| probe.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The broker's public key.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// What peers can type to reach this broker, best first: the public names, else the addresses
    /// of this machine in its LAN, else loopback. With the port where it is not 7766.
    pub fn advertised(&self) -> &[String] {
        &self.advertised
    }

    /// What this broker does without.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Counters that go on while the broker runs.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// Runs until `shutdown` is ready, then closes all links. What happens is told to `on_event`,
    /// which must not block: everything waits for it. Dropping the future closes everything too.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers to begin with. Nothing that peers do ends it.
    pub async fn run(
        self,
        on_event: impl FnMut(Event) + Send,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let rng = ChaCha20Rng::try_from_rng(&mut OsRng).map_err(ServerError::Randomness)?;
        let descriptors = most_descriptors().saturating_sub(BROKER_DESCRIPTORS_RESERVED + self.doors.len());
        let knocks = BROKER_KNOCKS.min(descriptors / 16);
        let most_connections = descriptors.saturating_sub(knocks).max(BROKER_CONNECTIONS_LEAST);
        // Where descriptors are few, all kinds of connections get fewer: none takes another's.
        let links = BROKER_LINKS.min(most_connections / 4 * 3);
        let handshakes = BROKER_HANDSHAKES.min(most_connections / 8);
        let observers = BROKER_OBSERVERS.min(most_connections / 8);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (reports, mut reported) = mpsc::channel(BROKER_REPORTS);
        let shared = Arc::new(Shared {
            key: self.key,
            advertised: self.advertised,
            probes: self.config.probes.clone(),
            traffic: self.traffic.clone(),
            reports,
            observers: Gate::new(observers, BROKER_OBSERVERS_PER_ADDRESS),
            computing: Semaphore::new((processors / 2).max(1)),
        });
        let handshakes = Gate::new(handshakes, BROKER_HANDSHAKES_PER_ADDRESS);
        let mut hub = Hub {
            rendezvous: Rendezvous::new(Config { links, knocks, ..self.config }, rng),
            links: HashMap::new(),
            knocks: JoinSet::new(),
            traffic: self.traffic,
            on_event,
        };
        let mut acceptor = Acceptor { doors: self.doors, first: 0, paused: None, failing: false };
        let mut connections = JoinSet::new();
        let mut last_link = 0;
        let mut sweeps = interval(BROKER_GATES_SWEPT);
        let mut shutdown = pin!(shutdown);
        loop {
            let wake = hub.settle();
            tokio::select! {
                () = &mut shutdown => break,
                Some(report) = reported.recv() => hub.take(report),
                () = wait_until(wake) => {}
                _ = sweeps.tick() => {
                    handshakes.sweep(now());
                    shared.observers.sweep(now());
                }
                Some(ended) = hub.knocks.join_next() => {
                    if let Ok((knock, answer)) = ended {
                        hub.rendezvous.handle(now(), Input::Knocked { knock, answer });
                    }
                }
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection's task failed");
                    }
                }
                accepted = acceptor.next() => for (stream, from, door) in accepted {
                    let from = canonical(from);
                    if connections.len() >= most_connections {
                        handshakes.give_way();
                    }
                    // Links that are being closed still count, and who gives way needs a moment to:
                    // the reserve is there for that as well.
                    if connections.len() >= most_connections + BROKER_DESCRIPTORS_RESERVED / 2 {
                        tracing::debug!("no descriptor for another connection");
                        continue;
                    }
                    match handshakes.enter(now(), from.ip()) {
                        Ok(pass) => {
                            last_link += 1;
                            let link = LinkId(last_link);
                            connections.spawn(serve(shared.clone(), stream, from, door, link, pass));
                        }
                        Err(no_place) => tracing::debug!(?no_place, "a connection is refused"),
                    }
                },
            }
        }
        drop(acceptor);
        connections.shutdown().await;
        hub.knocks.shutdown().await;
        hub.links.clear();
        hub.traffic.linked(0);
        Ok(())
    }
}

fn local_address(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, ServerError> {
    listener.local_addr().map_err(|error| ServerError::Listen { address: asked, error })
}

/// What peers are told of an address that a listener of all addresses answers at already.
fn covered(doors: &[(TcpListener, Door)], probe: SocketAddr) -> Option<Probe> {
    let ip = probe.ip().to_canonical();
    let covers = |listener: &TcpListener| {
        listener.local_addr().is_ok_and(|own| {
            own.ip().is_unspecified() && own.is_ipv4() == ip.is_ipv4() && own.port() == probe.port()
        })
    };
    let found = !ip.is_unspecified() && doors.iter().any(|(listener, _)| covers(listener));
    found.then_some(Probe { ip: Some(ip), port: probe.port() })
}

/// Whether it is an address of this machine: it is bound to.
fn is_own(ip: IpAddr) -> io::Result<()> {
    std::net::TcpListener::bind(SocketAddr::new(ip, 0)).map(drop)
}

async fn resolve(public: &[String], notes: &mut Vec<Note>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for text in public {
        let (host, port) = host_and_port(text);
        let looked_up = timeout(BROKER_RESOLVED_WITHIN, lookup_host((host, port.unwrap_or(0))));
        let addresses = match looked_up.await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                let host = host.to_owned();
                notes.push(Note::Unresolved { host, error });
                continue;
            }
            Err(_) => {
                let host = host.to_owned();
                let error = io::ErrorKind::TimedOut.into();
                notes.push(Note::Unresolved { host, error });
                continue;
            }
        };
        for ip in addresses.map(|address| address.ip().to_canonical()) {
            if found.len() < MAX_HOST_CANDIDATES && !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    found
}

async fn wait_until(wake: Option<std::time::Instant>) {
    match wake {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The rendezvous with its links.
struct Hub<F> {
    rendezvous: Rendezvous<ChaCha20Rng>,
    /// Links that the rendezvous may send to. One that is not here any more is down for it, and
    /// what its connection still reports is not passed on.
    links: HashMap<LinkId, Handle>,
    knocks: JoinSet<(KnockId, Option<KnockAnswer>)>,
    traffic: Traffic,
    on_event: F,
}

impl<F: FnMut(Event)> Hub<F> {
    fn take(&mut self, report: Report) {
        let now = now();
        match report {
            Report::Up { link, peer, observed, token, handle, first, round_trip } => {
                self.links.insert(link, handle);
                self.traffic.linked(self.links.len());
                let up = Input::LinkUp { link, peer, observed, token };
                self.rendezvous.handle(now, up);
                let first = Input::Message { link, message: first, round_trip };
                self.rendezvous.handle(now, first);
            }
            Report::Message { link, message, round_trip } => {
                if self.links.contains_key(&link) {
                    let message = Input::Message { link, message, round_trip };
                    self.rendezvous.handle(now, message);
                }
            }
            Report::Down { link } => {
                if self.remove(link).is_some() {
                    self.rendezvous.handle(now, Input::LinkDown { link });
                }
            }
            Report::Observation { token, from, knock_from } => {
                let observation = Input::Observation { token, from, knock_from };
                self.rendezvous.handle(now, observation);
            }
        }
    }

    /// Carries out what the rendezvous says and returns when it wants to be asked again.
    fn settle(&mut self) -> Option<std::time::Instant> {
        loop {
            match self.rendezvous.poll(now()) {
                Output::Send { link, message } => {
                    let sent = self.links.get(&link).is_none_or(|handle| handle.send(&message));
                    if !sent && let Some(handle) = self.remove(link) {
                        tracing::debug!(link = link.0, "reads too slowly, or is gone");
                        handle.reset();
                        self.rendezvous.handle(now(), Input::LinkDown { link });
                    }
                }
                Output::Close { link } => {
                    if let Some(handle) = self.remove(link) {
                        handle.close();
                    }
                }
                Output::Knock { knock, from, to } => {
                    self.knocks.spawn(async move { (knock, crate::knock::knock(from, to).await) });
                }
                Output::Event(event) => (self.on_event)(event),
                Output::Wait(at) => return at,
            }
        }
    }

    fn remove(&mut self, link: LinkId) -> Option<Handle> {
        let handle = self.links.remove(&link);
        self.traffic.linked(self.links.len());
        handle
    }
}

type Accepted = (TcpStream, SocketAddr, Door);

struct Acceptor {
    doors: Vec<(TcpListener, Door)>,
    /// The listener that is asked first, each in its turn, so that none starves the others.
    first: usize,
    /// Here and not in a local variable: a pause must outlive the future that began it.
    paused: Option<Instant>,
    failing: bool,
}

impl Acceptor {
    /// The next connections, all that wait up to a bound: where the kernel's queue is full it drops
    /// SYNs, and who is dropped tries again only after a second. May be dropped and called again
    /// without losing one.
    async fn next(&mut self) -> Vec<Accepted> {
        loop {
            if let Some(until) = self.paused {
                sleep_until(until).await;
                self.paused = None;
            }
            match poll_fn(|context| self.poll_some(context)).await {
                Ok(accepted) => {
                    self.failing = false;
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if !self.failing {
                        tracing::warn!(%error, "cannot accept connections for now");
                    }
                    self.failing = true;
                    self.paused = Some(Instant::now() + ACCEPT_PAUSE);
                }
            }
        }
    }

    fn poll_some(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Vec<Accepted>>> {
        let mut some = Vec::new();
        while some.len() < BROKER_ACCEPTS_AT_ONCE {
            match self.poll(context) {
                Poll::Ready(Ok(accepted)) => some.push(accepted),
                // An error comes again if it is none of a connection.
                Poll::Ready(Err(_)) | Poll::Pending if !some.is_empty() => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(some))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        self.first = (self.first + 1) % self.doors.len().max(1);
        let (before, after) = self.doors.split_at(self.first.min(self.doors.len()));
        for (listener, door) in after.iter().chain(before) {
            if let Poll::Ready(result) = listener.poll_accept(context) {
                return Poll::Ready(result.map(|(stream, from)| (stream, from, *door)));
            }
        }
        Poll::Pending
    }
}
