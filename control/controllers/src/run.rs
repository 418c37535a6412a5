//! The process: follows the cluster, stands for election, and lets each controller act while it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use caracal_datastore::{Backoff, Datastore, DatastoreError, SyncEvent, Syncer, ipam_now};
use caracal_ipam::{Store, gc};
use caracal_model::calico::IPPool;
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Update};
use caracal_monitor::Logs;
use kube::Client;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::action::{Executor, Outcome};
use crate::cluster::FOLLOWED;
use crate::controller::{Controller, Now};
use crate::election::Timing;
use crate::lease::{Leadership, LeaseName, stand};
use crate::settings::{Overrides, Settings};
use crate::{Action, Cluster, Plan, all};

/// What has been written is given so long to come back before a controller looks again.
const SETTLE: Duration = Duration::from_millis(50);
/// How soon news is looked at after something has failed.
const RETRY_FOR_NEWS: Duration = Duration::from_secs(2);
/// How soon to look again at what turned out to be otherwise than it looked.
const OUTDATED: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// For how long what is under way at the end is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What the process is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Lease to stand for; none: there is no other process, it acts at once.
    pub lease: Option<LeaseName>,
    /// What it is called in the Lease; no other process is called so, now or ever.
    pub identity: String,
    /// For how long the Lease holds.
    pub timing: Timing,
    /// What the environment says.
    pub overrides: Overrides,
    /// What is logged, which the configuration says, too.
    pub logs: Logs,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease: Some(LeaseName::default()),
            identity: identity(),
            timing: Timing::default(),
            overrides: Overrides::default(),
            logs: Logs::unmanaged(),
        }
    }
}

/// The name that people know the process by (a pod's host is called as the pod), and what no other process is called.
fn identity() -> String {
    let unique = uuid::Uuid::new_v4();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{unique}", host.trim())
}

/// Why there are no controllers.
#[derive(Debug, thiserror::Error)]
pub enum ControllersError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] caracal_datastore::ClientError),
    /// It cannot be told where Calico's kinds are.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// The environment makes no sense.
    #[error(transparent)]
    Environment(#[from] crate::settings::EnvironmentError),
}

/// The process as others may look at it, while it runs. Clones look at the same.
#[derive(Debug, Clone)]
pub struct View {
    shared: Arc<Shared>,
}

/// What the process' tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    datastore: Datastore,
    cluster: RwLock<Cluster>,
    settings: RwLock<Settings>,
    in_sync: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    leadership: watch::Sender<Leadership>,
    collected: Mutex<Collected>,
}

/// What the collector of addresses has found and done.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Addresses that seem to be nobody's, with the nodes that they were given on.
    pub candidates: Vec<(IpAddr, Option<String>)>,
    /// Addresses that this process has taken back, by pool and node; either is empty where there is none.
    pub reclaimed: BTreeMap<(String, String), u64>,
}

impl View {
    /// A process for a cluster, which does nothing yet.
    #[must_use]
    pub fn new(datastore: Datastore, overrides: &Overrides) -> Self {
        Self {
            shared: Arc::new(Shared {
                datastore,
                cluster: RwLock::default(),
                settings: RwLock::new(Settings::new(None, overrides)),
                in_sync: watch::Sender::new(false),
                stopping: watch::Sender::new(false),
                leadership: watch::Sender::new(Leadership::None),
                collected: Mutex::default(),
            }),
        }
    }

    /// Looks at what the cluster holds. Nothing changes meanwhile: it is not to take long.
    pub fn with_cluster<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.shared.cluster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the controllers are told now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.shared.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether everything has been read once.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        *self.shared.in_sync.borrow()
    }

    /// Whether this process acts.
    #[must_use]
    pub fn leads(&self) -> bool {
        !*self.shared.stopping.borrow() && self.shared.leadership.borrow().is_at(Instant::now())
    }

    /// What the collector of addresses has found and done.
    #[must_use]
    pub fn collected(&self) -> Collected {
        self.shared.collected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, action: &Action) {
        let Action::Collect { action: gc::Action::ReleaseAddress { address, node, .. }, .. } = action else {
            return;
        };
        let pool = self.with_cluster(|cluster| {
            let mut pools = cluster.pools();
            let holds =
                |pool: &&IPPool| pool.spec.cidr.parse().is_ok_and(|cidr: Cidr| cidr.contains(*address));
            pools.find(holds).and_then(|pool| pool.metadata.name.clone()).unwrap_or_default()
        });
        let mut collected = self.shared.collected.lock().unwrap_or_else(PoisonError::into_inner);
        *collected.reclaimed.entry((pool, node.clone().unwrap_or_default())).or_default() += 1;
    }

    /// Takes changes; returns of which kinds they were, and whether something has gone.
    fn apply(&self, updates: Vec<Update>) -> BTreeSet<(Kind, bool)> {
        let mut kinds = BTreeSet::new();
        let mut cluster = self.shared.cluster.write().unwrap_or_else(PoisonError::into_inner);
        for update in updates {
            kinds.insert(match &update {
                Update::Upsert(object) => (object.kind(), false),
                Update::Delete(key) => (key.kind, true),
            });
            cluster.apply(update);
        }
        kinds
    }
}

