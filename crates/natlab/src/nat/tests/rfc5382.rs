//! RFC 5382, requirement by requirement.

use std::net::SocketAddr;

use super::harness::*;
use crate::nat::presets::{home_overloading, no_simultaneous_open, rfc_compliant};
use crate::nat::{Behaviour, Dependence, Ends, Hairpin, Refusal, Rewriting, Side, Tracking};
use crate::packet::{Body, ErrorKind, Packet, Unreachable};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn req_1_a_mapping_is_the_same_for_every_destination() {
    let mut nat = Bench::new(rfc_compliant());
    assert_eq!([R, R2, S].map(|remote| nat.map(A, remote)), [x(4000); 3]);
}

#[test]
fn req_2_handshakes_from_both_sides_pass() {
    for tracking in [Tracking::Flags, Tracking::Linux] {
        let mut nat = Bench::new(Behaviour { tracking, ..rfc_compliant() });
        nat.establish(A, R);
        // Endpoint-independent filtering lets anybody begin.
        let (from, to) = (end(S), x(4000));
        assert_eq!(destination(&nat.inward(tcp(from, to, SYN, 70, 0)).unwrap()), end(A));
        assert_eq!(source(&nat.outward(tcp(end(A), from, SYN_ACK, 90, 71)).unwrap()), to);
        assert!(nat.inward(tcp(from, to, ACK, 71, 91)).is_some());
        assert!(nat.after(MINUTE * 120).inward(tcp(from, to, ACK, 71, 91)).is_some());
    }
}

#[test]
fn req_2a_simultaneous_open_passes_unless_it_is_forbidden() {
    for tracking in [Tracking::Flags, Tracking::Linux] {
        let filtering = Dependence::AddressAndPort;
        let mut nat = Bench::new(Behaviour { tracking, filtering, ..rfc_compliant() });
        nat.map(A, R);
        assert!(nat.inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some());
        assert!(nat.outward(tcp(end(A), end(R), SYN_ACK, 1000, 5001)).is_some());
        assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 5000, 1001)).is_some());
        assert!(nat.outward(tcp(end(A), end(R), ACK, 1001, 5001)).is_some());

        let mut nat = Bench::new(Behaviour { tracking, refusal: Refusal::Reset, ..no_simultaneous_open() });
        nat.map(A, R);
        assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0)), [], "in silence");
        assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 5000, 1001)).is_some(), "the way is open");
        assert!(nat.outward(tcp(end(A), end(R), ACK, 1001, 5001)).is_some());
        assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0)), [], "in any state");
    }
}

#[test]
fn a_forbidden_syn_changes_the_session_only_in_linux() {
    for (tracking, survives) in [(Tracking::Flags, true), (Tracking::Linux, false)] {
        let mut nat = Bench::new(Behaviour { tracking, ..no_simultaneous_open() });
        nat.map(A, R);
        assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0)), []);
        let again = nat.outward(tcp(end(A), end(R), SYN, 900_000, 0));
        assert_eq!(again.is_some(), survives, "with another ISN, {tracking:?}");
    }
}

#[test]
fn req_3_who_may_come_in() {
    let admitted = |filtering| {
        let mut nat = Bench::new(Behaviour { filtering, ..rfc_compliant() });
        nat.map(A, R);
        [R, R2, S].map(|remote| !nat.handle(Side::Outside, syn(end(remote), x(4000))).is_empty())
    };
    assert_eq!(admitted(Dependence::Endpoint), [true, true, true]);
    assert_eq!(admitted(Dependence::Address), [true, true, false]);
    assert_eq!(admitted(Dependence::AddressAndPort), [true, false, false]);
}

#[test]
fn req_4_an_unsolicited_syn_is_refused_after_six_seconds() {
    let mut nat = Bench::new(rfc_compliant());
    assert_eq!(nat.handle(Side::Outside, syn(end(R), x(4000))), []);
    assert_eq!(nat.after(SECOND).handle(Side::Outside, syn(end(R), x(4000))), [], "sent again");
    assert_eq!(nat.nat.next(), Some(SECOND * 6));
    nat.nat.wake(SECOND * 5);
    assert_eq!(nat.sent(), []);
    nat.nat.wake(SECOND * 6);
    let [(Side::Outside, refusal)] = &nat.sent()[..] else { panic!() };
    assert_eq!(
        (refusal.source, refusal.destination, unreachable(refusal)),
        (ip(X), end(R).ip(), Unreachable::Port)
    );
    assert_eq!(error(refusal).quoted.source, end(R));
    assert_eq!(nat.nat.next(), None);
}

#[test]
fn req_4_a_syn_from_inside_in_the_meantime_silences_it() {
    let mut nat = Bench::new(rfc_compliant());
    nat.handle(Side::Outside, syn(end(R), x(4000)));
    nat.handle(Side::Outside, syn(end(S), x(4000)));
    assert_eq!(nat.after(SECOND * 5).map(A, R), x(4000));
    nat.nat.wake(SECOND * 6);
    let [(Side::Outside, refusal)] = &nat.sent()[..] else { panic!() };
    assert_eq!(refusal.destination, end(S).ip(), "only the other one is refused");
    assert_eq!(nat.nat.next(), None);
}

