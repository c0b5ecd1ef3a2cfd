//! Protocols on top of a connection: no terminal, no command line.

pub mod chat;
pub mod ping;
pub mod pipe;
