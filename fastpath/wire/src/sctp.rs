//! The Stream Control Transmission Protocol (RFC 9260): the common header, and of the chunks what tracking a
//! connection needs.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          Source Port          |       Destination Port        |
//! +-------------------------------+-------------------------------+
//! |                      Verification Tag                         |
//! |                          Checksum (CRC32c)                    |
//! +---------------+---------------+-------------------------------+
//! |  Chunk Type   |     Flags     |         Chunk Length          |
//! +---------------+---------------+-------------------------------+
//! ```
//!
//! The checksum is no Internet checksum: no pseudo-header is in it, so a change of address leaves it right, and a
//! change of port does not.

use core::fmt;
use core::ops::Range;

use crate::bytes::{array_at, clamp, clamp_mut, put_u16, put_u32, u16_at, u32_at};
use crate::{L4Port, Malformed};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Source port.
    pub const SOURCE_PORT: Range<usize> = 0..2;
    /// Destination port.
    pub const DESTINATION_PORT: Range<usize> = 2..4;
    /// Verification tag.
    pub const TAG: Range<usize> = 4..8;
    /// CRC32c, least significant byte first.
    pub const CHECKSUM: Range<usize> = 8..12;
    /// Type of the first chunk.
    pub const FIRST_CHUNK: usize = 12;
}

/// Length of the common header.
pub const HEADER_LEN: usize = 12;

/// A chunk type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ChunkKind(pub u8);

impl ChunkKind {
    /// Payload data.
    pub const DATA: ChunkKind = ChunkKind(0);
    /// Opens an association.
    pub const INIT: ChunkKind = ChunkKind(1);
    /// Answers INIT.
    pub const INIT_ACK: ChunkKind = ChunkKind(2);
    /// Ends an association at once.
    pub const ABORT: ChunkKind = ChunkKind(6);
    /// Starts to end an association.
    pub const SHUTDOWN: ChunkKind = ChunkKind(7);
    /// Answers SHUTDOWN.
    pub const SHUTDOWN_ACK: ChunkKind = ChunkKind(8);
    /// Brings the cookie back.
    pub const COOKIE_ECHO: ChunkKind = ChunkKind(10);
    /// The association stands.
    pub const COOKIE_ACK: ChunkKind = ChunkKind(11);
    /// The association is over.
    pub const SHUTDOWN_COMPLETE: ChunkKind = ChunkKind(14);
}

/// A checked SCTP common header and the chunks that follow it.
#[derive(Debug, Clone, Copy)]
pub struct Sctp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Sctp<T> {
    /// Checks that a common header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN { Err(Malformed::SctpTooShort) } else { Ok(Sctp { bytes }) }
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

    /// The verification tag.
    #[inline]
    pub fn verification_tag(&self) -> u32 {
        u32_at(self.bytes.as_ref(), field::TAG)
    }

    /// The checksum as it is.
    #[inline]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(array_at(self.bytes.as_ref(), field::CHECKSUM))
    }

    /// Whether the checksum is right; the view must end where the packet ends.
    pub fn checksum_is_correct(&self) -> bool {
        self.checksum() == packet_crc(self.bytes.as_ref())
    }

    /// Type of the first chunk, if there is one. INIT is alone in its packet (RFC 9260 §4.3).
    #[inline]
    pub fn first_chunk(&self) -> Option<ChunkKind> {
        self.bytes.as_ref().get(field::FIRST_CHUNK).copied().map(ChunkKind)
    }

    /// The chunks.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::MAX)
    }
}

/// Setters leave the checksum to [`update_checksum`](Sctp::update_checksum).
impl<T: AsRef<[u8]> + AsMut<[u8]>> Sctp<T> {
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

    /// Sets the verification tag.
    #[inline]
    pub fn set_verification_tag(&mut self, tag: u32) {
        put_u32(self.bytes.as_mut(), field::TAG, tag);
    }

    /// Makes the checksum anew; the view must end where the packet ends.
    pub fn update_checksum(&mut self) {
        let crc = packet_crc(self.bytes.as_ref());
        self.bytes.as_mut()[field::CHECKSUM].copy_from_slice(&crc.to_le_bytes());
    }

    /// The chunks, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..usize::MAX)
    }
}

/// The CRC of a packet with its checksum field taken as zero (RFC 9260 appendix A).
fn packet_crc(packet: &[u8]) -> u32 {
    let crc = crc32c(!0, &packet[..field::CHECKSUM.start]);
    let crc = crc32c(crc, &[0; 4]);
    !crc32c(crc, &packet[field::CHECKSUM.end..])
}

