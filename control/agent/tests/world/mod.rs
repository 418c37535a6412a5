//! A cluster: a real API server on disk, and what tests do to it.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::SocketAddr;
use std::path::PathBuf;

use caracal_apiserver::{Options, Ranges, Server, serve};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// A cluster's API on disk, and a place for the socket.
pub struct World {
    directory: tempfile::TempDir,
    address: SocketAddr,
    server: Option<Server>,
}

impl World {
    pub async fn new() -> Self {
        // Shown when a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_ansi(false).try_init();
        let directory = tempfile::tempdir().unwrap();
        let mut world = Self { directory, address: ([127, 0, 0, 1], 0).into(), server: None };
        world.serve().await;
        world
    }

    /// Starts the API server, or starts it again at the same address.
    pub async fn serve(&mut self) {
        let options = || Options {
            data_dir: self.directory.path().join("api"),
            listen: self.address,
            write_kubeconfig: self.kubeconfig(),
            ranges: Ranges::default(),
        };
        // What the former one still has under way holds the store for a moment.
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let server = loop {
            match serve(options()).await {
                Ok(server) => break server,
                Err(error) if tokio::time::Instant::now() > end => panic!("{error}"),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        self.address = server.address();
        self.server = Some(server);
    }

    pub async fn stop_serving(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub async fn client(&self) -> Client {
        caracal_datastore::client(Some(&self.kubeconfig())).await.unwrap()
    }

    pub async fn node(&self, name: &str, number: u8) {
        let api: Api<Node> = Api::all(self.client().await);
        let node = api.create(&PostParams::default(), &object(json!({
            "metadata": {
                "name": name,
                "annotations": {
                    "projectcalico.org/IPv4Address": format!("192.0.2.1{number}/24"),
                    "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.244.{number}.0"),
                },
            },
            "spec": {"podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")]},
        }))).await.unwrap();
        let mut node: Node = node;
        node.status = Some(object(
            json!({"addresses": [{"type": "InternalIP", "address": format!("192.0.2.1{number}")}]}),
        ));
        let node = serde_json::to_vec(&node).unwrap();
        api.replace_status(name, &PostParams::default(), serde_json::from_slice(&node).as_ref().unwrap())
            .await
            .unwrap();
    }

    pub async fn pod(&self, name: &str, node: &str, address: &str) {
        let api: Api<Pod> = Api::namespaced(self.client().await, "default");
        let pod: Pod = object(json!({
            "metadata": {"name": name, "namespace": "default", "annotations": {"cni.projectcalico.org/podIPs": address}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "any"}]},
        }));
        api.create(&PostParams::default(), &pod).await.unwrap();
    }

    pub async fn delete_pod(&self, name: &str) {
        let api: Api<Pod> = Api::namespaced(self.client().await, "default");
        api.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    pub async fn isolate(&self, name: &str) {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client().await, "default");
        let policy =
            json!({"metadata": {"name": name}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        api.create(&PostParams::default(), &object(policy)).await.unwrap();
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
