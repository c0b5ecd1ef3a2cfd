//! IP packets, as far as hosts and NATs care.

mod bytes;

use std::net::{IpAddr, SocketAddr};

/// An IP packet. Never a fragment: hosts set "don't fragment", and a link whose MTU is too small says so by ICMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes; of the same family.
    pub destination: IpAddr,
    /// Routers it may still pass (IPv6: hop limit).
    pub ttl: u8,
    /// What it carries.
    pub body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp(Datagram),
    /// ICMP echo: a ping or its answer.
    Echo(Echo),
    /// An ICMP error about another packet.
    Error(IcmpError),
    /// Any other protocol; NATs drop it.
    Other {
        /// Number of the protocol.
        protocol: u8,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// A TCP segment (RFC 9293 section 3.1), checksum and data offset left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Port it comes from.
    pub source_port: u16,
    /// Port it goes to.
    pub destination_port: u16,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// What is expected next; counts only with [`Flags::ACK`].
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: Flags,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Options as they are sent, padded to a multiple of four bytes.
    pub options: Vec<u8>,
    /// Its data.
    pub payload: Vec<u8>,
}

impl Segment {
    /// How far it moves sequence numbers on: its data, and one for each of SYN and FIN.
    pub fn length(&self) -> u32 {
        let data = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        data + u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN))
    }

    /// Whether it opens a connection: SYN without ACK.
    pub fn opens(&self) -> bool {
        self.flags.has(Flags::SYN) && !self.flags.has(Flags::ACK) && !self.flags.has(Flags::RST)
    }
}

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(
    /// The byte of the header.
    pub u8,
);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Sequence numbers begin here.
    pub const SYN: Self = Self(0x02);
    /// The connection is no more.
    pub const RST: Self = Self(0x04);
    /// Hand what came to the application.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all of these are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// A UDP datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Port it comes from.
    pub source_port: u16,
    /// Port it goes to.
    pub destination_port: u16,
    /// Its data.
    pub payload: Vec<u8>,
}

/// An ICMP echo request or reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// A request, else a reply.
    pub request: bool,
    /// Names the series; NATs map it like a port (RFC 5508 REQ-1).
    pub identifier: u16,
    /// Number within the series.
    pub sequence: u16,
    /// Its data.
    pub payload: Vec<u8>,
}

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// What it is about.
    pub quoted: Quoted,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The destination can't be reached.
    Unreachable(Unreachable),
    /// Its TTL ended on the way.
    TimeExceeded,
    /// It is larger than the next link takes.
    TooBig {
        /// What the link takes, in bytes.
        mtu: u16,
    },
}

/// Why a destination can't be reached, and what Linux makes of it while it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// Net unreachable (IPv6: no route): ENETUNREACH.
    Net,
    /// Host unreachable (IPv6: address unreachable): EHOSTUNREACH.
    Host,
    /// Port unreachable: ECONNREFUSED.
    Port,
    /// Communication administratively prohibited: EHOSTUNREACH, over IPv6 EACCES.
    Prohibited,
}

/// What an ICMP error quotes of the packet that it is about: the header and eight bytes more (RFC 792).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Of the packet.
    pub protocol: Protocol,
    /// Its source; the port of an echo is its identifier.
    pub source: SocketAddr,
    /// Its destination; the port of an echo is 0.
    pub destination: SocketAddr,
    /// The sequence number of a TCP segment, else 0.
    pub sequence: u32,
}

/// What has ports, or something like them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, with the identifier as port.
    Echo,
}

impl Packet {
    /// The TTL that hosts and routers begin with.
    pub const TTL: u8 = 64;

    /// A TCP segment from here to there.
    pub fn tcp(source: IpAddr, destination: IpAddr, segment: Segment) -> Self {
        Self { source, destination, ttl: Self::TTL, body: Body::Tcp(segment) }
    }

