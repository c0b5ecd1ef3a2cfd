//! The broker as a state machine: who is registered, who may meet whom, introductions and Go.
//!
//! Values only: a driver feeds it links and messages with the time, and carries out what it says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{CryptoRng, Rng, RngCore};

use crate::candidate::{Scope, scope};
use crate::code::Verb;
use crate::identity::PublicKey;
use crate::limits::{
    BROKER_CODES, BROKER_LINKS, BROKER_LINKS_PER_ADDRESS, CLAIM_LIFE, CLAIM_WINDOW, CLAIMS_PER_ADDRESS,
    CLAIMS_PER_CODE, CODE_LIFE, CODES_PER_SESSION, GO_DELAY_MOST, INTRODUCTION_LIFE, INTRODUCTION_WINDOW,
    INTRODUCTIONS_PER_ADDRESS, LINK_DEAD_AFTER, LOBBY_MEMBERS, MAX_HANDSHAKE, MAX_OBSERVED, MAX_RELAYED,
    NUMBER_FIRST, NUMBER_LAST, NUMBERS_PER_CODE, PROFILES_PER_SESSION, RATE_ENTRIES, UNKNOWN_ROUND_TRIP,
};
use crate::profile::NatProfile;
use crate::secure::{SHARE, Share};
use crate::wire::{
    About, ClaimId, FromBroker, Introduction, IntroductionId, Met, ObservationToken, Refusal, Signal,
    ToBroker,
};

/// Names a link; the driver never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// How the broker is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of the lobby; 0 turns it off.
    pub lobby: usize,
    /// Where peers reach this broker, best first.
    pub advertised: Vec<String>,
    /// Addresses under which peers beside this broker appear from outside.
    pub public: Vec<IpAddr>,
    /// Ports that answer observations, beside the one of the link.
    pub probe_ports: Vec<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Config { lobby: LOBBY_MEMBERS, advertised: Vec::new(), public: Vec::new(), probe_ports: Vec::new() }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link finished its handshake.
    LinkUp {
        /// Its name.
        link: LinkId,
        /// The key that the other end proved.
        peer: PublicKey,
        /// Where it comes from.
        observed: SocketAddr,
    },
    /// A message came in.
    Message {
        /// On which link.
        link: LinkId,
        /// What it says.
        message: ToBroker,
        /// Least round trip of the link, as far as its socket knows.
        round_trip: Option<Duration>,
    },
    /// A link is gone.
    LinkDown {
        /// Which.
        link: LinkId,
    },
    /// An observation came in.
    Observation {
        /// On whose behalf.
        token: ObservationToken,
        /// Where it came from.
        from: SocketAddr,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send {
        /// On which link.
        link: LinkId,
        /// What.
        message: Box<FromBroker>,
    },
    /// Close a link, after what was sent on it.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Tell the operator.
    Event(Event),
    /// Nothing more until then, or until something happens.
    Wait(Option<Instant>),
}

/// What an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer has its first link.
    Registered {
        /// Its session key.
        peer: PublicKey,
        /// Where it comes from.
        observed: SocketAddr,
    },
    /// A peer lost its last link.
    Left {
        /// Its session key.
        peer: PublicKey,
    },
    /// Two peers were told of each other.
    Introduced {
        /// Who came, with its addresses.
        arriver: (PublicKey, Vec<SocketAddr>),
        /// Who was there, with its addresses.
        waiter: (PublicKey, Vec<SocketAddr>),
    },
    /// Both were told to fire.
    Go {
        /// Who came.
        arriver: PublicKey,
        /// Who was there.
        waiter: PublicKey,
    },
}

struct Link {
    peer: PublicKey,
    observed: SocketAddr,
    round_trip: Option<Duration>,
    heard: Instant,
}

struct Session {
    links: Vec<LinkId>,
    token: [u8; 8],
    profile: NatProfile,
    in_lobby: bool,
    claims: u32,
    profiles: u8,
}

