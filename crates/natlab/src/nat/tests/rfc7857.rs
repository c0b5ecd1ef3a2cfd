//! RFC 7857, section by section.

use super::harness::*;
use crate::nat::presets::{carrier_block, linux_masquerade, rfc_compliant, symmetric_random};
use crate::nat::{Allocation, Behaviour, Dependence, Ends, Refusal, Side, Timeouts, Tracking};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn strict() -> Behaviour {
    Behaviour { filtering: Dependence::AddressAndPort, refusal: Refusal::Drop, ..rfc_compliant() }
}

fn passes(nat: &mut Bench) -> bool {
    !nat.handle(Side::Outside, tcp(end(R), x(4000), ACK, 5001, 1001)).is_empty()
}

#[test]
fn section_2_any_syn_may_follow_any_syn() {
    let mut nat = Bench::new(strict());
    nat.map(A, R);
    for isn in [1000, 77, 900_000_000, 3_000_000_000] {
        assert!(nat.outward(tcp(end(A), end(R), SYN, isn, 0)).is_some());
        assert!(nat.inward(tcp(end(R), x(4000), SYN, isn ^ 5, 0)).is_some());
        assert!(nat.outward(tcp(end(A), end(R), SYN_ACK, isn ^ 9, 1)).is_some());
        assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, isn ^ 3, 1)).is_some());
    }
}

#[test]
fn section_2_1_opening_and_closing_have_times_of_their_own() {
    let timeouts = Timeouts { transitory: MINUTE, closing: MINUTE * 2, ..Timeouts::RFC };
    let behaviour = Behaviour { timeouts, ..strict() };
    let mut opening = Bench::new(behaviour.clone());
    opening.map(A, R);
    assert!(!passes(opening.after(MINUTE + SECOND)));
    for closed in [SECOND * 119, SECOND * 121] {
        let mut nat = Bench::new(behaviour.clone());
        nat.establish(A, R);
        nat.outward(tcp(end(A), end(R), FIN_ACK, 1001, 5001)).unwrap();
        assert!(passes(nat.after(MINUTE * 60)), "one side may be closed for long");
        nat.inward(tcp(end(R), x(4000), FIN_ACK, 5001, 1002)).unwrap();
        nat.outward(tcp(end(A), end(R), ACK, 1002, 5002)).unwrap();
        assert_eq!(passes(nat.after(closed)), closed < MINUTE * 2);
    }
}

#[test]
fn section_2_2_a_reset_leaves_the_session_for_four_minutes() {
    let reset = || {
        let mut nat = Bench::new(strict());
        nat.establish(A, R);
        nat.inward(tcp(end(R), x(4000), RST, 5001, 0)).unwrap();
        nat
    };
    assert!(!passes(reset().after(SECOND * 241)));
    let mut nat = reset();
    assert!(passes(nat.after(SECOND * 239)));
    assert!(passes(nat.after(MINUTE * 60)), "it was not believed");
}

#[test]
fn section_3_one_port_for_several_destinations() {
    // Port overlapping is what Linux does: the ports are kept where the destinations differ.
    let mut nat = Bench::new(linux_masquerade());
    assert_eq!((nat.map(A, R), nat.map(B, S)), (x(4000), x(4000)));
    assert_ne!(nat.map(B, R), x(4000));
    assert_eq!(destination(&nat.inward(tcp(end(R), x(4000), SYN, 1, 0)).unwrap()), end(A));
    assert_eq!(destination(&nat.inward(tcp(end(S), x(4000), SYN, 1, 0)).unwrap()), end(B));
    // An endpoint-independent mapping can't.
    let mut nat = Bench::new(rfc_compliant());
    assert_ne!(nat.map(A, R), nat.map(B, S));
}

