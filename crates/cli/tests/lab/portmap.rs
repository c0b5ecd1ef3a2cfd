//! Ports that routers forward, with miniupnpd of Debian as the router: UPnP IGD, PCP and NAT-PMP.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use natlab::kernel::{Gateway, Host, KernelNat, Node};

use crate::process::{PATIENCE, Process};
use crate::scene::{Pipe, Scene, no_path};
use crate::trial_with;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for speaks in [Speaks::Everything, Speaks::NatPmp, Speaks::Upnp] {
        let name = format!("portmap::both_symmetric::{speaks:?}").to_lowercase();
        trials.push(with_router(name, move || both_symmetric(speaks, [true, false])));
    }
    trials.push(with_router("portmap::both_symmetric::the_arrivers_router", || {
        both_symmetric(Speaks::Everything, [false, true]);
    }));
    trials.push(with_router("portmap::a_mapping_is_renewed_and_given_back", renewed));
    trials.push(with_router("portmap::a_router_that_comes_back_later_forwards_again", restarted));
    trials.push(with_router("portmap::a_mapping_is_given_back_on_ctrl_c", interrupted));
    trials.push(with_router("portmap::a_killed_process_leaves_nothing_after_its_lease", killed));
    trials.push(with_router("portmap::off_asks_nobody", off));
    trials.push(with_router("portmap::behind_a_carriers_nat_it_is_not_told", double_nat));
    trials
}

fn with_router(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    trial_with("miniupnpd", name, test)
}

/// Which protocols a router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Everything,
    /// And PCP, which miniupnpd has with it.
    NatPmp,
    Upnp,
}

/// miniupnpd on a gateway, ended when dropped.
struct Router {
    child: Child,
    gateway: Gateway,
    _directory: tempfile::TempDir,
}

/// What it puts its rules into, and a way through the gateway's own filter for what they forward.
const TABLES: &str = "
table inet upnp {
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
    chain forward { type filter hook forward priority -5; policy accept; jump miniupnpd; }
    chain prerouting { type nat hook prerouting priority dstnat - 5; policy accept; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority srcnat - 5; policy accept; jump postrouting_miniupnpd; }
}
insert rule ip box forward ct status dnat accept
";

