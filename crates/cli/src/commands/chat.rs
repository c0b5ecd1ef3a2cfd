//! `tcpunch chat`: talk in the open lobby, or in private with a code.

use std::time::Duration;

use tcpunch::Verb;
use tcpunch_apps::chat::{self, ChatEnd, Input, Room};
use tcpunch_core::candidate::{Scope, scope};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{Chat, Common};
use crate::exit::{Failure, code};
use crate::setup;
use crate::show::chat::show;
use crate::term::{Talk, clean};

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
    // Before anybody is told of it: a signal that comes earlier ends the process at once.
    let interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let lines = until_interrupted(lines, interrupt, stop);
    let end = chat::run(room, &own_name, lines, common.timeout, |event| show(&event, auth, talk)).await?;
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

/// On Ctrl-C the user leaves: what was typed is delivered, and the others see this side leave.
fn until_interrupted(
    mut lines: mpsc::Receiver<String>,
    mut interrupt: Signal,
    stop: tokio::sync::watch::Sender<bool>,
) -> mpsc::Receiver<Input> {
    let (forward, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut open = true;
        loop {
            tokio::select! {
                line = lines.recv(), if open => {
                    open = line.is_some();
                    if forward.send(line.map_or(Input::End, Input::Line)).await.is_err() {
                        return;
                    }
                }
                _ = interrupt.recv() => {
                    stop.send_replace(true);
                    let _ = forward.send(Input::Leave).await;
                    // A second Ctrl-C, or a peer that does not answer, must not hold the user.
                    tokio::spawn(async move {
                        let patience = tokio::time::sleep(Duration::from_secs(2));
                        tokio::select! { _ = interrupt.recv() => {}, () = patience => {} }
                        std::process::exit(i32::from(code::INTERRUPTED));
                    });
                    return;
                }
            }
        }
    });
    receiver
}
