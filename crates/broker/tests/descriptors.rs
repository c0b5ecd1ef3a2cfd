//! A broker whose process is out of descriptors. Alone in its file: the limit is of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs::File;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::identity::SecretKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

fn busy() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let spent = usage.user_time() + usage.system_time();
    Duration::from_micros(spent.num_microseconds().unsigned_abs())
}

#[tokio::test]
async fn without_descriptors_accepting_pauses_and_then_goes_on() {
    setrlimit(Resource::RLIMIT_NOFILE, 128, 128).unwrap();
    let key = SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(1));
    let config = ServerConfig::listening_on("127.0.0.1:0".parse().unwrap(), key);
    let server = Server::bind(config).await.unwrap();
    let address = server.addresses()[0];
    let running = tokio::spawn(server.run(drop, std::future::pending()));
    sleep(Duration::from_millis(50)).await;

    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.pop();
    // The last descriptor is the client's, so the broker's accept has none.
    let mut client = TcpStream::connect(address).await.unwrap();
    assert!(File::open("/dev/null").is_err());
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let before = busy();
    let early = timeout(Duration::from_millis(500), client.read(&mut [0])).await;
    assert!(early.is_err(), "accepted without a descriptor: {early:?}");
    let spent = busy() - before;
    assert!(spent < Duration::from_millis(100), "spun for {spent:?}");

    drop(files);
    let count = timeout(Duration::from_secs(20), client.read(&mut [0])).await;
    assert_eq!(count.expect("closed in time").unwrap_or(0), 0);
    assert!(!running.is_finished());
}
