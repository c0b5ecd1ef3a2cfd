//! One attempt on a simulated host: what `tcpunch`'s `attempt.rs` does, driven by events instead of tasks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use natlab::Time;
use natlab::sim::{ConnectOptions, Os, SocketError, SocketId};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tcpunch_core::candidate::{Candidate, Surroundings};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{ARRIVALS, DESCRIPTORS_RESERVED, MAX_OBSERVED, PORT_FIRST, PORT_LAST, PORT_TRIES};
use tcpunch_core::plan::{
    self, Obstacle, Path, SynBudget, first_candidates, hidden_beside_broker, host_candidates,
    mapped_candidate, translated,
};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::puncher::{self, Config, Dialled, Finished, Input, Origin, Output, Puncher};
use tcpunch_core::secure::{LaneKeys, PREAMBLE, SALT, Tag, Told, parse_preamble, preamble, tags};
use tcpunch_core::survey::Observer;
use tcpunch_core::wire::{Introduction, Signal, ToBroker, Word};

use super::clock::Clock;
use super::wire::{Inbox, Record};

/// The salts that the two sides drew for one connection, own first: no other connection has them.
pub(super) type Salts = ([u8; SALT], [u8; SALT]);

/// A dial, as the properties judge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// When.
    pub at: Time,
    /// Whereto.
    pub remote: SocketAddr,
}

/// How an attempt ended.
pub(super) enum Ended {
    Connected { path: Path, salts: Salts, socket: SocketId, inbox: Inbox },
    NoPath(Box<Obstacle>),
}

/// What an attempt begins with.
pub(super) struct Reach {
    pub(super) clock: Clock,
    pub(super) own: PublicKey,
    pub(super) introduction: Introduction,
    pub(super) introduced: Time,
    pub(super) timeout: Duration,
    /// What the peer told of itself.
    pub(super) told: Told,
    pub(super) here: Surroundings,
    /// The local addresses of the links, for IPv4 and IPv6.
    pub(super) sources: [Option<IpAddr>; 2],
    pub(super) v6: bool,
    pub(super) profile: NatProfile,
    pub(super) observers: Observers,
    pub(super) rules: plan::Rules,
}

/// Where fresh ports are observed, over IPv4 and IPv6.
pub(super) type Observers = [Option<Observer>; 2];

/// A connection that came in with this attempt's tag.
pub(super) struct Arrival {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    pub(super) salt: [u8; SALT],
    pub(super) inbox: Inbox,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    /// It stands; the puncher has not said what to do with it.
    Connected,
    /// The own first record is out.
    AwaitsPreamble,
    AwaitsConfirm,
    /// Cautious: the peer must have acknowledged the own first record.
    AwaitsAck {
        nominated: bool,
    },
    /// Verified; the peer chooses.
    AwaitsNomination,
    Verified,
}

struct Lane {
    id: puncher::SocketId,
    socket: SocketId,
    remote: SocketAddr,
    stage: Stage,
    inbox: Inbox,
    own_salt: [u8; SALT],
    peer_salt: Option<[u8; SALT]>,
    cautious: bool,
    /// One side dialled the other at a port that a router forwards.
    mapped: bool,
    /// One side dialled it as one of many chosen by chance.
    birthday: bool,
    /// The other end, or the network, has ended it.
    over: bool,
}

pub(super) struct Attempt {
    reach: Reach,
    own_tag: Tag,
    peer_tag: Tag,
    puncher: Puncher<ChaCha8Rng>,
    random: ChaCha8Rng,
    peer_profile: NatProfile,
    /// The peer's addresses by its own account.
    told: Vec<SocketAddr>,
    /// The port that its router forwards, by its own account, if it may be dialled.
    mapped: Option<SocketAddr>,
    budget: SynBudget,
    lanes: Vec<Lane>,
    salts: Vec<[u8; SALT]>,
    controlling: bool,
    /// What is given up from now on is closed with a FIN.
    over: bool,
    wait: Time,
    finishes: u32,
    /// Most sockets at once.
    most_sockets: usize,
    /// The fresh ports of rounds, and the connections on which they are observed.
    fresh: Vec<Fresh>,
    /// Where the peer's fresh ports were seen.
    seen_fresh: Vec<SocketAddr>,
    pub(super) dials: Vec<Dial>,
    /// To be told to the broker.
    pub(super) say: Vec<ToBroker>,
}

