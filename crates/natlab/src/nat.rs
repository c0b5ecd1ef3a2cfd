//! NATs and firewalls as a state machine: packets and a time in, packets out.
//!
//! A NAT has mappings, and on each mapping sessions. A mapping is an inside endpoint with its outside one; a session is what
//! such a pair has with one remote endpoint, and for TCP it follows the connection. A mapping lives as long as it has a
//! session. What has expired is forgotten when it is met; nothing needs a timer but errors that are sent later.

mod behaviour;
mod conntrack;
mod key;
mod limiter;
mod mappings;
pub mod presets;
mod rewriting;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

pub use behaviour::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Refusal, Rewriting, Timeouts,
    Tracking,
};
use key::{Key, Map};
use limiter::Bucket;
use mappings::Table;
use sessions::{Connection, Judgement};

use crate::Time;
use crate::packet::{Body, Echo, ErrorKind, IcmpError, Packet, Protocol, Segment, Unreachable};

/// On which side of a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The hosts that it serves.
    Inside,
    /// The rest of the world.
    Outside,
}

/// A NAT or firewall for one family of addresses.
#[derive(Debug, Clone)]
pub struct Nat {
    behaviour: Behaviour,
    inside: IpAddr,
    outside: Vec<IpAddr>,
    table: Table,
    sent: VecDeque<(Side, Packet)>,
    errors_sent: Map<IpAddr, Bucket>,
    syns_refused: Bucket,
    held: Held,
}

/// Unsolicited SYNs that are answered later, in the order of their times.
#[derive(Debug, Clone, Default)]
struct Held {
    errors: VecDeque<(Time, Key, Packet)>,
    due: Map<Key, Time>,
}

impl Held {
    fn hold(&mut self, due: Time, key: Key, error: Packet) {
        // One that is sent again is the same one.
        if let std::collections::hash_map::Entry::Vacant(entry) = self.due.entry(key) {
            entry.insert(due);
            self.errors.push_back((due, key, error));
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.due.remove(key).is_some() {
            while self.errors.front().is_some_and(|(due, key, _)| self.due.get(key) != Some(due)) {
                self.errors.pop_front();
            }
        }
    }

    fn next(&self) -> Option<Time> {
        self.errors.front().map(|(due, ..)| *due)
    }

    fn take(&mut self, now: Time) -> Option<Packet> {
        while self.next().is_some_and(|due| due <= now) {
            let (due, key, error) = self.errors.pop_front()?;
            if self.due.get(&key) == Some(&due) {
                self.due.remove(&key);
                return Some(error);
            }
        }
        None
    }
}

/// The remote end of a flow: of an echo the address alone.
fn remote(protocol: Protocol, end: SocketAddr) -> SocketAddr {
    match protocol {
        Protocol::Tcp | Protocol::Udp => end,
        Protocol::Echo => SocketAddr::new(end.ip(), 0),
    }
}

fn set_source(packet: &mut Packet, to: SocketAddr) {
    packet.source = to.ip();
    match &mut packet.body {
        Body::Tcp(segment) => segment.source_port = to.port(),
        Body::Udp(datagram) => datagram.source_port = to.port(),
        Body::Echo(echo) => echo.identifier = to.port(),
        Body::Error(_) | Body::Other { .. } => {}
    }
}

fn set_destination(packet: &mut Packet, to: SocketAddr) {
    packet.destination = to.ip();
    match &mut packet.body {
        Body::Tcp(segment) => segment.destination_port = to.port(),
        Body::Udp(datagram) => datagram.destination_port = to.port(),
        Body::Echo(echo) => echo.identifier = to.port(),
        Body::Error(_) | Body::Other { .. } => {}
    }
}

/// What answers a ping.
fn pong(packet: &Packet, echo: &Echo) -> Packet {
    let body = Body::Echo(Echo { request: false, ..echo.clone() });
    Packet { source: packet.destination, destination: packet.source, ttl: Packet::TTL, body }
}

impl Nat {
    /// A NAT that has seen nothing yet.
    ///
    /// `outside` are its outside addresses, one at least; a firewall's is the address that it answers from. `inside` is its
    /// own address inside. What is random comes from `seed`.
    pub fn new(behaviour: Behaviour, inside: IpAddr, outside: Vec<IpAddr>, seed: u64) -> Self {
        let table = Table::new(&behaviour, seed);
        Self {
            behaviour,
            inside,
            outside,
            table,
            sent: VecDeque::new(),
            errors_sent: Map::default(),
            syns_refused: Bucket::default(),
            held: Held::default(),
        }
    }

