//! Netlink messages as bytes: attributes put together and taken apart, and a conversation in which a request has its answers. For the
//! families that `netlink-packet-route` does not know: generic netlink (ethtool's, netdev's).
//!
//! ```text
//!    0                   16                  32
//!   +-------------------+-------------------+
//!   | length, with this | type (2 flag bits)|   an attribute; the next one begins at a multiple of four bytes
//!   +-------------------+-------------------+
//!   | value, which may be attributes again …|
//! ```
//!
//! What comes from the kernel is looked at as what comes from a wire: whatever its bytes, reading them ends, and nothing panics.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send};

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;
const ANSWER_MAX: usize = 64 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;

/// `struct genlmsghdr`.
pub const GENERIC_HEADER: usize = 4;
/// The family that knows the numbers of the others.
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

/// The attributes in `bytes`, by type; ends where they make no sense.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// A number of 1, 2, 4 or 8 bytes.
pub fn number(value: &[u8]) -> Option<u64> {
    match *value {
        [a] => Some(u64::from(a)),
        [a, b] => Some(u64::from(u16::from_ne_bytes([a, b]))),
        [a, b, c, d] => Some(u64::from(u32::from_ne_bytes([a, b, c, d]))),
        _ => Some(u64::from_ne_bytes(value.try_into().ok()?)),
    }
}

/// Text up to its first zero.
pub fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8(value[..end].to_vec()).ok()
}

/// Attributes to be sent.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number of four bytes.
    #[must_use]
    pub fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// As they are sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds attributes within one.
    #[must_use]
    pub fn with_nested(self, kind: u16, inner: &Attributes) -> Self {
        self.with(kind | NESTED, &inner.0)
    }
}

/// Whom to talk with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// All that has a name for a number.
    Generic,
}

/// A conversation with the kernel of the network namespace that the opening thread was in.
#[derive(Debug)]
pub struct Conversation {
    socket: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Conversation {
    /// Opens it.
    ///
    /// # Errors
    /// When the process may not, or has no descriptors left.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Generic => SockProtocol::NetlinkGeneric,
        };
        let family = socket::AddressFamily::Netlink;
        let socket = socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Conversation { socket, sequence: 0, answer: vec![0; ANSWER_MAX] })
    }

    /// Asks, and returns what is behind the header of each answer.
    ///
    /// # Errors
    /// The kernel's, or the system call's.
    pub fn request(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answers = Vec::new();
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.answer, MsgFlags::empty())?;
            for message in messages(&self.answer[..length]) {
                match message {
                    Message { sequence, .. } if sequence != self.sequence => {}
                    Message { kind: NLMSG_DONE, .. } => return Ok(answers),
                    Message { kind: NLMSG_ERROR, body, .. } => {
                        return match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
                            Some(0) => Ok(answers),
                            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                            None => Err(io::Error::from(io::ErrorKind::InvalidData)),
                        };
                    }
                    Message { body, .. } => answers.push(body.to_vec()),
                }
            }
        }
    }

    /// The number of a generic family.
    ///
    /// # Errors
    /// `NotFound` when the kernel has no such family.
    pub fn family(&mut self, name: &str) -> io::Result<u16> {
        let mut zero_ended = name.as_bytes().to_vec();
        zero_ended.push(0);
        let asked = Attributes::default().with(CONTROL_FAMILY_NAME, &zero_ended);
        let answers = self.ask(CONTROL, CONTROL_GET_FAMILY, &asked)?;
        let id = answers.iter().find_map(|answer| number(find(answer, CONTROL_FAMILY_ID)?));
        id.and_then(|id| u16::try_from(id).ok()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Asks a generic family; the attributes of each answer.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn ask(&mut self, family: u16, command: u8, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        let mut body = vec![command, 1, 0, 0];
        body.extend(&attributes.0);
        let answers = self.request(family, &body)?;
        Ok(answers.into_iter().map(|body| body.get(GENERIC_HEADER..).unwrap_or_default().to_vec()).collect())
    }
}

/// The kernel's word for an error that says that a driver has nothing to say.
pub fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages in `bytes`; ends where they make no sense.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_put_together_is_taken_apart_again() {
        let inner = Attributes::default().with_u32(1, 7).with(2, b"veth\0");
        let bytes = Attributes::default().with_nested(5, &inner).with(6, &[9]).0;
        let nested = find(&bytes, 5).unwrap();
        assert_eq!(find(nested, 1).and_then(number), Some(7));
        assert_eq!(find(nested, 2).and_then(text).as_deref(), Some("veth"));
        assert_eq!(find(&bytes, 6).and_then(number), Some(9));
        assert_eq!(find(&bytes, 7), None);
    }

    #[test]
    fn an_attribute_longer_than_what_there_is_ends_the_reading() {
        let mut bytes = Attributes::default().with_u32(1, 7).with_u32(2, 8).0;
        bytes.truncate(14);
        assert_eq!(attributes(&bytes).count(), 1);
        // Shorter than its own header.
        assert_eq!(attributes(&[3, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / ATTRIBUTE_HEADER + 1);
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER + 1);
            for (_, value) in attributes(&bytes) {
                let _ = (number(value), text(value));
            }
        }
    }
}
