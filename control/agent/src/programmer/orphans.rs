//! Pinned pod programs whose veth is gone: what a CNI DEL that never came leaves behind.

use std::collections::BTreeSet;
use std::path::PathBuf;

use caracal_xsk::xdp::{XdpError, pod};
use tracing::{info, warn};

/// Sweeps one directory of pins.
#[derive(Debug)]
pub struct Orphans {
    bpf_dir: PathBuf,
    /// Looked orphaned the last time: whoever makes or removes a pod's link just then gets time to finish.
    suspects: BTreeSet<String>,
    said: Option<String>,
}

impl Orphans {
    /// A sweeper of `bpf_dir`, which need not exist.
    #[must_use]
    pub fn new(bpf_dir: PathBuf) -> Self {
        Self { bpf_dir, suspects: BTreeSet::new(), said: None }
    }

    /// Unpins what was an orphan the last time as well.
    pub fn sweep(&mut self) {
        if let Err(error) = self.try_sweep() {
            let error = error.to_string();
            if self.said.as_ref() != Some(&error) {
                warn!(bpf_dir = %self.bpf_dir.display(), "looking for pinned programs of pods that are gone: {error}");
                self.said = Some(error);
            }
        }
    }

    fn try_sweep(&mut self) -> Result<(), XdpError> {
        let mut orphans = BTreeSet::new();
        let mut failed = Ok(());
        for veth in pod::pinned(&self.bpf_dir)? {
            match pod::attachment(&self.bpf_dir, &veth) {
                Ok(Some(_)) => {}
                // No link in there: half of a pin.
                Ok(None) | Err(XdpError::NotPinned { .. }) => drop(orphans.insert(veth)),
                Err(error) => failed = Err(error),
            }
        }
        for veth in orphans.intersection(&self.suspects) {
            match pod::unpin(&self.bpf_dir, veth) {
                Ok(()) => info!(veth, "removed the pinned program of a pod that is gone"),
                Err(error) => failed = Err(error),
            }
        }
        self.suspects = orphans;
        failed
    }
}
