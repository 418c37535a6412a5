//! Errors that a router owes a packet's sender (RFC 1812, 4.3): time exceeded, fragmentation needed, unreachable. They
//! are limited in rate, and start their way at the route like any packet of ours.

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::icmpv4::{self, Repr, UnreachableCode};
use caracal_wire::{EtherType, Ipv4, MacAddr, ethernet};

use crate::batch::{Ingress, Slot};
use crate::packet::Packet;
use crate::stage::Context;

/// Room in front of an answer for a tunnel header.
const HEADROOM: usize = 128;

/// The packet's time to live ran out here.
#[cold]
pub fn time_exceeded(context: &mut Context, slot: &Slot) {
    send(context, slot, Repr::TtlExceeded);
}

/// The packet is longer than `mtu` bytes and asked not to be fragmented (RFC 1191).
#[cold]
pub fn fragmentation_needed(context: &mut Context, slot: &Slot, mtu: u16) {
    send(context, slot, Repr::FragmentationNeeded { mtu });
}

/// What there is no way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The network.
    Net,
    /// The host.
    Host,
}

/// There is no way to the packet's destination.
#[cold]
pub fn unreachable(context: &mut Context, slot: &Slot, what: Unreachable) {
    let code = match what {
        Unreachable::Net => UnreachableCode::NET,
        Unreachable::Host => UnreachableCode::HOST,
    };
    send(context, slot, Repr::Unreachable(code));
}

fn send(context: &mut Context, slot: &Slot, error: Repr) {
    // Our own errors cause none.
    if slot.ingress == Ingress::Ourselves {
        return;
    }
    let Some(source) = source(context, slot) else { return };
    let Some(bytes) = slot.packet.head.data().get(usize::from(slot.parsed.l3)..) else { return };
    let Ok(datagram) = Ipv4::new_quoted(bytes) else { return };
    if !icmpv4::may_be_answered(&datagram) {
        return;
    }
    if !context.icmp_limit.allow(context.now) {
        context.counters.pipeline.icmp_errors_suppressed.add(1);
        return;
    }
    let Some(mut frame) = context.pool.take() else {
        context.counters.pipeline.icmp_errors_suppressed.add(1);
        return;
    };
    frame.reset(HEADROOM);
    if write(error, source, &datagram, &mut frame).is_none() {
        context.pool.put(frame);
        return;
    }
    context.counters.pipeline.icmp_errors_sent.add(1);
    context.answers.push(Slot::new(Packet::new(frame), Ingress::Ourselves));
}

fn write(
    error: Repr,
    source: Ipv4Addr,
    datagram: &Ipv4<&[u8]>,
    frame: &mut caracal_xsk::Frame,
) -> Option<()> {
    let bytes = frame.append(ethernet::HEADER_LEN + icmpv4::ERROR_LEN_MAX)?;
    let (link, datagram_out) = bytes.split_at_mut_checked(ethernet::HEADER_LEN)?;
    // The addresses are written when the answer has found its way.
    let header =
        ethernet::Repr { destination: MacAddr::ZERO, source: MacAddr::ZERO, ether_type: EtherType::IPV4 };
    header.emit(link).ok()?;
    let len = icmpv4::emit_error(error, source, datagram, datagram_out).ok()?;
    frame.truncate(ethernet::HEADER_LEN + len);
    Some(())
}

/// Which of our addresses speaks: the tunnel's to what came by a tunnel, else the node's.
fn source(context: &Context, slot: &Slot) -> Option<Ipv4Addr> {
    let node = context.tables.node.config()?;
    let address = match slot.ingress {
        Ingress::Tunnel(_) => node.tunnel_address.unwrap_or(node.address),
        _ => node.address,
    };
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}
