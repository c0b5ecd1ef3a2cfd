//! How Linux follows a TCP connection (nf_conntrack, without settings: loose, not liberal).
//!
//! The states, what each flag does in each of them, and the windows are those of Linux 6.18. The windows follow van Rooij,
//! "Real stateful TCP packet filtering in IP Filter". Left out: the limit of retransmissions and SYN proxies. Of 8,500 random
//! conversations (68,000 segments, times left out) every segment passed or not as it did through the kernel; 400 of them
//! are a test.

use std::time::Duration;

use super::{Ends, Timeouts};
use crate::packet::{Flags, Segment};

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    None,
    /// A SYN of the side that began.
    SynSent,
    /// SYN-ACK.
    SynReceived,
    Established,
    /// A FIN of one side.
    FinWait,
    /// That FIN was acknowledged.
    CloseWait,
    /// A FIN of both.
    LastAck,
    /// Both FINs were acknowledged.
    TimeWait,
    /// Reset.
    Close,
    /// A SYN of both: simultaneous open.
    SynSent2,
}

/// What a segment is to the table; RST before SYN before FIN before ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    Nothing,
}

impl Kind {
    fn of(flags: Flags) -> Self {
        if flags.has(Flags::RST) {
            Self::Rst
        } else if flags.has(Flags::SYN.with(Flags::ACK)) {
            Self::SynAck
        } else if flags.has(Flags::SYN) {
            Self::Syn
        } else if flags.has(Flags::FIN) {
            Self::Fin
        } else if flags.has(Flags::ACK) {
            Self::Ack
        } else {
            Self::Nothing
        }
    }
}

/// What the table says.
enum Step {
    To(State),
    /// Passes, but is not believed.
    Ignore,
    Invalid,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It belongs, and changes this.
    Passes(Change),
    /// It passes and changes nothing, not even time-outs.
    Ignored,
    /// It does not belong.
    Invalid,
    /// It begins another connection; the entry is to be forgotten.
    BeginsAnew,
}

/// What a segment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The time-out begins anew.
    Refresh,
    /// Not even that: a SYN that was sent again before an answer came.
    Nothing,
    /// It was a reset.
    Reset,
    /// It was a reset that may well not be believed: only the time-out is that of a closed connection until something
    /// follows.
    Doubted,
    /// It was the FIN by which both sides have sent one.
    Finished,
}

/// Whether segment flags go together at all (without PSH and URG).
pub(super) fn sensible(flags: Flags) -> bool {
    let relevant = Flags(flags.0 & (Flags::FIN.0 | Flags::SYN.0 | Flags::RST.0 | Flags::ACK.0));
    [
        Flags::SYN,
        Flags::SYN.with(Flags::ACK),
        Flags::RST,
        Flags::RST.with(Flags::ACK),
        Flags::FIN.with(Flags::ACK),
        Flags::ACK,
    ]
    .contains(&relevant)
}

/// Whether a segment that belongs to nothing may begin something: a SYN, or an ACK whose beginning was not seen
/// (`nf_conntrack_tcp_loose`).
pub(super) fn begins(segment: &Segment) -> bool {
    sensible(segment.flags) && matches!(Kind::of(segment.flags), Kind::Syn | Kind::Ack)
}

const fn before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

const fn after(one: u32, other: u32) -> bool {
    before(other, one)
}

/// What was seen of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The highest end of a segment.
    end: u32,
    /// The highest that the other side's window allows.
    max_end: u32,
    /// Its largest window, 0 if it sent nothing yet.
    max_window: u32,
    max_ack: Option<u32>,
    scale: u8,
    scales: bool,
    sack: bool,
    /// Its windows are not believed, since its beginning was not seen.
    liberal: bool,
    /// It sent data that is not acknowledged yet.
    unacknowledged: bool,
    closed_first: bool,
}

