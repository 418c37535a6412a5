//! Where addresses are: this node's configuration, the tunnels to other nodes, and the routes.
//!
//! Everything that says where a prefix is makes a *claim* to it; the strongest claim wins, and of equal ones that of
//! the node, then of the endpoint, whose name comes first. So the routes depend on the objects alone.
//!
//! ```text
//!   nodes ──┬─ own tunnel address ──► claim /32                   ─► LocalHost
//!           ├─ pod block ───────────► claim, own or a remote's    ─► LocalBlock │ VXLAN to its node
//!           └─ remote tunnel address outside its block ► claim /32 ─► VXLAN to its node
//!   pods ───── address outside its node's block ──────► claim /32 ─► VXLAN to its node │ nothing (its Endpoint says it)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_model::convert::NodeInfo;
use caracal_plane_api as plane;
use caracal_plane_api::route::Target;

use crate::delta::{Delta, Flushed};
use crate::endpoints::{Endpoint, EndpointChange, EndpointId};
use crate::plane::{address, prefix};

/// Calico's VXLAN network identifier.
const VNI: u32 = 4096;
/// VXLAN's UDP port.
const VXLAN_PORT: u32 = 4789;
/// The tap device for what the host originates.
const HOST_PORT: &str = "caracal0";
/// The tap device for what the host forwards.
const FORWARD_PORT: &str = "caracal1";

/// What makes a claim, the strongest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    Tunnel,
    Block,
    Endpoint(EndpointId),
}

/// A claim to a prefix: by what, and of which node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    claimant: Claimant,
    node: String,
}

/// The vertex that resolves routes.
#[derive(Debug)]
pub(crate) struct Routes {
    own_node: String,
    nodes: BTreeMap<String, NodeInfo>,
    endpoints_of: BTreeMap<String, BTreeSet<EndpointId>>,
    claims: BTreeMap<Cidr, BTreeSet<Claim>>,
    prefixes_of: BTreeMap<String, BTreeSet<Cidr>>,
    touched: BTreeSet<Cidr>,
    config: Option<plane::NodeConfig>,
    said_config: Option<plane::NodeConfig>,
    tunnels: Delta<String, plane::Tunnel>,
    routes: Delta<Cidr, plane::Route>,
    /// How often the route of a prefix was decided.
    pub decisions: u64,
}

impl Routes {
    pub fn new(own_node: &str) -> Self {
        Self {
            own_node: own_node.to_owned(),
            nodes: BTreeMap::new(),
            endpoints_of: BTreeMap::new(),
            claims: BTreeMap::new(),
            prefixes_of: BTreeMap::new(),
            touched: BTreeSet::new(),
            config: None,
            said_config: None,
            tunnels: Delta::new(),
            routes: Delta::new(),
            decisions: 0,
        }
    }

    /// The node is there, like this, or is gone.
    pub fn set_node(
        &mut self,
        name: &str,
        info: Option<NodeInfo>,
        endpoints: &BTreeMap<EndpointId, Endpoint>,
    ) {
        if self.nodes.get(name) == info.as_ref() {
            return;
        }
        let former = match info {
            Some(info) => self.nodes.insert(name.to_owned(), info),
            None => self.nodes.remove(name),
        };
        let is_own = name == self.own_node;
        for (prefix, claim) in former.iter().flat_map(|info| node_claims(info, is_own)) {
            self.unclaim(prefix, &claim);
        }
        let now = self.nodes.get(name).cloned();
        for (prefix, claim) in now.iter().flat_map(|info| node_claims(info, is_own)) {
            self.claim(prefix, claim);
        }
        let blocks =
            |info: &Option<NodeInfo>| info.as_ref().map(|info| info.pod_cidrs.clone()).unwrap_or_default();
        // Which of its pods are outside its blocks may have changed, too.
        if blocks(&former) != blocks(&now) {
            let here: Vec<EndpointId> = self.endpoints_of.get(name).into_iter().flatten().cloned().collect();
            for id in here {
                if let Some(endpoint) = endpoints.get(&id) {
                    self.set_endpoint_claims(&id, endpoint, &blocks(&former), &blocks(&now));
                }
            }
        }
        // Whether the node can be reached at all decides about every prefix that it claims.
        self.touched.extend(self.prefixes_of.get(name).into_iter().flatten());

        if is_own {
            self.config = now.as_ref().and_then(|info| self.node_config(info));
        } else {
            self.tunnels.want(name.to_owned(), now.as_ref().and_then(tunnel));
        }
    }

