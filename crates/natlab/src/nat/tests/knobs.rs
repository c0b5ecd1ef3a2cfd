//! Every other knob, on both its sides.

use std::net::SocketAddr;
use std::time::Duration;

use super::harness::*;
use crate::nat::presets::{
    carrier_block, carrier_eim, firewall, full_cone, home_overloading, icmp_rejecting, linux_masquerade,
    linux_random, no_simultaneous_open, openwrt, remapping, rfc_compliant, router, symmetric_random,
    symmetric_stepping,
};
use crate::nat::{Behaviour, Dependence, Hairpin, Pooling, Rate, Refusal, Side, Timeouts};
use crate::packet::{Body, ErrorKind, Packet, Unreachable};

#[test]
fn the_unsolicited_is_answered_as_told() {
    let answer =
        |refusal, packet: Packet| Bench::new(Behaviour { refusal, ..linux_masquerade() }).refusal(packet);
    let (by_tcp, by_udp) = (syn(end(R), x(4000)), udp(end(R), x(4000)));
    assert_eq!(answer(Refusal::Drop, by_tcp.clone()), None);
    assert_eq!(answer(Refusal::Drop, by_udp.clone()), None);
    let reset = answer(Refusal::Reset, by_tcp.clone()).unwrap();
    assert_eq!((flags(&reset), source(&reset), destination(&reset)), (RST_ACK, x(4000), end(R)));
    assert_eq!(reset.segment().unwrap().acknowledgement, 1001);
    let error = answer(Refusal::Reset, by_udp.clone()).unwrap();
    assert_eq!((error.source, unreachable(&error)), (ip(X), Unreachable::Port));
    for kind in [Unreachable::Net, Unreachable::Host, Unreachable::Port, Unreachable::Prohibited] {
        for packet in [&by_tcp, &by_udp] {
            let error = answer(Refusal::Icmp(kind), packet.clone()).unwrap();
            assert_eq!((error.source, error.destination), (ip(X), end(R).ip()));
            assert_eq!(unreachable(&error), kind);
            let quoted = super::harness::error(&error).quoted;
            assert_eq!((quoted.source, quoted.destination), (end(R), x(4000)));
        }
    }
}

#[test]
fn errors_are_limited_for_each_destination() {
    let count = |nat: &mut Bench, from: &str, packets: u16| {
        (0..packets).filter(|port| nat.refusal(syn(end(from), x(4000 + port))).is_some()).count()
    };
    let mut nat = Bench::new(icmp_rejecting(Unreachable::Host));
    assert_eq!(count(&mut nat, R, 20), 6);
    assert_eq!(count(&mut nat, S, 20), 6);
    nat.after(SECOND * 3 / 2);
    assert_eq!(count(&mut nat, R, 20), 1);
    nat.after(SECOND * 60);
    assert_eq!(count(&mut nat, R, 20), 6);
    let mut nat = Bench::new(Behaviour { icmp_limit: None, ..icmp_rejecting(Unreachable::Host) });
    assert_eq!(count(&mut nat, R, 20), 20);
}

#[test]
fn syns_that_belong_to_nothing_are_limited() {
    let mut nat = Bench::new(openwrt());
    nat.map(A, R);
    let count = |nat: &mut Bench, packets: u16| {
        (0..packets).filter(|port| nat.refusal(syn(end(S), x(5000 + port))).is_some()).count()
    };
    assert_eq!(count(&mut nat, 100), 50);
    assert!(nat.inward(syn(end(R), x(4000))).is_some(), "this one belongs to a session");
    assert_eq!(count(nat.after(SECOND), 100), 25);
    let mut nat = Bench::new(Behaviour { syn_limit: None, ..openwrt() });
    assert_eq!(count(&mut nat, 100), 100);
    let none = Some(Rate { per_second: 0, burst: 2 });
    let mut nat = Bench::new(Behaviour { syn_limit: none, ..openwrt() });
    assert_eq!((count(&mut nat, 9), count(nat.after(SECOND * 9999), 9)), (2, 0));
}

fn with_ttl(packet: Packet, ttl: u8) -> Packet {
    Packet { ttl, ..packet }
}

#[test]
fn the_ttl_is_counted_in_every_direction() {
    let mut nat = Bench::new(rfc_compliant());
    assert_eq!(nat.outward(with_ttl(syn(end(A), end(R)), 9)).unwrap().ttl, 8);
    assert_eq!(nat.inward(with_ttl(syn(end(S), x(4000)), 9)).unwrap().ttl, 8);
    assert_eq!(nat.back(with_ttl(syn(end(B), x(4000)), 9)).unwrap().ttl, 8);
    let mut nat = Bench::new(Behaviour { counts_ttl: false, ..rfc_compliant() });
    assert_eq!(nat.outward(with_ttl(syn(end(A), end(R)), 1)).unwrap().ttl, 1);
    assert_eq!(nat.inward(with_ttl(syn(end(S), x(4000)), 1)).unwrap().ttl, 1);
}

