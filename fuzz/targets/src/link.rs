//! A link between peer and broker, from its first byte, against another side that is a stranger, has recorded something,
//! or has keys and bad intentions.

use std::sync::LazyLock;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tcpunch_core::identity::SecretKey;
use tcpunch_core::limits::{LINK_HANDSHAKE_MESSAGE, MAX_FRAME, MAX_MESSAGE};
use tcpunch_core::secure::{LinkHandshake, LinkOpener, LinkSealer, Pattern};
use tcpunch_core::wire::{FromBroker, PREFACE, Preface, ToBroker, decode};

use crate::bytes::Bytes;
use crate::within;

static PEER: LazyLock<SecretKey> = LazyLock::new(|| key(1));
static BROKER: LazyLock<SecretKey> = LazyLock::new(|| key(2));

fn key(seed: u64) -> SecretKey {
    SecretKey::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    match input.u8() % 4 {
        0 => stranger_at_the_broker(input.0),
        1 => stranger_for_a_broker(input),
        2 => changed_on_the_way(input),
        _ => bad_intentions(input),
    }
}

/// What a broker does with the bytes of a new connection.
fn stranger_at_the_broker(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let preface: [u8; PREFACE] = input.array();
    let Ok(Preface::Link(pattern)) = Preface::decode(preface) else { return };
    let mut handshake = LinkHandshake::broker(&BROKER, pattern, &preface).unwrap();
    while !input.is_empty() {
        let message = input.piece();
        if message.len() > LINK_HANDSHAKE_MESSAGE {
            return;
        }
        if within(4 * LINK_HANDSHAKE_MESSAGE, || handshake.read(message)).is_err() {
            return;
        }
        assert!(!handshake.is_finished(), "nobody proves a key without having it");
        if handshake.is_my_turn() {
            assert!(handshake.write(&[]).unwrap().len() <= LINK_HANDSHAKE_MESSAGE);
        }
    }
}

/// What a peer does with what is no broker's answer.
fn stranger_for_a_broker(mut input: Bytes<'_>) {
    let known = (input.yes()).then(|| BROKER.public());
    let mut handshake = LinkHandshake::peer(&PEER, known.as_ref(), b"preface").unwrap();
    let _first = handshake.write(&[]).unwrap();
    let (frame, _) = tcpunch::fuzz::link_frame(input.0);
    let Some(message) = frame else { return };
    assert!(message.len() <= MAX_FRAME);
    assert!(handshake.read(&message).is_err(), "nobody answers for a broker");
}

/// An honest handshake and an honest message, of which one byte is another.
fn changed_on_the_way(mut input: Bytes<'_>) {
    let known = (input.yes()).then(|| BROKER.public());
    let (which, at, change) = (input.u8() % 4, usize::from(input.u8()), input.u8());
    let mut number = 0;
    let mut pass = |mut message: Vec<u8>| {
        let at = at % message.len();
        if number == which {
            message[at] ^= change;
        }
        number += 1;
        message
    };
    let mut agree = || -> Option<(LinkHandshake, LinkHandshake)> {
        let pattern = if known.is_some() { Pattern::Ik } else { Pattern::Xx };
        let mut peer = LinkHandshake::peer(&PEER, known.as_ref(), b"preface").unwrap();
        let mut broker = LinkHandshake::broker(&BROKER, pattern, b"preface").unwrap();
        while !(peer.is_finished() && broker.is_finished()) {
            let (from, to) =
                if peer.is_my_turn() { (&mut peer, &mut broker) } else { (&mut broker, &mut peer) };
            to.read(&pass(from.write(&[]).unwrap())).ok()?;
        }
        Some((peer, broker))
    };
    let Some((peer, broker)) = agree() else {
        assert_ne!(change, 0);
        return;
    };
    assert_eq!(broker.remote(), Some(PEER.public()));
    assert_eq!(peer.remote(), Some(BROKER.public()));
    let (mut sealer, _) = peer.finish();
    let (_, mut opener) = broker.finish();
    let frame = pass(sealer.seal(b"register".to_vec()).unwrap());
    // The length is read before anything is opened; a frame of another length never comes together.
    let opened = if frame[..2] == [0, 24] { opener.open(frame[2..].to_vec()).ok() } else { None };
    let reached = which < number;
    assert_eq!(opened.as_deref() == Some(b"register"), !reached || change == 0);
    assert!(opened.is_none_or(|opened| opened == b"register"));
}

/// The other side has its keys: whatever it seals is opened, and read as a message.
fn bad_intentions(mut input: Bytes<'_>) {
    let (peer, broker) = established();
    let ((mut to_broker, mut from_broker), (mut to_peer, mut from_peer)) = (peer, broker);
    while !input.is_empty() {
        let peer_says = input.yes();
        let (sealer, opener) =
            if peer_says { (&mut to_broker, &mut from_peer) } else { (&mut to_peer, &mut from_broker) };
        let message = input.piece();
        let sealed = sealer.seal(message.to_vec());
        assert_eq!(sealed.is_err(), message.len() > MAX_MESSAGE);
        let Ok(bytes) = sealed else { continue };
        let (frame, rest) = tcpunch::fuzz::link_frame(&bytes);
        assert_eq!(rest, 0);
        let opened = opener.open(frame.unwrap()).unwrap();
        assert_eq!(opened, message);
        if peer_says {
            let _ = decode::<ToBroker>(&opened);
        } else {
            let _ = decode::<FromBroker>(&opened);
        }
    }
}

type Ends = (LinkSealer, LinkOpener);

fn established() -> (Ends, Ends) {
    let mut peer = LinkHandshake::peer(&PEER, Some(&BROKER.public()), b"preface").unwrap();
    let mut broker = LinkHandshake::broker(&BROKER, Pattern::Ik, b"preface").unwrap();
    broker.read(&peer.write(&[]).unwrap()).unwrap();
    peer.read(&broker.write(&[]).unwrap()).unwrap();
    (peer.finish(), broker.finish())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for known in [Some(BROKER.public()), None] {
        let pattern = if known.is_some() { Pattern::Ik } else { Pattern::Xx };
        let preface = Preface::Link(pattern).encode();
        let mut peer = LinkHandshake::peer(&PEER, known.as_ref(), &preface).unwrap();
        let mut broker = LinkHandshake::broker(&BROKER, pattern, &preface).unwrap();
        let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes(), message].concat();
        let first = peer.write(&[]).unwrap();
        // Recorded, and sent again to the broker: the message verifies, and nothing comes of it.
        if known.is_none() {
            seeds.push([&[0], &preface[..], &framed(&first)].concat());
        }
        broker.read(&first).unwrap();
        let answer = broker.write(&[]).unwrap();
        seeds.push([&[1, u8::from(known.is_none())], &framed(&answer)[..]].concat());
    }
    seeds.push([&[1, 0], &Preface::Link(Pattern::Xx).encode()[..]].concat());
    for which in 0..4 {
        seeds.push(vec![2, 0, which, 40, 1]);
        seeds.push(vec![2, 1, which, 0, 128]);
    }
    let messages = crate::wire::to_broker();
    let frames = messages.iter().map(|message| tcpunch_core::wire::encode(message).unwrap());
    let said = frames.map(|bytes| [&[0], &(bytes.len() as u16).to_be_bytes()[..], &bytes].concat());
    seeds.push([&[3][..], &said.collect::<Vec<_>>().concat()].concat());
    seeds
}
