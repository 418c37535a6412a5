//! Address management's store: blocks, affinities and handles, kept as Calico keeps them.
//!
//! ```text
//!   make     POST                              409: somebody else has, or what an interrupted removal left: finish it, POST
//!   change   PUT, of the version that was read                         409, 404: somebody else was quicker
//!   remove   PUT deleted: true, of the version that was read ──► DELETE, of that UID and version
//! ```
//!
//! A removal has happened once `deleted` is true: readers treat such an object as absent, and each of them finishes what
//! somebody who died has begun. What is changed is the object that was read: what we do not know of it stays.

mod json;
mod names;
mod world;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use caracal_ipam::{Affinity, Block, Key, Nanoseconds, Owner, Record, Store, StoreError, WriteError};
use caracal_model::object::{Kind, Object, ObjectError};
use kube::core::params::Preconditions;
use serde_json::{Value, json as value};
use tracing::{debug, warn};

use crate::datastore::{ApiGroup, Datastore};
use crate::error::DatastoreError;
pub use world::pool;

/// What blocks and affinities are dated with. A clock that jumps dates them wrongly; it never gives an address twice.
#[must_use]
pub fn now() -> Nanoseconds {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanoseconds(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX))
}

/// The thing that an object of the model is; `None`: it is marked as gone, is none of address management's, or makes no
/// sense, which is logged.
#[must_use]
pub fn record(object: &Object) -> Option<Record> {
    let kind = object.kind();
    if !matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle) {
        return None;
    }
    let value = object.to_value();
    if json::is_deleted(&value) {
        return None;
    }
    json::read(kind, &value).inspect_err(|why| warn!("{} makes no sense: {why}", object.key())).ok()
}

/// The object of the model that a thing is.
///
/// # Errors
/// It says something that such an object cannot.
pub fn object(record: &Record) -> Result<Object, ObjectError> {
    let (kind, name) = names::place(&record.key());
    let mut object = value!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": name},
    });
    json::write(&mut object, ApiGroup::V3, record);
    Object::from_value_lenient(object).map(|(object, _)| object)
}

/// The store that address management works on. Clones share the connections.
#[derive(Debug, Clone)]
pub struct IpamStore {
    datastore: Datastore,
}

/// An object as it was read.
#[derive(Debug, Clone)]
pub struct Stored(Arc<Value>);

impl IpamStore {
    pub(crate) fn new(datastore: Datastore) -> Self {
        Self { datastore }
    }

    /// The thing that an object is; none if it is marked as gone, which is then brought to its end.
    async fn living(
        &self,
        kind: Kind,
        name: &str,
        object: Value,
    ) -> Option<Result<(Record, Stored), String>> {
        if json::is_deleted(&object) {
            self.finish(kind, name, &object).await;
            return None;
        }
        Some(json::read(kind, &object).map(|record| (record, Stored(Arc::new(object)))))
    }

    /// Removes an object that is marked as gone. Whoever fails to leaves that to the next.
    async fn finish(&self, kind: Kind, name: &str, marked: &Value) {
        let field = |field: &str| marked.pointer(field).and_then(Value::as_str).map(str::to_owned);
        let only = Preconditions {
            uid: field("/metadata/uid"),
            resource_version: field("/metadata/resourceVersion"),
        };
        let doing = format!("removing {kind} {name}, which is marked as deleted");
        match self.datastore.delete_value(kind, None, name, only, &doing).await {
            // Somebody else was quicker.
            Ok(()) | Err(DatastoreError::NotFound { .. } | DatastoreError::Conflict { .. }) => {}
            Err(error) => debug!("{error}; the next who meets it does"),
        }
    }

    /// All things of a kind. What makes no sense is left out, and logged.
    async fn all(&self, kind: Kind) -> Result<Vec<(Record, Stored)>, StoreError> {
        let doing = format!("listing {}", kind.plural());
        let objects = self.datastore.list_values(kind, &doing).await.map_err(unanswered)?;
        let mut all = Vec::with_capacity(objects.len());
        for object in objects {
            let name =
                object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            match self.living(kind, &name, object).await {
                Some(Ok(thing)) => all.push(thing),
                Some(Err(why)) => warn!("{kind} {name} makes no sense: {why}; left alone"),
                None => {}
            }
        }
        Ok(all)
    }

