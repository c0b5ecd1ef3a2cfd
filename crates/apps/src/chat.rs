//! Chat: lines to everyone who is there, over direct connections.
//!
//! On each connection: frames of a length (four bytes, big-endian) and a message in postcard. The
//! first frame of each side is its hello.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tcpunch::{ConnectError, Connection, Lobby, LobbyNews, Obstacle, PathInfo, PublicKey};
use tcpunch_core::limits::{CHAT_BACKLOG, CHAT_QUEUE, CHAT_REMEMBERED, CLOSE_WITHIN, MAX_LINE, MAX_NAME};
use tcpunch_core::sanitize::sanitize_line;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A line of this many bytes and what stands around it.
const MAX_FRAME: usize = MAX_LINE + 64;

#[derive(Serialize, Deserialize)]
enum Frame {
    Hello { name: String },
    Line { text: String },
}

/// What happens in a chat. Names and texts are safe for a terminal.
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
    on_event: F,
}

/// Runs a chat until the input ends and everything was delivered, or, in private, the peer leaves.
///
/// With nobody ever there, the end of the input waits `patience` more. Closing `lines` ends it too.
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
        let task = talk(connection, self.own_name.clone(), queue, self.reports.0.clone(), self.number);
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
                // A socket that closes without the end belongs to a process that ended.
                let away = lost.as_ref().is_some_and(|lost| lost.kind() != io::ErrorKind::UnexpectedEof);
                let lost = lost.map(|lost| lost.to_string());
                (self.on_event)(ChatEvent::Gone { peer, name, lost: lost.clone(), away, by_us, traffic });
                private.then(|| lost.map_or(ChatEnd::PeerLeft, ChatEnd::PeerLost))
            }
        }
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

/// One conversation, from hello to the end of both sides.
async fn talk(
    connection: Connection,
    own_name: String,
    mut lines: mpsc::Receiver<String>,
    reports: mpsc::Sender<FromMember>,
    number: u64,
) {
    let peer = connection.peer();
    let result = converse(&connection, own_name, &mut lines, &reports).await;
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
    lines: &mut mpsc::Receiver<String>,
    reports: &mpsc::Sender<FromMember>,
) -> io::Result<()> {
    let peer = connection.peer();
    let write = async {
        let mut half = connection;
        half.write_all(&encode(&Frame::Hello { name: own_name })).await?;
        while let Some(text) = lines.recv().await {
            half.write_all(&encode(&Frame::Line { text })).await?;
        }
        half.shutdown().await
    };
    let read = async {
        while let Some(frame) = read_frame(connection).await? {
            let report = match frame {
                Frame::Hello { name } => {
                    let name = sanitize_line(&name, MAX_NAME / 2).into_owned();
                    let name = if name.trim().is_empty() { peer.nickname() } else { name };
                    FromMember::Hello { peer, name, info: connection.info().clone() }
                }
                Frame::Line { text } => {
                    FromMember::Line { peer, text: sanitize_line(&text, MAX_LINE).into_owned() }
                }
            };
            if reports.send(report).await.is_err() {
                break;
            }
        }
        io::Result::Ok(())
    };
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

fn encode(frame: &Frame) -> Vec<u8> {
    // Names and lines are cut before; serialising to memory has no other way to fail.
    let body = postcard::to_allocvec(frame).unwrap_or_default();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    [&length[..], &body].concat()
}

/// The next frame, or `None` at the end.
async fn read_frame(mut half: &Connection) -> io::Result<Option<Frame>> {
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
    postcard::from_bytes(&body)
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak chat"))
}
