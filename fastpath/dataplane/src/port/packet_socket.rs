//! A port on a packet socket: the pod's kernel hands over super-frames of up to 64 KiB, and takes them.
//!
//! ```text
//!   receive: recvmmsg, a packet into a chain of frames whose segments begin where the wire's would
//!   send:    packets that are part of one stream become super-frames (crate::coalesce) ─► sendmmsg, once a turn
//! ```
//!
//! What the virtio-net header says comes from the pod's kernel, and a pod can write headers of its own with a packet socket. So of a plain
//! packet nothing is believed (its half-made checksum is found as with any port, by the parse stage), and a super-frame's header must be what follows
//! from its packet: offsets of the pod's choice would change headers that have been judged.

use std::os::fd::{AsFd, BorrowedFd};

use caracal_wire::tcp::Flags;
use caracal_wire::{Protocol, ethernet, tcp};
use caracal_xsk::packet_socket::{Incoming, Outgoing, PacketSocket, SEGMENTS_MAX, Shape};
use caracal_xsk::tap::VirtioNetHeader;
use caracal_xsk::{Frame, FramePool};

use super::{Boxes, HEADROOM};
use crate::coalesce::Coalescer;
use crate::packet::{Offload, Packet, PartialChecksum};
use crate::segment::{Headers, SEGMENT_HEADROOM, SEGMENTS_OF_ONE_MAX};

/// The longest packet there is: 64 KiB of IP behind Ethernet.
const PACKET_MAX: usize = 65_535 + ethernet::HEADER_LEN;
/// Packets of one system call to receive.
const MESSAGES: usize = 8;
/// Frames received in one turn, about: other ports wait meanwhile.
const FRAMES_A_TURN: usize = 256;
/// What waits to be sent, at most: packets …
const WAITING_MAX: usize = 64;
/// … and frames.
const WAITING_FRAMES_MAX: usize = 512;
/// Of so many questions for losses, one is passed on to the kernel.
const QUESTIONS_A_SYSTEM_CALL: u32 = 128;

/// A packet socket, the frames that it is about to receive into, and what is to be sent.
#[derive(Debug)]
pub struct PacketSocketPort {
    socket: PacketSocket,
    incoming: Vec<Incoming>,
    shape: Shape,
    /// How many packets the next receive is ready for: as many as came, and one more.
    wanted: usize,
    outgoing: Coalescer,
    refused: u64,
    questions: u32,
}

/// As much in every frame as there is room for.
const FULL: Shape =
    Shape { first_headroom: HEADROOM, first_len: usize::MAX, headroom: SEGMENT_HEADROOM, len: usize::MAX };

/// Frames that the longest packet takes.
fn frames_of(shape: Shape, chunk_size: usize) -> usize {
    let room = chunk_size - caracal_xsk::RESERVED_HEADROOM;
    let first = shape.first_len.min(room - shape.first_headroom);
    1 + (PACKET_MAX - first).div_ceil(shape.len.min(room - shape.headroom))
}

impl PacketSocketPort {
    /// A port on `socket`.
    #[must_use]
    pub fn new(socket: PacketSocket) -> Self {
        let incoming = (0..MESSAGES).map(|_| Incoming::default()).collect();
        PacketSocketPort {
            socket,
            incoming,
            shape: FULL,
            wanted: 1,
            outgoing: Coalescer::default(),
            refused: 0,
            questions: 0,
        }
    }

    /// What is refused counts as well: it has taken its time, and the next one may be none of it.
    pub(super) fn receive(
        &mut self,
        pool: &mut FramePool,
        boxes: &mut Boxes,
        max: usize,
        mut sink: impl FnMut(Packet),
    ) -> usize {
        let (mut packets, mut frames) = (0, 0);
        while packets < max && frames < FRAMES_A_TURN {
            let ready = self.stage(pool, self.wanted.min(max - packets));
            if ready == 0 {
                break;
            }
            let came = match self.socket.receive(&mut self.incoming[..ready], self.shape) {
                Ok(came) => came,
                Err(_) => {
                    self.refused += 1;
                    packets += 1;
                    continue;
                }
            };
            packets += came;
            for at in 0..came {
                let used = used_of(&self.incoming[at]);
                frames += used.max(1);
                if let Some(packet) = self.take_packet(at, used, boxes) {
                    sink(packet);
                }
            }
            self.wanted = if came == ready { (2 * came).min(MESSAGES) } else { (came + 1).min(MESSAGES) };
            if came < ready {
                break;
            }
        }
        if packets == 0 {
            // A port without traffic holds no frames.
            for incoming in &mut self.incoming {
                incoming.frames.drain(..).for_each(|frame| pool.put(frame));
            }
        }
        packets
    }

