//! Learning how the own network maps: what `tcpunch`'s `diagnose.rs` does.

use std::collections::VecDeque;
use std::net::SocketAddr;

use natlab::Time;
use natlab::sim::{ConnectOptions, Os, SocketId};
use rand::{Rng, RngCore};
use tcpunch_core::limits::OBSERVE_WITHIN;
use tcpunch_core::profile::{NatProfile, Sample, classify};
use tcpunch_core::wire::Preface;

/// Connections from one scratch port to several ports of the broker.
pub(super) struct Observations {
    door: Sample,
    token: [u8; 8],
    ports: VecDeque<u16>,
    scratch: u16,
    connecting: Option<(SocketId, SocketAddr)>,
    /// Held until the end: a closed connection may take its mapping along.
    held: Vec<SocketId>,
    asked: Vec<([u8; 8], SocketAddr, SocketAddr)>,
    samples: Vec<Sample>,
    until: Option<Time>,
}

impl Observations {
    pub(super) fn begin(os: &mut Os<'_>, door: Sample, ports: VecDeque<u16>, token: [u8; 8]) -> Self {
        let mut observations = Self {
            door,
            token,
            ports,
            scratch: 0,
            connecting: None,
            held: Vec::new(),
            asked: Vec::new(),
            samples: vec![door],
            until: Some(os.now() + OBSERVE_WITHIN),
        };
        observations.next(os);
        observations
    }

    fn next(&mut self, os: &mut Os<'_>) {
        while let Some(port) = self.ports.pop_front() {
            let destination = SocketAddr::new(self.door.destination.ip(), port);
            let options =
                ConnectOptions { source: Some(self.door.local.ip()), port: self.scratch, ttl: None };
            if let Ok(socket) = os.connect(destination, options) {
                self.connecting = Some((socket, destination));
                return;
            }
        }
    }

    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.connecting.is_some_and(|(own, _)| own == socket) || self.held.contains(&socket)
    }

    pub(super) fn connected(&mut self, os: &mut Os<'_>, socket: SocketId, random: &mut impl RngCore) {
        let Some((_, destination)) = self.connecting.take_if(|(own, _)| *own == socket) else { return };
        self.held.push(socket);
        if let Some(local) = os.local(socket) {
            self.scratch = local.port();
            let question: [u8; 8] = random.random();
            os.write(socket, &[&Preface::Observe.encode()[..], &self.token, &question].concat());
            self.asked.push((question, local, destination));
        }
        self.next(os);
    }

    pub(super) fn failed(&mut self, os: &mut Os<'_>, socket: SocketId) {
        if self.connecting.take_if(|(own, _)| *own == socket).is_some() {
            self.next(os);
        }
    }

    pub(super) fn closed(&mut self, os: &mut Os<'_>, socket: SocketId, gone: bool) {
        self.held.retain(|own| *own != socket);
        if !gone {
            os.close(socket);
        }
    }

    pub(super) fn observed(&mut self, question: [u8; 8], from: SocketAddr) {
        if let Some(at) = self.asked.iter().position(|(own, ..)| *own == question) {
            let (_, local, destination) = self.asked.swap_remove(at);
            self.samples.push(Sample { local, destination, observed: from });
        }
    }

    /// By when it is over.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// What is known, once: when all is answered or the time is over.
    pub(super) fn result(&mut self, os: &mut Os<'_>) -> Option<NatProfile> {
        let until = self.until?;
        let answered = self.ports.is_empty() && self.connecting.is_none() && self.asked.is_empty();
        if !answered && os.now() < until {
            return None;
        }
        self.until = None;
        self.ports.clear();
        for socket in self.held.drain(..).chain(self.connecting.take().map(|(socket, _)| socket)) {
            os.close(socket);
        }
        Some(classify(&self.samples))
    }
}
