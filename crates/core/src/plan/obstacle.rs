//! Why two did not connect, and what would help.

use std::fmt;

use crate::candidate::{Candidate, Kind};
use crate::profile::NatProfile;
use crate::prospect::refuses;
use crate::puncher::{Finished, LaneReport, VolleyReport};

/// Why two peers did not connect, in words for both users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is known of this side's network.
    pub own: NatProfile,
    /// What is known of the peer's.
    pub peer: NatProfile,
    /// What was tried.
    pub tried: Finished,
    /// Whether the peer sits beside the broker and nobody knows its address from outside.
    pub beside_broker: bool,
}

impl Obstacle {
    /// Whose network is in the way, and what it does.
    pub fn reason(&self) -> String {
        let both = self.own.is_symmetric() && self.peer.is_symmetric();
        let Answers { refused, unreachable, impostors, .. } =
            self.answers().fold(Answers::NONE, Answers::and);
        let fired = || self.answers().filter(|answers| answers.syns > 0);
        let silent = fired().any(|answers| answers.refused + answers.unreachable == 0);
        if both {
            "both networks are symmetric NATs: each opens another port for every destination".to_owned()
        } else if self.own.is_symmetric() {
            self.symmetric("your network is a symmetric NAT", "the other side")
        } else if self.peer.is_symmetric() {
            self.symmetric("the other side's network is a symmetric NAT", "you")
        } else if self.beside_broker {
            "the other side runs beside the broker, and nobody said under which public address it \
             can be reached"
                .to_owned()
        } else if self.tried.lanes.is_empty() {
            "the two have no address family in common, or none that may be dialled".to_owned()
        } else if self.tried.lanes.iter().all(|lane| lane.no_route) {
            "this machine has no route to any address of the other side".to_owned()
        } else if impostors > 0 {
            "something answered at the other side's address that is not the other side".to_owned()
        } else if refused + unreachable > 0 {
            let how = match (refused, unreachable) {
                (_, 0) => "reset",
                (0, _) => "answered by ICMP",
                (_, _) => "refused",
            };
            let who = match [&self.own, &self.peer].map(refuses) {
                [true, true] => "the firewalls of both sides refuse",
                [true, false] => "your network's firewall refuses",
                [false, true] => "the firewall of the other side's network refuses",
                [false, false] => "a firewall on one of the two sides refuses",
            };
            if silent {
                format!("some attempts were {how} and others had no answer: {who}")
            } else {
                format!("every attempt was {how}: {who}")
            }
        } else {
            "no answer came: a firewall drops what comes in, on one of the two sides, even after \
             that side has knocked itself"
                .to_owned()
        }
    }

    /// Why a symmetric NAT is in the way of `other`, who has to find its port.
    fn symmetric(&self, whose: &str, other: &str) -> String {
        let ports = |volley: &VolleyReport| volley.own_ports.max(volley.peer_ports);
        let fired = self.tried.volleys.iter().filter(|volley| volley.syns > 0);
        let guesses: u32 = fired.map(ports).sum();
        let opens = format!("{whose}: it opens another port for every destination");
        if guesses == 0 {
            return format!("{opens}, so {other} can't know where to knock");
        }
        let early = match [&self.own, &self.peer].map(refuses) {
            [true, true] => {
                "; both networks refuse what comes before they have knocked themselves, so most guesses had no time to meet"
            }
            _ => "",
        };
        format!("{opens}, and of {guesses} that were tried none led to {other}{early}")
    }

    /// What came back on each lane that tells of the two networks. At a peer's own address another machine of this network may
    /// answer: that is told of only where nothing else was dialled.
    fn answers(&self) -> impl Iterator<Item = Answers> {
        let Finished { lanes, volleys, .. } = &self.tried;
        let outside = |lane: &&LaneReport| lane.candidate.kind != Kind::Host;
        let any_outside = lanes.iter().filter(outside).any(|lane| lane.syns > 0);
        let told = lanes.iter().filter(move |lane| !any_outside || outside(lane));
        told.map(Answers::of_lane).chain(volleys.iter().map(Answers::of_volley))
    }

