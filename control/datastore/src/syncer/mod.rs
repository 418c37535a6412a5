//! What the cluster holds, kept up to date over list and watch of the Kubernetes API.
//!
//! One task for each kind follows the API server; what it says becomes [`Update`]s. The invariant: an object is deleted
//! here only when the API server says so, by a DELETED event or by leaving it out of a complete list. While the server
//! is away, answers nonsense or forgets (410), everything known stays, and a new list is compared with it.

mod follow;
mod raw;
mod standing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caracal_model::object::{Kind, Update};
use futures::{FutureExt, StreamExt};
use kube::Api;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::{Backoff, Datastore, causes};
use follow::Follower;
use raw::Raw;
pub use standing::Standing;
use standing::Standings;

/// Changes that are taken from the API server's stream at once.
const BATCH: usize = 256;
/// Batches under way to whoever listens.
const QUEUE: usize = 64;
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// A server that is back is asked again within this; the first time after a failure in a fraction of [`RETRY_FIRST`].
const RETRY_LIMIT: Duration = Duration::from_secs(5);
/// An API server that has failed, and then for so long not again, answers: a watch without changes says nothing. Longer than a client
/// takes to see that it cannot connect.
const QUIET: Duration = Duration::from_secs(6);

/// What the syncer tells.
#[derive(Debug)]
pub enum SyncEvent {
    /// Objects have come, changed or gone.
    Updates(Vec<Update>),
    /// Every object of every kind has been told; from now on `Updates` are changes.
    InSync,
}

/// What a server answers where it does not serve a kind.
const NOT_FOUND: u16 = 404;

/// The tasks that follow the API server; dropped, they end.
#[derive(Debug)]
pub struct Syncer {
    events: mpsc::Receiver<Message>,
    /// Kinds whose first list is still to come.
    missing: Vec<Kind>,
    standings: Arc<Mutex<Standings>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
enum Message {
    Updates(Vec<Update>),
    Listed(Kind),
}

impl Syncer {
    /// Starts to follow some kinds. The cluster need not serve all of them.
    #[must_use]
    pub fn start(datastore: &Datastore, kinds: &[Kind]) -> Self {
        let (report, events) = mpsc::channel(QUEUE);
        let standings = Arc::new(Mutex::new(Standings::new(kinds)));
        let mut tasks = JoinSet::new();
        for &kind in kinds {
            let stand = stand(Arc::clone(&standings), kind);
            tasks.spawn(follow_kind(datastore.clone(), kind, report.clone(), stand));
        }
        Self { events, missing: kinds.to_vec(), standings, _tasks: tasks }
    }

    /// How well the API server is followed, and how often that began anew.
    #[must_use]
    pub fn standing(&self) -> (Standing, u64) {
        let standings = lock(&self.standings);
        (standings.overall(), standings.resyncs())
    }

    /// What comes next; `None` never comes while the syncer lives. Safe to cancel.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        loop {
            match self.events.recv().await? {
                Message::Updates(updates) => return Some(SyncEvent::Updates(updates)),
                Message::Listed(kind) => {
                    self.missing.retain(|missing| *missing != kind);
                    if self.missing.is_empty() {
                        return Some(SyncEvent::InSync);
                    }
                }
            }
        }
    }
}

/// How a kind's task says how it stands; it costs something only when that changes.
fn stand(standings: Arc<Mutex<Standings>>, kind: Kind) -> impl FnMut(Standing) {
    let mut said = Standing::Waiting;
    move |standing| {
        if said != standing {
            said = standing;
            lock(&standings).set(kind, standing);
        }
    }
}

fn lock(standings: &Mutex<Standings>) -> MutexGuard<'_, Standings> {
    standings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows one kind for ever.
async fn follow_kind(
    datastore: Datastore,
    kind: Kind,
    report: mpsc::Sender<Message>,
    mut stand: impl FnMut(Standing) + Send,
) {
    let resource = datastore.resource(kind);
    let api: Api<Raw> = Api::all_with(datastore.client().clone(), &resource);
    let name = name_of(&resource);
    let mut follower = Follower::new(kind, resource);
    let mut failure = String::new();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    // Not kube-rs' own back-off: that starts over at `Init`, which is said before the server is asked.
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    loop {
        let coming = match failure.is_empty() {
            true => Ok(stream.next().await),
            false => tokio::time::timeout(QUIET, stream.next()).await,
        };
        let first = match coming {
            Ok(Some(first)) => first,
            Ok(None) => return,
            Err(_) => {
                failure.clear();
                info!("following {name}: the API server answers again");
                stand(Standing::Following);
                continue;
            }
        };
        let mut updates = Vec::new();
        let mut listed = false;
        let mut pause = None;
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        backoff.succeeded();
                        if !std::mem::take(&mut failure).is_empty() {
                            info!("following {name}: the API server answers again");
                        }
                    }
                    let is_answer = !matches!(event, Event::Init);
                    let (more, complete) = follower.on(event);
                    if is_answer {
                        stand(if follower.is_listing() { Standing::Listing } else { Standing::Following });
                    }
                    updates.extend(more);
                    listed |= complete;
                }
                Err(error) => {
                    // Said when it changes, not at every attempt.
                    let text = causes(&error);
                    if text != failure {
                        if is_not_served(&error) {
                            info!(
                                "following {name}: the cluster does not serve them; going on without, until it does"
                            );
                            // There are none.
                            listed = true;
                            stand(Standing::Following);
                        } else {
                            stand(Standing::Waiting);
                            warn!("following {name}: {text}; keeping what is known, trying again");
                        }
                        failure = text;
                    }
                    pause = Some(backoff.failed());
                    break;
                }
            }
            // What is there already goes with it.
            next = if updates.len() < BATCH { stream.next().now_or_never().flatten() } else { None };
        }
        if !updates.is_empty() && report.send(Message::Updates(updates)).await.is_err() {
            return;
        }
        if listed && report.send(Message::Listed(kind)).await.is_err() {
            return;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

/// As people name a resource: `ippools.crd.projectcalico.org`.
fn name_of(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    }
}

/// Whether the API server does not know the kind. What is known of it stays all the same: when a kind is taken away, its
/// objects are deleted first, and that has been told.
fn is_not_served(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code == NOT_FOUND,
        _ => false,
    }
}
