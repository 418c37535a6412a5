//! Random objects of Calico's kinds, and of what its rules name.

use caracal_model::object::Object;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::objects::{calico, calico_with, cluster_policy, slice};
use crate::random::one_of;
use crate::services::service;

fn of(values: Vec<Value>) -> impl Strategy<Value = Value> + Clone {
    proptest::sample::select(values)
}

fn selector() -> impl Strategy<Value = &'static str> + Clone {
    one_of(&[
        "all()",
        "app == 'a'",
        "app != 'a'",
        "app in {'a', 'b'}",
        "has(tier) || app starts with 'c'",
        "!has(app)",
        "pcns.app == 'a' || role == 'host'",
        "set == 'nets' && app not in {'b'}",
    ])
}

/// With some of these fields, by coin.
fn with(base: Value, fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    fields.into_iter().fold(Just(base).boxed(), |object, (field, value)| {
        (object, proptest::option::of(value))
            .prop_map(move |(mut object, value)| {
                if let Some(value) = value {
                    object[field] = value;
                }
                object
            })
            .boxed()
    })
}

fn side() -> BoxedStrategy<Value> {
    let selector = || selector().prop_map(|text| json!(text)).boxed();
    let ports = of(vec![json!([80, "http"]), json!(["dns", "90:95"])]).boxed();
    let nets = || of(vec![json!(["10.1.0.0/16"]), json!(["10.1.0.0/16", "10.244.1.2/32"])]).boxed();
    let selected = with(
        json!({}),
        vec![
            ("selector", selector()),
            ("notSelector", selector()),
            ("namespaceSelector", of(vec![json!("all()"), json!("global()"), json!("app == 'a'")]).boxed()),
            ("nets", nets()),
            ("notNets", nets()),
            ("ports", ports.clone()),
            ("notPorts", ports),
        ],
    );
    prop_oneof![3 => selected, 1 => Just(json!({}))].boxed()
}

fn rule() -> BoxedStrategy<Value> {
    let service = || {
        of(vec![
            json!({"services": {"name": "s", "namespace": "y"}}),
            json!({"services": {"name": "t", "namespace": "y"}}),
        ])
    };
    let action = one_of(&["Allow", "Deny", "Pass", "Log"]);
    (action, prop_oneof![4 => side(), 1 => Just(json!({}))], side(), any::<bool>(), service())
        .prop_map(|(action, source, destination, is_tcp, service)| {
            let mut rule = json!({"action": action, "source": source, "destination": destination});
            if service["services"]["name"] == "s" && action == "Allow" {
                rule["service"] = service;
            }
            rule["protocol"] = json!(if is_tcp { "TCP" } else { "UDP" });
            rule
        })
        .boxed()
}

/// Rules of a direction; a service in place of the side on which it may stand.
fn rules(side: &'static str) -> BoxedStrategy<Value> {
    vec(rule(), 0..3)
        .prop_map(move |mut rules| {
            for rule in &mut rules {
                let service = rule.as_object_mut().unwrap().remove("service");
                if let Some(service) = service {
                    rule[side] = service;
                }
            }
            json!(rules)
        })
        .boxed()
}

