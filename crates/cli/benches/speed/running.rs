//! A process in a host of the lab, and what it costs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use natlab::kernel::Node;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

/// The program that users have.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tcpunch");
/// Beyond this something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process; killed when dropped. Its events are JSON lines, on stderr where stdout was given a place.
pub(crate) struct Running {
    child: Child,
    events: Receiver<(Instant, Value)>,
}

impl Running {
    pub(crate) fn start(
        node: &Node,
        program: &str,
        arguments: &[&str],
        input: &str,
        output: Option<&str>,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env_remove("TCPUNCH_CODE").env_remove("TCPUNCH_BROKER");
        command.stdin(File::open(input).unwrap());
        match output {
            Some(path) => {
                command.stdout(File::options().write(true).open(path).unwrap()).stderr(Stdio::piped());
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::null());
            }
        }
        // Not through `ip netns exec`: it would be part of what a start takes.
        let mut child = node.run(|| command.spawn()).unwrap().unwrap();
        let (sender, events) = channel();
        let read = move |lines: Box<dyn BufRead + Send>| {
            for line in lines.lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send((Instant::now(), event));
                }
            }
        };
        match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => thread::spawn(move || read(Box::new(BufReader::new(stdout)))),
            (None, Some(stderr)) => {
                thread::spawn(move || read(Box::new(BufReader::<ChildStderr>::new(stderr))))
            }
            (None, None) => unreachable!("one of the two is piped"),
        };
        Running { child, events }
    }

    /// The next event of that name, and when it was read.
    pub(crate) fn event_at(&mut self, wanted: &str) -> (Instant, Value) {
        loop {
            let (at, event) = self
                .events
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("no event '{wanted}' of {}: {error}", self.child.id()));
            assert!(event["event"] != "error", "{event}");
            if event["event"] == wanted {
                return (at, event);
            }
        }
    }

    pub(crate) fn event(&mut self, wanted: &str) -> Value {
        self.event_at(wanted).1
    }

    /// Memory in bytes: `VmRSS` is what it has, `VmHWM` the most it ever had. None once it has ended.
    pub(crate) fn memory(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for a good end.
    pub(crate) fn ends(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "{} does not end", self.child.id());
            thread::sleep(Duration::from_millis(1));
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds of processor that all children took which have ended, user and system.
pub(crate) fn cpu_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}
