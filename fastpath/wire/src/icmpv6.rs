//! The Internet Control Message Protocol for IPv6 (RFC 4443), and neighbour discovery (RFC 4861).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     Type      |     Code      |          Checksum             |
//! +---------------+---------------+-------------------------------+
//! |  echo: Identifier, Sequence · too big: MTU · neighbour: flags |
//! +---------------------------------------------------------------+
//! |  echo: data · error: the packet quoted · neighbour: target    |
//! |  address (16) and options (type, length in units of 8, …)     |
//! +---------------------------------------------------------------+
//! ```
//!
//! Unlike ICMP for IPv4, the checksum includes the pseudo-header.

use core::fmt;
use core::net::Ipv6Addr;
use core::ops::Range;

use crate::bytes::{array_at, clamp, clamp_mut, put_u16, put_u32, u16_at, u32_at};
use crate::checksum::{self, Sum};
use crate::ipv6::{self, Ipv6};
use crate::{MacAddr, Malformed, Protocol};

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
    /// Packet too big: the next hop's MTU. Neighbour advertisement: flags.
    pub const WORD: Range<usize> = 4..8;
    /// Neighbour solicitation and advertisement: whose address it is about.
    pub const TARGET: Range<usize> = 8..24;
}

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// An error message has at most this many bytes, its IPv6 header included: IPv6's least MTU (RFC 4443 §2.4 c).
pub const ERROR_LEN_MAX: usize = 1280;

/// Length of a neighbour solicitation or advertisement with a link-layer address.
const NEIGHBOUR_LEN: usize = 32;

/// The neighbour-discovery option that holds the sender's link-layer address.
const SOURCE_LINK_ADDRESS: u8 = 1;
/// The neighbour-discovery option that holds the target's link-layer address.
const TARGET_LINK_ADDRESS: u8 = 2;

/// A message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// Destination unreachable.
    pub const UNREACHABLE: Kind = Kind(1);
    /// Packet too big.
    pub const PACKET_TOO_BIG: Kind = Kind(2);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Kind = Kind(3);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Kind = Kind(4);
    /// Echo request.
    pub const ECHO_REQUEST: Kind = Kind(128);
    /// Echo reply.
    pub const ECHO_REPLY: Kind = Kind(129);
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: Kind = Kind(133);
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: Kind = Kind(134);
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: Kind = Kind(135);
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: Kind = Kind(136);
    /// Redirect.
    pub const REDIRECT: Kind = Kind(137);

    /// Whether such a message quotes a packet that someone sent (RFC 4443 §2.1: the high bit is clear).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether such a message is an echo's request or reply.
    #[inline]
    pub const fn is_echo(self) -> bool {
        matches!(self, Kind::ECHO_REQUEST | Kind::ECHO_REPLY)
    }

    /// Whether such a message is neighbour discovery, which never leaves its link.
    #[inline]
    pub const fn is_neighbour_discovery(self) -> bool {
        self.0 >= Kind::ROUTER_SOLICITATION.0 && self.0 <= Kind::REDIRECT.0
    }
}

/// Why a destination is unreachable (RFC 4443 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct UnreachableCode(pub u8);

impl UnreachableCode {
    /// No route.
    pub const NO_ROUTE: UnreachableCode = UnreachableCode(0);
    /// Forbidden by policy.
    pub const ADMINISTRATIVELY_PROHIBITED: UnreachableCode = UnreachableCode(1);
    /// Nobody answers for the address.
    pub const ADDRESS: UnreachableCode = UnreachableCode(3);
    /// Nobody listens on the port.
    pub const PORT: UnreachableCode = UnreachableCode(4);
}

