//! The controller's mutable state, and how it becomes [`Tables`].
//!
//! ```text
//!   apply(transaction) ─► State (what is stated) ─changes─┐
//!   kernel_routes, local_addresses, set_neighbor ─────────┤ to routes, tunnels, policy; endpoints wait for build,
//!                                                         ▼ since their lists need settled classes
//!   build(): settle classes → bind endpoints → find tunnels' next hops → snapshots of all parts, one root
//! ```

mod error;
mod hosts;
mod parse;
mod routes;
mod services;
mod state;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_wire::MacAddr;

use super::endpoint::{self, Endpoint, EndpointIndex, EndpointTable, LimitedEndpoints};
use super::fib::{FibEntry, NextHop, Origin};
use super::host::{Forwards, Hook, HookLists, HostEndpoint, HostEndpoints, HostExplanation, HostPacket};
use super::neighbor::NeighborTable;
use super::node::NodeTable;
use super::paged::PagedBuilder;
use super::policy::{
    Binding, Explanation, Fallback, FlowDirection, FlowTuple, PolicyBuilder, PolicyListId, RuleList,
    RuleName, Tier, Walked,
};
use super::prefix::Prefix;
use super::tunnel::{Tunnel, TunnelEnd, TunnelTable, Underlay};
use super::{Generation, RuleId, Tables};
use routes::Routes;
use services::Services;
use state::{Change, EndpointSpec, HookSpec, Key, State, Target, Thing, TierSpec};
use tunnels::{Neighbors, Tunnels};

pub use error::{ApplyError, Malformed};

/// A route of the kernel, as the netlink mirror knows it.
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
    /// The address that the host takes when it sends there: the route's own, or the interface's; None: not known.
    pub source: Option<IpAddr>,
}

/// Chooses the worker that owns a new endpoint, by its id and interface.
pub type AssignWorker = Box<dyn FnMut(&str, &str) -> u16 + Send>;

/// The state that tables are built from. Lives on the controller thread.
pub struct TableBuilder {
    assign: AssignWorker,
    generation: Generation,
    state: State,
    policy: PolicyBuilder,
    routes: Routes,
    local_addresses: BTreeSet<IpAddr>,
    local_blocks: BTreeSet<Prefix>,
    endpoints: Endpoints,
    hosts: Hosts,
    tunnels: Tunnels,
    neighbors: Neighbors,
    services: Services,
    workers: u16,
    /// The ways to other nodes may have changed.
    underlay_is_stale: bool,
}

#[derive(Default)]
struct Endpoints {
    by_id: BTreeMap<Arc<str>, (EndpointIndex, Arc<Endpoint>)>,
    table: PagedBuilder<Option<Arc<Endpoint>>, { endpoint::PAGE }>,
    /// Who has an address. Two may for a moment, when a pod's address is given to another: the newer gets its packets.
    owners: BTreeMap<IpAddr, BTreeSet<EndpointIndex>>,
    limited: LimitedEndpoints,
    ever: u32,
    /// Those to look at in the next build.
    dirty: BTreeSet<Arc<str>>,
}

#[derive(Default)]
struct Hosts {
    table: HostEndpoints,
    grounds: hosts::Grounds,
    /// Those to look at in the next build.
    dirty: BTreeSet<Arc<str>>,
}

impl TableBuilder {
    /// For so many workers. `assign` chooses the worker of an endpoint when it is first seen.
    pub fn new(workers: u16, assign: AssignWorker) -> TableBuilder {
        TableBuilder {
            assign,
            generation: Generation::default(),
            state: State::default(),
            policy: PolicyBuilder::new(workers),
            routes: Routes::default(),
            local_addresses: BTreeSet::new(),
            local_blocks: BTreeSet::new(),
            endpoints: Endpoints::default(),
            hosts: Hosts::default(),
            tunnels: Tunnels::default(),
            neighbors: Neighbors::default(),
            services: Services::new(workers),
            workers,
            underlay_is_stale: false,
        }
    }

    // ---- the control plane ----

