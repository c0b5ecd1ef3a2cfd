//! Records between two peers: what the bytes of a connection are.
//!
//! A record is a length (four bytes, big-endian, of what follows) and a sealed body: one byte of
//! kind, the payload, and a tag of 16 bytes. The length is authenticated with the body.

use super::SecureError;
use super::cipher::{Cipher, Suite, TAG_LEN};
use crate::limits::MAX_RECORD;

/// Bytes before the sealed body.
pub const HEADER: usize = 4;
/// Bytes that a record adds to its payload.
pub const OVERHEAD: usize = HEADER + 1 + TAG_LEN;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of the application, under credit.
    Data,
    /// No more data will come in this direction. Its absence at the end of the stream is
    /// truncation.
    End,
    /// The receiver took so many bytes: four bytes, big-endian, added to what may be sent.
    Credit,
    /// Is anybody there? Eight bytes that the answer repeats.
    Ping,
    /// Answers a ping.
    Pong,
    /// First record in each direction: this lane is authentic. One byte: 1 nominates it.
    Confirm,
    /// The controlling side chooses this lane after all.
    Nominate,
    /// The other side's first record has arrived and verified.
    Ack,
    /// The last record of this direction: once the other side has sent its own, bytes follow that are neither
    /// encrypted nor authenticated.
    Unencrypted,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::End => 1,
            Kind::Credit => 2,
            Kind::Ping => 3,
            Kind::Pong => 4,
            Kind::Confirm => 5,
            Kind::Nominate => 6,
            Kind::Ack => 7,
            Kind::Unencrypted => 8,
        }
    }

    fn read(code: u8) -> Result<Self, SecureError> {
        Ok(match code {
            0 => Kind::Data,
            1 => Kind::End,
            2 => Kind::Credit,
            3 => Kind::Ping,
            4 => Kind::Pong,
            5 => Kind::Confirm,
            6 => Kind::Nominate,
            7 => Kind::Ack,
            8 => Kind::Unencrypted,
            _ => return Err(SecureError::Malformed),
        })
    }
}

/// Seals records of one direction.
pub struct Sealer(Cipher);

impl Sealer {
    /// Begins with this key; it must have been used for nothing else.
    pub fn new(suite: Suite, key: [u8; 32]) -> Self {
        Sealer(Cipher::new(suite, key))
    }

    /// Appends a record to `out`.
    ///
    /// # Errors
    ///
    /// The payload is longer than [`MAX_RECORD`].
    pub fn seal(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        if payload.len() > MAX_RECORD {
            return Err(SecureError::TooLong);
        }
        let length = payload.len() + 1 + TAG_LEN;
        let header = u32::try_from(length).map_err(|_| SecureError::TooLong)?.to_be_bytes();
        out.reserve(HEADER + length);
        out.extend_from_slice(&header);
        let start = out.len();
        out.push(kind.code());
        out.extend_from_slice(payload);
        let body = out.get_mut(start..).ok_or(SecureError::Malformed)?;
        let tag = self.0.seal(&header, body)?;
        out.extend_from_slice(&tag);
        Ok(())
    }
}

/// Opens records of one direction, in order.
pub struct Opener(Cipher);

impl Opener {
    /// Begins with the key that the other side's [`Sealer`] has.
    pub fn new(suite: Suite, key: [u8; 32]) -> Self {
        Opener(Cipher::new(suite, key))
    }

    /// The length of the body that follows this header.
    ///
    /// # Errors
    ///
    /// No record can have this length; checked before anything is allocated for it.
    pub fn body_length(header: [u8; HEADER]) -> Result<usize, SecureError> {
        let length = u32::from_be_bytes(header) as usize;
        if length < 1 + TAG_LEN {
            return Err(SecureError::Malformed);
        }
        if length > MAX_RECORD + 1 + TAG_LEN {
            return Err(SecureError::TooLong);
        }
        Ok(length)
    }

