//! Pod → [`PodEndpoint`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::calico_rule::net;
use super::converted::DroppedRule;
use super::limits::{PodLimits, pod_limits};
use crate::annotations::{self, POD_PORT};
use crate::cidr::Cidr;
use crate::labels::{Labels, key};
use crate::names;
use crate::pod_port::{PodPort, UnknownPodPort};
use crate::protocol::Protocol;

/// A pod as an end of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEndpoint {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// The host side of its veth.
    pub interface: String,
    /// Its own labels and those that Calico's model adds; not those it inherits from its profiles.
    pub labels: Labels,
    /// Its profiles, in order: its namespace's, then its service account's.
    pub profiles: Vec<String>,
    /// Its addresses; none once it is finished.
    pub addresses: Vec<IpAddr>,
    /// The ports that policies can name.
    pub ports: Vec<NamedPort>,
    /// Sources beside its addresses that it asks to send from.
    pub other_sources: Vec<Cidr>,
    /// What it may move.
    pub limits: PodLimits,
    /// What its port should be.
    pub port: PodPort,
    /// Limits, or a port, that it asks for and that cannot be had, for the log.
    pub dropped_limits: Vec<DroppedRule>,
}

/// A container port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name; never empty on a [`PodEndpoint`].
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// The longest service account name that becomes a label, and one more.
const SERVICE_ACCOUNT_LABEL_LIMIT: usize = 63;

/// The endpoint of a pod; `None` for one that has none: not scheduled yet, or in its node's network namespace.
pub fn pod_endpoint(pod: &Pod) -> Option<PodEndpoint> {
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.as_deref().filter(|name| !name.is_empty())?;
    if spec.host_network == Some(true) {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref()?;
    let service_account = spec
        .service_account_name
        .as_deref()
        .or(spec.service_account.as_deref())
        .filter(|name| !name.is_empty());

    let mut labels: Labels = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .filter(|(label, _)| {
            !label.starts_with(key::NAMESPACE_PREFIX) && !label.starts_with(key::SERVICE_ACCOUNT_PREFIX)
        })
        .map(|(label, value)| (label.as_str(), value.as_str()))
        .collect();
    labels.set(key::NAMESPACE, namespace);
    labels.set(key::ORCHESTRATOR, "k8s");
    let mut profiles = vec![names::namespace_profile(namespace)];
    if let Some(service_account) = service_account {
        profiles.push(names::service_account_profile(namespace, service_account));
        if service_account.len() < SERVICE_ACCOUNT_LABEL_LIMIT {
            labels.set(key::SERVICE_ACCOUNT, service_account);
        }
    }

    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = container_ports(containers).filter(|port| !port.name.is_empty()).collect();
    let (limits, mut dropped_limits) = pod_limits(pod.metadata.annotations.as_ref());
    let port =
        match pod.metadata.annotations.as_ref().and_then(|all| all.get(POD_PORT)).map(|text| text.parse()) {
            Some(Err(error)) => {
                let error: UnknownPodPort = error;
                dropped_limits.push(DroppedRule::new(POD_PORT, error.to_string()));
                PodPort::Auto
            }
            Some(Ok(port)) => port,
            None => PodPort::Auto,
        };
    Some(PodEndpoint {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        interface: names::veth_name(namespace, name),
        labels,
        profiles,
        addresses: if is_finished(pod) { Vec::new() } else { pod_addresses(pod) },
        ports,
        other_sources: other_sources(pod),
        limits,
        port,
        dropped_limits,
    })
}

/// What of the annotation's list is CIDRs.
fn other_sources(pod: &Pod) -> Vec<Cidr> {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(annotations::POD_ALLOWED_SOURCE_PREFIXES));
    let texts: Vec<String> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    texts.iter().filter_map(|text| net(text).ok()).collect()
}

/// The ports of containers, named or not; a missing protocol is TCP, one that Kubernetes does not know is skipped.
pub(crate) fn container_ports<'a>(
    containers: impl Iterator<Item = &'a Container>,
) -> impl Iterator<Item = NamedPort> {
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let protocol = Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or("TCP"))?;
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some(NamedPort { name: port.name.clone().unwrap_or_default(), protocol, port: number })
    })
}

/// Whether a pod has given its addresses up: it has run to its end, or is being deleted and the CNI plugin has
/// released them (the annotation is there and empty).
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return true;
    }
    let released = |annotation| {
        pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation)).is_some_and(String::is_empty)
    };
    pod.metadata.deletion_timestamp.is_some()
        && (released(annotations::POD_ADDRESS) || released(annotations::POD_ADDRESSES_AWS))
}

/// The addresses of a pod, finished or not: from the first place that has any. What is no address is left out.
///
/// Calico asks the status first. Where a CNI plugin has named its container, we ask the plugin: a pod that is given a new
/// sandbox, after its node was started anew, say, keeps its former status until the plugin is done, and the plugin waits
/// for the new addresses to be in force.
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    addresses(places(pod).into_iter().find(|texts| !texts.is_empty()).unwrap_or_default())
}

/// All that any place says of a pod's addresses, for whoever is to leave alone what may be in use.
pub fn every_address(pod: &Pod) -> Vec<IpAddr> {
    addresses(places(pod).concat())
}

/// Annotations carry /32 or /128 behind the address.
fn addresses(texts: Vec<&str>) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.split('/').next().unwrap_or(text).parse().ok()).collect()
}

/// The places that say a pod's addresses, the one to be believed first.
fn places(pod: &Pod) -> [Vec<&str>; 6] {
    let status = pod.status.as_ref();
    let from_status: Vec<&str> = status
        .and_then(|status| status.pod_ips.as_ref())
        .map(|ips| ips.iter().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect())
        .unwrap_or_default();
    let single = status.and_then(|status| status.pod_ip.as_deref()).into_iter().filter(|ip| !ip.is_empty());
    let annotation = |name: &str| -> Vec<&str> {
        let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).map_or("", String::as_str);
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
    };
    let given = annotation(annotations::POD_ADDRESSES);
    let from_plugin = if annotation(annotations::POD_CONTAINER_ID).is_empty() { &[][..] } else { &given };
    [
        from_plugin.to_vec(),
        from_status,
        single.collect(),
        given,
        annotation(annotations::POD_ADDRESS),
        annotation(annotations::POD_ADDRESSES_AWS),
    ]
}
