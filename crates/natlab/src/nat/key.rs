//! What tables are indexed by, and a hasher for them that is cheap and the same in every run.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Dependence;
use crate::packet::Protocol;

pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Folding>>;

/// One of the two sides of a mapping or session: the inside or the outside endpoint, and what it is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) own: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Key {
    /// Stands for every remote endpoint.
    pub(super) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

    pub(super) fn new(protocol: Protocol, own: SocketAddr, remote: SocketAddr) -> Self {
        Self { protocol, own, remote }
    }

    /// With as much of the remote endpoint as matters.
    pub(super) fn scoped(self, dependence: Dependence) -> Self {
        let remote = match dependence {
            Dependence::Endpoint => Self::ANY,
            Dependence::Address => SocketAddr::new(self.remote.ip(), 0),
            Dependence::AddressAndPort => self.remote,
        };
        Self { remote, ..self }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in [self.own, self.remote] {
            match address {
                SocketAddr::V4(it) => {
                    state.write_u64(u64::from(it.ip().to_bits()) << 16 | u64::from(it.port()));
                }
                SocketAddr::V6(it) => {
                    let [high, low] = [it.ip().to_bits() >> 64, it.ip().to_bits() & u128::from(u64::MAX)];
                    state.write_u64(high as u64 ^ u64::from(it.port()) << 40);
                    state.write_u64(low as u64);
                }
            }
        }
        state.write_u64(self.protocol as u64);
    }
}

/// Multiplies and folds. Nobody attacks these tables, so it need not be hard to steer.
#[derive(Default)]
pub(super) struct Folding(u64);

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.write_u64(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Digits of the golden ratio and of pi: any with many bits would do.
        let product = u128::from(self.0 ^ word ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
