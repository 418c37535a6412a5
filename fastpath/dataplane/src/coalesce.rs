//! Segments of one TCP stream put together into a super-frame, for a port that carries those: the kernel's receive offload in software.
//!
//! A packet that is added goes behind the last one of its flow, if it is what comes next there and nothing but what differs between the segments
//! of one super-frame is different (Linux, net/ipv4/tcp_offload.c and af_inet.c; the reverse of [`crate::segment`]):
//!
//! * the same Ethernet header, type of service or traffic class and flow label, time to live, "don't fragment"; the same ports,
//!   acknowledgement, window, flags, options (so timestamps too); sequence numbers in a row; IPv4 identifications in a row, which where
//!   fragmenting is forbidden may be anything (RFC 6864, 4.1);
//! * all payloads of one size, of which the last may be less: a smaller one, PSH or FIN ends the super-frame. SYN, RST, URG and CWR are in none;
//! * its checksum is right, or half made. The pod's kernel believes a super-frame's, so one that is wrong stays in a packet of its own.
//!
//! Payload is not copied: frames lose their headers and become segments of the chain. Nothing waits here for more: what is in at the end of a
//! worker's turn is sent.

use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use caracal_wire::{Protocol, ipv4, tcp};

use crate::packet::{Packet, PartialChecksum, SEGMENTS_MAX};
use crate::port::Boxes;
use crate::segment::Headers;

/// How many packets back the last one of a flow is looked for.
const LOOK_BACK: usize = 16;

/// Packets in the order in which they are to be sent.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// A number for each packet's flow; 0: not TCP.
    flows: Vec<u64>,
    packets: Vec<Packet>,
    tails: Vec<Option<Tail>>,
    frames: usize,
}

/// What must follow a packet to be put behind it.
#[derive(Clone, Copy, Debug)]
struct Tail {
    headers: Headers,
    /// Payload of each segment.
    size: usize,
    /// All payload.
    payload: usize,
    sequence: u32,
    identification: u16,
    segments: u16,
}

/// What in an IPv4 header may differ between segments: from the total length to the identification, and the checksum.
const V4_DIFFERS: std::ops::Range<usize> = ipv4::field::TOTAL_LEN.start..ipv4::field::IDENTIFICATION.end;
/// Flags with which a segment is not put behind another, nor another behind it.
const ALONE: u8 = Flags::SYN.0 | Flags::RST.0 | Flags::URG.0 | Flags::CWR.0;
/// Flags that end a super-frame.
const LAST: u8 = Flags::FIN.0 | Flags::PSH.0;

impl Coalescer {
    /// Packets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Their frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Takes a packet that is ready to be sent. Returns whether it has gone into another.
    pub fn add(&mut self, packet: Packet, boxes: &mut Boxes) -> bool {
        self.frames += 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
        let headers = Headers::plain(packet.head.data()).filter(|headers| headers.protocol == Protocol::TCP);
        let Some(headers) = headers else {
            self.push(packet, 0, None);
            return false;
        };
        let flow = flow_of(&headers, packet.head.data());
        let from = self.flows.len().saturating_sub(LOOK_BACK);
        let last = self.flows[from..].iter().rposition(|known| *known == flow).map(|at| from + at);
        if let Some(at) = last
            && let Some(tail) = &mut self.tails[at]
            && self.packets[at].rest.as_ref().map_or(0, |rest| rest.len()) + 2 <= SEGMENTS_MAX
            && let Some(len) = tail.follows(&self.packets[at], &headers, &packet)
        {
            let is_last = tail.take(&mut self.packets[at], packet, len, boxes);
            if is_last {
                seal(&mut self.packets[at], tail);
                self.tails[at] = None;
            }
            return true;
        }
        let tail = Tail::of(headers, &packet);
        self.push(packet, flow, tail);
        false
    }

    fn push(&mut self, packet: Packet, flow: u64, tail: Option<Tail>) {
        self.packets.push(packet);
        self.flows.push(flow);
        self.tails.push(tail);
    }

    /// The packets in order, ready to be sent: nothing is put behind any of them any more.
    pub fn sealed(&mut self) -> &mut Vec<Packet> {
        for (packet, tail) in self.packets.iter_mut().zip(&mut self.tails) {
            if let Some(tail) = tail.take() {
                seal(packet, &tail);
            }
        }
        &mut self.packets
    }

    /// Forgets the first `count` packets, which `take` gets.
    pub fn sent(&mut self, count: usize, mut take: impl FnMut(Packet)) {
        let count = count.min(self.packets.len());
        self.flows.drain(..count);
        self.tails.drain(..count);
        for packet in self.packets.drain(..count) {
            self.frames -= 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
            take(packet);
        }
    }
}