impl Attempt {
    pub(super) fn new(reach: Reach, random: (ChaCha8Rng, ChaCha8Rng)) -> Self {
        let (own_tag, peer_tag) = tags(&reach.introduction.nonce, &reach.own, &reach.introduction.peer);
        let controlling = reach.own > reach.introduction.peer;
        let introduced = reach.clock.instant(reach.introduced);
        let config = Config {
            controlling,
            round_trip_bound: Duration::from_micros(u64::from(reach.introduction.round_trip_bound_us)),
            introduced,
            deadline: introduced + reach.timeout,
            own: reach.introduction.own_profile,
            peer: reach.introduction.profile,
            seen_over_v6: reach.here.observed.iter().any(SocketAddr::is_ipv6),
            strangers: false,
            sockets: SOCKETS,
            avoid: [&reach.here.observed[..], &reach.here.brokers].concat(),
            rules: reach.rules,
        };
        let mut attempt = Self {
            own_tag,
            peer_tag,
            puncher: Puncher::new(config, random.0),
            random: random.1,
            peer_profile: reach.introduction.profile,
            told: Vec::new(),
            mapped: None,
            budget: SynBudget::default(),
            lanes: Vec::new(),
            salts: Vec::new(),
            controlling,
            over: false,
            wait: reach.introduced,
            finishes: 0,
            most_sockets: 0,
            fresh: Vec::new(),
            seen_fresh: Vec::new(),
            dials: Vec::new(),
            say: Vec::new(),
            reach,
        };
        attempt.begin();
        attempt
    }

    fn begin(&mut self) {
        let Introduction { addresses, public, .. } = &self.reach.introduction;
        let first = first_candidates(addresses, public, &self.reach.here);
        let now = self.reach.introduced;
        self.candidates(now, first);
        let Told { hosts, mapped } = std::mem::take(&mut self.reach.told);
        let Introduction { addresses, public, .. } = &self.reach.introduction;
        let mapped = mapped.and_then(|at| mapped_candidate(at, addresses, public, &self.reach.here));
        self.mapped = mapped.map(|candidate| candidate.address);
        self.candidates(now, mapped.into_iter().collect());
        self.told = hosts;
        let hosts = host_candidates(&self.told, &self.reach.introduction.addresses, &self.reach.here);
        self.candidates(now, hosts);
        if self.reach.profile != self.reach.introduction.own_profile {
            self.profiles(now);
        }
    }

    fn candidates(&mut self, now: Time, candidates: Vec<Candidate>) {
        let now = self.reach.clock.instant(now);
        for candidate in candidates {
            if candidate.address.is_ipv4() || self.reach.v6 {
                self.puncher.handle(now, Input::Candidate(candidate));
            }
        }
    }

    fn profiles(&mut self, now: Time) {
        let input = Input::Profiles { own: self.reach.profile, peer: self.peer_profile };
        self.puncher.handle(self.reach.clock.instant(now), input);
    }

    fn input(&mut self, os: &Os<'_>, input: Input) {
        self.puncher.handle(self.reach.clock.instant(os.now()), input);
    }

    pub(super) fn expects(&self, tag: &Tag) -> bool {
        self.peer_tag == *tag
    }

    pub(super) fn introduced(&self) -> Time {
        self.reach.introduced
    }

    pub(super) fn introduction(&self) -> u64 {
        self.reach.introduction.id
    }

    /// Where the broker saw the peer so far.
    pub(super) fn peer_addresses(&self) -> Vec<SocketAddr> {
        [&self.reach.introduction.addresses[..], &self.seen_fresh].concat()
    }

    /// First SYNs, as the puncher counts them.
    pub(super) fn syns(&self) -> u32 {
        self.puncher.syns()
    }

    /// Most sockets that it had at once.
    pub(super) fn most_sockets(&self) -> usize {
        self.most_sockets
    }

    /// How often it said that it is over.
    pub(super) fn finishes(&self) -> u32 {
        self.finishes
    }

    /// When it wants to be driven again, if nothing comes before.
    pub(super) fn wait(&self) -> Time {
        self.wait
    }

    pub(super) fn go(&mut self, os: &Os<'_>) {
        self.input(os, Input::Go);
    }

    pub(super) fn seen_at(&mut self, os: &Os<'_>, address: SocketAddr) {
        if self.reach.introduction.addresses.len() < MAX_OBSERVED {
            self.reach.introduction.addresses.push(address);
        }
        let found = first_candidates(&[address], &[], &self.reach.here);
        self.candidates(os.now(), found);
    }

