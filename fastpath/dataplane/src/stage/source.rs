//! Who may send what to whom: a pod only from its own addresses, and no tunnel packets (calico-compatible: VXLAN and IPIP
//! from workloads are refused, unless the node's configuration allows them).

use std::net::IpAddr;

use caracal_wire::{Ethernet, Protocol};

use crate::batch::{AtNode, Ingress, Slot, UplinkIndex};
use crate::drop_reason::DropReason;
use crate::stage::Context;
use crate::table::{Encapsulation, EndpointIndex, FibEntry, NodeConfig, TunnelIndex};

/// Checks a packet that `endpoint` has sent.
#[inline]
pub fn check_endpoint(context: &Context, slot: &mut Slot, endpoint: EndpointIndex) {
    let Some(known) = context.tables.endpoints.get(endpoint) else {
        return slot.drop(DropReason::EndpointNotReady);
    };
    let parsed = &slot.parsed;
    if !known.may_send_from(parsed.source) {
        return slot.drop(DropReason::SpoofedSource);
    }
    // Without a configuration nothing is known of tunnels but their protocols.
    let Some(node) = context.tables.node.config() else { return };
    let is_vxlan = is_pods_vxlan(node, parsed.protocol, parsed.destination_port);
    let is_ipip = parsed.protocol == Protocol::IPIP.0;
    if is_vxlan || is_ipip && !node.allow_ipip_from_workloads {
        slot.drop(DropReason::PodSentTunnel);
    }
}

/// Whether what a pod sends to this port is VXLAN, and it must not send any.
#[inline]
#[must_use]
pub fn is_pods_vxlan(node: &NodeConfig, protocol: u8, destination_port: u16) -> bool {
    protocol == Protocol::UDP.0 && destination_port == node.vxlan_port && !node.allow_vxlan_from_workloads
}

/// Checks a frame that came from the fabric: a switch that floods shows us other machines' frames, too.
#[inline]
pub fn check_uplink(context: &Context, slot: &mut Slot, uplink: UplinkIndex) {
    let ours = context.links.uplink(uplink).map(|uplink| uplink.link.mac);
    let addressed = Ethernet::new_checked(slot.packet.head.data()).map(|header| header.destination());
    if addressed.ok() != ours {
        slot.drop(DropReason::NotOurMac);
    }
}

/// A packet that comes in from the fabric must have a source that belongs there. For an endpoint, checked for the first
/// packet of a flow (a later one has the same source by its key); for this host, for each; for a service of this node's,
/// before it is translated.
///
/// How a packet of a pod's comes is told by its destination: it is in the tunnel of *that* pool, or in none, wherever its
/// own pod's address is from.
pub fn out_of_place(context: &Context, slot: &Slot) -> Option<DropReason> {
    if slot.at_node == AtNode::Translated {
        return None;
    }
    let source = slot.parsed.source;
    match slot.ingress {
        Ingress::Uplink(_) => match context.tables.fib.lookup(source) {
            None
            | Some(FibEntry::Via { .. } | FibEntry::Tunnel { encapsulation: Encapsulation::None, .. }) => {
                None
            }
            Some(FibEntry::Tunnel { .. }) if may_come_plain(context, slot) => None,
            Some(_) => Some(DropReason::FabricSpoofedSource),
        },
        Ingress::Tunnel(tunnel) => match context.tables.fib.lookup(source) {
            Some(FibEntry::Tunnel { .. }) => None,
            // A node answers with its own address when it was asked by that.
            _ if is_the_nodes_own(context, tunnel, source) => None,
            // Whose pods no node has are somewhere outside.
            None | Some(FibEntry::Via { .. }) if tunnel == TunnelIndex::NO_NODE => None,
            _ => Some(DropReason::TunnelSpoofedInner),
        },
        _ => None,
    }
}

fn may_come_plain(context: &Context, slot: &Slot) -> bool {
    let node = context.tables.node.config();
    node.is_some_and(|node| node.may_come_plain(slot.parsed.source, slot.parsed.destination))
}

fn is_the_nodes_own(context: &Context, tunnel: TunnelIndex, source: IpAddr) -> bool {
    let tunnel = context.tables.tunnels.get(tunnel);
    tunnel.is_some_and(|tunnel| tunnel.node_addresses().any(|address| address == source))
}
