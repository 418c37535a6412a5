//! A [`Domain`]: memory that the kernel knows as a UMEM, and the anchor that keeps it shareable.
//!
//! One worker owns one domain; all its sockets share the domain's UMEM. To share, the kernel wants the descriptor of a socket that is
//! *bound* to the UMEM, and a socket is unbound when its device goes. Were that the first pod's socket, no pod could be added after
//! the first one left. Hence the **anchor**: a socket that registers the UMEM and is bound to the loopback device of a
//! network namespace of its own, which exists as long as the socket does and which no packet ever enters.
//!
//! Whether packets may span several frames and whether the kernel says when it wants to be woken are properties of the UMEM's first bind,
//! so they are the domain's, not a socket's.

use crate::frame::{DomainId, RESERVED_HEADROOM};
use crate::memory::{Memory, Pages};
use crate::pool::FramePool;
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Bytes that the kernel keeps free before received data in each chunk.
pub const KERNEL_HEADROOM: usize = 256;

/// What a domain is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// How many chunks. The kernel allocates about 128 bytes for each, *for every socket* ([`kernel_ring_bytes`]).
    pub chunks: u32,
    /// 2048 or 4096.
    pub chunk_size: u16,
    /// Bytes before received data, on top of the kernel's 256.
    pub headroom: u16,
    /// Whether to try huge pages first.
    pub huge_pages: bool,
    /// Whether a packet may span several frames (jumbo frames), if the kernel can ([`Domain::multi_buffer`]); else longer ones are
    /// dropped by the kernel.
    pub multi_buffer: bool,
    /// Whether the kernel tells when it needs a system call, instead of us always making one.
    pub need_wakeup: bool,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self {
            chunks: 8192,
            chunk_size: 2048,
            headroom: 0,
            huge_pages: true,
            multi_buffer: true,
            need_wakeup: true,
        }
    }
}

/// Whether a packet may span several frames. A kernel that cannot still carries every packet that fits into one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiBuffer {
    /// It may.
    On,
    /// It may not, and why.
    Off(&'static str),
}

