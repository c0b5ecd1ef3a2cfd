//! The broker over real loopback sockets, with the smallest peer that speaks its protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tcpunch_broker::{Note, Server, ServerConfig, ServerError, Traffic};
use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::limits::{
    BROKER_HANDSHAKES_PER_ADDRESS, BROKER_OBSERVATION_HELD, CONNECTS_PER_ADDRESS, HANDSHAKE_WITHIN,
    LINK_DEAD_AFTER, MAX_FRAME, MAX_HANDSHAKE, MESSAGES_PER_LINK, STUN_REQUESTS,
};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::rendezvous::Event;
use tcpunch_core::secure::{LinkHandshake, LinkOpener, LinkSealer, Pattern};
use tcpunch_core::stun;
use tcpunch_core::wire::{self, FromBroker, Introduction, KnockAnswer, Preface, Probe, ToBroker, Welcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn key(seed: u64) -> SecretKey {
    SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

struct Running {
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    probe: u16,
    key: PublicKey,
    traffic: Traffic,
    events: Arc<Mutex<Vec<Event>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    fn registered(&self) -> Vec<PublicKey> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match event {
                Event::Registered { peer, .. } => Some(*peer),
                Event::Left { .. } | Event::Introduced { .. } | Event::Go { .. } => None,
            })
            .collect()
    }

    fn left(&self, peer: PublicKey) -> usize {
        let events = self.events.lock().unwrap();
        let left = Event::Left { peer };
        events.iter().filter(|event| **event == left).count()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Running) -> bool) {
        let end = Instant::now() + SOON;
        while !holds(self) {
            assert!(Instant::now() < end, "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn start_with(config: ServerConfig) -> Running {
    let server = Server::bind(config).await.unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let (stop, stopped) = oneshot::channel::<()>();
    let seen = events.clone();
    Running {
        address: server.addresses()[0],
        addresses: server.addresses().to_vec(),
        probe: server.probe_ports().first().copied().unwrap_or(0),
        key: server.key(),
        traffic: server.traffic(),
        events,
        stop,
        task: tokio::spawn(server.run(move |event| seen.lock().unwrap().push(event), async {
            let _ = stopped.await;
        })),
    }
}

async fn start() -> Running {
    start_with(config("127.0.0.1:0")).await
}

fn config(listen: &str) -> ServerConfig {
    ServerConfig::listening_on(listen.parse().unwrap(), key(0))
}

struct Client {
    stream: TcpStream,
    sealer: LinkSealer,
    opener: LinkOpener,
    broker: PublicKey,
    welcome: Welcome,
    sent: usize,
    received: usize,
    /// First handshake message and first frame, as a recorder would have them.
    recorded: Vec<u8>,
}

impl Client {
    /// Connects and shakes hands, and sends nothing else.
    async fn shake_hands(
        mut stream: TcpStream,
        own: &SecretKey,
        known: Option<PublicKey>,
    ) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        let pattern = if known.is_some() { Pattern::Ik } else { Pattern::Xx };
        let preface = Preface::Link(pattern).encode();
        stream.write_all(&preface).await?;
        let mut handshake = LinkHandshake::peer(own, known.as_ref(), &preface).unwrap();
        let (mut sent, mut received) = (preface.len(), 0);
        let (mut recorded, mut welcome) = (preface.to_vec(), None);
        while !handshake.is_finished() {
            if handshake.is_my_turn() {
                let message = block(&handshake.write(&[]).unwrap());
                stream.write_all(&message).await?;
                sent += message.len();
                recorded.extend(message);
            } else {
                let message = read_block(&mut stream).await?;
                received += 2 + message.len();
                welcome = Some(wire::decode(&handshake.read(&message).unwrap()).unwrap());
            }
        }
        let (broker, welcome) = (handshake.remote().unwrap(), welcome.unwrap());
        let (sealer, opener) = handshake.finish();
        Ok(Client { stream, sealer, opener, broker, welcome, sent, received, recorded })
    }

    /// A registered client.
    async fn register(at: SocketAddr, own: &SecretKey, known: Option<PublicKey>) -> Client {
        let stream = TcpStream::connect(at).await.unwrap();
        let mut client = Client::shake_hands(stream, own, known).await.unwrap();
        let register = ToBroker::Register { profile: NatProfile::default() };
        let frame = client.seal(&register);
        client.recorded.extend_from_slice(&frame);
        client.write(&frame).await.unwrap();
        client
    }

    fn seal(&mut self, message: &ToBroker) -> Vec<u8> {
        self.sealer.seal(wire::encode(message).unwrap()).unwrap()
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.sent += bytes.len();
        Ok(())
    }

    async fn say(&mut self, message: &ToBroker) {
        let frame = self.seal(message);
        self.write(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> FromBroker {
        let frame = timeout(SOON, read_block(&mut self.stream)).await.expect("a message in time").unwrap();
        self.received += 2 + frame.len();
        wire::decode(&self.opener.open(frame).unwrap()).unwrap()
    }

    /// What it was told in the handshake, once its link stands.
    async fn welcome(&mut self) -> (SocketAddr, [u8; 8], Vec<u16>) {
        self.ping(77).await;
        let Welcome { observed, token, ref probes, .. } = self.welcome;
        (observed, token, probes.iter().map(|probe| probe.port).collect())
    }

    async fn ping(&mut self, number: u32) {
        self.say(&ToBroker::Ping(number)).await;
        assert_eq!(self.hear().await, FromBroker::Pong(number));
    }

    async fn introduction(&mut self) -> Introduction {
        let introduction = match self.hear().await {
            FromBroker::Introduced(introduction) => introduction,
            other => panic!("{other:?}"),
        };
        let go = FromBroker::Go { introduction: introduction.id };
        assert_eq!(self.hear().await, go);
        introduction
    }
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let mut block = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    block.extend_from_slice(bytes);
    block
}

async fn read_block(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The other side closes, whatever it says before.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let end = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    timeout(SOON, end).await.expect("closed in time");
}

/// The other side closes without a word.
async fn closed_silently(stream: &mut TcpStream) {
    let count = timeout(SOON, stream.read(&mut [0])).await.expect("in time");
    assert_eq!(count.unwrap_or(0), 0);
}

#[tokio::test]
async fn two_in_the_lobby_are_introduced_and_told_to_go() {
    let broker = start().await;
    let (one, two) = (key(1), key(2));
    let mut waiter = Client::register(broker.address, &one, Some(broker.key)).await;
    let mut arriver = Client::register(broker.address, &two, None).await;
    let (waiter_at, ..) = waiter.welcome().await;
    let (arriver_at, ..) = arriver.welcome().await;
    assert_eq!(waiter_at, waiter.stream.local_addr().unwrap());
    assert_eq!(arriver_at, arriver.stream.local_addr().unwrap());
    let join = |openers| ToBroker::Join { connected: vec![], openers };
    waiter.say(&join(vec![])).await;
    assert!(matches!(waiter.hear().await, FromBroker::Joined { members: 0, .. }));
    arriver.say(&join(vec![vec![7; 40]])).await;
    assert!(matches!(arriver.hear().await, FromBroker::Joined { members: 1, introductions: 1, .. }));
    let of_waiter = arriver.introduction().await;
    let of_arriver = waiter.introduction().await;
    assert_eq!(of_waiter.id, of_arriver.id);
    assert_eq!(of_waiter.peer, one.public());
    assert_eq!(of_waiter.addresses, [waiter_at]);
    assert_eq!(of_arriver.peer, two.public());
    assert_eq!(of_arriver.addresses, [arriver_at]);
    // Measured on loopback; the guess for an unknown round trip would be 200 ms for both.
    assert!(of_waiter.round_trip_bound_us < 100_000, "{of_waiter:?}");
}

#[tokio::test]
async fn both_handshakes_register_and_prove_the_brokers_key() {
    let broker = start().await;
    for (own, known) in [(key(1), None), (key(2), Some(broker.key))] {
        let mut client = Client::register(broker.address, &own, known).await;
        client.welcome().await;
        assert_eq!(client.broker, broker.key);
        client.ping(5).await;
        assert!(broker.registered().contains(&own.public()));
        drop(client);
        let gone = |broker: &Running| broker.left(own.public()) == 1;
        broker.until("the peer left", gone).await;
    }
    assert_eq!(broker.traffic.links(), 0);
}

#[tokio::test]
async fn observations_are_answered_on_both_ports() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    let (_, token, probe_ports) = client.welcome().await;
    assert_eq!(probe_ports, [broker.probe]);
    for (question, port) in [(1, broker.address.port()), (2, broker.probe)] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let question = [question; 8];
        stream.write_all(&Preface::Observe.encode()).await.unwrap();
        stream.write_all(&token).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let from = stream.local_addr().unwrap();
        assert_eq!(client.hear().await, FromBroker::Observed { question, from });
        // It stays open, and holds a mapping, for as long as the peer wants.
        let early = timeout(Duration::from_millis(50), stream.read(&mut [0])).await;
        assert!(early.is_err(), "{early:?}");
    }
    client.ping(1).await;
}

/// A connection from a port of its own to the broker, and who else comes to that port.
async fn from_a_port_with_a_listener(to: SocketAddr) -> (TcpStream, TcpListener) {
    let shared = |at: SocketAddr| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(at).unwrap();
        socket
    };
    let listening = shared("127.0.0.1:0".parse().unwrap());
    let own = listening.local_addr().unwrap();
    let listener = listening.listen(8).unwrap();
    (shared(own).connect(to).await.unwrap(), listener)
}

