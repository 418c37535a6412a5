//! Connection tracking and policy, for one endpoint and one direction at a time.
//!
//! ```text
//!   find ─ hit ── same generation ─────────────────────────────► go on
//!     │      └─── other generation: peer's class and the
//!     │            endpoint's policy list unchanged ─── stamp ──► go on
//!     │                     changed ── judge again ── allow ────► go on
//!     │                                    └ deny: remember, drop
//!     └ miss ── judge ── allow: remember ───────────────────────► go on
//!                 └ deny: drop
//! ```
//!
//! A flow is judged in the direction of its first packet; answers follow. ICMP errors follow the flow that they are
//! about. A flow that policy comes to deny is not forgotten: the next answer under way would look like the first packet
//! of a flow in the other direction, be allowed as such, and carry the denied one on as *its* answers.

use std::net::IpAddr;

use caracal_wire::tcp::Flags;
use caracal_wire::{Protocol, Tcp};

use crate::batch::{AtNode, Egress, Ingress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::flow::window::{Segment, Window};
use crate::flow::{FlowEntry, FlowFlags, FlowKey, FlowNote, FlowTable, Inserted, State, Way};
use crate::stage::parse::{self, Fragment, Icmp, Parsed, Quoted};
use crate::stage::service::{self, Asked};
use crate::stage::{Context, limit, node, source};
use crate::table::{
    ClassId, Deciding, EndpointIndex, FlowDirection, FlowTuple, PolicyListId, RuleId, Tables,
};

const TCP: u8 = Protocol::TCP.0;

/// The key under which `endpoint` knows the flow of a packet that it sends (`out`) or receives.
#[inline(always)]
#[must_use]
pub fn key_of(parsed: &Parsed, endpoint: EndpointIndex, out: bool) -> FlowKey {
    let source = (parsed.source, parsed.source_port);
    let destination = (parsed.destination, parsed.destination_port);
    let (local, remote) = if out { (source, destination) } else { (destination, source) };
    FlowKey::new(endpoint, parsed.protocol, local, remote)
}

/// Hashes the packet's key and brings the flow table's line of tags near. Run over a batch, then [`fetch`] over the
/// batch, then [`track`].
// In its three places it is known which way packets go.
#[inline(always)]
pub fn prepare(context: &Context, slot: &mut Slot, endpoint: EndpointIndex, out: bool) {
    slot.flow_key = key_of(&slot.parsed, endpoint, out);
    slot.flow_hash = context.flows.hash(&slot.flow_key);
    context.flows.prefetch(slot.flow_hash);
}

/// Guesses by its tag where the flow is, and brings that entry near.
#[inline(always)]
pub fn fetch(context: &Context, slot: &mut Slot) {
    slot.flow_guess = context.flows.guess(slot.flow_hash);
}

/// Decides whether a packet that `endpoint` sends (`out`) or is to receive may pass.
// Likewise in its two.
#[inline(always)]
pub fn track(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex, out: bool) {
    if let Icmp::Error(..) = slot.parsed.icmp {
        return error(context, slot, endpoint, out);
    }
    match context.flows.find(&slot.flow_key, slot.flow_hash, slot.flow_guess) {
        // On the wire it would be a packet of another connection.
        Some(index) if out && context.flows.entry(index).flags.is_translated() => {
            as_translated(context, slot, endpoint, true);
        }
        Some(index) => known(context, slot, index, out),
        None if out => as_translated(context, slot, endpoint, false),
        None => unknown(context, slot, out),
    }
}

/// An ICMP error follows the flow that it is about.
#[cold]
fn error(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex, out: bool) {
    match parse::quoted(slot) {
        Some(about) => related(context, slot, endpoint, out, &about),
        None => slot.drop(DropReason::L4Truncated),
    }
}

/// A packet that is no flow's as its pod has sent it. `taken`: it would be, but that has been translated to it.
#[inline(never)]
fn as_translated(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex, taken: bool) {
    let inside = slot.flow_key;
    // A connection too many is refused in the name of whom it asked.
    let is_limited = !context.limits.is_idle();
    if is_limited
        && context.translations.by_inside(&inside, context.now).is_none()
        && limit::refuses_connection(context, slot, endpoint, true)
    {
        return;
    }
    let fresh = match service::ask(context, slot, endpoint, taken) {
        Asked::Itself => return unknown(context, slot, true),
        Asked::Dropped => return,
        Asked::Translated { fresh } => fresh,
    };
    slot.translated = true;
    slot.flow_key = key_of(&slot.parsed, endpoint, true);
    slot.flow_hash = context.flows.hash(&slot.flow_key);
    match context.flows.find(&slot.flow_key, slot.flow_hash, None) {
        Some(index) => known(context, slot, index, true),
        None => unknown(context, slot, true),
    }
    if fresh && matches!(slot.verdict, Verdict::Drop(_)) {
        service::forget(context, &inside);
    }
}

// Into the one place that every packet comes by; the other one is for few.
#[inline(always)]
fn known(context: &mut Context, slot: &mut Slot, index: usize, out: bool) {
    let (now, generation) = (context.now, context.generation);
    let length = slot.packet.len();
    let tcp_flags = slot.parsed.tcp_flags;
    let entry = context.flows.entry(index);
    let (flags, state) = (entry.flags, entry.state);
    let is_current = entry.generation == generation;
    let is_tcp = slot.flow_key.protocol() == TCP;
    let way = if flags.is_out() == out { Way::Original } else { Way::Reply };
    // A SYN on a connection that is over; or from the other side of one that policy has come to deny.
    let begins_again = is_tcp
        && tcp_flags.contains(Flags::SYN)
        && (state.may_be_reused()
            || flags.is_denied() && way == Way::Reply && !tcp_flags.contains(Flags::ACK));
    if begins_again || context.flows.has_expired(entry, now) {
        return begin_again(context, slot, index, out);
    }
    // Two connections that look alike here: one is somebody's with the pod itself, one is with a service of the node's.
    let by_node = slot.at_node == AtNode::Translated;
    if flags.is_by_node() != by_node && !out && !flags.is_out() {
        return slot.drop(DropReason::NatClash);
    }
    if is_tcp && context.flows.checks_windows() && !is_within_windows(context, slot, index, way) {
        return slot.drop(DropReason::TcpOutOfWindow);
    }
    let allowed = if is_current {
        context.counters.pipeline.flow_hits.add(1);
        !flags.is_denied()
    } else {
        bring_up_to_date(context, index)
    };
    if !allowed {
        return deny(context, slot, index);
    }
    context.flows.carry(index, length, way, now);
    let next = match way {
        _ if is_tcp => state.next(way, tcp_flags),
        Way::Reply => State::Established,
        Way::Original => state,
    };
    if next != state {
        context.flows.set_state(index, next);
    }
    if out {
        if way == Way::Reply {
            answer_by_origin(slot, flags);
        }
        if flags.is_by_node() {
            node::answer(context, slot);
        }
    } else if flags.is_translated() {
        service::for_pod(context, slot);
    }
}

/// Whether a TCP segment is within its connection's windows, where these are checked.
#[cold]
fn is_within_windows(context: &mut Context, slot: &Slot, index: usize, way: Way) -> bool {
    let Some(window) = context.flows.window_mut(index) else { return true };
    match segment_of(slot) {
        Some(segment) => window.admits(way, &segment),
        None => {
            // What its parts say of the numbers is not put together: nothing is known of them from now on.
            *window = Window::default();
            true
        }
    }
}

/// None for part of a segment.
fn segment_of(slot: &Slot) -> Option<Segment> {
    if slot.parsed.fragment != Fragment::No {
        return None;
    }
    let tcp = Tcp::new_checked(slot.packet.head.data().get(usize::from(slot.parsed.l4)..)?).ok()?;
    let ip_header = slot.parsed.l4 - slot.parsed.l3;
    Some(Segment::read(&tcp, usize::from(slot.parsed.ip_len.saturating_sub(ip_header))))
}

/// Answers go back by the port that the flow came in by, and from whom was asked.
#[inline]
fn answer_by_origin(slot: &mut Slot, flags: FlowFlags) {
    if flags.is_by_node() {
        // Its owner knows.
    } else if flags.is_from_host() {
        slot.verdict = Verdict::Transmit(Egress::Host);
    } else if flags.is_from_forward() {
        slot.verdict = Verdict::Transmit(Egress::Forward);
    } else {
        // Who asked knows the pod by its own address: natOutgoing is for what pods begin.
        slot.at_node = AtNode::Itself;
    }
}

/// A packet of a flow that policy has come to deny.
#[cold]
fn deny(context: &mut Context, slot: &mut Slot, index: usize) {
    context.flows.count_packet(index, slot.packet.len());
    slot.drop(DropReason::PolicyDeny);
}

/// A flow that has ended and whose addresses and ports are used again.
#[cold]
fn begin_again(context: &mut Context, slot: &mut Slot, index: usize, out: bool) {
    if let Some(gone) = context.flows.remove(index) {
        context.counters.pipeline.flow_closed.add(1);
        context.forget(&gone);
    }
    unknown(context, slot, out);
}

/// Whether the verdict that the flow at `index` rests on is that of the tables of now. Brings the flow up to date when
/// it is.
#[inline]
fn still_allowed(context: &mut Context, index: usize) -> bool {
    let generation = context.generation;
    let entry = context.flows.entry(index);
    if entry.generation == generation {
        context.counters.pipeline.flow_hits.add(1);
        return !entry.flags.is_denied();
    }
    bring_up_to_date(context, index)
}

#[cold]
fn bring_up_to_date(context: &mut Context, index: usize) -> bool {
    let entry = *context.flows.entry(index);
    let out = entry.flags.is_out();
    let (remote, _) = entry.key.remote();
    let Some(grounds) = Grounds::of(context, entry.key.endpoint(), remote, out) else { return false };
    let Grounds { list, peer_class, .. } = grounds;
    let tuple = tuple_of(&entry.key, context.flows.note(index).icmp, out);
    stage_again(context, index, &grounds, &tuple);
    let hosts_agree = !context.tables.host_endpoints.have_changed_since(entry.generation);
    let holds = list == entry.list && peer_class == entry.peer_class && hosts_agree;
    // A flow that is denied is not established: there is nothing to keep.
    let is_kept = !entry.flags.is_denied() && keeps_established(context);
    if holds || is_kept {
        context.flows.entry_mut(index).generation = context.generation;
        context.counters.pipeline.flow_revalidated.add(1);
        return !entry.flags.is_denied();
    }
    context.counters.pipeline.flow_rejudged.add(1);
    let mut allow = true;
    if !entry.flags.is_never_judged() {
        let mut judgement = context.tables.policy.judge(list, peer_class, &tuple);
        if judgement.allow
            && !entry.flags.is_from_forward()
            && !entry.flags.is_by_node()
            && let Some(of_host) = super::host::again(context, &entry.key, &tuple)
            && !of_host.allow
        {
            judgement = of_host;
        }
        decided_by(context, index, judgement.rule);
        // A flow that goes on is not news.
        if !judgement.allow && !entry.flags.is_denied() {
            context.recorder.judged(entry.key.endpoint(), &tuple, judgement, context.counters);
        }
        allow = judgement.allow;
    }
    let generation = context.generation;
    let entry = context.flows.entry_mut(index);
    entry.list = list;
    entry.peer_class = peer_class;
    entry.generation = generation;
    context.flows.set_denied(index, !allow);
    allow
}

/// Whether the verdict of a flow, of former tables, still holds though no rule is asked: brings it up to date then. False,
/// and nothing has changed, where more is to be done.
#[inline(never)]
pub(super) fn holds_still(tables: &Tables, flows: &mut FlowTable, generation: u32, index: usize) -> bool {
    let entry = flows.entry(index);
    let (remote, _) = entry.key.remote();
    let grounds = Grounds::under(tables, entry.key.endpoint(), remote, entry.flags.is_out());
    let holds = grounds.is_some_and(|grounds| {
        (grounds.list, grounds.peer_class) == (entry.list, entry.peer_class)
            && !tables.host_endpoints.have_changed_since(entry.generation)
            && grounds.staged.is_none()
            && flows.note(index).staged().is_none()
    });
    if holds {
        flows.entry_mut(index).generation = generation;
    }
    holds
}

/// Whether the node has flows keep the verdict of their first packet, as Calico's kernel data planes do.
fn keeps_established(context: &Context) -> bool {
    context.tables.node.config().is_some_and(|node| node.keep_established)
}

/// What the flow carries from now on goes on another rule's account.
fn decided_by(context: &mut Context, index: usize, rule: RuleId) {
    if context.flows.note(index).rule() != Some(rule) {
        let carried = context.flows.settle(index);
        context.account(carried);
        context.flows.note_mut(index).decided_by(Some(rule));
    }
}

/// What staged policies would say now, where the endpoint has any.
fn stage_again(context: &mut Context, index: usize, grounds: &Grounds, tuple: &FlowTuple) {
    let former = context.flows.note(index).staged();
    let is_never_judged = context.flows.entry(index).flags.is_never_judged();
    if grounds.staged.is_none() && former.is_none() || is_never_judged {
        return;
    }
    let rule = would_be_decided_by(context, grounds, tuple);
    if rule != former {
        let carried = context.flows.settle(index);
        context.account(carried);
        context.flows.note_mut(index).would_be_decided_by(rule);
    }
}

/// What would decide if staged policies were enforced; none where they would change nothing.
fn would_be_decided_by(context: &Context, grounds: &Grounds, tuple: &FlowTuple) -> Option<RuleId> {
    Some(context.tables.policy.judge(grounds.staged?, grounds.peer_class, tuple).rule)
}

/// What a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Grounds {
    /// The endpoint's policy list for the direction.
    pub list: PolicyListId,
    /// What it would be if staged policies were enforced, where that would change anything.
    pub staged: Option<PolicyListId>,
    /// The peer's class.
    pub peer_class: ClassId,
}

