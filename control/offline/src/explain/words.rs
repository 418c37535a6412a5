//! Why a rule did not match, in the words of whoever wrote it: the field, what it asks, and what the packet is.

use std::net::IpAddr;

use caracal_dataplane::table::{FlowDirection, FlowTuple, Mismatch, Side};
use caracal_model::case::World;
use caracal_model::convert;
use caracal_model::object::Object;
use caracal_model::protocol::Protocol;
use serde_json::Value;

use super::cluster::{Cluster, Walk};
use super::document::MismatchReport;

/// What a mismatch is about, and why it is one. `rule` is the rule as written, if it is known.
pub(super) fn mismatch(
    found: &Mismatch,
    rule: Option<&Value>,
    walk: &Walk,
    world: &World,
    cluster: &Cluster,
) -> MismatchReport {
    let flow = &walk.flow;
    let asked = |field: &str| rule.and_then(|rule| at(rule, field)).map_or_else(String::new, said);
    let report = |field: String, why: String| MismatchReport { field, why };
    let version = if flow.local_address.is_ipv6() { 6 } else { 4 };
    let protocol = Protocol(flow.protocol);
    let icmp = flow.icmp.map_or_else(
        || format!("the packet is {protocol}"),
        |(kind, code)| format!("the message is type {kind} code {code}"),
    );
    match found {
        Mismatch::IpVersion => {
            report("ipVersion".into(), format!("the packet is IPv{version}, and the rule is not about that"))
        }
        Mismatch::Protocol => {
            let field = if is_kubernetes(rule) { "ports" } else { "protocol" };
            report(field.into(), format!("the packet is {protocol}; {}", wants(&asked(field))))
        }
        Mismatch::NotProtocol => {
            report("notProtocol".into(), format!("the packet is {protocol}, which the rule excludes"))
        }
        Mismatch::Icmp => report("icmp".into(), format!("{icmp}; {}", wants(&asked("icmp")))),
        Mismatch::NotIcmp => report("notICMP".into(), format!("{icmp}, which the rule excludes")),
        Mismatch::Ports(side) => {
            let field = port_field(rule, *side, "ports");
            let (_, port) = end(flow, *side);
            report(field.clone(), format!("the {side} port is {port}; {}", wants(&asked(&field))))
        }
        Mismatch::NotPorts(side) => {
            let (_, port) = end(flow, *side);
            report(
                port_field(rule, *side, "notPorts"),
                format!("the {side} port is {port}, which the rule excludes"),
            )
        }
        Mismatch::NotInSet { side, set } => {
            let described = cluster.describe(walk.node, set).unwrap_or_else(|| set.to_string());
            let field = set_field(rule, *side, walk.direction, &described, true);
            let (address, _) = end(flow, *side);
            let what = if described.starts_with("nets") { "is in none of" } else { "is not of" };
            let wanted = match asked(&field) {
                text if text.is_empty() => described,
                text => format!("{text} (that is, {described})"),
            };
            report(field, format!("{} {what} {wanted}", who(world, address)))
        }
        Mismatch::InSet { side, set } => {
            let described = cluster.describe(walk.node, set).unwrap_or_else(|| set.to_string());
            let field = set_field(rule, *side, walk.direction, &described, false);
            let (address, _) = end(flow, *side);
            report(field, format!("{} is of {described}, which the rule excludes", who(world, address)))
        }
    }
}

fn wants(asked: &str) -> String {
    if asked.is_empty() {
        "the rule asks for another".to_owned()
    } else {
        format!("the rule asks for {asked}")
    }
}

/// The end of a flow that is on a side of rules.
pub(super) fn end(flow: &FlowTuple, side: Side) -> (IpAddr, u16) {
    let is_local = (side == Side::Destination) == (flow.direction == FlowDirection::Ingress);
    if is_local { (flow.local_address, flow.local_port) } else { (flow.peer_address, flow.peer_port) }
}

fn at<'a>(rule: &'a Value, field: &str) -> Option<&'a Value> {
    field.split('.').try_fold(rule, |value, part| value.get(part))
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Rules of Kubernetes say `from`, `to` and `ports`, and nothing of sides.
fn is_kubernetes(rule: Option<&Value>) -> bool {
    rule.is_some_and(|rule| rule.get("action").is_none())
}

fn is_cluster_policy(rule: Option<&Value>) -> bool {
    rule.is_some_and(|rule| {
        rule.get("from").is_some() || rule.get("to").is_some() || rule.get("protocols").is_some()
    })
}

