//! One end of a TCP connection: RFC 9293, and where that leaves a choice, Linux 6.18.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::net::{Net, Purpose};
use super::{Event, SocketError, SocketId};
use crate::packet::{ErrorKind, Flags, Packet, Segment, Unreachable};
use crate::{HostId, Time};

/// What may be under way unacknowledged, and what is taken beyond what was received, in bytes. Nobody scales windows.
const WINDOW: u32 = 0xffff;
/// Until a round trip was measured (RFC 6298 section 2.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Linux' TCP_RTO_MIN and TCP_RTO_MAX.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
const MOST_TIMEOUT: Duration = Duration::from_secs(120);
/// tcp_syn_linear_timeouts: so many repetitions of a SYN before the time-out doubles.
const LINEAR_TIMEOUTS: u32 = 4;
/// tcp_syn_retries; in SYN_SENT the linear ones come on top.
const SYN_RETRIES: u32 = 6;
/// tcp_synack_retries.
const SYN_ACK_RETRIES: u32 = 5;
/// tcp_retries2 (15), by the time that it stands for.
const PATIENCE: Duration = Duration::from_millis(924_600);
/// The same for a connection whose program has closed it: eight time-outs.
const ORPHAN_PATIENCE: Duration = Duration::from_millis(102_200);
/// TCP_TIMEWAIT_LEN and tcp_fin_timeout.
const LINGER: Duration = Duration::from_secs(60);
/// tcp_invalid_ratelimit: a challenge is sent at most once in this time.
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);
/// TCP_TIMEOUT_MIN, two jiffies and the rest of one: 10 and 12 ms measured with jiffies of 4 ms.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
/// Segments that wait for an earlier one.
const MOST_EARLY: usize = 64;

pub(super) fn before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) > u32::MAX / 2
}

pub(super) fn after(one: u32, other: u32) -> bool {
    before(other, one)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    SynSent,
    /// A listener's: SYN_RECV as a request, not yet a connection.
    Request,
    /// SYN_RECV after a simultaneous open.
    SynReceived,
    Established,
    CloseWait,
    FinWait1,
    FinWait2,
    Closing,
    LastAck,
    TimeWait,
}

/// Who has a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The program, by a descriptor.
    Program,
    /// The listener's queue.
    Queue,
    /// Nobody any more; the kernel finishes it.
    Nobody,
}

/// What becomes of a socket after what happened.
#[derive(Debug)]
pub(super) enum After {
    Stays,
    Gone,
    /// A request has become a connection; the segment is its first.
    Accepted(Segment),
    /// The segment is not for this socket but for the listener.
    Unmatched(Segment),
    /// The segment opens the connection again: this socket is gone, the segment is for the listener.
    Reopened(Segment),
}

/// Where a socket acts.
pub(super) struct Context<'a> {
    pub(super) net: &'a mut Net,
    pub(super) host: HostId,
    pub(super) events: &'a mut VecDeque<Event>,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: u32,
    pub(super) state: State,
    pub(super) owner: Owner,
    /// Of a request and what became of it.
    pub(super) listener: u32,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Both ends are on this host.
    itself: bool,
    ttl: u8,
    /// Sequence number of the own SYN, the first unacknowledged and the next to be sent.
    first: u32,
    unacknowledged: u32,
    next: u32,
    /// What was written and is not acknowledged yet.
    outgoing: VecDeque<u8>,
    fin_wanted: bool,
    fin_sent: bool,
    /// Sequence number expected next.
    expected: u32,
    incoming: Vec<u8>,
    /// Segments that came before earlier ones.
    early: Vec<(u32, Vec<u8>)>,
    early_fin: Option<u32>,
    /// The most data in a segment.
    size: usize,
    smoothed: Option<(Duration, Duration)>,
    pub(super) least_round_trip: Option<Duration>,
    timeout: Duration,
    retries: u32,
    retried_since: Time,
    duplicates: u32,
    /// What was sent by then has to be acknowledged before a loss is made good.
    recovers: Option<u32>,
    /// One segment whose acknowledgement is timed.
    timed: Option<(u32, Time)>,
    challenged: Option<Time>,
    deadline: Option<Time>,
    /// The earliest timer set for this socket.
    queued: Option<Time>,
}

