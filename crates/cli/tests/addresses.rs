//! What a broker's operator gets to see of peers' addresses: nothing, unless asked for.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[allow(dead_code, reason = "shared with the other tests of the program")]
#[path = "cli/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use process::{Ended, SOON, broker_with, events, home, text};
use tcpunch_core::identity::SecretKey;
use tcpunch_core::profile::NatProfile;
use tcpunch_core::secure::{LinkHandshake, LinkSealer, Pattern};
use tcpunch_core::wire::{self, Preface, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PEER: &str = "127.11.22.33";

fn block(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{PEER}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn read_block(stream: &mut TcpStream) -> Vec<u8> {
    let length = stream.read_u16().await.unwrap();
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// A registered member of the lobby.
async fn member(to: SocketAddr) -> (TcpStream, LinkSealer) {
    let mut stream = connect(to).await;
    let preface = Preface::Link(Pattern::Xx).encode();
    let mut handshake = LinkHandshake::peer(&SecretKey::generate(&mut rand::rng()), None, &preface).unwrap();
    stream.write_all(&preface).await.unwrap();
    while !handshake.is_finished() {
        if handshake.is_my_turn() {
            stream.write_all(&block(&handshake.write(&[]).unwrap())).await.unwrap();
        } else {
            handshake.read(&read_block(&mut stream).await).unwrap();
        }
    }
    let (mut sealer, _) = handshake.finish();
    let join = ToBroker::Join { connected: vec![], openers: vec![vec![7; 34]; 15] };
    for message in [ToBroker::Register { profile: NatProfile::default() }, join] {
        stream.write_all(&sealer.seal(wire::encode(&message).unwrap()).unwrap()).await.unwrap();
    }
    // It has joined.
    read_block(&mut stream).await;
    (stream, sealer)
}

/// Peers do what ends well and what does not, all from [`PEER`]. Returns what the broker wrote.
fn written(arguments: &[&str]) -> Ended {
    let mut all = vec!["--listen", "127.0.0.1:0"];
    all.extend(arguments);
    let broker = broker_with(home(), &all);
    let at = broker.at.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _one = member(at).await;
        let (mut two, _) = member(at).await;
        // Introduced, and Go.
        read_block(&mut two).await;
        read_block(&mut two).await;
        let mut other = Preface::Link(Pattern::Ik).encode();
        other[7] = wire::VERSION + 1;
        let foreign = b"GET / HTTP/1.1\r\n\r\n";
        for bytes in [&other[..], foreign, &[&Preface::Link(Pattern::Ik).encode()[..], &[0xff; 90]].concat()]
        {
            let mut stream = connect(at).await;
            stream.write_all(bytes).await.unwrap();
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
        }
        // What is no frame ends the link.
        two.write_all(&block(&[0; 40])).await.unwrap();
        while two.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
    });
    broker.process.signal(nix::sys::signal::Signal::SIGTERM);
    broker.process.ends_within(SOON)
}

#[test]
fn without_the_flag_no_address_is_written_at_any_verbosity() {
    for arguments in [&[][..], &["-v"], &["-q"]] {
        let ended = written(arguments);
        let all = format!("{}{}", String::from_utf8_lossy(&ended.out), ended.err);
        assert!(all.contains("registered"), "{all}");
        assert!(!all.contains(PEER), "{arguments:?}: {all}");
    }
}

#[test]
fn what_is_written_instead_is_the_same_for_one_address() {
    let ended = written(&["-v"]);
    let mut seen = BTreeSet::new();
    for event in events(&String::from_utf8_lossy(&ended.out)) {
        match text(&event, "event") {
            "registered" => {
                seen.insert(text(&event, "from").to_owned());
            }
            "introduced" => {
                for side in ["arriver", "waiter"] {
                    seen.insert(event[side]["addresses"][0].as_str().unwrap().to_owned());
                }
            }
            _ => {}
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.len() == 9 && seen.starts_with('~')), "{seen:?}");
}

#[test]
fn with_the_flag_addresses_are_written() {
    let ended = written(&["--log-addresses"]);
    let registered = events(&String::from_utf8_lossy(&ended.out))
        .into_iter()
        .find(|event| event["event"] == "registered")
        .unwrap();
    assert!(text(&registered, "from").starts_with(PEER), "{registered}");
}
