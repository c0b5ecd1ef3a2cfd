//! A connection between two peers: sealed records under credit on one TCP socket.
//!
//! One task, the pump, reads the socket always, so that pings, credit and the end are seen even
//! while the application does not read. Writers seal in their own task and hand to the socket what
//! it takes; the pump sends the rest.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{
    CLOSE_WITHIN, DEAD_AFTER, MAX_RECORD, MAX_UNSENT, PING_EVERY, PROBE_WITHIN, SMALL_CHUNK, WINDOW_FIRST,
    WINDOW_MOST,
};
use tcpunch_core::plan::Path;
use tcpunch_core::secure::{HEADER, Kind, OVERHEAD, Opener, Sealer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::network::{Doubt, Network, Origin};

/// How a connection came to be.
#[derive(Clone, Debug)]
pub struct PathInfo {
    /// How it runs.
    pub path: Path,
    /// Own end.
    pub local: SocketAddr,
    /// The peer's end, as seen from here.
    pub remote: SocketAddr,
    /// Rounds of punching.
    pub tries: u32,
    /// First SYNs of this side on all lanes.
    pub syns: u32,
    /// From the introduction to the authenticated connection.
    pub elapsed: Duration,
}

/// Why a connection ended before both sides said so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The socket closed without the end record: the peer was killed, or the stream cut.
    #[error("the connection was cut off by the other side's end")]
    Truncated,
    /// No sign of life came for too long.
    #[error("nothing was heard for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// The kernel reports an error.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// This machine has another address now, and what was made from the old one can't go on.
    #[error("the network has changed: the address {0} of this computer is gone")]
    AddressGone(std::net::IpAddr),
    /// What came in was forged or broke the rules.
    #[error("what came in does not verify; somebody interferes")]
    Forged,
    /// This side dropped it.
    #[error("the connection was given up on this side")]
    Dropped,
}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        let kind = match lost {
            Lost::Truncated => io::ErrorKind::UnexpectedEof,
            Lost::Silent => io::ErrorKind::TimedOut,
            Lost::Broken(_) | Lost::AddressGone(_) => io::ErrorKind::ConnectionReset,
            Lost::Forged => io::ErrorKind::InvalidData,
            Lost::Dropped => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, lost)
    }
}

struct Sending {
    sealer: Sealer,
    /// Sealed bytes that the socket has not taken.
    out: Vec<u8>,
    sent: usize,
    credit: u64,
    ended: bool,
    last: Instant,
    broken: Option<String>,
    waker: Option<Waker>,
    payload: u64,
}

struct Receiving {
    chunks: VecDeque<BytesMut>,
    buffered: u64,
    /// Bytes that the peer may still send.
    granted: u64,
    /// Taken by the application and not granted again yet.
    taken: u64,
    window: u64,
    window_began: Instant,
    window_taken: u64,
    ended: bool,
    waker: Option<Waker>,
    payload: u64,
    round_trip: Option<Duration>,
    ping: Option<(u64, Instant)>,
    /// The first ping since the peer was last heard.
    unanswered: Option<Instant>,
}

struct Shared {
    socket: TcpStream,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    lost: Mutex<Option<Lost>>,
    /// The pump has something to send, or the connection was dropped.
    wake_pump: Notify,
    dropped: std::sync::atomic::AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A direct, authenticated and encrypted connection to a peer.
///
/// Reads and writes bytes ([`AsyncRead`], [`AsyncWrite`]). Shutting the writing half down tells the
/// peer that no more will come; it may go on sending. An end of file without the peer's end is an
/// error of kind [`io::ErrorKind::UnexpectedEof`]. A shared reference reads and writes as well, so that
/// one task can read while another writes; each direction has one user at a time. Dropping a connection before both sides have
/// ended looks like that to the peer; [`Connection::close`] ends it well.
pub struct Connection {
    shared: Arc<Shared>,
    finished: watch::Receiver<bool>,
    peer: PublicKey,
    info: PathInfo,
}

/// What a connection is made from, once a lane has won.
pub(crate) struct Parts {
    pub(crate) socket: TcpStream,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) peer: PublicKey,
    pub(crate) info: PathInfo,
    pub(crate) network: Network,
}