async fn ask_for_knocks(stream: &mut TcpStream, token: [u8; 8], question: [u8; 8]) -> SocketAddr {
    stream.write_all(&[&Preface::Knock.encode()[..], &token, &question].concat()).await.unwrap();
    stream.local_addr().unwrap()
}

#[tokio::test]
async fn the_broker_knocks_where_an_observation_came_from_from_both_its_addresses() {
    let mut config = config("127.0.0.1:0");
    config.probes.push("127.0.0.2:0".parse().unwrap());
    let broker = start_with(config).await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    let (_, token, _) = client.welcome().await;
    let (mut stream, listener) = from_a_port_with_a_listener(broker.address).await;
    let from = ask_for_knocks(&mut stream, token, [7; 8]).await;
    assert_eq!(client.hear().await, FromBroker::Observed { question: [7; 8], from });
    let mut knocked = Vec::new();
    for _ in 0..2 {
        let (mut knock, remote) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        assert!(remote.port() != broker.address.port() && remote.port() != broker.probe);
        assert_eq!(timeout(SOON, knock.read(&mut [0])).await.unwrap().unwrap(), 0, "it says nothing");
        let FromBroker::Knocked { question, elsewhere, answer } = client.hear().await else { panic!() };
        assert_eq!((question, answer), ([7; 8], KnockAnswer::Accepted));
        knocked.push((elsewhere, remote.ip()));
    }
    knocked.sort();
    let ips: [IpAddr; 2] = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().unwrap());
    let mut seen = knocked.iter().map(|(_, ip)| *ip).collect::<Vec<_>>();
    seen.sort();
    assert_eq!(seen, ips);
    assert_eq!(knocked.iter().map(|(elsewhere, _)| *elsewhere).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn who_lets_nobody_in_is_told_so() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    let (_, token, _) = client.welcome().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let from = ask_for_knocks(&mut stream, token, [7; 8]).await;
    assert_eq!(client.hear().await, FromBroker::Observed { question: [7; 8], from });
    let refused = FromBroker::Knocked { question: [7; 8], elsewhere: false, answer: KnockAnswer::Refused };
    assert_eq!(client.hear().await, refused);
}

