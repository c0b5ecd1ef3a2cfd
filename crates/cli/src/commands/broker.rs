//! `tcpunch broker`: run a broker.

use std::future::Future;

use serde_json::{Value, json};
use tcpunch::PublicKey;
use tcpunch::store::Store;
use tcpunch_broker::{Server, ServerConfig, ServerError};
use tcpunch_core::identity::SecretKey;
use tcpunch_core::limits::BROKER_PORT;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Broker, Common};
use crate::exit::{Failure, code};
use crate::masked::Addresses;
use crate::term::Talk;

pub(crate) async fn run(common: &Common, flags: Broker, talk: &Talk) -> Result<u8, Failure> {
    let mut config = ServerConfig::listening_on(flags.listen, key(common)?);
    if !flags.probe.is_empty() {
        config.probes = flags.probe;
    }
    config.lobby = flags.lobby;
    config.public = flags.public;
    let public = !config.public.is_empty();
    let server = Server::bind(config).await.map_err(|error| match error {
        ServerError::Taken { .. } | ServerError::Listen { .. } => {
            Failure::local(error).hint("is a broker running already? choose another port with --listen")
        }
        ServerError::Randomness(_) => Failure::internal(error),
    })?;
    // Before anybody is told of the broker: who knows of it may end it.
    let stop = stop()?;
    announce(&server, public, talk);
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
    result.map_err(Failure::internal)?;
    Ok(code::OK)
}

fn key(common: &Common) -> Result<SecretKey, Failure> {
    if common.ephemeral {
        return Ok(SecretKey::generate(&mut rand::rng()));
    }
    Store::open(common.state.clone())
        .and_then(|store| store.broker_key(&mut rand::random))
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

/// The lines that peers need.
fn announce(server: &Server, public: bool, talk: &Talk) {
    let key = server.key();
    let listening: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let port = server.addresses().first().map_or(BROKER_PORT, std::net::SocketAddr::port);
    let with_key = |host: &str| format!("tcpunch chat --broker '{host}#{key}'");
    let here = if port == BROKER_PORT {
        "tcpunch chat".to_owned()
    } else {
        format!("tcpunch chat --broker 127.0.0.1:{port}")
    };
    let advertised = server.advertised();
    let command = advertised.first().map_or_else(|| here.clone(), |host| with_key(host));
    talk.event(
        "broker",
        json!({ "addresses": listening, "key": key.to_string(), "command": command,
                "probe_ports": server.probe_ports() }),
    );
    talk.say(format!("broker  listening on {}", listening.join(" and ")));
    talk.say(format!("  on this computer   {here}"));
    let loopback = server.addresses().iter().all(|address| address.ip().is_loopback());
    if public {
        talk.say(format!("  from anywhere      {command}"));
    } else if !loopback {
        for host in advertised {
            talk.say(format!("  in this network    {}", with_key(host)));
        }
        talk.say(format!(
            "  from elsewhere     forward TCP port {port} to this computer and start with --public YOUR-ADDRESS"
        ));
    }
    for note in server.notes() {
        talk.say(format!("  note: {note}"));
    }
}

fn tell(event: &tcpunch_core::rendezvous::Event, addresses: &mut Addresses, talk: &Talk) {
    use tcpunch_core::rendezvous::Event;
    let mut side = |(peer, seen): &(PublicKey, Vec<std::net::SocketAddr>)| -> Value {
        let seen: Vec<String> = seen.iter().map(|address| addresses.show(*address)).collect();
        json!({ "id": peer.to_string(), "addresses": seen })
    };
    match event {
        Event::Registered { peer, observed } => {
            let from = addresses.show(*observed);
            talk.event("registered", json!({ "peer": peer.to_string(), "from": from }));
            talk.detail(format!("{} registered from {from}", peer.nickname()));
        }
        Event::Left { peer } => {
            talk.event("left", json!({ "peer": peer.to_string() }));
            talk.detail(format!("{} left", peer.nickname()));
        }
        Event::Introduced { arriver, waiter } => {
            talk.event("introduced", json!({ "arriver": side(arriver), "waiter": side(waiter) }));
            talk.detail(format!("introduced {} to {}", arriver.0.nickname(), waiter.0.nickname()));
        }
        Event::Go { arriver, waiter } => {
            talk.step("go", json!({ "peers": [arriver.to_string(), waiter.to_string()] }));
        }
    }
}
