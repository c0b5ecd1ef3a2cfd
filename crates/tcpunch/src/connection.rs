//! A connection between two peers: sealed records under credit on one TCP socket.
//!
//! Records are opened in the task that reads and sealed in the task that writes, so that data changes hands once. A task
//! of the connection's own, the pump, does what nobody waits for: pings, the rest of what was sealed, the end, and what
//! comes in while the application does not read.

mod pump;
mod receiving;
mod sending;
mod unencrypted;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{CLOSE_WITHIN, DEAD_AFTER, PROBE_WITHIN, WINDOW_MOST};
use tcpunch_core::plan::Path;
use tcpunch_core::secure::{ChannelBinding, Kind, Opener, Sealer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

pub use unencrypted::Unencrypted;

use crate::network::{Network, Origin};
use crate::portmap::Portmapper;
use pump::Pump;
use receiving::{Receiving, Said, Source};
use sending::Sending;

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
    /// The socket closed without the end record: the peer dropped the connection or was killed, or the stream was cut.
    #[error("the connection was cut off by the other side's end")]
    Truncated,
    /// No sign of life came for too long.
    #[error("nothing was heard for {} s", DEAD_AFTER.as_secs())]
    Silent,
    /// The kernel reports an error. A reset is one: of a killed peer that left bytes unread, or of something between.
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

impl Lost {
    /// What the socket's own error means.
    fn by(error: &io::Error) -> Self {
        match error.kind() {
            // A reset behind the peer's end of file (Linux: one that comes in CLOSE_WAIT).
            io::ErrorKind::BrokenPipe => Lost::Truncated,
            _ => Lost::Broken(error.to_string()),
        }
    }
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

/// Who is to be woken by what comes in. Never held while anything else is done.
#[derive(Default)]
struct Wakers {
    /// Waits for data.
    reader: Option<Waker>,
    /// Waits for credit.
    writer: Option<Waker>,
}

struct Shared {
    socket: TcpStream,
    // Whoever holds several of these took them in this order.
    receiving: Mutex<Receiving>,
    sending: Mutex<Sending>,
    lost: Mutex<Option<Lost>>,
    wakers: Mutex<Wakers>,
    /// What the socket wakes when something comes in.
    readable: Waker,
    /// The pump has something to send, or the connection was dropped.
    wake_pump: Notify,
    /// The pump is to leave the connection to somebody else.
    relieved: AtomicBool,
    dropped: AtomicBool,
}

/// Hands what comes in to whoever waits for it, and to the pump where nobody does.
struct Readable(Weak<Shared>);

impl Wake for Readable {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(shared) = self.0.upgrade() else { return };
        let wakers = std::mem::take(&mut *lock(&shared.wakers));
        if wakers.reader.is_none() && wakers.writer.is_none() {
            shared.wake_pump.notify_one();
        }
        for waker in [wakers.reader, wakers.writer].into_iter().flatten() {
            waker.wake();
        }
    }
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
    own: PublicKey,
    peer: PublicKey,
    binding: ChannelBinding,
    info: PathInfo,
    /// Some routers end what came in by a port that they forward no longer.
    _portmap: Option<Portmapper>,
}

/// What a connection is made from, once a lane has won.
pub(crate) struct Parts {
    pub(crate) socket: TcpStream,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) own: PublicKey,
    pub(crate) peer: PublicKey,
    pub(crate) binding: ChannelBinding,
    pub(crate) info: PathInfo,
    pub(crate) network: Network,
    /// Where it came to be by a port that a router forwards.
    pub(crate) portmap: Option<Portmapper>,
}

impl Connection {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let shared = Arc::new_cyclic(|weak: &Weak<Shared>| Shared {
            socket: parts.socket,
            receiving: Mutex::new(Receiving::new(parts.opener, now)),
            sending: Mutex::new(Sending::new(parts.sealer, now)),
            lost: Mutex::new(None),
            wakers: Mutex::default(),
            readable: Arc::new(Readable(weak.clone())).into(),
            wake_pump: Notify::new(),
            relieved: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        });
        let (done, finished) = watch::channel(false);
        let origin = Origin::new(parts.info.local.ip(), &parts.network);
        let pump = Pump::new(shared.clone(), origin, parts.network);
        tokio::spawn(async move {
            let dropped = pump.run().await;
            let _ = done.send(true);
            if let Some(leaving) = dropped {
                leaving.leave().await;
            }
        });
        let Parts { own, peer, binding, info, portmap, .. } = parts;
        let connection = Connection { shared, finished, own, peer, binding, info, _portmap: portmap };
        connection.shared.ping();
        connection
    }

    /// The own session key.
    pub fn own(&self) -> PublicKey {
        self.own
    }

    /// Differs from that of every other connection but the peer's end of this one (RFC 5056). Where
    /// the two are equal, nobody sits in the middle; it is no secret.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.binding
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
    /// The connection was lost before, the peer took nothing of the rest for [`CLOSE_WITHIN`], or it did not end within that
    /// after the rest.
    pub async fn close(&self) -> io::Result<()> {
        let mut drain = [0; 4096];
        let began = Instant::now();
        let mut taken = pin!(poll_fn(|cx| self.shutdown(cx)));
        loop {
            let until = lock(&self.shared.sending).moved.max(began) + CLOSE_WITHIN;
            if until <= Instant::now() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(taken) = tokio::time::timeout_at(until.into(), &mut taken).await {
                taken?;
                break;
            }
        }
        let ended = async {
            loop {
                let mut buffer = ReadBuf::new(&mut drain);
                poll_fn(|cx| self.read(cx, &mut buffer)).await?;
                if buffer.filled().is_empty() {
                    return io::Result::Ok(());
                }
            }
        };
        match tokio::time::timeout(CLOSE_WITHIN, ended).await {
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
        self.shared.dropped.store(true, Ordering::Release);
        self.shared.wake_pump.notify_one();
    }
}

