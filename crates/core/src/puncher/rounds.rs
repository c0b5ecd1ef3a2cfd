//! Rounds: which pair of local ports is tried, by which strategy, and when another begins.

use std::time::{Duration, Instant};

use rand::RngCore;

use super::volley::{Step, Volley};
use super::{
    Config, Lane, LaneReport, LaneState, Output, Puncher, SocketId, begins, is_translated, needs_no_luck,
};
use crate::candidate::Candidate;
use crate::limits::{
    CROSSES_FROM, LANES_PER_ATTEMPT, REFUSAL_KNOWN_WITHIN, ROUND_AFTER, ROUND_AFTER_DOUBT,
    ROUND_AFTER_SMALL_VOLLEY, ROUND_AFTER_VOLLEY, ROUNDS, SYMMETRIC_WITHIN, VOLLEY_WITHIN,
};
use crate::plan::{
    self, Aim, Order, Strategy, is_in_the_way, lets_in, may_be_open, may_be_symmetric, strategy,
};
use crate::profile::Refusal;
use crate::wire::Word;

/// One pair of local ports, the own and the peer's.
pub(super) struct Round {
    pub(super) strategy: Strategy,
    pub(super) went: Option<Instant>,
    pub(super) volley: Option<Volley>,
    /// What the other side was told of a volley of this round that was dropped before it began.
    pub(super) told: Option<Word>,
}

impl Round {
    pub(super) fn new(strategy: Strategy) -> Self {
        Round { strategy, went: None, volley: None, told: None }
    }
}

impl<R: RngCore> Puncher<R> {
    /// When it is given up: sooner where nothing is left to hope for.
    pub(super) fn deadline(&self) -> Instant {
        let other = self.lanes.iter().any(needs_no_luck);
        let within = |strategy: &Strategy| match (strategy.hopeless, strategy.volley) {
            _ if other => None,
            (true, _) => Some(SYMMETRIC_WITHIN),
            (false, Some(_)) => Some(VOLLEY_WITHIN),
            (false, None) if strategy.fresh => Some(VOLLEY_WITHIN),
            (false, None) => None,
        };
        let bound = self.rounds.last().and_then(|round| within(&round.strategy));
        let bound = bound.map(|within| self.config.introduced + within);
        bound.map_or(self.config.deadline, |bound| bound.min(self.config.deadline))
    }

    /// The volley of a round that begins, where it has one and the peer was seen.
    pub(super) fn start(&mut self, now: Instant, round: u8) {
        let ours = |lane: &&Lane| lane.round == round && is_translated(&lane.report.candidate);
        let peer = self.lanes.iter().filter(ours).map(|lane| lane.report.candidate).min_by_key(|it| it.kind);
        let Some(started) = self.rounds.get_mut(usize::from(round)) else { return };
        started.went.get_or_insert(now);
        let (strategy, round_trip) = (started.strategy, (self.round_trip, self.config.round_trip_bound));
        let (Some(plan), Some(peer), None) = (&strategy.volley, peer, &started.volley) else { return };
        // Of so many ports a few less hardly matter; small volleys need all of theirs.
        let spent = self.volley_syns + if plan.birthday { self.lane_syns } else { 0 };
        let left = u32::from(plan.budget).saturating_sub(spent);
        let most = self.config.sockets.min(usize::try_from(left).unwrap_or(usize::MAX));
        // With fewer it would be for nothing.
        if most >= usize::from(plan.shots) / 2 {
            let (planned, avoid) = ((round, &strategy, plan), &self.config.avoid);
            // What needs no luck goes first.
            let others = self.lanes.iter().any(needs_no_luck);
            let let_in =
                [&self.config.own, &self.config.peer].into_iter().any(|it| round == 0 && lets_in(it));
            let begins = if others || let_in { now + self.round_trip.mul_f64(1.5) } else { now };
            let mut volley =
                Volley::new(begins, planned, peer.address, most, round_trip, avoid, &mut self.rng);
            volley.has_told(started.told);
            // Two stepping sides meet at one port: later ones don't.
            if plan.steps && !matches!(plan.aim, Aim::SpreadTo(_)) {
                volley.may_hurry(self.volley_syns);
            }
            let refusals = (self.config.own.refusal, self.config.peer.refusal);
            let unknown = plan.crossing && [refusals.0, refusals.1].contains(&Refusal::Unknown);
            if unknown && self.round_trip < volley.left() {
                let guess = match refusals {
                    (Refusal::Unknown, Refusal::Drop | Refusal::Icmp) => Some(Order::First),
                    (Refusal::Drop | Refusal::Icmp, Refusal::Unknown) => Some(Order::Second),
                    _ => None,
                };
                let hardly_cross = plan.birthday && self.round_trip < CROSSES_FROM;
                let guess = guess.filter(|_| hardly_cross && self.config.rules.order);
                volley.await_knowledge(begins + 2 * self.round_trip + REFUSAL_KNOWN_WITHIN, guess);
            }
            if let Some((said_of, word)) = self.peer_says
                && said_of == round
            {
                volley.peer_says(now, word);
            }
            started.volley = Some(volley);
            // What was dialled in earlier rounds rested on what is known better now.
            let earlier = |lane: &&mut Lane| lane.round < round && is_translated(&lane.report.candidate);
            for lane in self.lanes.iter_mut().filter(earlier) {
                if let LaneState::Ready(_) = lane.state {
                    lane.state = LaneState::Passive;
                }
            }
        } else if !is_in_the_way(&self.config.own, &self.config.peer, round)
            && (!self.config.peer.is_symmetric() || may_be_open(&self.config.peer))
        {
            // Where it was seen it may be reached without.
            let passive = |lane: &&mut Lane| lane.round == round && lane.state == LaneState::Passive;
            for lane in self.lanes.iter_mut().filter(passive) {
                lane.state = LaneState::Ready(now);
            }
        }
    }

