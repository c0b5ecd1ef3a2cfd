//! The terminal's modes: as they were when the program ends, whichever way it ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use tokio::signal::unix::{SignalKind, signal};

/// Ends the pastes that come marked as such; the line editor asks the terminal for them.
const PLAIN_PASTE: &[u8] = b"\x1b[?2004l\n";

/// The terminal and its modes from before the line editor, while there is one.
static BEFORE: Mutex<Option<(File, Termios)>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<(File, Termios)>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the terminal says that it knows escape sequences: without them there is neither colour nor a
/// line editor.
pub(crate) fn knows_escapes() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The terminal itself, whatever standard input and output are.
pub(crate) fn terminal() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// Remembers how the terminal is, and puts it back when a signal ends the process. After the process
/// was stopped by a signal and goes on, the editor's modes are set once more and `continued` is called:
/// shells take them back and do not give them again.
pub(crate) fn remember(continued: impl Fn() + Send + Sync + 'static) -> std::io::Result<()> {
    let terminal = terminal().or_else(|_| std::io::stdin().as_fd().try_clone_to_owned().map(File::from))?;
    let modes = tcgetattr(&terminal)?;
    let mut ends = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        ends.push((kind, signal(kind)?));
    }
    for (kind, mut end) in ends {
        tokio::spawn(async move {
            end.recv().await;
            // As a shell reports a process that a signal ended.
            exit(128 + u8::try_from(kind.as_raw_value()).unwrap_or(0));
        });
    }
    let mut again = signal(SignalKind::from_raw(nix::libc::SIGCONT))?;
    tokio::spawn(async move {
        while again.recv().await.is_some() {
            editing_again();
            continued();
        }
    });
    *before() = Some((terminal, modes));
    Ok(())
}

/// The line editor has put everything back itself.
pub(crate) fn forget() {
    *before() = None;
}

/// Puts back what was remembered, and leaves the line that was being typed.
pub(crate) fn restore() {
    let Some((mut terminal, modes)) = before().take() else { return };
    let _ = tcsetattr(&terminal, SetArg::TCSANOW, &modes);
    let _ = terminal.write_all(PLAIN_PASTE);
}

fn editing_again() {
    let before = before();
    let Some((terminal, cooked)) = &*before else { return };
    let mut raw = cooked.clone();
    raw.input_flags &=
        !(InputFlags::BRKINT | InputFlags::ICRNL | InputFlags::INPCK | InputFlags::ISTRIP | InputFlags::IXON);
    raw.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG);
    for (index, value) in [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)] {
        if let Some(character) = raw.control_chars.get_mut(index as usize) {
            *character = value;
        }
    }
    let _ = tcsetattr(terminal, SetArg::TCSADRAIN, &raw);
}

/// Ends the process with the terminal as it was. Not by returning from main: a thread that reads
/// standard input can't be stopped.
pub(crate) fn exit(code: u8) -> ! {
    restore();
    std::process::exit(i32::from(code));
}

/// A panic of the main thread ends the process, and what it says is to be readable.
pub(crate) fn restore_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some("main") {
            restore();
        }
        say(panic);
    }));
}
