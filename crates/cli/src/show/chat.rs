//! What happens in a chat.

use serde_json::json;
use tcpunch_apps::chat::ChatEvent;

use crate::exit::{Failure, code};
use crate::term::{Talk, clean, millis, path_fields};

/// Tells one event; `auth` is how members are authenticated.
pub(crate) fn show(event: &ChatEvent, auth: &str, talk: &Talk) {
    match event {
        ChatEvent::Joined { members: 0 } => {}
        ChatEvent::Joined { members } => talk.say(format!("{members} in the lobby; connecting ...")),
        ChatEvent::Waiting => {
            talk.event("waiting", json!({ "for": "somebody to come" }));
            talk.say("you are the first here; waiting for somebody to come ...");
        }
        ChatEvent::Here { peer, name, info, again } => {
            talk.event("peer", json!({ "id": peer.to_string(), "name": name, "auth": auth, "words": null }));
            talk.event("path", path_fields(peer, info));
            talk.say(talk.path_line(info));
            let (name, path) = (talk.name(peer, name), info.path);
            let here = if *again { "is here again" } else { "is here" };
            talk.say(format!("* {name} {here} ({path}, {}, not through the broker)", millis(info.elapsed)));
        }
        ChatEvent::Words { peer, name, words } => {
            talk.event("peer", json!({ "id": peer.to_string(), "name": name, "auth": auth, "words": words }));
            talk.say(format!("* compare with {name}, by voice: {words}"));
        }
        ChatEvent::Line { peer, name, text } => {
            talk.event("message", json!({ "peer": peer.to_string(), "name": name, "text": text }));
            talk.print(format!("{}: {text}", talk.name_on_stdout(peer, name)));
        }
        ChatEvent::Gone { peer, name, lost, away, by_us, traffic } => {
            let reason = lost.as_deref().map_or_else(|| "left".to_owned(), clean);
            talk.event(
                "closed",
                json!({ "peer": peer.to_string(), "reason": reason, "bytes_in": traffic.0, "bytes_out": traffic.1 }),
            );
            let name = talk.name(peer, name);
            match lost {
                Some(_) if *away => talk.say(format!("* {name} is away: {reason}")),
                Some(_) => talk.say(format!("* {name} is lost: {reason}")),
                None if !by_us => talk.say(format!("* {name} left")),
                None => {}
            }
        }
        ChatEvent::Replaced { peer, traffic } => talk.event(
            "closed",
            json!({ "peer": peer.to_string(), "reason": "replaced", "bytes_in": traffic.0, "bytes_out": traffic.1 }),
        ),
        ChatEvent::Unreachable { peer, obstacle } => {
            talk.event(
                "error",
                json!({ "kind": "no-direct-path", "exit": code::NO_PATH, "message": obstacle.to_string(),
                        "hint": obstacle.remedy(), "fatal": false, "peer": peer.to_string(),
                        "report": crate::show::obstacle::fields(obstacle) }),
            );
            talk.say(format!("* {} can't be reached: {obstacle}", peer.nickname()));
        }
        ChatEvent::Refused(error) => {
            let failure = Failure::from(error.clone());
            talk.event(
                "error",
                json!({ "kind": failure.kind, "exit": failure.exit, "message": failure.message,
                        "hint": failure.hint, "fatal": false }),
            );
            talk.say(format!("nobody else will come, who is here stays: {}", failure.message));
        }
        ChatEvent::Nobody => talk.say("nobody is here to hear that"),
    }
}
