//! Objects, errors and credentials, on a real API server over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is amiss"
)]

mod silence;
mod world;

use std::path::Path;
use std::time::Duration;

use caracal_datastore::{ApiGroup, Datastore, DatastoreError, SyncEvent, Syncer, client, client_at};
use caracal_ipam::Use;
use caracal_model::calico::custom_resource_definitions;
use caracal_model::object::{Kind, Object, ObjectKey};
use serde_json::{Value, json};
use silence::Wire;
use world::World;

fn pool(name: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": {"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"cidr": "10.1.0.0/16", "blockSize": 26},
    })
}

async fn objects_come_and_go(group: ApiGroup) {
    let world = World::new(group).await;
    let datastore = &world.datastore;
    let made = world.create(pool("one")).await;
    assert_eq!(datastore.get(Kind::IPPool, None, "one").await.unwrap(), made);
    assert_eq!(datastore.list(Kind::IPPool).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(made.metadata().labels.as_ref().unwrap()["a"], "b");
    assert_eq!(made.metadata().annotations.as_ref().unwrap()["c"], "d");

    let key = ObjectKey::new(Kind::IPPool, None, "one");
    let patched = datastore.patch(&key, &json!({"spec": {"disabled": true}})).await.unwrap();
    let stale = datastore.replace(&made).await.unwrap_err();
    assert!(matches!(stale, DatastoreError::Conflict { .. }), "{stale}");
    assert_eq!(stale.to_string(), "replacing IPPool one: somebody else has changed it meanwhile");
    let mut replaced = patched.clone();
    replaced.metadata_mut().labels = None;
    let replaced = datastore.replace(&replaced).await.unwrap();
    assert_eq!(replaced.metadata().uid, made.metadata().uid);
    let twice = datastore.create(&Object::from_value(pool("one")).unwrap()).await.unwrap_err();
    assert!(matches!(twice, DatastoreError::AlreadyExists { .. }), "{twice}");

    let other = datastore.delete(&key, Some(&patched)).await.unwrap_err();
    assert!(matches!(other, DatastoreError::Conflict { .. }), "{other}");
    datastore.delete(&key, Some(&replaced)).await.unwrap();
    let gone = datastore.get(Kind::IPPool, None, "one").await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    assert_eq!(gone.to_string(), "reading IPPool one: there is none");
}

#[tokio::test]
async fn objects_come_and_go_in_calicos_own_group() {
    objects_come_and_go(ApiGroup::V3).await;
}

#[tokio::test]
async fn objects_come_and_go_where_stock_calico_stores_them() {
    objects_come_and_go(ApiGroup::Crd).await;
}

#[tokio::test]
async fn stored_objects_are_where_and_what_stock_calico_expects() {
    let world = World::new(ApiGroup::Crd).await;
    world
        .create(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration", "metadata": {"name": "default"},
            "spec": {"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 3},
        }))
        .await;
    let stored = world.read("/apis/crd.projectcalico.org/v1/ipamconfigs/default").await;
    assert_eq!(stored["kind"], "IPAMConfig");
    assert_eq!(stored["spec"]["maxBlocksPerHost"], 3);
    let settings = world.datastore.ipam_settings().await.unwrap();
    assert_eq!((settings.strict_affinity, settings.max_blocks_per_host), (true, 3));
    // What people do with its own API server's objects is another matter.
    let v3 = Datastore::new(world.datastore.client().clone(), ApiGroup::V3);
    assert!(v3.get(Kind::IPAMConfiguration, None, "default").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn the_group_that_keeps_blocks_is_found() {
    let world = World::new(ApiGroup::V3).await;
    let client = world.datastore.client();
    let found = Datastore::connect(client.clone(), None).await.unwrap();
    assert_eq!(found.group(), ApiGroup::V3);
    for definition in custom_resource_definitions("crd.projectcalico.org") {
        world.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    }
    assert_eq!(Datastore::connect(client.clone(), None).await.unwrap().group(), ApiGroup::V3);
    // Where somebody has set the cluster up, the data is.
    let information = |version: &str| {
        json!({"apiVersion": version, "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"datastoreReady": true}})
    };
    let stored = information("crd.projectcalico.org/v1");
    world.post("/apis/crd.projectcalico.org/v1/clusterinformations", &stored).await;
    assert_eq!(Datastore::connect(client.clone(), None).await.unwrap().group(), ApiGroup::Crd);
    world.create(information("projectcalico.org/v3")).await;
    let both = Datastore::connect(client.clone(), None).await.unwrap_err();
    assert_eq!(both, DatastoreError::TwoGroups);
    let named = "crd.projectcalico.org".parse().unwrap();
    assert_eq!(Datastore::connect(client.clone(), Some(named)).await.unwrap().group(), ApiGroup::Crd);
    assert!("calico.org".parse::<ApiGroup>().is_err());
}

#[tokio::test]
async fn pools_are_seen_with_their_defaults_and_labels_from_everywhere() {
    let world = World::new(ApiGroup::V3).await;
    world.pool("a", "10.1.0.0/16", 28).await;
    world
        .create(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "b"},
            "spec": {"cidr": "fd00::/64", "allowedUses": ["Workload"], "nodeSelector": "zone == 'x'", "namespaceSelector": "team == 'y'"},
        }))
        .await;
    world
        .create(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPReservation", "metadata": {"name": "r"},
            "spec": {"reservedCIDRs": ["10.1.0.0/30"]},
        }))
        .await;
    world
        .create(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "annotations": {"projectcalico.org/labels": "{\"zone\":\"x\"}"}},
        }))
        .await;
    world
        .create(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "y"}},
        }))
        .await;
    let seen = world.datastore.ipam_world(Some("n1"), Some("shop")).await.unwrap();
    let pools = seen.candidates(false, &[], Use::Workload, "n1").unwrap();
    assert_eq!(
        pools.iter().map(|pool| (pool.name.as_str(), pool.block_length)).collect::<Vec<_>>(),
        [("b", 122)]
    );
    assert!(seen.candidates(false, &[], Use::LoadBalancer, "n1").is_err());
    assert!(seen.is_reserved("10.1.0.3".parse().unwrap()));
    assert!(seen.pools[0].vxlan && !seen.pools[0].ipip && !seen.pools[1].vxlan);
    // Without the namespace's labels the second pool is not for it.
    let elsewhere = world.datastore.ipam_world(Some("n1"), None).await.unwrap();
    assert!(elsewhere.candidates(false, &[], Use::Workload, "n1").is_err());
    assert!(world.datastore.ipam_world(Some("nobody"), None).await.unwrap_err().is_not_found());
}

