//! Codes and the claims on them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use rand::{CryptoRng, Rng, RngCore};

use super::introductions::By;
use super::{LinkId, Rendezvous, Timer, TimerKey};
use crate::code::Verb;
use crate::identity::PublicKey;
use crate::limits::{
    BROKER_CODES, CLAIM_LIFE, CLAIMS_PER_CODE, CODE_LIFE, CODES_PER_SESSION, MAX_HANDSHAKE, MISSES_COUNTED,
    NUMBER_FIRST, NUMBER_LAST, NUMBERS_PER_CODE, WRONG_GUESSES,
};
use crate::secure::{SHARE, Share};
use crate::wire::{About, ClaimId, FromBroker, Met, Refusal};

pub(super) struct Code {
    pub(super) owner: PublicKey,
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

pub(super) struct Claim {
    number: u32,
    arriver: PublicKey,
    generation: u32,
    expires: TimerKey,
}

/// Numbers that were asked for in vain, in this window and the one before.
#[derive(Default)]
pub(super) struct Misses {
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
    pub(super) fn lately(&mut self, now: Instant) -> u64 {
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

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    pub(super) fn open(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        request: u32,
        verb: Verb,
        again: Option<u32>,
    ) {
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
            return self.send(link, FromBroker::Refused { about: About::Open(request), refusal });
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
            return self.send(link, FromBroker::Refused { about: About::Open(request), refusal });
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
        self.send(link, FromBroker::Opened { request, number, expires_s });
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
    pub(super) fn free_number(&mut self, now: Instant) -> u32 {
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

    pub(super) fn wait(&mut self, now: Instant, link: LinkId, peer: PublicKey, number: u32, share: Share) {
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

    pub(super) fn claim(&mut self, now: Instant, link: LinkId, peer: PublicKey, number: u32, verb: Verb) {
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else {
            return;
        };
        let own = |id: &&ClaimId| self.claims.get(id).is_some_and(|claim| claim.number == number);
        let before = self.sessions.get(&peer).and_then(|session| session.claims.iter().find(own)).copied();
        // What was said of it may be lost with the link that it was made on, or nobody waits for it any more.
        if let Some(before) = before {
            self.remove_claim(before);
        }
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

    pub(super) fn prove(
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

    pub(super) fn accept(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        id: ClaimId,
        handshake: Vec<u8>,
    ) {
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
    pub(super) fn reject(&mut self, peer: PublicKey, id: ClaimId, left: u8) {
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

    pub(super) fn remove_claim(&mut self, id: ClaimId) -> Option<Claim> {
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

    pub(super) fn remove_code(&mut self, number: u32) {
        let Some(code) = self.codes.remove(&number) else { return };
        self.timers.remove(&code.expires);
        self.codes_of.give_back(code.address);
        if let Some(session) = self.sessions.get_mut(&code.owner) {
            session.codes.retain(|other| *other != number);
        }
        self.refuse_claims(number, code.claims);
    }

    /// The owner is gone, and may come back for its number.
    pub(super) fn lose_code(&mut self, number: u32) {
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

    pub(super) fn expire_code(&mut self, number: u32) {
        let Some((owner, lost)) = self.codes.get(&number).map(|code| (code.owner, code.lost)) else { return };
        self.remove_code(number);
        if !lost {
            self.send_to(owner, FromBroker::Expired { number });
        }
    }
}
