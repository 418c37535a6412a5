//! Asking the processor for a cache line before it is needed. A hint: it never faults, whatever the address.

/// Starts loading the cache line at which `value` begins.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

/// Starts loading the cache line of the element at `index`; beyond the end it does nothing.
#[inline(always)]
pub fn prefetch_slice<T>(slice: &[T], index: usize) {
    if let Some(value) = slice.get(index) {
        prefetch(value);
    }
}

/// Starts loading the first `LINES` cache lines of `value`, and beyond its end if it is shorter: no need to ask how long
/// it is.
#[inline(always)]
pub fn prefetch_lines<const LINES: usize, T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    (0..LINES).for_each(|number| line(start.wrapping_add(64 * number)));
}

/// Starts loading the line that contains `address`, which need not be valid.
#[inline(always)]
pub(crate) fn line(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: `prefetcht0` is a hint; it does not access memory architecturally and faults at no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: `prfm` is a hint; it does not access memory architecturally and faults at no address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}
