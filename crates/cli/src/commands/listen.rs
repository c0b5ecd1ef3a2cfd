//! `tcpunch listen`: print a code, wait, then a pipe.

use serde_json::json;
use tcpunch::{Code, ConnectError, Connection, Endpoint, InviteNews, Verb};
use tcpunch_core::limits::CODE_LIFE;
use tokio::time::Instant;

use crate::args::{Common, Pipe};
use crate::exit::Failure;
use crate::setup;
use crate::term::Talk;

pub(crate) async fn run(common: &Common, pipe: &Pipe, talk: &Talk) -> Result<u8, Failure> {
    let endpoint = setup::endpoint(common, None, talk).await?;
    let connection = wait(&endpoint, common, talk, Verb::Listen, "connect").await?;
    drop(endpoint);
    super::connect::pipe(connection, pipe, talk).await
}

/// Opens a code, tells it together with the other side's command, and waits for the other side.
pub(crate) async fn wait(
    endpoint: &Endpoint,
    common: &Common,
    talk: &Talk,
    verb: Verb,
    command: &str,
) -> Result<Connection, Failure> {
    let mut invite = talk.waiting("the broker to give a code", endpoint.invite_for(verb)).await?;
    let deadline = Instant::now() + common.wait.unwrap_or(CODE_LIFE);
    tell(invite.code(), command, deadline, talk);
    talk.waits().other_side_begins(talk);
    let mut code = invite.code().clone();
    let mut came = false;
    loop {
        let news = tokio::select! {
            news = invite.news() => news,
            () = tokio::time::sleep_until(deadline), if !came => return Err(ConnectError::NobodyCame.into()),
        };
        match news {
            InviteNews::Introduced => came = true,
            InviteNews::Opened(again) if again == code => {}
            InviteNews::Opened(again) => {
                talk.must_say("the broker forgot the code; this one takes its place");
                tell(&again, command, deadline, talk);
                code = again;
            }
            InviteNews::WrongGuess(left) => {
                let what = match left {
                    0 => "that was one too often".to_owned(),
                    1 => "1 more guess until the code is burnt".to_owned(),
                    left => format!("{left} more guesses until the code is burnt"),
                };
                talk.event(
                    "error",
                    json!({ "kind": "wrong-words", "exit": 5, "fatal": false, "left": left,
                            "message": "somebody tried wrong words", "hint": null }),
                );
                talk.must_say(format!("somebody tried wrong words; {what}"));
            }
            InviteNews::Ended(result) => return Ok(*result?),
        }
    }
}

fn tell(code: &Code, command: &str, deadline: Instant, talk: &Talk) {
    let command = format!("tcpunch {command} {code}");
    let left = deadline.duration_since(Instant::now()).min(CODE_LIFE);
    let expires_s = left.as_secs_f64().round() as u64;
    talk.event("code", json!({ "code": code.to_string(), "command": command, "expires_s": expires_s }));
    talk.must_say(format!("code  {}", talk.code(&code.to_string())));
    talk.say(format!("on the other computer type:  {command}"));
}