    fn has_v6(&self) -> bool {
        self.lanes.iter().any(|lane| lane.report.candidate.address.is_ipv6())
    }

    pub(super) fn open_round(&mut self, round: u8) {
        if self.config.rules.rounds && round < ROUNDS {
            self.opened = round;
            let hopeless = self.rounds.last().is_some_and(|round| round.strategy.hopeless);
            let v6 = hopeless && self.has_v6();
            let spoiled = std::mem::take(&mut self.spoiled);
            let Config { own, peer, strangers, rules, .. } = &self.config;
            let listen = !spoiled || strategy(own, peer, round, *strangers, rules).volley.is_some();
            self.outputs.push_back(Output::Open { round, v6, listen });
        }
    }

    /// The networks are known better: a round that goes by what was known before is not the last.
    pub(super) fn plan_again(&mut self, now: Instant) {
        let round = u8::try_from(self.rounds.len()).unwrap_or(u8::MAX);
        let Some(last) = self.rounds.last_mut() else { return };
        let Config { own, peer, strangers, rules, .. } = &self.config;
        let known = strategy(own, peer, round.saturating_sub(1), *strangers, rules);
        // Who fires first is no reason for another round: what was fired is spent.
        let shape = |strategy: &Strategy| {
            let aim = strategy.volley.map(|volley| (volley.aim, volley.shots));
            (aim, strategy.fresh, aim.is_some() || strategy.dial)
        };
        let same = shape(&known) == shape(&last.strategy);
        if last.went.is_none() {
            last.strategy = known;
            if known.fresh && self.opened == 0 {
                self.open_round(1);
            }
            return;
        }
        let waits = last.volley.as_ref().is_some_and(Volley::has_not_begun);
        let waiting = last.volley.as_mut().filter(|_| waits);
        let kept_quiet = last.strategy.volley.is_none() && !last.strategy.dial;
        if let (Some(volley), Some(before), Some(wanted)) = (waiting, last.strategy.volley, known.volley)
            && (before.aim, before.shots) == (wanted.aim, wanted.shots)
        {
            volley.order_anew(known.order, wanted.crossing);
            last.strategy = known;
        } else if known.dial && known.volley.is_none() && !known.fresh && (waits || kept_quiet) {
            // One SYN is enough, and it has no need of fresh ports.
            let told = last.volley.as_ref().map_or(last.told, Volley::told);
            *last = Round { strategy: known, volley: None, told, ..*last };
            let passive = |lane: &&mut Lane| lane.round + 1 == round && lane.state == LaneState::Passive;
            for lane in self.lanes.iter_mut().filter(passive) {
                lane.state = LaneState::Ready(now);
            }
        } else if last.volley.is_none() && known.volley.is_some_and(|volley| !volley.steps) {
            // The ports of this round are as good for it as fresh ones, and at hand.
            *last = Round { strategy: known, went: Some(now), volley: None, ..*last };
            self.start(now, round.saturating_sub(1));
        } else if !same && !known.hopeless && self.opened < round {
            self.open_round(round);
        }
    }

