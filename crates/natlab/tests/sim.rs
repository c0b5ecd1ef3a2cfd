//! Hosts in virtual time: their TCP does what Linux' does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use natlab::link::Conditions;
use natlab::packet::{
    Body, Datagram, Echo, ErrorKind, Flags, IcmpError, Packet, Protocol, Quoted, Segment, Unreachable,
};
use natlab::sim::{Agent, ConnectOptions, Event, Os, Sim, SocketError, SocketId};
use natlab::{Attachment, HostId, Internet, Node, Place, Time};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

type Handler = Box<dyn FnMut(&mut Os<'_>, &Event)>;

/// A program that is a function, and keeps what it was told.
struct Program {
    told: Vec<(Time, Event)>,
    handler: Handler,
}

impl Agent for Program {
    fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        (self.handler)(os, &event);
        self.told.push((os.now(), event));
    }
}

fn program(handler: impl FnMut(&mut Os<'_>, &Event) + 'static) -> Program {
    Program { told: Vec::new(), handler: Box::new(handler) }
}

/// Does one thing when it starts.
fn once(start: impl Fn(&mut Os<'_>) + 'static) -> Program {
    program(move |os, event| {
        if *event == Event::Started {
            start(os);
        }
    })
}

/// Listens and sends back what it gets; closes when the other end has finished.
fn echo(port: u16) -> Program {
    program(move |os, event| match event {
        Event::Started => {
            os.listen(port).unwrap();
        }
        Event::Readable(socket) => {
            let bytes = os.read(*socket);
            os.write(*socket, &bytes);
        }
        Event::Finished(socket) => os.close(*socket),
        _ => {}
    })
}

/// Connects from a port.
fn dial(remote: SocketAddr, port: u16) -> Program {
    once(move |os| {
        os.connect(remote, from(port)).unwrap();
    })
}

fn from(port: u16) -> ConnectOptions {
    ConnectOptions { port, ..ConnectOptions::default() }
}

/// Two public hosts so far from each other (one way).
fn pair(one_way: Duration) -> (Internet, [HostId; 2]) {
    let mut internet = Internet::new(1);
    let hosts = [0, 1].map(|_| internet.host(Place::Core, Conditions::delay(one_way / 2)));
    (internet, hosts)
}

fn address(internet: &Internet, host: HostId, port: u16) -> SocketAddr {
    SocketAddr::new(internet.address(host, true).unwrap(), port)
}

fn told(sim: &Sim<Program>, host: HostId) -> &[(Time, Event)] {
    &sim.agent(host).unwrap().told
}

fn events(sim: &Sim<Program>, host: HostId) -> Vec<Event> {
    told(sim, host).iter().map(|(_, event)| event.clone()).collect()
}

/// One host, and a peer of which each segment is written by hand: it has an address to which no route leads, so that
/// nobody answers in its place.
struct Bench {
    sim: Sim<Program>,
    host: HostId,
    from: HostId,
    local: IpAddr,
    peer: IpAddr,
}

impl Bench {
    fn new(program: Program) -> Self {
        Self::of(true, |_| program)
    }

    fn of(v4: bool, program: impl FnOnce(IpAddr) -> Program) -> Self {
        let (mut internet, [host, from]) = pair(Duration::ZERO);
        internet.record();
        let local = internet.address(host, v4).unwrap();
        let peer: IpAddr = if v4 { [10, 9, 9, 9].into() } else { "fd00::9".parse().unwrap() };
        let mut sim = Sim::new(internet, 1);
        sim.place(host, Time::ZERO, program(peer));
        let mut bench = Self { sim, host, from, local, peer };
        bench.pass(Duration::ZERO);
        bench
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let until = self.sim.now() + time;
        self.sim.run(until, |_| false);
        assert!(self.sim.now() <= until);
    }

    /// What the host has sent and nobody looked at yet.
    fn sent(&mut self) -> Vec<(Time, Segment)> {
        let record = self.sim.internet_mut().take_record();
        record
            .into_iter()
            .filter(|passage| passage.from == Node::Host(self.host))
            .filter_map(|passage| Some((passage.sent, passage.packet.segment()?.clone())))
            .collect()
    }

    fn sent_one(&mut self) -> Segment {
        let sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.into_iter().next().unwrap().1
    }

    /// The peer sends, from its port 9 to this one.
    fn inject(&mut self, port: u16, flags: Flags, sequence: u32, acknowledgement: u32, payload: &[u8]) {
        let segment = Segment {
            source_port: 9,
            destination_port: port,
            sequence,
            acknowledgement,
            flags,
            window: 0xffff,
            payload: payload.to_vec(),
            ..Segment::default()
        };
        self.send(Packet::tcp(self.peer, self.local, segment));
    }

    fn send(&mut self, packet: Packet) {
        let (now, from) = (self.sim.now(), self.from);
        self.sim.internet_mut().send(now, from, packet);
        self.pass(Duration::ZERO);
    }

    /// A router sends an ICMP error about a segment from this port to the peer's port 9.
    fn error(&mut self, kind: ErrorKind, port: u16, sequence: u32) {
        let quoted = Quoted {
            protocol: Protocol::Tcp,
            source: SocketAddr::new(self.local, port),
            destination: SocketAddr::new(self.peer, 9),
            sequence,
        };
        let body = Body::Error(IcmpError { kind, quoted });
        self.send(Packet { source: self.peer, destination: self.local, ttl: 64, body });
    }

    fn events(&self) -> Vec<Event> {
        events(&self.sim, self.host)
    }

    /// One that has connected from port 7 to the peer, whose ISN is 5,000; its own next sequence number.
    fn connected(handler: impl Fn(&mut Os<'_>, &Event) + 'static) -> (Self, u32) {
        let mut bench = Self::of(true, |peer| {
            program(move |os, event| {
                if *event == Event::Started {
                    os.connect(SocketAddr::new(peer, 9), from(7)).unwrap();
                }
                handler(os, event);
            })
        });
        let next = bench.sent_one().sequence.wrapping_add(1);
        bench.inject(7, SYN_ACK, 5000, next, b"");
        assert!(matches!(bench.events().last(), Some(Event::Connected(_))));
        bench.sent();
        (bench, next)
    }
}

#[test]
fn what_is_written_comes_back() {
    let (internet, [client, server]) = pair(25 * MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.place(server, Time::ZERO, echo(80));
    let got = Rc::new(RefCell::new(Vec::new()));
    let sink = got.clone();
    sim.place(
        client,
        MS,
        program(move |os, event| match event {
            Event::Started => {
                os.connect(remote, ConnectOptions::default()).unwrap();
            }
            Event::Connected(socket) => {
                assert_eq!(os.round_trip(*socket), Some(50 * MS));
                os.write(*socket, b"hello");
            }
            Event::Readable(socket) => {
                sink.borrow_mut().extend(os.read(*socket));
                os.close(*socket);
            }
            _ => {}
        }),
    );
    assert!(!sim.run(Time::MAX, |_| false));
    assert_eq!(*got.borrow(), b"hello");
    let times: Vec<Time> = told(&sim, client).iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [MS, 51 * MS, 101 * MS]);
    assert!(matches!(told(&sim, server)[1], (at, Event::Accepted { .. }) if at == 76 * MS));
    assert!(matches!(events(&sim, server).last(), Some(Event::Finished(_))));
}

#[test]
fn a_syn_is_repeated_when_linux_repeats_it() {
    // Measured on Linux 6.18: 0, 1, 2, 3, 4, 5, 7, 11.4, 19.6, 35.7, 69 s, and ETIMEDOUT at 134.5 s; timers of the kernel
    // are late by up to a sixteenth.
    let mut bench = Bench::of(true, |peer| dial(SocketAddr::new(peer, 9), 7));
    bench.pass(200 * SECOND);
    let sent = bench.sent();
    let times: Vec<u64> = sent.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67]);
    assert!(sent.iter().all(|(_, segment)| segment == &sent[0].1 && segment.opens()));
    let (at, event) = told(&bench.sim, bench.host).last().unwrap();
    assert!(matches!(event, Event::Failed(_, SocketError::TimedOut)));
    assert_eq!(*at, 131 * SECOND);
    assert_eq!(bench.sim.syns(bench.host, |remote| remote.port() == 9), (1, 11));
    assert_eq!(bench.sim.syns(bench.host, |remote| remote.port() != 9), (0, 0));
}

#[test]
fn a_request_answers_when_linux_does() {
    let mut bench = Bench::new(echo(80));
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    bench.pass(100 * SECOND);
    let sent = bench.sent();
    let times: Vec<u64> = sent.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15, 31]);
    assert!(sent.iter().all(|(_, segment)| segment.flags == SYN_ACK && segment.acknowledgement == 1001));
    assert!(sent.iter().all(|(_, segment)| segment.sequence == sent[0].1.sequence));
    bench.inject(80, Flags::ACK, 1001, sent[0].1.sequence.wrapping_add(1), b"");
    assert_eq!(bench.sent_one().flags, Flags::RST, "the request is forgotten after 63 s");
    assert_eq!(bench.events(), [Event::Started]);
}

