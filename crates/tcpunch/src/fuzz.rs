//! What the fuzz targets call; not part of the library.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The first frame that a link would read from these bytes, and how many bytes are left. `None`: it waits for more, or
/// gives the link up.
pub fn link_frame(bytes: &[u8]) -> (Option<Vec<u8>>, usize) {
    let mut rest = bytes;
    let frame = match pin!(crate::registration::read_frame(&mut rest))
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(read) => read.ok(),
        Poll::Pending => None,
    };
    (frame, rest.len())
}

/// A connection on this socket, which need not be one of TCP; to be called where tokio runs.
#[cfg(unix)]
pub fn connection(
    socket: std::os::fd::OwnedFd,
    sealer: tcpunch_core::secure::Sealer,
    opener: tcpunch_core::secure::Opener,
) -> std::io::Result<crate::Connection> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    let nowhere = std::net::SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 1);
    Ok(crate::Connection::new(crate::connection::Parts {
        socket: tokio::net::TcpStream::from_std(socket)?,
        sealer,
        opener,
        own: crate::PublicKey([2; 32]),
        peer: crate::PublicKey([1; 32]),
        binding: [0; 32],
        network: crate::network::Network::watch(),
        portmap: None,
        info: crate::PathInfo {
            path: crate::Path::Lan,
            local: nowhere,
            remote: nowhere,
            tries: 1,
            syns: 1,
            elapsed: std::time::Duration::ZERO,
        },
    }))
}