struct Code {
    owner: PublicKey,
    verb: Verb,
    share: Option<Share>,
    generation: u32,
    checking: Option<ClaimId>,
    waiting: VecDeque<ClaimId>,
    /// Its timer, which goes when the code goes.
    expires: (Instant, u64),
}

struct Claim {
    number: u32,
    arriver: PublicKey,
    generation: u32,
}

struct Introduced {
    sides: [PublicKey; 2],
    relayed: [u8; 2],
    /// Addresses that one side was told of the other; bounded by the links of a session.
    told: Vec<SocketAddr>,
}

impl Introduced {
    fn other(&self, peer: PublicKey) -> Option<PublicKey> {
        let [first, second] = self.sides;
        match peer {
            _ if peer == first => Some(second),
            _ if peer == second => Some(first),
            _ => None,
        }
    }
}

enum Timer {
    Go { introduction: IntroductionId, peer: PublicKey },
    CodeExpires { number: u32 },
    ClaimExpires { claim: ClaimId },
    IntroductionExpires { introduction: IntroductionId },
    Sweep,
}

/// Counts events by address within a window; bounded, and forgetful at its bound.
struct Rates {
    window: Duration,
    most: usize,
    seen: HashMap<IpAddr, (Instant, usize)>,
}

impl Rates {
    fn new(window: Duration, most: usize) -> Self {
        Rates { window, most, seen: HashMap::new() }
    }

