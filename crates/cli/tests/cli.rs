//! The program as its users meet it: real processes over loopback, each with a home of its own.
//!
//! What needs a NAT or a second machine is in the lab's tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect is to fail, and says why it is skipped"
)]

#[path = "cli/process.rs"]
mod process;
#[path = "cli/terminal.rs"]
mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use process::{Broker, PROGRAM, Process, broker, broker_with, events, home, text};
use serde_json::Value;

/// The program with nothing to type but the broker.
fn run(broker: &Broker, home: &Path, arguments: &[&str]) -> Process {
    let arguments: Vec<&str> = arguments.iter().chain(&["--broker", &broker.at]).copied().collect();
    Process::start(home, &arguments)
}

/// Ends a test that lacks a program, unless everything is required.
fn lacks(program: &str, why: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    if there.is_ok_and(|found| found.status.success()) {
        return false;
    }
    assert!(std::env::var_os("TCPUNCH_LAB").is_none_or(|lab| lab != "required"), "{program} is required");
    eprintln!("skipped: no {program} on this machine, needed for {why}");
    true
}

/// The code that a listener printed.
fn code(listener: &Process) -> String {
    listener.says("code  ").split_whitespace().last().unwrap().to_owned()
}

/// A listener and a connector on one broker, both past their path line.
fn pipe(broker: &Broker, home: &Path, flags: &[&str]) -> (Process, Process) {
    let listener = run(broker, home, &[&["listen"], flags].concat());
    let code = code(&listener);
    let connector = run(broker, home, &[&["connect", &code], flags].concat());
    listener.says("path  lan");
    connector.says("path  lan");
    (listener, connector)
}

/// The same number with words that are another code's.
fn other_words(code: &str) -> String {
    let (place, host) = code.split_once('@').unwrap();
    let number = place.split('-').next().unwrap();
    let words = if place.ends_with("-zoo") { "abandon-ability" } else { "zebra-zoo" };
    format!("{number}-{words}@{host}")
}

/// Bytes without a pattern that a mistake could keep.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn feed(process: &mut Process, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stdin = process.take_stdin();
    // Dropped at the end: end of input.
    std::thread::spawn(move || stdin.write_all(&bytes).expect("the process reads"))
}

// --- demo ---

#[test]
fn demo_tells_each_step_and_ends_well() {
    let home = home();
    let began = Instant::now();
    let ended = Process::start(home.path(), &["demo"]).ends().with(0);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let told = ended.text();
    for step in ["1. ", "2. Alice", "2. Bob", "3. ", "4. Alice", "4. Bob", "5. Alice", "5. Bob", "6. ", "7. "]
    {
        assert!(told.lines().any(|line| line.starts_with(step)), "no step '{step}' in:\n{told}");
    }
    assert!(!home.path().join(".local").exists(), "the demo keeps nothing");
}

#[test]
fn demo_fails_where_it_can_not_be_shown() {
    let home = home();
    let fails = |mut command: Command, why: &str| {
        command.arg(PROGRAM).arg("demo");
        let ended = Process::spawn(home.path(), command).ends().with(1);
        assert!(ended.err.contains(why), "{}", ended.err);
        assert!(!ended.text().lines().any(|line| line.starts_with("7. ")), "{}", ended.text());
    };
    // Enough descriptors for the broker and too few for all three.
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 17 && exec \"$@\"", "sh"]);
    fails(few, "open files");
    // No network at all, not even loopback, where the system lets anybody have that.
    let mut bare = Command::new("unshare");
    bare.arg("-rn");
    if Command::new("unshare").args(["-rn", "true"]).output().is_ok_and(|made| made.status.success()) {
        fails(bare, "no broker answers");
    } else {
        eprintln!("skipped in part: no network namespaces here");
    }
}

// --- chat ---

#[test]
fn two_chats_hear_each_other() {
    let (broker, home) = (broker(), home());
    let mut one = run(&broker, home.path(), &["chat"]);
    one.says("you are the first here");
    let mut two = run(&broker, home.path(), &["chat"]);
    for chat in [&one, &two] {
        let path = chat.says("path  lan");
        assert!(path.contains("<->") && path.contains("SYN"), "{path}");
        let hello = chat.says(" is here (lan, ");
        assert!(hello.starts_with("* ") && hello.ends_with("not through the broker)"), "{hello}");
    }
    let name = |chat: &Process| chat.says(" is here").split_whitespace().nth(1).unwrap().to_owned();
    let (name_of_two, name_of_one) = (name(&one), name(&two));
    one.type_line("from one");
    assert_eq!(two.prints("from one"), format!("{name_of_one}: from one"));
    two.type_line("from two");
    assert_eq!(one.prints("from two"), format!("{name_of_two}: from two"));
    one.close_stdin();
    two.says(&format!("* {name_of_one} left"));
    two.close_stdin();
    // stdout is what was said and nothing else.
    assert_eq!(one.ends().with(0).text(), format!("{name_of_two}: from two\n"));
    assert_eq!(two.ends().with(0).text(), format!("{name_of_one}: from one\n"));
}

#[test]
fn three_chats_all_hear_each_other() {
    let (broker, home) = (broker(), home());
    let mut chats: Vec<Process> = ["ann", "ben", "cat"]
        .iter()
        .map(|name| run(&broker, home.path(), &["chat", "--name", name]))
        .collect();
    for chat in &chats {
        chat.says_times(" is here", 2);
    }
    for (at, name) in ["ann", "ben", "cat"].iter().enumerate() {
        chats[at].type_line(&format!("I am {name}"));
        for (other, chat) in chats.iter().enumerate().filter(|(other, _)| *other != at) {
            assert_eq!(chat.prints(&format!("I am {name}")), format!("{name}: I am {name}"), "{other}");
        }
    }
    for chat in &mut chats {
        chat.close_stdin();
    }
    for chat in chats {
        assert_eq!(chat.ends().with(0).text().lines().count(), 2);
    }
}

#[test]
fn a_line_from_a_pipe_is_delivered() {
    let (broker, home) = (broker(), home());
    let mut reader = run(&broker, home.path(), &["chat"]);
    reader.says("you are the first here");
    let mut writer = run(&broker, home.path(), &["chat", "--name", "echo"]);
    writer.type_line("hi");
    writer.close_stdin();
    writer.ends().with(0);
    reader.says("* echo left");
    reader.close_stdin();
    assert_eq!(reader.ends().with(0).text(), "echo: hi\n");
}

#[test]
fn a_line_is_kept_for_who_comes_later() {
    let (broker, home) = (broker(), home());
    let mut writer = run(&broker, home.path(), &["chat", "--name", "echo"]);
    writer.type_line("hi");
    writer.close_stdin();
    writer.says("you are the first here");
    let mut reader = run(&broker, home.path(), &["chat"]);
    assert_eq!(reader.prints("hi"), "echo: hi");
    writer.ends().with(0);
    reader.close_stdin();
    reader.ends().with(0);
}

#[test]
fn what_nobody_heard_is_named() {
    let (broker, home) = (broker(), home());
    let mut alone = run(&broker, home.path(), &["chat", "--timeout", "1"]);
    alone.type_line("is anybody there?");
    alone.close_stdin();
    let ended = alone.ends().with(4);
    assert!(ended.err.contains("is anybody there?") && ended.err.contains("not delivered"), "{}", ended.err);
    assert!(ended.out.is_empty());
}

/// Nobody is slow enough to miss a line, and who comes late misses none either.
#[test]
fn a_file_of_any_length_is_heard_whole() {
    let (broker, home) = (broker(), home());
    let numbers: String = (0..30_000).map(|number| format!("{number}\n")).collect();
    let heard: String = numbers.lines().map(|number| format!("echo: {number}\n")).collect();
    for private in [true, false] {
        let new: &[&str] = if private { &["--new"] } else { &[] };
        let mut writer = run(&broker, home.path(), &[&["chat", "--name", "echo"], new].concat());
        let feeder = feed(&mut writer, numbers.clone().into_bytes());
        let mut reader = if private {
            let code = code(&writer);
            run(&broker, home.path(), &["chat", &code])
        } else {
            writer.says("waiting for somebody to come");
            run(&broker, home.path(), &["chat"])
        };
        writer.ends().with(0);
        feeder.join().unwrap();
        reader.close_stdin();
        let ended = reader.ends().with(0);
        assert!(
            ended.text() == heard,
            "{} lines, the last {:?}",
            ended.text().lines().count(),
            ended.text().lines().last()
        );
    }
}

