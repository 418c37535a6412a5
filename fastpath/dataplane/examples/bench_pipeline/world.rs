//! What the control plane tells the node: itself, another node, pods, and policies of mixed shapes.

use std::net::Ipv4Addr;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op as Kind;
use caracal_wire::{MacAddr, Protocol};

pub const PODS: u32 = 100;
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
pub const LOCAL_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
/// Everything behind the other node.
pub const REMOTE_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
pub const REMOTE_BLOCK_LENGTH: u32 = 10;
pub const VNI: u32 = 4096;
pub const VXLAN_PORT: u16 = 4789;
pub const OUR_VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 1]);
pub const THEIR_VTEP: MacAddr = MacAddr([0x66, 0, 0, 0, 0, 2]);

pub fn pod_id(pod: u32) -> String {
    format!("bench/pod{pod}")
}

pub fn pod_address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(LOCAL_BLOCK.to_bits() + 2 + pod)
}

pub fn octets(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

/// The node under test, as VXLAN over IPv4 needs it.
pub fn node_config() -> plane::NodeConfig {
    plane::NodeConfig {
        node: "node1".into(),
        address: octets(NODE),
        tunnel_address: octets(LOCAL_BLOCK),
        tunnel_mac: OUR_VTEP.0.to_vec(),
        vni: VNI,
        vxlan_port: VXLAN_PORT.into(),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        ..Default::default()
    }
}

fn world() -> Vec<Kind> {
    let prefix = |address, length| Some(plane::Prefix { address: octets(address), length });
    let remote = plane::RemoteNode {
        node: "node2".into(),
        encapsulation: plane::Encapsulation::Vxlan.into(),
        over_ipv6: false,
    };
    vec![
        Kind::NodeConfig(node_config()),
        Kind::Tunnel(plane::Tunnel {
            node: "node2".into(),
            node_address: octets(OTHER_NODE),
            tunnel_address: octets(REMOTE_BLOCK),
            tunnel_mac: THEIR_VTEP.0.to_vec(),
            ..plane::Tunnel::default()
        }),
        Kind::Route(plane::Route {
            prefix: prefix(REMOTE_BLOCK, REMOTE_BLOCK_LENGTH),
            target: Some(plane::route::Target::Remote(remote)),
        }),
        Kind::Route(plane::Route {
            prefix: prefix(LOCAL_BLOCK, 24),
            target: Some(plane::route::Target::LocalBlock(plane::LocalBlock {})),
        }),
    ]
}

/// `ops`, the world, and pods that these policies are about.
pub fn with_pods(mut ops: Vec<Kind>, policies: &[plane::PolicyId]) -> Vec<Kind> {
    ops.extend(world());
    ops.extend((0..PODS).map(|pod| endpoint(pod, policies)));
    ops
}

pub fn endpoint(pod: u32, policies: &[plane::PolicyId]) -> Kind {
    let tier = plane::TierBinding {
        tier: "default".into(),
        default_action: plane::Action::Deny.into(),
        policies: policies.to_vec(),
    };
    Kind::Endpoint(plane::Endpoint {
        id: pod_id(pod),
        interface: format!("cali{pod}"),
        addresses: vec![octets(pod_address(pod))],
        ingress: vec![tier],
        ..Default::default()
    })
}

/// Rules in one policy.
pub const RULES_OF_A_POLICY: u32 = 10;

pub fn policy_id(policy: u32) -> plane::PolicyId {
    plane::PolicyId { kind: "NetworkPolicy".into(), namespace: "bench".into(), name: format!("p{policy}") }
}

pub fn policy_ids(rules: u32) -> Vec<plane::PolicyId> {
    (0..rules.div_ceil(RULES_OF_A_POLICY)).map(policy_id).collect()
}

pub fn policy(id: plane::PolicyId, ingress: Vec<plane::Rule>) -> Kind {
    Kind::Policy(plane::Policy { id: Some(id), tier: "default".into(), ingress, egress: vec![] })
}

pub fn rule(protocol: Protocol, all: &[&str], none: &[&str], ports: &[(u16, u16)]) -> plane::Rule {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let ports = ports
        .iter()
        .map(|&(first, last)| plane::PortRange { first: first.into(), last: last.into() })
        .collect();
    plane::Rule {
        action: plane::Action::Allow.into(),
        protocol: protocol.0.into(),
        source: Some(plane::Entity { in_all: names(all), in_none: names(none), ..Default::default() }),
        destination: Some(plane::Entity { ports, ..Default::default() }),
        ..Default::default()
    }
}

pub fn member(bits: u32, length: u32) -> plane::Member {
    let prefix = plane::Prefix { address: bits.to_be_bytes().to_vec(), length };
    plane::Member { prefix: Some(prefix), protocol: 0, port: 0 }
}

/// Where rule `i`'s peers begin: 16 addresses each.
pub fn peers_of(i: u32) -> u32 {
    REMOTE_BLOCK.to_bits() + 0x10_0000 + 16 * i
}

/// IP sets and policies with `rules` rules, of four shapes in turn.
pub fn rule_set(rules: u32) -> Vec<Kind> {
    let set = |id: String, members| Kind::IpSet(plane::IpSet { id, members, hosts: None });
    let mut ops = vec![
        set("cluster".into(), vec![member(REMOTE_BLOCK.to_bits(), REMOTE_BLOCK_LENGTH)]),
        set("banned".into(), vec![member(REMOTE_BLOCK.to_bits() + 0x3f_0000, 24)]),
    ];
    for i in 0..rules {
        let first = peers_of(i);
        let members = match i % 4 {
            2 => vec![member(first, 28)],
            _ => vec![member(first + 1, 32), member(first + 2, 32)],
        };
        ops.push(set(format!("s{i}"), members));
    }
    let shaped = |i: u32| {
        let own = format!("s{i}");
        let port = port_of(i);
        match i % 4 {
            0 => rule(Protocol::UDP, &[&own], &[], &[(port, port)]),
            1 => rule(Protocol::UDP, &[&own], &[], &[(port, port + 1000)]),
            2 => rule(Protocol::UDP, &[&own], &[], &[]),
            _ => rule(Protocol::UDP, &[&own, "cluster"], &["banned"], &[(53, 53), (port, port)]),
        }
    };
    for (i, id) in (0..).zip(policy_ids(rules)) {
        let own = i * RULES_OF_A_POLICY..((i + 1) * RULES_OF_A_POLICY).min(rules);
        ops.push(policy(id, own.map(shaped).collect()));
    }
    ops
}

pub fn port_of(rule: u32) -> u16 {
    1024 + (rule % 40_000) as u16
}

/// A peer and a port that rule `i`, and no other, allows.
pub fn allowed_by(i: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from_bits(peers_of(i) + 1), port_of(i))
}
