//! Packet I/O. A port brings packets in and takes packets out; what it cannot carry it completes, or refuses.
//!
//! | port | carries | checksum offload |
//! |---|---|---|
//! | [`XskPort`] | frames, and chains when the domain has multi-buffer | where the kernel takes transmit metadata |
//! | [`TapPort`] | frames and chains, with a virtio-net header | yes |
//! | [`PacketSocketPort`] | frames, chains and super-frames, with a virtio-net header | yes |
//! | [`MemoryPort`] | frames | no: what leaves it is complete |

pub mod bulk;
pub mod memory;
pub mod packet_socket;
pub mod tap;
pub mod xsk;

use std::os::fd::BorrowedFd;

use caracal_xsk::{Frame, FramePool};

use crate::packet::Packet;

pub use bulk::BulkSender;
pub use memory::MemoryPort;
pub use packet_socket::PacketSocketPort;
pub use tap::TapPort;
pub use xsk::XskPort;

/// Room that a received packet has in front of it for a tunnel header, at least.
pub const HEADROOM: usize = 128;

/// What [`Port::io`] says of a socket whose device uses our memory directly.
pub const ZERO_COPY: &str = "af_xdp zero-copy";

/// Boxes of chains, emptied and waiting for the next one.
pub type Boxes = Vec<Box<Vec<Frame>>>;

/// One of the kinds of port.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and lives in its engine's list"
)]
pub enum Port {
    /// AF_XDP.
    Xsk(XskPort),
    /// A tap device.
    Tap(TapPort),
    /// A packet socket.
    PacketSocket(PacketSocketPort),
    /// Queues in memory.
    Memory(MemoryPort),
}

impl Port {
    /// Hands up to `max` received packets to `sink`; returns how many came, those included that the port has refused.
    #[inline]
    pub fn receive(
        &mut self,
        pool: &mut FramePool,
        boxes: &mut Boxes,
        max: usize,
        sink: impl FnMut(Packet),
    ) -> usize {
        match self {
            Port::Xsk(port) => port.receive(pool, boxes, max, sink),
            Port::Tap(port) => port.receive(pool, boxes, max, sink),
            Port::PacketSocket(port) => port.receive(pool, boxes, max, sink),
            Port::Memory(port) => port.receive(max, sink),
        }
    }

    /// Takes a packet to send; [`flush`](Self::flush) sends it.
    ///
    /// # Errors
    /// Gives the packet back when there is no room, or the port cannot carry it.
    #[inline]
    pub fn transmit(
        &mut self,
        packet: Packet,
        pool: &mut FramePool,
        boxes: &mut Boxes,
    ) -> Result<(), Packet> {
        match self {
            Port::Xsk(port) => port.transmit(packet, pool, boxes),
            Port::Tap(port) => port.transmit(packet, pool, boxes),
            Port::PacketSocket(port) => port.transmit(packet, pool, boxes),
            Port::Memory(port) => port.transmit(packet),
        }
    }

    /// Sends what was taken. Returns how many frames are left; any: flush again.
    #[inline]
    pub fn flush(&mut self, pool: &mut FramePool, boxes: &mut Boxes) -> usize {
        match self {
            Port::Xsk(port) => port.flush(pool),
            Port::PacketSocket(port) => port.flush(pool, boxes),
            Port::Tap(_) | Port::Memory(_) => 0,
        }
    }

    /// How many frames it has taken and not sent.
    pub fn unsent(&mut self) -> usize {
        match self {
            Port::Xsk(port) => port.unsent(),
            Port::PacketSocket(port) => port.unsent(),
            Port::Tap(_) | Port::Memory(_) => 0,
        }
    }

    /// Whether half-made checksums may be left to the port.
    #[inline]
    #[must_use]
    pub fn completes_checksums(&self) -> bool {
        match self {
            Port::Xsk(port) => port.completes_checksums(),
            Port::Tap(_) | Port::PacketSocket(_) => true,
            Port::Memory(_) => false,
        }
    }

    /// Whether it takes super-frames whole.
    #[inline]
    #[must_use]
    pub fn carries_super_frames(&self) -> bool {
        matches!(self, Port::Tap(_) | Port::PacketSocket(_))
    }

    /// What epoll watches, if the port has such a thing.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Port::Xsk(port) => Some(port.fd()),
            Port::Tap(port) => Some(port.fd()),
            Port::PacketSocket(port) => Some(port.fd()),
            Port::Memory(_) => None,
        }
    }

    /// How this port does its I/O, for people.
    #[must_use]
    pub fn io(&self) -> &'static str {
        match self {
            Port::Xsk(port) if port.is_zero_copy() => ZERO_COPY,
            Port::Xsk(_) => "af_xdp copy",
            Port::Tap(_) => "tap",
            Port::PacketSocket(_) => "packet socket",
            Port::Memory(_) => "memory",
        }
    }
}
