//! Blocks of addresses, as objects write them.

use std::net::IpAddr;

/// The addresses that share the first `length` bits of `first`. Host bits do not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    first: IpAddr,
    length: u32,
}

impl Block {
    /// Reads `address/length`, or an address by itself; `None` when it is neither.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (first, length) = match text.split_once('/') {
            None => (text, None),
            Some((first, length)) => (first, Some(length)),
        };
        let first: IpAddr = first.parse().ok()?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(bits), |length| length.parse().ok())?;
        (length <= bits).then_some(Self { first, length })
    }

    /// Whether its addresses are of the family of `address`.
    pub(super) fn is_of_family(self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4()
    }

    /// Whether `address` is in it.
    pub(super) fn holds(self, address: IpAddr) -> bool {
        if !self.is_of_family(address) {
            return false;
        }
        // Without the bits that are free both are alike. Of no fixed bits at all nothing can differ.
        let (first, bits) = number(self.first);
        let (address, _) = number(address);
        (first ^ address).checked_shr(bits - self.length).is_none_or(|different| different == 0)
    }
}

/// An address as a number, and how many bits it has.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_shares_its_first_bits() {
        let holds = |block: &str, address: &str| {
            Block::read(block).is_some_and(|block| block.holds(address.parse().unwrap()))
        };
        assert!(holds("10.0.0.0/8", "10.255.255.255"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.1.2.3/8", "10.0.0.0"), "host bits do not matter");
        assert!(holds("0.0.0.0/0", "255.255.255.255"));
        assert!(!holds("0.0.0.0/0", "::"), "families are apart");
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.0"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::"));
        assert!(holds("::/0", "2001:db8::1") && !holds("::1/128", "::2"));
        for nonsense in ["", "10.0.0.0/33", "2001:db8::/129", "10.0.0.0/-1", "x/8"] {
            assert!(Block::read(nonsense).is_none(), "{nonsense}");
        }
    }
}
