//! What this machine knows of its own networks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tcpunch_core::candidate::{Scope, scope};
use tcpunch_core::limits::MAX_HOST_CANDIDATES;

use crate::port::Families;

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

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
        IpAddr::V4(v4) => v4.is_link_local(),
    }
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
    fn the_default_route_is_read() {
        let table = "Iface\tDestination\tGateway\tFlags\n\
                     eth0\t00000000\t0101A8C0\t0003\n\
                     eth0\t0001A8C0\t00000000\t0001\nbroken";
        #[cfg(target_endian = "little")]
        assert_eq!(parse_routes(table), ["192.168.1.1".parse::<IpAddr>().unwrap()]);
    }
}
