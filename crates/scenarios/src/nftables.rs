//! Scenarios on real kernels, through the kernel's own NATs.

use std::net::IpAddr;
use std::ops::Deref as _;
use std::time::Duration;

use natlab::kernel::{
    Gateway, GatewayBuilder, Host, HostBuilder, KernelNat, Lab, Node, Refusal, Translation,
};
use natlab::link::{Conditions, Loss};
use natlab::nat::{
    self, Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Rate, Rewriting, Timeouts,
    Tracking,
};
use natlab::{Attachment, Error};
use tcpunch_core::limits::BROKER_PORT;
use tcpunch_core::plan::Rules;
use tcpunch_core::profile::NatProfile;

use crate::real::{Cast, is_broker, play, survey};
use crate::{Arrangement, Network, Report, Scenario};

/// Runs it, if nftables and the kernel lab have all its knobs: see [`kernel_nat`]; and cables with the same delay and loss
/// in both directions, and nothing else.
///
/// # Errors
/// There can be no lab here, or it failed.
pub fn run(scenario: &Scenario) -> Result<Option<Report>, Error> {
    run_by(scenario, Rules::default())
}

/// The same, and both sides fire by these rules.
///
/// # Errors
/// As of [`run`].
pub fn run_by(scenario: &Scenario, rules: Rules) -> Result<Option<Report>, Error> {
    let Some(plan) = Plan::of(scenario) else { return Ok(None) };
    carry_out(scenario, rules, &plan).map(Some)
}

/// Lets who waits in a scenario learn of its own network all that it can, if nftables has all its knobs; nobody else
/// comes. The broker has one address.
///
/// # Errors
/// There can be no lab here, or nothing was learnt.
pub fn learn(scenario: &Scenario) -> Result<Option<NatProfile>, Error> {
    let Some(plan) = Plan::of(scenario) else { return Ok(None) };
    let lab = Lab::new()?;
    let built = plan.build(&lab)?;
    let [peer, _] = &built.sides;
    let at = built.broker_seen_by(0).into_iter().filter(IpAddr::is_ipv4).collect();
    survey(&built.broker, built.public, None, peer, at).map(Some)
}

fn carry_out(scenario: &Scenario, rules: Rules, plan: &Plan) -> Result<Report, Error> {
    let lab = Lab::new()?;
    let built = plan.build(&lab)?;
    let [waiter, arriver] = &built.sides;
    let reached_at = [built.broker_seen_by(0), built.broker_seen_by(1)];
    let ipv6 = [waiter, arriver].map(|host| host.ipv6().is_some());
    let cast =
        Cast { broker: &built.broker, public: built.public, sides: [waiter, arriver], reached_at, ipv6 };
    let play = play(scenario, rules, &cast)?;
    let count = |host: &Host, at: &[IpAddr]| host.syns_sent(|to| !is_broker(to, at));
    let [one, other] = &cast.reached_at;
    let (one, other) = (count(waiter, one)?, count(arriver, other)?);
    Ok(Report {
        sides: play.sides,
        since_claim: play.since_claim,
        syns: [one.first, other.first],
        wire_syns: [one.total, other.total],
    })
}

/// A cable as the kernel lab has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cable {
    delay: Duration,
    loss: f64,
    seed: u64,
}

impl Cable {
    fn of(attachment: &Attachment, seed: u64) -> Option<Self> {
        let Attachment { up, down } = attachment;
        let loss = match up.loss {
            Loss::None => 0.0,
            Loss::Random(probability) => probability,
            Loss::Bursts { .. } => return None,
        };
        let plain = Conditions { delay: up.delay, loss: up.loss, ..Conditions::PERFECT };
        (up == down && *up == plain).then_some(Self { delay: up.delay, loss, seed })
    }

    fn host(self, builder: HostBuilder) -> HostBuilder {
        builder.delay(self.delay).loss(self.loss, self.seed)
    }

    fn gateway(self, builder: GatewayBuilder) -> GatewayBuilder {
        builder.delay(self.delay).loss(self.loss, self.seed)
    }
}

/// A network as the kernel lab has it.
#[derive(Debug, Clone)]
struct Site {
    layers: Vec<KernelNat>,
    ipv6: Option<Refusal>,
    cable: Cable,
}

