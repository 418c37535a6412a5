//! The objects of Calico's API, `projectcalico.org/v3`, and of `policy.networking.k8s.io`, as manifests write them.
//!
//! Every kind is a [`Manifest`] of its specification. Types here say what a manifest may hold and nothing more: what a
//! field means is said where it is used ([`crate::convert`]), what it may hold by [`crate::object::Object::validate`].

mod bgp;
mod bgp_filter;
mod cluster;
mod cluster_network_policy;
mod crd;
mod definition;
mod felix_configuration;
mod host_endpoint;
mod ip_pool;
mod ipam;
mod kube_controllers_configuration;
mod network_set;
mod policy;
mod profile;
mod rule;
mod tier;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use bgp::{
    AsNumber, BGPConfigurationSpec, BGPPassword, BGPPeerSpec, CidrBlock, Community, PrefixAdvertisement,
};
pub use bgp_filter::{
    BGPAddCommunity, BGPCommunityMatch, BGPFilterOperation, BGPFilterRule, BGPFilterSpec, BGPPrefixLength,
    BGPPrependAsPath, BGPSetPriority,
};
pub use cluster::{CalicoNodeStatusSpec, ClusterInformationSpec};
pub use cluster_network_policy::{
    ClusterNetworkPolicySpec, ClusterPolicyEgressPeer, ClusterPolicyEgressRule, ClusterPolicyIngressPeer,
    ClusterPolicyIngressRule, ClusterPolicyPods, ClusterPolicyPort, ClusterPolicyPortRange,
    ClusterPolicyPorts, ClusterPolicyProtocol, ClusterPolicySubject,
};
pub use crd::{from_stored, stored_names, to_stored};
pub use definition::custom_resource_definitions;
pub use felix_configuration::FelixConfigurationSpec;
pub use host_endpoint::{EndpointPort, HostEndpointSpec};
pub use ip_pool::{IPPoolSpec, IPReservationSpec};
pub use ipam::{
    AllocationAttribute, BlockAffinitySpec, IPAMBlockSpec, IPAMConfigurationSpec, IPAMHandleSpec,
};
pub use kube_controllers_configuration::{
    AutoHostEndpointConfig, ControllersConfig, HostEndpointTemplate, KubeControllersConfigurationSpec,
    LoadBalancerControllerConfig, MigrationControllerConfig, NodeControllerConfig, ReconcilerConfig,
};
pub use network_set::{GlobalNetworkSetSpec, NetworkSetSpec};
pub use policy::{
    CommonPolicyFields, GlobalNetworkPolicySpec, GlobalPolicyFields, NetworkPolicySpec,
    StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
};
pub use profile::ProfileSpec;
pub use rule::{
    EntityRule, HttpMatch, HttpPath, IcmpFields, Rule, RuleMetadata, ServiceAccountMatch, ServiceMatch,
};
pub use tier::TierSpec;

/// An object: who it is, what it asks for, and what has become of it. `apiVersion` and `kind` are not kept: the type
/// says them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", bound(deserialize = "S: Deserialize<'de> + Default"))]
#[schemars(bound = "S: JsonSchema + Default + Serialize")]
pub struct Manifest<S> {
    /// Who it is.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(default)]
    pub spec: S,
    /// What has become of it, for kinds that say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// `projectcalico.org/v3` NetworkPolicy.
pub type NetworkPolicy = Manifest<NetworkPolicySpec>;
/// GlobalNetworkPolicy.
pub type GlobalNetworkPolicy = Manifest<GlobalNetworkPolicySpec>;
/// StagedNetworkPolicy.
pub type StagedNetworkPolicy = Manifest<StagedNetworkPolicySpec>;
/// StagedGlobalNetworkPolicy.
pub type StagedGlobalNetworkPolicy = Manifest<StagedGlobalNetworkPolicySpec>;
/// StagedKubernetesNetworkPolicy.
pub type StagedKubernetesNetworkPolicy = Manifest<StagedKubernetesNetworkPolicySpec>;
/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
pub type ClusterNetworkPolicy = Manifest<ClusterNetworkPolicySpec>;
/// Tier.
pub type Tier = Manifest<TierSpec>;
/// NetworkSet.
pub type NetworkSet = Manifest<NetworkSetSpec>;
/// GlobalNetworkSet.
pub type GlobalNetworkSet = Manifest<GlobalNetworkSetSpec>;
/// HostEndpoint.
pub type HostEndpoint = Manifest<HostEndpointSpec>;
/// Profile.
pub type Profile = Manifest<ProfileSpec>;
/// FelixConfiguration.
pub type FelixConfiguration = Manifest<FelixConfigurationSpec>;
/// IPPool.
pub type IPPool = Manifest<IPPoolSpec>;
/// IPReservation.
pub type IPReservation = Manifest<IPReservationSpec>;
/// IPAMBlock.
pub type IPAMBlock = Manifest<IPAMBlockSpec>;
/// BlockAffinity.
pub type BlockAffinity = Manifest<BlockAffinitySpec>;
/// IPAMHandle.
pub type IPAMHandle = Manifest<IPAMHandleSpec>;
/// IPAMConfiguration.
pub type IPAMConfiguration = Manifest<IPAMConfigurationSpec>;
/// BGPConfiguration.
pub type BGPConfiguration = Manifest<BGPConfigurationSpec>;
/// BGPPeer.
pub type BGPPeer = Manifest<BGPPeerSpec>;
/// BGPFilter.
pub type BGPFilter = Manifest<BGPFilterSpec>;
/// CalicoNodeStatus.
pub type CalicoNodeStatus = Manifest<CalicoNodeStatusSpec>;
/// ClusterInformation.
pub type ClusterInformation = Manifest<ClusterInformationSpec>;
/// KubeControllersConfiguration.
pub type KubeControllersConfiguration = Manifest<KubeControllersConfigurationSpec>;
