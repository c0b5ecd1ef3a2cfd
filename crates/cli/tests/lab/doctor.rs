//! What `doctor` says of each kind of network, with a broker at one address and at two, and with none.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Host, Node};
use natlab::link::Conditions;
use natlab::nat::{Behaviour, presets};
use natlab::{HostId, Internet, Place, Site, Unreachable, netns};
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::process::{Journal, PATIENCE, Process};
use crate::scene::Scene;
use crate::trial;

const KINDS: [Kind; 11] = [
    Kind::Public,
    Kind::FirewallDrop,
    Kind::FirewallReset,
    Kind::FirewallIcmp,
    Kind::PreservingDrop,
    Kind::PreservingReset,
    Kind::PreservingIcmp,
    Kind::FullCone,
    Kind::Independent,
    Kind::Nested,
    Kind::Symmetric,
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in KINDS {
        for (two, addresses) in [(false, "one-address"), (true, "two-addresses")] {
            let name = format!("doctor::is_right::{}::{addresses}", kind.name());
            trials.push(trial(name, move || is_right(kind, two)));
        }
    }
    for (two, addresses) in [(false, "one-address"), (true, "two-addresses")] {
        let name = format!("doctor::says_what_the_tables_say::{addresses}");
        trials.push(trial(name, move || says_what_the_tables_say(two)));
    }
    trials.extend([
        trial("doctor::remembers_a_network_and_no_other", remembers),
        trial("doctor::keeps_nothing_when_told_so", keeps_nothing),
        trial("doctor::two_try_it_and_see_how", two_try_it),
        trial("doctor::two_try_it_and_see_why_not", two_see_why_not),
        trial("doctor::failures_alone_are_experience", failures_alone),
        trial("doctor::what_is_seen_over_ipv6_alone_is_no_profile", over_ipv6_alone),
    ]);
    trials
}

/// A broker, at a second address too if there are two; and how it is named.
fn broker(scene: &Scene, two: bool) -> (Host, Process) {
    let host = scene.lab.public_host("broker").without_ipv6().start().unwrap();
    let process = if two {
        let second = host.add_ipv4().unwrap().to_string();
        scene.broker_on(&host, &["--ephemeral", "--probe", &second])
    } else {
        scene.broker_on(&host, &["--ephemeral"])
    };
    (host, process)
}

/// What it prints for people, and its exit code.
pub(crate) fn printed(scene: &Scene, node: &Node, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = node.command(env!("CARGO_BIN_EXE_tcpunch"));
    command.arg("doctor").args(arguments).env_remove("TCPUNCH_CODE").env_remove("TCPUNCH_BROKER");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    scene.journal.note(&format!("{} doctor {}", node.name(), arguments.join(" ")), &format!("\n{out}{err}"));
    (out, err, output.status.code())
}

/// What is known of the kind, as the event has it, and words that the user reads.
fn expected(kind: Kind, two: bool) -> (Value, Vec<&'static str>) {
    let one_or_two = |two_know: &'static str| if two { two_know } else { "port-independent" };
    let open = one_or_two("endpoint-independent");
    let strict = "address-and-port-dependent";
    let (translated, mapping, filtering, refusal, mut words) = match kind {
        Kind::Public => (false, "endpoint-independent", open, None, vec!["no NAT"]),
        Kind::FirewallDrop => (false, "endpoint-independent", strict, Some("drop"), vec!["no NAT"]),
        Kind::FirewallReset => (false, "endpoint-independent", strict, Some("reset"), vec!["with a reset"]),
        Kind::FirewallIcmp => (false, "endpoint-independent", strict, Some("icmp"), vec!["with an error"]),
        Kind::PreservingDrop => (true, open, strict, Some("drop"), vec!["port preservation"]),
        Kind::PreservingReset => (true, open, strict, Some("reset"), vec!["with a reset", "OpenWrt"]),
        Kind::PreservingIcmp | Kind::PreservingIcmpPort => {
            (true, open, strict, Some("icmp"), vec!["with an error"])
        }
        Kind::FullCone => (true, open, open, None, vec!["port preservation"]),
        Kind::Independent | Kind::Nested => (true, open, strict, Some("drop"), vec!["gives no answer"]),
        Kind::Symmetric => {
            (true, strict, strict, Some("drop"), vec!["a symmetric NAT", "random", "except", "UPnP", "IPv6"])
        }
    };
    if filtering == "endpoint-independent" {
        words.extend(["everyone comes in", "you can be reached by everyone"]);
    } else if filtering == "port-independent" {
        words.push("takes a broker with a second address to tell");
    } else {
        words.push("only who was called comes in (address-and-port-dependent filtering)");
    }
    if translated {
        words.push("a NAT translates the address of this computer");
    }
    if mapping == "endpoint-independent" && translated {
        words.push("one outside port for all destinations (endpoint-independent mapping)");
    }
    (json!([translated, mapping, filtering, refusal]), words)
}

