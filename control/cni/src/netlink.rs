//! rtnetlink, synchronously: the few requests that making links, addresses and routes takes.
//!
//! A [`Netlink`] speaks for the network namespace of the thread that opened it, for as long as it lives, whichever thread uses it then.
//! Each request waits for the kernel's acknowledgement, so what has returned `Ok` is done.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel's main routing table.
pub const TABLE_MAIN: u32 = 254;
/// The table of addresses that are this host's own.
pub const TABLE_LOCAL: u32 = 255;

/// What the kernel refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {source}")]
pub struct NetlinkError {
    doing: String,
    source: io::Error,
}

impl NetlinkError {
    fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source }
    }

    /// The errno of the kernel's answer.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel has no such link, address or route.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno().is_some_and(|errno| errno == nix::libc::ENODEV || errno == nix::libc::ESRCH)
    }
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Default)]
pub struct VethEnd<'a> {
    /// The interface's name, at most 15 bytes.
    pub name: &'a str,
    /// Where it is to live; `None`: where the [`Netlink`] is.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its MAC address; `None`: the kernel picks one.
    pub mac: Option<[u8; 6]>,
}

/// A route that is to be made.
#[derive(Debug, Clone)]
pub struct Route {
    /// Network part; 0.0.0.0 with length 0 is the default route.
    pub destination: IpAddr,
    /// Prefix length of `destination`.
    pub length: u8,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Interface index; needed unless `gateway` implies it.
    pub device: Option<u32>,
    /// Whether the gateway is reachable on `device` though no route says so.
    pub onlink: bool,
    /// Whether destinations are this host's own.
    pub local: bool,
    /// Whether packets to there are dropped; then there is neither gateway nor device.
    pub blackhole: bool,
    /// The source address that the host uses for packets of its own.
    pub source: Option<IpAddr>,
    /// Routing table.
    pub table: u32,
}

impl Route {
    /// `destination/length via gateway`, in the main table.
    #[must_use]
    pub fn via(destination: IpAddr, length: u8, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::to(destination, length) }
    }

    /// `destination/length dev device scope link`, in the main table.
    #[must_use]
    pub fn on(destination: IpAddr, length: u8, device: u32) -> Self {
        Self { device: Some(device), ..Self::to(destination, length) }
    }

    /// What is for `destination/length` goes nowhere, by the main table.
    #[must_use]
    pub fn nowhere(destination: IpAddr, length: u8) -> Self {
        Self { blackhole: true, ..Self::to(destination, length) }
    }

    fn to(destination: IpAddr, length: u8) -> Self {
        Self {
            destination,
            length,
            gateway: None,
            device: None,
            onlink: false,
            local: false,
            blackhole: false,
            source: None,
            table: TABLE_MAIN,
        }
    }
}

/// Which IP a policy rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A link that exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MAC address; empty for devices that have none.
    pub mac: Vec<u8>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Another name; empty for most.
    pub alias: String,
}

/// Where a route that there is leads: its destination (none: everywhere), the prefix length, and by whom.
pub type Leading = (Option<IpAddr>, u8, Option<IpAddr>);

