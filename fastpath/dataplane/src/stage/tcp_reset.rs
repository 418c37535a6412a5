//! Refusals: what asks for a thing that is not to be had is told so, rather than left to wait. A TCP segment is answered
//! with a reset (RFC 9293, 3.5.2), anything else with ICMP's port unreachable.
//!
//! A reset is never longer than what it answers and never answered itself, so it is not limited in rate.

use std::net::IpAddr;

use caracal_wire::checksum::Sum;
use caracal_wire::tcp::{self, Flags};
use caracal_wire::{EtherType, MacAddr, Protocol, Tcp, ethernet, ipv4, ipv6};
use caracal_xsk::Frame;

use crate::batch::{Ingress, Slot};
use crate::stage::icmp_error::{self, HEADROOM, Unreachable};
use crate::stage::parse::{Fragment, Parsed};
use crate::stage::{Context, source};

/// Time to live of what we send.
const TTL: u8 = 64;

/// Tells the sender of a packet that is about to be dropped that nobody is there. To be called while the packet still
/// has the addresses and ports that its sender gave it.
#[cold]
pub fn refuse(context: &mut Context, slot: &Slot) {
    if slot.parsed.protocol == Protocol::TCP.0 {
        reset(context, slot);
    } else {
        icmp_error::unreachable(context, slot, Unreachable::Port);
    }
}

/// Answers a TCP segment with a reset in the name of whom it is for.
#[cold]
pub fn reset(context: &mut Context, slot: &Slot) {
    // Nobody is told in answer to what we say ourselves, or what somebody claims to have been said by another.
    if slot.ingress == Ingress::Ourselves || source::out_of_place(context, slot).is_some() {
        return;
    }
    if slot.parsed.fragment == Fragment::Later {
        return;
    }
    let segment = slot.packet.head.data().get(usize::from(slot.parsed.l4)..);
    let Some(Ok(segment)) = segment.map(Tcp::new_checked) else { return };
    let ip_header = slot.parsed.l4 - slot.parsed.l3;
    let l4_len = usize::from(slot.parsed.ip_len.saturating_sub(ip_header));
    let Some(answer) = answer_to(&segment, l4_len) else { return };
    let Some(mut frame) = context.pool.take() else { return };
    frame.reset(HEADROOM);
    if emit(answer, &slot.parsed, &mut frame).is_none() {
        return context.pool.put(frame);
    }
    context.counters.pipeline.tcp_resets_sent.add(1);
    context.answer(slot, frame);
}

/// The reset that answers a segment of `l4_len` bytes, header included; none for a reset.
fn answer_to(segment: &Tcp<&[u8]>, l4_len: usize) -> Option<tcp::Repr> {
    let flags = segment.flags();
    if flags.contains(Flags::RST) {
        return None;
    }
    let (sequence, acknowledgement, answer) = if flags.contains(Flags::ACK) {
        (segment.acknowledgement(), 0, Flags::RST)
    } else {
        // SYN and FIN take a sequence number each.
        let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        let data = l4_len.saturating_sub(segment.header_len()) as u32;
        let next = segment.sequence().wrapping_add(data).wrapping_add(control);
        (0, next, Flags::RST | Flags::ACK)
    };
    Some(tcp::Repr {
        source_port: segment.destination_port(),
        destination_port: segment.source_port(),
        sequence,
        acknowledgement,
        flags: answer,
        window: 0,
    })
}

/// Writes the whole frame. The link's addresses are written when the answer has found its way.
fn emit(answer: tcp::Repr, about: &Parsed, frame: &mut Frame) -> Option<()> {
    let l4_len = answer.buffer_len() as u16;
    let (ip_len, ether_type) = match about.source {
        IpAddr::V4(_) => (ipv4::HEADER_LEN, EtherType::IPV4),
        IpAddr::V6(_) => (ipv6::HEADER_LEN, EtherType::IPV6),
    };
    let bytes = frame.append(ethernet::HEADER_LEN + ip_len + usize::from(l4_len))?;
    let (link, packet) = bytes.split_at_mut_checked(ethernet::HEADER_LEN)?;
    let header = ethernet::Repr { destination: MacAddr::ZERO, source: MacAddr::ZERO, ether_type };
    header.emit(link).ok()?;
    let (ip, segment) = packet.split_at_mut_checked(ip_len)?;
    let pseudo = match (about.destination, about.source) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = ipv4::Repr {
                tos: 0,
                identification: 0,
                fragment_word: ipv4::DONT_FRAGMENT,
                ttl: TTL,
                protocol: Protocol::TCP,
                source,
                destination,
                payload_len: l4_len,
            };
            header.emit(ip).ok()?;
            Sum::pseudo_v4(source, destination, Protocol::TCP, u32::from(l4_len))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = ipv6::Repr {
                traffic_class: 0,
                flow_label: 0,
                next_header: Protocol::TCP,
                hop_limit: TTL,
                source,
                destination,
                payload_len: l4_len,
            };
            header.emit(ip).ok()?;
            header.pseudo_sum()
        }
        _ => return None,
    };
    answer.emit(segment).ok()?;
    Tcp::new_checked(segment).ok()?.update_checksum(pseudo);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_wire::L4Port;

    fn answer(flags: u8, payload: usize) -> Option<tcp::Repr> {
        let mut bytes = [0; 64];
        let segment = tcp::Repr {
            source_port: L4Port(40_000),
            destination_port: L4Port(80),
            sequence: u32::MAX,
            acknowledgement: 77,
            flags: Flags(flags),
            window: 9,
        };
        segment.emit(&mut bytes).unwrap();
        // Options are not data, and data need not be in the first segment.
        bytes[tcp::field::DATA_OFFSET] = 0x80;
        answer_to(&Tcp::new_checked(&bytes[..]).unwrap(), 32 + payload)
    }

    #[test]
    fn a_segment_is_answered_with_the_reset_that_rfc_9293_has_for_it() {
        let reset = |sequence, acknowledgement, flags: u8| {
            Some(tcp::Repr {
                source_port: L4Port(80),
                destination_port: L4Port(40_000),
                sequence,
                acknowledgement,
                flags: Flags(flags),
                window: 0,
            })
        };
        let [fin, syn, rst, ack] = [1, 2, 4, 16];
        assert_eq!(answer(syn, 0), reset(0, 0, rst | ack), "one more than the last number is the first");
        assert_eq!(answer(syn, 10), reset(0, 10, rst | ack), "data in the first segment");
        assert_eq!(answer(fin, 1000), reset(0, 1000, rst | ack));
        assert_eq!(answer(ack, 1000), reset(77, 0, rst));
        assert_eq!(answer(syn | ack, 0), reset(77, 0, rst));
        assert_eq!(answer(rst, 0), None);
        assert_eq!(answer(rst | ack, 0), None);
    }
}
