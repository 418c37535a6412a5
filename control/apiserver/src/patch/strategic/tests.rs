//! Hand-made tables of what Kubernetes defines, and properties.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";

fn merged(object: Value, patch: Value) -> Value {
    merge(&object, &patch, POD).expect("a good patch")
}

fn containers(list: Value) -> Value {
    json!({ "spec": { "containers": list } })
}

#[test]
fn objects_merge_and_null_removes() {
    assert_eq!(
        merged(
            json!({ "metadata": { "labels": { "a": "1", "b": "2" } }, "spec": { "nodeName": "x" } }),
            json!({ "metadata": { "labels": { "b": null, "c": "3" } } }),
        ),
        json!({ "metadata": { "labels": { "a": "1", "c": "3" } }, "spec": { "nodeName": "x" } }),
    );
    // What was not there comes without its nulls.
    assert_eq!(
        merged(json!({}), json!({ "metadata": { "labels": { "a": "1", "b": null } } })),
        json!({ "metadata": { "labels": { "a": "1" } } })
    );
}

#[test]
fn lists_with_a_key_merge_by_it_at_every_depth() {
    assert_eq!(
        merged(
            containers(json!([
                { "name": "a", "image": "1", "ports": [{ "containerPort": 80 }] },
                { "name": "b", "image": "1" },
            ])),
            containers(json!([
                { "name": "b", "image": "2" },
                { "name": "a", "ports": [{ "containerPort": 81 }, { "containerPort": 80, "name": "http" }] },
                { "name": "c", "image": "3" },
            ])),
        ),
        containers(json!([
            { "name": "a", "image": "1", "ports": [{ "containerPort": 80, "name": "http" }, { "containerPort": 81 }] },
            { "name": "b", "image": "2" },
            { "name": "c", "image": "3" },
        ])),
    );
}

#[test]
fn lists_without_a_key_are_replaced() {
    let pod = |tolerations: Value| json!({ "spec": { "tolerations": tolerations } });
    assert_eq!(
        merged(pod(json!([{ "key": "a" }])), pod(json!([{ "key": "b" }]))),
        pod(json!([{ "key": "b" }]))
    );
}

#[test]
fn conditions_merge_by_type_and_addresses_by_ip() {
    assert_eq!(
        merged(
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }], "podIPs": [{ "ip": "10.0.0.1" }] } }),
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }], "podIPs": [{ "ip": "fd00::1" }] } }),
        ),
        json!({ "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
        } }),
    );
}

#[test]
fn sets_of_values_unite_and_lose_what_is_named() {
    let pod = |finalizers: Value| json!({ "metadata": { "finalizers": finalizers } });
    assert_eq!(merged(pod(json!(["a", "b"])), pod(json!(["b", "c"]))), pod(json!(["a", "b", "c"])));
    assert_eq!(
        merged(
            pod(json!(["a", "b"])),
            json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["a"] } })
        ),
        pod(json!(["b"])),
    );
}

