//! What the store holds in memory, as a plain data structure: objects, revision, log. No I/O, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

/// Where an object lives. Orders by resource, then namespace, then name: the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource with its group: `pods`, `networkpolicies.networking.k8s.io`.
    pub resource: String,
    /// Empty for what belongs to the cluster.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// An object at one revision.
#[derive(Debug, PartialEq)]
pub struct Stored {
    /// The change that wrote it.
    pub revision: u64,
    /// The object, with `metadata.resourceVersion` set to that revision.
    pub value: Value,
    /// Its length as JSON, for the log's bound.
    pub size: usize,
}

impl Stored {
    /// The object as of `revision`, with its JSON.
    pub fn new(mut value: Value, revision: u64) -> (Stored, Vec<u8>) {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
        }
        let json = value.to_string().into_bytes();
        (Stored { revision, value, size: json.len() }, json)
    }
}

/// One change, as watchers see it.
#[derive(Debug)]
pub struct Event {
    /// The revision that this change made.
    pub revision: u64,
    /// What changed.
    pub key: Key,
    /// As it was, unless it is new.
    pub before: Option<Arc<Stored>>,
    /// As it is, unless it was deleted.
    pub after: Option<Arc<Stored>>,
}

impl Event {
    fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        [&self.before, &self.after].into_iter().flatten().map(|stored| stored.size).sum::<usize>() + OVERHEAD
    }
}

/// One resource, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The resource with its group.
    pub resource: String,
    /// One namespace only.
    pub namespace: Option<String>,
}

impl Range {
    fn holds(&self, key: &Key) -> bool {
        key.resource == self.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// A consistent list.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision that it shows.
    pub revision: u64,
    /// The objects, in key order.
    pub items: Vec<(Key, Arc<Stored>)>,
}

/// A piece of the log.
#[derive(Debug)]
pub struct Events {
    /// The changes, oldest first.
    pub events: Vec<Arc<Event>>,
    /// Everything up to and with this revision has been looked at.
    pub upto: u64,
}

/// The past, or the future, cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The log no longer reaches back so far.
    #[error("the provided resource version is too old: {asked} (the oldest is {oldest})")]
    Expired {
        /// The revision asked for.
        asked: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// No such revision has been made.
    #[error("Too large resource version: {asked}, current: {current}")]
    Future {
        /// The revision asked for.
        asked: u64,
        /// The newest revision.
        current: u64,
    },
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Changes.
    pub events: usize,
    /// Bytes of the objects in them, as JSON.
    pub bytes: usize,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { events: 16 * 1024, bytes: 64 << 20 }
    }
}

/// Objects, revision, log.
pub struct State {
    objects: BTreeMap<Key, Arc<Stored>>,
    revision: u64,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    limits: LogLimits,
}

impl State {
    pub fn new(objects: BTreeMap<Key, Arc<Stored>>, revision: u64, limits: LogLimits) -> State {
        State { objects, revision, log: VecDeque::new(), log_bytes: 0, limits }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.objects.get(key).cloned()
    }

    /// The objects whose keys are like this.
    pub fn objects_where(&self, like: impl Fn(&Key) -> bool) -> impl Iterator<Item = &Key> {
        self.objects.keys().filter(move |key| like(key))
    }

    /// Takes the next change in. Its revision must be the next one.
    pub fn apply(&mut self, event: Event) {
        debug_assert_eq!(event.revision, self.revision + 1, "the log has no gaps");
        self.revision = event.revision;
        match &event.after {
            Some(stored) => self.objects.insert(event.key.clone(), Arc::clone(stored)),
            None => self.objects.remove(&event.key),
        };
        self.log_bytes += event.size();
        self.log.push_back(Arc::new(event));
        while self.log.len() > self.limits.events || self.log_bytes > self.limits.bytes {
            match self.log.pop_front() {
                Some(oldest) => self.log_bytes -= oldest.size(),
                None => break,
            }
        }
    }

    /// The oldest revision whose state can still be shown.
    fn oldest(&self) -> u64 {
        self.revision - self.log.len() as u64
    }

    /// How many changes of the log come at or before `revision`.
    fn position(&self, revision: u64) -> Result<usize, ReadError> {
        if revision > self.revision {
            return Err(ReadError::Future { asked: revision, current: self.revision });
        }
        let oldest = self.oldest();
        let position = revision.checked_sub(oldest).ok_or(ReadError::Expired { asked: revision, oldest })?;
        Ok(usize::try_from(position).unwrap_or(usize::MAX))
    }

    pub fn list(
        &self,
        range: &Range,
        at: Option<u64>,
        after: Option<(&str, &str)>,
    ) -> Result<Snapshot, ReadError> {
        let revision = at.unwrap_or(self.revision);
        let undone = self.log.range(self.position(revision)?..);

        let first = Key::new(range.resource.as_str(), range.namespace.as_deref().unwrap_or(""), "");
        let lower = match after {
            Some((namespace, name)) if (namespace, name) >= (first.namespace.as_str(), "") => {
                Bound::Excluded(Key::new(range.resource.as_str(), namespace, name))
            }
            _ => Bound::Included(first),
        };
        let mut items: BTreeMap<&Key, &Arc<Stored>> = self
            .objects
            .range((lower.clone(), Bound::Unbounded))
            .take_while(|(key, _)| range.holds(key))
            .collect();
        // The past is the present with the later changes undone, newest first.
        for event in undone.rev() {
            let wanted = match &lower {
                Bound::Excluded(key) => event.key > *key,
                _ => true,
            };
            if wanted && range.holds(&event.key) {
                match &event.before {
                    Some(stored) => items.insert(&event.key, stored),
                    None => items.remove(&event.key),
                };
            }
        }
        Ok(Snapshot {
            revision,
            items: items.into_iter().map(|(key, stored)| (key.clone(), Arc::clone(stored))).collect(),
        })
    }

    pub fn events(&self, range: &Range, revision: u64, most: usize) -> Result<Events, ReadError> {
        let mut events = Vec::new();
        let mut upto = revision;
        for event in self.log.range(self.position(revision)?..) {
            if events.len() == most {
                break;
            }
            upto = event.revision;
            if range.holds(&event.key) {
                events.push(Arc::clone(event));
            }
        }
        Ok(Events { events, upto })
    }
}
