//! What the kernel says of a device's XDP (`linux/netdev.h`, generic family `netdev`, Linux 6.3).

use std::io;

use super::netlink::{Attributes, Conversation, find, number};

const FAMILY: &str = "netdev";
const DEV_GET: u8 = 1;

const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const XDP_ZC_MAX_SEGS: u16 = 4;
const XDP_RX_METADATA_FEATURES: u16 = 5;
const XSK_FEATURES: u16 = 6;

/// What a driver's XDP can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// `NETDEV_XDP_ACT_…`.
    pub actions: u64,
    /// Frames of one packet in zero-copy mode, at most; 0 or 1: one.
    pub zero_copy_segments: u64,
    /// `NETDEV_XDP_RX_METADATA_…`: what a program may ask of a received frame.
    pub rx_metadata: u64,
    /// `NETDEV_XSK_FLAGS_…`: what zero-copy sockets may ask of a frame to be sent.
    pub tx_metadata: u64,
}

const ACTIONS: [(u64, &str); 7] = [
    (1, "basic"),
    (2, "redirect"),
    (4, "ndo-xmit"),
    (8, "xsk-zerocopy"),
    (16, "hw-offload"),
    (32, "rx-sg"),
    (64, "ndo-xmit-sg"),
];
const RX_METADATA: [(u64, &str); 3] = [(1, "timestamp"), (2, "hash"), (4, "vlan-tag")];
const TX_METADATA: [(u64, &str); 3] = [(1, "tx-timestamp"), (2, "tx-checksum"), (4, "tx-launch-time-fifo")];

impl XdpFeatures {
    /// A program may run in the driver, and hand frames to sockets there.
    #[must_use]
    pub fn native(&self) -> bool {
        self.actions & 3 == 3
    }

    /// The driver reads and writes the memory of AF_XDP sockets.
    #[must_use]
    pub fn zero_copy(&self) -> bool {
        self.actions & 8 != 0
    }

    /// In zero-copy mode, too, a packet may span several frames.
    #[must_use]
    pub fn zero_copy_multi_buffer(&self) -> bool {
        self.zero_copy_segments > 1
    }

    /// A received packet may span several buffers.
    #[must_use]
    pub fn multi_buffer(&self) -> bool {
        self.actions & 32 != 0
    }

    /// A program may ask for the VLAN tag that the device has taken off.
    #[must_use]
    pub fn rx_vlan_tag(&self) -> bool {
        self.rx_metadata & 4 != 0
    }

    /// A program may ask for the hash that the device has made.
    #[must_use]
    pub fn rx_hash(&self) -> bool {
        self.rx_metadata & 2 != 0
    }

    /// Zero-copy sockets may leave checksums to the device.
    #[must_use]
    pub fn tx_checksum(&self) -> bool {
        self.tx_metadata & 2 != 0
    }

    /// The kernel's names for the four.
    #[must_use]
    pub fn names(&self) -> [Vec<&'static str>; 3] {
        [
            names(self.actions, &ACTIONS),
            names(self.rx_metadata, &RX_METADATA),
            names(self.tx_metadata, &TX_METADATA),
        ]
    }
}

fn names(bits: u64, known: &[(u64, &'static str)]) -> Vec<&'static str> {
    known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

/// Asks the kernel.
///
/// # Errors
/// What the kernel says; `NotFound`: it is too old to say anything.
pub fn xdp_features(kernel: &mut Conversation, ifindex: u32) -> io::Result<XdpFeatures> {
    let family = kernel.family(FAMILY)?;
    let answers = kernel.ask(family, DEV_GET, &Attributes::default().with_u32(IFINDEX, ifindex))?;
    answers.first().map(|answer| parse(answer)).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn parse(answer: &[u8]) -> XdpFeatures {
    let field = |kind| find(answer, kind).and_then(number).unwrap_or(0);
    XdpFeatures {
        actions: field(XDP_FEATURES),
        zero_copy_segments: field(XDP_ZC_MAX_SEGS),
        rx_metadata: field(XDP_RX_METADATA_FEATURES),
        tx_metadata: field(XSK_FEATURES),
    }
}
