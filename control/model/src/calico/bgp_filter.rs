//! Filters of BGP routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AsNumber;

/// Rules for routes by family and direction; in each list the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// For IPv4 routes that peers are told.
    #[serde(default, rename = "exportV4", skip_serializing_if = "Option::is_none")]
    pub export_v4: Option<Vec<BGPFilterRule>>,
    /// For IPv4 routes that peers tell.
    #[serde(default, rename = "importV4", skip_serializing_if = "Option::is_none")]
    pub import_v4: Option<Vec<BGPFilterRule>>,
    /// For IPv6 routes that peers are told.
    #[serde(default, rename = "exportV6", skip_serializing_if = "Option::is_none")]
    pub export_v6: Option<Vec<BGPFilterRule>>,
    /// For IPv6 routes that peers tell.
    #[serde(default, rename = "importV6", skip_serializing_if = "Option::is_none")]
    pub import_v6: Option<Vec<BGPFilterRule>>,
}

/// A rule: everything given must hold for it to match.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterRule {
    /// `Accept` or `Reject`.
    #[serde(default)]
    pub action: String,
    /// What the route's prefix is compared with, as `matchOperator` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// `Equal`, `NotEqual`, `In` or `NotIn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<String>,
    /// The lengths that prefixes within `cidr` may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<BGPPrefixLength>,
    /// `RemotePeers`: only routes that BGP brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only routes over such interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `eBGP` or `iBGP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// Only routes with this community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<BGPCommunityMatch>,
    /// Only routes whose AS path begins so.
    #[serde(default, rename = "asPathPrefix", skip_serializing_if = "Option::is_none")]
    pub as_path_prefix: Option<Vec<AsNumber>>,
    /// Only routes of this priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// What is changed in routes that are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<BGPFilterOperation>>,
}

/// Lengths of prefixes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPPrefixLength {
    /// The shortest; the CIDR's own when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The longest; 32 or 128 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
}

/// Communities of a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPCommunityMatch {
    /// Exactly one.
    #[serde(default)]
    pub values: Vec<String>,
}

/// A change of a route; exactly one field is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<BGPAddCommunity>,
    /// Puts ASes before its path.
    #[serde(default, rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<BGPPrependAsPath>,
    /// Sets its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<BGPSetPriority>,
}

/// A community to add.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPAddCommunity {
    /// `aa:nn` or `aa:nn:mm`.
    #[serde(default)]
    pub value: String,
}

/// ASes to put before a path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPPrependAsPath {
    /// In the order in which they will stand.
    #[serde(default)]
    pub prefix: Vec<AsNumber>,
}

/// A priority to set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPSetPriority {
    /// 1 to 2147483646.
    #[serde(default)]
    pub value: i64,
}
