//! The pod that a container is the sandbox of, as the API server has it, and what its annotations ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_datastore::{Datastore, DatastoreError};
use caracal_model::annotations as named;
use caracal_model::object::{Kind, Object, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::config::Config;
use super::env::Attachment;
use super::error::PluginError;
use crate::node_socket::Annotate;

/// How the annotations begin that mean something to the plugin.
const OURS: &str = "cni.projectcalico.org/";
/// The annotation that says the UID of a static pod as its kubelet knows it.
const STATIC: &str = "kubernetes.io/config.hash";

/// What a pod, or its namespace, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    /// Pools, by name or CIDR, for IPv4.
    pub ipv4_pools: Option<Vec<String>>,
    /// And for IPv6.
    pub ipv6_pools: Option<Vec<String>>,
    /// Whether it wants addresses of IPv4, and of IPv6.
    pub families: Option<(bool, bool)>,
    /// Exactly these addresses.
    pub addresses: Vec<IpAddr>,
    /// The same, and nobody is to be asked for them.
    pub without_ipam: bool,
    /// The MAC address of its end.
    pub mac: Option<[u8; 6]>,
}

/// The pod, if there is one.
pub async fn read(datastore: &Datastore, namespace: &str, name: &str) -> Result<Option<Pod>, DatastoreError> {
    match datastore.get(Kind::Pod, Some(namespace), name).await {
        Ok(Object::Pod(pod)) => Ok(Some(*pod)),
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this is the pod that the runtime means, and one that this node attaches.
///
/// # Errors
/// It is not.
pub(crate) fn check(pod: &Pod, attachment: &Attachment, node: &str) -> Result<(), PluginError> {
    let label = label(pod);
    if !is_meant(pod, attachment) {
        let why = format!(
            "pod {label} is another one than the runtime means: the one of UID {} is gone",
            attachment.arguments.uid.as_deref().unwrap_or_default()
        );
        return Err(PluginError::NotReady(why));
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return Err(PluginError::NotAPod(format!(
            "pod {label} uses its node's network: there is nothing to attach"
        )));
    }
    match spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default() {
        "" => {
            Err(PluginError::NotReady(format!("pod {label} is not scheduled to a node yet (spec.nodeName)")))
        }
        scheduled if scheduled != node => Err(PluginError::NotAPod(format!(
            "pod {label} is scheduled to node {scheduled}, and this is node {node}: does nodename, or the file that nodename_file names, say the name of the Node object?"
        ))),
        _ if matches!(phase(pod), "Failed" | "Succeeded") => {
            Err(PluginError::NotAPod(format!("pod {label} has run to its end ({})", phase(pod))))
        }
        _ => Ok(()),
    }
}

/// Whether the pod is the one of the UID that the runtime says, if it says one. A static pod's object is a mirror of another UID: it says the
/// kubelet's in an annotation.
#[must_use]
pub(crate) fn is_meant(pod: &Pod, attachment: &Attachment) -> bool {
    attachment.arguments.uid.as_deref().is_none_or(|uid| {
        pod.metadata.uid.as_deref() == Some(uid)
            || annotation(pod.metadata.annotations.as_ref(), STATIC) == Some(uid)
    })
}

/// The container that the pod's addresses are of.
#[must_use]
pub(crate) fn container(pod: &Pod) -> &str {
    annotation(pod.metadata.annotations.as_ref(), named::POD_CONTAINER_ID).unwrap_or_default()
}

/// The addresses that its annotations say.
#[must_use]
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let text = annotation(pod.metadata.annotations.as_ref(), named::POD_ADDRESSES).unwrap_or_default();
    text.split(',').filter_map(|part| part.trim().split('/').next()?.parse().ok()).collect()
}

/// As much of a pod and its namespace as is looked at here, for a plugin that does not read them itself.
#[must_use]
pub fn looked_at(pod: &Pod, namespace: Option<&Namespace>) -> (Pod, Option<Namespace>) {
    let annotations = |all: &Option<BTreeMap<String, String>>| {
        let ours = |name: &str| name.starts_with(OURS) || name == STATIC;
        let kept = all.iter().flatten().filter(|(name, _)| ours(name));
        Some(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let metadata = |of: &ObjectMeta| ObjectMeta {
        name: of.name.clone(),
        namespace: of.namespace.clone(),
        uid: of.uid.clone(),
        annotations: annotations(&of.annotations),
        ..ObjectMeta::default()
    };
    let spec = pod.spec.as_ref().map(|spec| PodSpec {
        host_network: spec.host_network,
        node_name: spec.node_name.clone(),
        ..PodSpec::default()
    });
    let status = PodStatus { phase: Some(phase(pod).to_owned()), ..PodStatus::default() };
    let namespace = namespace.map(|namespace| Namespace {
        metadata: ObjectMeta { labels: namespace.metadata.labels.clone(), ..metadata(&namespace.metadata) },
        ..Namespace::default()
    });
    (Pod { metadata: metadata(&pod.metadata), spec, status: Some(status) }, namespace)
}

/// Writes a pod's addresses and container into its annotations, if it still is the pod that was read.
///
/// # Errors
/// It is not, or the API server could not be asked.
pub async fn write(datastore: &Datastore, what: &Annotate) -> Result<(), DatastoreError> {
    let texts: Vec<String> = what.addresses.iter().map(|address| with_length(*address)).collect();
    let metadata = json!({ "uid": what.uid, "annotations": {
        named::POD_ADDRESS: texts.first().map(String::as_str).unwrap_or_default(),
        named::POD_ADDRESSES: texts.join(","),
        named::POD_CONTAINER_ID: what.container_id,
    }});
    patch(datastore, &what.namespace, &what.pod, metadata).await
}

/// Takes back what [`write()`] wrote, unless somebody has written since; of two that write at once the other one's stays.
///
/// # Errors
/// The API server could not be asked.
pub async fn take_back(datastore: &Datastore, what: &Annotate) -> Result<(), DatastoreError> {
    loop {
        let Some(found) = read(datastore, &what.namespace, &what.pod).await? else { return Ok(()) };
        let is_ours = uid(&found) == Some(&what.uid) && container(&found) == what.container_id;
        if !is_ours || addresses(&found).is_empty() {
            return Ok(());
        }
        let metadata =
            json!({ "resourceVersion": found.metadata.resource_version, "annotations": without() });
        match patch(datastore, &what.namespace, &what.pod, metadata).await {
            Err(DatastoreError::NotFound { .. }) => return Ok(()),
            Err(DatastoreError::Conflict { .. }) => {}
            result => return result,
        }
    }
}

/// Takes the pod's addresses out of its annotations: as empty ones, so that whoever reads them knows that they are given back. Fine if the
/// pod is gone, or is another one now.
///
/// # Errors
/// The API server could not be asked.
pub(crate) async fn clear(datastore: &Datastore, pod: &Pod) -> Result<(), DatastoreError> {
    let metadata = json!({ "uid": pod.metadata.uid, "annotations": without() });
    match patch(datastore, namespace(pod), name(pod), metadata).await {
        // What the server says to a patch of another UID: Conflict, or, as an immutable field, Invalid.
        Err(DatastoreError::NotFound { .. } | DatastoreError::Conflict { .. }) => Ok(()),
        Err(DatastoreError::Invalid { .. })
            if read(datastore, namespace(pod), name(pod)).await?.as_ref().and_then(uid) != uid(pod) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn without() -> Value {
    json!({ named::POD_ADDRESS: "", named::POD_ADDRESSES: "" })
}

/// A UID or version among the metadata is no change but a condition: a pod that was made again under the same name is not to have these.
async fn patch(
    datastore: &Datastore,
    namespace: &str,
    name: &str,
    metadata: Value,
) -> Result<(), DatastoreError> {
    let key = ObjectKey::new(Kind::Pod, Some(namespace), name);
    let patch = json!({ "metadata": metadata });
    // By way of its status, as Calico does: who may patch pods whole can have them run any image, and this role is every node's.
    datastore.patch_status(&key, &patch).await.map(drop)
}

/// `10.244.1.2/32`, `fd00::2/128`.
#[must_use]
pub(crate) fn with_length(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

impl Wishes {
    /// What the annotations ask for. Of pools and families the pod's own go before its namespace's.
    ///
    /// # Errors
    /// One makes no sense, or asks for what cannot be had.
    pub fn read(pod: &Pod, namespace: Option<&Namespace>, config: &Config) -> Result<Self, PluginError> {
        let own = Annotations { of: format!("pod {}", label(pod)), all: pod.metadata.annotations.as_ref() };
        let outer = Annotations {
            of: format!("namespace {}", pod.metadata.namespace.as_deref().unwrap_or_default()),
            all: namespace.and_then(|namespace| namespace.metadata.annotations.as_ref()),
        };
        let either = |name| match own.list(name)? {
            Some(list) => Ok(Some(list)),
            None => outer.list(name),
        };
        if own.list(named::POD_FLOATING_ADDRESSES)?.is_some_and(|list| !list.is_empty()) {
            return Err(own.bad(named::POD_FLOATING_ADDRESSES, "floating addresses are not supported"));
        }
        let asked = own.addresses(named::POD_WANTED_ADDRESSES)?;
        let without = own.addresses(named::POD_WANTED_ADDRESSES_NO_IPAM)?;
        if !without.is_empty() && !config.ip_addrs_no_ipam {
            let why = "the network's configuration does not allow it (feature_control.ip_addrs_no_ipam)";
            return Err(own.bad(named::POD_WANTED_ADDRESSES_NO_IPAM, why));
        }
        if !without.is_empty() && !asked.is_empty() {
            let why = format!("cannot be there together with {}", named::POD_WANTED_ADDRESSES);
            return Err(own.bad(named::POD_WANTED_ADDRESSES_NO_IPAM, why));
        }
        let families = match either(named::POD_FAMILIES)? {
            None => None,
            Some(list)
                if !list.is_empty() && list.iter().all(|family| family == "IPv4" || family == "IPv6") =>
            {
                let has = |family: &str| list.iter().any(|listed| listed == family);
                Some((has("IPv4"), has("IPv6")))
            }
            Some(_) => return Err(own.bad(named::POD_FAMILIES, "must be a list of \"IPv4\" and \"IPv6\"")),
        };
        let mac = match own.get(named::POD_MAC) {
            None => None,
            Some(text) => Some(mac(text).ok_or_else(|| {
                own.bad(named::POD_MAC, "must be the MAC address of one station, like 02:00:00:00:00:01")
            })?),
        };
        Ok(Self {
            ipv4_pools: either(named::POD_IPV4_POOLS)?,
            ipv6_pools: either(named::POD_IPV6_POOLS)?,
            families,
            without_ipam: !without.is_empty(),
            addresses: if without.is_empty() { asked } else { without },
            mac,
        })
    }
}

/// The annotations of an object.
struct Annotations<'a> {
    of: String,
    all: Option<&'a std::collections::BTreeMap<String, String>>,
}

impl Annotations<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        annotation(self.all, name).filter(|text| !text.is_empty())
    }

    fn bad(&self, name: &'static str, why: impl Into<String>) -> PluginError {
        PluginError::Annotation { name, of: self.of.clone(), why: why.into() }
    }

    fn list(&self, name: &'static str) -> Result<Option<Vec<String>>, PluginError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let list = serde_json::from_str(text);
        list.map(Some).map_err(|_| self.bad(name, "must be a JSON list of texts"))
    }

    /// At most one of each family.
    fn addresses(&self, name: &'static str) -> Result<Vec<IpAddr>, PluginError> {
        let list = self.list(name)?.unwrap_or_default();
        let addresses = list.iter().map(|text| text.parse::<IpAddr>());
        let addresses: Vec<IpAddr> = addresses
            .collect::<Result<_, _>>()
            .map_err(|_| self.bad(name, "must be a JSON list of addresses"))?;
        let more = |ipv4: bool| addresses.iter().filter(|address| address.is_ipv4() == ipv4).count() > 1;
        if more(true) || more(false) {
            return Err(self.bad(name, "must have at most one address of each family"));
        }
        Ok(addresses)
    }
}

fn annotation<'a>(
    all: Option<&'a std::collections::BTreeMap<String, String>>,
    name: &str,
) -> Option<&'a str> {
    all?.get(name).map(String::as_str)
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // Of one station: not of a group, and not nobody's.
    let [first, ..] = mac;
    (parts.next().is_none() && first & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn uid(pod: &Pod) -> Option<&str> {
    pod.metadata.uid.as_deref()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn label(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}
