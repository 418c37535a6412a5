//! The objects that a cluster has from its first node's start. Pure.
//!
//! Two nodes may start at once: all names are fixed, so that the second finds the first one's.

use caracal_model::calico::{
    ClusterInformation, ClusterInformationSpec, FelixConfiguration, FelixConfigurationSpec, IPPool, Manifest,
    TierSpec,
};
use caracal_model::cidr::Cidr;
use caracal_model::convert::well_known_tiers;
use caracal_model::object::Object;
use caracal_model::policy::Action;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::settings::DefaultPool;

/// The name of the objects of which there is one.
pub const DEFAULT: &str = "default";
/// The version of Calico whose data this is; what `calicoctl` compares itself with.
const CALICO_VERSION: &str = "v3.33.0";
const POOL_NAMES: [&str; 2] = ["default-ipv4-ippool", "default-ipv6-ippool"];
/// The default IPv4 pool, and what is taken where this node's own network overlaps it.
const POOLS_V4: [&str; 2] = ["192.168.0.0/16", "172.16.0.0/16"];

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Tiers and configuration.
#[must_use]
pub fn objects() -> Vec<Object> {
    let tiers = well_known_tiers().map(|tier| {
        let action = if tier.default_action == Action::Pass { "Pass" } else { "Deny" };
        let spec = TierSpec { order: tier.order, default_action: Some(action.to_owned()) };
        Object::Tier(Box::new(Manifest { metadata: named(&tier.name), spec, status: None }))
    });
    let felix = [("floatingIPs", "Disabled"), ("logSeverityScreen", "Info")];
    let felix = felix.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let felix = FelixConfiguration {
        metadata: named(DEFAULT),
        spec: FelixConfigurationSpec(felix),
        ..FelixConfiguration::default()
    };
    tiers.into_iter().chain([Object::FelixConfiguration(Box::new(felix))]).collect()
}

/// The pools to be made: one for each family that has none. `own` are the node's networks; IPv6 has a pool only on a
/// host that has IPv6, with these random bits in it (RFC 4193).
#[must_use]
pub fn pools(
    wanted: &[DefaultPool; 2],
    there: &[IPPool],
    own: &[Cidr],
    random: u64,
    has_ipv6: bool,
) -> Vec<Object> {
    let has = |ipv4: bool| {
        there.iter().filter_map(|pool| pool.spec.cidr.parse::<Cidr>().ok()).any(|cidr| cidr.is_ipv4() == ipv4)
    };
    let [v4, v6] = wanted;
    let mut pools = Vec::new();
    if !has(true) {
        let overlaps = |cidr: &Cidr| own.iter().any(|own| own.covers(cidr) || cidr.covers(own));
        let parsed = || POOLS_V4.iter().filter_map(|text| text.parse::<Cidr>().ok());
        // Where both overlap there is no good choice, and the first is what Calico takes, too.
        let default = || parsed().find(|cidr| !overlaps(cidr)).or_else(|| parsed().next());
        pools.extend(v4.cidr.or_else(default).map(|cidr| pool(POOL_NAMES[0], v4, cidr)));
    }
    if !has(false) && (has_ipv6 || v6.cidr.is_some()) {
        pools.extend(v6.cidr.or_else(|| local_network(random)).map(|cidr| pool(POOL_NAMES[1], v6, cidr)));
    }
    pools
}

fn pool(name: &str, wanted: &DefaultPool, cidr: Cidr) -> Object {
    let mut pool = IPPool { metadata: named(name), spec: wanted.spec.clone(), status: None };
    pool.spec.cidr = cidr.to_string();
    Object::IPPool(Box::new(pool))
}

/// A /48 of fd00::/8 with these 40 bits.
fn local_network(random: u64) -> Option<Cidr> {
    let bits = (0xfd_u128 << 120) | (u128::from(random & 0xff_ffff_ffff) << 80);
    Cidr::new(std::net::Ipv6Addr::from(bits).into(), 48).ok()
}

/// What is to become of ClusterInformation.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// There is none.
    Create(Box<Object>),
    /// It lacks something.
    Patch(Value),
    /// All is there.
    Nothing,
}

