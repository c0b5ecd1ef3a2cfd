//! The link to a broker: found, made, kept alive, and made again.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tcpunch_core::candidate::{Scope, scope};
use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::limits::{
    BROKER_PORT, LINK_DEAD_AFTER, LINK_LASTS_FROM, LINK_PING_EVERY, LINK_QUEUE, LINK_RETRY_FIRST,
    LINK_RETRY_MOST, LINK_RETRY_SOON, LINK_RETRY_SOON_FOR, LINK_WITHIN, MAX_FRAME, NEXT_ADDRESS_AFTER,
    PROBE_WITHIN,
};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::secure::{LinkHandshake, LinkOpener, LinkSealer, Pattern};
use tcpunch_core::wire::{FromBroker, PREFACE, Preface, ToBroker, VERSION, Welcome, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::door::Door;
use crate::endpoint::EventSink;
use crate::error::{BrokerError, Event, KnownFrom};
use crate::gather;
use crate::memory::Memory;
use crate::network::{Doubt, Network, Origin};
use crate::port::{self, Families};
use crate::store::{Store, StoreError};

/// Where a broker is: `HOST[:PORT][#KEY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The key it must prove, where it was given.
    pub key: Option<PublicKey>,
}

/// The text names no broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no broker: it is written HOST, HOST:PORT or HOST:PORT#KEY, IPv6 in brackets")]
pub struct BadBroker(String);

impl FromStr for BrokerAddress {
    type Err = BadBroker;

