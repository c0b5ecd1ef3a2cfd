//! The rules on sources and documents that no compiler checks: who may name what, which way the arrows between crates
//! point, and whether what the documents name exists.
//!
//! They look at a [`Tree`] of texts in memory, so each rule is tested on good and bad samples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

/// A thing that only certain files may name.
enum Name {
    /// A crate, as the first segment of a path: `ring::aead`, but neither a variable `ring` nor `crate::ring`.
    Crate(&'static str),
    /// Consecutive segments anywhere in a path, `use` groups expanded: `std::fs` is in `use std::{fs, io}`.
    Path(&'static str),
}
use Name::{Crate, Path as Segments};

/// Within `within`, only `except` may name `names`. Entries ending in `/` are directories.
struct Only {
    names: &'static [Name],
    within: &'static [&'static str],
    except: &'static [&'static str],
    /// Whether tests (`#[cfg(test)]`, `tests/`, `benches/`) may name it as well.
    tests_may: bool,
    because: &'static str,
}

const ONLY: &[Only] = &[
    Only {
        names: &[Crate("socket2")],
        within: &["crates/"],
        except: &[
            "crates/tcpunch/src/port.rs",
            "crates/broker/src/server.rs",
            "crates/broker/src/listen.rs",
            "crates/natlab/",
            "crates/scenarios/",
        ],
        tests_may: true,
        because: "reuse flags, linger and errno differ between systems: one file a crate knows them",
    },
    Only {
        names: &[Crate("snow"), Crate("spake2"), Crate("ring")],
        within: &["crates/"],
        except: &["crates/core/src/secure/"],
        tests_may: false,
        because: "cryptography is read and judged in one place",
    },
    Only {
        names: &[Crate("async_nats")],
        within: &["crates/"],
        except: &["crates/broker/src/cluster.rs"],
        tests_may: false,
        because: "a broker alone needs no message bus",
    },
    Only {
        names: &[Segments("Puncher")],
        within: &["crates/"],
        except: &["crates/core/", "crates/scenarios/", "crates/tcpunch/src/attempt.rs"],
        tests_may: false,
        because: "one loop drives an attempt, so no other can forget its timer",
    },
    Only {
        names: &[Segments("std::fs"), Segments("tokio::fs")],
        within: &["crates/core/", "crates/tcpunch/", "crates/apps/"],
        // gather.rs reads the kernel's table of routes under /proc, which is no file on a disk.
        except: &["crates/tcpunch/src/store.rs", "crates/tcpunch/src/gather.rs"],
        tests_may: true,
        because: "permissions, locks and atomic writes are right in one place",
    },
    Only {
        names: &[
            Segments("Instant::now"),
            Segments("thread::sleep"),
            Segments("TcpStream"),
            Segments("TcpListener"),
            Segments("UdpSocket"),
            Crate("tokio"),
        ],
        within: &["crates/core/src/"],
        except: &[],
        tests_may: true,
        because: "what decides takes time and packets as arguments, so that it runs in virtual time",
    },
    Only {
        names: &[
            Segments("rand::rng"),
            Segments("rand::random"),
            Segments("thread_rng"),
            Segments("ThreadRng"),
            Segments("OsRng"),
            Segments("from_os_rng"),
        ],
        within: &["crates/core/src/"],
        except: &[],
        tests_may: true,
        because: "what decides takes a seeded generator as an argument, so that every run can be repeated",
    },
    Only {
        names: &[Crate("getrandom"), Segments("SystemRandom")],
        within: &["crates/core/src/"],
        except: &["crates/core/src/secure/"],
        tests_may: true,
        because: "only the keys and nonces of secure/ must be unpredictable; all else is seeded",
    },
    Only {
        names: &[Segments("SystemTime"), Segments("CLOCK_REALTIME"), Crate("chrono")],
        within: &["crates/"],
        // What is kept on disk for days outlives every other clock.
        except: &[
            "crates/tcpunch/src/store.rs",
            "crates/tcpunch/src/store/networks.rs",
            "crates/tcpunch/src/memory.rs",
            "crates/tcpunch/src/report.rs",
        ],
        tests_may: true,
        because: "the clock on the wall jumps: what waits, ages or expires goes by a clock that does not",
    },
    Only {
        names: &[Segments("unsafe")],
        within: &[""],
        except: &["crates/natlab/"],
        tests_may: false,
        because: "only the lab's ioctls need it",
    },
];