#[test]
fn what_ends_here_makes_no_session_and_what_ends_later_does() {
    for behaviour in [linux_masquerade(), rfc_compliant()] {
        let mut nat = Bench::new(Behaviour { filtering: Dependence::AddressAndPort, ..behaviour });
        let answer = nat.back(with_ttl(syn(end(A), end(R)), 1)).unwrap();
        assert_eq!((answer.source, answer.destination), (ip("192.168.1.1"), end(A).ip()));
        assert_eq!(error(&answer).kind, ErrorKind::TimeExceeded);
        assert_eq!(error(&answer).quoted.destination, end(R));
        assert_eq!(nat.handle(Side::Outside, syn(end(R), x(4000))), [], "no hole");

        assert_eq!(nat.outward(with_ttl(syn(end(A), end(R)), 2)).unwrap().ttl, 1);
        let answer = nat.refusal(with_ttl(syn(end(R), x(4000)), 1)).unwrap();
        assert_eq!((answer.source, error(&answer).quoted.destination), (ip(X), x(4000)));
        assert!(nat.inward(syn(end(R), x(4000))).is_some(), "a hole");
    }
}

#[test]
fn what_reaches_a_nat_that_refuses_is_refused_whatever_its_ttl() {
    let refusal = Bench::new(openwrt()).refusal(with_ttl(syn(end(R), x(4000)), 1)).unwrap();
    assert_eq!(flags(&refusal), RST_ACK);
}

#[test]
fn outside_addresses_can_be_pinged() {
    for behaviour in [linux_masquerade(), firewall(), rfc_compliant()] {
        let mut nat = Bench::new(behaviour);
        for (side, from) in [(Side::Outside, end(R).ip()), (Side::Inside, end(A).ip())] {
            let request = ping(from, ip(X), 9);
            assert_eq!(nat.handle(side, request.clone()), [(side, pong(&request))]);
        }
        let request = ping(end(A).ip(), ip("192.168.1.1"), 9);
        assert_eq!(nat.handle(Side::Inside, request.clone()), [(Side::Inside, pong(&request))]);
    }
}

#[test]
fn pings_to_an_outside_address_do_not_hairpin() {
    let mut nat = Bench::new(rfc_compliant());
    nat.outward(ping(end(B).ip(), end(R).ip(), 9)).unwrap();
    let request = ping(end(A).ip(), ip(X), 9);
    assert_eq!(nat.handle(Side::Inside, request.clone()), [(Side::Inside, pong(&request))]);
    assert_eq!(nat.handle(Side::Inside, pong(&request)), [], "an answer to nothing");
}

#[test]
fn a_forwarded_port_is_open_to_everybody_for_ever() {
    for behaviour in [linux_masquerade(), symmetric_random(), carrier_block(64), openwrt()] {
        let mut nat = Bench::new(behaviour);
        nat.nat.forward(7766, end("192.168.1.2:66"));
        for remote in [R, S] {
            let arrived = nat.after(SECOND * 1_000_000).inward(syn(end(remote), x(7766))).unwrap();
            assert_eq!(destination(&arrived), end("192.168.1.2:66"));
            let answer = nat.outward(tcp(end("192.168.1.2:66"), end(remote), SYN_ACK, 1, 1001)).unwrap();
            assert_eq!(source(&answer), x(7766));
        }
        nat.nat.forget();
        assert!(nat.inward(syn(end(R), x(7766))).is_some());
    }
}

#[test]
fn a_forwarded_port_is_given_to_nobody_else() {
    let mut nat = Bench::new(linux_masquerade());
    assert_eq!(nat.map("192.168.1.3:7766", R), x(7766));
    nat.nat.forward(7766, end("192.168.1.2:7766"));
    assert_ne!(nat.map("192.168.1.3:7766", R), x(7766));
    assert_eq!(nat.map("192.168.1.2:7766", S), x(7766), "but to whom it is forwarded");
    let mut nat = Bench::new(home_overloading());
    nat.nat.forward(4000, end("192.168.1.9:4000"));
    assert_ne!(nat.map(A, R), x(4000), "not even where ports are overloaded");
}