    /// What would help.
    pub fn remedy(&self) -> &'static str {
        if self.own.is_symmetric() || self.peer.is_symmetric() {
            "use another network on the symmetric side (a home line instead of a mobile one), IPv6 \
             on both sides, a router there with UPnP, PCP or NAT-PMP, or forward a port there and \
             start with --bind PORT"
        } else if self.beside_broker {
            "start the broker with --public HOST, the address under which its network is reached"
        } else if [&self.own, &self.peer].into_iter().any(refuses) {
            "let the firewall drop what nobody asked for instead of refusing it, forward a port on \
             either side and start there with --bind PORT, or use IPv6 on both"
        } else {
            "forward a port on either side and start there with --bind PORT, or use IPv6 on both"
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no direct path: {}", self.reason())?;
        writeln!(f, "  this side   {}", self.own)?;
        writeln!(f, "  other side  {}", self.peer)?;
        for lane in &self.tried.lanes {
            let Candidate { address, kind } = lane.candidate;
            let kind = match kind {
                Kind::Host => "its own address",
                Kind::Reflexive => "as the broker saw it",
                Kind::Predicted => "beside the broker",
                Kind::Mapped => "a port that its router forwards",
            };
            write!(f, "  tried       {address} ({kind}): ")?;
            if lane.no_route {
                writeln!(f, "no route")?;
                continue;
            }
            writeln!(f, "{}", Answers::of_lane(lane))?;
        }
        for volley in self.tried.volleys.iter().filter(|volley| volley.syns > 0) {
            let VolleyReport { own_ports, peer_ports, .. } = volley;
            let ip = volley.peer.map_or_else(String::new, |peer| peer.ip().to_string());
            let [from, to] = [own_ports, peer_ports].map(|ports| if *ports == 1 { "port" } else { "ports" });
            let answers = Answers::of_volley(volley);
            writeln!(
                f,
                "  tried       {ip} ({peer_ports} {to} there, from {own_ports} {from} here): {answers}"
            )?;
        }
        write!(f, "  remedy      {}", self.remedy())
    }
}

/// What came back to SYNs.
struct Answers {
    syns: u32,
    refused: u32,
    unreachable: u32,
    impostors: u32,
}

impl Answers {
    const NONE: Self = Answers { syns: 0, refused: 0, unreachable: 0, impostors: 0 };

    fn and(self, other: Self) -> Self {
        Answers {
            syns: self.syns + other.syns,
            refused: self.refused + other.refused,
            unreachable: self.unreachable + other.unreachable,
            impostors: self.impostors + other.impostors,
        }
    }

    fn of_lane(&LaneReport { syns, refused, unreachable, impostors, .. }: &LaneReport) -> Self {
        Answers { syns, refused, unreachable, impostors }
    }

    fn of_volley(&VolleyReport { syns, refused, unreachable, impostors, .. }: &VolleyReport) -> Self {
        Answers { syns, refused, unreachable, impostors }
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} SYN{}", self.syns, if self.syns == 1 { "" } else { "s" })?;
        let kinds = [
            (self.refused, "reset"),
            (self.unreachable, "answered by ICMP"),
            (self.impostors, "answered by something else"),
        ];
        for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        let silent = kinds.into_iter().all(|(count, _)| count == 0);
        f.write_str(if silent { ", no answer" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Behaviour, Refusal};

    #[test]
    fn a_failure_names_whose_network_it_is() {
        let symmetric = NatProfile {
            translated: Some(true),
            mapping: Behaviour::AddressAndPortDependent,
            ..NatProfile::default()
        };
        let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..symmetric };
        let tried = Finished { winner: None, syns: 0, lanes: vec![], volleys: vec![], rounds: 1 };
        let obstacle = |own, peer| Obstacle { own, peer, tried: tried.clone(), beside_broker: false };
        assert!(obstacle(symmetric, plain).reason().starts_with("your network"));
        assert!(obstacle(plain, symmetric).reason().starts_with("the other side's network"));
        assert!(obstacle(symmetric, symmetric).reason().starts_with("both networks"));
        assert!(obstacle(plain, plain).to_string().contains("remedy"));
    }

