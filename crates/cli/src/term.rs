//! What a command says: for people on stderr, or JSON, one object a line.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tcpunch::{Connection, PathInfo, PublicKey};
use tcpunch_core::limits::PORTMAP_REMOVED_WITHIN;
use tcpunch_core::sanitize::sanitize_line;

use crate::args::Common;
use crate::colour::{Colours, Hue, paint};
use crate::exit::{Failure, code};
use crate::fold::fold;
use crate::modes;
use crate::queue::{Next, Queue, WAITING_MOST};
use crate::screen::Screen;
use crate::show::obstacle;
use crate::waits::Waits;

/// What a program waits for before it ends.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where talk goes.
#[derive(Clone)]
pub(crate) struct Talk {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// stdout carries payload, so JSON goes to stderr.
    payload: bool,
    colours: Colours,
    screen: Arc<Screen>,
    waits: Waits,
    ends: Arc<Mutex<Vec<End>>>,
    /// What lines wait in, where who says them must not.
    queue: Arc<Mutex<Option<Lines>>>,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Lines that wait to be written, each with where.
type Lines = Queue<(Stream, String)>;

impl Talk {
    pub(crate) fn new(common: &Common, payload: bool) -> Self {
        Talk {
            json: common.json,
            quiet: common.quiet,
            verbose: common.verbose,
            payload,
            colours: Colours::decide(),
            screen: Arc::default(),
            waits: Waits::default(),
            ends: Arc::default(),
            queue: Arc::default(),
        }
    }

    /// The program's end waits a moment for this.
    pub(crate) fn ends_after(&self, what: impl Future<Output = ()> + Send + 'static) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(what));
    }

    /// What is still to be done when all that was asked for is done: routers forget their ports.
    pub(crate) async fn end(&self) {
        let ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for end in ends {
                end.await;
            }
        };
        let _ = tokio::time::timeout(PORTMAP_REMOVED_WITHIN, all).await;
    }

    /// From here on who says something waits for no reader; what a reader that stalls misses is counted for it.
    pub(crate) fn queued(&self) -> std::io::Result<()> {
        let own = self.clone();
        let queue = Lines::start(WAITING_MOST, move |next| match next {
            Next::Line((stream, text)) => own.write(stream, &text),
            Next::Dropped(count) => own.dropped(count),
        })?;
        *self.lock_queue() = Some(queue);
        Ok(())
    }

    /// Waits a moment until all of it is written; what is said then is written at once again.
    pub(crate) async fn written(&self) {
        let queue = self.lock_queue().take();
        if let Some(queue) = queue {
            queue.end().await;
        }
    }

    fn lock_queue(&self) -> MutexGuard<'_, Option<Lines>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where lines appear while a line is being typed.
    pub(crate) fn screen(&self) -> &Arc<Screen> {
        &self.screen
    }

    /// Which outputs take colour.
    pub(crate) fn colours(&self) -> Colours {
        self.colours
    }

    /// A place for lines of the log: where talk goes.
    pub(crate) fn log(&self) -> Log {
        Log(self.clone())
    }

