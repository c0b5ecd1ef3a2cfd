//! What `--help` and the manual teach beside flags: examples, exit codes, environment.

use std::fmt::Write;

use crate::exit::CODES;

/// A line to type, and what it does.
pub(crate) struct Example {
    pub(crate) line: &'static str,
    pub(crate) does: &'static str,
}

const fn example(line: &'static str, does: &'static str) -> Example {
    Example { line, does }
}

/// The examples of each command; those of the whole program stand first.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "tcpunch",
        &[
            example("tcpunch demo", "see how it works, on this computer alone"),
            example("tcpunch broker", "on a computer that both sides can reach"),
            example("tcpunch chat --broker broker.example", "on two others: talk"),
            example("tcpunch listen --broker broker.example", "a pipe: prints a code for the other side"),
            example("tcpunch connect 412-canyon-oxygen@broker.example", "the other end of the pipe"),
            example(
                "tcpunch ping --broker broker.example",
                "prints a code; who pings with it learns the path",
            ),
            example(
                "tcpunch doctor --broker broker.example",
                "what the own network does, and what would help",
            ),
        ],
    ),
    ("demo", &[example("tcpunch demo", "needs no network and keeps nothing")]),
    (
        "broker",
        &[
            example("tcpunch broker", "for this network; prints what peers type"),
            example("tcpunch broker --public broker.example", "for peers elsewhere: codes then name it"),
            example("tcpunch broker --lobby off", "codes only, no open lobby"),
        ],
    ),
    (
        "chat",
        &[
            example("tcpunch chat", "the open lobby of the broker on this computer"),
            example("tcpunch chat --broker broker.example --name ann", "of another one, under a name"),
            example("tcpunch chat --new", "a private talk: prints a code"),
            example("tcpunch chat 412-canyon-oxygen@broker.example", "joins it"),
            example("uptime | tcpunch chat --name web1", "says a line and leaves"),
        ],
    ),
    (
        "listen",
        &[
            example("tar c photos | tcpunch listen", "sends a directory"),
            example("tcpunch listen > backup.tar", "receives a file"),
            example(
                "socat EXEC:'tcpunch listen' TCP:127.0.0.1:22",
                "offers this computer's ssh to one caller",
            ),
        ],
    ),
    (
        "connect",
        &[
            example("tcpunch connect", "asks for the code; Tab completes its words"),
            example("tcpunch connect 412-canyon-oxygen@broker.example | tar x", "receives a directory"),
            example("tcpunch connect --wait 60 412-canyon-oxygen", "waits for a code that is not there yet"),
            example(
                "ssh -o ProxyCommand='tcpunch -q connect 412-canyon-oxygen@broker.example' user@there",
                "ssh through two NATs",
            ),
        ],
    ),
    (
        "ping",
        &[
            example("tcpunch ping", "prints a code, and answers who pings with it"),
            example("tcpunch ping 412-canyon-oxygen@broker.example", "four round trips, and how it runs"),
            example("tcpunch ping -c 0 -i 0.2 412-canyon-oxygen", "five a second until Ctrl-C"),
        ],
    ),
    (
        "doctor",
        &[
            example(
                "tcpunch doctor --broker broker.example",
                "what this network does, and whom it lets through",
            ),
            example(
                "tcpunch doctor --stun stun.example --stun stun2.example",
                "without a broker, as far as that goes",
            ),
            example("tcpunch doctor --new", "prints a code, to try it with somebody"),
            example(
                "tcpunch doctor 412-canyon-oxygen@broker.example",
                "tries it: a path, or why there is none",
            ),
        ],
    ),
    (
        "completions",
        &[
            example("source <(tcpunch completions bash)", "in ~/.bashrc"),
            example("source <(tcpunch completions zsh)", "in ~/.zshrc, below compinit"),
            example("tcpunch completions fish | source", "in ~/.config/fish/config.fish"),
        ],
    ),
    (
        "man",
        &[
            example("tcpunch man | man -l -", "reads it"),
            example("tcpunch man --dir ~/.local/share/man/man1", "keeps it where man looks"),
        ],
    ),
];

/// What the environment changes.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("TCPUNCH_BROKER", "the broker, as --broker; several with commas between"),
    (
        "TCPUNCH_CODE",
        "the code, where the command line has none: others on this computer can't read it there",
    ),
    ("NO_COLOR", "no colour, if it is set and not empty"),
    ("XDG_STATE_HOME", "where the state directory is; ~/.local/state without it"),
];

/// The examples of a command.
pub(crate) fn examples(command: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[], |(_, examples)| examples)
}

/// What stands below the help of a command.
pub(crate) fn below(command: &str) -> String {
    let mut text = "Examples:".to_owned();
    for Example { line, does } in examples(command) {
        // Writing to memory does not fail.
        let _ = write!(text, "\n  {line}\n      {does}");
    }
    text
}

/// And below the long help of the whole program.
pub(crate) fn below_all() -> String {
    let mut text = below("tcpunch");
    text.push_str("\n\nExit codes:");
    for (code, meaning) in CODES {
        let _ = write!(text, "\n  {code:>3}  {meaning}");
    }
    text.push_str(
        "\n\n'tcpunch help COMMAND' tells all of one command, 'tcpunch man | man -l -' is the manual.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::{CommandFactory, Parser};

    /// The call of this program within a line for a shell.
    fn call(line: &str) -> Vec<String> {
        let begins = line.find("tcpunch").unwrap();
        let inner: String = match line.get(..begins).unwrap().chars().last() {
            Some(end @ ('\'' | '(')) => {
                let end = if end == '(' { ')' } else { end };
                line.get(begins..).unwrap().split(end).next().unwrap().to_owned()
            }
            _ => line.get(begins..).unwrap().split(['|', '>']).next().unwrap().to_owned(),
        };
        inner.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_example_is_understood() {
        let mut count = 0;
        for (command, examples) in EXAMPLES {
            for example in *examples {
                let words = call(example.line);
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{}: {}", example.line, parsed.err().unwrap());
                assert!(
                    *command == "tcpunch" || words.iter().any(|word| word == command),
                    "{}",
                    example.line
                );
                for who in words.iter().filter(|word| word.starts_with("412-")) {
                    assert!(who.parse::<tcpunch::Code>().is_ok(), "{who}");
                }
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(!examples(name).is_empty(), "{name}");
            let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(below.contains(examples(name)[0].line), "{name}: {below}");
        }
    }
}
