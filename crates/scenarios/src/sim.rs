//! Scenarios in virtual time: the real puncher, plan, profiles and rendezvous on simulated hosts.

mod attempt;
mod broker;
mod clock;
mod observe;
mod others;
mod peer;
pub(crate) mod topology;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use natlab::sim::{Agent, Event, Os, Sim};
use natlab::{Attachment, HostId, Time};
use tcpunch_core::candidate::Surroundings;
use tcpunch_core::limits::{BROKER_PORT, CODE_LIFE, PROBE_PORT};
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::NatProfile;

pub use attempt::Dial;
use attempt::SOCKETS_ALLOWED;
use broker::BrokerAgent;
use clock::Clock;
pub use others::{Strategy, TRY_WITHIN};
use peer::{Part, PeerAgent, Setup};
use topology::Topology;

use crate::{Outcome, Report, Scenario, Side};

/// How long registering and being introduced may take before a run is given up: names are not resolved here, so it is
/// what two links and one claim take over lossy cables.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(60);

/// After both had the connection, what each says on it must have reached the other within this.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

/// What runs on a host.
enum Role {
    Broker(Box<BrokerAgent>),
    Peer(Box<PeerAgent>),
}

struct Program {
    role: Role,
    events: u64,
}

impl Agent for Program {
    fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        self.events += 1;
        match &mut self.role {
            Role::Broker(broker) => broker.handle(os, event),
            Role::Peer(peer) => peer.handle(os, event),
        }
    }
}

/// What one side did, beyond what the user is told.
#[derive(Debug, Clone, Default)]
pub struct Insight {
    /// Every address that its puncher dialled, in order.
    pub dials: Vec<Dial>,
    /// What it knew of itself when it was introduced.
    pub here: Option<Surroundings>,
    /// Where the broker said that the other side is.
    pub peer_observed: Vec<SocketAddr>,
    /// Host candidates that the other side told it.
    pub told: Vec<SocketAddr>,
    /// First SYNs by the puncher's own count.
    pub syns: u32,
    /// When it had the connection, from the introduction on, whatever became of it then.
    pub connected_after: Option<Duration>,
    /// How often its attempt ended.
    pub finishes: u32,
    /// Most sockets that its attempt had at once.
    pub most_sockets: usize,
}

/// A run with all that the properties look at.
#[derive(Debug, Clone)]
pub struct Run {
    /// What users would be told.
    pub report: Report,
    /// The segments as a sequence diagram (mermaid); empty unless it was asked for.
    pub diagram: String,
    /// What each side did.
    pub sides: [Insight; 2],
    /// Whether both ended with the same connection: each has the salt that the other drew for it.
    pub same_connection: bool,
    /// When the rendezvous had forgotten everything after both had left; only where it was
    /// [asked for](Options::until_empty).
    pub emptied: Option<Duration>,
    /// What hosts' programs were told, until the end was reported.
    pub events: u64,
    /// Packets on cables; only where they were [asked for](Options::count).
    pub packets: Option<usize>,
}

/// What a run does beside what every run does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep a diagram of all segments.
    pub record: bool,
    /// Go on until the rendezvous has forgotten everything.
    pub until_empty: bool,
    /// Count packets, each on each cable; not together with a diagram.
    pub count: bool,
    /// How late programs may get round to what happened, from when the waiter has its code.
    pub reaction: Duration,
    /// The rules that the waiter and the arriver follow.
    pub rules: [Rules; 2],
    /// Whose way both follow.
    pub strategy: Strategy,
    /// Whether every router of the waiter, and of the arriver, forwards its port to it, and it tells the other side.
    pub mapped: [bool; 2],
    /// Give the broker a second address, from which peers learn more of their networks; only to one on the core.
    pub second_address: bool,
}

/// The port of a peer whose routers forward it, the waiter's; the arriver has the next.
const FORWARDED: u16 = 23_456;

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Report {
    run_closely(scenario, Options::default()).report
}

/// Runs a scenario, and returns its segments as a sequence diagram (mermaid) too.
pub fn run_recorded(scenario: &Scenario) -> (Report, String) {
    let run = run_closely(scenario, Options { record: true, ..Options::default() });
    (run.report, run.diagram)
}

