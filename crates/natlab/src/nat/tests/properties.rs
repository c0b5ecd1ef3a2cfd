//! What holds for every behaviour and whatever is sent.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::harness::*;
use crate::Unreachable;
use crate::nat::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Refusal, Rewriting, Side,
    Timeouts, Tracking,
};
use crate::packet::{Body, Datagram, Echo, ErrorKind, Flags, Packet, Protocol, Segment};

const OUTSIDE: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

fn dependence() -> impl Strategy<Value = Dependence> {
    prop_oneof![Just(Dependence::Endpoint), Just(Dependence::Address), Just(Dependence::AddressAndPort)]
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![Just(Ends::Nothing), Just(Ends::SessionLater), Just(Ends::Session), Just(Ends::Mapping)]
}

fn allocation() -> impl Strategy<Value = Allocation> {
    prop_oneof![
        Just(Allocation::Preserving(Clash::Random)),
        Just(Allocation::Preserving(Clash::Next)),
        Just(Allocation::Preserving(Clash::Overload)),
        (0u16..9).prop_map(Allocation::Stepping),
        Just(Allocation::Random),
        (0u16..70).prop_map(Allocation::Block),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Drop),
        Just(Refusal::Reset),
        Just(Refusal::Icmp(Unreachable::Host)),
        Just(Refusal::IcmpLater(Unreachable::Port)),
    ]
}

prop_compose! {
    fn behaviour()(
        (translates, refuses_invalid, simultaneous_open, counts_ttl, linux, limited) in any::<(bool, bool, bool, bool, bool, bool)>(),
        (mapping, filtering) in (dependence(), dependence()),
        allocation in allocation(),
        first in 1u16..5000,
        count in 0u16..300,
        refusal in refusal(),
        (early_reset, reset, fin, icmp) in (ends(), ends(), ends(), ends()),
        hairpin in prop_oneof![Just(Hairpin::No), Just(Hairpin::OutsideSource), Just(Hairpin::InsideSource)],
        rewriting in prop_oneof![Just(Rewriting::None), Just(Rewriting::Binary), Just(Rewriting::Text)],
        arbitrary in any::<bool>(),
    ) -> Behaviour {
        let rate = limited.then_some(Rate { per_second: 2, burst: 3 });
        Behaviour {
            translates,
            mapping,
            filtering,
            allocation,
            ports: (first, first + count),
            refusal,
            refuses_invalid,
            icmp_limit: rate,
            simultaneous_open,
            tracking: if linux { Tracking::Linux } else { Tracking::Flags },
            early_reset,
            reset,
            fin,
            icmp,
            counts_ttl,
            timeouts: if linux { Timeouts::LINUX } else { Timeouts::RFC },
            hairpin,
            pooling: if arbitrary { Pooling::Arbitrary } else { Pooling::Paired },
            syn_limit: rate,
            rewriting,
        }
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "192.168.1.1",
        "192.168.1.2",
        "192.168.1.3",
        "203.0.113.1",
        "203.0.113.2",
        "198.51.100.1",
        "198.51.100.2",
        "2001:db8::1",
    ])
    .prop_map(ip)
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(80), 1u16..5300, Just(65535)]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..20, 1000u32..1100, any::<u32>()]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        Just(b"192.168.1.2 203.0.113.1".to_vec()),
        Just(vec![192, 168, 1, 2, 203, 0, 113, 1]),
        prop::collection::vec(any::<u8>(), 0..30),
    ]
}

prop_compose! {
    fn segment()(
        source_port in port(),
        destination_port in port(),
        sequence in number(),
        acknowledgement in number(),
        flags in any::<u8>(),
        window in any::<u16>(),
        options in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..40),
        payload in payload(),
    ) -> Segment {
        let flags = Flags(flags);
        Segment { source_port, destination_port, sequence, acknowledgement, flags, window, urgent: 0, options, payload }
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let udp = (port(), port(), payload()).prop_map(|(source_port, destination_port, payload)| Datagram {
        source_port,
        destination_port,
        payload,
    });
    let echo = (any::<bool>(), port(), payload()).prop_map(|(request, identifier, payload)| Echo {
        request,
        identifier,
        sequence: 1,
        payload,
    });
    let body = prop_oneof![
        8 => segment().prop_map(Body::Tcp),
        2 => udp.prop_map(Body::Udp),
        2 => echo.prop_map(Body::Echo),
        1 => payload().prop_map(|bytes| Body::Other { protocol: 47, bytes }),
    ];
    let kind = prop_oneof![
        Just(ErrorKind::TimeExceeded),
        Just(ErrorKind::Unreachable(Unreachable::Port)),
        Just(ErrorKind::TooBig { mtu: 1280 }),
    ];
    (address(), address(), 0u8..5, body, prop::option::weighted(0.1, kind)).prop_map(
        |(source, destination, ttl, body, kind)| {
            let packet = Packet { source, destination, ttl, body };
            kind.and_then(|kind| packet.error(destination, kind)).unwrap_or(packet)
        },
    )
}

