//! STUN over TCP: what a stranger asks the broker, and what a stranger answers a peer.

use std::net::SocketAddr;

use tcpunch_core::limits::{STUN_MESSAGE, STUN_REASON};
use tcpunch_core::stun::{BadStun, HEADER, TransactionId, answer, begins, read_answer, request, rest};

use crate::bytes::Bytes;
use crate::sanitize::assert_harmless;

const TRANSACTION: TransactionId = *b"transaction.";

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let from = input.address();
    let honest = answer(&request(&TRANSACTION), from).unwrap().unwrap();
    assert_eq!(read_answer(&honest, &TRANSACTION), Ok(canonical(from)));

    if let Some(header) = input.0.first_chunk::<HEADER>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        match rest(header) {
            Ok(rest) => assert!(rest == length && HEADER + rest <= STUN_MESSAGE && begins(header[0])),
            Err(BadStun::TooLong) => assert!(HEADER + length > STUN_MESSAGE),
            Err(error) => assert_eq!(error, BadStun::Foreign),
        }
    }
    judge(input.0, from);
    judge(&framed(input.0), from);
}

/// The same bytes with the header that they would need: nobody finds a cookie by chance.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let (kind, body) = bytes.split_at(bytes.len().min(2));
    let body = &body[..body.len().min(STUN_MESSAGE - HEADER) / 4 * 4];
    let mut message = request(&TRANSACTION);
    for (to, from) in message.iter_mut().zip(kind) {
        *to = from & 0x3f;
    }
    message[2..4].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    message
}

fn judge(message: &[u8], from: SocketAddr) {
    if let Ok(Some(told)) = answer(message, from) {
        let header: &[u8; HEADER] = told.first_chunk().unwrap();
        assert_eq!(rest(header), Ok(told.len() - HEADER));
        assert_eq!(header[8..], message[8..HEADER], "the answer names its question");
        let transaction = header[8..].try_into().unwrap();
        match read_answer(&told, &transaction) {
            Ok(address) => assert_eq!(address, canonical(from), "nobody is told of another"),
            Err(BadStun::Refused { code, .. }) => assert!([400, 420].contains(&code)),
            Err(error) => panic!("an answer that nobody reads: {error}"),
        }
    }
    if let Err(BadStun::Refused { code, reason }) = read_answer(message, &TRANSACTION) {
        assert!(code < 1000 && reason.chars().count() <= STUN_REASON);
        assert_harmless(&reason);
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let address = [4, 9, 0x9c, 0x40];
    let from: SocketAddr = "198.51.100.9:40000".parse().unwrap();
    let asked = request(&TRANSACTION);
    let told = answer(&asked, from).unwrap().unwrap();
    // In the framed form: the kind, then attributes.
    let software = [0x80, 0x22, 0, 4, b't', b'e', b's', b't'];
    let priority = [0x00, 0x24, 0, 4, 0, 0, 0, 1];
    let refused = [&[0, 9, 0, 8, 0, 0, 4, 20][..], b"no\x1b["].concat();
    let mapped = [0, 1, 0, 8, 0, 1, 0x9c, 0x40, 198, 51, 100, 9];
    let framed = |kind: [u8; 2], attributes: &[&[u8]]| [&kind[..], &attributes.concat()].concat();
    [
        asked.clone(),
        told.clone(),
        answer(&asked, "[2001:db8::9]:40000".parse().unwrap()).unwrap().unwrap(),
        framed([0, 1], &[&software]),
        framed([0, 1], &[&software, &priority]),
        framed([0, 1], &[&[0x80, 0x22, 0, 9]]),
        framed([1, 1], &[&told[HEADER..]]),
        framed([1, 1], &[&software, &mapped]),
        framed([1, 0x11], &[&refused]),
        framed([0, 0x11], &[]),
        // A fingerprint that is wrong, and the sample request of RFC 5769 section 2.1 with the right one.
        framed([0, 1], &[&[0x80, 0x28, 0, 4, 1, 2, 3, 4]]),
        SAMPLE.to_vec(),
    ]
    .into_iter()
    .map(|seed| [&address[..], &seed].concat())
    .collect()
}

const SAMPLE: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
\x00\x06\x00\x09evtj:h6vY   \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\
\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";