/// Which of our packages a package may have in `[dependencies]` (and `[build-dependencies]`).
struct Arrows {
    directory: &'static str,
    may_use: &'static [&'static str],
    /// Of our packages, those it may also use in `[dev-dependencies]`.
    tests_may_use: &'static [&'static str],
    because: &'static str,
}

const OURS: &[&str] = &[
    "tcpunch-core",
    "tcpunch",
    "tcpunch-apps",
    "tcpunch-broker",
    "tcpunch-cli",
    "tcpunch-scenarios",
    "scenarios",
    "natlab",
    "tcpunch-fuzz",
    "xtask",
];

const ARROWS: &[Arrows] = &[
    Arrows {
        directory: "crates/core",
        may_use: &[],
        tests_may_use: &[],
        because: "core only decides, and is built and tested by itself",
    },
    Arrows {
        directory: "crates/tcpunch",
        may_use: &["tcpunch-core"],
        tests_may_use: &["tcpunch-broker", "natlab"],
        because: "the library stands on core alone",
    },
    Arrows {
        directory: "crates/broker",
        may_use: &["tcpunch-core"],
        tests_may_use: &["tcpunch", "natlab"],
        because: "the broker shares core with the peers and nothing else",
    },
    Arrows {
        directory: "crates/apps",
        may_use: &["tcpunch", "tcpunch-core"],
        tests_may_use: &["tcpunch-broker", "natlab"],
        because: "applications stand on connections, not on the broker or the terminal",
    },
    Arrows {
        directory: "crates/cli",
        may_use: &["tcpunch", "tcpunch-apps", "tcpunch-broker", "tcpunch-core"],
        tests_may_use: &["natlab", "scenarios", "tcpunch-scenarios"],
        because: "the shipped program carries no laboratory",
    },
    Arrows {
        directory: "crates/natlab",
        may_use: &[],
        // Itself, with the features that its tests need.
        tests_may_use: &["natlab"],
        because: "the lab knows nothing of ours, so it can judge us and serve others",
    },
    Arrows {
        directory: "crates/scenarios",
        may_use: &["tcpunch-core", "tcpunch", "tcpunch-apps", "tcpunch-broker", "natlab"],
        tests_may_use: &[],
        because: "the scenarios join all but the command line",
    },
    Arrows {
        directory: "xtask",
        may_use: &[],
        tests_may_use: &[],
        because: "the checks must run when the project does not build",
    },
];

const COMMANDS: &str = "crates/cli/src/commands/";
const COMMAND_LINES: usize = 130;

/// One broken rule: where, what, and why the rule is there.
#[derive(Debug)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    what: String,
    because: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, line, what, because } = self;
        write!(f, "{file}:{line}: {what} ({because})")
    }
}

/// The repository's paths, and the texts of those that rules read.
#[derive(Default)]
pub(crate) struct Tree {
    paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
}

impl Tree {
    /// Reads everything under `root` but build output and git's own files.
    ///
    /// # Errors
    /// When a directory or a source cannot be read, or is not UTF-8.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.paths.insert(String::new());
        tree.read_directory(root, "")?;
        Ok(tree)
    }

    fn read_directory(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let entries =
            std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" {
                    self.read_directory(&entry.path(), &format!("{path}/"))?;
                    self.paths.insert(path);
                }
            } else {
                if [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) {
                    let text = std::fs::read_to_string(entry.path())
                        .with_context(|| format!("cannot read {path}"))?;
                    self.texts.insert(path.clone(), text);
                }
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    fn files(&self, end: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| path.ends_with(end))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The one source file that `path` names: by its whole path, or by an end of it that no other file shares.
    fn source(&self, path: &str) -> Result<&str, String> {
        if let Some(text) = self.texts.get(path) {
            return Ok(text);
        }
        let end = format!("/{path}");
        let mut found = self.files(".rs").filter(|(file, _)| file.ends_with(&end));
        match (found.next(), found.next()) {
            (Some((_, text)), None) => Ok(text),
            (Some((first, _)), Some((second, _))) => Err(format!("`{path}` may be {first} or {second}")),
            (None, _) => Err(format!("no file `{path}`")),
        }
    }
}

