//! Chat with the library: everyone in the broker's lobby, or two who share a code.
//!
//! ```sh
//! cargo run --example chat BROKER        # with everyone in the lobby
//! cargo run --example chat BROKER new    # in private: prints a code
//! cargo run --example chat CODE          # in private: whoever has the code
//! ```
#![allow(clippy::print_stdout, reason = "a program that talks to whoever runs it")]

use std::error::Error;
use std::io;

use tcpunch::{BrokerAddress, Code, Connection, Endpoint, LobbyNews};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::broadcast;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // What is typed goes to the task of each connection.
    let (lines, typed) = broadcast::channel(64);
    let keyboard = tokio::spawn(read_keyboard(lines));
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [word] => match word.parse::<Code>() {
            Ok(code) => {
                let broker = code.broker.as_deref().ok_or("the code names no broker")?.parse()?;
                talk(endpoint(broker).await?.connect(code).await?, typed).await?;
            }
            // No code, so a broker.
            Err(_) => lobby(endpoint(word.parse()?).await?, typed, keyboard).await?,
        },
        [broker, "new"] => {
            // The code waits as long as the endpoint that opened it.
            let endpoint = endpoint(broker.parse()?).await?;
            let mut invite = endpoint.invite().await?;
            println!("code {}", invite.code());
            talk(invite.accept().await?, typed).await?;
        }
        _ => return Err("type a broker's address, or a code".into()),
    }
    Ok(())
}

async fn endpoint(broker: BrokerAddress) -> Result<Endpoint, tcpunch::BindError> {
    Endpoint::builder().broker(broker).bind().await
}

async fn read_keyboard(lines: broadcast::Sender<String>) {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = input.next_line().await {
        // An error means that nobody is there yet.
        let _ = lines.send(line + "\n");
    }
}

/// A direct connection to everyone; who comes later is connected as well.
async fn lobby(
    endpoint: Endpoint,
    typed: broadcast::Receiver<String>,
    mut keyboard: tokio::task::JoinHandle<()>,
) -> Result<(), Box<dyn Error>> {
    let mut lobby = endpoint.lobby();
    let mut talks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            news = lobby.news() => match news {
                LobbyNews::Connected(connection) => { talks.spawn(talk(*connection, typed.resubscribe())); }
                LobbyNews::Unreachable(peer, why) => println!("{} can't be reached: {why}", peer.nickname()),
                LobbyNews::Refused(error) => return Err(error.into()),
                LobbyNews::Joined { .. } | LobbyNews::Introduced(_) | LobbyNews::Left(_) => {}
            },
            // The end of the input is the end of all talks; each says so to its peer.
            _ = &mut keyboard => break,
        }
    }
    talks.join_all().await;
    Ok(())
}

/// Lines to the peer and from the peer, until one of the two has no more to say.
async fn talk(connection: Connection, mut typed: broadcast::Receiver<String>) -> io::Result<()> {
    let name = connection.peer().nickname();
    println!("{name} is here ({}, not through the broker)", connection.info().path);
    // One task may read while another writes: shared references do both.
    let (mut reader, mut writer) = (&connection, &connection);
    let mut heard = [0; 1024];
    loop {
        tokio::select! {
            line = typed.recv() => match line {
                Ok(line) => writer.write_all(line.as_bytes()).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => println!("{missed} lines were too fast"),
                Err(broadcast::error::RecvError::Closed) => break,
            },
            length = reader.read(&mut heard) => match heard.get(..length?).unwrap_or_default() {
                [] => break,
                // Quoted and escaped: what others write must not steer this terminal.
                text => String::from_utf8_lossy(text).lines().for_each(|line| println!("{name} says {line:?}")),
            },
        }
    }
    println!("{name} left");
    connection.close().await
}
