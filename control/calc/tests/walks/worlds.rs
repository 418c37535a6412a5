//! Named worlds.

use caracal_model::object::Object;
use serde_json::{Value, json};

use crate::expand::World;
use crate::objects::{
    calico, calico_with, cluster_policy, namespace, node, node_with, pod, pod_with, policy, service_account,
    slice, world,
};

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

fn with(mut base: World, more: impl IntoIterator<Item = Object>) -> World {
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

/// Those of policy, and those of services and the ways to them, which have little to do with each other.
pub fn families() -> [Vec<(&'static str, World)>; 2] {
    [[kubernetes(), calicos()].concat(), [crate::services::worlds(), crate::ways::worlds()].concat()]
}

/// All of them.
pub fn all() -> Vec<(&'static str, World)> {
    families().concat()
}

/// A rule that lets in who a selector selects.
fn allow_from(selector: &str) -> Value {
    json!({"action": "Allow", "source": {"selector": selector}})
}

fn tier(name: &str, order: Option<f64>, default_action: &str) -> Object {
    let mut spec = json!({"defaultAction": default_action});
    if let Some(order) = order {
        spec["order"] = json!(order);
    }
    calico("Tier", name, spec)
}

/// A host endpoint on node1.
fn host(name: &str, interface: &str, addresses: &[&str]) -> Object {
    let mut spec = json!({"node": "node1", "profiles": ["host-profile"],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    if !interface.is_empty() {
        spec["interfaceName"] = json!(interface);
    }
    if !addresses.is_empty() {
        spec["expectedIPs"] = json!(addresses);
    }
    calico_with("HostEndpoint", name, "role=host,app=web", spec)
}

/// A policy of every hook, for everything.
fn every_hook() -> Vec<Object> {
    let gnp = |name: &str, more: Value| {
        let mut spec =
            json!({"selector": "has(role) || app == 'web'", "ingress": [allow_from("app == 'db'")]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        calico("GlobalNetworkPolicy", name, spec)
    };
    vec![
        gnp("normal", json!({"egress": [{"action": "Allow"}]})),
        gnp("forward", json!({"applyOnForward": true, "egress": [{"action": "Deny"}]})),
        gnp(
            "untracked",
            json!({"applyOnForward": true, "doNotTrack": true, "egress": [{"action": "Allow"}]}),
        ),
        gnp("pre-dnat", json!({"applyOnForward": true, "preDNAT": true})),
    ]
}

/// Calico's model on top of the base: tiers, sets, host endpoints, services, staged policies, configuration.
fn calicos() -> Vec<(&'static str, World)> {
    let of_tier = |name: &str, tier: &str, order: f64| {
        calico(
            "GlobalNetworkPolicy",
            name,
            json!({"tier": tier, "order": order, "selector": "app == 'web'",
            "types": ["Ingress", "Egress"], "ingress": [{"action": "Pass"}]}),
        )
    };
    let tiered =
        || [of_tier("one", "one", 1.0), of_tier("two", "two", 2.0), of_tier("three", "default", -1.0)];
    let namespaced = calico(
        "NetworkPolicy",
        "x/p",
        json!({"selector": "app == 'web'", "order": 5.5,
        "types": ["Ingress", "Egress"],
        "ingress": [
            {"action": "Log", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "notICMP": {"type": 3}},
            {"action": "Allow", "notProtocol": "UDP", "source": {"notSelector": "app == 'db'"}},
            {"action": "Allow", "protocol": "TCP", "source": {"selector": "has(app)", "notSelector": "app == 'web'"},
                "destination": {"ports": ["http", 80, "90:99"], "notPorts": ["metrics", 91]}},
            {"action": "Allow", "source": {"serviceAccounts": {"names": ["robot"], "selector": "q == '1'"}}},
        ],
        "egress": [
            {"action": "Allow", "destination": {"services": {"name": "web", "namespace": "y"}}},
            {"action": "Deny", "destination": {"namespaceSelector": "global()", "selector": "zone == 'bad'"}},
        ]}),
    );
    let global = calico(
        "GlobalNetworkPolicy",
        "g",
        json!({"namespaceSelector": "team == 'red'",
        "types": ["Ingress", "Egress"],
        "ingress": [{"action": "Deny", "source": {"selector": "zone == 'bad'"}}, {"action": "Allow",
            "source": {"services": {"name": "web", "namespace": "y"}}}],
        "egress": [{"action": "Allow", "protocol": "TCP", "destination": {"notSelector": "zone == 'bad'", "ports": ["http"]}}]}),
    );
    let global_set =
        |nets: &[&str]| calico_with("GlobalNetworkSet", "bad", "zone=bad", json!({"nets": nets}));
    let set = |labelled: &str, nets: &[&str]| {
        calico_with("NetworkSet", "x/friends", labelled, json!({"nets": nets}))
    };
    let to_friends = calico(
        "GlobalNetworkPolicy",
        "friends",
        json!({"selector": "app == 'web'",
        "ingress": [allow_from("pcns.team == 'red' && has(friend)"), allow_from("zone == 'bad'")]}),
    );
    let cidrs = ["10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32"];
    let staged = |kind: &str, place: &str, spec: Value| calico(kind, place, spec);
    let staged_set = staged(
        "StagedNetworkPolicy",
        "x/p",
        json!({"selector": "app == 'web'", "order": 1.0,
        "ingress": [allow_from("app == 'cache'")]}),
    );
    let staged_away = staged("StagedNetworkPolicy", "x/p", json!({"selector": "app == 'nobody'"}));
    let staged_delete = staged("StagedGlobalNetworkPolicy", "g", json!({"stagedAction": "Delete"}));
    let staged_kubernetes = staged(
        "StagedKubernetesNetworkPolicy",
        "x/q",
        json!({"podSelector": {},
        "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}]}]}),
    );
    let staged_new = staged(
        "StagedGlobalNetworkPolicy",
        "new",
        json!({"tier": "one", "selector": "has(app)",
        "egress": [{"action": "Deny"}]}),
    );
    let admin = |priority: i64| {
        cluster_policy(
            "admin",
            json!({"tier": "Admin", "priority": priority,
            "subject": {"namespaces": {"matchLabels": {"team": "red"}}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}]}]}),
        )
    };
    let baseline = cluster_policy(
        "base",
        json!({"tier": "Baseline", "priority": 1, "subject": {"namespaces": {}},
        "egress": [{"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}]}]}),
    );
    let host_profile = calico(
        "Profile",
        "host-profile",
        json!({"labelsToApply": {"role": "inherited", "rack": "r1"},
        "ingress": [allow_from("rack == 'r1'")]}),
    );
    let web = |addresses: &[&str]| slice("y/web-1@web", addresses, &[8080]);
    let felix = |name: &str, spec: Value| calico("FelixConfiguration", name, spec);
    vec![
        ("tiers that nobody has made", with(base(), tiered())),
        (
            "tiers",
            with(
                base(),
                [tier("one", Some(1.0), "Pass"), tier("two", None, "Deny")].into_iter().chain(tiered()),
            ),
        ),
        (
            "tiers in another order",
            with(
                base(),
                [
                    tier("one", Some(9e9), "Deny"),
                    tier("two", Some(-1.0), "Pass"),
                    tier("default", None, "Pass"),
                ]
                .into_iter()
                .chain(tiered()),
            ),
        ),
        (
            "every field of a rule, and nothing that it names",
            with(base(), [namespaced.clone(), global.clone()]),
        ),
        (
            "every field of a rule, and what it names",
            with(
                base(),
                [
                    namespaced.clone(),
                    global.clone(),
                    global_set(&cidrs),
                    service_account("x", "robot", "q=1"),
                    pod_with(
                        "x/db@node2",
                        "app=db",
                        "10.244.2.2",
                        json!({"serviceAccountName": "robot"}),
                        json!({}),
                    ),
                    web(&["10.244.1.3", "10.244.2.9"]),
                    slice("y/web-2@web", &["10.244.1.3", "10.244.2.8"], &[8080, 9090]),
                ],
            ),
        ),
        (
            "a slice less, a set shrunk",
            with(
                base(),
                [namespaced.clone(), global.clone(), global_set(&["10.1.2.3/32"]), web(&["10.244.2.9"])],
            ),
        ),
        (
            "a slice that passed to another service",
            with(base(), [namespaced.clone(), slice("y/web-1@other", &["10.244.2.9"], &[8080])]),
        ),
        (
            "sets that share networks with each other, and with pods",
            with(
                base(),
                [
                    to_friends.clone(),
                    global.clone(),
                    global_set(&["10.1.0.0/16", "10.244.1.2/32", "10.2.0.0/16"]),
                    set("friend=yes,zone=bad", &["10.1.0.0/16", "10.244.1.2", "10.3.0.0/16"]),
                    pod("y/bad@node2", "zone=bad", "10.1.2.3"),
                ],
            ),
        ),
        (
            "a set with other labels",
            with(
                base(),
                [
                    to_friends,
                    global.clone(),
                    set("friend=no", &["10.1.0.0/16", "10.3.0.0/16"]),
                    namespace("x", "team=green"),
                ],
            ),
        ),
        (
            "host endpoints without policy",
            with(base(), [host("a", "eth0", &["192.0.2.11"]), host("b", "*", &[])]),
        ),
        (
            "host endpoints",
            with(
                base(),
                every_hook().into_iter().chain([
                    host("b", "eth0", &["192.0.2.11"]),
                    host("a", "eth0", &[]),
                    host("c", "", &["192.0.2.11", "203.0.113.9"]),
                    host("d", "*", &[]),
                    host_profile.clone(),
                ]),
            ),
        ),
        (
            "host endpoints elsewhere, and one that shares an address with a pod",
            with(
                base(),
                every_hook().into_iter().chain([
                    calico_with(
                        "HostEndpoint",
                        "a",
                        "app=db",
                        json!({"node": "node2", "interfaceName": "eth0",
                        "expectedIPs": ["10.244.2.2", "192.0.2.12"]}),
                    ),
                    host("d", "*", &["192.0.2.11"]),
                    tier("default", Some(1.0), "Pass"),
                ]),
            ),
        ),
        (
            "policies of every hook, and no host endpoint",
            with(base(), every_hook().into_iter().chain([host_profile])),
        ),
        (
            "staged policies",
            with(
                base(),
                [
                    namespaced.clone(),
                    global.clone(),
                    staged_set,
                    staged_delete.clone(),
                    staged_kubernetes.clone(),
                    staged_new.clone(),
                    host("a", "eth0", &["192.0.2.11"]),
                ],
            ),
        ),
        (
            "staged policies for nobody, or without what they replace",
            with(
                base(),
                [
                    namespaced.clone(),
                    staged_away,
                    staged_delete,
                    staged_new,
                    policy("x/q", json!({"podSelector": {}})),
                ],
            ),
        ),
        (
            "a staged Kubernetes policy over its like",
            with(
                base(),
                [staged_kubernetes, policy("x/q", json!({"podSelector": {}, "policyTypes": ["Egress"]}))],
            ),
        ),
        ("administrators' policies", with(base(), [admin(10), baseline.clone(), namespaced])),
        (
            "administrators' policies of another order",
            with(base(), [admin(20), baseline, tier("kube-admin", Some(5.0), "Deny"), global]),
        ),
        (
            "configuration",
            with(
                base(),
                [
                    felix(
                        "default",
                        json!({"defaultEndpointToHostAction": "Drop", "logPrefix": "all",
                        "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": "192.0.2.0/24"}]}),
                    ),
                    felix("node.node1", json!({"logPrefix": "one", "allowVXLANPacketsFromWorkloads": true})),
                    felix("node.node2", json!({"logPrefix": "two"})),
                ],
            ),
        ),
    ]
}

/// Worlds of few objects, one or two of each kind that depend on each other.
pub fn small() -> Vec<(&'static str, World)> {
    let web = || pod("x/web@node1", "app=web", "10.244.1.2");
    vec![
        (
            "an inheritance",
            world([
                namespace("x", "team=red"),
                calico_with("NetworkSet", "x/s", "", json!({"nets": ["10.1.0.0/16", "10.244.1.2/32"]})),
                web(),
                pod("x/far@node2", "app=web", "10.244.1.2"),
                calico(
                    "GlobalNetworkPolicy",
                    "g",
                    json!({"selector": "all()", "ingress": [allow_from("pcns.team == 'red'")]}),
                ),
            ]),
        ),
        (
            "a staged policy",
            world([
                web(),
                tier("t", Some(1.0), "Pass"),
                calico("NetworkPolicy", "x/p", json!({"tier": "t", "ingress": [allow_from("app == 'web'")]})),
                calico("StagedNetworkPolicy", "x/p", json!({"tier": "t", "selector": "app == 'db'"})),
                calico("StagedNetworkPolicy", "x/q", json!({"egress": [{"action": "Deny"}]})),
            ]),
        ),
        (
            "host endpoints",
            world([
                node(1),
                host("a", "eth0", &["192.0.2.11"]),
                host("b", "eth0", &["192.0.2.11"]),
                calico(
                    "Profile",
                    "host-profile",
                    json!({"labelsToApply": {"rack": "r1"}, "egress": [{"action": "Allow"}]}),
                ),
                calico(
                    "GlobalNetworkPolicy",
                    "g",
                    json!({"selector": "rack == 'r1'", "preDNAT": true, "applyOnForward": true,
                    "ingress": [{"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'host'", "ports": ["http"]}}]}),
                ),
            ]),
        ),
        (
            "a service",
            world([
                web(),
                slice("y/a@s", &["10.244.1.2", "10.244.1.3"], &[80]),
                slice("y/b@s", &["10.244.1.3", "10.244.1.4"], &[80]),
                calico(
                    "NetworkPolicy",
                    "x/p",
                    json!({
                    "ingress": [{"action": "Allow", "source": {"services": {"name": "s", "namespace": "y"}}}],
                    "egress": [{"action": "Allow", "destination": {"services": {"name": "s", "namespace": "y"}}}]}),
                ),
                calico("FelixConfiguration", "default", json!({"logPrefix": "p"})),
            ]),
        ),
    ]
}

/// Kubernetes' model.
fn kubernetes() -> Vec<(&'static str, World)> {
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
