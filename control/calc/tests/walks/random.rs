//! Random objects in random orders.

use caracal_calc::{CalcGraph, Update};
use caracal_model::object::{Kind, Object, ObjectKey};
use proptest::prelude::*;
use serde_json::json;

use crate::expand::World;
use crate::objects::{namespace, node_with, pod, policy, service_account};
use crate::simulator::Fastpath;
use crate::{NODE, expected};

/// One of these names.
pub fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    proptest::sample::select(values)
}

fn selector() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!({})),
        one_of(&["a", "b"]).prop_map(|value| json!({"matchLabels": {"app": value}})),
        one_of(&["a", "b"]).prop_map(|value| {
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [value]}]})
        }),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]})),
        Just(json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "c"]}]})),
    ]
}

fn peer() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        selector().prop_map(|selector| json!({"podSelector": selector})),
        selector().prop_map(|selector| json!({"namespaceSelector": selector})),
        (selector(), selector())
            .prop_map(|(pods, namespaces)| { json!({"podSelector": pods, "namespaceSelector": namespaces}) }),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.0.0/16"]}})),
        Just(json!({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    ]
}

fn rule(peers: &'static str) -> impl Strategy<Value = serde_json::Value> {
    let port = prop_oneof![
        Just(json!({"port": 80})),
        Just(json!({"port": "http"})),
        Just(json!({"port": "dns", "protocol": "UDP"})),
        Just(json!({})),
    ];
    let lists = (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(port, 0..3));
    lists.prop_map(move |(who, ports)| json!({peers: who, "ports": ports}))
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![kubernetes_object(), crate::random_calico::object(), crate::ways::object_of_ways()]
}

fn kubernetes_object() -> impl Strategy<Value = Object> {
    let labels = one_of(&["", "app=a", "app=b", "app=c", "app=a,tier=1", "tier=2"]);
    let addresses = one_of(&["", "10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3", "10.244.9.9"]);
    let places = one_of(&["x/a@node1", "x/a@node2", "x/b@node1", "y/a@node1", "y/b@node2", "y/c@node3"]);
    let types =
        proptest::sample::select(vec![json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let rules = |peers| proptest::collection::vec(rule(peers), 0..3);
    let policies = (one_of(&["x/p", "x/q", "y/p"]), selector(), types, rules("from"), rules("to"));
    prop_oneof![
        2 => (one_of(&["x", "y"]), labels.clone()).prop_map(|(name, labels)| namespace(name, labels)),
        1 => (one_of(&["x", "y"]), labels.clone()).prop_map(|(space, labels)| service_account(space, "a", labels)),
        2 => (1u8..4, 1u8..4, one_of(&["", "10.244.1.0", "10.200.0.1"]))
            .prop_map(|(number, block, tunnel)| node_with(number, &format!("10.244.{block}.0/24"), tunnel)),
        6 => (places, labels, addresses).prop_map(|(place, labels, ip)| pod(place, labels, ip)),
        4 => policies.prop_map(|(place, selector, types, ingress, egress)| {
            policy(place, json!({"podSelector": selector, "policyTypes": types, "ingress": ingress, "egress": egress}))
        }),
    ]
}

#[derive(Debug, Clone)]
enum Move {
    Upsert(Object),
    Delete(ObjectKey),
    Flush,
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        5 => object().prop_map(Move::Upsert),
        2 => object().prop_map(|object| Move::Delete(object.key())),
        2 => Just(Move::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_state_depends_on_the_objects_alone(moves in proptest::collection::vec(a_move(), 1..60)) {
        let mut graph = CalcGraph::new(NODE);
        let mut fastpath = Fastpath::default();
        let mut world = World::new();
        for step in moves {
            match step {
                Move::Upsert(object) => {
                    world.insert(object.key(), object.clone());
                    graph.apply(Update::Upsert(object));
                }
                Move::Delete(key) => {
                    world.remove(&key);
                    graph.apply(Update::Delete(key));
                }
                Move::Flush => {
                    fastpath.apply(&graph.flush());
                    let mut told_anew = Fastpath::default();
                    told_anew.apply(&graph.state());
                    prop_assert_eq!(&told_anew, &fastpath);
                }
            }
        }
        // What has not been flushed is not yet part of the state.
        let mut told_anew = Fastpath::default();
        told_anew.apply(&graph.state());
        prop_assert_eq!(&told_anew, &fastpath);
        fastpath.apply(&graph.flush());
        crate::ways::check(&world, &fastpath);
        let mut expected = expected(&world);
        if !world.keys().any(|key| key.kind == Kind::Node && key.name == NODE) {
            expected.config.clone_from(&fastpath.config);
        }
        prop_assert_eq!(fastpath, expected);
    }
}