/// Why a domain could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The kernel would refuse the numbers.
    #[error(
        "a domain of {chunks} chunks of {chunk_size} bytes with {headroom} bytes of headroom cannot be: {rule}"
    )]
    Shape {
        /// As configured.
        chunks: u32,
        /// As configured.
        chunk_size: u16,
        /// As configured.
        headroom: u16,
        /// What was violated.
        rule: &'static str,
    },
    /// No memory.
    #[error("cannot map {bytes} bytes for packet memory: {source}; configure fewer chunks or free memory")]
    Memory {
        /// How much was wanted.
        bytes: u64,
        /// Why not.
        source: io::Error,
    },
    /// The kernel knows no AF_XDP.
    #[error("this kernel has no AF_XDP sockets ({source}); it needs CONFIG_XDP_SOCKETS")]
    NoAfXdp {
        /// What the kernel said.
        source: io::Error,
    },
    /// Not root.
    #[error(
        "{doing}: {source}; run as root, or with CAP_NET_RAW, CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_IPC_LOCK"
    )]
    NotPermitted {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A registered UMEM. Sockets are bound with [`crate::Socket::bind`].
#[derive(Debug)]
pub struct Domain {
    memory: Arc<Memory>,
    anchor: OwnedFd,
    config: DomainConfig,
    pages: Pages,
    checksum_offload: bool,
    multi_buffer: MultiBuffer,
}

impl Domain {
    /// Maps and registers the memory. All of its chunks are in the pool.
    pub fn new(config: DomainConfig) -> Result<(Self, FramePool), DomainError> {
        check_shape(&config)?;
        let bytes = u64::from(config.chunks) * u64::from(config.chunk_size);
        let (memory, pages) = Memory::mapped(config.chunks, config.chunk_size, config.huge_pages)
            .map_err(|source| DomainError::Memory { bytes, source })?;
        let memory = Arc::new(memory);
        let (anchor, checksum_offload, multi_buffer) = in_new_network_namespace(|| anchor(&memory, &config))?;
        let pool = FramePool::full(memory.clone());
        Ok((Self { memory, anchor, config, pages, checksum_offload, multi_buffer }, pool))
    }

    /// The id that its frames carry.
    pub fn id(&self) -> DomainId {
        self.memory.domain()
    }

    /// What it was made of.
    pub fn config(&self) -> &DomainConfig {
        &self.config
    }

    /// What pages it got; [`Pages::Small`] is worth a notice.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Whether packets may span several frames; [`MultiBuffer::Off`] is worth a notice when it was asked for.
    pub fn multi_buffer(&self) -> MultiBuffer {
        self.multi_buffer
    }

    /// Whether the kernel takes half-made checksums on transmit ([`crate::TxOptions::checksum`]; Linux 6.11, which was the first with the
    /// flag that we register them by).
    pub fn checksum_offload(&self) -> bool {
        self.checksum_offload
    }

    /// How much of an unfragmented packet fits into one received frame.
    pub fn receive_capacity(&self) -> usize {
        self.config.chunk_size as usize - KERNEL_HEADROOM - self.config.headroom as usize
    }

    pub(crate) fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The flags of a bind that does not share, with several frames a packet if that may be and is wanted.
    pub(crate) fn bind_flags(&self, multi_buffer: bool) -> u16 {
        bind_flags(&self.config, multi_buffer && self.multi_buffer == MultiBuffer::On)
    }
}

/// About how much memory the kernel allocates for so many sockets, spread over so many domains of so many chunks each: every socket, and
/// every domain's anchor, has a table of all chunks of its domain.
pub fn kernel_ring_bytes(sockets: u64, domains: u64, chunks: u32) -> u64 {
    (sockets + domains) * u64::from(chunks) * 128
}

fn check_shape(config: &DomainConfig) -> Result<(), DomainError> {
    let &DomainConfig { chunks, chunk_size, headroom, .. } = config;
    let rule = if chunks == 0 || chunks > 1 << 24 {
        "the number of chunks is between 1 and 16777216"
    } else if chunk_size != 2048 && chunk_size != 4096 {
        "chunks are of 2048 or 4096 bytes"
    } else if headroom as usize + KERNEL_HEADROOM + 1024 > chunk_size as usize {
        "at least 1024 bytes must remain for data"
    } else {
        return Ok(());
    };
    Err(DomainError::Shape { chunks, chunk_size, headroom, rule })
}

/// Registers the UMEM with a new socket, with transmit metadata if the kernel knows them.
pub(crate) fn register(socket: BorrowedFd<'_>, memory: &Memory, config: &DomainConfig) -> io::Result<bool> {
    let (address, bytes) = memory.region();
    let mut registration = sys::UmemRegistration {
        address,
        bytes,
        chunk_size: config.chunk_size.into(),
        headroom: config.headroom.into(),
        flags: libc::XDP_UMEM_TX_METADATA_LEN,
        tx_metadata_len: RESERVED_HEADROOM as u32,
    };
    match sys::register_umem(socket, &registration) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            registration.flags = 0;
            registration.tx_metadata_len = 0;
            sys::register_umem(socket, &registration).map(|()| false)
        }
        other => other.map(|()| true),
    }
}

fn bind_flags(config: &DomainConfig, multi_buffer: bool) -> u16 {
    let sg = if multi_buffer { libc::XDP_USE_SG } else { 0 };
    let wakeup = if config.need_wakeup { libc::XDP_USE_NEED_WAKEUP } else { 0 };
    sg | wakeup
}

