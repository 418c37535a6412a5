//! What address management has to know of a case before pods ask it for addresses: the nodes' tunnel addresses are given, and blocks are the
//! node's whose `podCIDR` they are in, whoever of the pods comes first. So a pod of another node borrows its address, in every run.

use std::{collections::BTreeMap, net::IpAddr, time::UNIX_EPOCH};

use caracal_datastore::{ApiGroup, Datastore, causes};
use caracal_ipam::{Attributes, Nanoseconds, Owner, affinity, assign_address};
use caracal_model::{annotations, case::World, object::Object};
use kube::Client;
use tokio::task::JoinSet;

use crate::error::LabError;

/// Tunnels by the annotation that says their address: what their handle begins with, and what they are called in it.
const TUNNELS: [(&str, &str, &str); 3] = [
    (annotations::NODE_IPV4_VXLAN_TUNNEL_ADDRESS, "vxlan-tunnel-addr", "vxlanTunnelAddress"),
    (annotations::NODE_IPV6_VXLAN_TUNNEL_ADDRESS, "vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress"),
    (annotations::NODE_IPV4_IPIP_TUNNEL_ADDRESS, "ipip-tunnel-addr", "ipipTunnelAddress"),
];

/// Gives the nodes what is theirs.
pub(crate) async fn give(world: &World, client: &Client) -> Result<(), LabError> {
    let datastore = Datastore::new(client.clone(), ApiGroup::V3);
    let known = datastore.ipam_world(None, None).await.map_err(|e| refused("the pools", &e))?;
    let now = Nanoseconds(UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64));
    let mut nodes: JoinSet<Result<(), LabError>> = JoinSet::new();
    for (node, given) in of_nodes(world) {
        let (store, known) = (datastore.ipam(), known.clone());
        nodes.spawn(async move {
            let owner = Owner::Host(node.clone());
            for (address, attributes) in given.tunnels {
                if known.pool_of(address).is_some() {
                    let given = assign_address(&store, &known, address, &attributes, &owner, None, now).await;
                    given.map_err(|e| refused(&format!("the tunnel address {address} of {node}"), &e))?;
                }
            }
            for address in given.lent {
                let block = known.pool_of(address).and_then(|pool| pool.block_of(address));
                if let Some(block) = block {
                    let claimed =
                        affinity::claim(&store, &owner, block, known.settings.strict_affinity, now).await;
                    claimed.map_err(|e| refused(&format!("the block {block} of {node}"), &e))?;
                }
            }
            Ok(())
        });
    }
    while let Some(done) = nodes.join_next().await {
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    }
    Ok(())
}

fn refused(what: &str, why: &dyn std::error::Error) -> LabError {
    LabError::Ipam { what: what.into(), why: causes(why) }
}

/// What is a node's.
#[derive(Debug, Default)]
struct Given {
    /// Its tunnels' addresses.
    tunnels: Vec<(IpAddr, Attributes)>,
    /// Addresses of its blocks that pods of other nodes have.
    lent: Vec<IpAddr>,
}

fn of_nodes(world: &World) -> BTreeMap<String, Given> {
    let mut nodes: BTreeMap<String, Given> = BTreeMap::new();
    for object in &world.objects {
        let Object::Node(node) = object else { continue };
        let name = object.key().name;
        let annotations = node.metadata.annotations.clone().unwrap_or_default();
        let tunnels = TUNNELS.iter().filter_map(|(annotation, handle, kind)| {
            let address = annotations.get(*annotation)?.parse().ok()?;
            let owner = [("node", name.as_str()), ("type", kind)];
            let attributes = Attributes {
                handle: Some(format!("{handle}-{name}")),
                owner: owner.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                ..Attributes::default()
            };
            Some((address, attributes))
        });
        nodes.entry(name.clone()).or_default().tunnels.extend(tunnels);
    }
    for pod in world.pods.iter().filter(|pod| !pod.host_network) {
        for &address in &pod.addresses {
            let holder = world.nodes.iter().position(|node| node.has_in_block(address));
            if let Some(node) =
                holder.filter(|holder| *holder != pod.node).and_then(|index| world.nodes.get(index))
            {
                nodes.entry(node.name.clone()).or_default().lent.push(address);
            }
        }
    }
    nodes
}
