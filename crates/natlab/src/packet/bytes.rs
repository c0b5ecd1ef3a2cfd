//! Packets as bytes: IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, 4443).
//!
//! Checksums are computed on the way out and looked at nowhere: what is read comes from a kernel, not over a wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    Body, Datagram, Echo, ErrorKind, Flags, IcmpError, Packet, Protocol, Quoted, Segment, Unreachable,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6's extension header of a fragment.
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

const IPV4_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
/// What the data offset of a TCP header can say at most, without the header itself.
const MAX_OPTIONS: usize = 40;

const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments", or an offset that is not zero.
const FRAGMENTED: u16 = 0x3fff;

/// Reads from the front; past the end there is nothing.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

/// What an IP header says, and what follows it.
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    protocol: u8,
    /// Whether this is one of several fragments.
    fragment: bool,
    /// How many bytes the header says that follow; of a quoted packet fewer may be there.
    length: usize,
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let first = reader.u8()?;
        match first >> 4 {
            4 => {
                let header = usize::from(first & 0x0f) * 4;
                let _service = reader.u8()?;
                let total = usize::from(reader.u16()?);
                let _identification = reader.u16()?;
                let fragment = reader.u16()? & FRAGMENTED != 0;
                let [ttl, protocol] = reader.array()?;
                let _checksum = reader.u16()?;
                let [source, destination] = [reader.array::<4>()?.into(), reader.array::<4>()?.into()];
                let _options = reader.take(header.checked_sub(IPV4_HEADER)?)?;
                let length = total.checked_sub(header)?;
                Some(Self { source, destination, ttl, protocol, fragment, length, rest: reader.0 })
            }
            6 => {
                let _class_and_label: [u8; 3] = reader.array()?;
                let length = usize::from(reader.u16()?);
                let [protocol, ttl] = reader.array()?;
                let [source, destination] = [reader.array::<16>()?.into(), reader.array::<16>()?.into()];
                let fragment = protocol == FRAGMENT;
                Some(Self { source, destination, ttl, protocol, fragment, length, rest: reader.0 })
            }
            _ => None,
        }
    }
}

fn tcp(mut reader: Reader<'_>) -> Option<Segment> {
    let [source_port, destination_port] = [reader.u16()?, reader.u16()?];
    let [sequence, acknowledgement] = [reader.u32()?, reader.u32()?];
    let [offset, flags] = reader.array()?;
    let window = reader.u16()?;
    let _checksum = reader.u16()?;
    let urgent = reader.u16()?;
    let options = reader.take((usize::from(offset >> 4) * 4).checked_sub(TCP_HEADER)?)?;
    Some(Segment {
        source_port,
        destination_port,
        sequence,
        acknowledgement,
        flags: Flags(flags),
        window,
        urgent,
        options: options.to_vec(),
        payload: reader.0.to_vec(),
    })
}

fn udp(mut reader: Reader<'_>) -> Option<Datagram> {
    let [source_port, destination_port] = [reader.u16()?, reader.u16()?];
    let length = usize::from(reader.u16()?);
    let _checksum = reader.u16()?;
    let payload = reader.take(length.checked_sub(UDP_HEADER)?)?;
    Some(Datagram { source_port, destination_port, payload: payload.to_vec() })
}

fn icmp(mut reader: Reader<'_>, v4: bool) -> Option<Body> {
    let [kind, code] = reader.array()?;
    let _checksum = reader.u16()?;
    let word: [u8; 4] = reader.array()?;
    let [high, low, .., last_high, last_low] = word;
    if let Some(request) = echo_request(kind, v4) {
        let (identifier, sequence) =
            (u16::from_be_bytes([high, low]), u16::from_be_bytes([last_high, last_low]));
        return Some(Body::Echo(Echo { request, identifier, sequence, payload: reader.0.to_vec() }));
    }
    let kind = match (v4, kind, code) {
        (true, 3, 0 | 6 | 11) | (false, 1, 0) => ErrorKind::Unreachable(Unreachable::Net),
        (true, 3, 1 | 7 | 12) | (false, 1, 3) => ErrorKind::Unreachable(Unreachable::Host),
        (true, 3, 3) | (false, 1, 4) => ErrorKind::Unreachable(Unreachable::Port),
        (true, 3, 9 | 10 | 13) | (false, 1, 1 | 5 | 6) => ErrorKind::Unreachable(Unreachable::Prohibited),
        (true, 11, 0) | (false, 3, 0) => ErrorKind::TimeExceeded,
        (true, 3, 4) => ErrorKind::TooBig { mtu: u16::from_be_bytes([last_high, last_low]) },
        (false, 2, _) => {
            ErrorKind::TooBig { mtu: u16::try_from(u32::from_be_bytes(word)).unwrap_or(u16::MAX) }
        }
        _ => return None,
    };
    let quoted = quoted(reader.0, v4)?;
    Some(Body::Error(IcmpError { kind, quoted }))
}