/// A checked ICMPv6 header and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv6<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmpv6<T> {
    /// Checks that a header is there.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER_LEN { Err(Malformed::Icmpv6TooShort) } else { Ok(Icmpv6 { bytes }) }
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
    pub fn checksum_is_correct(&self, pseudo: Sum) -> bool {
        checksum::is_correct(self.bytes.as_ref(), pseudo)
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

    /// Packet too big: the next hop's MTU.
    #[inline]
    pub fn mtu(&self) -> u32 {
        u32_at(self.bytes.as_ref(), field::WORD)
    }

    /// Neighbour solicitation and advertisement: whose address it is about. `None` in other messages, and in one
    /// too short to say.
    #[inline]
    pub fn target(&self) -> Option<Ipv6Addr> {
        let bytes = self.bytes.as_ref();
        let about = matches!(self.kind(), Kind::NEIGHBOUR_SOLICITATION | Kind::NEIGHBOUR_ADVERTISEMENT);
        (about && bytes.len() >= field::TARGET.end)
            .then(|| Ipv6Addr::from(array_at::<16>(bytes, field::TARGET)))
    }

    /// Neighbour solicitation: its sender's Ethernet address. Neighbour advertisement: the target's. `None` where it
    /// is not given.
    pub fn link_address(&self) -> Option<MacAddr> {
        let wanted = match self.kind() {
            Kind::NEIGHBOUR_SOLICITATION => SOURCE_LINK_ADDRESS,
            Kind::NEIGHBOUR_ADVERTISEMENT => TARGET_LINK_ADDRESS,
            _ => return None,
        };
        let mut options = clamp(self.bytes.as_ref(), field::TARGET.end..usize::MAX);
        // An option of length zero would never end (RFC 4861 §4.6 has such messages discarded).
        while let [kind, units @ 1..=255, rest @ ..] = options {
            if let (true, [a, b, c, d, e, f, ..]) = (*kind == wanted, rest) {
                return Some(MacAddr([*a, *b, *c, *d, *e, *f]));
            }
            options = options.get(usize::from(*units) * 8..)?;
        }
        None
    }

    /// What follows the header: an echo's data, or the packet that an error quotes (see [`Ipv6::new_quoted`]).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        clamp(self.bytes.as_ref(), HEADER_LEN..usize::MAX)
    }
}

/// Setters leave the checksum to [`update_checksum`](Icmpv6::update_checksum).
impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6<T> {
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
    pub fn update_checksum(&mut self, pseudo: Sum) {
        checksum::complete(self.bytes.as_mut(), field::CHECKSUM.start, pseudo);
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

/// An ICMPv6 message's header as plain values; a neighbour message's is all of it.
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
    /// The quoted packet could not be delivered.
    Unreachable(UnreachableCode),
    /// The quoted packet is too big for the next hop.
    PacketTooBig {
        /// What would have fitted, in bytes of IPv6 packet.
        mtu: u32,
    },
    /// The quoted packet's hop limit ran out on its way.
    HopLimitExceeded,
    /// The quoted packet's fragments did not arrive in time.
    ReassemblyTimeExceeded,
    /// Who has it?
    NeighbourSolicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks; nobody, when an address is probed for duplicates.
        source_mac: Option<MacAddr>,
    },
    /// I have it.
    NeighbourAdvertisement {
        /// The address in question.
        target: Ipv6Addr,
        /// Who has it.
        target_mac: Option<MacAddr>,
        /// Router (bit 31), solicited (30), override (29), as in the message.
        flags: u32,
    },
}

/// Neighbour advertisement: its sender is a router.
pub const ROUTER: u32 = 1 << 31;
/// Neighbour advertisement: it answers a solicitation.
pub const SOLICITED: u32 = 1 << 30;
/// Neighbour advertisement: it replaces what is cached.
pub const OVERRIDE: u32 = 1 << 29;

