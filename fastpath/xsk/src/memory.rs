//! The bytes behind a domain: chunks of one size, side by side. Mapped for a UMEM (the kernel wants whole pages), or plain heap.

use crate::frame::{DomainId, Frame};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// What kind of pages a domain's memory got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages: few TLB misses.
    Huge,
    /// Pages of 4 KiB, and why not huge ones: for the notice at start.
    Small(String),
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Huge => write!(f, "huge pages"),
            Self::Small(reason) => write!(f, "4 KiB pages ({reason})"),
        }
    }
}

/// Chunks of memory. Who holds which of them is not known here: see [`Frame`], [`crate::FramePool`] and [`crate::ledger`].
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    chunk_size: u16,
    chunks: u32,
    domain: DomainId,
    origin: Origin,
    /// Frames were outstanding when their pool went: the memory stays for ever.
    abandoned: AtomicBool,
}

#[derive(Debug)]
enum Origin {
    Heap(std::alloc::Layout),
    Mapped,
}

// SAFETY: Memory is an address and a length; it hands out pointers only through `frame`, whose caller answers for uniqueness.
unsafe impl Send for Memory {}
// SAFETY: as above; no method writes to the memory.
unsafe impl Sync for Memory {}

const HUGE_PAGE: usize = 2 << 20;

impl Memory {
    /// Zeroed heap memory. Aborts, like every Rust allocation, when there is none.
    pub(crate) fn heap(chunks: u32, chunk_size: u16) -> Self {
        let bytes = chunks as usize * chunk_size as usize;
        let Ok(layout) = std::alloc::Layout::from_size_align(bytes.max(1), 4096) else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 4096]>())
        };
        // SAFETY: the layout has a size of at least 1.
        let Some(base) = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }) else {
            std::alloc::handle_alloc_error(layout)
        };
        Self::new(base, bytes, chunks, chunk_size, Origin::Heap(layout))
    }

    /// Mapped memory for a UMEM, of huge pages if the machine has any free.
    pub(crate) fn mapped(chunks: u32, chunk_size: u16, huge: bool) -> std::io::Result<(Self, Pages)> {
        let wanted = chunks as usize * chunk_size as usize;
        let rounded = wanted.next_multiple_of(HUGE_PAGE);
        let reason = if huge {
            match map(rounded, libc::MAP_HUGETLB | libc::MAP_POPULATE) {
                Ok(base) => {
                    return Ok((Self::new(base, rounded, chunks, chunk_size, Origin::Mapped), Pages::Huge));
                }
                Err(error) => format!(
                    "no {} free huge pages of 2 MiB: {error}; `sysctl vm.nr_hugepages=N` reserves some",
                    rounded / HUGE_PAGE
                ),
            }
        } else {
            "configured".to_owned()
        };
        let base = map(wanted, libc::MAP_POPULATE)?;
        Ok((Self::new(base, wanted, chunks, chunk_size, Origin::Mapped), Pages::Small(reason)))
    }

    fn new(base: NonNull<u8>, bytes: usize, chunks: u32, chunk_size: u16, origin: Origin) -> Self {
        let domain = DomainId::next();
        Self { base, bytes, chunk_size, chunks, domain, origin, abandoned: AtomicBool::new(false) }
    }

    pub(crate) fn domain(&self) -> DomainId {
        self.domain
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(crate) fn chunk_size(&self) -> u16 {
        self.chunk_size
    }

    /// Address and length, for the kernel.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, self.chunks as u64 * self.chunk_size as u64)
    }

    /// The frame of a chunk; None if there is no such chunk.
    ///
    /// # Safety
    ///
    /// The caller holds chunk `index`, gives it up with this call, and has read in the kernel's order (Acquire) that the kernel is done with it.
    pub(crate) unsafe fn frame(&self, index: u32) -> Option<Frame> {
        if index >= self.chunks {
            return None;
        }
        // SAFETY: index < chunks, so the chunk is inside the memory; memory is zeroed at birth and abandoned rather than freed
        // while frames are out; uniqueness is the caller's promise.
        unsafe {
            let chunk = self.base.add(index as usize * self.chunk_size as usize);
            Some(Frame::new(chunk, index, self.domain, self.chunk_size))
        }
    }

    /// Never free this memory: somebody still holds chunks of it.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Relaxed) {
            return;
        }
        match self.origin {
            // SAFETY: allocated with this layout; the pool said that all chunks are home, so no Frame points here.
            Origin::Heap(layout) => unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) },
            // SAFETY: mapped with this length; as above.
            Origin::Mapped => unsafe {
                libc::munmap(self.base.as_ptr().cast(), self.bytes);
            },
        }
    }
}

fn map(bytes: usize, flags: libc::c_int) -> std::io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    match NonNull::new(address.cast()) {
        Some(base) if address != libc::MAP_FAILED => Ok(base),
        _ => Err(std::io::Error::last_os_error()),
    }
}
