//! One attempt, driven by a kernel, a peer and a broker that do anything in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tcpunch_core::candidate::{Candidate, Kind};
use tcpunch_core::limits::{
    ARRIVALS, BIRTHDAY_PORTS, BIRTHDAY_SPREAD, LANES_PER_ATTEMPT, REFIRES_OF_VOLLEY, ROUNDS,
    SYNS_PER_ATTEMPT, SYNS_PER_HOST_LANE, SYNS_PER_LANE,
};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal};
use tcpunch_core::puncher::{Config, Dialled, Finished, Input, Origin, Output, Puncher, SocketId};
use tcpunch_core::wire::Word;

use crate::bytes::Bytes;

/// First SYNs of the largest volley.
const VOLLEY_MOST: u32 = (BIRTHDAY_SPREAD.1 + REFIRES_OF_VOLLEY) as u32;
/// No honest machine has so much to say at one moment: each lane has at most one socket, and a volley ends at once.
const OUTPUTS_AT_ONCE: usize = 4 * (LANES_PER_ATTEMPT + ARRIVALS) + 8 + 2 * VOLLEY_MOST as usize;
const OUTCOMES: [Dialled; 7] = [
    Dialled::Connected,
    Dialled::Refused,
    Dialled::Unreachable,
    Dialled::InUse,
    Dialled::NoRoute,
    Dialled::NoDescriptor,
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
    Dialling,
    Connected,
    Authenticating,
    Verified,
    Gone,
}

struct Lane {
    round: u8,
    address: SocketAddr,
    kind: Kind,
    /// SYNs that the kernel sent, as far as the puncher could know.
    syns: u32,
}

struct Attempt {
    puncher: Puncher<ChaCha8Rng>,
    controlling: bool,
    strangers: bool,
    now: Instant,
    deadline: Instant,
    sockets: BTreeMap<SocketId, Socket>,
    lanes: Vec<Lane>,
    rounds: u8,
    opened: u8,
    told: BTreeSet<(u8, bool)>,
    /// The lane of each dial, unless it is one of many.
    dialled: BTreeMap<SocketId, Option<usize>>,
    /// Dials whose end has not been reported.
    pending: BTreeSet<SocketId>,
    /// SYNs of volleys, as those of lanes.
    volley_syns: u32,
    nominated: Option<SocketId>,
    /// Nominated by the peer, which is what the controlled side goes by.
    chosen: BTreeSet<SocketId>,
    finished: Option<Finished>,
}

