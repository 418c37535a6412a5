//! Rules of Calico's policies and profiles.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::calico_format::{Global, Port, masked_cidr, port, selector, unlimited_selector};
use super::{Errors, given, metadata};
use crate::calico::{EntityRule, HttpMatch, IcmpFields, Rule, ServiceMatch};
use crate::cidr::Cidr;

/// The most rules of a policy in one direction.
const RULES_MAX: usize = 1024;
/// The most CIDRs in a list.
const NETS_MAX: usize = 256;
/// The most ports in a list.
const PORTS_MAX: usize = 50;
/// The most methods, and the most paths.
const HTTP_MAX: usize = 20;
/// The longest path.
const PATH_MAX: usize = 1024;
/// The longest name of a service or a namespace.
const NAME_MAX: usize = 253;

const PROTOCOL: &str =
    "must be TCP, UDP, SCTP, UDPLite, ICMP or ICMPv6, exactly so, or a number from 1 to 255";
const PORTS_NEED_PROTOCOL: &str = "ports need a protocol that has them: set protocol to TCP, UDP or SCTP";

/// The direction of a rule's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Whether the rule's object lives in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespaced,
    Global,
}

/// The rules of one direction.
pub(super) fn validate(field: &str, rules: &[Rule], direction: Direction, scope: Scope, errors: &mut Errors) {
    errors.at_most_items(field, rules, RULES_MAX);
    for (index, written) in rules.iter().enumerate() {
        rule(&format!("{field}[{index}]"), written, direction, scope, errors);
    }
}

fn rule(field: &str, rule: &Rule, direction: Direction, scope: Scope, errors: &mut Errors) {
    let actions = ["Allow", "Deny", "Log", "Pass"];
    if rule.action.is_empty() {
        errors.required(&format!("{field}.action"), "must be Allow, Deny, Log or Pass");
    } else if !actions.contains(&rule.action.as_str()) {
        errors.not_supported(&format!("{field}.action"), &rule.action, &actions);
    }
    if let Some(version) = rule.ip_version.filter(|version| !matches!(version, 4 | 6)) {
        errors.invalid(&format!("{field}.ipVersion"), version, "must be 4 or 6");
    }
    protocols(field, rule, errors);
    icmp(&format!("{field}.icmp"), rule.icmp.as_ref(), rule, errors);
    icmp(&format!("{field}.notICMP"), rule.not_icmp.as_ref(), rule, errors);
    nets(field, rule, errors);
    for (name, side) in [("source", &rule.source), ("destination", &rule.destination)] {
        let Some(side) = side else { continue };
        let field = format!("{field}.{name}");
        entity(&field, side, errors);
        ports(&field, side, rule, errors);
        if let Some(service) = &side.services {
            let may_be = match direction {
                Direction::Ingress => "source",
                Direction::Egress => "destination",
            };
            services(&field, service, side, scope, errors);
            if name != may_be {
                let of = if direction == Direction::Ingress { "an ingress" } else { "an egress" };
                errors.forbidden(
                    &format!("{field}.services"),
                    &format!("services of {of} rule may be given in its {may_be} only"),
                );
            } else if name == "destination" {
                // A service's endpoints have ports of their own.
                for (name, ports) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
                    if ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
                        errors.forbidden(
                            &format!("{field}.{name}"),
                            "may not be given together with `services`: the service says the ports",
                        );
                    }
                }
            }
        }
    }
    if let Some(http) = &rule.http {
        http_match(&format!("{field}.http"), http, rule, direction, errors);
    }
    if let Some(annotations) = rule.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref()) {
        metadata::annotations(&format!("{field}.metadata.annotations"), annotations, errors);
    }
}

