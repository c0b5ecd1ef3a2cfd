//! One task for each endpoint that knows its invitations, claims, lobby and attempts, and turns
//! what the broker says into them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tcpunch_core::candidate::{Surroundings, is_plausible};
use tcpunch_core::code::{Code, Secret, Verb};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{
    CLOSE_WITHIN, CODE_LIFE, INTRODUCTION_WINDOW, KEPT_WITHIN, LOBBY_CONNECTIONS, LOBBY_INTRODUCTIONS,
    LOBBY_MEMBERS_MOST, MAX_OBSERVED, MEET_AGAIN_FIRST, MEET_AGAIN_MOST, OTHER_FAMILY_WITHIN,
    PROOFS_PER_CODE, WRONG_GUESSES,
};
use tcpunch_core::plan::{Obstacle, Path, Rules, SynBudget, may_tell_hosts, may_tell_mapped};
use tcpunch_core::profile::{Behaviour, NatProfile, Sample, classify};
use tcpunch_core::secure::{CodeKey, Meeting, Opening, Pake, PeerKeys, Share, Told, respond};
use tcpunch_core::survey::Observer;
use tcpunch_core::wire::{
    About, ClaimId, FromBroker, Introduction, IntroductionId, Met, Refusal, Signal, ToBroker, Welcome,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::attempt::{self, Reach, Secrets, Sources};
use crate::connection::{Answer, Connection, ConnectionHandle};
use crate::diagnose::{self, Said};
use crate::door::Door;
use crate::endpoint::{EventSink, InviteNews, LobbyNews};
use crate::error::{BrokerError, ConnectError, Event};
use crate::gather;
use crate::listener::Router;
use crate::memory::Memory;
use crate::network::Network;
use crate::port::Families;
use crate::portmap::Portmapper;
use crate::registration::{BrokerAddress, Notice, Order};
use crate::report::{Origin, Registered, Report};

/// What users of an endpoint ask for.
pub(crate) enum Command {
    Invite {
        verb: Verb,
        reply: mpsc::UnboundedSender<InviteNews>,
        id: oneshot::Sender<u64>,
    },
    Withdraw {
        id: u64,
    },
    Connect {
        code: Code,
        verb: Verb,
        reply: Reply,
        introduced: watch::Sender<bool>,
    },
    Lobby {
        news: mpsc::UnboundedSender<LobbyNews>,
    },
    /// `patient`: the answer may wait until all is measured.
    Report {
        patient: bool,
        reply: oneshot::Sender<Report>,
    },
}

type Reply = oneshot::Sender<Result<Connection, ConnectError>>;

/// What a hub needs.
pub(crate) struct Setup {
    pub(crate) key: PublicKey,
    pub(crate) door: Arc<Door>,
    pub(crate) network: Network,
    pub(crate) families: Families,
    pub(crate) timeout: Duration,
    /// How much later the signal to fire is heard; zero but in tests of timing.
    pub(crate) late: Duration,
    pub(crate) rules: Rules,
    pub(crate) events: EventSink,
    pub(crate) router: Arc<Router>,
    pub(crate) portmap: Portmapper,
    pub(crate) link: mpsc::Sender<Order>,
    pub(crate) memory: Arc<Memory>,
}

struct Invitation {
    id: u64,
    verb: Verb,
    secret: Secret,
    /// Which of this endpoint's requests for a code is not answered yet.
    request: Option<u32>,
    /// None before the present link's broker has given one.
    number: Option<u32>,
    /// What the user was told, to have it again.
    told: Option<u32>,
    pake: Option<Pake>,
    wrong: u8,
    accepted: Option<Accepted>,
    attempt: Option<AbortHandle>,
    reply: mpsc::UnboundedSender<InviteNews>,
}

/// Somebody showed that it has the words; the broker is to introduce it.
struct Accepted {
    claim: ClaimId,
    peer: PublicKey,
    keys: PeerKeys,
    told: Told,
    mapped_told: Option<SocketAddr>,
}

struct Claim {
    code: Code,
    verb: Verb,
    id: Option<ClaimId>,
    opening: Option<Opening>,
    mapped_told: Option<SocketAddr>,
    reply: Reply,
    introduced: watch::Sender<bool>,
}

/// How often a code was proven. Each proof lets who answers for the broker test one pair of words, however many claims
/// they belong to.
struct Proven {
    number: u32,
    secret: Secret,
    times: u8,
    since: Instant,
}

struct Lobby {
    /// The answer to the last join has come.
    answered: bool,
    openings: Vec<Option<Opening>>,
    connected: HashMap<PublicKey, ConnectionHandle>,
    /// Whether the present link was told of it.
    joined: bool,
    /// Members that were lost, or don't answer, and have not left.
    missing: HashSet<PublicKey>,
    /// Of those connected, who has left the broker.
    left: HashSet<PublicKey>,
    /// When the lobby is joined again, to be introduced to who is missing.
    again_at: Option<Instant>,
    /// How long after that once more.
    pause: Duration,
    introductions: VecDeque<Instant>,
    news: mpsc::UnboundedSender<LobbyNews>,
}

impl Lobby {
    fn new(news: mpsc::UnboundedSender<LobbyNews>) -> Self {
        Lobby {
            answered: false,
            openings: Vec::new(),
            connected: HashMap::new(),
            joined: false,
            missing: HashSet::new(),
            left: HashSet::new(),
            again_at: None,
            pause: MEET_AGAIN_FIRST,
            introductions: VecDeque::new(),
            news,
        }
    }
}

/// Who waits for the end of an attempt.
enum For {
    Invitation(u64),
    /// And what is dropped by who doesn't wait any more.
    Claim(Reply, Option<watch::Sender<bool>>),
    Lobby,
}

/// What an attempt begins with: secrets, what the peer told of itself, which own forwarded port it was told, and who waits.
type Prepared = (Secrets, Told, Option<SocketAddr>, For);

struct Link {
    remote: SocketAddr,
    local: SocketAddr,
    observed: Option<SocketAddr>,
    observer: Option<Observer>,
}

struct Running {
    inbox: mpsc::Sender<attempt::Message>,
    waits: For,
    peer: PublicKey,
    /// Where the broker saw it.
    addresses: Vec<SocketAddr>,
    /// Of an attempt in the lobby, which a later one may replace.
    task: Option<AbortHandle>,
    /// Names the task, also where it ended without a result.
    id: Option<Id>,
}

/// A survey of the own network.
struct Surveyed {
    /// Which of the networks of this endpoint's life, own address, the one outside, and the broker's, that of the link.
    network: (u64, IpAddr, IpAddr, SocketAddr),
    running: Option<Survey>,
}

struct Survey {
    learnt: mpsc::Receiver<NatProfile>,
    said: mpsc::Sender<Said>,
    /// Ends with this.
    _task: JoinSet<()>,
}

pub(crate) struct Hub {
    setup: Setup,
    broker: Option<(BrokerAddress, PublicKey)>,
    links: Vec<Link>,
    advertised: Vec<String>,
    invitations: Vec<Invitation>,
    /// Requests for codes so far.
    requests: u32,
    /// Codes that were given up while no link stood.
    withdrawn: Vec<u32>,
    claims: Vec<Claim>,
    proven: Vec<Proven>,
    syns: Arc<Mutex<SynBudget>>,
    lobby: Option<Lobby>,
    running: HashMap<IntroductionId, Running>,
    /// Nothing came of those that nobody waits for any more.
    attempts: JoinSet<Option<Result<Connection, Box<Obstacle>>>>,
    /// Connections of the lobby that are watched for their end; whether it was a loss.
    ends: JoinSet<(PublicKey, ConnectionHandle, bool)>,
    profile: watch::Sender<NatProfile>,
    observers: watch::Sender<attempt::Observers>,
    survey: Option<Surveyed>,
    /// What the present survey found out; where it does not know, what is remembered of this network serves until it is over.
    fresh: NatProfile,
    /// Whether the profile is that of a survey which is over.
    measured: bool,
    /// Which of the networks of this endpoint's life the profile belongs to.
    network: u64,
    /// What is being written to the disk of it.
    kept: JoinSet<()>,
    /// Who waits until all is measured.
    reports: Vec<oneshot::Sender<Report>>,
    /// When the present link came to stand, and with it the question whether one of the other family does.
    linked_at: Instant,
    next_id: u64,
    /// Why there will be no link any more.
    over: Option<BrokerError>,
}

impl Hub {
    pub(crate) fn new(setup: Setup) -> Self {
        Hub {
            setup,
            broker: None,
            links: Vec::new(),
            advertised: Vec::new(),
            invitations: Vec::new(),
            requests: 0,
            withdrawn: Vec::new(),
            claims: Vec::new(),
            proven: Vec::new(),
            syns: Arc::default(),
            lobby: None,
            running: HashMap::new(),
            attempts: JoinSet::new(),
            ends: JoinSet::new(),
            observers: watch::channel(attempt::Observers::default()).0,
            profile: watch::channel(NatProfile::default()).0,
            survey: None,
            fresh: NatProfile::default(),
            measured: false,
            network: 0,
            kept: JoinSet::new(),
            reports: Vec::new(),
            linked_at: Instant::now(),
            next_id: 0,
            over: None,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut notices: mpsc::Receiver<Notice>,
    ) {
        let mut linked = true;
        let mut network = self.setup.network.clone();
        let mut portmap = self.setup.portmap.clone();
        loop {
            self.answer_reports();
            let again_at = self.lobby.as_ref().and_then(|lobby| lobby.again_at);
            tokio::select! {
                // Links first: a claim is then written on the link that was just made.
                biased;
                notice = notices.recv(), if linked => match notice {
                    Some(notice) => self.notice(notice),
                    None => {
                        linked = false;
                        if self.over.is_none() {
                            self.give_up_for_good(BrokerError::Lost);
                        }
                    }
                },
                Some(ended) = self.attempts.join_next_with_id() => match ended {
                    Ok((task, result)) => self.ended(task, result),
                    Err(error) => self.ended(error.id(), None),
                },
                Some(ended) = self.ends.join_next() => {
                    if let Ok((peer, connection, lost)) = ended {
                        self.connection_over(peer, &connection, lost);
                    }
                }
                _ = network.doubt() => self.probe(),
                () = async { tokio::time::sleep_until(again_at.unwrap_or_else(Instant::now).into()).await },
                    if again_at.is_some() => self.meet_again(),
                learnt = async {
                    match &mut self.survey {
                        Some(Surveyed { running: Some(running), .. }) => running.learnt.recv().await,
                        Some(Surveyed { running: None, .. }) | None => std::future::pending().await,
                    }
                } => match (learnt, &mut self.survey) {
                    (Some(profile), _) => {
                        self.fresh = profile;
                        let known = self.setup.memory.known().map(|known| known.profile);
                        self.learnt(known.map_or(profile, |known| profile.filled_from(known)));
                    }
                    (None, Some(survey)) => {
                        survey.running = None;
                        self.surveyed();
                        (self.setup.events)(Event::Surveyed);
                    }
                    (None, None) => {}
                },
                Some(_) = self.kept.join_next() => {}
                () = portmap.changed(), if !self.reports.is_empty() => {}
                () = tokio::time::sleep_until((self.linked_at + OTHER_FAMILY_WITHIN).into()),
                    if !self.reports.is_empty() && self.awaits_other_family() => {}
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
            }
        }
    }

    /// Never waits: the keeper of the links waits for this task in turn.
    fn send(&self, message: ToBroker) {
        if self.setup.link.try_send(Order::Say(message)).is_err() {
            tracing::warn!("a message to the broker is dropped: more wait than a link can take");
        }
    }

    /// Asks for a code for this invitation, with the number that it had.
    fn open(&mut self, id: u64) {
        self.requests = self.requests.wrapping_add(1);
        let request = self.requests;
        let Some(invitation) = self.invitations.iter_mut().find(|invitation| invitation.id == id) else {
            return;
        };
        invitation.request = Some(request);
        let (verb, again) = (invitation.verb, invitation.told);
        self.send(ToBroker::Open { request, verb, again });
    }

    /// A number that nobody waits under any more.
    fn withdraw(&mut self, number: u32) {
        if self.links.is_empty() {
            self.withdrawn.push(number);
        } else {
            self.send(ToBroker::Withdraw { number });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Invite { verb, reply, id } => {
                self.next_id += 1;
                let _ = id.send(self.next_id);
                self.invitations.push(Invitation {
                    id: self.next_id,
                    verb,
                    secret: Secret::generate(&mut rand::rng()),
                    request: None,
                    number: None,
                    told: None,
                    pake: None,
                    wrong: 0,
                    accepted: None,
                    attempt: None,
                    reply,
                });
                // A link that comes up asks by itself.
                if !self.links.is_empty() {
                    self.open(self.next_id);
                }
            }
            Command::Withdraw { id } => {
                if let Some(at) = self.invitations.iter().position(|invitation| invitation.id == id) {
                    let invitation = self.invitations.swap_remove(at);
                    if let Some(attempt) = invitation.attempt {
                        attempt.abort();
                    }
                    if let Some(number) = invitation.number {
                        self.withdraw(number);
                    }
                }
            }
            Command::Connect { code, verb, reply, introduced } => {
                // Given up already: it must not use up the code.
                if reply.is_closed() {
                    return;
                }
                let number = code.number;
                self.claims.retain(|claim| !claim.reply.is_closed());
                if self.claims.iter().any(|claim| claim.code.number == number) {
                    // A code serves once.
                    let _ = reply.send(Err(ConnectError::NoSuchCode(number)));
                    return;
                }
                self.claims.push(Claim {
                    code,
                    verb,
                    id: None,
                    opening: None,
                    mapped_told: None,
                    reply,
                    introduced,
                });
                if !self.links.is_empty() {
                    self.send(ToBroker::Claim { number, verb });
                }
            }
            Command::Lobby { news } => {
                if let Some(error) = self.over.clone() {
                    let _ = news.send(LobbyNews::Refused(error.into()));
                }
                self.lobby = Some(Lobby::new(news));
                self.join();
            }
            Command::Report { patient: true, reply } => self.reports.push(reply),
            Command::Report { patient: false, reply } => drop(reply.send(self.report())),
        }
        if let Some(error) = self.over.clone() {
            self.refuse_asked(&error);
        }
    }

    /// Joins the lobby, or says once more who is connected: the broker introduces the others. Who
    /// was asked for a sign of life and has time left to give it is waited for first.
    fn join(&mut self) {
        let own = self.setup.key;
        let now = Instant::now();
        let linked = !self.links.is_empty();
        let Some(lobby) = &mut self.lobby else { return };
        // A link that comes up joins by itself.
        lobby.again_at = None;
        if !linked {
            return;
        }
        lobby.connected.retain(|_, connection| connection.is_alive());
        let awaited = lobby.connected.values().filter_map(|connection| match connection.answer(now) {
            Answer::Awaited(until) => Some(until),
            Answer::Heard | Answer::None => None,
        });
        if let Some(until) = awaited.max() {
            lobby.again_at = Some(until);
            return;
        }
        lobby.answered = false;
        let mut openers = Vec::new();
        lobby.openings.clear();
        for _ in 1..LOBBY_MEMBERS_MOST {
            if let Ok((opening, message)) = Opening::open(&own) {
                lobby.openings.push(Some(opening));
                openers.push(message);
            }
        }
        let answering = |(peer, connection): (&PublicKey, &ConnectionHandle)| {
            (connection.answer(now) == Answer::Heard).then_some(*peer)
        };
        let mut connected: Vec<PublicKey> = lobby.connected.iter().filter_map(answering).collect();
        lobby.missing.retain(|peer| !connected.contains(peer));
        // What runs over this link needs no second introduction; what ran over the last one does.
        if std::mem::replace(&mut lobby.joined, true) {
            let running = self.running.values().filter(|running| running.task.is_some());
            connected.extend(running.map(|running| running.peer));
        }
        if !lobby.missing.is_empty() {
            lobby.again_at = Some(now + lobby.pause);
            lobby.pause = (lobby.pause * 2).min(MEET_AGAIN_MOST);
        }
        self.send(ToBroker::Join { connected, openers });
    }

    /// Asks everyone in the lobby for a sign of life, so that a link that is made again soon knows who gives none.
    fn probe(&mut self) {
        let Some(lobby) = &mut self.lobby else { return };
        let now = Instant::now();
        for connection in lobby.connected.values() {
            // Who was asked and is silent since needs no second question.
            if connection.answer(now) == Answer::Heard {
                connection.probe();
            }
        }
    }

    /// Joins again if somebody is missing, or the present link does not know of the lobby. Who is silent but not lost is
    /// not met again over the same link: its addresses are in use by the silent connection.
    fn meet_again(&mut self) {
        let Some(lobby) = &mut self.lobby else { return };
        lobby.again_at = None;
        if !lobby.missing.is_empty() || !lobby.joined {
            self.join();
        }
    }

    fn connection_over(&mut self, peer: PublicKey, connection: &ConnectionHandle, lost: bool) {
        let Some(lobby) = &mut self.lobby else { return };
        // Another may have taken its place.
        if lobby.connected.get(&peer).is_some_and(|current| current.is(connection)) {
            lobby.connected.remove(&peer);
            let left = lobby.left.remove(&peer);
            if lost && !left && lobby.missing.insert(peer) {
                lobby.again_at.get_or_insert(Instant::now() + lobby.pause);
                // Perhaps it is this side that has gone.
                self.setup.network.silence();
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Up { broker, key, remote, local, welcome } => {
                self.broker = Some((broker, key));
                self.links = vec![Link { remote, local, observed: None, observer: None }];
                self.linked_at = Instant::now();
                // What another network was is of no use in this one; the broker was told by the registration.
                let network = self.setup.memory.visits();
                if std::mem::replace(&mut self.network, network) != network {
                    let known = self.setup.memory.known().map(|known| known.profile);
                    self.profile.send_replace(known.unwrap_or_default());
                    self.measured = false;
                }
                self.welcome(remote, local, *welcome);
                self.ask();
            }
            Notice::Also { remote, local, welcome } => {
                self.links.push(Link { remote, local, observed: None, observer: None });
                self.welcome(remote, local, *welcome);
            }
            Notice::Message(message) => self.message(*message),
            Notice::Less { local } => self.links.retain(|link| link.local != local),
            Notice::Down => {
                self.links.clear();
                if let Some(lobby) = &mut self.lobby {
                    lobby.joined = false;
                }
                self.probe();
                (self.setup.events)(Event::LinkLost);
            }
            Notice::Refused(error) => self.give_up_for_good(error),
        }
    }

    /// Asks for what is wanted on a link that has come up: what came before it, and what a broker forgot when the last one
    /// was lost.
    fn ask(&mut self) {
        for number in std::mem::take(&mut self.withdrawn) {
            self.withdraw(number);
        }
        let mut open = Vec::new();
        for invitation in self.invitations.iter_mut().filter(|invitation| invitation.attempt.is_none()) {
            invitation.pake = None;
            invitation.number = None;
            open.push(invitation.id);
        }
        for id in open {
            self.open(id);
        }
        self.claims.retain(|claim| !claim.reply.is_closed());
        for claim in &mut self.claims {
            claim.id = None;
            claim.opening = None;
        }
        let claims: Vec<(u32, Verb)> =
            self.claims.iter().map(|claim| (claim.code.number, claim.verb)).collect();
        for (number, verb) in claims {
            self.send(ToBroker::Claim { number, verb });
        }
        if self.lobby.is_some() {
            self.join();
        }
    }

    /// There will be no link any more: what is asked for from now on is answered at once.
    fn give_up_for_good(&mut self, error: BrokerError) {
        self.over = Some(error.clone());
        self.give_up(error);
    }

    fn give_up(&mut self, error: BrokerError) {
        self.refuse_asked(&error);
        if let Some(lobby) = &self.lobby {
            let _ = lobby.news.send(LobbyNews::Refused(error.into()));
        }
    }

    fn refuse_asked(&mut self, error: &BrokerError) {
        // An attempt that runs needs no broker any more.
        self.invitations.retain(|invitation| {
            if invitation.attempt.is_none() {
                let _ = invitation.reply.send(InviteNews::Ended(Err(error.clone().into())));
            }
            invitation.attempt.is_some()
        });
        for claim in self.claims.drain(..) {
            let _ = claim.reply.send(Err(error.clone().into()));
        }
    }

    fn message(&mut self, message: FromBroker) {
        // Who asked may have stopped waiting.
        self.claims.retain(|claim| !claim.reply.is_closed());
        match message {
            FromBroker::Observed { question, from } => {
                self.tell_survey(Said::Observed(question, from));
            }
            FromBroker::Knocked { question, elsewhere, answer } => {
                self.tell_survey(Said::Knocked(question, elsewhere, answer));
            }
            FromBroker::Opened { request, number, .. } => self.opened(request, number),
            FromBroker::Expired { number } => self.end_invitation(number, ConnectError::NobodyCame),
            FromBroker::Claimed { number, claim, waiter, share } => {
                self.claimed(number, claim, waiter, &share);
            }
            FromBroker::Proof { number, claim, peer, share, handshake } => {
                self.proof(number, claim, peer, &share, &handshake);
            }
            FromBroker::WrongWords { claim, left } => {
                let left = left.min(WRONG_GUESSES);
                self.end_claim(|own| own.id == Some(claim), ConnectError::WrongWords(left));
            }
            FromBroker::Gone { claim } => self.gone(claim),
            FromBroker::Introduced(introduction) => self.introduced(introduction),
            FromBroker::SeenAt { introduction, address } => {
                self.tell(introduction, attempt::Message::SeenAt(address));
            }
            FromBroker::ProfileOf { introduction, profile } => {
                self.tell(introduction, attempt::Message::Profile(profile));
            }
            FromBroker::Go { introduction } => self.tell_late(introduction, attempt::Message::Go),
            FromBroker::Relayed { introduction, signal } => {
                self.tell(introduction, attempt::Message::Signal(signal));
            }
            FromBroker::Joined { members, capacity, introductions } => {
                // One join has one answer.
                if self.lobby.as_mut().is_some_and(|lobby| !std::mem::replace(&mut lobby.answered, true)) {
                    self.lobby_news(LobbyNews::Joined { members, capacity, introductions });
                }
            }
            FromBroker::Left { peer } => {
                // Whom this side never met can't leave it.
                let mut met = false;
                if let Some(lobby) = &mut self.lobby {
                    met = lobby.missing.remove(&peer);
                    if lobby.connected.contains_key(&peer) {
                        lobby.left.insert(peer);
                        met = true;
                    }
                }
                if met || self.running.values().any(|running| running.peer == peer) {
                    self.lobby_news(LobbyNews::Left(peer));
                }
            }
            FromBroker::Refused { about, refusal } => self.refused(about, refusal),
            FromBroker::RoundWanted { introduction, round } => {
                self.tell(introduction, attempt::Message::RoundWanted(round));
            }
            FromBroker::Round { introduction, round, peer } => {
                self.tell_late(introduction, attempt::Message::Round(round, peer));
            }
            FromBroker::Ping(_) | FromBroker::Pong(_) => {}
        }
    }

    fn tell(&self, introduction: IntroductionId, message: attempt::Message) {
        if let Some(running) = self.running.get(&introduction) {
            // A full inbox means a flood; the attempt goes on without.
            let _ = running.inbox.try_send(message);
        }
    }

    /// Tells when to fire, as late as a test wants it.
    fn tell_late(&self, introduction: IntroductionId, message: attempt::Message) {
        if self.setup.late.is_zero() {
            self.tell(introduction, message);
        } else if let Some(running) = self.running.get(&introduction) {
            let (inbox, late) = (running.inbox.clone(), self.setup.late);
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                let _ = inbox.try_send(message);
            });
        }
    }

    fn lobby_news(&self, news: LobbyNews) {
        if let Some(lobby) = &self.lobby {
            let _ = lobby.news.send(news);
        }
    }

    fn welcome(&mut self, remote: SocketAddr, local: SocketAddr, welcome: Welcome) {
        let Welcome { observed, token, advertised, probes } = welcome;
        // They come to stand in commands that people copy: only what is an address.
        let addresses = advertised.iter().filter_map(|text| text.parse::<BrokerAddress>().ok());
        self.advertised = addresses.map(|address| address.in_code()).collect();
        if let Some((_, key)) = &self.broker {
            let event = Event::Registered { broker: remote, key: *key, local, observed };
            (self.setup.events)(event);
        }
        if !is_plausible(observed.ip(), local.ip(), remote.ip(), &gather::gateways()) {
            tracing::warn!(
                "the broker at {remote} says that it sees this peer at {observed}, where it can't"
            );
            return;
        }
        if let Some(link) = self.links.iter_mut().find(|link| link.remote == remote) {
            link.observed = Some(observed);
            link.observer = Some(Observer::new(remote, &probes, token));
            self.observers.send_replace([self.observer(true), self.observer(false)]);
        }
        self.setup.portmap.registered();
        if self.setup.memory.known().is_some_and(|known| known.worked == Some(Path::Mapped)) {
            // What worked here last is begun with.
            self.setup.portmap.needed();
        }
        let door = Sample { local, destination: remote, observed };
        // What a link over IPv6 shows says nothing of the translator that IPv4 has.
        if !remote.ip().to_canonical().is_ipv4() && self.setup.families.v4 {
            return;
        }
        let network = (self.network, local.ip(), observed.ip(), remote);
        let same = self.survey.as_ref().is_some_and(|survey| survey.network == network);
        if !same {
            let seen = classify(&[door]);
            let remembered = self.setup.memory.known().map(|known| known.profile);
            self.learnt(remembered.map_or(seen, |known| seen.filled_from(known)));
        }
        // What was learnt over a link that is gone stays true; what was being asked there is not answered any more.
        if !same || self.survey.as_ref().is_some_and(|survey| survey.running.is_some()) {
            self.fresh = classify(&[door]);
            self.measured = false;
            let (learns, learnt) = mpsc::channel(1);
            let (said, hears) = mpsc::channel(diagnose::SAID);
            let mut task = JoinSet::new();
            task.spawn(diagnose::survey(door, probes, token, hears, learns));
            self.survey = Some(Surveyed { network, running: Some(Survey { learnt, said, _task: task }) });
        }
    }

    fn tell_survey(&self, said: Said) {
        if let Some(Surveyed { running: Some(running), .. }) = &self.survey {
            let _ = running.said.try_send(said);
        }
    }

    fn learnt(&mut self, profile: NatProfile) {
        if profile.is_symmetric() {
            self.setup.portmap.needed();
        }
        if self.profile.send_if_modified(|known| std::mem::replace(known, profile) != profile) {
            (self.setup.events)(Event::Profile(profile));
            self.send(ToBroker::Profile(profile));
        }
    }

    /// A survey is over. One that found nothing out takes nothing back.
    fn surveyed(&mut self) {
        let profile = self.fresh;
        if profile.mapping == Behaviour::Unknown && self.setup.memory.known().is_some() {
            return;
        }
        self.measured = profile != NatProfile::default();
        if let Some(kept) = self.setup.memory.learnt(profile) {
            self.kept.spawn(async move { drop(kept.await) });
        }
        self.learnt(profile);
    }

    /// Whether a link over the other family may yet come to stand beside the first.
    fn awaits_other_family(&self) -> bool {
        let literal = |(broker, _): &(BrokerAddress, PublicKey)| broker.host.parse::<IpAddr>().is_ok();
        let both = self.setup.families.v4 && self.setup.families.v6;
        self.links.len() == 1
            && both
            && !self.broker.as_ref().is_some_and(literal)
            && self.linked_at.elapsed() < OTHER_FAMILY_WITHIN
    }

    fn report(&self) -> Report {
        let report = Report::of_memory(&self.setup.memory);
        let link =
            |link: &Link| Registered { broker: link.remote, local: link.local, observed: link.observed };
        let origin = if self.measured { Origin::Measured } else { report.origin };
        let links = self.links.iter().map(link).collect();
        let port_mapping = self.setup.portmap.known();
        Report { links, profile: *self.profile.borrow(), origin, port_mapping, ..report }
    }

    fn answer_reports(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        let seen = self.links.first().is_some_and(|link| link.observed.is_some());
        let surveying = self.survey.as_ref().is_some_and(|survey| survey.running.is_some());
        let settled = self.setup.portmap.is_settled();
        if seen && !surveying && settled && self.kept.is_empty() && !self.awaits_other_family() {
            let report = self.report();
            for reply in self.reports.drain(..) {
                let _ = reply.send(report.clone());
            }
        }
    }

    /// `@HOST` of a printed code: where this peer reached the broker, unless that is an address of
    /// this machine only and the broker knows a better one.
    fn broker_in_code(&self) -> Option<String> {
        let (broker, _) = self.broker.as_ref()?;
        let loopback = self.links.iter().any(|link| link.remote.ip().to_canonical().is_loopback());
        match self.advertised.first() {
            // It is printed, and typed into a shell elsewhere.
            Some(advertised) if loopback && advertised.parse::<BrokerAddress>().is_ok() => {
                Some(advertised.clone())
            }
            _ => Some(broker.in_code()),
        }
    }

    fn meeting(&self, number: u32, verb: Verb) -> Option<Meeting> {
        self.broker.as_ref().map(|(_, broker)| Meeting { broker: *broker, number, verb })
    }

    fn opened(&mut self, request: u32, number: u32) {
        let broker = self.broker_in_code();
        let asked =
            |invitation: &Invitation| invitation.request == Some(request) && invitation.attempt.is_none();
        self.invitations.retain(|invitation| !(asked(invitation) && invitation.reply.is_closed()));
        let Some(invitation) = self.invitations.iter_mut().find(|invitation| asked(invitation)) else {
            // Nobody waits for it any more, unless it was asked for again over another link.
            if !self.invitations.iter().any(|invitation| invitation.told == Some(number)) {
                self.withdraw(number);
            }
            return;
        };
        invitation.request = None;
        let id = invitation.id;
        invitation.number = Some(number);
        invitation.told = Some(number);
        let code = Code { number, secret: invitation.secret.clone(), broker };
        let _ = invitation.reply.send(InviteNews::Opened(code));
        self.wait(id);
    }

    /// Gives the broker a fresh share: one share serves one guess.
    fn wait(&mut self, id: u64) {
        let Some(at) = self.invitations.iter().position(|invitation| invitation.id == id) else { return };
        let Some((number, verb)) =
            self.invitations.get(at).and_then(|invitation| Some((invitation.number?, invitation.verb)))
        else {
            return;
        };
        let Some(meeting) = self.meeting(number, verb) else { return };
        let Some(invitation) = self.invitations.get_mut(at) else { return };
        let pake = Pake::waiter(&invitation.secret, &meeting);
        let share = pake.share().clone();
        invitation.pake = Some(pake);
        self.send(ToBroker::Wait { number, share });
    }

    fn proof(&mut self, number: u32, claim: ClaimId, peer: PublicKey, share: &Share, handshake: &[u8]) {
        let own = self.setup.key;
        let own_told = self.own_told();
        let mapped_told = own_told.mapped;
        let Some(invitation) =
            self.invitations.iter_mut().find(|invitation| invitation.number == Some(number))
        else {
            return;
        };
        let Some(pake) = invitation.pake.take() else { return };
        let answered = pake
            .finish(share, &own, &peer)
            .and_then(|key: CodeKey| respond(&own, &peer, Some(&key), handshake, own_told));
        match answered {
            Ok((keys, answer, payload)) => {
                invitation.accepted = Some(Accepted { claim, peer, keys, told: payload.told, mapped_told });
                self.send(ToBroker::Accept { claim, handshake: answer });
            }
            Err(_) => {
                invitation.wrong += 1;
                let left = WRONG_GUESSES.saturating_sub(invitation.wrong);
                let id = invitation.id;
                let _ = invitation.reply.send(InviteNews::WrongGuess(left));
                (self.setup.events)(Event::WrongGuess { left });
                self.send(ToBroker::Reject { claim, left });
                if left == 0 {
                    self.burn(id);
                } else {
                    self.wait(id);
                }
            }
        }
    }

    /// Ends the invitation when the other side was told: a program may end with it.
    fn burn(&mut self, id: u64) {
        let Some(at) = self.invitations.iter().position(|invitation| invitation.id == id) else { return };
        let reply = self.invitations.swap_remove(at).reply;
        let (told, written) = oneshot::channel();
        let _ = self.setup.link.try_send(Order::Written(told));
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CLOSE_WITHIN, written).await;
            let _ = reply.send(InviteNews::Ended(Err(ConnectError::Burnt)));
        });
    }

    fn gone(&mut self, claim: ClaimId) {
        let found = self
            .invitations
            .iter_mut()
            .find(|invitation| invitation.accepted.as_ref().is_some_and(|accepted| accepted.claim == claim));
        if let Some(invitation) = found {
            invitation.accepted = None;
            let id = invitation.id;
            self.wait(id);
        }
    }

    fn claimed(&mut self, number: u32, id: ClaimId, waiter: PublicKey, share: &Share) {
        let own = self.setup.key;
        let own_told = self.own_told();
        let mapped_told = own_told.mapped;
        let known = self.broker.as_ref().map(|(_, key)| *key);
        let Some(claim) = self
            .claims
            .iter_mut()
            // A claim that was made twice is known by its last name; each proof is counted.
            .find(|claim| claim.code.number == number)
        else {
            return;
        };
        let Some(broker) = known else { return };
        if !may_prove(&mut self.proven, &claim.code, Instant::now()) {
            return self.end_claim(|claim| claim.code.number == number, ConnectError::NoAnswer);
        }
        let meeting = Meeting { broker, number, verb: claim.verb.partner() };
        let pake = Pake::arriver(&claim.code.secret, &meeting);
        let own_share = pake.share().clone();
        let opened =
            pake.finish(share, &waiter, &own).and_then(|key| Opening::with_code(&own, &key, own_told));
        let Ok((opening, handshake)) = opened else {
            // A share that is none: the broker or the waiter breaks the protocol.
            return self.end_claim(|claim| claim.code.number == number, ConnectError::NoAnswer);
        };
        claim.id = Some(id);
        claim.opening = Some(opening);
        claim.mapped_told = mapped_told;
        self.send(ToBroker::Prove { claim: id, share: own_share, handshake });
    }

    fn end_claim(&mut self, which: impl Fn(&Claim) -> bool, error: ConnectError) {
        if let Some(at) = self.claims.iter().position(which) {
            let claim = self.claims.swap_remove(at);
            let _ = claim.reply.send(Err(error));
        }
    }

    fn end_invitation(&mut self, number: u32, error: ConnectError) {
        let found = self
            .invitations
            .iter()
            .position(|invitation| invitation.number == Some(number) && invitation.attempt.is_none());
        if let Some(at) = found {
            let invitation = self.invitations.swap_remove(at);
            let _ = invitation.reply.send(InviteNews::Ended(Err(error)));
        }
    }

    fn refused(&mut self, about: About, refusal: Refusal) {
        let reason = match refusal {
            Refusal::TooMany => "too much was asked from this address; try again in a minute",
            Refusal::Full => "it is full",
            Refusal::LobbyFull => "the lobby is full",
            Refusal::LobbyOff => "this broker has no lobby; use a code: tcpunch chat --new",
            Refusal::NoSuchCode | Refusal::OtherVerb(_) | Refusal::OutOfOrder => "it did not understand",
        };
        let busy = ConnectError::Broker(BrokerError::Refuses(reason));
        match about {
            About::Link => self.give_up(BrokerError::Refuses(reason)),
            About::Join => {
                // One introduction less is no reason to leave.
                let error = match refusal {
                    Refusal::LobbyFull | Refusal::LobbyOff => ConnectError::Lobby(reason),
                    Refusal::OutOfOrder | Refusal::TooMany => {
                        tracing::warn!("an introduction was refused: {reason}");
                        return;
                    }
                    Refusal::Full | Refusal::NoSuchCode | Refusal::OtherVerb(_) => busy,
                };
                self.lobby_news(LobbyNews::Refused(error));
            }
            About::Open(request) => {
                let asked = |invitation: &Invitation| invitation.request == Some(request);
                if let Some(at) = self.invitations.iter().position(asked) {
                    let invitation = self.invitations.swap_remove(at);
                    let _ = invitation.reply.send(InviteNews::Ended(Err(busy)));
                    if let Some(number) = invitation.told {
                        self.withdraw(number);
                    }
                }
            }
            About::Claim(number) => self.refuse_claim(|claim| claim.code.number == number, refusal, busy),
            About::Proof(id) => self.refuse_claim(|claim| claim.id == Some(id), refusal, busy),
        }
    }

    fn refuse_claim(&mut self, which: impl Fn(&Claim) -> bool, refusal: Refusal, busy: ConnectError) {
        let Some(code) = self.claims.iter().find(|claim| which(claim)).map(|claim| claim.code.clone()) else {
            return;
        };
        let error = match refusal {
            Refusal::NoSuchCode => ConnectError::NoSuchCode(code.number),
            Refusal::OtherVerb(verb) => ConnectError::OtherVerb { verb, code: Box::new(code) },
            Refusal::LobbyFull
            | Refusal::LobbyOff
            | Refusal::TooMany
            | Refusal::Full
            | Refusal::OutOfOrder => busy,
        };
        self.end_claim(which, error);
    }

    fn own_hosts(&self) -> Vec<SocketAddr> {
        gather::hosts(&gather::interfaces(), self.setup.door.number(), self.setup.families)
    }

    /// The own port that a router forwards, where it may be of use to others.
    fn own_mapped(&self) -> Option<SocketAddr> {
        self.setup.portmap.external().filter(|external| may_tell_mapped(*external, &self.observed()))
    }

    fn own_told(&self) -> Told {
        Told { hosts: self.own_hosts(), mapped: self.own_mapped() }
    }

    fn observer(&self, v4: bool) -> Option<Observer> {
        self.links.iter().find(|link| link.remote.is_ipv4() == v4)?.observer.clone()
    }

    fn observed(&self) -> Vec<SocketAddr> {
        self.links.iter().filter_map(|link| link.observed).collect()
    }

    fn introduced(&mut self, mut introduction: Introduction) {
        introduction.addresses.truncate(MAX_OBSERVED);
        introduction.public.truncate(MAX_OBSERVED);
        let now = Instant::now();
        if introduction.peer == self.setup.key || self.running.contains_key(&introduction.id) {
            return;
        }
        let id = introduction.id;
        let peer = introduction.peer;
        let near = may_tell_hosts(&self.observed(), &introduction.addresses);
        let hosts = if near { self.own_hosts() } else { Vec::new() };
        // It says nothing that the broker does not: its port apart, it is where the broker saw this side.
        let mapped = self.own_mapped();
        let prepared = match &introduction.meeting {
            Met::LobbyArriver { opener } => self
                .lobby_arriver(peer, *opener, &introduction.addresses, now)
                .map(|opening| (Secrets::Opening(Box::new(opening)), Told::default(), None, For::Lobby)),
            Met::LobbyWaiter { opener } => {
                let own = self.setup.key;
                match self
                    .admit(peer, &introduction.addresses, now)
                    .then(|| respond(&own, &peer, None, opener, Told { hosts: hosts.clone(), mapped }))
                {
                    Some(Ok((keys, answer, _))) => {
                        let signal = Signal::Answer(answer.clone());
                        self.send(ToBroker::Relay { introduction: id, signal });
                        Some((Secrets::Keys(keys, answer), Told::default(), mapped, For::Lobby))
                    }
                    Some(Err(_)) | None => None,
                }
            }
            Met::CodeArriver { claim, answer } => self.code_arriver(*claim, peer, answer),
            Met::CodeWaiter { claim } => self.code_waiter(*claim, peer),
        };
        let Some((secrets, told, mapped_told, mut waits)) = prepared else { return };
        (self.setup.events)(Event::Introduced { peer, addresses: introduction.addresses.clone() });
        if matches!(waits, For::Lobby) {
            self.lobby_news(LobbyNews::Introduced(peer));
        }
        let interfaces = gather::interfaces();
        let source = |v4: bool| self.links.iter().map(|link| link.local.ip()).find(|ip| ip.is_ipv4() == v4);
        let here = Surroundings {
            interfaces,
            port: self.setup.door.number(),
            observed: self.observed(),
            brokers: self.links.iter().map(|link| link.remote).collect(),
            gateways: gather::gateways(),
        };
        let reach = Reach {
            own: self.setup.key,
            introduction,
            introduced: now,
            timeout: self.setup.timeout,
            rules: self.setup.rules,
            told,
            tell: hosts,
            mapped_told,
            portmap: self.setup.portmap.clone(),
            here,
            sources: Sources { v4: source(true), v6: source(false) },
            observers: self.observers.subscribe(),
            strangers: matches!(waits, For::Lobby),
            profile: self.profile.subscribe(),
            syns: self.syns.clone(),
            families: self.setup.families,
            link: self.setup.link.clone(),
            network: self.setup.network.clone(),
            events: self.setup.events.clone(),
        };
        let addresses = reach.introduction.addresses.clone();
        let (inbox, messages) = mpsc::channel(64);
        let router = self.setup.router.clone();
        let attempt = attempt::reach(reach, secrets, (inbox.clone(), messages), router);
        if matches!(waits, For::Lobby) {
            self.give_way(peer);
        }
        let given_up = match &mut waits {
            For::Claim(_, introduced) => introduced.take(),
            For::Invitation(_) | For::Lobby => None,
        };
        let task = self.attempts.spawn(async move {
            let given_up = async {
                match given_up {
                    Some(introduced) => introduced.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = attempt => Some(result),
                () = given_up => None,
            }
        });
        let named = Some(task.id());
        if let For::Invitation(own) = &waits
            && let Some(invitation) = self.invitations.iter_mut().find(|invitation| invitation.id == *own)
        {
            invitation.attempt = Some(task.clone());
            let _ = invitation.reply.send(InviteNews::Introduced);
        }
        let task = matches!(waits, For::Lobby).then_some(task);
        self.running.insert(id, Running { inbox, waits, peer, addresses, task, id: named });
    }

    /// Ends an attempt to reach the same member that is still running: what it dials is where the
    /// member, or this side, was before.
    fn give_way(&mut self, peer: PublicKey) {
        self.running.retain(|_, running| match &running.task {
            Some(task) if running.peer == peer => {
                task.abort();
                false
            }
            Some(_) | None => true,
        });
    }

    /// Whether the lobby takes one more introduction now. A connection to the same peer that still
    /// seems to stand is left alone: if the peer has really lost it, its SYN makes the kernels end
    /// it (RFC 5961 section 4), and if the broker lies, nothing is lost.
    fn admit(&mut self, peer: PublicKey, addresses: &[SocketAddr], now: Instant) -> bool {
        // What runs toward the same place goes on, and on the other side too, which heard of both in the same order: two
        // attempts on one 4-tuple would stop each other.
        let goes_on = |running: &Running| {
            running.peer == peer && (running.task.is_none() || running.addresses == addresses)
        };
        if self.running.values().any(goes_on) {
            return false;
        }
        let attempts = self.running.values().filter(|running| matches!(running.waits, For::Lobby)).count();
        let Some(lobby) = &mut self.lobby else { return false };
        let connected = lobby.connected.values().filter(|connection| connection.is_alive()).count();
        if connected + attempts >= LOBBY_CONNECTIONS {
            tracing::warn!("the broker introduces more peers than a lobby has");
            return false;
        }
        while lobby.introductions.front().is_some_and(|at| now.duration_since(*at) >= INTRODUCTION_WINDOW) {
            lobby.introductions.pop_front();
        }
        if lobby.introductions.len() >= LOBBY_INTRODUCTIONS {
            tracing::warn!("the broker introduces more peers than this one takes in a minute");
            return false;
        }
        lobby.introductions.push_back(now);
        true
    }

    fn lobby_arriver(
        &mut self,
        peer: PublicKey,
        opener: u32,
        addresses: &[SocketAddr],
        now: Instant,
    ) -> Option<Opening> {
        if !self.admit(peer, addresses, now) {
            return None;
        }
        let lobby = self.lobby.as_mut()?;
        lobby.openings.get_mut(usize::try_from(opener).ok()?)?.take()
    }

    fn code_arriver(&mut self, id: ClaimId, peer: PublicKey, answer: &[u8]) -> Option<Prepared> {
        let at = self.claims.iter().position(|claim| claim.id == Some(id))?;
        let claim = self.claims.swap_remove(at);
        let Some(Ok((keys, payload))) = claim.opening.map(|mut opening| opening.finish(&peer, answer)) else {
            // Only who has the words can answer.
            let _ = claim.reply.send(Err(ConnectError::WrongWords(0)));
            return None;
        };
        let _ = claim.introduced.send(true);
        let waits = For::Claim(claim.reply, Some(claim.introduced));
        Some((Secrets::Keys(keys, Vec::new()), payload.told, claim.mapped_told, waits))
    }

    fn code_waiter(&mut self, id: ClaimId, peer: PublicKey) -> Option<Prepared> {
        let fits = |accepted: &Accepted| accepted.claim == id && accepted.peer == peer;
        let invitation =
            self.invitations.iter_mut().find(|invitation| invitation.accepted.as_ref().is_some_and(fits))?;
        let Accepted { keys, told, mapped_told, .. } = invitation.accepted.take()?;
        let waits = For::Invitation(invitation.id);
        Some((Secrets::Keys(keys, Vec::new()), told, mapped_told, waits))
    }

    /// `None`: it was given up.
    fn ended(&mut self, task: Id, result: Option<Result<Connection, Box<Obstacle>>>) {
        let Some(id) = self.running.iter().find(|(_, it)| it.id == Some(task)).map(|(id, _)| *id) else {
            return;
        };
        let Some(running) = self.running.remove(&id) else { return };
        let Some(result) = result else {
            // Who waits still is told by the end of the channel.
            if let For::Invitation(own) = running.waits {
                self.invitations.retain(|invitation| invitation.id != own);
            }
            return;
        };
        let tried = match &result {
            Ok(connection) => self.setup.memory.tried(Some(connection.info().path)),
            Err(obstacle) if !obstacle.tried.lanes.is_empty() => self.setup.memory.tried(None),
            Err(_) => None,
        };
        // A program ends with a failure, and is to remember it.
        let (kept, first) = if result.is_err() { (None, tried) } else { (tried, None) };
        if let Some(kept) = kept {
            self.kept.spawn(async move { drop(kept.await) });
        }
        let first = async move {
            if let Some(kept) = first {
                let _ = tokio::time::timeout(KEPT_WITHIN, kept).await;
            }
        };
        match running.waits {
            For::Claim(reply, _) => {
                let result = result.map_err(ConnectError::NoDirectPath);
                self.kept.spawn(async move {
                    first.await;
                    let _ = reply.send(result);
                });
            }
            For::Invitation(own) => {
                if let Some(at) = self.invitations.iter().position(|invitation| invitation.id == own) {
                    let invitation = self.invitations.swap_remove(at);
                    let result = result.map(Box::new).map_err(ConnectError::NoDirectPath);
                    self.kept.spawn(async move {
                        first.await;
                        let _ = invitation.reply.send(InviteNews::Ended(result));
                    });
                }
            }
            For::Lobby => {
                self.kept.spawn(first);
                let news = match result {
                    Ok(connection) => {
                        if let Some(lobby) = &mut self.lobby {
                            let (peer, handle) = (running.peer, connection.handle());
                            lobby.connected.insert(peer, handle.clone());
                            lobby.left.remove(&peer);
                            lobby.missing.remove(&peer);
                            if lobby.missing.is_empty() {
                                lobby.pause = MEET_AGAIN_FIRST;
                            }
                            self.ends.spawn(async move {
                                let lost = handle.over().await;
                                (peer, handle, lost)
                            });
                        }
                        LobbyNews::Connected(Box::new(connection))
                    }
                    Err(obstacle) => LobbyNews::Unreachable(running.peer, obstacle),
                };
                self.lobby_news(news);
            }
        }
    }
}

