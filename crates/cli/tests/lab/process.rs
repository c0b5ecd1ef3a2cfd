//! The program in a host of the lab: its events with the time they were read, its payload, its end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use natlab::kernel::Node;
use serde_json::Value;

/// Long enough for what must come, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// What all processes of a test said, told when it fails.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    began: Instant,
    lines: Arc<Mutex<String>>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    pub(crate) fn note(&self, who: &str, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(lines, "{:9.4} {who}: {line}", self.began.elapsed().as_secs_f64());
    }

    /// Where the broker saw the links of all peers, as they were told.
    pub(crate) fn doors(&self) -> Vec<SocketAddr> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = lines.split("\"observed\":\"").skip(1);
        observed.filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        // The last words of the processes are still being read.
        thread::sleep(Duration::from_millis(300));
        panic!("{what}\n{}", self.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn assert(&self, true_or: bool, what: &str) {
        if !true_or {
            self.fail(what);
        }
    }
}

/// One JSON event.
#[derive(Debug)]
pub(crate) struct Event {
    /// When it was read here.
    pub(crate) at: Instant,
    pub(crate) value: Value,
}

impl Event {
    pub(crate) fn name(&self) -> &str {
        self.text("event")
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or_else(|| panic!("{} has no text '{field}'", self.value))
    }

    pub(crate) fn number(&self, field: &str) -> f64 {
        self.value[field].as_f64().unwrap_or_else(|| panic!("{} has no number '{field}'", self.value))
    }
}

/// A process of the program; killed when dropped.
pub(crate) struct Process {
    name: String,
    journal: Journal,
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    lines: Option<Receiver<String>>,
    events: Receiver<Event>,
}

impl Process {
    /// Starts `tcpunch` on that node, with `--json`.
    ///
    /// Where stdout is payload its events are on stderr, as the program documents.
    pub(crate) fn start<S: AsRef<OsStr>>(
        journal: &Journal,
        node: &Node,
        name: &str,
        verb: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = node.command(env!("CARGO_BIN_EXE_tcpunch"));
        command.arg(verb).arg("--json").args(arguments);
        Self::run(journal, name, verb, command)
    }

    /// As [`start`](Self::start), with a name in the hosts file.
    pub(crate) fn start_with_name<S: AsRef<OsStr>>(
        journal: &Journal,
        node: &Node,
        name: &str,
        verb: &str,
        hosts: &std::path::Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        // `ip netns exec` gives its command mounts of its own, so this covers the file for nobody else.
        let mut command = node.command("sh");
        command.args(["-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts);
        command.arg(env!("CARGO_BIN_EXE_tcpunch")).arg(verb).arg("--json").args(arguments);
        Self::run(journal, name, verb, command)
    }

    /// Starts that command, which is one of the program's with `--json`.
    pub(crate) fn run(journal: &Journal, name: &str, verb: &str, mut command: Command) -> Self {
        let mut child = command
            .env_remove("TCPUNCH_CODE")
            .env_remove("TCPUNCH_BROKER")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        journal.note(name, &format!("started: {verb}"));
        let input = child.stdin.take();
        let mut output = child.stdout.take();
        let errors = child.stderr.take().unwrap();
        let payload = matches!(verb, "listen" | "connect");
        let (sender, events) = channel();
        let read = move |stream: Box<dyn Read + Send>, journal: Journal, name: String| {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                let at = Instant::now();
                journal.note(&name, &line);
                if let Ok(value) = serde_json::from_str(&line) {
                    // Nobody may be left to hear it.
                    let _ = sender.send(Event { at, value });
                }
            }
        };
        if payload {
            let (journal, name) = (journal.clone(), name.to_owned());
            thread::spawn(move || read(Box::new(errors), journal, name));
        } else {
            let (events_from, own) = (output.take().unwrap(), journal.clone());
            let own_name = name.to_owned();
            thread::spawn(move || read(Box::new(events_from), own, own_name));
            let (journal, name) = (journal.clone(), format!("{name} (stderr)"));
            thread::spawn(move || {
                for line in BufReader::new(errors).lines().map_while(Result::ok) {
                    journal.note(&name, &line);
                }
            });
        }
        Self { name: name.to_owned(), journal: journal.clone(), child, input, output, lines: None, events }
    }

    /// The next event of that name; others are passed over. A fatal error in its place fails the test.
    pub(crate) fn event(&mut self, wanted: &str) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event.name() == wanted => return event,
                Ok(event) if event.name() == "error" && event.value["fatal"] == true => {
                    self.fail(&format!("has an error instead of the event '{wanted}'"))
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.fail(&format!("has no event '{wanted}' within {PATIENCE:?}"))
                }
                Err(RecvTimeoutError::Disconnected) => self.fail(&format!("ended without '{wanted}'")),
            }
        }
    }

    /// The next event of that name, if it comes within that time; others are passed over.
    pub(crate) fn event_within(&mut self, wanted: &str, within: Duration) -> Option<Event> {
        let deadline = Instant::now() + within;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event.name() == wanted => return Some(event),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => self.fail(&format!("ended without '{wanted}'")),
            }
        }
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.journal.note(&self.name, &format!("gets {signal}"));
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }

    /// The fatal error that ends it.
    pub(crate) fn error(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event.name() == "error" && event.value["fatal"] == true => return event,
                Ok(_) => {}
                Err(_) => self.fail("has no fatal error"),
            }
        }
    }

    /// Whether the event comes (`true`) or, before it, a fatal error.
    pub(crate) fn event_or_error(&mut self, wanted: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if event.name() == wanted => return true,
                Ok(event) if event.name() == "error" && event.value["fatal"] == true => return false,
                Ok(_) => {}
                Err(_) => self.fail(&format!("has neither '{wanted}' nor an error")),
            }
        }
    }

    /// A line to its stdin.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its stdin is open");
        if let Err(error) = input.write_all(format!("{line}\n").as_bytes()) {
            self.fail(&format!("takes no input: {error}"));
        }
    }

    pub(crate) fn take_input(&mut self) -> ChildStdin {
        self.input.take().expect("its stdin is open")
    }

    pub(crate) fn take_output(&mut self) -> ChildStdout {
        self.output.take().expect("its stdout is payload and was not taken")
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// The next line of its payload.
    pub(crate) fn hears(&mut self) -> String {
        if self.lines.is_none() {
            let output = self.take_output();
            let (sender, lines) = channel();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
            self.lines = Some(lines);
        }
        match self.lines.as_ref().unwrap().recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => self.fail(&format!("got no line: {error}")),
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code; the test fails when it has not ended within that time.
    pub(crate) fn ends_within(&mut self, within: Duration) -> i32 {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.journal.note(&self.name, &format!("ended: {status}"));
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > deadline {
                self.fail(&format!("has not ended within {within:?}"));
            }
            // The end of a child can only be polled for together with a deadline.
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn ends_well(&mut self) {
        let code = self.ends_within(PATIENCE);
        if code != 0 {
            self.fail(&format!("ended with {code}"));
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.journal.note(&self.name, "is killed");
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        self.journal.fail(&format!("{} {what}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
