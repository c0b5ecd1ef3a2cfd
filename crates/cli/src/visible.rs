//! Bytes of the other side on a terminal.

use std::io::{self, Write};

use tcpunch_apps::pipe::Output;
use tcpunch_core::sanitize::Carets;

/// Shows controls as carets, so that the other side can't steer this terminal.
pub(crate) struct Visible<W> {
    out: W,
    carets: Carets,
    shown: Vec<u8>,
}

impl<W> Visible<W> {
    pub(crate) fn new(out: W) -> Self {
        Visible { out, carets: Carets::default(), shown: Vec::new() }
    }
}

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.shown.clear();
        self.carets.push(data, &mut self.shown);
        self.out.write_all(&self.shown)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Output> Output for Visible<W> {
    fn end(&mut self) -> io::Result<()> {
        self.shown.clear();
        self.carets.finish(&mut self.shown);
        self.out.write_all(&self.shown)?;
        self.out.end()
    }
}
