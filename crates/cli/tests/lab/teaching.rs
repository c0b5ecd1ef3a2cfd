//! What docs/how-it-works.md says, shown: the example of a hundred lines, and what a NAT lets in.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Host, KernelNat, Node, Refusal};
use socket2::{Domain, Protocol, Socket, Type};

use crate::example::example;
use crate::kinds::Kind;
use crate::process::{Journal, PATIENCE};
use crate::scene::Scene;
use crate::trial;

const BROKER: u16 = 7700;

pub(crate) fn trials() -> Vec<Trial> {
    let minimal =
        |kind: Kind| trial(format!("teaching::minimal::{}", kind.name()), move || minimal_through_nats(kind));
    vec![
        minimal(Kind::PreservingDrop),
        minimal(Kind::PreservingReset),
        trial("teaching::the_door_is_one_port_for_one_port", the_same_port),
        trial("teaching::what_a_refusal_does_to_the_door", refusals),
        trial("teaching::a_symmetric_nat_has_a_door_for_each_destination", symmetric),
    ]
}

/// A process of the example; killed when dropped.
struct Minimal {
    journal: Journal,
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Minimal {
    fn start(journal: &Journal, node: &Node, name: &str, words: &[&str]) -> Self {
        let mut command = node.command(example("minimal"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        let (own_journal, own_name) = (journal.clone(), name.to_owned());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                own_journal.note(&own_name, &line);
                // Nobody may be left to hear it.
                let _ = sender.send(line);
            }
        });
        Self { journal: journal.clone(), name: name.to_owned(), child, input, lines }
    }

    /// The next line that begins with this; what follows there.
    fn says(&self, begin: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.to_owned();
            }
        }
        self.journal.fail(&format!("{} never said '{begin}'", self.name))
    }

    fn type_line(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).expect("the example reads");
    }
}

impl Drop for Minimal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every frame on all interfaces of a host, both ways, from now on.
fn tap(node: &Node) -> Arc<Mutex<Vec<u8>>> {
    // All protocols, in network byte order (packet(7)).
    let all = Protocol::from(i32::from(3_u16.to_be()));
    let socket = node.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all))).unwrap().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let frames = seen.clone();
    thread::spawn(move || {
        let mut frame = vec![0; 65_536];
        while let Ok(length) = (&socket).read(&mut frame) {
            frames.lock().unwrap().extend_from_slice(&frame[..length]);
        }
    });
    seen
}

fn times(seen: &Mutex<Vec<u8>>, text: &str) -> usize {
    seen.lock().unwrap().windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

/// One broker and two clients, with messages each way of which the broker's wire sees nothing.
fn talk(journal: &Journal, broker: &Node, sites: [&Node; 2]) -> [String; 2] {
    let at = SocketAddrV4::new(broker.ipv4(), BROKER).to_string();
    let seen_by_broker = tap(broker);
    let host = Minimal::start(journal, broker, "broker", &["broker", &at]);
    host.says("broker on ");
    let mut clients = sites.map(|site| {
        let client = Minimal::start(journal, site, site.name(), &["client", &at]);
        client.says("own address ");
        client
    });
    let paths = clients.each_ref().map(|client| client.says("connected "));
    let doors: Vec<String> = (0..2).map(|_| host.says("").replace(" is here", "")).collect();
    for (path, door) in paths.iter().zip(doors.iter().rev()) {
        let remote = path.split(" <-> ").nth(1).unwrap();
        journal.assert(remote == door, &format!("connected with {remote}, but the door is {door}"));
    }
    let messages = ["of the one, and no broker hears it", "of the other, and no broker hears it"];
    for at in 0..2 {
        clients[at].type_line(messages[at]);
        let heard = clients[1 - at].says(&format!("{} says ", doors[at]));
        journal.assert(heard == format!("{:?}", messages[at]), &format!("it heard {heard}"));
    }
    drop(host);
    clients[0].type_line("and without a broker");
    clients[1].says(&format!("{} says \"and without a broker\"", doors[0]));
    // Plain text: the wire shows what the broker told, so it would show the messages as well.
    for door in &doors {
        journal.assert(times(&seen_by_broker, door) > 0, "the broker's wire is not seen");
    }
    for message in messages {
        journal.assert(times(&seen_by_broker, message) == 0, "the broker's wire carried a message");
    }
    paths
}

fn minimal_through_nats(kind: Kind) {
    let scene = Scene::new();
    let broker = scene.lab.public_host("broker").start().unwrap();
    let [one, other] = ["one", "other"].map(|name| kind.site(&scene.lab, name, Duration::from_millis(5)));
    for path in talk(&scene.journal, &broker, [&one, &other]) {
        println!("{path}");
    }
}

/// How long a SYN without an answer is waited for, where the test expects none.
const SILENCE: Duration = Duration::from_millis(500);

/// A socket on a local port that others share.
fn socket_at(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
    socket
}

/// What becomes of a SYN from this port.
fn knock(from: &Host, port: u16, to: SocketAddrV4, within: Duration) -> &'static str {
    let result = from.run(|| socket_at(port).connect_timeout(&to.into(), within)).unwrap();
    match result.map_err(|error| error.kind()) {
        Ok(()) => "connected",
        Err(ErrorKind::TimedOut) => "no answer",
        Err(ErrorKind::ConnectionRefused) => "refused by a reset",
        Err(ErrorKind::HostUnreachable) => "refused by ICMP",
        Err(other) => panic!("from {port} to {to}: {other}"),
    }
}

