//! Chat: lines to everyone who is there, over direct connections.
//!
//! On each connection: frames of a length (four bytes, big-endian) and a message in postcard. The
//! first frame of each side is its hello. In the open lobby, where nobody is authenticated, a commitment
//! follows at once, and what it commits to when the other side's has come: both sides then have two words
//! to compare (`docs/protocol.md`, section 13).

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpunch::{ConnectError, Connection, Lobby, LobbyNews, Obstacle, PathInfo, PublicKey};
use tcpunch_core::limits::{
    CHAT_BACKLOG, CHAT_QUEUE, CHAT_REMEMBERED, CLOSE_WITHIN, MAX_LINE, MAX_NAME, WORDS_WITHIN,
};
use tcpunch_core::sanitize::sanitize_line;
use tcpunch_core::secure::{Commitment, Committed, Comparison, Nonce};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use unicode_security::skeleton;

/// A line of this many bytes and what stands around it.
const MAX_FRAME: usize = MAX_LINE + 64;

#[derive(Serialize, Deserialize)]
enum Frame {
    Hello { name: String },
    Line { text: String },
    Commit(Commitment),
    Reveal(Nonce),
}

/// What happens in a chat. Names and texts are safe for a terminal; of all who are there no two names look
/// the same, nor like the own one.
#[derive(Debug)]
pub enum ChatEvent {
    /// The lobby was joined; so many were there before.
    Joined {
        /// Members that were there.
        members: u32,
    },
    /// Somebody said hello on a direct connection.
    Here {
        /// Session key.
        peer: PublicKey,
        /// As it calls itself.
        name: String,
        /// How the connection came to be.
        info: PathInfo,
        /// Whether it was here before, over another connection.
        again: bool,
    },
    /// In the open lobby: two words that are the same on both sides, unless somebody sits in the middle.
    Words {
        /// Session key.
        peer: PublicKey,
        /// As it calls itself.
        name: String,
        /// The words, with a space between.
        words: String,
    },
    /// A line.
    Line {
        /// Who said it.
        peer: PublicKey,
        /// As it calls itself.
        name: String,
        /// What it said.
        text: String,
    },
    /// Somebody left, or was lost.
    Gone {
        /// Session key.
        peer: PublicKey,
        /// As it called itself.
        name: String,
        /// Why, if it was lost.
        lost: Option<String>,
        /// Whether it may come back: nothing says that it has ended.
        away: bool,
        /// Whether this side left, not the other.
        by_us: bool,
        /// Bytes received and sent.
        traffic: (u64, u64),
    },
    /// Another connection to somebody has taken the place of this one.
    Replaced {
        /// Session key.
        peer: PublicKey,
        /// Bytes received and sent.
        traffic: (u64, u64),
    },
    /// A member can't be reached.
    Unreachable {
        /// Session key.
        peer: PublicKey,
        /// Why.
        obstacle: Box<Obstacle>,
    },
    /// Nobody is there to hear a line.
    Nobody,
    /// Waiting for somebody to come, for the first time.
    Waiting,
}

/// How a chat ended.
#[derive(Debug)]
pub enum ChatEnd {
    /// All that was typed is delivered.
    Delivered,
    /// Nobody ever came; these lines were not delivered.
    Undelivered(Vec<String>),
    /// The only peer left.
    PeerLeft,
    /// The only peer was lost.
    PeerLost(String),
}

/// What the user of a chat does.
#[derive(Debug)]
pub enum Input {
    /// Says a line.
    Line(String),
    /// Has no more to say: leaves when everything is delivered.
    End,
    /// Leaves now: what was said to who is there is delivered, nobody else is waited for.
    Leave,
}

/// Where members come from.
pub enum Room {
    /// The open lobby: any number of members.
    Lobby(Lobby),
    /// One connection; the chat ends with it.
    Private(Box<Connection>),
}

struct Member {
    name: String,
    lines: mpsc::Sender<String>,
}

enum FromMember {
    Hello { peer: PublicKey, name: String, info: PathInfo },
    Words { peer: PublicKey, words: String },
    Line { peer: PublicKey, text: String },
    Over { peer: PublicKey, number: u64, lost: Option<io::Error>, traffic: (u64, u64) },
}

