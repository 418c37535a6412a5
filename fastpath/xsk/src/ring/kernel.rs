//! A ring in memory that the kernel maps for us.

use super::{Consumer, Producer, SharedIndex};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where one ring of a socket is: its socket option, its page offset for `mmap`, and the offsets within.
pub(crate) struct Placement {
    pub(crate) page_offset: i64,
    pub(crate) offsets: libc::xdp_ring_offset,
}

/// The mapped memory of one ring with entries of type `T`, which is what the kernel puts there (`u64` or `xdp_desc`).
pub(crate) struct KernelRing<T> {
    base: NonNull<libc::c_void>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    size: u32,
}

// SAFETY: the mapping belongs to no thread; the slots are plain data.
unsafe impl<T: Copy + Send> Send for KernelRing<T> {}

impl<T: Copy> KernelRing<T> {
    /// Maps a ring of `size` (a power of two) entries that was configured on the socket before.
    pub(crate) fn map(socket: BorrowedFd<'_>, size: u32, placement: &Placement) -> std::io::Result<Self> {
        let offsets = &placement.offsets;
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let base = sys::map_ring(socket, bytes, placement.page_offset)?;
        let at = |offset: u64, len: usize| {
            let fits = (offset as usize).checked_add(len).is_some_and(|end| end <= bytes);
            // SAFETY: checked to be inside the mapping.
            fits.then(|| unsafe { base.byte_add(offset as usize) })
        };
        let word = size_of::<AtomicU32>();
        let (Some(producer), Some(consumer), Some(flags), Some(slots)) = (
            at(offsets.producer, word),
            at(offsets.consumer, word),
            at(offsets.flags, word),
            at(offsets.desc, size as usize * size_of::<T>()),
        ) else {
            sys::unmap(base, bytes);
            return Err(std::io::Error::other("the kernel's ring offsets lie outside the ring"));
        };
        Ok(Self {
            base,
            bytes,
            producer: producer.cast(),
            consumer: consumer.cast(),
            flags: flags.cast(),
            slots: slots.cast(),
            size,
        })
    }

    /// Whether the kernel wants a system call before it looks at the ring again.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        // Our index must be out before we look: else the kernel could go to sleep having seen the old index, unseen by us.
        std::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: points into the mapping, which lives as long as self.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// Reads a slot that a `Consumer` of this ring took.
    #[inline]
    pub(crate) fn read(&self, slot: u32) -> T {
        debug_assert!(slot < self.size);
        // SAFETY: slot < size by the index arithmetic (mask again, so that safety rests on this line alone); any bit pattern is a
        // valid T (`u64`, `xdp_desc`); the kernel does not write slots that it has published and we have not released.
        unsafe { self.slots.as_ptr().add((slot & (self.size - 1)) as usize).read() }
    }

    /// Writes a slot that a `Producer` of this ring reserved.
    #[inline]
    pub(crate) fn write(&mut self, slot: u32, value: T) {
        debug_assert!(slot < self.size);
        // SAFETY: as in `read`; the kernel does not read slots that we have not published.
        unsafe { self.slots.as_ptr().add((slot & (self.size - 1)) as usize).write(value) }
    }
}

impl<T> Drop for KernelRing<T> {
    fn drop(&mut self) {
        sys::unmap(self.base, self.bytes);
    }
}

/// A ring that we write: fill and TX.
pub(crate) struct ProducerRing<T> {
    index: Producer<KernelIndex>,
    ring: KernelRing<T>,
}

impl<T: Copy> ProducerRing<T> {
    pub(crate) fn new(ring: KernelRing<T>) -> Self {
        let (producer, consumer) = (KernelIndex(ring.producer), KernelIndex(ring.consumer));
        Self { index: Producer::new(ring.size, producer, consumer), ring }
    }

    /// Whether [`push`](Self::push) would find a slot.
    #[inline]
    pub(crate) fn has_room(&mut self) -> bool {
        self.index.has_room()
    }

    /// Whether so many would.
    #[inline]
    pub(crate) fn has_room_for(&mut self, entries: u32) -> bool {
        self.index.has_room_for(entries)
    }

    /// Writes an entry; false if the ring is full. It is published with the first `publish` after the next `commit`.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> bool {
        let slot = self.index.reserve();
        if let Some(slot) = slot {
            self.ring.write(slot, value);
        }
        slot.is_some()
    }

    #[inline]
    pub(crate) fn commit(&mut self) {
        self.index.commit();
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        self.index.publish();
    }

    pub(crate) fn free(&mut self) -> usize {
        self.index.free() as usize
    }

    #[inline]
    pub(crate) fn pending(&mut self) -> usize {
        self.index.pending() as usize
    }

    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that we read: RX and completion.
pub(crate) struct ConsumerRing<T> {
    index: Consumer<KernelIndex>,
    ring: KernelRing<T>,
}

impl<T: Copy> ConsumerRing<T> {
    pub(crate) fn new(ring: KernelRing<T>) -> Self {
        let (producer, consumer) = (KernelIndex(ring.producer), KernelIndex(ring.consumer));
        Self { index: Consumer::new(ring.size, producer, consumer), ring }
    }

    /// The next entry, if the kernel has published one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        let slot = self.index.take()?;
        Some(self.ring.read(slot))
    }

    /// Gives the slots of everything popped back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.index.release();
    }

    pub(crate) fn size(&self) -> u32 {
        self.ring.size
    }

    pub(crate) fn available(&mut self) -> usize {
        self.index.available() as usize
    }
}

/// A shared index in a [`KernelRing`]; private to the two types above, which keep it beside its ring.
#[derive(Debug)]
struct KernelIndex(NonNull<AtomicU32>);

// SAFETY: an atomic may be used from any thread.
unsafe impl Send for KernelIndex {}

impl SharedIndex for KernelIndex {
    #[inline]
    fn load(&self) -> u32 {
        // SAFETY: points into a mapping that lives as long as self (type's doc).
        unsafe { self.0.as_ref() }.load(Ordering::Acquire)
    }
    #[inline]
    fn store(&self, value: u32) {
        // SAFETY: as in `load`.
        unsafe { self.0.as_ref() }.store(value, Ordering::Release);
    }
}
