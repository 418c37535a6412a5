mod services;
mod wild;

use std::net::IpAddr;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::*;
use crate::table::TunnelIndex;
use crate::table::{ClassId, Deciding, FlowTuple, RuleCount, Tunnel};

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn bytes(address: &str) -> Vec<u8> {
    match ip(address) {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn prefix(prefix: &str) -> plane::Prefix {
    let (address, length) = prefix.split_once('/').unwrap();
    plane::Prefix { address: bytes(address), length: length.parse().unwrap() }
}

fn p(text: &str) -> Prefix {
    Prefix::from_plane(Some(&prefix(text))).unwrap()
}

fn builder() -> TableBuilder {
    TableBuilder::new(2, Box::new(|_, interface| (interface.len() % 2) as u16))
}

fn transaction(ops: Vec<Op>) -> plane::Transaction {
    let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
    plane::Transaction { seq: 1, ops, in_sync: false }
}

fn in_sync(ops: Vec<Op>) -> plane::Transaction {
    plane::Transaction { in_sync: true, ..transaction(ops) }
}

fn pod(id: &str, address: &str) -> Op {
    Op::Endpoint(plane::Endpoint {
        id: id.into(),
        interface: format!("cali-{id}"),
        addresses: vec![bytes(address)],
        profiles: vec!["kns.default".into()],
        ..Default::default()
    })
}

fn profile() -> Op {
    let allow = plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
    Op::Profile(plane::Profile {
        name: "kns.default".into(),
        ingress: vec![allow.clone()],
        egress: vec![allow],
    })
}

fn tunnel(node: &str, address: &str) -> Op {
    Op::Tunnel(plane::Tunnel {
        node: node.into(),
        node_address: bytes(address),
        tunnel_address: bytes("10.244.9.0"),
        tunnel_mac: vec![0x66, 1, 2, 3, 4, 5],
        ..plane::Tunnel::default()
    })
}

fn remote(block: &str, node: &str) -> Op {
    let encapsulation = plane::Encapsulation::Vxlan.into();
    let target = plane::route::Target::Remote(plane::RemoteNode {
        node: node.into(),
        encapsulation,
        over_ipv6: false,
    });
    Op::Route(plane::Route { prefix: Some(prefix(block)), target: Some(target) })
}

fn local_block(block: &str) -> Op {
    let target = plane::route::Target::LocalBlock(plane::LocalBlock {});
    Op::Route(plane::Route { prefix: Some(prefix(block)), target: Some(target) })
}

fn kernel(prefix: &str, gateway: Option<&str>) -> KernelRoute {
    KernelRoute { prefix: p(prefix), ifindex: 2, gateway: gateway.map(ip), mtu: 1500, source: None }
}

fn ids(tables: &Tables) -> Vec<String> {
    tables.endpoints.iter().map(|(_, endpoint)| endpoint.id.to_string()).collect()
}

#[test]
fn a_transaction_that_refers_to_nothing_changes_nothing() {
    let mut builder = builder();
    let refused = builder.apply(&transaction(vec![local_block("10.244.1.0/24"), pod("a/x", "10.244.1.2")]));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "endpoint a/x refers to profile kns.default, which does not exist: send it before, or in the same transaction"
    );
    let tables = builder.build();
    assert_eq!(ids(&tables), Vec::<String>::new());
    assert_eq!(tables.fib.lookup(ip("10.244.1.2")), None);
}

#[test]
fn the_order_of_operations_within_a_transaction_does_not_matter_to_references() {
    let mut builder = builder();
    let ops = vec![
        pod("a/x", "10.244.1.2"),
        remote("10.244.2.0/24", "node2"),
        tunnel("node2", "192.0.2.12"),
        profile(),
    ];
    builder.apply(&transaction(ops)).unwrap();
    let tables = builder.build();
    assert_eq!(ids(&tables), ["a/x"]);
    assert!(matches!(tables.fib.lookup(ip("10.244.2.7")), Some(FibEntry::Tunnel { .. })));
}

#[test]
fn what_is_referred_to_cannot_be_removed_alone() {
    let mut builder = builder();
    builder.apply(&transaction(vec![profile(), pod("a/x", "10.244.1.2")])).unwrap();
    let refused = builder.apply(&transaction(vec![Op::ProfileRemove("kns.default".into())]));
    let reason = refused.unwrap_err().to_string();
    assert!(
        reason.starts_with("profile kns.default cannot be removed: endpoint a/x refers to it"),
        "{reason}"
    );
    let both = vec![Op::ProfileRemove("kns.default".into()), Op::EndpointRemove("a/x".into())];
    builder.apply(&transaction(both)).unwrap();
    assert_eq!(ids(&builder.build()), Vec::<String>::new());
}

#[test]
fn a_malformed_operation_is_named_with_its_place_and_object() {
    let mut builder = builder();
    let mut bad = plane::Endpoint { id: "a/x".into(), ..Default::default() };
    bad.addresses.push(vec![1, 2, 3]);
    let refused = builder.apply(&transaction(vec![profile(), Op::Endpoint(bad)]));
    let reason = refused.unwrap_err().to_string();
    assert_eq!(reason, "operation 1: endpoint a/x: an address has 4 or 16 bytes, not 3");
}

#[test]
fn a_resynchronisation_removes_at_its_end_what_it_has_not_named() {
    let mut builder = builder();
    let all =
        vec![profile(), pod("a/x", "10.244.1.2"), pod("a/y", "10.244.1.3"), local_block("10.244.1.0/24")];
    builder.apply(&in_sync(all)).unwrap();
    assert!(builder.in_sync());
    let kept_index = builder.build().endpoints.iter().find(|(_, e)| &*e.id == "a/x").unwrap().0;

    builder.begin_resync();
    assert!(!builder.in_sync());
    builder.apply(&transaction(vec![profile()])).unwrap();
    assert_eq!(ids(&builder.build()), ["a/x", "a/y"], "nothing goes before the end");
    builder.apply(&in_sync(vec![pod("a/x", "10.244.1.2"), pod("a/z", "10.244.1.4")])).unwrap();
    let tables = builder.build();
    assert_eq!(ids(&tables), ["a/x", "a/z"]);
    assert_eq!(tables.fib.lookup(ip("10.244.1.9")), None, "the block was not named");
    assert_eq!(tables.endpoints.get(kept_index).map(|e| &*e.id), Some("a/x"), "what stays keeps its index");

    builder.apply(&in_sync(vec![])).unwrap();
    assert_eq!(ids(&builder.build()).len(), 2, "in_sync outside a resynchronisation removes nothing");
}

#[test]
fn a_refused_transaction_names_nothing_for_the_resynchronisation() {
    let mut builder = builder();
    builder.apply(&in_sync(vec![profile(), pod("a/x", "10.244.1.2")])).unwrap();
    builder.begin_resync();
    let refused = transaction(vec![profile(), pod("a/x", "10.244.1.2"), remote("10.9.0.0/16", "nowhere")]);
    assert!(builder.apply(&refused).is_err());
    builder.apply(&in_sync(vec![])).unwrap();
    assert_eq!(ids(&builder.build()), Vec::<String>::new());
}

#[test]
fn an_endpoint_that_comes_back_gets_another_index() {
    let mut builder = builder();
    builder.apply(&transaction(vec![profile(), pod("a/x", "10.244.1.2")])).unwrap();
    let (first, _) = builder.build().endpoints.iter().next().map(|(i, e)| (i, e.clone())).unwrap();
    builder.apply(&transaction(vec![Op::EndpointRemove("a/x".into())])).unwrap();
    builder.build();
    builder.apply(&transaction(vec![pod("a/x", "10.244.1.2")])).unwrap();
    let tables = builder.build();
    assert!(tables.endpoints.get(first).is_none());
    assert_eq!(tables.endpoints.iter().count(), 1);
}

#[test]
fn an_address_given_to_a_newer_pod_is_the_newer_pods_until_it_goes() {
    let mut builder = builder();
    let entry_of = |tables: &Tables| match tables.fib.lookup(ip("10.244.1.2")) {
        Some(FibEntry::Endpoint(index)) => tables.endpoints.get(*index).map(|e| e.id.to_string()),
        _ => None,
    };
    builder.apply(&transaction(vec![profile(), pod("a/old", "10.244.1.2")])).unwrap();
    builder.build();
    builder.apply(&transaction(vec![pod("a/new", "10.244.1.2")])).unwrap();
    assert_eq!(entry_of(&builder.build()).as_deref(), Some("a/new"));
    builder.apply(&transaction(vec![Op::EndpointRemove("a/old".into())])).unwrap();
    assert_eq!(entry_of(&builder.build()).as_deref(), Some("a/new"));
    builder.apply(&transaction(vec![Op::EndpointRemove("a/new".into())])).unwrap();
    assert_eq!(entry_of(&builder.build()), None);
}

#[test]
fn the_most_specific_route_wins_and_then_endpoint_plane_local_kernel() {
    let mut builder = builder();
    let address = ip("10.244.1.2");
    builder.kernel_routes(&[kernel("0.0.0.0/0", Some("192.0.2.1")), kernel("10.244.1.2/32", None)]);
    let via = |tables: &Tables| {
        matches!(tables.fib.lookup(address), Some(FibEntry::Via { next_hop: NextHop::OnLink, .. }))
    };
    assert!(via(&builder.build()));
    builder.apply(&transaction(vec![profile(), local_block("10.244.1.0/24")])).unwrap();
    assert!(via(&builder.build()), "a longer kernel route beats a plane route");
    builder.local_addresses(&[address]);
    assert_eq!(builder.build().fib.lookup(address), Some(&FibEntry::LocalHost));
    builder.apply(&transaction(vec![local_block("10.244.1.2/32")])).unwrap();
    assert_eq!(builder.build().fib.lookup(address), Some(&FibEntry::Blackhole));
    builder.apply(&transaction(vec![pod("a/x", "10.244.1.2")])).unwrap();
    assert!(matches!(builder.build().fib.lookup(address), Some(FibEntry::Endpoint(_))));

    builder.apply(&transaction(vec![Op::EndpointRemove("a/x".into())])).unwrap();
    builder.apply(&transaction(vec![Op::RouteRemove(prefix("10.244.1.2/32"))])).unwrap();
    assert_eq!(builder.build().fib.lookup(address), Some(&FibEntry::LocalHost));
    builder.local_addresses(&[]);
    assert!(via(&builder.build()));
    builder.kernel_routes(&[kernel("0.0.0.0/0", Some("192.0.2.1"))]);
    let tables = builder.build();
    assert_eq!(tables.fib.lookup(address), Some(&FibEntry::Blackhole), "the block is what is left");
    assert!(matches!(
        tables.fib.lookup(ip("8.8.8.8")),
        Some(FibEntry::Via { next_hop: NextHop::Gateway { .. }, .. })
    ));
    let origins: Vec<String> = builder.routes().map(|(p, _, origin)| format!("{p} {origin}")).collect();
    assert_eq!(origins, ["0.0.0.0/0 kernel", "10.244.1.0/24 plane"]);
}

/// The way to a node over IPv4.
fn underlay(tables: &Tables, index: TunnelIndex) -> Option<Underlay> {
    tables.tunnels.get(index).unwrap().v4.as_ref().unwrap().underlay
}

#[test]
fn a_tunnels_next_hop_follows_the_kernels_routes_and_neighbours() {
    let mut builder = builder();
    builder.apply(&transaction(vec![tunnel("node2", "192.0.2.12")])).unwrap();
    let index = builder.build().tunnels.by_source(ip("192.0.2.12")).unwrap();
    assert_eq!(underlay(&builder.build(), index), None);

    builder.kernel_routes(&[kernel("192.0.2.0/24", None), kernel("0.0.0.0/0", Some("192.0.2.1"))]);
    let tables = builder.build();
    let found = underlay(&tables, index).unwrap();
    assert_eq!((found.ifindex, found.next_hop, found.mtu), (2, ip("192.0.2.12"), 1500));
    assert_eq!(tables.neighbors.mac(found.neighbor), None);
    let wanted: Vec<_> = builder.wanted_neighbors().into_iter().collect();
    assert_eq!(wanted, [(2, ip("192.0.2.1")), (2, ip("192.0.2.12"))]);
    assert_eq!(builder.unresolved_neighbors(), 2);

    let mac = MacAddr([2, 0, 0, 0, 0, 12]);
    builder.set_neighbor(2, ip("192.0.2.12"), Some(mac));
    let resolved = builder.build();
    assert_eq!(resolved.neighbors.mac(found.neighbor), Some(mac));
    assert_eq!(tables.neighbors.mac(found.neighbor), None, "the former tables are as they were");
    assert_eq!(builder.unresolved_neighbors(), 1);

    builder.kernel_routes(&[kernel("0.0.0.0/0", Some("192.0.2.1"))]);
    let found = underlay(&builder.build(), index).unwrap();
    assert_eq!(found.next_hop, ip("192.0.2.1"));
    assert_eq!(builder.build().neighbors.find(2, ip("192.0.2.1")), Some(found.neighbor));
}

#[test]
fn a_node_replaced_under_a_new_name_keeps_its_address_known() {
    let mut builder = builder();
    builder.apply(&transaction(vec![tunnel("old", "192.0.2.12"), tunnel("new", "192.0.2.12")])).unwrap();
    let name = |tables: &Tables| {
        let index = tables.tunnels.by_source(ip("192.0.2.12"));
        index.and_then(|index| tables.tunnels.get(index)).map(|tunnel| tunnel.node.to_string())
    };
    builder.apply(&transaction(vec![Op::TunnelRemove("old".into())])).unwrap();
    assert_eq!(name(&builder.build()).as_deref(), Some("new"));
    builder.apply(&transaction(vec![tunnel("new", "192.0.2.13")])).unwrap();
    let tables = builder.build();
    assert_eq!(name(&tables), None);
    assert!(tables.tunnels.by_source(ip("192.0.2.13")).is_some());
    builder.apply(&transaction(vec![Op::TunnelRemove("new".into())])).unwrap();
    assert_eq!(builder.build().tunnels.by_source(ip("192.0.2.13")), None);
}

#[test]
fn a_node_is_known_by_its_addresses_of_both_families_and_reached_by_each() {
    let mut builder = builder();
    builder.kernel_routes(&[kernel("192.0.2.0/24", None), kernel("2001:db8::/64", Some("2001:db8::fe"))]);
    let both = plane::Tunnel {
        node: "node2".into(),
        node_address: bytes("192.0.2.12"),
        node_address_v6: bytes("2001:db8::12"),
        tunnel_address_v6: bytes("fd00::9"),
        tunnel_mac_v6: vec![0x66, 6, 6, 6, 6, 6],
        ipip_tunnel_address: bytes("10.244.9.1"),
        ..plane::Tunnel::default()
    };
    builder.apply(&transaction(vec![Op::Tunnel(both.clone())])).unwrap();
    let tables = builder.build();
    let index = tables.tunnels.by_source(ip("192.0.2.12")).unwrap();
    assert_eq!(tables.tunnels.by_source(ip("2001:db8::12")), Some(index));
    let Tunnel { v4: Some(v4), v6: Some(v6), .. } = tables.tunnels.get(index).unwrap() else { panic!() };
    assert_eq!((v4.vtep, v4.underlay.unwrap().next_hop), (None, ip("192.0.2.12")));
    assert_eq!((v6.vtep.unwrap().mac.0[1], v6.underlay.unwrap().next_hop), (6, ip("2001:db8::fe")));
    assert!(builder.wanted_neighbors().contains(&(2, ip("2001:db8::fe"))));

    let only_v6 = plane::Tunnel { node_address: Vec::new(), ..both };
    builder.apply(&transaction(vec![Op::Tunnel(only_v6.clone())])).unwrap();
    let tables = builder.build();
    assert_eq!(tables.tunnels.by_source(ip("192.0.2.12")), None);
    assert_eq!(tables.tunnels.by_source(ip("2001:db8::12")), Some(index));
    let nowhere = plane::Tunnel { node_address_v6: Vec::new(), ..only_v6.clone() };
    let refused = builder.apply(&transaction(vec![Op::Tunnel(nowhere)])).unwrap_err();
    assert!(refused.to_string().contains("at least one"), "{refused}");
    let swapped = plane::Tunnel { node_address: bytes("2001:db8::12"), ..only_v6 };
    let refused = builder.apply(&transaction(vec![Op::Tunnel(swapped)])).unwrap_err();
    assert!(refused.to_string().contains("must be an IPv4 address"), "{refused}");
}

#[test]
fn a_nodes_settings_of_translation_timeouts_and_node_ports_are_read_and_checked() {
    let range = |first, last| plane::PortRange { first, last };
    let config = plane::NodeConfig {
        address_v6: bytes("2001:db8::11"),
        tunnel_sources: vec![prefix("203.0.113.0/24")],
        nat_outgoing: Some(plane::NatOutgoing {
            pools: vec![plane::Pool { prefix: Some(prefix("10.244.0.0/16")), nat_outgoing: true }],
            ports: Some(range(40_000, 49_999)),
            ..Default::default()
        }),
        flow_timeouts: Some(plane::FlowTimeouts { udp: 5, generic: u64::MAX, ..Default::default() }),
        node_ports: Some(plane::NodePorts { ranges: vec![range(30_000, 32_767)], addresses: vec![] }),
        ..plane::NodeConfig::default()
    };
    let mut builder = builder();
    builder.apply(&transaction(vec![Op::NodeConfig(config.clone())])).unwrap();
    let tables = builder.build();
    let node = tables.node.config().unwrap();
    assert_eq!(node.addresses().collect::<Vec<_>>(), [ip("2001:db8::11")]);
    assert_eq!(*node.tunnel_sources, [p("203.0.113.0/24")]);
    let nat = node.nat_outgoing.as_ref().unwrap();
    assert_eq!(nat.ports, Some(40_000..=49_999));
    assert!(nat.pools[0].prefix == p("10.244.0.0/16") && nat.pools[0].nat_outgoing);
    assert_eq!(*node.node_ports.as_ref().unwrap().ranges, [30_000..=32_767]);
    let timeouts = node.flow_timeouts;
    assert_eq!((timeouts.udp, timeouts.generic, timeouts.tcp_established), (5, u32::MAX, 3_600_000));

    let backwards = Some(plane::NodePorts { ranges: vec![range(2, 1)], addresses: vec![] });
    let bad = plane::NodeConfig { node_ports: backwards, ..config.clone() };
    let refused = builder.apply(&transaction(vec![Op::NodeConfig(bad)])).unwrap_err();
    assert!(refused.to_string().contains("2–1 is empty"), "{refused}");
    let bad = plane::NodeConfig { address_v6: Vec::new(), ..config };
    assert!(builder.apply(&transaction(vec![Op::NodeConfig(bad)])).is_err());
}

#[test]
fn captures_are_pod_addresses_and_local_blocks() {
    let mut builder = builder();
    let ops = vec![
        profile(),
        pod("a/x", "10.244.1.2"),
        local_block("10.244.1.0/24"),
        tunnel("node2", "192.0.2.12"),
        remote("10.244.2.0/24", "node2"),
    ];
    builder.apply(&transaction(ops)).unwrap();
    builder.build();
    assert_eq!(builder.captures().into_iter().collect::<Vec<_>>(), [p("10.244.1.0/24"), p("10.244.1.2/32")]);
}

#[test]
fn an_unrelated_change_keeps_an_endpoints_lists_and_a_rule_that_changes_does_not() {
    let mut builder = builder();
    builder.apply(&transaction(vec![profile(), pod("a/x", "10.244.1.2"), pod("a/y", "10.244.1.3")])).unwrap();
    let lists = |tables: &Tables| {
        let of = |e: &Endpoint| (e.policy_in, e.policy_out);
        tables.endpoints.iter().map(|(_, endpoint)| of(endpoint)).collect::<Vec<_>>()
    };
    let first = lists(&builder.build());
    assert_eq!(first[0], first[1], "the same content is one list");
    assert_ne!(first[0].0, first[0].1, "directions are apart");
    builder.apply(&transaction(vec![profile(), pod("a/z", "10.244.1.4"), pod("a/x", "10.244.1.9")])).unwrap();
    assert_eq!(lists(&builder.build())[..2], first[..]);

    let mut changed = profile();
    if let Op::Profile(profile) = &mut changed {
        profile.ingress[0].protocol = 6;
    }
    builder.apply(&transaction(vec![changed])).unwrap();
    let after = lists(&builder.build());
    assert_ne!(after[0].0, first[0].0);
    assert_eq!(after[0].1, first[0].1, "the other direction has not changed");
}

#[test]
fn a_list_that_is_gone_denies() {
    let mut builder = builder();
    builder.apply(&transaction(vec![profile(), pod("a/x", "10.244.1.2")])).unwrap();
    let list = builder.build().endpoints.iter().next().unwrap().1.policy_in;
    builder.apply(&transaction(vec![Op::EndpointRemove("a/x".into())])).unwrap();
    let flow = FlowTuple {
        protocol: 6,
        peer_address: ip("192.0.2.1"),
        peer_port: 1,
        local_address: ip("10.244.1.2"),
        local_port: 80,
        icmp: None,
        direction: FlowDirection::Ingress,
    };
    let judgement = builder.build().policy.judge(list, ClassId::default(), &flow);
    assert!(!judgement.allow);
    assert_eq!(builder.rule_name(judgement.rule), Some(&RuleName::NoProfileMatch));
}

#[test]
fn every_rule_that_can_decide_has_a_counter_however_many_come_to_be() {
    let mut builder = builder();
    let mut rules = profile();
    for least in [3, 500] {
        builder.apply(&transaction(vec![rules.clone(), pod("a/x", "10.244.1.2")])).unwrap();
        let tables = builder.build();
        let there: Vec<RuleId> = builder.rules().map(|(rule, _)| rule).collect();
        assert!(there.len() >= least, "all of the profile's, and that nothing matched");
        for rule in there {
            let before = tables.policy.counters.read(rule, Deciding::Enforced);
            let count = RuleCount { connections: 1, packets: 1, bytes: 64 };
            tables.policy.counters.bump(1, rule, Deciding::Enforced, count);
            let counted = tables.policy.counters.read(rule, Deciding::Enforced);
            assert_eq!(counted.connections, before.connections + 1, "{rule:?}");
        }
        if let Op::Profile(profile) = &mut rules {
            profile.ingress = vec![profile.ingress[0].clone(); 500];
        }
    }
}
