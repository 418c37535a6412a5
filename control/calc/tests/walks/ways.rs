//! The ways to other nodes: worlds with pools, blocks and nodes of both families, and what they mean, spelled out and
//! read slowly ([`slow`]).

mod slow;

use std::collections::BTreeSet;
use std::net::IpAddr;

use caracal_calc::{CalcGraph, Demand, HostServices, Update};
use caracal_model::cidr::Cidr;
use caracal_model::object::Object;
use caracal_plane_api::route::Target;
use caracal_plane_api::{Encapsulation, NodeConfig, Prefix};
use proptest::prelude::*;
use serde_json::{Value, json};

pub use slow::check;

use crate::expand::{World, ups};
use crate::objects::{calico, node, node_with, object, pod, world};
use crate::random::one_of;
use crate::simulator::Fastpath;
use crate::{NODE, told_at_once};

/// A node with these annotations of Calico's, and blocks.
pub fn node_as(name: &str, annotations: &[(&str, &str)], blocks: &[&str]) -> Object {
    let annotations: Value =
        annotations.iter().map(|(key, value)| (format!("projectcalico.org/{key}"), json!(value))).collect();
    object(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": annotations},
        "spec": {"podCIDRs": blocks},
    }))
}

/// Node `number` with both families and every tunnel.
fn dual(number: u8) -> Object {
    dual_in(number, "24", "64")
}

/// The same, with masks of its own.
fn dual_in(number: u8, mask: &str, mask_v6: &str) -> Object {
    let i = number;
    node_as(
        &format!("node{i}"),
        &[
            ("IPv4Address", &format!("192.0.2.{}/{mask}", 10 + i)),
            ("IPv6Address", &format!("2001:db8::{i}/{mask_v6}")),
            ("IPv4VXLANTunnelAddr", &format!("10.244.{i}.0")),
            ("IPv6VXLANTunnelAddr", &format!("fd00:{i}::")),
            ("IPv4IPIPTunnelAddr", &format!("10.244.{i}.1")),
        ],
        &[&format!("10.244.{i}.0/24"), &format!("fd00:{i}::/64")],
    )
}

/// A pool; `mode` is `vxlan`, `ipip` or neither, and in capitals for different subnets only.
fn pool(name: &str, cidr: &str, mode: &str) -> Object {
    let of = |kind: &str| match mode {
        mode if mode == kind => "Always",
        mode if mode == kind.to_uppercase() => "CrossSubnet",
        _ => "Never",
    };
    let block = if cidr.contains(':') { 122 } else { 26 };
    let spec = json!({"cidr": cidr, "blockSize": block, "vxlanMode": of("vxlan"), "ipipMode": of("ipip"),
        "natOutgoing": name.starts_with("nat"), "disabled": name.ends_with("off")});
    calico("IPPool", name, spec)
}

fn affinity(cidr: &str, node: &str, state: &str) -> Object {
    let name = format!("{node}-{}", cidr.replace(['.', '/', ':'], "-"));
    let spec = json!({"cidr": cidr, "node": node, "state": state, "deleted": false});
    calico("BlockAffinity", &name, spec)
}

/// A block of four addresses of node `owner`, of which `borrower` has the second.
fn borrowed(cidr: &str, owner: &str, borrower: &str) -> Object {
    let spec = json!({
        "cidr": cidr, "affinity": format!("host:{owner}"), "strictAffinity": false, "deleted": false,
        "allocations": [0, 1, null, null], "unallocated": [2, 3],
        "attributes": [{"secondary": {"node": owner}}, {"secondary": {"node": borrower}}],
    });
    calico("IPAMBlock", &cidr.replace(['.', '/', ':'], "-"), spec)
}

