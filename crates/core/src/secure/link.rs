//! The link between peer and broker: Noise IK where the broker's key is known, else XX, with the
//! peer's session key as its static key.

use snow::{Builder, HandshakeState};

use super::SecureError;
use super::cipher::{Cipher, Suite, TAG_LEN};
use crate::identity::{PublicKey, SecretKey};
use crate::limits::MAX_FRAME;

/// Which handshake a link begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The peer knows the broker's key: one round trip.
    Ik,
    /// It does not: one and a half.
    Xx,
}

impl Pattern {
    fn name(self) -> &'static str {
        match self {
            Pattern::Ik => "Noise_IK_25519_ChaChaPoly_BLAKE2s",
            Pattern::Xx => "Noise_XX_25519_ChaChaPoly_BLAKE2s",
        }
    }
}

/// A handshake of a link under way.
pub struct LinkHandshake(HandshakeState);

impl LinkHandshake {
    /// The peer's side. `prologue` is all that was sent in the clear before.
    ///
    /// # Errors
    ///
    /// The broker's key is not usable.
    pub fn peer(own: &SecretKey, broker: Option<&PublicKey>, prologue: &[u8]) -> Result<Self, SecureError> {
        let pattern = if broker.is_some() { Pattern::Ik } else { Pattern::Xx };
        let mut builder = builder(pattern, own, prologue)?;
        if let Some(broker) = broker {
            builder = builder.remote_public_key(&broker.0).map_err(|_| SecureError::Malformed)?;
        }
        Ok(LinkHandshake(builder.build_initiator().map_err(|_| SecureError::Malformed)?))
    }

    /// The broker's side.
    ///
    /// # Errors
    ///
    /// Its own key is not usable.
    pub fn broker(own: &SecretKey, pattern: Pattern, prologue: &[u8]) -> Result<Self, SecureError> {
        let builder = builder(pattern, own, prologue)?;
        Ok(LinkHandshake(builder.build_responder().map_err(|_| SecureError::Malformed)?))
    }

    /// Whether the next message is ours to write.
    pub fn is_my_turn(&self) -> bool {
        !self.0.is_handshake_finished() && self.0.is_my_turn()
    }

    /// Whether both sides have said all.
    pub fn is_finished(&self) -> bool {
        self.0.is_handshake_finished()
    }

    /// The next message, which carries the payload.
    ///
    /// # Errors
    ///
    /// It is not our turn, or the payload is too long.
    pub fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, SecureError> {
        let mut message = vec![0; payload.len() + 160];
        let length = self.0.write_message(payload, &mut message).map_err(|_| SecureError::TooLong)?;
        message.truncate(length);
        Ok(message)
    }

    /// Takes the other side's message and returns its payload.
    ///
    /// # Errors
    ///
    /// It does not verify.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, SecureError> {
        let mut payload = vec![0; message.len()];
        let length = self.0.read_message(message, &mut payload).map_err(|_| SecureError::Forged)?;
        payload.truncate(length);
        Ok(payload)
    }

    /// The other side's static key, once its message was read.
    pub fn remote(&self) -> Option<PublicKey> {
        self.0.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey)
    }

    /// The two directions of the finished link.
    pub fn finish(mut self) -> (LinkSealer, LinkOpener) {
        let initiator = self.0.is_initiator();
        let (there, back) = self.0.dangerously_get_raw_split();
        let (send, receive) = if initiator { (there, back) } else { (back, there) };
        (
            LinkSealer(Cipher::new(Suite::ChaCha20Poly1305, send)),
            LinkOpener(Cipher::new(Suite::ChaCha20Poly1305, receive)),
        )
    }
}

fn builder<'a>(pattern: Pattern, own: &'a SecretKey, prologue: &'a [u8]) -> Result<Builder<'a>, SecureError> {
    let params = pattern.name().parse().map_err(|_| SecureError::Malformed)?;
    Builder::new(params)
        .local_private_key(own.bytes())
        .and_then(|builder| builder.prologue(prologue))
        .map_err(|_| SecureError::Malformed)
}

/// Seals messages of one direction of a link.
pub struct LinkSealer(Cipher);

