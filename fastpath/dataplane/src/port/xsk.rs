//! A port on an AF_XDP socket: one (device, queue).

use std::os::fd::{AsFd, BorrowedFd};

use caracal_xsk::{Checksum, Frame, FramePool, Socket, TxOptions};

use super::Boxes;
use crate::packet::{Packet, SEGMENTS_MAX};

/// Frames beyond its share that a busy port has to receive into.
///
/// Shares are small where there are many pods, and few pods are busy at a time. What the kernel has been given cannot be taken back; it
/// comes back with packets. So a port that nearly runs dry is lent as much again while the pool has plenty; when it has not, ports that do not
/// need their loan pay it with what comes back to them. Who falls silent keeps it; who is not lent anything has the share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Loan(usize);

/// A pool has plenty while this part of its frames is free.
const PLENTY: usize = 8;

/// Of a pool's frames this part is never given away to receive into: without a frame nobody can be asked for its surplus, and none
/// would ever come back.
const LAST: usize = 16;

/// Frames that a port is given to receive into even when the pool has not plenty, so that a first burst finds room.
pub const FILL_MIN: usize = 16;

impl Loan {
    /// After `came` frames: of `target`, share and loan, the kernel has `left`. At most `most` is lent.
    #[inline]
    fn follow(&mut self, came: usize, left: usize, target: usize, most: usize, plenty: bool) {
        if left < target / 4 {
            if plenty {
                self.0 = (self.0 + target).min(most);
            }
        } else if !plenty && left > target - target / 4 {
            self.0 = self.0.saturating_sub(came);
        }
    }
}

/// An AF_XDP socket with its share of the domain's frames.
#[derive(Debug)]
pub struct XskPort {
    socket: Socket,
    checksum_offload: bool,
    /// Frames that the kernel should have to receive into.
    fill_target: usize,
    loan: Loan,
    /// Frames that it is kept at: the target and the loan, as far as the pool has ever had plenty for them.
    kept_at: usize,
    /// Frames that stay in the pool: none are sent that leave fewer there.
    reserve: usize,
    /// Segments of a packet whose last one has not come yet.
    partial: Option<Packet>,
}

impl XskPort {
    /// A port on `socket`. `checksum_offload`: the domain takes half-made checksums on transmit.
    #[must_use]
    pub fn new(socket: Socket, checksum_offload: bool, fill_target: usize) -> Self {
        XskPort {
            socket,
            checksum_offload,
            fill_target,
            loan: Loan::default(),
            kept_at: 0,
            reserve: 0,
            partial: None,
        }
    }

    /// Sets how many frames the kernel should have to receive into. Fewer than now: the surplus comes back as packets
    /// arrive. One whose device receives into them directly keeps twice of what its RX ring holds: see
    /// [`Socket::receive_ring`].
    pub fn set_fill_target(&mut self, frames: usize) {
        let least = if self.socket.is_zero_copy() { 2 * self.socket.receive_ring() } else { 0 };
        self.fill_target = frames.max(least);
    }

    /// Sets how many frames stay in the pool, whatever is to be sent.
    pub fn set_reserve(&mut self, frames: usize) {
        self.reserve = frames;
    }

    /// Gives the kernel frames to receive into, up to the target. Of the pool's last frames a port that comes late takes only a few: the
    /// others' surplus has yet to come back.
    pub fn refill(&mut self, pool: &mut FramePool) {
        let spare = pool.free().saturating_sub(pool.total() / PLENTY);
        let most = self.kept_at.max(FILL_MIN).max(self.socket.receiving() + spare);
        self.kept_at = (self.fill_target + self.loan.0).min(most);
        let there_are = pool.free().saturating_sub(pool.total() / LAST);
        self.socket.refill(pool, self.kept_at.min(self.socket.receiving() + there_are));
    }

    /// Frames that the kernel has beyond the target and the loan: they come back with packets.
    #[must_use]
    pub fn surplus(&self) -> usize {
        self.socket.receiving().saturating_sub(self.fill_target + self.loan.0)
    }

    fn follow_loan(&mut self, came: usize, pool: &FramePool) {
        // What the device of a zero-copy socket has is what the host receives with: see `set_fill_target`.
        let ring = if self.socket.is_zero_copy() { 0 } else { self.socket.receive_ring() };
        let most = ring.saturating_sub(self.fill_target);
        let left = self.socket.receiving() - self.socket.receivable().min(self.socket.receiving());
        let plenty = pool.free() > pool.total() / PLENTY;
        self.loan.follow(came, left, self.fill_target + self.loan.0, most, plenty);
    }