fn protocols(field: &str, rule: &Rule, errors: &mut Errors) {
    for (name, protocol) in [("protocol", &rule.protocol), ("notProtocol", &rule.not_protocol)] {
        let Some(protocol) = protocol else { continue };
        let good = match protocol {
            IntOrString::Int(number) => (1..=255).contains(number),
            IntOrString::String(text) => {
                matches!(text.as_str(), "TCP" | "UDP" | "SCTP" | "UDPLite" | "ICMP" | "ICMPv6")
                    || is_protocol_number(text)
            }
        };
        if !good {
            errors.invalid(&format!("{field}.{name}"), value(protocol), PROTOCOL);
        }
        let version = if is_named(protocol, "ICMP") {
            4
        } else if is_named(protocol, "ICMPv6") {
            6
        } else {
            continue;
        };
        if let Some(other) = rule.ip_version.filter(|&other| matches!(other, 4 | 6) && other != version) {
            let why = format!("must be {version}, or not given, with `{name}` {}", text(protocol));
            errors.invalid(&format!("{field}.ipVersion"), other, why);
        }
    }
}

fn is_protocol_number(text: &str) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits && text.parse::<u8>().is_ok_and(|number| number != 0)
}

fn is_named(protocol: &IntOrString, name: &str) -> bool {
    matches!(protocol, IntOrString::String(text) if text == name)
}

fn text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

fn value(value: &IntOrString) -> serde_json::Value {
    match value {
        IntOrString::Int(number) => (*number).into(),
        IntOrString::String(text) => text.as_str().into(),
    }
}

fn icmp(field: &str, icmp: Option<&IcmpFields>, rule: &Rule, errors: &mut Errors) {
    let Some(icmp) = icmp else { return };
    errors.in_range(&format!("{field}.type"), icmp.kind, 0..=254);
    errors.in_range(&format!("{field}.code"), icmp.code, 0..=255);
    if let (None, Some(code)) = (icmp.kind, icmp.code) {
        errors.invalid(&format!("{field}.code"), code, "may be given only together with `type`");
    }
    let is_icmp = |protocol: &IntOrString| is_named(protocol, "ICMP") || is_named(protocol, "ICMPv6");
    if !rule.protocol.as_ref().is_some_and(is_icmp) {
        errors.forbidden(field, "may be given only with `protocol` ICMP or ICMPv6");
    }
}

