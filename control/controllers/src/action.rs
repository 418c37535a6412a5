//! What controllers do, one write or one operation of address management each, and how it is done.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use caracal_datastore::{Datastore, DatastoreError};
use caracal_ipam::affinity::{self, AffinityError};
use caracal_ipam::release::{Release, ReleaseError};
use caracal_ipam::{
    AssignError, Attributes, AutoAssign, Key, Nanoseconds, Owner, Record, Store, StoreError, Use,
    assign_address, auto_assign, release_addresses,
};
use caracal_model::cidr::Cidr;
use caracal_model::object::{Object, ObjectKey};
use serde_json::Value;

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
    /// Give up a claim to a block, unless the API server knows the claimer after all.
    ReleaseBlock {
        /// Whose claim.
        owner: Owner,
        /// To which block.
        block: Cidr,
        /// Whether the claim stays while the block has addresses that are given.
        must_be_empty: bool,
        /// Who would still need it.
        unless: Option<Living>,
    },
    /// Give a service the addresses that it lacks.
    Assign(ServiceRequest),
}

/// An object that, while it is there, keeps something from being taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// Which.
    pub key: ObjectKey,
    /// Only this one, and none that was made anew under its name.
    pub uid: Option<String>,
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

/// `type`, in what blocks say of the owner of a service's address.
pub const LOAD_BALANCER_TYPE: &str = "loadBalancer";

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
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and so many addresses came back.
    Done {
        /// Addresses that came back.
        released: usize,
    },
    /// Things are no longer, or never were, as they looked: to be looked at again.
    Outdated,
}

const DONE: Outcome = Outcome::Done { released: 0 };

/// Now, as objects say it.
pub fn now() -> Nanoseconds {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanoseconds(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX))
}

/// Does it.
///
/// # Errors
/// [`ActionError`]; not when somebody else was quicker.
pub async fn execute(datastore: &Datastore, action: Action) -> Result<Outcome, ActionError> {
    let written = match action {
        Action::Create(object) => datastore.create(&object).await.map(drop),
        Action::Replace(object) => datastore.replace(&object).await.map(drop),
        Action::Patch(key, patch) => datastore.patch(&key, &patch).await.map(drop),
        Action::PatchStatus(key, patch) => match datastore.patch_status(&key, &patch).await {
            // A server that does not keep this kind's status apart.
            Err(error) if error.is_not_found() => datastore.patch(&key, &patch).await.map(drop),
            patched => patched.map(drop),
        },
        Action::Delete(object) => datastore.delete(&object.key(), Some(&object)).await,
        Action::Release { addresses, unless } => {
            if lives(datastore, unless.as_ref()).await? {
                return Ok(Outcome::Outdated);
            }
            let world = datastore.ipam_world(None, None).await?;
            return match release_addresses(&datastore.ipam(), &world, &addresses, now()).await {
                Ok(released) => Ok(Outcome::Done { released: released.addresses.len() }),
                Err(ReleaseError::NotYours { .. }) => Ok(Outcome::Outdated),
                Err(error) => Err(error.into()),
            };
        }
        Action::ReleaseBlock { owner, block, must_be_empty, unless } => {
            if lives(datastore, unless.as_ref()).await? {
                return Ok(Outcome::Outdated);
            }
            return match affinity::release(&datastore.ipam(), &owner, block, must_be_empty).await {
                Ok(()) => Ok(DONE),
                Err(AffinityError::NotEmpty(_)) => Ok(Outcome::Outdated),
                Err(error) => Err(error.into()),
            };
        }
        Action::Assign(request) => return assign(datastore, request).await,
    };
    match written {
        Ok(()) => Ok(DONE),
        Err(
            DatastoreError::Conflict { .. }
            | DatastoreError::AlreadyExists { .. }
            | DatastoreError::NotFound { .. },
        ) => Ok(Outcome::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Whether an object is there after all: what this process has been told may be behind.
async fn lives(datastore: &Datastore, living: Option<&Living>) -> Result<bool, DatastoreError> {
    let Some(Living { key, uid }) = living else { return Ok(false) };
    match datastore.get(key.kind, key.namespace.as_deref(), &key.name).await {
        Ok(object) => Ok(uid.is_none() || object.metadata().uid == *uid),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives what is missing: what the store has under the handle already, an earlier attempt has given.
async fn assign(datastore: &Datastore, request: ServiceRequest) -> Result<Outcome, ActionError> {
    let store = datastore.ipam();
    let world = datastore.ipam_world(None, Some(&request.namespace)).await?;
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
    let now = now();
    let owner = [
        ("namespace", request.namespace.clone()),
        ("service", request.name),
        ("timestamp", written_time(now)),
        ("type", LOAD_BALANCER_TYPE.to_owned()),
    ];
    let attributes = Attributes {
        handle: Some(request.handle),
        owner: owner.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..Attributes::default()
    };
    for wanted in request.addresses {
        if families.contains(&wanted.is_ipv4()) {
            continue;
        }
        let failed = |error| ActionError::Assign(service.clone(), error);
        match wanted {
            Wanted::Exactly(address) => {
                let usage = Some(Use::LoadBalancer);
                assign_address(&store, &world, address, &attributes, &load_balancer(), usage, now)
                    .await
                    .map_err(failed)?;
            }
            Wanted::Any { ipv4, pools } => {
                let wanted = AutoAssign {
                    v4: usize::from(ipv4),
                    v6: usize::from(!ipv4),
                    attributes: attributes.clone(),
                    owner: load_balancer(),
                    pools,
                    usage: Use::LoadBalancer,
                    // It is no host, and has as many blocks as services need unless the settings limit all.
                    max_blocks: u32::MAX,
                };
                let (v4, v6) = auto_assign(&store, &world, &wanted, now).await.map_err(failed)?;
                if let Some(short) = v4.short.or(v6.short) {
                    return Err(ActionError::Short(service, short));
                }
            }
        }
    }
    Ok(DONE)
}

/// A time as Calico's attributes write it.
fn written_time(now: Nanoseconds) -> String {
    let seconds = i64::try_from(now.0 / 1_000_000_000).unwrap_or(i64::MAX);
    let time = k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}
