//! What stages work on: up to [`BATCH_MAX`] packets that came in by one port.

use crate::drop_reason::DropReason;
use crate::flow::FlowKey;
use crate::packet::Packet;
use crate::stage::parse::Parsed;
use crate::table::{EndpointIndex, TunnelIndex};
use crate::worker::WorkerIndex;

/// Packets in a batch, at most.
pub const BATCH_MAX: usize = 64;

/// One of the node's uplinks: its place in [`Links`](crate::pipeline::Links).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkIndex(pub u8);

/// How a packet came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// From a local pod, through its veth.
    Endpoint(EndpointIndex),
    /// From the fabric by this uplink, not in a tunnel.
    Uplink(UplinkIndex),
    /// From the fabric, out of another node's tunnel.
    Tunnel(TunnelIndex),
    /// From this host, which originated it (`caracal0`).
    Host,
    /// From this host, which forwards it (`caracal1`).
    Forward,
    /// From this worker itself: an ICMP error or another answer of ours, which starts at the route.
    Ourselves,
}

/// What has been decided about a packet. Progress through the pipeline is this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next stage.
    Continue,
    /// Out.
    Transmit(Egress),
    /// To the worker that owns what comes next.
    HandOver(WorkerIndex, Step),
    /// Nowhere.
    Drop(DropReason),
    /// The frame was not a packet to forward, and has done its work (an ARP reply that was learned from).
    Consumed,
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// To a local pod.
    Endpoint(EndpointIndex),
    /// To the fabric, by this uplink.
    Uplink(UplinkIndex),
    /// To this host, by `caracal0`.
    Host,
    /// To this host, by `caracal1`.
    Forward,
}

/// Where a handed-over packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At the ingress half of an endpoint. `Ingress` is how it came to this node.
    Deliver(EndpointIndex, Ingress, AtNode),
    /// At the node's own translations, of which that worker owns the packet's.
    Node(Ingress),
    /// At a port.
    Transmit(Egress),
}

/// What has become of a packet at the node's own translations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtNode {
    /// Nobody has looked.
    #[default]
    NotAsked,
    /// It is for whom it says, or an answer of whom it says.
    Itself,
    /// It has been rewritten: a pod's answer goes back to the owner.
    Translated,
}

/// A packet with what the stages have found out about it.
#[derive(Debug)]
pub struct Slot {
    /// The packet.
    pub packet: Packet,
    /// Its headers, once parsed.
    pub parsed: Parsed,
    /// How it came here.
    pub ingress: Ingress,
    /// The endpoint that it goes to, once routed, when that is local.
    pub deliver_to: Option<EndpointIndex>,
    /// The key of its flow at the endpoint that is next asked, and …
    pub flow_key: FlowKey,
    /// … its hash, computed a stage before they are used so that the table's lines are on their way.
    pub flow_hash: u64,
    /// Where in the table the flow probably is.
    pub flow_guess: Option<u32>,
    /// What has become of it at the node's own translations.
    pub at_node: AtNode,
    /// The pod that has sent it asked a service: it is on its way with another destination.
    pub translated: bool,
    /// What has been decided.
    pub verdict: Verdict,
}

impl Slot {
    /// A packet that has just come in.
    #[inline]
    #[must_use]
    pub fn new(packet: Packet, ingress: Ingress) -> Self {
        Slot {
            packet,
            parsed: Parsed::default(),
            ingress,
            deliver_to: None,
            flow_key: FlowKey::default(),
            flow_hash: 0,
            flow_guess: None,
            at_node: AtNode::NotAsked,
            translated: false,
            verdict: Verdict::Continue,
        }
    }

    /// Whether the next stage has anything to do.
    #[inline]
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.verdict == Verdict::Continue
    }

    /// Decides to drop.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.verdict = Verdict::Drop(reason);
    }
}

/// A batch keeps its capacity: it is allocated once.
pub type Batch = Vec<Slot>;