/// The fields that all policies have.
fn policy_spec() -> BoxedStrategy<Value> {
    let types = of(vec![json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    with(
        json!({}),
        vec![
            ("selector", selector().prop_map(|text| json!(text)).boxed()),
            ("tier", of(vec![json!("one"), json!("two"), json!("default")]).boxed()),
            ("order", of(vec![json!(1.0), json!(1000.0), json!(-3.5)]).boxed()),
            ("types", types.boxed()),
            ("ingress", rules("source")),
            ("egress", rules("destination")),
        ],
    )
}

fn hooked(mut spec: Value, hook: &str) -> Value {
    match hook {
        "forward" => spec["applyOnForward"] = json!(true),
        "untracked" => {
            spec["applyOnForward"] = json!(true);
            spec["doNotTrack"] = json!(true);
        }
        "preDNAT" => {
            spec["applyOnForward"] = json!(true);
            spec["preDNAT"] = json!(true);
            let spec = spec.as_object_mut().unwrap();
            spec.remove("egress");
            spec.remove("types");
        }
        _ => {}
    }
    spec
}

fn labels() -> impl Strategy<Value = &'static str> + Clone {
    one_of(&["", "app=a", "app=b,set=nets", "set=nets", "role=host,app=c"])
}

/// An object of one of the kinds.
pub fn object() -> BoxedStrategy<Object> {
    let global = (
        one_of(&["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"]),
        one_of(&["g", "h"]),
        policy_spec(),
        one_of(&["", "", "forward", "untracked", "preDNAT"]),
        proptest::option::of(one_of(&["all()", "app == 'a'"])),
    );
    let global = global.prop_map(|(kind, name, spec, hook, namespaces)| {
        let mut spec = hooked(spec, hook);
        if let Some(namespaces) = namespaces {
            spec["namespaceSelector"] = json!(namespaces);
        }
        calico(kind, name, spec)
    });
    let namespaced =
        (one_of(&["NetworkPolicy", "StagedNetworkPolicy"]), one_of(&["x/g", "x/p", "y/p"]), policy_spec())
            .prop_map(|(kind, place, spec)| calico(kind, place, spec));
    let staged = (
        one_of(&["StagedNetworkPolicy", "StagedKubernetesNetworkPolicy"]),
        one_of(&["x/p", "y/p"]),
        of(vec![json!({"stagedAction": "Delete"}), json!({"stagedAction": "Set"})]),
    )
        .prop_map(|(kind, place, mut spec)| {
            if spec["stagedAction"] == "Set" && kind == "StagedKubernetesNetworkPolicy" {
                spec["podSelector"] = json!({});
            }
            calico(kind, place, spec)
        });
    let tier = (
        one_of(&["one", "two"]),
        of(vec![json!({"defaultAction": "Pass"}), json!({"order": 5.0}), json!({"order": 2e6})]),
    )
        .prop_map(|(name, spec)| calico("Tier", name, spec));
    let nets =
        vec(one_of(&["10.1.0.0/16", "10.2.0.0/16", "10.244.1.2/32", "0.0.0.0/0", "10.1.0.0/24"]), 0..4)
            .prop_map(|nets| json!({"nets": nets.into_iter().collect::<std::collections::BTreeSet<_>>()}));
    let set = (one_of(&["x/s", "y/s", "s", "t"]), labels(), nets).prop_map(|(place, labels, spec)| {
        calico_with(if place.contains('/') { "NetworkSet" } else { "GlobalNetworkSet" }, place, labels, spec)
    });
    let host = (
        one_of(&["a", "b", "c"]),
        labels(),
        one_of(&["node1", "node1", "node2"]),
        one_of(&["eth0", "eth1", "*"]),
        one_of(&["192.0.2.11", "192.0.2.12", "10.244.1.2"]),
        0..3u8,
    )
        .prop_map(|(name, labels, node, interface, address, which)| {
            let mut spec = json!({"node": node, "profiles": ["p", "projectcalico-default-allow"]});
            if which != 1 {
                spec["interfaceName"] = json!(interface);
            }
            if which != 0 {
                spec["expectedIPs"] = json!([address]);
                spec["ports"] = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
            }
            calico_with("HostEndpoint", name, labels, spec)
        });
    let profile = (one_of(&["p", "kns.x"]), rules("source"), labels()).prop_map(|(name, ingress, labels)| {
        calico("Profile", name, json!({"ingress": ingress, "labelsToApply": crate::objects::labels(labels)}))
    });
    let addresses = vec(one_of(&["10.244.1.2", "10.244.1.3", "10.244.2.2"]), 0..3);
    let slice = (one_of(&["y/a@s", "y/b@s", "y/a@t"]), addresses, one_of(&["80", "81"])).prop_map(
        |(place, mut addresses, port)| {
            addresses.sort_unstable();
            addresses.dedup();
            slice(place, &addresses, &[port.parse().unwrap()])
        },
    );
    let service = (one_of(&["y/s", "y/t"]), one_of(&["Cluster", "Local"]), one_of(&["p80", "p81"])).prop_map(
        |(place, policy, port)| {
            let ports = json!([{"name": port, "port": 80}]);
            service(place, "10.96.0.7", json!({"internalTrafficPolicy": policy, "ports": ports}))
        },
    );
    let felix = (one_of(&["default", "node.node1"]), one_of(&["Accept", "Drop", "Return"])).prop_map(
        |(name, action)| calico("FelixConfiguration", name, json!({"defaultEndpointToHostAction": action})),
    );
    let cluster = (one_of(&["Admin", "Baseline"]), 0..3i64, one_of(&["Accept", "Deny", "Pass"])).prop_map(
        |(tier, priority, action)| {
            cluster_policy(
                "c",
                json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}},
                "ingress": [{"action": action, "from": [{"namespaces": {"matchLabels": {"app": "a"}}}]}]}),
            )
        },
    );
    prop_oneof![
        4 => global, 3 => namespaced, 2 => staged, 2 => tier, 4 => set, 3 => host, 2 => profile, 2 => slice,
        1 => felix, 1 => cluster, 1 => service,
    ]
    .boxed()
}
