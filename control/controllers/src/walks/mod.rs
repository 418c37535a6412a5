//! Random walks: people and nodes change the cluster, its news arrive late and kind by kind, the process dies after any
//! action and another begins. When it is quiet again, the cluster is as an obvious function of what people wrote says.

mod host_endpoints;
mod load_balancer;
mod pools;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use caracal_ipam::affinity;
use caracal_ipam::release::ReleaseError;
use caracal_ipam::{
    Affinity, Block, Key, Nanoseconds, Owner, Record, Store, StoreError, World, WriteError, release_addresses,
};
use caracal_model::calico::{KubeControllersConfiguration, KubeControllersConfigurationSpec};
use caracal_model::object::{Kind, Object, ObjectKey, Update};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::ProptestConfig;
use serde_json::Value;

use crate::action::{ActionError, Living, assign, is_to_go};
use crate::controller::Now;
use crate::settings::{Overrides, Settings};
use crate::{Action, Cluster, Controller};

/// What the API server does, in memory, and address management's store on the same objects.
#[derive(Default)]
pub struct Api {
    objects: RefCell<BTreeMap<ObjectKey, Object>>,
    records: RefCell<BTreeMap<Key, (Record, u64)>>,
    version: RefCell<u64>,
    news: RefCell<BTreeMap<Kind, VecDeque<Update>>>,
}

/// So many cases, and ten times as many where time is no matter.
pub fn cases(usual: u32) -> ProptestConfig {
    let is_long = std::env::var_os("CARACAL_LONG").is_some();
    ProptestConfig { cases: if is_long { 10 * usual } else { usual }, ..ProptestConfig::default() }
}

/// A write was not made.
#[derive(Debug, PartialEq)]
pub struct Refused;

impl Api {
    fn next(&self) -> u64 {
        *self.version.borrow_mut() += 1;
        *self.version.borrow()
    }

    fn tell(&self, update: Update) {
        let kind = match &update {
            Update::Upsert(object) => object.kind(),
            Update::Delete(key) => key.kind,
        };
        self.news.borrow_mut().entry(kind).or_default().push_back(update);
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        self.objects.borrow().get(key).cloned()
    }

    pub fn all(&self, kind: Kind) -> Vec<Object> {
        self.objects.borrow().values().filter(|object| object.kind() == kind).cloned().collect()
    }

    pub fn create(&self, mut object: Object) -> Result<(), Refused> {
        let key = object.key();
        if self.objects.borrow().contains_key(&key) {
            return Err(Refused);
        }
        let version = self.next();
        let metadata = object.metadata_mut();
        metadata.uid = Some(format!("uid{version}"));
        let second = i64::try_from(version).unwrap();
        metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        self.put(key, object);
        Ok(())
    }

    fn put(&self, key: ObjectKey, mut object: Object) {
        let version = self.next();
        object.metadata_mut().resource_version = Some(version.to_string());
        let metadata = object.metadata();
        let is_held = metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if metadata.deletion_timestamp.is_some() && !is_held {
            self.objects.borrow_mut().remove(&key);
            self.tell(Update::Delete(key));
        } else {
            self.objects.borrow_mut().insert(key, object.clone());
            self.tell(Update::Upsert(object));
        }
    }

    pub fn replace(&self, object: Object) -> Result<(), Refused> {
        let key = object.key();
        let known = self.get(&key).ok_or(Refused)?;
        let expected = &object.metadata().resource_version;
        if expected.is_some() && *expected != known.metadata().resource_version {
            return Err(Refused);
        }
        self.put(key, object);
        Ok(())
    }

    pub fn patch(&self, key: &ObjectKey, patch: &Value) -> Result<(), Refused> {
        let known = self.get(key).ok_or(Refused)?;
        let mut value = known.to_value();
        for field in ["resourceVersion", "uid"] {
            let expected = patch.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
            if expected.is_some_and(|expected| value["metadata"][field] != expected) {
                return Err(Refused);
            }
        }
        merge(&mut value, patch);
        self.put(key.clone(), Object::from_value(value).unwrap());
        Ok(())
    }

