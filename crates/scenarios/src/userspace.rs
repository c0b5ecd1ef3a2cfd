//! Scenarios on real kernels, through NATs in user space.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use natlab::{Error, HostId, netns};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::NatProfile;

use crate::real::{Cast, is_broker, play, survey};
use crate::sim::topology::{Topology, build};
use crate::{Report, Scenario};

/// Runs it, on the same internet as in simulation.
///
/// # Errors
/// There can be no lab here, or it failed.
pub fn run(scenario: &Scenario) -> Result<Report, Error> {
    carry_out(scenario, Rules::default(), None)
}

/// The same, and both sides fire by these rules.
///
/// # Errors
/// As of [`run`].
pub fn run_by(scenario: &Scenario, rules: Rules) -> Result<Report, Error> {
    carry_out(scenario, rules, None)
}

/// Runs it, and keeps what both sides sent and received, in `waiter.pcap` and `arriver.pcap` of this directory, which is
/// made if it is not there.
///
/// # Errors
/// There can be no lab here, it failed, or the files can't be written.
pub fn run_captured(scenario: &Scenario, directory: &Path) -> Result<Report, Error> {
    carry_out(scenario, Rules::default(), Some(directory))
}

/// Lets who waits in a scenario learn of its own network all that it can, on real kernels; nobody else comes. The broker
/// has a second address, or one alone.
///
/// # Errors
/// There can be no lab here, or nothing was learnt.
pub fn learn(scenario: &Scenario, second_address: bool) -> Result<NatProfile, Error> {
    let Topology { mut internet, broker, peers: [peer, _], brokers: [reached_at, _], public, .. } =
        build(scenario);
    let second = second_address.then(|| internet.further_address(broker));
    let lab = netns::Lab::start(internet)?;
    let at = reached_at.iter().map(SocketAddr::ip).filter(IpAddr::is_ipv4).collect();
    survey(lab.host(broker), public, second, lab.host(peer), at)
}

fn carry_out(scenario: &Scenario, rules: Rules, directory: Option<&Path>) -> Result<Report, Error> {
    let Topology { internet, broker, peers, brokers, v6, public, .. } = build(scenario);
    let lab = netns::Lab::start(internet)?;
    if let Some(directory) = directory {
        let failed = |source: io::Error| Error::Io { what: format!("make {}", directory.display()), source };
        fs::create_dir_all(directory).map_err(failed)?;
        for (host, file) in peers.iter().zip(["waiter.pcap", "arriver.pcap"]) {
            lab.capture(*host, directory.join(file))?;
        }
    }
    let ips = |addresses: &[SocketAddr], v6: bool| -> Vec<IpAddr> {
        addresses.iter().map(SocketAddr::ip).filter(|ip| v6 || ip.is_ipv4()).collect()
    };
    let [near, far] = &brokers;
    let reached_at = [ips(near, v6[0]), ips(far, v6[1])];
    let cast = Cast {
        broker: lab.host(broker),
        public,
        sides: peers.map(|host| lab.host(host)),
        reached_at,
        ipv6: v6,
    };
    let play = play(scenario, rules, &cast)?;
    let count = |host: HostId, at: &[IpAddr]| {
        let syns = lab.syns(host).into_iter().filter(|syn| !is_broker(syn.remote, at));
        syns.fold((0, 0), |(first, all), syn| (first + 1, all + syn.transmissions))
    };
    let [(one, one_all), (other, other_all)] =
        [count(peers[0], &cast.reached_at[0]), count(peers[1], &cast.reached_at[1])];
    Ok(Report {
        sides: play.sides,
        since_claim: play.since_claim,
        syns: [one, other],
        wire_syns: [one_all, other_all],
    })
}