/// Binds with multi-buffer if it is wanted and the kernel knows it: one before Linux 6.6 refuses the flag, before it looks at anything else.
fn bind_first(config: &DomainConfig, mut bind: impl FnMut(u16) -> io::Result<()>) -> io::Result<MultiBuffer> {
    if !config.multi_buffer {
        return bind(bind_flags(config, false)).map(|()| MultiBuffer::Off("not configured"));
    }
    match bind(bind_flags(config, true)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => bind(bind_flags(config, false))
            .map(|()| MultiBuffer::Off("the kernel does not know multi-buffer AF_XDP (Linux 6.6)")),
        other => other.map(|()| MultiBuffer::On),
    }
}

fn anchor(memory: &Memory, config: &DomainConfig) -> Result<(OwnedFd, bool, MultiBuffer), DomainError> {
    const LOOPBACK: u32 = 1;
    const SMALLEST_RING: u32 = 2;
    let socket = sys::xdp_socket().map_err(|source| match source.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => DomainError::NoAfXdp { source },
        _ => failed("open an AF_XDP socket", source),
    })?;
    let fd = socket.as_fd();
    let metadata = register(fd, memory, config)
        .map_err(|source| failed("register packet memory with AF_XDP", source))?;
    for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
        sys::set_ring(fd, ring, SMALLEST_RING)
            .map_err(|source| failed("make the anchor socket's rings", source))?;
    }
    let multi_buffer = bind_first(config, |flags| sys::bind(fd, LOOPBACK, 0, flags | libc::XDP_COPY, None))
        .map_err(|source| failed("bind the anchor socket", source))?;
    Ok((socket, metadata, multi_buffer))
}

/// Runs `make` on a thread in a new network namespace. The namespace ends with the last socket made in it.
fn in_new_network_namespace<T: Send>(
    make: impl FnOnce() -> Result<T, DomainError> + Send,
) -> Result<T, DomainError> {
    let made = sys::in_new_network_namespace("xsk-anchor", make);
    made.map_err(|source| failed("make a network namespace for the anchor socket", source))?
}

fn failed(doing: &'static str, source: io::Error) -> DomainError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => DomainError::NotPermitted { doing, source },
        Some(libc::ENOBUFS) => {
            DomainError::NotPermitted { doing: "lock packet memory (RLIMIT_MEMLOCK)", source }
        }
        _ => DomainError::Kernel { doing, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_refuses_multi_buffer_is_asked_without_it_and_the_reason_is_kept() {
        let mut asked = Vec::new();
        let old_kernel = |flags: u16| {
            asked.push(flags);
            let known = flags & !libc::XDP_USE_NEED_WAKEUP == 0;
            if known { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
        };
        let bound = bind_first(&DomainConfig::default(), old_kernel).unwrap();
        assert!(matches!(bound, MultiBuffer::Off(reason) if reason.contains("6.6")), "{bound:?}");
        let wakeup = libc::XDP_USE_NEED_WAKEUP;
        assert_eq!(asked, [libc::XDP_USE_SG | wakeup, wakeup]);
    }

    #[test]
    fn another_refusal_is_not_taken_for_an_old_kernel() {
        let mut asked = 0;
        let refused = bind_first(&DomainConfig::default(), |_| {
            asked += 1;
            Err(io::Error::from_raw_os_error(libc::EBUSY))
        });
        assert_eq!((refused.unwrap_err().raw_os_error(), asked), (Some(libc::EBUSY), 1));
        let without = DomainConfig { multi_buffer: false, ..DomainConfig::default() };
        let bound = bind_first(&without, |flags| {
            assert_eq!(flags & libc::XDP_USE_SG, 0);
            Ok(())
        });
        assert_eq!(bound.unwrap(), MultiBuffer::Off("not configured"));
    }

    #[test]
    fn each_domain_has_one_anchor_among_the_sockets() {
        assert_eq!(kernel_ring_bytes(250, 1, 8192), 251 * 8192 * 128);
        assert_eq!(kernel_ring_bytes(10, 4, 8192), 14 * 8192 * 128);
    }
}
