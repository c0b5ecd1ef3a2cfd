//! What a lane begins with: a tag that finds the attempt, a salt that makes its keys unique, and
//! the responder's handshake message where the initiator may not have it yet.

use blake3::Hasher;
use rand::RngCore;

use super::SecureError;
use super::handshake::{ChannelBinding, PeerKeys};
use super::record::{Opener, Sealer};
use crate::identity::PublicKey;
use crate::limits::MAX_HANDSHAKE;

/// Length of a [`Tag`], in bytes.
pub const TAG: usize = 16;
/// Length of the salt behind it, in bytes.
pub const SALT: usize = 16;
/// Tag, salt, and two bytes of length (big-endian) of the handshake message that follows.
pub const PREAMBLE: usize = TAG + SALT + 2;

/// The first bytes on a connection: which introduction it belongs to, and which direction.
pub type Tag = [u8; TAG];

/// The tag to send and the tag to expect. They keep strangers and scanners out of the attempt; they
/// prove nothing, because the broker can compute them.
pub fn tags(nonce: &[u8; 16], own: &PublicKey, peer: &PublicKey) -> (Tag, Tag) {
    let tag = |from: &PublicKey, to: &PublicKey| {
        let mut hasher = Hasher::new_derive_key("tcpunch v1 lane tag");
        hasher.update(nonce).update(&from.0).update(&to.0);
        let mut tag = [0; TAG];
        hasher.finalize_xof().fill(&mut tag);
        tag
    };
    (tag(own, peer), tag(peer, own))
}

/// The bytes before the first record.
///
/// # Errors
///
/// The handshake message is too long.
pub fn preamble(tag: &Tag, salt: &[u8; SALT], handshake: &[u8]) -> Result<Vec<u8>, SecureError> {
    if handshake.len() > MAX_HANDSHAKE {
        return Err(SecureError::TooLong);
    }
    let length = u16::try_from(handshake.len()).map_err(|_| SecureError::TooLong)?;
    Ok([&tag[..], salt, &length.to_be_bytes(), handshake].concat())
}

/// Takes tag, salt and the length of the handshake message apart.
///
/// # Errors
///
/// The length is over its bound.
pub fn parse_preamble(bytes: &[u8; PREAMBLE]) -> Result<(Tag, [u8; SALT], usize), SecureError> {
    let (tag, rest) = bytes.split_first_chunk::<TAG>().ok_or(SecureError::Malformed)?;
    let (salt, rest) = rest.split_first_chunk::<SALT>().ok_or(SecureError::Malformed)?;
    let length =
        rest.first_chunk::<2>().map(|length| u16::from_be_bytes(*length)).ok_or(SecureError::Malformed)?;
    if usize::from(length) > MAX_HANDSHAKE {
        return Err(SecureError::TooLong);
    }
    Ok((*tag, *salt, usize::from(length)))
}

/// Makes the keys of single lanes from those of the two peers.
///
/// Each direction's key of each lane is used on one TCP connection only, so that counters can be
/// nonces though several lanes are open at once: it depends on the introduction and on a salt that
/// its sender drew for this connection.
#[derive(Clone)]
pub struct LaneKeys {
    keys: PeerKeys,
    nonce: [u8; 16],
}

impl LaneKeys {
    /// For the introduction with this nonce.
    pub fn new(keys: PeerKeys, nonce: [u8; 16]) -> Self {
        LaneKeys { keys, nonce }
    }

    /// A fresh salt.
    pub fn salt(rng: &mut impl RngCore) -> [u8; SALT] {
        let mut salt = [0; SALT];
        rng.fill_bytes(&mut salt);
        salt
    }

    /// Seals what this side sends on the lane with this salt.
    pub fn sealer(&self, salt: &[u8; SALT]) -> Sealer {
        Sealer::new(self.keys.suite, self.derive(&self.keys.send, salt))
    }

    /// Opens what the peer sends on the lane with its salt.
    pub fn opener(&self, salt: &[u8; SALT]) -> Opener {
        Opener::new(self.keys.suite, self.derive(&self.keys.receive, salt))
    }

    /// That of the handshake which the keys come from.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.keys.binding
    }

    fn derive(&self, key: &[u8; 32], salt: &[u8; SALT]) -> [u8; 32] {
        let mut hasher = Hasher::new_derive_key("tcpunch v1 lane key");
        hasher.update(key).update(&self.nonce).update(salt);
        *hasher.finalize().as_bytes()
    }
}