/// Runs a scenario and looks closely.
///
/// Who waits has learnt all that it learns of itself before the other side starts; the other claims the code as soon as
/// its link stands. Both say something on the connection that they are given, and it counts only if the other hears it.
pub fn run_closely(scenario: &Scenario, options: Options) -> Run {
    let mut topology = topology::build(scenario);
    let mut forward =
        |side: usize, port| options.mapped.get(side)?.then(|| topology.forward(scenario, side, port))?;
    let mapped = [forward(0, FORWARDED), forward(1, FORWARDED + 1)];
    let Topology { mut internet, broker, peers, brokers, v6, public, .. } = topology;
    let second = options.second_address.then(|| internet.further_address(broker));
    if options.record || options.count {
        internet.record();
    }
    let clock = Clock::start();
    let mut world = World { sim: Sim::new(internet, scenario.seed), broker, peers };
    // Further seeds that differ from those that the internet draws from its own.
    let seed = |number: u64| scenario.seed.rotate_left(17) ^ (number << 56);
    let agent =
        Program { role: Role::Broker(Box::new(BrokerAgent::new(clock, public, second, seed(1)))), events: 0 };
    world.sim.place(broker, Time::ZERO, agent);
    peers.into_iter().for_each(|peer| world.sim.limit_sockets(peer, SOCKETS_ALLOWED));
    let [waits, comes] = &scenario.sides;
    let [waiter, arriver] = peers;
    let own_ports = |address: &SocketAddr| [BROKER_PORT, PROBE_PORT].contains(&address.port());
    let broker_ips: Vec<IpAddr> = brokers.iter().flatten().map(SocketAddr::ip).chain(second).collect();
    let [near, far] = brokers;
    let rules = options.rules;
    let setup = |side: &Side, part, brokers, v6, number, (rules, mapped)| Setup {
        clock,
        part,
        brokers,
        v6,
        late: side.late,
        timeout: scenario.timeout,
        rules,
        strategy: options.strategy,
        mapped,
        seed: seed(number),
    };
    let program = |setup| Program { role: Role::Peer(Box::new(PeerAgent::new(setup))), events: 0 };
    world.sim.place(
        waiter,
        Time::ZERO,
        program(setup(waits, Part::Waiter, near, v6[0], 2, (rules[0], mapped[0]))),
    );
    world.sim.run(INTRODUCED_WITHIN, |sim| {
        peer(sim, waiter).is_some_and(|it| it.number.is_some() || it.ended.is_some())
    });
    // Not before: who dials a broker that does not listen yet is refused.
    world.sim.react_within(options.reaction);
    if let Some(number) = peer(&world.sim, waiter).and_then(|it| it.number) {
        let starts = world.sim.now() + settling(scenario);
        world.sim.place(
            arriver,
            starts,
            program(setup(comes, Part::Arriver(number), far, v6[1], 3, (rules[1], mapped[1]))),
        );
    }
    let until = world.sim.now() + INTRODUCED_WITHIN + scenario.timeout;
    world.sim.run(until, |sim| peers.iter().all(|it| peer(sim, *it).is_some_and(|it| it.ended.is_some())));
    let connected = |sim: &Sim<Program>, host| {
        peer(sim, host).and_then(|it| it.handed.as_ref()).is_some_and(|it| !it.over)
    };
    let heard = |sim: &Sim<Program>, host| {
        peer(sim, host).and_then(|it| it.handed.as_ref()).is_some_and(|it| it.heard)
    };
    if peers.iter().all(|it| connected(&world.sim, *it)) {
        let until = world.sim.now() + HEARD_WITHIN;
        let decided = |sim: &Sim<Program>| peers.iter().all(|it| heard(sim, *it) || !connected(sim, *it));
        world.sim.run(until, decided);
    }
    let syns =
        peers.map(|host| world.sim.syns(host, |to| !(own_ports(&to) && broker_ips.contains(&to.ip()))));
    let report = world.report(syns);
    let programs = [broker, waiter, arriver].map(|host| world.sim.agent(host).map_or(0, |it| it.events));
    let events = programs.iter().sum();
    let sides = peers.map(|host| world.insight(host));
    let same_connection = world.same_connection();
    let emptied = options.until_empty.then(|| world.empty()).flatten();
    let diagram = if options.record { world.sim.diagram() } else { String::new() };
    let count = options.count && !options.record;
    let packets = count.then(|| world.sim.internet_mut().take_record().len());
    Run { report, diagram, sides, same_connection, emptied, events, packets }
}

/// What a peer learns of its own network.
#[derive(Debug, Clone)]
pub struct Learnt {
    /// All of it.
    pub profile: NatProfile,
    /// What was known, and how long after the broker's welcome.
    pub since: Vec<(Duration, NatProfile)>,
    /// Connections that were made for it.
    pub connections: u64,
}

