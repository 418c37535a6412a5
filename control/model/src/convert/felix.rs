//! FelixConfiguration → [`FelixSettings`]: what of Calico's node configuration concerns us, resolved for one node.
//!
//! For each field the first of these that gives it: `node.<name>`, the oldest object whose `nodeSelector` selects the
//! node, `default`, and the default that is built in. A value that cannot be read counts as the built-in default.

mod monitoring;
mod network;

use std::str::FromStr;

use serde_json::Value;

use crate::annotations;
use crate::calico::FelixConfiguration;
use crate::cidr::Cidr;
use crate::labels::Labels;
use crate::protocol::Protocol;
use crate::selector::Selector;

use super::calico_rule::net;
pub use monitoring::MonitoringSettings;
pub use network::{FlowTimeouts, MtuSettings, NetworkSettings};

/// What concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FelixSettings {
    /// `defaultEndpointToHostAction`.
    pub endpoint_to_host: EndpointToHost,
    /// `failsafeInboundHostPorts`.
    pub failsafe_inbound: Vec<FailsafePort>,
    /// `failsafeOutboundHostPorts`.
    pub failsafe_outbound: Vec<FailsafePort>,
    /// `allowVXLANPacketsFromWorkloads`.
    pub allow_vxlan_from_workloads: bool,
    /// `allowIPIPPacketsFromWorkloads`.
    pub allow_ipip_from_workloads: bool,
    /// `logPrefix`.
    pub log_prefix: String,
    /// What becomes of established flows when policy changes.
    pub established_flows: EstablishedFlows,
    /// What concerns addresses, tunnels and translation.
    pub network: NetworkSettings,
    /// How the agent is watched.
    pub monitoring: MonitoringSettings,
}

/// What becomes of traffic from a pod to its own host, once the pod's egress policy has let it pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointToHost {
    /// It is let through, as Calico's installers configure it.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
    /// The host's own rules judge it.
    Return,
}

/// What becomes of established flows when policy changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EstablishedFlows {
    /// They are judged again.
    #[default]
    Rejudge,
    /// They keep the verdict of their first packet, as with Calico's kernel data planes.
    Keep,
}

/// Traffic of the host that no policy of a host endpoint may cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailsafePort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
    /// Only with remote ends in this network.
    pub net: Option<Cidr>,
}

impl Default for FelixSettings {
    fn default() -> Self {
        let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
        let ports = |list: &[(Protocol, u16)]| {
            let port = |&(protocol, port): &(Protocol, u16)| FailsafePort { protocol, port, net: None };
            list.iter().map(port).collect()
        };
        let both = [(tcp, 179), (tcp, 2379), (tcp, 2380), (tcp, 5473), (tcp, 6443), (tcp, 6666), (tcp, 6667)];
        Self {
            endpoint_to_host: EndpointToHost::default(),
            failsafe_inbound: ports(&[&[(tcp, 22), (udp, 68)], both.as_slice()].concat()),
            failsafe_outbound: ports(&[&[(udp, 53), (udp, 67)], both.as_slice()].concat()),
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            log_prefix: "calico-packet".to_owned(),
            established_flows: EstablishedFlows::default(),
            network: NetworkSettings::default(),
            monitoring: MonitoringSettings::default(),
        }
    }
}

/// The settings of a node with these labels.
pub fn felix_settings<'a>(
    configurations: impl IntoIterator<Item = &'a FelixConfiguration>,
    node: &str,
    labels: &Labels,
) -> FelixSettings {
    let mut applicable: Vec<(Precedence<'_>, &FelixConfiguration)> = configurations
        .into_iter()
        .filter_map(|object| Some((precedence(object, node, labels)?, object)))
        .collect();
    applicable.sort_by(|(a, _), (b, _)| a.cmp(b));
    let defaults = FelixSettings::default();
    let given = |field: &str| {
        applicable.iter().find_map(|(_, object)| object.spec.0.get(field).filter(|value| !value.is_null()))
    };
    let flag = |field: &str, default: bool| given(field).and_then(Value::as_bool).unwrap_or(default);
    let ports =
        |field: &str, default: Vec<FailsafePort>| given(field).and_then(failsafe_ports).unwrap_or(default);
    let annotated = applicable
        .iter()
        .find_map(|(_, object)| object.metadata.annotations.as_ref()?.get(annotations::ESTABLISHED_FLOWS));
    FelixSettings {
        endpoint_to_host: given("defaultEndpointToHostAction")
            .and_then(Value::as_str)
            .and_then(endpoint_to_host)
            .unwrap_or(defaults.endpoint_to_host),
        failsafe_inbound: ports("failsafeInboundHostPorts", defaults.failsafe_inbound),
        failsafe_outbound: ports("failsafeOutboundHostPorts", defaults.failsafe_outbound),
        allow_vxlan_from_workloads: flag(
            "allowVXLANPacketsFromWorkloads",
            defaults.allow_vxlan_from_workloads,
        ),
        allow_ipip_from_workloads: flag("allowIPIPPacketsFromWorkloads", defaults.allow_ipip_from_workloads),
        log_prefix: given("logPrefix").and_then(Value::as_str).map_or(defaults.log_prefix, str::to_owned),
        established_flows: match annotated.map(String::as_str) {
            Some("Keep") => EstablishedFlows::Keep,
            _ => EstablishedFlows::Rejudge,
        },
        network: NetworkSettings::read(given),
        monitoring: MonitoringSettings::read(given),
    }
}

/// How specific an object is for a node, the most specific first; the oldest, then the first by name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Precedence<'a> {
    Node,
    Selected { created: Option<String>, name: &'a str },
    Default,
}

/// `None` for an object that does not apply to the node.
fn precedence<'a>(object: &'a FelixConfiguration, node: &str, labels: &Labels) -> Option<Precedence<'a>> {
    let name = object.metadata.name.as_deref()?;
    if name == "default" {
        return Some(Precedence::Default);
    }
    if let Some(of_node) = name.strip_prefix("node.") {
        return (of_node == node).then_some(Precedence::Node);
    }
    let selector = object.spec.0.get("nodeSelector")?.as_str().filter(|text| !text.trim().is_empty())?;
    let selected = Selector::from_str(selector).is_ok_and(|selector| selector.matches(labels));
    // RFC 3339 in UTC sorts as the times do.
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    selected.then_some(Precedence::Selected { created, name })
}

fn endpoint_to_host(text: &str) -> Option<EndpointToHost> {
    match text.to_ascii_lowercase().as_str() {
        "accept" => Some(EndpointToHost::Accept),
        "drop" => Some(EndpointToHost::Drop),
        "return" => Some(EndpointToHost::Return),
        _ => None,
    }
}

/// A list of protocols and ports; an empty one is meant, as is "none"; `None` is what cannot be read.
fn failsafe_ports(value: &Value) -> Option<Vec<FailsafePort>> {
    if value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("none")) {
        return Some(Vec::new());
    }
    let entries = value.as_array()?.iter().map(|entry| {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let protocol = text("protocol").unwrap_or("TCP").to_ascii_uppercase();
        let port = u16::try_from(entry.get("port")?.as_u64()?).ok().filter(|port| *port != 0)?;
        Some(FailsafePort {
            protocol: Protocol::from_kubernetes(&protocol)?,
            port,
            net: text("net").map(net).transpose().ok()?,
        })
    });
    entries.collect()
}
