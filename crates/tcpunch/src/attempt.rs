//! The one loop that drives a puncher: sockets, tags and first records of one attempt.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tcpunch_core::candidate::{Candidate, Surroundings, canonical};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{ARRIVALS, ATTEMPT_MOST, MAX_OBSERVED};
use tcpunch_core::plan::{
    self, Obstacle, Path, Rules, SynBudget, first_candidates, hidden_beside_broker, host_candidates,
    mapped_candidate, may_tell_mapped, translated,
};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::puncher::{Config, Dialled, Finished, Input, Origin, Output, Puncher, SocketId, Winner};
use tcpunch_core::secure::{
    ChannelBinding, HEADER, Kind, LaneKeys, Opener, Opening, PREAMBLE, Payload, PeerKeys, SALT, Sealer,
    SecureError, Tag, Told, parse_preamble, preamble, signal_keys, tags,
};
use tcpunch_core::survey::Observer;
use tcpunch_core::wire::{Introduction, Signal, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::alarm::Alarm;
use crate::connection::{Connection, Parts, PathInfo};
use crate::endpoint::EventSink;
use crate::endpoint::Task;
use crate::error::Event;
use crate::listener::{Arrival, Router};
use crate::network::Network;
use crate::port::{self, DialError, Families, Port, Scratch};
use crate::portmap::Portmapper;
use crate::registration::Order;

/// What is told to a running attempt.
pub(crate) enum Message {
    /// The broker's signal to fire.
    Go,
    /// What the peer said through the broker.
    Signal(Signal),
    /// The broker saw the peer at one more address.
    SeenAt(SocketAddr),
    /// What is known of the peer's network.
    Profile(NatProfile),
    /// The peer begins a further round.
    RoundWanted(u8),
    /// Both have a fresh port for this round; the peer's is seen there.
    Round(u8, SocketAddr),
    /// A connection with this attempt's tag came in.
    Arrived(Arrival),
}

/// What the peers agreed on before the attempt.
pub(crate) enum Secrets {
    /// The keys, and the handshake message that the peer may still need.
    Keys(PeerKeys, Vec<u8>),
    /// The peer's answer is awaited, through the broker or on a lane.
    Opening(Box<Opening>),
}

/// Which local addresses links to brokers have; connects to the wide internet use the same.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sources {
    pub(crate) v4: Option<IpAddr>,
    pub(crate) v6: Option<IpAddr>,
}

/// For IPv4 and IPv6: where fresh ports are observed.
pub(crate) type Observers = [Option<Observer>; 2];

/// What an attempt needs.
pub(crate) struct Reach {
    pub(crate) own: PublicKey,
    pub(crate) introduction: Introduction,
    pub(crate) introduced: Instant,
    pub(crate) timeout: Duration,
    pub(crate) rules: Rules,
    /// What the peer told of itself so far.
    pub(crate) told: Told,
    /// Own host candidates that the peer may be told.
    pub(crate) tell: Vec<SocketAddr>,
    /// Own forwarded port that the peer was told.
    pub(crate) mapped_told: Option<SocketAddr>,
    pub(crate) portmap: Portmapper,
    pub(crate) here: Surroundings,
    pub(crate) sources: Sources,
    /// As links come and go.
    pub(crate) observers: watch::Receiver<Observers>,
    /// They met in a lobby.
    pub(crate) strangers: bool,
    pub(crate) profile: watch::Receiver<NatProfile>,
    pub(crate) families: Families,
    /// Of all attempts of this endpoint.
    pub(crate) syns: Arc<Mutex<SynBudget>>,
    pub(crate) link: mpsc::Sender<Order>,
    pub(crate) network: Network,
    pub(crate) events: EventSink,
}

/// A connection on which both sides have shown that they have the keys.
struct Lane {
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    sealer: Sealer,
    opener: Opener,
    binding: ChannelBinding,
    /// One side dialled the other at a port that a router forwards.
    mapped: bool,
    birthday: bool,
}

struct Authenticated {
    lane: Lane,
    salt: [u8; SALT],
    nominated: bool,
}

