//! STUN's Binding method (RFC 8489), as it runs over TCP: what a standard client asks a broker, and what a standard
//! server answers a peer.
//!
//! The broker's own observations do not use it ([docs/decisions.md](../../../docs/decisions.md)); it is for asking servers
//! that are not ours, and for being asked by clients that are not ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::candidate::canonical;
use crate::limits::{STUN_MESSAGE, STUN_REASON};
use crate::sanitize::sanitize_line;

/// Length of a message's header, in bytes (section 5).
pub const HEADER: usize = 20;

/// Where servers listen that say nothing else (section 18.6).
pub const PORT: u16 = 3478;

/// Tells an answer to one question from all others; drawn at random, so that nobody who does not see the question can
/// answer it (section 5).
pub type TransactionId = [u8; 12];

const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const FINGERPRINT_MASK: u32 = 0x5354_554e;

const BINDING: u16 = 0x001;

const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;

/// Attributes that must be understood and are, because this RFC defines them: who needs no credentials passes over those
/// that it is given (section 6.3.1). RESPONSE-ADDRESS and its like of RFC 3489 are not
/// among them: they asked a server to send elsewhere.
const UNDERSTOOD: [u16; 11] = [
    MAPPED_ADDRESS,
    0x0006, // USERNAME
    0x0008, // MESSAGE-INTEGRITY
    ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    0x0014, // REALM
    0x0015, // NONCE
    0x001c, // MESSAGE-INTEGRITY-SHA256
    0x001d, // PASSWORD-ALGORITHM
    0x001e, // USERHASH
    XOR_MAPPED_ADDRESS,
];

/// The kinds of message (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// Why bytes are no message, or not one for here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStun {
    /// It does not begin as a message with the magic cookie does: it is another protocol, or STUN of before 2008.
    #[error("it does not speak STUN")]
    Foreign,
    /// It is longer than any message needs to be.
    #[error("its message is longer than {STUN_MESSAGE} bytes")]
    TooLong,
    /// Its attributes do not add up.
    #[error("its message is malformed")]
    Malformed,
    /// Its checksum is wrong.
    #[error("its message has a wrong checksum")]
    Fingerprint,
    /// It is no answer to what was asked.
    #[error("its message is no answer to what was asked")]
    OffTopic,
    /// It needs something to be understood that is not.
    #[error("its answer needs attribute {0:#06x} to be understood")]
    Unknown(u16),
    /// The answer names no address.
    #[error("its answer names no address")]
    NoAddress,
    /// The server says no.
    #[error("it refuses: {code}{}{reason}", if .reason.is_empty() { "" } else { " " })]
    Refused {
        /// As in section 14.8.
        code: u16,
        /// In the server's words, fit for a terminal.
        reason: String,
    },
}

/// Whether a connection that begins with this byte speaks STUN: its two highest bits are zero, in the broker's own protocol
/// they are not.
pub fn begins(first: u8) -> bool {
    first & 0xc0 == 0
}

/// How much of a message follows its header, in bytes. Over TCP nothing else says where a message ends (section 6.2.2).
///
/// # Errors
///
/// It is no header, or of a message that is too long.
pub fn rest(header: &[u8; HEADER]) -> Result<usize, BadStun> {
    let [kind, _, l0, l1, c0, c1, c2, c3, ..] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if !begins(kind) || [c0, c1, c2, c3] != COOKIE || length % 4 != 0 {
        return Err(BadStun::Foreign);
    }
    if HEADER + length > STUN_MESSAGE { Err(BadStun::TooLong) } else { Ok(length) }
}

/// A message with its attributes told apart.
struct Message<'a> {
    class: Class,
    method: u16,
    transaction: TransactionId,
    /// In their order, without the fingerprint.
    attributes: Vec<(u16, &'a [u8])>,
    fingerprint: bool,
}

