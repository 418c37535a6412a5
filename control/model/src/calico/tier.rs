//! Tiers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A group of policies that is judged as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Its place among the tiers, ascending; last when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// `Deny` or `Pass`: what becomes of traffic that one of its policies applies to and no rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
}
