//! Kubernetes network policies.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::node::or_none;
use super::{
    AGE, Column, Moment, NAME, Resource, default_to, items, model_defaults, model_validate, namespaced, text,
};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["netpol".into()],
        generation: true,
        names: None,
        validate: model_validate,
        prepare,
        columns: COLUMNS,
        ..namespaced::<NetworkPolicy>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Pod-Selector", "The pods that it is for.", |object, _| {
        or_none(&selector_text(object.pointer("/spec/podSelector")))
    }),
    AGE,
];

fn prepare(object: &mut Value, _: Moment) {
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        default_to(spec, "podSelector", json!({}));
    }
    model_defaults(object);
}

/// A label selector as one line.
pub fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    for expression in items(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<&str> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(egress: Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "a" },
            "spec": { "egress": egress },
        })
    }

    #[test]
    fn a_policy_gets_kubernetes_defaults() {
        let mut made = policy(json!([{ "ports": [{ "port": 53 }] }]));
        prepare(&mut made, Moment::Create);
        assert_eq!(made["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(made["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");

        let mut made = policy(json!([]));
        prepare(&mut made, Moment::Create);
        assert_eq!(made["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(made["spec"]["podSelector"], json!({}));
    }

    #[test]
    fn a_selector_reads_as_one_line() {
        let told = selector_text(Some(&json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
            ],
        })));
        assert_eq!(told, "app=web,tier in (a,b),!old");
    }
}
