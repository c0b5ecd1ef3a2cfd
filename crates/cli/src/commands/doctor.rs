//! `tcpunch doctor`: how the own network behaves, and whether two can connect.

use tcpunch::{Connection, Endpoint, Report, Verb};
use tcpunch_apps::ping::{self, RoundTrips};
use tcpunch_core::limits::{PING_PAUSE_LEAST, PINGS};

use crate::args::{Common, Doctor};
use crate::exit::{Failure, code};
use crate::setup;
use crate::show;
use crate::term::Talk;

pub(crate) async fn run(common: &Common, flags: Doctor, talk: &Talk) -> Result<u8, Failure> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(code::INTERRUPTED),
        result = examine(common, &flags, talk) => result,
    }
}

async fn examine(common: &Common, flags: &Doctor, talk: &Talk) -> Result<u8, Failure> {
    let who = flags.who.as_deref().map(setup::code).transpose()?;
    let (builder, broker) = setup::builder(common, who.as_ref(), talk)?;
    let alone = builder.report();
    let endpoint = match talk.waiting(&broker, builder.bind()).await {
        Ok(endpoint) => endpoint,
        Err(error) => {
            show::doctor::report(&alone, talk);
            return Err(error.into());
        }
    };
    show::doctor::report(&measure(&endpoint, talk).await?, talk);
    if let Some(who) = who {
        let connection = super::connect::arrive(&endpoint, &who, Verb::PingJoin, common.wait, talk).await?;
        return connected(&connection, talk).await;
    }
    if flags.new {
        let connection = super::listen::wait(&endpoint, common, talk, Verb::Ping, "doctor").await?;
        talk.connected(&connection);
        show::doctor::connected(connection.info(), None, talk);
        return super::ping::answer(&connection, talk).await;
    }
    Ok(code::OK)
}

async fn measure(endpoint: &Endpoint, talk: &Talk) -> Result<Report, Failure> {
    Ok(talk.waiting("the network to show how it behaves", endpoint.report()).await?)
}

/// A path there is; a few pings show how long it is.
async fn connected(connection: &Connection, talk: &Talk) -> Result<u8, Failure> {
    talk.connected(connection);
    let mut series = RoundTrips::default();
    let asked = ping::ask(connection, Some(PINGS), PING_PAUSE_LEAST, &mut series, |_, _| {});
    let result = match talk.waiting("an answer", asked).await {
        Ok(()) => talk.waiting("the other side to end as well", connection.close()).await,
        Err(error) => Err(error),
    };
    show::ping::summary_event(&connection.peer(), &series, talk);
    show::doctor::connected(connection.info(), series.summary(), talk);
    super::ping::ended(connection, result, talk)
}
