//! What the kernel knows of links, addresses, routes and neighbors, read by rtnetlink. Part of the fastpath, so that it
//! stays right while the agent is dead.
//!
//! A change makes us read its kind again whole: simple, and right after any number of missed messages.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use caracal_wire::MacAddr;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBond, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send};

use crate::table::Prefix;

/// A failed talk with the kernel.
#[derive(Debug, thiserror::Error)]
#[error("netlink: cannot {doing}: {source}")]
pub struct MirrorError {
    doing: &'static str,
    source: io::Error,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zero if it has none of six bytes.
    pub mac: MacAddr,
    /// The largest IP packet it carries, bytes.
    pub mtu: u16,
    /// Administratively up.
    pub up: bool,
    /// Packets can pass: the other end is up, too.
    pub carrier: bool,
    /// Receive queues.
    pub queues: u32,
    /// What it is.
    pub kind: LinkKind,
    /// The device that it is a part of: a bond, a bridge.
    pub master: Option<u32>,
}

/// What a device is, as far as it makes a difference for an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// Something that sends and receives Ethernet frames.
    #[default]
    Ethernet,
    /// Several devices that act as one.
    Bond {
        /// The only member that may send, if the bond has one at a time.
        active: Option<u32>,
    },
    /// A VLAN of another device.
    Vlan,
    /// Something whose frames have no Ethernet header, by its kind or its number of that sort (ARPHRD_…).
    Headerless(String),
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainRoute {
    /// Where to.
    pub prefix: Prefix,
    /// By which device.
    pub ifindex: u32,
    /// By which gateway, if not on the link.
    pub gateway: Option<IpAddr>,
    /// The route's own MTU, if it has one.
    pub mtu: Option<u16>,
    /// The source that the host takes, if the route says.
    pub source: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
}

/// A neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// By which device.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, if it is resolved.
    pub mac: Option<MacAddr>,
}

/// A conversation with the kernel of the network namespace that the opening thread was in.
#[derive(Debug)]
pub struct Mirror {
    socket: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

const TABLE_MAIN: u32 = 254;

impl Mirror {
    /// Opens it.
    ///
    /// # Errors
    /// When the process may not, or has no descriptors left.
    pub fn open() -> Result<Self, MirrorError> {
        let socket = open(0).map_err(|source| MirrorError { doing: "open a socket", source })?;
        Ok(Mirror { socket, sequence: 0, answer: vec![0; ANSWER_MAX] })
    }

    /// All devices.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn links(&mut self) -> Result<Vec<KernelLink>, MirrorError> {
        let answers = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// All addresses, with the device that has them.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, MirrorError> {
        let answers =
            self.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Unicast routes of the main table.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn routes(&mut self) -> Result<Vec<MainRoute>, MirrorError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = match self.dump("list routes", RouteNetlinkMessage::GetRoute(message)) {
                // A kernel without IPv6 has no routes of it.
                Err(MirrorError { source, .. })
                    if family == AddressFamily::Inet6
                        && source.raw_os_error() == Some(nix::libc::EOPNOTSUPP) =>
                {
                    continue;
                }
                answers => answers?,
            };
            routes.extend(answers.into_iter().filter_map(route));
        }
        Ok(routes)
    }

    /// The names of the devices that default routes use.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn default_devices(&mut self) -> Result<Vec<String>, MirrorError> {
        let routes = self.routes()?;
        let is_used = |link: &KernelLink| {
            routes.iter().any(|route| route.prefix.length() == 0 && route.ifindex == link.index)
        };
        Ok(self.links()?.into_iter().filter(is_used).map(|link| link.name).collect())
    }

    /// All neighbors.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn neighbors(&mut self) -> Result<Vec<Neighbor>, MirrorError> {
        let answers =
            self.dump("list neighbors", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers.into_iter().filter_map(neighbor).collect())
    }

    /// Makes the kernel resolve a neighbor, and keep it fresh without traffic of its own (NTF_EXT_MANAGED).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn manage(&mut self, ifindex: u32, address: IpAddr) -> Result<(), MirrorError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::None;
        let (family, destination) = match address {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request("manage a neighbor", RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }

    fn dump(
        &mut self,
        doing: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, MirrorError> {
        self.request(doing, message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn request(
        &mut self,
        doing: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, MirrorError> {
        let failed = |source| MirrorError { doing, source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|errno| failed(errno.into()))?;
        let mut answers = Vec::new();
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.answer, MsgFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
            let mut rest = &self.answer[..length];
            while !rest.is_empty() {
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else { break };
                let length = answer.header.length as usize;
                let ours = answer.header.sequence_number == self.sequence;
                match answer.payload {
                    _ if !ours => {}
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(failed(error.to_io())),
                        };
                    }
                    _ => {}
                }
                // Messages are aligned to four bytes.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if length == 0 {
                    break;
                }
            }
        }
    }
}

/// The kernel's messages are no longer than this.
const ANSWER_MAX: usize = 64 << 10;

/// Links, neighbors, addresses and routes of both families: bits of RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE,
/// _IPV6_IFADDR, _IPV6_ROUTE.
const GROUPS: u32 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;

