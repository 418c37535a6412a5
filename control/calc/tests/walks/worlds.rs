//! Named worlds.

use serde_json::json;

use crate::expand::World;
use crate::objects::{namespace, node, node_with, pod, pod_with, policy, service_account, world};

/// Two nodes, two namespaces, a pod on each node and in each namespace.
fn base() -> World {
    world([
        node(1),
        node(2),
        namespace("x", "team=red"),
        namespace("y", "team=blue"),
        pod("x/web@node1", "app=web", "10.244.1.2"),
        pod("x/db@node2", "app=db", "10.244.2.2"),
        pod("y/web@node1", "app=web", "10.244.1.3"),
    ])
}

fn with(mut base: World, more: impl IntoIterator<Item = caracal_model::object::Object>) -> World {
    base.extend(world(more));
    base
}

fn without(mut base: World, gone: &[&str]) -> World {
    base.retain(|key, _| !gone.contains(&key.to_string().as_str()));
    base
}

fn from_db() -> serde_json::Value {
    json!({"from": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": "http"}, {"port": 80}]})
}

/// All of them.
pub fn all() -> Vec<(&'static str, World)> {
    let isolated = policy("x/p", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let allow_db =
        policy("x/p", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [from_db()]}));
    let same_rules = policy("x/q", json!({"podSelector": {}, "ingress": [from_db()]}));
    let by_team = policy(
        "y/p",
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}, {"namespaceSelector": {}}]}]}),
    );
    let remote_only =
        policy("x/r", json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [from_db()]}));
    let shared_address = pod("x/late@node1", "app=db", "10.244.1.2");
    vec![
        ("empty", World::new()),
        ("base", base()),
        ("no policy applies here", with(base(), [remote_only.clone()])),
        ("isolated", with(base(), [isolated.clone()])),
        ("allow from db", with(base(), [allow_db.clone()])),
        ("two policies with the same rules", with(base(), [allow_db.clone(), same_rules.clone()])),
        ("other namespaces", with(base(), [by_team.clone(), allow_db.clone()])),
        ("other labels of a namespace", with(base(), [by_team.clone(), namespace("x", "team=green")])),
        (
            "a label of a pod changed",
            with(base(), [allow_db.clone(), pod("x/db@node2", "app=cache", "10.244.2.2")]),
        ),
        (
            "an address of a pod changed",
            with(base(), [allow_db.clone(), pod("x/db@node2", "app=db", "10.244.2.9")]),
        ),
        (
            "a pod moved here",
            with(base(), [allow_db.clone(), remote_only.clone(), pod("x/db@node1", "app=db", "10.244.1.4")]),
        ),
        (
            "a pod has finished",
            with(
                base(),
                [
                    allow_db.clone(),
                    pod_with(
                        "x/web@node1",
                        "app=web",
                        "10.244.1.2",
                        json!({}),
                        json!({"phase": "Succeeded"}),
                    ),
                    pod_with("x/db@node2", "app=db", "10.244.2.2", json!({}), json!({"phase": "Failed"})),
                ],
            ),
        ),
        (
            "a pod in its node's network",
            with(
                base(),
                [
                    allow_db.clone(),
                    pod_with("x/web@node1", "app=web", "192.0.2.11", json!({"hostNetwork": true}), json!({})),
                ],
            ),
        ),
        (
            "pods without addresses yet",
            with(
                base(),
                [allow_db.clone(), pod("x/web@node1", "app=web", ""), pod("x/db@node2", "app=db", "")],
            ),
        ),
        (
            "two pods have one address for a moment",
            with(base(), [same_rules.clone(), shared_address.clone()]),
        ),
        (
            "the second of them keeps it",
            with(without(base(), &["Pod x/web"]), [same_rules.clone(), shared_address]),
        ),
        (
            "borrowed addresses",
            with(
                base(),
                [
                    pod("x/db@node2", "app=db", "10.244.7.2"),
                    pod("y/web@node1", "app=web", "10.244.7.3"),
                    pod("y/far@node3", "app=web", "10.244.1.77"),
                    node(3),
                ],
            ),
        ),
        (
            "a block that holds what was borrowed",
            with(
                base(),
                [pod("x/db@node2", "app=db", "10.244.7.2"), node_with(2, "10.244.7.0/24", "10.244.7.0")],
            ),
        ),
        (
            "a tunnel address outside its block",
            with(
                base(),
                [node_with(2, "10.244.2.0/24", "10.200.0.2"), node_with(1, "10.244.1.0/24", "10.200.0.1")],
            ),
        ),
        ("a node without a tunnel", with(base(), [node_with(2, "10.244.2.0/24", "")])),
        (
            "two nodes with one block",
            with(
                base(),
                [node_with(3, "10.244.2.0/24", "10.244.3.0"), node_with(4, "10.244.1.0/24", "10.244.4.0")],
            ),
        ),
        ("no nodes", without(with(base(), [allow_db.clone()]), &["Node node1", "Node node2"])),
        (
            "no namespaces",
            without(with(base(), [by_team.clone(), allow_db]), &["Namespace x", "Namespace y"]),
        ),
        (
            "service accounts",
            with(
                base(),
                [
                    service_account("x", "robot", "q=1"),
                    pod_with(
                        "x/web@node1",
                        "app=web",
                        "10.244.1.2",
                        json!({"serviceAccountName": "robot"}),
                        json!({}),
                    ),
                    pod_with(
                        "y/web@node1",
                        "app=web",
                        "10.244.1.3",
                        json!({"serviceAccountName": "nobody"}),
                        json!({}),
                    ),
                ],
            ),
        ),
        (
            "rules without peers, and all ports by name",
            with(
                base(),
                [policy(
                    "x/p",
                    json!({
                        "podSelector": {}, "ingress": [{"ports": [{"port": "dns", "protocol": "UDP"}]}, {"from": [{"podSelector": {}}]}],
                    }),
                )],
            ),
        ),
        (
            "everything at once",
            with(
                base(),
                [
                    isolated,
                    same_rules,
                    by_team,
                    remote_only,
                    node(3),
                    namespace("z", ""),
                    pod("z/a@node3", "app=db", "10.244.3.2"),
                    pod("z/b@node1", "", "10.244.1.9"),
                ],
            ),
        ),
    ]
}