    /// Applies `transaction` whole, or nothing of it. With `in_sync` it also ends a resynchronisation: what no transaction
    /// since [`begin_resync`](Self::begin_resync) has named is removed.
    pub fn apply(&mut self, transaction: &plane::Transaction) -> Result<(), ApplyError> {
        let changes = self.state.apply(transaction, &mut self.policy)?;
        for change in changes {
            self.take_on(change);
        }
        Ok(())
    }

    /// A controller has connected: everything stays, until it has named what it wants.
    pub fn begin_resync(&mut self) {
        self.state.begin_resync();
    }

    /// Whether a controller's whole state has been applied, and no other has begun since.
    pub fn in_sync(&self) -> bool {
        self.state.in_sync()
    }

    // ---- the kernel ----

    /// Replaces all routes of the kernel. Of several for a prefix the first counts. Routes through our own host ports must
    /// be left out: they lead back here.
    pub fn kernel_routes(&mut self, routes: &[KernelRoute]) {
        let mut new = BTreeMap::new();
        for route in routes {
            new.entry(route.prefix).or_insert(*route);
        }
        let gone = self.routes.of(Origin::Kernel).filter(|prefix| !new.contains_key(prefix));
        for prefix in gone.collect::<Vec<_>>() {
            self.remove_kernel_route(prefix);
        }
        for route in new.into_values() {
            self.set_kernel_route(route);
        }
    }

    /// Adds a route of the kernel, or replaces the one with its prefix.
    pub fn set_kernel_route(&mut self, route: KernelRoute) {
        let next_hop = match route.gateway {
            Some(address) => {
                NextHop::Gateway { address, neighbor: self.neighbors.index(route.ifindex, address) }
            }
            None => NextHop::OnLink,
        };
        let entry = FibEntry::Via { ifindex: route.ifindex, next_hop, mtu: route.mtu, source: route.source };
        self.state_route(route.prefix, Origin::Kernel, Some(entry));
    }

    /// Removes the kernel's route for `prefix`.
    pub fn remove_kernel_route(&mut self, prefix: Prefix) {
        self.state_route(prefix, Origin::Kernel, None);
    }

    /// Replaces the host's own addresses.
    pub fn local_addresses(&mut self, addresses: &[IpAddr]) {
        let new: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let former = std::mem::replace(&mut self.local_addresses, new.clone());
        for gone in former.difference(&new) {
            self.state_route(Prefix::host(*gone), Origin::KernelLocal, None);
        }
        for come in new.difference(&former) {
            self.state_route(Prefix::host(*come), Origin::KernelLocal, Some(FibEntry::LocalHost));
        }
    }

    /// What the kernel knows of a neighbour; None: not resolved, or gone.
    pub fn set_neighbor(&mut self, ifindex: u32, address: IpAddr, mac: Option<MacAddr>) {
        if mac.is_none() && !self.neighbors.by_address.contains_key(&(ifindex, address)) {
            return;
        }
        let neighbor = self.neighbors.index(ifindex, address);
        match mac {
            Some(mac) => self.neighbors.macs.set(neighbor.0 as usize, Some(mac)),
            None => self.neighbors.macs.clear(neighbor.0 as usize),
        }
    }

    // ---- the result ----