/// Whether this type of message is an echo's request, or its reply.
fn echo_request(kind: u8, v4: bool) -> Option<bool> {
    match (v4, kind) {
        (true, 8) | (false, 128) => Some(true),
        (true, 0) | (false, 129) => Some(false),
        _ => None,
    }
}

fn quoted(bytes: &[u8], v4: bool) -> Option<Quoted> {
    let header = Header::parse(bytes).filter(|it| it.source.is_ipv4() == v4)?;
    let mut reader = Reader(header.rest);
    let (protocol, ports, sequence) = match (header.protocol, v4) {
        (TCP, _) => {
            let ports = (reader.u16()?, reader.u16()?);
            (Protocol::Tcp, ports, reader.u32()?)
        }
        (UDP, _) => (Protocol::Udp, (reader.u16()?, reader.u16()?), 0),
        (ICMP, true) | (ICMPV6, false) => {
            echo_request(reader.u8()?, v4)?;
            let _code_and_checksum: [u8; 3] = reader.array()?;
            (Protocol::Echo, (reader.u16()?, 0), 0)
        }
        _ => return None,
    };
    Some(Quoted {
        protocol,
        source: SocketAddr::new(header.source, ports.0),
        destination: SocketAddr::new(header.destination, ports.1),
        sequence,
    })
}

/// The sum of the Internet checksum (RFC 1071), not yet folded, of what begins at an even place.
///
/// The sum does not depend on the order of bytes, so they are taken as they stand in memory.
fn sum(bytes: &[u8]) -> u64 {
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let (words, rest) = bytes.as_chunks::<8>();
    let total: u64 = words.iter().map(|word| halves(u64::from_ne_bytes(*word))).sum();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total + halves(u64::from_ne_bytes(last))
}

/// The checksum as it stands in memory.
fn fold(mut total: u64) -> [u8; 2] {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    // The loop leaves 16 bits.
    (!(total as u16)).to_ne_bytes()
}

fn patch(out: &mut [u8], at: usize, bytes: [u8; 2]) {
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&bytes);
    }
}

fn length_field(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn number(of: Protocol, v4: bool) -> u8 {
    match (of, v4) {
        (Protocol::Tcp, _) => TCP,
        (Protocol::Udp, _) => UDP,
        (Protocol::Echo, true) => ICMP,
        (Protocol::Echo, false) => ICMPV6,
    }
}

/// Appends an IP header for so many bytes.
fn write_header(
    out: &mut Vec<u8>,
    (source, destination): (IpAddr, IpAddr),
    ttl: u8,
    protocol: u8,
    length: usize,
) {
    let begin = out.len();
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) {
        out.extend([0x45, 0]);
        out.extend(length_field(IPV4_HEADER + length));
        out.extend([0, 0]);
        out.extend(DONT_FRAGMENT.to_be_bytes());
        out.extend([ttl, protocol, 0, 0]);
        out.extend(source.octets());
        out.extend(destination.octets());
        let checksum = fold(sum(out.get(begin..).unwrap_or_default()));
        patch(out, begin + 10, checksum);
    } else {
        let octets = |ip| match ip {
            IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        out.extend([0x60, 0, 0, 0]);
        out.extend(length_field(length));
        out.extend([protocol, ttl]);
        out.extend(octets(source));
        out.extend(octets(destination));
    }
}

impl Quoted {
    /// Appends the IP header and the eight bytes after it, as far as they are known.
    fn write(&self, out: &mut Vec<u8>) {
        let v4 = self.source.is_ipv4();
        let length = match self.protocol {
            Protocol::Tcp => TCP_HEADER,
            Protocol::Udp => UDP_HEADER,
            Protocol::Echo => ICMP_HEADER,
        };
        let ends = (self.source.ip(), self.destination.ip());
        write_header(out, ends, Packet::TTL, number(self.protocol, v4), length);
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()];
        match self.protocol {
            Protocol::Tcp => {
                out.extend(ports.as_flattened());
                out.extend(self.sequence.to_be_bytes());
            }
            Protocol::Udp => {
                out.extend(ports.as_flattened());
                out.extend(length_field(length));
                out.extend([0, 0]);
            }
            Protocol::Echo => {
                out.extend([if v4 { 8 } else { 128 }, 0, 0, 0]);
                out.extend(self.source.port().to_be_bytes());
                out.extend([0, 0]);
            }
        }
    }
}

