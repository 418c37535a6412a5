//! How packets leave an engine: by a port of its own, or by a ring to another worker. Whatever cannot leave is counted, and
//! its frames go home.

use super::*;

/// What came of a flush.
enum Flushed {
    /// Nothing is left.
    All,
    /// Something is, and the kernel takes it bit by bit.
    Progress,
    /// Something is, and the kernel has not taken anything for a while.
    Stalled,
}

/// Flushes in a row that send nothing, until a port counts as stalled. A receiver that is merely slow takes something before.
const IDLE_FLUSHES_MAX: u8 = 64;

impl Engine {
    /// Sends what ports have been given: one kick a port and turn, and one ring of the bell a peer.
    pub fn flush(&mut self) {
        let mut at = 0;
        while at < self.dirty.len() {
            let port = self.dirty[at];
            match self.flush_port(port) {
                Flushed::Progress => at += 1,
                Flushed::All => {
                    self.dirty.swap_remove(at);
                }
                Flushed::Stalled => {
                    self.dirty.swap_remove(at);
                    self.stalled.push(port);
                }
            }
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.flush();
        }
    }

    fn flush_port(&mut self, at: usize) -> Flushed {
        let Some(Some(entry)) = self.ports.get_mut(at) else { return Flushed::All };
        let left = entry.port.flush(&mut self.pool, &mut self.boxes);
        entry.idle_flushes = if left == entry.unsent { entry.idle_flushes.saturating_add(1) } else { 0 };
        (entry.unsent, entry.dirty) = (left, left > 0);
        match left {
            0 => Flushed::All,
            _ if entry.idle_flushes >= IDLE_FLUSHES_MAX => Flushed::Stalled,
            _ => Flushed::Progress,
        }
    }

    /// Tries ports again whose kernel took nothing.
    pub(super) fn retry_stalled(&mut self) {
        let mut at = 0;
        while at < self.stalled.len() {
            let port = self.stalled[at];
            match self.flush_port(port) {
                Flushed::Stalled => at += 1,
                Flushed::All => {
                    self.stalled.swap_remove(at);
                }
                Flushed::Progress => {
                    self.stalled.swap_remove(at);
                    self.dirty.push(port);
                }
            }
        }
    }

    /// Whether a port has been given packets that the kernel has not taken yet, and is about to.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether the kernel takes nothing from a port, and it should be tried again soon.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    // Into the one place that every packet comes by.
    #[inline(always)]
    pub(super) fn transmit(&mut self, egress: Egress, packet: Packet) {
        let (here, owner) = match egress {
            Egress::Endpoint(endpoint) => {
                (self.endpoints.get(endpoint.0 as usize).copied().flatten(), self.index)
            }
            Egress::Uplink(uplink) => {
                (self.uplinks.get(usize::from(uplink.0)).copied().flatten(), self.owners.uplink)
            }
            Egress::Host => (self.host, self.owners.host),
            Egress::Forward => (self.forward, self.owners.forward),
        };
        let Some(at) = here else {
            if owner != self.index {
                return self.hand_over(owner, Step::Transmit(egress), packet);
            }
            return self.discard(packet, DropReason::PortGone);
        };
        let Some(Some(entry)) = self.ports.get_mut(at) else {
            return self.discard(packet, DropReason::PortGone);
        };
        let len = packet.len() as u64;
        if packet.offload.checksum.is_some()
            && packet.offload.gso_size == 0
            && !entry.port.completes_checksums()
        {
            self.counters.pipeline.checksums_completed.add(1);
        }
        match entry.port.transmit(packet, &mut self.pool, &mut self.boxes) {
            Ok(()) => {
                entry.counters.sent_packets.add(1);
                entry.counters.sent_bytes.add(len);
                if matches!(egress, Egress::Host | Egress::Forward) {
                    self.counters.pipeline.to_host.add(1);
                }
                if !entry.dirty {
                    entry.dirty = true;
                    self.dirty.push(at);
                }
            }
            Err(packet) if packet.offload.gso_size != 0 && !entry.port.carries_super_frames() => {
                self.transmit_segments(at, packet);
            }
            Err(packet) => self.discard(packet, DropReason::TransmitRingFull),
        }
    }

    /// Sends a super-frame by a port that carries none.
    #[inline(never)]
    fn transmit_segments(&mut self, at: usize, packet: Packet) {
        let Some(Some(entry)) = self.ports.get_mut(at) else {
            return self.discard(packet, DropReason::PortGone);
        };
        let counters = &self.counters;
        let len = packet.len() as u64;
        let packet = match &mut entry.bulk {
            None => packet,
            // What came before it leaves before it.
            Some(_) if entry.port.unsent() > 0 && entry.port.flush(&mut self.pool, &mut self.boxes) > 0 => {
                packet
            }
            Some(bulk) => match bulk.send(packet, &mut self.pool, &mut self.boxes) {
                Ok(sent) => {
                    counters.count_drops(DropReason::TransmitRingFull, sent.lost as u64);
                    counters.pipeline.segmented_by_kernel.add(1);
                    entry.counters.sent_packets.add(sent.segments as u64);
                    entry.counters.sent_bytes.add(len);
                    return;
                }
                Err(packet) => packet,
            },
        };
        let in_software = !entry.port.completes_checksums();
        let cut = segment::cut(packet, &mut self.pool, &mut self.boxes, |segment, pool, boxes| {
            let len = segment.len() as u64;
            counters.pipeline.checksums_completed.add(u64::from(in_software));
            match entry.port.transmit(segment, pool, boxes) {
                Ok(()) => {
                    entry.counters.sent_packets.add(1);
                    entry.counters.sent_bytes.add(len);
                }
                Err(segment) => {
                    counters.count_drop(DropReason::TransmitRingFull);
                    segment.release(pool, boxes);
                }
            }
        });
        match cut {
            Ok(segments) => {
                counters.pipeline.segmented.add(1);
                counters.pipeline.segments_made.add(segments as u64);
                if !entry.dirty {
                    entry.dirty = true;
                    self.dirty.push(at);
                }
            }
            Err((packet, reason)) => self.discard(packet, reason),
        }
    }

    #[inline(never)]
    pub(super) fn hand_over(&mut self, worker: WorkerIndex, step: Step, packet: Packet) {
        let peer = self.peers.get_mut(usize::from(worker.0)).and_then(Option::as_mut);
        match peer.map(|peer| peer.send(&packet, step, &mut self.boxes)) {
            Some(Ok(())) => {
                self.counters.pipeline.handed_over.add(1);
                packet.release(&mut self.pool, &mut self.boxes);
            }
            Some(Err(_)) => self.discard(packet, DropReason::HandoverRefused),
            None => self.discard(packet, DropReason::PortGone),
        }
    }

    #[inline(never)]
    pub(super) fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.counters.count_drop(reason);
        packet.release(&mut self.pool, &mut self.boxes);
    }
}