    fn from_str(text: &str) -> Result<Self, BadBroker> {
        let bad = || BadBroker(text.chars().take(200).collect());
        let (place, key) = match text.split_once('#') {
            Some((place, key)) => (place, Some(key.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return Err(bad()),
                port => (host, port),
            }
        } else if place.parse::<std::net::Ipv6Addr>().is_ok() {
            (place, None)
        } else {
            match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return Err(bad());
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
            None => BROKER_PORT,
        };
        Ok(BrokerAddress { host: host.to_owned(), port, key })
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl BrokerAddress {
    /// Whether its key is one to keep: none was given, and it is not this machine, where whoever may listen there may be it.
    pub(crate) fn is_remembered(&self) -> bool {
        let loopback = self.host.parse().is_ok_and(|ip| scope(ip) == Scope::Loopback);
        self.key.is_none() && !loopback
    }

    /// The address as it stands in a code: without the usual port.
    pub fn in_code(&self) -> String {
        let text = self.to_string();
        match text.strip_suffix(&format!(":{BROKER_PORT}")) {
            Some(host) => host.to_owned(),
            None => text,
        }
    }
}

/// What the registration tells the endpoint.
pub(crate) enum Notice {
    /// The first link of a session stands; what the broker kept of an earlier one is gone.
    Up { broker: BrokerAddress, key: PublicKey, remote: SocketAddr, local: SocketAddr, welcome: Box<Welcome> },
    /// One more link of the same session, over the other family.
    Also { remote: SocketAddr, local: SocketAddr, welcome: Box<Welcome> },
    /// A message.
    Message(Box<FromBroker>),
    /// One of several links is lost.
    Less { local: SocketAddr },
    /// The last link is lost.
    Down,
    /// The key of the broker changed while links were made again: no use to go on.
    Refused(BrokerError),
}

/// What the keeper of the links is told.
pub(crate) enum Order {
    /// Send this on the first link that stands.
    Say(ToBroker),
    /// All that was ordered before is written, or lost with the link.
    Written(oneshot::Sender<()>),
}

/// What a registration needs.
pub(crate) struct Setup {
    pub(crate) brokers: Vec<BrokerAddress>,
    pub(crate) door: Arc<Door>,
    pub(crate) network: Network,
    pub(crate) families: Families,
    pub(crate) session: SecretKey,
    pub(crate) store: Arc<Store>,
    /// Keys of brokers that could not be kept, by the names of these. A link that is made again is made to the same.
    pub(crate) unkept: Mutex<HashMap<String, PublicKey>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) events: EventSink,
    pub(crate) timeout: Duration,
}

/// What was known of a key that can't be kept.
enum Held {
    New,
    Same,
    Changed(PublicKey),
}

impl Setup {
    /// Holds a key that can't be kept, unless another is held already.
    fn hold(&self, broker: &BrokerAddress, key: PublicKey) -> Held {
        let mut unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        match unkept.entry(broker.to_string()) {
            Entry::Vacant(vacant) => {
                vacant.insert(key);
                Held::New
            }
            Entry::Occupied(known) if *known.get() == key => Held::Same,
            Entry::Occupied(known) => Held::Changed(*known.get()),
        }
    }

    fn held(&self, name: &str) -> Option<PublicKey> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// The key that a broker must have, if one is known.
    fn known(&self, broker: &BrokerAddress) -> Result<Option<PublicKey>, StoreError> {
        let name = broker.to_string();
        match broker.key.or_else(|| self.held(&name)) {
            Some(key) => Ok(Some(key)),
            None => Ok(self.store.known_broker(&name)?.map(PublicKey)),
        }
    }
}

struct Link {
    broker: BrokerAddress,
    key: PublicKey,
    remote: SocketAddr,
    local: SocketAddr,
    welcome: Box<Welcome>,
    stream: TcpStream,
    sealer: LinkSealer,
    opener: LinkOpener,
}

struct Slot {
    number: u64,
    local: SocketAddr,
    sealer: LinkSealer,
    writer: OwnedWriteHalf,
    reader: AbortHandle,
    heard: Instant,
    sent: Instant,
    pinged: Instant,
    origin: Origin,
    /// Since when a sign of life is awaited.
    doubted: Option<Instant>,
}

/// One address of a broker to try.
#[derive(Clone)]
struct Target {
    broker: BrokerAddress,
    address: SocketAddr,
    /// The key it must have: pinned, or known from before.
    key: Option<PublicKey>,
    /// Whether it took the connection: then its silence is its own.
    accepted: Arc<AtomicBool>,
}

/// Makes the first link and keeps links from then on. Commands are sent on the first link that
/// stands.
///
/// # Errors
///
/// No address of any broker could be used.
pub(crate) async fn register(
    setup: Setup,
    notices: mpsc::Sender<Notice>,
) -> Result<mpsc::Sender<Order>, BrokerError> {
    let setup = Arc::new(setup);
    let (link, rest) = first_link(&setup, setup.timeout).await?;
    let (commands, queue) = mpsc::channel(LINK_QUEUE);
    let (incoming, messages) = mpsc::channel(256);
    let profile = recall(&setup.memory).await.unwrap_or_default();
    let keeper = Keeper {
        network: setup.network.clone(),
        setup,
        notices,
        queue,
        incoming,
        messages,
        slots: Vec::new(),
        next_number: 0,
        profile,
        pause: LINK_RETRY_FIRST,
        lost: None,
    };
    tokio::spawn(keeper.run(link, rest));
    Ok(commands)
}

/// What is remembered of the network that the link runs through, if it is another one than that of the last link.
async fn recall(memory: &Arc<Memory>) -> Option<NatProfile> {
    let looked = memory.clone();
    let moved = tokio::task::spawn_blocking(move || looked.look()).await.unwrap_or(false);
    moved.then(|| memory.known().map(|known| known.profile).unwrap_or_default())
}

async fn resolve(broker: &BrokerAddress, within: Duration) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((broker.host.as_str(), broker.port));
    match tokio::time::timeout(within, lookup).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the name server does not answer".to_owned()),
    }
}

/// What to try of the addresses of one broker: families alternate, IPv6 first (RFC 8305 section 4).
///
/// # Errors
///
/// There is none of a family in use, or what is known of brokers can't be read: then any other would be as good as the known one.
fn targets(
    setup: &Setup,
    broker: &BrokerAddress,
    found: Vec<SocketAddr>,
) -> Result<VecDeque<Target>, String> {
    let (v6, v4): (Vec<_>, Vec<_>) =
        found.into_iter().filter(|address| setup.families.has(*address)).partition(SocketAddr::is_ipv6);
    let remembers = |address: &SocketAddr| broker.key.is_some() || scope(address.ip()) != Scope::Loopback;
    let known = match v6.iter().chain(&v4).any(remembers) {
        true => setup.known(broker).map_err(|error| error.to_string())?,
        false => None,
    };
    let mut all = VecDeque::new();
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            break;
        }
        for address in pair.into_iter().flatten() {
            let key = known.filter(|_| remembers(&address));
            all.push_back(Target { broker: broker.clone(), address, key, accepted: Arc::default() });
        }
    }
    if all.is_empty() { Err(OTHER_FAMILY.to_owned()) } else { Ok(all) }
}