/// Both listen on 7 and connect from there, the second so much later.
fn crossing(one_way: Duration, later: Duration) -> [Vec<(Time, Event)>; 2] {
    let (internet, hosts) = pair(one_way);
    let remotes = [address(&internet, hosts[1], 7), address(&internet, hosts[0], 7)];
    let mut sim = Sim::new(internet, 1);
    for (host, remote, at) in [(hosts[0], remotes[0], Time::ZERO), (hosts[1], remotes[1], later)] {
        let connect = move |os: &mut Os<'_>, event: &Event| match event {
            Event::Started => {
                os.listen(7).unwrap();
                os.wake_at(at);
            }
            Event::Woken => match os.connect(remote, from(7)) {
                Ok(_) => {}
                Err(error) => assert_eq!(error, SocketError::AddressNotAvailable),
            },
            _ => {}
        };
        sim.place(host, Time::ZERO, program(connect));
    }
    sim.run(Time::MAX, |_| false);
    let connections = |(_, event): &&(Time, Event)| !matches!(event, Event::Started | Event::Woken);
    hosts.map(|host| told(&sim, host).iter().filter(connections).cloned().collect())
}

#[test]
fn a_busy_program_hears_late_and_its_kernel_answers_at_once() {
    let (internet, [near, far]) = pair(10 * MS);
    let remote = address(&internet, far, 7000);
    let mut sim = Sim::new(internet, 1);
    sim.react_within(5 * MS);
    sim.place(far, Time::ZERO, echo(7000));
    sim.place(near, 20 * MS, dial(remote, 6000));
    sim.run(SECOND, |_| false);
    let at = |host, wanted: fn(&Event) -> bool| {
        told(&sim, host).iter().find(|(_, event)| wanted(event)).map(|(at, _)| *at).unwrap()
    };
    let started = at(near, |event| *event == Event::Started);
    let connected = at(near, |event| matches!(event, Event::Connected(_))) - started;
    let accepted = at(far, |event| matches!(event, Event::Accepted { .. })) - started;
    assert!(started > 20 * MS && started <= 25 * MS, "{started:?}");
    assert!(connected > 20 * MS && connected <= 25 * MS, "{connected:?}");
    // Of the three segments none waited for a program.
    assert!(accepted > 30 * MS && accepted <= 35 * MS, "{accepted:?}");
}

#[test]
fn crossing_syns_make_one_connection_of_both_sockets() {
    for later in [0, 1, 20, 24] {
        let later = later * MS;
        let [one, other] = crossing(25 * MS, later);
        assert_eq!(one, [(50 * MS, Event::Connected(SocketId(1)))], "later by {later:?}");
        assert_eq!(other, [(later + 50 * MS, Event::Connected(SocketId(1)))], "later by {later:?}");
    }
}

#[test]
fn a_syn_that_was_there_before_belongs_to_the_listener() {
    for later in [26, 40, 74, 80] {
        let [one, other] = crossing(25 * MS, later * MS);
        assert_eq!(one, [(50 * MS, Event::Connected(SocketId(1)))]);
        let accepted = Event::Accepted { listener: SocketId(0), socket: SocketId(1) };
        assert_eq!(other, [(75 * MS, accepted)], "later by {later} ms: the connect got EADDRNOTAVAIL");
    }
}