    pub(super) fn peer_profile(&mut self, os: &Os<'_>, profile: NatProfile) {
        self.peer_profile = profile;
        self.profiles(os.now());
    }

    pub(super) fn own_profile(&mut self, os: &Os<'_>, profile: NatProfile) {
        self.reach.profile = profile;
        self.profiles(os.now());
    }

    /// A link came up.
    pub(super) fn observers(&mut self, os: &Os<'_>, observers: Observers) {
        let [_, six] = &observers;
        let over_v6 = six.is_some();
        self.reach.observers = observers;
        if over_v6 {
            self.input(os, Input::SeenOverV6);
        }
    }

    pub(super) fn round_wanted(&mut self, os: &Os<'_>, round: u8) {
        self.input(os, Input::RoundWanted { round });
    }

    pub(super) fn round(&mut self, os: &Os<'_>, round: u8, peer: SocketAddr) {
        self.seen_fresh.push(peer);
        let found = first_candidates(&[peer], &self.reach.introduction.public, &self.reach.here);
        let candidates = found.into_iter().filter(|it| it.address.is_ipv4() || self.reach.v6).collect();
        self.input(os, Input::Round { round, candidates });
    }

    pub(super) fn peer_says(&mut self, os: &Os<'_>, round: u8, word: Word) {
        self.input(os, Input::PeerSays { round, word });
    }

    /// Takes a fresh port, listens there unless it must not, and has it observed.
    fn open(&mut self, os: &mut Os<'_>, round: u8, v6: bool, listen: bool) {
        let [four, six] = &self.reach.observers;
        let Some(observer) = (if v6 { six } else { four.as_ref().map_or(six, |_| four) }) else { return };
        for _ in 0..PORT_TRIES {
            let port = self.random.random_range(PORT_FIRST..=PORT_LAST);
            let Ok(listener) = os.listen(port) else { continue };
            if !listen {
                os.close(listener);
            }
            let [v4, v6] = self.reach.sources;
            let question: [u8; 8] = self.random.random();
            let observed = observer.places.iter().filter_map(|place| {
                let source = if place.is_ipv4() { v4 } else { v6 };
                os.connect(*place, ConnectOptions { source, port, ttl: None }).ok()
            });
            let (observed, greeting) = (observed.collect(), observer.greeting(question));
            self.fresh.push(Fresh { round, port, observed, greeting });
            let introduction = self.reach.introduction.id;
            self.say.push(ToBroker::Round { introduction, round, question });
            return;
        }
    }

    /// A connection on which a fresh port is observed stands.
    fn observe(&mut self, os: &mut Os<'_>, socket: SocketId) -> bool {
        let fresh = self.fresh.iter().find(|fresh| fresh.observed.contains(&socket));
        if let Some(fresh) = fresh {
            os.write(socket, &fresh.greeting);
        }
        fresh.is_some()
    }

    pub(super) fn arrived(&mut self, os: &mut Os<'_>, arrival: Arrival) {
        let Arrival { socket, remote, salt, inbox } = arrival;
        let pending = self.lanes.iter().filter(|lane| lane.stage != Stage::Dialling).count();
        if pending >= ARRIVALS {
            return drop_stream(os, socket, &inbox);
        }
        let id = self.puncher.name_socket();
        self.lanes.push(Lane {
            id,
            socket,
            remote,
            stage: Stage::Connected,
            inbox,
            own_salt: [0; SALT],
            peer_salt: Some(salt),
            cautious: false,
            mapped: false,
            birthday: false,
            over: false,
        });
        self.input(os, Input::Accepted { socket: id, remote });
    }

