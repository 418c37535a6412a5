//! What controllers do, one write or one operation of address management each, and how it is done.

use std::net::IpAddr;

use caracal_datastore::{Datastore, DatastoreError, ipam_now};
use caracal_ipam::affinity::{self, AffinityError};
use caracal_ipam::release::{Release, ReleaseError};
use caracal_ipam::{
    AssignError, Attributes, AutoAssign, Key, Nanoseconds, Owner, Record, Store, StoreError, Use, World,
    assign_address, auto_assign, gc, release_addresses,
};
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Object, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::collector::as_far_as_addresses_go;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make an object.
    Create(Object),
    /// Replace an object by one that was read and changed, if it is still of that version.
    Replace(Object),
    /// Change some fields of an object. The patch names the version that it is for.
    Patch(ObjectKey, Value),
    /// The same of its status.
    PatchStatus(ObjectKey, Value),
    /// Delete exactly this object.
    Delete(Object),
    /// Take addresses back, unless the API server knows their owner after all.
    Release {
        /// Which, of whom, since when.
        addresses: Vec<Release>,
        /// Who would still have them.
        unless: Option<Living>,
    },
    /// Give up a claim to a block of a pool that is to go, empty or not, if the API server knows it as that.
    ReleaseBlock {
        /// Whose claim.
        owner: Owner,
        /// To which block.
        block: Cidr,
        /// The pool's name and UID.
        pool: (String, Option<String>),
    },
    /// Give a service the addresses that it lacks.
    Assign(ServiceRequest),
    /// What address management's collector has found, unless the API server knows one of these after all.
    Collect {
        /// What it says.
        action: gc::Action,
        /// Who would speak against it.
        unless: Vec<Living>,
    },
}

/// An object that, while it is there, keeps something from being taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// Which.
    pub key: ObjectKey,
    /// Only this one, and none that was made anew under its name.
    pub uid: Option<String>,
    /// Only while this pod has, or may have, this address, given on this node.
    pub address: Option<(IpAddr, Option<String>)>,
}

impl Living {
    /// Any object of this name.
    pub fn object(key: ObjectKey) -> Self {
        Self { key, uid: None, address: None }
    }
}

/// What a service lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRequest {
    /// Its namespace.
    pub namespace: String,
    /// What its addresses are released by.
    pub handle: String,
    /// What blocks say of its owner.
    pub name: String,
    /// One address each.
    pub addresses: Vec<Wanted>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Exactly(IpAddr),
    /// Any of a family.
    Any {
        /// Which family.
        ipv4: bool,
        /// Of these pools; none: of those that give on their own.
        pools: Vec<Cidr>,
    },
}

impl Wanted {
    fn is_ipv4(&self) -> bool {
        match self {
            Self::Exactly(address) => address.is_ipv4(),
            Self::Any { ipv4, .. } => *ipv4,
        }
    }
}

/// Who owns the blocks that services' addresses come from.
pub fn load_balancer() -> Owner {
    Owner::Virtual("load-balancer".to_owned())
}