#[tokio::test]
async fn a_further_address_is_told_where_a_listener_of_all_addresses_has_its_port_too() {
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let mut config = config("127.0.0.1:0");
    let nobodys = SocketAddr::from(([198, 51, 100, 7], port));
    let probes = [[0, 0, 0, 0], [127, 0, 0, 2]].map(|ip| SocketAddr::from((ip, port)));
    config.probes = [&probes[..], &[nobodys]].concat();
    let server = Server::bind(config).await.unwrap();
    assert!(
        matches!(server.notes(), [Note::NoProbe { address, .. }] if *address == nobodys),
        "{:?}",
        server.notes()
    );
    let second = Probe { ip: Some([127, 0, 0, 2].into()), port };
    assert_eq!(server.probes(), [Probe { ip: None, port }, second]);
}

/// The answer to a question in STUN.
async fn asked(stream: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    stream.write_all(message).await.unwrap();
    let mut header = [0; stun::HEADER];
    timeout(SOON, stream.read_exact(&mut header)).await.unwrap().unwrap();
    let mut rest = vec![0; stun::rest(&header).unwrap()];
    timeout(SOON, stream.read_exact(&mut rest)).await.unwrap().unwrap();
    [&header[..], &rest].concat()
}

#[tokio::test]
async fn standard_binding_requests_are_answered_on_both_ports() {
    let broker = start().await;
    for port in [broker.address.port(), broker.probe] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        for question in 0..3 {
            let told = asked(&mut stream, &stun::request(&[question; 12])).await;
            assert_eq!(stun::read_answer(&told, &[question; 12]), Ok(stream.local_addr().unwrap()));
        }
    }
}

