//! RFC 4787, requirement by requirement, with UDP where it makes a difference.

use super::harness::*;
use crate::nat::presets::{home_overloading, linux_masquerade, rfc_compliant, symmetric_random};
use crate::nat::{Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rewriting, Side};
use crate::packet::{Body, ErrorKind, Packet, Unreachable};

const REMOTES: [&str; 3] = [R, R2, S];

fn mapped(mapping: Dependence) -> Vec<u16> {
    let mut nat = Bench::new(Behaviour { mapping, ..symmetric_random() });
    REMOTES.map(|remote| nat.map_udp(A, remote).port()).to_vec()
}

#[test]
fn req_1_a_mapping_is_the_same_for_every_destination_unless_it_depends_on_it() {
    let [r, r2, s] = mapped(Dependence::Endpoint)[..] else { panic!() };
    assert!(r == r2 && r == s);
    let [r, r2, s] = mapped(Dependence::Address)[..] else { panic!() };
    assert!(r == r2 && r != s);
    let [r, r2, s] = mapped(Dependence::AddressAndPort)[..] else { panic!() };
    assert!(r != r2 && r != s && r2 != s);
    let mut compliant = Bench::new(rfc_compliant());
    assert_eq!(REMOTES.map(|remote| compliant.map_udp(A, remote)), [x(4000); 3]);
}

#[test]
fn req_2_an_inside_address_keeps_its_outside_address_if_paired() {
    let addresses = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"];
    let seen = |pooling| {
        let mut nat = Bench::with(Behaviour { pooling, ..rfc_compliant() }, &addresses, 3);
        let mut seen = std::collections::HashMap::<_, std::collections::HashSet<_>>::new();
        for host in 2..10 {
            for port in 5000..5020 {
                let inside = end(&format!("192.168.1.{host}:{port}"));
                let outside = source(&nat.outward(udp(inside, end(R))).unwrap()).ip();
                seen.entry(host).or_default().insert(outside);
            }
        }
        seen.into_values().collect::<Vec<_>>()
    };
    let paired = seen(Pooling::Paired);
    assert!(paired.iter().all(|it| it.len() == 1));
    assert!(paired.iter().flatten().collect::<std::collections::HashSet<_>>().len() > 1);
    assert!(seen(Pooling::Arbitrary).iter().all(|it| it.len() > 1));
}

#[test]
fn req_3_two_hosts_never_share_a_port_unless_it_is_overloaded() {
    let mut nat = Bench::new(rfc_compliant());
    let (a, b) = (nat.map_udp(A, R), nat.map_udp(B, S));
    assert_ne!(a, b);
    assert_eq!(destination(&nat.inward(udp(end(R), a)).unwrap()), end(A));
    assert_eq!(destination(&nat.inward(udp(end(S), b)).unwrap()), end(B));

    let mut nat = Bench::new(home_overloading());
    assert_eq!((nat.map_udp(A, R), nat.map_udp(B, S)), (x(4000), x(4000)));
    assert_eq!(nat.handle(Side::Outside, udp(end(R), x(4000))), [], "the older mapping is dead");
    assert_eq!(destination(&nat.inward(udp(end(S), x(4000))).unwrap()), end(B));
}

#[test]
fn req_3a_well_known_ports_stay_well_known() {
    for clash in [Clash::Random, Clash::Next] {
        let mut nat = Bench::new(Behaviour { allocation: Allocation::Preserving(clash), ..rfc_compliant() });
        assert_eq!(nat.map_udp("192.168.1.2:123", R), x(123));
        assert!(nat.map_udp("192.168.1.3:123", R).port() < 1024);
        assert_eq!(nat.map_udp("192.168.1.2:1023", R), x(1023));
        assert!(nat.map_udp("192.168.1.3:1023", R).port() < 1024);
        assert_eq!(nat.map_udp(A, R), x(4000));
        assert!(nat.map_udp(B, R).port() >= 1024);
    }
}

#[test]
fn req_4_parity_is_kept_with_the_port() {
    let mut nat = Bench::new(rfc_compliant());
    for port in 6000..6010 {
        assert_eq!(nat.map_udp(&format!("192.168.1.2:{port}"), R).port() % 2, port % 2);
    }
}

#[test]
fn req_5_a_udp_mapping_lives_for_two_minutes() {
    let answered = |idle| {
        let mut nat = Bench::new(rfc_compliant());
        nat.map_udp(A, R);
        !nat.after(idle).handle(Side::Outside, udp(end(R), x(4000))).is_empty()
    };
    assert!(answered(SECOND * 119));
    assert!(!answered(SECOND * 121));
}

#[test]
fn req_6_what_goes_out_or_comes_in_refreshes() {
    for from in [Side::Inside, Side::Outside] {
        let mut nat = Bench::new(rfc_compliant());
        nat.map_udp(A, R);
        for _ in 0..5 {
            let packet = match from {
                Side::Inside => udp(end(A), end(R)),
                Side::Outside => udp(end(R), x(4000)),
            };
            assert_eq!(nat.after(SECOND * 100).handle(from, packet).len(), 1, "{from:?}");
        }
    }
}

