//! ClusterNetworkPolicy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::metadata::label_selector;
use super::{Errors, calico_format};
use crate::calico::{ClusterNetworkPolicySpec, ClusterPolicyPods, ClusterPolicyPort, ClusterPolicyProtocol};

pub(super) fn validate(spec: &ClusterNetworkPolicySpec, errors: &mut Errors) {
    let tiers = ["Admin", "Baseline"];
    if spec.tier.is_empty() {
        errors.required("spec.tier", "must be Admin or Baseline");
    } else if !tiers.contains(&spec.tier.as_str()) {
        errors.not_supported("spec.tier", &spec.tier, &tiers);
    }
    errors.in_range("spec.priority", Some(spec.priority), 0..=1000);
    let subject = &spec.subject;
    pods("spec.subject", subject.namespaces.as_ref(), subject.pods.as_ref(), None, errors);
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = format!("spec.ingress[{index}]");
        action(&field, &rule.action, errors);
        if rule.from.is_empty() {
            errors.required(&format!("{field}.from"), "at least one peer");
        }
        for (index, peer) in rule.from.iter().enumerate() {
            let field = format!("{field}.from[{index}]");
            pods(&field, peer.namespaces.as_ref(), peer.pods.as_ref(), None, errors);
        }
        protocols(&field, rule.protocols.as_deref(), errors);
    }
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = format!("spec.egress[{index}]");
        action(&field, &rule.action, errors);
        if rule.to.is_empty() {
            errors.required(&format!("{field}.to"), "at least one peer");
        }
        for (index, peer) in rule.to.iter().enumerate() {
            let field = format!("{field}.to[{index}]");
            let networks = peer.networks.as_deref();
            pods(&field, peer.namespaces.as_ref(), peer.pods.as_ref(), Some(networks), errors);
        }
        protocols(&field, rule.protocols.as_deref(), errors);
    }
}

fn action(field: &str, action: &str, errors: &mut Errors) {
    let actions = ["Accept", "Deny", "Pass"];
    if action.is_empty() {
        errors.required(&format!("{field}.action"), "must be Accept, Deny or Pass");
    } else if !actions.contains(&action) {
        errors.not_supported(&format!("{field}.action"), action, &actions);
    }
}

/// Exactly one way to say who is meant; `networks` is `None` where there is no such way.
fn pods(
    field: &str,
    namespaces: Option<&LabelSelector>,
    pods: Option<&ClusterPolicyPods>,
    networks: Option<Option<&[String]>>,
    errors: &mut Errors,
) {
    let listed = networks.flatten();
    let given = [namespaces.is_some(), pods.is_some(), listed.is_some()];
    if given.iter().filter(|is_given| **is_given).count() != 1 {
        let ways = if networks.is_some() {
            "`namespaces`, `pods` and `networks`"
        } else {
            "`namespaces` and `pods`"
        };
        errors.required(field, &format!("must have exactly one of {ways}"));
    }
    if let Some(selector) = namespaces {
        label_selector(&format!("{field}.namespaces"), selector, errors);
    }
    if let Some(pods) = pods {
        label_selector(&format!("{field}.pods.namespaceSelector"), &pods.namespace_selector, errors);
        label_selector(&format!("{field}.pods.podSelector"), &pods.pod_selector, errors);
    }
    if let Some(cidrs) = listed {
        if cidrs.is_empty() {
            errors.required(&format!("{field}.networks"), "at least one CIDR");
        }
        for (index, cidr) in cidrs.iter().enumerate() {
            let check = calico_format::masked_cidr(cidr).map(|_| ());
            errors.check(&format!("{field}.networks[{index}]"), cidr, check);
        }
        errors.unique(&format!("{field}.networks"), cidrs);
    }
}

fn protocols(field: &str, protocols: Option<&[ClusterPolicyProtocol]>, errors: &mut Errors) {
    for (index, protocol) in protocols.into_iter().flatten().enumerate() {
        let field = format!("{field}.protocols[{index}]");
        let name = &protocol.destination_named_port;
        let by_number = [("tcp", &protocol.tcp), ("udp", &protocol.udp), ("sctp", &protocol.sctp)];
        let given = by_number.iter().filter(|(_, ports)| ports.is_some()).count();
        if given + usize::from(name.is_some()) != 1 {
            errors
                .required(&field, "must have exactly one of `tcp`, `udp`, `sctp` and `destinationNamedPort`");
        }
        if let Some(name) = name {
            let check = super::format::port_name(name);
            errors.check(&format!("{field}.destinationNamedPort"), name, check);
        }
        for (name, ports) in by_number {
            if let Some(wanted) = ports.as_ref().and_then(|ports| ports.destination_port.as_ref()) {
                port(&format!("{field}.{name}.destinationPort"), wanted, errors);
            }
        }
    }
}

fn port(field: &str, port: &ClusterPolicyPort, errors: &mut Errors) {
    if port.number.is_some() == port.range.is_some() {
        errors.required(field, "must have exactly one of `number` and `range`");
    }
    errors.in_range(&format!("{field}.number"), port.number, 1..=65535);
    if let Some(range) = &port.range {
        errors.in_range(&format!("{field}.range.start"), Some(range.start), 1..=65535);
        errors.in_range(&format!("{field}.range.end"), Some(range.end), 1..=65535);
        if range.end < range.start {
            errors.invalid(&format!("{field}.range.end"), range.end, "must be at least `start`");
        }
    }
}
