use serde_json::{Value, json};

use super::super::{Moment, Resource};
use super::rows;
use crate::metadata::timestamp;

fn row(kind: &str) -> Resource {
    rows().into_iter().find(|row| row.kind == kind).expect("a row")
}

/// The object as it is kept, or which of its fields are wrong.
fn made(kind: &str, mut object: Value) -> Result<Value, Vec<String>> {
    let row = row(kind);
    object["apiVersion"] = row.api_version().into();
    object["kind"] = kind.into();
    let mut object = row.decode(object).expect("its shape").value;
    row.prepare(&mut object, Moment::Create);
    let errors = row.errors(&object);
    if errors.is_empty() { Ok(object) } else { Err(errors.into_iter().map(|error| error.field).collect()) }
}

fn changed(kind: &str, before: &Value, after: &Value) -> Vec<String> {
    row(kind).change_errors(before, after).into_iter().map(|error| error.field).collect()
}

fn cells(kind: &str, object: &Value) -> Vec<Value> {
    row(kind).cells(object, timestamp())
}

fn secret(kind: &str, entries: &[&str]) -> Value {
    let data: serde_json::Map<String, Value> =
        entries.iter().map(|key| ((*key).to_owned(), "text".into())).collect();
    json!({ "metadata": { "name": "a", "namespace": "n" }, "type": kind, "stringData": data })
}

#[test]
fn a_secrets_text_is_kept_encoded_and_wins_over_data() {
    let made = made(
        "Secret",
        json!({ "metadata": { "name": "a" }, "data": { "x": "b2xk", "y": "eQ==" }, "stringData": { "x": "new" } }),
    )
    .expect("a secret");
    assert_eq!(made["data"], json!({ "x": "bmV3", "y": "eQ==" }));
    assert_eq!((made.get("stringData"), &made["type"]), (None, &json!("Opaque")));
    assert_eq!(cells("Secret", &made)[..3], [json!("a"), json!("Opaque"), json!(2)]);
}

