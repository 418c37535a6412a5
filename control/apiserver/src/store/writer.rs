//! The one writer: takes what is waiting, judges it in order, writes it in one transaction, shows it, answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::disk::{Disk, Write};
use super::state::{Event, Key, State, Stored};
use super::{Change, CommitError, Committed, Condition, OBJECT_MOST, Shared};

type Answer = oneshot::Sender<Result<Committed, CommitError>>;

/// A change and who asked for it.
pub struct Job {
    pub change: Change,
    pub answer: Answer,
}

/// Changes that share one fsync.
const BATCH: usize = 256;

/// Serves jobs until every [`super::Store`] handle is gone.
pub fn run(disk: &Disk, shared: &Shared, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = Batch::new(shared);
        batch.take(shared, first);
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.take(shared, job);
        }
        batch.finish(disk, shared);
    }
}

/// Changes that have been judged good and are not yet on disk. Later ones see earlier ones.
struct Batch {
    revision: u64,
    events: Vec<Event>,
    writes: Vec<Write>,
    /// Refusals wait as well: what stands in a change's way may itself not be on disk yet, and who is refused reads
    /// again and must find it.
    answers: Vec<(Answer, Result<Committed, CommitError>)>,
    /// The objects as these changes leave them.
    latest: BTreeMap<Key, Option<Arc<Stored>>>,
}

impl Batch {
    fn new(shared: &Shared) -> Batch {
        let revision = shared.state().revision();
        Batch {
            revision,
            events: Vec::new(),
            writes: Vec::new(),
            answers: Vec::new(),
            latest: BTreeMap::new(),
        }
    }

    fn len(&self) -> usize {
        self.answers.len()
    }

    fn get(&self, state: &State, key: &Key) -> Option<Arc<Stored>> {
        self.latest.get(key).cloned().unwrap_or_else(|| state.get(key))
    }

    fn holds(&self, state: &State, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => self.get(state, key).is_none(),
            Condition::Unchanged(key, revision) => {
                self.get(state, key).is_some_and(|stored| stored.revision == *revision)
            }
            Condition::NamespaceEmpty(namespace) => self.is_without(state, |key| key.namespace == *namespace),
            Condition::ResourceEmpty(resource) => self.is_without(state, |key| key.resource == *resource),
        }
    }

    /// Whether no object has a key like this.
    fn is_without(&self, state: &State, like: impl Fn(&Key) -> bool) -> bool {
        let added = self.latest.iter().any(|(key, now)| like(key) && now.is_some());
        !added && state.objects_where(like).all(|key| matches!(self.latest.get(key), Some(None)))
    }

    fn take(&mut self, shared: &Shared, job: Job) {
        let Job { change, answer } = job;
        let state = shared.state();
        if let Some(unmet) = change.conditions.iter().find(|condition| !self.holds(&state, condition)) {
            self.answers.push((answer, Err(CommitError::Unmet(unmet.clone()))));
            return;
        }
        let before = self.get(&state, &change.key);
        drop(state);
        let revision = self.revision + 1;
        let (after, object, write) = match (change.value, &before) {
            (Some(value), _) => {
                let (stored, json) = Stored::new(value, revision);
                if json.len() > OBJECT_MOST {
                    self.answers.push((answer, Err(CommitError::TooLarge(json.len()))));
                    return;
                }
                let stored = Arc::new(stored);
                (Some(Arc::clone(&stored)), stored, Some((revision, json)))
            }
            (None, Some(before)) => (None, Arc::new(Stored::new(before.value.clone(), revision).0), None),
            (None, None) => {
                self.answers.push((answer, Err(CommitError::Unmet(Condition::Unchanged(change.key, 0)))));
                return;
            }
        };
        self.revision = revision;
        self.latest.insert(change.key.clone(), after.clone());
        self.writes.push((change.key.clone(), write));
        self.events.push(Event { revision, key: change.key, before, after });
        self.answers.push((answer, Ok(Committed { object })));
    }

    fn finish(self, disk: &Disk, shared: &Shared) {
        let mut failed = None;
        if !self.events.is_empty() {
            match disk.write(&self.writes, self.revision) {
                Ok(()) => {
                    let mut state = shared.state.write().unwrap_or_else(|poisoned| poisoned.into_inner());
                    for event in self.events {
                        state.apply(event);
                    }
                    drop(state);
                    shared.revision.send_replace(self.revision);
                }
                Err(error) => {
                    let reason = error.to_string();
                    tracing::error!(%reason, "the store could not be written");
                    failed = Some(reason);
                }
            }
        }
        for (answer, outcome) in self.answers {
            let outcome = match &failed {
                Some(reason) => Err(CommitError::Disk(reason.clone())),
                None => outcome,
            };
            // The asker may have gone away; nobody else minds.
            let _ = answer.send(outcome);
        }
    }
}
