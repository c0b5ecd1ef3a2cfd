//! The messages between peer and broker, and what a link begins with. Byte by byte in
//! `docs/protocol.md`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::code::Verb;
use crate::identity::PublicKey;
use crate::limits::MAX_MESSAGE;
use crate::profile::NatProfile;
use crate::secure::{Pattern, Share};

/// Version of the protocol; peers and brokers of another one say so and part.
pub const VERSION: u8 = 1;

/// Length of a [`Preface`], in bytes.
pub const PREFACE: usize = 9;

const MAGIC: &[u8; 7] = b"tcpunch";

/// The first bytes on a connection to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// A link, beginning with this handshake.
    Link(Pattern),
    /// An observation: an [`ObservationToken`] follows, and nothing comes back.
    Observe,
    /// An observation after which the broker knocks: it connects to the address that it saw, from the
    /// address that was dialled and from its second one, if it has one, each time from a port that the
    /// peer never contacted; and once more from each of them where nothing came back at first.
    Knock,
}

/// Names a session and one of its questions in an observation, 16 bytes: eight that the broker
/// drew for the session and eight that the peer chose.
pub type ObservationToken = [u8; 16];

/// Why the first bytes are none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPreface {
    /// It is another protocol.
    #[error("it does not speak tcpunch")]
    Foreign,
    /// It is another version of this protocol.
    #[error("it speaks version {0} of the protocol, this is version {VERSION}")]
    Version(u8),
}

impl Preface {
    /// The bytes.
    pub fn encode(self) -> [u8; PREFACE] {
        let kind = match self {
            Preface::Link(Pattern::Xx) => 1,
            Preface::Link(Pattern::Ik) => 2,
            Preface::Observe => 3,
            Preface::Knock => 4,
        };
        let [a, b, c, d, e, f, g] = *MAGIC;
        [a, b, c, d, e, f, g, VERSION, kind]
    }

    /// Reads the bytes.
    ///
    /// # Errors
    ///
    /// They are of another protocol or version.
    pub fn decode(bytes: [u8; PREFACE]) -> Result<Self, BadPreface> {
        let [magic @ .., version, kind] = bytes;
        if magic != *MAGIC {
            return Err(BadPreface::Foreign);
        }
        match (version, kind) {
            (VERSION, 1) => Ok(Preface::Link(Pattern::Xx)),
            (VERSION, 2) => Ok(Preface::Link(Pattern::Ik)),
            (VERSION, 3) => Ok(Preface::Observe),
            (VERSION, 4) => Ok(Preface::Knock),
            (VERSION, _) => Err(BadPreface::Foreign),
            (other, _) => Err(BadPreface::Version(other)),
        }
    }
}

/// Names an introduction at its broker.
pub type IntroductionId = u64;

