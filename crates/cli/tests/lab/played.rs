//! The documents' scenes, played as they are written: the commands typed, and what they print compared.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use libtest_mimic::Trial;
use natlab::kernel::Host;
use tempfile::TempDir;

use crate::documents::{self, DOCUMENTS, Scene as Written, Terminal, Way, code, scenes, shape, way};
use crate::kinds::Kind;
use crate::process::{Journal, PATIENCE, Process};
use crate::scene::Scene;
use crate::trial;

/// A session of ssh is started, and this is typed there.
const REMOTE: &str = "echo it\\'s $((40 + 2)); exit\n";
const REMOTE_SAYS: &str = "it's 42";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![trial("documents::the_tests_they_name_exist", tests_exist)];
    for mut scene in DOCUMENTS.into_iter().flat_map(scenes) {
        let document = scene.document;
        let name = move |terminal: &Terminal| format!("documents::{document}:{}", terminal.line);
        for terminal in std::mem::take(&mut scene.terminals) {
            match way(&terminal) {
                Some(Way::Lab) => trials.push(trial(name(&terminal), move || lab(&terminal))),
                Some(Way::Run) => scene.terminals.push(terminal),
                // Another test looks after these.
                Some(Way::Cargo | Way::Listed(_)) | None => {}
            }
        }
        if let Some(first) = scene.terminals.first() {
            trials.push(trial(name(first), move || play(scene)));
        }
    }
    trials
}

/// What stands behind `--test lab --`.
fn arguments(command: &str) -> Option<Vec<&str>> {
    command.split_once("--test lab -- ").map(|(_, arguments)| arguments.split_whitespace().collect())
}

fn own(arguments: &[&str]) -> String {
    let output = Command::new(env::current_exe().unwrap()).args(arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}:\n{text}");
    text
}

fn tests_exist() {
    let list = own(&["--list"]);
    let terminals = DOCUMENTS.into_iter().flat_map(scenes).flat_map(|scene| scene.terminals);
    let mut named = 0;
    for terminal in terminals {
        for filter in arguments(&terminal.command).into_iter().flatten().filter(|word| !word.starts_with('-'))
        {
            named += 1;
            assert!(list.contains(filter), "no test of the lab has '{filter}' in its name");
        }
    }
    assert!(named > 2, "only {named} tests of the lab are named");
}

/// A command of the lab: it passes, and prints what is shown, in that order.
fn lab(terminal: &Terminal) {
    let printed = own(&arguments(&terminal.command).unwrap());
    let mut lines = printed.lines().map(shape);
    for shown in &terminal.shows {
        assert!(
            lines.any(|line| line == shape(shown)),
            "'{shown}' is not printed (any more) here:\n{printed}"
        );
    }
}

/// A terminal with a command that runs.
struct Open<'a> {
    written: &'a Terminal,
    child: Child,
    input: Option<ChildStdin>,
    printed: Arc<Mutex<Vec<u8>>>,
    /// Words printed, up to where the written lines were found.
    read: usize,
    /// Written lines that were found or typed.
    found: usize,
    ended: Option<bool>,
    /// Where it runs.
    directory: TempDir,
}

