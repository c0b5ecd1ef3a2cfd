//! A connection whose other end has the keys and keeps to no rule, as any member of a lobby may.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::Poll;

use tcpunch::Connection;
use tcpunch_core::limits::{MAX_RECORD, WINDOW_FIRST, WINDOW_MOST};
use tcpunch_core::secure::{HEADER, Kind, Opener, Sealer, Suite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::bytes::Bytes;

const SUITE: Suite = Suite::Aes256Gcm;
const KINDS: [Kind; 8] =
    [Kind::Data, Kind::End, Kind::Credit, Kind::Ping, Kind::Pong, Kind::Confirm, Kind::Nominate, Kind::Ack];
/// The pump reads eight times before it lets others go on.
const TURNS: usize = 4;
/// More than any input makes necessary.
const PATIENCE: usize = 20_000;

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_all().event_interval(1).build().expect("a runtime");
}

pub(crate) fn run(bytes: &[u8]) {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut input = Bytes(bytes);
            let mut stage = Stage::new();
            while !input.is_empty() {
                stage.step(&mut input).await;
            }
            stage.end().await;
            for _ in 0..PATIENCE {
                if runtime.metrics().num_alive_tasks() == 0 {
                    return;
                }
                yield_now().await;
            }
            panic!("a connection that was dropped goes on");
        });
    });
}

struct Stage {
    ours: Connection,
    theirs: UnixStream,
    sealer: Sealer,
    opener: Opener,
    /// What the socket has not taken yet, and what came in and is no whole record yet.
    unsent: Vec<u8>,
    incoming: Vec<u8>,
    /// Whether all that they said so far was sealed as it should be.
    sealed_well: bool,
    ended: bool,
    /// The application's bytes: what they said, and what arrived of it.
    said: Vec<u8>,
    heard: Vec<u8>,
    over: bool,
    written: usize,
    shut: bool,
    tally: Tally,
}

/// What they saw.
#[derive(Default)]
struct Tally {
    data: usize,
    credit_given: u64,
    pings: usize,
    pongs: usize,
    ended: bool,
}

impl Stage {
    fn new() -> Self {
        let (one, two) = UnixStream::pair().unwrap();
        two.set_nonblocking(true).unwrap();
        let (there, back) = ([1; 32], [2; 32]);
        let ours = tcpunch::fuzz::connection(one.into(), Sealer::new(SUITE, there), Opener::new(SUITE, back))
            .unwrap();
        Stage {
            ours,
            theirs: two,
            sealer: Sealer::new(SUITE, back),
            opener: Opener::new(SUITE, there),
            unsent: Vec::new(),
            incoming: Vec::new(),
            sealed_well: true,
            ended: false,
            said: Vec::new(),
            heard: Vec::new(),
            over: false,
            written: 0,
            shut: false,
            tally: Tally::default(),
        }
    }