/// The rules on sources: who names what, the arrows between crates, the length of command files.
pub(crate) fn sources(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.files(".rs") {
        check_names(file, text, &mut findings);
        let lines = text.lines().count();
        if file.starts_with(COMMANDS) && lines >= COMMAND_LINES {
            findings.push(Finding {
                file: file.into(),
                line: COMMAND_LINES,
                what: format!("{lines} lines in a command, fewer than {COMMAND_LINES} allowed"),
                because: "a long command means that a library lacks something",
            });
        }
    }
    for (file, text) in tree.files("Cargo.toml") {
        check_arrows(file, text, &mut findings);
    }
    findings
}

fn check_names(file: &str, text: &str, findings: &mut Vec<Finding>) {
    let tokens = lex(text);
    let all = paths_named(&tokens);
    let test_file = ["/tests/", "/benches/", "/tests.rs"].iter().any(|part| file.contains(part));
    let shipped = if test_file { Vec::new() } else { paths_named(&without_tests(&tokens)) };
    let covers = |places: &[&str]| {
        places.iter().any(|place| {
            file == *place || (place.is_empty() || place.ends_with('/')) && file.starts_with(place)
        })
    };
    for rule in ONLY.iter().filter(|rule| covers(rule.within) && !covers(rule.except)) {
        let paths = if rule.tests_may { &shipped } else { &all };
        let mut seen = BTreeSet::new();
        for name in rule.names {
            for path in paths.iter().filter(|path| name.is_in(path)) {
                if seen.insert((path.line, name.text())) {
                    findings.push(Finding {
                        file: file.into(),
                        line: path.line,
                        what: format!("names {}", name.text()),
                        because: rule.because,
                    });
                }
            }
        }
    }
}

fn check_arrows(file: &str, text: &str, findings: &mut Vec<Finding>) {
    let Some(directory) = file.strip_suffix("/Cargo.toml") else {
        return;
    };
    let Some(arrows) = ARROWS.iter().find(|arrows| arrows.directory == directory) else {
        if directory.starts_with("crates/") {
            findings.push(Finding {
                file: file.into(),
                line: 1,
                what: "is in no row of the table of arrows".into(),
                because: "every crate has its place in the house",
            });
        }
        return;
    };
    for (line, table, package) in dependencies(text) {
        let allowed = arrows.may_use.contains(&package)
            || table == "dev-dependencies" && arrows.tests_may_use.contains(&package);
        if OURS.contains(&package) && !allowed {
            findings.push(Finding {
                file: file.into(),
                line,
                what: format!("has {package} in [{table}]"),
                because: arrows.because,
            });
        }
    }
}

/// The rules on documents: what they name and link to exists.
pub(crate) fn documents(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_architecture(tree, &mut findings);
    check_faults(tree, &mut findings);
    for (file, text) in tree.files(".md") {
        for (line, target) in links(text) {
            if resolve(file, target).is_none_or(|path| !tree.paths.contains(&path)) {
                findings.push(Finding {
                    file: file.into(),
                    line,
                    what: format!("links to {target}, which is not there"),
                    because: "a reader follows it",
                });
            }
        }
    }
    findings
}

fn check_architecture(tree: &Tree, findings: &mut Vec<Finding>) {
    const FILE: &str = "ARCHITECTURE.md";
    const BECAUSE: &str = "ARCHITECTURE.md shows the house as built";
    check_named(tree, FILE, BECAUSE, findings, code_spans, |tokens, name| {
        let name = name.trim_end_matches("()");
        name.split("::").all(|part| defines(tokens, part))
    });
}

fn check_faults(tree: &Tree, findings: &mut Vec<Finding>) {
    const FILE: &str = "docs/faults.md";
    const BECAUSE: &str = "each promised fault has a test that shows it";
    let last_column = |text: &str| -> Vec<(usize, String)> {
        let mut spans = Vec::new();
        for (line, row) in numbered(text) {
            let Some(row) = row.trim().strip_prefix('|') else {
                continue;
            };
            let row = row.strip_suffix('|').unwrap_or(row);
            let column = row.rsplit('|').next().unwrap_or_default();
            spans.extend(code_spans(column).into_iter().map(|(_, span)| (line, span)));
        }
        spans
    };
    check_named(tree, FILE, BECAUSE, findings, last_column, |tokens, name| {
        let quoted = |token: &Token<'_>| token.kind == Kind::Text && token.text == name;
        defines_with(tokens, name, &["fn"]) || tokens.iter().any(quoted)
    });
}

