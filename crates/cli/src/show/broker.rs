//! A broker's start and events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use tcpunch::{BrokerAddress, Endpoint, PublicKey};
use tcpunch_broker::Server;
use tcpunch_core::limits::{BROKER_ADVERTISED_MOST, BROKER_PORT};

use crate::masked::Addresses;
use crate::term::Talk;

/// The lines that peers need.
pub(crate) fn announce(server: &Server, public: bool, talk: &Talk) {
    let key = server.key();
    let listening: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let port = server.addresses().first().map_or(BROKER_PORT, SocketAddr::port);
    let with_key = |host: &String| format!("tcpunch chat --broker '{host}#{key}'");
    let here = here(server.addresses());
    let advertised = server.advertised();
    let command = advertised.first().map_or_else(|| here.clone(), with_key);
    let notes: Vec<String> = server.notes().iter().map(ToString::to_string).collect();
    talk.event(
        "broker",
        json!({ "addresses": listening, "key": key.to_string(), "command": command,
                "probe_ports": server.probe_ports(), "notes": notes }),
    );
    talk.say(format!("broker  listening on {}", listening.join(" and ")));
    talk.say(format!("  on this computer   {here}"));
    let interfaces = Endpoint::builder().report().interfaces;
    let interfaces: Vec<IpAddr> = interfaces.iter().map(|interface| interface.address).collect();
    let everywhere: &[String] = if public { advertised } else { &[] };
    for host in in_this_network(server.addresses(), &interfaces) {
        if !everywhere.contains(&host) {
            talk.say(format!("  in this network    {}", with_key(&host)));
        }
    }
    for host in everywhere {
        talk.say(format!("  from anywhere      {}", with_key(host)));
    }
    if !public && !server.addresses().iter().all(|address| address.ip().is_loopback()) {
        talk.say(format!(
            "  from elsewhere     forward TCP port {port} to this computer and start with --public YOUR-ADDRESS"
        ));
    }
    for note in notes {
        talk.say(format!("  note: {note}"));
    }
}

/// What reaches the broker from the machine it runs on: nothing more, where it listens at what is dialled without a flag.
fn here(listening: &[SocketAddr]) -> String {
    let dialled = |ip: IpAddr| if ip.is_unspecified() { loopback(ip) } else { ip };
    let mut reached: Vec<SocketAddr> =
        listening.iter().map(|address| SocketAddr::new(dialled(address.ip()), address.port())).collect();
    let unasked = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), BROKER_PORT);
    reached.sort_by_key(|address| address.is_ipv6());
    match reached.first() {
        None => "tcpunch chat".to_owned(),
        Some(_) if reached.contains(&unasked) => "tcpunch chat".to_owned(),
        Some(address) if address.is_ipv6() => format!("tcpunch chat --broker '{address}'"),
        Some(address) => format!("tcpunch chat --broker {address}"),
    }
}

fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// What machines nearby type, best first; `interfaces` are the addresses that others can reach.
fn in_this_network(listening: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<String> {
    let mut found: Vec<(IpAddr, u16)> = Vec::new();
    for address in listening {
        let ip = address.ip();
        // Without its zone, which differs from machine to machine, a link-local address is none.
        let nearby = match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        };
        if ip.is_loopback() || !nearby {
            continue;
        }
        if ip.is_unspecified() {
            let own = interfaces.iter().filter(|own| own.is_ipv4() == ip.is_ipv4());
            found.extend(own.map(|own| (*own, address.port())));
        } else {
            found.push((ip, address.port()));
        }
    }
    found.sort_by_key(|(ip, _)| match ip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if !ip.is_unique_local() => 1,
        IpAddr::V6(_) => 2,
    });
    found.truncate(BROKER_ADVERTISED_MOST);
    let typed = |(ip, port): (IpAddr, u16)| BrokerAddress { host: ip.to_string(), port, key: None }.in_code();
    found.into_iter().map(typed).collect()
}

/// Tells what happens at a broker.
pub(crate) fn tell(event: &tcpunch_core::rendezvous::Event, addresses: &mut Addresses, talk: &Talk) {
    use tcpunch_core::rendezvous::Event;
    let mut side = |(peer, seen): &(PublicKey, Vec<SocketAddr>)| -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_typed_on_this_computer_reaches_what_is_listened_on() {
        for (listening, typed) in [
            (&["0.0.0.0:7766", "[::]:7766"][..], "tcpunch chat"),
            (&["127.0.0.1:7766"], "tcpunch chat"),
            (&["127.0.0.2:7766"], "tcpunch chat --broker 127.0.0.2:7766"),
            (&["192.168.1.5:7766"], "tcpunch chat --broker 192.168.1.5:7766"),
            (&["[::1]:7766"], "tcpunch chat --broker '[::1]:7766'"),
            // A machine without IPv4.
            (&["[::]:7766"], "tcpunch chat --broker '[::1]:7766'"),
            (&["0.0.0.0:8000", "[::]:8000"], "tcpunch chat --broker 127.0.0.1:8000"),
        ] {
            assert_eq!(here(&addresses(listening)), typed, "{listening:?}");
        }
    }

    #[test]
    fn machines_nearby_type_an_address_that_is_listened_on() {
        let interfaces: Vec<IpAddr> =
            ["fd00::1", "2001:db8::1", "192.168.1.5"].iter().map(|text| text.parse().unwrap()).collect();
        for (listening, typed) in [
            (&["0.0.0.0:7766", "[::]:7766"][..], &["192.168.1.5", "[2001:db8::1]", "[fd00::1]"][..]),
            (&["0.0.0.0:8000"], &["192.168.1.5:8000"]),
            (&["192.168.1.6:7766"], &["192.168.1.6"]),
            (&["127.0.0.1:7766"], &[]),
            (&["[::1]:7766"], &[]),
            (&["[fe80::1]:7766"], &[]),
        ] {
            assert_eq!(in_this_network(&addresses(listening), &interfaces), typed, "{listening:?}");
        }
    }
}
