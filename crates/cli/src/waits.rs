//! Every wait that lasts is explained, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tcpunch::PublicKey;
use tcpunch_core::limits::EXPLAIN_AFTER;
use tokio::task::AbortHandle;

use crate::term::Talk;

/// What is being waited for.
#[derive(Clone, Default)]
pub(crate) struct Waits {
    /// Peers that were introduced and are not connected yet.
    paths: Arc<Mutex<HashMap<PublicKey, Wait>>>,
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

    /// From an introduction on there is a direct path to wait for.
    pub(crate) fn path_begins(&self, talk: &Talk, peer: PublicKey) {
        let wait = self.begin(talk, format!("a direct path to {}", peer.nickname()));
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, wait);
    }

    /// It is there, or there is none.
    pub(crate) fn path_ends(&self, peer: &PublicKey) {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }
}
