//! Everybody at once: 250 plugins that start together connect, write and are answered.
//!
//! `--nocapture` shows how fast; run it in a release build to compare.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::time::{Duration, Instant};

use common::api::Api;
use common::{Elsewhere, any_port, client, serve_if_told};
use serde_json::json;

#[test]
fn the_server_that_others_kill() {
    serve_if_told();
}

const CLIENTS: usize = 250;
const WRITES: usize = 8;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_fifty_clients_connect_and_write_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Elsewhere::start(dir.path(), any_port());
    // A client has a connection of its own, and makes it with its first request.
    let mut apis = Vec::new();
    for _ in 0..CLIENTS {
        apis.push(Api { client: client(&server.kubeconfig()).await });
    }
    let began = Instant::now();
    let connecting: Vec<_> = apis
        .into_iter()
        .map(|api| {
            tokio::spawn(async move {
                assert_eq!(api.get("/readyz").await.code, 200);
                (api, Instant::now())
            })
        })
        .collect();
    let (mut apis, mut connected) = (Vec::new(), Vec::new());
    for one in connecting {
        let (api, at) = one.await.expect("a client");
        apis.push(api);
        connected.push(at - began);
    }
    let all = quantile(&mut connected, 100);
    println!(
        "{CLIENTS} connections in {all:?}: {:.0}/s, half of them in {:?}",
        CLIENTS as f64 / all.as_secs_f64(),
        quantile(&mut connected, 50)
    );

    let began = Instant::now();
    let writing: Vec<_> = apis
        .into_iter()
        .enumerate()
        .map(|(index, api)| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                for write in 0..WRITES {
                    let began = Instant::now();
                    let map = json!({ "metadata": { "name": format!("m{index}-{write}") } });
                    let answer = api.post(MAPS, map).await;
                    assert_eq!(answer.code, 201, "{}", answer.body);
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for one in writing {
        times.extend(one.await.expect("a client"));
    }
    let all = began.elapsed();
    println!(
        "{} writes of {CLIENTS} clients in {all:?}: {:.0}/s, p50 {:?}, p99 {:?}",
        times.len(),
        times.len() as f64 / all.as_secs_f64(),
        quantile(&mut times, 50),
        quantile(&mut times, 99)
    );
    let api = Api { client: client(&server.kubeconfig()).await };
    let listed = api.get(MAPS).await.body;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(CLIENTS * WRITES));
}
