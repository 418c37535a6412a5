//! The store: every object, its revisions, and the recent changes.
//!
//! ```text
//!   commit(change) ──► writer thread ──► redb, one fsync a batch ──► State ──► answers, then watchers
//!   list, get, events ◄──────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - There is one revision counter. Each change takes the next number, so the log has no gaps, and an object's
//!   `metadata.resourceVersion` is the number of the change that wrote it.
//! - Nothing is visible, and nothing is answered, before it is on disk: what a reader has seen survives `kill -9`.
//! - Readers see whole states: `State` changes under one lock, a batch at a time.
//! - Memory for the past is bounded: the log forgets its oldest changes, and whoever still wants them is told
//!   [`ReadError::Expired`] and must list again. The log lives in memory only, so a restart forgets all of it.

mod disk;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub use disk::OpenError;
use state::State;
pub use state::{Event, Events, Key, LogLimits, Range, ReadError, Snapshot, Stored};
use writer::Job;

/// One write: put or delete the object under `key`, if all of `conditions` hold.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is written.
    pub key: Key,
    /// What must be so at the instant of the write.
    pub conditions: Vec<Condition>,
    /// The object to put, or nothing to delete.
    pub value: Option<Value>,
}

/// What a writer relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such object.
    Absent(Key),
    /// The object exists, and was last written by this revision.
    Unchanged(Key, u64),
    /// No object of any resource lives in this namespace.
    NamespaceEmpty(String),
    /// There is no object of this resource.
    ResourceEmpty(String),
}

/// A change was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The world is not as the writer thought: read again and decide again.
    #[error("{0:?} does not hold")]
    Unmet(Condition),
    /// The object is larger than any may be.
    #[error("the object would have {0} bytes, and {OBJECT_MOST} are the most")]
    TooLarge(usize),
    /// The disk has no room. The change was not made, unless the file cannot even be read again: then it may be found
    /// later.
    #[error("the disk that holds the data directory is full; writes go on when it has room ({0})")]
    Full(String),
    /// The disk refused. As with a full one, the change was not made, or may be found later.
    #[error("writing to the store failed: {0}; look at the disk that holds the data directory")]
    Disk(String),
    /// The store is shutting down.
    #[error("the store has stopped")]
    Stopped,
}

impl CommitError {
    fn of(error: &redb::Error) -> CommitError {
        let why = error.to_string();
        if disk::is_full(error) { CommitError::Full(why) } else { CommitError::Disk(why) }
    }

    /// The same, for another who waits.
    fn again(&self) -> CommitError {
        match self {
            CommitError::Full(why) => CommitError::Full(why.clone()),
            CommitError::Disk(why) => CommitError::Disk(why.clone()),
            other => CommitError::Disk(other.to_string()),
        }
    }
}

/// A made change.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The object as it now is; for a deletion, as it last was, carrying the deletion's revision.
    pub object: Arc<Stored>,
}

/// A handle on an open store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
    closed: watch::Receiver<bool>,
}

struct Shared {
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The largest object, as JSON.
pub const OBJECT_MOST: usize = 3 << 20;

/// Changes that may wait for the writer; beyond that, writers wait to be let in.
const QUEUE: usize = 1024;

impl Store {
    /// Opens, or makes, the store in `file`.
    pub fn open(file: &Path, limits: LogLimits) -> Result<Store, OpenError> {
        let (mut disk, objects, revision) = disk::Disk::open(file)?;
        let shared = Arc::new(Shared {
            state: RwLock::new(State::new(objects, revision, limits)),
            revision: watch::Sender::new(revision),
        });
        let (jobs, queue) = sync_channel(QUEUE);
        let for_writer = Arc::clone(&shared);
        let (close, closed) = watch::channel(false);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                writer::run(&mut disk, &for_writer, &queue);
                drop(disk);
                close.send_replace(true);
            })
            .map_err(OpenError::Thread)?;
        Ok(Store { shared, jobs, closed })
    }

    /// Makes one change, and returns once it is on disk and visible.
    pub async fn commit(&self, change: Change) -> Result<Committed, CommitError> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.clone();
        let job = Job { change, answer };
        // A full queue blocks, so a burst of writers waits off the async threads.
        let taken = match jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(job)) => {
                tokio::task::spawn_blocking(move || jobs.send(job).is_ok()).await.unwrap_or(false)
            }
            Err(TrySendError::Disconnected(_)) => false,
        };
        if !taken {
            return Err(CommitError::Stopped);
        }
        answered.await.unwrap_or(Err(CommitError::Stopped))
    }

    /// Gives up this handle, and waits until all others are given up and the file is let go.
    pub async fn close(self) {
        let Store { shared, jobs, mut closed } = self;
        drop((shared, jobs));
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.shared.state().revision()
    }

    /// One object as it is now.
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.shared.state().get(key)
    }

    /// The resources of which there is something in the namespace.
    pub fn resources_in(&self, namespace: &str) -> BTreeSet<String> {
        let state = self.shared.state();
        state.objects_where(|key| key.namespace == namespace).map(|key| key.resource.clone()).collect()
    }

    /// The objects of `range` after the position `after`, as they were at revision `at`, or as they are now.
    pub fn list(
        &self,
        range: &Range,
        at: Option<u64>,
        after: Option<(&str, &str)>,
    ) -> Result<Snapshot, ReadError> {
        self.shared.state().list(range, at, after)
    }

    /// The changes within `range` after `revision`, oldest first: at most `most`, and how far they reach.
    pub fn events(&self, range: &Range, revision: u64, most: usize) -> Result<Events, ReadError> {
        self.shared.state().events(range, revision, most)
    }

    /// Tells of each new revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }
}