/// Named worlds for walks.
pub fn worlds() -> Vec<(&'static str, World)> {
    let pods = || {
        [
            pod("x/a@node1", "", "10.244.1.5"),
            pod("x/b@node2", "", "10.244.2.5"),
            pod("x/c@node3", "", "fd00:3::5"),
        ]
    };
    let dual_stack =
        |pools: Vec<Object>| world([dual(1), dual(2), dual(3)].into_iter().chain(pods()).chain(pools));
    let mode =
        |mode: &str| dual_stack(vec![pool("nat4", "10.244.0.0/16", mode), pool("v6", "fd00::/16", mode)]);
    vec![
        ("dual stack without pools", dual_stack(vec![])),
        ("pools in VXLAN", mode("vxlan")),
        ("pools in VXLAN between subnets", mode("VXLAN")),
        ("pools in IPIP", dual_stack(vec![pool("nat4", "10.244.0.0/16", "ipip")])),
        ("pools in IPIP between subnets", dual_stack(vec![pool("nat4", "10.244.0.0/16", "IPIP")])),
        ("pools in nothing", mode("")),
        (
            "pools in pools, and one that is off",
            dual_stack(vec![
                pool("all", "10.0.0.0/8", "ipip"),
                pool("nat4", "10.244.0.0/16", "vxlan"),
                pool("some-off", "10.244.2.0/26", ""),
            ]),
        ),
        (
            "masks that differ, and a node without",
            world(
                [
                    dual_in(1, "29", "128"),
                    dual_in(2, "24", "64"),
                    node_as("node3", &[("IPv4Address", "192.0.2.13")], &["10.244.3.0/24"]),
                    pool("four", "10.244.0.0/16", "IPIP"),
                    pool("six", "fd00::/16", "VXLAN"),
                ]
                .into_iter()
                .chain(pods()),
            ),
        ),
        (
            "blocks of address management",
            world([
                node(1),
                node(2),
                node_with(3, "10.244.3.0/24", ""),
                affinity("10.244.2.0/26", "node1", "confirmed"),
                affinity("10.244.2.64/26", "node1", "pendingDeletion"),
                affinity("10.244.1.64/26", "node2", "confirmed"),
                borrowed("10.244.1.64/30", "node2", "node1"),
                borrowed("10.244.2.128/30", "node1", "node2"),
                pod("x/a@node1", "", "10.244.1.65"),
                pod("x/b@node2", "", "10.244.1.66"),
                pod("x/c@node2", "", "10.244.1.5"),
            ]),
        ),
        (
            "nodes in a pool of pods",
            world([
                node(1),
                node(2),
                pool("everything", "192.0.0.0/16", "vxlan"),
                affinity("192.0.2.0/26", "node2", "confirmed"),
            ]),
        ),
        (
            "this node over IPv6 only",
            world(
                [
                    node_as(
                        "node1",
                        &[("IPv6Address", "2001:db8::1/64"), ("IPv6VXLANTunnelAddr", "fd00:1::")],
                        &["fd00:1::/64", "10.244.1.0/24"],
                    ),
                    dual(2),
                    dual(3),
                ]
                .into_iter()
                .chain(pods()),
            ),
        ),
    ]
}

/// Random objects that ways depend on.
pub fn object_of_ways() -> BoxedStrategy<Object> {
    let masks = || (one_of(&["24", "30", "32"]), one_of(&["64", "127"]));
    let names = || one_of(&["node1", "node2", "node3"]);
    let small = one_of(&["10.244.1.0/30", "10.244.2.0/30", "10.244.2.4/30", "fd00:1::/126", "192.0.2.12/30"]);
    prop_oneof![
        3 => (1u8..4, masks()).prop_map(|(number, (v4, v6))| dual_in(number, v4, v6)),
        1 => (names(), one_of(&["10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64"]))
            .prop_map(|(name, block)| node_as(name, &[("IPv4Address", "192.0.2.20/24")], &[block])),
        1 => (names(), one_of(&["10.244.1.0/24", "fd00:1::/64"])).prop_map(|(name, block)| node_as(
            name, &[("IPv6Address", "2001:db8::20/64"), ("IPv6VXLANTunnelAddr", "fd00:2::1")], &[block])),
        3 => (one_of(&["one", "nat-two", "three-off"]), one_of(&["10.244.0.0/16", "10.244.2.0/24", "10.0.0.0/8", "192.0.2.0/24"]),
            one_of(&["vxlan", "VXLAN", "ipip", "IPIP", ""])).prop_map(|(name, cidr, mode)| pool(name, cidr, mode)),
        1 => (one_of(&["six", "nat-six"]), one_of(&["fd00::/16", "fd00:1::/64"]), one_of(&["vxlan", "VXLAN", ""]))
            .prop_map(|(name, cidr, mode)| pool(name, cidr, mode)),
        2 => (small.clone(), names(), one_of(&["confirmed", "confirmed", "pending"]))
            .prop_map(|(cidr, node, state)| affinity(cidr, node, state)),
        2 => (small, names(), names()).prop_map(|(cidr, owner, borrower)| borrowed(cidr, owner, borrower)),
        2 => (one_of(&["x/a@node1", "x/a@node2", "x/b@node2", "y/a@node3"]),
            one_of(&["10.244.1.1", "10.244.2.1", "10.244.2.5", "fd00:1::1", "fd00:2::9"]))
            .prop_map(|(place, ip)| pod(place, "", ip)),
    ]
    .boxed()
}

