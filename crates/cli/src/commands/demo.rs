//! `tcpunch demo`: a broker and two chats, three real processes, told step by step.

use tcpunch_core::limits::DEMO_WITHIN;

use crate::child::{Process, number, text};
use crate::exit::{Failure, code};
use crate::term::Talk;

const HELLO: &str = "hello, directly";

pub(crate) async fn run(talk: &Talk) -> Result<u8, Failure> {
    let late = |_| Failure::new("demo", code::INTERNAL, "the demo did not end within 5 s");
    tokio::time::timeout(DEMO_WITHIN, steps(talk)).await.map_err(late)??;
    Ok(code::OK)
}

async fn steps(talk: &Talk) -> Result<(), Failure> {
    let mut broker =
        Process::start("broker", &["broker", "--listen", "127.0.0.1:0", "--log-addresses"], talk)?;
    let started = broker.event("broker").await?;
    let place = text(&started, "/addresses/0")?;
    talk.print(format!("1. A broker listens on {place}. It introduces peers; it never carries their data."));

    let mut alice = Process::start("alice", &["chat", "--broker", &place, "--name", "alice"], talk)?;
    let alice_link = alice.event("registered").await?;
    let mut bob = Process::start("bob", &["chat", "--broker", &place, "--name", "bob"], talk)?;
    let bob_link = bob.event("registered").await?;
    for (name, link) in [("Alice", &alice_link), ("Bob", &bob_link)] {
        broker.event("registered").await?;
        talk.print(format!(
            "2. {name} registers from {}; the broker sees {}. Behind a NAT these two would differ.",
            text(link, "/local")?,
            text(link, "/observed")?
        ));
    }

    let introduced = broker.event("introduced").await?;
    talk.print(format!(
        "3. The broker tells Alice of {} and Bob of {}, nothing more.",
        text(&introduced, "/arriver/addresses/0")?,
        text(&introduced, "/waiter/addresses/0")?
    ));
    broker.event("go").await?;
    let mut paths = Vec::new();
    for (name, process) in [("Alice", &mut alice), ("Bob", &mut bob)] {
        process.event("introduced").await?;
        // Without a NAT the other's SYN may come in, and the connection stand, before this side fires.
        let mut next = process.event_of(&["syn", "path"]).await?;
        if text(&next, "/event")? == "syn" {
            talk.print(format!(
                "4. {name} sends a SYN from port {}, the same one, to {}. It opens the door in a NAT.",
                number(&next, "/port")?,
                text(&next, "/remote")?
            ));
            next = process.event("path").await?;
        } else {
            talk.print(format!("4. {name} need not send a SYN: the other's came in at the listener before."));
        }
        paths.push((name, next));
    }
    for (name, path) in paths {
        talk.print(format!(
            "5. {name} is connected: {} <-> {}, path {}, {} ms after the introduction, authenticated and encrypted.",
            text(&path, "/local")?,
            text(&path, "/remote")?,
            text(&path, "/path")?,
            number(&path, "/elapsed_ms")?
        ));
    }

    let before = broker.quiet_traffic().await?;
    alice.type_line(HELLO).await?;
    let message = bob.event("message").await?;
    let said = text(&message, "/text")?;
    if said != HELLO {
        return Err(Failure::new("demo", code::INTERNAL, format!("Bob heard '{said}' instead of '{HELLO}'")));
    }
    talk.print(format!("6. {} says to Bob: {said}", text(&message, "/name")?));
    let after = broker.fresh_traffic().await?;
    if after != before {
        let moved =
            format!("the broker's links moved {before} bytes before the message and {after} after it");
        return Err(Failure::new("demo", code::INTERNAL, moved));
    }
    talk.print(format!(
        "7. The broker's links had moved {before} bytes before the message, and {after} after it: it went directly."
    ));
    alice.leave().await?;
    bob.leave().await?;
    talk.print("Try it: tcpunch broker on a computer that both can reach, then tcpunch chat --broker HOST on two others.");
    Ok(())
}
