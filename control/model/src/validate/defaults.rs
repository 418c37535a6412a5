//! What an API server fills in when an object is created: Kubernetes' here, Calico's in [`calico`].

mod calico;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::format::dns_label;
use crate::object::Object;

/// Fills in what is missing.
pub(crate) fn set(object: &mut Object) {
    match object {
        Object::Namespace(namespace) => set_namespace(namespace),
        Object::Pod(pod) => set_pod(pod),
        Object::NetworkPolicy(policy) => set_network_policy(policy),
        Object::Service(service) => set_service(service),
        Object::EndpointSlice(slice) => set_endpoint_slice(slice),
        other => calico::set(other),
    }
}

fn set_namespace(namespace: &mut Namespace) {
    let name = namespace.metadata.name.clone().unwrap_or_default();
    // A name that cannot be is refused as such, not as a label.
    if dns_label(&name).is_ok() {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

fn set_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let set_ports = |container: &mut Container| {
        for port in container.ports.iter_mut().flatten() {
            set_protocol(&mut port.protocol);
        }
    };
    spec.containers.iter_mut().for_each(set_ports);
    spec.init_containers.iter_mut().flatten().for_each(set_ports);
}

fn set_network_policy(policy: &mut NetworkPolicy) {
    let Some(spec) = &mut policy.spec else { return };
    set_policy_types(&mut spec.policy_types, spec.egress.as_deref());
    set_policy_ports(spec.ingress.as_deref_mut(), spec.egress.as_deref_mut());
}

/// A policy always speaks for ingress, and for egress when it has rules for it.
fn set_policy_types(types: &mut Option<Vec<String>>, egress: Option<&[NetworkPolicyEgressRule]>) {
    if types.as_ref().is_none_or(Vec::is_empty) {
        let mut default = vec!["Ingress".to_owned()];
        if egress.is_some_and(|rules| !rules.is_empty()) {
            default.push("Egress".to_owned());
        }
        *types = Some(default);
    }
}

fn set_policy_ports(
    ingress: Option<&mut [NetworkPolicyIngressRule]>,
    egress: Option<&mut [NetworkPolicyEgressRule]>,
) {
    let set_ports = |ports: &mut Option<Vec<NetworkPolicyPort>>| {
        for port in ports.iter_mut().flatten() {
            set_protocol(&mut port.protocol);
        }
    };
    ingress.into_iter().flatten().for_each(|rule| set_ports(&mut rule.ports));
    egress.into_iter().flatten().for_each(|rule| set_ports(&mut rule.ports));
}

fn set_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    let service_type = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
    let affinity = spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    if affinity == "ClientIP" {
        let config = spec.session_affinity_config.get_or_insert_default();
        config.client_ip.get_or_insert_default().timeout_seconds.get_or_insert(10_800);
    }
    if service_type != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if service_type == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    // `clusterIP` and the first of `clusterIPs` say the same; who gives one gives both.
    match (&spec.cluster_ip, &spec.cluster_ips) {
        (Some(one), None) if !one.is_empty() => spec.cluster_ips = Some(vec![one.clone()]),
        (None, Some(all)) => spec.cluster_ip = all.first().cloned(),
        _ => {}
    }
    for port in spec.ports.iter_mut().flatten() {
        set_protocol(&mut port.protocol);
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::Int(_)) => false,
            Some(IntOrString::String(name)) => name.is_empty(),
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

fn set_endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        set_protocol(&mut port.protocol);
        port.name.get_or_insert_default();
    }
}

fn set_protocol(protocol: &mut Option<String>) {
    if protocol.as_deref().is_none_or(str::is_empty) {
        *protocol = Some("TCP".to_owned());
    }
}
