//! The handshake between two peers: shares, first and second messages, and what rides in them. All of it comes through a
//! broker that may change it.

use std::net::SocketAddr;
use std::sync::LazyLock;

use tcpunch_core::code::{Code, Secret, Verb};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{MAX_HANDSHAKE, MAX_HOST_CANDIDATES};
use tcpunch_core::secure::{
    CodeKey, Features, Meeting, Opening, Pake, Payload, SHARE, SecureError, Told, respond, signal_keys,
};

use crate::bytes::Bytes;
use crate::within;

const A: PublicKey = PublicKey([1; 32]);
const B: PublicKey = PublicKey([2; 32]);
/// State of a handshake, its buffers, and a list of addresses from a few bytes each.
const ALLOCATED: usize = 64 * MAX_HANDSHAKE;

static SECRET: LazyLock<Secret> = LazyLock::new(|| "412-abandon-zoo".parse::<Code>().unwrap().secret);

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    match input.u8() % 6 {
        0 => payload(input.0),
        1 => opener_in_the_lobby(input.0),
        2 => first_message_under_a_code(input.0),
        3 => answer(input),
        4 => share(input.0),
        _ => changed_on_the_way(input),
    }
}

fn payload(bytes: &[u8]) {
    let bytes = bytes.get(..MAX_HANDSHAKE).unwrap_or(bytes);
    let Ok(payload) = within(ALLOCATED, || Payload::decode(bytes)) else { return };
    assert!(payload.told.hosts.len() <= MAX_HOST_CANDIDATES);
    assert_eq!(Payload::decode(&payload.encode().unwrap()), Ok(payload));
}

/// Without a key anybody can make one that is taken; it must do no more than it should.
fn opener_in_the_lobby(message: &[u8]) {
    let answered = within(ALLOCATED, || respond(&B, &A, None, message, told()));
    let Ok((_, answer, payload)) = answered else { return };
    assert!(message.len() <= MAX_HANDSHAKE);
    assert!(answer.len() <= MAX_HANDSHAKE);
    assert!(payload.told.hosts.len() <= MAX_HOST_CANDIDATES);
}

fn first_message_under_a_code(message: &[u8]) {
    let (waiter, _) = code_keys();
    let answered = within(ALLOCATED, || respond(&B, &A, Some(&waiter), message, told()));
    let expected = if message.len() > MAX_HANDSHAKE { SecureError::TooLong } else { SecureError::Forged };
    assert_eq!(answered.err(), Some(expected), "nobody has the words without having them");
}

/// A false answer is refused, and leaves room for the true one.
fn answer(mut input: Bytes<'_>) {
    let (mut opening, key, first) = if input.yes() {
        let (opening, first) = Opening::open(&A).unwrap();
        (opening, None, first)
    } else {
        let (waiter, arriver) = code_keys();
        let (opening, first) = Opening::with_code(&A, &arriver, told()).unwrap();
        (opening, Some(waiter), first)
    };
    let (theirs, answer, _) = respond(&B, &A, key.as_ref(), &first, told()).unwrap();
    assert!(within(ALLOCATED, || opening.finish(&B, input.0)).is_err());
    let (ours, payload) = opening.finish(&B, &answer).expect("the true answer can still be taken");
    assert_eq!(payload.told, told());
    assert_eq!(ours.suite(), theirs.suite());
}

fn share(bytes: &[u8]) {
    let pake = Pake::waiter(&SECRET, &meeting());
    let finished = pake.finish(bytes, &B, &A);
    if bytes.len() != SHARE {
        assert_eq!(finished.err(), Some(SecureError::Malformed));
    }
}

