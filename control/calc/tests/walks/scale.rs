//! A small change costs little, however big the world: counted, not timed.

use caracal_calc::{CalcGraph, Update, Work};
use caracal_model::object::Object;
use caracal_plane_api::op::Op as Kind;
use serde_json::json;

use crate::NODE;
use crate::objects::{namespace, node, pod, policy};
use crate::simulator::Fastpath;

const POLICIES: usize = 1000;
const APPS: usize = 250;

/// 250 apps with a pod here and one on node2 each, and four policies for each app that name its neighbours.
fn big_world() -> Vec<Object> {
    let mut objects = vec![node(1), node(2), namespace("x", "team=red")];
    for app in 0..APPS {
        for (node, block) in [("node1", 1), ("node2", 2)] {
            let labels = format!("app=a{app}");
            let ip = format!("10.{}.{block}.{}", 100 + app / 200, 2 + app % 200);
            objects.push(pod(&format!("x/p{app}-{block}@{node}"), &labels, &ip));
        }
    }
    for number in 0..POLICIES {
        let app = number % APPS;
        let from = json!({"podSelector": {"matchLabels": {"app": format!("a{}", (app + 1 + number / APPS) % APPS)}}});
        let spec = json!({"podSelector": {"matchLabels": {"app": format!("a{app}")}}, "ingress": [{"from": [from]}]});
        objects.push(policy(&format!("x/n{number}"), spec));
    }
    objects
}

fn graph_of(objects: Vec<Object>) -> (CalcGraph, Fastpath) {
    let mut graph = CalcGraph::new(NODE);
    let mut fastpath = Fastpath::default();
    objects.into_iter().for_each(|object| graph.apply(Update::Upsert(object)));
    fastpath.apply(&graph.flush());
    (graph, fastpath)
}

/// What an update costs and says.
fn cost(graph: &mut CalcGraph, fastpath: &mut Fastpath, update: Update) -> (Work, Vec<Kind>) {
    let before = graph.work();
    graph.apply(update);
    let ops = graph.flush();
    fastpath.apply(&ops);
    let after = graph.work();
    let work = Work {
        comparisons: after.comparisons - before.comparisons,
        scans: after.scans - before.scans,
        resolutions: after.resolutions - before.resolutions,
        decisions: after.decisions - before.decisions,
        services: after.services - before.services,
    };
    (work, ops.into_iter().filter_map(|op| op.op).collect())
}

#[test]
fn a_remote_pod_that_changes_its_address_is_a_few_deltas() {
    let (mut graph, mut fastpath) = graph_of(big_world());
    assert_eq!(fastpath.policies.len(), POLICIES);
    let moved = Update::Upsert(pod("x/p7-2@node2", "app=a7", "10.244.2.99"));
    let (work, ops) = cost(&mut graph, &mut fastpath, moved);
    // One set names app a7; the address is inside node2's block, the former was not.
    assert!(
        matches!(ops.as_slice(), [Kind::IpSetDelta(delta), Kind::RouteRemove(_)] if delta.add_hosts.as_ref().is_some_and(|add| add.v4.len() == 4)),
        "{ops:?}"
    );
    assert!(work.comparisons == 0 && work.scans == 0 && work.resolutions == 0, "{work:?}");
}

#[test]
fn a_remote_pod_that_changes_its_labels_is_compared_with_few_selectors() {
    let (mut graph, mut fastpath) = graph_of(big_world());
    let relabelled = Update::Upsert(pod("x/p7-2@node2", "app=a8", "10.100.2.9"));
    let (work, ops) = cost(&mut graph, &mut fastpath, relabelled);
    assert!(ops.iter().all(|op| matches!(op, Kind::IpSetDelta(_))) && ops.len() == 2, "{ops:?}");
    // The two sets of the app that it leaves and of the one that it joins, if no more.
    assert!((2..=4).contains(&work.comparisons), "{work:?}");
    assert!(work.scans == 0 && work.resolutions == 0, "{work:?}");
}

#[test]
fn a_local_pod_that_comes_is_compared_with_the_policies_of_its_app() {
    let (mut graph, mut fastpath) = graph_of(big_world());
    let (work, ops) =
        cost(&mut graph, &mut fastpath, Update::Upsert(pod("x/new@node1", "app=a7", "10.244.1.99")));
    let endpoints = ops.iter().filter(|op| matches!(op, Kind::Endpoint(_))).count();
    assert_eq!((endpoints, ops.len()), (1, 2), "the endpoint, and its address in one set: {ops:?}");
    // The four policies of its app, and the set that names it.
    assert!((5..=8).contains(&work.comparisons), "{work:?}");
    assert!(work.scans == 0 && work.resolutions == 1, "{work:?}");
    let (work, ops) =
        cost(&mut graph, &mut fastpath, Update::Upsert(pod("x/new@node1", "app=a7", "10.244.1.99")));
    assert_eq!((work, ops), (Work::default(), Vec::new()), "told again");
}

#[test]
fn a_policy_that_changes_is_scanned_alone() {
    let (mut graph, mut fastpath) = graph_of(big_world());
    let changed = policy("x/n7", json!({"podSelector": {"matchLabels": {"app": "a7"}}, "ingress": [{}]}));
    let (work, ops) = cost(&mut graph, &mut fastpath, Update::Upsert(changed));
    assert!(matches!(ops.as_slice(), [Kind::Policy(_)]), "{ops:?}");
    assert!(work.scans == 1 && work.comparisons <= 4 && work.resolutions <= 1, "{work:?}");
}

#[test]
fn a_namespaces_label_touches_its_own_pods_only() {
    let mut objects = big_world();
    objects.push(namespace("other", "team=blue"));
    objects.push(pod("other/a@node1", "app=a1", "10.244.1.77"));
    let (mut graph, mut fastpath) = graph_of(objects);
    let (work, ops) = cost(&mut graph, &mut fastpath, Update::Upsert(namespace("other", "team=green")));
    assert!(ops.is_empty(), "{ops:?}");
    assert!(work.comparisons <= 20, "{work:?}");
}
