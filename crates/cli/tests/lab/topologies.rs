//! Where the two and the broker stand to each other.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use libtest_mimic::Trial;
use natlab::kernel::{Host, KernelNat, Node, Refusal};
use tcpunch_core::limits::BROKER_PORT;

use crate::process::Process;
use crate::scene::{Pipe, Scene};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("topologies::one_lan_without_hairpin", one_lan),
        trial("topologies::broker_beside_one_in_its_lan", broker_in_lan),
        trial("topologies::broker_behind_a_forwarded_port", || {
            forwarded(KernelNat::masquerade(), false, false)
        }),
        trial("topologies::broker_behind_a_forwarded_port::who_is_beside_it_arrives", || {
            forwarded(KernelNat::masquerade(), false, true);
        }),
        trial("topologies::broker_behind_a_forwarded_port::openwrt", || {
            forwarded(KernelNat::openwrt(), false, false);
        }),
        trial("topologies::broker_behind_a_forwarded_port::public_named", || {
            forwarded(KernelNat::masquerade(), true, false);
        }),
        trial("topologies::broker_behind_a_forwarded_port::public_named::who_is_beside_it_arrives", || {
            forwarded(KernelNat::openwrt(), true, true);
        }),
    ];
    for (name, refusal) in [("drop", Refusal::Drop), ("reset", Refusal::Reset)] {
        trials.push(trial(format!("topologies::ipv6_only::{name}"), move || ipv6_only(refusal)));
        trials.push(trial(format!("topologies::ipv6_beside_symmetric_nats::{name}"), move || {
            ipv6_beside_symmetric(refusal);
        }));
    }
    trials
}

/// Both behind one NAT that does not hairpin: only their own addresses serve.
fn one_lan() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let home = scene.lab.gateway("home", KernelNat::masquerade()).start().unwrap();
    let [one, other] = ["one", "other"].map(|name| home.host(name).unwrap());
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    pipe.expect_path("lan");
    pipe.talk_and_end();
}

/// Nothing is typed but the code: the broker on this computer, the other in its LAN.
fn broker_in_lan() {
    let scene = Scene::new();
    let home = scene.lab.gateway("home", KernelNat::masquerade()).start().unwrap();
    let [one, other] = ["one", "other"].map(|name| home.host(name).unwrap());
    let _broker = scene.broker_on(&one, &["--ephemeral"]);
    let mut listen = scene.start(&one, "listen", &[]);
    let code = listen.event("code").text("code").to_owned();
    let connect = scene.start(&other, "connect", &[&code]);
    let mut pipe = Pipe::meet(listen, connect);
    pipe.expect_path("lan");
    pipe.talk_and_end();
    // And with who is beside the broker as the one who arrives.
    let lan = format!("{}:{BROKER_PORT}", one.ipv4());
    let mut listen = scene.start(&other, "listen", &["--broker", &lan]);
    let code = listen.event("code").text("code").to_owned();
    let connect = scene.start(&one, "connect", &[&code]);
    let mut pipe = Pipe::meet(listen, connect);
    pipe.expect_path("lan");
    pipe.talk_and_end();
}

/// The words of a code, with another broker.
fn at(code: &str, broker: impl std::fmt::Display) -> String {
    let words = code.split('@').next().unwrap();
    format!("{words}@{broker}")
}

