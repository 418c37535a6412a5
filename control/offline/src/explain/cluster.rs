//! The control planes and tables of the nodes that a question concerns, told of objects one by one.

use std::collections::BTreeMap;

use caracal_calc::{CalcGraph, Update};
use caracal_dataplane::table::{Explanation, FlowDirection, FlowTuple, HostVerdict, RuleName, TableBuilder};
use caracal_model::case::{Place, World, WorldFlow, WorldHostFlow};
use caracal_model::object::Object;
use caracal_plane_api::Transaction;

use super::ExplainError;
use crate::judge::JudgeError;
use crate::judge::host::{Ends, packet_of};

/// The nodes that matter, by their index in the world.
pub(super) struct Cluster {
    nodes: BTreeMap<usize, Node>,
}

struct Node {
    name: String,
    graph: CalcGraph,
    tables: TableBuilder,
    sequence: u64,
}

/// How a flow fares at one end, or at a host endpoint.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    /// `namespace/pod`, or the host endpoint's name.
    pub endpoint: String,
    /// The index of its node.
    pub node: usize,
    /// To or from the endpoint.
    pub direction: FlowDirection,
    /// The packet as the endpoint sees it.
    pub flow: FlowTuple,
    /// What is asked, in order: one walk for a pod, one for each hook of a host endpoint (None: a failsafe port).
    pub hooks: Vec<(Option<&'static str>, Option<Explanation>)>,
    pub allow: bool,
    pub decided: RuleName,
    /// What staged policies would make of it.
    pub staged: Option<Explanation>,
    pub is_host_endpoint: bool,
}

impl Cluster {
    pub fn new(world: &World) -> Result<Self, JudgeError> {
        let mut concerned: Vec<usize> = world.host_flows.iter().map(|flow| flow.node).collect();
        for flow in &world.flows {
            let node_of = |place| match place {
                Place::Pod(pod) => world.pods.get(pod).map(|pod| pod.node),
                Place::Node(_) | Place::Service(_) | Place::External => None,
            };
            concerned.extend(node_of(flow.source));
            concerned.extend(node_of(flow.destination));
        }
        let mut cluster = Self { nodes: BTreeMap::new() };
        for index in concerned {
            if cluster.nodes.contains_key(&index) {
                continue;
            }
            let Some(node) = world.nodes.get(index) else { continue };
            let mut graph = CalcGraph::new(node.name.as_str());
            for object in &world.objects {
                graph.apply(Update::Upsert(object.clone()));
            }
            let tables = TableBuilder::new(1, Box::new(|_, _| 0));
            let mut node = Node { name: node.name.clone(), graph, tables, sequence: 0 };
            node.publish()?;
            cluster.nodes.insert(index, node);
        }
        Ok(cluster)
    }

    /// Tells every node of a change.
    pub fn apply(&mut self, update: &Update) -> Result<(), JudgeError> {
        for node in self.nodes.values_mut() {
            node.graph.apply(update.clone());
            node.publish()?;
        }
        Ok(())
    }

    /// What a set of a node's rules is, in words.
    pub fn describe(&self, node: usize, set: &str) -> Option<String> {
        self.nodes.get(&node)?.graph.describe_set(set)
    }

    /// How the world's one flow fares wherever policy looks at it: the sender's end first.
    pub fn walks(&self, world: &World) -> Result<Vec<Walk>, ExplainError> {
        let mut walks = Vec::new();
        if let Some(flow) = world.flows.first() {
            walks.extend(self.pod_walk(world, flow, FlowDirection::Egress)?);
            walks.extend(self.pod_walk(world, flow, FlowDirection::Ingress)?);
        }
        for flow in &world.host_flows {
            walks.push(self.host_walk(flow)?);
        }
        Ok(walks)
    }