#[test]
fn section_4_paired_addresses_stay_paired_when_ports_run_out() {
    let behaviour = Behaviour { ports: (2000, 2001), allocation: Allocation::Random, ..rfc_compliant() };
    let mut nat = Bench::with(behaviour, &["203.0.113.1", "203.0.113.2"], 1);
    let first = nat.map("192.168.1.2:1", R);
    assert_eq!(nat.map("192.168.1.2:2", R).ip(), first.ip());
    assert_eq!(nat.handle(Side::Inside, syn(end("192.168.1.2:3"), end(R))), []);
}

#[test]
fn section_5_a_protocol_has_mappings_of_its_own() {
    let mut nat = Bench::new(Behaviour { allocation: Allocation::Random, ..strict() });
    let (by_tcp, by_udp) = (nat.map(A, R), nat.map_udp(A, R));
    assert_ne!(by_tcp, by_udp);
    let mut nat = Bench::new(strict());
    assert_eq!((nat.map(A, R), nat.map_udp(B, R)), (x(4000), x(4000)), "and ports of its own");
}

#[test]
fn section_6_a_protocol_is_filtered_by_itself() {
    let mut nat = Bench::new(strict());
    nat.map(A, R);
    nat.map_udp(A, S);
    assert_eq!(nat.handle(Side::Outside, udp(end(R), x(4000))), []);
    assert_eq!(nat.handle(Side::Outside, syn(end(S), x(4000))), []);
}

#[test]
fn section_7_what_comes_from_strangers_keeps_the_mapping() {
    let mut nat = Bench::new(rfc_compliant());
    nat.map_udp(A, R);
    for _ in 0..5 {
        assert!(nat.after(SECOND * 100).inward(udp(end(S), x(4000))).is_some());
    }
}

#[test]
fn section_7_1_resets_and_errors_refresh_nothing() {
    let mut nat = Bench::new(strict());
    nat.establish(A, R);
    nat.outward(tcp(end(A), end(R), RST, 1001, 0)).unwrap();
    nat.after(SECOND * 200).outward(tcp(end(A), end(R), RST, 1001, 0)).unwrap();
    assert!(passes(nat.after(SECOND * 200)));
    let mut nat = Bench::new(strict());
    let sent = nat.outward(udp(end(A), end(R))).unwrap();
    let back = nat.inward(udp(end(R), x(4000))).unwrap();
    let kind = crate::packet::ErrorKind::TimeExceeded;
    nat.after(SECOND * 100);
    nat.outward(back.error(end(A).ip(), kind).unwrap()).unwrap();
    nat.inward(sent.error(end(R).ip(), kind).unwrap()).unwrap();
    assert_eq!(nat.after(SECOND * 21).handle(Side::Outside, udp(end(R), x(4000))), []);
}

#[test]
fn section_8_parity_is_not_demanded() {
    let mut nat = Bench::new(symmetric_random());
    let odd = (1..100).filter(|port| nat.map(A, &format!("198.51.100.1:{port}")).port() % 2 == 1).count();
    assert!((20..80).contains(&odd), "{odd} of 99 from an even port");
}

#[test]
fn section_9_ports_are_random_over_their_range() {
    let mut nat = Bench::new(symmetric_random());
    let ports: Vec<u16> = (1..=1000).map(|port| nat.map(A, &format!("198.51.100.1:{port}")).port()).collect();
    for quarter in 0u16..4 {
        let first = 1024 + quarter * 16128;
        let share = ports.iter().filter(|port| (first..=first + 16127).contains(*port)).count();
        assert!((190..310).contains(&share), "{share} of 1,000 in a quarter");
    }
    let mut nat = Bench::new(carrier_block(1024));
    let ports: Vec<u16> = (1..=100).map(|port| nat.map(A, &format!("198.51.100.1:{port}")).port()).collect();
    assert!(!ports.is_sorted() && ports.iter().max().unwrap() - ports.iter().min().unwrap() < 1024);
}

#[test]
fn section_11_icmp_query_mappings_end_with_their_last_session() {
    let mut nat = Bench::new(strict());
    let sent = nat.outward(ping(end(A).ip(), end(R).ip(), 7)).unwrap();
    assert!(nat.after(SECOND * 59).inward(pong(&sent)).is_some());
    assert_eq!(nat.after(SECOND * 61).handle(Side::Outside, pong(&sent)), []);
}