fn is_right(kind: Kind, two: bool) {
    let scene = Scene::new();
    let (broker_host, _broker) = broker(&scene, two);
    let address = broker_host.ipv4().to_string();
    let home = kind.site(&scene.lab, "home", Duration::from_millis(3));
    let (expected, words) = expected(kind, two);
    let mut doctor = scene.start(&home, "doctor", &["--broker", &address]);
    let told = doctor.event("doctor").value;
    doctor.ends_well();
    let profile = &told["profile"];
    let found = json!([profile["translated"], profile["mapping"], profile["filtering"], profile["refusal"]]);
    scene.journal.assert(found == expected, &format!("{found} instead of {expected}"));
    scene.journal.assert(told["origin"] == "measured", "it was not measured");
    let (out, err, code) = printed(&scene, &home, &["--ephemeral", "--broker", &address]);
    scene.journal.assert(code == Some(0), "it did not end well");
    for word in words {
        scene.journal.assert(out.contains(word), &format!("it does not say '{word}'"));
    }
    scene.journal.assert(
        out.contains("IPv6            no address that others can reach"),
        "it does not say that there is no IPv6",
    );
    let waits = err.lines().all(|line| line.starts_with("waiting for the network"));
    scene.journal.assert(waits, "it says something on stderr");
}

/// The user-space NATs by their names in the tables of `docs/nat.md`; what is in front of the core last.
fn networks() -> Vec<(&'static str, Vec<Behaviour>)> {
    vec![
        ("linux-masquerade", vec![presets::linux_masquerade()]),
        ("openwrt", vec![presets::openwrt()]),
        ("icmp", vec![presets::icmp_rejecting(Unreachable::Host)]),
        ("full-cone", vec![presets::full_cone()]),
        ("rfc-compliant", vec![presets::rfc_compliant()]),
        ("carrier", vec![presets::carrier_eim()]),
        ("home-behind-carrier", vec![presets::linux_masquerade(), presets::carrier_eim()]),
        ("openwrt-behind-carrier", vec![presets::openwrt(), presets::carrier_eim()]),
        ("port-overloading", vec![presets::home_overloading()]),
        ("no-simultaneous-open", vec![presets::no_simultaneous_open()]),
        ("symmetric-stepping", vec![presets::symmetric_stepping(1)]),
        ("symmetric-block-1024", vec![presets::carrier_block(1024)]),
        ("symmetric-random", vec![presets::symmetric_random()]),
        ("symmetric-random", vec![presets::linux_random()]),
        ("firewall", vec![presets::firewall()]),
        ("public", vec![presets::router()]),
        ("openwrt-behind-block-512", vec![presets::openwrt(), presets::carrier_block(512)]),
        ("random-behind-masquerade", vec![presets::linux_random(), presets::linux_masquerade()]),
    ]
}

/// All of them in one internet: the program says on real kernels what the tables say of simulated peers.
fn says_what_the_tables_say(two: bool) {
    let journal = Journal::new();
    let mut internet = Internet::new(7);
    let broker = internet.host(Place::Core, Conditions::delay(Duration::from_millis(2)));
    let second = internet.further_address(broker);
    let homes: Vec<(&str, HostId)> = networks()
        .into_iter()
        .map(|(name, nats)| {
            let mut place = Place::Core;
            for nat in nats.into_iter().rev() {
                let gateway =
                    internet.gateway(place, Site::ipv4(nat), Conditions::delay(Duration::from_millis(2)));
                place = Place::Behind(gateway);
            }
            (name, internet.host(place, Conditions::PERFECT))
        })
        .collect();
    let lab = netns::Lab::start(internet).unwrap();
    let start = |host: HostId, name: &str, verb: &str, arguments: &[&str]| {
        let mut command = lab.host(host).command(env!("CARGO_BIN_EXE_tcpunch"));
        command.args([verb, "--json", "--ephemeral"]).args(arguments);
        Process::run(&journal, name, verb, command)
    };
    let second = second.to_string();
    let arguments: &[&str] = if two { &["--probe", &second] } else { &[] };
    let mut broker_process = start(broker, "broker", "broker", arguments);
    broker_process.event("broker");
    let at = lab.host(broker).address(true).unwrap().to_string();
    let document = crate::documents::read("docs/nat.md");
    let title = if two { "<!-- profiles: two addresses -->" } else { "<!-- profiles: one address -->" };
    let (_, table) = document.split_once(title).unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let mut wrong = String::new();
    // A few at a time: together they would be a flood from one broker's view.
    for some in homes.chunks(5) {
        let doctors: Vec<(&str, Process)> = some
            .iter()
            .map(|(name, host)| (*name, start(*host, name, "doctor", &["--broker", &at])))
            .collect();
        for (name, mut doctor) in doctors {
            let row = told(&mut doctor, name);
            if !table.contains(&row) {
                wrong += &format!("{row}\n");
            }
        }
    }
    journal.assert(wrong.is_empty(), &format!("docs/nat.md has other rows than:\n{wrong}"));
}

