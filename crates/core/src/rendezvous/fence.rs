//! What one address may take: how often, and how much at a time.
//!
//! "One address" is an IPv4 address or an IPv6 /64. An IPv6 /48 is counted besides, with
//! [`SITE_FACTOR`] times the allowance, because who has one can come from each of its /64s.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits::{Allowance, FAIR_SHARE, RATE_ENTRIES, SITE_FACTOR};

/// What one subscriber holds: an IPv4 address, or an IPv6 /64.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(network(v6, 64)),
        v4 => v4,
    }
}

fn network(address: Ipv6Addr, length: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - length)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Prefix {
    Subscriber(IpAddr),
    Site(Ipv6Addr),
}

impl Prefix {
    /// What an address is counted under.
    fn all(address: IpAddr) -> impl Iterator<Item = Prefix> + Clone {
        let site = match address.to_canonical() {
            IpAddr::V6(v6) => Some(Prefix::Site(network(v6, 48))),
            IpAddr::V4(_) => None,
        };
        std::iter::once(Prefix::Subscriber(subscriber(address))).chain(site)
    }

    fn factor(self) -> u32 {
        match self {
            Prefix::Subscriber(_) => 1,
            Prefix::Site(_) => SITE_FACTOR,
        }
    }
}

/// One allowance as it is used up (the generic cell rate algorithm, ITU-T I.371): all it keeps is
/// when it will be whole again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    whole: Option<Instant>,
}

impl Bucket {
    /// Takes so much of the allowance, if it is there.
    pub fn take(&mut self, now: Instant, allowance: Allowance, amount: u32) -> bool {
        let owed = self.owed(now) + allowance.every * amount;
        let granted = owed <= allowance.every * allowance.burst;
        if granted {
            self.whole = Some(now + owed);
        }
        granted
    }

    /// When so much will be there.
    pub fn there_at(&self, now: Instant, allowance: Allowance, amount: u32) -> Instant {
        let most = allowance.every * allowance.burst.saturating_sub(amount);
        now + self.owed(now).saturating_sub(most)
    }

    fn owed(&self, now: Instant) -> Duration {
        self.whole.map_or(Duration::ZERO, |whole| whole.saturating_duration_since(now))
    }
}

/// An allowance for each address. Its table is bounded, and forgetful at its bound: forgetting
/// somebody is better than shutting newcomers out.
#[derive(Debug)]
pub struct Rates {
    allowance: Allowance,
    used: HashMap<Prefix, Bucket>,
    /// Not to look through a full table for each newcomer.
    swept: Option<Instant>,
}

impl Rates {
    /// None used.
    pub fn new(allowance: Allowance) -> Self {
        Rates { allowance, used: HashMap::new(), swept: None }
    }

    /// Takes so much of what the address may have, if it is there.
    pub fn allow(&mut self, now: Instant, address: IpAddr, amount: u32) -> bool {
        let prefixes = Prefix::all(address);
        let granted = prefixes.clone().all(|prefix| {
            let mut bucket = self.used.get(&prefix).copied().unwrap_or_default();
            bucket.take(now, self.of(prefix), amount)
        });
        if granted {
            for prefix in prefixes {
                let allowance = self.of(prefix);
                self.make_room(now, prefix);
                self.used.entry(prefix).or_default().take(now, allowance, amount);
            }
        }
        granted
    }

    /// How much of its allowance the address has used and not got back; of an IPv6 site its share.
    pub fn used(&self, now: Instant, address: IpAddr) -> u32 {
        let used = |prefix: Prefix| {
            let owed = self.used.get(&prefix).map_or(Duration::ZERO, |bucket| bucket.owed(now));
            let amount = owed.as_nanos().div_ceil(self.of(prefix).every.as_nanos().max(1));
            u32::try_from(amount).unwrap_or(u32::MAX) / prefix.factor()
        };
        Prefix::all(address).map(used).max().unwrap_or(0)
    }

    /// Forgets who has a whole allowance again.
    pub fn sweep(&mut self, now: Instant) {
        self.used.retain(|_, bucket| !bucket.owed(now).is_zero());
        self.swept = Some(now);
    }

    /// Whether nobody has used anything.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    fn of(&self, prefix: Prefix) -> Allowance {
        let Allowance { burst, every } = self.allowance;
        Allowance { burst: burst * prefix.factor(), every: every / prefix.factor() }
    }

    fn make_room(&mut self, now: Instant, prefix: Prefix) {
        if self.used.len() < RATE_ENTRIES || self.used.contains_key(&prefix) {
            return;
        }
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1)) {
            self.sweep(now);
        }
        if self.used.len() >= RATE_ENTRIES
            && let Some(any) = self.used.keys().next().copied()
        {
            self.used.remove(&any);
        }
    }
}

/// How many entries of a table each address has.
#[derive(Debug)]
pub struct Held {
    most: usize,
    of: HashMap<Prefix, usize>,
}

impl Held {
    /// None has any, and each may have so many.
    pub fn new(most: usize) -> Self {
        Held { most, of: HashMap::new() }
    }

    /// Counts one more, if the address may have it.
    pub fn take(&mut self, address: IpAddr) -> bool {
        let granted = Prefix::all(address)
            .all(|prefix| self.get(prefix) < self.most.saturating_mul(prefix.factor() as usize));
        if granted {
            for prefix in Prefix::all(address) {
                *self.of.entry(prefix).or_default() += 1;
            }
        }
        granted
    }

