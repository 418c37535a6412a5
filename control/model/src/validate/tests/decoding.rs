//! Objects of which parts cannot be decoded.

use serde_json::{Value, json};

use super::{NOTHING, calico, refused};
use crate::object::Object;

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let mut object = calico(
        "GlobalNetworkPolicy",
        json!({
            "order": "first", "selektor": "all()", "types": ["Ingress", 7, "egress"],
            "ingress": [
                {"action": 1},
                {"action": "Allow", "protocol": true, "source": {"nets": "10.0.0.0/8", "ports": [80, {}, 0]}},
                {"action": "Allow", "icmp": {"type": 255}},
                "deny",
            ],
        }),
    );
    object["metadata"]["labels"] = json!({"a.b/c": 1, "d": "e f"});
    object["status"] = json!({});
    assert_eq!(
        refused(object),
        [
            "status",
            "metadata.labels.a.b/c",
            "spec.ingress[0].action",
            "spec.ingress[1].protocol",
            "spec.ingress[1].source.nets",
            "spec.ingress[1].source.ports[1]",
            "spec.ingress[3]",
            "spec.order",
            "spec.types[1]",
            "spec.selektor",
            "metadata.labels",
            "spec.ingress[1].source.ports[2]",
            "spec.ingress[1].source.ports",
            "spec.ingress[2].icmp.type",
            "spec.ingress[2].icmp",
            "spec.types[2]",
        ]
    );
}

#[test]
fn wrong_types_are_told_in_words() {
    let errors = Object::accept(calico("Tier", json!({"order": "first"}))).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "spec.order: Invalid value: invalid type: string \"first\", expected a number"
    );
    let errors = Object::accept(calico("NetworkSet", json!({"nets": {"a": 1}}))).unwrap_err();
    assert!(errors[0].message.ends_with("expected a list"), "{}", errors[0]);
    let errors = Object::accept(calico("Tier", json!("high"))).unwrap_err();
    assert_eq!(errors[0].field, "spec");
}

#[test]
fn a_status_is_known_only_where_there_is_one() {
    let with_status = |kind: &str, spec| {
        let mut object = calico(kind, spec);
        object["status"] = json!({"anything": true});
        refused(object)
    };
    assert_eq!(with_status("Tier", json!({})), ["status"]);
    assert_eq!(with_status("NetworkPolicy", json!({})), ["status"]);
    assert_eq!(with_status("IPPool", json!({"cidr": "10.0.0.0/16"})), NOTHING);
    assert_eq!(with_status("CalicoNodeStatus", json!({"node": "n", "classes": ["BGP"]})), NOTHING);
    let mut none = calico("Tier", json!({}));
    none["status"] = json!(null);
    assert_eq!(refused(none), NOTHING);
}

#[test]
fn what_is_no_object_is_refused_by_the_field_that_is_missing() {
    assert_eq!(refused(json!([])), ["(object)"]);
    assert_eq!(refused(json!({"apiVersion": "v1"})), ["kind"]);
    assert_eq!(refused(json!({"kind": "Pod"})), ["apiVersion"]);
    assert_eq!(refused(json!({"apiVersion": "apps/v1", "kind": "Deployment"})), ["kind"]);
    assert_eq!(
        refused(json!({"apiVersion": "v1", "kind": "Pod", "metadata": 1, "spec": []})),
        ["metadata", "spec"]
    );
}

#[test]
fn an_object_full_of_errors_is_refused_in_time() {
    let nets: Vec<_> = (0..5000).map(|number| json!(number)).collect();
    let fields = refused(calico("NetworkSet", json!({"nets": nets})));
    assert!(fields.len() >= 100, "{}", fields.len());
    assert_eq!(fields[0], "spec.nets[0]");
}

#[test]
fn a_field_of_null_is_not_given() {
    let tier = |spec: Value| {
        let tier = json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "a"}, "spec": spec, "status": null});
        Object::accept(tier).unwrap().to_value()
    };
    assert_eq!(tier(Value::Null), tier(json!({})));
    assert_eq!(tier(json!({"order": null})), tier(json!({})));
}
