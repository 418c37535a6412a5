//! Services, read slowly: which of them is asked, and who may come to answer.
//!
//! Every backend that could be chosen is judged. If they differ in the verdict, the case does not say what must happen,
//! and that is what is reported.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::address::Block;
use super::calico::protocol_number;
use super::cluster::Cluster;

/// A service as somebody asks it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served {
    /// `service namespace/name`.
    pub(super) name: String,
    /// Those that could be chosen.
    pub(super) backends: Vec<(IpAddr, u16)>,
    /// Why there are none.
    pub(super) refusal: Option<String>,
    /// Whether backends see the client's own address.
    pub(super) keeps_client: bool,
}

/// Who asks, where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// The node that translates.
    pub(super) node: &'a str,
    /// Whether a pod of that node, or the node itself, asks.
    pub(super) is_inside: bool,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Whether the destination is an address of the node that translates.
    pub(super) is_node_address: bool,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// The service that is asked, if any; of several the first by name.
pub(super) fn asked(cluster: &Cluster<'_>, ask: &Ask<'_>) -> Option<Served> {
    let mut services: Vec<&Service> = cluster.services.clone();
    services.sort_by_key(|service| (service.metadata.namespace.clone(), service.metadata.name.clone()));
    services.into_iter().find_map(|service| served(cluster, service, ask))
}

fn served(cluster: &Cluster<'_>, service: &Service, ask: &Ask<'_>) -> Option<Served> {
    let spec = service.spec.as_ref()?;
    let annotation =
        |key: &str| service.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let kind = spec.type_.as_deref();
    if kind == Some("ExternalName")
        || spec.cluster_ip.as_deref() == Some("None")
        || annotation("projectcalico.org/natExcludeService") == Some("true")
    {
        return None;
    }
    let is = |text: &String| text.parse() == Ok(ask.destination);
    let is_cluster_address = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).any(is);
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = ingress.flat_map(|balancer| balancer.ingress.iter().flatten());
    let mut ingress = ingress.filter(|one| one.ip_mode.as_deref() != Some("Proxy"));
    let is_balanced = kind == Some("LoadBalancer") && ingress.any(|one| one.ip.as_ref().is_some_and(is));
    let is_external_address = is_balanced || spec.external_ips.iter().flatten().any(is);
    let has_node_ports = matches!(kind, Some("NodePort" | "LoadBalancer"));
    let port = spec.ports.iter().flatten().find(|port| {
        let is_protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP")) == Some(ask.protocol);
        let at_service = (is_cluster_address || is_external_address) && port.port == i32::from(ask.port);
        let at_node = has_node_ports && ask.is_node_address && port.node_port == Some(i32::from(ask.port));
        is_protocol && (at_service || at_node)
    })?;

    let name = format!(
        "service {}/{}",
        service.metadata.namespace.as_deref().unwrap_or("default"),
        service.metadata.name.as_deref().unwrap_or_default()
    );
    let refused = |why: String| {
        Some(Served { name: name.clone(), backends: Vec::new(), refusal: Some(why), keeps_client: true })
    };
    let mut ranges =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|text| Block::read(text.trim()));
    let has_ranges = spec.load_balancer_source_ranges.as_ref().is_some_and(|all| !all.is_empty());
    if is_external_address && has_ranges && !ranges.any(|range| range.holds(ask.source)) {
        return refused(format!("{name}: {} is in none of loadBalancerSourceRanges", ask.source));
    }

    let mut candidates = Vec::new();
    for slice in cluster.slices.iter().filter(|slice| is_of(slice, service)) {
        for slice_port in slice.ports.iter().flatten() {
            let same_name = slice_port.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
            let same_protocol =
                slice_port.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP");
            let Some(number) = slice_port.port.and_then(|number| u16::try_from(number).ok()) else {
                continue;
            };
            if same_name && same_protocol {
                candidates.extend(slice.endpoints.iter().map(|endpoint| (endpoint, number)));
            }
        }
    }
    candidates.retain(|(endpoint, _)| {
        address(endpoint).is_some_and(|address| address.is_ipv4() == ask.destination.is_ipv4())
    });
    let is_outside = !is_cluster_address && !ask.is_inside;
    let policy = match (is_cluster_address, ask.is_inside) {
        (true, _) => spec.internal_traffic_policy.as_deref(),
        (false, false) => spec.external_traffic_policy.as_deref(),
        // Whoever is inside asks an external address as if the policy were Cluster.
        (false, true) => None,
    };
    let is_local = policy == Some("Local");
    if is_local {
        candidates.retain(|(endpoint, _)| endpoint.node_name.as_deref() == Some(ask.node));
    }
    let mut chosen: Vec<(&Endpoint, u16)> =
        candidates.iter().copied().filter(|(endpoint, _)| is_ready(endpoint)).collect();
    if chosen.is_empty() {
        chosen = candidates.iter().copied().filter(|(endpoint, _)| serves_still(endpoint)).collect();
    }
    if !is_local {
        let mode = annotation("service.kubernetes.io/topology-mode").unwrap_or_default();
        let distribution = spec.traffic_distribution.as_deref().unwrap_or_default();
        chosen = nearest(cluster, chosen, mode, distribution, ask.node);
    }
    let mut backends: Vec<(IpAddr, u16)> =
        chosen.into_iter().filter_map(|(endpoint, port)| Some((address(endpoint)?, port))).collect();
    backends.sort();
    backends.dedup();
    if backends.is_empty() {
        let where_ = if is_local { format!("on {}", ask.node) } else { "anywhere".to_owned() };
        return refused(format!("{name} has no backend {where_}"));
    }
    Some(Served { name, backends, refusal: None, keeps_client: !is_outside || is_local })
}