impl Connection {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            socket: parts.socket,
            sending: Mutex::new(Sending {
                sealer: parts.sealer,
                out: Vec::with_capacity(MAX_RECORD + OVERHEAD),
                sent: 0,
                credit: u64::from(WINDOW_FIRST),
                ended: false,
                last: now,
                broken: None,
                waker: None,
                payload: 0,
            }),
            receiving: Mutex::new(Receiving {
                chunks: VecDeque::new(),
                buffered: 0,
                granted: u64::from(WINDOW_FIRST),
                taken: 0,
                window: u64::from(WINDOW_FIRST),
                window_began: now,
                window_taken: 0,
                ended: false,
                waker: None,
                payload: 0,
                round_trip: None,
                ping: None,
                unanswered: None,
            }),
            lost: Mutex::new(None),
            wake_pump: Notify::new(),
            dropped: std::sync::atomic::AtomicBool::new(false),
        });
        let (done, finished) = watch::channel(false);
        let pump = Pump {
            shared: shared.clone(),
            opener: parts.opener,
            origin: Origin::new(parts.info.local.ip(), &parts.network),
            network: parts.network,
            input: BytesMut::new(),
            heard: now,
            told: None,
            socket_ended: false,
            shut: false,
        };
        tokio::spawn(async move {
            pump.run().await;
            let _ = done.send(true);
        });
        let connection = Connection { shared, finished, peer: parts.peer, info: parts.info };
        connection.shared.ping();
        connection
    }

    /// The peer's session key.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// How the connection came to be.
    pub fn info(&self) -> &PathInfo {
        &self.info
    }

    /// Bytes of the application that came in and went out.
    pub fn traffic(&self) -> (u64, u64) {
        (lock(&self.shared.receiving).payload, lock(&self.shared.sending).payload)
    }

    /// The last measured round trip, or `None` before the first answer.
    pub fn round_trip(&self) -> Option<Duration> {
        lock(&self.shared.receiving).round_trip
    }

    /// Why the connection was lost, if it was.
    pub fn lost(&self) -> Option<Lost> {
        lock(&self.shared.lost).clone()
    }

    /// Ends the own direction and waits until the peer has ended its own and everything was
    /// delivered; what the peer still sends is discarded.
    ///
    /// # Errors
    ///
    /// The connection was lost before, or the peer did not end within
    /// [`CLOSE_WITHIN`].
    pub async fn close(&self) -> io::Result<()> {
        poll_fn(|cx| self.shutdown(cx)).await?;
        let mut drain = [0; 4096];
        let rest = async {
            loop {
                let mut buffer = ReadBuf::new(&mut drain);
                poll_fn(|cx| self.read(cx, &mut buffer)).await?;
                if buffer.filled().is_empty() {
                    return io::Result::Ok(());
                }
            }
        };
        match tokio::time::timeout(CLOSE_WITHIN, rest).await {
            Ok(result) => result?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        let mut finished = self.finished.clone();
        let _ = tokio::time::timeout(CLOSE_WITHIN, finished.wait_for(|done| *done)).await;
        self.lost().map_or(Ok(()), |lost| Err(lost.into()))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.dropped.store(true, std::sync::atomic::Ordering::Release);
        self.shared.wake_pump.notify_one();
    }
}

impl Connection {
    fn read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut receiving = lock(&self.shared.receiving);
        if receiving.chunks.is_empty() {
            if receiving.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(lost) = lock(&self.shared.lost).clone() {
                return Poll::Ready(Err(lost.into()));
            }
            receiving.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut taken = 0;
        while let Some(chunk) = receiving.chunks.front_mut() {
            let part = chunk.len().min(buf.remaining());
            buf.put_slice(chunk.get(..part).unwrap_or_default());
            chunk.advance(part);
            taken += part as u64;
            if chunk.is_empty() {
                receiving.chunks.pop_front();
            }
            if buf.remaining() == 0 {
                break;
            }
        }
        receiving.buffered -= taken;
        let grant = receiving.take(taken);
        drop(receiving);
        if let Some(grant) = grant {
            self.shared.control(Kind::Credit, &grant.to_be_bytes());
        }
        Poll::Ready(Ok(()))
    }
}

impl Connection {
    fn write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut sending = lock(&self.shared.sending);
        if let Some(lost) = lock(&self.shared.lost).clone() {
            return Poll::Ready(Err(lost.into()));
        }
        if sending.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        sending.flush(&self.shared.socket);
        if sending.credit == 0 || sending.unsent() >= MAX_UNSENT {
            sending.waker = Some(cx.waker().clone());
            let unsent = sending.unsent() > 0;
            drop(sending);
            if unsent {
                self.shared.wake_pump.notify_one();
            }
            return Poll::Pending;
        }
        let most = usize::try_from(sending.credit).unwrap_or(usize::MAX).min(MAX_RECORD);
        let part = data.get(..most).unwrap_or(data);
        sending.record(Kind::Data, part);
        sending.credit -= part.len() as u64;
        sending.payload += part.len() as u64;
        sending.flush(&self.shared.socket);
        if sending.unsent() > 0 {
            drop(sending);
            self.shared.wake_pump.notify_one();
        }
        Poll::Ready(Ok(part.len()))
    }

    fn shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sending = lock(&self.shared.sending);
        if !sending.ended {
            sending.ended = true;
            sending.record(Kind::End, &[]);
        }
        drop(sending);
        self.shared.poll_sent(cx)
    }
}

