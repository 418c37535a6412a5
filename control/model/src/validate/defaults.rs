//! What Kubernetes' API server fills in when an object is created.

use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};

use crate::object::Object;

/// Fills in what is missing.
pub(crate) fn set(object: &mut Object) {
    match object {
        Object::Namespace(namespace) => set_namespace(namespace),
        Object::Pod(pod) => set_pod(pod),
        Object::NetworkPolicy(policy) => set_network_policy(policy),
        _ => {}
    }
}

fn set_namespace(namespace: &mut Namespace) {
    let name = namespace.metadata.name.clone().unwrap_or_default();
    if !name.is_empty() {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

fn set_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let set_ports = |container: &mut Container| {
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    };
    spec.containers.iter_mut().for_each(set_ports);
    spec.init_containers.iter_mut().flatten().for_each(set_ports);
}

fn set_network_policy(policy: &mut NetworkPolicy) {
    let Some(spec) = &mut policy.spec else { return };
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let mut types = vec!["Ingress".to_owned()];
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            types.push("Egress".to_owned());
        }
        spec.policy_types = Some(types);
    }
    let set_ports = |ports: &mut Option<Vec<NetworkPolicyPort>>| {
        for port in ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    };
    spec.ingress.iter_mut().flatten().for_each(|rule| set_ports(&mut rule.ports));
    spec.egress.iter_mut().flatten().for_each(|rule| set_ports(&mut rule.ports));
}