#[test]
fn forwarded_ports_hairpin_where_anything_does() {
    let mut nat = Bench::new(Behaviour { hairpin: Hairpin::OutsideSource, ..linux_masquerade() });
    nat.nat.forward(7766, end("192.168.1.9:7766"));
    let arrived = nat.back(syn(end(A), x(7766))).unwrap();
    assert_eq!((source(&arrived), destination(&arrived)), (x(4000), end("192.168.1.9:7766")));
    let answer = nat.back(tcp(end("192.168.1.9:7766"), x(4000), SYN_ACK, 1, 1001)).unwrap();
    assert_eq!((source(&answer), destination(&answer)), (x(7766), end(A)));
    let mut nat = Bench::new(linux_masquerade());
    nat.nat.forward(7766, end("192.168.1.9:7766"));
    assert_eq!(flags(&nat.back(syn(end(A), x(7766))).unwrap()), RST_ACK);
}

#[test]
fn a_restart_forgets_everything_but_what_was_set_up_by_hand() {
    let mut nat = Bench::new(rfc_compliant());
    nat.establish(A, R);
    nat.handle(Side::Outside, syn(end(S), x(5000)));
    nat.nat.forget();
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), ACK, 5001, 1001)), []);
    assert_eq!(nat.nat.next(), None);
    assert_eq!(nat.map(B, R), x(4000));
}

#[test]
fn a_firewall_tracks_and_translates_nothing() {
    let (inside, outside) = (end("198.18.1.2:4000"), end(R));
    let mut nat = Bench::new(firewall());
    assert_eq!(nat.handle(Side::Outside, syn(outside, inside)), []);
    let sent = syn(inside, outside);
    assert_eq!(nat.outward(sent.clone()).unwrap(), Packet { ttl: 63, ..sent });
    let answer = tcp(outside, inside, SYN_ACK, 5000, 1001);
    assert_eq!(nat.inward(answer.clone()).unwrap(), Packet { ttl: 63, ..answer });
    assert_eq!(nat.handle(Side::Outside, syn(end(S), inside)), []);
    nat.nat.forward(22, end("198.18.1.2:22"));
    assert!(nat.inward(syn(end(S), end("198.18.1.2:22"))).is_some());

    let mut nat = Bench::new(Behaviour { refusal: Refusal::Reset, ..firewall() });
    assert_eq!(source(&nat.refusal(syn(outside, inside)).unwrap()), inside, "as if the host had reset");
    let mut nat = Bench::new(Behaviour { refusal: Refusal::Icmp(Unreachable::Prohibited), ..firewall() });
    assert_eq!(nat.refusal(syn(outside, inside)).unwrap().source, ip(X));
    let mut nat = Bench::new(firewall());
    assert_eq!(nat.refusal(with_ttl(syn(outside, inside), 1)).unwrap().source, ip(X), "it is a hop");
}

#[test]
fn a_router_lets_everything_pass() {
    let mut nat = Bench::new(router());
    for flags in [SYN, SYN_ACK, ACK, RST, FIN_ACK] {
        let packet = tcp(end(R), end("198.18.1.2:4000"), flags, 1, 1);
        assert_eq!(nat.inward(packet.clone()).unwrap(), Packet { ttl: 63, ..packet });
        let packet = tcp(end("198.18.1.2:4000"), end(R), flags, 1, 1);
        assert_eq!(nat.outward(packet.clone()).unwrap(), Packet { ttl: 63, ..packet });
    }
    assert_eq!(
        error(&nat.refusal(with_ttl(syn(end(R), end("198.18.1.2:4000")), 1)).unwrap()).kind,
        ErrorKind::TimeExceeded
    );
}

#[test]
fn ipv6_is_handled_alike() {
    let (inside, remote, outside) =
        (end("[2001:db8:9:1::2]:4000"), end("[2001:db8:5::1]:80"), "2001:db8:9::1");
    let mut nat = Bench::with(firewall(), &[outside], 1);
    assert_eq!(nat.handle(Side::Outside, syn(remote, inside)), []);
    assert!(nat.outward(syn(inside, remote)).is_some());
    assert!(nat.inward(tcp(remote, inside, SYN, 5000, 0)).is_some());
    let request = ping(remote.ip(), inside.ip(), 3);
    assert_eq!(nat.inward(request.clone()).unwrap().body, request.body, "pings come in (RFC 4890)");
    assert_eq!(nat.outward(pong(&request)).unwrap().body, pong(&request).body);
    let mut nat = Bench::with(rfc_compliant(), &[outside], 1);
    let sent = nat.outward(syn(inside, remote)).unwrap();
    assert_eq!(source(&sent), SocketAddr::new(ip(outside), 4000));
    assert_eq!(destination(&nat.inward(syn(remote, source(&sent))).unwrap()), inside);
}
#[test]
fn what_is_no_protocol_of_ours_is_dropped() {
    let mut nat = Bench::new(rfc_compliant());
    let body = Body::Other { protocol: 47, bytes: vec![1, 2, 3] };
    let packet = Packet { source: end(A).ip(), destination: end(R).ip(), ttl: 64, body };
    assert_eq!(nat.handle(Side::Inside, packet.clone()), []);
    assert_eq!(nat.handle(Side::Outside, Packet { destination: ip(X), ..packet }), []);
}

