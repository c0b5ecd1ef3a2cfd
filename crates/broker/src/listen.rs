//! What the broker asks of the system about its sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tcpunch_core::limits::{BROKER_BACKLOG, BROKER_PORT_CHOICES, BROKER_SOCKET_BUFFER};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// The address that could not be listened on.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
}

/// Listens on an address; an unspecified one means both families, each on its own socket, and port
/// 0 means one free port for all of them.
pub(crate) fn listen(address: SocketAddr) -> Result<Vec<TcpListener>, Failed> {
    let mut tries = BROKER_PORT_CHOICES;
    loop {
        tries -= 1;
        match listen_once(address) {
            // Free for one family does not mean free for the other.
            Err(Failed { error, .. })
                if tries > 0 && address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}

fn listen_once(address: SocketAddr) -> Result<Vec<TcpListener>, Failed> {
    let ip = address.ip().to_canonical();
    let both = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let (ips, any) = if ip.is_unspecified() { (&both[..], true) } else { (std::slice::from_ref(&ip), false) };
    let mut port = address.port();
    let mut listeners = Vec::new();
    let mut absent = None;
    for ip in ips {
        let mut wanted = SocketAddr::new(*ip, port);
        if let (SocketAddr::V6(wanted), SocketAddr::V6(given)) = (&mut wanted, address) {
            wanted.set_scope_id(given.scope_id());
        }
        let failed = |error| Failed { address: wanted, error };
        match listen_on(wanted) {
            Ok(listener) => {
                port = listener.local_addr().map_err(failed)?.port();
                listeners.push(listener);
            }
            Err(error) if any && lacks_family(&error) => absent = Some(failed(error)),
            Err(error) => return Err(failed(error)),
        }
    }
    match absent {
        Some(failed) if listeners.is_empty() => Err(failed),
        _ => Ok(listeners),
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Otherwise IPv4 peers would be observed at IPv4-mapped addresses.
        socket.set_only_v6(true)?;
    }
    // A broker that is started again must not wait for TIME_WAIT to pass. On Windows the option
    // means to share the port with whoever has it. SO_REUSEPORT is never set: two brokers on one
    // port would each get half of the peers in silence.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // What is accepted inherits them.
    socket.set_recv_buffer_size(BROKER_SOCKET_BUFFER)?;
    socket.set_send_buffer_size(BROKER_SOCKET_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BROKER_BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Whether the machine does not have the family at all.
fn lacks_family(error: &io::Error) -> bool {
    #[cfg(unix)]
    let unsupported = nix::errno::Errno::EAFNOSUPPORT as i32;
    #[cfg(windows)]
    let unsupported = 10047; // WSAEAFNOSUPPORT
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

/// Whether a failed accept concerns only the connection that was to be accepted (accept(2) passes
/// on its network errors).
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
    )
}

/// What comes from a peer's address, however the socket spells it.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

/// Makes the socket forget what it has not sent when it is closed.
pub(crate) fn forget_unsent(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no reset instead of a close");
    }
}

/// How many descriptors this process may have open.
pub(crate) fn most_descriptors() -> usize {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit};
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, _)) => usize::try_from(soft).unwrap_or(usize::MAX),
            Err(_) => usize::MAX,
        }
    }
    #[cfg(not(unix))]
    usize::MAX
}

/// Least round trip of a connection as its kernel measured it, beginning with the handshake of TCP.
///
/// Preferred to timing messages here: the kernel sees neither this program's queues nor the
/// peer's, so a busy side does not look far away, and the measurement goes on with every segment
/// instead of being made once.
#[cfg(target_os = "linux")]
pub(crate) fn least_round_trip(stream: &TcpStream) -> Option<Duration> {
    use nix::sys::socket::getsockopt;

    if !*tcp_info::IS_LONG_ENOUGH {
        return None;
    }
    let info = getsockopt(stream, tcp_info::TcpInfo).ok()?;
    match info.get(tcp_info::MIN_RTT).copied() {
        // All ones before the first measurement.
        None | Some(0 | u32::MAX) => None,
        Some(microseconds) => Some(Duration::from_micros(microseconds.into())),
    }
}

/// Other systems are not asked; see the timing of the handshake in the link.
#[cfg(not(target_os = "linux"))]
pub(crate) fn least_round_trip(_stream: &TcpStream) -> Option<Duration> {
    None
}

#[cfg(target_os = "linux")]
mod tcp_info {
    use std::sync::LazyLock;

    use nix::{getsockopt_impl, libc, sockopt_impl};

    /// `tcpi_min_rtt` in 32-bit words from the start of `struct tcp_info` (linux/tcp.h). The
    /// structure of the C library ends before it.
    pub(super) const MIN_RTT: usize = 37;

    sockopt_impl!(
        /// `struct tcp_info` up to `tcpi_min_rtt`, in words: any bits are valid ones.
        TcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; MIN_RTT + 1]
    );

    /// Since Linux 4.6. An older kernel returns less, which the accessor answers with a panic.
    pub(super) static IS_LONG_ENOUGH: LazyLock<bool> = LazyLock::new(|| {
        let Ok(name) = nix::sys::utsname::uname() else {
            return false;
        };
        let release = name.release().to_string_lossy();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(4), Some(6))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_round_trip_of_loopback_is_short() {
        let listeners = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let (connected, accepted) = tokio::join!(TcpStream::connect(address), listeners[0].accept());
        let (connected, accepted) = (connected.unwrap(), accepted.unwrap().0);
        for stream in [connected, accepted] {
            let round_trip = least_round_trip(&stream);
            if cfg!(target_os = "linux") {
                assert!(round_trip.unwrap() < Duration::from_millis(50), "{round_trip:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_free_port_is_the_same_for_both_families() {
        let listeners = listen("[::]:0".parse().unwrap()).unwrap();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        let failed = listen("198.51.100.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(failed.error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
