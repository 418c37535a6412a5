//! The Internet Control Message Protocol (RFC 792, with path-MTU discovery's RFC 1191).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     Type      |     Code      |          Checksum             |
//! +---------------+---------------+-------------------------------+
//! |  echo: Identifier, Sequence   ·  unreachable: unused, MTU     |
//! +---------------------------------------------------------------+
//! |  echo: data                   ·  error: the datagram quoted   |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Range;

use crate::bytes::{clamp, clamp_mut, put_u16, u16_at};
use crate::checksum::{self, Sum};
use crate::ipv4::{self, Ipv4};
use crate::{Malformed, Protocol};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Type.
    pub const KIND: usize = 0;
    /// Code.
    pub const CODE: usize = 1;
    /// Checksum.
    pub const CHECKSUM: Range<usize> = 2..4;
    /// Echo: the identifier.
    pub const IDENTIFIER: Range<usize> = 4..6;
    /// Echo: the sequence number.
    pub const SEQUENCE: Range<usize> = 6..8;
    /// Fragmentation needed: the next hop's MTU (RFC 1191 §4).
    pub const MTU: Range<usize> = 6..8;
}

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// An error message has at most this many bytes, its IPv4 header included (RFC 1812 §4.3.2.3).
pub const ERROR_LEN_MAX: usize = 576;

/// A message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// Echo reply.
    pub const ECHO_REPLY: Kind = Kind(0);
    /// Destination unreachable.
    pub const UNREACHABLE: Kind = Kind(3);
    /// Source quench, which nobody sends any more (RFC 6633).
    pub const SOURCE_QUENCH: Kind = Kind(4);
    /// Redirect.
    pub const REDIRECT: Kind = Kind(5);
    /// Echo request.
    pub const ECHO_REQUEST: Kind = Kind(8);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Kind = Kind(11);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Kind = Kind(12);

    /// Whether such a message quotes a datagram that someone sent.
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Kind::UNREACHABLE
                | Kind::SOURCE_QUENCH
                | Kind::REDIRECT
                | Kind::TIME_EXCEEDED
                | Kind::PARAMETER_PROBLEM
        )
    }

    /// Whether such a message is an echo's request or reply.
    #[inline]
    pub const fn is_echo(self) -> bool {
        matches!(self, Kind::ECHO_REQUEST | Kind::ECHO_REPLY)
    }
}

/// Why a destination is unreachable (codes of RFC 792 and RFC 1812 §5.2.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct UnreachableCode(pub u8);

impl UnreachableCode {
    /// No route.
    pub const NET: UnreachableCode = UnreachableCode(0);
    /// No such host on the last network.
    pub const HOST: UnreachableCode = UnreachableCode(1);
    /// The host does not speak the protocol.
    pub const PROTOCOL: UnreachableCode = UnreachableCode(2);
    /// Nobody listens on the port.
    pub const PORT: UnreachableCode = UnreachableCode(3);
    /// Too big, and not to be fragmented: [`Repr::FragmentationNeeded`].
    pub const FRAGMENTATION_NEEDED: UnreachableCode = UnreachableCode(4);
    /// Forbidden by policy.
    pub const ADMINISTRATIVELY_PROHIBITED: UnreachableCode = UnreachableCode(13);
}

/// A checked ICMP header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv4<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmpv4<T> {
    /// Checks that a header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN { Err(Malformed::Icmpv4TooShort) } else { Ok(Icmpv4 { bytes }) }
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// The type.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind(self.bytes.as_ref()[field::KIND])
    }

    /// The code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.bytes.as_ref()[field::CODE]
    }

    /// The checksum as it is.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::CHECKSUM)
    }

    /// Whether the checksum is right; the view must end where the message ends.
    #[inline]
    pub fn checksum_is_correct(&self) -> bool {
        checksum::is_correct(self.bytes.as_ref(), Sum::ZERO)
    }

    /// Echo: the identifier.
    #[inline]
    pub fn identifier(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::IDENTIFIER)
    }

    /// Echo: the sequence number.
    #[inline]
    pub fn sequence(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::SEQUENCE)
    }

    /// Fragmentation needed: the next hop's MTU; zero from routers older than RFC 1191.
    #[inline]
    pub fn mtu(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::MTU)
    }

    /// What follows the header: an echo's data, or the datagram that an error quotes (see [`Ipv4::new_quoted`]).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::MAX)
    }
}

