//! The production side: objects through the calc graph of every node into its tables, and questions to those.

use caracal_calc::{CalcGraph, Update};
use caracal_dataplane::table::{
    FlowDirection, FlowTuple, HostPacket as TableHostPacket, HostPath as TablePath,
    HostVerdict as TableVerdict, RuleName, TableBuilder, Tables,
};
use caracal_model::case::HostPath;
use caracal_model::object::{Object, ObjectKey};
use caracal_plane_api::Transaction;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::packets::Question;
use super::words::NODES;
use crate::reference::{HostVerdict, Packet};

/// One node: its control plane and its tables.
struct Node {
    graph: CalcGraph,
    builder: TableBuilder,
    tables: Arc<Tables>,
    transactions: u64,
}

/// Every node of a world.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    keys: BTreeSet<ObjectKey>,
}

/// What the tables say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: HostVerdict,
    pub(super) why: String,
}

impl Nodes {
    pub(super) fn new() -> Self {
        let node = |name: &&str| {
            let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
            let tables = builder.build();
            Node { graph: CalcGraph::new(*name), builder, tables, transactions: 0 }
        };
        Self { nodes: NODES.iter().map(node).collect(), keys: BTreeSet::new() }
    }

    /// Makes `objects` all that there are: those that are no more go, all others come or change. In an order of `turn`'s.
    pub(super) fn become_world(&mut self, objects: &[Object], turn: usize) -> Result<(), String> {
        let keys: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
        let gone = self.keys.difference(&keys).cloned().map(Update::Delete);
        let mut updates: Vec<Update> = gone.chain(objects.iter().cloned().map(Update::Upsert)).collect();
        if !updates.is_empty() {
            let middle = turn % updates.len();
            updates.rotate_left(middle);
        }
        self.keys = keys;
        for node in &mut self.nodes {
            for update in &updates {
                node.graph.apply(update.clone());
            }
            node.transactions += 1;
            let transaction = Transaction {
                seq: node.transactions,
                ops: node.graph.flush(),
                in_sync: node.transactions == 1,
            };
            node.builder.apply(&transaction).map_err(|error| format!("the tables refuse: {error}"))?;
            node.tables = node.builder.build();
        }
        Ok(())
    }

    /// What production says; `staged`: what it would say. `None` when there is no such endpoint.
    pub(super) fn answer(&self, question: &Question, staged: bool) -> Option<Answer> {
        match question {
            Question::Pod { namespace, name, is_sender, packet } => {
                let id = format!("{namespace}/{name}");
                self.nodes.iter().find_map(|node| node.pod(&id, *is_sender, packet, staged))
            }
            Question::Host { name, packet } => self.nodes.iter().find_map(|node| {
                let direction = if packet.path == HostPath::ToHost || packet.path == HostPath::ForwardIn {
                    FlowDirection::Ingress
                } else {
                    FlowDirection::Egress
                };
                let asked = TableHostPacket {
                    path: match packet.path {
                        HostPath::ToHost => TablePath::ToHost,
                        HostPath::FromHost => TablePath::FromHost,
                        HostPath::ForwardIn => TablePath::ForwardIn,
                        HostPath::ForwardOut => TablePath::ForwardOut,
                    },
                    flow: tuple(&packet.packet, direction),
                    original: packet.original.map(|(address, port)| (address, port.unwrap_or_default())),
                };
                let judged = node.tables.judge_host(name, &asked)?;
                let verdict = match judged.verdict {
                    TableVerdict::Allow => HostVerdict::Allow,
                    TableVerdict::AllowUntracked => HostVerdict::AllowUntracked,
                    TableVerdict::Deny => HostVerdict::Deny,
                };
                let why = node.builder.rule_name(judged.rule).map(ToString::to_string);
                Some(Answer { verdict, why: why.unwrap_or_default() })
            }),
        }
    }
}

impl Node {
    fn pod(&self, id: &str, is_sender: bool, packet: &Packet, staged: bool) -> Option<Answer> {
        let (_, endpoint) = self.tables.endpoints.iter().find(|(_, endpoint)| &*endpoint.id == id)?;
        let flow = tuple(packet, if is_sender { FlowDirection::Egress } else { FlowDirection::Ingress });
        let (enforced, would_be) = match is_sender {
            true => (endpoint.policy_out, endpoint.staged_out),
            false => (endpoint.policy_in, endpoint.staged_in),
        };
        let list = if staged { would_be.unwrap_or(enforced) } else { enforced };
        let policy = &self.tables.policy;
        let judged = policy.judge(list, policy.class_of(flow.peer_address), &flow);
        let why = self.builder.rule_name(judged.rule).map(RuleName::to_string).unwrap_or_default();
        let verdict = if judged.allow { HostVerdict::Allow } else { HostVerdict::Deny };
        Some(Answer { verdict, why })
    }
}

/// The packet as seen from its destination, or, on the way out, from its source.
pub(super) fn tuple(packet: &Packet, direction: FlowDirection) -> FlowTuple {
    let source = (packet.source, packet.source_port.unwrap_or_default());
    let destination = (packet.destination, packet.destination_port.unwrap_or_default());
    let (local, peer) = match direction {
        FlowDirection::Ingress => (destination, source),
        FlowDirection::Egress => (source, destination),
    };
    FlowTuple {
        protocol: packet.protocol,
        peer_address: peer.0,
        peer_port: peer.1,
        local_address: local.0,
        local_port: local.1,
        icmp: packet.icmp,
        direction,
    }
}
