//! The way from an authenticated connection to its bare socket.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tcpunch_core::limits::CLOSE_WITHIN;
use tcpunch_core::secure::Kind;
use tokio::net::TcpStream;

use super::receiving::Source;
use super::{Connection, Lost, Shared, lock};

/// What is left of a connection whose two sides have agreed to go on without encryption.
///
/// **Whatever goes over this socket from now on, everybody on the way can read, change, cut off and add to.** It is for
/// what brings its own encryption (TLS, ssh), or for a network that is trusted as a cable is.
#[derive(Debug)]
pub struct Unencrypted {
    /// The TCP connection between the two peers; nothing that was sealed is in it any more.
    pub socket: TcpStream,
    /// What the peer had written before, encrypted and authenticated, and the application had not read.
    pub unread: Vec<u8>,
}

impl Connection {
    /// Ends the encryption in both directions and gives the TCP socket, where the peer does the same.
    ///
    /// That the peer is who it should be, and that it has agreed, is authenticated; everything after is neither
    /// authenticated nor encrypted: see [`Unencrypted`]. The application agrees on it beforehand, since a peer that does not
    /// call this within [`CLOSE_WITHIN`] loses the connection. Nothing that was written before is lost.
    ///
    /// Not cancel-safe: who gives up waiting gives up the connection.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if one side has already ended its direction, [`io::ErrorKind::TimedOut`] if the
    /// peer did not agree in time; otherwise as for reading, if the connection was lost.
    pub async fn into_unencrypted_socket(self) -> io::Result<Unencrypted> {
        match tokio::time::timeout(CLOSE_WITHIN, self.agree()).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the other side does not end encryption")),
        }
    }

    async fn agree(self) -> io::Result<Unencrypted> {
        self.shared.relieved.store(true, Ordering::Release);
        self.shared.wake_pump.notify_one();
        let mut finished = self.finished.clone();
        let _ = finished.wait_for(|done| *done).await;
        if self.lost().is_some() || lock(&self.shared.sending).ended || lock(&self.shared.receiving).ended {
            return Err(self.over());
        }
        let shared = self.shared.clone();
        // Its end must not look like giving up, and it holds the socket as well.
        drop(self);
        {
            let mut sending = lock(&shared.sending);
            sending.record(Kind::Unencrypted, &[]);
            sending.ended = true;
            sending.shut = true;
        }
        // At the same time, or two that both have much to send would wait for each other.
        tokio::try_join!(send(&shared), poll_fn(|cx| poll_last(&shared, cx)))?;
        let unread = lock(&shared.receiving).take_all();
        Ok(Unencrypted { socket: alone(shared).await.socket, unread })
    }

    /// Why there is no connection to go on with.
    fn over(&self) -> io::Error {
        let ended = io::Error::new(io::ErrorKind::InvalidInput, "a direction has already ended");
        self.lost().map_or(ended, io::Error::from)
    }
}

/// Everything that is sealed.
async fn send(shared: &Shared) -> io::Result<()> {
    loop {
        let (unsent, broken) = {
            let mut sending = lock(&shared.sending);
            sending.flush(&shared.socket);
            (sending.unsent(), sending.broken.clone())
        };
        match broken {
            Some(lost) => return Err(lost.into()),
            None if unsent == 0 => return Ok(()),
            None => shared.socket.writable().await?,
        }
    }
}

/// All records up to the peer's last, and no byte beyond: the peer's first unencrypted byte is sent after it has seen the
/// own last record, so it stays in the socket.
fn poll_last(shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    lock(&shared.wakers).reader = Some(cx.waker().clone());
    let mut receiving = lock(&shared.receiving);
    while !receiving.unencrypted {
        ready!(shared.advance(&mut receiving, Source::SocketExactly))?;
        if receiving.ended {
            let ended = "the other side has ended its direction";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, ended)));
        }
        if let Some(lost) = &receiving.socket_ended {
            return Poll::Ready(Err(lost.clone().into()));
        }
    }
    // Nobody may put in what was not sealed before the own last record was sent.
    Poll::Ready(if receiving.has_rest() { Err(Lost::Forged.into()) } else { Ok(()) })
}

/// The socket's only owner. A [`ConnectionHandle`](super::ConnectionHandle) may be looking at it for a moment.
async fn alone(mut shared: Arc<Shared>) -> Shared {
    loop {
        match Arc::try_unwrap(shared) {
            Ok(shared) => return shared,
            Err(back) => shared = back,
        }
        tokio::task::yield_now().await;
    }
}
