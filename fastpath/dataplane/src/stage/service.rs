//! Services that pods ask. A pod's packet to a service is given another destination before policy judges it, and what
//! comes back is given the service's source again: the pod's flow is the one with the backend.
//!
//! ```text
//!   pod's flow as sent? ─ yes ─► go on (nothing here is asked)
//!        │ no
//!        ▼
//!   translation known? ─► service? ─► backend: affinity, else Maglev ─► rewrite ─► flow with the backend
//!        the same wire flow is another connection's already? another local port
//! ```
//!
//! Two connections that would be one on the wire (a pod that asks two services with the same backend, or a service and
//! its backend directly, from one port) are told apart by another port of the pod's. A pod that is its own backend sees
//! the node's address as its client, else it would take the packet for a forged one (hairpin).

use std::net::IpAddr;

use caracal_wire::Protocol;
use caracal_wire::tcp::Flags;

use crate::batch::Slot;
use crate::drop_reason::DropReason;
use crate::flow::{FlowKey, Way};
use crate::nat::rewrite::{self, CannotRewrite};
use crate::nat::table::key;
use crate::nat::{Ports, Socket, Translation, TranslationIndex, TranslationsFull};
use crate::stage::parse::{Parsed, Quoted};
use crate::stage::{Context, tcp_reset};
use crate::table::service::client_hash;
use crate::table::{Asker, Backend, EndpointIndex, FibEntry, Frontend, ServiceIndex, Tables};

/// What is known of a packet that is no known flow's as its pod has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is for whom it says.
    Itself,
    /// It has been rewritten.
    Translated {
        /// By a translation that this packet has made.
        fresh: bool,
    },
    /// It is dropped.
    Dropped,
}

/// Where a packet is from.
#[inline]
#[must_use]
pub fn source(parsed: &Parsed) -> Socket {
    (parsed.source, parsed.source_port)
}

/// Where it is to.
#[inline]
#[must_use]
pub fn destination(parsed: &Parsed) -> Socket {
    (parsed.destination, parsed.destination_port)
}

/// Looks for the translation of a packet that `endpoint` sends, and makes it if a service is asked. `taken`: the flow of
/// the packet as sent is one that has been translated.
pub fn ask(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex, taken: bool) -> Asked {
    match try_ask(context, slot, endpoint, taken) {
        Ok(asked) => asked,
        Err(reason) => {
            slot.drop(reason);
            Asked::Dropped
        }
    }
}

fn try_ask(
    context: &mut Context,
    slot: &mut Slot,
    endpoint: EndpointIndex,
    taken: bool,
) -> Result<Asked, DropReason> {
    let inside = slot.flow_key;
    if let Some(index) = context.translations.by_inside(&inside, context.now)
        && recall(context, &slot.parsed, index)?
    {
        forward(context, slot, index)?;
        return Ok(Asked::Translated { fresh: false });
    }
    let protocol = slot.parsed.protocol;
    let (client, asked) = (source(&slot.parsed), destination(&slot.parsed));
    let chosen = match frontend(context.tables, protocol, asked) {
        Some(frontend) => {
            let chosen = choose(context, slot, frontend, Asker::Inside)?;
            // What a pod may not send to a node, it may not have a service send for it.
            let node = context.tables.node.config();
            if node.is_some_and(|node| super::source::is_pods_vxlan(node, protocol, chosen.1.port)) {
                return Err(DropReason::PodSentTunnel);
            }
            Some(chosen)
        }
        None if context.translations.by_wire(&inside, context.now).is_some() => None,
        None => {
            if taken {
                // Of a flow whose translation has gone.
                forget_flow(context, &inside);
            }
            if context.tables.fib.lookup(asked.0) == Some(&FibEntry::Service) {
                tcp_reset::refuse(context, slot);
                return Err(DropReason::ServiceNoPort);
            }
            return Ok(Asked::Itself);
        }
    };
    let remote = chosen.map_or(asked, |(_, backend)| (backend.address, backend.port));
    let hash = client_hash(protocol, client, remote);
    let wire = std::iter::once(client.1)
        .chain(other_ports(protocol, hash))
        .map(|port| key(endpoint, protocol, (client.0, port), remote))
        .find(|wire| is_free(context, wire))
        .ok_or(DropReason::NatClash)?;
    let mut translation = Translation::new(inside, wire, slot.parsed.tcp_flags, context.now);
    if let Some((service, _)) = chosen {
        translation = translation.of_service(service, context.generation);
    }
    let index = insert(context, translation)?;
    forward(context, slot, index)?;
    if let Some((service, backend)) = chosen {
        given(context, service, client.0, backend);
    }
    Ok(Asked::Translated { fresh: true })
}