/// Setters leave the checksum to [`update_checksum`](Icmpv4::update_checksum).
impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv4<T> {
    /// Sets type and code.
    #[inline]
    pub fn set_kind(&mut self, kind: Kind, code: u8) {
        self.bytes.as_mut()[field::KIND] = kind.0;
        self.bytes.as_mut()[field::CODE] = code;
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put_u16(self.bytes.as_mut(), field::CHECKSUM, checksum);
    }

    /// Makes the checksum anew; the view must end where the message ends.
    #[inline]
    pub fn update_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = Sum::of(self.bytes.as_ref()).finish();
        self.set_checksum(checksum);
    }

    /// Echo: sets the identifier.
    #[inline]
    pub fn set_identifier(&mut self, identifier: u16) {
        put_u16(self.bytes.as_mut(), field::IDENTIFIER, identifier);
    }

    /// What follows the header, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..usize::MAX)
    }
}

/// An ICMP header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repr {
    /// Are you there?
    EchoRequest {
        /// Whose question this is.
        identifier: u16,
        /// Which of them.
        sequence: u16,
    },
    /// I am here.
    EchoReply {
        /// Whose question this was.
        identifier: u16,
        /// Which of them.
        sequence: u16,
    },
    /// The quoted datagram could not be delivered.
    Unreachable(UnreachableCode),
    /// The quoted datagram is too big for the next hop and says "don't fragment".
    FragmentationNeeded {
        /// What would have fitted, in bytes of IPv4 datagram.
        mtu: u16,
    },
    /// The quoted datagram's time to live ran out on its way.
    TtlExceeded,
    /// The quoted datagram's fragments did not arrive in time.
    ReassemblyTimeExceeded,
}

impl Repr {
    /// Reads the header at the start of `bytes`; the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let icmp = Icmpv4::new_checked(bytes)?;
        let (identifier, sequence) = (icmp.identifier(), icmp.sequence());
        match (icmp.kind(), icmp.code()) {
            (Kind::ECHO_REQUEST, 0) => Ok(Repr::EchoRequest { identifier, sequence }),
            (Kind::ECHO_REPLY, 0) => Ok(Repr::EchoReply { identifier, sequence }),
            (Kind::UNREACHABLE, code) if UnreachableCode(code) == UnreachableCode::FRAGMENTATION_NEEDED => {
                Ok(Repr::FragmentationNeeded { mtu: icmp.mtu() })
            }
            (Kind::UNREACHABLE, code) => Ok(Repr::Unreachable(UnreachableCode(code))),
            (Kind::TIME_EXCEEDED, 0) => Ok(Repr::TtlExceeded),
            (Kind::TIME_EXCEEDED, 1) => Ok(Repr::ReassemblyTimeExceeded),
            _ => Err(Malformed::IcmpKind),
        }
    }

    /// Bytes of header that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header at the start of `message`, whose rest must already be the payload: the checksum covers it.
    pub fn emit(&self, message: &mut [u8]) -> Result<(), Malformed> {
        let mut icmp = Icmpv4::new_checked(message)?;
        let (kind, code, high, low) = match *self {
            Repr::EchoRequest { identifier, sequence } => (Kind::ECHO_REQUEST, 0, identifier, sequence),
            Repr::EchoReply { identifier, sequence } => (Kind::ECHO_REPLY, 0, identifier, sequence),
            Repr::Unreachable(code) => (Kind::UNREACHABLE, code.0, 0, 0),
            Repr::FragmentationNeeded { mtu } => {
                (Kind::UNREACHABLE, UnreachableCode::FRAGMENTATION_NEEDED.0, 0, mtu)
            }
            Repr::TtlExceeded => (Kind::TIME_EXCEEDED, 0, 0, 0),
            Repr::ReassemblyTimeExceeded => (Kind::TIME_EXCEEDED, 1, 0, 0),
        };
        icmp.set_kind(kind, code);
        icmp.set_identifier(high);
        put_u16(icmp.bytes, field::SEQUENCE, low);
        Icmpv4 { bytes: icmp.bytes }.update_checksum();
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Repr::EchoRequest { identifier, sequence } => {
                write!(f, "icmp echo request id {identifier} seq {sequence}")
            }
            Repr::EchoReply { identifier, sequence } => {
                write!(f, "icmp echo reply id {identifier} seq {sequence}")
            }
            Repr::Unreachable(code) => write!(f, "icmp unreachable code {}", code.0),
            Repr::FragmentationNeeded { mtu } => write!(f, "icmp fragmentation needed mtu {mtu}"),
            Repr::TtlExceeded => f.write_str("icmp time to live exceeded"),
            Repr::ReassemblyTimeExceeded => f.write_str("icmp reassembly time exceeded"),
        }
    }
}

