//! The library's front: an endpoint, its invitations, its lobby.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tcpunch_core::code::{Code, Verb};
use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::limits::{ATTEMPT_WITHIN, PORTMAP_LEASE, REPORT_WITHIN};
use tcpunch_core::plan::{Obstacle, Rules};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::connection::Connection;
use crate::door::Door;
use crate::error::{BindError, BrokerError, ConnectError, Event};
use crate::hub::{self, Command};
use crate::listener::Router;
use crate::memory::Memory;
use crate::network::Network;
use crate::port::Families;
use crate::portmap::{self, NoMapping, PortMapping, Portmap, Portmapper, State};
use crate::registration::{self, BrokerAddress};
use crate::report::Report;
use crate::store::Store;

pub(crate) type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// Collects what an endpoint needs.
pub struct Builder {
    brokers: Vec<BrokerAddress>,
    port: Option<u16>,
    families: Families,
    timeout: Duration,
    late: Duration,
    rules: Rules,
    portmap: Portmap,
    lease: Duration,
    store: Arc<Store>,
    events: EventSink,
}

impl Builder {
    /// One more broker; the first that answers is used. Without any, the one on this machine.
    #[must_use]
    pub fn broker(mut self, broker: BrokerAddress) -> Self {
        self.brokers.push(broker);
        self
    }

    /// The local port; without it, a random free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Which address families are used; both without it.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// How long the broker may take, and punching from the introduction on; 15 s without it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How much later than it arrives the broker's signal to fire is heard. For tests of timing only.
    #[cfg(feature = "lab")]
    #[must_use]
    pub fn late(mut self, late: Duration) -> Self {
        self.late = late;
        self
    }

    /// By which rules it is fired; all of them without it. For measuring what each is worth.
    #[cfg(feature = "lab")]
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// When the own router is asked to forward the port; without it, when nothing else is likely to help.
    #[must_use]
    pub fn portmap(mut self, portmap: Portmap) -> Self {
        self.portmap = portmap;
        self
    }

    /// For how long at a time the router is asked; ten minutes without it. It is renewed at half of it, and is what a killed
    /// process leaves behind at most. For tests that can't wait.
    #[doc(hidden)]
    #[must_use]
    pub fn portmap_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Where keys of brokers are kept; without it, in memory only.
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Is called with what happens, on the endpoint's own tasks: it must not block.
    #[must_use]
    pub fn on_event(mut self, events: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(events);
        self
    }

    /// What this machine knows of its network without asking anybody.
    ///
    /// Reads the state directory, if there is one.
    pub fn report(&self) -> Report {
        let memory = Memory::new(self.store.clone(), self.events.clone());
        memory.look();
        Report::of_memory(&memory)
    }

    /// Takes the port, and makes the link to a broker.
    ///
    /// # Errors
    ///
    /// The port can't be had, no broker answers, or the keys of brokers that were kept can't be read: without them every
    /// broker would be as good as the one that was known.
    pub async fn bind(self) -> Result<Endpoint, BindError> {
        if self.brokers.iter().any(BrokerAddress::is_remembered) {
            self.store.check_known_brokers()?;
        }
        let session = SecretKey::generate(&mut StdRng::from_os_rng());
        let router = Router::new();
        let door = Arc::new(Door::open(self.port, self.families, router.clone())?);
        let network = Network::watch();
        let memory = Memory::new(self.store.clone(), self.events.clone());
        let mut brokers = self.brokers;
        if brokers.is_empty() {
            brokers.push(BrokerAddress {
                host: "127.0.0.1".to_owned(),
                port: tcpunch_core::limits::BROKER_PORT,
                key: None,
            });
        }
        let (notices, from_broker) = mpsc::channel(256);
        let setup = registration::Setup {
            brokers,
            door: door.clone(),
            network: network.clone(),
            families: self.families,
            session: session.clone(),
            store: self.store,
            unkept: Mutex::default(),
            memory: memory.clone(),
            events: self.events.clone(),
            timeout: self.timeout,
        };
        let link = registration::register(setup, notices).await?;
        let (commands, queue) = mpsc::unbounded_channel();
        let key = session.public();
        let portmap = Portmapper::start(portmap::Setup {
            mode: self.portmap,
            lease: self.lease,
            door: door.clone(),
            events: self.events.clone(),
        });
        let mapping = portmap.state();
        let hub = hub::Hub::new(hub::Setup {
            key,
            door: door.clone(),
            network,
            families: self.families,
            timeout: self.timeout,
            late: self.late,
            rules: self.rules,
            events: self.events,
            router,
            portmap,
            link,
            memory,
        });
        let task = tokio::spawn(hub.run(queue, from_broker));
        Ok(Endpoint {
            commands,
            key,
            door,
            timeout: self.timeout,
            mapping,
            _task: Arc::new(Task(task.abort_handle())),
        })
    }
}

