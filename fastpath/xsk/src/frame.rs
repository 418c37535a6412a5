//! A [`Frame`]: one chunk of a domain's memory, and the packet bytes in it.
//!
//! ```text
//!   0        24                start              start + len            capacity
//!   ├────────┼───────────────────┼────────────────────┼─────────────────────┤
//!   │reserved│     headroom      │        data        │      tailroom       │
//!   └────────┴───────────────────┴────────────────────┴─────────────────────┘
//!       └ the transmit metadata of a frame whose data begin here at the earliest
//! ```
//!
//! Invariant: `RESERVED_HEADROOM <= start`, `start + len <= capacity`, and nobody else, the kernel included, reads or writes the
//! chunk while the `Frame` exists.

use crate::prefetch;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes at the start of each chunk that are never headroom: AF_XDP wants its transmit metadata right before the data,
/// and refuses a descriptor that leaves no room for them.
pub const RESERVED_HEADROOM: usize = 24;

/// Which memory a frame is part of. Never used twice in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(u32);

impl DomainId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {}", self.0)
    }
}

static LOST: AtomicU64 = AtomicU64::new(0);

pub(crate) fn count_lost(frames: u64) {
    LOST.fetch_add(frames, Ordering::Relaxed);
}

/// How many frames this process has dropped, alone or with their socket, instead of giving them back. While it runs, anything but 0 is a
/// bug in the caller.
pub fn lost_frames() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// One chunk of memory with packet bytes in it, owned by whoever has the value.
pub struct Frame {
    chunk: NonNull<u8>,
    index: u32,
    domain: DomainId,
    start: u16,
    len: u16,
    capacity: u16,
}

const _: () = assert!(size_of::<Frame>() == 24 && size_of::<Option<Frame>>() == 24);

// SAFETY: a Frame is the only way to its bytes (module invariant), as with Box<[u8]>; the memory belongs to no thread.
unsafe impl Send for Frame {}
// SAFETY: as with Box<[u8]>: `&Frame` only reads.
unsafe impl Sync for Frame {}

impl Frame {
    /// # Safety
    ///
    /// `chunk` points to `capacity` initialised bytes that stay mapped until the frame is given back to the pool of `domain`, and
    /// nothing else holds chunk `index` of that domain.
    pub(crate) unsafe fn new(chunk: NonNull<u8>, index: u32, domain: DomainId, capacity: u16) -> Self {
        Self { chunk, index, domain, start: RESERVED_HEADROOM as u16, len: 0, capacity }
    }

    /// Gives up the value without giving up the chunk: the caller now holds chunk `index` of the domain.
    pub(crate) fn into_index(self) -> u32 {
        let index = self.index;
        std::mem::forget(self);
        index
    }

    /// Sets where the data are; false, and nothing changed, if that is outside the chunk.
    pub(crate) fn set_extent(&mut self, start: usize, len: usize) -> bool {
        let fits = start >= RESERVED_HEADROOM && start.saturating_add(len) <= self.capacity();
        if fits {
            self.start = start as u16;
            self.len = len as u16;
        }
        fits
    }

    /// Offset of the data in the chunk.
    pub(crate) fn start(&self) -> usize {
        self.start as usize
    }

    /// Writes the transmit metadata right before the data.
    pub(crate) fn write_metadata(&mut self, metadata: [u8; RESERVED_HEADROOM]) {
        // SAFETY: `RESERVED_HEADROOM <= start <= capacity` (invariant), so the destination is inside our chunk.
        unsafe {
            let target = self.chunk.add(self.start as usize - RESERVED_HEADROOM);
            std::ptr::copy_nonoverlapping(metadata.as_ptr(), target.as_ptr(), metadata.len());
        }
    }

    /// The packet bytes.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `start + len <= capacity` (invariant); the chunk is initialised and ours.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The packet bytes, to write.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and `&mut self` makes it the only reference.
        unsafe {
            std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start as usize), self.len as usize)
        }
    }

    /// Bytes of data.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no data.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the chunk.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// How far [`prepend`](Self::prepend) can go.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start as usize - RESERVED_HEADROOM
    }

    /// How far [`append`](Self::append) can go.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.capacity as usize - self.start as usize - self.len as usize
    }

    /// The domain whose pool this frame must go back to.
    #[inline]
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Which chunk of its domain this is.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Grows the data by `n` bytes at the front and returns those, whatever they contain; None if there is no such headroom.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        self.start -= n as u16;
        self.len += n as u16;
        self.data_mut().get_mut(..n)
    }

    /// Grows the data by `n` bytes at the end and returns those, whatever they contain; None if there is no such tailroom.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let old = self.len();
        self.len += n as u16;
        self.data_mut().get_mut(old..)
    }

    /// Takes `n` bytes off the front; all of them if there are fewer.
    #[inline]
    pub fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len()) as u16;
        self.start += n;
        self.len -= n;
    }

    /// Keeps the first `len` bytes; all of them if there are fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u16;
    }

    /// Empties the frame and leaves `headroom` bytes (as much as there is, if that is less) before the data to come.
    #[inline]
    pub fn reset(&mut self, headroom: usize) {
        self.start = (RESERVED_HEADROOM + headroom.min(self.capacity() - RESERVED_HEADROOM)) as u16;
        self.len = 0;
    }

    /// Starts loading the cache line in which the data would begin if so many bytes were prepended.
    #[inline]
    pub fn prefetch_room(&self, n: usize) {
        prefetch::line(self.chunk.as_ptr().wrapping_add((self.start as usize).saturating_sub(n)));
    }

    /// Starts loading the first cache line of the data.
    #[inline]
    pub fn prefetch(&self) {
        prefetch::line(self.chunk.as_ptr().wrapping_add(self.start as usize));
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        count_lost(1);
        #[cfg(debug_assertions)]
        #[allow(clippy::panic, reason = "a debug build says where a frame was lost; a release build counts")]
        if !std::thread::panicking() {
            panic!("{self:?} was dropped; give it to a port or back to its pool");
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, domain, start, len, capacity, .. } = self;
        write!(f, "frame {index} of {domain} (bytes {start}..{} of {capacity})", start + len)
    }
}

#[cfg(test)]
mod tests;
