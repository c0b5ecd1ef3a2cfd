//! What a peer learns of its own network: every network of the table and more, with a broker at one address and at two,
//! in simulation, and some on real kernels. `docs/nat.md` has the two tables; `TCPUNCH_PROFILES=write` writes them there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use natlab::nat::{Behaviour as Nat, Dependence, Refusal as Answer, presets};
use natlab::testing::trial;
use tcpunch_core::limits::{FRESH_PORTS, PLACES_AGAIN, SURVEY_PLACES};
use tcpunch_core::profile::{Allocation, Behaviour, NatProfile, Refusal};
use tcpunch_scenarios::report::Condition;
use tcpunch_scenarios::sim::learn;
use tcpunch_scenarios::{Network, Scenario, nftables, table, userspace};

/// Set to `required` where no test of this workspace that needs a lab may be skipped.
const VARIABLE: &str = "TCPUNCH_LAB";
const SEEDS: u64 = 20;
/// Of so many ports of a block it is seldom, but not never, that they all lie in half of it.
const BLOCKS_MISJUDGED: u64 = 1;

/// What is to be learnt, with a broker at one address, and with one at two.
struct Row {
    network: Network,
    mapping: [Behaviour; 2],
    ports: Ports,
    filtering: [Behaviour; 2],
    refusal: Refusal,
}