impl Repr {
    /// Reads the header at the start of `bytes`; the checksum is not judged.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let icmp = Icmpv6::new_checked(bytes)?;
        let (identifier, sequence) = (icmp.identifier(), icmp.sequence());
        let target = || icmp.target().ok_or(Malformed::Icmpv6TooShort);
        match (icmp.kind(), icmp.code()) {
            (Kind::ECHO_REQUEST, 0) => Ok(Repr::EchoRequest { identifier, sequence }),
            (Kind::ECHO_REPLY, 0) => Ok(Repr::EchoReply { identifier, sequence }),
            (Kind::UNREACHABLE, code) => Ok(Repr::Unreachable(UnreachableCode(code))),
            (Kind::PACKET_TOO_BIG, _) => Ok(Repr::PacketTooBig { mtu: icmp.mtu() }),
            (Kind::TIME_EXCEEDED, 0) => Ok(Repr::HopLimitExceeded),
            (Kind::TIME_EXCEEDED, 1) => Ok(Repr::ReassemblyTimeExceeded),
            (Kind::NEIGHBOUR_SOLICITATION, 0) => {
                Ok(Repr::NeighbourSolicitation { target: target()?, source_mac: icmp.link_address() })
            }
            (Kind::NEIGHBOUR_ADVERTISEMENT, 0) => Ok(Repr::NeighbourAdvertisement {
                target: target()?,
                target_mac: icmp.link_address(),
                flags: icmp.mtu(),
            }),
            _ => Err(Malformed::IcmpKind),
        }
    }

    /// Bytes that [`emit`](Repr::emit) writes: for a neighbour message, all there are.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        match self {
            Repr::NeighbourSolicitation { source_mac: Some(_), .. }
            | Repr::NeighbourAdvertisement { target_mac: Some(_), .. } => NEIGHBOUR_LEN,
            Repr::NeighbourSolicitation { .. } | Repr::NeighbourAdvertisement { .. } => field::TARGET.end,
            _ => HEADER_LEN,
        }
    }

    /// Writes the header at the start of `message`, whose rest must already be the payload: the checksum covers it,
    /// and the pseudo-header whose sum is `pseudo`.
    pub fn emit(&self, message: &mut [u8], pseudo: Sum) -> Result<(), Malformed> {
        if message.len() < self.buffer_len() {
            return Err(Malformed::Icmpv6TooShort);
        }
        let echo = |identifier, sequence| u32::from(identifier) << 16 | u32::from(sequence);
        let (kind, code, word) = match *self {
            Repr::EchoRequest { identifier, sequence } => (Kind::ECHO_REQUEST, 0, echo(identifier, sequence)),
            Repr::EchoReply { identifier, sequence } => (Kind::ECHO_REPLY, 0, echo(identifier, sequence)),
            Repr::Unreachable(code) => (Kind::UNREACHABLE, code.0, 0),
            Repr::PacketTooBig { mtu } => (Kind::PACKET_TOO_BIG, 0, mtu),
            Repr::HopLimitExceeded => (Kind::TIME_EXCEEDED, 0, 0),
            Repr::ReassemblyTimeExceeded => (Kind::TIME_EXCEEDED, 1, 0),
            Repr::NeighbourSolicitation { target, source_mac } => {
                put_target(message, target, SOURCE_LINK_ADDRESS, source_mac);
                (Kind::NEIGHBOUR_SOLICITATION, 0, 0)
            }
            Repr::NeighbourAdvertisement { target, target_mac, flags } => {
                put_target(message, target, TARGET_LINK_ADDRESS, target_mac);
                (Kind::NEIGHBOUR_ADVERTISEMENT, 0, flags)
            }
        };
        put_u32(message, field::WORD, word);
        let mut icmp = Icmpv6 { bytes: message };
        icmp.set_kind(kind, code);
        icmp.update_checksum(pseudo);
        Ok(())
    }
}

