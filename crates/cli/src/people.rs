//! Who is in a chat, for who asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcpunch::{PathInfo, PublicKey};
use tcpunch_apps::chat::ChatEvent;

use crate::term::Talk;

struct Person {
    peer: PublicKey,
    name: String,
    info: PathInfo,
}

/// Members with a direct connection, in the order in which they came.
#[derive(Clone, Default)]
pub(crate) struct People(Arc<Mutex<Vec<Person>>>);

impl People {
    fn lock(&self) -> MutexGuard<'_, Vec<Person>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who came, and who went.
    pub(crate) fn note(&self, event: &ChatEvent, talk: &Talk) {
        match event {
            ChatEvent::Here { peer, name, info, again: _ } => {
                talk.waits().path_ends(peer);
                let mut people = self.lock();
                people.retain(|person| person.peer != *peer);
                people.push(Person { peer: *peer, name: name.clone(), info: info.clone() });
            }
            ChatEvent::Gone { peer, .. } => self.lock().retain(|person| person.peer != *peer),
            ChatEvent::Unreachable { peer, .. } => talk.waits().path_ends(peer),
            ChatEvent::Joined { .. }
            | ChatEvent::Line { .. }
            | ChatEvent::Words { .. }
            | ChatEvent::Replaced { .. }
            | ChatEvent::Refused(_)
            | ChatEvent::Nobody
            | ChatEvent::Waiting => {}
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().iter().map(|person| person.name.clone()).collect()
    }

    /// One line each.
    pub(crate) fn tell(&self, talk: &Talk) {
        for Person { peer, name, info } in &*self.lock() {
            talk.must_say(format!("* {} ({})", talk.name(peer, name), info.path));
        }
    }

    /// How the connection to each runs, or to those with this name; false if there is none.
    pub(crate) fn tell_paths(&self, called: Option<&str>, talk: &Talk) -> bool {
        let people = self.lock();
        let asked = people.iter().filter(|person| called.is_none_or(|called| called == person.name));
        let lines: Vec<String> = asked
            .map(|person| {
                format!("* {}  {}", talk.name(&person.peer, &person.name), talk.path_line(&person.info))
            })
            .collect();
        for line in &lines {
            talk.must_say(line);
        }
        !lines.is_empty()
    }
}