impl ErrorKind {
    /// Type, code and the word after the checksum.
    fn header(self, v4: bool) -> (u8, u8, u32) {
        match (self, v4) {
            (Self::Unreachable(reason), true) => {
                let code = match reason {
                    Unreachable::Net => 0,
                    Unreachable::Host => 1,
                    Unreachable::Port => 3,
                    Unreachable::Prohibited => 13,
                };
                (3, code, 0)
            }
            (Self::Unreachable(reason), false) => {
                let code = match reason {
                    Unreachable::Net => 0,
                    Unreachable::Prohibited => 1,
                    Unreachable::Host => 3,
                    Unreachable::Port => 4,
                };
                (1, code, 0)
            }
            (Self::TimeExceeded, true) => (11, 0, 0),
            (Self::TimeExceeded, false) => (3, 0, 0),
            (Self::TooBig { mtu }, true) => (3, 4, mtu.into()),
            (Self::TooBig { mtu }, false) => (2, 0, mtu.into()),
        }
    }
}

impl Packet {
    /// Reads an IP packet. `None` for what is none, and for a fragment.
    ///
    /// What follows the length that the header says is left out. IP options, the traffic class and the flow label are
    /// forgotten. What claims to be TCP, UDP or ICMP and is too short for it, ICMP messages that [`Body`] does not know,
    /// and IPv6 with extension headers are [`Body::Other`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Header::parse(bytes).filter(|header| !header.fragment)?;
        let payload = header.rest.get(..header.length)?;
        let reader = Reader(payload);
        let v4 = header.source.is_ipv4();
        let body = match (header.protocol, v4) {
            (TCP, _) => tcp(reader).map(Body::Tcp),
            (UDP, _) => udp(reader).map(Body::Udp),
            (ICMP, true) | (ICMPV6, false) => icmp(reader, v4),
            _ => None,
        };
        let body = body.unwrap_or_else(|| Body::Other { protocol: header.protocol, bytes: payload.to_vec() });
        let Header { source, destination, ttl, .. } = header;
        Some(Self { source, destination, ttl, body })
    }

    /// Its bytes, with "don't fragment" set.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length());
        self.write(&mut bytes);
        bytes
    }

    /// Appends its [bytes](Self::encode).
    ///
    /// TCP options are padded to a multiple of four bytes, and end at the 40 that a header has room for. A packet of more
    /// than 65,535 bytes has a wrong length in its header.
    pub fn write(&self, out: &mut Vec<u8>) {
        let v4 = self.source.is_ipv4();
        let protocol = match &self.body {
            Body::Tcp(_) => TCP,
            Body::Udp(_) => UDP,
            Body::Echo(_) | Body::Error(_) => number(Protocol::Echo, v4),
            Body::Other { protocol, .. } => *protocol,
        };
        let header = out.len();
        write_header(out, (self.source, self.destination), self.ttl, protocol, self.body_length());
        let body = out.len();
        let Some(place) = self.write_body(out) else { return };
        let mut total = sum(out.get(body..).unwrap_or_default());
        if protocol != ICMP {
            // The pseudo-header: both addresses, the length and the protocol.
            let addresses = if v4 { header + 12..body } else { header + 8..body };
            total += sum(out.get(addresses).unwrap_or_default());
            let [high, low] = length_field(out.len() - body);
            total += sum(&[0, protocol, high, low]);
        }
        let mut checksum = fold(total);
        if protocol == UDP && checksum == [0, 0] {
            // Zero would mean that there is none.
            checksum = [0xff, 0xff];
        }
        patch(out, body + place, checksum);
    }

    /// How many bytes follow the IP header.
    pub(super) fn body_length(&self) -> usize {
        match &self.body {
            Body::Tcp(segment) => TCP_HEADER + segment.padded_options() + segment.payload.len(),
            Body::Udp(datagram) => UDP_HEADER + datagram.payload.len(),
            Body::Echo(echo) => ICMP_HEADER + echo.payload.len(),
            Body::Error(_) => ICMP_HEADER + if self.source.is_ipv4() { IPV4_HEADER } else { 40 } + 8,
            Body::Other { bytes, .. } => bytes.len(),
        }
    }

    /// Appends what follows the IP header; tells where in it a checksum is to be put.
    fn write_body(&self, out: &mut Vec<u8>) -> Option<usize> {
        match &self.body {
            Body::Tcp(segment) => {
                segment.write(out);
                Some(16)
            }
            Body::Udp(datagram) => {
                out.extend(datagram.source_port.to_be_bytes());
                out.extend(datagram.destination_port.to_be_bytes());
                out.extend(length_field(UDP_HEADER + datagram.payload.len()));
                out.extend([0, 0]);
                out.extend_from_slice(&datagram.payload);
                Some(6)
            }
            Body::Echo(echo) => {
                let kind = match (echo.request, self.source.is_ipv4()) {
                    (true, true) => 8,
                    (false, true) => 0,
                    (true, false) => 128,
                    (false, false) => 129,
                };
                out.extend([kind, 0, 0, 0]);
                out.extend(echo.identifier.to_be_bytes());
                out.extend(echo.sequence.to_be_bytes());
                out.extend_from_slice(&echo.payload);
                Some(2)
            }
            Body::Error(error) => {
                let (kind, code, word) = error.kind.header(self.source.is_ipv4());
                out.extend([kind, code, 0, 0]);
                out.extend(word.to_be_bytes());
                error.quoted.write(out);
                Some(2)
            }
            Body::Other { bytes, .. } => {
                out.extend_from_slice(bytes);
                None
            }
        }
    }
}

