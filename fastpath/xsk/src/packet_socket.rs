//! A packet socket (packet(7)) on the host's end of a pod's veth: packets come and go with a virtio-net header, so super-frames of up to
//! 64 KiB come and go whole.
//!
//! * It gets a **copy** of what the pod sends. The frame itself goes on into the kernel, unless [`crate::xdp::guard`] ends it.
//! * It gets nothing of what this host sends to the pod, ourselves included (PACKET_IGNORE_OUTGOING).
//! * A frame with a VLAN tag comes without it: the kernel has taken the tag off. So that it is not mistaken for one that never had a tag, a
//!   filter cuts it to 13 bytes, which are no Ethernet header.
//!
//! Several packets go through one system call. Into how many frames a packet is received, and how many bytes each takes, is the caller's to say
//! ([`Shape`]): segments that begin where a super-frame will be cut need not be copied when it is.

use crate::frame::Frame;
use crate::sys;
use crate::tap::VirtioNetHeader;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Packets of one system call, at most.
pub const MESSAGES_MAX: usize = 16;
/// Frames of one packet, at most.
pub const SEGMENTS_MAX: usize = 64;
/// Parts of all packets of one system call to send, their headers included, at most.
const PARTS_MAX: usize = 512;
/// What the kernel may hold of packets that were not received yet, and of those not sent yet, bytes. A limit: nothing is allocated.
const BUFFER_BYTES: u32 = 8 << 20;

/// Why a packet socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{doing} on device {ifindex}: {source}")]
pub struct PacketSocketError {
    doing: &'static str,
    ifindex: u32,
    source: io::Error,
}

/// How a packet is spread over frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Room before the data of the first segment …
    pub first_headroom: usize,
    /// … and how many bytes it takes, if there are so many in the frame.
    pub first_len: usize,
    /// Room before the data of every other segment …
    pub headroom: usize,
    /// … and how many bytes it takes.
    pub len: usize,
}

/// Frames for one packet, and what was received into them.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The segments, the first one **last**, so that those which were used are taken off the end. At most [`SEGMENTS_MAX`].
    pub frames: Vec<Frame>,
    /// What the kernel has left to be done.
    pub header: VirtioNetHeader,
    /// Bytes received.
    pub len: usize,
    /// There was more than the frames have room for.
    pub is_truncated: bool,
}

