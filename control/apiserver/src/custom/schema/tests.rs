use caracal_model::object::FieldError;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn compiled(schema: &Value) -> Result<Schema, Vec<BadSchema>> {
    let mut bad = Vec::new();
    let compiled = compile(schema, &mut bad);
    if bad.is_empty() { Ok(compiled) } else { Err(bad) }
}

fn object(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

/// The fields that are wrong with a value of `x`.
fn wrong(schema: Value, value: Value) -> Vec<String> {
    let schema = compiled(&object(json!({ "x": schema }))).expect("structural");
    schema.errors(&json!({ "x": value })).into_iter().map(|FieldError { field, .. }| field).collect()
}

#[test]
fn values_are_taken_and_refused_as_kubernetes_does() {
    let any_of =
        json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] });
    let one_of = json!({
        "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "string" } },
        "oneOf": [{ "required": ["a"] }, { "required": ["b"] }],
    });
    let not = json!({ "type": "string", "not": { "enum": ["x"] } });
    let all_of = json!({ "type": "integer", "allOf": [{ "minimum": 3 }, { "maximum": 5 }] });
    for (schema, good, bad) in [
        (json!({ "type": "string" }), json!("a"), json!(1)),
        (json!({ "type": "string" }), json!(""), Value::Null),
        (json!({ "type": "string", "nullable": true }), Value::Null, json!(1)),
        (json!({ "type": "integer" }), json!(2.0), json!(2.5)),
        (json!({ "type": "number" }), json!(2.5), json!("2.5")),
        (json!({ "type": "integer", "format": "int32" }), json!(2_147_483_647), json!(2_147_483_648_i64)),
        (json!({ "type": "integer", "minimum": 1, "exclusiveMinimum": true }), json!(2), json!(1)),
        (json!({ "type": "integer", "maximum": 1 }), json!(1), json!(2)),
        (json!({ "type": "integer", "multipleOf": 4 }), json!(8), json!(9)),
        (json!({ "type": "string", "minLength": 2 }), json!("äö"), json!("ä")),
        (json!({ "type": "string", "format": "ipv4" }), json!("10.0.0.1"), json!("10.0.0.256")),
        (json!({ "type": "string", "format": "cidr" }), json!("10.0.0.0/8"), json!("10.0.0.0")),
        (json!({ "type": "string", "format": "date-time" }), json!("2026-01-01T00:00:00Z"), json!("today")),
        (
            json!({ "type": "array", "items": { "type": "string" }, "maxItems": 1 }),
            json!(["a"]),
            json!(["a", "b"]),
        ),
        (
            json!({ "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set" }),
            json!(["a", "b"]),
            json!(["a", "a"]),
        ),
        (
            json!({ "type": "object", "additionalProperties": { "type": "integer" } }),
            json!({ "a": 1 }),
            json!({ "a": "1" }),
        ),
        (
            json!({ "type": "object", "minProperties": 1, "x-kubernetes-preserve-unknown-fields": true }),
            json!({ "a": 1 }),
            json!({}),
        ),
        (any_of, json!("http"), json!(1.5)),
        (one_of.clone(), json!({ "a": "1" }), json!({ "a": "1", "b": "2" })),
        (one_of, json!({ "b": "1" }), json!({})),
        (not, json!("y"), json!("x")),
        (all_of.clone(), json!(4), json!(6)),
        (all_of, json!(3), json!(2)),
        (
            json!({ "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true }),
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} }),
            json!({ "kind": "Pod" }),
        ),
    ] {
        assert_eq!(wrong(schema.clone(), good.clone()), Vec::<String>::new(), "{schema} {good}");
        assert!(!wrong(schema.clone(), bad.clone()).is_empty(), "{schema} {bad}");
    }
}

#[test]
fn unknown_fields_go_unless_they_are_asked_to_stay() {
    let schema = compiled(&object(json!({
        "spec": object(json!({ "a": { "type": "integer" }, "list": { "type": "array", "items": object(json!({ "b": { "type": "integer" } })) } })),
        "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "strict": object(json!({})) } },
        "pod": { "type": "object", "x-kubernetes-embedded-resource": true, "properties": {} },
    })))
    .expect("structural");
    let mut value = json!({
        "apiVersion": "g/v", "kind": "K", "metadata": { "name": "n", "odd": 1 }, "x": 1,
        "spec": { "a": 1, "c": 1, "list": [{ "b": 1, "d": 1 }] },
        "free": { "any": { "thing": 1 }, "strict": { "e": 1 } },
        "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": {} },
    });
    let mut pruned = schema.prune(&mut value);
    pruned.sort();
    assert_eq!(pruned, ["free.strict.e", "pod.spec", "spec.c", "spec.list[0].d", "x"]);
    assert_eq!(
        value,
        json!({
            "apiVersion": "g/v", "kind": "K", "metadata": { "name": "n", "odd": 1 },
            "spec": { "a": 1, "list": [{ "b": 1 }] }, "free": { "any": { "thing": 1 }, "strict": {} },
            "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" } },
        })
    );
}

