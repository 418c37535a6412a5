//! Random objects: everything that policy can depend on. What the API would refuse is left out.

use std::collections::BTreeSet;

use caracal_model::object::Object;
use serde_json::{Value, json};

use super::random::Random;
use super::rules::{Place, fields, rule};
use super::words::{
    ACCOUNTS, HOST_ENDPOINTS, KEYS, NAMESPACES, NODE_ADDRESSES, NODES, PORT_NAMES, PORTS, PROFILES, SERVICES,
    TIERS, VALUES, ip_block, label_selector, labels, nets, pod_address, selector, set_nets,
};

const CALICO: &str = "projectcalico.org/v3";

/// The objects of a random world, as manifests. All are valid.
pub(super) fn world(random: &mut Random) -> Vec<Value> {
    let mut all = Vec::new();
    for name in NAMESPACES {
        all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(random)}}));
        for account in ACCOUNTS {
            if random.chance(60) {
                let metadata = json!({"name": account, "namespace": name, "labels": labels(random)});
                all.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
            }
        }
    }
    all.extend((0..NODES.len()).map(|number| node(random, number)));
    let pods = 3 + random.below(5);
    all.extend((0..pods).map(|number| pod(random, number)));
    for name in SERVICES {
        all.extend(
            random
                .list(0, 2, |random| random.below(1000))
                .into_iter()
                .map(|number| slice(random, name, number)),
        );
    }
    // Most worlds are about some of the kinds: where all are, few rules are ever reached.
    let mut some = |random: &mut Random, most: usize, make: &mut dyn FnMut(&mut Random, usize) -> Value| {
        let count = if random.chance(60) { random.below(most + 1) } else { 0 };
        all.extend((0..count).map(|number| make(random, number)));
    };
    some(random, 3, &mut |random, number| tier(random, TIERS[number]));
    some(random, 1, &mut |random, _| tier(random, ["default", "kube-admin"][random.clone().below(2)]));
    some(random, 3, &mut kubernetes_policy);
    some(random, 3, &mut |random, number| cluster_policy(random, number));
    some(random, 4, &mut |random, number| calico_policy(random, "NetworkPolicy", number));
    some(random, 4, &mut |random, number| calico_policy(random, "GlobalNetworkPolicy", number));
    some(random, 2, &mut |random, number| calico_policy(random, "StagedNetworkPolicy", number));
    some(random, 2, &mut |random, number| calico_policy(random, "StagedGlobalNetworkPolicy", number));
    some(random, 2, &mut staged_kubernetes_policy);
    some(random, 2, &mut |random, number| network_set(random, Some(NAMESPACES[number])));
    some(random, 2, &mut |random, number| global_set(random, number));
    some(random, 3, &mut |random, number| host_endpoint(random, HOST_ENDPOINTS[number]));
    some(random, 2, &mut |random, number| profile(random, PROFILES[number]));
    some(random, 3, &mut felix);
    // What the API would refuse is not there, and of objects of one name only the first is.
    let mut keys = BTreeSet::new();
    all.retain(|object| read(object).is_some_and(|object| keys.insert(object.key())));
    all
}

/// The object that a manifest is, as the API would keep it; `None` when the API would refuse it.
pub(super) fn read(value: &Value) -> Option<Object> {
    let mut object = Object::from_value(value.clone()).ok()?;
    object.set_defaults();
    object.validate().is_empty().then_some(object)
}

