//! Nodes come, change and go, and so does what is said of their host endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use caracal_model::object::{Kind, Object, ObjectKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Api, Walk, cases, configuration, object};
use crate::{Action, HostEndpoints};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// One that people have made under a name of ours, and one under another.
const PEOPLES: [&str; 2] = ["n2-auto-hep", "mine"];

#[derive(Debug, Clone, Copy)]
struct Machine {
    zone: &'static str,
    tunnel: bool,
    interfaces: bool,
}

#[derive(Debug, Clone, Copy)]
struct Config {
    on: bool,
    default: bool,
    template: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Node(usize, Machine),
    Remove(usize),
    Configure(Config),
    /// Somebody changes, or deletes, one of ours.
    Meddle(usize, bool),
    Hear(usize, usize),
    Act(usize),
    Die,
}

const TEMPLATES: [fn() -> Value; 4] = [
    || json!([]),
    || json!([{"generateName": "t", "nodeSelector": "zone == 'a'", "labels": {"of": "t"}, "annotations": {"note": "1"}}]),
    || json!([{"generateName": "t", "interfaceCIDRs": ["10.0.0.0/8"]}]),
    || json!([{"generateName": "t", "interfacePattern": "eth[01]"}]),
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let machine = (prop::sample::select(vec!["a", "b"]), any::<bool>(), any::<bool>());
    let machine = machine.prop_map(|(zone, tunnel, interfaces)| Machine { zone, tunnel, interfaces });
    let config = (any::<bool>(), any::<bool>(), 0..TEMPLATES.len());
    let config = config.prop_map(|(on, default, template)| Config { on, default, template });
    let step = prop_oneof![
        4 => (0..NODES.len(), machine).prop_map(|(node, machine)| Step::Node(node, machine)),
        1 => (0..NODES.len()).prop_map(Step::Remove),
        2 => config.prop_map(Step::Configure),
        1 => (0..NODES.len(), any::<bool>()).prop_map(|(node, deletes)| Step::Meddle(node, deletes)),
        6 => (0..3usize, 1..4usize).prop_map(|(kind, count)| Step::Hear(kind, count)),
        6 => (0..4usize).prop_map(Step::Act),
        1 => Just(Step::Die),
    ];
    prop::collection::vec(step, 1..60)
}

fn node(number: usize, machine: Machine) -> Object {
    let mut annotations = json!({ "projectcalico.org/IPv4Address": format!("192.0.2.{number}/24") });
    if machine.tunnel {
        annotations["projectcalico.org/IPv4VXLANTunnelAddr"] = format!("10.0.{number}.0").into();
    }
    if machine.interfaces {
        let interfaces = json!([
            {"name": "eth0", "addresses": [format!("192.0.2.{number}/24")]}, {"name": "eth1", "addresses": ["10.9.0.1"]},
            {"name": "lo", "addresses": ["127.0.0.1"]},
        ]);
        annotations["projectcalico.org/Interfaces"] = interfaces.to_string().into();
    }
    object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODES[number], "labels": {"zone": machine.zone}, "annotations": annotations},
    }))
}

/// The host endpoints of a node: name, interface, addresses, whether it has the template's label.
fn expected(number: usize, machine: Machine, config: Config) -> BTreeMap<String, (Value, Value, bool)> {
    let mut all = BTreeMap::new();
    if !config.on {
        return all;
    }
    let name = NODES[number];
    let own = format!("192.0.2.{number}");
    let tunnel = format!("10.0.{number}.0");
    let addresses = if machine.tunnel { json!([own, tunnel]) } else { json!([own]) };
    if config.default {
        all.insert(format!("{name}-auto-hep"), (json!("*"), addresses.clone(), false));
    }
    match config.template {
        1 if machine.zone == "a" => {
            all.insert(format!("{name}-t-auto-hep"), (json!("*"), addresses, true));
        }
        2 if machine.tunnel => {
            all.insert(format!("{name}-t-auto-hep"), (Value::Null, json!([tunnel]), false));
        }
        3 if machine.interfaces => {
            all.insert(format!("{name}-t-eth0-auto-hep"), (json!("eth0"), json!([own]), false));
            all.insert(format!("{name}-t-eth1-auto-hep"), (json!("eth1"), json!(["10.9.0.1"]), false));
        }
        _ => {}
    }
    all
}

