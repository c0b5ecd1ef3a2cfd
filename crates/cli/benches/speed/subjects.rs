//! What is measured beside the program itself: this file's own binary, started again in a host of the lab.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tcpunch::{Endpoint, Families};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a copy moves at a time; the program's pipe does the same.
const CHUNK: usize = 64 * 1024;
/// Where the plain baselines listen; forwarded by the NAT.
pub(crate) const PORT: u16 = 4000;

pub(crate) const PLAIN_SEND: &str = "plain-send";
pub(crate) const PLAIN_RECEIVE: &str = "plain-receive";
pub(crate) const PLAIN_CAT_SEND: &str = "plain-cat-send";
pub(crate) const PLAIN_CAT_RECEIVE: &str = "plain-cat-receive";
pub(crate) const LIBRARY_SEND: &str = "library-send";
pub(crate) const LIBRARY_RECEIVE: &str = "library-receive";

pub(crate) fn is_one(argument: &str) -> bool {
    [PLAIN_SEND, PLAIN_RECEIVE, PLAIN_CAT_SEND, PLAIN_CAT_RECEIVE, LIBRARY_SEND, LIBRARY_RECEIVE]
        .contains(&argument)
}

/// Runs one; says `{"event":"ready"}` when it waits and `{"event":"path"}` when it is connected.
pub(crate) fn run(subject: &str, arguments: &[String]) {
    match subject {
        PLAIN_SEND => plain_send(arguments[0].parse().unwrap()),
        PLAIN_RECEIVE => plain_receive(&arguments[0]),
        PLAIN_CAT_SEND => {
            let mut peer = accept();
            copy(&mut std::io::stdin().lock(), &mut peer);
        }
        PLAIN_CAT_RECEIVE => {
            let mut peer = dial(&arguments[0]);
            copy(&mut peer, &mut std::io::stdout().lock());
        }
        LIBRARY_SEND => in_runtime(library_send(&arguments[0], arguments[1].parse().unwrap())),
        LIBRARY_RECEIVE => in_runtime(library_receive(&arguments[0], &arguments[1])),
        other => panic!("{other} is none"),
    }
}

fn say(event: &str) {
    eprintln!("{{\"event\":\"{event}\"}}");
}

fn accept() -> TcpStream {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    say("ready");
    let (peer, _) = listener.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    say("path");
    peer
}

fn dial(address: &str) -> TcpStream {
    let peer = TcpStream::connect(address).unwrap();
    peer.set_nodelay(true).unwrap();
    say("path");
    peer
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).unwrap();
        if length == 0 {
            return;
        }
        to.write_all(&buffer[..length]).unwrap();
    }
}

fn plain_send(bytes: u64) {
    let mut peer = accept();
    let chunk = vec![7; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = chunk.len().min(usize::try_from(left).unwrap());
        peer.write_all(&chunk[..part]).unwrap();
        left -= part as u64;
    }
}

fn plain_receive(address: &str) {
    let mut peer = dial(address);
    let mut buffer = vec![0; CHUNK];
    while peer.read(&mut buffer).unwrap() > 0 {}
}

fn in_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work);
}

async fn endpoint(broker: &str) -> Endpoint {
    let families = Families { v4: true, v6: false };
    Endpoint::builder().broker(broker.parse().unwrap()).families(families).bind().await.unwrap()
}

async fn library_send(broker: &str, bytes: u64) {
    let endpoint = endpoint(broker).await;
    let mut invite = endpoint.invite().await.unwrap();
    eprintln!("{{\"event\":\"code\",\"code\":\"{}\"}}", invite.code());
    let mut connection = invite.accept().await.unwrap();
    say("path");
    let chunk = vec![7; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let part = chunk.len().min(usize::try_from(left).unwrap());
        connection.write_all(&chunk[..part]).await.unwrap();
        left -= part as u64;
    }
    connection.shutdown().await.unwrap();
    connection.close().await.unwrap();
}

async fn library_receive(broker: &str, code: &str) {
    let endpoint = endpoint(broker).await;
    let mut connection = endpoint.connect(code.parse().unwrap()).await.unwrap();
    say("path");
    let mut buffer = vec![0; CHUNK];
    while connection.read(&mut buffer).await.unwrap() > 0 {}
    connection.shutdown().await.unwrap();
    connection.close().await.unwrap();
}
