//! The program on a real terminal: one of tmux's, with keys typed and the screen read.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::process::{Broker, PROGRAM, Process, SOON, broker, home};
use super::{code, lacks, run};

const WHAT_FOR: &str = "a terminal";

/// A terminal with one program on it; ended when dropped.
struct Terminal {
    home: TempDir,
    socket: PathBuf,
}

impl Terminal {
    /// Runs a line of bash on a terminal of this width, and tells how it ended and whether the
    /// terminal's modes are as they were.
    fn run(columns: u16, line: &str) -> Self {
        let script = format!(
            "before=$(stty -g); {line}; echo \"exit $?\"; [ \"$(stty -g)\" = \"$before\" ] && echo 'modes as before' \
             || {{ echo 'modes changed'; stty -a; }}; sleep 1000"
        );
        Self::start(columns, &["bash", "--norc", "--noprofile", "-c", &script])
    }

    /// A shell to type at.
    fn shell(columns: u16) -> Self {
        let terminal = Self::start(columns, &["bash", "--norc", "--noprofile", "-i"]);
        terminal.types("PS1='$ '; bind 'set bell-style none'\n");
        terminal
    }

    fn start(columns: u16, command: &[&str]) -> Self {
        let home = home();
        let socket = home.path().join("tmux");
        let terminal = Terminal { home, socket };
        let columns = columns.to_string();
        let size = ["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", "30"];
        terminal.tmux(&[&size[..], command].concat());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// What a person types; a line end is Enter.
    fn types(&self, text: &str) {
        for (at, part) in text.split('\n').enumerate() {
            if at > 0 {
                self.key("Enter");
            }
            if !part.is_empty() {
                self.tmux(&["send-keys", "-l", "--", part]);
            }
        }
    }

    /// A key by tmux's name for it.
    fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }

    /// What stands on the screen and above it, wrapped lines joined.
    fn screen(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-J", "-S", "-"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The screen with colours, as escape sequences.
    fn colours(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p", "-e"]).stdout).into_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, mut found: impl FnMut(&str) -> bool) {
        let until = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if found(&screen) {
                return;
            }
            assert!(Instant::now() < until, "never on the screen: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this is on the screen.
    #[track_caller]
    fn shows(&self, text: &str) {
        self.until(text, |screen| screen.contains(text));
    }

    /// Waits until this is what stands in the last line.
    #[track_caller]
    fn ends_with_line(&self, line: &str) {
        self.until(line, |screen| screen.lines().last() == Some(line));
    }

    /// The id of the program, a child of the terminal's shell.
    fn program(&self) -> Pid {
        let shell = self.tmux(&["list-panes", "-F", "#{pane_pid}"]).stdout;
        let shell = String::from_utf8(shell).unwrap().trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next_back().unwrap().parse().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What runs on it is hung up, as when a window is closed.
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

fn no_terminal() -> bool {
    lacks("tmux", WHAT_FOR) || lacks("bash", WHAT_FOR)
}

/// Ann at a terminal and Ben at a pipe, who see each other.
fn ann_and_ben(broker: &Broker, home: &Path, columns: u16, before: &str) -> (Terminal, Process) {
    let line = format!("{before} {PROGRAM} chat --ephemeral --name ann --broker {}", broker.at);
    let ann = Terminal::run(columns, &line);
    ann.shows("you are the first here");
    let ben = run(broker, home, &["chat", "--name", "ben"]);
    ben.says("* ann is here");
    ann.shows("* ben is here");
    (ann, ben)
}

#[test]
fn incoming_text_leaves_the_typed_line_whole() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let (ann, mut ben) = ann_and_ben(&broker, home.path(), 80, "");
    ann.types("half a l");
    ann.ends_with_line("> half a l");
    for n in 0..5 {
        ben.type_line(&format!("interruption {n}"));
        ann.shows(&format!("ben: interruption {n}"));
        ann.ends_with_line("> half a l");
    }
    // What came stands above in lines of its own.
    let screen = ann.screen();
    assert_eq!(screen.lines().filter(|line| line.starts_with("ben: interruption ")).count(), 5, "{screen}");
    ann.types("ine\n");
    assert_eq!(ben.prints("half"), "ann: half a line");
}

#[test]
fn long_and_wide_lines_survive_interruptions_and_a_narrow_terminal() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let (ann, mut ben) = ann_and_ben(&broker, home.path(), 40, "");
    let (first, second) =
        ("日本語 and 🚀 and a line that is longer than", " forty columns wide, twice over: äöü");
    ann.types(first);
    // The editor breaks its own lines.
    let typed = |part: &str| ann.until(part, |screen| screen.replace('\n', "").contains(part));
    typed("a line that is longer than");
    ben.type_line("an interruption that is itself longer than forty columns");
    ann.shows("ben: an interruption that is itself longer than forty columns");
    ann.tmux(&["resize-window", "-x", "60"]);
    ann.types(second);
    typed("twice over: äöü");
    ben.type_line("another");
    ann.shows("ben: another\n> 日本語");
    ann.types("\n");
    assert_eq!(ben.prints("日本語"), format!("ann: {first}{second}"));
}

#[test]
fn several_lines_at_once_are_several_messages() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let (ann, ben) = ann_and_ben(&broker, home.path(), 80, "");
    // As a terminal pastes for who asked for marks, and without any.
    for (marks, name) in [("-p", "marked"), ("-r", "plain")] {
        let lines: Vec<String> = (0..100).map(|n| format!("{name} {n}")).collect();
        ann.tmux(&["set-buffer", &(lines.join("\r") + "\r")]);
        ann.tmux(&["paste-buffer", marks]);
        if name == "marked" {
            // It is shown before it is said.
            ann.shows("marked 99");
            ann.types("\n");
        }
        ben.prints(&format!("{name} 99"));
        let said: Vec<String> =
            ben.out().lines().filter(|line| line.contains(name)).map(str::to_owned).collect();
        assert_eq!(said, lines.iter().map(|line| format!("ann: {line}")).collect::<Vec<_>>());
    }
}

#[test]
fn tab_completes_names_and_the_arrow_brings_lines_back() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let (ann, ben) = ann_and_ben(&broker, home.path(), 80, "");
    ann.types("b");
    ann.key("Tab");
    ann.ends_with_line("> ben:");
    ann.types("ask be");
    ann.key("Tab");
    ann.ends_with_line("> ben: ask ben");
    ann.types("first\n");
    assert_eq!(ben.prints("first"), "ann: ben: ask ben first");
    ann.key("Up");
    ann.ends_with_line("> ben: ask ben first");
    ann.types(" and again\n");
    ben.prints("ann: ben: ask ben first and again");
}

#[test]
fn commands_are_for_the_program_and_not_said() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let (ann, ben) = ann_and_ben(&broker, home.path(), 80, "");
    ann.types("/peers\n");
    ann.shows("you are ann\n* ben (lan)");
    ann.types("/path\n");
    ann.shows("* ben  path  lan  ");
    ann.types("/path be");
    ann.key("Tab");
    ann.types("\n");
    ann.until("a second path", |screen| screen.matches("* ben  path  lan  ").count() == 2);
    ann.types("/path nobody\n");
    ann.shows("nobody here is called nobody");
    ann.types("/help\n");
    ann.shows("/quit         leave");
    ann.types("/etc/hosts\n");
    ann.shows("/etc/hosts is no command and was not said; /help lists them, and //etc/hosts says it");
    ann.types("//etc/hosts\n");
    ben.prints("ann: /etc/hosts");
    ann.types("/quit\n");
    ben.says("* ann left");
    ann.shows("exit 0\nmodes as before");
    assert_eq!(ben.out(), "ann: /etc/hosts\n");
}

#[test]
fn from_a_pipe_a_slash_is_said() {
    let (broker, home) = (broker(), home());
    let mut one = run(&broker, home.path(), &["chat", "--name", "one"]);
    one.says("you are the first here");
    let two = run(&broker, home.path(), &["chat", "--name", "two"]);
    one.says("* two is here");
    one.type_line("/quit");
    two.prints("one: /quit");
}

#[test]
fn a_chat_that_is_quit_with_nothing_to_deliver_ends_well() {
    if no_terminal() {
        return;
    }
    let broker = broker();
    let line = format!("{PROGRAM} chat --ephemeral --broker {}", broker.at);
    let alone = Terminal::run(80, &line);
    alone.shows("you are the first here");
    alone.types("/peers\n");
    alone.shows("nobody else is here");
    alone.types("/quit\n");
    alone.shows("exit 0\nmodes as before");
    // What nobody heard is not lost in silence.
    let alone = Terminal::run(80, &line);
    alone.shows("you are the first here");
    alone.types("anybody?\n/quit\n");
    alone.shows("not delivered:");
    alone.shows("exit 4\nmodes as before");
}