fn node(random: &mut Random, number: usize) -> Value {
    let address = NODE_ADDRESSES[number];
    let block = format!("10.244.{}.0/24", number + 1);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODES[number], "labels": labels(random), "annotations": {
            "projectcalico.org/IPv4Address": format!("{address}/24"),
            "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.244.{}.0", number + 1),
        }},
        "spec": {"podCIDR": block, "podCIDRs": [block]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn pod(random: &mut Random, number: usize) -> Value {
    let node = random.below(NODES.len());
    let mut own = labels(random);
    // What only the namespace may say is not the pod's to say.
    if random.chance(10) {
        own[*random.pick(&["pcns.a", "pcsa.b", "projectcalico.org/namespace"])] =
            json!(*random.pick(&NAMESPACES));
    }
    let ips: Vec<Value> = match random.below(10) {
        0..=5 => vec![pod_address(node, number, true), pod_address(node, number, false)],
        6 => vec![pod_address(node, number, false)],
        _ => vec![pod_address(node, number, true)],
    }
    .into_iter()
    .map(|ip| json!({"ip": ip}))
    .collect();
    let ports = |random: &mut Random| {
        let mut names = Vec::new();
        let mut ports = random.list(0, 3, |random| {
            json!({
                "name": random.pick(&PORT_NAMES), "protocol": random.pick(&["TCP", "UDP", "SCTP"]),
                "containerPort": random.pick(&PORTS),
            })
        });
        // A container may not give a name twice; another may give it again.
        ports.retain(|port| {
            !names.contains(&port["name"]) && {
                names.push(port["name"].clone());
                true
            }
        });
        ports
    };
    let mut containers = vec![json!({"name": "c", "image": "any", "ports": ports(random)})];
    if random.chance(30) {
        containers.push(json!({"name": "d", "image": "any", "ports": ports(random)}));
    }
    let phases = ["Running", "Running", "Running", "Running", "Running", "Pending", "Succeeded"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": random.pick(&NAMESPACES), "name": format!("pod{number}"), "labels": own},
        "spec": fields([
            ("nodeName", random.maybe(97, |_| json!(NODES[node]))),
            ("serviceAccountName", random.maybe(60, |random| json!(random.pick(&ACCOUNTS)))),
            ("hostNetwork", random.maybe(4, |_| json!(true))),
            ("containers", Some(json!(containers))),
        ]),
        "status": fields([
            ("phase", Some(json!(random.pick(&phases)))),
            ("podIP", Some(ips[0]["ip"].clone())),
            ("podIPs", random.maybe(94, |_| json!(ips))),
        ]),
    })
}

fn slice(random: &mut Random, service: &str, number: usize) -> Value {
    let is_v4 = random.chance(70);
    let endpoint = |random: &mut Random| {
        let address = pod_address(random.below(2), random.below(8), is_v4);
        json!({"addresses": [address], "conditions": {"ready": random.chance(80)}})
    };
    let port = |random: &mut Random| {
        let number = random.maybe(90, |random| json!(random.pick(&PORTS)));
        let name = format!("p{}", random.below(1000));
        fields([
            ("name", Some(json!(name))),
            ("protocol", Some(json!(random.pick(&["TCP", "UDP", "SCTP"])))),
            ("port", number),
        ])
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": random.pick(&NAMESPACES), "name": format!("{service}-{number}"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if is_v4 { "IPv4" } else { "IPv6" },
        "endpoints": random.list(0, 3, endpoint), "ports": random.list(0, 2, port),
    })
}

fn order(random: &mut Random) -> Option<Value> {
    random.maybe(75, |random| {
        random
            .pick(&[
                json!(-1),
                json!(0),
                json!(-0.0),
                json!(0.5),
                json!(100),
                json!(100),
                json!(1000),
                json!(1_000_000),
            ])
            .clone()
    })
}

fn tier(random: &mut Random, name: &str) -> Value {
    let spec = fields([
        ("order", order(random)),
        ("defaultAction", random.maybe(60, |random| json!(random.pick(&["Deny", "Pass"])))),
    ]);
    json!({"apiVersion": CALICO, "kind": "Tier", "metadata": {"name": name}, "spec": spec})
}

fn kubernetes_spec(random: &mut Random) -> Value {
    let peer = |random: &mut Random| match random.below(6) {
        0 | 1 => json!({"podSelector": label_selector(random)}),
        2 => json!({"namespaceSelector": label_selector(random)}),
        3 => json!({"namespaceSelector": label_selector(random), "podSelector": label_selector(random)}),
        _ => json!({"ipBlock": ip_block(random)}),
    };
    let port = |random: &mut Random| {
        let protocol = random.maybe(70, |random| json!(random.pick(&["TCP", "UDP", "SCTP"])));
        let (one, other) = (*random.pick(&PORTS), *random.pick(&PORTS));
        let (port, end) = match random.below(6) {
            0 => (None, None),
            1 | 2 => (Some(json!(one)), None),
            3 => (Some(json!(random.pick(&PORT_NAMES))), None),
            _ => (Some(json!(one.min(other))), Some(json!(one.max(other)))),
        };
        fields([("protocol", protocol), ("port", port), ("endPort", end)])
    };
    let rules = |random: &mut Random, peers: &str| {
        let rules = random.list(0, 2, |random| {
            fields([
                (peers, random.maybe(70, |random| json!(random.list(0, 2, peer)))),
                ("ports", random.maybe(60, |random| json!(random.list(0, 3, port)))),
            ])
        });
        json!(rules)
    };
    let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Egress", "Ingress"])];
    fields([
        ("podSelector", Some(label_selector(random))),
        ("policyTypes", random.maybe(60, |random| random.pick(&types).clone())),
        ("ingress", random.maybe(75, |random| rules(random, "from"))),
        ("egress", random.maybe(60, |random| rules(random, "to"))),
    ])
}