/// Nothing answers, and whether that is for want of a network here.
fn unreachable(setup: &Setup, tried: Vec<(String, String)>, loopback: bool) -> BrokerError {
    let usable = gather::usable();
    if loopback || usable.iter().any(|ip| setup.families.has(SocketAddr::new(*ip, 0))) {
        return BrokerError::Unreachable(tried);
    }
    let family = match setup.families {
        Families { v4: true, v6: false } => "IPv4 ",
        Families { v4: false, v6: true } => "IPv6 ",
        Families { .. } => "",
    };
    BrokerError::NoNetwork { family, tried }
}

type Race = JoinSet<(SocketAddr, Result<Link, OpenError>)>;

/// What is left of a race when a link stands: tries of the other family that are under way, and
/// addresses of it that were not tried.
struct Rest {
    broker: BrokerAddress,
    race: Race,
    targets: Vec<Target>,
    family_v4: bool,
}

impl Rest {
    /// The first link of the other family, over what is under way or else afresh.
    async fn other_family(mut self, setup: Arc<Setup>) -> Option<Link> {
        while let Some(ended) = self.race.join_next().await {
            if let Ok((_, Ok(link))) = ended
                && link.remote.is_ipv4() != self.family_v4
                && link.broker == self.broker
            {
                return Some(link);
            }
        }
        for target in self.targets {
            if let Ok(Ok(link)) = tokio::time::timeout(LINK_WITHIN, open(&setup, target)).await {
                return Some(link);
            }
        }
        None
    }
}

/// Races the addresses of all brokers; each may take that long, and so may finding them. A name
/// server that is silent about one broker holds up no other.
async fn first_link(setup: &Arc<Setup>, within: Duration) -> Result<(Link, Rest), BrokerError> {
    let within = LINK_WITHIN.min(within);
    let mut tried = Vec::new();
    let mut race: Race = JoinSet::new();
    let mut lookups = JoinSet::new();
    let mut waiting = VecDeque::new();
    let mut loopback = false;
    for broker in setup.brokers.iter().cloned() {
        match broker.host.parse::<IpAddr>() {
            Ok(ip) => match targets(setup, &broker, vec![SocketAddr::new(ip, broker.port)]) {
                Ok(found) => waiting.extend(found),
                Err(what) => tried.push((broker.to_string(), what)),
            },
            Err(_) => drop(lookups.spawn(async move {
                let found = resolve(&broker, within).await;
                (broker, found)
            })),
        }
    }
    loop {
        if let Some(target) = waiting.pop_front() {
            loopback |= scope(target.address.ip()) == Scope::Loopback;
            let setup = setup.clone();
            race.spawn(async move {
                let (address, accepted) = (target.address, target.accepted.clone());
                let result = tokio::time::timeout(within, open(&setup, target)).await;
                let silent = if accepted.load(Ordering::Relaxed) { SAYS_NOTHING } else { NO_ANSWER };
                (address, result.unwrap_or_else(|_| Err(OpenError::Failed(silent.into()))))
            });
        } else if race.is_empty() && lookups.is_empty() {
            return Err(unreachable(setup, tried, loopback));
        }
        tokio::select! {
            Some(looked_up) = lookups.join_next() => {
                let Ok((broker, found)) = looked_up else { continue };
                match found.and_then(|found| targets(setup, &broker, found)) {
                    Ok(found) => waiting.extend(found),
                    Err(what) => tried.push((broker.to_string(), what)),
                }
            }
            Some(ended) = race.join_next() => match ended {
                Ok((_, Ok(link))) => {
                    let family_v4 = link.remote.is_ipv4();
                    let other = |target: &Target| {
                        target.broker == link.broker && target.address.is_ipv4() != family_v4
                    };
                    let targets = waiting.into_iter().filter(other).collect();
                    let broker = link.broker.clone();
                    return Ok((link, Rest { broker, race, targets, family_v4 }));
                }
                Ok((_, Err(OpenError::KeyChanged(error)))) => return Err(error),
                Ok((address, Err(OpenError::Failed(what)))) => tried.push((address.to_string(), what)),
                Err(_) => {}
            },
            () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if !waiting.is_empty() => {}
        }
    }
}

