//! The small world of [`super::world`] with services, node ports and pools that leave with the node's address.

use std::net::Ipv6Addr;

use caracal_plane_api::plane::{self, Backend, Frontend, Op, Service, op::Op as Kind};

use super::datagram::Socket;
use super::world::{self, A};

/// The services' IPv4 address, inside the cluster.
pub const VIP: [u8; 4] = [10, 96, 0, 10];
/// Their IPv6 address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10);
/// The port that they are asked by.
pub const VIP_PORT: u16 = 80;
/// The port of this node that they are asked by.
pub const NODE_PORT: u16 = 30_080;

/// Somebody who serves over IPv4.
#[must_use]
pub fn backend((address, port): Socket) -> Backend {
    Backend { address: address.to_vec(), port: u32::from(port) }
}

/// Service `default/<name>` of TCP, at [`VIP`], [`VIP6`] and [`NODE_PORT`]. Backends of pods of this node are local ones;
/// each pod serves over IPv6, too.
#[must_use]
pub fn service(name: &str, backends: &[Socket]) -> Service {
    let frontend = |address: &[u8], port, external| Frontend {
        address: address.to_vec(),
        port: u32::from(port),
        external,
        sources: Vec::new(),
    };
    let is_pod = |(address, _): &&Socket| address[..2] == A[..2];
    let over_ipv6 = |(address, port): &Socket| Backend {
        address: world::v6(*address).octets().to_vec(),
        port: u32::from(*port),
    };
    let both = |backends: &[Socket]| -> Vec<Backend> {
        let pods = backends.iter().filter(is_pod).map(over_ipv6);
        backends.iter().copied().map(backend).chain(pods).collect()
    };
    let local: Vec<Socket> = backends.iter().filter(|(address, _)| address[..3] == A[..3]).copied().collect();
    Service {
        id: format!("default/{name}:{VIP_PORT}"),
        protocol: 6,
        frontends: vec![
            frontend(&VIP, VIP_PORT, false),
            frontend(&VIP6.octets(), VIP_PORT, false),
            frontend(&[], NODE_PORT, true),
        ],
        cluster: both(backends),
        local: both(&local),
        ..Service::default()
    }
}

/// What the control plane says: node ports, natOutgoing for all pods, from these ports if any are given, and these
/// services.
#[must_use]
pub fn ops(services: &[Service], ports: Option<(u16, u16)>) -> Vec<Op> {
    let mut ops = world::ops();
    let pool = |address: &[u8], length| plane::Pool {
        prefix: Some(plane::Prefix { address: address.to_vec(), length }),
        nat_outgoing: true,
    };
    for op in &mut ops {
        if let Some(Kind::NodeConfig(config)) = &mut op.op {
            let pods6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0);
            config.nat_outgoing = Some(plane::NatOutgoing {
                pools: vec![pool(&[10, 244, 0, 0], 16), pool(&pods6.octets(), 48)],
                ports: ports.map(|(first, last)| plane::PortRange { first: first.into(), last: last.into() }),
                ..plane::NatOutgoing::default()
            });
            config.node_ports = Some(plane::NodePorts::default());
        }
    }
    ops.extend(services.iter().cloned().map(|service| world::op(Kind::Service(service))));
    ops
}