/// Seals and opens what the two peers say to each other through the broker once they have keys.
pub fn signal_keys(keys: &PeerKeys, nonce: &[u8; 16]) -> (Sealer, Opener) {
    let derive = |key: &[u8; 32]| {
        let mut hasher = Hasher::new_derive_key("tcpunch v1 signal key");
        hasher.update(key).update(nonce);
        *hasher.finalize().as_bytes()
    };
    (Sealer::new(keys.suite, derive(&keys.send)), Opener::new(keys.suite, derive(&keys.receive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_mutual_and_differ_by_direction_and_introduction() {
        let (a, b) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let (sent, expected) = tags(&[7; 16], &a, &b);
        assert_eq!(tags(&[7; 16], &b, &a), (expected, sent));
        assert_ne!(sent, expected);
        assert_ne!(tags(&[8; 16], &a, &b).0, sent);
    }

    #[test]
    fn preamble_reads_back_and_its_length_is_bounded() {
        let bytes = preamble(&[1; TAG], &[2; SALT], b"answer").unwrap();
        let head: [u8; PREAMBLE] = bytes[..PREAMBLE].try_into().unwrap();
        assert_eq!(parse_preamble(&head), Ok(([1; TAG], [2; SALT], 6)));
        assert_eq!(&bytes[PREAMBLE..], b"answer");
        assert_eq!(parse_preamble(&[0xff; PREAMBLE]), Err(SecureError::TooLong));
        assert_eq!(preamble(&[1; TAG], &[2; SALT], &[0; MAX_HANDSHAKE + 1]), Err(SecureError::TooLong));
    }

    #[test]
    fn the_longest_handshake_message_fits() {
        let bytes = preamble(&[1; TAG], &[2; SALT], &[3; MAX_HANDSHAKE]).unwrap();
        let head: [u8; PREAMBLE] = bytes[..PREAMBLE].try_into().unwrap();
        assert_eq!(parse_preamble(&head), Ok(([1; TAG], [2; SALT], MAX_HANDSHAKE)));
    }

    #[test]
    fn salts_are_drawn() {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let salts = [LaneKeys::salt(&mut rng), LaneKeys::salt(&mut rng)];
        let mut same = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut drawn = [0; SALT];
        same.fill_bytes(&mut drawn);
        assert_eq!(salts[0], drawn);
        assert_ne!(salts[0], salts[1]);
    }

    #[test]
    fn a_key_serves_one_direction_of_one_connection_of_one_introduction() {
        use crate::secure::{Kind, Suite};
        use zeroize::Zeroizing;
        let (one, two) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let suite = Suite::ChaCha20Poly1305;
        let ours = PeerKeys { send: one.clone(), receive: two.clone(), suite, binding: [0; 32] };
        let theirs = PeerKeys { send: two, receive: one, suite, binding: [0; 32] };
        let opens = |mut sealer: Sealer, mut opener: Opener| {
            let mut record = Vec::new();
            sealer.seal(Kind::Data, b"text", &mut record).unwrap();
            let (header, body) = record.split_first_chunk_mut().unwrap();
            opener.open(*header, body).is_ok()
        };
        let lane = |keys: &PeerKeys, nonce| LaneKeys::new(keys.clone(), [nonce; 16]);
        let (ours_7, theirs_7) = (lane(&ours, 7), lane(&theirs, 7));
        assert!(opens(ours_7.sealer(&[5; SALT]), theirs_7.opener(&[5; SALT])));
        assert!(!opens(ours_7.sealer(&[5; SALT]), theirs_7.opener(&[6; SALT])), "another connection");
        assert!(!opens(ours_7.sealer(&[5; SALT]), ours_7.opener(&[5; SALT])), "the other direction");
        assert!(
            !opens(ours_7.sealer(&[5; SALT]), lane(&theirs, 8).opener(&[5; SALT])),
            "another introduction"
        );
        let signals = |keys, nonce| signal_keys(keys, &[nonce; 16]);
        assert!(opens(signals(&ours, 7).0, signals(&theirs, 7).1));
        assert!(!opens(signals(&ours, 7).0, signals(&theirs, 8).1), "another introduction");
        assert!(!opens(signals(&ours, 7).0, signals(&ours, 7).1), "the other direction");
        assert!(!opens(signals(&ours, 7).0, theirs_7.opener(&[5; SALT])), "no lane");
    }
}
