//! Learning how the own network behaves: carries out a [`Survey`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tcpunch_core::limits::ACCEPT_PAUSE;
use tcpunch_core::profile::{NatProfile, Sample};
use tcpunch_core::survey::{ConnectionId, Output, Port as From, Survey};
use tcpunch_core::wire::{KnockAnswer, Probe};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::port::{self, Dialling, Families, Port};

/// What the broker says during a survey.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    /// Where it saw the connection with this question.
    Observed([u8; 8], SocketAddr),
    /// What came of its knock at that connection; whether from elsewhere.
    Knocked([u8; 8], bool, KnockAnswer),
}

/// Messages of the broker that may wait for a survey: it answers all questions at once.
pub(crate) const SAID: usize = 64;

struct Connected {
    connection: ConnectionId,
    local: SocketAddr,
    at: Instant,
    stream: TcpStream,
}

/// Learns what can be learnt, and tells what is known whenever it is more. Ends at once where that is nothing.
///
/// `door` is what is known from the link; `token` the broker's half of the token; `probes` where else the broker
/// observes.
pub(crate) async fn survey(
    door: Sample,
    probes: Vec<Probe>,
    token: [u8; 8],
    mut said: mpsc::Receiver<Said>,
    learnt: mpsc::Sender<NatProfile>,
) {
    let Some(mut survey) = Survey::begin(Instant::now(), door, &probes, &mut rand::rng()) else { return };
    let mut kept: HashMap<u8, Port> = HashMap::new();
    let mut dialling: JoinSet<Result<Connected, ConnectionId>> = JoinSet::new();
    // Held until the end: a closed connection may take its mapping along.
    let mut held: Vec<TcpStream> = Vec::new();
    loop {
        match survey.poll(Instant::now()) {
            Output::Connect { connection, from, destination, preface, question } => {
                let begun = local_port(&mut kept, from)
                    .and_then(|port| port::begin(Some(door.local.ip()), port, destination).ok());
                match begun {
                    Some(begun) => {
                        let greeting = [&preface.encode()[..], &token, &question].concat();
                        dialling.spawn(async move {
                            greet(connection, begun, &greeting).await.map_err(|_| connection)
                        });
                    }
                    None => survey.failed(connection),
                }
            }
            Output::Learnt(profile) => {
                if learnt.send(profile).await.is_err() {
                    return;
                }
            }
            Output::Wait(until) => tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                said = said.recv() => match said {
                    Some(Said::Observed(question, from)) => survey.observed(Instant::now(), question, from),
                    Some(Said::Knocked(question, elsewhere, answer)) => {
                        survey.knocked(question, elsewhere, answer);
                    }
                    None => return,
                },
                Some(dialled) = dialling.join_next() => match dialled {
                    Ok(Ok(Connected { connection, local, at, stream })) => {
                        survey.connected(at, connection, local);
                        held.push(stream);
                    }
                    Ok(Err(connection)) => survey.failed(connection),
                    Err(_) => {}
                },
                () = knocks(&kept) => {}
            },
            Output::Finished => break,
        }
    }
    // A NAT forgets what was reset sooner, and its ports are few.
    for stream in held {
        port::abort(&stream);
    }
}

/// The local port to use; 0 is any free one.
fn local_port(kept: &mut HashMap<u8, Port>, from: From) -> Option<u16> {
    let From::Kept(number) = from else { return Some(0) };
    if let Some(port) = kept.get(&number) {
        return Some(port.number());
    }
    let families = Families { v4: true, v6: false };
    let port = Port::acquire(None, families, &mut rand::rng()).ok()?;
    let local = port.number();
    kept.insert(number, port);
    Some(local)
}

async fn greet(connection: ConnectionId, begun: Dialling, greeting: &[u8]) -> io::Result<Connected> {
    let mut stream = begun.finish().await.map_err(|failed| failed.error)?;
    let (at, local) = (Instant::now(), stream.local_addr()?);
    stream.write_all(greeting).await?;
    Ok(Connected { connection, local, at, stream })
}

/// Takes in who knocks, and lets go of it.
async fn knocks(kept: &HashMap<u8, Port>) {
    let mut ports = kept.values();
    let one = async |port: Option<&Port>| match port {
        Some(port) => {
            if port.accept().await.is_err() {
                // Without descriptors it fails again at once.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        None => std::future::pending().await,
    };
    let (first, second, third) = (ports.next(), ports.next(), ports.next());
    tokio::select! {
        () = one(first) => {}
        () = one(second) => {}
        () = one(third) => {}
    }
}
