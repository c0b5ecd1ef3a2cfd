//! One attempt, driven by a kernel, a peer and a broker that do anything in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tcpunch_core::candidate::{Candidate, Kind};
use tcpunch_core::limits::{
    ARRIVALS, LANES_PER_ATTEMPT, SYNS_PER_ATTEMPT, SYNS_PER_HOST_LANE, SYNS_PER_LANE,
};
use tcpunch_core::puncher::{Config, Dialled, Finished, Input, Output, Puncher, SocketId};

use crate::bytes::Bytes;

/// No honest machine has so much to say at one moment: each lane has at most one socket.
const OUTPUTS_AT_ONCE: usize = 4 * (LANES_PER_ATTEMPT + ARRIVALS) + 8;
const OUTCOMES: [Dialled; 6] = [
    Dialled::Connected,
    Dialled::Refused,
    Dialled::Unreachable,
    Dialled::InUse,
    Dialled::NoRoute,
    Dialled::TimedOut,
];
/// Virtual time begins somewhere.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let mut attempt = Attempt::new(&mut input);
    while !input.is_empty() && attempt.finished.is_none() {
        attempt.step(&mut input);
    }
    attempt.pass(Duration::from_secs(20));
    attempt.end();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Socket {
    Dialling { remote: SocketAddr },
    Connected,
    Authenticating,
    Verified,
    Gone,
}

struct Attempt {
    puncher: Puncher<ChaCha8Rng>,
    controlling: bool,
    now: Instant,
    deadline: Instant,
    sockets: BTreeMap<SocketId, Socket>,
    lanes: BTreeMap<SocketAddr, Kind>,
    dialled: BTreeMap<SocketId, SocketAddr>,
    /// Dials whose end has not been reported.
    pending: BTreeSet<SocketId>,
    /// SYNs that the kernel sent, as far as the puncher could know.
    syns: BTreeMap<SocketAddr, u32>,
    nominated: Option<SocketId>,
    /// Nominated by the peer, which is what the controlled side goes by.
    chosen: BTreeSet<SocketId>,
    finished: Option<Finished>,
}

impl Attempt {
    fn new(input: &mut Bytes<'_>) -> Self {
        let controlling = input.yes();
        let config = Config {
            controlling,
            round_trip_bound: Duration::from_millis(input.u16().into()),
            introduced: *START,
            deadline: *START + Duration::from_secs((input.u8() % 20).into()),
            own: Default::default(),
            peer: Default::default(),
            strangers: false,
            sockets: 2000,
            avoid: Vec::new(),
            rules: tcpunch_core::plan::Rules { rounds: false, ..Default::default() },
        };
        let deadline = config.deadline;
        Attempt {
            puncher: Puncher::new(config, ChaCha8Rng::seed_from_u64(input.u8().into())),
            controlling,
            now: *START,
            deadline,
            sockets: BTreeMap::new(),
            lanes: BTreeMap::new(),
            dialled: BTreeMap::new(),
            pending: BTreeSet::new(),
            syns: BTreeMap::new(),
            nominated: None,
            chosen: BTreeSet::new(),
            finished: None,
        }
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        match input.u8() % 11 {
            0 => self.pass(Duration::from_micros(input.u8().into())),
            1 => self.pass(Duration::from_millis(input.u8().into())),
            2 => self.pass(Duration::from_millis(20 * u64::from(input.u8()))),
            3 => self.handle(Input::Go),
            4 => {
                let kind = input.pick(&[Kind::Reflexive, Kind::Host, Kind::Predicted]);
                let address = remote(input.u8() % 24);
                if self.lanes.len() < LANES_PER_ATTEMPT {
                    self.lanes.entry(address).or_insert(kind);
                }
                self.handle(Input::Candidate(Candidate { address, kind }));
            }
            5 => {
                // The kernel's answer, also for a socket that was closed meanwhile.
                let outcome = input.pick(&OUTCOMES);
                let pending: Vec<SocketId> = self.pending.iter().copied().collect();
                if !pending.is_empty() {
                    self.dialled(input.pick(&pending), outcome);
                }
            }
            6 => {
                let live = self.sockets.values().filter(|socket| **socket != Socket::Gone).count();
                if live < ARRIVALS {
                    let socket = self.puncher.name_socket();
                    assert!(self.sockets.insert(socket, Socket::Connected).is_none(), "names are used once");
                    let remote = remote(input.u8() % 32);
                    // An address at which a SYN waits is answered on the listener: the kernel sent none.
                    self.taken_back(remote);
                    self.handle(Input::Accepted { socket, remote });
                }
            }
            7 => {
                let nominated = input.yes();
                if let Some(socket) = self.some(input, |socket| socket == Socket::Authenticating) {
                    self.sockets.insert(socket, Socket::Verified);
                    if nominated {
                        self.chosen.insert(socket);
                    }
                    self.handle(Input::Verified { socket, nominated });
                }
            }
            8 => {
                if let Some(socket) = self.some(input, |socket| socket == Socket::Verified) {
                    self.chosen.insert(socket);
                    self.handle(Input::Nominated { socket });
                }
            }
            9 => {
                let open = |socket: Socket| matches!(socket, Socket::Authenticating | Socket::Verified);
                if let Some(socket) = self.some(input, open) {
                    self.gone(socket);
                    self.handle(Input::Failed { socket });
                }
            }
            _ => {
                let _ = input.u8();
            }
        }
    }

