//! Host endpoints that are made for nodes: one for all interfaces of each, and what the templates say.
//!
//! ```text
//!   default       NODE-auto-hep              interface *         addresses of the node and of its tunnels
//!   template T    NODE-T-auto-hep            *, or by address    those within interfaceCIDRs, if it has any
//!   with pattern  NODE-T-INTERFACE-auto-hep  each that matches   the interface's, likewise
//! ```
//!
//! The label `projectcalico.org/created-by` says which are of our making; all others are people's and are not touched, also
//! not when they have a name that one of ours would have. Which there should be follows from nodes and configuration alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_ipam::Record;
use caracal_model::annotations::{NODE_INTERFACES, NODE_IPV4_WIREGUARD_ADDRESS, NODE_IPV6_WIREGUARD_ADDRESS};
use caracal_model::calico::{HostEndpoint, HostEndpointSpec, HostEndpointTemplate};
use caracal_model::cidr::Cidr;
use caracal_model::convert::{default_allow_profile, node_info, node_labels};
use caracal_model::names::content_hash;
use caracal_model::object::{Kind, Object};
use caracal_model::selector::Selector;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use regex::Regex;
use serde::Deserialize;

use crate::controller::Now;
use crate::settings::{NodeSettings, Settings};
use crate::{Action, Cluster, Controller, Plan};

/// The label that says who has made a host endpoint.
const CREATED_BY: &str = "projectcalico.org/created-by";
/// Calico's controllers, whose place we take: what they have made is ours.
const CREATOR: &str = "calico-kube-controllers";
/// What the names of all of ours end in.
const SUFFIX: &str = "-auto-hep";
/// The longest name of an object.
const NAME_MAX: usize = 253;

/// The controller.
#[derive(Debug, Default)]
pub struct HostEndpoints;

impl Controller for HostEndpoints {
    fn name(&self) -> &'static str {
        "hostendpoint"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::HostEndpoint, Kind::KubeControllersConfiguration]
    }

    fn plan(&mut self, cluster: &Cluster, _: Vec<Record>, settings: &Settings, _: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(settings) = &settings.node else { return plan };
        let mut wanted = wanted(cluster, settings, &mut plan.problems);
        for endpoint in cluster.host_endpoints() {
            let name = endpoint.metadata.name.clone().unwrap_or_default();
            let new = wanted.remove(&name);
            if !is_ours(endpoint) {
                if new.is_some() {
                    let why = format!(
                        "host endpoint {name} is not of our making, and has a name that we would give; left alone"
                    );
                    plan.problems.push(why);
                }
                continue;
            }
            match new {
                None => plan.actions.push(Action::Delete(endpoint.clone().into())),
                Some(new) => plan.actions.extend(changed(endpoint, new).map(Action::Replace)),
            }
        }
        plan.actions.extend(wanted.into_values().map(|new| Action::Create(new.into())));
        plan
    }
}

fn is_ours(endpoint: &HostEndpoint) -> bool {
    let labels = endpoint.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(CREATED_BY)).is_some_and(|creator| creator == CREATOR)
}

/// The host endpoint as it should be, if it is not. Annotations that others have made stay.
fn changed(endpoint: &HostEndpoint, new: HostEndpoint) -> Option<Object> {
    let mut annotations = endpoint.metadata.annotations.clone().unwrap_or_default();
    annotations.extend(new.metadata.annotations.unwrap_or_default());
    let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let mut should = endpoint.clone();
    (should.metadata.labels, should.metadata.annotations) = (new.metadata.labels, annotations);
    should.spec = new.spec;
    (should != *endpoint).then(|| should.into())
}

/// Those that there should be, by name.
fn wanted(
    cluster: &Cluster,
    settings: &NodeSettings,
    problems: &mut Vec<String>,
) -> BTreeMap<String, HostEndpoint> {
    let mut all = BTreeMap::new();
    if !settings.auto_create {
        return all;
    }
    let templates: Vec<Template> = (0..)
        .zip(&settings.templates)
        .filter_map(|(index, written)| {
            let read = Template::read(written);
            let wrong = |why: String| {
                format!("KubeControllersConfiguration: controllers.node.hostEndpoint.templates[{index}].{why}; no host endpoint is made of it")
            };
            read.map_err(|why| problems.push(wrong(why))).ok()
        })
        .collect();
    for node in cluster.nodes() {
        let node = Machine::read(node);
        let mut made = Vec::new();
        if settings.create_default {
            made.push(node.endpoint("", Some("*".to_owned()), node.addresses.clone(), None));
        }
        for template in &templates {
            made.extend(template.endpoints(&node));
        }
        for endpoint in made {
            // Of two templates of one name the first counts.
            all.entry(endpoint.metadata.name.clone().unwrap_or_default()).or_insert(endpoint);
        }
    }
    all
}

/// A node, as far as host endpoints go.
struct Machine {
    name: String,
    labels: BTreeMap<String, String>,
    selectable: caracal_model::labels::Labels,
    addresses: Vec<IpAddr>,
    interfaces: Vec<Interface>,
}

/// An interface, as the node's annotation tells of it.
#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    addresses: Vec<String>,
}