    #[test]
    fn a_failure_after_many_guesses_says_so_and_what_left_them_no_time() {
        let symmetric = NatProfile {
            mapping: Behaviour::AddressAndPortDependent,
            refusal: Refusal::Reset,
            ..NatProfile::default()
        };
        let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..symmetric };
        let volley = VolleyReport { own_ports: 400, peer_ports: 1, syns: 400, ..VolleyReport::default() };
        let unfired = VolleyReport { syns: 0, ..volley };
        let tried = |volleys| Finished { winner: None, syns: 0, lanes: vec![], volleys, rounds: 1 };
        let reason =
            |own, peer, volleys| Obstacle { own, peer, tried: tried(volleys), beside_broker: false }.reason();
        let text = reason(symmetric, plain, vec![volley, unfired]);
        assert!(
            text.contains("of 400 that were tried none led to the other side; both networks refuse"),
            "{text}"
        );
        let text = reason(NatProfile { refusal: Refusal::Drop, ..plain }, symmetric, vec![volley]);
        assert!(text.ends_with("of 400 that were tried none led to you"), "{text}");
        let text = reason(symmetric, plain, vec![unfired]);
        assert!(text.ends_with("the other side can't know where to knock"), "{text}");
    }

    #[test]
    fn a_firewall_that_is_known_to_refuse_is_named() {
        let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..NatProfile::default() };
        let refusing = NatProfile { refusal: Refusal::Reset, ..plain };
        let address = "203.0.113.7:4001".parse().unwrap();
        let lane = LaneReport {
            syns: 3,
            refused: 3,
            ..LaneReport::new(Candidate { address, kind: Kind::Reflexive })
        };
        let tried = Finished { winner: None, syns: 3, lanes: vec![lane], volleys: vec![], rounds: 1 };
        let obstacle = |own, peer| Obstacle { own, peer, tried: tried.clone(), beside_broker: false };
        for (own, peer, who) in [
            (plain, refusing, "the firewall of the other side's network refuses"),
            (refusing, plain, "your network's firewall refuses"),
            (refusing, refusing, "the firewalls of both sides refuse"),
            (plain, plain, "a firewall on one of the two sides refuses"),
        ] {
            let obstacle = obstacle(own, peer);
            assert_eq!(obstacle.reason(), format!("every attempt was reset: {who}"));
            assert_eq!(
                obstacle.remedy().starts_with("let the firewall drop"),
                own != peer || own == refusing
            );
        }
    }

    #[test]
    fn a_failure_says_what_was_tried_at_many_ports() {
        let address = "203.0.113.7:4001".parse().unwrap();
        let many = VolleyReport {
            peer: Some(address),
            own_ports: 1,
            peer_ports: 1024,
            syns: 1024,
            ..VolleyReport::default()
        };
        let refused = VolleyReport { own_ports: 8, peer_ports: 1, syns: 8, refused: 3, ..many };
        let unfired = VolleyReport { syns: 0, ..many };
        let volleys = vec![many, refused, unfired];
        let seen = Candidate { address, kind: Kind::Reflexive };
        let lane = LaneReport { syns: 1, ..LaneReport::new(seen) };
        let tried = Finished { winner: None, syns: 1033, lanes: vec![lane], volleys, rounds: 1 };
        let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..NatProfile::default() };
        let obstacle = Obstacle { own: plain, peer: plain, tried, beside_broker: false };
        let text = obstacle.to_string();
        let tried: Vec<&str> =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("tried")).collect();
        assert_eq!(tried.len(), 3, "{text}");
        assert!(
            tried[1].ends_with("203.0.113.7 (1024 ports there, from 1 port here): 1024 SYNs, no answer"),
            "{text}"
        );
        assert!(
            tried[2].ends_with("203.0.113.7 (1 port there, from 8 ports here): 8 SYNs, 3 reset"),
            "{text}"
        );
        assert!(obstacle.reason().starts_with("some attempts were reset"), "a reset of a volley counts");
    }

    #[test]
    fn what_answers_at_a_private_address_says_nothing_of_the_two_networks() {
        let lane = |address: &str, kind, (refused, unreachable)| {
            let candidate = Candidate { address: address.parse().unwrap(), kind };
            LaneReport { syns: 3, refused, unreachable, ..LaneReport::new(candidate) }
        };
        let reason = |lanes: &[LaneReport]| {
            let tried = Finished { winner: None, syns: 0, lanes: lanes.to_vec(), volleys: vec![], rounds: 1 };
            let plain = NatProfile { mapping: Behaviour::EndpointIndependent, ..NatProfile::default() };
            Obstacle { own: plain, peer: plain, tried, beside_broker: false }.reason()
        };
        let private = lane("192.168.1.7:4001", Kind::Host, (3, 0));
        let outside = |answers| lane("203.0.113.7:4001", Kind::Reflexive, answers);
        assert!(reason(&[private, outside((0, 0))]).starts_with("no answer came"));
        assert!(reason(&[private]).starts_with("every attempt was reset"));
        assert!(reason(&[private, outside((2, 0))]).starts_with("every attempt was reset"));
        assert!(reason(&[outside((0, 1))]).starts_with("every attempt was answered by ICMP"));
        assert!(reason(&[outside((1, 1))]).starts_with("every attempt was refused"));
        assert!(reason(&[outside((1, 0)), outside((0, 0))]).starts_with("some attempts were reset"));
    }
}