    fn some(&self, input: &mut Bytes<'_>, which: impl Fn(Socket) -> bool) -> Option<SocketId> {
        let fitting: Vec<SocketId> =
            self.sockets.iter().filter(|(_, socket)| which(**socket)).map(|(id, _)| *id).collect();
        (!fitting.is_empty()).then(|| input.pick(&fitting))
    }

    fn dialled(&mut self, socket: SocketId, outcome: Dialled) {
        self.pending.remove(&socket);
        let remote = self.dialled[&socket];
        let current = self.sockets[&socket] == Socket::Dialling { remote };
        match outcome {
            Dialled::Connected => {
                self.sockets.insert(socket, Socket::Connected);
            }
            Dialled::InUse | Dialled::NoRoute if current => self.no_syn(remote),
            _ => {}
        }
        self.handle(Input::Dialled { socket, outcome });
        let used = matches!(self.sockets[&socket], Socket::Authenticating | Socket::Gone);
        assert!(used, "a socket whose dial has ended is used or closed");
    }

    fn taken_back(&mut self, remote: SocketAddr) {
        if self.sockets.values().any(|socket| *socket == Socket::Dialling { remote }) {
            self.no_syn(remote);
        }
    }

    fn no_syn(&mut self, remote: SocketAddr) {
        if let Some(syns) = self.syns.get_mut(&remote) {
            *syns -= 1;
        }
    }

    fn gone(&mut self, socket: SocketId) {
        self.sockets.insert(socket, Socket::Gone);
        if self.nominated == Some(socket) {
            self.nominated = None;
        }
    }

