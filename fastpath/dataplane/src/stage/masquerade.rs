//! Packets that leave with an address of this node's (natOutgoing): from a pod of a pool that says so, to no pool. And
//! what this host sends to pods of other nodes with another address than the tunnel's, which they could not answer; but
//! pods that nodes see as they are see nodes as they are.
//!
//! The translation is owned by the worker that the packet is at, the pod's or the host port's; its port is of that
//! worker's slice, by which [`super::node`] finds it again.

use std::net::IpAddr;

use caracal_wire::Protocol;

use crate::batch::{AtNode, Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::nat::table::{NODE, key};
use crate::nat::{Origin, Translation};
use crate::stage::parse::{Icmp, quoted};
use crate::stage::service::{destination, error_forward, forward, has_ports, insert, recall, source};
use crate::stage::{Context, node, rewrite};
use crate::table::{Encapsulation, NatOutgoing, Tables};

/// A packet of a pod's is about to leave by an uplink that carries so many bytes, where the host would take `address`.
#[inline]
pub fn outgoing(context: &mut Context, slot: &mut Slot, mtu: u16, address: Option<IpAddr>) {
    let Some(config) = context.tables.node.config() else { return };
    if config.nat_outgoing.is_none()
        || !matches!(slot.ingress, Ingress::Endpoint(_))
        || slot.at_node != AtNode::NotAsked
    {
        return;
    }
    // Its sender is going to be told about the packet as it was.
    let is_too_big = !rewrite::is_within(slot, mtu);
    if is_too_big && slot.parsed.dont_fragment {
        return;
    }
    if let Err(reason) = translate(context, slot, address) {
        slot.drop(reason);
    }
}

#[inline(never)]
fn translate(context: &mut Context, slot: &mut Slot, address: Option<IpAddr>) -> Result<(), DropReason> {
    let tables = context.tables;
    let Some(config) = tables.node.config() else { return Ok(()) };
    let Some(nat) = &config.nat_outgoing else { return Ok(()) };
    let is_wanted = |source, destination| is_to_be_translated(tables, nat, source, destination);
    if let Icmp::Error(..) = slot.parsed.icmp {
        let about = quoted(slot).ok_or(DropReason::L4Truncated)?;
        let local = (about.destination, about.destination_port);
        let received = key(NODE, about.protocol, local, (about.source, about.source_port));
        return match context.translations.by_inside(&received, context.now) {
            Some(index) => error_forward(context, slot, &about, index),
            None if is_wanted(slot.parsed.source, slot.parsed.destination) => Err(DropReason::NatUnknown),
            None => Ok(()),
        };
    }
    let (from, to) = (source(&slot.parsed), destination(&slot.parsed));
    let inside = key(NODE, slot.parsed.protocol, from, to);
    if let Some(index) = context.translations.by_inside(&inside, context.now)
        && recall(context, &slot.parsed, index)?
    {
        return forward(context, slot, index);
    }
    if !is_wanted(from.0, to.0) {
        return Ok(());
    }
    let address = node::outgoing_address(config, from.0.is_ipv4(), address);
    let address = address.ok_or(DropReason::NatImpossible)?;
    make(context, slot, address, Origin::Route)
}

/// This host sends to a pod of another node.
#[inline]
pub fn from_host(context: &mut Context, slot: &mut Slot, encapsulation: Encapsulation) {
    match slot.ingress {
        Ingress::Host => as_tunnel(context, slot, encapsulation, Origin::Host),
        Ingress::Forward => as_tunnel(context, slot, encapsulation, Origin::Forward),
        _ => {}
    }
}

#[inline(never)]
fn as_tunnel(context: &mut Context, slot: &mut Slot, encapsulation: Encapsulation, origin: Origin) {
    let Some(config) = context.tables.node.config() else { return };
    let end = node::end_of(config, encapsulation, slot.parsed.is_ipv4());
    let Some(end) = end.filter(|end| *end != slot.parsed.source && slot.at_node != AtNode::Translated) else {
        return;
    };
    if let Icmp::Error(..) = slot.parsed.icmp {
        let Some(about) = quoted(slot) else { return };
        let local = (about.destination, about.destination_port);
        let received = key(NODE, about.protocol, local, (about.source, about.source_port));
        if let Some(index) = context.translations.by_inside(&received, context.now)
            && let Err(reason) = error_forward(context, slot, &about, index)
        {
            slot.drop(reason);
        }
        return;
    }
    let inside = key(NODE, slot.parsed.protocol, source(&slot.parsed), destination(&slot.parsed));
    let known = context.translations.by_inside(&inside, context.now);
    let result = match known {
        Some(index) if recall(context, &slot.parsed, index) == Ok(true) => forward(context, slot, index),
        // It may be an answer: a question of that pod's has come to the host as it was.
        _ if config.owns(slot.parsed.source) && config.nodes_see(slot.parsed.destination) => Ok(()),
        _ => make(context, slot, end, origin),
    };
    if let Err(reason) = result {
        slot.drop(reason);
    }
}

/// Makes the translation of a packet to `address`, and rewrites it.
fn make(context: &mut Context, slot: &mut Slot, address: IpAddr, origin: Origin) -> Result<(), DropReason> {
    let (protocol, from, to) = (slot.parsed.protocol, source(&slot.parsed), destination(&slot.parsed));
    if !has_ports(protocol) && !is_question(slot) {
        return Err(DropReason::NatImpossible);
    }
    let wire = node::with_node_port(context, protocol, (address, from.1), to)?;
    let translation =
        Translation::new(key(NODE, protocol, from, to), wire, slot.parsed.tcp_flags, context.now);
    let index = insert(context, translation.from(origin))?;
    forward(context, slot, index)
}

/// Whether a packet is an ICMP message with an identifier, by which its answer is known.
fn is_question(slot: &Slot) -> bool {
    match slot.parsed.icmp {
        Icmp::Message(kind, _) if slot.parsed.protocol == Protocol::ICMPV4.0 => {
            matches!(kind, 8 | 13 | 15 | 17)
        }
        Icmp::Message(kind, _) => kind == 128,
        _ => false,
    }
}

/// Calico's rule: from a pool with natOutgoing, to no pool, to no node if those are excluded.
fn is_to_be_translated(tables: &Tables, nat: &NatOutgoing, source: IpAddr, destination: IpAddr) -> bool {
    let in_pool = |address| nat.pools.iter().filter(move |pool| pool.prefix.contains(address));
    in_pool(source).any(|pool| pool.nat_outgoing)
        && in_pool(destination).next().is_none()
        && !(nat.exclude_hosts && tables.tunnels.by_source(destination).is_some())
}
