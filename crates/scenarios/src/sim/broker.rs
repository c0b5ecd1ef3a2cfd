//! The broker on a simulated host: the real rendezvous behind links without cryptography.

use std::net::{IpAddr, SocketAddr};

use natlab::Time;
use natlab::sim::{ConnectOptions, Event, Os, SocketError, SocketId};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{BROKER_PORT, KNOCK_WITHIN, PROBE_PORT};
use tcpunch_core::rendezvous::{self, Config, Input, KnockId, LinkId, Output, Rendezvous};
use tcpunch_core::wire::{KnockAnswer, ObservationToken, PREFACE, Preface, Probe, ToBroker, Welcome};

use super::clock::Clock;
use super::others::RELAYED;
use super::wire::{self, Inbox, Malformed};

/// How far a connection is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Preface,
    /// Its first handshake message is awaited.
    Hello,
    /// Its second.
    Proof(PublicKey, [u8; 8]),
    /// The first message on the link: only then the rendezvous hears of it.
    First(PublicKey, [u8; 8]),
    Link(LinkId),
    /// Whether knocks are asked for.
    Token(bool),
    /// Held open for the peer's sake.
    Observer,
    /// What comes is passed on to the other one of these: not ours, and not the rendezvous' affair.
    Relayed,
}

struct Connection {
    socket: SocketId,
    from: SocketAddr,
    probe: bool,
    stage: Stage,
    inbox: Inbox,
}

pub(super) struct BrokerAgent {
    clock: Clock,
    rendezvous: Rendezvous<ChaCha8Rng>,
    probes: Vec<Probe>,
    random: ChaCha8Rng,
    probe: Option<SocketId>,
    connections: Vec<Connection>,
    knocks: Vec<(SocketId, KnockId, Time)>,
    last_link: u64,
    /// Why it can't work.
    pub(super) broken: Option<String>,
}

