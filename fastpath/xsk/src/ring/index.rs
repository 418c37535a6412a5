//! Ring index arithmetic, and nothing else: no memory, no atomics, so that small models of it can be walked exhaustively.
//!
//! Both indices of a ring count up for ever and wrap at 2³²; a slot is `index mod size`. Hence for a ring whose size is a power of two,
//! `producer − consumer` (wrapping) is always how many entries are in it, and full (`size`) differs from empty (`0`).
//!
//! What the other side says about its index is checked: an index that went backwards or beyond what is possible is ignored, so that a
//! damaged ring stalls instead of handing out slots twice.

/// The writing side's view of a ring.
///
/// ```text
///   consumer ≤ committed ≤ next ≤ consumer + size
///   │ entries the other side has yet to read │ written, not to be seen yet │ free
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerIndex {
    size: u32,
    next: u32,
    committed: u32,
    consumer: u32,
}

impl ProducerIndex {
    /// For a ring whose indices both stand at `at`. `size` is a power of two.
    pub const fn new(size: u32, at: u32) -> Self {
        assert!(size.is_power_of_two());
        Self { size, next: at, committed: at, consumer: at }
    }

    /// How many slots can be taken.
    #[inline]
    pub const fn free(&self) -> u32 {
        self.size - self.next.wrapping_sub(self.consumer)
    }

    /// How many entries the other side has not consumed, as far as known.
    #[inline]
    pub const fn pending(&self) -> u32 {
        self.committed.wrapping_sub(self.consumer)
    }

    /// Takes the next slot to write to.
    #[inline]
    pub const fn reserve(&mut self) -> Option<u32> {
        if self.free() == 0 {
            return None;
        }
        let slot = self.next & (self.size - 1);
        self.next = self.next.wrapping_add(1);
        Some(slot)
    }

    /// Everything reserved so far may be shown to the other side.
    #[inline]
    pub const fn commit(&mut self) {
        self.committed = self.next;
    }

    /// The producer index to publish.
    #[inline]
    pub const fn committed(&self) -> u32 {
        self.committed
    }

    /// Learns the other side's index.
    #[inline]
    pub const fn saw_consumer(&mut self, consumer: u32) {
        if consumer.wrapping_sub(self.consumer) <= self.pending() {
            self.consumer = consumer;
        }
    }
}

/// The reading side's view of a ring.
///
/// ```text
///   released ≤ next ≤ producer ≤ released + size
///   │ read, slot still ours │ to be read │
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerIndex {
    size: u32,
    next: u32,
    released: u32,
    producer: u32,
}

impl ConsumerIndex {
    /// For a ring whose indices both stand at `at`. `size` is a power of two.
    pub const fn new(size: u32, at: u32) -> Self {
        assert!(size.is_power_of_two());
        Self { size, next: at, released: at, producer: at }
    }

    /// How many entries can be read, as far as known.
    #[inline]
    pub const fn available(&self) -> u32 {
        self.producer.wrapping_sub(self.next)
    }

    /// Takes the next slot to read from.
    #[inline]
    pub const fn take(&mut self) -> Option<u32> {
        if self.available() == 0 {
            return None;
        }
        let slot = self.next & (self.size - 1);
        self.next = self.next.wrapping_add(1);
        Some(slot)
    }

    /// Gives the slots of all entries taken back to the writer; the consumer index to publish.
    #[inline]
    pub const fn release(&mut self) -> u32 {
        self.released = self.next;
        self.released
    }

    /// Learns the other side's index.
    #[inline]
    pub const fn saw_producer(&mut self, producer: u32) {
        let entries = producer.wrapping_sub(self.released);
        if entries <= self.size && entries >= self.producer.wrapping_sub(self.released) {
            self.producer = producer;
        }
    }
}

#[cfg(test)]
mod tests;