impl Site {
    fn of(network: &Network, cable: Cable) -> Option<Self> {
        let layers: Option<Vec<KernelNat>> = network.layers.iter().map(kernel_nat).collect();
        let ipv6 = match (&network.ipv6, network.layers.last()) {
            (None, _) => None,
            (Some(firewall), innermost) => {
                let refuses_invalid = innermost.map_or(firewall.refuses_invalid, |nat| nat.refuses_invalid);
                Some(ipv6_firewall(firewall, refuses_invalid)?)
            }
        };
        Some(Self { layers: layers?, ipv6, cable })
    }
}

/// A scenario as the kernel lab has it.
struct Plan {
    sites: [Site; 2],
    broker: Cable,
    arrangement: Arrangement,
}

impl Plan {
    fn of(scenario: &Scenario) -> Option<Self> {
        let seed = scenario.seed.wrapping_mul(4);
        let cable = |attachment: &Attachment, nth: u64| Cable::of(attachment, seed.wrapping_add(nth));
        let [one, other] = &scenario.sides;
        // A port is forwarded to what is in the LAN itself, which a host behind a further firewall is not.
        let hidden = one.network.layers.iter().skip(1).any(|inner| !inner.translates);
        if scenario.arrangement == Arrangement::BrokerInside && hidden {
            return None;
        }
        Some(Self {
            sites: [
                Site::of(&one.network, cable(&one.cable, 0)?)?,
                Site::of(&other.network, cable(&other.cable, 1)?)?,
            ],
            broker: cable(&scenario.broker, 2)?,
            arrangement: scenario.arrangement,
        })
    }

    fn build(&self, lab: &Lab) -> Result<Built, Error> {
        let [one, other] = &self.sites;
        let first = Built::network(lab, one, "one")?;
        let sides = match self.arrangement {
            Arrangement::Apart | Arrangement::BrokerInside => {
                let second = Built::network(lab, other, "other")?;
                [member(lab, one, &first, "waiter")?, member(lab, other, &second, "arriver")?]
            }
            Arrangement::Together => {
                [member(lab, one, &first, "waiter")?, member(lab, one, &first, "arriver")?]
            }
        };
        let (broker, public) = match self.arrangement {
            Arrangement::Apart | Arrangement::Together => {
                (self.broker.host(lab.public_host("broker")).start()?, None)
            }
            Arrangement::BrokerInside => {
                let broker = member(lab, one, &first, "broker")?;
                let mut outside: &Node = broker.deref();
                for gateway in first.iter().rev() {
                    gateway.forward_port(BROKER_PORT, outside)?;
                    if gateway.nat().translation() != Translation::None {
                        outside = gateway.deref();
                    }
                }
                if let (Some(innermost), Some(_)) = (first.last(), broker.ipv6()) {
                    innermost.open_ipv6_port(BROKER_PORT, &broker)?;
                }
                let public = IpAddr::from(outside.ipv4());
                (broker, Some(public))
            }
        };
        Ok(Built { sides, broker, public })
    }
}

/// A host inside, or a public one.
fn member(lab: &Lab, site: &Site, gateways: &[Gateway], name: &str) -> Result<Host, Error> {
    match gateways.last() {
        Some(innermost) => innermost.host(name),
        None => {
            let host = site.cable.host(lab.public_host(name));
            if site.ipv6.is_some() { host.start() } else { host.without_ipv6().start() }
        }
    }
}

struct Built {
    sides: [Host; 2],
    broker: Host,
    /// The broker's address from outside, where it is in a LAN.
    public: Option<IpAddr>,
}

impl Built {
    /// The gateways of a network, the one next to the core first.
    fn network(lab: &Lab, site: &Site, name: &str) -> Result<Vec<Gateway>, Error> {
        let mut gateways: Vec<Gateway> = Vec::new();
        for (depth, nat) in site.layers.iter().enumerate() {
            let name = format!("{name}-{depth}");
            let builder = match gateways.last() {
                None => site.cable.gateway(lab.gateway(&name, nat.clone())),
                Some(outer) => outer.gateway(&name, nat.clone()),
            };
            let builder = match site.ipv6 {
                None => builder,
                Some(refusal) if depth + 1 == site.layers.len() => builder.ipv6(refusal),
                Some(_) => builder.ipv6_open(),
            };
            gateways.push(builder.start()?);
        }
        Ok(gateways)
    }

