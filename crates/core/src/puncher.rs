//! The state machine of one attempt to reach one peer.
//!
//! A driver opens and closes sockets and reports what became of them; the puncher decides which
//! address is dialled when, which connection is authenticated, and which one wins. The rules of
//! firing are measured (`docs/nat.md`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngCore};

use crate::candidate::{Candidate, Kind};
use crate::limits::{
    AUTHENTICATE_WITHIN, GO_DELAY_MOST, LANE_PACE, LANES_AT_ONCE, LANES_PER_ATTEMPT, LISTEN_ON_FOR,
    NOMINATED_WITHIN, REFIRE_AT_ONCE, REFIRE_FAST_FOR, REFIRE_LEAST, REFIRE_SHARE, REFIRE_SLOW,
    REFUSED_AT_ONCE, ROUND_TRIP_LEAST, ROUND_TRIP_MOST, STAGGER, STUCK_AFTER, SYNS_BEFORE_SEEN,
    SYNS_BESIDE_VOLLEY, SYNS_PER_ATTEMPT, SYNS_PER_HOST_LANE, SYNS_PER_LANE,
};
use crate::plan::{Rules, Strategy, strategy};
use crate::profile::NatProfile;
use crate::wire::Word;

mod rounds;
mod volley;

use rounds::Round;
use volley::Volley;
pub use volley::VolleyReport;

/// Names a socket within one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// Where a dial begins on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The local port of this round, on which a listener stands unless [`Output::Open`] said otherwise; round 0 is the door.
    Round(u8),
    /// Any other port of its own.
    Scratch,
}

/// What an attempt is about.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether this side chooses the connection. Exactly one side does.
    pub controlling: bool,
    /// An upper bound of the round trip between the peers.
    pub round_trip_bound: Duration,
    /// When the peers were introduced.
    pub introduced: Instant,
    /// When to give up.
    pub deadline: Instant,
    /// What the peer was told of the own network when it was introduced.
    pub own: NatProfile,
    /// What is known of the peer's.
    pub peer: NatProfile,
    /// The broker sees this side over IPv6, and has told the peer where.
    pub seen_over_v6: bool,
    /// They met in a lobby: nobody there fires at ports that the broker did not see.
    pub strangers: bool,
    /// How many sockets there may be beyond those of lanes.
    pub sockets: usize,
    /// Where nothing may be sent though it looks like the peer: this peer itself, and the broker.
    pub avoid: Vec<SocketAddr>,
    /// The rules of firing.
    pub rules: Rules,
}

