//! The library as programs use it: endpoints in one process, with a real broker on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{RngCore, SeedableRng};
use tcpunch::store::{Store, StoreError};
use tcpunch::{
    BindError, BrokerError, Builder, ConnectError, Connection, Endpoint, Event, InviteNews, LobbyNews,
    PortError,
};
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::code::Code;
use tcpunch_core::identity::SecretKey;
use tcpunch_core::limits::{DEAD_AFTER, WINDOW_FIRST, WINDOW_MOST};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

struct Broker {
    at: SocketAddr,
    key: SecretKey,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Broker {
    async fn start() -> Self {
        let key = SecretKey::generate(&mut rand::rngs::StdRng::from_os_rng());
        Broker::start_at("127.0.0.1:0".parse().unwrap(), key).await
    }

    async fn start_at(at: SocketAddr, key: SecretKey) -> Self {
        Broker::start_with(ServerConfig::listening_on(at, key)).await
    }

    async fn start_with(config: ServerConfig) -> Self {
        let key = config.key.clone();
        let server = Server::bind(config).await.unwrap();
        let at = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(|_| {}, stopped).await.unwrap();
        });
        Broker { at, key, stop, task }
    }

    /// Ends it, and starts it again at the same place with the same key.
    async fn restart(self) -> Self {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        Broker::start_at(self.at, self.key).await
    }

    fn builder(&self) -> Builder {
        Endpoint::builder().broker(self.at.to_string().parse().unwrap())
    }

    async fn endpoint(&self) -> Endpoint {
        soon("an endpoint", self.builder().bind()).await.unwrap()
    }

    /// Two ends of one connection, the one that waited first, with their endpoints.
    async fn pair(&self) -> (Connection, Connection, [Endpoint; 2]) {
        let (one, two) = (self.endpoint().await, self.endpoint().await);
        let (waiter, arriver) = meet(&one, &two).await;
        (waiter, arriver, [one, two])
    }
}

async fn meet(one: &Endpoint, two: &Endpoint) -> (Connection, Connection) {
    let mut invite = soon("a code", one.invite()).await.unwrap();
    let code = invite.code().clone();
    let (waiter, arriver) =
        soon("a meeting", async { tokio::join!(invite.accept(), two.connect(code)) }).await;
    (waiter.unwrap(), arriver.unwrap())
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

async fn all(mut half: &Connection) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon("the end of what comes", half.read_to_end(&mut bytes)).await.map(|_| bytes)
}

async fn says(mut half: &Connection, bytes: &[u8]) {
    soon("room to write", half.write_all(bytes)).await.unwrap();
}

async fn hears(mut half: &Connection, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    soon("bytes", half.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, bytes);
}

#[tokio::test]
async fn two_meet_by_a_code_and_close() {
    let broker = Broker::start().await;
    let (waiter, arriver, endpoints) = broker.pair().await;
    assert_eq!((waiter.peer(), arriver.peer()), (endpoints[1].key(), endpoints[0].key()));
    assert_eq!(waiter.info().local, arriver.info().remote);
    assert_eq!(waiter.info().remote, arriver.info().local);
    assert_eq!(waiter.info().local.port(), endpoints[0].port());
    says(&waiter, b"to the arriver").await;
    hears(&arriver, b"to the arriver").await;
    says(&arriver, b"to the waiter").await;
    hears(&waiter, b"to the waiter").await;
    assert_eq!(waiter.traffic(), (13, 14));
    let (one, two) = soon("both ends", async { tokio::join!(waiter.close(), arriver.close()) }).await;
    one.unwrap();
    two.unwrap();
}

#[tokio::test]
async fn each_direction_ends_for_itself() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    soon("the end", (&waiter).shutdown()).await.unwrap();
    assert_eq!(all(&arriver).await.unwrap(), b"");
    says(&arriver, b"still here").await;
    soon("the end", (&arriver).shutdown()).await.unwrap();
    assert_eq!(all(&waiter).await.unwrap(), b"still here");
    // Nothing more can be said.
    let error = (&waiter).write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    // It stays the end, however often it is asked for.
    assert_eq!(all(&arriver).await.unwrap(), b"");
}

/// Writes until nothing moves for a while; returns what the writer still has to write.
async fn fill(half: &Connection, bytes: &[u8]) {
    let mut writer = half;
    let blocked = timeout(Duration::from_millis(700), writer.write_all(bytes)).await;
    assert!(blocked.is_err(), "everything was taken: {blocked:?}");
}