/// The last segment that was seen, believed or not.
#[derive(Clone, Copy, Debug)]
struct Last {
    kind: Kind,
    reply: bool,
    end: u32,
    acknowledgement: u32,
    window: u16,
    scale: u8,
    scales: bool,
    sack: bool,
    /// A SYN was let through in LAST_ACK: its answer may be a challenge ACK.
    challenge: bool,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conntrack {
    state: State,
    original: Seen,
    reply: Seen,
    last: Last,
    simultaneous: bool,
    replied: bool,
    assured: bool,
}

impl Conntrack {
    /// The entry that a segment begins, if it [begins](begins) one.
    pub(super) fn new(segment: &Segment) -> Option<Self> {
        if !begins(segment) {
            return None;
        }
        let mut original = Seen {
            end: end(segment),
            max_end: end(segment),
            max_window: u32::from(segment.window).max(1),
            ..Seen::default()
        };
        let mut reply = Seen::default();
        if segment.opens() {
            original.read_options(segment);
        } else {
            original.max_end = original.end.wrapping_add(original.max_window);
            for seen in [&mut original, &mut reply] {
                seen.sack = true;
                seen.liberal = true;
            }
        }
        let last = Last {
            kind: Kind::Nothing,
            reply: false,
            end: 0,
            acknowledgement: 0,
            window: 0,
            scale: 0,
            scales: false,
            sack: false,
            challenge: false,
        };
        let mut new = Self {
            state: State::None,
            original,
            reply,
            last,
            simultaneous: false,
            replied: false,
            assured: false,
        };
        match new.track(false, segment) {
            Verdict::Passes(_) => Some(new),
            Verdict::Ignored | Verdict::Invalid | Verdict::BeginsAnew => None,
        }
    }

    /// Whether anything that belongs came from the side that did not begin.
    pub(super) fn replied(&self) -> bool {
        self.replied
    }

    /// How long it is kept from its last segment on. The times of the closing states keep the relation to each other that
    /// they have in Linux, where CLOSE is 10 s.
    pub(super) fn timeout(&self, timeouts: &Timeouts, fin: Ends) -> Duration {
        const UNACKNOWLEDGED: Duration = Duration::from_secs(300);
        const SYN_RECEIVED: Duration = Duration::from_secs(60);
        let closing = |factor: u32| match fin {
            Ends::Nothing => timeouts.established,
            Ends::SessionLater | Ends::Session | Ends::Mapping => timeouts.closing * factor,
        };
        let timeout = match self.state {
            State::None | State::SynSent | State::SynSent2 => timeouts.transitory,
            State::SynReceived => timeouts.transitory.min(SYN_RECEIVED),
            State::Established => timeouts.established,
            State::FinWait | State::TimeWait => closing(12),
            State::CloseWait => closing(6),
            State::LastAck => closing(3),
            State::Close => timeouts.closing,
        };
        let unanswered = self.state == State::Established && !self.replied;
        if self.original.unacknowledged || self.reply.unacknowledged || unanswered {
            timeout.min(UNACKNOWLEDGED)
        } else {
            timeout
        }
    }

    /// Takes a segment of one side.
    pub(super) fn track(&mut self, reply: bool, segment: &Segment) -> Verdict {
        let verdict = self.step(reply, segment);
        // What is ignored is an answer too.
        self.replied |= reply && matches!(verdict, Verdict::Passes(_) | Verdict::Ignored);
        verdict
    }

    fn step(&mut self, reply: bool, segment: &Segment) -> Verdict {
        if !sensible(segment.flags) {
            return Verdict::Invalid;
        }
        let kind = Kind::of(segment.flags);
        let old = self.state;
        let mut new = match step(reply, kind, old) {
            Step::Invalid => return Verdict::Invalid,
            Step::Ignore => match self.ignore(reply, kind, segment) {
                Some(verdict) => return verdict,
                None => State::SynReceived,
            },
            Step::To(State::SynSent) if matches!(old, State::TimeWait | State::Close) => {
                let closed = self.original.closed_first || self.reply.closed_first;
                if closed || (self.last.reply == reply && self.last.kind == Kind::Rst) {
                    return Verdict::BeginsAnew;
                }
                match self.ignore(reply, kind, segment) {
                    Some(verdict) => return verdict,
                    None => State::SynReceived,
                }
            }
            Step::To(state) => state,
        };
        let mut checked = false;
        match new {
            State::TimeWait => {
                let challenge = old == State::LastAck
                    && kind == Kind::Ack
                    && self.last.reply != reply
                    && self.last.kind == Kind::Syn
                    && self.last.challenge;
                if challenge {
                    self.last.challenge = false;
                    return Verdict::Ignored;
                }
            }
            State::SynSent2 => self.simultaneous = true,
            State::SynReceived if reply && kind == Kind::Ack && self.simultaneous => new = State::Established,
            State::Close if kind == Kind::Rst => match self.check_reset(reply, segment, old) {
                ResetCheck::Invalid => return Verdict::Invalid,
                ResetCheck::Believed => checked = true,
                ResetCheck::Window => {}
                ResetCheck::Doubted => new = old,
            },
            State::None
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait
            | State::CloseWait
            | State::LastAck
            | State::Close => {}
        }
        if !checked {
            match self.window(reply, kind, segment) {
                Window::Fits => {}
                Window::Late => return Verdict::Ignored,
                Window::Outside => return Verdict::Invalid,
            }
        }
        self.last.kind = kind;
        self.last.reply = reply;
        self.state = new;
        if old != new && new == State::FinWait {
            self.seen(reply).closed_first = true;
        }
        let replied = self.replied;
        self.replied |= reply;
        if replied && matches!(old, State::SynReceived | State::Established) && new == State::Established {
            self.assured = true;
        }
        Verdict::Passes(if new == State::Close && kind == Kind::Rst {
            Change::Reset
        } else if kind == Kind::Rst {
            Change::Doubted
        } else if !replied && kind == Kind::Syn && old == State::SynSent {
            Change::Nothing
        } else if new == State::LastAck && old != State::LastAck {
            Change::Finished
        } else {
            Change::Refresh
        })
    }