/// What became of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A TCP connection stands.
    Connected,
    /// A reset came back (ECONNREFUSED).
    Refused,
    /// ICMP came back (EHOSTUNREACH and kin).
    Unreachable,
    /// The same 4-tuple is alive (EADDRNOTAVAIL, EADDRINUSE): it arrives at the listener.
    InUse,
    /// This machine has no way there, or may not go it.
    NoRoute,
    /// This machine has no descriptor or buffer left for now: misses of volleys give theirs back.
    NoDescriptor,
    /// The kernel gave up.
    TimedOut,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The broker's signal to fire.
    Go,
    /// An address of the peer; what may not be dialled was taken out before.
    Candidate(Candidate),
    /// What is known of the two networks now.
    Profiles {
        /// The own one.
        own: NatProfile,
        /// The peer's.
        peer: NatProfile,
    },
    /// The broker sees this side over IPv6 from now on.
    SeenOverV6,
    /// The peer begins a further round.
    RoundWanted {
        /// Which.
        round: u8,
    },
    /// Both have a fresh port for a further round: fire.
    Round {
        /// Which.
        round: u8,
        /// Where the peer's fresh port is; what may not be dialled was taken out before.
        candidates: Vec<Candidate>,
    },
    /// How far the peer is in a round.
    PeerSays {
        /// Which.
        round: u8,
        /// How far.
        word: Word,
    },
    /// A dial ended.
    Dialled {
        /// Its socket.
        socket: SocketId,
        /// How.
        outcome: Dialled,
    },
    /// A connection with this attempt's tag came in at the listener.
    Accepted {
        /// Its socket, named by [`Puncher::name_socket`].
        socket: SocketId,
        /// Where it comes from.
        remote: SocketAddr,
    },
    /// The peer's first record on this connection verified.
    Verified {
        /// Its socket.
        socket: SocketId,
        /// Whether the peer nominates it.
        nominated: bool,
    },
    /// The peer nominated a connection that had verified before.
    Nominated {
        /// Its socket.
        socket: SocketId,
    },
    /// A connection died, or what came on it does not verify.
    Failed {
        /// Its socket.
        socket: SocketId,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Fire: begin to connect.
    Dial {
        /// The new socket's name.
        socket: SocketId,
        /// Wherefrom.
        origin: Origin,
        /// Whereto.
        remote: SocketAddr,
        /// One of many to or from different ports.
        many: bool,
    },
    /// Take a fresh port for a further round, and have the broker observe it.
    Open {
        /// Which round.
        round: u8,
        /// Over IPv6: nothing is left to hope for over IPv4.
        v6: bool,
        /// Whether to listen there. Otherwise the kernel resets a SYN that comes in while none of its own is under way.
        listen: bool,
    },
    /// Close it unless the peer's SYN has come in on it: then it may connect yet. Its end is told in any case.
    Release {
        /// Its socket.
        socket: SocketId,
    },
    /// Tell the peer how far this side is in a round.
    Tell {
        /// Which round.
        round: u8,
        /// How far.
        word: Word,
    },
    /// Exchange tags and first records on this connection.
    Authenticate {
        /// Its socket.
        socket: SocketId,
        /// What the own first record says.
        nominate: bool,
        /// Whether it counts only when the peer has acknowledged the own first record: own SYNs on
        /// this lane were refused. If a NAT remembers one of those, it knows other sequence numbers
        /// than this connection uses, and lets only one direction through.
        cautious: bool,
    },
    /// Tell the peer on this verified connection that it is the one.
    Nominate {
        /// Its socket.
        socket: SocketId,
    },
    /// Close a socket.
    Close {
        /// Which.
        socket: SocketId,
    },
    /// Nothing more until then, or until something happens.
    Wait(Instant),
    /// The attempt is over.
    Finished(Box<Finished>),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The connection, if there is one.
    pub winner: Option<Winner>,
    /// First SYNs of this side on all lanes.
    pub syns: u32,
    /// What was tried.
    pub lanes: Vec<LaneReport>,
    /// What was tried at many ports.
    pub volleys: Vec<VolleyReport>,
    /// Rounds that began.
    pub rounds: u8,
}

/// The connection that won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Its socket.
    pub socket: SocketId,
    /// The kind of the candidate that it was dialled at, where the remote address is one.
    pub kind: Option<Kind>,
    /// The round that it belongs to, as far as known.
    pub round: u8,
    /// This side dialled it as one of many chosen by chance; whether the other side did its first record says.
    pub birthday: bool,
}

/// What was tried on one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// The address and what it rests on.
    pub candidate: Candidate,
    /// First SYNs sent.
    pub syns: u32,
    /// Of these, refused by a reset.
    pub refused: u32,
    /// Of these, answered by ICMP.
    pub unreachable: u32,
    /// TCP connections on it that did not authenticate.
    pub impostors: u32,
    /// Whether this machine had no way there.
    pub no_route: bool,
}