fn port_field(rule: Option<&Value>, side: Side, list: &str) -> String {
    if is_kubernetes(rule) {
        "ports".to_owned()
    } else if is_cluster_policy(rule) {
        "protocols".to_owned()
    } else {
        format!("{side}.{list}")
    }
}

/// The field of a rule that a set of addresses came from.
fn set_field(
    rule: Option<&Value>,
    side: Side,
    direction: FlowDirection,
    described: &str,
    wanted: bool,
) -> String {
    if is_kubernetes(rule) || is_cluster_policy(rule) {
        return if direction == FlowDirection::Ingress { "from" } else { "to" }.to_owned();
    }
    let kinds: &[&str] = if described.starts_with("nets") {
        if wanted { &["nets"] } else { &["notNets"] }
    } else if described.starts_with("service") {
        &["services"]
    } else if wanted {
        &["selector", "namespaceSelector", "serviceAccounts", "notSelector"]
    } else {
        &["notSelector"]
    };
    let given =
        kinds.iter().find(|kind| rule.is_some_and(|rule| at(rule, &format!("{side}.{kind}")).is_some()));
    format!("{side}.{}", given.or(kinds.first()).copied().unwrap_or_default())
}

/// Who has an address, with the labels that selectors look at: a pod, sets, host endpoints.
pub(super) fn who(world: &World, address: IpAddr) -> String {
    let mut owners: Vec<(String, Vec<(String, String)>)> = labels_of(world, address).into_iter().collect();
    for object in &world.objects {
        let has_it = match object {
            Object::NetworkSet(set) => convert::network_set(set).nets.iter().any(|net| net.contains(address)),
            Object::GlobalNetworkSet(set) => {
                convert::global_network_set(set).nets.iter().any(|net| net.contains(address))
            }
            Object::HostEndpoint(host) => convert::host_endpoint(host).expected_ips.contains(&address),
            _ => false,
        };
        if has_it {
            let labels = object.metadata().labels.clone().unwrap_or_default();
            owners.push((object.key().to_string(), labels.into_iter().collect()));
        }
    }
    if owners.is_empty() {
        return match world.nodes.iter().find(|node| IpAddr::V4(node.address) == address) {
            Some(node) => format!("{address} (node {})", node.name),
            None => format!("{address} (nobody that policy knows)"),
        };
    }
    let owners: Vec<String> = owners
        .into_iter()
        .map(|(name, labels)| {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{name}: {}", if labels.is_empty() { "no labels".to_owned() } else { labels.join(", ") })
        })
        .collect();
    format!("{address} ({})", owners.join("; "))
}

/// The pod that has an address, and its own labels and those of its namespace.
fn labels_of(world: &World, address: IpAddr) -> Option<(String, Vec<(String, String)>)> {
    let pod = pod_of(world, address)?;
    let labels = |object: &Object| object.metadata().labels.clone().unwrap_or_default();
    let mut all: Vec<(String, String)> = Vec::new();
    for object in &world.objects {
        let key = object.key();
        match object {
            Object::Pod(_) if key.name == pod.name && key.namespace.as_deref() == Some(&pod.namespace) => {
                all.splice(0..0, labels(object));
            }
            Object::Namespace(_) if key.name == pod.namespace => {
                all.extend(
                    labels(object).into_iter().map(|(name, value)| (format!("namespace {name}"), value)),
                );
            }
            _ => {}
        }
    }
    Some((format!("pod {}/{}", pod.namespace, pod.name), all))
}

pub(super) fn pod_of(world: &World, address: IpAddr) -> Option<&caracal_model::case::WorldPod> {
    world.pods.iter().find(|pod| !pod.host_network && pod.addresses.contains(&address))
}

/// A pod's own labels.
pub(super) fn own_labels(world: &World, namespace: &str, name: &str) -> Vec<(String, String)> {
    let is_it = |object: &&Object| {
        let key = object.key();
        matches!(object, Object::Pod(_)) && key.name == name && key.namespace.as_deref() == Some(namespace)
    };
    let labels = world.objects.iter().find(is_it).and_then(|object| object.metadata().labels.clone());
    let is_heard = |(key, _): &(String, String)| !key.starts_with("pcns.") && !key.starts_with("pcsa.");
    labels.unwrap_or_default().into_iter().filter(is_heard).collect()
}

/// The labels of a host endpoint.
pub(super) fn host_endpoint_labels(world: &World, name: &str) -> Vec<(String, String)> {
    let is_it = |object: &&Object| matches!(object, Object::HostEndpoint(_)) && object.key().name == name;
    let labels = world.objects.iter().find(is_it).and_then(|object| object.metadata().labels.clone());
    labels.unwrap_or_default().into_iter().collect()
}