#[test]
fn a_file_that_nobody_heard_is_named_whole() {
    let (broker, home) = (broker(), home());
    let numbers: String = (0..1000).map(|number| format!("  {number}\n")).collect();
    let mut alone = run(&broker, home.path(), &["chat", "--timeout", "1"]);
    feed(&mut alone, numbers.clone().into_bytes()).join().unwrap();
    let ended = alone.ends().with(4);
    let named = ended.err.split("not delivered:\n").nth(1).unwrap_or_default();
    assert_eq!(named.split_whitespace().collect::<Vec<_>>(), numbers.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn text_that_is_no_utf_8_and_lines_without_end_are_said() {
    let (broker, home) = (broker(), home());
    let mut reader = run(&broker, home.path(), &["chat"]);
    reader.says("you are the first here");
    let mut writer = run(&broker, home.path(), &["chat", "--name", "echo"]);
    let long = "\u{e4}".repeat(20_001);
    writer.type_bytes(b"caf\xe9\r\n\xff\xfe\n");
    writer.type_bytes(format!("x{long}\nlast").as_bytes());
    writer.close_stdin();
    writer.ends().with(0);
    reader.close_stdin();
    let heard = reader.ends().with(0).text();
    let said: Vec<&str> = heard.lines().filter_map(|line| line.strip_prefix("echo: ")).collect();
    assert_eq!(said[..2], ["caf\u{fffd}", "\u{fffd}\u{fffd}"]);
    assert_eq!(said[2..said.len() - 1].concat(), format!("x{long}"));
    assert_eq!((said.len(), said.last()), (6, Some(&"last")));
}

#[test]
fn input_that_can_not_be_read_is_local() {
    let (broker, home) = (broker(), home());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" chat --broker \"$1\" </", PROGRAM, &broker.at]);
    let ended = Process::spawn(home.path(), command).ends().with(9);
    assert!(ended.err.contains("the input can't be read: "), "{}", ended.err);
}

#[test]
fn what_others_wrote_can_not_steer_the_terminal() {
    let (broker, home) = (broker(), home());
    let reader = run(&broker, home.path(), &["chat", "--name", "reader"]);
    reader.says("you are the first here");
    let name = "ev\u{1b}[2Jil\r\n* root\u{202e}";
    let mut writer = run(&broker, home.path(), &["chat", "--name", name]);
    reader.says(" is here");
    writer.says("* reader is here");
    writer.type_line("a\u{1b}]0;title\u{7}b\rc\u{202e}d\u{9b}e\u{200b}f");
    writer.type_line("the end");
    reader.prints("the end");
    let shown = reader.out() + &reader.err();
    for bad in ['\u{1b}', '\u{7}', '\r', '\u{202e}', '\u{9b}', '\u{200b}'] {
        assert!(!shown.contains(bad), "{bad:?} in {shown:?}");
    }
    // One message is one line, and a name can't begin one.
    assert_eq!(reader.out().lines().count(), 2, "{shown:?}");
    assert!(!shown.lines().any(|line| line.starts_with("* root")), "{shown:?}");
}

#[test]
fn a_private_chat_takes_a_code() {
    let (broker, home) = (broker(), home());
    let mut one = run(&broker, home.path(), &["chat", "--new", "--name", "ann"]);
    let code = code(&one);
    assert!(one.says("tcpunch chat ").ends_with(&code));
    let mut two = run(&broker, home.path(), &["chat", &code, "--name", "ben"]);
    one.says("* ben is here");
    two.says("* ann is here");
    one.type_line("only for ben");
    two.prints("ann: only for ben");
    two.type_line("only for ann");
    one.prints("ben: only for ann");
    two.close_stdin();
    // It ends with the peer.
    one.ends().with(0);
    two.ends().with(0);
}

/// Several processes of one user with one home directory, the first ever, all within one second.
#[test]
fn eight_first_starts_at_once_share_a_home() {
    let (broker, home) = (broker(), home());
    let began = Instant::now();
    let mut chats: Vec<Process> = (0..8)
        .map(|n| run(&broker, home.path(), &["chat", "--json", "-v", "--name", &format!("n{n}")]))
        .collect();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let mut ports = Vec::new();
    for chat in &mut chats {
        let link = chat.event("registered");
        ports.push(text(&link, "local").rsplit(':').next().unwrap().to_owned());
        for _ in 0..7 {
            assert_eq!(text(&chat.event("path"), "path"), "lan");
        }
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8, "a port is shared: {ports:?}");
    chats[3].type_line("to all");
    for (_, chat) in chats.iter_mut().enumerate().filter(|(n, _)| *n != 3) {
        let message = chat.event("message");
        assert_eq!((text(&message, "text"), text(&message, "name")), ("to all", "n3"));
    }
    for chat in &mut chats {
        chat.close_stdin();
    }
    for chat in chats {
        let ended = chat.ends().with(0);
        let said = events(&ended.text());
        assert_eq!(said.iter().filter(|event| event["event"] == "path").count(), 7, "{}", ended.text());
        assert!(!said.iter().any(|event| event["event"] == "error"), "{}", ended.text());
    }
    let state = home.path().join(".local/state/tcpunch");
    let identity = std::fs::metadata(state.join("identity.key")).expect("an identity");
    assert_eq!(identity.permissions().mode() & 0o777, 0o600);
    let mut kept: Vec<String> = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock")
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, ["identity.key"], "one identity and no left-overs");
}

// --- listen and connect ---

#[test]
fn five_megabytes_go_both_ways_at_once() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let command = listener.says("on the other computer type:");
    assert!(command.ends_with(&format!("tcpunch connect {code}")), "{command}");
    let mut connector = run(&broker, home.path(), &["connect", &code]);
    let (there, back) = (noise(1, 5_000_000), noise(2, 5_000_000));
    let feeders = [feed(&mut listener, there.clone()), feed(&mut connector, back.clone())];
    let (listener, connector) = (listener.ends().with(0), connector.ends().with(0));
    for feeder in feeders {
        feeder.join().unwrap();
    }
    assert!(listener.out == back, "{} bytes", listener.out.len());
    assert!(connector.out == there, "{} bytes", connector.out.len());
    for side in [&listener, &connector] {
        assert!(side.err.contains("path  lan"), "{}", side.err);
    }
}

#[test]
fn nothing_of_the_data_passes_the_broker() {
    let mut broker = broker_with(home(), &["--listen", "127.0.0.1:0", "-v"]);
    let home = home();
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let mut connector = run(&broker, home.path(), &["connect", &code]);
    let feeders = [feed(&mut listener, noise(8, 2_000_000)), feed(&mut connector, noise(9, 2_000_000))];
    listener.ends().with(0);
    connector.ends().with(0);
    for feeder in feeders {
        feeder.join().unwrap();
    }
    let moved = loop {
        let traffic = broker.process.event("traffic");
        // It counts to the end once both have gone.
        if traffic["links"] == 0 && traffic["bytes_in"] != 0 {
            break traffic["bytes_in"].as_u64().unwrap() + traffic["bytes_out"].as_u64().unwrap();
        }
    };
    assert!(moved < 10_000, "{moved} bytes");
}

#[test]
fn who_says_nothing_still_receives_all() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let mut connector = run(&broker, home.path(), &["connect", &code]);
    connector.close_stdin();
    listener.says("path  lan");
    connector.says("path  lan");
    let bytes = noise(3, 3_000_000);
    feed(&mut listener, bytes.clone()).join().unwrap();
    assert!(connector.ends().with(0).out == bytes);
    assert!(listener.ends().with(0).out.is_empty());
}

#[test]
fn json_leaves_stdout_to_the_payload() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen", "--json"]);
    let opened = listener.err_event("code");
    let code = text(&opened, "code");
    assert_eq!(text(&opened, "command"), format!("tcpunch connect {code}"));
    assert_eq!(opened["expires_s"], 600);
    let mut connector = run(&broker, home.path(), &["connect", code, "--json"]);
    listener.type_bytes(b"{\"v\":2}\n");
    connector.type_bytes(&[0, 255, 27]);
    listener.close_stdin();
    connector.close_stdin();
    for (process, came, went) in [(listener, &[0, 255, 27][..], 8), (connector, &b"{\"v\":2}\n"[..], 3)] {
        let ended = process.ends().with(0);
        assert_eq!(ended.out, came);
        let said = events(&ended.err);
        let names: Vec<&str> =
            said.iter().map(|event| text(event, "event")).filter(|name| *name != "waiting").collect();
        let names: Vec<&str> = names.into_iter().filter(|name| *name != "code").collect();
        assert_eq!(names, ["peer", "path", "closed"], "{}", ended.err);
        let closed = said.last().unwrap();
        assert_eq!(text(closed, "reason"), "ended");
        assert_eq!(
            (closed["bytes_in"].as_u64(), closed["bytes_out"].as_u64()),
            (Some(came.len() as u64), Some(went))
        );
    }
}

