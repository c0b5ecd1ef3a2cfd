//! What can go wrong, and whose fault it is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use tcpunch_core::code::{Code, Verb};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::plan::Obstacle;
use tcpunch_core::sanitize::sanitize_line;

use crate::port::PortError;
use crate::portmap::{NoMapping, PortMapping};
use crate::store::StoreError;

/// Why a broker can't be used. The fault is the broker's, or the network's toward it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// Nothing answered; each address with what happened there.
    #[error("no broker answers:{}", listed(.0))]
    Unreachable(Vec<(String, String)>),
    /// Nothing can answer: no interface of this machine has an address.
    #[error(
        "this computer has no {family}network: no interface has an {family}address beside loopback{}",
        listed(.tried)
    )]
    NoNetwork {
        /// The family that was asked for, with a space behind; empty for both.
        family: &'static str,
        /// Each address with what happened there.
        tried: Vec<(String, String)>,
    },
    /// It proves another key than the one known for it.
    #[error(
        "the key of broker {name} has changed: it was {known}, it is {now}. Either it was set up \
         anew, or somebody else answers in its place. If you know that it was set up anew, {from}"
    )]
    KeyChanged {
        /// The broker as it was named.
        name: String,
        /// The key known for it.
        known: PublicKey,
        /// The key it has.
        now: PublicKey,
        /// Whence the first is known.
        from: KnownFrom,
    },
    /// It refuses this peer: too many came from its address, or it is full.
    #[error("the broker refuses: {0}")]
    Refuses(&'static str),
    /// A link stands, and what was asked is not answered in time.
    #[error("the broker does not answer")]
    Silent,
    /// The link is gone, and could not be made again in time.
    #[error("the link to the broker is lost")]
    Lost,
}

/// Whence the key of a broker is known. Its text says how to take the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownFrom {
    /// It stands in the address that was given.
    Given,
    /// It is kept in this file.
    File(PathBuf),
    /// It could not be kept: this process has seen it before.
    Process,
}

impl fmt::Display for KnownFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KnownFrom::Given => f.write_str("put the new key into the address that you gave, behind '#'"),
            KnownFrom::File(path) => write!(f, "remove its line from {}", path.display()),
            KnownFrom::Process => f.write_str("start this program again"),
        }
    }
}

fn listed(tried: &[(String, String)]) -> String {
    tried.iter().map(|(address, what)| format!("\n  {address}: {}", sanitize_line(what, 200))).collect()
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The local port; the caller's side.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The state directory; the caller's side.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why two peers are not connected.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The broker's fault, or the network's toward it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No code has this number: mistyped, expired, used or burnt.
    #[error("nobody waits under {0}: the number is mistyped, or its code has expired or was used")]
    NoSuchCode(u32),
    /// The other side runs something else.
    #[error("the other side runs {}; type: tcpunch {} {code}", verb.command(), verb.partner().command())]
    OtherVerb {
        /// What it runs.
        verb: Verb,
        /// The code, which is as good as before.
        code: Box<Code>,
    },
    /// The words are wrong; so many guesses are left.
    #[error("wrong words{}", left(*.0))]
    WrongWords(u8),
    /// The code was burnt by wrong guesses.
    #[error("the code is burnt: wrong words were tried too often")]
    Burnt,
    /// The peer did not come in time.
    #[error("nobody came in time")]
    NobodyCame,
    /// The peer did not answer in time.
    #[error("the other side does not answer")]
    NoAnswer,
    /// Both are there, and no direct path was found: the path's fault.
    #[error("{0}")]
    NoDirectPath(Box<Obstacle>),
    /// The lobby is full, or there is none.
    #[error("{0}")]
    Lobby(&'static str),
}

fn left(left: u8) -> String {
    match left {
        0 => "; the code is burnt".to_owned(),
        1 => "; one more guess, then the code is burnt".to_owned(),
        left => format!("; {left} more guesses, then the code is burnt"),
    }
}

/// What an endpoint tells while it works; for progress, logs and demonstrations.
#[derive(Debug, Clone)]
pub enum Event {
    /// A link to a broker stands.
    Registered {
        /// The broker's address.
        broker: SocketAddr,
        /// Its key.
        key: PublicKey,
        /// Own end of the link.
        local: SocketAddr,
        /// Own address as the broker sees it.
        observed: SocketAddr,
    },
    /// The last link to the broker is lost; it is being made again.
    LinkLost,
    /// The broker's key could not be kept: next time any broker at its address is as good. Why, in words.
    KeyNotKept(String),
    /// Something was wrong with what is kept between runs, and was put right; in words.
    Noticed(String),
    /// Somebody guessed the words of a code wrong.
    WrongGuess {
        /// Guesses left.
        left: u8,
    },
    /// The broker introduced a peer.
    Introduced {
        /// Its session key.
        peer: PublicKey,
        /// Where the broker saw it.
        addresses: Vec<SocketAddr>,
    },
    /// A SYN leaves.
    Fired {
        /// Toward whom.
        peer: PublicKey,
        /// From which port.
        port: u16,
        /// Whereto.
        remote: SocketAddr,
    },
    /// The own router forwards a port, or why it does not.
    PortMapping(Result<PortMapping, NoMapping>),
    /// The own network is known better.
    Profile(tcpunch_core::profile::NatProfile),
    /// All that this broker can tell of the own network is known.
    Surveyed,
}
