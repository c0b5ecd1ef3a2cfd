//! How outside ports are chosen.

use std::collections::HashSet;

use super::harness::*;
use crate::nat::presets::{carrier_block, linux_masquerade, linux_random, rfc_compliant, symmetric_random};
use crate::nat::presets::{remapping, symmetric_stepping};
use crate::nat::{Allocation, Behaviour, Clash, Dependence, Pooling, Side};

fn preserving(clash: Clash, mapping: Dependence) -> Bench {
    let allocation = Allocation::Preserving(clash);
    Bench::new(Behaviour { allocation, mapping, ..symmetric_random() })
}

#[test]
fn a_port_is_taken_only_for_what_its_mapping_is_for() {
    let taken = |mapping| {
        [R, R2, S].map(|remote| {
            let mut nat = preserving(Clash::Next, mapping);
            assert_eq!(nat.map(A, R), x(4000));
            nat.map(B, remote).port()
        })
    };
    assert_eq!(taken(Dependence::Endpoint), [4001, 4001, 4001]);
    assert_eq!(taken(Dependence::Address), [4001, 4001, 4000]);
    assert_eq!(taken(Dependence::AddressAndPort), [4001, 4000, 4000]);
}

#[test]
fn on_a_clash_the_port_is_the_next_free_a_random_or_the_same() {
    let mut nat = preserving(Clash::Next, Dependence::Endpoint);
    nat.map("192.168.1.9:4001", R);
    assert_eq!([nat.map(A, R), nat.map(B, R)], [x(4000), x(4002)]);

    let drawn = |seed| {
        let mut nat = Bench::with(linux_masquerade(), &[X], seed);
        nat.map(A, R);
        nat.map(B, R).port()
    };
    assert!((1..20).map(drawn).collect::<HashSet<_>>().len() > 15);
    assert!((1..20).map(drawn).all(|port| port >= 1024 && port != 4000));

    let mut nat = preserving(Clash::Overload, Dependence::AddressAndPort);
    assert_eq!([nat.map(A, R), nat.map(B, R), nat.map(B, S)], [x(4000); 3]);
    assert_eq!(destination(&nat.inward(tcp(end(R), x(4000), SYN_ACK, 1, 1001)).unwrap()), end(B));
    assert_eq!(nat.map(A, R), x(4000), "and back");
    assert_eq!(destination(&nat.inward(tcp(end(R), x(4000), SYN_ACK, 1, 1001)).unwrap()), end(A));
}

#[test]
fn the_next_port_goes_round_the_range() {
    let allocation = Allocation::Preserving(Clash::Next);
    let mut nat = Bench::new(Behaviour { allocation, ports: (3998, 4000), ..rfc_compliant() });
    assert_eq!([nat.map(A, R), nat.map(B, R)], [x(4000), x(3998)]);
    assert_eq!(nat.map("192.168.1.4:9", R), x(3999), "what is not in the range can't be kept");
    assert_eq!(nat.handle(Side::Inside, syn(end("192.168.1.5:9"), end(R))), [], "all are taken");
}

#[test]
fn steps_go_round_the_range() {
    for step in [1, 2, 7, 1000] {
        let mut nat = Bench::new(Behaviour { ports: (10_000, 19_999), ..symmetric_stepping(step) });
        let mut last = nat.map(A, R).port();
        for remote in 1..200 {
            let port = nat.map(A, &format!("198.51.100.7:{remote}")).port();
            let expected = 10_000 + (u32::from(last) - 10_000 + u32::from(step)) % 10_000;
            if remote < 9 || step < 1000 {
                assert_eq!(u32::from(port), expected);
            }
            last = port;
        }
    }
}

#[test]
fn steps_find_every_port_of_the_range_whatever_their_width() {
    for step in [0, 1, 2, 4, 5] {
        let behaviour =
            Behaviour { ports: (2000, 2007), mapping: Dependence::Endpoint, ..symmetric_stepping(step) };
        let mut nat = Bench::new(behaviour);
        let ports: HashSet<u16> =
            (1..=8).map(|port| nat.map(&format!("192.168.1.2:{port}"), R).port()).collect();
        assert_eq!(ports.len(), 8, "{step}");
        assert_eq!(nat.handle(Side::Inside, syn(end("192.168.1.2:9"), end(R))), []);
    }
}