    /// What it does.
    pub fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Takes a packet that came to it from one side: from inside whatever is not for a neighbour, from outside whatever is
    /// routed to it. What becomes of it is in [`poll`](Self::poll).
    pub fn handle(&mut self, now: Time, from: Side, packet: Packet) {
        match from {
            Side::Inside => self.pass_outward(now, packet),
            Side::Outside => self.pass_inward(now, packet, None),
        }
    }

    /// The next packet that it sends, and to which side.
    pub fn poll(&mut self) -> Option<(Side, Packet)> {
        self.sent.pop_front()
    }

    /// When [`wake`](Self::wake) is to be called next, if nothing comes before. Forgetting needs no call.
    pub fn next(&self) -> Option<Time> {
        self.held.next()
    }

    /// Does what is due by now: errors that were to be sent later.
    pub fn wake(&mut self, now: Time) {
        while let Some(error) = self.held.take(now) {
            if self.may_send_error(now, error.destination) {
                self.send_outside(now, error, None);
            }
        }
    }

    /// Opens an outside TCP port to one inside address and port, for everybody and for ever, as a user does by hand. A
    /// firewall opens that port of the inside address.
    pub fn forward(&mut self, outside_port: u16, inside: SocketAddr) {
        if self.behaviour.translates {
            for address in &self.outside {
                self.table.fix(inside, SocketAddr::new(*address, outside_port));
            }
        } else {
            let opened = SocketAddr::new(inside.ip(), outside_port);
            self.table.fix(opened, opened);
        }
    }

    /// Forgets every mapping and session, as a restart does. Forwarded ports stay.
    pub fn forget(&mut self) {
        self.table.forget();
        self.held = Held::default();
    }

    /// Whether it keeps no state at all: a firewall that lets everybody in.
    fn is_router(&self) -> bool {
        !self.behaviour.translates && self.behaviour.filtering == Dependence::Endpoint
    }

    /// The address that a packet from outside was sent to, if it is this machine's; else the one it answers from.
    fn answers_from(&self, packet: &Packet) -> IpAddr {
        if self.behaviour.translates && self.outside.contains(&packet.destination) {
            return packet.destination;
        }
        self.outside.first().copied().unwrap_or(self.inside)
    }

    fn ends_here(&self, packet: &Packet) -> bool {
        self.behaviour.counts_ttl && packet.ttl <= 1
    }

    fn count_down(&self, packet: &mut Packet) {
        packet.ttl = packet.ttl.saturating_sub(u8::from(self.behaviour.counts_ttl));
    }

