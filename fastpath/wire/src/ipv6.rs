//! The Internet Protocol, version 6 (RFC 8200), and the walk over its extension headers.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+---------------+---------------------------------------+
//! |Version| Traffic Class |           Flow Label                  |
//! +-------+---------------+-------+---------------+---------------+
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! +-------------------------------+---------------+---------------+
//! |                    Source Address (16)                        |
//! |                  Destination Address (16)                     |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv6Addr;
use core::ops::Range;

use crate::bytes::{array_at, clamp, clamp_mut, put_u16, put_u32, u16_at, u32_at};
use crate::checksum::Sum;
use crate::{Malformed, Protocol};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub const VERSION_CLASS_LABEL: Range<usize> = 0..4;
    /// Length of what follows the fixed header.
    pub const PAYLOAD_LEN: Range<usize> = 4..6;
    /// What follows the fixed header: an extension header or the upper layer.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SOURCE: Range<usize> = 8..24;
    /// Destination address.
    pub const DESTINATION: Range<usize> = 24..40;
}

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;

/// The most extension headers that the walk follows: RFC 8200 §4.1 knows of no use for more than seven.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// A fragment header's say (RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where in the datagram this fragment's payload starts, in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// What the fragments of one datagram share.
    pub identification: u32,
    /// Where the fragment header ends and the fragment's payload begins, counted from the start of the fixed header.
    pub end: usize,
}

impl Fragment {
    /// Whether it is all of its datagram (RFC 6946): nobody need put anything together.
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// What the extension headers lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// What is there.
    pub protocol: Protocol,
    /// Where it is, counted from the start of the fixed header. In a fragment but the first, that is the middle
    /// of something.
    pub offset: usize,
    /// The fragment header that was passed, if there was one.
    pub fragment: Option<Fragment>,
}

/// A checked IPv6 header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks version and length. Bytes beyond the payload length (Ethernet padding) may follow.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let ipv6 = Ipv6::new_quoted(bytes)?;
        if HEADER_LEN + usize::from(ipv6.payload_len()) > ipv6.bytes.as_ref().len() {
            return Err(Malformed::Ipv6Truncated);
        }
        Ok(ipv6)
    }

    /// As [`new_checked`](Ipv6::new_checked) for the packet that an ICMPv6 error quotes: of its payload only the
    /// beginning need be there.
    #[inline]
    pub fn new_quoted(bytes: T) -> Result<Self, Malformed> {
        let all = bytes.as_ref();
        if all.len() < HEADER_LEN {
            Err(Malformed::Ipv6TooShort)
        } else if all[0] >> 4 != 6 {
            Err(Malformed::Ipv6Version)
        } else {
            Ok(Ipv6 { bytes })
        }
    }

    /// The bytes, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.bytes
    }

    /// Traffic class: DSCP in the high six bits, ECN in the low two.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (u32_at(self.bytes.as_ref(), field::VERSION_CLASS_LABEL) >> 20) as u8
    }

    /// Flow label.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32_at(self.bytes.as_ref(), field::VERSION_CLASS_LABEL) & 0x000f_ffff
    }

    /// Length of what follows the fixed header.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        u16_at(self.bytes.as_ref(), field::PAYLOAD_LEN)
    }

    /// What follows the fixed header; [`upper_layer`](Ipv6::upper_layer) looks beyond extension headers.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.bytes.as_ref()[field::NEXT_HEADER])
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[field::HOP_LIMIT]
    }

    /// Whom the packet is from.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(array_at::<16>(self.bytes.as_ref(), field::SOURCE))
    }

    /// Whom the packet is for.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(array_at::<16>(self.bytes.as_ref(), field::DESTINATION))
    }

    /// What the header says follows it, extension headers included, without padding.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..HEADER_LEN + usize::from(self.payload_len()))
    }

    /// Walks the extension headers, at most [`EXTENSION_HEADERS_MAX`] of them and one fragment header (RFC 8200 §4.1), and
    /// refuses a route of the sender's own (RFC 5095). Behind the header of a fragment but the
    /// first there is nothing to walk, so the walk ends there; at a header that it does not know, or that is
    /// encrypted, it ends too, and that is the protocol it answers.
    #[inline]
    pub fn upper_layer(&self) -> Result<UpperLayer, Malformed> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION_OPTIONS: u8 = 60;
        const MOBILITY: u8 = 135;
        const HOST_IDENTITY: u8 = 139;
        const SHIM6: u8 = 140;

        let bytes = clamp(self.bytes.as_ref(), 0..HEADER_LEN + usize::from(self.payload_len()));
        let mut upper = UpperLayer { protocol: self.next_header(), offset: HEADER_LEN, fragment: None };
        for _ in 0..=EXTENSION_HEADERS_MAX {
            let at = upper.offset;
            let len_of = |unit: usize, extra: usize| {
                let len = bytes.get(at + 1).ok_or(Malformed::Ipv6ExtensionTruncated)?;
                Ok((usize::from(*len) + extra) * unit)
            };
            let len = match upper.protocol.0 {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                    len_of(8, 1)?
                }
                AUTHENTICATION => len_of(4, 2)?,
                FRAGMENT => 8,
                _ => return Ok(upper),
            };
            let header = bytes.get(at..at + len).ok_or(Malformed::Ipv6ExtensionTruncated)?;
            if upper.protocol.0 == ROUTING && header[2] == 0 && header[3] != 0 {
                return Err(Malformed::Ipv6SourceRoute);
            }
            if upper.protocol.0 == FRAGMENT && upper.fragment.is_some() {
                return Err(Malformed::Ipv6ExtensionChain);
            } else if upper.protocol.0 == FRAGMENT {
                let word = u16_at(header, 2..4);
                let fragment = Fragment {
                    offset: word & 0xfff8,
                    more: word & 1 != 0,
                    identification: u32_at(header, 4..8),
                    end: at + len,
                };
                upper.fragment = Some(fragment);
                upper.protocol = Protocol(header[0]);
                upper.offset = at + len;
                if fragment.offset != 0 {
                    return Ok(upper);
                }
            } else {
                upper.protocol = Protocol(header[0]);
                upper.offset = at + len;
            }
        }
        Err(Malformed::Ipv6ExtensionChain)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = u32_at(self.bytes.as_ref(), field::VERSION_CLASS_LABEL) & 0xf00f_ffff;
        put_u32(self.bytes.as_mut(), field::VERSION_CLASS_LABEL, word | u32::from(class) << 20);
    }

    /// Sets the length of what follows the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        put_u16(self.bytes.as_mut(), field::PAYLOAD_LEN, len);
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.bytes.as_mut()[field::HOP_LIMIT] = hops;
    }

    /// Takes one off the hop limit. `false`, and nothing changed, if it is one or zero.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> bool {
        let hops = self.hop_limit();
        if hops <= 1 {
            return false;
        }
        self.set_hop_limit(hops - 1);
        true
    }

    /// Sets whom the packet is from.
    #[inline]
    pub fn set_source(&mut self, address: Ipv6Addr) {
        self.bytes.as_mut()[field::SOURCE].copy_from_slice(&address.octets());
    }

    /// Sets whom the packet is for.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        self.bytes.as_mut()[field::DESTINATION].copy_from_slice(&address.octets());
    }

    /// What the header says follows it, to write to.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = HEADER_LEN + usize::from(self.payload_len());
        clamp_mut(self.bytes.as_mut(), HEADER_LEN..end)
    }
}

