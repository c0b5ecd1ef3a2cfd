//! `tcpunch connect`: connect to who listens, then a pipe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tcpunch::{Code, ConnectError, Connection, Endpoint};
use tcpunch_apps::pipe::{self, PipeError};

use tcpunch_core::limits::ASK_AGAIN_AFTER;

use crate::args::{Common, Connect, Pipe};
use crate::exit::{Failure, code};
use crate::payload::{self, Payload};
use crate::setup;
use crate::term::{Talk, path_fields, path_line, stdout_is_terminal};
use crate::visible::Visible;

pub(crate) async fn run(common: &Common, connect: Connect, talk: &Talk) -> Result<u8, Failure> {
    let code = setup::code(connect.who)?;
    let endpoint = setup::endpoint(common, Some(&code), talk).await?;
    let connection = talk.waiting("the other side", arrive(&endpoint, &code, common.wait)).await?;
    // The broker has done its part.
    drop(endpoint);
    pipe(connection, &connect.pipe, talk).await
}

/// Connects; with `--wait` also to who is not there yet.
async fn arrive(
    endpoint: &Endpoint,
    code: &Code,
    wait: Option<Duration>,
) -> Result<Connection, ConnectError> {
    let give_up = Instant::now() + wait.unwrap_or_default();
    loop {
        match endpoint.connect(code.clone()).await {
            Err(ConnectError::NoSuchCode(_)) if Instant::now() + ASK_AGAIN_AFTER < give_up => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            result => return result,
        }
    }
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
    let connection = Arc::new(connection);
    let (input, output) = (payload::stdin(), Payload::stdout());
    let (input, output) = (input.map_err(Failure::local)?, output.map_err(Failure::local)?);
    let result = if stdout_is_terminal() && !flags.raw {
        pipe::run(&connection, input, Visible::new(output)).await
    } else {
        pipe::run(&connection, input, output).await
    };
    let (bytes_in, bytes_out) = connection.traffic();
    let (reason, failure) = match result {
        Ok(()) => ("ended", None),
        Err(error @ PipeError::Lost(_)) => {
            ("lost", Some(Failure::new("lost", code::LOST, format!("connection lost: {error}"))))
        }
        Err(error @ (PipeError::Input(_) | PipeError::Output(_))) => ("local", Some(Failure::local(error))),
    };
    talk.event(
        "closed",
        json!({ "peer": peer.to_string(), "reason": reason, "bytes_in": bytes_in, "bytes_out": bytes_out }),
    );
    failure.map_or(Ok(code::OK), Err)
}
