//! Every kind of network meets every kind.

use std::fmt::Write as _;
use std::fs;
use std::panic::catch_unwind;

use libtest_mimic::Trial;

use crate::kinds::Kind;
use crate::scene::{Scene, meeting, no_path};
use crate::{number_from_environment, trial};

/// Unordered, same-kind pairs included.
fn pairs_of(kinds: &[Kind]) -> impl Iterator<Item = [Kind; 2]> {
    kinds.iter().enumerate().flat_map(|(at, one)| kinds[at..].iter().map(|other| [*one, *other]))
}

fn name([one, other]: [Kind; 2]) -> String {
    format!("{}+{}", one.name(), other.name())
}

/// No delay, except where one refuses: no network refuses a SYN twenty microseconds after it was sent. Two whose holes
/// are open for no longer can only meet by chance.
fn near(kinds: [Kind; 2]) -> [u64; 2] {
    if kinds.iter().any(|kind| kind.refuses()) { [1, 1] } else { [0, 0] }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = pairs_of(&Kind::ALL)
        .map(|kinds| trial(format!("connects::{}", name(kinds)), move || check(kinds, near(kinds))))
        .collect();
    // What refuses, at distances where refusals come back at uneven times.
    let nats = [Kind::PreservingDrop, Kind::PreservingReset, Kind::PreservingIcmp, Kind::PreservingIcmpPort];
    let firewalls = [Kind::FirewallDrop, Kind::FirewallReset, Kind::FirewallIcmp];
    let delayed = |kinds: [Kind; 2], delays: [u64; 2]| {
        let [one, other] = delays;
        trial(format!("connects::{}::{one}ms+{other}ms", name(kinds)), move || check(kinds, delays))
    };
    trials.extend(pairs_of(&nats).chain(pairs_of(&firewalls)).map(|kinds| delayed(kinds, [20, 30])));
    trials.extend(nats.iter().flat_map(|one| nats.map(|other| delayed([*one, other], [5, 60]))));
    for kinds in [
        [Kind::Symmetric, Kind::Public],
        [Kind::Public, Kind::Symmetric],
        [Kind::Symmetric, Kind::FullCone],
        [Kind::FullCone, Kind::Symmetric],
        [Kind::Symmetric, Kind::PreservingDrop],
        [Kind::PreservingDrop, Kind::Symmetric],
    ] {
        trials.push(trial(format!("connects::{}", name(kinds)), move || check(kinds, near(kinds))));
    }
    let both = [Kind::Symmetric, Kind::Symmetric];
    trials.push(trial(format!("says_why_not::{}", name(both)), move || hopeless(both)));
    trials
}

fn check(kinds: [Kind; 2], delays_ms: [u64; 2]) {
    let outcome = meeting(kinds, delays_ms);
    println!("{} at {delays_ms:?} ms: {:.1} ms, {} SYNs", name(kinds), outcome.elapsed_ms, outcome.syns);
}

/// Both sides end with whose networks it is.
fn hopeless(kinds: [Kind; 2]) {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let listener = kinds[0].site(&scene.lab, "listener", std::time::Duration::ZERO);
    let connecter = kinds[1].site(&scene.lab, "connecter", std::time::Duration::ZERO);
    for error in no_path(&scene, &broker_host, &listener, &connecter) {
        let whose = "both networks are symmetric NATs";
        scene.journal.assert(error.text("message").contains(whose), &format!("'{whose}' is not said"));
        scene.journal.assert(error.value["hint"].is_string(), "nothing is said that would help");
    }
}

/// The table of results, when it is asked for.
pub(crate) fn table() -> Vec<Trial> {
    let runs = number_from_environment("TCPUNCH_LAB_RUNS");
    let table = trial("every_pair_many_times", move || write_table(runs.unwrap_or(1)));
    vec![table.with_ignored_flag(runs.is_none())]
}

fn write_table(runs: u64) {
    let mut table = String::from(
        "| one side | other side | connected | median ms | SYNs of both, median | most |\n|---|---|---|---|---|---|\n",
    );
    let mut failed = Vec::new();
    let delays = std::env::var("TCPUNCH_LAB_DELAYS").ok().map(|text| {
        let (one, other) = text.split_once(',').expect("TCPUNCH_LAB_DELAYS is written 20,30");
        [one, other].map(|ms| ms.parse().expect("a number of milliseconds"))
    });
    let wanted = std::env::var("TCPUNCH_LAB_KINDS").ok();
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .chain(wanted.is_some().then_some(Kind::PreservingIcmpPort))
        .filter(|kind| wanted.as_ref().is_none_or(|names| names.split(',').any(|name| name == kind.name())))
        .collect();
    for kinds in pairs_of(&kinds) {
        let outcomes: Vec<_> = (0..runs)
            .filter_map(|run| {
                // Each side listens in half of the runs.
                let [one, other] = kinds;
                let kinds = if run % 2 == 0 { [one, other] } else { [other, one] };
                catch_unwind(move || meeting(kinds, delays.unwrap_or(near(kinds)))).ok()
            })
            .collect();
        let mut elapsed: Vec<f64> = outcomes.iter().map(|outcome| outcome.elapsed_ms).collect();
        elapsed.sort_by(f64::total_cmp);
        let mut syns: Vec<u64> = outcomes.iter().map(|outcome| outcome.syns).collect();
        syns.sort_unstable();
        let middle = outcomes.len() / 2;
        let [one, other] = kinds.map(Kind::name);
        let row = format!(
            "| {one} | {other} | {}/{runs} | {:.0} | {} | {} |",
            outcomes.len(),
            elapsed.get(middle).unwrap_or(&f64::NAN),
            syns.get(middle).unwrap_or(&0),
            syns.last().unwrap_or(&0),
        );
        println!("{row}");
        let _ = writeln!(table, "{row}");
        if outcomes.len() as u64 != runs {
            failed.push(row);
        }
    }
    if let Ok(file) = std::env::var("TCPUNCH_LAB_TABLE") {
        fs::write(&file, &table).unwrap_or_else(|error| panic!("{file} is not to be written: {error}"));
    }
    assert!(failed.is_empty(), "not all connected:\n{}", failed.join("\n"));
}
