//! Chat: lines to everyone who is there, over direct connections.
//!
//! On each connection: frames of a length (four bytes, big-endian) and a message in postcard. The
//! first frame of each side is its hello. In the open lobby, where nobody is authenticated, a commitment
//! follows at once, and what it commits to when the other side's has come: both sides then have two words
//! to compare (`docs/protocol.md`, section 13).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpunch::{ConnectError, Connection, Lobby, LobbyNews, Obstacle, PathInfo, PublicKey};
use tcpunch_core::limits::{
    CHAT_BACKLOG, CHAT_BACKLOG_BYTES, CHAT_QUEUE, CHAT_REMEMBERED, CHAT_STALLED, CLOSE_WITHIN, DEAD_AFTER,
    MAX_LINE, MAX_NAME, WORDS_WITHIN,
};
use tcpunch_core::sanitize::sanitize_line;
use tcpunch_core::secure::{Commitment, Committed, Comparison, Nonce};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
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
    /// The lobby can't be had any more; who is here stays.
    Refused(ConnectError),
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
    /// Of the members of the lobby these were lost before they had heard everything, or left so after the input had ended.
    Unheard {
        /// As they called themselves.
        names: Vec<String>,
        /// Whether others have heard it.
        others: bool,
    },
    /// The only peer left.
    PeerLeft,
    /// The only peer was lost, or left before it had heard everything after the input had ended.
    PeerLost(String),
}

/// What the user of a chat does.
#[derive(Debug)]
pub enum Input {
    /// Says a line; what is beyond [`MAX_LINE`] bytes is cut off.
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
    /// What it is to hear; none once this side leaves.
    lines: Option<mpsc::Sender<Arc<str>>>,
}

enum FromMember {
    Hello { peer: PublicKey, name: String, info: PathInfo },
    Words { peer: PublicKey, words: String },
    Line { peer: PublicKey, text: String },
    Over { peer: PublicKey, number: u64, lost: Option<io::Error>, heard: Heard, traffic: (u64, u64) },
}

/// How much a member has heard of what was said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    All,
    /// Perhaps not the last of it.
    Most,
    /// Some of it never left.
    Part,
}

/// How the conversation with a member ended.
struct Over {
    name: String,
    lost: Option<String>,
    heard: Heard,
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
    /// What was said while somebody was still to come.
    backlog: VecDeque<Arc<str>>,
    backlog_bytes: usize,
    /// Told when a member has taken a line.
    room: Arc<Notify>,
    /// Why the lobby can't be had any more.
    refused: Option<ConnectError>,
    /// Members that were lost with lines waiting for them.
    missed: Vec<String>,
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
/// being reached. Closing `lines` ends it too. No line is taken while the slowest member has too many to hear; who takes
/// none for [`CHAT_STALLED`] then is lost.
///
/// # Errors
///
/// The lobby can't be had. Once somebody was here this is an event, and an error only when nobody is left.
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
        backlog: VecDeque::new(),
        backlog_bytes: 0,
        room: Arc::default(),
        refused: None,
        missed: Vec::new(),
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
    let mut held = None;
    loop {
        if chat.members.is_empty()
            && chat.settled()
            && let Some(error) = chat.refused.take()
        {
            chat.leave(private).await;
            return Err(error);
        }
        if !open && chat.settled() {
            if chat.ever {
                return Ok(chat.leave(private).await);
            }
            give_up.get_or_insert_with(|| Box::pin(sleep(patience)));
        } else {
            give_up = None;
        }
        // A broker that promises introductions, or makes ever new ones, must not hold the user: neither the end, nor what
        // is said to who is here.
        let last = (!open).then(|| *last.get_or_insert_with(|| Instant::now() + 2 * patience));
        if chat.ever && !chat.backlog_has_room() {
            held.get_or_insert_with(|| Box::pin(sleep(patience)));
        } else {
            held = None;
        }
        let room = chat.has_room();
        tokio::select! {
            line = lines.recv(), if listening && room => match line {
                Some(Input::Line(line)) => chat.say(line),
                Some(Input::Leave) if chat.ever => return Ok(chat.leave(private).await),
                Some(Input::Leave) => return Ok(chat.undelivered()),
                Some(Input::End) => open = false,
                None => (open, listening) = (false, false),
            },
            () = chat.room.notified(), if !room => {}
            Some(report) = chat.reports.1.recv() => {
                match chat.report(report) {
                    Some(over) if private => return Ok(over.lost.map_or(ChatEnd::PeerLeft, ChatEnd::PeerLost)),
                    Some(over) => chat.remember(over),
                    None => {}
                }
            }
            news = async { match &mut lobby { Some(lobby) => lobby.news().await, None => std::future::pending().await } } => {
                if chat.news(news)? == Listen::NoMore {
                    lobby = None;
                }
            }
            Some(_) = chat.tasks.join_next() => {}
            () = async { match &mut give_up { Some(sleep) => sleep.as_mut().await, None => std::future::pending().await } } => {
                return Ok(chat.undelivered());
            }
            () = async { match &mut held { Some(sleep) => sleep.as_mut().await, None => std::future::pending().await } } => {
                chat.wait_for_no_more();
            }
            () = async { match last { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                if chat.ever {
                    return Ok(chat.leave(private).await);
                }
                return Ok(chat.undelivered());
            }
        }
    }
}

/// Whether there may be more news of the lobby.
#[derive(PartialEq, Eq)]
enum Listen {
    On,
    NoMore,
}

impl<F: FnMut(ChatEvent)> Chat<F> {
    /// Whether everyone who was to be reached has been, or can't be.
    fn settled(&self) -> bool {
        self.pending.is_empty() && self.promised == 0
    }

