//! What went over the cables, as a sequence diagram.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::hash::Map;
use crate::packet::{Body, ErrorKind, Flags, IcmpError, Packet, Segment, Unreachable};
use crate::{GatewayId, HostId, Internet, Node, Passage, Place};

/// A mermaid `sequenceDiagram`, a line for each packet on each cable: when it was sent, its ports, flags, numbers and
/// length. Numbers are relative to the SYN of their direction of a flow, as this cable saw it.
pub(super) fn draw(internet: &Internet, passages: &[Passage]) -> String {
    let mut text = String::from("sequenceDiagram\n");
    let mut columns = Vec::new();
    for node in order(internet) {
        if passages.iter().any(|passage| passage.from == node || passage.to == node) {
            let name = internet.name_of(node);
            let _ = writeln!(text, "    participant n{} as {}", columns.len(), clean(&name));
            columns.push(node);
        }
    }
    let column = |node| columns.iter().position(|other| *other == node).unwrap_or_default();
    let mut numbers = Numbers::default();
    for passage in passages {
        let arrow = if passage.arrives.is_some() { "->>" } else { "--x" };
        let (from, to) = (column(passage.from), column(passage.to));
        let at = passage.sent.as_secs_f64() * 1e3;
        let _ =
            writeln!(text, "    n{from}{arrow}n{to}: {at:.3} ms {}", clean(&numbers.tell(&passage.packet)));
    }
    text
}

/// What mermaid takes for the end of a line or statement is left out.
fn clean(text: &str) -> String {
    text.replace([';', '#', '\n', '\r'], " ")
}

/// Nodes from left to right: the first network with its hosts outermost, the core, the other networks with their hosts
/// outermost. Public hosts stand next to the core, the first of them on its left if no gateway does.
fn order(internet: &Internet) -> Vec<Node> {
    let hosts = (0..internet.hosts()).map(|number| Node::Host(HostId(number)));
    let gateways = (0..internet.gateways()).map(|number| Node::Gateway(GatewayId(number)));
    let nodes: Vec<Node> = gateways.chain(hosts).collect();
    let members = |place| nodes.iter().copied().filter(move |node| internet.place(*node) == Some(place));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (number, node) in members(Place::Core).enumerate() {
        let side = if number == 0 { &mut left } else { &mut right };
        let mut next = vec![node];
        while let Some(node) = next.pop() {
            side.push(node);
            if let Node::Gateway(id) = node {
                next.extend(members(Place::Behind(id)));
            }
        }
    }
    left.reverse();
    left.push(Node::Core);
    left.append(&mut right);
    left
}

/// Where sequence numbers begin.
#[derive(Default)]
struct Numbers {
    first: Map<(SocketAddr, SocketAddr), u32>,
}

impl Numbers {
    fn tell(&mut self, packet: &Packet) -> String {
        match &packet.body {
            Body::Tcp(segment) => self.tell_segment(packet.source, packet.destination, segment),
            Body::Udp(datagram) => format!(
                "UDP {} > {} length {}",
                SocketAddr::new(packet.source, datagram.source_port),
                SocketAddr::new(packet.destination, datagram.destination_port),
                datagram.payload.len()
            ),
            Body::Echo(echo) => {
                let kind = if echo.request { "ping" } else { "pong" };
                format!(
                    "{kind} {} > {} {} {}",
                    packet.source, packet.destination, echo.identifier, echo.sequence
                )
            }
            Body::Error(IcmpError { kind, quoted }) => {
                let kind = match kind {
                    ErrorKind::Unreachable(Unreachable::Net) => "net unreachable".to_owned(),
                    ErrorKind::Unreachable(Unreachable::Host) => "host unreachable".to_owned(),
                    ErrorKind::Unreachable(Unreachable::Port) => "port unreachable".to_owned(),
                    ErrorKind::Unreachable(Unreachable::Prohibited) => "prohibited".to_owned(),
                    ErrorKind::TimeExceeded => "time exceeded".to_owned(),
                    ErrorKind::TooBig { mtu } => format!("too big, MTU {mtu}"),
                };
                format!("ICMP {kind} about {} > {}", quoted.source, quoted.destination)
            }
            Body::Other { protocol, bytes } => {
                format!(
                    "protocol {protocol} {} > {} length {}",
                    packet.source,
                    packet.destination,
                    bytes.len()
                )
            }
        }
    }

