//! Connecting back to where an observation came from, to see who is let in there.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tcpunch_core::limits::KNOCK_WITHIN;
use tcpunch_core::wire::KnockAnswer;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Knocks; `None` where this machine could not.
pub(crate) async fn knock(from: IpAddr, to: SocketAddr) -> Option<KnockAnswer> {
    // Without SO_REUSEPORT, so that it never leaves from a port on which the peer knows this broker.
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.ok()?;
    socket.bind(SocketAddr::new(from, 0)).ok()?;
    match timeout(KNOCK_WITHIN, socket.connect(to)).await {
        Ok(Ok(stream)) => Some(accepted(stream)),
        Ok(Err(error)) => refused(&error),
        Err(_) => Some(KnockAnswer::Silent),
    }
}

/// Nothing was received, so that dropping it closes it with a FIN.
fn accepted(_stream: TcpStream) -> KnockAnswer {
    KnockAnswer::Accepted
}

fn refused(error: &io::Error) -> Option<KnockAnswer> {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Some(KnockAnswer::Refused),
        ErrorKind::TimedOut => Some(KnockAnswer::Silent),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(KnockAnswer::Unreachable),
        // No address, no port, no right to: this machine's doing.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn knocks_tell_a_listener_from_a_closed_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let from: IpAddr = "127.0.0.2".parse().unwrap();
        assert_eq!(knock(from, address).await, Some(KnockAnswer::Accepted));
        let (mut stream, remote) = listener.accept().await.unwrap();
        assert_eq!(remote.ip(), from);
        let end = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
        assert_eq!(end.ok(), Some(0), "it is closed, not reset");
        drop(listener);
        assert_eq!(knock(from, address).await, Some(KnockAnswer::Refused));
    }

    #[tokio::test]
    async fn what_this_machine_cannot_do_is_no_answer() {
        let nobody = "198.51.100.77".parse().unwrap();
        assert_eq!(knock(nobody, "127.0.0.1:9".parse().unwrap()).await, None);
    }
}