    /// Has frames ready for up to `packets` packets of any length; fewer, if the pool has not so many to spare.
    fn stage(&mut self, pool: &mut FramePool, packets: usize) -> usize {
        let each = frames_of(self.shape, pool.chunk_size()).min(SEGMENTS_MAX);
        for (at, incoming) in self.incoming.iter_mut().enumerate().take(packets) {
            let missing = each.saturating_sub(incoming.frames.len());
            // What ports that come after this one need stays.
            let spare = if at == 0 { pool.free() } else { pool.free().saturating_sub(pool.total() / 4) };
            if missing > spare {
                return at;
            }
            incoming.frames.extend((0..missing).map_while(|_| pool.take()));
        }
        packets
    }

    /// Makes a packet of what has been received, into `used` frames.
    fn take_packet(&mut self, at: usize, used: usize, boxes: &mut Boxes) -> Option<Packet> {
        let incoming = &mut self.incoming[at];
        if used == 0 || incoming.is_truncated {
            self.refused += 1;
            return None;
        }
        let mut packet = Packet::new(incoming.frames.pop()?);
        if used > 1 {
            let mut rest = boxes.pop().unwrap_or_default();
            rest.extend((1..used).map_while(|_| incoming.frames.pop()));
            packet.rest = Some(rest);
        }
        let header = incoming.header;
        if header.gso_type == VirtioNetHeader::GSO_NONE {
            return Some(packet);
        }
        match super_frame(&packet, header) {
            Some((offload, headers)) => {
                packet.offload = offload;
                self.expect(headers, usize::from(header.gso_size));
                Some(packet)
            }
            None => {
                self.refused += 1;
                // Back to where they came from, for the next packet.
                if let Some(mut rest) = packet.rest {
                    incoming.frames.extend(rest.drain(..));
                    boxes.push(rest);
                }
                incoming.frames.push(packet.head);
                None
            }
        }
    }

    /// The next super-frame is going to be like the last one, most probably.
    fn expect(&mut self, headers: Headers, size: usize) {
        let shape = Shape { first_len: headers.end + size, len: size, ..FULL };
        // Pieces too small make too many frames; pieces too large do not fit into one.
        let capacity =
            self.incoming.iter().find_map(|incoming| incoming.frames.last()).map_or(0, Frame::capacity);
        let room = capacity.saturating_sub(caracal_xsk::RESERVED_HEADROOM);
        let fits = size + SEGMENT_HEADROOM <= room && headers.end + size + HEADROOM <= room;
        self.shape = if fits && frames_of(shape, capacity) <= SEGMENTS_MAX { shape } else { FULL };
    }

    pub(super) fn transmit(
        &mut self,
        packet: Packet,
        pool: &mut FramePool,
        boxes: &mut Boxes,
    ) -> Result<(), Packet> {
        let is_full =
            |waiting: &Coalescer| waiting.len() >= WAITING_MAX || waiting.frames() >= WAITING_FRAMES_MAX;
        if is_full(&self.outgoing) {
            self.flush(pool, boxes);
            if is_full(&self.outgoing) {
                return Err(packet);
            }
        }
        self.outgoing.add(packet, boxes);
        Ok(())
    }

    pub(super) fn flush(&mut self, pool: &mut FramePool, boxes: &mut Boxes) -> usize {
        while !self.outgoing.is_empty() {
            let mut system_call = Outgoing::default();
            for packet in self.outgoing.sealed().iter() {
                let rest = packet.rest.iter().flat_map(|rest| rest.iter());
                let count = 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
                let segments = Counted(std::iter::once(&packet.head).chain(rest).map(Frame::data), count);
                if !system_call.push(header_of(packet), segments) {
                    break;
                }
            }
            let offered = system_call.len();
            let sent = match self.socket.send(&mut system_call) {
                Ok(sent) => sent,
                // The first cannot be sent: its device is down, or the kernel does not know such a super-frame.
                Err(_) => {
                    self.refused += 1;
                    self.outgoing.sent(1, |packet| packet.release(pool, boxes));
                    continue;
                }
            };
            self.outgoing.sent(sent, |packet| packet.release(pool, boxes));
            if sent < offered {
                break;
            }
        }
        self.outgoing.frames()
    }

