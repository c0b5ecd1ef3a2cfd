//! Observations from a peer's ports, and knocks back at them.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::{CryptoRng, RngCore};

use super::{KnockId, Output, Rendezvous, Timer, TimerKey};
use crate::identity::PublicKey;
use crate::limits::{
    BROKER_KNOCKS, EARLY_OBSERVATION_LIFE, EARLY_OBSERVATIONS, KNOCK_AGAIN_AFTER, KNOCK_WITHIN,
    KNOCKS_PER_SESSION, OBSERVATIONS_PER_SESSION,
};
use crate::wire::{FromBroker, KnockAnswer, ObservationToken};

/// An observation that came before the link whose token it carries: the first frame of a link may be lost and sent again.
pub(super) struct Early {
    expires: TimerKey,
    token: ObservationToken,
    from: SocketAddr,
    knock_from: Option<IpAddr>,
}

/// Whom to tell what of a knock.
#[derive(Clone, Copy)]
struct Asked {
    peer: PublicKey,
    question: [u8; 8],
    elsewhere: bool,
}

pub(super) struct Knock {
    asked: Asked,
    from: IpAddr,
    to: SocketAddr,
    expires: TimerKey,
    /// The other one of the two that are made for one answer.
    twin: Option<KnockId>,
    /// The other one was told.
    told: bool,
}

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    pub(super) fn observation(
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

    pub(super) fn forget_oldest_early(&mut self) {
        if !self.early.is_empty() {
            self.timers.remove(&self.early.remove(0).expires);
        }
    }

    /// What came before this link did, and carries its token.
    pub(super) fn take_early(&mut self, now: Instant, token: [u8; 8]) {
        let ours: Vec<Early> = self.early.extract_if(.., |early| early.token.starts_with(&token)).collect();
        for Early { expires, token, from, knock_from } in ours {
            self.timers.remove(&expires);
            self.observation(now, token, from, knock_from);
        }
    }

    /// Knocks where an observation came from, and nowhere else: nobody can name another's address. From elsewhere first,
    /// as far as two connects can be in an order: that tells more.
    fn knock(&mut self, now: Instant, peer: PublicKey, question: [u8; 8], to: SocketAddr, dialled: IpAddr) {
        let alike = |ip: &IpAddr| ip.is_ipv4() == to.is_ipv4() && *ip != dialled;
        let second = self.config.probes.iter().filter_map(|probe| probe.ip).find(alike);
        let sources: Vec<(bool, IpAddr)> =
            second.map(|ip| (true, ip)).into_iter().chain([(false, dialled)]).collect();
        let amount = if second.is_some() { 4 } else { 2 };
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
            let asked = Asked { peer, question, elsewhere };
            let knock = self.begin_knock(now, asked, (from, to), None);
            self.at(now + KNOCK_AGAIN_AFTER, Timer::KnockAgain { knock });
        }
    }

    fn begin_knock(
        &mut self,
        now: Instant,
        asked: Asked,
        (from, to): (IpAddr, SocketAddr),
        twin: Option<KnockId>,
    ) -> KnockId {
        self.last_knock += 1;
        let knock = KnockId(self.last_knock);
        // Who carries it out answers before; this is for whoever does not.
        let expires = self.at(now + 2 * KNOCK_WITHIN, Timer::KnockExpires { knock });
        self.knocks.insert(knock, Knock { asked, from, to, expires, twin, told: false });
        self.outputs.push_back(Output::Knock { knock, from, to });
        knock
    }

    /// While the first is not answered: what is lost on the way is not silence.
    pub(super) fn knock_again(&mut self, now: Instant, first: KnockId) {
        let room = self.knocks.len() < self.config.knocks.min(BROKER_KNOCKS);
        let Some(Knock { asked, from, to, .. }) = self.knocks.get(&first).filter(|_| room) else { return };
        let (asked, between) = (*asked, (*from, *to));
        let second = self.begin_knock(now, asked, between, Some(first));
        if let Some(knock) = self.knocks.get_mut(&first) {
            knock.twin = Some(second);
        }
    }

    pub(super) fn knocked(&mut self, knock: KnockId, answer: Option<KnockAnswer>) {
        let Some(Knock { asked, expires, twin, told, .. }) = self.knocks.remove(&knock) else { return };
        self.timers.remove(&expires);
        let twin = twin.and_then(|twin| self.knocks.get_mut(&twin));
        let answer = match answer {
            Some(KnockAnswer::Silent) if twin.is_some() => None,
            answer => answer.filter(|_| !told),
        };
        if let Some(answer) = answer {
            if let Some(twin) = twin {
                twin.told = true;
            }
            let Asked { peer, question, elsewhere } = asked;
            self.send_to(peer, FromBroker::Knocked { question, elsewhere, answer });
        }
    }
}
