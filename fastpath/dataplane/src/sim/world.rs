//! One small node to send packets through: what tests, benchmarks and fuzz targets start from.
//!
//! ```text
//!   a 10.244.1.2 ┐                                                   ┌ node2 192.0.2.12, tunnel 10.244.2.0/24 (VXLAN)
//!   b 10.244.1.3 ┼─ node1 192.0.2.11, tunnel 10.244.1.0 ── uplink ──┼ node3 192.0.2.13, 10.244.3.0/24 (no tunnel)
//!   c 10.244.1.4 ┘    host: caracal0, caracal1                       └ gateway 192.0.2.254 ── everything else
//! ```
//!
//! Pods have IPv6 addresses, too: fd00:10:244:1::2 beside 10.244.1.2. The fabric has 2001:db8::/64; node2 is reached by
//! IPIP for 10.244.4.0/24, and by VXLAN over IPv6 for 10.244.6.0/24 and fd00:10:244:6::/64.
//!
//! Every pod may talk to everybody; tests that are about policy say otherwise by one more transaction.

use std::net::{IpAddr, Ipv6Addr};

use caracal_plane_api::plane::{self, Op, op};
use caracal_wire::MacAddr;

use super::{Kernel, Node, PortName, UPLINK_IFINDEX};
use crate::table::{ApplyError, KernelRoute, Prefix};

/// The IPv6 address that goes with an IPv4 address of a pod or a block.
#[must_use]
pub const fn v6([a, b, c, d]: [u8; 4]) -> Ipv6Addr {
    // As people write it: the digits of 10.244.1.2, not their value.
    const fn digits(octet: u8) -> u16 {
        (octet / 100) as u16 * 0x100 + (octet / 10 % 10) as u16 * 0x10 + (octet % 10) as u16
    }
    Ipv6Addr::new(0xfd00, digits(a), digits(b), digits(c), 0, 0, 0, digits(d))
}

/// Somebody outside, by IPv6.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);
/// This node, by IPv6.
pub const NODE1_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);
/// The other node, by IPv6.
pub const NODE2_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x12);
/// The node without a tunnel, by IPv6.
pub const NODE3_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x13);
/// The gateway's address on the fabric, by IPv6.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);

/// Pod `default/a`.
pub const A: [u8; 4] = [10, 244, 1, 2];
/// Pod `default/b`.
pub const B: [u8; 4] = [10, 244, 1, 3];
/// Pod `default/c`.
pub const C: [u8; 4] = [10, 244, 1, 4];
/// An address of our block that nobody has.
pub const NOBODY: [u8; 4] = [10, 244, 1, 99];
/// A pod on node2, behind its tunnel.
pub const REMOTE: [u8; 4] = [10, 244, 2, 7];
/// A pod on node3, which is reached without a tunnel.
pub const PLAIN_REMOTE: [u8; 4] = [10, 244, 3, 7];
/// A pod on node2, behind IPIP.
pub const IPIP_REMOTE: [u8; 4] = [10, 244, 4, 7];
/// A pod on node2, behind VXLAN over IPv6.
pub const VXLAN6_REMOTE: [u8; 4] = [10, 244, 6, 7];
/// Somebody outside.
pub const OUTSIDE: [u8; 4] = [198, 51, 100, 9];
/// This node.
pub const NODE1: [u8; 4] = [192, 0, 2, 11];
/// This node's end of the tunnels.
pub const TUNNEL1: [u8; 4] = [10, 244, 1, 0];
/// The other node.
pub const NODE2: [u8; 4] = [192, 0, 2, 12];
/// Its end of the tunnels.
pub const TUNNEL2: [u8; 4] = [10, 244, 2, 0];
/// The node without a tunnel.
pub const NODE3: [u8; 4] = [192, 0, 2, 13];
/// The MAC address of this node's tunnel endpoint.
pub const TUNNEL1_MAC: MacAddr = MacAddr([0x66, 1, 1, 1, 1, 1]);
/// The MAC address of the other node's tunnel endpoint.
pub const TUNNEL2_MAC: MacAddr = MacAddr([0x66, 2, 2, 2, 2, 2]);
/// The MAC address of every neighbor on the fabric.
pub const NEIGHBOR_MAC: MacAddr = MacAddr([2, 9, 9, 9, 9, 9]);
/// The network identifier of the tunnels.
pub const VNI: u32 = 4096;
/// VXLAN's port.
pub const VXLAN_PORT: u16 = 4789;
/// The uplink's MTU.
pub const UPLINK_MTU: u16 = 1500;
/// The pods' MTU.
pub const POD_MTU: u16 = 1450;

