//! What pings tell.

use std::time::Duration;

use serde_json::json;
use tcpunch::PublicKey;
use tcpunch_apps::ping::RoundTrips;

use crate::term::{Talk, round};

/// One answer.
pub(crate) fn answer(peer: &PublicKey, number: u64, round_trip: Duration, talk: &Talk) {
    talk.event("ping", json!({ "peer": peer.to_string(), "number": number, "rtt_ms": round(round_trip) }));
    let name = peer.nickname();
    let name = talk.name_on_stdout(peer, &name);
    talk.print(format!("{number}  {name}  {}", precise(round_trip)));
}

/// All of them.
pub(crate) fn summary(peer: &PublicKey, series: &RoundTrips, talk: &Talk) {
    summary_event(peer, series, talk);
    let round_trips = series.summary().map(|summary| {
        let [least, median, most] = [summary.least, summary.median, summary.most].map(precise);
        format!(": min {least}, median {median}, max {most}")
    });
    talk.print(format!(
        "{}, {} answered{}",
        pings(series.sent),
        series.answered,
        round_trips.unwrap_or_default()
    ));
}

/// All of them, for programs.
pub(crate) fn summary_event(peer: &PublicKey, series: &RoundTrips, talk: &Talk) {
    let summary = series.summary();
    talk.event(
        "summary",
        json!({
            "peer": peer.to_string(),
            "sent": series.sent,
            "answered": series.answered,
            "min_ms": summary.map(|summary| round(summary.least)),
            "median_ms": summary.map(|summary| round(summary.median)),
            "max_ms": summary.map(|summary| round(summary.most)),
        }),
    );
}

/// `1 ping`, `4 pings`.
pub(crate) fn pings(count: u64) -> String {
    format!("{count} {}", if count == 1 { "ping" } else { "pings" })
}

/// Milliseconds, with two digits behind the point where they tell networks apart.
fn precise(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.1} ms") }
}
