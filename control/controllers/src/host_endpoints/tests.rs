use caracal_model::object::Update;
use serde_json::{Value, json};

use super::*;
use crate::settings::Overrides;
use crate::walks::{configuration, object};

/// What is planned for one node of these annotations.
fn plan(node: &str, interfaces: &Value, templates: Value) -> Plan {
    let node = object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node, "annotations": {
            "projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/IPv6Address": "2001:db8::1/64",
            "projectcalico.org/IPv4IPIPTunnelAddr": "10.0.0.1", "projectcalico.org/IPv4WireguardInterfaceAddr": "10.0.0.2",
            "projectcalico.org/Interfaces": interfaces.to_string(),
        }},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "Hostname", "address": "192.0.2.99"},
        ]},
    }));
    let configuration = configuration(json!({"node": {"hostEndpoint": {
        "autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled", "templates": templates,
    }}}));
    let mut cluster = Cluster::default();
    for object in [node, configuration] {
        cluster.apply(Update::Upsert(object));
    }
    let spec = cluster.configuration().map(|configuration| &configuration.spec);
    let settings = Settings::new(spec, &Overrides::default());
    let now = Now { instant: std::time::Instant::now(), time: caracal_ipam::Nanoseconds(0) };
    HostEndpoints.plan(&cluster, Vec::new(), &settings, now)
}

fn made(plan: &Plan) -> Vec<Value> {
    let created = plan.actions.iter().map(|action| match action {
        Action::Create(object) => object.to_value(),
        other => panic!("{other:?}"),
    });
    created.collect()
}

#[test]
fn a_host_endpoint_expects_the_nodes_addresses_and_its_tunnels_each_once() {
    let plan = plan("n1", &json!([]), json!([{"generateName": "t"}]));
    let expected = json!(["192.0.2.1", "2001:db8::1", "203.0.113.1", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(made(&plan)[0]["spec"]["expectedIPs"], expected);
}

#[test]
fn interfaces_that_no_host_endpoint_can_name_are_left_out() {
    let interfaces = json!([
        {"name": "eth0", "addresses": ["192.0.2.1/24"]}, {"name": "an-interface-too-long"}, {"name": "eth@1"}, {"name": ""},
    ]);
    let plan = plan("n1", &interfaces, json!([{"generateName": "t", "interfacePattern": ".*"}]));
    let made = made(&plan);
    assert_eq!((made.len(), &made[0]["metadata"]["name"]), (1, &json!("n1-t-eth0-auto-hep")));
}

#[test]
fn what_is_made_is_what_the_api_takes_also_of_odd_and_long_names() {
    let interfaces = json!([{"name": "Eth_0"}, {"name": "eth-0"}, {"name": "ETH-0"}, {"name": "eth0."}]);
    let long = "n".repeat(240);
    for node in ["n1", &long] {
        let plan = plan(node, &interfaces, json!([{"generateName": "t", "interfacePattern": ".*"}]));
        let made = made(&plan);
        assert_eq!(made.len(), 4, "each under a name of its own");
        for value in made {
            let name = value["metadata"]["name"].as_str().unwrap().to_owned();
            assert!(name.len() <= 253 && name.ends_with("-auto-hep"), "{name}");
            assert_eq!(Object::accept(value).err(), None, "{name}");
        }
    }
}

#[test]
fn a_template_that_makes_no_sense_is_told_of_and_the_others_count() {
    let templates = json!([
        {"generateName": "a", "nodeSelector": "nonsense ="}, {"generateName": "b", "interfacePattern": "("},
        {"interfaceCIDRs": ["192.0.2.0/24"]}, {"generateName": "c", "interfaceCIDRs": ["192.0.2.0/24"]},
    ]);
    let plan = plan("n1", &json!([]), templates);
    for (problem, field) in
        plan.problems.iter().zip(["[0].nodeSelector", "[1].interfacePattern", "[2].generateName"])
    {
        assert!(problem.contains(field), "{problem}");
    }
    let made = made(&plan);
    assert_eq!((plan.problems.len(), made.len()), (3, 1));
    assert_eq!(made[0]["spec"]["expectedIPs"], json!(["192.0.2.1"]));
    assert_eq!(made[0]["spec"].get("interfaceName"), None);
}
