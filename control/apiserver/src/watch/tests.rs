//! Watchers against what was written.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::kinds;
use crate::store::{Change, Key, LogLimits};

mod load;

struct World {
    store: Store,
    stop: watch::Sender<bool>,
    tables: watch::Sender<Arc<Table>>,
    _dir: tempfile::TempDir,
}

fn world(limits: LogLimits) -> World {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store.redb"), limits).expect("a store");
    let tables = watch::Sender::new(Arc::new(Table::with(Vec::new())));
    World { store, tables, stop: watch::Sender::new(false), _dir: dir }
}

impl World {
    fn watch(&self, labels: &str, start: Start, timeout: u64) -> Watch {
        let resource = kinds::find("", "v1", "pods").expect("served");
        let _ = self;
        Watch {
            resource: Arc::clone(resource),
            range: Range { resource: "pods".into(), namespace: None },
            selection: Selection::parse(resource, labels, "").expect("a selector"),
            view: View::Whole,
            start,
            bookmarks: false,
            mark_initial_end: false,
            timeout: Duration::from_secs(timeout),
        }
    }

    fn lines(&self, watch: Watch) -> impl Stream<Item = Value> + Unpin + Send + 'static {
        let pieces = watch.stream(self.store.clone(), self.tables.subscribe(), self.stop.subscribe());
        Box::pin(pieces.flat_map(|piece| {
            let text = String::from_utf8(piece.expect("never fails").to_vec()).expect("UTF-8");
            let lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            futures::stream::iter(lines)
        }))
    }

    async fn put(&self, name: &str, color: &str) -> u64 {
        let value = json!({ "kind": "Pod", "metadata": { "name": name, "namespace": "a", "labels": { "color": color } } });
        let change = Change { key: Key::new("pods", "a", name), conditions: vec![], value: Some(value) };
        self.store.commit(change).await.expect("a write").object.revision
    }

    async fn delete(&self, name: &str) -> bool {
        let change = Change { key: Key::new("pods", "a", name), conditions: vec![], value: None };
        self.store.commit(change).await.is_ok()
    }
}

