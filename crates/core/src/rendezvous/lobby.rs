//! The lobby: who may join, and who is introduced to whom.

use std::net::IpAddr;
use std::time::Instant;

use rand::{CryptoRng, RngCore};

use super::fence::subscriber;
use super::introductions::By;
use super::{LinkId, Rendezvous};
use crate::identity::PublicKey;
use crate::limits::{LOBBY_LEFT_FREE, MAX_HANDSHAKE};
use crate::wire::{About, FromBroker, Met, Refusal};

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    pub(super) fn join(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        connected: &[PublicKey],
        openers: Vec<Vec<u8>>,
    ) {
        let Some(observed) = self.links.get(&link).map(|link| link.observed) else { return };
        // Not as a refused join, which tells of one introduction less: this one has not joined.
        if !self.rates.joins.allow(now, observed.ip(), 1) {
            return self.refuse_link(link, Refusal::TooMany);
        }
        // A member may say once more who is connected, to be introduced to the others: it may have come back over
        // another link before the old one was known to be lost, or have lost somebody.
        let again = self.lobby.contains(&peer);
        let refusal = if self.config.lobby == 0 {
            Some(Refusal::LobbyOff)
        } else if !again && (self.lobby.len() >= self.config.lobby || self.has_most_of_lobby(observed.ip())) {
            Some(Refusal::LobbyFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.send(link, FromBroker::Refused { about: About::Join, refusal });
        }
        let own = |member: &PublicKey| *member == peer;
        let members = self.lobby.iter().filter(|member| !own(member)).count();
        let others: Vec<PublicKey> =
            self.lobby.iter().copied().filter(|member| !own(member) && !connected.contains(member)).collect();
        if !again {
            self.lobby.push(peer);
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.in_lobby = true;
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let joined = FromBroker::Joined {
            members: count(members),
            capacity: count(self.config.lobby),
            introductions: count(others.len().min(openers.len())),
        };
        self.send(link, joined);
        for (index, (waiter, opener)) in others.into_iter().zip(openers).enumerate() {
            let length = opener.len();
            if !self.may_introduce(now, By::Lobby, &peer, &waiter) || !self.may_signal(now, link, length) {
                self.send(link, FromBroker::Refused { about: About::Join, refusal: Refusal::TooMany });
                return;
            }
            if length <= MAX_HANDSHAKE {
                let arriver_met = Met::LobbyArriver { opener: count(index) };
                self.introduce(now, (peer, arriver_met), (waiter, Met::LobbyWaiter { opener }));
            }
        }
    }

    /// Whether the address has all places of the lobby that one address may have.
    fn has_most_of_lobby(&self, address: IpAddr) -> bool {
        let own = subscriber(address);
        let members = self
            .lobby
            .iter()
            .filter(|member| self.observed(member).iter().any(|observed| subscriber(observed.ip()) == own));
        members.count() >= self.config.lobby - self.config.lobby / LOBBY_LEFT_FREE
    }
}
