//! Keys and ciphers: bytes in, bytes out.
//!
//! The only place that names the libraries for Noise, SPAKE2 and the ciphers. Randomness comes
//! from the operating system here, because a handshake with a predictable key is worthless.

mod cipher;
mod handshake;
mod lane;
mod link;
mod pake;
mod record;
mod words;

pub use cipher::{Suite, has_fast_aes};
pub use handshake::{ChannelBinding, Features, Opening, Payload, PeerKeys, Told, respond};
pub use lane::{LaneKeys, PREAMBLE, SALT, TAG, Tag, parse_preamble, preamble, signal_keys, tags};
pub use link::{LinkHandshake, LinkOpener, LinkSealer, Pattern};
pub use pake::{CodeKey, Meeting, Pake, SHARE, Share};
pub use record::{HEADER, Kind, OVERHEAD, Opener, Sealer};
pub use words::{Commitment, Committed, Comparison, Nonce};

/// What a handshake or a sealed message can fail with. All of it is the other side's fault, or of
/// somebody between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    /// It does not have the form it must have.
    #[error("it is malformed")]
    Malformed,
    /// It was not made by who holds the key, or was changed, or replayed.
    #[error("it does not verify")]
    Forged,
    /// It is longer than what is allowed.
    #[error("it is too long")]
    TooLong,
}