impl Machine {
    fn read(node: &Node) -> Self {
        let info = node_info(node);
        let annotation = |key: &str| {
            let all = node.metadata.annotations.as_ref();
            all.and_then(|all| all.get(key)).map(String::as_str).unwrap_or_default()
        };
        let status = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let listed = status.iter().filter(|of| matches!(of.type_.as_str(), "InternalIP" | "ExternalIP"));
        let wireguard = [NODE_IPV4_WIREGUARD_ADDRESS, NODE_IPV6_WIREGUARD_ADDRESS];
        let all = info
            .addresses()
            .chain(listed.filter_map(|of| of.address.parse().ok()))
            .chain(info.tunnel_addresses())
            .chain(wireguard.iter().filter_map(|key| annotation(key).parse().ok()));
        let mut addresses = Vec::new();
        for address in all {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let selectable = node_labels(node);
        Self {
            name: info.name,
            labels: selectable.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            selectable,
            addresses,
            // What cannot be read is as if it were not there.
            interfaces: serde_json::from_str(annotation(NODE_INTERFACES)).unwrap_or_default(),
        }
    }

    fn endpoint(
        &self,
        infix: &str,
        interface: Option<String>,
        addresses: Vec<IpAddr>,
        template: Option<&HostEndpointTemplate>,
    ) -> HostEndpoint {
        let mut labels = self.labels.clone();
        let of_template = template.and_then(|template| template.labels.clone()).unwrap_or_default();
        labels.extend(of_template);
        labels.insert(CREATED_BY.to_owned(), CREATOR.to_owned());
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        HostEndpoint {
            metadata: ObjectMeta {
                name: Some(name(&self.name, infix)),
                labels: Some(labels),
                annotations: template.and_then(|template| template.annotations.clone()),
                ..ObjectMeta::default()
            },
            spec: HostEndpointSpec {
                node: Some(self.name.clone()),
                interface_name: interface,
                expected_ips: Some(addresses).filter(|addresses| !addresses.is_empty()),
                profiles: Some(vec![default_allow_profile().name]),
                ports: None,
            },
            status: None,
        }
    }
}

/// `NODE-INFIX-auto-hep`, as a name that objects may have. What is changed for that, or is too long, is told apart by a hash.
fn name(node: &str, infix: &str) -> String {
    let wanted = if infix.is_empty() { node.to_owned() } else { format!("{node}-{infix}") };
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_plain)
            && part.ends_with(is_plain)
            && part.chars().all(|c| is_plain(c) || c == '-')
    };
    let name = wanted.clone() + SUFFIX;
    if name.len() <= NAME_MAX && name.split('.').all(is_part) {
        return name;
    }
    let hash: String = content_hash(&wanted).chars().take(10).collect();
    let kept: String = wanted.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let kept: String = kept.chars().take(NAME_MAX - SUFFIX.len() - 1 - hash.len()).collect();
    format!("{}-{hash}{SUFFIX}", kept.trim_matches('-'))
}

/// A template, read.
struct Template<'a> {
    written: &'a HostEndpointTemplate,
    name: String,
    nodes: Selector,
    cidrs: Vec<Cidr>,
    pattern: Option<Regex>,
}

impl<'a> Template<'a> {
    fn read(written: &'a HostEndpointTemplate) -> Result<Self, String> {
        let given = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
        let name = given(&written.generate_name).ok_or("generateName: must be given")?.to_owned();
        let nodes = Selector::parse(given(&written.node_selector).unwrap_or_default())
            .map_err(|error| format!("nodeSelector: {error}"))?;
        let cidrs = written.interface_cidrs.iter().flatten();
        let cidrs = cidrs.map(|text| text.parse().map_err(|error| format!("interfaceCIDRs: {error}")));
        let pattern = given(&written.interface_pattern).map(Regex::new).transpose();
        Ok(Self {
            written,
            name,
            nodes,
            cidrs: cidrs.collect::<Result<_, String>>()?,
            pattern: pattern.map_err(|error| format!("interfacePattern: {error}"))?,
        })
    }

    /// What it makes for a node.
    fn endpoints(&self, node: &Machine) -> Vec<HostEndpoint> {
        if !self.nodes.matches(&node.selectable) {
            return Vec::new();
        }
        let within = |addresses: Vec<IpAddr>| -> Vec<IpAddr> {
            let is_within = |address: &IpAddr| self.cidrs.iter().any(|cidr| cidr.contains(*address));
            addresses.into_iter().filter(|address| self.cidrs.is_empty() || is_within(address)).collect()
        };
        let template = Some(self.written);
        let Some(pattern) = &self.pattern else {
            let addresses = within(node.addresses.clone());
            // Where addresses are asked for, they say which interface it is.
            return match (self.cidrs.is_empty(), addresses.is_empty()) {
                (true, _) => vec![node.endpoint(&self.name, Some("*".to_owned()), addresses, template)],
                (false, true) => Vec::new(),
                (false, false) => vec![node.endpoint(&self.name, None, addresses, template)],
            };
        };
        let mut made = Vec::new();
        for interface in node.interfaces.iter().filter(|interface| is_interface(&interface.name)) {
            let texts = interface.addresses.iter().map(|text| text.split('/').next().unwrap_or_default());
            let addresses = within(texts.filter_map(|text| text.parse().ok()).collect());
            if pattern.is_match(&interface.name) && (self.cidrs.is_empty() || !addresses.is_empty()) {
                let infix = format!("{}-{}", self.name, interface.name);
                made.push(node.endpoint(&infix, Some(interface.name.clone()), addresses, template));
            }
        }
        made
    }
}

/// Whether a host endpoint may name such an interface.
fn is_interface(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=15).contains(&name.len()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests;
