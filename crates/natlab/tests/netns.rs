//! An internet in real time is true: times, bytes and losses are as configured, and whole programs run in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use natlab::link::Conditions;
use natlab::netns::{Host, Lab};
use natlab::testing::trial;
use natlab::{Internet, Node, Place};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";
/// Long enough for an answer on a busy machine, short enough for a test of silence.
const SILENCE: Duration = Duration::from_millis(400);
/// Long enough for what must come.
const PATIENCE: Duration = Duration::from_secs(8);
const MEGABYTE: usize = 1_000_000;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let tests = vec![
        trial("connecting_takes_the_configured_round_trip", VARIABLE, round_trips),
        trial("bytes_arrive_as_they_were_sent", VARIABLE, bytes),
        trial("bytes_arrive_in_spite_of_losses", VARIABLE, losses),
        trial("ipv6_and_loopback", VARIABLE, families),
        trial("a_cut_cable_carries_nothing", VARIABLE, cable),
        trial("a_capture_has_the_syn", VARIABLE, capture),
        trial("syns_are_counted", VARIABLE, syns),
        trial("everything_is_cleaned_up", VARIABLE, cleanup),
        trial("a_panic_inside_goes_on_outside", VARIABLE, panics),
        trial("labs_are_made_quickly", VARIABLE, quickly),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

/// Two public hosts, each with half of a round trip.
fn pair(round_trip: Duration, loss: f64) -> (Lab, Host, Host) {
    let mut internet = Internet::new(1);
    let conditions = Conditions::delay(round_trip / 4).losing(loss);
    let [near, far] = [(); 2].map(|()| internet.host(Place::Core, conditions));
    let lab = Lab::start(internet).unwrap();
    let (near, far) = (lab.host(near).clone(), lab.host(far).clone());
    (lab, near, far)
}

fn listen(host: &Host, v4: bool) -> (TcpListener, SocketAddr) {
    let address = host.address(v4).unwrap();
    let listener = host.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn dial(host: &Host, to: SocketAddr) -> TcpStream {
    host.run(|| TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap()
        .unwrap_or_else(|error| panic!("{} can't dial {to}: {error}", host.name()))
}

fn refused(host: &Host, to: SocketAddr) -> ErrorKind {
    match host.run(|| TcpStream::connect_timeout(&to, SILENCE)).unwrap() {
        Ok(_) => panic!("{} reached {to}", host.name()),
        Err(error) => error.kind(),
    }
}

fn round_trips() {
    for milliseconds in [1, 50, 200] {
        let expected = Duration::from_millis(milliseconds);
        let (_lab, near, far) = pair(expected, 0.0);
        for v4 in [true, false] {
            let (_listener, address) = listen(&far, v4);
            let mut times: Vec<Duration> = near
                .run(|| {
                    let connect = |_| {
                        let begin = Instant::now();
                        TcpStream::connect(address).unwrap();
                        begin.elapsed()
                    };
                    (0..9).map(connect).collect()
                })
                .unwrap();
            times.sort_unstable();
            eprintln!("{expected:?}: least {:?}, median {:?}, most {:?}", times[0], times[4], times[8]);
            assert!(times[0] >= expected, "{:?} < {expected:?}", times[0]);
            assert!(times[0] < expected + Duration::from_millis(2), "{times:?} instead of {expected:?}");
        }
    }
}

/// Sends so many bytes that repeat nowhere nearby, and compares what arrives.
fn transfer(from: &Host, to: &Host, length: usize) {
    let (listener, address) = listen(to, true);
    send(dial(from, address), listener.accept().unwrap().0, length);
}

fn send(mut from: TcpStream, mut to: TcpStream, length: usize) {
    let pattern: Vec<u8> = (0..length.min(MEGABYTE) as u64 / 8)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let rounds = length / pattern.len();
    let begin = Instant::now();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                from.write_all(&(round as u64).to_le_bytes()).unwrap();
                from.write_all(&pattern).unwrap();
            }
            drop(from);
        });
        let mut buffer = vec![0; pattern.len()];
        let mut received = 0;
        for round in 0..rounds {
            let mut number = [0; 8];
            to.read_exact(&mut number).unwrap();
            assert_eq!(u64::from_le_bytes(number), round as u64);
            to.read_exact(&mut buffer).unwrap();
            assert!(buffer == pattern, "round {round} was altered");
            received += number.len() + buffer.len();
        }
        assert_eq!(to.read(&mut buffer).unwrap(), 0);
        received
    });
    assert!(received >= length);
    let took = begin.elapsed();
    eprintln!("{received} bytes in {took:.2?}: {:.1} MB/s", received as f64 / 1e6 / took.as_secs_f64());
}

