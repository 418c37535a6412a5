//! How a socket is to be bound, and why it could not be.

use std::io;

/// Whether the kernel copies packets between the device's memory and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// It does. Works on every device, and shares the domain's UMEM.
    #[default]
    Copy,
    /// The device reads and writes our memory, or binding fails. The socket registers the domain's memory a second time, because
    /// the mode of a shared UMEM is that of its first bind, which is the anchor's.
    ZeroCopy,
    /// Zero-copy if the device can, else copy.
    CopyOrZeroCopy,
}

/// The sizes of a socket's rings, powers of two, and how it transmits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Entries of the RX ring.
    pub rx: u32,
    /// Entries of the TX ring.
    pub tx: u32,
    /// Entries of the fill ring.
    pub fill: u32,
    /// Entries of the completion ring.
    pub completion: u32,
    /// Copy or zero-copy.
    pub mode: Mode,
    /// How many packets one system call may send (the kernel's default is 32); clamped to what the kernel takes.
    pub tx_budget: u32,
    /// Packets may span several frames, if the domain has it so. Many drivers have zero-copy without: binding then takes this off.
    pub multi_buffer: bool,
    /// Whoever polls the socket also does the device's receive work, up to so many packets a call, and its interrupts stay off meanwhile
    /// (SO_PREFER_BUSY_POLL); for a core that does nothing else. [`Socket::poll_device`] is the call.
    pub busy_poll: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rx: 2048,
            tx: 2048,
            fill: 2048,
            completion: 2048,
            mode: Mode::Copy,
            tx_budget: 2048,
            multi_buffer: true,
            busy_poll: None,
        }
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Ring sizes.
    #[error("{ring} ring of {entries} entries: ring sizes are powers of two, at least 2")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// As configured.
        entries: u32,
    },
    /// Somebody has it.
    #[error(
        "queue {queue} of device {ifindex} already has an AF_XDP socket of another domain or process; stop that one first"
    )]
    Busy {
        /// The device.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// No device.
    #[error("there is no device with index {ifindex} in this network namespace")]
    NoDevice {
        /// The device.
        ifindex: u32,
    },
    /// No queue, or bad flags.
    #[error("the kernel refuses queue {queue} of device {ifindex}: no such queue? (`ethtool -l` lists them)")]
    NoQueue {
        /// The device.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// No zero-copy.
    #[error("device {ifindex} has no zero-copy AF_XDP ({source}); use copy mode")]
    NoZeroCopy {
        /// The device.
        ifindex: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{doing} for queue {queue} of device {ifindex}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The device.
        ifindex: u32,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}
