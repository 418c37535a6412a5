//! Netlink messages and their attributes, as bytes.
//!
//! ```text
//!    0               4       6       8               12              16      18      20
//!   +---------------+-------+-------+---------------+---------------+---+---+-------+---------------
//!   | length        | type  | flags | sequence      | port          |fam|ver| resource| attributes …     (nfnetlink.h)
//!   +---------------+-------+-------+---------------+---------------+---+---+-------+---------------
//!   attribute:  | length (2) | type (2) | payload, padded to 4 |
//! ```
//!
//! Headers are in the machine's byte order; integers in attributes of nf_tables in network order. Reading is total: what is cut short
//! or says nonsense ends the reading, and never anything else.

/// Length of the netlink header.
const HEADER: usize = 16;
/// Length of nfnetlink's own header.
const NFGEN: usize = 4;
const NLA_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 16;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;

/// The subsystem of nf_tables.
pub(crate) const SUBSYSTEM: u16 = 10;
/// Family inet: IPv4 and IPv6.
pub(crate) const INET: u8 = 1;

/// Attributes that are being written.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // Whoever writes keeps parts below 64 kB; what were longer would be cut, and refused by the kernel.
        let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let terminated: Vec<u8> = text.bytes().chain([0]).collect();
        self.bytes(kind, &terminated)
    }

    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        let mut inner = Attributes::default();
        fill(&mut inner);
        self.bytes(kind | NLA_NESTED, &inner.0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A whole message; its sequence number is given when it is sent.
#[derive(Debug)]
pub(crate) struct Message {
    pub kind: u16,
    pub flags: u16,
    pub family: u8,
    pub resource: u16,
    pub attributes: Attributes,
}

impl Message {
    /// A message of nf_tables.
    pub fn new(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Attributes)) -> Message {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        Message { kind: SUBSYSTEM << 8 | kind, flags: NLM_F_REQUEST | flags, family, resource: 0, attributes }
    }

    /// The begin or the end of a batch.
    pub fn bracket(kind: u16) -> Message {
        let attributes = Attributes::default();
        Message { kind, flags: NLM_F_REQUEST, family: 0, resource: SUBSYSTEM, attributes }
    }

    pub fn write(&self, sequence: u32, more_flags: u16, bytes: &mut Vec<u8>) {
        let length = u32::try_from(HEADER + NFGEN + self.attributes.0.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | more_flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend([self.family, 0]);
        bytes.extend(self.resource.to_be_bytes());
        bytes.extend(&self.attributes.0);
    }
}

/// A message that the kernel has sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    body: &'a [u8],
}

impl<'a> Received<'a> {
    /// The messages of a datagram.
    pub fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = Received<'a>> {
        std::iter::from_fn(move || {
            let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
            let message = Received {
                kind: u16::from_ne_bytes(array(bytes, 4)?),
                flags: u16::from_ne_bytes(array(bytes, 6)?),
                sequence: u32::from_ne_bytes(array(bytes, 8)?),
                body: bytes.get(HEADER..length)?,
            };
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(message)
        })
    }

    /// The errno of an error message; 0: an acknowledgement.
    pub fn errno(&self) -> Option<i32> {
        (self.kind == NLMSG_ERROR).then(|| array(self.body, 0).map(|code| -i32::from_ne_bytes(code)))?
    }

    /// The address family that it is about.
    pub fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    pub fn attributes(&self) -> Read<'a> {
        Read(self.body.get(NFGEN..).unwrap_or_default())
    }
}

/// Attributes that are being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read<'a>(&'a [u8]);

impl<'a> Read<'a> {
    pub fn of(bytes: &'a [u8]) -> Read<'a> {
        Read(bytes)
    }

    /// All of them, in order.
    pub fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
            let kind = u16::from_ne_bytes(array(rest, 2)?) & NLA_TYPE_MASK;
            let payload = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, payload))
        })
    }

    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.all().find(|(of, _)| *of == kind).map(|(_, payload)| payload)
    }

    pub fn nested(self, kind: u16) -> Option<Read<'a>> {
        self.get(kind).map(Read)
    }

    pub fn number(self, kind: u16) -> Option<u32> {
        array(self.get(kind)?, 0).map(u32::from_be_bytes)
    }

    pub fn long(self, kind: u16) -> Option<u64> {
        array(self.get(kind)?, 0).map(u64::from_be_bytes)
    }

    pub fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8(bytes.get(..end)?.to_vec()).ok()
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let message = Message::new(6, NLM_F_CREATE, INET, |attributes| {
            attributes.text(1, "caracal").number(2, 7).nest(4, |inner| {
                inner.bytes(1, &[1, 2, 3]).number(2, 9);
            });
        });
        let mut bytes = Vec::new();
        message.write(5, 0, &mut bytes);
        message.write(6, NLM_F_ACK, &mut bytes);
        let read: Vec<Received<'_>> = Received::all(&bytes).collect();
        assert_eq!((read.len(), read[0].sequence, read[1].sequence), (2, 5, 6));
        assert_eq!((read[1].kind, read[1].flags), (0x0a06, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK));
        let attributes = read[0].attributes();
        assert_eq!((attributes.text(1).as_deref(), attributes.number(2)), (Some("caracal"), Some(7)));
        let inner = attributes.nested(4).unwrap();
        assert_eq!((inner.get(1), inner.number(2)), (Some(&[1, 2, 3][..]), Some(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Received::all(&bytes) {
                let _ = (message.errno(), message.family());
                for (kind, payload) in message.attributes().all() {
                    let read = Read::of(payload);
                    let _ = (read.text(kind), read.number(kind), read.long(kind), read.nested(1).map(|r| r.all().count()));
                    crate::expression::Expression::read_all(read);
                }
            }
        }
    }
}