    fn tell_segment(&mut self, source: IpAddr, destination: IpAddr, segment: &Segment) -> String {
        let from = SocketAddr::new(source, segment.source_port);
        let to = SocketAddr::new(destination, segment.destination_port);
        let flags: Vec<&str> = [
            (Flags::SYN, "SYN"),
            (Flags::FIN, "FIN"),
            (Flags::RST, "RST"),
            (Flags::PSH, "PSH"),
            (Flags::ACK, "ACK"),
        ]
        .into_iter()
        .filter_map(|(flag, name)| segment.flags.has(flag).then_some(name))
        .collect();
        if segment.flags.has(Flags::SYN) {
            self.first.insert((from, to), segment.sequence);
        }
        let relative = |ends, number: u32| match self.first.get(&ends) {
            Some(first) => number.wrapping_sub(*first),
            None => number,
        };
        let mut text =
            format!("{from} > {to} {} seq {}", flags.join(" "), relative((from, to), segment.sequence));
        if segment.flags.has(Flags::ACK) {
            let _ = write!(text, " ack {}", relative((to, from), segment.acknowledgement));
        }
        if !segment.payload.is_empty() {
            let _ = write!(text, " length {}", segment.payload.len());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::Conditions;
    use crate::nat::presets;
    use crate::sim::{Agent, ConnectOptions, Event, Os, Sim};
    use crate::{Site, Time};

    struct Dialler(SocketAddr);

    impl Agent for Dialler {
        fn handle(&mut self, os: &mut Os<'_>, event: Event) {
            match event {
                Event::Started => {
                    os.connect(self.0, ConnectOptions { port: 7, ..Default::default() }).unwrap();
                }
                Event::Connected(socket) => os.write(socket, b"hello"),
                Event::Woken
                | Event::Accepted { .. }
                | Event::Failed(..)
                | Event::Readable(_)
                | Event::Finished(_)
                | Event::Broken(..) => {}
            }
        }
    }

    #[test]
    fn a_diagram_shows_who_sent_what_when_and_what_was_lost() {
        let mut internet = Internet::new(1);
        internet.record();
        let cable = Conditions::delay(Duration::from_millis(5));
        let home = Site::ipv4(presets::linux_masquerade()).and_ipv6(presets::firewall());
        let gateway = internet.gateway(Place::Core, home, cable);
        let client = internet.host(Place::Behind(gateway), Conditions::PERFECT);
        let server = internet.host(Place::Core, cable);
        internet.name(Node::Host(client), "Anna; at home");
        let remote = SocketAddr::new(internet.address(server, true).unwrap(), 80);
        let mut sim = Sim::new(internet, 1);
        sim.place(client, Time::ZERO, Dialler(remote));
        sim.run(Duration::from_millis(12), |_| false);
        sim.internet_mut().set_cut(Node::Host(server), true);
        sim.run(Duration::from_millis(1500), |_| false);
        assert_eq!(
            sim.diagram(),
            "\
sequenceDiagram
    participant n0 as Anna  at home
    participant n1 as gateway0
    participant n2 as core
    participant n3 as host1
    n0->>n1: 0.000 ms 192.168.1.2:7 > 198.51.100.1:80 SYN seq 0
    n1->>n2: 0.000 ms 203.0.113.1:7 > 198.51.100.1:80 SYN seq 0
    n2->>n3: 5.000 ms 203.0.113.1:7 > 198.51.100.1:80 SYN seq 0
    n3->>n2: 10.000 ms 198.51.100.1:80 > 203.0.113.1:7 RST ACK seq 0 ack 1
    n2->>n1: 15.000 ms 198.51.100.1:80 > 203.0.113.1:7 RST ACK seq 0 ack 1
    n1->>n0: 20.000 ms 198.51.100.1:80 > 192.168.1.2:7 RST ACK seq 0 ack 1
"
        );
        assert_eq!(sim.diagram().lines().count(), 11, "what was drawn is drawn again");
        sim.kill(client);
        sim.place(client, sim.now(), Dialler(remote));
        sim.run(sim.now() + Duration::from_millis(6), |_| false);
        let diagram = sim.diagram();
        let last = diagram.lines().last().unwrap();
        assert!(last.starts_with("    n2--xn3: 25.000 ms 203.0.113.1:"), "{last}");
    }
}