/// Names a claim of a code at its broker.
pub type ClaimId = u64;

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBroker {
    /// First message on a link. Only it proves that the handshake was no replay, so the broker
    /// registers the session key when it has opened it.
    Register {
        /// What is known of the own side.
        profile: NatProfile,
    },
    /// The own side is known better now.
    Profile(NatProfile),
    /// Joins the open lobby.
    Join {
        /// Members to which a connection exists: they are not introduced again.
        connected: Vec<PublicKey>,
        /// First handshake messages, each for one member.
        openers: Vec<Vec<u8>>,
    },
    /// Opens a code.
    Open {
        /// Names it in the answer.
        request: u32,
        /// What is run here.
        verb: Verb,
        /// The number that this code had before the link was lost.
        again: Option<u32>,
    },
    /// A fresh SPAKE2 share for the code with this number: after it was opened, and after each
    /// wrong guess.
    Wait {
        /// Number of the code.
        number: u32,
        /// The share.
        share: Share,
    },
    /// Burns or withdraws the code.
    Withdraw {
        /// Number of the code.
        number: u32,
    },
    /// Asks to join a code.
    Claim {
        /// Number of the code.
        number: u32,
        /// What is run here.
        verb: Verb,
    },
    /// Proves that one has the words.
    Prove {
        /// Number of the claim.
        claim: ClaimId,
        /// The own share.
        share: Share,
        /// First handshake message under the code's key.
        handshake: Vec<u8>,
    },
    /// The proof holds: introduce us.
    Accept {
        /// Number of the claim.
        claim: ClaimId,
        /// Second handshake message.
        handshake: Vec<u8>,
    },
    /// The proof does not hold.
    Reject {
        /// Number of the claim.
        claim: ClaimId,
        /// Guesses that are left; 0 burns the code.
        left: u8,
    },
    /// Sealed signalling for the other side of an introduction.
    Relay {
        /// Which introduction.
        introduction: IntroductionId,
        /// What to pass on.
        signal: Signal,
    },
    /// The own fresh port for a further round of an introduction is observed under this question.
    Round {
        /// Which introduction.
        introduction: IntroductionId,
        /// Which round, from 1 on; the doors are round 0.
        round: u8,
        /// The peer's half of the observation's token.
        question: [u8; 8],
    },
    /// Is anybody there?
    Ping(u32),
    /// Answers a ping.
    Pong(u32),
}

/// What two introduced peers say to each other through the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// The second handshake message.
    Answer(Vec<u8>),
    /// A sealed record with host candidates.
    Sealed(Vec<u8>),
    /// How far this side is in a round in which it fires at many ports.
    Word {
        /// Which round.
        round: u8,
        /// How far.
        word: Word,
    },
}

/// How far a side is with its SYNs at many ports. Who is to fire after the other needs both: a lost Go delays the first, a lost
/// `Fired` the second alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// It has heard Go.
    Ready,
    /// All that are to leave before the other side's are out.
    Fired,
}

/// What the broker says in its handshake message, a round trip before it can answer anything: so a peer looks at its own network
/// while it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The other end's address as the broker sees it.
    pub observed: SocketAddr,
    /// What an observation on behalf of this link's session begins with.
    pub token: [u8; 8],
    /// Where other peers reach this broker, best first; for codes.
    pub advertised: Vec<String>,
    /// Where this broker answers observations too, beside the link's own address and port.
    pub probes: Vec<Probe>,
}

