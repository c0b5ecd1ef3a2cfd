//! What is broken on one computer, where that takes mounts or a network of its own to show.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Host, Node};

use crate::scene::Scene;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("local::a_full_disk", || {
            unwritable("dd if=/dev/zero of=$D/all bs=1k 2>/dev/null", "free some space")
        }),
        trial("local::a_read_only_disk", || unwritable("mount -o remount,ro $D", "name a directory")),
        trial("local::a_key_that_cannot_be_kept", key_not_kept),
        trial("local::a_key_that_is_kept_by_the_process_alone", unkept_key_changes),
        trial("local::a_file_of_another_user", foreign_file),
        trial("local::no_ipv6", no_ipv6),
        trial("local::no_network", no_network),
        trial("local::a_silent_name_server", silent_name_server),
        trial("local::a_remembered_broker_with_another_key", changed_key),
        trial("local::a_public_broker_is_told_to_its_own_network_too", public_broker),
    ]
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tcpunch");

/// A shell line inside, with the program as `$0`; `ip netns exec` gives it mounts of its own.
fn shell(node: &Node, line: &str, arguments: &[&str]) -> Command {
    let mut command = node.command("sh");
    command.args(["-c", line, PROGRAM]).args(arguments);
    command.env_remove("TCPUNCH_CODE").env_remove("TCPUNCH_BROKER").stdin(Stdio::null());
    command
}

/// What it said and how it ended.
fn run(scene: &Scene, node: &Node, line: &str, arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = shell(node, line, arguments).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    scene.journal.note(node.name(), &format!("{line} {arguments:?}: {status}: {said}"));
    (status.code().unwrap_or(-1), said)
}

fn expect(scene: &Scene, (code, said): &(i32, String), wanted: i32, parts: &[&str]) {
    scene.journal.assert(*code == wanted, &format!("an exit code {code} instead of {wanted}"));
    for part in parts {
        scene.journal.assert(said.contains(part), &format!("it does not say '{part}'"));
    }
}

fn scene_with_peer() -> (Scene, Host, crate::process::Process, Host) {
    let scene = Scene::new();
    let (broker_host, broker) = scene.broker();
    let host = scene.lab.public_host("ann").start().unwrap();
    (scene, broker_host, broker, host)
}

/// A peer goes on and says so; a broker, which would be another one without its key, ends.
fn unwritable(spoil: &str, remedy: &str) {
    let (scene, broker_host, _broker, host) = scene_with_peer();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let prepare = format!("D=$1; mount -t tmpfs -o size=16k tmpfs $D && {{ {spoil} || true; }}");
    let line = format!("{prepare}; exec \"$0\" listen --wait 0.5 --state $D --broker \"$2\"");
    let ended = run(&scene, &host, &line, &[state, &broker_host.ipv4().to_string()]);
    expect(&scene, &ended, 4, &["is kept on disk", state, remedy, "code  "]);
    let line = format!("{prepare}; exec \"$0\" broker --state $D");
    let ended = run(&scene, &host, &line, &[state]);
    expect(&scene, &ended, 9, &[state, remedy, "--state DIR"]);
}

/// The disk fills up between the first start and a new broker.
fn key_not_kept() {
    let (scene, broker_host, _broker, host) = scene_with_peer();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let line = "mount -t tmpfs -o size=32k tmpfs $1; \"$0\" listen --wait 0.3 --state $1 --broker 127.0.0.1 --timeout 0.3;
        dd if=/dev/zero of=$1/all bs=1k 2>/dev/null; exec \"$0\" listen --wait 0.5 --state $1 --broker \"$2\"";
    let ended = run(&scene, &host, line, &[state, &broker_host.ipv4().to_string()]);
    expect(&scene, &ended, 4, &["key is not kept", "known_brokers", "free some space", "code  "]);
}

/// A key that can't be kept is known as long as the process lives.
fn unkept_key_changes() {
    let scene = Scene::new();
    let (broker_host, mut broker) = scene.broker();
    let host = scene.lab.public_host("ann").delay(Duration::from_millis(20)).start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    // The first makes what else is kept, without a key.
    let line = "mount -t tmpfs -o size=32k tmpfs $1; \"$0\" listen --wait 0.3 --state $1 --broker 127.0.0.1 --timeout 0.3;
        dd if=/dev/zero of=$1/all bs=1k 2>/dev/null; exec \"$0\" listen --json --state $1 --broker \"$2\"";
    let command = shell(&host, line, &[state, &broker_host.ipv4().to_string()]);
    let mut waiting = crate::process::Process::run(&scene.journal, "ann listen", "listen", command);
    waiting.event("code");
    broker.kill();
    let _other = scene.broker_on(&broker_host, &["--ephemeral"]);
    let error = waiting.error();
    scene.journal.assert(error.text("kind") == "broker-key", "the error of who waits is of another kind");
    let message = error.text("message");
    scene.journal.assert(message.contains("start this program again"), "it does not say what helps");
    scene.journal.assert(waiting.ends_within(crate::process::PATIENCE) == 3, "another exit code than 3");
}

/// A secret that belongs to somebody else and that others can read is no secret.
fn foreign_file() {
    let (scene, broker_host, _broker, host) = scene_with_peer();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let broker = broker_host.ipv4().to_string();
    let line = "\"$0\" listen --wait 0.3 --state $1 --broker \"$2\"; chown 12345 $1/identity.key; chmod 644 $1/identity.key;
        exec \"$0\" listen --wait 0.3 --state $1 --broker \"$2\"";
    let ended = run(&scene, &host, line, &[state, &broker]);
    expect(&scene, &ended, 4, &["no identity is kept", "identity.key belongs to another user", "mode 0600"]);
}

