//! A cluster: a real API server on disk.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::PathBuf;

use caracal_apiserver::{Options, Ranges, Server, serve};
use caracal_datastore::{ApiGroup, Datastore, client};
use caracal_model::object::Object;
use serde_json::{Value, json};

/// A cluster's API, and its datastore.
pub struct World {
    directory: tempfile::TempDir,
    _server: Server,
    pub datastore: Datastore,
}

impl World {
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
        let server = serve(options).await.unwrap();
        let datastore = Datastore::new(client(Some(&kubeconfig)).await.unwrap(), group);
        Self { directory, _server: server, datastore }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
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
