//! Which processors threads run on.

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread on a processor, if one is named.
///
/// # Errors
/// There is no such processor, or it is not ours.
pub fn pin(core: Option<usize>) -> anyhow::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("there is no processor {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on processor {core}"))
}
