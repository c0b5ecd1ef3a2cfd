//! The one local port: listeners, connects from it, and what the kernel says about them.
//!
//! The only file that names socket options and error numbers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use rand::Rng;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tcpunch_core::limits::{DESCRIPTORS_RESERVED, PORT_FIRST, PORT_LAST, PORT_TRIES};
use tcpunch_core::puncher::Dialled;
use tokio::net::{TcpListener, TcpStream};

/// Why no port could be had. The fault is local.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another program listens there.
    #[error("port {0} is taken by another program")]
    Taken(u16),
    /// The kernel refused for another reason.
    #[error("port {0} can't be opened: {1}")]
    Io(u16, io::Error),
    /// No free port was found.
    #[error("no free port between {PORT_FIRST} and {PORT_LAST} was found")]
    NoneFree,
}

/// Which address families are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Families { v4: true, v6: true }
    }
}

impl Families {
    /// Whether the address is of a family in use.
    pub fn has(self, address: SocketAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// A guarded local port with a listener for each family.
pub(crate) struct Port {
    number: u16,
    v4: Option<TcpListener>,
    v6: Option<TcpListener>,
}

impl Port {
    /// Opens the listeners on this port, or on a random one that is free in both families.
    ///
    /// # Errors
    ///
    /// The port is taken, or no free one was found.
    pub(crate) fn acquire(
        wish: Option<u16>,
        families: Families,
        rng: &mut impl Rng,
    ) -> Result<Self, PortError> {
        if let Some(number) = wish {
            return Self::open(number, families);
        }
        for _ in 0..PORT_TRIES {
            match Self::open(rng.random_range(PORT_FIRST..=PORT_LAST), families) {
                Err(PortError::Taken(_)) => {}
                result => return result,
            }
        }
        Err(PortError::NoneFree)
    }

    fn open(number: u16, families: Families) -> Result<Self, PortError> {
        let listener = |ip: IpAddr, wanted: bool| -> Result<Option<TcpListener>, PortError> {
            if !wanted {
                return Ok(None);
            }
            match guarded_listener(SocketAddr::new(ip, number)) {
                Ok(listener) => Ok(Some(listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(PortError::Taken(number)),
                // A machine without this family.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrNotAvailable
                        || error.kind() == io::ErrorKind::Unsupported
                        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
                {
                    Ok(None)
                }
                Err(error) => Err(PortError::Io(number, error)),
            }
        };
        let v4 = listener(Ipv4Addr::UNSPECIFIED.into(), families.v4)?;
        let v6 = listener(Ipv6Addr::UNSPECIFIED.into(), families.v6)?;
        if v4.is_none() && v6.is_none() {
            return Err(PortError::Io(number, io::ErrorKind::Unsupported.into()));
        }
        Ok(Port { number, v4, v6 })
    }

    /// The port's number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// The next connection that comes in on either family.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`; of these EMFILE and ENFILE last, the caller must pause.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let one = async |listener: &Option<TcpListener>| match listener {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        };
        let (stream, remote) = tokio::select! {
            accepted = one(&self.v4) => accepted?,
            accepted = one(&self.v6) => accepted?,
        };
        stream.set_nodelay(true)?;
        Ok((stream, remote))
    }
}

/// A free port to ask from, held until this is dropped. It never listens: a SYN that comes in is reset.
pub(crate) struct Scratch {
    number: u16,
    _held: Socket,
}

impl Scratch {
    /// Holds any free port of the family.
    ///
    /// # Errors
    ///
    /// The kernel has none, or not this family.
    pub(crate) fn open(v6: bool) -> io::Result<Self> {
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let any = SocketAddr::new(any, 0);
        let socket = new_socket(any)?;
        socket.set_reuse_address(true)?;
        share_port(&socket)?;
        socket.bind(&any.into())?;
        let number = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
        Ok(Scratch { number, _held: socket })
    }

    /// The port's number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// A listener that no other program of this kind can share: it is bound and listens without
/// SO_REUSEPORT, which fails where another listener is (and makes any later one fail), and gets the
/// flag only then, so that connects from the same port can be bound beside it. Measured on Linux
/// 6.18: of two such listeners on one port the second fails, at bind or at listen.
fn guarded_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    share_port(&socket)?;
    TcpListener::from_std(socket.into())
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// Windows has no SO_REUSEPORT; there SO_REUSEADDR alone shares a port.
#[cfg(not(unix))]
fn share_port(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// A dial that did not connect.
#[derive(Debug)]
pub(crate) struct DialError {
    /// What it means for the puncher.
    pub outcome: Dialled,
    /// What the kernel said.
    pub error: io::Error,
}

/// Connects from the given local port (0: any) to the remote address.
///
/// `source` is the local address to use, where one must be; otherwise the kernel's routes decide.
///
/// # Errors
///
/// Sorted by what they mean for a hole.
pub(crate) async fn dial(
    source: Option<IpAddr>,
    port: u16,
    remote: SocketAddr,
) -> Result<TcpStream, DialError> {
    begin(source, port, remote)?.finish().await
}

/// A connect whose SYN has left.
pub(crate) struct Dialling(Socket);

/// Begins to [`dial`]: when it returns the SYN has left, so that several leave in the order of the calls.
///
/// # Errors
///
/// As those of [`dial`].
pub(crate) fn begin(source: Option<IpAddr>, port: u16, remote: SocketAddr) -> Result<Dialling, DialError> {
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = SocketAddr::new(source.filter(|ip| ip.is_ipv4() == remote.is_ipv4()).unwrap_or(any), port);
    let begin = || -> io::Result<(Socket, io::Result<()>)> {
        let socket = new_socket(local)?;
        // Of sockets that may share ports the kernel lets two have one, and the second can't dial where the first does.
        if port != 0 {
            socket.set_reuse_address(true)?;
            share_port(&socket)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.bind(&local.into())?;
        let started = socket.connect(&remote.into());
        Ok((socket, started))
    };
    let (socket, started) = begin().map_err(|error| DialError { outcome: at_once(&error), error })?;
    if let Err(error) = started
        && error.kind() != io::ErrorKind::WouldBlock
        && error.raw_os_error() != Some(Errno::EINPROGRESS as i32)
    {
        return Err(DialError { outcome: at_once(&error), error });
    }
    Ok(Dialling(socket))
}

impl Dialling {
    /// The connection, once it stands.
    ///
    /// # Errors
    ///
    /// As those of [`dial`].
    pub(crate) async fn finish(self) -> Result<TcpStream, DialError> {
        self.finish_unless(std::future::pending()).await
    }

    /// The same, and as if it had timed out once it is released, unless the other side's SYN has come in by then.
    ///
    /// # Errors
    ///
    /// As those of [`dial`].
    pub(crate) async fn finish_unless(
        self,
        released: impl Future<Output = ()>,
    ) -> Result<TcpStream, DialError> {
        let finish = async || -> io::Result<TcpStream> {
            let stream = TcpStream::from_std(self.0.into())?;
            tokio::select! {
                ready = stream.writable() => ready?,
                // Linux knows the peer of a socket in SYN_RECV, and not in SYN_SENT.
                () = released => match stream.peer_addr() {
                    Ok(_) => stream.writable().await?,
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                },
            }
            match stream.take_error()? {
                // SO_ERROR also tells of soft errors: an ICMP answer to the SYN that came while `connect` still held the
                // socket, so that the kernel went on, and connected.
                Some(error) if stream.peer_addr().is_err() => Err(error),
                Some(_) | None => Ok(stream),
            }
        };
        finish().await.map_err(|error| DialError { outcome: later(&error), error })
    }
}

/// Errors that `bind` and `connect` return before a SYN left.
fn at_once(error: &io::Error) -> Dialled {
    match error.kind() {
        // Loopback answers before connect returns.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Dialled::Refused,
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Dialled::InUse,
        _ => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Dialled::NoDescriptor,
            _ => Dialled::NoRoute,
        },
    }
}

/// Errors that came back from the network.
fn later(error: &io::Error) -> Dialled {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Dialled::Refused,
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Dialled::InUse,
        io::ErrorKind::TimedOut => Dialled::TimedOut,
        _ => Dialled::Unreachable,
    }
}

/// How many sockets may still be opened, some left for the program around.
pub(crate) fn spare_descriptors() -> usize {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit};
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let open = crate::gather::open_descriptors();
        usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open + DESCRIPTORS_RESERVED)
    }
    #[cfg(not(unix))]
    usize::MAX
}

/// Closes with a reset, so that the 4-tuple is free at once: a new link from the same port to the
/// same broker would get EADDRNOTAVAIL while the old one lingers (measured).
pub(crate) fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Undoes [`abort`].
pub(crate) fn settle(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Ends the writing half of the TCP connection.
pub(crate) fn finish(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn rng() -> rand::rngs::StdRng {
        rand::rngs::StdRng::from_os_rng()
    }

    fn v4() -> Families {
        Families { v4: true, v6: false }
    }

    #[tokio::test]
    async fn a_port_is_held_against_others_of_this_kind() {
        let port = Port::acquire(None, Families::default(), &mut rng()).unwrap();
        let second = Port::acquire(Some(port.number()), Families::default(), &mut rng());
        assert!(matches!(second, Err(PortError::Taken(_))));
    }

    #[tokio::test]
    async fn a_port_with_a_plain_listener_is_taken() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = other.local_addr().unwrap().port();
        assert!(matches!(Port::acquire(Some(number), v4(), &mut rng()), Err(PortError::Taken(_))));
    }

    #[tokio::test]
    async fn many_who_start_at_once_never_share_a_port() {
        let start = std::sync::Arc::new(std::sync::Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let start = start.clone();
                let runtime = tokio::runtime::Handle::current();
                std::thread::spawn(move || {
                    let _guard = runtime.enter();
                    start.wait();
                    (0..40)
                        .filter_map(|n| Port::acquire(Some(19_000 + n), v4(), &mut rng()).ok())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let held: Vec<Vec<Port>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut numbers: Vec<u16> = held.iter().flatten().map(Port::number).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "a port was held twice");
    }

    #[tokio::test]
    async fn listener_and_connects_share_the_port() {
        let one = Port::acquire(None, v4(), &mut rng()).unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let third = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = dial(None, one.number(), other.local_addr().unwrap()).await.unwrap();
        let second = dial(None, one.number(), third.local_addr().unwrap()).await.unwrap();
        assert_eq!(first.local_addr().unwrap().port(), second.local_addr().unwrap().port());
        let client = std::net::TcpStream::connect(("127.0.0.1", one.number())).unwrap();
        assert_eq!(one.accept().await.unwrap().1, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn errors_mean_what_they_mean_for_a_hole() {
        let port = Port::acquire(None, v4(), &mut rng()).unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(dial(None, port.number(), closed).await.unwrap_err().outcome, Dialled::Refused);
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = open.local_addr().unwrap();
        let _first = dial(None, port.number(), address).await.unwrap();
        assert_eq!(dial(None, port.number(), address).await.unwrap_err().outcome, Dialled::InUse);
        let broadcast = "255.255.255.255:9".parse().unwrap();
        assert_eq!(dial(None, 0, broadcast).await.unwrap_err().outcome, Dialled::NoRoute);
        let without = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        assert_eq!(at_once(&without), Dialled::NoDescriptor, "for now, and not for good");
    }

    /// A dial that keeps from its socket the segments that have one of these TCP flags. It dials itself: its own SYN comes
    /// in as if the other side had sent it, and its own SYN-ACK as the answer.
    #[cfg(target_os = "linux")]
    fn dial_to_itself_without(flags: u8) -> (Dialling, Socket) {
        use nix::libc::{BPF_ABS, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET};
        use socket2::SockFilter;
        const FLAGS_AT: u32 = 13;
        let code = |parts: u32| u16::try_from(parts).unwrap();
        let filter = [
            SockFilter::new(code(BPF_LD | BPF_B | BPF_ABS), 0, 0, FLAGS_AT),
            SockFilter::new(code(BPF_JMP | BPF_JSET | BPF_K), 0, 1, flags.into()),
            SockFilter::new(code(BPF_RET | BPF_K), 0, 0, 0),
            SockFilter::new(code(BPF_RET | BPF_K), 0, 0, u32::MAX),
        ];
        let socket = new_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.attach_filter(&filter).unwrap();
        let itself = socket.local_addr().unwrap();
        assert_eq!(socket.connect(&itself).unwrap_err().raw_os_error(), Some(Errno::EINPROGRESS as i32));
        let watched = socket.try_clone().unwrap();
        (Dialling(socket), watched)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn released_before_the_other_side_s_syn_it_ends() {
        const SYN: u8 = 0x02;
        let (dialling, _watched) = dial_to_itself_without(SYN);
        let error = dialling.finish_unless(std::future::ready(())).await.unwrap_err();
        assert_eq!(error.outcome, Dialled::TimedOut);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn released_after_the_other_side_s_syn_it_still_connects() {
        const ACK: u8 = 0x10;
        let (dialling, watched) = dial_to_itself_without(ACK);
        let mut finishing = Box::pin(dialling.finish_unless(std::future::ready(())));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut finishing).await;
        assert!(early.is_err(), "half open: {early:?}");
        // The kernel repeats the SYN-ACK after a second.
        watched.detach_filter().unwrap();
        let stream = finishing.await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn an_aborted_connection_frees_its_addresses_at_once() {
        let port = Port::acquire(None, v4(), &mut rng()).unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        for _ in 0..5 {
            let stream = dial(None, port.number(), address).await.unwrap();
            abort(&stream);
        }
    }
}
