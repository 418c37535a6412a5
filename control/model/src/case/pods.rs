//! The pods of the default world: spread over the nodes in order, addresses counted up from their node's block + 2.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP};

use super::pools::Pools;
use super::world::{Given, WorldError};
use super::{Between, WorldNode, WorldPod};
use crate::cidr::Cidr;
use crate::convert::{container_ports, is_finished, pod_addresses};
use crate::names;
use crate::object::Object;

/// Whether a pod is given an IPv6 address.
pub(super) fn have_ipv6(given: &[Given<'_, Pod>]) -> bool {
    given.iter().any(|pod| pod_addresses(&pod.object).iter().any(IpAddr::is_ipv6))
}

/// The pods and their completed objects, in the order of the case.
pub(super) fn complete(
    nodes: &[WorldNode],
    given: Vec<Given<'_, Pod>>,
    pools: &Pools,
) -> Result<(Vec<WorldPod>, Vec<Object>), WorldError> {
    let mut taken = Taken::new(nodes, &given, pools)?;
    let mut without_node = 0;
    let mut pods = Vec::new();
    let mut objects = Vec::new();
    for Given { mut object, origin } in given {
        let spec = object.spec.get_or_insert_default();
        let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
        let node = match named {
            Some(name) => nodes.iter().position(|node| node.name == name).unwrap_or_default(),
            None => {
                without_node += 1;
                (without_node - 1) % nodes.len().max(1)
            }
        };
        let Some(world_node) = nodes.get(node) else {
            return Err(origin.error("spec.nodeName", "there is no node for it"));
        };
        spec.node_name = Some(world_node.name.clone());
        let host_network = spec.host_network == Some(true);
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports = container_ports(containers).collect();

        let addresses = if is_finished(&object) {
            Vec::new()
        } else {
            let addresses = match pod_addresses(&object) {
                _ if host_network => node_addresses(world_node),
                none if none.is_empty() => {
                    let blocks = [Some(world_node.pod_cidr), world_node.pod_cidr_v6].into_iter().flatten();
                    let next = |block| {
                        let full = format!("the block {block} of {} has no address left", world_node.name);
                        taken.next(&block).ok_or_else(|| origin.error("status.podIPs", full))
                    };
                    blocks.map(next).collect::<Result<_, _>>()?
                }
                given => given,
            };
            set_status(&mut object, world_node, &addresses);
            addresses
        };
        let key = origin.key.clone();
        let namespace = key.namespace.unwrap_or_default();
        pods.push(WorldPod {
            interface: names::veth_name(&namespace, &key.name),
            namespace,
            name: key.name,
            node,
            addresses,
            host_network,
            ports,
        });
        objects.push(Object::from(object));
    }
    Ok((pods, objects))
}

fn set_status(pod: &mut Pod, node: &WorldNode, addresses: &[IpAddr]) {
    let status = pod.status.get_or_insert_default();
    status.phase.get_or_insert_with(|| "Running".to_owned());
    status.pod_ip = addresses.first().map(ToString::to_string);
    status.pod_ips = Some(addresses.iter().map(|address| PodIP { ip: address.to_string() }).collect());
    status.host_ip = Some(node.address.to_string());
    let hosts = node_addresses(node).into_iter();
    status.host_ips = Some(hosts.map(|address| HostIP { ip: address.to_string() }).collect());
}

fn node_addresses(node: &WorldNode) -> Vec<IpAddr> {
    [Some(IpAddr::V4(node.address)), node.address_v6.map(IpAddr::V6)].into_iter().flatten().collect()
}

/// Who has which address.
struct Taken(BTreeMap<IpAddr, String>);

impl Taken {
    /// The addresses of nodes and tunnels, and those that pods are given by the case.
    fn new(nodes: &[WorldNode], pods: &[Given<'_, Pod>], pools: &Pools) -> Result<Self, WorldError> {
        let mut taken = BTreeMap::new();
        for node in nodes {
            for address in node_addresses(node) {
                taken.insert(address, format!("node {}", node.name));
            }
            let ipip = pools.all.iter().any(|pool| pool.ipip != Between::Never);
            let tunnels = [
                Some(IpAddr::V4(node.tunnel_address)),
                node.tunnel_address_v6.map(IpAddr::V6),
                ipip.then_some(IpAddr::V4(node.ipip_tunnel_address)),
            ];
            for tunnel in tunnels.into_iter().flatten() {
                taken.insert(tunnel, format!("the tunnel of node {}", node.name));
            }
        }
        let has_own = |pod: &Pod| {
            pod.spec.as_ref().is_none_or(|spec| spec.host_network != Some(true)) && !is_finished(pod)
        };
        for Given { object, origin } in pods.iter().filter(|pod| has_own(&pod.object)) {
            for address in pod_addresses(object) {
                if let Some(owner) = taken.insert(address, origin.key.to_string()) {
                    return Err(
                        origin.error("status.podIPs", format!("{address} is the address of {owner}, too"))
                    );
                }
            }
        }
        Ok(Self(taken))
    }

    /// The lowest free address of a node's block, from its third on.
    fn next(&mut self, block: &Cidr) -> Option<IpAddr> {
        let free =
            (2..).map_while(|offset| block.nth(offset)).find(|address| !self.0.contains_key(address))?;
        self.0.insert(free, "a pod".to_owned());
        Some(free)
    }
}
