//! What can be typed; this file is the manual.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use tcpunch::{BadBroker, BrokerAddress, Portmap};

use crate::complete::code_in_shell;
use crate::help;

/// A direct, end-to-end encrypted TCP connection between two computers behind NATs.
///
/// Run `tcpunch broker` on a machine that both can reach, then `tcpunch chat` on each; or
/// `tcpunch listen` on one and, with the code that it prints, `tcpunch connect CODE` on the other.
/// After the introduction nothing passes through the broker.
#[derive(Parser)]
#[command(name = "tcpunch", version, max_term_width = 100,
          after_help = help::below("tcpunch"), after_long_help = help::below_all())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// See how it works: a broker and two peers, three real processes, in this terminal.
    #[command(after_help = help::below("demo"))]
    Demo,
    /// Run a broker, which introduces peers and never carries their data.
    #[command(after_help = help::below("broker"))]
    Broker(Broker),
    /// Talk: everyone in the broker's open lobby has a direct connection to everyone.
    #[command(after_help = help::below("chat"))]
    Chat(Chat),
    /// A pipe: print a code, wait, then standard input and output go to the other side.
    #[command(after_help = help::below("listen"))]
    Listen(Pipe),
    /// A pipe: connect to who listens, then standard input and output go to the other side.
    #[command(after_help = help::below("connect"))]
    Connect(Connect),
    /// Latency and path to who runs ping without a code; without one: print a code and answer.
    #[command(after_help = help::below("ping"))]
    Ping(Ping),
    /// How the own network behaves and whom it lets through; with a code: whether we two can connect.
    #[command(after_help = help::below("doctor"))]
    Doctor(Doctor),
    /// Print what a shell loads to complete commands, flags and words of codes with Tab.
    #[command(after_help = help::below("completions"))]
    Completions {
        /// Which shell.
        #[arg(value_parser = PossibleValuesParser::new(["bash", "elvish", "fish", "powershell", "zsh"]))]
        shell: String,
    },
    /// Print the manual page, or write one for each command.
    #[command(after_help = help::below("man"))]
    Man(Man),
}

#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The broker: HOST, HOST:PORT or HOST:PORT#KEY; several are tried together.
    #[arg(
        long,
        global = true,
        env = "TCPUNCH_BROKER",
        value_name = "BROKER",
        value_delimiter = ',',
        help_heading = "Options everywhere"
    )]
    pub(crate) broker: Vec<BrokerText>,
    /// Use this local port, for example one that a firewall lets in.
    #[arg(long, global = true, value_name = "PORT", help_heading = "Options everywhere",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) bind: Option<u16>,
    /// IPv4 only.
    #[arg(short = '4', global = true, conflicts_with = "ipv6", help_heading = "Options everywhere")]
    pub(crate) ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', global = true, help_heading = "Options everywhere")]
    pub(crate) ipv6: bool,
    /// Seconds for the broker, and for punching from the introduction on.
    #[arg(long, global = true, default_value = "15", value_parser = seconds, value_name = "SECONDS",
          help_heading = "Options everywhere")]
    pub(crate) timeout: Duration,
    /// Seconds to wait for the other person; without it, as long as a code lives.
    #[arg(long, global = true, value_parser = seconds, value_name = "SECONDS",
          help_heading = "Options everywhere")]
    pub(crate) wait: Option<Duration>,
    /// When the own router is asked to forward a port (UPnP, PCP, NAT-PMP): auto is when nothing else is likely to help.
    #[arg(long, global = true, default_value = "auto", value_parser = portmap(), value_name = "auto|on|off",
          help_heading = "Options everywhere")]
    pub(crate) portmap: Portmap,
    /// Seconds for which the router is asked at a time, for tests.
    #[arg(long, global = true, hide = true, default_value = "600", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) portmap_lease: Duration,
    /// One JSON object a line, for programs.
    #[arg(long, global = true, help_heading = "Options everywhere")]
    pub(crate) json: bool,
    /// Errors and the code only.
    #[arg(short, long, global = true, help_heading = "Options everywhere")]
    pub(crate) quiet: bool,
    /// Each step.
    #[arg(short, long, global = true, help_heading = "Options everywhere")]
    pub(crate) verbose: bool,
    /// Keep nothing on disk.
    #[arg(long, global = true, help_heading = "Options everywhere")]
    pub(crate) ephemeral: bool,
    /// Directory of keys and known brokers.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Options everywhere")]
    pub(crate) state: Option<PathBuf>,
    /// What others see in chat.
    #[arg(long, global = true, value_name = "NAME", help_heading = "Options everywhere")]
    pub(crate) name: Option<String>,
}

/// A broker as typed; parsed here so that clap says what is wrong with it.
#[derive(Clone)]
pub(crate) struct BrokerText(pub(crate) BrokerAddress);

impl std::str::FromStr for BrokerText {
    type Err = BadBroker;

    fn from_str(text: &str) -> Result<Self, BadBroker> {
        text.parse().map(BrokerText)
    }
}