#[test]
fn a_secret_has_what_its_type_needs() {
    assert!(made("Secret", secret("kubernetes.io/tls", &["tls.crt", "tls.key"])).is_ok());
    assert_eq!(made("Secret", secret("kubernetes.io/tls", &["tls.crt"])), Err(vec!["data[tls.key]".into()]));
    assert!(made("Secret", secret("kubernetes.io/basic-auth", &["password"])).is_ok());
    assert!(made("Secret", secret("kubernetes.io/basic-auth", &["pass"])).is_err());
    assert!(made("Secret", secret("example.org/own", &[])).is_ok());
    let docker = made("Secret", secret("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]));
    assert_eq!(docker, Err(vec!["data[.dockerconfigjson]".into()]));
    assert_eq!(made("Secret", secret("Opaque", &["a/b"])), Err(vec!["data[a/b]".into()]));
}

#[test]
fn a_secrets_type_never_changes_and_immutable_data_stays() {
    let secret = |kind: &str, value: &str, immutable: bool| json!({ "type": kind, "data": { "x": value }, "immutable": immutable });
    let changed = |before: &Value, after: &Value| changed("Secret", before, after);
    assert_eq!(changed(&secret("a", "x", false), &secret("b", "x", false)), ["type"]);
    assert!(changed(&secret("a", "x", false), &secret("a", "y", true)).is_empty());
    assert_eq!(changed(&secret("a", "x", true), &secret("a", "y", true)), ["data"]);
    assert_eq!(changed(&secret("a", "x", true), &secret("a", "x", false)), ["immutable"]);
}

#[test]
fn a_config_map_is_judged_by_its_keys_and_its_size() {
    let map = |data: Value, binary: Value| {
        made("ConfigMap", json!({ "metadata": { "name": "a" }, "data": data, "binaryData": binary }))
    };
    assert!(map(json!({ "a.b_c-d": "x" }), json!({ "e": "eQ==" })).is_ok());
    assert_eq!(map(json!({ "a": "x" }), json!({ "a": "eQ==" })), Err(vec!["data[a]".into()]));
    assert_eq!(map(json!({ "..a": "x" }), json!({})), Err(vec!["data[..a]".into()]));
    assert_eq!(map(json!({ "a": "x".repeat((1 << 20) + 1) }), json!({})), Err(vec!["data".into()]));
}

#[test]
fn a_lease_keeps_its_instants_to_the_microsecond() {
    let lease = |spec: Value| made("Lease", json!({ "metadata": { "name": "a" }, "spec": spec }));
    let spec = json!({
        "holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 0,
        "renewTime": "2026-01-02T03:04:05.000006Z",
    });
    let made = lease(spec.clone()).expect("a lease");
    assert_eq!(made["spec"], spec);
    assert_eq!(cells("Lease", &made)[1], "me");
    assert_eq!(lease(json!({ "leaseDurationSeconds": 0 })), Err(vec!["spec.leaseDurationSeconds".into()]));
    assert_eq!(lease(json!({ "preferredHolder": "me" })), Err(vec!["spec.preferredHolder".into()]));
}

fn workload(labels: Value, spec: Value) -> Value {
    let mut workload = json!({
        "metadata": { "name": "a", "namespace": "n" },
        "spec": {
            "selector": { "matchLabels": { "app": "a" } },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": "i" }] } },
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        workload["spec"][field] = value.clone();
    }
    workload
}

#[test]
fn a_workload_selects_the_pods_of_its_template() {
    for kind in ["DaemonSet", "Deployment"] {
        let sent = |labels, spec| made(kind, workload(labels, spec));
        let good = sent(json!({ "app": "a", "b": "c" }), json!({})).expect("a workload");
        assert_eq!(good["spec"]["template"]["spec"]["restartPolicy"], "Always", "{kind}");
        assert_eq!(good["spec"]["template"]["spec"].get("serviceAccountName"), None, "{kind}");
        let labels = "spec.template.metadata.labels";
        assert_eq!(sent(json!({ "app": "b" }), json!({})), Err(vec![labels.into()]));
        assert_eq!(
            sent(json!({ "app": "a" }), json!({ "selector": {} })),
            Err(vec!["spec.selector".into()]),
            "{kind}"
        );
        let mut other = good.clone();
        other["spec"]["selector"]["matchLabels"] = json!({ "b": "c" });
        assert_eq!(changed(kind, &good, &other), ["spec.selector"]);
    }
    let deployment = made("Deployment", workload(json!({ "app": "a" }), json!({}))).expect("a deployment");
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_eq!(cells("Deployment", &deployment)[1], "0/1");
    let bad =
        made("Deployment", workload(json!({ "app": "a" }), json!({ "strategy": { "type": "OnDelete" } })));
    assert_eq!(bad, Err(vec!["spec.strategy.type".into()]));
}

#[test]
fn a_template_is_judged_as_a_pod() {
    let mut sent = workload(json!({ "app": "a" }), json!({}));
    sent["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 70000 }]);
    let field = "spec.template.spec.containers[0].ports[0].containerPort";
    assert_eq!(made("DaemonSet", sent), Err(vec![field.into()]));
}

#[test]
fn a_job_finds_its_pods_by_its_uid() {
    let mut sent = workload(json!({}), json!({}));
    sent["metadata"]["uid"] = "u".into();
    sent["spec"].as_object_mut().expect("a map").remove("selector");
    assert_eq!(made("Job", sent.clone()), Err(vec!["spec.template.spec.restartPolicy".into()]));
    sent["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    let job = made("Job", sent).expect("a job");
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "a");
    assert_eq!(cells("Job", &job)[1..3], [json!("Running"), json!("0/1")]);
}

#[test]
fn a_disruption_budget_says_one_number() {
    let budget =
        |spec: Value| made("PodDisruptionBudget", json!({ "metadata": { "name": "a" }, "spec": spec }));
    assert!(budget(json!({ "maxUnavailable": "20%" })).is_ok());
    assert!(budget(json!({ "minAvailable": 2 })).is_ok());
    assert_eq!(budget(json!({ "minAvailable": 1, "maxUnavailable": 1 })), Err(vec!["spec".into()]));
    assert_eq!(budget(json!({ "minAvailable": "120%" })), Err(vec!["spec.minAvailable".into()]));
}

#[test]
fn roles_name_what_they_allow_and_bindings_a_role_for_good() {
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let role =
        |kind: &str, rules: &Value| made(kind, json!({ "metadata": { "name": "system:a" }, "rules": rules }));
    assert!(role("ClusterRole", &rules).is_ok() && role("Role", &rules).is_ok());
    let urls = json!([{ "nonResourceURLs": ["/metrics"], "verbs": ["get"] }]);
    assert!(role("ClusterRole", &urls).is_ok());
    assert_eq!(role("Role", &urls), Err(vec!["rules[0].nonResourceURLs".into()]));
    assert_eq!(
        role("Role", &json!([{ "apiGroups": [""], "verbs": ["get"] }])),
        Err(vec!["rules[0].resources".into()])
    );
    let binding = |kind: &str, role: &str, subject: Value| {
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "a" });
        made(kind, json!({ "metadata": { "name": "a" }, "roleRef": role, "subjects": [subject] }))
    };
    let account = json!({ "kind": "ServiceAccount", "name": "a", "namespace": "n" });
    let bound = binding("RoleBinding", "ClusterRole", account.clone()).expect("a binding");
    assert_eq!(cells("RoleBinding", &bound)[5], "n/a");
    assert_eq!(binding("ClusterRoleBinding", "Role", account), Err(vec!["roleRef.kind".into()]));
    let homeless = json!({ "kind": "ServiceAccount", "name": "a" });
    assert_eq!(binding("RoleBinding", "Role", homeless), Err(vec!["subjects[0].namespace".into()]));
    let mut other = bound.clone();
    other["roleRef"]["name"] = "b".into();
    assert_eq!(changed("RoleBinding", &bound, &other), ["roleRef"]);
}

#[test]
fn priorities_beyond_the_users_are_refused() {
    let class = |name: &str, value: i64| {
        made("PriorityClass", json!({ "metadata": { "name": name }, "value": value }))
    };
    assert!(class("a", 1_000_000_000).is_ok());
    assert_eq!(class("a", 1_000_000_001), Err(vec!["value".into()]));
    assert!(class("system-node-critical", 2_000_001_000).is_ok());
    assert_eq!(class("system-own", 1), Err(vec!["metadata.name".into()]));
    assert_eq!(class("a b", 1), Err(vec!["metadata.name".into()]));
}
