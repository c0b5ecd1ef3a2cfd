//! `tcpunch chat`: talk in the open lobby, or in private with a code.

use std::time::Duration;

use serde_json::json;
use tcpunch::Verb;
use tcpunch_apps::chat::{self, ChatEnd, ChatEvent, Room};
use tcpunch_core::candidate::{Scope, scope};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{Chat, Common};
use crate::exit::{Failure, code};
use crate::setup;
use crate::term::{Talk, clean, millis, path_fields, path_line};

pub(crate) async fn run(common: &Common, flags: Chat, talk: &Talk) -> Result<u8, Failure> {
    let who = flags.who.map(|who| setup::code(Some(who))).transpose()?;
    let endpoint = setup::endpoint(common, who.as_ref(), talk).await?;
    let own_name = common.name.clone().unwrap_or_else(|| endpoint.key().nickname());
    talk.detail(format!("you are {}", clean(&own_name)));
    let (room, auth) = match who {
        Some(who) => {
            let joined = talk.waiting("the other side", endpoint.connect_as(who, Verb::ChatJoin)).await?;
            (Room::Private(Box::new(joined)), "code")
        }
        None if flags.new => {
            let joined = tokio::select! {
                joined = super::listen::wait(&endpoint, common, talk, Verb::Chat) => joined?,
                _ = tokio::signal::ctrl_c() => return Ok(code::INTERRUPTED),
            };
            (Room::Private(Box::new(joined)), "code")
        }
        None => {
            if common.broker.iter().any(|broker| is_elsewhere(&broker.0.host)) {
                talk.say("the lobby is open: everyone there sees your address");
            }
            (Room::Lobby(endpoint.lobby()), "none")
        }
    };
    let (typed, lines) = mpsc::channel(64);
    let (stop, interrupted) = tokio::sync::watch::channel(false);
    std::thread::spawn(move || read_lines(&typed));
    let lines = until_interrupted(lines, stop)?;
    let patience = async || {
        let mut interrupted = interrupted.clone();
        tokio::select! {
            () = tokio::time::sleep(common.timeout) => {}
            Ok(_) = interrupted.wait_for(|interrupted| *interrupted) => {}
        }
    };
    let end = chat::run(room, &own_name, lines, patience, |event| show(&event, auth, talk)).await?;
    if *interrupted.borrow() {
        return Ok(code::INTERRUPTED);
    }
    match end {
        ChatEnd::Delivered | ChatEnd::PeerLeft => Ok(code::OK),
        ChatEnd::PeerLost(why) => {
            Err(Failure::new("lost", code::LOST, format!("connection lost: {}", clean(&why))))
        }
        ChatEnd::Undelivered(lines) => {
            let what = if lines.is_empty() {
                String::new()
            } else {
                format!("; not delivered:\n  {}", lines.join("\n  "))
            };
            Err(Failure::new("nobody", code::NOBODY, format!("nobody came{what}")))
        }
    }
}

/// Whether strangers may use a broker with this name: it is no address of a private network.
fn is_elsewhere(host: &str) -> bool {
    host.parse().map_or(host != "localhost", |ip| scope(ip) == Scope::Global)
}

/// A thread, because a read of a terminal can't be cancelled.
fn read_lines(typed: &mpsc::Sender<String>) {
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        if !line.is_empty() && typed.blocking_send(line).is_err() {
            return;
        }
    }
}

/// On Ctrl-C the input ends: what was typed is delivered, and the others see this side leave.
fn until_interrupted(
    mut lines: mpsc::Receiver<String>,
    stop: tokio::sync::watch::Sender<bool>,
) -> Result<mpsc::Receiver<String>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let (forward, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let typed = async {
            while let Some(line) = lines.recv().await {
                if forward.send(line).await.is_err() {
                    break;
                }
            }
            drop(forward);
            // The end of the input is not the end of the chat, which can be interrupted still.
            std::future::pending().await
        };
        // Told before the input ends with `typed`, which may end the chat at once.
        let stopped = async {
            let _ = interrupt.recv().await;
            stop.send_replace(true);
        };
        tokio::select! { () = typed => {}, () = stopped => {} }
        // A second Ctrl-C, or a peer that does not answer, must not hold the user.
        let _ = tokio::time::timeout(Duration::from_secs(2), interrupt.recv()).await;
        std::process::exit(i32::from(code::INTERRUPTED));
    });
    Ok(receiver)
}

fn show(event: &ChatEvent, auth: &str, talk: &Talk) {
    match event {
        ChatEvent::Joined { members: 0 } => {}
        ChatEvent::Joined { members } => talk.say(format!("{members} in the lobby; connecting ...")),
        ChatEvent::Waiting => {
            talk.event("waiting", json!({ "for": "somebody to come" }));
            talk.say("you are the first here; waiting for somebody to come ...");
        }
        ChatEvent::Here { peer, name, info } => {
            talk.event("peer", json!({ "id": peer.to_string(), "name": name, "auth": auth, "words": null }));
            talk.event("path", path_fields(peer, info));
            talk.say(path_line(info));
            let path = info.path;
            talk.say(format!("* {name} is here ({path}, {}, not through the broker)", millis(info.elapsed)));
        }
        ChatEvent::Line { peer, name, text } => {
            talk.event("message", json!({ "peer": peer.to_string(), "name": name, "text": text }));
            talk.print(format!("{name}: {text}"));
        }
        ChatEvent::Gone { peer, name, lost, traffic } => {
            let reason = lost.as_deref().map_or_else(|| "left".to_owned(), clean);
            talk.event(
                "closed",
                json!({ "peer": peer.to_string(), "reason": reason, "bytes_in": traffic.0, "bytes_out": traffic.1 }),
            );
            talk.say(match lost {
                None => format!("* {name} left"),
                Some(_) => format!("* {name} is lost: {reason}"),
            });
        }
        ChatEvent::Unreachable { peer, obstacle } => {
            talk.event(
                "error",
                json!({ "kind": "no-direct-path", "exit": code::NO_PATH, "message": obstacle.to_string(),
                        "hint": obstacle.remedy(), "fatal": false, "peer": peer.to_string() }),
            );
            talk.say(format!("* {} can't be reached: {obstacle}", peer.nickname()));
        }
        ChatEvent::Nobody => talk.say("nobody is here to hear that"),
    }
}