#[derive(Args)]
pub(crate) struct Broker {
    /// Where to listen; [::] means every address of both families.
    #[arg(long, default_value = "[::]:7766", value_name = "ADDRESS", value_parser = listen)]
    pub(crate) listen: SocketAddr,
    /// A second address of this machine, from which peers learn more of their NATs; [::]:PORT: another
    /// port than 7767 beside --listen.
    #[arg(long, value_name = "ADDRESS", value_parser = probe)]
    pub(crate) probe: Vec<SocketAddr>,
    /// Where peers elsewhere reach this broker.
    #[arg(long, value_name = "HOST")]
    pub(crate) public: Vec<String>,
    /// Members of the open lobby, or 'off'.
    #[arg(long, default_value = "16", value_parser = lobby, value_name = "N|off")]
    pub(crate) lobby: usize,
    /// Show peers' addresses; without it, a keyed hash that changes daily.
    #[arg(long)]
    pub(crate) log_addresses: bool,
}

#[derive(Args)]
pub(crate) struct Chat {
    /// A code, for a private chat; without it, the broker's open lobby.
    #[arg(env = "TCPUNCH_CODE", hide_env_values = true, add = ArgValueCompleter::new(code_in_shell))]
    pub(crate) who: Option<String>,
    /// Print a code for a private chat.
    #[arg(long, conflicts_with = "who")]
    pub(crate) new: bool,
}

#[derive(Args)]
pub(crate) struct Pipe {
    /// On a terminal, show what comes as it is, control characters included.
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Args)]
pub(crate) struct Connect {
    /// The code that the other side printed; without it, asked for on the terminal.
    #[arg(env = "TCPUNCH_CODE", hide_env_values = true, add = ArgValueCompleter::new(code_in_shell))]
    pub(crate) who: Option<String>,
    #[command(flatten)]
    pub(crate) pipe: Pipe,
}

#[derive(Args)]
pub(crate) struct Ping {
    /// The code that the other side printed; without it, one is printed here.
    #[arg(env = "TCPUNCH_CODE", hide_env_values = true, add = ArgValueCompleter::new(code_in_shell))]
    pub(crate) who: Option<String>,
    /// How many pings; 0 for no end.
    #[arg(short, long, default_value_t = tcpunch_core::limits::PINGS, value_name = "N")]
    pub(crate) count: u64,
    /// Seconds from one ping to the next.
    #[arg(short, long, default_value = "1", value_parser = pause, value_name = "SECONDS")]
    pub(crate) interval: Duration,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// The code that the other side printed (tcpunch ping, or tcpunch doctor --new): whether the two of
    /// you can connect is tried.
    #[arg(env = "TCPUNCH_CODE", hide_env_values = true, add = ArgValueCompleter::new(code_in_shell))]
    pub(crate) who: Option<String>,
    /// Print a code for the other side, and wait for it.
    #[arg(long, conflicts_with = "who")]
    pub(crate) new: bool,
    /// Ask this STUN server over TCP (RFC 8489, port 3478 where none is said) as well; several at different
    /// addresses tell more. Where no broker is named, none is needed.
    #[arg(long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname)]
    pub(crate) stun: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Man {
    /// Write a page for the program and one for each command into this directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

fn portmap() -> impl TypedValueParser<Value = Portmap> {
    PossibleValuesParser::new(["auto", "on", "off"]).map(|text| match text.as_str() {
        "on" => Portmap::On,
        "off" => Portmap::Off,
        _ => Portmap::Auto,
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err("seconds, from 0.1 to 86400".to_owned()),
    }
}

fn pause(text: &str) -> Result<Duration, String> {
    let least = tcpunch_core::limits::PING_PAUSE_LEAST.as_secs_f64();
    match text.parse::<f64>() {
        Ok(seconds) if (least..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err(format!("seconds, from {least} to 3600")),
    }
}

fn lobby(text: &str) -> Result<usize, String> {
    let most = tcpunch_core::limits::LOBBY_MEMBERS_MOST;
    match text {
        "off" => Ok(0),
        number => match number.parse() {
            Ok(number) if (2..=most).contains(&number) => Ok(number),
            Ok(_) | Err(_) => Err(format!("'off', or a number from 2 to {most}")),
        },
    }
}

fn address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let ip = text.trim_start_matches('[').trim_end_matches(']');
    text.parse()
        .or_else(|_| ip.parse().map(|ip| SocketAddr::new(ip, port)))
        .map_err(|_| "an address, with or without a port, such as [::]:7766 or 192.168.1.5".to_owned())
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    address(text, tcpunch_core::limits::BROKER_PORT)
}

fn probe(text: &str) -> Result<SocketAddr, String> {
    address(text, tcpunch_core::limits::PROBE_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_have_default_ports() {
        assert_eq!(listen("127.0.0.1"), Ok("127.0.0.1:7766".parse().unwrap()));
        assert_eq!(listen("[::1]"), Ok("[::1]:7766".parse().unwrap()));
        assert_eq!(probe("::1"), Ok("[::1]:7767".parse().unwrap()));
        assert_eq!(listen("127.0.0.1:1"), Ok("127.0.0.1:1".parse().unwrap()));
        assert!(listen("localhost").is_err());
    }
}
