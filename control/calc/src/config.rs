//! What the fastpath must know of its own node: the node's object, what FelixConfigurations say for it, and the pools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use caracal_model::calico::FelixConfiguration;
use caracal_model::convert::{
    EndpointToHost, EstablishedFlows, FailsafePort, FelixSettings, FlowTimeouts, NodeInfo, felix_settings,
};
use caracal_model::labels::Labels;
use caracal_model::policy::PortRange;
use caracal_plane_api as plane;

use crate::mtu::Mtu;
use crate::plane::{address, prefix};
use crate::pools::Pools;

/// The tap device for what the host originates.
const HOST_PORT: &str = "caracal0";
/// The tap device for what the host forwards.
const FORWARD_PORT: &str = "caracal1";

/// Who sees to services for this host: for what it originates, and for what comes in to its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostServices {
    /// The fastpath does, NodePorts included.
    #[default]
    Replace,
    /// A kube-proxy does. Pods are served by the fastpath all the same.
    Coexist,
}

/// The vertex for this node's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    node: String,
    services: HostServices,
    own: Option<(NodeInfo, Labels)>,
    configurations: BTreeMap<String, FelixConfiguration>,
    settings: FelixSettings,
    are_settings_stale: bool,
    is_dirty: bool,
    said: Option<plane::NodeConfig>,
}

impl Config {
    pub fn new(node: &str, services: HostServices) -> Self {
        Self {
            node: node.to_owned(),
            services,
            own: None,
            configurations: BTreeMap::new(),
            settings: FelixSettings::default(),
            are_settings_stale: false,
            is_dirty: false,
            said: None,
        }
    }

    /// This node is there, like this, or is gone.
    pub fn set_node(&mut self, own: Option<(NodeInfo, Labels)>) {
        self.own = own;
        self.are_settings_stale = true;
        self.is_dirty = true;
    }

    /// The FelixConfiguration is there, like this, or is gone.
    pub fn set_configuration(&mut self, name: &str, configuration: Option<FelixConfiguration>) {
        match configuration {
            Some(configuration) => drop(self.configurations.insert(name.to_owned(), configuration)),
            None => drop(self.configurations.remove(name)),
        }
        self.are_settings_stale = true;
        self.is_dirty = true;
    }

    /// The pools have changed.
    pub fn pools_changed(&mut self) {
        self.is_dirty = true;
    }

    /// The settings of this node; up to date after [`refresh`](Self::refresh).
    pub fn settings(&self) -> &FelixSettings {
        &self.settings
    }

    /// Reads the settings again if they may have changed.
    pub fn refresh(&mut self) {
        if std::mem::take(&mut self.are_settings_stale) {
            let unlabelled = Labels::new();
            let labels = self.own.as_ref().map_or(&unlabelled, |(_, labels)| labels);
            self.settings = felix_settings(self.configurations.values(), &self.node, labels);
        }
    }

    /// The addresses of this node, as far as they are known.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.own.iter().flat_map(|(info, _)| info.addresses()).collect()
    }

    /// How big pods' packets may be.
    pub fn mtu(&self, pools: &Pools) -> Mtu {
        Mtu::new(&self.settings, pools, self.own.as_ref().map(|(info, _)| info))
    }

    fn message(&self, pools: &Pools) -> Option<plane::NodeConfig> {
        let (info, _) = self.own.as_ref()?;
        info.addresses().next()?;
        let settings = &self.settings;
        let network = &settings.network;
        let endpoint_to_host = match settings.endpoint_to_host {
            EndpointToHost::Accept => plane::EndpointToHost::Accept,
            EndpointToHost::Drop => plane::EndpointToHost::Drop,
            EndpointToHost::Return => plane::EndpointToHost::Return,
        };
        let nat_outgoing = pools.nat_outgoing().map(|pools| plane::NatOutgoing {
            pools,
            exclude_hosts: network.nat_excludes_hosts,
            address: network.nat_address.map(|own| address(own.into())).unwrap_or_default(),
            ports: network.nat_ports.map(port_range),
        });
        let node_ports = || plane::NodePorts {
            ranges: network.node_port_ranges.iter().copied().map(port_range).collect(),
            addresses: Vec::new(),
        };
        let has_timeouts = network.timeouts != FlowTimeouts::default();
        let v4 = |own: Option<_>| own.map(|own| address(IpAddr::V4(own))).unwrap_or_default();
        let v6 = |own: Option<_>| own.map(|own| address(IpAddr::V6(own))).unwrap_or_default();
        Some(plane::NodeConfig {
            node: self.node.clone(),
            address: v4(info.address),
            tunnel_address: v4(info.vxlan_tunnel_address),
            tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
            vni: network.vxlan_vni,
            vxlan_port: network.vxlan_port.into(),
            host_port: HOST_PORT.to_owned(),
            forward_port: FORWARD_PORT.to_owned(),
            keep_established: settings.established_flows == EstablishedFlows::Keep,
            endpoint_to_host: endpoint_to_host.into(),
            failsafe_inbound: settings.failsafe_inbound.iter().map(failsafe).collect(),
            failsafe_outbound: settings.failsafe_outbound.iter().map(failsafe).collect(),
            allow_vxlan_from_workloads: settings.allow_vxlan_from_workloads,
            allow_ipip_from_workloads: settings.allow_ipip_from_workloads,
            log_prefix: settings.log_prefix.clone(),
            address_v6: v6(info.address_v6),
            tunnel_address_v6: v6(info.vxlan_tunnel_address_v6),
            tunnel_mac_v6: info.vxlan_tunnel_mac_v6.to_vec(),
            ipip_tunnel_address: v4(info.ipip_tunnel_address),
            tunnel_sources: network.external_nodes.iter().copied().map(prefix).collect(),
            nat_outgoing,
            flow_timeouts: has_timeouts.then(|| flow_timeouts(&network.timeouts)),
            node_ports: (self.services == HostServices::Replace).then(node_ports),
            plain_pools: pools.plain(),
        })
    }

    /// The configuration, if it is not as last said. A node whose object is gone keeps its last one: there is no way to
    /// have none.
    pub fn flush(&mut self, pools: &Pools) -> Option<plane::NodeConfig> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let new = self.message(pools).filter(|message| self.said.as_ref() != Some(message))?;
        self.said = Some(new.clone());
        Some(new)
    }

    /// As last said.
    pub fn said(&self) -> Option<&plane::NodeConfig> {
        self.said.as_ref()
    }
}

fn failsafe(port: &FailsafePort) -> plane::Failsafe {
    plane::Failsafe { protocol: port.protocol.0.into(), port: port.port.into(), net: port.net.map(prefix) }
}

fn port_range(range: PortRange) -> plane::PortRange {
    plane::PortRange { first: range.first.into(), last: range.last.into() }
}

fn flow_timeouts(timeouts: &FlowTimeouts) -> plane::FlowTimeouts {
    // Less than a millisecond is one: 0 would be the default.
    let milliseconds = |timeout: Option<Duration>| {
        timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1))
    };
    plane::FlowTimeouts {
        tcp_syn_sent: milliseconds(timeouts.tcp_syn_sent),
        tcp_established: milliseconds(timeouts.tcp_established),
        tcp_fins_seen: milliseconds(timeouts.tcp_fins_seen),
        tcp_reset_seen: milliseconds(timeouts.tcp_reset_seen),
        udp: milliseconds(timeouts.udp),
        icmp: milliseconds(timeouts.icmp),
        generic: milliseconds(timeouts.generic),
    }
}
