//! Real processes of the program under test: started with nothing of the caller's environment, read
//! while they run, ended by their id when dropped.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tcpunch");

/// A home directory of nobody else.
pub(crate) fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

/// What a process has written to one of its outputs so far.
#[derive(Clone, Default)]
struct Stream(Arc<(Mutex<Written>, Condvar)>);

impl Stream {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let stream = Stream::default();
        let filled = stream.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let (state, changed) = &*filled.0;
                let mut state = state.lock().unwrap();
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        stream
    }

    /// Waits until `found` says something of what was written, or the output ended.
    fn wait<T>(&self, until: Instant, mut found: impl FnMut(&[u8], bool) -> Option<T>) -> Option<T> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        loop {
            if let Some(found) = found(&state.bytes, state.ended) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

/// A process, and how far its events were read.
pub(crate) struct Process {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    out: Stream,
    err: Stream,
    events_read: usize,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).expect("text on stdout")
    }

    /// Asserts how it ended; a failure shows what it said.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stderr: {}\nstdout: {}", self.err, String::from_utf8_lossy(&self.out));
        self
    }
}

impl Process {
    /// The program with these arguments.
    pub(crate) fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(arguments);
        Self::spawn(home, command)
    }

    /// Any command, in a clean environment with this home directory.
    pub(crate) fn spawn(home: &Path, mut command: Command) -> Self {
        Self::with_env(&mut command, home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdin = child.stdin.take();
        let out = Stream::of(child.stdout.take().unwrap());
        let err = Stream::of(child.stderr.take().unwrap());
        Process { what, child, stdin, out, err, events_read: 0 }
    }

    fn with_env(command: &mut Command, home: &Path) {
        let own: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        command.env_clear().env("HOME", home).envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(own);
    }

    /// What stands on stderr.
    pub(crate) fn err(&self) -> String {
        self.err.text()
    }

    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    #[track_caller]
    fn missing(&self, wanted: &str) -> ! {
        panic!(
            "{} never said '{wanted}'\nstdout: {}\nstderr: {}",
            self.what,
            self.out.text(),
            self.err.text()
        )
    }

    #[track_caller]
    fn line_in(&self, stream: &Stream, parts: &[&str]) -> String {
        let line = stream.wait(Instant::now() + SOON, |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let whole = &text[..=text.rfind('\n')?];
            whole.lines().find(|line| parts.iter().any(|part| line.contains(part))).map(str::to_owned)
        });
        line.unwrap_or_else(|| self.missing(&parts.join("' or '")))
    }

    /// The first whole line on stderr with this part, awaited.
    #[track_caller]
    pub(crate) fn says(&self, part: &str) -> String {
        self.line_in(&self.err, &[part])
    }

    /// The first whole line on stderr with one of these parts, awaited.
    #[track_caller]
    pub(crate) fn says_one_of(&self, parts: &[&str]) -> String {
        self.line_in(&self.err, parts)
    }

    /// The first whole line on stdout with this part, awaited.
    #[track_caller]
    pub(crate) fn prints(&self, part: &str) -> String {
        self.line_in(&self.out, &[part])
    }

    /// So many whole lines on stderr with this part, awaited.
    #[track_caller]
    pub(crate) fn says_times(&self, part: &str, times: usize) -> Vec<String> {
        let lines = self.err.wait(Instant::now() + SOON, |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let whole = &text[..=text.rfind('\n')?];
            let lines: Vec<String> =
                whole.lines().filter(|line| line.contains(part)).map(str::to_owned).collect();
            (lines.len() >= times).then_some(lines)
        });
        lines.unwrap_or_else(|| self.missing(&format!("{part} ({times} times)")))
    }

    /// Waits until so many bytes came on stdout.
    #[track_caller]
    pub(crate) fn prints_bytes(&self, count: usize) {
        let came = self.out.wait(Instant::now() + SOON, |bytes, _| (bytes.len() >= count).then_some(()));
        if came.is_none() {
            self.missing(&format!("{count} bytes"));
        }
    }

    /// The next event with this name on stdout; others are passed over.
    #[track_caller]
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let stream = self.out.clone();
        self.event_in(&stream, name)
    }

    /// The next event with this name on stderr, where stdout is payload.
    #[track_caller]
    pub(crate) fn err_event(&mut self, name: &str) -> Value {
        let stream = self.err.clone();
        self.event_in(&stream, name)
    }

    #[track_caller]
    fn event_in(&mut self, stream: &Stream, name: &str) -> Value {
        let read = self.events_read;
        let found = stream.wait(Instant::now() + SOON, |bytes, _| {
            let text = std::str::from_utf8(bytes).ok()?;
            let whole = &text[..=text.rfind('\n')?];
            whole.lines().enumerate().skip(read).find_map(|(at, line)| {
                let event = parse(line);
                (event["event"] == name).then_some((at + 1, event))
            })
        });
        let Some((read, event)) = found else { self.missing(name) };
        self.events_read = read;
        event
    }

    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the process reads");
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        self.type_bytes(format!("{line}\n").as_bytes());
    }

    /// Takes standard input, to write to it from elsewhere.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("standard input is open")
    }

    /// Gives back what was taken.
    #[allow(dead_code, reason = "one of the files that share this needs it")]
    pub(crate) fn give_stdin(&mut self, stdin: ChildStdin) {
        self.stdin = Some(stdin);
    }

    /// End of input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, signal).expect("the process runs");
    }

    /// Waits for its end; standard input stays as it is.
    #[track_caller]
    pub(crate) fn ends(self) -> Ended {
        self.ends_within(SOON)
    }

    /// Waits longer, or shorter.
    #[track_caller]
    pub(crate) fn ends_within(mut self, patience: Duration) -> Ended {
        let until = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if Instant::now() >= until {
                self.missing("(its end)");
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        for stream in [&self.out, &self.err] {
            stream.wait(until, |_, ended| ended.then_some(()));
        }
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        Ended { code, out: self.out.bytes(), err: self.err.text() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of `--json`.
#[track_caller]
pub(crate) fn parse(line: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(event["v"], 1, "{line}");
    assert!(event["event"].is_string(), "{line}");
    event
}

/// Every line of `--json` output.
#[track_caller]
pub(crate) fn events(text: &str) -> Vec<Value> {
    text.lines().map(parse).collect()
}

#[track_caller]
pub(crate) fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_else(|| panic!("{field} of {event}"))
}

/// A broker on a free loopback port.
pub(crate) struct Broker {
    pub(crate) process: Process,
    /// `127.0.0.1:PORT`.
    pub(crate) at: String,
    pub(crate) key: String,
    pub(crate) home: TempDir,
}

pub(crate) fn broker() -> Broker {
    broker_with(home(), &["--listen", "127.0.0.1:0"])
}

pub(crate) fn broker_with(home: TempDir, arguments: &[&str]) -> Broker {
    let arguments: Vec<&str> = ["broker", "--json"].iter().chain(arguments).copied().collect();
    let mut process = Process::start(home.path(), &arguments);
    let event = process.event("broker");
    let at = event["addresses"][0].as_str().expect("an address").to_owned();
    let key = text(&event, "key").to_owned();
    Broker { process, at, key, home }
}