/// Checks each `file.rs::name` that `spans` finds in the document, which has to be there and name at least one.
fn check_named(
    tree: &Tree,
    document: &str,
    because: &'static str,
    findings: &mut Vec<Finding>,
    spans: impl Fn(&str) -> Vec<(usize, String)>,
    holds: impl Fn(&[Token<'_>], &str) -> bool,
) {
    let mut find = |line, what| {
        findings.push(Finding { file: document.into(), line, what, because });
    };
    let Some(text) = tree.texts.get(document) else {
        return find(1, "is not there".into());
    };
    let mut named = 0;
    for (line, span) in spans(text) {
        let Some((stem, name)) = span.split_once(".rs::") else {
            continue;
        };
        named += 1;
        match tree.source(&format!("{stem}.rs")) {
            Ok(source) if holds(&lex(source), name) => {}
            Ok(_) => find(line, format!("{stem}.rs has no {name}")),
            Err(problem) => find(line, problem),
        }
    }
    if named == 0 {
        find(1, "names no `file.rs::name`".into());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Text,
    Mark,
}

/// A piece of Rust source: a word, the inside of a string literal, or punctuation (`::` is one mark).
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    line: usize,
}

impl Token<'_> {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

/// Splits Rust source into tokens; comments, character literals and lifetimes are left out.
fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some((length, inside)) = string_literal(rest) {
            (length, Some((Kind::Text, inside)))
        } else if first == '\'' {
            (character_or_lifetime(rest), None)
        } else if is_word(first) {
            let raw = if rest.starts_with("r#") { 2 } else { 0 };
            let length = raw + prefix(&rest[raw..], is_word);
            (length, Some((Kind::Word, &rest[raw..length])))
        } else if rest.starts_with("::") {
            (2, Some((Kind::Mark, "::")))
        } else if first.is_whitespace() {
            (first.len_utf8(), None)
        } else {
            (first.len_utf8(), Some((Kind::Mark, &rest[..first.len_utf8()])))
        };
        let (passed, after) = rest.split_at(length);
        tokens.extend(token.map(|(kind, text)| Token { kind, text, line }));
        line += passed.matches('\n').count();
        rest = after;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The length in bytes of the longest start of `text` whose characters all satisfy `member`.
fn prefix(text: &str, member: impl Fn(char) -> bool) -> usize {
    text.find(|c| !member(c)).unwrap_or(text.len())
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Whole length and inside of the string literal that `text` starts with: plain, byte, C, or raw.
fn string_literal(text: &str) -> Option<(usize, &str)> {
    let raw = ["r", "br", "cr"].iter().find_map(|kind| {
        let rest = text.strip_prefix(kind)?;
        let hashes = prefix(rest, |c| c == '#');
        rest[hashes..].starts_with('"').then_some((kind.len() + hashes + 1, hashes))
    });
    let plain = || ["\"", "b\"", "c\""].into_iter().find(|kind| text.starts_with(kind));
    let (open, inside, close) = if let Some((open, hashes)) = raw {
        let close = format!("\"{}", "#".repeat(hashes));
        (open, text[open..].find(&close).unwrap_or(text.len() - open), close.len())
    } else {
        let open = plain()?.len();
        (open, unescaped(&text[open..], '"'), 1)
    };
    let length = (open + inside + close).min(text.len());
    Some((length, &text[open..open + inside]))
}

/// Where the first `end` without a backslash before it is, or the length of the text.
fn unescaped(text: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return at,
            _ => {}
        }
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut inside = text.chars().skip(1);
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => (2 + unescaped(&text[1..], '\'')).min(text.len()),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 1 + prefix(&text[1..], is_word),
    }
}

/// The tokens outside `#[cfg(test)]` items.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let starts = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(i, word)| tokens.get(at + i).is_some_and(|t| t.is(word)))
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if starts(at, &["#", "!", "[", "cfg", "(", "test"]) {
            break;
        }
        let plain = ["#", "[", "cfg", "(", "test"];
        let all = ["#", "[", "cfg", "(", "all", "(", "test"];
        if starts(at, &plain) || starts(at, &all) {
            at = end_of_item(tokens, at);
        } else {
            kept.push(*token);
            at += 1;
        }
    }
    kept
}

/// The position after the item whose attributes begin at `at`: after its `;`, or after the `}` that closes its body.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(at) {
        let mark = if token.kind == Kind::Mark { token.text } else { "" };
        match mark {
            "(" | "[" | "{" => depth += 1,
            // The end of what surrounds the item: a struct's last field, an enum's last variant.
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 && matches!(mark, "}" | ";") {
            break;
        }
    }
    at
}

