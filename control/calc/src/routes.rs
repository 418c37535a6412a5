//! Where addresses are: the tunnels to other nodes, and the routes.
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
use std::sync::Arc;

use caracal_model::cidr::Cidr;
use caracal_model::convert::NodeInfo;
use caracal_plane_api as plane;
use caracal_plane_api::route::Target;

use hashbrown::HashMap;

use crate::delta::{Delta, Flushed};
use crate::plane::{address, prefix};

/// `namespace/pod`.
pub(crate) type EndpointId = Arc<str>;

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

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    node: Arc<str>,
    addresses: Box<[IpAddr]>,
}

/// The vertex that resolves routes.
#[derive(Debug)]
pub(crate) struct Routes {
    own_node: String,
    nodes: BTreeMap<String, NodeInfo>,
    places: HashMap<EndpointId, Place>,
    endpoints_of: BTreeMap<Arc<str>, BTreeSet<EndpointId>>,
    claims: BTreeMap<Cidr, BTreeSet<Claim>>,
    prefixes_of: BTreeMap<String, BTreeSet<Cidr>>,
    touched: BTreeSet<Cidr>,
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
            places: HashMap::new(),
            endpoints_of: BTreeMap::new(),
            claims: BTreeMap::new(),
            prefixes_of: BTreeMap::new(),
            touched: BTreeSet::new(),
            tunnels: Delta::new(),
            routes: Delta::new(),
            decisions: 0,
        }
    }

    /// The node is there, like this, or is gone.
    pub fn set_node(&mut self, name: &str, info: Option<NodeInfo>) {
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
                if let Some(place) = self.places.get(&id).cloned() {
                    self.replace_claims(&id, Some((&place, &blocks(&former))), Some((&place, &blocks(&now))));
                }
            }
        }
        // Whether the node can be reached at all decides about every prefix that it claims.
        self.touched.extend(self.prefixes_of.get(name).into_iter().flatten());

        if !is_own {
            self.tunnels.want(name.to_owned(), now.as_ref().and_then(tunnel));
        }
    }

    /// The endpoint is on this node with these addresses, or is gone.
    pub fn set_endpoint(&mut self, id: &EndpointId, place: Option<(&str, &[IpAddr])>) {
        let former = self.places.get(id).cloned();
        let is_same = match (&former, place) {
            (Some(former), Some((node, addresses))) => {
                *former.node == *node && *former.addresses == *addresses
            }
            (former, place) => former.is_none() && place.is_none(),
        };
        if is_same {
            return;
        }
        if let Some(former) = &former {
            self.places.remove(id);
            if let Some(ids) = self.endpoints_of.get_mut(&former.node) {
                ids.remove(id);
                if ids.is_empty() {
                    self.endpoints_of.remove(&former.node);
                }
            }
        }
        let now = place.map(|(node, addresses)| {
            // One text for a node, however many endpoints it has.
            let known = self.endpoints_of.get_key_value(node).map(|(node, _)| node.clone());
            Place { node: known.unwrap_or_else(|| node.into()), addresses: addresses.into() }
        });
        if let Some(now) = &now {
            self.places.insert(id.clone(), now.clone());
            self.endpoints_of.entry(now.node.clone()).or_default().insert(id.clone());
        }
        let blocks = |place: &Option<Place>| {
            let info = place.as_ref().and_then(|place| self.nodes.get(&*place.node));
            info.map(|info| info.pod_cidrs.clone()).unwrap_or_default()
        };
        let (before, after) = (blocks(&former), blocks(&now));
        let with = |place, blocks| Some((place, blocks));
        self.replace_claims(
            id,
            former.as_ref().and_then(|former| with(former, &*before)),
            now.as_ref().and_then(|now| with(now, &*after)),
        );
    }

    fn replace_claims(
        &mut self,
        id: &EndpointId,
        former: Option<(&Place, &[Cidr])>,
        now: Option<(&Place, &[Cidr])>,
    ) {
        for (prefix, claim) in
            former.into_iter().flat_map(|(place, blocks)| endpoint_claims(id, place, blocks))
        {
            self.unclaim(prefix, &claim);
        }
        for (prefix, claim) in now.into_iter().flat_map(|(place, blocks)| endpoint_claims(id, place, blocks))
        {
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

    /// The route that the claims to a prefix come to.
    fn decide(&self, cidr: Cidr) -> Option<plane::Route> {
        let winner = self.claims.get(&cidr)?.first()?;
        let is_own = winner.node == self.own_node;
        let target = match (&winner.claimant, is_own) {
            (Claimant::Tunnel, true) => Target::LocalHost(plane::LocalHost {}),
            (Claimant::Block, true) => Target::LocalBlock(plane::LocalBlock {}),
            (Claimant::Endpoint(_), true) => return None,
            (_, false) => {
                // VXLAN carries both families to the IPv4 tunnel end of a node; without one there is no way.
                let info = self.nodes.get(&winner.node)?;
                let reachable = info.address.is_some() && info.vxlan_tunnel_address.is_some();
                let node = winner.node.clone();
                let encapsulation = plane::Encapsulation::Vxlan.into();
                reachable.then_some(Target::Remote(plane::RemoteNode {
                    node,
                    encapsulation,
                    over_ipv6: false,
                }))?
            }
        };
        Some(plane::Route { prefix: Some(prefix(cidr)), target: Some(target) })
    }

    /// The difference since the last flush.
    pub fn flush(&mut self) -> FlushedRoutes {
        for cidr in std::mem::take(&mut self.touched) {
            self.decisions += 1;
            let route = self.decide(cidr);
            self.routes.want(cidr, route);
        }
        FlushedRoutes { tunnels: self.tunnels.flush(), routes: self.routes.flush() }
    }

    /// Everything as last said.
    pub fn said(&self) -> SaidRoutes<'_> {
        SaidRoutes { tunnels: self.tunnels.said().collect(), routes: self.routes.said().collect() }
    }
}

/// What a flush says of the way to other nodes.
pub(crate) struct FlushedRoutes {
    pub tunnels: Flushed<String, plane::Tunnel>,
    pub routes: Flushed<Cidr, plane::Route>,
}

/// What has been said of the way to other nodes.
pub(crate) struct SaidRoutes<'a> {
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
fn endpoint_claims(id: &EndpointId, place: &Place, blocks: &[Cidr]) -> Vec<(Cidr, Claim)> {
    let outside = place.addresses.iter().filter(|ip| !blocks.iter().any(|block| block.contains(**ip)));
    let claim = || Claim { claimant: Claimant::Endpoint(id.clone()), node: place.node.to_string() };
    outside.map(|ip| (Cidr::host(*ip), claim())).collect()
}

fn tunnel(info: &NodeInfo) -> Option<plane::Tunnel> {
    Some(plane::Tunnel {
        node: info.name.clone(),
        node_address: address(info.address?.into()),
        tunnel_address: info.vxlan_tunnel_address.map(|own| address(own.into())).unwrap_or_default(),
        tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
        ..plane::Tunnel::default()
    })
}
