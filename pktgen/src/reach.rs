//! How a place reaches an address by Ethernet: by which interface, to whose MAC address. The place's kernel says, by its routes and
//! neighbors; it is made to ask for a neighbor that it does not know by a datagram of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caracal_dataplane::controller::mirror::{KernelLink, LinkKind, Mirror};
use caracal_wire::MacAddr;

use crate::place::Place;
use crate::traffic::Hop;

/// How long a neighbor is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_millis(20);
/// Where datagrams go that are only to make the kernel ask: "discard" (RFC 863).
const DISCARD_PORT: u16 = 9;

/// An interface of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number there.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// The largest IP packet that it carries.
    pub mtu: u16,
    /// Receive queues.
    pub queues: u32,
}

impl TryFrom<&KernelLink> for Interface {
    type Error = anyhow::Error;

    fn try_from(link: &KernelLink) -> anyhow::Result<Self> {
        let KernelLink { name, kind, .. } = link;
        if let LinkKind::Headerless(kind) = kind {
            bail!("frames of {name} have no Ethernet header ({kind}); only the socket engine can use it");
        }
        if !link.up {
            bail!("interface {name} is down; set it up first");
        }
        Ok(Interface {
            index: link.index,
            name: name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            queues: link.queues.max(1),
        })
    }
}

/// The way to the first hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// By which interface.
    pub interface: Interface,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// Between which MAC addresses.
    pub hop: Hop,
}

/// What is given, so that nobody need be asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The interface.
    pub interface: Option<&'a str>,
    /// The source address.
    pub source: Option<IpAddr>,
    /// The next hop's MAC address.
    pub next_hop: Option<MacAddr>,
}

/// Finds an interface by name.
///
/// # Errors
/// There is none, or it is not of use.
pub fn interface(place: &Place, name: &str) -> anyhow::Result<Interface> {
    place.within(|| named(&mut Mirror::open()?, name).with_context(|| format!("in {place}")))
}

/// The interface by which an address of this place is reached.
///
/// # Errors
/// No interface has it.
pub fn interface_of(place: &Place, address: IpAddr) -> anyhow::Result<Interface> {
    place.within(|| {
        let mut mirror = Mirror::open()?;
        let addresses = mirror.addresses()?;
        let index = addresses.iter().find(|(_, known)| *known == address).map(|(index, _)| *index);
        let index = index.with_context(|| {
            format!("no interface of {place} has the address {address}; name one with --to-interface")
        })?;
        let links = mirror.links()?;
        links.iter().find(|link| link.index == index).context("the interface is gone")?.try_into()
    })
}

fn named(mirror: &mut Mirror, name: &str) -> anyhow::Result<Interface> {
    let links = mirror.links()?;
    match links.iter().find(|link| link.name == name) {
        Some(link) => link.try_into(),
        None => {
            let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
            bail!("there is no interface {name}; there are {}", names.join(", "))
        }
    }
}

/// Finds the way from a place to an address.
///
/// # Errors
/// There is no route, or nobody answers for the next hop.
pub fn reach(place: &Place, to: IpAddr, given: Given<'_>) -> anyhow::Result<Reach> {
    place.within(|| find(to, given).with_context(|| format!("from {place}")))
}

fn find(to: IpAddr, given: Given<'_>) -> anyhow::Result<Reach> {
    let mut mirror = Mirror::open()?;
    let route = mirror
        .routes()?
        .into_iter()
        .filter(|route| route.prefix.contains(to))
        .max_by_key(|route| (route.prefix.length(), std::cmp::Reverse(route.metric)));
    let interface = match (given.interface, &route) {
        (Some(name), _) => named(&mut mirror, name)?,
        (None, Some(route)) => {
            let links = mirror.links()?;
            let link = links.iter().find(|link| link.index == route.ifindex);
            link.context("the route's interface is gone")?.try_into()?
        }
        (None, None) => bail!("no route to {to}; name an interface with --from-interface"),
    };
    let source = match given.source {
        Some(source) => source,
        None => kernel_source(to)
            .with_context(|| format!("what address to send to {to} from? say --from-address"))?,
    };
    let next_hop =
        route.filter(|route| route.ifindex == interface.index).and_then(|route| route.gateway).unwrap_or(to);
    let destination = match given.next_hop {
        Some(mac) => mac,
        None => neighbor(&mut mirror, interface.index, next_hop, to)?.with_context(|| {
            format!(
                "nobody on {} answers for {next_hop}; give its MAC address with --gateway-mac",
                interface.name
            )
        })?,
    };
    let hop = Hop { source: interface.mac, destination };
    Ok(Reach { interface, source, hop })
}

fn kernel_source(to: IpAddr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(to), 0))?;
    socket.connect((to, DISCARD_PORT))?;
    Ok(socket.local_addr()?.ip())
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn neighbor(
    mirror: &mut Mirror,
    ifindex: u32,
    next_hop: IpAddr,
    to: IpAddr,
) -> anyhow::Result<Option<MacAddr>> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let known = mirror.neighbors()?;
        let found = known.iter().find(|known| known.ifindex == ifindex && known.address == next_hop);
        if let Some(mac) = found.and_then(|known| known.mac) {
            return Ok(Some(mac));
        }
        // Whether it is sent does not matter: the kernel asks.
        if let Ok(socket) = UdpSocket::bind(SocketAddr::new(unspecified(to), 0)) {
            let _ = socket.send_to(&[], (to, DISCARD_PORT));
        }
        thread::sleep(EVERY);
    }
    Ok(None)
}