    /// An endpoint, here or elsewhere, has come, changed or gone.
    pub fn endpoint_changed(&mut self, change: &EndpointChange) {
        let place = |endpoint: &Option<Endpoint>| {
            endpoint.as_ref().map(|endpoint| (endpoint.pod.node.clone(), endpoint.pod.addresses.clone()))
        };
        if place(&change.old) == place(&change.new) {
            return;
        }
        let blocks = |endpoint: &Endpoint, nodes: &BTreeMap<String, NodeInfo>| {
            nodes.get(&endpoint.pod.node).map(|info| info.pod_cidrs.clone()).unwrap_or_default()
        };
        if let Some(old) = &change.old {
            for (prefix, claim) in endpoint_claims(&change.id, old, &blocks(old, &self.nodes)) {
                self.unclaim(prefix, &claim);
            }
            if let Some(ids) = self.endpoints_of.get_mut(&old.pod.node) {
                ids.remove(&change.id);
                if ids.is_empty() {
                    self.endpoints_of.remove(&old.pod.node);
                }
            }
        }
        if let Some(new) = &change.new {
            for (prefix, claim) in endpoint_claims(&change.id, new, &blocks(new, &self.nodes)) {
                self.claim(prefix, claim);
            }
            self.endpoints_of.entry(new.pod.node.clone()).or_default().insert(change.id.clone());
        }
    }

    fn set_endpoint_claims(&mut self, id: &EndpointId, endpoint: &Endpoint, former: &[Cidr], now: &[Cidr]) {
        for (prefix, claim) in endpoint_claims(id, endpoint, former) {
            self.unclaim(prefix, &claim);
        }
        for (prefix, claim) in endpoint_claims(id, endpoint, now) {
            self.claim(prefix, claim);
        }
    }

    fn claim(&mut self, prefix: Cidr, claim: Claim) {
        self.prefixes_of.entry(claim.node.clone()).or_default().insert(prefix);
        self.claims.entry(prefix).or_default().insert(claim);
        self.touched.insert(prefix);
    }