#[test]
fn req_8_who_may_come_in() {
    let admitted = |mapping, filtering| {
        let mut nat = Bench::new(Behaviour { mapping, filtering, ..symmetric_random() });
        let outside = nat.map_udp(A, R);
        let tcp = nat.map(A, R);
        REMOTES.map(|remote| {
            let udp = !nat.handle(Side::Outside, udp(end(remote), outside)).is_empty();
            assert_eq!(udp, !nat.handle(Side::Outside, syn(end(remote), tcp)).is_empty(), "{remote}");
            udp
        })
    };
    for mapping in [Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort] {
        assert_eq!(admitted(mapping, Dependence::Endpoint), [true, true, true]);
        assert_eq!(admitted(mapping, Dependence::Address), [true, true, false]);
        assert_eq!(admitted(mapping, Dependence::AddressAndPort), [true, false, false]);
    }
}

#[test]
fn req_9_hosts_inside_reach_each_other_at_outside_addresses() {
    let mut nat = Bench::new(rfc_compliant());
    let b = nat.map_udp(B, R);
    let arrived = nat.back(udp(end(A), b)).unwrap();
    assert_eq!(
        (source(&arrived).ip(), destination(&arrived)),
        (ip(X), end(B)),
        "REQ-9 a: the outside source"
    );
    let answer = nat.back(udp(end(B), source(&arrived))).unwrap();
    assert_eq!((source(&answer), destination(&answer)), (b, end(A)));

    let mut nat = Bench::new(Behaviour { hairpin: Hairpin::InsideSource, ..rfc_compliant() });
    let b = nat.map_udp(B, R);
    let arrived = nat.back(udp(end(A), b)).unwrap();
    assert_eq!((source(&arrived), destination(&arrived)), (end(A), end(B)));

    let mut nat = Bench::new(Behaviour { hairpin: Hairpin::No, ..rfc_compliant() });
    let b = nat.map_udp(B, R);
    let refused = nat.back(udp(end(A), b)).unwrap();
    assert_eq!((refused.destination, unreachable(&refused)), (end(A).ip(), Unreachable::Port));
}

fn with_payload(mut packet: Packet, text: &[u8]) -> Packet {
    match &mut packet.body {
        Body::Udp(datagram) => datagram.payload = text.to_vec(),
        Body::Tcp(segment) => segment.payload = text.to_vec(),
        _ => panic!(),
    }
    packet
}

#[test]
fn req_10_payloads_are_left_alone_unless_it_is_asked_for() {
    let carried = |rewriting, text: &[u8]| {
        let mut nat = Bench::new(Behaviour { rewriting, ..rfc_compliant() });
        match nat.outward(with_payload(udp(end(A), end(R)), text)).unwrap().body {
            Body::Udp(datagram) => datagram.payload,
            other => panic!("{other:?}"),
        }
    };
    let text = b"I am 192.168.1.2, not 192.168.1.23";
    let binary = [9, 192, 168, 1, 2, 7];
    assert_eq!(carried(Rewriting::None, text), text);
    assert_eq!(carried(Rewriting::None, &binary), binary);
    assert_eq!(carried(Rewriting::Text, text), b"I am 203.0.113.1, not 192.168.1.23");
    assert_eq!(carried(Rewriting::Binary, &binary), [9, 203, 0, 113, 1, 7]);
}

#[test]
fn req_11_the_same_calls_always_give_the_same() {
    let ports = |seed| {
        let mut nat = Bench::with(symmetric_random(), &[X], seed);
        (1..100).map(|port| nat.map(A, &format!("198.51.100.1:{port}"))).collect::<Vec<_>>()
    };
    assert_eq!(ports(5), ports(5));
    assert_ne!(ports(5), ports(6));
}

#[test]
fn req_12_icmp_ends_nothing_unless_asked_to() {
    let survives = |icmp, protocol: fn(_, _) -> Packet| {
        let mut nat = Bench::new(Behaviour { icmp, ..linux_masquerade() });
        let sent = nat.outward(protocol(end(A), end(R))).unwrap();
        nat.outward(protocol(end(A), end(R2))).unwrap();
        let error = sent.error(ip("192.0.2.9"), ErrorKind::Unreachable(Unreachable::Port)).unwrap();
        assert_eq!(nat.inward(error.clone()).unwrap().source, ip("192.0.2.9"), "from any source, REQ-12 a");
        nat.after(SECOND * 12);
        !nat.handle(Side::Outside, protocol(end(R), x(4000))).is_empty()
    };
    for protocol in [udp, syn] {
        assert!(survives(Ends::Nothing, protocol));
        for icmp in [Ends::SessionLater, Ends::Session, Ends::Mapping] {
            assert!(!survives(icmp, protocol), "{icmp:?}");
        }
    }
}

#[test]
fn req_12b_icmp_about_nothing_is_dropped() {
    let mut nat = Bench::new(rfc_compliant());
    let error = udp(x(4000), end(R)).error(ip("192.0.2.9"), ErrorKind::TimeExceeded).unwrap();
    assert_eq!(nat.handle(Side::Outside, error.clone()), []);
    assert_eq!(nat.handle(Side::Inside, error), []);
}

#[test]
fn icmp_from_inside_is_translated_too() {
    let mut nat = Bench::new(rfc_compliant());
    let b = nat.map_udp(A, R);
    let arrived = nat.inward(udp(end(S), b)).unwrap();
    let error = arrived.error(end(A).ip(), ErrorKind::Unreachable(Unreachable::Port)).unwrap();
    let outside = nat.outward(error).unwrap();
    assert_eq!((outside.source, outside.destination), (ip(X), end(S).ip()));
    let quoted = super::harness::error(&outside).quoted;
    assert_eq!((quoted.source, quoted.destination), (end(S), b));
}