#[test]
fn defaults_come_where_a_parent_is_and_nulls_go() {
    let inner = json!({ "type": "object", "properties": { "b": { "type": "integer", "default": 2 } } });
    let schema = compiled(&object(json!({
        "a": { "type": "integer", "default": 1 },
        "given": inner, "made": { "type": "object", "default": {}, "properties": { "b": { "type": "integer", "default": 3 } } },
        "absent": inner, "null": { "type": "string" }, "kept": { "type": "string", "nullable": true, "default": "x" },
        "list": { "type": "array", "items": inner }, "map": { "type": "object", "additionalProperties": inner },
    })))
    .expect("structural");
    let mut value =
        json!({ "a": null, "given": {}, "null": null, "kept": null, "list": [{}], "map": { "k": {} } });
    schema.complete(&mut value);
    assert_eq!(
        value,
        json!({
            "a": 1, "given": { "b": 2 }, "made": { "b": 3 }, "kept": null, "list": [{ "b": 2 }], "map": { "k": { "b": 2 } },
        })
    );
}

#[test]
fn what_is_not_structural_is_refused_at_its_place() {
    for (schema, field) in [
        (json!({ "properties": {} }), "type"),
        (object(json!({ "a": {} })), "properties[a].type"),
        (object(json!({ "a": { "type": "strange" } })), "properties[a].type"),
        (object(json!({ "a": { "type": "array" } })), "properties[a].items"),
        (object(json!({ "a": { "type": "string", "pattern": "(" } })), "properties[a].pattern"),
        (object(json!({ "a": { "$ref": "#/b", "type": "object" } })), "properties[a].$ref"),
        (object(json!({ "a": { "type": "integer", "default": "x" } })), "properties[a].default"),
        (object(json!({ "a": { "type": "object", "default": { "b": 1 } } })), "properties[a].default"),
        (
            object(json!({ "a": { "type": "string", "x-kubernetes-int-or-string": true } })),
            "properties[a].type",
        ),
        (
            object(json!({ "metadata": object(json!({ "labels": { "type": "object" } })) })),
            "properties[metadata]",
        ),
        (json!({ "type": "object", "anyOf": [{ "properties": { "a": { "minimum": 1 } } }] }), ""),
        (json!({ "type": "object", "allOf": [{ "nullable": true }] }), "allOf[0].nullable"),
        (
            object(
                json!({ "a": { "type": "object", "properties": { "b": { "type": "string" } }, "additionalProperties": { "type": "string" } } }),
            ),
            "properties[a].additionalProperties",
        ),
        (
            object(
                json!({ "a": { "type": "array", "items": object(json!({})), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"] } }),
            ),
            "properties[a].x-kubernetes-list-map-keys",
        ),
    ] {
        let bad = compiled(&schema).expect_err("not structural");
        assert!(bad.iter().any(|bad| bad.field == field), "{schema}: {bad:?}");
    }
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({ "type": "string" })),
        Just(json!({ "type": "integer", "default": 3 })),
        Just(json!({ "type": "string", "nullable": true, "maxLength": 2 })),
        Just(json!({ "x-kubernetes-preserve-unknown-fields": true })),
        Just(json!({ "x-kubernetes-int-or-string": true })),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::btree_map("[abc]", inner.clone(), 0..3)
                .prop_map(|map| json!({ "type": "object", "properties": map })),
            inner.clone().prop_map(|inner| json!({ "type": "object", "additionalProperties": inner })),
            inner.prop_map(|inner| json!({ "type": "array", "items": inner })),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<i8>().prop_map(Value::from), "[a-z]{0,3}".prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abcd]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What was pruned and completed once is left as it is, whatever it is.
    #[test]
    fn pruning_and_completing_are_done_once(schema in any_schema(), value in any_value()) {
        let schema = compiled(&object(json!({ "x": schema }))).expect("structural");
        let mut once = json!({ "x": value });
        schema.prune(&mut once);
        schema.complete(&mut once);
        schema.errors(&once);
        let mut twice = once.clone();
        prop_assert_eq!(schema.prune(&mut twice), Vec::<String>::new());
        schema.complete(&mut twice);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn any_json_is_a_schema_or_refused(schema in any_value()) {
        let _ = compiled(&schema);
    }
}
