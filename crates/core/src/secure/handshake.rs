//! The handshake between two peers, carried by the broker: Noise NN in the lobby, NNpsk0 under the
//! key of a code.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::SecureError;
use super::cipher::{Suite, has_fast_aes};
use super::pake::CodeKey;
use crate::identity::PublicKey;
use crate::limits::{MAX_HANDSHAKE, MAX_HOST_CANDIDATES};

/// What a side can do; unknown bits are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features(pub u32);

impl Features {
    const FAST_AES: u32 = 1;

    /// Those of this machine.
    pub fn of_this_machine() -> Self {
        Features(if has_fast_aes() { Self::FAST_AES } else { 0 })
    }

    fn suite(self, other: Features) -> Suite {
        if self.0 & other.0 & Self::FAST_AES != 0 { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
    }
}

/// Addresses that a peer tells of itself, where the message is sealed and they may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its host candidates.
    pub hosts: Vec<SocketAddr>,
    /// Where its router forwards a port to it, if it does.
    pub mapped: Option<SocketAddr>,
}

impl Told {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.mapped.is_none()
    }
}

/// What rides in a handshake message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What the sender can do.
    pub features: Features,
    /// Where the sender is.
    pub told: Told,
}

impl Payload {
    /// The bytes.
    ///
    /// # Errors
    ///
    /// None in practice: there is no bound within.
    pub fn encode(&self) -> Result<Vec<u8>, SecureError> {
        postcard::to_allocvec(self).map_err(|_| SecureError::Malformed)
    }

    /// Reads the bytes; host candidates beyond the bound are left out.
    ///
    /// # Errors
    ///
    /// They are malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, SecureError> {
        let mut payload: Payload = postcard::from_bytes(bytes).map_err(|_| SecureError::Malformed)?;
        payload.told.hosts.truncate(MAX_HOST_CANDIDATES);
        Ok(payload)
    }
}

/// The same for the two ends of one handshake and for nobody else (RFC 5056): whoever sits between
/// two peers has two handshakes, and two bindings. It is no secret.
pub type ChannelBinding = [u8; 32];

/// The keys of the two directions between two peers. Wiped when dropped.
#[derive(Clone)]
pub struct PeerKeys {
    pub(super) binding: ChannelBinding,
    pub(super) send: Zeroizing<[u8; 32]>,
    pub(super) receive: Zeroizing<[u8; 32]>,
    pub(super) suite: Suite,
}

impl PeerKeys {
    /// The cipher that both sides do fastest.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What tells this handshake from every other one.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.binding
    }
}

const NN: &str = "Noise_NN_25519_ChaChaPoly_BLAKE2s";
const NN_PSK: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// The initiator's handshake after its first message was written.
pub struct Opening {
    state: HandshakeState,
    features: Features,
    own: PublicKey,
}

impl Opening {
    /// Without authentication, for the open lobby. The message names nothing but a fresh key and
    /// features, because it is not sealed.
    ///
    /// # Errors
    ///
    /// Only if the operating system has no randomness.
    pub fn open(own: &PublicKey) -> Result<(Self, Vec<u8>), SecureError> {
        let prologue = lobby_prologue(own);
        let state = start(NN, None, &prologue)?.build_initiator().map_err(|_| SecureError::Malformed)?;
        Self::write(state, own, Told::default())
    }

    /// Under the key of a code; the payload is sealed with it.
    ///
    /// # Errors
    ///
    /// The payload is too long.
    pub fn with_code(own: &PublicKey, key: &CodeKey, told: Told) -> Result<(Self, Vec<u8>), SecureError> {
        let state = start(NN_PSK, Some(key), &key.transcript)?
            .build_initiator()
            .map_err(|_| SecureError::Malformed)?;
        Self::write(state, own, told)
    }

    fn write(mut state: HandshakeState, own: &PublicKey, told: Told) -> Result<(Self, Vec<u8>), SecureError> {
        let features = Features::of_this_machine();
        let message = write(&mut state, &Payload { features, told })?;
        Ok((Opening { state, features, own: *own }, message))
    }

    /// Takes the answer; `peer` is the session key it is said to come from.
    ///
    /// # Errors
    ///
    /// It does not verify: the other side has another key, or somebody changed it. The true answer
    /// can still be taken after a false one.
    pub fn finish(&mut self, peer: &PublicKey, answer: &[u8]) -> Result<(PeerKeys, Payload), SecureError> {
        let payload = read(&mut self.state, answer)?;
        let suite = self.features.suite(payload.features);
        Ok((split(&mut self.state, &self.own, peer, suite), payload))
    }
}

