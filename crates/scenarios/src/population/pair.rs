//! A pair, drawn.

use std::time::Duration;

use natlab::link::Conditions;
use natlab::nat::{
    Allocation, Behaviour, Clash, Dependence, Ends, Hairpin, Pooling, Refusal, Tracking, presets,
};
use natlab::{Attachment, Unreachable};
use tcpunch_core::limits::ATTEMPT_WITHIN;

use super::numbers::{Access, Block, Cable, Filtering, Ipv6, Mapping, Nat, Numbers, Refusing};
use super::survey::Class;
use crate::{Arrangement, Network, Scenario, Side};

/// The shortest delays of cables, one way.
const FIXED_DELAY_LEAST_MS: f64 = 1.0;
const CELLULAR_DELAY_LEAST_MS: f64 = 8.0;
/// No cable loses more.
const LOSS_MOST: f64 = 0.2;

/// Two who want to meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// How to run it.
    pub scenario: Scenario,
    /// What each side sits behind.
    pub access: [Access; 2],
    /// The only router of who waits is symmetric, so that it is asked for a port mapping, and makes one.
    pub forwards: bool,
}

/// Numbers between 0 and 1 that depend on the pair, the side and what is asked, and on nothing else: where one parameter changes, only
/// what hangs on it is drawn otherwise.
#[derive(Clone, Copy)]
struct Dice<'a> {
    seed: u64,
    of: &'a str,
}

impl Dice<'_> {
    fn roll(self, what: &str) -> f64 {
        // FNV-1a, then the finish of SplitMix64: names differ little, the numbers must not.
        let bytes = self.seed.to_be_bytes();
        let all = bytes.iter().chain(self.of.as_bytes()).chain(b"/").chain(what.as_bytes());
        let hash = all.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hits(self, what: &str, share: f64) -> bool {
        self.roll(what) < share
    }
}

/// The pair with this number.
pub fn draw(numbers: &Numbers, seed: u64) -> Pair {
    let dice = |of| Dice { seed, of };
    let sides = ["waits", "comes"].map(|of| side(numbers, dice(of)));
    let pair = dice("pair");
    let [(first, waits), (second, comes)] = sides;
    let inside = matches!(first, Access::Public | Access::Firewalled | Access::Home | Access::Company);
    let arrangement = if pair.hits("same network", numbers.share.pair.same_network) {
        Arrangement::Together
    } else if inside && pair.hits("broker inside", numbers.share.pair.broker_inside) {
        Arrangement::BrokerInside
    } else {
        Arrangement::Apart
    };
    let Cable { loss_mean, jitter_most_ms, .. } = numbers.amount.fixed;
    let delay_most_ms = numbers.amount.broker.delay_most_ms;
    let broker =
        cable(dice("broker"), &Cable { delay_most_ms, loss_mean, jitter_most_ms }, FIXED_DELAY_LEAST_MS);
    let alone = first == Access::Home && waits.network.layers.len() == 1;
    let asked = arrangement != Arrangement::Together && Class::of(&waits.network).is_symmetric();
    let forwards = alone && asked && dice("waits").hits("port mapping", numbers.share.home.port_mapping);
    let scenario = Scenario { sides: [waits, comes], broker, arrangement, timeout: ATTEMPT_WITHIN, seed };
    let access = if arrangement == Arrangement::Together { [first, first] } else { [first, second] };
    Pair { scenario, access, forwards }
}

fn milliseconds(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1000.0)
}