/// People's are not touched.
fn watch(_: &Api, action: &Action) {
    let object = match action {
        Action::Create(object) | Action::Replace(object) | Action::Delete(object) => object,
        other => panic!("{other:?}"),
    };
    let labels = object.metadata().labels.clone().unwrap_or_default();
    assert_eq!(
        labels.get("projectcalico.org/created-by").map(String::as_str),
        Some("calico-kube-controllers")
    );
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, None, name)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn each_node_ends_with_the_host_endpoints_it_should_have_and_peoples_stay(steps in steps()) {
        let mut walk = Walk::new(|| HostEndpoints, watch);
        let peoples: Vec<Object> = PEOPLES
            .iter()
            .map(|name| {
                let manifest = json!({
                    "apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": name},
                    "spec": {"node": "n2", "interfaceName": "eth7"},
                });
                walk.api.create(object(manifest)).unwrap();
                walk.api.get(&key(Kind::HostEndpoint, name)).unwrap()
            })
            .collect();
        let (mut machines, mut config) = (BTreeMap::new(), Config { on: true, default: true, template: 0 });
        let write = |config: Config| {
            let switch = |on: bool| if on { "Enabled" } else { "Disabled" };
            configuration(json!({"node": {"hostEndpoint": {
                "autoCreate": switch(config.on), "createDefaultHostEndpoint": switch(config.default),
                "templates": TEMPLATES[config.template](),
            }}}))
        };
        walk.api.create(write(config)).unwrap();
        walk.die();
        for step in steps {
            match step {
                Step::Node(number, machine) => {
                    if walk.api.replace(node(number, machine)).is_err() {
                        walk.api.create(node(number, machine)).unwrap();
                    }
                    machines.insert(number, machine);
                }
                Step::Remove(number) => {
                    let _ = walk.api.delete(&key(Kind::Node, NODES[number]));
                    machines.remove(&number);
                }
                Step::Configure(new) => {
                    walk.api.replace(write(new)).unwrap();
                    config = new;
                }
                Step::Meddle(number, deletes) => {
                    let name = format!("{}-auto-hep", NODES[number]);
                    if PEOPLES.contains(&name.as_str()) {
                        continue;
                    }
                    let key = key(Kind::HostEndpoint, &name);
                    let _ = if deletes {
                        walk.api.delete(&key)
                    } else {
                        walk.api.patch(&key, &json!({"spec": {"interfaceName": "eth9"}, "metadata": {"annotations": {"mine": "stays"}}}))
                    };
                }
                Step::Hear(kind, count) => {
                    walk.hear([Kind::Node, Kind::HostEndpoint, Kind::KubeControllersConfiguration][kind], count);
                }
                Step::Act(survives) => drop(walk.act(survives)),
                Step::Die => walk.die(),
            }
            walk.pass(Duration::from_millis(100));
        }
        walk.rest();
        let mut all: BTreeMap<String, (Value, Value, bool)> = BTreeMap::new();
        for (number, machine) in machines {
            all.extend(expected(number, machine, config));
        }
        for name in PEOPLES {
            all.remove(name);
        }
        let mut found = BTreeMap::new();
        for endpoint in walk.api.all(Kind::HostEndpoint) {
            let value = endpoint.to_value();
            let name = value["metadata"]["name"].as_str().unwrap().to_owned();
            if !PEOPLES.contains(&name.as_str()) {
                let spec = &value["spec"];
                prop_assert_eq!(&spec["profiles"], &json!(["projectcalico-default-allow"]));
                let of_template = value["metadata"]["labels"]["of"] == "t" && value["metadata"]["annotations"]["note"] == "1";
                found.insert(name, (spec["interfaceName"].clone(), spec["expectedIPs"].clone(), of_template));
            }
        }
        prop_assert_eq!(found, all);
        for people in peoples {
            prop_assert_eq!(walk.api.get(&people.key()), Some(people));
        }
    }
}