fn events() -> impl Strategy<Value = Vec<(bool, u64, Packet)>> {
    let wait = prop_oneof![9 => Just(0), 3 => 1u64..2000, 1 => 1u64..400_000];
    prop::collection::vec((any::<bool>(), wait, packet()), 1..120)
}

fn run(behaviour: Behaviour, seed: u64, events: &[(bool, u64, Packet)]) -> Vec<(Side, Packet)> {
    let overloads = matches!(behaviour.allocation, Allocation::Preserving(Clash::Overload));
    let mut bench = Bench::with(behaviour.clone(), &OUTSIDE, seed);
    let mut sent = Vec::new();
    for (inside, wait, packet) in events {
        bench.after(Duration::from_millis(*wait));
        while let Some(due) = bench.nat.next().filter(|due| *due <= bench.now) {
            bench.nat.wake(due);
            sent.extend(bench.sent());
        }
        let side = if *inside { Side::Inside } else { Side::Outside };
        sent.extend(bench.handle(side, packet.clone()));
        bench.nat.table.check();
        if !overloads {
            let live = bench.nat.table.live(bench.now);
            let places: HashSet<_> = live.iter().map(|it| (it.protocol, it.outside, it.scope())).collect();
            assert_eq!(places.len(), live.len(), "two mappings on one outside endpoint");
        }
    }
    sent
}

fn everyone_inside() -> Vec<SocketAddr> {
    (2..6).flat_map(|host| (4000..4004).map(move |port| end(&format!("192.168.1.{host}:{port}")))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_it_panic_and_the_same_seed_does_the_same(
        behaviour in behaviour(), seed in any::<u64>(), events in events(),
    ) {
        let once = run(behaviour.clone(), seed, &events);
        prop_assert_eq!(once, run(behaviour, seed, &events));
    }

    #[test]
    fn what_goes_out_and_comes_back_reaches_who_sent_it(
        behaviour in behaviour(), seed in any::<u64>(), text in payload(), tcp in any::<bool>(),
    ) {
        let ports = (1024, 65535);
        let behaviour = Behaviour { rewriting: Rewriting::None, ports, ..behaviour };
        let overloads = matches!(behaviour.allocation, Allocation::Preserving(Clash::Overload));
        let mut bench = Bench::with(behaviour.clone(), &OUTSIDE, seed);
        for inside in everyone_inside() {
            for remote in [R, R2, S] {
                let mut packet = if tcp { syn(inside, end(remote)) } else { udp(inside, end(remote)) };
                match &mut packet.body {
                    Body::Tcp(segment) => segment.payload.clone_from(&text),
                    Body::Udp(datagram) => datagram.payload.clone_from(&text),
                    Body::Echo(_) | Body::Error(_) | Body::Other { .. } => {}
                }
                let Some(out) = bench.outward(packet.clone()) else {
                    prop_assert!(matches!(behaviour.allocation, Allocation::Block(_)));
                    continue;
                };
                let outside = source(&out);
                prop_assert_eq!(OUTSIDE.map(ip).contains(&outside.ip()), behaviour.translates);
                // But for the source nothing was changed.
                let mut expected = packet;
                super::super::set_source(&mut expected, outside);
                expected.ttl -= u8::from(behaviour.counts_ttl);
                prop_assert_eq!(&out, &expected);
                let answer = if tcp {
                    let length = out.segment().map_or(0, Segment::length);
                    super::harness::tcp(end(remote), outside, SYN_ACK, 5000, 1000 + length)
                } else {
                    udp(end(remote), outside)
                };
                let back = bench.inward(answer.clone());
                let mut expected = answer;
                super::super::set_destination(&mut expected, inside);
                expected.ttl -= u8::from(behaviour.counts_ttl);
                prop_assert_eq!(back, Some(expected));
            }
        }
        if !overloads {
            let live = bench.nat.table.live(bench.now);
            prop_assert!(live.iter().all(|it| matches!(it.protocol, Protocol::Tcp | Protocol::Udp)));
        }
    }
}