#[test]
fn req_5_sessions_live_as_long_as_they_must() {
    for tracking in [Tracking::Flags, Tracking::Linux] {
        let behaviour = Behaviour {
            tracking,
            filtering: Dependence::AddressAndPort,
            refusal: Refusal::Drop,
            ..rfc_compliant()
        };
        let mut established = Bench::new(behaviour.clone());
        established.establish(A, R);
        let late = tcp(end(R), x(4000), ACK, 5001, 1001);
        assert!(established.after(MINUTE * 123).inward(late.clone()).is_some());
        assert_eq!(established.after(MINUTE * 125).handle(Side::Outside, late), []);

        let mut half_open = Bench::new(behaviour);
        half_open.map(A, R);
        assert!(half_open.after(SECOND * 239).inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some());
        half_open.map(A, S);
        assert_eq!(half_open.after(SECOND * 241).handle(Side::Outside, syn(end(S), x(4000))), []);
    }
}

fn data(from: &str, to: std::net::SocketAddr, sequence: u32, acknowledgement: u32, text: &str) -> Packet {
    let mut packet = tcp(end(from), to, ACK, sequence, acknowledgement);
    if let Body::Tcp(segment) = &mut packet.body {
        segment.payload = text.as_bytes().to_vec();
    }
    packet
}

fn seen(packet: &Packet) -> (u32, u32, String) {
    let segment = packet.segment().unwrap();
    (segment.sequence, segment.acknowledgement, String::from_utf8(segment.payload.clone()).unwrap())
}

#[test]
fn req_6_rewriting_is_off_and_moves_sequence_numbers_where_it_is_on() {
    let mut plain = Bench::new(rfc_compliant());
    plain.establish(A, R);
    let sent = data(A, end(R), 1001, 5001, "192.168.1.2");
    assert_eq!(seen(&plain.outward(sent.clone()).unwrap()), seen(&sent));

    for tracking in [Tracking::Flags, Tracking::Linux] {
        let mut nat = Bench::new(Behaviour { rewriting: Rewriting::Text, tracking, ..rfc_compliant() });
        nat.establish(A, R);
        let first = data(A, end(R), 1001, 5001, "at 192.168.1.2:4000");
        for _ in 0..2 {
            // Sent again it is moved no further.
            let passed = nat.outward(first.clone()).unwrap();
            assert_eq!(seen(&passed), (1001, 5001, "at 203.0.113.1:4000".into()));
        }
        // One byte longer each: 11 became 11 here, so take an address of another length.
        let next = data(A, end(R), 1020, 5001, "more");
        assert_eq!(seen(&nat.outward(next).unwrap()), (1020, 5001, "more".into()));
    }
}

#[test]
fn sequence_numbers_are_moved_forth_and_back_also_for_what_is_sent_again() {
    const LONG: &str = "192.168.1.200:4000";
    for tracking in [Tracking::Flags, Tracking::Linux] {
        let mut nat = Bench::new(Behaviour { rewriting: Rewriting::Text, tracking, ..rfc_compliant() });
        nat.establish(LONG, R);
        let text = "I am 192.168.1.200";
        let first = data(LONG, end(R), 1001, 5001, text);
        let second = data(LONG, end(R), 1019, 5001, "rest");
        for _ in 0..2 {
            assert_eq!(seen(&nat.outward(first.clone()).unwrap()), (1001, 5001, "I am 203.0.113.1".into()));
            assert_eq!(seen(&nat.outward(second.clone()).unwrap()), (1017, 5001, "rest".into()));
        }
        let together = data(LONG, end(R), 1001, 5001, "I am 192.168.1.200rest.");
        assert_eq!(seen(&nat.outward(together).unwrap()).0, 1001);
        // What is acknowledged outside is acknowledged inside.
        for (outside, inside) in [(1001, 1001), (1004, 1004), (1017, 1019), (1021, 1023)] {
            let ack = nat.inward(data(R, x(4000), 5001, outside, "")).unwrap();
            assert_eq!(seen(&ack).1, inside);
        }
        // The other direction has its own numbers.
        let told = nat.inward(data(R, x(4000), 5001, 1021, "you are 203.0.113.1!")).unwrap();
        assert_eq!(seen(&told), (5001, 1023, "you are 192.168.1.200!".into()));
        let told = nat.inward(data(R, x(4000), 5021, 1021, "bye")).unwrap();
        assert_eq!(seen(&told), (5023, 1023, "bye".into()));
        let ack = nat.outward(data(LONG, end(R), 1023, 5026, "")).unwrap();
        assert_eq!(seen(&ack), (1021, 5024, String::new()));
    }
}