fn side(numbers: &Numbers, dice: Dice<'_>) -> (Access, Side) {
    let access = numbers.mix.access.at(dice.roll("access"), Access::Home);
    let (mix, share, amount) = (&numbers.mix, &numbers.share, &numbers.amount);
    let home = |at: &'static str| home(numbers, dice, at);
    let (layers, has_ipv6, cellular) = match access {
        Access::Public => (vec![], share.ipv6.public, false),
        Access::Firewalled => {
            let strict = share.firewalled.no_simultaneous_open;
            let refusal = mix.firewalled.refusal.at(dice.roll("firewall refusal"), Refusing::Drop);
            (vec![firewall(refusal, dice.hits("firewall strict", strict))], share.ipv6.firewalled, false)
        }
        Access::Home => {
            let outer = dice.hits("double", share.home.double).then(|| home("outer"));
            (outer.into_iter().chain([home("home")]).collect(), share.ipv6.home, false)
        }
        Access::HomeBehindCarrier => {
            let strict = share.carrier.no_simultaneous_open;
            let pools = share.carrier.arbitrary_pooling;
            let carrier = carrier(numbers, &mix.carrier, dice, strict, pools);
            (vec![carrier, home("home")], share.ipv6.home_behind_carrier, false)
        }
        Access::Cellular => {
            let strict = share.cellular.no_simultaneous_open;
            let pools = share.cellular.arbitrary_pooling;
            let carrier = carrier(numbers, &mix.cellular, dice, strict, pools);
            let tethered = dice.hits("tethered", share.cellular.tethered);
            let phone = tethered.then(presets::linux_masquerade);
            ([carrier].into_iter().chain(phone).collect(), share.ipv6.cellular, true)
        }
        Access::Company => (vec![company(numbers, dice)], share.ipv6.company, false),
    };
    let ipv6 = dice.hits("has IPv6", has_ipv6).then(|| match access {
        Access::Public => presets::router(),
        Access::Firewalled
        | Access::Home
        | Access::HomeBehindCarrier
        | Access::Cellular
        | Access::Company => {
            let mix = if cellular { &mix.ipv6.cellular } else { &mix.ipv6.fixed };
            let strict = dice.hits("IPv6 strict", share.ipv6.no_simultaneous_open);
            match mix.at(dice.roll("IPv6"), Ipv6::Drop) {
                Ipv6::Open => presets::router(),
                Ipv6::Drop => firewall(Refusing::Drop, strict),
                Ipv6::Reset => firewall(Refusing::Reset, strict),
                Ipv6::Icmp => firewall(Refusing::Icmp, strict),
                Ipv6::IcmpLater => firewall(Refusing::IcmpLater, strict),
            }
        }
    });
    let cable = if cellular {
        cable(dice, &amount.cellular, CELLULAR_DELAY_LEAST_MS)
    } else {
        cable(dice, &amount.fixed, FIXED_DELAY_LEAST_MS)
    };
    let late = milliseconds(dice.roll("late") * amount.pair.late_most_ms);
    (access, Side { network: Network { name: format!("{access:?}"), layers, ipv6 }, cable, late })
}

fn cable(dice: Dice<'_>, cable: &Cable, least_ms: f64) -> Attachment {
    let delay = least_ms * (cable.delay_most_ms / least_ms).max(1.0).powf(dice.roll("delay"));
    let loss = -cable.loss_mean * (1.0 - dice.roll("loss")).ln();
    let conditions = Conditions {
        jitter: milliseconds(dice.roll("jitter") * cable.jitter_most_ms),
        ..Conditions::delay(milliseconds(delay))
    };
    Attachment::from(if loss > 0.0 { conditions.losing(loss.min(LOSS_MOST)) } else { conditions })
}

fn answers(refusal: Refusing, by: Unreachable) -> Refusal {
    match refusal {
        Refusing::Drop => Refusal::Drop,
        Refusing::Reset => Refusal::Reset,
        Refusing::Icmp => Refusal::Icmp(by),
        Refusing::IcmpLater => Refusal::IcmpLater(by),
    }
}

/// A Linux' that resets resets what is invalid too.
fn refusing(nat: Behaviour, refusal: Refusing, by: Unreachable) -> Behaviour {
    let resets = refusal == Refusing::Reset && nat.tracking == Tracking::Linux;
    let syn_limit = if resets { presets::openwrt().syn_limit } else { nat.syn_limit };
    Behaviour { refusal: answers(refusal, by), refuses_invalid: resets, syn_limit, ..nat }
}

