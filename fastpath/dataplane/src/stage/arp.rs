//! ARP on pods' links: we answer for every address, as the pods' gateway (169.254.1.1) and as all that is behind it
//! (proxy ARP, calico-compatible), and learn the pod's MAC from what it says.
//!
//! The host ports do not use ARP (their links are NOARP), and the uplink's ARP is the kernel's.

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::arp::{Operation, Repr};
use caracal_wire::{EtherType, MacAddr, arp, ethernet};
use caracal_xsk::Frame;

use crate::batch::{Egress, Ingress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::Context;
use crate::table::EndpointIndex;

/// The MAC address of every pod's gateway: the host side of its veth.
pub const GATEWAY_MAC: MacAddr = MacAddr([0xee; 6]);

/// The address that pods have as their gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Answers a request, learns from any message.
pub fn handle(context: &mut Context, slot: &mut Slot) {
    let Ingress::Endpoint(endpoint) = slot.ingress else {
        return slot.drop(DropReason::ArpNotForUs);
    };
    let Some(body) = slot.packet.head.data_mut().get_mut(ethernet::HEADER_LEN..) else {
        return slot.drop(DropReason::ArpMalformed);
    };
    let Ok(message) = Repr::parse(body) else { return slot.drop(DropReason::ArpMalformed) };
    if !speaks_for_itself(context, endpoint, &message) {
        return slot.drop(DropReason::SpoofedSource);
    }
    learn(context, endpoint, message.sender_mac);
    if message.operation != Operation::REQUEST || asks_for_itself(context, endpoint, &message) {
        slot.verdict = Verdict::Consumed;
        return;
    }
    let answer = message.reply_from(GATEWAY_MAC);
    if answer.emit(body).is_err() || address(&mut slot.packet.head, message.sender_mac).is_none() {
        return slot.drop(DropReason::ArpMalformed);
    }
    if !slot.packet.truncate(ethernet::HEADER_LEN + arp::PACKET_LEN) {
        return slot.drop(DropReason::ArpMalformed);
    }
    context.counters.pipeline.arp_answered.add(1);
    slot.verdict = Verdict::Transmit(Egress::Endpoint(endpoint));
}

/// A sender address of 0.0.0.0 is a probe for a duplicate (RFC 5227), which teaches nothing but harms nobody.
fn speaks_for_itself(context: &Context, endpoint: EndpointIndex, message: &Repr) -> bool {
    let Some(known) = context.tables.endpoints.get(endpoint) else { return false };
    message.sender_addr.is_unspecified() || known.owns(IpAddr::V4(message.sender_addr))
}

/// An announcement of the sender's own address, or a probe whether somebody else has it (RFC 5227, 2.1.1): an answer to
/// that would keep the pod from using its address.
fn asks_for_itself(context: &Context, endpoint: EndpointIndex, message: &Repr) -> bool {
    let known = context.tables.endpoints.get(endpoint);
    known.is_some_and(|known| known.owns(IpAddr::V4(message.target_addr)))
}

pub(super) fn learn(context: &mut Context, endpoint: EndpointIndex, mac: MacAddr) {
    let Some(link) = context.links.endpoint_mut(endpoint) else { return };
    if link.pod_mac != Some(mac) && !mac.is_multicast() && mac != MacAddr::ZERO {
        link.pod_mac = Some(mac);
        context.counters.pipeline.arp_learned.add(1);
    }
}

fn address(frame: &mut Frame, to: MacAddr) -> Option<()> {
    let header = ethernet::Repr { destination: to, source: GATEWAY_MAC, ether_type: EtherType::ARP };
    header.emit(frame.data_mut()).ok()
}

/// Writes the question for a pod's MAC address into an empty frame. Sent when its port comes up, and again until it is
/// answered.
///
/// # Errors
/// None when the frame is too small.
pub fn ask(frame: &mut Frame, pod: Ipv4Addr) -> Option<()> {
    frame.append(ethernet::HEADER_LEN + arp::PACKET_LEN)?;
    address(frame, MacAddr::BROADCAST)?;
    let question = Repr {
        operation: Operation::REQUEST,
        sender_mac: GATEWAY_MAC,
        sender_addr: GATEWAY,
        target_mac: MacAddr::ZERO,
        target_addr: pod,
    };
    question.emit(frame.data_mut().get_mut(ethernet::HEADER_LEN..)?).ok()
}
