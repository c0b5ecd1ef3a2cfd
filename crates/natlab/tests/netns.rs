//! An internet in real time is true: times, bytes and losses are as configured, and whole programs run in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use natlab::link::Conditions;
use natlab::nat::{Behaviour, presets};
use natlab::netns::{Host, Lab};
use natlab::testing::trial;
use natlab::{GatewayId, Internet, Node, Place, Site};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";
/// Long enough for an answer on a busy machine, short enough for a test of silence.
const SILENCE: Duration = Duration::from_millis(400);
/// Long enough for what must come.
const PATIENCE: Duration = Duration::from_secs(8);
const MEGABYTE: usize = 1_000_000;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let tests = vec![
        trial("connecting_takes_the_configured_round_trip", VARIABLE, round_trips),
        trial("a_hundred_megabytes_cross_two_nats", VARIABLE, bytes),
        trial("ten_megabytes_arrive_in_spite_of_losses", VARIABLE, losses),
        trial("ipv6_and_loopback", VARIABLE, families),
        trial("hosts_of_one_lan_meet_in_it", VARIABLE, neighbours),
        trial("nat_behind_nat_translates_twice", VARIABLE, nested),
        trial("a_narrow_link_is_told_to_the_kernel", VARIABLE, narrow),
        trial("a_host_may_lose_its_device", VARIABLE, lost_device),
        trial("a_cut_cable_carries_nothing", VARIABLE, cable),
        trial("a_nat_that_restarts_forgets", VARIABLE, restart),
        trial("a_capture_has_the_syn", VARIABLE, capture),
        trial("syns_are_counted", VARIABLE, syns),
        trial("everything_is_cleaned_up", VARIABLE, cleanup),
        trial("a_panic_inside_goes_on_outside", VARIABLE, panics),
        trial("labs_are_made_quickly", VARIABLE, quickly),
        with("ssh", "ssh_runs_in_it", ssh),
        with("curl", "curl_runs_in_it", curl),
        with("iperf3", "iperf3_runs_in_it", iperf3),
        if has("ping") {
            trial("ping_runs_in_it", VARIABLE, ping)
        } else {
            without("ping", "ping_runs_in_it")
        },
    ];
    let conclusion = libtest_mimic::run(&arguments, tests);
    let (namespaces, devices) = (natlab::leftovers(), devices());
    if !namespaces.is_empty() || devices != 0 {
        eprintln!("left: {devices} TUN devices, namespaces {namespaces:?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// A test that needs this program too, where all tests have to run.
fn with(program: &'static str, name: &str, test: fn()) -> Trial {
    let required = std::env::var(VARIABLE).is_ok_and(|value| value == natlab::testing::REQUIRED);
    if has(program) || required { trial(name, VARIABLE, test) } else { without(program, name) }
}

fn without(program: &'static str, name: &str) -> Trial {
    Trial::ignorable_test(name, move || Ok(Completion::ignored_with(format!("there is no {program}"))))
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

/// Two homes, each with a host: `near` behind the NAT of a carrier's, and `far`, to which a port is forwarded; with the
/// outside address of each.
struct Town {
    lab: Lab,
    near: Host,
    far: Host,
    near_gateway: GatewayId,
    outside: [IpAddr; 2],
}

fn town(port: u16, round_trip: Duration) -> Town {
    let mut internet = Internet::new(1);
    let cable = Conditions::delay(round_trip / 4);
    let homes = [presets::symmetric_random(), presets::linux_masquerade()]
        .map(|nat| internet.gateway(Place::Core, Site::ipv4(nat), cable));
    let hosts = homes.map(|home| internet.host(Place::Behind(home), Conditions::PERFECT));
    internet.forward_port(homes[1], port, hosts[1]);
    let outside = homes.map(|home| internet.outside(home)[0]);
    let lab = Lab::start(internet).unwrap();
    let [near, far] = hosts.map(|host| lab.host(host).clone());
    Town { lab, near, far, near_gateway: homes[0], outside }
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
    let town = town(7000, Duration::ZERO);
    let listener = town.far.run(|| TcpListener::bind("0.0.0.0:7000")).unwrap().unwrap();
    let near = dial(&town.near, (town.outside[1], 7000).into());
    let (far, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), town.outside[0]);
    assert_ne!(from.port(), near.local_addr().unwrap().port());
    send(near, far, 100 * MEGABYTE);
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

fn neighbours() {
    let mut internet = Internet::new(1);
    let slow = Conditions::delay(Duration::from_millis(500));
    let nat = Site::ipv4(presets::linux_masquerade()).and_ipv6(presets::firewall());
    let home = internet.gateway(Place::Core, nat, slow);
    let hosts = [(); 2].map(|()| internet.host(Place::Behind(home), Conditions::PERFECT));
    let outside = internet.outside(home).to_vec();
    let lab = Lab::start(internet).unwrap();
    let [one, other] = hosts.map(|host| lab.host(host));
    for v4 in [true, false] {
        let (listener, address) = listen(other, v4);
        let begin = Instant::now();
        dial(one, address);
        // The cable of the home is not on the way.
        assert!(begin.elapsed() < Duration::from_millis(500));
        assert_eq!(Some(listener.accept().unwrap().1.ip()), one.address(v4));
        assert!(!outside.contains(&address.ip()));
    }
    // Nothing listens on the router.
    assert_eq!(refused(one, ([192, 168, 1, 1], 80).into()), ErrorKind::ConnectionRefused);
}

fn nested() {
    let mut internet = Internet::new(1);
    let server = internet.host(Place::Core, Conditions::PERFECT);
    let site = |nat: Behaviour| Site::ipv4(nat).and_ipv6(presets::router());
    let carrier = site(presets::carrier_block(1024)).lan([100, 64, 0, 0].into(), 16);
    let carrier = internet.gateway(Place::Core, carrier, Conditions::PERFECT);
    let home =
        internet.gateway(Place::Behind(carrier), site(presets::linux_masquerade()), Conditions::PERFECT);
    let host = internet.host(Place::Behind(home), Conditions::PERFECT);
    let (outer, inner) = (internet.outside(carrier).to_vec(), internet.outside(home).to_vec());
    let lab = Lab::start(internet).unwrap();
    let (server, host) = (lab.host(server), lab.host(host));
    assert!(inner.contains(&[100, 64, 0, 2].into()));
    for v4 in [true, false] {
        let (listener, address) = listen(server, v4);
        let stream = dial(host, address);
        let (_, from) = listener.accept().unwrap();
        if v4 {
            assert!(outer.contains(&from.ip()));
        } else {
            assert_eq!(from, stream.local_addr().unwrap());
        }
    }
}

fn narrow() {
    let mut internet = Internet::new(1);
    let narrow = Conditions { mtu: 1280, ..Conditions::PERFECT };
    let home = internet.gateway(Place::Core, Site::ipv4(presets::linux_masquerade()), narrow);
    let near = internet.host(Place::Behind(home), Conditions::PERFECT);
    let far = internet.host(Place::Core, Conditions::PERFECT);
    let lab = Lab::start(internet).unwrap();
    // Both believe in 1,500 bytes until a router tells them.
    for outward in [true, false] {
        let (listener, address) = listen(lab.host(far), true);
        let (inside, outside) = (dial(lab.host(near), address), listener.accept().unwrap().0);
        let (from, to) = if outward { (inside, outside) } else { (outside, inside) };
        send(from, to, MEGABYTE);
    }
}

fn restart() {
    let town = town(7000, Duration::ZERO);
    let listener = town.far.run(|| TcpListener::bind("0.0.0.0:7000")).unwrap().unwrap();
    let mut near = dial(&town.near, (town.outside[1], 7000).into());
    let (mut far, _) = listener.accept().unwrap();
    town.lab.change(|internet| internet.restart(town.near_gateway));
    // What comes from outside belongs to nothing any more.
    far.write_all(b"x").unwrap();
    near.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(near.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn lost_device() {
    let mut internet = Internet::new(1);
    let hosts = [(); 3].map(|()| internet.host(Place::Core, Conditions::PERFECT));
    let lab = Lab::start(internet).unwrap();
    let [lost, near, far] = hosts.map(|host| lab.host(host));
    let mut ip = lost.command("ip");
    ip.args(["link", "del", "eth0"]);
    output(ip);
    // The others are served as before, and the lab's thread waits where it has nothing to do.
    transfer(near, far, MEGABYTE);
    let number = lost.namespace().split('-').nth(2).unwrap();
    let thread =
        fs::read_dir("/proc/self/task").unwrap().flatten().map(|thread| thread.path()).find(|thread| {
            fs::read_to_string(thread.join("comm"))
                .is_ok_and(|name| name.trim() == format!("natlab-{number}"))
        });
    let thread = thread.unwrap().join("schedstat");
    let spent =
        || -> u64 { fs::read_to_string(&thread).unwrap().split(' ').next().unwrap().parse().unwrap() };
    let before = spent();
    thread::sleep(Duration::from_millis(200));
    let spent = Duration::from_nanos(spent() - before);
    assert!(spent < Duration::from_millis(100), "{spent:?}");
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
    let lab = || {
        let mut internet = Internet::new(1);
        for _ in 0..4 {
            internet.host(Place::Core, Conditions::PERFECT);
        }
        let begin = Instant::now();
        let lab = Lab::start(internet).unwrap();
        let made = begin.elapsed();
        let [near, .., far] = lab.hosts() else { panic!("four hosts") };
        transfer(near, far, 1000);
        let begin = Instant::now();
        drop(lab);
        (made, begin.elapsed())
    };
    let mut alone: Vec<(Duration, Duration)> = (0..5).map(|_| lab()).collect();
    alone.sort_unstable();
    eprintln!("four hosts: made in {:.1?}, removed in {:.1?}", alone[2].0, alone[2].1);
    assert!(alone[0].0 < Duration::from_secs(1), "{alone:?}");
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| drop(lab())));
        }
    });
    eprintln!("twenty labs of four hosts, four at a time: {:.1?}", begin.elapsed());
}