    fn seen(&mut self, reply: bool) -> &mut Seen {
        if reply { &mut self.reply } else { &mut self.original }
    }

    /// A segment that may be right while the entry is wrong: it passes, and is remembered. `None` if it proves that the
    /// entry is wrong: then it is a SYN-ACK in SYN_SENT.
    fn ignore(&mut self, reply: bool, kind: Kind, segment: &Segment) -> Option<Verdict> {
        let last = self.last;
        if kind == Kind::SynAck
            && last.kind == Kind::Syn
            && last.reply != reply
            && segment.acknowledgement == last.end
        {
            let max_window = u32::from(last.window).max(1);
            *self.seen(last.reply) = Seen {
                end: last.end,
                max_end: last.end,
                max_window,
                scale: last.scale,
                scales: last.scales,
                sack: last.sack,
                ..Seen::default()
            };
            *self.seen(reply) = Seen { liberal: self.seen(reply).liberal, ..Seen::default() };
            self.last.challenge = false;
            self.simultaneous = false;
            self.state = State::SynSent;
            return None;
        }
        self.last.kind = kind;
        self.last.reply = reply;
        self.last.end = end(segment);
        self.last.window = segment.window;
        if kind == Kind::Syn && !reply {
            let mut options = Seen::default();
            options.read_options(segment);
            (self.last.scale, self.last.scales, self.last.sack) =
                (options.scale, options.scales, options.sack);
            self.last.challenge = self.state == State::LastAck;
            self.simultaneous = false;
        }
        if self.state == State::SynSent && kind == Kind::Ack && reply {
            self.last.acknowledgement = segment.acknowledgement;
        }
        Some(Verdict::Ignored)
    }

    fn check_reset(&self, reply: bool, segment: &Segment, old: State) -> ResetCheck {
        let closing =
            [State::FinWait, State::LastAck, State::TimeWait, State::Close, State::CloseWait].contains(&old);
        if closing {
            return ResetCheck::Believed;
        }
        let other = if reply { &self.original } else { &self.reply };
        let mut doubted = false;
        if let Some(max_ack) = other.max_ack
            && self.last.kind != Kind::Syn
        {
            let established = old == State::Established && self.assured;
            if segment.sequence == 0 && !established {
                return ResetCheck::Window;
            }
            if before(segment.sequence, max_ack) {
                return ResetCheck::Invalid;
            }
            let train =
                self.last.kind == Kind::Ack && self.last.reply == reply && segment.sequence == self.last.end;
            if !established || segment.sequence == max_ack || train {
                return ResetCheck::Window;
            }
            doubted = true;
        }
        let answers = (self.replied && self.last.kind == Kind::Syn
            || !self.assured && self.last.kind == Kind::Ack)
            && self.last.reply != reply
            && segment.acknowledgement == self.last.end;
        let challenged = old == State::SynSent
            && self.last.kind == Kind::Ack
            && self.last.reply
            && segment.sequence == self.last.acknowledgement;
        if doubted {
            ResetCheck::Doubted
        } else if answers || challenged {
            ResetCheck::Believed
        } else {
            ResetCheck::Window
        }
    }

