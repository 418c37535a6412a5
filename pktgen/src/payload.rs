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
