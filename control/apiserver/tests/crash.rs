//! kill -9 at random moments: what was acknowledged is there afterwards, and nothing else than what was asked for; who
//! watches, and goes on where it was, sees every change once, or is told to list again.
//!
//! CARACAL_LONG=1 kills several hundred times instead of fifteen.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::api::revision;
use common::{Elsewhere, any_port, client, serve_if_told};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchParams};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

#[test]
fn the_server_that_others_kill() {
    serve_if_told();
}

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;
const WATCHERS: usize = 3;
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// One who keeps up with the accounts, over the server's lives.
#[derive(Default)]
struct Watcher {
    /// What it believes that there is.
    believes: BTreeMap<String, u64>,
    /// As of which revision; 0: it has yet to list.
    revision: u64,
    seen: u64,
    listed: usize,
}

fn value_of(account: &Value) -> Option<(String, u64)> {
    let value = account["metadata"]["labels"]["value"].as_str()?.parse().ok()?;
    Some((account["metadata"]["name"].as_str()?.to_owned(), value))
}

impl Watcher {
    /// Follows until the server no longer answers.
    async fn follow(mut self, client: kube::Client) -> Watcher {
        loop {
            if self.revision == 0 && self.list(&client).await.is_none() {
                return self;
            }
            let path = format!("{ACCOUNTS}?watch=1&resourceVersion={}", self.revision);
            let request = axum::http::Request::get(path).body(vec![]).expect("a request");
            let Ok(stream) = client.request_stream(request).await else { return self };
            let mut lines = std::pin::pin!(stream.lines());
            loop {
                let Some(Ok(line)) = lines.next().await else { return self };
                let event: Value = serde_json::from_str(&line).expect("a whole event");
                if event["type"] == "ERROR" {
                    assert_eq!(event["object"]["code"], 410, "{event}");
                    self.revision = 0;
                    break;
                }
                self.see(&event);
            }
        }
    }

    async fn list(&mut self, client: &kube::Client) -> Option<()> {
        let request = axum::http::Request::get(ACCOUNTS).body(vec![]).expect("a request");
        let list: Value = client.request(request).await.ok()?;
        self.believes = list["items"].as_array().expect("items").iter().filter_map(value_of).collect();
        self.revision = revision(&list);
        self.listed += 1;
        Some(())
    }

    /// Nothing but accounts is written here: of all revisions none may be missing, and none come twice.
    fn see(&mut self, event: &Value) {
        let revision = revision(&event["object"]);
        assert_eq!(revision, self.revision + 1, "{event}");
        self.revision = revision;
        self.seen += 1;
        let Some((name, value)) = value_of(&event["object"]) else { return };
        match event["type"].as_str() {
            Some("ADDED") => assert_eq!(self.believes.insert(name, value), None, "{event}"),
            Some("MODIFIED") => assert!(self.believes.insert(name, value).is_some(), "{event}"),
            _ => assert_eq!(self.believes.remove(&name), Some(value), "{event}"),
        }
    }

    /// What it has seen is on disk, though its server was killed.
    fn check(&self, found: &BTreeMap<String, u64>, revision: u64) {
        assert!(self.revision <= revision, "it has seen {}, and the disk has {revision}", self.revision);
        if self.revision == revision {
            assert_eq!(self.believes, *found, "at revision {revision}");
        }
    }
}

/// What one writer did to its own objects, before its server died.
#[derive(Default)]
struct Diary {
    /// What each object's label must be; none: it must be gone.
    settled: BTreeMap<String, Option<u64>>,
    /// A write that got no answer: it may have happened or not.
    open: Option<(String, Option<u64>)>,
    acknowledged: u64,
    highest: u64,
}