#[test]
fn nobody_listens_and_it_is_refused() {
    let (internet, [client, server]) = pair(25 * MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.place(client, Time::ZERO, dial(remote, 0));
    sim.run(Time::MAX, |_| false);
    assert_eq!(told(&sim, client)[1..], [(50 * MS, Event::Failed(SocketId(0), SocketError::Refused))]);
}

#[test]
fn in_syn_sent_only_what_fits_its_syn_counts() {
    let mut bench = Bench::of(true, |peer| dial(SocketAddr::new(peer, 9), 7));
    let first = bench.sent_one().sequence;
    let next = first.wrapping_add(1);
    // A reset that acknowledges something else, and one that acknowledges nothing.
    bench.inject(7, RST_ACK, 0, first, b"");
    bench.inject(7, Flags::RST, 0, 0, b"");
    // An ACK without SYN that fits is as little.
    bench.inject(7, Flags::ACK, 77, next, b"");
    assert_eq!(bench.sent(), []);
    bench.inject(7, SYN_ACK, 77, next.wrapping_add(5), b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence), (Flags::RST, next.wrapping_add(5)));
    bench.pass(10 * MS);
    let again = bench.sent_one();
    assert!(again.opens() && again.sequence == first, "after a wrong ACK the first repetition comes at once");
    bench.inject(7, SYN_ACK, 77, next.wrapping_add(5), b"");
    bench.sent();
    bench.pass(999 * MS);
    assert_eq!(bench.sent(), [], "but only the first");
    bench.inject(7, SYN_ACK, 77, next, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence, answer.acknowledgement), (Flags::ACK, next, 78));
    assert_eq!(bench.events()[1..], [Event::Connected(SocketId(0))]);
}

#[test]
fn after_a_simultaneous_open_an_ack_connects_and_a_reset_resets() {
    for (flags, event) in [
        (Flags::ACK, Event::Connected(SocketId(0))),
        (SYN_ACK, Event::Connected(SocketId(0))),
        (Flags::RST, Event::Failed(SocketId(0), SocketError::Reset)),
    ] {
        let mut bench = Bench::of(true, |peer| dial(SocketAddr::new(peer, 9), 7));
        let first = bench.sent_one().sequence;
        bench.inject(7, Flags::SYN, 5000, 0, b"");
        let answer = bench.sent_one();
        assert_eq!((answer.flags, answer.sequence, answer.acknowledgement), (SYN_ACK, first, 5001));
        bench.pass(SECOND);
        assert_eq!(bench.sent_one().flags, SYN_ACK, "what is repeated is the SYN-ACK");
        let sequence = if flags == SYN_ACK { 5000 } else { 5001 };
        bench.inject(7, flags, sequence, first.wrapping_add(1), b"");
        assert_eq!(bench.events()[1..], [event]);
        let answers: Vec<Flags> = bench.sent().into_iter().map(|(_, segment)| segment.flags).collect();
        assert_eq!(answers, if flags == SYN_ACK { vec![Flags::ACK] } else { vec![] });
    }
}

#[test]
fn icmp_errors_end_a_connect_with_linux_error_numbers() {
    use Unreachable::{Host, Net, Port, Prohibited};
    for (v4, kind, error) in [
        (true, ErrorKind::Unreachable(Net), SocketError::NetUnreachable),
        (true, ErrorKind::Unreachable(Host), SocketError::HostUnreachable),
        (true, ErrorKind::Unreachable(Port), SocketError::Refused),
        (true, ErrorKind::Unreachable(Prohibited), SocketError::HostUnreachable),
        (true, ErrorKind::TimeExceeded, SocketError::HostUnreachable),
        (false, ErrorKind::Unreachable(Net), SocketError::NetUnreachable),
        (false, ErrorKind::Unreachable(Host), SocketError::HostUnreachable),
        (false, ErrorKind::Unreachable(Port), SocketError::Refused),
        (false, ErrorKind::Unreachable(Prohibited), SocketError::Prohibited),
        (false, ErrorKind::TimeExceeded, SocketError::HostUnreachable),
    ] {
        for crossed in [false, true] {
            let mut bench = Bench::of(v4, |peer| dial(SocketAddr::new(peer, 9), 7));
            let first = bench.sent_one().sequence;
            if crossed {
                bench.inject(7, Flags::SYN, 5000, 0, b"");
            }
            bench.error(kind, 7, first.wrapping_sub(1));
            assert_eq!(bench.events(), [Event::Started], "it quotes an older SYN");
            bench.error(kind, 7, first);
            assert_eq!(bench.events()[1..], [Event::Failed(SocketId(0), error)], "{kind:?}, IPv4: {v4}");
        }
    }
}

#[test]
fn icmp_errors_do_not_end_a_connection() {
    let (mut bench, next) = Bench::connected(|_, _| {});
    for kind in [
        ErrorKind::Unreachable(Unreachable::Port),
        ErrorKind::Unreachable(Unreachable::Net),
        ErrorKind::TimeExceeded,
    ] {
        bench.error(kind, 7, next);
    }
    assert_eq!(bench.events().len(), 2);
    bench.inject(7, Flags::ACK, 5001, next, b"still there");
    assert_eq!(bench.events()[2..], [Event::Readable(SocketId(0))]);
}

#[test]
fn icmp_errors_that_linux_takes_for_hard_end_a_request() {
    use Unreachable::{Host, Net, Port, Prohibited};
    for v4 in [true, false] {
        for (kind, ends) in [
            (ErrorKind::Unreachable(Net), v4),
            (ErrorKind::Unreachable(Host), v4),
            (ErrorKind::TimeExceeded, v4),
            (ErrorKind::Unreachable(Port), !v4),
            (ErrorKind::Unreachable(Prohibited), !v4),
        ] {
            let mut bench = Bench::of(v4, |_| echo(80));
            bench.inject(80, Flags::SYN, 1000, 0, b"");
            let first = bench.sent_one().sequence;
            bench.error(kind, 80, first.wrapping_add(1));
            bench.error(kind, 80, first);
            bench.inject(80, Flags::ACK, 1001, first.wrapping_add(1), b"");
            assert_eq!(bench.events().len(), if ends { 1 } else { 2 }, "{kind:?}, IPv4: {v4}");
        }
    }
}

