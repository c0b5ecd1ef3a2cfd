//! Bytes of the other side on a terminal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tcpunch_core::sanitize::Carets;
use tokio::io::AsyncWrite;

/// Shows controls as carets, so that the other side can't steer this terminal.
pub(crate) struct Visible<W> {
    out: W,
    carets: Carets,
    shown: Vec<u8>,
    at: usize,
}

impl<W> Visible<W> {
    pub(crate) fn new(out: W) -> Self {
        Visible { out, carets: Carets::default(), shown: Vec::new(), at: 0 }
    }
}

impl<W: AsyncWrite + Unpin> Visible<W> {
    fn poll_shown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.shown.get(self.at..)
            && !rest.is_empty()
        {
            self.at += ready!(Pin::new(&mut self.out).poll_write(cx, rest))?;
        }
        self.shown.clear();
        self.at = 0;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Visible<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_shown(cx))?;
        this.carets.push(data, &mut this.shown);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_shown(cx))?;
        Pin::new(&mut this.out).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_shown(cx))?;
        this.carets.finish(&mut this.shown);
        ready!(this.poll_shown(cx))?;
        Pin::new(&mut this.out).poll_shutdown(cx)
    }
}
