//! How others connect, in the same simulation: for comparison.
//!
//! They hear the same introduction, listen on the same port, and show each other the same tags and first records on whatever
//! connection comes about. Only when and how often they dial is theirs. Where nothing is known of them, what is better for them
//! is assumed.

use std::net::SocketAddr;
use std::time::Duration;

use natlab::Time;
use natlab::sim::{ConnectOptions, Event, Os, SocketError, SocketId};
use rand_chacha::ChaCha8Rng;
use tcpunch_core::limits::MAX_OBSERVED;
use tcpunch_core::plan::{self, Path, first_candidates, host_candidates, translated};
use tcpunch_core::secure::{LaneKeys, PREAMBLE, SALT, Tag, parse_preamble, preamble, tags};
use tcpunch_core::wire::PREFACE;

use super::attempt::{Reach, Salts, drop_stream};
use super::wire::{Inbox, Record};

/// Whose way of connecting the two follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// That of `tcpunch-core`, with the [rules](super::Options::rules) that are on.
    #[default]
    Ours,
    /// Each side dials each address that the broker observed of the other once, when the broker says so, and listens: the hole
    /// puncher of textbooks. A refusal is not answered.
    OneShot,
    /// DCUtR, as libp2p does it over TCP: who was called sends CONNECT through the relay, and SYNC once it is answered; who hears
    /// SYNC dials at once, and the other half the measured round trip later. A try ends when all of its dials have failed or
    /// after [`TRY_WITHIN`], and the next begins with CONNECT. There are three.
    ///
    /// In its favour: the relayed connection stands before anybody asks for it; candidates of the LAN are dialled too, as
    /// libp2p's discovery there would; IPv6 addresses are known; who can't dial because the peer's connection is coming in
    /// waits for it.
    Dcutr,
}

/// The tries of [`Strategy::Dcutr`].
const TRIES: u32 = 3;

/// How long a try lasts. Its implementations wait between five seconds and a minute; three of these fit into what the two
/// have.
pub const TRY_WITHIN: Duration = Duration::from_secs(5);

/// In the place of a preface on a connection to the broker: it passes on what comes to the other such connection.
pub(super) const RELAYED: [u8; PREFACE] = [0xdc; PREFACE];

const CONNECT: u8 = 1;
const SYNC: u8 = 2;

/// How it ended.
pub(super) enum Done {
    Connected { path: Path, salts: Salts, socket: SocketId, inbox: Inbox },
    NoPath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    /// The own tag and first record are out.
    Proving,
    /// The peer's came.
    Verified,
}

struct Lane {
    socket: SocketId,
    stage: Stage,
    inbox: Inbox,
    own_salt: [u8; SALT],
    peer_salt: [u8; SALT],
}

/// What is there from the introduction on.
struct Running {
    reach: Reach,
    own_tag: Tag,
    peer_tag: Tag,
    controlling: bool,
    deadline: Time,
}

/// The connection through the relay.
struct Relayed {
    socket: SocketId,
    inbox: Inbox,
    ready: bool,
}

/// One side.
pub(super) struct Other {
    strategy: Strategy,
    /// Who was called: it begins each try of DCUtR.
    called: bool,
    late: Duration,
    random: ChaCha8Rng,
    relayed: Option<Relayed>,
    running: Option<Running>,
    lanes: Vec<Lane>,
    tries: u32,
    /// When the last CONNECT left here.
    asked: Option<Time>,
    fire_at: Option<Time>,
    try_ends: Option<Time>,
    /// The current try's dials are out.
    fired: bool,
    /// A dial of this try had nothing to do but wait for the peer's.
    incoming: bool,
    /// A dial of this try failed.
    refused: bool,
    /// The connection whose first record says already that it is the one: there was no other to wait for.
    promised: Option<SocketId>,
    chosen: Option<SocketId>,
    over: bool,
}

