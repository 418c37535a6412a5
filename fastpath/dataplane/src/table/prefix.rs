//! Address prefixes, as keys: of a family, with zero host bits, ordered so that what a prefix covers follows it.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caracal_plane_api as plane;

/// An address and how many of its leading bits count. Host bits are zero.
///
/// The order is by family, address, length: a prefix comes directly before everything inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// What is wrong with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither 4 nor 16 bytes.
    #[error("an address has 4 or 16 bytes, not {0}")]
    AddressLength(usize),
    /// More bits than the address has.
    #[error("/{length} is longer than {address}")]
    TooLong {
        /// The address.
        address: IpAddr,
        /// The prefix length asked for.
        length: u32,
    },
    /// Bits beyond the length are set.
    #[error("{address}/{length} has host bits set")]
    HostBits {
        /// The address.
        address: IpAddr,
        /// The prefix length asked for.
        length: u8,
    },
    /// No prefix at all where one must be.
    #[error("the prefix is missing")]
    Missing,
}

impl Prefix {
    /// `address/length`; host bits are cleared, a length beyond the address is cut.
    pub fn new(address: IpAddr, length: u8) -> Prefix {
        let length = length.min(width(address));
        let address = match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Prefix { address, length }
    }

    /// The prefix that is one address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: width(address) }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the prefix is one address.
    pub fn is_host(&self) -> bool {
        self.length == width(self.address)
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Prefix::new(address, self.length).address == self.address
    }

    /// Whether all of `other` is inside; a prefix covers itself.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// The same address with fewer bits.
    pub fn shortened(&self, length: u8) -> Prefix {
        Prefix::new(self.address, length.min(self.length))
    }

    pub(crate) fn from_plane(prefix: Option<&plane::Prefix>) -> Result<Prefix, PrefixError> {
        let prefix = prefix.ok_or(PrefixError::Missing)?;
        let address = address_from_plane(&prefix.address)?;
        let length = u8::try_from(prefix.length).ok().filter(|length| *length <= width(address));
        let length = length.ok_or(PrefixError::TooLong { address, length: prefix.length })?;
        let checked = Prefix::new(address, length);
        if checked.address != address {
            return Err(PrefixError::HostBits { address, length });
        }
        Ok(checked)
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        // As numbers: sorting and searching by prefix is what large changes consist of.
        let addresses = match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => one.to_bits().cmp(&other.to_bits()),
            (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits().cmp(&other.to_bits()),
            (one, other) => one.is_ipv6().cmp(&other.is_ipv6()),
        };
        addresses.then(self.length.cmp(&other.length))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Bits of an address of this family.
pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn address_from_plane(bytes: &[u8]) -> Result<IpAddr, PrefixError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(IpAddr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::from(v6))
    } else {
        Err(PrefixError::AddressLength(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_sorts_directly_before_what_it_covers() {
        let p = |address: &str, length| Prefix::new(address.parse().unwrap(), length);
        let mut sorted =
            vec![p("10.1.0.0", 16), p("10.0.0.0", 8), p("11.0.0.0", 8), p("10.0.0.0", 24), p("::", 0)];
        sorted.sort();
        let expected = [p("10.0.0.0", 8), p("10.0.0.0", 24), p("10.1.0.0", 16), p("11.0.0.0", 8), p("::", 0)];
        assert_eq!(sorted, expected);
        assert!(
            sorted[0].covers(&sorted[1]) && sorted[0].covers(&sorted[2]) && !sorted[0].covers(&sorted[3])
        );
    }

    #[test]
    fn a_prefix_with_host_bits_is_refused() {
        let prefix = plane::Prefix { address: vec![10, 0, 0, 1], length: 24 };
        let error = Prefix::from_plane(Some(&prefix)).unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.1/24 has host bits set");
    }
}
