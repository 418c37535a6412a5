//! The objects, and who has which address and which labels.

use std::net::IpAddr;

use caracal_model::calico;
use caracal_model::object::Object;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::Block;
use super::calico::{protocol_number, rules};
use super::policies::Policies;
use super::rule::Rule;
use super::selector::LabelMap;

/// What everything in a namespace is labelled with.
pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
/// What every Kubernetes pod is labelled with.
pub(super) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// What a pod that runs as a service account is labelled with.
pub(super) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// The static profile that allows everything.
const ALLOW_ALL: &str = "projectcalico-default-allow";

/// Whatever a selector can select: a pod, a host endpoint, a set of networks.
#[derive(Debug)]
pub(super) struct Party {
    /// `pod namespace/name`, …
    pub(super) name: String,
    /// Its own and those that it inherits.
    pub(super) labels: LabelMap,
    /// Where it is.
    pub(super) blocks: Vec<Block>,
    /// Ports that it has a name for: name, protocol, number.
    pub(super) ports: Vec<(String, u8, u16)>,
    /// The profiles that judge it, in order.
    pub(super) profiles: Vec<String>,
}

/// A profile: rules, and labels for those who name it.
#[derive(Debug)]
struct Profile<'a> {
    name: String,
    labels: LabelMap,
    ingress: Vec<Rule<'a>>,
    egress: Vec<Rule<'a>>,
}

/// The objects of a world, by kind.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    pods: Vec<(&'a Pod, Party)>,
    host_endpoints: Vec<(&'a calico::HostEndpoint, Party)>,
    sets: Vec<Party>,
    profiles: Vec<Profile<'a>>,
    pub(super) slices: Vec<&'a EndpointSlice>,
    pub(super) services: Vec<&'a Service>,
    pub(super) nodes: Vec<&'a Node>,
    pub(super) configurations: Vec<&'a calico::FelixConfiguration>,
    /// What is enforced.
    pub(super) policies: Policies<'a>,
    /// What would be enforced if all that is staged took effect.
    pub(super) staged_policies: Policies<'a>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(objects: &'a [Object]) -> Self {
        let profiles = profiles(objects);
        let mut cluster = Self {
            pods: Vec::new(),
            host_endpoints: Vec::new(),
            sets: Vec::new(),
            slices: Vec::new(),
            services: Vec::new(),
            nodes: Vec::new(),
            configurations: Vec::new(),
            policies: Policies::enforced(objects),
            staged_policies: Policies::as_if_staged_were_enforced(objects),
            profiles,
        };
        for object in objects {
            match object {
                Object::Pod(pod) if is_endpoint(pod) => {
                    let party = pod_party(pod, &cluster.profiles);
                    cluster.pods.push((pod, party));
                }
                Object::HostEndpoint(endpoint) => {
                    let party = host_endpoint_party(endpoint, &cluster.profiles);
                    cluster.host_endpoints.push((endpoint, party));
                }
                Object::NetworkSet(set) => {
                    let namespace = namespace_of(object);
                    let mut labels = set.metadata.labels.clone().unwrap_or_default();
                    labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
                    inherit(&mut labels, &[format!("kns.{namespace}")], &cluster.profiles);
                    cluster.sets.push(Party::of_networks(object, labels, set.spec.nets.as_deref()));
                }
                Object::GlobalNetworkSet(set) => {
                    let labels = set.metadata.labels.clone().unwrap_or_default();
                    cluster.sets.push(Party::of_networks(object, labels, set.spec.nets.as_deref()));
                }
                Object::EndpointSlice(slice) => cluster.slices.push(slice),
                Object::Service(service) => cluster.services.push(service),
                Object::Node(node) => cluster.nodes.push(node),
                Object::FelixConfiguration(configuration) => cluster.configurations.push(configuration),
                _ => {}
            }
        }
        cluster
    }

    /// A pod with a network of its own.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<(&'a Pod, &Party)> {
        let wanted = |pod: &Pod| {
            pod.metadata.namespace.as_deref().unwrap_or("default") == namespace
                && pod.metadata.name.as_deref() == Some(name)
        };
        self.pods.iter().find(|(pod, _)| wanted(pod)).map(|(pod, party)| (*pod, party))
    }

    /// All host endpoints.
    pub(super) fn host_endpoints(&self) -> impl Iterator<Item = &'a calico::HostEndpoint> {
        self.host_endpoints.iter().map(|(one, _)| *one)
    }

    pub(super) fn host_endpoint(&self, name: &str) -> Option<(&'a calico::HostEndpoint, &Party)> {
        let found = self.host_endpoints.iter().find(|(one, _)| one.metadata.name.as_deref() == Some(name));
        found.map(|(endpoint, party)| (*endpoint, party))
    }

    /// Everything that has `address`.
    pub(super) fn owners(&self, address: IpAddr) -> Vec<&Party> {
        let pods = self.pods.iter().map(|(_, party)| party);
        let all = pods.chain(self.host_endpoints.iter().map(|(_, party)| party)).chain(&self.sets);
        all.filter(|party| party.blocks.iter().any(|block| block.holds(address))).collect()
    }

    /// The rules of a profile: ingress, egress. One that does not exist has none.
    pub(super) fn profile_rules(&self, name: &str) -> (&[Rule<'a>], &[Rule<'a>]) {
        let found = self.profiles.iter().find(|profile| profile.name == name);
        found.map_or((&[], &[]), |profile| (&profile.ingress, &profile.egress))
    }

    /// Whether an address is of an endpoint of a service and, if a protocol and port are given, the port too.
    pub(super) fn is_of_service(
        &self,
        namespace: &str,
        service: &str,
        address: IpAddr,
        port: Option<(u8, Option<u16>)>,
    ) -> bool {
        let slices = self.slices.iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace.as_deref().unwrap_or("default") == namespace
                && labels.and_then(|labels| labels.get("kubernetes.io/service-name")).map(String::as_str)
                    == Some(service)
        });
        slices.into_iter().any(|slice| {
            let mut addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            let has_port = |(protocol, number): (u8, Option<u16>)| {
                slice.ports.iter().flatten().any(|port| {
                    protocol_by_name(port.protocol.as_deref()) == Some(protocol)
                        && number.is_some()
                        && (port.port.is_none() || port.port == number.map(i32::from))
                })
            };
            addresses.any(|text| text.parse() == Ok(address)) && port.is_none_or(has_port)
        })
    }
}