/// A task that ends when this is dropped.
pub(crate) struct Task(pub(crate) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One local port, registered at a broker: the place from which peers are reached.
///
/// Clones share the port and the link; connections outlive it.
#[derive(Clone)]
pub struct Endpoint {
    commands: mpsc::UnboundedSender<Command>,
    key: PublicKey,
    door: Arc<Door>,
    timeout: Duration,
    mapping: watch::Receiver<State>,
    _task: Arc<Task>,
}

impl Endpoint {
    /// Begins to make one.
    pub fn builder() -> Builder {
        Builder {
            brokers: Vec::new(),
            port: None,
            families: Families::default(),
            timeout: ATTEMPT_WITHIN,
            late: Duration::ZERO,
            rules: Rules::default(),
            portmap: Portmap::default(),
            lease: PORTMAP_LEASE,
            store: Arc::new(Store::ephemeral()),
            events: Arc::new(|_| {}),
        }
    }

    /// The session key, fresh for each endpoint.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The local port. Another one after a change of the network, unless it was given.
    pub fn port(&self) -> u16 {
        self.door.number()
    }

    /// The port that the own router forwards, or why none; nothing while it was not asked, or has not answered.
    pub fn port_mapping(&self) -> Option<Result<PortMapping, NoMapping>> {
        match &*self.mapping.borrow() {
            State::Known(known) => Some(known.clone()),
            State::Idle | State::Busy => None,
        }
    }

    /// Ready when there is no port mapping: none was made, or it is given back, after this endpoint, its clones and the
    /// connections that need it are gone. A program that ends awaits this for a moment, or leaves the mapping to its
    /// lease.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut mapping = self.mapping.clone();
        async move {
            let stands = |state: &State| matches!(state, State::Busy | State::Known(Ok(_)));
            while stands(&mapping.borrow_and_update()) && mapping.changed().await.is_ok() {}
        }
    }

    /// Opens a code for a pipe ([`Verb::Listen`]).
    ///
    /// # Errors
    ///
    /// The broker gives none, or is gone.
    pub async fn invite(&self) -> Result<Invite, ConnectError> {
        self.invite_for(Verb::Listen).await
    }

    /// Opens a code that is met by the verb's partner.
    ///
    /// # Errors
    ///
    /// The broker gives none, or is gone.
    pub async fn invite_for(&self, verb: Verb) -> Result<Invite, ConnectError> {
        let (reply, mut news) = mpsc::unbounded_channel();
        let (id, number) = oneshot::channel();
        let lost = || ConnectError::Broker(BrokerError::Lost);
        self.commands.send(Command::Invite { verb, reply, id }).map_err(|_| lost())?;
        let id = number.await.map_err(|_| lost())?;
        let guard = Withdraw { id, commands: self.commands.clone() };
        match tokio::time::timeout(self.timeout, news.recv()).await {
            Ok(Some(InviteNews::Opened(code))) => Ok(Invite { code, news, _guard: guard }),
            Ok(Some(InviteNews::Ended(Err(error)))) => Err(error),
            Ok(_) => Err(lost()),
            Err(_) => Err(ConnectError::Broker(BrokerError::Silent)),
        }
    }

    /// Connects to who opened the code, as the partner of [`Endpoint::invite`].
    ///
    /// # Errors
    ///
    /// Nobody waits under it, the words are wrong, or there is no direct path.
    pub async fn connect(&self, code: Code) -> Result<Connection, ConnectError> {
        self.connect_as(code, Verb::Connect).await
    }

    /// Connects to who opened the code with the verb's partner.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::connect`].
    pub async fn connect_as(&self, code: Code, verb: Verb) -> Result<Connection, ConnectError> {
        let (reply, answer) = oneshot::channel();
        let (introduced, mut began) = watch::channel(false);
        let lost = || ConnectError::Broker(BrokerError::Lost);
        self.commands.send(Command::Connect { code, verb, reply, introduced }).map_err(|_| lost())?;
        let mut answer = answer;
        tokio::select! {
            answer = &mut answer => return answer.unwrap_or_else(|_| Err(lost())),
            // From the introduction on the attempt has a deadline of its own.
            _ = began.wait_for(|began| *began) => {}
            () = tokio::time::sleep(self.timeout) => return Err(ConnectError::NoAnswer),
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// What is known of the own network, when all of it is measured, or after [`REPORT_WITHIN`] what is known by then.
    ///
    /// # Errors
    ///
    /// The endpoint has ended.
    pub async fn report(&self) -> Result<Report, BrokerError> {
        let ask = |patient| {
            let (reply, answer) = oneshot::channel();
            let sent = self.commands.send(Command::Report { patient, reply });
            async move {
                sent.map_err(|_| BrokerError::Lost)?;
                answer.await.map_err(|_| BrokerError::Lost)
            }
        };
        match tokio::time::timeout(REPORT_WITHIN, ask(true)).await {
            Ok(report) => report,
            Err(_) => ask(false).await,
        }
    }

    /// Joins the broker's open lobby: everyone there gets a direct connection to everyone.
    ///
    /// The connections are encrypted, not authenticated: nobody knows who the others are.
    pub fn lobby(&self) -> Lobby {
        let (news, receiver) = mpsc::unbounded_channel();
        // If the hub is gone the channel closes, and the lobby says that the broker is lost.
        let _ = self.commands.send(Command::Lobby { news });
        Lobby { news: receiver, _endpoint: self.clone() }
    }
}

/// What happens while a code waits.
#[derive(Debug)]
pub enum InviteNews {
    /// The code is open, or open again after the link was lost.
    Opened(Code),
    /// Somebody tried wrong words; so many guesses are left.
    WrongGuess(u8),
    /// The other side has come, and the two try to reach each other: it ends in any case, within the endpoint's time limit.
    Introduced,
    /// It has served, or can't any more.
    Ended(Result<Box<Connection>, ConnectError>),
}

/// A code that waits for its partner. Dropping it withdraws the code.
pub struct Invite {
    code: Code,
    news: mpsc::UnboundedReceiver<InviteNews>,
    _guard: Withdraw,
}

struct Withdraw {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Withdraw { id: self.id });
    }
}