/// Reaches the peer, or says why not.
pub(crate) async fn reach(
    reach: Reach,
    secrets: Secrets,
    inbox: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    router: Arc<Router>,
) -> Result<Connection, Box<Obstacle>> {
    let (address, mut messages) = inbox;
    let (own_tag, peer_tag) = tags(&reach.introduction.nonce, &reach.own, &reach.introduction.peer);
    let _expectation = router.expect(peer_tag, address);
    let mut attempt = Attempt::new(reach, secrets, own_tag, peer_tag, router);
    attempt.begin();
    loop {
        let wait = loop {
            match attempt.puncher.poll(Instant::now()) {
                Output::Wait(at) => break at,
                Output::Finished(finished) => return attempt.finish(*finished),
                output => attempt.carry_out(output),
            }
        };
        attempt.step(&mut messages, wait).await;
    }
}

struct Attempt {
    reach: Reach,
    own_tag: Tag,
    peer_tag: Tag,
    puncher: Puncher<StdRng>,
    peer_profile: NatProfile,
    /// The peer's addresses by its own account.
    told: Vec<SocketAddr>,
    /// Ports that its router forwards to it, by its own account, where they may be dialled.
    mapped: Vec<SocketAddr>,
    opening: Option<Box<Opening>>,
    answer: Arc<[u8]>,
    keys: watch::Sender<Option<LaneKeys>>,
    signals: Option<(Sealer, Opener)>,
    answers: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    alarm: Alarm,
    dials: JoinSet<(SocketId, Result<TcpStream, DialError>)>,
    lanes: JoinSet<(SocketId, Option<Authenticated>)>,
    nominations: JoinSet<(SocketId, Option<Lane>)>,
    tasks: HashMap<SocketId, AbortHandle>,
    /// Of dials at many ports.
    releases: HashMap<SocketId, oneshot::Sender<()>>,
    connected: HashMap<SocketId, (TcpStream, SocketAddr, Option<ArrivalHead>)>,
    verified: HashMap<SocketId, Lane>,
    salts: HashSet<[u8; SALT]>,
    controlling: bool,
    router: Arc<Router>,
    fresh: Vec<Fresh>,
    over: Arc<AtomicBool>,
}

/// The own port of a further round.
struct Fresh {
    round: u8,
    port: u16,
    /// Where nothing listens.
    _held: Option<Scratch>,
    /// Its listener, and the connections on which it is observed: they hold its mapping.
    _tasks: Vec<Task>,
}

impl Attempt {
    fn new(reach: Reach, secrets: Secrets, own_tag: Tag, peer_tag: Tag, router: Arc<Router>) -> Self {
        // One fixed rule that both sides can apply: the greater session key chooses.
        let controlling = reach.own > reach.introduction.peer;
        let config = Config {
            controlling,
            round_trip_bound: Duration::from_micros(u64::from(reach.introduction.round_trip_bound_us)),
            introduced: reach.introduced,
            deadline: reach.introduced + reach.timeout.min(ATTEMPT_MOST),
            own: reach.introduction.own_profile,
            peer: reach.introduction.profile,
            seen_over_v6: reach.here.observed.iter().any(|seen| !seen.ip().to_canonical().is_ipv4()),
            strangers: reach.strangers,
            sockets: port::spare_descriptors(),
            avoid: [&reach.here.observed[..], &reach.here.brokers].concat(),
            rules: reach.rules,
        };
        let (keys, _) = watch::channel(None);
        let mut opening = None;
        let mut answer = Vec::new();
        let mut signals = None;
        let nonce = reach.introduction.nonce;
        match secrets {
            Secrets::Keys(peer_keys, message) => {
                signals = Some(signal_keys(&peer_keys, &nonce));
                keys.send_replace(Some(LaneKeys::new(peer_keys, nonce)));
                answer = message;
            }
            Secrets::Opening(waiting) => opening = Some(waiting),
        }
        Attempt {
            own_tag,
            peer_tag,
            puncher: Puncher::new(config, StdRng::from_os_rng()),
            peer_profile: reach.introduction.profile,
            told: Vec::new(),
            mapped: Vec::new(),
            opening,
            answer: answer.into(),
            keys,
            signals,
            answers: mpsc::channel(4),
            alarm: Alarm::default(),
            dials: JoinSet::new(),
            lanes: JoinSet::new(),
            nominations: JoinSet::new(),
            tasks: HashMap::new(),
            releases: HashMap::new(),
            connected: HashMap::new(),
            verified: HashMap::new(),
            salts: HashSet::new(),
            controlling,
            router,
            fresh: Vec::new(),
            over: Arc::default(),
            reach,
        }
    }

