//! The store against a twin that keeps every state it ever had.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LIMITS: LogLimits = LogLimits { events: 1000, bytes: 64 << 20 };

fn open(dir: &tempfile::TempDir, limits: LogLimits) -> Store {
    Store::open(&dir.path().join("store.redb"), limits).expect("a store")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn pod(namespace: &str, name: &str) -> Key {
    Key::new("pods", namespace, name)
}

fn put(key: &Key, value: i64) -> Change {
    Change {
        key: key.clone(),
        conditions: Vec::new(),
        value: Some(json!({ "metadata": { "name": key.name }, "value": value })),
    }
}

fn everything() -> Range {
    Range { resource: "pods".into(), namespace: None }
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: Key, value: i64 },
    Delete { key: Key },
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    let resource = prop_oneof![Just("pods"), Just("nodes")];
    (resource, prop_oneof![Just("a"), Just("b"), Just("ab")], prop_oneof![Just("x"), Just("y"), Just("z")])
        .prop_map(|(resource, namespace, name)| Key::new(resource, namespace, name))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), any::<i64>()).prop_map(|(key, value)| Step::Put { key, value }),
        3 => key().prop_map(|key| Step::Delete { key }),
        1 => Just(Step::Reopen),
    ]
}

/// What a list of pods should say.
fn pods_of(state: &BTreeMap<Key, i64>, namespace: Option<&str>) -> Vec<(Key, i64)> {
    let wanted =
        |key: &Key| key.resource == "pods" && namespace.is_none_or(|namespace| key.namespace == namespace);
    state.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| (key.clone(), *value)).collect()
}

fn listed(snapshot: Snapshot) -> Vec<(Key, i64)> {
    let value = |stored: &Arc<Stored>| stored.value["value"].as_i64().expect("a number");
    snapshot.items.iter().map(|(key, stored)| (key.clone(), value(stored))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_past_state_in_the_log_lists_as_it_was(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(&dir, LIMITS);
        // The state at each revision since the store was opened.
        let mut states = vec![BTreeMap::new()];
        let mut first = 0;
        for step in steps {
            let mut state = states.last().expect("never empty").clone();
            match step {
                Step::Put { key, value } => {
                    block_on(store.commit(put(&key, value))).expect("a write");
                    state.insert(key, value);
                    states.push(state);
                }
                Step::Delete { key } => {
                    let deleted = block_on(store.commit(Change { key: key.clone(), conditions: vec![], value: None }));
                    prop_assert_eq!(deleted.is_ok(), state.remove(&key).is_some());
                    if deleted.is_ok() {
                        states.push(state);
                    }
                }
                Step::Reopen => {
                    first += states.len() as u64 - 1;
                    states = vec![state];
                    block_on(store.close());
                    store = open(&dir, LIMITS);
                }
            }
        }
        let newest = first + states.len() as u64 - 1;
        prop_assert_eq!(store.revision(), newest);
        for (revision, state) in (first..).zip(&states) {
            for namespace in [None, Some("a"), Some("b"), Some("none")] {
                let range = Range { resource: "pods".into(), namespace: namespace.map(str::to_owned) };
                let whole = pods_of(state, namespace);
                let snapshot = store.list(&range, Some(revision), None).expect("in the log");
                prop_assert_eq!(&listed(snapshot), &whole);
                // Any page is what follows its start.
                for (index, (key, _)) in whole.iter().enumerate() {
                    let after = Some((key.namespace.as_str(), key.name.as_str()));
                    let page = store.list(&range, Some(revision), after).expect("in the log");
                    prop_assert_eq!(&listed(page), &whole[index + 1..]);
                }
                // Following the log from any state leads to the newest.
                let mut followed: BTreeMap<Key, i64> = whole.into_iter().collect();
                let mut at = revision;
                while at < newest {
                    let events = store.events(&range, at, 3).expect("in the log");
                    prop_assert!(events.upto > at);
                    for event in events.events {
                        prop_assert!(event.revision > at && event.revision <= events.upto);
                        match &event.after {
                            Some(stored) => followed.insert(event.key.clone(), stored.value["value"].as_i64().expect("a number")),
                            None => followed.remove(&event.key),
                        };
                    }
                    at = events.upto;
                }
                prop_assert_eq!(followed.into_iter().collect::<Vec<_>>(), pods_of(states.last().expect("never empty"), namespace));
            }
        }
        if first > 0 {
            let expired = ReadError::Expired { asked: first - 1, oldest: first };
            prop_assert_eq!(store.events(&everything(), first - 1, 1).err(), Some(expired));
        }
        let future = ReadError::Future { asked: newest + 1, current: newest };
        prop_assert_eq!(store.list(&everything(), Some(newest + 1), None).err(), Some(future));
    }
}

#[test]
fn an_open_store_is_not_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let _store = open(&dir, LIMITS);
    let again = Store::open(&dir.path().join("store.redb"), LIMITS);
    assert!(matches!(again.err(), Some(OpenError::InUse { .. })));
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("store.redb");
    let text = "this is no store".repeat(1000);
    std::fs::write(&file, &text).expect("a file");
    assert!(matches!(Store::open(&file, LIMITS).err(), Some(OpenError::Unreadable { .. })));
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), text);
}