#[test]
fn quiet_still_tells_the_code_and_nothing_else() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen", "-q"]);
    let code = code(&listener);
    let mut connector = run(&broker, home.path(), &["connect", "-q", &code]);
    listener.close_stdin();
    connector.close_stdin();
    assert_eq!(listener.ends().with(0).err, format!("code  {code}\n"));
    assert_eq!(connector.ends().with(0).err, "");
}

#[test]
fn a_killed_peer_is_a_lost_connection() {
    let (broker, home) = (broker(), home());
    for victim in [0, 1] {
        let (listener, connector) = pipe(&broker, home.path(), &[]);
        let (victim, survivor) = if victim == 0 { (listener, connector) } else { (connector, listener) };
        let killed = Instant::now();
        victim.signal(Signal::SIGKILL);
        let ended = survivor.ends().with(8);
        assert!(ended.err.contains("lost"), "{}", ended.err);
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        victim.ends().with(-9);
    }
}

/// Its kernel still answers, the program does not.
#[test]
fn a_stopped_peer_is_lost_within_half_a_minute() {
    let (broker, home) = (broker(), home());
    let (stopped, survivor) = pipe(&broker, home.path(), &[]);
    stopped.signal(Signal::SIGSTOP);
    let since = Instant::now();
    // Longer than anything else is waited for.
    let ended = survivor.ends_within(Duration::from_secs(35)).with(8);
    assert!(ended.err.contains("nothing was heard"), "{}", ended.err);
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

/// The program that reads from the pipe pauses for longer than a dead peer is silent.
#[test]
fn a_reader_that_pauses_is_not_lost() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let mut command = Command::new("sh");
    let line = "\"$0\" connect \"$1\" </dev/null | { sleep 28; cat; }";
    command.args(["-c", line, PROGRAM, &code]);
    let reader = Process::spawn(home.path(), command);
    let bytes = noise(6, 4_000_000);
    let feeder = feed(&mut listener, bytes.clone());
    assert!(reader.ends_within(Duration::from_secs(50)).with(0).out == bytes);
    feeder.join().unwrap();
    listener.ends().with(0);
}

#[test]
fn a_killed_chat_is_lost_and_the_others_go_on() {
    let (broker, home) = (broker(), home());
    let mut one = run(&broker, home.path(), &["chat", "--name", "ann"]);
    let mut two = run(&broker, home.path(), &["chat", "--name", "ben"]);
    let three = run(&broker, home.path(), &["chat", "--name", "cat"]);
    for chat in [&one, &two, &three] {
        chat.says_times(" is here", 2);
    }
    three.signal(Signal::SIGKILL);
    // The kernel resets the connections of a process that left bytes unread, as a middlebox may: who was reset is waited
    // for.
    for chat in [&one, &two] {
        chat.says_one_of(&["* cat is lost: ", "* cat is away: the connection broke"]);
    }
    one.type_line("still here");
    two.prints("ann: still here");
    one.close_stdin();
    two.close_stdin();
    one.ends().with(0);
    two.ends().with(0);
}

#[test]
fn a_killed_broker_leaves_connections_alone() {
    let (broker, home) = (broker(), home());
    let (mut listener, mut connector) = pipe(&broker, home.path(), &[]);
    broker.process.signal(Signal::SIGKILL);
    broker.process.ends();
    listener.type_bytes(b"without a broker");
    connector.prints_bytes(16);
    connector.type_bytes(b"and back");
    listener.prints_bytes(8);
    listener.close_stdin();
    connector.close_stdin();
    assert_eq!(listener.ends().with(0).out, b"and back");
    assert_eq!(connector.ends().with(0).out, b"without a broker");
}

#[test]
fn a_broker_that_comes_back_is_found_and_the_code_still_serves() {
    let home = home();
    let broker = broker();
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let at = broker.at.clone();
    broker.process.signal(Signal::SIGTERM);
    let Broker { process, home: of_broker, .. } = broker;
    process.ends().with(0);
    listener.says("the link to the broker is lost");
    let again = broker_with(of_broker, &["--listen", &at]);
    let mut process = again.process;
    process.event("registered");
    // The code is asked for in the message after the registration.
    listener.says("the link to the broker stands again");
    let mut connector = Process::start(home.path(), &["connect", &code]);
    listener.says("path  lan");
    listener.type_bytes(b"x");
    connector.prints_bytes(1);
    listener.close_stdin();
    connector.close_stdin();
    connector.ends().with(0);
    listener.ends().with(0);
}

// --- ping ---

#[test]
fn a_ping_measures_and_both_sides_end_well() {
    let (broker, home) = (broker(), home());
    let answerer = run(&broker, home.path(), &["ping"]);
    let code = code(&answerer);
    assert!(answerer.says("on the other computer type:").ends_with(&format!("tcpunch ping {code}")));
    let began = Instant::now();
    let asker = run(&broker, home.path(), &["ping", &code, "-c", "3", "-i", "0.2"]).ends().with(0);
    assert!(began.elapsed() >= Duration::from_millis(400), "three pings, two pauses: {:?}", began.elapsed());
    assert!(asker.err.contains("path  lan"), "{}", asker.err);
    let lines: Vec<&str> = std::str::from_utf8(&asker.out).unwrap().lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (at, line) in lines[..3].iter().enumerate() {
        assert!(line.starts_with(&format!("{}  ", at + 1)) && line.ends_with(" ms"), "{line}");
    }
    assert!(lines[3].starts_with("3 pings, 3 answered: min ") && lines[3].contains(", median "), "{lines:?}");
    let answerer = answerer.ends().with(0);
    assert!(
        answerer.err.contains("3 pings answered") && answerer.err.contains("path  lan"),
        "{}",
        answerer.err
    );
    assert!(answerer.out.is_empty());
}

#[test]
fn a_ping_tells_programs_all_it_measured() {
    let (broker, home) = (broker(), home());
    let mut answerer = run(&broker, home.path(), &["ping", "--json"]);
    let opened = answerer.event("code");
    let code = text(&opened, "code");
    let asker = run(&broker, home.path(), &["ping", code, "--json", "-i", "0.01"]).ends().with(0);
    let mut said = events(&asker.text());
    said.retain(|event| event["event"] != "waiting");
    let names: Vec<&str> = said.iter().map(|event| text(event, "event")).collect();
    assert_eq!(
        names,
        ["peer", "path", "ping", "ping", "ping", "ping", "summary", "closed"],
        "four without --count"
    );
    let mut times: Vec<f64> = Vec::new();
    for (at, ping) in said[2..6].iter().enumerate() {
        has(ping, &["peer", "number", "rtt_ms"]);
        assert_eq!(ping["number"], at + 1);
        times.push(ping["rtt_ms"].as_f64().unwrap());
    }
    times.sort_by(f64::total_cmp);
    let summary = &said[6];
    assert_eq!((&summary["sent"], &summary["answered"]), (&4.into(), &4.into()));
    for (field, time) in [("min_ms", times[0]), ("median_ms", times[2]), ("max_ms", times[3])] {
        assert_eq!(summary[field], time, "{summary}");
    }
    has(&answerer.event("closed"), &["peer", "reason", "bytes_in", "bytes_out"]);
    answerer.ends().with(0);
}

#[test]
fn an_interrupted_ping_is_summed_up_and_a_lost_one_is_lost() {
    let (broker, home) = (broker(), home());
    for lost in [false, true] {
        let answerer = run(&broker, home.path(), &["ping"]);
        let code = code(&answerer);
        let asker = run(&broker, home.path(), &["ping", &code, "-c", "0", "-i", "0.05"]);
        asker.prints("5  ");
        if lost {
            answerer.signal(Signal::SIGKILL);
            let asker = asker.ends().with(8);
            assert!(asker.text().contains(" answered: min "), "{}", asker.text());
        } else {
            asker.signal(Signal::SIGINT);
            let asker = asker.ends().with(130);
            assert!(asker.text().contains(" answered: min "), "{}", asker.text());
            answerer.ends().with(0);
        }
    }
}

#[test]
fn ping_meets_ping_alone() {
    let (broker, home) = (broker(), home());
    let answerer = run(&broker, home.path(), &["ping"]);
    let pinging = code(&answerer);
    for other in ["connect", "chat"] {
        let ended = run(&broker, home.path(), &[other, &pinging]).ends().with(7);
        let hint = format!("the other side runs ping; type: tcpunch ping {pinging}");
        assert!(ended.err.contains(&hint), "{}", ended.err);
    }
    let listener = run(&broker, home.path(), &["listen"]);
    let listening = code(&listener);
    let ended = run(&broker, home.path(), &["ping", &listening]).ends().with(7);
    assert!(ended.err.contains("the other side runs listen; type: tcpunch connect"), "{}", ended.err);
    // Nothing is burnt.
    run(&broker, home.path(), &["ping", &pinging, "-c", "1"]).ends().with(0);
    answerer.ends().with(0);
}