    fn begin(&mut self) {
        let addresses = self.reach.introduction.addresses.clone();
        let first = first_candidates(&addresses, &self.reach.introduction.public, &self.reach.here);
        self.candidates(first);
        let told = std::mem::take(&mut self.reach.told);
        self.told(&told);
        self.tell_mapped();
        if *self.reach.profile.borrow() != self.reach.introduction.own_profile {
            self.profiles();
        }
    }

    fn candidates(&mut self, candidates: Vec<Candidate>) {
        let families = self.reach.families;
        for candidate in candidates.into_iter().filter(|candidate| families.has(candidate.address)) {
            self.puncher.handle(Instant::now(), Input::Candidate(candidate));
        }
    }

    /// What the peer says of itself.
    fn told(&mut self, told: &Told) {
        let Introduction { addresses, public, .. } = &self.reach.introduction;
        let mut candidates = host_candidates(&told.hosts, addresses, &self.reach.here);
        let mapped = told.mapped.and_then(|at| mapped_candidate(at, addresses, public, &self.reach.here));
        self.told.extend(&told.hosts);
        self.mapped.extend(mapped.map(|candidate| candidate.address));
        candidates.extend(mapped);
        self.candidates(candidates);
    }

    /// The own port that a router forwards, if there is one that is worth telling.
    fn own_mapped(&self) -> Option<SocketAddr> {
        let external = self.reach.portmap.external()?;
        may_tell_mapped(external, &self.reach.here.observed).then_some(external)
    }

    /// Tells the peer of a port that was forwarded after it was told the rest.
    fn tell_mapped(&mut self) {
        let mapped = self.own_mapped();
        if mapped.is_some() && mapped != self.reach.mapped_told {
            self.tell(Told { mapped, ..Told::default() });
        }
    }

    /// Seals it and has the broker pass it on, once there are keys.
    fn tell(&mut self, told: Told) {
        let Some((sealer, _)) = &mut self.signals else { return };
        let mapped = told.mapped;
        let mut record = Vec::new();
        if let Ok(bytes) = (Payload { told, ..Payload::default() }).encode()
            && sealer.seal(Kind::Data, &bytes, &mut record).is_ok()
        {
            self.reach.mapped_told = mapped.or(self.reach.mapped_told);
            let introduction = self.reach.introduction.id;
            let relay = ToBroker::Relay { introduction, signal: Signal::Sealed(record) };
            let _ = self.reach.link.try_send(Order::Say(relay));
        }
    }

    fn profiles(&mut self) {
        let own = *self.reach.profile.borrow();
        self.puncher.handle(Instant::now(), Input::Profiles { own, peer: self.peer_profile });
    }

    fn links_changed(&mut self) {
        let [_, six] = &*self.reach.observers.borrow_and_update();
        if six.is_some() {
            self.puncher.handle(Instant::now(), Input::SeenOverV6);
        }
    }

