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

/// As segments put on the cables of a masquerade of Linux 6.18: a number up to the window of the other side's SYN ahead passes.
#[test]
fn a_listener_whose_number_is_near_gets_one_answer_out_and_nothing_after_it() {
    for ahead in [18_143, 64_000] {
        let mut nat = crossed(linux_masquerade());
        let next = 1001 + ahead;
        let out = |nat: &mut Bench, flags, sequence, acknowledgement| {
            nat.outward(tcp(end(A), end(R), flags, sequence, acknowledgement)).is_some()
        };
        assert!(out(&mut nat, SYN_ACK, next - 1, 5001));
        assert!(nat.inward(tcp(end(R), x(4000), ACK, 5001, next)).is_some());
        assert!(!out(&mut nat, ACK, next, 5001), "one direction only");
        assert!(out(&mut nat, SYN_ACK, next - 1, 5001));
        assert!(nat.inward(tcp(end(R), x(4000), RST_ACK, 5001, next)).is_some());
        assert!(nat.inward(tcp(end(R), x(4000), SYN, 900_000, 0)).is_none(), "nor a connection after it");
    }
}

#[test]
fn where_nobody_listens_a_reset_makes_way_for_the_next_connection() {
    let mut nat = crossed(linux_masquerade());
    assert!(nat.outward(tcp(end(A), end(R), RST_ACK, 0, 5001)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), SYN, 6000, 0)).is_none());
    assert!(nat.outward(tcp(end(A), end(R), SYN, 19_000, 0)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), SYN, 7000, 0)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), SYN_ACK, 19_000, 7001)).is_some());
    assert!(nat.inward(tcp(end(R), x(4000), ACK, 7001, 19_001)).is_some());
    assert!(nat.outward(tcp(end(A), end(R), ACK, 19_001, 7001)).is_some());
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

/// A segment of a transfer with scaled windows.
fn bulk(
    from: std::net::SocketAddr,
    to: std::net::SocketAddr,
    sequence: u32,
    ack: u32,
    length: usize,
) -> Packet {
    let mut packet = tcp(from, to, ACK, sequence, ack);
    if let crate::packet::Body::Tcp(segment) = &mut packet.body {
        segment.payload = vec![1; length];
        segment.window = 2000;
    }
    packet
}

#[test]
fn transfers_with_scaled_windows_and_losses_pass_and_wrap_around() {
    const MSS: u32 = 1400;
    let isn = u32::MAX - 1_000_000;
    let mut nat = linux();
    let scaled = |mut packet: Packet, scale: u8| {
        if let crate::packet::Body::Tcp(segment) = &mut packet.body {
            segment.options = vec![2, 4, 5, 180, 4, 2, 1, 1, 1, 3, 3, scale];
        }
        packet
    };
    assert!(nat.outward(scaled(tcp(end(A), end(R), SYN, isn, 0), 7)).is_some());
    assert!(nat.inward(scaled(tcp(end(R), x(4000), SYN_ACK, 5000, isn.wrapping_add(1)), 9)).is_some());
    let first = isn.wrapping_add(1);
    assert!(nat.outward(tcp(end(A), end(R), ACK, first, 5001)).is_some());
    assert!(nat.inward(bulk(end(R), x(4000), 5001, first, 0)).is_some(), "the first scaled window");
    // A window of 2,000 << 9 bytes is 730 segments; each round one is lost and sent again.
    for round in 0..20u32 {
        let base = first.wrapping_add(round * 500 * MSS);
        for nth in (0..500).filter(|nth| *nth != 17) {
            let sequence = base.wrapping_add(nth * MSS);
            assert!(
                nat.outward(bulk(end(A), end(R), sequence, 5001, MSS as usize)).is_some(),
                "{round} {nth}"
            );
        }
        let lost = base.wrapping_add(17 * MSS);
        let mut sack = bulk(end(R), x(4000), 5001, lost, 0);
        if let crate::packet::Body::Tcp(segment) = &mut sack.body {
            segment.options = vec![1, 1, 5, 10];
            segment.options.extend(lost.wrapping_add(MSS).to_be_bytes());
            segment.options.extend(base.wrapping_add(500 * MSS).to_be_bytes());
        }
        assert!(nat.inward(sack).is_some());
        assert!(nat.outward(bulk(end(A), end(R), lost, 5001, MSS as usize)).is_some());
        assert!(nat.inward(bulk(end(R), x(4000), 5001, base.wrapping_add(500 * MSS), 0)).is_some());
    }
    let beyond = first.wrapping_add(10_000 * MSS + 3_000_000);
    assert_eq!(nat.outward(bulk(end(A), end(R), beyond, 5001, 1)), None, "beyond the window still");
}

/// 400 random conversations, with what a masquerade of Linux 6.18 let pass of them (`ct state invalid drop`, unsolicited
/// packets dropped; sent and heard on the cables on both sides). A line is a conversation, a word a segment: `>` from
/// inside or `<` from outside, flags, sequence number, acknowledgement, bytes of data, `+` if it passed.
const LINUX: &str = include_str!("linux-6.18.txt");

#[test]
fn random_conversations_pass_as_they_did_through_linux() {
    let mut segments = 0;
    for line in LINUX.lines() {
        let mut nat = linux();
        for (nth, word) in line.split(' ').enumerate() {
            let (direction, rest) = word.split_at(1);
            let [names, sequence, acknowledgement, bytes, passed] = rest.split(',').collect::<Vec<_>>()[..]
            else {
                panic!("{word}");
            };
            let flags = match names {
                "S" => SYN,
                "SA" => SYN_ACK,
                "A" => ACK,
                "FA" => FIN_ACK,
                "R" => RST,
                "RA" => RST_ACK,
                other => panic!("{other}"),
            };
            let (side, from, to) = match direction {
                ">" => (Side::Inside, end(A), end(R)),
                _ => (Side::Outside, end(R), x(4000)),
            };
            let mut packet =
                tcp(from, to, flags, sequence.parse().unwrap(), acknowledgement.parse().unwrap());
            if let crate::packet::Body::Tcp(segment) = &mut packet.body {
                segment.payload = vec![b'x'; bytes.parse().unwrap()];
            }
            assert_eq!(!nat.handle(side, packet).is_empty(), passed == "+", "segment {nth} of {line}");
            segments += 1;
        }
    }
    assert!(segments > 3000, "{segments}");
}
