//! What a driver says of itself, and may be told, by ethtool's netlink (`linux/ethtool_netlink.h`, Linux 5.6; RSS 6.3, hash fields
//! 6.17).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::netlink::{Attributes, Conversation, attributes, find, number, text};

const FAMILY: &str = "ethtool";

const FEATURES_GET: u8 = 11;
const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const RSS_GET: u8 = 38;

/// In every message: which device.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

/// How many queues a device has, and could have. Some have queues that receive and send, some have each apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// In use: receiving only.
    pub rx: u32,
    /// In use: sending only.
    pub tx: u32,
    /// In use: both.
    pub combined: u32,
    /// The most of each.
    pub rx_max: u32,
    /// The most of each.
    pub tx_max: u32,
    /// The most of each.
    pub combined_max: u32,
}

impl Channels {
    /// Queues that receive.
    #[must_use]
    pub fn receiving(&self) -> u32 {
        self.rx + self.combined
    }

    /// Queues that could receive.
    #[must_use]
    pub fn receiving_max(&self) -> u32 {
        if self.combined_max > 0 { self.combined_max } else { self.rx_max }
    }

    /// The same device with so many queues that receive, and as many that send.
    #[must_use]
    pub fn with(&self, queues: u32) -> Self {
        if self.combined_max > 0 {
            Channels { combined: queues, rx: 0, tx: 0, ..*self }
        } else {
            Channels { rx: queues, tx: queues, ..*self }
        }
    }
}

/// Entries of the device's own rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Of each receive queue.
    pub rx: u32,
    /// Of each transmit queue.
    pub tx: u32,
    /// The most that there can be.
    pub rx_max: u32,
    /// The most that there can be.
    pub tx_max: u32,
}

/// Names of offloads, as `ethtool -k` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that are on.
    pub active: BTreeSet<String>,
    /// Those that the device has.
    pub hardware: BTreeSet<String>,
    /// Those that cannot be changed.
    pub fixed: BTreeSet<String>,
}

/// How a device spreads what it receives over its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rss {
    /// The hash function, if the kernel's name for it is known.
    pub function: Option<&'static str>,
    /// How many places of the table lead to each queue.
    pub table: BTreeMap<u32, u32>,
    /// Bytes of the hash function's key.
    pub key_len: usize,
    /// Which fields are hashed, by kind of packet.
    pub fields: BTreeMap<&'static str, Vec<&'static str>>,
}

/// ethtool's family, of one device.
#[derive(Debug)]
pub struct Ethtool<'a> {
    kernel: &'a mut Conversation,
    family: u16,
    ifindex: u32,
}

impl<'a> Ethtool<'a> {
    /// For a device.
    ///
    /// # Errors
    /// `NotFound` when the kernel has no such family.
    pub fn of(kernel: &'a mut Conversation, ifindex: u32) -> io::Result<Self> {
        let family = kernel.family(FAMILY)?;
        Ok(Ethtool { kernel, family, ifindex })
    }

    fn device(&self) -> Attributes {
        let device = Attributes::default().with_u32(HEADER_DEV_INDEX, self.ifindex);
        Attributes::default().with_nested(HEADER, &device)
    }

    fn get(&mut self, command: u8) -> io::Result<Vec<u8>> {
        let answers = self.kernel.ask(self.family, command, &self.device())?;
        answers.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Its queues.
    ///
    /// # Errors
    /// What the kernel says; EOPNOTSUPP: the driver does not say.
    pub fn channels(&mut self) -> io::Result<Channels> {
        self.get(CHANNELS_GET).map(|answer| parse_channels(&answer))
    }

    /// Sets how many queues are in use. A real device loses its link for a moment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_channels(&mut self, to: Channels) -> io::Result<()> {
        let mut wanted = self.device();
        for (attribute, count, max) in
            [(6, to.rx, to.rx_max), (7, to.tx, to.tx_max), (9, to.combined, to.combined_max)]
        {
            // The kernel refuses to be told of a kind that the device does not have.
            if max > 0 {
                wanted = wanted.with_u32(attribute, count);
            }
        }
        self.kernel.ask(self.family, CHANNELS_SET, &wanted).map(drop)
    }

    /// Its rings.
    ///
    /// # Errors
    /// What the kernel says; EOPNOTSUPP: the driver does not say.
    pub fn rings(&mut self) -> io::Result<Rings> {
        self.get(RINGS_GET).map(|answer| parse_rings(&answer))
    }

    /// Sets how many entries its rings have. A real device loses its link for a moment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_rings(&mut self, to: Rings) -> io::Result<()> {
        let wanted = self.device().with_u32(6, to.rx).with_u32(9, to.tx);
        self.kernel.ask(self.family, RINGS_SET, &wanted).map(drop)
    }

    /// Its offloads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn features(&mut self) -> io::Result<Features> {
        self.get(FEATURES_GET).map(|answer| parse_features(&answer))
    }

    /// How it spreads what it receives.
    ///
    /// # Errors
    /// What the kernel says; EOPNOTSUPP: the driver does not say.
    pub fn rss(&mut self) -> io::Result<Rss> {
        self.get(RSS_GET).map(|answer| parse_rss(&answer))
    }
}

