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

/// A TCP connection followed by its flags alone (RFC 7857 section 2, which takes its states from RFC 6146 section 3.5.2).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flagged {
    inside: Seen,
    outside: Seen,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// What comes after a reset proves that it was not believed.
    Reset,
    /// Both sides sent a FIN: what follows is their last acknowledgements.
    Finished,
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
        if flags.has(Flags::RST) {
            self.phase = Phase::Reset;
            return Change::Reset;
        }
        match self.phase {
            Phase::Finished if !flags.has(Flags::SYN) => return Change::Nothing,
            Phase::Finished => *self = Self::default(),
            Phase::Reset => self.phase = Phase::Open,
            Phase::Open => {}
        }
        let own = match from {
            Side::Inside => &mut self.inside,
            Side::Outside => &mut self.outside,
        };
        own.any = true;
        own.acknowledged |= flags.has(Flags::ACK) && !flags.has(Flags::SYN);
        own.fin |= flags.has(Flags::FIN);
        if self.inside.fin && self.outside.fin {
            self.phase = Phase::Finished;
            Change::Finished
        } else {
            Change::Refresh
        }
    }

    fn replied(&self) -> bool {
        self.inside.any && self.outside.any
    }

    pub(super) fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match self.phase {
            Phase::Reset | Phase::Finished => timeouts.closing,
            Phase::Open if self.replied() && (self.inside.acknowledged || self.outside.acknowledged) => {
                timeouts.established
            }
            Phase::Open => timeouts.transitory,
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
                    Change::Nothing => return Judgement::Passes(Ends::Nothing),
                    Change::Refresh | Change::Doubted => Ends::Nothing,
                    Change::Reset => ends(before.replied()),
                    Change::Finished => behaviour.fin,
                };
                if ends == Ends::Nothing {
                    if flagged.phase == Phase::Reset {
                        *flagged = before;
                        return Judgement::Passes(ends);
                    }
                    flagged.phase = Phase::Open;
                }
                self.expires = now + flagged.timeout(timeouts);
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
                    Verdict::Passes(Change::Doubted) => {
                        self.expires = self.expires.min(now + timeouts.closing);
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
