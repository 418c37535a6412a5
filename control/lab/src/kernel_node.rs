//! A node whose data plane is Linux itself, as Calico sets it up: a vxlan device, routes, and proxy ARP for its pods. It has no policy. It
//! is a peer that was not written by us: what talks with it speaks VXLAN as Linux does.

use std::{net::IpAddr, os::fd::AsFd};

use caracal_cni::{
    link::{self, HOST_MAC, POD_INTERFACE, PodLink},
    netlink::{Route, VethEnd},
    netns,
};
use caracal_model::{
    case::{World, WorldNode},
    names::vtep_mac,
};

use crate::{
    error::LabError,
    name::LabName,
    network::{VXLAN_OVERHEAD_BYTES, inside, sysctl},
};

const DEVICE: &str = "vxlan.calico";
const VNI: u32 = 4096;
const PORT: u16 = 4789;

/// Makes the node's vxlan device, and routes to every other node's pods through it.
pub(crate) fn build(world: &World, name: &LabName, index: usize, uplink_mtu: u32) -> Result<(), LabError> {
    let Some(node) = world.nodes.get(index) else { return Ok(()) };
    let place = place(node);
    inside(&name.node(&node.name), &place, |netlink| {
        let fail = LabError::netlink(&place);
        let mtu = uplink_mtu.saturating_sub(VXLAN_OVERHEAD_BYTES);
        netlink.add_vxlan(DEVICE, VNI, node.address, PORT, vtep_mac(&node.name), mtu).map_err(&fail)?;
        let device = netlink.link(DEVICE).map_err(&fail)?.index;
        netlink.add_address(device, node.tunnel_address.into(), 32).map_err(&fail)?;
        netlink.set_up(device).map_err(&fail)?;
        for (other, peer) in world.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
            let mac = vtep_mac(&peer.name);
            netlink.add_neighbor(device, peer.tunnel_address.into(), mac).map_err(&fail)?;
            netlink.add_tunnel_mac(device, mac, peer.address).map_err(&fail)?;
            let mut blocks = vec![(peer.pod_cidr.address(), peer.pod_cidr.length())];
            blocks.extend(borrowed(world, other, peer));
            for (address, length) in blocks {
                let route = Route::via(address, length, peer.tunnel_address.into());
                netlink.add_route(&Route { device: Some(device), onlink: true, ..route }).map_err(&fail)?;
            }
        }
        Ok(())
    })
}

/// Makes a pod's link without our program: the kernel forwards for it.
pub(crate) fn pod(world: &World, name: &LabName, index: usize, wanted: &PodLink<'_>) -> Result<(), LabError> {
    let Some((pod, node)) = world.pods.get(index).and_then(|pod| Some((pod, world.nodes.get(pod.node)?)))
    else {
        return Ok(());
    };
    let place = place(node);
    let pod_netns = netns::open(wanted.pod_netns)?;
    inside(&name.node(&node.name), &place, |netlink| {
        let fail = LabError::netlink(&place);
        netlink
            .add_veth(
                &VethEnd { name: wanted.host_name, netns: None, mac: Some(HOST_MAC) },
                &VethEnd { name: POD_INTERFACE, netns: Some(pod_netns.as_fd()), mac: wanted.mac },
                wanted.mtu,
            )
            .map_err(&fail)?;
        let settings = [
            (format!("ipv4/conf/{}/forwarding", wanted.host_name), "1"),
            (format!("ipv4/conf/{}/proxy_arp", wanted.host_name), "1"),
            (format!("ipv4/neigh/{}/proxy_delay", wanted.host_name), "0"),
        ];
        for (key, value) in settings {
            sysctl(&place, &key, value)?;
        }
        let device = netlink.link(wanted.host_name).map_err(&fail)?.index;
        netlink.set_up(device).map_err(&fail)?;
        for &address in wanted.addresses.iter().filter(|address| address.is_ipv4()) {
            netlink.add_route(&Route::on(address, 32, device)).map_err(&fail)?;
        }
        Ok(())
    })?;
    let label = format!("{}/{}", pod.namespace, pod.name);
    netns::within(wanted.pod_netns, || link::configure_pod_end(wanted))?
        .map_err(|source| LabError::Link { pod: label, source })
}

/// The pods of a node whose addresses lie outside of its block.
fn borrowed(world: &World, index: usize, node: &WorldNode) -> Vec<(IpAddr, u8)> {
    let pods = world.pods.iter().filter(|pod| pod.node == index && !pod.host_network);
    let addresses = pods.flat_map(|pod| pod.addresses.iter().copied());
    addresses.filter(|a| a.is_ipv4() && !node.pod_cidr.contains(*a)).map(|a| (a, 32)).collect()
}

fn place(node: &WorldNode) -> String {
    format!("node {}", node.name)
}
