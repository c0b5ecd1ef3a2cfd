//! A line editor on the terminal: what is said appears above the line that is being typed.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use rustyline::error::ReadlineError;
use rustyline::{Behavior, ExternalPrinter};
use tcpunch_core::limits::EDITOR_ENDS_WITHIN;

use crate::editor::{self, Completion, LineEditor, Typing};
use crate::modes;

const PROMPT: &str = "> ";
/// Up and down again: nothing is shown, and the editor draws its line anew.
const NOTHING: &str = "\x1b[A\n";
/// Takes the row above away.
const ROW_ABOVE_AWAY: &str = "\x1b[A\x1b[2K";

/// What comes from a line editor.
pub(crate) enum Typed {
    /// A line; a paste may hold several.
    Line(String),
    /// The user has no more to say.
    End,
    /// The user wants out.
    Interrupt,
}

/// A terminal with a line editor on it, or without.
#[derive(Default)]
pub(crate) struct Screen {
    editing: AtomicBool,
    printer: Mutex<Option<Box<dyn ExternalPrinter + Send>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    /// Shows a text above the line that is being typed; false where nobody types.
    pub(crate) fn print(&self, text: &str) -> bool {
        self.editing.load(Ordering::Acquire)
            && lock(&self.printer).as_mut().is_some_and(|printer| printer.print(text.to_owned()).is_ok())
    }

    /// Begins to edit lines and gives each to `typed`, from a thread of its own, because a read of
    /// a terminal can't be cancelled. False where this terminal has no line editing.
    pub(crate) fn edit(
        self: &Arc<Self>,
        complete: Completion,
        typed: impl FnMut(Typed) + Send + 'static,
    ) -> bool {
        if !modes::knows_escapes() {
            return false;
        }
        // The editor writes to stdout; where that goes elsewhere, to the terminal itself.
        let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let Ok(mut editor) = editor::new(behavior, true, complete, |_| None) else { return false };
        let Ok(printer) = editor.create_external_printer() else { return false };
        let screen = self.clone();
        let draw_anew = move || {
            screen.print(NOTHING);
        };
        if modes::remember(draw_anew).is_err() {
            return false;
        }
        *lock(&self.printer) = Some(Box::new(printer));
        self.editing.store(true, Ordering::Release);
        let screen = self.clone();
        *lock(&self.thread) = Some(std::thread::spawn(move || screen.read(editor, typed)));
        true
    }

    fn read(&self, mut editor: LineEditor, mut typed: impl FnMut(Typed)) {
        let end = loop {
            match editor.readline(PROMPT) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    typed(Typed::Line(line));
                }
                Err(ReadlineError::Interrupted) => break Typed::Interrupt,
                Err(_) => break Typed::End,
            }
        };
        self.editing.store(false, Ordering::Release);
        modes::forget();
        // An empty prompt says nothing to who scrolls back.
        if editor.helper().is_some_and(Typing::is_empty)
            && let Ok(mut terminal) = modes::terminal()
        {
            let _ = terminal.write_all(ROW_ABOVE_AWAY.as_bytes());
        }
        // Whoever waits to print is told that nobody types any more.
        drop(editor);
        typed(end);
    }

    /// Ends the editing: what was said before stands on the terminal, which is as it was.
    pub(crate) fn finish(self: &Arc<Self>) {
        let Some(thread) = lock(&self.thread).take() else { return };
        let until = Instant::now() + EDITOR_ENDS_WITHIN;
        let screen = self.clone();
        std::thread::spawn(move || {
            // The editor takes one text at a time: when it takes the second, all that came before the
            // first stands on the terminal.
            if screen.print(NOTHING) && screen.print(NOTHING) {
                // It ends as on Ctrl-C, and puts the modes back.
                let _ = raise(Signal::SIGINT);
            }
        });
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        // In the middle of a question of its own the editor does not end.
        self.editing.store(false, Ordering::Release);
        modes::restore();
    }
}
