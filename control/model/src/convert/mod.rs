//! From the objects of Kubernetes and Calico to what the calc graph computes with: every default, namespace and range
//! that a manifest implies is spelled out here, and nowhere later.

mod block;
mod calico_policy;
mod calico_rule;
mod cluster_network_policy;
mod converted;
mod effective;
mod endpoint_slice;
mod families;
mod felix;
mod host_endpoint;
mod limits;
mod network_policy;
mod network_set;
mod node;
mod pod;
mod pool;
mod ports;
mod profile;
mod service;
#[cfg(test)]
mod tests;
mod tier;

pub use block::{Block, block_affinity, ipam_block};
pub use calico_policy::{
    calico_network_policy, global_network_policy, staged_global_network_policy,
    staged_kubernetes_network_policy, staged_network_policy,
};
pub use cluster_network_policy::cluster_network_policy;
pub use converted::{ConvertedPolicy, DroppedRule};
pub use effective::label_selector;
pub use endpoint_slice::{SERVICE_NAME, ServiceEndpoints, ServicePort, endpoint_slice};
pub use felix::{
    EndpointToHost, EstablishedFlows, FailsafePort, FelixSettings, FlowTimeouts, MonitoringSettings,
    MtuSettings, NetworkSettings, felix_settings,
};
pub use host_endpoint::{HostEndpointInfo, host_endpoint};
pub use limits::{Limits, PodLimits, pod_limits};
pub use network_policy::network_policy;
pub use network_set::{NetworkSetInfo, global_network_set, network_set};
pub use node::{NodeInfo, node_info, node_labels};
pub(crate) use pod::container_ports;
pub use pod::{NamedPort, PodEndpoint, every_address, is_finished, pod_addresses, pod_endpoint};
pub use pool::{Between, Pool, PoolMode, ip_pool};
pub use profile::{default_allow_profile, namespace_profile, profile, service_account_profile};
pub(crate) use service::cluster_ips;
pub use service::{
    AFFINITY_SECONDS, Locality, Preference, ServedFrontend, ServedPort, ServiceInfo, ServiceInfoPort,
    SliceEndpoint, SliceInfo, served_ports, service, service_slice,
};
pub use tier::{tier, tier_of, well_known_tiers};