/// The responder's side: takes the first message, returns the keys, the answer and the initiator's
/// payload. `key` is that of the code, or `None` in the lobby.
///
/// # Errors
///
/// [`SecureError::Forged`] where the first message does not verify: with a code, wrong words.
pub fn respond(
    own: &PublicKey,
    peer: &PublicKey,
    key: Option<&CodeKey>,
    message: &[u8],
    told: Told,
) -> Result<(PeerKeys, Vec<u8>, Payload), SecureError> {
    let lobby = lobby_prologue(peer);
    let (name, prologue) = match key {
        Some(key) => (NN_PSK, &key.transcript),
        None => (NN, &lobby),
    };
    let mut state = start(name, key, prologue)?.build_responder().map_err(|_| SecureError::Malformed)?;
    let theirs = read(&mut state, message)?;
    let features = Features::of_this_machine();
    let answer = write(&mut state, &Payload { features, told })?;
    let suite = features.suite(theirs.features);
    Ok((split(&mut state, own, peer, suite), answer, theirs))
}

fn lobby_prologue(initiator: &PublicKey) -> Vec<u8> {
    [&b"tcpunch v1 lobby "[..], &initiator.0].concat()
}

fn start<'a>(name: &str, key: Option<&'a CodeKey>, prologue: &'a [u8]) -> Result<Builder<'a>, SecureError> {
    let params = name.parse().map_err(|_| SecureError::Malformed)?;
    let mut builder = Builder::new(params).prologue(prologue).map_err(|_| SecureError::Malformed)?;
    if let Some(key) = key {
        builder = builder.psk(0, &key.psk).map_err(|_| SecureError::Malformed)?;
    }
    Ok(builder)
}

