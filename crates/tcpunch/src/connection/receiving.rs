//! What comes in: records opened in place, handed to the reader from where they were opened.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tcpunch_core::limits::{MAX_RECORD, RECEIVE_BUFFER, SMALL_CHUNK, WINDOW_FIRST, WINDOW_MOST};
use tcpunch_core::secure::{HEADER, Kind, OVERHEAD, Opener};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::Lost;

const _: () = assert!(RECEIVE_BUFFER >= MAX_RECORD + OVERHEAD, "a record must fit");

/// Where the next record may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Only what was read already.
    Buffer,
    /// The socket as well.
    Socket,
    /// The socket as well, but no byte behind the record.
    SocketExactly,
}

/// What came.
pub(super) enum Said {
    /// Data that can be taken now.
    Data,
    /// The peer's last data came before.
    End,
    /// So many bytes more may be sent.
    Credit(u32),
    /// To be answered with the same number.
    Ping([u8; 8]),
    /// No more will come from the socket.
    SocketEnded,
    /// Nothing that anybody waits for.
    Nothing,
}

pub(super) struct Receiving {
    opener: Opener,
    /// Bytes from the socket: `begin..end` are not opened yet.
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// Opened data in `buffer` before `begin`, which the application has not taken.
    fresh: Range<usize>,
    /// Data that came before `fresh`, put aside while nobody read.
    aside: VecDeque<Vec<u8>>,
    /// How much of the first of them was taken.
    aside_taken: usize,
    /// Bytes that the peer may still send.
    granted: u64,
    /// Taken by the application and not granted again yet.
    taken: u64,
    window: u64,
    window_began: Instant,
    window_taken: u64,
    /// The peer said its end.
    pub(super) ended: bool,
    /// The peer's last record was [`Kind::Unencrypted`].
    pub(super) unencrypted: bool,
    /// No more comes from the socket. What that means where the peer's end had not come.
    pub(super) socket_ended: Option<Lost>,
    /// When the last bytes came.
    pub(super) heard: Instant,
    /// Bytes of the application so far.
    pub(super) payload: u64,
    pub(super) round_trip: Option<Duration>,
    ping: Option<(u64, Instant)>,
    /// The first ping since the peer was last heard.
    pub(super) unanswered: Option<Instant>,
}

impl Receiving {
    pub(super) fn new(opener: Opener, now: Instant) -> Self {
        Receiving {
            opener,
            buffer: vec![0; RECEIVE_BUFFER],
            begin: 0,
            end: 0,
            fresh: 0..0,
            aside: VecDeque::new(),
            aside_taken: 0,
            granted: u64::from(WINDOW_FIRST),
            taken: 0,
            window: u64::from(WINDOW_FIRST),
            window_began: now,
            window_taken: 0,
            ended: false,
            unencrypted: false,
            socket_ended: None,
            heard: now,
            payload: 0,
            round_trip: None,
            ping: None,
            unanswered: None,
        }
    }

    /// The number of the next ping, which is under way now.
    pub(super) fn ping(&mut self, now: Instant) -> u64 {
        let number = self.ping.map_or(0, |(number, _)| number + 1);
        self.ping = Some((number, now));
        self.unanswered.get_or_insert(now);
        number
    }

