//! Peers and brokers made of core's own pieces: they speak the protocol up to a point, and then do what a test tells
//! them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part; a test that meets what it does not expect is to fail"
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tcpunch::{Builder, Code, ConnectError, Connection, Endpoint, Event, Families, PublicKey, Verb};
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::identity::SecretKey;
use tcpunch_core::profile::NatProfile;
use tcpunch_core::secure::{
    HEADER, Kind, LaneKeys, LinkHandshake, LinkOpener, LinkSealer, Opener, Opening, PREAMBLE, Pake, Pattern,
    PeerKeys, Sealer, Share, Tag, Told, parse_preamble, preamble, respond, tags,
};
use tcpunch_core::wire::{
    ClaimId, FromBroker, Introduction, IntroductionId, Met, PREFACE, Preface, Signal, ToBroker, Welcome,
    decode, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub fn fresh_key() -> SecretKey {
    SecretKey::generate(&mut StdRng::from_os_rng())
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What an endpoint tells while it works.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    pub fn watch(&self, builder: Builder) -> Builder {
        let events = self.0.clone();
        builder.on_event(move |event| events.lock().unwrap().push(event))
    }

    /// Where SYNs went, in order.
    pub fn fired(&self) -> Vec<SocketAddr> {
        let fired = |event: &Event| match event {
            Event::Fired { remote, .. } => Some(*remote),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(fired).collect()
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }
}

/// An honest broker in this process.
pub struct Broker {
    pub at: SocketAddr,
    _stop: oneshot::Sender<()>,
    _task: JoinHandle<()>,
}

impl Broker {
    pub async fn start() -> Self {
        let config = ServerConfig::listening_on(address("127.0.0.1:0"), fresh_key());
        let server = Server::bind(config).await.unwrap();
        let at = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(|_| {}, stopped).await.unwrap();
        });
        Broker { at, _stop: stop, _task: task }
    }

    pub fn builder(&self) -> Builder {
        builder_at(self.at)
    }

    pub async fn endpoint(&self) -> Endpoint {
        soon("an endpoint", self.builder().bind()).await.unwrap()
    }
}

pub fn builder_at(broker: SocketAddr) -> Builder {
    Endpoint::builder().broker(broker.to_string().parse().unwrap()).families(Families { v4: true, v6: false })
}

/// Two honest endpoints meet, the one that waits first.
pub async fn meet(one: &Endpoint, two: &Endpoint) -> (Connection, Connection) {
    let mut invite = soon("a code", one.invite()).await.unwrap();
    let code = invite.code().clone();
    let (waiter, arriver) =
        soon("a meeting", async { tokio::join!(invite.accept(), two.connect(code)) }).await;
    (waiter.unwrap(), arriver.unwrap())
}

pub async fn says(mut half: &Connection, bytes: &[u8]) {
    soon("room to write", half.write_all(bytes)).await.unwrap();
}

pub async fn hears(mut half: &Connection, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    soon("bytes", half.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, bytes);
}

/// Everything until the end, and whether the end was a true one.
pub async fn all(mut half: &Connection) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    loop {
        match soon("the end of what comes", half.read_buf(&mut bytes)).await {
            Ok(0) => return (bytes, Ok(())),
            Ok(_) => {}
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// One end of a link, of either side.
pub struct RawLink {
    stream: TcpStream,
    sealer: LinkSealer,
    opener: LinkOpener,
    /// The key that the other end proved.
    pub remote: PublicKey,
}

async fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut frame = vec![0; usize::from(length)];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], bytes].concat()).await.unwrap();
}

impl RawLink {
    /// `welcome`: what a broker says.
    async fn shake(mut stream: TcpStream, mut handshake: LinkHandshake, welcome: Option<Welcome>) -> Self {
        let payload = welcome.map_or_else(Vec::new, |welcome| encode(&welcome).unwrap());
        while !handshake.is_finished() {
            if handshake.is_my_turn() {
                write_framed(&mut stream, &handshake.write(&payload).unwrap()).await;
            } else {
                let message = read_framed(&mut stream).await.expect("a handshake message");
                handshake.read(&message).unwrap();
            }
        }
        let remote = handshake.remote().unwrap();
        let (sealer, opener) = handshake.finish();
        RawLink { stream, sealer, opener, remote }
    }

