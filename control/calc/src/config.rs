//! What the fastpath must know of its own node: the node's object, and what FelixConfigurations say for it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_model::calico::FelixConfiguration;
use caracal_model::convert::{EndpointToHost, EstablishedFlows, FailsafePort, NodeInfo, felix_settings};
use caracal_model::labels::Labels;
use caracal_plane_api as plane;

use crate::plane::{address, prefix};

/// Calico's VXLAN network identifier.
const VNI: u32 = 4096;
/// VXLAN's UDP port.
const VXLAN_PORT: u32 = 4789;
/// The tap device for what the host originates.
const HOST_PORT: &str = "caracal0";
/// The tap device for what the host forwards.
const FORWARD_PORT: &str = "caracal1";

/// The vertex for this node's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    node: String,
    own: Option<(NodeInfo, Labels)>,
    configurations: BTreeMap<String, FelixConfiguration>,
    is_dirty: bool,
    said: Option<plane::NodeConfig>,
}

impl Config {
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            own: None,
            configurations: BTreeMap::new(),
            is_dirty: false,
            said: None,
        }
    }

    /// This node is there, like this, or is gone.
    pub fn set_node(&mut self, own: Option<(NodeInfo, Labels)>) {
        self.own = own;
        self.is_dirty = true;
    }

    /// The FelixConfiguration is there, like this, or is gone.
    pub fn set_configuration(&mut self, name: &str, configuration: Option<FelixConfiguration>) {
        match configuration {
            Some(configuration) => drop(self.configurations.insert(name.to_owned(), configuration)),
            None => drop(self.configurations.remove(name)),
        }
        self.is_dirty = true;
    }

    /// The addresses of this node, as far as they are known.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let own = self.own.as_ref().and_then(|(info, _)| info.address);
        own.into_iter().map(IpAddr::V4).collect()
    }

    fn message(&self) -> Option<plane::NodeConfig> {
        let (info, labels) = self.own.as_ref()?;
        let settings = felix_settings(self.configurations.values(), &self.node, labels);
        let endpoint_to_host = match settings.endpoint_to_host {
            EndpointToHost::Accept => plane::EndpointToHost::Accept,
            EndpointToHost::Drop => plane::EndpointToHost::Drop,
            EndpointToHost::Return => plane::EndpointToHost::Return,
        };
        Some(plane::NodeConfig {
            node: self.node.clone(),
            address: address(info.address?.into()),
            tunnel_address: info.vxlan_tunnel_address.map(|own| address(own.into())).unwrap_or_default(),
            tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
            vni: VNI,
            vxlan_port: VXLAN_PORT,
            host_port: HOST_PORT.to_owned(),
            forward_port: FORWARD_PORT.to_owned(),
            keep_established: settings.established_flows == EstablishedFlows::Keep,
            endpoint_to_host: endpoint_to_host.into(),
            failsafe_inbound: settings.failsafe_inbound.iter().map(failsafe).collect(),
            failsafe_outbound: settings.failsafe_outbound.iter().map(failsafe).collect(),
            allow_vxlan_from_workloads: settings.allow_vxlan_from_workloads,
            allow_ipip_from_workloads: settings.allow_ipip_from_workloads,
            log_prefix: settings.log_prefix,
            ..plane::NodeConfig::default()
        })
    }

    /// The configuration, if it is not as last said. A node whose object is gone keeps its last one: there is no way to
    /// have none.
    pub fn flush(&mut self) -> Option<plane::NodeConfig> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let new = self.message().filter(|message| self.said.as_ref() != Some(message))?;
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
