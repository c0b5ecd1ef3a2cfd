//! Addresses that a broker or a peer tells: which of them a peer dials. The oracle here is written apart from the rules
//! that are tested.

use std::net::{IpAddr, SocketAddr};

use tcpunch_core::candidate::{Candidate, Kind, Surroundings, may_dial};
use tcpunch_core::plan::{
    Path, first_candidates, host_candidates, mapped_candidate, may_tell_hosts, may_tell_mapped,
};
use tcpunch_core::profile::{Sample, classify};

use crate::bytes::Bytes;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let here = surroundings(&mut input);
    let seen = addresses(&mut input);
    let public: Vec<IpAddr> = addresses(&mut input).iter().map(SocketAddr::ip).collect();
    let hosts = addresses(&mut input);

    let first = first_candidates(&seen, &public, &here);
    for candidate in &first {
        check(*candidate, &here, &seen);
        let ip = candidate.address.ip();
        let observed = seen.iter().any(|seen| canonical(*seen) == candidate.address);
        let mut brokers = here.brokers.iter().map(SocketAddr::ip).chain(public.iter().copied());
        let at_the_broker = brokers.any(|broker| broker.to_canonical() == ip);
        match candidate.kind {
            Kind::Reflexive => assert!(observed, "only where the broker saw the peer"),
            Kind::Predicted => assert!(at_the_broker, "only beside the broker"),
            Kind::Host | Kind::Mapped => panic!("nobody told one"),
        }
    }
    let told = host_candidates(&hosts, &seen, &here);
    for candidate in &told {
        check(*candidate, &here, &seen);
        assert_eq!(candidate.kind, Kind::Host);
        assert!(candidate.address.port() >= 1024, "no system services");
        assert_eq!(Some(candidate.address.port()), hosts.first().map(SocketAddr::port), "one port, no scan");
        let ip = candidate.address.ip();
        let own_network =
            here.interfaces.iter().any(|(own, prefix)| in_network(ip, own.to_canonical(), *prefix));
        assert!(is_near(ip) || own_network, "{ip} is somebody else's");
    }
    for mapped in hosts.iter().chain(&seen) {
        let seen_there = seen.iter().any(|seen| canonical(*seen).ip() == canonical(*mapped).ip());
        if let Some(candidate) = mapped_candidate(*mapped, &seen, &public, &here) {
            let mut where_else: Vec<SocketAddr> = seen.clone();
            if seen.iter().all(|seen| is_near(canonical(*seen).ip())) {
                let brokers = here.brokers.iter().map(SocketAddr::ip).chain(public.iter().copied());
                where_else.extend(brokers.map(|ip| SocketAddr::new(ip, 0)));
            }
            check(candidate, &here, &where_else);
            assert_eq!((candidate.kind, candidate.address), (Kind::Mapped, canonical(*mapped)));
            assert!(candidate.address.port() >= 1024, "no system services");
            let ip = candidate.address.ip();
            assert!(!is_near(ip), "{ip} is in a network of this machine");
            let mut brokers = here.brokers.iter().map(SocketAddr::ip).chain(public.iter().copied());
            let beside_broker = seen.iter().all(|seen| is_near(canonical(*seen).ip()));
            let at_the_broker = beside_broker && brokers.any(|broker| broker.to_canonical() == ip);
            assert!(seen_there || at_the_broker, "{ip} is somebody else's");
        }
        assert!(!may_tell_mapped(*mapped, &seen) || !is_near(canonical(*mapped).ip()));
    }
    for list in [&first, &told] {
        for (at, one) in list.iter().enumerate() {
            assert!(list.iter().skip(at + 1).all(|other| other.address != one.address), "each once");
        }
    }
    assert_eq!(may_tell_hosts(&here.observed, &seen), may_tell_hosts(&seen, &here.observed));
    profile(&seen, &hosts, &here);
}

/// What holds for whatever is dialled.
fn check(candidate: Candidate, here: &Surroundings, seen: &[SocketAddr]) {
    let address = candidate.address;
    assert_eq!(address, canonical(address));
    assert_eq!(may_dial(candidate, here, seen), Ok(()));
    assert_ne!(address.port(), 0);
    match address.ip() {
        IpAddr::V4(ip) => {
            assert!((1..224).contains(&ip.octets()[0]), "{ip} is no host");
        }
        IpAddr::V6(ip) => {
            assert!(!ip.is_multicast() && !ip.is_unspecified(), "{ip} is no host");
            assert!(ip.segments()[0] & 0xffc0 != 0xfe80, "{ip} names no interface");
        }
    }
    if address.ip().is_loopback() {
        let on_loopback = |all: &[SocketAddr]| all.iter().any(|one| canonical(*one).ip().is_loopback());
        assert!(on_loopback(seen) && on_loopback(&here.observed), "loopback is another machine");
    }
    for (own, prefix) in &here.interfaces {
        assert!(address != SocketAddr::new(own.to_canonical(), here.port), "oneself");
        if let (IpAddr::V4(ip), IpAddr::V4(own)) = (address.ip(), own.to_canonical())
            && *prefix < 31
        {
            let hosts = u32::MAX.checked_shr((*prefix).into()).unwrap_or(0);
            assert!(ip.to_bits() != own.to_bits() | hosts, "a broadcast");
        }
    }
    assert!(here.observed.iter().all(|own| canonical(*own) != address), "oneself");
    assert!(here.brokers.iter().all(|broker| canonical(*broker) != address), "the broker");
    assert!(!here.gateways.contains(&address.ip()), "the router");
    let from_outside = here.observed.iter().all(|own| !is_near(canonical(*own).ip()));
    if candidate.kind == Kind::Reflexive && from_outside {
        assert!(!is_near(address.ip()), "a broker makes nobody knock in the own network");
    }
}