    fn unclaim(&mut self, prefix: Cidr, claim: &Claim) {
        let Some(claims) = self.claims.get_mut(&prefix) else { return };
        claims.remove(claim);
        let still_claims = claims.iter().any(|other| other.node == claim.node);
        if claims.is_empty() {
            self.claims.remove(&prefix);
        }
        if !still_claims && let Some(prefixes) = self.prefixes_of.get_mut(&claim.node) {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.prefixes_of.remove(&claim.node);
            }
        }
        self.touched.insert(prefix);
    }

    fn node_config(&self, info: &NodeInfo) -> Option<plane::NodeConfig> {
        Some(plane::NodeConfig {
            node: self.own_node.clone(),
            address: address(info.address?.into()),
            tunnel_address: info.vxlan_tunnel_address.map(|own| address(own.into())).unwrap_or_default(),
            tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
            vni: VNI,
            vxlan_port: VXLAN_PORT,
            host_port: HOST_PORT.to_owned(),
            forward_port: FORWARD_PORT.to_owned(),
            ..plane::NodeConfig::default()
        })
    }

    /// The route that the claims to a prefix come to.
    fn decide(&self, cidr: Cidr) -> Option<plane::Route> {
        let winner = self.claims.get(&cidr)?.first()?;
        let is_own = winner.node == self.own_node;
        let target = match (&winner.claimant, is_own) {
            (Claimant::Tunnel, true) => Target::LocalHost(plane::LocalHost {}),
            (Claimant::Block, true) => Target::LocalBlock(plane::LocalBlock {}),
            (Claimant::Endpoint(_), true) => return None,
            (_, false) => {
                // VXLAN carries IPv4 to the tunnel end of a node; without one there is no way.
                let info = self.nodes.get(&winner.node)?;
                let reachable =
                    cidr.is_ipv4() && info.address.is_some() && info.vxlan_tunnel_address.is_some();
                let node = winner.node.clone();
                let encapsulation = plane::Encapsulation::Vxlan.into();
                reachable.then_some(Target::Remote(plane::RemoteNode { node, encapsulation }))?
            }
        };
        Some(plane::Route { prefix: Some(prefix(cidr)), target: Some(target) })
    }

    /// The difference since the last flush. A node whose object is gone keeps its last configuration: there is no way
    /// to have none.
    pub fn flush(&mut self) -> FlushedRoutes {
        for cidr in std::mem::take(&mut self.touched) {
            self.decisions += 1;
            let route = self.decide(cidr);
            self.routes.want(cidr, route);
        }
        let mut config = None;
        if self.config.is_some() && self.config != self.said_config {
            self.said_config.clone_from(&self.config);
            config = self.config.clone();
        }
        FlushedRoutes { config, tunnels: self.tunnels.flush(), routes: self.routes.flush() }
    }

    /// Everything as last said.
    pub fn said(&self) -> SaidRoutes<'_> {
        SaidRoutes {
            config: self.said_config.as_ref(),
            tunnels: self.tunnels.said().collect(),
            routes: self.routes.said().collect(),
        }
    }
}

/// What a flush says of the way to other nodes.
pub(crate) struct FlushedRoutes {
    pub config: Option<plane::NodeConfig>,
    pub tunnels: Flushed<String, plane::Tunnel>,
    pub routes: Flushed<Cidr, plane::Route>,
}

/// What has been said of the way to other nodes.
pub(crate) struct SaidRoutes<'a> {
    pub config: Option<&'a plane::NodeConfig>,
    pub tunnels: Vec<&'a plane::Tunnel>,
    pub routes: Vec<&'a plane::Route>,
}

/// The claims of a node itself: to its blocks, and to its tunnel address. A remote's tunnel address inside its own block
/// goes where the block goes.
fn node_claims(info: &NodeInfo, is_own: bool) -> Vec<(Cidr, Claim)> {
    let claim = |claimant| Claim { claimant, node: info.name.clone() };
    let blocks = info.pod_cidrs.iter().map(|cidr| (*cidr, claim(Claimant::Block)));
    let tunnel = info.vxlan_tunnel_address.map(IpAddr::V4);
    let tunnel = tunnel.filter(|own| is_own || !info.pod_cidrs.iter().any(|block| block.contains(*own)));
    let tunnel = tunnel.map(|own| (Cidr::host(own), claim(Claimant::Tunnel)));
    blocks.chain(tunnel).collect()
}

/// The claims of an endpoint: to its addresses outside its node's blocks.
fn endpoint_claims(id: &EndpointId, endpoint: &Endpoint, blocks: &[Cidr]) -> Vec<(Cidr, Claim)> {
    let outside = endpoint.pod.addresses.iter().filter(|ip| !blocks.iter().any(|block| block.contains(**ip)));
    let claim = || Claim { claimant: Claimant::Endpoint(id.clone()), node: endpoint.pod.node.clone() };
    outside.map(|ip| (Cidr::host(*ip), claim())).collect()
}

fn tunnel(info: &NodeInfo) -> Option<plane::Tunnel> {
    Some(plane::Tunnel {
        node: info.name.clone(),
        node_address: address(info.address?.into()),
        tunnel_address: info.vxlan_tunnel_address.map(|own| address(own.into())).unwrap_or_default(),
        tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
    })
}