fn open(groups: u32) -> io::Result<OwnedFd> {
    let socket = socket::socket(
        socket::AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Calls `changed` whenever something has changed in this thread's network namespace, from a thread of its own; stops
/// when that says false.
///
/// # Errors
/// When the process may not listen.
pub fn watch(changed: impl Fn() -> bool + Send + 'static) -> Result<(), MirrorError> {
    let socket = open(GROUPS).map_err(|source| MirrorError { doing: "listen for changes", source })?;
    let listen = move || {
        let mut message = vec![0; ANSWER_MAX];
        loop {
            // An overrun (ENOBUFS) means that there were changes, too.
            let _ = recv(socket.as_raw_fd(), &mut message, MsgFlags::empty());
            if !changed() {
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name("kernel-watch".into()).spawn(listen);
    spawned.map(drop).map_err(|source| MirrorError { doing: "start a thread", source })
}

fn link(message: RouteNetlinkMessage) -> Option<KernelLink> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = KernelLink {
        index: message.header.index,
        name: String::new(),
        mac: MacAddr::ZERO,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        queues: 1,
        kind: LinkKind::Ethernet,
        master: None,
    };
    let layer = message.header.link_layer_type;
    if !matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback) {
        link.kind = LinkKind::Headerless(format!("{layer:?}").to_lowercase());
    }
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(mtu).unwrap_or(u16::MAX),
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(&bytes[..]) {
                    link.mac = MacAddr(mac);
                }
            }
            LinkAttribute::NumRxQueues(queues) => link.queues = queues.max(1),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::LinkInfo(infos) => tell_kind(infos, &mut link.kind),
            _ => {}
        }
    }
    Some(link)
}

fn tell_kind(infos: Vec<LinkInfo>, kind: &mut LinkKind) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bond) => *kind = LinkKind::Bond { active: None },
            LinkInfo::Kind(InfoKind::Vlan) => *kind = LinkKind::Vlan,
            LinkInfo::Kind(name) if matches!(kind, LinkKind::Headerless(_)) => {
                *kind = LinkKind::Headerless(name.to_string());
            }
            // The kernel says the kind before what is special about it.
            LinkInfo::Data(InfoData::Bond(about)) => {
                let active = about.into_iter().find_map(|about| match about {
                    InfoBond::ActivePort(index) => Some(index),
                    _ => None,
                });
                *kind = LinkKind::Bond { active };
            }
            _ => {}
        }
    }
}

fn address(message: RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let mut found = None;
    for attribute in message.attributes {
        match attribute {
            // Of a point-to-point device, this is its own end.
            AddressAttribute::Local(local) => return Some((message.header.index, local)),
            AddressAttribute::Address(address) => found = Some((message.header.index, address)),
            _ => {}
        }
    }
    found
}

/// Next hops of a multipath route that the kernel does not use.
const UNUSABLE: RouteNextHopFlags = RouteNextHopFlags::Dead.union(RouteNextHopFlags::Linkdown);

fn route(message: RouteNetlinkMessage) -> Option<MainRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    // The kernel lists what it has learned of paths over IPv6 (RFC 8201), too: that is about its own packets, which may have
    // been for somebody behind the address, and it does not say when it forgets.
    if message.header.kind != RouteType::Unicast || message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut gateway, mut ifindex, mut mtu, mut source, mut metric) = (None, None, None, None, 0);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = number,
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => destination = v4.into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => destination = v6.into(),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(v4.into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(v6.into()),
            RouteAttribute::Oif(index) => ifindex = Some(index),
            // Of several next hops of equal rank the first one is taken.
            RouteAttribute::MultiPath(hops) => {
                if let Some(first) = hops.into_iter().find(|hop| !hop.flags.intersects(UNUSABLE)) {
                    ifindex = Some(first.interface_index);
                    gateway = first.attributes.into_iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(v4.into()),
                        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(v6.into()),
                        _ => None,
                    });
                }
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(v4.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(v6.into()),
            RouteAttribute::Priority(priority) => metric = priority,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => u16::try_from(mtu).ok(),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let prefix = Prefix::new(destination, message.header.destination_prefix_length);
    // Every link has a prefix of link-local addresses, the same on all of them: nothing is forwarded there.
    if matches!(destination, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None;
    }
    (table == TABLE_MAIN).then_some(MainRoute { prefix, ifindex: ifindex?, gateway, mtu, source, metric })
}

fn neighbor(message: RouteNetlinkMessage) -> Option<Neighbor> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let (mut found, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => found = Some(IpAddr::from(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => found = Some(IpAddr::from(v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(Neighbor { ifindex: message.header.ifindex, address: found?, mac: mac.filter(|_| usable) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_the_kernel_has_learned_is_no_route() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        message.header.table = 254;
        let destination = RouteAddress::Inet6("2001:db8::1".parse().unwrap());
        message.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(2)];
        assert!(route(RouteNetlinkMessage::NewRoute(message.clone())).is_some());
        message.header.flags = RouteFlags::Cloned;
        assert_eq!(route(RouteNetlinkMessage::NewRoute(message)), None);
    }
}
