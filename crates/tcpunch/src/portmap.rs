//! A port of the own router that leads to the door: PCP, NAT-PMP and UPnP IGD, over IPv4.
//!
//! One task for each endpoint that asks, keeps and gives back; nothing waits for it. Where no router answers that is no error
//! of the endpoint: most have none that would.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchError, SearchOptions};
use tcpunch_core::limits::{
    PORTMAP_AGAIN_FIRST, PORTMAP_AGAIN_MOST, PORTMAP_ASK_AGAIN, PORTMAP_DONE_WITHIN, PORTMAP_LEASE_MOST,
    PORTMAP_REASON, PORTMAP_REMOVED_WITHIN, PORTMAP_RENEWED_AGAIN, PORTMAP_RENEWED_LEAST,
    PORTMAP_SEARCH_WITHIN,
};
use tcpunch_core::sanitize::sanitize_line;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::door::Door;
use crate::endpoint::EventSink;
use crate::error::Event;
use crate::gather;

/// When a router is asked to forward a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Portmap {
    /// When nothing else is likely to help: the own NAT maps by destination, or a first round of punching failed.
    #[default]
    Auto,
    /// At once.
    On,
    /// Never.
    Off,
}

/// How routers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Pcp => "PCP",
            Protocol::NatPmp => "NAT-PMP",
            Protocol::Upnp => "UPnP",
        })
    }
}

/// A port of the router that leads to this endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// How it was asked for.
    pub protocol: Protocol,
    /// The router's address in its LAN.
    pub router: IpAddr,
    /// Its outside address, as it says itself, and the port. Behind another NAT it is of no use to others.
    pub external: SocketAddr,
    /// For so long it stands if nobody renews it.
    pub lease: Duration,
}

/// Why no port is forwarded. Nobody's fault: few routers offer it to everyone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMapping {
    /// This machine has no IPv4 router, or its system does not tell which.
    #[error("no router is known")]
    NoRouter,
    /// Each protocol with what came of it, fit for a terminal.
    #[error("{}", listed(.0))]
    Refused(Vec<(Protocol, String)>),
}

fn listed(refused: &[(Protocol, String)]) -> String {
    let each: Vec<String> = refused.iter().map(|(protocol, why)| format!("{protocol}: {why}")).collect();
    each.join("; ")
}

/// How it stands with the mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// None was asked for.
    #[default]
    Idle,
    /// A router is being asked for one, or to forget it.
    Busy,
    /// What came of it.
    Known(Result<PortMapping, NoMapping>),
}

/// What the task needs.
pub(crate) struct Setup {
    pub(crate) mode: Portmap,
    pub(crate) lease: Duration,
    pub(crate) door: Arc<Door>,
    pub(crate) events: EventSink,
}

/// An endpoint's end of the task that keeps its mapping. The mapping is given back when all clones are dropped.
#[derive(Clone)]
pub(crate) struct Portmapper {
    mode: Portmap,
    wanted: mpsc::Sender<()>,
    state: watch::Receiver<State>,
}

impl Portmapper {
    pub(crate) fn start(setup: Setup) -> Self {
        let Setup { mode, lease, door, events } = setup;
        Portmapper::leading_to(move || Place::now(&door), mode, lease, events)
    }

    /// Wherever it is to lead at the time.
    fn leading_to(
        place: impl Fn() -> Result<Place, NoMapping> + Send + 'static,
        mode: Portmap,
        lease: Duration,
        events: EventSink,
    ) -> Self {
        let (wanted, asked) = mpsc::channel(1);
        let (told, state) = watch::channel(State::default());
        tokio::spawn(keep(place, lease, events, asked, told));
        Portmapper { mode, wanted, state }
    }

    /// The endpoint is registered.
    pub(crate) fn registered(&self) {
        if self.mode == Portmap::On {
            self.ask();
        }
    }