fn profile(seen: &[SocketAddr], local: &[SocketAddr], here: &Surroundings) {
    let samples: Vec<Sample> = seen
        .iter()
        .zip(local)
        .zip(here.brokers.iter().cycle())
        .map(|((observed, local), destination)| Sample {
            local: *local,
            destination: *destination,
            observed: *observed,
        })
        .collect();
    let profile = classify(&samples);
    assert!(!profile.to_string().is_empty());
    if let (Some(local), Some(remote)) = (local.first(), seen.first()) {
        let ours = Path::of(*local, *remote, [profile.translated, None]);
        assert!(["lan", "direct", "punched"].contains(&ours.word()));
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [10 | 127, ..] | [192, 168, ..] | [169, 254, ..] => true,
            [172, second, ..] => (16..32).contains(&second),
            [100, second, ..] => (64..128).contains(&second),
            _ => false,
        },
        IpAddr::V6(ip) => {
            ip.is_loopback() || matches!(ip.octets()[0], 0xfc | 0xfd) || ip.segments()[0] & 0xffc0 == 0xfe80
        }
    }
}

fn in_network(ip: IpAddr, own: IpAddr, prefix: u8) -> bool {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (ip, own) = (octets(ip), octets(own));
    let bit = |octets: &[u8], at: usize| octets[at / 8] >> (7 - at % 8) & 1;
    ip.len() == own.len()
        && prefix > 0
        && (0..usize::from(prefix).min(8 * ip.len())).all(|at| bit(&ip, at) == bit(&own, at))
}

fn addresses(input: &mut Bytes<'_>) -> Vec<SocketAddr> {
    (0..input.u8() % 12).map(|_| input.address()).collect()
}

fn surroundings(input: &mut Bytes<'_>) -> Surroundings {
    let mut interfaces = vec![("127.0.0.1".parse().unwrap(), 8), ("192.168.1.5".parse().unwrap(), 24)];
    let mut observed = vec!["198.51.100.1:23456".parse().unwrap()];
    match input.u8() % 4 {
        0 => {}
        1 => interfaces.push((input.address().ip(), input.u8() % 129)),
        2 => observed = addresses(input),
        _ => observed = vec!["127.0.0.1:23456".parse().unwrap()],
    }
    Surroundings {
        interfaces,
        port: 23456,
        observed,
        brokers: vec!["203.0.113.1:7766".parse().unwrap(), "[2001:db8::b]:7766".parse().unwrap()],
        gateways: vec!["192.168.1.1".parse().unwrap()],
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Kinds of addresses as `Bytes::address` reads them.
    let public = [4, 9, 0x9c, 0x40];
    let private = [3, 7, 0x75, 0x30];
    let loopback = [2, 1, 0x75, 0x30];
    let six = [5, 9, 0x9c, 0x40];
    let seed = |surroundings: &[u8], lists: [&[[u8; 4]]; 3]| {
        let lists = lists.map(|list| [&[list.len() as u8], &list.concat()[..]].concat());
        [surroundings, &lists.concat()].concat()
    };
    vec![
        seed(&[0], [&[public, six], &[], &[private, [3, 8, 0x75, 0x30]]]),
        seed(&[0], [&[private], &[public], &[private, [3, 8, 0x75, 0x31]]]),
        seed(&[3], [&[loopback], &[public], &[loopback, private]]),
        seed(&[0], [&[[4, 1, 0x9c, 0x40], loopback], &[], &[[3, 255, 0x75, 0x30]]]),
        seed(&[1, 3, 9, 0, 0, 24], [&[public], &[], &[private]]),
        seed(&[2, 2, 3, 5, 0x5b, 0xa0, 5, 1, 0x5b, 0xa0], [&[private, six], &[], &[private]]),
        seed(&[0], [&[[1, 224, 0, 0], [1, 5, 7, 127]], &[], &[]]),
    ]
}
