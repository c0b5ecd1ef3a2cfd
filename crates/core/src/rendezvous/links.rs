//! Links and sessions: who comes, who goes, and who has to make room.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::{CryptoRng, RngCore};

use super::{Event, Link, LinkId, Output, Rendezvous, SWEEP_EVERY, Timer};
use crate::identity::PublicKey;
use crate::limits::{LINK_DEAD_AFTER, MAX_OBSERVED, PROFILES_PER_SESSION};
use crate::profile::NatProfile;
use crate::wire::{About, FromBroker, IntroductionId, Refusal};

impl<R: RngCore + CryptoRng> Rendezvous<R> {
    pub(super) fn link_up(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: PublicKey,
        (observed, token): (SocketAddr, [u8; 8]),
    ) {
        if self.links.len() >= self.config.links {
            self.make_room_for_link(observed.ip());
        }
        let refusal = if self.links.len() >= self.config.links {
            Some(Refusal::Full)
        } else if !self.links_of.take(observed.ip()) {
            Some(Refusal::TooMany)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.refuse_link(link, refusal);
        }
        if !self.sweeping {
            self.sweeping = true;
            self.at(now + SWEEP_EVERY, Timer::Sweep);
        }
        self.tokens.insert(token, peer);
        self.links.insert(link, Link { peer, observed, token, round_trip: None, heard: now });
        let session = self.sessions.entry(peer).or_default();
        let first = session.links.is_empty();
        session.links.push(link);
        let same_family: Vec<LinkId> = session
            .links
            .iter()
            .copied()
            .filter(|other| {
                *other != link
                    && self.links.get(other).is_some_and(|other| {
                        other.observed.ip().to_canonical().is_ipv4() == observed.ip().to_canonical().is_ipv4()
                    })
            })
            .collect();
        // A peer that comes back begins anew, perhaps from another port: what still runs toward where it was before must
        // not fire at where it is now, or two attempts of one side meet on one 4-tuple and stop each other.
        let second_family = !first && same_family.is_empty();
        for old in same_family {
            self.outputs.push_back(Output::Close { link: old });
            self.link_down(old);
        }
        if first {
            self.outputs.push_back(Output::Event(Event::Registered { peer, observed }));
        }
        if second_family {
            self.tell_new_address(peer, observed);
        }
        self.take_early(now, token);
    }

    /// The newest goes: what stands longest serves somebody most likely.
    fn make_room_for_link(&mut self, newcomer: IpAddr) {
        let Some(greedy) = self.links_of.greediest(newcomer) else { return };
        let newest =
            self.links.iter().filter(|(_, link)| greedy.is(link.observed.ip())).map(|(id, _)| *id).max();
        if let Some(link) = newest {
            self.refuse_link(link, Refusal::Full);
        }
    }

    pub(super) fn refuse_link(&mut self, link: LinkId, refusal: Refusal) {
        self.send(link, FromBroker::Refused { about: About::Link, refusal });
        self.outputs.push_back(Output::Close { link });
        self.link_down(link);
    }

    /// A second link, over the other family, may come up while the peer is being introduced.
    fn tell_new_address(&mut self, peer: PublicKey, address: SocketAddr) {
        let Some(session) = self.sessions.get(&peer) else { return };
        let mut others = Vec::new();
        for id in &session.introductions {
            if let Some(introduced) = self.introductions.get_mut(id)
                && !introduced.told.contains(&address)
                && introduced.told.len() < 2 * MAX_OBSERVED
                && let Some(other) = introduced.other(peer)
            {
                introduced.told.push(address);
                others.push((*id, other));
            }
        }
        for (introduction, other) in others {
            self.send_to(other, FromBroker::SeenAt { introduction, address });
        }
    }

    pub(super) fn link_down(&mut self, link: LinkId) {
        let Some(entry) = self.links.remove(&link) else {
            return;
        };
        self.links_of.give_back(entry.observed.ip());
        self.tokens.remove(&entry.token);
        let Some(session) = self.sessions.get_mut(&entry.peer) else {
            return;
        };
        session.links.retain(|other| *other != link);
        if !session.links.is_empty() {
            return;
        }
        let peer = entry.peer;
        let Some(session) = self.sessions.remove(&peer) else { return };
        if session.in_lobby {
            self.lobby.retain(|member| *member != peer);
            for member in self.lobby.clone() {
                self.send_to(member, FromBroker::Left { peer });
            }
        }
        for number in session.codes {
            self.lose_code(number);
        }
        for claim in session.claims {
            self.remove_claim(claim);
        }
        for introduction in session.introductions {
            self.end_introduction(introduction);
        }
        self.outputs.push_back(Output::Event(Event::Left { peer }));
    }

    pub(super) fn profile(&mut self, now: Instant, link: LinkId, peer: PublicKey, profile: NatProfile) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        if session.profile == profile || session.profiles >= PROFILES_PER_SESSION {
            return;
        }
        session.profiles += 1;
        session.profile = profile;
        let others: Vec<(IntroductionId, PublicKey)> = session
            .introductions
            .iter()
            .filter_map(|id| Some((*id, self.introductions.get(id)?.other(peer)?)))
            .collect();
        if others.is_empty() || !self.may_signal(now, link, 0) {
            return;
        }
        for (introduction, other) in others {
            self.send_to(other, FromBroker::ProfileOf { introduction, profile });
        }
    }

    /// A link that has said nothing for [`LINK_DEAD_AFTER`] is dead.
    pub(super) fn close_silent_links(&mut self, now: Instant) {
        let silent: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| now.duration_since(link.heard) >= LINK_DEAD_AFTER)
            .map(|(id, _)| *id)
            .collect();
        for link in silent {
            self.outputs.push_back(Output::Close { link });
            self.link_down(link);
        }
    }
}
