//! NetworkSet, GlobalNetworkSet → [`NetworkSetInfo`].

use super::calico_rule::net;
use crate::calico;
use crate::cidr::Cidr;
use crate::labels::{Labels, key};
use crate::names;

/// Networks that rules select by labels. An entry that is no network is left out, as if it were not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSetInfo {
    /// Its namespace; `None` for a global one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its own labels and, in a namespace, that namespace's name; not those it inherits from its profiles.
    pub labels: Labels,
    /// The profiles that it inherits labels from: its namespace's.
    pub profiles: Vec<String>,
    /// Its networks, each once, ascending; host bits are cleared.
    pub nets: Vec<Cidr>,
}

/// Reads a NetworkSet.
pub fn network_set(object: &calico::NetworkSet) -> NetworkSetInfo {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let mut labels = object.metadata.labels.as_ref().map(Labels::from).unwrap_or_default();
    labels.set(key::NAMESPACE, namespace);
    NetworkSetInfo {
        namespace: Some(namespace.to_owned()),
        name: object.metadata.name.clone().unwrap_or_default(),
        labels,
        profiles: vec![names::namespace_profile(namespace)],
        nets: nets(object.spec.nets.as_deref()),
    }
}

/// Reads a GlobalNetworkSet.
pub fn global_network_set(object: &calico::GlobalNetworkSet) -> NetworkSetInfo {
    NetworkSetInfo {
        namespace: None,
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: object.metadata.labels.as_ref().map(Labels::from).unwrap_or_default(),
        profiles: Vec::new(),
        nets: nets(object.spec.nets.as_deref()),
    }
}

fn nets(texts: Option<&[String]>) -> Vec<Cidr> {
    let mut nets: Vec<Cidr> = texts.unwrap_or_default().iter().filter_map(|text| net(text).ok()).collect();
    nets.sort();
    nets.dedup();
    nets
}