/// Local ports to try where the pod's own is taken.
fn other_ports(protocol: u8, hash: u64) -> impl Iterator<Item = u16> {
    const FIRST: u16 = 1024;
    const TRIED: u64 = 64;
    let tried = if has_ports(protocol) { TRIED } else { 0 };
    (0..tried).map(move |i| FIRST + (hash.wrapping_add(i) % u64::from(u16::MAX - FIRST)) as u16)
}

/// Whether a protocol has ports that can be changed.
#[must_use]
pub fn has_ports(protocol: u8) -> bool {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&Protocol(protocol))
}

/// Whether no connection of an endpoint's looks like this on the wire.
fn is_free(context: &mut Context, wire: &FlowKey) -> bool {
    if context.translations.by_wire(wire, context.now).is_some() {
        return false;
    }
    let hash = context.flows.hash(wire);
    match context.flows.find(wire, hash, None) {
        // A flow that was translated is no longer, or the translation would have been found.
        Some(index) => {
            let entry = context.flows.entry(index);
            entry.flags.is_translated() || context.flows.has_expired(entry, context.now)
        }
        None => true,
    }
}

fn forget_flow(context: &mut Context, flow: &FlowKey) {
    let hash = context.flows.hash(flow);
    if let Some(index) = context.flows.find(flow, hash, None)
        && let Some(gone) = context.flows.remove(index)
    {
        context.counters.pipeline.flow_closed.add(1);
        context.forget(&gone);
    }
}

/// Adds a translation.
///
/// # Errors
/// When there is no room.
pub fn insert(context: &mut Context, translation: Translation) -> Result<TranslationIndex, DropReason> {
    let index = context.translations.insert(translation);
    let index = index.map_err(|TranslationsFull| DropReason::NatTableFull)?;
    context.counters.pipeline.translations_made.add(1);
    Ok(index)
}

/// Whether a translation is still that of a packet which its opener sends. One that is over, or whose backend serves no
/// more, is forgotten.
///
/// # Errors
/// When the packet goes with it: it is of a connection to a backend that is gone.
pub fn recall(context: &mut Context, parsed: &Parsed, index: TranslationIndex) -> Result<bool, DropReason> {
    let translation = context.translations.get(index);
    let opens = parsed.tcp_flags.contains(Flags::SYN) && !parsed.tcp_flags.contains(Flags::ACK);
    if opens && translation.state.may_be_reused() {
        context.translations.remove(index);
        return Ok(false);
    }
    let Some(service) = translation.service().filter(|_| translation.generation != context.generation) else {
        return Ok(true);
    };
    let backend = translation.backend();
    if context.tables.services.get(service).is_some_and(|service| service.keeps(&backend)) {
        context.translations.get_mut(index).generation = context.generation;
        return Ok(true);
    }
    context.translations.remove(index);
    if opens { Ok(false) } else { Err(DropReason::ServiceBackendGone) }
}

