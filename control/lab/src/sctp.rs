//! Just enough SCTP (RFC 9260) to open an association and to refuse one: INIT, INIT ACK and ABORT, with right checksums.

use caracal_wire::{
    L4Port, Sctp,
    sctp::{ChunkKind, HEADER_LEN, Repr},
};

const CHUNK_HEADER_BYTES: usize = 4;
/// Initiate tag, receiver window, streams out and in, first sequence number.
const INIT_BYTES: usize = 16;
/// A state cookie, as INIT ACK must carry one.
const COOKIE: [u8; 8] = [0, 7, 0, 8, b'l', b'a', b'b', b'!'];
const WINDOW: u32 = 65_536;

/// An INIT that asks for tag `tag`.
pub(crate) fn init(source_port: u16, port: u16, tag: u32) -> Vec<u8> {
    packet(source_port, port, 0, ChunkKind::INIT, &parameters(tag, &[]))
}

/// What an endpoint that listens where `listens` says answers to a packet; nothing to what is damaged or no INIT.
pub(crate) fn answer(packet_in: &[u8], listens: impl Fn(u16) -> bool) -> Option<Vec<u8>> {
    let asked = Sctp::new_checked(packet_in).ok().filter(Sctp::checksum_is_correct)?;
    if asked.first_chunk() != Some(ChunkKind::INIT) {
        return None;
    }
    let tag = asked.payload().get(CHUNK_HEADER_BYTES..)?.first_chunk().copied().map(u32::from_be_bytes)?;
    let (from, to) = (asked.destination_port().0, asked.source_port().0);
    Some(if listens(from) {
        packet(from, to, tag, ChunkKind::INIT_ACK, &parameters(!tag, &COOKIE))
    } else {
        packet(from, to, tag, ChunkKind::ABORT, &[])
    })
}

/// What the peer's answer to [`init`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// INIT ACK.
    Accepted,
    /// ABORT.
    Refused,
}

/// Whether `packet` answers an INIT from `source_port` to `port` that asked for `tag`.
pub(crate) fn answered(packet_in: &[u8], source_port: u16, port: u16, tag: u32) -> Option<Answered> {
    let answer = Sctp::new_checked(packet_in).ok().filter(Sctp::checksum_is_correct)?;
    let ours = answer.source_port().0 == port
        && answer.destination_port().0 == source_port
        && answer.verification_tag() == tag;
    match answer.first_chunk() {
        Some(ChunkKind::INIT_ACK) if ours => Some(Answered::Accepted),
        Some(ChunkKind::ABORT) if ours => Some(Answered::Refused),
        _ => None,
    }
}

fn parameters(tag: u32, more: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INIT_BYTES + more.len());
    bytes.extend_from_slice(&tag.to_be_bytes());
    bytes.extend_from_slice(&WINDOW.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    bytes.extend_from_slice(&tag.to_be_bytes());
    bytes.extend_from_slice(more);
    bytes
}

fn packet(source_port: u16, port: u16, tag: u32, kind: ChunkKind, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    let length = u16::try_from(CHUNK_HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&[kind.0, 0]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
    let header =
        Repr { source_port: L4Port(source_port), destination_port: L4Port(port), verification_tag: tag };
    // `bytes` begins with a whole header, which is all that can be missing.
    let _ = header.emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_accepts_and_a_closed_port_refuses() {
        let asked = init(4000, 36_412, 0x0102_0304);
        let accepted = answer(&asked, |port| port == 36_412).unwrap();
        assert_eq!(answered(&accepted, 4000, 36_412, 0x0102_0304), Some(Answered::Accepted));
        let refused = answer(&asked, |_| false).unwrap();
        assert_eq!(answered(&refused, 4000, 36_412, 0x0102_0304), Some(Answered::Refused));
    }

    #[test]
    fn damage_and_other_peoples_answers_do_not_count() {
        let mut asked = init(4000, 36_412, 7);
        let accepted = answer(&asked, |_| true).unwrap();
        assert_eq!(answered(&accepted, 4000, 36_412, 8), None);
        assert_eq!(answered(&accepted, 4001, 36_412, 7), None);
        assert_eq!(answer(&accepted, |_| true), None, "an answer is no question");
        asked[20] ^= 1;
        assert_eq!(answer(&asked, |_| true), None, "the checksum is wrong now");
    }
}
