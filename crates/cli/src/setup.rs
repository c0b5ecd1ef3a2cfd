//! From flags to an endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tcpunch::store::{Store, StoreError};
use tcpunch::{BindError, BrokerAddress, BrokerError, Builder, Code, Endpoint, Event, Families, PortMapping};

use crate::args::Common;
use crate::exit::{Failure, code};
use crate::term::Talk;

/// The soft limit of descriptors is small for old programs' sake; this one needs many sockets.
pub(crate) fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The state directory, or none with a word about it.
pub(crate) fn store(common: &Common, talk: &Talk) -> Result<Store, Failure> {
    if common.ephemeral {
        return Ok(Store::ephemeral());
    }
    let _wait = talk.waits().begin(talk, "the state directory, which another process holds");
    // Going on without would trust any broker in the place of a known one.
    let fatal = |error| Failure::local(error).hint("or go without what is kept: --ephemeral");
    let store = match Store::open(common.state.clone()) {
        Ok(store) => store,
        Err(error @ (StoreError::Damaged { .. } | StoreError::Exposed { .. })) => return Err(fatal(error)),
        Err(error) => {
            talk.notice("state", format!("nothing is kept on disk: {error}"), None);
            return Ok(Store::ephemeral());
        }
    };
    store.check_known_brokers().map_err(fatal)?;
    // Made on first use; contacts will need it.
    if let Err(error) = store.identity(&mut rand::random) {
        talk.notice("identity", format!("no identity is kept on disk: {error}"), None);
    }
    notes(&store, talk);
    Ok(store)
}

/// What was found in the state directory, and put right.
pub(crate) fn notes(store: &Store, talk: &Talk) {
    for note in store.take_notes() {
        talk.notice("repaired", note, None);
    }
}

/// An endpoint at the broker that the flags, or the code, name.
pub(crate) async fn endpoint(common: &Common, code: Option<&Code>, talk: &Talk) -> Result<Endpoint, Failure> {
    let (builder, broker) = builder(common, code, talk)?;
    bind(builder, &broker, talk).await.map_err(|error| unbound(error, code))
}

/// Makes it; what it has asked of a router is given back before the program ends.
pub(crate) async fn bind(builder: Builder, broker: &str, talk: &Talk) -> Result<Endpoint, BindError> {
    let endpoint = talk.waiting(broker, builder.bind()).await?;
    talk.ends_after(endpoint.over());
    Ok(endpoint)
}

/// Why there is no endpoint; who came with a code is told what helps there.
pub(crate) fn unbound(error: BindError, code: Option<&Code>) -> Failure {
    let named = code.and_then(|code| code.broker.as_ref());
    match (&error, named) {
        (BindError::Broker(BrokerError::Unreachable(_)), Some(named)) => {
            let hint = format!("the code names this broker; leave out @{named} to use --broker");
            Failure::from(error).hint(hint)
        }
        _ => error.into(),
    }
}

/// Which address families are used.
pub(crate) fn families(common: &Common) -> Families {
    Families { v4: !common.ipv6, v6: !common.ipv4 }
}

/// The beginning of one, and what it will wait for.
pub(crate) fn builder(
    common: &Common,
    code: Option<&Code>,
    talk: &Talk,
) -> Result<(Builder, String), Failure> {
    let mut builder = Endpoint::builder()
        .families(families(common))
        .timeout(common.timeout)
        .portmap(common.portmap)
        .portmap_lease(common.portmap_lease)
        .store(store(common, talk)?)
        .on_event(events(talk.clone()));
    let brokers = brokers(common, code, talk)?;
    let named: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    let what = if named.is_empty() {
        "the broker on this computer".to_owned()
    } else {
        format!("the broker at {}", named.join(" or "))
    };
    for broker in brokers {
        builder = builder.broker(broker);
    }
    if let Some(port) = common.bind {
        builder = builder.port(port);
    }
    Ok((builder, what))
}

/// A code names its broker; a pinned key that the flags give for it is used, and nothing else of them.
fn brokers(common: &Common, code: Option<&Code>, talk: &Talk) -> Result<Vec<BrokerAddress>, Failure> {
    let given: Vec<BrokerAddress> = common.broker.iter().map(|broker| broker.0.clone()).collect();
    let Some(named) = code.and_then(|code| code.broker.as_ref()) else { return Ok(given) };
    let mut broker: BrokerAddress =
        named.parse().map_err(|error| Failure::new("usage", code::USAGE, error))?;
    let same = || given.iter().filter(|given| is_same(given, &broker));
    if same().next().is_none() && !given.is_empty() {
        let what = format!("the code names broker {named}; --broker is not used");
        talk.notice("broker-not-used", what, Some(&format!("leave out @{named} to use it")));
    }
    broker.key = same().find_map(|given| given.key);
    Ok(vec![broker])
}

/// Names of hosts are the same in any case.
fn is_same(one: &BrokerAddress, other: &BrokerAddress) -> bool {
    one.host.eq_ignore_ascii_case(&other.host) && one.port == other.port
}

fn events(talk: Talk) -> impl Fn(Event) + Send + Sync + 'static {
    let talk = Arc::new(talk);
    let lost = AtomicBool::new(false);
    move |event| match event {
        Event::Registered { broker, key, local, observed } => {
            if lost.swap(false, Ordering::Relaxed) {
                talk.say("the link to the broker stands again");
            }
            talk.step(
                "registered",
                json!({
                    "broker": broker.to_string(),
                    "key": key.to_string(),
                    "local": local.to_string(),
                    "observed": observed.to_string(),
                }),
            );
            talk.detail(format!("registered at {broker} from {local}, seen there as {observed}"));
        }
        Event::LinkLost => {
            lost.store(true, Ordering::Relaxed);
            talk.event("waiting", json!({ "for": "the broker" }));
            talk.say("the link to the broker is lost; it is being made again (connections go on)");
        }
        Event::KeyNotKept(why) => {
            let what =
                format!("the broker's key is not kept, so the next start would not notice another: {why}");
            talk.notice("broker-key", what, None);
        }
        Event::Noticed(what) => talk.notice("repaired", what, None),
        Event::WrongGuess { .. } => {}
        Event::Introduced { peer, addresses } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            talk.step("introduced", json!({ "peer": peer.to_string(), "addresses": addresses }));
            talk.detail(format!("introduced to {} at {}", peer.nickname(), addresses.join(", ")));
            talk.waits().path_begins(&talk, peer);
        }
        Event::Fired { peer, port, remote } => {
            talk.step("syn", json!({ "peer": peer.to_string(), "port": port, "remote": remote.to_string() }));
            talk.detail(format!("SYN from port {port} to {remote}"));
        }
        Event::PortMapping(Ok(PortMapping { protocol, external, lease, .. })) => {
            let (protocol, lease) = (protocol.to_string(), lease.as_secs());
            talk.step(
                "port-mapping",
                json!({ "protocol": protocol, "external": external.to_string(), "lease_s": lease }),
            );
            talk.detail(format!(
                "the router forwards {external} to this program ({protocol}, {lease} s at a time)"
            ));
        }
        Event::PortMapping(Err(why)) => {
            talk.step("port-mapping", json!({ "why": why.to_string() }));
            talk.detail(format!("the router forwards no port: {why}"));
        }
        Event::Profile(profile) => {
            talk.step("network", json!({ "words": profile.to_string() }));
            talk.detail(format!("this network: {profile}"));
        }
        Event::Surveyed => {}
    }
}

/// The code of an argument or the environment.
pub(crate) fn code(who: &str) -> Result<Code, Failure> {
    who.parse().map_err(|error| Failure::new("usage", code::USAGE, error))
}