    /// Takes a fresh port, and has the broker observe it.
    fn open(&mut self, round: u8, v6: bool, listen: bool) {
        let [four, six] = self.reach.observers.borrow().clone();
        let Some(observer) = (if v6 { six } else { four.or(six) }) else { return };
        let over_v6 = observer.places.iter().all(SocketAddr::is_ipv6);
        let (number, held, listening) = if listen {
            match Port::acquire(None, self.reach.families, &mut StdRng::from_os_rng()) {
                Ok(port) => {
                    (port.number(), None, Some(tokio::spawn(self.router.clone().serve(Arc::new(port)))))
                }
                Err(error) => return tracing::warn!("no further round: {error}"),
            }
        } else {
            match Scratch::open(over_v6) {
                Ok(port) => (port.number(), Some(port), None),
                Err(error) => return tracing::warn!("no further round: {error}"),
            }
        };
        let question: [u8; 8] = rand::rng().random();
        let Sources { v4, v6 } = self.reach.sources;
        let greeting = observer.greeting(question);
        let observing = observer.places.into_iter().map(|place| {
            let source = if place.is_ipv4() { v4 } else { v6 };
            let greeting = greeting.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = port::dial(source, number, place).await else { return };
                if stream.write_all(&greeting).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            })
        });
        let _tasks = listening.into_iter().chain(observing).map(|task| Task(task.abort_handle())).collect();
        self.fresh.push(Fresh { round, port: number, _held: held, _tasks });
        let introduction = self.reach.introduction.id;
        let _ = self.reach.link.try_send(Order::Say(ToBroker::Round { introduction, round, question }));
    }

    async fn step(&mut self, messages: &mut mpsc::Receiver<Message>, wait: Instant) {
        tokio::select! {
            Some(message) = messages.recv() => self.message(message),
            Some(answer) = self.answers.1.recv() => self.answer(&answer),
            Some(ended) = self.dials.join_next() => {
                if let Ok((socket, result)) = ended {
                    self.dialled(socket, result);
                }
            }
            Some(ended) = self.lanes.join_next() => {
                if let Ok((socket, result)) = ended {
                    self.authenticated(socket, result);
                }
            }
            Some(ended) = self.nominations.join_next() => {
                if let Ok((socket, lane)) = ended {
                    let input = match lane {
                        Some(lane) => {
                            self.verified.insert(socket, lane);
                            Input::Nominated { socket }
                        }
                        None => Input::Failed { socket },
                    };
                    self.puncher.handle(Instant::now(), input);
                }
            }
            Ok(()) = self.reach.profile.changed() => self.profiles(),
            Ok(()) = self.reach.observers.changed() => self.links_changed(),
            () = self.reach.portmap.changed() => self.tell_mapped(),
            () = self.alarm.at(wait) => {}
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Go => self.puncher.handle(Instant::now(), Input::Go),
            Message::Signal(Signal::Answer(answer)) => self.answer(&answer),
            Message::Signal(Signal::Sealed(record)) => self.sealed(record),
            Message::Signal(Signal::Word { round, word }) => {
                self.puncher.handle(Instant::now(), Input::PeerSays { round, word });
            }
            Message::RoundWanted(round) => {
                self.puncher.handle(Instant::now(), Input::RoundWanted { round });
            }
            Message::Round(round, peer) => {
                let Introduction { public, .. } = &self.reach.introduction;
                let found = first_candidates(&[peer], public, &self.reach.here);
                let families = self.reach.families;
                let candidates = found.into_iter().filter(|it| families.has(it.address)).collect();
                self.puncher.handle(Instant::now(), Input::Round { round, candidates });
            }
            Message::SeenAt(address) => {
                if self.reach.introduction.addresses.len() < MAX_OBSERVED {
                    self.reach.introduction.addresses.push(address);
                }
                let found = first_candidates(&[address], &[], &self.reach.here);
                self.candidates(found);
            }
            Message::Profile(profile) => {
                self.peer_profile = profile;
                self.profiles();
            }
            Message::Arrived(_) if self.connected.len() + self.lanes.len() >= ARRIVALS => {}
            Message::Arrived(arrival) => {
                let socket = self.puncher.name_socket();
                let remote = arrival.remote;
                let Arrival { stream, remote: from, salt, handshake } = arrival;
                let head = ArrivalHead { salt, handshake };
                self.connected.insert(socket, (stream, from, Some(head)));
                self.puncher.handle(Instant::now(), Input::Accepted { socket, remote });
            }
        }
    }

    /// The responder's handshake message, from wherever it comes first.
    fn answer(&mut self, answer: &[u8]) {
        let Some(opening) = &mut self.opening else { return };
        let Ok((keys, payload)) = opening.finish(&self.reach.introduction.peer, answer) else {
            tracing::warn!("the answer to the handshake does not verify");
            return;
        };
        self.opening = None;
        let nonce = self.reach.introduction.nonce;
        self.signals = Some(signal_keys(&keys, &nonce));
        self.keys.send_replace(Some(LaneKeys::new(keys, nonce)));
        self.told(&payload.told);
        let own = Told { hosts: std::mem::take(&mut self.reach.tell), mapped: self.own_mapped() };
        if !own.is_empty() {
            self.tell(own);
        }
    }

    fn sealed(&mut self, mut record: Vec<u8>) {
        let Some((_, opener)) = &mut self.signals else { return };
        let Some(header) = record.first_chunk::<HEADER>().copied() else { return };
        let Some(body) = record.get_mut(HEADER..) else { return };
        if Opener::body_length(header) != Ok(body.len()) {
            return;
        }
        let payload = opener.open(header, body).ok().and_then(|(_, bytes)| Payload::decode(bytes).ok());
        if let Some(payload) = payload {
            self.told(&payload.told);
        }
    }

    fn dialled(&mut self, socket: SocketId, result: Result<TcpStream, DialError>) {
        self.releases.remove(&socket);
        let outcome = match result {
            Ok(stream) => match stream.peer_addr() {
                Ok(remote) => {
                    self.connected.insert(socket, (stream, remote, None));
                    Dialled::Connected
                }
                Err(_) => Dialled::Refused,
            },
            Err(refused) => refused.outcome,
        };
        self.puncher.handle(Instant::now(), Input::Dialled { socket, outcome });
    }

    fn authenticated(&mut self, socket: SocketId, result: Option<Authenticated>) {
        // What was said on one connection proves nothing on another.
        let fresh = result.filter(|result| self.salts.insert(result.salt));
        let input = match fresh {
            Some(Authenticated { lane, nominated, .. }) if self.controlling || nominated => {
                self.verified.insert(socket, lane);
                Input::Verified { socket, nominated }
            }
            Some(Authenticated { lane, .. }) => {
                let task = self.nominations.spawn(async move { (socket, await_nomination(lane).await) });
                self.tasks.insert(socket, task);
                Input::Verified { socket, nominated: false }
            }
            None => Input::Failed { socket },
        };
        self.puncher.handle(Instant::now(), input);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Open { round, v6, listen } => {
                // The first ports led to nothing, or can't: the peer's NAT steps.
                self.reach.portmap.needed();
                self.open(round, v6, listen);
            }
            Output::Tell { round, word } => {
                let introduction = self.reach.introduction.id;
                let relay = ToBroker::Relay { introduction, signal: Signal::Word { round, word } };
                let _ = self.reach.link.try_send(Order::Say(relay));
            }
            Output::Dial { socket, origin, remote, many } => {
                let mut syns = self.reach.syns.lock().unwrap_or_else(PoisonError::into_inner);
                let allowed = syns.allow(Instant::now(), remote.ip(), many);
                drop(syns);
                if !allowed {
                    tracing::warn!("no SYN to {remote}: too many went there within a minute");
                    let outcome = Dialled::TimedOut;
                    return self.puncher.handle(Instant::now(), Input::Dialled { socket, outcome });
                }
                let port = self.port(origin);
                (self.reach.events)(Event::Fired { peer: self.reach.introduction.peer, port, remote });
                // The SYN leaves here, so that none is counted that still waits for its turn when another has won.
                let begun = port::begin(self.source(remote), port, remote);
                let (release, released) = oneshot::channel();
                let released = async move {
                    if released.await.is_err() {
                        std::future::pending().await
                    }
                };
                let dial = async move {
                    match begun {
                        Ok(dialling) => (socket, dialling.finish_unless(released).await),
                        Err(error) => (socket, Err(error)),
                    }
                };
                if many {
                    self.releases.insert(socket, release);
                }
                let task = self.dials.spawn(dial);
                self.tasks.insert(socket, task);
            }
            Output::Authenticate { socket, nominate, cautious } => {
                let Some((stream, remote, arrival)) = self.connected.remove(&socket) else { return };
                let mapped = arrival.is_none() && self.mapped.contains(&canonical(remote));
                let birthday = self.puncher.is_birthday(socket);
                let exchange = Exchange {
                    stream: Doubtful { stream: Some(stream), over: self.over.clone() },
                    remote,
                    arrival,
                    tags: (self.own_tag, self.peer_tag),
                    nominate,
                    cautious,
                    mapped,
                    birthday,
                    keys: self.keys.subscribe(),
                    answer: self.answer.clone(),
                    answers: self.answers.0.clone(),
                };
                let task = self.lanes.spawn(async move { (socket, exchange.run().await) });
                self.tasks.insert(socket, task);
            }
            Output::Nominate { socket } => {
                if let Some(lane) = self.verified.get_mut(&socket) {
                    let mut record = Vec::new();
                    // A fresh connection's buffer takes these few bytes at once.
                    if lane.sealer.seal(Kind::Nominate, &[], &mut record).is_ok() {
                        let _ = lane.stream.try_write(&record);
                    }
                }
            }
            Output::Release { socket } => {
                if let Some(release) = self.releases.remove(&socket) {
                    let _ = release.send(());
                }
            }
            Output::Close { socket } => {
                self.over.store(self.puncher.is_over(), Ordering::Release);
                self.releases.remove(&socket);
                if let Some(task) = self.tasks.remove(&socket) {
                    task.abort();
                }
                self.connected.remove(&socket);
                self.verified.remove(&socket);
            }
            Output::Wait(_) | Output::Finished(_) => {}
        }
    }

    /// The local port; 0 for any.
    fn port(&self, origin: Origin) -> u16 {
        match origin {
            Origin::Round(0) => self.reach.here.port,
            Origin::Round(round) => {
                self.fresh.iter().find(|fresh| fresh.round == round).map_or(0, |fresh| fresh.port)
            }
            Origin::Scratch => 0,
        }
    }

    fn source(&self, remote: SocketAddr) -> Option<IpAddr> {
        let Sources { v4, v6 } = self.reach.sources;
        plan::source(if remote.is_ipv4() { v4 } else { v6 }, remote)
    }

    fn finish(mut self, finished: Finished) -> Result<Connection, Box<Obstacle>> {
        let own = *self.reach.profile.borrow();
        let winner = finished.winner.and_then(|winner| Some((winner, self.verified.remove(&winner.socket)?)));
        let Some((Winner { round, .. }, lane)) = winner else {
            let Introduction { addresses, public, .. } = &self.reach.introduction;
            let beside_broker = hidden_beside_broker(addresses, public, &self.reach.here);
            return Err(Box::new(Obstacle { own, peer: self.peer_profile, tried: finished, beside_broker }));
        };
        let ends = [
            translated(own, lane.local, &self.reach.here.observed),
            translated(self.peer_profile, lane.remote, &self.told),
        ];
        let path = match Path::of(lane.local, lane.remote, ends) {
            _ if lane.mapped => Path::Mapped,
            Path::Punched if lane.birthday => Path::Birthday,
            path => path,
        };
        let info = PathInfo {
            path,
            local: lane.local,
            remote: lane.remote,
            tries: u32::from(round) + 1,
            syns: finished.syns,
            elapsed: self.reach.introduced.elapsed(),
        };
        Ok(Connection::new(Parts {
            socket: lane.stream,
            sealer: lane.sealer,
            opener: lane.opener,
            own: self.reach.own,
            binding: lane.binding,
            peer: self.reach.introduction.peer,
            info,
            network: self.reach.network.clone(),
            portmap: lane.mapped.then_some(self.reach.portmap),
        }))
    }
}

