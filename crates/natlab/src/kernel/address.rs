//! Who has which address: ranges for documentation and tests, and the private ones of LANs.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Error;
use crate::kernel::cable::Link;

/// The network of the public hosts, a /30 each.
const HOSTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// The network of the gateways' outside addresses, a /30 each.
const GATEWAYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// Further addresses of public hosts.
const FURTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
/// LANs with public addresses, a /24 each.
const PUBLIC_LANS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// LANs behind NATs, a /24 each.
const PRIVATE_LANS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 0);
/// Sites with IPv6 get a /48 each of 2001:db8::/32, the one with their number.
const IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);

/// What addresses a lab has given away.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    sites: u16,
    hosts: u32,
    gateways: u32,
    further: u32,
    public_lans: u32,
    private_lans: u32,
}

impl Plan {
    /// The core's and the site's address of a fresh /30.
    pub(crate) fn uplink(&mut self, gateway: bool) -> Result<(Ipv4Addr, Ipv4Addr), Error> {
        let (base, count, what) = if gateway {
            (GATEWAYS, &mut self.gateways, "addresses for gateways")
        } else {
            (HOSTS, &mut self.hosts, "addresses for public hosts")
        };
        let network = nth(base, 4, count, 64, what)?;
        Ok((plus(network, 1), plus(network, 2)))
    }

    /// One more address for a public host.
    pub(crate) fn further(&mut self) -> Result<Ipv4Addr, Error> {
        let address = nth(FURTHER, 1, &mut self.further, 254, "further addresses")?;
        Ok(plus(address, 1))
    }

    /// A fresh /24.
    pub(crate) fn lan(&mut self, public: bool) -> Result<Ipv4Addr, Error> {
        if public {
            nth(PUBLIC_LANS, 256, &mut self.public_lans, 256, "public LANs")
        } else {
            let first = plus(PRIVATE_LANS, 256);
            nth(first, 256, &mut self.private_lans, 255, "private LANs")
        }
    }

    pub(crate) fn site(&mut self) -> Prefix {
        // 0 is left out so that no site has the prefix of the whole; 64 hosts and 64 gateways can't exhaust the rest.
        self.sites = self.sites.saturating_add(1);
        Prefix { bits: IPV6.to_bits() | u128::from(self.sites) << 80, length: 48 }
    }
}

fn nth(
    base: Ipv4Addr,
    step: u32,
    count: &mut u32,
    capacity: u32,
    what: &'static str,
) -> Result<Ipv4Addr, Error> {
    if *count >= capacity {
        return Err(Error::Exhausted(what));
    }
    let address = plus(base, step * *count);
    *count += 1;
    Ok(address)
}

pub(crate) fn plus(address: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().saturating_add(offset))
}

/// An IPv6 prefix that a site may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    /// The link between a site and the core.
    pub(crate) fn uplink(self, host: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits | host)
    }

    /// The LAN's own /64.
    pub(crate) fn lan(self, host: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits | 1 << 64 | host)
    }

    /// What a gateway on the LAN gets for its own, of 15 such parts; the part 0 holds the LAN and the uplink.
    pub(crate) fn part(self, index: u16) -> Result<Self, Error> {
        if self.length >= 60 || !(1..=15).contains(&index) {
            return Err(Error::Exhausted("IPv6 prefixes for gateways behind a gateway"));
        }
        let length = self.length + 4;
        Ok(Self { bits: self.bits | u128::from(index) << (128 - length), length })
    }

    pub(crate) fn network(self) -> String {
        format!("{}/{}", Ipv6Addr::from_bits(self.bits), self.length)
    }
}

/// How a node is addressed on its interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addressing {
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) length: u8,
    pub(crate) router: Ipv4Addr,
    // Own address and router, in a /64.
    pub(crate) ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl Addressing {
    pub(crate) fn batch(&self, link: &Link) -> String {
        let interface = &link.near().interface;
        let Self { ipv4, length, router, ipv6 } = self;
        let mut batch = format!(
            "addr add {ipv4}/{length} dev {interface}\nroute add default via {router} dev {interface}\n"
        );
        if let Some((address, router)) = ipv6 {
            let _ = writeln!(batch, "addr add {address}/64 dev {interface} nodad");
            let _ = writeln!(batch, "route add default via {router} dev {interface}");
        }
        batch
    }
}

/// The number of a further address, for those of another family.
pub(crate) fn number(further: Ipv4Addr) -> u32 {
    further.to_bits() - FURTHER.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_gateways_behind_gateways_do_not_overlap() {
        let site = Prefix { bits: IPV6.to_bits() | 1 << 80, length: 48 };
        assert_eq!(site.uplink(1).to_string(), "2001:db8:1::1");
        assert_eq!(site.lan(2).to_string(), "2001:db8:1:1::2");
        let first = site.part(1).unwrap();
        assert_eq!(first.network(), "2001:db8:1:1000::/52");
        assert_eq!(first.lan(1).to_string(), "2001:db8:1:1001::1");
        let deepest = first.part(15).unwrap().part(2).unwrap();
        assert_eq!(deepest.network(), "2001:db8:1:1f20::/60");
        assert!(deepest.part(1).is_err());
        assert!(site.part(16).is_err());
    }
}
