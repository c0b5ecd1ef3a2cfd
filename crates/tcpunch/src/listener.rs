//! What comes in at the port: read a tag, find its attempt, hand it over. Strangers get no further.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcpunch_core::limits::{ACCEPT_PAUSE, TAG_WITHIN, UNKNOWN_ACCEPTED, UNKNOWN_ACCEPTED_PER_ADDRESS};
use tcpunch_core::rendezvous::subscriber;
use tcpunch_core::secure::{PREAMBLE, SALT, Tag, parse_preamble};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::attempt;
use crate::port::Port;

/// A connection that came in with a known tag.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    pub(crate) salt: [u8; SALT],
    /// Bytes of the handshake message that follow.
    pub(crate) handshake: usize,
}

/// Which of the connections that wait, oldest first, makes room for one more from this subscriber.
fn to_drop(waiting: impl ExactSizeIterator<Item = IpAddr> + Clone, from: IpAddr) -> Option<usize> {
    let same = waiting.clone().filter(|other| *other == from).count();
    if same >= UNKNOWN_ACCEPTED_PER_ADDRESS {
        waiting.into_iter().position(|other| other == from)
    } else {
        (waiting.len() >= UNKNOWN_ACCEPTED).then_some(0)
    }
}

/// Which tags are expected, and by which attempt.
pub(crate) struct Router {
    expected: Mutex<HashMap<Tag, mpsc::Sender<attempt::Message>>>,
    changed: watch::Sender<u64>,
}

/// Ends the expectation when dropped.
pub(crate) struct Expectation {
    router: Arc<Router>,
    tag: Tag,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.router.lock().remove(&self.tag);
    }
}

impl Router {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Router { expected: Mutex::new(HashMap::new()), changed: watch::channel(0).0 })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tag, mpsc::Sender<attempt::Message>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections with this tag go to that attempt from now on, also those that wait already.
    pub(crate) fn expect(self: &Arc<Self>, tag: Tag, attempt: mpsc::Sender<attempt::Message>) -> Expectation {
        self.lock().insert(tag, attempt);
        self.changed.send_modify(|version| *version += 1);
        Expectation { router: self.clone(), tag }
    }

    /// Accepts for ever.
    pub(crate) async fn serve(self: Arc<Self>, port: Arc<Port>) {
        let mut unknown: Vec<(u64, IpAddr, AbortHandle)> = Vec::new();
        let mut readers = JoinSet::new();
        let mut number = 0;
        loop {
            tokio::select! {
                accepted = port.accept() => {
                    let Ok((stream, remote)) = accepted else {
                        // Out of descriptors, or of memory: trying at once again would spin.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    let from = subscriber(remote.ip());
                    if let Some(oldest) = to_drop(unknown.iter().map(|(_, from, _)| *from), from) {
                        unknown.remove(oldest).2.abort();
                    }
                    number += 1;
                    let router = self.clone();
                    let own = number;
                    let task = readers.spawn(async move {
                        let _ = tokio::time::timeout(TAG_WITHIN, router.admit(stream, remote)).await;
                        own
                    });
                    unknown.push((number, from, task));
                }
                Some(ended) = readers.join_next() => {
                    if let Ok(ended) = ended {
                        unknown.retain(|(number, _, _)| *number != ended);
                    }
                }
            }
        }
    }

    async fn admit(&self, mut stream: TcpStream, remote: SocketAddr) {
        let mut head = [0; PREAMBLE];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let Ok((tag, salt, handshake)) = parse_preamble(&head) else { return };
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let attempt = self.lock().get(&tag).cloned();
            if let Some(attempt) = attempt {
                let arrival = Arrival { stream, remote, salt, handshake };
                let _ = attempt.send(attempt::Message::Arrived(arrival)).await;
                return;
            }
            // The peer may have heard of the introduction before this side.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_pushes_out_only_itself() {
        let ip = |text: &str| subscriber(text.parse().unwrap());
        let crowd = ["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"].map(ip);
        assert_eq!(to_drop(crowd.into_iter(), ip("2001:db8::4")), None);
        let crowd = [&crowd[..], &[ip("2001:db8::4")]].concat();
        assert_eq!(to_drop(crowd.iter().copied(), ip("2001:db8::5")), Some(1), "all of one /64");
        assert_eq!(to_drop(crowd.iter().copied(), ip("2001:db8:0:1::1")), None);
        let full: Vec<IpAddr> = (0..UNKNOWN_ACCEPTED as u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(to_drop(full.iter().copied(), ip("192.0.2.1")), Some(0));
    }
}