    /// Something shows that a mapping would help: a NAT that maps by destination, a round that failed or that needs a fresh port.
    pub(crate) fn needed(&self) {
        if self.mode != Portmap::Off {
            self.ask();
        }
    }

    /// What came of asking, if anything did.
    pub(crate) fn known(&self) -> Option<Result<PortMapping, NoMapping>> {
        match &*self.state.borrow() {
            State::Known(known) => Some(known.clone()),
            State::Idle | State::Busy => None,
        }
    }

    /// Whether nothing more comes of what was asked; what is asked at registration counts as asked.
    pub(crate) fn is_settled(&self) -> bool {
        match &*self.state.borrow() {
            State::Known(_) => true,
            State::Busy => false,
            State::Idle => self.mode != Portmap::On,
        }
    }

    fn ask(&self) {
        // One that waits already is as good.
        let _ = self.wanted.try_send(());
    }

    /// The router's outside address and port, if one is forwarded now.
    pub(crate) fn external(&self) -> Option<SocketAddr> {
        match &*self.state.borrow() {
            State::Known(Ok(mapping)) => Some(mapping.external),
            State::Known(Err(_)) | State::Idle | State::Busy => None,
        }
    }

    /// What is known, to be watched.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ready when there is a new [`external`](Self::external) address to look at, never where there will be none.
    pub(crate) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep(
    place: impl Fn() -> Result<Place, NoMapping>,
    lease: Duration,
    events: EventSink,
    mut asked: mpsc::Receiver<()>,
    told: watch::Sender<State>,
) {
    let mut kept: Option<Kept> = None;
    // Once one has stood: the pause before the next is asked for, and when that is. Somebody may need it, who does not ask again.
    let mut pause: Option<Duration> = None;
    let mut again_at: Option<Instant> = None;
    loop {
        let due = kept.as_ref().map(|kept| kept.renewed_at).or(again_at);
        let mut is_news = tokio::select! {
            asked = asked.recv() => match asked {
                Some(()) => kept.is_none(),
                None => break,
            },
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => false,
        };
        let place = place();
        if let Some(standing) = kept.take() {
            match &place {
                // Another door, or another network: the old router may be far.
                Ok(place) if standing.place != *place => standing.remove().await,
                _ if Instant::now() < standing.renewed_at => {
                    kept = Some(standing);
                    continue;
                }
                Ok(_) => kept = standing.renewed(lease).await,
                // The cable is out for a moment.
                Err(_) => kept = standing.later(),
            }
            is_news = kept.is_none();
        }
        if is_news {
            told.send_replace(State::Busy);
        }
        let made = match (kept.take(), place) {
            (Some(standing), _) => Ok(standing),
            (None, Ok(place)) => make(place, lease, &mut asked).await,
            (None, Err(why)) => Err(why),
        };
        again_at = None;
        let made = match made {
            Ok(made) => {
                pause = Some(PORTMAP_AGAIN_FIRST);
                Ok(kept.insert(made).mapping)
            }
            Err(why) => {
                tracing::debug!("no port mapping: {why}");
                if let Some(pause) = &mut pause {
                    again_at = Some(Instant::now() + *pause);
                    *pause = (*pause * 2).min(PORTMAP_AGAIN_MOST);
                }
                Err(why)
            }
        };
        let state = State::Known(made.clone());
        if told.send_if_modified(|known| std::mem::replace(known, state.clone()) != state) {
            events(Event::PortMapping(made));
        }
        if asked.is_closed() {
            break;
        }
    }
    // Attempts learn it before the router: nobody is to be told of it any more.
    told.send_replace(State::Busy);
    if let Some(kept) = kept {
        kept.remove().await;
    }
}

/// Where a mapping leads, and the router that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    router: Ipv4Addr,
    own: Ipv4Addr,
    port: NonZeroU16,
}

