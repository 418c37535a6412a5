use caracal_plane_api::{
    Endpoint, LocalBlock, LocalHost, NodeConfig, Op, Prefix, RemoteNode, Route as PlaneRoute, op, route,
};

use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn route(prefix: &str, target: route::Target) -> Op {
    let (address, length) = prefix.split_once('/').unwrap();
    let prefix = Some(Prefix { address: bytes(address), length: length.parse().unwrap() });
    Op { op: Some(op::Op::Route(PlaneRoute { prefix, target: Some(target) })) }
}

fn remote(node: &str) -> route::Target {
    route::Target::Remote(RemoteNode { node: node.into(), encapsulation: 1, over_ipv6: false })
}

fn endpoint(id: &str, address: &str) -> Op {
    let endpoint = Endpoint { id: id.into(), addresses: vec![bytes(address)], ..Endpoint::default() };
    Op { op: Some(op::Op::Endpoint(endpoint)) }
}

fn node() -> Op {
    let config = NodeConfig {
        node: "node1".into(),
        address: bytes("192.0.2.11"),
        tunnel_address: bytes("10.244.1.0"),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        ..NodeConfig::default()
    };
    Op { op: Some(op::Op::NodeConfig(config)) }
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    inputs.apply(&[
        node(),
        route("10.244.1.0/24", route::Target::LocalBlock(LocalBlock {})),
        route("10.244.1.0/32", route::Target::LocalHost(LocalHost {})),
        route("10.244.2.0/24", remote("node2")),
        endpoint("default/web", "10.244.1.2"),
    ]);
    inputs
}

fn destinations(state: &KernelState) -> BTreeSet<String> {
    state.routes.iter().map(|r| r.destination.to_string()).collect()
}

/// What the kernel holds once `changes` have been made.
fn made(mut state: KernelState, changes: &[Change]) -> KernelState {
    for change in changes {
        match change.clone() {
            Change::CreateTap(name) => drop(state.taps.insert(name, Tap { mtu: 1500, up: false, arp: true })),
            Change::SetTap(name, tap) => *state.taps.get_mut(&name).expect("made before it is set") = tap,
            Change::SetSysctl(path, value) => drop(state.sysctls.insert(path, value)),
            Change::AddAddress(name, address) => {
                assert!(state.taps.contains_key(&name));
                state.addresses.insert((name, address));
            }
            Change::AddRoute(route) => {
                if let Via::Device { name, source } = &route.via {
                    let behind = |r: &Route| {
                        (r.table, r.destination, &r.via) == (route.table, route.destination, &Via::Blackhole)
                    };
                    assert!(state.routes.iter().any(behind), "the blackhole comes first");
                    assert!(
                        state.taps.get(name).is_some_and(|t| t.up),
                        "the kernel refuses a route over {name}"
                    );
                    if let Some(source) = source {
                        assert!(
                            state.addresses.iter().any(|(_, a)| a.contains(*source)),
                            "…or from {source}"
                        );
                    }
                }
                state.routes.insert(route);
            }
            Change::AddRule(rule) => state.rules.push(rule),
            Change::RemoveRule(rule) => {
                let at = state.rules.iter().position(|r| *r == rule).unwrap();
                state.rules.remove(at);
            }
            Change::RemoveRoute(route) => assert!(state.routes.remove(&route)),
            Change::RemoveAddress(name, address) => assert!(state.addresses.remove(&(name, address))),
            Change::RemoveTap(name) => drop(state.taps.remove(&name)),
        }
    }
    state
}

#[test]
fn every_block_leads_to_a_host_port_with_a_blackhole_behind() {
    let state = KernelState::desired(&inputs(), Some(1500));
    for destination in ["10.244.1.0/24", "10.244.2.0/24"] {
        let ways: Vec<String> = state
            .routes
            .iter()
            .filter(|r| r.destination == cidr(destination))
            .map(|r| format!("{} {} {}", r.table, r.metric, r.via))
            .collect();
        assert_eq!(
            ways,
            [
                "254 0 dev caracal1",
                "254 1 blackhole",
                "4096 0 dev caracal0 src 10.244.1.0",
                "4096 1 blackhole"
            ]
        );
    }
    assert_eq!(destinations(&state).len(), 2, "the tunnel address is on the host port itself");
    assert_eq!(state.addresses, BTreeSet::from([("caracal0".to_owned(), cidr("10.244.1.0/32"))]));
    assert_eq!(state.taps["caracal0"], Tap { mtu: 1450, up: true, arp: false });
    assert_eq!(
        state.rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["IPv4 rule 90: iif lo lookup 4096"]
    );
}

