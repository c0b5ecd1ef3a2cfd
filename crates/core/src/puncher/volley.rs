//! Many connects of one round, each to or from another port.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngCore;

use super::{Dialled, Origin, SocketId};
use crate::limits::{
    BIRTHDAY_PORTS, MISS_HELD, REFIRE_AT_ONCE, REFIRE_LEAST, SECOND_WITHIN, SPREAD_HELD, VOLLEY_BATCH,
    VOLLEY_PACE,
};
use crate::plan::{self, Aim, Order};

/// What became of the connects of one round's volley.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolleyReport {
    /// Where the peer was seen.
    pub peer: Option<SocketAddr>,
    /// Ports on this side.
    pub own_ports: u32,
    /// Ports on the other side.
    pub peer_ports: u32,
    /// First SYNs sent.
    pub syns: u32,
    /// Of these, refused by a reset.
    pub refused: u32,
    /// Of these, answered by ICMP.
    pub unreachable: u32,
    /// Connections that did not authenticate.
    pub impostors: u32,
}

/// When the first connect is due.
#[derive(Clone, Copy)]
enum Begins {
    At(Instant),
    /// When the word of the other side has come, then at the latest, and not sooner than the other time.
    AfterPeer(Instant, Instant),
}

pub(super) struct Volley {
    pub(super) round: u8,
    pub(super) birthday: bool,
    /// As [`plan::Volley::repeats`].
    pub(super) repeats: bool,
    pub(super) report: VolleyReport,
    origin: Origin,
    order: Order,
    crossing: bool,
    budget: u32,
    begins: Begins,
    /// When the round began, from which both sides reckon.
    since: Instant,
    /// Who refuses is not known yet, and will be by then.
    unknown_until: Option<Instant>,
    /// How long a word to the other side is under way, at least.
    word_takes: Duration,
    /// Whereto, in this order.
    waiting: VecDeque<SocketAddr>,
    /// Refused, to be fired again.
    later: Vec<(Instant, SocketAddr)>,
    shots: HashMap<SocketId, (SocketAddr, Instant)>,
    /// Until when misses are kept after the last shot.
    held: Duration,
    closes: Option<Instant>,
    told: bool,
}

/// What a volley wants done.
pub(super) enum Step {
    /// Fire at these.
    Fire(Vec<SocketAddr>),
    /// All will be out before the other side hears of it, which waits for that.
    Tell,
    /// These are misses.
    Close(Vec<SocketId>),
    Wait(Instant),
    Nothing,
}

fn begins(now: Instant, order: Order, crossing: bool, (round_trip, bound): (Duration, Duration)) -> Begins {
    match order {
        // Both say when they heard Go, and hear it of the other half a bound of the round trip later: the later of
        // the two moments is the same for both.
        Order::Together if crossing => {
            Begins::AfterPeer(now + 2 * round_trip + SECOND_WITHIN, now + bound / 2)
        }
        Order::Together | Order::First => Begins::At(now),
        Order::Second => Begins::AfterPeer(now + 2 * round_trip + SECOND_WITHIN, now),
    }
}

impl Volley {
    /// A volley at a peer that was seen at `peer`, of at most `most` connects; none at `avoid`. `bound`: of the round trip between
    /// the two as the broker measured it; `round_trip` is what is reckoned with.
    pub(super) fn new(
        now: Instant,
        (round, strategy, volley): (u8, &plan::Strategy, &plan::Volley),
        peer: SocketAddr,
        most: usize,
        (round_trip, bound): (Duration, Duration),
        avoid: &[SocketAddr],
        rng: &mut impl RngCore,
    ) -> Self {
        let shots = usize::from(volley.shots).min(most);
        let at = |port| SocketAddr::new(peer.ip(), port);
        let (origin, targets): (Origin, Vec<SocketAddr>) = match volley.aim {
            Aim::Spread => (Origin::Scratch, vec![peer; shots]),
            Aim::SpreadTo(ahead) => (Origin::Scratch, vec![at(beyond(peer.port(), ahead)); shots]),
            Aim::Next(step) => {
                let steps =
                    (1..=i32::from(volley.shots)).map(|n| at(beyond(peer.port(), n * i32::from(step))));
                (Origin::Round(round), steps.take(shots).collect())
            }
            Aim::Within(first, last) => {
                let all = usize::from(last.saturating_sub(first)) + 1;
                let chosen = rand::seq::index::sample(rng, all, shots.min(all));
                let port = |offset: usize| first.saturating_add(u16::try_from(offset).unwrap_or(0));
                (Origin::Round(round), chosen.iter().map(|offset| at(port(offset))).collect())
            }
        };
        // No NAT gives away well-known ports, and nobody is made to dial them often.
        let waiting: VecDeque<SocketAddr> = targets
            .into_iter()
            .filter(|target| target.port() >= BIRTHDAY_PORTS.0 && !avoid.contains(target))
            .collect();
        let spreads = origin == Origin::Scratch;
        let held = if spreads { SPREAD_HELD } else { MISS_HELD };
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let (own_ports, peer_ports) = if spreads { (count, 1) } else { (1, count) };
        Volley {
            round,
            birthday: volley.birthday,
            repeats: volley.repeats(),
            report: VolleyReport { peer: Some(peer), own_ports, peer_ports, ..VolleyReport::default() },
            origin,
            order: strategy.order,
            crossing: volley.crossing,
            budget: volley.budget.into(),
            since: now,
            unknown_until: None,
            word_takes: bound / 2,
            begins: begins(now, strategy.order, volley.crossing, (round_trip, bound)),
            waiting,
            later: Vec::new(),
            shots: HashMap::new(),
            held,
            closes: None,
            told: false,
        }
    }

