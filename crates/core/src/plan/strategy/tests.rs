use super::*;
use crate::profile::Behaviour::{
    AddressAndPortDependent, AddressDependent, EndpointDependent, EndpointIndependent, PortIndependent,
};

const BEHAVIOURS: [Behaviour; 6] = [
    Behaviour::Unknown,
    EndpointIndependent,
    PortIndependent,
    AddressDependent,
    EndpointDependent,
    AddressAndPortDependent,
];
const ALLOCATIONS: [Allocation; 11] = [
    Allocation::Unknown,
    Allocation::Preserving,
    Allocation::Changing,
    Allocation::Stepping(1),
    Allocation::Stepping(-3),
    Allocation::Stepping(0),
    block(64),
    block(1024),
    block(2048),
    block(BLOCK_LARGEST + 1),
    Allocation::Random,
];

const fn block(ports: u16) -> Allocation {
    Allocation::Block { first: 40_000, last: 40_000 + ports - 1 }
}

fn nat(mapping: Behaviour, allocation: Allocation, filtering: Behaviour, refusal: Refusal) -> NatProfile {
    let translated = Some(true);
    NatProfile { translated, mapping, allocation, filtering, refusal, simultaneous_open: None }
}

fn easy(refusal: Refusal) -> NatProfile {
    nat(EndpointIndependent, Allocation::Preserving, AddressAndPortDependent, refusal)
}

fn symmetric(allocation: Allocation, refusal: Refusal) -> NatProfile {
    nat(AddressAndPortDependent, allocation, AddressAndPortDependent, refusal)
}

/// Every profile, as far as a strategy can differ: ICMP counts as silence does.
fn profiles() -> Vec<NatProfile> {
    let mut profiles = Vec::new();
    for mapping in BEHAVIOURS {
        for allocation in ALLOCATIONS {
            for filtering in BEHAVIOURS {
                for refusal in [Refusal::Unknown, Refusal::Drop, Refusal::Reset] {
                    profiles.push(nat(mapping, allocation, filtering, refusal));
                }
            }
        }
    }
    profiles
}

fn each_pair(mut check: impl FnMut(&NatProfile, &NatProfile)) {
    let profiles = profiles();
    for (at, own) in profiles.iter().enumerate() {
        profiles[at..].iter().for_each(|peer| check(own, peer));
    }
}

fn ours(own: &NatProfile, peer: &NatProfile, round: u8) -> Strategy {
    strategy(own, peer, round, false, &Rules::default())
}

fn fits(a: &Volley, b: &Volley) -> bool {
    let aims = match (a.aim, b.aim) {
        (Aim::Spread, Aim::Next(_) | Aim::Within(..)) | (Aim::Next(_) | Aim::Within(..), Aim::Spread) => true,
        (Aim::SpreadTo(_), Aim::SpreadTo(_)) => a.shots == b.shots,
        (Aim::Spread | Aim::SpreadTo(_) | Aim::Next(_) | Aim::Within(..), _) => false,
    };
    aims && (a.crossing, a.birthday) == (b.crossing, b.birthday)
}

#[test]
fn the_strategies_of_two_sides_fit_each_other() {
    each_pair(|own, peer| {
        for round in 0..ROUNDS {
            let (a, b) = (ours(own, peer, round), ours(peer, own, round));
            let orders = matches!(
                (a.order, b.order),
                (Order::First, Order::Second)
                    | (Order::Second, Order::First)
                    | (Order::Together, Order::Together)
            );
            assert!(orders, "{own:?} {peer:?} {round}: {a:?} {b:?}");
            assert_eq!((a.fresh, a.hopeless), (b.fresh, b.hopeless), "{own:?} {peer:?} {round}");
            let begins = match (&a.volley, &b.volley) {
                (Some(a), Some(b)) => fits(a, b),
                (None, None) => a.dial || b.dial || (a.fresh && round == 0),
                (Some(_), None) | (None, Some(_)) => false,
            };
            assert!(begins, "{own:?} {peer:?} {round}: {a:?} {b:?}");
        }
    });
}

#[test]
fn strangers_fire_at_no_port_that_the_broker_did_not_see() {
    each_pair(|own, peer| {
        for round in 0..ROUNDS {
            for (own, peer) in [(own, peer), (peer, own)] {
                let found = strategy(own, peer, round, true, &Rules::default());
                assert!(found.volley.is_none() && !found.fresh, "{own:?} {peer:?}: {found:?}");
            }
        }
    });
}

