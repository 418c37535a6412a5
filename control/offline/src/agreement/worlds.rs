//! Small random worlds: few names, labels, ports and addresses, so that they meet often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use caracal_model::case::{Expect, Icmp, LabOptions, Place, World, WorldFlow, WorldNode, WorldPod};
use caracal_model::object::Object;
use caracal_model::policy::IpVersion;
use caracal_model::protocol::Protocol;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const NODES: usize = 3;
const EXTERNALS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(203, 0, 113, 200), Ipv4Addr::new(198, 51, 100, 7)];
const KEYS: [&str; 3] = ["a", "b", "c"];
const VALUES: [&str; 3] = ["x", "y", ""];
const PORTS: [u16; 6] = [1, 79, 80, 81, 8080, 65535];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A pod, before it has a name and an address.
#[derive(Debug, Clone)]
struct PodSeed {
    namespace: usize,
    node: usize,
    /// Whose block its address is from; any but its node's makes it a borrower.
    block: usize,
    labels: Value,
    ports: Vec<(&'static str, &'static str, u16)>,
}

/// A flow between ends that may not be there: indices are taken modulo what there is.
#[derive(Debug, Clone)]
struct FlowSeed {
    from: EndSeed,
    to: EndSeed,
    protocol: Protocol,
    port: u16,
}

#[derive(Debug, Clone, Copy)]
enum EndSeed {
    Pod(usize),
    Node(usize),
    External(usize),
}

/// Random worlds.
pub(super) fn worlds() -> impl Strategy<Value = World> {
    let namespaces = prop::collection::vec(labels(), NAMESPACES.len());
    let pods = prop::collection::vec(pod(), 2..7);
    let policies = prop::collection::vec(policy(), 0..5);
    let flows = prop::collection::vec(flow(), 1..16);
    (namespaces, pods, policies, flows)
        .prop_map(|(namespaces, pods, policies, flows)| world(&namespaces, &pods, &policies, &flows))
}

fn labels() -> impl Strategy<Value = Value> {
    (subsequence(&KEYS[..], 0..=2), prop::collection::vec(select(&VALUES[..]), KEYS.len())).prop_map(
        |(keys, values)| {
            let labels: BTreeMap<_, _> = keys.into_iter().zip(values).collect();
            json!(labels)
        },
    )
}

fn pod() -> impl Strategy<Value = PodSeed> {
    let port = (select(&PORT_NAMES[..]), select(&PROTOCOLS[..]), select(&PORTS[..]));
    let block = prop_oneof![4 => Just(None), 1 => (0..NODES).prop_map(Some)];
    (0..NAMESPACES.len(), 0..NODES, block, labels(), prop::collection::vec(port, 0..3)).prop_map(
        |(namespace, node, block, labels, ports)| PodSeed {
            namespace,
            node,
            block: block.unwrap_or(node),
            labels,
            ports,
        },
    )
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = (
        select(&KEYS[..]),
        select(&["In", "NotIn", "Exists", "DoesNotExist"][..]),
        subsequence(&VALUES[..], 1..=2),
    )
        .prop_map(|(key, operator, values)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
            _ => json!({"key": key, "operator": operator}),
        });
    let expressions = prop::collection::vec(expression, 0..3);
    prop_oneof![
        1 => Just(json!({})),
        2 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        2 => expressions.clone().prop_map(|expressions| json!({"matchExpressions": expressions})),
        1 => (labels(), expressions).prop_map(|(labels, expressions)| {
            json!({"matchLabels": labels, "matchExpressions": expressions})
        }),
    ]
}

