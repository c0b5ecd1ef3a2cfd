//! A broker's start and events.

use serde_json::{Value, json};
use tcpunch::PublicKey;
use tcpunch_broker::Server;
use tcpunch_core::limits::BROKER_PORT;

use crate::masked::Addresses;
use crate::term::Talk;

/// The lines that peers need.
pub(crate) fn announce(server: &Server, public: bool, talk: &Talk) {
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
    let notes: Vec<String> = server.notes().iter().map(ToString::to_string).collect();
    talk.event(
        "broker",
        json!({ "addresses": listening, "key": key.to_string(), "command": command,
                "probe_ports": server.probe_ports(), "notes": notes }),
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
    for note in notes {
        talk.say(format!("  note: {note}"));
    }
}

/// Tells what happens at a broker.
pub(crate) fn tell(event: &tcpunch_core::rendezvous::Event, addresses: &mut Addresses, talk: &Talk) {
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
