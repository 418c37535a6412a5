//! Calico's rules → [`Rule`]s.
//!
//! A rule that cannot be converted must not open anything: one that allows is left out, one that denies or passes denies
//! everything.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::converted::{DroppedRule, fail_closed};
use super::effective::{given, in_namespace, in_namespaces, of_service_accounts};
use super::families::for_its_families;
use super::ports::calico_ports;
use crate::calico;
use crate::cidr::Cidr;
use crate::policy::{Action, IcmpMatch, IpVersion, PeerMatch, Rule, ServiceKey};
use crate::protocol::Protocol;
use crate::selector::Selector;

/// The rules of one direction of a policy in `namespace`, or in none.
pub(super) fn rules(
    namespace: Option<&str>,
    field: &str,
    rules: Option<&[calico::Rule]>,
    dropped: &mut Vec<DroppedRule>,
) -> Vec<Rule> {
    let mut converted = Vec::new();
    for (index, written) in rules.unwrap_or_default().iter().enumerate() {
        let field = format!("{field}[{index}]");
        match rule(namespace, &field, written) {
            Ok(rule) => match for_its_families(rule) {
                Some(rule) => converted.push(rule),
                None => dropped.push(DroppedRule::new(
                    field,
                    "its CIDRs and its ipVersion leave no IP version that it could match",
                )),
            },
            Err(error) => {
                dropped.push(error);
                converted.extend(fail_closed(action(&written.action)));
            }
        }
    }
    converted
}

fn action(name: &str) -> Option<Action> {
    match name {
        "Allow" => Some(Action::Allow),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        "Log" => Some(Action::Log),
        _ => None,
    }
}

fn rule(namespace: Option<&str>, field: &str, rule: &calico::Rule) -> Result<Rule, DroppedRule> {
    let action = action(&rule.action).ok_or_else(|| {
        DroppedRule::new(format!("{field}.action"), format!("unknown action {:?}", rule.action))
    })?;
    let ip_version = match rule.ip_version {
        None => None,
        Some(4) => Some(IpVersion::V4),
        Some(6) => Some(IpVersion::V6),
        Some(other) => {
            return Err(DroppedRule::new(format!("{field}.ipVersion"), format!("{other} is not 4 or 6")));
        }
    };
    let side = |name: &str, side: Option<&calico::EntityRule>| match side {
        None => Ok(PeerMatch::default()),
        Some(side) => peer(namespace, &format!("{field}.{name}"), side),
    };
    Ok(Rule {
        action,
        ip_version,
        protocol: protocol(&format!("{field}.protocol"), rule.protocol.as_ref())?,
        not_protocol: protocol(&format!("{field}.notProtocol"), rule.not_protocol.as_ref())?,
        icmp: icmp(&format!("{field}.icmp"), rule.icmp.as_ref())?,
        not_icmp: icmp(&format!("{field}.notICMP"), rule.not_icmp.as_ref())?,
        source: side("source", rule.source.as_ref())?,
        destination: side("destination", rule.destination.as_ref())?,
    })
}

/// A protocol by name or number.
pub(super) fn protocol(field: &str, protocol: Option<&IntOrString>) -> Result<Option<Protocol>, DroppedRule> {
    let text = match protocol {
        None => return Ok(None),
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
    };
    text.parse().map(Some).map_err(|error| DroppedRule::new(field, error))
}

fn icmp(field: &str, fields: Option<&calico::IcmpFields>) -> Result<Option<IcmpMatch>, DroppedRule> {
    let byte = |name: &str, value: Option<i64>| {
        let not_a_byte =
            |value: i64| DroppedRule::new(format!("{field}.{name}"), format!("{value} is not 0 to 255"));
        value.map(|value| u8::try_from(value).map_err(|_| not_a_byte(value))).transpose()
    };
    let Some(fields) = fields else { return Ok(None) };
    match (byte("type", fields.kind)?, byte("code", fields.code)?) {
        (Some(kind), code) => Ok(Some(IcmpMatch { kind, code })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(DroppedRule::new(format!("{field}.type"), "is missing: the code needs it")),
    }
}

/// One side of a rule. Its namespaces count only where endpoints are selected at all: nets and ports alone are of no
/// namespace.
fn peer(namespace: Option<&str>, field: &str, side: &calico::EntityRule) -> Result<PeerMatch, DroppedRule> {
    let selector = |name: &str, text: &Option<String>| given(&format!("{field}.{name}"), text.as_deref());
    let namespaces = selector("namespaceSelector", &side.namespace_selector)?;
    let written = selector("selector", &side.selector)?;
    let not_selector = selector("notSelector", &side.not_selector)?;
    let accounts = of_service_accounts(&format!("{field}.serviceAccounts"), side.service_accounts.as_ref())?;

    let selects = namespaces.is_some() || written.is_some() || not_selector.is_some() || accounts.is_some();
    let where_ = match namespaces {
        Some(selector) => Some(in_namespaces(selector)),
        None => namespace.filter(|_| selects).map(in_namespace),
    };
    let terms: Vec<Selector> = where_.into_iter().chain(accounts).chain(written).collect();

    let ports = calico_ports(&format!("{field}.ports"), side.ports.as_deref())?;
    let not_ports = calico_ports(&format!("{field}.notPorts"), side.not_ports.as_deref())?;
    Ok(PeerMatch {
        nets: nets(&format!("{field}.nets"), side.nets.as_deref())?,
        not_nets: nets(&format!("{field}.notNets"), side.not_nets.as_deref())?,
        selector: (!terms.is_empty()).then(|| Selector::and(terms)),
        not_selector,
        ports: ports.ranges,
        named_ports: ports.names,
        not_ports: not_ports.ranges,
        not_named_ports: not_ports.names,
        service: service(namespace, &format!("{field}.services"), side.services.as_ref())?,
    })
}

fn service(
    namespace: Option<&str>,
    field: &str,
    service: Option<&calico::ServiceMatch>,
) -> Result<Option<ServiceKey>, DroppedRule> {
    let Some(service) = service else { return Ok(None) };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let missing = |name: &str| DroppedRule::new(format!("{field}.{name}"), "is missing");
    Ok(Some(ServiceKey {
        namespace: given(&service.namespace)
            .or_else(|| namespace.map(str::to_owned))
            .ok_or_else(|| missing("namespace"))?,
        name: given(&service.name).ok_or_else(|| missing("name"))?,
    }))
}

fn nets(field: &str, nets: Option<&[String]>) -> Result<Vec<Cidr>, DroppedRule> {
    let nets = nets.unwrap_or_default().iter().enumerate();
    nets.map(|(index, text)| net(text).map_err(|error| DroppedRule::new(format!("{field}[{index}]"), error)))
        .collect()
}

/// A CIDR, host bits cleared, or an address by itself.
pub(super) fn net(text: &str) -> Result<Cidr, crate::cidr::CidrError> {
    // A network set may hold 100,000: each is read once.
    if text.contains('/') {
        return text.parse();
    }
    text.parse::<IpAddr>().map(Cidr::host).or_else(|_| text.parse())
}
