//! What was measured of Linux, and how its table goes on from there.

use super::harness::*;
use crate::nat::presets::{icmp_rejecting, linux_masquerade, openwrt};
use crate::nat::{Behaviour, Side};
use crate::packet::{ErrorKind, Packet, Unreachable};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn linux() -> Bench {
    Bench::new(linux_masquerade())
}

fn crossed(behaviour: Behaviour) -> Bench {
    let mut nat = Bench::new(behaviour);
    assert_eq!(nat.map(A, R), x(4000));
    assert!(nat.inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some());
    nat
}

#[test]
fn simultaneous_open_goes_through_syn_sent2_to_established() {
    for (first, second) in [(Side::Inside, Side::Outside), (Side::Outside, Side::Inside)] {
        let mut nat = crossed(linux_masquerade());
        for side in [first, second] {
            let passed = match side {
                Side::Inside => nat.outward(tcp(end(A), end(R), SYN_ACK, 1000, 5001)),
                Side::Outside => nat.inward(tcp(end(R), x(4000), SYN_ACK, 5000, 1001)),
            };
            assert!(passed.is_some(), "SYN-ACK from {side:?}");
        }
        assert!(nat.outward(tcp(end(A), end(R), ACK, 1001, 5001)).is_some());
        assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some());
        nat.after(MINUTE * 60 * 24);
        assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some(), "it is established");
    }
}

#[test]
fn one_syn_ack_and_the_ack_of_the_answering_side_establish_too() {
    let mut nat = crossed(linux_masquerade());
    assert!(nat.outward(tcp(end(A), end(R), SYN_ACK, 1000, 5001)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some());
    nat.after(MINUTE * 60);
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some(), "it is established");
}

#[test]
fn another_isn_is_fine_before_the_answer_and_invalid_after_crossing() {
    let again = |sequence| tcp(end(A), end(R), SYN, sequence, 0);
    let mut nat = linux();
    nat.map(A, R);
    assert!(nat.outward(again(900_000)).is_some(), "SYN_SENT takes another ISN");
    assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 5000, 900_001)).is_some(), "and the answer to it");

    let mut nat = crossed(linux_masquerade());
    assert!(nat.outward(again(1000)).is_some(), "the same ISN is the same SYN");
    assert_eq!(nat.handle(Side::Inside, again(900_000)), [], "not translated, dropped");
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 900_000, 0)), [], "nor from outside");
    assert!(
        nat.outward(tcp(end(A), end(R), SYN_ACK, 1000, 5001)).is_some(),
        "the first connection still can"
    );
}

#[test]
fn a_listener_that_answers_instead_of_the_connecting_socket_is_invalid() {
    let mut nat = crossed(linux_masquerade());
    assert_eq!(nat.handle(Side::Inside, tcp(end(A), end(R), SYN_ACK, 900_000, 5001)), []);
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN_ACK, 900_000, 1001)), []);
}

#[test]
fn what_is_invalid_is_refused_where_the_box_refuses_it() {
    let mut nat = crossed(openwrt());
    let refused = nat.refusal(tcp(end(R), x(4000), SYN_ACK, 900_000, 1001)).unwrap();
    assert_eq!((flags(&refused), source(&refused), destination(&refused)), (RST, x(4000), end(R)));
    assert_eq!(
        nat.handle(Side::Inside, tcp(end(A), end(R), SYN, 900_000, 0)),
        [],
        "from inside it is dropped"
    );
}

#[test]
fn a_reset_before_an_answer_kills_the_entry_at_once() {
    let mut nat = linux();
    nat.map(A, R);
    assert!(nat.inward(tcp(end(R), x(4000), RST_ACK, 0, 1001)).is_some());
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0)), [], "the hole is closed");
}

#[test]
fn a_reset_that_acknowledges_something_else_is_invalid() {
    let mut nat = linux();
    nat.map(A, R);
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), RST_ACK, 0, 900_000)), []);
    assert!(nat.inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some(), "the hole is still there");
}

#[test]
fn a_reset_after_an_answer_leaves_the_entry_for_ten_seconds() {
    let closed = || {
        let mut nat = linux();
        nat.establish(A, R);
        assert!(nat.inward(tcp(end(R), x(4000), RST, 5001, 0)).is_some());
        nat
    };
    let late = tcp(end(R), x(4000), ACK, 5001, 1001);
    assert!(closed().after(SECOND * 9).inward(late.clone()).is_some());
    assert_eq!(closed().after(SECOND * 11).handle(Side::Outside, late), []);
}

