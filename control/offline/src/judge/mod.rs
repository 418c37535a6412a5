//! The production judge: every object goes through the calc graph of every node, what comes out through the production
//! tables, and then real frames through the production pipeline of every node, all in memory.
//!
//! A flow is allowed when every question of its opener arrives unaltered at the other end and the answer comes back
//! unaltered; where a service or natOutgoing translates (`translation.rs`), when it arrives at a backend, from an address
//! that may stand for its sender, and the answer comes back from whom was asked. It is denied when a node dropped a packet
//! of it, and then that node's counters say why. Anything else is an error in what is being judged, and is reported as
//! such: a packet that vanishes uncounted, is altered, or arrives somewhere else.

mod fabric;
pub(crate) mod host;
mod packet;
mod translation;

use std::net::IpAddr;

use caracal_calc::{CalcGraph, Update};
use caracal_dataplane::table::ApplyError;
use caracal_model::case::report::{Observation, Observations, Observed};
use caracal_model::case::{Icmp, Place, World, WorldFlow};
use caracal_plane_api::Op;
use caracal_wire::{Malformed, Protocol};

use fabric::Fabric;
use packet::Talk;
use translation::Heard;

/// Where openers' ports begin when a flow does not name one.
const EPHEMERAL_PORT: u16 = 40_000;

/// Why a world could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A node's tables refused what its calc graph made of the objects.
    #[error("node {node}: its tables refuse what the control plane says: {source}")]
    Tables {
        /// Which.
        node: String,
        /// Why.
        source: ApplyError,
    },
    /// A packet to send could not be written, or one that was sent could not be read.
    #[error("a packet of {flow}: {source}")]
    Packet {
        /// Of which flow.
        flow: String,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// What each node's control plane says to its fastpath.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) ops: Vec<Vec<Op>>,
}

impl Plan {
    /// Runs the objects of `world` through the calc graph of each of its nodes.
    pub(crate) fn new(world: &World) -> Self {
        let ops = world.nodes.iter().map(|node| {
            let mut graph = CalcGraph::new(&node.name);
            for object in &world.objects {
                graph.apply(Update::Upsert(object.clone()));
            }
            graph.flush()
        });
        Self { ops: ops.collect() }
    }
}

/// What becomes of each flow and each host flow of `world`, in their order.
pub fn judge(world: &World) -> Result<Observations, JudgeError> {
    let plan = Plan::new(world);
    Ok(Observations {
        flows: world.flows.iter().map(|flow| observe(world, &plan, flow)).collect::<Result<_, _>>()?,
        host_flows: host::judge(world, &plan)?,
    })
}

/// Where a flow to a service comes out: the place, the client that is seen there, and the address and port.
pub(crate) fn backend(
    world: &World,
    flow: &WorldFlow,
) -> Result<Option<(Place, IpAddr, IpAddr, u16)>, JudgeError> {
    let talk = talk_of(flow);
    let packet = |source| JudgeError::Packet { flow: format!("{} → {}", flow.from, flow.to), source };
    let mut fabric = Fabric::new(world, &Plan::new(world).ops)?;
    let Some(question) = talk.questions().map_err(packet)?.into_iter().next() else { return Ok(None) };
    let asked = fabric.carry(flow.source, question.clone()).map_err(packet)?;
    let heard = translation::heard(world, flow, &talk, 0, &question, &asked).map_err(packet)?;
    Ok(heard
        .ok()
        .map(|Heard { place, talk, .. }| (place, talk.source, talk.destination, talk.destination_port)))
}

fn talk_of(flow: &WorldFlow) -> Talk {
    Talk {
        source: flow.source_address,
        destination: flow.destination_address,
        protocol: Protocol(flow.protocol.0),
        source_port: flow.source_port.unwrap_or(EPHEMERAL_PORT),
        destination_port: flow.destination_port.unwrap_or_default(),
        icmp: flow.icmp.unwrap_or(Icmp { kind: 8, code: 0 }),
    }
}

/// Every flow meets nodes that have seen no packet before it.
pub(crate) fn observe(world: &World, plan: &Plan, flow: &WorldFlow) -> Result<Observation, JudgeError> {
    if let Some(why) = &flow.unsupported {
        return Ok(Observation::new(Observed::Unsupported, why));
    }
    let talk = talk_of(flow);
    let mut fabric = Fabric::new(world, &plan.ops)?;
    let packet = |source| JudgeError::Packet { flow: format!("{} → {}", flow.from, flow.to), source };
    let mut first: Option<Heard> = None;
    for (number, question) in talk.questions().map_err(packet)?.into_iter().enumerate() {
        let asked = fabric.carry(flow.source, question.clone()).map_err(packet)?;
        let heard = match translation::heard(world, flow, &talk, number, &question, &asked).map_err(packet)? {
            Ok(heard) => heard,
            Err(observation) => return Ok(observation),
        };
        if let Some(first) = &first
            && (first.place, first.talk) != (heard.place, heard.talk)
        {
            let why = format!("one connection came out twice: {first}, then {heard}");
            return Ok(Observation::new(Observed::Error, why));
        }
        let expected = packet::answer(&question).map_err(packet)?;
        let answer = packet::answer(&heard.datagram).map_err(packet)?;
        if let (Some(expected), Some(answer)) = (expected, answer) {
            let answered = fabric.carry(heard.place, answer).map_err(packet)?;
            if let Err(observation) = answered.arrived_at(flow.source, &expected, "the answer") {
                return Ok(observation);
            }
        }
        first.get_or_insert(heard);
    }
    let mut why = fabric.what_decided(flow);
    if let Some(heard) = first.filter(|heard| heard.talk != talk) {
        why = format!("{why}; {heard}");
    }
    Ok(Observation::new(Observed::Allow, why))
}
