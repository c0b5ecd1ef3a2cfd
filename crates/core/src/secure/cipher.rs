//! One direction of sealed messages: a key, a counter, and moving on to the next key.

use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::SecureError;
use crate::limits::RECORDS_PER_KEY;

/// Length of an authentication tag, in bytes, of both suites.
pub(super) const TAG_LEN: usize = 16;

/// Which cipher seals records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439): fast everywhere.
    ChaCha20Poly1305,
    /// AES-256-GCM: several times faster where the processor has the instructions.
    Aes256Gcm,
}

/// Whether this processor has instructions for AES and carry-less multiplication.
pub fn has_fast_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    return false;
}

/// Seals or opens messages of one direction in order. A key is never used in both directions.
pub(super) struct Cipher {
    suite: Suite,
    secret: Zeroizing<[u8; 32]>,
    key: LessSafeKey,
    counter: u64,
}

impl Cipher {
    pub(super) fn new(suite: Suite, secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        Cipher { suite, key: ring_key(suite, &secret), secret, counter: 0 }
    }

    /// Seals the bytes in place and returns the tag that belongs behind them.
    pub(super) fn seal(&mut self, header: &[u8], bytes: &mut [u8]) -> Result<[u8; TAG_LEN], SecureError> {
        let nonce = self.next_nonce();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), bytes)
            .map_err(|_| SecureError::TooLong)?;
        tag.as_ref().try_into().map_err(|_| SecureError::Malformed)
    }

    /// Opens the bytes in place; the result is without the tag.
    pub(super) fn open<'a>(
        &mut self,
        header: &[u8],
        bytes: &'a mut [u8],
    ) -> Result<&'a mut [u8], SecureError> {
        let nonce = self.next_nonce();
        self.key.open_in_place(nonce, Aad::from(header), bytes).map_err(|_| SecureError::Forged)
    }

    fn next_nonce(&mut self) -> Nonce {
        if self.counter == RECORDS_PER_KEY {
            *self.secret = blake3::derive_key("tcpunch v1 next key", self.secret.as_ref());
            self.key = ring_key(self.suite, &self.secret);
            self.counter = 0;
        }
        let mut nonce = [0; 12];
        for (byte, part) in nonce.iter_mut().skip(4).zip(self.counter.to_be_bytes()) {
            *byte = part;
        }
        self.counter += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

#[allow(clippy::expect_used, reason = "both algorithms take keys of 32 bytes; nothing from outside enters")]
fn ring_key(suite: Suite, secret: &[u8; 32]) -> LessSafeKey {
    let algorithm: &'static Algorithm = match suite {
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Suite::Aes256Gcm => &AES_256_GCM,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, secret).expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_count_from_zero_and_each_key_follows_from_the_last() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let mut cipher = Cipher::new(suite, [7; 32]);
            let sealed = |cipher: &mut Cipher| {
                let mut bytes = *b"text";
                let tag = cipher.seal(b"header", &mut bytes).unwrap();
                [&bytes[..], &tag].concat()
            };
            // Sealed by the library alone, as docs/protocol.md has it.
            let expected = |secret: [u8; 32], counter: u64| {
                let nonce = [&[0; 4][..], &counter.to_be_bytes()].concat().try_into().unwrap();
                let mut bytes = b"text".to_vec();
                let nonce = Nonce::assume_unique_for_key(nonce);
                ring_key(suite, &secret)
                    .seal_in_place_append_tag(nonce, Aad::from(b"header"), &mut bytes)
                    .unwrap();
                bytes
            };
            let second = blake3::derive_key("tcpunch v1 next key", &[7; 32]);
            for counter in 0..RECORDS_PER_KEY {
                let bytes = sealed(&mut cipher);
                if [0, 1, RECORDS_PER_KEY - 1].contains(&counter) {
                    assert_eq!(bytes, expected([7; 32], counter), "{counter}");
                }
            }
            assert_eq!(sealed(&mut cipher), expected(second, 0));
            assert_eq!(sealed(&mut cipher), expected(second, 1));
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn the_processors_instructions_are_seen() {
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |flag| flags.split_whitespace().any(|other| other == flag);
        assert_eq!(has_fast_aes(), has("aes") && has("pclmulqdq"));
    }
}
