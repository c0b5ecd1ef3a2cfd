//! What STUN servers over TCP are asked and answer through a NAT: the broker, and coturn of Debian.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Gateway, Host, KernelNat};
use serde_json::Value;
use tcpunch_core::limits::{BROKER_PORT, PROBE_PORT};
use tcpunch_core::stun;

use crate::doctor::printed;
use crate::process::PATIENCE;
use crate::scene::Scene;
use crate::{trial, trial_with};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("stun::the_broker_tells_the_routers_address", the_broker),
        trial_with("turnserver", "stun::so_does_coturn_and_the_two_tell_the_mapping", and_coturn),
    ]
}

/// The router of a home, and a computer there.
fn home(scene: &Scene, nat: KernelNat) -> (Gateway, Host) {
    let router = scene.lab.gateway("router", nat).delay(Duration::from_millis(2)).start().unwrap();
    let host = router.host("home").unwrap();
    (router, host)
}

/// What `doctor` tells of these servers: each as it was named, and the router's address with which port.
fn asked(scene: &Scene, router: &Gateway, home: &Host, servers: &[SocketAddrV4]) -> (Vec<[u16; 2]>, Value) {
    let named: Vec<String> = servers
        .iter()
        .map(|at| if at.port() == stun::PORT { at.ip().to_string() } else { at.to_string() })
        .collect();
    let arguments: Vec<&str> = named.iter().flat_map(|server| ["--stun", server]).collect();
    let mut doctor = scene.start(home, "doctor", &arguments);
    let told = doctor.event("doctor").value;
    doctor.ends_well();
    let seen = told["stun"].as_array().unwrap();
    scene.journal.assert(seen.len() == servers.len(), "not all servers are told of");
    let address = |of: &Value, field: &str| of[field].as_str().unwrap().parse::<SocketAddrV4>().unwrap();
    let ports = seen.iter().zip(servers).map(|(seen, server)| {
        let [local, observed] = ["local", "observed"].map(|field| address(seen, field));
        scene.journal.assert(address(seen, "server") == *server, "another server is told of");
        scene.journal.assert(*local.ip() == home.ipv4(), "it did not ask from its own address");
        scene.journal.assert(*observed.ip() == router.ipv4(), "the mapped address is not the router's");
        [local.port(), observed.port()]
    });
    let ports = ports.collect();
    let (out, _, code) = printed(scene, home, &[&["--ephemeral"], &arguments[..]].concat());
    scene.journal.assert(code == Some(0), "it did not end well");
    for server in servers {
        let sees = format!("  STUN server     {server} sees this computer, {}:", home.ipv4());
        let line = out.lines().find(|line| line.starts_with(&sees));
        let line = line.unwrap_or_else(|| scene.journal.fail(&format!("{server} is not printed")));
        let at = format!(", at {}:", router.ipv4());
        scene.journal.assert(line.contains(&at), &format!("the router's address is not in: {line}"));
    }
    (ports, told["profile"]["mapping"].clone())
}

/// Both ports of the broker; what another address would see they can't tell.
fn the_broker() {
    let scene = Scene::new();
    let (broker, _running) = scene.broker();
    let (router, home) = home(&scene, KernelNat::masquerade());
    let servers = [BROKER_PORT, PROBE_PORT].map(|port| SocketAddrV4::new(broker.ipv4(), port));
    let (ports, mapping) = asked(&scene, &router, &home, &servers);
    let kept = ports.iter().all(|[local, observed]| local == observed);
    scene.journal.assert(kept, "a masquerade keeps the port");
    scene.journal.assert(mapping == "port-independent", &format!("its mapping is {mapping}"));
}

/// coturn on a host, ended when dropped.
struct Coturn {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Coturn {
    fn start(host: &Host) -> Coturn {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let at: Ipv4Addr = host.ipv4();
        let child = host
            .command("turnserver")
            .args(["-n", "--stun-only", "--no-udp", "--no-tls", "--no-dtls", "--no-cli"])
            .args(["--log-file", "stdout", "--simple-log"])
            .args(["--listening-ip", &at.to_string(), "--listening-port", &stun::PORT.to_string()])
            .args(["--pidfile", &path("pid"), "--userdb", &path("db")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let coturn = Coturn { child, _directory: directory };
        let until = Instant::now() + PATIENCE;
        while host.run(|| TcpStream::connect((at, stun::PORT))).unwrap().is_err() {
            assert!(Instant::now() < until, "coturn does not listen at {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
        coturn
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two servers at two addresses tell whether a NAT maps by destination.
fn and_coturn() {
    for (nat, same, expected) in [
        (KernelNat::masquerade(), true, "endpoint-independent"),
        (KernelNat::symmetric(), false, "endpoint-dependent"),
    ] {
        let scene = Scene::new();
        let (broker, _running) = scene.broker();
        let host = scene.lab.public_host("coturn").without_ipv6().start().unwrap();
        let _coturn = Coturn::start(&host);
        let (router, home) = home(&scene, nat);
        let servers = [(&broker, BROKER_PORT), (&host, stun::PORT)]
            .map(|(at, port)| SocketAddrV4::new(at.ipv4(), port));
        let (ports, mapping) = asked(&scene, &router, &home, &servers);
        scene.journal.assert((ports[0][1] == ports[1][1]) == same, &format!("the ports are {ports:?}"));
        scene.journal.assert(mapping == expected, &format!("its mapping is {mapping}, not {expected}"));
    }
}