impl Party {
    fn of_networks(object: &Object, labels: LabelMap, nets: Option<&[String]>) -> Self {
        Self {
            name: object.key().to_string(),
            labels,
            blocks: nets.unwrap_or_default().iter().filter_map(|net| Block::read(net)).collect(),
            ports: Vec::new(),
            profiles: Vec::new(),
        }
    }

    /// Whether it calls this port of this protocol so.
    pub(super) fn calls(&self, name: &str, protocol: u8, port: u16) -> bool {
        self.ports.iter().any(|known| (known.0.as_str(), known.1, known.2) == (name, protocol, port))
    }
}

/// An object's namespace.
pub(super) fn namespace_of(object: &Object) -> &str {
    object.metadata().namespace.as_deref().unwrap_or("default")
}

/// TCP, UDP or SCTP; TCP when no name is given.
fn protocol_by_name(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(_) => None,
    }
}

fn profiles(objects: &[Object]) -> Vec<Profile<'_>> {
    let allow_all = |name: String, labels| Profile {
        name,
        labels,
        ingress: vec![Rule::allow_all()],
        egress: vec![Rule::allow_all()],
    };
    let made = objects.iter().filter_map(|object| match object {
        Object::Namespace(namespace) => {
            let name = name_of_namespace(namespace);
            Some(allow_all(
                format!("kns.{name}"),
                prefixed("pcns.", namespace.metadata.labels.as_ref(), &name),
            ))
        }
        Object::ServiceAccount(account) => {
            let name = name_of_account(account);
            Some(Profile {
                labels: prefixed("pcsa.", account.metadata.labels.as_ref(), &name),
                name: format!("ksa.{}.{name}", namespace_of(object)),
                ingress: Vec::new(),
                egress: Vec::new(),
            })
        }
        Object::Profile(profile) => Some(Profile {
            name: profile.metadata.name.clone().unwrap_or_default(),
            labels: profile.spec.labels_to_apply.clone().unwrap_or_default(),
            ingress: rules(None, "ingress", profile.spec.ingress.as_deref()),
            egress: rules(None, "egress", profile.spec.egress.as_deref()),
        }),
        _ => None,
    });
    let mut all: Vec<Profile<'_>> = made.collect();
    all.push(allow_all(ALLOW_ALL.to_owned(), LabelMap::new()));
    all
}

fn name_of_namespace(namespace: &Namespace) -> String {
    namespace.metadata.name.clone().unwrap_or_default()
}

fn name_of_account(account: &ServiceAccount) -> String {
    account.metadata.name.clone().unwrap_or_default()
}

