//! Service and EndpointSlices → [`ServedPort`]s: what a node does with packets for a service.
//!
//! ```text
//!   Service ──► ServiceInfo ──┐
//!   its slices ► SliceInfo… ──┼──► served_ports ──► a ServedPort for each port of the service
//!   this node's name, zone ───┘
//! ```
//!
//! Who is chosen from, for each family and for each of `cluster` and `local` on its own: the ready endpoints; where there
//! are none, those that terminate and still serve. Hints of topology narrow `cluster`, and only if every ready endpoint has
//! them and some are for us: else somebody would be served by nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::annotations;
use crate::cidr::Cidr;
use crate::policy::ServiceKey;
use crate::protocol::Protocol;

use super::endpoint_slice::service_of;

/// Kubernetes' default of how long a client stays with its backend.
pub const AFFINITY_SECONDS: u32 = 10_800;

/// The label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a node must know of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Which.
    pub key: ServiceKey,
    /// Its addresses inside the cluster, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// External addresses and load balancers', each once, in the order of the object.
    pub external_ips: Vec<IpAddr>,
    /// From where external addresses may be asked; empty: from anywhere.
    pub source_ranges: Vec<Cidr>,
    /// Its ports.
    pub ports: Vec<ServiceInfoPort>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// How long a client stays with its backend without asking; 0: it does not.
    pub affinity_seconds: u32,
    /// Which endpoints are preferred.
    pub preference: Preference,
    /// Whether UDP's translations to backends that terminate end at once.
    pub udp_ends_at_once: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfoPort {
    /// Its name; empty where the service has one port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the service's addresses.
    pub port: u16,
    /// Its number at nodes' addresses.
    pub node_port: Option<u16>,
}

/// Which endpoints a service prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// None: hints do not count.
    Any,
    /// Those that are meant for the node's zone.
    Zone,
    /// Those that are meant for the node, then its zone's.
    Node,
}

/// What a node must know of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceInfo {
    /// The service it is of; `None`: of none.
    pub service: Option<ServiceKey>,
    /// Its ports: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Where it is reached: the first of its addresses, as they all lead to the same.
    pub address: IpAddr,
    /// Whether it takes new connections.
    pub is_ready: bool,
    /// Whether it answers, on its way out or not.
    pub is_serving: bool,
    /// Whether it is on its way out.
    pub is_terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// The zones that should use it.
    pub for_zones: Vec<String>,
    /// The nodes that should use it.
    pub for_nodes: Vec<String>,
}

/// Where services are looked at from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// The node's name.
    pub node: String,
    /// Its zone, if it says so.
    pub zone: Option<String>,
}

impl Locality {
    /// Where a node is.
    pub fn of(node: &Node) -> Self {
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE));
        Self {
            node: node.metadata.name.clone().unwrap_or_default(),
            zone: zone.filter(|zone| !zone.is_empty()).cloned(),
        }
    }
}

/// A port of a service, as one node serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPort {
    /// `namespace/name:port`; the port by name, or by number when it has none.
    pub id: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is asked.
    pub frontends: Vec<ServedFrontend>,
    /// Whom policy Cluster chooses from: ascending, of both families; so are the others.
    pub cluster: Vec<(IpAddr, u16)>,
    /// Whom policy Local chooses from.
    pub local: Vec<(IpAddr, u16)>,
    /// Who is in neither and may finish what it has begun.
    pub draining: Vec<(IpAddr, u16)>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// 0: no affinity.
    pub affinity_seconds: u32,
}

/// Where a service's port is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedFrontend {
    /// The address; `None`: those of nodes.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Whether it is for those outside.
    pub is_external: bool,
    /// Who may ask; empty: anybody. A range of the other family keeps it from being empty.
    pub sources: Vec<Cidr>,
}

