//! What a link does to the packets it carries: delay, jitter, loss, reordering, rate, MTU.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::{Error, Time};

/// What a link does in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// How long a packet is under way, at least.
    pub delay: Duration,
    /// A random extra delay is added from zero to this, uniformly; packets keep their order.
    pub jitter: Duration,
    /// Which packets are lost.
    pub loss: Loss,
    /// The probability that a packet is overtaken by those sent within [`reorder_by`](Self::reorder_by) after it.
    pub reorder: f64,
    /// How much later than its place a reordered packet arrives.
    pub reorder_by: Duration,
    /// Bits a second; `None` for no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for their turn; beyond them the link drops. Counts only with a rate.
    pub queue: usize,
    /// The largest packet, IP header included, in bytes; at least 1,280 (RFC 8200 section 5).
    pub mtu: u16,
}

/// Which packets a link loses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// None.
    None,
    /// Each with this probability.
    Random(f64),
    /// In bursts (Gilbert's model): a bad spell begins before a packet with probability `begin` and ends with `end`, so
    /// it lasts 1 / `end` packets on average; while it lasts everything is lost.
    Bursts {
        /// The probability that a bad spell begins.
        begin: f64,
        /// The probability that it ends.
        end: f64,
    },
}

impl Default for Conditions {
    fn default() -> Self {
        Self::PERFECT
    }
}

impl Conditions {
    /// No delay, no loss, no limit, an MTU of 1,500.
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: Loss::None,
        reorder: 0.0,
        reorder_by: Duration::from_millis(1),
        rate: None,
        queue: 256 * 1024,
        mtu: 1500,
    };

    /// Only a delay.
    pub const fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::PERFECT }
    }

    /// The same, losing each packet with this probability.
    #[must_use]
    pub const fn losing(self, probability: f64) -> Self {
        Self { loss: Loss::Random(probability), ..self }
    }

    /// Whether packets arrive at once, all of them.
    pub fn perfect(&self) -> bool {
        *self == Self { mtu: self.mtu, queue: self.queue, reorder_by: self.reorder_by, ..Self::PERFECT }
    }

    /// The same, if the numbers can be meant.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a probability that is none, a delay of more than a minute, an MTU below 1,280 or a rate of
    /// zero.
    pub fn checked(self) -> Result<Self, Error> {
        let probabilities = match self.loss {
            Loss::None => [self.reorder, 0.0],
            Loss::Random(loss) => [self.reorder, loss],
            Loss::Bursts { begin, end } => [begin, end],
        };
        let minute = Duration::from_secs(60);
        let wrong = if probabilities.iter().chain([&self.reorder]).any(|it| !(0.0..=1.0).contains(it)) {
            "a probability is from 0.0 to 1.0"
        } else if self.delay > minute || self.jitter > minute || self.reorder_by > minute {
            "a delay is at most a minute"
        } else if self.mtu < 1280 {
            "an MTU is at least 1,280 bytes"
        } else if self.rate == Some(0) {
            "a rate is at least one bit a second"
        } else {
            return Ok(self);
        };
        Err(Error::OutOfRange(wrong.to_owned()))
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Time),
    /// It is lost.
    Lost,
    /// It does not fit the link's MTU.
    TooBig,
}

/// One direction of a link.
#[derive(Debug, Clone)]
pub struct Link {
    conditions: Conditions,
    random: SmallRng,
    bad: bool,
    /// When the last bit of what was taken has left.
    free_at: Time,
    last_arrival: Time,
}

