//! [`FramePool`]: the chunks of a domain that nobody uses.

use crate::frame::{DomainId, Frame};
use crate::memory::Memory;
use std::fmt;
use std::sync::Arc;

/// Chunk size of heap pools.
const HEAP_CHUNK: u16 = 2048;

/// The free chunks of one domain, last in first out so that warm memory is used again first.
///
/// Owned by one worker. When it is dropped while frames are out, the memory is leaked, so that they stay valid.
pub struct FramePool {
    memory: Arc<Memory>,
    /// Chunks that we hold: each index at most once.
    free: Vec<u32>,
    strays: u64,
}

impl FramePool {
    /// All chunks of `memory`, which nobody else may hold.
    pub(crate) fn full(memory: Arc<Memory>) -> Self {
        // Descending, so that the first frames come from the start of the memory.
        let free = (0..memory.chunks()).rev().collect();
        Self { memory, free, strays: 0 }
    }

    /// A pool of plain heap memory, 2,048 bytes a chunk: for ports without a kernel, tests, and the offline judge.
    pub fn heap(chunks: u32) -> Self {
        Self::full(Arc::new(Memory::heap(chunks, HEAP_CHUNK)))
    }

    /// A free frame, empty, without headroom (see [`Frame::reset`]); None if all are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        // SAFETY: we held the index and just gave it up.
        unsafe { self.memory.frame(index) }
    }

    /// Takes a frame back. One of another domain is a bug: a debug build panics, a release build keeps the frame from use
    /// (its memory stays valid) and counts it in [`strays`](Self::strays).
    #[inline]
    pub fn put(&mut self, frame: Frame) {
        if let Err(frame) = self.try_put(frame) {
            debug_assert!(std::thread::panicking(), "{frame:?} was put into the pool of {}", self.domain());
            self.strays += 1;
            std::mem::forget(frame);
        }
    }

    /// Takes a frame back if it is of this domain.
    #[inline]
    pub fn try_put(&mut self, frame: Frame) -> Result<(), Frame> {
        if frame.domain() != self.memory.domain() {
            return Err(frame);
        }
        self.free.push(frame.into_index());
        Ok(())
    }

    /// Takes a chunk back by its index.
    ///
    /// # Safety
    ///
    /// The caller held this chunk of this domain, and gives it up with this call.
    #[inline]
    pub(crate) unsafe fn put_index(&mut self, index: u32) {
        debug_assert!(index < self.memory.chunks());
        self.free.push(index);
    }

    /// Gives the caller a chunk to hold.
    pub(crate) fn take_index(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// How many frames can be taken.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many chunks the domain has.
    #[inline]
    pub fn total(&self) -> usize {
        self.memory.chunks() as usize
    }

    /// Bytes in a chunk.
    pub fn chunk_size(&self) -> usize {
        self.memory.chunk_size() as usize
    }

    /// Whose frames these are.
    #[inline]
    pub fn domain(&self) -> DomainId {
        self.memory.domain()
    }

    /// How many frames of other domains were put here by mistake.
    pub fn strays(&self) -> u64 {
        self.strays
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        if self.free() != self.total() {
            self.memory.abandon();
        }
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool of {}: {} of {} chunks free", self.domain(), self.free(), self.total())
    }
}

#[cfg(test)]
mod tests;
