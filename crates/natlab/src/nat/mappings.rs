//! The table of mappings and sessions, and how outside ports are chosen.

use std::net::{IpAddr, SocketAddr};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::key::{Key, Map};
use super::sessions::{Connection, Session};
use super::{Allocation, Behaviour, Clash, Dependence, Pooling, Side};
use crate::Time;
use crate::packet::Protocol;

/// An inside endpoint with its outside one. Lives as long as it has a session.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    pub(super) protocol: Protocol,
    pub(super) inside: SocketAddr,
    pub(super) outside: SocketAddr,
    /// What it is for, as far as it depends on it.
    scope: SocketAddr,
    /// Made by hand, for everybody and for ever.
    fixed: bool,
    sessions: Option<u32>,
}

#[cfg(test)]
impl Mapping {
    pub(super) fn scope(&self) -> SocketAddr {
        self.scope
    }
}

/// Numbered places.
#[derive(Debug, Clone)]
struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    const EMPTY: Self = Self { places: Vec::new(), free: Vec::new() };

    fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.places.get_mut(id as usize) {
                    *place = Some(value);
                }
                id
            }
            None => {
                self.places.push(Some(value));
                (self.places.len() - 1) as u32
            }
        }
    }

    fn get(&self, id: u32) -> Option<&T> {
        self.places.get(id as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.places.get_mut(id as usize)?.as_mut()
    }

    fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.places.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(value)
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn ids(&self) -> impl Iterator<Item = u32> + use<T> {
        0..self.places.len() as u32
    }
}

/// Mappings and sessions. What has expired may still be in it, and is removed when it is met.
#[derive(Debug, Clone)]
pub(super) struct Table {
    mappings: Slab<Mapping>,
    sessions: Slab<Session>,
    /// Sessions by inside endpoint and remote endpoint.
    inside: Map<Key, u32>,
    /// Sessions by outside endpoint and remote endpoint.
    outside: Map<Key, u32>,
    /// Mappings by inside endpoint and scope.
    mapped: Map<Key, u32>,
    /// Mappings by outside endpoint and scope.
    taken: Map<Key, u32>,
    /// Mappings by outside endpoint, kept where mappings with several scopes may share one and that matters.
    sharing: Option<Map<(Protocol, SocketAddr), Vec<u32>>>,
    /// Outside addresses of inside addresses.
    paired: Map<IpAddr, IpAddr>,
    /// First ports of the blocks of inside addresses, and whose each block is.
    blocks: Map<(IpAddr, IpAddr), u16>,
    blocks_taken: Map<(IpAddr, u16), IpAddr>,
    last_port: Option<u16>,
    random: SmallRng,
    /// How many sessions there may be before the expired ones are looked for.
    sweep_at: usize,
}

/// Fewer sessions than this are never swept.
const SWEEP_FROM: usize = 256;

impl Table {
    pub(super) fn new(behaviour: &Behaviour, seed: u64) -> Self {
        let block = matches!(behaviour.allocation, Allocation::Block(_));
        let sharing = behaviour.filtering < behaviour.mapping || block;
        Self {
            mappings: Slab::EMPTY,
            sessions: Slab::EMPTY,
            inside: Map::default(),
            outside: Map::default(),
            mapped: Map::default(),
            taken: Map::default(),
            sharing: sharing.then(Map::default),
            paired: Map::default(),
            blocks: Map::default(),
            blocks_taken: Map::default(),
            last_port: None,
            random: SmallRng::seed_from_u64(seed),
            sweep_at: SWEEP_FROM,
        }
    }

    /// Forgets everything but what was made by hand and what will be drawn next.
    pub(super) fn forget(&mut self) {
        for id in self.mappings.ids() {
            self.remove_mapping(id);
        }
        self.paired.clear();
        self.blocks.clear();
        self.blocks_taken.clear();
        self.last_port = None;
    }

    pub(super) fn mapping(&self, id: u32) -> Option<&Mapping> {
        self.mappings.get(id)
    }

    pub(super) fn session(&mut self, id: u32) -> Option<&mut Session> {
        self.sessions.get_mut(id)
    }

    /// A session with its mapping.
    pub(super) fn both(&mut self, id: u32) -> Option<(&mut Session, &Mapping)> {
        let session = self.sessions.get_mut(id)?;
        let mapping = self.mappings.get(session.mapping)?;
        Some((session, mapping))
    }