    pub(super) fn unsent(&self) -> usize {
        self.outgoing.frames()
    }

    /// Packets since the last question that came, or should have gone, and could not be carried; and those for which the kernel had no room
    /// (which it is asked now and then: that is a system call).
    pub fn take_losses(&mut self) -> (u64, u64) {
        self.questions = self.questions.wrapping_add(1);
        let lost =
            if self.questions.is_multiple_of(QUESTIONS_A_SYSTEM_CALL) { self.socket.take_lost() } else { 0 };
        (std::mem::take(&mut self.refused), lost)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Closes the socket; every frame that the port held comes back.
    #[must_use]
    pub fn into_frames(mut self) -> Vec<Frame> {
        let mut frames: Vec<Frame> = self.incoming.drain(..).flat_map(|incoming| incoming.frames).collect();
        self.outgoing.sent(usize::MAX, |packet| {
            frames.push(packet.head);
            frames.extend(packet.rest.into_iter().flat_map(|rest| *rest));
        });
        frames
    }
}

/// How many frames a packet has been received into.
fn used_of(incoming: &Incoming) -> usize {
    incoming.frames.iter().rev().take_while(|frame| !frame.is_empty()).count()
}

/// What is left to be done to a super-frame, and its headers, if the header that came with it says nothing else than its packet does.
fn super_frame(packet: &Packet, header: VirtioNetHeader) -> Option<(Offload, Headers)> {
    let headers = Headers::plain(packet.head.data())?;
    let kind = kind_of(&headers);
    let is_described = header.gso_type & !VirtioNetHeader::GSO_ECN == kind
        && header.flags & VirtioNetHeader::NEEDS_CHECKSUM != 0
        && usize::from(header.checksum_start) == headers.l4
        && usize::from(header.checksum_offset) == headers.checksum_offset();
    let payload = packet.len().checked_sub(headers.end)?;
    let segments = payload.div_ceil(usize::from(header.gso_size).max(1));
    if !is_described || header.gso_size == 0 || segments > SEGMENTS_OF_ONE_MAX {
        return None;
    }
    let checksum = Some(PartialChecksum { start: header.checksum_start, offset: header.checksum_offset });
    // One that fits into a segment is none.
    let gso_size = if segments > 1 { header.gso_size } else { 0 };
    Some((Offload { gso_size, checksum }, headers))
}

fn kind_of(headers: &Headers) -> u8 {
    match (headers.protocol, headers.is_v4) {
        (Protocol::TCP, true) => VirtioNetHeader::GSO_TCP4,
        (Protocol::TCP, false) => VirtioNetHeader::GSO_TCP6,
        _ => VirtioNetHeader::GSO_UDP,
    }
}

/// What a kernel that takes a packet is told of it.
pub(super) fn header_of(packet: &Packet) -> VirtioNetHeader {
    let Some(PartialChecksum { start, offset }) = packet.offload.checksum else {
        return VirtioNetHeader::default();
    };
    let header = VirtioNetHeader {
        flags: VirtioNetHeader::NEEDS_CHECKSUM,
        checksum_start: start,
        checksum_offset: offset,
        ..VirtioNetHeader::default()
    };
    let bytes = packet.head.data();
    if packet.offload.gso_size == 0 {
        return header;
    }
    let Some(headers) = Headers::plain(bytes) else { return header };
    let flags = bytes.get(headers.l4 + tcp::field::FLAGS).copied().unwrap_or_default();
    let has_cwr = headers.protocol == Protocol::TCP && flags & Flags::CWR.0 != 0;
    VirtioNetHeader {
        gso_type: kind_of(&headers) | if has_cwr { VirtioNetHeader::GSO_ECN } else { 0 },
        gso_size: packet.offload.gso_size,
        // So much the kernel puts beside one another; the rest goes into pages.
        header_len: headers.end as u16,
        ..header
    }
}

/// An iterator whose length is known to us, and not to the compiler.
pub(super) struct Counted<I>(pub I, pub usize);

impl<I: Iterator> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.1 = self.1.saturating_sub(1);
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.1, Some(self.1))
    }
}

