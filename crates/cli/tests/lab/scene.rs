//! An internet with a broker, and two who meet.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use natlab::kernel::{Host, Lab, Node, SynCount};
use tcpunch_core::limits::{BROKER_PORT, PROBE_PORT};

use crate::kinds::Kind;
use crate::process::{Event, Journal, PATIENCE, Process};

/// A lab and what was said in it.
pub(crate) struct Scene {
    pub(crate) journal: Journal,
    // Processes end before what they run in: those of a test are declared after its scene.
    pub(crate) lab: Lab,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { journal: Journal::new(), lab: Lab::new().unwrap() }
    }

    /// A public host with a broker on it, ready.
    pub(crate) fn broker(&self) -> (Host, Process) {
        let host = self.lab.public_host("broker").start().unwrap();
        let process = self.broker_on(&host, &["--ephemeral"]);
        (host, process)
    }

    pub(crate) fn broker_on(&self, node: &Node, arguments: &[&str]) -> Process {
        let mut broker = Process::start(&self.journal, node, "broker", "broker", arguments);
        broker.event("broker");
        broker
    }

    pub(crate) fn start(&self, node: &Node, verb: &str, arguments: &[&str]) -> Process {
        let name = format!("{} {verb}", node.name());
        let common = ["--ephemeral", "-v"];
        Process::start(&self.journal, node, &name, verb, common.iter().chain(arguments))
    }

    /// `listen` on one, `connect` with the printed code on the other, until both have a path.
    pub(crate) fn pipe(&self, broker: &Node, listener: &Node, connecter: &Node) -> Pipe {
        let mut listen = self.start(listener, "listen", &["--broker", &broker.ipv4().to_string()]);
        let code = listen.event("code").text("code").to_owned();
        let connect = self.start(connecter, "connect", &[&code]);
        Pipe::meet(listen, connect)
    }
}

/// Two that are connected.
pub(crate) struct Pipe {
    pub(crate) listen: Process,
    pub(crate) connect: Process,
    /// The event of each, the listener's first.
    pub(crate) paths: Vec<Event>,
}

impl Pipe {
    pub(crate) fn meet(mut listen: Process, mut connect: Process) -> Self {
        let paths = vec![listen.event("path"), connect.event("path")];
        Self { listen, connect, paths }
    }

    /// Their events were read already.
    pub(crate) fn standing(listen: Process, connect: Process) -> Self {
        Self { listen, connect, paths: Vec::new() }
    }

    /// A line in each direction, and a good end of both.
    pub(crate) fn talk_and_end(&mut self) {
        self.talk();
        self.listen.close_input();
        self.connect.close_input();
        self.listen.ends_well();
        self.connect.ends_well();
    }

    pub(crate) fn talk(&mut self) {
        self.listen.say("from the one who listens");
        self.connect.say("from the one who connects");
        assert_eq!(self.connect.hears(), "from the one who listens");
        assert_eq!(self.listen.hears(), "from the one who connects");
    }

    /// From the introduction until the later of both had its path.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.paths.iter().map(|path| path.number("elapsed_ms")).fold(0.0, f64::max)
    }

    pub(crate) fn expect_path(&self, kind: &str) {
        for path in &self.paths {
            if path.text("path") != kind {
                self.listen.fail(&format!("has a path that is not {kind}"));
            }
        }
    }
}

impl Scene {
    /// The broker dialled nobody but the scratch port that each peer asked it to knock at: once, and once more from another
    /// port where that was met with silence. Not from the ports that peers know, and never where links come from.
    pub(crate) fn only_knocks(&self, broker: &Node) {
        let (dialled, doors) = (broker.syns().unwrap(), self.journal.doors());
        self.journal.assert(!doors.is_empty(), "nobody said where it was seen");
        for syn in &dialled {
            let elsewhere =
                doors.iter().any(|door| door.ip() == syn.remote.ip()) && !doors.contains(&syn.remote);
            let fresh = ![BROKER_PORT, PROBE_PORT].contains(&syn.local.port());
            let there = || dialled.iter().filter(|other| other.remote == syn.remote);
            let ports: BTreeSet<u16> = there().map(|other| other.local.port()).collect();
            let twice_at_most = there().count() <= 2 && ports.len() == there().count();
            self.journal.assert(
                elsewhere && fresh && twice_at_most,
                &format!("the broker dialled {syn:?} of {dialled:?}"),
            );
        }
        let asked: BTreeSet<SocketAddr> = dialled.iter().map(|syn| syn.remote).collect();
        self.journal.assert(asked.len() <= doors.len(), &format!("the broker dialled {dialled:?}"));
    }
}

