//! What Kubernetes' API server and its controllers do for services: addresses, node ports, and slices of endpoints.
//!
//! ```text
//!   create, replace ──► complete ──► the store         one at a time: what is taken is read of the services that are
//!                                      │               stored, and nowhere else, so there is nothing to repair after a crash
//!   services, pods, slices, nodes ◄────┘
//!          └──► keep_slices: the slices that should be, against those that are and that are ours
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caracal_model::convert::{Locality, SERVICE_NAME};
use caracal_model::services::allocation::{Taken, allocate};
use caracal_model::services::slices::{MANAGED_BY, MANAGER, endpoint_slices, selects};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::MutexGuard;

use crate::App;
use crate::admission::{self, FieldValidation};
use crate::kinds::{self, Resource};
use crate::metadata;
use crate::status::ApiError;
use crate::store::{Change, CommitError, Committed, Condition, Key, Range, ReadError, Stored};

const SERVICES: &str = "services";
const PODS: &str = "pods";
const NODES: &str = "nodes";
const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Events that are looked at in one go.
const EVENTS: usize = 4096;

/// A service: namespace and name.
type Name = (String, String);

/// Waits until nobody else is giving a service its addresses; nothing for other resources.
pub async fn turn<'a>(app: &'a App, resource: &Resource) -> Option<MutexGuard<'a, ()>> {
    if is_service(resource) { Some(app.allocating.lock().await) } else { None }
}

fn is_service(resource: &Resource) -> bool {
    resource.is("", SERVICES)
}

/// Gives a service that is to be written what it does not say, and refuses what it may not have.
pub fn complete(
    app: &App,
    resource: &Resource,
    name: &str,
    object: &mut Value,
    former: Option<&Value>,
) -> Result<(), ApiError> {
    if !is_service(resource) {
        return Ok(());
    }
    let Some(mut service) = typed::<Service>(object) else { return Ok(()) };
    let own = (metadata::field(object, "namespace").to_owned(), name.to_owned());
    let mut taken = Taken::default();
    for (key, stored) in app.store.list(&all(SERVICES), None, None)?.items {
        if (key.namespace, key.name) != own {
            taken.add_stored(&stored.value);
        }
    }
    let former = former.and_then(typed::<Service>);
    let errors = allocate(&mut service, former.as_ref(), &taken, &app.ranges);
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, name, &errors));
    }
    if let Ok(spec) = serde_json::to_value(&service.spec) {
        object["spec"] = spec;
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(object: &Value) -> Option<T> {
    T::deserialize(object).ok()
}

fn all(resource: &str) -> Range {
    Range { resource: resource.to_owned(), namespace: None }
}

/// Keeps the slices of all services with selectors, in the background, until the server stops.
pub fn keep_slices(app: &Arc<App>) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let mut revisions = app.store.revisions();
        let mut stop = app.stop.clone();
        let mut seen = None;
        loop {
            revisions.mark_unchanged();
            match look(&app, seen).await {
                Ok(upto) => seen = Some(upto),
                // Everything is looked at again with the next change.
                Err(error) => {
                    tracing::error!(error = error.message, "the endpoints of services could not be written");
                    seen = None;
                }
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    });
}

/// Brings the slices of all services that changes after `seen` concern up to date; of all services, if that is not known.
/// Returns how far it has looked.
async fn look(app: &App, seen: Option<u64>) -> Result<u64, ApiError> {
    let now = app.store.revision();
    let concerned = match seen {
        Some(seen) => concerned(app, seen)?,
        None => None,
    };
    if concerned.as_ref().is_some_and(BTreeSet::is_empty) {
        return Ok(now);
    }
    let mut look = Look { app, zones: zones(app)?, namespaces: BTreeMap::new() };
    for (key, stored) in app.store.list(&all(SERVICES), None, None)?.items {
        let name = (key.namespace, key.name);
        if concerned.as_ref().is_none_or(|concerned| concerned.contains(&name)) {
            look.update(&name, typed(&stored.value)).await?;
        }
    }
    // Services that are gone leave their slices behind.
    let orphans = app.store.list(&all(SLICES), None, None)?.items;
    let orphans: BTreeSet<Name> =
        orphans.iter().filter_map(|(key, stored)| ours(key, &stored.value)).collect();
    for name in orphans {
        if app.store.get(&Key::new(SERVICES, name.0.as_str(), name.1.as_str())).is_none() {
            look.update(&name, None).await?;
        }
    }
    Ok(now)
}

