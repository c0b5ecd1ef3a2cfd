//! One accepted connection: an observation, questions in STUN, or a link from its handshake to its end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::limits::{
    BROKER_CLOSED_WITHIN, BROKER_OBSERVATION_HELD, BROKER_READ_BUFFER, BROKER_WRITE_BATCH,
    BROKER_WRITE_WITHIN, HANDSHAKE_WITHIN, LINK_HANDSHAKE_MESSAGE, LINK_QUEUE, LINK_QUEUE_BYTES, MAX_FRAME,
    MESSAGES_PER_LINK, STUN_REQUESTS,
};
use tcpunch_core::rendezvous::LinkId;
use tcpunch_core::rendezvous::fence::Bucket;
use tcpunch_core::secure::{LinkHandshake, LinkOpener, LinkSealer, Pattern, SecureError};
use tcpunch_core::stun::{self, BadStun};
use tcpunch_core::wire::{
    self, BadMessage, BadPreface, FromBroker, ObservationToken, PREFACE, Preface, Probe, ToBroker, Welcome,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use crate::gate::{Gate, Pass};
use crate::listen::{forget_unsent, least_round_trip};

use crate::traffic::Traffic;

/// What every connection needs.
pub(crate) struct Shared {
    pub(crate) key: SecretKey,
    /// Where peers reach this broker, best first.
    pub(crate) advertised: Vec<String>,
    pub(crate) probes: Vec<Probe>,
    pub(crate) traffic: Traffic,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) observers: Gate,
    /// Turns at the computing of handshakes, one for every second processor: a flood of them leaves
    /// the other half to the links that stand.
    pub(crate) computing: Semaphore,
}

/// What is served where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Main,
    Probe,
}

/// What a connection tells the one task that owns the rendezvous.
pub(crate) enum Report {
    /// A link is there, with the first message on it.
    Up {
        link: LinkId,
        peer: PublicKey,
        observed: SocketAddr,
        token: [u8; 8],
        handle: Handle,
        first: ToBroker,
        round_trip: Option<Duration>,
    },
    Message {
        link: LinkId,
        message: ToBroker,
        round_trip: Option<Duration>,
    },
    /// The last one of a link.
    Down {
        link: LinkId,
    },
    Observation {
        token: ObservationToken,
        from: SocketAddr,
        /// Where knocks are asked for: the own address that was dialled.
        knock_from: Option<IpAddr>,
    },
}

enum End {
    AfterQueue,
    AtOnce,
}

/// The owner's end of a link.
pub(crate) struct Handle {
    queue: mpsc::Sender<Vec<u8>>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    end: oneshot::Sender<End>,
}

impl Handle {
    /// Queues a message; false where the other side reads too slowly, or is gone.
    pub(crate) fn send(&self, message: &FromBroker) -> bool {
        let Ok(bytes) = wire::encode(message) else {
            tracing::error!("a message is longer than allowed");
            return false;
        };
        let length = bytes.len();
        let before = self.waiting.fetch_add(length, Ordering::Relaxed);
        before + length <= LINK_QUEUE_BYTES && self.queue.try_send(bytes).is_ok()
    }

    /// Closes the link after what was queued was sent.
    pub(crate) fn close(self) {
        // A link that ended by itself does not listen any more.
        let _ = self.end.send(End::AfterQueue);
    }

    /// Closes the link and forgets what was not sent.
    pub(crate) fn reset(self) {
        let _ = self.end.send(End::AtOnce);
    }
}

/// Why a connection ends; nearly always the other side's doing.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Preface(#[from] BadPreface),
    #[error("a handshake or frame: {0}")]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error(transparent)]
    Stun(#[from] BadStun),
    #[error("links are not served at this port")]
    OnlyObservations,
    #[error("nothing could be written for {}s", BROKER_WRITE_WITHIN.as_secs())]
    Stalled,
    #[error("too slow with its handshake")]
    TooSlow,
    #[error("made place for a newcomer")]
    SentAway,
    #[error("the broker is stopping")]
    Stopping,
}

enum Begun {
    Observation {
        token: ObservationToken,
        knocks: bool,
    },
    /// The first question is answered.
    Stun,
    Link(Box<Established>),
}

struct Established {
    peer: PublicKey,
    token: [u8; 8],
    sealer: LinkSealer,
    opener: LinkOpener,
    first: ToBroker,
    round_trip: Duration,
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    door: Door,
    link: LinkId,
    pass: Pass,
) {
    let result = connection(&shared, stream, from, door, link, pass).await;
    if let Err(fault) = result {
        tracing::debug!(link = link.0, %fault, "connection ends");
    }
}

