//! What a command says: for people on stderr, or JSON, one object a line.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tcpunch::PathInfo;
use tcpunch_core::sanitize::sanitize_line;

use crate::args::Common;
use crate::exit::Failure;

/// Where talk goes.
#[derive(Clone)]
pub(crate) struct Talk {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// stdout carries payload, so JSON goes to stderr.
    payload: bool,
}

impl Talk {
    pub(crate) fn new(common: &Common, payload: bool) -> Self {
        Talk { json: common.json, quiet: common.quiet, verbose: common.verbose, payload }
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
            self.line(&mut std::io::stderr(), line.as_ref());
        }
    }

    /// A line for people that even the quiet need.
    pub(crate) fn must_say(&self, line: impl AsRef<str>) {
        if !self.json {
            self.line(&mut std::io::stderr(), line.as_ref());
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
            self.line(&mut std::io::stdout(), line.as_ref());
        }
    }

    /// An event for programs.
    pub(crate) fn event(&self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        let mut object = Map::from_iter([("v".to_owned(), json!(1)), ("event".to_owned(), json!(name))]);
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let line = Value::Object(object).to_string();
        if self.payload {
            self.line(&mut std::io::stderr(), &line);
        } else {
            self.line(&mut std::io::stdout(), &line);
        }
    }

    /// An event for programs that asked for each step.
    pub(crate) fn step(&self, name: &str, fields: Value) {
        if self.verbose {
            self.event(name, fields);
        }
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        self.event(
            "error",
            json!({
                "kind": failure.kind,
                "exit": failure.exit,
                "message": failure.message,
                "hint": failure.hint,
                "fatal": true,
            }),
        );
        self.must_say(format!("tcpunch: {}", failure.message));
        if let Some(hint) = &failure.hint
            && !failure.message.contains(hint)
        {
            self.must_say(format!("  {hint}"));
        }
    }

    /// A closed stdout ends the command, and so does a full one, of which stderr tells; nobody can be told that telling
    /// fails.
    fn line(&self, out: &mut impl Write, line: &str) {
        let bytes = format!("{line}\n");
        let Err(error) = out.write_all(bytes.as_bytes()).and_then(|()| out.flush()) else { return };
        // Who reads a pipe no longer has had enough.
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            let _ = writeln!(std::io::stderr(), "tcpunch: the output can't be written: {error}");
        }
        std::process::exit(i32::from(crate::exit::code::LOCAL));
    }

    /// Says what is waited for, if it takes longer than a second.
    pub(crate) async fn waiting<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        self.event("waiting", json!({ "for": what }));
        self.say(format!("waiting for {what} ..."));
        work.await
    }
}

/// `path  punched  local <-> remote  1 try, 2 SYNs, 38 ms`.
pub(crate) fn path_line(info: &PathInfo) -> String {
    let plural =
        |count: u32, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    format!(
        "path  {}  {} <-> {}  {}, {}, {}",
        info.path,
        info.local,
        info.remote,
        plural(info.tries, "try", "tries"),
        plural(info.syns, "SYN", "SYNs"),
        millis(info.elapsed),
    )
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

/// Asks on the terminal itself, so that standard input stays free for data.
pub(crate) fn ask(question: &str) -> std::io::Result<String> {
    use std::io::{BufRead, BufReader};
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    (&terminal).write_all(question.as_bytes())?;
    let mut line = String::new();
    BufReader::new(&terminal).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

pub(crate) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
