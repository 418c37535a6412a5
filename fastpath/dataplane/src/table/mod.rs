//! What decisions are looked up in: one immutable root a generation.
//!
//! ```text
//!  plane transactions ─┐                                        Tables (generation g)
//!  kernel routes ──────┼─► TableBuilder ── build() ──► Arc ──►  node · fib · endpoints · policy · tunnels · neighbors
//!  neighbours ─────────┘   (controller thread)                  shared with generation g−1 except what changed
//! ```
//!
//! Readers hold an `Arc<Tables>`, look up without locks or allocation, and see a transaction whole or not at all.
//! Indexes that readers may keep beyond a generation — in flow entries, say — are never reused for another thing within a
//! process: [`EndpointIndex`], [`TunnelIndex`], [`NeighborIndex`], [`policy::PolicyListId`], [`policy::ClassId`],
//! [`policy::RuleId`], [`ServiceIndex`]. An index whose thing is gone looks up as None.

pub mod builder;
pub mod endpoint;
pub mod fib;
pub mod host;
pub mod lpm;
pub mod neighbor;
pub mod node;
pub mod paged;
pub mod policy;
pub mod prefix;
pub mod rule_counters;
pub mod service;
pub mod tunnel;

pub use builder::{ApplyError, AssignWorker, KernelRoute, Malformed, TableBuilder};
pub use caracal_plane_api::EndpointToHost;
pub use endpoint::{
    Addresses, Endpoint, EndpointIndex, EndpointTable, Limited, LimitedEndpoints, Limits, PodPort,
};
pub use fib::{Encapsulation, Fib, FibEntry, NextHop, Origin};
pub use host::{
    Hook, HostEndpoint, HostEndpoints, HostExplanation, HostInterface, HostJudgement, HostPacket, HostPath,
    HostVerdict,
};
pub use neighbor::{NeighborIndex, NeighborTable};
pub use node::{FlowTimeouts, NatOutgoing, NodeConfig, NodePorts, NodeTable, Pool};
pub use policy::{
    Asked, ClassId, Explanation, FlowDirection, FlowTuple, Found, Judgement, LogListId, Mismatch,
    PolicyListId, PolicyTable, RuleAction, RuleId, RuleName, RuleOwner, Side, Step,
};
pub use prefix::Prefix;
pub use rule_counters::{Deciding, RuleCount, RuleCounters};
pub use service::{Asker, Backend, Backends, Frontend, Service, ServiceIndex, ServiceTable};
pub use tunnel::{Tunnel, TunnelEnd, TunnelIndex, TunnelTable, Underlay, Vtep};

/// A version of the tables. Grows by one with every publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// One immutable root. Everything is shared with the former root except what changed.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Which version this is.
    pub generation: Generation,
    /// This node itself.
    pub node: NodeTable,
    /// Where packets go, by destination.
    pub fib: Fib,
    /// Workload endpoints of this node.
    pub endpoints: EndpointTable,
    /// Interfaces of the host that policy applies to.
    pub host_endpoints: HostEndpoints,
    /// Who may talk to them, and to whom they may.
    pub policy: PolicyTable,
    /// Other nodes, as ends of tunnels.
    pub tunnels: TunnelTable,
    /// Link-layer addresses of next hops.
    pub neighbors: NeighborTable,
    /// Who answers for addresses and ports that nobody has.
    pub services: ServiceTable,
    /// How many workers there are: who owns what is not an endpoint's depends on it.
    pub workers: u16,
}
