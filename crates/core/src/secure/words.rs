//! Two words for people to compare, over a channel that is encrypted and not authenticated.
//!
//! The two ends of one channel get the same words. Who sits in the middle has two channels, and gets
//! the same words on both by chance only, one in 2^22 a try: each side commits to a random number
//! before it knows the other's, so that nobody can search for a number that fits. The same idea is
//! the short authentication string of ZRTP (RFC 6189, section 4.4.1.1) and of Vaudenay, "Secure
//! Communications over Insecure Channels Based on Short Authenticated Strings" (CRYPTO 2005).

use blake3::Hasher;
use rand::CryptoRng;

use super::SecureError;
use super::handshake::ChannelBinding;
use crate::code::word;
use crate::identity::PublicKey;

/// The number that one side adds to the words.
pub type Nonce = [u8; 32];
/// A hash that fixes a [`Nonce`] and does not tell it.
pub type Commitment = [u8; 32];

/// A comparison in which the own side has chosen its number, and nobody else knows it.
pub struct Comparison {
    binding: ChannelBinding,
    own: PublicKey,
    peer: PublicKey,
    nonce: Nonce,
}

/// A comparison in which the other side can't choose its number any more.
pub struct Committed {
    comparison: Comparison,
    commitment: Commitment,
}

impl Comparison {
    /// Between these two session keys, over the channel with that binding.
    pub fn new(
        binding: &ChannelBinding,
        own: &PublicKey,
        peer: &PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let mut nonce = Nonce::default();
        rng.fill_bytes(&mut nonce);
        Comparison { binding: *binding, own: *own, peer: *peer, nonce }
    }

    /// What to tell first.
    pub fn commitment(&self) -> Commitment {
        commit(&self.binding, &self.own, &self.nonce)
    }

    /// Takes the other side's commitment, and only then gives away the own number.
    pub fn committed(self, commitment: Commitment) -> (Committed, Nonce) {
        let nonce = self.nonce;
        (Committed { comparison: self, commitment }, nonce)
    }
}

impl Committed {
    /// The words, from the number that the other side told.
    ///
    /// # Errors
    ///
    /// [`SecureError::Forged`] where it is not the number that it had committed to.
    pub fn words(&self, theirs: &Nonce) -> Result<String, SecureError> {
        let Comparison { binding, own, peer, nonce } = &self.comparison;
        if commit(binding, peer, theirs) != self.commitment {
            return Err(SecureError::Forged);
        }
        // One order for both sides: by session key.
        let (first, second) = if own < peer { (nonce, theirs) } else { (theirs, nonce) };
        let mut hasher = Hasher::new_derive_key("tcpunch v1 comparison words");
        let hash = *hasher.update(binding).update(first).update(second).finalize().as_bytes();
        let [a, b, c, d, ..] = hash;
        Ok(format!("{} {}", word(u16::from_be_bytes([a, b])), word(u16::from_be_bytes([c, d]))))
    }
}

/// Names its maker, so that a commitment can't be sent back to who made it, and the channel, so that
/// it is worth nothing on another.
fn commit(binding: &ChannelBinding, by: &PublicKey, nonce: &Nonce) -> Commitment {
    let mut hasher = Hasher::new_derive_key("tcpunch v1 comparison commitment");
    *hasher.update(binding).update(&by.0).update(nonce).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);

    fn side(binding: u8, own: &PublicKey, peer: &PublicKey, seed: u64) -> Comparison {
        Comparison::new(&[binding; 32], own, peer, &mut rand_chacha::ChaCha20Rng::seed_from_u64(seed))
    }

    /// What each side makes of it.
    fn compare(
        one: Comparison,
        two: Comparison,
    ) -> (Result<String, SecureError>, Result<String, SecureError>) {
        let (first, second) = (one.commitment(), two.commitment());
        let (one, told_by_one) = one.committed(second);
        let (two, told_by_two) = two.committed(first);
        (one.words(&told_by_two), two.words(&told_by_one))
    }

    #[test]
    fn both_ends_of_a_channel_get_the_same_words() {
        let (one, two) = compare(side(7, &A, &B, 1), side(7, &B, &A, 2));
        assert_eq!(one, two);
        assert_eq!(one.unwrap().split(' ').count(), 2);
    }

    #[test]
    fn words_depend_on_both_numbers_and_on_the_channel() {
        let words = |binding, one, two| compare(side(binding, &A, &B, one), side(binding, &B, &A, two)).0;
        let all = [words(7, 1, 2), words(7, 1, 3), words(7, 4, 2), words(8, 1, 2)];
        for (at, one) in all.iter().enumerate() {
            assert!(one.is_ok() && !all[at + 1..].contains(one), "{all:?}");
        }
    }

    /// What is passed on unchanged between two channels does not even open.
    #[test]
    fn a_commitment_holds_for_one_channel_and_one_maker() {
        let (one, two) = compare(side(7, &A, &B, 1), side(8, &B, &A, 2));
        assert_eq!((one, two), (Err(SecureError::Forged), Err(SecureError::Forged)));
        let own = side(7, &A, &B, 1);
        let reflected = own.commitment();
        let (own, nonce) = own.committed(reflected);
        assert_eq!(own.words(&nonce), Err(SecureError::Forged));
    }

    #[test]
    fn another_number_than_the_committed_one_is_refused() {
        let other = side(7, &B, &A, 2);
        let (own, _) = side(7, &A, &B, 1).committed(other.commitment());
        let mut nonce = other.nonce;
        assert!(own.words(&nonce).is_ok());
        nonce[31] ^= 1;
        assert_eq!(own.words(&nonce), Err(SecureError::Forged));
    }
}
