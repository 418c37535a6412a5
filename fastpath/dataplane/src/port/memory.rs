//! A port of two queues, for the offline judge, benchmarks and tests: the whole pipeline without a kernel.

use std::collections::VecDeque;

use crate::packet::Packet;

/// What has been injected and not yet received, and what has been sent.
#[derive(Debug, Default)]
pub struct MemoryPort {
    incoming: VecDeque<Packet>,
    outgoing: VecDeque<Packet>,
    room: Option<usize>,
}

impl MemoryPort {
    /// Puts a packet where [`receive`](Self::receive) finds it.
    pub fn inject(&mut self, packet: Packet) {
        self.incoming.push_back(packet);
    }

    /// Takes the next packet that was sent.
    pub fn sent(&mut self) -> Option<Packet> {
        self.outgoing.pop_front()
    }

    /// Takes a packet that was injected and not received.
    pub fn take_unreceived(&mut self) -> Option<Packet> {
        self.incoming.pop_front()
    }

    /// Refuses packets while `packets` of them wait to be taken, as a ring of that size does. Without this, there is
    /// always room.
    pub fn set_room(&mut self, packets: usize) {
        self.room = Some(packets);
    }

    #[inline]
    pub(super) fn receive(&mut self, max: usize, mut sink: impl FnMut(Packet)) -> usize {
        let count = max.min(self.incoming.len());
        // A loop: packets are large, and every call between here and the batch would copy them.
        for packet in self.incoming.drain(..count) {
            sink(packet);
        }
        count
    }

    pub(super) fn transmit(&mut self, packet: Packet) -> Result<(), Packet> {
        // A wire carries no super-frames.
        if packet.offload.gso_size != 0 || self.room.is_some_and(|room| self.outgoing.len() >= room) {
            return Err(packet);
        }
        self.outgoing.push_back(packet);
        Ok(())
    }
}