async fn connection(
    shared: &Shared,
    stream: TcpStream,
    from: SocketAddr,
    door: Door,
    link: LinkId,
    mut pass: Pass,
) -> Result<(), Fault> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(BROKER_READ_BUFFER, reader);
    let begun = tokio::select! {
        begun = timeout(HANDSHAKE_WITHIN, begin(shared, &mut reader, &mut writer, from, door)) => {
            begun.map_err(|_| Fault::TooSlow)??
        }
        () = pass.sent_away() => return Err(Fault::SentAway),
    };
    drop(pass);
    match begun {
        Begun::Observation { token, knocks } => {
            let dialled = if knocks { writer.as_ref().local_addr().ok() } else { None };
            let knock_from = dialled.map(|own| own.ip().to_canonical());
            let report = Report::Observation { token, from, knock_from };
            shared.report(report).await?;
            if let Ok(mut held) = shared.observers.enter(clock(), from.ip()) {
                // A peer that holds the connection open holds its NAT's mapping with it.
                let mut byte = [0];
                tokio::select! {
                    _ = timeout(BROKER_OBSERVATION_HELD, reader.read(&mut byte)) => {}
                    () = held.sent_away() => {}
                }
            }
            Ok(())
        }
        Begun::Stun => {
            if let Ok(mut held) = shared.observers.enter(clock(), from.ip()) {
                let questions = answer_questions(&mut reader, &mut writer, from);
                tokio::select! {
                    ended = timeout(BROKER_OBSERVATION_HELD, questions) => ended.unwrap_or(Ok(()))?,
                    () = held.sent_away() => {}
                }
            }
            Ok(())
        }
        Begun::Link(established) => {
            let result = run(shared, reader, writer, from, link, *established).await;
            shared.report(Report::Down { link }).await?;
            result
        }
    }
}

async fn begin(
    shared: &Shared,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    from: SocketAddr,
    door: Door,
) -> Result<Begun, Fault> {
    if reader.fill_buf().await?.first().is_some_and(|first| stun::begins(*first)) {
        answer_question(reader, writer, from).await?;
        return Ok(Begun::Stun);
    }
    let mut preface = [0; PREFACE];
    reader.read_exact(&mut preface).await?;
    let preface_of = Preface::decode(preface);
    if matches!(preface_of, Err(BadPreface::Version(_))) {
        // A peer of another version learns which one this is.
        writer.write_all(&Preface::Link(Pattern::Xx).encode()).await?;
    }
    match (preface_of?, door) {
        (preface @ (Preface::Observe | Preface::Knock), Door::Main | Door::Probe) => {
            let mut token = ObservationToken::default();
            reader.read_exact(&mut token).await?;
            Ok(Begun::Observation { token, knocks: preface == Preface::Knock })
        }
        (Preface::Link(pattern), Door::Main) => {
            shared.traffic.received(PREFACE);
            let established = shake_hands(shared, reader, writer, from, (pattern, &preface)).await?;
            Ok(Begun::Link(Box::new(established)))
        }
        (Preface::Link(_), Door::Probe) => Err(Fault::OnlyObservations),
    }
}

/// What is asked on a STUN connection after the first question. Only its own address is ever told, so that nobody learns
/// another's.
async fn answer_questions(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    from: SocketAddr,
) -> Result<(), Fault> {
    for _ in 1..STUN_REQUESTS {
        answer_question(reader, writer, from).await?;
    }
    Ok(())
}

async fn answer_question(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    from: SocketAddr,
) -> Result<(), Fault> {
    let mut header = [0; stun::HEADER];
    reader.read_exact(&mut header).await?;
    let mut message = header.to_vec();
    message.resize(stun::HEADER + stun::rest(&header)?, 0);
    reader.read_exact(message.get_mut(stun::HEADER..).unwrap_or_default()).await?;
    if let Some(answer) = stun::answer(&message, from)? {
        writer.write_all(&answer).await?;
    }
    Ok(())
}

async fn shake_hands(
    shared: &Shared,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    from: SocketAddr,
    (pattern, preface): (Pattern, &[u8]),
) -> Result<Established, Fault> {
    let token = rand::random();
    let (advertised, probes) = (shared.advertised.clone(), shared.probes.clone());
    let welcome = wire::encode(&Welcome { observed: from, token, advertised, probes })?;
    let mut handshake = LinkHandshake::broker(&shared.key, pattern, preface)?;
    let mut written = Instant::now();
    while !handshake.is_finished() {
        if handshake.is_my_turn() {
            let message = shared.compute(|| handshake.write(&welcome)).await??;
            let length = u16::try_from(message.len()).map_err(|_| SecureError::TooLong)?;
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(&message);
            writer.write_all(&bytes).await?;
            shared.traffic.sent(bytes.len());
            written = Instant::now();
        } else {
            let message = read_block(shared, reader, LINK_HANDSHAKE_MESSAGE).await?;
            shared.compute(|| handshake.read(&message)).await??;
        }
    }
    let peer = handshake.remote().ok_or(SecureError::Malformed)?;
    let (sealer, mut opener) = handshake.finish();
    // Whoever recorded the first message of an IK handshake can send it again, and it verifies
    // here. Only a frame under the keys of this very handshake shows that the other end holds the
    // session key, so nothing is told of the link before one has opened.
    let frame = read_block(shared, reader, MAX_FRAME).await?;
    let round_trip = written.elapsed();
    let first = wire::decode(&opener.open(frame)?)?;
    Ok(Established { peer, token, sealer, opener, first, round_trip })
}

