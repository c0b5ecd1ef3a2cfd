//! What a NAT knows of a conversation.

use std::net::SocketAddr;
use std::time::Duration;

use super::conntrack::{self, Change, Conntrack, Verdict};
use super::rewriting::Shifts;
use super::{Behaviour, Ends, Side, Timeouts, Tracking};
use crate::Time;
use crate::packet::{Flags, Segment};

/// What one endpoint inside has with one outside, through one mapping.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) mapping: u32,
    pub(super) remote: SocketAddr,
    /// Where its first packet came from.
    pub(super) began: Side,
    pub(super) expires: Time,
    pub(super) connection: Connection,
    /// How rewriting has moved its sequence numbers.
    pub(super) shifts: Option<Box<Shifts>>,
    /// Its neighbours among the sessions of the mapping.
    pub(super) previous: Option<u32>,
    pub(super) next: Option<u32>,
}

/// What is known of the connection.
#[derive(Debug, Clone)]
pub(super) enum Connection {
    /// UDP and echo have none.
    None,
    Flags(Flagged),
    Linux(Box<Conntrack>),
}

/// A TCP connection followed by its flags alone (RFC 7857 section 2, RFC 5382 section 5).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flagged {
    inside: Seen,
    outside: Seen,
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    any: bool,
    /// An acknowledgement that is no SYN: for this side the handshake is over.
    acknowledged: bool,
    fin: bool,
}

/// What is to be done with a packet of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It passes, and this ends.
    Passes(Ends),
    /// It passes and changes nothing.
    Ignored,
    /// It does not belong to the session.
    Invalid,
    /// It begins another session; this one is to be forgotten.
    BeginsAnew,
}

impl Flagged {
    fn track(&mut self, from: Side, flags: Flags) -> Change {
        if flags.has(Flags::SYN) && self.closed {
            *self = Self::default();
        }
        let finished = self.inside.fin && self.outside.fin;
        let own = match from {
            Side::Inside => &mut self.inside,
            Side::Outside => &mut self.outside,
        };
        own.any = true;
        own.acknowledged |= flags.has(Flags::ACK) && !flags.has(Flags::SYN);
        own.fin |= flags.has(Flags::FIN);
        if flags.has(Flags::RST) {
            self.closed = true;
            Change::Reset
        } else if !finished && self.inside.fin && self.outside.fin {
            self.closed = true;
            Change::Finished
        } else {
            Change::Refresh
        }
    }

    fn replied(&self) -> bool {
        self.inside.any && self.outside.any
    }

    pub(super) fn timeout(&self, timeouts: &Timeouts) -> Duration {
        if self.closed {
            timeouts.closing
        } else if self.replied() && (self.inside.acknowledged || self.outside.acknowledged) {
            timeouts.established
        } else {
            timeouts.transitory
        }
    }
}

impl Connection {
    /// What a first segment begins, if it may begin anything.
    pub(super) fn new(tracking: Tracking, from: Side, segment: &Segment) -> Option<Self> {
        match tracking {
            Tracking::Linux => Some(Self::Linux(Box::new(Conntrack::new(segment)?))),
            Tracking::Flags => {
                let from_inside = from == Side::Inside && segment.flags.has(Flags::ACK);
                if segment.flags.has(Flags::RST) || !segment.opens() && !from_inside {
                    return None;
                }
                let mut flagged = Flagged::default();
                flagged.track(from, segment.flags);
                Some(Self::Flags(flagged))
            }
        }
    }
}

/// Whether what belongs to no session is invalid rather than unsolicited.
pub(super) fn stray(tracking: Tracking, segment: &Segment) -> bool {
    match tracking {
        Tracking::Linux => !conntrack::begins(segment),
        Tracking::Flags => segment.flags.has(Flags::RST),
    }
}

impl Session {
    /// Follows a segment from one side, and sets when the session expires.
    pub(super) fn track(
        &mut self,
        behaviour: &Behaviour,
        now: Time,
        from: Side,
        segment: Option<&Segment>,
    ) -> Judgement {
        let Some(segment) = segment else { return Judgement::Passes(Ends::Nothing) };
        let timeouts = &behaviour.timeouts;
        let ends = |replied: bool| if replied { behaviour.reset } else { behaviour.early_reset };
        match &mut self.connection {
            Connection::None => Judgement::Passes(Ends::Nothing),
            Connection::Flags(flagged) => {
                let before = *flagged;
                let ends = match flagged.track(from, segment.flags) {
                    Change::Refresh | Change::Nothing => Ends::Nothing,
                    Change::Reset => ends(before.replied()),
                    Change::Finished => behaviour.fin,
                };
                if ends == Ends::Nothing && flagged.closed && !before.closed {
                    flagged.closed = false;
                }
                if !(before.closed && flagged.closed) && !segment.flags.has(Flags::RST)
                    || ends == Ends::SessionLater
                {
                    self.expires = now + flagged.timeout(timeouts);
                }
                Judgement::Passes(ends)
            }
            Connection::Linux(entry) => {
                let before = **entry;
                match entry.track(from != self.began, segment) {
                    Verdict::Ignored => Judgement::Ignored,
                    Verdict::Invalid => Judgement::Invalid,
                    Verdict::BeginsAnew => Judgement::BeginsAnew,
                    Verdict::Passes(Change::Nothing) => Judgement::Passes(Ends::Nothing),
                    Verdict::Passes(Change::Refresh) => {
                        self.expires = now + entry.timeout(timeouts, behaviour.fin);
                        Judgement::Passes(Ends::Nothing)
                    }
                    Verdict::Passes(Change::Reset) => {
                        let ends = ends(before.replied());
                        match ends {
                            Ends::Nothing => **entry = before,
                            Ends::SessionLater => {
                                self.expires = now + entry.timeout(timeouts, behaviour.fin);
                            }
                            Ends::Session | Ends::Mapping => {}
                        }
                        Judgement::Passes(ends)
                    }
                    Verdict::Passes(Change::Finished) => {
                        self.expires = now + entry.timeout(timeouts, behaviour.fin);
                        Judgement::Passes(behaviour.fin)
                    }
                }
            }
        }
    }
}
