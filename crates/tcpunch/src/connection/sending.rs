//! What goes out: records sealed in the writer's own task, as far as credit and the socket allow.

use std::io;
use std::task::Waker;
use std::time::Instant;

use tcpunch_core::limits::{MAX_RECORD, MAX_UNSENT, WINDOW_FIRST};
use tcpunch_core::secure::{Kind, OVERHEAD, Sealer};
use tokio::net::TcpStream;

use super::Lost;

pub(super) struct Sending {
    sealer: Sealer,
    /// Sealed bytes that the socket has not taken.
    out: Vec<u8>,
    sent: usize,
    /// Bytes that the peer still takes.
    pub(super) credit: u64,
    /// The end was said.
    pub(super) ended: bool,
    /// Nothing can be sent any more: both sides have ended.
    pub(super) shut: bool,
    /// When the last record was made.
    pub(super) last: Instant,
    /// When the socket last took something, or what waits for it began to.
    pub(super) moved: Instant,
    pub(super) broken: Option<Lost>,
    /// Who waits until the socket has taken what was sealed.
    pub(super) waker: Option<Waker>,
    /// Bytes of the application so far.
    pub(super) payload: u64,
}

impl Sending {
    pub(super) fn new(sealer: Sealer, now: Instant) -> Self {
        Sending {
            sealer,
            out: Vec::with_capacity(MAX_RECORD + OVERHEAD),
            sent: 0,
            credit: u64::from(WINDOW_FIRST),
            ended: false,
            shut: false,
            last: now,
            moved: now,
            broken: None,
            waker: None,
            payload: 0,
        }
    }

    pub(super) fn record(&mut self, kind: Kind, payload: &[u8]) {
        self.last = Instant::now();
        if self.unsent() == 0 {
            self.moved = self.last;
        }
        // Payloads are cut to MAX_RECORD before, the only way sealing can fail.
        let _ = self.sealer.seal(kind, payload, &mut self.out);
    }

    /// Seals what one record and the credit take of `data`, and says how much that is.
    pub(super) fn data(&mut self, data: &[u8]) -> usize {
        let most = usize::try_from(self.credit).unwrap_or(usize::MAX).min(MAX_RECORD);
        let part = data.get(..most).unwrap_or(data);
        self.record(Kind::Data, part);
        self.credit -= part.len() as u64;
        self.payload += part.len() as u64;
        part.len()
    }

    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// As much waits for the socket as may.
    pub(super) fn is_full(&self) -> bool {
        self.unsent() >= MAX_UNSENT
    }

    /// Gives the socket what it takes now; an error is kept for the pump.
    pub(super) fn flush(&mut self, socket: &TcpStream) {
        while let Some(rest) = self.out.get(self.sent..)
            && !rest.is_empty()
        {
            match socket.try_write(rest) {
                Ok(written) => {
                    self.sent += written;
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.broken.get_or_insert(Lost::by(&error));
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
