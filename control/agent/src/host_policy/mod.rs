//! Host endpoints' policy for what ends or starts on the host, and for what the kernel forwards: a table of nf_tables, which holds
//! whether or not we live (decision 9 in docs/architecture.md, and docs/decisions/0019-nftables.md).
//!
//! ```text
//!   ops ─► HostPolicy ─► render ─► Ruleset ─► one batch: all or nothing ─► table inet caracal
//!                                     └── compared every 10 s with what the kernel lists ──┘
//! ```
//!
//! The order: a change is handed here first and to the fastpath second, and neither waits for the other, because they judge different
//! packets: nothing passes through both. Nothing is done before the whole state is known, so that a restart leaves the table of the
//! agent before it in force until its own takes its place, in one step.

mod inputs;
mod kube_proxy;
mod render;
mod rules;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use caracal_nft::{Nft, NftError, Ruleset, Transaction};
use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

pub use inputs::HostPolicy;
pub use kube_proxy::KubeProxy;
pub use render::{ACCEPTED, Interfaces, TABLE, render};

use caracal_datastore::Backoff;

use crate::monitoring::Vitals;
use render::Bindings;

/// How often the kernel is looked at though nothing has happened.
const INTERVAL: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// The task that keeps the host's rules right.
#[derive(Debug)]
pub struct HostRules {
    policy: watch::Sender<Option<HostPolicy>>,
    attempts: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl HostRules {
    /// Starts it, for the network namespace of this thread. It does nothing before it is told the policy.
    ///
    /// # Errors
    /// The kernel has no netlink socket for us.
    pub fn start(vitals: Arc<Vitals>) -> Result<Self, NftError> {
        let keeper = Keeper::open()?;
        let (policy, to_make) = watch::channel(None);
        let (count, attempts) = watch::channel(0);
        Ok(Self { policy, attempts, task: tokio::spawn(run(keeper, to_make, count, vitals)) })
    }

    /// What the rules are to follow from, from now on.
    pub fn set(&self, policy: &HostPolicy) {
        self.policy.send_replace(Some(policy.clone()));
    }

    /// Tells when the rules have been worked on for the first time, whether or not that could be done.
    pub fn attempted(&self) -> impl Future<Output = ()> + use<> {
        let mut attempts = self.attempts.clone();
        async move {
            // Fails when the task is gone: nothing to wait for.
            let _ = attempts.wait_for(|count| *count > 0).await;
        }
    }
}

impl Drop for HostRules {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Removes the table; returns whether there was one.
///
/// # Errors
/// The kernel refused.
pub fn remove() -> Result<bool, NftError> {
    let mut nft = Nft::open()?;
    let existed = nft.list(TABLE)?.exists();
    if existed {
        nft.commit(&Transaction::remove(TABLE))?;
    }
    Ok(existed)
}

/// The kernel's table, and what is known of it.
#[derive(Debug)]
pub struct Keeper {
    nft: Nft,
    /// What was put there last; None: not known.
    holds: Option<Ruleset>,
    kube_proxy: Option<KubeProxy>,
    said_nowhere: BTreeSet<String>,
}

impl Keeper {
    /// A connection to nf_tables of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no netlink socket for us.
    pub fn open() -> Result<Keeper, NftError> {
        Ok(Keeper { nft: Nft::open()?, holds: None, kube_proxy: None, said_nowhere: BTreeSet::new() })
    }

    /// Brings the kernel's table to what `policy` asks for, with as little as that takes.
    ///
    /// # Errors
    /// The kernel refused; then the table is as it was.
    pub fn put(&mut self, policy: &HostPolicy) -> Result<(), NftError> {
        let interfaces = interfaces();
        let wanted = render(policy, &interfaces);
        self.say_nowhere(policy, &interfaces);
        if self.holds.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if let Some(held) = self.holds.take_if(|held| held.is_same_but_for_elements(&wanted)) {
            // When somebody has meddled with it, the whole table does it.
            if self.nft.commit(&Transaction::between(&held, &wanted)).is_ok() {
                self.holds = Some(wanted);
                return Ok(());
            }
        }
        self.holds = None;
        if wanted.is_empty() {
            self.nft.commit(&Transaction::remove(TABLE))?;
        } else {
            self.nft.commit(&Transaction::replace(&wanted))?;
            info!(
                rules = wanted.rule_count(),
                sets = wanted.sets.len(),
                "host endpoints' policy is in table inet {TABLE}"
            );
        }
        self.holds = Some(wanted);
        Ok(())
    }

