//! What decides in tcpunch, without clock, socket or disk.
//!
//! Everything here takes the time and the randomness as arguments and returns what is to be done,
//! so that all of it runs in virtual time under a test.

pub mod candidate;
pub mod code;
pub mod identity;
pub mod limits;
pub mod plan;
pub mod profile;
pub mod prospect;
pub mod puncher;
pub mod rendezvous;
pub mod sanitize;
pub mod secure;
pub mod stun;
pub mod survey;
pub mod wire;