    pub(super) fn receive(
        &mut self,
        pool: &mut FramePool,
        boxes: &mut Boxes,
        max: usize,
        mut sink: impl FnMut(Packet),
    ) -> usize {
        let mut packets = 0;
        let partial = &mut self.partial;
        let came = self.socket.receive(max, |frame, more| {
            let packet = match partial.take() {
                None => Packet::new(frame),
                Some(mut packet) => {
                    let rest = packet.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default());
                    rest.push(frame);
                    packet
                }
            };
            if more && packet.rest.as_ref().is_none_or(|rest| rest.len() + 1 < SEGMENTS_MAX) {
                *partial = Some(packet);
            } else {
                packets += 1;
                sink(packet);
            }
        });
        if came > 0 {
            self.follow_loan(came, pool);
        }
        self.refill(pool);
        packets
    }

    pub(super) fn transmit(
        &mut self,
        mut packet: Packet,
        pool: &mut FramePool,
        boxes: &mut Boxes,
    ) -> Result<(), Packet> {
        if packet.offload.gso_size != 0 {
            return Err(packet);
        }
        let segments = 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
        if segments > 1 && !self.socket.multi_buffer() {
            return Err(packet);
        }
        if pool.free() < self.reserve {
            return Err(packet);
        }
        if !self.socket.has_transmit_room(segments) {
            self.flush(pool);
            if !self.socket.has_transmit_room(segments) {
                return Err(packet);
            }
        }
        let checksum = if self.checksum_offload {
            packet.offload.checksum.take().map(|c| Checksum { start: c.start, offset: c.offset })
        } else {
            packet.complete_checksum();
            None
        };
        let Packet { head, rest, offload } = packet;
        let first = TxOptions { more: segments > 1, checksum };
        if let Err(head) = self.socket.transmit(head, first) {
            return Err(Packet { head, rest, offload });
        }
        if let Some(mut rest) = rest {
            let mut left = rest.len();
            for frame in rest.drain(..) {
                left -= 1;
                let options = TxOptions { more: left > 0, checksum: None };
                // There is room for all of them: it was asked for above.
                if let Err(frame) = self.socket.transmit(frame, options) {
                    pool.put(frame);
                }
            }
            boxes.push(rest);
        }
        Ok(())
    }

    pub(super) fn flush(&mut self, pool: &mut FramePool) -> usize {
        let left = self.socket.flush();
        self.socket.reclaim(pool);
        left
    }

    pub(super) fn unsent(&mut self) -> usize {
        self.socket.unsent()
    }

    /// Takes back what has been sent.
    pub fn reclaim(&mut self, pool: &mut FramePool) {
        if self.socket.transmitting() > 0 {
            self.socket.reclaim(pool);
        }
    }

    pub(super) fn completes_checksums(&self) -> bool {
        self.checksum_offload
    }

    pub(super) fn is_zero_copy(&self) -> bool {
        self.socket.is_zero_copy()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for what the controller does with it.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Closes the socket; every frame that it held comes back. Waits for the kernel, so not on a worker.
    #[must_use]
    pub fn into_frames(self) -> Vec<Frame> {
        let mut frames = self.socket.into_frames();
        if let Some(packet) = self.partial {
            frames.push(packet.head);
            frames.extend(packet.rest.into_iter().flat_map(|rest| *rest));
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(loan: Loan, came: usize, left: usize, plenty: bool) -> usize {
        let mut loan = loan;
        loan.follow(came, left, 48 + loan.0, 1024 - 48, plenty);
        loan.0
    }

    #[test]
    fn a_port_that_runs_dry_is_lent_as_much_again_up_to_its_ring_while_there_is_plenty() {
        let lent = std::iter::successors(Some(0), |loan| Some(after(Loan(*loan), 48, 0, true)));
        assert_eq!(lent.take(7).collect::<Vec<_>>(), [0, 48, 144, 336, 720, 976, 976]);
        assert_eq!(after(Loan(48), 96, 0, false), 48);
    }

    #[test]
    fn a_loan_is_paid_with_what_comes_back_when_others_want_it_and_it_is_not_needed() {
        assert_eq!(after(Loan(336), 10, 374, false), 326);
        assert_eq!(after(Loan(5), 10, 43, false), 0);
        assert_eq!(after(Loan(336), 10, 374, true), 336, "nobody wants it");
        assert_eq!(after(Loan(336), 100, 200, false), 336, "half of it is in use");
    }
}
