//! Payloads that a NAT rewrites: what an "application layer gateway" does to addresses in clear text.

use std::net::IpAddr;

use super::Rewriting;
use super::mappings::Mapping;
use super::sessions::Session;
use crate::packet::{Body, Packet, Quoted, Segment};

/// How the sequence numbers of a session are moved, since payloads became longer or shorter.
#[derive(Debug, Clone, Default)]
pub(super) struct Shifts {
    /// Of what comes from inside.
    outward: Shift,
    /// Of what comes from outside.
    inward: Shift,
}

/// How those of one side are moved; in the order of its sequence numbers.
#[derive(Debug, Clone, Default)]
struct Shift {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    /// From this number of the sender on
    at: u32,
    /// they are moved by this, modulo 2^32.
    by: u32,
}

const fn before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

impl Shift {
    fn by(&self, sequence: u32) -> u32 {
        self.steps.iter().rev().find(|step| !before(sequence, step.at)).map_or(0, |step| step.by)
    }

    /// What the receiver sees of a number of the sender.
    fn forth(&self, sequence: u32) -> u32 {
        sequence.wrapping_add(self.by(sequence))
    }

    /// The sender's number of what the receiver sees.
    fn back(&self, sequence: u32) -> u32 {
        let mut next: Option<Step> = None;
        for step in self.steps.iter().rev() {
            if !before(sequence, step.at.wrapping_add(step.by)) {
                return Self::unmoved(sequence, step.by, next);
            }
            next = Some(*step);
        }
        Self::unmoved(sequence, 0, next)
    }

    /// Within a rewritten payload there is no telling; then it is at most the payload's end.
    fn unmoved(sequence: u32, by: u32, next: Option<Step>) -> u32 {
        let unmoved = sequence.wrapping_sub(by);
        match next {
            Some(next) if before(next.at, unmoved) => next.at,
            Some(_) | None => unmoved,
        }
    }

    /// A payload that ends at this number of the sender has become so much longer, modulo 2^32. What is sent again changes
    /// nothing.
    fn record(&mut self, sequence: u32, end: u32, longer: u32) {
        let by = self.by(sequence).wrapping_add(longer);
        if self.by(end) != by {
            self.steps.push(Step { at: end, by });
        }
    }
}

/// Rewrites what comes from inside.
pub(super) fn outward(rewriting: Rewriting, session: &mut Session, mapping: &Mapping, packet: &mut Packet) {
    rewrite(rewriting, session, mapping.inside.ip(), mapping.outside.ip(), true, packet);
}

/// Rewrites what comes from outside.
pub(super) fn inward(rewriting: Rewriting, session: &mut Session, mapping: &Mapping, packet: &mut Packet) {
    rewrite(rewriting, session, mapping.outside.ip(), mapping.inside.ip(), false, packet);
}

/// What an inside host quotes of a segment that came in, as it was outside.
pub(super) fn quote_outward(session: &Session, quoted: &mut Quoted) {
    if let Some(shifts) = &session.shifts {
        quoted.sequence = shifts.inward.back(quoted.sequence);
    }
}

/// What is quoted outside of a segment that went out, as it was inside.
pub(super) fn quote_inward(session: &Session, quoted: &mut Quoted) {
    if let Some(shifts) = &session.shifts {
        quoted.sequence = shifts.outward.back(quoted.sequence);
    }
}

fn rewrite(
    rewriting: Rewriting,
    session: &mut Session,
    from: IpAddr,
    to: IpAddr,
    outward: bool,
    packet: &mut Packet,
) {
    if from == to {
        return;
    }
    let replace = |payload: &[u8]| match rewriting {
        Rewriting::None => None,
        Rewriting::Binary => replaced(payload, &bytes(from), &bytes(to), |_| false),
        Rewriting::Text => {
            let (from, to) = (from.to_string(), to.to_string());
            replaced(payload, from.as_bytes(), to.as_bytes(), |neighbour| neighbour.is_ascii_alphanumeric())
        }
    };
    match &mut packet.body {
        Body::Tcp(segment) => {
            let sequence = segment.sequence;
            let new = replace(&segment.payload);
            let shorter = u32::try_from(segment.payload.len()).unwrap_or(u32::MAX);
            let longer = new.as_ref().and_then(|it| u32::try_from(it.len()).ok()).unwrap_or(shorter);
            if longer != shorter {
                session.shifts.get_or_insert_default();
            }
            if let Some(shifts) = &mut session.shifts {
                let (own, other) = if outward {
                    (&mut shifts.outward, &shifts.inward)
                } else {
                    (&mut shifts.inward, &shifts.outward)
                };
                let data =
                    segment.sequence.wrapping_add(u32::from(segment.flags.has(crate::packet::Flags::SYN)));
                own.record(sequence, data.wrapping_add(shorter), longer.wrapping_sub(shorter));
                segment.sequence = own.forth(sequence);
                acknowledge(segment, other);
            }
            if let Some(new) = new {
                segment.payload = new;
            }
        }
        Body::Udp(datagram) => {
            if let Some(new) = replace(&datagram.payload) {
                datagram.payload = new;
            }
        }
        Body::Echo(_) | Body::Error(_) | Body::Other { .. } => {}
    }
}

/// Makes acknowledgements, selective ones too, those of what the other side sent.
fn acknowledge(segment: &mut Segment, other: &Shift) {
    segment.acknowledgement = other.back(segment.acknowledgement);
    let mut rest: &mut [u8] = &mut segment.options;
    loop {
        rest = match rest {
            [1, rest @ ..] => rest,
            [kind, length, ..] if *kind > 1 => {
                let (kind, length) = (*kind, usize::from(*length));
                if length < 2 {
                    return;
                }
                let Some((option, rest)) = rest.split_at_mut_checked(length) else { return };
                if kind == 5
                    && let Some(edges) = option.get_mut(2..)
                {
                    for edge in edges.chunks_exact_mut(4) {
                        if let [a, b, c, d] = edge {
                            [*a, *b, *c, *d] = other.back(u32::from_be_bytes([*a, *b, *c, *d])).to_be_bytes();
                        }
                    }
                }
                rest
            }
            _ => return,
        };
    }
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// With every occurrence replaced; `None` if there is none. One beside a byte that `joins` is part of something longer.
fn replaced(payload: &[u8], from: &[u8], to: &[u8], joins: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let mut new: Option<Vec<u8>> = None;
    let mut rest = payload;
    let mut previous = None;
    while let [first, after @ ..] = rest {
        match rest.strip_prefix(from) {
            Some(tail) if !previous.is_some_and(&joins) && !tail.first().is_some_and(|next| joins(*next)) => {
                let before = payload.len() - rest.len();
                new.get_or_insert_with(|| payload.get(..before).unwrap_or_default().to_vec()).extend(to);
                previous = from.last().copied();
                rest = tail;
            }
            Some(_) | None => {
                if let Some(new) = &mut new {
                    new.push(*first);
                }
                previous = Some(*first);
                rest = after;
            }
        }
    }
    new
}