#[test]
fn a_request_keeps_to_its_syn() {
    let mut bench = Bench::new(echo(80));
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    let first = bench.sent_one().sequence;
    let next = first.wrapping_add(1);
    // The same SYN again.
    bench.pass(600 * MS);
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence), (SYN_ACK, first));
    // An older one gets a challenge.
    bench.pass(600 * MS);
    bench.sent();
    bench.inject(80, Flags::SYN, 900, 0, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence, answer.acknowledgement), (Flags::ACK, next, 1001));
    // A wrong acknowledgement is reset, and the request stays.
    bench.inject(80, Flags::ACK, 1001, next.wrapping_add(9), b"");
    assert_eq!(bench.sent_one().flags, Flags::RST);
    // A reset beside the window does nothing.
    bench.inject(80, Flags::RST, 900, 0, b"");
    bench.inject(80, Flags::ACK, 1001, next, b"at once");
    assert_eq!(bench.events()[1..].len(), 2, "accepted and readable");
    bench.inject(81, Flags::SYN, 1000, 0, b"");
    assert_eq!(bench.sent().last().unwrap().1.flags, RST_ACK, "nobody listens on 81");
}

#[test]
fn a_listener_answers_syns_and_stray_acks_alone() {
    let mut bench = Bench::new(echo(80));
    for flags in [Flags::FIN, Flags::default(), Flags::SYN.with(Flags::FIN), Flags::RST] {
        bench.inject(80, flags, 1000, 0, b"");
    }
    assert_eq!(bench.sent(), []);
    bench.inject(80, SYN_ACK, 1000, 77, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence), (Flags::RST, 77));
}

#[test]
fn a_syn_in_the_window_ends_a_request() {
    let mut bench = Bench::new(echo(80));
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    let next = bench.sent_one().sequence.wrapping_add(1);
    bench.inject(80, Flags::SYN, 1500, 0, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence, answer.acknowledgement), (RST_ACK, 0, 1501));
    bench.inject(80, Flags::ACK, 1001, next, b"");
    assert_eq!(bench.sent_one().flags, Flags::RST);
}

#[test]
fn the_round_trip_of_crossing_syns_is_measured_short_as_on_linux() {
    // Measured: 23 ms between SYN-ACK and its answer, tcpi_min_rtt 23.4 ms, the SYN 43 ms before that.
    let (mut bench, seen) = {
        let seen = Rc::new(RefCell::new(None));
        let sink = seen.clone();
        let bench = Bench::of(true, |peer| {
            program(move |os, event| match event {
                Event::Started => {
                    os.connect(SocketAddr::new(peer, 9), from(7)).unwrap();
                }
                Event::Connected(socket) => *sink.borrow_mut() = os.round_trip(*socket),
                _ => {}
            })
        });
        (bench, seen)
    };
    let next = bench.sent_one().sequence.wrapping_add(1);
    bench.pass(43 * MS);
    bench.inject(7, Flags::SYN, 5000, 0, b"");
    bench.pass(23 * MS);
    bench.inject(7, Flags::ACK, 5001, next, b"");
    assert_eq!(*seen.borrow(), Some(23 * MS));
}

#[test]
fn closing_before_a_simultaneous_open_is_done_sends_a_fin_and_aborting_a_reset() {
    for abort in [false, true] {
        let mut bench = Bench::of(true, |peer| {
            program(move |os, event| match event {
                Event::Started => {
                    os.connect(SocketAddr::new(peer, 9), from(7)).unwrap();
                    os.wake_at(SECOND / 2);
                }
                Event::Woken if abort => os.abort(SocketId(0)),
                Event::Woken => os.close(SocketId(0)),
                _ => {}
            })
        });
        let next = bench.sent_one().sequence.wrapping_add(1);
        bench.inject(7, Flags::SYN, 5000, 0, b"");
        bench.sent();
        bench.pass(SECOND / 2);
        let last = bench.sent_one();
        assert_eq!((last.flags, last.sequence), (if abort { RST_ACK } else { FIN_ACK }, next));
        bench.inject(7, Flags::ACK, 5001, next, b"");
        if abort {
            assert_eq!(bench.sent_one().flags, Flags::RST, "nothing is left");
            continue;
        }
        assert_eq!(bench.sent(), []);
        bench.pass(2 * SECOND);
        assert_eq!(bench.sent()[0].1, last, "the FIN is repeated until it is acknowledged");
        bench.inject(7, FIN_ACK, 5001, next.wrapping_add(1), b"");
        assert_eq!(bench.sent_one().acknowledgement, 5002);
        assert_eq!(bench.events().len(), 2, "nobody is told");
    }
}

#[test]
fn in_time_wait_what_is_old_is_acknowledged_and_a_syn_begins_anew_where_somebody_listens() {
    for listens in [false, true] {
        let (mut bench, next) = Bench::connected(move |os, event| match event {
            Event::Connected(socket) => os.close(*socket),
            Event::Started if listens => drop(os.listen(7)),
            _ => {}
        });
        let next = next.wrapping_add(1);
        bench.inject(7, FIN_ACK, 5001, next, b"");
        bench.inject(7, FIN_ACK, 5001, next, b"");
        bench.inject(7, Flags::SYN, 9000, 0, b"");
        let sent = bench.sent();
        assert_eq!(sent.len(), 3, "{sent:?}");
        assert_eq!((sent[1].1.flags, sent[1].1.acknowledgement), (Flags::ACK, 5002));
        let expected = if listens { (SYN_ACK, 9001) } else { (Flags::ACK, 5002) };
        assert_eq!((sent[2].1.flags, sent[2].1.acknowledgement), expected);
    }
}

#[test]
fn a_reset_ends_a_request() {
    let mut bench = Bench::new(echo(80));
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    let first = bench.sent_one().sequence;
    bench.inject(80, Flags::RST, 1001, 0, b"");
    bench.inject(80, Flags::ACK, 1001, first.wrapping_add(1), b"");
    assert_eq!(bench.sent_one().flags, Flags::RST);
    bench.inject(80, Flags::SYN, 3000, 0, b"");
    assert_eq!(bench.sent_one().acknowledgement, 3001, "a new SYN is a new request");
}