impl LinkSealer {
    /// The message as a frame: two bytes of length, big-endian, and the sealed bytes.
    ///
    /// # Errors
    ///
    /// It is longer than a frame may be.
    pub fn seal(&mut self, mut message: Vec<u8>) -> Result<Vec<u8>, SecureError> {
        let length = message.len() + TAG_LEN;
        if length > MAX_FRAME {
            return Err(SecureError::TooLong);
        }
        let header = u16::try_from(length).map_err(|_| SecureError::TooLong)?.to_be_bytes();
        let tag = self.0.seal(&header, &mut message)?;
        let mut frame = Vec::with_capacity(2 + length);
        frame.extend_from_slice(&header);
        frame.append(&mut message);
        frame.extend_from_slice(&tag);
        Ok(frame)
    }
}

/// Opens messages of one direction of a link.
pub struct LinkOpener(Cipher);

impl LinkOpener {
    /// Opens what followed the two bytes of length.
    ///
    /// # Errors
    ///
    /// It does not verify.
    pub fn open(&mut self, mut sealed: Vec<u8>) -> Result<Vec<u8>, SecureError> {
        let header = u16::try_from(sealed.len()).map_err(|_| SecureError::TooLong)?.to_be_bytes();
        let length = self.0.open(&header, &mut sealed)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn key(seed: u64) -> SecretKey {
        SecretKey::generate(&mut rand_chacha::ChaCha20Rng::seed_from_u64(seed))
    }

    fn run(known: Option<PublicKey>) -> Result<(LinkHandshake, LinkHandshake), SecureError> {
        let pattern = if known.is_some() { Pattern::Ik } else { Pattern::Xx };
        let mut peer = LinkHandshake::peer(&key(1), known.as_ref(), b"hello")?;
        let mut broker = LinkHandshake::broker(&key(2), pattern, b"hello")?;
        while !(peer.is_finished() && broker.is_finished()) {
            let (writer, reader) =
                if peer.is_my_turn() { (&mut peer, &mut broker) } else { (&mut broker, &mut peer) };
            assert_eq!(reader.read(&writer.write(b"payload")?)?, b"payload");
        }
        Ok((peer, broker))
    }

    #[test]
    fn both_patterns_prove_both_keys() {
        for known in [None, Some(key(2).public())] {
            let (peer, broker) = run(known).unwrap();
            assert_eq!(peer.remote(), Some(key(2).public()));
            assert_eq!(broker.remote(), Some(key(1).public()));
            let (mut sealer, _) = peer.finish();
            let (_, mut opener) = broker.finish();
            let frame = sealer.seal(b"register".to_vec()).unwrap();
            assert_eq!(opener.open(frame[2..].to_vec()).unwrap(), b"register");
            assert_eq!(opener.open(frame[2..].to_vec()), Err(SecureError::Forged));
        }
    }

    #[test]
    fn another_broker_cannot_answer_for_the_known_one() {
        assert!(matches!(run(Some(key(3).public())), Err(SecureError::Forged)));
    }

    #[test]
    fn the_longest_message_fits_into_a_frame_and_no_longer_one() {
        let (peer, broker) = run(Some(key(2).public())).unwrap();
        let ((mut sealer, _), (_, mut opener)) = (peer.finish(), broker.finish());
        let longest = vec![1; MAX_FRAME - TAG_LEN];
        let frame = sealer.seal(longest.clone()).unwrap();
        assert_eq!(frame.len(), 2 + MAX_FRAME);
        assert_eq!(opener.open(frame[2..].to_vec()), Ok(longest));
        assert_eq!(sealer.seal(vec![1; MAX_FRAME - TAG_LEN + 1]), Err(SecureError::TooLong));
    }

    #[test]
    fn who_speaks_out_of_turn_is_refused() {
        let mut peer = LinkHandshake::peer(&key(1), None, b"hello").unwrap();
        assert!(peer.is_my_turn() && !peer.is_finished());
        let first = peer.write(&[]).unwrap();
        assert!(!peer.is_my_turn() && peer.write(&[]).is_err());
        assert_eq!(peer.remote(), None, "nobody has shown a key");
        assert!(peer.read(&first).is_err(), "the own message is no answer");
    }
}
