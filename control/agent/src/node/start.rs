//! The task that sees to this node's start, and that the node stays as a start leaves it.
//!
//! ```text
//!   the API group is known ─► ClusterInformation says the data may be used ─► defaults: tiers, configuration, pools     (once)
//!     ─► the Node object: its addresses ─► the file with its name ─► started                   (again whenever it lacks any)
//!     ─► tunnel addresses, by address management                              (again when pools, labels or annotations change)
//!     ─► in sync and forwarding: NetworkUnavailable is False
//! ```
//!
//! What fails is tried again until it works; what is there already is left. Nothing here is decided by the wall clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caracal_datastore::{Backoff, Datastore, DatastoreError, causes};
use caracal_model::calico::IPPool;
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Object, ObjectKey};
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::condition::{self, Network};
use super::defaults::{self, Change};
use super::detect::{Hints, Interface, Method};
use super::interfaces::{has_ipv6, interfaces, source_towards};
use super::record::{self, Annotations, RecordError};
use super::settings::Settings;
use super::tunnel::{self, TunnelError};
use crate::text_file;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// How often the host's addresses are looked at though nothing has happened.
const REVIEW: Duration = Duration::from_secs(60);
/// For an orderly end, the API server has no longer.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What begins the annotations that matter here.
const CALICO: &str = "projectcalico.org/";
const ANSWER: Duration = Duration::from_secs(30);

/// What a node's start must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the environment says.
    pub settings: Settings,
    /// The file that tells the CNI plugin the node's name.
    pub nodename_file: PathBuf,
    /// Whether the Node object is to say, at an orderly end, that new pods get no network.
    pub marks_down: bool,
}

/// What the agent has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// This node's object.
    pub node: Option<Arc<Node>>,
    /// Counts changes of what tunnel addresses come from.
    pub pools: u64,
    /// The fastpath has all, and forwards.
    pub forwarding: bool,
    /// The data is not to be used now.
    pub locked: bool,
}

/// How far the start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet; what it waits for.
    Waiting(String),
    /// The node's addresses are written.
    Started,
}

/// Why something of it could not be done.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("ClusterInformation default says datastoreReady: false; waiting until the data may be used")]
    Locked,
    #[error("cannot read this host's interfaces: {0}")]
    Interfaces(std::io::Error),
    #[error("cannot write this node's name to {path} (is its directory writable?): {error}")]
    File { path: String, error: std::io::Error },
    #[error("cannot write the condition NetworkUnavailable of Node {node}: {why}")]
    Condition { node: String, why: String },
}