#[test]
fn a_syn_for_a_connection_is_challenged() {
    let (mut bench, next) = Bench::connected(|_, _| {});
    bench.inject(7, Flags::SYN, 90_000, 0, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence, answer.acknowledgement), (Flags::ACK, next, 5001));
    bench.inject(7, Flags::SYN, 90_000, 0, b"");
    assert_eq!(bench.sent(), [], "a challenge each half second");
    bench.inject(7, Flags::RST, 5002, 0, b"");
    assert_eq!(bench.events().len(), 2, "a reset that is not exactly next is challenged too");
    bench.inject(7, Flags::RST, 5001, 0, b"");
    assert_eq!(bench.events()[2..], [Event::Broken(SocketId(0), SocketError::Reset)]);
    bench.inject(7, Flags::ACK, 5001, next, b"");
    assert_eq!(bench.sent_one().flags, Flags::RST, "the connection is gone");
}

#[test]
fn who_lost_its_state_connects_anew_from_the_same_port() {
    let (internet, [client, server]) = pair(25 * MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.place(server, Time::ZERO, echo(80));
    sim.place(client, Time::ZERO, dial(remote, 7));
    sim.run(SECOND, |_| false);
    sim.internet_mut().set_cut(Node::Host(client), true);
    let silent = program(move |os, event| match event {
        Event::Started => {
            os.connect(remote, from(7)).unwrap();
        }
        Event::Connected(socket) if os.now() < 200 * SECOND => os.abort(*socket),
        _ => {}
    });
    sim.kill(client);
    // Its FIN is repeated into the cut cable until the kernel gives up.
    sim.run(199 * SECOND, |_| false);
    sim.internet_mut().set_cut(Node::Host(client), false);
    sim.place(client, 200 * SECOND, silent);
    sim.run(202 * SECOND, |_| false);
    let at_server = events(&sim, server);
    let at_client = told(&sim, client);
    assert!(matches!(at_server[2], Event::Broken(_, SocketError::Reset)), "{at_server:?}");
    assert!(matches!(at_server[3], Event::Accepted { .. }), "{at_server:?}");
    // SYN, challenge, reset, and the SYN again 10 ms after the challenge.
    assert!(
        matches!(at_client[1], (at, Event::Connected(_)) if at == 200 * SECOND + 110 * MS),
        "{at_client:?}"
    );
}

#[test]
fn the_end_of_a_connection_is_told_once_everything_is_read() {
    let (mut bench, next) = Bench::connected(|os, event| {
        if let Event::Readable(socket) = event {
            assert_eq!(os.read(*socket), b"abc");
        }
    });
    // The end comes first, then the middle, then the beginning.
    bench.inject(7, FIN_ACK, 5004, next, b"");
    bench.inject(7, Flags::ACK, 5002, next, b"bc");
    assert_eq!(bench.events().len(), 2);
    assert!(bench.sent().iter().all(|(_, segment)| segment.acknowledgement == 5001));
    bench.inject(7, Flags::ACK, 5001, next, b"a");
    assert_eq!(bench.events()[2..], [Event::Readable(SocketId(0)), Event::Finished(SocketId(0))]);
    assert_eq!(bench.sent_one().acknowledgement, 5005);
}

#[test]
fn after_a_half_close_the_other_half_still_sends() {
    let (internet, [client, server]) = pair(25 * MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    let late = program(|os, event| match event {
        Event::Started => {
            os.listen(80).unwrap();
        }
        Event::Accepted { socket, .. } => {
            os.write(*socket, &[7; 50_000]);
            os.close(*socket);
        }
        _ => {}
    });
    sim.place(server, Time::ZERO, late);
    let got = Rc::new(RefCell::new(0));
    let sink = got.clone();
    sim.place(
        client,
        Time::ZERO,
        program(move |os, event| match event {
            Event::Started => {
                os.connect(remote, from(7)).unwrap();
            }
            Event::Readable(socket) => *sink.borrow_mut() += os.read(*socket).len(),
            Event::Finished(socket) => {
                let again = os.connect(remote, from(7));
                assert_eq!(again, Err(SocketError::AddressNotAvailable), "still half open");
                os.close(*socket);
                let again = os.connect(remote, from(7));
                assert_eq!(again, Err(SocketError::AddressNotAvailable), "in LAST_ACK");
                if os.now() < 200 * MS {
                    os.wake_at(os.now() + 60 * MS);
                }
            }
            Event::Woken => {
                os.connect(remote, from(7)).unwrap();
            }
            _ => {}
        }),
    );
    sim.run(10 * SECOND, |_| false);
    assert_eq!(*got.borrow(), 100_000, "over TIME_WAIT at the other end a new connection is made");
}

#[test]
fn what_comes_after_close_is_reset() {
    let (mut bench, next) = Bench::connected(|os, event| {
        if let Event::Connected(socket) = event {
            os.close(*socket);
            assert_eq!(os.local(*socket), None);
        }
    });
    // The FIN went out with the connect.
    bench.inject(7, Flags::ACK, 5001, next.wrapping_add(1), b"");
    assert_eq!(bench.sent(), []);
    bench.inject(7, Flags::ACK, 5001, next.wrapping_add(1), b"too late");
    assert_eq!(bench.sent_one().flags, Flags::RST);
    assert_eq!(bench.events().len(), 2, "nobody is told");
}

#[test]
fn what_was_written_before_close_is_sent_and_what_comes_meanwhile_is_reset() {
    let (mut bench, next) = Bench::connected(|os, event| {
        if let Event::Connected(socket) = event {
            os.write(*socket, &[7; 100_000]);
            os.close(*socket);
            os.write(*socket, b"too late");
        }
    });
    // The window is full, and the FIN has to wait.
    bench.inject(7, Flags::ACK, 5001, next.wrapping_add(60_000), b"");
    let sent = bench.sent();
    let last = &sent.last().unwrap().1;
    assert_eq!(
        (last.flags.has(Flags::FIN), last.sequence.wrapping_sub(next)),
        (true, 100_000 - last.payload.len() as u32)
    );
    let (mut bench, next) = Bench::connected(|os, event| {
        if let Event::Connected(socket) = event {
            os.write(*socket, &[7; 100_000]);
            os.close(*socket);
        }
    });
    bench.inject(7, Flags::ACK, 5001, next, b"x");
    assert_eq!(bench.sent_one().flags, Flags::RST);
}

#[test]
fn unread_data_makes_a_close_a_reset_and_abort_always_is_one() {
    for abort in [false, true] {
        let (mut bench, next) = Bench::connected(move |os, event| match event {
            Event::Readable(socket) if abort => {
                os.read(*socket);
                os.abort(*socket);
                os.connect("10.9.9.9:9".parse().unwrap(), from(7)).unwrap();
            }
            Event::Readable(socket) => os.close(*socket),
            _ => {}
        });
        bench.inject(7, Flags::ACK, 5001, next, b"x");
        let sent = bench.sent();
        assert_eq!(sent[1].1.flags, RST_ACK);
        assert_eq!(sent[1].1.sequence, next);
        assert_eq!(sent.len(), if abort { 3 } else { 2 }, "after a reset the 4-tuple is free");
    }
}

#[test]
fn closing_in_syn_sent_sends_nothing_and_the_listener_takes_over() {
    let mut bench = Bench::of(true, |peer| {
        once(move |os| {
            os.listen(7).unwrap();
            let socket = os.connect(SocketAddr::new(peer, 9), from(7)).unwrap();
            os.close(socket);
        })
    });
    let first = bench.sent_one().sequence;
    bench.inject(7, SYN_ACK, 5000, first.wrapping_add(1), b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.sequence), (Flags::RST, first.wrapping_add(1)));
    // Sequence numbers begin elsewhere a moment later.
    bench.pass(MS);
    bench.inject(7, Flags::SYN, 5000, 0, b"");
    let answer = bench.sent_one();
    assert_eq!((answer.flags, answer.acknowledgement), (SYN_ACK, 5001));
    assert_ne!(answer.sequence, first);
    bench.pass(100 * SECOND);
    assert!(bench.sent().iter().all(|(_, segment)| segment.flags == SYN_ACK), "no SYN is repeated");
}

#[test]
fn a_connection_that_gets_no_answer_breaks_after_a_quarter_of_an_hour() {
    let (mut bench, _) = Bench::connected(|os, event| {
        if let Event::Connected(socket) = event {
            os.write(*socket, b"hello?");
        }
    });
    bench.pass(2000 * SECOND);
    let sent = bench.sent();
    assert!((15..=17).contains(&sent.len()), "{}", sent.len());
    let gaps: Vec<u128> = sent.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).collect();
    assert_eq!(gaps[..4], [400, 800, 1600, 3200]);
    let (at, event) = told(&bench.sim, bench.host).last().unwrap();
    assert!(matches!(event, Event::Broken(_, SocketError::TimedOut)));
    assert!((924 * SECOND..1050 * SECOND).contains(at), "{at:?}");
}