// --- doctor ---

#[test]
fn doctor_on_this_side_of_the_nat_says_that_it_sees_nothing_of_it() {
    let (broker, home) = (broker(), home());
    let ended = run(&broker, home.path(), &["doctor", "--portmap", "off"]).ends().with(0);
    let told = ended.text();
    assert!(told.starts_with("this computer\n"), "{told}");
    assert!(
        told.contains(&format!("{} sees this computer at its own address, 127.0.0.1:", broker.at)),
        "{told}"
    );
    assert!(
        told.contains("not known       the broker is on this side of the NAT, if there is one"),
        "{told}"
    );
    assert!(!told.contains("mapping"), "nothing is known: {told}");
    assert!(
        told.contains("what it means\n  reach           whom you can be connected with is not known"),
        "{told}"
    );
    let ended = run(&broker, home.path(), &["doctor", "--portmap", "off", "--json"]).ends().with(0);
    let said = events(&ended.text());
    let report = said.iter().find(|event| event["event"] == "doctor").unwrap();
    // Programs are told the same.
    assert!(text(report, "unknown_because").ends_with("name one elsewhere with --broker HOST"), "{report}");
    let ipv6 = match text(report, "ipv6") {
        "unused" => "IPv6            this computer has it; no broker was reached over it",
        word => {
            assert_eq!(word, "none");
            "IPv6            no address that others can reach"
        }
    };
    assert!(told.contains(ipv6), "{told}");
    // A code is printed only on request.
    assert!(!ended.err.contains("code  "), "{}", ended.err);
}

#[test]
fn doctor_without_a_broker_tells_what_it_knows_and_ends_with_3() {
    let home = home();
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ended = Process::start(home.path(), &["doctor", "--broker", &at]).ends().with(3);
    let told = ended.text();
    assert!(
        told.contains("  interface  ") && told.contains("it takes a broker, or STUN servers, elsewhere"),
        "{told}"
    );
    assert!(ended.err.contains("no broker answers") && ended.err.contains(&at), "{}", ended.err);
    let ended = Process::start(home.path(), &["doctor", "--json", "--broker", &at]).ends().with(3);
    let said = events(&ended.text());
    assert_eq!((text(&said[0], "event"), text(&said[0], "origin")), ("doctor", "none"));
    assert_eq!(said[0]["profile"]["mapping"], Value::Null);
    assert_eq!(said.last().unwrap()["exit"], 3);
}

#[test]
fn doctor_asks_stun_servers_and_needs_no_broker_then() {
    let (broker, home) = (broker(), home());
    // A broker answers STUN on its port.
    let ended = Process::start(home.path(), &["doctor", "--stun", &broker.at]).ends().with(0);
    let told = ended.text();
    let line =
        told.lines().find(|line| line.starts_with("  STUN server")).unwrap_or_else(|| panic!("{told}"));
    assert!(line.contains(&format!("{} sees this computer at its own address", broker.at)), "{line}");
    assert!(!told.contains("  broker  "), "{told}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ended = Process::start(home.path(), &["doctor", "--json", "--stun", &taken]).ends().with(3);
    let said = events(&ended.text());
    assert_eq!((text(&said[0], "event"), &said[0]["stun"][0]["server"]), ("doctor", &taken.into()));
    assert!(text(&said[0]["stun"][0], "error").starts_with("no connection"), "{}", said[0]);
    // What a server says, or a name that somebody was told to type, steers no terminal.
    let ended = Process::start(home.path(), &["doctor", "--stun", "a\u{1b}]0;x\u{7}b"]).ends().with(3);
    assert!(!ended.text().contains('\u{1b}') && !ended.err.contains('\u{1b}'), "{}", ended.text());
}

#[test]
fn two_doctors_find_out_that_they_can_connect() {
    let (broker, home) = (broker(), home());
    let waits = run(&broker, home.path(), &["doctor", "--portmap", "off", "--new"]);
    let own = code(&waits);
    assert!(waits.says("on the other computer type:").ends_with(&format!("tcpunch doctor {own}")));
    let comes = run(&broker, home.path(), &["doctor", "--portmap", "off", &own]).ends().with(0);
    assert!(comes.err.contains("path  lan"), "{}", comes.err);
    let told = comes.text();
    let verdict =
        told.lines().find(|line| line.starts_with("  direct path")).unwrap_or_else(|| panic!("{told}"));
    assert!(verdict.contains("lan, 1 try, ") && verdict.contains(" ms; round trip "), "{verdict}");
    let waits = waits.ends().with(0);
    assert!(waits.text().contains("  direct path     lan, "), "{}", waits.text());
}

#[test]
fn doctor_meets_ping_and_no_other() {
    let (broker, home) = (broker(), home());
    let pings = run(&broker, home.path(), &["ping"]);
    let ended =
        run(&broker, home.path(), &["doctor", "--portmap", "off", "--json", &code(&pings)]).ends().with(0);
    let mut said = events(&ended.text());
    said.retain(|event| event["event"] != "waiting");
    let names: Vec<&str> = said.iter().map(|event| text(event, "event")).collect();
    assert_eq!(names, ["doctor", "peer", "path", "summary", "closed"]);
    assert!(said[3]["median_ms"].as_f64().is_some(), "{}", said[3]);
    pings.ends().with(0);
    let listens = run(&broker, home.path(), &["listen"]);
    let ended = run(&broker, home.path(), &["doctor", "--portmap", "off", &code(&listens)]).ends().with(7);
    assert!(ended.err.contains("the other side runs listen; type: tcpunch connect"), "{}", ended.err);
    run(&broker, home.path(), &["doctor", "--portmap", "off", &other_words(&code(&listens))]).ends().with(7);
}

#[test]
fn the_report_for_programs_has_every_documented_field() {
    let (broker, home) = (broker(), home());
    let ended = run(&broker, home.path(), &["doctor", "--portmap", "off", "--json"]).ends().with(0);
    let said = events(&ended.text());
    let report = said.iter().find(|event| event["event"] == "doctor").unwrap();
    let readme = include_str!("../../../README.md");
    let row = readme.lines().find(|line| line.starts_with("| `doctor` |")).unwrap();
    let mut documented: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
    // What stands in for values.
    documented.retain(|name| !["measured", "remembered", "used", "unused", "none", "null"].contains(name));
    let inner = ["translated", "mapping", "allocation", "filtering", "refusal", "simultaneous_open"];
    has(&report["profile"], &inner);
    for name in &documented {
        let known = *name == "doctor" || report.get(*name).is_some() || inner.contains(name);
        assert!(known, "{name} is documented, and not in {report}");
    }
    let fields = report.as_object().unwrap().keys().filter(|field| *field != "v" && *field != "event");
    for field in fields {
        assert!(documented.contains(&field.as_str()), "{field} is not documented");
    }
    assert_eq!(report["links"][0]["broker"], broker.at.as_str());
}

// --- waits ---

/// Something that accepts connections and says nothing.
fn silent() -> (std::net::TcpListener, String) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    (silent, at)
}

#[test]
fn every_wait_is_explained_once() {
    let (broker, home) = (broker(), home());
    let (_silent, at) = silent();
    let ended = Process::start(home.path(), &["listen", "--broker", &at, "--timeout", "2.5"]).ends().with(3);
    let line = format!("waiting for the broker at {at} ...");
    assert_eq!(ended.err.lines().filter(|told| *told == line).count(), 1, "{}", ended.err);
    let ended = Process::start(home.path(), &["listen", "-q", "--broker", &at, "--timeout", "2.5"]).ends();
    assert!(!ended.with(3).err.contains("waiting"), "-q");

    let listener = run(&broker, home.path(), &["listen", "--wait", "2.5"]);
    let ended = listener.ends().with(4);
    assert_eq!(ended.err.matches("waiting for the other side ...").count(), 1, "{}", ended.err);
    let connector = run(&broker, home.path(), &["connect", "9999999-zebra-zoo", "--wait", "3"]);
    let ended = connector.ends().with(4);
    assert_eq!(ended.err.matches("waiting for the other side ...").count(), 1, "{}", ended.err);
    let mut chat = run(&broker, home.path(), &["chat", "--timeout", "2.5", "--json"]);
    // On a busy machine the broker is waited for first.
    while text(&chat.event("waiting"), "for") != "somebody to come" {}
    chat.close_stdin();
    chat.ends().with(4);

    // One side of a pipe has ended, the other not yet.
    let (listener, mut connector) = pipe(&broker, home.path(), &[]);
    connector.close_stdin();
    connector.says("waiting for the other side to end as well ...");
    drop(listener);
    // What comes within a second needs no word.
    let (mut listener, mut connector) = pipe(&broker, home.path(), &[]);
    let began = Instant::now();
    listener.close_stdin();
    connector.close_stdin();
    for process in [listener, connector] {
        let ended = process.ends().with(0);
        let quick = began.elapsed() < Duration::from_secs(1);
        assert!(!quick || !ended.err.contains("waiting for the other side to end"), "{}", ended.err);
    }
}

