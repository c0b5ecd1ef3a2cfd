//! The thread between the hosts' devices and the internet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::SentSyn;
use super::pcap::Pcap;
use crate::device::be_on_time;
use crate::packet::Packet;
use crate::{Error, HostId, Internet, Time};

/// Packets read from one host before others and the clock are looked at again.
const READ_BURST: usize = 32;
/// The least time between two looks at the clock where nothing moves: a thread that comes first must never keep a CPU for
/// itself.
const PAUSE: Duration = Duration::from_micros(20);
/// No IP packet is longer.
const MAX_PACKET: usize = 65_535;

/// A running internet, seen from outside its thread.
#[derive(Debug)]
pub(super) struct Wire {
    shared: Arc<Shared>,
    waker: PipeWriter,
    thread: Option<JoinHandle<Vec<File>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    /// Apart from the state, so that neither reading nor writing packets has it locked.
    captures: Mutex<HashMap<HostId, Pcap>>,
    /// Whether there are any.
    capturing: AtomicBool,
}

#[derive(Debug)]
struct State {
    internet: Internet,
    syns: HashMap<HostId, Syns>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The SYNs of one host.
#[derive(Debug, Default)]
struct Syns {
    sent: Vec<SentSyn>,
    /// Where among them one is: a repetition has the sequence number of the first.
    places: HashMap<(SocketAddr, SocketAddr, u32), usize>,
}

impl Syns {
    fn count(&mut self, packet: &Packet) {
        let Some(segment) = packet.segment().filter(|segment| segment.opens()) else { return };
        let local = SocketAddr::new(packet.source, segment.source_port);
        let remote = SocketAddr::new(packet.destination, segment.destination_port);
        match self.places.entry((local, remote, segment.sequence)) {
            Entry::Vacant(place) => {
                place.insert(self.sent.len());
                self.sent.push(SentSyn { local, remote, transmissions: 1 });
            }
            Entry::Occupied(place) => {
                if let Some(syn) = self.sent.get_mut(*place.get()) {
                    syn.transmissions += 1;
                }
            }
        }
    }
}

impl Wire {
    /// Lets packets flow between these devices, one a host, on a thread of this name.
    pub(super) fn start(name: String, internet: Internet, devices: Vec<File>) -> Result<Self, Error> {
        let (woken, waker) = io::pipe().map_err(|source| Error::io("make a pipe for a lab", source))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { internet, syns: HashMap::new() }),
            stop: AtomicBool::new(false),
            captures: Mutex::default(),
            capturing: AtomicBool::new(false),
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let carrier = Carrier {
            devices: devices.into_iter().map(Some).collect(),
            woken,
            shared: shared.clone(),
            begin: Instant::now(),
            begin_of_day: now,
            buffer: vec![0; MAX_PACKET],
            sent: Vec::new(),
            arrived: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || carrier.run())
            .map_err(|source| Error::io("start the thread of a lab", source))?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    pub(super) fn change<T>(&self, what: impl FnOnce(&mut Internet) -> T) -> T {
        let answer = what(&mut locked(&self.shared.state).internet);
        self.wake();
        answer
    }

