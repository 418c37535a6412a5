//! What the server answers, request by request.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use axum::http::Method;
use common::api::{Api, api, revision};
use common::{Here, any_port, options};
use futures::StreamExt;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

fn account(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

#[tokio::test]
async fn a_token_of_the_file_is_good_until_the_file_says_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tokens");
    std::fs::write(&file, "for-a-while,ann,1,\"system:masters\"\n").expect("a file");
    let options = options(dir.path(), any_port());
    let _server = caracal_apiserver::serve_with_tokens(options, Some(file.clone())).await.expect("a server");
    let kubeconfig =
        kube::config::Kubeconfig::read_from(common::kubeconfig(dir.path())).expect("a kubeconfig");
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("a good kubeconfig");
    config.auth_info.token = Some("for-a-while".to_owned().into());
    config.proxy_url = None;
    let api = Api { client: kube::Client::try_from(config).expect("a client") };
    assert_eq!(api.get(PODS).await.code, 200);
    std::fs::write(&file, "another,ann,1\n").expect("a file");
    let refused = api.get(PODS).await;
    assert_eq!((refused.code, &refused.body["reason"]), (401, &json!("Unauthorized")));
    std::fs::write(&file, "for-a-while,ann,1\n").expect("a file");
    assert_eq!(api.get(PODS).await.code, 200);
}