macro_rules! halves {
    ($($kind:ty),*) => {$(
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Connection::read(&self, cx, buf)
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                Connection::write(&self, cx, data)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.shared.poll_sent(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Connection::shutdown(&self, cx)
            }
        }
    )*};
}

// Like std's `Read for &TcpStream`: one task may read while another writes.
halves!(Connection, &Connection);

impl Sending {
    fn record(&mut self, kind: Kind, payload: &[u8]) {
        // Payloads are cut to MAX_RECORD before, the only way sealing can fail.
        let _ = self.sealer.seal(kind, payload, &mut self.out);
        self.last = Instant::now();
    }

    fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Gives the socket what it takes now; an error is kept for the pump.
    fn flush(&mut self, socket: &TcpStream) {
        while let Some(rest) = self.out.get(self.sent..)
            && !rest.is_empty()
        {
            match socket.try_write(rest) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.broken = Some(error.to_string());
                    self.sent = self.out.len();
                }
            }
        }
        if self.unsent() == 0 {
            self.out.clear();
            self.sent = 0;
        }
    }
}

impl Receiving {
    /// Notes what the application took; returns credit to grant, where enough has come together.
    fn take(&mut self, taken: u64) -> Option<u32> {
        self.taken += taken;
        self.window_taken += taken;
        if self.ended || self.taken < self.window / 4 {
            return None;
        }
        let mut grant = self.taken;
        // A window that is used up within two round trips is what limits the sender.
        if self.window_taken >= self.window {
            let quick =
                self.round_trip.is_some_and(|round_trip| self.window_began.elapsed() < 2 * round_trip);
            if quick && self.window < u64::from(WINDOW_MOST) {
                let grown = (self.window * 2).min(u64::from(WINDOW_MOST));
                grant += grown - self.window;
                self.window = grown;
            }
            self.window_taken = 0;
            self.window_began = Instant::now();
        }
        self.taken = 0;
        self.granted += grant;
        Some(u32::try_from(grant).unwrap_or(u32::MAX))
    }
}

impl Shared {
    fn control(&self, kind: Kind, payload: &[u8]) {
        let mut sending = lock(&self.sending);
        sending.record(kind, payload);
        sending.flush(&self.socket);
        if sending.unsent() > 0 {
            drop(sending);
            self.wake_pump.notify_one();
        }
    }

    fn ping(&self) {
        let now = Instant::now();
        let mut receiving = lock(&self.receiving);
        let number = receiving.ping.map_or(0, |(number, _)| number + 1);
        receiving.ping = Some((number, now));
        receiving.unanswered.get_or_insert(now);
        drop(receiving);
        self.control(Kind::Ping, &number.to_be_bytes());
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sending = lock(&self.sending);
        sending.flush(&self.socket);
        if sending.unsent() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(lost) = lock(&self.lost).clone() {
            return Poll::Ready(Err(lost.into()));
        }
        sending.waker = Some(cx.waker().clone());
        drop(sending);
        self.wake_pump.notify_one();
        Poll::Pending
    }

