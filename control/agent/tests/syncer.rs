//! The syncer against a real API server that comes and goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use caracal_agent::syncer::{SyncEvent, Syncer, client};
use caracal_calc::Update;
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
        let syncer = Syncer::start(&world.client().await);
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