#[test]
fn echoes_are_forgotten_when_they_are_idle() {
    let timeouts = Timeouts { echo: SECOND * 10, ..Timeouts::RFC };
    for (idle, answered) in [(9, true), (11, false)] {
        let mut nat = Bench::new(Behaviour { timeouts, ..rfc_compliant() });
        let sent = nat.outward(ping(end(A).ip(), end(R).ip(), 7)).unwrap();
        assert_eq!(!nat.after(SECOND * idle).handle(Side::Outside, pong(&sent)).is_empty(), answered);
    }
}

#[test]
fn many_expired_sessions_are_swept() {
    let mut nat = Bench::new(symmetric_random());
    for round in 0..50u16 {
        for port in 1..=400u16 {
            nat.map_udp(&format!("192.168.1.2:{}", 1000 + round), &format!("198.51.100.1:{port}"));
        }
        nat.after(Duration::from_secs(3600));
    }
    assert!(nat.nat.table.places() < 2000, "{}", nat.nat.table.places());
}

#[test]
fn presets_are_what_they_are_named_after() {
    let presets = [
        linux_masquerade(),
        openwrt(),
        icmp_rejecting(Unreachable::Host),
        linux_random(),
        full_cone(),
        remapping(),
        carrier_eim(),
        carrier_block(1024),
        rfc_compliant(),
        symmetric_random(),
        symmetric_stepping(2),
        firewall(),
        no_simultaneous_open(),
        home_overloading(),
    ];
    for behaviour in presets {
        let mut nat = Bench::new(behaviour.clone());
        let outside = nat.establish(A, R);
        assert_eq!(
            nat.map(A, R2) == outside,
            behaviour.mapping == Dependence::Endpoint
                || matches!(behaviour.allocation, crate::nat::Allocation::Preserving(_))
                || !behaviour.translates
        );
        let stranger = nat.handle(Side::Outside, syn(end("192.0.2.55:5"), outside));
        let admitted = matches!(&stranger[..], [(Side::Inside, _)]);
        assert_eq!(admitted, behaviour.filtering == Dependence::Endpoint, "{behaviour:?}");
        assert_eq!(behaviour.pooling, Pooling::Paired);
    }
}

#[test]
fn a_nat_behind_a_nat_translates_twice() {
    use crate::link::Conditions;
    use crate::{Internet, Place, Site};
    let mut internet = Internet::new(1);
    let carrier = internet.gateway(Place::Core, Site::ipv4(carrier_block(1024)), Conditions::PERFECT);
    let home = internet.gateway(Place::Behind(carrier), Site::ipv4(linux_masquerade()), Conditions::PERFECT);
    let inside = internet.host(Place::Behind(home), Conditions::PERFECT);
    let public = internet.host(Place::Core, Conditions::PERFECT);
    let from = SocketAddr::new(internet.address(inside, true).unwrap(), 4000);
    let to = SocketAddr::new(internet.address(public, true).unwrap(), 80);
    internet.send(Duration::ZERO, inside, syn(from, to));
    let (host, arrived) = internet.poll(Duration::ZERO).unwrap();
    assert_eq!((host, arrived.ttl, destination(&arrived)), (public, Packet::TTL - 3, to));
    assert_eq!(source(&arrived).ip(), internet.outside(carrier)[0]);
    internet.send(SECOND, public, tcp(to, source(&arrived), SYN_ACK, 5000, 1001));
    let (host, answer) = internet.poll(SECOND).unwrap();
    assert_eq!((host, source(&answer), destination(&answer)), (inside, to, from));
    // A SYN that ends at the carrier's NAT has opened the one at home.
    internet.send(SECOND * 2, inside, with_ttl(syn(SocketAddr::new(from.ip(), 4001), to), 2));
    let (host, answer) = internet.poll(SECOND * 2).unwrap();
    assert_eq!((host, error(&answer).kind), (inside, ErrorKind::TimeExceeded));
    assert_eq!(error(&answer).quoted.source.port(), 4001);
}
