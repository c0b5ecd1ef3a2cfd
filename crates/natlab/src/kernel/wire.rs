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
use crate::link::{Conditions, Fate, Link, Loss};

/// What a cable does, in both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cabling {
    pub(crate) conditions: Conditions,
    /// What is random comes from it.
    pub(crate) seed: u64,
}

impl Cabling {
    pub(crate) const PERFECT: Self = Self { conditions: Conditions::PERFECT, seed: 0 };

    pub(crate) fn delayed(self, one_way: Duration) -> Self {
        Self { conditions: Conditions { delay: one_way, ..self.conditions }, ..self }
    }

    pub(crate) fn losing(self, probability: f64, seed: u64) -> Self {
        let conditions = Conditions { loss: Loss::None, ..self.conditions };
        // A cable that loses nothing is a plain one.
        Self {
            conditions: if probability == 0.0 { conditions } else { conditions.losing(probability) },
            seed,
        }
    }

    pub(crate) fn checked(self) -> Result<Self, Error> {
        self.conditions.checked().map(|conditions| Self { conditions, ..self })
    }
}

/// Bytes in flight per direction, beyond which the wire drops: 50 ms at 10 Gbit/s.
const MAX_IN_FLIGHT: usize = 64 << 20;
/// Frames read from one end before the other end and the clock are looked at again.
const READ_BURST: usize = 64;
/// What comes before the packet in an Ethernet frame.
const ETHERNET_HEADER: usize = 14;
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
    pub(crate) fn start(near: File, far: File, cabling: Cabling) -> Result<Self, Error> {
        let (stop, stopper) = io::pipe().map_err(|source| Error::io("make a pipe for a wire", source))?;
        let cut = Arc::new(AtomicBool::new(false));
        let carrier = Carrier {
            outward: Direction::new(cabling, 0),
            inward: Direction::new(cabling, 1),
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
            let there = (!near || self.outward.collect(&self.near, cut))
                && (!far || self.inward.collect(&self.far, cut));
            if !there {
                return;
            }
        }
    }
}

/// The frames under way in one direction.
struct Direction {
    link: Link,
    begin: Instant,
    // Nothing is reordered, so frames arrive in the order in which they left.
    in_flight: VecDeque<(Instant, Box<[u8]>)>,
    bytes: usize,
}

impl Direction {
    fn new(cabling: Cabling, stream: u64) -> Self {
        Self {
            link: Link::new(cabling.conditions, cabling.seed.wrapping_mul(2).wrapping_add(stream)),
            begin: Instant::now(),
            in_flight: VecDeque::new(),
            bytes: 0,
        }
    }

    fn due(&self) -> Option<Instant> {
        self.in_flight.front().map(|(due, _)| *due)
    }

    /// Takes frames from a device. Whether it is still there: what is gone would be ready for ever.
    fn collect(&mut self, mut from: &File, cut: bool) -> bool {
        let mut frame = [0; MAX_FRAME];
        for _ in 0..READ_BURST {
            let frame = match from.read(&mut frame) {
                Ok(length) => frame.get(..length).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            if cut || self.bytes + frame.len() > MAX_IN_FLIGHT {
                continue;
            }
            let packet = frame.len().saturating_sub(ETHERNET_HEADER);
            match self.link.carry(self.begin.elapsed(), packet) {
                Fate::Arrives(at) => {
                    self.bytes += frame.len();
                    self.in_flight.push_back((self.begin + at, frame.into()));
                }
                Fate::Lost | Fate::TooBig => {}
            }
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_as_many_as_asked_and_the_same_for_the_same_seed() {
        let lost = |seed, stream| {
            let cabling = Cabling::PERFECT.losing(0.1, seed);
            let mut direction = Direction::new(cabling, stream);
            let mut lost = |_: &u32| direction.link.carry(Duration::ZERO, 100) == Fate::Lost;
            (0..100_000).filter(|number| lost(number)).collect::<Vec<_>>()
        };
        let first = lost(1, 0);
        assert!((9_500..10_500).contains(&first.len()), "{}", first.len());
        assert_eq!(lost(7, 0), lost(7, 0));
        assert_ne!(lost(7, 0), lost(8, 0));
        // The two directions of a cable are two dice.
        assert_ne!(lost(7, 0), lost(7, 1));
    }
}
