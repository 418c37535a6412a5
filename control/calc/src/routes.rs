//! Where addresses are, and how packets get there: the tunnels to other nodes, and the routes.
//!
//! Everything that says where a prefix is makes a *claim* to it; the strongest claim wins, and of equal ones that of
//! what, then of the node, whose name comes first. So the routes depend on the objects alone.
//!
//! ```text
//!   nodes ──┬─ own address ─────► claim /32, /128     ─► LocalHost       only inside somebody's block: elsewhere the
//!           │  remote's ────────► claim /32, /128     ─► as it is        kernel's routes lead there without our help
//!           ├─ own tunnel address ► claim /32, /128   ─► LocalHost
//!           │  remote's ────────► claim /32, /128     ─► its node
//!           └─ podCIDRs ────────► claim               ─► LocalBlock │ its node
//!   BlockAffinity, IPAMBlock ───► claim, borrowed /32 ─► LocalBlock │ its node
//!   pods ───────────────────────► claim /32, /128     ─► nothing (its Endpoint says it) │ its node
//! ```
//!
//! A claim that leads where the prefix around it leads anyhow is not said: of the pods of a cluster only those with
//! addresses from elsewhere become routes. How a packet goes to a remote node is [`encapsulation`]'s to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use caracal_model::cidr::Cidr;
use caracal_model::convert::{Block, NodeInfo};
use caracal_plane_api as plane;
use caracal_plane_api::route::Target;

use hashbrown::HashMap;

use crate::delta::{Delta, Flushed};
use crate::encapsulation;
use crate::plane::{address, prefix};
use crate::pools::Pools;

/// `namespace/pod`.
pub(crate) type EndpointId = Arc<str>;

/// What says that a node has a block, the most trustworthy first; objects by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlockSource {
    /// An IPAMBlock.
    Ipam(Arc<str>),
    /// A BlockAffinity.
    Affinity(Arc<str>),
    /// The Node: its podCIDRs.
    Node,
}

/// What makes a claim, the strongest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    /// A node, to its own address. Whatever block it is in, it is no workload's.
    Node,
    /// A node, to a tunnel address.
    Tunnel,
    Block(BlockSource),
    Endpoint(EndpointId),
    /// The block, named by its object, that a node has borrowed the address from.
    Borrowed(BlockSource),
}

/// A claim to a prefix: by what, and of which node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    claimant: Claimant,
    node: Arc<str>,
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
    own_node: Arc<str>,
    nodes: BTreeMap<String, NodeInfo>,
    blocks: BTreeMap<BlockSource, Block>,
    places: HashMap<EndpointId, Place>,
    claims: Claims,
    touched: BTreeSet<Cidr>,
    tunnels: Delta<String, plane::Tunnel>,
    routes: Delta<Cidr, plane::Route>,
    /// How often the route of a prefix was decided.
    pub decisions: u64,
}

impl Routes {
    /// How many nodes there are.
    pub fn count_nodes(&self) -> usize {
        self.nodes.len()
    }