/// What was read from a connection that came in, before it found its attempt.
struct ArrivalHead {
    salt: [u8; SALT],
    handshake: usize,
}

/// A connection of which nobody knows yet whether the peer is at its other end. Given up, it is
/// closed with a reset, which also clears what NATs remember of it; when the attempt is over, with
/// a FIN, because some NATs close a whole port on a reset.
struct Doubtful {
    stream: Option<TcpStream>,
    over: Arc<AtomicBool>,
}

impl Doubtful {
    fn get(&mut self) -> Result<&mut TcpStream, Stranger> {
        self.stream.as_mut().ok_or(Stranger::Over)
    }
}

impl Drop for Doubtful {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && !self.over.load(Ordering::Acquire)
        {
            port::abort(stream);
        }
    }
}

/// Tags and first records on one connection. Both sides speak at once.
struct Exchange {
    stream: Doubtful,
    remote: SocketAddr,
    arrival: Option<ArrivalHead>,
    tags: (Tag, Tag),
    nominate: bool,
    cautious: bool,
    /// This side dialled a port that the peer's router forwards.
    mapped: bool,
    birthday: bool,
    keys: watch::Receiver<Option<LaneKeys>>,
    answer: Arc<[u8]>,
    answers: mpsc::Sender<Vec<u8>>,
}

