//! `tcpunch chat`: talk in the open lobby, or in private with a code.

use tcpunch::Verb;
use tcpunch_apps::chat::{self, ChatEnd, ChatEvent, Room};
use tcpunch_core::candidate::{Scope, scope};

use crate::args::{Chat, Common};
use crate::exit::{Failure, code};
use crate::people::People;
use crate::setup;
use crate::show::chat::show;
use crate::term::{Talk, clean};
use crate::typed::{self, Left};

pub(crate) async fn run(common: &Common, flags: Chat, talk: &Talk) -> Result<u8, Failure> {
    let who = flags.who.map(|who| setup::code(&who)).transpose()?;
    let endpoint = setup::endpoint(common, who.as_ref(), talk).await?;
    let own_name = common.name.clone().unwrap_or_else(|| endpoint.key().nickname());
    talk.detail(format!("you are {}", clean(&own_name)));
    let (room, auth) = match who {
        Some(who) => {
            let joined = super::connect::arrive(&endpoint, &who, Verb::ChatJoin, common.wait, talk).await?;
            (Room::Private(Box::new(joined)), "code")
        }
        None if flags.new => {
            let joined = tokio::select! {
                // From the moment that the code is told, the signal is heard.
                biased;
                _ = tokio::signal::ctrl_c() => return Ok(code::INTERRUPTED),
                joined = super::listen::wait(&endpoint, common, talk, Verb::Chat, "chat") => joined?,
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
    let people = People::default();
    let lines = typed::lines(&own_name, &people, talk)?;
    let mut joining = matches!(room, Room::Lobby(_)).then(|| talk.waits().begin(talk, "the broker's lobby"));
    let on_event = |event: ChatEvent| {
        if matches!(event, ChatEvent::Joined { .. }) {
            joining = None;
        }
        people.note(&event, talk);
        show(&event, auth, talk);
    };
    let end = chat::run(room, &own_name, lines.inputs, common.timeout, on_event).await;
    let left = lines.left.borrow().clone();
    // What follows stands below the chat, on a terminal as it was.
    talk.screen().finish();
    if left == Left::Interrupted {
        return Ok(code::INTERRUPTED);
    }
    let undelivered = |lines: Vec<String>| match lines.is_empty() {
        true => String::new(),
        false => format!("; not delivered:\n  {}", lines.join("\n  ")),
    };
    if let Left::Unreadable(error) = left {
        let lines = if let Ok(ChatEnd::Undelivered(lines)) = end { lines } else { Vec::new() };
        return Err(Failure::local(format!("the input can't be read: {error}{}", undelivered(lines))));
    }
    match end? {
        ChatEnd::Delivered | ChatEnd::PeerLeft => Ok(code::OK),
        ChatEnd::Unheard { names, others } => {
            let (kind, exit) = if others { ("partly", code::PARTLY) } else { ("lost", code::LOST) };
            let names: Vec<String> = names.iter().map(|name| clean(name)).collect();
            Err(Failure::new(kind, exit, format!("not everything was delivered to {}", names.join(", "))))
        }
        ChatEnd::PeerLost(why) => {
            Err(Failure::new("lost", code::LOST, format!("connection lost: {}", clean(&why))))
        }
        ChatEnd::Undelivered(lines) if lines.is_empty() && left == Left::Quit => Ok(code::OK),
        ChatEnd::Undelivered(lines) => {
            Err(Failure::new("nobody", code::NOBODY, format!("nobody came{}", undelivered(lines))))
        }
    }
}

/// Whether strangers may use a broker with this name: it is no address of a private network.
fn is_elsewhere(host: &str) -> bool {
    host.parse().map_or(host != "localhost", |ip| scope(ip) == Scope::Global)
}