#[tokio::test]
async fn half_close_passes_a_full_window() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    let bytes = noise(5_000_000);
    let write = async {
        let mut half = &waiter;
        half.write_all(&bytes).await.unwrap();
        half.shutdown().await.unwrap();
    };
    let rest = async {
        // The writer is stuck: the other side reads nothing.
        let stuck = || waiter.traffic().1 >= u64::from(WINDOW_FIRST);
        while !stuck() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        soon("the end gets past the window", (&arriver).shutdown()).await.unwrap();
        assert_eq!(all(&waiter).await.unwrap(), b"");
        let taken = waiter.traffic().1;
        assert!(taken < bytes.len() as u64, "the writer is stuck no more: {taken}");
        let heard = all(&arriver).await.unwrap();
        assert!(heard == bytes, "{} bytes", heard.len());
    };
    soon("both directions", async { tokio::join!(write, rest) }).await;
    let (one, two) = soon("both ends", async { tokio::join!(waiter.close(), arriver.close()) }).await;
    one.unwrap();
    two.unwrap();
}

#[tokio::test]
async fn who_never_reads_stops_the_writer_and_costs_a_window_at_most() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    let bytes = noise(2 * WINDOW_MOST as usize);
    fill(&waiter, &bytes).await;
    let taken = waiter.traffic().1;
    // What was taken from the writer is all that either side holds.
    assert!((u64::from(WINDOW_FIRST)..=u64::from(WINDOW_MOST)).contains(&taken), "{taken}");
    fill(&waiter, &bytes).await;
    assert_eq!(waiter.traffic().1, taken, "it goes on being stuck");
    // The other direction is not held up.
    says(&arriver, b"meanwhile").await;
    hears(&waiter, b"meanwhile").await;
}

/// A reader that pauses for longer than a dead peer is silent is not taken for one.
#[tokio::test]
async fn a_reader_that_pauses_is_not_taken_for_dead() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    let bytes = noise(3_000_000);
    let write = async {
        let mut half = &waiter;
        half.write_all(&bytes).await.unwrap();
        half.shutdown().await.unwrap();
    };
    let read = async {
        tokio::time::sleep(DEAD_AFTER + Duration::from_secs(5)).await;
        assert!(all(&arriver).await.unwrap() == bytes);
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_dropped_connection_is_cut_off() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    says(&waiter, b"last words").await;
    hears(&arriver, b"last words").await;
    drop(waiter);
    let error = all(&arriver).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    // Writing fails as well, and says why.
    assert!(arriver.lost().is_some());
    assert!((&arriver).write_all(b"x").await.is_err());
}

/// Who dropped the connection ended it, and not the network: also where it left unread what had come.
#[tokio::test]
async fn a_connection_dropped_with_bytes_unread_is_cut_off() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    (&arriver).write_all(&noise(WINDOW_FIRST as usize)).await.unwrap();
    drop(waiter);
    let error = all(&arriver).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
}

/// What is under way toward who drops the connection would make the kernel answer with a reset.
#[tokio::test]
async fn a_connection_dropped_while_the_other_side_writes_is_cut_off() {
    let broker = Broker::start().await;
    let one = broker.endpoint().await;
    let two = broker.endpoint().await;
    for _ in 0..10 {
        let (waiter, arriver) = meet(&one, &two).await;
        let bytes = noise(200_000);
        let write = async {
            let mut half = &arriver;
            while half.write_all(&bytes).await.is_ok() {}
        };
        let read = async {
            let mut half = &waiter;
            half.read_exact(&mut vec![0; 1_000_000]).await.unwrap();
            drop(waiter);
        };
        soon("an error for the writer", async { tokio::join!(write, read) }).await;
        let error = all(&arriver).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }
}

