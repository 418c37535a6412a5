//! What the server does for services: addresses, node ports, and slices of their endpoints.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::time::Duration;

use common::{Here, any_port, client, kubeconfig, options};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Service {
    let mut whole = json!({ "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] });
    for (key, value) in spec.as_object().expect("a map") {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": whole })).expect("a service")
}

fn pod(name: &str) -> Pod {
    let port = json!({ "name": "http", "containerPort": 8080 });
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": "web" } },
        "spec": { "nodeName": "node1", "containers": [{ "name": "c", "image": "i", "ports": [port] }] },
    }))
    .expect("a pod")
}

fn address(service: &Service) -> String {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default()
}

fn node_port(service: &Service) -> Option<i32> {
    service.spec.as_ref()?.ports.as_ref()?.first()?.node_port
}

struct Apis {
    services: Api<Service>,
    pods: Api<Pod>,
    slices: Api<EndpointSlice>,
}

impl Apis {
    fn new(client: &kube::Client) -> Self {
        Self {
            services: Api::namespaced(client.clone(), "default"),
            pods: Api::namespaced(client.clone(), "default"),
            slices: Api::namespaced(client.clone(), "default"),
        }
    }

    async fn make(&self, name: &str, spec: Value) -> Service {
        self.services.create(&PostParams::default(), &service(name, spec)).await.expect("a service")
    }

    async fn refused(&self, name: &str, spec: Value) -> String {
        let made = self.services.create(&PostParams::default(), &service(name, spec)).await;
        match made.expect_err("a refusal") {
            kube::Error::Api(status) => format!("{} {}", status.code, status.message),
            other => panic!("{other}"),
        }
    }

    async fn add_pod(&self, name: &str, ip: &str) {
        self.pods.create(&PostParams::default(), &pod(name)).await.expect("a pod");
        let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
        let patched = self.pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
        patched.expect("a status");
    }

    /// Waits until the endpoints of a service are these.
    async fn endpoints(&self, service: &str, expected: &[&str]) {
        let selected = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let mut told = Vec::new();
        for _ in 0..6000 {
            let slices = self.slices.list(&selected).await.expect("slices");
            told = slices
                .iter()
                .flat_map(|slice| {
                    let port =
                        slice.ports.iter().flatten().next().and_then(|port| port.port).unwrap_or_default();
                    slice.endpoints.iter().map(move |endpoint| format!("{}:{port}", endpoint.addresses[0]))
                })
                .collect();
            told.sort();
            if told == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{service} has {told:?} instead of {expected:?}");
    }
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let here = Here::start().await;
    let apis = Apis::new(&here.client().await);
    let first = apis.make("a", json!({})).await;
    assert_eq!(address(&first), "10.96.1.0");
    let dual = apis.make("b", json!({ "ipFamilyPolicy": "PreferDualStack", "type": "NodePort" })).await;
    let spec = dual.spec.as_ref().expect("a spec");
    assert_eq!(spec.cluster_ips.clone().unwrap_or_default(), ["10.96.1.1", "fd00:10:96::100"]);
    assert_eq!(node_port(&dual), Some(30_000));
    let refused = apis.refused("c", json!({ "clusterIP": "10.96.1.0" })).await;
    assert!(refused.starts_with("422") && refused.contains("already allocated"), "{refused}");
    let refused = apis.refused("c", json!({ "clusterIP": "10.1.1.0" })).await;
    assert!(refused.contains("10.96.0.0/16"), "{refused}");

    let patch = Patch::Merge(json!({ "spec": { "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"] } }));
    let moved = apis.services.patch("a", &PatchParams::default(), &patch).await;
    assert!(moved.expect_err("a refusal").to_string().contains("may not change once set"));
    let mut replacement = service("a", json!({ "type": "NodePort" }));
    replacement.metadata.resource_version = first.metadata.resource_version;
    let replaced = apis.services.replace("a", &PostParams::default(), &replacement).await.expect("a service");
    assert_eq!((address(&replaced).as_str(), node_port(&replaced)), ("10.96.1.0", Some(30_001)));

    apis.services.delete("a", &DeleteParams::default()).await.expect("a deletion");
    let again = apis.make("d", json!({ "type": "NodePort" })).await;
    assert_eq!((address(&again).as_str(), node_port(&again)), ("10.96.1.0", Some(30_001)));
}

