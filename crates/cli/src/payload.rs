//! Standard input and output that carry payload.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};

use crate::term::Talk;
use crate::waits::Wait;

/// Standard input. When it has ended, the other side is waited for.
pub(crate) struct Input {
    stdin: Stdin,
    talk: Talk,
    ended: Option<Wait>,
}

impl Input {
    pub(crate) fn new(stdin: Stdin, talk: &Talk) -> Self {
        Input { stdin, talk: talk.clone(), ended: None }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stdin).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && this.ended.is_none() {
            this.ended = Some(this.talk.waits().begin(&this.talk, "the other side to end as well"));
        }
        Poll::Ready(Ok(()))
    }
}

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