fn write(state: &mut HandshakeState, payload: &Payload) -> Result<Vec<u8>, SecureError> {
    let mut message = vec![0; MAX_HANDSHAKE];
    let length = state.write_message(&payload.encode()?, &mut message).map_err(|_| SecureError::TooLong)?;
    message.truncate(length);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Payload, SecureError> {
    if message.len() > MAX_HANDSHAKE {
        return Err(SecureError::TooLong);
    }
    let mut payload = vec![0; MAX_HANDSHAKE];
    let length = state.read_message(message, &mut payload).map_err(|_| SecureError::Forged)?;
    Payload::decode(payload.get(..length).ok_or(SecureError::Malformed)?)
}

/// Both session keys and the suite enter the keys: a broker that swaps one of them in the lobby,
/// where nothing else names them, makes two sides that don't understand each other.
fn split(state: &mut HandshakeState, own: &PublicKey, peer: &PublicKey, suite: Suite) -> PeerKeys {
    let initiator = state.is_initiator();
    let (first, second) = if initiator { (own, peer) } else { (peer, own) };
    let (there, back) = state.dangerously_get_raw_split();
    let (there, back) = (Zeroizing::new(there), Zeroizing::new(back));
    let bind = |key: &[u8; 32]| {
        let mut hasher = blake3::Hasher::new_derive_key("tcpunch v1 peer keys");
        hasher.update(key).update(&first.0).update(&second.0);
        hasher.update(&[u8::from(suite == Suite::Aes256Gcm)]);
        Zeroizing::new(*hasher.finalize().as_bytes())
    };
    let (there, back) = (bind(&there), bind(&back));
    let (send, receive) = if initiator { (there, back) } else { (back, there) };
    // The hash of the handshake covers both fresh keys and all that was said (Noise, section 11.2).
    let mut hasher = blake3::Hasher::new_derive_key("tcpunch v1 channel binding");
    hasher.update(state.get_handshake_hash()).update(&first.0).update(&second.0);
    let binding = *hasher.finalize().as_bytes();
    PeerKeys { binding, send, receive, suite }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Code, Verb};
    use crate::secure::pake::{Meeting, Pake};

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);

    /// As much as there can be.
    fn told() -> Told {
        let at = |n| SocketAddr::new("2001:db8::1".parse().unwrap(), 65_000 + n);
        Told { hosts: (0..MAX_HOST_CANDIDATES as u16).map(at).collect(), mapped: Some(at(500)) }
    }

    #[test]
    fn the_lobby_agrees_on_keys() {
        let (mut opening, first) = Opening::open(&A).unwrap();
        let (theirs, second, payload) = respond(&B, &A, None, &first, told()).unwrap();
        assert!(payload.told.is_empty(), "the first message of a lobby is not sealed");
        let mut forged = second.clone();
        forged[40] ^= 1;
        assert_eq!(opening.finish(&B, &forged).err(), Some(SecureError::Forged));
        let (ours, payload) = opening.finish(&B, &second).unwrap();
        assert_eq!(payload.told, told());
        assert_eq!(ours.send, theirs.receive);
        assert_eq!(ours.receive, theirs.send);
        assert_ne!(ours.send, ours.receive);
        assert_eq!(ours.binding, theirs.binding);
    }

    #[test]
    fn who_sits_in_the_middle_has_two_bindings() {
        const M: PublicKey = PublicKey([3; 32]);
        let (mut opening, first) = Opening::open(&A).unwrap();
        let (toward_a, second, _) = respond(&B, &A, None, &first, Told::default()).unwrap();
        let (ours, _) = opening.finish(&B, &second).unwrap();
        let (mut relayed, first) = Opening::open(&A).unwrap();
        let (theirs, second, _) = respond(&B, &A, None, &first, Told::default()).unwrap();
        let (toward_b, _) = relayed.finish(&B, &second).unwrap();
        assert_eq!((ours.binding, theirs.binding), (toward_a.binding, toward_b.binding));
        assert_ne!(ours.binding, theirs.binding);
        // Nor is it the same where the two sides take each other for somebody else.
        let (mut opening, first) = Opening::open(&A).unwrap();
        let (theirs, second, _) = respond(&B, &A, None, &first, Told::default()).unwrap();
        assert_ne!(opening.finish(&M, &second).unwrap().0.binding, theirs.binding);
    }

    #[test]
    fn another_session_key_gives_other_keys() {
        let (mut opening, first) = Opening::open(&A).unwrap();
        let (theirs, second, _) = respond(&B, &A, None, &first, Told::default()).unwrap();
        let (ours, _) = opening.finish(&PublicKey([3; 32]), &second).unwrap();
        assert_ne!(ours.send, theirs.receive);
        let (_, first) = Opening::open(&A).unwrap();
        assert!(
            respond(&B, &PublicKey([3; 32]), None, &first, Told::default()).is_ok(),
            "NN's first message proves nothing"
        );
    }

    fn code_keys(waiter: &str, arriver: &str) -> (CodeKey, CodeKey) {
        let meeting = Meeting { broker: PublicKey([9; 32]), number: 412, verb: Verb::Listen };
        let secret = |text: &str| text.parse::<Code>().unwrap().secret;
        let w = Pake::waiter(&secret(waiter), &meeting);
        let a = Pake::arriver(&secret(arriver), &meeting);
        let (ws, as_) = (w.share().clone(), a.share().clone());
        (w.finish(&as_, &B, &A).unwrap(), a.finish(&ws, &B, &A).unwrap())
    }

    #[test]
    fn a_code_seals_both_candidate_lists() {
        let (waiter, arriver) = code_keys("412-abandon-zoo", "412-abandon-zoo");
        let (mut opening, first) = Opening::with_code(&A, &arriver, told()).unwrap();
        let (theirs, second, payload) = respond(&B, &A, Some(&waiter), &first, told()).unwrap();
        assert_eq!(payload.told, told());
        let (ours, payload) = opening.finish(&B, &second).unwrap();
        assert_eq!(payload.told, told());
        assert_eq!(ours.send, theirs.receive);
    }

    #[test]
    fn wrong_words_are_seen_by_the_waiter_at_once() {
        let (waiter, arriver) = code_keys("412-abandon-zoo", "412-abandon-able");
        let (_, first) = Opening::with_code(&A, &arriver, told()).unwrap();
        assert_eq!(respond(&B, &A, Some(&waiter), &first, Told::default()).err(), Some(SecureError::Forged));
    }

    #[test]
    fn garbage_is_refused() {
        let (waiter, _) = code_keys("412-abandon-zoo", "412-abandon-zoo");
        for message in [&[][..], &[0; 31], &[0; 32], &[7; 80], &[7; MAX_HANDSHAKE + 1]] {
            assert!(respond(&B, &A, Some(&waiter), message, Told::default()).is_err());
        }
        let (mut opening, _) = Opening::open(&A).unwrap();
        assert!(opening.finish(&B, &[0; 60]).is_err());
    }

    #[test]
    fn the_fast_cipher_is_taken_only_where_both_have_it() {
        let features = Features::of_this_machine();
        assert_eq!(features.suite(Features(Features::FAST_AES)) == Suite::Aes256Gcm, has_fast_aes());
        for (one, other, suite) in [
            (1, 1, Suite::Aes256Gcm),
            (1, 0, Suite::ChaCha20Poly1305),
            (0, 1, Suite::ChaCha20Poly1305),
            (0, 0, Suite::ChaCha20Poly1305),
            (u32::MAX, 1, Suite::Aes256Gcm),
            (u32::MAX, u32::MAX - 1, Suite::ChaCha20Poly1305),
        ] {
            assert_eq!(Features(one).suite(Features(other)), suite, "{one:x} {other:x}");
        }
    }

    #[test]
    fn a_broker_that_says_another_initiator_is_seen_by_the_true_one() {
        let (mut opening, first) = Opening::open(&A).unwrap();
        let (_, answer, _) = respond(&B, &PublicKey([3; 32]), None, &first, Told::default()).unwrap();
        assert_eq!(opening.finish(&B, &answer).err(), Some(SecureError::Forged));
    }

    #[test]
    fn messages_may_be_as_long_as_the_bound_and_no_longer() {
        let (_, mut first) = Opening::open(&A).unwrap();
        first.resize(MAX_HANDSHAKE, 0);
        assert!(
            respond(&B, &A, None, &first, Told::default()).is_ok(),
            "what a later version adds is passed over"
        );
        first.push(0);
        assert_eq!(respond(&B, &A, None, &first, Told::default()).err(), Some(SecureError::TooLong));
    }
}
