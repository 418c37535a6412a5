use caracal_calc::{Demand, Mtu};
use caracal_plane_api::{
    Encapsulation, Endpoint, Frontend, LocalBlock, LocalHost, NatOutgoing, NodeConfig, NodePorts, Op,
    PortRange, Prefix, RemoteNode, Route as PlaneRoute, Service, Tunnel, op, route,
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
    by(node, Encapsulation::Vxlan)
}

fn by(node: &str, encapsulation: Encapsulation) -> route::Target {
    let encapsulation = encapsulation.into();
    route::Target::Remote(RemoteNode { node: node.into(), encapsulation, over_ipv6: false })
}

fn service(id: &str, frontends: &[&str]) -> Op {
    let frontend = |address: &&str| Frontend {
        address: if address.is_empty() { Vec::new() } else { bytes(address) },
        port: 80,
        ..Frontend::default()
    };
    let frontends = frontends.iter().map(frontend).collect();
    Op { op: Some(op::Op::Service(Service { id: id.into(), frontends, ..Service::default() })) }
}

fn desired(inputs: &Inputs, mtu: u32) -> KernelState {
    let held = ["192.0.2.11", "2001:db8::11"].map(|address| address.parse().unwrap()).into();
    KernelState::desired(inputs, &Surroundings { mtu, held })
}

/// The ways of this table to `destination`, in their order.
fn ways(state: &KernelState, table: u32, destination: &str) -> Vec<String> {
    let routes = state.routes.iter().filter(|r| r.table == table && r.destination == cidr(destination));
    routes.map(|r| r.via.to_string()).collect()
}

fn endpoint(id: &str, address: &str) -> Op {
    let endpoint = Endpoint { id: id.into(), addresses: vec![bytes(address)], ..Endpoint::default() };
    Op { op: Some(op::Op::Endpoint(endpoint)) }
}

fn config() -> NodeConfig {
    NodeConfig {
        node: "node1".into(),
        address: bytes("192.0.2.11"),
        tunnel_address: bytes("10.244.1.0"),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        ..NodeConfig::default()
    }
}

fn node_of(config: NodeConfig) -> Op {
    Op { op: Some(op::Op::NodeConfig(config)) }
}

fn node() -> Op {
    node_of(config())
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    inputs.mtu = Mtu { interfaces: "^uplink".into(), demands: vec![Demand::Room(50)] };
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
            Change::ReservePorts(ports) => state.reserved_ports = ports,
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
    let state = desired(&inputs(), 1500);
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
    let with = destinations(&desired(&inputs, 1500));
    assert!(with.contains("10.244.2.9/32") && with.contains("10.99.0.1/32"), "{with:?}");
    assert!(!with.contains("10.244.1.2/32"));
    inputs.apply(&[Op { op: Some(op::Op::EndpointRemove("default/borrower".into())) }]);
    assert!(!destinations(&desired(&inputs, 1500)).contains("10.244.2.9/32"));
}

#[test]
fn nothing_is_wanted_of_the_kernel_before_the_node_is_known() {
    let mut inputs = Inputs::default();
    inputs.apply(&[route("10.244.2.0/24", remote("node2")), node_of(NodeConfig::default())]);
    assert_eq!(desired(&inputs, 1500), KernelState::default());
}

