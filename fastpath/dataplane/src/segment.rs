//! Super-frames cut into what a wire carries: the kernel's segmentation offload in software.
//!
//! ```text
//!   Ethernet · [IP · [UDP · VXLAN · Ethernet] ·] IP · TCP │ payload 0 … gso_size … 2·gso_size … end
//!   └──────────── every segment has all of these ────────┘
//! ```
//!
//! What differs between segments (RFC 9293, 3.1; as Linux and its devices do it): the lengths of all IP and UDP headers and their checksums;
//! TCP's sequence number; FIN and PSH, which only the last has; CWR, which only the first has (RFC 3168, 6.1.2); the IPv4 identification, which
//! counts up. The transport checksum stays half made: it is whoever sends the segment who completes it, as with any packet. A UDP super-frame
//! becomes datagrams of `gso_size` bytes.
//!
//! The payload is not copied where the segments of the chain begin where those of the wire do (the ports that receive super-frames see to that):
//! then every frame but the first gets headers in front. Otherwise it is copied once.

use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use caracal_wire::{EtherType, Ipv4, Protocol, ethernet, ipv4, ipv6, tcp, udp, vxlan};
use caracal_xsk::{Frame, FramePool};

use crate::drop_reason::DropReason;
use crate::packet::{Packet, PartialChecksum};
use crate::port::{Boxes, HEADROOM};

/// Room that a port leaves in front of every segment but the first, so that headers fit there: VXLAN over IPv6, IPv6 and TCP with all its options.
pub const SEGMENT_HEADROOM: usize = 192;
/// Segments of one super-frame, at most. A sender that can make so many from one has a path that carries hardly anything.
pub const SEGMENTS_OF_ONE_MAX: usize = 1024;
/// All headers of a segment, at most.
const HEADERS_MAX: usize = 256;

/// Where the headers of a TCP or UDP packet are, in a tunnel or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Outer IP header (always behind Ethernet's), if it is in a tunnel: whether it is IPv4.
    outer: Option<bool>,
    /// The outer UDP header, if the tunnel has one.
    outer_udp: Option<usize>,
    /// The IP header of the packet itself.
    l3: usize,
    /// Whether that is IPv4.
    pub is_v4: bool,
    /// The transport header.
    pub l4: usize,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the payload begins.
    pub end: usize,
}

impl Headers {
    /// The headers at the beginning of a packet that is in no tunnel.
    #[inline]
    #[must_use]
    pub fn plain(bytes: &[u8]) -> Option<Headers> {
        let ether_type = u16::from_be_bytes(*bytes.get(ethernet::field::ETHER_TYPE)?.first_chunk()?);
        let (is_v4, protocol, l4) = ip(bytes, ethernet::HEADER_LEN, EtherType(ether_type))?;
        Headers { outer: None, outer_udp: None, l3: ethernet::HEADER_LEN, is_v4, l4, protocol, end: 0 }
            .ended(bytes)
    }

    /// The headers of a packet whose transport header begins at `l4`: behind one tunnel header, if it is not the first one.
    #[must_use]
    pub fn with_transport_at(bytes: &[u8], l4: usize) -> Option<Headers> {
        let at = ethernet::HEADER_LEN;
        let ether_type = u16::from_be_bytes(*bytes.get(ethernet::field::ETHER_TYPE)?.first_chunk()?);
        let (outer_v4, protocol, behind) = ip(bytes, at, EtherType(ether_type))?;
        if behind == l4 {
            return Headers { outer: None, outer_udp: None, l3: at, is_v4: outer_v4, l4, protocol, end: 0 }
                .ended(bytes);
        }
        let (outer_udp, l3, inner) = match protocol {
            Protocol::UDP => {
                let link = behind + udp::HEADER_LEN + vxlan::HEADER_LEN;
                let kind = bytes.get(link..)?.get(ethernet::field::ETHER_TYPE)?;
                let kind = u16::from_be_bytes(*kind.first_chunk()?);
                (Some(behind), link + ethernet::HEADER_LEN, EtherType(kind))
            }
            Protocol::IPIP => (None, behind, EtherType::IPV4),
            _ => return None,
        };
        let (is_v4, protocol, behind) = ip(bytes, l3, inner)?;
        let headers = Headers { outer: Some(outer_v4), outer_udp, l3, is_v4, l4: behind, protocol, end: 0 };
        if behind == l4 { headers.ended(bytes) } else { None }
    }