    fn broker_seen_by(&self, side: usize) -> Vec<IpAddr> {
        let own = IpAddr::from(self.broker.ipv4());
        let ipv4 = if side == 0 { own } else { self.public.unwrap_or(own) };
        let ipv6 = self.broker.ipv6().map(IpAddr::from);
        let has_ipv6 = self.sides.get(side).is_some_and(|host| host.ipv6().is_some());
        std::iter::once(ipv4).chain(ipv6.filter(|_| has_ipv6)).collect()
    }
}

/// The kernel's NAT that does exactly this, if there is one.
///
/// nftables has these knobs, as far as [`KernelNat`] turns them: a firewall that does not translate; mapping and port
/// together as `masquerade` does (endpoint-independent, preserving, random on a clash), remapping (endpoint-independent,
/// any port), or symmetric (by address and port, any port); filtering by address and port, or, with preserved ports,
/// endpoint-independent (full cone); the refusals but the late one; whether what is invalid is refused; whether a bare SYN
/// passes on a half-open session; hairpinning with the outside source; OpenWrt's limit of SYNs. All else has to be as
/// conntrack has it: its tracking, what packets end, its time-outs, one outside address, all ports or those from
/// 1024 on, one ICMP error a second after a burst of six, nothing rewritten.
pub fn kernel_nat(behaviour: &Behaviour) -> Option<KernelNat> {
    use Dependence::{AddressAndPort, Endpoint};
    let shape = (behaviour.mapping, behaviour.filtering, behaviour.allocation);
    let nat = match shape {
        (_, AddressAndPort, _) if !behaviour.translates => KernelNat::firewall(),
        _ if !behaviour.translates => return None,
        // A port that is kept for each remote endpoint is kept for all, unless another inside host uses it too.
        (Endpoint | AddressAndPort, AddressAndPort, PRESERVING) if behaviour.syn_limit == Some(OPENWRT) => {
            KernelNat::openwrt()
        }
        (Endpoint | AddressAndPort, AddressAndPort, PRESERVING) => KernelNat::masquerade(),
        (Endpoint, Endpoint, PRESERVING) => KernelNat::full_cone(),
        (Endpoint, AddressAndPort, Allocation::Random) => KernelNat::remapping(),
        (AddressAndPort, AddressAndPort, Allocation::Random) => KernelNat::symmetric(),
        _ => return None,
    };
    let limited = behaviour.syn_limit == Some(OPENWRT) && nat == KernelNat::openwrt();
    if !is_conntrack(behaviour) || !(limited || behaviour.syn_limit.is_none()) {
        return None;
    }
    let hairpin = match behaviour.hairpin {
        Hairpin::No => false,
        Hairpin::OutsideSource => true,
        Hairpin::InsideSource => return None,
    };
    let nat = nat
        .refusing(refusal(behaviour.refusal)?)
        .refusing_invalid(behaviour.refuses_invalid)
        .simultaneous_open(behaviour.simultaneous_open)
        .hairpin(hairpin);
    Some(nat)
}

/// How the kernel lab's firewall for IPv6 has to refuse to do exactly this, if it can: silence or resets, and what is
/// invalid as the same gateway does over IPv4.
fn ipv6_firewall(behaviour: &Behaviour, refuses_invalid: bool) -> Option<Refusal> {
    let can = !behaviour.translates
        && behaviour.filtering == Dependence::AddressAndPort
        && behaviour.simultaneous_open
        && behaviour.syn_limit.is_none()
        && behaviour.refuses_invalid == refuses_invalid
        && is_conntrack(behaviour);
    refusal(behaviour.refusal).filter(|refusal| can && !matches!(refusal, Refusal::Icmp(_)))
}

const PRESERVING: Allocation = Allocation::Preserving(Clash::Random);
/// The limit of SYNs of [`KernelNat::openwrt`].
const OPENWRT: Rate = Rate { per_second: 25, burst: 50 };

fn refusal(refusal: nat::Refusal) -> Option<Refusal> {
    match refusal {
        nat::Refusal::Drop => Some(Refusal::Drop),
        nat::Refusal::Reset => Some(Refusal::Reset),
        nat::Refusal::Icmp(kind) => Some(Refusal::Icmp(kind)),
        nat::Refusal::IcmpLater(_) => None,
    }
}

