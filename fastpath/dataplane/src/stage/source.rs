//! Who may send what to whom: a pod only from its own addresses, and never tunnel packets (calico-compatible: VXLAN and IPIP
//! from workloads are refused).

use caracal_wire::{Ethernet, Protocol};

use crate::batch::Slot;
use crate::drop_reason::DropReason;
use crate::stage::Context;
use crate::table::EndpointIndex;

/// Checks a packet that `endpoint` has sent.
#[inline]
pub fn check_endpoint(context: &Context, slot: &mut Slot, endpoint: EndpointIndex) {
    let Some(known) = context.tables.endpoints.get(endpoint) else {
        return slot.drop(DropReason::EndpointNotReady);
    };
    let parsed = &slot.parsed;
    if !known.owns(parsed.source) {
        return slot.drop(DropReason::SpoofedSource);
    }
    let is_vxlan = parsed.protocol == Protocol::UDP.0
        && context.tables.node.config().is_some_and(|node| node.vxlan_port == parsed.destination_port);
    if is_vxlan || parsed.protocol == Protocol::IPIP.0 {
        slot.drop(DropReason::PodSentTunnel);
    }
}

/// Checks a frame that came from the fabric: a switch that floods shows us other machines' frames, too.
#[inline]
pub fn check_uplink(context: &Context, slot: &mut Slot) {
    let ours = context.links.uplink.map(|link| link.mac);
    let addressed = Ethernet::new_checked(slot.packet.head.data()).map(|header| header.destination());
    if addressed.ok() != ours {
        slot.drop(DropReason::NotOurMac);
    }
}
