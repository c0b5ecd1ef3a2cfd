//! The broker as a state machine: who is registered, who may meet whom, introductions and Go.
//!
//! Values only: a driver feeds it links and messages with the time, and carries out what it says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{CryptoRng, Rng, RngCore};

use crate::candidate::{Scope, scope};
use crate::code::Verb;
use crate::identity::PublicKey;
use crate::limits::{
    BROKER_CODES, BROKER_INTRODUCTIONS, BROKER_KNOCKS, BROKER_LINKS, BROKER_LINKS_PER_ADDRESS, CLAIM_LIFE,
    CLAIMS_PER_ADDRESS, CLAIMS_PER_CODE, CODE_LIFE, CODES_PER_ADDRESS, CODES_PER_SESSION,
    EARLY_OBSERVATION_LIFE, EARLY_OBSERVATIONS, GO_DELAY_MOST, INTRODUCTION_LIFE, INTRODUCTIONS_PER_ADDRESS,
    INTRODUCTIONS_PER_SESSION, JOINS_PER_ADDRESS, KNOCK_WITHIN, KNOCKS_PER_ADDRESS, KNOCKS_PER_SESSION,
    LINK_DEAD_AFTER, LOBBY_INTRODUCTIONS_PER_ADDRESS, LOBBY_LEFT_FREE, LOBBY_MEMBERS, MAX_HANDSHAKE,
    MAX_OBSERVED, MAX_RELAYED, MAX_RELAYED_BYTES, MISSES_COUNTED, NUMBER_FIRST, NUMBER_LAST,
    NUMBERS_PER_CODE, OBSERVATIONS_PER_SESSION, OPENS_PER_ADDRESS, PROFILES_PER_SESSION, PROOFS_PER_ADDRESS,
    ROUNDS, SIGNAL_OVERHEAD, SIGNALS_PER_ADDRESS, SIGNALS_PER_SESSION, UNKNOWN_ROUND_TRIP, WRONG_GUESSES,
};
use crate::profile::NatProfile;
use crate::secure::{SHARE, Share};
use crate::wire::{
    About, ClaimId, FromBroker, Introduction, IntroductionId, KnockAnswer, Met, ObservationToken, Probe,
    Refusal, Signal, ToBroker,
};

pub mod fence;
pub use fence::subscriber;
use fence::{Bucket, Held, Rates};

/// Names a link; the driver never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Names a knock; the broker never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnockId(pub u64);

