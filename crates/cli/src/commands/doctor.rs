//! `tcpunch doctor`: how the own network behaves, and whether two can connect.

use tcpunch::stun::{self, Mapping};
use tcpunch::{Connection, Portmap, Verb};
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
    let (mut builder, broker) = setup::builder(common, who.as_ref(), talk)?;
    if common.portmap == Portmap::Auto {
        // Whether the router would is part of the answer.
        builder = builder.portmap(Portmap::On);
    }
    let alone = builder.report();
    let seen = ask(common, flags, talk).await;
    if !flags.stun.is_empty() && common.broker.is_empty() && who.is_none() && !flags.new {
        show::doctor::report(&alone.with_samples(&seen.samples), &seen, talk);
        return if seen.samples.is_empty() { Err(nobody_answers()) } else { Ok(code::OK) };
    }
    let endpoint = match setup::bind(builder, &broker, talk).await {
        Ok(endpoint) => endpoint,
        Err(error) => {
            show::doctor::report(&alone.with_samples(&seen.samples), &seen, talk);
            return Err(setup::unbound(error, who.as_ref()));
        }
    };
    let report = talk.waiting("the network to show how it behaves", endpoint.report()).await?;
    show::doctor::report(&report.with_samples(&seen.samples), &seen, talk);
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

async fn ask(common: &Common, flags: &Doctor, talk: &Talk) -> Mapping {
    if flags.stun.is_empty() {
        return Mapping::default();
    }
    talk.waiting("STUN servers", stun::mapping(&flags.stun, setup::families(common))).await
}

fn nobody_answers() -> Failure {
    Failure::new("stun", code::BROKER, "no STUN server answers")
        .hint("many answer over UDP alone; this asks over TCP")
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
