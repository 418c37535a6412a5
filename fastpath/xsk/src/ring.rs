//! # The four rings of an AF_XDP socket
//!
//! The kernel and we share one stretch of memory (the UMEM) cut into chunks. No packet is passed by handing over bytes; what is
//! passed is the *right to touch a chunk*, as an address written into a ring. There are four rings because there are two
//! directions and each needs a way out and a way home:
//!
//! ```text
//!                      we write                          we read
//!   receive   fill:       "here is an empty chunk"     RX:          "here it is, with a packet in it"
//!   transmit  TX:         "send what is in this chunk" completion:  "sent; the chunk is yours again"
//! ```
//!
//! So at any moment a chunk is held by exactly one of: us (free in a pool, or a `Frame`), or the kernel (it is in the fill or TX ring,
//! or on its way through the kernel, or in the RX or completion ring and not yet read). Writing an address into fill or TX *is* giving
//! the chunk away: touching it afterwards is a data race with the kernel. Two consequences shape everything above this file:
//!
//! - **Receiving runs dry without filling.** The kernel drops a packet that finds no chunk in the fill ring; it cannot wait for us. The
//!   fill ring must be kept as full as the expected burst is large.
//! - **Transmitting runs dry without reclaiming.** A sent chunk is lost to us until its completion is read. On a veth it comes back when
//!   the *receiver* is done with the packet, so a slow pod holds on to our chunks; callers cap what is in flight for each port.
//!
//! # Where the data are in a chunk, and what that does to the MTU
//!
//! Received data begin 256 bytes (the kernel's XDP headroom) plus our own configured headroom into the chunk; that is room to put an outer
//! header in front without copying. What remains of a 2,048-byte chunk is 1,792 bytes: enough for an MTU of 1,500 with a VLAN tag and to
//! spare, not for a jumbo frame. With multi-buffer a longer packet arrives as several descriptors, all but the last marked "continued";
//! all headers are in the first. Without multi-buffer it is dropped. On transmit, the 24 bytes before the data belong to
//! the transmit metadata.
//!
//! # Memory ordering
//!
//! A ring is single-producer, single-consumer: one side only ever writes `producer`, the other only `consumer`.
//!
//! ```text
//!   writer:  write slot n              reader:  p = load producer  (Acquire)
//!            store producer = n + 1             … p > n, so: read slot n
//!                  (Release)                    store consumer = n + 1 (Release)
//!   writer, later:  c = load consumer (Acquire);  … c > n, so: slot n may be overwritten
//! ```
//!
//! The Release store makes the slot's content (and the packet bytes it speaks of) visible to whoever's Acquire load sees the new
//! index. x86 would forgive plain stores here; compilers and arm64 would not. Indices are published once a batch, not once an
//! entry: a shared cache line that is written costs both sides.
//!
//! [`index`] has the arithmetic (walked exhaustively in its tests), [`Producer`] and [`Consumer`] add the ordering (checked with loom
//! in theirs), and `kernel` adds the memory that the kernel maps for us.

pub mod index;
pub(crate) mod kernel;

pub use index::{ConsumerIndex, ProducerIndex};

/// One of the two shared indices of a ring. A trait so that the same code runs on the kernel's memory and under loom.
pub trait SharedIndex {
    /// Reads; what the other side wrote before its store of this value is visible afterwards.
    fn load(&self) -> u32;
    /// Writes; what we wrote before is visible to whoever loads this value.
    fn store(&self, value: u32);
}

/// The writing side of a ring.
#[derive(Debug)]
pub struct Producer<I> {
    index: ProducerIndex,
    producer: I,
    consumer: I,
}

impl<I: SharedIndex> Producer<I> {
    /// The writing side of a new ring of `size` (a power of two) entries.
    pub fn new(size: u32, producer: I, consumer: I) -> Self {
        Self { index: ProducerIndex::new(size, producer.load()), producer, consumer }
    }

    /// Takes the next slot to write to; looks at the other side's index only when there seems to be none.
    #[inline]
    pub fn reserve(&mut self) -> Option<u32> {
        if self.index.free() == 0 {
            self.index.saw_consumer(self.consumer.load());
        }
        self.index.reserve()
    }

    /// Whether `reserve` would find a slot; asks the other side only when there seems to be none.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        self.has_room_for(1)
    }

    /// The same for several slots.
    #[inline]
    pub fn has_room_for(&mut self, slots: u32) -> bool {
        self.index.free() >= slots || self.free() >= slots
    }

    /// What was written since the last commit is a whole (a packet's last segment, say) and may be published.
    #[inline]
    pub fn commit(&mut self) {
        self.index.commit();
    }

    /// Shows the other side everything committed.
    #[inline]
    pub fn publish(&mut self) {
        self.producer.store(self.index.committed());
    }

    /// How many slots are free, asking the other side.
    #[inline]
    pub fn free(&mut self) -> u32 {
        self.index.saw_consumer(self.consumer.load());
        self.index.free()
    }

    /// How many committed entries the other side has yet to consume, asking it.
    #[inline]
    pub fn pending(&mut self) -> u32 {
        self.index.saw_consumer(self.consumer.load());
        self.index.pending()
    }
}

/// The reading side of a ring.
#[derive(Debug)]
pub struct Consumer<I> {
    index: ConsumerIndex,
    producer: I,
    consumer: I,
}

impl<I: SharedIndex> Consumer<I> {
    /// The reading side of a new ring of `size` (a power of two) entries.
    pub fn new(size: u32, producer: I, consumer: I) -> Self {
        Self { index: ConsumerIndex::new(size, consumer.load()), producer, consumer }
    }

    /// Takes the next slot to read from; looks at the other side's index only when there seems to be none.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        if self.index.available() == 0 {
            self.index.saw_producer(self.producer.load());
        }
        self.index.take()
    }

    /// Gives the slots read so far back to the writer.
    #[inline]
    pub fn release(&mut self) {
        self.consumer.store(self.index.release());
    }

    /// How many entries can be read, asking the other side.
    #[inline]
    pub fn available(&mut self) -> u32 {
        self.index.saw_producer(self.producer.load());
        self.index.available()
    }
}

#[cfg(test)]
mod tests;