/// A broker that stops in the middle: its kernel still answers.
#[test]
fn a_broker_that_stops_after_the_registration_is_waited_for_aloud() {
    let (broker, home) = (broker(), home());
    for (command, told) in [
        (&["chat"][..], "waiting for the broker's lobby ..."),
        (&["listen", "--timeout", "3"], "waiting for the broker to give a code ..."),
    ] {
        let at = stops_after_registration(&broker);
        Process::start(home.path(), &[command, &["--broker", &at]].concat()).says(told);
    }
}

/// Where the broker answers, until the registration is through.
fn stops_after_registration(broker: &Broker) -> String {
    let (relay, at) = silent();
    let upstream = broker.at.clone();
    std::thread::spawn(move || {
        while let Ok((peer, _)) = relay.accept() {
            let Ok(broker) = std::net::TcpStream::connect(&upstream) else { return };
            let (back, to_peer) = (broker.try_clone().unwrap(), peer.try_clone().unwrap());
            std::thread::spawn(move || pass_on(back, to_peer, 1));
            std::thread::spawn(move || std::io::copy(&mut &peer, &mut &broker));
        }
    });
    at
}

/// The broker's part of the handshake; what it says then is kept back.
fn pass_on(mut from: std::net::TcpStream, mut to: std::net::TcpStream, messages: usize) {
    for _ in 0..messages {
        let mut length = [0; 2];
        let Ok(()) = from.read_exact(&mut length) else { return };
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        let Ok(()) = from.read_exact(&mut message) else { return };
        let Ok(()) = to.write_all(&[&length[..], &message].concat()) else { return };
    }
    std::thread::sleep(process::SOON);
}

// --- how it ends ---

#[test]
fn an_unknown_number_is_nobody() {
    let (broker, home) = (broker(), home());
    let ended = run(&broker, home.path(), &["connect", "9999999-zebra-zoo"]).ends().with(4);
    assert!(ended.err.contains("9999999"), "{}", ended.err);
    assert!(ended.out.is_empty());
}

#[test]
fn wrong_words_are_told_and_the_third_burns_the_code() {
    let (broker, home) = (broker(), home());
    let listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let wrong = other_words(&code);
    for left in ["2 more guesses", "1 more guess"] {
        let ended = run(&broker, home.path(), &["connect", &wrong]).ends().with(5);
        assert!(ended.err.contains("wrong words"), "{}", ended.err);
        listener.says(&format!("somebody tried wrong words; {left}"));
    }
    let ended = run(&broker, home.path(), &["connect", &wrong]).ends().with(5);
    assert!(ended.err.contains("the code is burnt"), "{}", ended.err);
    let ended = listener.ends().with(5);
    assert!(ended.err.contains("burnt"), "{}", ended.err);
    assert!(ended.out.is_empty());
    // The right words come too late.
    run(&broker, home.path(), &["connect", &code]).ends().with(4);
}

#[test]
fn two_wrong_guesses_leave_the_code_to_who_knows_it() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    for _ in 0..2 {
        run(&broker, home.path(), &["connect", &other_words(&code)]).ends().with(5);
    }
    let mut connector = run(&broker, home.path(), &["connect", &code]);
    listener.close_stdin();
    connector.close_stdin();
    listener.ends().with(0);
    connector.ends().with(0);
}

#[test]
fn a_used_code_is_no_code() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let mut connector = run(&broker, home.path(), &["connect", &code]);
    listener.says("path  lan");
    connector.says("path  lan");
    // While it serves, and after.
    run(&broker, home.path(), &["connect", &code]).ends().with(4);
    listener.close_stdin();
    connector.close_stdin();
    listener.ends().with(0);
    connector.ends().with(0);
    run(&broker, home.path(), &["connect", &code]).ends().with(4);
}

#[test]
fn nobody_who_comes_ends_the_wait() {
    let (broker, home) = (broker(), home());
    let listener = run(&broker, home.path(), &["listen", "--wait", "1"]);
    let code = code(&listener);
    let ended = listener.ends().with(4);
    assert!(ended.err.contains("nobody came"), "{}", ended.err);
    run(&broker, home.path(), &["connect", &code]).ends().with(4);
}

#[test]
fn the_other_verb_is_named_and_burns_nothing() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let listening = code(&listener);
    let ended = run(&broker, home.path(), &["chat", &listening]).ends().with(7);
    assert!(ended.err.contains("the other side runs listen; type: tcpunch connect"), "{}", ended.err);

    let mut chat = run(&broker, home.path(), &["chat", "--new"]);
    let chatting = code(&chat);
    let ended = run(&broker, home.path(), &["connect", &chatting]).ends().with(7);
    assert!(ended.err.contains("type: tcpunch chat"), "{}", ended.err);

    let mut connector = run(&broker, home.path(), &["connect", &listening]);
    let mut joiner = run(&broker, home.path(), &["chat", &chatting]);
    joiner.says(" is here");
    for process in [&mut listener, &mut connector, &mut chat, &mut joiner] {
        process.close_stdin();
    }
    for process in [listener, connector, chat, joiner] {
        process.ends().with(0);
    }
}

#[test]
fn no_broker_is_told_with_each_address() {
    let home = home();
    // Bound and not listening: refused, and nobody else's.
    let taken = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (one, two) = (taken(), taken());
    for command in [&["chat"][..], &["listen"], &["connect", "412-zebra-zoo"]] {
        let brokers = format!("{one},{two}");
        let began = Instant::now();
        let arguments = [command, &["--broker", &brokers, "--timeout", "3"]].concat();
        let ended = Process::start(home.path(), &arguments).ends().with(3);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert!(
            ended.err.contains(&one.to_string()) && ended.err.contains(&two.to_string()),
            "{}",
            ended.err
        );
        assert!(ended.out.is_empty());
    }
}

#[test]
fn a_code_that_names_a_broker_says_what_becomes_of_the_flag() {
    let (broker, home) = (broker(), home());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for verb in ["connect", "chat", "ping", "doctor"] {
        let code = format!("412-zebra-zoo@{taken}");
        let ended = run(&broker, home.path(), &[verb, &code, "--timeout", "2"]).ends().with(3);
        let said =
            format!("the code names broker {taken}; --broker is not used\n  leave out @{taken} to use it\n");
        assert!(ended.err.contains(&said), "{verb}: {}", ended.err);
        let hint = format!("  the code names this broker; leave out @{taken} to use --broker\n");
        assert!(ended.err.ends_with(&hint) && !ended.err.contains("name another"), "{verb}: {}", ended.err);
    }
    // What it advises works.
    run(&broker, home.path(), &["connect", "412-zebra-zoo"]).ends().with(4);
}

#[test]
fn a_pinned_key_is_for_its_host_in_any_case() {
    let (broker, home) = (broker(), home());
    let (_, port) = broker.at.rsplit_once(':').unwrap();
    let other = process::broker();
    let pinned = format!("LocalHost:{port}#{}", other.key);
    let code = format!("412-zebra-zoo@localhost:{port}");
    let ended = Process::start(home.path(), &["connect", "-4", &code, "--broker", &pinned]).ends().with(3);
    assert!(ended.err.contains("has changed") && !ended.err.contains("is not used"), "{}", ended.err);
}

#[test]
fn a_silent_broker_is_given_up_in_time() {
    let home = home();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    let began = Instant::now();
    let ended = Process::start(home.path(), &["chat", "--broker", &at, "--timeout", "1"]).ends().with(3);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(ended.err.contains(&at), "{}", ended.err);
}

#[test]
fn a_changed_broker_key_is_refused() {
    let home = home();
    let first = broker();
    let (at, key) = (first.at.clone(), first.key.clone());
    let pinned = format!("{at}#{key}");
    let ended = Process::start(home.path(), &["listen", "--wait", "0.5", "--broker", &pinned]).ends();
    ended.with(4);
    first.process.signal(Signal::SIGTERM);
    first.process.ends().with(0);
    // Another home, another key, the same place.
    let second = broker_with(process::home(), &["--listen", &at]);
    assert_ne!(second.key, key);
    let ended = Process::start(home.path(), &["listen", "--broker", &pinned]).ends().with(3);
    assert!(ended.err.contains("has changed") && ended.err.contains(&key[..8]), "{}", ended.err);
    assert!(ended.err.contains("put the new key into the address"), "{}", ended.err);
    // A broker on this machine is not remembered: whoever may listen there may be it.
    let ended = Process::start(home.path(), &["listen", "--wait", "0.5", "--broker", &at]).ends();
    ended.with(4);
}

