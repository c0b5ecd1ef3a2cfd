//! `tcpunch connect`: connect to who listens, then a pipe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tcpunch::{Code, ConnectError, Connection, Endpoint, Verb};
use tcpunch_apps::pipe::{self, PipeError};

use tcpunch_core::limits::ASK_AGAIN_AFTER;

use crate::args::{Common, Connect, Pipe};
use crate::exit::{Failure, code};
use crate::payload::{Input, Payload};
use crate::prompt;
use crate::setup;
use crate::term::{Talk, stdout_is_terminal};
use crate::visible::Visible;

pub(crate) async fn run(common: &Common, connect: Connect, talk: &Talk) -> Result<u8, Failure> {
    let code = match &connect.who {
        Some(who) => setup::code(who)?,
        None => prompt::code().await?,
    };
    let endpoint = setup::endpoint(common, Some(&code), talk).await?;
    let connection = arrive(&endpoint, &code, Verb::Connect, common.wait, talk).await?;
    // The broker has done its part.
    drop(endpoint);
    pipe(connection, &connect.pipe, talk).await
}

/// Connects; with `--wait` also to who is not there yet.
pub(super) async fn arrive(
    endpoint: &Endpoint,
    code: &Code,
    verb: Verb,
    wait: Option<Duration>,
    talk: &Talk,
) -> Result<Connection, ConnectError> {
    talk.waits().other_side_begins(talk);
    let give_up = Instant::now() + wait.unwrap_or_default();
    loop {
        match endpoint.connect_as(code.clone(), verb).await {
            Err(ConnectError::NoSuchCode(_)) if Instant::now() + ASK_AGAIN_AFTER < give_up => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            result => return result,
        }
    }
}

/// Says how the connection runs, and moves bytes until both sides have ended.
pub(crate) async fn pipe(connection: Connection, flags: &Pipe, talk: &Talk) -> Result<u8, Failure> {
    talk.connected(&connection);
    let connection = Arc::new(connection);
    let (input, output) = (Input::stdin(talk), Payload::stdout());
    let (input, output) = (input.map_err(Failure::local)?, output.map_err(Failure::local)?);
    let result = if stdout_is_terminal() && !flags.raw {
        pipe::run(&connection, input, Visible::new(output)).await
    } else {
        pipe::run(&connection, input, output).await
    };
    let (reason, failure) = match result {
        Ok(()) => ("ended", None),
        Err(error @ PipeError::Lost(_)) => {
            ("lost", Some(Failure::new("lost", code::LOST, format!("connection lost: {error}"))))
        }
        Err(error @ (PipeError::Input(_) | PipeError::Output(_))) => ("local", Some(Failure::local(error))),
    };
    talk.closed(&connection, reason);
    failure.map_or(Ok(code::OK), Err)
}