#[test]
fn ipv6_blocks_get_rules_and_routes_of_their_own() {
    let mut inputs = inputs();
    inputs.apply(&[route("fd00:2::/64", remote("node2"))]);
    let state = desired(&inputs, 1500);
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
fn the_host_speaks_with_the_address_that_the_other_end_can_answer() {
    let mut inputs = Inputs::default();
    let dual = NodeConfig {
        address_v6: bytes("2001:db8::11"),
        tunnel_address_v6: bytes("fd00:1::"),
        ipip_tunnel_address: bytes("10.244.1.1"),
        ..config()
    };
    inputs.apply(&[
        node_of(dual.clone()),
        route("10.244.2.0/24", remote("node2")),
        route("fd00:2::/64", remote("node2")),
        route("10.245.2.0/24", by("node2", Encapsulation::Ipip)),
        route("10.246.2.0/24", by("node2", Encapsulation::None)),
        route("fd01:2::/64", by("node2", Encapsulation::None)),
        route("10.244.1.0/24", route::Target::LocalBlock(LocalBlock {})),
    ]);
    let source =
        |inputs: &Inputs, destination: &str| ways(&desired(inputs, 1500), TABLE, destination).remove(0);
    for (destination, from) in [
        ("10.244.2.0/24", " src 10.244.1.0"),
        ("fd00:2::/64", " src fd00:1::"),
        ("10.245.2.0/24", " src 10.244.1.1"),
        ("10.246.2.0/24", " src 192.0.2.11"),
        ("fd01:2::/64", " src 2001:db8::11"),
        ("10.244.1.0/24", " src 10.244.1.0"),
    ] {
        assert_eq!(source(&inputs, destination), format!("dev caracal0{from}"), "{destination}");
        assert_eq!(ways(&desired(&inputs, 1500), MAIN, destination), ["dev caracal1", "blackhole"]);
    }
    let addresses = desired(&inputs, 1500).addresses;
    let on_port = |text| ("caracal0".to_owned(), cidr(text));
    assert_eq!(addresses, ["10.244.1.0/32", "10.244.1.1/32", "fd00:1::/128"].map(on_port).into());
    assert_eq!(desired(&inputs, 1500).rules.len(), 2);
    // An address that no interface holds is no source: the kernel would refuse the route.
    inputs.apply(&[node_of(NodeConfig { address: bytes("192.0.2.99"), ..dual })]);
    assert_eq!(source(&inputs, "10.246.2.0/24"), "dev caracal0");
}

#[test]
fn the_host_reaches_services_by_the_host_port_unless_a_kube_proxy_sees_to_them() {
    let mut inputs = inputs();
    let config = NodeConfig { node_ports: Some(NodePorts::default()), ..config() };
    let tunnel = Tunnel { node: "node2".into(), node_address: bytes("192.0.2.12"), ..Tunnel::default() };
    inputs.apply(&[
        node_of(config.clone()),
        Op { op: Some(op::Op::Tunnel(tunnel)) },
        service("x/dns:53", &["10.96.0.10", "fd00:96::a", ""]),
        service("x/web:80", &["10.96.0.11", "203.0.113.80", "192.0.2.11", "192.0.2.12"]),
    ]);
    let state = desired(&inputs, 1500);
    assert_eq!(ways(&state, TABLE, "10.96.0.10/32"), ["dev caracal0 src 192.0.2.11"]);
    assert_eq!(ways(&state, TABLE, "fd00:96::a/128"), ["dev caracal0"]);
    assert_eq!(ways(&state, TABLE, "203.0.113.80/32").len(), 1);
    for address in ["10.96.0.10/32", "203.0.113.80/32", "fd00:96::a/128"] {
        assert_eq!(
            ways(&state, MAIN, address),
            Vec::<String>::new(),
            "what is forwarded comes by the uplink"
        );
    }
    for node in ["192.0.2.11/32", "192.0.2.12/32"] {
        assert_eq!(ways(&state, TABLE, node), Vec::<String>::new(), "a node stays in reach");
    }
    let same = service("x/dns:53", &["10.96.0.10", "fd00:96::a", ""]);
    assert!(!inputs.apply(&[same]), "it is told again with every change of its backends");
    inputs.apply(&[Op { op: Some(op::Op::ServiceRemove("x/dns:53".into())) }]);
    assert_eq!(ways(&desired(&inputs, 1500), TABLE, "10.96.0.10/32"), Vec::<String>::new());
    inputs.apply(&[node_of(NodeConfig { node_ports: None, ..config })]);
    assert_eq!(ways(&desired(&inputs, 1500), TABLE, "10.96.0.11/32"), Vec::<String>::new());
}

#[test]
fn a_node_whose_address_is_in_a_block_is_not_reached_by_way_of_us() {
    let mut inputs = inputs();
    let tunnel = Tunnel { node: "node2".into(), node_address: bytes("10.244.2.77"), ..Tunnel::default() };
    inputs.apply(&[
        Op { op: Some(op::Op::Tunnel(tunnel)) },
        route("10.244.2.77/32", by("node2", Encapsulation::None)),
    ]);
    assert!(!destinations(&desired(&inputs, 1500)).contains("10.244.2.77/32"));
}

#[test]
fn our_ports_are_reserved_and_what_others_reserved_stays_so() {
    let reserved = |config: NodeConfig, before: &str| {
        let mut inputs = inputs();
        inputs.apply(&[node_of(config)]);
        let observed = KernelState { reserved_ports: PortSet::parse(before), ..desired(&inputs, 1500) };
        observed.changes_to(&desired(&inputs, 1500)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let write = |ports: &str| [format!("write \"{ports}\" to /proc/sys/net/ipv4/ip_local_reserved_ports")];
    assert_eq!(reserved(config(), ""), write("20000-29999"));
    assert_eq!(reserved(config(), "8080,30000-32767"), write("8080,20000-32767"));
    assert_eq!(reserved(config(), "1-65535"), Vec::<String>::new());
    let ports = Some(PortRange { first: 40_000, last: 41_000 });
    let nat = Some(NatOutgoing { ports, ..NatOutgoing::default() });
    assert_eq!(reserved(NodeConfig { nat_outgoing: nat, ..config() }, ""), write("40000-41000"));
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
    let wanted = desired(&inputs(), 1500);
    let mut other = inputs();
    other.apply(&[route("10.244.3.0/24", remote("node3"))]);
    let mut messy = desired(&other, 9000);
    messy.rules.push(messy.rules[0].clone());
    messy.rules.push(Rule { priority: 7, ..messy.rules[0].clone() });
    messy.routes.insert(Route {
        table: TABLE,
        destination: cidr("0.0.0.0/0"),
        metric: 0,
        via: Via::Other("via 192.0.2.1".into()),
    });
    messy.addresses.insert(("caracal1".into(), cidr("10.9.9.9/32")));
    for start in [KernelState::default(), messy, wanted.clone()] {
        let changes = start.changes_to(&wanted);
        let end = made(start.clone(), &changes);
        assert_eq!(end, wanted);
        assert_eq!(end.changes_to(&wanted), vec![]);
    }
}

#[test]
fn cleaning_up_is_going_back_to_nothing() {
    let state = desired(&inputs(), 1500);
    let changes = state.changes_to(&KernelState::default());
    let mut end = made(state, &changes);
    end.sysctls.clear();
    end.reserved_ports = PortSet::default();
    assert_eq!(end, KernelState::default());
}

#[test]
fn a_way_is_added_before_another_is_removed() {
    let before = desired(&inputs(), 1500);
    let mut inputs = inputs();
    inputs.apply(&[node_of(NodeConfig { tunnel_address: bytes("10.244.1.77"), ..config() })]);
    let changes = before.changes_to(&desired(&inputs, 1500));
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