#[test]
fn the_terminal_is_as_it_was_however_the_chat_ends() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    type End<'a> = (&'a str, &'a str, &'a dyn Fn(&Terminal, &mut Process));
    let ends: [End<'_>; 6] = [
        ("Ctrl-D", "exit 0", &|ann, _| ann.key("C-d")),
        ("Ctrl-C", "exit 130", &|ann, _| ann.key("C-c")),
        ("Ctrl-C in the middle of a line", "exit 130", &|ann, _| {
            ann.types("unsaid");
            ann.key("C-c");
        }),
        ("SIGINT", "exit 130", &|ann, _| kill(ann.program(), Signal::SIGINT).unwrap()),
        ("SIGTERM", "exit 143", &|ann, _| kill(ann.program(), Signal::SIGTERM).unwrap()),
        ("SIGHUP", "exit 129", &|ann, _| kill(ann.program(), Signal::SIGHUP).unwrap()),
    ];
    for (what, exit, end) in ends {
        let (ann, mut ben) = ann_and_ben(&broker, home.path(), 80, "");
        end(&ann, &mut ben);
        ann.until(what, |screen| screen.ends_with(&format!("{exit}\nmodes as before")));
    }
}

#[test]
fn the_terminal_is_as_it_was_after_the_peer_went() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let line = format!("{PROGRAM} chat --ephemeral --new --name ann --broker {}", broker.at);
    for (signal, exit) in [(Signal::SIGKILL, "exit 8"), (Signal::SIGINT, "exit 0")] {
        let ann = Terminal::run(100, &line);
        ann.shows("code  ");
        let screen = ann.screen();
        let code = screen.lines().find_map(|line| line.strip_prefix("code  ")).unwrap().to_owned();
        let mut ben = Process::start(home.path(), &["chat", &code, "--name", "ben"]);
        ben.type_line("hi");
        ann.shows("ben: hi");
        ann.types("half a line");
        ann.ends_with_line("> half a line");
        ben.signal(signal);
        // All that was to be said stands there, below what was being typed.
        let last = if exit == "exit 8" { "connection lost" } else { "* ben left" };
        ann.shows(last);
        ann.shows("half a line");
        ann.until(exit, |screen| screen.ends_with(&format!("{exit}\nmodes as before")));
    }
}

#[test]
fn a_stopped_chat_goes_on_with_its_line() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let shell = Terminal::shell(100);
    shell.types(&format!("clear; {PROGRAM} chat --ephemeral --name ann --broker {}\n", broker.at));
    shell.shows("you are the first here");
    let mut ben = run(&broker, home.path(), &["chat", "--name", "ben"]);
    ben.says("* ann is here");
    shell.shows("* ben is here");
    shell.types("one");
    shell.ends_with_line("> one");
    // By the key, and by a signal that nobody is asked about.
    for (times, more) in [(1, "two"), (2, "three")] {
        if times == 1 {
            shell.key("C-z");
        } else {
            kill(shell.program(), Signal::SIGSTOP).unwrap();
        }
        shell.until("stopped", |screen| screen.matches("Stopped").count() == times);
        shell.types("fg\n");
        shell.until("the line again", |screen| {
            screen.lines().last().is_some_and(|line| line.starts_with("> one"))
        });
        shell.types(more);
        shell.until(more, |screen| screen.lines().last().is_some_and(|line| line.ends_with(more)));
    }
    ben.type_line("still here?");
    shell.shows("ben: still here?");
    shell.ends_with_line("> onetwothree");
    shell.types("\n");
    ben.prints("ann: onetwothree");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    for (before, coloured) in
        [("", true), ("NO_COLOR=", true), ("NO_COLOR=1", false), ("TERM=dumb", false), ("TERM=", false)]
    {
        let (ann, mut ben) = ann_and_ben(&broker, home.path(), 80, before);
        ben.type_line("how do I look?");
        ann.shows("ben: how do I look?");
        let screen = ann.colours();
        assert_eq!(screen.contains('\u{1b}'), coloured, "{before}: {screen:?}");
        ann.key("C-c");
        ann.shows("exit 130");
    }
    // Where standard error goes elsewhere it has none, though the terminal has.
    let file = home.path().join("talk");
    let line =
        format!("{PROGRAM} connect --ephemeral --broker 127.0.0.1:1 412-zebra-zoo 2>{}", file.display());
    let terminal = Terminal::run(80, &line);
    terminal.shows("exit 3");
    let told = std::fs::read_to_string(file).unwrap();
    assert!(told.contains("tcpunch: ") && !told.contains('\u{1b}'), "{told:?}");
}

