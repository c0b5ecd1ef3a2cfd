//! A report on the own network.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tcpunch::stun::Mapping;
use tcpunch::{NoMapping, Origin, PathInfo, PortMapping, Registered, Report};
use tcpunch_apps::ping::Summary;
use tcpunch_core::candidate::{Scope, scope};
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal};
use tcpunch_core::prospect::{prospect, remedies, traits};

use crate::term::{Talk, clean, effort, millis, plural};

/// What is known, for people as a table of labels, for programs as one event.
pub(crate) fn report(report: &Report, stun: &Mapping, talk: &Talk) {
    talk.event("doctor", fields(report, stun));
    this_computer(report, talk);
    others(stun, talk);
    let profile = &report.profile;
    match report.origin {
        Origin::Remembered(age) if *profile != NatProfile::default() => {
            talk.print(format!("its network, remembered from {} ago", ago(age)));
        }
        Origin::Remembered(_) | Origin::Nothing | Origin::Measured => talk.print("its network"),
    }
    if let Some(why) = unknown(report) {
        line(talk, "not known", why);
    } else {
        for told in traits(profile) {
            let term = told.term.map(|term| format!(" ({term})")).unwrap_or_default();
            line(talk, told.topic, format!("{}{term}", told.plain));
        }
    }
    let reachable = report.reachable();
    talk.print("what it means");
    line(talk, "reach", prospect(&reachable).to_string());
    if let Some(experience) = experience(report) {
        line(talk, "experience", experience);
    }
    for remedy in remedies(&reachable) {
        line(talk, "would help", remedy);
    }
}

fn this_computer(report: &Report, talk: &Talk) {
    talk.print("this computer");
    for interface in &report.interfaces {
        let (name, address) = (clean(&interface.name), interface.address);
        line(talk, "interface", format!("{name}  {address}/{}", interface.prefix));
    }
    if report.interfaces.is_empty() {
        line(talk, "interface", "none has an address beside loopback");
    }
    for router in &report.routers {
        line(talk, "router", router.to_string());
    }
    for link in &report.links {
        line(talk, "broker", seen(link));
    }
    match &report.port_mapping {
        Some(Ok(PortMapping { protocol, external, .. })) => {
            let text =
                format!("{protocol}: the router forwarded {external} to this computer, for this report");
            line(talk, "port mapping", text);
        }
        Some(Err(why)) => line(talk, "port mapping", format!("none; {}", clean(&why.to_string()))),
        None => {}
    }
    match Ipv6::of(report) {
        Ipv6::Used => {}
        Ipv6::Unused => line(talk, "IPv6", "this computer has it; no broker was reached over it"),
        Ipv6::None => line(talk, "IPv6", "no address that others can reach"),
    }
}

/// What is known of IPv6.
enum Ipv6 {
    /// A broker was reached over it.
    Used,
    /// There is an address that others could reach, and no broker was.
    Unused,
    None,
}

impl Ipv6 {
    fn of(report: &Report) -> Self {
        let reachable = |ip: &IpAddr| ip.is_ipv6() && scope(*ip) == Scope::Global;
        if report.links.iter().any(|link| link.broker.ip().to_canonical().is_ipv6()) {
            Ipv6::Used
        } else if report.interfaces.iter().any(|interface| reachable(&interface.address)) {
            Ipv6::Unused
        } else {
            Ipv6::None
        }
    }

    /// A name for programs.
    fn word(&self) -> &'static str {
        match self {
            Ipv6::Used => "used",
            Ipv6::Unused => "unused",
            Ipv6::None => "none",
        }
    }
}

fn others(stun: &Mapping, talk: &Talk) {
    for sample in &stun.samples {
        let (broker, local, observed) = (sample.destination, sample.local, Some(sample.observed));
        line(talk, "STUN server", seen(&Registered { broker, local, observed }));
    }
    for (server, error) in &stun.silent {
        line(talk, "STUN server", format!("{}: {}", clean(server), clean(&error.to_string())));
    }
}

fn seen(link: &Registered) -> String {
    let Registered { broker, local, observed } = link;
    match observed {
        Some(observed) if observed == local => {
            format!("{broker} sees this computer at its own address, {local}")
        }
        Some(observed) => format!("{broker} sees this computer, {local}, at {observed}"),
        None => format!("{broker} does not say where it sees {local}"),
    }
}

/// Why nothing is known, if nothing is.
fn unknown(report: &Report) -> Option<&'static str> {
    if report.profile != NatProfile::default() {
        None
    } else if report.links.is_empty() {
        Some("it takes a broker, or STUN servers, elsewhere to see how this network looks from outside")
    } else if !report.links.iter().any(|link| link.broker.ip().to_canonical().is_ipv4()) {
        Some("a network is measured over IPv4, and the broker was reached over IPv6 alone")
    } else {
        Some(
            "the broker is on this side of the NAT, if there is one, and sees nothing of it: name one elsewhere with \
             --broker HOST",
        )
    }
}

/// What became of connections through this network, if there were any.
fn experience(report: &Report) -> Option<String> {
    let (connected, failed) = report.tried;
    if (connected, failed) == (0, 0) {
        return None;
    }
    let last = report.worked.map(|path| format!(", the last one {path}")).unwrap_or_default();
    Some(format!("{} stood{last}; {failed} found no path", plural(connected, "connection")))
}

fn line(talk: &Talk, label: &str, text: impl AsRef<str>) {
    talk.print_folded(&format!("  {label:<14}  {}", text.as_ref()));
}

