//! What the user of a chat types, from a line editor, a plain terminal or a pipe.

use std::io::{self, BufRead, IsTerminal, Read};
use std::sync::Arc;
use std::time::Duration;

use tcpunch_apps::chat::Input;
use tcpunch_core::limits::MAX_LINE;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::complete;
use crate::exit::{Failure, code};
use crate::modes;
use crate::people::People;
use crate::screen::Typed;
use crate::term::Talk;

const COMMANDS: [&str; 4] = ["/help", "/path ", "/peers", "/quit"];
const HELP: &str = "\
/peers        who is here
/path [NAME]  how the connections run
/quit         leave
//text        say /text
Tab completes names and commands; Ctrl-D leaves as well";

/// What was typed so far and not taken. A pipe waits until there is room. A line editor never waits:
/// it has to show what others say, and how much a person types is no danger.
enum Source {
    Pipe(mpsc::Receiver<io::Result<String>>),
    Editor(mpsc::UnboundedReceiver<Typed>),
}

impl Source {
    async fn next(&mut self) -> io::Result<Typed> {
        let typed = match self {
            Source::Pipe(lines) => lines.recv().await.transpose()?.map(Typed::Line),
            Source::Editor(lines) => lines.recv().await,
        };
        Ok(typed.unwrap_or(Typed::End))
    }
}

/// How the user left, if not by ending the input.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Left {
    Not,
    Quit,
    Interrupted,
    /// The input failed, and how.
    Unreadable(String),
}

/// The lines for a chat, and how the user leaves it.
pub(crate) struct Lines {
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) left: watch::Receiver<Left>,
}

/// Begins to read what is typed.
pub(crate) fn lines(own_name: &str, people: &People, talk: &Talk) -> Result<Lines, Failure> {
    // Before anybody is told of it: a signal that comes earlier ends the process at once.
    let interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let (leave, left) = watch::channel(Left::Not);
    let (forward, inputs) = mpsc::channel(64);
    let terminal = std::io::stdin().is_terminal() && !talk.is_json();
    let source = source(terminal, people, talk);
    let (own_name, people, talk) = (own_name.to_owned(), people.clone(), talk.clone());
    let desk = Desk { own_name, people, talk, terminal, leave };
    tokio::spawn(desk.serve(source, interrupt, forward));
    Ok(Lines { inputs, left })
}

fn source(terminal: bool, people: &People, talk: &Talk) -> Source {
    if terminal && (std::io::stdout().is_terminal() || std::io::stderr().is_terminal()) {
        let (typed, lines) = mpsc::unbounded_channel();
        let people = people.clone();
        let complete = Arc::new(move |before: &str| complete::chat(before, &people.names(), &COMMANDS));
        if talk.screen().edit(complete, move |what| {
            // Nobody reads any more when the chat is over.
            let _ = typed.send(what);
        }) {
            return Source::Editor(lines);
        }
    }
    let (typed, lines) = mpsc::channel(64);
    // A thread, because a read of a terminal can't be cancelled.
    std::thread::spawn(move || {
        read_plain(io::stdin().lock(), |line| typed.blocking_send(line).is_ok());
    });
    Source::Pipe(lines)
}

/// Reads lines to the end, or to an error, while they are taken. What is no UTF-8 is replaced, and what is too long for one
/// line becomes several.
fn read_plain(mut input: impl BufRead, mut take: impl FnMut(io::Result<String>) -> bool) {
    let mut line = Vec::new();
    loop {
        let room = MAX_LINE.saturating_sub(line.len());
        let read = input.by_ref().take(room as u64).read_until(b'\n', &mut line);
        let rest = if line.ends_with(b"\n") {
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
            Vec::new()
        } else if line.len() >= MAX_LINE {
            line.split_off(line.len() - unfinished(&line))
        } else {
            // The end, or an error.
            if !line.is_empty() && !take(Ok(String::from_utf8_lossy(&line).into_owned())) {
                return;
            }
            if let Err(error) = read {
                take(Err(error));
            }
            return;
        };
        if !line.is_empty() && !take(Ok(String::from_utf8_lossy(&line).into_owned())) {
            return;
        }
        line = rest;
    }
}

