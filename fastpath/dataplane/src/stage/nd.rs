//! Neighbour discovery on pods' links (RFC 4861): what [`super::arp`] is for IPv4. We answer for every address, as the
//! pods' gateway and as all that is behind it, and learn the pod's MAC from what it says.
//!
//! Pods also send multicast listener reports and router solicitations; those end here. Such messages to an address of
//! this host pass before policy (calico-compatible).

use std::net::{IpAddr, Ipv6Addr};

use caracal_wire::checksum::{self, Sum};
use caracal_wire::icmpv6::{OVERRIDE, ROUTER, Repr, SOLICITED};
use caracal_wire::{EtherType, Ethernet, Icmpv6, MacAddr, Protocol, ethernet, ipv6};
use caracal_xsk::Frame;

use crate::batch::{Egress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::Context;
use crate::stage::arp::{GATEWAY_MAC, learn};
use crate::stage::parse::{Fragment, Icmp, Parsed, is_forwardable_v6};
use crate::table::{EndpointIndex, FibEntry};

/// The address that pods have as their IPv6 gateway: the link-local one that follows from [`GATEWAY_MAC`].
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// The hop limit of neighbour discovery: nobody has forwarded the message.
const HOP_LIMIT: u8 = 255;

/// Whether the packet is of the kinds that are about the link that it is on: multicast listener query, report and done,
/// router solicitation, neighbour solicitation and advertisement, the second version's report (RFC 3810); and echo
/// requests to the gateway.
#[inline]
#[must_use]
pub fn is_link_message(parsed: &Parsed) -> bool {
    let is_about_link = matches!(parsed.icmp, Icmp::Message(130..=133 | 135 | 136 | 143, _));
    (is_about_link || is_echo_to_gateway(parsed)) && parsed.protocol == Protocol::ICMPV6.0
}

fn is_echo_to_gateway(parsed: &Parsed) -> bool {
    matches!(parsed.icmp, Icmp::Message(ECHO_REQUEST, _)) && parsed.destination == IpAddr::V6(GATEWAY)
}

/// RFC 4443, 4.
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Answers, learns from, or ends a message of the link; what is addressed to others goes on as any packet.
pub fn handle(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex) {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (slot.parsed.source, slot.parsed.destination) else {
        return;
    };
    let Some(known) = context.tables.endpoints.get(endpoint) else {
        return slot.drop(DropReason::EndpointNotReady);
    };
    let stays_on_link = destination.is_multicast() || destination.is_unicast_link_local();
    let is_discovery =
        matches!(slot.parsed.icmp, Icmp::Message(135 | 136, _)) && slot.parsed.ttl == HOP_LIMIT;
    if !stays_on_link && !is_discovery {
        if !is_forwardable_v6(source) || !is_forwardable_v6(destination) {
            return slot.drop(DropReason::AddressInvalid);
        }
        let is_to_host = context.tables.fib.lookup(slot.parsed.destination) == Some(&FibEntry::LocalHost);
        if is_to_host
            && known.may_send_from(slot.parsed.source)
            && !matches!(slot.parsed.icmp, Icmp::Message(143, _))
        {
            slot.verdict = Verdict::Transmit(Egress::Host);
        }
        return;
    }
    if !source.is_unspecified() && !source.is_unicast_link_local() && !known.may_send_from(IpAddr::V6(source))
    {
        return slot.drop(DropReason::SpoofedSource);
    }
    slot.verdict = Verdict::Consumed;
    if is_echo_to_gateway(&slot.parsed) && slot.parsed.fragment == Fragment::No && !source.is_unspecified() {
        if echo(slot, source).is_none() {
            return slot.drop(DropReason::NdMalformed);
        }
        context.counters.pipeline.nd_answered.add(1);
        slot.verdict = Verdict::Transmit(Egress::Endpoint(endpoint));
        return;
    }
    if !matches!(slot.parsed.icmp, Icmp::Message(135 | 136, _)) {
        return;
    }
    if slot.parsed.fragment != Fragment::No {
        return slot.drop(DropReason::NdMalformed);
    }
    let Some(message) = message(slot, source, destination) else {
        return slot.drop(DropReason::NdMalformed);
    };
    match message {
        Repr::NeighbourAdvertisement { target, target_mac: Some(mac), .. }
            if target.is_unicast_link_local() || known.owns(IpAddr::V6(target)) =>
        {
            learn(context, endpoint, mac);
        }
        // A probe for duplicates (RFC 4862, 5.4) has no source, and an answer would keep the pod from its address.
        Repr::NeighbourSolicitation { target, source_mac } if !source.is_unspecified() => {
            if let Some(mac) = source_mac {
                learn(context, endpoint, mac);
            }
            let is_gateway = target == GATEWAY;
            let is_behind = is_forwardable_v6(target) && !known.owns(IpAddr::V6(target));
            if !is_gateway && !is_behind {
                return;
            }
            // Who speaks for others does not override what they say (RFC 4861, 7.2.8).
            let flags = ROUTER | SOLICITED | if is_gateway { OVERRIDE } else { 0 };
            let answer = Repr::NeighbourAdvertisement { target, target_mac: Some(GATEWAY_MAC), flags };
            let to = source_mac.or_else(|| sender(slot));
            if slot.packet.rest.is_some()
                || to.and_then(|to| rewrite(&mut slot.packet.head, to, source, answer)).is_none()
            {
                return slot.drop(DropReason::NdMalformed);
            }
            context.counters.pipeline.nd_answered.add(1);
            slot.verdict = Verdict::Transmit(Egress::Endpoint(endpoint));
        }
        _ => {}
    }
}

/// Makes an echo request to the gateway its reply, in place: exchanged addresses leave the checksum as it is.
fn echo(slot: &mut Slot, source: Ipv6Addr) -> Option<()> {
    let to = sender(slot)?;
    let (l3, l4) = (usize::from(slot.parsed.l3), usize::from(slot.parsed.l4));
    let is_whole = slot.packet.offload.checksum.is_none();
    let frame = slot.packet.head.data_mut();
    let message: &mut [u8; 4] = frame.get_mut(l4..)?.first_chunk_mut()?;
    let before = u16::from_be_bytes([message[0], message[1]]);
    message[0] = ECHO_REPLY;
    if is_whole {
        let [_, _, high, low] = *message;
        let after = u16::from_be_bytes([message[0], message[1]]);
        let sum = checksum::update_u16(u16::from_be_bytes([high, low]), before, after);
        message[2..].copy_from_slice(&sum.to_be_bytes());
    }
    let ip = frame.get_mut(l3..)?;
    ip.get_mut(ipv6::field::SOURCE)?.copy_from_slice(&GATEWAY.octets());
    ip.get_mut(ipv6::field::DESTINATION)?.copy_from_slice(&source.octets());
    *ip.get_mut(ipv6::field::HOP_LIMIT)? = ECHO_HOP_LIMIT;
    let link = ethernet::Repr { destination: to, source: GATEWAY_MAC, ether_type: EtherType::IPV6 };
    link.emit(frame).ok()
}

const ECHO_HOP_LIMIT: u8 = 64;

/// The message, if it is one that RFC 4861 (7.1) lets count: from this link, whole, with a right checksum.
fn message(slot: &Slot, source: Ipv6Addr, destination: Ipv6Addr) -> Option<Repr> {
    let bytes = slot.packet.head.data().get(usize::from(slot.parsed.l4)..)?;
    let pseudo = Sum::pseudo_v6(source, destination, Protocol::ICMPV6, bytes.len() as u32);
    let is_right = Icmpv6::new_checked(bytes).ok()?.checksum_is_correct(pseudo);
    let repr = Repr::parse(bytes).ok()?;
    let (Repr::NeighbourSolicitation { target, .. } | Repr::NeighbourAdvertisement { target, .. }) = repr
    else {
        return None;
    };
    (is_right && slot.parsed.ttl == HOP_LIMIT && !target.is_multicast()).then_some(repr)
}

fn sender(slot: &Slot) -> Option<MacAddr> {
    Ethernet::new_checked(slot.packet.head.data()).ok().map(|header| header.source())
}

/// Makes a frame a message of ours.
fn rewrite(frame: &mut Frame, to: MacAddr, destination: Ipv6Addr, message: Repr) -> Option<()> {
    frame.truncate(0);
    write(frame, to, destination, message)
}

fn write(frame: &mut Frame, to: MacAddr, destination: Ipv6Addr, message: Repr) -> Option<()> {
    let header = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header: Protocol::ICMPV6,
        hop_limit: HOP_LIMIT,
        source: GATEWAY,
        destination,
        payload_len: message.buffer_len() as u16,
    };
    let bytes = frame.append(ethernet::HEADER_LEN + ipv6::HEADER_LEN + message.buffer_len())?;
    let (link, rest) = bytes.split_at_mut_checked(ethernet::HEADER_LEN)?;
    let (ip, body) = rest.split_at_mut_checked(ipv6::HEADER_LEN)?;
    let link_header = ethernet::Repr { destination: to, source: GATEWAY_MAC, ether_type: EtherType::IPV6 };
    link_header.emit(link).ok()?;
    header.emit(ip).ok()?;
    message.emit(body, header.pseudo_sum()).ok()
}

/// Writes the question for a pod's MAC address into an empty frame, to those who listen for the address (RFC 4291,
/// 2.7.1). Sent as [`super::arp::ask`] is.
///
/// # Errors
/// None when the frame is too small.
pub fn ask(frame: &mut Frame, pod: Ipv6Addr) -> Option<()> {
    let [.., a, b, c] = pod.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    let listeners = MacAddr([0x33, 0x33, 0xff, a, b, c]);
    let question = Repr::NeighbourSolicitation { target: pod, source_mac: Some(GATEWAY_MAC) };
    write(frame, listeners, group, question)
}
