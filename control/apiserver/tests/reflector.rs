//! kube-rs' reflector, as the agent uses it, against the server: also when the server is killed and comes back.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::{Elsewhere, any_port, client, serve_if_told};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};

#[test]
fn the_server_that_others_kill() {
    serve_if_told();
}

/// What the store holds: the label of each account that a test made.
fn held(store: &Store<ServiceAccount>) -> BTreeMap<String, String> {
    let entry = |account: &ServiceAccount| {
        Some((account.metadata.name.clone()?, account.metadata.labels.as_ref()?.get("value")?.clone()))
    };
    store.state().iter().filter_map(|account| entry(account)).collect()
}

/// Waits until the reflector holds what the server does. Fails by hanging, and so by the test's deadline.
async fn agrees(store: &Store<ServiceAccount>, accounts: &Api<ServiceAccount>) {
    let listed: BTreeMap<String, String> = accounts
        .list(&ListParams::default())
        .await
        .expect("a list")
        .into_iter()
        .filter_map(|account| Some((account.metadata.name?, account.metadata.labels?.get("value")?.clone())))
        .collect();
    let wait = async {
        while held(store) != listed {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(120), wait).await.is_err() {
        panic!("the reflector holds {:?} and the server {listed:?}", held(store));
    }
}

async fn write_some(accounts: &Api<ServiceAccount>, round: usize) {
    for index in 0..10 {
        let name = format!("r{index}");
        let labels = BTreeMap::from([("value".to_owned(), format!("{round}-{index}"))]);
        if accounts.get_opt(&name).await.expect("an answer").is_none() {
            let metadata = ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            accounts.create(&PostParams::default(), &account).await.expect("created");
        } else if (index + round).is_multiple_of(4) {
            accounts.delete(&name, &DeleteParams::default()).await.expect("deleted");
        } else {
            let patch = Patch::Merge(serde_json::json!({ "metadata": { "labels": labels } }));
            accounts.patch(&name, &PatchParams::default(), &patch).await.expect("patched");
        }
    }
}

/// An address that nobody else has, for a server that comes back to the same place: while it is away, somebody's connection, or another
/// server, could take a port of 127.0.0.1.
fn own_address() -> SocketAddr {
    let port =
        TcpListener::bind(any_port()).and_then(|listener| listener.local_addr()).expect("a free port").port();
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 1, high, low], port))
}

async fn follows(config: watcher::Config) {
    let dir = tempfile::tempdir().expect("a directory");
    let address = own_address();
    let mut server = Elsewhere::start(dir.path(), address);
    let accounts: Api<ServiceAccount> = Api::namespaced(client(&server.kubeconfig()).await, "default");
    write_some(&accounts, 0).await;

    let (store, writer) = reflector::store();
    let stream = watcher(accounts.clone(), config).default_backoff().reflect(writer);
    let following = tokio::spawn(stream.for_each(|_| async {}));
    store.wait_until_ready().await.expect("a first list");
    agrees(&store, &accounts).await;
    for round in 1..=3 {
        write_some(&accounts, round).await;
        agrees(&store, &accounts).await;
        // Some writes just before it dies, which the reflector may not have seen, and some just after it came back.
        write_some(&accounts, 10 * round).await;
        server.kill();
        server = Elsewhere::start(dir.path(), address);
        write_some(&accounts, 100 * round).await;
        agrees(&store, &accounts).await;
    }
    following.abort();
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_that_lists_and_watches_survives_kill_9() {
    follows(watcher::Config::default().page_size(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_with_streaming_lists_survives_kill_9() {
    follows(watcher::Config::default().streaming_lists()).await;
}
