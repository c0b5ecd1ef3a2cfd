//! Many connects of one round, each to or from another port.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngCore;

use super::{Dialled, Origin, SocketId};
use crate::limits::{
    BIRTHDAY_PORTS, CROSSING_BLOCK_OVER, CROSSING_NEAR, CROSSING_SHOTS, CROSSING_STEPS_OVER, CROSSING_WITHIN,
    FIRED_SAID_BEFORE, FIRED_WITHIN, HURRIES_FROM, MISS_HELD, REFIRE_AT_ONCE, REFIRE_LEAST, ROUNDS,
    SECOND_REST_WITHIN, SECOND_WITHIN, SECOND_WITHIN_LONG, SPREAD_HELD, VOLLEY_BATCH, VOLLEY_PACE,
};
use crate::plan::{self, Aim, Order};
use crate::wire::Word;

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

pub(super) struct Volley {
    pub(super) round: u8,
    pub(super) birthday: bool,
    /// As [`plan::Volley::repeats`].
    pub(super) repeats: bool,
    pub(super) report: VolleyReport,
    origin: Origin,
    order: Order,
    crossing: bool,
    /// How it is fired where SYNs must cross.
    crosses: Pace,
    /// If second it fires before the other side's word can be here; what is refused of it is fired again at the word.
    hurries: bool,
    budget: u32,
    /// Of the budget, what later rounds need.
    reserved: u32,
    /// When the round began, from which both sides reckon.
    since: Instant,
    /// How far the other side was last, and when that was heard.
    peer: Option<(Instant, Word)>,
    /// Not before, because of the pace.
    paced: Instant,
    /// What is reckoned with.
    round_trip: Duration,
    /// Who refuses is not known yet, and will be by then.
    unknown_until: Option<Instant>,
    /// Who fires first if it does not become known.
    guess: Option<Order>,
    /// How long a word to the other side is under way, at least.
    word_takes: Duration,
    /// Whereto, in this order.
    waiting: VecDeque<SocketAddr>,
    /// Refused, to be fired again.
    later: Vec<(Instant, SocketAddr)>,
    shots: HashMap<SocketId, (SocketAddr, Instant)>,
    /// When the last of them ended with a refusal.
    refused: Option<Instant>,
    /// Until when misses are kept after the last shot.
    held: Duration,
    closes: Option<Instant>,
    told: Option<Word>,
}

/// How a volley is fired once it is due.
#[derive(Clone, Copy)]
struct Pace {
    /// How much later than the two sides agreed.
    lead: Duration,
    /// How many at once.
    batch: usize,
    /// How long until the next.
    pause: Duration,
}

impl Pace {
    const EVEN: Pace = Pace { lead: Duration::ZERO, batch: VOLLEY_BATCH, pause: VOLLEY_PACE };

    /// Where SYNs must cross nearby. Of ports that step each has one counterpart, so one side's own ports follow each other evenly, and
    /// what is fired at all of them leaves at once, in the middle. Of a block any two may meet, so both sides fire evenly.
    fn of_crossing(volley: &plan::Volley, shots: usize) -> Pace {
        let evenly = |over: Duration| {
            let batch = shots.div_ceil(CROSSING_SHOTS).max(1);
            Pace { batch, pause: over.mul_f64(batch as f64 / shots.max(1) as f64), ..Pace::EVEN }
        };
        match volley.aim {
            Aim::SpreadTo(_) => Pace::EVEN,
            Aim::Next(_) => Pace { lead: CROSSING_STEPS_OVER / 2, batch: shots.max(1), pause: VOLLEY_PACE },
            Aim::Spread if volley.steps => evenly(CROSSING_STEPS_OVER),
            Aim::Spread | Aim::Within(..) => evenly(CROSSING_BLOCK_OVER),
        }
    }
}

