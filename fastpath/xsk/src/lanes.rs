//! Comparing many small numbers at once.

/// One bit for each of 16 numbers that is `wanted`: the eight of `first`, then those of `other`. No branch: which it is
/// cannot be predicted.
#[inline(always)]
#[must_use]
pub fn equal_lanes(first: &[u16; 8], other: &[u16; 8], wanted: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE2 is part of x86_64. Both loads are of 16 bytes that the references are good for, at any alignment.
    unsafe {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        };
        let wanted = _mm_set1_epi16(wanted.cast_signed());
        let first = _mm_cmpeq_epi16(_mm_loadu_si128(first.as_ptr().cast()), wanted);
        let other = _mm_cmpeq_epi16(_mm_loadu_si128(other.as_ptr().cast()), wanted);
        _mm_movemask_epi8(_mm_packs_epi16(first, other)).cast_unsigned()
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    one_by_one(first, other, wanted)
}

/// The obvious way.
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn one_by_one(first: &[u16; 8], other: &[u16; 8], wanted: u16) -> u32 {
    let lanes = first.iter().chain(other).enumerate();
    lanes.fold(0, |bits, (lane, number)| bits | u32::from(*number == wanted) << lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_that_is_equal_has_its_bit_and_no_other() {
        const NUMBERS: [u16; 7] = [0, 1, 2, 0x7fff, 0x8000, 0x8001, 0xffff];
        let mut state = 7u32;
        let mut any = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            NUMBERS[(state >> 16) as usize % NUMBERS.len()]
        };
        for _ in 0..10_000 {
            let (first, other, wanted) =
                (std::array::from_fn(|_| any()), std::array::from_fn(|_| any()), any());
            assert_eq!(equal_lanes(&first, &other, wanted), one_by_one(&first, &other, wanted));
        }
    }
}