/// All nets of a rule are of one family, which is that of `ipVersion`.
fn nets(field: &str, rule: &Rule, errors: &mut Errors) {
    let mut family: Option<(bool, String)> = rule.ip_version.and_then(|version| match version {
        4 => Some((true, "`ipVersion` is 4".to_owned())),
        6 => Some((false, "`ipVersion` is 6".to_owned())),
        _ => None,
    });
    for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        let Some(entity) = entity else { continue };
        for (name, list) in [("nets", &entity.nets), ("notNets", &entity.not_nets)] {
            let Some(list) = list else { continue };
            let field = format!("{field}.{side}.{name}");
            errors.at_most_items(&field, list, NETS_MAX);
            errors.unique(&field, list);
            for (index, text) in list.iter().enumerate() {
                let field = format!("{field}[{index}]");
                let cidr = match text.parse::<IpAddr>() {
                    Ok(address) => Cidr::host(address),
                    Err(_) => match masked_cidr(text) {
                        Ok(cidr) => cidr,
                        Err(why) => {
                            errors.invalid(&field, text.as_str(), why);
                            continue;
                        }
                    },
                };
                if name == "notNets" && cidr.length() == 0 {
                    errors.invalid(
                        &field,
                        text.as_str(),
                        "must not be everything: the rule would match nothing",
                    );
                }
                match &family {
                    None => family = Some((cidr.is_ipv4(), format!("{side}.{name}[{index}] is {text:?}"))),
                    Some((is_ipv4, because)) if *is_ipv4 != cidr.is_ipv4() => {
                        let expected = if *is_ipv4 { "IPv4" } else { "IPv6" };
                        errors.invalid(
                            &field,
                            text.as_str(),
                            format!("must be {expected} like all of the rule: {because}"),
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn entity(field: &str, side: &EntityRule, errors: &mut Errors) {
    selector(&format!("{field}.selector"), side.selector.as_deref(), Global::Never, errors);
    selector(&format!("{field}.notSelector"), side.not_selector.as_deref(), Global::Never, errors);
    selector(
        &format!("{field}.namespaceSelector"),
        side.namespace_selector.as_deref(),
        Global::Alone,
        errors,
    );
    if let Some(accounts) = &side.service_accounts {
        if let Some(text) = &accounts.selector {
            unlimited_selector(&format!("{field}.serviceAccounts.selector"), text, Global::Never, errors);
        }
        errors
            .unique(&format!("{field}.serviceAccounts.names"), accounts.names.as_deref().unwrap_or_default());
    }
}

fn ports(field: &str, side: &EntityRule, rule: &Rule, errors: &mut Errors) {
    let has_ports = |protocol: &IntOrString| match protocol {
        IntOrString::Int(number) => matches!(number, 6 | 17 | 132),
        IntOrString::String(text) => matches!(text.as_str(), "TCP" | "UDP" | "SCTP" | "6" | "17" | "132"),
    };
    for (name, list) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
        let Some(list) = list else { continue };
        let field = format!("{field}.{name}");
        errors.at_most_items(&field, list, PORTS_MAX);
        let mut has_numbers = false;
        for (index, entry) in list.iter().enumerate() {
            match port(entry) {
                Ok(kind) => has_numbers |= kind == Port::Numeric,
                Err(why) => errors.invalid(&format!("{field}[{index}]"), value(entry), why),
            }
        }
        match &rule.protocol {
            // Whoever has a port of that name has it for some protocol.
            None if !has_numbers => {}
            Some(protocol) if list.is_empty() || has_ports(protocol) => {}
            _ => errors.forbidden(&field, PORTS_NEED_PROTOCOL),
        }
    }
}

fn services(field: &str, service: &ServiceMatch, side: &EntityRule, scope: Scope, errors: &mut Errors) {
    let of = format!("{field}.services");
    match given(&service.name) {
        None => errors.required(&format!("{of}.name"), "the service's name"),
        Some(name) => errors.at_most_characters(&format!("{of}.name"), name, NAME_MAX),
    }
    match given(&service.namespace) {
        None if scope == Scope::Global => {
            errors.required(&format!("{of}.namespace"), "a global policy has no namespace to look in");
        }
        None => {}
        Some(namespace) => errors.at_most_characters(&format!("{of}.namespace"), namespace, NAME_MAX),
    }
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let others = [
        ("selector", given(&side.selector).is_some()),
        ("notSelector", given(&side.not_selector).is_some()),
        ("namespaceSelector", given(&side.namespace_selector).is_some()),
        ("nets", any(&side.nets)),
        ("notNets", any(&side.not_nets)),
        ("serviceAccounts", side.service_accounts.is_some()),
    ];
    for (name, _) in others.iter().filter(|(_, is_given)| *is_given) {
        errors.forbidden(&of, &format!("may not be given together with `{name}`"));
    }
}

fn http_match(field: &str, http: &HttpMatch, rule: &Rule, direction: Direction, errors: &mut Errors) {
    if !matches!(rule.action.as_str(), "Allow" | "") {
        errors.forbidden(field, "may be given only with `action` Allow");
    }
    if rule.protocol.as_ref().is_some_and(|protocol| !is_named(protocol, "TCP")) {
        errors.forbidden(field, "may be given only with `protocol` TCP, or without a protocol");
    }
    if direction == Direction::Egress {
        errors.forbidden(field, "may be given only in ingress rules");
    }
    let methods = http.methods.as_deref().unwrap_or_default();
    errors.at_most_items(&format!("{field}.methods"), methods, HTTP_MAX);
    errors.unique(&format!("{field}.methods"), methods);
    let paths = http.paths.as_deref().unwrap_or_default();
    errors.at_most_items(&format!("{field}.paths"), paths, HTTP_MAX);
    for (index, path) in paths.iter().enumerate() {
        let field = format!("{field}.paths[{index}]");
        if path.exact.is_some() == path.prefix.is_some() {
            errors.invalid(&field, serde_json::json!(path), "must have exactly one of `exact` and `prefix`");
        }
        for (name, text) in [("exact", &path.exact), ("prefix", &path.prefix)] {
            let Some(text) = text else { continue };
            let field = format!("{field}.{name}");
            errors.at_most_characters(&field, text, PATH_MAX);
            if !text.starts_with('/') || text.contains(['?', '#', ' ']) {
                errors.invalid(&field, text.as_str(), "must begin with '/' and have no '?', '#' or space");
            }
        }
    }
}