/// Finds out where the cluster keeps Calico's kinds, for as long as that takes: the API server may come later, and so may
/// their definitions.
///
/// # Errors
/// The environment names no group.
pub async fn connect(client: Client) -> Result<Datastore, DatastoreError> {
    let mut backoff = Backoff::new(RETRY_FIRST, CONNECT_LIMIT);
    let mut said = String::new();
    loop {
        match Datastore::connect(client.clone(), None).await {
            Err(error) if error.is_passing() || matches!(error, DatastoreError::NoCalico) => {
                let text = error.to_string();
                if text != said {
                    warn!("{text}; trying again until it works");
                    said = text;
                }
            }
            found => return found,
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Runs the controllers until `stop` is done; then what is under way is brought to its end, and the Lease given back.
pub async fn run(view: View, options: Options, stop: impl Future<Output = ()>) {
    let shared = Arc::clone(&view.shared);
    let (end, ended) = oneshot::channel();
    // Of its own, and not the tasks': it goes on until those have ended. Dropped, it ends with the process.
    let mut election = JoinSet::new();
    match options.lease {
        Some(name) => {
            let client = shared.datastore.client().clone();
            let leadership = shared.leadership.clone();
            election.spawn(stand(client, name, options.identity, options.timing, leadership, ended));
        }
        None => drop(shared.leadership.send_replace(Leadership::Always)),
    }
    let mut tasks = JoinSet::new();
    let mut wakes = Vec::new();
    for make in all(shared.datastore.group()) {
        let wake = Arc::new(Notify::new());
        let controller = make();
        let (kinds, deletions_only) = (controller.kinds(), controller.is_woken_by_deletion_only());
        wakes.push(Wake { kinds, deletions_only, notify: Arc::clone(&wake) });
        tasks.spawn(drive(make, view.clone(), wake));
    }
    let follow = follow(&view, &options.overrides, &options.logs, &wakes);
    tokio::select! {
        () = follow => {}
        () = stop => {}
    }
    shared.stopping.send_replace(true);
    let joined = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END_TIMEOUT, joined).await.is_err() {
        // Something of ours may still be under way: the Lease is left to run out.
        warn!("what is under way takes too long; ending without giving the lease back");
        return;
    }
    // Without an election nobody hears it.
    let _ = end.send(());
    let _ = tokio::time::timeout(END_TIMEOUT, election.join_next()).await;
    info!("stopped");
}

/// Who is to look again when something has changed.
struct Wake {
    kinds: &'static [Kind],
    deletions_only: bool,
    notify: Arc<Notify>,
}

impl Wake {
    /// Whether it is to look, when objects of these kinds have changed, and gone if that is true.
    fn is_for(&self, changed: &BTreeSet<(Kind, bool)>) -> bool {
        changed.iter().any(|(kind, gone)| self.kinds.contains(kind) && (*gone || !self.deletions_only))
    }
}

/// Keeps what is known of the cluster, and tells those who look at it.
async fn follow(view: &View, overrides: &Overrides, logs: &Logs, wakes: &[Wake]) {
    let mut syncer = Syncer::start(&view.shared.datastore, FOLLOWED);
    while let Some(event) = syncer.next().await {
        let kinds = match event {
            SyncEvent::InSync => {
                if !view.shared.in_sync.send_replace(true) {
                    info!("everything in the API has been read");
                }
                continue;
            }
            SyncEvent::Updates(updates) => view.apply(updates),
        };
        let configured = kinds.iter().any(|(kind, _)| *kind == Kind::KubeControllersConfiguration);
        if configured {
            let new = view.with_cluster(|cluster| {
                Settings::new(cluster.configuration().map(|configuration| &configuration.spec), overrides)
            });
            logs.configure(Some(&new.log_severity));
            *view.shared.settings.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        for wake in wakes {
            if configured || wake.is_for(&kinds) {
                wake.notify.notify_one();
            }
        }
    }
}

/// Lets one controller act whenever this process leads.
async fn drive(make: fn() -> Box<dyn Controller>, view: View, wake: Arc<Notify>) {
    let shared = &view.shared;
    let mut stopping = shared.stopping.subscribe();
    let mut leadership = shared.leadership.subscribe();
    let mut in_sync = shared.in_sync.subscribe();
    loop {
        let reign = async {
            // The senders live as long as this task.
            let _ = in_sync.wait_for(|in_sync| *in_sync).await;
            let _ = leadership.wait_for(|leadership| leadership.is_at(Instant::now())).await;
        };
        tokio::select! {
            () = reign => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        act(make(), &view, &wake).await;
    }
}

/// Lets one controller act until this process no longer leads.
async fn act(mut controller: Box<dyn Controller>, view: &View, wake: &Notify) {
    let name = controller.name();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut said = BTreeSet::new();
    while view.leads() {
        let begun = Instant::now();
        let mut executor = Executor::new(&view.shared.datastore);
        let (mut failed, mut outdated) = (false, false);
        let records = match controller.reads_records() {
            true => view.shared.datastore.ipam().everything().await,
            false => Ok(Vec::new()),
        };
        let settings = view.settings();
        let now = Now { instant: Instant::now(), time: ipam_now() };
        let plan = match records {
            Ok(records) => view.with_cluster(|cluster| controller.plan(cluster, records, &settings, now)),
            Err(error) => {
                failed = true;
                Plan { problems: vec![error.to_string()], ..Plan::default() }
            }
        };
        // Who looks at much pauses for longer than that takes.
        let pause = begun.elapsed() * 10;
        if let Some(candidates) = plan.candidates {
            view.shared.collected.lock().unwrap_or_else(PoisonError::into_inner).candidates = candidates;
        }
        let mut problems: BTreeSet<String> = plan.problems.into_iter().collect();
        for action in plan.actions {
            // Looked at before each: what was begun in time may end late, and what begins late must not.
            if !view.leads() {
                return;
            }
            debug!("{name}: {action:?}");
            match executor.execute(&action).await {
                Ok(Outcome::Done) => view.count(&action),
                Ok(Outcome::Outdated) => outdated = true,
                Err(error) => {
                    failed = true;
                    problems.insert(error.to_string());
                }
            }
        }
        for problem in problems.difference(&said) {
            warn!("{name}: {problem}");
        }
        said = problems;
        let pause = pause.max(plan.pause).max(SETTLE);
        let (soonest, latest) = if failed {
            after_failure(pause, backoff.failed())
        } else {
            backoff.succeeded();
            (pause, if outdated { Some(OUTDATED.min(plan.again.unwrap_or(OUTDATED))) } else { plan.again })
        };
        sleep(soonest, view).await;
        tokio::select! {
            () = wake.notified() => {}
            () = sleep(latest.unwrap_or(Duration::MAX), view) => {}
        }
    }
}

/// After how long to look again when something failed: for news, and after that without any. What cannot be done for one
/// object must not keep others waiting until it is tried again.
fn after_failure(pause: Duration, retry: Duration) -> (Duration, Option<Duration>) {
    let soonest = pause.max(RETRY_FOR_NEWS).min(retry);
    (soonest, Some(retry - soonest))
}

/// Sleeps, but not beyond the time for which this process leads.
async fn sleep(duration: Duration, view: &View) {
    let mut stopping = view.shared.stopping.subscribe();
    let mut leadership = view.shared.leadership.subscribe();
    let ends = async {
        loop {
            let until = match *leadership.borrow_and_update() {
                Leadership::None => return,
                Leadership::Until(until) => Some(until),
                Leadership::Always => None,
            };
            tokio::select! {
                () = at(until) => return,
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = ends => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_for_the_lease_under_its_hosts_name_and_no_others() {
        let [one, other] = [Options::default().identity, Options::default().identity];
        assert!(one != other, "{one}");
        let output = std::process::Command::new("hostname").output().unwrap();
        let host = String::from_utf8(output.stdout).unwrap();
        assert!(one.starts_with(&format!("{}_", host.trim())), "{one} of {host}");
    }

    #[test]
    fn news_is_looked_at_however_long_what_failed_is_left_alone() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(after_failure(ms(100), s(60)), (RETRY_FOR_NEWS, Some(s(60) - RETRY_FOR_NEWS)));
        assert_eq!(after_failure(s(20), s(60)), (s(20), Some(s(40))), "who looks at much pauses for longer");
        assert_eq!(after_failure(s(20), ms(500)), (ms(500), Some(s(0))), "the first attempts come soon");
    }
}
