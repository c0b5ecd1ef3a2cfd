//! A raw protocol between two peers: a local TCP service, offered to who has the code, as a plain socket.
//!
//! ```sh
//! cargo run --example raw_socket offer BROKER 127.0.0.1:8080    # prints a code
//! cargo run --example raw_socket get CODE /index.html           # one HTTP request to that service
//! ```
//!
//! After authentication both sides give up encryption and have the bare TCP socket: nothing is sealed, copied or
//! counted between the kernel and the application any more. **Everybody on the way can read and change what follows.**
//! That is for what encrypts itself (TLS, ssh) or need not be secret; leave `into_unencrypted_socket` out, and the same
//! code runs on the encrypted connection.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to whoever runs it")]

use std::error::Error;

use tcpunch::{Code, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["offer", broker, service] => offer(broker, service).await,
        ["get", code, path] => get(code, path).await,
        _ => Err("type: raw_socket offer BROKER ADDRESS:PORT, or: raw_socket get CODE /PATH".into()),
    }
}

async fn offer(broker: &str, service: &str) -> Result<(), Box<dyn Error>> {
    let endpoint = Endpoint::builder().broker(broker.parse()?).bind().await?;
    let mut invite = endpoint.invite().await?;
    eprintln!("code {}", invite.code());
    // Only who knows the code comes as far as this.
    let connection = invite.accept().await?;
    let mut peer = connection.into_unencrypted_socket().await?;
    let mut service = TcpStream::connect(service).await?;
    // What the peer had sent before it gave up encryption; this one sends nothing so early.
    service.write_all(&peer.unread).await?;
    copy_bidirectional(&mut peer.socket, &mut service).await?;
    Ok(())
}

async fn get(code: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let code: Code = code.parse()?;
    let broker = code.broker.as_deref().ok_or("the code names no broker")?;
    let endpoint = Endpoint::builder().broker(broker.parse()?).bind().await?;
    let connection = endpoint.connect(code).await?;
    let mut socket = connection.into_unencrypted_socket().await?.socket;
    let request = format!("GET {path} HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // As much as fits a terminal: the other side decides how much it sends.
    socket.take(64 * 1024).read_to_string(&mut answer).await?;
    println!("{answer}");
    Ok(())
}
