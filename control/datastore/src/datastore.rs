//! Objects of the model, read and written in whichever API group the cluster keeps them.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use caracal_model::calico::{from_stored, stored_names, to_stored};
use caracal_model::object::{Kind, Object, ObjectKey};
use kube::Client;
use kube::core::params::{
    DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Request, Resource};
use serde_json::Value;
use tracing::warn;

use crate::error::DatastoreError;
use crate::ipam::IpamStore;

/// What has no answer by then has none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// Who changes objects, as their `managedFields` say.
const FIELD_MANAGER: &str = "caracal";
/// Names the group, where nobody else does.
const GROUP_VARIABLE: &str = "CALICO_API_GROUP";

/// The API group that a cluster keeps Calico's kinds in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApiGroup {
    /// `projectcalico.org/v3`, natively.
    V3,
    /// `crd.projectcalico.org/v1`, as stock Calico stores them behind its API server.
    Crd,
}

/// No group of Calico's kinds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API group of Calico's kinds; use projectcalico.org/v3 or crd.projectcalico.org/v1")]
pub struct UnknownGroup(String);

impl FromStr for ApiGroup {
    type Err = UnknownGroup;

    /// With or without the version.
    fn from_str(text: &str) -> Result<Self, UnknownGroup> {
        match text {
            "projectcalico.org" | "projectcalico.org/v3" => Ok(Self::V3),
            "crd.projectcalico.org" | "crd.projectcalico.org/v1" => Ok(Self::Crd),
            other => Err(UnknownGroup(other.to_owned())),
        }
    }
}

impl fmt::Display for ApiGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3 => "projectcalico.org/v3",
            Self::Crd => "crd.projectcalico.org/v1",
        })
    }
}

/// The cluster's objects. Clones share the connections.
#[derive(Clone)]
pub struct Datastore {
    client: Client,
    group: ApiGroup,
}

