//! The way from an authenticated connection to its bare socket.

use std::io;
use std::sync::Arc;

use bytes::BufMut;
use tcpunch_core::limits::CLOSE_WITHIN;
use tcpunch_core::secure::{HEADER, Kind, Opener};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Connection, Lost, Pump, Shared, lock};

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
        let (sender, pump) = oneshot::channel();
        *lock(&self.shared.successor) = Some(sender);
        self.shared.wake_pump.notify_one();
        let mut finished = self.finished.clone();
        let mut pump = tokio::select! {
            biased;
            Ok(pump) = pump => pump,
            // It had ended before.
            _ = finished.wait_for(|done| *done) => return Err(self.over()),
        };
        if self.lost().is_some() || lock(&self.shared.sending).ended || lock(&self.shared.receiving).ended {
            return Err(self.over());
        }
        let shared = self.shared.clone();
        // Its end must not look like giving up, and it holds the socket as well.
        drop(self);
        // From here on this is the only reader, and reads no byte beyond a record: the peer's first unencrypted byte is sent
        // after it has seen the record below, so it stays in the socket.
        pump.shut = true;
        {
            let mut sending = lock(&shared.sending);
            sending.ended = true;
            sending.record(Kind::Unencrypted, &[]);
        }
        // At the same time, or two that both have much to send would wait for each other.
        tokio::try_join!(send(&shared), receive(&shared, &mut pump))?;
        drop(pump);
        let unread = lock(&shared.receiving).chunks.drain(..).flatten().collect();
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
            Some(broken) => return Err(Lost::Broken(broken).into()),
            None if unsent == 0 => return Ok(()),
            None => shared.socket.writable().await?,
        }
    }
}

/// All records up to the peer's last.
async fn receive(shared: &Shared, pump: &mut Pump) -> io::Result<()> {
    // What came together with records that the pump had read.
    pump.records()?;
    while !lock(&shared.receiving).unencrypted {
        if lock(&shared.receiving).ended {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the other side has ended its direction",
            ));
        }
        fill(shared, pump, HEADER).await?;
        if let Some(header) = pump.input.first_chunk::<HEADER>().copied() {
            let length = Opener::body_length(header).map_err(|_| Lost::Forged)?;
            fill(shared, pump, HEADER + length).await?;
        }
        pump.records()?;
    }
    if pump.input.is_empty() { Ok(()) } else { Err(Lost::Forged.into()) }
}

/// Reads until `length` bytes are there, and not one more.
async fn fill(shared: &Shared, pump: &mut Pump, length: usize) -> io::Result<()> {
    while let missing = length.saturating_sub(pump.input.len())
        && missing > 0
    {
        pump.input.reserve(missing);
        shared.socket.readable().await?;
        match shared.socket.try_read_buf(&mut (&mut pump.input).limit(missing)) {
            Ok(0) => return Err(Lost::Truncated.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Lost::Broken(error.to_string()).into()),
        }
    }
    Ok(())
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
