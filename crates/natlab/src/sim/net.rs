//! What all hosts of a simulation share: the internet, the clock and the timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::packet::Packet;
use crate::{HostId, Internet, Time};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// A program starts: which one that was placed on this host.
    Start(u32),
    /// A program asked for it.
    Wake,
    /// A program gets round to what happened.
    React,
    /// A socket's own.
    Socket(u32),
}

/// Ordered by time, then by when they were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) at: Time,
    number: u64,
    pub(super) host: HostId,
    pub(super) purpose: Purpose,
}

#[derive(Debug)]
pub(super) struct Net {
    pub(super) internet: Internet,
    pub(super) now: Time,
    timers: BinaryHeap<Reverse<Timer>>,
    number: u64,
    /// Packets that hosts sent to themselves.
    looped: VecDeque<(HostId, Packet)>,
}

impl Net {
    pub(super) fn new(internet: Internet) -> Self {
        Self { internet, now: Time::ZERO, timers: BinaryHeap::new(), number: 0, looped: VecDeque::new() }
    }

    pub(super) fn set(&mut self, at: Time, host: HostId, purpose: Purpose) {
        self.number += 1;
        self.timers.push(Reverse(Timer { at, number: self.number, host, purpose }));
    }

    /// When the next timer ends, if it means anything still.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse(timer)| timer.at)
    }

    pub(super) fn take_timer(&mut self) -> Option<Timer> {
        self.timers.pop().map(|Reverse(timer)| timer)
    }

    /// When something happens to a packet next.
    pub(super) fn next_packet(&self) -> Option<Time> {
        if self.looped.is_empty() { self.internet.next().map(|at| at.max(self.now)) } else { Some(self.now) }
    }

    /// The next packet that reached a host.
    pub(super) fn arrived(&mut self) -> Option<(HostId, Packet)> {
        self.looped.pop_front().or_else(|| self.internet.poll(self.now))
    }

    /// Sends a packet; one to `itself` never leaves the host.
    pub(super) fn send(&mut self, from: HostId, itself: bool, packet: Packet) {
        if itself {
            self.looped.push_back((from, packet));
        } else {
            self.internet.send(self.now, from, packet);
        }
    }
}
