//! What is fuzzed, as plain functions over bytes.
//!
//! Each target takes any bytes, feeds them to a parser or a state machine, and panics where a promise is broken. The
//! fuzzer (`cargo xtask fuzz`) calls them, and `tests/replay.rs` gives them everything that is kept under `fuzz/corpus`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a target reports"
)]

mod addresses;
mod bytes;
mod chat;
#[cfg(unix)]
mod connection;
mod lane;
mod link;
mod peers;
mod puncher;
mod rendezvous;
mod sanitize;
mod store;
mod stun;
mod texts;
mod wire;

/// Something that reads bytes from outside.
pub struct Target {
    /// Its name, which is that of its directory under `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes and panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with: what honest programs send.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "addresses", run: addresses::run, seeds: addresses::seeds },
    Target { name: "chat", run: chat::run, seeds: chat::seeds },
    #[cfg(unix)]
    Target { name: "connection", run: connection::run, seeds: connection::seeds },
    Target { name: "lane", run: lane::run, seeds: lane::seeds },
    Target { name: "link", run: link::run, seeds: link::seeds },
    Target { name: "peers", run: peers::run, seeds: peers::seeds },
    Target { name: "puncher", run: puncher::run, seeds: puncher::seeds },
    Target { name: "rendezvous", run: rendezvous::run, seeds: rendezvous::seeds },
    Target { name: "sanitize", run: sanitize::run, seeds: sanitize::seeds },
    Target { name: "store", run: store::run, seeds: store::seeds },
    Target { name: "stun", run: stun::run, seeds: stun::seeds },
    Target { name: "texts", run: texts::run, seeds: texts::seeds },
    Target { name: "wire", run: wire::run, seeds: wire::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs `work` and panics if it had more than `most` bytes allocated at once.
fn within<T>(most: usize, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let allocated = allocation_counter::measure(|| result = Some(work()));
    assert!(
        allocated.bytes_max <= most as u64,
        "{} bytes were allocated, {most} allowed",
        allocated.bytes_max
    );
    result.unwrap()
}