/// `type`, in what blocks say of the owner of a service's address: the service's own, as Calico has it.
pub const LOAD_BALANCER_TYPE: &str = "LoadBalancer";

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// A request for an object.
    #[error(transparent)]
    Object(#[from] DatastoreError),
    /// Address management's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Addresses could not be given.
    #[error("service {0}: {1}")]
    Assign(String, AssignError),
    /// There were not enough.
    #[error("service {0}: {1}")]
    Short(String, caracal_ipam::assign::Short),
    /// Addresses could not be taken back.
    #[error("taking addresses back: {0}")]
    Release(#[from] ReleaseError),
    /// A claim could not be given up.
    #[error("giving up a block: {0}")]
    Affinity(#[from] AffinityError),
    /// What was found could not be mended.
    #[error("collecting what nobody has: {0}")]
    Collect(#[from] gc::GcError),
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Things are no longer, or never were, as they looked: to be looked at again.
    Outdated,
}

/// Does things, one after the other.
#[derive(Debug)]
pub struct Executor<'a> {
    datastore: &'a Datastore,
    /// Pools and settings, read once for all that is done together.
    world: Option<World>,
}

impl<'a> Executor<'a> {
    /// For what is done together, and soon.
    pub fn new(datastore: &'a Datastore) -> Self {
        Self { datastore, world: None }
    }

    /// Does one thing.
    ///
    /// # Errors
    /// [`ActionError`]; not when somebody else was quicker.
    pub async fn execute(&mut self, action: &Action) -> Result<Outcome, ActionError> {
        let datastore = self.datastore;
        let written = match action {
            Action::Create(object) => match datastore.create(object).await {
                // There is no such kind, which somebody must see to.
                Err(error) if error.is_not_found() => return Err(error.into()),
                created => created.map(drop),
            },
            Action::Replace(object) => datastore.replace(object).await.map(drop),
            Action::Patch(key, patch) => datastore.patch(key, patch).await.map(drop),
            Action::PatchStatus(key, patch) => match datastore.patch_status(key, patch).await {
                // A server that does not keep this kind's status apart.
                Err(error) if error.is_not_found() => datastore.patch(key, patch).await.map(drop),
                patched => patched.map(drop),
            },
            Action::Delete(object) => datastore.delete(&object.key(), Some(object)).await,
            Action::Assign(request) => {
                let world = datastore.ipam_world(None, Some(&request.namespace)).await?;
                assign(&datastore.ipam(), &world, request, ipam_now()).await?;
                return Ok(Outcome::Done);
            }
            Action::Release { unless, .. } if self.lives(unless.iter()).await? => {
                return Ok(Outcome::Outdated);
            }
            Action::Collect { unless, .. } if self.lives(unless.iter()).await? => {
                return Ok(Outcome::Outdated);
            }
            Action::Release { addresses, .. } => {
                let store = datastore.ipam();
                return match release_addresses(&store, self.world().await?, addresses, ipam_now()).await {
                    Ok(_) => Ok(Outcome::Done),
                    Err(ReleaseError::NotYours { .. }) => Ok(Outcome::Outdated),
                    Err(error) => Err(error.into()),
                };
            }
            Action::ReleaseBlock { owner, block, pool: (name, uid) } => {
                let found = match datastore.get(Kind::IPPool, None, name).await {
                    Err(error) if error.is_not_found() => return Ok(Outcome::Outdated),
                    found => found?,
                };
                if !is_to_go(&found, uid) {
                    return Ok(Outcome::Outdated);
                }
                affinity::release(&datastore.ipam(), owner, *block, false).await?;
                return Ok(Outcome::Done);
            }
            Action::Collect { action, .. } => {
                let store = datastore.ipam();
                let done = gc::perform(&store, self.world().await?, action, ipam_now()).await?;
                return Ok(if done { Outcome::Done } else { Outcome::Outdated });
            }
        };
        match written {
            Ok(()) => Ok(Outcome::Done),
            Err(
                DatastoreError::Conflict { .. }
                | DatastoreError::AlreadyExists { .. }
                | DatastoreError::NotFound { .. },
            ) => Ok(Outcome::Outdated),
            Err(error) => Err(error.into()),
        }
    }

    async fn world(&mut self) -> Result<&World, DatastoreError> {
        let world = match self.world.take() {
            Some(world) => world,
            None => self.datastore.ipam_world(None, None).await?,
        };
        Ok(self.world.insert(world))
    }

    /// Whether one of these is there after all: what this process has been told may be behind.
    async fn lives(&self, all: impl Iterator<Item = &Living>) -> Result<bool, DatastoreError> {
        for Living { key, uid, address } in all {
            let object = match self.datastore.get(key.kind, key.namespace.as_deref(), &key.name).await {
                Ok(object) => object,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let is_the_one = uid.is_none() || object.metadata().uid == *uid;
            let has = |(address, node): &(IpAddr, Option<String>)| match &object {
                Object::Pod(pod) => as_far_as_addresses_go(pod).may_have(*address, node.as_deref()),
                _ => true,
            };
            if is_the_one && address.as_ref().is_none_or(has) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether this is the pool of this UID, and it gives nothing any more because it is to go.
pub(crate) fn is_to_go(object: &Object, uid: &Option<String>) -> bool {
    let Object::IPPool(pool) = object else { return false };
    pool.metadata.uid == *uid
        && pool.metadata.deletion_timestamp.is_some()
        && pool.spec.disabled == Some(true)
}

/// Gives what is missing: what the store has under the handle already, an earlier attempt has given.
pub(crate) async fn assign<S: Store>(
    store: &S,
    world: &World,
    request: &ServiceRequest,
    now: Nanoseconds,
) -> Result<(), ActionError> {
    let mut families = Vec::new();
    if let Some((Record::Handle(handle), _)) = store.get(&Key::Handle(request.handle.clone())).await? {
        for cidr in handle.blocks.into_keys() {
            let Some((Record::Block(block), _)) = store.get(&Key::Block(cidr)).await? else { continue };
            if block.given().any(|(_, given)| given.handle.as_deref() == Some(request.handle.as_str())) {
                families.push(cidr.is_ipv4());
            }
        }
    }
    let service = format!("{}/{}", request.namespace, request.name);
    let owner = [
        ("namespace", request.namespace.clone()),
        ("service", request.name.clone()),
        ("timestamp", written_time(now)),
        ("type", LOAD_BALANCER_TYPE.to_owned()),
    ];
    let attributes = Attributes {
        handle: Some(request.handle.clone()),
        owner: owner.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..Attributes::default()
    };
    for wanted in &request.addresses {
        if families.contains(&wanted.is_ipv4()) {
            continue;
        }
        let failed = |error| ActionError::Assign(service.clone(), error);
        match wanted {
            Wanted::Exactly(address) => {
                let usage = Some(Use::LoadBalancer);
                assign_address(store, world, *address, &attributes, &load_balancer(), usage, now)
                    .await
                    .map_err(failed)?;
            }
            Wanted::Any { ipv4, pools } => {
                let wanted = AutoAssign {
                    v4: usize::from(*ipv4),
                    v6: usize::from(!*ipv4),
                    attributes: attributes.clone(),
                    owner: load_balancer(),
                    pools: pools.clone(),
                    usage: Use::LoadBalancer,
                    // It is no host, and has as many blocks as services need unless the settings limit all.
                    max_blocks: u32::MAX,
                };
                let (v4, v6) = auto_assign(store, world, &wanted, now).await.map_err(failed)?;
                if let Some(short) = v4.short.or(v6.short) {
                    return Err(ActionError::Short(service, short));
                }
            }
        }
    }
    Ok(())
}

/// The patch that adds a finalizer to an object's, or takes it away; others' stay.
pub fn finalizers(metadata: &ObjectMeta, finalizer: &str, add: bool) -> Value {
    let others = metadata.finalizers.iter().flatten().map(String::as_str).filter(|other| *other != finalizer);
    let all: Vec<&str> = others.chain(add.then_some(finalizer)).collect();
    // The UID: one that was made anew meanwhile is another.
    json!({"metadata": {"resourceVersion": metadata.resource_version, "uid": metadata.uid, "finalizers": all}})
}

/// A time as objects say it.
pub fn timestamp(time: Nanoseconds) -> String {
    instant(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as Calico's attributes write it.
fn written_time(time: Nanoseconds) -> String {
    instant(time).strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

fn instant(time: Nanoseconds) -> Timestamp {
    let seconds = i64::try_from(time.0 / 1_000_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or_default()
}