#[test]
fn the_syns_of_both_sides_stay_within_what_the_issue_allows() {
    each_pair(|own, peer| {
        for round in 0..ROUNDS {
            let (Some(a), Some(b)) = (ours(own, peer, round).volley, ours(peer, own, round).volley) else {
                continue;
            };
            assert!(a.budget >= a.shots && b.budget >= b.shots);
            let most = if a.birthday { 1500 } else { 300 };
            assert!(a.budget + b.budget <= most, "{own:?} {peer:?}: {} and {}", a.budget, b.budget);
        }
    });
}

#[test]
fn who_lets_everybody_in_is_dialled_and_never_fired_at() {
    for own in profiles().iter().filter(|own| own.filtering == EndpointIndependent) {
        for peer in profiles() {
            for round in 0..ROUNDS {
                let (a, b) = (ours(own, &peer, round), ours(&peer, own, round));
                assert!(a.volley.is_none() && b.volley.is_none(), "{own:?} {peer:?}");
                assert!(!a.hopeless && !a.fresh);
                assert!(b.dial, "{own:?} {peer:?}");
                let doubles = own.is_symmetric() && !peer.is_symmetric() && !is_reached(&peer, round);
                assert_eq!(a.dial, !doubles, "{own:?} {peer:?}");
            }
        }
    }
}

#[test]
fn who_may_be_let_in_is_dialled_beside_all_that_is_fired() {
    for filtering in [Behaviour::Unknown, PortIndependent] {
        let open = nat(EndpointIndependent, Allocation::Preserving, filtering, Refusal::Unknown);
        for allocation in
            [Allocation::Random, Allocation::Stepping(1), Allocation::Block { first: 5000, last: 5063 }]
        {
            let own = symmetric(allocation, Refusal::Drop);
            assert!(ours(&own, &open, 0).dial, "{filtering:?} {allocation:?}");
            let other = NatProfile { filtering, ..own };
            assert!(ours(&easy(Refusal::Drop), &other, 0).dial, "{filtering:?} {allocation:?}");
        }
        let other = NatProfile { filtering: PortIndependent, ..symmetric(Allocation::Random, Refusal::Drop) };
        assert!(!ours(&other, &easy(Refusal::Drop), 0).dial, "it would be the double of what comes in");
    }
}

#[test]
fn a_filter_that_goes_by_address_is_tried_from_the_doors_first() {
    for filtering in [PortIndependent, AddressDependent] {
        let own = nat(EndpointIndependent, Allocation::Preserving, filtering, Refusal::Drop);
        let peer = symmetric(Allocation::Random, Refusal::Drop);
        assert_eq!(ours(&own, &peer, 0).volley, None);
        assert!(ours(&own, &peer, 0).dial && ours(&peer, &own, 0).dial);
        assert!(ours(&own, &peer, 1).volley.is_some_and(|volley| volley.birthday));
    }
}

