//! Waking at a moment: Tokio's timers tick in milliseconds, and so far apart are the two sides of a short path.

use std::time::Instant;

/// Wakes within some ten microseconds on Linux (timerfd_create(2)), elsewhere as precisely as Tokio does.
#[derive(Default)]
pub(crate) struct Alarm {
    #[cfg(target_os = "linux")]
    timer: linux::Timer,
}

impl Alarm {
    /// Waits until then. Cancel-safe; one waits at a time.
    pub(crate) async fn at(&mut self, at: Instant) {
        #[cfg(target_os = "linux")]
        if self.timer.at(at).await.is_ok() {
            return;
        }
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, RawFd};
    use std::time::{Duration, Instant};

    use nix::errno::Errno;
    use nix::sys::timer::{Expiration, TimerSetTimeFlags};
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    use tokio::io::unix::AsyncFd;

    struct Descriptor(TimerFd);

    impl AsRawFd for Descriptor {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }
    }

    /// Made when it is first needed.
    #[derive(Default)]
    pub(super) struct Timer {
        descriptor: Option<AsyncFd<Descriptor>>,
        /// What it is set to.
        set: Option<Instant>,
    }

    impl Timer {
        /// # Errors
        ///
        /// The kernel has no descriptor for it.
        pub(super) async fn at(&mut self, at: Instant) -> io::Result<()> {
            let timer = match self.descriptor.take() {
                Some(timer) => timer,
                None => {
                    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
                    let timer = Descriptor(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
                    #[expect(
                        deprecated,
                        reason = "its successor is unsafe; this descriptor stays the same while it is owned"
                    )]
                    AsyncFd::new(timer)?
                }
            };
            let timer = self.descriptor.insert(timer);
            if self.set != Some(at) {
                // Nothing would disarm it.
                let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                timer.get_ref().0.set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())?;
                self.set = Some(at);
            }
            while Instant::now() < at {
                let mut ready = timer.readable().await?;
                match timer.get_ref().0.wait() {
                    Ok(()) => {}
                    Err(Errno::EAGAIN) => ready.clear_ready(),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_wakes_at_each_moment_and_never_before() {
        let mut alarm = Alarm::default();
        for micros in [0, 300, 50, 2_500, 1] {
            let at = Instant::now() + Duration::from_micros(micros);
            alarm.at(at).await;
            assert!(Instant::now() >= at, "{micros}");
        }
        alarm.at(Instant::now() - Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn who_was_called_away_is_woken_all_the_same() {
        let mut alarm = Alarm::default();
        let later = Instant::now() + Duration::from_secs(3600);
        for _ in 0..5 {
            tokio::select! {
                biased;
                () = alarm.at(later) => panic!("too early"),
                () = tokio::task::yield_now() => {}
            }
        }
        // What it was set to before is of no consequence.
        let sooner = Instant::now() + Duration::from_millis(1);
        alarm.at(sooner).await;
        assert!(Instant::now() >= sooner);
    }
}
