//! CustomResourceDefinitions, applied: what they define is served at once, as they say, and goes with them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use axum::http::Method;
use common::api::{Api, api};
use common::{any_port, options};
use futures::StreamExt;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHOPS: &str = "/apis/example.org/v1/namespaces/default/shops";
const OLD_SHOPS: &str = "/apis/example.org/v1beta1/namespaces/default/shops";

/// A definition with two versions, a status, columns, and something of all that a schema can say.
fn shops() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["owner"],
                "properties": {
                    "owner": { "type": "string", "pattern": "^[a-z]+$", "maxLength": 10 },
                    "size": { "type": "integer", "minimum": 1, "maximum": 100, "default": 7 },
                    "kind": { "type": "string", "enum": ["corner", "mall"], "default": "corner" },
                    "port": { "x-kubernetes-int-or-string": true },
                    "until": { "type": "string", "nullable": true },
                    "extra": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    "shelves": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object", "required": ["name"],
                            "properties": { "name": { "type": "string" }, "boards": { "type": "integer", "default": 3 } },
                        },
                    },
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                },
            },
            "status": { "type": "object", "properties": { "open": { "type": "boolean" } } },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "shops.example.org" },
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": { "plural": "shops", "kind": "Shop", "shortNames": ["sh"], "categories": ["all"] },
            "versions": [
                { "name": "v1beta1", "served": true, "storage": false, "schema": { "openAPIV3Schema": schema } },
                {
                    "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
                    "subresources": { "status": {} },
                    "selectableFields": [{ "jsonPath": ".spec.owner" }],
                    "additionalPrinterColumns": [
                        { "name": "Owner", "type": "string", "jsonPath": ".spec.owner" },
                        { "name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1 },
                    ],
                },
            ],
        },
    })
}

fn shop(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.org/v1", "kind": "Shop", "metadata": { "name": name }, "spec": spec })
}