struct Chat<F> {
    own_name: String,
    members: HashMap<PublicKey, (u64, Member)>,
    /// Who was ever here.
    met: HashSet<PublicKey>,
    /// Connections whose place another has taken.
    replaced: HashSet<u64>,
    joined: bool,
    ever: bool,
    pending: HashSet<PublicKey>,
    promised: u32,
    backlog: Vec<String>,
    number: u64,
    tasks: JoinSet<()>,
    reports: (mpsc::Sender<FromMember>, mpsc::Receiver<FromMember>),
    leaving: bool,
    /// Whether nothing but the words tells who the others are.
    open: bool,
    on_event: F,
}

/// Runs a chat until the input ends and everything was delivered, or, in private, the peer leaves.
///
/// With nobody ever there, the end of the input waits `patience` more, and twice that in all for who is
/// being reached. Closing `lines` ends it too.
///
/// # Errors
///
/// The lobby can't be had.
pub async fn run(
    room: Room,
    own_name: &str,
    mut lines: mpsc::Receiver<Input>,
    patience: Duration,
    on_event: impl FnMut(ChatEvent),
) -> Result<ChatEnd, ConnectError> {
    let mut chat = Chat {
        own_name: own_name.chars().take(MAX_NAME / 4).collect(),
        members: HashMap::new(),
        met: HashSet::new(),
        replaced: HashSet::new(),
        joined: false,
        ever: false,
        pending: HashSet::new(),
        promised: 0,
        backlog: Vec::new(),
        number: 0,
        tasks: JoinSet::new(),
        reports: mpsc::channel(256),
        leaving: false,
        open: matches!(room, Room::Lobby(_)),
        on_event,
    };
    let mut lobby = match room {
        Room::Lobby(lobby) => Some(lobby),
        Room::Private(connection) => {
            chat.welcome(*connection);
            None
        }
    };
    let private = lobby.is_none();
    let (mut open, mut listening) = (true, true);
    let mut give_up = None;
    let mut last = None;
    loop {
        if !open && chat.settled() {
            if chat.ever {
                chat.leave().await;
                return Ok(ChatEnd::Delivered);
            }
            give_up.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        } else {
            give_up = None;
        }
        // A broker that promises introductions, or makes ever new ones, must not hold the user.
        let last = (!open).then(|| *last.get_or_insert_with(|| Instant::now() + 2 * patience));
        tokio::select! {
            line = lines.recv(), if listening => match line {
                Some(Input::Line(line)) => chat.say(line),
                Some(Input::Leave) if chat.ever => {
                    chat.leave().await;
                    return Ok(ChatEnd::Delivered);
                }
                Some(Input::Leave) => return Ok(ChatEnd::Undelivered(chat.backlog)),
                Some(Input::End) => open = false,
                None => (open, listening) = (false, false),
            },
            Some(report) = chat.reports.1.recv() => {
                if let Some(end) = chat.report(report, private) {
                    return Ok(end);
                }
            }
            news = async { match &mut lobby { Some(lobby) => lobby.news().await, None => std::future::pending().await } } => {
                chat.news(news)?;
            }
            Some(_) = chat.tasks.join_next() => {}
            () = async { match &mut give_up { Some(sleep) => sleep.as_mut().await, None => std::future::pending().await } } => {
                return Ok(ChatEnd::Undelivered(chat.backlog));
            }
            () = async { match last { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                if chat.ever {
                    chat.leave().await;
                    return Ok(ChatEnd::Delivered);
                }
                return Ok(ChatEnd::Undelivered(chat.backlog));
            }
        }
    }
}

impl<F: FnMut(ChatEvent)> Chat<F> {
    /// Whether everyone who was to be reached has been, or can't be.
    fn settled(&self) -> bool {
        self.pending.is_empty() && self.promised == 0
    }

    fn news(&mut self, news: LobbyNews) -> Result<(), ConnectError> {
        match news {
            LobbyNews::Joined { members, introductions, .. } => {
                self.promised = introductions;
                // Joined again after a change of the network: who is here is told as they come.
                if std::mem::replace(&mut self.joined, true) {
                    return Ok(());
                }
                (self.on_event)(ChatEvent::Joined { members });
                if members == 0 && !self.ever {
                    (self.on_event)(ChatEvent::Waiting);
                }
            }
            LobbyNews::Introduced(peer) => {
                self.promised = self.promised.saturating_sub(1);
                self.pending.insert(peer);
            }
            LobbyNews::Connected(connection) => self.welcome(*connection),
            LobbyNews::Unreachable(peer, obstacle) => {
                self.pending.remove(&peer);
                // Who was here is tried again and again, and was told to be away.
                if !self.met.contains(&peer) {
                    (self.on_event)(ChatEvent::Unreachable { peer, obstacle });
                }
                self.forget_backlog();
            }
            // The connection tells whether the member is gone; without one there is no news.
            LobbyNews::Left(_) => {}
            LobbyNews::Refused(error) => return Err(error),
        }
        Ok(())
    }

    fn welcome(&mut self, connection: Connection) {
        let peer = connection.peer();
        let (lines, queue) = mpsc::channel(CHAT_QUEUE);
        for line in &self.backlog {
            let _ = lines.try_send(line.clone());
        }
        self.number += 1;
        let member = Member { name: peer.nickname(), lines };
        if let Some((old, _)) = self.members.insert(peer, (self.number, member)) {
            self.replaced.insert(old);
        }
        self.pending.remove(&peer);
        self.ever = true;
        self.forget_backlog();
        let (own_name, open, reports) = (self.own_name.clone(), self.open, self.reports.0.clone());
        let task = talk(connection, own_name, open, queue, reports, self.number);
        self.tasks.spawn(task);
    }

    /// What was typed before anyone was there has reached all who were being reached.
    fn forget_backlog(&mut self) {
        if self.ever && self.settled() {
            self.backlog.clear();
        }
    }

    fn say(&mut self, line: String) {
        let mut line = line;
        while line.len() > MAX_LINE {
            line.pop();
        }
        if !self.ever || !self.settled() {
            if self.backlog.len() >= CHAT_BACKLOG {
                self.backlog.remove(0);
            }
            self.backlog.push(line.clone());
        } else if self.members.is_empty() {
            (self.on_event)(ChatEvent::Nobody);
        }
        self.members.retain(|_, (_, member)| {
            !matches!(member.lines.try_send(line.clone()), Err(mpsc::error::TrySendError::Full(_)))
        });
    }

    fn report(&mut self, report: FromMember, private: bool) -> Option<ChatEnd> {
        match report {
            FromMember::Hello { peer, name, info } => {
                let name = self.distinct(&peer, name);
                if let Some((_, member)) = self.members.get_mut(&peer) {
                    member.name.clone_from(&name);
                }
                if self.met.len() >= CHAT_REMEMBERED {
                    self.met.clear();
                }
                let again = !self.met.insert(peer);
                (self.on_event)(ChatEvent::Here { peer, name, info, again });
                None
            }
            FromMember::Words { peer, words } => {
                let name = self.name(&peer);
                (self.on_event)(ChatEvent::Words { peer, name, words });
                None
            }
            FromMember::Line { peer, text } => {
                let name = self.name(&peer);
                (self.on_event)(ChatEvent::Line { peer, name, text });
                None
            }
            FromMember::Over { peer, number, traffic, .. } if self.replaced.remove(&number) => {
                (self.on_event)(ChatEvent::Replaced { peer, traffic });
                None
            }
            FromMember::Over { peer, number, lost, traffic } => {
                let name = self.name(&peer);
                if self.members.get(&peer).is_some_and(|(current, _)| *current == number) {
                    self.members.remove(&peer);
                }
                let by_us = self.leaving;
                // A socket that closes without the end belongs to a process that ended, and who does not speak chat is
                // not waited for.
                let over = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData];
                let away = lost.as_ref().is_some_and(|lost| !over.contains(&lost.kind()));
                let lost = lost.map(|lost| lost.to_string());
                (self.on_event)(ChatEvent::Gone { peer, name, lost: lost.clone(), away, by_us, traffic });
                private.then(|| lost.map_or(ChatEnd::PeerLeft, ChatEnd::PeerLost))
            }
        }
    }

    /// The name, with as much of the session key behind it as tells it from all others.
    fn distinct(&self, peer: &PublicKey, name: String) -> String {
        let taken = |name: &str| {
            let others = self.members.iter().filter(|(other, _)| *other != peer);
            alike(name, &self.own_name) || others.into_iter().any(|(_, (_, other))| alike(name, &other.name))
        };
        if !taken(&name) {
            return name;
        }
        let key = peer.to_string();
        let suffixes = [4, 8, 16].into_iter().filter_map(|digits| key.get(..digits));
        suffixes.map(|part| format!("{name}~{part}")).find(|name| !taken(name)).unwrap_or(key)
    }

    fn name(&self, peer: &PublicKey) -> String {
        self.members.get(peer).map_or_else(|| peer.nickname(), |(_, member)| member.name.clone())
    }

    /// Ends all conversations, and waits until the others have heard everything.
    async fn leave(&mut self) {
        self.leaving = true;
        self.members.clear();
        let over = async {
            while !self.tasks.is_empty() {
                tokio::select! {
                    _ = self.tasks.join_next() => {}
                    Some(report) = self.reports.1.recv() => {
                        self.report(report, false);
                    }
                }
            }
        };
        let _ = tokio::time::timeout(2 * CLOSE_WITHIN, over).await;
        while let Ok(report) = self.reports.1.try_recv() {
            self.report(report, false);
        }
    }
}

