//! What readers are told to type is there, and what documents quote is really printed.
//!
//! The scenes with a broker and peers are played in the lab (`lab/documents.rs`), as they are written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test that meets what it does not expect is to fail; what it shares with others has more than it needs"
)]

#[path = "support/documents.rs"]
mod documents;

use std::process::Command;

use documents::{
    DOCUMENTS, Scene, Terminal, Way, listings, read, root, scenes, shape, way, without_variables,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tcpunch");

fn terminals() -> Vec<(&'static str, Terminal)> {
    let all = |scene: Scene| scene.terminals.into_iter().map(move |terminal| (scene.document, terminal));
    DOCUMENTS.into_iter().flat_map(scenes).flat_map(all).collect()
}

#[test]
fn every_command_is_run_or_listed_with_a_reason() {
    let terminals = terminals();
    for document in DOCUMENTS {
        let count = terminals.iter().filter(|(of, _)| *of == document).count();
        assert!(count >= 3, "only {count} commands are found in {document}");
    }
    let forgotten: Vec<String> = terminals
        .iter()
        .filter(|(_, terminal)| way(terminal).is_none())
        .map(|(document, terminal)| format!("{document}:{}: {}", terminal.line, terminal.command))
        .collect();
    assert!(forgotten.is_empty(), "neither run nor listed in NOT_RUN:\n{}", forgotten.join("\n"));
}

#[test]
fn what_cargo_is_told_exists() {
    let cargo = terminals().into_iter().filter(|(_, terminal)| way(terminal) == Some(Way::Cargo));
    for (document, terminal) in cargo {
        if let Err(why) = exists(&terminal.command) {
            panic!("{document}:{}: {}: {why}", terminal.line, terminal.command);
        }
    }
}

/// Whether all that a command of cargo names is there. Names of the lab's tests are looked up by the lab itself.
fn exists(command: &str) -> Result<(), String> {
    let there = |what: &str, there: bool| if there { Ok(()) } else { Err(format!("no {what}")) };
    let manifest = |package: &str| {
        let name = format!("name = \"{package}\"");
        let mut crates = std::fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
        crates.find(|path| {
            std::fs::read_to_string(path.join("Cargo.toml")).is_ok_and(|text| text.contains(&name))
        })
    };
    let tests: String = ["crates/cli/tests/lab", "crates/scenarios/tests"]
        .into_iter()
        .flat_map(|directory| std::fs::read_dir(root().join(directory)).unwrap())
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let behind = without_variables(command);
    for variable in command[..command.len() - behind.len()].split_whitespace() {
        let (name, _) = variable.split_once('=').unwrap();
        there(name, tests.contains(&format!("\"{name}\"")))?;
    }
    let mut words = behind.split_whitespace().skip(1);
    match words.next() {
        Some("xtask") => {
            let tasks = std::fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
            let targets = std::fs::read_to_string(root().join("fuzz/targets/src/lib.rs")).unwrap();
            let task = words.next().unwrap_or_default();
            if task == "lab" {
                return exists_in_lab(words);
            }
            let of_task = |line: &&str| line.split_whitespace().take(3).eq(["cargo", "xtask", task]);
            let lines: Vec<&str> = tasks.lines().filter(of_task).collect();
            there(task, !lines.is_empty())?;
            for word in words.filter(|word| word.parse::<u64>().is_err()) {
                let named = lines.iter().any(|line| line.contains(word));
                there(word, named || task == "fuzz" && targets.contains(&format!("name: \"{word}\"")))?;
            }
            return Ok(());
        }
        Some("build" | "run" | "test") => {}
        other => return Err(format!("this test knows nothing of {other:?}")),
    }
    let mut package = root().join("crates/cli");
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word {
            "--release" | "--workspace" => {}
            "-p" => {
                let name = value();
                package = manifest(name).ok_or_else(|| format!("no package {name}"))?;
            }
            "--test" => {
                let name = value();
                let file = [format!("tests/{name}.rs"), format!("tests/{name}/main.rs")];
                there(name, file.iter().any(|file| package.join(file).exists()))?;
            }
            "--example" => {
                let name = value();
                if package.join(format!("examples/{name}.rs")).exists() {
                    // What follows belongs to the example.
                    return Ok(());
                }
                let text = std::fs::read_to_string(package.join("Cargo.toml")).unwrap();
                there(name, text.contains(&format!("examples/{name}.rs\"")))?;
                // What follows belongs to the example.
                return there(name, root().join(format!("examples/{name}.rs")).exists());
            }
            "--" if behind.starts_with("cargo test") => return Ok(()),
            "--" => {
                let name = value();
                let help = Command::new(PROGRAM).args([name, "--help"]).output().unwrap();
                return there(name, help.status.success());
            }
            other => return Err(format!("this test knows nothing of {other}")),
        }
    }
    Ok(())
}