#[tokio::test]
async fn a_stun_connection_answers_only_so_often() {
    let broker = start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    for _ in 0..STUN_REQUESTS {
        asked(&mut stream, &stun::request(&[7; 12])).await;
    }
    closed(&mut stream).await;
}

#[tokio::test]
async fn what_only_begins_like_stun_is_closed() {
    let broker = start().await;
    let mut long = stun::request(&[7; 12]);
    long[2..4].copy_from_slice(&[0xff, 0xfc]);
    for bytes in [&[0; 20][..], &long, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client of TLS"] {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed(&mut stream).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stun_connection_is_closed_in_time() {
    let broker = start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(&stun::request(&[7; 12])).await.unwrap();
    let began = Instant::now();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.unwrap();
    assert_eq!(stun::read_answer(&told, &[7; 12]), Ok(stream.local_addr().unwrap()));
    assert!(began.elapsed() <= HANDSHAKE_WITHIN + BROKER_OBSERVATION_HELD);
}

#[tokio::test]
async fn probe_ports_serve_no_links() {
    let broker = start().await;
    let mut stream = TcpStream::connect(("127.0.0.1", broker.probe)).await.unwrap();
    let preface = Preface::Link(Pattern::Xx).encode();
    stream.write_all(&preface).await.unwrap();
    closed_silently(&mut stream).await;
}

#[tokio::test]
async fn a_replayed_handshake_registers_nobody() {
    let broker = start().await;
    let own = key(1);
    let mut client = Client::register(broker.address, &own, Some(broker.key)).await;
    client.welcome().await;
    let recorded = client.recorded.clone();
    drop(client);
    let gone = |broker: &Running| broker.left(own.public()) == 1;
    broker.until("the peer left", gone).await;

    let mut replay = TcpStream::connect(broker.address).await.unwrap();
    replay.write_all(&recorded).await.unwrap();
    // The handshake is answered; the recorded frame does not open under the new keys.
    assert!(!read_block(&mut replay).await.unwrap().is_empty());
    closed_silently(&mut replay).await;
    assert_eq!(broker.registered(), [own.public()]);
    assert_eq!(broker.traffic.links(), 0);
}

#[tokio::test]
async fn foreign_bytes_and_other_versions_are_closed() {
    let broker = start().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64]] {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed_silently(&mut stream).await;
    }
    let mut other = Preface::Link(Pattern::Ik).encode();
    other[7] = wire::VERSION + 1;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    stream.write_all(&other).await.unwrap();
    let mut answer = [0; wire::PREFACE];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..8], *b"tcpunch\x01", "the other version learns which one this is");
    closed_silently(&mut stream).await;
    assert_eq!(broker.traffic.bytes_in(), 0);
}

#[tokio::test]
async fn long_handshake_messages_and_frames_are_closed() {
    let broker = start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let mut bytes = Preface::Link(Pattern::Ik).encode().to_vec();
    bytes.extend_from_slice(&1025_u16.to_be_bytes());
    stream.write_all(&bytes).await.unwrap();
    closed_silently(&mut stream).await;

    let mut client = Client::register(broker.address, &key(1), None).await;
    client.welcome().await;
    // Closed on the length alone: none of its bytes are sent.
    let length = u16::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    client.write(&length).await.unwrap();
    closed(&mut client.stream).await;
    let gone = |broker: &Running| broker.left(key(1).public()) == 1;
    broker.until("the peer left", gone).await;
}

#[tokio::test]
async fn what_is_no_message_closes_the_link() {
    let broker = start().await;
    let forged = block(&[0; 40]);
    let mut client = Client::register(broker.address, &key(1), None).await;
    client.welcome().await;
    client.write(&forged).await.unwrap();
    closed(&mut client.stream).await;

    let mut client = Client::register(broker.address, &key(2), None).await;
    client.welcome().await;
    let sealed = client.sealer.seal(vec![255; 10]).unwrap();
    client.write(&sealed).await.unwrap();
    closed(&mut client.stream).await;
}