#[test]
fn a_chat_with_its_lines_in_a_file_is_edited_all_the_same() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let said = home.path().join("said");
    let line = format!("{PROGRAM} chat --ephemeral --name ann --broker {} >{}", broker.at, said.display());
    let ann = Terminal::run(80, &line);
    ann.shows("you are the first here");
    let mut ben = run(&broker, home.path(), &["chat", "--name", "ben"]);
    ann.shows("* ben is here");
    ann.types("be");
    ann.key("Tab");
    ann.ends_with_line("> ben:");
    ben.type_line("for the file");
    let until = Instant::now() + SOON;
    while std::fs::read_to_string(&said).unwrap() != "ben: for the file\n" {
        assert!(Instant::now() < until, "{:?}", std::fs::read_to_string(&said));
        std::thread::sleep(Duration::from_millis(10));
    }
    ann.types("hi\n");
    ben.prints("ann: ben: hi");
    ann.key("C-d");
    ann.shows("exit 0\nmodes as before");
}

// --- the question for a code ---

#[test]
fn the_question_completes_words_and_names_wrong_ones_before_the_network() {
    if no_terminal() {
        return;
    }
    let (broker, home) = (broker(), home());
    let listener = run(&broker, home.path(), &["listen"]);
    let code = code(&listener);
    let (number, rest) = code.split_once('-').unwrap();
    let (words, host) = rest.split_once('@').unwrap();
    let (first, second) = words.split_once('-').unwrap();
    // A broker that answers nothing and counts who comes.
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let line = format!("{PROGRAM} connect --ephemeral --broker {} </dev/null", trap.local_addr().unwrap());
    let terminal = Terminal::run(100, &line);
    terminal.ends_with_line("Code:");
    terminal.types("412-zebr");
    terminal.key("Tab");
    terminal.ends_with_line("Code: 412-zebra-");
    terminal.types("zooo\n");
    terminal.shows("'zooo' is not a word of codes; did you mean 'zoo'?");
    assert!(trap.accept().is_err(), "the broker was dialled for a code that can't be");
    terminal.key("C-u");
    terminal.types(&format!("{number}-{first}-{second}@{host}\n"));
    listener.says("path  lan");
    terminal.shows("path  lan");
    // It is nowhere to be found again.
    drop(listener);
    terminal.shows("modes as before");
}

#[test]
fn the_question_can_be_left_unanswered() {
    if no_terminal() {
        return;
    }
    let line = format!("{PROGRAM} connect --ephemeral");
    for before in ["", "TERM=dumb "] {
        for (key, exit) in [("C-d", "exit 2"), ("C-c", "exit 130")] {
            let terminal = Terminal::run(100, &format!("{before}{line}"));
            terminal.ends_with_line("Code:");
            terminal.key(key);
            terminal.until(exit, |screen| screen.ends_with(&format!("{exit}\nmodes as before")));
            assert_eq!(
                terminal.screen().contains("no code was typed"),
                exit == "exit 2",
                "{}",
                terminal.screen()
            );
        }
    }
    let terminal = Terminal::run(100, &line);
    terminal.ends_with_line("Code:");
    kill(terminal.program(), Signal::SIGTERM).unwrap();
    terminal.until("exit 143", |screen| screen.ends_with("exit 143\nmodes as before"));
}

// --- completion in a shell ---

#[test]
fn bash_completes_commands_flags_and_words_of_codes() {
    if no_terminal() {
        return;
    }
    let shell = Terminal::shell(100);
    let directory = Path::new(PROGRAM).parent().unwrap().display().to_string();
    shell.types(&format!("PATH=$PATH:{directory}; source <(tcpunch completions bash); clear; echo ready\n"));
    shell.ends_with_line("$");
    for (typed, completed) in [
        ("tcpunch conn", "$ tcpunch connect"),
        ("412-zeb", "$ tcpunch connect 412-zebra-"),
        ("zon", "$ tcpunch connect 412-zebra-zone"),
        (" --raw --eph", "$ tcpunch connect 412-zebra-zone  --raw --ephemeral"),
    ] {
        shell.types(typed);
        shell.key("Tab");
        shell.ends_with_line(completed);
    }
    shell.key("C-u");
    shell.types("tcpunch ping 412-zebra-zo");
    shell.key("Tab");
    shell.key("Tab");
    shell.shows("412-zebra-zone  412-zebra-zoo");
}
