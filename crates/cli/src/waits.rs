//! Every wait that lasts is explained, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tcpunch::PublicKey;
use tcpunch_core::limits::EXPLAIN_AFTER;
use tokio::task::AbortHandle;

use crate::term::Talk;

/// What is being waited for.
#[derive(Clone, Default)]
pub(crate) struct Waits {
    /// The other person, until the broker introduces somebody.
    other_side: Arc<Mutex<Option<Wait>>>,
    /// Peers that were introduced and are not connected yet.
    paths: Arc<Mutex<HashMap<PublicKey, Wait>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait; over when dropped.
pub(crate) struct Wait(AbortHandle);

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Waits {
    /// Says what is waited for unless the wait is over before that.
    pub(crate) fn begin(&self, talk: &Talk, what: impl Into<String>) -> Wait {
        let (talk, what) = (talk.clone(), what.into());
        let saying = tokio::spawn(async move {
            tokio::time::sleep(EXPLAIN_AFTER).await;
            talk.event("waiting", json!({ "for": what }));
            talk.say(format!("waiting for {what} ..."));
        });
        Wait(saying.abort_handle())
    }

    /// Somebody is to come, or to answer.
    pub(crate) fn other_side_begins(&self, talk: &Talk) {
        *lock(&self.other_side) = Some(self.begin(talk, "the other side"));
    }

    /// Somebody was introduced: now there is a direct path to wait for.
    pub(crate) fn path_begins(&self, talk: &Talk, peer: PublicKey) {
        *lock(&self.other_side) = None;
        let wait = self.begin(talk, format!("a direct path to {}", peer.nickname()));
        lock(&self.paths).insert(peer, wait);
    }

    /// Who was introduced and is not connected, if there is exactly one.
    pub(crate) fn path_to(&self) -> Option<PublicKey> {
        let paths = lock(&self.paths);
        let mut peers = paths.keys().copied();
        peers.next().filter(|_| peers.next().is_none())
    }

    /// It is there, or there is none.
    pub(crate) fn path_ends(&self, peer: &PublicKey) {
        *lock(&self.other_side) = None;
        lock(&self.paths).remove(peer);
    }
}