impl Link {
    /// A link at rest.
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            random: SmallRng::seed_from_u64(seed),
            bad: false,
            free_at: Time::ZERO,
            last_arrival: Time::ZERO,
        }
    }

    /// What it does.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Changes what it does; what is under way is not concerned.
    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Takes a packet of so many bytes at its near end.
    pub fn carry(&mut self, now: Time, bytes: usize) -> Fate {
        let conditions = self.conditions;
        if bytes > usize::from(conditions.mtu) {
            return Fate::TooBig;
        }
        let lost = match conditions.loss {
            Loss::None => false,
            Loss::Random(probability) => self.chance(probability),
            Loss::Bursts { begin, end } => {
                self.bad = if self.bad { !self.chance(end) } else { self.chance(begin) };
                self.bad
            }
        };
        let mut leaves = now;
        if let Some(rate) = conditions.rate {
            let begins = self.free_at.max(now);
            let waiting = (begins - now).as_secs_f64() * rate as f64 / 8.0;
            if waiting > conditions.queue as f64 {
                return Fate::Lost;
            }
            leaves = begins + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
            self.free_at = leaves;
        }
        if lost {
            return Fate::Lost;
        }
        let mut arrival = leaves + conditions.delay;
        if !conditions.jitter.is_zero() {
            arrival += conditions.jitter.mul_f64(self.random.random());
        }
        if self.chance(conditions.reorder) {
            return Fate::Arrives(arrival.max(self.last_arrival) + conditions.reorder_by);
        }
        self.last_arrival = arrival.max(self.last_arrival);
        Fate::Arrives(self.last_arrival)
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random_bool(probability.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn arrivals(conditions: Conditions, seed: u64, packets: u32) -> Vec<Option<Time>> {
        let mut link = Link::new(conditions.checked().unwrap(), seed);
        (0..packets)
            .map(|number| match link.carry(MS * number, 1000) {
                Fate::Arrives(at) => Some(at),
                Fate::Lost => None,
                Fate::TooBig => panic!("1,000 bytes fit"),
            })
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_link() {
        let conditions = Conditions { jitter: 9 * MS, ..Conditions::delay(20 * MS).losing(0.2) };
        assert_eq!(arrivals(conditions, 7, 500), arrivals(conditions, 7, 500));
        assert_ne!(arrivals(conditions, 7, 500), arrivals(conditions, 8, 500));
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let conditions = Conditions { jitter: 9 * MS, ..Conditions::delay(20 * MS) };
        let arrived = arrivals(conditions, 1, 500);
        for (sent, at) in (0..).zip(&arrived) {
            let took = at.unwrap() - MS * sent;
            assert!((20 * MS..=29 * MS).contains(&took), "{took:?}");
        }
        assert!(arrived.is_sorted());
    }

    #[test]
    fn as_many_are_lost_as_asked_one_by_one_or_in_bursts() {
        let lost = |loss| arrivals(Conditions { loss, ..Conditions::PERFECT }, 3, 100_000);
        let one_by_one = lost(Loss::Random(0.1));
        let bursts = lost(Loss::Bursts { begin: 0.01, end: 0.09 });
        let spells = |arrived: &[Option<Time>]| {
            arrived.windows(2).filter(|pair| pair[0].is_some() && pair[1].is_none()).count()
        };
        for arrived in [&one_by_one, &bursts] {
            let count = arrived.iter().filter(|at| at.is_none()).count();
            assert!((9_000..11_000).contains(&count), "{count}");
        }
        assert!(spells(&one_by_one) > 8_000 && spells(&bursts) < 1_200);
    }

    #[test]
    fn a_reordered_packet_is_overtaken() {
        let conditions = Conditions { reorder: 0.1, reorder_by: 5 * MS, ..Conditions::delay(MS) };
        assert!(!arrivals(conditions, 1, 500).is_sorted());
        assert!(arrivals(Conditions { reorder: 0.0, ..conditions }, 1, 500).is_sorted());
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_overflows() {
        // 1,000 bytes take 8 ms, and one is sent each millisecond.
        let conditions = Conditions { rate: Some(1_000_000), queue: 10_000, ..Conditions::PERFECT };
        let arrived = arrivals(conditions, 1, 100);
        assert_eq!(arrived[..3], [Some(8 * MS), Some(16 * MS), Some(24 * MS)]);
        let through = arrived.iter().flatten().count();
        assert!((20..=25).contains(&through), "{through}");
    }

    #[test]
    fn what_is_larger_than_the_mtu_does_not_fit() {
        let mut link = Link::new(Conditions { mtu: 1280, ..Conditions::PERFECT }, 1);
        assert_eq!(link.carry(MS, 1281), Fate::TooBig);
        assert_eq!(link.carry(MS, 1280), Fate::Arrives(MS));
        assert!(Conditions { mtu: 1279, ..Conditions::PERFECT }.checked().is_err());
    }
}