    /// The TCP segment, if it carries one.
    pub fn segment(&self) -> Option<&Segment> {
        match &self.body {
            Body::Tcp(segment) => Some(segment),
            Body::Udp(_) | Body::Echo(_) | Body::Error(_) | Body::Other { .. } => None,
        }
    }

    /// Its protocol and both ends, where it has ports or an identifier; of an echo the identifier stands for both ports.
    pub fn flow(&self) -> Option<(Protocol, SocketAddr, SocketAddr)> {
        let ends = |source, destination| {
            (SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination))
        };
        let (protocol, (source, destination)) = match &self.body {
            Body::Tcp(segment) => (Protocol::Tcp, ends(segment.source_port, segment.destination_port)),
            Body::Udp(datagram) => (Protocol::Udp, ends(datagram.source_port, datagram.destination_port)),
            Body::Echo(echo) => (Protocol::Echo, ends(echo.identifier, echo.identifier)),
            Body::Error(_) | Body::Other { .. } => return None,
        };
        Some((protocol, source, destination))
    }

    /// What an ICMP error about this packet quotes; `None` for what gets no error: errors themselves (RFC 1122 section
    /// 3.2.2), resets, and what has no ports.
    pub fn quote(&self) -> Option<Quoted> {
        let (protocol, source, mut destination) = self.flow()?;
        if protocol == Protocol::Echo {
            destination.set_port(0);
        }
        let sequence = match self.segment() {
            Some(segment) if segment.flags.has(Flags::RST) => return None,
            Some(segment) => segment.sequence,
            None => 0,
        };
        Some(Quoted { protocol, source, destination, sequence })
    }

    /// The ICMP error about this packet, from this router or host, if it gets one.
    pub fn error(&self, from: IpAddr, kind: ErrorKind) -> Option<Self> {
        let quoted = self.quote()?;
        let body = Body::Error(IcmpError { kind, quoted });
        Some(Self { source: from, destination: self.source, ttl: Self::TTL, body })
    }

    /// The reset that answers this packet where nobody listens (RFC 9293 section 3.10.7.1); `None` for resets and what is
    /// not TCP.
    pub fn reset(&self) -> Option<Self> {
        let segment = self.segment().filter(|segment| !segment.flags.has(Flags::RST))?;
        let (sequence, acknowledgement, flags) = if segment.flags.has(Flags::ACK) {
            (segment.acknowledgement, 0, Flags::RST)
        } else {
            (0, segment.sequence.wrapping_add(segment.length()), Flags::RST.with(Flags::ACK))
        };
        let answer = Segment {
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            sequence,
            acknowledgement,
            flags,
            ..Segment::default()
        };
        Some(Self::tcp(self.destination, self.source, answer))
    }

    /// Its length on the wire in bytes, IP header included.
    pub fn length(&self) -> usize {
        let header = if self.source.is_ipv4() { 20 } else { 40 };
        header + self.body_length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Packet {
        let segment = Segment {
            source_port: 7,
            destination_port: 9,
            sequence: 41,
            flags: Flags::SYN,
            ..Segment::default()
        };
        Packet::tcp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), segment)
    }

    #[test]
    fn a_reset_acknowledges_the_syn_that_it_refuses() {
        let reset = syn().reset().unwrap();
        let segment = reset.segment().unwrap();
        assert_eq!((segment.source_port, segment.destination_port), (9, 7));
        assert_eq!((segment.sequence, segment.acknowledgement), (0, 42));
        assert_eq!(segment.flags, Flags::RST.with(Flags::ACK));
        assert_eq!(reset.reset(), None, "a reset is not answered");
    }

    #[test]
    fn errors_are_not_answered_with_errors() {
        let router = [10, 0, 0, 254].into();
        let error = syn().error(router, ErrorKind::TimeExceeded).unwrap();
        assert_eq!(error.destination, syn().source);
        assert_eq!(error.error(router, ErrorKind::TimeExceeded), None);
        assert_eq!(syn().reset().unwrap().error(router, ErrorKind::TimeExceeded), None);
    }
}
