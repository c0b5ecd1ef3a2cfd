//! `tcpunch demo`: a broker and two chats, three real processes, told step by step.

use std::process::Stdio;

use serde_json::Value;
use tcpunch_core::limits::DEMO_WITHIN;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::exit::{Failure, code};
use crate::term::Talk;

const HELLO: &str = "hello, directly";

pub(crate) async fn run(talk: &Talk) -> Result<u8, Failure> {
    let late = |_| Failure::new("demo", code::INTERNAL, "the demo did not end within 5 s");
    tokio::time::timeout(DEMO_WITHIN, steps(talk)).await.map_err(late)??;
    Ok(code::OK)
}

async fn steps(talk: &Talk) -> Result<(), Failure> {
    let mut broker = Process::start("broker", &["broker", "--listen", "127.0.0.1:0", "--log-addresses"])?;
    let started = broker.event("broker").await?;
    let place = text(&started, "/addresses/0")?;
    talk.print(format!("1. A broker listens on {place}. It introduces peers; it never carries their data."));

    let mut alice = Process::start("alice", &["chat", "--broker", &place, "--name", "alice"])?;
    let alice_link = alice.event("registered").await?;
    let mut bob = Process::start("bob", &["chat", "--broker", &place, "--name", "bob"])?;
    let bob_link = bob.event("registered").await?;
    for (name, link) in [("Alice", &alice_link), ("Bob", &bob_link)] {
        broker.event("registered").await?;
        talk.print(format!(
            "2. {name} registers from {}; the broker sees {}. Behind a NAT these two would differ.",
            text(link, "/local")?,
            text(link, "/observed")?
        ));
    }

    let introduced = broker.event("introduced").await?;
    talk.print(format!(
        "3. The broker tells Alice of {} and Bob of {}, nothing more.",
        text(&introduced, "/arriver/addresses/0")?,
        text(&introduced, "/waiter/addresses/0")?
    ));
    broker.event("go").await?;
    for (name, process) in [("Alice", &mut alice), ("Bob", &mut bob)] {
        process.event("introduced").await?;
        let syn = process.event("syn").await?;
        talk.print(format!(
            "4. {name} sends a SYN from port {}, the same one, to {}. It opens the door in a NAT.",
            number(&syn, "/port")?,
            text(&syn, "/remote")?
        ));
    }
    for (name, process) in [("Alice", &mut alice), ("Bob", &mut bob)] {
        let path = process.event("path").await?;
        talk.print(format!(
            "5. {name} is connected: {} <-> {}, path {}, {} ms after the introduction, authenticated and encrypted.",
            text(&path, "/local")?,
            text(&path, "/remote")?,
            text(&path, "/path")?,
            number(&path, "/elapsed_ms")?
        ));
    }

    let before = broker.quiet_traffic().await?;
    alice.type_line(HELLO).await?;
    let message = bob.event("message").await?;
    let said = text(&message, "/text")?;
    if said != HELLO {
        return Err(Failure::new("demo", code::INTERNAL, format!("Bob heard '{said}' instead of '{HELLO}'")));
    }
    talk.print(format!("6. {} says to Bob: {said}", text(&message, "/name")?));
    let after = broker.fresh_traffic().await?;
    if after != before {
        let moved =
            format!("the broker's links moved {before} bytes before the message and {after} after it");
        return Err(Failure::new("demo", code::INTERNAL, moved));
    }
    talk.print(format!(
        "7. The broker's links had moved {before} bytes before the message, and {after} after it: it went directly."
    ));
    alice.leave().await?;
    bob.leave().await?;
    talk.print("Try it: tcpunch broker on one computer, tcpunch chat on two. docs/how-it-works.md tells why it works.");
    Ok(())
}

/// One of the three, told by its events alone; ended when dropped.
struct Process {
    name: &'static str,
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(name: &'static str, arguments: &[&str]) -> Result<Self, Failure> {
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
        Ok(Process { name, child, events: BufReader::new(output).lines() })
    }

    /// The next event of that name; others are passed over, errors end the demo.
    async fn event(&mut self, wanted: &str) -> Result<Value, Failure> {
        loop {
            let line = self.events.next_line().await.map_err(Failure::internal)?;
            let Some(line) = line else {
                let missing = format!("{} ended without the event '{wanted}'", self.name);
                return Err(Failure::new("demo", code::INTERNAL, missing));
            };
            let event: Value = serde_json::from_str(&line).map_err(Failure::internal)?;
            match event.pointer("/event").and_then(Value::as_str) {
                Some(name) if name == wanted => return Ok(event),
                Some("error") => {
                    let what = format!("{}: {}", self.name, text(&event, "/message")?);
                    return Err(Failure::new("demo", code::INTERNAL, what));
                }
                Some(_) | None => {}
            }
        }
    }

    async fn fresh_traffic(&mut self) -> Result<u64, Failure> {
        // The one after the next was surely counted after this call.
        self.event("traffic").await?;
        let event = self.event("traffic").await?;
        Ok(number(&event, "/bytes_in")?.as_u64().unwrap_or(0)
            + number(&event, "/bytes_out")?.as_u64().unwrap_or(0))
    }

    /// Bytes on all links once they have come to rest.
    async fn quiet_traffic(&mut self) -> Result<u64, Failure> {
        let mut last = self.fresh_traffic().await?;
        loop {
            let now = self.fresh_traffic().await?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }

    async fn type_line(&mut self, line: &str) -> Result<(), Failure> {
        let Some(input) = &mut self.child.stdin else { return Err(Failure::internal("no input")) };
        input.write_all(format!("{line}\n").as_bytes()).await.map_err(Failure::internal)
    }

    /// End of input; the process must end well by itself.
    async fn leave(&mut self) -> Result<(), Failure> {
        self.child.stdin = None;
        let status = self.child.wait().await.map_err(Failure::internal)?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new("demo", code::INTERNAL, format!("{} ended with {status}", self.name)))
        }
    }
}

fn text(event: &Value, pointer: &str) -> Result<String, Failure> {
    let found = event.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Failure::internal(format!("an event lacks {pointer}: {event}")))
}

fn number<'a>(event: &'a Value, pointer: &str) -> Result<&'a Value, Failure> {
    let found = event.pointer(pointer).filter(|value| value.is_number());
    found.ok_or_else(|| Failure::internal(format!("an event lacks {pointer}: {event}")))
}