async fn defined() -> (common::Here, Api) {
    let (here, api) = api().await;
    let made = api.post(DEFINITIONS, shops()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    (here, api)
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_definition_is_served_when_it_is_answered() {
    let (_here, api) = api().await;
    assert_eq!(api.get(SHOPS).await.code, 404);
    assert_eq!(api.post(DEFINITIONS, shops()).await.code, 201);
    assert_eq!(api.get(SHOPS).await.body["kind"], "ShopList");
    let kept = api.get(&format!("{DEFINITIONS}/shops.example.org")).await.body;
    for kind in ["NamesAccepted", "Established"] {
        assert_eq!(condition(&kept, kind)["status"], "True", "{kept}");
    }
    assert_eq!(kept["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(kept["status"]["acceptedNames"]["listKind"], "ShopList");

    let group = api.get("/apis/example.org").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"][1]["groupVersion"], "example.org/v1beta1");
    let resources = api.get("/apis/example.org/v1").await.body["resources"].clone();
    assert_eq!((&resources[0]["name"], &resources[0]["shortNames"]), (&json!("shops"), &json!(["sh"])));
    assert_eq!(resources[1]["name"], "shops/status");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = api.answer(Method::GET, "/apis", "", accept, vec![]).await.body;
    let all = all["items"].as_array().expect("groups").clone();
    let group = all.iter().find(|group| group["metadata"]["name"] == "example.org").expect("the group");
    assert_eq!(group["versions"].as_array().expect("versions").len(), 2);
    assert_eq!(group["versions"][0]["resources"][0]["categories"], json!(["all"]));

    let index = api.get("/openapi/v3").await.body;
    let url =
        index["paths"]["apis/example.org/v1"]["serverRelativeURL"].as_str().expect("a document").to_owned();
    let document = api.get(&url).await.body;
    let schema = &document["components"]["schemas"]["org.example.v1.Shop"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["default"], 7);
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Shop");
    let older = api.get("/openapi/v2").await.body;
    assert!(older["definitions"]["org.example.v1.Shop"].is_object());
    assert!(older["paths"][format!("{}/{{name}}", SHOPS.replace("default", "{namespace}"))].is_object());
}

#[tokio::test]
async fn objects_are_pruned_completed_and_judged_by_the_schema() {
    let (_here, api) = defined().await;
    let sent = shop(
        "a",
        json!({ "owner": "ann", "colour": "red", "until": null, "extra": { "any": [1] }, "shelves": [{ "name": "x" }] }),
    );
    let made = api.post(SHOPS, sent.clone()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(
        made.body["spec"],
        json!({
            "owner": "ann", "size": 7, "kind": "corner", "until": null, "extra": { "any": [1] },
            "shelves": [{ "name": "x", "boards": 3 }],
        })
    );
    assert!(made.warnings[0].contains("unknown field \\\"spec.colour\\\""), "{:?}", made.warnings);
    let strict = api.post(&format!("{SHOPS}?fieldValidation=Strict"), sent).await;
    assert_eq!(strict.code, 400);
    assert!(strict.body["message"].as_str().expect("text").contains("spec.colour"), "{}", strict.body);

    for (spec, field) in [
        (json!({}), "spec.owner"),
        (json!({ "owner": 5 }), "spec.owner"),
        (json!({ "owner": "Ann" }), "spec.owner"),
        (json!({ "owner": "annannannann" }), "spec.owner"),
        (json!({ "owner": "ann", "size": 0 }), "spec.size"),
        (json!({ "owner": "ann", "size": 1.5 }), "spec.size"),
        (json!({ "owner": "ann", "kind": "tent" }), "spec.kind"),
        (json!({ "owner": "ann", "port": true }), "spec.port"),
        (json!({ "owner": "ann", "labels": { "x": 1 } }), "spec.labels.x"),
        (json!({ "owner": "ann", "shelves": [{ "name": "x" }, { "name": "x" }] }), "spec.shelves[1]"),
    ] {
        let refused = api.post(SHOPS, shop("bad", spec.clone())).await;
        assert_eq!(refused.code, 422, "{spec}: {}", refused.body);
        assert_eq!(refused.body["details"]["causes"][0]["field"], field, "{spec}");
    }
    let nameless = api.post(SHOPS, shop("A B", json!({ "owner": "ann" }))).await;
    assert_eq!(nameless.body["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn versions_show_one_object_and_its_status_is_written_apart() {
    let (_here, api) = defined().await;
    let mut sent = shop("a", json!({ "owner": "ann" }));
    sent["apiVersion"] = "example.org/v1beta1".into();
    let made = api.post(OLD_SHOPS, sent).await;
    assert_eq!((made.code, &made.body["apiVersion"]), (201, &json!("example.org/v1beta1")), "{}", made.body);
    let (one, other) = (format!("{SHOPS}/a"), format!("{OLD_SHOPS}/a"));
    assert_eq!(api.get(&one).await.body["apiVersion"], "example.org/v1");
    let listed = api.get(OLD_SHOPS).await.body;
    assert_eq!(listed["items"][0]["apiVersion"], "example.org/v1beta1");
    // Nothing changed: nothing is written.
    let unchanged = api.patch(&other, "merge-patch+json", json!({ "spec": { "owner": "ann" } })).await;
    assert_eq!(unchanged.body["metadata"]["resourceVersion"], made.body["metadata"]["resourceVersion"]);

    let patch = json!({ "spec": { "size": 9 }, "status": { "open": true } });
    let changed = api.patch(&one, "merge-patch+json", patch.clone()).await.body;
    assert_eq!((&changed["spec"]["size"], &changed["metadata"]["generation"]), (&json!(9), &json!(2)));
    assert_eq!(changed.get("status"), None);
    let patch = json!({ "spec": { "size": 11 }, "status": { "open": true } });
    let status = api.patch(&format!("{one}/status"), "merge-patch+json", patch).await.body;
    assert_eq!((&status["spec"]["size"], &status["status"]["open"]), (&json!(9), &json!(true)));
    assert_eq!(status["metadata"]["generation"], 2);
    let bad =
        api.patch(&format!("{one}/status"), "merge-patch+json", json!({ "status": { "open": 1 } })).await;
    assert_eq!(bad.code, 422);
    // The older version has no status of its own.
    assert_eq!(api.patch(&format!("{other}/status"), "merge-patch+json", json!({})).await.code, 404);
    assert_eq!(api.patch(&one, "strategic-merge-patch+json", json!({})).await.code, 415);
    let json_patch = json!([{ "op": "replace", "path": "/spec/size", "value": 12 }]);
    assert_eq!(api.patch(&other, "json-patch+json", json_patch).await.body["spec"]["size"], 12);
    let path = format!("{SHOPS}?fieldSelector=spec.owner%3Dann");
    assert_eq!(api.get(&path).await.body["items"].as_array().map(Vec::len), Some(1));
    let path = format!("{SHOPS}?fieldSelector=spec.owner%3Dbob");
    assert_eq!(api.get(&path).await.body["items"].as_array().map(Vec::len), Some(0));

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let shown = api.answer(Method::GET, SHOPS, "", table, vec![]).await.body;
    let names: Vec<&Value> = shown["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(names, [&json!("Name"), &json!("Owner"), &json!("Size")]);
    assert_eq!(shown["rows"][0]["cells"], json!(["a", "ann", 12]));
}

#[tokio::test]
async fn a_definition_goes_after_its_objects_and_watches_end() {
    let (_here, api) = defined().await;
    for name in ["a", "b"] {
        let mut sent = shop(name, json!({ "owner": "ann" }));
        if name == "b" {
            sent["metadata"]["finalizers"] = json!(["example.org/wait"]);
        }
        assert_eq!(api.post(SHOPS, sent).await.code, 201);
    }
    let revision = api.get(SHOPS).await.body["metadata"]["resourceVersion"].clone();
    let revision = revision.as_str().expect("a revision");
    let mut events = api.watch(&format!("{SHOPS}?watch=1&resourceVersion={revision}")).await;
    let path = format!("{DEFINITIONS}/shops.example.org");
    let going = api.delete(&path, json!({})).await;
    assert_eq!(going.code, 200);
    assert!(going.body["metadata"]["deletionTimestamp"].is_string(), "{}", going.body);
    // One may go at once, the other waits for its finalizer; meanwhile nothing new comes.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = events.next().await.expect("an event");
        seen.push((event["type"].clone(), event["object"]["metadata"]["name"].clone()));
    }
    assert_eq!(seen, [(json!("DELETED"), json!("a")), (json!("MODIFIED"), json!("b"))]);
    assert_eq!(api.post(SHOPS, shop("c", json!({ "owner": "ann" }))).await.code, 405);
    assert_eq!(condition(&api.get(&path).await.body, "Terminating")["status"], "True");
    api.patch(&format!("{SHOPS}/b"), "merge-patch+json", json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(events.next().await.expect("an event")["type"], "DELETED");
    assert!(events.next().await.is_none(), "the watch ends");
    while api.get(&path).await.code != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.get(SHOPS).await.code, 404);
    assert_eq!(api.get("/apis/example.org").await.code, 404);
    // And it may come again, without what it had.
    assert_eq!(api.post(DEFINITIONS, shops()).await.code, 201);
    assert_eq!(api.get(SHOPS).await.body["items"], json!([]));
}

#[tokio::test]
async fn what_is_defined_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
    let api = Api { client: common::client(&common::kubeconfig(dir.path())).await };
    api.post(DEFINITIONS, shops()).await;
    api.post(SHOPS, shop("a", json!({ "owner": "ann" }))).await;
    server.stop().await;
    let _server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
    let api = Api { client: common::client(&common::kubeconfig(dir.path())).await };
    assert_eq!(api.get(&format!("{SHOPS}/a")).await.body["spec"]["owner"], "ann");
}

#[tokio::test]
async fn a_namespace_takes_custom_objects_with_it() {
    let (_here, api) = defined().await;
    api.post("/api/v1/namespaces", json!({ "metadata": { "name": "mall" } })).await;
    let path = SHOPS.replace("default", "mall");
    assert_eq!(api.post(&path, shop("a", json!({ "owner": "ann" }))).await.code, 201);
    api.delete("/api/v1/namespaces/mall", json!({})).await;
    while api.get("/api/v1/namespaces/mall").await.code != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.get("/apis/example.org/v1/shops").await.body["items"], json!([]));
}

#[tokio::test]
async fn of_two_definitions_with_one_name_the_second_waits() {
    let (_here, api) = defined().await;
    let mut other = shops();
    other["metadata"]["name"] = "shopkeepers.example.org".into();
    other["spec"]["names"] = json!({ "plural": "shopkeepers", "kind": "Shopkeeper", "shortNames": ["sh"] });
    api.post(DEFINITIONS, other).await;
    let path = format!("{DEFINITIONS}/shopkeepers.example.org");
    let waiting = api.get(&path).await.body;
    assert_eq!(condition(&waiting, "NamesAccepted")["status"], "False", "{waiting}");
    assert_eq!(condition(&waiting, "Established")["status"], "False");
    assert!(condition(&waiting, "NamesAccepted")["message"].as_str().expect("text").contains("\"sh\""));
    assert_eq!(api.get("/apis/example.org/v1/shopkeepers").await.code, 404);
    api.delete(&format!("{DEFINITIONS}/shops.example.org"), json!({})).await;
    while api.get("/apis/example.org/v1/shopkeepers").await.code != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(condition(&api.get(&path).await.body, "Established")["status"], "True");
}

#[tokio::test]
async fn what_is_served_natively_stays_so_and_its_objects_survive_a_definition() {
    let (_here, api) = api().await;
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({
        "metadata": { "name": "tiers.projectcalico.org" },
        "spec": {
            "group": "projectcalico.org", "scope": "Cluster", "names": { "plural": "tiers", "kind": "Tier" },
            "versions": [{ "name": "v3", "served": true, "storage": true, "schema": { "openAPIV3Schema": any } }],
        },
    });
    assert_eq!(api.post(DEFINITIONS, definition).await.code, 201);
    let path = format!("{DEFINITIONS}/tiers.projectcalico.org");
    let kept = api.get(&path).await.body;
    assert_eq!(condition(&kept, "Established")["reason"], "ServedNatively", "{kept}");
    let tiers = "/apis/projectcalico.org/v3/tiers";
    let bad = json!({ "metadata": { "name": "a" }, "spec": { "order": "first" } });
    assert_eq!(api.post(tiers, bad).await.code, 422, "judged natively");
    let there = api.get(tiers).await.body["items"].as_array().map(Vec::len);
    assert_eq!(api.delete(&path, json!({})).await.code, 200);
    while api.get(&path).await.code != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.get(tiers).await.body["items"].as_array().map(Vec::len), there);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_its_place() {
    let (_here, api) = api().await;
    let mut definition = shops();
    for (pointer, value, field) in [
        ("/metadata/name", json!("shop.example.org"), "metadata.name"),
        ("/spec/group", json!("example"), "spec.group"),
        ("/spec/scope", json!("Galaxy"), "spec.scope"),
        ("/spec/versions/0/storage", json!(true), "spec.versions"),
        ("/spec/versions/0/name", json!("v1"), "spec.versions[1].name"),
        ("/spec/conversion", json!({ "strategy": "Webhook" }), "spec.conversion.strategy"),
        (
            "/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/owner",
            json!({ "description": "of no type" }),
            "spec.versions[1].schema.openAPIV3Schema.properties[spec].properties[owner].type",
        ),
        (
            "/spec/versions/1/additionalPrinterColumns/0/jsonPath",
            json!("spec.owner"),
            "spec.versions[1].additionalPrinterColumns[0].jsonPath",
        ),
    ] {
        let good = definition.pointer(pointer).cloned();
        match definition.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => definition["spec"]["conversion"] = value,
        }
        let refused = api.post(DEFINITIONS, definition.clone()).await;
        assert_eq!(refused.code, 422, "{pointer}: {}", refused.body);
        let causes = refused.body["details"]["causes"].as_array().expect("causes").clone();
        assert!(causes.iter().any(|cause| cause["field"] == field), "{pointer}: {causes:?}");
        match (good, definition.pointer_mut(pointer)) {
            (Some(good), Some(place)) => *place = good,
            _ => drop(definition["spec"].as_object_mut().expect("a map").remove("conversion")),
        }
    }
    assert_eq!(api.post(DEFINITIONS, definition).await.code, 201);
    let path = format!("{DEFINITIONS}/shops.example.org");
    let patch = json!({ "spec": { "scope": "Cluster" } });
    assert_eq!(api.patch(&path, "merge-patch+json", patch).await.code, 422);
}

#[tokio::test]
async fn rules_in_cel_are_kept_and_the_status_says_that_nobody_evaluates_them() {
    let (_here, api) = api().await;
    let mut definition = shops();
    let rules = json!([{ "rule": "self.size > 3", "message": "too small" }]);
    definition["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        rules.clone();
    let made = api.post(DEFINITIONS, definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let kept = api.get(&format!("{DEFINITIONS}/shops.example.org")).await.body;
    let told = condition(&kept, "RulesEvaluated");
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("NotSupported")), "{kept}");
    let shown = &kept["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(shown["x-kubernetes-validations"], rules);
}

#[tokio::test]
async fn a_changed_schema_judges_what_comes_after_it_and_ends_watches() {
    let (_here, api) = defined().await;
    api.post(SHOPS, shop("a", json!({ "owner": "ann", "size": 50 }))).await;
    let mut events = api.watch(&format!("{SHOPS}?watch=1")).await;
    assert_eq!(events.next().await.expect("an event")["type"], "ADDED");
    let path = format!("{DEFINITIONS}/shops.example.org");
    // A label changes nothing for those who watch.
    api.patch(&path, "merge-patch+json", json!({ "metadata": { "labels": { "x": "y" } } })).await;
    api.patch(&format!("{SHOPS}/a"), "merge-patch+json", json!({ "spec": { "size": 51 } })).await;
    assert_eq!(events.next().await.expect("an event")["type"], "MODIFIED");
    let smaller = json!([{
        "op": "replace", "path": "/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/size/maximum",
        "value": 10,
    }]);
    assert_eq!(api.patch(&path, "json-patch+json", smaller).await.code, 200);
    assert!(events.next().await.is_none(), "the watch ends");
    assert_eq!(api.post(SHOPS, shop("b", json!({ "owner": "ann", "size": 50 }))).await.code, 422);
    assert_eq!(api.get(&format!("{SHOPS}/a")).await.body["spec"]["size"], 51);
}