fn bytes() {
    let (_lab, near, far) = pair(Duration::ZERO, 0.0);
    transfer(&near, &far, 100 * MEGABYTE);
}

fn losses() {
    let (_lab, near, far) = pair(Duration::from_millis(2), 0.01);
    transfer(&near, &far, 10 * MEGABYTE);
}

fn families() {
    let (lab, near, far) = pair(Duration::ZERO, 0.0);
    for v4 in [true, false] {
        let (listener, address) = listen(&far, v4);
        let stream = dial(&near, address);
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert_eq!(Some(from.ip()), near.address(v4));
        // A closed port is refused by the host itself.
        drop(listener);
        assert_eq!(refused(&near, SocketAddr::new(address.ip(), 9)), ErrorKind::ConnectionRefused);
    }
    for loopback in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
        let listener = near.run(|| TcpListener::bind((loopback, 0))).unwrap().unwrap();
        dial(&near, listener.local_addr().unwrap());
    }
    // Nobody has it, and the core says so.
    assert_eq!(refused(&near, ([198, 51, 100, 99], 80).into()), ErrorKind::NetworkUnreachable);
    let routes = near.command("cat").arg("/proc/net/route").output().unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    // 198.51.100.254 as the kernel writes it.
    assert!(routes.contains("eth0\t00000000\tFE6433C6\t"), "{routes}");
    assert_eq!(lab.hosts().len(), 2);
}

fn cable() {
    let (lab, near, far) = pair(Duration::from_millis(1), 0.0);
    let (_listener, address) = listen(&far, true);
    dial(&near, address);
    for node in [0, 1] {
        let node = Node::Host(natlab::HostId(node));
        lab.change(|internet| internet.set_cut(node, true));
        assert_eq!(refused(&near, address), ErrorKind::TimedOut);
        lab.change(|internet| internet.set_cut(node, false));
        dial(&near, address);
    }
    let slow = Duration::from_millis(100);
    lab.change(|internet| internet.set_conditions(Node::Host(natlab::HostId(0)), Conditions::delay(slow)));
    let begin = Instant::now();
    dial(&near, address);
    assert!(begin.elapsed() >= 2 * slow);
}

/// The packets of a file, each with its time in nanoseconds.
fn read_pcap(file: &[u8]) -> Vec<(u64, natlab::packet::Packet)> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 101));
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let time = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
        let length = word(at + 8) as usize;
        assert_eq!(word(at + 8), word(at + 12));
        let bytes = &file[at + 16..at + 16 + length];
        packets.push((time, natlab::packet::Packet::parse(bytes).unwrap()));
        at += 16 + length;
    }
    packets
}