    async fn step(&mut self, input: &mut Bytes<'_>) {
        match input.u8() % 12 {
            0 => {
                let length = match input.u16() {
                    u16::MAX => MAX_RECORD,
                    length => usize::from(length % 5000),
                };
                self.say(Kind::Data, &vec![self.said.len() as u8; length]);
            }
            1 | 2 => {
                let kind = input.pick(&KINDS);
                let length = usize::from(input.u8() % 33);
                self.say(kind, input.take(length));
            }
            3 => {
                let piece = input.piece();
                self.sealed_well &= piece.is_empty();
                self.unsent.extend_from_slice(piece);
            }
            4 => self.read(4 * usize::from(input.u16())).await,
            5 => self.write(usize::from(input.u16())).await,
            6 => {
                self.shut = true;
                let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.ours).poll_shutdown(cx))).await;
            }
            7 => self.turns().await,
            8 => self.hear(),
            9 => {
                let credit = u32::from(input.u8()) << 12;
                self.say(Kind::Credit, &credit.to_be_bytes());
            }
            10 => self.say(Kind::End, &[]),
            _ => {
                // Many at once: what the pump reads is full of them.
                let (kind, times) = (input.pick(&KINDS), input.u8());
                for _ in 0..times {
                    self.say(kind, &[0; 8]);
                }
            }
        }
    }

    /// Says a record, and notes what it means.
    fn say(&mut self, kind: Kind, payload: &[u8]) {
        self.sealer.seal(kind, payload, &mut self.unsent).unwrap();
        if !self.sealed_well {
            return;
        }
        match kind {
            Kind::Data if !self.ended => self.said.extend_from_slice(payload),
            Kind::End => self.ended = true,
            Kind::Ping => self.tally.pings += 1,
            Kind::Credit => {
                let credit = payload.first_chunk::<4>().map_or(0, |credit| u32::from_be_bytes(*credit));
                self.tally.credit_given += u64::from(credit);
            }
            _ => {}
        }
    }

    /// Lets the connection go on for a while.
    async fn turns(&mut self) {
        for _ in 0..TURNS {
            match self.theirs.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                // Not read, or closed: then there is no use.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.unsent.clear(),
            }
            yield_now().await;
        }
        let waiting = self.ours.traffic().0 - self.heard.len() as u64;
        let most = if self.heard.is_empty() { WINDOW_FIRST } else { WINDOW_MOST };
        assert!(waiting <= most.into(), "no more is taken in than the window holds");
    }

    async fn read(&mut self, most: usize) {
        if most == 0 || self.over {
            return;
        }
        let mut room = vec![0; most];
        let mut buffer = ReadBuf::new(&mut room);
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.ours).poll_read(cx, &mut buffer))).await;
        match read {
            Poll::Pending => return,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                assert!(self.ended, "without an end record the end is no end");
                assert!(self.heard == self.said, "before the end comes all that was said");
                self.over = true;
            }
            Poll::Ready(Ok(())) => self.heard.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(_)) => self.over = true,
        }
        assert!(self.said.starts_with(&self.heard), "nothing else arrives, and in order");
    }

    async fn write(&mut self, length: usize) {
        let data: Vec<u8> = (self.written..self.written + length).map(|at| at as u8).collect();
        let written = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.ours).poll_write(cx, &data))).await;
        if let Poll::Ready(Ok(written)) = written {
            assert!(!self.shut || written == 0, "nothing is said after the end");
            self.written += written;
        }
    }

    /// They read all that is there.
    fn hear(&mut self) {
        let mut room = [0; 16 * 1024];
        while let Ok(length @ 1..) = self.theirs.read(&mut room) {
            self.incoming.extend_from_slice(&room[..length]);
        }
        while let Some(header) = self.incoming.first_chunk::<HEADER>().copied() {
            let length = Opener::body_length(header).unwrap();
            let Some(body) = self.incoming.get_mut(HEADER..HEADER + length) else { break };
            let (kind, payload) = self.opener.open(header, body).expect("our own records are sealed well");
            let tally = &mut self.tally;
            assert!(!tally.ended || kind != Kind::Data, "nothing is said after the end");
            match kind {
                Kind::Data => {
                    for byte in &*payload {
                        assert_eq!(*byte, tally.data as u8, "what the application wrote, in order");
                        tally.data += 1;
                    }
                    let most = u64::from(WINDOW_FIRST) + tally.credit_given;
                    assert!(tally.data as u64 <= most, "no more than they take");
                }
                Kind::End => assert!(!std::mem::replace(&mut tally.ended, true), "one end"),
                Kind::Credit => assert_eq!(payload.len(), 4),
                Kind::Ping => assert_eq!(payload.len(), 8),
                Kind::Pong => {
                    tally.pongs += 1;
                    assert!(tally.pongs <= tally.pings, "an answer to each question at most");
                }
                Kind::Confirm | Kind::Nominate | Kind::Ack | Kind::Unencrypted => {
                    panic!("{kind:?} has no place here")
                }
            }
            self.incoming.drain(..HEADER + length);
        }
    }

    /// They go; the application learns of it, and of all that came before.
    async fn end(mut self) {
        let mut gone = false;
        for _ in 0..PATIENCE {
            self.turns().await;
            self.hear();
            self.read(1 << 20).await;
            if self.unsent.is_empty() && !gone {
                gone = true;
                let _ = self.theirs.shutdown(Shutdown::Write);
            }
            if self.over {
                break;
            }
        }
        assert!(self.over, "who goes is noticed");
        self.hear();
        assert!(self.tally.data <= self.written);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let data = |length: u16| [&[0], &length.to_be_bytes()[..]].concat();
    let read = |quarter: u16| [&[4], &quarter.to_be_bytes()[..]].concat();
    let write = |length: u16| [&[5], &length.to_be_bytes()[..]].concat();
    let (turn, hear, shut, end) = (vec![7], vec![8], vec![6], vec![10]);
    let seed = |parts: &[Vec<u8>]| parts.concat();
    let flood: Vec<u8> = (0..40).flat_map(|_| [data(u16::MAX), vec![7]].concat()).collect();
    let talk: Vec<u8> =
        (0..40).flat_map(|_| [data(u16::MAX), vec![7], read(20_000), vec![7, 8]].concat()).collect();
    let pour: Vec<u8> = (0..40).flat_map(|_| [write(60_000), vec![7, 8]].concat()).collect();
    vec![
        seed(&[
            data(100),
            turn.clone(),
            read(100),
            write(300),
            turn.clone(),
            hear.clone(),
            end.clone(),
            shut.clone(),
        ]),
        seed(&[data(100), turn.clone(), read(10)]),
        seed(&[end.clone(), data(5), turn.clone(), read(10)]),
        seed(&[end.clone(), end.clone(), turn.clone()]),
        seed(&[
            write(10),
            shut.clone(),
            turn.clone(),
            hear.clone(),
            data(50),
            turn.clone(),
            read(50),
            end.clone(),
        ]),
        flood,
        talk,
        seed(&[pour.clone(), vec![9, 255], pour]),
        vec![11, 3, 255, 7, 8, 11, 3, 255, 7, 8],
        vec![11, 4, 9, 7, 11, 6, 9, 11, 7, 9, 7, 11, 5, 1, 7],
        vec![1, 2, 3, 1, 2, 3, 7, 1, 3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![1, 2, 4, 255, 255, 255, 255, 7, 8],
        vec![3, 0, 4, 0, 0, 0, 1, 7, 8],
        vec![3, 0, 6, 0, 0, 0, 17, 9, 9, 7, 8],
    ]
}
