//! Standard output that carries payload.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, Stdout};

/// Standard output that can end before the process does.
///
/// When the other side has said its last, whoever reads this output must see the end of it, though there may still be
/// much to send in the other direction.
pub(crate) struct Payload(Stdout);

impl Payload {
    pub(crate) fn stdout() -> Self {
        Payload(tokio::io::stdout())
    }
}

impl AsyncWrite for Payload {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.get_mut().0).poll_flush(cx))?;
        // Not closed: the next file that is opened would take its place.
        let nowhere = File::options().write(true).open("/dev/null")?;
        Poll::Ready(nix::unistd::dup2_stdout(nowhere).map_err(io::Error::from))
    }
}