impl Router {
    fn start(gateway: &Gateway, speaks: Speaks) -> Router {
        nft(gateway, TABLES);
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_owned();
        let path = |name: &str| base.join(name);
        let yes = |it: bool| if it { "yes" } else { "no" };
        let config = format!(
            "ext_ifname=wan\nlistening_ip=lan\nport=5000\n\
             enable_natpmp={}\nenable_upnp={}\n\
             upnp_table_name=upnp\nupnp_nat_table_name=upnp\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             min_lifetime=1\nmax_lifetime=86400\nsecure_mode=yes\nsystem_uptime=yes\nclean_ruleset_interval=0\n\
             lease_file={}\nuuid=5e55e110-0000-4000-8000-0000000000{:02x}\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes(speaks != Speaks::Upnp),
            yes(speaks != Speaks::NatPmp),
            path("leases").display(),
            7,
        );
        std::fs::write(path("config"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = gateway
            .command("miniupnpd")
            .args(["-d", "-f", &path("config").display().to_string()])
            .args(["-P", &path("pid").display().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let router = Router { child, gateway: gateway.clone(), _directory: directory };
        let until = Instant::now() + PATIENCE;
        let ready = || {
            let log = std::fs::read_to_string(path("log")).unwrap_or_default();
            log.contains("HTTP listening") || log.contains("Listening for NAT-PMP")
        };
        while !ready() {
            let log = std::fs::read_to_string(path("log")).unwrap_or_default();
            assert!(Instant::now() < until, "miniupnpd is not ready: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        router
    }

    /// Ports that it forwards now.
    fn forwarded(&self) -> usize {
        let rules = self
            .gateway
            .command("nft")
            .args(["list", "chain", "inet", "upnp", "prerouting_miniupnpd"])
            .output();
        String::from_utf8_lossy(&rules.unwrap().stdout).matches("dnat").count()
    }

    fn until(&self, what: &str, within: Duration, holds: impl Fn(usize) -> bool) {
        let until = Instant::now() + within;
        while !holds(self.forwarded()) {
            assert!(Instant::now() < until, "{what}: {} ports are forwarded", self.forwarded());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nft(node: &Node, script: &str) {
    let mut child = node.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), script.as_bytes()).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// A symmetric NAT with an outside address that miniupnpd takes for one: it refuses the ranges for documentation, which all
/// other addresses of the lab are from. A plain router stands before it.
fn home(scene: &Scene, name: &str, network: u8) -> (Gateway, Host) {
    let line = scene
        .lab
        .gateway(&format!("{name}-line"), KernelNat::firewall())
        .lan([11, 0, network, 0].into(), 24)
        .start()
        .unwrap();
    nft(&line, "insert rule ip box forward accept");
    let home = line.gateway(&format!("{name}-home"), KernelNat::symmetric()).start().unwrap();
    let host = home.host(name).unwrap();
    (home, host)
}

/// Nothing but a forwarded port leads from one to the other.
fn both_symmetric(speaks: Speaks, routers: [bool; 2]) {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    let (other_home, other) = home(&scene, "other", 2);
    let running: Vec<Router> = [one_home, other_home]
        .iter()
        .zip(routers)
        .filter(|(_, there)| *there)
        .map(|(home, _)| Router::start(home, speaks))
        .collect();
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    pipe.expect_path("mapped");
    pipe.talk_and_end();
    for router in &running {
        router.until("given back", PATIENCE, |forwarded| forwarded == 0);
    }
}

fn waits(scene: &Scene, broker: &Node, host: &Host, arguments: &[&str]) -> Process {
    let broker = broker.ipv4().to_string();
    let mut listen = scene.start(host, "listen", &[&["--broker", &broker], arguments].concat());
    listen.event("code");
    listen
}

fn renewed() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    let (_, other) = home(&scene, "other", 2);
    let router = Router::start(&one_home, Speaks::Everything);
    let broker = broker_host.ipv4().to_string();
    let flags = ["--broker", &broker, "--portmap", "on", "--portmap-lease", "4"];
    let mut listen = scene.start(&one, "listen", &flags);
    let code = listen.event("code").text("code").to_owned();
    router.until("made", PATIENCE, |forwarded| forwarded == 1);
    // Three leases: without its renewals it would be gone.
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(router.forwarded(), 1);
    let connect = scene.start(&other, "connect", &[&code]);
    let mut pipe = Pipe::meet(listen, connect);
    pipe.expect_path("mapped");
    pipe.talk_and_end();
    assert_eq!(router.forwarded(), 0, "given back before the end");
}

/// Away for longer than its lease, and nobody asks for the mapping a second time.
fn restarted() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    for speaks in [Speaks::NatPmp, Speaks::Upnp] {
        let router = Router::start(&one_home, speaks);
        let flags = ["--portmap", "on", "--portmap-lease", "4"];
        let mut listen = waits(&scene, &broker_host, &one, &flags);
        router.until("made", PATIENCE, |forwarded| forwarded == 1);
        drop(router);
        nft(&one_home, "delete table inet upnp");
        std::thread::sleep(Duration::from_secs(8));
        let router = Router::start(&one_home, speaks);
        assert_eq!(router.forwarded(), 0);
        router.until("made again", PATIENCE, |forwarded| forwarded == 1);
        listen.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(listen.ends_within(PATIENCE), 130);
        assert_eq!(router.forwarded(), 0, "given back before the end ({speaks:?})");
        nft(&one_home, "delete table inet upnp");
    }
}

fn interrupted() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    for speaks in [Speaks::NatPmp, Speaks::Upnp] {
        let router = Router::start(&one_home, speaks);
        let mut listen = waits(&scene, &broker_host, &one, &["--portmap", "on"]);
        router.until("made", PATIENCE, |forwarded| forwarded == 1);
        listen.signal(nix::sys::signal::Signal::SIGINT);
        let code = listen.ends_within(PATIENCE);
        assert_eq!(code, 130);
        assert_eq!(router.forwarded(), 0, "given back before the end ({speaks:?})");
        nft(&one_home, "delete table inet upnp");
    }
}

fn killed() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    let router = Router::start(&one_home, Speaks::Everything);
    let lease = crate::number_from_environment("TCPUNCH_LAB_LEASE").unwrap_or(5);
    let lease_text = lease.to_string();
    let mut listen = waits(&scene, &broker_host, &one, &["--portmap", "on", "--portmap-lease", &lease_text]);
    router.until("made", PATIENCE, |forwarded| forwarded == 1);
    listen.kill();
    router.until("forgotten", Duration::from_secs(lease) + PATIENCE, |forwarded| forwarded == 0);
}

fn off() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let (one_home, one) = home(&scene, "one", 1);
    let router = Router::start(&one_home, Speaks::Everything);
    let _listen = waits(&scene, &broker_host, &one, &["--portmap", "off"]);
    // The NAT is symmetric: by itself it would have asked by now.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(router.forwarded(), 0);
}

/// The router forwards a port of its own, and a carrier's NAT is further out.
fn double_nat() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let carrier =
        scene.lab.gateway("carrier", KernelNat::symmetric()).lan([11, 0, 1, 0].into(), 24).start().unwrap();
    let one_home = carrier.gateway("one-home", KernelNat::masquerade()).start().unwrap();
    let one = one_home.host("one").unwrap();
    let (_, other) = home(&scene, "other", 2);
    let router = Router::start(&one_home, Speaks::Everything);
    let [_, error] = no_path(&scene, &broker_host, &one, &other);
    let told = error.text("message");
    assert!(!told.contains("a port that its router forwards"), "it was told of one: {told}");
    router.until("given back", PATIENCE, |forwarded| forwarded == 0);
}
