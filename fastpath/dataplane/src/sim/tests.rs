//! Packets through a whole node.

use super::*;
use crate::table::Prefix;
use caracal_plane_api::plane::{self, op};

fn bytes(address: [u8; 4]) -> Vec<u8> {
    address.to_vec()
}

fn ops() -> Vec<Op> {
    let allow = plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
    let profile = plane::Profile { name: "kns.default".into(), ingress: vec![allow.clone()], egress: vec![allow] };
    let endpoint = |name: &str, last| plane::Endpoint {
        id: format!("default/{name}"),
        interface: format!("cali{name}"),
        addresses: vec![bytes([10, 244, 1, last])],
        profiles: vec!["kns.default".into()],
        ..Default::default()
    };
    [
        op::Op::NodeConfig(plane::NodeConfig {
            node: "node1".into(),
            address: bytes([192, 0, 2, 11]),
            tunnel_address: bytes([10, 244, 1, 0]),
            tunnel_mac: vec![0x66, 1, 1, 1, 1, 1],
            vni: 4096,
            vxlan_port: 4789,
            host_port: "caracal0".into(),
            forward_port: "caracal1".into(),
        }),
        op::Op::Profile(profile),
        op::Op::Tunnel(plane::Tunnel {
            node: "node2".into(),
            node_address: bytes([192, 0, 2, 12]),
            tunnel_address: bytes([10, 244, 2, 0]),
            tunnel_mac: vec![0x66, 2, 2, 2, 2, 2],
        }),
        op::Op::Route(plane::Route {
            prefix: Some(plane::Prefix { address: bytes([10, 244, 2, 0]), length: 24 }),
            target: Some(plane::route::Target::Remote(plane::RemoteNode {
                node: "node2".into(),
                encapsulation: plane::Encapsulation::Vxlan.into(),
            })),
        }),
        op::Op::Endpoint(endpoint("a", 2)),
        op::Op::Endpoint(endpoint("b", 3)),
    ]
    .into_iter()
    .map(|op| Op { op: Some(op) })
    .collect()
}

fn kernel() -> Kernel {
    let route = |prefix: [u8; 4], length, gateway| KernelRoute {
        prefix: Prefix::new(IpAddr::from(prefix), length),
        ifindex: UPLINK_IFINDEX,
        gateway,
        mtu: 1500,
    };
    Kernel {
        routes: vec![
            route([192, 0, 2, 0], 24, None),
            route([0, 0, 0, 0], 0, Some(IpAddr::from([192, 0, 2, 254]))),
        ],
        addresses: vec![IpAddr::from([192, 0, 2, 11])],
        neighbor_mac: MacAddr([2, 9, 9, 9, 9, 9]),
        uplink_mtu: 1500,
        pod_mtu: 1450,
    }
}

#[test]
fn a_tunnels_next_hop_is_known_as_soon_as_the_node_is_told_of_it() {
    let node = Node::new(&ops(), kernel(), 64, 64).unwrap();
    let (_, tunnel) = node.tables().tunnels.iter().next().unwrap();
    let underlay = tunnel.underlay.unwrap();
    assert_eq!(node.tables().neighbors.mac(underlay.neighbor), Some(MacAddr([2, 9, 9, 9, 9, 9])));
}
