//! The one writer: takes what is waiting, judges it in order, writes it in one transaction, shows it, answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;

use super::disk::{Disk, Write};
use super::state::{Event, Key, State, Stored};
use super::{Change, CommitError, Committed, Condition, OBJECT_MOST, Shared};

type Answer = oneshot::Sender<Result<Committed, CommitError>>;
type Answered = (Answer, Result<Committed, CommitError>);

/// A change and who asked for it.
pub struct Job {
    pub change: Change,
    pub answer: Answer,
}

/// Changes that share one fsync.
const BATCH: usize = 256;

/// Serves jobs until every [`super::Store`] handle is gone.
pub fn run(disk: &mut Disk, shared: &Shared, jobs: &Receiver<Job>) {
    let mut unsettled = None;
    while let Ok(first) = jobs.recv() {
        if let Some(lost) = unsettled.take() {
            unsettled = settle(disk, shared, lost);
        }
        if let Some(lost) = &unsettled {
            let _ = first.answer.send(Err(lost.error.again()));
            continue;
        }
        let mut batch = Batch::new(shared);
        batch.take(shared, first);
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.take(shared, job);
        }
        if let Err(lost) = batch.finish(disk, shared) {
            // Mostly it can be told at once what became of it.
            unsettled = settle(disk, shared, lost);
        }
    }
}

/// A write of which it is not known whether it is on disk. Nothing is written before that is known: what comes later must
/// not take its revisions, should it be there.
struct Unsettled {
    revision: u64,
    events: Vec<Event>,
    answers: Vec<Answered>,
    error: CommitError,
}

/// Finds out what became of a write; none: it is settled, and who waited for it has been told.
fn settle(disk: &mut Disk, shared: &Shared, mut lost: Box<Unsettled>) -> Option<Box<Unsettled>> {
    match disk.reopen() {
        Ok(found) if found == lost.revision => {
            tracing::warn!(revision = found, "a write that seemed to fail is on disk");
            show(shared, lost.events, found);
            for (answer, outcome) in lost.answers {
                let _ = answer.send(outcome);
            }
            None
        }
        Ok(found) if found == shared.state().revision() => {
            tracing::info!("the store can be written again");
            refuse(lost.answers, &lost.error);
            None
        }
        // Somebody has put another file there.
        Ok(found) => {
            lost.error = CommitError::Disk(format!(
                "the file holds revision {found}, and not {}; stop the server and look at it",
                shared.state().revision()
            ));
            refuse(std::mem::take(&mut lost.answers), &lost.error);
            Some(lost)
        }
        Err(error) => {
            lost.error = CommitError::of(&error);
            refuse(std::mem::take(&mut lost.answers), &lost.error);
            Some(lost)
        }
    }
}

/// Tells all that wait that a write failed; also those who were refused because of another in it.
fn refuse(answers: Vec<Answered>, error: &CommitError) {
    for (answer, _) in answers {
        let _ = answer.send(Err(error.again()));
    }
}

/// Shows what is on disk now.
fn show(shared: &Shared, events: Vec<Event>, revision: u64) {
    let mut state = shared.state.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    for event in events {
        state.apply(event);
    }
    drop(state);
    shared.revision.send_replace(revision);
}

/// Changes that have been judged good and are not yet on disk. Later ones see earlier ones.
struct Batch {
    revision: u64,
    events: Vec<Event>,
    writes: Vec<Write>,
    /// Refusals wait as well: what stands in a change's way may itself not be on disk yet, and who is refused reads
    /// again and must find it.
    answers: Vec<Answered>,
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

    fn finish(self, disk: &Disk, shared: &Shared) -> Result<(), Box<Unsettled>> {
        let Batch { revision, events, writes, answers, .. } = self;
        if !events.is_empty() {
            if let Err(error) = disk.write(&writes, revision) {
                tracing::error!(%error, "the store could not be written");
                let error = CommitError::of(&error);
                return Err(Box::new(Unsettled { revision, events, answers, error }));
            }
            show(shared, events, revision);
        }
        for (answer, outcome) in answers {
            // The asker may have gone away; nobody else minds.
            let _ = answer.send(outcome);
        }
        Ok(())
    }
}
