use std::time::Duration;

use natlab::link::Conditions;

use super::*;
use crate::{Arrangement, Network, Side, Verdict};
use tcpunch_core::plan::Path;

fn public() -> Network {
    Network { name: "public".to_owned(), layers: Vec::new(), ipv6: None }
}

fn scenario(networks: [Network; 2], delays_ms: [u64; 3]) -> Scenario {
    let cable = |ms| Attachment::from(Conditions::delay(Duration::from_millis(ms)));
    let [one, other, broker] = delays_ms.map(cable);
    let [first, second] = networks;
    let side = |network, cable| Side { network, cable, late: Duration::ZERO };
    Scenario {
        sides: [side(first, one), side(second, other)],
        broker,
        arrangement: Arrangement::Apart,
        timeout: Duration::from_secs(15),
        seed: 7,
    }
}

#[test]
fn two_public_hosts_connect_in_the_least_time() {
    let scenario = scenario([public(), public()], [20, 30, 5]);
    let run = run_closely(&scenario, Options::default());
    assert_eq!(run.report.verdict(), Verdict::Connected, "{:?}", run.report);
    assert!(run.same_connection);
    assert!(matches!(run.report.sides, [Outcome::Connected { path: Path::Direct, .. }, _]));
    // rA = 70 ms, rB = 50 ms, r = 100 ms: 1.5 rA + rB + max(rA, rB) / 2 and 1.5 r.
    assert_eq!(run.report.since_claim, Some(Duration::from_millis(105 + 50 + 35 + 150)));
}
