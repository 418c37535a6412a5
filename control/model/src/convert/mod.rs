//! From Kubernetes' objects to what the calc graph computes with.

mod network_policy;
mod node;
mod pod;
mod profile;
#[cfg(test)]
mod tests;

pub use network_policy::{ConvertedPolicy, DroppedRule, network_policy};
pub use node::{NodeInfo, node_info};
pub(crate) use pod::container_ports;
pub use pod::{NamedPort, PodEndpoint, is_finished, pod_addresses, pod_endpoint};
pub use profile::{namespace_profile, service_account_profile};
