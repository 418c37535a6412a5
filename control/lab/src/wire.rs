//! IPv4 datagrams of the lab's raw sockets, and the question and answer of protocols that have no ports.

use std::net::Ipv4Addr;

use caracal_model::protocol::Protocol;
use caracal_wire::ipv4;

/// What a probe of a protocol without ports asks; four bytes that identify it follow.
pub(crate) const QUESTION: &[u8] = b"caracal?";
const ANSWER: &[u8] = b"caracal!";

/// A datagram without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) payload: Vec<u8>,
}

impl Datagram {
    /// The datagram that `bytes` are.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let view = caracal_wire::Ipv4::new_checked(bytes).ok()?;
        Some(Self {
            source: view.source(),
            destination: view.destination(),
            protocol: Protocol(view.protocol().0),
            payload: view.payload().to_vec(),
        })
    }

    /// Its bytes, unless it is too long for one.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let header = ipv4::Repr {
            tos: 0,
            identification: 0,
            fragment_word: ipv4::DONT_FRAGMENT,
            ttl: 64,
            protocol: caracal_wire::Protocol(self.protocol.0),
            source: self.source,
            destination: self.destination,
            payload_len: u16::try_from(self.payload.len()).ok()?,
        };
        let mut bytes = vec![0; ipv4::HEADER_LEN];
        header.emit(&mut bytes).ok()?;
        bytes.extend_from_slice(&self.payload);
        Some(bytes)
    }
}

/// What answers a question of ours.
pub(crate) fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let identity = question.strip_prefix(QUESTION)?;
    Some([ANSWER, identity].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_survives_the_wire() {
        let datagram = Datagram {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
            protocol: Protocol(47),
            payload: vec![1, 2, 3],
        };
        assert_eq!(Datagram::parse(&datagram.bytes().unwrap()), Some(datagram));
    }

    #[test]
    fn only_questions_are_answered() {
        assert_eq!(answer(b"caracal?1234").unwrap(), b"caracal!1234");
        assert_eq!(answer(b"caracal!1234"), None);
    }
}
