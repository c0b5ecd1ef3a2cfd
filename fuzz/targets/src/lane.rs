//! The bytes of a connection between two peers: tag, salt, handshake message, records. They come in pieces of any size,
//! from anybody.

use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{MAX_HANDSHAKE, MAX_RECORD};
use tcpunch_core::secure::{
    HEADER, Kind, OVERHEAD, Opener, PREAMBLE, Sealer, SecureError, Suite, parse_preamble, preamble, tags,
};

use crate::bytes::Bytes;

const KEY: [u8; 32] = [7; 32];
const KINDS: [Kind; 8] =
    [Kind::Data, Kind::End, Kind::Credit, Kind::Ping, Kind::Pong, Kind::Confirm, Kind::Nominate, Kind::Ack];

type Records = Vec<(Kind, Vec<u8>)>;

pub(crate) fn run(bytes: &[u8]) {
    stranger(bytes);
    let mut input = Bytes(bytes);
    let suite = input.pick(&[Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
    let (sent, honest, ends) = stream(suite, &mut input);
    let changed = change(&honest, &ends, &mut input);
    let sizes = input.0;

    let whole = read(suite, &changed, &[]);
    assert_eq!(read(suite, &changed, sizes), whole, "where a stream was cut changes nothing");
    let (received, error) = whole;
    let same = honest.iter().zip(&changed).take_while(|(a, b)| a == b).count();
    let intact = ends.iter().filter(|end| **end <= same).count();
    assert!(received == sent[..intact], "what came before the change arrives, and nothing else");
    if error.is_some() {
        assert!(same < changed.len(), "what is only cut off may still be on its way");
    }
}

/// Bytes of somebody who has no key.
fn stranger(bytes: &[u8]) {
    if let Some((head, rest)) = bytes.split_first_chunk::<PREAMBLE>() {
        let length = usize::from(u16::from_be_bytes([head[PREAMBLE - 2], head[PREAMBLE - 1]]));
        match parse_preamble(head) {
            Ok((tag, salt, handshake)) => {
                assert_eq!(handshake, length);
                assert!(handshake <= MAX_HANDSHAKE);
                if let Some(handshake) = rest.get(..handshake) {
                    assert_eq!(preamble(&tag, &salt, handshake).unwrap(), [head, handshake].concat());
                }
            }
            Err(_) => assert!(length > MAX_HANDSHAKE),
        }
    }
    assert!(read(Suite::Aes256Gcm, bytes, &[]).0.is_empty(), "nothing is opened without the key");
}

/// Honest records, their bytes, and where each of them ends.
fn stream(suite: Suite, input: &mut Bytes<'_>) -> (Records, Vec<u8>, Vec<usize>) {
    let mut sealer = Sealer::new(suite, KEY);
    let (mut sent, mut bytes, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..input.u8() % 8 {
        let kind = input.pick(&KINDS);
        let payload = match input.u8() {
            255 => vec![1; MAX_RECORD],
            length => vec![length; usize::from(length)],
        };
        sealer.seal(kind, &payload, &mut bytes).unwrap();
        sent.push((kind, payload));
        ends.push(bytes.len());
    }
    assert_eq!(bytes.len(), sent.iter().map(|(_, payload)| payload.len() + OVERHEAD).sum::<usize>());
    (sent, bytes, ends)
}

/// What somebody on the way makes of it.
fn change(honest: &[u8], ends: &[usize], input: &mut Bytes<'_>) -> Vec<u8> {
    let mut bytes = honest.to_vec();
    let at = |input: &mut Bytes<'_>, length: usize| usize::from(input.u16()) % (length + 1);
    match input.u8() % 6 {
        0 => {}
        1 => {
            let at = at(input, bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= input.u8();
            }
        }
        2 => {
            let at = at(input, bytes.len());
            bytes.truncate(at);
        }
        3 => {
            // The first record once more, at any place.
            let first = honest[..ends.first().copied().unwrap_or(0)].to_vec();
            let at = at(input, bytes.len());
            bytes.splice(at..at, first);
        }
        4 => {
            let at = at(input, bytes.len());
            let piece = input.piece().to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let (from, to) = (at(input, bytes.len()), at(input, bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
    }
    bytes
}

/// Reads records as a connection does, from pieces of these sizes.
fn read(suite: Suite, bytes: &[u8], sizes: &[u8]) -> (Records, Option<SecureError>) {
    let mut opener = Opener::new(suite, KEY);
    let mut received = Vec::new();
    let mut buffered = Vec::new();
    let mut rest = Bytes(bytes);
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(usize::MAX, |size| usize::from(*size) + 1);
        buffered.extend_from_slice(rest.take(size));
        while let Some(header) = buffered.first_chunk::<HEADER>().copied() {
            let length = match Opener::body_length(header) {
                Ok(length) => length,
                Err(error) => return (received, Some(error)),
            };
            assert!(length <= MAX_RECORD + OVERHEAD - HEADER, "nobody makes a reader wait for more");
            let Some(body) = buffered.get_mut(HEADER..HEADER + length) else { break };
            match opener.open(header, body) {
                Ok((kind, payload)) => received.push((kind, payload.to_vec())),
                Err(error) => return (received, Some(error)),
            }
            buffered.drain(..HEADER + length);
        }
    }
    (received, None)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (own, peer) = tags(&[1; 16], &PublicKey([2; 32]), &PublicKey([3; 32]));
    let mut records = Vec::new();
    let mut sealer = Sealer::new(Suite::Aes256Gcm, [8; 32]);
    sealer.seal(Kind::Confirm, &[1], &mut records).unwrap();
    sealer.seal(Kind::Data, b"hello", &mut records).unwrap();
    vec![
        preamble(&own, &[4; 16], &[]).unwrap(),
        preamble(&peer, &[4; 16], &[5; 48]).unwrap(),
        preamble(&peer, &[4; 16], &[5; MAX_HANDSHAKE]).unwrap(),
        records,
        // Three records as they were sent, in pieces of 4, 9 and 22 bytes.
        vec![0, 3, 5, 1, 0, 20, 1, 0, 0, 3, 8, 21],
        // A longest record, and a changed byte in the second.
        vec![1, 2, 0, 255, 0, 5, 1, 255, 250, 1, 200],
        // Cut off; the first record again; bytes of a stranger between; a piece taken out.
        vec![0, 2, 0, 9, 0, 9, 2, 0, 40, 3],
        vec![0, 2, 0, 9, 0, 9, 3, 0, 30, 7],
        vec![0, 2, 0, 9, 0, 9, 4, 0, 30, 0, 3, 1, 2, 3, 200],
        vec![1, 3, 0, 9, 7, 9, 6, 0, 5, 0, 30, 0, 60, 200],
    ]
}