fn firewall(refusal: Refusing, strict: bool) -> Behaviour {
    let firewall = refusing(presets::firewall(), refusal, Unreachable::Prohibited);
    Behaviour { simultaneous_open: !strict, ..firewall }
}

/// Which ports a NAT gives, and whom it lets in.
fn translating(nat: Behaviour, mapping: Mapping, filtering: Filtering, block: Block) -> Behaviour {
    let remaps = presets::remapping().ports;
    let (mapping, allocation, ports) = match mapping {
        Mapping::Preserving => (nat.mapping, Allocation::Preserving(Clash::Random), nat.ports),
        Mapping::Overloading => (Dependence::Endpoint, Allocation::Preserving(Clash::Overload), nat.ports),
        Mapping::Remapping | Mapping::Independent => (Dependence::Endpoint, Allocation::Random, remaps),
        Mapping::Block => {
            let size = match block {
                Block::B64 => 64,
                Block::B512 => 512,
                Block::B1024 => 1024,
                Block::B2048 => 2048,
            };
            (Dependence::AddressAndPort, Allocation::Block(size), remaps)
        }
        Mapping::Stepping => (Dependence::AddressAndPort, Allocation::Stepping(1), remaps),
        Mapping::Random => (Dependence::AddressAndPort, Allocation::Random, remaps),
    };
    let (filtering, keeps) = match filtering {
        Filtering::Endpoint => (Dependence::Endpoint, matches!(allocation, Allocation::Preserving(_))),
        Filtering::Address => (Dependence::Address, matches!(allocation, Allocation::Preserving(_))),
        Filtering::AddressAndPort => (Dependence::AddressAndPort, false),
    };
    // Who lets in others than were dialled, and keeps the port, has one mapping for all of them.
    let mapping = if keeps { Dependence::Endpoint } else { mapping };
    Behaviour { mapping, filtering, allocation, ports, ..nat }
}

fn home(numbers: &Numbers, dice: Dice<'_>, at: &str) -> Behaviour {
    let ask = |what: &str| format!("{at} {what}");
    let (mix, share) = (&numbers.mix.home, &numbers.share.home);
    let base = base(dice.hits(&ask("linux"), share.linux));
    let mapping = mix.mapping.at(dice.roll(&ask("mapping")), Mapping::Preserving);
    let filtering = mix.filtering.at(dice.roll(&ask("filtering")), Filtering::AddressAndPort);
    let nat = translating(base, mapping, filtering, Block::B1024);
    let refusal = mix.refusal.at(dice.roll(&ask("refusal")), Refusing::Drop);
    let nat = refusing(nat, refusal, Unreachable::Port);
    let simultaneous_open = !dice.hits(&ask("strict"), share.no_simultaneous_open);
    let nat = Behaviour { simultaneous_open, ..nat };
    if dice.hits(&ask("reset"), share.reset_ends_mapping) {
        Behaviour { early_reset: Ends::Mapping, reset: Ends::Mapping, ..nat }
    } else {
        nat
    }
}

/// What follows connections.
fn base(linux: bool) -> Behaviour {
    if linux {
        presets::linux_masquerade()
    } else {
        Behaviour { hairpin: Hairpin::No, refusal: Refusal::Drop, ..presets::rfc_compliant() }
    }
}

fn carrier(numbers: &Numbers, mix: &Nat, dice: Dice<'_>, strict: f64, pools: f64) -> Behaviour {
    let mapping = mix.mapping.at(dice.roll("carrier mapping"), Mapping::Independent);
    let filtering = mix.filtering.at(dice.roll("carrier filtering"), Filtering::AddressAndPort);
    let block = numbers.mix.block.at(dice.roll("block"), Block::B1024);
    let nat = translating(presets::carrier_eim(), mapping, filtering, block);
    let refusal = mix.refusal.at(dice.roll("carrier refusal"), Refusing::Drop);
    let arbitrary = dice.hits("carrier pooling", pools);
    Behaviour {
        simultaneous_open: !dice.hits("carrier strict", strict),
        pooling: if arbitrary { Pooling::Arbitrary } else { Pooling::Paired },
        ..refusing(nat, refusal, Unreachable::Port)
    }
}