    async fn make(&self, kind: Kind, name: &str, record: &Record) -> Result<(), WriteError> {
        let doing = format!("creating {kind} {name}");
        let resource = self.datastore.resource(kind);
        let mut object =
            value!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}});
        json::write(&mut object, self.datastore.group(), record);
        match self.datastore.create_value(kind, None, &object, &doing).await {
            Err(DatastoreError::AlreadyExists { .. }) => {}
            made => return made.map(drop).map_err(not_written),
        }
        // Somebody else's, or what is left of one that is gone.
        match self.datastore.get_value(kind, None, name, &doing).await {
            Ok(left) if json::is_deleted(&left) => self.finish(kind, name, &left).await,
            Ok(_) => return Err(WriteError::Conflict),
            Err(DatastoreError::NotFound { .. }) => {}
            Err(error) => return Err(not_written(error)),
        }
        self.datastore.create_value(kind, None, &object, &doing).await.map(drop).map_err(not_written)
    }

    async fn change(&self, kind: Kind, name: &str, read: &Stored, record: &Record) -> Result<(), WriteError> {
        let mut object = Value::clone(&read.0);
        json::write(&mut object, self.datastore.group(), record);
        let doing = format!("changing {kind} {name}");
        self.datastore.replace_value(kind, None, name, &object, &doing).await.map(drop).map_err(not_written)
    }

    async fn remove(&self, kind: Kind, name: &str, read: &Stored) -> Result<(), WriteError> {
        let mut object = Value::clone(&read.0);
        json::mark_deleted(&mut object, self.datastore.group(), kind);
        let doing = format!("marking {kind} {name} as deleted");
        let marked =
            self.datastore.replace_value(kind, None, name, &object, &doing).await.map_err(not_written)?;
        self.finish(kind, name, &marked).await;
        Ok(())
    }
}

impl Store for IpamStore {
    type Revision = Stored;

    async fn get(&self, key: &Key) -> Result<Option<(Record, Stored)>, StoreError> {
        let (kind, name) = names::place(key);
        let doing = format!("reading {kind} {name}");
        let object = match self.datastore.get_value(kind, None, &name, &doing).await {
            Ok(object) => object,
            Err(DatastoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unanswered(error)),
        };
        let nonsense = |why: String| {
            warn!("{kind} {name} makes no sense: {why}; left alone");
            StoreError::Nonsense(format!("{kind} {name} makes no sense: {why}"))
        };
        match self.living(kind, &name, object).await {
            None => Ok(None),
            Some(Err(why)) => Err(nonsense(why)),
            // A handle's name says less than its ID: what counts is the name, as for Calico.
            Some(Ok((record, _))) if kind != Kind::IPAMHandle && record.key() != *key => {
                Err(nonsense(format!("it is {:?}", record.key())))
            }
            Some(Ok(thing)) => Ok(Some(thing)),
        }
    }

    async fn affinities(&self, owner: &Owner) -> Result<Vec<(Affinity, Stored)>, StoreError> {
        let all = self.all(Kind::BlockAffinity).await?.into_iter();
        Ok(all
            .filter_map(|(record, stored)| match record {
                Record::Affinity(affinity) if affinity.owner == *owner => Some((affinity, stored)),
                _ => None,
            })
            .collect())
    }

    async fn blocks(&self) -> Result<Vec<(Block, Stored)>, StoreError> {
        let all = self.all(Kind::IPAMBlock).await?.into_iter();
        Ok(all
            .filter_map(|(record, stored)| match record {
                Record::Block(block) => Some((block, stored)),
                _ => None,
            })
            .collect())
    }

    async fn everything(&self) -> Result<Vec<Record>, StoreError> {
        let mut all = Vec::new();
        // What a handle counts and no block gives, or the other way round, must not come from reading them in the other
        // order: a handle counts before its block gives, and a block takes back before its handle counts less.
        for kind in [Kind::IPAMBlock, Kind::IPAMHandle, Kind::BlockAffinity] {
            all.extend(self.all(kind).await?.into_iter().map(|(record, _)| record));
        }
        Ok(all)
    }

    async fn swap(&self, key: &Key, expected: Option<Stored>, new: Option<Record>) -> Result<(), WriteError> {
        let (kind, name) = names::place(key);
        match (expected, new) {
            (None, Some(record)) => self.make(kind, &name, &record).await,
            (Some(read), Some(record)) => self.change(kind, &name, &read, &record).await,
            (Some(read), None) => self.remove(kind, &name, &read).await,
            (None, None) => match self.get(key).await? {
                None => Ok(()),
                Some(_) => Err(WriteError::Conflict),
            },
        }
    }
}

fn unanswered(error: DatastoreError) -> StoreError {
    StoreError::Unanswered(error.to_string())
}

fn not_written(error: DatastoreError) -> WriteError {
    match error {
        DatastoreError::AlreadyExists { .. }
        | DatastoreError::Conflict { .. }
        | DatastoreError::NotFound { .. } => WriteError::Conflict,
        error => WriteError::Store(unanswered(error)),
    }
}

#[cfg(test)]
mod tests;
