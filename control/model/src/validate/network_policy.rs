//! NetworkPolicy.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::label_selector;
use super::{Errors, format};
use crate::cidr::Cidr;

pub(super) fn validate(policy: &NetworkPolicy, errors: &mut Errors) {
    if let Some(of_policy) = &policy.spec {
        spec(of_policy, errors);
    }
}

/// What the policy says; a staged one says the same.
pub(super) fn spec(spec: &NetworkPolicySpec, errors: &mut Errors) {
    if let Some(selector) = &spec.pod_selector {
        label_selector("spec.podSelector", selector, errors);
    }
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = format!("spec.ingress[{index}]");
        ports(&field, rule.ports.as_deref(), errors);
        peers(&format!("{field}.from"), rule.from.as_deref(), errors);
    }
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = format!("spec.egress[{index}]");
        ports(&field, rule.ports.as_deref(), errors);
        peers(&format!("{field}.to"), rule.to.as_deref(), errors);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.len() > 2 {
        errors.invalid("spec.policyTypes", types.to_vec(), "may not specify more than two policyTypes");
        return;
    }
    for (index, policy_type) in types.iter().enumerate() {
        if !matches!(policy_type.as_str(), "Ingress" | "Egress") {
            errors.not_supported(&format!("spec.policyTypes[{index}]"), policy_type, &["Egress", "Ingress"]);
        }
    }
}

fn ports(rule: &str, ports: Option<&[NetworkPolicyPort]>, errors: &mut Errors) {
    for (index, port) in ports.into_iter().flatten().enumerate() {
        port_of(&format!("{rule}.ports[{index}]"), port, errors);
    }
}

fn port_of(field: &str, port: &NetworkPolicyPort, errors: &mut Errors) {
    if let Some(protocol) = &port.protocol
        && !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP")
    {
        errors.not_supported(&format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    let end_field = format!("{field}.endPort");
    match &port.port {
        None => {
            if let Some(end) = port.end_port {
                errors.invalid(&end_field, end, "may not be specified when `port` is not specified");
            }
        }
        Some(IntOrString::Int(number)) => {
            if let Err(why) = format::port_number(*number) {
                errors.invalid(&format!("{field}.port"), *number, why);
            }
            if let Some(end) = port.end_port {
                if end < *number {
                    errors.invalid(&end_field, end, "must be greater than or equal to `port`");
                }
                if let Err(why) = format::port_number(end) {
                    errors.invalid(&end_field, end, why);
                }
            }
        }
        Some(IntOrString::String(name)) => {
            if let Some(end) = port.end_port {
                errors.invalid(&end_field, end, "may not be specified when `port` is non-numeric");
            }
            errors.check(&format!("{field}.port"), name, format::port_name(name));
        }
    }
}

fn peers(field: &str, peers: Option<&[NetworkPolicyPeer]>, errors: &mut Errors) {
    for (index, peer) in peers.into_iter().flatten().enumerate() {
        let field = format!("{field}[{index}]");
        if let Some(selector) = &peer.pod_selector {
            label_selector(&format!("{field}.podSelector"), selector, errors);
        }
        if let Some(selector) = &peer.namespace_selector {
            label_selector(&format!("{field}.namespaceSelector"), selector, errors);
        }
        if let Some(block) = &peer.ip_block {
            ip_block(&format!("{field}.ipBlock"), block, errors);
        }
        let has_selector = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        if peer.ip_block.is_some() && has_selector {
            errors.forbidden(&field, "may not specify both ipBlock and another peer");
        } else if peer.ip_block.is_none() && !has_selector {
            errors.required(&field, "must specify a peer");
        }
    }
}

fn ip_block(field: &str, block: &IPBlock, errors: &mut Errors) {
    let field_cidr = format!("{field}.cidr");
    if block.cidr.is_empty() {
        errors.required(&field_cidr, "");
        return;
    }
    let cidr = match block.cidr.parse::<Cidr>() {
        Ok(cidr) => cidr,
        Err(why) => {
            errors.invalid(&field_cidr, block.cidr.as_str(), why);
            return;
        }
    };
    for (index, except) in block.except.iter().flatten().enumerate() {
        let field = format!("{field}.except[{index}]");
        match except.parse::<Cidr>() {
            Err(why) => errors.invalid(&field, except.as_str(), why),
            Ok(inner) if cidr.covers(&inner) && inner.length() > cidr.length() => {}
            Ok(_) => errors.invalid(&field, except.as_str(), "must be a strict subset of `cidr`"),
        }
    }
}