    /// Opens a body in place; the payload begins at the second byte of `body`.
    ///
    /// # Errors
    ///
    /// It does not verify, or its kind is unknown.
    pub fn open<'a>(
        &mut self,
        header: [u8; HEADER],
        body: &'a mut [u8],
    ) -> Result<(Kind, &'a mut [u8]), SecureError> {
        let plain = self.0.open(&header, body)?;
        let (kind, payload) = plain.split_first_mut().ok_or(SecureError::Malformed)?;
        Ok((Kind::read(*kind)?, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECORDS_PER_KEY;
    use proptest::prelude::*;

    fn pair(suite: Suite) -> (Sealer, Opener) {
        (Sealer::new(suite, [7; 32]), Opener::new(suite, [7; 32]))
    }

    fn open_one(opener: &mut Opener, bytes: &mut [u8]) -> Result<(Kind, Vec<u8>), SecureError> {
        let header = bytes[..HEADER].try_into().unwrap();
        let length = Opener::body_length(header)?;
        let (kind, payload) = opener.open(header, &mut bytes[HEADER..HEADER + length])?;
        Ok((kind, payload.to_vec()))
    }

    #[test]
    fn records_come_back_across_key_changes() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let (mut sealer, mut opener) = pair(suite);
            let mut out = Vec::new();
            for number in 0..RECORDS_PER_KEY * 2 + 3 {
                out.clear();
                sealer.seal(Kind::Ping, &number.to_be_bytes(), &mut out).unwrap();
                let (kind, payload) = open_one(&mut opener, &mut out).unwrap();
                assert_eq!((kind, payload), (Kind::Ping, number.to_be_bytes().to_vec()));
            }
        }
    }

    #[test]
    fn replay_reordering_and_change_are_refused() {
        let (mut sealer, _) = pair(Suite::Aes256Gcm);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        sealer.seal(Kind::Data, b"one", &mut first).unwrap();
        sealer.seal(Kind::Data, b"two", &mut second).unwrap();
        let (_, mut opener) = pair(Suite::Aes256Gcm);
        assert_eq!(open_one(&mut opener, &mut second.clone()), Err(SecureError::Forged));
        let (_, mut opener) = pair(Suite::Aes256Gcm);
        open_one(&mut opener, &mut first.clone()).unwrap();
        assert_eq!(open_one(&mut opener, &mut first.clone()), Err(SecureError::Forged));
        for at in HEADER..first.len() {
            let (_, mut opener) = pair(Suite::Aes256Gcm);
            let mut changed = first.clone();
            changed[at] ^= 1;
            assert_eq!(open_one(&mut opener, &mut changed), Err(SecureError::Forged), "byte {at}");
        }
    }

    #[test]
    fn unknown_kinds_and_empty_bodies_are_refused() {
        for kind in 9..=u8::MAX {
            let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305);
            let header = (2 + TAG_LEN as u32).to_be_bytes();
            let mut body = vec![kind, 0];
            let tag = sealer.0.seal(&header, &mut body).unwrap();
            body.extend(tag);
            assert_eq!(opener.open(header, &mut body).err(), Some(SecureError::Malformed), "{kind}");
        }
        let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305);
        let header = (TAG_LEN as u32).to_be_bytes();
        let mut tag = sealer.0.seal(&header, &mut []).unwrap();
        assert_eq!(opener.open(header, &mut tag).err(), Some(SecureError::Malformed));
    }

    #[test]
    fn lengths_are_checked_before_anything_else() {
        assert_eq!(Opener::body_length(0u32.to_be_bytes()), Err(SecureError::Malformed));
        assert_eq!(Opener::body_length(16u32.to_be_bytes()), Err(SecureError::Malformed));
        assert_eq!(Opener::body_length(u32::MAX.to_be_bytes()), Err(SecureError::TooLong));
        assert_eq!(Opener::body_length(65_554u32.to_be_bytes()), Err(SecureError::TooLong));
        assert_eq!(Opener::body_length(65_553u32.to_be_bytes()), Ok(65_553));
        let (mut sealer, _) = pair(Suite::Aes256Gcm);
        assert_eq!(
            sealer.seal(Kind::Data, &vec![0; MAX_RECORD + 1], &mut Vec::new()),
            Err(SecureError::TooLong)
        );
    }

    #[test]
    fn every_kind_comes_back_and_no_other_is_taken() {
        let kinds = [
            Kind::Data,
            Kind::End,
            Kind::Credit,
            Kind::Ping,
            Kind::Pong,
            Kind::Confirm,
            Kind::Nominate,
            Kind::Ack,
            Kind::Unencrypted,
        ];
        let (mut sealer, mut opener) = pair(Suite::Aes256Gcm);
        for (code, kind) in kinds.into_iter().enumerate() {
            let mut record = Vec::new();
            sealer.seal(kind, b"text", &mut record).unwrap();
            assert_eq!(open_one(&mut opener, &mut record), Ok((kind, b"text".to_vec())));
            assert_eq!(usize::from(kind.code()), code, "as docs/protocol.md has it");
        }
        for code in 9..=255 {
            let (header, mut body) = ([0, 0, 0, 17], [code]);
            let tag = Cipher::new(Suite::Aes256Gcm, [9; 32]).seal(&header, &mut body).unwrap();
            let mut body = [&body[..], &tag].concat();
            let opened = Opener::new(Suite::Aes256Gcm, [9; 32]).open(header, &mut body).map(|_| ());
            assert_eq!(opened, Err(SecureError::Malformed), "{code}");
        }
    }

    #[test]
    fn the_longest_and_the_shortest_payload_come_back() {
        let (mut sealer, mut opener) = pair(Suite::Aes256Gcm);
        for length in [0, MAX_RECORD] {
            let (payload, mut record) = (vec![1; length], Vec::new());
            sealer.seal(Kind::Data, &payload, &mut record).unwrap();
            assert_eq!(open_one(&mut opener, &mut record), Ok((Kind::Data, payload)));
        }
    }

    proptest! {
        #[test]
        fn every_payload_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305);
            let mut out = Vec::new();
            sealer.seal(Kind::Data, &payload, &mut out).unwrap();
            prop_assert_eq!(out.len(), payload.len() + OVERHEAD);
            prop_assert_eq!(open_one(&mut opener, &mut out).unwrap(), (Kind::Data, payload));
        }
    }
}
