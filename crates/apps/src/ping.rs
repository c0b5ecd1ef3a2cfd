//! Ping: how long a few bytes need to the other side and back, as an application sees it.
//!
//! Who asks sends a number (eight bytes, big-endian); who answers sends it back.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use tcpunch::Connection;
use tcpunch_core::limits::PING_SAMPLES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Round trips of one series.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RoundTrips {
    /// Pings sent.
    pub sent: u64,
    /// Pings answered.
    pub answered: u64,
    least: Option<Duration>,
    most: Option<Duration>,
    last: VecDeque<Duration>,
}

/// The least, the middle and the longest round trip of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The shortest.
    pub least: Duration,
    /// As many were shorter as longer; of an even number the longer of the two in the middle.
    pub median: Duration,
    /// The longest.
    pub most: Duration,
}

impl RoundTrips {
    fn note(&mut self, round_trip: Duration) {
        self.answered += 1;
        self.least = Some(self.least.map_or(round_trip, |least| least.min(round_trip)));
        self.most = Some(self.most.map_or(round_trip, |most| most.max(round_trip)));
        if self.last.len() >= PING_SAMPLES {
            self.last.pop_front();
        }
        self.last.push_back(round_trip);
    }

    /// What they amount to, or `None` without an answer. Of a series longer than
    /// [`PING_SAMPLES`] the median is that of its end.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied()?;
        Some(Summary { least: self.least?, median, most: self.most? })
    }
}

/// Sends pings, each after the answer to the one before and `pause` after its start, and tells each
/// answer: its number, from 1, and its round trip. `count` is how many, or `None` for no end.
///
/// What was measured stands in `series`, also when this is dropped or fails. It does not end the
/// connection. A connection without any answer is lost by itself after
/// [`DEAD_AFTER`](tcpunch_core::limits::DEAD_AFTER).
///
/// # Errors
///
/// The connection was lost, ended by the other side, or the other side does not speak ping.
pub async fn ask(
    connection: &Connection,
    count: Option<u64>,
    pause: Duration,
    series: &mut RoundTrips,
    mut on_answer: impl FnMut(u64, Duration),
) -> io::Result<()> {
    let mut half = connection;
    while count.is_none_or(|count| series.sent < count) {
        let began = Instant::now();
        series.sent += 1;
        let number = series.sent;
        half.write_all(&number.to_be_bytes()).await?;
        let mut answer = [0; 8];
        half.read_exact(&mut answer).await?;
        if u64::from_be_bytes(answer) != number {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak ping"));
        }
        let round_trip = began.elapsed();
        series.note(round_trip);
        on_answer(number, round_trip);
        if count != Some(number) {
            tokio::time::sleep(pause.saturating_sub(round_trip)).await;
        }
    }
    Ok(())
}

/// Answers pings until the other side ends, ends as well, and returns how many there were.
///
/// # Errors
///
/// The connection was lost, or ended within a ping.
pub async fn answer(connection: &Connection) -> io::Result<u64> {
    let mut half = connection;
    let mut answered = 0;
    let mut number = [0; 8];
    loop {
        let first = half.read(&mut number).await?;
        if first == 0 {
            connection.close().await?;
            return Ok(answered);
        }
        half.read_exact(number.get_mut(first..).unwrap_or_default()).await?;
        half.write_all(&number).await?;
        answered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_its_least_middle_and_longest() {
        let mut series = RoundTrips::default();
        assert_eq!(series.summary(), None);
        for ms in [5, 1, 9, 3] {
            series.note(Duration::from_millis(ms));
        }
        let [least, median, most] = [1, 5, 9].map(Duration::from_millis);
        assert_eq!(series.summary(), Some(Summary { least, median, most }));
        assert_eq!(series.answered, 4);
    }

    #[test]
    fn a_long_series_keeps_its_extremes_and_stays_small() {
        let mut series = RoundTrips::default();
        series.note(Duration::from_secs(9));
        for _ in 0..PING_SAMPLES + 10 {
            series.note(Duration::from_millis(2));
        }
        let summary = series.summary().unwrap();
        assert_eq!((summary.most, summary.median), (Duration::from_secs(9), Duration::from_millis(2)));
        assert_eq!(series.last.len(), PING_SAMPLES);
    }
}
