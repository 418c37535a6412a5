//! The syncer against a real API server that comes and goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use caracal_agent::syncer::{SyncEvent, Syncer};
use caracal_calc::Update;
use caracal_datastore::client;
use serde_json::json;
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

/// What somebody who only listens to the syncer knows.
struct Listener {
    syncer: Syncer,
    known: BTreeSet<String>,
    deleted: BTreeSet<String>,
    in_sync: bool,
}

impl Listener {
    async fn new(world: &World) -> Self {
        Self::of(Syncer::start(&world.client().await))
    }

    fn of(syncer: Syncer) -> Self {
        Self { syncer, known: BTreeSet::new(), deleted: BTreeSet::new(), in_sync: false }
    }

    async fn next(&mut self) {
        match self.syncer.next().await.unwrap() {
            SyncEvent::InSync => self.in_sync = true,
            SyncEvent::Updates(updates) => {
                for update in updates {
                    match update {
                        Update::Upsert(object) => drop(self.known.insert(object.key().to_string())),
                        Update::Delete(key) => {
                            self.known.remove(&key.to_string());
                            self.deleted.insert(key.to_string());
                        }
                    }
                }
            }
        }
    }

    async fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !so(self) {
            let waited = tokio::time::timeout_at(end, self.next()).await;
            assert!(waited.is_ok(), "waited in vain for {what}; known: {:?}", self.known);
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.known.contains(name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_told_before_in_sync_and_changes_after() {
    let world = World::new().await;
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    world.isolate("deny").await;
    let mut listener = Listener::new(&world).await;
    listener.until("in sync", |l| l.in_sync).await;
    for name in ["Node node1", "Pod default/web", "NetworkPolicy default/deny", "Namespace default"] {
        assert!(listener.knows(name), "{name}: {:?}", listener.known);
    }
    world.pod("late", "node1", "10.244.1.3").await;
    listener.until("a new pod", |l| l.knows("Pod default/late")).await;
    world.delete_pod("web").await;
    listener.until("a pod's end", |l| !l.knows("Pod default/web")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_deletes_nothing_and_what_happened_meanwhile_is_told_after_it() {
    let mut world = World::new().await;
    for number in 2..9 {
        world.pod(&format!("pod{number}"), "node1", &format!("10.244.1.{number}")).await;
    }
    let mut listener = Listener::new(&world).await;
    listener.until("in sync", |l| l.in_sync && l.knows("Pod default/pod8")).await;
    for round in 2..5 {
        world.stop_serving().await;
        let heard = tokio::time::timeout(Duration::from_millis(300), listener.next()).await;
        assert!(heard.is_err(), "nothing has changed: {:?}", listener.deleted);
        world.serve().await;
        world.delete_pod(&format!("pod{round}")).await;
        world.pod(&format!("new{round}"), "node1", &format!("10.244.2.{round}")).await;
        listener.until("the deletion", |l| !l.knows(&format!("Pod default/pod{round}"))).await;
        listener.until("the creation", |l| l.knows(&format!("Pod default/new{round}"))).await;
    }
    let expected = ["Pod default/pod2", "Pod default/pod3", "Pod default/pod4"].map(str::to_owned);
    assert_eq!(listener.deleted, expected.into());
}

/// A cluster that serves everything but Tiers until it is told to, all of it empty.
async fn serve_without_tiers(served: Arc<AtomicBool>) -> kube::Client {
    let answer = move |request: axum::extract::Request| {
        let served = Arc::clone(&served);
        async move {
            let path = request.uri().path().to_owned();
            let of_tiers = path.ends_with("/tiers");
            if of_tiers && !served.load(Relaxed) {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "the server could not find the requested resource", "reason": "NotFound", "code": 404});
                return (StatusCode::NOT_FOUND, axum::Json(status)).into_response();
            }
            if path == "/apis/projectcalico.org/v3" {
                let blocks = json!({"name": "ipamblocks", "singularName": "", "namespaced": false, "kind": "IPAMBlock", "verbs": ["list"]});
                let list = json!({"kind": "APIResourceList", "groupVersion": "projectcalico.org/v3", "resources": [blocks]});
                return axum::Json(list).into_response();
            }
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                return axum::body::Body::from_stream(futures::stream::pending::<
                    Result<Vec<u8>, std::io::Error>,
                >())
                .into_response();
            }
            let tier =
                json!({"metadata": {"name": "security", "resourceVersion": "1", "uid": "u"}, "spec": {}});
            let items = if of_tiers { vec![tier] } else { vec![] };
            axum::Json(json!({"metadata": {"resourceVersion": "1"}, "items": items})).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    kube::Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_a_cluster_does_not_serve_is_done_without_and_followed_once_it_is_served() {
    let served = Arc::new(AtomicBool::new(false));
    let client = serve_without_tiers(Arc::clone(&served)).await;
    let mut listener = Listener::of(Syncer::start(&client));
    listener.until("in sync", |l| l.in_sync).await;
    assert!(listener.known.is_empty(), "{:?}", listener.known);
    served.store(true, Relaxed);
    listener.until("the tier", |l| l.knows("Tier security")).await;
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let nonsense = directory.path().join("nonsense");
    std::fs::write(&nonsense, "clusters: 7").unwrap();
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "{}").unwrap();
    for file in [missing, nonsense, empty] {
        let Err(error) = client(Some(&file)).await else { panic!("{} was taken", file.display()) };
        let text = error.to_string();
        println!("{text}");
        assert!(text.contains(&file.display().to_string()) && !text.contains('\n'), "{text}");
    }
    let error = client(None).await.err().unwrap().to_string();
    println!("{error}");
    assert!(error.contains("--kubeconfig"), "{error}");
}