/// Whether an error about `datagram` may be sent at all (RFC 1122 §3.2.2): not about an ICMP error, not about a
/// fragment but the first, not about what was sent to many, not to a source that is no single host.
pub fn may_be_answered<T: AsRef<[u8]>>(datagram: &Ipv4<T>) -> bool {
    let (source, destination) = (datagram.source(), datagram.destination());
    let one_host = |addr: Ipv4Addr| !addr.is_multicast() && addr.octets()[0] < 240;
    if !one_host(source) || source.octets()[0] == 0 || source.is_loopback() || !one_host(destination) {
        return false;
    }
    if datagram.fragment_offset() != 0 {
        return false;
    }
    // A message whose type is not there to be seen could be an error.
    datagram.protocol() != Protocol::ICMPV4
        || datagram.payload().first().is_some_and(|kind| !Kind(*kind).is_error())
}

/// Writes to `buffer` the whole IPv4 datagram that reports `error` about `datagram` from `source` to its sender, and
/// answers its length: at most [`ERROR_LEN_MAX`], less if `buffer` is shorter, but never without the quoted header
/// and eight bytes of what follows it (where there are that many).
///
/// The caller has asked [`may_be_answered`] and its rate limiter.
pub fn emit_error(
    error: Repr,
    source: Ipv4Addr,
    datagram: &Ipv4<&[u8]>,
    buffer: &mut [u8],
) -> Result<usize, Malformed> {
    const HEADERS_LEN: usize = ipv4::HEADER_LEN + HEADER_LEN;
    let original = clamp(datagram.into_inner(), 0..usize::from(datagram.total_len()));
    let needed = original.len().min(datagram.header_len() + 8);
    let room = buffer.len().min(ERROR_LEN_MAX).saturating_sub(HEADERS_LEN);
    if room < needed {
        return Err(Malformed::Icmpv4TooShort);
    }
    let quote = &original[..original.len().min(room)];
    let len = HEADERS_LEN + quote.len();
    let (header, message) = buffer[..len].split_at_mut(ipv4::HEADER_LEN);
    message[HEADER_LEN..].copy_from_slice(quote);
    error.emit(message)?;
    let repr = ipv4::Repr {
        // RFC 1812 §4.3.2.5: errors have the precedence of internetwork control.
        tos: 0xc0,
        identification: 0,
        fragment_word: 0,
        ttl: 64,
        protocol: Protocol::ICMPV4,
        source,
        destination: datagram.source(),
        payload_len: message.len() as u16,
    };
    repr.emit(header)?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn datagram(source: [u8; 4], destination: [u8; 4], protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes.extend_from_slice(payload);
        let repr = ipv4::Repr {
            tos: 0,
            identification: 7,
            fragment_word: 0,
            ttl: 1,
            protocol,
            source: source.into(),
            destination: destination.into(),
            payload_len: payload.len() as u16,
        };
        repr.emit(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn repr_round_trips() {
        for (repr, text) in [
            (Repr::EchoRequest { identifier: 1, sequence: 2 }, "icmp echo request id 1 seq 2"),
            (Repr::EchoReply { identifier: 3, sequence: 4 }, "icmp echo reply id 3 seq 4"),
            (Repr::Unreachable(UnreachableCode::PORT), "icmp unreachable code 3"),
            (Repr::FragmentationNeeded { mtu: 1450 }, "icmp fragmentation needed mtu 1450"),
            (Repr::TtlExceeded, "icmp time to live exceeded"),
            (Repr::ReassemblyTimeExceeded, "icmp reassembly time exceeded"),
        ] {
            let mut message = [0xaa; 13];
            repr.emit(&mut message).unwrap();
            assert_eq!(Repr::parse(&message), Ok(repr));
            assert!(Icmpv4::new_checked(&message).unwrap().checksum_is_correct());
            assert_eq!(repr.to_string(), text);
        }
    }

    #[test]
    fn parse_rejects_seven_bytes_and_kinds_without_a_form() {
        assert_eq!(Repr::parse(&[8; 7]), Err(Malformed::Icmpv4TooShort));
        assert_eq!(Repr::parse(&[13, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::IcmpKind));
    }

    #[test]
    fn error_quotes_the_datagram_and_goes_to_its_sender() {
        let bytes = datagram([10, 0, 0, 1], [10, 0, 0, 2], Protocol::UDP, &[0x55; 30]);
        let mut buffer = [0; 1500];
        let len = emit_error(
            Repr::TtlExceeded,
            [10, 0, 0, 254].into(),
            &Ipv4::new_checked(&bytes[..]).unwrap(),
            &mut buffer,
        )
        .unwrap();
        let error = Ipv4::new_checked(&buffer[..len]).unwrap();
        assert!(error.checksum_is_correct());
        assert_eq!((error.source().octets(), error.destination().octets()), ([10, 0, 0, 254], [10, 0, 0, 1]));
        let icmp = Icmpv4::new_checked(error.payload()).unwrap();
        assert!(icmp.checksum_is_correct());
        assert_eq!(icmp.payload(), bytes);
    }

    #[test]
    fn error_is_never_longer_than_576_bytes_nor_shorter_than_header_and_eight_bytes() {
        let bytes = datagram([10, 0, 0, 1], [10, 0, 0, 2], Protocol::UDP, &[0x55; 1400]);
        let datagram = Ipv4::new_checked(&bytes[..]).unwrap();
        let mut buffer = [0; 1500];
        let source = Ipv4Addr::new(10, 0, 0, 254);
        assert_eq!(emit_error(Repr::TtlExceeded, source, &datagram, &mut buffer), Ok(ERROR_LEN_MAX));
        assert_eq!(emit_error(Repr::TtlExceeded, source, &datagram, &mut buffer[..56]), Ok(56));
        assert_eq!(
            emit_error(Repr::TtlExceeded, source, &datagram, &mut buffer[..55]),
            Err(Malformed::Icmpv4TooShort)
        );
    }

    #[test]
    fn errors_groups_and_later_fragments_are_not_answered() {
        let answered = |bytes: &[u8]| may_be_answered(&Ipv4::new_checked(bytes).unwrap());
        let (pod, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert!(answered(&datagram(pod, other, Protocol::UDP, &[])));
        assert!(answered(&datagram(pod, other, Protocol::ICMPV4, &[8, 0, 0, 0, 0, 0, 0, 0])));
        assert!(!answered(&datagram(pod, other, Protocol::ICMPV4, &[3, 1, 0, 0, 0, 0, 0, 0])));
        assert!(!answered(&datagram(pod, other, Protocol::ICMPV4, &[])));
        assert!(!answered(&datagram(pod, [224, 0, 0, 251], Protocol::UDP, &[])));
        assert!(!answered(&datagram(pod, [255, 255, 255, 255], Protocol::UDP, &[])));
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(!answered(&datagram(source, other, Protocol::UDP, &[])), "{source:?}");
        }
        let mut later = datagram(pod, other, Protocol::UDP, &[0; 8]);
        later[7] = 1;
        assert!(!answered(&later));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Repr::parse(&bytes).map(|repr| repr.to_string());
            if let Ok(mut icmp) = Icmpv4::new_checked(&mut bytes[..]) {
                icmp.update_checksum();
                prop_assert!(icmp.checksum_is_correct());
                let len = icmp.payload().len();
                prop_assert_eq!(icmp.payload_mut().len(), len);
                let _ = icmp.mtu();
            }
        }

        #[test]
        fn no_datagram_makes_an_error_panic(mut bytes in proptest::collection::vec(any::<u8>(), 20..700), ihl in 5u8..16, room in 0usize..700) {
            bytes[0] = 0x40 | ihl;
            if let Ok(datagram) = Ipv4::new_quoted(&bytes[..]) {
                let _ = may_be_answered(&datagram);
                let mut buffer = vec![0; room];
                if let Ok(len) = emit_error(Repr::TtlExceeded, Ipv4Addr::LOCALHOST, &datagram, &mut buffer) {
                    prop_assert!(Ipv4::new_checked(&buffer[..len]).is_ok());
                }
            }
        }
    }
}