#[test]
fn a_broker_keeps_its_key() {
    let first = broker();
    first.process.signal(Signal::SIGTERM);
    let Broker { process, home, key, .. } = first;
    process.ends().with(0);
    let second = broker_with(home, &["--listen", "127.0.0.1:0"]);
    assert_eq!(second.key, key);
    let file = second.home.path().join(".local/state/tcpunch/broker.key");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_typed_wrong_is_usage() {
    let home = home();
    for wrong in [
        &["frobnicate"][..],
        &["connect", "nonsense"],
        &["connect", "412-zebra"],
        &["connect", "412-zebra-zooo"],
        &["chat", "--broker", "a b"],
        &["chat", "--broker", "h:0"],
        &["chat", "--bind", "0"],
        &["chat", "-4", "-6"],
        &["chat", "--timeout", "never"],
        &["chat", "--new", "412-zebra-zoo"],
        &["broker", "--listen", "nowhere"],
        &["broker", "--lobby", "1"],
        &[],
    ] {
        let ended = Process::start(home.path(), wrong).ends();
        assert_eq!(ended.code, 2, "{wrong:?}: {}", ended.err);
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_taken_port_is_local() {
    let (broker, home) = (broker(), home());
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let ended = run(&broker, home.path(), &["chat", "--bind", &port]).ends().with(9);
    assert!(ended.err.contains(&port) && ended.err.contains("--bind"), "{}", ended.err);
    let ended = Process::start(home.path(), &["broker", "--listen", &broker.at]).ends().with(9);
    assert!(ended.err.contains(&broker.at) && ended.err.contains("--listen"), "{}", ended.err);
}

#[test]
fn one_port_is_not_shared_by_two_processes_of_one_user() {
    let (broker, home) = (broker(), home());
    let mut first = run(&broker, home.path(), &["chat", "--json", "-v"]);
    let link = first.event("registered");
    let port = text(&link, "local").rsplit(':').next().unwrap().to_owned();
    run(&broker, home.path(), &["chat", "--bind", &port]).ends().with(9);
}

#[test]
fn a_broker_without_state_says_so_and_peers_go_on() {
    let home = home();
    let file = home.path().join("in-the-way");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let ended =
        Process::start(home.path(), &["broker", "--listen", "127.0.0.1:0", "--state", file]).ends().with(9);
    assert!(ended.err.contains(file), "{}", ended.err);
    let broker = broker();
    let mut chat = run(&broker, home.path(), &["chat", "--state", file]);
    chat.says("nothing is kept on disk");
    chat.says("you are the first here");
    chat.signal(Signal::SIGINT);
    chat.close_stdin();
    chat.ends().with(130);
    // Programs are told as well.
    let ended =
        run(&broker, home.path(), &["listen", "--json", "--wait", "0.3", "--state", file]).ends().with(4);
    let said = events(&ended.err);
    has(&said[0], &["kind", "message", "hint"]);
    assert_eq!((text(&said[0], "event"), text(&said[0], "kind")), ("notice", "state"));
    assert!(text(&said[0], "message").contains(file), "{}", said[0]);
}

#[test]
fn programs_are_told_what_a_broker_does_without() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let probe = taken.local_addr().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--probe", &format!("[::]:{}", probe.port())];
    let broker = broker_with(home(), &arguments);
    let said = events(&broker.process.out());
    let notes = said[0]["notes"].as_array().unwrap();
    let told = notes.iter().any(|note| note.as_str().unwrap().contains("no observations at"));
    assert!(told && notes.len() == 1, "{}", said[0]);
}

#[test]
fn a_broker_ends_well_on_both_signals() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let broker = broker();
        broker.process.signal(signal);
        broker.process.ends().with(0);
    }
}

#[test]
fn interrupted_commands_end_with_130() {
    let (broker, home) = (broker(), home());
    // Before anybody came.
    let listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    listener.signal(Signal::SIGINT);
    listener.ends().with(130);
    run(&broker, home.path(), &["connect", &code]).ends().with(4);
    let chat = run(&broker, home.path(), &["chat", "--new"]);
    chat.says("code  ");
    chat.signal(Signal::SIGINT);
    chat.ends().with(130);
    // While a pipe is open: that is no end that both wanted.
    for first in [true, false] {
        let (listener, connector) = pipe(&broker, home.path(), &[]);
        let (one, other) = if first { (listener, connector) } else { (connector, listener) };
        one.signal(Signal::SIGINT);
        one.ends().with(130);
        other.ends().with(8);
    }
}

#[test]
fn an_interrupted_chat_is_seen_to_leave() {
    let (broker, home) = (broker(), home());
    let one = run(&broker, home.path(), &["chat", "--name", "ann"]);
    let mut two = run(&broker, home.path(), &["chat", "--name", "ben"]);
    one.says("* ben is here");
    two.says("* ann is here");
    one.signal(Signal::SIGINT);
    two.says("* ann left");
    one.ends().with(130);
    two.close_stdin();
    two.ends().with(0);
}

/// With and without an end of input before it, and with nobody there.
#[test]
fn a_lonely_chat_is_interrupted_at_once() {
    let (broker, home) = (broker(), home());
    for input_ends in [false, true] {
        let mut chat = run(&broker, home.path(), &["chat"]);
        chat.type_line("anybody?");
        chat.says("you are the first here");
        if input_ends {
            chat.close_stdin();
        }
        let began = Instant::now();
        chat.signal(Signal::SIGINT);
        chat.ends().with(130);
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }
}

#[test]
fn a_closed_stdout_is_local() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let mut command = Command::new("sh");
    // The exit code of the program, not of the reader that goes away.
    let line = "{ \"$0\" connect \"$1\" --broker \"$2\"; echo \"exit $?\" >&2; } | head -c 1";
    command.args(["-c", line, PROGRAM, &code, &broker.at]);
    let connector = Process::spawn(home.path(), command);
    connector.says("path  lan");
    let feeder = std::thread::spawn({
        let mut stdin = listener.take_stdin();
        // It is cut off in the middle.
        move || drop(stdin.write_all(&noise(4, 4_000_000)))
    });
    assert_eq!(connector.says("exit "), "exit 9");
    listener.ends().with(8);
    feeder.join().unwrap();
}

#[test]
fn a_closed_stdout_ends_a_chat() {
    let (broker, home) = (broker(), home());
    let mut writer = run(&broker, home.path(), &["chat", "--name", "ann"]);
    writer.says("you are the first here");
    let mut command = Command::new("sh");
    let line = "{ \"$0\" chat --broker \"$1\"; echo \"exit $?\" >&2; } | head -c 1";
    command.args(["-c", line, PROGRAM, &broker.at]);
    let reader = Process::spawn(home.path(), command);
    writer.says(" is here");
    writer.type_line("one");
    reader.prints_bytes(1);
    // The reader of the pipe ends some time after its byte; each line finds out whether it has.
    let until = Instant::now() + process::SOON;
    while !reader.err().contains("exit ") && Instant::now() < until {
        writer.type_line("more");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(reader.says("exit "), "exit 9");
}

#[test]
fn a_full_stdout_is_local() {
    let (broker, home) = (broker(), home());
    let full = |arguments: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {PROGRAM} {arguments} >/dev/full")]);
        Process::spawn(home.path(), command)
    };
    for arguments in ["man", "completions bash", "demo"] {
        full(arguments).ends().with(9);
    }
    let answerer = run(&broker, home.path(), &["ping"]);
    let code = code(&answerer);
    full(&format!("ping {code}")).ends().with(9);
}