/// The server's kubeconfig with a token of its own, inline or in a file.
fn with_token(world: &World, name: &str, token: &str) -> std::path::PathBuf {
    let own = std::fs::read_to_string(world.path("kubeconfig")).unwrap();
    let line = own.lines().find(|line| line.trim_start().starts_with("token:")).unwrap();
    let path = world.path(name);
    let indent = &line[..line.len() - line.trim_start().len()];
    std::fs::write(&path, own.replace(line, &format!("{indent}{token}"))).unwrap();
    path
}

async fn answers(datastore: &Datastore) -> Result<(), DatastoreError> {
    datastore.list(Kind::IPPool).await.map(drop)
}

/// Refused credentials are read again at most once a second.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn a_token_that_is_replaced_in_its_file_is_read_when_the_old_one_is_refused() {
    let world = World::new(ApiGroup::V3).await;
    let token = world.path("token");
    let write = |text: &str| std::fs::write(&token, text).unwrap();
    write("first");
    world.let_in("first");
    let kubeconfig = with_token(&world, "with-file", &format!("tokenFile: {}", token.display()));
    goes_on(&world, &kubeconfig, &write).await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_replaced_is_read_when_the_old_one_is_refused() {
    let world = World::new(ApiGroup::V3).await;
    let write = |text: &str| drop(with_token(&world, "inline", &format!("token: {text}")));
    write("first");
    world.let_in("first");
    goes_on(&world, &world.path("inline"), &write).await;
}

async fn goes_on(world: &World, kubeconfig: &Path, write: &dyn Fn(&str)) {
    let datastore = Datastore::new(client(Some(kubeconfig)).await.unwrap(), ApiGroup::V3);
    answers(&datastore).await.unwrap();
    a_moment().await;
    world.let_in("second");
    write("second");
    // No request fails: the one that is refused goes again.
    answers(&datastore).await.unwrap();
    // Expired, and nobody has brought a new one: that is said, and passes when somebody does.
    world.let_in("third");
    a_moment().await;
    let refused = answers(&datastore).await.unwrap_err();
    assert!(matches!(refused, DatastoreError::Unauthorized { .. }), "{refused}");
    assert!(refused.is_passing());
    write("third");
    a_moment().await;
    answers(&datastore).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be() {
    let world = World::new(ApiGroup::V3).await;
    let datastore = Datastore::new(client(Some(&world.path("kubeconfig"))).await.unwrap(), ApiGroup::V3);
    answers(&datastore).await.unwrap();
    let _directory = world.stop().await;
    let away = answers(&datastore).await.unwrap_err();
    assert!(matches!(away, DatastoreError::Unavailable { .. }), "{away}");
    assert!(away.to_string().starts_with("listing ippools.projectcalico.org: "), "{away}");
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_begun_anew() {
    /// Against hanging only; a watch that waits to be ended takes five minutes.
    const PATIENCE: Duration = Duration::from_secs(150);
    let world = World::new(ApiGroup::V3).await;
    let kubeconfig = world.path("kubeconfig");
    let wire = Wire::to(world.address()).await;
    let server = format!("https://{}", wire.address);
    let through = client_at(Some(&kubeconfig), Some(&server)).await.unwrap();
    let datastore = Datastore::new(through, ApiGroup::V3);
    let mut syncer = Syncer::start(&datastore, &[Kind::IPPool]);
    assert!(matches!(syncer.next().await, Some(SyncEvent::InSync)));
    wire.watched().await;
    wire.goes_silent();
    world.pool("later", "10.1.0.0/16", 26).await;
    let told = tokio::time::timeout(PATIENCE, syncer.next()).await.expect("the watch was never begun anew");
    assert!(matches!(&told, Some(SyncEvent::Updates(updates)) if updates.len() == 1), "{told:?}");
}
