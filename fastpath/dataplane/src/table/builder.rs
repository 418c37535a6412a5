//! The controller's mutable state, and how it becomes [`Tables`].

use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_wire::MacAddr;

use super::fib::Origin;
use super::policy::RuleName;
use super::prefix::Prefix;
use super::{Endpoint, EndpointIndex, FibEntry, NeighborIndex, RuleId, Tables};

/// A route of the kernel's main table, as the netlink mirror knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelRoute {
    /// Its destination.
    pub prefix: Prefix,
    /// The interface it leads to.
    pub ifindex: u32,
    /// The gateway; None: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Largest IP packet that fits.
    pub mtu: u16,
}

/// Why a transaction was refused. Nothing of it has been applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {}

/// Chooses the worker that owns a new endpoint, by its id and interface.
pub type AssignWorker = Box<dyn FnMut(&str, &str) -> u16 + Send>;

/// The state that tables are built from. Lives on the controller thread.
pub struct TableBuilder {}

impl TableBuilder {
    /// For so many workers; `assign` says which of them owns a new endpoint (it keeps it).
    pub fn new(workers: u16, assign: AssignWorker) -> TableBuilder;

    // ---- the control plane ----
    /// Applies `transaction` whole or not at all. With in_sync after `begin_resync`, what no transaction since has named goes.
    pub fn apply(&mut self, transaction: &plane::Transaction) -> Result<(), ApplyError>;
    /// A controller has connected: marks everything as not yet named again.
    pub fn begin_resync(&mut self);
    /// Whether a controller's whole state has been applied, and no newer controller has begun.
    pub fn in_sync(&self) -> bool;

    // ---- the kernel ----
    /// Replaces all kernel routes. Leave out those through our own host ports.
    pub fn kernel_routes(&mut self, routes: &[KernelRoute]);
    /// Replaces the host's own addresses.
    pub fn local_addresses(&mut self, addresses: &[IpAddr]);
    /// What the kernel knows of a neighbour; None: not resolved, or gone.
    pub fn set_neighbor(&mut self, ifindex: u32, address: IpAddr, mac: Option<MacAddr>);

    // ---- the result ----
    /// The next generation's tables.
    pub fn build(&mut self) -> Arc<Tables>;
    /// What the uplink must hand to us: addresses of local endpoints, and local blocks.
    pub fn captures(&self) -> Vec<Prefix>;
    /// Local endpoints as they will be in the next build.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointIndex, &Arc<Endpoint>)>;
    /// Next hops whose link-layer address the tables need: gateways, and nodes on the link.
    pub fn wanted_neighbors(&self) -> Vec<(u32, IpAddr)>;
    /// Every route in force, and where it came from (as of the last build).
    pub fn routes(&self) -> impl Iterator<Item = (Prefix, FibEntry, Origin)>;
    /// Everything that can decide about flows.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleName)>;
    /// What `rule` is.
    pub fn rule_name(&self, rule: RuleId) -> Option<&RuleName>;
}
