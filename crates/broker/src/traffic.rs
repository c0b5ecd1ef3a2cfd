//! What goes through the broker, for its operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Debug, Default)]
struct Counters {
    links: AtomicUsize,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Counters of a running broker; clones show the same ones.
///
/// They count what TCP carried for links: prefaces, handshakes and frames, not the headers of the
/// network. Observations are not counted.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counters>);

impl Traffic {
    /// Links at this moment, after their handshake.
    pub fn links(&self) -> usize {
        self.0.links.load(Ordering::Relaxed)
    }

    /// Bytes received on all links since the start.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes sent on all links since the start.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.load(Ordering::Relaxed)
    }

    pub(crate) fn linked(&self, links: usize) {
        self.0.links.store(links, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.0.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