impl<'a> Message<'a> {
    /// The header alone; what follows may be anything.
    fn head(bytes: &[u8]) -> Result<(Class, u16, TransactionId), BadStun> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(BadStun::Foreign)?;
        if bytes.len() != HEADER + rest(header)? {
            return Err(BadStun::Malformed);
        }
        let [t0, t1, _, _, _, _, _, _, transaction @ ..] = *header;
        let kind = u16::from_be_bytes([t0, t1]);
        let class = match (kind & 0x0100 != 0, kind & 0x0010 != 0) {
            (false, false) => Class::Request,
            (false, true) => Class::Indication,
            (true, false) => Class::Success,
            (true, true) => Class::Error,
        };
        let method = (kind & 0x000f) | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2;
        Ok((class, method, transaction))
    }

    fn parse(bytes: &'a [u8]) -> Result<Self, BadStun> {
        let (class, method, transaction) = Self::head(bytes)?;
        let mut message = Message { class, method, transaction, attributes: Vec::new(), fingerprint: false };
        let mut left = bytes.get(HEADER..).unwrap_or_default();
        while let Some(([t0, t1, l0, l1], value)) = left.split_first_chunk() {
            let kind = u16::from_be_bytes([*t0, *t1]);
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            let before = bytes.len() - left.len();
            let (value, padded) = (value.get(..length), value.get(length.next_multiple_of(4)..));
            let (Some(value), Some(next)) = (value, padded) else { return Err(BadStun::Malformed) };
            left = next;
            if kind != FINGERPRINT {
                message.attributes.push((kind, value));
                continue;
            }
            // It covers all before it, so it is the last (section 14.7).
            if !left.is_empty() || value.len() != 4 {
                return Err(BadStun::Malformed);
            }
            if value != fingerprint(bytes.get(..before).unwrap_or_default()) {
                return Err(BadStun::Fingerprint);
            }
            message.fingerprint = true;
        }
        if left.is_empty() { Ok(message) } else { Err(BadStun::Malformed) }
    }

    /// Attributes that must be understood (section 14) and are not.
    fn unknown(&self) -> impl Iterator<Item = u16> {
        self.attributes
            .iter()
            .map(|(kind, _)| *kind)
            .filter(|kind| *kind < 0x8000 && !UNDERSTOOD.contains(kind))
    }

    fn value(&self, kind: u16) -> Option<&'a [u8]> {
        // Of several the first counts (section 14).
        self.attributes.iter().find(|(other, _)| *other == kind).map(|(_, value)| *value)
    }
}

/// A question: from where does this connection come?
pub fn request(transaction: &TransactionId) -> Vec<u8> {
    Writer::new(Class::Request, transaction).finish(false)
}

/// The address in the answer to `transaction`: the own one, as the server sees it.
///
/// # Errors
///
/// It is no such answer, or a refusal. The server's fault, or that of who answers in its place.
pub fn read_answer(bytes: &[u8], transaction: &TransactionId) -> Result<SocketAddr, BadStun> {
    let message = Message::parse(bytes)?;
    if message.method != BINDING || message.transaction != *transaction {
        return Err(BadStun::OffTopic);
    }
    match message.class {
        Class::Request | Class::Indication => Err(BadStun::OffTopic),
        Class::Error => {
            let Some(([_, _, class, number], reason)) =
                message.value(ERROR_CODE).and_then(<[u8]>::split_first_chunk)
            else {
                return Err(BadStun::Malformed);
            };
            let code = u16::from(class & 7) * 100 + u16::from(*number);
            let reason = sanitize_line(&String::from_utf8_lossy(reason), STUN_REASON).into_owned();
            Err(BadStun::Refused { code, reason })
        }
        Class::Success => {
            if let Some(unknown) = message.unknown().next() {
                return Err(BadStun::Unknown(unknown));
            }
            let mask = Mask::new(transaction);
            let masked = message.value(XOR_MAPPED_ADDRESS).map(|value| read_address(value, &mask));
            // Servers of RFC 3489 know only the plain one, which routers on the way may have rewritten.
            let plain = || message.value(MAPPED_ADDRESS).map(|value| read_address(value, &Mask::NONE));
            masked.or_else(plain).unwrap_or(Err(BadStun::NoAddress)).map(canonical)
        }
    }
}

