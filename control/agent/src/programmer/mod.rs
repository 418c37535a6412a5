//! Kernel work: the host ports, the routes that lead to them, and the rule (decision 7 in docs/architecture.md).
//!
//! [`Inputs`] follow from what the calc graph says; [`KernelState::desired`] says what the kernel must hold for them;
//! the task here observes, compares and changes, at every change of the inputs, after a failure, and now and then in
//! case somebody else has changed something.

mod inputs;
mod kernel;
mod mtu_file;
mod orphans;
mod ports;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caracal_plane_api::NAT_PORTS;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info};

pub use inputs::{Destination, Inputs};
pub use kernel::{Kernel, KernelError};
pub use mtu_file::{MtuFile, MtuFileError};
pub use orphans::Orphans;
pub use ports::PortSet;
pub use state::{
    Change, KernelState, MAIN, ROUTE_PROTOCOL, RULE_PRIORITY, Route, Rule, Surroundings, TABLE, Tap, Via,
};

use caracal_datastore::Backoff;

use crate::monitoring::Vitals;

/// How often the kernel is looked at though nothing has happened.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often in a row it is looked at, as long as something is changed each time.
const ROUNDS: usize = 3;
/// So many ports at least are left for the host's own connections.
const LOCAL_PORTS_MIN: usize = 1024;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// The names of the host ports, as the calc graph tells the fastpath.
pub const HOST_PORTS: [&str; 2] = ["caracal0", "caracal1"];

/// What came of bringing the kernel to what inputs ask for.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// The changes made; none when all was so.
    pub changes: Vec<Change>,
    /// What could not be done, or does not fit. What else could be done has been.
    pub failures: Vec<KernelError>,
    /// How big pods' packets may be, once that is known.
    pub mtu: Option<u32>,
}

/// Brings the kernel to what `inputs` ask for.
pub async fn reconcile(kernel: &Kernel, inputs: &Inputs) -> Reconciled {
    let mut reconciled = Reconciled::default();
    if inputs.node.is_some()
        && let Err(failure) = bring(kernel, inputs, &mut reconciled).await
    {
        reconciled.failures.push(failure);
    }
    reconciled
}

async fn bring(kernel: &Kernel, inputs: &Inputs, reconciled: &mut Reconciled) -> Result<(), KernelError> {
    let (surroundings, misfits) = kernel.surroundings(inputs).await?;
    reconciled.failures = misfits;
    reconciled.mtu = Some(inputs.mtu.of_pods(surroundings.mtu));
    let mut desired = KernelState::desired(inputs, &surroundings);
    desired.sysctls.retain(|path, _| kernel::sysctl_exists(path));
    if let Some(local) = kernel::local_ports()
        && desired.reserved_ports.count_outside(&local) < LOCAL_PORTS_MIN.min(local.len())
    {
        // Translation that now and then wants a port of the host's own is bad; a host that can open no connection is worse.
        reconciled.failures.push(KernelError::no_ports_left(&desired.reserved_ports, &local));
        desired.reserved_ports = PortSet::default();
    }
    let ports: Vec<String> = desired.taps.keys().cloned().collect();
    // The kernel does more than it is asked: with a device's last address, for one, it removes the device's routes. So
    // look again after changing something.
    for _ in 0..ROUNDS {
        let observed = kernel.observe(&ports, desired.sysctls.keys()).await?;
        let changes = observed.changes_to(&desired);
        if changes.is_empty() {
            break;
        }
        let failures = make(kernel, &changes).await;
        reconciled.changes.extend(changes);
        if !failures.is_empty() {
            reconciled.failures.extend(failures);
            break;
        }
    }
    Ok(())
}

/// Removes everything that [`reconcile`] ever made in this network namespace; returns the changes made.
///
/// # Errors
/// What could not be removed. What else could be has been.
pub async fn clean_up(kernel: &Kernel) -> Result<Vec<Change>, Vec<KernelError>> {
    let observed =
        kernel.observe(&HOST_PORTS.map(str::to_owned), std::iter::empty()).await.map_err(|e| vec![e])?;
    let mut changes = observed.changes_to(&KernelState::default());
    let reserved = observed.reserved_ports.without(&NAT_PORTS);
    if reserved != observed.reserved_ports {
        changes.push(Change::ReservePorts(reserved));
    }
    let failures = make(kernel, &changes).await;
    if failures.is_empty() { Ok(changes) } else { Err(failures) }
}