impl Grounds {
    /// `None` when the endpoint is gone.
    #[inline]
    pub fn of(context: &Context, endpoint: EndpointIndex, peer: IpAddr, out: bool) -> Option<Self> {
        Grounds::under(context.tables, endpoint, peer, out)
    }

    /// The same under these tables.
    #[inline]
    fn under(tables: &Tables, endpoint: EndpointIndex, peer: IpAddr, out: bool) -> Option<Self> {
        let endpoint = tables.endpoints.get(endpoint)?;
        let (list, staged) = if out {
            (endpoint.policy_out, endpoint.staged_out)
        } else {
            (endpoint.policy_in, endpoint.staged_in)
        };
        Some(Grounds { list, staged, peer_class: tables.policy.class_of(peer) })
    }
}

/// What policy sees of a flow whose first packet was this ICMP message, if it was one.
pub(super) fn tuple_of(key: &FlowKey, icmp: (u8, u8), out: bool) -> FlowTuple {
    let ((local_address, local_port), (peer_address, peer_port)) = (key.local(), key.remote());
    let own_icmp = if local_address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    // A message has no ports: what the key has in their place is its own.
    let is_icmp = key.protocol() == own_icmp.0;
    let port = |port| if is_icmp { 0 } else { port };
    FlowTuple {
        protocol: key.protocol(),
        peer_address,
        peer_port: port(peer_port),
        local_address,
        local_port: port(local_port),
        icmp: is_icmp.then_some(icmp),
        direction: if out { FlowDirection::Egress } else { FlowDirection::Ingress },
    }
}

