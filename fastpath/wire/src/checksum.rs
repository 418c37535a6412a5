//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and frames whose checksum is half made.
//!
//! The sum is a one's-complement sum of 16-bit big-endian words. Two facts make it fast: it may be taken over wider
//! words and folded at the end, and it does not depend on the byte order it is taken in (the result comes out swapped).
//! So [`Sum::of`] adds native 32-bit words into 64-bit lanes, a form that compilers vectorise, and swaps once.
//!
//! # Half-made checksums
//!
//! A virtual device may hand over a frame that "hardware" was to finish (Linux: `CHECKSUM_PARTIAL`). Its L4 checksum
//! field then holds the folded sum of the pseudo-header, not complemented. Nothing else in the frame says so, hence
//! [`is_partial`]; a *correct* checksum that happens to have that value is left as it is by [`complete`].

use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::{Add, AddAssign};

use crate::Protocol;

/// A one's-complement sum in the making. Add parts up, then [`fold`](Sum::fold) or [`finish`](Sum::finish).
///
/// Every part but the last must have an even number of bytes: an odd last byte counts as if a zero followed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Sum = Sum(0);

    /// The sum over `bytes`.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        const LANES: usize = 8;
        let (words, rest) = bytes.as_chunks::<4>();
        let (blocks, words) = words.as_chunks::<LANES>();
        let mut sum = match *rest {
            [] => 0,
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a, b, c, ..] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
        };
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        if !blocks.is_empty() {
            // A lane takes at most len/32 words of 32 bits: no slice is long enough to overflow it.
            let mut lanes = [0u64; LANES];
            for block in blocks {
                for (lane, word) in lanes.iter_mut().zip(block) {
                    *lane += u64::from(u32::from_ne_bytes(*word));
                }
            }
            sum += lanes.iter().map(|lane| (lane & 0xffff_ffff) + (lane >> 32)).sum::<u64>();
        }
        Sum(u64::from(u16::from_be(fold(sum))))
    }

    /// The sum of the pseudo-header that TCP, UDP over IPv4 include (RFC 9293 §3.1).
    #[inline]
    pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol, l4_len: u32) -> Sum {
        Sum::ZERO + source.to_bits() + destination.to_bits() + u32::from(protocol.0) + l4_len
    }

    /// The sum of the pseudo-header that upper layers over IPv6 include (RFC 8200 §8.1).
    #[inline]
    pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: Protocol, l4_len: u32) -> Sum {
        Sum::of(&source.octets()) + Sum::of(&destination.octets()) + u32::from(protocol.0) + l4_len
    }

    /// The sum folded to 16 bits, not complemented.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the folded sum, complemented.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

impl Add for Sum {
    type Output = Sum;
    #[inline]
    fn add(self, other: Sum) -> Sum {
        // One carry at most, and it goes back in at the other end.
        let (sum, carry) = self.0.overflowing_add(other.0);
        Sum(sum + u64::from(carry))
    }
}

impl Add<u16> for Sum {
    type Output = Sum;
    #[inline]
    fn add(self, word: u16) -> Sum {
        self + Sum(u64::from(word))
    }
}

impl Add<u32> for Sum {
    type Output = Sum;
    #[inline]
    fn add(self, word: u32) -> Sum {
        self + Sum(u64::from(word))
    }
}

impl AddAssign for Sum {
    #[inline]
    fn add_assign(&mut self, other: Sum) {
        *self = *self + other;
    }
}

/// Whether `bytes`, checksum field included, sum up as they should (with `Sum::ZERO` where there is no pseudo-header).
#[inline]
pub fn is_correct(bytes: &[u8], pseudo: Sum) -> bool {
    (Sum::of(bytes) + pseudo).fold() == 0xffff
}

/// `checksum` after one 16-bit word that it covers went from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    (Sum::ZERO + !checksum + !old + new).finish()
}

/// `checksum` after one 32-bit word that it covers (an IPv4 address, say) went from `old` to `new`.
#[inline]
pub fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    (Sum::ZERO + !checksum + !old + new).finish()
}

/// Whether an L4 checksum `field` holds only the pseudo-header's sum, so that the frame's checksum is still to be made.
#[inline]
pub fn is_partial(field: u16, pseudo: Sum) -> bool {
    field == pseudo.fold()
}