    /// Whether the packet is in a tunnel.
    #[inline]
    #[must_use]
    pub fn is_in_tunnel(&self) -> bool {
        self.outer.is_some()
    }

    /// Finds out where the payload begins.
    #[inline]
    fn ended(self, bytes: &[u8]) -> Option<Headers> {
        let len = match self.protocol {
            Protocol::TCP => usize::from(bytes.get(self.l4 + tcp::field::DATA_OFFSET)? >> 4) * 4,
            Protocol::UDP => udp::HEADER_LEN,
            _ => return None,
        };
        let end = self.l4 + len;
        let least = if self.protocol == Protocol::TCP { tcp::HEADER_LEN } else { udp::HEADER_LEN };
        (len >= least && end <= bytes.len() && end <= HEADERS_MAX).then_some(Headers { end, ..self })
    }

    /// Where in the transport header the checksum is.
    #[inline]
    #[must_use]
    pub fn checksum_offset(&self) -> usize {
        match self.protocol {
            Protocol::TCP => tcp::field::CHECKSUM.start,
            _ => udp::field::CHECKSUM.start,
        }
    }

    /// The sum of the pseudo-header of a transport segment of `l4_len` bytes.
    #[inline]
    #[must_use]
    pub fn pseudo_sum(&self, bytes: &[u8], l4_len: usize) -> Sum {
        let addresses = match self.is_v4 {
            true => self.l3 + ipv4::field::SOURCE.start..self.l3 + ipv4::field::DESTINATION.end,
            false => self.l3 + ipv6::field::SOURCE.start..self.l3 + ipv6::field::DESTINATION.end,
        };
        Sum::of(bytes.get(addresses).unwrap_or_default()) + u32::from(self.protocol.0) + l4_len as u32
    }

    /// Writes the lengths that follow from a payload of `payload` bytes, into all headers but the transport's, and the checksums of IPv4; the
    /// identification is `identification` more than it was.
    pub fn set_lengths(&self, bytes: &mut [u8], payload: usize, identification: u16) {
        let total = self.end + payload;
        if let Some(is_v4) = self.outer {
            set_ip_len(bytes, ethernet::HEADER_LEN, is_v4, total, 0);
        }
        if let Some(at) = self.outer_udp {
            put_u16(bytes, at + udp::field::LEN.start, total - at);
        }
        set_ip_len(bytes, self.l3, self.is_v4, total, identification);
    }
}

/// Version, protocol and end of an IP header that has nothing between itself and the transport header.
#[inline]
fn ip(bytes: &[u8], at: usize, ether_type: EtherType) -> Option<(bool, Protocol, usize)> {
    let header = bytes.get(at..)?;
    match ether_type {
        EtherType::IPV4 => {
            let header: &[u8; ipv4::HEADER_LEN] = header.first_chunk()?;
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            let is_whole = fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) == 0;
            (header[0] == 0x45 && is_whole).then_some((
                true,
                Protocol(header[ipv4::field::PROTOCOL]),
                at + ipv4::HEADER_LEN,
            ))
        }
        EtherType::IPV6 => {
            let header: &[u8; ipv6::HEADER_LEN] = header.first_chunk()?;
            (header[0] >> 4 == 6).then_some((
                false,
                Protocol(header[ipv6::field::NEXT_HEADER]),
                at + ipv6::HEADER_LEN,
            ))
        }
        _ => None,
    }
}

fn put_u16(bytes: &mut [u8], at: usize, value: usize) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&(value as u16).to_be_bytes());
    }
}

fn set_ip_len(bytes: &mut [u8], at: usize, is_v4: bool, end: usize, identification: u16) {
    if !is_v4 {
        return put_u16(bytes, at + ipv6::field::PAYLOAD_LEN.start, end - at - ipv6::HEADER_LEN);
    }
    let Some(Ok(mut header)) = bytes.get_mut(at..).map(Ipv4::new_quoted) else { return };
    header.set_total_len((end - at) as u16);
    header.set_identification(header.identification().wrapping_add(identification));
    header.update_checksum();
}