/// How packets get somewhere, as text: `node2 vxlan`, `node2 vxlan6`, `node2 ipip`, `node2`, `block`, `host`, `-`.
fn way(fastpath: &Fastpath, address: &str) -> String {
    let address: IpAddr = address.parse().unwrap();
    let routes = fastpath.routes.values().filter_map(|route| {
        let prefix = cidr(route.prefix.as_ref().unwrap());
        prefix.contains(address).then_some((prefix.length(), route.target.as_ref().unwrap()))
    });
    let Some((_, target)) = routes.max_by_key(|(length, _)| *length) else { return "-".to_owned() };
    match target {
        Target::LocalBlock(_) => "block".to_owned(),
        Target::LocalHost(_) => "host".to_owned(),
        Target::Remote(remote) => {
            let how = match (Encapsulation::try_from(remote.encapsulation).unwrap(), remote.over_ipv6) {
                (Encapsulation::Vxlan, false) => " vxlan",
                (Encapsulation::Vxlan, true) => " vxlan6",
                (Encapsulation::Ipip, false) => " ipip",
                (Encapsulation::None, false) => "",
                (_, true) => unreachable!("IPv6 ends are VXLAN's alone"),
            };
            format!("{}{how}", remote.node)
        }
    }
}

fn cidr(prefix: &Prefix) -> Cidr {
    let address = match prefix.address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&*prefix.address).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&*prefix.address).unwrap()),
    };
    Cidr::new(address, u8::try_from(prefix.length).unwrap()).unwrap()
}

fn judged(objects: impl IntoIterator<Item = Object>) -> Fastpath {
    told_at_once(objects).1
}

#[test]
fn every_named_world_means_what_the_slow_reading_says() {
    for (name, world) in crate::worlds::all() {
        let mut graph = CalcGraph::new(NODE);
        ups(&world).into_iter().for_each(|update| graph.apply(update));
        let mut fastpath = Fastpath::default();
        fastpath.apply(&graph.flush());
        println!("{name}");
        check(&world, &fastpath);
    }
}

#[test]
fn the_mode_of_the_pool_decides_between_neighbours_and_between_subnets() {
    let far = node_as(
        "node3",
        &[("IPv4Address", "198.51.100.13/24"), ("IPv4VXLANTunnelAddr", "10.244.3.0")],
        &["10.244.3.0/24"],
    );
    let ways = |mode: &str| {
        let fastpath = judged([node(1), node(2), far.clone(), pool("p", "10.244.0.0/16", mode)]);
        (way(&fastpath, "10.244.2.5"), way(&fastpath, "10.244.3.5"))
    };
    let both = |near: &str, far: &str| (format!("node2{near}"), format!("node3{far}"));
    assert_eq!(ways("vxlan"), both(" vxlan", " vxlan"));
    assert_eq!(ways("VXLAN"), both("", " vxlan"));
    assert_eq!(ways("ipip"), both(" ipip", " ipip"));
    assert_eq!(ways("IPIP"), both("", " ipip"));
    assert_eq!(ways(""), both("", ""));
    let without = judged([node(1), node(2), far]);
    assert_eq!(way(&without, "10.244.3.5"), "node3 vxlan", "what is in no pool goes by VXLAN");
}

#[test]
fn neighbours_are_whom_this_nodes_own_mask_holds() {
    let at = |name: &str, address: &str| node_as(name, &[("IPv4Address", address)], &["10.244.2.0/24"]);
    let near = |own: &str, other: &str| {
        let own = node_as("node1", &[("IPv4Address", own)], &[]);
        let fastpath = judged([own, at("node2", other), pool("p", "10.244.0.0/16", "IPIP")]);
        way(&fastpath, "10.244.2.5") == "node2"
    };
    assert!(near("192.0.2.11/24", "192.0.2.12/24"));
    assert!(near("192.0.2.11/24", "192.0.2.12"), "the other's mask does not count");
    assert!(!near("192.0.2.11/32", "192.0.2.12/24"));
    assert!(!near("192.0.2.11", "192.0.2.12/24"), "no mask: no neighbours");
    assert!(!near("192.0.2.11/28", "192.0.2.32/24"));
    assert!(near("192.0.2.11/16", "192.0.3.32/24"));
}