/// A path as written, or as a `use` brings it in.
struct Named<'a> {
    segments: Vec<&'a str>,
    line: usize,
    by_use: bool,
}

impl Name {
    fn text(&self) -> &'static str {
        match self {
            Crate(text) | Segments(text) => text,
        }
    }

    fn is_in(&self, path: &Named<'_>) -> bool {
        match self {
            Crate(name) => path.segments.first() == Some(name) && (path.by_use || path.segments.len() > 1),
            Segments(name) => {
                let name: Vec<&str> = name.split("::").collect();
                path.segments.windows(name.len()).any(|window| window == name)
            }
        }
    }
}

fn paths_named<'a>(tokens: &[Token<'a>]) -> Vec<Named<'a>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let bound = tokens.get(at + 1).is_some_and(|next| next.is("<"));
        if token.kind == Kind::Word && token.is("use") && !bound {
            at = use_paths(tokens, at + 1, &mut paths);
        } else if token.kind == Kind::Word {
            let mut segments = vec![token.text];
            at += 1;
            while let [colons, next, ..] = tokens.get(at..).unwrap_or_default()
                && colons.is("::")
                && next.kind == Kind::Word
            {
                segments.push(next.text);
                at += 2;
            }
            paths.push(Named { segments, line: token.line, by_use: false });
        } else {
            at += 1;
        }
    }
    paths
}

/// Expands the tree of one `use` that begins at `at`; returns the position after it.
fn use_paths<'a>(tokens: &[Token<'a>], mut at: usize, paths: &mut Vec<Named<'a>>) -> usize {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    let mut segments: Vec<&str> = Vec::new();
    let mut renamed = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "as" => renamed = true,
            "{" => groups.push(segments.clone()),
            "," | "}" => {
                segments = groups.last().cloned().unwrap_or_default();
                renamed = false;
                if token.text == "}" {
                    groups.pop();
                }
            }
            ";" => break,
            word if token.kind == Kind::Word && !renamed => {
                segments.push(word);
                let leaf = tokens.get(at).is_none_or(|next| !next.is("::"));
                if leaf || tokens.get(at + 1).is_some_and(|next| next.is("*")) {
                    paths.push(Named { segments: segments.clone(), line: token.line, by_use: true });
                }
            }
            _ => {}
        }
    }
    at
}

