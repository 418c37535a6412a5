//! What the node itself translates: services that are asked from outside or by this host, and all that comes back to a
//! port of the node's.
//!
//! ```text
//!   from uplink or host, for no pod:  service's?     ─► owner: hash(protocol, client) ┐  known? else choose a backend
//!                                     node's port?   ─► owner: the port's slice       ├─► rewrite ─► route
//!   from a pod, its flow says so:     ────────────────► owner: hash(protocol, client) ┘
//! ```
//!
//! A pod that serves sees its client's own address. Whoever serves elsewhere must answer to this node, so the packet
//! leaves with an address of the node's, that of the tunnel where it goes through one, and with a port of the owner's.
//! This host is spoken to in the name of the service: what it answers comes back to us only if it is not for an address
//! that it reaches by itself.

use std::net::IpAddr;

use caracal_wire::Protocol;

use crate::batch::{AtNode, Egress, Ingress, Slot, Step, Verdict};
use crate::drop_reason::DropReason;
use crate::flow::FlowKey;
use crate::nat::rewrite;
use crate::nat::table::{NODE, key};
use crate::nat::{Origin, Ports, Socket, Translation, owner};
use crate::stage::parse::{Icmp, Quoted, quoted};
use crate::stage::service::{
    back, cannot, choose, destination, error_forward, forward, frontend, given, insert, recall,
};
use crate::stage::{Context, host, route, service, source};
use crate::table::service::client_hash;
use crate::table::{Asker, Encapsulation, FibEntry, NodeConfig};
use crate::worker::WorkerIndex;

/// Takes a packet that is for no endpoint to whoever may have translated it. False: nobody, it goes on as it is.
#[inline]
pub fn enter(context: &mut Context, slot: &mut Slot) -> bool {
    let is_from_here = matches!(slot.ingress, Ingress::Endpoint(_) | Ingress::Ourselves);
    slot.at_node == AtNode::NotAsked && !is_from_here && to_owner(context, slot)
}

#[inline(never)]
fn to_owner(context: &mut Context, slot: &mut Slot) -> bool {
    let Some(owner) = owner_of(context, slot) else { return false };
    if owner == context.worker {
        at_owner(context, slot);
    } else {
        slot.verdict = Verdict::HandOver(owner, Step::Node(slot.ingress));
    }
    true
}

/// Who owns the translation of a packet, if there is one.
fn owner_of(context: &Context, slot: &Slot) -> Option<WorkerIndex> {
    let (tables, parsed) = (context.tables, &slot.parsed);
    let ports = Ports::of(tables.node.config(), tables.workers);
    if let Icmp::Error(..) = parsed.icmp {
        let about = quoted(slot)?;
        let sender = (about.source, about.source_port);
        return match frontend(tables, about.protocol, sender) {
            Some(_) => {
                let client = (about.destination, about.destination_port);
                Some(owner(about.protocol, client, tables.workers))
            }
            None => ports.owner(about.source_port),
        };
    }
    let is_from_tunnel = matches!(slot.ingress, Ingress::Tunnel(_));
    if !is_from_tunnel && frontend(tables, parsed.protocol, destination(parsed)).is_some() {
        return Some(owner(parsed.protocol, service::source(parsed), tables.workers));
    }
    ports.owner(parsed.destination_port)
}

/// At the worker that owns what may have been translated: does it, and goes on to the route.
pub fn at_owner(context: &mut Context, slot: &mut Slot) {
    translate_here(context, slot);
    if slot.goes_on() {
        route::again(context, slot);
    }
}

/// A pod answers a client of a service of the node's.
pub fn answer(context: &mut Context, slot: &mut Slot) {
    let client = destination(&slot.parsed);
    hand(context, slot, owner(slot.parsed.protocol, client, context.tables.workers));
}

/// A pod complains about a packet of such a client.
pub fn answer_error(context: &mut Context, slot: &mut Slot, about: &Quoted) {
    let client = (about.source, about.source_port);
    hand(context, slot, owner(about.protocol, client, context.tables.workers));
}

fn hand(context: &mut Context, slot: &mut Slot, owner: WorkerIndex) {
    if owner == context.worker {
        translate_here(context, slot);
    } else {
        slot.verdict = Verdict::HandOver(owner, Step::Node(slot.ingress));
    }
}

fn translate_here(context: &mut Context, slot: &mut Slot) {
    let result = match slot.parsed.icmp {
        Icmp::Error(..) => match quoted(slot) {
            Some(about) => translate_error(context, slot, &about),
            None => Err(DropReason::L4Truncated),
        },
        _ => translate(context, slot),
    };
    match result {
        Ok(true) => slot.at_node = AtNode::Translated,
        // What a pod has sent to somebody's client must not leave as it is.
        Ok(false) if matches!(slot.ingress, Ingress::Endpoint(_)) => slot.drop(DropReason::NatUnknown),
        Ok(false) => slot.at_node = AtNode::Itself,
        Err(reason) => slot.drop(reason),
    }
}

