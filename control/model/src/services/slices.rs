//! The slices of a service with a selector: its pods, by family and by the numbers that the service's ports have there.
//!
//! ```text
//!   pods of the namespace that the selector matches ─► IPv4 ─┬─ http=8080 ─► web-1a2b3
//!                                                            └─ http=8081 ─► web-77f0e
//!                                                      IPv6 ─── http=8080 ─► web-c4d5e
//! ```
//!
//! A service that somebody else makes slices for gets none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha1::{Digest, Sha1};

use crate::convert::{NamedPort, SERVICE_NAME, cluster_ips, container_ports, is_finished, pod_addresses};
use crate::protocol::Protocol;

/// The label that says who makes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who makes these.
pub const MANAGER: &str = "caracal-apiserver";
/// The label of a headless service's slices.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints of a slice, as Kubernetes' controller has it.
const ENDPOINTS_MAX: usize = 100;
/// Of the digest that makes a slice's name: hexadecimal digits.
const DIGEST_DIGITS: usize = 10;

/// Whether a slice is one of these.
pub fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// The service that a slice says it is of.
pub fn service_name(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

/// Whether a service's slices are made from its selector.
pub fn selects(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    })
}

/// The slices of a service, of the pods among `pods` that are its, ordered by name. `zone_of` says which zone a node is in.
pub fn endpoint_slices<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Pod>,
    zone_of: impl Fn(&str) -> Option<String>,
) -> Vec<EndpointSlice> {
    let Some(spec) = service.spec.as_ref().filter(|_| selects(service)) else { return Vec::new() };
    let mut chosen: Vec<&Pod> = pods.filter(|pod| is_of(pod, service, spec)).collect();
    chosen.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut groups: BTreeMap<(bool, Vec<Target>), Vec<Endpoint>> = BTreeMap::new();
    for pod in chosen {
        let addresses = pod_addresses(pod);
        for is_ipv6 in families(spec) {
            let Some(address) = addresses.iter().find(|address| address.is_ipv6() == is_ipv6) else {
                continue;
            };
            let group = groups.entry((is_ipv6, targets(spec, pod))).or_default();
            group.push(endpoint(spec, pod, *address, &zone_of));
        }
    }
    let slices = groups.into_iter().flat_map(|((is_ipv6, targets), endpoints)| {
        let chunks: Vec<Vec<Endpoint>> = endpoints.chunks(ENDPOINTS_MAX).map(<[Endpoint]>::to_vec).collect();
        let slice = move |(number, endpoints)| slice(service, spec, is_ipv6, &targets, number, endpoints);
        chunks.into_iter().enumerate().map(slice)
    });
    let mut slices: Vec<EndpointSlice> = slices.collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    slices
}

/// A port of a service at some pods: its name, protocol and number.
type Target = (String, String, u16);

fn is_of(pod: &Pod, service: &Service, spec: &ServiceSpec) -> bool {
    let is_placed =
        pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()));
    let labels = pod.metadata.labels.as_ref();
    let matches = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
    pod.metadata.namespace == service.metadata.namespace
        && is_placed
        && !is_finished(pod)
        && spec.selector.iter().flatten().all(matches)
}

/// Whether it is IPv6, of each family that the service is of.
fn families(spec: &ServiceSpec) -> Vec<bool> {
    let named: Vec<bool> = spec.ip_families.iter().flatten().map(|name| name == "IPv6").collect();
    if !named.is_empty() {
        return named;
    }
    let addresses = cluster_ips(spec).filter_map(|text| text.parse::<IpAddr>().ok());
    let of_addresses: Vec<bool> = addresses.map(|address| address.is_ipv6()).collect();
    if of_addresses.is_empty() { vec![false] } else { of_addresses }
}

/// The numbers that the service's ports have at a pod; a port whose name no container knows is left out.
fn targets(spec: &ServiceSpec, pod: &Pod) -> Vec<Target> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let known: Vec<NamedPort> = container_ports(containers).collect();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = match &port.target_port {
            None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok()?,
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok()?,
            Some(IntOrString::String(name)) => {
                let of = Protocol::from_kubernetes(&protocol)?;
                known.iter().find(|known| known.name == *name && known.protocol == of)?.port
            }
        };
        Some((port.name.clone().unwrap_or_default(), protocol, number))
    });
    ports.collect()
}

fn endpoint(
    spec: &ServiceSpec,
    pod: &Pod,
    address: IpAddr,
    zone_of: &impl Fn(&str) -> Option<String>,
) -> Endpoint {
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    let is_serving = is_ready(pod);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let zone = node_name.as_deref().and_then(zone_of);
    let distribution = spec.traffic_distribution.as_deref();
    let hints =
        matches!(distribution, Some("PreferClose" | "PreferSameZone" | "PreferSameNode")).then(|| {
            EndpointHints {
                for_zones: zone.clone().map(|name| vec![ForZone { name }]),
                for_nodes: node_name
                    .clone()
                    .filter(|_| distribution == Some("PreferSameNode"))
                    .map(|name| vec![ForNode { name }]),
            }
        });
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(spec.publish_not_ready_addresses == Some(true) || (is_serving && !is_terminating)),
            serving: Some(is_serving),
            terminating: Some(is_terminating),
        }),
        hints,
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}

/// What the pod's condition says; a pod of which nobody says anything is ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.next().is_none_or(|condition| condition.status == "True")
}

fn slice(
    service: &Service,
    spec: &ServiceSpec,
    is_ipv6: bool,
    targets: &[Target],
    number: usize,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let digest = Sha1::digest(format!("{is_ipv6} {targets:?} {number}"));
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut labels = BTreeMap::from([
        (SERVICE_NAME.to_owned(), name.clone()),
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
    ]);
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let ports = targets.iter().map(|(name, protocol, port)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some((*port).into()),
        app_protocol: None,
    });
    EndpointSlice {
        address_type: if is_ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", digits.get(..DIGEST_DIGITS).unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
    }
}