    pub(super) fn capture(&self, host: HostId, file: &Path) -> Result<(), Error> {
        let pcap = Pcap::create(file)
            .map_err(|source| Error::io(format!("write packets to {}", file.display()), source))?;
        locked(&self.shared.captures).insert(host, pcap);
        self.shared.capturing.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn syns(&self, host: HostId) -> Vec<SentSyn> {
        locked(&self.shared.state).syns.get(&host).map(|syns| syns.sent.clone()).unwrap_or_default()
    }

    /// Makes the thread look again at what it waits for.
    fn wake(&self) {
        // It fails only when the thread is gone.
        let _ = (&self.waker).write(&[0]);
    }

    /// Ends the thread; the devices go with it.
    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        // A panic has been reported by the thread.
        if let Some(devices) = self.thread.take().and_then(|thread| thread.join().ok()) {
            // The kernel takes some tens of milliseconds to remove a device, but removes several at once.
            thread::scope(|scope| {
                for device in devices {
                    // Where there are no more threads they are removed one after the other.
                    let _ = thread::Builder::new().spawn_scoped(scope, move || drop(device));
                }
            });
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Carrier {
    /// One a host; `None` where the host has removed it.
    devices: Vec<Option<File>>,
    woken: PipeReader,
    shared: Arc<Shared>,
    begin: Instant,
    /// The time since 1970 when it began.
    begin_of_day: Duration,
    buffer: Vec<u8>,
    sent: Vec<(HostId, Packet)>,
    arrived: Vec<(HostId, Packet)>,
}

impl Carrier {
    /// Runs until it is told to stop; gives the devices back.
    fn run(mut self) -> Vec<File> {
        be_on_time();
        let mut next = None;
        while !self.shared.stop.load(Ordering::Acquire) && self.wait_and_read(next) {
            next = self.move_on();
            self.deliver();
        }
        self.devices.into_iter().flatten().collect()
    }

    fn now(&self) -> Time {
        self.begin.elapsed()
    }

    /// Waits for packets, until this time, and takes them from the devices. Whether it can be done again.
    fn wait_and_read(&mut self, until: Option<Time>) -> bool {
        let timeout = until.map(|until| TimeSpec::from(until.saturating_sub(self.now())));
        let there = self.devices.iter().enumerate();
        let there = there.filter_map(|(number, device)| Some((number, device.as_ref()?.as_fd())));
        let (numbers, mut polled): (Vec<usize>, Vec<PollFd<'_>>) =
            there.map(|(number, device)| (number, PollFd::new(device, PollFlags::POLLIN))).unzip();
        polled.push(PollFd::new(self.woken.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut polled, timeout, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return true,
            Err(_) => return false,
        }
        let readable: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        if readable.last() == Some(&true) {
            // How often it was woken does not matter.
            let _ = self.woken.read(&mut self.buffer);
        }
        for (number, _) in numbers.into_iter().zip(readable).filter(|(_, readable)| *readable) {
            self.read(number);
        }
        true
    }

    /// Takes packets from one device.
    fn read(&mut self, number: usize) {
        let Some(place) = self.devices.get_mut(number) else { return };
        let capturing = self.shared.capturing.load(Ordering::Acquire);
        let host = HostId(number);
        for _ in 0..READ_BURST {
            let Some(device) = place else { return };
            let bytes = match device.read(&mut self.buffer) {
                Ok(length) => self.buffer.get(..length).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    // It would be ready for ever.
                    *place = None;
                    return;
                }
            };
            if capturing {
                keep(&self.shared, host, self.begin_of_day + self.begin.elapsed(), bytes);
            }
            self.sent.extend(Packet::parse(bytes).filter(routed).map(|packet| (host, packet)));
        }
    }

    /// Hands over what was sent, and takes what has arrived. Tells when to be back.
    fn move_on(&mut self) -> Option<Time> {
        let mut state = locked(&self.shared.state);
        let now = self.now();
        let idle = self.sent.is_empty();
        for (host, packet) in self.sent.drain(..) {
            if packet.segment().is_some_and(|segment| segment.opens()) {
                state.syns.entry(host).or_default().count(&packet);
            }
            state.internet.send(now, host, packet);
        }
        while let Some(arrived) = state.internet.poll(now) {
            self.arrived.push(arrived);
        }
        let soonest = if idle && self.arrived.is_empty() { now + PAUSE } else { now };
        state.internet.next().map(|next| next.max(soonest))
    }

    fn deliver(&mut self) {
        let capturing = self.shared.capturing.load(Ordering::Acquire);
        for (host, packet) in self.arrived.drain(..) {
            self.buffer.clear();
            packet.write(&mut self.buffer);
            if capturing {
                keep(&self.shared, host, self.begin_of_day + self.begin.elapsed(), &self.buffer);
            }
            if let Some(Some(device)) = self.devices.get_mut(host.0) {
                // A device that is down takes no packets: they are lost, as on a real cable.
                let _ = device.write(&self.buffer);
            }
        }
        self.buffer.resize(MAX_PACKET, 0);
        if capturing {
            locked(&self.shared.captures).retain(|_, pcap| pcap.flush().is_ok());
        }
    }
}

/// Writes a packet to the file for this host, if there is one.
fn keep(shared: &Shared, host: HostId, time: Duration, bytes: &[u8]) {
    let mut captures = locked(&shared.captures);
    if captures.get_mut(&host).is_some_and(|pcap| pcap.packet(time, bytes).is_err()) {
        captures.remove(&host);
    }
}

/// Whether a packet is one for a router: what kernels say to whole links on their own account is not.
fn routed(packet: &Packet) -> bool {
    let unicast = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => {
            !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified() || ip.is_loopback())
        }
        IpAddr::V6(ip) => {
            !(ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local())
        }
    };
    unicast(packet.source) && unicast(packet.destination)
}