/// A kernel without IPv6 is no hindrance, and `-6` says what is missing.
fn no_ipv6() {
    let scene = Scene::new();
    let hosts = ["broker", "ann", "ben"].map(|name| {
        let host = scene.lab.public_host(name).without_ipv6().start().unwrap();
        host.run(|| {
            for which in ["all", "default", "lo"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
            }
        })
        .unwrap();
        host
    });
    let [broker_host, ann, ben] = &hosts;
    let _broker = scene.broker_on(broker_host, &["--ephemeral"]);
    let mut pipe = scene.pipe(broker_host, ann, ben);
    pipe.talk_and_end();
    for broker in [broker_host.ipv4().to_string(), "[2001:db8::77]".to_owned()] {
        let line = "exec \"$0\" listen -6 --ephemeral --broker \"$1\" --timeout 3";
        let ended = run(&scene, ann, line, &[&broker]);
        expect(&scene, &ended, 3, &["this computer has no IPv6 network", "leave out"]);
    }
}

fn public_broker() {
    let scene = Scene::new();
    let host = scene.lab.public_host("broker").start().unwrap();
    let line =
        "exec timeout --preserve-status 2 \"$0\" broker --ephemeral --public 192.0.2.1 --public 192.0.2.2";
    let ended = run(&scene, &host, line, &[]);
    let nearby = format!("in this network    tcpunch chat --broker '{}#", host.ipv4());
    let anywhere = |ip| format!("from anywhere      tcpunch chat --broker '{ip}#");
    expect(&scene, &ended, 0, &[&nearby, &anywhere("192.0.2.1"), &anywhere("192.0.2.2")]);
}

/// Only loopback is left.
fn no_network() {
    let scene = Scene::new();
    let host = scene.lab.public_host("ann").start().unwrap();
    let status = host.command("ip").args(["link", "del", "eth0"]).status().unwrap();
    assert!(status.success());
    let began = Instant::now();
    let line = "exec \"$0\" listen --ephemeral --broker 198.51.100.77,broker.example --timeout 3";
    let ended = run(&scene, &host, line, &[]);
    expect(&scene, &ended, 3, &["this computer has no network", "198.51.100.77", "connect it to a network"]);
    scene.journal.assert(began.elapsed() < Duration::from_secs(8), "it took longer than it may");
    // For this computer alone everything is there.
    let _broker = scene.broker_on(&host, &["--ephemeral"]);
    let mut listen = scene.start(&host, "listen", &[]);
    let code = listen.event("code").text("code").to_owned();
    let connect = scene.start(&host, "connect", &[&code]);
    crate::scene::Pipe::meet(listen, connect).talk_and_end();
}

/// A name server that never answers costs no more than `--timeout`, and no other broker anything.
fn silent_name_server() {
    let (scene, broker_host, _broker, host) = scene_with_peer();
    let directory = tempfile::tempdir().unwrap();
    let resolver = directory.path().join("resolv.conf");
    // The core drops what goes to private addresses.
    std::fs::write(&resolver, "nameserver 10.99.99.99\n").unwrap();
    let resolver = resolver.to_str().unwrap();
    let prepare = "mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\" || exit 77";
    let began = Instant::now();
    let line = format!("{prepare}; exec \"$0\" listen --ephemeral --broker broker.example --timeout 2");
    let ended = run(&scene, &host, &line, &[resolver]);
    expect(&scene, &ended, 3, &["broker.example:7766: the name server does not answer"]);
    let took = began.elapsed();
    scene.journal.assert(took < Duration::from_secs(6), &format!("it took {took:?}"));
    let line = format!(
        "{prepare}; exec \"$0\" listen --ephemeral --wait 0.3 --broker \"broker.example,$2\" --timeout 9"
    );
    let began = Instant::now();
    let ended = run(&scene, &host, &line, &[resolver, &broker_host.ipv4().to_string()]);
    expect(&scene, &ended, 4, &["code  "]);
    let took = began.elapsed();
    scene
        .journal
        .assert(took < Duration::from_secs(4), &format!("the silent one held up the other for {took:?}"));
}

/// What was kept on first use is compared ever after; also by who runs while the broker is exchanged.
fn changed_key() {
    let scene = Scene::new();
    let (broker_host, mut broker) = scene.broker();
    // The next try for a link comes before the other end has closed the last.
    let host = scene.lab.public_host("ann").delay(Duration::from_millis(20)).start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let address = broker_host.ipv4().to_string();
    let known = directory.path().join("known_brokers");
    let mut waiting = crate::process::Process::start(
        &scene.journal,
        &host,
        "ann listen",
        "listen",
        ["--state", state, "--broker", &address],
    );
    waiting.event("code");
    let kept = std::fs::read_to_string(&known).unwrap();
    broker.kill();
    let _other = scene.broker_on(&broker_host, &["--ephemeral"]);
    let error = waiting.error();
    scene.journal.assert(error.text("kind") == "broker-key", "the error of who waits is of another kind");
    scene.journal.assert(waiting.ends_within(crate::process::PATIENCE) == 3, "another exit code than 3");
    let line = "exec \"$0\" listen --state $1 --broker \"$2\"";
    let ended = run(&scene, &host, line, &[state, &address]);
    expect(&scene, &ended, 3, &["has changed", &address, known.to_str().unwrap()]);
    scene.journal.assert(std::fs::read_to_string(&known).unwrap() == kept, "the kept key was overwritten");
}