    pub fn delete(&self, key: &ObjectKey) -> Result<(), Refused> {
        let mut object = self.get(key).ok_or(Refused)?;
        if object.metadata().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()) {
            object.metadata_mut().deletion_timestamp = Some(Time(Timestamp::from_second(1).unwrap()));
            self.put(key.clone(), object);
        } else {
            self.objects.borrow_mut().remove(key);
            self.tell(Update::Delete(key.clone()));
        }
        Ok(())
    }

    fn lives(&self, living: &Living) -> bool {
        let found = self.get(&living.key);
        found.is_some_and(|object| living.uid.is_none() || object.metadata().uid == living.uid)
    }

    /// What address management reads and does not write.
    pub fn world(&self) -> World {
        let pools = self.all(Kind::IPPool);
        World { pools: pools.iter().filter_map(caracal_datastore::ipam_pool).collect(), ..World::default() }
    }

    pub fn blocks_now(&self) -> Vec<Block> {
        let records = self.records.borrow();
        let blocks = records.values().filter_map(|(record, _)| match record {
            Record::Block(block) => Some(block.clone()),
            _ => None,
        });
        blocks.collect()
    }

    /// Does what a controller wants done.
    pub fn execute(&self, action: &Action, now: Nanoseconds) -> Result<(), Refused> {
        match action {
            Action::Create(object) => self.create(object.clone()),
            Action::Replace(object) => self.replace(object.clone()),
            Action::Patch(key, patch) | Action::PatchStatus(key, patch) => self.patch(key, patch),
            Action::Delete(object) => {
                let known = self.get(&object.key()).ok_or(Refused)?;
                let (seen, is) = (object.metadata(), known.metadata());
                if (&seen.uid, &seen.resource_version) != (&is.uid, &is.resource_version) {
                    return Err(Refused);
                }
                self.delete(&object.key())
            }
            Action::Release { addresses, unless } => {
                if unless.iter().any(|living| self.lives(living)) {
                    return Err(Refused);
                }
                match run(release_addresses(self, &self.world(), addresses, now)) {
                    Ok(_) => Ok(()),
                    Err(ReleaseError::NotYours { .. }) => Err(Refused),
                    Err(error) => panic!("{error}"),
                }
            }
            Action::ReleaseBlock { owner, block, pool: (name, uid) } => {
                let pool = self.get(&ObjectKey::new(Kind::IPPool, None, name)).ok_or(Refused)?;
                if !is_to_go(&pool, uid) {
                    return Err(Refused);
                }
                run(affinity::release(self, owner, *block, false)).unwrap();
                Ok(())
            }
            Action::Assign(request) => match run(assign(self, &self.world(), request, now)) {
                Ok(()) => Ok(()),
                Err(ActionError::Assign(..) | ActionError::Short(..)) => Err(Refused),
                Err(error) => panic!("{error}"),
            },
            Action::Collect { .. } => panic!("address management has walks of its own"),
        }
    }
}

impl Store for Api {
    type Revision = u64;

    async fn get(&self, key: &Key) -> Result<Option<(Record, u64)>, StoreError> {
        Ok(self.records.borrow().get(key).cloned())
    }

    async fn affinities(&self, owner: &Owner) -> Result<Vec<(Affinity, u64)>, StoreError> {
        let records = self.records.borrow();
        let of = records.values().filter_map(|(record, revision)| match record {
            Record::Affinity(affinity) if affinity.owner == *owner => Some((affinity.clone(), *revision)),
            _ => None,
        });
        Ok(of.collect())
    }

    async fn blocks(&self) -> Result<Vec<(Block, u64)>, StoreError> {
        let records = self.records.borrow();
        let blocks = records.values().filter_map(|(record, revision)| match record {
            Record::Block(block) => Some((block.clone(), *revision)),
            _ => None,
        });
        Ok(blocks.collect())
    }

    async fn everything(&self) -> Result<Vec<Record>, StoreError> {
        Ok(self.records.borrow().values().map(|(record, _)| record.clone()).collect())
    }