/// A name as it is shown: one word, of which no part can be taken for the talk around it.
fn fit(name: &str, peer: &PublicKey) -> String {
    let clean = sanitize_line(name, MAX_NAME / 2);
    // What stands between names and texts, begins a notice, or tells two of one name apart.
    let parts = clean.split(|c: char| c.is_whitespace() || ":*~".contains(c));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { peer.nickname() } else { parts.join("-") }
}

/// Whether people could take one name for the other (UTS #39, section 4), in capitals or not.
fn alike(one: &str, other: &str) -> bool {
    let same = |one: &str, other: &str| skeleton(one).eq(skeleton(other));
    same(one, other) || same(&one.to_lowercase(), &other.to_lowercase())
}

/// One conversation, from hello to the end of both sides.
async fn talk(
    connection: Connection,
    own_name: String,
    open: bool,
    mut lines: mpsc::Receiver<String>,
    reports: mpsc::Sender<FromMember>,
    number: u64,
) {
    let peer = connection.peer();
    let result = converse(&connection, own_name, open, &mut lines, &reports).await;
    let traffic = connection.traffic();
    let result = match result {
        Ok(()) => connection.close().await,
        Err(error) => Err(error),
    };
    let _ = reports.send(FromMember::Over { peer, number, lost: result.err(), traffic }).await;
}

