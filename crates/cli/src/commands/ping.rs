//! `tcpunch ping`: latency and path, or answer who measures them.

use tcpunch::{Connection, Verb};
use tcpunch_apps::ping::{self, RoundTrips};

use crate::args::{Common, Ping};
use crate::exit::{Failure, code};
use crate::setup;
use crate::show;
use crate::term::Talk;

pub(crate) async fn run(common: &Common, flags: Ping, talk: &Talk) -> Result<u8, Failure> {
    let connection = tokio::select! {
        connection = meet(common, &flags, talk) => connection?,
        _ = tokio::signal::ctrl_c() => return Ok(code::INTERRUPTED),
    };
    talk.connected(&connection);
    if flags.who.is_some() {
        return measure(&connection, &flags, talk).await;
    }
    tokio::select! {
        result = answer(&connection, talk) => result,
        _ = tokio::signal::ctrl_c() => Ok(code::INTERRUPTED),
    }
}

async fn meet(common: &Common, flags: &Ping, talk: &Talk) -> Result<Connection, Failure> {
    let who = flags.who.as_deref().map(setup::code).transpose()?;
    let endpoint = setup::endpoint(common, who.as_ref(), talk).await?;
    let Some(who) = who else {
        return super::listen::wait(&endpoint, common, talk, Verb::Ping, "ping").await;
    };
    Ok(super::connect::arrive(&endpoint, &who, Verb::PingJoin, common.wait, talk).await?)
}

async fn measure(connection: &Connection, flags: &Ping, talk: &Talk) -> Result<u8, Failure> {
    let peer = connection.peer();
    let mut series = RoundTrips::default();
    let mut waiting = Some(talk.waits().begin(talk, "an answer"));
    let on_answer = |number, round_trip| {
        waiting = None;
        show::ping::answer(&peer, number, round_trip, talk);
    };
    let count = (flags.count > 0).then_some(flags.count);
    let result = tokio::select! {
        result = ping::ask(connection, count, flags.interval, &mut series, on_answer) => Some(result),
        _ = tokio::signal::ctrl_c() => None,
    };
    show::ping::summary(&peer, &series, talk);
    let Some(result) = result else {
        // The other side is to see an end, not a loss; a second Ctrl-C does not wait for it.
        tokio::select! { _ = connection.close() => {}, _ = tokio::signal::ctrl_c() => {} }
        return Ok(code::INTERRUPTED);
    };
    let result = match result {
        Ok(()) => talk.waiting("the other side to end as well", connection.close()).await,
        Err(error) => Err(error),
    };
    ended(connection, result, talk)
}

pub(super) async fn answer(connection: &Connection, talk: &Talk) -> Result<u8, Failure> {
    let peer = connection.peer();
    talk.say(format!("answering {} until they leave ...", talk.name(&peer, &peer.nickname())));
    let result = ping::answer(connection).await.map(|count| {
        talk.say(format!("{} answered", show::ping::pings(count)));
    });
    ended(connection, result, talk)
}

pub(super) fn ended(
    connection: &Connection,
    result: std::io::Result<()>,
    talk: &Talk,
) -> Result<u8, Failure> {
    talk.closed(connection, if result.is_ok() { "ended" } else { "lost" });
    match result {
        Ok(()) => Ok(code::OK),
        Err(error) => Err(Failure::new("lost", code::LOST, format!("connection lost: {error}"))),
    }
}