    fn position(&self, socket: SocketId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.socket == socket)
    }

    /// Whether the socket belongs to this attempt.
    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.position(socket).is_some()
    }

    pub(super) fn connected(&mut self, os: &mut Os<'_>, socket: SocketId) {
        if self.observe(os, socket) {
            return;
        }
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.socket == socket) else { return };
        lane.stage = Stage::Connected;
        let id = lane.id;
        self.input(os, Input::Dialled { socket: id, outcome: Dialled::Connected });
    }

    pub(super) fn refused(&mut self, os: &Os<'_>, socket: SocketId, error: SocketError) {
        let Some(at) = self.position(socket) else { return };
        let id = self.lanes.swap_remove(at).id;
        self.input(os, Input::Dialled { socket: id, outcome: later(error) });
    }

    pub(super) fn readable(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.socket == socket) else { return };
        lane.inbox.fill(os, socket);
        let id = lane.id;
        self.advance(os, id);
    }

    /// The other end sends no more (`gone`: the socket is no more either).
    pub(super) fn ended(&mut self, os: &mut Os<'_>, socket: SocketId, gone: bool) {
        let Some(at) = self.position(socket) else { return };
        let Some(lane) = self.lanes.get_mut(at) else { return };
        lane.over |= gone;
        let id = lane.id;
        match lane.stage {
            // Nobody reads it.
            Stage::Dialling | Stage::Connected | Stage::Verified => return,
            Stage::AwaitsPreamble
            | Stage::AwaitsConfirm
            | Stage::AwaitsAck { .. }
            | Stage::AwaitsNomination => {}
        }
        self.give_up(os, id);
        self.input(os, Input::Failed { socket: id });
    }

    /// Closes what is not, or no longer, taken for the peer.
    fn give_up(&mut self, os: &mut Os<'_>, id: puncher::SocketId) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id == id) else { return };
        let lane = self.lanes.swap_remove(at);
        if lane.over {
            return;
        }
        match lane.stage {
            Stage::Dialling => os.close(lane.socket),
            Stage::Connected | Stage::AwaitsNomination | Stage::Verified => {
                drop_stream(os, lane.socket, &lane.inbox);
            }
            // As `Doubtful`: a reset clears what NATs remember of it, but some close a whole port on one.
            Stage::AwaitsPreamble | Stage::AwaitsConfirm | Stage::AwaitsAck { .. } if self.over => {
                drop_stream(os, lane.socket, &lane.inbox);
            }
            Stage::AwaitsPreamble | Stage::AwaitsConfirm | Stage::AwaitsAck { .. } => os.abort(lane.socket),
        }
    }

    /// Goes on with tags and first records as far as what came in allows.
    fn advance(&mut self, os: &mut Os<'_>, id: puncher::SocketId) {
        while let Some(at) = self.lanes.iter().position(|lane| lane.id == id) {
            match self.step(os, at) {
                Step::Waits => return,
                Step::Goes => {}
                Step::Fails => {
                    self.give_up(os, id);
                    return self.input(os, Input::Failed { socket: id });
                }
                Step::Verified { nominated } => {
                    self.verified(os, id, nominated);
                }
                Step::Nominated => return self.input(os, Input::Nominated { socket: id }),
            }
        }
    }

    fn step(&mut self, os: &mut Os<'_>, at: usize) -> Step {
        let Some(lane) = self.lanes.get_mut(at) else { return Step::Waits };
        match lane.stage {
            Stage::Dialling | Stage::Connected | Stage::Verified => Step::Waits,
            Stage::AwaitsPreamble => {
                let Some(head) = lane.inbox.take_array::<PREAMBLE>() else { return Step::Waits };
                match parse_preamble(&head) {
                    Ok((tag, salt, 0)) if tag == self.peer_tag => {
                        lane.peer_salt = Some(salt);
                        lane.stage = Stage::AwaitsConfirm;
                        Step::Goes
                    }
                    Ok(_) | Err(_) => Step::Fails,
                }
            }
            Stage::AwaitsConfirm => match lane.inbox.record() {
                Ok(None) => Step::Waits,
                Ok(Some(Record::Confirm { nominates, mapped, birthday })) => {
                    lane.mapped |= mapped;
                    lane.birthday |= birthday;
                    let mut out = Vec::new();
                    Record::Ack.write(&mut out);
                    os.write(lane.socket, &out);
                    if lane.cautious {
                        lane.stage = Stage::AwaitsAck { nominated: nominates };
                        Step::Goes
                    } else {
                        Step::Verified { nominated: nominates }
                    }
                }
                Ok(Some(Record::Nominate | Record::Ack | Record::Data)) | Err(_) => Step::Fails,
            },
            Stage::AwaitsAck { nominated } => match lane.inbox.record() {
                Ok(None) => Step::Waits,
                Ok(Some(Record::Ack)) => Step::Verified { nominated },
                Ok(Some(Record::Confirm { .. } | Record::Nominate | Record::Data)) | Err(_) => Step::Fails,
            },
            Stage::AwaitsNomination => match lane.inbox.record() {
                Ok(None) => Step::Waits,
                Ok(Some(Record::Ack)) => Step::Goes,
                Ok(Some(Record::Nominate)) => {
                    lane.stage = Stage::Verified;
                    Step::Nominated
                }
                Ok(Some(Record::Confirm { .. } | Record::Data)) | Err(_) => Step::Fails,
            },
        }
    }

    fn verified(&mut self, os: &mut Os<'_>, id: puncher::SocketId, nominated: bool) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) else { return };
        let salt = lane.peer_salt.unwrap_or_default();
        // What was said on one connection proves nothing on another.
        if self.salts.contains(&salt) {
            self.give_up(os, id);
            return self.input(os, Input::Failed { socket: id });
        }
        let waits = !self.controlling && !nominated;
        lane.stage = if waits { Stage::AwaitsNomination } else { Stage::Verified };
        self.salts.push(salt);
        self.input(os, Input::Verified { socket: id, nominated });
    }

    /// Does all that the puncher wants done by now.
    pub(super) fn drive(&mut self, os: &mut Os<'_>) -> Option<Ended> {
        loop {
            let now = self.reach.clock.instant(os.now());
            self.most_sockets = self.most_sockets.max(self.lanes.len());
            match self.puncher.poll(now) {
                Output::Wait(at) => {
                    self.wait = self.reach.clock.time(at);
                    return None;
                }
                Output::Finished(finished) => {
                    self.finishes += 1;
                    return Some(self.finish(os, *finished));
                }
                Output::Dial { socket, origin, remote, many } => {
                    self.dial(os, socket, (origin, remote), many)
                }
                Output::Open { round, v6, listen } => self.open(os, round, v6, listen),
                Output::Tell { round, word } => {
                    let introduction = self.reach.introduction.id;
                    self.say.push(ToBroker::Relay { introduction, signal: Signal::Word { round, word } });
                }
                Output::Authenticate { socket, nominate, cautious } => {
                    self.authenticate(os, socket, nominate, cautious);
                }
                Output::Nominate { socket } => {
                    let lane = self.lanes.iter().find(|lane| lane.id == socket);
                    if let Some(lane) = lane.filter(|lane| lane.stage == Stage::Verified && !lane.over) {
                        let mut out = Vec::new();
                        Record::Nominate.write(&mut out);
                        os.write(lane.socket, &out);
                    }
                }
                Output::Release { socket } => {
                    let lane = self.lanes.iter().find(|lane| lane.id == socket);
                    if lane.is_some_and(|lane| !os.is_half_open(lane.socket)) {
                        self.input(os, Input::Dialled { socket, outcome: Dialled::TimedOut });
                    }
                }
                Output::Close { socket } => {
                    self.over = self.puncher.is_over();
                    self.give_up(os, socket);
                }
            }
        }
    }

    fn dial(
        &mut self,
        os: &mut Os<'_>,
        id: puncher::SocketId,
        (origin, remote): (Origin, SocketAddr),
        many: bool,
    ) {
        let now = self.reach.clock.instant(os.now());
        let socket = if self.budget.allow(now, remote.ip(), many) {
            self.dials.push(Dial { at: os.now(), remote });
            let fresh = |round| self.fresh.iter().find(|fresh| fresh.round == round).map(|fresh| fresh.port);
            let port = match origin {
                Origin::Round(0) => self.reach.here.port,
                Origin::Round(round) => fresh(round).unwrap_or_default(),
                Origin::Scratch => 0,
            };
            let options = ConnectOptions { source: self.source(remote), port, ttl: None };
            os.connect(remote, options).map_err(at_once)
        } else {
            Err(Dialled::TimedOut)
        };
        match socket {
            Ok(socket) => self.lanes.push(Lane {
                id,
                socket,
                remote,
                stage: Stage::Dialling,
                inbox: Inbox::default(),
                own_salt: [0; SALT],
                peer_salt: None,
                cautious: false,
                mapped: false,
                birthday: false,
                over: false,
            }),
            Err(outcome) => self.input(os, Input::Dialled { socket: id, outcome }),
        }
    }

    fn source(&self, remote: SocketAddr) -> Option<IpAddr> {
        let [v4, v6] = self.reach.sources;
        plan::source(if remote.is_ipv4() { v4 } else { v6 }, remote)
    }

    fn authenticate(&mut self, os: &mut Os<'_>, id: puncher::SocketId, nominate: bool, cautious: bool) {
        let salt = LaneKeys::salt(&mut self.random);
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) else { return };
        lane.own_salt = salt;
        lane.cautious = cautious;
        lane.mapped = lane.peer_salt.is_none() && self.mapped == Some(lane.remote);
        lane.birthday = self.puncher.is_birthday(id);
        let (mapped, birthday) = (lane.mapped, lane.birthday);
        lane.stage = if lane.peer_salt.is_some() { Stage::AwaitsConfirm } else { Stage::AwaitsPreamble };
        if lane.over {
            self.give_up(os, id);
            return self.input(os, Input::Failed { socket: id });
        }
        if let Ok(mut out) = preamble(&self.own_tag, &salt, &[]) {
            Record::Confirm { nominates: nominate, mapped, birthday }.write(&mut out);
            os.write(lane.socket, &out);
        }
        self.advance(os, id);
    }

    fn finish(&mut self, os: &mut Os<'_>, finished: Finished) -> Ended {
        for socket in std::mem::take(&mut self.fresh).into_iter().flat_map(|fresh| fresh.observed) {
            os.close(socket);
        }
        let won = finished.winner.and_then(|winner| {
            let at = self.lanes.iter().position(|lane| lane.id == winner.socket)?;
            let verified = self.lanes.get(at).is_some_and(|lane| lane.stage == Stage::Verified);
            verified.then(|| self.lanes.swap_remove(at))
        });
        self.over = true;
        for id in self.lanes.iter().map(|lane| lane.id).collect::<Vec<_>>() {
            self.give_up(os, id);
        }
        let own = self.reach.profile;
        if let Some(lane) = won
            && let (Some(local), Some(peer_salt)) = (os.local(lane.socket), lane.peer_salt)
        {
            let ends = [
                translated(own, local, &self.reach.here.observed),
                translated(self.peer_profile, lane.remote, &self.told),
            ];
            let path = match Path::of(local, lane.remote, ends) {
                _ if lane.mapped => Path::Mapped,
                Path::Punched if lane.birthday => Path::Birthday,
                path => path,
            };
            let salts = (lane.own_salt, peer_salt);
            return Ended::Connected { path, salts, socket: lane.socket, inbox: lane.inbox };
        }
        let Introduction { addresses, public, .. } = &self.reach.introduction;
        let beside_broker = hidden_beside_broker(addresses, public, &self.reach.here);
        Ended::NoPath(Box::new(Obstacle { own, peer: self.peer_profile, tried: finished, beside_broker }))
    }
}