    /// Whether nothing of it has left yet.
    pub(super) fn has_not_begun(&self) -> bool {
        self.report.syns == 0 && !self.waiting.is_empty()
    }

    /// Who refuses is known better than when it was made.
    pub(super) fn order_anew(&mut self, order: Order, crossing: bool, round_trips: (Duration, Duration)) {
        (self.order, self.crossing) = (order, crossing);
        self.unknown_until = None;
        self.begins = begins(self.since, order, crossing, round_trips);
    }

    /// Waits until then for who refuses to be known: what crosses nearby meets refusals that an order would avoid.
    pub(super) fn await_knowledge(&mut self, until: Instant) {
        self.unknown_until = Some(until);
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// First SYNs of all volleys.
    pub(super) fn budget(&self) -> u32 {
        self.budget
    }

    /// The other side has fired, or heard Go.
    pub(super) fn peer_fired(&mut self, now: Instant) {
        if let Begins::AfterPeer(_, least) = self.begins {
            self.begins = Begins::At(now.max(least));
            self.unknown_until = None;
        }
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some(until) = self.unknown_until {
            if now < until {
                return Step::Wait(until);
            }
            self.unknown_until = None;
            let late = now.saturating_duration_since(self.since);
            if let Begins::AfterPeer(latest, least) = self.begins {
                self.begins = Begins::AfterPeer(latest + late, least + late);
            }
        }
        if self.crossing && !self.told {
            self.told = true;
            return Step::Tell;
        }
        let (Begins::At(at) | Begins::AfterPeer(at, _)) = self.begins;
        if at > now {
            return Step::Wait(at);
        }
        // The other side may know less of this one's network than this one does by now, and wait.
        if self.order != Order::Second && !self.told && self.left() <= self.word_takes {
            self.told = true;
            return Step::Tell;
        }
        if !self.waiting.is_empty() {
            self.begins = Begins::At(now + VOLLEY_PACE);
            let batch = self.waiting.len().min(VOLLEY_BATCH);
            self.closes = Some(now + self.held);
            return Step::Fire(self.waiting.drain(..batch).collect());
        }
        let due: Vec<SocketAddr> =
            self.later.extract_if(.., |(at, _)| *at <= now).map(|(_, remote)| remote).collect();
        if !due.is_empty() {
            return Step::Fire(due);
        }
        let next = self.later.iter().map(|(at, _)| *at).min();
        match self.closes {
            Some(at) if at <= now => {
                self.closes = None;
                self.later.clear();
                Step::Close(self.shots.drain().map(|(socket, _)| socket).collect())
            }
            Some(at) => Step::Wait(next.map_or(at, |next| next.min(at))),
            None => Step::Nothing,
        }
    }

    /// How long it takes to fire what waits.
    pub(super) fn left(&self) -> Duration {
        VOLLEY_PACE * u32::try_from(self.waiting.len().div_ceil(VOLLEY_BATCH)).unwrap_or(u32::MAX)
    }

    pub(super) fn fired(&mut self, now: Instant, socket: SocketId, remote: SocketAddr) {
        self.report.syns += 1;
        self.shots.insert(socket, (remote, now));
    }

    /// Whether nothing more is to come of it.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.closes.is_none()
    }

    /// Takes the end of a dial; where it leads if it connected. `None` where it is none of this volley.
    pub(super) fn dialled(
        &mut self,
        now: Instant,
        socket: SocketId,
        outcome: Dialled,
        jitter: f64,
    ) -> Option<Option<SocketAddr>> {
        let (remote, fired) = self.shots.remove(&socket)?;
        match outcome {
            Dialled::Connected => return Some(Some(remote)),
            Dialled::Refused => {
                self.report.refused += 1;
                if self.crossing {
                    let pause = now.duration_since(fired).max(REFIRE_LEAST).mul_f64(jitter);
                    self.later.push(((fired + pause).max(now), remote));
                }
            }
            Dialled::Unreachable => {
                self.report.unreachable += 1;
                // The hole is open still, and needs a live socket.
                if self.report.unreachable <= REFIRE_AT_ONCE {
                    self.later.push((now, remote));
                }
            }
            Dialled::InUse | Dialled::NoRoute => self.report.syns = self.report.syns.saturating_sub(1),
            Dialled::TimedOut => {}
        }
        Some(None)
    }

    /// Whether one of the own SYNs to there was refused, as far as is known.
    pub(super) fn was_refused(&self) -> bool {
        self.report.refused + self.report.unreachable > 0
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.shots.keys().copied()
    }
}

/// The port so many above, round the range that NATs choose from.
fn beyond(port: u16, ahead: i32) -> u16 {
    let (first, last) = (i32::from(BIRTHDAY_PORTS.0), i32::from(BIRTHDAY_PORTS.1));
    let round = (i32::from(port) + ahead - first).rem_euclid(last - first + 1) + first;
    u16::try_from(round).unwrap_or(port)
}
