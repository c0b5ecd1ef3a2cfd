//! Learning how the own network maps, filters and refuses: which connections to a broker are made, and what is known
//! when.
//!
//! All of it on scratch ports: the port of the link is never a test object, because a reset on a test connection can
//! close its mapping in a NAT. One scratch port goes to every place of the broker (mapping), and another one to the nearest of
//! them, because a lost SYN takes a second to be sent again; one is knocked at (filtering and refusal); and where ports are not kept, fresh ones go to one place, in order (allocation).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::candidate::{Scope, scope};
use crate::limits::{
    FRESH_PORTS, FRESH_PORTS_LEAST, KNOCK_SILENT_AFTER, KNOCK_TOLD_WITHIN, LOWEST_DIALLED_PORT,
    OBSERVE_WITHIN, OBSERVED_AT, PLACES_AGAIN, SURVEY_PLACES,
};
use crate::profile::{Allocation, Knock, NatProfile, Sample, classify};
use crate::wire::{KnockAnswer, Preface, Probe};

/// Names a connection of a survey.
pub type ConnectionId = usize;

/// From which local port a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// One of the survey's own, the same for the same number, with a listener behind it: else this host's own kernel
    /// would answer knocks.
    Kept(u8),
    /// Any free one that the survey has not used.
    Fresh,
}

/// Where a broker observes a fresh port for a further round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// To each of them goes one connection from that port, all with the same question: what is heard first counts, and a lost
    /// segment delays nothing.
    pub places: Vec<SocketAddr>,
    token: [u8; 8],
}

impl Observer {
    /// The broker to which this link stands. `probes`: where else it says that it observes, of which those at the same address are
    /// taken; `token`: the broker's half of it.
    pub fn new(link: SocketAddr, probes: &[Probe], token: [u8; 8]) -> Self {
        let ip = link.ip().to_canonical();
        let here = |probe: &&Probe| probe.ip.is_none_or(|other| other.to_canonical() == ip);
        let mut places = vec![link];
        for probe in probes.iter().filter(here) {
            let mut place = link;
            place.set_port(probe.port);
            if places.len() < OBSERVED_AT && !places.contains(&place) {
                places.push(place);
            }
        }
        Observer { places, token }
    }

    /// What the connections begin with.
    pub fn greeting(&self, question: [u8; 8]) -> Vec<u8> {
        [&Preface::Observe.encode()[..], &self.token, &question].concat()
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Begin to connect, in this order and without waiting for what was begun before. Once connected, send the preface
    /// and the question behind the broker's half of the token; keep the connection until the end.
    Connect {
        /// Its name.
        connection: ConnectionId,
        /// From where.
        from: Port,
        /// To where.
        destination: SocketAddr,
        /// What it begins with.
        preface: Preface,
        /// The peer's half of the token.
        question: [u8; 8],
    },
    /// This is known by now.
    Learnt(NatProfile),
    /// Nothing more until then, or until something happens.
    Wait(Instant),
    /// It is over; connections and ports can be closed.
    Finished,
}

/// For what a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Mapping,
    /// The same from another port.
    MappingAgain,
    Knocks,
    Allocation,
}

struct Connection {
    purpose: For,
    destination: SocketAddr,
    question: [u8; 8],
    begun: Instant,
    local: Option<SocketAddr>,
    round_trip: Duration,
    observed: Option<(SocketAddr, Instant)>,
    failed: bool,
}

impl Connection {
    fn over_at(&self) -> Instant {
        self.begun + OBSERVE_WITHIN
    }

    fn is_over(&self, now: Instant) -> bool {
        self.failed || self.observed.is_some() || now >= self.over_at()
    }
}

/// One survey of the own network.
pub struct Survey {
    door: Sample,
    connections: Vec<Connection>,
    /// From the address that was dialled, and from the other one.
    answers: [Option<KnockAnswer>; 2],
    /// Whether the broker has another address to knock from.
    elsewhere: bool,
    /// Drawn in the beginning, so that nothing random happens later.
    questions: Vec<[u8; 8]>,
    known: NatProfile,
    outputs: VecDeque<Output>,
    finished: bool,
}

