//! A port on a tap device: how this host's own traffic reaches us.
//!
//! One system call a packet, as a tap has no rings; the host ports are not the path of pods' traffic. Packets carry a
//! virtio-net header, by which the kernel leaves transport checksums to whoever puts the packet on a wire.

use std::os::fd::{AsFd, BorrowedFd};

use caracal_xsk::tap::{Offloads, Tap, TapError, VirtioNetHeader};
use caracal_xsk::{Frame, FramePool};

use super::{Boxes, HEADROOM};
use crate::packet::{Offload, Packet, PartialChecksum, SEGMENTS_MAX};

/// Packets read in one turn at most: each is a system call, and pods wait meanwhile.
const READ_MAX: usize = 16;

/// A tap device with the frames it is about to read into.
#[derive(Debug)]
pub struct TapPort {
    tap: Tap,
    /// Frames for the next packet, as many as one of this link's MTU needs.
    segments: Vec<Frame>,
    segments_wanted: usize,
}

impl TapPort {
    /// Attaches to an existing tap device that carries IP packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// When the device is not there, is not a tap, or belongs to somebody else.
    pub fn open(name: &str, mtu: u16, chunk_size: usize) -> Result<Self, TapError> {
        let tap = Tap::open(name, true)?;
        tap.set_offloads(Offloads { checksum: true, tso4: false, tso6: false })?;
        let room = chunk_size.saturating_sub(HEADROOM + caracal_xsk::RESERVED_HEADROOM).max(1);
        let wanted = (usize::from(mtu) + caracal_wire::ethernet::HEADER_LEN).div_ceil(room);
        Ok(TapPort {
            tap,
            segments: Vec::with_capacity(SEGMENTS_MAX),
            segments_wanted: wanted.min(SEGMENTS_MAX),
        })
    }

    pub(super) fn receive(
        &mut self,
        pool: &mut FramePool,
        boxes: &mut Boxes,
        max: usize,
        mut sink: impl FnMut(Packet),
    ) -> usize {
        let mut packets = 0;
        while packets < max.min(READ_MAX) {
            while self.segments.len() < self.segments_wanted {
                let Some(mut frame) = pool.take() else { return packets };
                frame.reset(HEADROOM);
                self.segments.push(frame);
            }
            // An error is a device that went away: the controller sees that by netlink, and nothing is read till then.
            let Ok(Some((len, header))) = self.tap.recv(&mut self.segments) else { break };
            let Some(packet) = self.take_packet(len, header, boxes) else { continue };
            packets += 1;
            sink(packet);
        }
        packets
    }

    /// Makes a packet of the segments that were filled; the others stay for the next one.
    fn take_packet(&mut self, len: usize, header: VirtioNetHeader, boxes: &mut Boxes) -> Option<Packet> {
        let filled = self.segments.iter().take_while(|frame| !frame.is_empty()).count();
        let whole = self.segments.iter().map(Frame::len).sum::<usize>() == len;
        if filled == 0 || !whole {
            for frame in &mut self.segments {
                frame.reset(HEADROOM);
            }
            return None;
        }
        let mut used = self.segments.drain(..filled);
        let mut packet = Packet::new(used.next()?);
        if filled > 1 {
            let mut rest = boxes.pop().unwrap_or_default();
            rest.extend(used);
            packet.rest = Some(rest);
        }
        packet.offload = Offload {
            gso_size: if header.gso_type == VirtioNetHeader::GSO_NONE { 0 } else { header.gso_size },
            checksum: (header.flags & VirtioNetHeader::NEEDS_CHECKSUM != 0)
                .then_some(PartialChecksum { start: header.checksum_start, offset: header.checksum_offset }),
        };
        Some(packet)
    }

    pub(super) fn transmit(
        &mut self,
        packet: Packet,
        pool: &mut FramePool,
        boxes: &mut Boxes,
    ) -> Result<(), Packet> {
        let header = super::packet_socket::header_of(&packet);
        let mut segments: [&[u8]; SEGMENTS_MAX] = [&[]; SEGMENTS_MAX];
        let mut count = 0;
        for (place, frame) in segments.iter_mut().zip(packet.segments()) {
            *place = frame.data();
            count += 1;
        }
        match self.tap.send(header, &segments[..count]) {
            Ok(true) => {
                packet.release(pool, boxes);
                Ok(())
            }
            Ok(false) | Err(_) => Err(packet),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Detaches from the device; the frames it would have read into come back.
    #[must_use]
    pub fn into_frames(self) -> Vec<Frame> {
        self.segments
    }
}
