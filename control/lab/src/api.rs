//! A case's objects, loaded through the Kubernetes API as kubectl and a kubelet would: created, then their status patched in.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use caracal_model::{
    case::RefusedObject,
    object::{Kind, Object, ObjectKey},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::stop::Stop;

const CONFLICT: u16 = 409;
const INVALID: u16 = 422;
/// How long the API server may take to come up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Why an object could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no way to the API server.
    #[error("cannot use the kubeconfig {file}: {reason}")]
    Client {
        /// The kubeconfig.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It does not answer.
    #[error("the API server does not answer: {0}")]
    NotUp(String),
    /// It refuses an object.
    #[error("the API server refuses {key}: {reason}")]
    Refused {
        /// Which.
        key: ObjectKey,
        /// In its words.
        reason: String,
    },
}

/// Connects, and waits until the API server answers.
pub(crate) async fn connect(kubeconfig: &Path, limit: Duration, stop: &Stop) -> Result<Client, ApiError> {
    let start = Instant::now();
    loop {
        // The API server writes the file when it listens.
        let problem = match try_connect(kubeconfig).await {
            Ok(client) => return Ok(client),
            Err(problem) => problem,
        };
        if start.elapsed() > limit || stop.is_set() {
            return Err(problem);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn try_connect(kubeconfig: &Path) -> Result<Client, ApiError> {
    let unusable = |reason: String| ApiError::Client { file: kubeconfig.display().to_string(), reason };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| unusable(e.to_string()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| unusable(e.to_string()))?;
    // It is on loopback, whatever proxy the environment names.
    config.proxy_url = None;
    let client = Client::try_from(config).map_err(|e| unusable(e.to_string()))?;
    client.apiserver_version().await.map_err(|e| ApiError::NotUp(e.to_string()))?;
    Ok(client)
}

/// Creates an object, or makes it what it must be when there is one of that name already (the namespace `default`, say), and sets its
/// status as a kubelet would.
pub(crate) async fn load(client: &Client, object: &Object) -> Result<(), ApiError> {
    let key = object.key();
    let api = api(client, &key);
    let mut value = object.to_value();
    let status =
        value.as_object_mut().and_then(|map| map.remove("status")).filter(|status| !is_empty(status));
    let refused = |error: kube::Error| ApiError::Refused { key: key.clone(), reason: reason(&error) };
    let as_object = serde_json::from_value::<DynamicObject>(value.clone())
        .map_err(|e| ApiError::Refused { key: key.clone(), reason: e.to_string() })?;
    match api.create(&PostParams::default(), &as_object).await {
        Err(kube::Error::Api(status)) if status.code == CONFLICT => {
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&value)).await.map_err(refused)?;
        }
        result => drop(result.map_err(refused)?),
    }
    if let Some(status) = status {
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(&key.name, &PatchParams::default(), &patch).await.map_err(refused)?;
    }
    Ok(())
}

/// Sets an object's status as a kubelet would, but for what `change` makes of it.
pub(crate) async fn set_status(
    client: &Client,
    object: &Object,
    change: impl FnOnce(&mut Value),
) -> Result<(), ApiError> {
    let key = object.key();
    let refused = |error: kube::Error| ApiError::Refused { key: key.clone(), reason: reason(&error) };
    let mut status = object.to_value()["status"].take();
    change(&mut status);
    let patch = Patch::Merge(json!({ "status": status }));
    api(client, &key).patch_status(&key.name, &PatchParams::default(), &patch).await.map_err(refused)?;
    Ok(())
}

/// Sends an object that the API server must refuse; what is wrong with its answer, if anything.
pub(crate) async fn check_refused(client: &Client, refused: &RefusedObject) -> Result<(), String> {
    let wanted = format!("{} must be refused for {}", refused.key, refused.field);
    let object = match serde_json::from_value::<DynamicObject>(refused.value.clone()) {
        Ok(object) => object,
        Err(error) => return Err(format!("{wanted}, but cannot even be sent: {error}")),
    };
    match api(client, &refused.key).create(&PostParams::default(), &object).await {
        Ok(_) => Err(format!("{wanted}, but the API server took it")),
        Err(kube::Error::Api(status)) if status.code == INVALID => {
            let fields: Vec<_> = status
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .map(|cause| cause.field.as_str())
                .collect();
            if fields.contains(&refused.field.as_str()) {
                Ok(())
            } else {
                Err(format!("{wanted}, but the API server names {}", fields.join(", ")))
            }
        }
        // What cannot even be decoded is a bad request; the message names the field.
        Err(kube::Error::Api(status)) if status.message.contains(&refused.field) => Ok(()),
        Err(error) => Err(format!("{wanted}, but the API server says: {}", reason(&error))),
    }
}

fn api(client: &Client, key: &ObjectKey) -> Api<DynamicObject> {
    let resource = resource(key.kind);
    match &key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), kind.plural())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
