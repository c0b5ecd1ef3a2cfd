//! What this machine knows of its own networks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tcpunch_core::candidate::{Scope, scope, shares_prefix};
use tcpunch_core::limits::MAX_HOST_CANDIDATES;

use crate::port::Families;
use crate::report::Interface;

/// Addresses of the interfaces that are up, with the length of their prefix.
pub(crate) fn interfaces() -> Vec<(IpAddr, u8)> {
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return Vec::new() };
    interfaces
        .into_iter()
        .map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        })
        .collect()
}

/// Addresses from which packets can leave for other machines now: of interfaces that have a
/// carrier, loopback and link-local left out.
pub(crate) fn usable() -> Vec<IpAddr> {
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return Vec::new() };
    interfaces
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .map(|interface| interface.ip())
        .filter(|ip| scope(*ip) != Scope::Loopback && !is_link_local(*ip))
        .collect()
}

/// The same with the interfaces' names and prefixes, for people.
pub(crate) fn told() -> Vec<Interface> {
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return Vec::new() };
    interfaces
        .into_iter()
        .filter(if_addrs::Interface::is_oper_up)
        .filter(|interface| scope(interface.ip()) != Scope::Loopback && !is_link_local(interface.ip()))
        .map(|interface| {
            let prefix = match &interface.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            };
            Interface { address: interface.ip(), name: interface.name, prefix }
        })
        .collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
        IpAddr::V4(v4) => v4.is_link_local(),
    }
}

/// How many descriptors this process has open; 0 where the system does not tell.
#[cfg(unix)]
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/dev/fd").map_or(0, Iterator::count)
}

/// The routers of the default routes, as far as the system tells.
#[cfg(target_os = "linux")]
pub(crate) fn gateways() -> Vec<IpAddr> {
    std::fs::read_to_string("/proc/thread-self/net/route")
        .map(|table| parse_routes(&table))
        .unwrap_or_default()
}

/// Other systems do not tell without a privilege or a program.
#[cfg(not(target_os = "linux"))]
pub(crate) fn gateways() -> Vec<IpAddr> {
    Vec::new()
}

/// Columns of the kernel's table: interface, destination, gateway, flags; hexadecimal, in the
/// machine's byte order.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn parse_routes(table: &str) -> Vec<IpAddr> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let destination = u32::from_str_radix(columns.next()?, 16).ok()?;
            let gateway = u32::from_str_radix(columns.next()?, 16).ok()?;
            (destination == 0 && gateway != 0).then(|| IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())))
        })
        .collect()
}

/// What tells the present network apart from others, as far as that can be told from inside: the routers, their hardware
/// addresses, and the own network behind which they are. `None` where no other machine can be reached.
pub(crate) fn network() -> Option<Vec<u8>> {
    let mut gateways = gateways();
    gateways.sort_unstable();
    gateways.dedup();
    let interfaces: Vec<(IpAddr, u8)> = interfaces()
        .into_iter()
        .filter(|(ip, _)| scope(*ip) != Scope::Loopback && !is_link_local(*ip))
        .collect();
    describe(&gateways, &neighbours(), &interfaces)
}

/// A router is told with its hardware address where the system knows that: half of all homes have a 192.168.1.1. Without
/// a router of IPv4 the own networks stand for it.
fn describe(
    gateways: &[IpAddr],
    neighbours: &[(IpAddr, String)],
    interfaces: &[(IpAddr, u8)],
) -> Option<Vec<u8>> {
    let prefix = |(ip, length): &(IpAddr, u8)| (network_of(*ip, *length), *length);
    let mut lines: Vec<String> = Vec::new();
    for gateway in gateways {
        let hardware = neighbours.iter().find(|(ip, _)| ip == gateway).map_or("", |(_, hardware)| hardware);
        let beside = interfaces.iter().find(|(ip, length)| shares_prefix(*ip, *gateway, *length)).map(prefix);
        lines.push(format!("router {gateway} {hardware} {beside:?}"));
    }
    if lines.is_empty() {
        let mut networks: Vec<(IpAddr, u8)> = interfaces.iter().map(prefix).collect();
        networks.sort_unstable();
        networks.dedup();
        lines.extend(networks.iter().map(|(ip, length)| format!("network {ip}/{length}")));
    }
    (!lines.is_empty()).then(|| lines.join("\n").into_bytes())
}

