//! Watchers that do not read cost a bounded amount of the server's memory.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::api::Api;
use common::{Elsewhere, any_port, client, serve_if_told};
use futures::AsyncReadExt;
use serde_json::json;

#[test]
fn the_server_that_others_kill() {
    serve_if_told();
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WATCHERS: usize = 50;
const WRITERS: usize = 8;
const WRITES: usize = 60;
/// Each write leaves two objects of this size in the log, which so forgets its beginning.
const SIZE: usize = 100_000;
/// The log's 64 MiB as text are some more as values; the rest is the watchers' and the writers'.
const GROWTH_MOST_MIB: u64 = 250;

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_stop_reading_do_not_make_the_server_grow() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Elsewhere::start(dir.path(), any_port());
    let api = Api { client: client(&server.kubeconfig()).await };
    for writer in 0..WRITERS {
        api.post(MAPS, json!({ "metadata": { "name": format!("m{writer}") } })).await;
    }
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let request = axum::http::Request::get(format!("{MAPS}?watch=1")).body(vec![]).expect("a request");
        watchers.push(api.client.request_stream(request).await.expect("a stream"));
    }
    let before = server.resident_mib();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let api = Api { client: api.client.clone() };
            tokio::spawn(async move {
                for write in 0..WRITES {
                    let text = format!("{write}").repeat(SIZE)[..SIZE].to_owned();
                    let path = format!("{MAPS}/m{writer}");
                    let patch = json!({ "data": { "x": text } });
                    assert_eq!(api.patch(&path, "merge-patch+json", patch).await.code, 200);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let after = server.resident_mib();
    println!(
        "{WATCHERS} stopped watchers, {} writes: {before} MiB before, {after} MiB after",
        WRITERS * WRITES
    );
    assert!(after < before + GROWTH_MOST_MIB, "{before} MiB before, {after} MiB after");
    // Who reads again is told to begin anew, or was cut off; nobody is told half the story.
    for mut watcher in watchers {
        let mut text = String::new();
        let ended = watcher.read_to_string(&mut text).await;
        let last = text.lines().last().unwrap_or("");
        let expired = last.contains("\"type\":\"ERROR\"") && last.contains("\"code\":410");
        assert!(expired || ended.is_err(), "{ended:?}: {:.200}", last);
    }
}