impl Place {
    fn now(door: &Door) -> Result<Self, NoMapping> {
        let router = gather::gateways().into_iter().find_map(|ip| match ip.to_canonical() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        let router = router.ok_or(NoMapping::NoRouter)?;
        let own = toward(router).ok_or(NoMapping::NoRouter)?;
        let port = NonZeroU16::new(door.number()).ok_or(NoMapping::NoRouter)?;
        Ok(Place { router, own, port })
    }

    fn local(self) -> SocketAddr {
        SocketAddrV4::new(self.own, self.port.get()).into()
    }
}

/// The own address on the way to the router. Nothing is sent for it.
fn toward(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((router, crab_nat::GATEWAY_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => None,
    }
}

/// A mapping that stands, and how to renew it and give it back.
struct Kept {
    place: Place,
    mapping: PortMapping,
    renewed_at: Instant,
    /// Nobody promises that it stands after that.
    ends_at: Instant,
    by: By,
}

enum By {
    /// PCP or NAT-PMP.
    Port(Box<crab_nat::PortMapping>),
    Upnp(Box<Gateway<Tokio>>),
}

impl Kept {
    fn new(place: Place, by: By, protocol: Protocol, external: SocketAddr, lease: Duration) -> Self {
        let router = match &by {
            By::Port(_) => place.router.into(),
            By::Upnp(gateway) => gateway.addr.ip(),
        };
        let lease = lease.min(PORTMAP_LEASE_MOST);
        let now = Instant::now();
        let renewed_at = now + (lease / 2).max(PORTMAP_RENEWED_LEAST);
        let mapping = PortMapping { protocol, router, external, lease };
        Kept { place, mapping, renewed_at, ends_at: now + lease, by }
    }

    /// Anew; or as it stands, if it still does and its router does not renew it now.
    async fn renewed(self, lease: Duration) -> Option<Self> {
        match self.renew(lease).await {
            Ok(renewed) => Some(renewed),
            Err(why) => {
                tracing::debug!("a port mapping is not renewed: {}", shown(&why));
                self.later()
            }
        }
    }

    async fn renew(&self, lease: Duration) -> Result<Self, String> {
        match &self.by {
            By::Port(mapping) => {
                let mut mapping = mapping.clone();
                mapping.renew().await.map_err(|error| error.to_string())?;
                let (protocol, external) = outside(self.place, &mapping).await?;
                Ok(Kept::by_port(self.place, mapping, protocol, external))
            }
            By::Upnp(gateway) => {
                let port = Some(self.mapping.external.port());
                let why = match upnp(self.place, gateway.clone(), port, lease).await {
                    Ok(renewed) => return Ok(renewed),
                    Err(why) => why,
                };
                // One that has started again may listen elsewhere.
                let found = found(&mut search(self.place)).await.map_err(|_| why)?;
                upnp(self.place, found, port, lease).await
            }
        }
    }

    /// To be renewed at half of what is left (RFC 6887 section 11.2.1), unless that is nothing.
    fn later(mut self) -> Option<Self> {
        let now = Instant::now();
        let left = self.ends_at.checked_duration_since(now).filter(|left| !left.is_zero())?;
        self.renewed_at = (now + (left / 2).max(PORTMAP_RENEWED_AGAIN)).min(self.ends_at);
        Some(self)
    }

    fn by_port(
        place: Place,
        mapping: Box<crab_nat::PortMapping>,
        protocol: Protocol,
        external: SocketAddr,
    ) -> Self {
        let lease = Duration::from_secs(mapping.lifetime().into());
        Kept::new(place, By::Port(mapping), protocol, external, lease)
    }

    /// Gives it back, within [`PORTMAP_REMOVED_WITHIN`]; its lease ends it where the router does not hear that.
    async fn remove(self) {
        let external = self.mapping.external;
        let removed = async {
            match self.by {
                By::Port(mapping) => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
                By::Upnp(gateway) => gateway
                    .remove_port(PortMappingProtocol::TCP, external.port())
                    .await
                    .map_err(|error| error.to_string()),
            }
        };
        match timeout(PORTMAP_REMOVED_WITHIN, removed).await {
            Ok(Ok(())) => tracing::debug!("the router forwards port {} no longer", external.port()),
            Ok(Err(why)) => tracing::debug!("a port mapping is left to its lease: {}", shown(&why)),
            Err(_) => tracing::debug!("a port mapping is left to its lease: no answer"),
        }
    }
}

/// PCP and NAT-PMP first, because they say what they did; UPnP is searched meanwhile.
async fn make(place: Place, lease: Duration, asked: &mut mpsc::Receiver<()>) -> Result<Kept, NoMapping> {
    let mut searched = search(place);
    let mut refused = match ports(place, lease).await {
        Ok(kept) => return Ok(kept),
        Err(refused) => refused,
    };
    let found = tokio::select! {
        found = found(&mut searched) => found,
        // Nothing was asked of a UPnP router so far.
        () = closed(asked) => return Err(NoMapping::Refused(refused)),
    };
    let made = match found {
        Ok(gateway) => upnp(place, gateway, None, lease).await,
        Err(why) => Err(why),
    };
    made.map_err(|why| {
        refused.push((Protocol::Upnp, shown(&why)));
        NoMapping::Refused(refused)
    })
}

async fn closed(asked: &mut mpsc::Receiver<()>) {
    while asked.recv().await.is_some() {}
}

/// What a router says, fit for a terminal.
fn shown(why: &str) -> String {
    sanitize_line(why, PORTMAP_REASON).into_owned()
}

/// What is said of who is silent, or whose system says that nobody listens there.
const NO_ANSWER: &str = "no answer";

/// What came of a socket.
fn unsent(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::ConnectionRefused => NO_ANSWER.to_owned(),
        _ => error.to_string(),
    }
}

async fn ports(place: Place, lease: Duration) -> Result<Kept, Vec<(Protocol, String)>> {
    let options = PortMappingOptions {
        external_port: Some(place.port),
        lifetime_seconds: Some(seconds(lease)),
        timeout_config: Some(TimeoutConfig {
            initial_timeout: PORTMAP_ASK_AGAIN,
            max_retries: 1,
            max_retry_timeout: Some(PORTMAP_ASK_AGAIN),
        }),
    };
    // Falls back to NAT-PMP where the router says that it knows nothing else.
    let asked = crab_nat::PortMapping::new(
        place.router.into(),
        place.own.into(),
        InternetProtocol::Tcp,
        place.port,
        options,
    );
    let made = match asked.await {
        Ok(mapping) => match outside(place, &mapping).await {
            Ok((protocol, external)) => {
                return Ok(Kept::by_port(place, Box::new(mapping), protocol, external));
            }
            Err(why) => {
                // It forwards a port that nobody can be told of.
                let _ = timeout(PORTMAP_REMOVED_WITHIN, mapping.try_drop()).await;
                Err((Protocol::NatPmp, why))
            }
        },
        Err(crab_nat::MappingFailure::Pcp(failure)) => Err((
            Protocol::Pcp,
            match failure {
                crab_nat::pcp::Failure::Timeout => NO_ANSWER.to_owned(),
                crab_nat::pcp::Failure::Socket(error) => unsent(&error),
                answered => answered.to_string(),
            },
        )),
        Err(crab_nat::MappingFailure::NatPmp(failure)) => Err((
            Protocol::NatPmp,
            match failure {
                natpmp::Failure::Timeout => NO_ANSWER.to_owned(),
                natpmp::Failure::Socket(error) => unsent(&error),
                answered => answered.to_string(),
            },
        )),
    };
    made.map_err(|(protocol, why)| vec![(protocol, shown(&why))])
}

/// By what a router was asked, and which address and port it forwards.
async fn outside(place: Place, mapping: &crab_nat::PortMapping) -> Result<(Protocol, SocketAddr), String> {
    let (protocol, ip) = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => (Protocol::Pcp, external_ip.to_canonical()),
        PortMappingType::NatPmp => {
            let asked = natpmp::external_address(place.router.into(), Some(mapping.timeout_config));
            (Protocol::NatPmp, asked.await.map(IpAddr::from).map_err(|error| error.to_string())?)
        }
    };
    Ok((protocol, SocketAddr::new(ip, mapping.external_port().get())))
}