    /// False where the other end is gone.
    pub async fn say(&mut self, message: &impl Serialize) -> bool {
        let frame = self.sealer.seal(encode(message).unwrap()).unwrap();
        self.stream.write_all(&frame).await.is_ok()
    }

    /// The next message, or `None` at the end.
    pub async fn hear<M: DeserializeOwned>(&mut self) -> Option<M> {
        let frame = read_framed(&mut self.stream).await?;
        Some(decode(&self.opener.open(frame).expect("an honest frame")).expect("an honest message"))
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub fn observed(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }
}

/// A peer that has registered at a broker and does nothing by itself.
pub struct RawPeer {
    pub secret: SecretKey,
    pub from: IpAddr,
    pub link: RawLink,
    /// All that the broker said.
    pub heard: Vec<FromBroker>,
}

impl RawPeer {
    pub async fn register(broker: SocketAddr, from: &str) -> Self {
        Self::register_as(fresh_key(), broker, from).await
    }

    /// With a key for which this holds: the greater key of two controls.
    pub async fn register_where(broker: SocketAddr, from: &str, holds: impl Fn(&PublicKey) -> bool) -> Self {
        let secret = std::iter::repeat_with(fresh_key).find(|key| holds(&key.public())).unwrap();
        Self::register_as(secret, broker, from).await
    }

    pub async fn register_as(secret: SecretKey, broker: SocketAddr, from: &str) -> Self {
        let from: IpAddr = from.parse().unwrap();
        let mut stream = connect(from, broker).await.unwrap();
        let preface = Preface::Link(Pattern::Xx).encode();
        stream.write_all(&preface).await.unwrap();
        let handshake = LinkHandshake::peer(&secret, None, &preface).unwrap();
        let mut link = soon("a link", RawLink::shake(stream, handshake, None)).await;
        link.say(&ToBroker::Register { profile: NatProfile::default() }).await;
        let mut peer = RawPeer { secret, from, link, heard: Vec::new() };
        peer.link.say(&ToBroker::Ping(0)).await;
        peer.hear(|message| matches!(message, FromBroker::Pong(0))).await;
        peer
    }

    pub fn key(&self) -> PublicKey {
        self.secret.public()
    }

    /// Where the broker sees it.
    pub fn door(&self) -> SocketAddr {
        self.link.local()
    }