/// False: the packet is for whom it says.
fn translate(context: &mut Context, slot: &mut Slot) -> Result<bool, DropReason> {
    let protocol = slot.parsed.protocol;
    let (from, to) = (service::source(&slot.parsed), destination(&slot.parsed));
    let inside = key(NODE, protocol, from, to);
    if let Some(index) = context.translations.by_inside(&inside, context.now) {
        in_place(context, slot)?;
        let translation = context.translations.get(index);
        if context.tables.host_endpoints.have_changed_since(translation.generation)
            && !host::admit_translated(context, slot, translation.wire.remote(), to)
        {
            context.translations.remove(index);
            return Err(DropReason::PolicyDeny);
        }
        if recall(context, &slot.parsed, index)? {
            forward(context, slot, index)?;
            return Ok(true);
        }
    }
    if let Some(index) = context.translations.by_wire(&key(NODE, protocol, to, from), context.now) {
        in_place(context, slot)?;
        leave_by_origin(slot, context.translations.get(index).origin);
        back(context, slot, index)?;
        return Ok(true);
    }
    let asker = match slot.ingress {
        Ingress::Host => Asker::Inside,
        Ingress::Uplink(_) | Ingress::Forward => Asker::Outside,
        _ => return Ok(false),
    };
    let Some(frontend) = frontend(context.tables, protocol, to) else { return Ok(false) };
    in_place(context, slot)?;
    let (index, backend) = choose(context, slot, frontend, asker)?;
    let remote = (backend.address, backend.port);
    // With an address of ours it would be taken for a tunnel packet of ours.
    let vxlan_port = context.tables.node.config().map(|node| node.vxlan_port);
    if protocol == Protocol::UDP.0
        && Some(backend.port) == vxlan_port
        && context.tables.tunnels.by_source(backend.address).is_some()
    {
        return Err(DropReason::NatImpossible);
    }
    if !host::admit_translated(context, slot, remote, to) {
        return Err(DropReason::PolicyDeny);
    }
    let wire = match source_towards(context, index, backend.address)? {
        None => with_own_address(context, protocol, from, remote)?,
        Some(address) => with_node_port(context, protocol, (address, from.1), remote)?,
    };
    let origin = match slot.ingress {
        Ingress::Host => Origin::Host,
        Ingress::Forward => Origin::Forward,
        _ => Origin::Route,
    };
    let translation = Translation::new(inside, wire, slot.parsed.tcp_flags, context.now);
    let translation = translation.of_service(index, context.generation);
    let made = insert(context, translation.from(origin))?;
    forward(context, slot, made)?;
    given(context, index, from.0, backend);
    Ok(true)
}

/// Nobody answers, asks or complains in another's name: see [`source::out_of_place`].
fn in_place(context: &Context, slot: &Slot) -> Result<(), DropReason> {
    source::out_of_place(context, slot).map_or(Ok(()), Err)
}

/// With which source a packet goes to a backend; none: with its own.
fn source_towards(
    context: &Context,
    service: crate::table::ServiceIndex,
    backend: IpAddr,
) -> Result<Option<IpAddr>, DropReason> {
    let (tables, ipv4) = (context.tables, backend.is_ipv4());
    let node = tables.node.config().ok_or(DropReason::NatImpossible)?;
    let address = match tables.fib.lookup(backend) {
        Some(FibEntry::LocalHost) => {
            tables.services.get(service).and_then(|service| service.internal_address(ipv4))
        }
        Some(FibEntry::Tunnel { encapsulation, .. }) => end_of(node, *encapsulation, ipv4),
        Some(FibEntry::Via { source, .. }) => outgoing_address(node, ipv4, *source),
        // There is no way, or it needs no other source.
        Some(FibEntry::Endpoint(_) | FibEntry::Service | FibEntry::Blackhole) | None => return Ok(None),
    };
    address.ok_or(DropReason::NatImpossible).map(Some)
}

/// The address that this node has behind a tunnel.
#[must_use]
pub fn end_of(node: &NodeConfig, encapsulation: Encapsulation, ipv4: bool) -> Option<IpAddr> {
    let behind_vxlan = match ipv4 {
        true => node.vtep_v4.and_then(|vtep| vtep.address).map(IpAddr::V4),
        false => node.vtep_v6.and_then(|vtep| vtep.address).map(IpAddr::V6),
    };
    let behind = match encapsulation {
        Encapsulation::Vxlan | Encapsulation::VxlanOverIpv6 => behind_vxlan,
        Encapsulation::Ipip => node.ipip_address.map(IpAddr::V4),
        Encapsulation::None => None,
    };
    behind.or(node.address(ipv4))
}