#[test]
fn vxlan_needs_the_other_end_and_ipip_only_its_address() {
    let plain = node_with(2, "10.244.2.0/24", "");
    let with =
        |mode: &str| way(&judged([node(1), plain.clone(), pool("p", "10.244.0.0/16", mode)]), "10.244.2.5");
    assert_eq!((with("vxlan"), with("ipip")), ("-".to_owned(), "node2 ipip".to_owned()));
    let nowhere = node_as("node2", &[("IPv4VXLANTunnelAddr", "10.244.2.0")], &["10.244.2.0/24"]);
    let fastpath = judged([node(1), nowhere, pool("p", "10.244.0.0/16", "ipip")]);
    assert_eq!((way(&fastpath, "10.244.2.5"), fastpath.tunnels.len()), ("-".to_owned(), 0));
}

#[test]
fn vxlan_over_ipv6_carries_ipv6_where_both_ends_can_and_ipv4_where_nothing_else_can() {
    let v4_only = node(2);
    let v6_only = |name: &str, i: u8| {
        node_as(
            name,
            &[("IPv6Address", &format!("2001:db8::{i}/64")), ("IPv6VXLANTunnelAddr", &format!("fd00:{i}::"))],
            &[&format!("10.244.{i}.0/24"), &format!("fd00:{i}::/64")],
        )
    };
    let with_v6_pods = || pod("x/p@node2", "", "fd00:2::5");
    let ways = |own: Object, other: Object| {
        let fastpath = judged([own, other, with_v6_pods()]);
        (way(&fastpath, "10.244.2.5"), way(&fastpath, "fd00:2::5"))
    };
    let both = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
    assert_eq!(ways(dual(1), dual(2)), both("node2 vxlan", "node2 vxlan6"));
    assert_eq!(ways(dual(1), v4_only.clone()), both("node2 vxlan", "node2 vxlan"));
    assert_eq!(ways(node(1), dual(2)), both("node2 vxlan", "node2 vxlan"));
    assert_eq!(ways(dual(1), v6_only("node2", 2)), both("node2 vxlan6", "node2 vxlan6"));
    assert_eq!(ways(v6_only("node1", 1), dual(2)), both("node2 vxlan6", "node2 vxlan6"));
    assert_eq!(ways(v6_only("node1", 1), v4_only), both("-", "-"));
    let fastpath = judged([v6_only("node1", 1), dual(2)]);
    let config: NodeConfig = fastpath.config.unwrap();
    assert_eq!((config.address.len(), config.address_v6.len(), config.tunnel_address_v6.len()), (0, 16, 16));
    let tunnel = &fastpath.tunnels["node2"];
    assert_eq!((tunnel.node_address.len(), tunnel.node_address_v6.len()), (4, 16));
    assert_eq!((tunnel.ipip_tunnel_address.clone(), tunnel.tunnel_mac_v6.len()), (vec![10, 244, 2, 1], 6));
    assert_ne!(tunnel.tunnel_mac, tunnel.tunnel_mac_v6);
}

#[test]
fn a_pool_that_changes_its_mode_changes_its_routes_in_one_flush_and_nothing_else() {
    let other = pool("other", "10.245.0.0/16", "vxlan");
    let (mut graph, mut fastpath) = told_at_once([
        dual(1),
        dual(2),
        dual(3),
        pool("p", "10.244.0.0/16", "ipip"),
        other,
        affinity("10.245.2.0/26", "node2", "confirmed"),
    ]);
    let mut change = |update: Update| {
        let before = graph.work().decisions;
        graph.apply(update);
        let ops = graph.flush();
        fastpath.apply(&ops);
        (
            ops.len(),
            graph.work().decisions - before,
            way(&fastpath, "10.244.2.5"),
            way(&fastpath, "10.245.2.5"),
        )
    };
    let ways = |to: &str| (to.to_owned(), "node2 vxlan".to_owned());
    for (mode, to) in [("vxlan", "node2 vxlan"), ("", "node2"), ("IPIP", "node2"), ("ipip", "node2 ipip")] {
        let (ops, decisions, here, there) = change(Update::Upsert(pool("p", "10.244.0.0/16", mode)));
        assert_eq!((here, there), ways(to), "{mode}");
        // Two remote blocks; the tunnel addresses in them go where they go. And whether pods are sent to as they are.
        let expected = match (mode, to) {
            ("vxlan", _) => 2,
            ("IPIP", "node2") => 0,
            _ => 3,
        };
        assert_eq!(ops, expected, "{mode}");
        assert!(decisions <= 10, "{mode}: {decisions}: prefixes of the pool, and no others");
    }
    let gone = Update::Delete(pool("p", "10.244.0.0/16", "").key());
    let (ops, _, here, there) = change(gone);
    assert_eq!((ops, (here, there)), (2, ways("node2 vxlan")));
}

