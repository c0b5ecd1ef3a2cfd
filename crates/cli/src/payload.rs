//! Standard input and output that carry payload.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use tcpunch_apps::pipe::Output;

use crate::term::Talk;
use crate::waits::Wait;

/// Standard input without a buffer in between. When it has ended, the other side is waited for.
pub(crate) struct Input {
    file: File,
    talk: Talk,
    ended: Option<Wait>,
}

impl Input {
    /// # Errors
    ///
    /// There is no standard input.
    pub(crate) fn stdin(talk: &Talk) -> io::Result<Self> {
        let file = io::stdin().as_fd().try_clone_to_owned()?.into();
        Ok(Input { file, talk: talk.clone(), ended: None })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if length == 0 && self.ended.is_none() {
            self.ended = Some(self.talk.waits().begin(&self.talk, "the other side to end as well"));
        }
        Ok(length)
    }
}

/// Standard output, without a buffer in between, that can end before the process does.
///
/// When the other side has said its last, whoever reads this output must see the end of it, though there may still be
/// much to send in the other direction.
pub(crate) struct Payload(Option<File>);

impl Payload {
    /// # Errors
    ///
    /// There is no standard output.
    pub(crate) fn stdout() -> io::Result<Self> {
        io::stdout().as_fd().try_clone_to_owned().map(|own| Payload(Some(own.into())))
    }
}

impl Write for Payload {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |file| file.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Payload {
    fn end(&mut self) -> io::Result<()> {
        self.0 = None;
        // Not closed: the next file that is opened would take its place.
        let nowhere = File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(nowhere).map_err(io::Error::from)
    }
}