impl Other {
    /// `None` for our own.
    pub(super) fn of(
        strategy: Strategy,
        called: bool,
        late: Duration,
        random: ChaCha8Rng,
    ) -> Option<Box<Self>> {
        match strategy {
            Strategy::Ours => None,
            Strategy::OneShot | Strategy::Dcutr => Some(Box::new(Self {
                strategy,
                called,
                late,
                random,
                relayed: None,
                running: None,
                lanes: Vec::new(),
                tries: 0,
                asked: None,
                fire_at: None,
                try_ends: None,
                fired: false,
                incoming: false,
                refused: false,
                promised: None,
                chosen: None,
                over: false,
            })),
        }
    }

    /// Opens what must stand before anybody asks for it.
    pub(super) fn start(&mut self, os: &mut Os<'_>, brokers: &[SocketAddr]) {
        if self.strategy == Strategy::Dcutr {
            let options = ConnectOptions { source: None, port: 0, ttl: None };
            let broker = brokers.iter().rev().find_map(|broker| os.connect(*broker, options).ok());
            self.relayed = broker.map(|socket| Relayed { socket, inbox: Inbox::default(), ready: false });
        }
    }

    pub(super) fn begin(&mut self, os: &mut Os<'_>, reach: Reach) {
        let (own_tag, peer_tag) = tags(&reach.introduction.nonce, &reach.own, &reach.introduction.peer);
        let controlling = reach.own > reach.introduction.peer;
        let deadline = reach.introduced + reach.timeout;
        self.running = Some(Running { reach, own_tag, peer_tag, controlling, deadline });
        // Who came in before anybody was introduced could not be answered.
        for socket in self.lanes.iter().map(|lane| lane.socket).collect::<Vec<_>>() {
            self.prove(os, socket);
            self.advance(os, socket);
        }
        if self.called {
            self.ask(os);
        }
        self.said(os);
    }

    /// The broker's sign to fire.
    pub(super) fn go(&mut self, os: &mut Os<'_>) {
        if self.strategy == Strategy::OneShot {
            self.dial(os);
        }
    }

    /// The broker saw the peer at one more address; it is dialled like those before.
    pub(super) fn seen_at(&mut self, os: &mut Os<'_>, address: SocketAddr) {
        let known = self.candidates();
        if let Some(running) = &mut self.running
            && running.reach.introduction.addresses.len() < MAX_OBSERVED
        {
            running.reach.introduction.addresses.push(address);
        }
        if self.fired && !self.over {
            let found: Vec<_> = self.candidates().into_iter().filter(|it| !known.contains(it)).collect();
            self.connect(os, found);
        }
    }

    /// Whether what happened was its own affair.
    pub(super) fn takes(&mut self, os: &mut Os<'_>, event: &Event) -> bool {
        match *event {
            Event::Started | Event::Woken => false,
            Event::Accepted { socket, .. } => {
                if self.over {
                    os.abort(socket);
                } else {
                    self.add(socket, Stage::Proving);
                    self.prove(os, socket);
                }
                true
            }
            Event::Connected(socket) => {
                if let Some(relayed) = self.relayed.as_mut().filter(|it| it.socket == socket) {
                    relayed.ready = true;
                    os.write(socket, &RELAYED);
                    if self.called && self.running.is_some() {
                        self.ask(os);
                    }
                    return true;
                }
                let own = self.has(socket);
                self.prove(os, socket);
                own
            }
            Event::Failed(socket, error) => self.failed(socket, error),
            Event::Readable(socket) => {
                if let Some(relayed) = self.relayed.as_mut().filter(|it| it.socket == socket) {
                    relayed.inbox.fill(os, socket);
                    self.said(os);
                    return true;
                }
                let Some(lane) = self.lanes.iter_mut().find(|lane| lane.socket == socket) else {
                    return false;
                };
                lane.inbox.fill(os, socket);
                self.advance(os, socket);
                true
            }
            Event::Finished(socket) | Event::Broken(socket, _) => {
                let gone = matches!(event, Event::Broken(..));
                let own = self.has(socket) || self.relayed.as_ref().is_some_and(|it| it.socket == socket);
                if own && !gone {
                    os.close(socket);
                }
                self.lanes.retain(|lane| lane.socket != socket);
                self.promised.take_if(|it| *it == socket);
                self.relayed.take_if(|it| it.socket == socket);
                own
            }
        }
    }

