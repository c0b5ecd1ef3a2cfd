//! Hosts in virtual time: the TCP stack does what Linux does.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use natlab::link::Conditions;
use natlab::sim::{Agent, ConnectOptions, Event, Os, Sim, SocketError, SocketId};
use natlab::{HostId, Internet, Place, Time};

const MS: Duration = Duration::from_millis(1);

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

/// Two public hosts so far from each other (one way).
fn pair(one_way: Duration) -> (Internet, [HostId; 2]) {
    let mut internet = Internet::new(1);
    let hosts = [0, 1].map(|_| internet.host(Place::Core, Conditions::delay(one_way / 2)));
    (internet, hosts)
}

fn address(internet: &Internet, host: HostId, port: u16) -> SocketAddr {
    SocketAddr::new(internet.address(host, true).unwrap(), port)
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
    sim.run(Time::MAX, |_| false);
    assert_eq!(*got.borrow(), b"hello");
    let told = &sim.agent(client).unwrap().told;
    assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [MS, 51 * MS, 101 * MS]);
    let told = &sim.agent(server).unwrap().told;
    assert!(matches!(told[1], (at, Event::Accepted { .. }) if at == 76 * MS), "{told:?}");
    assert!(matches!(told.last(), Some((_, Event::Finished(_)))));
}
