//! The least time that a network allows.

use std::time::Duration;

use natlab::Attachment;

use crate::{Arrangement, Scenario};

/// Round trips without jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundTrips {
    /// Between who waits and the broker.
    pub(crate) waiter: Duration,
    /// Between who arrives and the broker.
    pub(crate) arriver: Duration,
    /// Between the two.
    pub(crate) peers: Duration,
}

pub(crate) fn round_trips(scenario: &Scenario) -> RoundTrips {
    let there_and_back = |cable: &Attachment| cable.up.delay + cable.down.delay;
    let [waits, arrives] = &scenario.sides;
    let (waits, arrives) = (there_and_back(&waits.cable), there_and_back(&arrives.cable));
    let broker = there_and_back(&scenario.broker);
    match scenario.arrangement {
        Arrangement::Apart => {
            RoundTrips { waiter: waits + broker, arriver: arrives + broker, peers: waits + arrives }
        }
        // Two public hosts have no LAN in common: each has a cable like the first side's.
        Arrangement::Together if is_public(scenario) => {
            RoundTrips { waiter: waits + broker, arriver: waits + broker, peers: waits * 2 }
        }
        Arrangement::Together => {
            RoundTrips { waiter: waits + broker, arriver: waits + broker, peers: Duration::ZERO }
        }
        Arrangement::BrokerInside if is_public(scenario) => {
            RoundTrips { waiter: waits * 2, arriver: waits + arrives, peers: waits + arrives }
        }
        Arrangement::BrokerInside => {
            RoundTrips { waiter: Duration::ZERO, arriver: waits + arrives, peers: waits + arrives }
        }
    }
}

fn is_public(scenario: &Scenario) -> bool {
    let [first, _] = &scenario.sides;
    first.network.layers.is_empty()
}

/// The least time in which the two can have a connection on which both know each other, from the moment the claim of the
/// code is written on a registered link, as [`Report::since_claim`](crate::Report::since_claim) counts.
///
/// With rA and rB the round trips of arriver and waiter to the broker, and r the one between them: the claim and the
/// share come and go in rA; the proof reaches the waiter and its consent the broker in (rA + rB) / 2 + rB / 2; both hear
/// Go together after half the longer round trip: `Tc = 1.5 rA + rB + max(rA, rB) / 2`. From there the SYNs take 1.5 r
/// with the first record of each. A skew that is injected is added; jitter, losses and what computing takes are not.
pub fn least_time(scenario: &Scenario) -> Duration {
    let RoundTrips { waiter, arriver, peers } = round_trips(scenario);
    let fire = arriver * 3 / 2 + waiter + arriver.max(waiter) / 2;
    let [one, other] = &scenario.sides;
    fire + peers * 3 / 2 + one.late.max(other.late)
}
