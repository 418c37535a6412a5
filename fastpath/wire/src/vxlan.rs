//! VXLAN (RFC 7348): an Ethernet frame over UDP.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+-----------------------------------------------+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +---------------+-------------------------------+---------------+
//! |            VXLAN Network Identifier (VNI)     |   Reserved    |
//! +-----------------------------------------------+---------------+
//! ```

use core::fmt;
use core::ops::Range;

use crate::bytes::{clamp, clamp_mut, put_u32, u32_at};
use crate::{L4Port, Malformed};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Flags.
    pub const FLAGS: usize = 0;
    /// The VNI (high 24 bits) and a reserved byte.
    pub const VNI: Range<usize> = 4..8;
}

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// The port that IANA has given to VXLAN.
pub const PORT: L4Port = L4Port(4789);

/// The one flag: the VNI is valid.
pub const VNI_IS_VALID: u8 = 0x08;

/// A VXLAN network identifier.
///
/// # Legal values
///
/// 24 bits: 0 to 16,777,215. RFC 7348 reserves none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Vni(u32);

/// A number is no VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VXLAN network identifier: it has 24 bits, 16777215 at most")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// The greatest.
    pub const MAX: Vni = Vni(0x00ff_ffff);

    /// The identifier with this number.
    pub const fn new(number: u32) -> Result<Vni, InvalidVni> {
        if number > Vni::MAX.0 { Err(InvalidVni(number)) } else { Ok(Vni(number)) }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;
    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        Vni::new(number)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A checked VXLAN header and the frame that follows it.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Vxlan<T> {
    /// Checks that a header with a valid VNI is there. Reserved bits are ignored, as the RFC asks.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let all = bytes.as_ref();
        if all.len() < HEADER_LEN {
            Err(Malformed::VxlanTooShort)
        } else if all[field::FLAGS] & VNI_IS_VALID == 0 {
            Err(Malformed::VxlanNoVni)
        } else {
            Ok(Vxlan { bytes })
        }
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The network.
    #[inline]
    pub fn vni(&self) -> Vni {
        Vni(u32_at(self.bytes.as_ref(), field::VNI) >> 8)
    }

    /// The frame inside.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::MAX)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Vxlan<T> {
    /// Sets the network.
    #[inline]
    pub fn set_vni(&mut self, vni: Vni) {
        put_u32(self.bytes.as_mut(), field::VNI, vni.0 << 8);
    }

    /// The frame inside, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..usize::MAX)
    }
}

/// A VXLAN header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The network.
    pub vni: Vni,
}

impl Repr {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        Ok(Repr { vni: Vxlan::new_checked(bytes)?.vni() })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header at the start of `bytes`.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes = bytes.get_mut(..HEADER_LEN).ok_or(Malformed::VxlanTooShort)?;
        bytes[..field::VNI.start].copy_from_slice(&[VNI_IS_VALID, 0, 0, 0]);
        Vxlan { bytes }.set_vni(self.vni);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vxlan vni {}", self.vni)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    #[test]
    fn repr_round_trips() {
        let repr = Repr { vni: Vni::new(4096).unwrap() };
        let mut bytes = [0xaa; 10];
        repr.emit(&mut bytes).unwrap();
        assert_eq!(bytes, [8, 0, 0, 0, 0, 0x10, 0, 0, 0xaa, 0xaa]);
        assert_eq!(Repr::parse(&bytes), Ok(repr));
        assert_eq!(repr.to_string(), "vxlan vni 4096");
    }

    #[test]
    fn parse_rejects_a_header_without_the_valid_vni_flag() {
        assert_eq!(Repr::parse(&[0xf7, 0, 0, 0, 0, 0x10, 0, 0]), Err(Malformed::VxlanNoVni));
        assert_eq!(Repr::parse(&[8; 7]), Err(Malformed::VxlanTooShort));
    }

    #[test]
    fn reserved_bits_do_not_count() {
        assert_eq!(Repr::parse(&[0xff; 8]), Ok(Repr { vni: Vni::MAX }));
    }

    #[test]
    fn a_number_of_25_bits_is_no_vni() {
        assert_eq!(Vni::new(0x0100_0000), Err(InvalidVni(0x0100_0000)));
        assert_eq!(Vni::new(0x00ff_ffff), Ok(Vni::MAX));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let parsed = Repr::parse(&bytes);
            if let Ok(mut vxlan) = Vxlan::new_checked(&mut bytes[..]) {
                let len = vxlan.payload().len();
                prop_assert_eq!(vxlan.payload_mut().len(), len);
                parsed.unwrap().emit(&mut bytes).unwrap();
                prop_assert_eq!(Repr::parse(&bytes), parsed);
            }
        }
    }
}
