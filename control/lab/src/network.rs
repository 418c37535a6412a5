//! The lab's wires: subnets, the router between them, everybody outside, and nodes; all in namespaces of their own, and pods' namespaces with
//! nothing in them: what leads into those is the CNI plugin's to make ([`crate::pods`]).
//!
//! ```text
//!   crl-L.outside                crl-L.fabric                         crl-L.node.node1             crl-L.pod.default.web
//!   every address is its own     routes: pods' blocks via their node
//!   fabric0 ─────────────────── outside0   subnet0 (bridge, .254)
//!   169.254.254.2                          └─ n0 ─────────────────── uplink0 192.0.2.11
//!                                          └─ n1 ── …                 cali… ─────────────────────── eth0
//! ```
//!
//! The fabric carries nothing of the control plane: agents reach the API server through a door in their own loopback ([`crate::door`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use caracal_cni::{
    netlink::{IpVersion, Netlink, Route, Rule, TABLE_LOCAL, VethEnd},
    netns::{self, set_sysctl},
};
use caracal_model::{
    case::{World, WorldNode},
    cidr::Cidr,
    convert::host_endpoint,
    object::Object,
};
use nix::mount::{MsFlags, mount};

use crate::{error::LabError, kernel_node, mtu, name::LabName, state::State, stop::Stop};

/// The nodes' uplink, where no host endpoint calls it something else.
pub const UPLINK: &str = "uplink0";
/// The name of a node's uplink: the one that its host endpoints give to an interface, first of all to the one that holds its address.
pub(crate) fn uplink_of(world: &World, node: &WorldNode) -> String {
    let addresses: Vec<IpAddr> = legs(node).iter().map(|leg| leg.address).collect();
    let endpoints = world.objects.iter().filter_map(|object| match object {
        Object::HostEndpoint(object) => Some(host_endpoint(object)),
        _ => None,
    });
    let named = endpoints.filter(|endpoint| endpoint.node == node.name).filter_map(|endpoint| {
        let holds_another = !endpoint.expected_ips.iter().any(|address| addresses.contains(address));
        Some((holds_another, endpoint.interface.filter(|name| name != "*")?))
    });
    named.min().map_or_else(|| UPLINK.to_owned(), |(_, name)| name)
}

/// MTU of the uplinks when the case does not say.
pub const DEFAULT_UPLINK_MTU: u32 = 1500;

/// The link between the router and everybody outside.
const LINK: [(IpAddr, IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 254, 1)), IpAddr::V4(Ipv4Addr::new(169, 254, 254, 2)), 30),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x169, 0x254, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x169, 0x254, 0, 0, 0, 0, 2)),
        126,
    ),
];

/// A node's place in the network of one IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) address: IpAddr,
    pub(crate) subnet: Cidr,
    pub(crate) router: IpAddr,
    /// Its block of pods' addresses.
    pub(crate) block: Cidr,
    pub(crate) tunnel_address: IpAddr,
}

impl Leg {
    pub(crate) fn version(&self) -> IpVersion {
        if self.address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }
}

/// A node's legs: IPv4's, and IPv6's if it has one.
pub(crate) fn legs(node: &WorldNode) -> Vec<Leg> {
    let v4 = Leg {
        address: node.address.into(),
        subnet: node.subnet,
        router: node.router.into(),
        block: node.pod_cidr,
        tunnel_address: node.tunnel_address.into(),
    };
    let v6 = || {
        Some(Leg {
            address: node.address_v6?.into(),
            subnet: node.subnet_v6?,
            router: node.router_v6?.into(),
            block: node.pod_cidr_v6?,
            tunnel_address: node.tunnel_address_v6?.into(),
        })
    };
    [Some(v4), v6()].into_iter().flatten().collect()
}

/// Whether anybody has an IPv6 address.
pub(crate) fn has_ipv6(world: &World) -> bool {
    world.nodes.iter().flat_map(legs).any(|leg| leg.address.is_ipv6())
}

/// What leads to a node's pods: its block, and each address of its pods that lies in another one.
pub(crate) fn prefixes(world: &World, index: usize, leg: &Leg) -> Vec<(IpAddr, u8)> {
    let pods = world.pods.iter().filter(|pod| pod.node == index && !pod.host_network);
    let borrowed = pods
        .flat_map(|pod| pod.addresses.iter().copied())
        .filter(|address| address.is_ipv4() == leg.address.is_ipv4() && !leg.block.contains(*address))
        .map(|address| (address, host_length(address)));
    [(leg.block.address(), leg.block.length())].into_iter().chain(borrowed).collect()
}

