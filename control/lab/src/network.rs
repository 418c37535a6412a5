//! The lab's wires: subnets, the router between them, everybody outside, nodes and pods; all in namespaces of their own.
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
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::Path,
};

use caracal_cni::{
    link::{self, PodLink},
    netlink::{Netlink, Route, TABLE_LOCAL, VethEnd},
    netns::{self, set_sysctl},
};
use caracal_model::case::{World, WorldNode};
use nix::mount::{MsFlags, mount};

use crate::{error::LabError, kernel_node, name::LabName, state::State, stop::Stop};

/// The nodes' uplink.
pub const UPLINK: &str = "uplink0";
/// What VXLAN over IPv4 adds to a packet.
pub const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// MTU of the uplinks when the case does not say.
pub const DEFAULT_UPLINK_MTU: u32 = 1500;

const ROUTER_SIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 254, 1);
const OUTSIDE_SIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 254, 2);

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
    outside(name, mtu)?;
    for (index, node) in world.nodes.iter().enumerate() {
        stop.check()?;
        let Some(bridge) = bridges.get(&node.subnet.to_string()) else { continue };
        node_links(name, index, node, bridge, mtu)?;
        if node.kernel {
            kernel_node::build(world, name, index, mtu)?;
        }
    }
    routes_to_pods(world, name)?;
    for (index, pod) in world.pods.iter().enumerate() {
        stop.check()?;
        let (false, false, Some(node)) =
            (pod.host_network, pod.addresses.is_empty(), world.nodes.get(pod.node))
        else {
            continue;
        };
        let pod_netns = netns::path(&name.pod(&pod.namespace, &pod.name));
        let label = format!("{}/{}", pod.namespace, pod.name);
        let bpf_dir = state.bpf_of(&node.name);
        let wanted = PodLink {
            node_netns: Some(&netns::path(&name.node(&node.name))),
            pod_netns: &pod_netns,
            host_name: &pod.interface,
            addresses: &pod.addresses,
            mtu: mtu.saturating_sub(VXLAN_OVERHEAD_BYTES),
            mac: None,
            bpf_dir: &bpf_dir,
        };
        if node.kernel {
            kernel_node::pod(world, name, index, &wanted)?;
        } else {
            link::add(&wanted).map_err(|source| LabError::Link { pod: label.clone(), source })?;
        }
        // A refused connection must be heard of each time, not once a second.
        inside(&name.pod(&pod.namespace, &pod.name), &label, |_| sysctl(&label, "ipv4/icmp_ratelimit", "0"))?;
    }
    Ok(())
}