/// Cuts a super-frame, and gives the segments to `out` in order. Returns how many there were.
///
/// # Errors
/// Gives the packet back when it cannot be cut, with the reason to drop it.
pub fn cut(
    packet: Packet,
    pool: &mut FramePool,
    boxes: &mut Boxes,
    mut out: impl FnMut(Packet, &mut FramePool, &mut Boxes),
) -> Result<usize, (Packet, DropReason)> {
    let Some(cut) = Cut::of(&packet) else { return Err((packet, DropReason::Oversized)) };
    if cut.is_aligned(&packet) {
        let Packet { head, rest, .. } = packet;
        let count = cut.count;
        out(cut.finish(Packet::new(head), 0), pool, boxes);
        let Some(mut rest) = rest else { return Ok(count) };
        for (index, mut frame) in rest.drain(..).enumerate() {
            // There is room: it was asked for.
            if let Some(place) = frame.prepend(cut.headers.end) {
                place.copy_from_slice(cut.template());
            }
            out(cut.finish(Packet::new(frame), index + 1), pool, boxes);
        }
        boxes.push(rest);
        return Ok(count);
    }
    let first = pool.chunk_size().saturating_sub(caracal_xsk::RESERVED_HEADROOM + HEADROOM + cut.headers.end);
    let frames_each = if cut.size <= first {
        1
    } else {
        1 + (cut.size - first).div_ceil(pool.chunk_size() - caracal_xsk::RESERVED_HEADROOM)
    };
    if pool.free() < cut.count * frames_each {
        return Err((packet, DropReason::NoFrame));
    }
    {
        let mut source = read_from(&packet, cut.headers.end);
        for index in 0..cut.count {
            let Some(segment) = copy(&cut, &mut source, index, pool, boxes) else { break };
            out(cut.finish(segment, index), pool, boxes);
        }
    }
    let count = cut.count;
    packet.release(pool, boxes);
    Ok(count)
}

/// Makes of a super-frame of TCP in VXLAN over IPv4 super-frames of UDP, each datagram of which is a segment in its tunnel: those the kernel and its
/// devices can cut. Inner checksums are whole afterwards. Returns how many segments there are.
///
/// ```text
///   Ethernet · IPv4 · UDP │ VXLAN · Ethernet · IP · TCP · payload │ VXLAN · Ethernet · IP · TCP · payload │ …
///   └─────── once ───────┘└──────────── gso_size ────────────────┘
/// ```
///
/// # Errors
/// Gives the packet back when it is in another tunnel or none, or its segments are not where they would have to be; then [`cut`] does it.
pub fn as_datagrams(
    packet: Packet,
    pool: &mut FramePool,
    boxes: &mut Boxes,
    mut out: impl FnMut(Packet, &mut FramePool, &mut Boxes),
) -> Result<usize, Packet> {
    let Some(cut) = Cut::of(&packet) else { return Err(packet) };
    let (Some(true), Some(udp_at), true) =
        (cut.headers.outer, cut.headers.outer_udp, cut.is_aligned(&packet))
    else {
        return Err(packet);
    };
    let outer_len = udp_at + udp::HEADER_LEN;
    let each = cut.headers.end - outer_len + cut.size;
    // As many as one IPv4 packet can have.
    let together = (usize::from(u16::MAX) - (outer_len - ethernet::HEADER_LEN)) / each;
    let count = cut.count;
    let Packet { head, rest, .. } = packet;
    let mut rest = rest.unwrap_or_else(|| boxes.pop().unwrap_or_default());
    let mut datagrams: Option<Packet> = None;
    for (index, mut frame) in std::iter::once(head).chain(rest.drain(..)).enumerate() {
        if index > 0
            && let Some(place) = frame.prepend(cut.headers.end)
        {
            place.copy_from_slice(cut.template());
        }
        let mut segment = cut.finish(Packet::new(frame), index);
        segment.complete_checksum();
        if let Some(all) = &mut datagrams {
            let mut frame = segment.head;
            frame.trim_front(outer_len);
            all.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default()).push(frame);
        } else {
            datagrams = Some(segment);
        }
        let is_full = (index + 1) % together.max(1) == 0 || index + 1 == count;
        if is_full && let Some(mut all) = datagrams.take() {
            describe(&mut all, udp_at, each);
            out(all, pool, boxes);
        }
    }
    boxes.push(rest);
    Ok(count)
}