    fn has(&self, socket: SocketId) -> bool {
        self.lanes.iter().any(|lane| lane.socket == socket)
    }

    fn add(&mut self, socket: SocketId, stage: Stage) {
        let inbox = Inbox::default();
        self.lanes.push(Lane { socket, stage, inbox, own_salt: [0; SALT], peer_salt: [0; SALT] });
    }

    /// Begins a try: asks through the relay.
    fn ask(&mut self, os: &mut Os<'_>) {
        if let Some(relayed) = self.relayed.as_ref().filter(|it| it.ready && self.asked.is_none()) {
            self.tries += 1;
            self.asked = Some(os.now());
            os.write(relayed.socket, &[CONNECT]);
        }
    }

    /// Hears what came through the relay.
    fn said(&mut self, os: &mut Os<'_>) {
        if self.running.is_none() {
            return;
        }
        while let Some(relayed) = &mut self.relayed
            && let Some([word]) = relayed.inbox.take_array::<1>()
        {
            let now = os.now();
            match (word, self.called) {
                (CONNECT, false) => os.write(relayed.socket, &[CONNECT]),
                (CONNECT, true) => {
                    let took = self.asked.take().map_or(Duration::ZERO, |asked| now - asked);
                    os.write(relayed.socket, &[SYNC]);
                    self.fire_at = Some(now + took / 2 + self.late);
                }
                _ => self.fire_at = Some(now + self.late),
            }
        }
    }

    /// Where the peer may be.
    fn candidates(&self) -> Vec<SocketAddr> {
        let Some(Running { reach, .. }) = &self.running else { return Vec::new() };
        let addresses = &reach.introduction.addresses;
        let mut candidates = first_candidates(addresses, &reach.introduction.public, &reach.here);
        if self.strategy == Strategy::Dcutr {
            candidates.extend(host_candidates(&reach.told.hosts, addresses, &reach.here));
        }
        let mut candidates: Vec<SocketAddr> = candidates.iter().map(|it| it.address).collect();
        candidates.retain(|address| address.is_ipv4() || reach.v6);
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    /// Dials each address that is known; what an earlier try left is given up.
    fn dial(&mut self, os: &mut Os<'_>) {
        for lane in self.lanes.extract_if(.., |lane| lane.stage == Stage::Dialling) {
            os.close(lane.socket);
        }
        self.incoming = false;
        self.refused = false;
        self.fired = true;
        self.connect(os, self.candidates());
        // Who has one try waits until the end.
        self.try_ends = (self.strategy == Strategy::Dcutr).then(|| os.now() + TRY_WITHIN);
    }

    fn connect(&mut self, os: &mut Os<'_>, candidates: Vec<SocketAddr>) {
        let Some(Running { reach, .. }) = &self.running else { return };
        let [v4, v6] = reach.sources;
        let port = reach.here.port;
        let mut dialled = Vec::new();
        for remote in candidates {
            let source = plan::source(if remote.is_ipv4() { v4 } else { v6 }, remote);
            match os.connect(remote, ConnectOptions { source, port, ttl: None }) {
                Ok(socket) => dialled.push(socket),
                Err(SocketError::AddressNotAvailable | SocketError::AddressInUse) => self.incoming = true,
                Err(
                    SocketError::Refused
                    | SocketError::Reset
                    | SocketError::HostUnreachable
                    | SocketError::NetUnreachable
                    | SocketError::Prohibited
                    | SocketError::TimedOut
                    | SocketError::TooManyFiles,
                ) => {}
            }
        }
        for socket in dialled {
            self.add(socket, Stage::Dialling);
        }
    }

    fn failed(&mut self, socket: SocketId, error: SocketError) -> bool {
        if self.relayed.take_if(|it| it.socket == socket).is_some() {
            return true;
        }
        let own = self.has(socket);
        self.refused |= own;
        self.incoming |= own && matches!(error, SocketError::AddressNotAvailable | SocketError::AddressInUse);
        self.lanes.retain(|lane| lane.socket != socket);
        own
    }

    /// Says who this is on a connection that stands.
    fn prove(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let single = self.lanes.len() == 1 && self.promised.is_none() && self.candidates().len() == 1;
        let Some(running) = &self.running else { return };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.socket == socket) else { return };
        lane.stage = Stage::Proving;
        lane.own_salt = LaneKeys::salt(&mut self.random);
        if let Ok(mut out) = preamble(&running.own_tag, &lane.own_salt, &[]) {
            let nominates = running.controlling && single;
            self.promised = nominates.then_some(socket).or(self.promised);
            Record::Confirm { nominates, mapped: false, birthday: false }.write(&mut out);
            os.write(socket, &out);
        }
    }

