//! Asking standard STUN servers over TCP (RFC 8489) where this machine's connections come from: what can be known of the own
//! NAT without a broker.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rand::Rng;
use tcpunch_core::limits::{LINK_WITHIN, OBSERVE_WITHIN, STUN_SERVERS};
use tcpunch_core::profile::Sample;
pub use tcpunch_core::stun::BadStun;
use tcpunch_core::stun::{HEADER, PORT, read_answer, request, rest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::port::{self, Families, Scratch};

/// Why a STUN server told no address.
#[derive(Debug, thiserror::Error)]
pub enum StunError {
    /// Its name has no address. The caller's fault, or the name server's.
    #[error("{0}")]
    NoSuchName(String),
    /// This machine opens no port to ask from.
    #[error("no port to ask from: {0}")]
    Port(io::Error),
    /// No connection: the network's fault, or nothing listens there.
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    /// Nothing came in time: the network's fault, or the server speaks STUN over UDP alone.
    #[error("no answer")]
    Silent,
    /// The connection ended before an answer. The server's fault.
    #[error("it closes the connection without an answer")]
    Closed,
    /// The server's fault, or that of who answers in its place.
    #[error(transparent)]
    Answer(#[from] BadStun),
}

/// Asks one server from this local port (0: any free one) and, where `source` says so, this local address.
///
/// The connection ends with this call, and a NAT may forget its mapping with it: to compare servers, see [`mapping`].
///
/// # Errors
///
/// Nobody there tells an address, within two seconds.
pub async fn ask(server: SocketAddr, source: Option<IpAddr>, port: u16) -> Result<Sample, StunError> {
    let (sample, stream) = exchange(server, source, port).await?;
    port::abort(&stream);
    Ok(sample)
}

/// What several servers say of one scratch port.
#[derive(Debug, Default)]
pub struct Mapping {
    /// What they saw, one an address of a server: for [`classify`](tcpunch_core::profile::classify).
    pub samples: Vec<Sample>,
    /// Servers that told nothing, as they were named, and why.
    pub silent: Vec<(String, StunError)>,
}

/// Asks these servers (`HOST[:PORT]`, port 3478 where it is not said) from one scratch port a family, all at once: where they
/// see different ports, the NAT maps by destination. Of each name one address a family is asked; of the servers the
/// first eight.
///
/// Takes at most the time to resolve a name and two seconds. Dropping the future ends it.
pub async fn mapping(servers: &[String], families: Families) -> Mapping {
    let mut lookups = JoinSet::new();
    for server in servers.iter().take(STUN_SERVERS) {
        let server = server.clone();
        lookups.spawn(async move {
            let found = resolve(&server, families).await;
            (server, found)
        });
    }
    let mut mapping = Mapping::default();
    let mut targets: Vec<(String, SocketAddr)> = Vec::new();
    while let Some(looked_up) = lookups.join_next().await {
        match looked_up {
            Ok((server, Ok(found))) => targets.extend(found.into_iter().map(|found| (server.clone(), found))),
            Ok((server, Err(error))) => mapping.silent.push((server, error)),
            Err(error) => tracing::error!(%error, "a look-up failed"),
        }
    }
    // Two names of one server are one destination, and a port has one connection to it.
    targets.sort_by_key(|(_, address)| *address);
    targets.dedup_by_key(|(_, address)| *address);
    // The ports are held until the end: in between nobody else gets them.
    let scratch = [false, true].map(Scratch::open);
    let mut exchanges = JoinSet::new();
    for (server, address) in targets {
        let [v4, v6] = &scratch;
        match if address.is_ipv4() { v4 } else { v6 } {
            Ok(scratch) => {
                let port = scratch.number();
                drop(exchanges.spawn(async move { (server, exchange(address, None, port).await) }));
            }
            Err(error) => mapping.silent.push((server, StunError::Port(error.kind().into()))),
        }
    }
    // Nor is a connection closed before all have answered: its mapping may go with it.
    let mut held = Vec::new();
    while let Some(exchanged) = exchanges.join_next().await {
        match exchanged {
            Ok((_, Ok((sample, stream)))) => {
                mapping.samples.push(sample);
                held.push(stream);
            }
            Ok((server, Err(error))) => mapping.silent.push((server, error)),
            Err(error) => tracing::error!(%error, "a question failed"),
        }
    }
    held.iter().for_each(port::abort);
    mapping.samples.sort_by_key(|sample| sample.destination);
    mapping.silent.sort_by(|(one, _), (other, _)| one.cmp(other));
    mapping
}

async fn exchange(
    server: SocketAddr,
    source: Option<IpAddr>,
    port: u16,
) -> Result<(Sample, TcpStream), StunError> {
    let whole = async {
        let mut stream =
            port::dial(source, port, server).await.map_err(|failed| StunError::Unreachable(failed.error))?;
        let local = stream.local_addr().map_err(StunError::Unreachable)?;
        let transaction = rand::rng().random();
        stream.write_all(&request(&transaction)).await.map_err(ended)?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await.map_err(ended)?;
        let mut answer = header.to_vec();
        answer.resize(HEADER + rest(&header)?, 0);
        stream.read_exact(answer.get_mut(HEADER..).unwrap_or_default()).await.map_err(ended)?;
        let observed = read_answer(&answer, &transaction)?;
        Ok((Sample { local, destination: server, observed }, stream))
    };
    timeout(OBSERVE_WITHIN, whole).await.unwrap_or(Err(StunError::Silent))
}

fn ended(error: io::Error) -> StunError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => StunError::Closed,
        _ => StunError::Unreachable(error),
    }
}