/// Sockets that a volley may have: the program raises its limit, and no system's hard limit is below 4,096.
const SOCKETS: usize = 2048;
/// Sockets that the machine lets it have.
pub(super) const SOCKETS_ALLOWED: usize = SOCKETS + DESCRIPTORS_RESERVED;

/// The own port of a further round, and the connections on which it is observed, with what is said there.
struct Fresh {
    round: u8,
    port: u16,
    observed: Vec<SocketId>,
    greeting: Vec<u8>,
}

enum Step {
    Waits,
    Goes,
    Fails,
    Verified { nominated: bool },
    Nominated,
}

/// Closes as Linux does: with a reset where something came that nobody read.
pub(super) fn drop_stream(os: &mut Os<'_>, socket: SocketId, inbox: &Inbox) {
    if inbox.is_empty() && os.read(socket).is_empty() { os.close(socket) } else { os.abort(socket) }
}

/// What `connect` says before a SYN left; as `port.rs` sorts it.
fn at_once(error: SocketError) -> Dialled {
    match error {
        SocketError::Refused | SocketError::Reset => Dialled::Refused,
        SocketError::AddressNotAvailable | SocketError::AddressInUse => Dialled::InUse,
        SocketError::HostUnreachable
        | SocketError::NetUnreachable
        | SocketError::Prohibited
        | SocketError::TimedOut => Dialled::NoRoute,
        SocketError::TooManyFiles => Dialled::NoDescriptor,
    }
}

/// What comes back from the network; as `port.rs` sorts it.
fn later(error: SocketError) -> Dialled {
    match error {
        SocketError::Refused | SocketError::Reset => Dialled::Refused,
        SocketError::AddressNotAvailable | SocketError::AddressInUse => Dialled::InUse,
        SocketError::TimedOut => Dialled::TimedOut,
        SocketError::HostUnreachable
        | SocketError::NetUnreachable
        | SocketError::Prohibited
        | SocketError::TooManyFiles => Dialled::Unreachable,
    }
}
