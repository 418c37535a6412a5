//! Reading what is ordinary, and nothing else: every header at a fixed place, in words of eight bytes, each field held
//! against what it must be by one mask and one comparison.
//!
//! ```text
//!   VXLAN   0 Ethernet │ 14 IPv4 │ 34 UDP │ 42 VXLAN │ 50 Ethernet │ 64 IPv4 │ 84 TCP, UDP, ICMP echo
//!   IPIP    0 Ethernet │ 14 IPv4 │                                   34 IPv4 │ 54 …
//!   plain   0 Ethernet │                                             14 IPv4 │ 34 …
//! ```
//!
//! Words are read with the first byte lowest, so that what comes first on the wire is at the right end of a mask. None
//! means: not ordinary. The long way finds out what it is instead, and says what is wrong with it.

use caracal_wire::tcp::Flags;
use caracal_wire::{EtherType, MacAddr, Protocol, ethernet, ipv4, ipv6, tcp, udp, vxlan};

use crate::stage::parse::HEADERS;
use crate::table::NodeConfig;

/// Where the Ethernet header in a VXLAN packet begins, and where it ends.
const IN_VXLAN: usize = HEADERS + udp::HEADER_LEN + vxlan::HEADER_LEN;
const VXLAN: usize = IN_VXLAN + ethernet::HEADER_LEN;
/// Ethernet, IPv4, and of the transport header what all three have.
const READ: usize = HEADERS + 8;

const MAC: u64 = 0xffff_ffff_ffff;
const IPV4: u16 = EtherType::IPV4.0.swap_bytes();