/// Makes them all; returns what could not be made.
async fn make(kernel: &Kernel, changes: &[Change]) -> Vec<KernelError> {
    let mut failures = Vec::new();
    for change in changes {
        debug!("{change}");
        if let Err(failure) = kernel.make(change).await {
            failures.push(failure);
        }
    }
    failures
}

/// The task that keeps the kernel right.
#[derive(Debug)]
pub struct Programmer {
    inputs: watch::Sender<Inputs>,
    attempts: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Programmer {
    /// Starts it, for the network namespace of this thread. It does nothing before it is told the node, but to sweep
    /// `bpf_dir` of the pinned programs of pods that are gone. `mtu_file` will say how big pods' packets may be.
    ///
    /// # Errors
    /// The kernel has no netlink socket for us.
    pub fn start(bpf_dir: PathBuf, mtu_file: PathBuf, vitals: Arc<Vitals>) -> Result<Self, KernelError> {
        let kernel = Kernel::open()?;
        let (inputs, to_make) = watch::channel(Inputs::default());
        let (count, attempts) = watch::channel(0);
        let task =
            tokio::spawn(run(kernel, Orphans::new(bpf_dir), MtuFile::new(mtu_file), to_make, count, vitals));
        Ok(Self { inputs, attempts, task })
    }

    /// What the kernel's state is to follow from, from now on.
    pub fn set(&self, inputs: &Inputs) {
        self.inputs.send_if_modified(|current| {
            let differs = current != inputs;
            if differs {
                current.clone_from(inputs);
            }
            differs
        });
    }

    /// Tells when the kernel's state has been worked on for the first time, whether or not all of it could be done.
    pub fn attempted(&self) -> impl Future<Output = ()> + use<> {
        let mut attempts = self.attempts.clone();
        async move {
            // Fails when the task is gone: nothing to wait for.
            let _ = attempts.wait_for(|count| *count > 0).await;
        }
    }
}

impl Drop for Programmer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    kernel: Kernel,
    mut orphans: Orphans,
    mtu_file: MtuFile,
    mut inputs: watch::Receiver<Inputs>,
    attempts: watch::Sender<u64>,
    vitals: Arc<Vitals>,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut said = Vec::new();
    let mut again = Instant::now() + INTERVAL;
    let mut sweep = again;
    loop {
        tokio::select! {
            changed = inputs.changed() => if changed.is_err() { return },
            () = sleep_until(again) => {}
        }
        if sweep <= Instant::now() {
            orphans.sweep();
            sweep = Instant::now() + INTERVAL;
        }
        let current = inputs.borrow_and_update().clone();
        if current.node.is_none() {
            vitals.programmer_came_round(Instant::now().into());
            again = Instant::now() + INTERVAL;
            continue;
        }
        let begun = Instant::now();
        let reconciled = reconcile(&kernel, &current).await;
        let mut failures: Vec<String> = reconciled.failures.iter().map(ToString::to_string).collect();
        match reconciled.mtu.map(|mtu| (mtu, mtu_file.set(mtu))) {
            Some((mtu, Ok(true))) => info!(mtu, "pods' MTU has changed"),
            Some((_, Err(failure))) => failures.push(failure.to_string()),
            Some((_, Ok(false))) | None => {}
        }
        vitals.programmed(&failures, begun.elapsed(), Instant::now().into());
        if failures.is_empty() {
            if !reconciled.changes.is_empty() {
                info!(
                    changes = reconciled.changes.len(),
                    "the kernel's host ports, routes and rules are as they must be"
                );
            }
            said.clear();
            backoff.succeeded();
            again = Instant::now() + INTERVAL;
        } else {
            // Said when they change, not at every attempt.
            if failures != said {
                for failure in &failures {
                    error!("{failure}; trying again until it works");
                }
                said = failures;
            }
            again = Instant::now() + backoff.failed();
        }
        attempts.send_modify(|count| *count += 1);
    }
}
