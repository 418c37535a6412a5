//! Links: pairs of veths, and what a lab has beside them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use nix::net::if_::if_nametoindex;

use super::{Netlink, NetlinkError};

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

impl Netlink {
    /// Makes a veth pair. Both ends are down.
    ///
    /// # Errors
    /// A name is taken, or not allowed.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> Result<(), NetlinkError> {
        self.add_pair(near, far, mtu, &[])
    }

    /// The same with one queue at each end, for good. Where nobody says, the kernel makes a queue for each CPU, takes all but one out of use
    /// again, and waits at each end until nobody can be using them, while nobody else can change any link of the machine.
    ///
    /// # Errors
    /// As [`Netlink::add_veth`].
    pub fn add_veth_of_one_queue(
        &mut self,
        near: &VethEnd<'_>,
        far: &VethEnd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        self.add_pair(near, far, mtu, &[LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)])
    }

    fn add_pair(
        &mut self,
        near: &VethEnd<'_>,
        far: &VethEnd<'_>,
        mtu: u32,
        both: &[LinkAttribute],
    ) -> Result<(), NetlinkError> {
        let [mut message, mut peer] = [near, far].map(|end| veth_end(end, mtu));
        message.attributes.extend_from_slice(both);
        peer.attributes.extend_from_slice(both);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
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
        let mut message = new_link(name, Some(mac), mtu);
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
        let mut message = new_link(name, Some(mac), mtu);
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
        self.set(index, LinkAttribute::Mtu(mtu), format!("set the MTU of link {index} to {mtu}"))
    }

    /// Gives a link another name beside its own, for people and for whoever must know whose it is.
    ///
    /// # Errors
    /// The kernel refuses, or it is longer than 255 bytes.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        self.set(index, LinkAttribute::IfAlias(alias.into()), format!("name link {index} {alias}"))
    }

    /// Lets the kernel put no more than one segment into what it sends by a link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forbid_super_frames(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set(index, LinkAttribute::GsoMaxSegs(1), format!("forbid super-frames on link {index}"))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// `bridge` is none, or the link cannot be bridged.
    pub fn set_bridge(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        self.set(
            index,
            LinkAttribute::Controller(bridge),
            format!("make link {index} a port of bridge {bridge}"),
        )
    }

    fn set(&mut self, index: u32, attribute: LinkAttribute, doing: String) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.change(doing, RouteNetlinkMessage::SetLink(message))
    }
}

/// The interface index of that name in the calling thread's namespace. Unlike [`Netlink::link`] it does not wait for those who change
/// links, in whatever namespace: hundreds may, when pods come in a crowd.
///
/// # Errors
/// There is none.
pub fn index_of(name: &str) -> Result<u32, NetlinkError> {
    if_nametoindex(name).map_err(|errno| NetlinkError::new(format!("find the link {name}"), errno.into()))
}

fn new_link(name: &str, mac: Option<[u8; 6]>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message
}

fn veth_end(end: &VethEnd<'_>, mtu: u32) -> LinkMessage {
    let mut message = new_link(end.name, end.mac, mtu);
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