/// What a broker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromBroker {
    /// An observation came in.
    Observed {
        /// The peer's half of its token.
        question: [u8; 8],
        /// Where it came from.
        from: SocketAddr,
    },
    /// The broker knocked where an observation came from.
    Knocked {
        /// The peer's half of its token.
        question: [u8; 8],
        /// Whether from the broker's second address; else from the address that was dialled.
        elsewhere: bool,
        /// What came of it.
        answer: KnockAnswer,
    },
    /// The code is open.
    Opened {
        /// The request.
        request: u32,
        /// Its number.
        number: u32,
        /// Seconds until it expires.
        expires_s: u32,
    },
    /// The code expired.
    Expired {
        /// Its number.
        number: u32,
    },
    /// The answer to a claim: prove it with this share.
    Claimed {
        /// Number of the code.
        number: u32,
        /// Number of the claim.
        claim: ClaimId,
        /// Session key of who opened the code.
        waiter: PublicKey,
        /// The waiter's share.
        share: Share,
    },
    /// Somebody claims to have the words.
    Proof {
        /// Number of the code.
        number: u32,
        /// Number of the claim.
        claim: ClaimId,
        /// Session key of who claims.
        peer: PublicKey,
        /// That side's share.
        share: Share,
        /// First handshake message.
        handshake: Vec<u8>,
    },
    /// The words were wrong.
    WrongWords {
        /// Number of the claim.
        claim: ClaimId,
        /// Guesses that are left.
        left: u8,
    },
    /// Who claimed is gone before the answer came: the code needs a fresh share and goes on.
    Gone {
        /// Number of the claim.
        claim: ClaimId,
    },
    /// Two peers are to connect.
    Introduced(Introduction),
    /// The other side of an introduction was seen at one more address.
    SeenAt {
        /// Which introduction.
        introduction: IntroductionId,
        /// The address.
        address: SocketAddr,
    },
    /// The other side of an introduction is known better now.
    ProfileOf {
        /// Which introduction.
        introduction: IntroductionId,
        /// What is known.
        profile: NatProfile,
    },
    /// Fire.
    Go {
        /// Which introduction.
        introduction: IntroductionId,
    },
    /// The other side begins a further round.
    RoundWanted {
        /// Of which introduction.
        introduction: IntroductionId,
        /// Which round.
        round: u8,
    },
    /// Both have a fresh port for this round: fire.
    Round {
        /// Of which introduction.
        introduction: IntroductionId,
        /// Which round.
        round: u8,
        /// Where the other side's fresh port was seen.
        peer: SocketAddr,
    },
    /// What the other side of an introduction says.
    Relayed {
        /// Which introduction.
        introduction: IntroductionId,
        /// Its message.
        signal: Signal,
    },
    /// The lobby was joined; so many introductions follow.
    Joined {
        /// Members that were there.
        members: u32,
        /// How many may be there.
        capacity: u32,
        /// Introductions that follow now.
        introductions: u32,
    },
    /// A member of the lobby lost its last link.
    Left {
        /// Its session key.
        peer: PublicKey,
    },
    /// What was asked for is not to be had.
    Refused {
        /// What it answers.
        about: About,
        /// Why.
        refusal: Refusal,
    },
    /// Is anybody there?
    Ping(u32),
    /// Answers a ping.
    Pong(u32),
}

/// A further place of a broker that answers observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Its address; `None`: that of the link.
    pub ip: Option<std::net::IpAddr>,
    /// Its port.
    pub port: u16,
}

/// What came of a broker's knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KnockAnswer {
    /// A connection.
    Accepted,
    /// A reset; or ICMP port unreachable, which sockets tell as the same.
    Refused,
    /// Another ICMP error.
    Unreachable,
    /// Nothing within [`crate::limits::KNOCK_WITHIN`].
    Silent,
}

/// One side's half of an introduction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its number at the broker.
    pub id: IntroductionId,
    /// Random, the same for both sides; lane tags and keys depend on it.
    pub nonce: [u8; 16],
    /// How the two came together.
    pub meeting: Met,
    /// The other side's session key.
    pub peer: PublicKey,
    /// The other side's addresses as the broker saw them, at most one a family.
    pub addresses: Vec<SocketAddr>,
    /// What is known of the other side's network.
    pub profile: NatProfile,
    /// What the other side is told of this side's.
    pub own_profile: NatProfile,
    /// Address of the broker as others see it, for a peer on the broker's own side.
    pub public: Vec<std::net::IpAddr>,
    /// Both round trips to the broker together, in microseconds: an upper bound of the round trip
    /// between the peers.
    pub round_trip_bound_us: u32,
}

/// How two peers came together, with the handshake message that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Met {
    /// In the lobby, and this side arrived: its opener with this index was used.
    LobbyArriver {
        /// Index into the openers of the join.
        opener: u32,
    },
    /// In the lobby, and this side was there.
    LobbyWaiter {
        /// The arriver's first handshake message.
        opener: Vec<u8>,
    },
    /// By a code that this side claimed.
    CodeArriver {
        /// The claim.
        claim: ClaimId,
        /// The waiter's second handshake message.
        answer: Vec<u8>,
    },
    /// By a code that this side opened.
    CodeWaiter {
        /// The claim.
        claim: ClaimId,
    },
}

/// What a refusal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum About {
    /// The link itself; it will be closed.
    Link,
    /// Joining the lobby, or being introduced to a member.
    Join,
    /// This request to open a code.
    Open(u32),
    /// The claim of this number.
    Claim(u32),
    /// This claim, when it was proven.
    Proof(ClaimId),
}