/// Asks the router itself, and everyone in the LAN: some answer to one, some to the other.
fn search(place: Place) -> JoinSet<Result<Gateway<Tokio>, String>> {
    let mut searched = JoinSet::new();
    let router = SocketAddr::from((place.router, 1900));
    for to in [router, SearchOptions::default().broadcast_address] {
        let mut options = SearchOptions::default();
        options.bind_addr = (place.own, 0).into();
        options.broadcast_address = to;
        options.timeout = Some(PORTMAP_SEARCH_WITHIN);
        options.single_search_timeout = Some(PORTMAP_SEARCH_WITHIN);
        searched.spawn(async move {
            let found = timeout(PORTMAP_SEARCH_WITHIN, search_gateway(options)).await;
            let gateway = found.map_err(|_| NO_ANSWER.to_owned())?.map_err(|error| match error {
                SearchError::NoResponseWithinTimeout => NO_ANSWER.to_owned(),
                SearchError::IoError(error) => unsent(&error),
                answered => answered.to_string(),
            })?;
            // Another machine of the LAN that calls itself a router is not the one on the way out.
            if gateway.addr.ip() == IpAddr::from(place.router) {
                Ok(gateway)
            } else {
                Err(format!("{} answers, which is not this machine's router", gateway.addr.ip()))
            }
        });
    }
    searched
}

