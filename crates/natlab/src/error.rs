use std::io;

use crate::availability::Unavailable;

/// What can go wrong while a lab is built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine or this user cannot run a lab at all.
    #[error("the lab can't run here: {0}")]
    Unavailable(#[from] Unavailable),
    /// `ip` or `nft` could not be started.
    #[error("can't run {program}: {source}")]
    Spawn {
        /// The program.
        program: &'static str,
        /// Why it did not start.
        source: io::Error,
    },
    /// `ip` or `nft` ran and refused.
    #[error("{program} failed: {message}")]
    Tool {
        /// The program.
        program: &'static str,
        /// What it wrote to its standard error.
        message: String,
    },
    /// A system call of the lab's own failed.
    #[error("can't {what}: {source}")]
    Io {
        /// What was to be done, as a verb phrase.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A tool answered something that the lab does not understand.
    #[error("can't read the answer of {program}: {message}")]
    Answer {
        /// The program.
        program: &'static str,
        /// What was not understood.
        message: String,
    },
    /// Names are 1 to 32 ASCII letters, digits or hyphens.
    #[error("{0:?} is no name for a node: use 1 to 32 ASCII letters, digits or hyphens")]
    Name(String),
    /// Two nodes of one lab can't have the same name.
    #[error("there is a node named {0:?} in this lab already")]
    NameTaken(String),
    /// The lab has no more addresses of a kind.
    #[error("the lab has no more {0}")]
    Exhausted(&'static str),
    /// IPv6 was asked for behind something that has none.
    #[error("{0:?} has no IPv6")]
    NoIpv6(String),
    /// A second public address was asked for on a node that is not a public host.
    #[error("{0:?} is not a public host")]
    NotPublic(String),
    /// A port was to be forwarded to a node that is not directly behind that gateway.
    #[error("{node:?} is not in the LAN of {gateway:?}")]
    NotInside {
        /// The target of the forward.
        node: String,
        /// The gateway that was to forward.
        gateway: String,
    },
    /// A number lies outside what the lab can do.
    #[error("{0}")]
    OutOfRange(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
