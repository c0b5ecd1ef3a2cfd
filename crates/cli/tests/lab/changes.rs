//! The own network changes while people talk: another address, another NAT, no cable for a while, a router that restarts,
//! a computer that sleeps. Everything stands again by itself; how long that took is printed.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Gateway, Host, KernelNat};
use nix::sys::signal::Signal;

use crate::process::{PATIENCE, Process};
use crate::scene::{Pipe, Scene};
use crate::{number_from_environment, trial};

/// Seconds without a cable, and asleep. Longer ones, by which connections are dead for certain, by hand.
const OUTAGE: u64 = 10;
const ASLEEP: u64 = 5;
/// A lost connection is noticed within this.
const NOTICED: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("changes::another_address", || {
            chat_heals("another address", |home, host, _| {
                home.renumber(host).unwrap();
                Instant::now()
            });
        }),
        trial("changes::another_network", || {
            chat_heals("another NAT and LAN", |_, host, other| {
                other.take_in(host).unwrap();
                Instant::now()
            });
        }),
        trial("changes::a_router_that_restarts", || {
            chat_heals("a restarted NAT with another public address", |home, _, _| {
                home.restart().unwrap();
                Instant::now()
            });
        }),
        trial("changes::no_cable_for_a_while", outage),
        trial("changes::a_computer_that_sleeps", asleep),
        trial("changes::a_change_is_told_in_five_lines", told_soberly),
        trial("changes::a_code_serves_on", code_serves_on),
        trial("changes::a_pipe_ends_and_says_so", pipe_ends),
    ]
}

struct Talk {
    scene: Scene,
    home: Gateway,
    other: Gateway,
    host: Host,
    chats: [Process; 2],
    _broker: Process,
}

/// Two in the lobby, each behind a NAT of its own, and a third NAT to move to.
fn two_who_talk() -> Talk {
    let scene = Scene::new();
    let (broker_host, broker) = scene.broker();
    let gateway = |name: &str| {
        let delay = Duration::from_millis(5);
        scene.lab.gateway(name, KernelNat::masquerade()).delay(delay).start().unwrap()
    };
    let (home, other, far) = (gateway("home"), gateway("other"), gateway("far"));
    let (host, peer) = (home.host("ann").unwrap(), far.host("ben").unwrap());
    let address = broker_host.ipv4().to_string();
    let mut chats =
        [&host, &peer].map(|node| scene.start(node, "chat", &["--broker", &address, "--name", node.name()]));
    for chat in &mut chats {
        chat.event("path");
    }
    let mut talk = Talk { scene, home, other, host, chats, _broker: broker };
    talk.hear_each_other();
    talk
}

impl Talk {
    fn hear_each_other(&mut self) {
        static LINE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        for (from, to) in [(0, 1), (1, 0)] {
            let line = format!("line {}", LINE.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            self.chats[from].say(&line);
            let heard = self.chats[to].event("message");
            self.scene.journal.assert(heard.text("text") == line, "another message came");
        }
    }

    /// Both have a connection that was made after that moment; which takes how long.
    fn connected_again(&mut self, since: Instant) -> Duration {
        let paths = self.chats.each_mut().map(|chat| {
            let path = chat.event("path");
            self.scene.journal.assert(path.at > since, "the path is an old one");
            self.scene.journal.assert(path.text("path") == "punched", "a path is not punched");
            path.at
        });
        paths.into_iter().max().unwrap() - since
    }
}

fn chat_heals(what: &str, change: impl Fn(&Gateway, &Host, &Gateway) -> Instant) {
    let mut talk = two_who_talk();
    let since = change(&talk.home, &talk.host, &talk.other);
    let took = talk.connected_again(since);
    println!("{what}: both have a direct connection again {} ms after the change", took.as_millis());
    talk.hear_each_other();
}

/// The same address before and after: what was said meanwhile arrives, over the old connection or a new one.
fn outage() {
    let seconds = number_from_environment("TCPUNCH_LAB_OUTAGE").unwrap_or(OUTAGE);
    let mut talk = two_who_talk();
    talk.host.link_down().unwrap();
    thread::sleep(Duration::from_secs(seconds));
    talk.host.link_up().unwrap();
    let since = Instant::now();
    // Nobody can be connected before, and whether the old connection or a new one carries it is not the user's concern.
    // Said again, because what is said while nobody is there is said to nobody.
    let heard = loop {
        let [ann, ben] = &mut talk.chats;
        ann.say("back again");
        if let Some(heard) = ben.event_within("message", Duration::from_millis(200)) {
            break heard;
        }
        talk.scene.journal.assert(since.elapsed() < PATIENCE, "nothing was heard again");
    };
    println!(
        "{seconds} s without a cable: a line is heard {} ms after its return",
        (heard.at - since).as_millis()
    );
}

fn asleep() {
    let seconds = number_from_environment("TCPUNCH_LAB_ASLEEP").unwrap_or(ASLEEP);
    let mut talk = two_who_talk();
    talk.chats[0].signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(seconds));
    let [ann, ben] = &mut talk.chats;
    ben.say("are you awake?");
    ann.signal(Signal::SIGCONT);
    let since = Instant::now();
    let heard = loop {
        ann.say("awake again");
        if let Some(heard) = ben.event_within("message", Duration::from_millis(200)) {
            break heard;
        }
        talk.scene.journal.assert(since.elapsed() < PATIENCE, "nothing was heard again");
    };
    println!("{seconds} s asleep: a line is heard {} ms after waking", (heard.at - since).as_millis());
}