impl Open<'_> {
    fn lines(&self) -> Vec<String> {
        let printed = self.printed.lock().unwrap();
        let text = String::from_utf8_lossy(&printed);
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    /// Finds the next written lines in what is printed, and types those that are typed. Whether all are found.
    fn follow(&mut self, said: &[String]) -> bool {
        let lines = self.lines();
        let printed: Vec<(String, Edge)> = lines.iter().flat_map(|line| edged(&shape(line))).collect();
        while let Some(next) = self.written.shows.get(self.found) {
            if let Some(text) = typed(next, said) {
                let input = self.input.as_mut().expect("its input is open while something is to be typed");
                input.write_all(format!("{text}\n").as_bytes()).expect("it reads");
            } else {
                let words = edged(&shape(next));
                // A terminal breaks long lines; the rest of one is indented.
                let rest = self.written.shows.get(self.found + 1);
                let goes_on = rest.is_some_and(|line| line.starts_with(char::is_whitespace));
                let is_there = |at: usize| {
                    let Some(there) = printed.get(at..at + words.len()) else { return false };
                    there.iter().zip(&words).all(|(one, other)| one.0 == other.0)
                        && (at == self.read || there.first().is_none_or(|word| word.1.begins))
                        && (goes_on || there.last().is_none_or(|word| word.1.ends))
                };
                match (self.read..=printed.len()).find(|at| is_there(*at)) {
                    Some(at) => self.read = at + words.len(),
                    // Said only of what takes longer than a second.
                    None if next.starts_with("waiting for ") && next.ends_with(" ...") => {}
                    None => return false,
                }
            }
            self.found += 1;
        }
        true
    }

    fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap().map(|status| status.success());
        }
        self.ended.is_some()
    }

    fn is_broker(&self) -> bool {
        verb(&self.written.command) == "broker"
    }

    /// Whether it has come as far as the next terminal needs.
    fn is_under_way(&mut self) -> bool {
        let coded = self.lines().iter().any(|line| code(line).is_some());
        match self.written.shows.iter().any(|line| code(line).is_some()) || self.written.shows.is_empty() {
            true => coded || self.has_ended(),
            false => self.found > 0 || self.has_ended(),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a word is the first and the last of its line.
#[derive(Clone, Copy)]
struct Edge {
    begins: bool,
    ends: bool,
}

fn edged(line: &str) -> Vec<(String, Edge)> {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let edge = |at| Edge { begins: at == 0, ends: at + 1 == words.len() };
    words.iter().enumerate().map(|(at, word)| ((*word).to_owned(), edge(at))).collect()
}

/// What somebody says, as the other terminals show it.
fn said(scene: &Written) -> Vec<String> {
    let shown = scene.terminals.iter().flat_map(|terminal| &terminal.shows);
    let said = shown.filter_map(|line| {
        let (name, text) = line.split_once(": ")?;
        (!name.contains(' ')).then(|| text.to_owned())
    });
    said.collect()
}

/// The text that is typed where this line stands, if it is one: behind the prompt, perhaps not to its end yet, or, without
/// one, a line that another terminal shows as said.
fn typed(line: &str, said: &[String]) -> Option<String> {
    match line.strip_prefix("> ") {
        Some(begin) => {
            let whole = said.iter().find(|text| text.starts_with(begin));
            Some(whole.map_or(begin, String::as_str).to_owned())
        }
        None => said.iter().find(|text| *text == line).cloned(),
    }
}

/// Where the terminals of a scene are.
struct Stage {
    hosts: Vec<Host>,
    /// The broker elsewhere, and its address.
    away: Option<(Process, String)>,
    /// Who has the code that a command uses and no terminal prints.
    partner: Option<(Process, String)>,
    _ssh: Option<(Child, TempDir)>,
    bin: TempDir,
}

/// The program and, for sessions, ssh, as a shell finds them.
fn programs() -> TempDir {
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tcpunch"), bin.path().join("tcpunch")).unwrap();
    bin
}

/// What the program is told to do in a command.
fn verb(command: &str) -> &str {
    documents::words(command).skip_while(|word| *word != "tcpunch").nth(1).unwrap_or_default()
}

fn stage(scene: &Scene, written: &Written) -> Stage {
    let bin = programs();
    let commands: Vec<&str> = written.terminals.iter().map(|terminal| terminal.command.as_str()).collect();
    let has_broker = commands.iter().any(|command| verb(command) == "broker");
    // One computer at home for a broker and who names none, and for what needs none.
    let together = |command: &str| match verb(command) {
        "chat" | "listen" | "connect" | "ping" | "doctor" => {
            has_broker && !command.contains("--broker ") && !command.contains('@')
        }
        _ => !command.starts_with("ssh "),
    };
    let home = commands
        .iter()
        .any(|command| together(command))
        .then(|| Kind::PreservingDrop.site(&scene.lab, "computer", Duration::ZERO));
    if let (Some(home), true) = (&home, commands.iter().all(|command| together(command))) {
        return Stage {
            hosts: vec![home.clone(); commands.len()],
            away: None,
            partner: None,
            _ssh: None,
            bin,
        };
    }
    // Everyone else has a home of his own, and the broker is elsewhere.
    let host = scene.lab.public_host("broker").without_ipv6().start().unwrap();
    let address = host.ipv4().to_string();
    fs::write(bin.path().join("hosts"), format!("127.0.0.1 localhost\n{address} broker.example\n")).unwrap();
    let mut places: Vec<&str> =
        written.terminals.iter().flat_map(|terminal| terminal.place.split_whitespace()).collect();
    let second = places.iter().position(|place| *place == "two-addresses").map(|at| {
        places.remove(at);
        host.add_ipv4().unwrap().to_string()
    });
    let probe: &[&str] = if let Some(second) = &second { &["--probe", second] } else { &[] };
    let away = scene.broker_on(&host, &[&["--ephemeral", "--public", "broker.example"], probe].concat());
    let kind = places.first().map_or(Kind::PreservingDrop, |name| {
        let mut kinds = Kind::ALL.into_iter().chain([Kind::Symmetric]);
        kinds.find(|kind| kind.name() == *name).expect("a network of the lab")
    });
    let site = |name: &str| kind.site(&scene.lab, name, Duration::from_millis(2));
    let hosts: Vec<Host> = commands
        .iter()
        .enumerate()
        .map(|(at, command)| match &home {
            Some(home) if together(command) => home.clone(),
            _ => site(&format!("computer-{at}")),
        })
        .collect();
    let printed = written.terminals.iter().any(|terminal| {
        terminal.shows.iter().any(|line| code(line).is_some())
            || terminal.shows.is_empty() && terminal.command.contains("listen")
    });
    let partner = commands.iter().find(|command| !printed && code(command).is_some()).map(|command| {
        let partner = match verb(command) {
            "connect" => "listen",
            "doctor" => "ping",
            other => other,
        };
        let mut partner = scene.start(&site("partner"), partner, &["--broker", &address]);
        let code = partner.event("code").text("code").to_owned();
        (partner, code)
    });
    let ssh =
        commands.iter().any(|command| command.starts_with("ssh ")).then(|| ssh_server(&hosts[0], bin.path()));
    Stage { hosts, away: Some((away, address)), partner, _ssh: ssh, bin }
}

/// The command as it is typed here: with the address of the broker that there is, and with the code that was really printed.
fn here(stage: &Stage, command: &str, shown: &[&str], open: &[Open<'_>]) -> String {
    let command = with_code(stage, command, shown, open);
    match (&stage.away, command.split_once("--broker ")) {
        (Some((_, address)), Some((before, behind))) => {
            let rest = behind.find(' ').map_or("", |end| &behind[end..]);
            format!("{before}--broker {address}{rest}")
        }
        _ => command,
    }
}

/// A server where ssh is expected on that host, and a client that needs no questions.
fn ssh_server(host: &Host, bin: &Path) -> (Child, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| directory.path().join(name).display().to_string();
    for key in ["host", "user"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &here(key)]).status();
        assert!(made.unwrap().success());
    }
    // Where it drops its privileges.
    fs::create_dir_all("/run/sshd").unwrap();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
         StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        here("host"),
        here("user.pub"),
    );
    fs::write(here("config"), config).unwrap();
    let mut server = host.command("sh");
    // It insists on an absolute path of its own.
    server.args(["-c", "exec \"$(PATH=$PATH:/usr/sbin command -v sshd)\" -D -e -f \"$0\"", &here("config")]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    let mut output = server.stderr.take().unwrap();
    let mut buffer = [0; 256];
    while !String::from_utf8_lossy(&said).contains("listening") {
        let length = output.read(&mut buffer).unwrap();
        assert!(length > 0, "no ssh server: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..length]);
    }
    thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    // `user` stands for the reader's own name.
    let client = format!(
        "#!/bin/sh\nexec {} -F none -i {} -l root -o BatchMode=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \"$@\"\n",
        which("ssh").display(),
        here("user"),
    );
    let wrapper = bin.join("ssh");
    fs::write(&wrapper, client).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (server, directory)
}

fn which(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap();
    env::split_paths(&path)
        .map(|place| place.join(program))
        .find(|file| file.exists())
        .expect("it is installed")
}

/// A directory that has what commands take from the reader's.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("home")).unwrap();
    directory
}

fn open<'a>(journal: &Journal, stage: &Stage, at: usize, written: &'a Terminal, command: &str) -> Open<'a> {
    let directory = directory();
    if command.contains(" photos") {
        fs::create_dir(directory.path().join("photos")).unwrap();
        fs::write(directory.path().join("photos/sea.jpg"), [0xff, 0xd8, 0, 10, 13, 4]).unwrap();
    }
    // On a terminal both outputs are one.
    let names = stage.bin.path().join("hosts");
    let mut shell = stage.hosts[at].command("sh");
    shell
        .args(["-c", "[ ! -e \"$0\" ] || mount --bind \"$0\" /etc/hosts; exec 2>&1; eval \"$1\""])
        .arg(&names)
        .arg(command);
    let path = env::join_paths(
        [stage.bin.path().to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    shell.env("PATH", path.unwrap()).env("HOME", directory.path().join("home")).env_remove("TCPUNCH_CODE");
    if stage.away.is_some() {
        shell.env("TCPUNCH_BROKER", "broker.example");
    }
    shell.current_dir(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    journal.note(&format!("terminal {at}"), &format!("$ {command}"));
    let printed = Arc::new(Mutex::new(Vec::new()));
    let (mut output, kept) = (child.stdout.take().unwrap(), printed.clone());
    let (journal, name) = (journal.clone(), format!("terminal {at}"));
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            journal.note(&name, &String::from_utf8_lossy(&buffer[..length]));
            kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    });
    let mut input = child.stdin.take();
    if command.starts_with("ssh ") {
        input.as_mut().unwrap().write_all(REMOTE.as_bytes()).unwrap();
    }
    Open { written, child, input, printed, read: 0, found: 0, ended: None, directory }
}

