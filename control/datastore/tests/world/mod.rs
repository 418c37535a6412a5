//! A cluster: a real API server on disk.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::PathBuf;

use caracal_apiserver::{Options, Ranges, Server, serve_with_tokens};
use caracal_datastore::{ApiGroup, Datastore, client};
use caracal_model::calico::custom_resource_definitions;
use caracal_model::object::Object;
use serde_json::{Value, json};

/// A cluster's API, and its datastore.
pub struct World {
    directory: tempfile::TempDir,
    server: Server,
    pub datastore: Datastore,
}

impl World {
    /// One whose objects are in a group; it serves `projectcalico.org/v3` in any case.
    pub async fn new(group: ApiGroup) -> Self {
        // Shown when a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_ansi(false).try_init();
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let options = Options {
            data_dir: directory.path().join("api"),
            listen: ([127, 0, 0, 1], 0).into(),
            write_kubeconfig: kubeconfig.clone(),
            ranges: Ranges::default(),
        };
        let tokens = directory.path().join("tokens");
        std::fs::write(&tokens, "").unwrap();
        let server = serve_with_tokens(options, Some(tokens)).await.unwrap();
        let datastore = Datastore::new(client(Some(&kubeconfig)).await.unwrap(), group);
        let world = Self { directory, server, datastore };
        if group == ApiGroup::Crd {
            for definition in custom_resource_definitions("crd.projectcalico.org") {
                world.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
            }
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the server is.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// Ends the server, and says where its kubeconfig was.
    pub async fn stop(self) -> tempfile::TempDir {
        self.server.stop().await;
        self.directory
    }

    /// Says to the server whom it lets in beside its own.
    pub fn let_in(&self, token: &str) {
        let line = if token.is_empty() { String::new() } else { format!("{token},anybody,1\n") };
        std::fs::write(self.path("tokens"), line).unwrap();
    }

    /// Makes an object as it is written.
    pub async fn post(&self, path: &str, object: &Value) -> Value {
        let request = http::Request::post(path).header("Content-Type", "application/json");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        self.datastore.client().request(request).await.unwrap()
    }

    /// What is kept at a path, as it is.
    pub async fn read(&self, path: &str) -> Value {
        self.datastore.client().request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }

    pub async fn create(&self, object: Value) -> Object {
        self.datastore.create(&Object::from_value(object).unwrap()).await.unwrap()
    }

    pub async fn pool(&self, name: &str, cidr: &str, block_size: u8) {
        self.create(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
            "spec": {"cidr": cidr, "blockSize": block_size, "vxlanMode": "Always"},
        }))
        .await;
    }

    pub async fn node(&self, name: &str) {
        self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
    }
}