impl Survey {
    /// Begins one at the broker to which a link stands.
    ///
    /// `None` where there is nothing to learn: over IPv6 there is no mapping, and a broker on this side of the NAT does
    /// not see it. `door`: what the broker says of the link. `probes`: where else it says that it observes; addresses
    /// that nobody has on the internet, and ports below [`LOWEST_DIALLED_PORT`], are left out, so that a broker makes
    /// nobody knock in the own network.
    pub fn begin(now: Instant, door: Sample, probes: &[Probe], rng: &mut impl Rng) -> Option<Self> {
        let known = classify(&[door]);
        let broker = SocketAddr::new(door.destination.ip().to_canonical(), door.destination.port());
        if known.translated.is_none() || !broker.is_ipv4() {
            return None;
        }
        let others = probes.iter().map(|probe| {
            let ip = probe.ip.map_or(broker.ip(), |ip| ip.to_canonical());
            SocketAddr::new(ip, probe.port)
        });
        let allowed = |at: &SocketAddr| {
            at.ip() == broker.ip() || is_elsewhere(at.ip()) && at.port() >= LOWEST_DIALLED_PORT
        };
        let mut places = vec![broker];
        for place in others.filter(allowed) {
            if places.len() < SURVEY_PLACES && !places.contains(&place) {
                places.push(place);
            }
        }
        let mut survey = Survey {
            door,
            connections: Vec::new(),
            answers: [None; 2],
            elsewhere: places.iter().any(|place| place.ip() != broker.ip()),
            questions: (0..SURVEY_PLACES + PLACES_AGAIN + 1 + FRESH_PORTS).map(|_| rng.random()).collect(),
            known,
            outputs: VecDeque::new(),
            finished: false,
        };
        // Only a translator's mapping is in question.
        if known.translated == Some(true) {
            for place in &places {
                survey.connect(now, For::Mapping, *place);
            }
            // One place alone tells nothing.
            for place in places.iter().take(PLACES_AGAIN).filter(|_| places.len() > 1) {
                survey.connect(now, For::MappingAgain, *place);
            }
        }
        survey.connect(now, For::Knocks, broker);
        survey.look_at_allocation(now);
        Some(survey)
    }

    fn connect(&mut self, now: Instant, purpose: For, destination: SocketAddr) {
        let Some(question) = self.questions.pop() else { return };
        let (from, preface) = match purpose {
            For::Mapping => (Port::Kept(0), Preface::Observe),
            For::MappingAgain => (Port::Kept(2), Preface::Observe),
            For::Knocks => (Port::Kept(1), Preface::Knock),
            For::Allocation => (Port::Fresh, Preface::Observe),
        };
        let connection = self.connections.len();
        self.connections.push(Connection {
            purpose,
            destination,
            question,
            begun: now,
            local: None,
            round_trip: Duration::ZERO,
            observed: None,
            failed: false,
        });
        self.outputs.push_back(Output::Connect { connection, from, destination, preface, question });
    }

    /// Fresh ports tell nothing where ports are kept for all.
    fn look_at_allocation(&mut self, now: Instant) {
        let begun = self.connections.iter().any(|it| it.purpose == For::Allocation);
        let keeps = self.known.allocation == Allocation::Preserving && !self.known.is_symmetric();
        if !begun && !keeps {
            for _ in 0..FRESH_PORTS {
                self.connect(now, For::Allocation, self.door.destination);
            }
        }
    }

