//! A node whose data plane is Linux itself, as Calico sets it up: vxlan devices, routes, and proxy ARP and NDP for its pods. It has no
//! policy. It is a peer that was not written by us: what talks with it speaks VXLAN as Linux does.

use std::{net::IpAddr, os::fd::AsFd, path::Path};

use caracal_cni::{
    link::{self, HOST_MAC, POD_INTERFACE, PodLink},
    netlink::{IpVersion, Route, VethEnd},
    netns,
};
use caracal_model::{
    case::{Carriage, World, WorldNode, WorldPod},
    names::vtep_mac,
};

use crate::{
    error::LabError,
    mtu,
    name::LabName,
    network::{Leg, host_length, inside, legs, prefixes, sysctl},
};

const VNI: u32 = 4096;
const PORT: u16 = 4789;

/// Makes the node's vxlan devices, and routes to every other node's pods: through them, or plain.
pub(crate) fn build(world: &World, name: &LabName, index: usize, uplink_mtu: u32) -> Result<(), LabError> {
    let Some(node) = world.nodes.get(index) else { return Ok(()) };
    let place = place(node);
    inside(&name.node(&node.name), &place, |netlink| {
        let fail = LabError::netlink(&place);
        for leg in legs(node) {
            let (device, mac, mtu) = (device(&leg), mac(node, &leg), mtu::vxlan(&leg, uplink_mtu));
            netlink.add_vxlan(device, VNI, leg.address, PORT, mac, mtu).map_err(&fail)?;
            let device = netlink.link(device).map_err(&fail)?.index;
            netlink
                .add_address(device, leg.tunnel_address, host_length(leg.tunnel_address))
                .map_err(&fail)?;
            netlink.set_up(device).map_err(&fail)?;
        }
        for (other, peer) in world.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
            for own in legs(node) {
                let Some(their) = legs(peer).into_iter().find(|their| their.version() == own.version())
                else {
                    continue;
                };
                let device = netlink.link(device(&own)).map_err(&fail)?.index;
                let mac = mac(peer, &their);
                netlink.add_neighbor(device, their.tunnel_address, mac).map_err(&fail)?;
                netlink.add_tunnel_mac(device, mac, their.address).map_err(&fail)?;
                for (address, length) in prefixes(world, other, &their) {
                    let route = match world.carriage(index, other, address) {
                        Carriage::Vxlan => Route {
                            device: Some(device),
                            onlink: true,
                            ..Route::via(address, length, their.tunnel_address)
                        },
                        Carriage::Plain if own.subnet.contains(their.address) => {
                            Route::via(address, length, their.address)
                        }
                        // The router knows.
                        Carriage::Plain => continue,
                        Carriage::Ipip => {
                            return Err(LabError::Case(format!(
                                "the pool of {address} is tunnelled by IPIP between {} and {}: this kernel has no ipip device, \
                                 so {} cannot be one of kernelNodes",
                                node.name, peer.name, node.name
                            )));
                        }
                    };
                    netlink.add_route(&route).map_err(&fail)?;
                }
            }
        }
        Ok(())
    })
}

fn device(leg: &Leg) -> &'static str {
    match leg.version() {
        IpVersion::V4 => "vxlan.calico",
        IpVersion::V6 => "vxlan-v6.calico",
    }
}

fn mac(node: &WorldNode, leg: &Leg) -> [u8; 6] {
    match leg.version() {
        IpVersion::V4 => vtep_mac(&node.name),
        IpVersion::V6 => vtep_mac(&format!("{}-v6", node.name)),
    }
}

/// Makes its pods' links without our program: the kernel forwards for them, and no plugin is asked.
pub(crate) fn pods(world: &World, name: &LabName, index: usize, mtu: u32) -> Result<(), LabError> {
    let Some(node) = world.nodes.get(index) else { return Ok(()) };
    let own = world.pods.iter().filter(|pod| pod.node == index);
    for pod in own.filter(|pod| !pod.host_network && !pod.addresses.is_empty()) {
        let link = PodLink {
            node_netns: Some(&netns::path(&name.node(&node.name))),
            pod_netns: &netns::path(&name.pod(&pod.namespace, &pod.name)),
            host_name: &pod.interface,
            addresses: &pod.addresses,
            mtu,
            mac: None,
            // Nothing is pinned.
            bpf_dir: Path::new(""),
        };
        self::pod(name, node, pod, &link)?;
    }
    Ok(())
}

fn pod(name: &LabName, node: &WorldNode, pod: &WorldPod, wanted: &PodLink<'_>) -> Result<(), LabError> {
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
        let mut settings = vec![
            (format!("ipv4/conf/{}/forwarding", wanted.host_name), "1"),
            (format!("ipv4/conf/{}/proxy_arp", wanted.host_name), "1"),
            (format!("ipv4/neigh/{}/proxy_delay", wanted.host_name), "0"),
        ];
        if legs(node).iter().any(|leg| leg.address.is_ipv6()) {
            settings.push((format!("ipv6/conf/{}/proxy_ndp", wanted.host_name), "1"));
        }
        for (key, value) in settings {
            sysctl(&place, &key, value)?;
        }
        let device = netlink.link(wanted.host_name).map_err(&fail)?.index;
        netlink.set_up(device).map_err(&fail)?;
        let versions: Vec<_> = legs(node).iter().map(Leg::version).collect();
        let carried = |address: &&IpAddr| address.is_ipv4() || versions.contains(&IpVersion::V6);
        for &address in wanted.addresses.iter().filter(carried) {
            netlink.add_route(&Route::on(address, host_length(address), device)).map_err(&fail)?;
        }
        Ok(())
    })?;
    let label = format!("{}/{}", pod.namespace, pod.name);
    netns::within(wanted.pod_netns, || link::configure_pod_end(wanted))?
        .map_err(|source| LabError::Link { pod: label, source })
}

fn place(node: &WorldNode) -> String {
    format!("node {}", node.name)
}