    pub fn new(own_node: &str) -> Self {
        Self {
            own_node: own_node.into(),
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            places: HashMap::new(),
            claims: Claims::default(),
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
        let is_own = *name == *self.own_node;
        let id = self.claims.node(name);
        let former = match info {
            Some(info) => self.nodes.insert(name.to_owned(), info),
            None => self.nodes.remove(name),
        };
        for (prefix, claimant) in former.iter().flat_map(node_claims) {
            self.unclaim(prefix, &Claim { claimant, node: id.clone() });
        }
        let now = self.nodes.get(name).cloned();
        for (prefix, claimant) in now.iter().flat_map(node_claims) {
            self.claim(prefix, Claim { claimant, node: id.clone() });
        }
        if is_own {
            // How far this node's subnet goes, and what it can send, decides about every way to another node.
            self.touched.extend(self.claims.prefixes());
        } else {
            // So does, for its own prefixes, how the other node can be reached.
            let prefixes: Vec<Cidr> = self.claims.prefixes_of(name).collect();
            prefixes.into_iter().for_each(|prefix| self.touch(prefix));
            self.tunnels.want(name.to_owned(), now.as_ref().and_then(tunnel));
        }
    }

    /// The block is there, like this, or is gone.
    pub fn set_block(&mut self, source: BlockSource, block: Option<Block>) {
        if self.blocks.get(&source) == block.as_ref() {
            return;
        }
        let former = match block {
            Some(block) => self.blocks.insert(source.clone(), block),
            None => self.blocks.remove(&source),
        };
        for (prefix, claim) in
            former.iter().flat_map(|block| self.claims.of_block(&source, block)).collect::<Vec<_>>()
        {
            self.unclaim(prefix, &claim);
        }
        let now: Vec<_> = self
            .blocks
            .get(&source)
            .into_iter()
            .flat_map(|block| self.claims.of_block(&source, block))
            .collect();
        for (prefix, claim) in now {
            self.claim(prefix, claim);
        }
    }

    /// The endpoint is on this node with these addresses, or is gone.
    pub fn set_endpoint(&mut self, id: &EndpointId, place: Option<(&str, &[IpAddr])>) {
        let former = self.places.get(id);
        let is_same = match (former, place) {
            (Some(former), Some((node, addresses))) => {
                *former.node == *node && *former.addresses == *addresses
            }
            (former, place) => former.is_none() && place.is_none(),
        };
        if is_same {
            return;
        }
        let claim = |node: &Arc<str>| Claim { claimant: Claimant::Endpoint(id.clone()), node: node.clone() };
        if let Some(former) = self.places.remove(id) {
            for address in &former.addresses {
                self.unclaim(Cidr::host(*address), &claim(&former.node));
            }
        }
        if let Some((node, addresses)) = place {
            let now = Place { node: self.claims.node(node), addresses: addresses.into() };
            for address in &now.addresses {
                self.claim(Cidr::host(*address), claim(&now.node));
            }
            self.places.insert(id.clone(), now);
        }
    }

    /// The pools around addresses in this prefix have changed.
    pub fn pools_changed(&mut self, within: Cidr) {
        self.touch(within);
    }

    fn claim(&mut self, prefix: Cidr, claim: Claim) {
        self.claims.add(prefix, claim);
        self.touch(prefix);
    }

    fn unclaim(&mut self, prefix: Cidr, claim: &Claim) {
        self.claims.remove(prefix, claim);
        self.touch(prefix);
    }

    /// The way to this prefix may have changed, and with it whether the ways of those inside need saying.
    fn touch(&mut self, prefix: Cidr) {
        self.touched.insert(prefix);
        if !prefix.is_host() {
            self.touched.extend(self.claims.inside(prefix));
        }
    }

    /// Where the claims to a prefix lead.
    fn target(&self, cidr: Cidr, pools: &Pools) -> Option<Target> {
        let winner = self.claims.winner(cidr)?;
        if winner.node == self.own_node {
            return match winner.claimant {
                Claimant::Node | Claimant::Tunnel => Some(Target::LocalHost(plane::LocalHost {})),
                Claimant::Block(_) => Some(Target::LocalBlock(plane::LocalBlock {})),
                Claimant::Endpoint(_) | Claimant::Borrowed(_) => None,
            };
        }
        let own = self.nodes.get(&*self.own_node);
        let remote = self.nodes.get(&*winner.node)?;
        let way = match winner.claimant {
            Claimant::Node => encapsulation::Way::PLAIN,
            _ => encapsulation::way(cidr, own, remote, pools)?,
        };
        Some(Target::Remote(plane::RemoteNode {
            node: winner.node.to_string(),
            encapsulation: way.encapsulation.into(),
            over_ipv6: way.over_ipv6,
        }))
    }

    /// The route to say for a prefix.
    fn decide(&self, cidr: Cidr, pools: &Pools) -> Option<plane::Route> {
        let target = self.target(cidr, pools)?;
        let around = self.claims.around(cidr).find_map(|cidr| self.target(cidr, pools));
        let is_nodes_own = matches!(self.claims.winner(cidr)?.claimant, Claimant::Node);
        let needs_saying = match around {
            Some(around) => around != target,
            None => !is_nodes_own,
        };
        needs_saying.then(|| plane::Route { prefix: Some(prefix(cidr)), target: Some(target) })
    }

    /// The difference since the last flush.
    pub fn flush(&mut self, pools: &Pools) -> FlushedRoutes {
        for cidr in std::mem::take(&mut self.touched) {
            self.decisions += 1;
            let route = self.decide(cidr, pools);
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

/// The claims of a node itself: to its addresses, its tunnel addresses and its blocks.
fn node_claims(info: &NodeInfo) -> Vec<(Cidr, Claimant)> {
    let own = info.addresses().map(|own| (Cidr::host(own), Claimant::Node));
    let tunnels = info.tunnel_addresses().map(|own| (Cidr::host(own), Claimant::Tunnel));
    let blocks = info.pod_cidrs.iter().map(|cidr| (*cidr, Claimant::Block(BlockSource::Node)));
    own.chain(tunnels).chain(blocks).collect()
}

fn tunnel(info: &NodeInfo) -> Option<plane::Tunnel> {
    info.addresses().next()?;
    let bytes = |own: Option<IpAddr>| own.map(address).unwrap_or_default();
    Some(plane::Tunnel {
        node: info.name.clone(),
        node_address: bytes(info.address_of(true)),
        tunnel_address: bytes(info.vxlan_tunnel_address.map(IpAddr::V4)),
        tunnel_mac: info.vxlan_tunnel_mac.to_vec(),
        node_address_v6: bytes(info.address_of(false)),
        tunnel_address_v6: bytes(info.vxlan_tunnel_address_v6.map(IpAddr::V6)),
        tunnel_mac_v6: info.vxlan_tunnel_mac_v6.to_vec(),
        ipip_tunnel_address: bytes(info.ipip_tunnel_address.map(IpAddr::V4)),
    })
}

/// All claims, by prefix.
#[derive(Debug, Default)]
struct Claims {
    /// Each prefix's, in order: the winner first. Almost all have one.
    by_prefix: BTreeMap<Cidr, Vec<Claim>>,
    prefixes_of: BTreeMap<Arc<str>, BTreeSet<Cidr>>,
    /// How many prefixes there are of each family (IPv4: true) and length, single addresses left out.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Claims {
    /// The node's name: one text, however often it is said.
    fn node(&self, name: &str) -> Arc<str> {
        self.prefixes_of.get_key_value(name).map_or_else(|| name.into(), |(node, _)| node.clone())
    }

    /// The claims that a block makes.
    fn of_block(&self, source: &BlockSource, block: &Block) -> Vec<(Cidr, Claim)> {
        let claim = |claimant, node: &str| Claim { claimant, node: self.node(node) };
        let whole = block.node.iter().map(|node| (block.cidr, claim(Claimant::Block(source.clone()), node)));
        let borrowed = block.borrowed.iter();
        let borrowed = borrowed
            .map(|(address, node)| (Cidr::host(*address), claim(Claimant::Borrowed(source.clone()), node)));
        whole.chain(borrowed).collect()
    }

    fn add(&mut self, prefix: Cidr, claim: Claim) {
        self.prefixes_of.entry(claim.node.clone()).or_default().insert(prefix);
        let claims = self.by_prefix.entry(prefix).or_insert_with(|| Vec::with_capacity(1));
        if claims.is_empty() && !prefix.is_host() {
            *self.lengths.entry((prefix.is_ipv4(), prefix.length())).or_default() += 1;
        }
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
        }
    }

    fn remove(&mut self, prefix: Cidr, claim: &Claim) {
        let Some(claims) = self.by_prefix.get_mut(&prefix) else { return };
        claims.retain(|other| other != claim);
        let still_claims = claims.iter().any(|other| other.node == claim.node);
        if claims.is_empty() {
            self.by_prefix.remove(&prefix);
            let length = (prefix.is_ipv4(), prefix.length());
            if let Some(count) = self.lengths.get_mut(&length) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
        }
        if !still_claims && let Some(prefixes) = self.prefixes_of.get_mut(&claim.node) {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                self.prefixes_of.remove(&claim.node);
            }
        }
    }

    fn winner(&self, prefix: Cidr) -> Option<&Claim> {
        self.by_prefix.get(&prefix)?.first()
    }

    fn prefixes(&self) -> impl Iterator<Item = Cidr> {
        self.by_prefix.keys().copied()
    }

    fn prefixes_of(&self, node: &str) -> impl Iterator<Item = Cidr> {
        self.prefixes_of.get(node).into_iter().flatten().copied()
    }

    /// The claimed prefixes inside one, itself included.
    fn inside(&self, prefix: Cidr) -> impl Iterator<Item = Cidr> {
        // A prefix sorts before those inside it, which come in a row.
        self.by_prefix
            .range(prefix..)
            .map(|(inside, _)| *inside)
            .take_while(move |inside| prefix.covers(inside))
    }

    /// The claimed prefixes around one, the smallest first.
    fn around(&self, prefix: Cidr) -> impl Iterator<Item = Cidr> {
        let family = prefix.is_ipv4();
        let lengths = self.lengths.range((family, 0)..(family, prefix.length())).rev();
        let around = lengths.filter_map(move |((_, length), _)| Cidr::new(prefix.address(), *length).ok());
        around.filter(|around| self.by_prefix.contains_key(around))
    }
}