/// What answers to an address and port, if not whoever has the address.
#[inline]
#[must_use]
pub fn frontend(tables: &Tables, protocol: u8, asked: Socket) -> Option<&Frontend> {
    let (address, port) = asked;
    if let Some(frontend) = tables.services.by_address(address, protocol, port) {
        return Some(frontend);
    }
    let frontend = tables.services.by_node_port(protocol, port)?;
    let ports = tables.node.config()?.node_ports.as_ref()?;
    let is_named =
        ports.addresses.is_empty() || ports.addresses.iter().any(|prefix| prefix.contains(address));
    (is_named && matches!(tables.fib.lookup(address), Some(FibEntry::LocalHost))).then_some(frontend)
}

/// Who is to serve the sender of a packet.
///
/// # Errors
/// When nobody is; who may ask, and is told so, has been told.
pub fn choose(
    context: &mut Context,
    slot: &Slot,
    frontend: &Frontend,
    asker: Asker,
) -> Result<(ServiceIndex, Backend), DropReason> {
    let (client, asked) = (source(&slot.parsed), destination(&slot.parsed));
    let index = frontend.service;
    let service = context.tables.services.get(index).ok_or(DropReason::ServiceNoBackend)?;
    if !frontend.admits(client.0) {
        return Err(DropReason::ServiceSourceRange);
    }
    let (backends, is_local) = service.backends(frontend, asker);
    let mut from = client;
    if service.affinity_ms != 0 {
        from.1 = 0;
        let kept = context.affinity.get(client.0, index, service.affinity_ms, context.now);
        if let Some(kept) = kept.filter(|kept| backends.contains(kept)) {
            return Ok((index, kept));
        }
    }
    let hash = client_hash(slot.parsed.protocol, from, asked);
    if let Some(backend) = backends.choose(hash, client.0.is_ipv4()) {
        return Ok((index, backend));
    }
    if let Some(counts) = service.counts.get(usize::from(context.worker.0)) {
        counts.refused.add(1);
    }
    if is_local {
        return Err(DropReason::ServiceNoLocalBackend);
    }
    tcp_reset::refuse(context, slot);
    Err(DropReason::ServiceNoBackend)
}

/// Notes that a client has been given a backend.
pub fn given(context: &mut Context, index: ServiceIndex, client: IpAddr, backend: Backend) {
    let Some(service) = context.tables.services.get(index) else { return };
    if let Some(counts) = service.counts.get(usize::from(context.worker.0)) {
        counts.connections.add(1);
    }
    if service.affinity_ms != 0 {
        context.affinity.set(client, index, backend, context.now);
    }
}

/// Rewrites a packet of whoever opened the connection.
///
/// # Errors
/// When it cannot be.
pub fn forward(context: &mut Context, slot: &mut Slot, index: TranslationIndex) -> Result<(), DropReason> {
    let translation = *context.translations.get(index);
    let way = if translation.answered_from_inside { Way::Reply } else { Way::Original };
    context.translations.touch(index, way, slot.parsed.tcp_flags, context.now);
    context.counters.pipeline.translated.add(1);
    rewrite::rewrite(slot, translation.wire.local(), translation.wire.remote()).map_err(cannot)
}

/// Rewrites a packet for whoever opened the connection.
///
/// # Errors
/// When it cannot be.
pub fn back(context: &mut Context, slot: &mut Slot, index: TranslationIndex) -> Result<(), DropReason> {
    let translation = *context.translations.get(index);
    let way = if translation.answered_from_inside { Way::Original } else { Way::Reply };
    context.translations.touch(index, way, slot.parsed.tcp_flags, context.now);
    context.counters.pipeline.translated.add(1);
    rewrite::rewrite(slot, translation.inside.remote(), translation.inside.local()).map_err(cannot)
}

pub(super) fn cannot(CannotRewrite: CannotRewrite) -> DropReason {
    DropReason::NatImpossible
}

