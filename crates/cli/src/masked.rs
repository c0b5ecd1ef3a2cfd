//! Peers' addresses in a broker's log: a keyed hash, unless the operator asks for more.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tcpunch_core::limits::LOG_KEY_LIFE;
use tcpunch_core::rendezvous::subscriber;

/// Shows addresses, or hides them.
pub(crate) struct Addresses {
    plain: bool,
    key: [u8; 32],
    since: Instant,
}

impl Addresses {
    pub(crate) fn new(plain: bool) -> Self {
        Addresses { plain, key: rand::random(), since: Instant::now() }
    }

    pub(crate) fn show(&mut self, address: SocketAddr) -> String {
        if self.plain {
            return address.to_string();
        }
        if self.since.elapsed() >= LOG_KEY_LIFE {
            *self = Addresses::new(false);
        }
        let bytes = match subscriber(address.ip()) {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let hash = blake3::keyed_hash(&self.key, &bytes).to_hex();
        format!("~{}", hash.get(..8).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_subscriber_looks_the_same_and_no_address_shows() {
        let mut masked = Addresses::new(false);
        let one = masked.show("198.51.100.7:1".parse().unwrap());
        assert_eq!(one, masked.show("198.51.100.7:2".parse().unwrap()));
        assert_ne!(one, masked.show("198.51.100.8:1".parse().unwrap()));
        assert_eq!(
            masked.show("[2001:db8::1]:1".parse().unwrap()),
            masked.show("[2001:db8::2]:1".parse().unwrap())
        );
        assert!(!one.contains("198"));
        assert_ne!(one, Addresses::new(false).show("198.51.100.7:1".parse().unwrap()));
    }

    #[test]
    fn a_key_that_has_lived_long_enough_is_drawn_anew() {
        let mut masked = Addresses::new(false);
        let address = "198.51.100.7:1".parse().unwrap();
        let one = masked.show(address);
        masked.since = Instant::now().checked_sub(LOG_KEY_LIFE).unwrap();
        assert_ne!(one, masked.show(address));
        assert!(masked.since.elapsed() < LOG_KEY_LIFE);
    }

    #[test]
    fn an_operator_can_ask_for_addresses() {
        assert_eq!(Addresses::new(true).show("198.51.100.7:1".parse().unwrap()), "198.51.100.7:1");
    }
}