impl Invite {
    /// The code to tell the other side. It names the broker.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn news(&mut self) -> InviteNews {
        match self.news.recv().await {
            Some(InviteNews::Opened(code)) => {
                self.code = code.clone();
                InviteNews::Opened(code)
            }
            Some(news) => news,
            None => InviteNews::Ended(Err(ConnectError::Broker(BrokerError::Lost))),
        }
    }

    /// Waits for the other side. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The code expired or was burnt, or there is no direct path.
    pub async fn accept(&mut self) -> Result<Connection, ConnectError> {
        loop {
            if let InviteNews::Ended(result) = self.news().await {
                return result.map(|connection| *connection);
            }
        }
    }
}

/// What happens in the lobby.
#[derive(Debug)]
pub enum LobbyNews {
    /// The lobby was joined: so many members were there, and so many attempts follow.
    Joined {
        /// Members that were there.
        members: u32,
        /// How many there may be.
        capacity: u32,
        /// Attempts that follow now.
        introductions: u32,
    },
    /// A member is being reached.
    Introduced(PublicKey),
    /// A direct connection to a member stands.
    Connected(Box<Connection>),
    /// A member can't be reached.
    Unreachable(PublicKey, Box<Obstacle>),
    /// A member left the broker; a connection to it goes on.
    Left(PublicKey),
    /// The lobby can't be had.
    Refused(ConnectError),
}

/// Membership in the lobby; ends when dropped with its endpoint. Connections go on.
pub struct Lobby {
    news: mpsc::UnboundedReceiver<LobbyNews>,
    _endpoint: Endpoint,
}

impl Lobby {
    /// The next thing that happens. Cancel-safe.
    pub async fn news(&mut self) -> LobbyNews {
        match self.news.recv().await {
            Some(news) => news,
            None => LobbyNews::Refused(ConnectError::Broker(BrokerError::Lost)),
        }
    }
}
