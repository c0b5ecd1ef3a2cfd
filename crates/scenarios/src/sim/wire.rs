//! The bytes on connections: as long as the real ones and in the same number of flights, without their cryptography.
//!
//! What the real ones seal is hidden here by a constant, so that a NAT which rewrites addresses finds none in it.

use natlab::sim::{Os, SocketId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{MAX_FRAME, MAX_RECORD};
use tcpunch_core::secure::{HEADER, OVERHEAD, Payload};
use tcpunch_core::wire::{Welcome, decode, encode};

/// Bytes of the tag that authenticates a sealed message.
const SEAL: usize = 16;
/// A key in the clear.
const KEY: usize = 32;
/// The first and the last part of Noise's messages `e`, `e, ee, s, es` and `s, se` without payload.
const HELLO: usize = KEY;
const ANSWER: usize = KEY + KEY + SEAL + SEAL;
const PROOF: usize = KEY + SEAL + SEAL;

const MASK: u8 = 0xa5;

/// What came in on a connection and was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Takes all that the socket has.
    pub(super) fn fill(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let more = os.read(socket);
        if self.is_empty() {
            self.bytes = more;
            self.taken = 0;
        } else {
            self.bytes.extend_from_slice(&more);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken >= self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Whatever is there.
    pub(super) fn take_all(&mut self) -> &[u8] {
        let taken = std::mem::replace(&mut self.taken, self.bytes.len());
        self.bytes.get(taken..).unwrap_or_default()
    }

    /// So many bytes, if they are all there.
    pub(super) fn take(&mut self, count: usize) -> Option<&[u8]> {
        let range = self.taken..self.taken.checked_add(count)?;
        let taken = self.bytes.get(range)?;
        self.taken += count;
        Some(taken)
    }

    /// So many bytes, if they are all there.
    pub(super) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// What a frame of a link holds, if all of it is there.
    ///
    /// # Errors
    /// It is longer than any.
    fn frame(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let Some(header) = self.rest().first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*header));
        if length > MAX_FRAME {
            return Err(Malformed);
        }
        Ok(self.take(2 + length).and_then(|frame| frame.get(2..)))
    }

    /// The next message on a link, if all of it is there.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Malformed> {
        let Some(frame) = self.frame()? else { return Ok(None) };
        let length = frame.len().checked_sub(SEAL).ok_or(Malformed)?;
        let plain = masked(frame.get(..length).unwrap_or_default());
        decode(&plain).map(Some).map_err(|_| Malformed)
    }

    /// The session key in a peer's first handshake message.
    pub(super) fn hello(&mut self) -> Result<Option<PublicKey>, Malformed> {
        let Some(frame) = self.frame()? else { return Ok(None) };
        frame.try_into().map(|key| Some(PublicKey(key))).map_err(|_| Malformed)
    }

    /// What the broker says in its handshake message, if that is there.
    pub(super) fn answer(&mut self) -> Result<Option<Welcome>, Malformed> {
        let Some(frame) = self.frame()? else { return Ok(None) };
        decode(&masked(frame.get(ANSWER..).ok_or(Malformed)?)).map(Some).map_err(|_| Malformed)
    }

    /// Whether the peer's second handshake message is there.
    pub(super) fn proof(&mut self) -> Result<bool, Malformed> {
        match self.frame()? {
            None => Ok(false),
            Some(frame) if frame.len() == PROOF => Ok(true),
            Some(_) => Err(Malformed),
        }
    }

    /// The next record between peers, if all of it is there.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn record(&mut self) -> Result<Option<Record>, Malformed> {
        let Some(header) = self.rest().first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if !(OVERHEAD - HEADER..=MAX_RECORD + OVERHEAD - HEADER).contains(&length) {
            return Err(Malformed);
        }
        let Some(record) = self.take(HEADER + length) else { return Ok(None) };
        let mut body = record.iter().skip(HEADER).map(|byte| byte ^ MASK);
        match (body.next(), body.next(), body.next()) {
            (Some(5), Some(nominates), Some(mapped)) => Ok(Some(Record::Confirm {
                nominates: nominates == 1,
                mapped: mapped == 1,
                birthday: body.next() == Some(1),
            })),
            (Some(6), ..) => Ok(Some(Record::Nominate)),
            (Some(7), ..) => Ok(Some(Record::Ack)),
            (Some(0), ..) => Ok(Some(Record::Data)),
            (Some(_) | None, ..) => Err(Malformed),
        }
    }
}

/// Bytes that nobody honest sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ MASK).collect()
}

fn framed(out: &mut Vec<u8>, body: impl IntoIterator<Item = u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    out.extend(body);
    let length = u16::try_from(out.len() - start - 2).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(header) = out.get_mut(start..start + 2) {
        header.copy_from_slice(&length);
    }
}