    fn handle(&mut self, input: Input) {
        self.puncher.handle(self.now, input);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let at = self.drain();
            if self.finished.is_some() || at > end {
                break;
            }
            self.now = at;
        }
        self.now = end;
        self.drain();
    }

    /// Carries out all that is to be done now; returns when there is more.
    fn drain(&mut self) -> Instant {
        for _ in 0..OUTPUTS_AT_ONCE {
            match self.puncher.poll(self.now) {
                Output::Wait(at) => {
                    assert!(self.finished.is_some() || at > self.now, "a driver would spin");
                    assert!(self.finished.is_some() || self.now < self.deadline, "it ends by the deadline");
                    assert_eq!(self.puncher.is_over(), self.finished.is_some());
                    return at;
                }
                output => self.carry_out(output),
            }
        }
        panic!("there is no end to what is to be done");
    }

    fn carry_out(&mut self, output: Output) {
        assert!(self.finished.is_none(), "nothing comes after the end: {output:?}");
        match output {
            Output::Dial { socket, origin: _, remote, many: _ } => {
                assert!(self.lanes.contains_key(&remote), "{remote} is no candidate");
                let same = Socket::Dialling { remote };
                assert!(!self.sockets.values().any(|socket| *socket == same), "one socket a lane");
                assert!(self.sockets.insert(socket, same).is_none(), "names are used once");
                self.dialled.insert(socket, remote);
                self.pending.insert(socket);
                *self.syns.entry(remote).or_default() += 1;
            }
            Output::Authenticate { socket, nominate, cautious } => {
                let before = self.sockets.insert(socket, Socket::Authenticating);
                assert!(before == Some(Socket::Connected), "there is a connection");
                if nominate {
                    assert!(!cautious, "what may be alive in one direction only is not nominated");
                    let host = self.dialled.get(&socket).map(|remote| self.lanes[remote]) == Some(Kind::Host);
                    assert!(!host, "another machine of the own network is not nominated");
                    self.nominate(socket);
                }
            }
            Output::Nominate { socket } => {
                assert!(self.sockets.get(&socket) == Some(&Socket::Verified));
                self.nominate(socket);
            }
            Output::Close { socket } => {
                assert!(self.sockets.contains_key(&socket));
                self.gone(socket);
            }
            Output::Finished(finished) => self.finished = Some(*finished),
            Output::Open { .. } | Output::Tell { .. } | Output::Wait(_) => {}
        }
    }

    fn nominate(&mut self, socket: SocketId) {
        assert!(self.controlling, "one side alone chooses");
        assert!(self.nominated.is_none(), "two would both be used");
        self.nominated = Some(socket);
    }

    fn end(&self) {
        let finished = self.finished.as_ref().expect("it ends by the deadline");
        let winner = finished.winner.map(|winner| winner.socket);
        for (id, socket) in &self.sockets {
            assert_eq!(*socket != Socket::Gone, Some(*id) == winner, "all but the winner are closed");
        }
        if let Some(winner) = winner {
            assert!(self.sockets[&winner] == Socket::Verified, "what wins has shown that it is the peer");
            let agreed =
                if self.controlling { self.nominated == Some(winner) } else { self.chosen.contains(&winner) };
            assert!(agreed, "both sides use the same connection");
        }
        let sent: u32 = self.syns.values().sum();
        assert_eq!(finished.syns, sent);
        assert!(sent <= SYNS_PER_ATTEMPT);
        assert_eq!(finished.lanes.len(), self.lanes.len());
        for lane in &finished.lanes {
            let most = if lane.candidate.kind == Kind::Host { SYNS_PER_HOST_LANE } else { SYNS_PER_LANE };
            assert!(lane.syns <= most);
            assert_eq!(lane.syns, self.syns.get(&lane.candidate.address).copied().unwrap_or(0));
            assert!(lane.refused + lane.unreachable <= lane.syns + lane.impostors);
        }
    }
}

fn remote(n: u8) -> SocketAddr {
    SocketAddr::new([203, 0, 113, n].into(), 40_000)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Controlling or not, the round trip in ms, the deadline in s, the generator's seed.
    let begin = |controlled: u8| vec![controlled, 0, 50, 15, 1];
    let lane = |kind: u8, n: u8| vec![4, kind, n];
    let go = || vec![3];
    let dial = |outcome: u8, which: u8| vec![5, outcome, which];
    let accept = |n: u8| vec![6, n];
    let verify = |nominated: bool, which: u8| vec![7, u8::from(!nominated), which];
    let ms = |ms: u8| vec![1, ms];
    let seed = |parts: &[Vec<u8>]| parts.concat();
    let refused: Vec<u8> = (0..40).flat_map(|_| [dial(1, 0), ms(30)].concat()).collect();
    let unreachable: Vec<u8> = (0..40).flat_map(|_| [dial(2, 0), ms(9)].concat()).collect();
    vec![
        seed(&[begin(0), lane(0, 1), lane(0, 2), go(), ms(20), dial(0, 0), ms(20), verify(false, 0)]),
        seed(&[begin(1), lane(0, 1), go(), ms(20), dial(0, 0), ms(20), verify(true, 0)]),
        seed(&[begin(1), lane(0, 1), go(), dial(0, 0), verify(false, 0), ms(40), vec![8, 0]]),
        seed(&[begin(0), lane(0, 1), go(), refused, dial(0, 0), verify(false, 0)]),
        seed(&[begin(0), lane(0, 1), go(), unreachable, accept(1), verify(false, 0)]),
        seed(&[begin(0), lane(0, 1), go(), dial(3, 0), vec![2, 20], dial(3, 0), accept(1), verify(false, 0)]),
        seed(&[
            begin(0),
            lane(1, 1),
            lane(0, 2),
            go(),
            dial(0, 0),
            dial(0, 0),
            verify(false, 0),
            vec![2, 255],
        ]),
        seed(&[begin(0), lane(0, 1), lane(0, 2), go(), dial(0, 0), dial(0, 0), verify(false, 1), vec![9, 0]]),
        seed(&[begin(0), go(), accept(9), verify(false, 0)]),
        seed(&[begin(1), lane(0, 1), go(), dial(4, 0), vec![10, 20], vec![2, 255]]),
        seed(&[begin(0), (0..20).flat_map(|n| lane(n % 3, n)).collect(), vec![2, 40], dial(5, 3)]),
    ]
}
