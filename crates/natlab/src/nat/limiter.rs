//! Limits of events a second.

use std::time::Duration;

use super::Rate;
use crate::Time;

/// A token bucket, kept as the time at which it will be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: Time,
}

impl Bucket {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Time, rate: Rate) -> bool {
        let interval =
            Duration::from_secs(1).checked_div(rate.per_second).unwrap_or(Duration::from_secs(1 << 40));
        let full_at = self.full_at.max(now);
        let taken = full_at + interval;
        let permitted = taken - now <= interval * rate.burst;
        if permitted {
            self.full_at = taken;
        }
        permitted
    }
}
