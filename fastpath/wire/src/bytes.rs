//! Big-endian fields of a header whose length the caller has checked.

use core::ops::Range;

#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], field: Range<usize>) -> u16 {
    u16::from_be_bytes(array_at(bytes, field))
}

#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], field: Range<usize>) -> u32 {
    u32::from_be_bytes(array_at(bytes, field))
}

#[inline(always)]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], field: Range<usize>) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[field]);
    array
}

#[inline(always)]
pub(crate) fn put_u16(bytes: &mut [u8], field: Range<usize>, value: u16) {
    bytes[field].copy_from_slice(&value.to_be_bytes());
}

#[inline(always)]
pub(crate) fn put_u32(bytes: &mut [u8], field: Range<usize>, value: u32) {
    bytes[field].copy_from_slice(&value.to_be_bytes());
}

/// The part of `bytes` that `range` names, as far as it exists.
#[inline(always)]
pub(crate) fn clamp(bytes: &[u8], range: Range<usize>) -> &[u8] {
    let end = range.end.min(bytes.len());
    &bytes[range.start.min(end)..end]
}

/// As [`clamp`], to write to.
#[inline(always)]
pub(crate) fn clamp_mut(bytes: &mut [u8], range: Range<usize>) -> &mut [u8] {
    let end = range.end.min(bytes.len());
    &mut bytes[range.start.min(end)..end]
}
