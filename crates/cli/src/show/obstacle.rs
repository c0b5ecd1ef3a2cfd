//! Why two did not connect, for programs.

use serde_json::{Value, json};
use tcpunch::Obstacle;
use tcpunch_core::candidate::Kind;
use tcpunch_core::puncher::{LaneReport, VolleyReport};

use crate::show::doctor::profile_fields;

/// What the text for people says, in fields.
pub(crate) fn fields(obstacle: &Obstacle) -> Value {
    let lanes = obstacle.tried.lanes.iter().map(lane);
    let volleys = obstacle.tried.volleys.iter().filter(|volley| volley.syns > 0).map(volley);
    json!({
        "reason": obstacle.reason(),
        "own": profile_fields(&obstacle.own),
        "peer": profile_fields(&obstacle.peer),
        "tried": lanes.chain(volleys).collect::<Vec<_>>(),
        "remedy": obstacle.remedy(),
    })
}

fn lane(lane: &LaneReport) -> Value {
    let kind = match lane.candidate.kind {
        Kind::Host => "host",
        Kind::Reflexive => "reflexive",
        Kind::Predicted => "predicted",
        Kind::Mapped => "mapped",
    };
    json!({
        "address": lane.candidate.address.to_string(),
        "kind": kind,
        "no_route": lane.no_route,
        "syns": lane.syns,
        "reset": lane.refused,
        "icmp": lane.unreachable,
        "impostors": lane.impostors,
    })
}

/// Many ports of one address.
fn volley(volley: &VolleyReport) -> Value {
    json!({
        "address": volley.peer.map(|peer| peer.ip().to_string()),
        "kind": "ports",
        "own_ports": volley.own_ports,
        "peer_ports": volley.peer_ports,
        "syns": volley.syns,
        "reset": volley.refused,
        "icmp": volley.unreachable,
        "impostors": volley.impostors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpunch_core::candidate::Candidate;
    use tcpunch_core::profile::{Behaviour, NatProfile};
    use tcpunch_core::puncher::Finished;

    #[test]
    fn programs_read_what_was_tried_where_and_what_came_of_it() {
        let address = "203.0.113.7:4001".parse().unwrap();
        let candidate = Candidate { address, kind: Kind::Reflexive };
        let lane =
            LaneReport { candidate, syns: 3, refused: 1, unreachable: 0, impostors: 0, no_route: false };
        let many = VolleyReport {
            peer: Some(address),
            own_ports: 1,
            peer_ports: 1024,
            syns: 1020,
            ..VolleyReport::default()
        };
        let unfired = VolleyReport { syns: 0, ..many };
        let tried =
            Finished { winner: None, syns: 1023, lanes: vec![lane], volleys: vec![many, unfired], rounds: 2 };
        let symmetric = NatProfile { mapping: Behaviour::AddressAndPortDependent, ..NatProfile::default() };
        let obstacle = Obstacle { own: NatProfile::default(), peer: symmetric, tried, beside_broker: false };
        let told = fields(&obstacle);
        assert_eq!(
            (&told["own"]["mapping"], told["reason"].as_str()),
            (&Value::Null, Some(&*obstacle.reason()))
        );
        assert_eq!(told["peer"]["mapping"], "address-and-port-dependent");
        assert_eq!(told["remedy"], obstacle.remedy());
        let expected = json!([
            { "address": "203.0.113.7:4001", "kind": "reflexive", "no_route": false,
              "syns": 3, "reset": 1, "icmp": 0, "impostors": 0 },
            { "address": "203.0.113.7", "kind": "ports", "own_ports": 1, "peer_ports": 1024,
              "syns": 1020, "reset": 0, "icmp": 0, "impostors": 0 },
        ]);
        assert_eq!(told["tried"], expected);
    }
}