    /// Goes on as far as what came in allows.
    fn advance(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(Running { peer_tag, controlling, .. }) = &self.running else { return };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.socket == socket) else { return };
        if lane.stage == Stage::Proving {
            if lane.peer_salt == [0; SALT] {
                let Some(head) = lane.inbox.take_array::<PREAMBLE>() else { return };
                match parse_preamble(&head) {
                    Ok((tag, salt, 0)) if tag == *peer_tag => lane.peer_salt = salt,
                    Ok(_) | Err(_) => {
                        os.abort(socket);
                        return self.lanes.retain(|lane| lane.socket != socket);
                    }
                }
            }
            let Ok(Some(Record::Confirm { nominates, .. })) = lane.inbox.record() else { return };
            lane.stage = Stage::Verified;
            if nominates || self.promised == Some(socket) {
                self.chosen = self.chosen.or(Some(socket));
            } else if *controlling && self.chosen.is_none() && self.promised.is_none() {
                self.chosen = Some(socket);
                let mut out = Vec::new();
                Record::Nominate.write(&mut out);
                return os.write(socket, &out);
            }
        }
        if lane.stage == Stage::Verified && !*controlling && self.chosen.is_none() {
            let Ok(Some(Record::Nominate)) = lane.inbox.record() else { return };
            self.chosen = Some(socket);
        }
    }

    /// Does what is due; the end, once.
    pub(super) fn drive(&mut self, os: &mut Os<'_>) -> Option<Done> {
        if self.over {
            return None;
        }
        let now = os.now();
        let deadline = self.running.as_ref()?.deadline;
        if self.fire_at.take_if(|at| *at <= now).is_some() {
            self.dial(os);
        }
        let failed = self.refused && !self.incoming && self.lanes.is_empty();
        if self.try_ends.take_if(|ends| failed || *ends <= now).is_some() && self.called {
            if self.tries < TRIES {
                self.ask(os);
            } else {
                return Some(self.end(os));
            }
        }
        (self.chosen.is_some() || deadline <= now).then(|| self.end(os))
    }

    fn end(&mut self, os: &mut Os<'_>) -> Done {
        self.over = true;
        let chosen = self.lanes.iter().position(|lane| Some(lane.socket) == self.chosen);
        let chosen = chosen.map(|at| self.lanes.swap_remove(at));
        for lane in self.lanes.drain(..) {
            drop_stream(os, lane.socket, &lane.inbox);
        }
        if let Some(relayed) = self.relayed.take() {
            os.close(relayed.socket);
        }
        let ends = |lane: &Lane| os.local(lane.socket).zip(os.remote(lane.socket));
        match (chosen.and_then(|lane| Some((ends(&lane)?, lane))), &self.running) {
            (Some(((local, remote), lane)), Some(Running { reach, .. })) => {
                let sides = [
                    translated(reach.profile, local, &reach.here.observed),
                    translated(reach.introduction.profile, remote, &reach.told.hosts),
                ];
                let path = Path::of(local, remote, sides);
                let Lane { socket, inbox, own_salt, peer_salt, .. } = lane;
                Done::Connected { path, salts: (own_salt, peer_salt), socket, inbox }
            }
            _ => Done::NoPath,
        }
    }

    /// When it wants to be driven again.
    pub(super) fn wait(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let deadline = self.running.as_ref().map(|it| it.deadline);
        [self.fire_at, self.try_ends, deadline].into_iter().flatten().min()
    }
}