/// What a server says to a message that came from `from`; nothing to what is no Binding request, as RFC 8489 section 6.3
/// wants it.
///
/// # Errors
///
/// The message is none that a client of this RFC sends: nothing more is to be expected on its connection.
pub fn answer(bytes: &[u8], from: SocketAddr) -> Result<Option<Vec<u8>>, BadStun> {
    let (class, method, transaction) = Message::head(bytes)?;
    if class != Class::Request || method != BINDING {
        return Ok(None);
    }
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(BadStun::Malformed) => {
            let mut refusal = Writer::new(Class::Error, &transaction);
            refusal.error(400, "Bad Request");
            return Ok(Some(refusal.finish(false)));
        }
        Err(other) => return Err(other),
    };
    let mut unknown: Vec<u16> = message.unknown().collect();
    if unknown.is_empty() {
        let mut success = Writer::new(Class::Success, &transaction);
        success.address(canonical(from));
        return Ok(Some(success.finish(message.fingerprint)));
    }
    unknown.sort_unstable();
    unknown.dedup();
    let mut refusal = Writer::new(Class::Error, &transaction);
    refusal.error(420, "Unknown Attribute");
    let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    refusal.attribute(UNKNOWN_ATTRIBUTES, &list);
    Ok(Some(refusal.finish(message.fingerprint)))
}

/// What an address is masked with, so that routers do not know it and rewrite it (section 14.2).
struct Mask([u8; 16]);

impl Mask {
    const NONE: Mask = Mask([0; 16]);

    fn new(transaction: &TransactionId) -> Self {
        let mut mask = [0; 16];
        for (to, from) in mask.iter_mut().zip(COOKIE.iter().chain(transaction)) {
            *to = *from;
        }
        Mask(mask)
    }

    fn apply<const N: usize>(&self, bytes: [u8; N]) -> [u8; N] {
        let mut masked = bytes;
        for (byte, mask) in masked.iter_mut().zip(self.0) {
            *byte ^= mask;
        }
        masked
    }
}

fn read_address(value: &[u8], mask: &Mask) -> Result<SocketAddr, BadStun> {
    let Some(([_, family, port @ ..], ip)) = value.split_first_chunk::<4>() else {
        return Err(BadStun::Malformed);
    };
    let ip = match (*family, ip.first_chunk::<4>(), ip.first_chunk::<16>(), ip.len()) {
        (1, Some(v4), _, 4) => IpAddr::from(Ipv4Addr::from(mask.apply(*v4))),
        (2, _, Some(v6), 16) => IpAddr::from(Ipv6Addr::from(mask.apply(*v6))),
        _ => return Err(BadStun::Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(mask.apply(*port))))
}

/// A message that is being written. What is written here is far shorter than [`STUN_MESSAGE`], but for a list of
/// unknown attributes, which is shorter than the message that they came in.
struct Writer {
    bytes: Vec<u8>,
    mask: Mask,
}

impl Writer {
    fn new(class: Class, transaction: &TransactionId) -> Self {
        let class = match class {
            Class::Request => 0,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let mut bytes = (BINDING | class).to_be_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(COOKIE);
        bytes.extend(transaction);
        Writer { bytes, mask: Mask::new(transaction) }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(value.iter().take(usize::from(length)));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(0);
    }

    fn address(&mut self, address: SocketAddr) {
        let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
        value.extend(self.mask.apply(address.port().to_be_bytes()));
        match address.ip() {
            IpAddr::V4(v4) => value.extend(self.mask.apply(v4.octets())),
            IpAddr::V6(v6) => value.extend(self.mask.apply(v6.octets())),
        }
        self.attribute(XOR_MAPPED_ADDRESS, &value);
    }

    fn error(&mut self, code: u16, reason: &str) {
        let [class, number] = [code / 100, code % 100].map(|part| u8::try_from(part).unwrap_or(u8::MAX));
        let value = [&[0, 0, class, number], reason.as_bytes()].concat();
        self.attribute(ERROR_CODE, &value);
    }

    /// The header's length is that of all attributes, and of what is still to come.
    fn set_length(&mut self, to_come: usize) {
        let length = u16::try_from(self.bytes.len() - HEADER + to_come).unwrap_or(u16::MAX);
        for (to, from) in self.bytes.iter_mut().skip(2).zip(length.to_be_bytes()) {
            *to = from;
        }
    }

    fn finish(mut self, with_fingerprint: bool) -> Vec<u8> {
        if with_fingerprint {
            self.set_length(8);
            let value = fingerprint(&self.bytes);
            self.attribute(FINGERPRINT, &value);
        }
        self.bytes
    }
}

/// The checksum of a message up to this attribute, its length counting it already (section 14.7).
fn fingerprint(before: &[u8]) -> [u8; 4] {
    (crc32(before) ^ FINGERPRINT_MASK).to_be_bytes()
}

/// That of ITU V.42, as in Ethernet. Bit by bit: a message is short, and no table is worth its page.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The transaction of RFC 5769 sections 2.1 to 2.3.
    const T: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    /// RFC 5769 section 2.1.
    const SAMPLE_REQUEST: &str = "\
        00010058 2112a442 b7e7a701 bc34d686 fa87dfae \
        80220010 5354554e 20746573 7420636c 69656e74 \
        00240004 6e0001ff \
        80290008 932ff9b1 51263b36 \
        00060009 6576746a 3a683676 59202020 \
        00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 \
        80280004 e57a3bcf";

