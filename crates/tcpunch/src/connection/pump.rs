//! What goes on in a connection while the application does something else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use tcpunch_core::limits::{
    CLOSE_WITHIN, DEAD_AFTER, PING_EVERY, PROBE_WITHIN, READER_LEFT_AFTER, RECEIVE_BUFFER, RECORDS_AT_ONCE,
};

use super::receiving::Source;
use super::{Lost, Shared, lock};
use crate::network::{Doubt, Network, Origin};

pub(super) struct Pump {
    shared: Arc<Shared>,
    origin: Origin,
    network: Network,
    /// The unanswered ping that everyone was told of.
    told: Option<Instant>,
    /// Both ends were said, the socket's writing half is closed.
    shut_at: Option<Instant>,
    /// Both ends were said, and the socket has until then to take some of the rest.
    stuck_until: Option<Instant>,
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, origin: Origin, network: Network) -> Self {
        Pump { shared, origin, network, told: None, shut_at: None, stuck_until: None }
    }

    /// Until the connection is over; where this side dropped it, what is to be left.
    pub(super) async fn run(mut self) -> Option<Leaving> {
        match self.pump().await {
            Ok(()) => self.shared.wake_all(),
            Err(lost) => {
                let dropped = lost == Lost::Dropped;
                self.shared.lose(lost);
                return dropped.then_some(Leaving(self.shared));
            }
        }
        None
    }

    async fn pump(&mut self) -> Result<(), Lost> {
        let shared = self.shared.clone();
        let mut timer_fired = false;
        loop {
            let more = self.receive(timer_fired)?;
            if self.flush_and_check()? || shared.relieved.load(Ordering::Acquire) {
                return Ok(());
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let now = Instant::now();
            let (heard, unanswered) = {
                let receiving = lock(&shared.receiving);
                (receiving.heard, receiving.unanswered)
            };
            let (unsent, last) = {
                let sending = lock(&shared.sending);
                (sending.unsent() > 0, sending.last)
            };
            let mut wake_at = match self.shut_at {
                Some(shut_at) if shut_at + CLOSE_WITHIN <= now => return Ok(()),
                Some(shut_at) => shut_at + CLOSE_WITHIN,
                None if heard + DEAD_AFTER <= now => return Err(Lost::Silent),
                None if last + PING_EVERY <= now => {
                    shared.ping();
                    continue;
                }
                None => (heard + DEAD_AFTER).min(last + PING_EVERY),
            };
            if let Some(stuck_until) = self.stuck_until {
                wake_at = wake_at.min(stuck_until);
            }
            if let Some(since) = unanswered.filter(|_| self.shut_at.is_none() && self.told != unanswered) {
                if since + PROBE_WITHIN <= now {
                    self.told = unanswered;
                    self.network.silence();
                } else {
                    wake_at = wake_at.min(since + PROBE_WITHIN);
                }
            }
            if lock(&shared.wakers).reader.is_some() {
                wake_at = wake_at.min(now + READER_LEFT_AFTER);
            }
            timer_fired = false;
            tokio::select! {
                ready = shared.socket.writable(), if unsent => {
                    ready.map_err(|error| Lost::by(&error))?;
                }
                () = shared.wake_pump.notified() => {}
                doubt = self.network.doubt() => {
                    if doubt == Doubt::Changed && self.origin.is_replaced(self.network.addresses()) {
                        return Err(Lost::AddressGone(self.origin.address()));
                    }
                }
                () = tokio::time::sleep_until(wake_at.into()) => timer_fired = true,
            }
        }
    }

    /// Takes in what nobody waits for, or nobody has come for; says whether there may be more.
    fn receive(&self, timer_fired: bool) -> Result<bool, Lost> {
        if let Some(lost) = lock(&self.shared.lost).clone() {
            return Err(lost);
        }
        if lock(&self.shared.wakers).reader.is_some() && !timer_fired {
            return Ok(false);
        }
        let mut receiving = lock(&self.shared.receiving);
        for _ in 0..RECORDS_AT_ONCE {
            let step = self.shared.advance(&mut receiving, Source::Socket);
            self.shared.tell_reader(&receiving);
            match step {
                Poll::Ready(step) => step?,
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Sends what waits, wakes who waits for that, and says whether the connection is over.
    fn flush_and_check(&mut self) -> Result<bool, Lost> {
        let (heard_end, socket_ended) = {
            let receiving = lock(&self.shared.receiving);
            (receiving.ended, receiving.socket_ended.clone())
        };
        let mut sending = lock(&self.shared.sending);
        sending.flush(&self.shared.socket);
        let unsent = sending.unsent();
        let both_ended = sending.ended && heard_end;
        let (broken, moved) = (sending.broken.clone(), sending.moved);
        let waker = if sending.is_full() { None } else { sending.waker.take() };
        if both_ended && unsent == 0 && !sending.shut {
            sending.shut = true;
            self.shut_at = Some(Instant::now());
            crate::port::finish(&self.shared.socket);
        }
        drop(sending);
        if let Some(waker) = waker {
            waker.wake();
        }
        if both_ended && unsent == 0 {
            // The peer's own end of file says that it has everything; a reset after both ends is no loss.
            return Ok(socket_ended.is_some());
        }
        if let Some(lost) = socket_ended.or(broken) {
            return Err(lost);
        }
        let dropped = self.shared.dropped.load(Ordering::Acquire);
        // A peer that goes on talking and reads nothing must not hold it. Who still waits for the rest may sit out an outage.
        let patience = if dropped { CLOSE_WITHIN } else { DEAD_AFTER };
        self.stuck_until = both_ended.then(|| moved + patience);
        if dropped && !both_ended || self.stuck_until.is_some_and(|until| until <= Instant::now()) {
            return Err(Lost::Dropped);
        }
        Ok(false)
    }
}

/// A connection that this side dropped.
pub(super) struct Leaving(Arc<Shared>);

impl Leaving {
    /// Ends the socket so that the peer reads an end of file. A kernel resets a connection that is closed with bytes unread, or to
    /// which more comes (RFC 2525, section 2.17), and then the peer would blame the network.
    pub(super) async fn leave(self) {
        let socket = &self.0.socket;
        crate::port::finish(socket);
        let mut rest = vec![0; RECEIVE_BUFFER];
        let peer_leaves = async {
            while socket.readable().await.is_ok() {
                match socket.try_read(&mut rest) {
                    Ok(length) if length > 0 => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(_) | Err(_) => break,
                }
            }
        };
        // Who goes on writing all the same is reset.
        let _ = tokio::time::timeout(CLOSE_WITHIN, peer_leaves).await;
    }
}