    /// Looks whether the kernel still holds what was put there; what it does not is forgotten, so that it is put again.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn check(&mut self) -> Result<(), NftError> {
        let Some(holds) = &self.holds else { return Ok(()) };
        let listing = self.nft.list(TABLE)?;
        let difference = match holds.is_empty() {
            true => listing.exists().then(|| "it is there, without host endpoints".to_owned()),
            false => listing.difference(holds),
        };
        if let Some(difference) = difference {
            warn!("somebody else has changed table inet {TABLE}: {difference}; putting it right");
            self.holds = None;
        }
        Ok(())
    }

    /// Looks for a kube-proxy, and says so when what is seen is not what was.
    ///
    /// # Errors
    /// The kernel would not say.
    pub fn look_for_kube_proxy(&mut self) -> Result<(), NftError> {
        let seen = KubeProxy::look(&mut self.nft)?;
        if self.kube_proxy.as_ref() != Some(&seen) {
            if seen.places.is_empty() {
                info!("{seen}")
            } else {
                warn!("{seen}")
            }
            self.kube_proxy = Some(seen);
        }
        Ok(())
    }

    fn say_nowhere(&mut self, policy: &HostPolicy, interfaces: &Interfaces) {
        let nowhere: BTreeSet<String> =
            Bindings::of(policy, interfaces).nowhere.iter().map(|host| host.id.clone()).collect();
        for id in nowhere.difference(&self.said_nowhere) {
            warn!(
                "no interface here has the address of HostEndpoint {id}; its policy is in force on none until one has"
            );
        }
        self.said_nowhere = nowhere;
    }
}

/// Which interface holds which address, in this thread's network namespace.
fn interfaces() -> Interfaces {
    let all = getifaddrs().into_iter().flatten();
    let held = all.filter_map(|held| {
        let address = held.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        Some((v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))?, held.interface_name))
    });
    held.collect()
}

async fn run(
    keeper: Keeper,
    mut policy: watch::Receiver<Option<HostPolicy>>,
    attempts: watch::Sender<u64>,
    vitals: Arc<Vitals>,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut said = String::new();
    let mut again = Instant::now() + INTERVAL;
    let mut keeper = Some(keeper);
    vitals.host_rules_came_round("", Instant::now().into());
    loop {
        let is_change = tokio::select! {
            changed = policy.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            () = sleep_until(again) => false,
        };
        let Some(current) = policy.borrow_and_update().clone() else {
            vitals.host_rules_came_round("", Instant::now().into());
            again = Instant::now() + INTERVAL;
            continue;
        };
        // The kernel may take its time over a large table.
        let Some(mut at_work) = keeper.take() else { return };
        let worked = spawn_blocking(move || {
            let checked = if is_change { Ok(()) } else { at_work.check() };
            let mut done = checked.and_then(|()| at_work.put(&current));
            // There may be tens of thousands of others' chains to list.
            if done.is_ok() && !(is_change && at_work.kube_proxy.is_some()) {
                done = at_work.look_for_kube_proxy();
            }
            (at_work, done)
        });
        // The runtime is going away.
        let Ok((returned, done)) = worked.await else { return };
        keeper = Some(returned);
        let failure = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        vitals.host_rules_came_round(&failure, Instant::now().into());
        match done {
            Ok(()) => {
                said.clear();
                backoff.succeeded();
                again = Instant::now() + INTERVAL;
            }
            Err(_) => {
                // Said when it changes, not at every attempt.
                if failure != said {
                    error!(
                        "host endpoints' policy: {failure}; what was in force stays, trying again until it works"
                    );
                    said = failure;
                }
                again = Instant::now() + backoff.failed();
            }
        }
        attempts.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests;
