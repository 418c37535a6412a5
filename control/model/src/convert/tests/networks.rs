//! Pools, blocks, and what FelixConfigurations say of addresses and tunnels.

use serde_json::{Value, json};

use crate::convert::*;
use crate::labels::Labels;
use crate::pod_port::PodPort;
use crate::policy::PortRange;

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pool(spec: Value) -> Option<Pool> {
    ip_pool(&from(json!({"metadata": {"name": "p"}, "spec": spec})))
}

#[test]
fn a_pool_says_how_its_packets_go_between_nodes() {
    let mode = |spec: Value| pool(spec).unwrap().mode;
    let v4 =
        |vxlan: &str, ipip: &str| mode(json!({"cidr": "10.0.0.0/16", "vxlanMode": vxlan, "ipipMode": ipip}));
    assert_eq!(v4("Never", "Never"), PoolMode::Plain);
    assert_eq!(v4("Always", "Never"), PoolMode::Vxlan(Between::AllNodes));
    assert_eq!(v4("CrossSubnet", "Never"), PoolMode::Vxlan(Between::Subnets));
    assert_eq!(v4("Never", "Always"), PoolMode::Ipip(Between::AllNodes));
    assert_eq!(v4("Never", "CrossSubnet"), PoolMode::Ipip(Between::Subnets));
    assert_eq!(mode(json!({"cidr": "10.0.0.0/16"})), PoolMode::Plain);
    assert_eq!(
        mode(json!({"cidr": "fd00::/48", "ipipMode": "Always"})),
        PoolMode::Plain,
        "IPIP carries IPv4"
    );
    assert_eq!(mode(json!({"cidr": "fd00::/48", "vxlanMode": "Always"})), PoolMode::Vxlan(Between::AllNodes));
}

#[test]
fn pools_of_load_balancers_are_none_and_disabled_ones_are() {
    let uses = |uses: Value| {
        pool(json!({"cidr": "10.0.0.0/16", "allowedUses": uses, "natOutgoing": true})).is_some()
    };
    assert!(!uses(json!(["LoadBalancer"])));
    assert!(uses(json!(["Workload"])) && uses(json!(["Tunnel"])) && uses(json!([])));
    let disabled = pool(json!({"cidr": "10.0.0.0/16", "disabled": true, "natOutgoing": true})).unwrap();
    assert!(disabled.nat_outgoing);
    assert_eq!(pool(json!({"cidr": "nonsense"})), None);
}

#[test]
fn only_a_confirmed_affinity_makes_a_block_its_nodes() {
    let node = |more: Value| {
        let mut spec = json!({"cidr": "10.244.1.0/26", "node": "n1", "state": "confirmed"});
        more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        block_affinity(&from(json!({"metadata": {"name": "b"}, "spec": spec}))).and_then(|block| block.node)
    };
    assert_eq!(node(json!({})).as_deref(), Some("n1"));
    assert_eq!(node(json!({"type": "host"})).as_deref(), Some("n1"));
    for not in [
        json!({"state": "pending"}),
        json!({"state": "pendingDeletion"}),
        json!({"state": ""}),
        json!({"deleted": true}),
        json!({"type": "virtual"}),
        json!({"cidr": "x"}),
        json!({"cidr": "0.0.0.0/0"}),
        json!({"cidr": "::/0"}),
        json!({"node": ""}),
    ] {
        assert_eq!(node(not.clone()), None, "{not}");
    }
}

#[test]
fn addresses_that_other_nodes_have_of_a_block_are_borrowed() {
    let block = |spec: Value| ipam_block(&from(json!({"metadata": {"name": "b"}, "spec": spec})));
    let spec = json!({
        "cidr": "10.244.1.0/30", "affinity": "host:n1", "allocations": [0, 1, null, 2], "unallocated": [2],
        "attributes": [{"secondary": {"node": "n1"}}, {"secondary": {"node": "n2"}},
            {"secondary": {"node": "n3"}, "releasedAt": "2026-01-01T00:00:00Z"}],
    });
    let known = block(spec.clone()).unwrap();
    assert_eq!(known.node.as_deref(), Some("n1"));
    assert_eq!(
        known.borrowed,
        [("10.244.1.1".parse().unwrap(), "n2".to_owned())],
        "what cools down is nobody's"
    );
    let with = |field: &str, value: Value| {
        let mut spec = spec.clone();
        spec[field] = value;
        block(spec)
    };
    assert_eq!(with("deleted", json!(true)), None);
    let orphan = with("affinity", json!("virtual:load-balancer")).unwrap();
    assert_eq!((orphan.node, orphan.borrowed.len()), (None, 2));
    let nonsense = with("allocations", json!([7, -1, null, 0, 0, 0])).unwrap();
    assert_eq!(nonsense.borrowed, []);
}

fn settings(spec: Value) -> NetworkSettings {
    felix_settings([&from(json!({"metadata": {"name": "default"}, "spec": spec}))], "n", &Labels::new())
        .network
}