fn kubernetes_policy(random: &mut Random, number: usize) -> Value {
    let metadata = json!({"namespace": random.pick(&NAMESPACES), "name": format!("p{number}")});
    let spec = kubernetes_spec(random);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

/// What is staged: most often something to be, now and then something to go.
fn staged_kubernetes_policy(random: &mut Random, number: usize) -> Value {
    let metadata = json!({"namespace": random.pick(&NAMESPACES), "name": format!("p{number}")});
    let spec = if random.chance(25) {
        json!({"stagedAction": "Delete"})
    } else {
        let mut spec = kubernetes_spec(random);
        if random.chance(50) {
            spec["stagedAction"] = json!("Set");
        }
        spec
    };
    json!({"apiVersion": CALICO, "kind": "StagedKubernetesNetworkPolicy", "metadata": metadata, "spec": spec})
}

fn cluster_policy(random: &mut Random, number: usize) -> Value {
    let pods = |random: &mut Random| json!({"pods": {"namespaceSelector": label_selector(random), "podSelector": label_selector(random)}});
    let namespaces = |random: &mut Random| json!({"namespaces": label_selector(random)});
    let peer = |random: &mut Random, is_egress: bool| match random.below(if is_egress { 4 } else { 2 }) {
        0 => namespaces(random),
        1 => pods(random),
        _ => {
            let is_v4 = random.chance(60);
            let mut networks = nets(random, is_v4, true);
            // A network has its length, also where it is one address.
            for net in networks.as_array_mut().into_iter().flatten() {
                let text = net.as_str().unwrap_or_default();
                if !text.contains('/') {
                    *net = json!(format!("{text}/{}", if is_v4 { 32 } else { 128 }));
                }
            }
            json!({"networks": networks})
        }
    };
    let protocol = |random: &mut Random| {
        let (one, other) = (*random.pick(&PORTS), *random.pick(&PORTS));
        let name = *random.pick(&["tcp", "udp", "sctp"]);
        match random.below(4) {
            0 => json!({"destinationNamedPort": random.pick(&PORT_NAMES)}),
            1 if one != other => {
                json!({name: {"destinationPort": {"range": {"start": one.min(other), "end": one.max(other)}}}})
            }
            2 => json!({name: {}}),
            _ => json!({name: {"destinationPort": {"number": one}}}),
        }
    };
    let rules = |random: &mut Random, peers: &str| {
        let rules = random.list(0, 3, |random| {
            fields([
                ("action", Some(json!(random.pick(&["Accept", "Deny", "Pass"])))),
                (peers, Some(json!(random.list(1, 2, |random| peer(random, peers == "to"))))),
                ("protocols", random.maybe(50, |random| json!(random.list(1, 2, protocol)))),
            ])
        });
        json!(rules)
    };
    let spec = fields([
        ("tier", Some(json!(random.pick(&["Admin", "Baseline"])))),
        ("priority", Some(json!(random.pick(&[0, 100, 1000])))),
        ("subject", Some(if random.chance(50) { namespaces(random) } else { pods(random) })),
        ("ingress", random.maybe(70, |random| rules(random, "from"))),
        ("egress", random.maybe(60, |random| rules(random, "to"))),
    ]);
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("p{number}")}, "spec": spec,
    })
}

fn calico_policy(random: &mut Random, kind: &str, number: usize) -> Value {
    let is_global = kind.ends_with("GlobalNetworkPolicy");
    let metadata = if is_global {
        json!({"name": format!("p{number}")})
    } else {
        json!({"namespace": random.pick(&NAMESPACES), "name": format!("p{number}")})
    };
    if kind.starts_with("Staged") && random.chance(25) {
        return json!({"apiVersion": CALICO, "kind": kind, "metadata": metadata, "spec": {"stagedAction": "Delete"}});
    }
    let tier = match random.below(10) {
        0..=3 => None,
        4 => Some("kube-baseline"),
        5 => Some("nowhere"),
        _ => Some(*random.pick(&TIERS)),
    };
    let (untracked, pre_dnat) = match random.below(if is_global { 8 } else { 1 }) {
        6 => (true, false),
        7 => (false, true),
        _ => (false, false),
    };
    let rules = |random: &mut Random, is_ingress: bool| {
        let place = Place { is_ingress, is_namespaced: !is_global };
        json!(random.list(0, 3, |random| rule(random, place)))
    };
    let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Egress", "Ingress"])];
    let global = |flag: bool| (is_global && flag).then_some(Value::Bool(true));
    let spec = fields([
        ("tier", tier.map(|tier| json!(tier))),
        ("order", order(random)),
        ("selector", random.maybe(60, |random| json!(selector(random)))),
        ("namespaceSelector", random.maybe(if is_global { 20 } else { 0 }, |random| json!(selector(random)))),
        ("serviceAccountSelector", random.maybe(15, |random| json!(selector(random)))),
        ("types", random.maybe(if pre_dnat { 0 } else { 50 }, |random| random.pick(&types).clone())),
        ("ingress", random.maybe(70, |random| rules(random, true))),
        ("egress", random.maybe(if pre_dnat { 0 } else { 60 }, |random| rules(random, false))),
        ("applyOnForward", global(untracked || pre_dnat || random.chance(30))),
        ("doNotTrack", global(untracked)),
        ("preDNAT", global(pre_dnat)),
    ]);
    json!({"apiVersion": CALICO, "kind": kind, "metadata": metadata, "spec": spec})
}