/// The peer's first handshake message, with its session key where the real one has a fresh key.
pub(super) fn hello(out: &mut Vec<u8>, key: &PublicKey) {
    framed(out, key.0.iter().copied().take(HELLO));
}

/// The broker's handshake message.
pub(super) fn answer(out: &mut Vec<u8>, welcome: &Welcome) {
    let said = encode(welcome).unwrap_or_default();
    framed(out, std::iter::repeat_n(MASK, ANSWER).chain(masked(&said)));
}

/// The peer's second handshake message.
pub(super) fn proof(out: &mut Vec<u8>) {
    framed(out, std::iter::repeat_n(MASK, PROOF));
}

/// A message on a link. One that is longer than allowed is left out, as the real ones are.
pub(super) fn message(out: &mut Vec<u8>, message: &impl Serialize) {
    if let Ok(bytes) = encode(message) {
        framed(out, bytes.iter().map(|byte| byte ^ MASK).chain(std::iter::repeat_n(MASK, SEAL)));
    }
}

/// A handshake message between peers: a fresh key, the sealed payload, a tag.
pub(super) fn handshake(payload: &Payload) -> Vec<u8> {
    let payload = payload.encode().unwrap_or_default();
    let mut message = vec![MASK; KEY];
    message.extend_from_slice(&payload);
    message.extend_from_slice(&[MASK; SEAL]);
    message
}

/// The payload of a [`handshake`] message.
///
/// # Errors
/// It is none.
pub(super) fn payload(message: &[u8]) -> Result<Payload, Malformed> {
    let end = message.len().checked_sub(SEAL).ok_or(Malformed)?;
    Payload::decode(message.get(KEY..end).ok_or(Malformed)?).map_err(|_| Malformed)
}

/// A record between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Confirm { nominates: bool, mapped: bool, birthday: bool },
    Nominate,
    Ack,
    Data,
}

impl Record {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let (kind, payload) = match self {
            Record::Confirm { nominates, mapped, birthday } => {
                (5, [nominates, mapped, birthday].map(u8::from).to_vec())
            }
            Record::Nominate => (6, vec![]),
            Record::Ack => (7, vec![]),
            Record::Data => (0, vec![]),
        };
        let length = OVERHEAD - HEADER + payload.len();
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        out.push(kind ^ MASK);
        out.extend(payload.iter().map(|byte| byte ^ MASK));
        out.extend_from_slice(&[MASK; SEAL]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpunch_core::secure::Told;
    use tcpunch_core::wire::{FromBroker, ToBroker};

    fn inbox(bytes: &[u8]) -> Inbox {
        Inbox { bytes: bytes.to_vec(), taken: 0 }
    }

    #[test]
    fn a_message_comes_back_and_is_as_long_as_a_sealed_one() {
        let said = ToBroker::Ping(77);
        let mut out = Vec::new();
        message(&mut out, &said);
        assert_eq!(out.len(), 2 + encode(&said).unwrap().len() + SEAL);
        assert_eq!(inbox(&out[..out.len() - 1]).message::<ToBroker>(), Ok(None), "not all is there");
        assert_eq!(inbox(&out).message(), Ok(Some(said)));
    }

    #[test]
    fn addresses_do_not_stand_in_the_clear() {
        let observed = "192.168.1.2:20001".parse().unwrap();
        let mut out = Vec::new();
        message(&mut out, &FromBroker::Observed { question: [7; 8], from: observed });
        assert!(!out.windows(4).any(|window| window == [192, 168, 1, 2]));
    }

    #[test]
    fn records_come_back_and_are_as_long_as_sealed_ones() {
        for (record, payload) in [
            (Record::Confirm { nominates: true, mapped: false, birthday: true }, 3),
            (Record::Confirm { nominates: false, mapped: true, birthday: false }, 3),
            (Record::Nominate, 0),
            (Record::Ack, 0),
            (Record::Data, 0),
        ] {
            let mut out = Vec::new();
            record.write(&mut out);
            assert_eq!(out.len(), OVERHEAD + payload);
            assert_eq!(inbox(&out).record(), Ok(Some(record)));
        }
        assert_eq!(inbox(&[0xff; 40]).record(), Err(Malformed));
    }

    #[test]
    fn a_handshake_message_carries_its_payload() {
        let hosts = vec!["10.0.0.1:20001".parse().unwrap()];
        let said = Payload { told: Told { hosts, mapped: None }, ..Payload::default() };
        assert_eq!(payload(&handshake(&said)), Ok(said));
        assert_eq!(payload(&[1; 20]), Err(Malformed));
    }
}
