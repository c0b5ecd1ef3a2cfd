//! What is known of the own network, for who asks why something does not connect.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use tcpunch_core::plan::{Path, may_tell_mapped};
use tcpunch_core::profile::{Behaviour, NatProfile, Sample, classify};
use tcpunch_core::prospect::with_forwarded_port;

use crate::gather;
use crate::memory::Memory;
use crate::portmap::{NoMapping, PortMapping};

/// An address of this machine that others could reach, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name in the system.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Length of the prefix of the network that it is in.
    pub prefix: u8,
}

/// A link to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The broker's end.
    pub broker: SocketAddr,
    /// The own end.
    pub local: SocketAddr,
    /// The own address as the broker sees it; `None`: it did not say, or what it said can't be.
    pub observed: Option<SocketAddr>,
}

/// Where a profile comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was measured, now or before.
    Nothing,
    /// Measured in this network so long ago, by an earlier run or before the machine moved.
    Remembered(Duration),
    /// Measured now.
    Measured,
}

/// What is known of the own network.
#[derive(Clone, Debug)]
pub struct Report {
    /// Addresses of interfaces that have a carrier, loopback and link-local left out.
    pub interfaces: Vec<Interface>,
    /// Routers of the default routes, as far as the system tells.
    pub routers: Vec<IpAddr>,
    /// Links to the broker, at most one a family; none where none stands.
    pub links: Vec<Registered>,
    /// How the NAT or firewall behaves.
    pub profile: NatProfile,
    /// Where that comes from.
    pub origin: Origin,
    /// What came of asking the router to forward a port; `None`: it was not asked.
    pub port_mapping: Option<Result<PortMapping, NoMapping>>,
    /// How the last connection through this network ran.
    pub worked: Option<Path>,
    /// Connections through this network that stood, and attempts that found no path, within the time of memory.
    pub tried: (u32, u32),
}

impl Report {
    /// How others find this network: as its profile says, or open where the router forwards a port and its outside address is
    /// the one that the broker sees.
    pub fn reachable(&self) -> NatProfile {
        let observed: Vec<SocketAddr> = self.links.iter().filter_map(|link| link.observed).collect();
        match &self.port_mapping {
            Some(Ok(mapping)) if may_tell_mapped(mapping.external, &observed) => {
                with_forwarded_port(&self.profile)
            }
            Some(_) | None => self.profile,
        }
    }

    /// The same with what others saw of a scratch port, as STUN servers do ([`crate::stun::mapping`]). It fills in what no
    /// broker told: servers at several addresses show what one broker can't. What is only remembered gives way to what
    /// is seen of another NAT.
    #[must_use]
    pub fn with_samples(mut self, samples: &[Sample]) -> Self {
        let seen = classify(samples);
        let translation_changed =
            seen.translated.is_some_and(|seen| self.profile.translated.is_some_and(|known| known != seen));
        let changed = translation_changed || seen.mapping.contradicts(self.profile.mapping);
        if changed && matches!(self.origin, Origin::Remembered(_)) {
            self.profile = NatProfile::default();
        }
        let known = self.profile;
        let more = match known.mapping {
            Behaviour::Unknown => seen.translated.is_some(),
            Behaviour::PortIndependent => {
                !matches!(seen.mapping, Behaviour::Unknown | Behaviour::PortIndependent)
            }
            Behaviour::EndpointIndependent
            | Behaviour::AddressDependent
            | Behaviour::EndpointDependent
            | Behaviour::AddressAndPortDependent => false,
        };
        if more && known.mapping == Behaviour::Unknown {
            let (translated, mapping, allocation) = (seen.translated, seen.mapping, seen.allocation);
            self.profile = NatProfile { translated, mapping, allocation, ..known };
            self.origin = Origin::Measured;
        } else if more {
            self.profile.mapping = seen.mapping;
        }
        self
    }

