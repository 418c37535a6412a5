//! IPPool → [`Pool`].

use crate::calico::IPPool;
use crate::cidr::Cidr;

/// A pool of addresses for workloads and tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub cidr: Cidr,
    /// How packets to them go from node to node.
    pub mode: PoolMode,
    /// Whether packets from them that leave all pools get an address of the node.
    pub nat_outgoing: bool,
}

/// How packets to a pool's addresses go from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// As they are.
    Plain,
    /// In VXLAN.
    Vxlan(Between),
    /// In IPIP.
    Ipip(Between),
}

/// Between which nodes packets are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// All.
    AllNodes,
    /// Those in different subnets.
    Subnets,
}

/// The pool; `None` for one whose addresses no workload or tunnel has (those of load balancers), or that cannot be read.
///
/// A disabled pool gives no new addresses, and is one like any other to those who have some.
pub fn ip_pool(pool: &IPPool) -> Option<Pool> {
    let spec = &pool.spec;
    let is_for_load_balancers_only = |uses: &Vec<String>| {
        !uses.is_empty() && !uses.iter().any(|usage| usage == "Workload" || usage == "Tunnel")
    };
    if spec.allowed_uses.as_ref().is_some_and(is_for_load_balancers_only) {
        return None;
    }
    let cidr: Cidr = spec.cidr.parse().ok()?;
    let between = |mode: &Option<String>| match mode.as_deref() {
        Some("Always") => Some(Between::AllNodes),
        Some("CrossSubnet") => Some(Between::Subnets),
        _ => None,
    };
    let vxlan = between(&spec.vxlan_mode).map(PoolMode::Vxlan);
    // IPIP carries IPv4 only.
    let ipip = between(&spec.ipip_mode).filter(|_| cidr.is_ipv4()).map(PoolMode::Ipip);
    Some(Pool {
        name: pool.metadata.name.clone().unwrap_or_default(),
        cidr,
        mode: vxlan.or(ipip).unwrap_or(PoolMode::Plain),
        nat_outgoing: spec.nat_outgoing.unwrap_or(false),
    })
}