/// The link of pod `default/<name>`.
#[must_use]
pub fn pod(name: &str) -> PortName {
    PortName::Pod(format!("default/{name}"))
}

/// One operation of the control plane.
#[must_use]
pub fn op(op: op::Op) -> Op {
    Op { op: Some(op) }
}

/// A rule that does `action` to everything.
#[must_use]
pub fn rule(action: plane::Action) -> plane::Rule {
    plane::Rule { action: action.into(), ..Default::default() }
}

/// Pod `default/<name>`, with the profile that allows everything.
#[must_use]
pub fn endpoint(name: &str, address: [u8; 4]) -> plane::Endpoint {
    plane::Endpoint {
        id: format!("default/{name}"),
        interface: format!("cali{name}"),
        addresses: vec![address.to_vec(), v6(address).octets().to_vec()],
        profiles: vec!["kns.default".into()],
        ..Default::default()
    }
}

/// Another node.
#[must_use]
pub fn tunnel(
    node: &str,
    address: [u8; 4],
    address_v6: Ipv6Addr,
    tunnel_address: [u8; 4],
    tunnel_mac: MacAddr,
) -> Op {
    op(op::Op::Tunnel(plane::Tunnel {
        node: node.into(),
        node_address: address.to_vec(),
        node_address_v6: address_v6.octets().to_vec(),
        tunnel_address: tunnel_address.to_vec(),
        tunnel_mac: tunnel_mac.0.to_vec(),
        tunnel_address_v6: v6(tunnel_address).octets().to_vec(),
        tunnel_mac_v6: vtep_v6(tunnel_mac).0.to_vec(),
        ipip_tunnel_address: ipip(tunnel_address).to_vec(),
    }))
}

/// The MAC address of the IPv6 end that goes with that of an IPv4 end.
#[must_use]
pub const fn vtep_v6(MacAddr([a, b, c, d, e, _]): MacAddr) -> MacAddr {
    MacAddr([a, b, c, d, e, 6])
}

/// The address of the end of IPIP that goes with a VXLAN tunnel address.
#[must_use]
pub const fn ipip([a, b, c, d]: [u8; 4]) -> [u8; 4] {
    [a, b, c, d + 1]
}

/// A route.
#[must_use]
pub fn route(prefix: [u8; 4], length: u32, target: plane::route::Target) -> Op {
    op(op::Op::Route(plane::Route {
        prefix: Some(plane::Prefix { address: prefix.to_vec(), length }),
        target: Some(target),
    }))
}

/// The route that goes with [`route`]'s: to the same target, for the IPv6 prefix of this length.
#[must_use]
pub fn route6(prefix: [u8; 4], length: u32, target: plane::route::Target) -> Op {
    op(op::Op::Route(plane::Route {
        prefix: Some(plane::Prefix { address: v6(prefix).octets().to_vec(), length }),
        target: Some(target),
    }))
}

/// A route to another node.
#[must_use]
pub fn route_to_node(prefix: [u8; 4], length: u32, node: &str, encapsulation: plane::Encapsulation) -> Op {
    route(prefix, length, to_node(node, encapsulation))
}

/// What a route to another node is to.
#[must_use]
pub fn to_node(node: &str, encapsulation: plane::Encapsulation) -> plane::route::Target {
    plane::route::Target::Remote(plane::RemoteNode {
        node: node.into(),
        encapsulation: encapsulation.into(),
        over_ipv6: false,
    })
}