/// Reads a service; `None` where there is nothing to translate: headless ones, names, and those that ask not to be.
pub fn service(service: &Service) -> Option<ServiceInfo> {
    let annotation =
        |key| service.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let spec = service.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    if kind == "ExternalName" || is_headless || annotation(annotations::NAT_EXCLUDE_SERVICE) == Some("true") {
        return None;
    }
    let balancers = service.status.iter().flat_map(|status| &status.load_balancer);
    let balancers = balancers.flat_map(|balancer| balancer.ingress.iter().flatten());
    // One whose mode is Proxy does not hand packets on as they are: they must pass through it.
    let balancers =
        balancers.filter(|ingress| kind == "LoadBalancer" && ingress.ip_mode.as_deref() != Some("Proxy"));
    let external =
        spec.external_ips.iter().flatten().chain(balancers.filter_map(|ingress| ingress.ip.as_ref()));
    let external = external.filter_map(|text| text.parse().ok());
    let mut external_ips = once(external.filter(|address| of_family(spec, *address)));
    let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let source_ranges: Vec<Cidr> = written.iter().filter_map(|text| text.trim().parse().ok()).collect();
    if source_ranges.is_empty() && !written.is_empty() {
        // Ranges that nobody can read hold nobody. No range at all would let everybody in.
        external_ips.clear();
    }
    let has_node_ports = matches!(kind, "NodePort" | "LoadBalancer");
    let is = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
    Some(ServiceInfo {
        key: ServiceKey {
            namespace: service.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: service.metadata.name.clone().unwrap_or_default(),
        },
        cluster_ips: once(cluster_ips(spec).filter_map(|text| text.parse().ok())),
        external_ips,
        source_ranges,
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(ServiceInfoPort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or("TCP"))?,
                    port: number(port.port)?,
                    node_port: port.node_port.and_then(number).filter(|_| has_node_ports),
                })
            })
            .collect(),
        internal_local: is(&spec.internal_traffic_policy, "Local"),
        external_local: is(&spec.external_traffic_policy, "Local"),
        affinity_seconds: if is(&spec.session_affinity, "ClientIP") { affinity_seconds(spec) } else { 0 },
        preference: preference(spec, annotation(annotations::TOPOLOGY_MODE)),
        udp_ends_at_once: annotation(annotations::UDP_CONNTRACK_CLEANUP) == Some("TerminatingImmediately"),
    })
}

/// The cluster's addresses of a service, as written: `clusterIPs`, else `clusterIP`.
pub(crate) fn cluster_ips(spec: &ServiceSpec) -> impl Iterator<Item = &String> {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let one = spec.cluster_ip.as_ref().filter(|_| all.is_empty());
    all.iter().chain(one).filter(|text| !text.is_empty())
}

/// Whether a service that says of which families it is has addresses of this one's.
fn of_family(spec: &ServiceSpec, address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    spec.ip_families.as_ref().is_none_or(|all| all.is_empty() || all.iter().any(|known| known == family))
}

fn affinity_seconds(spec: &ServiceSpec) -> u32 {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds =
        config.and_then(|config| config.timeout_seconds).and_then(|seconds| u32::try_from(seconds).ok());
    seconds.filter(|seconds| *seconds != 0).unwrap_or(AFFINITY_SECONDS)
}

fn preference(spec: &ServiceSpec, topology_mode: Option<&str>) -> Preference {
    if topology_mode.is_some_and(|mode| mode.eq_ignore_ascii_case("auto")) {
        return Preference::Zone;
    }
    match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => Preference::Zone,
        Some("PreferSameNode") => Preference::Node,
        _ => Preference::Any,
    }
}

/// Reads a slice; endpoints without an address that can be read are left out, names for instance.
pub fn service_slice(slice: &EndpointSlice) -> SliceInfo {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or("TCP"))?;
        Some((port.name.clone().unwrap_or_default(), protocol, number(port.port?)?))
    });
    SliceInfo {
        service: service_of(slice),
        ports: ports.collect(),
        endpoints: slice.endpoints.iter().filter_map(slice_endpoint).collect(),
    }
}

fn slice_endpoint(endpoint: &Endpoint) -> Option<SliceEndpoint> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let is_ready = conditions.ready.unwrap_or(true);
    Some(SliceEndpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        is_ready,
        is_serving: conditions.serving.unwrap_or(is_ready),
        is_terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
        for_zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
        for_nodes: hints.for_nodes.into_iter().flatten().map(|node| node.name).collect(),
    })
}

