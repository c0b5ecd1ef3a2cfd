//! What peers and brokers say to each other, once it was opened; and what a connection to a broker begins with.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tcpunch_core::code::Verb;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::MAX_MESSAGE;
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal as Refuses};
use tcpunch_core::secure::{Pattern, SHARE};
use tcpunch_core::wire::{
    About, FromBroker, Introduction, KnockAnswer, Met, PREFACE, Preface, Probe, Refusal, Signal, ToBroker,
    Welcome, Word, decode, encode,
};

use crate::within;

/// A list of small things takes more memory than its bytes: a vector for each of them, and room to grow.
const ALLOCATED: usize = 64 * MAX_MESSAGE;

pub(crate) fn run(bytes: &[u8]) {
    if let Some(first) = bytes.first_chunk::<PREFACE>()
        && let Ok(preface) = Preface::decode(*first)
    {
        assert_eq!(preface.encode(), *first);
    }
    reads_back::<ToBroker>(bytes);
    reads_back::<FromBroker>(bytes);
    reads_back::<Welcome>(bytes);
}

/// Whatever is read can be said, and means the same when it is read again.
fn reads_back<T: Serialize + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
    let Ok(message) = within(ALLOCATED, || decode::<T>(bytes)) else { return };
    assert!(bytes.len() <= MAX_MESSAGE);
    let again = encode(&message).expect("what was read can be said");
    assert!(again.len() <= bytes.len(), "what is written is the shortest form");
    assert_eq!(decode::<T>(&again).as_ref(), Ok(&message));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let prefaces = [Preface::Link(Pattern::Ik), Preface::Link(Pattern::Xx), Preface::Observe, Preface::Knock];
    let mut seeds: Vec<Vec<u8>> = prefaces.iter().map(|preface| preface.encode().to_vec()).collect();
    seeds.extend(to_broker().iter().map(|message| encode(message).unwrap()));
    seeds.extend(from_broker().iter().map(|message| encode(message).unwrap()));
    seeds.push(encode(&welcome()).unwrap());
    seeds
}

/// A network of which everything is known.
fn profile_of_all() -> NatProfile {
    NatProfile {
        translated: Some(true),
        mapping: Behaviour::AddressAndPortDependent,
        allocation: Allocation::Block { first: 40_000, last: 41_023 },
        filtering: Behaviour::AddressDependent,
        refusal: Refuses::Icmp,
        simultaneous_open: Some(false),
    }
}

pub(crate) fn to_broker() -> Vec<ToBroker> {
    let profile = NatProfile { translated: Some(true), ..NatProfile::default() };
    vec![
        ToBroker::Register { profile },
        ToBroker::Profile(NatProfile::default()),
        ToBroker::Join { connected: vec![PublicKey([3; 32])], openers: vec![vec![7; 33]; 3] },
        ToBroker::Open { request: 0, verb: Verb::Listen, again: None },
        ToBroker::Open { request: 0, verb: Verb::Chat, again: Some(412) },
        ToBroker::Wait { number: 412, share: vec![4; SHARE] },
        ToBroker::Withdraw { number: 412 },
        ToBroker::Claim { number: 412, verb: Verb::Connect },
        ToBroker::Prove { claim: 9, share: vec![5; SHARE], handshake: vec![6; 48] },
        ToBroker::Accept { claim: 9, handshake: vec![6; 48] },
        ToBroker::Reject { claim: 9, left: 2 },
        ToBroker::Relay { introduction: 11, signal: Signal::Answer(vec![8; 48]) },
        ToBroker::Relay { introduction: 11, signal: Signal::Sealed(vec![8; 48]) },
        ToBroker::Relay { introduction: 11, signal: Signal::Word { round: 1, word: Word::Fired } },
        ToBroker::Round { introduction: 11, round: 1, question: [2; 8] },
        ToBroker::Profile(profile_of_all()),
        ToBroker::Ping(1),
        ToBroker::Pong(u32::MAX),
    ]
}

fn welcome() -> Welcome {
    Welcome {
        observed: "198.51.100.7:23456".parse().unwrap(),
        token: [1; 8],
        advertised: vec!["broker.example".to_owned(), "[2001:db8::1]:99".to_owned()],
        probes: vec![Probe { ip: None, port: 7767 }],
    }
}

fn from_broker() -> Vec<FromBroker> {
    let address = "198.51.100.7:23456".parse().unwrap();
    let introduction = |meeting| Introduction {
        id: 11,
        nonce: [1; 16],
        meeting,
        peer: PublicKey([2; 32]),
        addresses: vec![address, "[2001:db8::7]:23456".parse().unwrap()],
        profile: NatProfile::default(),
        own_profile: NatProfile::default(),
        public: vec!["203.0.113.9".parse().unwrap()],
        round_trip_bound_us: 40_000,
    };
    let refused = |about, refusal| FromBroker::Refused { about, refusal };
    vec![
        FromBroker::Observed { question: [2; 8], from: address },
        FromBroker::Knocked { question: [2; 8], elsewhere: true, answer: KnockAnswer::Silent },
        FromBroker::RoundWanted { introduction: 11, round: 1 },
        FromBroker::Round { introduction: 11, round: 1, peer: address },
        FromBroker::ProfileOf { introduction: 11, profile: profile_of_all() },
        FromBroker::Relayed { introduction: 11, signal: Signal::Word { round: 1, word: Word::Fired } },
        FromBroker::Opened { request: 0, number: 412, expires_s: 600 },
        FromBroker::Expired { number: 412 },
        FromBroker::Claimed { number: 412, claim: 9, waiter: PublicKey([3; 32]), share: vec![4; SHARE] },
        FromBroker::Proof {
            number: 412,
            claim: 9,
            peer: PublicKey([3; 32]),
            share: vec![4; SHARE],
            handshake: vec![5; 48],
        },
        FromBroker::WrongWords { claim: 9, left: 1 },
        FromBroker::Gone { claim: 9 },
        FromBroker::Introduced(introduction(Met::LobbyArriver { opener: 2 })),
        FromBroker::Introduced(introduction(Met::LobbyWaiter { opener: vec![7; 33] })),
        FromBroker::Introduced(introduction(Met::CodeArriver { claim: 9, answer: vec![7; 48] })),
        FromBroker::Introduced(introduction(Met::CodeWaiter { claim: 9 })),
        FromBroker::SeenAt { introduction: 11, address },
        FromBroker::ProfileOf { introduction: 11, profile: NatProfile::default() },
        FromBroker::Go { introduction: 11 },
        FromBroker::Relayed { introduction: 11, signal: Signal::Sealed(vec![8; 48]) },
        FromBroker::Joined { members: 3, capacity: 16, introductions: 3 },
        FromBroker::Left { peer: PublicKey([2; 32]) },
        refused(About::Link, Refusal::Full),
        refused(About::Join, Refusal::LobbyFull),
        refused(About::Open(7), Refusal::TooMany),
        refused(About::Claim(412), Refusal::OtherVerb(Verb::Chat)),
        refused(About::Proof(9), Refusal::NoSuchCode),
        FromBroker::Ping(1),
        FromBroker::Pong(2),
    ]
}