    /// RFC 5769 section 2.2.
    const SAMPLE_V4: &str = "\
        0101003c 2112a442 b7e7a701 bc34d686 fa87dfae \
        8022000b 74657374 20766563 746f7220 \
        00200008 0001a147 e112a643 \
        00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 \
        80280004 c07d4c96";

    /// RFC 5769 section 2.3.
    const SAMPLE_V6: &str = "\
        01010048 2112a442 b7e7a701 bc34d686 fa87dfae \
        8022000b 74657374 20766563 746f7220 \
        00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 \
        00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 \
        80280004 c8fb0b4c";

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A message with these attributes.
    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Class::Request, &T);
        writer.bytes.splice(..2, kind.to_be_bytes());
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        writer.finish(false)
    }

    #[test]
    fn who_asks_is_told_where_it_comes_from() {
        for address in ["198.51.100.7:50000", "[2001:db8::7]:1", "127.0.0.1:65535"] {
            let told = answer(&request(&T), from(address)).unwrap().unwrap();
            assert_eq!(read_answer(&told, &T), Ok(from(address)));
        }
        let told = answer(&request(&T), from("[::ffff:198.51.100.7]:9")).unwrap().unwrap();
        assert_eq!(read_answer(&told, &T), Ok(from("198.51.100.7:9")));
    }

    #[test]
    fn the_answers_of_rfc_5769_are_read() {
        assert_eq!(read_answer(&bytes(SAMPLE_V4), &T), Ok(from("192.0.2.1:32853")));
        let v6 = from("[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(read_answer(&bytes(SAMPLE_V6), &T), Ok(v6));
    }

    #[test]
    fn the_request_of_rfc_5769_is_answered_with_what_is_not_understood() {
        let told = answer(&bytes(SAMPLE_REQUEST), from("192.0.2.1:9")).unwrap().unwrap();
        let refused = BadStun::Refused { code: 420, reason: "Unknown Attribute".to_owned() };
        assert_eq!(read_answer(&told, &T), Err(refused), "PRIORITY is ICE's");
        let message = Message::parse(&told).unwrap();
        assert_eq!(message.value(UNKNOWN_ATTRIBUTES), Some(&[0x00, 0x24][..]));
        assert!(message.fingerprint, "as in the request");
    }

    #[test]
    fn credentials_are_passed_over() {
        let asked = message(0x0001, &[(0x0006, b"user"), (0x8022, b"some client"), (0x0008, &[0; 20])]);
        assert_eq!(
            read_answer(&answer(&asked, from("192.0.2.1:9")).unwrap().unwrap(), &T),
            Ok(from("192.0.2.1:9"))
        );
    }

    #[test]
    fn a_changed_message_is_seen_by_its_checksum() {
        let good = bytes(SAMPLE_V4);
        // Its own type apart: a message need not have one.
        let own_type = good.len() - 8..good.len() - 6;
        for at in (HEADER + 4..good.len()).filter(|at| !own_type.contains(at)) {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(read_answer(&changed, &T).is_err(), "byte {at}");
        }
        let mut asked = bytes(SAMPLE_REQUEST);
        asked[30] ^= 1;
        assert_eq!(answer(&asked, from("192.0.2.1:9")), Err(BadStun::Fingerprint));
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of this CRC");
    }

    #[test]
    fn old_servers_that_name_the_address_plainly_are_read() {
        let plain = message(0x0101, &[(MAPPED_ADDRESS, &[0, 1, 0x80, 0x55, 192, 0, 2, 1])]);
        assert_eq!(read_answer(&plain, &T), Ok(from("192.0.2.1:32853")));
        let masked = [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let both =
            message(0x0101, &[(MAPPED_ADDRESS, &[0, 1, 0, 9, 10, 0, 0, 1]), (XOR_MAPPED_ADDRESS, &masked)]);
        assert_eq!(read_answer(&both, &T), Ok(from("192.0.2.1:32853")), "a router rewrote the plain one");
    }

    #[test]
    fn an_answer_that_is_none_is_told_by_what_it_lacks() {
        let refusal = |value: &[u8]| read_answer(&message(0x0111, &[(ERROR_CODE, value)]), &T);
        let reason = "\u{1b}[31mgo away".to_owned();
        let refused = refusal(&[&[0, 0, 4, 3], reason.as_bytes()].concat());
        let Err(BadStun::Refused { code: 403, reason }) = refused else { panic!("{refused:?}") };
        assert!(!reason.contains('\u{1b}') && reason.ends_with("go away"), "{reason:?}");
        assert_eq!(refusal(&[0, 0, 4]), Err(BadStun::Malformed));
        assert_eq!(read_answer(&message(0x0101, &[]), &T), Err(BadStun::NoAddress));
        assert_eq!(read_answer(&message(0x0101, &[(0x0017, &[])]), &T), Err(BadStun::Unknown(0x0017)));
        assert_eq!(read_answer(&bytes(SAMPLE_V4), &[0; 12]), Err(BadStun::OffTopic));
        assert_eq!(read_answer(&request(&T), &T), Err(BadStun::OffTopic));
        assert_eq!(read_answer(b"HTTP/1.1 400 Bad Request\r\n", &T), Err(BadStun::Foreign));
        for address in [
            &[][..],
            &[0, 1, 0],
            &[0, 1, 0, 9, 1, 2, 3],
            &[0, 3, 0, 9, 1, 2, 3, 4],
            &[0, 2, 0, 9, 1, 2, 3, 4],
        ] {
            let told = message(0x0101, &[(XOR_MAPPED_ADDRESS, address)]);
            assert_eq!(read_answer(&told, &T), Err(BadStun::Malformed), "{address:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_not_answered() {
        for kind in [0x0003, 0x0011, 0x0101, 0x0111] {
            assert_eq!(answer(&message(kind, &[]), from("192.0.2.1:9")), Ok(None), "{kind:#x}");
        }
        let mut broken = message(0x0001, &[(0x8022, b"four")]);
        broken[23] = 9;
        let told = answer(&broken, from("192.0.2.1:9")).unwrap().unwrap();
        let refused = BadStun::Refused { code: 400, reason: "Bad Request".to_owned() };
        assert_eq!(read_answer(&told, &T), Err(refused));
    }

    #[test]
    fn the_first_byte_tells_stun_from_the_brokers_own_protocol() {
        use crate::wire::Preface;
        assert!(begins(request(&T)[0]) && begins(bytes(SAMPLE_V6)[0]));
        assert!(!begins(Preface::Observe.encode()[0]));
    }

    #[test]
    fn longer_messages_than_the_bound_are_refused_by_their_header() {
        let header = |length: u16| {
            let mut header: [u8; HEADER] = request(&T).try_into().unwrap();
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header
        };
        assert_eq!(rest(&header(u16::try_from(STUN_MESSAGE - HEADER).unwrap())), Ok(STUN_MESSAGE - HEADER));
        assert_eq!(rest(&header(u16::try_from(STUN_MESSAGE).unwrap())), Err(BadStun::TooLong));
        assert_eq!(rest(&header(u16::MAX)), Err(BadStun::Foreign), "lengths are multiples of four");
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic_or_long(kind: u16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sent = message(kind & 0x3fff, &[]);
            sent.extend(&body[..body.len() / 4 * 4]);
            let length = u16::try_from(sent.len() - HEADER).unwrap();
            sent[2..4].copy_from_slice(&length.to_be_bytes());
            let _ = read_answer(&sent, &T);
            if let Ok(Some(told)) = answer(&sent, from("[2001:db8::1]:9")) {
                prop_assert!(told.len() <= STUN_MESSAGE);
                prop_assert!(Message::parse(&told).is_ok());
            }
        }

        #[test]
        fn every_address_comes_back_as_it_was(ip: u128, v4: bool, port: u16, transaction: [u8; 12]) {
            let ip = if v4 { IpAddr::from((ip as u32).to_be_bytes()) } else { IpAddr::from(ip.to_be_bytes()) };
            let told = answer(&request(&transaction), SocketAddr::new(ip, port)).unwrap().unwrap();
            prop_assert_eq!(read_answer(&told, &transaction), Ok(SocketAddr::new(ip.to_canonical(), port)));
        }
    }
}
