//! Learning how the own network behaves, on scratch ports: the port of the link is never a test
//! object, because a reset on a test connection can close its mapping in a NAT.

use std::net::{IpAddr, SocketAddr};

use rand::Rng;
use tcpunch_core::limits::OBSERVE_WITHIN;
use tcpunch_core::profile::{NatProfile, Sample, classify};
use tcpunch_core::wire::Preface;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::port;

/// An observation that the broker reports: the question and where it came from.
pub(crate) type Observed = ([u8; 8], SocketAddr);

/// Connects from one scratch port to several ports of the broker and compares what it saw.
///
/// `door` is what is known from the link; `token` the broker's half of the token. Returns after
/// [`OBSERVE_WITHIN`] at the latest, with what is known by then.
pub(crate) async fn mapping(
    door: Sample,
    source: IpAddr,
    broker: IpAddr,
    ports: Vec<u16>,
    token: [u8; 8],
    mut observed: mpsc::Receiver<Observed>,
) -> NatProfile {
    let mut samples = vec![door];
    let work = async {
        let mut scratch = 0;
        let mut asked: Vec<([u8; 8], SocketAddr, SocketAddr)> = Vec::new();
        // Held until the end: a closed connection may take its mapping along.
        let mut held: Vec<TcpStream> = Vec::new();
        for port in ports {
            let destination = SocketAddr::new(broker, port);
            let Ok(mut stream) = port::dial(Some(source), scratch, destination).await else { continue };
            let Ok(local) = stream.local_addr() else { continue };
            scratch = local.port();
            let question: [u8; 8] = rand::rng().random();
            let greeting = [&Preface::Observe.encode()[..], &token, &question].concat();
            if stream.write_all(&greeting).await.is_ok() {
                asked.push((question, local, destination));
                held.push(stream);
            }
        }
        while !asked.is_empty() {
            let Some((question, from)) = observed.recv().await else { break };
            if let Some(at) = asked.iter().position(|(own, ..)| *own == question) {
                let (_, local, destination) = asked.swap_remove(at);
                samples.push(Sample { local, destination, observed: from });
            }
        }
    };
    let _ = tokio::time::timeout(OBSERVE_WITHIN, work).await;
    classify(&samples)
}