impl Socket {
    pub(super) fn new(
        cx: &Context<'_>,
        (id, listener): (u32, u32),
        (local, remote): (SocketAddr, SocketAddr),
        itself: bool,
        ttl: u8,
        first: u32,
    ) -> Self {
        Self {
            id,
            state: State::SynSent,
            owner: Owner::Program,
            listener,
            local,
            remote,
            itself,
            ttl,
            first,
            unacknowledged: first,
            next: first.wrapping_add(1),
            outgoing: VecDeque::new(),
            fin_wanted: false,
            fin_sent: false,
            expected: 0,
            incoming: Vec::new(),
            early: Vec::new(),
            early_fin: None,
            size: most_data(cx.net.internet.mtu(cx.host), remote.is_ipv4()),
            smoothed: None,
            least_round_trip: None,
            timeout: FIRST_TIMEOUT,
            retries: 0,
            retried_since: Time::ZERO,
            duplicates: 0,
            recovers: None,
            timed: None,
            challenged: None,
            deadline: None,
            queued: None,
        }
    }

    /// Sends the SYN.
    pub(super) fn open(&mut self, cx: &mut Context<'_>) {
        self.timed = Some((self.next, cx.net.now));
        self.send_syn(cx);
        self.arm(cx, self.timeout);
    }

    /// Answers a SYN for a listener.
    pub(super) fn request(&mut self, cx: &mut Context<'_>, syn: &Segment) {
        self.state = State::Request;
        self.owner = Owner::Queue;
        self.heard_syn(syn);
        self.timed = Some((self.next, cx.net.now));
        self.send_syn(cx);
        self.arm(cx, self.timeout);
    }

    pub(super) fn is_half_open(&self) -> bool {
        self.state == State::SynReceived
    }

