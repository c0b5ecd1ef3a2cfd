//! `tcpunch completions`: what a shell loads to complete commands, flags and words of codes.

use std::path::PathBuf;

use clap_complete::env::Shells;

use crate::exit::{Failure, code};
use crate::term::Talk;

/// The variable by which a shell asks this program for completions.
pub(crate) const ASKED: &str = "TCPUNCH_COMPLETE";

pub(crate) fn run(shell: &str, talk: &Talk) -> Result<u8, Failure> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(shell) else {
        return Err(Failure::new("usage", code::USAGE, format!("no completions for {shell}")));
    };
    let mut script = Vec::new();
    completer
        .write_registration(ASKED, "tcpunch", "tcpunch", &program(), &mut script)
        .map_err(Failure::internal)?;
    talk.page(&String::from_utf8_lossy(&script));
    Ok(code::OK)
}

/// This program as it was called; a shell may stand elsewhere when it asks.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let called =
        if called.components().count() > 1 { std::env::current_exe().unwrap_or(called) } else { called };
    called.to_string_lossy().into_owned()
}