/// A packet socket on one device, not blocking.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Everything that a device of the calling thread's network namespace receives, and nothing else.
    ///
    /// What is sent goes the way of all packets of the device: one that is not up to a super-frame (a pod has put an XDP program on its own end)
    /// has the kernel segment it.
    pub fn open(ifindex: u32) -> Result<Self, PacketSocketError> {
        Self::open_for(ifindex, libc::ETH_P_ALL as u16)
    }

    /// Only to send by a device of the calling thread's network namespace: nothing is received.
    pub fn open_to_send(ifindex: u32) -> Result<Self, PacketSocketError> {
        Self::open_for(ifindex, 0)
    }

    fn open_for(ifindex: u32, protocol: u16) -> Result<Self, PacketSocketError> {
        let failed = |doing| move |source| PacketSocketError { doing, ifindex, source };
        // Without a protocol it receives nothing, until it is bound to the device.
        // SAFETY: no pointers.
        let socket = sys::owned(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
        })
        .map_err(failed("open a packet socket"))?;
        let fd = socket.as_fd();
        for (level, option, value, doing) in [
            (libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1, "ask a packet socket for virtio-net headers"),
            (
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                1,
                "keep a packet socket from what the host sends",
            ),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES, "size a packet socket's receive buffer"),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_BYTES, "size a packet socket's send buffer"),
        ] {
            sys::set_option(fd, level, option, &value).map_err(failed(doing))?;
        }
        cut_tagged(fd).map_err(failed("put the VLAN filter on a packet socket"))?;
        // SAFETY: plain integers; all-zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = ifindex as libc::c_int;
        // SAFETY: pointer and length of a live sockaddr_ll.
        sys::check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
        .map_err(failed("bind a packet socket"))?;
        Ok(Self { socket })
    }

    /// Receives what is there, one packet into each of `packets`, spread as `shape` says; returns how many came. An error is of one packet,
    /// which is gone: the kernel could not describe it by a header (an offload that is newer than we are), or its device went down.
    pub fn receive(&mut self, packets: &mut [Incoming], shape: Shape) -> io::Result<usize> {
        let count = packets.len().min(MESSAGES_MAX);
        let mut headers = [[0_u8; VirtioNetHeader::LEN]; MESSAGES_MAX];
        let mut parts = [[const { MaybeUninit::<libc::iovec>::uninit() }; SEGMENTS_MAX + 1]; MESSAGES_MAX];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_MAX];
        let all = packets.iter_mut().zip(&mut headers).zip(&mut parts).zip(&mut messages);
        for (((packet, header), parts), message) in all.take(count) {
            parts[0].write(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
            let mut used = 1;
            for (frame, part) in packet.frames.iter_mut().rev().zip(&mut parts[1..]) {
                let (headroom, len) = match used {
                    1 => (shape.first_headroom, shape.first_len),
                    _ => (shape.headroom, shape.len),
                };
                frame.reset(headroom);
                let len = len.min(frame.tailroom());
                let room = frame.append(len).unwrap_or_default();
                part.write(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() });
                used += 1;
            }
            message.write(message_of(parts[0].as_mut_ptr(), used));
        }
        // SAFETY: `count` messages have been written, each with `used` parts, which have been written too. Every part is a live buffer that
        // nobody else uses: a header, or the data of a frame that is borrowed exclusively.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let error = (received < 0).then(io::Error::last_os_error);
        let received = received.max(0) as usize;
        for ((packet, header), message) in packets.iter_mut().zip(headers).zip(&messages).take(received) {
            // SAFETY: the kernel has filled so many of those that were written above.
            let message = unsafe { message.assume_init_ref() };
            packet.header = VirtioNetHeader::from_bytes(header);
            packet.len = (message.msg_len as usize).saturating_sub(VirtioNetHeader::LEN);
            packet.is_truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let mut left = packet.len;
            for frame in packet.frames.iter_mut().rev() {
                frame.truncate(left);
                left -= frame.len();
            }
        }
        match error {
            Some(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(received),
        }
    }

    /// Packets since the last call that came and were not received, because too many waited.
    pub fn take_lost(&self) -> u64 {
        let empty = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        sys::get_option(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, empty)
            .map_or(0, |statistics| statistics.tp_drops.into())
    }

    /// Sends packets in order; returns how many. Fewer than there are: the kernel has no room for more now. An error is of the first.
    pub fn send(&mut self, packets: &mut Outgoing<'_>) -> io::Result<usize> {
        let Outgoing { headers, parts, packets: counts, count, .. } = packets;
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_MAX];
        let mut parts = &mut parts[..];
        for ((message, header), used) in messages.iter_mut().zip(headers).zip(counts).take(*count) {
            let (own, rest) = parts.split_at_mut(*used);
            parts = rest;
            own[0].write(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
            message.write(message_of(own[0].as_mut_ptr(), *used));
        }
        // SAFETY: `count` messages have been written, whose parts have been written by `begin` (the first, just now) and `push`: live buffers,
        // borrowed as long as `Outgoing` lives, which the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                *count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Ok(0),
            _ => Err(error),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Packets to be sent by one system call: where their bytes are.
pub struct Outgoing<'a> {
    headers: [[u8; VirtioNetHeader::LEN]; MESSAGES_MAX],
    /// Of all packets, one after another; the first part of each is its header.
    parts: [MaybeUninit<libc::iovec>; PARTS_MAX],
    /// Parts of each packet. Invariant: so many of `parts` have been written, but for the first of each packet.
    packets: [usize; MESSAGES_MAX],
    count: usize,
    used: usize,
    borrowed: std::marker::PhantomData<&'a [u8]>,
}

impl Default for Outgoing<'_> {
    fn default() -> Self {
        Self {
            headers: [[0; VirtioNetHeader::LEN]; MESSAGES_MAX],
            parts: [const { MaybeUninit::uninit() }; PARTS_MAX],
            packets: [0; MESSAGES_MAX],
            count: 0,
            used: 0,
            borrowed: std::marker::PhantomData,
        }
    }
}

impl<'a> Outgoing<'a> {
    /// Adds a packet of these segments; false, and nothing changed, if there is no room for another, or for so many segments.
    pub fn push(
        &mut self,
        header: VirtioNetHeader,
        segments: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> bool {
        let parts = 1 + segments.len();
        if self.count == MESSAGES_MAX || self.used + parts > PARTS_MAX {
            return false;
        }
        self.headers[self.count] = header.to_bytes();
        let mut written = 1;
        // Whatever the iterator has said of its length.
        for (part, segment) in self.parts[self.used + 1..self.used + parts].iter_mut().zip(segments) {
            part.write(libc::iovec { iov_base: segment.as_ptr().cast_mut().cast(), iov_len: segment.len() });
            written += 1;
        }
        self.packets[self.count] = written;
        self.used += written;
        self.count += 1;
        true
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn message_of(parts: *mut libc::iovec, count: usize) -> libc::mmsghdr {
    // SAFETY: plain integers and pointers; all-zero is valid.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = parts;
    message.msg_hdr.msg_iovlen = count as _;
    message
}

/// Has frames with a VLAN tag cut to 13 bytes.
fn cut_tagged(fd: BorrowedFd<'_>) -> io::Result<()> {
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let tag_present = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, tag_present),
        libc::sock_filter { jf: 1, ..instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0) },
        instruction(libc::BPF_RET | libc::BPF_K, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 13),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}