    /// The live session of an inside endpoint with a remote one.
    pub(super) fn find_inside(&mut self, now: Time, key: &Key) -> Option<u32> {
        let id = *self.inside.get(key)?;
        self.if_live(now, id)
    }

    /// The live session of an outside endpoint with a remote one.
    pub(super) fn find_outside(&mut self, now: Time, key: &Key) -> Option<u32> {
        let id = *self.outside.get(key)?;
        self.if_live(now, id)
    }

    fn if_live(&mut self, now: Time, id: u32) -> Option<u32> {
        if self.sessions.get(id)?.expires > now {
            return Some(id);
        }
        self.remove_session(id);
        None
    }

    /// Begins a session of a mapping; `None` if one of its ends already has another with the same remote endpoint.
    pub(super) fn begin(
        &mut self,
        now: Time,
        id: u32,
        remote: SocketAddr,
        began: Side,
        connection: Connection,
    ) -> Option<u32> {
        let mapping = self.mappings.get(id)?;
        let inside = Key::new(mapping.protocol, mapping.inside, remote);
        let outside = Key::new(mapping.protocol, mapping.outside, remote);
        if self.find_inside(now, &inside).is_some() || self.find_outside(now, &outside).is_some() {
            // A mapping that was made for nothing goes again.
            self.alive(now, id);
            return None;
        }
        if self.sessions.len() >= self.sweep_at {
            // The mapping that the session is for may have none yet, and must not be swept away.
            self.sweep(now, id);
        }
        let next = self.mappings.get(id)?.sessions;
        let session = Session {
            mapping: id,
            remote,
            began,
            expires: now,
            connection,
            shifts: None,
            previous: None,
            next,
        };
        let new = self.sessions.insert(session);
        if let Some(next) = next.and_then(|next| self.sessions.get_mut(next)) {
            next.previous = Some(new);
        }
        self.mappings.get_mut(id)?.sessions = Some(new);
        self.inside.insert(inside, new);
        self.outside.insert(outside, new);
        Some(new)
    }

    /// Ends a session, and its mapping if it was the last one.
    pub(super) fn remove_session(&mut self, id: u32) {
        let Some(mapping) = self.detach(id) else { return };
        let emptied = self.mappings.get(mapping).is_some_and(|it| it.sessions.is_none() && !it.fixed);
        if emptied {
            self.remove_mapping(mapping);
        }
    }

    fn detach(&mut self, id: u32) -> Option<u32> {
        let session = self.sessions.remove(id)?;
        let mapping = self.mappings.get_mut(session.mapping)?;
        self.inside.remove(&Key::new(mapping.protocol, mapping.inside, session.remote));
        self.outside.remove(&Key::new(mapping.protocol, mapping.outside, session.remote));
        match session.previous {
            Some(previous) => self.sessions.get_mut(previous)?.next = session.next,
            None => mapping.sessions = session.next,
        }
        if let Some(next) = session.next {
            self.sessions.get_mut(next)?.previous = session.previous;
        }
        Some(session.mapping)
    }

    /// Ends a mapping with all its sessions; one that was made by hand loses its sessions only.
    pub(super) fn remove_mapping(&mut self, id: u32) {
        while let Some(session) = self.mappings.get(id).and_then(|it| it.sessions) {
            self.detach(session);
        }
        if self.mappings.get(id).is_none_or(|it| it.fixed) {
            return;
        }
        if let Some(mapping) = self.mappings.remove(id) {
            self.mapped.remove(&Key::new(mapping.protocol, mapping.inside, mapping.scope));
            self.taken.remove(&Key::new(mapping.protocol, mapping.outside, mapping.scope));
            let place = (mapping.protocol, mapping.outside);
            if let Some(sharing) = &mut self.sharing
                && let Some(ids) = sharing.get_mut(&place)
            {
                ids.retain(|it| *it != id);
                if ids.is_empty() {
                    sharing.remove(&place);
                }
            }
        }
    }

    fn sweep(&mut self, now: Time, but: u32) {
        for id in self.sessions.ids() {
            let expired = self.sessions.get(id).filter(|it| it.expires <= now).map(|it| it.mapping);
            match expired {
                Some(mapping) if mapping == but => {
                    self.detach(id);
                }
                Some(_) => self.remove_session(id),
                None => {}
            }
        }
        self.sweep_at = (2 * self.sessions.len()).max(SWEEP_FROM);
    }