/// Makes the checksum of the L4 packet `l4`, whose field is at `checksum_offset`, whatever the field held before.
///
/// A sum of zero is written as `0xffff`: UDP says so (RFC 768), for others it means the same. Answers `false`, and
/// changes nothing, when the field is not within `l4`.
#[inline]
pub fn complete(l4: &mut [u8], checksum_offset: usize, pseudo: Sum) -> bool {
    let Some(end) = checksum_offset.checked_add(2) else { return false };
    let Some(field) = l4.get_mut(checksum_offset..end) else { return false };
    field.fill(0);
    let checksum = match (Sum::of(l4) + pseudo).finish() {
        0 => 0xffff,
        checksum => checksum,
    };
    l4[checksum_offset..end].copy_from_slice(&checksum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    /// The slow twin: RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        sum as u16
    }

    #[test]
    fn sum_of_the_example_in_rfc_1071_is_right() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn update_of_the_example_in_rfc_1624_is_right() {
        // RFC 1624 §4: checksum 0xdd2f, a field goes from 0x5555 to 0x3285, the new checksum is 0x0000.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn complete_refuses_a_field_outside_the_packet() {
        assert!(!complete(&mut [0; 8], 7, Sum::ZERO));
        assert!(!complete(&mut [], usize::MAX, Sum::ZERO));
    }

    #[test]
    fn sum_of_all_ones_does_not_overflow() {
        let bytes = std::vec![0xff; 70_000];
        assert_eq!(Sum::of(&bytes).fold(), 0xffff);
    }

    #[test]
    fn no_number_of_additions_overflows() {
        let mut sum = Sum::ZERO + 1u16;
        for _ in 0..100 {
            sum += sum;
        }
        // One's complement counts modulo 2^16 - 1, where 2^16 is 1: 2^100 is 2^4.
        assert_eq!(sum.fold(), 1 << 4);
    }

    #[test]
    fn complete_writes_a_checksum_of_zero_as_all_ones() {
        let mut l4 = [0xff, 0xff, 0, 0];
        assert!(complete(&mut l4, 2, Sum::ZERO));
        assert_eq!(l4, [0xff, 0xff, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_naive_loop(bytes in proptest::collection::vec(any::<u8>(), 0..2000), skip in 0usize..8) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(Sum::of(bytes).fold() % 0xffff, naive(bytes) % 0xffff);
        }

        #[test]
        fn sum_of_parts_is_the_sum_of_the_whole(head in proptest::collection::vec(any::<u16>(), 0..40), tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let head: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
            let whole: Vec<u8> = head.iter().chain(&tail).copied().collect();
            prop_assert_eq!((Sum::of(&head) + Sum::of(&tail)).fold(), Sum::of(&whole).fold());
        }

        #[test]
        fn update_agrees_with_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 20..100), at in 0usize..8, new in any::<u32>()) {
            // The last word makes the sum nonzero on both sides: RFC 1624 §3 is exact except for all-zero data.
            let last = bytes.len() & !1;
            bytes[last - 1] |= 1;
            let at = at * 2;
            let before = Sum::of(&bytes).finish();
            let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update_u32(before, old, new), Sum::of(&bytes).finish());
            let (high, low) = ((old >> 16) as u16, old as u16);
            let by_halves = update_u16(update_u16(before, high, (new >> 16) as u16), low, new as u16);
            prop_assert_eq!(by_halves, Sum::of(&bytes).finish());
        }

        #[test]
        fn completing_a_partial_checksum_makes_it_correct(mut l4 in proptest::collection::vec(any::<u8>(), 20..200), source in any::<u32>(), destination in any::<u32>()) {
            let pseudo = Sum::pseudo_v4(source.into(), destination.into(), Protocol::TCP, l4.len() as u32);
            l4[16..18].copy_from_slice(&pseudo.fold().to_be_bytes());
            prop_assert!(is_partial(u16::from_be_bytes([l4[16], l4[17]]), pseudo));
            prop_assert!(complete(&mut l4, 16, pseudo));
            prop_assert!(is_correct(&l4, pseudo));
            // And a correct one stays as it is.
            let before = l4.clone();
            prop_assert!(complete(&mut l4, 16, pseudo));
            prop_assert_eq!(before, l4);
        }
    }
}