const NO_ANSWER: &str = "no answer in time";
const SAYS_NOTHING: &str =
    "it takes the connection and says nothing: it is suspended, overloaded, or no broker";
const OTHER_FAMILY: &str = "no address of a family in use";

/// Makes the missing link of a session again, over the other family than the one that stands.
async fn family_again(setup: Arc<Setup>, broker: BrokerAddress, standing_v4: bool) -> Option<Link> {
    let mut pause = LINK_RETRY_FIRST;
    loop {
        tokio::time::sleep(jittered(pause)).await;
        let found = match broker.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, broker.port)],
            Err(_) => resolve(&broker, LINK_WITHIN).await.unwrap_or_default(),
        };
        for target in targets(&setup, &broker, found).unwrap_or_default() {
            if target.address.is_ipv4() != standing_v4
                && let Ok(Ok(link)) = tokio::time::timeout(LINK_WITHIN, open(&setup, target)).await
            {
                return Some(link);
            }
        }
        pause = (pause * 2).min(LINK_RETRY_MOST);
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

enum OpenError {
    Failed(String),
    KeyChanged(BrokerError),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        OpenError::Failed(error.to_string())
    }
}

async fn open(setup: &Setup, target: Target) -> Result<Link, OpenError> {
    match try_open(setup, &target, target.key).await {
        Err(OpenError::Failed(what)) if target.key.is_some() => {
            // A broker with another key can't even read the first message: ask it for its key.
            match try_open(setup, &target, None).await {
                Ok(link) => Err(changed(setup, &target, link.key)),
                Err(_) => Err(OpenError::Failed(what)),
            }
        }
        Ok(link) if target.key.is_none() && scope(link.remote.ip()) != Scope::Loopback => {
            let name = target.broker.to_string();
            let store = setup.store.clone();
            let key = link.key.0;
            let remembered = tokio::task::spawn_blocking(move || store.remember_broker(&name, key)).await;
            match remembered {
                Ok(Ok(crate::store::Remembered::Changed { known })) => {
                    let target = Target { key: Some(PublicKey(known)), ..target };
                    Err(changed(setup, &target, link.key))
                }
                // It is asked for again when another process starts, not before.
                Ok(Err(error)) => match setup.hold(&target.broker, link.key) {
                    Held::New => {
                        (setup.events)(Event::KeyNotKept(error.to_string()));
                        Ok(link)
                    }
                    Held::Same => Ok(link),
                    Held::Changed(known) => {
                        let target = Target { key: Some(known), ..target };
                        Err(changed(setup, &target, link.key))
                    }
                },
                Ok(Ok(_)) | Err(_) => Ok(link),
            }
        }
        result => result,
    }
}

fn changed(setup: &Setup, target: &Target, now: PublicKey) -> OpenError {
    let known = target.key.unwrap_or(now);
    if known == now {
        return OpenError::Failed("the handshake failed".into());
    }
    let name = target.broker.to_string();
    let from = match (target.broker.key, setup.store.known_brokers_path()) {
        (Some(_), _) => KnownFrom::Given,
        (None, Some(path)) if setup.held(&name).is_none() => KnownFrom::File(path),
        (None, _) => KnownFrom::Process,
    };
    OpenError::KeyChanged(BrokerError::KeyChanged { name, known, now, from })
}

async fn try_open(setup: &Setup, target: &Target, key: Option<PublicKey>) -> Result<Link, OpenError> {
    let failed = |what: &str| OpenError::Failed(what.to_owned());
    let mut stream = port::dial(None, setup.door.number(), target.address)
        .await
        .map_err(|refused| OpenError::Failed(refused.error.to_string()))?;
    // Until somebody keeps the link: the next try goes to the same place from the same port.
    port::abort(&stream);
    target.accepted.store(true, Ordering::Relaxed);
    let pattern = if key.is_some() { Pattern::Ik } else { Pattern::Xx };
    let preface = Preface::Link(pattern).encode();
    let mut handshake = LinkHandshake::peer(&setup.session, key.as_ref(), &preface)
        .map_err(|_| failed("its key is not usable"))?;
    let mut welcome = None;
    let mut greeting = preface.to_vec();
    greeting.extend(framed(&handshake.write(&[]).map_err(|_| failed("the handshake failed"))?));
    stream.write_all(&greeting).await?;
    while !handshake.is_finished() {
        if handshake.is_my_turn() {
            let message = handshake.write(&[]).map_err(|_| failed("the handshake failed"))?;
            stream.write_all(&framed(&message)).await?;
        } else {
            let message = read_frame(&mut stream).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    failed("it closed during the handshake; is it a broker?")
                }
                _ => OpenError::from(error),
            })?;
            let said =
                handshake.read(&message).map_err(|_| failed("the handshake failed; is it a broker?"))?;
            let said = decode(&said).map_err(|_| failed("its handshake says nothing that can be read"))?;
            welcome = Some(Box::new(said));
        }
    }
    let welcome = welcome.ok_or_else(|| failed("it did not answer"))?;
    let key = handshake.remote().ok_or_else(|| failed("it has no key"))?;
    let (remote, local) = (stream.peer_addr()?, stream.local_addr()?);
    let (sealer, opener) = handshake.finish();
    Ok(Link { broker: target.broker.clone(), key, remote, local, welcome, stream, sealer, opener })
}

