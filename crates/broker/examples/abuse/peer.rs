//! The smallest peer that speaks the protocol, from any loopback address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use tcpunch_core::identity::{PublicKey, SecretKey};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::secure::{LinkHandshake, LinkOpener, LinkSealer, Pattern};
use tcpunch_core::wire::{self, FromBroker, Preface, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The broker, with its key.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: PublicKey,
}

/// `ADDRESS#KEY`.
pub(crate) fn target(text: &str) -> Target {
    let (address, key) = text.split_once('#').expect("ADDRESS#KEY");
    Target { address: address.parse().expect("an address"), key: key.parse().expect("a key") }
}

pub(crate) fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().expect("seconds"))
}

pub(crate) fn new_key() -> SecretKey {
    SecretKey::generate(&mut rand::rng())
}

pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes with a reset, which leaves no port waiting.
pub(crate) fn abort(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

/// The preface and the first message of the handshake.
pub(crate) fn greeting(own: &SecretKey, broker: Option<&PublicKey>) -> (LinkHandshake, Vec<u8>) {
    let pattern = if broker.is_some() { Pattern::Ik } else { Pattern::Xx };
    let preface = Preface::Link(pattern).encode();
    let mut handshake = LinkHandshake::peer(own, broker, &preface).expect("keys");
    let first = block(&handshake.write(&[]).expect("a first message"));
    (handshake, [&preface[..], &first].concat())
}

pub(crate) fn block(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a short message");
    [&length.to_be_bytes()[..], bytes].concat()
}

async fn read_block(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn forged<T>(_: T) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// A registered peer.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) key: PublicKey,
    sealer: LinkSealer,
    opener: LinkOpener,
}

impl Peer {
    /// Connects, shakes hands, registers and waits for an answer.
    pub(crate) async fn register(from: Ipv4Addr, to: Target) -> io::Result<Peer> {
        let own = new_key();
        let stream = connect(from, to.address).await?;
        let mut peer = Self::shake_hands(stream, &own, Some(&to.key)).await?.0;
        peer.say(&ToBroker::Register { profile: NatProfile::default() }).await?;
        peer.say(&ToBroker::Ping(1)).await?;
        match peer.hear().await? {
            FromBroker::Pong(1) => Ok(peer),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// The broker's key, which a handshake tells.
    pub(crate) async fn learn_key(address: SocketAddr) -> io::Result<PublicKey> {
        let stream = connect(Ipv4Addr::LOCALHOST, address).await?;
        Ok(Self::shake_hands(stream, &new_key(), None).await?.1)
    }

    async fn shake_hands(
        mut stream: TcpStream,
        own: &SecretKey,
        broker: Option<&PublicKey>,
    ) -> io::Result<(Peer, PublicKey)> {
        let (mut handshake, greeting) = greeting(own, broker);
        stream.write_all(&greeting).await?;
        while !handshake.is_finished() {
            if handshake.is_my_turn() {
                let message = handshake.write(&[]).map_err(forged)?;
                stream.write_all(&block(&message)).await?;
            } else {
                let message = read_block(&mut stream).await?;
                handshake.read(&message).map_err(forged)?;
            }
        }
        let remote = handshake.remote().ok_or(io::ErrorKind::InvalidData)?;
        let (sealer, opener) = handshake.finish();
        Ok((Peer { stream, key: own.public(), sealer, opener }, remote))
    }

    pub(crate) async fn say(&mut self, message: &ToBroker) -> io::Result<()> {
        let frame = self.sealer.seal(wire::encode(message).map_err(forged)?).map_err(forged)?;
        self.stream.write_all(&frame).await
    }

    pub(crate) async fn hear(&mut self) -> io::Result<FromBroker> {
        let frame = read_block(&mut self.stream).await?;
        wire::decode(&self.opener.open(frame).map_err(forged)?).map_err(forged)
    }
}

/// A host of the honest: no flood comes from there.
pub(crate) fn any_honest() -> Ipv4Addr {
    let [_, b, c, d] = rand::rng().random::<[u8; 4]>();
    Ipv4Addr::new(127, 128 | b, c, d.clamp(1, 254))
}

/// One of the hosts that floods come from.
pub(crate) fn hostile(n: usize) -> Ipv4Addr {
    let [c, d] = u16::try_from(n).expect("at most 64 Ki addresses").to_be_bytes();
    Ipv4Addr::new(127, 66, c, d)
}
