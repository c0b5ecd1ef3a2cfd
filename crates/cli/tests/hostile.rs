//! The program among strangers, members and brokers that mean it ill: what its user sees, and how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

#[allow(dead_code, reason = "shared with the other tests of the program")]
#[path = "cli/process.rs"]
mod process;
#[path = "../../tcpunch/tests/raw/mod.rs"]
mod raw;

use std::path::Path;

use std::time::{Duration, Instant};

use process::{Ended, Process, broker, home, text};
use raw::{RawBroker, RawLane, RawPeer, Served, address, answer_opener, fresh_key, introduction, soon};
use tcpunch::{Code, PublicKey, Verb};
use tcpunch_core::limits::{MAX_LINE, MAX_RECORD};
use tcpunch_core::secure::Kind;
use tcpunch_core::wire::{About, FromBroker, Met, Refusal, ToBroker};

/// A frame of chat: its length, the number of its kind, and a string of postcard.
fn frame(kind: u8, string: &[u8]) -> Vec<u8> {
    let mut body = vec![kind];
    let mut length = string.len();
    while length >= 0x80 {
        body.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend_from_slice(string);
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

/// A member of the lobby in the hands of the test.
struct Member {
    lane: RawLane,
    key: PublicKey,
    _peer: RawPeer,
}

impl Member {
    async fn joins(broker: &str, name: &[u8]) -> Self {
        let mut peer = RawPeer::register(address(broker), "127.0.0.2").await;
        let lane = peer.join().await.lane().await;
        let mut member = Member { lane, key: peer.key(), _peer: peer };
        member.sends(&frame(0, name)).await;
        member
    }

    async fn sends(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(MAX_RECORD) {
            self.lane.record(Kind::Data, part).await;
        }
    }

    async fn says(&mut self, line: &str) {
        self.sends(&frame(1, line.as_bytes())).await;
    }
}

/// Reads until a line with this part was said.
async fn hears(lane: &mut RawLane, part: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(part) {
        if let (Kind::Data, bytes) = soon("a line", lane.hear()).await.expect("the chat goes on") {
            heard.extend(bytes);
        }
    }
}

/// Reads until the chat says its end.
async fn hears_end(lane: &mut RawLane) {
    while soon("the end", lane.hear()).await.expect("the chat goes on").0 != Kind::End {}
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Waits for a line on a process's stderr while members go on.
async fn shown(process: Process, part: &str) -> (Process, String) {
    let part = part.to_owned();
    blocking(move || {
        let line = process.says(&part);
        (process, line)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_names_look_alike_and_none_can_be_taken_for_talk() {
    let (broker, home) = (broker(), home());
    let mut reader = Process::start(home.path(), &["chat", "--name", "ann", "--broker", &broker.at]);
    (reader, _) = shown(reader, "you are the first here").await;
    let mut there = Vec::new();
    // As it calls itself, as it is shown, and whether part of its key must tell it from another.
    let cases: [(&str, Option<&str>, bool); 12] = [
        ("ben", Some("ben"), false),
        ("ben", Some("ben"), true),
        ("BEN", Some("BEN"), true),
        // With a Cyrillic letter, and with a full-width one.
        ("b\u{435}n", Some("b\u{435}n"), true),
        ("\u{ff42}en", Some("\u{ff42}en"), true),
        // The reader's own.
        ("ann", Some("ann"), true),
        ("", None, false),
        (" \t\u{a0}\u{3000}", Some("^I"), false),
        ("ann: yes", Some("ann-yes"), false),
        ("* ben left", Some("ben-left"), false),
        ("carl~0000", Some("carl-0000"), false),
        ("a\u{1b}[2J\r\n\u{202e}b\u{200b}\u{2066}\u{7}", Some("a^[[2J^M^J\\u{202e}b\\u{200b}…"), false),
    ];
    for (name, shown_as, needs_key) in cases {
        let member = Member::joins(&broker.at, name.as_bytes()).await;
        let key = member.key.to_string();
        let name = shown_as.map_or_else(|| member.key.nickname(), str::to_owned);
        let name = if needs_key { format!("{name}~{}", &key[..4]) } else { name };
        (reader, _) = shown(reader, &format!("* {name} is here (")).await;
        there.push((member, name));
    }
    // What they say is one line each, under the name that was shown.
    for (member, name) in &mut there {
        member.says("one\r\n* ben left\u{1b}]0;title\u{7}\u{202e}\u{200b}\u{9b}2J").await;
        let wanted = format!("{name}: one^M^J* ben left^[]0;title^G\\u{{202e}}\\u{{200b}}\\u{{9b}}2J");
        reader = blocking(move || {
            assert_eq!(reader.prints(&wanted), wanted);
            reader
        })
        .await;
    }
    let all = reader.out() + &reader.err();
    for bad in ['\u{1b}', '\u{7}', '\r', '\u{202e}', '\u{200b}', '\u{2066}', '\u{9b}'] {
        assert!(!all.contains(bad), "{bad:?} in {all:?}");
    }
    assert_eq!(reader.out().lines().count(), there.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_lines_of_a_megabyte_end_only_who_sends_them() {
    let (broker, home) = (broker(), home());
    let mut reader = Process::start(home.path(), &["chat", "--broker", &broker.at]);
    (reader, _) = shown(reader, "you are the first here").await;
    let mut good = Member::joins(&broker.at, b"good").await;
    (reader, _) = shown(reader, "* good is here").await;
    let megabyte = vec![b'x'; 1_000_000];
    let long_name = Member::joins(&broker.at, &megabyte).await;
    let name = long_name.key.nickname();
    let lost = |name: &str| format!("* {name} is lost: a line is longer than allowed");
    (reader, _) = shown(reader, &lost(&name)).await;
    // Within a frame, but over what a name may be: it is cut.
    let _cut = Member::joins(&broker.at, &megabyte[..MAX_LINE]).await;
    (reader, _) = shown(reader, &format!("* {}… is here", "x".repeat(31))).await;
    let mut long_line = Member::joins(&broker.at, b"talker").await;
    (reader, _) = shown(reader, "* talker is here").await;
    long_line.sends(&frame(1, &megabyte)).await;
    (reader, _) = shown(reader, &lost("talker")).await;
    let mut no_text = Member::joins(&broker.at, b"other").await;
    (reader, _) = shown(reader, "* other is here").await;
    no_text.sends(&frame(1, &[0xff, 0xfe])).await;
    (reader, _) = shown(reader, "* other is lost: the other side does not speak chat").await;
    good.says("still here").await;
    blocking(move || assert_eq!(reader.prints("still here"), "good: still here")).await;
}

#[test]
fn both_sides_of_the_lobby_are_shown_the_same_words() {
    let (broker, home) = (broker(), home());
    let start = |flags: &[&str]| {
        let arguments = [&["chat", "--broker", &broker.at], flags].concat();
        Process::start(home.path(), &arguments)
    };
    let one = start(&["--name", "ann"]);
    one.says("you are the first here");
    let mut two = start(&["--name", "ben", "--json"]);
    let line = one.says("* compare with ben, by voice: ");
    let here = two.event("peer");
    assert_eq!((text(&here, "auth"), here["words"].is_null()), ("none", true));
    let compared = two.event("peer");
    assert_eq!((text(&compared, "id"), text(&compared, "name")), (text(&here, "id"), "ann"));
    let words = text(&compared, "words");
    assert_eq!(words.split(' ').count(), 2);
    assert_eq!(line, format!("* compare with ben, by voice: {words}"));
}

// --- Members that go away ---

/// A private chat, and its other side in the hands of the test.
async fn in_private(broker: &process::Broker, home: &Path) -> (Process, RawLane, RawPeer) {
    let chat = Process::start(home, &["chat", "--new", "--broker", &broker.at]);
    let (chat, line) = shown(chat, "code  ").await;
    let code: Code = line.split_whitespace().last().unwrap().parse().unwrap();
    let mut peer = RawPeer::register(address(&broker.at), "127.0.0.2").await;
    let mut lane = peer.arrive(&code, Verb::ChatJoin).await.lane().await;
    lane.record(Kind::Data, &frame(0, b"ben")).await;
    let (chat, _) = shown(chat, "* ben is here").await;
    (chat, lane, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_chat_whose_last_line_may_be_lost_is_no_success() {
    let (broker, home) = (broker(), home());
    for cut_off in [true, false] {
        let (mut chat, mut lane, _peer) = in_private(&broker, home.path()).await;
        chat.type_line("the last line");
        chat.close_stdin();
        hears(&mut lane, "the last line").await;
        hears_end(&mut lane).await;
        if cut_off {
            drop(lane);
            let told = ended(chat).await.with(8);
            assert!(told.err.contains("connection lost"), "{}", told.err);
        } else {
            lane.record(Kind::End, &[]).await;
            ended(chat).await.with(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_not_hear_the_last_line_in_the_lobby_is_named() {
    let (broker, home) = (broker(), home());
    for (names, exit) in [(&["ben"][..], 8), (&["ben", "cat"], 10)] {
        let mut chat = Process::start(home.path(), &["chat", "--broker", &broker.at]);
        (chat, _) = shown(chat, "you are the first here").await;
        let mut members = Vec::new();
        for name in names {
            // Each is introduced to one other.
            let mut peer = RawPeer::register(address(&broker.at), "127.0.0.2").await;
            let mut lane = peer.join().await.lane().await;
            lane.record(Kind::Data, &frame(0, name.as_bytes())).await;
            (chat, _) = shown(chat, &format!("* {name} is here")).await;
            members.push((lane, peer));
        }
        chat.type_line("the last line");
        chat.close_stdin();
        for (lane, _) in &mut members {
            hears(lane, "the last line").await;
            hears_end(lane).await;
        }
        let ben = members.remove(0);
        drop(ben);
        for (lane, _) in &mut members {
            lane.record(Kind::End, &[]).await;
        }
        let told = ended(chat).await.with(exit);
        assert!(told.err.contains("not everything was delivered to ben\n"), "{}", told.err);
    }
}

/// It says that it lives and takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_in_can_not_hold_who_interrupts() {
    let (broker, home) = (broker(), home());
    let (mut chat, lane, _peer) = in_private(&broker, home.path()).await;
    let mut stdin = chat.take_stdin();
    let fed = std::thread::spawn(move || {
        let line = [&[b'x'; 8000][..], b"\n"].concat();
        let mut lines = 0;
        while std::io::Write::write_all(&mut stdin, &line).is_ok() {
            lines += 1;
        }
        lines
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    chat.signal(nix::sys::signal::Signal::SIGINT);
    ended(chat).await.with(130);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let lines = fed.join().unwrap();
    assert!(lines < 1000, "{lines} lines were taken in for who takes none");
    drop(lane);
}

// --- A broker that lies ---

fn start(home: &Path, broker: &RawBroker, arguments: &[&str]) -> Process {
    let at = broker.at.to_string();
    Process::start(home, &[arguments, &["--broker", &at, "--timeout", "2", "-4"]].concat())
}

async fn serve(broker: &RawBroker) -> Served {
    broker.accept(None).await
}

async fn ended(process: Process) -> Ended {
    blocking(move || process.ends()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lying_broker_did_is_told_with_an_exit_code_of_its_own() {
    let (broker, home) = (RawBroker::start().await, home());
    // It opens no code.
    let listen = start(home.path(), &broker, &["listen"]);
    let link = serve(&broker).await;
    let told = ended(listen).await.with(3);
    assert!(told.err.contains("the broker does not answer"), "{}", told.err);
    drop(link);
    // It answers a claim with a share that is none of the other side's, and then with an answer of its own.
    let code: Code = "412-abandon-zoo".parse().unwrap();
    for (answers, exit, words) in [(false, 4, "the other side does not answer"), (true, 5, "wrong words")] {
        let connect = start(home.path(), &broker, &["connect", "412-abandon-zoo"]);
        let mut link = serve(&broker).await;
        link.hear(|message| matches!(message, ToBroker::Claim { number: 412, .. })).await;
        let (waiter, share) = made_up_share(&broker, &code);
        link.say(FromBroker::Claimed { number: 412, claim: 1, waiter, share }).await;
        link.proof().await;
        if answers {
            let met = Met::CodeArriver { claim: 1, answer: vec![7; 100] };
            link.say(FromBroker::Introduced(introduction(1, waiter, &[address("127.0.0.1:5000")], met)))
                .await;
        }
        let told = ended(connect).await.with(exit);
        assert!(told.err.contains(words), "{}", told.err);
        assert!(!told.err.contains("path  "), "{}", told.err);
    }
    // It tells a waiter of proofs without end.
    let listen = start(home.path(), &broker, &["listen"]);
    let mut link = serve(&broker).await;
    let mut share = link.open(412).await;
    share[0] = 0x42;
    for claim in 0..9 {
        let (peer, share) = (broker.key(), share.clone());
        link.say(FromBroker::Proof { number: 412, claim, peer, share, handshake: vec![7; 60] }).await;
    }
    let told = ended(listen).await.with(5);
    assert!(told.err.contains("the code is burnt"), "{}", told.err);
}

/// The broker is out once members are connected: what it refuses then costs nobody who is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_the_lobby_takes_nobody_away() {
    let (broker, home) = (RawBroker::start().await, home());
    let cases = [
        (About::Join, Refusal::LobbyFull, "the lobby is full", 7),
        (About::Link, Refusal::TooMany, "too much was asked", 3),
    ];
    for (about, refusal, words, exit) in cases {
        let mut chat = start(home.path(), &broker, &["chat", "--name", "ann", "--ephemeral"]);
        let mut link = serve(&broker).await;
        let opener = link.joined().await.remove(0);
        let member = fresh_key();
        let nowhere = [address("127.0.0.1:1025")];
        let told = introduction(1, member.public(), &nowhere, Met::LobbyArriver { opener: 0 });
        link.say(FromBroker::Joined { members: 1, capacity: 16, introductions: 1 }).await;
        link.say(FromBroker::Introduced(told.clone())).await;
        let mut meeting = answer_opener(&member, &told, &opener, link.link.remote);
        meeting.introduction.addresses = vec![link.link.observed()];
        let mut lane = meeting.lane().await;
        lane.record(Kind::Data, &frame(0, b"ben")).await;
        (chat, _) = shown(chat, "* ben is here").await;
        link.say(FromBroker::Refused { about, refusal }).await;
        let (mut chat, line) = shown(chat, "who is here stays").await;
        assert!(line.contains(words), "{line}");
        chat.type_line("still here");
        hears(&mut lane, "still here").await;
        lane.record(Kind::Data, &frame(1, b"so am I")).await;
        chat = blocking(move || {
            assert_eq!(chat.prints("so am I"), "ben: so am I");
            chat
        })
        .await;
        // Nobody is left.
        lane.record(Kind::End, &[]).await;
        hears_end(&mut lane).await;
        drop(lane);
        let told = ended(chat).await.with(exit);
        assert!(told.err.contains("* ben left\n") && told.err.contains(words), "{}", told.err);
    }
}

/// A share of somebody with other words.
fn made_up_share(broker: &RawBroker, code: &Code) -> (PublicKey, Vec<u8>) {
    use tcpunch_core::secure::{Meeting, Pake};
    let other: Code = "412-zoo-zoo".parse().unwrap();
    let meeting = Meeting { broker: broker.key(), number: code.number, verb: tcpunch::Verb::Listen };
    (raw::fresh_key().public(), Pake::waiter(&other.secret, &meeting).share().clone())
}
