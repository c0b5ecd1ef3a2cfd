//! What the fuzz targets call; not part of the library.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The first frame that a link would read from these bytes, and how many bytes are left. `None`: it waits for more, or
/// gives the link up.
pub fn link_frame(bytes: &[u8]) -> (Option<Vec<u8>>, usize) {
    let mut rest = bytes;
    let frame = match pin!(crate::registration::read_frame(&mut rest))
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(read) => read.ok(),
        Poll::Pending => None,
    };
    (frame, rest.len())
}
