//! Two hosts behind a dropping NAT each, and a public broker.

use natlab::kernel::{Gateway, Host, KernelNat, Lab};

use crate::running::{PROGRAM, Running};

pub(crate) struct Scene {
    pub(crate) broker: Running,
    pub(crate) one: Host,
    pub(crate) other: Host,
    pub(crate) one_gateway: Gateway,
    broker_host: Host,
    _lab: Lab,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().unwrap();
        let broker_host = lab.public_host("broker").start().unwrap();
        let gateways =
            ["one-nat", "other-nat"].map(|name| lab.gateway(name, KernelNat::masquerade()).start().unwrap());
        let one = gateways[0].host("one").unwrap();
        let other = gateways[1].host("other").unwrap();
        let mut broker =
            Running::start(&broker_host, PROGRAM, &["broker", "--json", "--ephemeral"], "/dev/null", None);
        broker.event("broker");
        let [one_gateway, _] = gateways;
        Scene { broker, one, other, one_gateway, broker_host, _lab: lab }
    }

    /// As `--broker` takes it.
    pub(crate) fn broker_address(&self) -> String {
        self.broker_host.ipv4().to_string()
    }

    /// `listen` with this input and output, and its code.
    pub(crate) fn listen(&self, input: &str) -> (Running, String) {
        let arguments = ["listen", "--json", "--ephemeral", "--broker", &self.broker_address()];
        let mut listen = Running::start(&self.one, PROGRAM, &arguments, input, Some("/dev/null"));
        let code = listen.event("code")["code"].as_str().unwrap().to_owned();
        (listen, code)
    }
}
