//! Watches: a cursor that walks the store's log.
//!
//! A watcher has no queue: it holds the revision up to which it has told everything, asks the log for what follows,
//! and waits for the next revision when there is nothing. So nothing is told twice, nothing is left out, and a
//! watcher costs the same however slow it is. One that is so slow that the log has forgotten where it stands is told
//! `410 Expired` in the stream, which makes its client list again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::kinds::Resource;
use crate::selector::Selection;
use crate::status::ApiError;
use crate::store::{Event, Range, Store, Stored};
use crate::table::Table;
use crate::view::View;

/// What one watcher asked for.
pub struct Watch {
    /// The row of the table.
    pub resource: Arc<Resource>,
    /// Where it looks.
    pub range: Range,
    /// What of that it wants.
    pub selection: Selection,
    /// How it wants it.
    pub view: View,
    /// What it knows already.
    pub start: Start,
    /// Whether it understands bookmarks.
    pub bookmarks: bool,
    /// When it wants to be told that it has seen everything there was at its start.
    pub mark_initial_end: bool,
    /// How long it wants to be told.
    pub timeout: Duration,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With all objects as they are now, as ADDED.
    Now,
    /// With the first change after this revision.
    Revision(u64),
}

/// A bookmark is sent when nothing has been told for so long.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// And so long before the end, so that the client goes on from there.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Changes in one piece of the answer, and bytes after which it ends: this bounds a watcher's memory.
const PIECE: usize = 64;
const PIECE_BYTES: usize = 128 << 10;

impl Watch {
    /// The answer's body: one JSON object a line.
    pub fn stream(
        self,
        store: Store,
        mut tables: watch::Receiver<Arc<Table>>,
        stop: watch::Receiver<bool>,
    ) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        let now = Instant::now();
        tables.mark_changed();
        let walk = Walk {
            tables,
            revisions: store.revisions(),
            deadline: now + self.timeout,
            next_bookmark: now + BOOKMARK_EVERY.min(self.timeout.saturating_sub(BOOKMARK_BEFORE_END)),
            over: false,
            header: true,
            step: Step::Begin,
            watch: self,
            store,
            stop,
        };
        futures::stream::unfold(walk, |mut walk| async {
            let piece = walk.next().await?;
            Some((Ok(Bytes::from(piece)), walk))
        })
    }

    /// What a change means to this watcher: an object may enter or leave its selection.
    fn seen(&self, event: &Event) -> Option<(&'static str, Value)> {
        let selected = |stored: &Arc<Stored>| self.selection.matches(&stored.value);
        let before = event.before.as_ref().filter(|before| selected(before));
        match (before, event.after.as_ref().filter(|after| selected(after))) {
            (None, None) => None,
            (None, Some(after)) => Some(("ADDED", after.value.clone())),
            (Some(_), Some(after)) => Some(("MODIFIED", after.value.clone())),
            // As it last was, at the revision that took it away.
            (Some(before), None) => {
                Some(("DELETED", Stored::new(before.value.clone(), event.revision).0.value))
            }
        }
    }
}

/// A watcher under way.
struct Walk {
    watch: Watch,
    store: Store,
    revisions: watch::Receiver<u64>,
    tables: watch::Receiver<Arc<Table>>,
    stop: watch::Receiver<bool>,
    deadline: Instant,
    next_bookmark: Instant,
    /// What is watched is no longer served.
    over: bool,
    /// A table names its columns in its first event only.
    header: bool,
    step: Step,
}

enum Step {
    Begin,
    /// The objects that there were at `revision`, from `next` on.
    Initial {
        objects: Vec<Arc<Stored>>,
        next: usize,
        revision: u64,
    },
    /// Everything up to this revision has been told.
    Follow(u64),
    End,
}