/// What a volley wants done.
pub(super) enum Step {
    /// Fire at these; `again`: they were refused before.
    Fire {
        remotes: Vec<SocketAddr>,
        again: bool,
    },
    /// The other side waits for this.
    Tell(Word),
    /// These are misses, but for those on which a SYN has come in.
    Release(Vec<SocketId>),
    Wait(Instant),
    Nothing,
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
        let later = ROUNDS.saturating_sub(round + 1);
        let (own_ports, peer_ports) = if spreads { (count, 1) } else { (1, count) };
        Volley {
            round,
            birthday: volley.birthday,
            repeats: volley.repeats(),
            report: VolleyReport { peer: Some(peer), own_ports, peer_ports, ..VolleyReport::default() },
            origin,
            order: strategy.order,
            crossing: volley.crossing,
            // Farther away all of them cross.
            crosses: if volley.birthday || bound >= CROSSING_NEAR {
                Pace::EVEN
            } else {
                Pace::of_crossing(volley, shots)
            },
            hurries: false,
            budget: volley.budget.into(),
            reserved: if volley.repeats() { u32::from(volley.shots) * u32::from(later) } else { 0 },
            since: now,
            peer: None,
            paced: now,
            round_trip,
            unknown_until: None,
            guess: None,
            word_takes: bound / 2,
            waiting,
            later: Vec::new(),
            shots: HashMap::new(),
            refused: None,
            held,
            closes: None,
            told: None,
        }
    }

    /// Whether nothing of it has left yet.
    pub(super) fn has_not_begun(&self) -> bool {
        self.report.syns == 0 && !self.waiting.is_empty()
    }

    /// What the other side was told.
    pub(super) fn told(&self) -> Option<Word> {
        self.told
    }

    /// It was told so of another volley of the same round, and hears each word once.
    pub(super) fn has_told(&mut self, told: Option<Word>) {
        self.told = told;
    }

    /// Who refuses is known better than when it was made.
    pub(super) fn order_anew(&mut self, order: Order, crossing: bool) {
        (self.order, self.crossing) = (order, crossing);
        self.unknown_until = None;
    }

    /// Waits until then for who refuses to be known: what crosses nearby meets refusals that an order would avoid. Without it the order
    /// is `guess`.
    pub(super) fn await_knowledge(&mut self, until: Instant, guess: Option<Order>) {
        self.unknown_until = Some(until);
        self.guess = guess;
    }

    /// Far away it does not wait for the word that the other side has fired, if enough is left to fire all of it again at the word.
    /// `spent`: first SYNs of all volleys so far.
    pub(super) fn may_hurry(&mut self, spent: u32) {
        let twice = 2 * u32::try_from(self.waiting.len()).unwrap_or(u32::MAX / 2);
        self.hurries = 2 * self.word_takes >= HURRIES_FROM && spent + twice <= self.budget(true);
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// First SYNs of all volleys; what was refused leaves enough for later rounds.
    pub(super) fn budget(&self, again: bool) -> u32 {
        if again { self.budget.saturating_sub(self.reserved) } else { self.budget }
    }

    pub(super) fn peer_says(&mut self, now: Instant, word: Word) {
        self.peer = Some((now, word));
        // The other side has waited for both.
        if self.unknown_until.take().is_some() && word == Word::Ready {
            self.go_by_guess();
        }
    }

    fn go_by_guess(&mut self) {
        if let Some(order) = self.guess {
            (self.order, self.crossing) = (order, false);
        }
    }

    /// When the next of the first SYNs are due.
    fn due(&self) -> Instant {
        let begins = self.agreed();
        // What the other side fired at the same moment is out by then, and this is a good while under way.
        let begins = if self.hurries_now() { begins.min(self.since + self.word_takes / 4) } else { begins };
        begins.max(self.paced)
    }

    /// From when on what was refused is fired again.
    fn again_from(&self) -> Instant {
        if self.hurries_now() { self.agreed() } else { self.since }
    }

    fn hurries_now(&self) -> bool {
        self.hurries && self.order == Order::Second
    }

    /// When this side is to fire by what the other has said.
    fn agreed(&self) -> Instant {
        let heard = |at: Instant| at.max(self.since);
        match (self.order, self.peer) {
            // Both say when they heard Go, and hear it of the other half a bound of the round trip later: the later of
            // the two moments is the same for both.
            (Order::Together, Some((at, _))) if self.crossing => {
                at.max(self.since + self.word_takes) + self.crosses.lead
            }
            (Order::Together, None) if self.crossing => self.since + 2 * self.round_trip + CROSSING_WITHIN,
            (Order::Together | Order::First, _) => self.since,
            (Order::Second, Some((at, Word::Fired))) => heard(at),
            (Order::Second, Some((at, Word::Ready))) => heard(at) + FIRED_WITHIN,
            (Order::Second, None) => self.since + self.by_itself(),
        }
    }

    /// When what is due is second without any word: the other side's Go may be late, or its word alone.
    fn by_itself(&self) -> Duration {
        let of_all = self.report.own_ports.max(self.report.peer_ports);
        match (self.birthday, self.origin == Origin::Scratch) {
            (true, false) => SECOND_WITHIN_LONG,
            // The other side holds its many ports for a shorter time than there are delays: so one half for each.
            (true, true) if 2 * self.report.syns >= of_all => SECOND_REST_WITHIN,
            (true, true) | (false, _) => {
                let connects_held = SECOND_WITHIN.saturating_sub(self.round_trip.mul_f64(1.5));
                connects_held.max(self.round_trip + FIRED_WITHIN / 2)
            }
        }
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some(until) = self.unknown_until {
            if now < until {
                return Step::Wait(until);
            }
            // The other side has waited as long.
            self.unknown_until = None;
            self.since = self.since.max(now);
            self.go_by_guess();
        }
        if self.told.is_none() {
            self.told = Some(Word::Ready);
            return Step::Tell(Word::Ready);
        }
        let due = self.due();
        // The other side may know less of this one's network than this one does by now, and wait.
        let says = self.order != Order::Second && self.told == Some(Word::Ready);
        let soon = due <= now && self.left() + FIRED_SAID_BEFORE <= self.word_takes;
        if says && (self.waiting.is_empty() || soon) {
            self.told = Some(Word::Fired);
            return Step::Tell(Word::Fired);
        }
        if !self.waiting.is_empty() {
            if due > now {
                return Step::Wait(due);
            }
            let Pace { batch, pause, .. } = self.pace();
            self.paced = now + pause;
            let batch = self.waiting.len().min(batch);
            self.closes = Some(now + self.held);
            return Step::Fire { remotes: self.waiting.drain(..batch).collect(), again: false };
        }
        let again_from = self.again_from();
        let due = |(at, _): &mut (Instant, SocketAddr)| again_from.max(*at) <= now;
        let due: Vec<SocketAddr> = self.later.extract_if(.., due).map(|(_, remote)| remote).collect();
        if !due.is_empty() {
            if self.hurries_now() {
                self.closes = Some(now + self.held);
            }
            return Step::Fire { remotes: due, again: true };
        }
        let next = self.later.iter().map(|(at, _)| again_from.max(*at)).min();
        match self.closes {
            Some(at) if at <= now => {
                self.closes = None;
                self.later.clear();
                Step::Release(self.shots.keys().copied().collect())
            }
            Some(at) => Step::Wait(next.map_or(at, |next| next.min(at))),
            None => Step::Nothing,
        }
    }

    fn pace(&self) -> Pace {
        if self.crossing { self.crosses } else { Pace::EVEN }
    }

    /// How long it takes to fire what waits.
    pub(super) fn left(&self) -> Duration {
        let Pace { batch, pause, .. } = self.pace();
        pause * u32::try_from(self.waiting.len().div_ceil(batch)).unwrap_or(u32::MAX)
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
        let refires = self.closes.is_some();
        match outcome {
            Dialled::Connected => return Some(Some(remote)),
            Dialled::Refused => {
                self.report.refused += 1;
                self.refused = Some(now);
                if refires && (self.crossing || self.repeats) {
                    let pause = now.duration_since(fired).max(REFIRE_LEAST).mul_f64(jitter);
                    self.later.push(((fired + pause).max(now), remote));
                }
            }
            Dialled::Unreachable => {
                self.report.unreachable += 1;
                // The hole is open still, and needs a live socket.
                if refires && self.report.unreachable <= REFIRE_AT_ONCE {
                    self.later.push((now, remote));
                }
            }
            Dialled::InUse | Dialled::NoRoute | Dialled::NoDescriptor => {
                self.report.syns = self.report.syns.saturating_sub(1)
            }
            Dialled::TimedOut => {}
        }
        Some(None)
    }

    /// Whether one of the own SYNs to there was refused, as far as is known.
    pub(super) fn was_refused(&self) -> bool {
        self.report.refused + self.report.unreachable > 0
    }

    /// Since when every SYN that had to cross is refused, so that nothing is to come of it. Where there was an order it was a wrong one,
    /// and the right one may be known only after a while.
    pub(super) fn refused_whole(&self) -> Option<Instant> {
        let under_way = !(self.waiting.is_empty() && self.later.is_empty() && self.shots.is_empty());
        self.refused.filter(|_| self.crossing && !under_way && self.report.refused == self.report.syns)
    }

    /// Whether an own SYN to there is not known to have ended.
    pub(super) fn shoots_at(&self, remote: SocketAddr) -> bool {
        self.shots.values().any(|(to, _)| *to == remote)
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