#[test]
fn descriptors_are_limited() {
    let (internet, [client, server]) = pair(MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.limit_sockets(client, 3);
    sim.limit_sockets(server, 2);
    let first = Rc::new(RefCell::new(None));
    let taken = first.clone();
    sim.place(
        server,
        Time::ZERO,
        program(move |os, event| match event {
            Event::Started => {
                os.listen(80).unwrap();
            }
            Event::Accepted { socket, .. } => {
                taken.borrow_mut().get_or_insert((os.now(), *socket));
                os.wake_at(os.now() + SECOND);
            }
            Event::Woken => {
                let closed = taken.borrow_mut().take();
                if let Some((_, socket)) = closed {
                    os.read(socket);
                    os.close(socket);
                }
            }
            _ => {}
        }),
    );
    sim.place(
        client,
        Time::ZERO,
        program(move |os, event| match event {
            Event::Started => {
                for _ in 0..3 {
                    os.connect(remote, ConnectOptions::default()).unwrap();
                }
                assert_eq!(os.connect(remote, ConnectOptions::default()), Err(SocketError::TooManyFiles));
                assert_eq!(os.listen(5), Err(SocketError::TooManyFiles));
            }
            Event::Connected(socket) => {
                let port = os.local(*socket).unwrap().port();
                assert!((32_768..=60_999).contains(&port));
                assert_eq!(os.remote(*socket), Some(remote));
                if socket.0 > 0 {
                    os.write(*socket, b"x");
                }
            }
            _ => {}
        }),
    );
    sim.run(SECOND / 2, |_| false);
    assert_eq!(events(&sim, client).len(), 4, "all three are connected");
    assert_eq!(events(&sim, server).len(), 2, "one is accepted, two wait");
    sim.run(3 * SECOND, |_| false);
    let accepted: Vec<Time> = told(&sim, server)
        .iter()
        .filter(|(_, event)| matches!(event, Event::Accepted { .. }))
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(accepted, [3 * MS, SECOND + 3 * MS, 2 * SECOND + 3 * MS]);
    let readable = events(&sim, server).iter().filter(|event| matches!(event, Event::Readable(_))).count();
    assert_eq!(readable, 2, "what came before the accept is told after it");
}

#[test]
fn ephemeral_ports_run_out_for_one_remote_only() {
    let (internet, [host, _]) = pair(MS);
    let mut sim = Sim::new(internet, 1);
    sim.limit_sockets(host, 40_000);
    sim.place(
        host,
        Time::ZERO,
        once(|os| {
            os.listen(40_000).unwrap();
            let remote = "10.0.0.1:1".parse().unwrap();
            let mut ports: Vec<u16> = (0..28_231)
                .map(|_| {
                    let socket = os.connect(remote, ConnectOptions::default()).unwrap();
                    os.local(socket).unwrap().port()
                })
                .collect();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), 28_231);
            assert!(!ports.contains(&40_000), "the listener's");
            let connect = os.connect(remote, ConnectOptions::default());
            assert_eq!(connect, Err(SocketError::AddressNotAvailable));
            assert!(os.connect("10.0.0.1:2".parse().unwrap(), ConnectOptions::default()).is_ok());
        }),
    );
    sim.run(MS, |_| false);
    assert_eq!(sim.syns(host, |_| true), (28_232, 28_232));
}

