//! The node's ends of tunnels: addresses that address management gives it, one for each kind of encapsulation that a pool
//! has.

use std::net::IpAddr;

use caracal_datastore::{Datastore, DatastoreError, ipam_now};
use caracal_ipam::World;
use caracal_ipam::tunnel::{Tunnel, ensure_tunnel_address};
use caracal_model::annotations::{
    NODE_IPV4_IPIP_TUNNEL_ADDRESS, NODE_IPV4_VXLAN_TUNNEL_ADDRESS, NODE_IPV6_VXLAN_TUNNEL_ADDRESS,
};
use caracal_model::convert::node_labels;
use k8s_openapi::api::core::v1::Node;

use super::record::{Annotations, annotation};

/// The kinds of tunnels that there are, and where the Node object says their addresses.
const TUNNELS: [(Tunnel, &str); 3] = [
    (Tunnel::VxlanV4, NODE_IPV4_VXLAN_TUNNEL_ADDRESS),
    (Tunnel::VxlanV6, NODE_IPV6_VXLAN_TUNNEL_ADDRESS),
    (Tunnel::Ipip, NODE_IPV4_IPIP_TUNNEL_ADDRESS),
];

/// Why the node has not the tunnel addresses that it should have.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Pools could not be read.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// Address management has none, or could not be asked.
    #[error("the tunnel address of handle {handle}: {error}")]
    Ipam {
        /// Which.
        handle: String,
        /// Why.
        error: caracal_ipam::tunnel::TunnelError,
    },
}

/// Sees that the node has an address of each kind that a pool needs, and none that no pool needs any more; returns what
/// the Node object is to say of that.
///
/// # Errors
/// Any [`TunnelError`]; what was done is found again.
pub async fn annotations(datastore: &Datastore, node: &Node) -> Result<Annotations, TunnelError> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let world = World { node_labels: node_labels(node), ..datastore.ipam_world(None, None).await? };
    let mut wanted = Annotations::new();
    for (tunnel, key) in TUNNELS {
        let said = annotation(node, key);
        let current: Option<IpAddr> = said.and_then(|text| text.parse().ok());
        let address = ensure_tunnel_address(&datastore.ipam(), &world, name, tunnel, current, ipam_now())
            .await
            .map_err(|error| TunnelError::Ipam { handle: tunnel.handle(name), error })?;
        if address.map(|address| address.to_string()).as_deref() != said {
            wanted.insert(key, address.map(|address| address.to_string()));
        }
    }
    Ok(wanted)
}