/// Writes until the server no longer answers.
async fn write(
    accounts: Api<ServiceAccount>,
    writer: usize,
    counter: Arc<AtomicU64>,
    known: BTreeMap<String, Option<u64>>,
) -> Diary {
    let mut diary = Diary { settled: known, ..Diary::default() };
    loop {
        let value = counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("w{writer}-{}", value % 7);
        let exists = diary.settled.get(&name).is_some_and(Option::is_some);
        let labels = BTreeMap::from([("value".to_owned(), value.to_string())]);
        let (wanted, outcome) = if exists && value.is_multiple_of(3) {
            (None, accounts.delete(&name, &DeleteParams::default()).await.map(|_| None))
        } else if exists {
            let patch = Patch::Merge(serde_json::json!({ "metadata": { "labels": labels } }));
            (Some(value), accounts.patch(&name, &PatchParams::default(), &patch).await.map(Some))
        } else {
            let metadata =
                ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            (Some(value), accounts.create(&PostParams::default(), &account).await.map(Some))
        };
        match outcome {
            Ok(object) => {
                diary.acknowledged += 1;
                let revision = object.and_then(|object| object.metadata.resource_version);
                let revision = revision.and_then(|revision| revision.parse().ok()).unwrap_or(0);
                diary.highest = diary.highest.max(revision);
                diary.settled.insert(name, wanted);
            }
            Err(kube::Error::Api(status)) => panic!("{name}: {status}"),
            Err(_) => {
                diary.open = Some((name, wanted));
                return diary;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_survives_kill_9() {
    let kills = if std::env::var("CARACAL_LONG").is_ok() { 400 } else { 15 };
    let dir = tempfile::tempdir().expect("a directory");
    let counter = Arc::new(AtomicU64::new(0));
    let mut known: Vec<BTreeMap<String, Option<u64>>> = vec![BTreeMap::new(); WRITERS];
    let (mut acknowledged, mut highest) = (0, 0);
    let mut random = TestRunner::default();
    let mut watchers: Vec<Watcher> = (0..WATCHERS).map(|_| Watcher::default()).collect();
    for kill in 0..kills {
        let server = Elsewhere::start(dir.path(), any_port());
        let client = client(&server.kubeconfig()).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");

        let list = accounts.list(&ListParams::default()).await.expect("a list");
        let revision: u64 = list.metadata.resource_version.expect("a revision").parse().expect("a number");
        assert!(revision >= highest, "the revision went back from {highest} to {revision} at kill {kill}");
        let found: BTreeMap<String, u64> = list
            .items
            .into_iter()
            .filter_map(|account| {
                let value = account.metadata.labels?.get("value")?.parse().ok()?;
                Some((account.metadata.name?, value))
            })
            .collect();
        let expected: BTreeMap<String, u64> =
            known.iter().flatten().filter_map(|(name, value)| Some((name.clone(), (*value)?))).collect();
        assert_eq!(found, expected, "after kill {kill}");
        watchers.iter().for_each(|watcher| watcher.check(&found, revision));

        let watching: Vec<_> =
            watchers.drain(..).map(|watcher| tokio::spawn(watcher.follow(client.clone()))).collect();

        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write(accounts.clone(), writer, Arc::clone(&counter), known[writer].clone()))
            })
            .collect();
        let pause = (1u64..300).new_tree(&mut random).expect("a number").current();
        // Half of the lives are so long that something is written and seen, however busy the machine is.
        let begun = counter.load(Ordering::Relaxed);
        let wanted = if kill % 2 == 0 { 0 } else { 4 * WRITERS as u64 };
        let end = Instant::now() + PATIENCE;
        while counter.load(Ordering::Relaxed) < begun + wanted {
            assert!(Instant::now() < end, "nothing is written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();

        // A write without an answer is settled by looking.
        let mut open = Vec::new();
        for (writer, diary) in writers.into_iter().enumerate() {
            let diary = diary.await.expect("a writer");
            acknowledged += diary.acknowledged;
            highest = highest.max(diary.highest);
            known[writer] = diary.settled;
            open.extend(diary.open.map(|(name, wanted)| (writer, name, wanted)));
        }
        for watcher in watching {
            watchers.push(watcher.await.expect("a watcher"));
        }
        settle(dir.path(), &mut known, open).await;
    }
    assert!(acknowledged > kills, "too few writes to say anything: {acknowledged}");
    let seen: u64 = watchers.iter().map(|watcher| watcher.seen).sum();
    let listed: usize = watchers.iter().map(|watcher| watcher.listed).sum();
    assert!(seen > acknowledged / 2, "too few events to say anything: {seen} of {acknowledged} writes");
    println!("{acknowledged} acknowledged writes, {kills} kills; {seen} events seen, listed {listed} times");
}

async fn settle(
    dir: &std::path::Path,
    known: &mut [BTreeMap<String, Option<u64>>],
    open: Vec<(usize, String, Option<u64>)>,
) {
    let server = Elsewhere::start(dir, any_port());
    let accounts: Api<ServiceAccount> = Api::namespaced(client(&server.kubeconfig()).await, "default");
    for (writer, name, wanted) in open {
        let before = known[writer].get(&name).copied().flatten();
        let found = accounts.get_opt(&name).await.expect("an answer");
        let found: Option<u64> =
            found.map(|account| account.metadata.labels.expect("labels")["value"].parse().expect("a number"));
        assert!(
            found == before || found == wanted,
            "{name} is {found:?}, was {before:?}, should be {wanted:?}"
        );
        known[writer].insert(name, found);
    }
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_whose_deletion_was_interrupted_still_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..5 {
        let server = Elsewhere::start(dir.path(), any_port());
        let client = client(&server.kubeconfig()).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let name = format!("n{round}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        for index in 0..20 {
            let metadata = ObjectMeta { name: Some(format!("a{index}")), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            accounts.create(&PostParams::default(), &account).await.expect("an account");
        }
        namespaces.delete(&name, &DeleteParams::default()).await.expect("it begins to go");
        server.kill();

        let server = Elsewhere::start(dir.path(), any_port());
        let client = common::client(&server.kubeconfig()).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        gone(&namespaces, &name).await;
        let accounts: Api<ServiceAccount> = Api::all(client);
        let left: BTreeSet<_> = accounts
            .list(&ListParams::default())
            .await
            .expect("a list")
            .into_iter()
            .filter(|account| account.metadata.namespace.as_deref() == Some(&name))
            .filter_map(|account| account.metadata.name)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Waits until there is no such namespace.
async fn gone(namespaces: &Api<Namespace>, name: &str) {
    loop {
        let field = format!("metadata.name={name}");
        let list = namespaces.list(&ListParams::default().fields(&field)).await.expect("a list");
        if list.items.is_empty() {
            return;
        }
        let revision = list.metadata.resource_version.expect("a revision");
        let watch = WatchParams::default().fields(&field).timeout(60);
        let events = namespaces.watch(&watch, &revision).await.expect("a watch");
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.expect("an event") {
            if matches!(event, kube::api::WatchEvent::Deleted(_)) {
                break;
            }
        }
    }
}