/// Fills what ClusterInformation lacks; what somebody else has written stays.
#[must_use]
pub fn cluster_information(there: Option<&ClusterInformation>, kind_of_cluster: &str, guid: &str) -> Change {
    let mut kinds: Vec<&str> =
        kind_of_cluster.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    kinds.extend(
        ["caracal", "kdd"].into_iter().filter(|word| !kind_of_cluster.split(',').any(|had| had == *word)),
    );
    let kinds = kinds.join(",");
    let Some(there) = there else {
        let spec = ClusterInformationSpec {
            cluster_guid: Some(guid.to_owned()),
            cluster_type: Some(kinds),
            calico_version: Some(CALICO_VERSION.to_owned()),
            datastore_ready: Some(true),
            variant: None,
        };
        let object = ClusterInformation { metadata: named(DEFAULT), spec, status: None };
        return Change::Create(Box::new(Object::ClusterInformation(Box::new(object))));
    };
    let spec = &there.spec;
    let lacks = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let mut patch = Map::new();
    if lacks(&spec.cluster_guid) {
        patch.insert("clusterGUID".to_owned(), guid.into());
    }
    if lacks(&spec.cluster_type) {
        patch.insert("clusterType".to_owned(), kinds.into());
    }
    if lacks(&spec.calico_version) {
        patch.insert("calicoVersion".to_owned(), CALICO_VERSION.into());
    }
    if spec.datastore_ready.is_none() {
        patch.insert("datastoreReady".to_owned(), true.into());
    }
    if patch.is_empty() {
        return Change::Nothing;
    }
    // As read: two nodes must not give the cluster two names.
    let version = there.metadata.resource_version.clone();
    Change::Patch(json!({"metadata": {"resourceVersion": version}, "spec": patch}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::settings::Settings;

    fn wanted(environment: &[(&str, &str)]) -> [DefaultPool; 2] {
        let find = |key: &str| {
            environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find).unwrap().pools.unwrap()
    }

    fn cidrs(environment: &[(&str, &str)], there: &[&str], own: &[&str], has_ipv6: bool) -> Vec<String> {
        let there: Vec<IPPool> = there
            .iter()
            .map(|cidr| {
                serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"cidr": cidr}})).unwrap()
            })
            .collect();
        let own: Vec<Cidr> = own.iter().map(|text| text.parse().unwrap()).collect();
        let pools = pools(&wanted(environment), &there, &own, u64::MAX, has_ipv6);
        pools.iter().map(|pool| pool.to_value()["spec"]["cidr"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_family_without_a_pool_gets_one_that_the_node_is_not_in() {
        let both = ["192.168.0.0/16", "fdff:ffff:ffff::/48"];
        assert_eq!(cidrs(&[], &[], &["10.0.0.0/8"], true), both);
        assert_eq!(cidrs(&[], &[], &["192.168.7.0/24"], true)[0], "172.16.0.0/16");
        assert_eq!(cidrs(&[], &[], &["192.168.7.0/24", "172.16.0.0/12"], true)[0], "192.168.0.0/16");
        assert_eq!(cidrs(&[], &[], &["192.168.7.0/24"], false), ["172.16.0.0/16"]);
        assert_eq!(cidrs(&[], &["10.244.0.0/16"], &[], true), both[1..]);
        assert_eq!(cidrs(&[], &["10.244.0.0/16", "fd00::/64"], &[], true), Vec::<String>::new());
        let named = [("CALICO_IPV4POOL_CIDR", "192.168.7.0/24"), ("CALICO_IPV6POOL_CIDR", "fd01::/48")];
        assert_eq!(cidrs(&named, &[], &["192.168.7.0/24"], false), ["192.168.7.0/24", "fd01::/48"]);
    }

    #[test]
    fn all_defaults_are_valid() {
        let mut all = objects();
        all.extend(pools(&wanted(&[]), &[], &[], 7, true));
        let Change::Create(information) = cluster_information(None, "k8s", "guid") else { panic!("none") };
        all.push(*information);
        assert_eq!(all.len(), 7);
        for object in all {
            assert!(object.validate().is_empty(), "{}: {:?}", object.key(), object.validate());
        }
    }

    #[test]
    fn only_what_cluster_information_lacks_is_filled_in() {
        let there = |spec: Value| -> ClusterInformation {
            serde_json::from_value(
                json!({"metadata": {"name": "default", "resourceVersion": "7"}, "spec": spec}),
            )
            .unwrap()
        };
        let whole = json!({"clusterGUID": "g", "clusterType": "k8s", "calicoVersion": "v3.30.0", "datastoreReady": false});
        assert_eq!(cluster_information(Some(&there(whole)), "k8s", "new"), Change::Nothing);
        let part = there(json!({"clusterGUID": "", "calicoVersion": "v3.30.0"}));
        let patch = json!({"metadata": {"resourceVersion": "7"},
            "spec": {"clusterGUID": "new", "clusterType": "k8s,caracal,kdd", "datastoreReady": true}});
        assert_eq!(cluster_information(Some(&part), "k8s", "new"), Change::Patch(patch));
    }
}
