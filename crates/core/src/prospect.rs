//! What a NAT profile means: for its owner in words, and for whom it can be connected with.

use std::fmt;

use crate::limits::BLOCK_LARGEST;
use crate::profile::{Allocation, Behaviour, NatProfile, Refusal};

/// How likely two peers find a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chance {
    /// Always.
    Sure,
    /// In at least 98 of 100 cases.
    Likely,
    /// More often than not.
    Perhaps,
    /// Not without help.
    None,
    /// Too little is known of one of the two.
    Unknown,
}

impl Chance {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Chance::Sure => "always",
            Chance::Likely => "nearly always",
            Chance::Perhaps => "perhaps",
            Chance::None => "never",
            Chance::Unknown => "not known",
        }
    }
}

/// How a side's ports look from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    /// One for all destinations.
    Fixed,
    /// Another one for each destination, and the next can be told.
    Stepping,
    /// Another one for each destination, of a block that can be told.
    Block,
    /// Another one for each destination, any.
    Random,
    Unknown,
}

fn ports_of(profile: &NatProfile) -> Ports {
    match (profile.mapping, profile.allocation) {
        (Behaviour::Unknown, _) => Ports::Unknown,
        (Behaviour::EndpointIndependent | Behaviour::PortIndependent, _) => Ports::Fixed,
        // It is the outside address that differs, and which one comes next nobody can tell.
        (_, Allocation::Preserving) => Ports::Unknown,
        (_, Allocation::Stepping(step)) if step != 0 => Ports::Stepping,
        (_, Allocation::Block { first, last }) if last.saturating_sub(first) < BLOCK_LARGEST => Ports::Block,
        (
            _,
            Allocation::Unknown
            | Allocation::Changing
            | Allocation::Stepping(_)
            | Allocation::Block { .. }
            | Allocation::Random,
        ) => Ports::Random,
    }
}

pub(crate) fn refuses(profile: &NatProfile) -> bool {
    matches!(profile.refusal, Refusal::Reset | Refusal::Icmp)
}

/// How likely these two find a direct path, by what their networks do. What else may help (one LAN, IPv6, a forwarded
/// port) is left out.
pub fn chance(own: &NatProfile, peer: &NatProfile) -> Chance {
    let open = |profile: &NatProfile| profile.filtering == Behaviour::EndpointIndependent;
    if open(own) || open(peer) {
        return Chance::Sure;
    }
    // Each waits for an answer to its own SYN, and neither NAT lets the other's SYN in.
    if own.simultaneous_open == Some(false) && peer.simultaneous_open == Some(false) {
        return Chance::None;
    }
    match (ports_of(own), ports_of(peer)) {
        (Ports::Unknown, _) | (_, Ports::Unknown) => Chance::Unknown,
        (Ports::Fixed, Ports::Fixed | Ports::Stepping) | (Ports::Stepping, Ports::Fixed) => Chance::Sure,
        (Ports::Stepping, Ports::Stepping) | (Ports::Block, Ports::Fixed) | (Ports::Fixed, Ports::Block) => {
            Chance::Likely
        }
        (Ports::Random, Ports::Fixed) | (Ports::Fixed, Ports::Random) => {
            if refuses(own) && refuses(peer) {
                Chance::Perhaps
            } else {
                Chance::Likely
            }
        }
        (Ports::Stepping, Ports::Block | Ports::Random)
        | (Ports::Block | Ports::Random, Ports::Stepping | Ports::Block | Ports::Random) => Chance::None,
    }
}

/// Peers by what their network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Public, or behind a NAT that lets everyone in.
    Open,
    /// Behind a NAT or firewall with one port for all destinations, which drops what nobody asked for.
    Dropping,
    /// The same, and it answers with resets or ICMP.
    Refusing,
    /// Behind a symmetric NAT that counts its ports up.
    Stepping,
    /// Behind a symmetric NAT that chooses its ports at random.
    Random,
    /// The same, and it answers with resets or ICMP.
    RandomRefusing,
}