impl LaneReport {
    pub(crate) fn new(candidate: Candidate) -> Self {
        LaneReport { candidate, syns: 0, refused: 0, unreachable: 0, impostors: 0, no_route: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    /// Before Go.
    Waiting,
    /// Fires then.
    Ready(Instant),
    /// Is not dialled: the peer has to come in.
    Passive,
    /// The hole is open: a live SYN_SENT socket.
    Connecting(SocketId),
    /// The 4-tuple is alive in the kernel and must come in at the listener.
    AwaitingAccept(Instant),
    /// A connection stands.
    Open(SocketId),
    Dead,
}

struct Lane {
    report: LaneReport,
    round: u8,
    state: LaneState,
    first_fire: Option<Instant>,
    last_fire: Instant,
}

struct Open {
    socket: SocketId,
    remote: SocketAddr,
    /// It was dialled, or came in, as one of many.
    many: Option<u8>,
    /// It was dialled as one of many chosen by chance.
    birthday: bool,
    verified: bool,
    until: Instant,
}

/// One attempt.
pub struct Puncher<R> {
    rng: R,
    config: Config,
    round_trip: Duration,
    lanes: Vec<Lane>,
    rounds: Vec<Round>,
    /// The last round that was opened on this side.
    opened: u8,
    /// The peer's last word, and the round that it is of, which may have begun there before it does here.
    peer_says: Option<(u8, Word)>,
    /// After an answer by ICMP the peer's SYN met the listener before the next own SYN left: the own NAT knows another sequence
    /// number, and what comes in is of no use. So a further round begins at once, and nothing listens in it.
    spoiled: bool,
    open: Vec<Open>,
    went: bool,
    nominated: Option<SocketId>,
    next_socket: u32,
    lane_syns: u32,
    volley_syns: u32,
    quiet_since: Option<Instant>,
    outputs: VecDeque<Output>,
    finished: bool,
}

impl<R: RngCore> Puncher<R> {
    /// An attempt without lanes yet; it waits for Go.
    pub fn new(config: Config, rng: R) -> Self {
        let first = strategy(&config.own, &config.peer, 0, config.strangers, &config.rules);
        let mut puncher = Puncher {
            rng,
            round_trip: config.round_trip_bound.clamp(ROUND_TRIP_LEAST, ROUND_TRIP_MOST),
            config,
            lanes: Vec::new(),
            rounds: vec![Round::new(first)],
            opened: 0,
            peer_says: None,
            spoiled: false,
            open: Vec::new(),
            went: false,
            nominated: None,
            next_socket: 0,
            lane_syns: 0,
            volley_syns: 0,
            quiet_since: None,
            outputs: VecDeque::new(),
            finished: false,
        };
        if first.fresh {
            puncher.open_round(1);
        }
        puncher
    }

    /// A name for a socket that the driver brings.
    pub fn name_socket(&mut self) -> SocketId {
        self.next_socket += 1;
        SocketId(self.next_socket)
    }

    /// Whether the attempt is over, though outputs may be left.
    pub fn is_over(&self) -> bool {
        self.finished
    }

    /// Whether this side dialled that connection as one of many chosen by chance.
    pub fn is_birthday(&self, socket: SocketId) -> bool {
        self.open.iter().any(|open| open.socket == socket && open.birthday)
    }

    /// First SYNs of this side so far.
    pub fn syns(&self) -> u32 {
        self.lane_syns + self.volley_syns
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.finished {
            return;
        }
        match input {
            Input::Go => self.go(now),
            Input::Candidate(candidate) => self.candidate(now, candidate),
            Input::Profiles { own, peer } => {
                (self.config.own, self.config.peer) = (own, peer);
                self.plan_again(now);
            }
            Input::SeenOverV6 => self.seen_over_v6(now),
            Input::RoundWanted { round } => {
                if round == self.opened + 1 {
                    self.open_round(round);
                }
            }
            Input::Round { round, candidates } => self.round(now, round, candidates),
            Input::PeerSays { round, word } => {
                self.peer_says = Some((round, word));
                if let Some(volley) =
                    self.rounds.get_mut(usize::from(round)).and_then(|it| it.volley.as_mut())
                {
                    volley.peer_says(now, word);
                }
            }
            Input::Dialled { socket, outcome } => self.dialled(now, socket, outcome),
            Input::Accepted { socket, remote } => self.accepted(now, socket, remote),
            Input::Verified { socket, nominated } => self.verified(socket, nominated),
            Input::Nominated { socket } => {
                let known = self.open.iter().any(|open| open.socket == socket && open.verified);
                if !self.config.controlling && known {
                    self.win(socket);
                }
            }
            Input::Failed { socket } => self.failed(now, socket),
        }
    }

    /// What is to be done next; ends with [`Output::Wait`] until [`Output::Finished`] came, which
    /// comes exactly once.
    pub fn poll(&mut self, now: Instant) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if self.finished {
                return Output::Wait(self.config.deadline.max(now));
            }
            let deadline = self.deadline();
            if now >= deadline {
                self.finish(None);
                continue;
            }
            let expired = self.open.iter().find(|open| !open.verified && open.until <= now);
            if let Some(socket) = expired.map(|open| open.socket) {
                self.outputs.push_back(Output::Close { socket });
                self.failed(now, socket);
                continue;
            }
            let go_lost = self.config.introduced + GO_DELAY_MOST + self.round_trip;
            if !self.went && go_lost <= now {
                self.go(now);
                continue;
            }
            let due = self.lanes.iter().position(|lane| match lane.state {
                LaneState::Ready(at) | LaneState::AwaitingAccept(at) => at <= now,
                LaneState::Waiting
                | LaneState::Passive
                | LaneState::Connecting(_)
                | LaneState::Open(_)
                | LaneState::Dead => false,
            });
            if let Some(index) = due {
                self.fire(now, index);
                continue;
            }
            let mut next = deadline;
            if self.volleys(now, &mut next) || self.next_round(now, &mut next) {
                continue;
            }
            let listen_until = self.listen_until(now);
            if listen_until.is_some_and(|until| until <= now) {
                self.finish(None);
                continue;
            }
            if !self.went {
                next = next.min(go_lost);
            }
            for lane in &self.lanes {
                if let LaneState::Ready(at) | LaneState::AwaitingAccept(at) = lane.state {
                    next = next.min(at);
                }
            }
            for open in self.open.iter().filter(|open| !open.verified) {
                next = next.min(open.until);
            }
            if let Some(until) = listen_until {
                next = next.min(until);
            }
            return Output::Wait(next);
        }
    }