#[test]
fn each_directive_does_what_it_says() {
    let two = containers(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }]));
    let delete = containers(json!([{ "name": "a", "$patch": "delete" }]));
    assert_eq!(merged(two.clone(), delete), containers(json!([{ "name": "b", "image": "1" }])));
    let replace = containers(json!([{ "name": "c", "image": "2" }, { "$patch": "replace" }]));
    assert_eq!(merged(two.clone(), replace), containers(json!([{ "name": "c", "image": "2" }])));
    let order = json!({ "spec": { "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }] } });
    assert_eq!(
        merged(two, order),
        containers(json!([{ "name": "b", "image": "1" }, { "name": "a", "image": "1" }]))
    );

    let labelled = || json!({ "metadata": { "labels": { "a": "1", "b": "2" } } });
    let replace = json!({ "metadata": { "labels": { "$patch": "replace", "c": "3" } } });
    assert_eq!(merged(labelled(), replace), json!({ "metadata": { "labels": { "c": "3" } } }));
    let delete = json!({ "metadata": { "labels": { "$patch": "delete" } } });
    assert_eq!(merged(labelled(), delete), json!({ "metadata": {} }));

    let volumes = |volume: Value| json!({ "spec": { "volumes": [volume] } });
    assert_eq!(
        merged(
            volumes(json!({ "name": "v", "emptyDir": {} })),
            volumes(
                json!({ "name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": { "path": "/x" } })
            ),
        ),
        volumes(json!({ "name": "v", "hostPath": { "path": "/x" } })),
    );
}

#[test]
fn members_that_the_order_does_not_name_keep_their_places() {
    let list = |names: &[&str]| {
        containers(names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>().into())
    };
    for (here, order, expected) in [
        (&["a", "x", "b"][..], &["b", "a"][..], &["x", "b", "a"][..]),
        (&["a", "x", "b"], &["a", "b"], &["a", "x", "b"]),
        (&["x", "a", "b"], &["a", "b"], &["x", "a", "b"]),
        (&["a", "b", "x"], &["b", "a"], &["b", "a", "x"]),
    ] {
        let order: Vec<Value> = order.iter().map(|name| json!({ "name": name })).collect();
        let patch = json!({ "spec": { "$setElementOrder/containers": order } });
        assert_eq!(merged(list(here), patch), list(expected), "{here:?}");
    }
}

#[test]
fn patches_that_make_no_sense_are_refused() {
    for (patch, error) in [
        (json!({ "$patch": "remove" }), MergeError::UnknownDirective("$patch".into())),
        (
            containers(json!([{ "image": "1" }])),
            MergeError::NoKey { field: "containers".into(), key: "name" },
        ),
        (containers(json!(["a"])), MergeError::NoKey { field: "containers".into(), key: "name" }),
        (json!({ "spec": { "$retainKeys": "a" } }), MergeError::NotAList("$retainKeys".into())),
        (
            json!({ "spec": { "$setElementOrder/containers": [], "containers": [{ "name": "a" }] } }),
            MergeError::OrderIncomplete("$setElementOrder/containers".into()),
        ),
    ] {
        assert_eq!(merge(&json!({}), &patch, POD), Err(error), "{patch}");
    }
}

/// The patch that kubectl would make from one list of containers to another.
fn difference(before: &[(String, u8)], after: &[(String, u8)]) -> Value {
    let image =
        |list: &[(String, u8)], name: &str| list.iter().find(|(one, _)| one == name).map(|(_, image)| *image);
    let mut members = Vec::new();
    for (name, new) in after {
        if image(before, name) != Some(*new) {
            members.push(json!({ "name": name, "image": new.to_string() }));
        }
    }
    for (name, _) in before.iter().filter(|(name, _)| image(after, name).is_none()) {
        members.push(json!({ "name": name, "$patch": "delete" }));
    }
    let order: Vec<Value> = after.iter().map(|(name, _)| json!({ "name": name })).collect();
    json!({ "spec": { "$setElementOrder/containers": order, "containers": members } })
}

fn list_of_containers() -> impl Strategy<Value = Vec<(String, u8)>> {
    prop::collection::btree_map("[a-f]", 0u8..3, 0..6)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn json_value() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("spec"),
        Just("containers"),
        Just("name"),
        Just("ports"),
        Just("metadata"),
        Just("finalizers"),
        Just("$patch"),
        Just("$retainKeys"),
        Just("$setElementOrder/containers"),
        Just("$deleteFromPrimitiveList/finalizers"),
        Just("volumes"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3i64).prop_map(Value::from),
        prop_oneof![Just("replace"), Just("delete"), Just("merge"), Just("a"), Just("b")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn has_directive(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(field, value)| field.starts_with('$') || has_directive(value)),
        Value::Array(list) => list.iter().any(has_directive),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_difference_applied_gives_the_other_list(before in list_of_containers(), after in list_of_containers()) {
        let pod = |list: &[(String, u8)]| containers(
            list.iter().map(|(name, image)| json!({ "name": name, "image": image.to_string() })).collect::<Vec<_>>().into(),
        );
        prop_assert_eq!(merged(pod(&before), difference(&before, &after)), pod(&after));
    }

    #[test]
    fn no_patch_panics_and_a_plain_one_changes_nothing_the_second_time(object in json_value(), patch in json_value()) {
        if let Ok(once) = merge(&object, &patch, POD)
            && !has_directive(&patch)
        {
            prop_assert_eq!(merge(&once, &patch, POD), Ok(once));
        }
    }
}