/// Why a broker does not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// No code has this number: never given, expired, used, or burnt.
    NoSuchCode,
    /// The other side runs something else; with what it runs.
    OtherVerb(Verb),
    /// The lobby has as many members as it may have.
    LobbyFull,
    /// This broker has no lobby.
    LobbyOff,
    /// Too much was asked from this address.
    TooMany,
    /// The broker is full.
    Full,
    /// The message does not belong here.
    OutOfOrder,
}

/// A message that is too long or does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message is malformed")]
pub struct BadMessage;

/// The bytes of a message.
///
/// # Errors
///
/// It is longer than [`MAX_MESSAGE`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, BadMessage> {
    let bytes = postcard::to_allocvec(message).map_err(|_| BadMessage)?;
    if bytes.len() > MAX_MESSAGE { Err(BadMessage) } else { Ok(bytes) }
}

/// Reads a message; bytes left over are an error.
///
/// # Errors
///
/// The bytes are no message of this type.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadMessage> {
    if bytes.len() > MAX_MESSAGE {
        return Err(BadMessage);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(BadMessage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOBBY_MEMBERS_MOST, MAX_HANDSHAKE, MAX_HOST_CANDIDATES, MAX_OBSERVED};
    use proptest::prelude::*;

    #[test]
    fn prefaces_read_back() {
        for preface in
            [Preface::Link(Pattern::Ik), Preface::Link(Pattern::Xx), Preface::Observe, Preface::Knock]
        {
            assert_eq!(Preface::decode(preface.encode()), Ok(preface));
        }
        assert_eq!(Preface::decode(*b"GET / HTT"), Err(BadPreface::Foreign));
        assert_eq!(Preface::decode(*b"tcpunch\x02\x01"), Err(BadPreface::Version(2)));
        assert_eq!(Preface::decode(*b"tcpunch\x01\x09"), Err(BadPreface::Foreign));
    }

    #[test]
    fn the_longest_honest_messages_fit() {
        // An opener is 32 bytes of key and a payload of a few bytes.
        let join = ToBroker::Join { connected: vec![], openers: vec![vec![0; 40]; LOBBY_MEMBERS_MOST - 1] };
        assert!(encode(&join).is_ok());
        let rejoin =
            ToBroker::Join { connected: vec![PublicKey([1; 32]); LOBBY_MEMBERS_MOST - 1], openers: vec![] };
        assert!(encode(&rejoin).is_ok());
        let introduced = FromBroker::Introduced(Introduction {
            id: u64::MAX,
            nonce: [1; 16],
            meeting: Met::CodeArriver { claim: u64::MAX, answer: vec![0; MAX_HANDSHAKE] },
            peer: PublicKey([1; 32]),
            addresses: vec!["[2001:db8::1]:65535".parse().unwrap(); MAX_OBSERVED],
            profile: NatProfile::default(),
            own_profile: NatProfile::default(),
            public: vec!["2001:db8::1".parse().unwrap(); MAX_HOST_CANDIDATES],
            round_trip_bound_us: u32::MAX,
        });
        assert!(encode(&introduced).is_ok());
    }

    #[test]
    fn what_is_too_long_is_neither_made_nor_read() {
        let long = ToBroker::Wait { number: 1, share: vec![0; MAX_MESSAGE] };
        assert_eq!(encode(&long), Err(BadMessage));
        assert_eq!(decode::<ToBroker>(&[0; MAX_MESSAGE + 1]), Err(BadMessage));
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = encode(&ToBroker::Ping(1)).unwrap();
        assert_eq!(decode::<ToBroker>(&bytes), Ok(ToBroker::Ping(1)));
        bytes.push(0);
        assert_eq!(decode::<ToBroker>(&bytes), Err(BadMessage));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ToBroker>(&bytes);
            let _ = decode::<FromBroker>(&bytes);
        }
    }
}