/// Writes the outer headers of datagrams of `each` bytes, and leaves their checksum half made.
fn describe(datagrams: &mut Packet, udp_at: usize, each: usize) {
    let total = datagrams.len();
    let bytes = datagrams.head.data_mut();
    set_ip_len(bytes, ethernet::HEADER_LEN, true, total, 0);
    put_u16(bytes, udp_at + udp::field::LEN.start, total - udp_at);
    let source = ethernet::HEADER_LEN + ipv4::field::SOURCE.start;
    let sum = Sum::of(bytes.get(source..source + 8).unwrap_or_default());
    let sum = (sum + u32::from(Protocol::UDP.0) + (total - udp_at) as u32).fold();
    put_u16(bytes, udp_at + udp::field::CHECKSUM.start, usize::from(sum));
    datagrams.offload.gso_size = if datagrams.rest.is_some() { each as u16 } else { 0 };
    datagrams.offload.checksum =
        Some(PartialChecksum { start: udp_at as u16, offset: udp::field::CHECKSUM.start as u16 });
}

/// One super-frame that is being cut.
struct Cut {
    headers: Headers,
    /// Its headers as they were.
    template: [u8; HEADERS_MAX],
    /// Payload of each segment but the last.
    size: usize,
    payload: usize,
    count: usize,
    sequence: u32,
    flags: Flags,
}

impl Cut {
    fn of(packet: &Packet) -> Option<Cut> {
        let bytes = packet.head.data();
        let headers = Headers::with_transport_at(bytes, usize::from(packet.offload.checksum?.start))?;
        let (size, payload) = (usize::from(packet.offload.gso_size), packet.len() - headers.end);
        let count = payload.checked_div(size).map(|_| payload.div_ceil(size).max(1))?;
        if count > SEGMENTS_OF_ONE_MAX {
            return None;
        }
        let mut template = [0; HEADERS_MAX];
        template.get_mut(..headers.end)?.copy_from_slice(bytes.get(..headers.end)?);
        let (mut sequence, mut flags) = (0, Flags(0));
        if headers.protocol == Protocol::TCP {
            let header: &[u8; tcp::HEADER_LEN] = bytes.get(headers.l4..)?.first_chunk()?;
            sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            flags = Flags(header[tcp::field::FLAGS]);
        }
        Some(Cut { headers, template, size, payload, count, sequence, flags })
    }

    fn template(&self) -> &[u8] {
        self.template.get(..self.headers.end).unwrap_or_default()
    }

    /// Whether every segment of the chain is one of the wire's, with room for headers.
    fn is_aligned(&self, packet: &Packet) -> bool {
        let Some(rest) = &packet.rest else { return self.count == 1 };
        let Some((last, middle)) = rest.split_last() else { return false };
        let is_one = |frame: &Frame, len| frame.len() == len && frame.headroom() >= self.headers.end;
        packet.head.len() == self.headers.end + self.size
            && middle.iter().all(|frame| is_one(frame, self.size))
            && (1..=self.size).contains(&last.len())
            && is_one(last, last.len())
    }

