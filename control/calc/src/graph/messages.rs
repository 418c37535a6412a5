//! The messages of this node's endpoints: made anew for those that a change concerns, once a flush.

use std::collections::BTreeMap;

use caracal_model::convert::{HostEndpointInfo, Limits};
use caracal_model::pod_port::PodPort;
use caracal_plane_api as plane;

use super::{CalcGraph, Local};
use crate::host_endpoints;
use crate::plane::{address, prefix};
use crate::routes::EndpointId;
use crate::sources::{SourceId, SourceKey};

impl CalcGraph {
    /// Settings are this node's, and one of them is part of endpoints' messages.
    pub(super) fn refresh_settings(&mut self) {
        let before = self.config.settings().network.allow_other_sources;
        self.config.refresh();
        if self.config.settings().network.allow_other_sources != before {
            let asks = |local: &Local| matches!(local, Local::Pod(pod) if !pod.other_sources.is_empty());
            let asking: Vec<SourceId> =
                self.local.iter().filter(|(_, local)| asks(local)).map(|(id, _)| *id).collect();
            self.mark(asking);
        }
    }

    /// Makes the messages of local endpoints that may have changed.
    pub(super) fn resolve(&mut self) {
        let hosts = self.local.iter().filter_map(|(id, local)| match local {
            Local::Host(host) => Some((*id, &**host)),
            Local::Pod(_) => None,
        });
        let mut interfaces = BTreeMap::new();
        if self.are_hosts_dirty || self.dirty.keys().any(|key| matches!(key, SourceKey::HostEndpoint(_))) {
            let hosts: Vec<(SourceId, &HostEndpointInfo)> = hosts.collect();
            let bound =
                host_endpoints::interfaces(hosts.iter().map(|(_, host)| *host), &self.config.addresses());
            interfaces.extend(bound.into_iter().map(|(name, interface)| (name.to_owned(), interface)));
            for (id, host) in hosts {
                self.dirty.insert(SourceKey::HostEndpoint(host.name.as_str().into()), Some(id));
            }
            self.are_hosts_dirty = false;
        }
        for (key, id) in std::mem::take(&mut self.dirty) {
            self.resolutions += 1;
            let local = id.and_then(|id| Some((id, self.local.get(&id)?)));
            match key {
                SourceKey::Pod(name) => {
                    let message = local.and_then(|(id, local)| self.pod_message(&name, id, local));
                    self.pods.want(name, message);
                }
                SourceKey::HostEndpoint(name) => {
                    let interface = interfaces.remove(&*name).unwrap_or_default();
                    let message = local.and_then(|(id, local)| self.host_message(id, local, interface));
                    self.hosts.want(name, message);
                }
                SourceKey::NetworkSet(_) | SourceKey::GlobalNetworkSet(_) => {}
            }
        }
    }

    fn pod_message(&self, name: &EndpointId, id: SourceId, local: &Local) -> Option<plane::Endpoint> {
        let Local::Pod(pod) = local else { return None };
        let bindings = self.policies.pod_bindings(id);
        let other_sources = if self.config.settings().network.allow_other_sources {
            pod.other_sources.as_slice()
        } else {
            &[]
        };
        Some(plane::Endpoint {
            id: name.to_string(),
            interface: pod.interface.clone(),
            addresses: pod.addresses.iter().copied().map(address).collect(),
            ingress: bindings.ingress,
            egress: bindings.egress,
            profiles: pod.profiles.clone(),
            staged_ingress: bindings.staged_ingress,
            staged_egress: bindings.staged_egress,
            allowed_sources: other_sources.iter().copied().map(prefix).collect(),
            ingress_limits: limits(&pod.limits.ingress),
            egress_limits: limits(&pod.limits.egress),
            port: pod_port(pod.port).into(),
        })
    }

    fn host_message(&self, id: SourceId, local: &Local, interface: String) -> Option<plane::HostEndpoint> {
        let Local::Host(host) = local else { return None };
        let bindings = self.policies.host_bindings(id);
        Some(plane::HostEndpoint {
            id: host.name.clone(),
            interface,
            addresses: host.expected_ips.iter().copied().map(address).collect(),
            untracked: Some(bindings.untracked),
            pre_dnat: Some(bindings.pre_dnat),
            normal: Some(bindings.normal),
            forward: Some(bindings.forward),
            profiles: host.profiles.clone(),
        })
    }
}

fn pod_port(of: PodPort) -> plane::PodPort {
    match of {
        PodPort::Auto => plane::PodPort::Auto,
        PodPort::AfXdp => plane::PodPort::AfXdp,
        PodPort::Packet => plane::PodPort::Packet,
    }
}

/// None where there are none.
fn limits(of: &Limits) -> Option<plane::Limits> {
    let or_none = Option::unwrap_or_default;
    (*of != Limits::default()).then(|| plane::Limits {
        packets_per_second: or_none(of.packet_rate),
        packet_burst: or_none(of.packet_burst),
        bits_per_second: or_none(of.bandwidth),
        burst_bits: or_none(of.burst),
        peak_bits_per_second: or_none(of.peak_rate),
        peak_burst_bytes: or_none(of.min_burst),
        connections: or_none(of.max_connections),
    })
}
