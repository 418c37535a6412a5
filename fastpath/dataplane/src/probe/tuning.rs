//! Queues and rings of a device, set when the operator asks for it, and put back at the end.
//!
//! Only by `--uplink-queues` and `--uplink-rings`: a real device loses its link for a moment when either changes, and the host's network is
//! not ours to interrupt unasked. What is put back is put back by a fastpath that ends in order; one that is killed leaves the device as it set
//! it, which carries packets all the same.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use tracing::{info, warn};

use super::ethtool::{Channels, Ethtool, Rings};
use super::netlink::{Conversation, Protocol};

/// What to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Queues that receive and send.
    pub queues: Option<u32>,
    /// Entries of each of the device's rings.
    pub rings: Option<u32>,
}

/// Why it could not be.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// No netlink.
    #[error("cannot ask the kernel by ethtool's netlink: {0}")]
    Netlink(#[source] io::Error),
    /// The kernel or the driver refuses.
    #[error("cannot {doing} of {name}: {source}; leave out {flag}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The device.
        name: String,
        /// The flag that asks for it.
        flag: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What has been changed of a device. Dropping it puts that back: after the last socket on it is closed.
#[derive(Debug)]
pub struct Tuning {
    kernel: Conversation,
    name: String,
    ifindex: u32,
    channels: Option<Channels>,
    rings: Option<Rings>,
}

/// A queue that a socket has just left is free a moment later.
const RESTORE_TRIES: u32 = 100;
const RESTORE_PAUSE: Duration = Duration::from_millis(2);

impl Tuning {
    /// Sets what is wanted of a device of the calling thread's network namespace; `None` if all of it is so already.
    ///
    /// # Errors
    /// When the device cannot; nothing is changed then.
    pub fn apply(name: &str, ifindex: u32, wanted: Wanted) -> Result<Option<Self>, TuningError> {
        if wanted == Wanted::default() {
            return Ok(None);
        }
        let kernel = Conversation::open(Protocol::Generic).map_err(TuningError::Netlink)?;
        let mut tuning = Tuning { kernel, name: name.into(), ifindex, channels: None, rings: None };
        if let Some(queues) = wanted.queues {
            tuning.set_queues(queues)?;
        }
        if let Some(entries) = wanted.rings {
            tuning.set_rings(entries)?;
        }
        Ok((tuning.channels.is_some() || tuning.rings.is_some()).then_some(tuning))
    }

    fn set_queues(&mut self, queues: u32) -> Result<(), TuningError> {
        let set = |ethtool: &mut Ethtool<'_>| {
            let before = ethtool.channels()?;
            let after = before.with(queues);
            if before == after {
                return Ok(None);
            }
            ethtool.set_channels(after).map(|()| Some(before))
        };
        let changed = self.ethtool().and_then(|mut ethtool| set(&mut ethtool));
        self.channels = changed.map_err(|source| TuningError::Refused {
            doing: format!("set {queues} queues"),
            name: self.name.clone(),
            flag: "--uplink-queues",
            source,
        })?;
        if let Some(before) = self.channels {
            info!(uplink = self.name, from = before.receiving(), to = queues, "queues are set");
        }
        Ok(())
    }

    fn set_rings(&mut self, entries: u32) -> Result<(), TuningError> {
        let set = |ethtool: &mut Ethtool<'_>| {
            let before = ethtool.rings()?;
            let after = Rings { rx: entries.min(before.rx_max), tx: entries.min(before.tx_max), ..before };
            if before == after {
                return Ok(None);
            }
            ethtool.set_rings(after).map(|()| Some(before))
        };
        let changed = self.ethtool().and_then(|mut ethtool| set(&mut ethtool));
        self.rings = changed.map_err(|source| TuningError::Refused {
            doing: format!("set rings of {entries} entries"),
            name: self.name.clone(),
            flag: "--uplink-rings",
            source,
        })?;
        if let Some(before) = self.rings {
            info!(uplink = self.name, from = before.rx, to = entries, "the device's rings are set");
        }
        Ok(())
    }

    fn ethtool(&mut self) -> io::Result<Ethtool<'_>> {
        Ethtool::of(&mut self.kernel, self.ifindex)
    }

    fn restore(&mut self) -> io::Result<()> {
        let (channels, rings) = (self.channels, self.rings);
        let mut ethtool = self.ethtool()?;
        if let Some(before) = channels {
            ethtool.set_channels(before)?;
        }
        match rings {
            Some(before) => ethtool.set_rings(before),
            None => Ok(()),
        }
    }
}

impl Drop for Tuning {
    fn drop(&mut self) {
        for _ in 0..RESTORE_TRIES {
            match self.restore() {
                Ok(()) => return,
                // The device is gone, and what was set with it.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return,
                Err(_) => sleep(RESTORE_PAUSE),
            }
        }
        warn!(uplink = self.name, "its queues and rings are not as they were before: the kernel refuses");
    }
}
