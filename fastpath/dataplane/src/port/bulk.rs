//! Super-frames out by an uplink whose AF_XDP sockets copy: the kernel segments them, or the device behind it does, and each takes one system call in
//! place of one transmit for each segment.
//!
//! What the kernel can be told by a virtio-net header is TCP as it is, and datagrams of one size: VXLAN is made into those
//! ([`segment::as_datagrams`]). IPIP and VXLAN over IPv6 are segmented here.

use caracal_xsk::packet_socket::{Outgoing, PacketSocket};
use caracal_xsk::{Frame, FramePool};

use super::Boxes;
use super::packet_socket::{Counted, header_of};
use crate::packet::Packet;
use crate::segment::{self, Headers};

/// A packet socket that only sends.
#[derive(Debug)]
pub struct BulkSender {
    socket: PacketSocket,
    /// The kernel has refused to do it.
    is_useless: bool,
}

/// What became of a super-frame.
#[derive(Debug)]
pub struct Sent {
    /// Segments that left, as far as one knows.
    pub segments: usize,
    /// Super-frames that did not.
    pub lost: usize,
}

impl BulkSender {
    /// A sender on a socket.
    #[must_use]
    pub fn new(socket: PacketSocket) -> Self {
        BulkSender { socket, is_useless: false }
    }

    /// Sends a super-frame at once.
    ///
    /// # Errors
    /// Gives it back when the kernel cannot be told of it.
    pub fn send(&mut self, packet: Packet, pool: &mut FramePool, boxes: &mut Boxes) -> Result<Sent, Packet> {
        let start = packet.offload.checksum.map_or(0, |checksum| usize::from(checksum.start));
        let Some(headers) =
            Headers::with_transport_at(packet.head.data(), start).filter(|_| !self.is_useless)
        else {
            return Err(packet);
        };
        let mut lost = 0;
        if !headers.is_in_tunnel() {
            let size = usize::from(packet.offload.gso_size).max(1);
            let segments = (packet.len() - headers.end).div_ceil(size);
            lost += usize::from(!self.send_one(packet, pool, boxes));
            return Ok(Sent { segments, lost });
        }
        let segments = segment::as_datagrams(packet, pool, boxes, |datagrams, pool, boxes| {
            lost += usize::from(!self.send_one(datagrams, pool, boxes));
        })?;
        Ok(Sent { segments, lost })
    }

    fn send_one(&mut self, packet: Packet, pool: &mut FramePool, boxes: &mut Boxes) -> bool {
        let sent = {
            let mut system_call = Outgoing::default();
            let count = 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
            let segments = Counted(packet.segments().map(Frame::data), count);
            system_call.push(header_of(&packet), segments) && {
                let sent = self.socket.send(&mut system_call);
                // It does not know such a super-frame (Linux before 6.2): the next ones are segmented here.
                self.is_useless |= sent.as_ref().is_err_and(|error| error.raw_os_error() == Some(EINVAL));
                sent.is_ok_and(|sent| sent == 1)
            }
        };
        packet.release(pool, boxes);
        sent
    }
}

const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
