//! Tap devices: the host ports (`caracal0`, `caracal1`), and pods' ports that carry super-frames.
//!
//! A tap is a network device whose other end is a file: what the kernel sends to the device is read from the file, what is written to
//! the file the device receives. With a virtio-net header before each packet the kernel hands over packets of up to
//! 64 KiB that it has not segmented yet (GSO), and checksums that it has not finished; [`Offloads`] says what it may hand over.
//!
//! A persistent tap stays when the file is closed. Whoever made it removes it ([`remove`]).

use crate::frame::Frame;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// Frames in one packet, at most: 64 KiB in chunks of 2 KiB, and some.
pub const SEGMENTS_MAX: usize = 64;

/// Why a tap device does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// No tun driver.
    #[error("cannot open /dev/net/tun ({source}); the kernel needs CONFIG_TUN and the file its permission")]
    NoTun {
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that cannot be an interface's.
    #[error("{name:?} is not the name of a network interface")]
    Name {
        /// The name.
        name: String,
    },
    /// Somebody reads it already.
    #[error("tap device {name} is in use by another process; stop that one first")]
    Busy {
        /// The device.
        name: String,
    },
    /// Not root.
    #[error("{doing} tap device {name}: not permitted; run as root, or with CAP_NET_ADMIN")]
    NotPermitted {
        /// What was being done.
        doing: &'static str,
        /// The device.
        name: String,
    },
    /// There is none of this name.
    #[error("there is no network device {name} in this network namespace")]
    Missing {
        /// The device.
        name: String,
    },
    /// Anything else.
    #[error("{doing} tap device {name}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the kernel may leave to us in packets that we read (with virtio-net headers only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Half-made checksums. The others need it.
    pub checksum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
}

/// `struct virtio_net_hdr` (virtio 1.2, section 5.1.6, without `num_buffers`), in the byte order of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VirtioNetHeader {
    /// [`NEEDS_CHECKSUM`](Self::NEEDS_CHECKSUM), [`CHECKSUM_VALID`](Self::CHECKSUM_VALID).
    pub flags: u8,
    /// [`GSO_NONE`](Self::GSO_NONE), [`GSO_TCP4`](Self::GSO_TCP4) or [`GSO_TCP6`](Self::GSO_TCP6).
    pub gso_type: u8,
    /// Length of all headers; a hint.
    pub header_len: u16,
    /// Payload of each segment to make.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub checksum_start: u16,
    /// Where it goes, counted from there.
    pub checksum_offset: u16,
}

impl VirtioNetHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 10;
    /// In `flags`: the checksum holds only the pseudo-header's sum.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// In `flags`: the checksum was verified.
    pub const CHECKSUM_VALID: u8 = 2;
    /// In `gso_type`: a plain packet.
    pub const GSO_NONE: u8 = 0;
    /// In `gso_type`: TCP over IPv4 to be segmented.
    pub const GSO_TCP4: u8 = 1;
    /// In `gso_type`: TCP over IPv6 to be segmented.
    pub const GSO_TCP6: u8 = 4;
    /// In `gso_type`: UDP, each segment a datagram of its own.
    pub const GSO_UDP: u8 = 5;
    /// In `gso_type`, with TCP's: the first segment, and no other, has CWR.
    pub const GSO_ECN: u8 = 0x80;

    /// From the wire.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// To the wire.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

/// One queue of a tap device, not blocking.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    vnet_hdr: bool,
}

impl Tap {
    /// Attaches to an existing tap device of the calling thread's network namespace. With `vnet_hdr`, a virtio-net header precedes
    /// each packet, and the kernel leaves nothing unfinished until [`set_offloads`](Self::set_offloads) allows it.
    pub fn open(name: &str, vnet_hdr: bool) -> Result<Self, TapError> {
        if ifindex(name)?.is_none() {
            return Err(TapError::Missing { name: name.to_owned() });
        }
        let tap = attach(name, vnet_hdr)?;
        if vnet_hdr {
            let mut size = VirtioNetHeader::LEN as libc::c_int;
            // SAFETY: TUNSETVNETHDRSZ reads an int.
            let set = unsafe { libc::ioctl(tap.file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &mut size) };
            sys::check(set).map_err(|source| failed("set the header size of", name, source))?;
            tap.set_offloads(Offloads::default())?;
        }
        Ok(tap)
    }

