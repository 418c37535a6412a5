//! Host endpoints' policy for what this node forwards: between its pods and the fabric, and what comes out of tunnels.
//! What ends or starts on the host is the kernel's (design decision 9), and so is what the host itself forwards to us.
//!
//! ```text
//!   from the fabric: [untracked, each packet] ─► flow ─ new ─► untracked, pre-DNAT, forward in ─► the pod's ingress policy
//!   to the fabric:                               flow ─ new ─► the pod's egress policy ─► forward out
//! ```
//!
//! Which host endpoint: the one that is about the uplink that the packet came by, or will leave by; what travels in a
//! tunnel does so by the tunnel's own interface, which only `*` is about: its outer packet is the host's traffic.
//!
//! The flow remembers the verdict together with its own. It is asked for again when host endpoints' rules have changed,
//! or the class of either address: then by the uplink that the route to the peer takes.

use std::net::IpAddr;

use super::flow::{judge_untracked, tuple_of};
use super::rewrite;
use crate::batch::{Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::flow::FlowKey;
use crate::stage::Context;
use crate::table::{
    Deciding, Encapsulation, FibEntry, FlowDirection, FlowTuple, HostEndpoint, HostPacket, HostPath,
    HostVerdict, Judgement, RuleId, Tables,
};

/// Judges each packet from the fabric to a pod before it is tracked, where a host endpoint has it so. What is allowed
/// here is judged by the pod's policy, each packet anew, and leaves no flow behind.
#[inline]
pub fn untracked(context: &mut Context, batch: &mut [Slot]) {
    if context.tables.host_endpoints.has_untracked() {
        batch.iter_mut().filter(|slot| slot.goes_on()).for_each(|slot| untracked_one(context, slot));
    }
}

#[cold]
fn untracked_one(context: &mut Context, slot: &mut Slot) {
    let tables = context.tables;
    let Some(endpoint) = slot.deliver_to else { return };
    let Some(host) = came_by(context, slot) else { return };
    let key = super::flow::key_of(&slot.parsed, endpoint, false);
    let tuple = tuple_of(&key, slot.parsed.icmp.message().unwrap_or_default(), false);
    let Some(judgement) = tables.judge_untracked(host, &tuple) else { return };
    context.count_packet(judgement.rule, slot.packet.len());
    if !judgement.allow {
        return slot.drop(DropReason::PolicyDeny);
    }
    if judge_untracked(context, slot, endpoint, &tuple) {
        rewrite::finish(context, slot);
    }
}

/// What host endpoints say of the first packet of a flow that comes in from the fabric, if they say anything. `original`
/// is what it was for before its destination was translated, if that was something else.
#[inline]
#[must_use]
pub fn forward_in(
    context: &Context,
    slot: &Slot,
    flow: &FlowTuple,
    original: Option<(IpAddr, u16)>,
) -> Option<Judgement> {
    if context.tables.host_endpoints.is_idle() {
        return None;
    }
    let host = came_by(context, slot)?;
    judge(context.tables, host, HostPath::ForwardIn, flow, original)
}

/// Whether host endpoints let the first packet of a connection in that was for `asked`, a service of the node's, and is
/// on its way to `backend`. To be asked again when [they have changed](crate::table::HostEndpoints::have_changed_since).
#[inline]
#[must_use]
pub fn admit_translated(
    context: &Context,
    slot: &Slot,
    (local_address, local_port): (IpAddr, u16),
    asked: (IpAddr, u16),
) -> bool {
    if context.tables.host_endpoints.is_idle() {
        return true;
    }
    let flow = FlowTuple {
        protocol: slot.parsed.protocol,
        peer_address: slot.parsed.source,
        peer_port: slot.parsed.source_port,
        local_address,
        local_port,
        icmp: None,
        direction: FlowDirection::Ingress,
    };
    let judgement = forward_in(context, slot, &flow, Some(asked));
    if let Some(judgement) = judgement {
        context.count_first(judgement.rule, Deciding::Enforced, slot.packet.len());
    }
    judgement.is_none_or(|judgement| judgement.allow)
}

/// What host endpoints say of the first packet of a flow that goes out to the fabric, if they say anything.
#[inline]
#[must_use]
pub fn forward_out(context: &Context, flow: &FlowTuple) -> Option<Judgement> {
    if context.tables.host_endpoints.is_idle() {
        return None;
    }
    let host = on_the_way_to(context.tables, flow.peer_address)?;
    judge(context.tables, host, HostPath::ForwardOut, flow, None)
}

/// The same for a flow that is known.
#[must_use]
pub fn again(context: &Context, key: &FlowKey, flow: &FlowTuple) -> Option<Judgement> {
    if context.tables.host_endpoints.is_idle() {
        return None;
    }
    let path = match flow.direction {
        FlowDirection::Ingress => HostPath::ForwardIn,
        FlowDirection::Egress => HostPath::ForwardOut,
    };
    judge(context.tables, on_the_way_to(context.tables, key.remote().0)?, path, flow, None)
}

/// What a host endpoint says; None where it says nothing.
#[cold]
fn judge(
    tables: &Tables,
    host: &HostEndpoint,
    path: HostPath,
    flow: &FlowTuple,
    original: Option<(IpAddr, u16)>,
) -> Option<Judgement> {
    if !host.judges(path) {
        return None;
    }
    let judged = tables.judge_at(host, &HostPacket { path, flow: *flow, original });
    let allow = judged.verdict != HostVerdict::Deny;
    // Where nothing decided there is nothing to count.
    (judged.rule != RuleId::NO_FORWARD_POLICY || !allow).then_some(Judgement {
        allow,
        rule: judged.rule,
        ..Judgement::default()
    })
}

/// Counts what a host endpoint has said of the first packet of a flow, and tells of denials. Whether the packet passes.
pub fn note(context: &mut Context, slot: &Slot, flow: &FlowTuple, judgement: Option<Judgement>) -> bool {
    let Some(judgement) = judgement else { return true };
    context.count_first(judgement.rule, Deciding::Enforced, slot.packet.len());
    context.recorder.judged(slot.flow_key.endpoint(), flow, judgement, context.counters);
    judgement.allow
}

/// The host endpoint by whose interface a packet came in to be forwarded.
fn came_by<'a>(context: &Context<'a>, slot: &Slot) -> Option<&'a HostEndpoint> {
    match slot.ingress {
        Ingress::Uplink(uplink) => {
            context.tables.host_endpoints.at(Some(context.links.uplink(uplink)?.ifindex))
        }
        Ingress::Tunnel(_) => context.tables.host_endpoints.at(None),
        _ => None,
    }
}

/// The host endpoint by whose interface packets to `peer` leave.
fn on_the_way_to(tables: &Tables, peer: IpAddr) -> Option<&HostEndpoint> {
    let ifindex = match tables.fib.lookup(peer)? {
        FibEntry::Via { ifindex, .. } => Some(*ifindex),
        FibEntry::Tunnel { tunnel, encapsulation: Encapsulation::None } => {
            let node = tables.tunnels.get(*tunnel)?;
            let underlay = match peer {
                IpAddr::V4(_) => node.v4.as_ref()?.underlay?,
                IpAddr::V6(_) => node.v6.as_ref()?.underlay?,
            };
            Some(underlay.ifindex)
        }
        FibEntry::Tunnel { .. } => None,
        _ => return None,
    };
    tables.host_endpoints.at(ifindex)
}
