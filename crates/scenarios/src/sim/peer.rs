//! A peer on a simulated host: registration, a code, and the attempt, as the library `tcpunch` does them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use natlab::Time;
use natlab::sim::{ConnectOptions, Event, Os, SocketError, SocketId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tcpunch_core::candidate::{Scope, Surroundings, is_plausible, scope};
use tcpunch_core::code::Verb;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{
    LINK_PING_EVERY, LINK_WITHIN, MAX_HOST_CANDIDATES, MAX_OBSERVED, NEXT_ADDRESS_AFTER, PORT_FIRST,
    PORT_LAST, PORT_TRIES, TAG_WITHIN, UNKNOWN_ACCEPTED, UNKNOWN_ACCEPTED_PER_ADDRESS,
};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::{NatProfile, Sample, classify};
use tcpunch_core::rendezvous::subscriber;
use tcpunch_core::secure::{PREAMBLE, Pattern, Payload, SALT, SHARE, Tag, Told, parse_preamble};
use tcpunch_core::survey::Observer;
use tcpunch_core::wire::{ClaimId, FromBroker, Introduction, Met, Preface, Signal, ToBroker, Welcome};

use super::attempt::{Arrival, Attempt, Dial, Ended, Reach, Salts, drop_stream};
use super::clock::Clock;
use super::observe::Observations;
use super::others::{Done, Other, Strategy};
use super::wire::{self, Inbox, Malformed, Record};
use crate::Outcome;

/// What a peer comes to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Opens a code and waits.
    Waiter,
    /// Claims the code with this number as soon as its link stands.
    Arriver(u32),
}

pub(super) struct Setup {
    pub(super) clock: Clock,
    pub(super) part: Part,
    /// Where the broker is, IPv6 first.
    pub(super) brokers: Vec<SocketAddr>,
    pub(super) v6: bool,
    pub(super) late: Duration,
    pub(super) timeout: Duration,
    pub(super) rules: Rules,
    pub(super) strategy: Strategy,
    /// Where its routers forward its port to it; the port is the same outside.
    pub(super) mapped: Option<SocketAddr>,
    pub(super) seed: u64,
}

/// A connection to the broker that is to become a link.
struct Try {
    socket: SocketId,
    remote: SocketAddr,
    until: Time,
    inbox: Inbox,
}

struct Link {
    socket: SocketId,
    remote: SocketAddr,
    local: SocketAddr,
    inbox: Inbox,
    observed: Option<SocketAddr>,
    observer: Option<Observer>,
    heard: Time,
    pinged: Time,
}

/// Who came in and has not shown a tag that somebody expects.
struct Stranger {
    socket: SocketId,
    remote: SocketAddr,
    until: Time,
    inbox: Inbox,
    head: Option<(Tag, [u8; SALT])>,
}

/// The connection that was handed to the user.
pub(super) struct Handed {
    socket: SocketId,
    inbox: Inbox,
    pub(super) salts: Salts,
    /// The other side's record came.
    pub(super) heard: bool,
    /// It broke, or the other side closed it.
    pub(super) over: bool,
}

/// Somebody showed that it has the words, or is about to.
struct Meeting {
    claim: ClaimId,
    peer: PublicKey,
    told: Told,
}

pub(super) struct PeerAgent {
    setup: Setup,
    key: PublicKey,
    random: ChaCha8Rng,
    port: u16,
    waiting: VecDeque<SocketAddr>,
    next_address: Option<Time>,
    tries: Vec<Try>,
    links: Vec<Link>,
    profile: NatProfile,
    observations: Option<Observations>,
    /// When the broker first said where it sees this peer.
    pub(super) welcomed: Option<Time>,
    /// What was known of the own network, and since when.
    pub(super) learnt: Vec<(Time, NatProfile)>,
    strangers: Vec<Stranger>,
    meeting: Option<Meeting>,
    attempt: Option<Attempt>,
    /// In the place of an attempt, where others' ways are followed.
    other: Option<Box<Other>>,
    go_at: Option<Time>,
    /// Further rounds, when they are heard of.
    rounds: Vec<(Time, u8, SocketAddr)>,
    /// Until when the broker must have introduced somebody.
    patience: Option<Time>,
    introduced: bool,
    introduced_at: Time,
    pub(super) number: Option<u32>,
    pub(super) claimed: Option<Time>,
    pub(super) ended: Option<(Outcome, Time)>,
    pub(super) handed: Option<Handed>,
    pub(super) dials: Vec<Dial>,
    pub(super) syns: u32,
    pub(super) finishes: u32,
    pub(super) most_sockets: usize,
    /// What the peer knew of itself when it was introduced, and where the broker saw the other.
    pub(super) here: Option<(Surroundings, Vec<SocketAddr>)>,
    /// The host candidates that it was told.
    pub(super) told: Vec<SocketAddr>,
}

