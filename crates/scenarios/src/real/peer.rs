//! One of the two.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tcpunch::{Code, ConnectError, Connection, Endpoint, Event, Families};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::NatProfile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{names, runtime};
use crate::Outcome;

/// How long a few bytes may take there and back on a connection that stands: the kernel sends again for much longer.
const ECHOED_WITHIN: Duration = Duration::from_secs(20);
/// What comes before the introduction, and is not bounded by the scenario's time.
const MEETS_WITHIN: Duration = Duration::from_secs(60);

/// What one needs to know.
pub(crate) struct Seat {
    /// Where the broker is.
    pub(crate) broker: Vec<IpAddr>,
    pub(crate) timeout: Duration,
    pub(crate) rules: Rules,
    pub(crate) late: Duration,
    /// Whether it has IPv6; a public host of the user-space lab has addresses of it in any case.
    pub(crate) ipv6: bool,
}

/// What one does.
pub(crate) enum Part {
    Waits(oneshot::Sender<Code>),
    Arrives(oneshot::Receiver<Code>),
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) outcome: Outcome,
    /// When it was known.
    pub(crate) ended: Option<Instant>,
    /// When the code was claimed.
    pub(crate) claimed: Option<Instant>,
}

impl Played {
    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Broken(reason.into()), ended: None, claimed: None }
    }
}

/// Plays on this thread.
pub(crate) fn play(seat: &Seat, part: Part) -> Played {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Played::broken(format!("no runtime: {error}")),
    };
    let most = MEETS_WITHIN + seat.timeout + ECHOED_WITHIN;
    runtime.block_on(async {
        timeout(most, meet(seat, part)).await.unwrap_or_else(|_| Played::broken("it never ended"))
    })
}

/// How long a survey may take: silence is final after two seconds, and a busy machine may double that.
const SURVEYED_WITHIN: Duration = Duration::from_secs(20);

/// Learns of the own network what a broker there can tell.
pub(crate) fn survey(broker: &[IpAddr]) -> Result<NatProfile, String> {
    let runtime = runtime().map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let name = name(broker).map_err(|error| format!("the broker can't be given a name: {error}"))?;
        let broker = name.parse().map_err(|error| format!("no address of a broker: {error}"))?;
        let (tell, mut told) = mpsc::unbounded_channel();
        let builder = Endpoint::builder().broker(broker).families(Families { v4: true, v6: false });
        let builder = builder.on_event(move |event| {
            let _ = tell.send(event);
        });
        let _endpoint = builder.bind().await.map_err(|error| format!("no endpoint: {error}"))?;
        let mut known = NatProfile::default();
        let end = async {
            while let Some(event) = told.recv().await {
                match event {
                    Event::Profile(profile) => known = profile,
                    Event::Surveyed => return true,
                    Event::Registered { .. }
                    | Event::LinkLost
                    | Event::KeyNotKept(_)
                    | Event::WrongGuess { .. }
                    | Event::PortMapping(_)
                    | Event::Noticed(_)
                    | Event::Introduced { .. }
                    | Event::Fired { .. } => {}
                }
            }
            false
        };
        let ended = timeout(SURVEYED_WITHIN, end).await;
        if ended == Ok(true) { Ok(known) } else { Err(format!("the survey does not end: {known:?}")) }
    })
}

/// The name or address that is given to the library.
fn name(addresses: &[IpAddr]) -> io::Result<String> {
    match addresses {
        [one] => Ok(one.to_string()),
        several => names::mean(several).map(|()| names::BROKER.to_owned()),
    }
}

async fn meet(seat: &Seat, part: Part) -> Played {
    let introduced: Arc<OnceLock<Instant>> = Arc::default();
    let mut claimed = None;
    // The endpoint is kept to the end, as a program keeps it.
    let (_endpoint, result) = match part {
        Part::Waits(tell) => {
            let endpoint = match bind(seat, &introduced).await {
                Ok(endpoint) => endpoint,
                Err(reason) => return Played::broken(reason),
            };
            let mut invite = match endpoint.invite().await {
                Ok(invite) => invite,
                Err(error) => return Played::broken(format!("no code: {error}")),
            };
            if tell.send(invite.code().clone()).is_err() {
                return Played::broken("nobody came for the code");
            }
            let result = invite.accept().await;
            (endpoint, result)
        }
        Part::Arrives(told) => {
            let Ok(code) = told.await else { return Played::broken("there was no code") };
            let endpoint = match bind(seat, &introduced).await {
                Ok(endpoint) => endpoint,
                Err(reason) => return Played::broken(reason),
            };
            claimed = Some(Instant::now());
            let result = endpoint.connect(code).await;
            (endpoint, result)
        }
    };
    let ended = Instant::now();
    let outcome = match result {
        Ok(connection) => match timeout(ECHOED_WITHIN, echo(&connection)).await {
            Ok(Ok(())) => {
                let info = connection.info();
                Outcome::Connected { path: info.path, elapsed: info.elapsed }
            }
            Ok(Err(error)) => Outcome::Broken(format!("connected, but then: {error}")),
            Err(_) => Outcome::Broken("connected, but nothing comes back".into()),
        },
        Err(ConnectError::NoDirectPath(obstacle)) => {
            let elapsed = introduced.get().map_or(Duration::ZERO, |introduced| ended - *introduced);
            Outcome::NoPath { reason: obstacle.reason(), elapsed }
        }
        Err(
            error @ (ConnectError::Broker(_)
            | ConnectError::NoSuchCode(_)
            | ConnectError::OtherVerb { .. }
            | ConnectError::WrongWords(_)
            | ConnectError::Burnt
            | ConnectError::NobodyCame
            | ConnectError::NoAnswer
            | ConnectError::Lobby(_)),
        ) => Outcome::Broken(error.to_string()),
    };
    Played { outcome, ended: Some(ended), claimed }
}

/// An endpoint as the library makes it, registered.
async fn bind(seat: &Seat, introduced: &Arc<OnceLock<Instant>>) -> Result<Endpoint, String> {
    let name = name(&seat.broker).map_err(|error| format!("the broker can't be given a name: {error}"))?;
    let broker = name.parse().map_err(|error| format!("no address of a broker: {error}"))?;
    let introduced = introduced.clone();
    let families = if seat.ipv6 { Families::default() } else { Families { v4: true, v6: false } };
    let builder = Endpoint::builder()
        .broker(broker)
        .families(families)
        .timeout(seat.timeout)
        .late(seat.late)
        .rules(seat.rules);
    let builder = builder.on_event(move |event| {
        if matches!(event, Event::Introduced { .. }) {
            introduced.get_or_init(Instant::now);
        }
    });
    builder.bind().await.map_err(|error| format!("no endpoint: {error}"))
}

/// Says something that nobody can know, says back what the other says, and hears its own: then both are on one
/// connection, and it carries.
async fn echo(mut connection: &Connection) -> io::Result<()> {
    let own: [u8; 16] = rand::rng().random();
    connection.write_all(&own).await?;
    let mut others = [0; 16];
    connection.read_exact(&mut others).await?;
    connection.write_all(&others).await?;
    let mut back = [0; 16];
    connection.read_exact(&mut back).await?;
    if back != own {
        return Err(io::Error::other("the echo is another's"));
    }
    connection.close().await
}
