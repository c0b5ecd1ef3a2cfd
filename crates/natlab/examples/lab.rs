//! Two networks and a public host between them, to try any program in by hand.
//!
//! As root: `cargo run --release -p natlab --example lab -- --help` tells how.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line: its output is for the terminal"
)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use natlab::link::Conditions;
use natlab::nat::{Behaviour, presets};
use natlab::netns::{Host, Lab};
use natlab::{HostId, Internet, Place, Site, Unreachable};
use nix::sys::signal::{SigSet, Signal};

type Error = Box<dyn std::error::Error>;

const HELP: &str = "\
Makes an internet of three hosts: a and b, each in a network of its own, and broker, which both can reach.

  lab --nat A,B [--delay A,B,BROKER] [--loss PERCENT] [--capture DIRECTORY] [-- COMMAND]
  lab --in HOST [-- COMMAND]
  lab --nat help

  --nat A,B       the NATs of a and b; A+C is A behind C
  --delay A,B,BROKER
                  one-way delay of each cable in milliseconds (20,20,5)
  --loss PERCENT  of the packets on each cable, in each direction
  --capture DIRECTORY
                  writes a.pcap, b.pcap and broker.pcap there
  --in HOST       in another terminal, while it is there: runs the command, or a shell, on a, b or broker
  -- COMMAND      is run on broker; when it ends the internet does. Without it, Ctrl-C ends it

Commands find the outside addresses of the networks in $A and $B, and that of broker in $BROKER.";

/// The running lab, for `--in`.
const RUNNING: &str = "/run/natlab-lab";
const NAMES: [&str; 3] = ["a", "b", "broker"];

type Preset = (&'static str, fn() -> Option<Behaviour>, &'static str);