/// First SYNs and retransmissions of a peer toward others than the broker.
pub(crate) fn syns_to_peers(peer: &Node, broker: &Node) -> SynCount {
    let brokers =
        |to: SocketAddr| to.ip() == broker.ipv4() || broker.ipv6().is_some_and(|ipv6| to.ip() == ipv6);
    peer.syns_sent(|to| !brokers(to)).unwrap()
}

/// What came of one meeting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) elapsed_ms: f64,
    /// First SYNs of both sides.
    pub(crate) syns: u64,
}

/// Two kinds of networks meet on an internet of their own, and move a line in both directions.
pub(crate) fn meeting(kinds: [Kind; 2], delays_ms: [u64; 2]) -> Outcome {
    let scene = Scene::new();
    let (broker_host, mut broker) = scene.broker();
    let [listener, connecter] = [0, 1].map(|at| {
        let name = ["listener", "connecter"][at];
        kinds[at].site(&scene.lab, name, Duration::from_millis(delays_ms[at]))
    });
    let mut pipe = scene.pipe(&broker_host, &listener, &connecter);
    pipe.talk_and_end();
    let behind_nats = kinds.iter().all(|kind| {
        !matches!(kind, Kind::Public | Kind::FirewallDrop | Kind::FirewallReset | Kind::FirewallIcmp)
    });
    let plain = if behind_nats { "punched" } else { "direct" };
    let open = kinds.iter().any(|kind| matches!(kind, Kind::Public | Kind::FullCone));
    if !kinds.contains(&Kind::Symmetric) {
        pipe.expect_path(plain);
    } else if !open {
        pipe.expect_path("birthday");
    } else {
        // Whether many ports are tried before the other side comes in by itself is chance.
        let paths: Vec<&str> = pipe.paths.iter().map(|path| path.text("path")).collect();
        let alike = paths.iter().all(|path| *path == plain) || paths.iter().all(|path| *path == "birthday");
        scene.journal.assert(alike, "another path");
    }
    scene.journal.assert(broker.is_running(), "the broker has ended");
    scene.only_knocks(&broker_host);
    let syns = [&listener, &connecter].map(|peer| syns_to_peers(peer, &broker_host).first);
    for (path, counted) in pipe.paths.iter().zip(syns) {
        let told = path.number("syns");
        // Told when the path stood: a SYN may leave in that moment, and one be told that the kernel did not send because
        // the peer's had just come.
        scene
            .journal
            .assert((told - counted as f64).abs() <= 1.0, &format!("{counted} SYNs were sent, {told} told"));
    }
    Outcome { elapsed_ms: pipe.elapsed_ms(), syns: syns.iter().sum() }
}

/// Waits for the end of both: exit 6 within 15 s of the introduction, each with a reason that names the network.
pub(crate) fn no_path(scene: &Scene, broker: &Node, listener: &Node, connecter: &Node) -> [Event; 2] {
    let mut listen = scene.start(listener, "listen", &["--broker", &broker.ipv4().to_string()]);
    let code = listen.event("code").text("code").to_owned();
    let mut connect = scene.start(connecter, "connect", &[&code]);
    let introduced = [listen.event("introduced").at, connect.event("introduced").at];
    let mut at = 0;
    [&mut listen, &mut connect].map(|process| {
        let error = process.error();
        let took = error.at - introduced[at];
        at += 1;
        scene.journal.assert(
            took < Duration::from_secs(15),
            &format!("it took {took:?} to find that there is no path"),
        );
        let code = process.ends_within(PATIENCE);
        scene.journal.assert(code == 6, &format!("an exit code {code} instead of 6"));
        scene.journal.assert(error.number("exit") == 6.0, "the error event has another exit code");
        scene.journal.assert(error.text("kind") == "no-direct-path", "the error event is of another kind");
        error
    })
}
