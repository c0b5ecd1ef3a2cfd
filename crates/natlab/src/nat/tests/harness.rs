//! A NAT with two hosts inside, and words for what is sent through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::Time;
use crate::nat::{Behaviour, Nat, Side};
use crate::packet::{Body, Datagram, Echo, ErrorKind, Flags, IcmpError, Packet, Segment, Unreachable};

pub(super) const SYN: Flags = Flags::SYN;
pub(super) const SYN_ACK: Flags = Flags(0x12);
pub(super) const ACK: Flags = Flags::ACK;
pub(super) const FIN_ACK: Flags = Flags(0x11);
pub(super) const RST: Flags = Flags::RST;
pub(super) const RST_ACK: Flags = Flags(0x14);

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Inside.
pub(super) const A: &str = "192.168.1.2:4000";
/// Another host inside, with the same port.
pub(super) const B: &str = "192.168.1.3:4000";
/// Outside.
pub(super) const R: &str = "198.51.100.1:80";
/// The same address, another port.
pub(super) const R2: &str = "198.51.100.1:81";
/// Another address.
pub(super) const S: &str = "198.51.100.2:80";
/// The NAT's outside address.
pub(super) const X: &str = "203.0.113.1";

pub(super) fn x(port: u16) -> SocketAddr {
    SocketAddr::new(ip(X), port)
}

pub(super) fn tcp(
    from: SocketAddr,
    to: SocketAddr,
    flags: Flags,
    sequence: u32,
    acknowledgement: u32,
) -> Packet {
    let segment = Segment {
        source_port: from.port(),
        destination_port: to.port(),
        sequence,
        acknowledgement,
        flags,
        window: 64240,
        ..Segment::default()
    };
    Packet::tcp(from.ip(), to.ip(), segment)
}

pub(super) fn syn(from: SocketAddr, to: SocketAddr) -> Packet {
    tcp(from, to, SYN, 1000, 0)
}

pub(super) fn udp(from: SocketAddr, to: SocketAddr) -> Packet {
    let datagram =
        Datagram { source_port: from.port(), destination_port: to.port(), payload: b"hello".to_vec() };
    Packet { source: from.ip(), destination: to.ip(), ttl: Packet::TTL, body: Body::Udp(datagram) }
}

pub(super) fn ping(from: IpAddr, to: IpAddr, identifier: u16) -> Packet {
    let echo = Echo { request: true, identifier, sequence: 1, payload: b"ping".to_vec() };
    Packet { source: from, destination: to, ttl: Packet::TTL, body: Body::Echo(echo) }
}

pub(super) fn pong(ping: &Packet) -> Packet {
    let Body::Echo(echo) = &ping.body else { panic!("no ping: {ping:?}") };
    let body = Body::Echo(Echo { request: false, ..echo.clone() });
    Packet { source: ping.destination, destination: ping.source, ttl: Packet::TTL, body }
}

pub(super) fn source(packet: &Packet) -> SocketAddr {
    packet.flow().unwrap().1
}

pub(super) fn destination(packet: &Packet) -> SocketAddr {
    packet.flow().unwrap().2
}

pub(super) fn flags(packet: &Packet) -> Flags {
    packet.segment().unwrap().flags
}

pub(super) fn error(packet: &Packet) -> IcmpError {
    match packet.body {
        Body::Error(error) => error,
        _ => panic!("no error: {packet:?}"),
    }
}

pub(super) fn unreachable(packet: &Packet) -> Unreachable {
    match error(packet).kind {
        ErrorKind::Unreachable(unreachable) => unreachable,
        kind => panic!("{kind:?}"),
    }
}

/// A NAT and a clock.
pub(super) struct Bench {
    pub(super) nat: Nat,
    pub(super) now: Time,
}

impl Bench {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, &[X], 1)
    }

    pub(super) fn with(behaviour: Behaviour, outside: &[&str], seed: u64) -> Self {
        let inside = if ip(outside[0]).is_ipv4() {
            IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1))
        } else {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 1, 0, 0, 0, 1))
        };
        let nat = Nat::new(behaviour, inside, outside.iter().map(|it| ip(it)).collect(), seed);
        Self { nat, now: Time::ZERO }
    }

    pub(super) fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    pub(super) fn handle(&mut self, from: Side, packet: Packet) -> Vec<(Side, Packet)> {
        self.nat.handle(self.now, from, packet);
        self.sent()
    }

    pub(super) fn sent(&mut self) -> Vec<(Side, Packet)> {
        std::iter::from_fn(|| self.nat.poll()).collect()
    }

    /// From inside; what it sends outside, if it is one packet.
    pub(super) fn outward(&mut self, packet: Packet) -> Option<Packet> {
        one(self.handle(Side::Inside, packet), Side::Outside)
    }

    /// From outside; what it sends inside, if it is one packet.
    pub(super) fn inward(&mut self, packet: Packet) -> Option<Packet> {
        one(self.handle(Side::Outside, packet), Side::Inside)
    }

    /// From outside; what it answers, if it is one packet.
    pub(super) fn refusal(&mut self, packet: Packet) -> Option<Packet> {
        one(self.handle(Side::Outside, packet), Side::Outside)
    }

    /// From inside; what it sends back inside, if it is one packet.
    pub(super) fn back(&mut self, packet: Packet) -> Option<Packet> {
        one(self.handle(Side::Inside, packet), Side::Inside)
    }

    /// A SYN from inside; the outside endpoint that it gets.
    pub(super) fn map(&mut self, from: &str, to: &str) -> SocketAddr {
        source(&self.outward(syn(end(from), end(to))).unwrap())
    }

    /// The same with UDP.
    pub(super) fn map_udp(&mut self, from: &str, to: &str) -> SocketAddr {
        source(&self.outward(udp(end(from), end(to))).unwrap())
    }

    /// A whole handshake from inside with ISN 1000 here and 5000 there; the outside endpoint.
    pub(super) fn establish(&mut self, from: &str, to: &str) -> SocketAddr {
        let outside = self.map(from, to);
        let answer = self.inward(tcp(end(to), outside, SYN_ACK, 5000, 1001)).unwrap();
        assert_eq!(destination(&answer), end(from));
        self.outward(tcp(end(from), end(to), ACK, 1001, 5001)).unwrap();
        outside
    }
}

fn one(mut sent: Vec<(Side, Packet)>, to: Side) -> Option<Packet> {
    assert!(sent.len() <= 1, "{sent:?}");
    let (side, packet) = sent.pop()?;
    assert_eq!(side, to, "{packet:?}");
    Some(packet)
}
