//! Address prefixes of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address prefix whose host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `address/length`.
    #[error("{0:?} is not an address and a prefix length, like 10.0.0.0/8 or 2001:db8::/32")]
    Syntax(String),
    /// The length does not fit the family.
    #[error("prefix length {length} is more than the {max} bits of {address}")]
    Length {
        /// The address.
        address: IpAddr,
        /// What was asked for.
        length: u8,
        /// The bits of that family.
        max: u8,
    },
}

impl Cidr {
    /// The prefix of `length` bits that holds `address`; host bits are cleared.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, CidrError> {
        let max = bits(address);
        if length > max {
            return Err(CidrError::Length { address, length, max });
        }
        Ok(Self { address: mask(address, length), length })
    }

    /// The prefix that holds `address` alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }

    /// The first address: the prefix's bits, then zeros.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of bits that are fixed.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is an IPv4 prefix.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether it holds one address only.
    pub fn is_host(&self) -> bool {
        self.length == bits(self.address)
    }

    /// Whether `address` is of this family and inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && mask(address, self.length) == self.address
    }

    /// Whether every address of `other` is inside, too.
    pub fn covers(&self, other: &Cidr) -> bool {
        other.length >= self.length && self.contains(other.address)
    }

    /// The address `offset` after the first one, if it is still inside.
    pub fn nth(&self, offset: u32) -> Option<IpAddr> {
        let address = match self.address {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first).checked_add(offset)?)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first).checked_add(offset.into())?)),
        };
        self.contains(address).then_some(address)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & keep))
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & keep))
        }
    }
}

/// Splits `address/length` without clearing host bits: what an annotation or a user wrote.
pub fn parse_address_and_length(text: &str) -> Result<(IpAddr, u8), CidrError> {
    let syntax = || CidrError::Syntax(text.to_owned());
    let (address, length) = text.split_once('/').ok_or_else(syntax)?;
    let address: IpAddr = address.parse().map_err(|_| syntax())?;
    // `u8::from_str` would take "+8" and "08".
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(syntax());
    }
    if length.len() > 1 && length.starts_with('0') {
        return Err(syntax());
    }
    let length: u8 = length.parse().map_err(|_| syntax())?;
    let max = bits(address);
    if length > max {
        return Err(CidrError::Length { address, length, max });
    }
    Ok((address, length))
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = parse_address_and_length(text)?;
        Self::new(address, length)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(cidr("10.1.2.3/0").to_string(), "0.0.0.0/0");
        assert_eq!(cidr("10.1.2.3/32").to_string(), "10.1.2.3/32");
        assert_eq!(cidr("2001:db8::1/32").to_string(), "2001:db8::/32");
        assert_eq!(cidr("::1/0").to_string(), "::/0");
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "::/129",
            "a/8",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn containment_keeps_families_apart() {
        assert!(cidr("10.0.0.0/8").contains("10.255.0.1".parse().unwrap()));
        assert!(!cidr("10.0.0.0/8").contains("11.0.0.0".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").covers(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/9").covers(&cidr("10.0.0.0/8")));
    }

    #[test]
    fn counting_stops_at_the_end_of_the_prefix() {
        assert_eq!(cidr("10.244.1.0/24").nth(2), Some("10.244.1.2".parse().unwrap()));
        assert_eq!(cidr("10.244.1.0/24").nth(255), Some("10.244.1.255".parse().unwrap()));
        assert_eq!(cidr("10.244.1.0/24").nth(256), None);
        assert_eq!(cidr("255.255.255.255/32").nth(1), None);
    }
}