    fn pass_outward(&mut self, now: Time, mut packet: Packet) {
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            return;
        }
        let to_itself = packet.destination == self.inside;
        let to_outside_address = self.outside.contains(&packet.destination);
        if to_itself || to_outside_address && !self.hairpins(&packet) {
            return self.answer_inside(now, &packet);
        }
        if self.is_router() {
            if self.ends_here(&packet) {
                return self.time_exceeded_inside(now, &packet);
            }
            self.count_down(&mut packet);
            return self.sent.push_back((Side::Outside, packet));
        }
        let Some((protocol, source, destination)) = packet.flow() else {
            return self.error_from_inside(now, packet);
        };
        let key = Key::new(protocol, source, remote(protocol, destination));
        let mut found = self.table.find_inside(now, &key);
        if found.is_some_and(|id| self.unseen(id, Side::Inside, &packet)) {
            return;
        }
        let mut judgement = Judgement::Passes(Ends::Nothing);
        if let Some(id) = found {
            judgement = self.judge(now, Side::Inside, id, &packet);
            match judgement {
                Judgement::Passes(_) | Judgement::Ignored => {}
                Judgement::Invalid => return,
                Judgement::BeginsAnew => {
                    self.table.remove_session(id);
                    found = None;
                    judgement = Judgement::Passes(Ends::Nothing);
                }
            }
        }
        if self.ends_here(&packet) {
            return self.time_exceeded_inside(now, &packet);
        }
        let id = match found {
            Some(id) => id,
            None => {
                let Some(connection) = self.first(Side::Inside, &packet) else { return };
                let mapping = self.table.map(&self.behaviour, &self.outside, now, &key);
                let begun = mapping
                    .and_then(|mapping| self.table.begin(now, mapping, key.remote, Side::Inside, connection));
                let Some(id) = begun else { return };
                self.refresh(now, id);
                id
            }
        };
        let Some((session, mapping)) = self.table.both(id) else { return };
        let opens = packet.segment().is_some_and(Segment::opens);
        if opens && session.began == Side::Outside && !self.behaviour.simultaneous_open {
            return;
        }
        let outside = mapping.outside;
        if self.behaviour.rewriting != Rewriting::None {
            rewriting::outward(self.behaviour.rewriting, session, mapping, &mut packet);
        }
        set_source(&mut packet, outside);
        self.count_down(&mut packet);
        if opens {
            self.held.forget(&Key::new(protocol, outside, key.remote));
        }
        self.end(id, judgement);
        self.send_outside(now, packet, Some(source));
    }

    /// Whether a SYN that crosses another is dropped before the session hears of it. Linux drops it after that, in its
    /// filter.
    fn unseen(&mut self, id: u32, from: Side, packet: &Packet) -> bool {
        !self.behaviour.simultaneous_open
            && self.behaviour.tracking == Tracking::Flags
            && packet.segment().is_some_and(Segment::opens)
            && self.table.session(id).is_some_and(|session| session.began != from)
    }

    /// What a packet that belongs to no session begins, if it may.
    fn first(&self, from: Side, packet: &Packet) -> Option<Connection> {
        match &packet.body {
            Body::Tcp(segment) => Connection::new(self.behaviour.tracking, from, segment),
            Body::Udp(_) => Some(Connection::None),
            Body::Echo(echo) => echo.request.then_some(Connection::None),
            Body::Error(_) | Body::Other { .. } => None,
        }
    }

    /// Follows a packet of a session.
    fn judge(&mut self, now: Time, from: Side, id: u32, packet: &Packet) -> Judgement {
        self.refresh_idle(now, id, packet);
        match self.table.session(id) {
            Some(session) => session.track(&self.behaviour, now, from, packet.segment()),
            None => Judgement::Invalid,
        }
    }

    fn refresh_idle(&mut self, now: Time, id: u32, packet: &Packet) {
        match &packet.body {
            Body::Udp(_) | Body::Echo(_) => self.refresh(now, id),
            Body::Tcp(_) | Body::Error(_) | Body::Other { .. } => {}
        }
    }

    /// Begins a session's time-out, as its protocol has it.
    fn refresh(&mut self, now: Time, id: u32) {
        let timeouts = &self.behaviour.timeouts;
        let Some((session, mapping)) = self.table.both(id) else { return };
        session.expires = now
            + match (&session.connection, mapping.protocol) {
                (Connection::Linux(entry), _) => entry.timeout(timeouts, self.behaviour.fin),
                (Connection::Flags(flagged), _) => flagged.timeout(timeouts),
                (Connection::None, Protocol::Udp) => timeouts.udp,
                (Connection::None, Protocol::Tcp | Protocol::Echo) => timeouts.echo,
            };
    }