/// A rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no socket for us.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| NetlinkError::new("open a netlink socket", e))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a veth pair. Both ends are down.
    ///
    /// # Errors
    /// A name is taken, or not allowed.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = veth_end(near, mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(veth_end(far, mtu)))),
        ]));
        self.create(
            format!("make the veth pair {} – {}", near.name, far.name),
            RouteNetlinkMessage::NewLink(message),
        )
    }

    /// Makes a bridge, down. Without a MAC address of its own it would have the lowest of its ports', and another one whenever they change.
    ///
    /// # Errors
    /// The name is taken, or the kernel has no bridges.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create(format!("make the bridge {name}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Makes the kernel's own VXLAN device, down: neighbours are told to it, it learns none.
    ///
    /// # Errors
    /// The name is taken, or the kernel has no VXLAN.
    pub fn add_vxlan(
        &mut self,
        name: &str,
        vni: u32,
        local: IpAddr,
        port: u16,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let local = match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        };
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::Id(vni),
                local,
                InfoVxlan::Port(port),
                InfoVxlan::Learning(false),
            ])),
        ]));
        self.create(format!("make the VXLAN device {name}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Removes a link; a veth's other end goes with it. No such link: nothing to do.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.ask(format!("remove the link {name}"), RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// The link of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let doing = format!("find the link {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let answers = self.ask(doing.clone(), RouteNetlinkMessage::GetLink(message), NLM_F_ACK)?;
        answers
            .into_iter()
            .find_map(link_of)
            .ok_or_else(|| NetlinkError::new(doing, io::Error::from_raw_os_error(nix::libc::ENODEV)))
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.ask("list links", message, NLM_F_DUMP)?.into_iter().filter_map(link_of).collect())
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(format!("set link {index} up"), RouteNetlinkMessage::SetLink(message))
    }

    /// Sets a link down; routes by it go.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        self.change(format!("set link {index} down"), RouteNetlinkMessage::SetLink(message))
    }

    /// Sets the largest packet of a link.
    ///
    /// # Errors
    /// The kernel refuses, or the link cannot carry so much.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(format!("set the MTU of link {index} to {mtu}"), RouteNetlinkMessage::SetLink(message))
    }

    /// Gives a link another name beside its own, for people and for whoever must know whose it is.
    ///
    /// # Errors
    /// The kernel refuses, or it is longer than 255 bytes.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.change(format!("name link {index} {alias}"), RouteNetlinkMessage::SetLink(message))
    }

    /// The addresses of a link, with their prefix lengths.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask("list addresses", message, NLM_F_DUMP)?;
        let of_link = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
            _ => None,
        };
        let address = |message: AddressMessage| {
            let length = message.header.prefix_len;
            let mut found = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => return Some((address, length)),
                    // IPv6 has no other.
                    AddressAttribute::Address(address) => found = Some((address, length)),
                    _ => {}
                }
            }
            found
        };
        Ok(answers.into_iter().filter_map(of_link).filter_map(address).collect())
    }

    /// The unicast routes of the main table: their destinations, prefix lengths and gateways.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn routes(&mut self, version: IpVersion) -> Result<Vec<Leading>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = match version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        let answers = self.ask("list routes", RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        let of_table = |answer| match answer {
            RouteNetlinkMessage::NewRoute(message)
                if message.header.kind == RouteType::Unicast
                    && u32::from(message.header.table) == TABLE_MAIN =>
            {
                Some(message)
            }
            _ => None,
        };
        let route = |message: RouteMessage| {
            let (mut to, mut via) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    RouteAttribute::Destination(address) => to = ip_of(address),
                    RouteAttribute::Gateway(address) => via = ip_of(address),
                    _ => {}
                }
            }
            (to, message.header.destination_prefix_length, via)
        };
        Ok(answers.into_iter().filter_map(of_table).map(route).collect())
    }

    /// Lets the kernel put no more than one segment into what it sends by a link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forbid_super_frames(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::GsoMaxSegs(1));
        self.change(format!("forbid super-frames on link {index}"), RouteNetlinkMessage::SetLink(message))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// `bridge` is none, or the link cannot be bridged.
    pub fn set_bridge(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.change(
            format!("make link {index} a port of bridge {bridge}"),
            RouteNetlinkMessage::SetLink(message),
        )
    }

    /// Adds an address to a link; IPv6 without duplicate detection.
    ///
    /// # Errors
    /// It is there already, or the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpAddr, length: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = length;
        message.header.family = family(address);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        self.create(
            format!("add address {address}/{length} to link {index}"),
            RouteNetlinkMessage::NewAddress(message),
        )
    }

    /// Adds a route, or replaces the one to the same destination in the same table.
    ///
    /// # Errors
    /// The gateway is not reachable, or the kernel refuses.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(route.destination);
        header.destination_prefix_length = route.length;
        header.protocol = RouteProtocol::Static;
        (header.kind, header.scope) = match (route.local, route.blackhole, route.gateway) {
            (true, _, _) => (RouteType::Local, RouteScope::Host),
            (_, true, _) => (RouteType::BlackHole, RouteScope::Universe),
            (_, _, None) => (RouteType::Unicast, RouteScope::Link),
            (_, _, Some(_)) => (RouteType::Unicast, RouteScope::Universe),
        };
        if route.onlink {
            header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(route.table));
        if route.length > 0 {
            attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination)));
        }
        attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway))));
        attributes.extend(route.device.map(RouteAttribute::Oif));
        attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
        let doing = format!("add the route {}/{}", route.destination, route.length);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(doing, RouteNetlinkMessage::NewRoute(message), flags).map(drop)
    }

    /// Adds a policy rule of an IP version: packets that come in by `interface` (all, when `None`) are looked up in `table`.
    ///
    /// # Errors
    /// It is there already, or the kernel refuses.
    pub fn add_rule(
        &mut self,
        version: IpVersion,
        priority: u32,
        interface: Option<&str>,
        table: u32,
    ) -> Result<(), NetlinkError> {
        let doing = format!("add a policy rule to table {table}");
        self.create(doing, RouteNetlinkMessage::NewRule(rule(version, priority, interface, table)))
    }

    /// Removes a policy rule of an IP version.
    ///
    /// # Errors
    /// There is none such.
    pub fn delete_rule(
        &mut self,
        version: IpVersion,
        priority: u32,
        interface: Option<&str>,
        table: u32,
    ) -> Result<(), NetlinkError> {
        let doing = format!("remove the policy rule to table {table}");
        self.change(doing, RouteNetlinkMessage::DelRule(rule(version, priority, interface, table)))
    }

    /// Adds a permanent neighbour: `address` on link `index` has `mac`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_neighbor(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(neighbour(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(format!("add neighbour {address}"), RouteNetlinkMessage::NewNeighbour(message), flags)
            .map(drop)
    }

    /// Tells a VXLAN device that `mac` is behind the tunnel end `remote`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_tunnel_mac(&mut self, index: u32, mac: [u8; 6], remote: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::Destination(neighbour(remote)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let doing = format!("tell link {index} the tunnel end {remote}");
        self.ask(doing, RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }

    fn create(&mut self, doing: String, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.ask(doing, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    fn change(&mut self, doing: String, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.ask(doing, message, NLM_F_ACK).map(drop)
    }

    /// Sends one request and collects what comes before its acknowledgement, or before the end of its dump.
    fn ask(
        &mut self,
        doing: impl Into<String>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, flags).map_err(|source| NetlinkError::new(doing, source))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                // Messages are padded to four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if answer.header.sequence_number != self.sequence {
                    continue; // a late answer to a request that failed half-way
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn veth_end(end: &VethEnd<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.into()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(end.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    message
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            _ => {}
        }
    }
    Some(link)
}

fn rule(version: IpVersion, priority: u32, interface: Option<&str>, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(priority));
    message.attributes.push(RuleAttribute::Table(table));
    message.attributes.extend(interface.map(|name| RuleAttribute::Iifname(name.into())));
    message
}

fn ip_of(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn neighbour(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}