/// A SYN that stays in the air: it keeps the door open from inside.
fn call(from: &Host, port: u16, to: SocketAddrV4) -> Socket {
    from.run(|| {
        let socket = socket_at(port);
        socket.set_nonblocking(true).unwrap();
        let started = socket.connect(&to.into());
        assert!(started.is_err(), "nothing can have answered yet");
        socket
    })
    .unwrap()
}

/// Two computers behind NATs: their host, and the outside of its NAT.
fn homes(scene: &Scene, nats: [KernelNat; 2]) -> [(Host, Ipv4Addr); 2] {
    let mut names = ["one", "other"].into_iter();
    nats.map(|nat| {
        let name = names.next().unwrap();
        let delay = Duration::from_millis(5);
        let home = scene.lab.gateway(&format!("{name}-home"), nat).delay(delay).start().unwrap();
        (home.host(name).unwrap(), home.ipv4())
    })
}

/// Prints a fact and insists on it.
fn fact(scene: &Scene, what: &str, found: &str, expected: &str) {
    println!("{what}: {found}");
    scene.journal.assert(found == expected, &format!("{what}: {found} instead of {expected}"));
}

fn the_same_port() {
    let scene = Scene::new();
    let nats = [KernelNat::masquerade(), KernelNat::masquerade()];
    let [(alice, alice_home), (bob, bob_home)] = &homes(&scene, nats);
    let before = knock(bob, 5001, SocketAddrV4::new(*alice_home, 4001), SILENCE);
    fact(&scene, "Bob calls Alice, who has called nobody", before, "no answer");
    let _door = call(alice, 4002, SocketAddrV4::new(*bob_home, 5002));
    let after = knock(bob, 5002, SocketAddrV4::new(*alice_home, 4002), PATIENCE);
    fact(&scene, "Alice calls Bob's port 5002, then Bob calls her from port 5002", after, "connected");
    let _door = call(alice, 4003, SocketAddrV4::new(*bob_home, 5003));
    let elsewhere = knock(bob, 5004, SocketAddrV4::new(*alice_home, 4003), SILENCE);
    fact(&scene, "Alice calls Bob's port 5003, then Bob calls her from port 5004", elsewhere, "no answer");
    let other = knock(bob, 5003, SocketAddrV4::new(*alice_home, 4004), SILENCE);
    fact(&scene, "and from port 5003, but to another port of hers", other, "no answer");
}

/// Bob's SYN comes too early and is answered on the way, by Alice's NAT; then Alice calls him. His NAT drops what it did not
/// expect.
fn refusals() {
    // Alice's port and Bob's, as a segment from her to him begins.
    const FROM_ALICE_TO_BOB: [u8; 4] = [15, 161, 19, 137];
    for (refusal, early, door) in [
        (Refusal::Reset, "refused by a reset", "closed"),
        (Refusal::Icmp(natlab::Unreachable::Host), "refused by ICMP", "open"),
    ] {
        let scene = Scene::new();
        let nats = [KernelNat::masquerade().refusing(refusal), KernelNat::masquerade()];
        let [(alice, alice_home), (bob, bob_home)] = &homes(&scene, nats);
        let first = knock(bob, 5001, SocketAddrV4::new(*alice_home, 4001), PATIENCE);
        fact(&scene, "Bob calls first, and Alice's NAT answers", first, early);
        let seen = tap(bob);
        let _call = call(alice, 4001, SocketAddrV4::new(*bob_home, 5001));
        let until = Instant::now() + if door == "open" { PATIENCE } else { SILENCE };
        let came = || seen.lock().unwrap().windows(4).any(|window| window == FROM_ALICE_TO_BOB);
        while !came() && Instant::now() < until {
            // What comes in on a wire is not announced here.
            thread::sleep(Duration::from_millis(5));
        }
        fact(&scene, "the door that his call had opened", if came() { "open" } else { "closed" }, door);
    }
}

/// One local port, two destinations: which ports do these see?
fn symmetric() {
    for (kind, expected) in [(Kind::PreservingDrop, "the same port"), (Kind::Symmetric, "two ports")] {
        let scene = Scene::new();
        let alice = kind.site(&scene.lab, "alice", Duration::ZERO);
        let seen = ["first", "second"].map(|name| {
            let host = scene.lab.public_host(name).without_ipv6().start().unwrap();
            let at = SocketAddrV4::new(host.ipv4(), 7000);
            let listener = host.run(|| TcpListener::bind(at)).unwrap().unwrap();
            let call = alice.run(|| {
                let socket = socket_at(4001);
                socket.connect(&at.into()).map(|()| socket)
            });
            let (_stream, remote) = listener.accept().unwrap();
            (remote.port(), call.unwrap().unwrap())
        });
        let found = if seen[0].0 == seen[1].0 { "the same port" } else { "two ports" };
        fact(
            &scene,
            &format!("behind a {} NAT, two others see of one local port", kind.name()),
            found,
            expected,
        );
    }
}