/// Gives a packet for a pod, whose flow says that it has been translated, the addresses and ports that the pod knows.
pub fn for_pod(context: &mut Context, slot: &mut Slot) {
    let result = match context.translations.by_wire(&slot.flow_key, context.now) {
        Some(index) => back(context, slot, index),
        None => Err(DropReason::NatUnknown),
    };
    if let Err(reason) = result {
        slot.drop(reason);
    }
}

/// Forgets the translation of a first packet that came to nothing.
pub fn forget(context: &mut Context, inside: &FlowKey) {
    if let Some(index) = context.translations.by_inside(inside, context.now) {
        context.translations.remove(index);
    }
}

/// Whether the key is that of an endpoint's translated connection.
#[inline]
pub fn is_translated(context: &mut Context, wire: &FlowKey) -> bool {
    context.translations.by_wire(wire, context.now).is_some()
}

/// A pod has reached itself through a service: its client is to be the node. To be called with the first packet, as it
/// is known on the wire.
pub fn hairpin(context: &mut Context, slot: &Slot) -> Result<(), DropReason> {
    let wire = slot.flow_key;
    let (protocol, (local, remote)) = (wire.protocol(), (wire.local(), wire.remote()));
    let node = context.tables.node.config();
    let address = node.and_then(|node| node.address(local.0.is_ipv4())).ok_or(DropReason::NatImpossible)?;
    let ports = Ports::of(node, context.tables.workers);
    let hash = client_hash(protocol, remote, local);
    let inside = ports
        .candidates(context.worker, remote.1, hash)
        .map(|port| key(wire.endpoint(), protocol, local, (address, port)))
        .find(|inside| {
            let flow = context.flows.hash(inside);
            context.translations.by_inside(inside, context.now).is_none()
                && context.flows.find(inside, flow, None).is_none()
        })
        .ok_or(DropReason::NatPortsExhausted)?;
    let translation = Translation::new(inside, wire, slot.parsed.tcp_flags, context.now);
    insert(context, translation.opened_by_wire()).map(drop)
}

/// Gives an ICMP error that a pod sends the addresses on the wire, if the packet that it is about was translated; says
/// what its flow is on the wire.
pub fn error_of_pod(
    context: &mut Context,
    slot: &mut Slot,
    about: &Quoted,
    inside: &FlowKey,
) -> Option<FlowKey> {
    let index = context.translations.by_inside(inside, context.now)?;
    error_forward(context, slot, about, index).ok()?;
    Some(context.translations.get(index).wire)
}

/// Gives an ICMP error about an answer the addresses on the wire.
///
/// # Errors
/// When it cannot be.
pub fn error_forward(
    context: &mut Context,
    slot: &mut Slot,
    about: &Quoted,
    index: TranslationIndex,
) -> Result<(), DropReason> {
    let Translation { inside, wire, .. } = *context.translations.get(index);
    let swap = |address, from: Socket, to: Socket| if address == from.0 { to.0 } else { address };
    let addresses = [
        swap(slot.parsed.source, inside.local(), wire.local()),
        swap(slot.parsed.destination, inside.remote(), wire.remote()),
    ];
    rewrite::rewrite_error(slot, about, addresses, [wire.remote(), wire.local()]).map_err(cannot)
}

/// Gives an ICMP error for a pod the addresses that the pod knows. False: there is no such translation.
pub fn error_for_pod(context: &mut Context, slot: &mut Slot, about: &Quoted, wire: &FlowKey) -> bool {
    let Some(index) = context.translations.by_wire(wire, context.now) else { return false };
    let Translation { inside, .. } = *context.translations.get(index);
    let swap = |address, from: Socket, to: Socket| if address == from.0 { to.0 } else { address };
    let addresses = [
        swap(slot.parsed.source, wire.remote(), inside.remote()),
        swap(slot.parsed.destination, wire.local(), inside.local()),
    ];
    rewrite::rewrite_error(slot, about, addresses, [inside.local(), inside.remote()]).is_ok()
}