    /// The next generation's tables.
    pub fn build(&mut self) -> Arc<Tables> {
        if self.policy.settle() {
            self.rebind_endpoints();
        }
        let dirty = std::mem::take(&mut self.endpoints.dirty);
        for id in &dirty {
            self.build_endpoint(id);
        }
        if !dirty.is_empty() {
            self.endpoints.limited = LimitedEndpoints::of(
                self.endpoints.by_id.values().map(|(index, endpoint)| (*index, &**endpoint)),
                &self.endpoints.limited,
            );
        }
        for id in std::mem::take(&mut self.hosts.dirty) {
            self.build_host(&id);
            self.hosts_changed();
        }
        if std::mem::take(&mut self.underlay_is_stale) {
            self.find_underlay();
        }
        self.generation.0 += 1;
        self.settle_hosts();
        let node = match self.state.get(&Key::Node) {
            Some(Thing::Node(config)) => Some(Arc::clone(config)),
            _ => None,
        };
        Arc::new(Tables {
            generation: self.generation,
            workers: self.workers,
            services: self.services.snapshot(),
            node: NodeTable::new(node),
            fib: self.routes.snapshot(),
            endpoints: EndpointTable {
                endpoints: self.endpoints.table.snapshot(),
                limited: self.endpoints.limited.clone(),
            },
            host_endpoints: self.hosts.table.clone(),
            policy: self.policy.snapshot(),
            tunnels: TunnelTable {
                tunnels: self.tunnels.table.snapshot(),
                by_source: self.tunnels.by_source.snapshot(),
            },
            neighbors: NeighborTable {
                macs: self.neighbors.macs.snapshot(),
                by_address: Arc::clone(&self.neighbors.by_address),
            },
        })
    }

    /// What the uplink must hand to us besides tunnels: addresses of local endpoints, and local blocks.
    pub fn captures(&self) -> BTreeSet<Prefix> {
        let endpoints = self.endpoints.owners.keys().copied().map(Prefix::host);
        endpoints.chain(self.local_blocks.iter().copied()).collect()
    }

