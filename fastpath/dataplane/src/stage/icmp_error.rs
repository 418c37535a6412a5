//! Errors that a router owes a packet's sender (RFC 1812, 4.3; RFC 4443, 3): time exceeded, too big, unreachable. They
//! are limited in rate, and start their way at the route like any packet of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caracal_wire::{EtherType, Ipv4, Ipv6, MacAddr, ethernet, icmpv4, icmpv6};
use caracal_xsk::Frame;

use crate::batch::{Ingress, Slot};
use crate::stage::{Context, nd, source};

/// Room in front of an answer for a tunnel header.
pub(super) const HEADROOM: usize = 128;

/// What was wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    TimeExceeded,
    TooBig { mtu: u16 },
    Unreachable(Unreachable),
}

/// What there is no way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The network.
    Net,
    /// The host.
    Host,
    /// The port: nobody listens on it.
    Port,
}

/// The packet's time to live ran out here.
#[cold]
pub fn time_exceeded(context: &mut Context, slot: &Slot) {
    send(context, slot, Problem::TimeExceeded);
}

/// The packet is longer than `mtu` bytes and must not be fragmented (RFC 1191, RFC 8201).
#[cold]
pub fn too_big(context: &mut Context, slot: &Slot, mtu: u16) {
    send(context, slot, Problem::TooBig { mtu });
}

/// There is no way to the packet's destination.
#[cold]
pub fn unreachable(context: &mut Context, slot: &Slot, what: Unreachable) {
    send(context, slot, Problem::Unreachable(what));
}

impl Problem {
    fn v4(self) -> icmpv4::Repr {
        use icmpv4::{Repr, UnreachableCode};
        match self {
            Problem::TimeExceeded => Repr::TtlExceeded,
            Problem::TooBig { mtu } => Repr::FragmentationNeeded { mtu },
            Problem::Unreachable(Unreachable::Net) => Repr::Unreachable(UnreachableCode::NET),
            Problem::Unreachable(Unreachable::Host) => Repr::Unreachable(UnreachableCode::HOST),
            Problem::Unreachable(Unreachable::Port) => Repr::Unreachable(UnreachableCode::PORT),
        }
    }

    fn v6(self) -> icmpv6::Repr {
        use icmpv6::{Repr, UnreachableCode};
        match self {
            Problem::TimeExceeded => Repr::HopLimitExceeded,
            Problem::TooBig { mtu } => Repr::PacketTooBig { mtu: u32::from(mtu) },
            Problem::Unreachable(Unreachable::Net) => Repr::Unreachable(UnreachableCode::NO_ROUTE),
            Problem::Unreachable(Unreachable::Host) => Repr::Unreachable(UnreachableCode::ADDRESS),
            Problem::Unreachable(Unreachable::Port) => Repr::Unreachable(UnreachableCode::PORT),
        }
    }
}

fn send(context: &mut Context, slot: &Slot, problem: Problem) {
    // Our own errors cause none, and nobody is told what somebody else has done in his name.
    if slot.ingress == Ingress::Ourselves || source::out_of_place(context, slot).is_some() {
        return;
    }
    let Some(bytes) = slot.packet.head.data().get(usize::from(slot.parsed.l3)..) else { return };
    let Some(about) = About::read(bytes, problem) else { return };
    let Some(source) = speaker(context, slot) else {
        context.counters.pipeline.icmp_errors_suppressed.add(1);
        return;
    };
    if !context.icmp_limit.allow(context.now) {
        context.counters.pipeline.icmp_errors_suppressed.add(1);
        return;
    }
    let Some(mut frame) = context.pool.take() else {
        context.counters.pipeline.icmp_errors_suppressed.add(1);
        return;
    };
    frame.reset(HEADROOM);
    if about.answer(problem, source, &mut frame).is_none() {
        context.pool.put(frame);
        return;
    }
    context.counters.pipeline.icmp_errors_sent.add(1);
    context.answer(slot, frame);
}

/// The packet that is complained about.
enum About<'a> {
    V4(Ipv4<&'a [u8]>),
    V6(Ipv6<&'a [u8]>),
}

impl<'a> About<'a> {
    /// None: nobody is to be told.
    fn read(bytes: &'a [u8], problem: Problem) -> Option<Self> {
        if bytes.first()? >> 4 == 4 {
            let packet = Ipv4::new_quoted(bytes).ok()?;
            icmpv4::may_be_answered(&packet).then_some(About::V4(packet))
        } else {
            let packet = Ipv6::new_quoted(bytes).ok()?;
            icmpv6::may_be_answered(&packet, problem.v6()).then_some(About::V6(packet))
        }
    }

    /// Writes the whole frame. The link's addresses are written when the answer has found its way.
    fn answer(&self, problem: Problem, source: IpAddr, frame: &mut Frame) -> Option<()> {
        let (ether_type, room) = match self {
            About::V4(_) => (EtherType::IPV4, icmpv4::ERROR_LEN_MAX),
            About::V6(_) => (EtherType::IPV6, icmpv6::ERROR_LEN_MAX),
        };
        let bytes = frame.append(ethernet::HEADER_LEN + room)?;
        let (link, packet) = bytes.split_at_mut_checked(ethernet::HEADER_LEN)?;
        let header = ethernet::Repr { destination: MacAddr::ZERO, source: MacAddr::ZERO, ether_type };
        header.emit(link).ok()?;
        let len = match (self, source) {
            (About::V4(about), IpAddr::V4(source)) => icmpv4::emit_error(problem.v4(), source, about, packet),
            (About::V6(about), IpAddr::V6(source)) => icmpv6::emit_error(problem.v6(), source, about, packet),
            _ => return None,
        };
        frame.truncate(ethernet::HEADER_LEN + len.ok()?);
        Some(())
    }
}

/// Which of our addresses speaks.
fn speaker(context: &Context, slot: &Slot) -> Option<IpAddr> {
    if slot.parsed.is_ipv4() {
        speaker_v4(context, slot).map(IpAddr::V4)
    } else {
        speaker_v6(context, slot).map(IpAddr::V6)
    }
}

/// The tunnel's to what came by a tunnel, else the node's.
fn speaker_v4(context: &Context, slot: &Slot) -> Option<Ipv4Addr> {
    let node = context.tables.node.config()?;
    let vtep = node.vtep_v4.and_then(|vtep| vtep.address);
    match slot.ingress {
        Ingress::Tunnel(_) => vtep.or(node.ipip_address).or(node.address_v4),
        _ => node.address_v4,
    }
}

/// To who shares a link with us, the gateway's link-local address; to others as in IPv4. A node without an IPv6 address
/// says nothing to them: no other address of it would come back to it.
fn speaker_v6(context: &Context, slot: &Slot) -> Option<Ipv6Addr> {
    let node = context.tables.node.config()?;
    match slot.ingress {
        Ingress::Tunnel(_) => node.vtep_v6.and_then(|vtep| vtep.address).or(node.address_v6),
        Ingress::Uplink(_) => node.address_v6,
        _ => Some(nd::GATEWAY),
    }
}
