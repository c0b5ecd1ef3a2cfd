//! The one clock, as `core` reads it and as the laboratory does.

use std::time::Instant;

use natlab::Time;

/// Turns the laboratory's time into the instants that `core` takes, and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    /// Time zero is now; what happens does not depend on when that is.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn instant(self, time: Time) -> Instant {
        self.0 + time
    }

    pub(super) fn time(self, instant: Instant) -> Time {
        instant.saturating_duration_since(self.0)
    }
}
