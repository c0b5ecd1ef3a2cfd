//! Two hosts behind NATs meet with the help of a third, in virtual time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use natlab::link::Conditions;
use natlab::nat::{Behaviour, presets};
use natlab::sim::{Agent, ConnectOptions, Event, Os, Sim, SocketId};
use natlab::{HostId, Internet, Place, Site, Time};

const MS: Duration = Duration::from_millis(1);
const PORT: u16 = 4000;

/// Tells two peers each other's address, as it sees them.
#[derive(Debug, Default)]
struct Broker {
    peers: Vec<SocketId>,
}

/// Connects to the broker and, from the same port, to whom it names; listens there too.
#[derive(Debug)]
struct Peer {
    broker: SocketAddr,
    link: Option<SocketId>,
    met: Option<(Time, SocketId)>,
    got: Vec<u8>,
}

#[derive(Debug)]
enum Program {
    Broker(Broker),
    Peer(Peer),
}

impl Agent for Program {
    fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        match self {
            Self::Broker(broker) => broker.handle(os, event),
            Self::Peer(peer) => peer.handle(os, event),
        }
    }
}

impl Agent for Broker {
    fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        match event {
            Event::Started => {
                os.listen(443).unwrap();
            }
            Event::Readable(socket) => {
                os.read(socket);
                self.peers.push(socket);
                if let [one, other] = self.peers[..] {
                    for (to, about) in [(one, other), (other, one)] {
                        let remote = os.remote(about).unwrap();
                        os.write(to, remote.to_string().as_bytes());
                    }
                }
            }
            Event::Finished(socket) => os.close(socket),
            _ => {}
        }
    }
}

impl Peer {
    fn meet(&mut self, os: &mut Os<'_>, socket: SocketId) {
        if self.met.is_none() {
            self.met = Some((os.now(), socket));
            for _ in 0..3 {
                os.write(socket, &[7; 100]);
            }
        }
    }
}

impl Agent for Peer {
    fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        let here = ConnectOptions { port: PORT, ..ConnectOptions::default() };
        match event {
            Event::Started => {
                os.listen(PORT).unwrap();
                self.link = os.connect(self.broker, here).ok();
            }
            Event::Connected(socket) if self.link == Some(socket) => os.write(socket, b"hello"),
            Event::Readable(socket) if self.link == Some(socket) => {
                let peer: SocketAddr = String::from_utf8(os.read(socket)).unwrap().parse().unwrap();
                // EADDRNOTAVAIL: the listener has it.
                let _ = os.connect(peer, here);
            }
            Event::Connected(socket) | Event::Accepted { socket, .. } => self.meet(os, socket),
            Event::Readable(socket) => {
                self.got.extend(os.read(socket));
                if self.got.len() == 300 {
                    os.close(socket);
                    self.link.into_iter().for_each(|link| os.close(link));
                }
            }
            Event::Woken | Event::Failed(..) | Event::Finished(_) | Event::Broken(..) => {}
        }
    }
}

struct Run {
    sim: Sim<Program>,
    hosts: [HostId; 2],
}

fn punch(behaviours: [Behaviour; 2], seed: u64, record: bool) -> Run {
    let mut internet = Internet::new(seed);
    if record {
        internet.record();
    }
    let [one, other] = behaviours;
    let broker = internet.host(Place::Core, Conditions::delay(5 * MS));
    let hosts = [(one, 20), (other, 30)].map(|(behaviour, delay)| {
        let gateway = internet.gateway(Place::Core, Site::ipv4(behaviour), Conditions::delay(delay * MS));
        internet.host(Place::Behind(gateway), Conditions::PERFECT)
    });
    let address = SocketAddr::new(internet.address(broker, true).unwrap(), 443);
    let mut sim = Sim::new(internet, seed);
    sim.place(broker, Time::ZERO, Program::Broker(Broker::default()));
    for host in hosts {
        sim.place(
            host,
            Time::ZERO,
            Program::Peer(Peer { broker: address, link: None, met: None, got: Vec::new() }),
        );
    }
    sim.run(Duration::from_secs(30), |_| false);
    Run { sim, hosts }
}

impl Run {
    fn peers(&self) -> [&Peer; 2] {
        self.hosts.map(|host| match self.sim.agent(host).unwrap() {
            Program::Peer(peer) => peer,
            Program::Broker(_) => unreachable!("peers were placed there"),
        })
    }
}

#[test]
fn both_meet_through_their_nats_one_round_trip_after_they_fired() {
    let mut run = punch([presets::linux_masquerade(), presets::linux_masquerade()], 1, true);
    // The link stands after 70 ms, and the later hello is there 35 ms after that. The addresses take 25 and 35 ms back,
    // so that the SYNs cross.
    let met = run.peers().map(|peer| peer.met.unwrap().0);
    assert_eq!(met, [230 * MS, 240 * MS]);
    assert!(run.peers().iter().all(|peer| peer.got.len() == 300));
    assert_eq!(run.sim.syns(run.hosts[0], |_| true), (2, 2));
    let diagram = run.sim.diagram();
    let participants: Vec<&str> =
        diagram.lines().filter_map(|line| line.trim().strip_prefix("participant ")).collect();
    assert_eq!(
        participants,
        ["n0 as host1", "n1 as gateway0", "n2 as core", "n3 as gateway1", "n4 as host2", "n5 as host0"]
    );
}

#[test]
fn random_ports_on_one_side_are_not_found() {
    let run = punch([presets::linux_masquerade(), presets::symmetric_random()], 1, false);
    assert!(run.peers().iter().all(|peer| peer.met.is_none()));
    assert!(run.sim.syns(run.hosts[0], |remote| remote.port() != 443).1 > 5);
}

/// `cargo test --release -p natlab --test sim_punch -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn how_many_punches_a_second() {
    let behaviours = || [presets::linux_masquerade(), presets::carrier_eim()];
    let passages = punch(behaviours(), 1, true).sim.internet_mut().take_record().len();
    let (began, mut punches) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        let run = punch(behaviours(), punches, false);
        assert!(run.peers().iter().all(|peer| peer.got.len() == 300));
        punches += 1;
    }
    let each = began.elapsed() / u32::try_from(punches).unwrap();
    let rate = 1.0 / each.as_secs_f64();
    println!("{rate:.0} punches a second, each {each:?} and {passages} packets on cables");
}