    /// Whether a mapping is alive. One that is not is removed.
    fn alive(&mut self, now: Time, id: u32) -> bool {
        loop {
            let Some(mapping) = self.mappings.get(id) else { return false };
            if mapping.fixed {
                return true;
            }
            let Some(first) = mapping.sessions else {
                self.remove_mapping(id);
                return false;
            };
            if self.if_live(now, first).is_some() {
                return true;
            }
        }
    }

    /// Whether a mapping has a live session with an address.
    fn knows(&mut self, now: Time, id: u32, address: IpAddr) -> bool {
        let mut next = self.mappings.get(id).and_then(|it| it.sessions);
        while let Some(session) = next.and_then(|id| self.sessions.get(id)) {
            if session.remote.ip() == address && session.expires > now {
                return true;
            }
            next = session.next;
        }
        false
    }

    /// The mapping through which a remote endpoint may come in to an outside one without a session of its own.
    pub(super) fn admits(&mut self, behaviour: &Behaviour, now: Time, key: &Key) -> Option<u32> {
        let fixed = self.taken.get(&key.scoped(Dependence::Endpoint)).copied();
        if let Some(id) = fixed
            && self.mappings.get(id).is_some_and(|it| it.fixed)
        {
            return Some(id);
        }
        if behaviour.filtering == Dependence::AddressAndPort {
            return None;
        }
        if let Some(id) = self.taken.get(&key.scoped(behaviour.mapping)).copied()
            && self.lets_in(behaviour, now, id, key.remote)
        {
            return Some(id);
        }
        let mut nth = 0;
        while let Some(id) = self.sharer(key.protocol, key.own, nth) {
            if self.lets_in(behaviour, now, id, key.remote) {
                return Some(id);
            }
            // One that turned out dead is no longer there.
            nth += usize::from(self.mappings.get(id).is_some());
        }
        None
    }

    fn sharer(&self, protocol: Protocol, outside: SocketAddr, nth: usize) -> Option<u32> {
        self.sharing.as_ref()?.get(&(protocol, outside))?.get(nth).copied()
    }

    fn lets_in(&mut self, behaviour: &Behaviour, now: Time, id: u32, remote: SocketAddr) -> bool {
        self.alive(now, id)
            && match behaviour.filtering {
                Dependence::Endpoint => true,
                Dependence::Address => self.knows(now, id, remote.ip()),
                Dependence::AddressAndPort => false,
            }
    }

