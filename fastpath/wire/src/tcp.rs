//! The Transmission Control Protocol (RFC 9293).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          Source Port          |       Destination Port        |
//! +-------------------------------+-------------------------------+
//! |                        Sequence Number                        |
//! |                    Acknowledgment Number                      |
//! +-------+-------+---------------+-------------------------------+
//! | DOffs | Rsrvd |C E U A P R S F|            Window             |
//! +-------+-------+---------------+-------------------------------+
//! |           Checksum            |         Urgent Pointer        |
//! +-------------------------------+-------------------------------+
//! |                           Options                             |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::ops::{BitOr, Range};

use crate::bytes::{clamp, clamp_mut, put_u16, put_u32, u16_at, u32_at};
use crate::checksum::{self, Sum};
use crate::{L4Port, Malformed};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Source port.
    pub const SOURCE_PORT: Range<usize> = 0..2;
    /// Destination port.
    pub const DESTINATION_PORT: Range<usize> = 2..4;
    /// Sequence number.
    pub const SEQUENCE: Range<usize> = 4..8;
    /// Acknowledgement number.
    pub const ACKNOWLEDGEMENT: Range<usize> = 8..12;
    /// Header length in words of four bytes (high four bits).
    pub const DATA_OFFSET: usize = 12;
    /// Flags.
    pub const FLAGS: usize = 13;
    /// Window.
    pub const WINDOW: Range<usize> = 14..16;
    /// Checksum.
    pub const CHECKSUM: Range<usize> = 16..18;
    /// Urgent pointer.
    pub const URGENT: Range<usize> = 18..20;
}

/// Length of a header without options, and the shortest there is.
pub const HEADER_LEN: usize = 20;

/// The control bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn intersects(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    /// As tcpdump shows them: `S`, `S.`, `.`, `P.`, `F.`, `R`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(Flags, &str); 8] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::URG, "U"),
            (Flags::CWR, "W"),
            (Flags::ECE, "E"),
            (Flags::ACK, "."),
        ];
        if self.0 == 0 {
            return f.write_str("none");
        }
        LETTERS
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// A checked TCP header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Tcp<T> {
    /// Checks the lengths.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN {
            return Err(Malformed::TcpTooShort);
        }
        let tcp = Tcp { bytes };
        let header_len = tcp.header_len();
        if header_len < HEADER_LEN || header_len > tcp.bytes.as_ref().len() {
            Err(Malformed::TcpDataOffset)
        } else {
            Ok(tcp)
        }
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

    /// The sequence number.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32_at(self.bytes.as_ref(), field::SEQUENCE)
    }

    /// The acknowledgement number.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        u32_at(self.bytes.as_ref(), field::ACKNOWLEDGEMENT)
    }

    /// Length of the header, options included, in bytes ("data offset").
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[field::DATA_OFFSET] >> 4) * 4
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.bytes.as_ref()[field::FLAGS])
    }

    /// The window, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::WINDOW)
    }

    /// The checksum as it is.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::CHECKSUM)
    }

    /// Whether the checksum is right; the view must end where the segment ends.
    #[inline]
    pub fn checksum_is_correct(&self, pseudo: Sum) -> bool {
        checksum::is_correct(self.bytes.as_ref(), pseudo)
    }

    /// The options as they are.
    #[inline]
    pub fn options(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..self.header_len())
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), self.header_len()..usize::MAX)
    }
}

/// Setters leave the checksum to [`update_checksum`](Tcp::update_checksum).
impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
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

    /// Sets the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, number: u32) {
        put_u32(self.bytes.as_mut(), field::SEQUENCE, number);
    }

    /// Sets the acknowledgement number.
    #[inline]
    pub fn set_acknowledgement(&mut self, number: u32) {
        put_u32(self.bytes.as_mut(), field::ACKNOWLEDGEMENT, number);
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.bytes.as_mut()[field::FLAGS] = flags.0;
    }

    /// Sets the window.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        put_u16(self.bytes.as_mut(), field::WINDOW, window);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put_u16(self.bytes.as_mut(), field::CHECKSUM, checksum);
    }

    /// Makes the checksum anew; the view must end where the segment ends.
    #[inline]
    pub fn update_checksum(&mut self, pseudo: Sum) {
        checksum::complete(self.bytes.as_mut(), field::CHECKSUM.start, pseudo);
    }

    /// What follows the header, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let start = self.header_len();
        clamp_mut(self.bytes.as_mut(), start..usize::MAX)
    }
}

