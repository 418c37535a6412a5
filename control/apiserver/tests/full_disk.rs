//! A disk without room: writes are refused, nothing else suffers, and they go on when there is room again.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeSet;

use common::api::{Api, revision};
use common::{any_port, client, kubeconfig, options};
use futures::StreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "x": "x".repeat(20_000) } })
}

async fn names(api: &Api) -> BTreeSet<String> {
    let listed = api.get(MAPS).await.body;
    let items = listed["items"].as_array().expect("a list").iter();
    items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

/// This thread's mounts become its own, and those of the threads that it starts.
fn with_own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root, for a small disk of this test's own");
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>).expect("private mounts");
}

#[test]
fn writes_are_refused_while_the_disk_is_full_and_go_on_afterwards_without_a_restart() {
    with_own_mounts();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let nothing = MsFlags::empty();
    mount(Some("tmpfs"), &data, Some("tmpfs"), nothing, Some("size=8m")).expect("a small disk");
    let filler = data.join("filler");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
        let api = Api { client: client(&kubeconfig(dir.path())).await };
        let mut events = api.watch(&format!("{MAPS}?watch=1")).await;
        let mut made = BTreeSet::new();
        let mut newest = 0;
        for round in 0..3 {
            // As much as there is room for, up to this.
            if let Err(error) = std::fs::write(&filler, vec![1; 1 << 20]) {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            }
            let mut refused = 0;
            for index in 0.. {
                let name = format!("r{round}-{index}");
                let answer = api.post(MAPS, map(&name)).await;
                if answer.code == 201 {
                    let told = revision(&answer.body);
                    assert!(told > newest, "{told} after {newest}");
                    newest = told;
                    made.insert(name);
                    continue;
                }
                assert_eq!((answer.code, &answer.body["reason"]), (507, &json!("InsufficientStorage")));
                let message = answer.body["message"].as_str().expect("a message");
                assert!(message.contains("is full"), "{message}");
                refused += 1;
                // Again and again: a refusal leaves nothing behind.
                if refused == 5 {
                    break;
                }
            }
            assert_eq!(names(&api).await, made, "what can be read is what was acknowledged");
            std::fs::remove_file(&filler).expect("a file");
            let answer = api.post(MAPS, map(&format!("r{round}-after"))).await;
            assert_eq!(answer.code, 201, "there is room again: {}", answer.body);
            assert!(revision(&answer.body) > newest);
            newest = revision(&answer.body);
            made.insert(format!("r{round}-after"));
            // Those who watch have seen just that.
            let mut seen = BTreeSet::new();
            while !seen.contains(&format!("r{round}-after")) {
                let event = events.next().await.expect("an event");
                assert_eq!(event["type"], "ADDED", "{event}");
                seen.insert(event["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
            }
            let round = made.iter().filter(|name| name.starts_with(&format!("r{round}-")));
            assert_eq!(seen, round.cloned().collect());
            // Room for the next round.
            for name in made.iter().filter(|name| !name.ends_with("after")) {
                assert_eq!(api.delete(&format!("{MAPS}/{name}"), json!({})).await.code, 200);
                assert_eq!(events.next().await.expect("an event")["type"], "DELETED");
            }
            made.retain(|name| name.ends_with("after"));
        }
        server.stop().await;
        let _server = caracal_apiserver::serve(options(dir.path(), any_port())).await.expect("a server");
        let api = Api { client: client(&kubeconfig(dir.path())).await };
        assert_eq!(names(&api).await, made, "after a restart");
    });
    // It goes when the last who has a file open there does.
    umount2(&data, MntFlags::MNT_DETACH).expect("the small disk goes");
}
