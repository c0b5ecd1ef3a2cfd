//! The broker as a state machine: who is registered, who may meet whom, introductions and Go.
//!
//! Values only: a driver feeds it links and messages with the time, and carries out what it says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{CryptoRng, RngCore};

use crate::identity::PublicKey;
use crate::limits::{
    BROKER_KNOCKS, BROKER_LINKS, BROKER_LINKS_PER_ADDRESS, CLAIMS_PER_ADDRESS, CODES_PER_ADDRESS,
    INTRODUCTIONS_PER_ADDRESS, JOINS_PER_ADDRESS, KNOCKS_PER_ADDRESS, LOBBY_INTRODUCTIONS_PER_ADDRESS,
    LOBBY_MEMBERS, OPENS_PER_ADDRESS, PROOFS_PER_ADDRESS, SIGNAL_OVERHEAD, SIGNALS_PER_ADDRESS,
    SIGNALS_PER_SESSION, UNKNOWN_ROUND_TRIP,
};
use crate::profile::NatProfile;
use crate::wire::{ClaimId, FromBroker, IntroductionId, KnockAnswer, ObservationToken, Probe, ToBroker};

mod codes;
pub mod fence;
mod introductions;
mod links;
mod lobby;
mod observations;

use codes::{Claim, Code, Misses};
pub use fence::subscriber;
use fence::{Bucket, Held, Rates};
use introductions::Introduced;
use observations::{Early, Knock};

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
    /// Connect, from any port but those that are listened on; give up after [`KNOCK_WITHIN`](crate::limits::KNOCK_WITHIN), and
    /// close what comes of it.
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
    KnockAgain {
        knock: KnockId,
    },
    KnockExpires {
        knock: KnockId,
    },
    Sweep,
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
            ToBroker::Open { request, verb, again } => self.open(now, link, peer, request, verb, again),
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
            Timer::KnockAgain { knock } => self.knock_again(now, knock),
            Timer::KnockExpires { knock } => self.knocked(knock, None),
            Timer::Sweep => {
                self.close_silent_links(now);
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