    fn go(&mut self, now: Instant) {
        if self.went {
            return;
        }
        self.went = true;
        let Some(strategy) = self.rounds.first().map(|round| round.strategy) else { return };
        // On the others something came in before Go.
        let waiting = self.lanes.iter_mut().filter(|lane| lane.state == LaneState::Waiting);
        let staggers = self.config.rules.stagger;
        let off = self.round_trip.mul_f64(if staggers { self.rng.random_range(0.0..STAGGER) } else { 0.0 });
        for (index, lane) in waiting.enumerate() {
            lane.state = begins(&lane.report.candidate, &strategy, now + pace(index) + off);
        }
        self.start(now, 0);
    }

    fn candidate(&mut self, now: Instant, candidate: Candidate) {
        let known = self.lanes.iter().any(|lane| lane.report.candidate.address == candidate.address);
        if known || self.lanes.len() >= LANES_PER_ATTEMPT {
            return;
        }
        let state = match self.rounds.first() {
            Some(first) if self.went => begins(&candidate, &first.strategy, now + pace(self.lanes.len())),
            Some(_) | None => LaneState::Waiting,
        };
        let report = LaneReport::new(candidate);
        self.lanes.push(Lane { report, round: 0, state, first_fire: None, last_fire: now });
        self.quiet_since = None;
        if self.went {
            self.start(now, 0);
        }
    }

    /// The peer fires over IPv6 only now.
    fn seen_over_v6(&mut self, now: Instant) {
        self.config.seen_over_v6 = true;
        let waits =
            |lane: &&mut Lane| lane.report.candidate.address.is_ipv6() && lane.state == LaneState::Passive;
        for lane in self.lanes.iter_mut().filter(waits) {
            lane.first_fire = None;
            lane.state = LaneState::Ready(now);
        }
    }

    /// When the listener alone is no longer worth waiting for: all lanes are dead, nothing is open.
    fn listen_until(&mut self, now: Instant) -> Option<Instant> {
        let mut volleys = self.rounds.iter().filter_map(|round| round.volley.as_ref());
        let quiet = self.went
            && self.open.is_empty()
            && self.lanes.iter().all(|lane| lane.state == LaneState::Dead)
            && volleys.all(Volley::is_over);
        if !quiet {
            self.quiet_since = None;
            return None;
        }
        let since = *self.quiet_since.get_or_insert(now);
        Some(since + 2 * self.round_trip + LISTEN_ON_FOR)
    }