/// Counts one more proof of the code, if there may be one.
fn may_prove(proven: &mut Vec<Proven>, code: &Code, now: Instant) -> bool {
    proven.retain(|proven| now.duration_since(proven.since) < CODE_LIFE);
    let known = proven.iter_mut().find(|known| known.number == code.number && known.secret == code.secret);
    match known {
        Some(known) if known.times >= PROOFS_PER_CODE => false,
        Some(known) => {
            known.times += 1;
            true
        }
        None => {
            proven.push(Proven { number: code.number, secret: code.secret.clone(), times: 1, since: now });
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn members_without_end_are_not_taken() {
        let (link, _orders) = mpsc::channel(1);
        let router = Router::new();
        let families = Families::default();
        let door = Arc::new(Door::open(None, families, router.clone()).unwrap());
        let portmap = Portmapper::start(crate::portmap::Setup {
            mode: crate::Portmap::Off,
            lease: Duration::from_secs(600),
            door: door.clone(),
            events: Arc::new(|_| {}),
        });
        let mut hub = Hub::new(Setup {
            key: PublicKey([1; 32]),
            door,
            portmap,
            network: Network::watch(),
            families,
            timeout: Duration::from_secs(1),
            late: Duration::ZERO,
            rules: Rules::default(),
            events: Arc::new(|_| {}),
            router,
            link,
            memory: Memory::new(Arc::new(crate::store::Store::ephemeral()), Arc::new(|_| {})),
        });
        let news = mpsc::unbounded_channel().0;
        hub.lobby = Some(Lobby::new(news));
        let began = Instant::now();
        let mut taken = 0;
        for number in 0..3 * LOBBY_CONNECTIONS as u64 {
            let mut peer = PublicKey([2; 32]);
            peer.0[..8].copy_from_slice(&number.to_be_bytes());
            // So slowly that none is too many for its minute.
            if hub.admit(peer, &[], began + INTRODUCTION_WINDOW * number as u32) {
                taken += 1;
                let inbox = mpsc::channel(1).0;
                let running =
                    Running { inbox, waits: For::Lobby, peer, addresses: Vec::new(), task: None, id: None };
                hub.running.insert(number, running);
            }
        }
        assert_eq!(taken, LOBBY_CONNECTIONS);
        hub.running.remove(&0);
        assert!(hub.admit(PublicKey([3; 32]), &[], began + INTRODUCTION_WINDOW * 1000));
    }

    #[test]
    fn proofs_of_a_code_are_counted_for_its_ten_minutes() {
        let code: Code = "412-abandon-zoo".parse().unwrap();
        let other: Code = "412-abandon-able".parse().unwrap();
        let (mut proven, now) = (Vec::new(), Instant::now());
        let allowed = (0..10).filter(|_| may_prove(&mut proven, &code, now)).count();
        assert_eq!(allowed, usize::from(PROOFS_PER_CODE));
        assert!(may_prove(&mut proven, &other, now));
        assert!(may_prove(&mut proven, &code, now + CODE_LIFE));
    }
}