/// An IPv6 fixed header as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label: its low 20 bits count.
    pub flow_label: u32,
    /// What follows.
    pub next_header: Protocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Whom the packet is from.
    pub source: Ipv6Addr,
    /// Whom the packet is for.
    pub destination: Ipv6Addr,
    /// Length of what follows.
    pub payload_len: u16,
}

impl Repr {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let ipv6 = Ipv6::new_checked(bytes)?;
        Ok(Repr {
            traffic_class: ipv6.traffic_class(),
            flow_label: ipv6.flow_label(),
            next_header: ipv6.next_header(),
            hop_limit: ipv6.hop_limit(),
            source: ipv6.source(),
            destination: ipv6.destination(),
            payload_len: ipv6.payload_len(),
        })
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// The pseudo-header's sum for an upper-layer packet that is the whole payload.
    #[inline]
    pub fn pseudo_sum(&self) -> Sum {
        Sum::pseudo_v6(self.source, self.destination, self.next_header, u32::from(self.payload_len))
    }

    /// Writes the header at the start of `bytes`; the payload need not be there yet.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes = bytes.get_mut(..HEADER_LEN).ok_or(Malformed::Ipv6TooShort)?;
        let word = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        put_u32(bytes, field::VERSION_CLASS_LABEL, word);
        bytes[field::NEXT_HEADER] = self.next_header.0;
        let mut ipv6 = Ipv6 { bytes };
        ipv6.set_payload_len(self.payload_len);
        ipv6.set_hop_limit(self.hop_limit);
        ipv6.set_source(self.source);
        ipv6.set_destination(self.destination);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ipv6 {} > {} {} hops {} payload {}",
            self.source, self.destination, self.next_header, self.hop_limit, self.payload_len
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const REPR: Repr = Repr {
        traffic_class: 0xb9,
        flow_label: 0x0a_bcde,
        next_header: Protocol::UDP,
        hop_limit: 64,
        source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        payload_len: 8,
    };

