//! A pipe: bytes in, bytes out, each direction ending for itself.

use std::io;

use tcpunch::Connection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

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

/// Copies `input` to the peer and what the peer sends to `output`, until both directions have
/// ended and everything was delivered.
///
/// # Errors
///
/// The first that occurs on any of the three.
pub async fn run(
    connection: &Connection,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), PipeError> {
    let send = async {
        let mut half = connection;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = input.read(&mut buffer).await.map_err(PipeError::Input)?;
            if length == 0 {
                return half.shutdown().await.map_err(PipeError::Lost);
            }
            half.write_all(buffer.get(..length).unwrap_or_default()).await.map_err(PipeError::Lost)?;
        }
    };
    let receive = async {
        let mut half = connection;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = half.read(&mut buffer).await.map_err(PipeError::Lost)?;
            if length == 0 {
                return output.shutdown().await.map_err(PipeError::Output);
            }
            let part = buffer.get(..length).unwrap_or_default();
            output.write_all(part).await.map_err(PipeError::Output)?;
            output.flush().await.map_err(PipeError::Output)?;
        }
    };
    tokio::try_join!(send, receive)?;
    connection.close().await.map_err(PipeError::Lost)
}