impl Peers {
    /// All kinds, the easiest first.
    pub const ALL: [Peers; 6] = [
        Peers::Open,
        Peers::Dropping,
        Peers::Refusing,
        Peers::Stepping,
        Peers::Random,
        Peers::RandomRefusing,
    ];

    /// A name for programs.
    pub fn word(self) -> &'static str {
        match self {
            Peers::Open => "open",
            Peers::Dropping => "dropping",
            Peers::Refusing => "refusing",
            Peers::Stepping => "symmetric-stepping",
            Peers::Random => "symmetric-random",
            Peers::RandomRefusing => "symmetric-random-refusing",
        }
    }

    /// The profile of one of them.
    fn profile(self) -> NatProfile {
        let behind = NatProfile {
            translated: Some(true),
            mapping: Behaviour::EndpointIndependent,
            allocation: Allocation::Preserving,
            filtering: Behaviour::AddressAndPortDependent,
            refusal: Refusal::Drop,
            simultaneous_open: Some(true),
        };
        let symmetric = NatProfile { mapping: Behaviour::AddressAndPortDependent, ..behind };
        let random = NatProfile { allocation: Allocation::Random, ..symmetric };
        match self {
            Peers::Open => NatProfile { filtering: Behaviour::EndpointIndependent, ..behind },
            Peers::Dropping => behind,
            Peers::Refusing => NatProfile { refusal: Refusal::Reset, ..behind },
            Peers::Stepping => NatProfile { allocation: Allocation::Stepping(1), ..symmetric },
            Peers::Random => random,
            Peers::RandomRefusing => NatProfile { refusal: Refusal::Reset, ..random },
        }
    }
}

/// With whom a network can be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    chances: [(Peers, Chance); Peers::ALL.len()],
}

/// With whom a network with this profile can be connected.
pub fn prospect(own: &NatProfile) -> Prospect {
    Prospect { chances: Peers::ALL.map(|peers| (peers, chance(own, &peers.profile()))) }
}

/// With whom, once the router forwards a port to this computer: everyone then comes in.
pub fn with_forwarded_port(own: &NatProfile) -> NatProfile {
    NatProfile { filtering: Behaviour::EndpointIndependent, ..*own }
}

impl Prospect {
    /// Each kind of peers with its chance, the easiest first.
    pub fn chances(&self) -> &[(Peers, Chance)] {
        &self.chances
    }

    /// Whether some kind of peers is out of reach.
    pub fn has_gaps(&self) -> bool {
        self.chances.iter().any(|(_, chance)| matches!(chance, Chance::None | Chance::Perhaps))
    }

    /// In words those with one of these chances, neighbours together.
    fn named(&self, wanted: Chance) -> Option<String> {
        let has = |peers: Peers| self.chances.contains(&(peers, wanted));
        let mut names: Vec<&str> = Vec::new();
        match (has(Peers::Dropping), has(Peers::Refusing)) {
            (true, true) => names.push("peers behind NATs and firewalls"),
            (true, false) => names.push("peers behind NATs and firewalls that drop"),
            (false, true) => names.push("peers behind NATs and firewalls that refuse (reset or ICMP)"),
            (false, false) => {}
        }
        let random = match (has(Peers::Random), has(Peers::RandomRefusing)) {
            (true, true) => Some("peers behind random symmetric NATs"),
            (true, false) => Some("peers behind random symmetric NATs that drop"),
            (false, true) => Some("peers behind random symmetric NATs that refuse (reset or ICMP)"),
            (false, false) => None,
        };
        match (has(Peers::Stepping), random) {
            (true, Some("peers behind random symmetric NATs")) => {
                names.push("peers behind symmetric NATs");
            }
            (true, random) => {
                names.push("peers behind symmetric NATs with predictable ports");
                names.extend(random);
            }
            (false, random) => names.extend(random),
        }
        (!names.is_empty()).then(|| names.join(" and "))
    }
}

