//! The question for a code, on the terminal itself, so that standard input stays free for data.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::sync::Arc;

use rustyline::Behavior;
use rustyline::error::ReadlineError;
use tcpunch::Code;

use crate::complete;
use crate::editor;
use crate::exit::{Failure, code};
use crate::modes;

const QUESTION: &str = "Code: ";

/// Asks until what is typed can be a code. On a thread of its own: Ctrl-C is heard meanwhile.
///
/// # Errors
///
/// There is no terminal, or the user ends the input.
pub(crate) async fn code() -> Result<Code, Failure> {
    tokio::task::spawn_blocking(ask).await.map_err(Failure::internal)?
}

fn ask() -> Result<Code, Failure> {
    let terminal = modes::terminal().map_err(|error| {
        Failure::new("usage", code::USAGE, format!("there is no terminal to ask for the code: {error}"))
            .hint("give it as an argument, or in TCPUNCH_CODE")
    })?;
    if modes::knows_escapes()
        && modes::remember(|| {}).is_ok()
        && let Ok(mut editor) = editor::new(
            Behavior::PreferTerm,
            false,
            Arc::new(|before: &str| (0, complete::code(before))),
            wrong,
        )
    {
        let typed = editor.readline(QUESTION);
        modes::forget();
        return match typed {
            Ok(text) => text.parse().map_err(|error| Failure::new("usage", code::USAGE, error)),
            // The line editor takes the key, so no signal came of it.
            Err(ReadlineError::Interrupted) => modes::exit(code::INTERRUPTED),
            Err(ReadlineError::Eof) => Err(nothing()),
            Err(error) => Err(Failure::local(format!("the terminal can't be read: {error}"))),
        };
    }
    ask_plainly(&terminal)
}

/// On a terminal that can't move its cursor.
fn ask_plainly(mut terminal: &File) -> Result<Code, Failure> {
    let mut lines = BufReader::new(terminal);
    let local = |error| Failure::local(format!("the terminal can't be read: {error}"));
    loop {
        terminal.write_all(QUESTION.as_bytes()).map_err(local)?;
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) => return Err(nothing()),
            Ok(_) => {}
            // Not text; it is no code either.
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            Err(error) => return Err(local(error)),
        }
        match line.parse() {
            Ok(code) => return Ok(code),
            Err(error) => writeln!(terminal, "{error}").map_err(local)?,
        }
    }
}

fn nothing() -> Failure {
    Failure::new("usage", code::USAGE, "no code was typed")
        .hint("the other side sees it; it looks like 412-canyon-oxygen")
}

fn wrong(typed: &str) -> Option<String> {
    typed.parse::<Code>().err().map(|error| error.to_string())
}
