//! What is broken on this computer: its disk, its descriptors, its output, its names, its brokers. The program says what
//! happened, whose fault it is, and what helps.
//!
//! What needs a network namespace or mounts is in the lab's tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test that meets what it does not expect is to fail; the processes serve other tests as well"
)]

#[path = "cli/process.rs"]
mod process;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use process::{PROGRAM, Process, broker, home};

fn state(home: &Path) -> PathBuf {
    home.join(".local/state/tcpunch")
}

/// A listener that has been there before, so that its files are; they are as good as any.
fn with_state() -> (process::Broker, tempfile::TempDir) {
    let (broker, home) = (broker(), home());
    let first = ["listen", "--wait", "0.2", "--broker", &broker.at];
    Process::start(home.path(), &first).ends().with(4);
    assert!(state(home.path()).join("identity.key").exists());
    (broker, home)
}

fn code(listener: &Process) -> String {
    listener.says("code  ").split_whitespace().last().unwrap().to_owned()
}

/// A shell line with the program as `$0`.
fn shell(home: &Path, line: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", line, PROGRAM]).args(arguments);
    Process::spawn(home, command)
}

// --- state ---

#[test]
fn a_damaged_identity_is_named_and_never_replaced() {
    let (broker, home) = with_state();
    let file = state(home.path()).join("identity.key");
    let whole = std::fs::read_to_string(&file).unwrap();
    for damaged in ["", &whole[..whole.len() / 2], "something else\n"] {
        std::fs::write(&file, damaged).unwrap();
        let arguments = ["listen", "--wait", "0.2", "--broker", &broker.at];
        let ended = Process::start(home.path(), &arguments).ends().with(4);
        let said = format!("no identity is kept on disk: {} is damaged", file.display());
        assert!(
            ended.err.contains(&said) && ended.err.contains("move it away to start anew"),
            "{}",
            ended.err
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
    }
    std::fs::remove_file(&file).unwrap();
    let arguments = ["listen", "--wait", "0.2", "--broker", &broker.at];
    let ended = Process::start(home.path(), &arguments).ends().with(4);
    assert!(!ended.err.contains("disk"), "{}", ended.err);
    assert!(file.exists(), "started anew");
}

#[test]
fn a_damaged_list_of_brokers_is_no_reason_to_trust_any() {
    let (broker, home) = with_state();
    let file = state(home.path()).join("known_brokers");
    let damaged = format!("tcpunch-known-brokers 1\nbroker a:1 {}", &broker.key[..20]);
    std::fs::write(&file, &damaged).unwrap();
    let listen = ["listen", "--wait", "0.2", "--broker", &broker.at];
    let ended = Process::start(home.path(), &listen).ends().with(9);
    assert!(ended.err.contains(file.to_str().unwrap()) && ended.err.contains("is damaged"), "{}", ended.err);
    assert!(ended.err.contains("restore it") && ended.err.contains("--ephemeral"), "{}", ended.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
    Process::start(home.path(), &[&listen[..], &["--ephemeral"]].concat()).ends().with(4);
}

#[test]
fn a_damaged_key_of_a_broker_ends_it_and_is_never_replaced() {
    let home = home();
    std::fs::create_dir_all(state(home.path())).unwrap();
    let file = state(home.path()).join("broker.key");
    std::fs::write(&file, "tcpunch-broker-key 1\nsecret 07").unwrap();
    let ended = Process::start(home.path(), &["broker", "--listen", "127.0.0.1:0"]).ends().with(9);
    assert!(ended.err.contains(file.to_str().unwrap()) && ended.err.contains("is damaged"), "{}", ended.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "tcpunch-broker-key 1\nsecret 07");
}

#[test]
fn an_identity_that_others_could_read_is_taken_back_and_told() {
    let (broker, home) = with_state();
    let file = state(home.path()).join("identity.key");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = ["listen", "--wait", "0.2", "--broker", &broker.at];
    let ended = Process::start(home.path(), &arguments).ends().with(4);
    let said = format!("{}: others could read this file; now only you can", file.display());
    assert!(ended.err.contains(&said), "{}", ended.err);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ended = Process::start(home.path(), &arguments).ends().with(4);
    assert!(!ended.err.contains("others could read"), "{}", ended.err);
    // A program is told too; so is a broker's operator.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = Process::start(home.path(), &[&arguments[..], &["--json"]].concat()).ends().with(4);
    let notice = &process::events(&ended.err)[0];
    assert_eq!((process::text(notice, "event"), process::text(notice, "kind")), ("notice", "repaired"));
    assert_eq!(process::text(notice, "message"), said);
    let file = state(broker.home.path()).join("broker.key");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut again = Process::start(broker.home.path(), &["broker", "--json", "--listen", "127.0.0.1:0"]);
    assert!(process::text(&again.event("notice"), "message").contains("others could read this file"));
}

// --- output ---

#[test]
fn a_full_disk_behind_stdout_is_local_and_told() {
    let (broker, home) = (broker(), home());
    let mut listener = Process::start(home.path(), &["listen", "--broker", &broker.at]);
    let code = code(&listener);
    let line = "exec \"$0\" connect \"$1\" --broker \"$2\" > /dev/full";
    let connector = shell(home.path(), line, &[&code, &broker.at]);
    connector.says("path  lan");
    listener.type_line("more than fits");
    let ended = connector.ends().with(9);
    assert!(ended.err.contains("the output can't be written: No space left on device"), "{}", ended.err);
    listener.ends().with(8);

    let chat = Process::start(home.path(), &["chat", "--json", "--broker", &broker.at]);
    let ended =
        shell(home.path(), "exec \"$0\" chat --json --broker \"$1\" > /dev/full", &[&broker.at]).ends();
    let ended = ended.with(9);
    assert!(ended.err.contains("the output can't be written: No space left on device"), "{}", ended.err);
    drop(chat);
}

#[test]
fn a_reader_that_has_had_enough_ends_a_pipe() {
    let (broker, home) = (broker(), home());
    let line = "{ \"$0\" listen --broker \"$1\"; echo \"exit $?\" >&2; } | head -1";
    let listener = shell(home.path(), line, &[&broker.at]);
    let code = code(&listener);
    let mut connector = Process::start(home.path(), &["connect", &code, "--broker", &broker.at]);
    connector.says("path  lan");
    connector.type_line("one");
    assert_eq!(listener.prints("one"), "one");
    // The reader ends some time after its line; each line finds out whether it has.
    let until = Instant::now() + process::SOON;
    while !listener.err().contains("exit ") && Instant::now() < until {
        let mut typed = connector.take_stdin();
        let _ = std::io::Write::write_all(&mut typed, b"more\n");
        connector.give_stdin(typed);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(listener.says("exit "), "exit 9");
    connector.ends().with(8);
}

// --- ports ---

#[test]
fn who_holds_a_taken_port_can_be_found_out() {
    let (broker, home) = (broker(), home());
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let hint = format!("ss -ltnp 'sport = :{port}'");
    let chat = ["chat", "--bind", &port, "--broker", &broker.at];
    let ended = Process::start(home.path(), &chat).ends().with(9);
    assert!(ended.err.contains(&hint) && ended.err.contains("taken by another program"), "{}", ended.err);
    let at = format!("127.0.0.1:{port}");
    let ended = Process::start(home.path(), &["broker", "--listen", &at]).ends().with(9);
    assert!(ended.err.contains(&hint) && ended.err.contains("another program listens"), "{}", ended.err);
}

// --- descriptors ---

#[test]
fn few_descriptors_are_enough() {
    let home = home();
    let mut broker = shell(home.path(), "ulimit -n 256; exec \"$0\" broker --json --listen 127.0.0.1:0", &[]);
    let at = broker.event("broker")["addresses"][0].as_str().unwrap().to_owned();
    let few = "ulimit -n 256; exec \"$0\" chat --broker \"$1\"";
    let mut chats: Vec<Process> = (0..8).map(|_| shell(home.path(), few, &[&at])).collect();
    for chat in &chats {
        chat.says_times(" is here (", 7);
    }
    chats[0].type_line("everyone?");
    for chat in &chats[1..] {
        chat.prints("everyone?");
    }
}

#[test]
fn next_to_no_descriptors_end_in_words_or_serve() {
    let home = home();
    let broker = shell(home.path(), "ulimit -n 32; exec \"$0\" broker --listen 127.0.0.1:0", &[]);
    let at = broker.says("on this computer").split_whitespace().last().unwrap().to_owned();
    let line = "ulimit -n 32; exec \"$0\" listen --broker \"$1\"";
    let mut listener = shell(home.path(), line, &[&at]);
    let code = code(&listener);
    let line = "ulimit -n 32; exec \"$0\" connect \"$1\" --broker \"$2\"";
    let connector = shell(home.path(), line, &[&code, &at]);
    connector.says("path  lan");
    listener.type_line("through a needle's eye");
    connector.prints("through a needle's eye");
    // Not even enough to begin.
    let ended = shell(home.path(), "ulimit -n 8; exec \"$0\" listen --broker \"$1\"", &[&at]).ends();
    assert!([1, 3, 9].contains(&ended.code), "{}: {}", ended.code, ended.err);
    assert!(ended.err.contains("Too many open files") && !ended.err.contains("panicked"), "{}", ended.err);
}

// --- brokers ---

#[test]
fn of_two_brokers_the_one_that_is_up_serves() {
    let (broker, home) = (broker(), home());
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = bound.local_addr().unwrap();
    drop(bound);
    // One that refuses, one that takes connections and says nothing, one that nobody can resolve.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap();
    for first in [down.to_string(), mute.to_string(), "no-such-name.invalid".to_owned()] {
        let brokers = format!("{first},{}", broker.at);
        let began = Instant::now();
        let listener = Process::start(home.path(), &["listen", "--broker", &brokers]);
        assert!(code(&listener).ends_with(&broker.at), "the code names another broker");
        assert!(began.elapsed() < Duration::from_secs(4), "{first} held it up for {:?}", began.elapsed());
    }
}

#[test]
fn a_suspended_broker_is_told_from_none_and_disturbs_nobody() {
    let (broker, home) = (broker(), home());
    let chat = |name: &str| Process::start(home.path(), &["chat", "--name", name, "--broker", &broker.at]);
    let (mut ann, ben) = (chat("ann"), chat("ben"));
    ann.says(" is here (");
    ben.says(" is here (");
    broker.process.signal(Signal::SIGSTOP);
    ann.type_line("without a broker");
    ben.prints("ann: without a broker");
    let began = Instant::now();
    let arguments = ["chat", "--broker", &broker.at, "--timeout", "2"];
    let ended = Process::start(home.path(), &arguments).ends().with(3);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(ended.err.contains("it takes the connection and says nothing"), "{}", ended.err);
    broker.process.signal(Signal::SIGCONT);
    let cid = chat("cid");
    cid.says_times(" is here (", 2);
}

#[test]
fn a_name_that_does_not_resolve_is_told() {
    let home = home();
    let arguments = ["listen", "--broker", "no-such-name.invalid", "--timeout", "3"];
    let began = Instant::now();
    let ended = Process::start(home.path(), &arguments).ends().with(3);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(ended.err.contains("no-such-name.invalid:7766: "), "{}", ended.err);
}
