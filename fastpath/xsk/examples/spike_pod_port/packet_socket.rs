//! A packet socket (packet(7)), with or without virtio-net headers, and batches of packets for it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of `struct virtio_net_hdr`.
const VNET_HEADER: usize = 10;

/// Packets of any size that go through one system call.
pub struct PacketBatch {
    bytes: Vec<u8>,
    each: usize,
    lengths: Vec<usize>,
    count: usize,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl PacketBatch {
    /// Room for `packets` packets of `each` bytes.
    pub fn new(packets: usize, each: usize) -> Self {
        // SAFETY: plain integers and pointers; all-zero is valid.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        PacketBatch {
            bytes: vec![0; packets * each],
            each,
            lengths: vec![0; packets],
            count: 0,
            vectors: vec![empty; packets],
            headers: vec![header; packets],
        }
    }

    /// Puts the same packet into every place.
    pub fn fill(&mut self, packet: &[u8]) {
        for slot in self.bytes.chunks_exact_mut(self.each) {
            slot[..packet.len()].copy_from_slice(packet);
        }
        self.lengths.fill(packet.len());
        self.count = self.lengths.len();
    }

    /// Makes the headers of packets `from..to` say where the packets are and how long they are.
    fn point(&mut self, from: usize, to: usize, length: impl Fn(&[usize], usize, usize) -> usize) {
        for at in from..to {
            let slot = &mut self.bytes[at * self.each..(at + 1) * self.each];
            self.vectors[at] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: length(&self.lengths, at, self.each),
            };
            self.headers[at].msg_hdr.msg_iov = &raw mut self.vectors[at];
            self.headers[at].msg_hdr.msg_iovlen = 1;
        }
    }
}

/// A packet socket on one device, not blocking.
pub struct PacketSocket {
    socket: OwnedFd,
    /// What did not go out because there was no room for it.
    pub dropped: usize,
}

impl PacketSocket {
    /// Everything that the device receives, and only that. With `vnet_header` each packet begins with a virtio-net header,
    /// so that super-frames come and go whole.
    pub fn open(device: &str, vnet_header: bool) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(device)?;
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                all.into(),
            )
        };
        // SAFETY: a descriptor that was just opened and that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(check(fd)?) };
        let set = |level, option, value: libc::c_int| {
            // SAFETY: these options read an int.
            check(unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    level,
                    option,
                    (&raw const value).cast(),
                    size_of_val(&value) as libc::socklen_t,
                )
            })
        };
        set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, vnet_header.into())?;
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
        set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 16 << 20)?;
        // SAFETY: plain integers; all-zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as libc::c_int;
        // SAFETY: bind reads a sockaddr_ll.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(PacketSocket { socket, dropped: 0 })
    }

    /// Receives what is there, at most a batch. Answers how many packets.
    pub fn receive(&mut self, batch: &mut PacketBatch) -> io::Result<usize> {
        let room = batch.lengths.len();
        batch.point(0, room, |_, _, each| each);
        // SAFETY: `point` made `room` headers with one part each, which is a slot of `bytes` that nobody else uses.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                room as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        batch.count = unless_busy(check(received))?;
        for (length, header) in batch.lengths.iter_mut().zip(&batch.headers).take(batch.count) {
            *length = (header.msg_len as usize).max(VNET_HEADER);
        }
        Ok(batch.count)
    }

    /// Sends the batch and empties it. What the kernel has no room for is dropped and counted. Answers how many were sent.
    pub fn send(&mut self, batch: &mut PacketBatch) -> io::Result<usize> {
        let mut from = 0;
        let mut again = 0;
        batch.point(0, batch.count, |lengths, at, _| lengths[at]);
        while from < batch.count {
            // SAFETY: `point` made `count` headers with one part each, which the kernel only reads.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    batch.headers.as_mut_ptr().add(from),
                    (batch.count - from) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match unless_busy(check(sent))? {
                0 if again == 100 => break,
                0 => again += 1,
                sent => from += sent,
            }
        }
        self.dropped += batch.count - from;
        batch.count = 0;
        Ok(from)
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// No packet, or no room, is no error.
fn unless_busy(result: io::Result<libc::c_int>) -> io::Result<usize> {
    match result {
        Ok(count) => Ok(count as usize),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => Ok(0),
        Err(error) => Err(error),
    }
}