/// The address that stands for pods' outside: the configured one, else that which the host takes for a route, else the
/// node's.
#[must_use]
pub fn outgoing_address(node: &NodeConfig, ipv4: bool, of_route: Option<IpAddr>) -> Option<IpAddr> {
    let configured = node.nat_outgoing.as_ref().and_then(|nat| nat.address).filter(|_| ipv4);
    let of_route = of_route.filter(|address| address.is_ipv4() == ipv4);
    configured.map(IpAddr::V4).or(of_route).or(node.address(ipv4))
}

/// A key on the wire with a client's own address, and its own port if that is not another connection's; another that
/// has the same owner if it is.
fn with_own_address(
    context: &mut Context,
    protocol: u8,
    client: Socket,
    remote: Socket,
) -> Result<FlowKey, DropReason> {
    const TRIED: u64 = 256;
    let hash = client_hash(protocol, client, remote);
    let others = (0..TRIED).map(|i| 1024 + (hash.wrapping_add(i) % 64_512) as u16);
    let (worker, workers) = (context.worker, context.tables.workers);
    std::iter::once(client.1)
        .chain(others.filter(|port| owner(protocol, (client.0, *port), workers) == worker))
        .map(|port| key(NODE, protocol, (client.0, port), remote))
        .find(|wire| context.translations.by_wire(wire, context.now).is_none())
        .ok_or(DropReason::NatClash)
}

/// A key on the wire with an address of the node's and a port of this worker's.
///
/// # Errors
/// When all that were tried are taken.
pub fn with_node_port(
    context: &mut Context,
    protocol: u8,
    (address, own): Socket,
    remote: Socket,
) -> Result<FlowKey, DropReason> {
    let ports = Ports::of(context.tables.node.config(), context.tables.workers);
    let hash = client_hash(protocol, (address, own), remote);
    let free = ports
        .candidates(context.worker, own, hash)
        .map(|port| key(NODE, protocol, (address, port), remote))
        .find(|wire| context.translations.by_wire(wire, context.now).is_none());
    free.ok_or_else(|| {
        context.counters.pipeline.nat_ports_exhausted.add(1);
        DropReason::NatPortsExhausted
    })
}

/// What goes back to this host leaves by the port that it came from.
fn leave_by_origin(slot: &mut Slot, origin: Origin) {
    match origin {
        Origin::Route => {}
        Origin::Host => slot.verdict = Verdict::Transmit(Egress::Host),
        Origin::Forward => slot.verdict = Verdict::Transmit(Egress::Forward),
    }
}

/// An ICMP error about a packet that may have been translated here. False: it has not been.
fn translate_error(context: &mut Context, slot: &mut Slot, about: &Quoted) -> Result<bool, DropReason> {
    let (sender, receiver) = ((about.source, about.source_port), (about.destination, about.destination_port));
    let sent = key(NODE, about.protocol, sender, receiver);
    if let Some(index) = context.translations.by_wire(&sent, context.now) {
        in_place(context, slot)?;
        let Translation { inside, wire, origin, .. } = *context.translations.get(index);
        leave_by_origin(slot, origin);
        error_back(slot, about, &inside, &wire)?;
        return Ok(true);
    }
    let received = key(NODE, about.protocol, receiver, sender);
    if let Some(index) = context.translations.by_inside(&received, context.now) {
        in_place(context, slot)?;
        error_forward(context, slot, about, index)?;
        return Ok(true);
    }
    Ok(false)
}

/// The packet complained about was sent by whoever opened the connection.
fn error_back(slot: &mut Slot, about: &Quoted, inside: &FlowKey, wire: &FlowKey) -> Result<(), DropReason> {
    let from = slot.parsed.source;
    let from = if from == wire.remote().0 { inside.remote().0 } else { from };
    let addresses = [from, inside.local().0];
    rewrite::rewrite_error(slot, about, addresses, [inside.local(), inside.remote()]).map_err(cannot)
}

/// An ICMP error of our own quotes the packet as it was when we gave it up: whoever sent it must be able to read it.
pub fn error_of_ours(context: &mut Context, slot: &mut Slot) {
    let Icmp::Error(..) = slot.parsed.icmp else { return };
    let Some(about) = quoted(slot) else { return };
    match translate_error(context, slot, &about) {
        Ok(true) => return slot.at_node = AtNode::Translated,
        Ok(false) => {}
        Err(reason) => return slot.drop(reason),
    }
    // A packet for a pod here, which another worker has translated.
    let Some(FibEntry::Endpoint(endpoint)) = context.tables.fib.lookup(about.destination) else { return };
    let local = (about.destination, about.destination_port);
    let flow = FlowKey::new(*endpoint, about.protocol, local, (about.source, about.source_port));
    let hash = context.flows.hash(&flow);
    if let Some(index) = context.flows.find(&flow, hash, None)
        && context.flows.entry(index).flags.is_by_node()
    {
        answer_error(context, slot, &about);
    }
}