/// What each row of the table of pairs leads to: own volley and the peer's, in the second round.
#[test]
fn each_row_of_the_table_has_its_strategy() {
    let aims = |own: &NatProfile, peer: &NatProfile| {
        let aim = |own, peer| ours(own, peer, 1).volley.map(|volley| (volley.aim, volley.shots));
        (aim(own, peer), aim(peer, own))
    };
    let drop = easy(Refusal::Drop);
    let reset = easy(Refusal::Reset);
    for own in [drop, reset, easy(Refusal::Icmp), easy(Refusal::Unknown)] {
        for peer in [drop, reset] {
            for round in 0..ROUNDS {
                let found = ours(&own, &peer, round);
                assert!(found.dial && found.volley.is_none() && !found.fresh && !found.hopeless);
            }
        }
    }
    assert_eq!(ours(&reset, &drop, 0).order, Order::First, "whose own NAT resets opens first");
    assert_eq!(ours(&easy(Refusal::Unknown), &drop, 0).order, Order::Together, "not known");
    assert_eq!(ours(&easy(Refusal::Unknown), &reset, 0).order, Order::Together);
    assert_eq!(ours(&easy(Refusal::Icmp), &drop, 0).order, Order::Together, "ICMP ends no hole");
    assert_eq!(ours(&drop, &reset, 0).order, Order::Second);
    assert_eq!(ours(&reset, &reset, 0).order, Order::Together);

    let stepping = |step| symmetric(Allocation::Stepping(step), Refusal::Drop);
    assert!(ours(&drop, &stepping(2), 0).fresh && !ours(&drop, &stepping(2), 0).dial, "no step in vain");
    let expected = (Some((Aim::Next(2), STEPS_AHEAD)), Some((Aim::Spread, STEPS_SPREAD)));
    assert_eq!(aims(&drop, &stepping(2)), expected);
    let both = (Some((Aim::SpreadTo(-48), STEPS_BOTH)), Some((Aim::SpreadTo(24), STEPS_BOTH)));
    assert_eq!(aims(&stepping(1), &stepping(-2)), both);

    let small = symmetric(block(64), Refusal::Drop);
    assert_eq!(aims(&drop, &small), (Some((Aim::Within(40_000, 40_063), 64)), Some((Aim::Spread, 8))));
    let large = symmetric(block(1024), Refusal::Drop);
    let expected = (Some((Aim::Within(40_000, 41_023), BLOCK_PORTS)), Some((Aim::Spread, BLOCK_SPREAD)));
    assert_eq!(aims(&drop, &large), expected);
    assert!(ours(&drop, &large, 0).volley.is_some_and(|volley| !volley.birthday), "at once");

    let (spread, dialled) = BIRTHDAY_SPREAD;
    let any = Aim::Within(BIRTHDAY_PORTS.0, BIRTHDAY_PORTS.1);
    for allocation in
        [Allocation::Random, Allocation::Changing, Allocation::Unknown, block(BLOCK_LARGEST + 1)]
    {
        let random = symmetric(allocation, Refusal::Drop);
        assert_eq!(aims(&drop, &random), (Some((any, dialled)), Some((Aim::Spread, spread))));
        let first = ours(&drop, &random, 0).volley;
        if allocation == Allocation::Changing {
            assert!(first.is_none(), "it may step, or have a block: more will be known soon");
            continue;
        }
        assert!(first.is_some_and(|volley| volley.birthday && !volley.crossing));
        assert!(ours(&random, &random, 0).hopeless);
        assert!(ours(&random, &small, 0).hopeless && ours(&random, &stepping(1), 0).hopeless);
    }
    let refusing = symmetric(Allocation::Random, Refusal::Reset);
    assert!(ours(&reset, &refusing, 0).volley.is_some_and(|volley| volley.crossing));
    assert_eq!(ours(&drop, &refusing, 0).order, Order::Second);
    let unknown = symmetric(Allocation::Random, Refusal::Unknown);
    for (own, peer) in [(drop, unknown), (easy(Refusal::Unknown), refusing), (reset, unknown)] {
        let crossing = |own, peer| ours(own, peer, 0).volley.is_some_and(|volley| volley.crossing);
        assert!(
            crossing(&own, &peer) && crossing(&peer, &own),
            "who may reset is not made first: {own:?} {peer:?}"
        );
    }

    let open = nat(AddressAndPortDependent, Allocation::Random, EndpointIndependent, Refusal::Unknown);
    assert!(ours(&open, &refusing, 0).volley.is_none() && ours(&refusing, &open, 0).dial);
}

#[test]
fn a_symmetric_side_is_dialled_where_it_was_seen_as_long_as_its_filter_may_be_open() {
    let unknown =
        NatProfile { filtering: Behaviour::Unknown, ..symmetric(Allocation::Random, Refusal::Unknown) };
    let peer = easy(Refusal::Drop);
    assert!(ours(&peer, &unknown, 0).dial && !ours(&unknown, &peer, 0).dial);
    assert!(!ours(&peer, &symmetric(Allocation::Random, Refusal::Unknown), 0).dial);
}

#[test]
fn a_nat_that_may_be_symmetric_is_taken_for_one_after_a_round_or_two() {
    let peer = easy(Refusal::Drop);
    let likely = |allocation| nat(Behaviour::Unknown, allocation, AddressAndPortDependent, Refusal::Drop);
    let first_volley =
        |allocation| (0..ROUNDS).find(|round| ours(&peer, &likely(allocation), *round).volley.is_some());
    assert_eq!(first_volley(Allocation::Changing), Some(2), "little was seen of it");
    for allocation in [Allocation::Random, Allocation::Stepping(1), block(64)] {
        assert_eq!(first_volley(allocation), Some(1));
    }
    for allocation in [Allocation::Preserving, Allocation::Unknown] {
        assert_eq!(first_volley(allocation), None);
    }
}