fn framed(message: &[u8]) -> Vec<u8> {
    // Handshake messages are a few hundred bytes.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], message].concat()
}

pub(crate) async fn read_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    // A broker of another version answers with its own preface, in the clear.
    if length.to_be_bytes() == *b"tc" {
        let mut rest = [0; PREFACE - 2];
        stream.read_exact(&mut rest).await?;
        let version = rest.get(PREFACE - 4).copied().unwrap_or(0);
        let what = format!("it speaks version {version} of the protocol, this is version {VERSION}");
        return Err(std::io::Error::other(what));
    }
    let length = usize::from(length);
    if length > MAX_FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn read_messages(
    mut reader: OwnedReadHalf,
    mut opener: LinkOpener,
    number: u64,
    incoming: mpsc::Sender<(u64, Option<FromBroker>)>,
) {
    while let Ok(frame) = read_frame(&mut reader).await {
        let Some(message) = opener.open(frame).ok().and_then(|bytes| decode(&bytes).ok()) else { break };
        if incoming.send((number, Some(message))).await.is_err() {
            return;
        }
    }
    let _ = incoming.send((number, None)).await;
}

struct Keeper {
    setup: Arc<Setup>,
    network: Network,
    notices: mpsc::Sender<Notice>,
    queue: mpsc::Receiver<Order>,
    incoming: mpsc::Sender<(u64, Option<FromBroker>)>,
    messages: mpsc::Receiver<(u64, Option<FromBroker>)>,
    slots: Vec<Slot>,
    next_number: u64,
    profile: NatProfile,
    /// The pause before the next try for a link, and since when there is none that lasts: a broker may take a link and
    /// refuse it then.
    pause: Duration,
    lost: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, link: Link, rest: Rest) {
        let mut next = Some((link, rest));
        while let Some((link, rest)) = next {
            let up = Notice::Up {
                broker: link.broker.clone(),
                key: link.key,
                remote: link.remote,
                local: link.local,
                welcome: link.welcome.clone(),
            };
            let stands = Instant::now();
            self.install(link).await;
            if self.notices.send(up).await.is_err() {
                return;
            }
            if !self.keep(rest).await {
                return;
            }
            if stands.elapsed() >= LINK_LASTS_FROM {
                (self.pause, self.lost) = (LINK_RETRY_FIRST, None);
            }
            if self.notices.send(Notice::Down).await.is_err() {
                return;
            }
            next = match self.again().await {
                Ok(found) => Some(found),
                Err(error) => {
                    let _ = self.notices.send(Notice::Refused(error)).await;
                    return;
                }
            };
        }
    }

    async fn install(&mut self, link: Link) {
        self.next_number += 1;
        let origin = Origin::new(link.local.ip(), &self.network);
        port::settle(&link.stream);
        let (reader, writer) = link.stream.into_split();
        let task = tokio::spawn(read_messages(reader, link.opener, self.next_number, self.incoming.clone()));
        self.slots.push(Slot {
            number: self.next_number,
            local: link.local,
            sealer: link.sealer,
            writer,
            reader: task.abort_handle(),
            heard: Instant::now(),
            sent: Instant::now(),
            pinged: Instant::now(),
            origin,
            doubted: None,
        });
        let number = self.next_number;
        self.send(Some(number), &ToBroker::Register { profile: self.profile }).await;
    }

    /// Runs until the last link is gone (true) or nobody wants links any more (false).
    async fn keep(&mut self, rest: Rest) -> bool {
        let mut second = JoinSet::new();
        let broker = rest.broker.clone();
        second.spawn(rest.other_family(self.setup.clone()));
        let mut standing: Vec<SocketAddr> = Vec::new();
        while !self.slots.is_empty() {
            let now: Vec<SocketAddr> = self.slots.iter().map(|slot| slot.local).collect();
            for local in std::mem::replace(&mut standing, now) {
                if !standing.contains(&local) {
                    if self.notices.send(Notice::Less { local }).await.is_err() {
                        return false;
                    }
                    let standing_v4 = standing.iter().any(SocketAddr::is_ipv4);
                    second.spawn(family_again(self.setup.clone(), broker.clone(), standing_v4));
                }
            }
            let wake =
                self.slots.iter().map(Slot::wake).min().unwrap_or_else(|| Instant::now() + LINK_PING_EVERY);
            tokio::select! {
                doubt = self.network.doubt() => self.doubted(doubt).await,
                command = self.queue.recv() => {
                    match command {
                        Some(Order::Say(message)) => {
                            if let ToBroker::Profile(profile) = message {
                                self.profile = profile;
                            }
                            self.send(None, &message).await;
                        }
                        Some(Order::Written(told)) => {
                            let _ = told.send(());
                        }
                        None => return false,
                    }
                }
                Some((number, message)) = self.messages.recv() => {
                    if !self.received(number, message).await {
                        return false;
                    }
                }
                Some(found) = second.join_next() => {
                    if let Ok(Some(link)) = found {
                        let also = Notice::Also {
                            remote: link.remote,
                            local: link.local,
                            welcome: link.welcome.clone(),
                        };
                        self.install(link).await;
                        if self.notices.send(also).await.is_err() {
                            return false;
                        }
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => self.ping().await,
            }
        }
        true
    }

    async fn received(&mut self, number: u64, message: Option<FromBroker>) -> bool {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) else { return true };
        slot.heard = Instant::now();
        slot.doubted = None;
        match message {
            None => {
                self.drop_slot(number);
                true
            }
            Some(FromBroker::Ping(question)) => {
                self.send(Some(number), &ToBroker::Pong(question)).await;
                true
            }
            Some(message) => self.notices.send(Notice::Message(Box::new(message))).await.is_ok(),
        }
    }

    /// Asks every link for a sign of life. Where an address was replaced, all links are made again,
    /// from another port.
    async fn doubted(&mut self, doubt: Doubt) {
        let now = Instant::now();
        let addresses = self.network.addresses();
        let mut replaced = false;
        for slot in &mut self.slots {
            replaced |= doubt == Doubt::Changed && slot.origin.is_replaced(addresses.clone());
            slot.doubted.get_or_insert(now);
            slot.pinged = now;
        }
        let numbers: Vec<u64> = self.slots.iter().map(|slot| slot.number).collect();
        for number in numbers {
            if replaced {
                self.drop_slot(number);
            } else {
                self.send(Some(number), &ToBroker::Ping(0)).await;
            }
        }
    }

    async fn ping(&mut self) {
        let now = Instant::now();
        let numbers: Vec<(u64, bool, bool)> =
            self.slots.iter().map(|slot| (slot.number, now >= slot.ping_at(), slot.is_dead(now))).collect();
        for (number, due, dead) in numbers {
            if dead {
                self.drop_slot(number);
            } else if due {
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
                    slot.pinged = now;
                }
                self.send(Some(number), &ToBroker::Ping(0)).await;
            }
        }
    }

    /// Sends on that link, or on the first that stands; a link that does not take it is dropped.
    async fn send(&mut self, number: Option<u64>, message: &ToBroker) {
        let Ok(bytes) = encode(message) else {
            tracing::error!("a message is longer than allowed");
            return;
        };
        loop {
            let slot = match number {
                Some(number) => self.slots.iter_mut().find(|slot| slot.number == number),
                None => self.slots.first_mut(),
            };
            let Some(slot) = slot else { return };
            let Ok(frame) = slot.sealer.seal(bytes.clone()) else { return };
            let written = tokio::time::timeout(LINK_WITHIN, slot.writer.write_all(&frame)).await;
            if matches!(written, Ok(Ok(()))) {
                slot.sent = Instant::now();
                return;
            }
            let dead = slot.number;
            self.drop_slot(dead);
            if number.is_some() {
                return;
            }
        }
    }

    /// Closed with a reset: otherwise the next link from the same port can't be made while the
    /// other end has not closed.
    fn drop_slot(&mut self, number: u64) {
        if let Some(at) = self.slots.iter().position(|slot| slot.number == number) {
            let slot = self.slots.swap_remove(at);
            port::abort(slot.writer.as_ref());
            slot.reader.abort();
        }
    }

    async fn again(&mut self) -> Result<(Link, Rest), BrokerError> {
        let lost = *self.lost.get_or_insert_with(Instant::now);
        self.setup.door.renew();
        loop {
            let sleep = tokio::time::sleep(jittered(self.pause));
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = &mut sleep => break,
                    () = self.network.change() => {
                        self.pause = LINK_RETRY_FIRST;
                        break;
                    }
                    // What is asked for while no link stands is asked for again by the endpoint.
                    command = self.queue.recv() => match command {
                        Some(Order::Say(ToBroker::Profile(profile))) => self.profile = profile,
                        Some(_) => {}
                        None => return Err(BrokerError::Lost),
                    },
                    Some(_) = self.messages.recv() => {}
                }
            }
            let soon = lost.elapsed() < LINK_RETRY_SOON_FOR;
            let longer = (self.pause * 2).min(if soon { LINK_RETRY_SOON } else { LINK_RETRY_MOST });
            tokio::select! {
                found = first_link(&self.setup, LINK_WITHIN) => match found {
                    Ok(found) => {
                        self.pause = longer;
                        self.profile = recall(&self.setup.memory).await.unwrap_or(self.profile);
                        return Ok(found);
                    }
                    Err(error @ BrokerError::KeyChanged { .. }) => return Err(error),
                    Err(_) => self.pause = longer,
                },
                // What was sent into the old network is not repeated for a while.
                () = self.network.change() => self.pause = LINK_RETRY_FIRST,
            }
        }
    }
}

