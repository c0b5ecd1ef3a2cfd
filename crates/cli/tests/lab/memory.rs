//! What is known of a network goes along with the registration of the next run there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Host, KernelNat};
use nix::sys::signal::Signal;
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal};
use tcpunch_core::wire::ToBroker;
use tokio::runtime::Runtime;

use crate::process::{PATIENCE, Process};
use crate::raw::RawBroker;
use crate::scene::Scene;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("memory::the_next_run_registers_with_what_was_learnt_there_alone", told_at_registration)]
}

/// A computer in a LAN that has the addresses that half of all homes have.
fn home(scene: &Scene, name: &str, nat: KernelNat) -> Host {
    let router = scene.lab.gateway(&format!("{name}-router"), nat).lan(Ipv4Addr::new(192, 168, 1, 0), 24);
    router.start().unwrap().host(name).unwrap()
}

/// Waits with a code until its network is measured, and is told to end.
fn learns(scene: &Scene, host: &Host, broker: &str, state: &Path, more: &[&str]) {
    let flags = [&["-v", "--state", state.to_str().unwrap(), "--broker", broker], more].concat();
    let mut listen = Process::start(&scene.journal, host, host.name(), "listen", flags);
    let reset = |words: &str| words.contains("reset");
    while !reset(listen.event("network").text("words")) {}
    // What was learnt is written when nothing more is to be learnt.
    let until = Instant::now() + if more.is_empty() { PATIENCE } else { Duration::from_secs(1) };
    while Instant::now() < until && !state.join("networks").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    listen.signal(Signal::SIGINT);
    listen.ends_within(PATIENCE);
}

fn told_at_registration() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let broker = broker_host.ipv4().to_string();
    let at_home = home(&scene, "home", KernelNat::openwrt());
    let elsewhere = home(&scene, "elsewhere", KernelNat::openwrt());
    // A broker in the hands of the test: it hears what peers say of themselves before anything is measured.
    let runtime = Runtime::new().unwrap();
    let bound = SocketAddr::new(broker_host.ipv4().into(), 0);
    let hears = broker_host.run(|| runtime.block_on(RawBroker::listening_on(bound))).unwrap();
    let registers = |host: &Host, state: &Path, more: &[&str]| {
        let at = hears.at.to_string();
        let flags = [&["--state", state.to_str().unwrap(), "--broker", &at], more].concat();
        let _listen = Process::start(&scene.journal, host, host.name(), "listen", flags);
        match runtime.block_on(hears.accept(None)).heard.first() {
            Some(ToBroker::Register { profile }) => *profile,
            other => scene.journal.fail(&format!("it says {other:?} first")),
        }
    };
    let expect = |what: &str, found: NatProfile, expected: NatProfile| {
        scene.journal.assert(found == expected, &format!("{what}: {found:?} instead of {expected:?}"));
    };
    let nothing = NatProfile::default();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    expect("before", registers(&at_home, state, &[]), nothing);
    learns(&scene, &at_home, &broker, state, &["--ephemeral"]);
    scene.journal.assert(!state.join("networks").exists(), "--ephemeral kept what it learnt");
    expect("after --ephemeral", registers(&at_home, state, &[]), nothing);
    learns(&scene, &at_home, &broker, state, &[]);
    let learnt = NatProfile {
        translated: Some(true),
        mapping: Behaviour::PortIndependent,
        allocation: Allocation::Preserving,
        filtering: Behaviour::AddressAndPortDependent,
        refusal: Refusal::Reset,
        simultaneous_open: None,
    };
    expect("at home", registers(&at_home, state, &[]), learnt);
    // The same addresses; only the router is another.
    expect("elsewhere", registers(&elsewhere, state, &[]), nothing);
    expect("with --ephemeral", registers(&at_home, state, &["--ephemeral"]), nothing);
    expect("at home again", registers(&at_home, state, &[]), learnt);
}