    /// Reads until a message that is wanted.
    pub async fn hear(&mut self, wanted: impl Fn(&FromBroker) -> bool) -> FromBroker {
        loop {
            let message: FromBroker =
                soon("the broker's word", self.link.hear()).await.expect("the broker stays");
            self.heard.push(message.clone());
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Claims a code and is told who waits, and its share.
    pub async fn claim(&mut self, code: &Code, verb: Verb) -> (ClaimId, PublicKey, Share) {
        self.link.say(&ToBroker::Claim { number: code.number, verb }).await;
        match self.hear(|message| matches!(message, FromBroker::Claimed { .. })).await {
            FromBroker::Claimed { claim, waiter, share, .. } => (claim, waiter, share),
            _ => unreachable!(),
        }
    }

    /// Proves the words of a claimed code and is introduced.
    pub async fn arrive(&mut self, code: &Code, verb: Verb) -> Meeting {
        self.arrive_with(code, verb, vec![]).await
    }

    /// And names these as addresses of its own interfaces.
    pub async fn arrive_with(&mut self, code: &Code, verb: Verb, hosts: Vec<SocketAddr>) -> Meeting {
        let (claim, waiter, share) = self.claim(code, verb).await;
        let agreed = tcpunch_core::secure::Meeting {
            broker: self.link.remote,
            number: code.number,
            verb: verb.partner(),
        };
        let pake = Pake::arriver(&code.secret, &agreed);
        let own_share = pake.share().clone();
        let key = pake.finish(&share, &waiter, &self.key()).unwrap();
        let (mut opening, handshake) =
            Opening::with_code(&self.key(), &key, Told { hosts, mapped: None }).unwrap();
        self.link.say(&ToBroker::Prove { claim, share: own_share, handshake }).await;
        let introduction = self.introduced().await;
        let Met::CodeArriver { answer, .. } = &introduction.meeting else { panic!("{introduction:?}") };
        let (keys, _) = opening.finish(&introduction.peer, answer).unwrap();
        Meeting { own: self.key(), from: self.from, introduction, keys, answer: vec![] }
    }

    pub async fn introduced(&mut self) -> Introduction {
        match self.hear(|message| matches!(message, FromBroker::Introduced(_))).await {
            FromBroker::Introduced(introduction) => introduction,
            _ => unreachable!(),
        }
    }

    /// Joins the lobby and is introduced to the one member that is there.
    pub async fn join(&mut self) -> Meeting {
        let (mut opening, opener) = Opening::open(&self.key()).unwrap();
        self.link.say(&ToBroker::Join { connected: vec![], openers: vec![opener] }).await;
        let introduction = self.introduced().await;
        let answer = match self.hear(|message| matches!(message, FromBroker::Relayed { .. })).await {
            FromBroker::Relayed { signal: Signal::Answer(answer), .. } => answer,
            other => panic!("{other:?}"),
        };
        let (keys, _) = opening.finish(&introduction.peer, &answer).unwrap();
        Meeting { own: self.key(), from: self.from, introduction, keys, answer: vec![] }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // What the kernel takes for who does not read must not hide what a connection keeps.
    socket.set_recv_buffer_size(64 * 1024)?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A stranger's connection from that address.
pub async fn knock(from: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    connect(from, SocketAddr::new(address("127.0.0.1:0").ip(), port)).await
}

/// An introduction with the keys that the two agreed on.
pub struct Meeting {
    pub own: PublicKey,
    pub from: IpAddr,
    pub introduction: Introduction,
    pub keys: PeerKeys,
    /// What an answering side of the lobby sends at the head of each lane.
    pub answer: Vec<u8>,
}

impl Meeting {
    pub fn controls(&self) -> bool {
        self.own > self.introduction.peer
    }

    fn tags(&self) -> (Tag, Tag) {
        tags(&self.introduction.nonce, &self.own, &self.introduction.peer)
    }

    /// The tag that this side shows: anybody on the way can see it.
    pub fn tag(&self) -> Tag {
        self.tags().0
    }

    /// A connection on which only the preamble and the first record were sent.
    pub async fn open(&self, nominate: bool) -> RawLane {
        let peer = self.introduction.addresses[0];
        let stream = soon("the peer's port", connect(self.from, peer)).await.unwrap();
        self.open_on(stream, nominate).await
    }

    pub async fn open_on(&self, stream: TcpStream, nominate: bool) -> RawLane {
        let lanes = LaneKeys::new(self.keys.clone(), self.introduction.nonce);
        let salt = LaneKeys::salt(&mut StdRng::from_os_rng());
        let sealer = lanes.sealer(&salt);
        let mut lane = RawLane { stream, sealer, opener: None, sent: Vec::new() };
        lane.write(&preamble(&self.tag(), &salt, &self.answer).unwrap()).await;
        lane.record(Kind::Confirm, &[u8::from(nominate && self.controls())]).await;
        lane
    }

    /// Reads the other side's preamble and first record.
    pub async fn read_head(&self, lane: &mut RawLane) -> Option<bool> {
        let mut head = [0; PREAMBLE];
        lane.stream.read_exact(&mut head).await.ok()?;
        let (tag, salt, length) = parse_preamble(&head).unwrap();
        assert_eq!(tag, self.tags().1, "the peer's tag");
        lane.stream.read_exact(&mut vec![0; length]).await.ok()?;
        let lanes = LaneKeys::new(self.keys.clone(), self.introduction.nonce);
        lane.opener = Some(lanes.opener(&salt));
        match lane.hear().await? {
            (Kind::Confirm, payload) => Some(payload.first() == Some(&1)),
            other => panic!("{other:?}"),
        }
    }

    /// The lane that wins.
    pub async fn lane(&self) -> RawLane {
        let lane = self.open(true).await;
        self.win(lane).await
    }

    pub async fn win(&self, mut lane: RawLane) -> RawLane {
        let work = async {
            let nominated = self.read_head(&mut lane).await.expect("an answer");
            lane.record(Kind::Ack, &[]).await;
            while !nominated && !self.controls() {
                match lane.hear().await {
                    Some((Kind::Nominate, _)) => break,
                    Some((Kind::Ack, _)) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        soon("the lane", work).await;
        lane
    }
}

/// A lane in the hands of a test.
pub struct RawLane {
    pub stream: TcpStream,
    pub sealer: Sealer,
    pub opener: Option<Opener>,
    /// All bytes that were written.
    pub sent: Vec<u8>,
}

impl RawLane {
    /// Whatever the other end thinks of it.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        let _ = self.stream.write_all(bytes).await;
    }

    pub fn seal(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.sealer.seal(kind, payload, &mut out).unwrap();
        out
    }

    pub async fn record(&mut self, kind: Kind, payload: &[u8]) {
        let record = self.seal(kind, payload);
        self.write(&record).await;
    }

    /// The next record, or `None` at the end of the stream.
    pub async fn hear(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; Opener::body_length(header).unwrap()];
        self.stream.read_exact(&mut body).await.ok()?;
        let (kind, payload) = self.opener.as_mut().unwrap().open(header, &mut body).unwrap();
        Some((kind, payload.to_vec()))
    }
}

/// A broker that does nothing by itself.
pub struct RawBroker {
    pub at: SocketAddr,
    pub secret: SecretKey,
    listener: TcpListener,
}

/// A broker's end of a link.
pub struct Served {
    pub link: RawLink,
    /// All that the peer said.
    pub heard: Vec<ToBroker>,
}

impl RawBroker {
    pub async fn start() -> Self {
        Self::listening_on(address("127.0.0.1:0")).await
    }

    pub async fn listening_on(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        RawBroker { at: listener.local_addr().unwrap(), secret: fresh_key(), listener }
    }

    pub fn key(&self) -> PublicKey {
        self.secret.public()
    }

    /// The next connection, before a word was said on it.
    pub async fn knock(&self) -> TcpStream {
        soon("a peer", self.listener.accept()).await.unwrap().0
    }

    /// The next link, registered. `observed`: where the broker says that it sees it, if not where it does.
    pub async fn accept(&self, observed: Option<SocketAddr>) -> Served {
        let (stream, preface, pattern) = loop {
            let mut stream = self.knock().await;
            let mut preface = [0; PREFACE];
            if stream.read_exact(&mut preface).await.is_err() {
                // One that looked at its NAT ended before it said so.
                continue;
            }
            match Preface::decode(preface).unwrap() {
                Preface::Link(pattern) => break (stream, preface, pattern),
                // It looks at its NAT.
                Preface::Observe | Preface::Knock => {}
            }
        };
        let handshake = LinkHandshake::broker(&self.secret, pattern, &preface).unwrap();
        let observed = observed.unwrap_or(stream.peer_addr().unwrap());
        let welcome = Welcome { observed, token: [7; 8], advertised: vec![], probes: vec![] };
        let link = soon("a link", RawLink::shake(stream, handshake, Some(welcome))).await;
        let mut served = Served { link, heard: Vec::new() };
        served.hear(|message| matches!(message, ToBroker::Register { .. })).await;
        served
    }

    /// An endpoint with its link here.
    pub async fn endpoint(&self, builder: Builder, observed: Option<SocketAddr>) -> (Endpoint, Served) {
        let (endpoint, served) =
            soon("an endpoint", async { tokio::join!(builder.bind(), self.accept(observed)) }).await;
        (endpoint.unwrap(), served)
    }
}

impl Served {
    pub async fn say(&mut self, message: FromBroker) {
        self.link.say(&message).await;
    }

    /// Reads until a message that is wanted.
    pub async fn hear(&mut self, wanted: impl Fn(&ToBroker) -> bool) -> ToBroker {
        loop {
            let message: ToBroker = soon("the peer's word", self.link.hear()).await.expect("the peer stays");
            self.heard.push(message.clone());
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Reads what still comes within this time.
    pub async fn hear_for(&mut self, time: Duration) {
        let _ = timeout(time, async {
            while let Some(message) = self.link.hear::<ToBroker>().await {
                self.heard.push(message);
            }
        })
        .await;
    }

    pub fn count(&self, wanted: impl Fn(&ToBroker) -> bool) -> usize {
        self.heard.iter().filter(|message| wanted(message)).count()
    }

    /// Opens the code that is asked for, and takes its share.
    pub async fn open(&mut self, number: u32) -> Share {
        let request = self.asked_for_a_code().await;
        self.opened(request, number).await;
        self.share().await
    }

    /// The request that names the answer.
    pub async fn asked_for_a_code(&mut self) -> u32 {
        match self.hear(|message| matches!(message, ToBroker::Open { .. })).await {
            ToBroker::Open { request, .. } => request,
            _ => unreachable!(),
        }
    }

    pub async fn opened(&mut self, request: u32, number: u32) {
        self.say(FromBroker::Opened { request, number, expires_s: 600 }).await;
    }

    pub async fn share(&mut self) -> Share {
        match self.hear(|message| matches!(message, ToBroker::Wait { .. })).await {
            ToBroker::Wait { share, .. } => share,
            _ => unreachable!(),
        }
    }

    /// A proof of the words, as the arriver sent it.
    pub async fn proof(&mut self) -> (ClaimId, Share, Vec<u8>) {
        match self.hear(|message| matches!(message, ToBroker::Prove { .. })).await {
            ToBroker::Prove { claim, share, handshake } => (claim, share, handshake),
            _ => unreachable!(),
        }
    }

    /// The openers of a join.
    pub async fn joined(&mut self) -> Vec<Vec<u8>> {
        match self.hear(|message| matches!(message, ToBroker::Join { .. })).await {
            ToBroker::Join { openers, .. } => openers,
            _ => unreachable!(),
        }
    }
}

/// A made-up member that arrives in the lobby: its first handshake message, and what is needed to go on.
pub fn arrives(member: &SecretKey) -> (Opening, Vec<u8>) {
    Opening::open(&member.public()).unwrap()
}

/// A half of an introduction.
pub fn introduction(id: IntroductionId, peer: PublicKey, at: &[SocketAddr], meeting: Met) -> Introduction {
    Introduction {
        id,
        nonce: [9; 16],
        meeting,
        peer,
        addresses: at.to_vec(),
        profile: NatProfile::default(),
        own_profile: NatProfile::default(),
        public: vec![],
        round_trip_bound_us: 1000,
    }
}

/// A member that a broker made up answers the opener of a join.
pub fn answer_opener(
    member: &SecretKey,
    introduction: &Introduction,
    opener: &[u8],
    peer: PublicKey,
) -> Meeting {
    let (keys, answer, _) = respond(&member.public(), &peer, None, opener, Told::default()).unwrap();
    let seen_by_member = Introduction { peer, ..introduction.clone() };
    let from = address("127.0.0.1:0").ip();
    Meeting { own: member.public(), from, introduction: seen_by_member, keys, answer }
}

pub fn left_over(result: Result<Connection, ConnectError>) -> ConnectError {
    match result {
        Ok(connection) => panic!("connected: {connection:?}"),
        Err(error) => error,
    }
}