impl Walk {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            match std::mem::replace(&mut self.step, Step::End) {
                Step::Begin => match self.begin() {
                    Ok(step) => self.step = step,
                    Err(error) => return Some(line("ERROR", &error.status())),
                },
                Step::Initial { objects, next, revision } => {
                    let mut piece = String::new();
                    let mut taken = 0;
                    for stored in objects.iter().skip(next).take(PIECE) {
                        piece.push_str(&self.told("ADDED", &stored.value));
                        taken += 1;
                        if piece.len() >= PIECE_BYTES {
                            break;
                        }
                    }
                    let next = next + taken;
                    if next < objects.len() {
                        self.step = Step::Initial { objects, next, revision };
                        return Some(piece);
                    }
                    self.step = Step::Follow(revision);
                    let mark =
                        if self.watch.mark_initial_end { self.initial_end(revision) } else { String::new() };
                    let piece = piece + &mark;
                    if !piece.is_empty() {
                        return Some(piece);
                    }
                }
                Step::Follow(told) => match self.follow(told).await {
                    Followed::Piece(piece, told) => {
                        self.step = Step::Follow(told);
                        if !piece.is_empty() {
                            return Some(piece);
                        }
                    }
                    Followed::Last(piece) => return Some(piece),
                    Followed::End => return None,
                },
                Step::End => return None,
            }
        }
    }

    fn begin(&self) -> Result<Step, ApiError> {
        match self.watch.start {
            Start::Revision(revision) => Ok(Step::Follow(revision)),
            Start::Now => {
                let snapshot = self.store.list(&self.watch.range, None, None)?;
                let objects = snapshot.items.into_iter().map(|(_, stored)| stored);
                let objects = objects.filter(|stored| self.watch.selection.matches(&stored.value)).collect();
                Ok(Step::Initial { objects, next: 0, revision: snapshot.revision })
            }
        }
    }

    async fn follow(&mut self, told: u64) -> Followed {
        if *self.stop.borrow() {
            return Followed::End;
        }
        // Marks this revision as seen before reading, so that a change in between wakes us again.
        self.revisions.mark_unchanged();
        let events = match self.store.events(&self.watch.range, told, PIECE) {
            Ok(events) => events,
            Err(error) => return Followed::Last(line("ERROR", &expired(&error).status())),
        };
        if events.upto > told {
            let mut piece = String::new();
            let mut upto = events.upto;
            for event in &events.events {
                if let Some((what, object)) = self.watch.seen(event) {
                    piece.push_str(&self.told(what, &object));
                }
                if piece.len() >= PIECE_BYTES {
                    upto = event.revision;
                    break;
                }
            }
            if Instant::now() < self.deadline {
                return Followed::Piece(piece, upto);
            }
            return if piece.is_empty() { Followed::End } else { Followed::Last(piece) };
        }
        if self.over {
            return Followed::End;
        }
        tokio::select! {
            // What is watched is no longer served, or is something else now: everything that was is told, and no more.
            changed = self.tables.changed() => {
                let holds = changed.is_ok() && self.tables.borrow_and_update().holds(&self.watch.resource);
                self.over |= !holds;
                Followed::Piece(String::new(), told)
            }
            changed = self.revisions.changed() => match changed {
                Ok(()) => Followed::Piece(String::new(), told),
                Err(_) => Followed::End,
            },
            _ = self.stop.wait_for(|stop| *stop) => Followed::End,
            () = tokio::time::sleep_until(self.deadline) => Followed::End,
            () = tokio::time::sleep_until(self.next_bookmark), if self.watch.bookmarks => {
                let before_end = self.deadline - BOOKMARK_BEFORE_END.min(self.watch.timeout);
                let next = Instant::now() + BOOKMARK_EVERY;
                self.next_bookmark = match before_end {
                    end if end > Instant::now() => next.min(end),
                    _ => self.deadline + BOOKMARK_EVERY,
                };
                Followed::Piece(line("BOOKMARK", &self.watch.view.bookmark(&self.watch.resource, told)), told)
            }
        }
    }

    fn told(&mut self, what: &str, object: &Value) -> String {
        let header = std::mem::replace(&mut self.header, false);
        line(what, &self.watch.view.object(&self.watch.resource, object, header))
    }

    fn initial_end(&self, revision: u64) -> String {
        let mut bookmark = self.watch.view.bookmark(&self.watch.resource, revision);
        bookmark["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        line("BOOKMARK", &bookmark)
    }
}

enum Followed {
    /// Something to tell, or nothing, and how far it reaches.
    Piece(String, u64),
    /// Something to tell, and no more.
    Last(String),
    End,
}

/// In a stream, the future is as lost as the past: the store that made that revision is not this one. To a client
/// both mean: list again.
fn expired(error: &crate::store::ReadError) -> ApiError {
    ApiError {
        code: axum::http::StatusCode::GONE,
        reason: "Expired",
        details: None,
        ..ApiError::from(*error)
    }
}

fn line(what: &str, object: &Value) -> String {
    format!("{{\"type\":\"{what}\",\"object\":{object}}}\n")
}

#[cfg(test)]
mod tests;