impl fmt::Display for Prospect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.chances.iter().any(|(_, chance)| *chance == Chance::Unknown) {
            return f.write_str("whom you can be connected with is not known: too little of your network is");
        }
        f.write_str("you can be reached by everyone")?;
        if let Some(never) = self.named(Chance::None) {
            write!(f, " except {never}")?;
        }
        if let Some(likely) = self.named(Chance::Likely) {
            write!(f, "; by {likely} nearly always, in a few seconds")?;
        }
        if let Some(perhaps) = self.named(Chance::Perhaps) {
            write!(f, "; by {perhaps} perhaps")?;
        }
        Ok(())
    }
}

/// One property of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trait {
    /// What it is about, in a word or two.
    pub topic: &'static str,
    /// What it means for the user.
    pub plain: String,
    /// The name of it, as RFCs and other tools have it; `None` where nothing was observed.
    pub term: Option<&'static str>,
}

/// The properties of a network in words, in the order in which they are understood best. What was not observed is there
/// too, and says so.
pub fn traits(profile: &NatProfile) -> Vec<Trait> {
    let firewall = profile.translated == Some(false);
    let mut traits = vec![Trait {
        topic: "translation",
        plain: match profile.translated {
            Some(true) => "a NAT translates the address of this computer",
            Some(false) => "none: the internet sees the address of this computer",
            None => "not known",
        }
        .to_owned(),
        term: match profile.translated {
            Some(true) => Some("NAPT"),
            Some(false) => Some("no NAT"),
            None => None,
        },
    }];
    if !firewall {
        traits.push(mapping(profile));
        traits.push(ports(profile));
    }
    traits.push(filtering(profile));
    traits.push(refusal(profile));
    traits.push(simultaneous_open(profile));
    traits
}

fn mapping(profile: &NatProfile) -> Trait {
    let (plain, term) = match profile.mapping {
        Behaviour::Unknown => ("not known", None),
        Behaviour::EndpointIndependent => {
            ("one outside port for all destinations", Some("endpoint-independent mapping"))
        }
        Behaviour::PortIndependent => (
            "one outside port for all ports of one address; whether for other addresses too takes a broker with a \
             second address to tell",
            Some("endpoint-independent or address-dependent mapping"),
        ),
        Behaviour::AddressDependent => {
            ("another outside port for each address: a symmetric NAT", Some("address-dependent mapping"))
        }
        Behaviour::EndpointDependent => (
            "another outside port for other destinations: a symmetric NAT",
            Some("address-dependent or address-and-port-dependent mapping"),
        ),
        Behaviour::AddressAndPortDependent => (
            "another outside port for each destination: a symmetric NAT",
            Some("address-and-port-dependent mapping"),
        ),
    };
    Trait { topic: "mapping", plain: plain.to_owned(), term }
}

fn ports(profile: &NatProfile) -> Trait {
    let (plain, term) = match profile.allocation {
        Allocation::Unknown => ("not known".to_owned(), None),
        Allocation::Preserving => {
            ("the outside port is the inside one".to_owned(), Some("port preservation"))
        }
        Allocation::Changing => {
            ("the outside port is another one than inside".to_owned(), Some("no port preservation"))
        }
        Allocation::Stepping(step) => {
            let by = step.unsigned_abs();
            let way = if step < 0 { "below" } else { "above" };
            (
                format!("each new outside port is {by} {way} the last: it can be predicted"),
                Some("sequential allocation"),
            )
        }
        Allocation::Block { first, last } => {
            (format!("outside ports are of the block {first}-{last}"), Some("port block allocation"))
        }
        Allocation::Random => ("outside ports are random".to_owned(), Some("random allocation")),
    };
    Trait { topic: "ports", plain, term }
}

fn filtering(profile: &NatProfile) -> Trait {
    let (plain, term) = match profile.filtering {
        Behaviour::Unknown => ("not known", None),
        Behaviour::EndpointIndependent => ("everyone comes in", Some("endpoint-independent filtering")),
        Behaviour::PortIndependent => (
            "other ports of an address that was called come in; whether others do takes a broker with a second address \
             to tell",
            Some("endpoint-independent or address-dependent filtering"),
        ),
        Behaviour::AddressDependent => {
            ("any port of an address that was called comes in", Some("address-dependent filtering"))
        }
        Behaviour::EndpointDependent => (
            "who was not called does not come in",
            Some("address-dependent or address-and-port-dependent filtering"),
        ),
        Behaviour::AddressAndPortDependent => {
            ("only who was called comes in", Some("address-and-port-dependent filtering"))
        }
    };
    Trait { topic: "filtering", plain: plain.to_owned(), term }
}

