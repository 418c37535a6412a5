//! What host endpoints let through: the production tables judge the flow. Its enforcement on real traffic of the host is
//! the kernel's, by the same rules.

use caracal_dataplane::table::{FlowDirection, FlowTuple, HostPacket, HostPath, HostVerdict, TableBuilder};
use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{self, World, WorldHostFlow};
use caracal_plane_api::{Op, Transaction};

use super::{EPHEMERAL_PORT, JudgeError, Plan};

/// What becomes of each host flow of `world`, in their order.
pub(super) fn judge(world: &World, plan: &Plan) -> Result<Vec<Observation>, JudgeError> {
    let mut observations = Vec::with_capacity(world.host_flows.len());
    for flow in &world.host_flows {
        observations.push(match &flow.unsupported {
            Some(why) => Observation::new(Observed::Unsupported, why),
            None => observe(world, plan, flow)?,
        });
    }
    Ok(observations)
}

fn observe(world: &World, plan: &Plan, flow: &WorldHostFlow) -> Result<Observation, JudgeError> {
    let ops = plan.ops.get(flow.node).map(Vec::as_slice).unwrap_or_default();
    let node = world.nodes.get(flow.node).map(|node| node.name.clone()).unwrap_or_default();
    let mut builder = tables(&node, ops)?;
    let tables = builder.build();
    let Some(judgement) = tables.judge_host(&flow.host_endpoint, &packet_of(flow)) else {
        let why = format!("{node}: its tables have no host endpoint {}", flow.host_endpoint);
        return Ok(Observation::new(Observed::Error, why));
    };
    let observed = match judgement.verdict {
        HostVerdict::Allow => Observed::Allow,
        HostVerdict::AllowUntracked => Observed::AllowUntracked,
        HostVerdict::Deny => Observed::Deny,
    };
    let why = builder.rule_name(judgement.rule).map(ToString::to_string).unwrap_or_default();
    Ok(Observation::new(observed, why))
}

/// The tables of a node that has been told `ops`.
pub(crate) fn tables(node: &str, ops: &[Op]) -> Result<TableBuilder, JudgeError> {
    let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
    let transaction = Transaction { seq: 1, ops: ops.to_vec(), in_sync: true };
    builder.apply(&transaction).map_err(|source| JudgeError::Tables { node: node.to_owned(), source })?;
    builder.build();
    Ok(builder)
}

/// The first packet of a flow, as a host endpoint sees it.
pub(crate) fn packet_of(flow: &WorldHostFlow) -> HostPacket {
    let (path, direction) = match flow.path {
        case::HostPath::ToHost => (HostPath::ToHost, FlowDirection::Ingress),
        case::HostPath::ForwardIn => (HostPath::ForwardIn, FlowDirection::Ingress),
        case::HostPath::FromHost => (HostPath::FromHost, FlowDirection::Egress),
        case::HostPath::ForwardOut => (HostPath::ForwardOut, FlowDirection::Egress),
    };
    let ends = Ends {
        source: (flow.source_address, flow.source_port),
        destination: (flow.destination_address, flow.destination_port),
        protocol: flow.protocol,
        icmp: flow.icmp,
    };
    HostPacket { path, flow: ends.as_seen(direction), original: flow.original }
}

/// The first packet of a flow, whoever looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) source: (std::net::IpAddr, Option<u16>),
    pub(crate) destination: (std::net::IpAddr, Option<u16>),
    pub(crate) protocol: caracal_model::protocol::Protocol,
    pub(crate) icmp: Option<case::Icmp>,
}

impl Ends {
    /// The packet as the end sees it whose traffic in `direction` it is.
    pub(crate) fn as_seen(&self, direction: FlowDirection) -> FlowTuple {
        let has_ports = self.protocol.has_ports();
        let port = |port: Option<u16>, default| if has_ports { port.unwrap_or(default) } else { 0 };
        let source = (self.source.0, port(self.source.1, EPHEMERAL_PORT));
        let destination = (self.destination.0, port(self.destination.1, 0));
        let (local, peer) = match direction {
            FlowDirection::Ingress => (destination, source),
            FlowDirection::Egress => (source, destination),
        };
        FlowTuple {
            protocol: self.protocol.0,
            peer_address: peer.0,
            peer_port: peer.1,
            local_address: local.0,
            local_port: local.1,
            icmp: self.icmp.map(|icmp| (icmp.kind, icmp.code)),
            direction,
        }
    }
}
