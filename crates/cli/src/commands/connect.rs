//! `tcpunch connect`: connect to who listens, then a pipe.

use serde_json::json;
use tcpunch::Connection;
use tcpunch_apps::pipe::{self, PipeError};

use crate::args::{Common, Connect, Pipe};
use crate::exit::{Failure, code};
use crate::setup;
use crate::term::{Talk, path_fields, path_line, stdout_is_terminal};
use crate::visible::Visible;

pub(crate) async fn run(common: &Common, connect: Connect, talk: &Talk) -> Result<u8, Failure> {
    let code = setup::code(connect.who)?;
    let endpoint = setup::endpoint(common, Some(&code), talk).await?;
    let connection = talk.waiting("the other side", endpoint.connect(code)).await?;
    pipe(connection, &connect.pipe, talk).await
}

/// Says how the connection runs, and moves bytes until both sides have ended.
pub(crate) async fn pipe(connection: Connection, flags: &Pipe, talk: &Talk) -> Result<u8, Failure> {
    let peer = connection.peer();
    talk.event(
        "peer",
        json!({ "id": peer.to_string(), "name": peer.nickname(), "auth": "code", "words": null }),
    );
    talk.event("path", path_fields(&peer, connection.info()));
    talk.say(path_line(connection.info()));
    let input = tokio::io::stdin();
    let result = if stdout_is_terminal() && !flags.raw {
        pipe::run(connection, input, Visible::new(tokio::io::stdout())).await
    } else {
        pipe::run(connection, input, tokio::io::stdout()).await
    };
    let (reason, traffic, failure) = match result {
        Ok(traffic) => ("ended", traffic, None),
        Err(error @ PipeError::Lost(_)) => {
            ("lost", (0, 0), Some(Failure::new("lost", code::LOST, format!("connection lost: {error}"))))
        }
        Err(error @ (PipeError::Input(_) | PipeError::Output(_))) => {
            ("local", (0, 0), Some(Failure::local(error)))
        }
    };
    talk.event(
        "closed",
        json!({ "peer": peer.to_string(), "reason": reason, "bytes_in": traffic.0, "bytes_out": traffic.1 }),
    );
    failure.map_or(Ok(code::OK), Err)
}