impl Segment {
    fn padded_options(&self) -> usize {
        self.options.len().min(MAX_OPTIONS).next_multiple_of(4)
    }

    /// Appends it, with a checksum of zero.
    fn write(&self, out: &mut Vec<u8>) {
        let padded = self.padded_options();
        let options = self.options.get(..MAX_OPTIONS).unwrap_or(&self.options);
        out.extend(self.source_port.to_be_bytes());
        out.extend(self.destination_port.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.acknowledgement.to_be_bytes());
        // At most 15 words.
        out.extend([(((TCP_HEADER + padded) / 4) as u8) << 4, self.flags.0]);
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend_from_slice(options);
        out.extend(std::iter::repeat_n(0, padded - options.len()));
        out.extend_from_slice(&self.payload);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn address(v4: bool) -> BoxedStrategy<IpAddr> {
        if v4 {
            any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed()
        } else {
            any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed()
        }
    }

    fn segment() -> impl Strategy<Value = Segment> {
        let options = (0..=10usize).prop_flat_map(|words| vec(any::<u8>(), words * 4));
        let numbers = any::<(u16, u16, u32, u32, u8, u16, u16)>();
        (numbers, options, vec(any::<u8>(), 0..200)).prop_map(|(numbers, options, payload)| {
            let (source_port, destination_port, sequence, acknowledgement, flags, window, urgent) = numbers;
            Segment {
                source_port,
                destination_port,
                sequence,
                acknowledgement,
                flags: Flags(flags),
                window,
                urgent,
                options,
                payload,
            }
        })
    }

    fn error(v4: bool) -> impl Strategy<Value = IcmpError> {
        let kind = prop_oneof![
            Just(ErrorKind::Unreachable(Unreachable::Net)),
            Just(ErrorKind::Unreachable(Unreachable::Host)),
            Just(ErrorKind::Unreachable(Unreachable::Port)),
            Just(ErrorKind::Unreachable(Unreachable::Prohibited)),
            Just(ErrorKind::TimeExceeded),
            any::<u16>().prop_map(|mtu| ErrorKind::TooBig { mtu }),
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Echo)];
        (kind, protocol, address(v4), address(v4), any::<(u16, u16, u32)>()).prop_map(
            |(kind, protocol, source, destination, (from, to, sequence))| {
                let to = if protocol == Protocol::Echo { 0 } else { to };
                let sequence = if protocol == Protocol::Tcp { sequence } else { 0 };
                let source = SocketAddr::new(source, from);
                let destination = SocketAddr::new(destination, to);
                IcmpError { kind, quoted: Quoted { protocol, source, destination, sequence } }
            },
        )
    }