    fn fire(&mut self, now: Instant, index: usize) {
        let socket = self.name_socket();
        let spent = self.lane_syns >= SYNS_PER_ATTEMPT;
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        let strategy = self.rounds.get(usize::from(lane.round)).map(|round| round.strategy);
        let beside_volley = strategy.is_some_and(|it| it.volley.is_some() || it.fresh);
        let few = beside_volley || self.config.peer.is_symmetric();
        let Candidate { address, kind } = lane.report.candidate;
        let unseen = address.is_ipv6() && kind == Kind::Reflexive && !self.config.seen_over_v6;
        let budget = match kind {
            _ if unseen => SYNS_BEFORE_SEEN,
            _ if few && is_translated(&lane.report.candidate) => SYNS_BESIDE_VOLLEY,
            Kind::Host => SYNS_PER_HOST_LANE,
            Kind::Reflexive | Kind::Predicted | Kind::Mapped => SYNS_PER_LANE,
        };
        if spent || lane.report.syns >= budget {
            lane.state = if unseen && !spent { LaneState::Passive } else { LaneState::Dead };
            return;
        }
        lane.report.syns += 1;
        self.lane_syns += 1;
        lane.first_fire.get_or_insert(now);
        lane.last_fire = now;
        lane.state = LaneState::Connecting(socket);
        let remote = lane.report.candidate.address;
        let origin = Origin::Round(lane.round);
        self.outputs.push_back(Output::Dial { socket, origin, remote, many: false });
    }

