//! Address management on a real API server, over HTTP.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is amiss")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use caracal_datastore::{ApiGroup, Datastore};
use caracal_ipam::gc::{Collector, Snapshot, perform};
use caracal_ipam::{
    Attributes, AutoAssign, Key, Nanoseconds, Owner, Record, Store, Tunnel, Use, World as Seen,
    auto_assign_near, ensure_tunnel_address, release_by_handle,
};
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, ObjectKey};
use serde_json::json;
use tokio::task::JoinSet;
use world::World;

/// 2026-01-01T00:00:00Z.
const NOW: Nanoseconds = Nanoseconds(1_767_225_600_000_000_000);
const POOL: &str = "10.244.0.0/24";

fn wanted(node: &str, handle: &str) -> AutoAssign {
    let owner = [("node", node), ("namespace", "shop"), ("pod", handle)];
    AutoAssign {
        v4: 1,
        v6: 0,
        attributes: Attributes {
            handle: Some(handle.into()),
            owner: owner.map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
            ..Attributes::default()
        },
        owner: Owner::Host(node.into()),
        pools: vec![],
        usage: Use::Workload,
        max_blocks: 0,
    }
}

/// One that attaches pods, as fast as it can, and remembers where it found room.
async fn allocator(datastore: Datastore, node: String, number: usize, pods: usize) -> Vec<(String, IpAddr)> {
    let store = datastore.ipam();
    let mut given = Vec::new();
    let mut near: Vec<Cidr> = Vec::new();
    for pod in 0..pods {
        let seen = datastore.ipam_world(Some(&node), None).await.unwrap();
        let handle = format!("net.{node}.{number}.{pod}");
        let (v4, _) = auto_assign_near(&store, &seen, &wanted(&node, &handle), &near, NOW).await.unwrap();
        let (address, length) = v4.addresses[0];
        near = vec![Cidr::new(address, length).unwrap()];
        given.push((handle, address));
    }
    given
}

async fn cluster(group: ApiGroup) -> World {
    let world = World::new(group).await;
    world.pool("pods", POOL, 29).await;
    for node in 0..4 {
        world.node(&format!("node{node}")).await;
    }
    world
}

/// What there is fits together: every address has a handle that counts it, and every block an affinity that says whose it is.
async fn check(datastore: &Datastore) -> usize {
    let mut given: BTreeMap<(String, Cidr), u64> = BTreeMap::new();
    let mut counted: BTreeMap<(String, Cidr), u64> = BTreeMap::new();
    let (mut owners, mut claims) = (BTreeSet::new(), BTreeSet::new());
    for record in datastore.ipam().everything().await.unwrap() {
        match record {
            Record::Block(block) => {
                owners.extend(block.owner.clone().map(|owner| (owner, block.cidr())));
                for (_, attributes) in block.given() {
                    *given.entry((attributes.handle.clone().unwrap(), block.cidr())).or_default() += 1;
                }
            }
            Record::Handle(handle) => {
                counted
                    .extend(handle.blocks.iter().map(|(cidr, count)| ((handle.id.clone(), *cidr), *count)));
            }
            Record::Affinity(affinity) => {
                claims.insert((affinity.owner, affinity.cidr));
            }
        }
    }
    assert_eq!(given, counted, "handles count what blocks give");
    assert_eq!(owners, claims, "affinities say whose blocks are");
    given.len()
}