/// The row of what it tells.
fn told(doctor: &mut Process, name: &str) -> String {
    let profile = doctor.event("doctor").value["profile"].clone();
    doctor.ends_well();
    format!("| {name} | {} |", cells(&profile).join(" | "))
}

/// Mapping, ports, filtering and refusal as the tables have them.
fn cells(profile: &Value) -> [String; 4] {
    let behaviour = |value: &Value, of: char| match value.as_str() {
        Some("endpoint-independent") => format!("EI{of}"),
        Some("port-independent") => format!("EI{of} or AD{of}"),
        Some("address-dependent") => format!("AD{of}"),
        Some("address-and-port-dependent") => format!("APD{of}"),
        other => format!("{other:?}"),
    };
    let mapping = match profile["translated"].as_bool() {
        Some(false) => "no translation".to_owned(),
        Some(true) => behaviour(&profile["mapping"], 'M'),
        None => "not known".to_owned(),
    };
    let ports = &profile["allocation"];
    let ports = match (ports.as_str(), &ports["step"], &ports["first"], &ports["last"]) {
        (Some("preserving"), ..) => "kept".to_owned(),
        (Some(word), ..) => word.to_owned(),
        (None, Value::Number(step), ..) => format!("steps of {step}"),
        (None, _, first, last) => {
            format!(
                "a block of {:?}",
                last.as_u64().zip(first.as_u64()).map_or(0, |(last, first)| last - first + 1)
            )
        }
    };
    let refusal = match profile["refusal"].as_str() {
        Some("drop") => "nothing",
        Some("icmp") => "ICMP",
        Some(other) => other,
        None if profile["filtering"] == "endpoint-independent" => "lets it in",
        None => "not known",
    };
    [mapping, ports, behaviour(&profile["filtering"], 'F'), refusal.to_owned()]
}

fn in_state<'a>(state: &'a Path, broker: &'a str) -> [&'a str; 4] {
    ["--state", state.to_str().unwrap(), "--broker", broker]
}

/// What was measured is known without a broker next time; in another network it is not.
fn remembers() {
    let scene = Scene::new();
    let state = tempfile::tempdir().unwrap();
    let (broker_host, mut broker) = broker(&scene, false);
    let address = broker_host.ipv4().to_string();
    let [home, away] = [(Kind::PreservingReset, "home"), (Kind::PreservingDrop, "away")]
        .map(|(kind, name)| kind.site(&scene.lab, name, Duration::ZERO));
    let flags = in_state(state.path(), &address);
    let (out, _, code) = printed(&scene, &home, &flags);
    scene.journal.assert(code == Some(0) && !out.contains("remembered"), "it was not measured");
    broker.kill();
    let (out, err, code) = printed(&scene, &home, &flags);
    scene.journal.assert(code == Some(3), "without a broker the exit code is not 3");
    scene.journal.assert(err.contains("no broker answers"), "it does not say that there is no broker");
    let remembered =
        out.contains("its network, remembered from a moment ago") && out.contains("with a reset");
    scene.journal.assert(remembered, "it does not remember");
    let (out, _, _) = printed(&scene, &away, &flags);
    scene.journal.assert(
        out.contains("it takes a broker, or STUN servers, elsewhere"),
        "it takes another network for home",
    );
    // A memory that was damaged is told, and no reason to end.
    std::fs::write(state.path().join("networks"), "nonsense").unwrap();
    let (_, err, code) = printed(&scene, &home, &flags);
    scene.journal.assert(err.contains("networks is damaged") && code == Some(3), "the damage is not told");
}

fn keeps_nothing() {
    let scene = Scene::new();
    let state = tempfile::tempdir().unwrap();
    let (broker_host, _broker) = broker(&scene, false);
    let address = broker_host.ipv4().to_string();
    let home = Kind::PreservingDrop.site(&scene.lab, "home", Duration::ZERO);
    let mut flags = in_state(state.path(), &address).to_vec();
    flags.push("--ephemeral");
    printed(&scene, &home, &flags);
    let left = std::fs::read_dir(state.path()).unwrap().count();
    scene.journal.assert(left == 0, "it left something on the disk");
    flags.pop();
    printed(&scene, &home, &flags);
    scene.journal.assert(state.path().join("networks").exists(), "without the flag nothing is remembered");
}

