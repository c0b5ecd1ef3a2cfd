//! What breaks while people talk: the peer, the cable, the broker.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::Host;

use crate::kinds::Kind;
use crate::process::{PATIENCE, Process};
use crate::scene::{Pipe, Scene};
use crate::trial;

/// A loss is noticed within this.
const NOTICED: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("failures::a_pulled_cable_is_noticed", pulled_cable),
        trial("failures::a_killed_peer_is_noticed", killed_peer),
        trial("failures::a_pipe_outlives_its_broker", killed_broker),
        trial("failures::chats_outlive_their_broker", chats_outlive_their_broker),
        trial("failures::a_restarted_broker_gets_the_same_code", restarted_broker),
        trial("failures::a_path_that_does_not_come_at_once_is_waited_for_aloud", long_path),
    ]
}

fn two(scene: &Scene) -> [Host; 2] {
    ["one", "other"].map(|name| Kind::PreservingDrop.site(&scene.lab, name, Duration::ZERO))
}

fn ends_as_lost(scene: &Scene, process: &mut Process, since: Instant) {
    let code = process.ends_within(NOTICED.saturating_sub(since.elapsed()));
    scene.journal.assert(code == 8, &format!("an exit code {code} instead of 8"));
    let error = process.error();
    scene.journal.assert(error.text("kind") == "lost", "the error is of another kind");
}

/// The cable of one host: nobody gets a word of it from TCP.
fn pulled_cable() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let [one, other] = two(&scene);
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    pipe.talk();
    one.link_down().unwrap();
    let since = Instant::now();
    ends_as_lost(&scene, &mut pipe.connect, since);
    ends_as_lost(&scene, &mut pipe.listen, since);
    println!("both noticed within {:.1?}", since.elapsed());
}

fn killed_peer() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let [one, other] = two(&scene);
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    pipe.talk();
    pipe.listen.kill();
    let since = Instant::now();
    ends_as_lost(&scene, &mut pipe.connect, since);
    println!("noticed within {:.1?}", since.elapsed());
}

fn killed_broker() {
    let scene = Scene::new();
    let (broker_host, mut broker) = scene.broker();
    let [one, other] = two(&scene);
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    broker.kill();
    pipe.talk_and_end();
}

/// Members of a lobby keep their links: these are made again, and their connections don't notice.
fn chats_outlive_their_broker() {
    let scene = Scene::new();
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--state", state.path().to_str().unwrap()];
    let broker_host = scene.lab.public_host("broker").start().unwrap();
    let mut broker = scene.broker_on(&broker_host, &arguments);
    let address = broker_host.ipv4().to_string();
    let mut chats = two(&scene).map(|host| scene.start(&host, "chat", &["--broker", &address]));
    for chat in &mut chats {
        chat.event("path");
    }
    broker.kill();
    for chat in &mut chats {
        while chat.event("waiting").text("for") != "the broker" {}
    }
    let [one, other] = &mut chats;
    one.say("without a broker");
    scene.journal.assert(other.event("message").text("text") == "without a broker", "another message came");
    let _broker = scene.broker_on(&broker_host, &arguments);
    for chat in &mut chats {
        chat.event("registered");
    }
    let [one, other] = &mut chats;
    other.say("with one again");
    scene.journal.assert(one.event("message").text("text") == "with one again", "another message came");
}

fn restarted_broker() {
    let scene = Scene::new();
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--state", state.path().to_str().unwrap()];
    let broker_host = scene.lab.public_host("broker").start().unwrap();
    let mut broker = scene.broker_on(&broker_host, &arguments);
    let [one, other] = two(&scene);
    let mut listen = scene.start(&one, "listen", &["--broker", &broker_host.ipv4().to_string()]);
    let code = listen.event("code").text("code").to_owned();
    broker.kill();
    listen.event("waiting");
    let mut broker = scene.broker_on(&broker_host, &arguments);
    listen.event("registered");
    broker.event("registered");
    // The code is asked for in the message after the registration; who is too early is told that nobody waits.
    let deadline = Instant::now() + PATIENCE;
    let connect = loop {
        let mut connect = scene.start(&other, "connect", &[&code]);
        if connect.event_or_error("path") {
            break connect;
        }
        scene.journal.assert(Instant::now() < deadline, "the code never served again");
    };
    listen.event("path");
    let mut pipe = Pipe::standing(listen, connect);
    pipe.talk_and_end();
}

/// Two symmetric NATs: it takes 6 s to find that there is no path. How long to wait for a person is over by then, and no
/// reason to stop.
fn long_path() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let [one, other] = ["one", "other"].map(|name| Kind::Symmetric.site(&scene.lab, name, Duration::ZERO));
    let mut listen =
        scene.start(&one, "listen", &["--broker", &broker_host.ipv4().to_string(), "--wait", "5"]);
    let told = listen.event("code");
    scene.journal.assert(told.number("expires_s") == 5.0, "it is told how long the code serves");
    let mut connect = scene.start(&other, "connect", &[told.text("code")]);
    for process in [&mut listen, &mut connect] {
        process.event("introduced");
        let waiting = process.event("waiting");
        let what = waiting.text("for");
        scene.journal.assert(what.starts_with("a direct path to "), &format!("it waits for {what}"));
    }
    for process in [&mut listen, &mut connect] {
        let kind = process.error().text("kind").to_owned();
        scene.journal.assert(kind == "no-direct-path", &format!("it ends with {kind}"));
    }
}