    async fn swap(&self, key: &Key, expected: Option<u64>, new: Option<Record>) -> Result<(), WriteError> {
        let known = self.records.borrow().get(key).cloned();
        if known.as_ref().map(|(_, revision)| *revision) != expected {
            return Err(WriteError::Conflict);
        }
        match new {
            Some(record) => {
                self.tell(Update::Upsert(caracal_datastore::ipam_object(&record).unwrap()));
                let version = self.next();
                self.records.borrow_mut().insert(key.clone(), (record, version));
            }
            None => {
                if let Some((record, _)) = &known {
                    self.tell(Update::Delete(caracal_datastore::ipam_object(record).unwrap().key()));
                }
                self.records.borrow_mut().remove(key);
            }
        }
        Ok(())
    }
}

/// RFC 7396.
fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let map = value.as_object_mut().unwrap();
    for (field, patch) in patch {
        if patch.is_null() {
            map.remove(field);
        } else {
            merge(map.entry(field.clone()).or_insert(Value::Null), patch);
        }
    }
}

/// Nothing here waits.
fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing to wait for"),
    }
}

/// A cluster, and the process that sees to it.
pub struct Walk<C> {
    pub api: Api,
    make: fn() -> C,
    controller: C,
    known: Cluster,
    elapsed: Duration,
    origin: Instant,
    /// Looks at each action before it is done.
    watch: fn(&Api, &Action),
}

impl<C: Controller> Walk<C> {
    pub fn new(make: fn() -> C, watch: fn(&Api, &Action)) -> Self {
        Self {
            api: Api::default(),
            make,
            controller: make(),
            known: Cluster::default(),
            elapsed: Duration::ZERO,
            origin: Instant::now(),
            watch,
        }
    }

    /// Up to so many pieces of news of one kind arrive.
    pub fn hear(&mut self, kind: Kind, count: usize) {
        let mut news = self.api.news.borrow_mut();
        let queue = news.entry(kind).or_default();
        for update in queue.drain(..count.min(queue.len())) {
            self.known.apply(update);
        }
    }

    pub fn hear_all(&mut self) {
        for kind in Kind::ALL {
            self.hear(*kind, usize::MAX);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.elapsed += time;
    }

    /// Looks, and does the first so many actions; then dies, if there are more.
    pub fn act(&mut self, survives: usize) -> usize {
        let now = Now {
            instant: self.origin + self.elapsed,
            time: Nanoseconds(1_767_225_600_000_000_000 + u64::try_from(self.elapsed.as_nanos()).unwrap()),
        };
        let settings = Settings::new(
            self.known.configuration().map(|configuration| &configuration.spec),
            &Overrides::default(),
        );
        let plan = self.controller.plan(&self.known, Vec::new(), &settings, now);
        for action in plan.actions.iter().take(survives) {
            (self.watch)(&self.api, action);
            // What is refused is looked at again.
            let _ = self.api.execute(action, now.time);
        }
        if plan.actions.len() > survives {
            self.die();
        }
        plan.actions.len()
    }

    /// Another process begins, and knows what it lists.
    pub fn die(&mut self) {
        self.controller = (self.make)();
        self.hear_all();
    }

    /// Everything arrives, until there is nothing left to do.
    pub fn rest(&mut self) {
        // Who waits for something does nothing meanwhile.
        let mut idle = 0;
        for _ in 0..100 {
            self.hear_all();
            self.pass(Duration::from_secs(1));
            idle = if self.act(usize::MAX) == 0 { idle + 1 } else { 0 };
            if idle == 3 {
                return;
            }
        }
        panic!("it never rests");
    }
}

/// The controllers' configuration, of nothing but this.
pub fn configuration(controllers: Value) -> Object {
    let spec: KubeControllersConfigurationSpec =
        serde_json::from_value(serde_json::json!({ "controllers": controllers })).unwrap();
    let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
    KubeControllersConfiguration { metadata, spec, status: None }.into()
}

pub fn object(manifest: Value) -> Object {
    Object::from_value(manifest).unwrap()
}