    /// Counts one less.
    pub fn give_back(&mut self, address: IpAddr) {
        for prefix in Prefix::all(address) {
            if let Some(count) = self.of.get_mut(&prefix) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of.remove(&prefix);
                }
            }
        }
    }

    /// Whose entry makes place for one of `newcomer` where the table is full: of the address that has
    /// the most. `None` where the newcomer has its share, or nobody more than that.
    pub fn greediest(&self, newcomer: IpAddr) -> Option<Greedy> {
        let share = |prefix: Prefix, count: usize| count / prefix.factor() as usize;
        if Prefix::all(newcomer).any(|prefix| share(prefix, self.get(prefix)) >= FAIR_SHARE) {
            return None;
        }
        let (prefix, count) = self.of.iter().max_by_key(|(prefix, count)| share(**prefix, **count))?;
        (share(*prefix, *count) > FAIR_SHARE).then_some(Greedy(*prefix))
    }

    /// Whether nobody has any.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    fn get(&self, prefix: Prefix) -> usize {
        self.of.get(&prefix).copied().unwrap_or(0)
    }
}

/// The address that has the most of something.
#[derive(Clone, Copy, Debug)]
pub struct Greedy(Prefix);

impl Greedy {
    /// Whether this address is counted there.
    pub fn is(self, address: IpAddr) -> bool {
        Prefix::all(address).any(|prefix| prefix == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Allowance = Allowance { burst: 3, every: Duration::from_secs(10) };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn in_site(n: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, n, 0, 0, 0, 1))
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let mut rates = Rates::new(THREE);
        let mut now = Instant::now();
        let one = ip("198.51.100.1");
        let granted = (0..10).filter(|_| rates.allow(now, one, 1)).count();
        assert_eq!(granted, 3);
        assert!(rates.allow(now, ip("198.51.100.2"), 3), "another address has its own");
        now += Duration::from_secs(9);
        assert!(!rates.allow(now, one, 1), "nor is refusing counted");
        now += Duration::from_secs(1);
        assert!(rates.allow(now, one, 1));
        assert!(!rates.allow(now, one, 1));
        assert_eq!(rates.used(now, one), 3);
        now += Duration::from_secs(30);
        assert_eq!(rates.used(now, one), 0);
        rates.sweep(now);
        assert!(rates.is_empty());
    }

    #[test]
    fn more_than_the_whole_allowance_is_never_there() {
        let mut bucket = Bucket::default();
        assert!(!bucket.take(Instant::now(), THREE, 4));
        assert!(!bucket.take(Instant::now(), THREE, u32::MAX));
    }

    #[test]
    fn what_is_not_there_comes_when_it_was_said_to() {
        let mut bucket = Bucket::default();
        let now = Instant::now();
        assert_eq!(bucket.there_at(now, THREE, 1), now);
        assert!(bucket.take(now, THREE, 3));
        let later = bucket.there_at(now, THREE, 2);
        assert_eq!(later, now + Duration::from_secs(20));
        assert!(!bucket.take(later - Duration::from_millis(1), THREE, 2));
        assert!(bucket.take(later, THREE, 2));
    }

    #[test]
    fn networks_of_one_site_share_a_larger_allowance() {
        let mut rates = Rates::new(THREE);
        let now = Instant::now();
        let granted = (0..100).filter(|n| rates.allow(now, in_site(*n), 1)).count();
        assert_eq!(granted, 3 * SITE_FACTOR as usize);
        assert!(rates.allow(now, ip("2001:db8:2::1"), 1), "another site");
        let mut held = Held::new(2);
        let taken = (0..100).filter(|n| held.take(in_site(*n))).count();
        assert_eq!(taken, 2 * SITE_FACTOR as usize);
        assert!(held.take(ip("2001:db8:2::1")));
        assert_eq!(rates.used(now, in_site(200)), 3, "a new network of a busy site is no newcomer");
    }

    #[test]
    fn the_table_of_rates_is_bounded_and_lets_newcomers_in() {
        let mut rates = Rates::new(THREE);
        let now = Instant::now();
        for n in 0..2 * RATE_ENTRIES as u32 {
            assert!(rates.allow(now, IpAddr::V4(n.into()), 3));
        }
        assert_eq!(rates.used.len(), RATE_ENTRIES);
    }

    #[test]
    fn counts_subscribers_and_forgets_who_has_nothing() {
        let mut held = Held::new(2);
        assert!(held.take(ip("2001:db8::1")) && held.take(ip("2001:db8::2")));
        assert!(!held.take(ip("2001:db8::3")), "same /64");
        assert!(held.take(ip("192.0.2.1")));
        assert!(held.take(ip("::ffff:192.0.2.1")));
        assert!(!held.take(ip("192.0.2.1")), "the same address in another spelling");
        for address in ["2001:db8::1", "2001:db8::1", "192.0.2.1", "192.0.2.1"] {
            held.give_back(ip(address));
        }
        assert!(held.is_empty());
    }

    #[test]
    fn only_who_has_more_than_a_share_makes_place_and_only_for_who_has_less() {
        let mut held = Held::new(100);
        let (greedy, modest) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..FAIR_SHARE {
            held.take(greedy);
            held.take(modest);
        }
        assert!(held.greediest(ip("192.0.2.3")).is_none(), "all have their share and no more");
        held.take(greedy);
        assert!(held.greediest(ip("192.0.2.3")).is_some_and(|most| most.is(greedy) && !most.is(modest)));
        assert!(held.greediest(modest).is_none(), "has its share");
        for n in 0..FAIR_SHARE as u16 * SITE_FACTOR as u16 {
            held.take(in_site(n));
        }
        assert!(held.greediest(in_site(99)).is_none(), "its site has its share");
    }
}
