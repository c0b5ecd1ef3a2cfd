//! How a command ends: what it says, and its exit code.

use tcpunch::{BindError, BrokerError, ConnectError, Obstacle, PortError};

/// Exit codes, as the contract with users fixes them.
pub(crate) mod code {
    pub(crate) const OK: u8 = 0;
    pub(crate) const INTERNAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const BROKER: u8 = 3;
    pub(crate) const NOBODY: u8 = 4;
    pub(crate) const WRONG_WORDS: u8 = 5;
    pub(crate) const NO_PATH: u8 = 6;
    pub(crate) const REFUSED: u8 = 7;
    pub(crate) const LOST: u8 = 8;
    pub(crate) const LOCAL: u8 = 9;
    pub(crate) const PARTLY: u8 = 10;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Exit codes and what they mean, for help and manual.
pub(crate) const CODES: &[(u8, &str)] = &[
    (code::OK, "all went well; a broker: also when it was told to end"),
    (code::INTERNAL, "a bug in tcpunch"),
    (code::USAGE, "a mistake on the command line"),
    (code::BROKER, "no broker: unreachable, full, or its key changed"),
    (code::NOBODY, "nobody there: unknown, expired or used code, or nobody came"),
    (code::WRONG_WORDS, "wrong words"),
    (code::NO_PATH, "no direct path"),
    (code::REFUSED, "the other side or the broker said no, or runs another command"),
    (code::LOST, "the connection was lost"),
    (
        code::LOCAL,
        "this computer: a port is taken, output closed, no place for keys, input that can't be read",
    ),
    (code::PARTLY, "partly done: some in the lobby have heard everything, others have not"),
    (code::INTERRUPTED, "Ctrl-C"),
];

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) kind: &'static str,
    pub(crate) exit: u8,
    /// For people.
    pub(crate) message: String,
    /// What would help.
    pub(crate) hint: Option<String>,
    /// What is in the way, where there is no direct path.
    pub(crate) obstacle: Option<Box<Obstacle>>,
}

impl Failure {
    pub(crate) fn new(kind: &'static str, exit: u8, message: impl std::fmt::Display) -> Self {
        Failure { kind, exit, message: message.to_string(), hint: None, obstacle: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Failure::new("internal", code::INTERNAL, error)
    }

    pub(crate) fn local(error: impl std::fmt::Display) -> Self {
        Failure::new("local", code::LOCAL, error)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Port(error) => {
                let hint = match &error {
                    PortError::Taken(port) => format!(
                        "choose another port with --bind, or none; who has it is told by: ss -ltnp 'sport = :{port}'"
                    ),
                    PortError::Io(..) | PortError::NoneFree => {
                        "choose another port with --bind, or none".to_owned()
                    }
                };
                Failure::new("port", code::LOCAL, error).hint(hint)
            }
            BindError::Broker(error) => error.into(),
            BindError::Store(error) => Failure::local(error),
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        match &error {
            BrokerError::Unreachable(_) => Failure::new("broker", code::BROKER, &error)
                .hint("start one with: tcpunch broker, or name another with --broker HOST"),
            BrokerError::NoNetwork { family, .. } => {
                let hint = match *family {
                    "" => "connect it to a network, or run a broker on it for this computer alone",
                    _ => "leave out -4 and -6 to use whatever it has",
                };
                Failure::new("no-network", code::BROKER, &error).hint(hint)
            }
            BrokerError::KeyChanged { .. } => Failure::new("broker-key", code::BROKER, &error),
            BrokerError::Refuses(_) | BrokerError::Silent | BrokerError::Lost => {
                Failure::new("broker", code::BROKER, &error)
            }
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Broker(broker) => broker.clone().into(),
            ConnectError::NoSuchCode(_) => Failure::new("no-such-code", code::NOBODY, &error)
                .hint("ask the other side for a fresh code; the number is the one they see"),
            ConnectError::NobodyCame => Failure::new("nobody", code::NOBODY, &error),
            ConnectError::NoAnswer => Failure::new("no-answer", code::NOBODY, &error),
            ConnectError::OtherVerb { .. } => Failure::new("other-verb", code::REFUSED, &error),
            ConnectError::WrongWords(0) => Failure::new("wrong-words", code::WRONG_WORDS, &error)
                .hint("ask the other side for a fresh code"),
            ConnectError::WrongWords(_) => Failure::new("wrong-words", code::WRONG_WORDS, &error)
                .hint("compare the words with what the other side sees"),
            ConnectError::Burnt => {
                Failure::new("burnt", code::WRONG_WORDS, &error).hint("start again for a fresh code")
            }
            ConnectError::NoDirectPath(obstacle) => {
                let failure = Failure::new("no-direct-path", code::NO_PATH, &error).hint(obstacle.remedy());
                Failure { obstacle: Some(obstacle.clone()), ..failure }
            }
            ConnectError::Lobby(_) => Failure::new("lobby", code::REFUSED, &error),
        }
    }
}
