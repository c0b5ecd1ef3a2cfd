//! The open lobby: everyone there has a direct connection to everyone.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::kinds::Kind;
use crate::process::Process;
use crate::scene::Scene;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("lobby::two_behind_openwrt", || {
            everyone_hears(&[Kind::PreservingReset, Kind::PreservingReset])
        }),
        trial("lobby::two_behind_unlike_nats", || everyone_hears(&[Kind::PreservingDrop, Kind::Nested])),
        trial("lobby::three_behind_nats", || {
            everyone_hears(&[Kind::PreservingDrop, Kind::PreservingReset, Kind::Independent]);
        }),
        trial("lobby::one_that_cannot_be_reached", unreachable),
    ]
}

fn chat(scene: &Scene, kind: Kind, name: &str, broker: &str) -> Process {
    let host = kind.site(&scene.lab, name, Duration::from_millis(5));
    let mut chat = scene.start(&host, "chat", &["--name", name, "--broker", broker]);
    chat.event("registered");
    chat
}

fn everyone_hears(kinds: &[Kind]) {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let broker = broker_host.ipv4().to_string();
    let names = ["ann", "ben", "cid"];
    let mut chats: Vec<Process> =
        kinds.iter().zip(names).map(|(kind, name)| chat(&scene, *kind, name, &broker)).collect();
    let others = chats.len() - 1;
    for chat in &mut chats {
        for _ in 0..others {
            let path = chat.event("path");
            scene.journal.assert(path.text("path") == "punched", "a path is not punched");
        }
    }
    for speaker in 0..chats.len() {
        let text = format!("says {}", names[speaker]);
        chats[speaker].say(&text);
        for (at, chat) in chats.iter_mut().enumerate().filter(|(at, _)| *at != speaker) {
            let message = chat.event("message");
            scene
                .journal
                .assert(message.text("text") == text, &format!("{} heard something else", names[at]));
            scene.journal.assert(message.text("name") == names[speaker], "somebody else said it");
        }
    }
    for chat in &mut chats {
        chat.close_input();
    }
    for chat in &mut chats {
        chat.ends_well();
    }
}

/// One member that can't be reached is told of, and the others talk.
fn unreachable() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let broker = broker_host.ipv4().to_string();
    let mut ann = chat(&scene, Kind::PreservingDrop, "ann", &broker);
    let mut symmetric = chat(&scene, Kind::Symmetric, "sym", &broker);
    for process in [&mut ann, &mut symmetric] {
        let error = process.event("error");
        scene.journal.assert(error.value["fatal"] == false, "one who can't be reached ends the chat");
        scene.journal.assert(error.number("exit") == 6.0, "it is another error");
        scene.journal.assert(error.text("message").contains("symmetric NAT"), "the reason is not said");
    }
    let mut ben = chat(&scene, Kind::PreservingReset, "ben", &broker);
    ann.event("path");
    ben.event("path");
    ann.say("we two");
    scene.journal.assert(ben.event("message").text("text") == "we two", "ben heard something else");
}