/// The checksum after the four bytes of the ports went from `old` to `new`, in a packet of `len` bytes of which nothing
/// else is read: a CRC of the difference alone is the difference of the CRCs. A wrong one stays as wrong as it was.
#[must_use]
pub fn update_ports(checksum: u32, old: [u8; 4], new: [u8; 4], len: usize) -> u32 {
    let difference = (u32::from_le_bytes(old) ^ u32::from_le_bytes(new)).to_le_bytes();
    checksum ^ multiply(crc32c(0, &difference), zeros(len.saturating_sub(difference.len())))
}

/// What a CRC is multiplied with, as a polynomial, when so many bytes of zero follow: x^(8·bytes).
fn zeros(bytes: usize) -> u32 {
    // Bit-reversed: the highest bit is x^0.
    let (mut result, mut square, mut left) = (1 << 31, 1 << 23, bytes);
    while left > 0 {
        if left & 1 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        left >>= 1;
    }
    result
}

/// The product of two polynomials, modulo Castagnoli's.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if a >> bit & 1 == 1 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ 0x82f6_3b78 } else { b >> 1 };
    }
    product
}

/// One more stretch of a CRC with Castagnoli's polynomial, bit-reversed.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| CRC32C[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// The CRC of each byte.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// An SCTP common header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The source port.
    pub source_port: L4Port,
    /// The destination port.
    pub destination_port: L4Port,
    /// The verification tag.
    pub verification_tag: u32,
}

impl Repr {
    /// Reads the common header at the start of `bytes`; the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let sctp = Sctp::new_checked(bytes)?;
        Ok(Repr {
            source_port: sctp.source_port(),
            destination_port: sctp.destination_port(),
            verification_tag: sctp.verification_tag(),
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header at the start of `packet`, whose rest must already be the chunks: the checksum covers them.
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Malformed> {
        let mut sctp = Sctp::new_checked(packet)?;
        sctp.set_source_port(self.source_port);
        sctp.set_destination_port(self.destination_port);
        sctp.set_verification_tag(self.verification_tag);
        sctp.update_checksum();
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr { source_port, destination_port, verification_tag } = self;
        write!(f, "sctp {source_port} > {destination_port} tag {verification_tag:#010x}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    const REPR: Repr =
        Repr { source_port: L4Port(5000), destination_port: L4Port(36_412), verification_tag: 0x0102_0304 };

    #[test]
    fn repr_round_trips() {
        let mut packet = [0xaa; 20];
        packet[field::FIRST_CHUNK] = 1;
        REPR.emit(&mut packet).unwrap();
        assert_eq!(Repr::parse(&packet), Ok(REPR));
        let sctp = Sctp::new_checked(&packet).unwrap();
        assert!(sctp.checksum_is_correct());
        assert_eq!(sctp.first_chunk(), Some(ChunkKind::INIT));
        assert_eq!(REPR.to_string(), "sctp 5000 > 36412 tag 0x01020304");
    }

    #[test]
    fn parse_rejects_eleven_bytes_and_takes_a_header_without_chunks() {
        assert_eq!(Repr::parse(&[0; 11]), Err(Malformed::SctpTooShort));
        assert_eq!(Sctp::new_checked(&[0; 12]).unwrap().first_chunk(), None);
    }

    #[test]
    fn crc_of_the_examples_in_rfc_3720_is_right() {
        // RFC 3720 appendix B.4: 32 bytes of zeros, of ones, and counting up.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        let mut counting = [0; 32];
        counting.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
        assert_eq!(!crc32c(!0, &counting), 0x46dd_794e);
    }

    proptest! {
        #[test]
        fn a_change_of_ports_is_the_same_as_a_checksum_made_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 12..2000), ports in any::<[u8; 4]>()
        ) {
            let mut sctp = Sctp::new_checked(&mut bytes[..]).unwrap();
            sctp.update_checksum();
            let before = sctp.checksum();
            let (old, len) = ([bytes[0], bytes[1], bytes[2], bytes[3]], bytes.len());
            bytes[..4].copy_from_slice(&ports);
            let mut sctp = Sctp::new_checked(&mut bytes[..]).unwrap();
            sctp.update_checksum();
            prop_assert_eq!(update_ports(before, old, ports, len), sctp.checksum());
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), bit in any::<prop::sample::Index>()) {
            let _ = Repr::parse(&bytes);
            if let Ok(mut sctp) = Sctp::new_checked(&mut bytes[..]) {
                sctp.update_checksum();
                prop_assert!(sctp.checksum_is_correct());
                let _ = sctp.first_chunk();
                let len = sctp.payload().len();
                prop_assert_eq!(sctp.payload_mut().len(), len);
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!Sctp::new_checked(&bytes[..]).unwrap().checksum_is_correct(), "CRC missed one bit");
            }
        }
    }
}
