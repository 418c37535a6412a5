//! Sets of networks with labels, for selectors in rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Networks that belong to a namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkSetSpec {
    /// CIDRs and addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
}

/// Networks that belong to no namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GlobalNetworkSetSpec {
    /// CIDRs and addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
}