const PRESETS: [Preset; 16] = [
    ("public", || None, "no NAT at all"),
    ("linux-masquerade", || Some(presets::linux_masquerade()), "keeps ports, drops the unsolicited"),
    ("openwrt", || Some(presets::openwrt()), "linux-masquerade that resets the unsolicited"),
    (
        "icmp-rejecting",
        || Some(presets::icmp_rejecting(Unreachable::Port)),
        "linux-masquerade that answers it by ICMP",
    ),
    ("linux-random", || Some(presets::linux_random()), "symmetric, as Linux does it"),
    ("full-cone", || Some(presets::full_cone()), "open to everybody, as Linux does it"),
    ("remapping", || Some(presets::remapping()), "another port, the same for all"),
    ("carrier-eim", || Some(presets::carrier_eim()), "a carrier's that obeys RFC 6888"),
    ("carrier-block", || Some(presets::carrier_block(1024)), "a carrier's, symmetric in 1,024 ports"),
    ("rfc-compliant", || Some(presets::rfc_compliant()), "as RFC 4787, 5382 and 7857 want it"),
    ("symmetric-random", || Some(presets::symmetric_random()), "another port for each destination"),
    ("symmetric-stepping", || Some(presets::symmetric_stepping(1)), "the next port for each destination"),
    ("firewall", || Some(presets::firewall()), "no NAT, and nothing unsolicited comes in"),
    ("router", || Some(presets::router()), "no NAT, and everything comes in"),
    ("no-simultaneous-open", || Some(presets::no_simultaneous_open()), "drops every SYN from outside"),
    ("home-overloading", || Some(presets::home_overloading()), "gives a port to whoever used it last"),
];

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<ExitCode, Error> {
    let mut arguments = arguments.into_iter();
    let (mut nat, mut inside, mut delay, mut loss, mut capture) = (None, None, None, None, None);
    let mut command = Vec::new();
    while let Some(argument) = arguments.next() {
        let name = argument.to_string_lossy().into_owned();
        let known = match name.as_str() {
            "--nat" => &mut nat,
            "--in" => &mut inside,
            "--delay" => &mut delay,
            "--loss" => &mut loss,
            "--capture" => &mut capture,
            "--" => {
                command = arguments.by_ref().collect();
                continue;
            }
            "--help" | "-h" | "help" => {
                println!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(format!("unknown: {name}\n\n{HELP}").into()),
        };
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        *known = Some(value.to_string_lossy().into_owned());
    }
    match (nat.as_deref(), inside) {
        (None, Some(host)) => Err(enter(&host, &command)),
        (Some("help"), None) => {
            for (name, _, what) in PRESETS {
                println!("{name:<20}  {what}");
            }
            Ok(ExitCode::SUCCESS)
        }
        (Some(nat), None) => {
            let networks = pair(nat).ok_or("--nat takes two of them: --nat openwrt,symmetric-random")?;
            let conditions = conditions(delay.as_deref(), loss.as_deref())?;
            play(networks, conditions, capture.as_deref().map(Path::new), &command)
        }
        _ => Err(HELP.into()),
    }
}

fn pair(text: &str) -> Option<[&str; 2]> {
    text.split_once(',').map(|(a, b)| [a.trim(), b.trim()])
}

fn conditions(delay: Option<&str>, loss: Option<&str>) -> Result<[Conditions; 3], Error> {
    let mut delays = [20.0, 20.0, 5.0];
    if let Some(text) = delay {
        let given: Vec<f64> = text
            .split(',')
            .map(|it| it.trim().parse().ok().filter(|it| (0.0..=60_000.0).contains(it)))
            .collect::<Option<_>>()
            .filter(|it: &Vec<f64>| it.len() <= delays.len())
            .ok_or("--delay takes up to three times in milliseconds: --delay 20,30,5")?;
        for (to, from) in delays.iter_mut().zip(given) {
            *to = from;
        }
    }
    let loss: f64 = loss.map_or(Ok(0.0), str::parse).map_err(|_| "--loss takes a number of percent")?;
    let conditions = |delay: f64| {
        Conditions::delay(Duration::from_secs_f64(delay / 1000.0)).losing(loss / 100.0).checked()
    };
    let [a, b, broker] = delays.map(conditions);
    Ok([a?, b?, broker?])
}

/// Plugs a network in; tells where its host is to be plugged in, and the outside address, if that is not the host's own.
fn network(
    internet: &mut Internet,
    kinds: &str,
    conditions: Conditions,
) -> Result<(Place, Option<String>), Error> {
    let (mut place, mut outside, mut cable) = (Place::Core, None, conditions);
    for kind in kinds.rsplit('+') {
        let preset = PRESETS.iter().find(|(name, ..)| *name == kind);
        let (_, preset, _) =
            preset.ok_or_else(|| format!("there is no NAT {kind:?}; `--nat help` lists them"))?;
        let Some(behaviour) = preset() else { continue };
        let translates = behaviour.translates;
        let gateway = internet.gateway(place, Site::ipv4(behaviour), cable);
        place = Place::Behind(gateway);
        // The delay is that of the way to the core.
        cable = Conditions::PERFECT;
        if translates && outside.is_none() {
            outside = internet.outside(gateway).first().map(ToString::to_string);
        }
    }
    Ok((place, outside))
}

fn play(
    kinds: [&str; 2],
    conditions: [Conditions; 3],
    capture: Option<&Path>,
    command: &[OsString],
) -> Result<ExitCode, Error> {
    // Before there is any thread that could be hit by one.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]);
    signals.thread_block()?;

    let seed = u64::from(std::process::id());
    let mut internet = Internet::new(seed);
    let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
    for (kinds, conditions) in kinds.into_iter().chain(["public"]).zip(conditions) {
        let (place, outside) = network(&mut internet, kinds, conditions)?;
        let cable = if place == Place::Core { conditions } else { Conditions::PERFECT };
        let host = internet.host(place, cable);
        let own = internet.address(host, true).map(|ip| ip.to_string());
        addresses.push(outside.or(own).ok_or("every host has IPv4")?);
        hosts.push(host);
    }
    let lab = Lab::start(internet)?;
    let hosts: Vec<(&str, &Host)> = NAMES.into_iter().zip(hosts.iter().map(|host| lab.host(*host))).collect();
    if let Some(directory) = capture {
        fs::create_dir_all(directory)?;
        for (number, name) in NAMES.into_iter().enumerate() {
            lab.capture(HostId(number), directory.join(format!("{name}.pcap")))?;
        }
    }

    let mut running = String::new();
    for ((name, host), address) in hosts.iter().zip(&addresses) {
        running += &format!("{name} {} {address}\n", host.namespace());
    }
    fs::write(RUNNING, &running)?;
    let kinds = kinds.into_iter().chain(["public"]);
    println!("host    address          seen as          network");
    for (((name, host), address), (kind, conditions)) in
        hosts.iter().zip(&addresses).zip(kinds.zip(&conditions))
    {
        let own = host.address(true).map(|ip| ip.to_string()).unwrap_or_default();
        println!("{name:<6}  {own:<15}  {address:<15}  {kind}, {:?} away", conditions.delay);
    }
    println!("in other terminals: cargo xtask lab --in a [-- COMMAND], or");
    for (name, host) in &hosts {
        println!("  ip netns exec {} bash    # {name}", host.namespace());
    }

    let outcome = wait(&signals, hosts.last().map(|(_, host)| *host), &addresses, command);
    // Another lab may have taken its place.
    if fs::read_to_string(RUNNING).is_ok_and(|text| text == running) {
        fs::remove_file(RUNNING)?;
    }
    outcome
}

/// Runs the command to its end, or waits to be told to end.
fn wait(
    signals: &SigSet,
    host: Option<&Host>,
    addresses: &[String],
    command: &[OsString],
) -> Result<ExitCode, Error> {
    let mut child = match (command, host) {
        ([program, arguments @ ..], Some(host)) => {
            let mut command = host.command(program);
            command.args(arguments).envs(variables(addresses));
            // What a process holds back, those that it starts do too.
            signals.thread_unblock()?;
            let child = command.spawn();
            signals.thread_block()?;
            Some(child.map_err(|error| format!("cannot run {}: {error}", program.display()))?)
        }
        _ => {
            println!("Ctrl-C ends it");
            None
        }
    };
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = child.as_mut().map(std::process::Child::try_wait).transpose()?.flatten()
                {
                    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                    return Ok(ExitCode::from(code));
                }
            }
            // The terminal told the command too, which ends when it likes.
            Signal::SIGINT if child.is_some() => {}
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn variables(addresses: &[String]) -> impl Iterator<Item = (&'static str, &String)> {
    ["A", "B", "BROKER"].into_iter().zip(addresses)
}

/// Becomes the command on a host of the running lab.
fn enter(host: &str, command: &[OsString]) -> Error {
    let text = fs::read_to_string(RUNNING).unwrap_or_default();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let namespace = lines.iter().find_map(|line| match line.as_slice() {
        [name, namespace, _] if *name == host => Some(*namespace),
        _ => None,
    });
    let namespace = match namespace {
        Some(namespace) if Path::new("/run/netns").join(namespace).exists() => namespace,
        _ if NAMES.contains(&host) => return "no lab is running: start one with --nat A,B".into(),
        _ => return format!("there is no host {host:?}: it is a, b or broker").into(),
    };
    let addresses: Vec<String> =
        lines.iter().filter_map(|line| line.last().map(ToString::to_string)).collect();
    let shell = [std::env::var_os("SHELL").unwrap_or_else(|| "sh".into())];
    let command = if command.is_empty() { &shell } else { command };
    let mut enter = Command::new("ip");
    enter.args(["netns", "exec", namespace]).args(command).envs(variables(&addresses));
    // It returns only when it failed.
    format!("cannot run ip: {}", enter.exec()).into()
}