#[tokio::test(start_paused = true)]
async fn half_open_handshakes_are_closed_in_time() {
    let broker = start().await;
    let preface = Preface::Link(Pattern::Ik).encode();
    for bytes in [&b""[..], &b"tcpu"[..], &preface[..]] {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let began = Instant::now();
        let count = stream.read(&mut [0]).await;
        assert_eq!(count.unwrap_or(0), 0);
        assert!(began.elapsed() <= HANDSHAKE_WITHIN + Duration::from_secs(1));
    }
    // The handshake alone is not enough either.
    let stream = TcpStream::connect(broker.address).await.unwrap();
    if let Ok(mut client) = Client::shake_hands(stream, &key(1), None).await {
        assert_eq!(client.stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    assert_eq!(broker.registered(), []);
}

#[tokio::test]
async fn one_address_cannot_fill_the_handshakes() {
    let broker = start().await;
    let mut held = Vec::new();
    for _ in 0..BROKER_HANDSHAKES_PER_ADDRESS {
        held.push(TcpStream::connect(broker.address).await.unwrap());
    }
    let early = timeout(Duration::from_millis(20), held[0].read(&mut [0])).await;
    assert!(early.is_err(), "{early:?}");
    let _one_more = TcpStream::connect(broker.address).await.unwrap();
    closed_silently(&mut held[0]).await;
    let early = timeout(Duration::from_millis(20), held[1].read(&mut [0])).await;
    assert!(early.is_err(), "the oldest alone: {early:?}");
    // Silent ones keep out nobody, not even of their own address.
    Client::register(broker.address, &key(1), None).await.welcome().await;
}

#[tokio::test]
async fn an_address_begins_only_so_many_connections() {
    let broker = start().await;
    let connect = |host: u8| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
        socket.connect(broker.address).await.unwrap()
    };
    for _ in 0..CONNECTS_PER_ADDRESS.burst {
        drop(connect(2).await);
    }
    let began = Instant::now();
    let mut refused = false;
    // One comes back every half second, so on a slow machine the first ones still get in.
    while !refused && began.elapsed() < SOON {
        let mut stream = connect(2).await;
        refused = timeout(HANDSHAKE_WITHIN / 10, stream.read(&mut [0])).await.is_ok();
    }
    assert!(refused);
    let stream = connect(3).await;
    let mut other = Client::shake_hands(stream, &key(1), None).await.unwrap();
    let frame = other.seal(&ToBroker::Register { profile: NatProfile::default() });
    other.write(&frame).await.unwrap();
    other.welcome().await;
}

/// A byte of the handshake now and then does not make it last longer.
#[tokio::test(start_paused = true)]
async fn a_handshake_byte_by_byte_is_closed_in_time() {
    let broker = start().await;
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let preface = Preface::Link(Pattern::Ik).encode();
    let mut handshake = LinkHandshake::peer(&key(1), Some(&broker.key), &preface).unwrap();
    let bytes = [&preface[..], &block(&handshake.write(&[]).unwrap())].concat();
    let began = Instant::now();
    let mut sent = 0;
    for byte in bytes {
        sleep(Duration::from_millis(200)).await;
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 60, "{sent} bytes were taken");
    assert!(began.elapsed() <= HANDSHAKE_WITHIN + Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Nor does a byte of a frame now and then keep a link alive.
#[tokio::test(start_paused = true)]
async fn a_frame_byte_by_byte_is_closed_in_time() {
    let broker = start().await;
    let own = key(1);
    let mut client = Client::register(broker.address, &own, None).await;
    client.welcome().await;
    let began = Instant::now();
    let message = ToBroker::Wait { number: 1, share: vec![0; 200] };
    for byte in client.seal(&message) {
        sleep(Duration::from_secs(1)).await;
        if client.write(&[byte]).await.is_err() {
            break;
        }
        if broker.left(own.public()) == 1 {
            break;
        }
    }
    let most = LINK_DEAD_AFTER + Duration::from_secs(15);
    assert!(began.elapsed() <= most, "{:?}", began.elapsed());
    closed(&mut client.stream).await;
    assert_eq!(broker.left(own.public()), 1);
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_others_go_on() {
    let broker = start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(broker.address).await.unwrap();
    let own = key(1);
    let mut slow = Client::shake_hands(stream, &own, None).await.unwrap();
    let join = |openers| ToBroker::Join { connected: vec![], openers };
    slow.say(&ToBroker::Register { profile: NatProfile::default() }).await;
    slow.say(&join(vec![])).await;
    let mut other = Client::register(broker.address, &key(2), None).await;
    other.welcome().await;
    // What one link may say is little, so many must come to fill another's queue.
    let began = Instant::now();
    for n in 0.. {
        if broker.left(own.public()) == 1 {
            break;
        }
        assert!(began.elapsed() < SOON * 3, "closed in time");
        let socket = TcpSocket::new_v4().unwrap();
        let host = u8::try_from(2 + n / 50).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
        let stream = socket.connect(broker.address).await.unwrap();
        let mut newcomer = Client::shake_hands(stream, &key(100 + n), Some(broker.key)).await.unwrap();
        newcomer.say(&ToBroker::Register { profile: NatProfile::default() }).await;
        newcomer.welcome().await;
        newcomer.say(&join(vec![vec![7; MAX_HANDSHAKE]])).await;
        assert!(matches!(newcomer.hear().await, FromBroker::Joined { .. }));
        if n % 10 == 0 {
            other.ping(u32::try_from(n).unwrap()).await;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let gone = |broker: &Running| broker.left(own.public()) == 1;
    broker.until("the peer left", gone).await;
    let alone = |broker: &Running| broker.traffic.links() == 1;
    broker.until("the other goes on alone", alone).await;
    other.ping(0).await;
}

#[tokio::test]
async fn a_second_link_of_a_session_replaces_the_first() {
    let broker = start().await;
    let own = key(1);
    let mut old = Client::register(broker.address, &own, None).await;
    old.welcome().await;
    let mut new = Client::register(broker.address, &own, Some(broker.key)).await;
    new.welcome().await;
    closed(&mut old.stream).await;
    drop(old);
    new.ping(1).await;
    assert_eq!(broker.left(own.public()), 0);
    assert_eq!(broker.traffic.links(), 1);
}

#[tokio::test]
async fn messages_are_answered_in_order() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    client.welcome().await;
    let numbers = 0..MESSAGES_PER_LINK.burst / 2;
    for number in numbers.clone() {
        client.say(&ToBroker::Ping(number)).await;
    }
    for number in numbers {
        assert_eq!(client.hear().await, FromBroker::Pong(number));
    }
}

#[tokio::test]
async fn a_link_that_says_too_much_is_read_slowly_and_loses_nothing() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    client.welcome().await;
    let began = Instant::now();
    let beyond = 4;
    for number in 0..MESSAGES_PER_LINK.burst + beyond {
        client.say(&ToBroker::Ping(number)).await;
    }
    for number in 0..MESSAGES_PER_LINK.burst + beyond {
        assert_eq!(client.hear().await, FromBroker::Pong(number));
    }
    assert!(began.elapsed() >= MESSAGES_PER_LINK.every * beyond * 9 / 10, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let broker = start().await;
    let again = ServerConfig::listening_on(broker.address, key(3));
    match Server::bind(again).await {
        Err(ServerError::Taken { address }) => assert_eq!(address, broker.address),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two brokers on one port"),
    }
}

#[tokio::test]
async fn a_taken_probe_port_is_only_a_note() {
    let broker = start().await;
    let mut config = config("127.0.0.1:0");
    config.probes = vec![broker.address];
    let server = Server::bind(config).await.unwrap();
    assert!(
        matches!(server.notes(), [Note::NoProbe { address, .. }] if *address == broker.address),
        "{:?}",
        server.notes()
    );
    assert_eq!(server.probe_ports(), Vec::<u16>::new());
}

#[tokio::test]
async fn names_that_do_not_resolve_are_only_a_note() {
    let mut config = config("127.0.0.1:0");
    config.public = vec!["nowhere.invalid".to_owned(), "192.0.2.7".to_owned()];
    let server = Server::bind(config).await.unwrap();
    assert!(
        matches!(server.notes(), [Note::Unresolved { host, .. }] if host == "nowhere.invalid"),
        "{:?}",
        server.notes()
    );
    let port = server.addresses()[0].port();
    assert_eq!(server.advertised(), [format!("nowhere.invalid:{port}"), format!("192.0.2.7:{port}")]);
}

#[tokio::test]
async fn one_free_port_serves_both_families() {
    let broker = start_with(config("[::]:0")).await;
    let port = broker.address.port();
    assert_ne!(port, 0);
    assert_ne!(broker.probe, port);
    for address in &broker.addresses {
        assert_eq!(address.port(), port);
        let loopback = if address.is_ipv4() { format!("127.0.0.1:{port}") } else { format!("[::1]:{port}") };
        let own = key(u64::from(address.is_ipv4()));
        let mut client = Client::register(loopback.parse().unwrap(), &own, None).await;
        let (observed, ..) = client.welcome().await;
        assert_eq!(observed, client.stream.local_addr().unwrap());
    }
    assert!(broker.addresses.iter().any(SocketAddr::is_ipv4));
}

#[tokio::test]
async fn shutdown_closes_links_and_frees_the_port() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), None).await;
    client.welcome().await;
    let mut half_open = TcpStream::connect(broker.address).await.unwrap();
    broker.stop.send(()).unwrap();
    timeout(SOON, broker.task).await.unwrap().unwrap().unwrap();
    closed(&mut client.stream).await;
    closed(&mut half_open).await;
    assert_eq!(broker.traffic.links(), 0);
    let again = ServerConfig::listening_on(broker.address, key(0));
    Server::bind(again).await.map(drop).unwrap();
}

#[tokio::test]
async fn traffic_counts_every_byte_of_links() {
    let broker = start().await;
    let mut client = Client::register(broker.address, &key(1), Some(broker.key)).await;
    client.welcome().await;
    client.ping(1).await;
    assert_eq!(broker.traffic.links(), 1);
    assert_eq!(broker.traffic.bytes_in(), client.sent as u64);
    let received = client.received as u64;
    let counted = |broker: &Running| broker.traffic.bytes_out() == received;
    broker.until("bytes out are counted", counted).await;
    drop(client);
    let none = |broker: &Running| broker.traffic.links() == 0;
    broker.until("no link is left", none).await;
}

/// Everything that is logged while this is held, at every level.
struct Log(Arc<Mutex<Vec<u8>>>, #[expect(dead_code, reason = "held")] tracing::subscriber::DefaultGuard);

impl Log {
    fn of_all() -> Self {
        #[derive(Clone)]
        struct Into(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Into {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Into(bytes.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || into.clone())
            .finish();
        Log(bytes, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[tokio::test]
async fn no_address_is_logged_at_any_level() {
    let log = Log::of_all();
    let broker = start().await;
    let from = "127.11.22.33";
    let connect = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(broker.address).await.unwrap()
    };
    let mut ports = Vec::new();
    let mut other = Preface::Link(Pattern::Ik).encode();
    other[7] = wire::VERSION + 1;
    let mut long = Preface::Link(Pattern::Ik).encode().to_vec();
    long.extend_from_slice(&[0xff; 64]);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &other, &long] {
        let mut stream = connect().await;
        ports.push(stream.local_addr().unwrap().port());
        stream.write_all(bytes).await.unwrap();
        closed(&mut stream).await;
    }
    for n in 0..2 {
        let stream = connect().await;
        ports.push(stream.local_addr().unwrap().port());
        let mut client = Client::shake_hands(stream, &key(n), None).await.unwrap();
        client.say(&ToBroker::Register { profile: NatProfile::default() }).await;
        client.welcome().await;
        client.say(&ToBroker::Join { connected: vec![], openers: vec![vec![7; 40]] }).await;
        client.hear().await;
        client.write(&block(&[0; 40])).await.unwrap();
        closed(&mut client.stream).await;
    }
    for _ in 0..2 * CONNECTS_PER_ADDRESS.burst {
        let stream = connect().await;
        ports.push(stream.local_addr().unwrap().port());
    }
    let refused = |_: &Running| log.text().contains("a connection is refused");
    broker.until("refusals are logged", refused).await;
    let text = log.text();
    assert!(text.contains("connection ends"), "there is a log: {text}");
    for port in ports {
        assert!(!text.contains(from) && !text.contains(&format!(":{port}")), "{text}");
    }
}