    /// The walk at one end; none where policy does not look: outside, at a host, and at a pod whose own host calls, or that calls itself.
    fn pod_walk(
        &self,
        world: &World,
        flow: &WorldFlow,
        direction: FlowDirection,
    ) -> Result<Option<Walk>, ExplainError> {
        let (here, there) = match direction {
            FlowDirection::Egress => (flow.source, flow.destination),
            FlowDirection::Ingress => (flow.destination, flow.source),
        };
        let Place::Pod(index) = here else { return Ok(None) };
        let Some(pod) = world.pods.get(index) else { return Ok(None) };
        if direction == FlowDirection::Ingress && (there == Place::Node(pod.node) || there == here) {
            return Ok(None);
        }
        let Some(node) = self.nodes.get(&pod.node) else { return Ok(None) };
        let ends = Ends {
            source: (flow.source_address, flow.source_port),
            destination: (flow.destination_address, flow.destination_port),
            protocol: flow.protocol,
            icmp: flow.icmp,
        };
        let tuple = ends.as_seen(direction);
        let endpoint = format!("{}/{}", pod.namespace, pod.name);
        let missing =
            || ExplainError::Question(format!("the tables of {} know no pod {endpoint}", node.name));
        let explanation = node.tables.explain(&endpoint, &tuple, false).ok_or_else(missing)?;
        if let Some(tables) = &explanation.disagreement {
            let explained = explanation.decided.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(ExplainError::Disagreement { explained, tables: tables.to_string() });
        }
        Ok(Some(Walk {
            node: pod.node,
            direction,
            flow: tuple,
            allow: explanation.allow,
            decided: explanation.decided.clone().unwrap_or(RuleName::NoProfileMatch),
            staged: node.tables.explain(&endpoint, &tuple, true),
            hooks: vec![(None, Some(explanation))],
            endpoint,
            is_host_endpoint: false,
        }))
    }

    fn host_walk(&self, flow: &WorldHostFlow) -> Result<Walk, ExplainError> {
        let missing = || ExplainError::Question(format!("there is no host endpoint {}", flow.host_endpoint));
        let node = self.nodes.get(&flow.node).ok_or_else(missing)?;
        let packet = packet_of(flow);
        let explained = node.tables.explain_host(&flow.host_endpoint, &packet).ok_or_else(missing)?;
        let name = |hook| match hook {
            caracal_dataplane::table::Hook::Untracked => "untracked",
            caracal_dataplane::table::Hook::PreDnat => "preDNAT",
            caracal_dataplane::table::Hook::Normal => "normal",
            caracal_dataplane::table::Hook::Forward => "forward",
        };
        Ok(Walk {
            endpoint: flow.host_endpoint.clone(),
            node: flow.node,
            direction: packet.path.direction(),
            flow: packet.flow,
            hooks: explained.hooks.into_iter().map(|(hook, walk)| (Some(name(hook)), walk)).collect(),
            allow: explained.verdict != HostVerdict::Deny,
            decided: explained.decided,
            staged: None,
            is_host_endpoint: true,
        })
    }

    /// Whether the world's flow passes everywhere, or `at` one end, with `object` in place of the one of its name, or added.
    pub fn passes_with(
        &mut self,
        world: &World,
        edited: Object,
        original: Option<&Object>,
        at: Option<&str>,
    ) -> Result<Option<bool>, ExplainError> {
        let key = edited.key();
        // A change that the tables do not take is no change to propose.
        let taken = self.apply(&Update::Upsert(edited)).is_ok();
        let walks = if taken { self.walks(world).ok() } else { None };
        self.apply(&match original {
            Some(original) => Update::Upsert(original.clone()),
            None => Update::Delete(key),
        })?;
        let concerns = |walk: &&Walk| at.is_none_or(|endpoint| walk.endpoint == endpoint);
        Ok(walks.map(|walks| walks.iter().filter(concerns).all(|walk| walk.allow)))
    }
}

impl Node {
    /// Has the tables adopt what the control plane has to say.
    fn publish(&mut self) -> Result<(), JudgeError> {
        self.sequence += 1;
        let transaction = Transaction { seq: self.sequence, ops: self.graph.flush(), in_sync: true };
        let refused = |source| JudgeError::Tables { node: self.name.clone(), source };
        self.tables.apply(&transaction).map_err(refused)?;
        self.tables.build();
        Ok(())
    }
}
