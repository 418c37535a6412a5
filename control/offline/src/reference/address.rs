//! IPv4 blocks, read from text for every question.

use std::net::Ipv4Addr;

/// Whether `address` is in the block written `a.b.c.d/n`. What is no IPv4 block holds no IPv4 address.
pub(super) fn block_holds(block: &str, address: Ipv4Addr) -> bool {
    let Some((first, length)) = block.split_once('/') else { return false };
    let (Ok(first), Ok(length)) = (first.parse::<Ipv4Addr>(), length.parse::<u32>()) else { return false };
    // The addresses share their first `length` bits: dividing away the rest makes them equal.
    let Some(rest) = 32u32.checked_sub(length) else { return false };
    let size = 1u64 << rest;
    u64::from(u32::from(first)) / size == u64::from(u32::from(address)) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_shares_its_first_bits() {
        let holds = |block, address: &str| block_holds(block, address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.255.255"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.1.2.3/8", "10.0.0.0"), "host bits do not matter");
        assert!(holds("0.0.0.0/0", "255.255.255.255"));
        assert!(holds("192.0.2.1/32", "192.0.2.1"));
        assert!(!holds("192.0.2.1/32", "192.0.2.0"));
        for nonsense in ["", "10.0.0.0", "10.0.0.0/33", "2001:db8::/32", "10.0.0.0/-1"] {
            assert!(!holds(nonsense, "10.0.0.0"), "{nonsense}");
        }
    }
}