#[test]
fn blocks_are_their_nodes_once_confirmed_and_borrowed_addresses_the_borrowers() {
    let fastpath = judged([
        node(1),
        node(2),
        node(3),
        affinity("10.244.9.0/26", "node2", "confirmed"),
        affinity("10.244.9.64/26", "node3", "pending"),
        affinity("10.244.9.128/26", "node1", "confirmed"),
        borrowed("10.244.9.4/30", "node2", "node3"),
        pod("x/p@node3", "", "10.244.9.9"),
        pod("x/q@node2", "", "10.244.9.10"),
    ]);
    let way = |address: &str| way(&fastpath, address);
    assert_eq!(way("10.244.9.1"), "node2 vxlan");
    assert_eq!(way("10.244.9.5"), "node3 vxlan", "borrowed");
    assert_eq!(way("10.244.9.4"), "node2 vxlan");
    assert_eq!(way("10.244.9.9"), "node3 vxlan", "a pod there, without any word of address management");
    assert_eq!((way("10.244.9.65"), way("10.244.9.129")), ("-".to_owned(), "block".to_owned()));
    let said = fastpath.routes.values().map(|route| cidr(route.prefix.as_ref().unwrap()).to_string());
    let said: BTreeSet<String> = said.filter(|text| text.starts_with("10.244.9.")).collect();
    let expected = ["10.244.9.0/26", "10.244.9.128/26", "10.244.9.5/32", "10.244.9.9/32"];
    assert_eq!(said, expected.map(str::to_owned).into(), "what goes where its block goes is not said");
}

#[test]
fn a_nodes_own_address_is_never_a_pods() {
    let around = affinity("192.0.2.0/26", "node3", "confirmed");
    let fastpath = judged([node(1), node(2), node(3), around.clone()]);
    let way = |address: &str| way(&fastpath, address);
    assert_eq!((way("192.0.2.11"), way("192.0.2.12")), ("host".to_owned(), "node2".to_owned()));
    assert_eq!((way("192.0.2.13"), way("192.0.2.14")), ("node3".to_owned(), "node3 vxlan".to_owned()));
    let without = judged([node(1), node(2), node(3)]);
    assert_eq!(self::way(&without, "192.0.2.12"), "-", "elsewhere the kernel's routes lead there");
}

#[test]
fn what_pools_and_settings_say_of_this_node_is_told() {
    let felix = |spec: Value| calico("FelixConfiguration", "default", spec);
    let config = |objects: Vec<Object>| judged([dual(1)].into_iter().chain(objects)).config.unwrap();
    let plain = config(vec![pool("a", "10.244.0.0/16", "")]);
    assert_eq!((plain.vni, plain.vxlan_port), (4096, 4789));
    assert_eq!((&plain.nat_outgoing, &plain.flow_timeouts), (&None, &None));
    let ports = plain.node_ports.unwrap();
    assert_eq!((ports.ranges[0].first, ports.ranges[0].last, ports.addresses.len()), (30000, 32767, 0));
    assert_eq!(plain.ipip_tunnel_address, [10, 244, 1, 1]);
    let told = config(vec![
        pool("nat", "10.244.0.0/16", "vxlan"),
        pool("b-off", "10.9.0.0/16", ""),
        calico(
            "IPPool",
            "lb",
            json!({"cidr": "10.8.0.0/16", "allowedUses": ["LoadBalancer"], "nodeSelector": "all()"}),
        ),
        felix(json!({"vxlanVNI": 7, "vxlanPort": 8472, "externalNodesList": ["203.0.113.1"],
            "kubeNodePortRanges": ["31000:31010"], "natOutgoingExclusions": "IPPoolsAndHostIPs",
            "natPortRange": "40000:40999", "natOutgoingAddress": "192.0.2.200",
            "bpfConntrackTimeouts": {"udpTimeout": "90s", "tcpFinsSeen": "Auto", "icmpTimeout": "100us"}})),
    ]);
    assert_eq!((told.vni, told.vxlan_port), (7, 8472));
    assert_eq!(cidr(&told.tunnel_sources[0]).to_string(), "203.0.113.1/32");
    let nat = told.nat_outgoing.unwrap();
    let pools: Vec<(String, bool)> = nat
        .pools
        .iter()
        .map(|pool| (cidr(pool.prefix.as_ref().unwrap()).to_string(), pool.nat_outgoing))
        .collect();
    assert_eq!(pools, [("10.9.0.0/16".to_owned(), false), ("10.244.0.0/16".to_owned(), true)]);
    assert!(nat.exclude_hosts);
    assert_eq!((nat.address, nat.ports.unwrap().last), (vec![192, 0, 2, 200], 40999));
    let timeouts = told.flow_timeouts.unwrap();
    assert_eq!((timeouts.udp, timeouts.tcp_fins_seen, timeouts.icmp), (90_000, 0, 1));
    let mut coexisting = CalcGraph::with_host_services(NODE, HostServices::Coexist);
    coexisting.apply(Update::Upsert(dual(1)));
    let mut fastpath = Fastpath::default();
    fastpath.apply(&coexisting.flush());
    assert_eq!(fastpath.config.unwrap().node_ports, None);
}

