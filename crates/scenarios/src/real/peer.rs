//! One of the two.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tcpunch::{Code, ConnectError, Connection, Endpoint, Event};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

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
    pub(crate) late: Duration,
    /// How long after it is registered it has learnt all that it learns.
    pub(crate) settling: Duration,
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

/// The name or address that is given to the library.
fn name(addresses: &[IpAddr]) -> io::Result<String> {
    match addresses {
        [one] => Ok(one.to_string()),
        several => names::mean(several).map(|()| names::BROKER.to_owned()),
    }
}

async fn meet(seat: &Seat, part: Part) -> Played {
    let broker = match name(&seat.broker).map(|name| name.parse()) {
        Ok(Ok(broker)) => broker,
        Ok(Err(error)) => return Played::broken(format!("no address of a broker: {error}")),
        Err(error) => return Played::broken(format!("the broker can't be given a name: {error}")),
    };
    let introduced: Arc<OnceLock<Instant>> = Arc::default();
    let seen = introduced.clone();
    let endpoint = Endpoint::builder()
        .broker(broker)
        .timeout(seat.timeout)
        .late(seat.late)
        .on_event(move |event| {
            if matches!(event, Event::Introduced { .. }) {
                seen.get_or_init(Instant::now);
            }
        })
        .bind()
        .await;
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => return Played::broken(format!("no endpoint: {error}")),
    };
    let registered = Instant::now();
    let mut claimed = None;
    let result = match part {
        Part::Waits(tell) => {
            let mut invite = match endpoint.invite().await {
                Ok(invite) => invite,
                Err(error) => return Played::broken(format!("no code: {error}")),
            };
            sleep((registered + seat.settling).saturating_duration_since(Instant::now())).await;
            if tell.send(invite.code().clone()).is_err() {
                return Played::broken("nobody came for the code");
            }
            invite.accept().await
        }
        Part::Arrives(told) => {
            let Ok(code) = told.await else { return Played::broken("there was no code") };
            sleep((registered + seat.settling).saturating_duration_since(Instant::now())).await;
            claimed = Some(Instant::now());
            endpoint.connect(code).await
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