fn network_set(random: &mut Random, namespace: Option<&str>) -> Value {
    json!({
        "apiVersion": CALICO, "kind": "NetworkSet",
        "metadata": {"namespace": namespace, "name": "set", "labels": labels(random)},
        "spec": {"nets": set_nets(random)},
    })
}

fn global_set(random: &mut Random, number: usize) -> Value {
    json!({
        "apiVersion": CALICO, "kind": "GlobalNetworkSet",
        "metadata": {"name": format!("set{number}"), "labels": labels(random)},
        "spec": {"nets": set_nets(random)},
    })
}

fn host_endpoint(random: &mut Random, name: &str) -> Value {
    let node = random.below(NODES.len());
    let interface = *random.pick(&["eth0", "*", "uplink0"]);
    let expected: Vec<&str> =
        [NODE_ADDRESSES[node], NODE_ADDRESSES[node + 2]].into_iter().filter(|_| random.chance(70)).collect();
    // Some have an address that is a pod's, too.
    let shared = random.maybe(15, |random| pod_address(random.below(2), random.below(4), true));
    let expected: Vec<&str> = expected.into_iter().chain(shared.as_deref()).collect();
    let profiles: Vec<&str> = ["open", "shut", "projectcalico-default-allow", "kns.red", "not-there"]
        .into_iter()
        .filter(|_| random.chance(20))
        .collect();
    let ports = random.list(0, 2, |random| {
        json!({"name": random.pick(&PORT_NAMES), "protocol": random.pick(&["TCP", "UDP"]), "port": random.pick(&PORTS)})
    });
    json!({
        "apiVersion": CALICO, "kind": "HostEndpoint", "metadata": {"name": name, "labels": labels(random)},
        "spec": {
            "node": NODES[node], "interfaceName": interface, "expectedIPs": expected, "profiles": profiles,
            "ports": ports,
        },
    })
}

fn profile(random: &mut Random, name: &str) -> Value {
    let rules = |random: &mut Random, is_ingress: bool| {
        let place = Place { is_ingress, is_namespaced: false };
        json!(random.list(0, 2, |random| rule(random, place)))
    };
    json!({
        "apiVersion": CALICO, "kind": "Profile", "metadata": {"name": name},
        "spec": fields([
            ("ingress", random.maybe(70, |random| rules(random, true))),
            ("egress", random.maybe(70, |random| rules(random, false))),
            ("labelsToApply", random.maybe(60, |random| json!({*random.pick(&KEYS): random.pick(&VALUES)}))),
        ]),
    })
}

fn felix(random: &mut Random, number: usize) -> Value {
    let failsafes = |random: &mut Random| {
        json!(random.list(0, 3, |random| {
            fields([
                ("protocol", Some(json!(random.pick(&["TCP", "UDP"])))),
                ("port", Some(json!(random.pick(&PORTS)))),
                (
                    "net",
                    random.maybe(40, |random| {
                        json!(random.pick(&["203.0.113.0/24", "10.244.0.0/16", "fd00:1::/32"]))
                    }),
                ),
            ])
        }))
    };
    let name = ["default", "node.node1", "some-nodes"][number];
    let mut spec = fields([
        ("failsafeInboundHostPorts", random.maybe(50, failsafes)),
        ("failsafeOutboundHostPorts", random.maybe(50, failsafes)),
        ("nodeSelector", (number == 2).then(|| json!(selector(random)))),
        (
            "defaultEndpointToHostAction",
            random.maybe(40, |random| json!(random.pick(&["Accept", "Drop", "Return"]))),
        ),
        ("allowVXLANPacketsFromWorkloads", random.maybe(30, |random| json!(random.chance(50)))),
    ]);
    if spec.as_object().is_some_and(serde_json::Map::is_empty) {
        spec = json!({"logPrefix": "x"});
    }
    json!({"apiVersion": CALICO, "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}