/// The labels that come from a namespace or a service account: each behind the prefix, and its name.
fn prefixed(prefix: &str, labels: Option<&LabelMap>, name: &str) -> LabelMap {
    let mut all: LabelMap = labels
        .into_iter()
        .flatten()
        .map(|(label, value)| (format!("{prefix}{label}"), value.clone()))
        .collect();
    all.insert(format!("{prefix}projectcalico.org/name"), name.to_owned());
    all
}

/// Adds what the named profiles give. A label that is there already stays as it is.
fn inherit(labels: &mut LabelMap, names: &[String], profiles: &[Profile<'_>]) {
    for name in names {
        for profile in profiles.iter().filter(|profile| profile.name == *name) {
            for (label, value) in &profile.labels {
                labels.entry(label.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Whether a pod is scheduled and has a network of its own.
fn is_endpoint(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.host_network != Some(true) && spec.node_name.as_deref().is_some_and(|node| !node.is_empty())
}

fn pod_party(pod: &Pod, profiles: &[Profile<'_>]) -> Party {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let account = spec
        .and_then(|spec| spec.service_account_name.as_deref().or(spec.service_account.as_deref()))
        .filter(|name| !name.is_empty());

    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.retain(|label, _| !label.starts_with("pcns.") && !label.starts_with("pcsa."));
    labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
    labels.insert(ORCHESTRATOR.to_owned(), "k8s".to_owned());
    if let Some(account) = account.filter(|name| name.len() < 63) {
        labels.insert(SERVICE_ACCOUNT.to_owned(), account.to_owned());
    }
    let mut names = vec![format!("kns.{namespace}")];
    names.extend(account.map(|account| format!("ksa.{namespace}.{account}")));
    inherit(&mut labels, &names, profiles);

    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some((port.name.clone()?, protocol_by_name(port.protocol.as_deref())?, number))
    });
    Party {
        name: format!("pod {namespace}/{name}"),
        labels,
        blocks: addresses(pod).iter().filter_map(|text| Block::read(text)).collect(),
        ports: ports.collect(),
        profiles: names,
    }
}

/// The addresses of a pod: its status', else its annotations'; none once it has finished. What a CNI plugin has written for a
/// container that it names is newer than any status.
fn addresses(pod: &Pod) -> Vec<String> {
    let status = pod.status.as_ref();
    let annotation = |name: &str| {
        let annotations = pod.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    };
    let phase = status.and_then(|status| status.phase.as_deref());
    let is_released = ["cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips"]
        .iter()
        .any(|name| annotation(name) == Some(""));
    let is_going = pod.metadata.deletion_timestamp.is_some() && is_released;
    if matches!(phase, Some("Succeeded" | "Failed")) || is_going {
        return Vec::new();
    }
    let all = status.and_then(|status| status.pod_ips.as_ref());
    let all: Vec<String> = all.into_iter().flatten().map(|one| one.ip.clone()).collect();
    let one = status.and_then(|status| status.pod_ip.clone());
    let list = |name| -> Vec<String> {
        let texts = annotation(name).into_iter().flat_map(|text| text.split(','));
        texts.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
    };
    let is_attached = annotation("cni.projectcalico.org/containerID").is_some_and(|id| !id.trim().is_empty());
    let places = [
        if is_attached { list("cni.projectcalico.org/podIPs") } else { Vec::new() },
        all,
        one.into_iter().filter(|text| !text.is_empty()).collect(),
        list("cni.projectcalico.org/podIPs"),
        list("cni.projectcalico.org/podIP"),
        list("vpc.amazonaws.com/pod-ips"),
    ];
    places.into_iter().find(|place| !place.is_empty()).unwrap_or_default()
}

fn host_endpoint_party(endpoint: &calico::HostEndpoint, profiles: &[Profile<'_>]) -> Party {
    let mut labels = endpoint.metadata.labels.clone().unwrap_or_default();
    let names = endpoint.spec.profiles.clone().unwrap_or_default();
    inherit(&mut labels, &names, profiles);
    let ports = endpoint.spec.ports.iter().flatten().filter_map(|port| {
        let protocol = match &port.protocol {
            IntOrString::Int(number) => u8::try_from(*number).ok(),
            IntOrString::String(name) => protocol_number(name),
        };
        Some((port.name.clone(), protocol?, u16::try_from(port.port).ok()?))
    });
    Party {
        name: format!("host endpoint {}", endpoint.metadata.name.as_deref().unwrap_or_default()),
        labels,
        blocks: endpoint.spec.expected_ips.iter().flatten().filter_map(|text| Block::read(text)).collect(),
        ports: ports.collect(),
        profiles: names,
    }
}