fn field(answer: &[u8], kind: u16) -> u32 {
    find(answer, kind).and_then(number).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

fn parse_channels(answer: &[u8]) -> Channels {
    let field = |kind| field(answer, kind);
    Channels {
        rx_max: field(2),
        tx_max: field(3),
        combined_max: field(5),
        rx: field(6),
        tx: field(7),
        combined: field(9),
    }
}

fn parse_rings(answer: &[u8]) -> Rings {
    let field = |kind| field(answer, kind);
    Rings { rx_max: field(2), tx_max: field(5), rx: field(6), tx: field(9) }
}

fn parse_features(answer: &[u8]) -> Features {
    let set = |kind| find(answer, kind).map(bitset).unwrap_or_default();
    Features { hardware: set(2), active: set(4), fixed: set(5) }
}

/// The names of a bitset's bits (`ETHTOOL_A_BITSET_…`), those that are set. One with a mask lists what is not set, too.
fn bitset(value: &[u8]) -> BTreeSet<String> {
    const NO_MASK: u16 = 1;
    const BITS: u16 = 3;
    const BIT_NAME: u16 = 2;
    const BIT_VALUE: u16 = 3;
    let lists_all = find(value, NO_MASK).is_none();
    let bits = attributes(find(value, BITS).unwrap_or_default());
    let set = bits.filter(|(_, bit)| !lists_all || find(bit, BIT_VALUE).is_some());
    set.filter_map(|(_, bit)| text(find(bit, BIT_NAME)?)).filter(|name| !name.is_empty()).collect()
}

const FUNCTIONS: [&str; 3] = ["toeplitz", "xor", "crc32"];
const FLOWS: [(u16, &str); 6] = [(2, "ip4"), (3, "ip6"), (4, "tcp4"), (5, "tcp6"), (6, "udp4"), (7, "udp6")];
const HASHED: [(u64, &str); 4] =
    [(4, "source"), (5, "destination"), (6, "source port"), (7, "destination port")];

fn parse_rss(answer: &[u8]) -> Rss {
    const FUNCTION: u16 = 3;
    const INDIRECTION: u16 = 4;
    const KEY: u16 = 5;
    const FLOW_HASH: u16 = 8;
    let function = field(answer, FUNCTION);
    let mut table = BTreeMap::new();
    for queue in find(answer, INDIRECTION).unwrap_or_default().as_chunks::<4>().0 {
        *table.entry(u32::from_ne_bytes(*queue)).or_insert(0) += 1;
    }
    let hashed = find(answer, FLOW_HASH).unwrap_or_default();
    let fields_of = |kind: u16| {
        let bits = find(hashed, kind).and_then(number)?;
        let names: Vec<_> =
            HASHED.iter().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name).collect();
        (!names.is_empty()).then_some(names)
    };
    Rss {
        function: FUNCTIONS.iter().enumerate().find(|(bit, _)| function == 1 << bit).map(|(_, name)| *name),
        table,
        key_len: find(answer, KEY).map_or(0, <[u8]>::len),
        fields: FLOWS.iter().filter_map(|(kind, name)| Some((*name, fields_of(*kind)?))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_device_is_told_of_the_kind_of_queues_that_it_has() {
        let apart = Channels { rx: 1, tx: 1, rx_max: 8, tx_max: 8, ..Channels::default() };
        assert_eq!(apart.with(4), Channels { rx: 4, tx: 4, ..apart });
        assert_eq!((apart.receiving(), apart.receiving_max()), (1, 8));
        let both = Channels { combined: 2, combined_max: 16, rx_max: 16, tx_max: 16, ..Channels::default() };
        assert_eq!(both.with(8), Channels { combined: 8, ..both });
        assert_eq!((both.receiving(), both.receiving_max()), (2, 16));
    }

    #[test]
    fn of_a_bitset_with_a_mask_only_the_bits_that_are_set_count() {
        let bit = |name: &[u8], is_set: bool| {
            let bit = Attributes::default().with_u32(1, 0).with(2, name);
            if is_set { bit.with(3, &[]) } else { bit }
        };
        let bits =
            Attributes::default().with_nested(1, &bit(b"on\0", true)).with_nested(1, &bit(b"off\0", false));
        let masked = Attributes::default().with_u32(2, 2).with_nested(3, &bits);
        assert_eq!(bitset(masked.as_bytes()), ["on".to_owned()].into());
        let list = Attributes::default().with(1, &[]).with_nested(3, &bits);
        assert_eq!(bitset(list.as_bytes()).len(), 2);
    }

    proptest! {
        #[test]
        fn any_answer_is_taken_apart_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (parse_channels(&bytes), parse_rings(&bytes), parse_features(&bytes), parse_rss(&bytes));
        }
    }
}
