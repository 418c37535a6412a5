//! IPv4 packets that are longer than their way, and may be cut (RFC 791, 3.2): at the exit, before any tunnel's header.
//! IPv6 is never cut on the way (RFC 8200, 4.5), nor is what says "don't fragment".
//!
//! ```text
//!   header │ 0 ……………………………………… end         of a packet, whole or itself a part
//!   header │ 0 … 8·n    header │ 8·n … 16·n    header │ 16·n … end
//!            more                more                 more, if there were more
//! ```

use caracal_wire::{Ipv4, ethernet, ipv4};
use caracal_xsk::RESERVED_HEADROOM;

use crate::batch::{Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::port::HEADROOM;
use crate::stage::Context;
use crate::stage::parse::Fragment;

const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// Cuts a packet into pieces of at most `mtu` bytes. The slot keeps the first; `exit` takes each other one out, as the
/// caller is going to do with the first. False: the slot has been dropped.
#[cold]
pub fn cut(
    context: &mut Context,
    slot: &mut Slot,
    mtu: u16,
    exit: &mut dyn FnMut(&mut Context, &mut Slot),
) -> bool {
    // What is summed up over the whole must be so before it is in pieces.
    slot.packet.complete_checksum();
    let room = context.pool.chunk_size().saturating_sub(RESERVED_HEADROOM + HEADROOM + HEADERS);
    let fits = usize::from(mtu).saturating_sub(ipv4::HEADER_LEN).min(room);
    let (each, all) = (fits & !7, usize::from(slot.parsed.ip_len).saturating_sub(ipv4::HEADER_LEN));
    let Some(header) = slot.packet.head.data().first_chunk::<HEADERS>().copied() else { return false };
    let count = if each == 0 { usize::MAX } else { all.div_ceil(each) };
    if context.pool.free() < count {
        slot.drop(DropReason::NoFrame);
        return false;
    }
    let mut pieces = std::mem::take(context.pieces);
    let (before, mut first) = (pieces.len(), None);
    for begin in (0..all).step_by(each) {
        let end = all.min(begin + each);
        let packet = piece(context, &slot.packet, &header, begin..end, end == all);
        match packet {
            Some(packet) if begin == 0 => first = Some(packet),
            Some(packet) => {
                let mut piece = Slot::new(packet, slot.ingress);
                piece.parsed = slot.parsed;
                piece.parsed.ip_len = (ipv4::HEADER_LEN + end - begin) as u16;
                piece.parsed.fragment = Fragment::Later;
                piece.deliver_to = slot.deliver_to;
                piece.verdict = slot.verdict;
                pieces.push(piece);
            }
            // Every piece has a frame, as has been seen above, and room in it.
            None => slot.drop(DropReason::NoFrame),
        }
    }
    // They fit, and are not cut again.
    for piece in &mut pieces[before..] {
        exit(context, piece);
    }
    *context.pieces = pieces;
    let Some(first) = first else { return false };
    let whole = std::mem::replace(&mut slot.packet, first);
    context.pool.put(whole.head);
    for frame in whole.rest.into_iter().flat_map(|rest| *rest) {
        context.pool.put(frame);
    }
    slot.parsed.ip_len = (ipv4::HEADER_LEN + each) as u16;
    if slot.parsed.fragment == Fragment::No {
        slot.parsed.fragment = Fragment::First;
    }
    context.counters.pipeline.fragmented.add(1);
    context.counters.pipeline.fragments_made.add(count as u64);
    !matches!(slot.verdict, Verdict::Drop(_))
}

/// The bytes `range` of a packet's payload, as a packet.
fn piece(
    context: &mut Context,
    whole: &Packet,
    header: &[u8; HEADERS],
    range: std::ops::Range<usize>,
    is_last: bool,
) -> Option<Packet> {
    let mut frame = context.pool.take()?;
    frame.reset(HEADROOM);
    let written = frame.append(HEADERS + range.len()).and_then(|bytes| {
        let (headers, payload) = bytes.split_at_mut(HEADERS);
        headers.copy_from_slice(header);
        let mut ip = Ipv4::new_quoted(&mut headers[ethernet::HEADER_LEN..]).ok()?;
        let offset = (ip.fragment_offset() >> 3) + (range.start >> 3) as u16;
        let more = !is_last || ip.more_fragments();
        ip.set_fragment_word(offset | if more { ipv4::MORE_FRAGMENTS } else { 0 });
        ip.set_total_len((ipv4::HEADER_LEN + range.len()) as u16);
        ip.update_checksum();
        whole.read(HEADERS + range.start, payload).then_some(())
    });
    if written.is_none() {
        context.pool.put(frame);
        return None;
    }
    Some(Packet::new(frame))
}
