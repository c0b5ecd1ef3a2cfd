//! Processes of this same program, told by their events alone.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::exit::{Failure, code};
use crate::term::Talk;

/// A process of this program; ended when dropped.
pub(crate) struct Process {
    name: &'static str,
    talk: Talk,
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it with JSON events of every step, and nothing kept on disk.
    pub(crate) fn start(name: &'static str, arguments: &[&str], talk: &Talk) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::internal)?;
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--json", "-v", "--ephemeral"])
            .env_remove("TCPUNCH_CODE")
            .env_remove("TCPUNCH_BROKER")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::internal)?;
        let Some(output) = child.stdout.take() else { return Err(Failure::internal("no output")) };
        Ok(Process { name, talk: talk.clone(), child, events: BufReader::new(output).lines() })
    }

    /// The next event of that name; others are passed over, errors end the demo.
    pub(crate) async fn event(&mut self, wanted: &str) -> Result<Value, Failure> {
        self.event_of(&[wanted]).await
    }

    /// The next event of one of these names.
    pub(crate) async fn event_of(&mut self, wanted: &[&str]) -> Result<Value, Failure> {
        let names = wanted.join("' or '");
        let _wait = self.talk.waits().begin(&self.talk, format!("the event '{names}' of {}", self.name));
        loop {
            let line = self.events.next_line().await.map_err(Failure::internal)?;
            let Some(line) = line else {
                let missing = format!("{} ended without the event '{names}'", self.name);
                return Err(Failure::new("demo", code::INTERNAL, missing));
            };
            let event: Value = serde_json::from_str(&line).map_err(Failure::internal)?;
            match event.pointer("/event").and_then(Value::as_str) {
                Some(name) if wanted.contains(&name) => return Ok(event),
                Some("error") => {
                    let what = format!("{}: {}", self.name, text(&event, "/message")?);
                    return Err(Failure::new("demo", code::INTERNAL, what));
                }
                Some(_) | None => {}
            }
        }
    }

    /// Bytes that a broker's links have moved by now.
    pub(crate) async fn fresh_traffic(&mut self) -> Result<u64, Failure> {
        // The one after the next was surely counted after this call.
        self.event("traffic").await?;
        let event = self.event("traffic").await?;
        Ok(number(&event, "/bytes_in")?.as_u64().unwrap_or(0)
            + number(&event, "/bytes_out")?.as_u64().unwrap_or(0))
    }

    /// Bytes on all links once they have come to rest.
    pub(crate) async fn quiet_traffic(&mut self) -> Result<u64, Failure> {
        let mut last = self.fresh_traffic().await?;
        loop {
            let now = self.fresh_traffic().await?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    /// A line on its standard input.
    pub(crate) async fn type_line(&mut self, line: &str) -> Result<(), Failure> {
        let Some(input) = &mut self.child.stdin else { return Err(Failure::internal("no input")) };
        input.write_all(format!("{line}\n").as_bytes()).await.map_err(Failure::internal)
    }

    /// End of input; the process must end well by itself.
    pub(crate) async fn leave(&mut self) -> Result<(), Failure> {
        self.child.stdin = None;
        let status = self.child.wait().await.map_err(Failure::internal)?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new("demo", code::INTERNAL, format!("{} ended with {status}", self.name)))
        }
    }
}

/// A text in an event; it is an error of the demo if there is none.
pub(crate) fn text(event: &Value, pointer: &str) -> Result<String, Failure> {
    let found = event.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Failure::internal(format!("an event lacks {pointer}: {event}")))
}

/// A number in an event.
pub(crate) fn number<'a>(event: &'a Value, pointer: &str) -> Result<&'a Value, Failure> {
    let found = event.pointer(pointer).filter(|value| value.is_number());
    found.ok_or_else(|| Failure::internal(format!("an event lacks {pointer}: {event}")))
}