#[test]
fn port_unreachable_keeps_the_entry() {
    let mut nat = linux();
    let outside = nat.outward(syn(end(A), end(R))).unwrap();
    for kind in [Unreachable::Port, Unreachable::Host, Unreachable::Prohibited] {
        let error = outside.error(ip("198.51.100.9"), ErrorKind::Unreachable(kind)).unwrap();
        let inside = nat.inward(error).unwrap();
        assert_eq!(inside.destination, end(A).ip());
        let quoted = super::harness::error(&inside).quoted;
        assert_eq!((quoted.source, quoted.destination), (end(A), end(R)));
    }
    assert!(nat.inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some());
}

#[test]
fn a_refused_or_dropped_syn_makes_no_entry() {
    for behaviour in [linux_masquerade(), openwrt(), icmp_rejecting(Unreachable::Host)] {
        let mut nat = Bench::new(behaviour);
        nat.handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0));
        assert_eq!(nat.map(A, R), x(4000), "the port is free");
        assert!(nat.inward(tcp(end(R), x(4000), SYN, 700_000, 0)).is_some(), "with another ISN");
        assert!(nat.outward(tcp(end(A), end(R), SYN_ACK, 1000, 700_001)).is_some());
    }
}

#[test]
fn a_syn_after_the_end_begins_a_new_connection() {
    let mut nat = linux();
    nat.establish(A, R);
    assert!(nat.outward(tcp(end(A), end(R), FIN_ACK, 1001, 5001)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), FIN_ACK, 5001, 1002)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), ACK, 1002, 5002)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), SYN, 77, 0)).is_some(), "TIME_WAIT");
    assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 99, 78)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), RST, 78, 0)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), SYN, 500_000, 0)).is_some(), "CLOSE");
    assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 300_000, 500_001)).is_some());
}

#[test]
fn after_a_reset_from_the_other_side_a_syn_is_let_through_and_its_answer_believed() {
    let mut nat = linux();
    nat.establish(A, R);
    assert!(nat.inward(tcp(end(R), x(4000), RST, 5001, 0)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), SYN, 500_000, 0)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), SYN_ACK, 300_000, 500_001)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), ACK, 500_001, 300_001)).is_some());
    nat.after(MINUTE * 60);
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 300_001, 500_001)).is_some(), "it is established");
}

#[test]
fn unsolicited_segments_are_refused_if_they_might_be_new() {
    let strays = [(SYN, true), (ACK, true), (SYN_ACK, false), (RST, false), (FIN_ACK, false)];
    for (flags, might) in strays {
        for (refuses_invalid, invalid_refused) in [(false, false), (true, true)] {
            let mut nat = Bench::new(Behaviour { refuses_invalid, ..openwrt() });
            let sent = nat.handle(Side::Outside, tcp(end(R), x(4000), flags, 1, 1));
            let expected = flags != RST && (might || invalid_refused);
            assert_eq!(!sent.is_empty(), expected, "{flags:?}");
        }
    }
}

#[test]
fn an_ack_from_inside_is_picked_up_in_the_middle_of_its_connection() {
    let mut nat = linux();
    let mut data = tcp(end(A), end(R), ACK, 77_000, 99_000);
    if let crate::packet::Body::Tcp(segment) = &mut data.body {
        segment.payload = vec![7; 100];
    }
    assert_eq!(source(&nat.outward(data).unwrap()), x(4000));
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 99_000, 77_100)).is_some());
    for flags in [SYN_ACK, RST, FIN_ACK] {
        assert_eq!(
            nat.handle(Side::Inside, tcp(end(B), end(R), flags, 1, 1)),
            [],
            "{flags:?} begins nothing"
        );
    }
}

#[test]
fn half_open_entries_live_for_two_minutes_from_their_first_syn() {
    let mut nat = linux();
    nat.map(A, R);
    nat.after(SECOND * 100).map(A, R);
    assert!(nat.after(SECOND * 19).inward(tcp(end(R), x(4000), SYN, 5000, 0)).is_some());
    let mut nat = linux();
    nat.map(A, R);
    nat.after(SECOND * 100).map(A, R);
    let refused: Vec<(Side, Packet)> = vec![];
    assert_eq!(nat.after(SECOND * 21).handle(Side::Outside, tcp(end(R), x(4000), SYN, 5000, 0)), refused);
}

#[test]
fn windows_are_followed() {
    let mut nat = linux();
    nat.establish(A, R);
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), ACK, 500_000, 1001)), [], "beyond the window");
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), ACK, 5001, 500_000)), [], "never sent");
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 5000, 1001)).is_some(), "a keepalive");
    assert_eq!(nat.handle(Side::Outside, tcp(end(R), x(4000), RST, 4000, 0)), [], "a reset from the past");
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, 1001)).is_some());
}
