//! The Internet Protocol, version 4 (RFC 791).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |Version|  IHL  |Type of Service|          Total Length         |
//! +-------+-------+---------------+-----+-------------------------+
//! |         Identification        |Flags|      Fragment Offset    |
//! +---------------+---------------+-----+-------------------------+
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! +---------------+---------------+-------------------------------+
//! |                       Source Address                          |
//! |                    Destination Address                        |
//! |                    Options                    |    Padding    |
//! +-----------------------------------------------+---------------+
//! ```
//!
//! IPv4 in IPv4 (RFC 2003) is this header twice, the outer with [`Protocol::IPIP`].

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Range;

use crate::bytes::{array_at, clamp, clamp_mut, put_u16, put_u32, u16_at, u32_at};
use crate::checksum::{self, Sum};
use crate::{Malformed, Protocol};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Version (high four bits) and header length in words of four bytes (low four bits).
    pub const VERSION_IHL: usize = 0;
    /// Type of service: DSCP and ECN.
    pub const TOS: usize = 1;
    /// Length of header and payload.
    pub const TOTAL_LEN: Range<usize> = 2..4;
    /// Identification.
    pub const IDENTIFICATION: Range<usize> = 4..6;
    /// Flags (high three bits) and fragment offset in units of eight bytes.
    pub const FRAGMENT: Range<usize> = 6..8;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTOCOL: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: Range<usize> = 10..12;
    /// Source address.
    pub const SOURCE: Range<usize> = 12..16;
    /// Destination address.
    pub const DESTINATION: Range<usize> = 16..20;
}

/// Length of a header without options, and the shortest there is.
pub const HEADER_LEN: usize = 20;

/// "Don't fragment" in the fragment word.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the fragment word.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Fragment offset in the fragment word, in units of eight bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A checked IPv4 header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks version and lengths. Bytes beyond the total length (Ethernet padding) may follow.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let ipv4 = Ipv4::new_quoted(bytes)?;
        if usize::from(ipv4.total_len()) > ipv4.bytes.as_ref().len() {
            return Err(Malformed::Ipv4Truncated);
        }
        Ok(ipv4)
    }

    /// As [`new_checked`](Ipv4::new_checked) for the datagram that an ICMP error quotes: of its payload only the
    /// beginning need be there.
    #[inline]
    pub fn new_quoted(bytes: T) -> Result<Self, Malformed> {
        let all = bytes.as_ref();
        if all.len() < HEADER_LEN {
            return Err(Malformed::Ipv4TooShort);
        }
        if all[field::VERSION_IHL] >> 4 != 4 {
            return Err(Malformed::Ipv4Version);
        }
        let ipv4 = Ipv4 { bytes };
        let header_len = ipv4.header_len();
        if header_len < HEADER_LEN || header_len > ipv4.bytes.as_ref().len() {
            return Err(Malformed::Ipv4HeaderLength);
        }
        if usize::from(ipv4.total_len()) < header_len {
            return Err(Malformed::Ipv4TotalLength);
        }
        Ok(ipv4)
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// Length of the header, options included, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[field::VERSION_IHL] & 0x0f) * 4
    }

    /// Type of service: DSCP in the high six bits, ECN in the low two.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.bytes.as_ref()[field::TOS]
    }

    /// Length of header and payload.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::TOTAL_LEN)
    }

    /// Identification, which the fragments of one datagram share.
    #[inline]
    pub fn identification(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::IDENTIFICATION)
    }

    /// The word of flags and fragment offset as it is: nonzero under `MORE_FRAGMENTS | FRAGMENT_OFFSET` for a fragment.
    #[inline]
    pub fn fragment_word(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::FRAGMENT)
    }

    /// Whether routers must not fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.fragment_word() & DONT_FRAGMENT != 0
    }

    /// Whether more fragments of the datagram follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.fragment_word() & MORE_FRAGMENTS != 0
    }

    /// Where in the datagram this fragment's payload starts, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.fragment_word() & FRAGMENT_OFFSET) << 3
    }

    /// Whether this is a part of a datagram, the first part included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment_word() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes.as_ref()[field::TTL]
    }

    /// What the payload is.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.bytes.as_ref()[field::PROTOCOL])
    }

    /// The header checksum as it is.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::CHECKSUM)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_is_correct(&self) -> bool {
        checksum::is_correct(self.header(), Sum::ZERO)
    }

    /// Whom the datagram is from.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4>(self.bytes.as_ref(), field::SOURCE))
    }

    /// Whom the datagram is for.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4>(self.bytes.as_ref(), field::DESTINATION))
    }

    /// The header with its options.
    #[inline]
    pub fn header(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), 0..self.header_len())
    }

    /// What the header says is payload, without padding that follows it.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), self.header_len()..usize::from(self.total_len()))
    }

    /// The pseudo-header's sum for an upper-layer packet that is the whole payload.
    #[inline]
    pub fn pseudo_sum(&self) -> Sum {
        let l4_len = usize::from(self.total_len()).saturating_sub(self.header_len());
        Sum::pseudo_v4(self.source(), self.destination(), self.protocol(), l4_len as u32)
    }
}