    /// Says what the kernel may leave to us.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        let flags = [
            (offloads.checksum, libc::TUN_F_CSUM),
            (offloads.checksum && offloads.tso4, libc::TUN_F_TSO4),
            (offloads.checksum && offloads.tso6, libc::TUN_F_TSO6),
        ];
        let flags =
            flags.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | *flag as libc::c_ulong);
        // SAFETY: TUNSETOFFLOAD takes an integer.
        sys::check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, flags) })
            .map_err(|source| failed("set the offloads of", &self.name, source))
    }

    /// Reads one packet into the tailrooms of `segments`, in order (first `reset` each to the headroom it should have). Returns the
    /// packet's length, and its header (all zero without virtio-net headers); None if there is no packet. Segments that the packet did
    /// not need have no data. The kernel cuts a packet that is longer than all tailrooms, and does not say so: give it 64 KiB when
    /// super-frames are allowed, else the device's MTU and 18 bytes.
    pub fn recv(&mut self, segments: &mut [Frame]) -> Result<Option<(usize, VirtioNetHeader)>, TapError> {
        let mut header = [0; VirtioNetHeader::LEN];
        let mut parts = Parts::default();
        if self.vnet_hdr {
            parts.push(header.as_mut_ptr(), header.len());
        }
        let room: usize = segments.iter().map(Frame::tailroom).sum();
        for frame in segments.iter_mut() {
            frame.truncate(0);
            let tailroom = frame.tailroom();
            if let Some(space) = frame.append(tailroom) {
                parts.push(space.as_mut_ptr(), space.len());
            }
        }
        // SAFETY: each part is a live buffer that nobody else reads or writes during the call: `header`, and the frames' bytes, whose
        // frames are borrowed exclusively.
        let read =
            unsafe { libc::readv(self.file.as_raw_fd(), parts.vectors.as_ptr(), parts.count as libc::c_int) };
        let header_len = if self.vnet_hdr { VirtioNetHeader::LEN } else { 0 };
        let len = if read < 0 { 0 } else { (read as usize).saturating_sub(header_len) };
        let mut left = len.min(room);
        for frame in segments.iter_mut() {
            let here = left.min(frame.len());
            frame.truncate(here);
            left -= here;
        }
        if read >= 0 {
            return Ok(Some((len, VirtioNetHeader::from_bytes(header))));
        }
        let source = io::Error::last_os_error();
        if source.kind() == io::ErrorKind::WouldBlock {
            return Ok(None);
        }
        Err(failed("read from", &self.name, source))
    }

    /// Writes one packet, whose bytes are in `segments` in order. False if the kernel has no room for it now. Without virtio-net headers the
    /// header is not sent.
    pub fn send(&mut self, header: VirtioNetHeader, segments: &[&[u8]]) -> Result<bool, TapError> {
        if segments.len() > SEGMENTS_MAX {
            let source =
                io::Error::other(format!("{} segments; {SEGMENTS_MAX} are possible", segments.len()));
            return Err(failed("write to", &self.name, source));
        }
        let mut header = header.to_bytes();
        let mut parts = Parts::default();
        if self.vnet_hdr {
            parts.push(header.as_mut_ptr(), header.len());
        }
        for segment in segments {
            parts.push(segment.as_ptr().cast_mut(), segment.len());
        }
        // SAFETY: each part is a live buffer that the kernel only reads.
        let written = unsafe {
            libc::writev(self.file.as_raw_fd(), parts.vectors.as_ptr(), parts.count as libc::c_int)
        };
        if written >= 0 {
            return Ok(true);
        }
        let source = io::Error::last_os_error();
        match source.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Ok(false),
            _ => Err(failed("write to", &self.name, source)),
        }
    }

    /// Whether packets come and go with virtio-net headers.
    pub fn has_vnet_header(&self) -> bool {
        self.vnet_hdr
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor, for epoll.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a tap device that stays until [`remove`]; fine if there is one, in use or not.
pub fn create_persistent(name: &str, vnet_hdr: bool) -> Result<(), TapError> {
    match attach(name, vnet_hdr) {
        Ok(tap) => set_persistent(&tap, true, "make persistent the"),
        // A data plane reads it: it was made before.
        Err(TapError::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a persistent tap device that nobody has open; fine if there is none.
pub fn remove(name: &str) -> Result<(), TapError> {
    if ifindex(name)?.is_none() {
        return Ok(());
    }
    set_persistent(&attach(name, false)?, false, "remove")
}

fn set_persistent(tap: &Tap, persistent: bool, doing: &'static str) -> Result<(), TapError> {
    // SAFETY: TUNSETPERSIST takes an integer.
    sys::check(unsafe {
        libc::ioctl(tap.file.as_raw_fd(), libc::TUNSETPERSIST as _, libc::c_ulong::from(persistent))
    })
    .map_err(|source| failed(doing, &tap.name, source))
}

/// Attaches to the tap device, which the kernel makes if there is none.
fn attach(name: &str, vnet_hdr: bool) -> Result<Tap, TapError> {
    let mut request = interface_request(name)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|source| TapError::NoTun { source })?;
    let header = if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | header) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })
        .map_err(|source| failed("attach to", name, source))?;
    Ok(Tap { file, name: name.to_owned(), vnet_hdr })
}

fn failed(doing: &'static str, name: &str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted { doing, name },
        Some(libc::EBUSY) => TapError::Busy { name },
        _ => TapError::Kernel { doing, name, source },
    }
}

/// The index of a device of the calling thread's network namespace, if there is one of this name.
fn ifindex(name: &str) -> Result<Option<u32>, TapError> {
    let request = interface_request(name)?;
    // SAFETY: `interface_request` left the name terminated by a zero.
    let index = unsafe { libc::if_nametoindex(request.ifr_name.as_ptr()) };
    Ok((index != 0).then_some(index))
}

fn interface_request(name: &str) -> Result<libc::ifreq, TapError> {
    // SAFETY: plain integers and pointers; all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let legal = (1..request.ifr_name.len()).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if !legal {
        return Err(TapError::Name { name: name.to_owned() });
    }
    for (target, source) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = source as libc::c_char;
    }
    Ok(request)
}

/// The buffers of one packet: a header and its segments.
struct Parts {
    vectors: [libc::iovec; SEGMENTS_MAX + 1],
    count: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEGMENTS_MAX + 1],
            count: 0,
        }
    }
}

impl Parts {
    /// Adds a buffer; beyond the last place it is left out.
    fn push(&mut self, base: *mut u8, len: usize) {
        if let Some(vector) = self.vectors.get_mut(self.count) {
            *vector = libc::iovec { iov_base: base.cast(), iov_len: len };
            self.count += 1;
        }
    }
}