#[test]
fn a_pod_may_send_from_other_sources_while_the_settings_let_it() {
    let spoofer = || {
        let annotations = json!({"cni.projectcalico.org/allowedSourcePrefixes": "[\"10.9.0.0/16\"]"});
        object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x", "annotations": annotations},
            "spec": {"nodeName": "node1", "containers": [{"name": "c"}]}, "status": {"podIPs": [{"ip": "10.244.1.5"}]},
        }))
    };
    let felix = |text: &str| calico("FelixConfiguration", "default", json!({"workloadSourceSpoofing": text}));
    let (mut graph, mut fastpath) = told_at_once([node(1), spoofer(), pod("x/q@node1", "", "10.244.1.6")]);
    let sources = |fastpath: &Fastpath| -> Vec<String> {
        fastpath.endpoints["x/p"].allowed_sources.iter().map(|prefix| cidr(prefix).to_string()).collect()
    };
    assert!(sources(&fastpath).is_empty());
    graph.apply(Update::Upsert(felix("Any")));
    let ops = graph.flush();
    assert_eq!(ops.len(), 1, "only the endpoint that asks: {ops:?}");
    fastpath.apply(&ops);
    assert_eq!(sources(&fastpath), ["10.9.0.0/16"]);
    graph.apply(Update::Upsert(felix("Disabled")));
    fastpath.apply(&graph.flush());
    assert!(sources(&fastpath).is_empty());
}

#[test]
fn pods_packets_leave_room_for_the_encapsulations_in_use() {
    let felix = |spec: Value| calico("FelixConfiguration", "default", spec);
    let demands = |objects: Vec<Object>| told_at_once([dual(1)].into_iter().chain(objects)).0.mtu().demands;
    let (four, six) = (|mode| pool("four", "10.244.0.0/16", mode), |mode| pool("six", "fd00::/16", mode));
    assert_eq!(demands(vec![]), [Demand::Room(50)], "without pools all is VXLAN");
    assert_eq!(demands(vec![four("")]), []);
    assert_eq!(demands(vec![four("vxlan")]), [Demand::Room(50)]);
    assert_eq!(demands(vec![four("IPIP")]), [Demand::Room(20)]);
    assert_eq!(demands(vec![four("ipip"), six("VXLAN")]), [Demand::Room(70), Demand::Room(20)]);
    assert_eq!(
        demands(vec![four("vxlan"), felix(json!({"vxlanMTU": 1300, "ipipMTU": 1200}))]),
        [Demand::Given(1300)]
    );
    assert_eq!(
        demands(vec![four("vxlan"), felix(json!({"vxlanEnabled": false, "ipipEnabled": true}))]),
        [Demand::Room(20)]
    );
    let v6_only = node_as("node1", &[("IPv6Address", "2001:db8::1/64")], &[]);
    assert_eq!(demands(vec![v6_only, four("vxlan")]), [Demand::Room(70)], "IPv4 over IPv6");
    let mtu = told_at_once([dual(1), felix(json!({"mtuIfacePattern": "^bond"}))]).0.mtu();
    assert_eq!((&*mtu.interfaces, mtu.of_pods(1500), mtu.of_pods(20)), ("^bond", 1450, 0));
}