/// The same number for all packets of a flow in one direction; hardly ever for those of another, and then nothing is lost but a super-frame.
fn flow_of(headers: &Headers, bytes: &[u8]) -> u64 {
    let addresses = if headers.is_v4 { headers.l4 - 8 } else { headers.l4 - 32 };
    let mut flow = 1_u64;
    for part in bytes.get(addresses..headers.l4 + 4).unwrap_or_default().chunks_exact(4) {
        let part = part.first_chunk().copied().map_or(0, u32::from_ne_bytes);
        flow = (flow.rotate_left(5) ^ u64::from(part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    flow | 1
}

impl Tail {
    /// What may follow a packet; nothing may follow one that is no full segment of data alone.
    fn of(headers: Headers, packet: &Packet) -> Option<Tail> {
        let bytes = packet.head.data();
        let flags = *bytes.get(headers.l4 + tcp::field::FLAGS)?;
        let size = bytes.len().checked_sub(headers.end).filter(|size| *size > 0)?;
        if packet.rest.is_some() || packet.offload.gso_size != 0 || flags & (ALONE | LAST) != 0 {
            return None;
        }
        Some(Tail {
            headers,
            size,
            payload: size,
            sequence: sequence(bytes, &headers)?.wrapping_add(size as u32),
            identification: identification(bytes, &headers)?,
            segments: 1,
        })
    }

    /// The payload of `next`, if it is what comes behind `first` and all that has been put there.
    fn follows(&self, first: &Packet, headers: &Headers, next: &Packet) -> Option<usize> {
        let (a, b) = (first.head.data(), next.head.data());
        let len = b.len().checked_sub(headers.end).filter(|len| (1..=self.size).contains(len))?;
        if *headers != self.headers || next.rest.is_some() || next.offload.gso_size != 0 {
            return None;
        }
        let (l3, l4) = (caracal_wire::ethernet::HEADER_LEN, headers.l4);
        let (flags_a, flags_b) = (a.get(l4 + tcp::field::FLAGS)?, b.get(l4 + tcp::field::FLAGS)?);
        let same = |range: std::ops::Range<usize>| a.get(range.clone()) == b.get(range);
        let ip_is_same = if headers.is_v4 {
            let word = u16::from_be_bytes(*b.get(l3 + ipv4::field::FRAGMENT.start..)?.first_chunk()?);
            let is_next = identification(b, headers)? == self.identification.wrapping_add(self.segments);
            same(0..l3 + V4_DIFFERS.start)
                && same(l3 + V4_DIFFERS.end..l3 + ipv4::field::CHECKSUM.start)
                && same(l3 + ipv4::field::CHECKSUM.end..l4)
                && (is_next || word & ipv4::DONT_FRAGMENT != 0)
        } else {
            // Between version, class and label and the next header there is only the length.
            same(0..l3 + 4) && same(l3 + 6..l4)
        };
        let fits = headers.end - l3 + self.payload + len <= usize::from(u16::MAX);
        let is_next = ip_is_same
            && fits
            && sequence(b, headers)? == self.sequence
            && flags_b & ALONE == 0
            && (flags_a ^ flags_b) & !LAST == 0
            && same(l4..l4 + tcp::field::SEQUENCE.start)
            && same(l4 + tcp::field::ACKNOWLEDGEMENT.start..l4 + tcp::field::FLAGS)
            && same(l4 + tcp::field::WINDOW.start..l4 + tcp::field::CHECKSUM.start)
            && same(l4 + tcp::field::URGENT.start..headers.end);
        // The most expensive question last; of the first packet only when there is a second one.
        let is_right =
            |packet: &Packet| packet.offload.checksum.is_some() || checksum_is_right(packet, headers);
        (is_next && is_right(next) && (self.segments > 1 || is_right(first))).then_some(len)
    }

    /// Puts `next`, with `len` bytes of payload, behind `first`. True: nothing can follow it.
    fn take(&mut self, first: &mut Packet, next: Packet, len: usize, boxes: &mut Boxes) -> bool {
        let at = self.headers.l4 + tcp::field::FLAGS;
        let flags = next.head.data().get(at).copied().unwrap_or_default() & LAST;
        if let Some(own) = first.head.data_mut().get_mut(at) {
            *own |= flags;
        }
        let mut frame = next.head;
        frame.trim_front(self.headers.end);
        first.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default()).push(frame);
        self.payload += len;
        self.sequence = self.sequence.wrapping_add(len as u32);
        self.segments += 1;
        flags != 0 || len < self.size
    }
}

/// Makes what is in front of all the payload say so.
fn seal(packet: &mut Packet, tail: &Tail) {
    if tail.segments == 1 {
        return;
    }
    let Tail { headers, size, payload, .. } = tail;
    let bytes = packet.head.data_mut();
    headers.set_lengths(bytes, *payload, 0);
    let sum = headers.pseudo_sum(bytes, headers.end - headers.l4 + payload).fold();
    let (start, offset) = (headers.l4, headers.checksum_offset());
    if let Some(field) = bytes.get_mut(start + offset..start + offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    packet.offload.gso_size = *size as u16;
    packet.offload.checksum = Some(PartialChecksum { start: start as u16, offset: offset as u16 });
}

fn sequence(bytes: &[u8], headers: &Headers) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(headers.l4 + tcp::field::SEQUENCE.start..)?.first_chunk()?))
}

/// Zero for IPv6, which has none.
fn identification(bytes: &[u8], headers: &Headers) -> Option<u16> {
    if !headers.is_v4 {
        return Some(0);
    }
    let at = caracal_wire::ethernet::HEADER_LEN + ipv4::field::IDENTIFICATION.start;
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether the checksum of a packet of one segment is right (RFC 9293, 3.1).
fn checksum_is_right(packet: &Packet, headers: &Headers) -> bool {
    let bytes = packet.head.data();
    let l4 = bytes.get(headers.l4..).unwrap_or_default();
    (headers.pseudo_sum(bytes, l4.len()) + Sum::of(l4)).fold() == 0xffff
}

#[cfg(test)]
mod tests;