/// Writes what neighbour messages have behind their first eight bytes.
fn put_target(message: &mut [u8], target: Ipv6Addr, option: u8, mac: Option<MacAddr>) {
    message[field::TARGET].copy_from_slice(&target.octets());
    if let Some(mac) = mac {
        message[field::TARGET.end..field::TARGET.end + 2].copy_from_slice(&[option, 1]);
        message[field::TARGET.end + 2..NEIGHBOUR_LEN].copy_from_slice(&mac.octets());
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Repr::EchoRequest { identifier, sequence } => {
                write!(f, "icmpv6 echo request id {identifier} seq {sequence}")
            }
            Repr::EchoReply { identifier, sequence } => {
                write!(f, "icmpv6 echo reply id {identifier} seq {sequence}")
            }
            Repr::Unreachable(code) => write!(f, "icmpv6 unreachable code {}", code.0),
            Repr::PacketTooBig { mtu } => write!(f, "icmpv6 packet too big mtu {mtu}"),
            Repr::HopLimitExceeded => f.write_str("icmpv6 hop limit exceeded"),
            Repr::ReassemblyTimeExceeded => f.write_str("icmpv6 reassembly time exceeded"),
            Repr::NeighbourSolicitation { target, .. } => write!(f, "icmpv6 who-has {target}"),
            Repr::NeighbourAdvertisement { target, target_mac: Some(mac), .. } => {
                write!(f, "icmpv6 {target} is-at {mac}")
            }
            Repr::NeighbourAdvertisement { target, .. } => write!(f, "icmpv6 {target} is here"),
        }
    }
}

/// Whether an error about `packet` may be sent at all (RFC 4443 §2.4 e): not about an ICMPv6 error or redirect, not
/// about a fragment but the first, not about what was sent to many (packet too big excepted), not to a source that
/// is no single host.
pub fn may_be_answered<T: AsRef<[u8]>>(packet: &Ipv6<T>, error: Repr) -> bool {
    let source = packet.source();
    if source.is_unspecified() || source.is_multicast() || source.is_loopback() {
        return false;
    }
    if packet.destination().is_multicast() && !matches!(error, Repr::PacketTooBig { .. }) {
        return false;
    }
    let Ok(upper) = packet.upper_layer() else { return false };
    if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return false;
    }
    // A message whose type is not there to be seen could be an error.
    let first = packet.payload().get(upper.offset - ipv6::HEADER_LEN).copied().map(Kind);
    upper.protocol != Protocol::ICMPV6 || first.is_some_and(|kind| !kind.is_error() && kind != Kind::REDIRECT)
}

/// Writes to `buffer` the whole IPv6 packet that reports `error` about `packet` from `source` to its sender, and
/// answers its length: at most [`ERROR_LEN_MAX`], less if `buffer` is shorter, but never without the quoted fixed
/// header and eight bytes of what follows it (where there are that many).
///
/// The caller has asked [`may_be_answered`] and its rate limiter.
pub fn emit_error(
    error: Repr,
    source: Ipv6Addr,
    packet: &Ipv6<&[u8]>,
    buffer: &mut [u8],
) -> Result<usize, Malformed> {
    const HEADERS_LEN: usize = ipv6::HEADER_LEN + HEADER_LEN;
    let original = clamp(packet.into_inner(), 0..ipv6::HEADER_LEN + usize::from(packet.payload_len()));
    let needed = original.len().min(ipv6::HEADER_LEN + 8);
    let room = buffer.len().min(ERROR_LEN_MAX).saturating_sub(HEADERS_LEN);
    if room < needed {
        return Err(Malformed::Icmpv6TooShort);
    }
    let quote = &original[..original.len().min(room)];
    let len = HEADERS_LEN + quote.len();
    let (header, message) = buffer[..len].split_at_mut(ipv6::HEADER_LEN);
    message[HEADER_LEN..].copy_from_slice(quote);
    let repr = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header: Protocol::ICMPV6,
        hop_limit: 64,
        source,
        destination: packet.source(),
        payload_len: message.len() as u16,
    };
    error.emit(message, repr.pseudo_sum())?;
    repr.emit(header)?;
    Ok(len)
}

#[cfg(test)]
mod tests;