fn refusal(profile: &NatProfile) -> Trait {
    let (plain, term) = match profile.refusal {
        Refusal::Unknown if profile.filtering == Behaviour::EndpointIndependent => {
            ("nobody is refused, so not known", None)
        }
        Refusal::Unknown => ("not known", None),
        Refusal::Drop => ("whom it does not let in it gives no answer", Some("drop (RFC 5382 REQ-4)")),
        Refusal::Reset => (
            "whom it does not let in it answers with a reset, which ends the other side's call",
            Some("TCP RST"),
        ),
        Refusal::Icmp => (
            "whom it does not let in it answers with an error, which ends the other side's call",
            Some("ICMP error"),
        ),
    };
    Trait { topic: "refusal", plain: plain.to_owned(), term }
}

fn simultaneous_open(profile: &NatProfile) -> Trait {
    let (plain, term) = match profile.simultaneous_open {
        None => ("not known", None),
        Some(true) => ("two calls that cross become one connection", Some("RFC 5382 REQ-2 kept")),
        Some(false) => (
            "two calls that cross are not let through: the other side has to answer",
            Some("RFC 5382 REQ-2 broken"),
        ),
    };
    Trait { topic: "crossing calls", plain: plain.to_owned(), term }
}

/// What would help who wants to reach more peers, most worthwhile first; nothing where nothing is in the way.
pub fn remedies(own: &NatProfile) -> Vec<&'static str> {
    if !prospect(own).has_gaps() {
        return Vec::new();
    }
    let mut remedies = Vec::new();
    if own.is_symmetric() {
        remedies.push(
            "UPnP, PCP or NAT-PMP switched on in the router, or a port forwarded there and --bind PORT here: then \
             everyone can reach you",
        );
        remedies.push("IPv6 on both sides");
        remedies.push("another network: a home line is hardly ever symmetric, a mobile one often");
    } else if refuses(own) {
        remedies.push(
            "a firewall that drops what nobody asked for instead of refusing it (OpenWrt: input of the zone wan to \
             DROP)",
        );
        remedies.push("a port forwarded in the router and --bind PORT here");
    } else {
        remedies.push("a port forwarded in the router and --bind PORT here");
        remedies.push("IPv6 on both sides");
    }
    remedies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Rules, strategy};
    use proptest::prelude::*;

    fn own(peers: Peers) -> NatProfile {
        peers.profile()
    }

    #[test]
    fn a_home_router_reaches_everyone() {
        let prospect = prospect(&own(Peers::Dropping));
        assert_eq!(
            prospect.to_string(),
            "you can be reached by everyone; by peers behind random symmetric NATs nearly always, in a few seconds"
        );
        assert!(!prospect.has_gaps());
        assert!(remedies(&own(Peers::Dropping)).is_empty());
    }

    #[test]
    fn two_random_symmetric_nats_do_not_meet_and_the_owner_is_told_what_helps() {
        let random = own(Peers::Random);
        let text = prospect(&random).to_string();
        assert_eq!(
            text,
            "you can be reached by everyone except peers behind symmetric NATs; by peers behind NATs and firewalls \
             nearly always, in a few seconds"
        );
        assert!(remedies(&random)[0].contains("UPnP"));
        assert_eq!(prospect(&with_forwarded_port(&random)).to_string(), "you can be reached by everyone");
    }

    #[test]
    fn two_that_refuse_are_named_where_one_is_random() {
        assert_eq!(
            prospect(&own(Peers::Refusing)).to_string(),
            "you can be reached by everyone; by peers behind random symmetric NATs that drop nearly always, in a few \
             seconds; by peers behind random symmetric NATs that refuse (reset or ICMP) perhaps"
        );
        assert!(remedies(&own(Peers::Refusing))[0].contains("OpenWrt"));
    }

    #[test]
    fn nothing_known_promises_nothing() {
        let nothing = NatProfile::default();
        assert!(prospect(&nothing).to_string().contains("not known"));
        assert!(prospect(&nothing).chances().iter().skip(1).all(|(_, chance)| *chance == Chance::Unknown));
        let said = traits(&nothing);
        assert!(said.iter().all(|said| said.plain.contains("not known") && said.term.is_none()), "{said:?}");
    }

    #[test]
    fn a_firewall_without_translation_has_no_mapping_to_tell_of() {
        let firewall = NatProfile { translated: Some(false), ..own(Peers::Refusing) };
        let topics: Vec<&str> = traits(&firewall).iter().map(|told| told.topic).collect();
        assert_eq!(topics, ["translation", "filtering", "refusal", "crossing calls"]);
    }

    #[test]
    fn crossing_calls_need_one_nat_that_lets_them_through() {
        let deaf = NatProfile { simultaneous_open: Some(false), ..own(Peers::Dropping) };
        assert_eq!(chance(&deaf, &own(Peers::Dropping)), Chance::Sure);
        assert_eq!(chance(&deaf, &deaf), Chance::None);
        assert_eq!(chance(&deaf, &own(Peers::Open)), Chance::Sure);
    }

    fn profiles() -> impl Strategy<Value = NatProfile> {
        let behaviours = || {
            proptest::sample::select(vec![
                Behaviour::Unknown,
                Behaviour::EndpointIndependent,
                Behaviour::PortIndependent,
                Behaviour::AddressDependent,
                Behaviour::EndpointDependent,
                Behaviour::AddressAndPortDependent,
            ])
        };
        let allocations = prop_oneof![
            Just(Allocation::Unknown),
            Just(Allocation::Preserving),
            Just(Allocation::Changing),
            any::<i16>().prop_map(Allocation::Stepping),
            any::<(u16, u16)>().prop_map(|(first, last)| Allocation::Block { first, last }),
            Just(Allocation::Random),
        ];
        let refusals =
            proptest::sample::select(vec![Refusal::Unknown, Refusal::Drop, Refusal::Reset, Refusal::Icmp]);
        (any::<Option<bool>>(), behaviours(), allocations, behaviours(), refusals, any::<Option<bool>>())
            .prop_map(|(translated, mapping, allocation, filtering, refusal, simultaneous_open)| NatProfile {
                translated,
                mapping,
                allocation,
                filtering,
                refusal,
                simultaneous_open,
            })
    }

    proptest! {
        #[test]
        fn a_pair_has_the_same_chance_from_both_sides(own in profiles(), peer in profiles()) {
            prop_assert_eq!(chance(&own, &peer), chance(&peer, &own));
        }

        #[test]
        fn what_is_promised_is_what_is_done(own in profiles(), peer in profiles()) {
            let planned = |own, peer| strategy(own, peer, 1, false, &Rules::default());
            let hopeless = planned(&own, &peer).hopeless || planned(&peer, &own).hopeless;
            match chance(&own, &peer) {
                Chance::Sure | Chance::Likely | Chance::Perhaps => prop_assert!(!hopeless),
                Chance::None => {
                    let deaf = [&own, &peer].iter().all(|side| side.simultaneous_open == Some(false));
                    // Tried all the same: who was dialled may come in from another port.
                    let partly = [own.filtering, peer.filtering].iter().any(|filtering| {
                        matches!(filtering, Behaviour::PortIndependent | Behaviour::AddressDependent)
                    });
                    prop_assert!(deaf || hopeless || partly, "given up without need");
                }
                Chance::Unknown => {}
            }
        }

        #[test]
        fn a_forwarded_port_lets_everyone_in(own in profiles(), peer in profiles()) {
            prop_assert_eq!(chance(&with_forwarded_port(&own), &peer), Chance::Sure);
        }

        #[test]
        fn who_has_gaps_is_told_what_helps_and_only_who_has(own in profiles()) {
            prop_assert_eq!(prospect(&own).has_gaps(), !remedies(&own).is_empty());
            prop_assert!(traits(&own).iter().all(|told| !told.plain.is_empty()));
        }
    }
}