impl Slot {
    fn dead_at(&self) -> Instant {
        let silent = self.heard + LINK_DEAD_AFTER;
        self.doubted.map_or(silent, |doubted| silent.min(doubted + PROBE_WITHIN))
    }

    fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at()
    }

    /// The broker goes by what it hears, too.
    fn ping_at(&self) -> Instant {
        self.heard.min(self.sent).max(self.pinged) + LINK_PING_EVERY
    }

    fn wake(&self) -> Instant {
        self.ping_at().min(self.dead_at())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.reader.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpunch_core::code::Code;

    #[test]
    fn broker_addresses_are_read() {
        for (text, host, port) in [
            ("broker.example", "broker.example", BROKER_PORT),
            ("broker.example:99", "broker.example", 99),
            ("192.168.1.5", "192.168.1.5", BROKER_PORT),
            ("[2001:db8::1]:99", "2001:db8::1", 99),
            ("[2001:db8::1]", "2001:db8::1", BROKER_PORT),
            ("2001:db8::1", "2001:db8::1", BROKER_PORT),
        ] {
            let broker: BrokerAddress = text.parse().unwrap();
            assert_eq!((broker.host.as_str(), broker.port, broker.key), (host, port, None), "{text}");
            assert_eq!(broker.to_string().parse(), Ok(broker));
        }
        let pinned: BrokerAddress = format!("b:1#{}", "0a".repeat(32)).parse().unwrap();
        assert_eq!(pinned.key, Some(PublicKey([10; 32])));
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for text in [
            "", ":1", "a:0", "a:b", "a:99999", "a b", "[::1", "[zz]:1", "[::1]1", "a%b", "a#12", "a\n:1",
            "$(x)",
        ] {
            assert!(text.parse::<BrokerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn codes_carry_no_usual_port() {
        let in_code = |text: &str| text.parse::<BrokerAddress>().unwrap().in_code();
        assert_eq!(in_code("b.example:7766"), "b.example");
        assert_eq!(in_code("b.example:7767"), "b.example:7767");
        assert_eq!(in_code("[::1]:7766"), "[::1]");
        for long in [format!("{}:9", "a".repeat(253)), format!("{}:65535", "a".repeat(253))] {
            let code: Code = format!("412-abandon-zoo@{}", in_code(&long)).parse().unwrap();
            assert_eq!(code.broker.as_deref(), Some(&*long), "every broker can stand in a code");
        }
    }
}