    pub(super) fn round(&mut self, now: Instant, round: u8, candidates: Vec<Candidate>) {
        if usize::from(round) != self.rounds.len() || round >= ROUNDS || !self.config.rules.rounds {
            return;
        }
        self.opened = self.opened.max(round);
        let Config { own, peer, strangers, rules, controlling, .. } = &self.config;
        let mut strategy = strategy(own, peer, round, *strangers, rules);
        // A NAT that drops bare SYNs on half-open sessions lets nobody in while it is the first, and who hears Go early is
        // early in every round: where both fired together to no avail, each fires first once, by word.
        let again = |volley: plan::Volley| !volley.crossing && round > u8::from(volley.steps);
        if strategy.order == Order::Together && rules.order && strategy.volley.is_some_and(again) {
            strategy.order =
                if *controlling == round.is_multiple_of(2) { Order::First } else { Order::Second };
        }
        // Where nothing is known of who refuses, each fires first once.
        let late = match strategy.order {
            Order::First => false,
            Order::Second => true,
            Order::Together => *controlling == (round % 2 == 1),
        };
        let delay = if late && rules.order { self.round_trip / 4 } else { Duration::ZERO };
        for candidate in candidates {
            let report = LaneReport::new(candidate);
            let state = begins(&candidate, &strategy, now + delay);
            if self.lanes.len() < LANES_PER_ATTEMPT + usize::from(ROUNDS) {
                self.lanes.push(Lane { report, round, state, first_fire: None, last_fire: now });
            }
        }
        self.rounds.push(Round::new(strategy));
        self.spoiled = false;
        self.quiet_since = None;
        self.start(now, round);
    }

    /// Carries the volleys on; whether there is something to do.
    pub(super) fn volleys(&mut self, now: Instant, next: &mut Instant) -> bool {
        for index in 0..self.rounds.len() {
            let Some(volley) = self.rounds.get_mut(index).and_then(|round| round.volley.as_mut()) else {
                continue;
            };
            let (round, origin) = (volley.round, volley.origin());
            match volley.step(now) {
                Step::Fire { remotes, again } => {
                    let budget = volley.budget(again);
                    for remote in remotes {
                        self.next_socket += 1;
                        let socket = SocketId(self.next_socket);
                        if self.volley_syns >= budget {
                            break;
                        }
                        self.volley_syns += 1;
                        volley.fired(now, socket, remote);
                        self.outputs.push_back(Output::Dial { socket, origin, remote, many: true });
                    }
                    return true;
                }
                Step::Tell(word) => {
                    self.outputs.push_back(Output::Tell { round, word });
                    return true;
                }
                Step::Release(sockets) => {
                    self.outputs.extend(sockets.into_iter().map(|socket| Output::Release { socket }));
                    return true;
                }
                Step::Wait(at) => *next = (*next).min(at),
                Step::Nothing => {}
            }
        }
        false
    }

    /// Begins a further round where the last has led to nothing; whether it does.
    pub(super) fn next_round(&mut self, now: Instant, next: &mut Instant) -> bool {
        let round = u8::try_from(self.rounds.len()).unwrap_or(u8::MAX);
        let Some(last) = self.rounds.last() else { return false };
        let idle = self.opened < round && round < ROUNDS && self.config.rules.rounds;
        let hope = !last.strategy.hopeless || self.has_v6();
        let (Some(went), true) = (last.went, idle && hope && !self.open.iter().any(|open| open.verified))
        else {
            return false;
        };
        let doubt = may_be_symmetric(&self.config.own) || may_be_symmetric(&self.config.peer);
        let patience = match (&last.volley, doubt) {
            (Some(volley), _) if volley.repeats => ROUND_AFTER_SMALL_VOLLEY,
            (Some(_), _) => ROUND_AFTER_VOLLEY * u32::from(round),
            (None, true) => ROUND_AFTER_DOUBT * u32::from(round),
            (None, false) => ROUND_AFTER * u32::from(round),
        };
        let patient = went + 2 * self.round_trip + patience;
        let refused = last.volley.as_ref().filter(|volley| volley.repeats && self.open.is_empty());
        let due = match refused.and_then(Volley::refused_whole) {
            _ if self.spoiled => now,
            Some(at) => patient.min(at + 2 * self.round_trip),
            None => patient,
        };
        if due <= now {
            self.open_round(round);
            return true;
        }
        *next = (*next).min(due);
        false
    }
}