async fn found(
    searched: &mut JoinSet<Result<Gateway<Tokio>, String>>,
) -> Result<Box<Gateway<Tokio>>, String> {
    let mut why = NO_ANSWER.to_owned();
    while let Some(found) = searched.join_next().await {
        match found {
            Ok(Ok(gateway)) => return Ok(Box::new(gateway)),
            Ok(Err(other)) => why = other,
            Err(_) => {}
        }
    }
    Err(why)
}

/// Has a UPnP router forward the door's own number, or `again` the same port as before; where that is taken, any.
async fn upnp(
    place: Place,
    gateway: Box<Gateway<Tokio>>,
    again: Option<u16>,
    lease: Duration,
) -> Result<Kept, String> {
    let until = Instant::now() + PORTMAP_DONE_WITHIN;
    let ip = timeout_at(until, gateway.get_external_ip()).await.map_err(|_| NO_ANSWER.to_owned())?;
    let ip = ip.map_err(|error| error.to_string())?.to_canonical();
    let adding = async {
        let (protocol, local, seconds) = (PortMappingProtocol::TCP, place.local(), seconds(lease));
        let wish = again.unwrap_or(place.port.get());
        // Only permanent mappings, as some routers want them, are not taken: they would outlive a killed process.
        match gateway.add_port(protocol, wish, local, seconds, "tcpunch").await {
            Ok(()) => Ok(wish),
            Err(igd_next::AddPortError::PortInUse) => gateway
                .add_any_port(protocol, local, seconds, "tcpunch")
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let Ok(added) = timeout_at(until, adding).await else {
        // What is to be renewed stands.
        if again.is_none() {
            take_back(place, &gateway).await;
        }
        return Err(NO_ANSWER.to_owned());
    };
    let external = SocketAddr::new(ip, added?);
    Ok(Kept::new(place, By::Upnp(gateway), Protocol::Upnp, external, lease))
}

/// Has a UPnP router forget what it may have done without saying so. It is looked for in the router's own list, because
/// the port that was wished for may be another machine's.
async fn take_back(place: Place, gateway: &Gateway<Tokio>) {
    let asking = async {
        for index in 0.. {
            // Behind the last there is an error.
            let Ok(entry) = gateway.get_generic_port_mapping_entry(index).await else { return };
            let is_own = entry.protocol == PortMappingProtocol::TCP
                && entry.internal_port == place.port.get()
                && entry.internal_client.parse() == Ok(place.own);
            if is_own {
                let _ = gateway.remove_port(PortMappingProtocol::TCP, entry.external_port).await;
                return;
            }
        }
    };
    if timeout(PORTMAP_DONE_WITHIN, asking).await.is_err() {
        tracing::debug!("a port mapping is left to its lease: {NO_ANSWER}");
    }
}

/// Of a lease, at least one: zero would take a mapping back, or make it last for ever.
fn seconds(lease: Duration) -> u32 {
    u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn what_no_router_gave_is_told_by_protocol() {
        let why = NoMapping::Refused(vec![
            (Protocol::Pcp, "no answer".to_owned()),
            (Protocol::Upnp, shown("\u{1b}[31mno\r\nway")),
        ]);
        let text = why.to_string();
        assert!(text.starts_with("PCP: no answer; UPnP: ") && !text.contains(['\u{1b}', '\n']), "{text:?}");
    }

    /// On loopback, where no router is.
    fn place(router: [u8; 4]) -> Place {
        Place { router: router.into(), own: Ipv4Addr::LOCALHOST, port: NonZeroU16::new(23_456).unwrap() }
    }

    async fn asked(place: Place) -> NoMapping {
        // Open, as it is while the endpoint lives.
        let (_open, mut asked) = mpsc::channel(1);
        let most = 2 * PORTMAP_ASK_AGAIN + PORTMAP_SEARCH_WITHIN + Duration::from_secs(20);
        match timeout(most, make(place, Duration::from_secs(600), &mut asked)).await {
            Ok(Ok(_)) => panic!("nobody can have forwarded it"),
            Ok(Err(why)) => why,
            Err(_) => panic!("it waits without end"),
        }
    }

    #[tokio::test]
    async fn where_no_router_answers_each_protocol_says_so() {
        let why = asked(place([127, 77, 0, 1])).await.to_string();
        // What the second says is up to the system: it is searched for where this machine may have no way to.
        assert!(why.starts_with("PCP: no answer; UPnP: "), "{why}");
    }

    #[tokio::test]
    async fn a_router_that_answers_with_nonsense_forwards_nothing() {
        let router = [127, 77, 0, 2];
        let mut talking = JoinSet::new();
        for (port, nonsense) in [
            (crab_nat::GATEWAY_PORT, &[0xff; 1400][..]),
            (1900, b"HTTP/1.1 200 OK\r\nLOCATION: http://198.51.100.7:1/x\r\n\r\n"),
        ] {
            let socket = tokio::net::UdpSocket::bind((Ipv4Addr::from(router), port)).await.unwrap();
            let nonsense = nonsense.to_vec();
            talking.spawn(async move {
                let mut question = [0; 2048];
                while let Ok((_, from)) = socket.recv_from(&mut question).await {
                    let _ = socket.send_to(&nonsense, from).await;
                }
            });
        }
        let NoMapping::Refused(each) = asked(place(router)).await else { panic!() };
        assert_eq!(each.len(), 2, "{each:?}");
    }

    #[tokio::test]
    async fn what_is_over_while_it_searches_searches_no_longer() {
        let (open, mut asked) = mpsc::channel(1);
        drop(open);
        let made = make(place([127, 77, 0, 3]), Duration::from_secs(600), &mut asked).await;
        assert!(matches!(made.err(), Some(NoMapping::Refused(each)) if each.len() == 1));
    }

    /// A router that speaks NAT-PMP, on loopback.
    #[derive(Default)]
    struct Router {
        /// It answers nothing.
        is_silent: AtomicBool,
        /// It does not tell its outside address.
        is_nameless: AtomicBool,
        given_back: AtomicUsize,
    }

    impl Router {
        /// Which grants leases of so many seconds.
        async fn start(at: [u8; 4], lease: u32) -> (Arc<Router>, JoinSet<()>) {
            let socket =
                tokio::net::UdpSocket::bind((Ipv4Addr::from(at), crab_nat::GATEWAY_PORT)).await.unwrap();
            let router = Arc::new(Router::default());
            let mut talking = JoinSet::new();
            let talks = router.clone();
            talking.spawn(async move {
                let mut question = [0; 1100];
                while let Ok((length, from)) = socket.recv_from(&mut question).await {
                    if let Some(answer) = talks.answer(&question[..length], lease) {
                        socket.send_to(&answer, from).await.unwrap();
                    }
                }
            });
            (router, talking)
        }

        fn answer(&self, question: &[u8], lease: u32) -> Option<Vec<u8>> {
            let is = |it: &AtomicBool| it.load(Ordering::Relaxed);
            match *question {
                _ if is(&self.is_silent) => None,
                [0, 0] if is(&self.is_nameless) => None,
                [0, 0] => Some(vec![0, 128, 0, 0, 0, 0, 0, 1, 198, 51, 100, 7]),
                [0, 2, 0, 0, ref ports @ .., a, b, c, d] => {
                    let asked = u32::from_be_bytes([a, b, c, d]);
                    self.given_back.fetch_add(usize::from(asked == 0), Ordering::Relaxed);
                    let granted = asked.min(lease).to_be_bytes();
                    Some([&[0, 130, 0, 0, 0, 0, 0, 1], ports, &granted].concat())
                }
                // PCP: another version, please.
                _ => Some(vec![0, 128, 0, 1, 0, 0, 0, 1]),
            }
        }
    }

    const LEASE: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_router_that_is_away_for_a_while_forwards_again() {
        let at = [127, 77, 0, 4];
        let (router, _talking) = Router::start(at, 2).await;
        let (events, mut happened) = mpsc::unbounded_channel();
        let event = move |event| {
            let _ = events.send(event);
        };
        let leads_to = place(at);
        let portmapper = Portmapper::leading_to(move || Ok(leads_to), Portmap::On, LEASE, Arc::new(event));
        portmapper.registered();
        let mut news = async || match timeout(Duration::from_secs(20), happened.recv()).await {
            Ok(Some(Event::PortMapping(made))) => made,
            other => panic!("{other:?}"),
        };
        let made = news().await.unwrap();
        assert_eq!(portmapper.external(), Some(made.external));
        router.is_silent.store(true, Ordering::Relaxed);
        // Half of the lease and two questions later.
        tokio::time::sleep(Duration::from_millis(1700)).await;
        assert_eq!(portmapper.external(), Some(made.external), "it stands until its lease ends");
        news().await.unwrap_err();
        assert_eq!(portmapper.external(), None);
        router.is_silent.store(false, Ordering::Relaxed);
        assert_eq!(news().await.unwrap(), made, "nobody asked for it again");
        let mut state = portmapper.state();
        drop(portmapper);
        while state.changed().await.is_ok() {}
        assert_eq!(router.given_back.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_not_renewed_is_tried_again_at_half_of_what_is_left() {
        let at = [127, 77, 0, 5];
        let (_router, _talking) = Router::start(at, 600).await;
        let mut kept = ports(place(at), LEASE).await.ok().unwrap();
        for (left, next) in [(300, 150), (150, 75), (6, 4), (3, 3)] {
            let now = Instant::now();
            kept.ends_at = now + Duration::from_secs(left);
            kept = kept.later().unwrap();
            let wait = kept.renewed_at - now;
            assert!(
                wait.abs_diff(Duration::from_secs(next)) < Duration::from_millis(500),
                "{wait:?} of {left} s"
            );
        }
        kept.ends_at = Instant::now();
        assert!(kept.later().is_none());
    }

    #[tokio::test]
    async fn a_port_whose_outside_address_is_not_told_is_given_back() {
        let at = [127, 77, 0, 6];
        let (router, _talking) = Router::start(at, 600).await;
        router.is_nameless.store(true, Ordering::Relaxed);
        assert!(ports(place(at), LEASE).await.is_err());
        assert_eq!(router.given_back.load(Ordering::Relaxed), 1);
    }

    /// The ports that a UPnP router forgot. It never answers who wants one forwarded, and forwards it.
    async fn slow_upnp(at: [u8; 4], forgot: mpsc::UnboundedSender<String>) -> (Gateway<Tokio>, JoinSet<()>) {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::from(at), 0)).await.unwrap();
        let schema = |arguments: &[&str]| arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
        let gateway = Gateway {
            addr: listener.local_addr().unwrap(),
            root_url: "/".to_owned(),
            control_url: "/control".to_owned(),
            control_schema_url: "/schema".to_owned(),
            control_schema: HashMap::from([
                ("AddPortMapping".to_owned(), schema(&["NewExternalPort", "NewInternalPort"])),
                ("DeletePortMapping".to_owned(), schema(&["NewExternalPort"])),
            ]),
            service_type: "urn:schemas-upnp-org:service:WANIPConnection:1".to_owned(),
            provider: Tokio,
        };
        let entry = |port: u16, client: &str| {
            format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort><NewProtocol>TCP</NewProtocol>\
                 <NewInternalPort>23456</NewInternalPort><NewInternalClient>{client}</NewInternalClient>\
                 <NewEnabled>1</NewEnabled><NewPortMappingDescription>x</NewPortMappingDescription>\
                 <NewLeaseDuration>600</NewLeaseDuration>"
            )
        };
        let entries = [entry(23_456, "192.0.2.9"), entry(40_000, "127.0.0.1")];
        let mut talking = JoinSet::new();
        talking.spawn(async move {
            let mut unanswered = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = String::new();
                while !question.contains("</s:Envelope>") {
                    let mut part = [0; 4096];
                    let length = stream.read(&mut part).await.unwrap();
                    question.push_str(std::str::from_utf8(&part[..length]).unwrap());
                }
                let between = |from: &str, to: &str| -> Option<String> {
                    Some(question.split_once(from)?.1.split_once(to)?.0.to_owned())
                };
                let action = between("#", "\"").unwrap();
                let answer = match action.as_str() {
                    "GetExternalIPAddress" => {
                        "<NewExternalIPAddress>198.51.100.7</NewExternalIPAddress>".to_owned()
                    }
                    "GetGenericPortMappingEntry" => {
                        let index = between("<NewPortMappingIndex>", "<").unwrap();
                        entries[index.parse::<usize>().unwrap()].clone()
                    }
                    "DeletePortMapping" => {
                        forgot.send(between("<NewExternalPort>", "<").unwrap()).unwrap();
                        String::new()
                    }
                    _ => {
                        unanswered.push(stream);
                        continue;
                    }
                };
                let body = format!(
                    "<Envelope><Body><{action}Response>{answer}</{action}Response></Body></Envelope>"
                );
                let head =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        (gateway, talking)
    }

    #[tokio::test]
    async fn what_a_upnp_router_did_without_saying_so_is_taken_back() {
        let at = [127, 77, 0, 7];
        let (forgot, mut forgotten) = mpsc::unbounded_channel();
        let (gateway, _talking) = slow_upnp(at, forgot).await;
        // What is to be renewed stands.
        let renewed = upnp(place(at), Box::new(gateway.clone()), Some(40_000), LEASE).await;
        assert_eq!(renewed.err().as_deref(), Some(NO_ANSWER));
        assert!(forgotten.try_recv().is_err());
        let made = upnp(place(at), Box::new(gateway), None, LEASE).await;
        assert_eq!(made.err().as_deref(), Some(NO_ANSWER));
        assert_eq!(forgotten.try_recv().unwrap(), "40000", "not what another machine has");
    }

    #[test]
    fn a_lease_is_never_zero() {
        assert_eq!(seconds(Duration::from_millis(10)), 1);
        assert_eq!(seconds(Duration::from_secs(600)), 600);
        assert_eq!(seconds(Duration::MAX), u32::MAX);
    }
}