/// The services that changes after `seen` concern; nothing when it may be any.
fn concerned(app: &App, seen: u64) -> Result<Option<BTreeSet<Name>>, ApiError> {
    let mut names = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for resource in [SERVICES, SLICES, PODS, NODES] {
        let mut from = seen;
        loop {
            let events = match app.store.events(&all(resource), from, EVENTS) {
                Ok(events) => events,
                Err(ReadError::Expired { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            for event in &events.events {
                match resource {
                    SERVICES => drop(names.insert((event.key.namespace.clone(), event.key.name.clone()))),
                    SLICES => {
                        let both = [&event.before, &event.after].into_iter().flatten();
                        let of = both.filter_map(|stored| service_of(&event.key, &stored.value));
                        names.extend(of);
                    }
                    PODS => drop(namespaces.insert(event.key.namespace.clone())),
                    _ => return Ok(None),
                }
            }
            if events.upto <= from || events.events.len() < EVENTS {
                break;
            }
            from = events.upto;
        }
    }
    for namespace in namespaces {
        let range = Range { resource: SERVICES.to_owned(), namespace: Some(namespace) };
        let services = app.store.list(&range, None, None)?.items;
        names.extend(services.into_iter().map(|(key, _)| (key.namespace, key.name)));
    }
    Ok(Some(names))
}

fn zones(app: &App) -> Result<BTreeMap<String, String>, ApiError> {
    let nodes = app.store.list(&all(NODES), None, None)?.items;
    let here = nodes.iter().filter_map(|(_, stored)| Some(Locality::of(&typed::<Node>(&stored.value)?)));
    Ok(here.filter_map(|here| Some((here.node, here.zone?))).collect())
}

/// The service of a slice.
fn service_of(key: &Key, slice: &Value) -> Option<Name> {
    let name = slice.get("metadata")?.get("labels")?.get(SERVICE_NAME)?.as_str()?;
    (!name.is_empty()).then(|| (key.namespace.clone(), name.to_owned()))
}

/// The service of a slice that we have made.
fn ours(key: &Key, slice: &Value) -> Option<Name> {
    let manager = slice.get("metadata")?.get("labels")?.get(MANAGED_BY)?.as_str()?;
    (manager == MANAGER).then(|| service_of(key, slice)).flatten()
}

/// One look at the services, with what they have in common.
struct Look<'a> {
    app: &'a App,
    /// The nodes' zones.
    zones: BTreeMap<String, String>,
    namespaces: BTreeMap<String, Content>,
}

/// What services of a namespace are made of.
struct Content {
    pods: Vec<Pod>,
    /// By the service they are of.
    slices: BTreeMap<String, Vec<(Key, Arc<Stored>)>>,
}

impl Content {
    fn of(app: &App, namespace: &str) -> Result<Self, ApiError> {
        let within =
            |resource: &str| Range { resource: resource.to_owned(), namespace: Some(namespace.to_owned()) };
        let pods = app.store.list(&within(PODS), None, None)?.items;
        let mut slices: BTreeMap<String, Vec<(Key, Arc<Stored>)>> = BTreeMap::new();
        for (key, slice) in app.store.list(&within(SLICES), None, None)?.items {
            if let Some((_, service)) = service_of(&key, &slice.value) {
                slices.entry(service).or_default().push((key, slice));
            }
        }
        Ok(Self { pods: pods.iter().filter_map(|(_, stored)| typed(&stored.value)).collect(), slices })
    }
}

impl Look<'_> {
    /// Brings the slices of one service up to date. Somebody else's are left alone, and then it has none of ours.
    async fn update(&mut self, name: &Name, service: Option<Service>) -> Result<(), ApiError> {
        let (namespace, service_name) = name;
        let content = match self.namespaces.entry(namespace.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Content::of(self.app, namespace)?),
        };
        let all = content.slices.remove(service_name).unwrap_or_default();
        let (mine, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(key, slice)| ours(key, &slice.value).is_some());
        let mut desired = Vec::new();
        if let Some(service) = service.filter(|service| others.is_empty() && selects(service)) {
            let zone_of = |node: &str| self.zones.get(node).cloned();
            desired = endpoint_slices(&service, content.pods.iter(), zone_of);
            let owner = OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: service_name.clone(),
                uid: service.metadata.uid.unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            };
            for slice in &mut desired {
                slice.metadata.owner_references = Some(vec![owner.clone()]);
            }
        }
        let mut stored: BTreeMap<String, Arc<Stored>> =
            mine.into_iter().map(|(key, slice)| (key.name, slice)).collect();
        for slice in desired {
            let Ok(slice) = serde_json::to_value(&slice) else { continue };
            let own = metadata::field(&slice, "name").to_owned();
            write(self.app, namespace, &own, slice, stored.remove(&own).as_deref()).await?;
        }
        for (own, slice) in stored {
            let key = Key::new(SLICES, namespace.as_str(), own);
            let conditions = vec![Condition::Unchanged(key.clone(), slice.revision)];
            settle(self.app.store.commit(Change { key, conditions, value: None }).await)?;
        }
        Ok(())
    }
}

