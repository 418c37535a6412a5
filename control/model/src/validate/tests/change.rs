//! Changes, creations beside others, and deletions.

use serde_json::{Value, json};

use super::calico;
use crate::object::{FieldError, Object};

fn object(kind: &str, name: &str, spec: Value) -> Object {
    let mut value = calico(kind, spec);
    value["metadata"]["name"] = json!(name);
    Object::from_value(value).unwrap()
}

fn fields(errors: Vec<FieldError>) -> Vec<String> {
    errors.into_iter().map(|error| error.field).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_pool_keeps_its_addresses_and_its_blocks() {
    let pool = |spec: Value| object("IPPool", "p", spec);
    let old = pool(json!({"cidr": "fd00:0::/64"}));
    let change = |spec: Value| fields(pool(spec).validate_change(&old));
    assert_eq!(
        change(json!({"cidr": "fd00::/64", "disabled": true})),
        NOTHING,
        "the same, written otherwise"
    );
    assert_eq!(change(json!({"cidr": "fd00::/64", "blockSize": 122})), NOTHING, "the default, written out");
    assert_eq!(change(json!({"cidr": "fd00::/60"})), ["spec.cidr"]);
    assert_eq!(change(json!({"cidr": "fd00::/64", "blockSize": 120})), ["spec.blockSize"]);
    let other = object("Tier", "p", json!({}));
    assert_eq!(fields(other.validate_change(&old)), NOTHING);
}

#[test]
fn a_pool_does_not_come_over_another_or_over_blocks_of_another_size() {
    let pool = |name: &str, cidr: &str| object("IPPool", name, json!({"cidr": cidr}));
    let create = |cidr: &str, others: &[Object]| fields(pool("new", cidr).validate_creation(others));
    let others = [pool("old", "10.0.0.0/16"), pool("v6", "fd00::/64")];
    assert_eq!(create("10.1.0.0/16", &others), NOTHING);
    assert_eq!(create("10.0.0.0/8", &others), ["spec.cidr"]);
    assert_eq!(create("10.0.1.0/24", &others), ["spec.cidr"]);
    assert_eq!(create("10.0.0.0/16", &[pool("new", "10.0.0.0/16")]), NOTHING, "that is the pool itself");
    let block = |cidr: &str| object("IPAMBlock", "b", json!({"cidr": cidr}));
    assert_eq!(create("10.0.0.0/16", &[block("10.0.0.0/26"), block("11.0.0.0/28")]), NOTHING);
    assert_eq!(create("10.0.0.0/16", &[block("10.0.0.0/28")]), ["spec.blockSize"]);
}

#[test]
fn tiers_go_only_when_empty_and_not_relied_upon() {
    let tier = |name: &str| object("Tier", name, json!({}));
    let policy = |kind: &str, tier: Option<&str>| object(kind, "p", json!({"tier": tier}));
    let delete = |name: &str, others: &[Object]| fields(tier(name).validate_deletion(others));
    for name in ["default", "kube-admin", "kube-baseline"] {
        assert_eq!(delete(name, &[]), ["metadata.name"], "{name}");
    }
    let others = [policy("GlobalNetworkPolicy", Some("a")), policy("StagedNetworkPolicy", Some("b"))];
    assert_eq!(delete("a", &others), ["metadata.name"]);
    assert_eq!(delete("b", &others), ["metadata.name"]);
    assert_eq!(delete("c", &others), NOTHING);
    assert_eq!(delete("default", &[policy("NetworkPolicy", None)]).len(), 2);
    assert_eq!(fields(object("Profile", "p", json!({})).validate_deletion([])), ["metadata.name"]);
}