impl PeerAgent {
    pub(super) fn new(setup: Setup) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(setup.seed);
        let others = ChaCha8Rng::seed_from_u64(setup.seed.rotate_left(32));
        Self {
            other: Other::of(setup.strategy, setup.part == Part::Waiter, setup.late, others),
            key: PublicKey(random.random()),
            random,
            port: 0,
            waiting: setup.brokers.iter().copied().filter(|it| it.is_ipv4() || setup.v6).collect(),
            next_address: None,
            tries: Vec::new(),
            links: Vec::new(),
            profile: NatProfile::default(),
            observations: None,
            welcomed: None,
            learnt: Vec::new(),
            strangers: Vec::new(),
            meeting: None,
            attempt: None,
            go_at: None,
            rounds: Vec::new(),
            patience: None,
            introduced: false,
            introduced_at: Time::ZERO,
            number: None,
            claimed: None,
            ended: None,
            handed: None,
            dials: Vec::new(),
            syns: 0,
            finishes: 0,
            most_sockets: 0,
            here: None,
            told: Vec::new(),
            setup,
        }
    }

    /// Whether all is learnt of the own network that can be.
    pub(super) fn is_surveyed(&self) -> bool {
        self.observations.as_ref().is_some_and(|it| it.deadline().is_none())
    }

    pub(super) fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        let knock = match event {
            Event::Accepted { listener, .. } => {
                self.observations.as_ref().is_some_and(|it| it.listens(listener))
            }
            _ => false,
        };
        if !knock && self.other.as_mut().is_some_and(|it| it.takes(os, &event)) {
            return self.settle(os);
        }
        match event {
            Event::Started => self.start(os),
            Event::Woken => {}
            Event::Accepted { .. } if knock => {}
            Event::Accepted { socket, .. } => self.accepted(os, socket),
            Event::Connected(socket) => self.connected(os, socket),
            Event::Failed(socket, error) => self.failed(os, socket, error),
            Event::Readable(socket) => self.readable(os, socket),
            Event::Finished(socket) => self.closed(os, socket, false),
            Event::Broken(socket, _) => self.closed(os, socket, true),
        }
        self.settle(os);
    }

    fn start(&mut self, os: &mut Os<'_>) {
        for _ in 0..PORT_TRIES {
            let free = self.random.random_range(PORT_FIRST..=PORT_LAST);
            let port = self.setup.mapped.map_or(free, |mapped| mapped.port());
            match os.listen(port) {
                Ok(_) => {
                    self.port = port;
                    if let Some(other) = &mut self.other {
                        other.start(os, self.waiting.make_contiguous());
                    }
                    return self.next_address(os);
                }
                Err(SocketError::AddressInUse) => {}
                Err(error) => return self.broken(os, format!("it can't listen: {error:?}")),
            }
        }
        self.broken(os, "no port is free".to_owned());
    }

    fn broken(&mut self, os: &Os<'_>, what: String) {
        if self.ended.is_none() {
            self.ended = Some((Outcome::Broken(what), os.now()));
        }
    }

    /// Tries the broker's next address.
    fn next_address(&mut self, os: &mut Os<'_>) {
        self.next_address = None;
        while let Some(remote) = self.waiting.pop_front() {
            let options = ConnectOptions { source: None, port: self.port, ttl: None };
            if let Ok(socket) = os.connect(remote, options) {
                let until = os.now() + LINK_WITHIN;
                self.tries.push(Try { socket, remote, until, inbox: Inbox::default() });
                if !self.waiting.is_empty() && self.links.is_empty() {
                    self.next_address = Some(os.now() + NEXT_ADDRESS_AFTER);
                }
                return;
            }
        }
    }

    /// A try came to nothing.
    fn tried(&mut self, os: &mut Os<'_>) {
        if self.links.is_empty() || self.tries.is_empty() {
            self.next_address(os);
        }
        if self.links.is_empty() && self.tries.is_empty() {
            self.broken(os, "no broker answers".to_owned());
        }
    }

    fn connected(&mut self, os: &mut Os<'_>, socket: SocketId) {
        if self.tries.iter().any(|it| it.socket == socket) {
            let mut out = Preface::Link(Pattern::Xx).encode().to_vec();
            wire::hello(&mut out, &self.key);
            os.write(socket, &out);
        } else if let Some(observations) = self.observations.as_mut().filter(|it| it.has(socket)) {
            observations.connected(os, socket);
        } else if let Some(attempt) = &mut self.attempt {
            attempt.connected(os, socket);
        }
    }

    fn failed(&mut self, os: &mut Os<'_>, socket: SocketId, error: SocketError) {
        if let Some(at) = self.tries.iter().position(|it| it.socket == socket) {
            self.tries.swap_remove(at);
            self.tried(os);
        } else if let Some(observations) = self.observations.as_mut().filter(|it| it.has(socket)) {
            observations.failed(socket);
        } else if let Some(attempt) = &mut self.attempt {
            attempt.refused(os, socket, error);
        }
    }

    fn closed(&mut self, os: &mut Os<'_>, socket: SocketId, gone: bool) {
        if let Some(at) = self.tries.iter().position(|it| it.socket == socket) {
            self.tries.swap_remove(at);
            if !gone {
                os.close(socket);
            }
            self.tried(os);
        } else if let Some(at) = self.links.iter().position(|it| it.socket == socket) {
            self.links.swap_remove(at);
            if !gone {
                os.abort(socket);
            }
            if self.links.is_empty() && self.attempt.is_none() {
                self.broken(os, "the link to the broker was lost".to_owned());
            }
        } else if let Some(at) = self.strangers.iter().position(|it| it.socket == socket) {
            // Whoever waits with a tag is not read from.
            if gone || self.strangers.get(at).is_some_and(|it| it.head.is_none()) {
                let stranger = self.strangers.swap_remove(at);
                if !gone {
                    drop_stream(os, socket, &stranger.inbox);
                }
            }
        } else if let Some(handed) = self.handed.as_mut().filter(|it| it.socket == socket) {
            handed.over = true;
        } else if let Some(observations) = self.observations.as_mut().filter(|it| it.has(socket)) {
            observations.closed(os, socket, gone);
        } else if let Some(attempt) = self.attempt.as_mut().filter(|it| it.has(socket)) {
            attempt.ended(os, socket, gone);
        } else if !gone {
            os.close(socket);
        }
    }

    fn readable(&mut self, os: &mut Os<'_>, socket: SocketId) {
        if self.attempt.as_ref().is_some_and(|it| it.has(socket)) {
            if let Some(attempt) = &mut self.attempt {
                attempt.readable(os, socket);
            }
        } else if let Some(at) = self.links.iter().position(|it| it.socket == socket) {
            if let Some(link) = self.links.get_mut(at) {
                link.inbox.fill(os, socket);
                link.heard = os.now();
            }
            self.messages(os, socket);
        } else if let Some(at) = self.tries.iter().position(|it| it.socket == socket) {
            self.answered(os, at);
        } else if let Some(stranger) = self.strangers.iter_mut().find(|it| it.socket == socket) {
            if stranger.head.is_none() {
                stranger.inbox.fill(os, socket);
                self.admit(os, socket);
            }
        } else if let Some(handed) = self.handed.as_mut().filter(|it| it.socket == socket) {
            handed.read(os);
        }
    }

    /// The broker's handshake message may be there.
    fn answered(&mut self, os: &mut Os<'_>, at: usize) {
        let Some(attempt) = self.tries.get_mut(at) else { return };
        attempt.inbox.fill(os, attempt.socket);
        match attempt.inbox.answer() {
            Ok(None) => {}
            Ok(Some(welcome)) => {
                let Try { socket, remote, inbox, .. } = self.tries.swap_remove(at);
                let Some(local) = os.local(socket) else { return };
                self.link_up(
                    os,
                    Link {
                        socket,
                        remote,
                        local,
                        inbox,
                        observed: None,
                        observer: None,
                        heard: os.now(),
                        pinged: os.now(),
                    },
                    &welcome,
                );
            }
            Err(Malformed) => {
                let lost = self.tries.swap_remove(at);
                drop_stream(os, lost.socket, &lost.inbox);
                self.tried(os);
            }
        }
    }

    fn link_up(&mut self, os: &mut Os<'_>, link: Link, welcome: &Welcome) {
        let first = self.links.is_empty();
        let socket = link.socket;
        let mut out = Vec::new();
        wire::proof(&mut out);
        wire::message(&mut out, &ToBroker::Register { profile: self.profile });
        self.links.push(link);
        if !first {
            os.write(socket, &out);
            return self.welcome(os, self.links.len() - 1, welcome);
        }
        self.next_address = None;
        self.patience = Some(os.now() + self.setup.timeout);
        match self.setup.part {
            Part::Waiter => {
                wire::message(&mut out, &ToBroker::Open { request: 0, verb: Verb::Listen, again: None })
            }
            Part::Arriver(number) => {
                wire::message(&mut out, &ToBroker::Claim { number, verb: Verb::Connect });
                self.claimed = Some(os.now());
            }
        }
        os.write(socket, &out);
        self.welcome(os, self.links.len() - 1, welcome);
        // The other family is tried only now, unless it is under way already.
        if self.tries.is_empty() {
            self.next_address(os);
        }
    }

    fn say(&mut self, os: &mut Os<'_>, message: &ToBroker) {
        if let Some(link) = self.links.first() {
            let mut out = Vec::new();
            wire::message(&mut out, message);
            os.write(link.socket, &out);
        }
    }

    fn messages(&mut self, os: &mut Os<'_>, socket: SocketId) {
        while let Some(at) = self.links.iter().position(|it| it.socket == socket) {
            let Some(link) = self.links.get_mut(at) else { return };
            match link.inbox.message::<FromBroker>() {
                Ok(Some(message)) => self.message(os, at, message),
                Ok(None) => return,
                Err(Malformed) => return self.closed(os, socket, false),
            }
        }
    }

    fn message(&mut self, os: &mut Os<'_>, link: usize, message: FromBroker) {
        match message {
            FromBroker::Observed { question, from } => {
                if let Some(observations) = &mut self.observations {
                    observations.observed(os, question, from);
                }
            }
            FromBroker::Knocked { question, elsewhere, answer } => {
                if let Some(observations) = &mut self.observations {
                    observations.knocked(question, elsewhere, answer);
                }
            }
            FromBroker::Opened { number, .. } => {
                self.number = Some(number);
                // The code is told to the other side by hand: that takes as long as it takes.
                self.patience = None;
                self.say(os, &ToBroker::Wait { number, share: vec![0; SHARE] });
            }
            FromBroker::Claimed { claim, waiter, .. } => {
                let handshake = self.own_handshake(os);
                self.meeting = Some(Meeting { claim, peer: waiter, told: Told::default() });
                self.say(os, &ToBroker::Prove { claim, share: vec![0; SHARE], handshake });
            }
            FromBroker::Proof { claim, peer, handshake, .. } => {
                let Ok(payload) = wire::payload(&handshake) else {
                    return self.broken(os, "the proof is malformed".to_owned());
                };
                let handshake = self.own_handshake(os);
                self.meeting = Some(Meeting { claim, peer, told: payload.told });
                self.say(os, &ToBroker::Accept { claim, handshake });
            }
            FromBroker::Introduced(introduction) => self.introduced(os, introduction),
            FromBroker::SeenAt { introduction, address } => {
                if let Some(attempt) = self.running(introduction) {
                    attempt.seen_at(os, address);
                }
                if let Some(other) = &mut self.other {
                    other.seen_at(os, address);
                }
            }
            FromBroker::ProfileOf { introduction, profile } => {
                if let Some(attempt) = self.running(introduction) {
                    attempt.peer_profile(os, profile);
                }
            }
            FromBroker::Go { introduction } => {
                let late = self.setup.late;
                if self.running(introduction).is_some() || self.other.is_some() {
                    self.go_at = Some(os.now() + late);
                }
            }
            FromBroker::Ping(number) => {
                if let Some(link) = self.links.get(link) {
                    let mut out = Vec::new();
                    wire::message(&mut out, &ToBroker::Pong(number));
                    os.write(link.socket, &out);
                }
            }
            FromBroker::Refused { about, refusal } => {
                self.broken(os, format!("the broker refuses {about:?}: {refusal:?}"));
            }
            FromBroker::Expired { .. } | FromBroker::WrongWords { .. } | FromBroker::Gone { .. } => {
                self.broken(os, "the code was of no use".to_owned());
            }
            FromBroker::RoundWanted { introduction, round } => {
                if let Some(attempt) = self.running(introduction) {
                    attempt.round_wanted(os, round);
                }
            }
            FromBroker::Round { introduction, round, peer } => {
                let late = self.setup.late;
                if self.running(introduction).is_some() {
                    self.rounds.push((os.now() + late, round, peer));
                }
            }
            FromBroker::Relayed { introduction, signal: Signal::Word { round, word } } => {
                if let Some(attempt) = self.running(introduction) {
                    attempt.peer_says(os, round, word);
                }
            }
            FromBroker::Relayed { .. }
            | FromBroker::Joined { .. }
            | FromBroker::Left { .. }
            | FromBroker::Pong(_) => {}
        }
    }

    fn running(&mut self, introduction: u64) -> Option<&mut Attempt> {
        self.attempt.as_mut().filter(|it| it.introduction() == introduction)
    }

    fn gateways(os: &Os<'_>) -> Vec<IpAddr> {
        os.router(true).into_iter().collect()
    }

    fn welcome(&mut self, os: &mut Os<'_>, link: usize, welcome: &Welcome) {
        let Welcome { observed, token, ref probes, .. } = *welcome;
        let Some(link) = self.links.get_mut(link) else { return };
        let (remote, local) = (link.remote, link.local);
        if !is_plausible(observed.ip(), local.ip(), remote.ip(), &Self::gateways(os)) {
            return;
        }
        link.observed = Some(observed);
        link.observer = Some(Observer::new(remote, probes, token));
        let observers = [self.observer(true), self.observer(false)];
        if let Some(attempt) = &mut self.attempt {
            attempt.observers(os, observers);
        }
        let door = Sample { local, destination: remote, observed };
        if remote.is_ipv4() {
            self.learnt(os, classify(&[door]));
        }
        if self.observations.is_none() {
            let clock = self.setup.clock;
            self.observations = Observations::begin(os, clock, door, probes, token, &mut self.random);
            self.welcomed.get_or_insert(os.now());
        }
    }

    fn learnt(&mut self, os: &mut Os<'_>, profile: NatProfile) {
        if std::mem::replace(&mut self.profile, profile) != profile {
            self.learnt.push((os.now(), profile));
            self.say(os, &ToBroker::Profile(profile));
            if let Some(attempt) = &mut self.attempt {
                attempt.own_profile(os, profile);
            }
        }
    }

    fn observer(&self, v4: bool) -> Option<Observer> {
        self.links.iter().find(|it| it.remote.is_ipv4() == v4)?.observer.clone()
    }

    fn own_handshake(&self, os: &Os<'_>) -> Vec<u8> {
        let addresses = os.addresses().iter().map(|(ip, _)| SocketAddr::new(*ip, self.port));
        let mut hosts: Vec<SocketAddr> = addresses
            .filter(|address| self.setup.v6 || address.is_ipv4())
            .filter(|address| scope(address.ip()) != Scope::Loopback)
            .collect();
        hosts.sort_by_key(|address| (scope(address.ip()), address.is_ipv6()));
        hosts.truncate(MAX_HOST_CANDIDATES);
        wire::handshake(&Payload { told: Told { hosts, mapped: self.setup.mapped }, ..Payload::default() })
    }

    fn introduced(&mut self, os: &mut Os<'_>, mut introduction: Introduction) {
        introduction.addresses.truncate(MAX_OBSERVED);
        introduction.public.truncate(MAX_OBSERVED);
        if self.attempt.is_some() || self.introduced {
            return;
        }
        let Some(meeting) = self.meeting.take() else { return };
        let told = match &introduction.meeting {
            Met::CodeArriver { claim, answer } if *claim == meeting.claim => {
                wire::payload(answer).map(|payload| payload.told)
            }
            Met::CodeWaiter { claim } if *claim == meeting.claim => Ok(meeting.told),
            Met::CodeArriver { .. }
            | Met::CodeWaiter { .. }
            | Met::LobbyArriver { .. }
            | Met::LobbyWaiter { .. } => Err(Malformed),
        };
        let Ok(told) = told else {
            return self.broken(os, "the introduction is malformed".to_owned());
        };
        if introduction.peer != meeting.peer {
            return self.broken(os, "somebody else was introduced".to_owned());
        }
        let here = Surroundings {
            interfaces: os.addresses().to_vec(),
            port: self.port,
            observed: self.links.iter().filter_map(|it| it.observed).collect(),
            brokers: self.links.iter().map(|it| it.remote).collect(),
            gateways: Self::gateways(os),
        };
        let source = |v4: bool| self.links.iter().map(|it| it.local.ip()).find(|ip| ip.is_ipv4() == v4);
        self.here = Some((here.clone(), introduction.addresses.clone()));
        self.told = told.hosts.clone();
        self.introduced = true;
        self.introduced_at = os.now();
        self.patience = None;
        let reach = Reach {
            clock: self.setup.clock,
            own: self.key,
            introduction,
            introduced: os.now(),
            timeout: self.setup.timeout,
            told,
            here,
            sources: [source(true), source(false)],
            v6: self.setup.v6,
            profile: self.profile,
            observers: [self.observer(true), self.observer(false)],
            rules: self.setup.rules,
        };
        if let Some(other) = &mut self.other {
            return other.begin(os, reach);
        }
        let mut random = || ChaCha8Rng::seed_from_u64(self.random.random());
        let random = (random(), random());
        self.attempt = Some(Attempt::new(reach, random));
        // The other side may have heard of the introduction before this one.
        let early: Vec<SocketId> = self.strangers.iter().map(|it| it.socket).collect();
        for socket in early {
            self.admit(os, socket);
        }
    }

    fn accepted(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(remote) = os.remote(socket) else { return };
        let from = subscriber(remote.ip());
        let same = |it: &Stranger| subscriber(it.remote.ip()) == from;
        let crowded = self.strangers.iter().filter(|it| same(it)).count() >= UNKNOWN_ACCEPTED_PER_ADDRESS;
        let oldest = if crowded {
            self.strangers.iter().position(same)
        } else {
            (self.strangers.len() >= UNKNOWN_ACCEPTED).then_some(0)
        };
        if let Some(oldest) = oldest {
            let lost = self.strangers.remove(oldest);
            drop_stream(os, lost.socket, &lost.inbox);
        }
        let until = os.now() + TAG_WITHIN;
        self.strangers.push(Stranger { socket, remote, until, inbox: Inbox::default(), head: None });
    }

    /// Hands a connection over to the attempt whose tag it shows.
    fn admit(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(at) = self.strangers.iter().position(|it| it.socket == socket) else { return };
        let Some(stranger) = self.strangers.get_mut(at) else { return };
        if stranger.head.is_none() {
            let Some(head) = stranger.inbox.take_array::<PREAMBLE>() else { return };
            match parse_preamble(&head) {
                Ok((tag, salt, 0)) => stranger.head = Some((tag, salt)),
                Ok(_) | Err(_) => {
                    let lost = self.strangers.swap_remove(at);
                    return drop_stream(os, socket, &lost.inbox);
                }
            }
        }
        let Some((tag, salt)) = stranger.head else { return };
        if let Some(attempt) = self.attempt.as_mut().filter(|it| it.expects(&tag)) {
            let Stranger { socket, remote, inbox, .. } = self.strangers.remove(at);
            attempt.arrived(os, Arrival { socket, remote, salt, inbox });
            // What came after the head is in the inbox, or still in the socket.
            attempt.readable(os, socket);
        }
    }

    fn settle(&mut self, os: &mut Os<'_>) {
        self.timers(os);
        self.drive(os);
        if let Some(at) = self.next_wake() {
            os.wake_at(at);
        }
    }

    fn drive_other(&mut self, os: &mut Os<'_>) {
        let Some(done) = self.other.as_mut().and_then(|it| it.drive(os)) else { return };
        let elapsed = os.now() - self.introduced_at;
        let outcome = match done {
            Done::Connected { path, salts, socket, inbox } => {
                let mut handed = Handed { socket, inbox, salts, heard: false, over: false };
                handed.greet(os);
                self.handed = Some(handed);
                Outcome::Connected { path, elapsed }
            }
            Done::NoPath => Outcome::NoPath { reason: "nothing more to try".to_owned(), elapsed },
        };
        if self.ended.is_none() {
            self.ended = Some((outcome, os.now()));
        }
    }

    fn drive(&mut self, os: &mut Os<'_>) {
        self.drive_other(os);
        let Some(attempt) = &mut self.attempt else { return };
        let ended = attempt.drive(os);
        let say = std::mem::take(&mut attempt.say);
        self.syns = attempt.syns();
        self.finishes = attempt.finishes();
        self.most_sockets = attempt.most_sockets();
        for message in &say {
            self.say(os, message);
        }
        let Some(attempt) = &mut self.attempt else { return };
        let Some(ended) = ended else { return };
        let elapsed = os.now() - attempt.introduced();
        self.dials = std::mem::take(&mut attempt.dials);
        if let Some((_, addresses)) = &mut self.here {
            *addresses = attempt.peer_addresses();
        }
        self.attempt = None;
        self.go_at = None;
        let outcome = match ended {
            Ended::Connected { path, salts, socket, inbox } => {
                let mut handed = Handed { socket, inbox, salts, heard: false, over: false };
                handed.greet(os);
                self.handed = Some(handed);
                Outcome::Connected { path, elapsed }
            }
            Ended::NoPath(obstacle) => Outcome::NoPath { reason: obstacle.reason(), elapsed },
        };
        if self.ended.is_none() {
            self.ended = Some((outcome, os.now()));
        }
    }

    /// Does what is due.
    fn timers(&mut self, os: &mut Os<'_>) {
        let now = os.now();
        if self.next_address.is_some_and(|at| at <= now) {
            self.next_address(os);
        }
        while let Some(at) = self.tries.iter().position(|it| it.until <= now) {
            let lost = self.tries.swap_remove(at);
            drop_stream(os, lost.socket, &lost.inbox);
            self.tried(os);
        }
        while let Some(at) = self.strangers.iter().position(|it| it.until <= now) {
            let lost = self.strangers.remove(at);
            drop_stream(os, lost.socket, &lost.inbox);
        }
        let random = &mut self.random;
        if let Some(profile) = self.observations.as_mut().and_then(|it| it.drive(os, random)) {
            self.learnt(os, profile);
        }
        if self.go_at.is_some_and(|at| at <= now) {
            self.go_at = None;
            if let Some(attempt) = &mut self.attempt {
                attempt.go(os);
            }
            if let Some(other) = &mut self.other {
                other.go(os);
            }
        }
        while let Some(at) = self.rounds.iter().position(|(at, ..)| *at <= now) {
            let (_, round, peer) = self.rounds.remove(at);
            if let Some(attempt) = &mut self.attempt {
                attempt.round(os, round, peer);
            }
        }
        if self.patience.is_some_and(|at| at <= now) {
            self.patience = None;
            self.broken(os, "the broker did not introduce anybody in time".to_owned());
        }
        let mut ping = Vec::new();
        for link in &mut self.links {
            if link.heard.max(link.pinged) + LINK_PING_EVERY <= now {
                link.pinged = now;
                ping.push(link.socket);
            }
        }
        for socket in ping {
            let mut out = Vec::new();
            wire::message(&mut out, &ToBroker::Ping(0));
            os.write(socket, &out);
        }
    }

    fn next_wake(&self) -> Option<Time> {
        let tries = self.tries.iter().map(|it| it.until);
        let strangers = self.strangers.iter().map(|it| it.until);
        let links = self.links.iter().map(|it| it.heard.max(it.pinged) + LINK_PING_EVERY);
        let others = [
            self.next_address,
            self.go_at,
            self.patience,
            self.observations.as_ref().and_then(Observations::deadline),
            self.attempt.as_ref().map(Attempt::wait),
            self.other.as_ref().and_then(|it| it.wait()),
        ];
        let rounds = self.rounds.iter().map(|(at, ..)| *at);
        tries.chain(strangers).chain(links).chain(rounds).chain(others.into_iter().flatten()).min()
    }
}

impl Handed {
    fn greet(&mut self, os: &mut Os<'_>) {
        let mut out = Vec::new();
        Record::Data.write(&mut out);
        os.write(self.socket, &out);
        self.read(os);
    }

    fn read(&mut self, os: &mut Os<'_>) {
        self.inbox.fill(os, self.socket);
        while let Ok(Some(record)) = self.inbox.record() {
            self.heard |= record == Record::Data;
        }
    }
}