#[tokio::test]
async fn half_an_end_is_no_end() {
    let broker = Broker::start().await;
    let (waiter, arriver, _endpoints) = broker.pair().await;
    // The arriver has ended, the waiter has not and goes: what it would have said is missing.
    soon("the end", (&arriver).shutdown()).await.unwrap();
    assert_eq!(all(&waiter).await.unwrap(), b"");
    drop(waiter);
    assert_eq!(all(&arriver).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn strangers_at_the_port_prevent_no_meeting() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut strangers = Vec::new();
    for port in [one.port(), two.port()] {
        for number in 0..100 {
            let mut stranger = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            match number % 4 {
                // Silent, half a head, a head of nobody, and something else altogether.
                0 => {}
                1 => stranger.write_all(&[7; 5]).await.unwrap(),
                2 => stranger.write_all(&noise(200)).await.unwrap(),
                _ => stranger.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap(),
            }
            strangers.push(stranger);
        }
    }
    let (waiter, arriver) = meet(&one, &two).await;
    says(&waiter, b"among ourselves").await;
    hears(&arriver, b"among ourselves").await;
    // They heard nothing.
    for stranger in &mut strangers {
        let mut heard = Vec::new();
        let _ = timeout(Duration::from_millis(1), stranger.read_to_end(&mut heard)).await;
        assert!(heard.is_empty());
    }
}

#[tokio::test]
async fn a_port_belongs_to_one_endpoint() {
    let broker = Broker::start().await;
    let one = broker.endpoint().await;
    let second = broker.builder().port(one.port()).bind().await;
    assert!(matches!(second.err(), Some(BindError::Port(PortError::Taken(port))) if port == one.port()));
}

#[tokio::test]
async fn a_broker_that_restarts_is_found_again() {
    let broker = Broker::start().await;
    let (events, mut happened) = mpsc::unbounded_channel();
    let builder = broker.builder().on_event(move |event| {
        let _ = events.send(event);
    });
    let one = builder.bind().await.unwrap();
    let two = broker.endpoint().await;
    let (before, after) = meet(&one, &two).await;
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    let broker = broker.restart().await;
    match soon("the code again", invite.news()).await {
        InviteNews::Opened(again) => assert_eq!(again, code),
        other => panic!("{other:?}"),
    }
    let mut lost = 0;
    while let Ok(event) = happened.try_recv() {
        lost += usize::from(matches!(event, Event::LinkLost));
    }
    assert_eq!(lost, 1);
    // What stood goes on.
    says(&before, b"untouched").await;
    hears(&after, b"untouched").await;
    // A third comes with the code from before.
    let three = broker.endpoint().await;
    let (waiter, arriver) =
        soon("a meeting", async { tokio::join!(invite.accept(), three.connect(code)) }).await;
    let (waiter, arriver) = (waiter.unwrap(), arriver.unwrap());
    says(&arriver, b"with the old code").await;
    hears(&waiter, b"with the old code").await;
}

#[tokio::test]
async fn a_dropped_invite_withdraws_its_code() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    drop(invite);
    // The broker has heard of the withdrawal once it answers what was asked later.
    let other = one.invite().await.unwrap();
    let refused = soon("an answer", two.connect(code.clone())).await;
    assert!(
        matches!(refused.as_ref().err(), Some(tcpunch::ConnectError::NoSuchCode(number)) if *number == code.number),
        "{refused:?}"
    );
    drop(other);
}

/// Polls once, which sends the command, and gives up.
async fn begun_and_dropped(endpoint: &Endpoint, code: Code) {
    let connecting = endpoint.connect(code);
    tokio::pin!(connecting);
    let begun =
        std::future::poll_fn(|cx| std::task::Poll::Ready(connecting.as_mut().poll(cx).is_pending())).await;
    assert!(begun);
}

#[tokio::test]
async fn a_connect_that_is_given_up_leaves_code_and_endpoint_usable() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    for _ in 0..20 {
        begun_and_dropped(&two, code.clone()).await;
    }
    let (waiter, arriver) =
        soon("a meeting", async { tokio::join!(invite.accept(), two.connect(code)) }).await;
    let (waiter, arriver) = (waiter.unwrap(), arriver.unwrap());
    says(&waiter, b"the one that stayed").await;
    hears(&arriver, b"the one that stayed").await;
}

#[tokio::test]
async fn a_time_limit_without_end_is_one_too() {
    let broker = Broker::start().await;
    let endless =
        || async { soon("an endpoint", broker.builder().timeout(Duration::MAX).bind()).await.unwrap() };
    let (one, two) = (endless().await, endless().await);
    let (waiter, arriver) = meet(&one, &two).await;
    says(&waiter, b"in good time").await;
    hears(&arriver, b"in good time").await;
}

#[tokio::test]
async fn a_code_is_met_once_at_a_time() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    let (waiter, first, second) = soon("a meeting", async {
        tokio::join!(invite.accept(), two.connect(code.clone()), two.connect(code.clone()))
    })
    .await;
    assert!(waiter.is_ok() && first.is_ok());
    assert!(matches!(second, Err(ConnectError::NoSuchCode(_))), "{second:?}");
}

