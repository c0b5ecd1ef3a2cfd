//! What is remembered of the network that this machine is in, from earlier runs and from before it moved.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tcpunch_core::plan::Path;
use tcpunch_core::profile::{Behaviour, NatProfile};
use tokio::task::JoinHandle;

use crate::endpoint::EventSink;
use crate::error::Event;
use crate::gather;
use crate::store::{NetworkMemory, Store};

/// The memory of networks, and which of them is the present one.
pub(crate) struct Memory {
    store: Arc<Store>,
    events: EventSink,
    /// What tells the present network apart.
    gather: fn() -> Option<Vec<u8>>,
    here: Mutex<Here>,
}

#[derive(Default)]
struct Here {
    /// What tells the network apart, when it was last looked at.
    network: Option<Vec<u8>>,
    known: Option<NetworkMemory>,
    /// How many networks this machine was in.
    visits: u64,
}

impl Memory {
    pub(crate) fn new(store: Arc<Store>, events: EventSink) -> Arc<Self> {
        Memory::looking(store, events, gather::network)
    }

    /// One that looks where it is in another way; for tests.
    pub(crate) fn looking(
        store: Arc<Store>,
        events: EventSink,
        gather: fn() -> Option<Vec<u8>>,
    ) -> Arc<Self> {
        Arc::new(Memory { store, events, gather, here: Mutex::default() })
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of the present network.
    pub(crate) fn known(&self) -> Option<NetworkMemory> {
        self.here().known
    }

    /// Counts the networks in which this machine was.
    pub(crate) fn visits(&self) -> u64 {
        self.here().visits
    }

    /// Looks where this machine is. Best called when a link stands: the kernel then knows the router's hardware address.
    /// Whether this is another network than at the last look.
    pub(crate) fn look(&self) -> bool {
        let network = (self.gather)();
        if self.here().network == network {
            return false;
        }
        let known = network.as_deref().and_then(|network| {
            self.store
                .recall_network(network, SystemTime::now(), &mut rand::random)
                .inspect_err(|error| tracing::debug!("nothing is remembered of this network: {error}"))
                .ok()
                .flatten()
        });
        let mut here = self.here();
        *here = Here { network, known, visits: here.visits + 1 };
        drop(here);
        for note in self.store.take_notes() {
            (self.events)(Event::Noticed(note));
        }
        true
    }

    /// The present network was measured. One of which nothing was found out leaves the memory as it is.
    pub(crate) fn learnt(self: &Arc<Self>, profile: NatProfile) -> Option<JoinHandle<()>> {
        if profile.mapping == Behaviour::Unknown {
            return None;
        }
        self.change(move |known| {
            let fresh =
                NetworkMemory { profile, learnt: SystemTime::now(), worked: None, connected: 0, failed: 0 };
            Some(known.map_or(fresh, |known| NetworkMemory { profile, learnt: fresh.learnt, ..known }))
        })
    }

    /// A connection came to stand, or none did. What stays within the own network tells nothing of it, and of a network
    /// that was never measured nothing is kept.
    pub(crate) fn tried(self: &Arc<Self>, path: Option<Path>) -> Option<JoinHandle<()>> {
        if path == Some(Path::Lan) {
            return None;
        }
        self.change(move |known| {
            known.map(|known| NetworkMemory {
                worked: path.or(known.worked),
                connected: known.connected.saturating_add(u32::from(path.is_some())),
                failed: known.failed.saturating_add(u32::from(path.is_none())),
                ..known
            })
        })
    }

    /// Changes what is remembered, here at once and on the disk soon.
    fn change(
        self: &Arc<Self>,
        change: impl Fn(Option<NetworkMemory>) -> Option<NetworkMemory> + Send + 'static,
    ) -> Option<JoinHandle<()>> {
        let mut here = self.here();
        let network = here.network.clone()?;
        here.known = change(here.known);
        drop(here);
        let memory = self.clone();
        Some(tokio::task::spawn_blocking(move || {
            let kept = memory.store.remember_network(&network, SystemTime::now(), &mut rand::random, change);
            if let Err(error) = kept {
                // Worth no word to the user: it is measured again next time.
                tracing::debug!("this network is not remembered: {error}");
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> NatProfile {
        NatProfile {
            translated: Some(true),
            mapping: Behaviour::EndpointIndependent,
            ..NatProfile::default()
        }
    }

    fn home() -> Option<Vec<u8>> {
        Some(b"home".to_vec())
    }

    fn elsewhere() -> Option<Vec<u8>> {
        Some(b"elsewhere".to_vec())
    }

    fn at(store: &Arc<Store>, network: fn() -> Option<Vec<u8>>) -> Arc<Memory> {
        let memory = Memory::looking(store.clone(), Arc::new(|_| {}), network);
        memory.look();
        memory
    }

    #[tokio::test]
    async fn what_was_learnt_and_what_worked_is_there_next_time() {
        let store = Arc::new(Store::ephemeral());
        let memory = at(&store, home);
        assert_eq!(memory.known(), None);
        memory.learnt(profile()).unwrap().await.unwrap();
        memory.tried(Some(Path::Punched)).unwrap().await.unwrap();
        memory.tried(None).unwrap().await.unwrap();
        let next = at(&store, home).known().unwrap();
        assert_eq!((next.profile, next.worked), (profile(), Some(Path::Punched)));
        assert_eq!((next.connected, next.failed), (1, 1));
        assert_eq!(at(&store, elsewhere).known(), None);
    }

    #[tokio::test]
    async fn only_another_network_changes_what_is_known() {
        let store = Arc::new(Store::ephemeral());
        at(&store, home).learnt(profile()).unwrap().await.unwrap();
        let memory = Memory::looking(store, Arc::new(|_| {}), home);
        assert!(memory.look() && memory.known().is_some());
        assert!(!memory.look(), "the same network");
    }

    #[tokio::test]
    async fn what_tells_nothing_of_the_network_leaves_the_memory_alone() {
        let store = Arc::new(Store::ephemeral());
        let memory = at(&store, home);
        memory.tried(Some(Path::Punched)).unwrap().await.unwrap();
        assert_eq!(at(&store, home).known(), None, "it was never measured");
        memory.learnt(profile()).unwrap().await.unwrap();
        assert!(memory.learnt(NatProfile::default()).is_none());
        assert!(memory.tried(Some(Path::Lan)).is_none());
        assert_eq!(at(&store, home).known().map(|known| known.profile), Some(profile()));
        // Without a network there is nothing to remember it by.
        assert!(at(&store, || None).learnt(profile()).is_none());
    }
}