/// Addresses that mean something here: pods', nodes', tunnels' and outside.
fn address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => (0..NODES, 0..8usize).prop_map(|(block, host)| pod_address(block, host)),
        1 => (0..NODES).prop_map(node_address),
        1 => (0..NODES).prop_map(tunnel_address),
        2 => select(&EXTERNALS[..]),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    let length = prop_oneof![Just(0u8), Just(8), Just(16), Just(23), Just(24), Just(30), Just(31), Just(32)];
    (address(), length, prop::collection::vec((address(), 1..=32u8), 0..3)).prop_map(
        |(address, length, excepts)| {
            let inside = |other: Ipv4Addr| first(other, length) == first(address, length);
            let excepts: Vec<String> = excepts
                .into_iter()
                .filter(|(other, longer)| *longer > length && inside(*other))
                .map(|(other, longer)| format!("{}/{longer}", first(other, longer)))
                .collect();
            let cidr = format!("{}/{length}", first(address, length));
            if excepts.is_empty() { json!({"cidr": cidr}) } else { json!({"cidr": cidr, "except": excepts}) }
        },
    )
}

fn first(address: Ipv4Addr, length: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => selector().prop_map(|pods| json!({"podSelector": pods})),
        2 => selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        2 => (selector(), selector()).prop_map(|(namespaces, pods)| {
            json!({"namespaceSelector": namespaces, "podSelector": pods})
        }),
        3 => block().prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        1 => Just(json!({})),
        3 => select(&PORTS[..]).prop_map(|port| json!({"port": port})),
        2 => select(&PORT_NAMES[..]).prop_map(|name| json!({"port": name})),
        2 => (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(one, other)| json!({"port": one.min(other), "endPort": one.max(other)})),
    ];
    (number, prop::option::of(select(&PROTOCOLS[..]))).prop_map(|(mut port, protocol)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let lists = (
        prop::option::weighted(0.7, prop::collection::vec(peer(), 0..3)),
        prop::option::weighted(0.6, prop::collection::vec(port(), 0..3)),
    );
    lists.prop_map(move |(from, ports)| {
        let mut rule = json!({});
        if let Some(from) = from {
            rule[peers] = json!(from);
        }
        if let Some(ports) = ports {
            rule["ports"] = json!(ports);
        }
        rule
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let types = prop_oneof![
        Just(None),
        Just(Some(json!([]))),
        Just(Some(json!(["Ingress"]))),
        Just(Some(json!(["Egress"]))),
        Just(Some(json!(["Egress", "Ingress"]))),
    ];
    let rules = |peers| prop::option::weighted(0.8, prop::collection::vec(rule(peers), 0..3));
    (0..NAMESPACES.len(), selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods});
            for (field, value) in [
                ("policyTypes", types),
                ("ingress", ingress.map(Value::Array)),
                ("egress", egress.map(Value::Array)),
            ] {
                if let Some(value) = value {
                    spec[field] = value;
                }
            }
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                   "metadata": {"namespace": NAMESPACES[namespace]}, "spec": spec})
        },
    )
}

fn flow() -> impl Strategy<Value = FlowSeed> {
    let end = || {
        prop_oneof![
            6 => (0..8usize).prop_map(EndSeed::Pod),
            1 => (0..NODES).prop_map(EndSeed::Node),
            2 => (0..EXTERNALS.len()).prop_map(EndSeed::External),
        ]
    };
    let protocol = prop_oneof![
        4 => Just(Protocol::TCP),
        3 => Just(Protocol::UDP),
        1 => Just(Protocol::SCTP),
        1 => Just(Protocol::ICMP),
    ];
    (end(), end(), protocol, select(&PORTS[..])).prop_map(|(from, to, protocol, port)| FlowSeed {
        from,
        to,
        protocol,
        port,
    })
}

fn pod_address(block: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, block as u8 + 1, host as u8 + 2)
}

fn node_address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node as u8 + 11)
}

fn tunnel_address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node as u8 + 1, 0)
}

fn object(value: Value) -> Object {
    let mut object = Object::from_value(value).unwrap();
    let errors = object.validate();
    assert!(errors.is_empty(), "the generator made an invalid object: {errors:?}");
    object.set_defaults();
    object
}