/// What a person reads of it.
fn told_soberly() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let gateway = |name: &str| scene.lab.gateway(name, KernelNat::masquerade()).start().unwrap();
    let (home, far) = (gateway("home"), gateway("far"));
    let (host, peer) = (home.host("ann").unwrap(), far.host("ben").unwrap());
    let broker = broker_host.ipv4().to_string();
    let _ben = scene.start(&peer, "chat", &["--broker", &broker, "--name", "ben"]);
    // Killed with the lab, if not before.
    let mut ann = host
        .command(env!("CARGO_BIN_EXE_tcpunch"))
        .args(["chat", "--ephemeral", "--broker", &broker])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ann.stderr.take().unwrap()).lines().map(Result::unwrap);
    let journal = scene.journal.clone();
    let mut until = |part: &str| -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let Some(line) = lines.next() else { journal.fail(&format!("ann ended before '{part}'")) };
            journal.note("ann", &line);
            said.push(line);
            if said.last().is_some_and(|line| line.contains(part)) {
                return said;
            }
        }
    };
    until("* compare with ben, by voice: ");
    let old = host.ipv4();
    home.renumber(&host).unwrap();
    let said = until("* ben is here again (punched, ");
    let gone = format!("* ben is away: the network has changed: the address {old} of this computer is gone");
    for part in
        [&gone, "the link to the broker is lost", "the link to the broker stands again", "path  punched"]
    {
        scene
            .journal
            .assert(said.iter().any(|line| line.contains(part)), &format!("it does not say '{part}'"));
    }
    scene.journal.assert(said.len() == 5, "it says more, or less");
    ann.kill().unwrap();
    ann.wait().unwrap();
}

/// Whoever waits with a code is found under it after it moved.
fn code_serves_on() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let gateway = |name: &str| scene.lab.gateway(name, KernelNat::masquerade()).start().unwrap();
    let (home, other, far) = (gateway("home"), gateway("other"), gateway("far"));
    let (host, peer) = (home.host("ann").unwrap(), far.host("ben").unwrap());
    let mut listen = scene.start(&host, "listen", &["--broker", &broker_host.ipv4().to_string()]);
    let code = listen.event("code").text("code").to_owned();
    for change in ["another address", "another network"] {
        match change {
            "another address" => drop(home.renumber(&host).unwrap()),
            _ => other.take_in(&host).unwrap(),
        }
        let since = Instant::now();
        let again = listen.event("registered");
        println!("{change}: registered again {} ms after the change", (again.at - since).as_millis());
        let local: SocketAddr = again.text("local").parse().unwrap();
        scene.journal.assert(local.ip() == IpAddr::from(host.ipv4()), "registered from another address");
    }
    // The code is asked for in the message after the registration; who is too early is told that nobody waits.
    let deadline = Instant::now() + PATIENCE;
    let connect = loop {
        let mut connect = scene.start(&peer, "connect", &[&code]);
        if connect.event_or_error("path") {
            break connect;
        }
        scene.journal.assert(Instant::now() < deadline, "the code never served again");
    };
    listen.event("path");
    Pipe::standing(listen, connect).talk_and_end();
}

/// A TCP connection is tied to its addresses.
fn pipe_ends() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let gateway = |name: &str| scene.lab.gateway(name, KernelNat::masquerade()).start().unwrap();
    let (home, far) = (gateway("home"), gateway("far"));
    let (host, peer) = (home.host("ann").unwrap(), far.host("ben").unwrap());
    let mut pipe = scene.pipe(&broker_host, &host, &peer);
    pipe.talk();
    let old = host.ipv4().to_string();
    home.renumber(&host).unwrap();
    let since = Instant::now();
    let error = pipe.listen.error();
    println!("a changed address is told after {} ms", (error.at - since).as_millis());
    scene.journal.assert(error.text("kind") == "lost", "the error is of another kind");
    let message = error.text("message");
    scene.journal.assert(message.contains(&old) && message.contains("has changed"), "the reason is not told");
    for process in [&mut pipe.listen, &mut pipe.connect] {
        let code = process.ends_within(NOTICED.saturating_sub(since.elapsed()));
        scene.journal.assert(code == 8, &format!("an exit code {code} instead of 8"));
    }
}
