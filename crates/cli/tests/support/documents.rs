//! The commands and screens in documents, as they stand there now.
//!
//! A fenced block `console` is one terminal: `$ command`, and what it shows, typed lines included. The console blocks
//! under one heading that have the same code are one scene: terminals that are open at the same time, started from the
//! first to the last; so are a broker and chats. Behind `console` may stand which network the computers are in, by its name in
//! the lab (`nat-behind-nat`), and `two-addresses` for a broker that has as many. A block `sh` is a scene of its own, with
//! one terminal for each command. A block `text demo` is an excerpt of what `tcpunch demo` prints.

use std::path::{Path, PathBuf};

/// Where readers find commands to type.
pub(crate) const DOCUMENTS: [&str; 3] = ["README.md", "docs/how-it-works.md", "CONTRIBUTING.md"];

/// Commands that are not run, by how they begin, and why.
const NOT_RUN: [(&str, &str); 2] = [
    (".ci/run", "it runs this test, among all the others"),
    ("tcpunch connect\n", "it asks on the terminal, which cli.rs does with a terminal of its own"),
];

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// A command, and the lines that stand below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terminal {
    /// Of the document.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) shows: Vec<String>,
    /// Whether the command before this one is typed in the same terminal.
    pub(crate) follows: bool,
    /// What its block says of where it is.
    pub(crate) place: String,
}

/// What is open at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) document: &'static str,
    pub(crate) terminals: Vec<Terminal>,
}

/// What is done with a command.
#[derive(Debug, PartialEq)]
pub(crate) enum Way {
    /// Run in the lab, with the rest of its scene.
    Run,
    /// A test of the lab by its name: run, and what it prints compared, where the document shows that.
    Lab,
    /// Cargo, which CI runs anyway: everything that it names exists.
    Cargo,
    /// Not run, for this reason.
    Listed(&'static str),
}

/// What is done with the command, or `None` if nobody has thought of it.
pub(crate) fn way(terminal: &Terminal) -> Option<Way> {
    let command = without_variables(&terminal.command);
    if command.starts_with("cargo test") && command.contains("--test lab ") && !terminal.shows.is_empty() {
        Some(Way::Lab)
    } else if command.starts_with("cargo ") {
        Some(Way::Cargo)
    } else if let Some((_, why)) = NOT_RUN.iter().find(|(begin, _)| format!("{command}\n").starts_with(begin))
    {
        Some(Way::Listed(why))
    } else if words(command).any(|word| word == "tcpunch") {
        Some(Way::Run)
    } else {
        None
    }
}

/// Words, whatever quotes they are in.
pub(crate) fn words(command: &str) -> impl Iterator<Item = &str> {
    command.split(|c: char| c.is_whitespace() || "'\"=:|".contains(c)).filter(|word| !word.is_empty())
}

/// The command behind `NAME=value`.
pub(crate) fn without_variables(command: &str) -> &str {
    let mut rest = command.trim_start();
    while let Some((first, after)) = rest.split_once(' ')
        && first
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    {
        rest = after.trim_start();
    }
    rest
}

struct Block {
    heading: usize,
    language: String,
    /// Of the first line inside.
    line: usize,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut open, mut heading) = (false, 0);
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            open = !open;
            if open {
                let language = language.trim().to_owned();
                blocks.push(Block { heading, language, line: number + 2, lines: Vec::new() });
            }
        } else if open {
            blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else if line.starts_with('#') {
            heading = number;
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// What blocks of one scene have in common.
#[derive(Clone, PartialEq)]
enum Together {
    /// The number of a code.
    Code(String),
    Lobby,
}

fn together(terminals: &[Terminal]) -> Option<Together> {
    let lines =
        terminals.iter().flat_map(|terminal| std::iter::once(&terminal.command).chain(&terminal.shows));
    if let Some((number, _, _)) = lines.clone().find_map(|line| code(line)) {
        return Some(Together::Code(number.to_owned()));
    }
    let lobby = |terminal: &Terminal| {
        let mut words = words(&terminal.command).skip_while(|word| *word != "tcpunch").skip(1);
        matches!(words.next(), Some("broker" | "chat"))
    };
    terminals.iter().any(lobby).then_some(Together::Lobby)
}

/// All scenes of a document.
pub(crate) fn scenes(document: &'static str) -> Vec<Scene> {
    let mut scenes: Vec<(usize, Option<Together>, Scene)> = Vec::new();
    for block in blocks(&read(document)) {
        // A screen may be in another language than `console`; a prompt in it is a command all the same.
        let script_of = (block.language == "sh").then(|| script(&block));
        let is_script = script_of.is_some();
        let terminals = script_of.unwrap_or_else(|| screens(&block));
        if terminals.is_empty() {
            continue;
        }
        let together = if is_script { None } else { together(&terminals) };
        let same = scenes.iter_mut().find(|(heading, other, _)| {
            *heading == block.heading && together.is_some() && *other == together
        });
        match same {
            Some((_, _, scene)) => scene.terminals.extend(terminals),
            None => scenes.push((block.heading, together, Scene { document, terminals })),
        }
    }
    scenes.into_iter().map(|(_, _, scene)| scene).collect()
}

fn script(block: &Block) -> Vec<Terminal> {
    let mut terminals = Vec::new();
    let mut command = String::new();
    for (at, line) in block.lines.iter().enumerate() {
        // A comment stands alone or behind blanks; a `#` within a word is part of a broker's address.
        let line = if line.starts_with('#') { "" } else { line.split(" # ").next().unwrap_or_default() };
        match line.trim().strip_suffix('\\') {
            Some(part) => command += part,
            None => {
                command += line.trim();
                if !command.is_empty() {
                    let command = std::mem::take(&mut command);
                    let line = block.line + at;
                    terminals.push(Terminal { line, command, ..Terminal::default() });
                }
            }
        }
    }
    terminals
}

fn screens(block: &Block) -> Vec<Terminal> {
    let place = block.language.strip_prefix("console ").unwrap_or_default();
    let mut terminals: Vec<Terminal> = Vec::new();
    for (at, line) in block.lines.iter().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            terminals.push(Terminal {
                line: block.line + at,
                command: command.to_owned(),
                follows: !terminals.is_empty(),
                place: place.to_owned(),
                ..Terminal::default()
            });
        } else if let Some(terminal) = terminals.last_mut() {
            terminal.shows.push(line.trim_end().to_owned());
        }
    }
    terminals
}