/// The address with the bits behind the prefix cleared.
fn network_of(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(std::net::Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// Hardware addresses of neighbours that the kernel has talked to.
#[cfg(target_os = "linux")]
fn neighbours() -> Vec<(IpAddr, String)> {
    std::fs::read_to_string("/proc/thread-self/net/arp")
        .map(|table| parse_neighbours(&table))
        .unwrap_or_default()
}

/// Other systems do not tell without a privilege or a program.
#[cfg(not(target_os = "linux"))]
fn neighbours() -> Vec<(IpAddr, String)> {
    Vec::new()
}

/// Columns of the kernel's table: address, type, flags, hardware address. One that was never resolved is all zeros.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn parse_neighbours(table: &str) -> Vec<(IpAddr, String)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let address = columns.next()?.parse().ok()?;
            let hardware = columns.nth(2)?;
            hardware
                .bytes()
                .any(|digit| !matches!(digit, b'0' | b':'))
                .then(|| (address, hardware.to_owned()))
        })
        .collect()
}

/// Where a peer in the same network could reach this machine: private addresses first, at most
/// [`MAX_HOST_CANDIDATES`], loopback and link-local left out.
pub(crate) fn hosts(interfaces: &[(IpAddr, u8)], port: u16, families: Families) -> Vec<SocketAddr> {
    let mut hosts: Vec<SocketAddr> = interfaces
        .iter()
        .map(|(ip, _)| SocketAddr::new(*ip, port))
        .filter(|address| families.has(*address) && scope(address.ip()) != Scope::Loopback)
        .filter(|address| !is_link_local(address.ip()))
        .collect();
    hosts.sort_by_key(|address| (scope(address.ip()), address.is_ipv6()));
    hosts.truncate(MAX_HOST_CANDIDATES);
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_leave_out_what_others_cannot_reach() {
        let interfaces = [
            ("127.0.0.1".parse().unwrap(), 8),
            ("fe80::1".parse().unwrap(), 64),
            ("2001:db8::5".parse().unwrap(), 64),
            ("192.168.1.5".parse().unwrap(), 24),
        ];
        let expected: Vec<SocketAddr> =
            ["192.168.1.5:9", "[2001:db8::5]:9"].map(|text| text.parse().unwrap()).into();
        assert_eq!(hosts(&interfaces, 9, Families::default()), expected);
        assert_eq!(hosts(&interfaces, 9, Families { v4: true, v6: false }), expected[..1]);
    }

    #[test]
    fn networks_are_told_apart_by_their_router() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |hardware: &str| {
            let table = format!(
                "IP address HW type Flags HW address Mask Device\n192.168.1.9 0x1 0x2 aa:aa:aa:aa:aa:aa * eth0\n\
                 192.168.1.1 0x1 0x2 {hardware} * eth0\nbroken"
            );
            let interfaces = [(ip("172.17.0.1"), 16), (ip("192.168.1.5"), 24)];
            describe(&[ip("192.168.1.1")], &parse_neighbours(&table), &interfaces).unwrap()
        };
        let home = at("02:00:00:00:00:01");
        assert_ne!(home, at("02:00:00:00:00:02"), "another router with the same address");
        assert_ne!(home, at("00:00:00:00:00:00"), "one that was never reached");
        let moved = [(ip("192.168.1.77"), 24)];
        let again =
            describe(&[ip("192.168.1.1")], &[(ip("192.168.1.1"), "02:00:00:00:00:01".into())], &moved);
        assert_eq!(again.as_ref(), Some(&home), "another address there, and no virtual network beside it");
        assert_eq!(describe(&[], &[], &[]), None);
        let v6 = |text: &str| describe(&[], &[], &[(ip(text), 64)]);
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }

    #[test]
    fn the_default_route_is_read() {
        let table = "Iface\tDestination\tGateway\tFlags\n\
                     eth0\t00000000\t0101A8C0\t0003\n\
                     eth0\t0001A8C0\t00000000\t0001\nbroken";
        #[cfg(target_endian = "little")]
        assert_eq!(parse_routes(table), ["192.168.1.1".parse::<IpAddr>().unwrap()]);
    }
}