/// What the control plane says.
#[must_use]
pub fn ops() -> Vec<Op> {
    let config = plane::NodeConfig {
        node: "node1".into(),
        address: NODE1.to_vec(),
        tunnel_address: TUNNEL1.to_vec(),
        tunnel_mac: TUNNEL1_MAC.0.to_vec(),
        address_v6: NODE1_6.octets().to_vec(),
        tunnel_address_v6: v6(TUNNEL1).octets().to_vec(),
        tunnel_mac_v6: vtep_v6(TUNNEL1_MAC).0.to_vec(),
        ipip_tunnel_address: ipip(TUNNEL1).to_vec(),
        vni: VNI,
        vxlan_port: u32::from(VXLAN_PORT),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        ..plane::NodeConfig::default()
    };
    let over_ipv6 = || {
        plane::route::Target::Remote(plane::RemoteNode {
            node: "node2".into(),
            encapsulation: plane::Encapsulation::Vxlan.into(),
            over_ipv6: true,
        })
    };
    let allow = rule(plane::Action::Allow);
    let profile =
        plane::Profile { name: "kns.default".into(), ingress: vec![allow.clone()], egress: vec![allow] };
    vec![
        op(op::Op::NodeConfig(config)),
        op(op::Op::Profile(profile)),
        tunnel("node2", NODE2, NODE2_6, TUNNEL2, TUNNEL2_MAC),
        tunnel("node3", NODE3, NODE3_6, [10, 244, 3, 0], MacAddr([0x66, 3, 3, 3, 3, 3])),
        route_to_node(TUNNEL2, 24, "node2", plane::Encapsulation::Vxlan),
        route_to_node([10, 244, 3, 0], 24, "node3", plane::Encapsulation::None),
        route_to_node([10, 244, 4, 0], 24, "node2", plane::Encapsulation::Ipip),
        route([10, 244, 6, 0], 24, over_ipv6()),
        route6([10, 244, 6, 0], 64, over_ipv6()),
        route(TUNNEL1, 24, plane::route::Target::LocalBlock(plane::LocalBlock {})),
        route(TUNNEL1, 32, plane::route::Target::LocalHost(plane::LocalHost {})),
        route6(TUNNEL2, 64, to_node("node2", plane::Encapsulation::Vxlan)),
        route6([10, 244, 3, 0], 64, to_node("node3", plane::Encapsulation::None)),
        route6(TUNNEL1, 64, plane::route::Target::LocalBlock(plane::LocalBlock {})),
        op(op::Op::Endpoint(endpoint("a", A))),
        op(op::Op::Endpoint(endpoint("b", B))),
        op(op::Op::Endpoint(endpoint("c", C))),
    ]
}

/// What the kernel says.
#[must_use]
pub fn kernel() -> Kernel {
    let route = |prefix, length, gateway| KernelRoute {
        prefix: Prefix::new(prefix, length),
        ifindex: UPLINK_IFINDEX,
        gateway,
        mtu: UPLINK_MTU,
        source: None,
    };
    let everywhere = Ipv6Addr::UNSPECIFIED;
    Kernel {
        routes: vec![
            route(IpAddr::from([192, 0, 2, 0]), 24, None),
            route(IpAddr::from([0, 0, 0, 0]), 0, Some(IpAddr::from([192, 0, 2, 254]))),
            route(IpAddr::V6(NODE1_6), 64, None),
            route(IpAddr::V6(everywhere), 0, Some(IpAddr::V6(GATEWAY6))),
        ],
        addresses: vec![IpAddr::from(NODE1), IpAddr::V6(NODE1_6)],
        neighbor_mac: NEIGHBOR_MAC,
        uplink_mtu: UPLINK_MTU,
        pod_mtu: POD_MTU,
    }
}

/// The node.
///
/// # Errors
/// None, unless the operations of this module do not fit together.
pub fn node(flows: usize, frames: u32) -> Result<Node, ApplyError> {
    Node::new(&ops(), kernel(), flows, frames)
}