/// Eight bytes, or four or two, of a header. Where the place is known, it is known to be there.
#[inline(always)]
fn word<const LEN: usize>(header: &[u8; LEN], at: usize) -> u64 {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn half<const LEN: usize>(header: &[u8; LEN], at: usize) -> u32 {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[inline(always)]
fn pair<const LEN: usize>(header: &[u8; LEN], at: usize) -> u16 {
    header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// An IPv4 header of a whole packet without options, whose checksum is right.
#[derive(Clone, Copy)]
struct Ip {
    /// Version to fragment offset, …
    first: u64,
    /// … time to live to source, …
    second: u64,
    /// … destination.
    third: u32,
}

impl Ip {
    #[inline(always)]
    fn read<const LEN: usize>(header: &[u8; LEN], at: usize) -> Option<Ip> {
        const PARTS: u64 = (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET).swap_bytes() as u64;
        const FIXED: u64 = 0xff | PARTS << 48;
        let ip = Ip { first: word(header, at), second: word(header, at + 8), third: half(header, at + 16) };
        (ip.first & FIXED == 0x45 && ip.is_summed_up()).then_some(ip)
    }

    /// One's complement sums do not depend on how wide the words are, nor on the order of their bytes: the sum is all ones,
    /// which is nothing modulo 2¹⁶ − 1, as 2⁶⁴ is one.
    #[inline(always)]
    fn is_summed_up(self) -> bool {
        let (sum, carry) = self.first.overflowing_add(self.second);
        let (sum, another) = sum.overflowing_add(u64::from(self.third) + u64::from(carry));
        (sum + u64::from(another)).is_multiple_of(0xffff)
    }

    #[inline(always)]
    fn tos(self) -> u8 {
        self.first.to_le_bytes()[ipv4::field::TOS]
    }

    #[inline(always)]
    fn total_len(self) -> u16 {
        ((self.first >> 16) as u16).swap_bytes()
    }

    #[inline(always)]
    fn ttl(self) -> u8 {
        self.second.to_le_bytes()[0]
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        self.second.to_le_bytes()[1]
    }

    #[inline(always)]
    fn source(self) -> u32 {
        ((self.second >> 32) as u32).swap_bytes()
    }

    #[inline(always)]
    fn destination(self) -> u32 {
        self.third.swap_bytes()
    }
}

/// A whole IPv4 packet without options, of a transport that is followed.
///
/// Nobody has looked whether its addresses may be forwarded: that has been asked of the first packet of its flow.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub tos: u8,
    pub ip_len: u16,
    /// Where in its transport header the checksum is, if that is half made; else 0.
    pub partial: u8,
}

impl Plain {
    /// Reads the packet behind an Ethernet header of which `frame` begins. It may be shorter than that, and can go on by
    /// one more hop; of TCP it is a segment that neither opens nor ends anything.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Plain> {
        let header: &[u8; READ] = frame.first_chunk()?;
        let ip = Ip::read(header, ethernet::HEADER_LEN)?;
        let ip_len = ip.total_len();
        let l4_len = u32::from(ip_len).wrapping_sub(ipv4::HEADER_LEN as u32);
        let is_all_here = usize::from(ip_len) + ethernet::HEADER_LEN <= frame.len();
        if !is_all_here || ip.ttl() <= 1 {
            return None;
        }
        let l4 = word(header, HEADERS);
        let mut ports = (l4 as u32).swap_bytes();
        let protocol = ip.protocol();
        let (field, sum) = match Protocol(protocol) {
            Protocol::TCP => {
                // Data offset, flags, window, checksum.
                let tcp = frame.get(HEADERS + tcp::field::DATA_OFFSET..)?.first_chunk()?;
                let tcp = u64::from_le_bytes(*tcp);
                let header_len = (tcp as u32 >> 4 & 0xf) * 4;
                // That a length is too small to have a header at all has wrapped around.
                let is_long_enough = header_len <= l4_len && usize::from(ip_len) >= ipv4::HEADER_LEN;
                if header_len < tcp::HEADER_LEN as u32 || !is_long_enough || !goes_on((tcp >> 8) as u8) {
                    return None;
                }
                (tcp::field::CHECKSUM.start as u8, (tcp >> 32) as u16)
            }
            Protocol::UDP => {
                let len = u32::from(((l4 >> 32) as u16).swap_bytes());
                let is_long_enough = len <= l4_len && usize::from(ip_len) >= ipv4::HEADER_LEN;
                if len < udp::HEADER_LEN as u32 || !is_long_enough {
                    return None;
                }
                (udp::field::CHECKSUM.start as u8, (l4 >> 48) as u16)
            }
            Protocol::ICMPV4 => {
                // What stands for ports: see `Icmp`.
                let (kind, code) = (l4 as u8, (l4 >> 8) as u8);
                let identifier = u32::from(((l4 >> 32) as u16).swap_bytes());
                let question = 8 << 8 | u32::from(code);
                ports = match kind {
                    _ if usize::from(ip_len) < ipv4::HEADER_LEN + 8 => return None,
                    8 => identifier << 16 | question,
                    0 => question << 16 | identifier,
                    _ => return None,
                };
                (0, 0)
            }
            _ => return None,
        };
        // The pseudo-header's words as they are on the wire. Its sum is not zero, so a field that is zero never equals it.
        let addresses = (ip.second >> 32) + u64::from(ip.third);
        let protocol_and_len = (u64::from(protocol) << 8) + u64::from((l4_len as u16).swap_bytes());
        let is_partial = sum != 0 && (addresses + protocol_and_len + u64::from(!sum)).is_multiple_of(0xffff);
        Some(Plain {
            source: ip.source(),
            destination: ip.destination(),
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            protocol,
            tos: ip.tos(),
            ip_len,
            partial: if is_partial { field } else { 0 },
        })
    }

    /// Whether it is UDP to this port.
    #[inline(always)]
    pub fn is_to_udp_port(&self, port: u16) -> bool {
        self.protocol == Protocol::UDP.0 && self.destination_port == port
    }
}

/// Whether a TCP segment belongs to a connection that is open and stays so.
#[inline(always)]
fn goes_on(flags: u8) -> bool {
    const TELLING: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0 | Flags::ACK.0;
    flags & TELLING == Flags::ACK.0
}

/// What this node's end of tunnels is known by, as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    mac: u64,
    address: u32,
    vxlan_port: u16,
    vxlan: u64,
}

/// How a packet has come from the fabric.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Bytes in front of its own Ethernet header, or of what is going to be that; 0: it is in no tunnel.
    pub outer_len: u16,
    /// Who has put it into the tunnel.
    pub source: u32,
    /// How the tunnel's header is marked.
    pub tos: u8,
}

/// Of a VXLAN header: that it has an identifier, and which.
const VXLAN_FIXED: u64 = vxlan::VNI_IS_VALID as u64 | 0x00ff_ffff_u64 << 32;

impl Here {
    /// None: this node has no IPv4 address on the fabric.
    pub fn new(node: &NodeConfig, mac: MacAddr) -> Option<Here> {
        let [a, b, c, d, e, f] = mac.0;
        let vni = u64::from((node.vni << 8).swap_bytes());
        Some(Here {
            mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            address: node.address_v4?.to_bits().swap_bytes(),
            vxlan_port: node.vxlan_port.swap_bytes(),
            vxlan: u64::from(vxlan::VNI_IS_VALID) | vni << 32,
        })
    }