/// Whether everything that nftables has no knob for is as conntrack does it.
fn is_conntrack(behaviour: &Behaviour) -> bool {
    let Behaviour {
        ports, icmp_limit, tracking, early_reset, reset, fin, icmp, counts_ttl, timeouts, ..
    } = behaviour;
    // Well-known ports are kept by masquerade alone, and no peer has one.
    ([(1, u16::MAX), (1024, u16::MAX)].contains(ports) || !behaviour.translates)
        && *icmp_limit == Some(Rate { per_second: 1, burst: 6 })
        && *tracking == Tracking::Linux
        && (*early_reset, *reset, *fin) == (Ends::Session, Ends::SessionLater, Ends::SessionLater)
        && *icmp == Ends::Nothing
        && *counts_ttl
        && *timeouts == Timeouts::LINUX
        && behaviour.pooling == Pooling::Paired
        && behaviour.rewriting == Rewriting::None
}

#[cfg(test)]
mod tests {
    use natlab::Unreachable;
    use natlab::nat::presets;

    use super::*;

    #[test]
    fn twins_are_found() {
        let host = nat::Refusal::Icmp(Unreachable::Host);
        for (behaviour, twin) in [
            (presets::linux_masquerade(), KernelNat::masquerade()),
            (presets::openwrt(), KernelNat::openwrt()),
            (
                presets::icmp_rejecting(Unreachable::Host),
                KernelNat::masquerade().refusing(Refusal::Icmp(Unreachable::Host)),
            ),
            (presets::linux_random(), KernelNat::symmetric()),
            (presets::full_cone(), KernelNat::full_cone()),
            (presets::remapping(), KernelNat::remapping()),
            (presets::firewall(), KernelNat::firewall()),
            (presets::no_simultaneous_open(), KernelNat::masquerade().simultaneous_open(false)),
            (
                Behaviour { refusal: host, refuses_invalid: false, ..presets::openwrt() },
                KernelNat::openwrt().refusing(Refusal::Icmp(Unreachable::Host)).refusing_invalid(false),
            ),
        ] {
            assert_eq!(kernel_nat(&behaviour), Some(twin), "{behaviour:?}");
        }
    }

    #[test]
    fn what_nftables_has_no_knob_for_has_no_twin() {
        let linux = presets::linux_masquerade;
        for behaviour in [
            presets::rfc_compliant(),
            presets::carrier_eim(),
            presets::carrier_block(1024),
            presets::symmetric_random(),
            presets::symmetric_stepping(1),
            presets::home_overloading(),
            presets::router(),
            Behaviour { filtering: Dependence::Address, ..linux() },
            Behaviour { refusal: nat::Refusal::IcmpLater(Unreachable::Port), ..linux() },
            Behaviour { tracking: Tracking::Flags, ..linux() },
            Behaviour { syn_limit: Some(OPENWRT), ..presets::remapping() },
            Behaviour { hairpin: Hairpin::InsideSource, ..linux() },
            Behaviour { ports: (35_000, 65_535), ..linux() },
            Behaviour { pooling: Pooling::Arbitrary, ..linux() },
            Behaviour { rewriting: Rewriting::Text, ..linux() },
        ] {
            assert_eq!(kernel_nat(&behaviour), None, "{behaviour:?}");
        }
    }

    #[test]
    fn a_cable_of_the_kernel_lab_is_the_same_both_ways() {
        let delayed = Conditions::delay(Duration::from_millis(3));
        let cable = Cable::of(&delayed.losing(0.1).into(), 7);
        assert_eq!(cable, Some(Cable { delay: Duration::from_millis(3), loss: 0.1, seed: 7 }));
        for attachment in [
            Attachment { up: delayed, down: Conditions::PERFECT },
            Conditions { jitter: Duration::from_millis(1), ..delayed }.into(),
            Conditions { rate: Some(1_000_000), ..delayed }.into(),
            Conditions { loss: Loss::Bursts { begin: 0.1, end: 0.5 }, ..delayed }.into(),
        ] {
            assert_eq!(Cable::of(&attachment, 7), None);
        }
    }
}
