//! How packets to a prefix go to another node.
//!
//! | pool around the prefix | nodes in one subnet, by this node's own mask | nodes in different subnets |
//! |---|---|---|
//! | VXLAN Always | VXLAN | VXLAN |
//! | VXLAN CrossSubnet | as they are | VXLAN |
//! | IPIP Always | IPIP | IPIP |
//! | IPIP CrossSubnet | as they are | IPIP |
//! | neither | as they are | as they are |
//! | none | VXLAN | VXLAN |
//!
//! What goes as it is goes to the node's address of the prefix's own family. VXLAN carries both families between nodes'
//! addresses of either: IPv4 between IPv4's while both nodes have one, IPv6 between IPv6's while both have a tunnel end
//! there. IPIP carries IPv4 between IPv4 addresses.

use caracal_model::cidr::Cidr;
use caracal_model::convert::{Between, NodeInfo, PoolMode};
use caracal_plane_api::Encapsulation;

use crate::pools::Pools;

/// A way to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub encapsulation: Encapsulation,
    /// VXLAN between the nodes' IPv6 addresses.
    pub over_ipv6: bool,
}

impl Way {
    /// As packets are, to the node's own address.
    pub const PLAIN: Self = Self { encapsulation: Encapsulation::None, over_ipv6: false };
}

/// The way from this node to `remote` for packets to `cidr`; `None` while there is none.
pub(crate) fn way(cidr: Cidr, own: Option<&NodeInfo>, remote: &NodeInfo, pools: &Pools) -> Option<Way> {
    let mode = pools.around(&cidr).map_or(PoolMode::Vxlan(Between::AllNodes), |pool| pool.mode);
    let ipv4 = cidr.is_ipv4();
    let is_encapsulated = |between| between == Between::AllNodes || !is_same_subnet(ipv4, own, remote);
    match mode {
        PoolMode::Vxlan(between) if is_encapsulated(between) => vxlan(ipv4, own, remote),
        PoolMode::Ipip(between) if is_encapsulated(between) => {
            remote.address.map(|_| Way { encapsulation: Encapsulation::Ipip, over_ipv6: false })
        }
        _ => remote.address_of(ipv4).map(|_| Way::PLAIN),
    }
}

/// Whether the other node's address is in this node's subnet. A node that does not say its mask has no neighbours.
fn is_same_subnet(ipv4: bool, own: Option<&NodeInfo>, remote: &NodeInfo) -> bool {
    let subnet = own.and_then(|own| own.subnet_of(ipv4));
    subnet.zip(remote.address_of(ipv4)).is_some_and(|(subnet, address)| subnet.contains(address))
}

fn vxlan(ipv4: bool, own: Option<&NodeInfo>, remote: &NodeInfo) -> Option<Way> {
    // As long as nothing is known of this node it is taken for one of IPv4's.
    let over_ipv4 = own.is_none_or(|own| own.address.is_some()) && remote.has_vtep(true);
    let over_ipv6 = own.is_some_and(|own| own.has_vtep(false)) && remote.has_vtep(false);
    let over_ipv6 = match (over_ipv4, over_ipv6) {
        (true, true) => !ipv4,
        (true, false) => false,
        (false, true) => true,
        (false, false) => return None,
    };
    Some(Way { encapsulation: Encapsulation::Vxlan, over_ipv6 })
}
