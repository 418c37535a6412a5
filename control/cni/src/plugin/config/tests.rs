//! Every field, by its name.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn minimal() -> Value {
    json!({"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "caracal-cni"})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut whole = minimal();
    let mut at = &mut whole;
    for key in pointer.split('.') {
        if at.get(key).is_none() {
            at[key] = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
    whole
}

fn parse(whole: &Value) -> Result<Config, ConfigError> {
    Config::parse(whole.to_string().as_bytes())
}

fn set(pointer: &str, value: Value) -> Config {
    parse(&with(pointer, value)).unwrap()
}

#[test]
fn what_is_not_said_is_calicos_default() {
    let config = parse(&minimal()).unwrap();
    assert_eq!(config.version, Version::V1_0_0);
    assert_eq!(config.node.file, Path::new("/var/lib/calico/nodename"));
    assert!(!config.node.file_optional && config.node.explicit.is_none() && config.node.hostname.is_none());
    assert!(config.ipam.assign_ipv4 && !config.ipam.assign_ipv6);
    assert_eq!((config.mtu, config.mtu_file.to_str()), (None, Some("/var/lib/calico/mtu")));
    assert_eq!(config.ipam_lock, Path::new("/var/run/calico/ipam.lock"));
    assert_eq!(config.node_socket, Path::new("/var/run/caracal/node.sock"));
    assert_eq!(config.bpf_dir, Path::new("/sys/fs/bpf/caracal"));
    assert_eq!(config.policy_timeout, Duration::from_secs(30));
    let log = Log { file: None, level: tracing::Level::INFO, size_max_mib: 100, count: 10, age_days: 30 };
    assert_eq!(config.log, log);
    assert_eq!(parse(&json!({"name": "x"})).unwrap().version, Version::V0_1_0);
}

#[test]
fn every_field_counts() {
    assert_eq!(set("nodename", json!("n1")).node.explicit.as_deref(), Some("n1"));
    assert_eq!(set("kubernetes.node_name", json!("n1")).node.explicit.as_deref(), Some("n1"));
    assert_eq!(set("nodename_file", json!("/x")).node.file, Path::new("/x"));
    assert!(set("nodename_file_optional", json!(true)).node.file_optional);
    assert_eq!(set("hostname", json!("h")).node.hostname.as_deref(), Some("h"));
    assert_eq!(set("kubernetes.kubeconfig", json!("/k")).kubeconfig.as_deref(), Some(Path::new("/k")));
    assert_eq!(set("kubernetes.k8s_api_root", json!("https://x")).api_root.as_deref(), Some("https://x"));
    assert_eq!(set("ipam.type", json!("host-local")).ipam.kind, "host-local");
    assert!(!set("ipam.assign_ipv4", json!("false")).ipam.assign_ipv4);
    assert!(set("ipam.assign_ipv6", json!("true")).ipam.assign_ipv6);
    assert!(set("ipam.assign_ipv6", json!(true)).ipam.assign_ipv6);
    assert_eq!(set("ipam.ipv4_pools", json!(["a", "10.0.0.0/8"])).ipam.ipv4_pools, ["a", "10.0.0.0/8"]);
    assert_eq!(set("ipam.ipv6_pools", json!(["b"])).ipam.ipv6_pools, ["b"]);
    assert_eq!(set("mtu", json!(1400)).mtu, Some(1400));
    assert_eq!(set("mtu", json!(0)).mtu, None);
    assert_eq!(set("mtu_file", json!("/m")).mtu_file, Path::new("/m"));
    assert!(set("require_mtu_file", json!(true)).require_mtu_file);
    assert!(set("container_settings.allow_ip_forwarding", json!(true)).allow_ip_forwarding);
    assert!(set("include_default_routes", json!(true)).include_default_routes);
    assert!(set("feature_control.ip_addrs_no_ipam", json!(true)).ip_addrs_no_ipam);
    assert_eq!(set("log_level", json!("DEBUG")).log.level, tracing::Level::DEBUG);
    assert_eq!(set("log_file_path", json!("/l")).log.file.as_deref(), Some(Path::new("/l")));
    assert_eq!(set("log_file_max_size", json!(1)).log.size_max_mib, 1);
    assert_eq!(set("log_file_max_age", json!(2)).log.age_days, 2);
    assert_eq!(set("log_file_max_count", json!(3)).log.count, 3);
    assert_eq!(set("readiness_gates", json!(["http://x/"])).readiness_gates, ["http://x/"]);
    assert_eq!(set("policy_setup_timeout_seconds", json!(7)).policy_timeout, Duration::from_secs(7));
    assert_eq!(set("ipam_lock_file", json!("/i")).ipam_lock, Path::new("/i"));
    assert_eq!(set("calico_api_group", json!("projectcalico.org/v3")).api_group, Some(ApiGroup::V3));
    assert_eq!(set("node_socket", json!("/n")).node_socket, Path::new("/n"));
    assert_eq!(set("bpf_dir", json!("/b")).bpf_dir, Path::new("/b"));
    assert_eq!(set("dns", json!({"nameservers": ["10.0.0.1"]})).dns.nameservers, ["10.0.0.1"]);
    let valid = set("cni.dev/valid-attachments", json!([])).valid;
    // The pointer splits at the dot, so not by it.
    assert_eq!(valid, None);
    let mut whole = minimal();
    whole["cni.dev/valid-attachments"] = json!([{"containerID": "c", "ifname": "eth0"}]);
    assert_eq!(parse(&whole).unwrap().valid.unwrap()[0].container, "c");
    // These are taken, and change nothing.
    for (field, value) in [
        ("datastore_type", json!("kubernetes")),
        ("policy.type", json!("k8s")),
        ("device_type", json!("veth")),
        ("num_queues", json!(4)),
        ("endpoint_status_dir", json!("/var/run/calico/endpoint-status")),
        ("something_else", json!([1, 2, 3])),
    ] {
        parse(&with(field, value)).unwrap();
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("a/b")),
        ("name", json!(7)),
        ("datastore_type", json!("etcdv3")),
        ("policy.type", json!("k9s")),
        ("ipam.type", json!("../../bin/sh")),
        ("ipam.assign_ipv4", json!("yes")),
        ("ipam.ipv4_pools", json!("default")),
        ("mtu", json!("1500")),
        ("mtu", json!(7)),
        ("num_queues", json!(-1)),
        ("device_type", json!("netkit")),
        ("nodename_file_optional", json!("true")),
        ("container_settings.allow_ip_forwarding", json!(1)),
        ("feature_control.floating_ips", json!(true)),
        ("log_level", json!("loud")),
        ("log_file_path", json!("relative")),
        ("readiness_gates", json!(["https://x"])),
        ("policy_setup_timeout_seconds", json!(-1)),
        ("dataplane_options", json!({"type": "grpc"})),
        ("calico_api_group", json!("v1")),
        ("prevResult", json!({"ips": 7})),
        ("cniVersion", json!(1)),
    ] {
        match parse(&with(field, value.clone())) {
            Err(ConfigError::Field { field: named, .. }) => {
                assert!(named == field || named.starts_with(field), "{field}: {named}");
            }
            other => panic!("{field}={value}: {other:?}"),
        }
    }
    assert!(matches!(parse(&with("cniVersion", json!("9.0.0"))), Err(ConfigError::Version(_))));
    assert!(matches!(Config::parse(b"{"), Err(ConfigError::NotJson(_))));
}

#[test]
fn a_version_that_is_not_spoken_is_refused_for_that_whatever_else_is_wrong() {
    let whole = json!({"cniVersion": "2.0.0", "name": 7, "mtu": "x"});
    assert!(matches!(parse(&whole), Err(ConfigError::Version(_))));
}

#[test]
fn the_places_of_the_nodes_own_prefix_are_found() {
    let mut whole = with("ipam.type", json!("host-local"));
    whole["ipam"]["subnet"] = json!("usePodCidr");
    whole["ipam"]["ranges"] =
        json!([[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}, {"subnet": "10.0.0.0/24"}]]);
    let mut found = parse(&whole).unwrap().wants_pod_cidr();
    found.sort();
    let expected =
        [("/ipam/ranges/0/0/subnet", false), ("/ipam/ranges/1/0/subnet", true), ("/ipam/subnet", false)];
    assert_eq!(found, expected.map(|(at, v6)| (at.to_owned(), v6)));
}

#[test]
fn a_previous_result_is_read_in_its_own_version() {
    let whole = with("prevResult", json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/32"}}));
    assert_eq!(
        parse(&whole).unwrap().prev_result.unwrap().addresses(),
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

/// JSON of any shape, of the words that configurations have.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("cniVersion"),
        Just("name"),
        Just("ipam"),
        Just("type"),
        Just("subnet"),
        Just("mtu"),
        Just("prevResult"),
        Just("ips"),
        Just("policy"),
        Just("kubernetes"),
        Just("readiness_gates"),
        Just("cni.dev/valid-attachments"),
        Just("ranges"),
        Just("usePodCidr"),
        Just("1.0.0"),
        Just("0.2.0"),
        Just("x"),
    ]
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&bytes);
    }

    #[test]
    fn no_json_makes_it_panic(json in any_json()) {
        if let Ok(config) = parse(&json) {
            for (pointer, _) in config.wants_pod_cidr() {
                prop_assert!(config.whole.pointer(&pointer).is_some());
            }
        }
    }
}