#[inline(never)]
fn unknown(context: &mut Context, slot: &mut Slot, out: bool) {
    // What we say ourselves answers something that need not have become a flow, and is nothing to remember.
    let key = slot.flow_key;
    if slot.ingress == Ingress::Ourselves {
        if !out && service::is_translated(context, &key) {
            service::for_pod(context, slot);
        }
        return;
    }
    if !out && let Some(reason) = source::out_of_place(context, slot) {
        return slot.drop(reason);
    }
    if limit::refuses_connection(context, slot, key.endpoint(), out) {
        return;
    }
    let icmp = slot.parsed.icmp.message().unwrap_or_default();
    let foreseen = context.foreseen.take(slot.flow_hash, &key, icmp);
    let grounds = foreseen.and_then(|at| context.foreseen.grounds(at));
    let Some(grounds) = grounds.or_else(|| Grounds::of(context, key.endpoint(), key.remote().0, out)) else {
        return slot.drop(DropReason::EndpointNotReady);
    };
    let Grounds { list, peer_class, .. } = grounds;
    let mut flags = FlowFlags::new(out);
    let (mut rule, mut staged) = (None, None);
    let length = slot.packet.len();
    match slot.ingress {
        // This host reaches its own pods whatever policy says: the kubelet's probes do.
        Ingress::Host if !out => {
            flags = flags.from_host();
            context.counters.pipeline.host_to_pod.add(1);
        }
        // Nor can a pod be kept from itself.
        Ingress::Endpoint(sender) if !out && sender == key.endpoint() => flags = flags.of_itself(),
        ingress => {
            if ingress == Ingress::Forward {
                flags = flags.from_forward();
            }
            let judged = foreseen.and_then(|at| context.foreseen.judged(at));
            let tuple = judged.map_or_else(|| tuple_of(&key, icmp, out), |(tuple, _)| tuple);
            // What the node has translated it has had judged, by what it was for.
            if !out && slot.at_node != AtNode::Translated {
                let judgement = super::host::forward_in(context, slot, &tuple, None);
                if !super::host::note(context, slot, &tuple, judgement) {
                    return slot.drop(DropReason::PolicyDeny);
                }
            }
            staged = would_be_decided_by(context, &grounds, &tuple);
            if let Some(staged) = staged {
                context.count_first(staged, Deciding::Staged, length);
            }
            let judgement = judged.map_or_else(
                || context.tables.policy.judge(list, peer_class, &tuple),
                |(_, judgement)| judgement,
            );
            context.count_first(judgement.rule, Deciding::Enforced, length);
            context.recorder.judged(key.endpoint(), &tuple, judgement, context.counters);
            if !judgement.allow {
                return slot.drop(DropReason::PolicyDeny);
            }
            rule = Some(judgement.rule);
            if out {
                let judgement = super::host::forward_out(context, &tuple);
                if !super::host::note(context, slot, &tuple, judgement) {
                    return slot.drop(DropReason::PolicyDeny);
                }
            }
        }
    }
    let state = match key.protocol() {
        TCP => State::first(slot.parsed.tcp_flags),
        _ => State::Opening,
    };
    let for_pod = !out && service::is_translated(context, &key);
    if state == State::Reset {
        // A reset of something unknown may pass, and is nothing to remember.
        if for_pod {
            service::for_pod(context, slot);
        }
        return;
    }
    if !out && slot.at_node == AtNode::Translated {
        flags = flags.by_node();
    }
    let from_itself = slot.ingress == Ingress::Endpoint(key.endpoint());
    let is_hairpin = !out && !for_pod && slot.translated && from_itself;
    if is_hairpin && let Err(reason) = service::hairpin(context, slot) {
        return slot.drop(reason);
    }
    if for_pod || is_hairpin || out && slot.translated {
        flags = flags.translated();
    }
    let entry = FlowEntry {
        key,
        generation: context.generation,
        list,
        peer_class,
        last_seen: context.now,
        state,
        flags,
        ..FlowEntry::default()
    };
    let mut note = FlowNote::new(rule, staged, context.now, length);
    note.icmp = icmp;
    match context.flows.insert(slot.flow_hash, entry, note) {
        Ok((index, inserted)) => {
            context.counters.pipeline.flow_created.add(1);
            if let Some(window) = context.flows.window_mut(index) {
                *window = segment_of(slot).map_or_else(Window::default, |first| Window::new(&first));
            }
            match inserted {
                Inserted::Free => {}
                Inserted::Expired(gone) => {
                    context.counters.pipeline.flow_closed.add(1);
                    context.forget(&gone);
                }
                Inserted::Evicted(gone) => {
                    context.counters.pipeline.flow_evicted.add(1);
                    context.forget(&gone);
                }
            }
        }
        Err(_) => return slot.drop(DropReason::FlowTableFull),
    }
    if flags.is_translated() && !out {
        service::for_pod(context, slot);
    }
}