    /// The endpoints of the last build, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointIndex, &Arc<Endpoint>)> {
        self.endpoints.by_id.values().map(|(index, endpoint)| (*index, endpoint))
    }

    /// Next hops of the last build whose link-layer addresses packets need: gateways, and nodes on the link.
    pub fn wanted_neighbors(&self) -> BTreeSet<(u32, IpAddr)> {
        let gateways = self.routes.entries().filter_map(|entry| match entry {
            FibEntry::Via { ifindex, next_hop: NextHop::Gateway { address, .. }, .. } => {
                Some((*ifindex, *address))
            }
            _ => None,
        });
        let tunnels = self.tunnels.by_node.values();
        let underlays = tunnels.filter_map(|(index, _)| self.tunnels.get(*index)).flat_map(Tunnel::underlays);
        gateways.chain(underlays.map(|underlay| (underlay.ifindex, underlay.next_hop))).collect()
    }

    /// Those of [`wanted_neighbors`](Self::wanted_neighbors) that the kernel has not resolved.
    pub fn unresolved_neighbors(&self) -> usize {
        let wanted = self.wanted_neighbors();
        wanted.iter().filter(|neighbor| !self.neighbors.is_resolved(neighbor)).count()
    }

    /// Every route in force, and where it came from.
    pub fn routes(&self) -> impl Iterator<Item = (Prefix, FibEntry, Origin)> {
        self.routes.iter()
    }

    /// Everything that can decide about flows.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.policy.rules()
    }

    /// How much there is in each table.
    pub fn sizes(&self) -> [(&'static str, usize); 6] {
        [
            ("endpoints", self.endpoints.by_id.len()),
            ("routes", self.routes.len()),
            ("tunnels", self.tunnels.by_node.len()),
            ("neighbors", self.neighbors.by_address.len()),
            ("services", self.services.len()),
            ("rules", self.policy.rules().count()),
        ]
    }

    /// What `rule` is.
    pub fn rule_name(&self, rule: RuleId) -> Option<&RuleName> {
        self.policy.rule_name(rule)
    }

    /// How a flow of an endpoint fares in its policy, as of the last build: what enforces, or what would if staged policies
    /// took effect (None if nothing is staged). The flow's direction is the endpoint's.
    pub fn explain(&self, endpoint: &str, flow: &FlowTuple, staged: bool) -> Option<Explanation> {
        let (_, endpoint) = self.endpoints.by_id.get(endpoint)?;
        let list = match (flow.direction, staged) {
            (FlowDirection::Ingress, false) => endpoint.policy_in,
            (FlowDirection::Egress, false) => endpoint.policy_out,
            (FlowDirection::Ingress, true) => endpoint.staged_in?,
            (FlowDirection::Egress, true) => endpoint.staged_out?,
        };
        self.policy.explain(list, flow)
    }

    /// How a packet fares at a host endpoint, as of the last build: each hook that it meets, and what comes of it.
    pub fn explain_host(&self, name: &str, packet: &HostPacket) -> Option<HostExplanation> {
        let host = self.hosts.table.get(name)?;
        let mut hooks = Vec::new();
        let node = match self.state.get(&Key::Node) {
            Some(Thing::Node(config)) => Some(&**config),
            _ => None,
        };
        let judgement = host.send(packet, node, &mut |hook, flow, list| match list {
            Some(list) => {
                let (explanation, walked) = self.policy.explain_list(list, flow);
                hooks.push((hook, Some(explanation)));
                walked
            }
            None => {
                hooks.push((hook, None));
                Walked::default()
            }
        });
        let decided = self.rule_name(judgement.rule)?.clone();
        Some(HostExplanation { hooks, verdict: judgement.verdict, decided })
    }

    // ---- taking on what has changed ----

    fn take_on(&mut self, (key, thing): Change) {
        match (&key, thing) {
            (Key::Policy(_) | Key::Profile(_), _) => {
                for user in self.state.users(&key) {
                    match user {
                        Key::Endpoint(id) => self.endpoints.dirty.insert(Arc::clone(id)),
                        Key::HostEndpoint(id) => self.hosts.dirty.insert(Arc::clone(id)),
                        _ => false,
                    };
                }
            }
            (Key::Service(id), thing) => {
                let spec = match thing {
                    Some(Thing::Service(spec)) => Some(spec),
                    _ => None,
                };
                for (address, has_services) in self.services.set(id, spec) {
                    let entry = has_services.then_some(FibEntry::Service);
                    self.state_route(Prefix::host(address), Origin::Service, entry);
                }
            }
            (Key::HostEndpoint(id), _) => {
                self.hosts.dirty.insert(Arc::clone(id));
            }
            (Key::Endpoint(id), _) => {
                self.endpoints.dirty.insert(Arc::clone(id));
            }
            (Key::Tunnel(node), Some(Thing::Tunnel(spec))) => {
                self.tunnels.set(node, spec);
                self.underlay_is_stale = true;
            }
            (Key::Tunnel(node), _) => self.tunnels.remove(node),
            (Key::Route(prefix), thing) => {
                let target = match thing {
                    Some(Thing::Route(target)) => Some(target),
                    _ => None,
                };
                match target {
                    Some(Target::LocalBlock) => self.local_blocks.insert(*prefix),
                    _ => self.local_blocks.remove(prefix),
                };
                let entry = target.and_then(|target| self.entry(&target));
                self.state_route(*prefix, Origin::Plane, entry);
            }
            (Key::Node | Key::Set(_), _) => {}
        }
    }

    fn state_route(&mut self, prefix: Prefix, origin: Origin, entry: Option<FibEntry>) {
        let is_new = self.routes.state(prefix, origin, entry);
        self.underlay_is_stale |= is_new && self.tunnels.by_source.has_inside(prefix);
    }

    fn entry(&self, target: &Target) -> Option<FibEntry> {
        Some(match target {
            Target::Remote { node, encapsulation } => {
                let (tunnel, _) = self.tunnels.by_node.get(node)?;
                FibEntry::Tunnel { tunnel: *tunnel, encapsulation: *encapsulation }
            }
            Target::LocalBlock => FibEntry::Blackhole,
            Target::LocalHost => FibEntry::LocalHost,
        })
    }

    /// Gives every endpoint the lists that its own addresses' classes ask for.
    fn rebind_endpoints(&mut self) {
        for (index, endpoint) in self.endpoints.by_id.values_mut() {
            let mut rebind = |list| self.policy.rebind(list, endpoint.addresses.iter());
            let (policy_in, policy_out) = (rebind(endpoint.policy_in), rebind(endpoint.policy_out));
            let (staged_in, staged_out) =
                (endpoint.staged_in.map(&mut rebind), endpoint.staged_out.map(&mut rebind));
            let rebound =
                Endpoint { policy_in, policy_out, staged_in, staged_out, ..Endpoint::clone(endpoint) };
            if rebound != **endpoint {
                *endpoint = Arc::new(rebound);
                self.endpoints.table.set(index.0 as usize, Some(Arc::clone(endpoint)));
            }
        }
    }

    /// Makes the endpoint what is stated of it: there, changed or gone.
    fn build_endpoint(&mut self, id: &Arc<str>) {
        let spec = match self.state.get(&Key::Endpoint(Arc::clone(id))) {
            Some(Thing::Endpoint(spec)) => Some(Arc::clone(spec)),
            _ => None,
        };
        let former = self.endpoints.by_id.remove(id);
        if let Some(spec) = &spec {
            let (index, worker) = match &former {
                Some((index, former)) => (*index, former.worker),
                None => (self.endpoints.new_index(), (self.assign)(id, &spec.interface)),
            };
            let staged = |builder: &mut Self, direction, tiers: &Option<Vec<TierSpec>>| {
                tiers.as_ref().map(|tiers| builder.bind(direction, tiers, spec))
            };
            let endpoint = Arc::new(Endpoint {
                addresses: spec.addresses,
                worker,
                policy_in: self.bind(FlowDirection::Ingress, &spec.ingress, spec),
                policy_out: self.bind(FlowDirection::Egress, &spec.egress, spec),
                staged_in: staged(self, FlowDirection::Ingress, &spec.staged_ingress),
                staged_out: staged(self, FlowDirection::Egress, &spec.staged_egress),
                id: Arc::clone(id),
                interface: Arc::clone(&spec.interface),
                port: spec.port,
                limits_in: spec.limits_in,
                limits_out: spec.limits_out,
                allowed_sources: Arc::clone(&spec.allowed_sources),
            });
            self.endpoints.table.set(index.0 as usize, Some(Arc::clone(&endpoint)));
            for address in endpoint.addresses.iter() {
                self.endpoints.owners.entry(address).or_default().insert(index);
                self.route_to_owner(address);
            }
            self.endpoints.by_id.insert(Arc::clone(id), (index, endpoint));
        }
        let Some((index, former)) = former else { return };
        if spec.is_none() {
            self.endpoints.table.clear(index.0 as usize);
        }
        for address in former.addresses.iter() {
            if spec.as_ref().is_some_and(|spec| spec.addresses.contains(address)) {
                continue;
            }
            if let Some(owners) = self.endpoints.owners.get_mut(&address) {
                owners.remove(&index);
                if owners.is_empty() {
                    self.endpoints.owners.remove(&address);
                }
            }
            self.route_to_owner(address);
        }
        // Only now, so that lists which stay in use keep their ids.
        for list in former.lists() {
            self.policy.release(list);
        }
    }

    fn route_to_owner(&mut self, address: IpAddr) {
        let newest = self.endpoints.owners.get(&address).and_then(BTreeSet::last);
        let entry = newest.map(|index| FibEntry::Endpoint(*index));
        self.state_route(Prefix::host(address), Origin::Endpoint, entry);
    }

    fn bind(&mut self, direction: FlowDirection, tiers: &[TierSpec], spec: &EndpointSpec) -> PolicyListId {
        let tiers = self.tiers(direction, tiers, true);
        let binding = Binding { tiers, fallback: self.profiles(direction, &spec.profiles) };
        self.policy.bind(direction, &binding, spec.addresses.iter())
    }

    fn tiers(&self, direction: FlowDirection, tiers: &[TierSpec], defaults: bool) -> Vec<Tier> {
        let tier = |tier: &TierSpec| Tier {
            name: Arc::clone(&tier.name),
            default_deny: tier.default_deny && defaults,
            policies: self.rule_lists(direction, tier.policies.iter().cloned().map(Key::Policy)),
        };
        tiers.iter().map(tier).collect()
    }

    fn profiles(&self, direction: FlowDirection, names: &[Arc<str>]) -> Fallback {
        Fallback::Profiles(self.rule_lists(direction, names.iter().cloned().map(Key::Profile)))
    }

    fn rule_lists(&self, direction: FlowDirection, keys: impl Iterator<Item = Key>) -> Vec<Arc<RuleList>> {
        // The state refuses references to nothing, so no list is missing.
        let list = |key: Key| match self.state.get(&key) {
            Some(Thing::Rules(rules)) => Some(Arc::clone(match direction {
                FlowDirection::Ingress => &rules.ingress,
                FlowDirection::Egress => &rules.egress,
            })),
            _ => None,
        };
        keys.filter_map(list).collect()
    }

    /// Makes the host endpoint what is stated of it.
    fn build_host(&mut self, id: &Arc<str>) {
        let spec = match self.state.get(&Key::HostEndpoint(Arc::clone(id))) {
            Some(Thing::HostEndpoint(spec)) => Arc::clone(spec),
            _ => {
                Arc::make_mut(&mut self.hosts.table.by_name).remove(id);
                return;
            }
        };
        let mut lists = |hook: Hook| {
            let stated = &spec.hooks[hook as usize];
            let mut list = |direction, tiers: &[TierSpec]| {
                let tiers = self.tiers(direction, tiers, hook.has_tier_defaults());
                let fallback = match hook {
                    Hook::Normal => self.profiles(direction, &spec.profiles),
                    _ => Fallback::Undecided,
                };
                self.policy.list(direction, &Binding { tiers, fallback })
            };
            HookLists {
                ingress: list(FlowDirection::Ingress, &stated.ingress),
                egress: list(FlowDirection::Egress, &stated.egress),
            }
        };
        let hooks = [lists(Hook::Untracked), lists(Hook::PreDnat), lists(Hook::Normal), lists(Hook::Forward)];
        let (interface, addresses) = (Arc::clone(&spec.interface), spec.addresses.clone());
        let says = |hook: Hook, tiers: fn(&HookSpec) -> &Vec<TierSpec>| {
            !tiers(&spec.hooks[hook as usize]).is_empty()
        };
        let untracked = says(Hook::Untracked, |hook| &hook.ingress);
        let into = untracked
            || [Hook::PreDnat, Hook::Forward].into_iter().any(|hook| says(hook, |hook| &hook.ingress));
        let forwards = Forwards { untracked, into, out: says(Hook::Forward, |hook| &hook.egress) };
        let host = HostEndpoint { id: Arc::clone(id), interface, addresses, hooks, forwards };
        Arc::make_mut(&mut self.hosts.table.by_name).insert(Arc::clone(id), Arc::new(host));
    }

    /// Finds the next hops to every other node.
    fn find_underlay(&mut self) {
        let fib = self.routes.snapshot();
        for (node, (index, spec)) in &self.tunnels.by_node {
            let mut find = |address: IpAddr| match fib.lookup(address)? {
                FibEntry::Via { ifindex, next_hop, mtu, .. } => {
                    let (next_hop, neighbor) = match next_hop {
                        NextHop::Gateway { address, neighbor } => (*address, *neighbor),
                        NextHop::OnLink => (address, self.neighbors.index(*ifindex, address)),
                    };
                    Some(Underlay { ifindex: *ifindex, next_hop, neighbor, mtu: *mtu })
                }
                _ => None,
            };
            let tunnel = Tunnel {
                node: Arc::clone(node),
                v4: spec.address_v4.map(|node_address| TunnelEnd {
                    node_address,
                    vtep: spec.vtep_v4,
                    underlay: find(node_address.into()),
                }),
                v6: spec.address_v6.map(|node_address| TunnelEnd {
                    node_address,
                    vtep: spec.vtep_v6,
                    underlay: find(node_address.into()),
                }),
                ipip_address: spec.ipip_address,
            };
            if self.tunnels.get(*index) != Some(&tunnel) {
                self.tunnels.table.set(index.0 as usize, Some(Arc::new(tunnel)));
            }
        }
    }
}

impl Endpoints {
    fn new_index(&mut self) -> EndpointIndex {
        self.ever += 1;
        EndpointIndex(self.ever - 1)
    }
}
