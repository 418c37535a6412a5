//! What pods, namespaces and configurations ask for.

use caracal_cni::netlink::{IpVersion, Netlink};
use caracal_model::object::Kind;
use serde_json::{Value, json};

use crate::world::World;

const PREFIX: &str = "cni.projectcalico.org/";

fn asks(name: &str, value: &str) -> Value {
    json!({ format!("{PREFIX}{name}"): value })
}

#[test]
fn pools_come_from_the_pod_then_its_namespace_then_the_configuration() {
    let world = World::new("pools");
    world.pool("red", "10.10.0.0/16");
    world.pool("green", "10.20.0.0/16");
    world.pool("blue", "10.30.0.0/16");
    let mut config = world.config();
    config["ipam"]["ipv4_pools"] = json!(["10.30.0.0/16"]);
    let add = |name: &str, annotations: Value| {
        let container = world.pod(name, annotations);
        world.execute("caracal-cni", "ADD", Some(&container), &config).addresses().remove(0)
    };
    assert!(add("a", json!({})).starts_with("10.30."));
    world.patch(
        Kind::Namespace,
        None,
        "default",
        json!({"metadata": {"annotations": asks("ipv4pools", r#"["green"]"#)}}),
    );
    assert!(add("b", json!({})).starts_with("10.20."));
    assert!(add("c", asks("ipv4pools", r#"["10.10.0.0/16"]"#)).starts_with("10.10."));
    let container = world.pod("d", asks("ipv4pools", r#"["nowhere"]"#));
    let answered = world.add(&container);
    assert!(answered.code() == 101 && answered.text().contains("nowhere"), "{}", answered.text());
}

#[test]
fn a_pool_that_selects_other_namespaces_gives_nothing() {
    let world = World::new("selector");
    world.patch(
        Kind::IPPool,
        None,
        "pool4",
        json!({"spec": {"namespaceSelector": "team == 'a'", "allowedUses": ["Workload"]}}),
    );
    let container = world.pod("web", json!({}));
    assert_eq!(world.add(&container).code(), 101);
    world.patch(Kind::Namespace, None, "default", json!({"metadata": {"labels": {"team": "a"}}}));
    assert!(world.add(&container).good);
}

#[test]
fn a_pod_of_both_families_has_addresses_and_routes_of_both() {
    let world = World::new("dual");
    world.pool("pool6", "fd00:1::/64");
    let mut config = world.config();
    config["ipam"]["assign_ipv6"] = json!("true");
    let container = world.pod("web", json!({}));
    let answered = world.execute("caracal-cni", "ADD", Some(&container), &config);
    let addresses = answered.addresses();
    assert!(
        addresses.len() == 2 && addresses[0].ends_with("/32") && addresses[1].starts_with("fd00:1:"),
        "{addresses:?}"
    );
    assert_eq!(world.seen().annotated["web"], addresses.join(","));
    let routes = world.in_pod(&container, || Netlink::open().unwrap().routes(IpVersion::V6).unwrap());
    assert!(routes.contains(&(None, 0, Some("fe80::ecee:eeff:feee:eeee".parse().unwrap()))), "{routes:?}");
    assert!(world.check(&container, &answered.json).good);
    // The pod's own word goes before the configuration's.
    let only6 = world.pod("six", asks("ipFamilies", r#"["IPv6"]"#));
    let addresses = world.execute("caracal-cni", "ADD", Some(&only6), &config).addresses();
    assert!(addresses.len() == 1 && addresses[0].starts_with("fd00:1:"), "{addresses:?}");
}

#[test]
fn a_pod_gets_the_addresses_and_the_mac_that_it_asks_for() {
    let world = World::new("exactly");
    let mut wishes = asks("ipAddrs", r#"["10.244.9.9"]"#);
    wishes[format!("{PREFIX}hwAddr")] = json!("02:AA:00:00:00:07");
    let container = world.pod("web", wishes);
    let answered = world.add(&container);
    assert_eq!(answered.addresses(), ["10.244.9.9/32"]);
    assert_eq!(answered.json["interfaces"][1]["mac"], "02:aa:00:00:00:07");
    let second = world.pod("second", asks("ipAddrs", r#"["10.244.9.9"]"#));
    assert_eq!(world.add(&second).code(), 101);
    let mut third = world.pod("third", json!({}));
    third.args.push_str(";IP=10.244.9.10");
    assert_eq!(world.add(&third).addresses(), ["10.244.9.10/32"]);
    assert_eq!(world.seen().given.len(), 2, "what was refused holds nothing");

    let mut config = world.config();
    config["feature_control"] = json!({"ip_addrs_no_ipam": true});
    let without = world.pod("without", asks("ipAddrsNoIpam", r#"["192.0.2.77"]"#));
    assert_eq!(world.add(&without).code(), 102, "it must be allowed");
    let answered = world.execute("caracal-cni", "ADD", Some(&without), &config);
    assert_eq!(answered.addresses(), ["192.0.2.77/32"]);
    assert_eq!(world.seen().given.len(), 2, "nobody was asked");
    config["prevResult"] = answered.json;
    assert!(world.execute("caracal-cni", "CHECK", Some(&without), &config).good);
    assert!(world.execute("caracal-cni", "DEL", Some(&without), &config).good);
}

#[test]
fn an_annotation_that_makes_no_sense_is_refused_by_its_name() {
    let world = World::new("nonsense");
    let before = world.seen();
    let cases = [
        ("ipv4pools", "pool4"),
        ("ipFamilies", r#"["IPv5"]"#),
        ("ipAddrs", r#"["10.0.0.1", "10.0.0.2"]"#),
        ("ipAddrs", r#"["tomorrow"]"#),
        ("floatingIPs", r#"["203.0.113.7"]"#),
        ("hwAddr", "ff:ff:ff:ff:ff:ff"),
        ("hwAddr", "02:00"),
    ];
    for (i, (name, value)) in cases.into_iter().enumerate() {
        let container = world.pod(&format!("web-{i}"), asks(name, value));
        let answered = world.add(&container);
        assert_eq!(answered.code(), 102, "{name}={value}");
        assert!(answered.text().contains(name), "{}", answered.text());
    }
    assert_eq!(world.seen(), before);
}

#[test]
fn the_mtu_is_the_files_where_the_configuration_says_none() {
    let world = World::new("mtu");
    let file = world.dir.path().join("mtu");
    let mut config = world.config();
    config.as_object_mut().unwrap().remove("mtu");
    config["mtu_file"] = json!(file);
    config["require_mtu_file"] = json!(true);
    let container = world.pod("web", json!({}));
    let add = |config: &Value| world.execute("caracal-cni", "ADD", Some(&container), config);
    assert_eq!(add(&config).code(), 11);
    std::fs::write(&file, "1337\n").unwrap();
    assert_eq!(add(&config).json["interfaces"][1]["mtu"], 1337);
}

#[test]
fn the_nodes_name_is_said_or_in_the_file_that_the_agent_writes() {
    let world = World::new("name");
    let file = world.dir.path().join("nodename");
    let mut config = world.config();
    config.as_object_mut().unwrap().remove("nodename");
    config["nodename_file"] = json!(file);
    let container = world.pod("web", json!({}));
    let add = |config: &Value| world.execute("caracal-cni", "ADD", Some(&container), config);
    let answered = add(&config);
    assert!(
        answered.code() == 11 && answered.text().contains("is caracal agent running"),
        "{}",
        answered.text()
    );
    config["nodename_file_optional"] = json!(true);
    config["hostname"] = json!("node1");
    assert!(add(&config).good);
    assert!(world.del(&container).good);
    std::fs::write(&file, "node1\n").unwrap();
    config["hostname"] = json!("somebody-else");
    assert!(add(&config).good, "the file goes before the host's name");
}

#[test]
fn a_pod_may_forward_where_the_configuration_lets_it_and_have_another_interface() {
    let world = World::new("settings");
    let mut config = world.config();
    config["container_settings"] = json!({"allow_ip_forwarding": true});
    let container = world.pod("web", json!({}));
    assert!(world.execute("caracal-cni", "ADD", Some(&container), &config).good);
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(world.in_pod(&container, read).trim(), "1");
    let log = std::fs::read_to_string(world.dir.path().join("cni.log")).unwrap();
    assert!(log.contains(&container.id), "{log}");
}

#[test]
fn the_api_server_is_where_the_configuration_says_whatever_the_kubeconfig_does() {
    let world = World::new("root");
    let text = std::fs::read_to_string(world.dir.path().join("kubeconfig")).unwrap();
    let wrong = world.dir.path().join("wrong");
    std::fs::write(&wrong, text.replace("127.0.0.1:6443", "127.0.0.1:1")).unwrap();
    let mut config = world.config();
    config["kubernetes"] = json!({"kubeconfig": wrong});
    let container = world.pod("web", json!({}));
    let add = |config: &Value| world.execute("caracal-cni", "ADD", Some(&container), config);
    assert_eq!(add(&config).code(), 100);
    config["kubernetes"]["k8s_api_root"] = json!("https://127.0.0.1:6443");
    assert!(add(&config).good);
    config["kubernetes"]["k8s_api_root"] = json!("no url");
    assert_eq!(add(&config).code(), 7);
}