/// The length of a prefix that is one address.
pub(crate) fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// What a default route leads to.
pub(crate) fn anywhere(version: IpVersion) -> IpAddr {
    match version {
        IpVersion::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpVersion::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The IP versions of a world.
fn versions(world: &World) -> &'static [IpVersion] {
    if has_ipv6(world) { &[IpVersion::V4, IpVersion::V6] } else { &[IpVersion::V4] }
}

/// MTU of the lab's uplinks.
#[must_use]
pub fn uplink_mtu(world: &World) -> u32 {
    world.lab.uplink_mtu.unwrap_or(DEFAULT_UPLINK_MTU)
}

/// Makes it all. What has been made when it fails is in the state, for the sweep.
///
/// # Errors
/// The kernel refuses something.
pub fn build(world: &World, name: &LabName, state: &State, stop: &Stop) -> Result<(), LabError> {
    let mtu = uplink_mtu(world);
    mount_bpf(&state.bpf())?;
    for netns in &state.netns {
        stop.check()?;
        netns::create(&netns::path(netns))?;
    }
    let bridges = fabric(world, name, mtu)?;
    outside(world, name, mtu)?;
    for (index, node) in world.nodes.iter().enumerate() {
        stop.check()?;
        let Some(bridge) = bridges.get(&node.subnet.to_string()) else { continue };
        node_links(name, index, node, &uplink_of(world, node), bridge, mtu)?;
        if node.kernel {
            kernel_node::build(world, name, index, mtu)?;
            kernel_node::pods(world, name, index, mtu::pod(world, mtu))?;
        }
    }
    bgp_routes(world, name)?;
    for pod in world.pods.iter().filter(|pod| !pod.host_network && !pod.addresses.is_empty()) {
        // A refused connection must be heard of each time, not once a second.
        let label = format!("{}/{}", pod.namespace, pod.name);
        inside(&name.pod(&pod.namespace, &pod.name), &label, |_| {
            sysctl(&label, "ipv4/icmp_ratelimit", "0")?;
            if has_ipv6(world) { sysctl(&label, "ipv6/icmp/ratelimit", "0") } else { Ok(()) }
        })?;
    }
    Ok(())
}

fn mount_bpf(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(LabError::file("make the folder", path))?;
    mount(Some("bpffs"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|errno| LabError::file("mount a bpf file system on", path)(errno.into()))
}

/// The router: a bridge a subnet, and a way to everybody outside. Subnets are told apart by IPv4; the nodes of one share those of IPv6.
fn fabric(world: &World, name: &LabName, mtu: u32) -> Result<BTreeMap<String, String>, LabError> {
    let place = "fabric";
    let mut bridges = BTreeMap::new();
    for node in &world.nodes {
        let next = format!("subnet{}", bridges.len());
        bridges.entry(node.subnet.to_string()).or_insert(next);
    }
    inside(&name.fabric(), place, |netlink| {
        addressed(place, has_ipv6(world))?;
        let fail = LabError::netlink(place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        for (number, (subnet, bridge)) in (0_u8..).zip(&bridges) {
            netlink.add_bridge(bridge, [2, 0, 0, 0, 0, number], mtu).map_err(&fail)?;
            let index = netlink.link(bridge).map_err(&fail)?.index;
            netlink.set_up(index).map_err(&fail)?;
            let nodes = world.nodes.iter().filter(|node| node.subnet.to_string() == *subnet);
            let routers: BTreeSet<_> =
                nodes.flat_map(legs).map(|leg| (leg.router, leg.subnet.length())).collect();
            for (router, length) in routers {
                netlink.add_address(index, router, length).map_err(&fail)?;
            }
        }
        Ok(())
    })?;
    Ok(bridges)
}

/// The hosts outside: one namespace to which every address that comes in is its own. The local table, where it says so, is asked for
/// arriving packets only; what leaves goes to the router, whatever its destination.
fn outside(world: &World, name: &LabName, mtu: u32) -> Result<(), LabError> {
    let place = "outside";
    let versions = versions(world);
    let outside = netns::open(&netns::path(&name.outside()))?;
    inside(&name.fabric(), "fabric", |netlink| {
        let fail = LabError::netlink("fabric");
        netlink
            .add_veth(
                &VethEnd { name: "outside0", ..VethEnd::default() },
                &VethEnd { name: "fabric0", netns: Some(outside.as_fd()), mac: None },
                mtu,
            )
            .map_err(&fail)?;
        let index = netlink.link("outside0").map_err(&fail)?.index;
        netlink.set_up(index).map_err(&fail)?;
        for (router, _, length) in LINK.iter().take(versions.len()) {
            netlink.add_address(index, *router, *length).map_err(&fail)?;
        }
        Ok(())
    })?;
    inside(&name.outside(), place, |netlink| {
        addressed(place, has_ipv6(world))?;
        sysctl(place, "ipv4/conf/all/accept_local", "1")?;
        let fail = LabError::netlink(place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        let index = netlink.link("fabric0").map_err(&fail)?.index;
        netlink.set_up(index).map_err(&fail)?;
        for (&version, (router, outside, length)) in versions.iter().zip(LINK) {
            netlink.add_address(index, outside, length).map_err(&fail)?;
            let any = anywhere(version);
            netlink.add_route(&Route::via(any, 0, router)).map_err(&fail)?;
            netlink
                .add_route(&Route { local: true, table: TABLE_LOCAL, ..Route::on(any, 0, loopback) })
                .map_err(&fail)?;
            let local = Rule { version, priority: 1, interface: Some("fabric0"), table: TABLE_LOCAL };
            netlink.add_rule(&local).map_err(&fail)?;
            netlink.delete_rule(&Rule { priority: 0, interface: None, ..local }).map_err(&fail)?;
        }
        Ok(())
    })?;
    inside(&name.fabric(), "fabric", |netlink| {
        for (&version, (_, outside, _)) in versions.iter().zip(LINK) {
            let default = Route::via(anywhere(version), 0, outside);
            netlink.add_route(&default).map_err(LabError::netlink("fabric"))?;
        }
        Ok(())
    })
}

fn node_links(
    name: &LabName,
    index: usize,
    node: &WorldNode,
    uplink: &str,
    bridge: &str,
    mtu: u32,
) -> Result<(), LabError> {
    let place = format!("node {}", node.name);
    let node_netns = netns::open(&netns::path(&name.node(&node.name)))?;
    inside(&name.fabric(), "fabric", |netlink| {
        let fail = LabError::netlink("fabric");
        let near = format!("n{index}");
        netlink
            .add_veth(
                &VethEnd { name: &near, ..VethEnd::default() },
                &VethEnd { name: uplink, netns: Some(node_netns.as_fd()), mac: None },
                mtu,
            )
            .map_err(&fail)?;
        let bridge = netlink.link(bridge).map_err(&fail)?.index;
        let near = netlink.link(&near).map_err(&fail)?.index;
        netlink.set_bridge(near, bridge).map_err(&fail)?;
        netlink.set_up(near).map_err(&fail)
    })?;
    inside(&name.node(&node.name), &place, |netlink| {
        let legs = legs(node);
        addressed(&place, legs.iter().any(|leg| leg.address.is_ipv6()))?;
        let fail = LabError::netlink(&place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        let uplink = netlink.link(uplink).map_err(&fail)?.index;
        netlink.set_up(uplink).map_err(&fail)?;
        for leg in legs {
            netlink.add_address(uplink, leg.address, leg.subnet.length()).map_err(&fail)?;
            let default = Route::via(anywhere(leg.version()), 0, leg.router);
            netlink.add_route(&default).map_err(&fail)?;
        }
        Ok(())
    })
}

/// The router knows the nodes' blocks, each pod whose address lies in another block than its node's, and services' external addresses: what
/// BGP would have told it.
fn bgp_routes(world: &World, name: &LabName) -> Result<(), LabError> {
    inside(&name.fabric(), "fabric", |netlink| {
        for (index, node) in world.nodes.iter().enumerate() {
            for leg in legs(node) {
                for (address, length) in prefixes(world, index, &leg) {
                    let route = Route::via(address, length, leg.address);
                    netlink.add_route(&route).map_err(LabError::netlink("fabric"))?;
                }
            }
        }
        for address in world.services.iter().flat_map(|service| service.external_ips.iter().copied()) {
            let entrance = world.entrance(address).and_then(|index| world.nodes.get(index));
            let Some(node) = entrance.and_then(|node| node.address_like(address)) else { continue };
            let route = Route::via(address, host_length(address), node);
            netlink.add_route(&route).map_err(LabError::netlink("fabric"))?;
        }
        Ok(())
    })
}

/// Runs `work` in one of the lab's namespaces, with a netlink socket there.
pub(crate) fn inside<T: Send>(
    netns: &str,
    place: &str,
    work: impl FnOnce(&mut Netlink) -> Result<T, LabError> + Send,
) -> Result<T, LabError> {
    netns::within(&netns::path(netns), || {
        let mut netlink = Netlink::open().map_err(LabError::netlink(place))?;
        work(&mut netlink)
    })?
}

/// Sets a setting of the namespace of the calling thread.
pub(crate) fn sysctl(place: &str, key: &str, value: &str) -> Result<(), LabError> {
    set_sysctl(key, value).map_err(|source| LabError::Sysctl {
        place: place.into(),
        key: key.into(),
        value: value.into(),
        source,
    })
}

/// Settings of a namespace that forwards or answers for others, before it has links. Without IPv6 there is no chatter of it; with it,
/// addresses are there at once. Reverse-path filters are off: the host's default must not decide a case.
fn addressed(place: &str, ipv6: bool) -> Result<(), LabError> {
    let always = ["all", "default"].map(|links| (format!("ipv4/conf/{links}/rp_filter"), "0"));
    let forwarding = [("ipv4/ip_forward".to_owned(), "1"), ("ipv4/icmp_ratelimit".to_owned(), "0")];
    for (key, value) in always.into_iter().chain(forwarding) {
        sysctl(place, &key, value)?;
    }
    if !ipv6 {
        return match sysctl(place, "ipv6/conf/all/disable_ipv6", "1") {
            Err(LabError::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
    }
    for links in ["all", "default"] {
        for (key, value) in
            [("accept_dad", "0"), ("accept_ra", "0"), ("forwarding", "1"), ("disable_ipv6", "0")]
        {
            sysctl(place, &format!("ipv6/conf/{links}/{key}"), value)?;
        }
    }
    sysctl(place, "ipv6/icmp/ratelimit", "0")
}
