//! Where pods' addresses come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A range of addresses for pods, tunnels and load balancers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// The range.
    #[serde(default)]
    pub cidr: String,
    /// `Never`, `Always` or `CrossSubnet`: between which nodes packets go in VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<String>,
    /// `Never`, `Always` or `CrossSubnet`: between which nodes packets go in IPIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<String>,
    /// Whether packets that leave all pools get the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// Whether it gives no new addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether BGP does not tell of it.
    #[serde(default, rename = "disableBGPExport", skip_serializing_if = "Option::is_none")]
    pub disable_bgp_export: Option<bool>,
    /// The prefix length of the blocks that nodes take of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<i64>,
    /// The nodes that may take addresses of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// The namespaces whose pods may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// `Workload`, `Tunnel`, `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<String>>,
    /// `Automatic`, or `Manual`: only for those who ask for it by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<String>,
}

/// Addresses that are given to nobody.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IPReservationSpec {
    /// CIDRs.
    #[serde(default, rename = "reservedCIDRs", skip_serializing_if = "Option::is_none")]
    pub reserved_cidrs: Option<Vec<String>>,
}