impl fmt::Debug for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datastore").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Datastore {
    /// The objects of a cluster whose group is known.
    #[must_use]
    pub fn new(client: Client, group: ApiGroup) -> Self {
        Self { client, group }
    }

    /// The objects of a cluster. Its group is the one that is named, else the one that `CALICO_API_GROUP` names, else the
    /// one that the cluster keeps address management's blocks in, which costs a request or two.
    ///
    /// # Errors
    /// The API server could not be asked; or it serves no such kinds, or the variable names none.
    pub async fn connect(client: Client, group: Option<ApiGroup>) -> Result<Self, DatastoreError> {
        let named = env::var(GROUP_VARIABLE).ok().filter(|name| !name.is_empty());
        let group = match (group, named) {
            (Some(group), _) => group,
            (None, Some(name)) => name.parse().map_err(|error: UnknownGroup| DatastoreError::Invalid {
                doing: format!("reading {GROUP_VARIABLE}"),
                why: error.to_string(),
            })?,
            (None, None) => detect(&client).await?,
        };
        Ok(Self::new(client, group))
    }

    /// What it asks with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where Calico's kinds are.
    #[must_use]
    pub fn group(&self) -> ApiGroup {
        self.group
    }

    /// Where objects of a kind are.
    #[must_use]
    pub fn resource(&self, kind: Kind) -> ApiResource {
        let (api_version, name, plural) = match (self.group, stored_names(kind)) {
            (ApiGroup::Crd, Some((name, plural))) => ("crd.projectcalico.org/v1", name, plural),
            _ => (kind.api_version(), kind.as_str(), kind.plural()),
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural)
    }

    /// The object of this name; `namespace` only for kinds that live in namespaces.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn get(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Object, DatastoreError> {
        let doing = format!("reading {}", ObjectKey::new(kind, namespace, name));
        let value = self.get_value(kind, namespace, name, &doing).await?;
        decode(kind, value, &doing)
    }

    /// All objects of a kind, of all namespaces. Those that make no sense are left out, and logged.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn list(&self, kind: Kind) -> Result<Vec<Object>, DatastoreError> {
        let doing = format!("listing {}", self.plural(kind));
        let values = self.list_values(kind, &doing).await?;
        let decoded = values.into_iter().map(|value| decode(kind, value, &doing));
        Ok(decoded.filter_map(|object| object.inspect_err(|error| warn!("{error}; left out")).ok()).collect())
    }

    /// Makes an object, and returns it as it was kept.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn create(&self, object: &Object) -> Result<Object, DatastoreError> {
        let key = object.key();
        let doing = format!("creating {key}");
        let value =
            self.create_value(key.kind, key.namespace.as_deref(), &self.stored(object), &doing).await?;
        decode(key.kind, value, &doing)
    }

    /// Replaces an object by one that was read and changed: only as long as it is still of the version that was read, if
    /// the object says which (`metadata.resourceVersion`). Fields that are unknown here are lost: a patch keeps them.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn replace(&self, object: &Object) -> Result<Object, DatastoreError> {
        let key = object.key();
        let doing = format!("replacing {key}");
        let value = self
            .replace_value(key.kind, key.namespace.as_deref(), &key.name, &self.stored(object), &doing)
            .await?;
        decode(key.kind, value, &doing)
    }

    /// Changes some fields of an object, by a merge patch (RFC 7396). A patch that has `metadata.resourceVersion` is made
    /// to that version only.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn patch(&self, key: &ObjectKey, patch: &Value) -> Result<Object, DatastoreError> {
        let doing = format!("patching {key}");
        let request = self.at(key.kind, key.namespace.as_deref()).patch(
            &key.name,
            &PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() },
            &Patch::Merge(patch),
        );
        decode(key.kind, self.send(request, &doing).await?, &doing)
    }

    /// The same of its status.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn patch_status(&self, key: &ObjectKey, patch: &Value) -> Result<Object, DatastoreError> {
        let doing = format!("patching the status of {key}");
        let request = self.at(key.kind, key.namespace.as_deref()).patch_subresource(
            "status",
            &key.name,
            &PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() },
            &Patch::Merge(patch),
        );
        decode(key.kind, self.send(request, &doing).await?, &doing)
    }

    /// Deletes an object: any of this name, or only the one that was read, when `only` says which.
    ///
    /// # Errors
    /// [`DatastoreError`].
    pub async fn delete(&self, key: &ObjectKey, only: Option<&Object>) -> Result<(), DatastoreError> {
        let doing = format!("deleting {key}");
        let stored = only.map(|object| self.stored(object));
        let field = |field: &str| {
            let metadata = stored.as_ref()?.get("metadata")?;
            metadata.get(field)?.as_str().map(str::to_owned)
        };
        let preconditions = Preconditions { uid: field("uid"), resource_version: field("resourceVersion") };
        self.delete_value(key.kind, key.namespace.as_deref(), &key.name, preconditions, &doing).await
    }

    /// Address management's store.
    #[must_use]
    pub fn ipam(&self) -> IpamStore {
        IpamStore::new(self.clone())
    }

    /// As the API server keeps it.
    fn stored(&self, object: &Object) -> Value {
        match self.group {
            ApiGroup::V3 => object.to_value(),
            ApiGroup::Crd => to_stored(object.to_value()),
        }
    }

    /// As people name it: `ippools.crd.projectcalico.org`.
    fn plural(&self, kind: Kind) -> String {
        let resource = self.resource(kind);
        if resource.group.is_empty() {
            resource.plural
        } else {
            format!("{}.{}", resource.plural, resource.group)
        }
    }

    fn at(&self, kind: Kind, namespace: Option<&str>) -> Request {
        let namespace = namespace.filter(|_| kind.is_namespaced());
        Request::new(DynamicObject::url_path(&self.resource(kind), namespace))
    }

    /// What is kept, unchanged.
    pub(crate) async fn get_value(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        doing: &str,
    ) -> Result<Value, DatastoreError> {
        self.send(self.at(kind, namespace).get(name, &GetParams::default()), doing).await
    }

    /// All that is kept, unchanged but for what a list does not say of its items.
    pub(crate) async fn list_values(&self, kind: Kind, doing: &str) -> Result<Vec<Value>, DatastoreError> {
        let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
        let resource = self.resource(kind);
        let mut all = Vec::new();
        loop {
            let mut page = self.send(self.at(kind, None).list(&params), doing).await?;
            let next =
                page.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items.into_iter().map(|mut item| {
                    if let Some(item) = item.as_object_mut() {
                        item.insert("apiVersion".to_owned(), resource.api_version.clone().into());
                        item.insert("kind".to_owned(), resource.kind.clone().into());
                    }
                    item
                }));
            }
            if next.is_empty() {
                return Ok(all);
            }
            params.continue_token = Some(next);
        }
    }

    /// Makes exactly this.
    pub(crate) async fn create_value(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        value: &Value,
        doing: &str,
    ) -> Result<Value, DatastoreError> {
        self.send(self.at(kind, namespace).create(&post(), bytes(value)), doing).await
    }

    /// Replaces by exactly this.
    pub(crate) async fn replace_value(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        value: &Value,
        doing: &str,
    ) -> Result<Value, DatastoreError> {
        self.send(self.at(kind, namespace).replace(name, &post(), bytes(value)), doing).await
    }

    pub(crate) async fn delete_value(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        preconditions: Preconditions,
        doing: &str,
    ) -> Result<(), DatastoreError> {
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.send(self.at(kind, namespace).delete(name, &params), doing).await.map(drop)
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        doing: &str,
    ) -> Result<Value, DatastoreError> {
        let request = request
            .map_err(|error| DatastoreError::Invalid { doing: doing.to_owned(), why: error.to_string() })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(|error| DatastoreError::of(doing.to_owned(), &error)),
            Err(_) => Err(DatastoreError::late(doing.to_owned(), ANSWER_TIMEOUT)),
        }
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn decode(kind: Kind, value: Value, doing: &str) -> Result<Object, DatastoreError> {
    let mut value = from_stored(value);
    if let Some(value) = value.as_object_mut() {
        // Some servers leave them out.
        value.insert("apiVersion".to_owned(), kind.api_version().into());
        value.insert("kind".to_owned(), kind.as_str().into());
    }
    match Object::from_value_lenient(value) {
        // Fields that are unknown here are a newer cluster's.
        Ok((object, _)) => Ok(object),
        Err(error) => Err(DatastoreError::Undecodable { doing: doing.to_owned(), why: error.to_string() }),
    }
}