#[test]
fn what_is_random_is_in_the_range_and_never_twice() {
    let behaviour = Behaviour { ports: (3000, 3099), mapping: Dependence::Endpoint, ..symmetric_random() };
    let mut nat = Bench::new(behaviour);
    let ports: HashSet<u16> =
        (1..=100).map(|port| nat.map(&format!("192.168.1.2:{port}"), R).port()).collect();
    assert_eq!(ports.len(), 100);
    assert!(ports.iter().all(|port| (3000..=3099).contains(port)));
    assert_eq!(nat.handle(Side::Inside, syn(end("192.168.1.2:101"), end(R))), [], "exhausted");
    nat.after(SECOND * 241);
    assert!(ports.contains(&nat.map("192.168.1.2:102", R).port()), "what has expired is free again");
}

#[test]
fn a_block_belongs_to_an_inside_address_and_can_be_used_up() {
    let mut nat = Bench::new(Behaviour { ports: (10_000, 10_199), ..carrier_block(64) });
    let mut blocks = Vec::new();
    for host in [2, 3, 4] {
        let inside = format!("192.168.1.{host}:4000");
        let ports: HashSet<u16> =
            (1..=64).map(|port| nat.map(&inside, &format!("198.51.100.1:{port}")).port()).collect();
        let (least, most) = (*ports.iter().min().unwrap(), *ports.iter().max().unwrap());
        assert_eq!((ports.len(), most - least, (least - 10_000) % 64), (64, 63, 0));
        blocks.push(least);
        let more = syn(end(&inside), end("198.51.100.2:80"));
        assert_eq!(nat.handle(Side::Inside, more), [], "the block is used up, also toward others");
    }
    assert_eq!(blocks.iter().collect::<HashSet<_>>().len(), 3);
    let fourth = syn(end("192.168.1.5:4000"), end(R));
    assert_eq!(nat.handle(Side::Inside, fourth), [], "no block is left");
    nat.after(SECOND * 241);
    assert!(nat.outward(syn(end("192.168.1.2:4000"), end("198.51.100.2:80"))).is_some());
}

#[test]
fn arbitrary_pooling_takes_another_address_when_one_has_no_port_left() {
    let behaviour = Behaviour {
        pooling: Pooling::Arbitrary,
        ports: (2000, 2004),
        mapping: Dependence::Endpoint,
        ..symmetric_random()
    };
    let mut nat = Bench::with(behaviour, &["203.0.113.1", "203.0.113.2"], 1);
    let seen: HashSet<_> = (1..=10).map(|port| nat.map(&format!("192.168.1.2:{port}"), R)).collect();
    assert_eq!(seen.len(), 10);
    assert_eq!(nat.handle(Side::Inside, syn(end("192.168.1.2:11"), end(R))), []);
}

#[test]
fn identifiers_of_pings_are_mapped_like_ports() {
    let mut nat = Bench::new(linux_masquerade());
    let (a, b) = (ping(end(A).ip(), end(R).ip(), 7), ping(end(B).ip(), end(R).ip(), 7));
    let (from_a, from_b) = (nat.outward(a).unwrap(), nat.outward(b).unwrap());
    assert_eq!(source(&from_a), x(7));
    assert_ne!(source(&from_b).port(), 7);
    let (to_a, to_b) = (nat.inward(pong(&from_a)).unwrap(), nat.inward(pong(&from_b)).unwrap());
    assert_eq!((to_a.destination, to_b.destination), (end(A).ip(), end(B).ip()));
    assert_eq!((destination(&to_a).port(), destination(&to_b).port()), (7, 7));
}

#[test]
fn the_twins_of_the_kernels_nats_choose_ports_alike() {
    let mut nat = Bench::new(remapping());
    let outside = nat.map(A, R);
    assert_eq!([nat.map(A, R2), nat.map(A, S)], [outside; 2]);
    assert_ne!(outside, x(4000));
    let mut nat = Bench::new(linux_random());
    let seen: HashSet<_> = [R, R2, S].map(|remote| nat.map(A, remote)).into();
    assert_eq!(seen.len(), 3);
}