/// Runs it to its end; what it wrote.
fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a child says that; keeps the rest of what it says away from the terminal.
fn until_it_says(output: impl Read + Send + 'static, word: &str) {
    let mut lines = BufReader::new(output).lines();
    let mut said = Vec::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if line.contains(word) {
            thread::spawn(move || lines.for_each(drop));
            return;
        }
        said.push(line);
    }
    panic!("it ended without a word of {word}: {said:?}");
}

fn ssh() {
    let town = town(22, Duration::from_millis(4));
    let directory = std::env::temp_dir().join(format!("natlab-ssh-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let here = |name: &str| directory.join(name).display().to_string();
    for key in ["host", "user"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &here(key)]);
        output(keygen);
    }
    // Where it drops its privileges.
    fs::create_dir_all("/run/sshd").unwrap();
    let config = format!(
        "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        here("host"),
        here("user.pub"),
    );
    fs::write(here("config"), config).unwrap();
    let mut server = town.far.command("sh");
    // It insists on an absolute path of its own.
    server.args(["-c", "exec \"$(PATH=$PATH:/usr/sbin command -v sshd)\" -D -e -f \"$0\"", &here("config")]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    until_it_says(server.stderr.take().unwrap(), "listening");
    let mut client = town.near.command("ssh");
    client.args(["-F", "none", "-i", &here("user"), "-l", "root", "-o", "BatchMode=yes"]);
    client.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    client.args(["-o", "LogLevel=ERROR", &town.outside[1].to_string(), "echo $SSH_CONNECTION"]);
    let said = output(client);
    fs::remove_dir_all(&directory).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    // From where the server sees it come, and where it is itself.
    assert_eq!(words[0], town.outside[0].to_string());
    assert_eq!(words[2], town.far.address(true).unwrap().to_string());
}

fn curl() {
    let town = town(80, Duration::from_millis(4));
    let page: Vec<u8> =
        (0..MEGABYTE as u32).map(|number| b'a' + (number.wrapping_mul(2_654_435_761) >> 28) as u8).collect();
    let answer = page.clone();
    let listener = town.far.run(|| TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = BufReader::new(&stream).lines().next().unwrap().unwrap();
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).unwrap();
        stream.write_all(&answer).unwrap();
        request
    });
    let mut client = town.near.command("curl");
    client.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--noproxy", "*"]);
    client.arg(format!("http://{}/page", town.outside[1]));
    assert!(output(client).into_bytes() == page);
    assert_eq!(server.join().unwrap(), "GET /page HTTP/1.1");
}

fn iperf3() {
    let town = town(5201, Duration::from_millis(1));
    let mut server = town.far.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
    until_it_says(server.stdout.take().unwrap(), "listening");
    let mut client = town.near.command("iperf3");
    client.args(["--json", "--time", "1", "--client", &town.outside[1].to_string()]);
    let report: serde_json::Value = serde_json::from_str(&output(client)).unwrap();
    let bits = report.pointer("/end/sum_received/bits_per_second").unwrap().as_f64().unwrap();
    eprintln!("iperf3: {:.0} Mbit/s", bits / 1e6);
    assert!(bits > 1e6);
    assert!(server.wait().unwrap().success());
}

fn ping() {
    let town = town(7000, Duration::from_millis(40));
    let server = town.outside[1].to_string();
    let mut client = town.near.command("ping");
    client.args(["-c", "3", "-i", "0.2", &server]);
    let said = output(client);
    assert!(said.contains("3 received") || said.contains("3 packets received"), "{said}");
}
