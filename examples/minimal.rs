//! TCP hole punching in about a hundred lines: the idea of tcpunch, and nothing else.
//!
//! ```sh
//! cargo run --example minimal broker                # on a computer that the others can reach
//! cargo run --example minimal client BROKER:7700    # on two others, each behind its NAT
//! ```
//!
//! What is typed at one client is printed at the other ones, and none of it passes the broker.
//!
//! IPv4 on purpose, and plain text on purpose: whoever is on the way can read and change it, and nobody knows who
//! is at the other end. Left out as well: limits, a broker link that is made again, two behind one NAT, other NATs than
//! those that keep one port for all destinations. docs/how-it-works.md explains each step.
#![allow(clippy::print_stdout, reason = "a program that talks to whoever runs it")]

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The direct connections, by the address of the other end.
type Peers = Arc<Mutex<HashMap<SocketAddrV4, TcpStream>>>;

/// How long a peer is called before it is given up.
const PATIENCE: Duration = Duration::from_secs(15);

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["broker"] => broker("0.0.0.0:7700"),
        ["broker", address] => broker(address),
        ["client", broker] => client(broker),
        _ => Err(io::Error::other("type: minimal broker [ADDRESS:PORT], or: minimal client ADDRESS:PORT")),
    }
}

/// Tells everyone under which address the others are seen. That is all a broker has to do.
fn broker(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("broker on {}", listener.local_addr()?);
    let mut clients: Vec<(String, TcpStream)> = Vec::new();
    loop {
        // A client behind a NAT is seen at the NAT's address, and at a port that the NAT has opened for it: its door.
        let (client, seen) = listener.accept()?;
        let seen = seen.to_string();
        println!("{seen} is here");
        // Who never reads must not stop the others.
        client.set_nonblocking(true)?;
        // A link with nothing to read is alive. Clients say nothing: what can be read is the end of one that left.
        clients.retain(
            |(_, link)| matches!(link.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock),
        );
        tell(&client, &seen);
        for (other, link) in &clients {
            // Both hear of each other at the same time, so that both call at the same time.
            tell(link, &seen);
            tell(&client, other);
        }
        clients.push((seen, client));
    }
}

fn tell(mut link: &TcpStream, address: &str) {
    // One write a line, and no harm if the client is gone.
    let _ = link.write_all(format!("{address}\n").as_bytes());
}

fn client(broker: &str) -> io::Result<()> {
    let broker: SocketAddrV4 = broker.parse().map_err(io::Error::other)?;
    // First the listener. Without one, a SYN that comes in before ours has left is refused by our own kernel.
    let any = Ipv4Addr::UNSPECIFIED;
    let socket = socket_at(SocketAddrV4::new(any, 0))?;
    socket.listen(16)?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    // The link comes from the same port: what the NAT opens for it is the door for the others.
    let link = socket_at(SocketAddrV4::new(any, port))?;
    link.connect(&broker.into())?;
    // The address of the network interface that leads to the broker, and the one port.
    let Some(own) = link.local_addr()?.as_socket_ipv4() else { return Err(ErrorKind::Unsupported.into()) };

    let peers = Peers::default();
    let (accepted, dialled) = (peers.clone(), peers.clone());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let peers = accepted.clone();
            thread::spawn(move || talk(stream, &peers));
        }
    });
    thread::spawn(move || {
        // This thread keeps the link open to the end: without it the NAT would close the door.
        let mut addresses = BufReader::new(TcpStream::from(link)).lines().map_while(Result::ok);
        let seen = addresses.next().unwrap_or_default();
        println!("own address {own}, as the broker sees it {seen}");
        for peer in addresses.filter_map(|line| line.parse::<SocketAddrV4>().ok()) {
            let peers = dialled.clone();
            // Nobody dials himself: TCP would connect a socket with itself, and call that a success.
            if peer != own && peer.to_string() != seen {
                thread::spawn(move || punch(own, peer, &peers));
            }
        }
        println!("the broker is gone; who is connected stays so");
    });
    for line in io::stdin().lines() {
        let line = line? + "\n";
        everyone(&peers).retain(|_, stream| stream.write_all(line.as_bytes()).is_ok());
    }
    Ok(())
}

/// A socket on the one local port. Each of them needs both flags, or the kernel says that the port is in use.
fn socket_at(local: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Calls the peer from our door to its door, until we are connected.
fn punch(own: SocketAddrV4, peer: SocketAddrV4, peers: &Peers) {
    let began = Instant::now();
    while let Some(left) = PATIENCE.checked_sub(began.elapsed()) {
        // Its SYN may have been the one that came through: then the listener has the connection.
        if everyone(peers).contains_key(&peer) {
            return;
        }
        // Our SYN opens our NAT for the peer's. If the peer's NAT is still closed and drops ours, the kernel repeats it.
        let call =
            socket_at(own).and_then(|socket| Ok((socket.connect_timeout(&peer.into(), left)?, socket)));
        if let Ok(((), socket)) = call {
            return talk(socket.into(), peers);
        }
        // Refused: the peer's NAT is still closed and said so, and its answer has closed our door on the way in. Address in
        // use: the peer's SYN was first, and the connection is about to come out of the listener. Both mean: soon
        // again, at a random moment, because two that keep the same step would miss each other for ever.
        let pause = (began.elapsed() / 10).max(Duration::from_millis(10));
        let random = RandomState::new().hash_one(peer) % 1_000;
        thread::sleep(pause.mul_f64(0.5 + random as f64 / 1_000.0));
    }
    println!("no way to {peer}");
}

/// Prints what comes over a direct connection.
fn talk(stream: TcpStream, peers: &Peers) {
    let (Ok(local), Ok(std::net::SocketAddr::V4(peer)), Ok(writer)) =
        (stream.local_addr(), stream.peer_addr(), stream.try_clone())
    else {
        return;
    };
    // Two kernels hold one connection between two pairs of address and port, so there is never a second one to sort out,
    // even where both sides have called: then the two calls are one connection (simultaneous open).
    everyone(peers).insert(peer, writer);
    println!("connected {local} <-> {peer}");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        // Quoted and escaped: what others write must not steer this terminal.
        println!("{peer} says {line:?}");
    }
    everyone(peers).remove(&peer);
    println!("{peer} left");
}

fn everyone(peers: &Peers) -> std::sync::MutexGuard<'_, HashMap<SocketAddrV4, TcpStream>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}