/// How many bytes at the end begin a character that goes on.
fn unfinished(bytes: &[u8]) -> usize {
    let end = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let goes_on = std::str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
    if goes_on { end.len() } else { 0 }
}

/// A line as so many as it takes: no more of it is said at a time.
fn pieces(input: Input) -> Vec<Input> {
    let mut inputs = vec![input];
    while let Some(Input::Line(line)) = inputs.last_mut()
        && line.len() > MAX_LINE
    {
        let at = (0..=MAX_LINE).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(MAX_LINE);
        let rest = line.split_off(at);
        inputs.push(Input::Line(rest));
    }
    inputs
}

/// Where lines are looked at before they are said.
struct Desk {
    own_name: String,
    people: People,
    talk: Talk,
    /// Lines that begin with a slash are for this program.
    terminal: bool,
    leave: watch::Sender<Left>,
}

impl Desk {
    async fn serve(self, mut source: Source, mut interrupt: Signal, forward: mpsc::Sender<Input>) {
        let mut open = true;
        let mut leaving = None;
        loop {
            let typed = tokio::select! {
                typed = source.next(), if open => typed,
                _ = interrupt.recv() => Ok(Typed::Interrupt),
            };
            let inputs = match typed {
                Ok(Typed::Line(text)) => {
                    let lines = text.split('\n').filter(|line| !line.is_empty());
                    lines.filter_map(|line| self.look_at(line)).flat_map(pieces).collect()
                }
                Ok(Typed::End) => vec![Input::End],
                Ok(Typed::Interrupt) => return self.interrupted(interrupt, &forward).await,
                Err(error) => {
                    self.leave.send_replace(Left::Unreadable(error.to_string()));
                    vec![Input::Leave]
                }
            };
            for input in inputs {
                open &= matches!(input, Input::Line(_));
                // A chat takes nothing while its members are slow.
                tokio::select! {
                    sent = forward.send(input) => if sent.is_err() {
                        return;
                    },
                    _ = interrupt.recv() => return self.interrupted(interrupt, &forward).await,
                }
            }
            if !open && leaving.is_none() {
                let what = if self.people.is_empty() {
                    "somebody to come"
                } else {
                    "the others to have heard everything"
                };
                leaving = Some(self.talk.waits().begin(&self.talk, what));
            }
        }
    }

    async fn interrupted(&self, mut interrupt: Signal, forward: &mpsc::Sender<Input>) {
        self.leave.send_replace(Left::Interrupted);
        // A second Ctrl-C, or a peer that does not answer, must not hold the user.
        tokio::spawn(async move {
            let patience = tokio::time::sleep(Duration::from_secs(2));
            tokio::select! { _ = interrupt.recv() => {}, () = patience => {} }
            modes::exit(code::INTERRUPTED);
        });
        let _ = forward.send(Input::Leave).await;
    }

    /// What is to be done about a line; nothing more where it was for this program.
    fn look_at(&self, line: &str) -> Option<Input> {
        let Some(command) = line.strip_prefix('/').filter(|_| self.terminal) else {
            return Some(Input::Line(line.to_owned()));
        };
        let talk = &self.talk;
        let (name, argument) = command.trim_end().split_once(' ').unwrap_or((command.trim_end(), ""));
        match (name, argument.trim()) {
            (said, _) if said.starts_with('/') => return Some(Input::Line(command.to_owned())),
            ("quit", "") => {
                self.leave.send_replace(Left::Quit);
                return Some(Input::Leave);
            }
            ("help", "") => HELP.lines().for_each(|line| talk.must_say(line)),
            ("peers", "") => {
                talk.must_say(format!("you are {}", crate::term::clean(&self.own_name)));
                if self.people.is_empty() {
                    talk.must_say("nobody else is here");
                }
                self.people.tell(talk);
            }
            ("path", "") => {
                if !self.people.tell_paths(None, talk) {
                    talk.must_say("nobody else is here");
                }
            }
            ("path", called) => {
                if !self.people.tell_paths(Some(called), talk) {
                    talk.must_say(format!("nobody here is called {}", crate::term::clean(called)));
                }
            }
            _ => talk.must_say(format!(
                "/{} is no command and was not said; /help lists them, and //{} says it",
                crate::term::clean(name),
                crate::term::clean(command)
            )),
        }
        None
    }
}