#[test]
fn section_12_icmp_errors_pass_a_hairpin() {
    let mut nat = Bench::new(rfc_compliant());
    let b = nat.map_udp(B, R);
    let arrived = nat.back(udp(end(A), b)).unwrap();
    let kind = crate::packet::ErrorKind::Unreachable(crate::Unreachable::Port);
    let told = nat.back(arrived.error(end(B).ip(), kind).unwrap()).unwrap();
    let error = super::harness::error(&told);
    assert_eq!((told.source, told.destination, error.kind), (b.ip(), end(A).ip(), kind));
    assert_eq!((error.quoted.source, error.quoted.destination), (end(A), b));
}

#[test]
fn what_a_reset_a_fin_and_an_early_reset_end() {
    for tracking in [Tracking::Flags, Tracking::Linux] {
        for ends in [Ends::Nothing, Ends::SessionLater, Ends::Session, Ends::Mapping] {
            let behaviour = Behaviour { tracking, ..strict() };
            // What is left at once, after the closing time, and of another session of the mapping.
            let expected = match ends {
                Ends::Nothing => [true, true, true],
                Ends::SessionLater => [true, false, true],
                Ends::Session => [false, false, true],
                Ends::Mapping => [false, false, false],
            };
            let left = |behaviour: Behaviour, close: fn(&mut Bench)| {
                let mut left = Vec::new();
                for wait in [SECOND, MINUTE * 55] {
                    let mut nat = Bench::new(behaviour.clone());
                    nat.map(A, R);
                    nat.establish(A, S);
                    close(&mut nat);
                    nat.after(wait);
                    let stranger = tcp(end(R), x(4000), ACK, 5001, 1001);
                    left.push(!nat.handle(Side::Outside, stranger).is_empty());
                }
                let mut nat = Bench::new(behaviour);
                nat.map(A, R);
                nat.establish(A, S);
                close(&mut nat);
                left.push(!nat.handle(Side::Outside, tcp(end(S), x(4000), ACK, 5001, 1001)).is_empty());
                left
            };
            let reset = left(Behaviour { reset: ends, ..behaviour.clone() }, |nat| {
                nat.establish(A, R);
                nat.inward(tcp(end(R), x(4000), RST, 5001, 0)).unwrap();
            });
            assert_eq!(reset, expected, "reset, {tracking:?} {ends:?}");
            let close: fn(&mut Bench) = |nat| {
                nat.establish(A, R);
                nat.outward(tcp(end(A), end(R), FIN_ACK, 1001, 5001)).unwrap();
                nat.inward(tcp(end(R), x(4000), FIN_ACK, 5001, 1002)).unwrap();
            };
            // Linux gives what is not acknowledged five minutes, whatever the state.
            let acknowledge: fn(&mut Bench) = |nat| {
                nat.establish(A, R);
                nat.outward(tcp(end(A), end(R), FIN_ACK, 1001, 5001)).unwrap();
                nat.inward(tcp(end(R), x(4000), FIN_ACK, 5001, 1002)).unwrap();
                nat.outward(tcp(end(A), end(R), ACK, 1002, 5002)).unwrap();
            };
            let close = if ends == Ends::Nothing { acknowledge } else { close };
            let fin = left(Behaviour { fin: ends, ..behaviour.clone() }, close);
            assert_eq!(fin, expected, "fin, {tracking:?} {ends:?}");
            // A half-open session is gone after an hour anyhow.
            let early = left(Behaviour { early_reset: ends, ..behaviour }, |nat| {
                nat.inward(tcp(end(R), x(4000), RST_ACK, 0, 1001)).unwrap();
            });
            assert_eq!(
                (early[0], early[2]),
                (expected[0], expected[2]),
                "early reset, {tracking:?} {ends:?}"
            );
        }
    }
}