    fn allow(&mut self, now: Instant, address: IpAddr) -> bool {
        let window = self.window;
        if self.seen.len() >= RATE_ENTRIES {
            self.seen.retain(|_, (since, _)| now.duration_since(*since) < window);
        }
        let full = self.seen.len() >= RATE_ENTRIES;
        match self.seen.get_mut(&subscriber(address)) {
            Some((since, count)) if now.duration_since(*since) < window => {
                *count += 1;
                *count <= self.most
            }
            Some(entry) => {
                *entry = (now, 1);
                true
            }
            None => {
                // Forgetting one is better than shutting newcomers out.
                let forgotten = full.then(|| self.seen.keys().next().copied()).flatten();
                if let Some(forgotten) = forgotten {
                    self.seen.remove(&forgotten);
                }
                self.seen.insert(subscriber(address), (now, 1));
                true
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        let window = self.window;
        self.seen.retain(|_, (since, _)| now.duration_since(*since) < window);
    }
}

/// What one subscriber holds: an IPv4 address, or an IPv6 /64.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The broker.
pub struct Rendezvous<R> {
    config: Config,
    rng: R,
    links: HashMap<LinkId, Link>,
    per_address: HashMap<IpAddr, usize>,
    sessions: HashMap<PublicKey, Session>,
    tokens: HashMap<[u8; 8], PublicKey>,
    lobby: Vec<PublicKey>,
    codes: HashMap<u32, Code>,
    claims: HashMap<ClaimId, Claim>,
    introductions: HashMap<IntroductionId, Introduced>,
    claim_rates: Rates,
    introduction_rates: Rates,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_number: u64,
    outputs: VecDeque<Output>,
}

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    /// An empty one.
    pub fn new(config: Config, rng: R) -> Self {
        Rendezvous {
            config,
            rng,
            links: HashMap::new(),
            per_address: HashMap::new(),
            sessions: HashMap::new(),
            tokens: HashMap::new(),
            lobby: Vec::new(),
            codes: HashMap::new(),
            claims: HashMap::new(),
            introductions: HashMap::new(),
            claim_rates: Rates::new(CLAIM_WINDOW, CLAIMS_PER_ADDRESS),
            introduction_rates: Rates::new(INTRODUCTION_WINDOW, INTRODUCTIONS_PER_ADDRESS),
            timers: BTreeMap::new(),
            timer_number: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::LinkUp { link, peer, observed } => self.link_up(now, link, peer, observed),
            Input::Message { link, message, round_trip } => {
                let Some(entry) = self.links.get_mut(&link) else {
                    return;
                };
                entry.heard = now;
                if round_trip.is_some() {
                    entry.round_trip = round_trip;
                }
                let peer = entry.peer;
                self.message(now, link, peer, message);
            }
            Input::LinkDown { link } => self.link_down(link),
            Input::Observation { token, from } => self.observation(token, from),
        }
    }

    /// What is to be done next; ends with [`Output::Wait`].
    pub fn poll(&mut self, now: Instant) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            match self.timers.first_entry() {
                Some(entry) if entry.key().0 <= now => {
                    let timer = entry.remove();
                    self.fire(now, timer);
                }
                first => return Output::Wait(first.map(|entry| entry.key().0)),
            }
        }
    }

    /// Whether every table is empty, as it must be once every peer has gone and every time to live
    /// has passed.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
            && self.per_address.is_empty()
            && self.sessions.is_empty()
            && self.tokens.is_empty()
            && self.lobby.is_empty()
            && self.codes.is_empty()
            && self.claims.is_empty()
            && self.introductions.is_empty()
    }

    /// Links at this moment.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    fn at(&mut self, when: Instant, timer: Timer) -> (Instant, u64) {
        self.timer_number += 1;
        let key = (when, self.timer_number);
        self.timers.insert(key, timer);
        key
    }

    fn send(&mut self, link: LinkId, message: FromBroker) {
        self.outputs.push_back(Output::Send { link, message: Box::new(message) });
    }

    fn send_to(&mut self, peer: PublicKey, message: FromBroker) -> bool {
        let link = self.sessions.get(&peer).and_then(|session| session.links.first().copied());
        match link {
            Some(link) => {
                self.send(link, message);
                true
            }
            None => false,
        }
    }

    fn link_up(&mut self, now: Instant, link: LinkId, peer: PublicKey, observed: SocketAddr) {
        let held = self.per_address.get(&subscriber(observed.ip())).copied().unwrap_or(0);
        if self.links.len() >= BROKER_LINKS || held >= BROKER_LINKS_PER_ADDRESS {
            let refusal = if held >= BROKER_LINKS_PER_ADDRESS { Refusal::TooMany } else { Refusal::Full };
            self.send(link, FromBroker::Refused { about: About::Link, refusal });
            self.outputs.push_back(Output::Close { link });
            return;
        }
        if self.links.is_empty() {
            self.at(now + SWEEP_EVERY, Timer::Sweep);
        }
        *self.per_address.entry(subscriber(observed.ip())).or_default() += 1;
        self.links.insert(link, Link { peer, observed, round_trip: None, heard: now });
        let token = match self.sessions.get(&peer) {
            Some(session) => session.token,
            None => self.rng.random(),
        };
        let session = self.sessions.entry(peer).or_insert_with(|| Session {
            links: Vec::new(),
            token,
            profile: NatProfile::default(),
            in_lobby: false,
            claims: 0,
            profiles: 0,
        });
        let first = session.links.is_empty();
        session.links.push(link);
        self.tokens.insert(token, peer);
        let same_family: Vec<LinkId> = session
            .links
            .iter()
            .copied()
            .filter(|other| {
                *other != link
                    && self.links.get(other).is_some_and(|other| {
                        other.observed.ip().to_canonical().is_ipv4() == observed.ip().to_canonical().is_ipv4()
                    })
            })
            .collect();
        let welcome = FromBroker::Welcome {
            observed,
            token,
            advertised: self.config.advertised.clone(),
            probe_ports: self.config.probe_ports.clone(),
        };
        self.send(link, welcome);
        // A peer that comes back begins anew, perhaps from another port: what still runs toward where it was before must
        // not fire at where it is now, or two attempts of one side meet on one 4-tuple and stop each other.
        let second_family = !first && same_family.is_empty();
        for old in same_family {
            self.outputs.push_back(Output::Close { link: old });
            self.link_down(old);
        }
        if first {
            self.outputs.push_back(Output::Event(Event::Registered { peer, observed }));
        }
        if second_family {
            self.tell_new_address(peer, observed);
        }
    }

    /// A second link, over the other family, may come up while the peer is being introduced.
    fn tell_new_address(&mut self, peer: PublicKey, address: SocketAddr) {
        let others: Vec<(IntroductionId, PublicKey)> = self
            .introductions
            .iter_mut()
            .filter(|(_, introduced)| {
                !introduced.told.contains(&address) && introduced.told.len() < 2 * MAX_OBSERVED
            })
            .filter_map(|(id, introduced)| {
                let other = introduced.other(peer)?;
                introduced.told.push(address);
                Some((*id, other))
            })
            .collect();
        for (introduction, other) in others {
            self.send_to(other, FromBroker::SeenAt { introduction, address });
        }
    }

    fn link_down(&mut self, link: LinkId) {
        let Some(entry) = self.links.remove(&link) else {
            return;
        };
        let address = subscriber(entry.observed.ip());
        if let Some(count) = self.per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
        let Some(session) = self.sessions.get_mut(&entry.peer) else {
            return;
        };
        session.links.retain(|other| *other != link);
        if !session.links.is_empty() {
            return;
        }
        let peer = entry.peer;
        let token = session.token;
        let in_lobby = session.in_lobby;
        self.sessions.remove(&peer);
        self.tokens.remove(&token);
        if in_lobby {
            self.lobby.retain(|member| *member != peer);
            for member in self.lobby.clone() {
                self.send_to(member, FromBroker::Left { peer });
            }
        }
        let own: Vec<u32> =
            self.codes.iter().filter(|(_, code)| code.owner == peer).map(|(number, _)| *number).collect();
        for number in own {
            self.remove_code(number);
        }
        self.claims.retain(|_, claim| claim.arriver != peer);
        self.outputs.push_back(Output::Event(Event::Left { peer }));
    }

    fn observation(&mut self, token: ObservationToken, from: SocketAddr) {
        let [a, b, c, d, e, f, g, h, question @ ..] = token;
        if let Some(peer) = self.tokens.get(&[a, b, c, d, e, f, g, h]).copied() {
            self.send_to(peer, FromBroker::Observed { question, from });
        }
    }

    fn message(&mut self, now: Instant, link: LinkId, peer: PublicKey, message: ToBroker) {
        match message {
            ToBroker::Register { profile } | ToBroker::Profile(profile) => {
                self.profile(peer, profile);
            }
            ToBroker::Join { connected, openers } => self.join(now, link, peer, &connected, openers),
            ToBroker::Open { verb, again } => self.open(now, link, peer, verb, again),
            ToBroker::Wait { number, share } => self.wait(peer, number, share),
            ToBroker::Withdraw { number } => {
                if self.codes.get(&number).is_some_and(|code| code.owner == peer) {
                    self.remove_code(number);
                }
            }
            ToBroker::Claim { number, verb } => self.claim(now, link, peer, number, verb),
            ToBroker::Prove { claim, share, handshake } => self.prove(link, peer, claim, share, handshake),
            ToBroker::Accept { claim, handshake } => self.accept(now, peer, claim, handshake),
            ToBroker::Reject { claim, left } => self.reject(peer, claim, left),
            ToBroker::Relay { introduction, signal } => self.relay(peer, introduction, signal),
            ToBroker::Ping(number) => self.send(link, FromBroker::Pong(number)),
            ToBroker::Pong(_) => {}
        }
    }

    fn profile(&mut self, peer: PublicKey, profile: NatProfile) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if session.profile == profile || session.profiles >= PROFILES_PER_SESSION {
            return;
        }
        session.profiles += 1;
        session.profile = profile;
        let others: Vec<(IntroductionId, PublicKey)> = self
            .introductions
            .iter()
            .filter_map(|(id, introduced)| Some((*id, introduced.other(peer)?)))
            .collect();
        for (introduction, other) in others {
            self.send_to(other, FromBroker::ProfileOf { introduction, profile });
        }
    }

    fn join(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        connected: &[PublicKey],
        openers: Vec<Vec<u8>>,
    ) {
        // A member may say once more who is connected, to be introduced to the others: it may have come back over
        // another link before the old one was known to be lost, or have lost somebody.
        let again = self.lobby.contains(&peer);
        let observed = self.links.get(&link).map(|link| link.observed.ip());
        let refusal = if self.config.lobby == 0 {
            Some(Refusal::LobbyOff)
        } else if again && !observed.is_some_and(|observed| self.claim_rates.allow(now, observed)) {
            Some(Refusal::TooMany)
        } else if !again && self.lobby.len() >= self.config.lobby {
            Some(Refusal::LobbyFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.send(link, FromBroker::Refused { about: About::Join, refusal });
        }
        let own = |member: &PublicKey| *member == peer;
        let members = self.lobby.iter().filter(|member| !own(member)).count();
        let others: Vec<PublicKey> =
            self.lobby.iter().copied().filter(|member| !own(member) && !connected.contains(member)).collect();
        if !again {
            self.lobby.push(peer);
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.in_lobby = true;
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let joined = FromBroker::Joined {
            members: count(members),
            capacity: count(self.config.lobby),
            introductions: count(others.len().min(openers.len())),
        };
        self.send(link, joined);
        for (index, (waiter, opener)) in others.into_iter().zip(openers).enumerate() {
            if !self.may_introduce(now, &peer, &waiter) {
                self.send(link, FromBroker::Refused { about: About::Join, refusal: Refusal::TooMany });
                return;
            }
            if opener.len() <= MAX_HANDSHAKE {
                let arriver_met = Met::LobbyArriver { opener: count(index) };
                self.introduce(now, (peer, arriver_met), (waiter, Met::LobbyWaiter { opener }));
            }
        }
    }

    fn open(&mut self, now: Instant, link: LinkId, peer: PublicKey, verb: Verb, again: Option<u32>) {
        // The link was made again before the old one was known to be lost: the code is still here.
        if let Some(number) = again
            && self.codes.get(&number).is_some_and(|code| code.owner == peer && code.verb == verb)
        {
            self.remove_code(number);
        }
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else { return };
        let own = self.codes.values().filter(|code| code.owner == peer).count();
        let refusal = if own >= CODES_PER_SESSION || !self.claim_rates.allow(now, observed.ip()) {
            Some(Refusal::TooMany)
        } else if self.codes.len() >= BROKER_CODES {
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.send(link, FromBroker::Refused { about: About::Open, refusal });
        }
        let number = again
            .filter(|number| {
                (NUMBER_FIRST..=NUMBER_LAST).contains(number) && !self.codes.contains_key(number)
            })
            .unwrap_or_else(|| self.free_number());
        let expires = self.at(now + CODE_LIFE, Timer::CodeExpires { number });
        let code = Code {
            owner: peer,
            verb,
            share: None,
            generation: 0,
            checking: None,
            waiting: VecDeque::new(),
            expires,
        };
        self.codes.insert(number, code);
        let expires_s = u32::try_from(CODE_LIFE.as_secs()).unwrap_or(u32::MAX);
        self.send(link, FromBroker::Opened { number, expires_s });
    }

    /// A random free number, with few enough live ones among them that a guess rarely meets one.
    fn free_number(&mut self) -> u32 {
        let wanted = (self.codes.len() as u64 + 1) * NUMBERS_PER_CODE;
        let mut last = 999;
        while u64::from(last - NUMBER_FIRST) < wanted && last < NUMBER_LAST {
            last = last * 10 + 9;
        }
        loop {
            let number = self.rng.random_range(NUMBER_FIRST..=last);
            if !self.codes.contains_key(&number) {
                return number;
            }
        }
    }

    fn wait(&mut self, peer: PublicKey, number: u32, share: Share) {
        let Some(code) = self.codes.get_mut(&number).filter(|code| code.owner == peer) else {
            return;
        };
        if share.len() != SHARE || code.share.is_some() || code.checking.is_some() {
            return;
        }
        code.share = Some(share);
        code.generation += 1;
        let waiting: Vec<ClaimId> = code.waiting.drain(..).collect();
        for claim in waiting {
            self.hand_out(claim);
        }
    }

    fn claim(&mut self, now: Instant, link: LinkId, peer: PublicKey, number: u32, verb: Verb) {
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else {
            return;
        };
        let pending = self.sessions.get(&peer).map_or(0, |session| session.claims) as usize;
        if pending >= CLAIMS_PER_CODE || !self.claim_rates.allow(now, observed.ip()) {
            return self
                .send(link, FromBroker::Refused { about: About::Claim(number), refusal: Refusal::TooMany });
        }
        let refusal = match self.codes.get(&number) {
            None => Some(Refusal::NoSuchCode),
            Some(code) if code.verb.partner() != verb => Some(Refusal::OtherVerb(code.verb)),
            Some(code) if code.owner == peer => Some(Refusal::OutOfOrder),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return self.send(link, FromBroker::Refused { about: About::Claim(number), refusal });
        }
        let id: ClaimId = self.rng.random();
        self.claims.insert(id, Claim { number, arriver: peer, generation: 0 });
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.claims += 1;
        }
        self.at(now + CLAIM_LIFE, Timer::ClaimExpires { claim: id });
        self.hand_out(id);
    }

    /// Gives the claim the current share of its code, or lets it wait for the next one.
    fn hand_out(&mut self, id: ClaimId) {
        let Some(claim) = self.claims.get_mut(&id) else {
            return;
        };
        let (arriver, number) = (claim.arriver, claim.number);
        let Some(code) = self.codes.get_mut(&number) else {
            self.remove_claim(id);
            self.send_to(
                arriver,
                FromBroker::Refused { about: About::Claim(number), refusal: Refusal::NoSuchCode },
            );
            return;
        };
        match &code.share {
            Some(share) => {
                claim.generation = code.generation;
                let message =
                    FromBroker::Claimed { number, claim: id, waiter: code.owner, share: share.clone() };
                self.send_to(arriver, message);
            }
            None if code.waiting.len() < CLAIMS_PER_CODE => code.waiting.push_back(id),
            None => {
                self.remove_claim(id);
                self.send_to(
                    arriver,
                    FromBroker::Refused { about: About::Claim(number), refusal: Refusal::TooMany },
                );
            }
        }
    }

    fn prove(&mut self, link: LinkId, peer: PublicKey, id: ClaimId, share: Share, handshake: Vec<u8>) {
        let Some(claim) = self.claims.get(&id).filter(|claim| claim.arriver == peer) else {
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::NoSuchCode });
        };
        if share.len() != SHARE || handshake.len() > MAX_HANDSHAKE {
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::OutOfOrder });
        }
        let number = claim.number;
        let Some(code) = self.codes.get_mut(&number) else {
            self.remove_claim(id);
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::NoSuchCode });
        };
        if code.share.is_none() || code.generation != claim.generation {
            return self.hand_out(id);
        }
        code.share = None;
        code.checking = Some(id);
        let owner = code.owner;
        self.send_to(owner, FromBroker::Proof { number, claim: id, peer, share, handshake });
    }

    fn accept(&mut self, now: Instant, peer: PublicKey, id: ClaimId, handshake: Vec<u8>) {
        let Some((number, code)) = self.checked(peer, id) else {
            return;
        };
        code.checking = None;
        let arriver = self.remove_claim(id).map(|claim| claim.arriver);
        let Some(arriver) = arriver.filter(|arriver| self.sessions.contains_key(arriver)) else {
            self.send_to(peer, FromBroker::Gone { claim: id });
            return;
        };
        if handshake.len() > MAX_HANDSHAKE || !self.may_introduce(now, &arriver, &peer) {
            self.send_to(arriver, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::TooMany });
            self.send_to(peer, FromBroker::Gone { claim: id });
            return;
        }
        self.remove_code(number);
        let met = (Met::CodeArriver { claim: id, answer: handshake }, Met::CodeWaiter { claim: id });
        self.introduce(now, (arriver, met.0), (peer, met.1));
    }

    fn reject(&mut self, peer: PublicKey, id: ClaimId, left: u8) {
        let Some((number, code)) = self.checked(peer, id) else {
            return;
        };
        code.checking = None;
        if let Some(claim) = self.remove_claim(id) {
            self.send_to(claim.arriver, FromBroker::WrongWords { claim: id, left });
        }
        if left == 0 {
            self.remove_code(number);
        }
    }

    /// The code whose owner is checking this claim.
    fn checked(&mut self, owner: PublicKey, id: ClaimId) -> Option<(u32, &mut Code)> {
        self.codes
            .iter_mut()
            .find(|(_, code)| code.owner == owner && code.checking == Some(id))
            .map(|(number, code)| (*number, code))
    }

    fn remove_claim(&mut self, id: ClaimId) -> Option<Claim> {
        let claim = self.claims.remove(&id)?;
        if let Some(session) = self.sessions.get_mut(&claim.arriver) {
            session.claims = session.claims.saturating_sub(1);
        }
        Some(claim)
    }

    fn remove_code(&mut self, number: u32) {
        let Some(code) = self.codes.remove(&number) else { return };
        self.timers.remove(&code.expires);
        let orphans: Vec<ClaimId> =
            self.claims.iter().filter(|(_, claim)| claim.number == number).map(|(id, _)| *id).collect();
        for id in orphans {
            if let Some(claim) = self.remove_claim(id) {
                self.send_to(
                    claim.arriver,
                    FromBroker::Refused { about: About::Claim(number), refusal: Refusal::NoSuchCode },
                );
            }
        }
    }

    fn relay(&mut self, peer: PublicKey, id: IntroductionId, signal: Signal) {
        let Some(introduced) = self.introductions.get_mut(&id) else {
            return;
        };
        let [first, second] = introduced.sides;
        let [by_first, by_second] = &mut introduced.relayed;
        let (other, count) = match peer {
            _ if peer == first => (second, by_first),
            _ if peer == second => (first, by_second),
            _ => return,
        };
        let length = match &signal {
            Signal::Answer(bytes) | Signal::Sealed(bytes) => bytes.len(),
        };
        if *count >= MAX_RELAYED || length > MAX_HANDSHAKE {
            return;
        }
        *count += 1;
        self.send_to(other, FromBroker::Relayed { introduction: id, signal });
    }

    fn observed(&self, peer: &PublicKey) -> Vec<SocketAddr> {
        let links = self.sessions.get(peer).map_or(&[][..], |session| &session.links);
        links.iter().filter_map(|link| self.links.get(link)).map(|link| link.observed).collect()
    }

    fn round_trip(&self, peer: &PublicKey) -> Duration {
        self.sessions
            .get(peer)
            .and_then(|session| session.links.first())
            .and_then(|link| self.links.get(link))
            .and_then(|link| link.round_trip)
            .unwrap_or(UNKNOWN_ROUND_TRIP)
    }

    /// Whether neither side's public address is told of too many others. Toward private addresses
    /// there is nobody to protect from this broker's peers.
    fn may_introduce(&mut self, now: Instant, arriver: &PublicKey, waiter: &PublicKey) -> bool {
        let addresses = [self.observed(arriver), self.observed(waiter)].concat();
        addresses
            .iter()
            .filter(|address| scope(address.ip()) == Scope::Global)
            .all(|address| self.introduction_rates.allow(now, address.ip()))
    }

    fn introduce(&mut self, now: Instant, arriver: (PublicKey, Met), waiter: (PublicKey, Met)) {
        let ((arriver, arriver_met), (waiter, waiter_met)) = (arriver, waiter);
        let (seen_arriver, seen_waiter) = (self.observed(&arriver), self.observed(&waiter));
        let id: IntroductionId = self.rng.random();
        let nonce: [u8; 16] = self.rng.random();
        let (near, far) = (self.round_trip(&arriver), self.round_trip(&waiter));
        let bound = u32::try_from((near + far).as_micros()).unwrap_or(u32::MAX);
        let told = [&seen_arriver[..], &seen_waiter].concat();
        self.introductions.insert(id, Introduced { sides: [arriver, waiter], relayed: [0, 0], told });
        self.at(now + INTRODUCTION_LIFE, Timer::IntroductionExpires { introduction: id });
        let sides = [
            (arriver, arriver_met, waiter, &seen_waiter, &seen_arriver),
            (waiter, waiter_met, arriver, &seen_arriver, &seen_waiter),
        ];
        let mut messages = Vec::new();
        for (to, meeting, peer, addresses, own) in sides {
            let beside =
                |seen: &[SocketAddr]| seen.iter().all(|address| scope(address.ip()) != Scope::Global);
            let public =
                if beside(addresses) && !beside(own) { self.config.public.clone() } else { Vec::new() };
            let introduction = Introduction {
                id,
                nonce,
                meeting,
                peer,
                addresses: addresses.clone(),
                profile: self.sessions.get(&peer).map(|session| session.profile).unwrap_or_default(),
                public,
                round_trip_bound_us: bound,
            };
            messages.push((to, FromBroker::Introduced(introduction)));
        }
        for (to, message) in messages {
            self.send_to(to, message);
        }
        self.outputs.push_back(Output::Event(Event::Introduced {
            arriver: (arriver, seen_arriver),
            waiter: (waiter, seen_waiter),
        }));
        // Both SYNs are to leave at the same moment: the nearer side hears later.
        let (nearer, delay) =
            if near <= far { (arriver, (far - near) / 2) } else { (waiter, (near - far) / 2) };
        let farther = if nearer == arriver { waiter } else { arriver };
        self.send_to(farther, FromBroker::Go { introduction: id });
        if delay.is_zero() {
            self.send_to(nearer, FromBroker::Go { introduction: id });
        } else {
            self.at(now + delay.min(GO_DELAY_MOST), Timer::Go { introduction: id, peer: nearer });
        }
        self.outputs.push_back(Output::Event(Event::Go { arriver, waiter }));
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Go { introduction, peer } => {
                self.send_to(peer, FromBroker::Go { introduction });
            }
            Timer::CodeExpires { number } => {
                if let Some(owner) = self.codes.get(&number).map(|code| code.owner) {
                    self.remove_code(number);
                    self.send_to(owner, FromBroker::Expired { number });
                }
            }
            Timer::ClaimExpires { claim } => {
                self.remove_claim(claim);
                for code in self.codes.values_mut() {
                    code.waiting.retain(|waiting| *waiting != claim);
                }
            }
            Timer::IntroductionExpires { introduction } => {
                self.introductions.remove(&introduction);
            }
            Timer::Sweep => {
                let silent: Vec<LinkId> = self
                    .links
                    .iter()
                    .filter(|(_, link)| now.duration_since(link.heard) >= LINK_DEAD_AFTER)
                    .map(|(id, _)| *id)
                    .collect();
                for link in silent {
                    self.outputs.push_back(Output::Close { link });
                    self.link_down(link);
                }
                self.claim_rates.sweep(now);
                self.introduction_rates.sweep(now);
                if !self.links.is_empty() {
                    self.at(now + SWEEP_EVERY, Timer::Sweep);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