/// Writes a slice, unless it says what it said.
async fn write(
    app: &App,
    namespace: &str,
    name: &str,
    slice: Value,
    stored: Option<&Stored>,
) -> Result<(), ApiError> {
    let object = match admitted(namespace, slice, stored) {
        Ok(Some(object)) => object,
        Ok(None) => return Ok(()),
        Err(refusal) => {
            // The fault of one service, whose endpoints stay what they were; the others must not wait for it.
            let slice = format!("{namespace}/{name}");
            tracing::warn!(
                slice,
                reason = refusal.message,
                "a service's endpoints make no slice: mend the service"
            );
            return Ok(());
        }
    };
    let key = Key::new(SLICES, namespace, name);
    let condition = match stored {
        Some(stored) => {
            let said =
                |object: &Value| ["endpoints", "ports", "addressType"].map(|part| object.get(part).cloned());
            if said(&stored.value) == said(&object) {
                return Ok(());
            }
            Condition::Unchanged(key.clone(), stored.revision)
        }
        None => Condition::Absent(key.clone()),
    };
    let mut conditions = vec![condition];
    let living = crate::namespaces::key(namespace);
    match app.store.get(&living) {
        Some(found) if !crate::namespaces::is_terminating(&found.value) => {
            conditions.push(Condition::Unchanged(living, found.revision));
        }
        _ => return Ok(()),
    }
    settle(app.store.commit(Change { key, conditions, value: Some(object) }).await)
}

/// A slice as it is stored, if it is one that may be; nothing, if the server knows no slices.
fn admitted(namespace: &str, slice: Value, stored: Option<&Stored>) -> Result<Option<Value>, ApiError> {
    let Some(resource) = kinds::find("discovery.k8s.io", "v1", "endpointslices") else { return Ok(None) };
    let mut object = admission::decode(resource, Some(namespace), slice, FieldValidation::Ignore)?.object;
    match stored {
        Some(stored) => admission::update(resource, None, &stored.value, &mut object)?,
        None => admission::create(resource, &mut object)?,
    }
    Ok(Some(object))
}

/// A race that was lost is another change, and so another look.
fn settle(outcome: Result<Committed, CommitError>) -> Result<(), ApiError> {
    match outcome {
        Ok(_) | Err(CommitError::Unmet(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