impl Attempt {
    fn new(input: &mut Bytes<'_>) -> Self {
        let controlling = input.yes();
        let round_trip_bound = Duration::from_millis(input.u16().into());
        let deadline = *START + Duration::from_secs((input.u8() % 20).into());
        let seed = input.u8().into();
        let strangers = !input.yes();
        let config = Config {
            controlling,
            round_trip_bound,
            introduced: *START,
            deadline,
            own: profile(input),
            peer: profile(input),
            seen_over_v6: !strangers,
            strangers,
            sockets: input.pick(&[2000, 700, 20, 0]),
            avoid: vec![avoided()],
            rules: Rules::default(),
        };
        Attempt {
            puncher: Puncher::new(config, ChaCha8Rng::seed_from_u64(seed)),
            controlling,
            strangers,
            now: *START,
            deadline,
            sockets: BTreeMap::new(),
            lanes: Vec::new(),
            rounds: 1,
            opened: 0,
            told: BTreeSet::new(),
            dialled: BTreeMap::new(),
            pending: BTreeSet::new(),
            volley_syns: 0,
            nominated: None,
            chosen: BTreeSet::new(),
            finished: None,
        }
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        match input.u8() % 15 {
            0 => self.pass(Duration::from_micros(input.u8().into())),
            1 => self.pass(Duration::from_millis(input.u8().into())),
            2 => self.pass(Duration::from_millis(20 * u64::from(input.u8()))),
            3 => self.handle(Input::Go),
            4 => {
                let kind = input.pick(&[Kind::Reflexive, Kind::Host, Kind::Predicted, Kind::Mapped]);
                let address = remote(input.u8() % 24);
                let known = self.lanes.iter().any(|lane| lane.address == address);
                if !known && self.lanes.len() < LANES_PER_ATTEMPT {
                    self.lanes.push(Lane { round: 0, address, kind, syns: 0 });
                }
                self.handle(Input::Candidate(Candidate { address, kind }));
            }
            5 => {
                // The kernel's answer, also for a socket that was closed meanwhile.
                let outcome = input.pick(&OUTCOMES);
                let which = usize::from(input.u8());
                let pending: Vec<SocketId> = self.pending.iter().copied().collect();
                if !pending.is_empty() {
                    self.dialled(pending[which % pending.len()], outcome);
                }
            }
            6 => {
                let live = |(id, socket): &(&SocketId, &Socket)| {
                    **socket != Socket::Gone && !self.dialled.contains_key(id)
                };
                if self.sockets.iter().filter(live).count() < ARRIVALS {
                    let socket = self.puncher.name_socket();
                    assert!(self.sockets.insert(socket, Socket::Connected).is_none(), "names are used once");
                    let mut remote = remote(input.u8() % 32);
                    if input.yes() {
                        remote.set_port(fresh(input.u8()));
                    }
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
            10 => {
                // The kernel's answer to many at once.
                let outcome = input.pick(&OUTCOMES);
                let many = 4 * usize::from(input.u8());
                let pending: Vec<SocketId> = self.pending.iter().copied().take(many).collect();
                for socket in pending {
                    self.dialled(socket, outcome);
                }
            }
            11 => self.handle(Input::RoundWanted { round: input.u8() % (ROUNDS + 2) }),
            12 => {
                let round = input.u8() % (ROUNDS + 2);
                let mut candidates: Vec<Candidate> = (0..input.u8() % 3)
                    .map(|_| {
                        let mut address = remote(input.u8() % 24);
                        address.set_port(fresh(input.u8()));
                        let kind = input.pick(&[Kind::Reflexive, Kind::Predicted]);
                        Candidate { address, kind }
                    })
                    .collect();
                // A driver hands on each address once.
                candidates.dedup_by_key(|candidate| candidate.address);
                if round == self.rounds && round < ROUNDS {
                    self.rounds += 1;
                    self.opened = self.opened.max(round);
                    for Candidate { address, kind } in &candidates {
                        if self.lanes.len() < LANES_PER_ATTEMPT + usize::from(ROUNDS) {
                            self.lanes.push(Lane { round, address: *address, kind: *kind, syns: 0 });
                        }
                    }
                }
                self.handle(Input::Round { round, candidates });
            }
            13 => self.handle(Input::PeerSays {
                round: input.u8() % (ROUNDS + 2),
                word: input.pick(&[Word::Ready, Word::Fired]),
            }),
            _ => {
                let (own, peer) = (profile(input), profile(input));
                self.handle(Input::Profiles { own, peer });
                self.handle(Input::SeenOverV6);
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
        let lane = self.dialled[&socket];
        let current = self.sockets[&socket] == Socket::Dialling;
        match outcome {
            Dialled::Connected => {
                self.sockets.insert(socket, Socket::Connected);
            }
            Dialled::InUse | Dialled::NoRoute | Dialled::NoDescriptor
                if current && self.finished.is_none() =>
            {
                self.no_syn(lane)
            }
            _ => {}
        }
        self.handle(Input::Dialled { socket, outcome });
        let used = matches!(self.sockets[&socket], Socket::Authenticating | Socket::Gone);
        assert!(used || self.finished.is_some(), "a socket whose dial has ended is used or closed");
        if !used {
            // A driver drops all that it has left when it is over.
            self.gone(socket);
        }
    }

    /// The first lane with this address is the one that it belongs to.
    fn taken_back(&mut self, remote: SocketAddr) {
        let Some(lane) = self.lanes.iter().position(|lane| lane.address == remote) else { return };
        let dialling =
            |(id, of): (&SocketId, &Option<usize>)| *of == Some(lane) && self.sockets[id] == Socket::Dialling;
        if self.dialled.iter().any(dialling) {
            self.no_syn(Some(lane));
        }
    }

    fn no_syn(&mut self, lane: Option<usize>) {
        match lane {
            Some(lane) => self.lanes[lane].syns -= 1,
            None => self.volley_syns -= 1,
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
            Output::Dial { socket, origin, remote, many } => {
                let lane = if many { self.shot(origin, remote) } else { Some(self.lane(origin, remote)) };
                assert!(self.sockets.insert(socket, Socket::Dialling).is_none(), "names are used once");
                self.dialled.insert(socket, lane);
                self.pending.insert(socket);
            }
            Output::Authenticate { socket, nominate, cautious } => {
                let before = self.sockets.insert(socket, Socket::Authenticating);
                assert!(before == Some(Socket::Connected), "there is a connection");
                if nominate {
                    assert!(!cautious, "what may be alive in one direction only is not nominated");
                    if let Some(of) = self.dialled.get(&socket) {
                        let kind = of.map(|lane| self.lanes[lane].kind);
                        assert!(kind.is_some(), "who is found at one of many ports is not nominated");
                        assert!(
                            kind != Some(Kind::Host),
                            "another machine of the own network is not nominated"
                        );
                    }
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
            Output::Open { round, v6: _, listen: _ } => {
                assert!(self.opened < round && round < ROUNDS, "each round is opened once");
                self.opened = round;
            }
            Output::Release { socket } => {
                assert!(self.sockets.get(&socket) == Some(&Socket::Dialling), "what connected is no miss");
            }
            Output::Tell { round, word } => {
                assert!(
                    round < self.rounds && self.told.insert((round, word == Word::Fired)),
                    "each word once"
                );
                let ready = self.told.contains(&(round, false));
                assert!(ready, "who fires has heard Go");
            }
            Output::Wait(_) => {}
        }
    }

    fn lane(&mut self, origin: Origin, remote: SocketAddr) -> usize {
        let fits = |lane: &Lane| origin == Origin::Round(lane.round) && lane.address == remote;
        let lanes: Vec<usize> = (0..self.lanes.len()).filter(|lane| fits(&self.lanes[*lane])).collect();
        let busy = |lane: usize| {
            let dials = self.pending.iter().map(|id| (id, self.dialled[id]));
            dials.into_iter().any(|(id, of)| of == Some(lane) && self.sockets[id] == Socket::Dialling)
        };
        assert!(!lanes.is_empty(), "{remote} is no candidate of {origin:?}");
        let free = lanes.into_iter().find(|lane| !busy(*lane));
        let lane = free.expect("one socket a lane");
        self.lanes[lane].syns += 1;
        lane
    }

    /// One of many ports.
    fn shot(&mut self, origin: Origin, remote: SocketAddr) -> Option<usize> {
        assert!(!self.strangers, "nobody in a lobby is fired at");
        assert!(matches!(origin, Origin::Scratch) || matches!(origin, Origin::Round(n) if n < self.rounds));
        let peer =
            |lane: &Lane| lane.address.ip() == remote.ip() && !matches!(lane.kind, Kind::Host | Kind::Mapped);
        assert!(remote.is_ipv4() && self.lanes.iter().any(peer), "{remote} is not the peer's NAT");
        assert!(remote != avoided() && remote.port() >= BIRTHDAY_PORTS.0);
        self.volley_syns += 1;
        assert!(self.volley_syns <= VOLLEY_MOST);
        None
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
        let sent: u32 = self.lanes.iter().map(|lane| lane.syns).sum();
        assert_eq!(finished.syns, sent + self.volley_syns);
        assert!(sent <= SYNS_PER_ATTEMPT);
        assert_eq!(finished.volleys.iter().map(|volley| volley.syns).sum::<u32>(), self.volley_syns);
        assert!(finished.rounds <= self.rounds);
        assert_eq!(finished.lanes.len(), self.lanes.len());
        for (lane, known) in finished.lanes.iter().zip(&self.lanes) {
            let most = if known.kind == Kind::Host { SYNS_PER_HOST_LANE } else { SYNS_PER_LANE };
            assert!(lane.syns <= most);
            assert_eq!((lane.candidate.address, lane.syns), (known.address, known.syns));
            assert!(lane.refused + lane.unreachable <= lane.syns + lane.impostors);
        }
    }
}

/// Some have IPv6.
fn remote(n: u8) -> SocketAddr {
    if n % 8 == 7 {
        SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()].into(), 40_000)
    } else {
        SocketAddr::new([203, 0, 113, n].into(), 40_000)
    }
}

/// A port of a further round; some are near the ends of the range that NATs choose from.
fn fresh(n: u8) -> u16 {
    match n % 4 {
        0 => 65_535 - u16::from(n),
        1 => 1024 + u16::from(n),
        _ => 40_000 + u16::from(n),
    }
}

/// Somebody behind the peer's NAT who is not the peer.
fn avoided() -> SocketAddr {
    SocketAddr::new(remote(1).ip(), 40_003)
}

fn profile(input: &mut Bytes<'_>) -> NatProfile {
    let byte = input.u8();
    let mapping = match byte % 8 {
        0 => return NatProfile::default(),
        1 => Behaviour::EndpointIndependent,
        2 => Behaviour::Unknown,
        _ => Behaviour::AddressAndPortDependent,
    };
    let allocation = match byte % 8 {
        1 => Allocation::Preserving,
        2 => Allocation::Changing,
        3 => Allocation::Stepping(i16::from(input.u8()) - 128),
        4 => {
            let (first, more) = (40_000 + u16::from(input.u8()), 16 * u16::from(input.u8()));
            Allocation::Block { first, last: first + more }
        }
        5 => Allocation::Block { first: input.u16(), last: input.u16() },
        _ => Allocation::Random,
    };
    let filtering = [
        Behaviour::AddressAndPortDependent,
        Behaviour::Unknown,
        Behaviour::PortIndependent,
        Behaviour::EndpointIndependent,
    ];
    let refusal = [Refusal::Drop, Refusal::Unknown, Refusal::Reset, Refusal::Icmp];
    NatProfile {
        translated: Some(true),
        mapping,
        allocation,
        filtering: filtering[usize::from(byte / 8 % 4)],
        refusal: refusal[usize::from(byte / 32 % 4)],
        simultaneous_open: None,
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Profiles: nothing known; one port, silent or resetting; any port; one port above the last; a block of 1,025.
    let (unknown, easy, resetting, random) = (vec![0], vec![1], vec![1 + 64], vec![6]);
    let (stepping, block, open) = (vec![3, 129], vec![4, 0, 64], vec![6 + 24]);
    // Controlling or not, the round trip in ms, the deadline in s, the generator's seed, whether they met in a lobby, the two
    // networks, many descriptors.
    let between = |controlled: u8, own: &[u8], peer: &[u8]| {
        [&[controlled, 0, 50, 15, 1, 0][..], own, peer, &[0]].concat()
    };
    let begin = |controlled: u8| between(controlled, &unknown, &unknown);
    let lane = |kind: u8, n: u8| vec![4, kind, n];
    let go = || vec![3];
    let dial = |outcome: u8, which: u8| vec![5, outcome, which];
    let all = |outcome: u8| vec![10, outcome, 255];
    let accept = |n: u8| vec![6, n, 1];
    let verify = |nominated: bool, which: u8| vec![7, u8::from(!nominated), which];
    let ms = |ms: u8| vec![1, ms];
    let round = |round: u8| vec![12, round, 1, 1, round, 0];
    let fired = |round: u8| vec![13, round];
    let seed = |parts: &[Vec<u8>]| parts.concat();
    let met = |own: &[u8], peer: &[u8]| [between(0, own, peer), lane(0, 1), go()].concat();
    let hit = || [dial(0, 99), ms(30), verify(true, 0)].concat();
    let refused: Vec<u8> = (0..40).flat_map(|_| [dial(1, 0), ms(30)].concat()).collect();
    let unreachable: Vec<u8> = (0..40).flat_map(|_| [dial(2, 0), ms(9)].concat()).collect();
    let refusing = [random[0] + 64];
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
        seed(&[begin(1), lane(0, 1), go(), dial(4, 0), vec![11, 1], vec![2, 255]]),
        seed(&[begin(0), (0..20).flat_map(|n| lane(n % 3, n)).collect(), vec![2, 40], dial(5, 3)]),
        seed(&[met(&easy, &random), ms(90), hit()]),
        seed(&[met(&random, &easy), ms(90), accept(3), verify(true, 0)]),
        seed(&[met(&resetting, &refusing), fired(0), ms(70), all(1), ms(90), all(1), hit()]),
        seed(&[met(&easy, &refusing), ms(90), fired(0), ms(90), all(2), vec![2, 255]]),
        seed(&[met(&easy, &stepping), ms(60), round(1), ms(9), all(5), round(2), ms(9), hit()]),
        seed(&[met(&stepping, &stepping), round(1), ms(9), hit()]),
        seed(&[met(&easy, &block), ms(90), dial(0, 7), vec![9, 0], vec![2, 200], round(1), ms(9), hit()]),
        seed(&[
            met(&open, &random),
            accept(1),
            vec![9, 0],
            vec![2, 99],
            round(1),
            accept(1),
            verify(true, 0),
        ]),
        seed(&[
            met(&easy, &easy),
            vec![2, 30],
            round(1),
            vec![14],
            easy.clone(),
            random.clone(),
            round(2),
            hit(),
        ]),
        seed(&[met(&random, &random), lane(0, 7), vec![2, 60], round(1), dial(0, 0), verify(true, 0)]),
    ]
}
