//! Calico's kinds, and ClusterNetworkPolicy. In a real cluster they are custom resources: they take no strategic merge
//! patch, and their names and scopes are those of their definitions.

use caracal_model::calico;
use caracal_model::object::Kind;
use schemars::JsonSchema;
use serde_json::Value;

use super::node::or_none;
use super::{
    AGE, Column, Form, NAME, Resource, Scope, items, model_change, model_defaults, model_validate, text,
};
use crate::shape::Shape;

/// The rows of these kinds.
pub fn rows() -> Vec<Resource> {
    use Kind as K;
    let plain = &[NAME, AGE];
    let policy = &[NAME, TIER, ORDER, AGE];
    let staged = &[NAME, TIER, ORDER, STAGED_ACTION, AGE];
    let set = &[NAME, NETS, AGE];
    let cluster_policy = &[NAME, TIER, PRIORITY, AGE];
    let staged_kubernetes = &[NAME, STAGED_ACTION, AGE];
    let tier = &[NAME, ORDER, DEFAULT_ACTION, AGE];
    vec![
        with_status(row::<calico::ClusterNetworkPolicySpec>(K::ClusterNetworkPolicy, &[], cluster_policy)),
        row::<calico::TierSpec>(K::Tier, &[], tier),
        row::<calico::NetworkPolicySpec>(K::CalicoNetworkPolicy, &["cnp", "caliconetworkpolicy"], policy),
        row::<calico::GlobalNetworkPolicySpec>(K::GlobalNetworkPolicy, &["gnp", "cgnp"], policy),
        row::<calico::StagedNetworkPolicySpec>(K::StagedNetworkPolicy, &["snp", "scnp"], staged),
        row::<calico::StagedGlobalNetworkPolicySpec>(K::StagedGlobalNetworkPolicy, &["sgnp"], staged),
        row::<calico::StagedKubernetesNetworkPolicySpec>(
            K::StagedKubernetesNetworkPolicy,
            &["sknp"],
            staged_kubernetes,
        ),
        row::<calico::NetworkSetSpec>(K::NetworkSet, &["netset", "netsets"], set),
        row::<calico::GlobalNetworkSetSpec>(K::GlobalNetworkSet, &["gns"], set),
        row::<calico::HostEndpointSpec>(K::HostEndpoint, &["hep", "heps"], &[NAME, NODE, INTERFACE, AGE]),
        row::<calico::ProfileSpec>(K::Profile, &[], plain),
        row::<calico::FelixConfigurationSpec>(K::FelixConfiguration, &["felixconfig", "felixconfigs"], plain),
        with_status(row::<calico::IPPoolSpec>(
            K::IPPool,
            &["ipp", "ipps", "pool", "pools"],
            &[NAME, CIDR, VXLAN_MODE, IPIP_MODE, AGE],
        )),
        row::<calico::IPReservationSpec>(K::IPReservation, &[], plain),
        row::<calico::IPAMConfigurationSpec>(K::IPAMConfiguration, &["ipamconfig", "ipamconfigs"], plain),
        row::<calico::IPAMBlockSpec>(K::IPAMBlock, &[], &[NAME, CIDR, AGE]),
        row::<calico::BlockAffinitySpec>(
            K::BlockAffinity,
            &["affinity", "affinities"],
            &[NAME, CIDR, NODE, AGE],
        ),
        row::<calico::IPAMHandleSpec>(K::IPAMHandle, &[], plain),
        row::<calico::BGPConfigurationSpec>(K::BGPConfiguration, &["bgpconfig", "bgpconfigs"], plain),
        row::<calico::BGPPeerSpec>(K::BGPPeer, &[], &[NAME, NODE, PEER, AGE]),
        row::<calico::BGPFilterSpec>(K::BGPFilter, &[], plain),
        with_status(row::<calico::CalicoNodeStatusSpec>(K::CalicoNodeStatus, &[], &[NAME, NODE, AGE])),
        row::<calico::ClusterInformationSpec>(K::ClusterInformation, &["clusterinfo", "clusterinfos"], plain),
        row::<calico::KubeControllersConfigurationSpec>(
            K::KubeControllersConfiguration,
            &["kcc", "kccs"],
            plain,
        ),
    ]
}

/// The same, with a status that is written apart.
fn with_status(row: Resource) -> Resource {
    Resource { status: true, ..row }
}

/// The row of a kind that the model knows.
fn row<S: JsonSchema>(
    kind: Kind,
    short_names: &'static [&'static str],
    columns: &'static [Column],
) -> Resource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.as_str().to_owned(),
        plural: kind.plural().to_owned(),
        singular: kind.as_str().to_lowercase(),
        short_names: short_names.iter().map(|name| (*name).to_owned()).collect(),
        categories: Vec::new(),
        scope: if kind.is_namespaced() { Scope::Namespaced } else { Scope::Cluster },
        status: false,
        generation: true,
        custom: true,
        names: None,
        fields: &[],
        form: Form::Typed(Shape::of_manifest::<S>),
        prepare: |object, _| model_defaults(object),
        validate: model_validate,
        validate_change: model_change,
        columns,
    }
}

const TIER: Column =
    Column::text("Tier", "The tier that it stands in.", |object, _| match text(object, "/spec/tier") {
        "" => "default".into(),
        tier => tier.into(),
    });

const ORDER: Column = Column::text("Order", "Its place, ascending; last when it has none.", |object, _| {
    number(object, "/spec/order")
});

const PRIORITY: Column = Column::text("Priority", "Its place in the tier, ascending.", |object, _| {
    number(object, "/spec/priority")
});

const DEFAULT_ACTION: Column = Column::text(
    "Default-Action",
    "What becomes of traffic that one of its policies applies to and no rule matches.",
    |object, _| text(object, "/spec/defaultAction").into(),
);

const STAGED_ACTION: Column =
    Column::text("Action", "What would become of the policy of this name.", |object, _| {
        text(object, "/spec/stagedAction").into()
    });

const NETS: Column = Column {
    name: "Nets",
    kind: "integer",
    priority: 0,
    description: "How many networks it holds.",
    cell: |object, _| items(object, "/spec/nets").len().into(),
};

const NODE: Column = Column::text("Node", "Whose it is; none when it is everybody's.", |object, _| {
    or_none(text(object, "/spec/node"))
});

const CIDR: Column = Column::text("CIDR", "Its addresses.", |object, _| text(object, "/spec/cidr").into());

const VXLAN_MODE: Column =
    Column::text("VXLAN", "When packets to its addresses go in VXLAN.", |object, _| {
        text(object, "/spec/vxlanMode").into()
    });

const IPIP_MODE: Column = Column::text("IPIP", "When packets to its addresses go in IPIP.", |object, _| {
    text(object, "/spec/ipipMode").into()
});

const PEER: Column = Column::text("Peer", "With whom.", |object, _| or_none(text(object, "/spec/peerIP")));

const INTERFACE: Column =
    Column::text("Interface", "Its name; none when it is found by its addresses.", |object, _| {
        or_none(text(object, "/spec/interfaceName"))
    });

/// A number, written as people do: 100, not 100.0.
fn number(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer).and_then(Value::as_f64) {
        Some(number) => number.to_string().into(),
        None => "<none>".into(),
    }
}