#[test]
fn conditions_are_judged_at_the_instant_of_the_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LIMITS);
    block_on(async {
        let key = pod("a", "x");
        let absent = Change { conditions: vec![Condition::Absent(key.clone())], ..put(&key, 1) };
        // All at once, so that they are judged within one batch.
        let made = futures::future::join_all((0..50).map(|_| store.commit(absent.clone()))).await;
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
        assert!(
            made.iter().all(|made| matches!(made, Ok(_) | Err(CommitError::Unmet(Condition::Absent(_)))))
        );

        let current = store.get(&key).expect("it was made").revision;
        let next = Change { conditions: vec![Condition::Unchanged(key.clone(), current)], ..put(&key, 2) };
        let changed = futures::future::join_all((0..50).map(|_| store.commit(next.clone()))).await;
        assert_eq!(changed.iter().filter(|changed| changed.is_ok()).count(), 1);
    });
}

#[test]
fn who_is_refused_reads_again_and_sees_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LIMITS);
    block_on(async {
        let key = pod("a", "x");
        for round in 0..20 {
            let seen = store.get(&key).map(|stored| stored.revision);
            let condition =
                seen.map_or(Condition::Absent(key.clone()), |seen| Condition::Unchanged(key.clone(), seen));
            let change = Change { conditions: vec![condition], ..put(&key, round) };
            let racers = (0..20).map(|_| async {
                let outcome = store.commit(change.clone()).await;
                // What defeated it is there to be read by the time it is told.
                let now = store.get(&key).map(|stored| stored.revision);
                assert!(outcome.is_ok() || now > seen, "refused for what cannot be seen");
                outcome.is_ok()
            });
            let won = futures::future::join_all(racers).await;
            assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
        }
    });
}

#[test]
fn a_namespace_with_content_is_not_removed_even_within_one_batch() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LIMITS);
    let namespace = Key::new("namespaces", "", "a");
    let remove = Change {
        key: namespace.clone(),
        conditions: vec![Condition::NamespaceEmpty("a".into())],
        value: None,
    };
    block_on(async {
        store.commit(put(&namespace, 0)).await.expect("a namespace");
        // `x` is on its way in the same batch when the namespace is to go.
        let (made, removed) =
            tokio::join!(store.commit(put(&pod("a", "x"), 1)), store.commit(remove.clone()));
        made.expect("a pod");
        assert!(matches!(removed, Err(CommitError::Unmet(Condition::NamespaceEmpty(_)))));
        let gone = Change { key: pod("a", "x"), conditions: vec![], value: None };
        let (gone, removed) = tokio::join!(store.commit(gone), store.commit(remove));
        gone.expect("deleted");
        removed.expect("the namespace is empty by then");
    });
}

#[test]
fn the_log_forgets_its_oldest_changes_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LogLimits { events: 10, bytes: 64 << 20 });
    block_on(async {
        for value in 0..25 {
            store.commit(put(&pod("a", "x"), value)).await.expect("a write");
        }
    });
    assert_eq!(
        store.events(&everything(), 14, 100).err(),
        Some(ReadError::Expired { asked: 14, oldest: 15 })
    );
    assert_eq!(store.events(&everything(), 15, 100).expect("in the log").events.len(), 10);

    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LogLimits { events: 1000, bytes: 4096 });
    block_on(async {
        for value in 0..25 {
            store.commit(put(&pod("a", "x"), value)).await.expect("a write");
        }
    });
    assert!(matches!(store.events(&everything(), 1, 100), Err(ReadError::Expired { .. })));
    assert!(store.events(&everything(), 24, 100).is_ok());
}

#[test]
fn an_object_beyond_the_limit_is_refused_and_the_next_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LIMITS);
    let large = Change { value: Some(json!({ "x": "x".repeat(OBJECT_MOST) })), ..put(&pod("a", "x"), 0) };
    block_on(async {
        assert!(matches!(store.commit(large).await, Err(CommitError::TooLarge(_))));
        store.commit(put(&pod("a", "y"), 1)).await.expect("a write");
    });
    assert_eq!((store.revision(), store.get(&pod("a", "x"))), (1, None));
}

/// A file that a crash, or somebody, has cut off or changed is refused with a reason, or read as it was: never otherwise.
#[test]
fn a_torn_file_is_refused_or_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir, LIMITS);
    for value in 0..50 {
        block_on(store.commit(put(&pod("a", &format!("p{value}")), value))).expect("a write");
    }
    block_on(store.close());
    let file = dir.path().join("store.redb");
    let good = std::fs::read(&file).expect("the file");
    let pieces = (0..64).map(|piece| good.len() * piece / 64).chain([1, 8, 16, 100, good.len() - 1]);
    for length in pieces {
        std::fs::write(&file, &good[..length]).expect("a file");
        // An empty file is a new store: that is how one begins.
        match Store::open(&file, LIMITS) {
            Ok(store) if length == 0 => block_on(store.close()),
            Ok(store) => {
                assert_eq!(store.revision(), 50, "{length} of {}", good.len());
                block_on(store.close());
            }
            Err(error) => assert!(error.to_string().contains("store.redb"), "{error}"),
        }
    }
}

#[test]
fn a_second_server_is_told_who_has_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let _store = open(&dir, LIMITS);
    let refused = Store::open(&dir.path().join("store.redb"), LIMITS).err().expect("it is in use");
    let told = refused.to_string();
    assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
}
