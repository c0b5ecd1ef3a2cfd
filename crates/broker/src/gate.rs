//! Places for connections that are not links: how many at once and how often, in all and of each
//! address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tcpunch_core::limits::{Allowance, CONNECTS_PER_ADDRESS};
use tcpunch_core::rendezvous::fence::{Held, Rates};
use tcpunch_core::rendezvous::subscriber;
use tokio::sync::oneshot;

struct Inside {
    /// In order of arrival.
    places: BTreeMap<u64, Place>,
    next: u64,
    held: Held,
    began: Rates,
}

struct Place {
    from: IpAddr,
    /// How much its address had begun when it came.
    busy: u32,
    /// Dropped to send it away.
    _stay: oneshot::Sender<()>,
}

/// A bounded number of places.
#[derive(Clone)]
pub(crate) struct Gate {
    most: usize,
    inside: Arc<Mutex<Inside>>,
}

/// A place inside a [`Gate`], free again when this is dropped.
pub(crate) struct Pass {
    gate: Gate,
    number: u64,
    stay: oneshot::Receiver<()>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The address begins too many connections.
    TooOften,
    /// All places are taken, by addresses that begin fewer.
    Full,
}

impl Gate {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self::with(most, most_of_one, CONNECTS_PER_ADDRESS)
    }

    fn with(most: usize, most_of_one: usize, often: Allowance) -> Self {
        let held = Held::new(most_of_one);
        let inside = Inside { places: BTreeMap::new(), next: 0, held, began: Rates::new(often) };
        Gate { most, inside: Arc::new(Mutex::new(inside)) }
    }

    /// A place for a connection from this address, if need be that of another: of the same
    /// address the oldest, of all the oldest of those whose address begins the most. So silent
    /// connections keep nobody out, and a flood keeps out itself.
    pub(crate) fn enter(&self, now: Instant, from: IpAddr) -> Result<Pass, NoPlace> {
        let mut inside = self.inside();
        if !inside.began.allow(now, from, 1) {
            return Err(NoPlace::TooOften);
        }
        let busy = inside.began.used(now, from);
        if !inside.held.take(from) {
            let own = subscriber(from);
            let oldest = inside.places.iter().find(|(_, place)| subscriber(place.from) == own);
            let oldest = oldest.map(|(number, _)| *number).ok_or(NoPlace::Full)?;
            inside.leave(oldest);
            if !inside.held.take(from) {
                return Err(NoPlace::Full);
            }
        }
        if inside.places.len() >= self.most {
            let busiest = inside.places.iter().rev().max_by_key(|(_, place)| place.busy);
            match busiest.map(|(number, place)| (*number, place.busy)) {
                Some((number, most)) if most >= busy => inside.leave(number),
                Some(_) | None => {
                    inside.held.give_back(from);
                    return Err(NoPlace::Full);
                }
            }
        }
        let number = inside.next;
        inside.next += 1;
        let (stays, stay) = oneshot::channel();
        inside.places.insert(number, Place { from, busy, _stay: stays });
        Ok(Pass { gate: self.clone(), number, stay })
    }

    /// Sends one away where it is not places that are short but something else of this process.
    pub(crate) fn give_way(&self) {
        let mut inside = self.inside();
        let busiest = inside.places.iter().rev().max_by_key(|(_, place)| place.busy);
        if let Some(number) = busiest.map(|(number, _)| *number) {
            inside.leave(number);
        }
    }

    /// Forgets who has begun nothing lately.
    pub(crate) fn sweep(&self, now: Instant) {
        self.inside().began.sweep(now);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn leave(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number) {
            self.held.give_back(place.from);
        }
    }
}

impl Pass {
    /// Ready when another got this place.
    pub(crate) async fn sent_away(&mut self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = (&mut self.stay).await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tcpunch_core::limits::{FRESH_PORTS, PLACES_AGAIN, SURVEY_PLACES};

    const OFTEN: Allowance = Allowance { burst: 1000, every: Duration::from_secs(1) };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn sent_away(pass: &mut Pass) -> bool {
        matches!(pass.stay.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn the_oldest_of_an_address_makes_place_for_its_newest() {
        let now = Instant::now();
        let gate = Gate::with(10, 2, OFTEN);
        let mut first = gate.enter(now, ip("2001:db8::1")).unwrap();
        let mut second = gate.enter(now, ip("2001:db8::2")).unwrap();
        let mut other = gate.enter(now, ip("192.0.2.1")).unwrap();
        let _third = gate.enter(now, ip("2001:db8::3")).unwrap();
        assert!(sent_away(&mut first), "same /64");
        assert!(!sent_away(&mut second) && !sent_away(&mut other));
    }

    #[test]
    fn who_begins_the_most_makes_place_for_who_begins_less() {
        let now = Instant::now();
        let gate = Gate::with(4, 10, OFTEN);
        let mut busy: Vec<Pass> = (0..3).map(|_| gate.enter(now, ip("192.0.2.1")).unwrap()).collect();
        let mut modest = gate.enter(now, ip("192.0.2.2")).unwrap();
        let mut newcomer = gate.enter(now, ip("192.0.2.3")).unwrap();
        assert!(sent_away(&mut busy[2]), "what it began last");
        assert_eq!(gate.enter(now, ip("192.0.2.1")).err(), Some(NoPlace::Full), "it has begun the most");
        assert!(!sent_away(&mut modest) && !sent_away(&mut newcomer));
    }

    #[test]
    fn among_equals_the_oldest_makes_place() {
        let now = Instant::now();
        let gate = Gate::with(2, 10, OFTEN);
        let mut first = gate.enter(now, ip("192.0.2.1")).unwrap();
        let mut second = gate.enter(now, ip("192.0.2.2")).unwrap();
        let _third = gate.enter(now, ip("192.0.2.3")).unwrap();
        assert!(sent_away(&mut first) && !sent_away(&mut second));
    }

    #[test]
    fn an_address_begins_only_so_many_connections() {
        let now = Instant::now();
        let gate = Gate::new(1000, 1000);
        for _ in 0..CONNECTS_PER_ADDRESS.burst {
            drop(gate.enter(now, ip("192.0.2.1")).unwrap());
        }
        assert_eq!(gate.enter(now, ip("192.0.2.1")).err(), Some(NoPlace::TooOften));
        assert!(gate.enter(now, ip("192.0.2.2")).is_ok());
        assert!(gate.enter(now + CONNECTS_PER_ADDRESS.every, ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_classroom_that_starts_at_once_finds_places() {
        let now = Instant::now();
        let gate = Gate::new(512, 64);
        let mut links: Vec<Pass> = (0..30).map(|_| gate.enter(now, ip("192.0.2.1")).unwrap()).collect();
        // Their observations are short.
        for _ in 0..30 * (FRESH_PORTS + SURVEY_PLACES + PLACES_AGAIN + 1) {
            drop(gate.enter(now, ip("192.0.2.1")).unwrap());
        }
        assert!(!links.iter_mut().any(sent_away));
    }

    #[test]
    fn forgets_who_left() {
        let now = Instant::now();
        let gate = Gate::with(3, 2, OFTEN);
        drop(gate.enter(now, ip("192.0.2.1")));
        assert!(gate.inside().held.is_empty() && gate.inside().places.is_empty());
        gate.sweep(now + OFTEN.every);
        assert!(gate.inside().began.is_empty());
    }
}