impl BrokerAgent {
    /// `second`: a second address of its host.
    pub(super) fn new(clock: Clock, public: Option<IpAddr>, second: Option<IpAddr>, seed: u64) -> Self {
        let public = public.into_iter().collect();
        let places = [Some(None), second.map(Some)].into_iter().flatten();
        let probes: Vec<Probe> = places.map(|ip| Probe { ip, port: PROBE_PORT }).collect();
        let config = Config { probes: probes.clone(), public, ..Config::default() };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            clock,
            rendezvous: Rendezvous::new(config, ChaCha8Rng::from_rng(&mut random)),
            probes,
            random,
            probe: None,
            connections: Vec::new(),
            knocks: Vec::new(),
            last_link: 0,
            broken: None,
        }
    }

    /// Whether nothing is left of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.rendezvous.is_empty()
    }

    pub(super) fn handle(&mut self, os: &mut Os<'_>, event: Event) {
        match event {
            Event::Started => self.listen(os),
            Event::Woken => {}
            Event::Connected(socket) => {
                if self.knocked(os, socket, KnockAnswer::Accepted) {
                    os.close(socket);
                }
            }
            Event::Failed(socket, error) => {
                let answer = match error {
                    SocketError::Refused | SocketError::Reset => KnockAnswer::Refused,
                    SocketError::HostUnreachable | SocketError::NetUnreachable | SocketError::Prohibited => {
                        KnockAnswer::Unreachable
                    }
                    SocketError::TimedOut
                    | SocketError::AddressNotAvailable
                    | SocketError::AddressInUse
                    | SocketError::TooManyFiles => KnockAnswer::Silent,
                };
                self.knocked(os, socket, answer);
            }
            Event::Accepted { listener, socket } => {
                if let Some(from) = os.remote(socket) {
                    let probe = self.probe == Some(listener);
                    let (stage, inbox) = (Stage::Preface, Inbox::default());
                    self.connections.push(Connection { socket, from, probe, stage, inbox });
                }
            }
            Event::Readable(socket) => self.readable(os, socket),
            Event::Finished(socket) => self.end(os, socket, true),
            Event::Broken(socket, _) => self.end(os, socket, false),
        }
        let silent: Vec<SocketId> =
            self.knocks.iter().filter(|(.., until)| *until <= os.now()).map(|(socket, ..)| *socket).collect();
        for socket in silent {
            os.abort(socket);
            self.knocked(os, socket, KnockAnswer::Silent);
        }
        self.settle(os);
    }

    /// Whether that was a knock.
    fn knocked(&mut self, os: &Os<'_>, socket: SocketId, answer: KnockAnswer) -> bool {
        let Some(at) = self.knocks.iter().position(|(own, ..)| *own == socket) else { return false };
        let (_, knock, _) = self.knocks.swap_remove(at);
        let input = Input::Knocked { knock, answer: Some(answer) };
        self.rendezvous.handle(self.clock.instant(os.now()), input);
        true
    }

    fn listen(&mut self, os: &mut Os<'_>) {
        match (os.listen(BROKER_PORT), os.listen(PROBE_PORT)) {
            (Ok(_), Ok(probe)) => self.probe = Some(probe),
            (Err(error), _) | (_, Err(error)) => {
                self.broken = Some(format!("the broker can't listen: {error:?}"));
            }
        }
    }

    fn end(&mut self, os: &mut Os<'_>, socket: SocketId, close: bool) {
        let Some(at) = self.connections.iter().position(|it| it.socket == socket) else { return };
        let connection = self.connections.swap_remove(at);
        if close {
            os.close(socket);
        }
        if let Stage::Link(link) = connection.stage {
            self.rendezvous.handle(self.clock.instant(os.now()), Input::LinkDown { link });
        }
    }

    fn readable(&mut self, os: &mut Os<'_>, socket: SocketId) {
        let Some(at) = self.connections.iter().position(|it| it.socket == socket) else { return };
        if let Some(connection) = self.connections.get_mut(at) {
            connection.inbox.fill(os, socket);
        }
        loop {
            match self.step(os, at) {
                Ok(true) => {}
                Ok(false) => return,
                Err(Malformed) => return self.end(os, socket, true),
            }
        }
    }

    /// Takes the next thing that came in; whether there was one.
    fn step(&mut self, os: &mut Os<'_>, at: usize) -> Result<bool, Malformed> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(false) };
        let Connection { socket, from, probe, stage, inbox } = connection;
        let now = self.clock.instant(os.now());
        match *stage {
            Stage::Preface => {
                let Some(preface) = inbox.take_array::<PREFACE>() else { return Ok(false) };
                if preface == RELAYED {
                    *stage = Stage::Relayed;
                    self.relay(os);
                    return Ok(false);
                }
                *stage = match Preface::decode(preface) {
                    Ok(Preface::Link(_)) if !*probe => Stage::Hello,
                    Ok(Preface::Observe) => Stage::Token(false),
                    Ok(Preface::Knock) => Stage::Token(true),
                    Ok(Preface::Link(_)) | Err(_) => return Err(Malformed),
                };
            }
            Stage::Hello => {
                let Some(peer) = inbox.hello()? else { return Ok(false) };
                let token = self.random.random();
                let (advertised, probes) = (Vec::new(), self.probes.clone());
                let mut out = Vec::new();
                wire::answer(&mut out, &Welcome { observed: *from, token, advertised, probes });
                os.write(*socket, &out);
                *stage = Stage::Proof(peer, token);
            }
            Stage::Proof(peer, token) => {
                if !inbox.proof()? {
                    return Ok(false);
                }
                *stage = Stage::First(peer, token);
            }
            Stage::First(peer, token) => {
                let Some(message) = inbox.message::<ToBroker>()? else { return Ok(false) };
                self.last_link += 1;
                let link = LinkId(self.last_link);
                *stage = Stage::Link(link);
                let round_trip = os.round_trip(*socket);
                self.rendezvous.handle(now, Input::LinkUp { link, peer, observed: *from, token });
                self.rendezvous.handle(now, Input::Message { link, message, round_trip });
            }
            Stage::Link(link) => {
                let Some(message) = inbox.message::<ToBroker>()? else { return Ok(false) };
                let round_trip = os.round_trip(*socket);
                self.rendezvous.handle(now, Input::Message { link, message, round_trip });
            }
            Stage::Token(knocks) => {
                let Some(token) = inbox.take_array::<{ size_of::<ObservationToken>() }>() else {
                    return Ok(false);
                };
                *stage = Stage::Observer;
                let knock_from = os.local(*socket).filter(|_| knocks).map(|own| own.ip());
                self.rendezvous.handle(now, Input::Observation { token, from: *from, knock_from });
            }
            Stage::Observer => return Ok(false),
            Stage::Relayed => {
                self.relay(os);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes on what came from the one to the other, once both are there.
    fn relay(&mut self, os: &mut Os<'_>) {
        let mut two = self.connections.iter_mut().filter(|it| matches!(it.stage, Stage::Relayed));
        if let (Some(one), Some(other)) = (two.next(), two.next()) {
            os.write(other.socket, one.inbox.take_all());
            os.write(one.socket, other.inbox.take_all());
        }
    }

    /// Carries out what the rendezvous says; what goes out on one link at once goes out in one write.
    fn settle(&mut self, os: &mut Os<'_>) {
        let mut writes: Vec<(SocketId, Vec<u8>)> = Vec::new();
        loop {
            match self.rendezvous.poll(self.clock.instant(os.now())) {
                Output::Send { link, message } => {
                    let Some(socket) = self.socket(link) else { continue };
                    match writes.iter_mut().find(|(to, _)| *to == socket) {
                        Some((_, out)) => wire::message(out, &*message),
                        None => {
                            let mut out = Vec::new();
                            wire::message(&mut out, &*message);
                            writes.push((socket, out));
                        }
                    }
                }
                Output::Close { link } => {
                    if let Some(socket) = self.socket(link) {
                        self.connections.retain(|it| it.socket != socket);
                        if let Some(at) = writes.iter().position(|(to, _)| *to == socket) {
                            os.write(socket, &writes.swap_remove(at).1);
                        }
                        os.close(socket);
                    }
                }
                Output::Knock { knock, from, to } => {
                    let options = ConnectOptions { source: Some(from), port: 0, ttl: None };
                    match os.connect(to, options) {
                        Ok(socket) => self.knocks.push((socket, knock, os.now() + KNOCK_WITHIN)),
                        Err(_) => {
                            let input = Input::Knocked { knock, answer: None };
                            self.rendezvous.handle(self.clock.instant(os.now()), input);
                        }
                    }
                }
                Output::Event(
                    rendezvous::Event::Registered { .. }
                    | rendezvous::Event::Left { .. }
                    | rendezvous::Event::Introduced { .. }
                    | rendezvous::Event::Go { .. },
                ) => {}
                Output::Wait(at) => {
                    for (socket, out) in writes {
                        os.write(socket, &out);
                    }
                    let silent = self.knocks.iter().map(|(.., until)| *until);
                    if let Some(at) = silent.chain(at.map(|at| self.clock.time(at))).min() {
                        os.wake_at(at);
                    }
                    return;
                }
            }
        }
    }

    fn socket(&self, link: LinkId) -> Option<SocketId> {
        let its = |it: &&Connection| matches!(it.stage, Stage::Link(own) if own == link);
        self.connections.iter().find(its).map(|it| it.socket)
    }
}