#[test]
fn what_connect_refuses_at_once() {
    let mut internet = Internet::new(1);
    let host = internet.host(Place::Core, Conditions::PERFECT);
    let mut sim = Sim::new(internet, 1);
    sim.place(
        host,
        Time::ZERO,
        once(|os| {
            let remote = "10.9.9.9:1".parse().unwrap();
            let with = |source: &str| ConnectOptions { source: source.parse().ok(), ..from(7) };
            assert_eq!(os.connect(remote, with("198.51.100.77")), Err(SocketError::AddressNotAvailable));
            assert_eq!(os.connect(remote, with("127.0.0.1")), Err(SocketError::AddressNotAvailable));
            assert_eq!(os.connect("224.0.0.1:1".parse().unwrap(), from(7)), Err(SocketError::NetUnreachable));
            os.connect(remote, from(7)).unwrap();
            assert_eq!(os.connect(remote, from(7)), Err(SocketError::AddressNotAvailable));
            os.listen(9).unwrap();
            assert_eq!(os.listen(9), Err(SocketError::AddressInUse));
        }),
    );
    sim.run(MS, |_| false);
    assert_eq!(events(&sim, host), [Event::Started]);
}

#[test]
fn a_host_reaches_itself() {
    for to in ["127.0.0.1", "::1", "own"] {
        let (internet, [host, _]) = pair(MS);
        let ip = to.parse().unwrap_or_else(|_| internet.address(host, true).unwrap());
        let mut sim = Sim::new(internet, 1);
        sim.place(
            host,
            Time::ZERO,
            program(move |os, event| match event {
                Event::Started => {
                    os.listen(80).unwrap();
                    os.connect(SocketAddr::new(ip, 80), ConnectOptions::default()).unwrap();
                    // To its own port: a simultaneous open with itself.
                    os.connect(SocketAddr::new(ip, 81), from(81)).unwrap();
                }
                Event::Connected(socket) if os.local(*socket) == os.remote(*socket) => {
                    os.write(*socket, b"me");
                }
                Event::Readable(socket) => {
                    assert_eq!(os.read(*socket), b"me");
                    os.abort(*socket);
                }
                _ => {}
            }),
        );
        sim.run(Time::ZERO, |_| false);
        let events = events(&sim, host);
        assert!(events.contains(&Event::Connected(SocketId(1))), "{events:?}");
        assert!(events.iter().any(|event| matches!(event, Event::Accepted { .. })), "{events:?}");
        assert!(events.contains(&Event::Readable(SocketId(2))), "{events:?}");
    }
}

#[test]
fn a_killed_program_leaves_its_sockets_to_the_kernel() {
    let (mut internet, [client, server]) = pair(MS);
    internet.record();
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.place(server, Time::ZERO, echo(80));
    let busy = program(move |os, event| {
        if *event == Event::Started {
            os.listen(7).unwrap();
            os.connect(remote, from(7)).unwrap();
            os.connect("10.0.0.1:1".parse().unwrap(), from(7)).unwrap();
        }
    });
    sim.place(client, Time::ZERO, busy);
    sim.run(500 * MS, |_| false);
    sim.internet_mut().take_record();
    assert_eq!(sim.kill(client).unwrap().told.len(), 2);
    assert!(sim.agent(client).is_none());
    sim.run(3 * SECOND, |_| false);
    let sent = sim.internet_mut().take_record();
    let flags: Vec<Flags> = sent
        .iter()
        .filter(|passage| passage.from == Node::Host(client))
        .filter_map(|passage| Some(passage.packet.segment()?.flags))
        .collect();
    assert_eq!(flags, [FIN_ACK, Flags::ACK], "no SYN is repeated");
    assert!(matches!(events(&sim, server).last(), Some(Event::Finished(_))));
}

#[test]
fn closing_a_listener_ends_what_nobody_took_over() {
    let mut bench = Bench::new(program(|os, event| match event {
        Event::Started => {
            os.listen(80).unwrap();
            os.wake_at(SECOND / 2);
        }
        Event::Woken => os.close(SocketId(0)),
        _ => {}
    }));
    bench.inject(80, Flags::SYN, 1000, 0, b"");
    let next = bench.sent_one().sequence.wrapping_add(1);
    bench.pass(SECOND);
    assert_eq!(bench.sent(), [], "in silence");
    bench.inject(80, Flags::ACK, 1001, next, b"");
    assert_eq!(bench.sent_one().flags, Flags::RST);
}

#[test]
fn a_host_without_program_answers_like_one_where_nothing_listens() {
    let (mut internet, [one, other]) = pair(MS);
    internet.record();
    let (source, destination) =
        (internet.address(one, true).unwrap(), internet.address(other, true).unwrap());
    let ping = Body::Echo(Echo { request: true, identifier: 1, sequence: 2, payload: vec![3] });
    let datagram = Body::Udp(Datagram { source_port: 1, destination_port: 2, payload: vec![] });
    for body in [ping, datagram] {
        internet.send(Time::ZERO, one, Packet { source, destination, ttl: 64, body });
    }
    let mut sim: Sim<Program> = Sim::new(internet, 1);
    sim.run(Time::MAX, |_| false);
    let answers: Vec<Body> = sim
        .internet_mut()
        .take_record()
        .into_iter()
        .filter(|passage| passage.to == Node::Host(one))
        .map(|passage| passage.packet.body)
        .collect();
    assert!(matches!(&answers[0], Body::Echo(Echo { request: false, identifier: 1, sequence: 2, .. })));
    assert!(matches!(
        answers[1],
        Body::Error(IcmpError { kind: ErrorKind::Unreachable(Unreachable::Port), .. })
    ));
}

#[test]
fn a_low_ttl_ends_on_the_way() {
    let (internet, [client, server]) = pair(25 * MS);
    let remote = address(&internet, server, 80);
    let mut sim = Sim::new(internet, 1);
    sim.place(server, Time::ZERO, echo(80));
    let options = ConnectOptions { ttl: Some(1), ..ConnectOptions::default() };
    sim.place(client, Time::ZERO, once(move |os| assert!(os.connect(remote, options).is_ok())));
    sim.run(Time::MAX, |_| false);
    let failed = Event::Failed(SocketId(0), SocketError::HostUnreachable);
    assert_eq!(told(&sim, client)[1..], [(25 * MS, failed)]);
}

