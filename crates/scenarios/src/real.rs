//! The library and the broker as they are, one thread on each host of a lab.

mod names;
mod peer;

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use natlab::Error;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::identity::SecretKey;
use tcpunch_core::limits::{BROKER_PORT, PROBE_PORT};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::NatProfile;
use tokio::sync::oneshot;

use crate::{Outcome, Scenario};
use peer::{Part, Played, Seat};

/// How long the broker may take to listen; a busy machine takes a fraction of a second.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// A host of either lab.
pub(crate) trait Machine {
    /// Starts a thread inside.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Error>;
}

impl Machine for natlab::kernel::Host {
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Error> {
        (**self).spawn(work)
    }
}

impl Machine for natlab::netns::Host {
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Error> {
        Self::spawn(self, work)
    }
}

/// Who plays where.
pub(crate) struct Cast<'a, M> {
    /// The broker's host.
    pub(crate) broker: &'a M,
    /// What the broker is told of its own public address, where it can't know it.
    pub(crate) public: Option<IpAddr>,
    /// The waiter's and the arriver's.
    pub(crate) sides: [&'a M; 2],
    /// Where each of them reaches the broker.
    pub(crate) reached_at: [Vec<IpAddr>; 2],
    /// Whether each of them has IPv6.
    pub(crate) ipv6: [bool; 2],
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Play {
    pub(crate) sides: [Outcome; 2],
    pub(crate) since_claim: Option<Duration>,
}

/// Whether a SYN to there is one toward the broker.
pub(crate) fn is_broker(to: SocketAddr, reached_at: &[IpAddr]) -> bool {
    reached_at.contains(&to.ip()) && [BROKER_PORT, PROBE_PORT].contains(&to.port())
}

/// Lets the two meet, who both fire by these rules.
///
/// # Errors
/// The lab can't start a thread, or the broker can't listen.
pub(crate) fn play<M: Machine>(scenario: &Scenario, rules: Rules, cast: &Cast<'_, M>) -> Result<Play, Error> {
    let (listening, listens) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let public = cast.public;
    let broker = cast.broker.spawn(move || serve(public, None, &listening, stopped))?;
    wait_for(&listens)?;
    let (tell, told) = oneshot::channel();
    let seat = |at: usize| Seat {
        broker: cast.reached_at.get(at).cloned().unwrap_or_default(),
        timeout: scenario.timeout,
        rules,
        late: scenario.sides.get(at).map_or(Duration::ZERO, |side| side.late),
        ipv6: cast.ipv6.get(at).copied().unwrap_or_default(),
    };
    let [waits, arrives] = cast.sides;
    let waiter = {
        let seat = seat(0);
        waits.spawn(move || peer::play(&seat, Part::Waits(tell)))?
    };
    let arriver = {
        let seat = seat(1);
        arrives.spawn(move || peer::play(&seat, Part::Arrives(told)))
    };
    let ended = |thread: JoinHandle<Played>| {
        thread.join().unwrap_or_else(|_| Played::broken("the peer's thread panicked"))
    };
    let arriver = arriver.map(ended);
    let waiter = ended(waiter);
    drop(stop);
    let _ = broker.join();
    let arriver = arriver?;
    let connected = |played: &Played| match played.outcome {
        Outcome::Connected { .. } => played.ended,
        Outcome::NoPath { .. } | Outcome::Broken(_) => None,
    };
    let later: Option<Instant> = match (connected(&waiter), connected(&arriver)) {
        (Some(one), Some(other)) => Some(one.max(other)),
        _ => None,
    };
    let since_claim = later.zip(arriver.claimed).map(|(later, claimed)| later - claimed);
    Ok(Play { sides: [waiter.outcome, arriver.outcome], since_claim })
}

/// Lets a peer learn of its own network all that it can from a broker, which may have a second address.
///
/// # Errors
/// The lab can't start a thread, the broker can't listen, or the peer does not come to an end.
pub(crate) fn survey<M: Machine>(
    broker: &M,
    public: Option<IpAddr>,
    second: Option<IpAddr>,
    peer: &M,
    at: Vec<IpAddr>,
) -> Result<NatProfile, Error> {
    let (listening, listens) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let broker = broker.spawn(move || serve(public, second, &listening, stopped))?;
    wait_for(&listens)?;
    let learnt = peer.spawn(move || peer::survey(&at));
    let learnt =
        learnt.map(|thread| thread.join().unwrap_or_else(|_| Err("the peer's thread panicked".into())));
    drop(stop);
    let _ = broker.join();
    learnt?.map_err(Error::OutOfRange)
}

fn wait_for(listens: &mpsc::Receiver<Result<(), String>>) -> Result<(), Error> {
    match listens.recv_timeout(LISTENS_WITHIN) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(Error::OutOfRange(format!("no broker: {reason}"))),
        Err(_) => Err(Error::OutOfRange("the broker does not begin to listen".into())),
    }
}

fn serve(
    public: Option<IpAddr>,
    second: Option<IpAddr>,
    listening: &mpsc::Sender<Result<(), String>>,
    stopped: oneshot::Receiver<()>,
) {
    let work = async {
        let mut config = ServerConfig::new(SecretKey::generate(&mut StdRng::from_os_rng()));
        config.public.extend(public.map(|ip| ip.to_string()));
        config.probes.extend(second.map(|ip| SocketAddr::new(ip, PROBE_PORT)));
        let server = Server::bind(config).await.map_err(|error| error.to_string())?;
        let _ = listening.send(Ok(()));
        let stopped = async {
            let _ = stopped.await;
        };
        server.run(|_| {}, stopped).await.map_err(|error| error.to_string())
    };
    let ended = runtime().map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(work));
    if let Err(reason) = ended {
        let _ = listening.send(Err(reason));
    }
}

/// One thread: sockets belong to the network of the thread that makes them.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