#[derive(Clone, Copy)]
enum Ports {
    Kept,
    Steps(i16),
    Block(u16),
    Random,
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    for row in rows() {
        trials.push(Trial::test(format!("simulated: {}", row.network.name), move || {
            simulated(&row);
            Ok(())
        }));
    }
    trials.push(Trial::test("what is lost makes nobody symmetric", || {
        lossy();
        Ok(())
    }));
    trials.push(Trial::test("every network of the table is here", || {
        let names: Vec<String> = rows().into_iter().map(|row| row.network.name).collect();
        let missing = |network: &Network| !names.contains(&network.name);
        assert_eq!(table::networks().into_iter().filter(missing).map(|it| it.name).next(), None);
        Ok(())
    }));
    trials.push(Trial::test("the document has the tables", || {
        documented();
        Ok(())
    }));
    let on_kernels = [
        "public",
        "firewall-reset",
        "openwrt",
        "linux-masquerade",
        "icmp",
        "full-cone",
        "symmetric-random",
        "symmetric-stepping",
        "symmetric-block-1024",
        "home-behind-carrier",
        // These the kernel's own NATs have too.
        "no-simultaneous-open",
        "linux-random",
        "remapping",
    ];
    for row in rows().into_iter().filter(|row| on_kernels.contains(&row.network.name.as_str())) {
        trials.push(trial(format!("kernels: {}", row.network.name), VARIABLE, move || {
            for (at, second) in [false, true].into_iter().enumerate() {
                let profile = userspace::learn(&scenario(&row.network, 1), second).unwrap();
                row.check(at, &profile, 1);
            }
            if let Some(profile) = nftables::learn(&scenario(&row.network, 1)).unwrap() {
                row.check(0, &profile, 1);
            }
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn rows() -> Vec<Row> {
    use Behaviour::{
        AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei,
        PortIndependent as EiOrAd,
    };
    const STRICT: [Behaviour; 2] = [Apd, Apd];
    const KEEPS: [Behaviour; 2] = [EiOrAd, Ei];
    let row = |network: Network, mapping, ports, filtering, refusal| Row {
        network,
        mapping,
        ports,
        filtering,
        refusal,
    };
    let mut rows = Vec::new();
    for network in table::networks() {
        let (mapping, ports, filtering, refusal) = match network.name.as_str() {
            "public" => ([Ei, Ei], Ports::Kept, KEEPS, Refusal::Unknown),
            "firewall" => ([Ei, Ei], Ports::Kept, STRICT, Refusal::Drop),
            "firewall-reset" => ([Ei, Ei], Ports::Kept, STRICT, Refusal::Reset),
            "firewall-icmp" => ([Ei, Ei], Ports::Kept, STRICT, Refusal::Icmp),
            "openwrt" => (KEEPS, Ports::Kept, STRICT, Refusal::Reset),
            "icmp" => (KEEPS, Ports::Kept, STRICT, Refusal::Icmp),
            "full-cone" | "rfc-compliant" => (KEEPS, Ports::Kept, KEEPS, Refusal::Unknown),
            "carrier" | "home-behind-carrier" | "openwrt-behind-carrier" => {
                (KEEPS, Ports::Random, STRICT, Refusal::Drop)
            }
            "symmetric-stepping" => (STRICT, Ports::Steps(1), STRICT, Refusal::Drop),
            "symmetric-block-1024" => (STRICT, Ports::Block(1024), STRICT, Refusal::Drop),
            "symmetric-random" => (STRICT, Ports::Random, STRICT, Refusal::Drop),
            // linux-masquerade, port-overloading, no-simultaneous-open; what is new is found by its own row.
            _ => (KEEPS, Ports::Kept, STRICT, Refusal::Drop),
        };
        rows.push(row(network, mapping, ports, filtering, refusal));
    }
    let named = |name: &str, layers: Vec<Nat>| Network { name: name.to_owned(), layers, ipv6: None };
    for size in [64, 512, 2048] {
        let network = named(&format!("symmetric-block-{size}"), vec![presets::carrier_block(size)]);
        rows.push(row(network, STRICT, Ports::Block(size), STRICT, Refusal::Drop));
    }
    for step in [2, 3] {
        let network = named(&format!("symmetric-steps-of-{step}"), vec![presets::symmetric_stepping(step)]);
        let ports = Ports::Steps(i16::try_from(step).unwrap());
        rows.push(row(network, STRICT, ports, STRICT, Refusal::Drop));
    }
    let linux = named("linux-random", vec![presets::linux_random()]);
    rows.push(row(linux, STRICT, Ports::Random, STRICT, Refusal::Drop));
    let remapping = named("remapping", vec![presets::remapping()]);
    rows.push(row(remapping, KEEPS, Ports::Random, STRICT, Refusal::Drop));
    let carrier = presets::carrier_eim;
    let filters = |filtering| Nat { filtering, ..carrier() };
    let adf = named("filters-by-address", vec![filters(Dependence::Address)]);
    rows.push(row(adf, KEEPS, Ports::Random, [EiOrAd, Ad], Refusal::Drop));
    let adf = Nat { refusal: Answer::Reset, ..filters(Dependence::Address) };
    rows.push(row(
        named("filters-by-address-reset", vec![adf]),
        KEEPS,
        Ports::Random,
        [EiOrAd, Ad],
        Refusal::Reset,
    ));
    let adm = Nat { mapping: Dependence::Address, ..presets::symmetric_random() };
    rows.push(row(named("maps-by-address", vec![adm]), [EiOrAd, Ad], Ports::Random, STRICT, Refusal::Drop));
    let open = Nat { filtering: Dependence::Endpoint, ..presets::symmetric_random() };
    rows.push(row(named("symmetric-open", vec![open]), STRICT, Ports::Random, KEEPS, Refusal::Unknown));
    let home = vec![presets::carrier_block(512), presets::openwrt()];
    rows.push(row(named("openwrt-behind-block-512", home), STRICT, Ports::Block(512), STRICT, Refusal::Drop));
    let behind = vec![presets::linux_masquerade(), presets::symmetric_random()];
    rows.push(row(named("random-behind-masquerade", behind), STRICT, Ports::Random, STRICT, Refusal::Drop));
    rows
}

impl Row {
    /// Panics where something else was learnt, but for the size of a block; whether that is right.
    fn check(&self, brokers: usize, profile: &NatProfile, seed: u64) -> bool {
        let place =
            format!("{}, {} broker addresses, seed {seed}: {profile:?}", self.network.name, brokers + 1);
        assert_eq!(profile.mapping, self.mapping[brokers], "{place}");
        assert_eq!(profile.filtering, self.filtering[brokers], "{place}");
        // Who lets the broker's first address in may still refuse its second.
        let open = profile.filtering == Behaviour::PortIndependent;
        let refusal = if open { Refusal::Unknown } else { self.refusal };
        assert_eq!(profile.refusal, refusal, "{place}");
        let translates = self.network.layers.iter().any(|layer| layer.translates);
        assert_eq!(profile.translated, Some(translates), "{place}");
        match (self.ports, profile.allocation) {
            (Ports::Kept, Allocation::Preserving) | (Ports::Random, Allocation::Random) => true,
            (Ports::Steps(step), Allocation::Stepping(seen)) if seen == step => true,
            (Ports::Block(size), Allocation::Block { first, last }) => last - first == size - 1,
            (Ports::Kept | Ports::Random | Ports::Steps(_) | Ports::Block(_), _) => panic!("{place}"),
        }
    }
}

const ROUND_TRIP: Duration = Duration::from_millis(40);

fn scenario(network: &Network, seed: u64) -> Scenario {
    let condition = Condition { round_trip: ROUND_TRIP, loss: 0.0, skew: Duration::ZERO };
    table::scenario(network, network, condition, seed)
}

fn simulated(row: &Row) {
    for (at, second) in [false, true].into_iter().enumerate() {
        let mut misjudged = 0;
        for seed in 0..SEEDS {
            let learnt = learn(&scenario(&row.network, seed), second).unwrap();
            misjudged += u64::from(!row.check(at, &learnt.profile, seed));
            // What decides how to connect is there after two round trips, or four where fresh ports were not looked at from
            // the beginning; what strangers are answered a little later.
            let known = |what: fn(&NatProfile) -> [String; 2]| {
                let end = what(&learnt.profile);
                let wrong = learnt.since.iter().rposition(|(_, profile)| what(profile) != end);
                learnt.since[wrong.map_or(0, |at| at + 1)].0
            };
            let ways = known(|it| [format!("{:?}", it.mapping), format!("{:?}", it.allocation)]);
            assert!(ways <= 4 * ROUND_TRIP, "{}, seed {seed}: {ways:?}", row.network.name);
            let answers = known(|it| [format!("{:?}", it.filtering), format!("{:?}", it.refusal)]);
            let soon = 4 * ROUND_TRIP + Duration::from_millis(30);
            assert!(answers <= soon, "{}, seed {seed}: {answers:?}", row.network.name);
            let most = SURVEY_PLACES + PLACES_AGAIN + 1 + FRESH_PORTS;
            assert!(learnt.connections as usize <= most, "{} connections", learnt.connections);
        }
        assert!(misjudged <= BLOCKS_MISJUDGED, "{misjudged} blocks of {}", row.network.name);
    }
}

/// Where packets are lost less is known, or later, but nothing that makes two give up or fire at a thousand ports.
fn lossy() {
    let (mut right, mut all) = (0, 0);
    for row in rows() {
        let symmetric = row.mapping == [Behaviour::AddressAndPortDependent; 2];
        for seed in 0..SEEDS {
            let condition = Condition { round_trip: ROUND_TRIP, loss: 0.1, skew: Duration::ZERO };
            let scenario = table::scenario(&row.network, &row.network, condition, seed);
            let Some(learnt) = learn(&scenario, false) else { continue };
            let NatProfile { mapping, filtering, refusal, .. } = learnt.profile;
            assert!(
                symmetric || !learnt.profile.is_symmetric(),
                "{}: {:?}",
                row.network.name,
                learnt.profile
            );
            all += 1;
            let open = filtering == Behaviour::PortIndependent || refusal == row.refusal;
            right += u64::from(mapping == row.mapping[0] && filtering == row.filtering[0] && open);
        }
    }
    assert!(right * 100 >= all * 85, "{right} of {all}");
}

/// A table as it is in the document.
fn drawn(second: bool) -> String {
    let mut text = String::from(
        "| Network | Mapping | Ports | Filtering | Answer to an unsolicited SYN | Connections |\n|---|---|---|---|---|---|\n",
    );
    for row in rows() {
        let learnt = learn(&scenario(&row.network, 1), second).unwrap();
        let NatProfile { translated, mapping, allocation, filtering, refusal, .. } = learnt.profile;
        let translated = translated.unwrap();
        let mapping = if translated { short(mapping, 'M') } else { "no translation".to_owned() };
        let ports = match allocation {
            Allocation::Unknown | Allocation::Changing => "not known".to_owned(),
            Allocation::Preserving => "kept".to_owned(),
            Allocation::Stepping(step) => format!("steps of {step}"),
            Allocation::Block { first, last } => format!("a block of {}", last - first + 1),
            Allocation::Random => "random".to_owned(),
        };
        let refusal = match refusal {
            Refusal::Unknown => "not known",
            Refusal::Drop => "nothing",
            Refusal::Reset => "reset",
            Refusal::Icmp => "ICMP",
        };
        let refusal = if filtering == Behaviour::EndpointIndependent { "lets it in" } else { refusal };
        let (name, filtering) = (&row.network.name, short(filtering, 'F'));
        writeln!(text, "| {name} | {mapping} | {ports} | {filtering} | {refusal} | {} |", learnt.connections)
            .unwrap();
    }
    text
}

fn short(behaviour: Behaviour, axis: char) -> String {
    match behaviour {
        Behaviour::Unknown => "not known".to_owned(),
        Behaviour::EndpointIndependent => format!("EI{axis}"),
        Behaviour::PortIndependent => format!("EI{axis} or AD{axis}"),
        Behaviour::AddressDependent => format!("AD{axis}"),
        Behaviour::EndpointDependent => format!("AD{axis} or APD{axis}"),
        Behaviour::AddressAndPortDependent => format!("APD{axis}"),
    }
}

fn documented() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/nat.md");
    let mut document = std::fs::read_to_string(&path).unwrap();
    for (second, name) in [(false, "one address"), (true, "two addresses")] {
        let begin = format!("<!-- profiles: {name} -->\n");
        let (before, rest) = document.split_once(&begin).unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        let wanted = format!("{before}{begin}{}<!-- end -->{after}", drawn(second));
        if std::env::var("TCPUNCH_PROFILES").is_ok_and(|wish| wish == "write") {
            document = wanted;
        } else {
            assert!(
                document == wanted,
                "docs/nat.md is not what is learnt; TCPUNCH_PROFILES=write writes it"
            );
        }
    }
    if std::env::var("TCPUNCH_PROFILES").is_ok_and(|wish| wish == "write") {
        std::fs::write(path, document).unwrap();
    }
}
