//! Reads captures: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), of either byte order. No file makes it panic: what
//! is no capture is refused, and one that is cut off gives the packets up to there.

use std::ops::Range;

use thiserror::Error;

/// Why a file is no capture that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CaptureError {
    /// Neither magic number.
    #[error("neither a pcap nor a pcapng file")]
    NoCapture,
    /// Frames that do not begin with an Ethernet header.
    #[error("packets of link type {0}; only Ethernet (1) can be sent")]
    LinkType(u32),
    /// A block or a record of a length that cannot be.
    #[error("the file is damaged at byte {0}")]
    Damaged(usize),
}

/// A packet of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it was captured, nanoseconds of whatever the capture counts from.
    pub at_ns: u64,
    /// Where it is in the file.
    pub bytes: Range<usize>,
    /// It was longer than what was captured of it.
    pub cut: bool,
}

/// A capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Packets, in the order of the file.
    pub packets: Vec<Recorded>,
    /// The file ends within a packet.
    pub truncated: bool,
}

const ETHERNET: u32 = 1;
const PCAP_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// The option of an interface that says how fine its time is.
const TIME_RESOLUTION: u16 = 9;
const MICROSECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;

impl Capture {
    /// Finds the packets of a file.
    ///
    /// # Errors
    /// It is no capture of Ethernet.
    pub fn read(file: &[u8]) -> Result<Self, CaptureError> {
        let order = |magic: u32| match file.first_chunk::<4>() {
            Some(bytes) if u32::from_le_bytes(*bytes) == magic => Some(Order::Little),
            Some(bytes) if u32::from_be_bytes(*bytes) == magic => Some(Order::Big),
            _ => None,
        };
        if order(SECTION).is_some() {
            return pcapng(file);
        }
        // In microseconds, or in nanoseconds.
        for (magic, unit) in [(0xa1b2_c3d4, MICROSECOND), (0xa1b2_3c4d, 1)] {
            if let Some(order) = order(magic) {
                return pcap(file, order, unit);
            }
        }
        Err(CaptureError::NoCapture)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u32(self, file: &[u8], at: usize) -> Option<u32> {
        let bytes = *file.get(at..)?.first_chunk()?;
        Some(if self == Order::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn u16(self, file: &[u8], at: usize) -> Option<u16> {
        let bytes = *file.get(at..)?.first_chunk()?;
        Some(if self == Order::Little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }
}

fn pcap(file: &[u8], order: Order, unit: u64) -> Result<Capture, CaptureError> {
    let link_type = order.u32(file, 20).ok_or(CaptureError::NoCapture)?;
    // The upper bits say how long a frame check sequence is.
    if link_type & 0xffff != ETHERNET {
        return Err(CaptureError::LinkType(link_type & 0xffff));
    }
    let mut capture = Capture::default();
    let mut at = PCAP_HEADER;
    while at < file.len() {
        let field = |n: usize| order.u32(file, at + 4 * n);
        let (Some(seconds), Some(fraction), Some(len), Some(original)) =
            (field(0), field(1), field(2), field(3))
        else {
            capture.truncated = true;
            break;
        };
        let from = at + RECORD_HEADER;
        let to = from.checked_add(len as usize).ok_or(CaptureError::Damaged(at))?;
        if to > file.len() {
            capture.truncated = true;
            break;
        }
        let at_ns = u64::from(seconds) * SECOND + u64::from(fraction) * unit;
        capture.packets.push(Recorded { at_ns, bytes: from..to, cut: original > len });
        at = to;
    }
    Ok(capture)
}

/// Of an interface: how many units of its time a second has, and whether its frames are Ethernet's.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u32,
    units_per_second: u64,
    snap_len: u32,
}

fn pcapng(file: &[u8]) -> Result<Capture, CaptureError> {
    let mut capture = Capture::default();
    let mut order = Order::Little;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut at = 0;
    while at < file.len() {
        if order.u32(file, at) == Some(SECTION) {
            // Reads the same in both orders; the number after the length tells.
            order = match file.get(at + 8..at + 12).and_then(|bytes| bytes.first_chunk::<4>()) {
                Some(bytes) if u32::from_le_bytes(*bytes) == BYTE_ORDER => Order::Little,
                Some(bytes) if u32::from_be_bytes(*bytes) == BYTE_ORDER => Order::Big,
                Some(_) => return Err(CaptureError::Damaged(at)),
                None => {
                    capture.truncated = true;
                    break;
                }
            };
            interfaces.clear();
        }
        let (Some(kind), Some(len)) = (order.u32(file, at), order.u32(file, at + 4)) else {
            capture.truncated = true;
            break;
        };
        let len = len as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(CaptureError::Damaged(at));
        }
        let Some(end) = at.checked_add(len).filter(|end| *end <= file.len()) else {
            capture.truncated = true;
            break;
        };
        // Between the block's head and the length at its end.
        let (body, body_end) = (at + 8, end - 4);
        let field = |n: usize| order.u32(file.get(..body_end)?, body + 4 * n);
        let damaged = CaptureError::Damaged(at);
        match kind {
            INTERFACE => {
                let link_type = u32::from(order.u16(file, body).ok_or(damaged)?);
                let snap_len = field(1).ok_or(damaged)?;
                let units_per_second = resolution(file.get(body + 8..body_end).unwrap_or(&[]), order);
                interfaces.push(Interface { link_type, units_per_second, snap_len });
            }
            ENHANCED_PACKET => {
                let interface = interfaces.get(field(0).ok_or(damaged)? as usize).ok_or(damaged)?;
                let (high, low) = (field(1).ok_or(damaged)?, field(2).ok_or(damaged)?);
                let (len, original) = (field(3).ok_or(damaged)?, field(4).ok_or(damaged)?);
                let bytes = within(body + 20, len as usize, body_end).ok_or(damaged)?;
                if interface.link_type != ETHERNET {
                    return Err(CaptureError::LinkType(interface.link_type));
                }
                let units = u128::from(u64::from(high) << 32 | u64::from(low));
                let at_ns = units * u128::from(SECOND) / u128::from(interface.units_per_second);
                let at_ns = u64::try_from(at_ns).unwrap_or(u64::MAX);
                capture.packets.push(Recorded { at_ns, bytes, cut: original > len });
            }
            SIMPLE_PACKET => {
                let interface = interfaces.first().ok_or(damaged)?;
                let original = field(0).ok_or(damaged)?;
                let mut len = original.min(u32::try_from(body_end - body - 4).unwrap_or(u32::MAX));
                if interface.snap_len > 0 {
                    len = len.min(interface.snap_len);
                }
                let bytes = within(body + 4, len as usize, body_end).ok_or(damaged)?;
                if interface.link_type != ETHERNET {
                    return Err(CaptureError::LinkType(interface.link_type));
                }
                // It has no time: at once after the one before it.
                let at_ns = capture.packets.last().map_or(0, |packet| packet.at_ns);
                capture.packets.push(Recorded { at_ns, bytes, cut: original > len });
            }
            _ => {}
        }
        at = end;
    }
    Ok(capture)
}

fn within(from: usize, len: usize, end: usize) -> Option<Range<usize>> {
    let to = from.checked_add(len)?;
    (to <= end).then_some(from..to)
}

/// Units a second, of an interface's options.
fn resolution(options: &[u8], order: Order) -> u64 {
    let mut at = 0;
    while let (Some(code), Some(len)) = (order.u16(options, at), order.u16(options, at + 2)) {
        if code == 0 {
            break;
        }
        if code == TIME_RESOLUTION
            && let Some(value) = options.get(at + 4)
        {
            let exponent = u32::from(value & 0x7f);
            // A negative power of ten, or with the highest bit of two; finer than fits is not used by anybody.
            let units =
                if value & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 2u64.checked_pow(exponent) };
            return units.unwrap_or(u64::MAX);
        }
        at += 4 + usize::from(len).next_multiple_of(4);
    }
    1_000_000
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(value: u32, big: bool) -> [u8; 4] {
        if big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// A pcap file of packets with their times.
    pub fn pcap_file(packets: &[(u64, &[u8])], big: bool, nanoseconds: bool) -> Vec<u8> {
        let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut file = Vec::new();
        for value in [magic, if big { 0x0002_0004 } else { 0x0004_0002 }, 0, 0, 65_535, 1] {
            file.extend(word(value, big));
        }
        for (at_ns, packet) in packets {
            let unit = if nanoseconds { 1 } else { 1000 };
            let len = packet.len() as u32;
            for value in [(at_ns / SECOND) as u32, (at_ns % SECOND / unit) as u32, len, len] {
                file.extend(word(value, big));
            }
            file.extend(*packet);
        }
        file
    }

    fn block(kind: u32, body: &[u8], big: bool) -> Vec<u8> {
        let body_len = body.len().next_multiple_of(4);
        let len = word((body_len + 12) as u32, big);
        let mut block = word(kind, big).to_vec();
        block.extend(len);
        block.extend(body);
        block.resize(8 + body_len, 0);
        block.extend(len);
        block
    }

    /// A pcapng file, of nanoseconds.
    pub fn pcapng_file(packets: &[(u64, &[u8])], big: bool) -> Vec<u8> {
        let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let section = [&word(BYTE_ORDER, big)[..], &half(1), &half(0), &[0xff; 8]].concat();
        let interface =
            [&half(1)[..], &half(0), &word(0, big), &half(9), &half(1), &[9, 0, 0, 0], &[0; 4]].concat();
        let mut file = [block(SECTION, &section, big), block(INTERFACE, &interface, big)].concat();
        for (at_ns, packet) in packets {
            let len = word(packet.len() as u32, big);
            let head =
                [word(0, big), word((at_ns >> 32) as u32, big), word(*at_ns as u32, big), len, len].concat();
            file.extend(block(ENHANCED_PACKET, &[&head, *packet].concat(), big));
        }
        file
    }

    const PACKETS: [(u64, &[u8]); 3] = [
        (1_700_000_000_000_001_000, b"first packet, x"),
        (1_700_000_000_500_002_000, b""),
        (1_700_000_001_000_000_000, b"last"),
    ];

    #[test]
    fn packets_and_times_are_read_from_every_form() {
        for big in [false, true] {
            let files =
                [pcap_file(&PACKETS, big, false), pcap_file(&PACKETS, big, true), pcapng_file(&PACKETS, big)];
            for file in files {
                let capture = Capture::read(&file).unwrap();
                let read: Vec<_> =
                    capture.packets.iter().map(|p| (p.at_ns, &file[p.bytes.clone()])).collect();
                assert_eq!(read, PACKETS);
                assert!(!capture.truncated);
                let cut = Capture::read(&file[..file.len() - 3]).unwrap();
                assert!(cut.truncated && cut.packets.len() == 2);
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(Capture::read(b""), Err(CaptureError::NoCapture));
        assert_eq!(Capture::read(b"\x7fELF and so on and on and on"), Err(CaptureError::NoCapture));
        let mut file = pcap_file(&PACKETS, false, false);
        file[20] = 101;
        assert_eq!(Capture::read(&file), Err(CaptureError::LinkType(101)));
        let mut file = pcapng_file(&PACKETS, false);
        file[4] = 7;
        assert_eq!(Capture::read(&file), Err(CaptureError::Damaged(0)));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic_and_packets_are_within_it(
            which in 0usize..4,
            big: bool,
            changes in prop::collection::vec((0usize..400, any::<u8>()), 0..8),
            cut in 0usize..400,
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut file = match which {
                0 => pcap_file(&PACKETS, big, false),
                1 => pcapng_file(&PACKETS, big),
                2 => [&pcapng_file(&PACKETS, big)[..28], &noise].concat(),
                _ => noise,
            };
            for (at, byte) in changes {
                if let Some(there) = file.get_mut(at) {
                    *there = byte;
                }
            }
            file.truncate(cut.max(3));
            if let Ok(capture) = Capture::read(&file) {
                for packet in capture.packets {
                    prop_assert!(packet.bytes.end <= file.len() && packet.bytes.start <= packet.bytes.end);
                }
            }
        }
    }
}
