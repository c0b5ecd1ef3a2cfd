//! What peers type to reach this broker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use if_addrs::{IfOperStatus, get_if_addrs};
use tcpunch_core::limits::{BROKER_ADVERTISED_BYTES, BROKER_ADVERTISED_MOST, BROKER_PORT};

/// A host and its port, if it names one: `host`, `host:port`, `2001:db8::1`, `[2001:db8::1]:port`.
pub(crate) fn host_and_port(text: &str) -> (&str, Option<u16>) {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse().ok() {
            Some(port) => (host, Some(port)),
            None => (text, None),
        },
        _ => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port)
}

fn typed(host: &str, port: u16) -> String {
    match (host.parse::<Ipv6Addr>(), port) {
        (Ok(ip), BROKER_PORT) => format!("[{ip}]"),
        (Ok(ip), _) => format!("[{ip}]:{port}"),
        (Err(_), BROKER_PORT) => host.to_owned(),
        (Err(_), _) => format!("{host}:{port}"),
    }
}

/// Addresses of this machine's interfaces under which others may reach it.
pub(crate) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = get_if_addrs()?;
    Ok(interfaces
        .into_iter()
        .filter(|interface| {
            !matches!(
                interface.oper_status,
                IfOperStatus::Down | IfOperStatus::LowerLayerDown | IfOperStatus::NotPresent
            )
        })
        .map(|interface| interface.ip())
        .collect())
}

/// What to type, best first.
pub(crate) fn advertised(public: &[String], bound: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<String> {
    let port = bound.first().map_or(BROKER_PORT, SocketAddr::port);
    let all: Vec<String> = if public.is_empty() {
        local(bound, interfaces).into_iter().map(|ip| typed(&ip.to_string(), port)).collect()
    } else {
        public
            .iter()
            .map(|text| {
                let (host, own) = host_and_port(text);
                typed(host, own.unwrap_or(port))
            })
            .collect()
    };
    let mut chosen: Vec<String> = Vec::new();
    let mut bytes = 0;
    for text in all {
        if chosen.len() < BROKER_ADVERTISED_MOST
            && bytes + text.len() <= BROKER_ADVERTISED_BYTES
            && !chosen.contains(&text)
        {
            bytes += text.len();
            chosen.push(text);
        }
    }
    chosen
}

fn local(bound: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in bound {
        let ip = address.ip();
        if ip.is_unspecified() {
            found.extend(
                interfaces.iter().filter(|other| other.is_ipv4() == ip.is_ipv4() && is_reachable(**other)),
            );
        } else if is_reachable(ip) {
            found.push(ip);
        }
    }
    found.sort_by_key(|ip| match ip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if !ip.is_unique_local() => 1,
        IpAddr::V6(_) => 2,
    });
    if found.is_empty() {
        found = bound
            .iter()
            .map(|address| match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            })
            .collect();
    }
    found
}

fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !ip.is_loopback() && !ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn interfaces() -> Vec<IpAddr> {
        ["127.0.0.1", "::1", "fe80::1", "fd00::1", "2001:db8::1", "169.254.1.1", "192.168.1.5"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    #[test]
    fn hosts_are_read_with_and_without_port() {
        for (text, host, port) in [
            ("broker.example", "broker.example", None),
            ("broker.example:443", "broker.example", Some(443)),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:8", "2001:db8::1", Some(8)),
            ("broker:what", "broker:what", None),
            ("", "", None),
        ] {
            assert_eq!(host_and_port(text), (host, port), "{text}");
        }
    }

    #[test]
    fn public_hosts_come_alone() {
        let public = ["b.example", "b.example:7766", "2001:db8::7", "b.example:1"].map(String::from);
        assert_eq!(
            advertised(&public, &bound(&["0.0.0.0:7766"]), &interfaces()),
            ["b.example", "[2001:db8::7]", "b.example:1"]
        );
        assert_eq!(advertised(&public[2..3], &bound(&["0.0.0.0:9"]), &[]), ["[2001:db8::7]:9"]);
    }

    #[test]
    fn the_lan_comes_before_ipv6_and_nothing_that_others_cannot_reach() {
        assert_eq!(
            advertised(&[], &bound(&["0.0.0.0:7766", "[::]:7766"]), &interfaces()),
            ["192.168.1.5", "[2001:db8::1]", "[fd00::1]"]
        );
        assert_eq!(advertised(&[], &bound(&["0.0.0.0:8000"]), &interfaces()), ["192.168.1.5:8000"]);
        assert_eq!(advertised(&[], &bound(&["192.168.1.6:7766"]), &interfaces()), ["192.168.1.6"]);
    }

    #[test]
    fn loopback_is_named_where_there_is_nothing_else() {
        assert_eq!(advertised(&[], &bound(&["127.0.0.1:7766"]), &interfaces()), ["127.0.0.1"]);
        assert_eq!(advertised(&[], &bound(&["0.0.0.0:1", "[::]:1"]), &[]), ["127.0.0.1:1", "[::1]:1"]);
    }

    #[test]
    fn what_is_advertised_fits_into_a_welcome() {
        let public: Vec<String> = (0..99).map(|n| format!("{n}{}", "x".repeat(250))).collect();
        let chosen = advertised(&public, &bound(&["0.0.0.0:1"]), &[]);
        assert!(!chosen.is_empty() && chosen.concat().len() <= BROKER_ADVERTISED_BYTES);
    }
}
