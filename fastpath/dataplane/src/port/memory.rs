//! A port of two queues, for the offline judge, benchmarks and tests: the whole pipeline without a kernel.

use std::collections::VecDeque;

use crate::packet::Packet;

/// What has been injected and not yet received, and what has been sent.
#[derive(Debug, Default)]
pub struct MemoryPort {
    incoming: VecDeque<Packet>,
    outgoing: VecDeque<Packet>,
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

    pub(super) fn receive(&mut self, max: usize, mut sink: impl FnMut(Packet)) -> usize {
        let count = max.min(self.incoming.len());
        self.incoming.drain(..count).for_each(&mut sink);
        count
    }

    pub(super) fn transmit(&mut self, packet: Packet) -> Result<(), Packet> {
        self.outgoing.push_back(packet);
        Ok(())
    }
}