fn is_of(slice: &EndpointSlice, service: &Service) -> bool {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
    slice.metadata.namespace == service.metadata.namespace && label == service.metadata.name.as_ref()
}

fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// On its way out, and still answering.
fn serves_still(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let serving = conditions.and_then(|conditions| conditions.serving.or(conditions.ready)) != Some(false);
    serving && conditions.and_then(|conditions| conditions.terminating) == Some(true)
}

/// Those that hints lead this node to, where all that are ready have hints and some lead here.
fn nearest<'a>(
    cluster: &Cluster<'_>,
    chosen: Vec<(&'a Endpoint, u16)>,
    mode: &str,
    distribution: &str,
    node: &str,
) -> Vec<(&'a Endpoint, u16)> {
    let by_zone = mode.to_lowercase() == "auto"
        || ["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&distribution);
    let by_node = mode.to_lowercase() != "auto" && distribution == "PreferSameNode";
    let object = cluster.nodes.iter().find(|object| object.metadata.name.as_deref() == Some(node));
    let zone = object
        .and_then(|object| object.metadata.labels.as_ref())
        .and_then(|labels| labels.get("topology.kubernetes.io/zone"));
    let nodes_of = |endpoint: &Endpoint| -> Vec<String> {
        let hints = endpoint.hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
        hints.map(|hint| hint.name.clone()).collect()
    };
    let zones_of = |endpoint: &Endpoint| -> Vec<String> {
        let hints = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
        hints.map(|hint| hint.name.clone()).collect()
    };
    if by_node && chosen.iter().all(|(endpoint, _)| !nodes_of(endpoint).is_empty()) {
        let here: Vec<_> = chosen
            .iter()
            .copied()
            .filter(|(endpoint, _)| nodes_of(endpoint).iter().any(|name| name == node))
            .collect();
        if !here.is_empty() {
            return here;
        }
    }
    if let Some(zone) = zone
        && by_zone
        && chosen.iter().all(|(endpoint, _)| !zones_of(endpoint).is_empty())
    {
        let here: Vec<_> =
            chosen.iter().copied().filter(|(endpoint, _)| zones_of(endpoint).contains(zone)).collect();
        if !here.is_empty() {
            return here;
        }
    }
    chosen
}
