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
    /// Whether a packet may span several frames (jumbo frames); else longer ones are dropped by the kernel.
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
}

impl Domain {
    /// Maps and registers the memory. All of its chunks are in the pool.
    pub fn new(config: DomainConfig) -> Result<(Self, FramePool), DomainError> {
        check_shape(&config)?;
        let bytes = u64::from(config.chunks) * u64::from(config.chunk_size);
        let (memory, pages) = Memory::mapped(config.chunks, config.chunk_size, config.huge_pages)
            .map_err(|source| DomainError::Memory { bytes, source })?;
        let memory = Arc::new(memory);
        let (anchor, checksum_offload) = in_new_network_namespace(|| anchor(&memory, &config))?;
        let pool = FramePool::full(memory.clone());
        Ok((Self { memory, anchor, config, pages, checksum_offload }, pool))
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

    /// Whether the kernel takes half-made checksums on transmit ([`crate::TxOptions::checksum`]; Linux 6.8).
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
}

/// About how much memory the kernel allocates for so many sockets on a domain of so many chunks (its own anchor included): each
/// socket has a table of all chunks.
pub fn kernel_ring_bytes(sockets: u64, chunks: u32) -> u64 {
    (sockets + 1) * u64::from(chunks) * 128
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

/// The flags of a bind that does not share.
pub(crate) fn bind_flags(config: &DomainConfig) -> u16 {
    let sg = if config.multi_buffer { libc::XDP_USE_SG } else { 0 };
    let wakeup = if config.need_wakeup { libc::XDP_USE_NEED_WAKEUP } else { 0 };
    sg | wakeup
}

fn anchor(memory: &Memory, config: &DomainConfig) -> Result<(OwnedFd, bool), DomainError> {
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
    sys::bind(fd, LOOPBACK, 0, bind_flags(config) | libc::XDP_COPY, None)
        .map_err(|source| failed("bind the anchor socket", source))?;
    Ok((socket, metadata))
}

/// Runs `make` on a thread in a new network namespace. The namespace ends with the last socket made in it.
fn in_new_network_namespace<T: Send>(
    make: impl FnOnce() -> Result<T, DomainError> + Send,
) -> Result<T, DomainError> {
    let work = || {
        // SAFETY: no pointers; changes only the calling thread, which ends right after.
        sys::check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
            .map_err(|source| failed("make a network namespace for the anchor socket", source))?;
        make()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("xsk-anchor".into()).spawn_scoped(scope, work);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(source) => Err(failed("start a thread for the anchor socket", source)),
        }
    })
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