/// A broker that talks into a pipe which nobody reads and which is full; with its end for reading, and where it listens.
fn broker_into_a_full_pipe(home: &Path, flags: &str, last: &str) -> (Process, File, String) {
    let pipe = home.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut command = Command::new("sh");
    let line = format!("exec \"$0\" broker -v --listen 127.0.0.1:0 {flags}\"$1\"");
    command.args(["-c", &line, PROGRAM, pipe.to_str().unwrap()]);
    let broker = Process::spawn(home, command);
    let mut said = String::new();
    while !said.contains(last) || !said.ends_with('\n') {
        let mut some = [0; 4096];
        let count = reader.read(&mut some).unwrap();
        said += std::str::from_utf8(&some[..count]).unwrap();
    }
    let (_, rest) = said.split_once("127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let nonblocking = nix::libc::O_NONBLOCK;
    let mut filler = File::options().write(true).custom_flags(nonblocking).open(&pipe).unwrap();
    while filler.write_all(b"{\"v\":1,\"event\":\"filled\"}\n").is_ok() {}
    (broker, reader, format!("127.0.0.1:{port}"))
}

#[test]
fn a_broker_serves_on_while_nobody_reads_what_it_says() {
    for (flags, last) in [("--json >", "\"event\":\"broker\""), ("2>", "on this computer")] {
        let home = home();
        let (broker, reader, at) = broker_into_a_full_pipe(home.path(), flags, last);
        let answerer = Process::start(home.path(), &["ping", "--broker", &at]);
        let code = code(&answerer);
        Process::start(home.path(), &["ping", "-c", "1", &code]).ends().with(0);
        answerer.ends().with(0);
        // Who reads on finds all of it.
        let mut command = Command::new("cat");
        command.arg(home.path().join("pipe"));
        let mut cat = Process::spawn(home.path(), command);
        if flags.starts_with("--json") {
            for event in ["registered", "introduced", "left"] {
                cat.event(event);
            }
        } else {
            cat.prints(" registered from ");
            cat.prints("introduced ");
        }
        drop((reader, cat));
        if flags.starts_with("--json") {
            broker.ends().with(9);
        }
    }
}

#[test]
fn a_broker_ends_though_nobody_reads_what_it_says() {
    let home = home();
    let (broker, _reader, at) = broker_into_a_full_pipe(home.path(), "--json >", "\"event\":\"broker\"");
    Process::start(home.path(), &["listen", "--wait", "0.2", "--broker", &at]).ends().with(4);
    broker.signal(Signal::SIGTERM);
    broker.ends_within(Duration::from_secs(5)).with(0);
}

/// Nobody hears the talk any more: what the command is for goes on.
#[test]
fn a_closed_stderr_is_no_reason_to_end() {
    let (broker, home) = (broker(), home());
    for closed in ["2>&1 >&4 | :; } 4>&1", ">&4 2>/dev/full; } 4>&1", "2>&-; }"] {
        let mut listener = run(&broker, home.path(), &["listen"]);
        let code = code(&listener);
        let mut command = Command::new("bash");
        let line = format!("{{ set -o pipefail; sleep 0.3 | {PROGRAM} -v connect {code} {closed}");
        command.args(["-c", &line]);
        let connector = Process::spawn(home.path(), command);
        listener.type_bytes(b"all the same");
        listener.close_stdin();
        let ended = connector.ends().with(0);
        assert_eq!(ended.text(), "all the same", "{closed}: {}", ended.err);
        listener.ends().with(0);
    }
}

// --- prompts ---

/// Runs a shell line on a terminal of its own; what is typed to the process goes there.
fn on_a_terminal(home: &Path, line: &str) -> Process {
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).env("TERM", "dumb").env("SHELL", "/bin/sh");
    Process::spawn(home, command)
}

#[test]
fn the_code_is_asked_for_on_the_terminal() {
    if lacks("script", "a terminal") {
        return;
    }
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let got = home.path().join("got");
    // Standard input and output are a pipe's; the question goes to the terminal all the same.
    let line = format!(
        "printf up | {PROGRAM} connect --broker {} >{} 2>{}",
        broker.at,
        got.display(),
        home.path().join("err").display()
    );
    let mut terminal = on_a_terminal(home.path(), &line);
    terminal.prints_bytes("Code: ".len());
    assert!(terminal.out().starts_with("Code: "), "{:?}", terminal.out());
    terminal.type_line(&code);
    listener.type_bytes(b"down");
    listener.close_stdin();
    assert_eq!(listener.ends().with(0).out, b"up");
    terminal.ends().with(0);
    assert_eq!(std::fs::read(got).unwrap(), b"down");
}

#[test]
fn what_comes_is_shown_as_carets_on_a_terminal_only() {
    if lacks("script", "a terminal") {
        return;
    }
    let (broker, home) = (broker(), home());
    for (raw, shown) in [("", "a^[[31mb"), ("--raw", "a\u{1b}[31mb")] {
        let mut listener = run(&broker, home.path(), &["listen"]);
        let code = code(&listener);
        let line = format!("{PROGRAM} connect -q {raw} {code} </dev/null");
        let terminal = on_a_terminal(home.path(), &line);
        listener.type_bytes(b"a\x1b[31mb\n");
        listener.close_stdin();
        listener.ends().with(0);
        let ended = terminal.ends().with(0);
        assert!(ended.text().contains(shown), "{:?}", ended.text());
    }
}

#[test]
fn without_a_terminal_there_is_no_question() {
    if lacks("setsid", "a process without a terminal") {
        return;
    }
    let home = home();
    let mut command = Command::new("setsid");
    command.args([PROGRAM, "connect"]);
    let ended = Process::spawn(home.path(), command).ends().with(2);
    assert!(ended.err.contains("TCPUNCH_CODE"), "{}", ended.err);
}

#[test]
fn the_environment_names_code_and_broker() {
    let (broker, home) = (broker(), home());
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(variables.iter().copied());
        Process::spawn(home.path(), command)
    };
    let mut listener = with(&["listen"], &[("TCPUNCH_BROKER", &broker.at)]);
    let code = code(&listener);
    let mut connector = with(&["connect"], &[("TCPUNCH_CODE", &code)]);
    listener.close_stdin();
    connector.close_stdin();
    listener.ends().with(0);
    connector.ends().with(0);
    // It is a secret: help does not show it.
    let help = with(&["connect", "--help"], &[("TCPUNCH_CODE", &code)]).ends().with(0);
    assert!(!help.text().contains(&code), "{}", help.text());
}

// --- JSON ---

fn has(event: &Value, fields: &[&str]) {
    for field in fields {
        assert!(event.get(*field).is_some(), "no {field} in {event}");
    }
}

#[test]
fn every_documented_event_has_its_fields() {
    let (mut broker, home) = (broker(), home());
    let mut one = run(&broker, home.path(), &["chat", "--json", "--name", "ann"]);
    has(&one.event("waiting"), &["for"]);
    let mut two = run(&broker, home.path(), &["chat", "--json", "--name", "ben"]);
    let peer = one.event("peer");
    has(&peer, &["id", "name", "auth", "words"]);
    assert_eq!((text(&peer, "name"), text(&peer, "auth")), ("ben", "none"));
    let path = one.event("path");
    has(&path, &["peer", "path", "local", "remote", "tries", "syns", "elapsed_ms"]);
    assert_eq!(path["peer"], peer["id"]);
    assert!(path["elapsed_ms"].as_f64().unwrap() > 0.0, "{path}");
    two.event("path");
    two.type_line("hello");
    let message = one.event("message");
    has(&message, &["peer", "name", "text"]);
    assert_eq!((&message["peer"], text(&message, "text")), (&peer["id"], "hello"));
    two.close_stdin();
    let closed = one.event("closed");
    has(&closed, &["peer", "reason", "bytes_in", "bytes_out"]);
    assert_eq!((&closed["peer"], text(&closed, "reason")), (&peer["id"], "left"));
    one.close_stdin();
    for chat in [one, two] {
        let ended = chat.ends().with(0);
        events(&ended.text());
        assert!(ended.err.is_empty(), "{}", ended.err);
    }

    let mut listener = run(&broker, home.path(), &["listen", "--json"]);
    let opened = listener.err_event("code");
    has(&opened, &["code", "command", "expires_s"]);
    let wrong = other_words(text(&opened, "code"));
    for left in [2, 1, 0] {
        let ended = run(&broker, home.path(), &["connect", "--json", &wrong]).ends().with(5);
        let said = events(&ended.err);
        let error = said.last().unwrap();
        has(error, &["kind", "exit", "hint", "fatal"]);
        assert_eq!(
            (text(error, "kind"), &error["exit"], &error["fatal"]),
            ("wrong-words", &5.into(), &true.into())
        );
        assert!(
            !said.iter().any(|event| event["event"] == "path" || event["event"] == "peer"),
            "{}",
            ended.err
        );
        let told = listener.err_event("error");
        assert_eq!(
            (text(&told, "kind"), &told["left"], &told["fatal"]),
            ("wrong-words", &left.into(), &false.into())
        );
    }
    let ended = listener.ends().with(5);
    let said = events(&ended.err);
    let last = said.last().unwrap();
    assert_eq!((text(last, "event"), text(last, "kind"), &last["fatal"]), ("error", "burnt", &true.into()));
    assert!(ended.out.is_empty());
    broker.process.event("introduced");
}