    /// Reads what is in front of the packet that a frame from the fabric carries.
    #[inline(always)]
    pub fn arrival(&self, frame: &[u8]) -> Option<Arrival> {
        let header: &[u8; READ] = frame.first_chunk()?;
        if word(header, 0) & MAC != self.mac || pair(header, 12) != IPV4 {
            return None;
        }
        if half(header, HEADERS - 4) != self.address {
            return Some(Arrival { outer_len: 0, source: 0, tos: 0 });
        }
        let ip = Ip::read(header, ethernet::HEADER_LEN)?;
        let end = ethernet::HEADER_LEN + usize::from(ip.total_len());
        let outer_len = match Protocol(ip.protocol()) {
            Protocol::UDP => {
                let header: &[u8; VXLAN] = frame.first_chunk()?;
                let is_ours = pair(header, HEADERS + 2) == self.vxlan_port
                    && word(header, IN_VXLAN - vxlan::HEADER_LEN) & VXLAN_FIXED == self.vxlan
                    && pair(header, VXLAN - 2) == IPV4
                    && end >= IN_VXLAN;
                if !is_ours {
                    return None;
                }
                IN_VXLAN
            }
            Protocol::IPIP if end >= HEADERS => ipv4::HEADER_LEN,
            _ => return None,
        };
        (end <= frame.len()).then_some(Arrival {
            outer_len: outer_len as u16,
            source: ip.source(),
            tos: ip.tos(),
        })
    }
}

/// Whether a frame's Ethernet header says that IPv4 follows.
#[inline(always)]
pub fn is_ipv4(frame: &[u8]) -> bool {
    frame.first_chunk::<{ ethernet::HEADER_LEN }>().is_some_and(|header| pair(header, 12) == IPV4)
}

/// The connections that SYNs in a batch may begin: a bit for each, which others may have, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Openings(u64);

impl Openings {
    /// Notes a frame that takes the long way, in case it is or carries a SYN.
    #[cold]
    pub fn note(&mut self, frame: &[u8], vxlan_port: u16) {
        self.0 |= opening(frame, vxlan_port).unwrap_or(0);
    }

    /// Whether a packet may belong to one of them.
    #[inline(always)]
    pub fn may_have(self, plain: &Plain) -> bool {
        let Plain { source, destination, source_port, destination_port, .. } = *plain;
        self.0 != 0 && self.0 & bit_of(source ^ destination, source_port ^ destination_port) != 0
    }
}

/// The same for both ways.
fn bit_of(addresses: u32, ports: u16) -> u64 {
    let mixed = (u64::from(addresses) << 16 | u64::from(ports)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}

/// The bit of the connection that a frame's SYN may begin, in a tunnel or in none. Lengths and checksums may be wrong: then it
/// begins none, and nothing is lost but time.
fn opening(frame: &[u8], vxlan_port: u16) -> Option<u64> {
    let (link, packet) = frame.split_at_checked(ethernet::HEADER_LEN)?;
    let (protocol, behind) = match EtherType(u16::from_be_bytes([link[12], link[13]])) {
        EtherType::IPV4 => (*packet.get(ipv4::field::PROTOCOL)?, packet.get(ipv4::HEADER_LEN..)?),
        EtherType::IPV6 => (*packet.get(ipv6::field::NEXT_HEADER)?, packet.get(ipv6::HEADER_LEN..)?),
        _ => return None,
    };
    match Protocol(protocol) {
        Protocol::UDP if behind.get(2..4) == Some(&vxlan_port.to_be_bytes()) => {
            const FRONT: usize = udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN;
            opening_of(behind.get(FRONT..)?)
        }
        Protocol::IPIP => opening_of(behind),
        _ => opening_of(packet),
    }
}

/// The same of an IP packet.
fn opening_of(packet: &[u8]) -> Option<u64> {
    let (ip, behind) = packet.split_first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let tcp: &[u8; tcp::HEADER_LEN] = behind.first_chunk()?;
    let is_syn = ip[0] == 0x45
        && ip[ipv4::field::PROTOCOL] == Protocol::TCP.0
        && Flags(tcp[tcp::field::FLAGS]).contains(Flags::SYN);
    let addresses = (half(ip, 12) ^ half(ip, 16)).swap_bytes();
    is_syn.then(|| bit_of(addresses, (pair(tcp, 0) ^ pair(tcp, 2)).swap_bytes()))
}