#[tokio::test]
async fn without_the_token_only_health_is_told() {
    let (here, _) = api().await;
    let mut config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(here.kubeconfig()).expect("a kubeconfig"),
        &kube::config::KubeConfigOptions::default(),
    )
    .await
    .expect("a good kubeconfig");
    config.proxy_url = None;
    for (token, code) in [(None, 401), (Some("wrong"), 401)] {
        config.auth_info.token = token.map(|token: &str| token.to_owned().into());
        let api = Api { client: kube::Client::try_from(config.clone()).expect("a client") };
        let answer = api.get("/api/v1/nodes").await;
        assert_eq!((answer.code, &answer.body["reason"]), (code, &json!("Unauthorized")));
        assert_eq!(api.get("/api").await.code, 401);
        for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
            assert_eq!((api.get(path).await.code, api.get(path).await.body), (200, json!("ok")));
        }
    }
    let mode = std::fs::metadata(here.kubeconfig()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_stale_write_is_a_conflict_and_a_fresh_one_is_not() {
    let (_here, api) = api().await;
    let first = api.post(ACCOUNTS, account("a")).await.body;
    let path = format!("{ACCOUNTS}/a");
    let mut second = first.clone();
    second["metadata"]["labels"] = json!({ "x": "1" });
    assert_eq!(api.put(&path, second.clone()).await.code, 200);
    let stale = api.put(&path, second.clone()).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    // Without a resourceVersion it is meant for whatever is there; with another's uid for nothing.
    second["metadata"]["resourceVersion"] = Value::Null;
    second["metadata"]["labels"] = json!({ "x": "2" });
    assert_eq!(api.put(&path, second.clone()).await.code, 200);
    second["metadata"]["uid"] = json!("other");
    assert_eq!(api.put(&path, second).await.code, 409);
    let patch = json!({ "metadata": { "resourceVersion": first["metadata"]["resourceVersion"], "labels": { "x": "3" } } });
    assert_eq!(api.patch(&path, "merge-patch+json", patch).await.code, 409);
    // What changes nothing makes no revision.
    let now = api.get(&path).await.body;
    let same = api.patch(&path, "merge-patch+json", json!({ "metadata": { "labels": { "x": "2" } } })).await;
    assert_eq!((same.code, revision(&same.body)), (200, revision(&now)));

    let uid = first["metadata"]["uid"].clone();
    assert_eq!(api.delete(&path, json!({ "preconditions": { "uid": "other" } })).await.code, 409);
    assert_eq!(api.delete(&path, json!({ "preconditions": { "resourceVersion": "1" } })).await.code, 409);
    assert_eq!(api.delete(&path, json!({ "preconditions": { "uid": uid } })).await.code, 200);
    assert_eq!(api.delete(&path, json!({})).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_all_arrive() {
    let (_here, api) = api().await;
    let api = std::sync::Arc::new(api);
    api.post(ACCOUNTS, account("a")).await;
    let patches = (0..10).map(|index| {
        let api = std::sync::Arc::clone(&api);
        tokio::spawn(async move {
            let patch = json!({ "metadata": { "labels": { format!("l{index}"): "x" } } });
            api.patch(&format!("{ACCOUNTS}/a"), "strategic-merge-patch+json", patch).await.code
        })
    });
    for code in futures::future::join_all(patches).await {
        assert_eq!(code.expect("an answer"), 200);
    }
    let labels = api.get(&format!("{ACCOUNTS}/a")).await.body["metadata"]["labels"].clone();
    assert_eq!(labels.as_object().expect("labels").len(), 10);
}

#[tokio::test]
async fn pages_show_one_moment_whatever_is_written_meanwhile() {
    let (_here, api) = api().await;
    for index in 0..10 {
        assert_eq!(api.post(ACCOUNTS, account(&format!("a{index}"))).await.code, 201);
    }
    let whole = api.get(ACCOUNTS).await.body;
    let mut names = Vec::new();
    let mut path = format!("{ACCOUNTS}?limit=3");
    for page in 0.. {
        let list = api.get(&path).await.body;
        assert_eq!(revision(&list), revision(&whole));
        names.extend(
            list["items"].as_array().expect("items").iter().map(|item| item["metadata"]["name"].clone()),
        );
        let left = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        assert_eq!(names.len() as u64 + left, 11);
        match list["metadata"]["continue"].as_str() {
            Some(more) => path = format!("{ACCOUNTS}?limit=3&continue={}", more.replace('/', "%2F")),
            None => break,
        }
        // One before and one after the next page's start, one changed, one gone.
        api.post(ACCOUNTS, account(&format!("a0-{page}"))).await;
        api.post(ACCOUNTS, account(&format!("z{page}"))).await;
        api.delete(&format!("{ACCOUNTS}/a{}", 9 - page), json!({})).await;
    }
    let expected: Vec<Value> = whole["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, expected);
    // The past can be asked for by name too.
    let then =
        api.get(&format!("{ACCOUNTS}?resourceVersion={}&resourceVersionMatch=Exact", revision(&whole))).await;
    assert_eq!(then.body["items"], whole["items"]);
    assert_eq!(api.get(&format!("{ACCOUNTS}?continue=x")).await.code, 400);
}

#[tokio::test]
async fn a_watch_tells_what_follows_and_ends_on_time() {
    let (_here, api) = api().await;
    let list = api.get(PODS).await.body;
    let mut events =
        api.watch(&format!("{PODS}?watch=true&resourceVersion={}&timeoutSeconds=60", revision(&list))).await;
    api.post(PODS, pod("a")).await;
    api.patch(&format!("{PODS}/a/status"), "merge-patch+json", json!({ "status": { "phase": "Running", "podIP": "10.244.0.2", "podIPs": [{ "ip": "10.244.0.2" }] } })).await;
    api.delete(&format!("{PODS}/a"), json!({})).await;
    for (what, phase) in [("ADDED", "Pending"), ("MODIFIED", "Running"), ("DELETED", "Running")] {
        let event = events.next().await.expect("an event");
        assert_eq!((&event["type"], &event["object"]["status"]["phase"]), (&json!(what), &json!(phase)));
        assert_eq!(event["object"]["kind"], "Pod");
    }
    drop(events);
    let mut events = api.watch(&format!("{PODS}?watch=1&timeoutSeconds=1")).await;
    assert_eq!(events.next().await, None);
    // Gone is told within the stream: an HTTP 410 here would make clients ask the same again.
    let mut events = api.watch(&format!("{PODS}?watch=1&resourceVersion=999999")).await;
    let error = events.next().await.expect("an event");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[tokio::test]
async fn answers_come_as_tables_and_as_metadata() {
    let (_here, api) = api().await;
    api.post(PODS, pod("a")).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for (path, beside) in
        [(PODS.to_owned(), "PartialObjectMetadata"), (format!("{PODS}?includeObject=Object"), "Pod")]
    {
        let body = api.answer(Method::GET, &path, "", table, vec![]).await.body;
        assert_eq!(body["kind"], "Table");
        assert_eq!(body["columnDefinitions"][0]["name"], "Name");
        assert_eq!(body["rows"][0]["cells"][0], "a");
        assert_eq!(body["rows"][0]["object"]["kind"], beside);
        assert_eq!(
            body["rows"][0]["cells"].as_array().map(Vec::len),
            body["columnDefinitions"].as_array().map(Vec::len)
        );
    }
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let body = api.answer(Method::GET, PODS, "", metadata, vec![]).await.body;
    assert_eq!(
        (&body["kind"], &body["items"][0]["spec"]),
        (&json!("PartialObjectMetadataList"), &Value::Null)
    );
    let refused = api.answer(Method::GET, PODS, "", "text/plain", vec![]).await;
    assert_eq!((refused.code, &refused.body["reason"]), (406, &json!("NotAcceptable")));
}

#[tokio::test]
async fn creation_names_stamps_and_completes() {
    let (_here, api) = api().await;
    let mut sent = pod("");
    sent["metadata"] =
        json!({ "generateName": "web-", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z" });
    sent["status"] = json!({ "phase": "Running" });
    let made = api.post(PODS, sent).await.body;
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(made["metadata"]["uid"], "mine");
    assert!(!made["metadata"]["creationTimestamp"].as_str().expect("a time").starts_with("2001"));
    assert_eq!(
        (&made["metadata"]["namespace"], &made["metadata"]["generation"]),
        (&json!("default"), &json!(1))
    );
    assert_eq!(
        (&made["status"]["phase"], &made["spec"]["serviceAccountName"]),
        (&json!("Pending"), &json!("default"))
    );

    let tested = api.post(&format!("{PODS}?dryRun=All"), pod("dry")).await;
    assert_eq!(tested.code, 201);
    assert_eq!(api.get(&format!("{PODS}/dry")).await.code, 404);

    let yaml = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: yaml}\n";
    let made = api.answer(Method::POST, ACCOUNTS, "application/yaml", "", yaml.into()).await;
    assert_eq!((made.code, &made.body["metadata"]["name"]), (201, &json!("yaml")));

    let mut known = pod("known");
    known["spec"]["nodename"] = json!("x");
    let warned = api.post(PODS, known.clone()).await;
    assert_eq!(
        (warned.code, warned.warnings),
        (201, vec![r#"299 - "unknown field \"spec.nodename\"""#.to_owned()])
    );
    known["metadata"]["name"] = json!("other");
    let refused = api.post(&format!("{PODS}?fieldValidation=Strict"), known.clone()).await;
    assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")));
    let ignored = api.post(&format!("{PODS}?fieldValidation=Ignore"), known).await;
    assert_eq!((ignored.code, ignored.warnings.len()), (201, 0));
}

#[tokio::test]
async fn every_wrong_field_is_a_cause() {
    let (_here, api) = api().await;
    let policy = json!({ "metadata": { "name": "p" }, "spec": { "podSelector": {}, "ingress": [
        { "ports": [{ "port": 70000 }, { "endPort": 5 }], "from": [{ "ipBlock": { "cidr": "x" } }] },
    ] } });
    let refused = api.post(POLICIES, policy).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    let causes = refused.body["details"]["causes"].as_array().expect("causes");
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().expect("a field")).collect();
    for field in ["spec.ingress[0].ports[0].port", "spec.ingress[0].from[0].ipBlock.cidr"] {
        assert!(fields.contains(&field), "{fields:?}");
    }
    assert_eq!(refused.body["details"]["kind"], "NetworkPolicy");
}

#[tokio::test]
async fn an_object_with_finalizers_goes_when_they_have_gone() {
    let (_here, api) = api().await;
    let mut sent = account("a");
    sent["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(ACCOUNTS, sent).await;
    let path = format!("{ACCOUNTS}/a");
    let going = api.delete(&path, json!({})).await;
    assert_eq!(going.code, 200);
    assert!(going.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.get(&path).await.code, 200);
    let patch = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["example.com/x"] } });
    assert_eq!(api.patch(&path, "strategic-merge-patch+json", patch).await.code, 200);
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it_and_nothing_new_in() {
    let (_here, api) = api().await;
    let inside = "/api/v1/namespaces/n/serviceaccounts";
    assert_eq!(api.post(inside, account("early")).await.code, 404);
    let made = api.post("/api/v1/namespaces", account("n")).await.body;
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    assert_eq!(api.get(&format!("{inside}/default")).await.code, 200);
    let mut stays = account("stays");
    stays["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.post(inside, stays).await;
    let going = api.delete("/api/v1/namespaces/n", json!({})).await;
    assert_eq!(going.body["status"]["phase"], "Terminating");
    let late = api.post(inside, account("late")).await;
    assert_eq!((late.code, &late.body["reason"]), (403, &json!("Forbidden")));
    // One watch from before its last step sees it go, once the finalizer has.
    let list = api.get("/api/v1/namespaces?fieldSelector=metadata.name%3Dn").await.body;
    let path = format!(
        "/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dn&resourceVersion={}",
        revision(&list)
    );
    let mut events = api.watch(&path).await;
    api.patch(&format!("{inside}/stays"), "merge-patch+json", json!({ "metadata": { "finalizers": null } }))
        .await;
    while events.next().await.expect("an event")["type"] != "DELETED" {}
    assert_eq!(api.get("/api/v1/namespaces/n").await.code, 404);
    assert_eq!(api.get(inside).await.body["items"], json!([]));
}

#[tokio::test]
async fn collections_are_deleted_by_selection() {
    let (_here, api) = api().await;
    for (name, tier) in [("a", "x"), ("b", "y"), ("c", "x")] {
        api.post(ACCOUNTS, json!({ "metadata": { "name": name, "labels": { "tier": tier } } })).await;
    }
    let deleted = api.delete(&format!("{ACCOUNTS}?labelSelector=tier%3Dx"), json!({})).await;
    assert_eq!((deleted.code, deleted.body["items"].as_array().map(Vec::len)), (200, Some(2)));
    let left = api.get(&format!("{ACCOUNTS}?labelSelector=tier")).await.body;
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_and_not_fallen_over() {
    let (_here, api) = api().await;
    let json = "application/json";
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_yaml = format!("a: {}", "[".repeat(20_000));
    let large = format!(r#"{{"metadata":{{"name":"a","annotations":{{"x":"{}"}}}}}}"#, "x".repeat(4 << 20));
    for (body, media, code) in [
        ("", json, 400),
        ("{", json, 400),
        ("[]", json, 400),
        ("null", json, 400),
        ("\u{0}\u{1}", json, 400),
        (r#"{"metadata":[]}"#, json, 400),
        (r#"{"metadata":{"name":5}}"#, json, 400),
        (r#"{"kind":"Pod","apiVersion":"v1"}"#, json, 400),
        (r#"{"metadata":{"name":"a","namespace":"other"}}"#, json, 400),
        (r#"{"metadata":{"name":"a","resourceVersion":"5"}}"#, json, 400),
        (r#"{"metadata":{}}"#, json, 422),
        (r#"{"metadata":{"name":"A"}}"#, json, 422),
        (deep.as_str(), json, 400),
        (large.as_str(), json, 413),
        ("a: [", "application/yaml", 400),
        ("a: 1\n---\nb: 2", "application/yaml", 400),
        (deep_yaml.as_str(), "application/yaml", 400),
        ("k8s\0nonsense", "application/vnd.kubernetes.protobuf", 400),
        ("{}", "text/plain", 415),
    ] {
        let answer = api.answer(Method::POST, ACCOUNTS, media, "", body.into()).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!((answer.code, &answer.body["kind"]), (code, &json!("Status")), "{shown}: {}", answer.body);
    }
    for path in [
        format!("{ACCOUNTS}?limit=x"),
        format!("{ACCOUNTS}?watch=maybe"),
        format!("{ACCOUNTS}?labelSelector=%3D"),
        format!("{ACCOUNTS}?fieldSelector=spec.x%3Dy"),
        format!("{ACCOUNTS}?resourceVersionMatch=Exact"),
        format!("{ACCOUNTS}?watch=1&sendInitialEvents=true"),
    ] {
        assert_eq!(api.get(&path).await.code, 400, "{path}");
    }
    for path in
        ["/api/v1/endpoints", "/apis/apps/v1/statefulsets", "/nothing", "/apis/none", "/api/v1/pods/a"]
    {
        let answer = api.get(path).await;
        assert_eq!((answer.code, &answer.body["reason"]), (404, &json!("NotFound")), "{path}");
    }
    assert_eq!(api.delete("/api/v1/namespaces", json!({})).await.code, 405);
    api.post(ACCOUNTS, account("a")).await;
    let path = format!("{ACCOUNTS}/a");
    for (media, body, code) in [
        ("apply-patch+yaml", json!({}), 415),
        ("json-patch+json", json!({}), 400),
        ("json-patch+json", json!([{ "op": "test", "path": "/kind", "value": "x" }]), 422),
        ("merge-patch+json", json!([]), 400),
        ("merge-patch+json", json!({ "metadata": { "name": "b" } }), 400),
        ("merge-patch+json", json!({ "metadata": "x" }), 400),
        ("strategic-merge-patch+json", json!({ "secrets": [{}] }), 400),
        ("merge-patch+json", json!({ "metadata": { "labels": { "a": "-" } } }), 422),
    ] {
        assert_eq!(api.patch(&path, media, body.clone()).await.code, code, "{media} {body}");
    }
    assert_eq!(api.get(&path).await.code, 200);
}

#[tokio::test]
async fn discovery_is_told_in_both_ways() {
    let (_here, api) = api().await;
    assert_eq!(api.get("/api").await.body["versions"], json!(["v1"]));
    let groups = api.get("/apis").await.body;
    let groups = groups["groups"].as_array().expect("groups").iter();
    let versions: Vec<&str> =
        groups.filter_map(|group| group["preferredVersion"]["groupVersion"].as_str()).collect();
    // Of the two NetworkPolicies the plain word means the first.
    let place = |version: &str| versions.iter().position(|listed| *listed == version).expect("served");
    assert!(place("networking.k8s.io/v1") < place("projectcalico.org/v3"), "{versions:?}");
    let names = |list: &Value, field: &str| -> Vec<String> {
        let rows = list.as_array().expect("rows").iter();
        rows.map(|row| row[field].as_str().expect("a name").to_owned()).collect()
    };
    let core = api.get("/api/v1").await.body;
    let classic = names(&core["resources"], "name");
    assert!(classic.contains(&"pods/status".to_owned()), "{classic:?}");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = api.answer(Method::GET, "/api", "", accept, vec![]).await.body;
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    let aggregated = names(&aggregated["items"][0]["versions"][0]["resources"], "resource");
    let plain: Vec<String> = classic.into_iter().filter(|name| !name.contains('/')).collect();
    assert_eq!(aggregated, plain);
    assert_eq!(api.get("/version").await.body["minor"], "33");
}

#[tokio::test]
async fn calicos_kinds_are_custom_resources_and_profiles_are_read_only() {
    let (_here, api) = api().await;
    let tiers = "/apis/projectcalico.org/v3/tiers";
    let tier = |name: &str, spec: Value| json!({ "metadata": { "name": name }, "spec": spec });
    assert_eq!(api.post(tiers, tier("a", json!({ "order": 5 }))).await.code, 201);
    let one = format!("{tiers}/a");
    let strategic = api.patch(&one, "strategic-merge-patch+json", json!({ "spec": { "order": 6 } })).await;
    assert_eq!((strategic.code, strategic.body["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let merged = api.patch(&one, "merge-patch+json", json!({ "spec": { "order": 6 } })).await;
    assert_eq!((merged.code, &merged.body["spec"]["order"]), (200, &json!(6.0)));
    assert_eq!(merged.body["metadata"]["generation"], 2);
    assert_eq!(merged.body["apiVersion"], "projectcalico.org/v3");
    // What does not fit the schema is said as a custom resource's is: by field, and all of it.
    let wrong = tier("b", json!({ "order": "first", "defaultAction": 7 }));
    let wrong = api.post(tiers, wrong).await;
    let causes = wrong.body["details"]["causes"].as_array().expect("causes");
    let fields: Vec<&str> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    assert_eq!(
        (wrong.code, fields.contains(&"spec.order") && fields.contains(&"spec.defaultAction")),
        (422, true)
    );
    assert!(api.get(tiers).await.body["items"].as_array().is_some_and(|all| all.len() == 4));

    let profiles = "/apis/projectcalico.org/v3/profiles";
    let listed = api.get(profiles).await;
    let names: Vec<&str> = listed.body["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|profile| profile["metadata"]["name"].as_str())
        .collect();
    assert!(names.contains(&"kns.default") && names.contains(&"ksa.default.default"), "{names:?}");
    assert_eq!(api.get(&format!("{profiles}/kns.none")).await.code, 404);
    assert_eq!(api.get(&format!("{profiles}/projectcalico-default-allow")).await.code, 200);
    for answer in [
        api.post(profiles, tier("mine", json!({}))).await,
        api.delete(&format!("{profiles}/kns.default"), json!({})).await,
        api.get(&format!("{profiles}?watch=true")).await,
    ] {
        assert_eq!(answer.code, 405);
        assert!(
            answer.body["message"]
                .as_str()
                .is_some_and(|told| told.contains("namespaces and service accounts"))
        );
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_or_port_says_so() {
    let here = Here::start().await;
    let same = caracal_apiserver::serve(options(here.dir.path(), any_port())).await.err().expect("refused");
    assert!(same.to_string().contains("--data-dir"), "{same}");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let address: SocketAddr = here.server.address();
    let taken = caracal_apiserver::serve(options(elsewhere.path(), address)).await.err().expect("refused");
    assert!(taken.to_string().contains(&format!("--listen {address}")), "{taken}");
    for error in [same, taken] {
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn a_stopped_server_ends_its_watches_and_lets_everything_go() {
    let (here, api) = api().await;
    api.post(ACCOUNTS, account("a")).await;
    let mut events = api
        .watch(&format!("{ACCOUNTS}?watch=1&resourceVersion={}", revision(&api.get(ACCOUNTS).await.body)))
        .await;
    let Here { server, dir } = here;
    let address = server.address();
    server.stop().await;
    assert_eq!(events.next().await, None);
    // The same place can be taken again at once, and the same kubeconfig's token is good.
    let server = caracal_apiserver::serve(options(dir.path(), address)).await.expect("it comes back");
    assert_eq!(api.get(&format!("{ACCOUNTS}/a")).await.code, 200);
    server.stop().await;
}