/// How a node serves a service; one for each port that can be asked anywhere.
pub fn served_ports<'a>(
    service: &ServiceInfo,
    slices: impl Iterator<Item = &'a SliceInfo>,
    here: &Locality,
) -> Vec<ServedPort> {
    // Looked up by port: a service may have as many as its author likes, and so may each of its slices.
    let mut by_port: BTreeMap<(&str, Protocol), Vec<(&SliceInfo, u16)>> = BTreeMap::new();
    for slice in slices {
        for (name, protocol, number) in &slice.ports {
            by_port.entry((name, *protocol)).or_default().push((slice, *number));
        }
    }
    let served = service.ports.iter().map(|port| {
        let of_port = by_port.get(&(port.name.as_str(), port.protocol)).into_iter().flatten();
        let candidates: Vec<Candidate<'_>> = of_port
            .flat_map(|(slice, number)| slice.endpoints.iter().map(|endpoint| (endpoint, *number)))
            .collect();
        let mut served = ServedPort {
            id: format!("{}/{}:{}", service.key.namespace, service.key.name, port.label()),
            protocol: port.protocol,
            frontends: frontends(service, port),
            cluster: Vec::new(),
            local: Vec::new(),
            draining: Vec::new(),
            internal_local: service.internal_local,
            external_local: service.external_local,
            affinity_seconds: service.affinity_seconds,
        };
        for is_ipv4 in [true, false] {
            let of_family = candidates.iter().filter(|(endpoint, _)| endpoint.address.is_ipv4() == is_ipv4);
            let all: Vec<Candidate<'_>> = of_family.copied().collect();
            let is_local =
                |(endpoint, _): &Candidate<'_>| endpoint.node.as_deref() == Some(here.node.as_str());
            served.cluster.extend(backends(preferred(usable(&all), service.preference, here)));
            served.local.extend(backends(usable(&all.iter().copied().filter(is_local).collect::<Vec<_>>())));
            let lets_drain = |endpoint: &SliceEndpoint| {
                let is_over = service.udp_ends_at_once && port.protocol == Protocol::UDP;
                endpoint.is_serving || (endpoint.is_terminating && !is_over)
            };
            let draining = all.iter().copied().filter(|(endpoint, _)| lets_drain(endpoint));
            served.draining.extend(backends(draining.collect()));
        }
        for list in [&mut served.cluster, &mut served.local, &mut served.draining] {
            list.sort();
            list.dedup();
        }
        let ServedPort { cluster, local, draining, .. } = &mut served;
        draining.retain(|backend| {
            cluster.binary_search(backend).is_err() && local.binary_search(backend).is_err()
        });
        served
    });
    served.filter(|served| !served.frontends.is_empty()).collect()
}

impl ServiceInfoPort {
    /// As ids name it.
    fn label(&self) -> String {
        if self.name.is_empty() { self.port.to_string() } else { self.name.clone() }
    }
}

/// An endpoint, and its number of the port in question.
type Candidate<'a> = (&'a SliceEndpoint, u16);

fn frontends(service: &ServiceInfo, port: &ServiceInfoPort) -> Vec<ServedFrontend> {
    let inside = service.cluster_ips.iter().map(|address| ServedFrontend {
        address: Some(*address),
        port: port.port,
        is_external: false,
        sources: Vec::new(),
    });
    let outside = service.external_ips.iter().map(|address| ServedFrontend {
        address: Some(*address),
        port: port.port,
        is_external: true,
        sources: service.source_ranges.clone(),
    });
    let nodes = port.node_port.map(|port| ServedFrontend {
        address: None,
        port,
        is_external: true,
        sources: Vec::new(),
    });
    inside.chain(outside).chain(nodes).collect()
}

/// The ready ones; if there are none, those that terminate and still serve.
fn usable<'a>(all: &[Candidate<'a>]) -> Vec<Candidate<'a>> {
    let those = |wanted: fn(&SliceEndpoint) -> bool| {
        all.iter().copied().filter(|(endpoint, _)| wanted(endpoint)).collect::<Vec<_>>()
    };
    let ready = those(|endpoint| endpoint.is_ready);
    if ready.is_empty() { those(|endpoint| endpoint.is_serving && endpoint.is_terminating) } else { ready }
}

/// Those that are meant for this node, or its zone; all, if some say nothing of whom they are for, or none is for us.
fn preferred<'a>(usable: Vec<Candidate<'a>>, preference: Preference, here: &Locality) -> Vec<Candidate<'a>> {
    let narrowed = |hints: fn(&SliceEndpoint) -> &[String], own: Option<&str>| {
        let own = own?;
        let say_all = usable.iter().all(|(endpoint, _)| !hints(endpoint).is_empty());
        let ours: Vec<Candidate<'a>> = usable
            .iter()
            .copied()
            .filter(|(endpoint, _)| hints(endpoint).iter().any(|name| name == own))
            .collect();
        (say_all && !ours.is_empty()).then_some(ours)
    };
    let by_node = || narrowed(|endpoint| &endpoint.for_nodes, Some(&here.node));
    let by_zone = || narrowed(|endpoint| &endpoint.for_zones, here.zone.as_deref());
    let ours = match preference {
        Preference::Any => None,
        Preference::Zone => by_zone(),
        Preference::Node => by_node().or_else(by_zone),
    };
    ours.unwrap_or(usable)
}

fn backends(chosen: Vec<Candidate<'_>>) -> impl Iterator<Item = (IpAddr, u16)> {
    chosen.into_iter().map(|(endpoint, port)| (endpoint.address, port))
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Each once, in order.
fn once(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = Vec::new();
    for address in addresses {
        if !seen.contains(&address) {
            seen.push(address);
        }
    }
    seen
}
