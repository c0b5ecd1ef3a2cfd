//! How many connections of a kind may be there at once, in all and from one subscriber.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcpunch_core::rendezvous::subscriber;

#[derive(Default)]
struct Inside {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

#[derive(Clone)]
pub(crate) struct Gate {
    most: usize,
    most_of_one: usize,
    inside: Arc<Mutex<Inside>>,
}

/// A place inside a [`Gate`], free again when this is dropped.
pub(crate) struct Pass {
    gate: Gate,
    subscriber: IpAddr,
}

impl Gate {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Gate { most, most_of_one, inside: Arc::default() }
    }

    /// A place for a connection from this address, if there is one.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Pass> {
        let subscriber = subscriber(from);
        let mut inside = self.inside();
        // A rate for each subscriber would be asked here, before anything is spent on it.
        if inside.all >= self.most {
            return None;
        }
        let of = inside.of.entry(subscriber).or_default();
        if *of >= self.most_of_one {
            return None;
        }
        *of += 1;
        inside.all += 1;
        Some(Pass { gate: self.clone(), subscriber })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        inside.all = inside.all.saturating_sub(1);
        if let Some(of) = inside.of.get_mut(&self.subscriber) {
            *of = of.saturating_sub(1);
            if *of == 0 {
                inside.of.remove(&self.subscriber);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_subscribers_and_all_of_them() {
        let gate = Gate::new(3, 2);
        let first = gate.enter(ip("2001:db8::1")).unwrap();
        let _second = gate.enter(ip("2001:db8::2")).unwrap();
        assert!(gate.enter(ip("2001:db8::3")).is_none(), "same /64");
        let _third = gate.enter(ip("192.0.2.1")).unwrap();
        assert!(gate.enter(ip("192.0.2.2")).is_none(), "full");
        drop(first);
        assert!(gate.enter(ip("2001:db8::3")).is_some());
    }

    #[test]
    fn forgets_who_left() {
        let gate = Gate::new(3, 2);
        drop(gate.enter(ip("192.0.2.1")));
        assert!(gate.inside().of.is_empty());
        assert_eq!(gate.inside().all, 0);
    }
}