    /// What can be told without asking anybody.
    pub(crate) fn of_memory(memory: &Memory) -> Self {
        let known = memory.known();
        let age = |learnt: SystemTime| SystemTime::now().duration_since(learnt).unwrap_or_default();
        Report {
            interfaces: gather::told(),
            routers: gather::gateways(),
            links: Vec::new(),
            profile: known.map(|known| known.profile).unwrap_or_default(),
            origin: known.map_or(Origin::Nothing, |known| Origin::Remembered(age(known.learnt))),
            port_mapping: None,
            worked: known.and_then(|known| known.worked),
            tried: known.map_or((0, 0), |known| (known.connected, known.failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(profile: NatProfile) -> Report {
        Report {
            interfaces: Vec::new(),
            routers: Vec::new(),
            links: Vec::new(),
            profile,
            origin: Origin::Nothing,
            port_mapping: None,
            worked: None,
            tried: (0, 0),
        }
    }

    fn sample(destination: &str, observed: &str) -> Sample {
        Sample {
            local: "192.168.1.2:5000".parse().unwrap(),
            destination: destination.parse().unwrap(),
            observed: observed.parse().unwrap(),
        }
    }

    #[test]
    fn stun_servers_tell_what_no_broker_did() {
        let one = sample("203.0.113.1:3478", "198.51.100.9:5000");
        let same = sample("203.0.113.2:3478", "198.51.100.9:5000");
        let other = sample("203.0.113.2:3478", "198.51.100.9:7000");
        let nothing = report(NatProfile::default());
        let told = nothing.clone().with_samples(&[one, same]);
        assert_eq!((told.profile.mapping, told.origin), (Behaviour::EndpointIndependent, Origin::Measured));
        assert_eq!(nothing.clone().with_samples(&[one, other]).profile.mapping, Behaviour::EndpointDependent);
        assert_eq!(nothing.clone().with_samples(&[one]).profile.translated, Some(true));
        assert_eq!(nothing.with_samples(&[]).origin, Origin::Nothing);
    }

    #[test]
    fn what_a_broker_told_is_kept_and_only_made_more_exact() {
        let known = NatProfile {
            translated: Some(true),
            mapping: Behaviour::PortIndependent,
            filtering: Behaviour::AddressDependent,
            ..NatProfile::default()
        };
        let (one, same) = (
            sample("203.0.113.1:3478", "198.51.100.9:5000"),
            sample("203.0.113.2:3478", "198.51.100.9:5000"),
        );
        let told = report(known).with_samples(&[one, same]).profile;
        assert_eq!(told, NatProfile { mapping: Behaviour::EndpointIndependent, ..known });
        let symmetric = NatProfile { mapping: Behaviour::AddressAndPortDependent, ..known };
        assert_eq!(report(symmetric).with_samples(&[one, same]).profile, symmetric);
    }

    #[test]
    fn what_is_only_remembered_gives_way_to_what_is_seen_of_another_nat() {
        let known = NatProfile {
            translated: Some(true),
            mapping: Behaviour::EndpointIndependent,
            filtering: Behaviour::AddressDependent,
            ..NatProfile::default()
        };
        let remembered =
            |profile| Report { origin: Origin::Remembered(Duration::from_secs(60)), ..report(profile) };
        let one = sample("203.0.113.1:3478", "198.51.100.9:5000");
        let same = sample("203.0.113.2:3478", "198.51.100.9:5000");
        let other = sample("203.0.113.2:3478", "198.51.100.9:7000");
        let bare = Sample { local: one.observed, ..one };
        let kept = remembered(known).with_samples(&[one, same]);
        assert_eq!((kept.profile, kept.origin), (known, Origin::Remembered(Duration::from_secs(60))));
        for samples in [&[one, other][..], &[bare]] {
            let told = remembered(known).with_samples(samples);
            assert_eq!((told.profile, told.origin), (classify(samples), Origin::Measured));
        }
    }
}