/// Setters leave the header checksum to [`update_checksum`](Ipv4::update_checksum), except where they say otherwise.
impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets the type of service.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        self.bytes.as_mut()[field::TOS] = tos;
    }

    /// Sets the length of header and payload.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        put_u16(self.bytes.as_mut(), field::TOTAL_LEN, len);
    }

    /// Sets the identification.
    #[inline]
    pub fn set_identification(&mut self, identification: u16) {
        put_u16(self.bytes.as_mut(), field::IDENTIFICATION, identification);
    }

    /// Sets flags and fragment offset as one word.
    #[inline]
    pub fn set_fragment_word(&mut self, word: u16) {
        put_u16(self.bytes.as_mut(), field::FRAGMENT, word);
    }

    /// Sets the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.bytes.as_mut()[field::TTL] = ttl;
    }

    /// Takes one off the time to live and mends the checksum. `false`, and nothing changed, if it is one or zero.
    #[inline]
    pub fn decrement_ttl(&mut self) -> bool {
        let word = u16_at(self.bytes.as_ref(), field::TTL..field::TTL + 2);
        if word < 0x0200 {
            return false;
        }
        let checksum = checksum::update_u16(self.checksum(), word, word - 0x0100);
        put_u16(self.bytes.as_mut(), field::TTL..field::TTL + 2, word - 0x0100);
        self.set_checksum(checksum);
        true
    }

    /// Sets what the payload is.
    #[inline]
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.bytes.as_mut()[field::PROTOCOL] = protocol.0;
    }

    /// Sets the header checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put_u16(self.bytes.as_mut(), field::CHECKSUM, checksum);
    }

    /// Makes the header checksum anew.
    #[inline]
    pub fn update_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = Sum::of(self.header()).finish();
        self.set_checksum(checksum);
    }

    /// Sets whom the datagram is from.
    #[inline]
    pub fn set_source(&mut self, address: Ipv4Addr) {
        self.bytes.as_mut()[field::SOURCE].copy_from_slice(&address.octets());
    }

    /// Sets whom the datagram is for.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        self.bytes.as_mut()[field::DESTINATION].copy_from_slice(&address.octets());
    }

    /// Sets whom the datagram is from and mends the header checksum.
    #[inline]
    pub fn translate_source(&mut self, address: Ipv4Addr) {
        self.translate(field::SOURCE, address);
    }

    /// Sets whom the datagram is for and mends the header checksum.
    #[inline]
    pub fn translate_destination(&mut self, address: Ipv4Addr) {
        self.translate(field::DESTINATION, address);
    }

    #[inline]
    fn translate(&mut self, field: Range<usize>, address: Ipv4Addr) {
        let old = u32_at(self.bytes.as_ref(), field.clone());
        let checksum = checksum::update_u32(self.checksum(), old, address.to_bits());
        put_u32(self.bytes.as_mut(), field, address.to_bits());
        self.set_checksum(checksum);
    }

    /// What the header says is payload, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.header_len()..usize::from(self.total_len());
        clamp_mut(self.bytes.as_mut(), range)
    }
}

/// An IPv4 header without options as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset as one word.
    pub fragment_word: u16,
    /// Time to live.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// Whom the datagram is from.
    pub source: Ipv4Addr,
    /// Whom the datagram is for.
    pub destination: Ipv4Addr,
    /// Length of the payload. With the header's 20 bytes it must fit 16 bits.
    pub payload_len: u16,
}