/// The command with the code that was really printed in the place of the one that is written. Other words behind the same
/// number stay: they are the wrong ones.
fn with_code(stage: &Stage, command: &str, written: &[&str], open: &[Open<'_>]) -> String {
    let Some((number, secret, broker)) = code(command) else { return command.to_owned() };
    let printed = open.iter().flat_map(Open::lines).filter(|line| code(line).is_some());
    let printed: Vec<String> = stage.partner.iter().map(|(_, code)| code.clone()).chain(printed).collect();
    let Some((real_number, real_secret, real_broker)) = printed.last().and_then(|line| code(line)) else {
        return command.to_owned();
    };
    let is_right = !written.iter().any(|line| code(line).is_some())
        || written.iter().filter_map(|line| code(line)).any(|(_, words, _)| words == secret);
    let words = if is_right { real_secret } else { secret };
    let join = |number: &str, words: &str, broker: &str| {
        if broker.is_empty() { format!("{number}-{words}") } else { format!("{number}-{words}@{broker}") }
    };
    command.replace(&join(number, secret, broker), &join(real_number, words, real_broker))
}

fn play(written: Written) {
    let scene = Scene::new();
    let journal = &scene.journal;
    let stage = stage(&scene, &written);
    let said = said(&written);
    let shown: Vec<&str> =
        written.terminals.iter().flat_map(|terminal| &terminal.shows).map(String::as_str).collect();
    let mut opened: Vec<Open<'_>> = Vec::new();
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let all = opened.len() == written.terminals.len();
        let mut later_ended = all;
        for terminal in opened.iter_mut().rev() {
            let complete = terminal.follow(&said);
            // The last that came is the first that goes; brokers stay.
            if complete && later_ended && !terminal.is_broker() {
                terminal.input = None;
            }
            later_ended &= terminal.is_broker() || terminal.has_ended();
        }
        if all && later_ended && opened.iter_mut().all(|terminal| terminal.follow(&said)) {
            break;
        }
        if let Some(next) = written.terminals.get(opened.len()) {
            let ready = opened.last_mut().is_none_or(|last| {
                if next.follows && !last.is_broker() { last.has_ended() } else { last.is_under_way() }
            });
            if ready {
                let command = here(&stage, &next.command, &shown, &opened);
                opened.push(open(journal, &stage, opened.len(), next, &command));
            }
        }
        if Instant::now() > deadline {
            let missing = opened.iter().filter_map(|terminal| terminal.written.shows.get(terminal.found));
            journal.fail(&format!(
                "{}:{}: not as written; missing: {:#?}",
                written.document,
                written.terminals[0].line,
                missing.collect::<Vec<_>>()
            ));
        }
        // Outputs are gathered by threads of their own.
        thread::sleep(Duration::from_millis(5));
    }
    // Nothing of a report is left out.
    for terminal in opened.iter().filter(|terminal| verb(&terminal.written.command) == "doctor") {
        let words = |lines: &[String]| -> Vec<String> {
            let lines = lines.iter().filter(|line| !line.starts_with("waiting for "));
            lines.flat_map(|line| edged(&shape(line))).map(|(word, _)| word).collect()
        };
        let whole = words(&terminal.lines()) == words(&terminal.written.shows);
        journal.assert(whole, &format!("more or less is printed than line {} says", terminal.written.line));
    }
    let session = opened.iter().any(|terminal| terminal.written.command.starts_with("ssh "));
    for terminal in &opened {
        // ssh ends its ProxyCommand by a signal when the session is over, so the far end hears no end of the pipe.
        let far_end = session && terminal.written.command.starts_with("socat ");
        let well = terminal.ended != Some(false) || !terminal.written.shows.is_empty() || far_end;
        journal.assert(well, &format!("this failed: {}", terminal.written.command));
        if terminal.written.command.starts_with("ssh ") {
            let says = terminal.lines().iter().any(|line| line == REMOTE_SAYS);
            journal.assert(says, "nothing is run at the other end");
        }
        if terminal.written.command.ends_with("| tar x") {
            let came = fs::read(terminal.directory.path().join("photos/sea.jpg"));
            journal.assert(came.is_ok_and(|photo| photo.len() == 6), "no photo came");
        }
    }
}