    /// What is being waited for.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line for people.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if !self.json && !self.quiet {
            self.line(Stream::Err, line.as_ref());
        }
    }

    /// A line for people that even the quiet need.
    pub(crate) fn must_say(&self, line: impl AsRef<str>) {
        if !self.json {
            self.line(Stream::Err, line.as_ref());
        }
    }

    /// A line for people who asked for each step.
    pub(crate) fn detail(&self, line: impl AsRef<str>) {
        if self.verbose {
            self.say(line);
        }
    }

    /// What people asked the command for: on stdout.
    pub(crate) fn print(&self, line: impl AsRef<str>) {
        if !self.json {
            self.line(Stream::Out, line.as_ref());
        }
    }

    /// The same as wide as the terminal, where it is one.
    pub(crate) fn print_folded(&self, line: &str) {
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        self.print(width.map_or_else(|| line.to_owned(), |width| fold(line, width)));
    }

    /// A text that is all the command is for, and no talk: on stdout in any case.
    pub(crate) fn page(&self, text: &str) {
        self.line(Stream::Out, text.trim_end());
    }

    /// An event for programs.
    pub(crate) fn event(&self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        self.line(self.stream_of_events(), &event_line(name, fields));
    }

    fn stream_of_events(&self) -> Stream {
        if self.payload { Stream::Err } else { Stream::Out }
    }

    /// An event for programs that asked for each step.
    pub(crate) fn step(&self, name: &str, fields: Value) {
        if self.verbose {
            self.event(name, fields);
        }
    }

    /// What the command goes on without, or goes on with otherwise than asked; for people and programs.
    pub(crate) fn notice(&self, kind: &str, message: impl AsRef<str>, hint: Option<&str>) {
        let message = message.as_ref();
        self.event("notice", notice_fields(kind, message, hint));
        self.say(message);
        if let Some(hint) = hint {
            self.say(format!("  {hint}"));
        }
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        let mut fields = Map::from_iter([
            ("kind".to_owned(), json!(failure.kind)),
            ("exit".to_owned(), json!(failure.exit)),
            ("message".to_owned(), json!(failure.message)),
            ("hint".to_owned(), json!(failure.hint)),
            ("fatal".to_owned(), json!(true)),
        ]);
        if let Some(obstacle) = &failure.obstacle {
            fields.extend(self.waits.path_to().map(|peer| ("peer".to_owned(), json!(peer.to_string()))));
            fields.insert("report".to_owned(), obstacle::fields(obstacle));
        }
        self.event("error", Value::Object(fields));
        self.must_say(self.folded(&format!("tcpunch: {}", failure.message)).replacen(
            "tcpunch:",
            &paint(self.colours.err, Hue::Error, "tcpunch:"),
            1,
        ));
        if let Some(hint) = &failure.hint
            && !failure.message.contains(hint)
        {
            self.must_say(self.folded(&format!("  {hint}")));
        }
    }

    /// A long text for stderr, as the terminal has room for it; elsewhere as it is.
    fn folded(&self, text: &str) -> String {
        match terminal_size::terminal_size_of(std::io::stderr()) {
            Some((width, _)) if !self.json => fold(text, usize::from(width.0)),
            Some(_) | None => text.to_owned(),
        }
    }

    fn line(&self, stream: Stream, line: &str) {
        let text = format!("{line}\n");
        if let Some(queue) = &*self.lock_queue() {
            queue.push((stream, text));
            return;
        }
        self.write(stream, &text);
    }

    /// So many lines found no place in the queue; who says so writes what is queued, and is not to queue it.
    fn dropped(&self, count: u64) {
        let lines = if count == 1 { "line is" } else { "lines are" };
        let message = format!("{count} {lines} missing here: what reads this output is too slow");
        if self.json {
            let line = event_line("notice", notice_fields("dropped", &message, None));
            self.write(self.stream_of_events(), &format!("{line}\n"));
        } else {
            self.write(Stream::Err, &format!("{message}\n"));
        }
    }

    /// Above what is being typed, where somebody types. A closed stdout ends the command; with a
    /// closed stderr nobody listens, and what the command is for goes on.
    fn write(&self, stream: Stream, text: &str) {
        let terminal = match stream {
            Stream::Out => std::io::stdout().is_terminal(),
            Stream::Err => std::io::stderr().is_terminal(),
        };
        if terminal && self.screen.print(text) {
            return;
        }
        match stream {
            Stream::Out => {
                let mut out = std::io::stdout();
                if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                    // Who reads a pipe no longer has had enough.
                    if error.kind() != std::io::ErrorKind::BrokenPipe {
                        let _ = writeln!(std::io::stderr(), "tcpunch: the output can't be written: {error}");
                    }
                    modes::exit(code::LOCAL);
                }
            }
            Stream::Err => {
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
    }

    /// Says what is waited for, if it takes longer than a second.
    pub(crate) async fn waiting<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let _wait = self.waits.begin(self, what);
        work.await
    }

    /// Tells that the one peer of a code is connected, and how.
    pub(crate) fn connected(&self, connection: &Connection) {
        let (peer, info) = (connection.peer(), connection.info());
        self.waits.path_ends(&peer);
        let name = peer.nickname();
        self.event("peer", json!({ "id": peer.to_string(), "name": name, "auth": "code", "words": null }));
        self.event("path", path_fields(&peer, info));
        self.say(self.path_line(info));
    }

    /// Tells that the one peer of a code is not connected any more.
    pub(crate) fn closed(&self, connection: &Connection, reason: &str) {
        let (bytes_in, bytes_out) = connection.traffic();
        let peer = connection.peer().to_string();
        self.event(
            "closed",
            json!({ "peer": peer, "reason": reason, "bytes_in": bytes_in, "bytes_out": bytes_out }),
        );
    }

    /// A member's name for stderr.
    pub(crate) fn name<'a>(&self, peer: &PublicKey, name: &'a str) -> Cow<'a, str> {
        paint(self.colours.err, Hue::Name(*peer), name)
    }

    /// A member's name for stdout.
    pub(crate) fn name_on_stdout<'a>(&self, peer: &PublicKey, name: &'a str) -> Cow<'a, str> {
        paint(self.colours.out, Hue::Name(*peer), name)
    }

    /// A code for stderr.
    pub(crate) fn code<'a>(&self, code: &'a str) -> Cow<'a, str> {
        paint(self.colours.err, Hue::Code, code)
    }

    /// `path  punched  local <-> remote  1 try, 2 SYNs, 38 ms`.
    pub(crate) fn path_line(&self, info: &PathInfo) -> String {
        format!(
            "path  {}  {} <-> {}  {}",
            paint(self.colours.err, Hue::Path, info.path.word()),
            info.local,
            info.remote,
            effort(info),
        )
    }
}

/// Lines of the log.
pub(crate) struct Log(Talk);

impl Write for Log {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
        self.0.must_say(String::from_utf8_lossy(lines).trim_end_matches('\n'));
        Ok(lines.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn event_line(name: &str, fields: Value) -> String {
    let mut object = Map::from_iter([("v".to_owned(), json!(1)), ("event".to_owned(), json!(name))]);
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object).to_string()
}

fn notice_fields(kind: &str, message: &str, hint: Option<&str>) -> Value {
    json!({ "kind": kind, "message": message, "hint": hint })
}

/// The fields of the event `path`.
pub(crate) fn path_fields(peer: &tcpunch::PublicKey, info: &PathInfo) -> Value {
    json!({
        "peer": peer.to_string(),
        "path": info.path.word(),
        "local": info.local.to_string(),
        "remote": info.remote.to_string(),
        "tries": info.tries,
        "syns": info.syns,
        "elapsed_ms": round(info.elapsed),
    })
}

/// `1 try, 2 SYNs, 38 ms`.
pub(crate) fn effort(info: &PathInfo) -> String {
    let tries = if info.tries == 1 { "1 try".to_owned() } else { format!("{} tries", info.tries) };
    format!("{tries}, {}, {}", plural(info.syns, "SYN"), millis(info.elapsed))
}

/// `1 SYN`, `2 SYNs`.
pub(crate) fn plural(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds with as many digits as mean something.
pub(crate) fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

pub(crate) fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// A text of others, fit for one line.
pub(crate) fn clean(text: &str) -> String {
    sanitize_line(text, 500).into_owned()
}

pub(crate) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