#[test]
fn the_brokers_event_says_what_peers_need() {
    let broker = broker();
    let said = events(&broker.process.out());
    let event = &said[0];
    has(event, &["addresses", "key", "command", "probe_ports", "notes"]);
    let command = text(event, "command");
    assert!(command.starts_with("tcpunch chat --broker '") && command.contains(&broker.key), "{command}");
    // What it tells peers to type works.
    let home = home();
    let mut line = Command::new("sh");
    line.args(["-c", &format!("exec {}", command.replacen("tcpunch", PROGRAM, 1))]);
    Process::spawn(home.path(), line).says("you are the first here");
}

#[test]
fn what_a_broker_prints_for_its_own_computer_works() {
    for listen in ["127.0.0.2:0", "[::1]:0", "0.0.0.0:0"] {
        let home = home();
        let broker = Process::start(home.path(), &["broker", "--listen", listen]);
        let line = broker.says("  on this computer   ");
        let (_, command) = line.split_once("computer   ").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {}", command.replacen("tcpunch", PROGRAM, 1))]);
        Process::spawn(home.path(), shell).says("you are the first here");
    }
}

#[test]
fn a_public_broker_prints_all_ways_to_it() {
    let home = home();
    let public = ["--public", "127.0.0.9", "--public", "192.0.2.1:443"];
    let broker = Process::start(home.path(), &[&["broker", "--listen", "127.0.0.3:0"][..], &public].concat());
    let lines = broker.says_times("  from anywhere      ", 2);
    let listening = broker.says("broker  listening on");
    let port = listening.rsplit(':').next().unwrap();
    assert!(lines[0].contains(&format!("--broker '127.0.0.9:{port}#")), "{lines:?}");
    assert!(lines[1].contains("--broker '192.0.2.1:443#"), "{lines:?}");
    // Nobody in the network reaches loopback, and what is public is there already.
    assert!(!broker.err().contains("in this network") && !broker.err().contains("from elsewhere"));
}

#[test]
fn a_path_is_told_only_for_who_proved_the_words() {
    let (broker, home) = (broker(), home());
    let mut listener = run(&broker, home.path(), &["listen", "--json"]);
    let opened = listener.err_event("code");
    let code = text(&opened, "code").to_owned();
    run(&broker, home.path(), &["connect", &other_words(&code)]).ends().with(5);
    let mut connector = run(&broker, home.path(), &["connect", "--json", &code]);
    listener.close_stdin();
    connector.close_stdin();
    let (listener, connector) = (events(&listener.ends().with(0).err), events(&connector.ends().with(0).err));
    for said in [&listener, &connector] {
        let of = |name: &str| said.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
        assert_eq!((of("path").len(), of("peer").len()), (1, 1), "{said:?}");
        assert_eq!(text(of("peer")[0], "auth"), "code");
    }
    let end = |said: &[Value], field: &str| {
        said.iter().find(|event| event["event"] == "path").unwrap()[field].as_str().unwrap().to_owned()
    };
    assert_eq!(end(&listener, "local"), end(&connector, "remote"));
    assert_eq!(end(&listener, "remote"), end(&connector, "local"));
}

// --- help ---

#[test]
fn help_says_what_is_needed() {
    let home = home();
    for (command, words) in [
        (
            &["--help"][..],
            &["broker", "chat", "listen", "connect", "demo", "--broker", "--json", "--timeout"][..],
        ),
        (
            &["broker", "--help"],
            &["--listen", "7766", "--probe", "--public", "--lobby", "--log-addresses", "--state"],
        ),
        (&["chat", "--help"], &["lobby", "--new", "TCPUNCH_CODE", "--name", "TCPUNCH_BROKER"]),
        (&["listen", "--help"], &["--raw", "--wait", "code"]),
        (&["connect", "--help"], &["--raw", "TCPUNCH_CODE", "--bind", "--ephemeral", "-q", "-v", "-4", "-6"]),
        (&["demo", "--help"], &["three real processes"]),
    ] {
        let told = Process::start(home.path(), command).ends().with(0).text();
        for word in words {
            assert!(told.contains(word), "{command:?} lacks {word}:\n{told}");
        }
    }
    assert!(Process::start(home.path(), &["--version"]).ends().with(0).text().starts_with("tcpunch "));
}

#[test]
fn the_manual_is_well_formed_and_names_everything() {
    let home = home();
    let page = Process::start(home.path(), &["man"]).ends().with(0).text();
    let commands = ["demo", "broker", "chat", "listen", "connect", "ping", "doctor", "completions", "man"];
    let pages = home.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    Process::start(home.path(), &["man", "--dir", pages.to_str().unwrap()]).ends().with(0);
    assert_eq!(std::fs::read_to_string(pages.join("tcpunch.1")).unwrap(), page);
    let mut all = vec![pages.join("tcpunch.1")];
    for command in commands {
        assert!(page.contains(&format!("tcpunch\\-{command}(1)")), "{command}");
        all.push(pages.join(format!("tcpunch-{command}.1")));
    }
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        for section in ["NAME", "SYNOPSIS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT"] {
            assert!(text.contains(section), "{page:?} lacks {section}");
        }
        for exit in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "130"] {
            assert!(text.contains(&format!(".TP\n\\fB{exit}\\fR\n")), "{page:?} lacks exit code {exit}");
        }
    }
    if Command::new("groff").arg("--version").output().is_ok() {
        for page in &all {
            let output =
                Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(page).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
    }
    let ended = Process::start(home.path(), &["man", "--dir", "/nowhere/at/all"]).ends().with(9);
    assert!(ended.err.contains("/nowhere/at/all"), "{}", ended.err);
}

#[test]
fn every_shell_gets_its_completions() {
    let home = home();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = Process::start(home.path(), &["completions", shell]).ends().with(0).text();
        assert!(script.contains("TCPUNCH_COMPLETE") && script.contains("tcpunch"), "{shell}: {script}");
    }
    Process::start(home.path(), &["completions", "cmd"]).ends().with(2);
}

#[test]
fn help_ends_with_examples_and_exit_codes() {
    let home = home();
    let told = Process::start(home.path(), &["help"]).ends().with(0).text();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    for exit in [3, 4, 5, 6, 7, 8, 9, 130] {
        let line = told.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{exit}  ")));
        let line = line.unwrap_or_else(|| panic!("no {exit} in:\n{told}"));
        // The same words in both places.
        assert!(readme.contains(&format!("| {exit} | {line} |")), "{line}");
    }
    for command in ["demo", "broker", "chat", "listen", "connect", "ping", "doctor", "completions", "man"] {
        let told = Process::start(home.path(), &[command, "--help"]).ends().with(0).text();
        assert!(told.contains("Examples:\n"), "{told}");
    }
}

// --- ssh ---

/// A real ssh server, run for this test alone.
fn ssh_server(home: &Path) -> (Process, u16) {
    let here = |name: &str| home.join(name).to_str().unwrap().to_owned();
    for key in ["host", "user"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &here(key)]).status();
        assert!(made.unwrap().success());
    }
    std::fs::copy(here("user.pub"), here("authorized_keys")).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Where it drops its privileges.
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
         StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        here("host"),
        here("authorized_keys"),
    );
    std::fs::write(here("config"), config).unwrap();
    let mut command = Command::new("sh");
    // It insists on an absolute path of its own.
    command.args(["-c", "exec \"$(PATH=$PATH:/usr/sbin command -v sshd)\" -D -e -f \"$0\"", &here("config")]);
    let server = Process::spawn(home, command);
    server.says("Server listening");
    (server, port)
}

#[test]
fn ssh_runs_through_a_pipe() {
    let what = "a session of ssh";
    if lacks("ssh", what) || lacks("ssh-keygen", what) || lacks("socat", what) {
        return;
    }
    if !Path::new("/usr/sbin/sshd").exists() && lacks("sshd", what) {
        return;
    }
    let (broker, home) = (broker(), home());
    let (_server, port) = ssh_server(home.path());
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let session = |remote: &[&str]| {
        let mut command = Command::new("socat");
        command
            .arg(format!("EXEC:{PROGRAM} listen"))
            .arg(format!("TCP:127.0.0.1:{port}"))
            .env("TCPUNCH_BROKER", &broker.at);
        let listener = Process::spawn(home.path(), command);
        let code = code(&listener);
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes"])
            .args(["-o", &format!("ProxyCommand={PROGRAM} -q connect {code}")])
            .args(["-i", home.path().join("user").to_str().unwrap()])
            .arg(format!("{user}@anything"))
            .args(remote);
        (listener, Process::spawn(home.path(), command))
    };
    let (_listener, mut ssh) = session(&["echo", "ok"]);
    ssh.close_stdin();
    assert_eq!(ssh.ends().with(0).text(), "ok\n");

    let (_listener, mut ssh) = session(&["cat"]);
    let bytes = noise(5, 1_000_000);
    let feeder = feed(&mut ssh, bytes.clone());
    assert!(ssh.ends().with(0).out == bytes);
    feeder.join().unwrap();
}