fn defines(tokens: &[Token<'_>], name: &str) -> bool {
    const KEYWORDS: &[&str] = &["fn", "struct", "enum", "trait", "const", "static", "type", "mod"];
    defines_with(tokens, name, KEYWORDS)
}

fn defines_with(tokens: &[Token<'_>], name: &str, keywords: &[&str]) -> bool {
    tokens.windows(2).any(|pair| match pair {
        [keyword, word] => {
            word.kind == Kind::Word && word.text == name && keywords.iter().any(|text| keyword.is(text))
        }
        _ => false,
    })
}

/// Each dependency of a manifest: its line, the kind of its table, and the package's name.
fn dependencies(manifest: &str) -> Vec<(usize, &str, &str)> {
    let mut found = Vec::new();
    let mut table = None;
    for (line, text) in numbered(manifest) {
        let text = text.trim();
        if let Some(header) = text.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            // `[target.'cfg(unix)'.dependencies]` holds dependencies, `[dependencies.serde]` is one.
            let parts: Vec<&str> = header.rsplitn(3, '.').collect();
            table = parts.first().copied().filter(|last| last.ends_with("dependencies"));
            if let [package, kind, ..] = parts.as_slice()
                && kind.ends_with("dependencies")
            {
                found.push((line, *kind, unquoted(package)));
            }
        } else if let (Some(table), Some((key, value))) = (table, text.split_once('='))
            && !text.starts_with('#')
        {
            let renamed = value.split_once("package").and_then(|(_, after)| {
                after.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?.split('"').next()
            });
            let key = unquoted(key.trim().split('.').next().unwrap_or_default().trim());
            found.push((line, table, renamed.unwrap_or(key)));
        }
    }
    found
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The lines of a markdown text that are outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    numbered(text).filter(move |(_, line)| {
        let line = line.trim_start();
        let fence = line.starts_with("```") || line.starts_with("~~~");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What stands between single backticks, outside fenced code.
fn code_spans(text: &str) -> Vec<(usize, String)> {
    let spans = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
        line.split('`').skip(1).step_by(2).map(|span| (number, span.trim().to_owned())).collect()
    };
    prose(text).flat_map(spans).collect()
}

/// The targets of relative links, without their anchors: inline ones, pictures, and reference definitions.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Even pieces are outside backticks; a link's text may hold code, so a piece may begin inside that text.
        for piece in line.split('`').step_by(2) {
            for after in piece.split("](").skip(1) {
                found.push((number, after.split(')').next().unwrap_or_default()));
            }
        }
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        found.extend(definition.map(|(_, target)| (number, target)));
    }
    found.into_iter().filter_map(|(number, target)| Some((number, relative(target)?))).collect()
}

/// The path in a link's target; none for another site, and for an anchor in the same document.
fn relative(target: &str) -> Option<&str> {
    let target = target.split_whitespace().next()?.trim_matches(['<', '>']);
    let path = target.split('#').next()?;
    let elsewhere = path.split('/').next()?.contains(':');
    (!path.is_empty() && !elsewhere).then_some(path)
}

/// The repository path that `target` means in `document`; none when it leaves the repository.
fn resolve(document: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.paths.insert((*path).to_owned());
            tree.texts.insert((*path).to_owned(), (*text).to_owned());
        }
        tree
    }

    /// `file:line what` of each finding, without the reasons.
    fn told(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|f| format!("{}:{} {}", f.file, f.line, f.what)).collect()
    }

    fn in_source(file: &str, text: &str) -> Vec<String> {
        told(&sources(&tree(&[(file, text)])))
    }

    #[test]
    fn each_rule_has_a_sample_that_breaks_it_and_one_that_keeps_it() {
        let bad = [
            ("crates/tcpunch/src/gather.rs", "use socket2::Socket;", "socket2"),
            ("crates/broker/src/admin.rs", "fn f() { socket2::Type::STREAM; }", "socket2"),
            ("crates/apps/src/chat.rs", "use {ring::aead, std::io};", "ring"),
            ("crates/core/src/wire.rs", "type T = snow::TransportState;", "snow"),
            ("crates/core/tests/t.rs", "use spake2;", "spake2"),
            ("crates/broker/src/server.rs", "use async_nats as bus;", "async_nats"),
            ("crates/cli/src/main.rs", "use tcpunch_core::puncher::{Input, Puncher};", "Puncher"),
            ("crates/apps/src/pipe.rs", "use std::{\n    fs::File,\n    io,\n};", "std::fs"),
            ("crates/tcpunch/src/hub.rs", "async fn f() { tokio::fs::read(p).await }", "tokio::fs"),
            ("crates/core/src/plan.rs", "let t = std::time::Instant::now();", "Instant::now"),
            ("crates/core/src/plan.rs", "use std::time::SystemTime;", "SystemTime"),
            ("crates/cli/src/term.rs", "fn f() { std::time::SystemTime::now(); }", "SystemTime"),
            ("crates/broker/src/gate.rs", "clock_gettime(ClockId::CLOCK_REALTIME)", "CLOCK_REALTIME"),
            ("crates/core/src/plan.rs", "use std::net::TcpStream;", "TcpStream"),
            ("crates/core/src/plan.rs", "#[tokio::main] fn f() {}", "tokio"),
            ("crates/core/src/plan.rs", "let n: u8 = rand::rng().random();", "rand::rng"),
            ("crates/core/src/secure/pake.rs", "use rand::rngs::OsRng;", "OsRng"),
            ("crates/core/src/code.rs", "getrandom::fill(&mut b);", "getrandom"),
            ("crates/tcpunch/src/port.rs", "fn f() { unsafe { g() } }", "unsafe"),
            ("xtask/src/main.rs", "#[unsafe(no_mangle)] fn f() {}", "unsafe"),
        ];
        for (file, text, name) in bad {
            let findings = in_source(file, text);
            assert_eq!(findings.len(), 1, "{file}: {text}: {findings:?}");
            assert!(findings[0].ends_with(&format!("names {name}")), "{findings:?}");
        }
        let good = [
            ("crates/tcpunch/src/port.rs", "use socket2::Socket;"),
            ("crates/broker/src/server.rs", "use socket2::Socket;"),
            ("crates/natlab/src/netns.rs", "use socket2::Socket; fn f() { unsafe { g() } }"),
            ("crates/tcpunch/tests/port.rs", "use socket2::Socket; use std::fs;"),
            ("crates/core/src/secure/noise.rs", "use snow::Builder; use ring::aead; use getrandom::fill;"),
            ("crates/core/src/plan.rs", "let ring = 1; crate::ring::f(ring); f(Cell { ring });"),
            ("crates/core/src/plan.rs", "// std::fs\n/* /* snow::x */ unsafe */ const A: &str = \"OsRng\";"),
            (
                "crates/core/src/plan.rs",
                "const A: &str = r#\"a \" unsafe\"#; const B: char = '\"'; fn f<'a>() {}",
            ),
            (
                "crates/core/src/plan.rs",
                "use std::time::Instant; fn f(now: Instant, random: &mut impl rand::Rng) {}",
            ),
            ("crates/core/src/plan.rs", "#![forbid(unsafe_code)]"),
            ("crates/core/src/puncher.rs", "pub struct Puncher;"),
            ("crates/scenarios/src/lib.rs", "use tcpunch_core::puncher::Puncher;"),
            ("crates/tcpunch/src/attempt.rs", "use tcpunch_core::puncher::Puncher;"),
            ("crates/tcpunch/src/store.rs", "use std::{fs, io};"),
            ("crates/cli/src/main.rs", "use std::fs;"),
            ("crates/apps/src/pipe.rs", "use std::os::unix::fs::MetadataExt;"),
            ("crates/broker/src/cluster.rs", "use async_nats::Client;"),
        ];
        for (file, text) in good {
            assert_eq!(in_source(file, text), [""; 0], "{file}: {text}");
        }
    }

    #[test]
    fn a_test_module_may_name_what_its_file_may_not_and_the_code_after_it_may_not() {
        let text = "\
#[cfg(test)]
mod tests {
    use std::{fs, net::TcpStream};
    fn f() { let x = [0; 3]; Instant::now(); }
}
#[cfg(test)]
use rand::rng;
struct S {
    #[cfg(test)]
    field: SystemTime,
}
#[cfg(all(test, unix))]
mod more;
fn g() {
    Instant::now();
}
#[cfg(not(test))]
use std::fs;
";
        let expected =
            ["crates/core/src/plan.rs:18 names std::fs", "crates/core/src/plan.rs:15 names Instant::now"];
        assert_eq!(in_source("crates/core/src/plan.rs", text), expected);
    }

    #[test]
    fn a_finding_names_file_line_and_reason() {
        let tree = tree(&[("crates/apps/src/chat.rs", "//! Chat.\n\nuse socket2::Socket;\n")]);
        let text = sources(&tree)[0].to_string();
        assert!(text.starts_with("crates/apps/src/chat.rs:3: names socket2 (reuse flags"), "{text}");
    }

    #[test]
    fn a_command_of_130_lines_is_too_long() {
        let (short, long) = ("x\n".repeat(129), "x\n".repeat(130));
        assert_eq!(in_source("crates/cli/src/commands/ping.rs", &short), [""; 0]);
        assert_eq!(in_source("crates/cli/src/commands/chat/mod.rs", &long).len(), 1);
        assert_eq!(in_source("crates/cli/src/term.rs", &long), [""; 0]);
    }

    #[test]
    fn arrows_point_one_way() {
        let cases = [
            ("crates/core", "[dependencies]\ntcpunch.workspace = true\n", 1),
            ("crates/core", "[dev-dependencies]\nnatlab = { path = \"../natlab\" }\n", 1),
            ("crates/core", "[dependencies]\nserde.workspace = true\n[lints]\nworkspace = true\n", 0),
            ("crates/tcpunch", "[dependencies]\ntcpunch-core.workspace = true\n", 0),
            ("crates/tcpunch", "[target.'cfg(unix)'.dependencies]\nnatlab.workspace = true\n", 1),
            ("crates/tcpunch", "[dependencies.tcpunch-broker]\npath = \"../broker\"\n", 1),
            ("crates/tcpunch", "[dev-dependencies]\ntcpunch-broker.workspace = true\n", 0),
            ("crates/broker", "[dependencies]\nx = { package = \"tcpunch\", path = \"../tcpunch\" }\n", 1),
            ("crates/apps", "[build-dependencies]\n\"tcpunch-broker\" = \"1\"\n", 1),
            (
                "crates/cli",
                "[dependencies]\ntcpunch.workspace = true\n[dev-dependencies]\nnatlab.workspace = true\n",
                0,
            ),
            ("crates/cli", "[dependencies]\nnatlab.workspace = true\n", 1),
            ("crates/natlab", "[dev-dependencies]\nnatlab = { path = \".\" }\n", 0),
            ("crates/natlab", "[dev-dependencies]\ntcpunch-core.workspace = true\n", 1),
            ("crates/new", "[package]\nname = \"new\"\n", 1),
        ];
        for (directory, manifest, count) in cases {
            let found = in_source(&format!("{directory}/Cargo.toml"), manifest);
            assert_eq!(found.len(), count, "{directory}: {manifest}: {found:?}");
        }
    }

    const SOURCE: (&str, &str) = (
        "crates/core/src/puncher.rs",
        "pub struct Puncher; impl Puncher { pub fn poll() {} } // fn gone\nfn a_test() {}\nconst T: &str = \"a trial\";",
    );
    const FAULTS: (&str, &str) =
        ("docs/faults.md", "| fault | test |\n|---|---|\n| f | `core/src/puncher.rs::a_test` |\n");

    #[test]
    fn architecture_names_what_exists() {
        let check = |text: &str| {
            told(&documents(&tree(&[
                SOURCE,
                FAULTS,
                ("ARCHITECTURE.md", text),
                ("crates/apps/src/lib.rs", ""),
            ])))
        };
        assert_eq!(check("`crates/core/src/puncher.rs::Puncher` and `puncher.rs::Puncher::poll()`"), [""; 0]);
        assert_eq!(check("none here"), ["ARCHITECTURE.md:1 names no `file.rs::name`"]);
        assert_eq!(check("\n`puncher.rs::gone`"), ["ARCHITECTURE.md:2 puncher.rs has no gone"]);
        assert_eq!(check("`moved.rs::f`"), ["ARCHITECTURE.md:1 no file `moved.rs`"]);
        assert_eq!(check("`uncher.rs::Puncher`"), ["ARCHITECTURE.md:1 no file `uncher.rs`"]);
        let two =
            tree(&[SOURCE, FAULTS, ("ARCHITECTURE.md", "`lib.rs::f`"), ("a/lib.rs", ""), ("b/lib.rs", "")]);
        assert_eq!(told(&documents(&two)), ["ARCHITECTURE.md:1 `lib.rs` may be a/lib.rs or b/lib.rs"]);
        assert_eq!(told(&documents(&tree(&[SOURCE, FAULTS]))), ["ARCHITECTURE.md:1 is not there"]);
    }

    #[test]
    fn each_fault_has_its_test() {
        let check = |text: &str| {
            let architecture = ("ARCHITECTURE.md", "`puncher.rs::Puncher`");
            told(&documents(&tree(&[SOURCE, architecture, ("docs/faults.md", text)])))
        };
        assert_eq!(check("| `gone.rs::x` | `puncher.rs::a_test`, `puncher.rs::a trial` |"), [""; 0]);
        assert_eq!(check("\n| f | `puncher.rs::gone` |"), ["docs/faults.md:2 puncher.rs has no gone"]);
        assert_eq!(check("| f | `puncher.rs::Puncher` |"), ["docs/faults.md:1 puncher.rs has no Puncher"]);
        assert_eq!(check("| f | none |"), ["docs/faults.md:1 names no `file.rs::name`"]);
    }

    #[test]
    fn relative_links_resolve() {
        let check = |file: &str, text: &str| {
            let architecture = ("ARCHITECTURE.md", "`puncher.rs::Puncher`");
            let mut tree = tree(&[SOURCE, FAULTS, architecture, (file, text)]);
            tree.paths.extend(["docs".to_owned(), ".ci/run".to_owned()]);
            told(&documents(&tree))
        };
        let good = "[a](docs/faults.md#x) [`b`](docs/) ![c](.ci/run \"title\") [d](#here) [e](https://x.example/y) \
                    `[f](gone)` [g](mailto:a@b.example)\n```\n[h](gone)\n```\n[i]: docs/faults.md\n";
        assert_eq!(check("README.md", good), [""; 0]);
        assert_eq!(check("docs/nat.md", "[a](../ARCHITECTURE.md) [b](faults.md) [c](/.ci/run)"), [""; 0]);
        let bad = "x\n[a](gone.md)\n[b]: gone.md\n[c](../out.md)";
        let expected = [
            "README.md:2 links to gone.md, which is not there",
            "README.md:3 links to gone.md, which is not there",
            "README.md:4 links to ../out.md, which is not there",
        ];
        assert_eq!(check("README.md", bad), expected);
    }
}