#[test]
fn what_concerns_tunnels_and_translation_is_read() {
    let defaults = NetworkSettings::default();
    assert_eq!(settings(json!({})), defaults);
    assert_eq!((defaults.vxlan_port, defaults.vxlan_vni), (4789, 4096));
    assert_eq!(defaults.node_port_ranges, [PortRange { first: 30000, last: 32767 }]);
    let told = settings(json!({
        "vxlanPort": 8472, "vxlanVNI": 7, "vxlanEnabled": false, "ipipEnabled": true,
        "mtuIfacePattern": "^bond", "vxlanMTU": 1300, "vxlanMTUV6": 0, "ipipMTU": 1200,
        "externalNodesList": ["203.0.113.1", "198.51.100.0/24", "nonsense"],
        "kubeNodePortRanges": ["30000:30010", 31000], "natOutgoingAddress": "192.0.2.99",
        "natOutgoingExclusions": "IPPoolsAndHostIPs", "natPortRange": "40000:41000", "workloadSourceSpoofing": "Any",
    }));
    assert_eq!((told.vxlan_port, told.vxlan_vni), (8472, 7));
    assert_eq!((told.vxlan_enabled, told.ipip_enabled), (Some(false), Some(true)));
    assert_eq!(
        (&*told.mtu.interfaces, told.mtu.vxlan, told.mtu.vxlan_v6, told.mtu.ipip),
        ("^bond", Some(1300), None, Some(1200))
    );
    let nodes: Vec<String> = told.external_nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["203.0.113.1/32", "198.51.100.0/24"]);
    let range = |first, last| PortRange { first, last };
    assert_eq!(told.node_port_ranges, [range(30000, 30010), range(31000, 31000)]);
    assert_eq!(told.nat_address, Some([192, 0, 2, 99].into()));
    assert!(told.nat_excludes_hosts && told.allow_other_sources);
    assert_eq!(told.nat_ports, Some(range(40000, 41000)));
}

#[test]
fn nonsense_in_settings_counts_as_the_default() {
    for field in [
        "vxlanPort",
        "vxlanVNI",
        "mtuIfacePattern",
        "natPortRange",
        "kubeNodePortRanges",
        "bpfConntrackTimeouts",
        "natOutgoingAddress",
    ] {
        for nonsense in [json!(0), json!(-1), json!(1e9), json!(""), json!({}), json!("2:1"), json!(true)] {
            let told = settings(json!({field: nonsense}));
            if field != "mtuIfacePattern" && !(field == "vxlanVNI" && nonsense == json!(0)) {
                assert_eq!(told, NetworkSettings::default(), "{field}: {nonsense}");
            }
        }
    }
}

#[test]
fn timeouts_are_a_map_or_a_list_of_pairs() {
    let seconds = |value: Value| {
        let told = settings(json!({"bpfConntrackTimeouts": value})).timeouts;
        [
            told.tcp_syn_sent,
            told.tcp_established,
            told.tcp_fins_seen,
            told.tcp_reset_seen,
            told.udp,
            told.icmp,
            told.generic,
        ]
        .map(|timeout| timeout.map(|timeout| timeout.as_secs()))
    };
    let list = "CreationGracePeriod=10s,TCPSynSent=20s, TCPEstablished=1h,TCPFinsSeen=Auto,TCPResetSeen=40s,UDPTimeout=60s,GenericTimeout=10m,ICMPTimeout=5s";
    let all = [Some(20), Some(3600), None, Some(40), Some(60), Some(5), Some(600)];
    assert_eq!(seconds(json!(list)), all);
    let map = json!({"tcpSynSent": "20s", "tcpEstablished": "1h", "tcpFinsSeen": "Auto", "tcpResetSeen": "40s",
        "udpTimeout": "60s", "genericTimeout": "10m", "icmpTimeout": "5s"});
    assert_eq!(seconds(map), all);
    assert_eq!(seconds(json!({"udpTimeout": "-1s", "icmpTimeout": 5})), [None; 7]);
}

#[test]
fn a_pod_may_ask_for_other_sources() {
    let pod = |annotation: &str| {
        pod_endpoint(&from(json!({
            "metadata": {"name": "p", "namespace": "x", "annotations": {"cni.projectcalico.org/allowedSourcePrefixes": annotation}},
            "spec": {"nodeName": "n", "containers": []},
        })))
        .unwrap()
        .other_sources
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
    };
    assert_eq!(pod(r#"["10.9.0.0/16", "10.8.0.1", "x"]"#), ["10.9.0.0/16", "10.8.0.1/32"]);
    assert_eq!(pod("nonsense"), Vec::<String>::new());
}

#[test]
fn a_pod_may_say_what_its_port_is() {
    let pod = |annotation: &str| {
        let pod = pod_endpoint(&from(json!({
            "metadata": {"name": "p", "namespace": "x", "annotations": {"projectcaracal.org/podPort": annotation}},
            "spec": {"nodeName": "n", "containers": []},
        })))
        .unwrap();
        (pod.port, pod.dropped_limits.len())
    };
    assert_eq!(pod("packet"), (PodPort::Packet, 0));
    assert_eq!(pod("af_xdp"), (PodPort::AfXdp, 0));
    assert_eq!(pod("auto"), (PodPort::Auto, 0));
    assert_eq!(pod("Packet"), (PodPort::Auto, 1));
}