/// That two can connect, and how.
pub(crate) fn connected(info: &PathInfo, round_trips: Option<Summary>, talk: &Talk) {
    talk.print("you two");
    let round_trip = round_trips.map(|trips| format!("; round trip {}", millis(trips.median)));
    let how = format!("{}, {}", info.path, effort(info));
    line(talk, "direct path", format!("{how}{}", round_trip.unwrap_or_default()));
}

/// `3 days`, `5 minutes`, `a moment`.
fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute")];
    units.into_iter().find(|(unit, _)| seconds >= *unit).map_or_else(
        || "a moment".to_owned(),
        |(unit, name)| plural(u32::try_from(seconds / unit).unwrap_or(u32::MAX), name),
    )
}

fn fields(report: &Report, stun: &Mapping) -> Value {
    let profile = &report.profile;
    let (origin, age) = match report.origin {
        Origin::Nothing => ("none", None),
        Origin::Remembered(age) => ("remembered", Some(age.as_secs())),
        Origin::Measured => ("measured", None),
    };
    let interface = |interface: &tcpunch::Interface| json!({ "name": clean(&interface.name), "address": interface.address.to_string(), "prefix": interface.prefix });
    let link = |link: &Registered| {
        json!({
            "broker": link.broker.to_string(),
            "local": link.local.to_string(),
            "observed": link.observed.map(|observed| observed.to_string()),
        })
    };
    let reachable = report.reachable();
    let prospect = prospect(&reachable);
    let reach =
        prospect.chances().iter().map(|(peers, chance)| (peers.word().to_owned(), json!(chance.word())));
    let (connected, failed) = report.tried;
    json!({
        "interfaces": report.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "routers": report.routers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "links": report.links.iter().map(link).collect::<Vec<_>>(),
        "stun": stun_fields(stun),
        "port_mapping": report.port_mapping.as_ref().map(port_mapping_fields),
        "origin": origin,
        "age_s": age,
        "ipv6": Ipv6::of(report).word(),
        "profile": profile_fields(profile),
        "unknown_because": unknown(report),
        "words": profile.to_string(),
        "reach": reach.collect::<serde_json::Map<_, _>>(),
        "meaning": prospect.to_string(),
        "remedies": remedies(&reachable),
        "worked": report.worked.map(tcpunch::Path::word),
        "connected": connected,
        "failed": failed,
    })
}

fn port_mapping_fields(asked: &Result<PortMapping, NoMapping>) -> Value {
    match asked {
        Ok(PortMapping { protocol, router, external, lease }) => json!({
            "protocol": protocol.to_string(),
            "router": router.to_string(),
            "external": external.to_string(),
            "lease_s": lease.as_secs(),
        }),
        Err(why) => json!({ "error": clean(&why.to_string()) }),
    }
}

fn stun_fields(stun: &Mapping) -> Vec<Value> {
    let seen = stun.samples.iter().map(|sample| {
        json!({
            "server": sample.destination.to_string(),
            "local": sample.local.to_string(),
            "observed": sample.observed.to_string(),
        })
    });
    let silent = stun
        .silent
        .iter()
        .map(|(server, error)| json!({ "server": clean(server), "error": clean(&error.to_string()) }));
    seen.chain(silent).collect()
}

/// Behaviour as RFC 4787 names it; `null` where nothing was observed.
pub(crate) fn profile_fields(profile: &NatProfile) -> Value {
    let behaviour = |behaviour| match behaviour {
        Behaviour::Unknown => None,
        Behaviour::EndpointIndependent => Some("endpoint-independent"),
        Behaviour::PortIndependent => Some("port-independent"),
        Behaviour::AddressDependent => Some("address-dependent"),
        Behaviour::EndpointDependent => Some("endpoint-dependent"),
        Behaviour::AddressAndPortDependent => Some("address-and-port-dependent"),
    };
    let allocation = match profile.allocation {
        Allocation::Unknown => Value::Null,
        Allocation::Preserving => json!("preserving"),
        Allocation::Changing => json!("changing"),
        Allocation::Stepping(step) => json!({ "step": step }),
        Allocation::Block { first, last } => json!({ "first": first, "last": last }),
        Allocation::Random => json!("random"),
    };
    let refusal = match profile.refusal {
        Refusal::Unknown => None,
        Refusal::Drop => Some("drop"),
        Refusal::Reset => Some("reset"),
        Refusal::Icmp => Some("icmp"),
    };
    json!({
        "translated": profile.translated,
        "mapping": behaviour(profile.mapping),
        "allocation": allocation,
        "filtering": behaviour(profile.filtering),
        "refusal": refusal,
        "simultaneous_open": profile.simultaneous_open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_the_largest_unit() {
        let told = |seconds| ago(Duration::from_secs(seconds));
        assert_eq!(told(0), "a moment");
        assert_eq!(told(60), "1 minute");
        assert_eq!(told(7300), "2 hours");
        assert_eq!(told(3 * 86_400 + 5), "3 days");
    }

    #[test]
    fn failures_alone_are_experience_too() {
        let report = |worked, tried| Report {
            interfaces: Vec::new(),
            routers: Vec::new(),
            links: Vec::new(),
            profile: NatProfile::default(),
            origin: Origin::Nothing,
            port_mapping: None,
            worked,
            tried,
        };
        assert_eq!(experience(&report(None, (0, 0))), None);
        let failed = experience(&report(None, (0, 3)));
        assert_eq!(failed.as_deref(), Some("0 connections stood; 3 found no path"));
        let both = experience(&report(Some(tcpunch::Path::Punched), (1, 2)));
        assert_eq!(both.as_deref(), Some("1 connection stood, the last one punched; 2 found no path"));
    }
}