/// The group that blocks are kept in. An aggregated `projectcalico.org/v3` in front of stored objects does not serve those. Where
/// definitions of both are installed, whoever set the cluster up has written its ClusterInformation to one: two stores of the same
/// addresses would give them twice, so nobody guesses between them.
async fn detect(client: &Client) -> Result<ApiGroup, DatastoreError> {
    let (v3, crd) = (keeps_blocks(client, ApiGroup::V3).await, keeps_blocks(client, ApiGroup::Crd).await);
    match (v3, crd) {
        (Ok(true), Ok(true)) => {}
        (Ok(true), Ok(false)) => return Ok(ApiGroup::V3),
        // Only of an aggregated server can one group be away alone, and that one keeps its objects in the other.
        (Ok(false) | Err(_), Ok(true)) => return Ok(ApiGroup::Crd),
        (Ok(false), Ok(false)) => return Err(DatastoreError::NoCalico),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    }
    match (is_used(client, ApiGroup::V3).await?, is_used(client, ApiGroup::Crd).await?) {
        (true, true) => Err(DatastoreError::TwoGroups),
        (false, true) => Ok(ApiGroup::Crd),
        (_, false) => Ok(ApiGroup::V3),
    }
}

async fn keeps_blocks(client: &Client, group: ApiGroup) -> Result<bool, DatastoreError> {
    let doing = format!("asking whether {group} is served");
    let name = group.to_string();
    match tokio::time::timeout(ANSWER_TIMEOUT, client.list_api_group_resources(&name)).await {
        Ok(Ok(list)) => Ok(list.resources.iter().any(|resource| resource.name == "ipamblocks")),
        Ok(Err(error)) => match DatastoreError::of(doing, &error) {
            DatastoreError::NotFound { .. } => Ok(false),
            error => Err(error),
        },
        Err(_) => Err(DatastoreError::late(doing, ANSWER_TIMEOUT)),
    }
}

/// Whether somebody has set the cluster up in this group.
async fn is_used(client: &Client, group: ApiGroup) -> Result<bool, DatastoreError> {
    let datastore = Datastore::new(client.clone(), group);
    match datastore.get(Kind::ClusterInformation, None, "default").await {
        Ok(_) => Ok(true),
        Err(DatastoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
