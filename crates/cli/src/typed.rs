//! What the user of a chat types, from a line editor, a plain terminal or a pipe.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use tcpunch_apps::chat::Input;
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
    Pipe(mpsc::Receiver<Typed>),
    Editor(mpsc::UnboundedReceiver<Typed>),
}

impl Source {
    async fn next(&mut self) -> Typed {
        let typed = match self {
            Source::Pipe(lines) => lines.recv().await,
            Source::Editor(lines) => lines.recv().await,
        };
        typed.unwrap_or(Typed::End)
    }
}

/// How the user left, if not by ending the input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Not,
    Quit,
    Interrupted,
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
    std::thread::spawn(move || read_plain(&typed));
    Source::Pipe(lines)
}

/// A thread, because a read of a terminal can't be cancelled.
fn read_plain(typed: &mpsc::Sender<Typed>) {
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        if !line.is_empty() && typed.blocking_send(Typed::Line(line)).is_err() {
            return;
        }
    }
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
                _ = interrupt.recv() => Typed::Interrupt,
            };
            match typed {
                Typed::Line(text) => {
                    for line in text.split('\n').filter(|line| !line.is_empty()) {
                        let Some(input) = self.look_at(line) else { continue };
                        open &= matches!(input, Input::Line(_));
                        if forward.send(input).await.is_err() {
                            return;
                        }
                    }
                }
                Typed::End => {
                    open = false;
                    if forward.send(Input::End).await.is_err() {
                        return;
                    }
                }
                Typed::Interrupt => {
                    self.leave.send_replace(Left::Interrupted);
                    let _ = forward.send(Input::Leave).await;
                    // A second Ctrl-C, or a peer that does not answer, must not hold the user.
                    tokio::spawn(async move {
                        let patience = tokio::time::sleep(Duration::from_secs(2));
                        tokio::select! { _ = interrupt.recv() => {}, () = patience => {} }
                        modes::exit(code::INTERRUPTED);
                    });
                    return;
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