fn world(namespaces: &[Value], pods: &[PodSeed], policies: &[Value], flows: &[FlowSeed]) -> World {
    let nodes: Vec<WorldNode> = (0..NODES).map(node).collect();
    let mut objects: Vec<Object> = NAMESPACES
        .iter()
        .zip(namespaces)
        .map(|(name, labels)| {
            object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        })
        .collect();
    objects.extend(nodes.iter().map(|node| {
        object(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name, "annotations": {
                "projectcalico.org/IPv4Address": format!("{}/24", node.address),
                "projectcalico.org/IPv4VXLANTunnelAddr": node.tunnel_address.to_string(),
            }},
            "spec": {"podCIDR": node.pod_cidr.to_string(), "podCIDRs": [node.pod_cidr.to_string()]},
            "status": {"addresses": [{"type": "InternalIP", "address": node.address.to_string()}]},
        }))
    }));
    let mut world_pods = Vec::new();
    for (index, seed) in pods.iter().enumerate() {
        let (pod, object) = self::pod_object(index, seed);
        world_pods.push(pod);
        objects.push(object);
    }
    for (index, policy) in policies.iter().enumerate() {
        let mut policy = policy.clone();
        policy["metadata"]["name"] = json!(format!("p{index}"));
        objects.push(object(policy));
    }
    let flows = flows.iter().map(|seed| resolve(seed, &world_pods)).collect();
    World {
        objects,
        nodes,
        pods: world_pods,
        externals: Vec::new(),
        flows,
        refused: Vec::new(),
        lab: LabOptions::default(),
    }
}

fn node(index: usize) -> WorldNode {
    WorldNode {
        name: format!("node{}", index + 1),
        address: node_address(index),
        subnet: "192.0.2.0/24".parse().unwrap(),
        router: Ipv4Addr::new(192, 0, 2, 254),
        pod_cidr: format!("10.244.{}.0/24", index + 1).parse().unwrap(),
        tunnel_address: tunnel_address(index),
        kernel: false,
    }
}

fn pod_object(index: usize, seed: &PodSeed) -> (WorldPod, Object) {
    let (namespace, name) = (NAMESPACES[seed.namespace], format!("pod{index}"));
    let address = pod_address(seed.block, index);
    // One container may not give a name twice.
    let mut names = BTreeSet::new();
    let ports: Vec<Value> = seed
        .ports
        .iter()
        .filter(|(name, _, _)| names.insert(*name))
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "containerPort": port}))
        .collect();
    let object = object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": seed.labels},
        "spec": {"nodeName": format!("node{}", seed.node + 1), "containers": [{"name": "c", "image": "any", "ports": ports}]},
        "status": {"phase": "Running", "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}]},
    }));
    let pod = WorldPod {
        namespace: namespace.to_owned(),
        interface: caracal_model::names::veth_name(namespace, &name),
        name,
        node: seed.node,
        addresses: vec![address.into()],
        host_network: false,
        ports: Vec::new(),
    };
    (pod, object)
}

fn resolve(seed: &FlowSeed, pods: &[WorldPod]) -> WorldFlow {
    let end = |end: EndSeed| -> (Place, IpAddr) {
        match end {
            EndSeed::Pod(index) => {
                let index = index % pods.len();
                (Place::Pod(index), pods[index].addresses[0])
            }
            EndSeed::Node(index) => (Place::Node(index), node_address(index).into()),
            EndSeed::External(index) => (Place::External, EXTERNALS[index].into()),
        }
    };
    let ((source, source_address), (destination, destination_address)) = (end(seed.from), end(seed.to));
    let is_icmp = seed.protocol == Protocol::ICMP;
    let is_pod = |place| matches!(place, Place::Pod(_));
    let unsupported = if source == destination {
        Some("packets to oneself stay inside".to_owned())
    } else {
        (!is_pod(source) && !is_pod(destination)).then(|| "neither end is a pod".to_owned())
    };
    WorldFlow {
        line: 0,
        from: format!("{:?} {source_address}", seed.from),
        to: format!("{:?} {destination_address}", seed.to),
        source,
        destination,
        source_address,
        destination_address,
        protocol: seed.protocol,
        source_port: None,
        destination_port: (!is_icmp).then_some(seed.port),
        icmp: is_icmp.then_some(Icmp { kind: 8, code: 0 }),
        ip_version: IpVersion::V4,
        timeout_ms: 0,
        expect: Expect::Allow,
        unsupported,
    }
}