/// Lets who waits in a scenario learn of its own network all that it can, and nobody else come; `None` where it never
/// came to an end. The broker has a second address, or one alone.
pub fn learn(scenario: &Scenario, second_address: bool) -> Option<Learnt> {
    let Topology {
        mut internet, broker, peers: [host, _], brokers: [brokers, _], v6: [v6, _], public, ..
    } = topology::build(scenario);
    let second = second_address.then(|| internet.further_address(broker));
    let clock = Clock::start();
    let mut sim = Sim::new(internet, scenario.seed);
    let program = |role| Program { role, events: 0 };
    let role = Role::Broker(Box::new(BrokerAgent::new(clock, public, second, scenario.seed)));
    sim.place(broker, Time::ZERO, program(role));
    let [side, _] = &scenario.sides;
    let setup = Setup {
        clock,
        part: Part::Waiter,
        brokers,
        v6,
        late: side.late,
        timeout: scenario.timeout,
        rules: Rules::default(),
        mapped: None,
        strategy: Strategy::Ours,
        seed: !scenario.seed,
    };
    sim.place(host, Time::ZERO, program(Role::Peer(Box::new(PeerAgent::new(setup)))));
    let ended = sim.run(INTRODUCED_WITHIN, |sim| peer(sim, host).is_some_and(PeerAgent::is_surveyed));
    let peer = peer(&sim, host).filter(|_| ended)?;
    let began = peer.welcomed?;
    let since = peer.learnt.iter().map(|(at, profile)| (*at - began, *profile));
    let (connections, _) = sim.syns(host, |_| true);
    // One of them is the link.
    let connections = connections.saturating_sub(1);
    Some(Learnt { profile: peer.learnt.last()?.1, since: since.collect(), connections })
}

/// What who waits needs for all that it does on its own, beyond having its code.
fn settling(scenario: &Scenario) -> Duration {
    let there_and_back = |cable: &Attachment| cable.up.delay + cable.down.delay;
    let [waits, comes] = &scenario.sides;
    let cables = there_and_back(&waits.cable) + there_and_back(&comes.cable);
    (cables + 2 * there_and_back(&scenario.broker)) * 4 + Duration::from_millis(100)
}

#[cfg(test)]
mod tests;

struct World {
    sim: Sim<Program>,
    broker: HostId,
    peers: [HostId; 2],
}

fn peer(sim: &Sim<Program>, host: HostId) -> Option<&PeerAgent> {
    match &sim.agent(host)?.role {
        Role::Peer(peer) => Some(peer),
        Role::Broker(_) => None,
    }
}

fn broker(sim: &Sim<Program>, host: HostId) -> Option<&BrokerAgent> {
    match &sim.agent(host)?.role {
        Role::Broker(broker) => Some(broker),
        Role::Peer(_) => None,
    }
}

impl World {
    fn report(&self, syns: [(u64, u64); 2]) -> Report {
        let broken = broker(&self.sim, self.broker).and_then(|it| it.broken.clone());
        let broken = broken.unwrap_or_else(|| "it never came to an end".to_owned());
        let outcome = |host| {
            let peer = peer(&self.sim, host);
            let silent = peer.and_then(|it| it.handed.as_ref()).is_some_and(|it| !it.heard);
            match peer.and_then(|it| it.ended.clone()) {
                Some((Outcome::Connected { .. }, _)) if silent => {
                    Outcome::Broken("connected, but nothing comes back".to_owned())
                }
                Some((outcome, _)) => outcome,
                None => Outcome::Broken(broken.clone()),
            }
        };
        let [waiter, arriver] = self.peers.map(|host| peer(&self.sim, host));
        let connected = |it: &PeerAgent| match &it.ended {
            Some((Outcome::Connected { .. }, at)) => Some(*at),
            Some((Outcome::NoPath { .. } | Outcome::Broken(_), _)) | None => None,
        };
        let since_claim = waiter.zip(arriver).and_then(|(waiter, arriver)| {
            let later = connected(waiter)?.max(connected(arriver)?);
            later.checked_sub(arriver.claimed?)
        });
        let [one, other] = syns;
        Report {
            sides: self.peers.map(outcome),
            since_claim,
            syns: [one.0, other.0],
            wire_syns: [one.1, other.1],
        }
    }

    fn insight(&self, host: HostId) -> Insight {
        let Some(peer) = peer(&self.sim, host) else { return Insight::default() };
        let (here, peer_observed) = peer.here.clone().unzip();
        Insight {
            dials: peer.dials.clone(),
            here,
            peer_observed: peer_observed.unwrap_or_default(),
            told: peer.told.clone(),
            syns: peer.syns,
            connected_after: match &peer.ended {
                Some((Outcome::Connected { elapsed, .. }, _)) => Some(*elapsed),
                Some((Outcome::NoPath { .. } | Outcome::Broken(_), _)) | None => None,
            },
            finishes: peer.finishes,
            most_sockets: peer.most_sockets,
        }
    }

    fn same_connection(&self) -> bool {
        let [one, other] = self.peers.map(|host| peer(&self.sim, host)?.handed.as_ref().map(|it| it.salts));
        one.zip(other).is_some_and(|(one, other)| one == (other.1, other.0))
    }

    /// Both leave; how long the broker remembers them.
    fn empty(&mut self) -> Option<Duration> {
        for host in self.peers {
            self.sim.kill(host);
        }
        let left = self.sim.now();
        let (until, host) = (left + 2 * CODE_LIFE, self.broker);
        let empty = |sim: &Sim<Program>| broker(sim, host).is_some_and(BrokerAgent::is_empty);
        self.sim.run(until, empty).then(|| self.sim.now() - left)
    }
}