fn mount_bpf(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(LabError::file("make the folder", path))?;
    mount(Some("bpffs"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|errno| LabError::file("mount a bpf file system on", path)(errno.into()))
}

/// The router: a bridge a subnet, named by the subnet, and a way to everybody outside.
fn fabric(world: &World, name: &LabName, mtu: u32) -> Result<BTreeMap<String, String>, LabError> {
    let place = "fabric";
    let mut bridges = BTreeMap::new();
    for node in &world.nodes {
        let next = format!("subnet{}", bridges.len());
        bridges.entry(node.subnet.to_string()).or_insert(next);
    }
    inside(&name.fabric(), place, |netlink| {
        quiet_ipv6(place)?;
        sysctl(place, "ipv4/ip_forward", "1")?;
        sysctl(place, "ipv4/icmp_ratelimit", "0")?;
        let fail = LabError::netlink(place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        for (subnet, bridge) in &bridges {
            let Some(node) = world.nodes.iter().find(|node| node.subnet.to_string() == *subnet) else {
                continue;
            };
            netlink.add_bridge(bridge, mtu).map_err(&fail)?;
            let index = netlink.link(bridge).map_err(&fail)?.index;
            netlink.add_address(index, node.router.into(), node.subnet.length()).map_err(&fail)?;
            netlink.set_up(index).map_err(&fail)?;
        }
        Ok(())
    })?;
    Ok(bridges)
}

/// The hosts outside: one namespace to which every address that comes in is its own. The local table, where it says so, is asked for
/// arriving packets only; what leaves goes to the router, whatever its destination.
fn outside(name: &LabName, mtu: u32) -> Result<(), LabError> {
    let place = "outside";
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
        netlink.add_address(index, ROUTER_SIDE.into(), 30).map_err(&fail)?;
        netlink.set_up(index).map_err(&fail)?;
        Ok(())
    })?;
    inside(&name.outside(), place, |netlink| {
        quiet_ipv6(place)?;
        for (key, value) in [("ipv4/conf/all/accept_local", "1"), ("ipv4/icmp_ratelimit", "0")] {
            sysctl(place, key, value)?;
        }
        let fail = LabError::netlink(place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        let index = netlink.link("fabric0").map_err(&fail)?.index;
        netlink.add_address(index, OUTSIDE_SIDE.into(), 30).map_err(&fail)?;
        netlink.set_up(index).map_err(&fail)?;
        let any = Ipv4Addr::UNSPECIFIED.into();
        netlink.add_route(&Route::via(any, 0, ROUTER_SIDE.into())).map_err(&fail)?;
        netlink
            .add_route(&Route { local: true, table: TABLE_LOCAL, ..Route::on(any, 0, loopback) })
            .map_err(&fail)?;
        netlink.add_rule(1, Some("fabric0"), TABLE_LOCAL).map_err(&fail)?;
        netlink.delete_rule(0, None, TABLE_LOCAL).map_err(&fail)
    })?;
    inside(&name.fabric(), "fabric", |netlink| {
        let default = Route::via(Ipv4Addr::UNSPECIFIED.into(), 0, OUTSIDE_SIDE.into());
        netlink.add_route(&default).map_err(LabError::netlink("fabric"))
    })
}

fn node_links(
    name: &LabName,
    index: usize,
    node: &WorldNode,
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
                &VethEnd { name: UPLINK, netns: Some(node_netns.as_fd()), mac: None },
                mtu,
            )
            .map_err(&fail)?;
        let bridge = netlink.link(bridge).map_err(&fail)?.index;
        let near = netlink.link(&near).map_err(&fail)?.index;
        netlink.set_bridge(near, bridge).map_err(&fail)?;
        netlink.set_up(near).map_err(&fail)
    })?;
    inside(&name.node(&node.name), &place, |netlink| {
        quiet_ipv6(&place)?;
        sysctl(&place, "ipv4/ip_forward", "1")?;
        sysctl(&place, "ipv4/icmp_ratelimit", "0")?;
        let fail = LabError::netlink(&place);
        let loopback = netlink.link("lo").map_err(&fail)?.index;
        netlink.set_up(loopback).map_err(&fail)?;
        let uplink = netlink.link(UPLINK).map_err(&fail)?.index;
        netlink.add_address(uplink, node.address.into(), node.subnet.length()).map_err(&fail)?;
        netlink.set_up(uplink).map_err(&fail)?;
        let default = Route::via(Ipv4Addr::UNSPECIFIED.into(), 0, node.router.into());
        netlink.add_route(&default).map_err(&fail)
    })
}

/// The router knows the nodes' blocks, and each pod whose address lies in another block than its node's.
fn routes_to_pods(world: &World, name: &LabName) -> Result<(), LabError> {
    inside(&name.fabric(), "fabric", |netlink| {
        let fail = LabError::netlink("fabric");
        for node in &world.nodes {
            let (block, length) = (node.pod_cidr.address(), node.pod_cidr.length());
            netlink.add_route(&Route::via(block, length, node.address.into())).map_err(&fail)?;
        }
        for pod in world.pods.iter().filter(|pod| !pod.host_network) {
            let Some(node) = world.nodes.get(pod.node) else { continue };
            for &address in pod.addresses.iter().filter(|a| a.is_ipv4() && !node.pod_cidr.contains(**a)) {
                netlink.add_route(&Route::via(address, 32, IpAddr::V4(node.address))).map_err(&fail)?;
            }
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

/// No IPv6 chatter on links that carry IPv4 only. Reverse-path filters are off: the host's default must not decide a case.
fn quiet_ipv6(place: &str) -> Result<(), LabError> {
    for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
        sysctl(place, key, "0")?;
    }
    match sysctl(place, "ipv6/conf/all/disable_ipv6", "1") {
        Err(LabError::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