/// One byte of a share, of a message or of a sealed signal is another: the two do not come together.
fn changed_on_the_way(mut input: Bytes<'_>) {
    let (which, at, change) = (input.u8() % 5, usize::from(input.u16()), input.u8());
    let mut number = 0;
    let mut pass = |mut bytes: Vec<u8>| {
        let at = at % bytes.len();
        if number == which {
            bytes[at] ^= change;
        }
        number += 1;
        bytes
    };
    let mut agree = || -> Result<(), SecureError> {
        let waiter = Pake::waiter(&SECRET, &meeting());
        let arriver = Pake::arriver(&SECRET, &meeting());
        let (to_arriver, to_waiter) = (pass(waiter.share().clone()), pass(arriver.share().clone()));
        let (waiter, arriver) = (waiter.finish(&to_waiter, &B, &A)?, arriver.finish(&to_arriver, &B, &A)?);
        let (mut opening, first) = Opening::with_code(&A, &arriver, told())?;
        let (theirs, answer, first_told) = respond(&B, &A, Some(&waiter), &pass(first), told())?;
        let (ours, told_back) = opening.finish(&B, &pass(answer))?;
        assert_eq!((first_told.told, told_back.told), (told(), told()));
        let (mut sealer, _) = signal_keys(&ours, &[3; 16]);
        let (_, mut opener) = signal_keys(&theirs, &[3; 16]);
        let mut record = Vec::new();
        sealer.seal(tcpunch_core::secure::Kind::Data, b"hosts", &mut record)?;
        let mut record = pass(record);
        let (header, body) = record.split_first_chunk_mut().unwrap();
        assert_eq!(opener.open(*header, body)?.1, b"hosts");
        Ok(())
    };
    assert_eq!(agree().is_ok(), change == 0);
}

fn hosts() -> Vec<SocketAddr> {
    vec!["192.168.1.7:23456".parse().unwrap(), "[2001:db8::7]:23456".parse().unwrap()]
}

fn told() -> Told {
    Told { hosts: hosts(), mapped: Some("198.51.100.9:23456".parse().unwrap()) }
}

fn meeting() -> Meeting {
    Meeting { broker: PublicKey([9; 32]), number: 412, verb: Verb::Listen }
}

fn code_keys() -> (CodeKey, CodeKey) {
    let waiter = Pake::waiter(&SECRET, &meeting());
    let arriver = Pake::arriver(&SECRET, &meeting());
    let (to_arriver, to_waiter) = (waiter.share().clone(), arriver.share().clone());
    (waiter.finish(&to_waiter, &B, &A).unwrap(), arriver.finish(&to_arriver, &B, &A).unwrap())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let payload = |features, told| Payload { features: Features(features), told }.encode().unwrap();
    let (_, lobby) = Opening::open(&A).unwrap();
    let (waiter, arriver) = code_keys();
    let (_, coded) = Opening::with_code(&A, &arriver, told()).unwrap();
    let (_, coded_answer, _) = respond(&B, &A, Some(&waiter), &coded, told()).unwrap();
    let (_, lobby_answer, _) = respond(&B, &A, None, &lobby, told()).unwrap();
    let hostile = [&lobby[..32], &payload(0, Told { hosts: vec![hosts()[0]; 9], mapped: None })].concat();
    let mut seeds = vec![
        [&[0], &payload(1, told())[..]].concat(),
        [
            &[0],
            &payload(u32::MAX, Told { hosts: vec![hosts()[0]; MAX_HOST_CANDIDATES + 1], mapped: None })[..],
        ]
        .concat(),
        [&[1], &lobby[..]].concat(),
        [&[1], &hostile[..]].concat(),
        [&[2], &coded[..]].concat(),
        [&[3, 0], &lobby_answer[..]].concat(),
        [&[3, 1], &coded_answer[..]].concat(),
        [&[4], &Pake::arriver(&SECRET, &meeting()).share()[..]].concat(),
        vec![4; SHARE],
    ];
    seeds.extend((0..5).map(|which| vec![5, which, 0, 40, 1]));
    seeds.push(vec![5, 0, 0, 0, 0]);
    seeds
}
