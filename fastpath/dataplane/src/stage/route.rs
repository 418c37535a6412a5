//! Where to: longest match on the destination, time to live, and which worker goes on.

use caracal_plane_api::EndpointToHost;

use crate::batch::{AtNode, Egress, Ingress, Slot, Step, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::{Context, icmp_error, source, tcp_reset};
use crate::table::FibEntry;

/// Finds the way and prepares the packet for it; what goes to a local endpoint continues to its ingress half.
// Into the one place that every packet comes by.
#[inline(always)]
pub fn route(context: &mut Context, slot: &mut Slot) {
    // Entries are looked at where they are: they are large, and most of one is for few packets.
    let tables = context.tables;
    let from_tunnel = matches!(slot.ingress, Ingress::Tunnel(_));
    let from_fabric = from_tunnel || matches!(slot.ingress, Ingress::Uplink(_));
    let by_node = slot.at_node == AtNode::Translated;
    match tables.fib.lookup(slot.parsed.destination) {
        Some(&FibEntry::Endpoint(endpoint)) => {
            if !hop(context, slot) {
                return;
            }
            let Some(target) = tables.endpoints.get(endpoint) else {
                return slot.drop(DropReason::EndpointNotReady);
            };
            slot.deliver_to = Some(endpoint);
            if target.worker != context.worker.0 {
                let worker = crate::worker::WorkerIndex(target.worker);
                slot.verdict = Verdict::HandOver(worker, Step::Deliver(endpoint, slot.ingress, slot.at_node));
            }
        }
        _ if super::node::enter(context, slot) => {}
        Some(FibEntry::LocalHost) => {
            // What the node has translated has been looked at, and is in the service's name.
            if !by_node && let Some(reason) = source::out_of_place(context, slot) {
                return slot.drop(reason);
            }
            // What this host sent to itself never leaves its kernel.
            slot.verdict = match slot.ingress {
                Ingress::Host | Ingress::Forward if !by_node => Verdict::Drop(DropReason::NoRoute),
                Ingress::Endpoint(_) if host_is_closed(context) => Verdict::Drop(DropReason::EndpointToHost),
                _ => Verdict::Transmit(Egress::Host),
            };
        }
        Some(FibEntry::Service) => {
            tcp_reset::refuse(context, slot);
            slot.drop(DropReason::ServiceNoPort);
        }
        Some(FibEntry::Blackhole) => {
            icmp_error::unreachable(context, slot, icmp_error::Unreachable::Host);
            slot.drop(DropReason::Blackhole);
        }
        _ if from_tunnel && !by_node => slot.drop(DropReason::TunnelNotForPods),
        Some(_) if from_fabric && !by_node => slot.drop(DropReason::NotForwardedBack),
        Some(&FibEntry::Tunnel { tunnel, encapsulation }) => {
            if hop(context, slot) {
                super::masquerade::from_host(context, slot, encapsulation);
            }
            if slot.goes_on() {
                super::tunnel::send(context, slot, tunnel, encapsulation);
            }
        }
        Some(&FibEntry::Via { mtu, source, .. }) => {
            if hop(context, slot) {
                super::masquerade::outgoing(context, slot, mtu, source);
            }
            if slot.goes_on() {
                super::rewrite::to_uplink(context, slot, slot.parsed.destination);
            }
        }
        None => {
            icmp_error::unreachable(context, slot, icmp_error::Unreachable::Net);
            slot.drop(DropReason::NoRoute);
        }
    }
}

/// The same for a packet whose destination has become another.
#[inline(never)]
pub fn again(context: &mut Context, slot: &mut Slot) {
    route(context, slot);
}

/// Whether pods may not send to this host whatever their policy says. (Return leaves it to the host's own rules, and
/// those are the kernel's.)
#[inline]
fn host_is_closed(context: &Context) -> bool {
    context.tables.node.config().is_some_and(|node| node.endpoint_to_host == EndpointToHost::Drop)
}

/// Takes one from the time to live, unless this host already did or we are the sender. False: it ran out.
#[inline]
fn hop(context: &mut Context, slot: &mut Slot) -> bool {
    if matches!(slot.ingress, Ingress::Host | Ingress::Forward | Ingress::Ourselves) {
        return true;
    }
    if slot.parsed.ttl <= 1 {
        icmp_error::time_exceeded(context, slot);
        slot.drop(DropReason::TtlExceeded);
        return false;
    }
    super::rewrite::decrement_ttl(slot);
    true
}
