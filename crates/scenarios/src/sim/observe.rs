//! Learning how the own network behaves: what `tcpunch`'s `diagnose.rs` does.

use std::net::SocketAddr;

use natlab::Time;
use natlab::sim::{ConnectOptions, Os, SocketId};
use rand::{Rng, RngCore};
use tcpunch_core::limits::{PORT_FIRST, PORT_LAST, PORT_TRIES};
use tcpunch_core::profile::{NatProfile, Sample};
use tcpunch_core::survey::{ConnectionId, Output, Port, Survey};
use tcpunch_core::wire::{KnockAnswer, Probe};

use super::clock::Clock;

/// A survey on a simulated host.
pub(super) struct Observations {
    clock: Clock,
    survey: Survey,
    token: [u8; 8],
    door: Sample,
    /// The ports that are kept, with their listeners.
    kept: Vec<(u8, u16, SocketId)>,
    connecting: Vec<(SocketId, ConnectionId, Vec<u8>)>,
    /// Held until the end: a closed connection may take its mapping along.
    held: Vec<SocketId>,
    until: Option<Time>,
}

impl Observations {
    pub(super) fn begin(
        os: &Os<'_>,
        clock: Clock,
        door: Sample,
        probes: &[Probe],
        token: [u8; 8],
        random: &mut impl RngCore,
    ) -> Option<Self> {
        let survey = Survey::begin(clock.instant(os.now()), door, probes, random)?;
        let (kept, connecting, held) = (Vec::new(), Vec::new(), Vec::new());
        Some(Self { clock, survey, token, door, kept, connecting, held, until: Some(os.now()) })
    }

    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.connecting.iter().any(|(own, ..)| *own == socket) || self.held.contains(&socket)
    }

    /// Whether a connection that came in there is a knock.
    pub(super) fn listens(&self, listener: SocketId) -> bool {
        self.kept.iter().any(|(.., own)| *own == listener)
    }

    pub(super) fn connected(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(at) = self.connecting.iter().position(|(own, ..)| *own == socket) else { return };
        let (_, connection, greeting) = self.connecting.swap_remove(at);
        self.held.push(socket);
        if let Some(local) = os.local(socket) {
            self.survey.connected(self.clock.instant(os.now()), connection, local);
            os.write(socket, &greeting);
        }
    }

    pub(super) fn failed(&mut self, socket: SocketId) {
        if let Some(at) = self.connecting.iter().position(|(own, ..)| *own == socket) {
            let (_, connection, _) = self.connecting.swap_remove(at);
            self.survey.failed(connection);
        }
    }

    pub(super) fn closed(&mut self, os: &mut Os<'_>, socket: SocketId, gone: bool) {
        self.held.retain(|own| *own != socket);
        if !gone {
            os.close(socket);
        }
    }

    pub(super) fn observed(&mut self, os: &Os<'_>, question: [u8; 8], from: SocketAddr) {
        self.survey.observed(self.clock.instant(os.now()), question, from);
    }

    pub(super) fn knocked(&mut self, question: [u8; 8], elsewhere: bool, answer: KnockAnswer) {
        self.survey.knocked(question, elsewhere, answer);
    }

    /// When it has something to do; `None` once it is over.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// Does what is due; what is newly known.
    pub(super) fn drive(&mut self, os: &mut Os<'_>, random: &mut impl RngCore) -> Option<NatProfile> {
        self.until?;
        let mut known = None;
        loop {
            match self.survey.poll(self.clock.instant(os.now())) {
                Output::Connect { connection, from, destination, preface, question } => {
                    let source = Some(self.door.local.ip());
                    let options = self
                        .port(os, from, random)
                        .map(|port| ConnectOptions { source, port, ttl: None })
                        .and_then(|options| os.connect(destination, options).ok());
                    match options {
                        Some(socket) => {
                            let greeting = [&preface.encode()[..], &self.token, &question].concat();
                            self.connecting.push((socket, connection, greeting));
                        }
                        None => self.survey.failed(connection),
                    }
                }
                Output::Learnt(profile) => known = Some(profile),
                Output::Wait(until) => {
                    self.until = Some(self.clock.time(until));
                    return known;
                }
                Output::Finished => {
                    self.end(os);
                    return known;
                }
            }
        }
    }

    /// The local port to use; 0 is any.
    fn port(&mut self, os: &mut Os<'_>, from: Port, random: &mut impl RngCore) -> Option<u16> {
        let Port::Kept(number) = from else { return Some(0) };
        if let Some((_, port, _)) = self.kept.iter().find(|(own, ..)| *own == number) {
            return Some(*port);
        }
        (0..PORT_TRIES).find_map(|_| {
            let port = random.random_range(PORT_FIRST..=PORT_LAST);
            let listener = os.listen(port).ok()?;
            self.kept.push((number, port, listener));
            Some(port)
        })
    }

    fn end(&mut self, os: &mut Os<'_>) {
        self.until = None;
        let connecting = self.connecting.drain(..).map(|(socket, ..)| socket);
        for socket in self.held.drain(..).chain(connecting) {
            os.abort(socket);
        }
        for (.., listener) in self.kept.drain(..) {
            os.close(listener);
        }
    }
}
