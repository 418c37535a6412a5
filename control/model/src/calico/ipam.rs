//! What address management keeps: blocks, who has them, and which addresses belong together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of a pool, and who has which of its addresses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    /// The addresses.
    #[serde(default)]
    pub cidr: String,
    /// `host:NODE` or `virtual:NAME`: who allocates from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// For every address the index of its attributes, or nothing while it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocations: Option<Vec<Option<i64>>>,
    /// The offsets of the free addresses; the first is given next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unallocated: Option<Vec<i64>>,
    /// What is known of the addresses given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<AllocationAttribute>>,
    /// Whether only its owner may allocate from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_affinity: Option<bool>,
    /// Whether it is about to go; readers treat it as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// Counts changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<u64>,
    /// Its value when an address was given, by the address's offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_number_for_allocation: Option<BTreeMap<String, u64>>,
}

/// What is known of addresses that were given out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllocationAttribute {
    /// The handle that they are released by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Their owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,
    /// Who may take them over.
    #[serde(default, rename = "alternateOwnerAttrs", skip_serializing_if = "Option::is_none")]
    pub alternate_owner_attrs: Option<BTreeMap<String, String>>,
    /// When they were released, while they cool down.
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// A node's claim to a block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockAffinitySpec {
    /// The block.
    #[serde(default)]
    pub cidr: String,
    /// The node.
    #[serde(default)]
    pub node: String,
    /// `confirmed`, `pending` or `pendingDeletion`.
    #[serde(default)]
    pub state: String,
    /// `host` or `virtual`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether it is about to go; readers treat it as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
}

/// Addresses that are released together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IPAMHandleSpec {
    /// What they are released by.
    #[serde(default, rename = "handleID")]
    pub handle_id: String,
    /// How many of each block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BTreeMap<String, i64>>,
    /// Whether it is about to go; readers treat it as gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
}

/// How addresses are given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigurationSpec {
    /// Whether a node allocates from its own blocks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_affinity: Option<bool>,
    /// Whether nodes take blocks as they need them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_allocate_blocks: Option<bool>,
    /// How many blocks a node may have; 0 for the built-in limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_blocks_per_host: Option<i64>,
    /// For how long a released address is not given again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<i64>,
    /// `Enabled` or `Disabled`: whether a virtual machine keeps its address when it moves.
    #[serde(default, rename = "kubeVirtVMAddressPersistence", skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<String>,
}