/// How the broker is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of the lobby; 0 turns it off.
    pub lobby: usize,
    /// Links at a time: as many as the process has descriptors for, at most [`BROKER_LINKS`].
    pub links: usize,
    /// Addresses under which peers beside this broker appear from outside.
    pub public: Vec<IpAddr>,
    /// Where observations are answered too, beside the address and port of the link. An address that stands there is
    /// knocked from.
    pub probes: Vec<Probe>,
    /// Knocks at a time: at most [`BROKER_KNOCKS`], fewer where the process has few descriptors.
    pub knocks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lobby: LOBBY_MEMBERS,
            links: BROKER_LINKS,
            public: Vec::new(),
            probes: Vec::new(),
            knocks: BROKER_KNOCKS,
        }
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
        /// Random, and told with the [`Welcome`](crate::wire::Welcome): goes over the network in the clear, so of this link alone.
        token: [u8; 8],
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
        /// Where knocks are asked for: the own address that was dialled.
        knock_from: Option<IpAddr>,
    },
    /// A knock came to its end.
    Knocked {
        /// Which.
        knock: KnockId,
        /// What came of it; `None` where it could not be made.
        answer: Option<KnockAnswer>,
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
    /// Connect, from any port but those that are listened on; give up after [`KNOCK_WITHIN`], and close what comes of it.
    Knock {
        /// Its name, for [`Input::Knocked`].
        knock: KnockId,
        /// From which own address.
        from: IpAddr,
        /// To where: an observation has just come from there.
        to: SocketAddr,
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
    token: [u8; 8],
    round_trip: Option<Duration>,
    heard: Instant,
}

#[derive(Default)]
struct Session {
    links: Vec<LinkId>,
    profile: NatProfile,
    in_lobby: bool,
    codes: Vec<u32>,
    claims: Vec<ClaimId>,
    /// The number that was asked for last.
    asked: Option<u32>,
    profiles: u8,
    introductions: VecDeque<IntroductionId>,
    /// The last observations, for rounds.
    seen: VecDeque<([u8; 8], SocketAddr)>,
    signals: Bucket,
    observations: Bucket,
    knocks: Bucket,
}

/// An observation that came before the link whose token it carries: the first frame of a link may be lost and sent again.
struct Early {
    expires: TimerKey,
    token: ObservationToken,
    from: SocketAddr,
    knock_from: Option<IpAddr>,
}

struct Knock {
    peer: PublicKey,
    question: [u8; 8],
    elsewhere: bool,
    expires: TimerKey,
}

struct Code {
    owner: PublicKey,
    /// Where its owner came from, for the count by address.
    address: IpAddr,
    verb: Verb,
    /// The owner's last link is lost: nobody is told of it, and the number is kept for the owner.
    lost: bool,
    share: Option<Share>,
    generation: u32,
    checking: Option<ClaimId>,
    wrong: u8,
    claims: Vec<ClaimId>,
    waiting: VecDeque<ClaimId>,
    expires: TimerKey,
}

struct Claim {
    number: u32,
    arriver: PublicKey,
    generation: u32,
    expires: TimerKey,
}

/// What one side of an introduction has relayed.
#[derive(Clone, Copy, Default)]
struct Sent {
    messages: u8,
    bytes: usize,
}

/// A further round: each side's question, and where its fresh port was seen.
#[derive(Clone, Copy, Default)]
struct Round {
    asked: [Option<[u8; 8]>; 2],
    seen: [Option<SocketAddr>; 2],
}

struct Introduced {
    sides: [PublicKey; 2],
    /// From the first after the doors on.
    rounds: Vec<Round>,
    relayed: [Sent; 2],
    /// Addresses that one side was told of the other; bounded by the links of a session.
    told: Vec<SocketAddr>,
    expires: TimerKey,
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

    /// The other side, and what this one has relayed.
    fn sent_by(&mut self, peer: PublicKey) -> Option<(PublicKey, &mut Sent)> {
        let [first, second] = self.sides;
        let [by_first, by_second] = &mut self.relayed;
        match peer {
            _ if peer == first => Some((second, by_first)),
            _ if peer == second => Some((first, by_second)),
            _ => None,
        }
    }
}

/// A timer goes with what it ends.
type TimerKey = (Instant, u64);

enum Timer {
    /// To who is nearer than the other side.
    Say {
        peer: PublicKey,
        message: Box<FromBroker>,
    },
    CodeExpires {
        number: u32,
    },
    ClaimExpires {
        claim: ClaimId,
    },
    IntroductionExpires {
        introduction: IntroductionId,
    },
    EarlyExpires,
    KnockExpires {
        knock: KnockId,
    },
    Sweep,
}

/// Numbers that were asked for in vain, in this window and the one before.
#[derive(Default)]
struct Misses {
    since: Option<Instant>,
    now: u64,
    before: u64,
}

impl Misses {
    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now += 1;
    }

    /// All within the last [`MISSES_COUNTED`], and some of before.
    fn lately(&mut self, now: Instant) -> u64 {
        self.turn(now);
        self.now.saturating_add(self.before)
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let windows = now.saturating_duration_since(since).as_nanos() / MISSES_COUNTED.as_nanos();
        if windows > 0 {
            self.before = if windows == 1 { self.now } else { 0 };
            self.now = 0;
            self.since = Some(now);
        }
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The broker.
pub struct Rendezvous<R> {
    config: Config,
    rng: R,
    /// The first input: what was before is not known.
    began: Option<Instant>,
    links: HashMap<LinkId, Link>,
    links_of: Held,
    sessions: HashMap<PublicKey, Session>,
    tokens: HashMap<[u8; 8], PublicKey>,
    /// The oldest first.
    early: Vec<Early>,
    lobby: Vec<PublicKey>,
    codes: HashMap<u32, Code>,
    codes_of: Held,
    misses: Misses,
    claims: HashMap<ClaimId, Claim>,
    introductions: HashMap<IntroductionId, Introduced>,
    /// The oldest first; some are gone already.
    introduced: VecDeque<IntroductionId>,
    knocks: HashMap<KnockId, Knock>,
    last_knock: u64,
    rates: AllRates,
    timers: BTreeMap<TimerKey, Timer>,
    timer_number: u64,
    /// There is a timer for it.
    sweeping: bool,
    outputs: VecDeque<Output>,
}

/// What each address has used of its allowances.
struct AllRates {
    joins: Rates,
    opens: Rates,
    claims: Rates,
    proofs: Rates,
    signals: Rates,
    introductions: Rates,
    lobby_introductions: Rates,
    knocks: Rates,
}

impl AllRates {
    fn new() -> Self {
        AllRates {
            joins: Rates::new(JOINS_PER_ADDRESS),
            opens: Rates::new(OPENS_PER_ADDRESS),
            claims: Rates::new(CLAIMS_PER_ADDRESS),
            proofs: Rates::new(PROOFS_PER_ADDRESS),
            signals: Rates::new(SIGNALS_PER_ADDRESS),
            introductions: Rates::new(INTRODUCTIONS_PER_ADDRESS),
            lobby_introductions: Rates::new(LOBBY_INTRODUCTIONS_PER_ADDRESS),
            knocks: Rates::new(KNOCKS_PER_ADDRESS),
        }
    }

    fn each(&mut self) -> [&mut Rates; 8] {
        let AllRates { joins, opens, claims, proofs, signals, introductions, lobby_introductions, knocks } =
            self;
        [joins, opens, claims, proofs, signals, introductions, lobby_introductions, knocks]
    }
}

/// How two came together, for the limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Code,
    Lobby,
}

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    /// An empty one.
    pub fn new(config: Config, rng: R) -> Self {
        Rendezvous {
            config,
            rng,
            began: None,
            links: HashMap::new(),
            links_of: Held::new(BROKER_LINKS_PER_ADDRESS),
            sessions: HashMap::new(),
            tokens: HashMap::new(),
            early: Vec::new(),
            lobby: Vec::new(),
            codes: HashMap::new(),
            codes_of: Held::new(CODES_PER_ADDRESS),
            misses: Misses::default(),
            claims: HashMap::new(),
            introductions: HashMap::new(),
            introduced: VecDeque::new(),
            knocks: HashMap::new(),
            last_knock: 0,
            rates: AllRates::new(),
            timers: BTreeMap::new(),
            timer_number: 0,
            sweeping: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.began.get_or_insert(now);
        match input {
            Input::LinkUp { link, peer, observed, token } => self.link_up(now, link, peer, (observed, token)),
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
            Input::Observation { token, from, knock_from } => self.observation(now, token, from, knock_from),
            Input::Knocked { knock, answer } => self.knocked(knock, answer),
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
            && self.links_of.is_empty()
            && self.sessions.is_empty()
            && self.tokens.is_empty()
            && self.early.is_empty()
            && self.lobby.is_empty()
            && self.codes.is_empty()
            && self.codes_of.is_empty()
            && self.claims.is_empty()
            && self.introductions.is_empty()
            && self.introduced.is_empty()
            && self.knocks.is_empty()
            && self.timers.is_empty()
    }

    /// Links at this moment.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    fn at(&mut self, when: Instant, timer: Timer) -> TimerKey {
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

    fn link_up(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        (observed, token): (SocketAddr, [u8; 8]),
    ) {
        if self.links.len() >= self.config.links {
            self.make_room_for_link(observed.ip());
        }
        let refusal = if self.links.len() >= self.config.links {
            Some(Refusal::Full)
        } else if !self.links_of.take(observed.ip()) {
            Some(Refusal::TooMany)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.refuse_link(link, refusal);
        }
        if !self.sweeping {
            self.sweeping = true;
            self.at(now + SWEEP_EVERY, Timer::Sweep);
        }
        self.tokens.insert(token, peer);
        self.links.insert(link, Link { peer, observed, token, round_trip: None, heard: now });
        let session = self.sessions.entry(peer).or_default();
        let first = session.links.is_empty();
        session.links.push(link);
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
        self.take_early(now, token);
    }

    /// The newest goes: what stands longest serves somebody most likely.
    fn make_room_for_link(&mut self, newcomer: IpAddr) {
        let Some(greedy) = self.links_of.greediest(newcomer) else { return };
        let newest =
            self.links.iter().filter(|(_, link)| greedy.is(link.observed.ip())).map(|(id, _)| *id).max();
        if let Some(link) = newest {
            self.refuse_link(link, Refusal::Full);
        }
    }

    fn refuse_link(&mut self, link: LinkId, refusal: Refusal) {
        self.send(link, FromBroker::Refused { about: About::Link, refusal });
        self.outputs.push_back(Output::Close { link });
        self.link_down(link);
    }

    /// A second link, over the other family, may come up while the peer is being introduced.
    fn tell_new_address(&mut self, peer: PublicKey, address: SocketAddr) {
        let Some(session) = self.sessions.get(&peer) else { return };
        let mut others = Vec::new();
        for id in &session.introductions {
            if let Some(introduced) = self.introductions.get_mut(id)
                && !introduced.told.contains(&address)
                && introduced.told.len() < 2 * MAX_OBSERVED
                && let Some(other) = introduced.other(peer)
            {
                introduced.told.push(address);
                others.push((*id, other));
            }
        }
        for (introduction, other) in others {
            self.send_to(other, FromBroker::SeenAt { introduction, address });
        }
    }

    fn link_down(&mut self, link: LinkId) {
        let Some(entry) = self.links.remove(&link) else {
            return;
        };
        self.links_of.give_back(entry.observed.ip());
        self.tokens.remove(&entry.token);
        let Some(session) = self.sessions.get_mut(&entry.peer) else {
            return;
        };
        session.links.retain(|other| *other != link);
        if !session.links.is_empty() {
            return;
        }
        let peer = entry.peer;
        let Some(session) = self.sessions.remove(&peer) else { return };
        if session.in_lobby {
            self.lobby.retain(|member| *member != peer);
            for member in self.lobby.clone() {
                self.send_to(member, FromBroker::Left { peer });
            }
        }
        for number in session.codes {
            self.lose_code(number);
        }
        for claim in session.claims {
            self.remove_claim(claim);
        }
        for introduction in session.introductions {
            self.end_introduction(introduction);
        }
        self.outputs.push_back(Output::Event(Event::Left { peer }));
    }

    fn observation(
        &mut self,
        now: Instant,
        token: ObservationToken,
        from: SocketAddr,
        knock_from: Option<IpAddr>,
    ) {
        let [a, b, c, d, e, f, g, h, question @ ..] = token;
        let Some(peer) = self.tokens.get(&[a, b, c, d, e, f, g, h]).copied() else {
            if self.early.len() >= EARLY_OBSERVATIONS {
                self.forget_oldest_early();
            }
            let expires = self.at(now + EARLY_OBSERVATION_LIFE, Timer::EarlyExpires);
            self.early.push(Early { expires, token, from, knock_from });
            return;
        };
        let allowed = self
            .sessions
            .get_mut(&peer)
            .is_some_and(|session| session.observations.take(now, OBSERVATIONS_PER_SESSION, 1));
        if allowed {
            self.send_to(peer, FromBroker::Observed { question, from });
            self.seen_for_round(now, peer, question, from);
            if let Some(dialled) = knock_from {
                self.knock(now, peer, question, from, dialled);
            }
        }
    }

    fn forget_oldest_early(&mut self) {
        if !self.early.is_empty() {
            self.timers.remove(&self.early.remove(0).expires);
        }
    }

    /// What came before this link did, and carries its token.
    fn take_early(&mut self, now: Instant, token: [u8; 8]) {
        let ours: Vec<Early> = self.early.extract_if(.., |early| early.token.starts_with(&token)).collect();
        for Early { expires, token, from, knock_from } in ours {
            self.timers.remove(&expires);
            self.observation(now, token, from, knock_from);
        }
    }

    /// A side begins a further round from a fresh port, which it has observed under this question.
    fn fresh_port(
        &mut self,
        now: Instant,
        peer: PublicKey,
        id: IntroductionId,
        number: u8,
        question: [u8; 8],
    ) {
        let Some(introduced) = self.introductions.get_mut(&id) else { return };
        let Some(other) = introduced.other(peer) else { return };
        let [first, _] = introduced.sides;
        let side = usize::from(peer != first);
        let index = usize::from(number).wrapping_sub(1);
        // One after the other, each once.
        if number >= ROUNDS || index > introduced.rounds.len() {
            return;
        }
        if index == introduced.rounds.len() {
            introduced.rounds.push(Round::default());
        }
        let Some(round) = introduced.rounds.get_mut(index) else { return };
        let Some(asked) = round.asked.get_mut(side).filter(|asked| asked.is_none()) else { return };
        *asked = Some(question);
        if round.asked.iter().flatten().count() == 1 {
            self.send_to(other, FromBroker::RoundWanted { introduction: id, round: number });
        }
        let session = self.sessions.get(&peer);
        let seen =
            session.and_then(|it| it.seen.iter().find(|(own, _)| *own == question)).map(|(_, from)| *from);
        if let Some(from) = seen {
            self.seen_for_round(now, peer, question, from);
        }
    }

    /// An observation may be that of a fresh port; where both sides' are known, both fire.
    fn seen_for_round(&mut self, now: Instant, peer: PublicKey, question: [u8; 8], from: SocketAddr) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        // It can come before the message that says what it is for.
        if !session.seen.iter().any(|(seen, _)| *seen == question) {
            session.seen.push_back((question, from));
        }
        if session.seen.len() > usize::from(ROUNDS) {
            session.seen.pop_front();
        }
        for id in session.introductions.clone() {
            let Some(introduced) = self.introductions.get_mut(&id) else { continue };
            let [first, second] = introduced.sides;
            let side = usize::from(peer != first);
            let asked = |round: &Round| round.asked.get(side) == Some(&Some(question));
            let Some(index) = introduced.rounds.iter().position(asked) else { continue };
            let Some(round) = introduced.rounds.get_mut(index) else { continue };
            if let Some(seen) = round.seen.get_mut(side).filter(|seen| seen.is_none()) {
                *seen = Some(from);
            } else {
                return;
            }
            let [Some(of_first), Some(of_second)] = round.seen else { return };
            let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
            let to = |peer| FromBroker::Round { introduction: id, round: number, peer };
            self.together(now, (first, to(of_second)), (second, to(of_first)));
            return;
        }
    }

    /// Sends each its message so that both hear it at the same moment: the nearer side's leaves later.
    fn together(&mut self, now: Instant, one: (PublicKey, FromBroker), other: (PublicKey, FromBroker)) {
        let (near, far) = (self.round_trip(&one.0), self.round_trip(&other.0));
        let (nearer, farther, delay) =
            if near <= far { (one, other, (far - near) / 2) } else { (other, one, (near - far) / 2) };
        self.send_to(farther.0, farther.1);
        if delay.is_zero() {
            self.send_to(nearer.0, nearer.1);
        } else {
            let (peer, message) = (nearer.0, Box::new(nearer.1));
            self.at(now + delay.min(GO_DELAY_MOST), Timer::Say { peer, message });
        }
    }

    /// Knocks where an observation came from, and nowhere else: nobody can name another's address. From elsewhere first,
    /// as far as two connects can be in an order: that tells more.
    fn knock(&mut self, now: Instant, peer: PublicKey, question: [u8; 8], to: SocketAddr, dialled: IpAddr) {
        let alike = |ip: &IpAddr| ip.is_ipv4() == to.is_ipv4() && *ip != dialled;
        let second = self.config.probes.iter().filter_map(|probe| probe.ip).find(alike);
        let sources: Vec<(bool, IpAddr)> =
            second.map(|ip| (true, ip)).into_iter().chain([(false, dialled)]).collect();
        let amount = if second.is_some() { 2 } else { 1 };
        let room = self.knocks.len() + sources.len() <= self.config.knocks.min(BROKER_KNOCKS);
        let allowed = room
            && self
                .sessions
                .get_mut(&peer)
                .is_some_and(|session| session.knocks.take(now, KNOCKS_PER_SESSION, 1))
            && self.rates.knocks.allow(now, to.ip(), amount);
        if !allowed {
            return;
        }
        for (elsewhere, from) in sources {
            self.last_knock += 1;
            let knock = KnockId(self.last_knock);
            // Who carries it out answers before; this is for whoever does not.
            let expires = self.at(now + 2 * KNOCK_WITHIN, Timer::KnockExpires { knock });
            self.knocks.insert(knock, Knock { peer, question, elsewhere, expires });
            self.outputs.push_back(Output::Knock { knock, from, to });
        }
    }

    fn knocked(&mut self, knock: KnockId, answer: Option<KnockAnswer>) {
        let Some(Knock { peer, question, elsewhere, expires }) = self.knocks.remove(&knock) else { return };
        self.timers.remove(&expires);
        if let Some(answer) = answer {
            self.send_to(peer, FromBroker::Knocked { question, elsewhere, answer });
        }
    }

    /// Whether this link may have so many bytes passed on to another session.
    fn may_signal(&mut self, now: Instant, link: LinkId, bytes: usize) -> bool {
        let Some(link) = self.links.get(&link) else { return false };
        let amount = u32::try_from(bytes.saturating_add(SIGNAL_OVERHEAD)).unwrap_or(u32::MAX);
        let session = self.sessions.get_mut(&link.peer);
        session.is_some_and(|session| session.signals.take(now, SIGNALS_PER_SESSION, amount))
            && self.rates.signals.allow(now, link.observed.ip(), amount)
    }

    fn message(&mut self, now: Instant, link: LinkId, peer: PublicKey, message: ToBroker) {
        match message {
            ToBroker::Register { profile } | ToBroker::Profile(profile) => {
                self.profile(now, link, peer, profile);
            }
            ToBroker::Join { connected, openers } => self.join(now, link, peer, &connected, openers),
            ToBroker::Open { verb, again } => self.open(now, link, peer, verb, again),
            ToBroker::Wait { number, share } => self.wait(now, link, peer, number, share),
            ToBroker::Withdraw { number } => {
                if self.codes.get(&number).is_some_and(|code| code.owner == peer) {
                    self.remove_code(number);
                }
            }
            ToBroker::Claim { number, verb } => self.claim(now, link, peer, number, verb),
            ToBroker::Prove { claim, share, handshake } => {
                self.prove(now, link, peer, claim, share, handshake)
            }
            ToBroker::Accept { claim, handshake } => self.accept(now, link, peer, claim, handshake),
            ToBroker::Reject { claim, left } => self.reject(peer, claim, left),
            ToBroker::Relay { introduction, signal } => self.relay(now, link, peer, introduction, signal),
            ToBroker::Round { introduction, round, question } => {
                self.fresh_port(now, peer, introduction, round, question);
            }
            ToBroker::Ping(number) => self.send(link, FromBroker::Pong(number)),
            ToBroker::Pong(_) => {}
        }
    }

    fn profile(&mut self, now: Instant, link: LinkId, peer: PublicKey, profile: NatProfile) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if session.profile == profile || session.profiles >= PROFILES_PER_SESSION {
            return;
        }
        session.profiles += 1;
        session.profile = profile;
        let others: Vec<(IntroductionId, PublicKey)> = session
            .introductions
            .iter()
            .filter_map(|id| Some((*id, self.introductions.get(id)?.other(peer)?)))
            .collect();
        if others.is_empty() || !self.may_signal(now, link, 0) {
            return;
        }
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
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else { return };
        // Not as a refused join, which tells of one introduction less: this one has not joined.
        if !self.rates.joins.allow(now, observed.ip(), 1) {
            return self.refuse_link(link, Refusal::TooMany);
        }
        // A member may say once more who is connected, to be introduced to the others: it may have come back over
        // another link before the old one was known to be lost, or have lost somebody.
        let again = self.lobby.contains(&peer);
        let refusal = if self.config.lobby == 0 {
            Some(Refusal::LobbyOff)
        } else if !again && (self.lobby.len() >= self.config.lobby || self.has_most_of_lobby(observed.ip())) {
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
            let length = opener.len();
            if !self.may_introduce(now, By::Lobby, &peer, &waiter) || !self.may_signal(now, link, length) {
                self.send(link, FromBroker::Refused { about: About::Join, refusal: Refusal::TooMany });
                return;
            }
            if length <= MAX_HANDSHAKE {
                let arriver_met = Met::LobbyArriver { opener: count(index) };
                self.introduce(now, (peer, arriver_met), (waiter, Met::LobbyWaiter { opener }));
            }
        }
    }

    /// Whether the address has all places of the lobby that one address may have.
    fn has_most_of_lobby(&self, address: IpAddr) -> bool {
        let own = subscriber(address);
        let members = self
            .lobby
            .iter()
            .filter(|member| self.observed(member).iter().any(|observed| subscriber(observed.ip()) == own));
        members.count() >= self.config.lobby - self.config.lobby / LOBBY_LEFT_FREE
    }

    fn open(&mut self, now: Instant, link: LinkId, peer: PublicKey, verb: Verb, again: Option<u32>) {
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else { return };
        let address = observed.ip();
        // Whose number it was gets it again. A broker that was started a moment ago can't know.
        let young = self.began.is_some_and(|began| now.duration_since(began) < CODE_LIFE);
        let again = again.filter(|number| match self.codes.get(number) {
            Some(code) => code.owner == peer && code.verb == verb,
            None => young && (NUMBER_FIRST..=NUMBER_LAST).contains(number),
        });
        let own = self.sessions.get(&peer).map_or(&[][..], |session| &session.codes);
        let kept = again.filter(|number| self.codes.contains_key(number));
        let may = own.len() < CODES_PER_SESSION || kept.is_some_and(|number| own.contains(&number));
        if !may || !self.rates.opens.allow(now, address, 1) {
            let refusal = Refusal::TooMany;
            return self.send(link, FromBroker::Refused { about: About::Open, refusal });
        }
        let before = kept.and_then(|number| self.codes.get(&number));
        let (wrong, place) = (before.map_or(0, |code| code.wrong), before.map(|code| code.address));
        if let Some(number) = kept {
            self.remove_code(number);
        }
        if self.codes.len() >= BROKER_CODES {
            self.make_room_for_code(address);
        }
        // Whose number it was loses it to nobody: it has at least the place that it had.
        let place = [Some(address), place]
            .into_iter()
            .flatten()
            .find(|address| self.codes.len() < BROKER_CODES && self.codes_of.take(*address));
        let Some(address) = place else {
            let full = self.codes.len() >= BROKER_CODES;
            let refusal = if full { Refusal::Full } else { Refusal::TooMany };
            return self.send(link, FromBroker::Refused { about: About::Open, refusal });
        };
        let number = again.unwrap_or_else(|| self.free_number(now));
        let expires = self.at(now + CODE_LIFE, Timer::CodeExpires { number });
        let code = Code {
            owner: peer,
            address,
            verb,
            lost: false,
            share: None,
            generation: 0,
            checking: None,
            wrong,
            claims: Vec::new(),
            waiting: VecDeque::new(),
            expires,
        };
        self.codes.insert(number, code);
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.codes.push(number);
        }
        let expires_s = u32::try_from(CODE_LIFE.as_secs()).unwrap_or(u32::MAX);
        self.send(link, FromBroker::Opened { number, expires_s });
    }

    /// The newest goes, which most likely nobody was told of yet.
    fn make_room_for_code(&mut self, newcomer: IpAddr) {
        let Some(greedy) = self.codes_of.greediest(newcomer) else { return };
        let of_greedy = self.codes.iter().filter(|(_, code)| greedy.is(code.address));
        if let Some(number) = of_greedy.max_by_key(|(_, code)| code.expires).map(|(number, _)| *number) {
            self.expire_code(number);
        }
    }

    /// A random free number, with few enough live ones among them that a guess rarely meets one:
    /// numbers get longer with the number of codes, and while somebody guesses.
    fn free_number(&mut self, now: Instant) -> u32 {
        let wanted = (self.codes.len() as u64 + 1).max(self.misses.lately(now)) * NUMBERS_PER_CODE;
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

    fn wait(&mut self, now: Instant, link: LinkId, peer: PublicKey, number: u32, share: Share) {
        let Some(code) = self.codes.get_mut(&number).filter(|code| code.owner == peer && !code.lost) else {
            return;
        };
        if share.len() != SHARE || code.share.is_some() || code.checking.is_some() {
            return;
        }
        code.share = Some(share);
        code.generation += 1;
        let waiting: Vec<ClaimId> = code.waiting.drain(..).collect();
        // Counted and never refused: each needs a code that was opened or a proof, which are bounded.
        let _ = self.may_signal(now, link, SHARE);
        for claim in waiting {
            self.hand_out(claim);
        }
    }

    fn claim(&mut self, now: Instant, link: LinkId, peer: PublicKey, number: u32, verb: Verb) {
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else {
            return;
        };
        let pending = self.sessions.get(&peer).map_or(0, |session| session.claims.len());
        let asked = self.sessions.get_mut(&peer).and_then(|session| session.asked.replace(number));
        // Who waits for its code asks for the same number again and again: that is no guess.
        let guess = asked != Some(number);
        if pending >= CLAIMS_PER_CODE || guess && !self.rates.claims.allow(now, observed.ip(), 1) {
            return self
                .send(link, FromBroker::Refused { about: About::Claim(number), refusal: Refusal::TooMany });
        }
        let refusal = match self.codes.get(&number).filter(|code| !code.lost) {
            None => Some(Refusal::NoSuchCode),
            Some(code) if code.verb.partner() != verb => Some(Refusal::OtherVerb(code.verb)),
            Some(code) if code.owner == peer => Some(Refusal::OutOfOrder),
            Some(_) => None,
        };
        if guess && refusal == Some(Refusal::NoSuchCode) {
            self.misses.count(now);
        }
        if let Some(refusal) = refusal {
            return self.send(link, FromBroker::Refused { about: About::Claim(number), refusal });
        }
        let id: ClaimId = self.rng.random();
        let expires = self.at(now + CLAIM_LIFE, Timer::ClaimExpires { claim: id });
        self.claims.insert(id, Claim { number, arriver: peer, generation: 0, expires });
        if let Some(code) = self.codes.get_mut(&number) {
            code.claims.push(id);
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.claims.push(id);
        }
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

    fn prove(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        id: ClaimId,
        share: Share,
        handshake: Vec<u8>,
    ) {
        let Some(claim) = self.claims.get(&id).filter(|claim| claim.arriver == peer) else {
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::NoSuchCode });
        };
        if share.len() != SHARE || handshake.len() > MAX_HANDSHAKE {
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::OutOfOrder });
        }
        let (number, generation) = (claim.number, claim.generation);
        let current = |code: &&mut Code| code.share.is_some() && code.generation == generation;
        if self.codes.get_mut(&number).filter(current).is_none() {
            return self.hand_out(id);
        }
        let address = self.links.get(&link).map(|link| link.observed.ip());
        let allowed = address.is_some_and(|address| self.rates.proofs.allow(now, address, 1))
            && self.may_signal(now, link, share.len() + handshake.len());
        if !allowed {
            self.remove_claim(id);
            return self
                .send(link, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::TooMany });
        }
        let Some(code) = self.codes.get_mut(&number) else { return };
        code.share = None;
        code.checking = Some(id);
        let owner = code.owner;
        self.send_to(owner, FromBroker::Proof { number, claim: id, peer, share, handshake });
    }

    fn accept(&mut self, now: Instant, link: LinkId, peer: PublicKey, id: ClaimId, handshake: Vec<u8>) {
        let Some((number, code)) = self.checked(peer, id) else {
            return;
        };
        code.checking = None;
        let arriver = self.remove_claim(id).map(|claim| claim.arriver);
        let Some(arriver) = arriver.filter(|arriver| self.sessions.contains_key(arriver)) else {
            self.send_to(peer, FromBroker::Gone { claim: id });
            return;
        };
        if handshake.len() > MAX_HANDSHAKE
            || !self.may_introduce(now, By::Code, &arriver, &peer)
            || !self.may_signal(now, link, handshake.len())
        {
            self.send_to(arriver, FromBroker::Refused { about: About::Proof(id), refusal: Refusal::TooMany });
            self.send_to(peer, FromBroker::Gone { claim: id });
            return;
        }
        self.remove_code(number);
        let met = (Met::CodeArriver { claim: id, answer: handshake }, Met::CodeWaiter { claim: id });
        self.introduce(now, (arriver, met.0), (peer, met.1));
    }

    /// The waiter counts as well; a waiter that does not could be talked to by guessing.
    fn reject(&mut self, peer: PublicKey, id: ClaimId, left: u8) {
        let Some((number, code)) = self.checked(peer, id) else {
            return;
        };
        code.checking = None;
        code.wrong = code.wrong.saturating_add(1);
        let left = left.min(WRONG_GUESSES.saturating_sub(code.wrong));
        if let Some(claim) = self.remove_claim(id) {
            self.send_to(claim.arriver, FromBroker::WrongWords { claim: id, left });
        }
        if left == 0 {
            self.remove_code(number);
        }
    }

    /// The code whose owner is checking this claim.
    fn checked(&mut self, owner: PublicKey, id: ClaimId) -> Option<(u32, &mut Code)> {
        let checks = |number: &&u32| self.codes.get(number).is_some_and(|code| code.checking == Some(id));
        let number = *self.sessions.get(&owner)?.codes.iter().find(checks)?;
        self.codes.get_mut(&number).map(|code| (number, code))
    }

    fn remove_claim(&mut self, id: ClaimId) -> Option<Claim> {
        let claim = self.claims.remove(&id)?;
        self.timers.remove(&claim.expires);
        if let Some(session) = self.sessions.get_mut(&claim.arriver) {
            session.claims.retain(|other| *other != id);
        }
        if let Some(code) = self.codes.get_mut(&claim.number) {
            code.claims.retain(|other| *other != id);
            code.waiting.retain(|other| *other != id);
        }
        Some(claim)
    }

    fn remove_code(&mut self, number: u32) {
        let Some(code) = self.codes.remove(&number) else { return };
        self.timers.remove(&code.expires);
        self.codes_of.give_back(code.address);
        if let Some(session) = self.sessions.get_mut(&code.owner) {
            session.codes.retain(|other| *other != number);
        }
        self.refuse_claims(number, code.claims);
    }

    /// The owner is gone, and may come back for its number.
    fn lose_code(&mut self, number: u32) {
        let Some(code) = self.codes.get_mut(&number) else { return };
        code.lost = true;
        code.share = None;
        code.checking = None;
        let claims = std::mem::take(&mut code.claims);
        self.refuse_claims(number, claims);
    }

    fn refuse_claims(&mut self, number: u32, claims: Vec<ClaimId>) {
        for id in claims {
            if let Some(claim) = self.remove_claim(id) {
                self.send_to(
                    claim.arriver,
                    FromBroker::Refused { about: About::Claim(number), refusal: Refusal::NoSuchCode },
                );
            }
        }
    }

    fn expire_code(&mut self, number: u32) {
        let Some((owner, lost)) = self.codes.get(&number).map(|code| (code.owner, code.lost)) else { return };
        self.remove_code(number);
        if !lost {
            self.send_to(owner, FromBroker::Expired { number });
        }
    }

    fn relay(&mut self, now: Instant, link: LinkId, peer: PublicKey, id: IntroductionId, signal: Signal) {
        let length = match &signal {
            Signal::Answer(bytes) | Signal::Sealed(bytes) => bytes.len(),
            Signal::Word { .. } => 2,
        };
        let Some((other, sent)) = self.introductions.get_mut(&id).and_then(|found| found.sent_by(peer))
        else {
            return;
        };
        let (messages, bytes) = (sent.messages + 1, sent.bytes.saturating_add(length));
        if messages > MAX_RELAYED || length > MAX_HANDSHAKE || bytes > MAX_RELAYED_BYTES {
            return;
        }
        *sent = Sent { messages, bytes };
        if self.may_signal(now, link, length) {
            self.send_to(other, FromBroker::Relayed { introduction: id, signal });
        }
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
    /// there is nobody to protect from this broker's peers, and two behind one address fire only
    /// at themselves.
    fn may_introduce(&mut self, now: Instant, by: By, arriver: &PublicKey, waiter: &PublicKey) -> bool {
        let toward = |from: &[SocketAddr], at: &[SocketAddr]| -> Vec<IpAddr> {
            let elsewhere = |ip: &IpAddr| !from.iter().any(|other| subscriber(other.ip()) == subscriber(*ip));
            let public = |ip: &IpAddr| scope(*ip) == Scope::Global && elsewhere(ip);
            at.iter().map(SocketAddr::ip).filter(public).collect()
        };
        let (arriver, waiter) = (self.observed(arriver), self.observed(waiter));
        let victims = [toward(&waiter, &arriver), toward(&arriver, &waiter)].concat();
        victims.into_iter().all(|ip| {
            (by == By::Code || self.rates.lobby_introductions.allow(now, ip, 1))
                && self.rates.introductions.allow(now, ip, 1)
        })
    }

    fn introduce(&mut self, now: Instant, arriver: (PublicKey, Met), waiter: (PublicKey, Met)) {
        let ((arriver, arriver_met), (waiter, waiter_met)) = (arriver, waiter);
        let (seen_arriver, seen_waiter) = (self.observed(&arriver), self.observed(&waiter));
        let id: IntroductionId = self.rng.random();
        let nonce: [u8; 16] = self.rng.random();
        let (near, far) = (self.round_trip(&arriver), self.round_trip(&waiter));
        let bound = u32::try_from((near + far).as_micros()).unwrap_or(u32::MAX);
        let told = [&seen_arriver[..], &seen_waiter].concat();
        let expires = self.at(now + INTRODUCTION_LIFE, Timer::IntroductionExpires { introduction: id });
        self.keep_introduction(
            id,
            Introduced {
                sides: [arriver, waiter],
                rounds: Vec::new(),
                relayed: Default::default(),
                told,
                expires,
            },
        );
        let sides = [
            (arriver, arriver_met, waiter, &seen_waiter, &seen_arriver),
            (waiter, waiter_met, arriver, &seen_arriver, &seen_waiter),
        ];
        let mut messages = Vec::new();
        let profile =
            |of: &PublicKey| self.sessions.get(of).map(|session| session.profile).unwrap_or_default();
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
                profile: profile(&peer),
                own_profile: profile(&to),
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
        let go = FromBroker::Go { introduction: id };
        self.together(now, (arriver, go.clone()), (waiter, go));
        self.outputs.push_back(Output::Event(Event::Go { arriver, waiter }));
    }

    fn keep_introduction(&mut self, id: IntroductionId, introduced: Introduced) {
        let mut beyond = Vec::new();
        for side in introduced.sides {
            if let Some(session) = self.sessions.get_mut(&side) {
                session.introductions.push_back(id);
                if session.introductions.len() > INTRODUCTIONS_PER_SESSION {
                    beyond.extend(session.introductions.front().copied());
                }
            }
        }
        self.introductions.insert(id, introduced);
        self.introduced.push_back(id);
        if self.introductions.len() > BROKER_INTRODUCTIONS {
            beyond.extend(self.introduced.front().copied());
        }
        for id in beyond {
            self.end_introduction(id);
        }
    }

    /// It can relay no longer. What was told stays told.
    fn end_introduction(&mut self, id: IntroductionId) {
        let Some(introduced) = self.introductions.remove(&id) else { return };
        self.timers.remove(&introduced.expires);
        for side in introduced.sides {
            if let Some(session) = self.sessions.get_mut(&side) {
                session.introductions.retain(|other| *other != id);
            }
        }
        // Those that are gone go when they are the oldest, so that this is hardly ever searched.
        while self.introduced.front().is_some_and(|oldest| !self.introductions.contains_key(oldest)) {
            self.introduced.pop_front();
        }
        if self.introduced.len() > 2 * BROKER_INTRODUCTIONS {
            self.introduced.retain(|id| self.introductions.contains_key(id));
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Say { peer, message } => {
                self.send_to(peer, *message);
            }
            Timer::CodeExpires { number } => self.expire_code(number),
            Timer::ClaimExpires { claim } => {
                self.remove_claim(claim);
            }
            Timer::IntroductionExpires { introduction } => self.end_introduction(introduction),
            Timer::EarlyExpires => self.forget_oldest_early(),
            Timer::KnockExpires { knock } => self.knocked(knock, None),
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
                for rates in self.rates.each() {
                    rates.sweep(now);
                }
                let rates_empty = self.rates.each().into_iter().all(|rates| rates.is_empty());
                self.sweeping = !self.links.is_empty() || !rates_empty;
                if self.sweeping {
                    self.at(now + SWEEP_EVERY, Timer::Sweep);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