async fn converse(
    connection: &Connection,
    own_name: String,
    open: bool,
    lines: &mut mpsc::Receiver<String>,
    reports: &mpsc::Sender<FromMember>,
) -> io::Result<()> {
    let comparison = open.then(|| {
        let (own, peer) = (connection.own(), connection.peer());
        Comparison::new(&connection.channel_binding(), &own, &peer, &mut rand::rng())
    });
    let mut greeting = encode(&Frame::Hello { name: own_name });
    if let Some(comparison) = &comparison {
        greeting.extend(encode(&Frame::Commit(comparison.commitment())));
    }
    let (may_reveal, mut revealed) = oneshot::channel();
    let write = async {
        let mut half = connection;
        half.write_all(&greeting).await?;
        let mut hidden = open;
        loop {
            tokio::select! {
                nonce = &mut revealed, if hidden => {
                    hidden = false;
                    if let Ok(nonce) = nonce {
                        half.write_all(&encode(&Frame::Reveal(nonce))).await?;
                    }
                }
                line = lines.recv() => match line {
                    Some(text) => half.write_all(&encode(&Frame::Line { text })).await?,
                    None => return half.shutdown().await,
                },
            }
        }
    };
    let read = listen(connection, comparison.map(|own| (own, may_reveal)), reports);
    tokio::pin!(write, read);
    // Who has heard the other's end has nobody left to talk to; who has said its own waits for the
    // other's.
    tokio::select! {
        result = &mut read => result,
        result = &mut write => match result {
            Ok(()) => tokio::time::timeout(CLOSE_WITHIN, &mut read)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        },
    }
}

/// How far the words to compare have come.
enum Words {
    /// The other side has not committed itself.
    Open(Comparison, oneshot::Sender<Nonce>),
    /// It has, and is to show to what.
    Committed(Committed),
    /// They are known, or there are none in this room.
    Done,
}

/// Reports what the other side says, until its end.
async fn listen(
    connection: &Connection,
    comparison: Option<(Comparison, oneshot::Sender<Nonce>)>,
    reports: &mpsc::Sender<FromMember>,
) -> io::Result<()> {
    let peer = connection.peer();
    let Some(frame) = read_frame(connection).await? else { return Ok(()) };
    let Frame::Hello { name } = frame else { return Err(no_chat()) };
    let name = fit(&name, &peer);
    let hello = FromMember::Hello { peer, name, info: connection.info().clone() };
    if reports.send(hello).await.is_err() {
        return Ok(());
    }
    let mut words = comparison.map_or(Words::Done, |(own, may_reveal)| Words::Open(own, may_reveal));
    let patience = Instant::now() + WORDS_WITHIN;
    loop {
        let frame = match &words {
            Words::Done => read_frame(connection).await?,
            Words::Open(..) | Words::Committed(_) => {
                timeout_at(patience, read_frame(connection)).await.map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it does not take part in the comparison of words",
                    )
                })??
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        let report = match (frame, words) {
            (Frame::Line { text }, known) => {
                words = known;
                FromMember::Line { peer, text: sanitize_line(&text, MAX_LINE).into_owned() }
            }
            (Frame::Commit(commitment), Words::Open(own, may_reveal)) => {
                let (committed, nonce) = own.committed(commitment);
                let _ = may_reveal.send(nonce);
                words = Words::Committed(committed);
                continue;
            }
            (Frame::Reveal(nonce), Words::Committed(committed)) => {
                words = Words::Done;
                let words = committed.words(&nonce).map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "what it shows for the comparison of words is not what it had committed to; somebody interferes",
                    )
                })?;
                FromMember::Words { peer, words }
            }
            (Frame::Hello { .. } | Frame::Commit(_) | Frame::Reveal(_), _) => return Err(no_chat()),
        };
        if reports.send(report).await.is_err() {
            return Ok(());
        }
    }
}