/// The broker on the computer of one of the two, behind that one's NAT, with only its own port forwarded.
fn forwarded(nat: KernelNat, public: bool, beside_arrives: bool) {
    let scene = Scene::new();
    let home = scene.lab.gateway("home", nat).start().unwrap();
    let beside = home.host("beside").unwrap();
    home.forward_port(BROKER_PORT, &beside).unwrap();
    let away_home = scene.lab.gateway("away-home", KernelNat::masquerade()).start().unwrap();
    let away = away_home.host("away").unwrap();
    let address = home.ipv4().to_string();
    let mut arguments = vec!["--ephemeral"];
    if public {
        arguments.extend(["--public", &address]);
    }
    let _broker = scene.broker_on(&beside, &arguments);
    let (listener, listener_broker): (&Host, _) =
        if beside_arrives { (&away, vec!["--broker", &address]) } else { (&beside, vec![]) };
    let mut listen = scene.start(listener, "listen", &listener_broker);
    let mut code = listen.event("code").text("code").to_owned();
    let connecter = if beside_arrives {
        // It may not be able to reach its own NAT's outside, and needs not.
        code = at(&code, "127.0.0.1");
        &beside
    } else {
        if public {
            scene.journal.assert(code.ends_with(&address), "the code does not name the public address");
        } else {
            code = at(&code, &address);
        }
        &away
    };
    let connect = scene.start(connecter, "connect", &[&code]);
    let mut pipe = Pipe::meet(listen, connect);
    pipe.expect_path("punched");
    pipe.talk_and_end();
}

fn site(scene: &Scene, name: &str, nat: KernelNat, refusal: Refusal) -> Host {
    let gateway = scene
        .lab
        .gateway(&format!("{name}-home"), nat)
        .ipv6(refusal)
        .delay(Duration::from_millis(5))
        .start()
        .unwrap();
    gateway.host(name).unwrap()
}

fn own_ipv6(node: &Node) -> Ipv6Addr {
    node.ipv6().expect("it has IPv6")
}

fn ran_over_ipv6(pipe: &Pipe, hosts: [&Host; 2]) {
    pipe.expect_path("direct");
    for (path, host) in pipe.paths.iter().zip(hosts) {
        let local: std::net::SocketAddr = path.text("local").parse().unwrap();
        assert_eq!(local.ip(), IpAddr::from(own_ipv6(host)));
    }
}

/// `-6`, with a broker that is named by its IPv6 address.
fn ipv6_only(refusal: Refusal) {
    let scene = Scene::new();
    let broker_host = scene.lab.public_host("broker").start().unwrap();
    let address = own_ipv6(&broker_host).to_string();
    let _broker = scene.broker_on(&broker_host, &["--ephemeral", "--public", &address]);
    let [one, other] = ["one", "other"].map(|name| site(&scene, name, KernelNat::masquerade(), refusal));
    let mut listen = scene.start(&one, "listen", &["-6", "--broker", &format!("[{address}]")]);
    let code = listen.event("code").text("code").to_owned();
    let connect = scene.start(&other, "connect", &["-6", &code]);
    let mut pipe = Pipe::meet(listen, connect);
    ran_over_ipv6(&pipe, [&one, &other]);
    pipe.talk_and_end();
}

/// Both families are there, but IPv4 can't work.
fn ipv6_beside_symmetric(refusal: Refusal) {
    let scene = Scene::new();
    let broker_host = scene.lab.public_host("broker").start().unwrap();
    let _broker = scene.broker_on(&broker_host, &["--ephemeral", "--public", "broker.example"]);
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let names = format!(
        "127.0.0.1 localhost\n{} broker.example\n{} broker.example\n",
        broker_host.ipv4(),
        own_ipv6(&broker_host)
    );
    std::fs::write(&hosts, names).unwrap();
    let [one, other] = ["one", "other"].map(|name| site(&scene, name, KernelNat::symmetric(), refusal));
    let start = |host: &Host, verb: &str, arguments: &[&str]| {
        let name = format!("{} {verb}", host.name());
        let arguments = ["--ephemeral", "-v"].iter().chain(arguments);
        Process::start_with_name(&scene.journal, host, &name, verb, &hosts, arguments)
    };
    let mut listen = start(&one, "listen", &["--broker", "broker.example"]);
    let code = listen.event("code").text("code").to_owned();
    let connect = start(&other, "connect", &[&code]);
    let mut pipe = Pipe::meet(listen, connect);
    ran_over_ipv6(&pipe, [&one, &other]);
    pipe.talk_and_end();
}
