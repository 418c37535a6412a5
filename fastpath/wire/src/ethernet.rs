//! Ethernet II (IEEE 802.3), with or without one VLAN tag in front of what it carries (802.1Q).
//!
//! ```text
//!  0      6      12     14
//! +------+------+------+-----------
//! | dst  | src  | type | payload …
//! +------+------+------+-----------
//! ```

use core::fmt;
use core::ops::Range;
use core::str::FromStr;

use crate::Malformed;
use crate::bytes::{array_at, clamp, clamp_mut, put_u16, u16_at};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Destination address.
    pub const DESTINATION: Range<usize> = 0..6;
    /// Source address.
    pub const SOURCE: Range<usize> = 6..12;
    /// EtherType.
    pub const ETHER_TYPE: Range<usize> = 12..14;
}

/// Length of the header.
pub const HEADER_LEN: usize = 14;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All zeros: no address.
    pub const ZERO: MacAddr = MacAddr([0; 6]);
    /// All ones: everyone.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// The six bytes.
    #[inline]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether this is a group address (broadcast is one).
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is the broadcast address.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == MacAddr::BROADCAST
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        MacAddr(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is not six bytes in hexadecimal with colons between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address: write six bytes as aa:bb:cc:dd:ee:ff")]
pub struct InvalidMacAddr;

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    fn from_str(text: &str) -> Result<Self, InvalidMacAddr> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(InvalidMacAddr)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddr);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddr)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddr) } else { Ok(MacAddr(octets)) }
    }
}

/// What an Ethernet frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// A VLAN tag (802.1Q).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// An outer VLAN tag (802.1ad).
    pub const SERVICE_VLAN: EtherType = EtherType(0x88a8);

    /// Whether a VLAN tag follows.
    #[inline]
    pub const fn is_vlan(self) -> bool {
        matches!(self, EtherType::VLAN | EtherType::SERVICE_VLAN)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            EtherType::IPV4 => "ipv4",
            EtherType::ARP => "arp",
            EtherType::VLAN => "vlan",
            EtherType::IPV6 => "ipv6",
            EtherType::SERVICE_VLAN => "service-vlan",
            EtherType(number) => return write!(f, "ethertype {number:#06x}"),
        })
    }
}

/// A checked Ethernet header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Ethernet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ethernet<T> {
    /// Checks that a header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN {
            Err(Malformed::EthernetTooShort)
        } else {
            Ok(Ethernet { bytes })
        }
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// Whom the frame is for.
    #[inline]
    pub fn destination(&self) -> MacAddr {
        MacAddr(array_at(self.bytes.as_ref(), field::DESTINATION))
    }

    /// Whom the frame is from.
    #[inline]
    pub fn source(&self) -> MacAddr {
        MacAddr(array_at(self.bytes.as_ref(), field::SOURCE))
    }

    /// What follows; [`EtherType::is_vlan`] when that is a tag.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        EtherType(u16_at(self.bytes.as_ref(), field::ETHER_TYPE))
    }

    /// Whether a VLAN tag follows the addresses.
    #[inline]
    pub fn is_tagged(&self) -> bool {
        self.ether_type().is_vlan()
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::MAX)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ethernet<T> {
    /// Sets whom the frame is for.
    #[inline]
    pub fn set_destination(&mut self, address: MacAddr) {
        self.bytes.as_mut()[field::DESTINATION].copy_from_slice(&address.0);
    }

    /// Sets whom the frame is from.
    #[inline]
    pub fn set_source(&mut self, address: MacAddr) {
        self.bytes.as_mut()[field::SOURCE].copy_from_slice(&address.0);
    }

    /// Sets what follows.
    #[inline]
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        put_u16(self.bytes.as_mut(), field::ETHER_TYPE, ether_type.0);
    }

    /// What follows the header, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..usize::MAX)
    }
}

/// An Ethernet header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Whom the frame is for.
    pub destination: MacAddr,
    /// Whom the frame is from.
    pub source: MacAddr,
    /// What follows.
    pub ether_type: EtherType,
}

impl Repr {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let ethernet = Ethernet::new_checked(bytes)?;
        Ok(Repr {
            destination: ethernet.destination(),
            source: ethernet.source(),
            ether_type: ethernet.ether_type(),
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header at the start of `bytes`.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let mut ethernet = Ethernet::new_checked(bytes)?;
        ethernet.set_destination(self.destination);
        ethernet.set_source(self.source);
        ethernet.set_ether_type(self.ether_type);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ethernet {} > {} {}", self.source, self.destination, self.ether_type)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    const REPR: Repr = Repr {
        destination: MacAddr([0xee; 6]),
        source: MacAddr([0x66, 1, 2, 3, 4, 5]),
        ether_type: EtherType::IPV4,
    };

    #[test]
    fn repr_round_trips() {
        let mut bytes = [0xaa; 20];
        REPR.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Ok(REPR));
        assert_eq!(REPR.to_string(), "ethernet 66:01:02:03:04:05 > ee:ee:ee:ee:ee:ee ipv4");
        assert_eq!(bytes[14..], [0xaa; 6]);
    }

    #[test]
    fn parse_rejects_thirteen_bytes() {
        assert_eq!(Repr::parse(&[0; 13]), Err(Malformed::EthernetTooShort));
        assert_eq!(REPR.emit(&mut [0; 13]), Err(Malformed::EthernetTooShort));
    }

    #[test]
    fn both_kinds_of_vlan_tag_are_seen() {
        for (ether_type, tagged) in
            [(EtherType::VLAN, true), (EtherType::SERVICE_VLAN, true), (EtherType::IPV6, false)]
        {
            let mut bytes = [0; 14];
            Repr { ether_type, ..REPR }.emit(&mut bytes).unwrap();
            assert_eq!(Ethernet::new_checked(&bytes).unwrap().is_tagged(), tagged);
        }
    }

    #[test]
    fn address_text_round_trips_and_bad_text_is_refused() {
        let address: MacAddr = "66:0a:00:ff:12:34".parse().unwrap();
        assert_eq!(address.to_string(), "66:0a:00:ff:12:34");
        for bad in [
            "",
            "66:0a:00:ff:12",
            "66:0a:00:ff:12:34:56",
            "66:0a:00:ff:12:3",
            "+6:0a:00:ff:12:34",
            "é:0a:00:ff:12:34",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMacAddr), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(mut ethernet) = Ethernet::new_checked(&mut bytes[..]) {
                let _ = ethernet.is_tagged();
                let payload = ethernet.payload().len();
                prop_assert_eq!(ethernet.payload_mut().len(), payload);
                let repr = Repr::parse(&bytes).unwrap();
                let before = bytes.clone();
                repr.emit(&mut bytes).unwrap();
                prop_assert_eq!(before, bytes);
            }
        }
    }
}