async fn eight_allocators(group: ApiGroup) {
    let world = cluster(group).await;
    let mut tasks = JoinSet::new();
    for number in 0..8 {
        tasks.spawn(allocator(world.datastore.clone(), format!("node{}", number % 4), number, 12));
    }
    let given: Vec<(String, IpAddr)> = tasks.join_all().await.into_iter().flatten().collect();
    let addresses: BTreeSet<IpAddr> = given.iter().map(|(_, address)| *address).collect();
    assert_eq!(addresses.len(), 96, "nobody has another's");
    assert_eq!(check(&world.datastore).await, 96);

    let seen = world.datastore.ipam_world(None, None).await.unwrap();
    let mut tasks = JoinSet::new();
    for (handle, address) in given {
        let (store, seen) = (world.datastore.ipam(), seen.clone());
        tasks.spawn(async move {
            let released = release_by_handle(&store, &seen, &handle, NOW).await.unwrap().unwrap();
            assert_eq!(released.addresses, [address]);
            assert_eq!(release_by_handle(&store, &seen, &handle, NOW).await.unwrap(), None);
        });
    }
    tasks.join_all().await;
    assert_eq!(check(&world.datastore).await, 0);
    assert_eq!(
        world.datastore.list(Kind::IPAMHandle).await.unwrap(),
        [],
        "nothing is only marked as deleted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_allocators_at_once_are_given_different_addresses() {
    eight_allocators(ApiGroup::V3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_allocators_at_once_are_given_different_addresses_of_stock_calicos_data() {
    eight_allocators(ApiGroup::Crd).await;
}

/// Takes what the dead left.
async fn collect(datastore: &Datastore, seen: &Seen) {
    let mut collector = Collector::new();
    let begin = Instant::now();
    let grace = Duration::from_secs(900);
    for look in 0..4 {
        let snapshot = Snapshot {
            records: datastore.ipam().everything().await.unwrap(),
            pods: BTreeMap::new(),
            nodes: ["node0".into()].into(),
        };
        let found = collector.look(begin + look * grace, Some(grace), &snapshot);
        for action in found.actions {
            perform(&datastore.ipam(), seen, &action, NOW).await.unwrap();
        }
    }
}

async fn killed_allocators(group: ApiGroup) {
    let world = cluster(group).await;
    for round in 0..6 {
        let mut tasks = JoinSet::new();
        for number in 0..8 {
            let node = format!("node{}", number % 4);
            tasks.spawn(allocator(world.datastore.clone(), node, 100 * round + number, 6));
        }
        tokio::time::sleep(Duration::from_millis(15 + 25 * round as u64)).await;
        // Dies wherever it is, with requests under way.
        tasks.shutdown().await;
    }
    // Those who come after them are not disturbed.
    let given = allocator(world.datastore.clone(), "node0".into(), 999, 4).await;
    assert_eq!(given.iter().map(|(_, address)| address).collect::<BTreeSet<_>>().len(), 4);
    let seen = world.datastore.ipam_world(None, None).await.unwrap();
    collect(&world.datastore, &seen).await;
    assert_eq!(check(&world.datastore).await, 0);
    for record in world.datastore.ipam().everything().await.unwrap() {
        let owner = match record {
            Record::Block(block) => block.owner,
            Record::Affinity(affinity) => Some(affinity.owner),
            Record::Handle(handle) => panic!("{handle:?} is left"),
        };
        assert_eq!(owner, Some(Owner::Host("node0".into())), "the other nodes are gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_killed_allocators_leave_is_found() {
    killed_allocators(ApiGroup::V3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_killed_allocators_leave_of_stock_calicos_data_is_found() {
    killed_allocators(ApiGroup::Crd).await;
}

/// A node of stock Calico's has been here; it goes on when ours goes.
#[tokio::test]
async fn what_stock_calico_wrote_is_gone_on_with() {
    let world = cluster(ApiGroup::Crd).await;
    let store = world.datastore.ipam();
    let metadata = |name: &str| json!({"name": name, "annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"}});
    let api = "crd.projectcalico.org/v1";
    world
        .post(
            "/apis/crd.projectcalico.org/v1/blockaffinities",
            &json!({
                "apiVersion": api, "kind": "BlockAffinity", "metadata": metadata("node1-10-244-0-8-29"),
                "spec": {"cidr": "10.244.0.8/29", "node": "node1", "state": "confirmed", "deleted": "false"},
            }),
        )
        .await;
    world.post("/apis/crd.projectcalico.org/v1/ipamblocks", &json!({
        "apiVersion": api, "kind": "IPAMBlock", "metadata": metadata("10-244-0-8-29"),
        "spec": {
            "cidr": "10.244.0.8/29", "affinity": "host:node1", "strictAffinity": false, "deleted": false,
            "allocations": [0, null, null, null, null, null, null, null], "unallocated": [1, 2, 3, 4, 5, 6, 7],
            "attributes": [{"handle_id": "k8s-pod-network.old", "secondary": {"pod": "old", "namespace": "shop", "node": "node1"}}],
        },
    })).await;
    world
        .post(
            "/apis/crd.projectcalico.org/v1/ipamhandles",
            &json!({
                "apiVersion": api, "kind": "IPAMHandle", "metadata": metadata("k8s-pod-network.old"),
                "spec": {"handleID": "k8s-pod-network.old", "block": {"10.244.0.8/29": 1}, "deleted": false},
            }),
        )
        .await;
    let given = allocator(world.datastore.clone(), "node1".into(), 0, 2).await;
    assert_eq!(
        given.iter().map(|(_, address)| address.to_string()).collect::<Vec<_>>(),
        ["10.244.0.9", "10.244.0.10"]
    );
    let block = world.read("/apis/crd.projectcalico.org/v1/ipamblocks/10-244-0-8-29").await;
    assert_eq!(block["metadata"]["annotations"], metadata("")["annotations"]);
    assert_eq!(block["spec"]["attributes"][0]["handle_id"], "k8s-pod-network.old");
    let seen = world.datastore.ipam_world(Some("node1"), None).await.unwrap();
    let released = release_by_handle(&store, &seen, "k8s-pod-network.old", NOW).await.unwrap().unwrap();
    assert_eq!(released.addresses, ["10.244.0.8".parse::<IpAddr>().unwrap()]);
    assert_eq!(check(&world.datastore).await, 2);
}

#[tokio::test]
async fn what_an_interrupted_removal_left_counts_as_gone_and_gives_way() {
    let world = cluster(ApiGroup::V3).await;
    let (datastore, store) = (&world.datastore, world.datastore.ipam());
    let id = "net.left";
    let marked = || {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPAMHandle", "metadata": {"name": id},
            "spec": {"handleID": id, "block": {"10.244.0.0/29": 1}, "deleted": true},
        })
    };
    world.create(marked()).await;
    assert_eq!(store.get(&Key::Handle(id.into())).await.unwrap().map(|(record, _)| record), None);
    // Who met it has removed it.
    assert!(datastore.get(Kind::IPAMHandle, None, id).await.unwrap_err().is_not_found());

    world.create(marked()).await;
    let handle =
        caracal_ipam::Handle { id: id.into(), blocks: [("10.244.0.8/29".parse().unwrap(), 1)].into() };
    store.swap(&Key::Handle(id.into()), None, Some(Record::Handle(handle.clone()))).await.unwrap();
    let found = store.get(&Key::Handle(id.into())).await.unwrap().map(|(record, _)| record);
    assert_eq!(found, Some(Record::Handle(handle.clone())));
    // Of two who make it, one is second.
    let again = store.swap(&Key::Handle(id.into()), None, Some(Record::Handle(handle))).await;
    assert_eq!(again, Err(caracal_ipam::WriteError::Conflict));
}

#[tokio::test]
async fn an_address_costs_three_requests_and_its_release_five() {
    let world = cluster(ApiGroup::V3).await;
    let count = Arc::new(AtomicUsize::new(0));
    let (inner, counting) = (world.datastore.client().clone(), Arc::clone(&count));
    let service = tower::service_fn(move |request| {
        counting.fetch_add(1, Ordering::Relaxed);
        let inner = inner.clone();
        async move { inner.send(request).await }
    });
    let datastore = Datastore::new(kube::Client::new(service, "default"), ApiGroup::V3);
    let asked = || count.swap(0, Ordering::Relaxed);
    let store = datastore.ipam();
    let seen = datastore.ipam_world(Some("node1"), None).await.unwrap();
    assert_eq!(asked(), 4, "pools, reservations, configuration, the node");
    let mut near = Vec::new();
    let mut costs = Vec::new();
    for pod in 0..3 {
        let wanted = wanted("node1", &format!("net.{pod}"));
        let (v4, _) = auto_assign_near(&store, &seen, &wanted, &near, NOW).await.unwrap();
        let (address, length) = v4.addresses[0];
        near = vec![Cidr::new(address, length).unwrap()];
        costs.push(asked());
    }
    // The first lists affinities and blocks, claims one in four, and lists blocks again; with the block in mind it is read, the handle made, the
    // block written.
    assert_eq!(costs, [10, 3, 3]);
    let wanted = wanted("node1", "net.without");
    auto_assign_near(&store, &seen, &wanted, &[], NOW).await.unwrap();
    assert_eq!(asked(), 4, "affinities are listed, too");
    release_by_handle(&store, &seen, "net.1", NOW).await.unwrap();
    assert_eq!(asked(), 5, "handle and block are read, the block written, the handle marked and deleted");
}

#[tokio::test]
async fn a_tunnel_address_stays_over_restarts_and_goes_with_its_pool() {
    let world = cluster(ApiGroup::V3).await;
    let store = world.datastore.ipam();
    let seen = world.datastore.ipam_world(Some("node1"), None).await.unwrap();
    let ensure = async |seen: &Seen, current| {
        ensure_tunnel_address(&store, seen, "node1", Tunnel::VxlanV4, current, NOW).await.unwrap()
    };
    let first = ensure(&seen, None).await;
    assert!(first.is_some());
    assert_eq!(ensure(&seen, first).await, first);
    assert_eq!(ensure(&seen, None).await, first, "the node forgot to say so");
    assert_eq!(check(&world.datastore).await, 1);
    let key = ObjectKey::new(Kind::IPPool, None, "pods");
    world.datastore.patch(&key, &json!({"spec": {"disabled": true}})).await.unwrap();
    let seen = world.datastore.ipam_world(Some("node1"), None).await.unwrap();
    assert_eq!(ensure(&seen, first).await, None);
    assert_eq!(check(&world.datastore).await, 0);
}