    fn dialled(&mut self, now: Instant, socket: SocketId, outcome: Dialled) {
        let await_accept = now + self.round_trip + STUCK_AFTER;
        let jitter: f64 = self.rng.random_range(0.5..1.5);
        for index in 0..self.rounds.len() {
            let Some(volley) = self.rounds.get_mut(index).and_then(|round| round.volley.as_mut()) else {
                continue;
            };
            let before = volley.report.syns;
            let Some(ended) = volley.dialled(now, socket, outcome, jitter) else { continue };
            self.volley_syns -= before - volley.report.syns;
            let (round, cautious) = (volley.round, volley.was_refused() && self.config.rules.caution);
            match ended {
                // A stranger may listen on one of so many ports.
                Some(remote) => self.authenticate(now, socket, remote, (false, cautious), Some(round)),
                None => self.outputs.push_back(Output::Close { socket }),
            }
            return;
        }
        let Config { rules, .. } = self.config;
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.state == LaneState::Connecting(socket))
        else {
            // The connection came in at the listener meanwhile, or the lane died.
            self.outputs.push_back(Output::Close { socket });
            return;
        };
        let fires_for = lane.first_fire.map_or(Duration::ZERO, |first| now.duration_since(first));
        let fast = fires_for < REFIRE_FAST_FOR;
        let refusal_took = now.duration_since(lane.last_fire);
        match outcome {
            Dialled::Connected => {
                let remote = lane.report.candidate.address;
                // Another machine may have the peer's address in this network: it must show first
                // that it is the peer. The round trip there is small.
                let known = lane.report.candidate.kind != Kind::Host;
                let cautious = rules.caution && lane.report.refused + lane.report.unreachable > 0;
                lane.state = LaneState::Open(socket);
                self.authenticate(now, socket, remote, (known, cautious), None);
                return;
            }
            Dialled::Refused if !rules.refire => {
                lane.report.refused += 1;
                lane.state = LaneState::Dead;
            }
            Dialled::Refused => {
                lane.report.refused += 1;
                let at_once = refusal_took < REFIRE_LEAST && lane.report.refused <= REFUSED_AT_ONCE;
                let pause = match (at_once, fast) {
                    (true, _) => Duration::ZERO,
                    (false, true) => refusal_took.max(REFIRE_LEAST).max(fires_for.mul_f64(REFIRE_SHARE)),
                    (false, false) => REFIRE_SLOW,
                };
                lane.state = LaneState::Ready((lane.last_fire + pause.mul_f64(jitter)).max(now));
            }
            Dialled::Unreachable => {
                lane.report.unreachable += 1;
                // The hole outlives the socket, and a peer's SYN that comes in while there is none
                // spoils it: so at once, as long as answers may come from a limited supply.
                let pause = if rules.icmp_at_once && lane.report.unreachable <= REFIRE_AT_ONCE {
                    Duration::ZERO
                } else if fast {
                    REFIRE_LEAST.mul_f64(jitter + 0.5)
                } else {
                    REFIRE_SLOW.mul_f64(jitter)
                };
                lane.state = LaneState::Ready((lane.last_fire + pause).max(now));
            }
            Dialled::InUse => {
                // It was no SYN: the kernel refused before sending one.
                lane.report.syns -= 1;
                self.lane_syns -= 1;
                lane.state = LaneState::AwaitingAccept(await_accept);
                let last = usize::from(lane.round) + 1 == self.rounds.len();
                self.spoiled |= last && rules.icmp_at_once && lane.report.unreachable > 0;
            }
            Dialled::NoRoute => {
                lane.report.syns -= 1;
                self.lane_syns -= 1;
                lane.report.no_route = true;
                lane.state = LaneState::Dead;
            }
            Dialled::NoDescriptor => {
                lane.report.syns -= 1;
                self.lane_syns -= 1;
                lane.state = LaneState::Ready(now + REFIRE_SLOW.mul_f64(jitter));
            }
            Dialled::TimedOut => lane.state = LaneState::Dead,
        }
        self.outputs.push_back(Output::Close { socket });
    }

    fn accepted(&mut self, now: Instant, socket: SocketId, remote: SocketAddr) {
        let volleys = self.rounds.iter().filter_map(|round| round.volley.as_ref());
        let mut many = volleys.clone().next_back().map(|volley| volley.round);
        // A SYN of ours that is under way would have taken in what crosses it: it was refused, and nobody has said so yet.
        let mut cautious = volleys.into_iter().any(|volley| volley.was_refused() || volley.shoots_at(remote));
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.report.candidate.address == remote) {
            many = None;
            cautious = lane.report.refused + lane.report.unreachable > 0;
            if let LaneState::Connecting(_) | LaneState::Ready(_) = lane.state {
                let last = usize::from(lane.round) + 1 == self.rounds.len();
                self.spoiled |= last && self.config.rules.icmp_at_once && lane.report.unreachable > 0;
            }
            match lane.state {
                LaneState::Open(_) => {}
                LaneState::Connecting(old) => {
                    // Crossing SYNs end in the connecting socket: the kernel let none of ours out, or it was refused.
                    lane.report.syns = lane.report.syns.saturating_sub(1);
                    self.lane_syns = self.lane_syns.saturating_sub(1);
                    cautious = true;
                    self.outputs.push_back(Output::Close { socket: old });
                    lane.state = LaneState::Open(socket);
                }
                LaneState::Waiting
                | LaneState::Passive
                | LaneState::Ready(_)
                | LaneState::AwaitingAccept(_)
                | LaneState::Dead => lane.state = LaneState::Open(socket),
            }
        }
        cautious &= self.config.rules.caution;
        self.authenticate(now, socket, remote, (true, cautious), many);
    }

    fn authenticate(
        &mut self,
        now: Instant,
        socket: SocketId,
        remote: SocketAddr,
        (known, cautious): (bool, bool),
        many: Option<u8>,
    ) {
        let nominate = known && !cautious && self.config.controlling && self.nominated.is_none();
        // Who is nominated does not know it before the record that says so has come, and the other side may be less cautious.
        let patience = if known { NOMINATED_WITHIN } else { AUTHENTICATE_WITHIN };
        let until = now + 2 * self.round_trip + patience;
        // What comes in may have been dialled at the address that was seen.
        let volley =
            many.filter(|_| !known).and_then(|round| self.rounds.get(usize::from(round))?.volley.as_ref());
        let birthday = volley.is_some_and(|volley| volley.birthday);
        self.open.push(Open { socket, remote, many, birthday, verified: false, until });
        if nominate {
            self.nominated = Some(socket);
        }
        self.outputs.push_back(Output::Authenticate { socket, nominate, cautious });
    }

    fn verified(&mut self, socket: SocketId, nominated: bool) {
        let Some(open) = self.open.iter_mut().find(|open| open.socket == socket) else {
            return;
        };
        open.verified = true;
        if self.config.controlling {
            if self.nominated.is_none() {
                self.outputs.push_back(Output::Nominate { socket });
                self.nominated = Some(socket);
            }
            if self.nominated == Some(socket) {
                self.win(socket);
            }
        } else if nominated {
            self.win(socket);
        }
    }

    fn failed(&mut self, now: Instant, socket: SocketId) {
        let Some(at) = self.open.iter().position(|open| open.socket == socket) else { return };
        let many = self.open.swap_remove(at).many;
        let volley = many.and_then(|round| self.rounds.get_mut(usize::from(round))?.volley.as_mut());
        if let Some(volley) = volley {
            volley.report.impostors += 1;
        }
        let jitter: f64 = self.rng.random_range(0.5..1.5);
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.state == LaneState::Open(socket)) {
            lane.report.impostors += 1;
            let at = now + REFIRE_SLOW.mul_f64(jitter);
            lane.state = match self.rounds.get(usize::from(lane.round)) {
                Some(round) if self.went => begins(&lane.report.candidate, &round.strategy, at),
                Some(_) | None => LaneState::Waiting,
            };
        }
        if self.nominated == Some(socket) {
            self.nominated = None;
            let spare = self.open.iter().find(|open| open.verified).map(|open| open.socket);
            if let Some(spare) = spare {
                self.nominated = Some(spare);
                self.outputs.push_back(Output::Nominate { socket: spare });
                self.win(spare);
            }
        }
    }

    fn win(&mut self, socket: SocketId) {
        let open = self.open.iter().find(|open| open.socket == socket);
        let (remote, many) = (open.map(|open| open.remote), open.and_then(|open| open.many));
        let lane = self.lanes.iter().find(|lane| Some(lane.report.candidate.address) == remote);
        let kind = lane.filter(|_| many.is_none()).map(|lane| lane.report.candidate.kind);
        let round = many.or(lane.map(|lane| lane.round)).unwrap_or_default();
        let birthday = open.is_some_and(|open| open.birthday);
        self.finish(Some(Winner { socket, kind, round, birthday }));
    }

    fn finish(&mut self, winner: Option<Winner>) {
        self.finished = true;
        let won = winner.map(|winner| winner.socket);
        for lane in &self.lanes {
            if let LaneState::Connecting(socket) = lane.state {
                self.outputs.push_back(Output::Close { socket });
            }
        }
        let volleys = self.rounds.iter().filter_map(|round| round.volley.as_ref());
        let shots: Vec<SocketId> = volleys.clone().flat_map(Volley::sockets).collect();
        let volleys = volleys.map(|volley| volley.report).collect();
        self.outputs.extend(shots.into_iter().map(|socket| Output::Close { socket }));
        for open in self.open.iter().filter(|open| Some(open.socket) != won) {
            self.outputs.push_back(Output::Close { socket: open.socket });
        }
        let lanes = self.lanes.iter().map(|lane| lane.report).collect();
        let rounds = self.rounds.iter().filter(|round| round.went.is_some()).count();
        let rounds = u8::try_from(rounds).unwrap_or(u8::MAX);
        let finished = Finished { winner, syns: self.syns(), lanes, volleys, rounds };
        self.outputs.push_back(Output::Finished(Box::new(finished)));
    }
}

/// Whether it is a lane that may connect whatever ports NATs choose.
fn needs_no_luck(lane: &Lane) -> bool {
    let Candidate { address, kind } = lane.report.candidate;
    (address.is_ipv6() || kind == Kind::Mapped) && !matches!(lane.state, LaneState::Dead | LaneState::Passive)
}

/// Whether it is an address before a NAT, the peer's.
fn is_translated(candidate: &Candidate) -> bool {
    candidate.address.is_ipv4() && matches!(candidate.kind, Kind::Reflexive | Kind::Predicted)
}

/// What a lane of a round that begins does.
fn begins(candidate: &Candidate, strategy: &Strategy, at: Instant) -> LaneState {
    if strategy.dial || !is_translated(candidate) { LaneState::Ready(at) } else { LaneState::Passive }
}

fn pace(index: usize) -> Duration {
    let late = index.saturating_sub(LANES_AT_ONCE - 1);
    LANE_PACE * u32::try_from(late).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