impl Repr {
    /// Reads the header at the start of `bytes`. Options are left out, the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let ipv4 = Ipv4::new_checked(bytes)?;
        Ok(Repr {
            tos: ipv4.tos(),
            identification: ipv4.identification(),
            fragment_word: ipv4.fragment_word(),
            ttl: ipv4.ttl(),
            protocol: ipv4.protocol(),
            source: ipv4.source(),
            destination: ipv4.destination(),
            payload_len: ipv4.payload().len() as u16,
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header, with its checksum, at the start of `bytes`; the payload need not be there yet.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes: &mut [u8; HEADER_LEN] = bytes.first_chunk_mut().ok_or(Malformed::Ipv4TooShort)?;
        let total_len = self.payload_len.checked_add(HEADER_LEN as u16).ok_or(Malformed::Ipv4TotalLength)?;
        // Word by word: each tunnel packet has its outer header made here.
        let mut words = [
            0x45 << 24 | u32::from(self.tos) << 16 | u32::from(total_len),
            u32::from(self.identification) << 16 | u32::from(self.fragment_word),
            u32::from(self.ttl) << 24 | u32::from(self.protocol.0) << 16,
            self.source.to_bits(),
            self.destination.to_bits(),
        ];
        let sum = words.iter().fold(Sum::ZERO, |sum, word| sum + *word);
        words[2] |= u32::from(sum.finish());
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ipv4 {} > {} {} ttl {} payload {}",
            self.source, self.destination, self.protocol, self.ttl, self.payload_len
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    const REPR: Repr = Repr {
        tos: 0xb8,
        identification: 0x1234,
        fragment_word: DONT_FRAGMENT,
        ttl: 64,
        protocol: Protocol::UDP,
        source: Ipv4Addr::new(10, 244, 1, 2),
        destination: Ipv4Addr::new(10, 244, 2, 2),
        payload_len: 4,
    };

    fn emitted() -> [u8; 30] {
        let mut bytes = [0xaa; 30];
        REPR.emit(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn repr_round_trips() {
        let bytes = emitted();
        assert_eq!(Repr::parse(&bytes), Ok(REPR));
        let ipv4 = Ipv4::new_checked(&bytes).unwrap();
        assert!(ipv4.checksum_is_correct());
        assert_eq!(ipv4.payload(), [0xaa; 4], "padding is not payload");
        assert_eq!(REPR.to_string(), "ipv4 10.244.1.2 > 10.244.2.2 udp ttl 64 payload 4");
    }

    #[test]
    fn parse_rejects_ihl_below_five() {
        let mut bytes = emitted();
        bytes[0] = 0x44;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv4HeaderLength));
    }

    #[test]
    fn parse_rejects_a_header_longer_than_the_packet() {
        let mut bytes = emitted();
        bytes[0] = 0x4f;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv4HeaderLength));
    }

    #[test]
    fn parse_rejects_version_six() {
        let mut bytes = emitted();
        bytes[0] = 0x65;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv4Version));
    }

    #[test]
    fn parse_rejects_total_length_below_the_header_and_beyond_the_packet() {
        let mut bytes = emitted();
        bytes[3] = 19;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv4TotalLength));
        bytes[3] = 31;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv4Truncated));
        assert!(Ipv4::new_quoted(&bytes).is_ok(), "a quoted datagram may be cut short");
        assert_eq!(Repr::parse(&bytes[..19]), Err(Malformed::Ipv4TooShort));
    }

    #[test]
    fn emit_refuses_a_payload_that_does_not_fit_the_length_field() {
        let repr = Repr { payload_len: 65_516, ..REPR };
        assert_eq!(repr.emit(&mut [0; 20]), Err(Malformed::Ipv4TotalLength));
    }

    #[test]
    fn ttl_of_one_is_not_decremented() {
        let mut bytes = [0; 20];
        Repr { ttl: 1, payload_len: 0, ..REPR }.emit(&mut bytes).unwrap();
        let before = bytes;
        assert!(!Ipv4::new_checked(&mut bytes).unwrap().decrement_ttl());
        assert_eq!(before, bytes);
    }

    #[test]
    fn fragments_are_told_from_whole_datagrams() {
        for (word, fragment, offset) in
            [(DONT_FRAGMENT, false, 0), (MORE_FRAGMENTS, true, 0), (0x00b9, true, 1480)]
        {
            let mut bytes = [0; 24];
            Repr { fragment_word: word, ..REPR }.emit(&mut bytes).unwrap();
            let ipv4 = Ipv4::new_checked(&bytes).unwrap();
            assert_eq!((ipv4.is_fragment(), ipv4.fragment_offset()), (fragment, offset));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), ihl in 0u8..16, total_len in any::<u16>(), real in any::<bool>()) {
            if real && bytes.len() >= HEADER_LEN {
                bytes[0] = 0x40 | ihl;
                bytes[2] = 0;
            }
            let _ = Repr::parse(&bytes);
            if let Ok(mut ipv4) = Ipv4::new_quoted(&mut bytes[..]) {
                ipv4.set_total_len(total_len);
                let _ = (ipv4.pseudo_sum(), ipv4.checksum_is_correct(), ipv4.decrement_ttl());
                let len = ipv4.payload().len();
                prop_assert_eq!(ipv4.payload_mut().len(), len);
            }
        }

        #[test]
        fn checksum_stays_correct_through_ttl_and_translation(source in any::<u32>(), destination in any::<u32>(), ttl in 2u8.., identification in any::<u16>(), new in any::<u32>()) {
            let mut bytes = [0; 24];
            Repr { source: source.into(), destination: destination.into(), ttl, identification, ..REPR }.emit(&mut bytes).unwrap();
            let mut ipv4 = Ipv4::new_checked(&mut bytes).unwrap();
            prop_assert!(ipv4.decrement_ttl());
            ipv4.translate_source(new.into());
            ipv4.translate_destination(Ipv4Addr::from_bits(!new));
            prop_assert!(ipv4.checksum_is_correct());
            prop_assert_eq!((ipv4.ttl(), ipv4.source().to_bits(), ipv4.destination().to_bits()), (ttl - 1, new, !new));
        }
    }
}