#[test]
fn selective_acknowledgements_are_moved_too() {
    const LONG: &str = "192.168.1.200:4000";
    let mut nat = Bench::new(Behaviour { rewriting: Rewriting::Text, ..rfc_compliant() });
    nat.establish(LONG, R);
    nat.outward(data(LONG, end(R), 1001, 5001, "192.168.1.200")).unwrap();
    nat.outward(data(LONG, end(R), 1014, 5001, "lost")).unwrap();
    nat.outward(data(LONG, end(R), 1018, 5001, "here")).unwrap();
    let mut ack = data(R, x(4000), 5001, 1012, "");
    let sack = |left: u32, right: u32| {
        let mut options = vec![1, 1, 5, 10];
        options.extend([left.to_be_bytes(), right.to_be_bytes()].concat());
        options
    };
    if let Body::Tcp(segment) = &mut ack.body {
        segment.options = sack(1016, 1020);
    }
    let ack = nat.inward(ack).unwrap();
    assert_eq!(ack.segment().unwrap().acknowledgement, 1014);
    assert_eq!(ack.segment().unwrap().options, sack(1018, 1022));
}

#[test]
fn req_7_ports_are_not_overloaded() {
    let mut nat = Bench::new(rfc_compliant());
    nat.establish(A, R);
    assert_ne!(nat.map(B, S), x(4000));
    let mut nat = Bench::new(home_overloading());
    nat.establish(A, R);
    assert_eq!(nat.map(B, S), x(4000));
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), ACK, 5001, 1001)), []);
}

#[test]
fn req_8_connections_between_hosts_inside() {
    for tracking in [Tracking::Flags, Tracking::Linux] {
        for filtering in [Dependence::Endpoint, Dependence::AddressAndPort] {
            let mut nat = Bench::new(Behaviour { tracking, filtering, ..rfc_compliant() });
            let (a, b) = (nat.map(A, R), nat.map(B, R));
            let first = nat.handle(Side::Inside, tcp(end(A), b, SYN, 1, 0));
            assert_eq!(first.is_empty(), filtering == Dependence::AddressAndPort, "{filtering:?}");
            let second = nat.back(tcp(end(B), a, SYN, 100, 0)).unwrap();
            assert_eq!((source(&second), destination(&second)), (b, end(A)));
            let answer = nat.back(tcp(end(A), b, SYN_ACK, 1, 101)).unwrap();
            assert_eq!((source(&answer), destination(&answer)), (a, end(B)));
            assert!(nat.back(tcp(end(B), a, ACK, 101, 2)).is_some());
        }
    }
}

#[test]
fn what_nobody_asked_for_is_refused_to_a_host_inside_as_outside() {
    let mut nat = Bench::new(Behaviour { refusal: Refusal::Reset, ..rfc_compliant() });
    let reset = nat.back(syn(end(A), x(5000))).unwrap();
    assert_eq!((flags(&reset), source(&reset), destination(&reset)), (RST_ACK, x(5000), end(A)));
    let mut nat = Bench::new(rfc_compliant());
    assert_eq!(nat.handle(Side::Inside, syn(end(A), x(5000))), []);
    nat.nat.wake(SECOND * 6);
    let [(Side::Inside, refusal)] = &nat.sent()[..] else { panic!() };
    assert_eq!((refusal.destination, error(refusal).quoted.source), (end(A).ip(), end(A)));
    let mut nat = Bench::new(Behaviour { hairpin: Hairpin::No, ..rfc_compliant() });
    assert_eq!(flags(&nat.back(syn(end(A), x(5000))).unwrap()), RST_ACK, "the router itself");
}

#[test]
fn req_9_icmp_errors_are_translated() {
    let mut nat = Bench::new(rfc_compliant());
    let sent = nat.outward(syn(end(A), end(R))).unwrap();
    for kind in
        [ErrorKind::Unreachable(Unreachable::Host), ErrorKind::TimeExceeded, ErrorKind::TooBig { mtu: 1300 }]
    {
        let error = sent.error(ip("192.0.2.7"), kind).unwrap();
        let told = nat.inward(error).unwrap();
        let error = super::harness::error(&told);
        assert_eq!((told.destination, error.kind, error.quoted.source), (end(A).ip(), kind, end(A)));
        assert_eq!(error.quoted.sequence, 1000);
    }
}

#[test]
fn req_10_icmp_ends_no_connection() {
    let mut nat = Bench::new(rfc_compliant());
    let sent = nat.outward(syn(end(A), end(R))).unwrap();
    nat.inward(sent.error(ip("192.0.2.7"), ErrorKind::Unreachable(Unreachable::Port)).unwrap()).unwrap();
    assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 5000, 1001)).is_some());
    assert_eq!(rfc_compliant().icmp, Ends::Nothing);
}

#[test]
fn what_anybody_may_begin_a_host_inside_may_too() {
    let mut nat = Bench::new(rfc_compliant());
    let b = nat.map(B, R);
    let arrived = nat.back(tcp(end(A), b, SYN, 1, 0)).unwrap();
    assert_eq!(
        (source(&arrived), destination(&arrived).ip()),
        (SocketAddr::new(ip(X), source(&arrived).port()), end(B).ip())
    );
    let answer = nat.back(tcp(end(B), source(&arrived), SYN_ACK, 9, 2)).unwrap();
    assert_eq!((source(&answer), destination(&answer)), (b, end(A)));
}