fn capture() {
    let (lab, near, far) = pair(Duration::from_millis(40), 0.0);
    let directory = std::env::temp_dir().join(format!("natlab-capture-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let file = directory.join("near.pcap");
    lab.capture(natlab::HostId(0), &file).unwrap();
    assert!(lab.capture(natlab::HostId(0), directory.join("no/such/directory")).is_err());
    let (listener, address) = listen(&far, true);
    let mut stream = dial(&near, address);
    let (mut accepted, from) = listener.accept().unwrap();
    stream.write_all(b"captured").unwrap();
    accepted.read_exact(&mut [0; 8]).unwrap();
    // What has arrived there was written here before.
    let packets = read_pcap(&fs::read(&file).unwrap());
    fs::remove_dir_all(&directory).unwrap();
    let syn = packets
        .iter()
        .position(|(_, packet)| packet.segment().is_some_and(|segment| segment.opens()))
        .expect("a SYN");
    let (sent, packet) = &packets[syn];
    assert_eq!(packet.source, from.ip());
    assert_eq!(packet.segment().unwrap().destination_port, address.port());
    let (answered, answer) = &packets[syn + 1];
    assert_eq!(answer.segment().unwrap().acknowledgement, packet.segment().unwrap().sequence.wrapping_add(1));
    assert!((40_000_000..1_000_000_000).contains(&(answered - sent)));
    assert!(packets.iter().any(|(_, packet)| packet.segment().is_some_and(|it| it.payload == b"captured")));
}

fn syns() {
    let (lab, near, far) = pair(Duration::ZERO, 0.0);
    let (_listener, address) = listen(&far, true);
    lab.change(|internet| internet.set_cut(Node::Host(natlab::HostId(1)), true));
    let patience = Duration::from_millis(1500);
    near.run(|| TcpStream::connect_timeout(&address, patience)).unwrap().unwrap_err();
    lab.change(|internet| internet.set_cut(Node::Host(natlab::HostId(1)), false));
    dial(&near, address);
    let syns = lab.syns(natlab::HostId(0));
    assert_eq!(syns.len(), 2);
    assert!(syns.iter().all(|syn| syn.remote == address && Some(syn.local.ip()) == near.address(true)));
    // The kernel repeats a SYN after one second.
    assert_eq!((syns[0].transmissions, syns[1].transmissions), (2, 1));
    assert_eq!(lab.syns(natlab::HostId(1)), []);
}

/// The TUN devices that this process holds, whatever namespace they are in.
fn devices() -> usize {
    let open = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(open);
    files.filter(|file| file.ends_with("net/tun")).count()
}

fn cleanup() {
    // Other tests run in this process too: only what this one made counts.
    let mut names = Vec::new();
    let mut children = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (_lab, near, far) = pair(Duration::ZERO, 0.0);
        for host in [&near, &far] {
            names.push(host.namespace().to_owned());
            let mut shell = host.command("sh");
            shell.args(["-c", "sleep 1000 & wait"]);
            children.push(shell.spawn().unwrap());
        }
        for child in &children {
            let comm = format!("/proc/{}/comm", child.id());
            let begin = Instant::now();
            while fs::read_to_string(&comm).unwrap().trim() == "ip" {
                assert!(begin.elapsed() < PATIENCE);
                thread::sleep(Duration::from_millis(2));
            }
        }
        let there = natlab::leftovers();
        assert!(names.iter().all(|name| there.contains(name)));
        std::panic::resume_unwind(Box::new("a test that fails"));
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"a test that fails"));
    for mut child in children {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    let left = natlab::leftovers();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| !left.contains(name)));
}

fn panics() {
    let (_lab, near, far) = pair(Duration::ZERO, 0.0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _ = near.run(|| std::panic::resume_unwind(Box::new("inside")));
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"inside"));
    let thread = near.spawn(|| std::panic::resume_unwind(Box::new("in a thread"))).unwrap();
    let outcome: thread::Result<()> = thread.join();
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"in a thread"));
    // The lab goes on.
    transfer(&near, &far, MEGABYTE);
}

fn quickly() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut internet = Internet::new(1);
        for _ in 0..4 {
            internet.host(Place::Core, Conditions::PERFECT);
        }
        let begin = Instant::now();
        let lab = Lab::start(internet).unwrap();
        let made = begin.elapsed();
        drop(lab);
        took.push((made, begin.elapsed() - made));
    }
    eprintln!("four hosts: made and removed in {took:.1?}");
    let _ = devices();
}