fn no_chat() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak chat")
}

fn encode(frame: &Frame) -> Vec<u8> {
    // Names and lines are cut before; serialising to memory has no other way to fail.
    let body = postcard::to_allocvec(frame).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    [&length[..], &body].concat()
}

/// The next frame, or `None` at the end.
async fn read_frame(mut half: impl AsyncRead + Unpin) -> io::Result<Option<Frame>> {
    let mut header = [0; 4];
    let first = half.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    half.read_exact(header.get_mut(first..).unwrap_or_default()).await?;
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than allowed"));
    }
    let mut body = vec![0; length];
    half.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map(Some).map_err(|_| no_chat())
}

/// What the fuzz targets call; not part of the library.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use tcpunch::PublicKey;
    use tokio::io::{AsyncRead, ReadBuf};

    use tcpunch_core::limits::MAX_LINE;
    use tcpunch_core::sanitize::sanitize_line;

    use super::{Frame, fit, read_frame};

    /// What the others would be shown.
    #[derive(Debug, PartialEq, Eq)]
    pub enum Heard {
        /// A name.
        Hello(String),
        /// A line.
        Line(String),
    }

    struct Pieces<'a> {
        rest: &'a [u8],
        size: usize,
    }

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let length = self.rest.len().min(self.size).min(into.remaining());
            let (piece, rest) = self.rest.split_at(length);
            into.put_slice(piece);
            self.rest = rest;
            Poll::Ready(Ok(()))
        }
    }

    /// Reads a conversation from these bytes, in pieces of `size`, to its end; says whether it ended well.
    pub fn hear(bytes: &[u8], size: usize, mut tell: impl FnMut(Heard)) -> bool {
        let mut stream = Pieces { rest: bytes, size };
        let conversation = async {
            while let Some(frame) = read_frame(&mut stream).await? {
                tell(match frame {
                    Frame::Hello { name } => Heard::Hello(fit(&name, &PublicKey([1; 32]))),
                    Frame::Line { text } => Heard::Line(sanitize_line(&text, MAX_LINE).into_owned()),
                    Frame::Commit(_) | Frame::Reveal(_) => continue,
                });
            }
            std::io::Result::Ok(())
        };
        matches!(pin!(conversation).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word() {
        let peer = PublicKey([7; 32]);
        for (name, shown) in [
            ("Ann", "Ann"),
            (" Ann  Lee ", "Ann-Lee"),
            ("ann: yes", "ann-yes"),
            ("* ben left", "ben-left"),
            ("ann~3fa2", "ann-3fa2"),
            ("a\u{a0}b\u{3000}c", "a-b-c"),
            ("a\r\n\u{1b}b", "a^M^J^[b"),
        ] {
            assert_eq!(fit(name, &peer), shown);
        }
        for nothing in ["", "  ", "*:*", "~"] {
            assert_eq!(fit(nothing, &peer), peer.nickname());
        }
        assert_eq!(fit(&"x".repeat(100), &peer).chars().count(), MAX_NAME / 2);
    }

    #[test]
    fn names_that_look_alike_are_the_same_name() {
        for (one, other) in
            [("ann", "ann"), ("ann", "ANN"), ("ben", "b\u{435}n"), ("ben", "\u{ff42}en"), ("Ivy", "lvy")]
        {
            assert!(alike(one, other), "{one} {other}");
        }
        for (one, other) in [("ann", "anna"), ("ann", "ann~3fa2"), ("\u{c4}nn", "ann")] {
            assert!(!alike(one, other), "{one} {other}");
        }
    }
}