impl<I: Iterator> ExactSizeIterator for Counted<I> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::tests::{Stream, Tunnel, chain, payload};

    const SIZE: u16 = 1000;

    fn stream(v6: bool, udp: bool) -> Stream {
        Stream {
            v6,
            udp,
            tunnel: Tunnel::None,
            sequence: 1,
            identification: 1,
            options: if udp { Vec::new() } else { payload(12) },
            fragment_word: 0x4000,
        }
    }

    /// What is made of a packet of 5,000 bytes of payload that comes with this header.
    fn read(stream: &Stream, header: VirtioNetHeader) -> Option<Offload> {
        let (mut pool, mut boxes) = (FramePool::heap(16), Boxes::new());
        let bytes = stream.super_frame(&payload(5000), 0x10);
        let packet = chain(&mut pool, &bytes, (1..6).map(|n| n * 1100), SEGMENT_HEADROOM);
        let found = super_frame(&packet, header).map(|(offload, _)| offload);
        packet.release(&mut pool, &mut boxes);
        found
    }

    fn header(stream: &Stream, kind: u8) -> VirtioNetHeader {
        VirtioNetHeader {
            flags: VirtioNetHeader::NEEDS_CHECKSUM,
            gso_type: kind,
            header_len: 0,
            gso_size: SIZE,
            checksum_start: stream.l4() as u16,
            checksum_offset: if stream.udp { 6 } else { 16 },
        }
    }

    #[test]
    fn a_header_that_says_what_its_packet_does_is_believed() {
        for (v6, udp, kind) in [
            (false, false, VirtioNetHeader::GSO_TCP4),
            (true, false, VirtioNetHeader::GSO_TCP6),
            (false, true, VirtioNetHeader::GSO_UDP),
            (true, true, VirtioNetHeader::GSO_UDP),
        ] {
            let stream = stream(v6, udp);
            let right = header(&stream, kind);
            let checksum = PartialChecksum { start: right.checksum_start, offset: right.checksum_offset };
            let expected = Offload { gso_size: SIZE, checksum: Some(checksum) };
            assert_eq!(read(&stream, right), Some(expected), "{v6} {udp}");
            let congested = VirtioNetHeader { gso_type: kind | VirtioNetHeader::GSO_ECN, ..right };
            assert_eq!(read(&stream, congested), Some(expected));
            // What fits into one segment has only its checksum left.
            let one = VirtioNetHeader { gso_size: 6000, ..right };
            assert_eq!(read(&stream, one), Some(Offload { gso_size: 0, ..expected }));
        }
    }

    #[test]
    fn a_header_of_a_pods_own_making_is_refused() {
        let stream = stream(false, false);
        let right = header(&stream, VirtioNetHeader::GSO_TCP4);
        for (what, wrong) in [
            ("a checksum where the addresses are", VirtioNetHeader { checksum_start: 14, ..right }),
            ("a checksum where the ports are", VirtioNetHeader { checksum_offset: 2, ..right }),
            ("a checksum in the payload", VirtioNetHeader { checksum_start: 900, ..right }),
            ("no checksum", VirtioNetHeader { flags: 0, ..right }),
            ("another version of IP", VirtioNetHeader { gso_type: VirtioNetHeader::GSO_TCP6, ..right }),
            ("another protocol", VirtioNetHeader { gso_type: VirtioNetHeader::GSO_UDP, ..right }),
            ("a kind that nobody knows", VirtioNetHeader { gso_type: 9, ..right }),
            ("segments of nothing", VirtioNetHeader { gso_size: 0, ..right }),
            ("too many segments", VirtioNetHeader { gso_size: 4, ..right }),
        ] {
            assert_eq!(read(&stream, wrong), None, "{what}");
        }
        let fragment = Stream { fragment_word: 0x2000, ..stream };
        assert_eq!(read(&fragment, right), None, "a fragment");
    }

    #[test]
    fn every_shape_has_room_for_the_longest_packet() {
        assert!(frames_of(FULL, 2048) <= SEGMENTS_MAX && frames_of(FULL, 4096) <= SEGMENTS_MAX);
        for (headers, size, is_taken) in
            [(66, 1398, true), (66, 1448, true), (86, 1040, true), (66, 536, false), (66, 8948, false)]
        {
            let shape = Shape { first_len: headers + size, len: size, ..FULL };
            let fits = size + SEGMENT_HEADROOM <= 2024 && frames_of(shape, 2048) <= SEGMENTS_MAX;
            assert_eq!(fits, is_taken, "{size}");
        }
    }
}