    /// Ends what a packet ends.
    fn end(&mut self, id: u32, judgement: Judgement) {
        let Judgement::Passes(ends) = judgement else { return };
        match ends {
            Ends::Nothing | Ends::SessionLater => {}
            Ends::Session => self.table.remove_session(id),
            Ends::Mapping => {
                if let Some(mapping) = self.table.session(id).map(|it| it.mapping) {
                    self.table.remove_mapping(mapping);
                }
            }
        }
    }

    /// Sends a packet toward the outside: round to the inside, if it is for an outside address of this NAT.
    /// `dialler` is who sent it, if it came from inside.
    fn send_outside(&mut self, now: Time, packet: Packet, dialler: Option<SocketAddr>) {
        if self.behaviour.translates && self.outside.contains(&packet.destination) {
            self.pass_inward(now, packet, Some(dialler));
        } else {
            self.sent.push_back((Side::Outside, packet));
        }
    }

    /// Whether a packet from inside to an outside address is passed on to who has that endpoint.
    fn hairpins(&self, packet: &Packet) -> bool {
        if !self.behaviour.translates || self.behaviour.hairpin == Hairpin::No {
            return false;
        }
        match &packet.body {
            Body::Tcp(_) | Body::Udp(_) | Body::Error(_) => true,
            // RFC 5508 REQ-7 demands hairpinned queries only of NATs without ports: an identifier names one end alone.
            Body::Echo(_) | Body::Other { .. } => false,
        }
    }

    /// Nothing listens on the router, but it can be pinged.
    fn answer_inside(&mut self, now: Time, packet: &Packet) {
        let answer = match &packet.body {
            Body::Tcp(_) => packet.reset(),
            Body::Udp(_) => packet
                .error(packet.destination, ErrorKind::Unreachable(Unreachable::Port))
                .filter(|error| self.may_send_error(now, error.destination)),
            Body::Echo(echo) => echo.request.then(|| pong(packet, echo)),
            Body::Error(_) | Body::Other { .. } => None,
        };
        self.sent.extend(answer.map(|answer| (Side::Inside, answer)));
    }

    fn time_exceeded_inside(&mut self, now: Time, packet: &Packet) {
        if let Some(error) = packet.error(self.inside, ErrorKind::TimeExceeded)
            && self.may_send_error(now, error.destination)
        {
            self.sent.push_back((Side::Inside, error));
        }
    }

    fn may_send_error(&mut self, now: Time, to: IpAddr) -> bool {
        match self.behaviour.icmp_limit {
            Some(rate) => self.errors_sent.entry(to).or_default().take(now, rate),
            None => true,
        }
    }