fn company(numbers: &Numbers, dice: Dice<'_>) -> Behaviour {
    let mix = &numbers.mix.company;
    let base = base(dice.hits("company linux", numbers.share.home.linux));
    let mapping = mix.mapping.at(dice.roll("company mapping"), Mapping::Preserving);
    let filtering = mix.filtering.at(dice.roll("company filtering"), Filtering::AddressAndPort);
    let refusal = mix.refusal.at(dice.roll("company refusal"), Refusing::Drop);
    let nat = translating(base, mapping, filtering, Block::B1024);
    let strict = dice.hits("company strict", numbers.share.company.no_simultaneous_open);
    Behaviour { simultaneous_open: !strict, ..refusing(nat, refusal, Unreachable::Prohibited) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::{Parameters, numbers};

    fn best() -> Numbers {
        numbers(&Parameters::load().unwrap().best()).unwrap()
    }

    /// Whether so many of so many are what a share promises, in all but one of 10,000 cases.
    fn fits(hits: usize, runs: usize, share: f64) -> bool {
        let spread = (share * (1.0 - share) / runs as f64).sqrt();
        (hits as f64 / runs as f64 - share).abs() <= 3.9 * spread + 1e-12
    }

    #[test]
    fn the_same_number_draws_the_same_pair() {
        let numbers = best();
        assert_eq!(draw(&numbers, 7), draw(&numbers, 7));
        assert_ne!(draw(&numbers, 7).scenario.sides, draw(&numbers, 8).scenario.sides);
    }

    #[test]
    fn as_many_are_drawn_as_the_numbers_say() {
        let numbers = best();
        let pairs: Vec<Pair> = (0..20_000).map(|seed| draw(&numbers, seed)).collect();
        let count = |what: &dyn Fn(&Pair) -> bool| pairs.iter().filter(|pair| what(pair)).count();
        for kind in [
            Access::Public,
            Access::Firewalled,
            Access::Home,
            Access::HomeBehindCarrier,
            Access::Cellular,
            Access::Company,
        ] {
            let share = numbers.access().share(kind);
            assert!(share > 0.0 && fits(count(&|it| it.access[0] == kind), pairs.len(), share), "{kind:?}");
        }
        let together = count(&|it| it.scenario.arrangement == Arrangement::Together);
        assert!(fits(together, pairs.len(), numbers.share.pair.same_network));
        let sides: Vec<(Access, &Side)> = pairs
            .iter()
            .filter(|pair| pair.scenario.arrangement != Arrangement::Together)
            .flat_map(|pair| pair.access.into_iter().zip(&pair.scenario.sides))
            .collect();
        let of = |access| sides.iter().filter(move |it| it.0 == access).map(|it| it.1);
        let among = |access, what: &dyn Fn(&Side) -> bool, share| {
            fits(of(access).filter(|it| what(it)).count(), of(access).count(), share)
        };
        let innermost = |it: &Side| it.network.layers.last().unwrap().clone();
        let (mix, share) = (&numbers.mix, &numbers.share);
        let home = Access::Home;
        assert!(among(home, &|it| it.network.layers.len() == 2, share.home.double));
        assert!(among(home, &|it| innermost(it).tracking == Tracking::Linux, share.home.linux));
        assert!(among(home, &|it| !innermost(it).simultaneous_open, share.home.no_simultaneous_open));
        assert!(among(home, &|it| innermost(it).early_reset == Ends::Mapping, share.home.reset_ends_mapping));
        assert!(among(home, &|it| it.network.ipv6.is_some(), share.ipv6.home));
        let resets = mix.home.refusal.share(Refusing::Reset);
        assert!(among(home, &|it| innermost(it).refusal == Refusal::Reset, resets));
        let open = mix.home.filtering.share(Filtering::Endpoint);
        assert!(among(home, &|it| innermost(it).filtering == Dependence::Endpoint, open));
        let random = |it: &Side| {
            let outer = &it.network.layers[0];
            outer.allocation == Allocation::Random && outer.mapping != Dependence::Endpoint
        };
        assert!(among(Access::Cellular, &random, mix.cellular.mapping.share(Mapping::Random)));
        assert!(among(Access::Company, &random, mix.company.mapping.share(Mapping::Random)));
        let block = |it: &Side| matches!(it.network.layers[0].allocation, Allocation::Block(_));
        assert!(among(Access::Cellular, &block, mix.cellular.mapping.share(Mapping::Block)));
        assert!(among(Access::HomeBehindCarrier, &block, mix.carrier.mapping.share(Mapping::Block)));
        assert!(among(Access::Cellular, &|it| it.network.layers.len() == 2, share.cellular.tethered));
        let pools = |it: &Side| it.network.layers[0].pooling == Pooling::Arbitrary;
        assert!(among(Access::Cellular, &pools, share.cellular.arbitrary_pooling));
        let blocks = sides.iter().flat_map(|it| &it.1.network.layers).filter_map(|it| match it.allocation {
            Allocation::Block(size) => Some(size),
            _ => None,
        });
        let blocks: Vec<u16> = blocks.collect();
        let large = blocks.iter().filter(|size| **size == 2048).count();
        assert!(fits(large, blocks.len(), mix.block.share(Block::B2048)));
    }

    #[test]
    fn only_a_symmetric_router_alone_before_who_waits_is_asked_for_a_mapping() {
        let numbers = best();
        let pairs: Vec<Pair> = (0..20_000).map(|seed| draw(&numbers, seed)).collect();
        let asks = |pair: &&Pair| {
            let network = &pair.scenario.sides[0].network;
            let alone = pair.access[0] == Access::Home && network.layers.len() == 1;
            alone && pair.scenario.arrangement != Arrangement::Together && Class::of(network).is_symmetric()
        };
        let made = |pair: &&Pair| pair.forwards;
        let asked = pairs.iter().filter(asks).count();
        let forwards = pairs.iter().filter(asks).filter(made).count();
        assert!(fits(forwards, asked, numbers.share.home.port_mapping), "{forwards} of {asked}");
        assert_eq!(pairs.iter().filter(made).count(), forwards);
    }

    #[test]
    fn the_two_sides_are_independent() {
        let numbers = best();
        let pairs: Vec<Pair> = (0..20_000).map(|seed| draw(&numbers, seed)).collect();
        let cellular = |pair: &Pair, side: usize| pair.access[side] == Access::Cellular;
        let share = numbers.access().share(Access::Cellular);
        let apart = |pair: &&Pair| pair.scenario.arrangement != Arrangement::Together;
        let first: Vec<&Pair> = pairs.iter().filter(apart).filter(|it| cellular(it, 0)).collect();
        let both = first.iter().filter(|it| cellular(it, 1)).count();
        assert!(fits(both, first.len(), share), "{both} of {}", first.len());
    }

    #[test]
    fn a_broker_is_inside_nobodys_carrier() {
        let numbers = best();
        let mut inside = 0;
        for pair in (0..5_000).map(|seed| draw(&numbers, seed)) {
            if pair.scenario.arrangement == Arrangement::BrokerInside {
                inside += 1;
                assert!(!matches!(pair.access[0], Access::Cellular | Access::HomeBehindCarrier));
            }
        }
        assert!(inside > 300, "{inside}");
    }

    #[test]
    fn another_number_changes_only_what_hangs_on_it() {
        let parameters = Parameters::load().unwrap();
        let changed = parameters.with(&parameters.best(), "share.home.double", 0.0);
        let (one, other) = (best(), numbers(&changed).unwrap());
        let mut differ = 0;
        for seed in 0..2_000 {
            let (one, other) = (draw(&one, seed), draw(&other, seed));
            assert_eq!((one.access, one.scenario.arrangement), (other.access, other.scenario.arrangement));
            if one != other {
                differ += 1;
                assert!(one.access.contains(&Access::Home));
            }
        }
        assert!((50..400).contains(&differ), "{differ}");
    }
}
