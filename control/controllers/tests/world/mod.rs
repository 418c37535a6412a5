//! A cluster: a real API server on disk, processes of controllers, and what tests do to them.

#![allow(dead_code, reason = "not every test does everything")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use caracal_apiserver::{Options as ServerOptions, Server, serve};
use caracal_controllers::election::Timing;
use caracal_controllers::settings::Overrides;
use caracal_controllers::{LeaseName, Options, View, run};
use caracal_datastore::{ApiGroup, Datastore, client};
use caracal_ipam::{Attributes, AutoAssign, Nanoseconds, Owner, Use, auto_assign};
use caracal_model::calico::custom_resource_definitions;
use caracal_model::object::{Kind, Object, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

/// So fast that no test waits long, and so slow that a busy machine keeps no leader from renewing its lease.
pub const TIMING: Timing = Timing {
    lease: Duration::from_secs(4),
    renew_deadline: Duration::from_secs(3),
    retry: Duration::from_millis(100),
};

/// A cluster's API on disk.
pub struct World {
    directory: tempfile::TempDir,
    server: Option<Server>,
    pub datastore: Datastore,
}

/// A process of controllers.
pub struct Process {
    pub name: &'static str,
    pub view: View,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl World {
    /// One whose objects are in `projectcalico.org/v3`.
    pub async fn new() -> Self {
        Self::of(ApiGroup::V3).await
    }

    /// One whose objects are in a group.
    pub async fn of(group: ApiGroup) -> Self {
        // Shown when a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().with_ansi(false).try_init();
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let any = ([127, 0, 0, 1], 0).into();
        let server = serve(server_options(&directory, any)).await.unwrap();
        let datastore = Datastore::new(client(Some(&kubeconfig)).await.unwrap(), group);
        if group == ApiGroup::Crd {
            for definition in custom_resource_definitions("crd.projectcalico.org") {
                let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
                let request = http::Request::post(path).header("Content-Type", "application/json");
                let request = request.body(definition.to_string().into_bytes()).unwrap();
                let _: Value = datastore.client().request(request).await.unwrap();
            }
        }
        Self { directory, server: Some(server), datastore }
    }

    /// Ends the API server; returns where it was.
    pub async fn stop_serving(&mut self) -> SocketAddr {
        let server = self.server.take().unwrap();
        let address = server.address();
        server.stop().await;
        address
    }

    /// Starts it again.
    pub async fn serve(&mut self, address: SocketAddr) {
        let end = tokio::time::Instant::now() + PATIENCE;
        // What the former one still has under way holds the store for a moment.
        self.server = Some(loop {
            match serve(server_options(&self.directory, address)).await {
                Ok(server) => break server,
                Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
    }

    /// A process that stands for election.
    pub async fn candidate(&self, name: &'static str) -> Process {
        self.start(name, Some(LeaseName::default()), Overrides::default()).await
    }

    /// A process without others.
    pub async fn alone(&self) -> Process {
        self.start("alone", None, Overrides::default()).await
    }

    pub async fn start(&self, name: &'static str, lease: Option<LeaseName>, overrides: Overrides) -> Process {
        // Connections of its own, as a process has.
        let kubeconfig = self.directory.path().join("kubeconfig");
        let group = self.datastore.group();
        let datastore = Datastore::new(client(Some(&kubeconfig)).await.unwrap(), group);
        let view = View::new(datastore, &overrides);
        let (stop, stopped) = oneshot::channel();
        let options =
            Options { lease, identity: name.to_owned(), timing: TIMING, overrides, ..Options::default() };
        let task = tokio::spawn(run(view.clone(), options, async { drop(stopped.await) }));
        Process { name, view, stop: Some(stop), task }
    }

    pub async fn create(&self, manifest: Value) -> Object {
        self.datastore.create(&object(manifest)).await.unwrap()
    }

    pub async fn patch(&self, key: &ObjectKey, patch: Value) {
        self.datastore.patch(key, &patch).await.unwrap();
    }

    pub async fn delete(&self, key: &ObjectKey) {
        self.datastore.delete(key, None).await.unwrap();
    }

    pub async fn get(&self, key: &ObjectKey) -> Option<Value> {
        match self.datastore.get(key.kind, key.namespace.as_deref(), &key.name).await {
            Ok(object) => Some(object.to_value()),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn pool(&self, name: &str, cidr: &str, more: Value) {
        let mut spec = json!({"cidr": cidr});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        self.create(
            json!({"apiVersion": CALICO, "kind": "IPPool", "metadata": {"name": name}, "spec": spec}),
        )
        .await;
    }

    pub async fn service(&self, name: &str, spec: Value) -> ObjectKey {
        let mut spec = spec;
        spec["type"] = spec.get("type").cloned().unwrap_or("LoadBalancer".into());
        spec["ports"] = json!([{"port": 80}]);
        self.create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
        ObjectKey::new(Kind::Service, Some("default"), name)
    }

    pub async fn node(&self, name: &str, address: &str) -> ObjectKey {
        self.create(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"zone": "a"}, "annotations": {"projectcalico.org/IPv4Address": format!("{address}/24")}},
        }))
        .await;
        ObjectKey::new(Kind::Node, None, name)
    }

    /// A pod of a node, with an address from its pools, as the CNI plugin makes it.
    pub async fn pod(&self, node: &str, name: &str) -> ObjectKey {
        let address = self.assign(node, name).await;
        self.create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": {"cni.projectcalico.org/podIPs": address.to_string()}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "any"}]},
        }))
        .await;
        ObjectKey::new(Kind::Pod, Some("default"), name)
    }

    /// An address for a pod of a node; whether there is such a pod is another question.
    pub async fn assign(&self, node: &str, pod: &str) -> IpAddr {
        let owner = [("namespace", "default"), ("pod", pod), ("node", node)];
        let attributes = Attributes {
            handle: Some(format!("k8s-pod-network.{pod}")),
            owner: owner.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..Attributes::default()
        };
        let wanted = AutoAssign {
            v4: 1,
            v6: 0,
            attributes,
            owner: Owner::Host(node.to_owned()),
            pools: vec![],
            usage: Use::Workload,
            max_blocks: 0,
        };
        let world = self.datastore.ipam_world(Some(node), Some("default")).await.unwrap();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = Nanoseconds(u64::try_from(since_1970.as_nanos()).unwrap());
        let (v4, _) = auto_assign(&self.datastore.ipam(), &world, &wanted, now).await.unwrap();
        v4.addresses[0].0
    }

    /// The names of all objects of a kind.
    pub async fn names(&self, kind: Kind) -> Vec<String> {
        let objects = self.datastore.list(kind).await.unwrap();
        objects.iter().map(|object| object.metadata().name.clone().unwrap_or_default()).collect()
    }

    /// What the controllers are told.
    pub async fn configure(&self, spec: Value) {
        let manifest = json!({"apiVersion": CALICO, "kind": "KubeControllersConfiguration", "metadata": {"name": "default"}, "spec": spec});
        let key = ObjectKey::new(Kind::KubeControllersConfiguration, None, "default");
        match self.get(&key).await {
            None => drop(self.create(manifest).await),
            Some(_) => self.patch(&key, json!({"spec": manifest["spec"]})).await,
        }
    }

    /// The addresses that a service's status shows.
    pub async fn ingress(&self, service: &ObjectKey) -> Vec<String> {
        let service = self.get(service).await.unwrap();
        let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
        ingress.into_iter().flatten().map(|ingress| ingress["ip"].as_str().unwrap().to_owned()).collect()
    }

    /// All addresses that blocks say somebody has, with their handles.
    pub async fn given(&self) -> Vec<(String, String)> {
        let blocks = self.datastore.list(Kind::IPAMBlock).await.unwrap();
        let mut all = Vec::new();
        for object in blocks {
            let Some(caracal_ipam::Record::Block(block)) = caracal_datastore::ipam_record(&object) else {
                continue;
            };
            all.extend(
                block
                    .given()
                    .map(|(address, of)| (address.to_string(), of.handle.clone().unwrap_or_default())),
            );
        }
        all
    }
}

pub const CALICO: &str = "projectcalico.org/v3";

pub fn object(manifest: Value) -> Object {
    Object::from_value(manifest).unwrap()
}

fn server_options(directory: &tempfile::TempDir, listen: SocketAddr) -> ServerOptions {
    ServerOptions {
        data_dir: directory.path().join("api"),
        listen,
        write_kubeconfig: directory.path().join("kubeconfig"),
        ranges: caracal_apiserver::Ranges::default(),
    }
}

impl Process {
    /// Ends it in an orderly way.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }

    /// Ends it as kill -9 does: nothing of its is said any more.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Waits until something is so.
pub async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !so().await {
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