    /// Takes a packet from outside, or, with `hairpin`, one that was sent to an outside address by an inside host (or by
    /// the router itself: `Some(None)`) and is translated already.
    fn pass_inward(&mut self, now: Time, mut packet: Packet, hairpin: Option<Option<SocketAddr>>) {
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            return;
        }
        let own = self.outside.contains(&packet.destination);
        if self.behaviour.translates && !own {
            return;
        }
        if self.is_router() && !own {
            if self.ends_here(&packet) {
                return self.time_exceeded_outside(now, &packet);
            }
            self.count_down(&mut packet);
            return self.sent.push_back((Side::Inside, packet));
        }
        let Some((protocol, source, destination)) = packet.flow() else {
            return self.error_from_outside(now, packet, hairpin.is_some());
        };
        if let Body::Echo(echo) = &packet.body
            && own
            && echo.request
        {
            let pong = pong(&packet, echo);
            return self.sent.push_back((Side::Outside, pong));
        }
        let key = Key::new(protocol, destination, remote(protocol, source));
        let mut found = self.table.find_outside(now, &key);
        if found.is_some_and(|id| self.unseen(id, Side::Outside, &packet)) {
            return;
        }
        let original = match (found, self.behaviour.rewriting) {
            (None, _) | (Some(_), Rewriting::None) => None,
            (Some(id), Rewriting::Binary | Rewriting::Text) => {
                let original = packet.clone();
                if let Some((session, mapping)) = self.table.both(id) {
                    rewriting::inward(self.behaviour.rewriting, session, mapping, &mut packet);
                }
                Some(original)
            }
        };
        let mut judgement = Judgement::Passes(Ends::Nothing);
        if let Some(id) = found {
            judgement = self.judge(now, Side::Outside, id, &packet);
            match judgement {
                Judgement::Passes(_) | Judgement::Ignored => {}
                Judgement::Invalid => return self.invalid(now, original.as_ref().unwrap_or(&packet)),
                Judgement::BeginsAnew => {
                    self.table.remove_session(id);
                    found = None;
                    judgement = Judgement::Passes(Ends::Nothing);
                }
            }
        }
        let admitted = match found {
            Some(id) => self.table.session(id).map(|it| it.mapping),
            None => self.admits(now, &key, &packet),
        };
        let counts = hairpin.is_none() && (admitted.is_some() || !own);
        if counts && self.ends_here(&packet) {
            return self.time_exceeded_outside(now, original.as_ref().unwrap_or(&packet));
        }
        let Some(mapping) = admitted else { return self.unsolicited(now, &key, &packet) };
        let segment = packet.segment();
        let opens = segment.is_some_and(Segment::opens);
        let began = match found {
            Some(id) => self.table.session(id).map(|it| it.began),
            None => Some(Side::Outside),
        };
        if opens && began == Some(Side::Inside) && !self.behaviour.simultaneous_open {
            return;
        }
        let id = match found {
            Some(id) => Some(id),
            None => match self.first(Side::Outside, &packet) {
                Some(connection) => {
                    let begun = self.table.begin(now, mapping, key.remote, Side::Outside, connection);
                    let Some(id) = begun else { return };
                    self.refresh(now, id);
                    Some(id)
                }
                None if segment.is_some_and(|it| sessions::stray(self.behaviour.tracking, it)) => {
                    return self.invalid(now, &packet);
                }
                None => None,
            },
        };
        let Some(inside) = self.table.mapping(mapping).map(|it| it.inside) else { return };
        set_destination(&mut packet, inside);
        if hairpin.is_none() {
            self.count_down(&mut packet);
        }
        if let (Some(Some(dialler)), Hairpin::InsideSource, Some(Side::Outside)) =
            (hairpin, self.behaviour.hairpin, began)
        {
            set_source(&mut packet, dialler);
        }
        if let Some(id) = id {
            self.end(id, judgement);
        }
        self.sent.push_back((Side::Inside, packet));
    }

    /// The mapping that lets a packet in which belongs to no session.
    fn admits(&mut self, now: Time, key: &Key, packet: &Packet) -> Option<u32> {
        if let Body::Echo(echo) = &packet.body
            && echo.request
            && !self.behaviour.translates
            && packet.destination.is_ipv6()
            && !self.outside.contains(&packet.destination)
        {
            // RFC 4890 section 4.3.1: echo requests must not be dropped, addresses being too many to be scanned.
            return self.table.map(&self.behaviour, &self.outside, now, key);
        }
        self.table.admits(&self.behaviour, now, key)
    }

    fn time_exceeded_outside(&mut self, now: Time, packet: &Packet) {
        if let Some(error) = packet.error(self.answers_from(packet), ErrorKind::TimeExceeded)
            && self.may_send_error(now, error.destination)
        {
            self.sent.push_back((Side::Outside, error));
        }
    }

    /// A segment from outside that does not fit its connection.
    fn invalid(&mut self, now: Time, packet: &Packet) {
        if self.behaviour.refuses_invalid {
            self.refuse(now, packet);
        }
    }

    /// A packet from outside that nobody inside asked for.
    fn unsolicited(&mut self, now: Time, key: &Key, packet: &Packet) {
        match &packet.body {
            Body::Tcp(segment) => {
                if sessions::stray(self.behaviour.tracking, segment) {
                    return self.invalid(now, packet);
                }
                if segment.opens()
                    && let Some(rate) = self.behaviour.syn_limit
                    && !self.syns_refused.take(now, rate)
                {
                    return;
                }
            }
            Body::Echo(echo) if !echo.request => return,
            Body::Udp(_) | Body::Echo(_) | Body::Error(_) | Body::Other { .. } => {}
        }
        match self.behaviour.refusal {
            Refusal::IcmpLater(unreachable) => {
                let error = packet.error(self.answers_from(packet), ErrorKind::Unreachable(unreachable));
                if let (Some(error), true) = (error, packet.segment().is_some_and(Segment::opens)) {
                    self.held.hold(now + self.behaviour.timeouts.unsolicited, *key, error);
                }
            }
            Refusal::Drop | Refusal::Reset | Refusal::Icmp(_) => self.refuse(now, packet),
        }
    }

    fn refuse(&mut self, now: Time, packet: &Packet) {
        let unreachable = match self.behaviour.refusal {
            Refusal::Drop | Refusal::IcmpLater(_) => return,
            Refusal::Reset if packet.segment().is_some() => {
                if let Some(reset) = packet.reset() {
                    self.send_outside(now, reset, None);
                }
                return;
            }
            Refusal::Reset => Unreachable::Port,
            Refusal::Icmp(unreachable) => unreachable,
        };
        let error = packet.error(self.answers_from(packet), ErrorKind::Unreachable(unreachable));
        if let Some(error) = error
            && self.may_send_error(now, error.destination)
        {
            self.send_outside(now, error, None);
        }
    }

    /// An ICMP error from an inside host about what came in to it.
    fn error_from_inside(&mut self, now: Time, mut packet: Packet) {
        let Body::Error(IcmpError { quoted, .. }) = &packet.body else { return };
        let protocol = quoted.protocol;
        let key = Key::new(protocol, quoted.destination, remote(protocol, quoted.source));
        let key = match protocol {
            Protocol::Tcp | Protocol::Udp => key,
            // Of an echo the quote names the identifier on its source alone.
            Protocol::Echo => Key { own: SocketAddr::new(key.own.ip(), quoted.source.port()), ..key },
        };
        let Some(id) = self.table.find_inside(now, &key) else { return };
        if self.ends_here(&packet) {
            return;
        }
        let Some((session, mapping)) = self.table.both(id) else { return };
        let outside = mapping.outside;
        if let Body::Error(IcmpError { quoted, .. }) = &mut packet.body {
            rewriting::quote_outward(session, quoted);
            match protocol {
                Protocol::Tcp | Protocol::Udp => quoted.destination = outside,
                Protocol::Echo => {
                    quoted.destination.set_ip(outside.ip());
                    quoted.source.set_port(outside.port());
                }
            }
        }
        if self.behaviour.translates {
            packet.source = outside.ip();
        }
        self.count_down(&mut packet);
        self.end_by_error(now, id);
        self.send_outside(now, packet, None);
    }

    /// An ICMP error from outside about what an inside host sent.
    fn error_from_outside(&mut self, now: Time, mut packet: Packet, hairpin: bool) {
        let Body::Error(IcmpError { quoted, .. }) = &packet.body else { return };
        let protocol = quoted.protocol;
        let key = Key::new(protocol, quoted.source, remote(protocol, quoted.destination));
        let Some(id) = self.table.find_outside(now, &key) else { return };
        if !hairpin && self.ends_here(&packet) {
            return;
        }
        let Some((session, mapping)) = self.table.both(id) else { return };
        let inside = mapping.inside;
        if let Body::Error(IcmpError { quoted, .. }) = &mut packet.body {
            rewriting::quote_inward(session, quoted);
            quoted.source = inside;
        }
        packet.destination = inside.ip();
        if !hairpin {
            self.count_down(&mut packet);
        }
        self.end_by_error(now, id);
        self.sent.push_back((Side::Inside, packet));
    }

    fn end_by_error(&mut self, now: Time, id: u32) {
        let closing = now + self.behaviour.timeouts.closing;
        if self.behaviour.icmp == Ends::SessionLater
            && let Some(session) = self.table.session(id)
        {
            session.expires = session.expires.min(closing);
        }
        self.end(id, Judgement::Passes(self.behaviour.icmp));
    }
}