    /// A packet whose payload is `payload`, the first header of it being `next_header`.
    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(payload);
        let repr = Repr { next_header: Protocol(next_header), payload_len: payload.len() as u16, ..REPR };
        repr.emit(&mut bytes).unwrap();
        bytes
    }

    fn walk(bytes: &[u8]) -> Result<UpperLayer, Malformed> {
        Ipv6::new_checked(bytes)?.upper_layer()
    }

    #[test]
    fn repr_round_trips() {
        let mut bytes = [0xaa; 50];
        REPR.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Ok(REPR));
        assert_eq!(Ipv6::new_checked(&bytes).unwrap().payload().len(), 8, "padding is not payload");
        assert_eq!(REPR.to_string(), "ipv6 fd00::1 > fd00::2 udp hops 64 payload 8");
    }

    #[test]
    fn parse_rejects_version_four_short_headers_and_truncated_payloads() {
        let mut bytes = [0; 47];
        REPR.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv6Truncated));
        assert!(Ipv6::new_quoted(&bytes).is_ok(), "a quoted packet may be cut short");
        assert_eq!(Repr::parse(&bytes[..39]), Err(Malformed::Ipv6TooShort));
        bytes[0] = 0x45;
        assert_eq!(Repr::parse(&bytes), Err(Malformed::Ipv6Version));
    }

    #[test]
    fn walk_finds_the_upper_layer_behind_options_and_authentication() {
        // Hop-by-hop of 8 bytes, authentication of (1 + 2) × 4 = 12 bytes, then TCP.
        let mut payload = vec![51, 0, 0, 0, 0, 0, 0, 0];
        payload.extend_from_slice(&[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend_from_slice(&[0; 20]);
        let upper = UpperLayer { protocol: Protocol::TCP, offset: 60, fragment: None };
        assert_eq!(walk(&packet(0, &payload)), Ok(upper));
    }

    #[test]
    fn walk_goes_through_the_first_fragment_and_stops_in_a_later_one() {
        let mut payload = [60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 0, 0, 0, 0, 0];
        let fragment = |offset, more| Some(Fragment { offset, more, identification: 9, end: 48 });
        assert_eq!(
            walk(&packet(44, &payload)),
            Ok(UpperLayer { protocol: Protocol::UDP, offset: 56, fragment: fragment(0, true) })
        );
        payload[3] = 8;
        assert_eq!(
            walk(&packet(44, &payload)),
            Ok(UpperLayer { protocol: Protocol(60), offset: 48, fragment: fragment(8, false) })
        );
    }

    #[test]
    fn walk_refuses_a_route_of_the_senders_own_that_does_not_end_here() {
        let routing = |kind, left| walk(&packet(43, &[17, 0, kind, left, 0, 0, 0, 0]));
        assert_eq!(routing(0, 1), Err(Malformed::Ipv6SourceRoute));
        assert_eq!(routing(0, 0).map(|upper| upper.protocol), Ok(Protocol::UDP));
        assert_eq!(routing(2, 1).map(|upper| upper.protocol), Ok(Protocol::UDP));
    }

    #[test]
    fn walk_refuses_a_fragment_in_a_fragment() {
        let fragments = [[44, 0, 0, 1, 0, 0, 0, 9], [17, 0, 0, 0, 0, 0, 0, 8]].concat();
        assert_eq!(walk(&packet(44, &fragments)), Err(Malformed::Ipv6ExtensionChain));
    }

    #[test]
    fn walk_refuses_an_extension_that_runs_out_of_the_packet() {
        assert_eq!(walk(&packet(60, &[])), Err(Malformed::Ipv6ExtensionTruncated));
        assert_eq!(walk(&packet(60, &[17, 1, 0, 0, 0, 0, 0, 0])), Err(Malformed::Ipv6ExtensionTruncated));
        assert_eq!(walk(&packet(44, &[17, 0, 0, 0])), Err(Malformed::Ipv6ExtensionTruncated));
    }

    #[test]
    fn walk_refuses_nine_extension_headers_and_takes_eight() {
        let chain = |headers: usize| {
            let mut payload = [60, 0, 0, 0, 0, 0, 0, 0].repeat(headers);
            payload[(headers - 1) * 8] = 17;
            walk(&packet(60, &payload))
        };
        assert_eq!(chain(8).map(|upper| upper.offset), Ok(40 + 64));
        assert_eq!(chain(9), Err(Malformed::Ipv6ExtensionChain));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), next in prop::sample::select(vec![0u8, 43, 44, 51, 60, 135, 17]), len in any::<u16>(), real in any::<bool>()) {
            if real && bytes.len() >= HEADER_LEN {
                bytes[0] = 0x60;
                bytes[4] = 0;
                bytes[5] = (bytes.len() - HEADER_LEN) as u8;
                bytes[6] = next;
            }
            let _ = Repr::parse(&bytes).map(|repr| repr.to_string());
            if let Ok(mut ipv6) = Ipv6::new_quoted(&mut bytes[..]) {
                let _ = ipv6.upper_layer();
                ipv6.set_payload_len(len);
                ipv6.set_traffic_class(len as u8);
                prop_assert_eq!(ipv6.traffic_class(), len as u8);
                let _ = (ipv6.upper_layer(), ipv6.decrement_hop_limit());
                let payload = ipv6.payload().len();
                prop_assert_eq!(ipv6.payload_mut().len(), payload);
            }
        }
    }
}
