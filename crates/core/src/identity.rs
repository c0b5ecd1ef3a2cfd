//! Keys that name peers and brokers, and their forms for people.

use std::fmt;
use std::str::FromStr;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

use crate::code::word;

/// An X25519 public key (RFC 7748): of a peer's process (its session key) or of a broker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Two words that people can tell apart: 22 bits, so a name and no proof.
    pub fn nickname(&self) -> String {
        let hash = blake3::derive_key("tcpunch v1 nickname", &self.0);
        let [a, b, c, d, ..] = hash;
        let first = word(u16::from_be_bytes([a, b]) % 2048);
        let second = word(u16::from_be_bytes([c, d]) % 2048);
        format!("{first}-{second}")
    }

    /// The first eight digits of the key, for log lines.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 64 hexadecimal digits")]
pub struct BadKey;

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(BadKey);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(text.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadKey)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(BadKey);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadKey)?;
        }
        Ok(PublicKey(key))
    }
}

/// The secret half of a [`PublicKey`]. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        SecretKey(bytes)
    }

    /// The key with these bytes, as it was stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        SecretKey(Zeroizing::new(bytes))
    }

    /// The bytes, to be stored or handed to a handshake.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(*Point::from(&StaticSecret::from(*self.0)).as_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn text_form_reads_back() {
        let secret = SecretKey::generate(&mut rand_chacha::ChaCha20Rng::seed_from_u64(1));
        let public = secret.public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(public.nickname().split('-').count(), 2);
    }

    #[test]
    fn text_form_refuses_what_is_no_key() {
        for text in ["", "00", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(text.parse::<PublicKey>(), Err(BadKey), "{text}");
        }
    }

    #[test]
    fn public_key_is_x25519() {
        // RFC 7748 section 6.1, Alice's keys.
        let secret: PublicKey =
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a".parse().unwrap();
        let public = SecretKey::from_bytes(secret.0).public();
        assert_eq!(public.to_string(), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    }
}
