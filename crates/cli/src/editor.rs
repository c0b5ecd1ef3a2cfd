//! The line editor, as chats and prompts use it.

use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};
use tcpunch_core::limits::TYPED_HISTORY;

/// What Tab offers for what stands before the cursor: from which byte on it takes the place of what.
pub(crate) type Completion = Arc<dyn Fn(&str) -> (usize, Vec<String>) + Send + Sync>;

/// What is being typed.
pub(crate) struct Typing {
    complete: Completion,
    /// What is wrong with a line, said before it is taken.
    check: fn(&str) -> Option<String>,
    line: Mutex<String>,
}

pub(crate) type LineEditor = Editor<Typing, MemHistory>;

/// An editor without a file: what is typed is remembered until the process ends, or not at all.
pub(crate) fn new(
    behavior: Behavior,
    history: bool,
    complete: Completion,
    check: fn(&str) -> Option<String>,
) -> rustyline::Result<LineEditor> {
    let config = Config::builder()
        .behavior(behavior)
        // Circular completion holds texts back until the next key.
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        .max_history_size(if history { TYPED_HISTORY } else { 0 })?
        .build();
    let mut editor = Editor::with_history(config.clone(), MemHistory::with_config(&config))?;
    editor.set_helper(Some(Typing { complete, check, line: Mutex::default() }));
    Ok(editor)
}

impl Typing {
    /// Whether nothing is being typed.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Helper for Typing {}
impl Highlighter for Typing {}

impl Completer for Typing {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((self.complete)(line.get(..at).unwrap_or_default()))
    }
}

impl Hinter for Typing {
    type Hint = String;

    /// No hint: this is called whenever the line has changed.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        line.clone_into(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner));
        None
    }
}

impl Validator for Typing {
    fn validate(&self, line: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match (self.check)(line.input()) {
            None => ValidationResult::Valid(None),
            Some(wrong) => ValidationResult::Invalid(Some(format!("\n{wrong}"))),
        })
    }
}
