//! Thousands of changes, dozens of watchers: each sees exactly what a slow model says that it should.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::*;

const WRITERS: usize = 6;
const WRITES: usize = 700;
const WATCHERS: usize = 48;
const COLORS: [&str; 3] = ["red", "green", "blue"];
const NODES: [&str; 2] = ["one", "two"];
const NAMESPACES: [&str; 2] = ["a", "b"];
/// What ends the watches: everybody sees it.
const LAST: &str = "last";

/// One change: by its revision, which object is now what; none: it is gone.
type History = BTreeMap<u64, (Key, Option<Value>)>;

fn pod(key: &Key, color: &str, node: &str) -> Value {
    json!({
        "kind": "Pod", "metadata": { "name": key.name, "namespace": key.namespace, "labels": { "color": color } },
        "spec": { "nodeName": node },
    })
}

/// Writes at random; some keys are everybody's.
async fn write(world: Arc<World>, writer: usize, history: Arc<Mutex<History>>) {
    let mut random = TestRunner::default();
    let mut below = |most: usize| (0..most).new_tree(&mut random).expect("a number").current();
    for _ in 0..WRITES {
        let name = match below(2) {
            0 => format!("w{writer}-{}", below(4)),
            _ => format!("all-{}", below(6)),
        };
        let key = Key::new("pods", NAMESPACES[below(2)], name);
        let value = (below(5) != 0).then(|| pod(&key, COLORS[below(3)], NODES[below(2)]));
        let change = Change { key: key.clone(), conditions: vec![], value: value.clone() };
        if let Ok(committed) = world.store.commit(change).await {
            let former = history.lock().expect("a history").insert(committed.object.revision, (key, value));
            assert_eq!(former, None, "a revision is given once");
        }
        if below(10) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// What one watcher asks for, in words of its own.
#[derive(Clone, Debug)]
struct Asked {
    labels: &'static str,
    fields: &'static str,
    namespace: Option<&'static str>,
    start: u64,
}

impl Asked {
    fn wants(&self, key: &Key, value: &Value) -> bool {
        let color = value["metadata"]["labels"]["color"].as_str().expect("a color");
        let node = value["spec"]["nodeName"].as_str().expect("a node");
        let by_label = match self.labels {
            "" => true,
            "color=red" => color == "red",
            "color in (red,blue)" => color != "green",
            _ => color != "blue",
        };
        let by_field = self.fields.is_empty() || node == "one";
        by_label && by_field && self.namespace.is_none_or(|namespace| namespace == key.namespace)
    }

    /// What it should be told: walks through all of history.
    fn expected(&self, history: &History) -> Vec<(String, String, u64)> {
        let mut world: BTreeMap<&Key, &Value> = BTreeMap::new();
        let mut told = Vec::new();
        for (revision, (key, value)) in history {
            let before = world.get(key).is_some_and(|value| self.wants(key, value));
            let after = value.as_ref().is_some_and(|value| self.wants(key, value));
            match value {
                Some(value) => world.insert(key, value),
                None => world.remove(key),
            };
            let what = match (before, after) {
                (false, false) => continue,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            };
            if *revision > self.start {
                told.push((what.to_owned(), key.name.clone(), *revision));
            }
        }
        told
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_joins_at_whatever_revision_sees_what_the_slow_model_says() {
    let world = Arc::new(world(LogLimits { events: 100_000, bytes: 1 << 30 }));
    let history: Arc<Mutex<History>> = Arc::default();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(&world), writer, Arc::clone(&history))))
        .collect();

    let mut random = TestRunner::default();
    let mut below = |most: usize| (0..most).new_tree(&mut random).expect("a number").current();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut revisions = world.store.revisions();
        revisions.changed().await.expect("writers write");
        let now = world.store.revision();
        let asked = Asked {
            labels: ["", "color=red", "color!=blue", "color in (red,blue)"][below(4)],
            fields: ["", "spec.nodeName=one"][below(2)],
            namespace: [None, None, Some("a")][below(3)],
            // Somewhere in the past, or just here.
            start: u64::try_from(below(usize::try_from(now).expect("small") + 1)).expect("small").max(1),
        };
        let mut watch = world.watch(asked.labels, Start::Revision(asked.start), 3600);
        watch.range.namespace = asked.namespace.map(str::to_owned);
        watch.selection = Selection::parse(&watch.resource, asked.labels, asked.fields).expect("a selector");
        let mut lines = world.lines(watch);
        watchers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(line) = lines.next().await {
                let event = told(&line);
                let last = event.1 == LAST;
                seen.push(event);
                if last {
                    break;
                }
            }
            (asked, seen)
        }));
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    let key = Key::new("pods", "a", LAST);
    let value = pod(&key, "red", "one");
    let change = Change { key: key.clone(), conditions: vec![], value: Some(value.clone()) };
    let revision = world.store.commit(change).await.expect("a write").object.revision;
    let mut history = std::mem::take(&mut *history.lock().expect("a history"));
    history.insert(revision, (key, Some(value)));
    assert_eq!(history.len() as u64, revision, "no revision is left out");
    let mut events = 0;
    for watcher in watchers {
        let (asked, seen) = watcher.await.expect("a watcher");
        events += seen.len();
        assert_eq!(seen, asked.expected(&history), "{asked:?}");
    }
    assert!(events > WATCHERS * WRITES, "too few events to say anything: {events}");
}
