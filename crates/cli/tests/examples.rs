//! The examples as their readers run them: processes, over loopback, with a broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test that meets what it does not expect is to fail; what it shares with others has more than it needs"
)]

#[path = "support/example.rs"]
mod example;
#[path = "cli/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use example::example;
use process::{Process, SOON, broker, home};

fn start(home: &tempfile::TempDir, name: &str, words: &[&str]) -> Process {
    let mut command = Command::new(example(name));
    command.args(words);
    Process::spawn(home.path(), command)
}

fn last_word(line: &str) -> String {
    line.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn minimal_needs_its_broker_only_to_meet() {
    let home = home();
    let host = start(&home, "minimal", &["broker", "127.0.0.1:0"]);
    let at = last_word(&host.prints("broker on "));
    let mut clients: Vec<Process> = (0..3).map(|_| start(&home, "minimal", &["client", &at])).collect();
    let doors: Vec<String> = clients.iter().map(|client| last_word(&client.prints("own address "))).collect();
    for (client, own) in clients.iter().zip(&doors) {
        for other in doors.iter().filter(|other| *other != own) {
            client.prints(&format!("connected {own} <-> {other}"));
        }
    }
    drop(host);
    for client in &clients {
        client.prints("the broker is gone");
    }
    for speaker in 0..clients.len() {
        clients[speaker].type_line("it's \u{1b}[31mme");
        for listener in (0..clients.len()).filter(|listener| *listener != speaker) {
            clients[listener].prints(&format!("{} says \"it's \\u{{1b}}[31mme\"", doors[speaker]));
        }
    }
    clients[0].close_stdin();
    clients[1].prints(&format!("{} left", doors[0]));
    clients.swap_remove(0).ends().with(0);
}

#[test]
fn chat_in_the_lobby() {
    let (broker, home) = (broker(), home());
    let mut chats: Vec<Process> = (0..3).map(|_| start(&home, "chat", &[&broker.at])).collect();
    for chat in &chats {
        let here = " is here (lan, not through the broker)";
        let until = Instant::now() + SOON;
        while chat.out().matches(here).count() < 2 {
            assert!(Instant::now() < until, "not two are here:\n{}", chat.out());
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    chats[0].type_line("to everyone");
    for chat in &chats[1..] {
        chat.prints(" says \"to everyone\"");
    }
    for chat in &mut chats {
        chat.close_stdin();
    }
    for chat in chats {
        chat.ends().with(0);
    }
}

#[test]
fn chat_in_private() {
    let (broker, home) = (broker(), home());
    let mut one = start(&home, "chat", &[&broker.at, "new"]);
    let mut other = start(&home, "chat", &[&last_word(&one.prints("code "))]);
    for chat in [&one, &other] {
        chat.prints(" is here (lan, not through the broker)");
    }
    one.type_line("for one alone");
    other.prints(" says \"for one alone\"");
    other.type_line("and back");
    one.prints(" says \"and back\"");
    one.close_stdin();
    other.prints(" left");
    other.close_stdin();
    one.ends().with(0);
    other.ends().with(0);
}

#[test]
fn pipe_moves_every_byte_and_ends() {
    let (broker, home) = (broker(), home());
    let mut listener = start(&home, "pipe", &["listen", &broker.at]);
    let mut connector = start(&home, "pipe", &["connect", &last_word(&listener.says("code "))]);
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut input, sent) = (listener.take_stdin(), bytes.clone());
    let feeder = std::thread::spawn(move || input.write_all(&sent).unwrap());
    connector.type_line("thanks");
    connector.close_stdin();
    feeder.join().unwrap();
    assert_eq!(listener.ends().with(0).out, b"thanks\n");
    assert!(connector.ends().with(0).out == bytes, "other bytes came");
}

#[test]
fn raw_socket_carries_http() {
    let (broker, home) = (broker(), home());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = service.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut client, _) = service.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 512];
        while !request.ends_with(b"\r\n\r\n") {
            let length = client.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the request has no end");
            request.extend_from_slice(&buffer[..length]);
        }
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    let offer = start(&home, "raw_socket", &["offer", &broker.at, &at]);
    let get = start(&home, "raw_socket", &["get", &last_word(&offer.says("code ")), "/greeting"]);
    assert!(get.ends().with(0).text().ends_with("\r\n\r\nhello\n\n"));
    assert!(server.join().unwrap().starts_with("GET /greeting HTTP/1.1\r\n"));
    offer.ends().with(0);
}