    /// A connection stands.
    pub fn connected(&mut self, now: Instant, connection: ConnectionId, local: SocketAddr) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.local = Some(local);
            connection.round_trip = now.saturating_duration_since(connection.begun);
        }
    }

    /// A connection could not be made, or broke.
    pub fn failed(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.failed = true;
        }
    }

    /// The broker says where it saw a connection.
    pub fn observed(&mut self, now: Instant, question: [u8; 8], from: SocketAddr) {
        // Near the broker it can come before this side has looked at its own socket.
        let asked = |it: &&mut Connection| it.question == question;
        if let Some(connection) = self.connections.iter_mut().find(asked) {
            connection.observed.get_or_insert((from, now));
        }
    }

    /// The broker says what came of a knock.
    pub fn knocked(&mut self, question: [u8; 8], elsewhere: bool, answer: KnockAnswer) {
        let asked = |it: &Connection| it.question == question && it.purpose == For::Knocks;
        // Without another address nobody can knock from there.
        if self.connections.iter().any(asked) && (self.elsewhere || !elsewhere) {
            let [same, other] = &mut self.answers;
            (if elsewhere { other } else { same }).get_or_insert(answer);
        }
    }

    /// What is to be done next; ends with [`Output::Wait`] or [`Output::Finished`].
    pub fn poll(&mut self, now: Instant) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            let profile = self.profile(now);
            if profile != self.known {
                self.known = profile;
                self.outputs.push_back(Output::Learnt(profile));
                self.look_at_allocation(now);
                continue;
            }
            if self.finished {
                return Output::Finished;
            }
            match self.next(now) {
                Some(at) => return Output::Wait(at),
                None => self.finished = true,
            }
        }
    }

    fn profile(&self, now: Instant) -> NatProfile {
        let settled = self.allocation_settled(now);
        let mut samples = vec![self.door];
        for connection in &self.connections {
            if let (Some(local), Some((observed, _))) = (connection.local, connection.observed)
                && (settled || connection.purpose != For::Allocation)
            {
                samples.push(Sample { local, destination: connection.destination, observed });
            }
        }
        classify(&samples).with_knocks(&self.knocks(now))
    }

    /// The connection that is knocked at, once the broker has seen it.
    fn knocked_at(&self) -> Option<(&Connection, Instant)> {
        let connection = self.connections.iter().find(|it| it.purpose == For::Knocks)?;
        connection.observed.map(|(_, at)| (connection, at))
    }

    /// From when on silence counts, and until when.
    fn silence(&self) -> Option<(Instant, Instant)> {
        let (connection, observed) = self.knocked_at()?;
        let margin = connection.round_trip * 3 / 2 + KNOCK_SILENT_AFTER;
        Some((observed + margin, observed + margin + KNOCK_TOLD_WITHIN))
    }

    fn knocks(&self, now: Instant) -> Vec<Knock> {
        let silent = self.silence().is_some_and(|(from, until)| now >= from && now < until);
        let asked = [false, true].into_iter().take(if self.elsewhere { 2 } else { 1 });
        let answers = asked.zip(self.answers).filter_map(|(elsewhere, answer)| {
            // A broker that is too busy to knock says nothing of it: then nothing is known in the end.
            let answer = answer.or(silent.then_some(KnockAnswer::Silent))?;
            Some(Knock { elsewhere, answer })
        });
        answers.collect()
    }

    fn answered(&self) -> bool {
        let [same, other] = self.answers;
        same.is_some() && (other.is_some() || !self.elsewhere)
    }

    fn fresh(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|it| it.purpose == For::Allocation)
    }

    /// When so many fresh ports were seen that the rest is not waited for: half a round trip after the first.
    fn enough_at(&self) -> Option<Instant> {
        let seen = || self.fresh().filter_map(|it| Some((it.observed?.1, it.round_trip)));
        if seen().count() < FRESH_PORTS_LEAST {
            return None;
        }
        seen().map(|(at, round_trip)| at + round_trip / 2 + KNOCK_SILENT_AFTER).min()
    }

    fn allocation_settled(&self, now: Instant) -> bool {
        self.fresh().all(|it| it.is_over(now)) || self.enough_at().is_some_and(|at| at <= now)
    }

    /// When there is something to be done again, if anything is awaited.
    fn next(&self, now: Instant) -> Option<Instant> {
        let observations =
            self.connections.iter().filter(|it| !it.is_over(now)).map(Connection::over_at).min();
        let enough = self.enough_at().filter(|at| *at > now && !self.allocation_settled(now));
        let (from, until) = self.silence().filter(|_| !self.answered()).unzip();
        [observations, enough, from.filter(|at| *at > now), until.filter(|at| *at > now)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Whether it may be a host on the internet.
fn is_elsewhere(ip: IpAddr) -> bool {
    let unicast = |ip: Ipv4Addr| matches!(ip.octets(), [1..=223, ..]);
    matches!(ip, IpAddr::V4(v4) if unicast(v4)) && scope(ip) == Scope::Global
}

#[cfg(test)]
mod tests;