    fn window(&mut self, reply: bool, kind: Kind, segment: &Segment) -> Window {
        /// How far back an acknowledgement may be at least.
        const LATE: u32 = 66_000;
        let state = self.state;
        let (sender, receiver) =
            if reply { (&mut self.reply, &mut self.original) } else { (&mut self.original, &mut self.reply) };
        let liberal = sender.liberal;
        let (mut sequence, mut end) = (segment.sequence, end(segment));
        let mut ack = segment.acknowledgement;
        let mut sack = if receiver.sack { highest_sack(&segment.options, ack) } else { ack };
        let mut window = u32::from(segment.window);
        let syn = segment.flags.has(Flags::SYN);

        if sender.max_window == 0 {
            if syn {
                sender.begin(receiver, segment, reply);
                if kind == Kind::Syn {
                    return Window::Fits;
                }
            } else {
                sender.end = end;
                sender.max_window = (window << sender.scale).max(1);
                sender.max_end = end.wrapping_add(sender.max_window);
                if receiver.max_window == 0 {
                    (receiver.end, receiver.max_end) = (sack, sack);
                } else if sack == receiver.end.wrapping_add(1) {
                    receiver.end = sack;
                }
            }
        } else if syn && after(end, sender.end) && matches!(state, State::SynSent | State::SynReceived) {
            sender.begin(receiver, segment, reply);
            if reply && kind == Kind::Syn {
                return Window::Fits;
            }
        }

        if !segment.flags.has(Flags::ACK) || kind == Kind::Rst && ack == 0 {
            (ack, sack) = (receiver.end, receiver.end);
        }
        if kind == Kind::Rst && sequence == 0 && state == State::SynSent {
            // It answers a SYN.
            (sequence, end) = (sender.end, sender.end);
        }

        let acknowledges_late = !after(sack, receiver.end.wrapping_sub(sender.max_window.max(LATE) + 1));
        let acknowledges_unseen = !before(sack, receiver.end.wrapping_add(1));
        let old_data = receiver.max_window != 0
            && !after(end, sender.end.wrapping_sub(receiver.max_window.wrapping_add(1)));
        if !before(sequence, sender.max_end.wrapping_add(1)) {
            let overshot = end.wrapping_sub(sender.max_end).wrapping_add(1);
            if receiver.max_window != 0
                && !old_data
                && !acknowledges_late
                && overshot <= receiver.max_window
                && !acknowledges_unseen
            {
                // Some send a little more than the window allows.
                sender.end = end;
                sender.unacknowledged = true;
                return Window::Late;
            }
            return if liberal { Window::Fits } else { Window::Outside };
        }
        if acknowledges_unseen {
            return if liberal { Window::Fits } else { Window::Outside };
        }
        if old_data || acknowledges_late {
            return if liberal { Window::Fits } else { Window::Late };
        }

        if !syn {
            window <<= sender.scale;
        }
        sender.max_window = sender.max_window.max(window.wrapping_add(sack.wrapping_sub(ack)));
        if after(end, sender.end) {
            sender.end = end;
            sender.unacknowledged = true;
        }
        if segment.flags.has(Flags::ACK) && sender.max_ack.is_none_or(|max| after(ack, max)) {
            sender.max_ack = Some(ack);
        }
        if receiver.max_window != 0 && after(end, sender.max_end) {
            receiver.max_window = receiver.max_window.wrapping_add(end.wrapping_sub(sender.max_end));
        }
        if after(sack.wrapping_add(window), receiver.max_end.wrapping_sub(1)) {
            receiver.max_end = sack.wrapping_add(window).wrapping_add(u32::from(window == 0));
        }
        if ack == receiver.end {
            receiver.unacknowledged = false;
        }
        if kind == Kind::Ack {
            (self.last.end, self.last.acknowledgement, self.last.window) = (end, ack, segment.window);
        }
        Window::Fits
    }
}

enum ResetCheck {
    Invalid,
    /// Whatever its window.
    Believed,
    /// If its window fits.
    Window,
    /// It passes, and the connection is kept: a challenge ACK may follow (RFC 5961).
    Doubted,
}

enum Window {
    Fits,
    /// Delayed or sent again: passes and changes nothing.
    Late,
    Outside,
}

impl Seen {
    fn read_options(&mut self, segment: &Segment) {
        if segment.options.is_empty() {
            return;
        }
        (self.scale, self.scales, self.sack) = (0, false, false);
        (self.max_ack, self.unacknowledged, self.closed_first) = (None, false, false);
        for (kind, value) in options(&segment.options) {
            match (kind, value) {
                (3, [scale]) => (self.scale, self.scales) = ((*scale).min(14), true),
                (4, []) => self.sack = true,
                _ => {}
            }
        }
    }