    /// Moves data to the reader; says how many bytes, and what to grant the peer for it.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) -> (usize, Option<u32>) {
        let before = buf.remaining();
        while let Some(chunk) = self.aside.front()
            && buf.remaining() > 0
        {
            let rest = chunk.get(self.aside_taken..).unwrap_or_default();
            let part = rest.get(..buf.remaining()).unwrap_or(rest);
            buf.put_slice(part);
            self.aside_taken += part.len();
            if self.aside_taken == chunk.len() {
                self.aside.pop_front();
                self.aside_taken = 0;
            }
        }
        let rest = self.buffer.get(self.fresh.clone()).unwrap_or_default();
        let part = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(part);
        self.fresh.start += part.len();
        let taken = before - buf.remaining();
        (taken, self.grant(taken as u64))
    }

    /// Credit for what was taken, where enough has come together.
    fn grant(&mut self, taken: u64) -> Option<u32> {
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

    /// Makes room for the next record while nobody reads. The peer's credit bounds what comes together.
    fn put_aside(&mut self) {
        let fresh = self.buffer.get(self.fresh.clone()).unwrap_or_default();
        if fresh.is_empty() {
            return;
        }
        match self.aside.back_mut() {
            Some(last) if last.len() + fresh.len() <= SMALL_CHUNK => last.extend_from_slice(fresh),
            _ => self.aside.push_back(fresh.to_vec()),
        }
        self.fresh = 0..0;
    }

    pub(super) fn has_data(&self) -> bool {
        !self.aside.is_empty() || !self.fresh.is_empty()
    }

    /// The next record, from the buffer or else from the socket. `cx` is woken when there is more, where this waits.
    ///
    /// Data of the record before that was not taken is put aside.
    pub(super) fn next(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
        source: Source,
    ) -> Poll<Result<Said, Lost>> {
        self.put_aside();
        loop {
            match self.open() {
                Ok(Some(said)) => return Poll::Ready(Ok(said)),
                Ok(None) => {}
                Err(lost) => {
                    // What came behind must not take the place of what was refused.
                    self.begin = self.end;
                    self.socket_ended = Some(lost.clone());
                    return Poll::Ready(Err(lost));
                }
            }
            if source == Source::Buffer || self.socket_ended.is_some() {
                return Poll::Pending;
            }
            self.make_room();
            let most =
                if source == Source::SocketExactly { self.missing()? } else { self.buffer.len() - self.end };
            let room = self.buffer.get_mut(self.end..self.end + most).unwrap_or_default();
            let read = ready!(socket.poll_read_ready(cx)).and_then(|()| socket.try_read(room));
            match read {
                Ok(length) if length > 0 => {
                    self.end += length;
                    self.heard = Instant::now();
                    self.unanswered = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                ended => {
                    let lost = ended.err().map_or(Lost::Truncated, |error| Lost::by(&error));
                    self.socket_ended = Some(lost);
                    return Poll::Ready(Ok(Said::SocketEnded));
                }
            }
        }
    }

    /// Bytes until the record that has begun is there; first of its header alone.
    fn missing(&self) -> Result<usize, Lost> {
        let begun = self.buffer.get(self.begin..self.end).unwrap_or_default();
        let whole = match begun.first_chunk::<HEADER>() {
            Some(header) => HEADER + Opener::body_length(*header).map_err(|_| Lost::Forged)?,
            None => HEADER,
        };
        Ok(whole.saturating_sub(begun.len()))
    }

    /// Everything that came and was not taken.
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        self.put_aside();
        let mut all: Vec<u8> = std::mem::take(&mut self.aside).into_iter().flatten().collect();
        all.drain(..self.aside_taken);
        self.aside_taken = 0;
        all
    }

    /// Whether bytes came behind the last record.
    pub(super) fn has_rest(&self) -> bool {
        self.begin < self.end
    }

    /// Room for the rest of a record behind what is there of it.
    fn make_room(&mut self) {
        if self.begin == self.end {
            self.begin = 0;
            self.end = 0;
        } else if self.buffer.len() - self.begin < MAX_RECORD + OVERHEAD {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
    }

    /// Opens the next record if it is there whole.
    fn open(&mut self) -> Result<Option<Said>, Lost> {
        if self.unencrypted {
            return Ok(None);
        }
        let bytes = self.buffer.get_mut(self.begin..self.end).unwrap_or_default();
        let Some((header, rest)) = bytes.split_first_chunk_mut::<HEADER>() else { return Ok(None) };
        let length = Opener::body_length(*header).map_err(|_| Lost::Forged)?;
        let Some(body) = rest.get_mut(..length) else { return Ok(None) };
        let (kind, payload) = self.opener.open(*header, body).map_err(|_| Lost::Forged)?;
        // Behind the header and the byte of kind.
        let start = self.begin + HEADER + 1;
        self.begin += HEADER + length;
        Ok(Some(match kind {
            Kind::Data => {
                let bytes = payload.len() as u64;
                if self.ended || bytes > self.granted {
                    return Err(Lost::Forged);
                }
                self.granted -= bytes;
                self.payload += bytes;
                self.fresh = start..start + payload.len();
                Said::Data
            }
            Kind::End => {
                if self.ended {
                    return Err(Lost::Forged);
                }
                self.ended = true;
                Said::End
            }
            Kind::Credit => Said::Credit(u32::from_be_bytes(number(payload)?)),
            Kind::Ping => Said::Ping(number(payload)?),
            Kind::Pong => {
                let number = u64::from_be_bytes(number(payload)?);
                if let Some((expected, since)) = self.ping
                    && expected == number
                {
                    self.round_trip = Some(since.elapsed());
                }
                Said::Nothing
            }
            // The lane was chosen twice, or what arrived is known to have: of no consequence.
            Kind::Nominate | Kind::Ack => Said::Nothing,
            Kind::Unencrypted => {
                self.unencrypted = true;
                Said::Nothing
            }
            Kind::Confirm => return Err(Lost::Forged),
        }))
    }
}

fn number<const N: usize>(payload: &[u8]) -> Result<[u8; N], Lost> {
    payload.try_into().map_err(|_| Lost::Forged)
}
