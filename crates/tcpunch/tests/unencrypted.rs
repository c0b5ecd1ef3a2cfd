//! From an authenticated connection to its bare socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

use std::io::ErrorKind;
use std::time::Duration;

use rand::{RngCore, SeedableRng};
use tcpunch::{Connection, Endpoint};
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::identity::SecretKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Two ends of one connection.
async fn pair() -> (Connection, Connection) {
    let key = SecretKey::generate(&mut rand::rngs::StdRng::from_os_rng());
    let config = ServerConfig::listening_on("127.0.0.1:0".parse().unwrap(), key);
    let server = Server::bind(config).await.unwrap();
    let at = server.addresses()[0].to_string();
    tokio::spawn(async move { server.run(|_| {}, std::future::pending()).await });
    let endpoint = || async { Endpoint::builder().broker(at.parse().unwrap()).bind().await.unwrap() };
    let (one, two) = (endpoint().await, endpoint().await);
    let mut invite = soon("a code", one.invite()).await.unwrap();
    let code = invite.code().clone();
    let (one, two) = soon("a meeting", async { tokio::join!(invite.accept(), two.connect(code)) }).await;
    (one.unwrap(), two.unwrap())
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn both_sides_get_the_socket_and_nothing_is_lost() {
    let (mut one, mut other) = pair().await;
    let (local, remote) = (one.info().local, one.info().remote);
    // Sealed, and not read before the change.
    let sealed = noise(200_000);
    soon("room", one.write_all(&sealed)).await.unwrap();
    soon("room", other.write_all(b"sealed, too")).await.unwrap();
    let one = tokio::spawn(async move {
        let mut one = one.into_unencrypted_socket().await.unwrap();
        // At once: the other side may be busy with sealed records still.
        one.socket.write_all(b"in the clear from one").await.unwrap();
        one
    });
    let first = other.read_u8().await.unwrap();
    let mut other = soon("the socket", other.into_unencrypted_socket()).await.unwrap();
    let mut one = soon("the socket", one).await.unwrap();
    assert_eq!(first, sealed[0]);
    assert!(other.unread == sealed[1..], "{} of {} bytes", other.unread.len(), sealed.len() - 1);
    assert_eq!(one.unread, b"sealed, too");
    assert_eq!((one.socket.local_addr().unwrap(), one.socket.peer_addr().unwrap()), (local, remote));
    let mut heard = [0; 21];
    soon("bytes", other.socket.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"in the clear from one");
    // Nothing of the record layer is left: no ping, no end.
    other.socket.write_all(b"and back").await.unwrap();
    drop(other);
    let mut rest = Vec::new();
    soon("the end", one.socket.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"and back");
}

#[tokio::test]
async fn many_change_at_every_moment() {
    for round in 0..30_u32 {
        let (mut one, mut other) = pair().await;
        let late = Duration::from_micros(u64::from(round) * 100);
        let (a, b) = soon("both sockets", async {
            tokio::join!(
                async {
                    one.write_all(&noise(round as usize * 777)).await.unwrap();
                    let mut one = one.into_unencrypted_socket().await.unwrap();
                    one.socket.write_all(b"one").await.unwrap();
                    one
                },
                async {
                    other.write_all(b"hello").await.unwrap();
                    tokio::time::sleep(late).await;
                    let mut other = other.into_unencrypted_socket().await.unwrap();
                    other.socket.write_all(b"two").await.unwrap();
                    other
                }
            )
        })
        .await;
        assert!(b.unread == noise(round as usize * 777) && a.unread == b"hello");
        for (mut end, expected) in [(a, b"two"), (b, b"one")] {
            let mut heard = [0; 3];
            soon("bytes", end.socket.read_exact(&mut heard)).await.unwrap();
            assert_eq!(&heard, expected);
        }
    }
}

#[tokio::test]
async fn one_side_alone_gets_nothing() {
    let (one, mut other) = pair().await;
    let reader = tokio::spawn(async move { (other.read_u8().await, other) });
    let error = soon("the refusal", one.into_unencrypted_socket()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let (read, _other) = soon("the loss", reader).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn who_has_ended_can_not_go_on() {
    let (mut one, other) = pair().await;
    one.shutdown().await.unwrap();
    let error = soon("the refusal", one.into_unencrypted_socket()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = soon("the refusal", other.into_unencrypted_socket()).await.unwrap_err();
    assert!(
        [ErrorKind::InvalidInput, ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset]
            .contains(&error.kind()),
        "{error}"
    );
}
