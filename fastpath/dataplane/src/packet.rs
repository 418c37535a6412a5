//! A packet: a chain of frames and what is still to be done to it.
//!
//! ```text
//!   Packet ── head: Frame ──► Ethernet · [tunnel] · IP · L4 · payload…
//!     │       rest: Chain ──► …payload… , …payload
//!     └ offload: gso_size, checksum {start, offset}
//! ```
//!
//! A plain frame is a chain of one and the common case. A jumbo frame (AF_XDP multi-buffer) and a 64 KB super-frame
//! (virtio-net header) are longer chains. Headers are in the first segment, always, and stages touch nothing else.

use caracal_wire::checksum::Sum;
use caracal_xsk::{Frame, FramePool};

/// The most segments of one packet: 64 KB in pieces of 1,024 bytes, so that each may be a segment of the wire.
pub const SEGMENTS_MAX: usize = 64;

/// Where a checksum still has to be completed, as CHECKSUM_PARTIAL and the virtio-net header have it: from `start`
/// (bytes from the beginning of the packet) to its end, stored at `start + offset`. The field already holds the
/// pseudo-header sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that the checksum covers.
    pub start: u16,
    /// Where in it the field is.
    pub offset: u16,
}

/// What is left to be done by whoever puts the packet on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Largest payload of one segment, bytes; 0: the packet is not a super-frame.
    pub gso_size: u16,
    /// The transport checksum that is still partial, if any.
    pub checksum: Option<PartialChecksum>,
}

/// Bytes in further segments. Few packets have any, and a loop in every stage that asks for a length costs all of them.
#[cold]
fn len_of(rest: &[Frame]) -> usize {
    rest.iter().map(Frame::len).sum()
}

/// As [`Packet::truncate`], of a chain.
#[cold]
fn truncate_last(head: &Frame, rest: &mut [Frame], len: usize) -> bool {
    let Some((last, before)) = rest.split_last_mut() else { return true };
    let before = head.len() + before.iter().map(Frame::len).sum::<usize>();
    last.truncate(len.saturating_sub(before));
    !last.is_empty()
}

/// A packet on its way. Not dropped but put back: see [`Packet::release`].
#[derive(Debug)]
pub struct Packet {
    /// First segment; holds all headers.
    pub head: Frame,
    /// Further segments, in order. The box is recycled by the worker, so a chain allocates only until it has warmed up.
    pub rest: Option<Box<Vec<Frame>>>,
    /// What is still to be done to it.
    pub offload: Offload,
}

impl Packet {
    /// A packet of one frame with nothing left to do.
    #[inline]
    #[must_use]
    pub fn new(head: Frame) -> Self {
        Packet { head, rest: None, offload: Offload::default() }
    }

    /// Bytes from the first header to the last byte of payload.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.rest {
            None => self.head.len(),
            Some(rest) => self.head.len() + len_of(rest),
        }
    }

    /// Brings near what the first stage reads: all headers of a tunnel packet are in two cache lines.
    #[inline]
    pub fn prefetch_headers(&self) {
        const LINE: usize = 64;
        self.head.prefetch();
        caracal_xsk::prefetch_slice(self.head.data(), LINE);
    }

    /// Whether there is not a single byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &Frame> {
        std::iter::once(&self.head).chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// Puts `n` bytes in front; the partial checksum moves along. `None` when there is no headroom.
    #[inline]
    pub fn prepend(&mut self, n: u16) -> Option<&mut [u8]> {
        if let Some(checksum) = &mut self.offload.checksum {
            checksum.start = checksum.start.checked_add(n)?;
        }
        self.head.prepend(usize::from(n))
    }

    /// Takes `n` bytes off the front. The partial checksum moves along, or goes if it began in what was cut.
    #[inline]
    pub fn trim_front(&mut self, n: u16) {
        self.head.trim_front(usize::from(n));
        if let Some(checksum) = &mut self.offload.checksum {
            match checksum.start.checked_sub(n) {
                Some(start) => checksum.start = start,
                None => self.offload.checksum = None,
            }
        }
    }

    /// Cuts the packet to `len` bytes: what Ethernet padded goes. False: the packet has a segment that would be left
    /// empty, which no padding makes.
    #[inline(always)]
    #[must_use]
    pub fn truncate(&mut self, len: usize) -> bool {
        match &mut self.rest {
            None => {
                self.head.truncate(len);
                true
            }
            Some(rest) => truncate_last(&self.head, rest, len),
        }
    }

    /// Completes a partial checksum by reading the whole packet once (RFC 1071).
    pub fn complete_checksum(&mut self) {
        let Some(PartialChecksum { start, offset }) = self.offload.checksum.take() else { return };
        let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
        if start > self.head.len() {
            return;
        }
        let value = match self.sum(start).finish() {
            // RFC 768: zero means "no checksum"; the other zero is sent instead.
            0 => 0xffff,
            value => value,
        };
        if let Some(bytes) = self.head.data_mut().get_mut(field..field + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Copies bytes from `from` on, of whatever segments, until `into` is full; false: there are not so many.
    #[must_use]
    pub fn read(&self, from: usize, into: &mut [u8]) -> bool {
        let (mut skip, mut filled) = (from, 0);
        for segment in self.segments() {
            let bytes = segment.data().get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(segment.len());
            let rest = &mut into[filled..];
            let len = bytes.len().min(rest.len());
            rest[..len].copy_from_slice(&bytes[..len]);
            filled += len;
        }
        filled == into.len()
    }

    /// The sum over everything from byte `start` on, which is in the first segment.
    fn sum(&self, start: usize) -> Sum {
        let first = self.head.data().get(start..).unwrap_or_default();
        let mut sum = Sum::of(first);
        let mut odd = first.len() % 2 == 1;
        for segment in self.rest.iter().flat_map(|rest| rest.iter()) {
            let part = Sum::of(segment.data()).fold();
            // A segment that begins at an odd byte contributes with its bytes swapped (RFC 1071, 2B).
            sum = sum + if odd { part.swap_bytes() } else { part };
            odd ^= segment.len() % 2 == 1;
        }
        sum
    }

    /// The sum over everything from byte `start` on as it is going to be when the half-made checksum is completed, which
    /// need not read what that covers: a whole checksum makes the bytes under it add up to the complement of the
    /// pseudo-header's sum, and that is in its field.
    #[must_use]
    pub fn completed_sum(&self, start: usize) -> Sum {
        let Some(PartialChecksum { start: covered, offset }) = self.offload.checksum else {
            return self.sum(start);
        };
        let (covered, field) = (usize::from(covered), usize::from(covered) + usize::from(offset));
        let bytes = self.head.data();
        match (bytes.get(start..covered), bytes.get(field..)) {
            (Some(before), Some(&[high, low, ..])) => {
                let rest = !u16::from_be_bytes([high, low]);
                // As above: what begins at an odd byte contributes with its bytes swapped.
                Sum::of(before) + if before.len() % 2 == 1 { rest.swap_bytes() } else { rest }
            }
            _ => self.sum(start),
        }
    }

    /// Gives every frame back. The emptied box of a chain is handed out for the next one.
    pub fn release(self, pool: &mut FramePool, boxes: &mut Vec<Box<Vec<Frame>>>) {
        pool.put(self.head);
        if let Some(mut rest) = self.rest {
            for frame in rest.drain(..) {
                pool.put(frame);
            }
            boxes.push(rest);
        }
    }
}