impl Exchange {
    /// `None` where the other end is not the peer.
    async fn run(self) -> Option<Authenticated> {
        let remote = self.remote;
        match self.exchange().await {
            Ok(authenticated) => Some(authenticated),
            Err(why) => {
                tracing::debug!("{remote} is not the peer: {why}");
                None
            }
        }
    }

    async fn exchange(mut self) -> Result<Authenticated, Stranger> {
        let local = self.stream.get()?.local_addr()?;
        let own_salt = LaneKeys::salt(&mut rand::rng());
        let mut out = preamble(&self.tags.0, &own_salt, &self.answer)?;
        let mut sealer = None;
        let ready = self.keys.borrow().clone();
        if let Some(keys) = ready {
            sealer = Some(self.confirm(&keys, &own_salt, &mut out)?);
        }
        self.stream.get()?.write_all(&out).await?;
        let ArrivalHead { salt, handshake } = match self.arrival.take() {
            Some(head) => head,
            None => {
                let mut head = [0; PREAMBLE];
                self.stream.get()?.read_exact(&mut head).await?;
                let (tag, salt, handshake) = parse_preamble(&head)?;
                if tag != self.tags.1 {
                    return Err(Stranger::Tag);
                }
                ArrivalHead { salt, handshake }
            }
        };
        if handshake > 0 {
            let mut message = vec![0; handshake];
            self.stream.get()?.read_exact(&mut message).await?;
            let _ = self.answers.send(message).await;
        }
        let keys = match self.keys.wait_for(Option::is_some).await {
            Ok(keys) => keys.clone().ok_or(Stranger::Over)?,
            Err(_) => return Err(Stranger::Over),
        };
        let mut sealer = match sealer {
            Some(sealer) => sealer,
            None => {
                let mut out = Vec::new();
                let sealer = self.confirm(&keys, &own_salt, &mut out)?;
                self.stream.get()?.write_all(&out).await?;
                sealer
            }
        };
        let mut opener = keys.opener(&salt);
        let (kind, payload) = read_record(self.stream.get()?, &mut opener).await?;
        if kind != Kind::Confirm {
            return Err(Stranger::Record(SecureError::Malformed));
        }
        let nominated = payload.first() == Some(&1);
        // Only the other side knows where it dialled.
        let mapped = self.mapped || payload.get(1) == Some(&1);
        let birthday = self.birthday || payload.get(2) == Some(&1);
        let mut out = Vec::new();
        sealer.seal(Kind::Ack, &[], &mut out)?;
        self.stream.get()?.write_all(&out).await?;
        if self.cautious {
            let (kind, _) = read_record(self.stream.get()?, &mut opener).await?;
            if kind != Kind::Ack {
                return Err(Stranger::Record(SecureError::Malformed));
            }
        }
        let stream = self.stream.stream.take().ok_or(Stranger::Over)?;
        let binding = keys.channel_binding();
        let lane = Lane { stream, local, remote: self.remote, sealer, opener, binding, mapped, birthday };
        Ok(Authenticated { lane, salt, nominated })
    }

    fn confirm(&self, keys: &LaneKeys, salt: &[u8; SALT], out: &mut Vec<u8>) -> Result<Sealer, SecureError> {
        let mut sealer = keys.sealer(salt);
        sealer.seal(Kind::Confirm, &[self.nominate, self.mapped, self.birthday].map(u8::from), out)?;
        Ok(sealer)
    }
}

/// Why the other end of a connection is not taken for the peer.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it shows another tag")]
    Tag,
    #[error("what it sends: {0}")]
    Record(#[from] SecureError),
    #[error("the attempt is over")]
    Over,
}

async fn read_record(stream: &mut TcpStream, opener: &mut Opener) -> Result<(Kind, Vec<u8>), Stranger> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let length = Opener::body_length(header)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (kind, payload) = opener.open(header, &mut body)?;
    Ok((kind, payload.to_vec()))
}

/// Waits on a verified connection for the controlling side to choose it.
async fn await_nomination(mut lane: Lane) -> Option<Lane> {
    loop {
        match read_record(&mut lane.stream, &mut lane.opener).await {
            Ok((Kind::Nominate, _)) => return Some(lane),
            Ok((Kind::Ack, _)) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}