    fn wake_both(&self) {
        let reader = lock(&self.receiving).waker.take();
        let writer = lock(&self.sending).waker.take();
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

struct Pump {
    shared: Arc<Shared>,
    opener: Opener,
    origin: Origin,
    network: Network,
    input: BytesMut,
    heard: Instant,
    /// The unanswered ping that everyone was told of.
    told: Option<Instant>,
    socket_ended: bool,
    shut: bool,
}

impl Pump {
    async fn run(mut self) {
        let result = self.pump().await;
        if let Err(lost) = result {
            lock(&self.shared.lost).get_or_insert(lost);
        }
        self.shared.wake_both();
    }

    async fn pump(&mut self) -> Result<(), Lost> {
        loop {
            if self.flush_and_check()? {
                return Ok(());
            }
            let shared = self.shared.clone();
            let (unsent, last) = {
                let sending = lock(&shared.sending);
                (sending.unsent() > 0, sending.last)
            };
            let ping_at = if self.shut { self.heard + CLOSE_WITHIN } else { last + PING_EVERY };
            let dead_at = self.heard + if self.shut { CLOSE_WITHIN } else { DEAD_AFTER };
            let unanswered = lock(&shared.receiving).unanswered.filter(|_| !self.shut);
            let fresh =
                unanswered.filter(|since| self.told != Some(*since)).map(|since| since + PROBE_WITHIN);
            let wake_at = ping_at.min(dead_at);
            let timer = tokio::time::sleep_until(fresh.map_or(wake_at, |at| at.min(wake_at)).into());
            tokio::select! {
                ready = shared.socket.readable(), if !self.socket_ended => {
                    ready.map_err(|error| Lost::Broken(error.to_string()))?;
                    self.read()?;
                }
                ready = shared.socket.writable(), if unsent => {
                    ready.map_err(|error| Lost::Broken(error.to_string()))?;
                }
                () = shared.wake_pump.notified() => {}
                doubt = self.network.doubt() => {
                    if doubt == Doubt::Changed && self.origin.is_replaced(self.network.addresses()) {
                        return Err(Lost::AddressGone(self.origin.address()));
                    }
                }
                () = timer => {
                    // After a sleep of this process every timer is late, and what came meanwhile is unread.
                    let heard = self.heard;
                    self.read()?;
                    let now = Instant::now();
                    if self.heard != heard || self.socket_ended {
                        continue;
                    }
                    if let Some(at) = fresh && at <= now {
                        self.told = unanswered;
                        self.network.silence();
                    }
                    if now < wake_at {
                        continue;
                    }
                    if dead_at <= now {
                        return if self.shut { Ok(()) } else { Err(Lost::Silent) };
                    }
                    if !self.shut {
                        shared.ping();
                    }
                }
            }
        }
    }

    /// Sends what waits, wakes a writer, and says whether the connection is over.
    fn flush_and_check(&mut self) -> Result<bool, Lost> {
        let mut sending = lock(&self.shared.sending);
        sending.flush(&self.shared.socket);
        let unsent = sending.unsent();
        let said_end = sending.ended;
        let broken = sending.broken.clone();
        let waker = if unsent < MAX_UNSENT && (sending.credit > 0 || unsent == 0) {
            sending.waker.take()
        } else {
            None
        };
        drop(sending);
        if let Some(waker) = waker {
            waker.wake();
        }
        let heard_end = lock(&self.shared.receiving).ended;
        if said_end && heard_end && unsent == 0 {
            if !self.shut {
                self.shut = true;
                self.heard = Instant::now();
                crate::port::finish(&self.shared.socket);
            }
            // The peer's own end of file says that it has everything; a reset after both ends is
            // no loss.
            return Ok(self.socket_ended);
        }
        if self.socket_ended {
            return Err(Lost::Truncated);
        }
        if let Some(broken) = broken {
            return Err(Lost::Broken(broken));
        }
        if self.shared.dropped.load(std::sync::atomic::Ordering::Acquire) && !(said_end && heard_end) {
            return Err(Lost::Dropped);
        }
        Ok(false)
    }

    fn read(&mut self) -> Result<(), Lost> {
        // Bounded, so that a fast peer can't keep the pump from sending.
        for _ in 0..8 {
            self.input.reserve(MAX_RECORD + OVERHEAD);
            match self.shared.socket.try_read_buf(&mut self.input) {
                Ok(0) => {
                    self.socket_ended = true;
                    break;
                }
                Ok(_) => {
                    self.heard = Instant::now();
                    lock(&self.shared.receiving).unanswered = None;
                    self.records()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.socket_ended = true;
                    let over = lock(&self.shared.receiving).ended && lock(&self.shared.sending).ended;
                    if !over {
                        return Err(Lost::Broken(error.to_string()));
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), Lost> {
        let mut data = Vec::new();
        while let Some(header) = self.input.first_chunk::<HEADER>().copied() {
            let length = Opener::body_length(header).map_err(|_| Lost::Forged)?;
            if self.input.len() < HEADER + length {
                break;
            }
            let mut record = self.input.split_to(HEADER + length);
            record.advance(HEADER);
            let (kind, payload) = self.opener.open(header, &mut record).map_err(|_| Lost::Forged)?;
            let payload_length = payload.len();
            match kind {
                Kind::Data => {
                    record.advance(1);
                    record.truncate(payload_length);
                    data.push(record);
                }
                Kind::End => {
                    self.deliver(&mut data)?;
                    let mut receiving = lock(&self.shared.receiving);
                    if receiving.ended {
                        return Err(Lost::Forged);
                    }
                    receiving.ended = true;
                    let waker = receiving.waker.take();
                    drop(receiving);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Kind::Credit => {
                    let grant = payload
                        .first_chunk::<4>()
                        .map(|grant| u32::from_be_bytes(*grant))
                        .ok_or(Lost::Forged)?;
                    let mut sending = lock(&self.shared.sending);
                    sending.credit += u64::from(grant);
                    if sending.credit > 2 * u64::from(WINDOW_MOST) {
                        return Err(Lost::Forged);
                    }
                    let waker = sending.waker.take();
                    drop(sending);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Kind::Ping => {
                    let number: [u8; 8] = (&*payload).try_into().map_err(|_| Lost::Forged)?;
                    // A peer that asks and does not read must not make answers pile up.
                    if !self.shut && lock(&self.shared.sending).unsent() < MAX_UNSENT {
                        self.shared.control(Kind::Pong, &number);
                    }
                }
                Kind::Pong => {
                    let number = payload
                        .first_chunk::<8>()
                        .map(|number| u64::from_be_bytes(*number))
                        .ok_or(Lost::Forged)?;
                    let mut receiving = lock(&self.shared.receiving);
                    if let Some((expected, since)) = receiving.ping
                        && expected == number
                    {
                        receiving.round_trip = Some(since.elapsed());
                    }
                }
                // The lane was chosen twice, or what arrived is known to have: of no consequence.
                Kind::Nominate | Kind::Ack => {}
                Kind::Confirm => return Err(Lost::Forged),
            }
        }
        self.deliver(&mut data)
    }

    fn deliver(&self, data: &mut Vec<BytesMut>) -> Result<(), Lost> {
        if data.is_empty() {
            return Ok(());
        }
        let bytes: u64 = data.iter().map(|chunk| chunk.len() as u64).sum();
        let mut receiving = lock(&self.shared.receiving);
        if receiving.ended || bytes > receiving.granted {
            return Err(Lost::Forged);
        }
        receiving.granted -= bytes;
        receiving.buffered += bytes;
        receiving.payload += bytes;
        for chunk in data.drain(..).filter(|chunk| !chunk.is_empty()) {
            match receiving.chunks.back_mut() {
                Some(last) if last.len() + chunk.len() <= SMALL_CHUNK => last.extend_from_slice(&chunk),
                _ => receiving.chunks.push_back(chunk),
            }
        }
        let waker = receiving.waker.take();
        drop(receiving);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// Looks at a connection from outside, without keeping it open.
#[derive(Clone)]
pub struct ConnectionHandle {
    shared: std::sync::Weak<Shared>,
    finished: watch::Receiver<bool>,
}

/// What a connection's peer makes of the last ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was heard since.
    Heard,
    /// It has until then.
    Awaited(Instant),
    /// It is silent, or the connection is over.
    None,
}

impl Connection {
    /// A handle that does not keep the connection.
    pub fn handle(&self) -> ConnectionHandle {
        ConnectionHandle { shared: Arc::downgrade(&self.shared), finished: self.finished.clone() }
    }
}

impl ConnectionHandle {
    /// Whether it is neither lost nor ended.
    pub fn is_alive(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| {
            lock(&shared.lost).is_none()
                && !shared.dropped.load(std::sync::atomic::Ordering::Acquire)
                && !(lock(&shared.receiving).ended && lock(&shared.sending).ended)
        })
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn probe(&self) {
        if let Some(shared) = self.shared.upgrade().filter(|_| self.is_alive()) {
            shared.ping();
            // Its timers depend on when the ping left.
            shared.wake_pump.notify_one();
        }
    }

    /// Whether the peer answers.
    pub(crate) fn answer(&self, now: Instant) -> Answer {
        let Some(shared) = self.shared.upgrade().filter(|_| self.is_alive()) else { return Answer::None };
        let unanswered = lock(&shared.receiving).unanswered;
        match unanswered.map(|since| since + PROBE_WITHIN) {
            None => Answer::Heard,
            Some(until) if until > now => Answer::Awaited(until),
            Some(_) => Answer::None,
        }
    }

    /// Waits for the end of the connection; whether it was lost. Cancel-safe.
    pub(crate) async fn over(&self) -> bool {
        let shared = self.shared.upgrade();
        let mut finished = self.finished.clone();
        let _ = finished.wait_for(|done| *done).await;
        shared.is_some_and(|shared| {
            let lost = lock(&shared.lost).clone();
            lost.is_some_and(|lost| lost != Lost::Dropped)
        })
    }

    /// Whether both look at the same connection.
    pub(crate) fn is(&self, other: &ConnectionHandle) -> bool {
        self.shared.ptr_eq(&other.shared)
    }
}