    /// Whether what is said finds a place everywhere.
    fn has_room(&self) -> bool {
        let takes = |lines: &mpsc::Sender<Arc<str>>| lines.is_closed() || lines.capacity() > 0;
        self.backlog_has_room()
            && self.members.values().filter_map(|(_, member)| member.lines.as_ref()).all(takes)
    }

    fn backlog_has_room(&self) -> bool {
        self.backlog.len() < CHAT_BACKLOG && self.backlog_bytes + MAX_LINE <= CHAT_BACKLOG_BYTES
    }

    fn undelivered(&self) -> ChatEnd {
        ChatEnd::Undelivered(self.backlog.iter().map(|line| line.as_ref().to_owned()).collect())
    }

    fn news(&mut self, news: LobbyNews) -> Result<Listen, ConnectError> {
        match news {
            LobbyNews::Joined { members, introductions, .. } => {
                self.promised = introductions;
                self.refused = None;
                // Joined again after a change of the network: who is here is told as they come.
                if std::mem::replace(&mut self.joined, true) {
                    return Ok(Listen::On);
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
            LobbyNews::Refused(error) if !self.ever => return Err(error),
            // The broker has no part in the connections. Attempts that run may still end well.
            LobbyNews::Refused(_) if self.refused.is_some() => {
                self.wait_for_no_more();
                return Ok(Listen::NoMore);
            }
            LobbyNews::Refused(error) => {
                self.promised = 0;
                self.forget_backlog();
                (self.on_event)(ChatEvent::Refused(error.clone()));
                self.refused = Some(error);
            }
        }
        Ok(Listen::On)
    }

    /// Who is still being reached hears what is said from when it is here.
    fn wait_for_no_more(&mut self) {
        self.promised = 0;
        self.pending.clear();
        self.forget_backlog();
    }

    fn welcome(&mut self, connection: Connection) {
        let peer = connection.peer();
        let (lines, queue) = mpsc::channel(CHAT_QUEUE);
        let queue = Queue {
            before: self.backlog.clone(),
            lines: queue,
            room: self.room.clone(),
            last: None,
            midway: false,
        };
        self.number += 1;
        let member = Member { name: peer.nickname(), lines: Some(lines) };
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
            self.backlog_bytes = 0;
        }
    }

    /// Only where there is room.
    fn say(&mut self, line: String) {
        let mut line = line;
        while line.len() > MAX_LINE {
            line.pop();
        }
        let line: Arc<str> = line.into();
        if !self.ever || !self.settled() {
            self.backlog_bytes += line.len();
            self.backlog.push_back(line.clone());
        } else if self.members.is_empty() {
            (self.on_event)(ChatEvent::Nobody);
        }
        for lines in self.members.values().filter_map(|(_, member)| member.lines.as_ref()) {
            // A member whose end is about to be reported takes no more.
            let _ = lines.try_send(line.clone());
        }
    }

    /// Tells what a member did; how it ended, if it was one to the last.
    fn report(&mut self, report: FromMember) -> Option<Over> {
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
            FromMember::Over { peer, number, lost, heard, traffic } => {
                let name = self.name(&peer);
                if self.members.get(&peer).is_some_and(|(current, _)| *current == number) {
                    self.members.remove(&peer);
                }
                let by_us = self.leaving;
                // A socket that closes without the end belongs to a process that ended; who does not speak chat, or was
                // given up, is not waited for.
                let over = [
                    io::ErrorKind::UnexpectedEof,
                    io::ErrorKind::InvalidData,
                    io::ErrorKind::ConnectionAborted,
                ];
                let away = lost.as_ref().is_some_and(|lost| !over.contains(&lost.kind()));
                let lost = lost.map(|lost| lost.to_string());
                let over = Over { name: name.clone(), lost: lost.clone(), heard };
                (self.on_event)(ChatEvent::Gone { peer, name, lost, away, by_us, traffic });
                Some(over)
            }
        }
    }