/// Sends this from one host to the other and back, and says what came back and when.
fn there_and_back(
    internet: Internet,
    hosts: [HostId; 2],
    data: Vec<u8>,
    seed: u64,
) -> (Vec<u8>, Time, String) {
    let remote = address(&internet, hosts[1], 80);
    let mut sim = Sim::new(internet, seed);
    sim.internet_mut().record();
    sim.place(hosts[1], Time::ZERO, echo(80));
    let got = Rc::new(RefCell::new(Vec::new()));
    let sink = got.clone();
    let length = data.len();
    sim.place(
        hosts[0],
        Time::ZERO,
        program(move |os, event| match event {
            Event::Started => {
                os.connect(remote, ConnectOptions::default()).unwrap();
            }
            Event::Connected(socket) => os.write(*socket, &data),
            Event::Readable(socket) => {
                sink.borrow_mut().extend(os.read(*socket));
                if sink.borrow().len() == length {
                    os.close(*socket);
                }
            }
            _ => {}
        }),
    );
    sim.run(900 * SECOND, |_| got.borrow().len() == length);
    let at = sim.now();
    sim.run(2000 * SECOND, |_| false);
    let record = sim.internet_mut().take_record();
    let got = got.borrow().clone();
    (got, at, format!("{record:?}"))
}

#[test]
fn a_smaller_mtu_on_the_way_is_found() {
    let mut internet = Internet::new(1);
    let narrow = Conditions { mtu: 1280, ..Conditions::delay(5 * MS) };
    let one = internet.host(Place::Core, Conditions::delay(5 * MS));
    let other = internet.host(Place::Core, Attachment { up: Conditions::delay(5 * MS), down: narrow });
    let data: Vec<u8> = (0..20_000u32).map(|it| it as u8).collect();
    let (got, at, _) = there_and_back(internet, [one, other], data.clone(), 1);
    assert!(got == data);
    assert!(at < 200 * MS, "{at:?}: without a time-out");
}

#[test]
fn the_same_seeds_make_the_same_run() {
    let run = |seed| {
        let mut internet = Internet::new(seed);
        let rough = Conditions { jitter: 5 * MS, reorder: 0.05, ..Conditions::delay(9 * MS).losing(0.1) };
        let hosts = [0, 1].map(|_| internet.host(Place::Core, rough));
        there_and_back(internet, hosts, vec![7; 30_000], seed)
    };
    let (one, again, other) = (run(3), run(3), run(4));
    assert!(one == again);
    assert!(one.2 != other.2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_in_order_over_links_that_lose_and_reorder(
        seed: u64,
        data in prop::collection::vec(any::<u8>(), 1..60_000),
        loss in 0.0..0.12,
        reorder in 0.0..0.2,
        jitter in 0..20u32,
    ) {
        let mut internet = Internet::new(seed);
        let conditions = Conditions {
            jitter: MS * jitter,
            reorder,
            reorder_by: 7 * MS,
            ..Conditions::delay(10 * MS).losing(loss / 2.0)
        };
        let hosts = [0, 1].map(|_| internet.host(Place::Core, conditions));
        let (got, ..) = there_and_back(internet, hosts, data.clone(), seed);
        prop_assert!(got == data, "{} of {} bytes", got.len(), data.len());
    }
}

fn any_segment() -> impl Strategy<Value = (Segment, u8)> {
    let numbers =
        || prop_oneof![4 => 0..4u32, 1 => any::<u32>(), 2 => (0..4u32).prop_map(|it| it.wrapping_neg())];
    let options = prop::collection::vec(any::<u8>(), 0..12);
    let payload = prop::collection::vec(any::<u8>(), 0..20);
    (0..4u16, 0..4u16, (numbers(), numbers(), 0..8u8), any::<u8>(), any::<u16>(), options, payload).prop_map(
        |(
            source_port,
            destination_port,
            (sequence, acknowledgement, relative),
            flags,
            window,
            options,
            payload,
        )| {
            let segment = Segment {
                source_port,
                destination_port,
                sequence,
                acknowledgement,
                flags: Flags(flags),
                window,
                options,
                payload,
                ..Segment::default()
            };
            (segment, relative)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Numbers are taken relative to what the host has last sent, so that many fit.
    #[test]
    fn no_segment_upsets_a_host(injected in prop::collection::vec((any_segment(), 0..3u8, 0..400u64), 1..60)) {
        let busy = program(|os, event| match event {
            Event::Started => {
                os.listen(1).unwrap();
                os.connect("10.9.9.9:2".parse().unwrap(), from(2)).unwrap();
                os.connect("10.9.9.9:2".parse().unwrap(), from(1)).unwrap();
            }
            Event::Accepted { socket, .. } | Event::Connected(socket) => os.write(*socket, &[1; 3000]),
            Event::Readable(socket) if os.random().is_multiple_of(2) => os.write(*socket, &[1]),
            Event::Readable(socket) => drop(os.read(*socket)),
            Event::Finished(socket) => os.close(*socket),
            Event::Failed(..) => {
                let _ = os.connect("10.9.9.9:2".parse().unwrap(), from(2));
            }
            Event::Broken(..) | Event::Woken => {}
        });
        let mut bench = Bench::new(busy);
        let mut last = std::collections::HashMap::new();
        for ((mut segment, relative), kind, passes) in injected {
            for (_, sent) in bench.sent() {
                last.insert((sent.destination_port, sent.source_port), sent);
            }
            if let Some(sent) = last.get(&(segment.source_port, segment.destination_port)) {
                if relative & 1 == 0 {
                    segment.acknowledgement = segment.acknowledgement.wrapping_add(sent.sequence);
                }
                if relative & 2 == 0 {
                    segment.sequence = segment.sequence.wrapping_add(sent.acknowledgement);
                }
            }
            if kind == 2 {
                let kinds = [
                    ErrorKind::TooBig { mtu: segment.window },
                    ErrorKind::TimeExceeded,
                    ErrorKind::Unreachable(Unreachable::Port),
                ];
                let quoted = Quoted {
                    protocol: Protocol::Tcp,
                    source: SocketAddr::new(bench.local, segment.destination_port),
                    destination: SocketAddr::new(bench.peer, segment.source_port),
                    sequence: segment.acknowledgement,
                };
                let kind = kinds[usize::from(relative) % kinds.len()];
                let body = Body::Error(IcmpError { kind, quoted });
                bench.send(Packet { source: bench.peer, destination: bench.local, ttl: 64, body });
            } else {
                bench.send(Packet::tcp(bench.peer, bench.local, segment));
            }
            bench.pass(MS * passes as u32);
        }
        bench.pass(3000 * SECOND);
        bench.sim.kill(bench.host);
        bench.pass(3000 * SECOND);
    }
}