fn two_try_it() {
    let scene = Scene::new();
    let (broker_host, _broker) = broker(&scene, false);
    let [one, other] =
        ["one", "other"].map(|name| Kind::PreservingDrop.site(&scene.lab, name, Duration::from_millis(3)));
    let mut waits = scene.start(&one, "doctor", &["--new", "--broker", &broker_host.ipv4().to_string()]);
    let code = waits.event("code").text("code").to_owned();
    let (out, err, ended) = printed(&scene, &other, &["--ephemeral", &code]);
    scene.journal.assert(ended == Some(0), "they did not connect");
    scene.journal.assert(err.contains("path  punched"), "the path is not told");
    let verdict = out.lines().find(|line| line.starts_with("  direct path"));
    let verdict = verdict.unwrap_or_else(|| scene.journal.fail("no verdict"));
    let says = ["punched, ", "try, ", "SYN", " ms; round trip "].iter().all(|part| verdict.contains(part));
    scene.journal.assert(says, &format!("the verdict is: {verdict}"));
    waits.event("path");
    waits.ends_well();
}

fn two_see_why_not() {
    let scene = Scene::new();
    let (broker_host, _broker) = broker(&scene, false);
    let [one, other] = ["one", "other"].map(|name| Kind::Symmetric.site(&scene.lab, name, Duration::ZERO));
    let mut waits = scene.start(&one, "ping", &["--broker", &broker_host.ipv4().to_string()]);
    let code = waits.event("code").text("code").to_owned();
    let (out, err, ended) = printed(&scene, &other, &["--ephemeral", &code]);
    scene.journal.assert(ended == Some(6), "an exit code other than 6");
    scene.journal.assert(out.contains("a symmetric NAT"), "the own network is not reported");
    for part in ["both networks are symmetric NATs", "this side", "other side", "remedy"] {
        scene.journal.assert(err.contains(part), &format!("it does not say '{part}'"));
    }
    let met = waits.event("introduced");
    let error = waits.error().value;
    scene.journal.assert(waits.ends_within(PATIENCE) == 6, "the other side ended otherwise");
    scene.journal.assert(error["peer"] == met.value["peer"], "the error names another peer, or none");
    let report = &error["report"];
    for side in ["own", "peer"] {
        let mapping = &report[side]["mapping"];
        scene.journal.assert(mapping == "address-and-port-dependent", &format!("{side}: {mapping}"));
    }
    let tried = report["tried"].as_array().map_or(&[][..], Vec::as_slice);
    let syns: u64 = tried.iter().filter_map(|tried| tried["syns"].as_u64()).sum();
    let addresses = tried.iter().all(|tried| tried["address"].is_string());
    scene.journal.assert(syns > 0 && addresses, &format!("it says it tried {tried:?}"));
    scene.journal.assert(report["remedy"] == error["hint"], "remedy and hint differ");
}

/// A NAT is measured over IPv4; that nothing is known has another reason than a broker on this side of it.
fn over_ipv6_alone() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let host = scene.lab.public_host("one").start().unwrap();
    let broker = format!("[{}]", broker_host.ipv6().unwrap());
    let (out, _, code) = printed(&scene, &host, &["--ephemeral", "--broker", &broker]);
    scene.journal.assert(code == Some(0), "it fails");
    scene.journal.assert(out.contains("was reached over IPv6 alone"), "it gives another reason");
}

/// Where nothing ever worked.
fn failures_alone() {
    let scene = Scene::new();
    let (broker_host, _broker) = broker(&scene, false);
    let [one, other] = ["one", "other"].map(|name| Kind::Symmetric.site(&scene.lab, name, Duration::ZERO));
    let address = broker_host.ipv4().to_string();
    let state = tempfile::tempdir().unwrap();
    let flags = in_state(state.path(), &address);
    let (out, _, _) = printed(&scene, &other, &flags);
    scene.journal.assert(!out.contains("experience"), "there was nothing to experience");
    let _waits = scene.start(&one, "chat", &["--broker", &address]);
    let mut comes = Process::start(&scene.journal, &other, "other chat", "chat", flags);
    scene.journal.assert(comes.event("error").text("kind") == "no-direct-path", "another error");
    // It is written soon after.
    let kept = || std::fs::read_to_string(state.path().join("networks")).unwrap().ends_with(" - 0 1\n");
    let until = Instant::now() + PATIENCE;
    while !kept() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(comes);
    let (out, _, _) = printed(&scene, &other, &flags);
    let told = out.contains("experience      0 connections stood; 1 found no path");
    scene.journal.assert(told, "the failure is not told");
}