    /// From its SYN or SYN-ACK.
    fn begin(&mut self, receiver: &mut Self, segment: &Segment, reply: bool) {
        (self.end, self.max_end) = (end(segment), end(segment));
        self.max_window = u32::from(segment.window).max(1);
        self.read_options(segment);
        if reply && !(self.scales && receiver.scales) {
            // RFC 7323 section 2.2: both or none.
            (self.scale, receiver.scale) = (0, 0);
        }
    }
}

fn end(segment: &Segment) -> u32 {
    segment.sequence.wrapping_add(segment.length())
}

/// The kinds and values of TCP options (RFC 9293 section 3.2), up to what can't be one.
pub(super) fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            match bytes {
                [] | [0, ..] => return None,
                [1, rest @ ..] => bytes = rest,
                [kind, length, ..] => {
                    let (option, rest) = bytes.split_at_checked(usize::from(*length))?;
                    bytes = rest;
                    return Some((*kind, option.get(2..)?));
                }
                [_] => return None,
            }
        }
    })
}

/// The right edge of the furthest SACK block (RFC 2018), or the acknowledgement if that is further.
fn highest_sack(bytes: &[u8], acknowledgement: u32) -> u32 {
    let blocks = options(bytes).filter(|(kind, _)| *kind == 5).flat_map(|(_, value)| value.chunks_exact(8));
    blocks.fold(acknowledgement, |highest, block| match block {
        [.., a, b, c, d] => {
            let right = u32::from_be_bytes([*a, *b, *c, *d]);
            if after(right, highest) { right } else { highest }
        }
        _ => highest,
    })
}

/// The table: what a kind of segment from one side does in a state.
fn step(reply: bool, kind: Kind, state: State) -> Step {
    use State::{
        Close, CloseWait, Established, FinWait, LastAck, None, SynReceived, SynSent, SynSent2, TimeWait,
    };
    match (kind, state) {
        (Kind::Nothing, _) => Step::Invalid,
        (Kind::Rst, None) => Step::Invalid,
        (Kind::Rst, _) => Step::To(Close),

        (Kind::Syn, None) if !reply => Step::To(SynSent),
        (Kind::Syn, None) => Step::Invalid,
        (Kind::Syn, SynSent) => Step::To(if reply { SynSent2 } else { SynSent }),
        (Kind::Syn, SynSent2) => Step::To(SynSent2),
        (Kind::Syn, TimeWait) => Step::To(SynSent),
        (Kind::Syn, Close) if !reply => Step::To(SynSent),
        (Kind::Syn, SynReceived | Established | FinWait | CloseWait | LastAck) if !reply => Step::Ignore,
        (Kind::Syn, SynReceived | Established | FinWait | CloseWait | LastAck | Close) => Step::Invalid,

        (Kind::SynAck, SynSent2) => Step::To(SynReceived),
        (Kind::SynAck, None) => Step::Invalid,
        (Kind::SynAck, SynSent) if reply => Step::To(SynReceived),
        (Kind::SynAck, SynReceived) if !reply => Step::To(SynReceived),
        (Kind::SynAck, _) if reply => Step::Ignore,
        (Kind::SynAck, _) => Step::Invalid,

        (Kind::Fin, None | SynSent | SynSent2) => Step::Invalid,
        (Kind::Fin, SynReceived | Established) => Step::To(FinWait),
        (Kind::Fin, FinWait | CloseWait | LastAck) => Step::To(LastAck),
        (Kind::Fin, TimeWait) => Step::To(TimeWait),
        (Kind::Fin, Close) => Step::To(Close),

        (Kind::Ack, None) if !reply => Step::To(Established),
        (Kind::Ack, None) => Step::Invalid,
        (Kind::Ack, SynSent | SynSent2) if reply => Step::Ignore,
        (Kind::Ack, SynSent | SynSent2) => Step::Invalid,
        (Kind::Ack, SynReceived) => Step::To(if reply { SynReceived } else { Established }),
        (Kind::Ack, Established) => Step::To(Established),
        (Kind::Ack, FinWait | CloseWait) => Step::To(CloseWait),
        (Kind::Ack, LastAck | TimeWait) => Step::To(TimeWait),
        (Kind::Ack, Close) => Step::To(Close),
    }
}
