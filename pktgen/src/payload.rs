//! What a packet says about itself, at the beginning of its UDP payload.
//!
//! ```text
//!    0      4      8            14                     22
//!    ├──────┼──────┼────────────┼──────────────────────┤
//!    │ run  │ flow │ sequence   │ stamp                │ padding…
//!    └──────┴──────┴────────────┴──────────────────────┘
//! ```
//!
//! All in network order. The run's number keeps packets of other runs out; the stamp is nanoseconds of the machine's monotonic clock when
//! the packet was given to the kernel. 22 bytes are what a 64-byte frame has room for.

/// Bytes that a mark takes.
pub const LEN: usize = 22;

/// Sequence number of the packets that go ahead of a flow to open the way; they are not counted.
pub const SCOUT: u64 = (1 << 48) - 1;

/// A packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which run.
    pub run: u32,
    /// Which of its flows.
    pub flow: u32,
    /// Which packet of the flow, from 0; 48 bits.
    pub sequence: u64,
    /// When it was sent, in nanoseconds.
    pub sent_ns: u64,
}

impl Mark {
    /// Writes the mark at the beginning of `payload`, which must be at least [`LEN`] long: a shorter one is left as it is.
    pub fn write(self, payload: &mut [u8]) {
        let Some(bytes) = payload.first_chunk_mut::<LEN>() else { return };
        bytes[0..4].copy_from_slice(&self.run.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.flow.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sequence.to_be_bytes()[2..]);
        bytes[14..22].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// The mark of a payload; `None` when it is too short to have one.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3, s4, s5, stamp @ ..] =
            *payload.first_chunk::<LEN>()?;
        Some(Mark {
            run: u32::from_be_bytes([r0, r1, r2, r3]),
            flow: u32::from_be_bytes([f0, f1, f2, f3]),
            sequence: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
            sent_ns: u64::from_be_bytes(stamp),
        })
    }
}

/// VXLAN's UDP port (RFC 7348).
const VXLAN_PORT: [u8; 2] = 4789u16.to_be_bytes();

/// The mark of a frame, wherever it is: above UDP, TCP or ICMP, in IPv4 or IPv6, plain, or inside VXLAN or IP once. The same as
/// bpf/record.c finds.
#[must_use]
pub fn mark_of(frame: &[u8]) -> Option<Mark> {
    let (mut ether_type, mut rest) = ethernet(frame)?;
    if ether_type == [0x81, 0] {
        ether_type = *rest.get(2..4)?.first_chunk()?;
        rest = rest.get(4..)?;
    }
    for level in 0..2 {
        let protocol = match ether_type {
            [0x08, 0x00] => {
                let header = usize::from(rest.first()? & 15) * 4;
                let is_later_part = u16::from_be_bytes(*rest.get(6..8)?.first_chunk()?) & 0x1fff != 0;
                if header < 20 || is_later_part {
                    return None;
                }
                let protocol = *rest.get(9)?;
                rest = rest.get(header..)?;
                protocol
            }
            [0x86, 0xdd] => {
                let protocol = *rest.get(6)?;
                rest = rest.get(40..)?;
                protocol
            }
            _ => return None,
        };
        match protocol {
            17 if level == 0 && rest.get(2..4)? == VXLAN_PORT => {
                (ether_type, rest) = ethernet(rest.get(16..)?)?;
            }
            17 | 1 | 58 => return Mark::read(rest.get(8..)?),
            6 => {
                let header = usize::from(rest.get(12)? >> 4) * 4;
                return Mark::read(rest.get(header..).filter(|_| header >= 20)?);
            }
            4 => ether_type = [0x08, 0x00],
            41 => ether_type = [0x86, 0xdd],
            _ => return None,
        }
    }
    None
}

fn ethernet(frame: &[u8]) -> Option<([u8; 2], &[u8])> {
    Some((*frame.get(12..14)?.first_chunk()?, frame.get(14..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mark = Mark { run: 0xdead_beef, flow: 7, sequence: SCOUT, sent_ns: u64::MAX - 1 };
        let mut payload = [0xaa; LEN + 3];
        mark.write(&mut payload);
        assert_eq!(Mark::read(&payload), Some(mark));
        assert_eq!(payload[LEN..], [0xaa; 3]);
    }

    #[test]
    fn a_short_payload_has_no_mark() {
        assert_eq!(Mark::read(&[0; LEN - 1]), None);
    }
}