/// The task; dropped, it ends.
#[derive(Debug)]
pub struct Start {
    node: Arc<str>,
    marks_down: bool,
    datastore: watch::Receiver<Option<Datastore>>,
    seen: watch::Sender<Seen>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl Start {
    /// Starts it for the node of this name. `datastore` comes when it is known how the cluster serves Calico's kinds.
    #[must_use]
    pub fn spawn(node: &str, config: Config, datastore: watch::Receiver<Option<Datastore>>) -> Self {
        let node: Arc<str> = node.into();
        let marks_down = config.marks_down;
        let (seen, to_see) = watch::channel(Seen::default());
        let waiting = "the API server has not said how it serves Calico's kinds".to_owned();
        let (report, progress) = watch::channel(Progress::Waiting(waiting));
        let task = tokio::spawn(run(Arc::clone(&node), config, datastore.clone(), to_see, report));
        Self { node, marks_down, datastore, seen, progress, task }
    }

    /// Tells it what has been seen.
    pub fn see(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    /// Tells it whether the fastpath forwards.
    pub fn see_forwarding(&self, forwarding: bool) {
        self.seen.send_if_modified(|seen| std::mem::replace(&mut seen.forwarding, forwarding) != forwarding);
    }

    /// How far it has come, now and later.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Says on the Node object that new pods get no network, if that is wanted and the API server is there.
    pub async fn last_words(&self) {
        self.task.abort();
        if !self.marks_down {
            return;
        }
        let (datastore, node) = (self.datastore.borrow().clone(), self.seen.borrow().node.clone());
        let Some((datastore, node)) = datastore.zip(node) else { return };
        let said = set_condition(&datastore, &self.node, &node, Network::Down);
        match timeout(LAST_WORDS, said).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("{error}"),
            Err(_) => warn!(
                "the API server does not answer; the Node object goes on saying that pods have a network"
            ),
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    name: Arc<str>,
    config: Config,
    mut datastore: watch::Receiver<Option<Datastore>>,
    mut seen: watch::Receiver<Seen>,
    report: watch::Sender<Progress>,
) {
    let Ok(datastore) = datastore.wait_for(Option::is_some).await.map(|datastore| datastore.clone()) else {
        return;
    };
    let Some(datastore) = datastore else { return };
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut tell = Tell { report, said: String::new() };
    while let Err(error) = cluster(&datastore, &config).await {
        tell.failed(&error);
        tokio::time::sleep(backoff.failed()).await;
    }
    backoff.succeeded();
    tell.waiting("there is no Node object of this node's name");
    let mut done = None;
    let mut review = true;
    loop {
        let current = seen.borrow_and_update().clone();
        let again = match current.node.as_ref().filter(|_| !current.locked) {
            Some(node) => match see_to(&datastore, &name, &config, node, &current, &mut done, review).await {
                Ok(()) => {
                    backoff.succeeded();
                    tell.started(&name);
                    Instant::now() + REVIEW
                }
                Err(error) => {
                    done = None;
                    tell.failed(&error);
                    Instant::now() + backoff.failed()
                }
            },
            None => Instant::now() + REVIEW,
        };
        tokio::select! {
            changed = seen.changed() => {
                if changed.is_err() {
                    return;
                }
                review = false;
            }
            () = sleep_until(again) => review = true,
        }
    }
}

/// Says things when they change, not at every attempt.
struct Tell {
    report: watch::Sender<Progress>,
    said: String,
}

impl Tell {
    fn failed(&mut self, error: &StartError) {
        let text = error.to_string();
        if self.said != text {
            warn!("this node's start: {text}; trying again until it works");
            self.said.clone_from(&text);
        }
        self.waiting(&text);
    }

    fn waiting(&self, what: &str) {
        self.report.send_if_modified(|progress| {
            // What has been so stays so: a failure later on takes nothing from the node.
            let changes = *progress != Progress::Started;
            if changes {
                *progress = Progress::Waiting(what.to_owned());
            }
            changes
        });
    }

    fn started(&mut self, node: &str) {
        self.said.clear();
        self.report.send_if_modified(|progress| {
            let is_new = *progress != Progress::Started;
            if is_new {
                info!(node, "this node has been started: its addresses are in its Node object");
                *progress = Progress::Started;
            }
            is_new
        });
    }
}

/// Sees that the cluster has what every cluster has.
async fn cluster(datastore: &Datastore, config: &Config) -> Result<(), StartError> {
    let key = ObjectKey::new(Kind::ClusterInformation, None, defaults::DEFAULT);
    let there = match datastore.get(key.kind, None, &key.name).await {
        Ok(Object::ClusterInformation(there)) => Some(there),
        Ok(_) => None,
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    if there.as_ref().is_some_and(|there| there.spec.datastore_ready == Some(false)) {
        return Err(StartError::Locked);
    }
    let guid = uuid::Uuid::new_v4();
    let settings = &config.settings;
    match defaults::cluster_information(there.as_deref(), &settings.cluster_type, &guid.simple().to_string())
    {
        Change::Create(object) => create(datastore, &object).await?,
        Change::Patch(patch) => drop(datastore.patch(&key, &patch).await?),
        Change::Nothing => {}
    }
    for object in defaults::objects() {
        let key = object.key();
        match datastore.get(key.kind, None, &key.name).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => create(datastore, &object).await?,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(wanted) = &settings.pools {
        let there: Vec<IPPool> = datastore.list(Kind::IPPool).await?.into_iter().filter_map(pool).collect();
        let own: Vec<Cidr> =
            interfaces().await.map_err(StartError::Interfaces)?.iter().flat_map(networks).collect();
        for object in defaults::pools(wanted, &there, &own, guid.as_u64_pair().1, has_ipv6()) {
            create(datastore, &object).await?;
        }
    }
    Ok(())
}

fn pool(object: Object) -> Option<IPPool> {
    match object {
        Object::IPPool(pool) => Some(*pool),
        _ => None,
    }
}

fn networks(interface: &Interface) -> impl Iterator<Item = Cidr> {
    interface.addresses.iter().filter_map(|(address, length)| Cidr::new(*address, *length).ok())
}

/// Makes an object; who was quicker has made the same.
async fn create(datastore: &Datastore, object: &Object) -> Result<(), StartError> {
    match datastore.create(object).await {
        Ok(_) => {
            info!("made {}", object.key());
            Ok(())
        }
        Err(DatastoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a look at the node depended on.
#[derive(Debug, PartialEq)]
struct Looked {
    uid: Option<String>,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    addresses: Vec<NodeAddress>,
    /// By type; not their times, which change all the time.
    conditions: BTreeMap<String, String>,
    pools: u64,
    forwarding: bool,
}

impl Looked {
    fn at(node: &Node, seen: &Seen) -> Self {
        let metadata = &node.metadata;
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        Self {
            uid: metadata.uid.clone(),
            annotations: metadata
                .annotations
                .iter()
                .flatten()
                .filter(|(key, _)| key.starts_with(CALICO))
                .map(|(key, text)| (key.clone(), text.clone()))
                .collect(),
            labels: metadata.labels.clone().unwrap_or_default(),
            addresses: status.and_then(|status| status.addresses.clone()).unwrap_or_default(),
            conditions: conditions.map(|found| (found.type_.clone(), found.status.clone())).collect(),
            pools: seen.pools,
            forwarding: seen.forwarding,
        }
    }
}

/// Sees that this node's object says what it must, and that the node has what follows from it. Does nothing if nothing
/// has changed since that was `done`, unless the host's addresses are to be reviewed.
async fn see_to(
    datastore: &Datastore,
    name: &str,
    config: &Config,
    node: &Node,
    seen: &Seen,
    done: &mut Option<Looked>,
    review: bool,
) -> Result<(), StartError> {
    let is_done = *done == Some(Looked::at(node, seen));
    if is_done && !review {
        return Ok(());
    }
    let mut node = node.clone();
    let wanted = addresses(datastore, config, &node).await?;
    annotate(datastore, &mut node, &wanted).await?;
    let path = &config.nodename_file;
    let file = |error| StartError::File { path: path.display().to_string(), error };
    if text_file::replace(path, name).map_err(file)? {
        info!(file = %path.display(), "wrote this node's name for the CNI plugin");
    }
    if is_done {
        // What follows from the Node object is looked at when it has changed, which the watch tells.
        return Ok(());
    }
    let wanted = tunnel::annotations(datastore, &node).await?;
    annotate(datastore, &mut node, &wanted).await?;
    if seen.forwarding {
        set_condition(datastore, name, &node, Network::Up).await?;
    }
    *done = Some(Looked::at(&node, seen));
    Ok(())
}

/// The addresses that the Node object lacks. All nodes are asked for only when there are any.
async fn addresses(datastore: &Datastore, config: &Config, node: &Node) -> Result<Annotations, StartError> {
    let settings = &config.settings;
    let interfaces = interfaces().await.map_err(StartError::Interfaces)?;
    let hints = async |ipv4: bool| Hints {
        source: match &settings.family(ipv4).method {
            Method::CanReach(whom) => source_towards(whom, ipv4).await,
            _ => None,
        },
        internal: internal_address(node, ipv4),
    };
    let (v4, v6) = (hints(true).await, hints(false).await);
    let decide = |others: &[Node]| {
        record::annotations(settings, node, others, &interfaces, |ipv4| if ipv4 { v4 } else { v6 })
    };
    let wanted = decide(&[])?;
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let others: Vec<Node> = datastore.list(Kind::Node).await?.into_iter().filter_map(node_of).collect();
    Ok(decide(&others)?)
}

fn node_of(object: Object) -> Option<Node> {
    match object {
        Object::Node(node) => Some(*node),
        _ => None,
    }
}

fn internal_address(node: &Node, ipv4: bool) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?.iter();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    internal
        .filter_map(|address| address.address.parse::<IpAddr>().ok())
        .find(|address| address.is_ipv4() == ipv4)
}

/// Changes annotations of the Node, by its status as Calico does: a role that may write no more than that suffices.
async fn annotate(datastore: &Datastore, node: &mut Node, wanted: &Annotations) -> Result<(), StartError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let key = ObjectKey::new(Kind::Node, None, node.metadata.name.as_deref().unwrap_or_default());
    let changed = datastore.patch_status(&key, &record::patch(wanted)).await?;
    for (annotation, value) in wanted {
        info!("{key}: {annotation} is now {}", value.as_deref().unwrap_or("gone"));
    }
    if let Some(changed) = node_of(changed) {
        *node = changed;
    }
    Ok(())
}

async fn set_condition(
    datastore: &Datastore,
    name: &str,
    node: &Node,
    network: Network,
) -> Result<(), StartError> {
    // The only use of the wall clock: the field is for people to read.
    let Some(patch) = condition::patch(node, network, &Timestamp::now().to_string()) else { return Ok(()) };
    let api: Api<Node> = Api::all(datastore.client().clone());
    let failed = |why: String| StartError::Condition { node: name.to_owned(), why };
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    match timeout(ANSWER, api.patch_status(name, &params, &patch)).await {
        Ok(Ok(_)) => {
            info!(?network, "said on the Node object whether pods have a network");
            Ok(())
        }
        Ok(Err(error)) => Err(failed(causes(&error))),
        Err(_) => Err(failed("no answer".to_owned())),
    }
}