    pub(super) fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if !self.fin_wanted {
            self.outgoing.extend(bytes);
            self.flush(cx);
        }
    }

    pub(super) fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.incoming)
    }

    /// The program has closed it.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) -> After {
        self.owner = Owner::Nobody;
        match self.state {
            State::SynSent => return After::Gone,
            State::Established | State::SynReceived | State::CloseWait if !self.incoming.is_empty() => {
                return self.abort(cx);
            }
            State::SynReceived if self.outgoing.is_empty() => {
                // Linux does not wait for the acknowledgement of its SYN.
                self.send(cx, Flags::FIN.with(Flags::ACK), self.next, Vec::new());
                self.next = self.next.wrapping_add(1);
                (self.fin_wanted, self.fin_sent) = (true, true);
                self.state = State::FinWait1;
            }
            State::Established | State::SynReceived | State::CloseWait => {
                self.fin_wanted = true;
                self.flush(cx);
            }
            State::Request
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => {}
        }
        After::Stays
    }

    /// Ends it with a reset, if it had begun.
    pub(super) fn abort(&mut self, cx: &mut Context<'_>) -> After {
        match self.state {
            State::SynReceived
            | State::Established
            | State::CloseWait
            | State::FinWait1
            | State::FinWait2 => {
                self.send(cx, Flags::RST.with(Flags::ACK), self.next, Vec::new());
            }
            State::SynSent | State::Request | State::Closing | State::LastAck | State::TimeWait => {}
        }
        After::Gone
    }

    /// Whether another connection may take its 4-tuple: what nobody has and only waits for the other end, where
    /// timestamps tell old from new (measured on Linux 6.18 also for FIN_WAIT2).
    pub(super) fn gives_way(&self) -> bool {
        match self.state {
            State::TimeWait => true,
            State::FinWait2 => self.owner == Owner::Nobody,
            State::SynSent
            | State::Request
            | State::SynReceived
            | State::Established
            | State::CloseWait
            | State::FinWait1
            | State::Closing
            | State::LastAck => false,
        }
    }

    /// What a program that takes it from the queue is told beyond that.
    pub(super) fn tell_past(&self, events: &mut VecDeque<Event>) {
        if !self.incoming.is_empty() {
            events.push_back(Event::Readable(SocketId(self.id)));
        }
        if self.state == State::CloseWait {
            events.push_back(Event::Finished(SocketId(self.id)));
        }
    }

    pub(super) fn receive(&mut self, cx: &mut Context<'_>, segment: Segment) -> After {
        match self.state {
            State::SynSent => self.receive_in_syn_sent(cx, &segment),
            State::Request => self.receive_as_request(cx, segment),
            State::TimeWait => self.receive_in_time_wait(cx, segment),
            State::SynReceived
            | State::Established
            | State::CloseWait
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck => self.receive_synchronised(cx, segment),
        }
    }

    fn receive_in_syn_sent(&mut self, cx: &mut Context<'_>, segment: &Segment) -> After {
        let flags = segment.flags;
        if flags.has(Flags::ACK) {
            if segment.acknowledgement != self.next {
                if self.retries == 0 {
                    // What the other end knows of an older connection is being reset: the SYN gets through soon.
                    self.deadline = None;
                    self.arm(cx, SHORTEST_TIMEOUT);
                }
                self.refuse(cx, segment);
                return After::Stays;
            }
            if flags.has(Flags::RST) {
                return self.fail(cx, SocketError::Refused);
            }
            if !flags.has(Flags::SYN) {
                return After::Stays;
            }
            self.heard_syn(segment);
            self.acknowledged(cx, segment.acknowledgement);
            self.establish(cx);
            self.acknowledge(cx);
            self.flush(cx);
        } else if flags.has(Flags::SYN) && !flags.has(Flags::RST) {
            self.heard_syn(segment);
            self.state = State::SynReceived;
            if self.retries == 0 {
                // Linux times the SYN-ACK from here, so that of crossing SYNs both sides measure less than a round trip.
                self.timed = Some((self.next, cx.net.now));
            }
            self.send_syn(cx);
        }
        After::Stays
    }

    /// As `tcp_check_req` does.
    fn receive_as_request(&mut self, cx: &mut Context<'_>, mut segment: Segment) -> After {
        let flags = segment.flags;
        let syn_again = segment.sequence.wrapping_add(1) == self.expected;
        if segment.opens() && syn_again {
            if self.may_challenge(cx) {
                self.timed = None;
                self.send_syn(cx);
            }
            return After::Stays;
        }
        if flags.has(Flags::ACK) && segment.acknowledgement != self.next {
            return After::Unmatched(segment);
        }
        let end = segment.sequence.wrapping_add(segment.length());
        let limit = self.expected.wrapping_add(WINDOW);
        let fits = segment.sequence == self.expected
            || after(end, self.expected) && before(segment.sequence, limit)
            || flags.has(Flags::SYN) && syn_again;
        if !fits {
            if !flags.has(Flags::RST) && self.may_challenge(cx) {
                self.acknowledge(cx);
            }
            return After::Stays;
        }
        if flags.has(Flags::RST) {
            return After::Gone;
        }
        if flags.has(Flags::SYN) && !syn_again {
            self.refuse(cx, &segment);
            return After::Gone;
        }
        if !flags.has(Flags::ACK) {
            return After::Stays;
        }
        if syn_again && flags.has(Flags::SYN) {
            segment.flags = Flags(flags.0 & !Flags::SYN.0);
            segment.sequence = self.expected;
        }
        self.acknowledged(cx, segment.acknowledgement);
        self.state = State::Established;
        After::Accepted(segment)
    }

    fn receive_in_time_wait(&mut self, cx: &mut Context<'_>, segment: Segment) -> After {
        if segment.flags.has(Flags::RST) {
            return if segment.sequence == self.expected { After::Gone } else { After::Stays };
        }
        if segment.opens() {
            return After::Reopened(segment);
        }
        if segment.length() > 0 || segment.sequence != self.expected {
            self.acknowledge(cx);
        }
        After::Stays
    }

    fn receive_synchronised(&mut self, cx: &mut Context<'_>, segment: Segment) -> After {
        let flags = segment.flags;
        let end = segment.sequence.wrapping_add(segment.length());
        let fits =
            !before(end, self.expected) && !after(segment.sequence, self.expected.wrapping_add(WINDOW));
        if flags.has(Flags::RST) {
            let closing = matches!(self.state, State::CloseWait | State::LastAck | State::Closing);
            let last = self.expected.wrapping_sub(1);
            if fits && segment.sequence == self.expected || closing && segment.sequence == last {
                return self.fail(cx, SocketError::Reset);
            }
            if fits {
                self.challenge(cx);
            }
            return After::Stays;
        }
        if flags.has(Flags::SYN) {
            let crossed = self.state == State::SynReceived
                && flags.has(Flags::ACK)
                && segment.acknowledgement == self.next
                && segment.sequence.wrapping_add(1) == self.expected
                && end == self.expected;
            if !crossed {
                self.challenge(cx);
                return After::Stays;
            }
            self.acknowledged(cx, segment.acknowledgement);
            self.establish(cx);
            self.acknowledge(cx);
            self.flush(cx);
            return After::Stays;
        }
        if !fits {
            if !segment.payload.is_empty() {
                self.acknowledge(cx);
            } else {
                self.challenge(cx);
            }
            return After::Stays;
        }
        if !flags.has(Flags::ACK) {
            return After::Stays;
        }
        let acknowledgement = segment.acknowledgement;
        if self.state == State::SynReceived {
            if acknowledgement != self.next {
                self.refuse(cx, &segment);
                return After::Stays;
            }
            self.acknowledged(cx, acknowledgement);
            self.establish(cx);
        } else if after(acknowledgement, self.next) {
            if self.state != State::Established {
                self.challenge(cx);
            }
            return After::Stays;
        } else if after(acknowledgement, self.unacknowledged) {
            self.acknowledged(cx, acknowledgement);
            if self.fin_sent && acknowledgement == self.next {
                match self.state {
                    State::FinWait1 => {
                        self.state = State::FinWait2;
                        self.arm(cx, LINGER);
                    }
                    State::Closing => self.wait(cx),
                    State::LastAck => return After::Gone,
                    State::SynSent
                    | State::Request
                    | State::SynReceived
                    | State::Established
                    | State::CloseWait
                    | State::FinWait2
                    | State::TimeWait => {}
                }
            }
        } else if acknowledgement == self.unacknowledged
            && segment.length() == 0
            && self.unacknowledged != self.next
        {
            self.duplicates += 1;
            if self.duplicates == 3 && self.recovers.is_none() {
                self.recovers = Some(self.next);
                self.repeat(cx, false);
            }
        }
        let after = self.take(cx, segment);
        if matches!(after, After::Stays) {
            self.flush(cx);
        }
        after
    }

    /// Takes the data and the FIN of a segment that fits.
    fn take(&mut self, cx: &mut Context<'_>, segment: Segment) -> After {
        let length = segment.length();
        if length == 0 {
            return After::Stays;
        }
        let fin = segment.flags.has(Flags::FIN);
        let sequence = segment.sequence;
        let data_end = sequence.wrapping_add(length - u32::from(fin));
        match self.state {
            State::Established if self.owner != Owner::Nobody => {}
            State::Established | State::FinWait1 | State::FinWait2 => {
                if after(data_end, self.expected) {
                    // Nobody is there to read it.
                    self.refuse(cx, &segment);
                    return After::Gone;
                }
            }
            State::SynSent
            | State::Request
            | State::SynReceived
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => {
                self.acknowledge(cx);
                return After::Stays;
            }
        }
        let empty = self.incoming.is_empty();
        if fin {
            self.early_fin = Some(data_end);
        }
        if after(sequence, self.expected) {
            let known = self
                .early
                .iter()
                .any(|(other, bytes)| *other == sequence && bytes.len() >= segment.payload.len());
            if !segment.payload.is_empty() && !known && self.early.len() < MOST_EARLY {
                let at = self.early.partition_point(|(other, _)| before(*other, sequence));
                self.early.insert(at, (sequence, segment.payload));
            }
        } else {
            self.append(sequence, segment.payload);
            while self.early.first().is_some_and(|(sequence, _)| !after(*sequence, self.expected)) {
                let (sequence, bytes) = self.early.remove(0);
                self.append(sequence, bytes);
            }
        }
        let program = self.owner == Owner::Program;
        if program && empty && !self.incoming.is_empty() {
            cx.events.push_back(Event::Readable(SocketId(self.id)));
        }
        let finished = self.early_fin == Some(self.expected);
        if finished {
            self.early_fin = None;
            self.early.clear();
            self.expected = self.expected.wrapping_add(1);
        }
        self.acknowledge(cx);
        if finished {
            match self.state {
                State::Established => {
                    self.state = State::CloseWait;
                    if program {
                        cx.events.push_back(Event::Finished(SocketId(self.id)));
                    }
                }
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.wait(cx),
                State::SynSent
                | State::Request
                | State::SynReceived
                | State::CloseWait
                | State::Closing
                | State::LastAck
                | State::TimeWait => {}
            }
        }
        After::Stays
    }

    fn append(&mut self, sequence: u32, bytes: Vec<u8>) {
        let known = self.expected.wrapping_sub(sequence) as usize;
        let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) else { return };
        self.expected = self.expected.wrapping_add(fresh.len() as u32);
        if known == 0 && self.incoming.is_empty() {
            self.incoming = bytes;
        } else {
            self.incoming.extend_from_slice(fresh);
        }
    }

    /// An ICMP error that quotes this connection.
    pub(super) fn receive_error(&mut self, cx: &mut Context<'_>, kind: ErrorKind, sequence: u32) -> After {
        let v4 = self.remote.is_ipv4();
        if self.state == State::Request {
            // As `tcp_req_err` is called: what is hard for a request differs from what is for a connection.
            let hard = match kind {
                ErrorKind::Unreachable(Unreachable::Net | Unreachable::Host) | ErrorKind::TimeExceeded => v4,
                ErrorKind::Unreachable(Unreachable::Port | Unreachable::Prohibited) => !v4,
                ErrorKind::TooBig { .. } => false,
            };
            return if hard && sequence == self.first { After::Gone } else { After::Stays };
        }
        if before(sequence, self.unacknowledged) || after(sequence, self.next) {
            return After::Stays;
        }
        let error = match kind {
            ErrorKind::Unreachable(Unreachable::Net) => SocketError::NetUnreachable,
            ErrorKind::Unreachable(Unreachable::Port) => SocketError::Refused,
            ErrorKind::Unreachable(Unreachable::Prohibited) if !v4 => SocketError::Prohibited,
            ErrorKind::Unreachable(Unreachable::Host | Unreachable::Prohibited) | ErrorKind::TimeExceeded => {
                SocketError::HostUnreachable
            }
            ErrorKind::TooBig { mtu } => {
                let size = most_data(mtu, v4);
                if size < self.size {
                    self.size = size;
                    self.recovers = Some(self.next);
                    self.repeat(cx, true);
                }
                return After::Stays;
            }
        };
        match self.state {
            State::SynSent | State::SynReceived => self.fail(cx, error),
            State::Request
            | State::Established
            | State::CloseWait
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => After::Stays,
        }
    }

    /// Whether a timer set for this socket that ends then means anything still.
    pub(super) fn due(&mut self, cx: &mut Context<'_>, at: Time) -> bool {
        if self.queued == Some(at) {
            self.queued = None;
        }
        match self.deadline {
            None => false,
            Some(deadline) if deadline > at => {
                self.queue(cx, deadline);
                false
            }
            Some(_) => {
                self.deadline = None;
                true
            }
        }
    }

    /// The time for an answer is over.
    pub(super) fn timed_out(&mut self, cx: &mut Context<'_>) -> After {
        let given_up = match self.state {
            State::TimeWait | State::FinWait2 => return After::Gone,
            State::Request => self.retries >= SYN_ACK_RETRIES,
            State::SynSent => self.retries >= SYN_RETRIES + LINEAR_TIMEOUTS,
            State::SynReceived => self.retries >= SYN_RETRIES,
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck => {
                let patience = if self.owner == Owner::Nobody { ORPHAN_PATIENCE } else { PATIENCE };
                self.retries > 0 && cx.net.now.saturating_sub(self.retried_since) >= patience
            }
        };
        if given_up {
            return self.fail(cx, SocketError::TimedOut);
        }
        if self.retries == 0 {
            self.retried_since = cx.net.now;
        }
        self.retries += 1;
        if self.state != State::SynSent || self.retries > LINEAR_TIMEOUTS {
            self.timeout = (self.timeout * 2).min(MOST_TIMEOUT);
        }
        if self.unacknowledged != self.first {
            self.recovers = Some(self.next);
        }
        self.repeat(cx, false);
        self.arm(cx, self.timeout);
        After::Stays
    }

    fn heard_syn(&mut self, syn: &Segment) {
        self.expected = syn.sequence.wrapping_add(1);
        let told = match syn.options.as_slice() {
            [2, 4, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])).max(64),
            _ => self.size,
        };
        self.size = self.size.min(told);
    }

    fn establish(&mut self, cx: &mut Context<'_>) {
        self.state = State::Established;
        if self.owner == Owner::Program {
            cx.events.push_back(Event::Connected(SocketId(self.id)));
        }
    }

    /// The other end has everything before this number.
    fn acknowledged(&mut self, cx: &mut Context<'_>, number: u32) {
        let syn = u32::from(self.unacknowledged == self.first);
        let bytes = number.wrapping_sub(self.unacknowledged).wrapping_sub(syn) as usize;
        self.outgoing.drain(..bytes.min(self.outgoing.len()));
        self.unacknowledged = number;
        self.duplicates = 0;
        self.retries = 0;
        if let Some((end, sent)) = self.timed
            && !before(number, end)
        {
            self.timed = None;
            self.measured(cx.net.now.saturating_sub(sent));
        }
        self.timeout = self.smoothed.map_or(FIRST_TIMEOUT, |(mean, variation)| {
            (mean + LEAST_TIMEOUT.max(variation * 4)).min(MOST_TIMEOUT)
        });
        self.deadline = None;
        if self.unacknowledged != self.next {
            self.arm(cx, self.timeout);
        }
        match self.recovers {
            Some(recovers) if before(number, recovers) => self.repeat(cx, false),
            Some(_) | None => self.recovers = None,
        }
    }

    /// RFC 6298 section 2.
    fn measured(&mut self, sample: Duration) {
        self.least_round_trip = Some(self.least_round_trip.map_or(sample, |least| least.min(sample)));
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, variation)) => {
                (mean * 7 / 8 + sample / 8, variation * 3 / 4 + mean.abs_diff(sample) / 4)
            }
        });
    }

    /// Sends what was written and not sent yet, as far as the window goes, and the FIN.
    fn flush(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::Established | State::CloseWait => {}
            State::SynSent
            | State::Request
            | State::SynReceived
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => {
                if !self.fin_wanted || self.fin_sent {
                    return;
                }
            }
        }
        if matches!(self.state, State::SynReceived) {
            return;
        }
        loop {
            let under_way = self.next.wrapping_sub(self.unacknowledged);
            let begin = under_way as usize;
            let rest = self.outgoing.len().saturating_sub(begin);
            let room = WINDOW.saturating_sub(under_way) as usize;
            let bytes = rest.min(self.size).min(room);
            let fin = self.fin_wanted && !self.fin_sent && bytes == rest;
            if bytes == 0 && !fin {
                break;
            }
            let sequence = self.next;
            self.next = sequence.wrapping_add(bytes as u32 + u32::from(fin));
            let mut flags = Flags::ACK;
            if bytes > 0 {
                flags = flags.with(Flags::PSH);
            }
            if fin {
                flags = flags.with(Flags::FIN);
                self.fin_sent = true;
                self.state = if self.state == State::CloseWait { State::LastAck } else { State::FinWait1 };
            }
            if self.timed.is_none() && self.recovers.is_none() {
                self.timed = Some((self.next, cx.net.now));
            }
            let payload = self.cut(begin, bytes);
            self.send(cx, flags, sequence, payload);
            if self.deadline.is_none() {
                self.arm(cx, self.timeout);
            }
        }
    }

    fn cut(&self, begin: usize, bytes: usize) -> Vec<u8> {
        let mut cut = Vec::with_capacity(bytes);
        cut.extend(self.outgoing.iter().skip(begin).take(bytes));
        cut
    }

    /// Sends the first unacknowledged segment again, or `all` of them.
    fn repeat(&mut self, cx: &mut Context<'_>, all: bool) {
        self.timed = None;
        if self.unacknowledged == self.first {
            return self.send_syn(cx);
        }
        let under_way = self.next.wrapping_sub(self.unacknowledged) as usize;
        let data = under_way.saturating_sub(usize::from(self.fin_sent));
        let mut begin = 0;
        loop {
            let bytes = (data - begin).min(self.size);
            let last = begin + bytes == data;
            let mut flags = Flags::ACK;
            if bytes > 0 {
                flags = flags.with(Flags::PSH);
            }
            if self.fin_sent && last {
                flags = flags.with(Flags::FIN);
            }
            let payload = self.cut(begin, bytes);
            self.send(cx, flags, self.unacknowledged.wrapping_add(begin as u32), payload);
            begin += bytes;
            if !all || last {
                return;
            }
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) {
        self.state = State::TimeWait;
        self.deadline = None;
        self.arm(cx, LINGER);
    }

    fn fail(&mut self, cx: &mut Context<'_>, error: SocketError) -> After {
        if self.owner == Owner::Program {
            let id = SocketId(self.id);
            cx.events.push_back(match self.state {
                State::SynSent | State::SynReceived => Event::Failed(id, error),
                State::Request
                | State::Established
                | State::CloseWait
                | State::FinWait1
                | State::FinWait2
                | State::Closing
                | State::LastAck
                | State::TimeWait => Event::Broken(id, error),
            });
        }
        After::Gone
    }

    fn may_challenge(&mut self, cx: &Context<'_>) -> bool {
        let due = self.challenged.is_none_or(|last| cx.net.now >= last + CHALLENGE_INTERVAL);
        if due {
            self.challenged = Some(cx.net.now);
        }
        due
    }

    /// Acknowledges what does not fit (RFC 5961).
    fn challenge(&mut self, cx: &mut Context<'_>) {
        if self.may_challenge(cx) {
            self.acknowledge(cx);
        }
    }

    /// Tells the other end where this one stands.
    pub(super) fn acknowledge(&self, cx: &mut Context<'_>) {
        self.send(cx, Flags::ACK, self.next, Vec::new());
    }

    /// Answers a segment with a reset.
    fn refuse(&self, cx: &mut Context<'_>, segment: &Segment) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        let mut answer = self.segment(Flags::RST, segment.acknowledgement);
        if !segment.flags.has(Flags::ACK) {
            answer.sequence = 0;
            answer.flags = Flags::RST.with(Flags::ACK);
            answer.acknowledgement = segment.sequence.wrapping_add(segment.length());
        }
        answer.window = 0;
        self.transmit(cx, answer);
    }

    fn send_syn(&self, cx: &mut Context<'_>) {
        let flags = if self.state == State::SynSent { Flags::SYN } else { Flags::SYN.with(Flags::ACK) };
        let mut segment = self.segment(flags, self.first);
        let size = most_data(cx.net.internet.mtu(cx.host), self.remote.is_ipv4());
        let [high, low] = u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes();
        segment.options = vec![2, 4, high, low];
        self.transmit(cx, segment);
    }

    fn send(&self, cx: &mut Context<'_>, flags: Flags, sequence: u32, payload: Vec<u8>) {
        let mut segment = self.segment(flags, sequence);
        segment.payload = payload;
        self.transmit(cx, segment);
    }

    fn segment(&self, flags: Flags, sequence: u32) -> Segment {
        Segment {
            source_port: self.local.port(),
            destination_port: self.remote.port(),
            sequence,
            acknowledgement: if flags.has(Flags::ACK) { self.expected } else { 0 },
            flags,
            window: 0xffff,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn transmit(&self, cx: &mut Context<'_>, segment: Segment) {
        let packet = Packet { ttl: self.ttl, ..Packet::tcp(self.local.ip(), self.remote.ip(), segment) };
        cx.net.send(cx.host, self.itself, packet);
    }

    fn arm(&mut self, cx: &mut Context<'_>, after: Duration) {
        let deadline = cx.net.now + after;
        self.deadline = Some(deadline);
        self.queue(cx, deadline);
    }

    fn queue(&mut self, cx: &mut Context<'_>, at: Time) {
        if self.queued.is_none_or(|queued| at < queued) {
            self.queued = Some(at);
            cx.net.set(at, cx.host, Purpose::Socket(self.id));
        }
    }
}

/// The most data in a segment for this MTU.
fn most_data(mtu: u16, v4: bool) -> usize {
    usize::from(mtu).saturating_sub(if v4 { 40 } else { 60 }).max(64)
}