/// Ports of which so many are open, of which so many are dialled: how likely one is hit.
fn chance(ports: u32, open: u32, dialled: u32) -> f64 {
    let missed =
        |tried: f64, n: u32| tried * f64::from((ports - open).saturating_sub(n)) / f64::from(ports - n);
    1.0 - (0..dialled).fold(1.0, missed)
}

#[test]
fn so_many_ports_meet_as_is_promised() {
    let (open, dialled) = sizes(BIRTHDAY_PORTS.0, BIRTHDAY_PORTS.1);
    let all = u32::from(BIRTHDAY_PORTS.1 - BIRTHDAY_PORTS.0) + 1;
    assert!(chance(all, open.into(), dialled.into()) > 0.998);
    for ports in (1..=2048).filter(|ports| *ports <= 64 || ports % 61 == 0 || ports % 1024 == 0) {
        let (open, dialled) = sizes(40_000, 40_000 + (ports - 1));
        let (all, open) = (u32::from(ports), u32::from(open.min(ports)));
        assert!(chance(all, open, dialled.into()) > 0.999, "{ports} ports");
    }
    // The largest that counts as a block.
    let (open, dialled) = sizes(40_000, 40_000 + (BLOCK_LARGEST - 1));
    assert!(chance(BLOCK_LARGEST.into(), open.into(), dialled.into()) > 0.95);
}

#[test]
fn what_is_no_block_is_not_dialled_as_one() {
    let peer = easy(Refusal::Drop);
    let any = Aim::Within(BIRTHDAY_PORTS.0, BIRTHDAY_PORTS.1);
    for (first, last) in [(0, 100), (1, 1023), (1000, 1100), (50_000, 40_000), (0, u16::MAX)] {
        let odd = symmetric(Allocation::Block { first, last }, Refusal::Drop);
        assert_eq!(ours(&peer, &odd, 0).volley.map(|volley| volley.aim), Some(any), "{first} to {last}");
    }
}

#[test]
fn a_rule_that_is_off_is_not_followed() {
    let all = Rules::default();
    let (drop, reset) = (easy(Refusal::Drop), easy(Refusal::Reset));
    let stepping = symmetric(Allocation::Stepping(1), Refusal::Drop);
    let random = symmetric(Allocation::Random, Refusal::Reset);
    let blocked = symmetric(block(64), Refusal::Drop);
    let volley = |own: &NatProfile, peer: &NatProfile, rules| strategy(own, peer, 1, false, &rules).volley;

    let rules = Rules { prediction: false, ..all };
    for guessed in [stepping, blocked] {
        assert!(volley(&drop, &guessed, rules).is_some_and(|volley| volley.birthday));
        assert!(!strategy(&drop, &guessed, 0, false, &rules).fresh);
    }
    let rules = Rules { birthday: false, ..all };
    assert_eq!(volley(&drop, &random, rules), None);
    assert!(strategy(&drop, &random, 0, false, &rules).dial);
    assert!(volley(&drop, &blocked, rules).is_some(), "no matter of luck");

    let rules = Rules { order: false, ..all };
    for (own, peer) in [(&drop, &reset), (&reset, &drop), (&drop, &random), (&reset, &random)] {
        let found = strategy(own, peer, 0, false, &rules);
        assert_eq!(found.order, Order::Together);
        assert!(found.volley.is_none_or(|volley| !volley.crossing));
    }
    let open = nat(AddressAndPortDependent, Allocation::Random, EndpointIndependent, Refusal::Drop);
    // The others are about when to fire, which is no matter of the two networks.
    let others = Rules { refire: false, icmp_at_once: false, rounds: false, caution: false, ..all };
    for own in [drop, reset, stepping, random, blocked, open] {
        for peer in [drop, reset, stepping, random, blocked, open] {
            assert_eq!(strategy(&own, &peer, 1, false, &others), ours(&own, &peer, 1));
        }
    }
}