    /// How much room it takes: sessions that are or were there.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.sessions.places.len()
    }

    /// That all parts agree with each other.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.inside.len(), self.sessions.len());
        assert_eq!(self.outside.len(), self.sessions.len());
        for id in self.mappings.ids() {
            let Some(mapping) = self.mappings.get(id) else { continue };
            assert_eq!(
                self.taken.get(&Key::new(mapping.protocol, mapping.outside, mapping.scope)),
                Some(&id)
            );
            let mut previous = None;
            let mut next = mapping.sessions;
            while let Some(session) = next {
                let it = self.sessions.get(session).unwrap();
                assert_eq!((it.mapping, it.previous), (id, previous));
                assert_eq!(
                    self.inside.get(&Key::new(mapping.protocol, mapping.inside, it.remote)),
                    next.as_ref()
                );
                assert_eq!(
                    self.outside.get(&Key::new(mapping.protocol, mapping.outside, it.remote)),
                    next.as_ref()
                );
                (previous, next) = (next, it.next);
            }
        }
    }

    /// Every live mapping.
    #[cfg(test)]
    pub(super) fn live(&mut self, now: Time) -> Vec<Mapping> {
        let ids: Vec<u32> = self.mappings.ids().collect();
        let alive = ids.into_iter().filter(|id| self.alive(now, *id)).collect::<Vec<_>>();
        alive.into_iter().filter_map(|id| self.mappings.get(id).cloned()).collect()
    }

    /// Opens an outside endpoint to an inside one for ever.
    pub(super) fn fix(&mut self, inside: SocketAddr, outside: SocketAddr) {
        let key = Key::new(Protocol::Tcp, outside, Key::ANY);
        for id in self.mappings.ids() {
            let takes = self.mappings.get(id).is_some_and(|it| {
                it.protocol == Protocol::Tcp
                    && (it.outside == outside || it.inside == inside && it.scope == Key::ANY)
            });
            if takes {
                if let Some(mapping) = self.mappings.get_mut(id)
                    && mapping.outside == outside
                {
                    mapping.fixed = false;
                }
                self.remove_mapping(id);
            }
        }
        let mapping = Mapping {
            protocol: Protocol::Tcp,
            inside,
            outside,
            scope: Key::ANY,
            fixed: true,
            sessions: None,
        };
        let id = self.mappings.insert(mapping);
        self.taken.insert(key, id);
        self.mapped.entry(Key::new(Protocol::Tcp, inside, Key::ANY)).or_insert(id);
    }

    /// The mapping for a packet from inside, made if there is none; `None` when no port is left.
    pub(super) fn map(
        &mut self,
        behaviour: &Behaviour,
        outside: &[IpAddr],
        now: Time,
        key: &Key,
    ) -> Option<u32> {
        let dependence = if behaviour.translates { behaviour.mapping } else { Dependence::Endpoint };
        let scoped = key.scoped(dependence);
        if let Some(id) = self.mapped.get(&scoped).copied()
            && self.alive(now, id)
        {
            return Some(id);
        }
        if let Some(id) = self.mapped.get(&key.scoped(Dependence::Endpoint)).copied()
            && matches!(behaviour.allocation, Allocation::Preserving(_))
            && self.mappings.get(id).is_some_and(|it| it.fixed)
        {
            return Some(id);
        }
        let chosen =
            if behaviour.translates { self.allocate(behaviour, outside, now, key)? } else { key.own };
        let mapping = Mapping {
            protocol: key.protocol,
            inside: key.own,
            outside: chosen,
            scope: scoped.remote,
            fixed: false,
            sessions: None,
        };
        let id = self.mappings.insert(mapping);
        self.mapped.insert(scoped, id);
        self.taken.insert(Key::new(key.protocol, chosen, scoped.remote), id);
        if let Some(sharing) = &mut self.sharing {
            sharing.entry((key.protocol, chosen)).or_default().push(id);
        }
        Some(id)
    }

    fn allocate(
        &mut self,
        behaviour: &Behaviour,
        outside: &[IpAddr],
        now: Time,
        key: &Key,
    ) -> Option<SocketAddr> {
        let drawn = match outside {
            [] => return None,
            [only] => *only,
            [first, ..] => {
                let drawn =
                    outside.get(self.random.random_range(0..outside.len())).copied().unwrap_or(*first);
                match behaviour.pooling {
                    Pooling::Paired => *self.paired.entry(key.own.ip()).or_insert(drawn),
                    Pooling::Arbitrary => drawn,
                }
            }
        };
        if let Some(chosen) = self.allocate_at(behaviour, now, key, drawn) {
            return Some(chosen);
        }
        match behaviour.pooling {
            Pooling::Paired => None,
            Pooling::Arbitrary => outside
                .iter()
                .filter(|other| **other != drawn)
                .find_map(|other| self.allocate_at(behaviour, now, key, *other)),
        }
    }

    fn allocate_at(
        &mut self,
        behaviour: &Behaviour,
        now: Time,
        key: &Key,
        address: IpAddr,
    ) -> Option<SocketAddr> {
        let at = |port| SocketAddr::new(address, port);
        let range = Range::new(behaviour.ports);
        match behaviour.allocation {
            Allocation::Preserving(clash) => {
                let wished = key.own.port();
                let range = range.alike(wished);
                let within = range.contains(wished) || key.protocol == Protocol::Echo;
                let free = within && self.free(behaviour, now, key, at(wished));
                match clash {
                    _ if free => Some(at(wished)),
                    Clash::Overload if within && self.take_over(behaviour, key, at(wished)) => {
                        Some(at(wished))
                    }
                    Clash::Random | Clash::Overload => self.any_of(range, behaviour, now, key, address),
                    Clash::Next => {
                        let mut port = wished;
                        for _ in 0..range.count() {
                            port = range.step(port, 1);
                            if self.free(behaviour, now, key, at(port)) {
                                return Some(at(port));
                            }
                        }
                        None
                    }
                }
            }
            Allocation::Stepping(step) => {
                let mut port = match self.last_port {
                    Some(last) => range.step(last, step),
                    None => range.nth(self.random.random_range(0..range.count())),
                };
                let mut tried = 0;
                while !self.free(behaviour, now, key, at(port)) {
                    tried += 1;
                    if tried > 2 * range.count() {
                        return None;
                    }
                    // Steps that divide the range may never come to a free port.
                    port = range.step(port, if tried < range.count() { step } else { 1 });
                }
                self.last_port = Some(port);
                Some(at(port))
            }
            Allocation::Random => self.any_of(range, behaviour, now, key, address),
            Allocation::Block(size) => {
                let block = self.block(range, size, key.own.ip(), address)?;
                self.any_of(block, behaviour, now, key, address)
            }
        }
    }

    /// Any free port of a range.
    fn any_of(
        &mut self,
        range: Range,
        behaviour: &Behaviour,
        now: Time,
        key: &Key,
        address: IpAddr,
    ) -> Option<SocketAddr> {
        /// So many blind tries before the range is gone through.
        const TRIES: u32 = 16;
        for _ in 0..TRIES {
            let at = SocketAddr::new(address, range.nth(self.random.random_range(0..range.count())));
            if self.free(behaviour, now, key, at) {
                return Some(at);
            }
        }
        let first = self.random.random_range(0..range.count());
        (0..range.count())
            .map(|nth| SocketAddr::new(address, range.nth((first + nth) % range.count())))
            .find(|at| self.free(behaviour, now, key, *at))
    }

    /// The block of an inside address at an outside one; `None` if all are given away.
    fn block(&mut self, range: Range, size: u16, inside: IpAddr, outside: IpAddr) -> Option<Range> {
        let size = u32::from(size).clamp(1, range.count());
        let first = match self.blocks.get(&(inside, outside)) {
            Some(first) => *first,
            None => {
                let count = range.count() / size;
                let drawn = self.random.random_range(0..count);
                let first = (0..count)
                    .map(|nth| range.nth((drawn + nth) % count * size))
                    .find(|first| !self.blocks_taken.contains_key(&(outside, *first)))?;
                self.blocks.insert((inside, outside), first);
                self.blocks_taken.insert((outside, first), inside);
                first
            }
        };
        let last = u32::from(first) + size - 1;
        Some(Range { first, last: u16::try_from(last).unwrap_or(u16::MAX) })
    }

    /// Whether an outside endpoint can be given to a new mapping.
    fn free(&mut self, behaviour: &Behaviour, now: Time, key: &Key, outside: SocketAddr) -> bool {
        let key = Key::new(key.protocol, outside, key.remote);
        let any = key.scoped(Dependence::Endpoint);
        if let Some(id) = self.taken.get(&any).copied()
            && self.alive(now, id)
        {
            return false;
        }
        if behaviour.mapping == Dependence::Endpoint {
            return true;
        }
        if matches!(behaviour.allocation, Allocation::Block(_)) {
            // A block is used up when each port has a mapping, to wherever.
            while let Some(id) = self.sharer(key.protocol, outside, 0) {
                if self.alive(now, id) {
                    return false;
                }
            }
            return true;
        }
        if let Some(id) = self.taken.get(&key.scoped(behaviour.mapping)).copied()
            && self.alive(now, id)
        {
            return false;
        }
        // Who came in from outside without being asked has no mapping of its own.
        self.find_outside(now, &key).is_none()
    }

    /// Takes an outside endpoint from whoever has it, unless that was made by hand.
    fn take_over(&mut self, behaviour: &Behaviour, key: &Key, outside: SocketAddr) -> bool {
        let key = Key::new(key.protocol, outside, key.remote);
        for scoped in [key.scoped(Dependence::Endpoint), key.scoped(behaviour.mapping)] {
            if let Some(id) = self.taken.get(&scoped).copied() {
                if self.mappings.get(id).is_some_and(|it| it.fixed) {
                    return false;
                }
                self.remove_mapping(id);
            }
        }
        if let Some(id) = self.outside.get(&key).copied() {
            self.remove_session(id);
        }
        true
    }
}

/// Ports in a row.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u16,
    last: u16,
}

impl Range {
    fn new((first, last): (u16, u16)) -> Self {
        Self { first: first.min(last), last: first.max(last) }
    }

    /// Its part with ports like this one, well-known or not, if it has such (RFC 4787 REQ-3 a).
    fn alike(self, port: u16) -> Self {
        const WELL_KNOWN: u16 = 1023;
        let part = if port <= WELL_KNOWN {
            Self { last: self.last.min(WELL_KNOWN), ..self }
        } else {
            Self { first: self.first.max(WELL_KNOWN + 1), ..self }
        };
        if part.first <= part.last { part } else { self }
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    fn nth(self, nth: u32) -> u16 {
        u16::try_from(u32::from(self.first) + nth % self.count()).unwrap_or(self.last)
    }

    /// So many further, round the range; from outside the range to its first.
    fn step(self, port: u16, step: u16) -> u16 {
        match port.checked_sub(self.first) {
            Some(at) if self.contains(port) => self.nth(u32::from(at) + u32::from(step)),
            _ => self.first,
        }
    }
}