/// The lines of blocks in this language.
pub(crate) fn listings(document: &str, language: &str) -> Vec<Vec<String>> {
    let blocks = blocks(&read(document)).into_iter();
    blocks.filter(|block| block.language == language).map(|block| block.lines).collect()
}

/// A line without what differs from run to run: times, ports, addresses, keys, codes and names become signs, a plural a
/// singular. Ways of reaching a peer count as one, for which one it is depends on the network; so do a peer that fires and
/// one whose listener was faster, which is chance without a NAT.
pub(crate) fn shape(line: &str) -> String {
    const FASTER: &str = " need not send a SYN: the other's came in at the listener before.";
    const FIRES: &str = " sends a SYN from port 1, the same one, to 127.0.0.1:1. It opens the door in a NAT.";
    let line = &line.replace(FASTER, FIRES);
    let line = match line.split_once(", by voice: ") {
        Some((before, words)) if is_words(&words.trim().replace(' ', "-")) => {
            &format!("{before}, by voice: NAME")
        }
        Some(_) | None => line,
    };
    line.split_whitespace().map(shape_of_word).collect::<Vec<_>>().join(" ")
}

fn shape_of_word(word: &str) -> String {
    // The brackets of an IPv6 address go with it.
    let address = |c: char| c == '[' && word.contains(']');
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && !address(c));
    let sign = if code(bare).is_some() {
        "CODE"
    } else if bare.contains(|c: char| c.is_ascii_digit()) {
        "N"
    } else if is_words(bare) {
        "NAME"
    } else {
        match bare {
            "lan" | "direct" | "mapped" | "punched" | "birthday" => "PATH",
            "SYNs" => "SYN",
            "tries" => "try",
            "" => return word.to_owned(),
            bare => bare,
        }
    };
    word.replacen(bare, sign, 1)
}

fn is_words(text: &str) -> bool {
    let list = tcpunch_core::code::words();
    text.split_once('-').is_some_and(|(one, other)| list.contains(&one) && list.contains(&other))
}

/// The number, the words and the broker of the first code in a text, as parts of it.
pub(crate) fn code(text: &str) -> Option<(&str, &str, &str)> {
    let end_of = |c: char| !(c.is_ascii_alphanumeric() || "-@.:[]".contains(c));
    text.split(end_of).find_map(|word| {
        let (place, broker) = word.split_once('@').unwrap_or((word, ""));
        let (number, secret) = place.split_once('-')?;
        let all_digits = number.len() >= 3 && number.bytes().all(|digit| digit.is_ascii_digit());
        (all_digits && is_words(secret)).then_some((number, secret, broker))
    })
}
