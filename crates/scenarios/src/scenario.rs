use std::time::Duration;

use natlab::Attachment;
use natlab::nat::Behaviour;
use tcpunch_core::plan::Path;

/// What a peer sits behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// For the table.
    pub name: String,
    /// NATs and firewalls for IPv4, the one next to the core first; none for a public host.
    pub layers: Vec<Behaviour>,
    /// The firewall for IPv6 at the innermost gateway (outer ones let everything pass); `None` for no IPv6 at all.
    pub ipv6: Option<Behaviour>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// What it sits behind.
    pub network: Network,
    /// The cable between its network's outermost gateway, or itself, and the core. LANs are perfect.
    pub cable: Attachment,
    /// How much later than the broker meant it hears Go: the injected skew.
    pub late: Duration,
}

/// Where the two and the broker are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrangement {
    /// Each in its own network, the broker on the core.
    Apart,
    /// Both in the first side's network.
    Together,
    /// The broker in the first side's innermost LAN, behind a port that every layer forwards.
    BrokerInside,
}

/// Two who want to meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Who waits with a code (`listen`), and who comes with it (`connect`).
    pub sides: [Side; 2],
    /// The broker's cable to the core.
    pub broker: Attachment,
    /// Where they are.
    pub arrangement: Arrangement,
    /// How long the two may take from the introduction.
    pub timeout: Duration,
    /// What is random comes from here: losses, ports of NATs, and in the simulation also what the peers draw.
    pub seed: u64,
}

/// How it ended for one side.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An authenticated connection.
    Connected {
        /// How it runs.
        path: Path,
        /// From the introduction on this side.
        elapsed: Duration,
    },
    /// None.
    NoPath {
        /// What is told to the user.
        reason: String,
        /// From the introduction on this side.
        elapsed: Duration,
    },
    /// The two were not even introduced, or the program failed.
    Broken(
        /// What happened instead.
        String,
    ),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// For each side.
    pub sides: [Outcome; 2],
    /// From the moment the arriver writes its claim on a registered link until the later side is connected, where both are.
    pub since_claim: Option<Duration>,
    /// First SYNs of each side toward others than the broker, as the lab counted them.
    pub syns: [u64; 2],
    /// The same with repetitions by the kernel.
    pub wire_syns: [u64; 2],
}

/// The outcome for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Both have the connection.
    Connected,
    /// Both say that there is none.
    NoPath,
    /// One has a connection and the other none, or something broke: a bug.
    Wrong,
}

impl Report {
    /// The outcome for both.
    pub fn verdict(&self) -> Verdict {
        match &self.sides {
            [Outcome::Connected { .. }, Outcome::Connected { .. }] => Verdict::Connected,
            [Outcome::NoPath { .. }, Outcome::NoPath { .. }] => Verdict::NoPath,
            _ => Verdict::Wrong,
        }
    }

    /// From the introduction until the later of both had the connection.
    pub fn elapsed(&self) -> Option<Duration> {
        match &self.sides {
            [Outcome::Connected { elapsed: one, .. }, Outcome::Connected { elapsed: other, .. }] => {
                Some(*one.max(other))
            }
            _ => None,
        }
    }

    /// From the introduction until the later of both was told that there is no path.
    pub fn told_after(&self) -> Option<Duration> {
        match &self.sides {
            [Outcome::NoPath { elapsed: one, .. }, Outcome::NoPath { elapsed: other, .. }] => {
                Some(*one.max(other))
            }
            _ => None,
        }
    }
}
