//! Arrays of BPF that are mapped: one memory for programs in the kernel and for us.
//!
//! Both sides may write at any time, so nothing here makes references into it: values are copied in and out, by volatile accesses. A value
//! that is read while a program writes it may be half old; what must not be is read by [`Shared::load`], and published by
//! whoever writes with an atomic operation.

use aya::maps::{Map, MapData};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::xdp::XdpError;

/// Values that any bytes are a valid one of, without padding.
///
/// # Safety
///
/// The type is `repr(C)`, of integers and arrays of them, and has no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// A mapped array.
pub(crate) struct Shared<T> {
    base: NonNull<T>,
    entries: usize,
    bytes: usize,
    /// Keeps the array.
    _map: MapData,
    values: PhantomData<T>,
}

// SAFETY: the mapping belongs to no thread, and all accesses are volatile copies or atomic (module documentation).
unsafe impl<T: Plain> Send for Shared<T> {}

impl<T: Plain> Shared<T> {
    /// Maps a map of an object that was loaded with `entries` values of this type.
    pub(crate) fn map(ebpf: &mut aya::Ebpf, name: &str, entries: usize) -> Result<Self, XdpError> {
        let doing = || format!("map the array {name} of an XDP program");
        let failed = |reason: String| XdpError::Map { doing: doing(), reason };
        let Some(Map::Array(map)) = ebpf.take_map(name) else {
            return Err(failed("not in its object".into()));
        };
        let info = map.info().map_err(|error| XdpError::map(doing(), &error))?;
        if info.value_size() as usize != size_of::<T>() || info.max_entries() as usize != entries {
            return Err(failed(format!(
                "has {} values of {} bytes, and not {entries} of {}",
                info.max_entries(),
                info.value_size(),
                size_of::<T>()
            )));
        }
        // The kernel rounds values up to eight bytes.
        if !size_of::<T>().is_multiple_of(8) {
            return Err(failed(format!("values of {} bytes", size_of::<T>())));
        }
        let bytes = entries * size_of::<T>();
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        match NonNull::new(address.cast::<T>()) {
            Some(base) if address != libc::MAP_FAILED => {
                Ok(Self { base, entries, bytes, _map: map, values: PhantomData })
            }
            _ => Err(failed(io::Error::last_os_error().to_string())),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// A value; the last there is, if there are fewer.
    #[inline]
    pub(crate) fn read(&self, at: usize) -> T {
        let at = at.min(self.entries - 1);
        // SAFETY: within the mapping, which holds `entries` values, at least one; any bytes are a T (Plain), and the mapping is aligned to pages.
        unsafe { self.base.as_ptr().add(at).read_volatile() }
    }

    /// Sets a value; does nothing if there is no such one.
    #[inline]
    pub(crate) fn write(&self, at: usize, value: T) {
        if at < self.entries {
            // SAFETY: within the mapping, as in `read`.
            unsafe { self.base.as_ptr().add(at).write_volatile(value) };
        }
    }

    /// One of the values' words, and all that was written before whoever stored it did.
    #[inline]
    pub(crate) fn load(&self, at: usize, word: usize) -> u64 {
        self.word(at, word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets one of the values' words, after all that was read and written before.
    #[inline]
    pub(crate) fn store(&self, at: usize, word: usize, value: u64) {
        if let Some(word) = self.word(at, word) {
            word.store(value, Ordering::Release);
        }
    }

    fn word(&self, at: usize, word: usize) -> Option<&AtomicU64> {
        if at >= self.entries || (word + 1) * 8 > size_of::<T>() {
            return None;
        }
        // SAFETY: within the mapping (checked above) and aligned to eight bytes, as sizes are multiples of eight and the mapping begins a page;
        // an AtomicU64 may be changed by others at any time.
        Some(unsafe { &*self.base.as_ptr().add(at).cast::<AtomicU64>().add(word) })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, with its length; nothing that was borrowed from it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