#[test]
fn only_a_pod_with_an_address_from_elsewhere_gets_a_route_of_its_own() {
    let mut inputs = inputs();
    inputs.apply(&[endpoint("default/borrower", "10.244.2.9"), endpoint("default/stranger", "10.99.0.1")]);
    let with = destinations(&KernelState::desired(&inputs, None));
    assert!(with.contains("10.244.2.9/32") && with.contains("10.99.0.1/32"), "{with:?}");
    assert!(!with.contains("10.244.1.2/32"));
    inputs.apply(&[Op { op: Some(op::Op::EndpointRemove("default/borrower".into())) }]);
    assert!(!destinations(&KernelState::desired(&inputs, None)).contains("10.244.2.9/32"));
}

#[test]
fn nothing_is_wanted_of_the_kernel_before_the_node_is_known() {
    let mut inputs = Inputs::default();
    inputs.apply(&[route("10.244.2.0/24", remote("node2"))]);
    assert_eq!(KernelState::desired(&inputs, Some(1500)), KernelState::default());
}

#[test]
fn ipv6_blocks_get_rules_and_routes_of_their_own() {
    let mut inputs = inputs();
    inputs.apply(&[route("fd00:2::/64", remote("node2"))]);
    let state = KernelState::desired(&inputs, None);
    assert_eq!(state.rules.iter().filter(|r| r.ipv6).count(), 1);
    let metrics: Vec<u32> = state
        .routes
        .iter()
        .filter(|r| !r.destination.is_ipv4() && r.table == MAIN)
        .map(|r| r.metric)
        .collect();
    assert_eq!(metrics, [1, 2], "0 would become 1024, behind the blackhole");
    assert!(state.routes.iter().any(|r| r.via == Via::Device { name: "caracal0".into(), source: None }));
}

#[test]
fn nonsense_addresses_are_left_out() {
    let mut inputs = inputs();
    let before = inputs.clone();
    let prefix = |address: &[u8], length| Some(Prefix { address: address.to_vec(), length });
    for prefix in [prefix(&[1, 2, 3], 8), prefix(&[10, 0, 0, 0], 33), prefix(&[10, 0, 0, 0], 300), None] {
        inputs.apply(&[Op { op: Some(op::Op::Route(PlaneRoute { prefix, target: Some(remote("n")) })) }]);
    }
    inputs.apply(&[Op { op: None }, Op { op: Some(op::Op::NodeConfig(NodeConfig::default())) }]);
    assert_eq!(inputs, before);
}

#[test]
fn the_changes_lead_from_anything_to_what_is_desired_and_then_there_are_none() {
    let desired = KernelState::desired(&inputs(), Some(1500));
    let mut other = inputs();
    other.apply(&[route("10.244.3.0/24", remote("node3"))]);
    let mut messy = KernelState::desired(&other, Some(9000));
    messy.rules.push(messy.rules[0].clone());
    messy.rules.push(Rule { priority: 7, ..messy.rules[0].clone() });
    messy.routes.insert(Route {
        table: TABLE,
        destination: cidr("0.0.0.0/0"),
        metric: 0,
        via: Via::Other("via 192.0.2.1".into()),
    });
    messy.addresses.insert(("caracal1".into(), cidr("10.9.9.9/32")));
    for start in [KernelState::default(), messy, desired.clone()] {
        let changes = start.changes_to(&desired);
        let end = made(start.clone(), &changes);
        assert_eq!(end, desired);
        assert_eq!(end.changes_to(&desired), vec![]);
    }
}

#[test]
fn cleaning_up_is_going_back_to_nothing() {
    let state = KernelState::desired(&inputs(), Some(1500));
    let changes = state.changes_to(&KernelState::default());
    let mut end = made(state, &changes);
    end.sysctls.clear();
    assert_eq!(end, KernelState::default());
}

#[test]
fn a_way_is_added_before_another_is_removed() {
    let before = KernelState::desired(&inputs(), Some(1500));
    let mut inputs = inputs();
    let Some(op::Op::NodeConfig(mut config)) = node().op else { unreachable!() };
    config.tunnel_address = bytes("10.244.1.77");
    inputs.apply(&[Op { op: Some(op::Op::NodeConfig(config)) }]);
    let changes = before.changes_to(&KernelState::desired(&inputs, Some(1500)));
    let first_removal = changes.iter().position(|c| {
        matches!(
            c,
            Change::RemoveRoute(_) | Change::RemoveAddress(..) | Change::RemoveTap(_) | Change::RemoveRule(_)
        )
    });
    let last_addition = changes
        .iter()
        .rposition(|c| matches!(c, Change::AddRoute(_) | Change::AddAddress(..) | Change::AddRule(_)));
    assert!(last_addition < first_removal, "{changes:?}");
}