    /// Writes what is this segment's own into its headers.
    fn finish(&self, mut segment: Packet, index: usize) -> Packet {
        let Cut { headers, size, payload, .. } = self;
        let from = index * size;
        let (len, is_last) = ((payload - from).min(*size), from + size >= *payload);
        let bytes = segment.head.data_mut();
        headers.set_lengths(bytes, len, index as u16);
        let l4_len = headers.end - headers.l4 + len;
        if headers.protocol == Protocol::TCP {
            let mut flags = self.flags.0;
            if !is_last {
                flags &= !(Flags::FIN | Flags::PSH).0;
            }
            if index > 0 {
                flags &= !Flags::CWR.0;
            }
            if let Some(header) = bytes.get_mut(headers.l4..headers.end) {
                header[tcp::field::SEQUENCE]
                    .copy_from_slice(&self.sequence.wrapping_add(from as u32).to_be_bytes());
                header[tcp::field::FLAGS] = flags;
            }
        } else {
            put_u16(bytes, headers.l4 + udp::field::LEN.start, l4_len);
        }
        let pseudo = headers.pseudo_sum(bytes, l4_len).fold();
        put_u16(bytes, headers.l4 + headers.checksum_offset(), usize::from(pseudo));
        segment.offload.gso_size = 0;
        segment.offload.checksum =
            Some(PartialChecksum { start: headers.l4 as u16, offset: headers.checksum_offset() as u16 });
        if let (Some(false), Some(at)) = (headers.outer, headers.outer_udp) {
            self.sum_up_outer(&mut segment, at);
        }
        segment
    }

    /// Makes the outer UDP checksum, which IPv6 wants (RFC 8200, 8.1).
    fn sum_up_outer(&self, segment: &mut Packet, at: usize) {
        let field = at + udp::field::CHECKSUM.start;
        put_u16(segment.head.data_mut(), field, 0);
        let ip = ethernet::HEADER_LEN;
        let bytes = segment.head.data();
        let addresses =
            bytes.get(ip + ipv6::field::SOURCE.start..ip + ipv6::field::DESTINATION.end).unwrap_or_default();
        let len = (segment.len() - at) as u32;
        let pseudo = Sum::of(addresses) + u32::from(Protocol::UDP.0) + len;
        let sum = match (pseudo + segment.completed_sum(at)).finish() {
            // Zero would say that there is none (RFC 768).
            0 => 0xffff,
            sum => sum,
        };
        put_u16(segment.head.data_mut(), field, usize::from(sum));
    }
}

/// Reads a chain from one place on.
struct Cursor<'a, I> {
    segments: I,
    left: &'a [u8],
}

/// A packet from byte `from` on, which is in its first segment.
fn read_from(packet: &Packet, from: usize) -> Cursor<'_, impl Iterator<Item = &Frame>> {
    let mut segments = packet.segments();
    let left = segments.next().and_then(|head| head.data().get(from..)).unwrap_or_default();
    Cursor { segments, left }
}

impl<'a, I: Iterator<Item = &'a Frame>> Cursor<'a, I> {
    /// Fills `into`; false: there is not so much.
    fn read(&mut self, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            if self.left.is_empty() {
                let Some(next) = self.segments.next() else { return false };
                self.left = next.data();
                continue;
            }
            let len = into.len().min(self.left.len());
            let (here, later) = into.split_at_mut(len);
            let (bytes, left) = self.left.split_at(len);
            here.copy_from_slice(bytes);
            (into, self.left) = (later, left);
        }
        true
    }
}

/// Copies the headers and the next piece of payload into frames of their own.
fn copy<'a>(
    cut: &Cut,
    source: &mut Cursor<'a, impl Iterator<Item = &'a Frame>>,
    index: usize,
    pool: &mut FramePool,
    boxes: &mut Boxes,
) -> Option<Packet> {
    let mut left = cut.size.min(cut.payload - index * cut.size);
    let mut head = pool.take()?;
    head.reset(HEADROOM);
    let here = left.min(head.tailroom().saturating_sub(cut.headers.end));
    if let Some(place) = head.append(cut.headers.end + here) {
        let (headers, payload) = place.split_at_mut(cut.headers.end);
        headers.copy_from_slice(cut.template());
        source.read(payload);
    }
    left -= here;
    let mut segment = Packet::new(head);
    while left > 0 {
        let Some(mut frame) = pool.take() else { break };
        frame.reset(0);
        let here = left.min(frame.tailroom());
        if let Some(place) = frame.append(here) {
            source.read(place);
        }
        left -= here;
        segment.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default()).push(frame);
    }
    Some(segment)
}

#[cfg(test)]
pub(crate) mod tests;