#[tokio::test]
async fn a_broker_with_another_key_ends_all_that_is_asked_for() {
    let broker = Broker::start().await;
    let pinned = format!("{}#{}", broker.at, broker.key.public()).parse().unwrap();
    let endpoint = soon("an endpoint", Endpoint::builder().broker(pinned).bind()).await.unwrap();
    let mut invite = endpoint.invite().await.unwrap();
    let code = invite.code().clone();
    broker.stop.send(()).unwrap();
    broker.task.await.unwrap();
    let _other =
        Broker::start_at(broker.at, SecretKey::generate(&mut rand::rngs::StdRng::from_os_rng())).await;
    let changed =
        |error: &ConnectError| matches!(error, ConnectError::Broker(BrokerError::KeyChanged { .. }));
    let waited = soon("the end of the code", invite.accept()).await;
    assert!(changed(waited.as_ref().unwrap_err()), "{waited:?}");
    let connected = soon("an answer", endpoint.connect(code)).await;
    assert!(changed(connected.as_ref().unwrap_err()), "{connected:?}");
    let invited = soon("an answer", endpoint.invite()).await;
    assert!(invited.as_ref().is_err_and(changed));
    let news = soon("an answer", async { endpoint.lobby().news().await }).await;
    assert!(matches!(&news, LobbyNews::Refused(error) if changed(error)), "{news:?}");
}

/// Without what was kept any broker would be as good as the known one. One whose key is given needs it not, nor does one
/// on this machine.
#[tokio::test]
async fn keys_of_brokers_that_cannot_be_read_are_no_reason_to_trust_any() {
    let broker = Broker::start().await;
    let directory = tempfile::tempdir().unwrap();
    let store = || Store::open(Some(directory.path().to_owned())).unwrap();
    let path = store().known_brokers_path().unwrap();
    std::fs::write(&path, "no list of keys\n").unwrap();
    // Nobody is asked: a documentation address.
    let elsewhere = "192.0.2.1".parse().unwrap();
    let bound = soon("an answer", Endpoint::builder().broker(elsewhere).store(store()).bind()).await;
    let error = bound.map(drop).unwrap_err();
    assert!(matches!(&error, BindError::Store(StoreError::Damaged { .. })), "{error:?}");
    let pinned = format!("{}#{}", broker.at, broker.key.public()).parse().unwrap();
    for broker in [pinned, broker.at.to_string().parse().unwrap()] {
        let bound = soon("an endpoint", Endpoint::builder().broker(broker).store(store()).bind()).await;
        assert!(bound.is_ok(), "{:?}", bound.map(drop));
    }
}

#[tokio::test]
async fn waiting_for_news_can_be_given_up() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    let connect = async { two.connect(code).await.unwrap() };
    let accept = async {
        let began = Instant::now();
        loop {
            // Given up again and again, and nothing is missed.
            if let Ok(result) = timeout(Duration::from_micros(300), invite.accept()).await {
                return result.unwrap();
            }
            assert!(began.elapsed() < SOON);
        }
    };
    let (arriver, waiter) = soon("a meeting", async { tokio::join!(connect, accept) }).await;
    says(&waiter, b"x").await;
    hears(&arriver, b"x").await;
}

#[tokio::test]
async fn one_endpoint_serves_many() {
    let broker = Broker::start().await;
    let hub = broker.endpoint().await;
    let mut others = Vec::new();
    for number in 0..4_u8 {
        let other = broker.endpoint().await;
        let (waiter, arriver) = meet(&hub, &other).await;
        assert_eq!(waiter.info().local.port(), hub.port());
        others.push((number, waiter, arriver, other));
    }
    for (number, waiter, arriver, _) in &others {
        says(arriver, &[*number]).await;
        hears(waiter, &[*number]).await;
    }
    // Connections outlive their endpoint.
    drop(hub);
    for (number, waiter, arriver, _) in &others {
        says(waiter, &[*number]).await;
        hears(arriver, &[*number]).await;
    }
}

#[tokio::test]
async fn a_broker_puts_no_command_into_a_code() {
    let key = SecretKey::generate(&mut rand::rngs::StdRng::from_os_rng());
    let mut config = ServerConfig::listening_on("127.0.0.1:0".parse().unwrap(), key);
    config.public =
        ["b.invalid$(reboot)", "\u{1b}]0;title\u{7}.invalid", "b.invalid:99"].map(String::from).into();
    let broker = Broker::start_with(config).await;
    let invite = soon("a code", broker.endpoint().await.invite()).await.unwrap();
    assert_eq!(invite.code().broker.as_deref(), Some("b.invalid:99"));
}
