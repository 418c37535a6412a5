//! The User Datagram Protocol (RFC 768).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          Source Port          |       Destination Port        |
//! +-------------------------------+-------------------------------+
//! |            Length             |           Checksum            |
//! +-------------------------------+-------------------------------+
//! ```

use core::fmt;
use core::ops::Range;

use crate::bytes::{clamp, clamp_mut, put_u16, u16_at};
use crate::checksum::{self, Sum};
use crate::{L4Port, Malformed};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Source port.
    pub const SOURCE_PORT: Range<usize> = 0..2;
    /// Destination port.
    pub const DESTINATION_PORT: Range<usize> = 2..4;
    /// Length of header and payload.
    pub const LEN: Range<usize> = 4..6;
    /// Checksum; zero means that there is none.
    pub const CHECKSUM: Range<usize> = 6..8;
}

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// A checked UDP header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Udp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Udp<T> {
    /// Checks the lengths.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let udp = Udp::new_quoted(bytes)?;
        if usize::from(udp.len()) > udp.bytes.as_ref().len() { Err(Malformed::UdpLength) } else { Ok(udp) }
    }

    /// As [`new_checked`](Udp::new_checked) for a datagram of which only the beginning is here: an ICMP error quotes it, or
    /// the rest is in another buffer.
    #[inline]
    pub fn new_quoted(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN {
            return Err(Malformed::UdpTooShort);
        }
        let udp = Udp { bytes };
        if usize::from(udp.len()) < HEADER_LEN { Err(Malformed::UdpLength) } else { Ok(udp) }
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The source port.
    #[inline]
    pub fn source_port(&self) -> L4Port {
        L4Port(u16_at(self.bytes.as_ref(), field::SOURCE_PORT))
    }

    /// The destination port.
    #[inline]
    pub fn destination_port(&self) -> L4Port {
        L4Port(u16_at(self.bytes.as_ref(), field::DESTINATION_PORT))
    }

    /// Length of header and payload.
    #[inline]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a field of the header; it counts the header, so it is never zero"
    )]
    pub fn len(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::LEN)
    }

    /// The checksum as it is; zero means that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::CHECKSUM)
    }

    /// Whether the checksum is right or, over IPv4 only, absent.
    #[inline]
    pub fn checksum_is_correct(&self, pseudo: Sum) -> bool {
        self.checksum() == 0
            || checksum::is_correct(clamp(self.bytes.as_ref(), 0..usize::from(self.len())), pseudo)
    }

    /// What the header says is payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::from(self.len()))
    }
}

/// Setters leave the checksum to [`update_checksum`](Udp::update_checksum).
impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the source port.
    #[inline]
    pub fn set_source_port(&mut self, port: L4Port) {
        put_u16(self.bytes.as_mut(), field::SOURCE_PORT, port.0);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_destination_port(&mut self, port: L4Port) {
        put_u16(self.bytes.as_mut(), field::DESTINATION_PORT, port.0);
    }

    /// Sets the length of header and payload.
    #[inline]
    pub fn set_len(&mut self, len: u16) {
        put_u16(self.bytes.as_mut(), field::LEN, len);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put_u16(self.bytes.as_mut(), field::CHECKSUM, checksum);
    }

    /// Makes the checksum anew over header and payload.
    #[inline]
    pub fn update_checksum(&mut self, pseudo: Sum) {
        let len = usize::from(self.len());
        checksum::complete(clamp_mut(self.bytes.as_mut(), 0..len), field::CHECKSUM.start, pseudo);
    }

    /// What the header says is payload, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let len = usize::from(self.len());
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..len)
    }
}

/// A UDP header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The source port.
    pub source_port: L4Port,
    /// The destination port.
    pub destination_port: L4Port,
    /// Length of the payload. With the header's 8 bytes it must fit 16 bits.
    pub payload_len: u16,
}

impl Repr {
    /// Reads the header at the start of `bytes`; the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let udp = Udp::new_checked(bytes)?;
        Ok(Repr {
            source_port: udp.source_port(),
            destination_port: udp.destination_port(),
            payload_len: udp.payload().len() as u16,
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header, with no checksum, at the start of `bytes`; once the payload is there,
    /// [`Udp::update_checksum`] makes one. VXLAN over IPv4 goes without.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes = bytes.get_mut(..HEADER_LEN).ok_or(Malformed::UdpTooShort)?;
        let len = self.payload_len.checked_add(HEADER_LEN as u16).ok_or(Malformed::UdpLength)?;
        let mut udp = Udp { bytes };
        udp.set_source_port(self.source_port);
        udp.set_destination_port(self.destination_port);
        udp.set_len(len);
        udp.set_checksum(0);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp {} > {} payload {}", self.source_port, self.destination_port, self.payload_len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;
    use crate::Protocol;

    const REPR: Repr = Repr { source_port: L4Port(53), destination_port: L4Port(40_000), payload_len: 3 };

    #[test]
    fn repr_round_trips() {
        let mut bytes = [0xaa; 16];
        REPR.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Ok(REPR));
        assert_eq!(Udp::new_checked(&bytes).unwrap().payload(), [0xaa; 3]);
        assert_eq!(REPR.to_string(), "udp 53 > 40000 payload 3");
    }

    #[test]
    fn parse_rejects_lengths_below_eight_and_beyond_the_datagram() {
        let mut bytes = [0; 16];
        REPR.emit(&mut bytes).unwrap();
        for len in [0, 7, 17] {
            Udp { bytes: &mut bytes }.set_len(len);
            assert_eq!(Repr::parse(&bytes), Err(Malformed::UdpLength));
        }
        assert_eq!(Repr::parse(&bytes[..7]), Err(Malformed::UdpTooShort));
    }

    #[test]
    fn a_checksum_of_zero_means_none_and_is_correct() {
        let mut bytes = [0xaa; 11];
        REPR.emit(&mut bytes).unwrap();
        let pseudo = Sum::pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::UDP, 11);
        let mut udp = Udp::new_checked(&mut bytes).unwrap();
        assert!(udp.checksum_is_correct(pseudo));
        udp.update_checksum(pseudo);
        assert!(udp.checksum() != 0 && udp.checksum_is_correct(pseudo));
        udp.payload_mut()[1] ^= 1;
        assert!(!udp.checksum_is_correct(pseudo));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), len in any::<u16>(), real in any::<bool>()) {
            if real && bytes.len() >= HEADER_LEN {
                bytes[4] = 0;
            }
            let _ = Repr::parse(&bytes);
            if let Ok(mut udp) = Udp::new_checked(&mut bytes[..]) {
                udp.set_len(len);
                udp.update_checksum(Sum::ZERO);
                let _ = udp.checksum_is_correct(Sum::ZERO);
                let payload = udp.payload().len();
                prop_assert_eq!(udp.payload_mut().len(), payload);
            }
        }
    }
}
