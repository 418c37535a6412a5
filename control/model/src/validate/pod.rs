//! Pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::{Errors, format};

pub(super) fn validate(pod: &Pod, errors: &mut Errors) {
    match &pod.spec {
        None => errors.required("spec.containers", ""),
        Some(spec) => {
            if spec.containers.is_empty() {
                errors.required("spec.containers", "");
            }
            let mut names = BTreeSet::new();
            containers("spec.containers", &spec.containers, &mut names, errors);
            let init_containers = spec.init_containers.as_deref().unwrap_or_default();
            containers("spec.initContainers", init_containers, &mut names, errors);
            for (field, name) in
                [("spec.nodeName", &spec.node_name), ("spec.serviceAccountName", &spec.service_account_name)]
            {
                if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
                    errors.check(field, name, format::dns_subdomain(name));
                }
            }
        }
    }
    addresses(pod, errors);
}

fn containers<'a>(
    field: &str,
    containers: &'a [Container],
    names: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    for (index, container) in containers.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = container.name.as_str();
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else {
            errors.check(&format!("{field}.name"), name, format::dns_label(name));
            if !names.insert(name) {
                errors.duplicate(&format!("{field}.name"), name);
            }
        }
        let mut port_names = BTreeSet::new();
        for (index, port) in container.ports.iter().flatten().enumerate() {
            container_port(&format!("{field}.ports[{index}]"), port, &mut port_names, errors);
        }
    }
}

fn container_port<'a>(
    field: &str,
    port: &'a ContainerPort,
    names: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        errors.check(&format!("{field}.name"), name, format::port_name(name));
        if !names.insert(name) {
            errors.duplicate(&format!("{field}.name"), name);
        }
    }
    if port.container_port == 0 {
        errors.required(&format!("{field}.containerPort"), "");
    } else if let Err(why) = format::port_number(port.container_port) {
        errors.invalid(&format!("{field}.containerPort"), port.container_port, why);
    }
    if let Some(host_port) = port.host_port.filter(|port| *port != 0)
        && let Err(why) = format::port_number(host_port)
    {
        errors.invalid(&format!("{field}.hostPort"), host_port, why);
    }
    if let Some(protocol) = &port.protocol
        && !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP")
    {
        errors.not_supported(&format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
}

fn addresses(pod: &Pod, errors: &mut Errors) {
    let Some(status) = &pod.status else { return };
    if let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty())
        && text.parse::<IpAddr>().is_err()
    {
        errors.invalid("status.podIP", text, "must be a valid IP address");
    }
    let mut by_family = [0, 0];
    for (index, address) in status.pod_ips.iter().flatten().enumerate() {
        match address.ip.parse::<IpAddr>() {
            Ok(address) => by_family[usize::from(address.is_ipv6())] += 1,
            Err(_) => errors.invalid(
                &format!("status.podIPs[{index}]"),
                address.ip.as_str(),
                "must be a valid IP address",
            ),
        }
    }
    if by_family.iter().any(|count| *count > 1) {
        let texts: Vec<&str> = status.pod_ips.iter().flatten().map(|address| address.ip.as_str()).collect();
        errors.invalid("status.podIPs", texts, "may specify no more than one IP for each IP family");
    }
}
