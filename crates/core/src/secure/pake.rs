//! SPAKE2 on Ed25519 over the words of a code, as the crate `spake2` and python-spake2 do it: the
//! protocol of RFC 9382 with other constants and another transcript.

use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::SecureError;
use crate::code::{Secret, Verb};
use crate::identity::PublicKey;

/// Length of a share, in bytes.
pub const SHARE: usize = 33;

/// What each side sends of itself.
pub type Share = Vec<u8>;

/// What both sides must agree on beside the words. Whatever differs makes the keys differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The broker through which both came.
    pub broker: PublicKey,
    /// The public number of the code.
    pub number: u32,
    /// What the waiting side runs.
    pub verb: Verb,
}

impl Meeting {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"tcpunch v1 code ".to_vec();
        bytes.extend_from_slice(&self.broker.0);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(self.verb.command().as_bytes());
        bytes
    }

    fn identity(&self, role: &[u8]) -> Identity {
        let mut bytes = self.bytes();
        bytes.extend_from_slice(role);
        Identity::new(&bytes)
    }
}

/// One run, which serves one guess.
pub struct Pake {
    state: Spake2<Ed25519Group>,
    share: Share,
    waits: bool,
    meeting: Meeting,
}

impl Pake {
    /// The side that opened the code.
    pub fn waiter(secret: &Secret, meeting: &Meeting) -> Self {
        Self::start(secret, meeting, true)
    }

    /// The side that was told the code.
    pub fn arriver(secret: &Secret, meeting: &Meeting) -> Self {
        Self::start(secret, meeting, false)
    }

    fn start(secret: &Secret, meeting: &Meeting, waits: bool) -> Self {
        let password = Password::new(secret.text());
        let (waiter, arriver) = (meeting.identity(b" waiter"), meeting.identity(b" arriver"));
        let (state, share) = if waits {
            Spake2::start_a(&password, &waiter, &arriver)
        } else {
            Spake2::start_b(&password, &waiter, &arriver)
        };
        Pake { state, share, waits, meeting: meeting.clone() }
    }

    /// What the other side needs.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// The key that both sides have if both had the same words, and the transcript to bind it to.
    ///
    /// # Errors
    ///
    /// The other side's share is no share.
    pub fn finish(
        self,
        share: &[u8],
        waiter: &PublicKey,
        arriver: &PublicKey,
    ) -> Result<CodeKey, SecureError> {
        if share.len() != SHARE {
            return Err(SecureError::Malformed);
        }
        let (first, second) = if self.waits { (&*self.share, share) } else { (share, &*self.share) };
        let mut transcript = self.meeting.bytes();
        for part in [&waiter.0[..], &arriver.0[..], first, second] {
            transcript.extend_from_slice(part);
        }
        let raw = Zeroizing::new(self.state.finish(share).map_err(|_| SecureError::Malformed)?);
        let mut hasher = blake3::Hasher::new_derive_key("tcpunch v1 code key");
        hasher.update(&raw).update(&transcript);
        Ok(CodeKey { psk: Zeroizing::new(*hasher.finalize().as_bytes()), transcript })
    }
}

/// The key of a code, for the handshake between the peers.
pub struct CodeKey {
    pub(super) psk: Zeroizing<[u8; 32]>,
    pub(super) transcript: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;

    fn meeting() -> Meeting {
        Meeting { broker: PublicKey([9; 32]), number: 412, verb: Verb::Listen }
    }

    fn agree(words: [&str; 2], meetings: [&Meeting; 2], arriver_seen_by_waiter: u8) -> bool {
        let [a, b] = words.map(|words| words.parse::<Code>().unwrap().secret);
        let waiter = Pake::waiter(&a, meetings[0]);
        let arriver = Pake::arriver(&b, meetings[1]);
        let (x, y) = (waiter.share().clone(), arriver.share().clone());
        let keys = (PublicKey([1; 32]), PublicKey([2; 32]));
        let one = waiter.finish(&y, &keys.0, &PublicKey([arriver_seen_by_waiter; 32])).unwrap();
        let two = arriver.finish(&x, &keys.0, &keys.1).unwrap();
        one.psk == two.psk
    }

    #[test]
    fn same_words_agree_and_others_do_not() {
        let m = meeting();
        assert!(agree(["412-abandon-zoo", "412-abandon-zoo"], [&m, &m], 2));
        assert!(!agree(["412-abandon-zoo", "412-zoo-abandon"], [&m, &m], 2));
    }

    #[test]
    fn number_broker_verb_and_session_keys_are_bound() {
        let m = meeting();
        let words = ["412-abandon-zoo", "412-abandon-zoo"];
        assert!(!agree(words, [&m, &Meeting { number: 413, ..m.clone() }], 2));
        assert!(!agree(words, [&m, &Meeting { broker: PublicKey([8; 32]), ..m.clone() }], 2));
        assert!(!agree(words, [&m, &Meeting { verb: Verb::Chat, ..m.clone() }], 2));
        assert!(!agree(words, [&m, &m], 3));
    }

    #[test]
    fn malformed_shares_are_refused() {
        let secret = "412-abandon-zoo".parse::<Code>().unwrap().secret;
        let keys = PublicKey([1; 32]);
        for share in [&[][..], &[0; 33], &[0x41; 33], &[0x42; 34]] {
            let pake = Pake::waiter(&secret, &meeting());
            assert!(pake.finish(share, &keys, &keys).is_err());
        }
        let own = Pake::waiter(&secret, &meeting());
        let reflected = own.share().clone();
        assert!(own.finish(&reflected, &keys, &keys).is_err());
    }
}
