//! A cable with a delay and a loss: a pair of TAP devices and a thread that carries frames between them.
//!
//! The kernel's own means for this (netem) is not everywhere, and a delay made here is the same on every machine.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::Error;
use crate::device::be_on_time;

/// What a link does to the packets it carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// One-way, the same in both directions.
    pub(crate) delay: Duration,
    /// The probability that a packet is lost, in each direction.
    pub(crate) loss: f64,
    pub(crate) seed: u64,
}

impl Conditions {
    pub(crate) const PERFECT: Self = Self { delay: Duration::ZERO, loss: 0.0, seed: 0 };

    pub(crate) fn checked(self) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&self.loss) {
            return Err(Error::OutOfRange(format!(
                "a loss is a probability from 0.0 to 1.0, not {}",
                self.loss
            )));
        }
        if self.delay > Duration::from_secs(60) {
            return Err(Error::OutOfRange(format!("a delay is at most a minute, not {:?}", self.delay)));
        }
        Ok(self)
    }

    pub(crate) fn perfect(&self) -> bool {
        self.delay.is_zero() && self.loss <= 0.0
    }
}

/// Bytes in flight per direction, beyond which the wire drops: 50 ms at 10 Gbit/s.
const MAX_IN_FLIGHT: usize = 64 << 20;
/// Frames read from one end before the other end and the clock are looked at again.
const READ_BURST: usize = 64;
/// An Ethernet frame of a device whose MTU is 1,500, with room for a VLAN tag.
const MAX_FRAME: usize = 2048;

/// A running cable between two TAP devices.
#[derive(Debug)]
pub(crate) struct Wire {
    cut: Arc<AtomicBool>,
    running: Mutex<Option<(PipeWriter, JoinHandle<()>)>>,
}

impl Wire {
    /// Connects two TAP devices; they cease to exist when the wire stops.
    pub(crate) fn start(near: File, far: File, conditions: Conditions) -> Result<Self, Error> {
        let (stop, stopper) = io::pipe().map_err(|source| Error::io("make a pipe for a wire", source))?;
        let cut = Arc::new(AtomicBool::new(false));
        let carrier = Carrier {
            outward: Direction::new(conditions, 0),
            inward: Direction::new(conditions, 1),
            near,
            far,
            stop,
            cut: cut.clone(),
        };
        let thread = thread::Builder::new()
            .name("natlab-wire".into())
            .spawn(move || carrier.run())
            .map_err(|source| Error::io("start the thread of a wire", source))?;
        Ok(Self { cut, running: Mutex::new(Some((stopper, thread))) })
    }

    /// A cut wire loses everything, also what is in flight.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }

    /// Stops many and waits for all. The kernel takes some tens of milliseconds to remove a device, but removes several
    /// at once.
    pub(crate) fn stop_all<'a>(wires: impl IntoIterator<Item = &'a Self>) {
        let threads: Vec<JoinHandle<()>> = wires
            .into_iter()
            .filter_map(|wire| {
                let mut running = wire.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.take().map(|(_stopper, thread)| thread)
            })
            .collect();
        for thread in threads {
            // A panic of the carrier has been reported by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        Self::stop_all([&*self]);
    }
}

struct Carrier {
    near: File,
    far: File,
    outward: Direction,
    inward: Direction,
    stop: PipeReader,
    cut: Arc<AtomicBool>,
}

impl Carrier {
    fn run(mut self) {
        be_on_time();
        loop {
            let cut = self.cut.load(Ordering::Acquire);
            self.outward.deliver(&self.far, cut);
            self.inward.deliver(&self.near, cut);
            let next = [self.outward.due(), self.inward.due()].into_iter().flatten().min();
            let timeout = next.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
            let mut polled = [
                PollFd::new(self.near.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.far.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut polled, timeout, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let [near, far, stop] = polled.map(|fd| fd.any().unwrap_or(true));
            if stop {
                return;
            }
            if near {
                self.outward.collect(&self.near, cut);
            }
            if far {
                self.inward.collect(&self.far, cut);
            }
        }
    }
}

/// The frames under way in one direction.
struct Direction {
    delay: Duration,
    loss: f64,
    random: SplitMix,
    // The delay is constant, so frames arrive in the order in which they left.
    in_flight: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
}

impl Direction {
    fn new(conditions: Conditions, stream: u64) -> Self {
        Self {
            delay: conditions.delay,
            loss: conditions.loss,
            random: SplitMix(conditions.seed.wrapping_mul(2).wrapping_add(stream)),
            in_flight: VecDeque::new(),
            bytes: 0,
        }
    }

    fn due(&self) -> Option<Instant> {
        self.in_flight.front().map(|(due, _)| *due)
    }

    fn collect(&mut self, mut from: &File, cut: bool) {
        let mut frame = [0; MAX_FRAME];
        for _ in 0..READ_BURST {
            let frame = match from.read(&mut frame) {
                Ok(length) => frame.get(..length).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let lost = self.random.fraction() < self.loss;
            if lost || cut || self.bytes + frame.len() > MAX_IN_FLIGHT {
                continue;
            }
            self.bytes += frame.len();
            self.in_flight.push_back((Instant::now() + self.delay, frame.into()));
        }
    }

    fn deliver(&mut self, mut to: &File, cut: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.due().is_some_and(|due| due <= now) {
            if let Some((_, frame)) = self.in_flight.pop_front() {
                self.bytes = self.bytes.saturating_sub(frame.len());
                if !cut {
                    // A device that is down takes no frames: they are lost, as on a real cable.
                    let _ = to.write(&frame);
                }
            }
        }
    }
}

/// Steele, Lea and Flood's SplitMix64: enough for losses, and the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0.0..1.0.
    fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_as_many_as_asked_and_the_same_for_the_same_seed() {
        let count = |seed| {
            let mut random = SplitMix(seed);
            (0..100_000).filter(|_| random.fraction() < 0.1).count()
        };
        assert!((9_500..10_500).contains(&count(1)), "{}", count(1));
        assert_eq!(count(7), count(7));
        assert_ne!(count(7), count(8));
    }
}