fn told(line: &Value) -> (String, String, u64) {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let revision = text(&line["object"]["metadata"]["resourceVersion"]).parse().expect("a number");
    (text(&line["type"]), text(&line["object"]["metadata"]["name"]), revision)
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_for_its_watcher() {
    let world = world(LogLimits::default());
    let mut lines = world.lines(world.watch("color=red", Start::Revision(0), 60));
    world.put("x", "red").await;
    world.put("x", "blue").await;
    world.put("y", "blue").await;
    world.put("x", "red").await;
    world.put("x", "red").await;
    assert!(world.delete("x").await);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let line = lines.next().await.expect("an event");
        assert_eq!(
            line["object"]["metadata"]["labels"]["color"], "red",
            "shown as it was when it was selected"
        );
        seen.push(told(&line));
    }
    let expected = [("ADDED", 1), ("DELETED", 2), ("ADDED", 4), ("MODIFIED", 5), ("DELETED", 6)];
    assert_eq!(seen, expected.map(|(what, revision)| (what.to_owned(), "x".to_owned(), revision)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_concurrent_writers_no_watcher_misses_or_repeats_anything() {
    let world = std::sync::Arc::new(world(LogLimits { events: 100_000, bytes: 1 << 30 }));
    const WRITERS: usize = 8;
    const WRITES: usize = 150;
    const COLORS: [&str; 3] = ["red", "green", "blue"];

    // Watchers begin before, and at moments in between; from a list or from a revision.
    let mut watchers = Vec::new();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let world = std::sync::Arc::clone(&world);
        writers.push(tokio::spawn(async move {
            for write in 0..WRITES {
                // Names are shared, so that writers meet on the same objects.
                let name = format!("p{}", (write * 7 + writer) % 10);
                if write % 5 == 4 {
                    world.delete(&name).await;
                } else {
                    world.put(&name, COLORS[(write + writer) % 3]).await;
                }
            }
        }));
    }
    for index in 0..12 {
        let labels = ["", "color=red", "color!=blue"][index % 3];
        let range = Range { resource: "pods".into(), namespace: None };
        let selection = world.watch(labels, Start::Now, 60).selection;
        let snapshot = world.store.list(&range, None, None).expect("now");
        let (start, known) = if index % 2 == 0 {
            (Start::Now, BTreeMap::new())
        } else {
            let selected = snapshot.items.into_iter().filter(|(_, stored)| selection.matches(&stored.value));
            (
                Start::Revision(snapshot.revision),
                selected.map(|(key, stored)| (key.name, stored.revision)).collect(),
            )
        };
        let lines = world.lines(world.watch(labels, start, 3600));
        watchers.push(tokio::spawn(follow(lines, known, matches!(start, Start::Now))));
        tokio::task::yield_now().await;
        let mut revisions = world.store.revisions();
        let _ = revisions.changed().await;
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    // A last object that everyone sees ends the watches.
    world.put("last", "red").await;
    for (index, watcher) in watchers.into_iter().enumerate() {
        let labels = ["", "color=red", "color!=blue"][index % 3];
        let selection = world.watch(labels, Start::Now, 60).selection;
        let known = watcher.await.expect("a watcher");
        let range = Range { resource: "pods".into(), namespace: None };
        let now = world.store.list(&range, None, None).expect("now");
        let selected = now.items.into_iter().filter(|(_, stored)| selection.matches(&stored.value));
        let expected: BTreeMap<String, u64> =
            selected.map(|(key, stored)| (key.name, stored.revision)).collect();
        assert_eq!(known, expected, "watcher {index} of {labels}");
    }
}

/// Follows a watch until it sees `last`; what it then knows. Each event must fit what was known, and be newer.
async fn follow(
    mut lines: impl Stream<Item = Value> + Unpin,
    mut known: BTreeMap<String, u64>,
    mut initial: bool,
) -> BTreeMap<String, u64> {
    let mut newest = 0;
    while let Some(line) = lines.next().await {
        let (what, name, revision) = told(&line);
        // The initial objects come by name, then everything by revision.
        if revision > newest {
            newest = revision;
        } else {
            assert!(initial && what == "ADDED", "{what} {name} at {revision} came after {newest}");
        }
        match what.as_str() {
            "ADDED" => assert_eq!(known.insert(name.clone(), revision), None, "{name} was added twice"),
            "MODIFIED" => {
                initial = false;
                assert!(
                    known.insert(name.clone(), revision).is_some(),
                    "{name} was modified before it was added"
                );
            }
            "DELETED" => {
                initial = false;
                assert!(known.remove(&name).is_some(), "{name} was deleted before it was added");
            }
            other => panic!("{other}"),
        }
        if name == "last" {
            return known;
        }
    }
    panic!("the watch ended early");
}

#[tokio::test]
async fn a_watcher_that_the_log_has_left_behind_is_told_410_and_ended() {
    let world = world(LogLimits { events: 10, bytes: 64 << 20 });
    world.put("x", "red").await;
    let mut slow = world.lines(world.watch("", Start::Now, 60));
    assert_eq!(told(&slow.next().await.expect("an event")).0, "ADDED");
    for _ in 0..30 {
        world.put("x", "red").await;
    }
    let error = slow.next().await.expect("an event");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(slow.next().await.is_none());

    // So is one that begins in the forgotten past, or in another store's future.
    for revision in [1, 1000] {
        let mut lines = world.lines(world.watch("", Start::Revision(revision), 60));
        assert_eq!(lines.next().await.expect("an event")["object"]["code"], 410);
        assert!(lines.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let world = world(LogLimits::default());
    let revision = world.put("x", "red").await;
    let watch = Watch { bookmarks: true, ..world.watch("", Start::Revision(revision), 290) };
    let lines: Vec<Value> = world.lines(watch).collect().await;
    // At 60, 120, 180, 240 and 288 seconds.
    assert_eq!(lines.len(), 5);
    for line in &lines {
        assert_eq!((&line["type"], &line["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
        assert_eq!(line["object"]["metadata"], json!({ "resourceVersion": revision.to_string() }));
    }
    // Who does not understand them gets none, and the watch ends all the same.
    let lines: Vec<Value> = world.lines(world.watch("", Start::Revision(revision), 290)).collect().await;
    assert_eq!(lines, Vec::<Value>::new());
    // A short watch has one too.
    let watch = Watch { bookmarks: true, ..world.watch("", Start::Revision(revision), 1) };
    let lines: Vec<Value> = world.lines(watch).collect().await;
    assert!(lines.len() <= 1, "{lines:?}");
}

#[tokio::test]
async fn a_bookmark_covers_changes_that_its_watcher_does_not_see() {
    let world = world(LogLimits::default());
    world.put("x", "red").await;
    tokio::time::pause();
    let watch = Watch { bookmarks: true, ..world.watch("color=blue", Start::Revision(0), 61) };
    let lines: Vec<Value> = world.lines(watch).collect().await;
    assert!(!lines.is_empty());
    for line in lines {
        assert_eq!(line["object"]["metadata"]["resourceVersion"], "1");
    }
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let world = world(LogLimits::default());
    for index in 0..150 {
        world.put(&format!("p{index:03}"), "red").await;
    }
    let watch = Watch { bookmarks: true, mark_initial_end: true, ..world.watch("", Start::Now, 60) };
    let mut lines = world.lines(watch);
    for index in 0..150 {
        let (what, name, _) = told(&lines.next().await.expect("an event"));
        assert_eq!((what.as_str(), name), ("ADDED", format!("p{index:03}")));
    }
    let mark = lines.next().await.expect("the mark");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], "150");
    world.put("later", "red").await;
    assert_eq!(told(&lines.next().await.expect("an event")), ("ADDED".into(), "later".into(), 151));
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches() {
    let world = world(LogLimits::default());
    let mut lines = world.lines(world.watch("", Start::Now, 3600));
    world.put("x", "red").await;
    assert_eq!(told(&lines.next().await.expect("an event")).1, "x");
    world.stop.send_replace(true);
    assert!(lines.next().await.is_none());
}

/// Pieces are bounded by their bytes too; what does not fit comes in the next.
#[tokio::test]
async fn large_objects_come_in_pieces_and_none_is_left_out() {
    let world = world(LogLimits::default());
    const OBJECTS: u64 = 40;
    let large = "x".repeat(PIECE_BYTES / 3);
    let put = async |revision: u64| {
        let name = format!("p{revision:03}");
        let labels = json!({ "color": "red" });
        let value = json!({ "kind": "Pod", "metadata": { "name": name, "labels": labels }, "large": large });
        let change = Change { key: Key::new("pods", "a", name), conditions: vec![], value: Some(value) };
        assert_eq!(world.store.commit(change).await.expect("a write").object.revision, revision);
    };
    for revision in 1..=OBJECTS {
        put(revision).await;
    }
    for start in [Start::Now, Start::Revision(5)] {
        let first = if start == Start::Now { 1 } else { 6 };
        let pieces = world.watch("", start, 3600);
        let pieces = pieces.stream(world.store.clone(), world.tables.subscribe(), world.stop.subscribe());
        let mut pieces = Box::pin(pieces);
        let mut seen = Vec::new();
        while seen.last() != Some(&OBJECTS) {
            let piece = tokio::time::timeout(Duration::from_secs(60), pieces.next()).await;
            let piece = piece.expect("more is to come").expect("a piece").expect("never fails");
            assert!(piece.len() < 2 * PIECE_BYTES, "{} bytes at once", piece.len());
            let text = String::from_utf8(piece.to_vec()).expect("UTF-8");
            seen.extend(text.lines().map(|line| told(&serde_json::from_str(line).expect("JSON")).2));
        }
        assert!(seen.iter().copied().eq(first..=OBJECTS), "{seen:?}");
    }
}
