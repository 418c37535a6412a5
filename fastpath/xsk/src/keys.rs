//! Sixteen keys compared at once: a step of a search of which nothing is to be guessed.

/// Keys that are compared at once.
pub const KEYS: usize = 16;

/// How many of sorted keys are below `asked`.
#[inline(always)]
#[must_use]
pub fn count_below(keys: &[u16; KEYS], asked: u16) -> usize {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE2 is part of every x86-64, and both loads are within `keys`, however it is aligned.
    unsafe {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
            _mm_setzero_si128, _mm_subs_epu16,
        };
        let (first, second) = keys.split_at(KEYS / 2);
        let asked = _mm_set1_epi16(asked.cast_signed());
        // Without going below zero, what is asked less a key is zero unless the key is below.
        let rest = |half: &[u16]| _mm_subs_epu16(asked, _mm_loadu_si128(half.as_ptr().cast::<__m128i>()));
        let is_zero = |rest| _mm_cmpeq_epi16(rest, _mm_setzero_si128());
        let not_below = _mm_packs_epi16(is_zero(rest(first)), is_zero(rest(second)));
        (_mm_movemask_epi8(not_below) | 1 << KEYS).trailing_zeros() as usize
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    usize::from(keys.iter().map(|key| u16::from(*key < asked)).sum::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_is_counted_among_any_sorted_keys() {
        let asked = [0, 1, 2, 79, 80, 81, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff];
        for count in 0..=KEYS {
            for step in [0, 1, 5, 80, 4095, 4096] {
                let mut keys = [u16::MAX; KEYS];
                keys[..count].iter_mut().zip(0..).for_each(|(key, i)| *key = i * step);
                for asked in asked {
                    let below = keys.partition_point(|key| *key < asked);
                    assert_eq!(count_below(&keys, asked), below, "{asked} among {keys:?}");
                }
            }
        }
    }
}