async fn run(
    shared: &Shared,
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    observed: SocketAddr,
    link: LinkId,
    established: Established,
) -> Result<(), Fault> {
    let Established { peer, token, sealer, mut opener, first, round_trip: handshake } = established;
    let (queue, messages) = mpsc::channel(LINK_QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let (end, mut ended) = oneshot::channel();
    let report = Report::Up {
        link,
        peer,
        observed,
        token,
        handle: Handle { queue, waiting: waiting.clone(), end },
        first,
        round_trip: least_round_trip(reader.get_ref().as_ref()).or(Some(handshake)),
    };
    shared.report(report).await?;

    let (result, reset) = {
        // Both live as long as the link, so that choosing between them never loses half a frame.
        let mut reading = pin!(read_messages(shared, &mut reader, &mut opener, link, handshake));
        let mut writing = pin!(write_messages(shared, &mut writer, sealer, messages, &waiting));
        tokio::select! {
            biased;
            end = &mut ended => match end {
                Ok(End::AfterQueue) => {
                    // Reading goes on: closing with bytes unread is a reset, which can take away
                    // from the other side what was just sent.
                    let rest = async { tokio::join!(&mut writing, &mut reading) };
                    let in_time = timeout(BROKER_CLOSED_WITHIN, rest).await.is_ok();
                    (Ok(()), !in_time)
                }
                Ok(End::AtOnce) | Err(_) => (Ok(()), true),
            },
            result = &mut writing => match result {
                Ok(()) => {
                    let in_time = timeout(BROKER_CLOSED_WITHIN, &mut reading).await.is_ok();
                    (Ok(()), !in_time)
                }
                Err(fault) => (Err(fault), true),
            },
            result = &mut reading => (result, false),
        }
    };
    if reset {
        forget_unsent(writer.as_ref());
    }
    result
}

async fn read_messages(
    shared: &Shared,
    reader: &mut BufReader<OwnedReadHalf>,
    opener: &mut LinkOpener,
    link: LinkId,
    handshake: Duration,
) -> Result<(), Fault> {
    let mut pace = Bucket::default();
    loop {
        let frame = read_block(shared, reader, MAX_FRAME).await?;
        // Who says too much is read more slowly, which TCP passes on; no honest peer comes here.
        while !pace.take(clock(), MESSAGES_PER_LINK, 1) {
            sleep_until(pace.there_at(clock(), MESSAGES_PER_LINK, 1).into()).await;
        }
        let message = wire::decode(&opener.open(frame)?)?;
        let round_trip = least_round_trip(reader.get_ref().as_ref()).or(Some(handshake));
        let report = Report::Message { link, message, round_trip };
        shared.report(report).await?;
    }
}

async fn write_messages(
    shared: &Shared,
    writer: &mut OwnedWriteHalf,
    mut sealer: LinkSealer,
    mut messages: mpsc::Receiver<Vec<u8>>,
    waiting: &AtomicUsize,
) -> Result<(), Fault> {
    let mut batch = Vec::new();
    let mut bytes = Vec::new();
    while messages.recv_many(&mut batch, BROKER_WRITE_BATCH).await > 0 {
        bytes.clear();
        let mut taken = 0;
        for message in batch.drain(..) {
            taken += message.len();
            bytes.append(&mut sealer.seal(message)?);
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written =
                timeout(BROKER_WRITE_WITHIN, writer.write(rest)).await.map_err(|_| Fault::Stalled)??;
            shared.traffic.sent(written);
            rest = rest.get(written..).unwrap_or_default();
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        waiting.fetch_sub(taken, Ordering::Relaxed);
    }
    writer.shutdown().await?;
    Ok(())
}

/// Two bytes of length, big-endian, and as many bytes.
async fn read_block(
    shared: &Shared,
    reader: &mut BufReader<OwnedReadHalf>,
    most: usize,
) -> Result<Vec<u8>, Fault> {
    let length = usize::from(reader.read_u16().await?);
    if length > most {
        return Err(SecureError::TooLong.into());
    }
    let mut block = vec![0; length];
    reader.read_exact(&mut block).await?;
    shared.traffic.received(2 + length);
    Ok(block)
}

impl Shared {
    /// Some of a handshake's computing, in its turn.
    async fn compute<T>(&self, work: impl FnOnce() -> T) -> Result<T, Fault> {
        let _turn = self.computing.acquire().await.map_err(|_| Fault::Stopping)?;
        Ok(work())
    }

    async fn report(&self, report: Report) -> Result<(), Fault> {
        self.reports.send(report).await.map_err(|_| Fault::Stopping)
    }
}

/// The time by the clock that timers go by.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