#[tokio::test]
async fn many_at_once_get_different_addresses() {
    let here = Here::start().await;
    let client = here.client().await;
    let making = (0..40).map(|number| {
        let apis = Apis::new(&client);
        tokio::spawn(async move { address(&apis.make(&format!("s{number}"), json!({})).await) })
    });
    let mut addresses = std::collections::BTreeSet::new();
    for made in making.collect::<Vec<_>>() {
        assert!(addresses.insert(made.await.expect("an address")), "an address twice");
    }
    assert_eq!(addresses.len(), 40);
}

#[tokio::test]
async fn what_is_taken_is_known_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
    let apis = Apis::new(&client(&kubeconfig(dir.path())).await);
    apis.make("a", json!({})).await;
    apis.add_pod("p", "10.244.1.2").await;
    apis.endpoints("a", &["10.244.1.2:8080"]).await;
    drop(apis);
    server.stop().await;
    let server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
    let apis = Apis::new(&client(&kubeconfig(dir.path())).await);
    assert_eq!(address(&apis.make("b", json!({})).await), "10.96.1.1");
    apis.pods.delete("p", &DeleteParams::default()).await.expect("a deletion");
    apis.endpoints("a", &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn pods_of_the_selector_become_endpoints_and_go() {
    let here = Here::start().await;
    let apis = Apis::new(&here.client().await);
    apis.add_pod("p", "10.244.1.2").await;
    apis.make("a", json!({})).await;
    apis.endpoints("a", &["10.244.1.2:8080"]).await;
    apis.add_pod("q", "10.244.1.3").await;
    apis.endpoints("a", &["10.244.1.2:8080", "10.244.1.3:8080"]).await;
    let other = Patch::Merge(json!({ "metadata": { "labels": { "app": "db" } } }));
    apis.pods.patch("p", &PatchParams::default(), &other).await.expect("a pod");
    apis.endpoints("a", &["10.244.1.3:8080"]).await;
    let numbered =
        Patch::Merge(json!({ "spec": { "ports": [{ "port": 80, "targetPort": 9090, "protocol": "TCP" }] } }));
    apis.services.patch("a", &PatchParams::default(), &numbered).await.expect("a service");
    apis.endpoints("a", &["10.244.1.3:9090"]).await;
    apis.services.delete("a", &DeleteParams::default()).await.expect("a deletion");
    apis.endpoints("a", &[]).await;
}

#[tokio::test]
async fn slices_of_others_are_left_alone() {
    let here = Here::start().await;
    let apis = Apis::new(&here.client().await);
    apis.add_pod("p", "10.244.1.2").await;
    apis.make("a", json!({})).await;
    apis.endpoints("a", &["10.244.1.2:8080"]).await;
    let theirs: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "mine", "labels": { "kubernetes.io/service-name": "a", "endpointslice.kubernetes.io/managed-by": "me" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["203.0.113.9"] }], "ports": [{ "name": "", "port": 7 }],
    }))
    .expect("a slice");
    apis.slices.create(&PostParams::default(), &theirs).await.expect("a slice");
    apis.endpoints("a", &["203.0.113.9:7"]).await;
    apis.services.delete("a", &DeleteParams::default()).await.expect("a deletion");
    apis.make("b", json!({})).await;
    apis.endpoints("b", &["10.244.1.2:8080"]).await;
    apis.endpoints("a", &["203.0.113.9:7"]).await;
    apis.make("a", json!({})).await;
    apis.slices.delete("mine", &DeleteParams::default()).await.expect("a deletion");
    apis.endpoints("a", &["10.244.1.2:8080"]).await;
}

#[tokio::test]
async fn a_service_that_makes_no_slice_does_not_keep_others_from_theirs() {
    let here = Here::start().await;
    let apis = Apis::new(&here.client().await);
    apis.add_pod("p", "10.244.1.2").await;
    // A slice has at most 100 ports; services are looked at by name.
    let ports: Vec<Value> =
        (1..=101).map(|number| json!({ "name": format!("p{number}"), "port": number })).collect();
    apis.make("a", json!({ "ports": ports })).await;
    apis.make("b", json!({})).await;
    apis.endpoints("b", &["10.244.1.2:8080"]).await;
    apis.add_pod("q", "10.244.1.3").await;
    apis.endpoints("b", &["10.244.1.2:8080", "10.244.1.3:8080"]).await;
}
