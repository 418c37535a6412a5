//! The objects, and who has which address.

use std::fmt;
use std::net::Ipv4Addr;

use caracal_model::object::Object;
use k8s_openapi::api::core::v1::{ContainerPort, Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::selector::LabelMap;

/// The objects of a world, by kind.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    namespaces: Vec<&'a Namespace>,
    pods: Vec<PodRef<'a>>,
    /// In the order in which Calico tries policies of one order: by name, then namespace.
    policies: Vec<&'a NetworkPolicy>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(objects: &'a [Object]) -> Self {
        let mut cluster = Self { namespaces: Vec::new(), pods: Vec::new(), policies: Vec::new() };
        for object in objects {
            match object {
                Object::Namespace(namespace) => cluster.namespaces.push(namespace),
                Object::Pod(pod) => cluster.pods.push(PodRef(pod)),
                Object::NetworkPolicy(policy) => cluster.policies.push(policy),
                _ => {}
            }
        }
        cluster.policies.sort_by_key(|policy| (&policy.metadata.name, &policy.metadata.namespace));
        cluster
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.policies.iter().copied()
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<PodRef<'a>> {
        self.pods.iter().copied().find(|pod| pod.namespace() == namespace && pod.name() == name)
    }

    /// The pods that have `address` on the pod network.
    pub(super) fn pods_at(&self, address: Ipv4Addr) -> impl Iterator<Item = PodRef<'a>> {
        let here = move |pod: &PodRef<'a>| pod.is_on_network() && pod.addresses().contains(&address);
        self.pods.iter().copied().filter(here)
    }

    /// The labels of a namespace. Kubernetes gives every namespace its own name as a label.
    pub(super) fn namespace_labels(&self, name: &str) -> LabelMap {
        let namespace =
            self.namespaces.iter().find(|namespace| namespace.metadata.name.as_deref() == Some(name));
        let mut labels =
            namespace.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        labels
    }
}

/// A pod.
#[derive(Clone, Copy)]
pub(super) struct PodRef<'a>(&'a Pod);

impl<'a> PodRef<'a> {
    pub(super) fn namespace(self) -> &'a str {
        self.0.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(super) fn name(self) -> &'a str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn labels(self) -> LabelMap {
        self.0.metadata.labels.clone().unwrap_or_default()
    }

    pub(super) fn node(self) -> Option<&'a str> {
        self.0.spec.as_ref()?.node_name.as_deref()
    }

    /// Whether it is scheduled, has its own network, and has not finished.
    pub(super) fn is_on_network(self) -> bool {
        let Some(spec) = &self.0.spec else { return false };
        let phase = self.0.status.as_ref().and_then(|status| status.phase.as_deref());
        spec.host_network != Some(true)
            && spec.node_name.as_deref().is_some_and(|node| !node.is_empty())
            && !matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// The IPv4 addresses of its status.
    pub(super) fn addresses(self) -> Vec<Ipv4Addr> {
        let Some(status) = &self.0.status else { return Vec::new() };
        let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        all.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()).collect()
    }

    /// The ports of its containers, then of its init containers.
    pub(super) fn ports(self) -> impl Iterator<Item = &'a ContainerPort> {
        let spec = self.0.spec.iter();
        let init = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
        spec.flat_map(|spec| &spec.containers)
            .chain(init)
            .flat_map(|container| container.ports.iter().flatten())
    }
}

impl PartialEq for PodRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.namespace(), self.name()) == (other.namespace(), other.name())
    }
}

impl fmt::Display for PodRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for PodRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
