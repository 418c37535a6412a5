//! Service: what its translation relies on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::labels;
use super::{Errors, calico_format, format, given};

/// The longest that a client can be kept at a backend: a day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;

pub(super) fn validate(service: &Service, errors: &mut Errors) {
    let Some(spec) = &service.spec else { return };
    errors.one_of("spec.type", &spec.type_, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    errors.one_of("spec.sessionAffinity", &spec.session_affinity, &["ClientIP", "None"]);
    errors.one_of("spec.internalTrafficPolicy", &spec.internal_traffic_policy, &["Cluster", "Local"]);
    errors.one_of("spec.externalTrafficPolicy", &spec.external_traffic_policy, &["Cluster", "Local"]);
    errors.one_of(
        "spec.ipFamilyPolicy",
        &spec.ip_family_policy,
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    errors.set_of("spec.ipFamilies", spec.ip_families.as_deref().unwrap_or_default(), &["IPv4", "IPv6"]);
    affinity(spec, errors);
    addresses(spec, errors);
    if let Some(selector) = &spec.selector {
        labels("spec.selector", selector, errors);
    }
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    if is_external_name {
        match given(&spec.external_name) {
            None => errors.required("spec.externalName", "the name that the service stands for"),
            Some(name) => {
                errors.check("spec.externalName", name, format::dns_subdomain(name.trim_end_matches('.')))
            }
        }
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_external_name && !is_headless {
        errors.required("spec.ports", "a service with an address needs at least one port");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, written) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port(&field, written, ports.len() > 1, errors);
        if let Some(name) = given(&written.name)
            && !names.insert(name)
        {
            errors.duplicate(&format!("{field}.name"), name);
        }
        let protocol = written.protocol.as_deref().unwrap_or("TCP");
        if !numbers.insert((written.port, protocol)) {
            errors.duplicate(&field, &format!("{}/{protocol}", written.port));
        }
    }
}

fn port(field: &str, port: &ServicePort, must_be_named: bool, errors: &mut Errors) {
    match given(&port.name) {
        None if must_be_named => {
            errors.required(&format!("{field}.name"), "ports must be told apart by name")
        }
        None => {}
        Some(name) => errors.check(&format!("{field}.name"), name, format::dns_label(name)),
    }
    protocol(&format!("{field}.protocol"), &port.protocol, errors);
    if let Err(why) = format::port_number(port.port) {
        errors.invalid(&format!("{field}.port"), port.port, why);
    }
    let target = format!("{field}.targetPort");
    match &port.target_port {
        None => {}
        Some(IntOrString::Int(number)) => {
            if let Err(why) = format::port_number(*number) {
                errors.invalid(&target, *number, why);
            }
        }
        Some(IntOrString::String(name)) => errors.check(&target, name, format::port_name(name)),
    }
    errors.in_range(&format!("{field}.nodePort"), port.node_port.map(i64::from), 0..=65535);
}

/// A protocol as Kubernetes names them, if it is given.
pub(super) fn protocol(field: &str, protocol: &Option<String>, errors: &mut Errors) {
    errors.one_of(field, protocol, &["SCTP", "TCP", "UDP"]);
}

fn affinity(spec: &ServiceSpec, errors: &mut Errors) {
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds);
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    errors.in_range(field, seconds.map(i64::from), 1..=AFFINITY_SECONDS_MAX.into());
    if spec.session_affinity.as_deref() != Some("ClientIP") && spec.session_affinity_config.is_some() {
        errors
            .forbidden("spec.sessionAffinityConfig", "may be given only when `sessionAffinity` is ClientIP");
    }
}

fn addresses(spec: &ServiceSpec, errors: &mut Errors) {
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    let or_none = |text: &str| match text {
        "None" => Ok(()),
        text => calico_format::address(text).map_err(|why| format!("{why}; or \"None\"")),
    };
    if is_external_name && given(&spec.cluster_ip).is_some() {
        errors.forbidden("spec.clusterIP", "may not be given when `type` is ExternalName");
    }
    errors.check_given("spec.clusterIP", &spec.cluster_ip, or_none);
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(one)) = (all.first(), given(&spec.cluster_ip))
        && first != one
    {
        errors.invalid("spec.clusterIPs[0]", first.as_str(), "must be `clusterIP`");
    }
    let mut by_family = [0, 0];
    for (index, text) in all.iter().enumerate() {
        // What is wrong with the first has been said of `clusterIP`.
        if index > 0 || given(&spec.cluster_ip).is_none() {
            errors.check(&format!("spec.clusterIPs[{index}]"), text, or_none(text));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            by_family[usize::from(address.is_ipv6())] += 1;
        }
    }
    if all.len() > 2 || by_family.iter().any(|count| *count > 1) {
        errors.invalid(
            "spec.clusterIPs",
            all.to_vec(),
            "may hold no more than one address of each IP family",
        );
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        errors.check(&format!("spec.externalIPs[{index}]"), text, calico_format::address(text));
    }
    errors.check_given("spec.loadBalancerIP", &spec.load_balancer_ip, calico_format::address);
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        errors.check(&field, text, calico_format::cidr(text.trim()));
    }
}