    fn remember(&mut self, over: Over) {
        if over.lost.is_some() && over.heard == Heard::Part && self.missed.len() < CHAT_REMEMBERED {
            self.missed.push(over.name);
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

    /// Ends all conversations, and waits until the others have heard everything, as far as they do.
    async fn leave(&mut self, private: bool) -> ChatEnd {
        self.leaving = true;
        for (_, member) in self.members.values_mut() {
            member.lines = None;
        }
        let mut ends = Vec::new();
        // Connections that were replaced hold nobody who could be told something.
        let others = sleep(2 * CLOSE_WITHIN);
        tokio::pin!(others);
        while !self.tasks.is_empty() {
            tokio::select! {
                _ = self.tasks.join_next() => {}
                Some(report) = self.reports.1.recv() => ends.extend(self.report(report)),
                () = &mut others, if self.members.is_empty() => break,
            }
        }
        while let Ok(report) = self.reports.1.try_recv() {
            ends.extend(self.report(report));
        }
        let silent = self.members.drain().map(|(_, (_, member))| member.name);
        ends.extend(silent.map(|name| Over { name, lost: None, heard: Heard::Part }));
        if private {
            let end = ends.into_iter().find(|over| over.lost.is_some() || over.heard != Heard::All);
            let left = || "the other side left before it had heard everything".to_owned();
            return end.map_or(ChatEnd::Delivered, |over| ChatEnd::PeerLost(over.lost.unwrap_or_else(left)));
        }
        let others = ends.iter().any(|over| over.heard == Heard::All);
        let mut names = std::mem::take(&mut self.missed);
        names.extend(ends.into_iter().filter(|over| over.heard != Heard::All).map(|over| over.name));
        if names.is_empty() { ChatEnd::Delivered } else { ChatEnd::Unheard { names, others } }
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

/// What one member is to hear.
struct Queue {
    /// Said before it was here.
    before: VecDeque<Arc<str>>,
    lines: mpsc::Receiver<Arc<str>>,
    room: Arc<Notify>,
    /// When the last line was taken.
    last: Option<Instant>,
    /// A line was taken, and is not written.
    midway: bool,
}

impl Queue {
    /// The next line; none when all was said. Cancel-safe.
    async fn next(&mut self) -> Option<Arc<str>> {
        let line = match self.before.pop_front() {
            Some(line) => Some(line),
            None => self.lines.recv().await,
        };
        if line.is_some() {
            self.last = Some(Instant::now());
            self.midway = true;
        }
        self.room.notify_one();
        line
    }

    /// No more is said to who has left.
    fn close(&mut self) {
        self.lines.close();
        self.room.notify_one();
    }

    /// Whether others wait for this member.
    fn is_awaited(&self) -> bool {
        self.lines.is_closed() || self.lines.len() >= CHAT_QUEUE
    }

    /// Whether all was written.
    fn is_written(&self) -> bool {
        !self.midway && self.before.is_empty() && self.lines.is_empty()
    }

    /// Whether the last line may still be under way: what is found to be lost was heard of [`DEAD_AFTER`] ago, and an end
    /// waits as long for its answer.
    fn is_fresh(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < 2 * DEAD_AFTER)
    }
}

/// One conversation, from hello to the end of both sides.
async fn talk(
    connection: Connection,
    own_name: String,
    open: bool,
    mut queue: Queue,
    reports: mpsc::Sender<FromMember>,
    number: u64,
) {
    let peer = connection.peer();
    let result = converse(&connection, own_name, open, &mut queue, &reports).await;
    let traffic = connection.traffic();
    let written = queue.is_written();
    let result = match result {
        Ok(()) if written => {
            timeout(CHAT_STALLED, connection.close()).await.unwrap_or_else(|_| Err(unanswered()))
        }
        // In the middle of what was said there is no good end.
        Ok(()) => Ok(()),
        Err(error) => Err(error),
    };
    let heard = match &result {
        _ if !written => Heard::Part,
        Err(_) if queue.is_fresh() => Heard::Most,
        Ok(()) | Err(_) => Heard::All,
    };
    let _ = reports.send(FromMember::Over { peer, number, lost: result.err(), heard, traffic }).await;
}

async fn converse(
    connection: &Connection,
    own_name: String,
    open: bool,
    queue: &mut Queue,
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
    let (heard_end, mut peer_ended) = oneshot::channel::<()>();
    let write = async {
        give(connection, &greeting, queue).await?;
        let (mut hidden, mut over) = (open, false);
        loop {
            tokio::select! {
                // The other side waits for the number only so long.
                biased;
                nonce = &mut revealed, if hidden => {
                    hidden = false;
                    if let Ok(nonce) = nonce {
                        give(connection, &encode(&Frame::Reveal(nonce)), queue).await?;
                    }
                }
                _ = &mut peer_ended, if !over => {
                    over = true;
                    queue.close();
                }
                line = queue.next() => match line {
                    Some(text) => {
                        give(connection, &encode(&Frame::Line { text: text.as_ref().to_owned() }), queue).await?;
                        queue.midway = false;
                    }
                    None => {
                        let mut half = connection;
                        timeout(CHAT_STALLED, half.shutdown()).await.unwrap_or_else(|_| Err(stalled()))?;
                        return Ok(queue.is_fresh());
                    }
                },
            }
        }
    };
    let read = listen(connection, comparison.map(|own| (own, may_reveal)), reports);
    tokio::pin!(write, read);
    // Who has said its own end waits for the other's; who has heard the other's says what was said before.
    tokio::select! {
        result = &mut read => {
            result?;
            let _ = heard_end.send(());
            let _: Result<io::Result<bool>, _> = timeout(CLOSE_WITHIN, &mut write).await;
            Ok(())
        }
        fresh = &mut write => {
            let patience = if fresh? { CHAT_STALLED } else { CLOSE_WITHIN };
            timeout(patience, &mut read).await.unwrap_or_else(|_| Err(unanswered()))
        }
    }
}

/// Writes all of it, unless the member takes none while others wait for it.
async fn give(mut half: &Connection, bytes: &[u8], queue: &Queue) -> io::Result<()> {
    let write = half.write_all(bytes);
    tokio::pin!(write);
    loop {
        match timeout(CHAT_STALLED, &mut write).await {
            Ok(written) => return written,
            Err(_) if queue.is_awaited() => return Err(stalled()),
            Err(_) => {}
        }
    }
}

fn stalled() -> io::Error {
    let what = format!("it took in nothing for {} s, and was given up", CHAT_STALLED.as_secs());
    io::Error::new(io::ErrorKind::ConnectionAborted, what)
}

fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it did not say that it had heard everything")
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