async fn resolve(server: &str, families: Families) -> Result<Vec<SocketAddr>, StunError> {
    let (host, port) = host_and_port(server);
    let found: Vec<SocketAddr> = match timeout(LINK_WITHIN, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.filter(|address| families.has(*address)).collect(),
        Ok(Err(error)) => return Err(StunError::NoSuchName(error.to_string())),
        Err(_) => return Err(StunError::NoSuchName("the name server does not answer".to_owned())),
    };
    let first = |v4: bool| found.iter().find(|address| address.is_ipv4() == v4).copied();
    let chosen: Vec<SocketAddr> = [first(true), first(false)].into_iter().flatten().collect();
    if chosen.is_empty() {
        return Err(StunError::NoSuchName("it has no address of a family in use".to_owned()));
    }
    Ok(chosen)
}

/// `HOST`, `HOST:PORT`, `IPV6` or `[IPV6]:PORT`; what is no port is part of the name, which then does not resolve.
fn host_and_port(text: &str) -> (&str, u16) {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => (text, PORT),
        },
        Some(_) | None => (text, PORT),
    };
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpunch_core::profile::{Behaviour, classify};
    use tokio::net::TcpListener;

    /// A server that answers every connection with what `answer` makes of its question and address.
    async fn server(answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, from) = listener.accept().await.unwrap();
                let mut question = [0; HEADER];
                stream.read_exact(&mut question).await.unwrap();
                stream.write_all(&answer(&question, from)).await.unwrap();
                let _ = stream.read(&mut [0]).await;
            }
        });
        address
    }

    fn honest(question: &[u8], from: SocketAddr) -> Vec<u8> {
        tcpunch_core::stun::answer(question, from).unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_server_tells_where_the_connection_comes_from() {
        let at = server(honest).await;
        let sample = ask(at, None, 0).await.unwrap();
        assert_eq!((sample.observed, sample.destination), (sample.local, at));
    }

    #[tokio::test]
    async fn servers_are_compared_from_one_port() {
        let (one, other) = (server(honest).await, server(honest).await);
        let by_destination = server(|question, from| {
            honest(question, SocketAddr::new("198.51.100.7".parse().unwrap(), from.port() ^ 1))
        });
        let third = by_destination.await;
        let plain = server(|question, from| {
            honest(question, SocketAddr::new("198.51.100.7".parse().unwrap(), from.port()))
        });
        let fourth = plain.await;
        let names: Vec<String> = [one, other, third, fourth, one].iter().map(SocketAddr::to_string).collect();
        let mapping = mapping(&names, Families::default()).await;
        assert!(mapping.silent.is_empty(), "{:?}", mapping.silent);
        assert_eq!(mapping.samples.len(), 4, "each server once");
        let port = mapping.samples[0].local.port();
        assert!(mapping.samples.iter().all(|sample| sample.local.port() == port));
        let profile = classify(&mapping.samples);
        assert_eq!(profile.mapping, Behaviour::AddressAndPortDependent);
    }

    #[tokio::test]
    async fn each_failure_says_whose_it_is() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(ask(closed, None, 0).await, Err(StunError::Unreachable(_))));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = ask(silent.local_addr().unwrap(), None, 0).await;
        assert!(matches!(error, Err(StunError::Silent)), "{error:?}");
        let web = server(|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
        assert!(matches!(ask(web, None, 0).await, Err(StunError::Answer(BadStun::Foreign))));
        let short = server(|question, from| honest(question, from)[..24].to_vec()).await;
        let error = ask(short, None, 0).await;
        assert!(matches!(error, Err(StunError::Silent | StunError::Closed)), "{error:?}");
        let long = server(|question, _| {
            let mut header = question.to_vec();
            header[2..4].copy_from_slice(&[0xff, 0xfc]);
            header
        });
        assert!(matches!(ask(long.await, None, 0).await, Err(StunError::Answer(BadStun::TooLong))));
        let mapping = mapping(&["no such name".to_owned(), closed.to_string()], Families::default()).await;
        let names: Vec<&str> = mapping.silent.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [closed.to_string().as_str(), "no such name"]);
        assert!(matches!(mapping.silent[1].1, StunError::NoSuchName(_)));
    }

    #[test]
    fn servers_are_named_as_brokers_are() {
        assert_eq!(host_and_port("stun.example"), ("stun.example", 3478));
        assert_eq!(host_and_port("stun.example:1"), ("stun.example", 1));
        assert_eq!(host_and_port("2001:db8::1"), ("2001:db8::1", 3478));
        assert_eq!(host_and_port("[2001:db8::1]:1"), ("2001:db8::1", 1));
        assert_eq!(host_and_port("stun.example:stun"), ("stun.example:stun", 3478));
    }
}
