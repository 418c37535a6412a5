//! What the programs on the uplinks take from the host: tunnels that end here, and what goes to pods.

use std::collections::BTreeSet;

use caracal_xsk::xdp::uplink::Capture;

use crate::table::{NodeConfig, Prefix};

/// Everything that must come to us by an uplink.
#[must_use]
pub fn wanted(node: &NodeConfig, pods: &BTreeSet<Prefix>) -> BTreeSet<Capture> {
    let tunnels = node.addresses().flat_map(|local| {
        let ipip = local.is_ipv4().then_some(Capture::Ipip { local });
        [Some(Capture::Vxlan { local, port: node.vxlan_port }), ipip].into_iter().flatten()
    });
    let prefix = |prefix: &Prefix| Capture::Prefix { address: prefix.address(), length: prefix.length() };
    tunnels.chain(pods.iter().map(prefix)).collect()
}
