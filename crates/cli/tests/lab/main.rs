//! The built program on real kernels: behind each kind of NAT and firewall, in each topology people have.
//!
//! Needs root for network namespaces; elsewhere every test is reported as ignored. `TCPUNCH_LAB=required` makes that a
//! failure. `TCPUNCH_LAB_RUNS=10` also runs every pair of kinds that often and writes the table of results to the file
//! that `TCPUNCH_LAB_TABLE` names; `TCPUNCH_LAB_PAUSE=300` makes the reader that pauses do so for so many seconds,
//! `TCPUNCH_LAB_OUTAGE=40` the cable be out, `TCPUNCH_LAB_ASLEEP=60` the process be stopped for that long, and
//! `TCPUNCH_LAB_LEASE=600` a killed process have that lease of its router.

// A test says what broke by panicking, and what it measured on its output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod changes;
mod doctor;
#[path = "../support/documents.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod documents;
#[path = "../support/example.rs"]
mod example;
mod failures;
mod kinds;
mod latency;
mod lobby;
mod local;
mod memory;
mod pairs;
mod pipe;
mod played;
mod portmap;
mod process;
#[path = "../../../tcpunch/tests/raw/mod.rs"]
mod raw;
mod scene;
mod stun;
mod teaching;
mod topologies;

use std::process::Command;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";

fn trial(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    natlab::testing::trial(name, VARIABLE, test)
}

/// As [`trial`], where a program is installed as well; it is asked for its version.
fn trial_with(program: &'static str, name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    if Command::new(program).arg("--version").output().is_ok() {
        return trial(name, test);
    }
    Trial::ignorable_test(name, move || {
        let reason = format!("{program} is not installed");
        if std::env::var(VARIABLE).is_ok_and(|value| value == natlab::testing::REQUIRED) {
            return Err(Failed::from(reason));
        }
        Ok(Completion::ignored_with(reason))
    })
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn main() {
    let mut arguments = Arguments::from_args();
    // What is measured is measured alone.
    let alone = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let measured: Vec<Trial> = latency::trials().into_iter().chain(pairs::table()).collect();
    let measured = libtest_mimic::run(&alone, measured);
    // The programs mostly wait for each other; more at a time than this machine has processors keeps it busy.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let trials = [
        pipe::trials(),
        failures::trials(),
        changes::trials(),
        local::trials(),
        topologies::trials(),
        lobby::trials(),
        doctor::trials(),
        memory::trials(),
        stun::trials(),
        pairs::trials(),
        teaching::trials(),
        played::trials(),
        portmap::trials(),
    ];
    let rest = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    measured.exit_if_failed();
    rest.exit();
}
