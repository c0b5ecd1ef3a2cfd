//! A pipe: bytes in, bytes out, each direction ending for itself.

use std::io::{self, Read, Write};
use std::sync::Arc;

use tcpunch::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

/// Bytes that a pipe moves at a time: one full record.
const CHUNK: usize = tcpunch_core::limits::MAX_RECORD;

/// Why a pipe broke.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The connection was lost.
    #[error("{0}")]
    Lost(io::Error),
    /// What comes in can't be read here.
    #[error("the input can't be read: {0}")]
    Input(io::Error),
    /// What came can't be written here.
    #[error("the output can't be written: {0}")]
    Output(io::Error),
}

/// Where a pipe writes.
pub trait Output: Write + Send + 'static {
    /// The peer has said its last: whoever reads this output must see the end of it, though there may still be much to
    /// send.
    ///
    /// # Errors
    ///
    /// What is left can't be written.
    fn end(&mut self) -> io::Result<()>;
}

/// Copies `input` to the peer and what the peer sends to `output`, until both directions have ended and everything was
/// delivered.
///
/// Each direction has a thread of its own, which reads, seals and sends (or receives, opens and writes): files and
/// terminals have no other way than to block, and handing each piece to such a thread costs more than sealing it. A read
/// of `input` that is under way when the pipe breaks is not given up: its thread stays.
///
/// # Errors
///
/// The first that occurs on any of the three.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn run(
    connection: &Arc<Connection>,
    input: impl Read + Send + 'static,
    output: impl Output,
) -> Result<(), PipeError> {
    let here = Handle::current();
    let sending = tokio::task::spawn_blocking({
        let (here, connection) = (here.clone(), connection.clone());
        move || here.block_on(send(&connection, input))
    });
    let receiving = tokio::task::spawn_blocking({
        let connection = connection.clone();
        move || here.block_on(receive(&connection, output))
    });
    let joined = |error: tokio::task::JoinError| PipeError::Lost(io::Error::other(error));
    tokio::try_join!(async { sending.await.map_err(joined)? }, async { receiving.await.map_err(joined)? },)?;
    connection.close().await.map_err(PipeError::Lost)
}

async fn send<R: Read>(mut connection: &Connection, mut input: R) -> Result<R, PipeError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => {
                connection.shutdown().await.map_err(PipeError::Lost)?;
                return Ok(input);
            }
            Ok(length) => {
                let part = buffer.get(..length).unwrap_or_default();
                connection.write_all(part).await.map_err(PipeError::Lost)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PipeError::Input(error)),
        }
    }
}

async fn receive(mut connection: &Connection, mut output: impl Output) -> Result<(), PipeError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = connection.read(&mut buffer).await.map_err(PipeError::Lost)?;
        if length == 0 {
            return output.end().map_err(PipeError::Output);
        }
        let part = buffer.get(..length).unwrap_or_default();
        output.write_all(part).and_then(|()| output.flush()).map_err(PipeError::Output)?;
    }
}
