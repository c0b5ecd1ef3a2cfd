//! `tcpunch broker`: run a broker.

use std::future::Future;

use serde_json::json;
use tcpunch::store::Store;
use tcpunch_broker::{Server, ServerConfig, ServerError};
use tcpunch_core::identity::SecretKey;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Broker, Common};
use crate::exit::{Failure, code};
use crate::masked::Addresses;
use crate::setup;
use crate::show::broker::{announce, tell};
use crate::term::Talk;

pub(crate) async fn run(common: &Common, flags: Broker, talk: &Talk) -> Result<u8, Failure> {
    let mut config = ServerConfig::listening_on(flags.listen, key(common, talk)?);
    // A further address comes in addition; another port instead.
    let (further, ports): (Vec<_>, Vec<_>) = flags
        .probe
        .into_iter()
        .partition(|probe| !probe.ip().is_unspecified() && probe.ip() != flags.listen.ip());
    if !ports.is_empty() {
        config.probes = ports;
    }
    config.probes.extend(further);
    config.lobby = flags.lobby;
    config.public = flags.public;
    let public = !config.public.is_empty();
    let server =
        talk.waiting("the names of --public", Server::bind(config)).await.map_err(|error| match error {
            ServerError::Taken { address } => {
                let port = address.port();
                Failure::local(error).hint(format!(
                    "is a broker running already? who has it is told by: ss -ltnp 'sport = :{port}'; another port: --listen"
                ))
            }
            ServerError::Listen { .. } => Failure::local(error).hint("choose another address with --listen"),
            ServerError::Randomness(_) => Failure::internal(error),
        })?;
    // Before anybody is told of the broker: who knows of it may end it.
    let stop = stop()?;
    announce(&server, public, talk);
    // Everything waits for what the server's task says.
    talk.queued().map_err(Failure::internal)?;
    let traffic = server.traffic();
    let reporting = talk.clone();
    let report = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(250));
        while reporting.is_json() && reporting.is_verbose() {
            ticks.tick().await;
            reporting.step(
                "traffic",
                json!({ "links": traffic.links(), "bytes_in": traffic.bytes_in(), "bytes_out": traffic.bytes_out() }),
            );
        }
    });
    let mut addresses = Addresses::new(flags.log_addresses);
    let logging = talk.clone();
    let on_event = move |event| tell(&event, &mut addresses, &logging);
    let result = server.run(on_event, stop).await;
    report.abort();
    talk.written().await;
    result.map_err(Failure::internal)?;
    Ok(code::OK)
}

fn key(common: &Common, talk: &Talk) -> Result<SecretKey, Failure> {
    if common.ephemeral {
        return Ok(SecretKey::generate(&mut rand::rng()));
    }
    Store::open(common.state.clone())
        .and_then(|store| {
            let secret = store.broker_key(&mut rand::random);
            setup::notes(&store, talk);
            secret
        })
        .map(|secret| SecretKey::from_bytes(*secret.expose()))
        .map_err(|error| {
            Failure::local(error).hint("a broker without its key is another broker to its peers; --state DIR keeps it elsewhere, --ephemeral goes without")
        })
}

fn stop() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
