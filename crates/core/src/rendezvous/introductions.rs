//! Introductions, Go and further rounds, and what the two relay.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::{CryptoRng, Rng, RngCore};

use super::fence::subscriber;
use super::{Event, LinkId, Output, Rendezvous, Timer, TimerKey};
use crate::candidate::{Scope, scope};
use crate::identity::PublicKey;
use crate::limits::{
    BROKER_INTRODUCTIONS, GO_DELAY_MOST, INTRODUCTION_LIFE, INTRODUCTIONS_PER_SESSION, MAX_HANDSHAKE,
    MAX_RELAYED, MAX_RELAYED_BYTES, OBSERVATIONS_KEPT, ROUNDS,
};
use crate::wire::{FromBroker, Introduction, IntroductionId, Met, Signal};

/// What one side of an introduction has relayed.
#[derive(Clone, Copy, Default)]
struct Sent {
    messages: u8,
    bytes: usize,
}

/// A further round: each side's question, and where its fresh port was seen.
#[derive(Clone, Copy, Default)]
pub(super) struct Round {
    asked: [Option<[u8; 8]>; 2],
    seen: [Option<SocketAddr>; 2],
}

pub(super) struct Introduced {
    sides: [PublicKey; 2],
    /// From the first after the doors on.
    pub(super) rounds: Vec<Round>,
    relayed: [Sent; 2],
    /// Addresses that one side was told of the other; bounded by the links of a session.
    pub(super) told: Vec<SocketAddr>,
    expires: TimerKey,
}

impl Introduced {
    pub(super) fn other(&self, peer: PublicKey) -> Option<PublicKey> {
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

/// How two came together, for the limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Code,
    Lobby,
}

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    /// A side begins a further round from a fresh port, which it has observed under this question.
    pub(super) fn fresh_port(
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
    pub(super) fn seen_for_round(
        &mut self,
        now: Instant,
        peer: PublicKey,
        question: [u8; 8],
        from: SocketAddr,
    ) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        // It can come before the message that says what it is for.
        if !session.seen.iter().any(|(seen, _)| *seen == question) {
            session.seen.push_back((question, from));
        }
        if session.seen.len() > OBSERVATIONS_KEPT {
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

    pub(super) fn relay(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        id: IntroductionId,
        signal: Signal,
    ) {
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

    /// Whether neither side's public address is told of too many others. Toward private addresses
    /// there is nobody to protect from this broker's peers, and two behind one address fire only
    /// at themselves.
    pub(super) fn may_introduce(
        &mut self,
        now: Instant,
        by: By,
        arriver: &PublicKey,
        waiter: &PublicKey,
    ) -> bool {
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

    pub(super) fn introduce(&mut self, now: Instant, arriver: (PublicKey, Met), waiter: (PublicKey, Met)) {
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
    pub(super) fn end_introduction(&mut self, id: IntroductionId) {
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
}