/// A TCP header without options as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The source port.
    pub source_port: L4Port,
    /// The destination port.
    pub destination_port: L4Port,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// The control bits.
    pub flags: Flags,
    /// The window.
    pub window: u16,
}

impl Repr {
    /// Reads the header at the start of `bytes`. Options are left out, the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let tcp = Tcp::new_checked(bytes)?;
        Ok(Repr {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            flags: tcp.flags(),
            window: tcp.window(),
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header at the start of `bytes`, with a checksum of zero; once the payload is there,
    /// [`Tcp::update_checksum`] makes it.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes = bytes.get_mut(..HEADER_LEN).ok_or(Malformed::TcpTooShort)?;
        bytes[field::DATA_OFFSET] = 0x50;
        bytes[field::URGENT].fill(0);
        let mut tcp = Tcp { bytes };
        tcp.set_source_port(self.source_port);
        tcp.set_destination_port(self.destination_port);
        tcp.set_sequence(self.sequence);
        tcp.set_acknowledgement(self.acknowledgement);
        tcp.set_flags(self.flags);
        tcp.set_window(self.window);
        tcp.set_checksum(0);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tcp {} > {} [{}] seq {} ack {} win {}",
            self.source_port,
            self.destination_port,
            self.flags,
            self.sequence,
            self.acknowledgement,
            self.window
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;
    use crate::Protocol;

    const REPR: Repr = Repr {
        source_port: L4Port(40_000),
        destination_port: L4Port(80),
        sequence: 1,
        acknowledgement: 2,
        flags: Flags(0x12),
        window: 512,
    };

    #[test]
    fn repr_round_trips() {
        let mut bytes = [0xaa; 24];
        REPR.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Ok(REPR));
        assert_eq!(REPR.to_string(), "tcp 40000 > 80 [S.] seq 1 ack 2 win 512");
    }

    #[test]
    fn parse_rejects_data_offset_below_five_and_beyond_the_segment() {
        let mut bytes = [0; 24];
        REPR.emit(&mut bytes).unwrap();
        for offset in [0x00, 0x40, 0x70, 0xf0] {
            bytes[field::DATA_OFFSET] = offset;
            assert_eq!(Repr::parse(&bytes), Err(Malformed::TcpDataOffset));
        }
        assert_eq!(Repr::parse(&bytes[..19]), Err(Malformed::TcpTooShort));
    }

    #[test]
    fn options_are_between_header_and_payload() {
        let mut bytes = [0xaa; 26];
        REPR.emit(&mut bytes).unwrap();
        bytes[field::DATA_OFFSET] = 0x60;
        let tcp = Tcp::new_checked(&bytes).unwrap();
        assert_eq!((tcp.options().len(), tcp.payload().len()), (4, 2));
    }

    #[test]
    fn flags_tell_all_from_any() {
        let flags = Flags::SYN | Flags::ACK;
        assert!(flags.contains(Flags::SYN) && !flags.contains(Flags::SYN | Flags::FIN));
        assert!(flags.intersects(Flags::SYN | Flags::FIN) && !flags.intersects(Flags::RST));
    }

    #[test]
    fn a_changed_byte_makes_the_checksum_wrong() {
        let mut bytes = [0x55; 25];
        REPR.emit(&mut bytes).unwrap();
        let pseudo = Sum::pseudo_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP, 25);
        let mut tcp = Tcp::new_checked(&mut bytes).unwrap();
        tcp.update_checksum(pseudo);
        assert!(tcp.checksum_is_correct(pseudo));
        tcp.payload_mut()[4] ^= 0x80;
        assert!(!tcp.checksum_is_correct(pseudo));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), flags in any::<u8>()) {
            let _ = Repr::parse(&bytes).map(|repr| repr.to_string());
            if let Ok(mut tcp) = Tcp::new_checked(&mut bytes[..]) {
                tcp.set_flags(Flags(flags));
                tcp.update_checksum(Sum::ZERO);
                let len = tcp.payload().len();
                prop_assert_eq!(tcp.payload_mut().len(), len);
                prop_assert!(tcp.checksum_is_correct(Sum::ZERO));
                let _ = tcp.options();
            }
        }
    }
}
