//! Reads the host's interfaces and asks which source leads somewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use tokio::net::UdpSocket;

use super::detect::Interface;

/// A name that is not resolved by then is not resolved.
const RESOLVE: Duration = Duration::from_secs(5);
/// Any port: nothing is sent.
const PORT: u16 = 80;

/// The interfaces of this network namespace, in the kernel's order.
///
/// # Errors
/// The kernel does not tell.
pub async fn interfaces() -> Result<Vec<Interface>, std::io::Error> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let read = async {
        let links: Vec<_> =
            netlink.link().get().execute().try_collect().await.map_err(std::io::Error::other)?;
        let mut all = BTreeMap::new();
        for link in links {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            let up = link.header.flags.contains(LinkFlags::Up);
            if let Some(name) = name {
                all.insert(link.header.index, Interface { name, up, addresses: Vec::new() });
            }
        }
        let addresses: Vec<AddressMessage> =
            netlink.address().get().execute().try_collect().await.map_err(std::io::Error::other)?;
        for message in addresses {
            if let Some(interface) = all.get_mut(&message.header.index) {
                interface.addresses.extend(usable(&message));
            }
        }
        Ok(all.into_values().collect())
    };
    let interfaces = read.await;
    connection.abort();
    interfaces
}

/// An address that a node can be known by: its own, for good.
fn usable(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let passing = AddressFlags::Deprecated
        | AddressFlags::Tentative
        | AddressFlags::Dadfailed
        | AddressFlags::Secondary;
    let mut address = None;
    let mut local = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(*found),
            // On links between two ends, ours.
            AddressAttribute::Local(found) => local = Some(*found),
            // To an IPv6 address, "secondary" means temporary; an IPv4 one is as good as the first.
            AddressAttribute::Flags(flags) if flags.intersects(passing) => {
                let is_v6 = message.header.family == rtnetlink::packet_route::AddressFamily::Inet6;
                if is_v6 {
                    return None;
                }
            }
            _ => {}
        }
    }
    Some((local.or(address)?, message.header.prefix_len))
}

/// Whether this host has IPv6.
#[must_use]
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// The address that this host would take towards an address or a name. Nothing is sent.
pub async fn source_towards(whom: &str, ipv4: bool) -> Option<IpAddr> {
    let to = match whom.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, PORT),
        Err(_) => {
            let found =
                tokio::time::timeout(RESOLVE, tokio::net::lookup_host((whom, PORT))).await.ok()?.ok()?;
            found.into_iter().find(|address| address.is_ipv4() == ipv4)?
        }
    };
    if to.is_ipv4() != ipv4 {
        return None;
    }
    let any: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(to).await.ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}