/// Whether the policy of an endpoint allows a packet to it that is not to be tracked; drops it if not.
pub(super) fn judge_untracked(
    context: &mut Context,
    slot: &mut Slot,
    endpoint: EndpointIndex,
    tuple: &FlowTuple,
) -> bool {
    if let Some(reason) = source::out_of_place(context, slot) {
        slot.drop(reason);
        return false;
    }
    let Some(Grounds { list, peer_class, .. }) = Grounds::of(context, endpoint, tuple.peer_address, false)
    else {
        slot.drop(DropReason::EndpointNotReady);
        return false;
    };
    let judgement = context.tables.policy.judge(list, peer_class, tuple);
    context.count_packet(judgement.rule, slot.packet.len());
    context.recorder.judged(endpoint, tuple, judgement, context.counters);
    if !judgement.allow {
        slot.drop(DropReason::PolicyDeny);
    }
    judgement.allow
}

/// An ICMP error passes when it is about a flow that we know and that is still allowed.
fn related(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex, out: bool, about: &Quoted) {
    // The error quotes a packet that went the other way.
    let (local, remote) = if out {
        ((about.destination, about.destination_port), (about.source, about.source_port))
    } else {
        ((about.source, about.source_port), (about.destination, about.destination_port))
    };
    let mut key = FlowKey::new(endpoint, about.protocol, local, remote);
    let mut found = context.flows.find(&key, context.flows.hash(&key), None);
    let is_known = found.is_some_and(|index| !context.flows.entry(index).flags.is_translated());
    if out
        && !is_known
        && let Some(wire) = service::error_of_pod(context, slot, about, &key)
    {
        key = wire;
        found = context.flows.find(&key, context.flows.hash(&key), None);
    }
    match found {
        Some(index) if still_allowed(context, index) => {
            context.counters.pipeline.flow_related.add(1);
            let flags = context.flows.entry(index).flags;
            if out && !flags.is_out() {
                answer_by_origin(slot, flags);
            }
            if out && flags.is_by_node() {
                node::answer_error(context, slot, about);
            } else if !out && flags.is_translated() && !service::error_for_pod(context, slot, about, &key) {
                slot.drop(DropReason::NatUnknown);
            }
        }
        // We complain about what was no flow yet, too.
        _ if slot.ingress == Ingress::Ourselves => {
            if !out {
                service::error_for_pod(context, slot, about, &key);
            }
        }
        _ => slot.drop(DropReason::RelatedUnknown),
    }
}
