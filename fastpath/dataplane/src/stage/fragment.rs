//! Datagrams in parts: the ports of the first part are those of all, so that flows, policy and translation see one flow.
//! What that takes is in [`crate::fragment`]; parts are never put together.
//!
//! Runs wherever flows are looked up next, by the worker that has them: after the source check for what an endpoint
//! sends, before ingress policy for what it receives, and before the route for what the node may translate. A part whose
//! first one has not come yet leaves the batch; when that comes, it goes on behind it.

use caracal_wire::{Ipv6, ipv4};

use crate::batch::{Batch, Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::fragment::{DatagramKey, Fate, Part, Refusal, Scope, Upper};
use crate::stage::Context;
use crate::stage::parse::Fragment;
use crate::table::FibEntry;

/// The half of the pipeline that a batch is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// What endpoints send.
    Out,
    /// What endpoints receive.
    In,
}

/// As [`track`], for what endpoints send or receive.
#[cold]
pub fn track_half(context: &mut Context, batch: &mut Batch, half: Half) {
    track(context, batch, |slot| match (half, slot.ingress, slot.deliver_to) {
        (Half::Out, Ingress::Endpoint(endpoint), _) => Some(Scope::From(endpoint)),
        (Half::In, _, Some(endpoint)) => Some(Scope::To(endpoint)),
        _ => None,
    });
}

/// As [`track`], for what comes to the node itself or passes it: services are asked for, and answers to what the node has
/// translated known, by ports. All parts of a datagram come in by one queue, since devices spread them by addresses
/// alone, and so to one worker; the worker to which that one hands them over sees them in its order.
#[cold]
pub fn track_at_node(context: &mut Context, batch: &mut Batch) {
    let tables = context.tables;
    track(context, batch, |slot| {
        let is_from_here = matches!(slot.ingress, Ingress::Endpoint(_) | Ingress::Ourselves);
        let is_for_pod = matches!(tables.fib.lookup(slot.parsed.destination), Some(FibEntry::Endpoint(_)));
        (!is_from_here && !is_for_pod).then_some(Scope::Node)
    });
}

/// Gives parts of datagrams the ports of their first one. `scope`: who sees a part here; nobody: it goes on as it is.
/// Packets that are whole are left alone.
pub fn track(context: &mut Context, batch: &mut Batch, scope: impl Fn(&Slot) -> Option<Scope>) {
    let mut at = 0;
    while let Some(slot) = batch.get_mut(at) {
        at += 1;
        if !slot.goes_on() || slot.parsed.fragment == Fragment::No {
            continue;
        }
        let Some(scope) = scope(slot) else { continue };
        let Some((key, part)) = read(slot, scope) else {
            slot.drop(DropReason::FragmentMalformed);
            continue;
        };
        let first = (slot.parsed.fragment == Fragment::First).then(|| upper(slot));
        match context.fragments.meet(key, part, first, context.now) {
            Fate::Pass(upper) => tell(slot, &upper),
            Fate::Drop(refusal) => slot.drop(reason(refusal)),
            Fate::Hold => {
                at -= 1;
                let slot = batch.remove(at);
                let frames = slot.packet.segments().count();
                context.counters.pipeline.fragments_held.add(1);
                context.fragments.hold(&key, slot, frames);
                continue;
            }
        }
        if let Some(upper) = first {
            while let Some(mut held) = context.fragments.released() {
                tell(&mut held, &upper);
                batch.insert(at, held);
                at += 1;
            }
        }
    }
}

/// Why a part goes nowhere.
#[must_use]
pub fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Malformed => DropReason::FragmentMalformed,
        Refusal::Overlap => DropReason::FragmentOverlap,
        Refusal::Duplicate => DropReason::FragmentDuplicate,
        Refusal::Full => DropReason::FragmentTableFull,
        Refusal::Expired => DropReason::FragmentExpired,
    }
}

/// Which part of which datagram a packet is, if it is one.
fn read(slot: &Slot, scope: Scope) -> Option<(DatagramKey, Part)> {
    let parsed = &slot.parsed;
    let header = slot.packet.head.data().get(usize::from(parsed.l3)..)?;
    let key = |protocol, identification| DatagramKey {
        scope,
        source: parsed.source,
        destination: parsed.destination,
        protocol,
        identification,
    };
    if parsed.source.is_ipv4() {
        let header: &[u8; ipv4::HEADER_LEN] = header.first_chunk()?;
        let word = u16::from_be_bytes([header[6], header[7]]);
        let identification = u16::from_be_bytes([header[4], header[5]]);
        let part = Part {
            offset: (word & ipv4::FRAGMENT_OFFSET) << 3,
            len: parsed.ip_len.checked_sub(ipv4::HEADER_LEN as u16)?,
            more: word & ipv4::MORE_FRAGMENTS != 0,
        };
        Some((key(header[9], u32::from(identification)), part))
    } else {
        let upper = Ipv6::new_quoted(header).ok()?.upper_layer().ok()?;
        let fragment = upper.fragment?;
        // Extension headers behind the fragment header are in the first part and count as its content.
        let len = parsed.ip_len.checked_sub(u16::try_from(fragment.end).ok()?)?;
        let part = Part { offset: fragment.offset, len, more: fragment.more };
        Some((key(0, fragment.identification), part))
    }
}

fn upper(slot: &Slot) -> Upper {
    let parsed = &slot.parsed;
    Upper {
        protocol: parsed.protocol,
        source_port: parsed.source_port,
        destination_port: parsed.destination_port,
        icmp: parsed.icmp,
    }
}

fn tell(slot: &mut Slot, upper: &Upper) {
    let parsed = &mut slot.parsed;
    parsed.protocol = upper.protocol;
    parsed.source_port = upper.source_port;
    parsed.destination_port = upper.destination_port;
    parsed.icmp = upper.icmp;
}
