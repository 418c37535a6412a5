//! The lab's Kubernetes API, as a client sees it.

use std::path::Path;

use caracal_model::object::{Kind, Object, ObjectKey};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A client with threads of its own.
pub struct Kubernetes {
    runtime: Runtime,
    client: Client,
}

impl Kubernetes {
    pub fn connect(kubeconfig: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).unwrap();
            let mut config =
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            config.proxy_url = None;
            Client::try_from(config).unwrap()
        });
        Self { runtime, client }
    }

    /// Creates an object, its status too.
    pub fn create(&self, mut value: Value) -> Result<(), kube::Error> {
        let key = Object::from_value(value.clone()).unwrap().key();
        let status = value.as_object_mut().unwrap().remove("status");
        let api = self.api(&key);
        self.runtime.block_on(async {
            api.create(&PostParams::default(), &serde_json::from_value(value).unwrap()).await?;
            if let Some(status) = status {
                let patch = Patch::Merge(json!({ "status": status }));
                api.patch_status(&key.name, &PatchParams::default(), &patch).await?;
            }
            Ok(())
        })
    }

    pub fn merge(&self, key: &ObjectKey, patch: Value) -> Result<(), kube::Error> {
        let api = self.api(key);
        let patch = Patch::Merge(patch);
        self.runtime.block_on(async { api.patch(&key.name, &PatchParams::default(), &patch).await }).map(drop)
    }

    pub fn delete(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let api = self.api(key);
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.runtime.block_on(async { api.delete(&key.name, &parameters).await }).map(drop)
    }

    pub fn get(&self, key: &ObjectKey) -> Result<Option<Value>, kube::Error> {
        let api = self.api(key);
        let found = self.runtime.block_on(async { api.get_opt(&key.name).await })?;
        Ok(found.map(|object| serde_json::to_value(object).unwrap()))
    }

    /// Every object of a kind, in whatever namespace.
    pub fn list(&self, kind: Kind) -> Vec<Value> {
        let api = self.api(&ObjectKey { kind, namespace: None, name: String::new() });
        let found = self.runtime.block_on(async { api.list(&ListParams::default()).await }).unwrap();
        found.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let (group, version) = key.kind.api_version().split_once('/').unwrap_or(("", key.kind.api_version()));
        let kind = GroupVersionKind::gvk(group, version, key.kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&kind, key.kind.plural());
        match &key.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

/// The key of a pod in `default`.
pub fn pod_key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: name.into() }
}

/// The key of a network policy in `default`.
pub fn policy_key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::NetworkPolicy, namespace: Some("default".into()), name: name.into() }
}

/// A pod in `default`, labelled `app: NAME`.
pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "any"}]},
    })
}

/// The same pod with annotations.
pub fn annotated(mut pod: Value, annotations: Value) -> Value {
    pod["metadata"]["annotations"] = annotations;
    pod
}

/// A policy in `default` that lets nothing in to the pod of that name.
pub fn isolate(policy: &str, pod: &str) -> Value {
    ingress(policy, pod, json!([]))
}

/// A policy in `default` for what comes in to the pod of that name.
pub fn ingress(policy: &str, pod: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": policy, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": pod}}, "policyTypes": ["Ingress"], "ingress": rules},
    })
}

/// A pool, with what else its spec says.
pub fn pool(name: &str, cidr: &str, more: Value) -> Value {
    let mut spec = more;
    spec["cidr"] = json!(cidr);
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}