/// Whether `cargo xtask lab` knows its arguments, and the program what it is told there.
fn exists_in_lab<'a>(words: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let lab = std::fs::read_to_string(root().join("crates/natlab/examples/lab.rs")).unwrap();
    let mut words = words.peekable();
    while let Some(word) = words.next_if(|word| *word != "--") {
        for name in word.split([',', '+']).filter(|name| name.parse::<f64>().is_err()) {
            if !lab.contains(&format!("\"{name}\"")) {
                return Err(format!("no {name}"));
            }
        }
    }
    match (words.nth(1), words.next()) {
        (None, _) => Ok(()),
        (Some("target/release/tcpunch"), Some(name)) => {
            let help = Command::new(PROGRAM).args([name, "--help"]).output().unwrap();
            if help.status.success() { Ok(()) } else { Err(format!("no {name}")) }
        }
        (Some(other), _) => Err(format!("this test knows nothing of {other}")),
    }
}

#[test]
fn what_does_not_exist_is_found() {
    for command in [
        "cargo run --release -- dmo",
        "cargo run --example minimum broker",
        "cargo test -p tcpunch-cly",
        "cargo test -p tcpunch-cli --test laboratory",
        "TCPUNCH_LAB_RUN=10 cargo test -p tcpunch-cli --test lab",
        "cargo xtask chek",
        "cargo xtask check --quik",
        "cargo xtask fuzz punchr",
        "cargo xtask lab --nat openwrt,closedwrt",
        "cargo xtask lab --in c",
        "cargo xtask lab --in a -- target/release/tcpunch chaat",
        "cargo fly",
    ] {
        assert!(exists(command).is_err(), "{command}");
    }
}

#[test]
fn the_demo_prints_what_is_quoted() {
    let home = tempfile::tempdir().unwrap();
    let demo = Command::new(PROGRAM).arg("demo").env("HOME", home.path()).output().unwrap();
    assert!(demo.status.success(), "{demo:?}");
    let printed = String::from_utf8([demo.stdout, demo.stderr].concat()).unwrap();
    let printed: Vec<String> = printed.lines().map(shape).collect();
    let quoted = DOCUMENTS.into_iter().flat_map(|document| listings(document, "text demo"));
    let quoted: Vec<String> = quoted.flatten().collect();
    assert!(quoted.len() >= 5, "only {} lines are quoted", quoted.len());
    for line in quoted {
        assert!(printed.contains(&shape(&line)), "the demo does not print: {line}\nbut: {printed:#?}");
    }
}

#[test]
fn the_readmes_rust_stands_in_an_example() {
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let examples: Vec<Vec<String>> = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| lines(&std::fs::read_to_string(entry.unwrap().path()).unwrap()))
        .collect();
    let listings = listings("README.md", "rust");
    assert!(!listings.is_empty(), "there is no rust in README.md");
    for part in listings.iter().flat_map(|listing| listing.split(|line| line.trim().is_empty())) {
        let part: Vec<String> = part.iter().map(|line| line.trim().to_owned()).collect();
        let stands = |example: &Vec<String>| example.windows(part.len()).any(|window| window == part);
        assert!(examples.iter().any(stands), "this stands in no example:\n{}", part.join("\n"));
    }
}

#[test]
fn examples_are_named_where_readers_look() {
    let readme = read("README.md");
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("examples/{name}")), "README.md does not name examples/{name}");
    }
}

#[test]
fn shapes_keep_what_is_said_and_drop_what_varies() {
    for (one, other) in [
        (
            "path  punched  10.1.0.2:26444 <-> 198.51.100.2:32452  1 try, 2 SYNs, 38 ms",
            "path  lan  127.0.0.1:22459 <-> 127.0.0.1:24509  1 try, 1 SYN, 1.4 ms",
        ),
        ("connected: 127.0.0.1:22459 <-> 127.0.0.1:1, path", "connected: [fd00::2]:22459 <-> [::1]:1, path"),
        ("* toy-rebel is here (lan, 1.4 ms, not", "* move-apple is here (punched, 38 ms, not"),
        (
            "type:  tcpunch connect 412-canyon-oxygen@broker.example",
            "type: tcpunch connect 97713-zoo-zebra@[::1]:1",
        ),
        ("toy-rebel: hello", "move-apple: hello"),
        (
            "4. Bob need not send a SYN: the other's came in at the listener before.",
            "4. Bob sends a SYN from port 25999, the same one, to [fd00::2]:24234. It opens the door in a NAT.",
        ),
    ] {
        assert_eq!(shape(one), shape(other));
    }
    for (one, other) in [
        ("* toy-rebel is here", "* toy-rebel left"),
        ("toy-rebel: hello", "toy-rebel: hallo"),
        ("connected 1.2.3.4:5", "connected 1.2.3.4:5 <-> 5.6.7.8:9"),
        ("code 412-canyon-oxygen", "code 412"),
    ] {
        assert_ne!(shape(one), shape(other));
    }
}