impl Connection {
    fn read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &*self.shared;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut receiving = lock(&shared.receiving);
        let mut any = false;
        loop {
            let (taken, grant) = receiving.take(buf);
            any |= taken > 0;
            if let Some(grant) = grant {
                shared.control(Kind::Credit, &grant.to_be_bytes());
            }
            if buf.remaining() == 0 || receiving.ended && !receiving.has_data() {
                return Poll::Ready(Ok(()));
            }
            if !any {
                if let Some(lost) = lock(&shared.lost).clone() {
                    return Poll::Ready(Err(lost.into()));
                }
                // Before the socket is asked, which may wake at once.
                lock(&shared.wakers).reader = Some(cx.waker().clone());
            }
            let source = if any { Source::Buffer } else { Source::Socket };
            let step = shared.advance(&mut receiving, source);
            if !any && step.is_ready() {
                lock(&shared.wakers).reader = None;
            }
            match step {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(lost)) => {
                    shared.lose(lost.clone());
                    // What was taken before is good.
                    return Poll::Ready(if any { Ok(()) } else { Err(lost.into()) });
                }
                Poll::Pending if any => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let shared = &*self.shared;
        if let Some(lost) = lock(&shared.lost).clone() {
            return Poll::Ready(Err(lost.into()));
        }
        let mut sending = lock(&shared.sending);
        if sending.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if sending.credit == 0 {
            drop(sending);
            ready!(shared.poll_credit(cx))?;
            sending = lock(&shared.sending);
        }
        sending.flush(&shared.socket);
        if sending.is_full() {
            sending.waker = Some(cx.waker().clone());
            drop(sending);
            shared.wake_pump.notify_one();
            return Poll::Pending;
        }
        let length = sending.data(data);
        sending.flush(&shared.socket);
        if sending.unsent() > 0 {
            drop(sending);
            shared.wake_pump.notify_one();
        }
        Poll::Ready(Ok(length))
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

impl Shared {
    /// One step of what comes in; somebody else's part of it is given to who waits for it.
    ///
    /// Data is left in `receiving`. `Pending` with the socket as the source: [`Shared::readable`] will be woken.
    fn advance(&self, receiving: &mut Receiving, source: Source) -> Poll<Result<(), Lost>> {
        let mut cx = Context::from_waker(&self.readable);
        match ready!(receiving.next(&mut cx, &self.socket, source))? {
            Said::Data | Said::Nothing => {}
            Said::End | Said::SocketEnded => self.wake_pump.notify_one(),
            Said::Credit(grant) => {
                let mut sending = lock(&self.sending);
                sending.credit += u64::from(grant);
                if sending.credit > 2 * u64::from(WINDOW_MOST) {
                    return Poll::Ready(Err(Lost::Forged));
                }
                drop(sending);
                let writer = lock(&self.wakers).writer.take();
                if let Some(writer) = writer {
                    writer.wake();
                }
            }
            Said::Ping(number) => {
                // A peer that asks and does not read must not make answers pile up, nor add to what holds a dropped connection.
                if !lock(&self.sending).is_full() && !self.dropped.load(Ordering::Acquire) {
                    self.control(Kind::Pong, &number);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on until the peer grants credit.
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.wakers).writer = Some(cx.waker().clone());
        let mut receiving = lock(&self.receiving);
        loop {
            if lock(&self.sending).credit > 0 {
                return Poll::Ready(Ok(()));
            }
            let step = self.advance(&mut receiving, Source::Socket);
            self.tell_reader(&receiving);
            if let Err(lost) = ready!(step) {
                self.lose(lost.clone());
                return Poll::Ready(Err(lost.into()));
            }
        }
    }

    /// Wakes a reader where somebody else took in what it waits for.
    fn tell_reader(&self, receiving: &Receiving) {
        if receiving.has_data() || receiving.ended {
            let reader = lock(&self.wakers).reader.take();
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    fn control(&self, kind: Kind, payload: &[u8]) {
        let mut sending = lock(&self.sending);
        if sending.shut {
            return;
        }
        sending.record(kind, payload);
        sending.flush(&self.socket);
        if sending.unsent() > 0 {
            drop(sending);
            self.wake_pump.notify_one();
        }
    }

    fn ping(&self) {
        let number = lock(&self.receiving).ping(Instant::now());
        self.control(Kind::Ping, &number.to_be_bytes());
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sending = lock(&self.sending);
        sending.flush(&self.socket);
        // For the end, once both sides have said it, for the rest, or for an error.
        self.wake_pump.notify_one();
        let lost = lock(&self.lost).clone();
        // What a broken socket did not take is thrown away, and does not count as sent. After both ends nothing is missing.
        if let Some(lost) = lost.or_else(|| sending.broken.clone()).filter(|_| !sending.shut) {
            return Poll::Ready(Err(lost.into()));
        }
        if sending.unsent() == 0 {
            return Poll::Ready(Ok(()));
        }
        sending.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The first loss counts.
    fn lose(&self, lost: Lost) {
        lock(&self.lost).get_or_insert(lost);
        self.wake_all();
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        let flusher = lock(&self.sending).waker.take();
        for waker in [wakers.reader, wakers.writer, flusher].into_iter().flatten() {
            waker.wake();
        }
        self.wake_pump.notify_one();
    }
}

/// Looks at a connection from outside, without keeping it open.
#[derive(Clone)]
pub struct ConnectionHandle {
    shared: Weak<Shared>,
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
                && !shared.dropped.load(Ordering::Acquire)
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