    fn body(v4: bool) -> impl Strategy<Value = Body> {
        let bytes = || vec(any::<u8>(), 0..200);
        let known = [ICMP, TCP, UDP, FRAGMENT, ICMPV6];
        let other = any::<u8>().prop_filter("it is another's", move |it| !known.contains(it));
        prop_oneof![
            segment().prop_map(Body::Tcp),
            (any::<(u16, u16)>(), bytes()).prop_map(|((source_port, destination_port), payload)| {
                Body::Udp(Datagram { source_port, destination_port, payload })
            }),
            (any::<(bool, u16, u16)>(), bytes()).prop_map(|((request, identifier, sequence), payload)| {
                Body::Echo(Echo { request, identifier, sequence, payload })
            }),
            error(v4).prop_map(Body::Error),
            (other, bytes()).prop_map(|(protocol, bytes)| Body::Other { protocol, bytes }),
        ]
    }

    fn packet() -> impl Strategy<Value = Packet> {
        any::<bool>().prop_flat_map(|v4| {
            (address(v4), address(v4), any::<u8>(), body(v4))
                .prop_map(|(source, destination, ttl, body)| Packet { source, destination, ttl, body })
        })
    }

    /// The checksum as RFC 1071 defines it: zero over what holds its own.
    fn plain_checksum<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u16 {
        let bytes: Vec<u8> = bytes.into_iter().copied().collect();
        let total: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
            .sum();
        let folded = (total & 0xffff) + (total >> 16);
        !((folded & 0xffff) + (folded >> 16)) as u16
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(packet in packet()) {
            let bytes = packet.encode();
            prop_assert_eq!(bytes.len(), packet.length());
            prop_assert_eq!(Packet::parse(&bytes), Some(packet));
        }

        #[test]
        fn checksums_are_right(packet in packet()) {
            let bytes = packet.encode();
            let (header, addresses) = if packet.source.is_ipv4() { (20, 12) } else { (40, 8) };
            if header == 20 {
                prop_assert_eq!(plain_checksum(&bytes[..20]), 0);
            }
            let number = if header == 20 { bytes[9] } else { bytes[6] };
            let [high, low] = u16::try_from(bytes.len() - header).unwrap().to_be_bytes();
            let after = [0, number, high, low];
            let checked = match packet.body {
                Body::Other { .. } => return Ok(()),
                Body::Echo(_) | Body::Error(_) if header == 20 => plain_checksum(&bytes[header..]),
                _ => plain_checksum(bytes[addresses..header].iter().chain(&after).chain(&bytes[header..])),
            };
            prop_assert_eq!(checked, 0);
        }

        #[test]
        fn no_bytes_are_too_much(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn a_packet_that_was_damaged_is_another_or_none(
            packet in packet(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = packet.encode();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(read) = Packet::parse(&bytes) {
                // What was read can be written, and is then read as the same: nothing of it was made up.
                prop_assert_eq!(Packet::parse(&read.encode()), Some(read));
            }
        }
    }

    #[test]
    fn a_syn_of_linux_is_read() {
        let bytes = [
            0x45, 0x00, 0x00, 0x3c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0, 0, 10, 0, 0, 1, 10, 0, 0,
            2, //
            0xc3, 0x50, 0x00, 0x50, 1, 2, 3, 4, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0, 0, //
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let packet = Packet::parse(&bytes).unwrap();
        let segment = packet.segment().unwrap();
        assert!(segment.opens() && segment.options.len() == 20 && segment.payload.is_empty());
        assert_eq!((segment.source_port, segment.destination_port), (50_000, 80));
        assert_eq!((segment.sequence, segment.window), (0x0102_0304, 64_240));
        assert_eq!(packet.ttl, 64);
    }

    #[test]
    fn what_is_too_short_for_its_protocol_is_something_else() {
        let mut packet = Packet::tcp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Segment::default());
        let whole = packet.encode();
        // The data offset says more than there is.
        let mut bytes = whole.clone();
        bytes[32] = 0xf0;
        packet.body = Body::Other { protocol: TCP, bytes: bytes[20..].to_vec() };
        assert_eq!(Packet::parse(&bytes), Some(packet));
        // The packet itself is not all there.
        assert_eq!(Packet::parse(&whole[..39]), None);
    }

    #[test]
    fn fragments_are_no_packets() {
        for fragment in [0x2000u16, 0x0001] {
            let mut bytes =
                Packet::tcp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Segment::default()).encode();
            bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
            assert_eq!(Packet::parse(&bytes), None);
        }
    }
}
