//! What of a node's configuration concerns policy.

use std::net::IpAddr;

use serde_json::Value;

use super::address::Block;
use super::calico::protocol_number;
use super::cluster::Cluster;
use super::selector::{LabelMap, Subject, evaluate};

/// The node agent's configuration, of one node.
#[derive(Debug)]
pub(super) struct Felix<'a> {
    /// What says something for the node; the first that gives a field decides.
    by_rank: Vec<&'a std::collections::BTreeMap<String, Value>>,
}

impl<'a> Felix<'a> {
    pub(super) fn new(cluster: &Cluster<'a>, node: &str) -> Self {
        let labels = cluster
            .nodes
            .iter()
            .find(|object| object.metadata.name.as_deref() == Some(node))
            .and_then(|object| object.metadata.labels.clone())
            .unwrap_or_default();
        let mut ranked: Vec<_> = cluster
            .configurations
            .iter()
            .filter_map(|object| {
                let name = object.metadata.name.as_deref()?;
                let rank = match name.strip_prefix("node.") {
                    Some(of) if of == node => 0,
                    Some(_) => return None,
                    None if name == "default" => 2,
                    None => selects(object.spec.0.get("nodeSelector"), &labels).then_some(1)?,
                };
                let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
                Some((rank, created, name, &object.spec.0))
            })
            .collect();
        ranked.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
        Self { by_rank: ranked.into_iter().map(|(_, _, _, fields)| fields).collect() }
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.by_rank.iter().find_map(|fields| fields.get(field).filter(|value| !value.is_null()))
    }

    fn flag(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool) == Some(true)
    }

    pub(super) fn lets_pods_send_vxlan(&self) -> bool {
        self.flag("allowVXLANPacketsFromWorkloads")
    }

    pub(super) fn lets_pods_send_ipip(&self) -> bool {
        self.flag("allowIPIPPacketsFromWorkloads")
    }

    /// `Accept`, `Drop` or `Return`; Calico's installers ship the first.
    pub(super) fn endpoint_to_host(&self) -> &'a str {
        self.get("defaultEndpointToHostAction").and_then(Value::as_str).unwrap_or("Accept")
    }

    /// Whether a port is open whatever policy says: from or to `remote`, to `port`.
    pub(super) fn is_failsafe(&self, inbound: bool, protocol: u8, port: Option<u16>, remote: IpAddr) -> bool {
        let Some(port) = port else { return false };
        let (field, defaults): (_, &[(u8, u16)]) = match inbound {
            true => ("failsafeInboundHostPorts", &[(6, 22), (17, 68)]),
            false => ("failsafeOutboundHostPorts", &[(17, 53), (17, 67)]),
        };
        let both = [(6, 179), (6, 2379), (6, 2380), (6, 5473), (6, 6443), (6, 6666), (6, 6667)];
        let given = self.get(field);
        if given.and_then(Value::as_str).is_some_and(|text| text.to_lowercase() == "none") {
            return false;
        }
        match given.and_then(Value::as_array) {
            None => defaults.contains(&(protocol, port)) || both.contains(&(protocol, port)),
            Some(entries) => entries.iter().any(|entry| {
                let name = entry.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_uppercase();
                let net = entry.get("net").and_then(Value::as_str).filter(|net| !net.is_empty());
                protocol_number(&name) == Some(protocol)
                    && entry.get("port").and_then(Value::as_u64) == Some(u64::from(port))
                    && net.is_none_or(|net| Block::read(net).is_some_and(|net| net.holds(remote)))
            }),
        }
    }
}

fn selects(selector: Option<&Value>, labels: &LabelMap) -> bool {
    let subject = Subject { labels, prefix: "", all: true, global: true };
    let text = selector.and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    text.is_some_and(|text| evaluate(text, &subject) == Some(true))
}
