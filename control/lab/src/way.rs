//! Which way packets go between two nodes, by the pools of a case: what the kernel nodes' routes, the routers' and the pods' MTU follow
//! from. The nodes of ours find out for themselves.

use std::net::IpAddr;

use caracal_model::{
    case::{World, WorldNode},
    cidr::Cidr,
    object::Object,
};

use crate::network::{Leg, legs};

/// What IPIP and VXLAN add to a packet, in bytes.
const IPIP_OVERHEAD: u32 = 20;
const VXLAN_OVERHEAD: u32 = 50;
const VXLAN6_OVERHEAD: u32 = 70;

/// How a packet goes to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Vxlan,
    Ipip,
    /// As it is, by the node's own address.
    Plain,
}

/// When a pool has its packets encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Never,
    Always,
    CrossSubnet,
}

/// A pool, as far as packets on their way are concerned.
#[derive(Debug, Clone, Copy)]
struct Pool {
    cidr: Cidr,
    vxlan: When,
    ipip: When,
}

impl Pool {
    /// The pool that there is where the case gives none.
    fn default_of(cidr: Cidr) -> Self {
        Self { cidr, vxlan: When::Always, ipip: When::Never }
    }

    fn is_tunnelled(&self) -> bool {
        self.vxlan != When::Never || self.ipip != When::Never
    }
}

/// The way from a node to `address` behind another one.
pub(crate) fn way(world: &World, from: &Leg, to: &Leg, address: IpAddr) -> Way {
    let pool = pools(world)
        .into_iter()
        .filter(|pool| pool.cidr.contains(address))
        .max_by_key(|pool| pool.cidr.length())
        .unwrap_or(Pool::default_of(to.block));
    let applies = |when| match when {
        When::Never => false,
        When::Always => true,
        When::CrossSubnet => !from.subnet.contains(to.address),
    };
    match (applies(pool.vxlan), applies(pool.ipip)) {
        (true, _) => Way::Vxlan,
        (false, true) => Way::Ipip,
        (false, false) => Way::Plain,
    }
}

/// The largest packet of a pod: what every way that the pools may ask for leaves of the uplinks' packets.
pub(crate) fn pod_mtu(world: &World, uplink_mtu: u32) -> u32 {
    let mut pools = pools(world);
    let all_legs = world.nodes.iter().flat_map(legs);
    pools.extend(
        all_legs
            .filter(|leg| !pools.iter().any(|pool| pool.cidr.covers(&leg.block)))
            .map(|leg| Pool::default_of(leg.block))
            .collect::<Vec<_>>(),
    );
    let overhead = |pool: &Pool| match (pool.vxlan, pool.ipip) {
        (When::Never, When::Never) => 0,
        (When::Never, _) => IPIP_OVERHEAD,
        _ if pool.cidr.is_ipv4() => VXLAN_OVERHEAD,
        _ => VXLAN6_OVERHEAD,
    };
    uplink_mtu
        .saturating_sub(pools.iter().filter(|pool| pool.is_tunnelled()).map(overhead).max().unwrap_or(0))
}

/// The MTU of the kernel's own VXLAN device over one IP version.
pub(crate) fn vxlan_mtu(leg: &Leg, uplink_mtu: u32) -> u32 {
    uplink_mtu.saturating_sub(if leg.address.is_ipv4() { VXLAN_OVERHEAD } else { VXLAN6_OVERHEAD })
}

/// Whether a node and another one have legs of the same IP versions, pairwise.
pub(crate) fn pairs<'a>(
    node: &'a WorldNode,
    peer: &'a WorldNode,
) -> impl Iterator<Item = (Leg, Leg)> + use<'a> {
    let theirs = legs(peer);
    legs(node).into_iter().filter_map(move |own| {
        let their = theirs.iter().find(|their| their.version() == own.version())?;
        Some((own, *their))
    })
}

fn pools(world: &World) -> Vec<Pool> {
    let when = |mode: &Option<String>| match mode.as_deref() {
        Some("Always") => When::Always,
        Some("CrossSubnet") => When::CrossSubnet,
        _ => When::Never,
    };
    let pools = world.objects.iter().filter_map(|object| match object {
        Object::IPPool(pool) => Some(&pool.spec),
        _ => None,
    });
    let pools = pools.filter(|pool| {
        let uses = pool.allowed_uses.as_deref().unwrap_or_default();
        uses.is_empty() || uses.iter().any(|used| used != "LoadBalancer")
    });
    pools
        .filter_map(|pool| {
            let cidr = pool.cidr.parse().ok()?;
            Some(Pool { cidr, vxlan: when(&pool.vxlan_mode), ipip: when(&pool.ipip_mode) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_model::case::Case;

    fn world(pool: &str) -> World {
        let case = format!(
            "name: x\nobjects:\n\
             - {{apiVersion: v1, kind: Node, metadata: {{name: node1}}}}\n\
             - {{apiVersion: v1, kind: Node, metadata: {{name: node2}}}}\n\
             - apiVersion: v1\n  kind: Node\n  metadata:\n    name: node3\n    annotations: {{projectcalico.org/IPv4Address: 198.51.100.13/24}}\n\
             {pool}"
        );
        Case::parse(&case).unwrap().world().unwrap()
    }

    fn ways(pool: &str) -> (Way, Way, u32) {
        let world = world(pool);
        let leg = |index: usize| legs(&world.nodes[index])[0];
        let to = |index: usize| way(&world, &leg(0), &leg(index), leg(index).block.address());
        (to(1), to(2), pod_mtu(&world, 1500))
    }

    fn pool(modes: &str) -> String {
        format!(
            "- {{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: p}}, spec: {{cidr: 10.244.0.0/16{modes}}}}}\n"
        )
    }

    #[test]
    fn a_pool_says_the_way_and_the_mtu() {
        assert_eq!(ways(""), (Way::Vxlan, Way::Vxlan, 1450));
        assert_eq!(ways(&pool("")), (Way::Plain, Way::Plain, 1500));
        assert_eq!(ways(&pool(", vxlanMode: CrossSubnet")), (Way::Plain, Way::Vxlan, 1450));
        assert_eq!(ways(&pool(", ipipMode: CrossSubnet")), (Way::Plain, Way::Ipip, 1480));
        assert_eq!(ways(&pool(", ipipMode: Always")), (Way::Ipip, Way::Ipip, 1480));
    }
}
