//! The nodes of the default world: node i at 192.0.2.(10+i) with the block 10.244.i.0/24, whose first address is its
//! tunnel's. `node7` is node 7; nodes of other names take the lowest numbers that are left, in the order in which they are named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, Pod};

use super::world::{Given, WorldError};
use super::{Case, Party, WorldNode};
use crate::annotations;
use crate::cidr::Cidr;
use crate::convert::node_info;
use crate::object::Object;

/// The highest node number: 192.0.2.(10+240) leaves room for the router.
const NODES_MAX: u8 = 240;
/// The nodes there are when a case names no others.
const DEFAULT_NODES: [&str; 2] = ["node1", "node2"];

/// The nodes and their completed objects, in the order of their numbers.
pub(super) fn complete(
    case: &Case,
    given: &[Given<'_, Node>],
    pods: &[Given<'_, Pod>],
    others: &[Object],
) -> Result<(Vec<WorldNode>, Vec<Object>), WorldError> {
    let names = names(case, given, pods, others);
    let too_many = || WorldError {
        line: 1,
        field: "objects".to_owned(),
        message: format!("{} nodes are named; a case can have {NODES_MAX}", names.len()),
    };
    let mut nodes: Vec<WorldNode> = Vec::new();
    let mut objects = Vec::new();
    for (number, name) in numbered(&names).ok_or_else(too_many)? {
        let given = given.iter().find(|node| node.object.metadata.name.as_deref() == Some(&name));
        let mut object = given.map(|given| given.object.clone()).unwrap_or_default();
        object.metadata.name = Some(name.clone());
        let node = node(number, &name, &mut object, case.lab.kernel_nodes.contains(&name));
        let node = node.and_then(|node| clash(&nodes, &node).map_or(Ok(node), Err)).map_err(
            |(field, message)| match given {
                Some(given) => given.origin.error(field, message),
                None => WorldError {
                    line: 1,
                    field: "objects".to_owned(),
                    message: format!("Node {name}: {message}"),
                },
            },
        )?;
        nodes.push(node);
        objects.push(Object::from(object));
    }
    Ok((nodes, objects))
}

/// Every node that the case names, in the order of naming; node1 and node2 when it names no others.
fn names(case: &Case, given: &[Given<'_, Node>], pods: &[Given<'_, Pod>], others: &[Object]) -> Vec<String> {
    let given = given.iter().filter_map(|node| node.object.metadata.name.clone());
    let of_pods = pods.iter().filter_map(|pod| pod.object.spec.as_ref()?.node_name.clone());
    let of_pods = of_pods.filter(|name| !name.is_empty());
    let of_host_endpoints = others.iter().filter_map(|object| match object {
        Object::HostEndpoint(endpoint) => endpoint.spec.node.clone().filter(|name| !name.is_empty()),
        _ => None,
    });
    let of_host_flows = case.host_flows.iter().flat_map(|flow| [&flow.from, &flow.to]);
    let parties = case.flows.iter().flat_map(|flow| [&flow.from, &flow.to]).chain(of_host_flows);
    let of_flows = parties.filter_map(|party| match party {
        Party::Node(name) => Some(name.clone()),
        _ => None,
    });
    let mut seen = BTreeSet::new();
    let mut names: Vec<String> = given
        .chain(of_pods)
        .chain(of_host_endpoints)
        .chain(of_flows)
        .chain(case.lab.kernel_nodes.iter().cloned())
        .collect();
    names.retain(|name| seen.insert(name.clone()));
    if names.iter().all(|name| DEFAULT_NODES.contains(&name.as_str())) {
        names = DEFAULT_NODES.map(str::to_owned).to_vec();
    }
    names
}

/// Gives every name its number; `None` when there are more names than numbers.
fn numbered(names: &[String]) -> Option<BTreeMap<u8, String>> {
    let own_number = |name: &str| {
        let digits = name.strip_prefix("node").filter(|digits| !digits.starts_with('0'))?;
        digits.parse::<u8>().ok().filter(|number| (1..=NODES_MAX).contains(number))
    };
    let mut numbered = BTreeMap::new();
    let mut others = Vec::new();
    for name in names {
        match own_number(name) {
            Some(number) => drop(numbered.insert(number, name.clone())),
            None => others.push(name),
        }
    }
    for name in others {
        let number = (1..=NODES_MAX).find(|number| !numbered.contains_key(number))?;
        numbered.insert(number, name.clone());
    }
    Some(numbered)
}

/// Completes a node's object and says what it came to. An error is a field of the object and what is wrong with it.
fn node(
    number: u8,
    name: &str,
    object: &mut Node,
    kernel: bool,
) -> Result<WorldNode, (&'static str, String)> {
    let info = node_info(object);
    let v4_block = info.pod_cidrs.iter().copied().find(Cidr::is_ipv4);
    let pod_cidr = v4_block.unwrap_or(default_cidr(Ipv4Addr::new(10, 244, number, 0)));
    let IpAddr::V4(first) = pod_cidr.address() else {
        return Err(("spec.podCIDR", "must be IPv4".to_owned()));
    };
    let address = info.address.unwrap_or(Ipv4Addr::new(192, 0, 2, 10 + number));
    let subnet = info.subnet.unwrap_or(default_cidr(address));
    let tunnel_address = info.vxlan_tunnel_address.unwrap_or(first);

    let annotations = object.metadata.annotations.get_or_insert_default();
    let own = format!("{address}/{}", subnet.length());
    annotations.entry(annotations::NODE_IPV4_ADDRESS.to_owned()).or_insert(own);
    let tunnel = annotations::NODE_IPV4_VXLAN_TUNNEL_ADDRESS.to_owned();
    annotations.entry(tunnel).or_insert(tunnel_address.to_string());

    let spec: &mut NodeSpec = object.spec.get_or_insert_default();
    if spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty) {
        let block = spec.pod_cidr.clone().unwrap_or(pod_cidr.to_string());
        spec.pod_cidrs = Some(vec![block]);
    }
    spec.pod_cidr = spec.pod_cidrs.as_ref().and_then(|all| all.first().cloned());

    let addresses = object.status.get_or_insert_default().addresses.get_or_insert_default();
    if !addresses.iter().any(|known| known.type_ == "InternalIP") {
        addresses.push(NodeAddress { type_: "InternalIP".to_owned(), address: address.to_string() });
    }

    let too_small =
        || ("metadata.annotations", format!("the subnet {subnet} has no room for nodes and a router"));
    let router = router(&subnet).ok_or_else(too_small)?;
    if router == address {
        return Err(("metadata.annotations", format!("{address} is the address of the subnet's router")));
    }
    Ok(WorldNode { name: name.to_owned(), address, subnet, router, pod_cidr, tunnel_address, kernel })
}

/// The /24 that holds an address.
fn default_cidr(address: Ipv4Addr) -> Cidr {
    Cidr::new(address.into(), 24).unwrap_or(Cidr::host(address.into()))
}

/// The last usable address of a subnet.
fn router(subnet: &Cidr) -> Option<Ipv4Addr> {
    let size = 1u64.checked_shl(32u32.checked_sub(subnet.length().into())?)?;
    let last_usable = u32::try_from(size.checked_sub(2)?).ok().filter(|offset| *offset >= 2)?;
    match subnet.nth(last_usable)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Whether a node cannot be beside those that are there.
fn clash(nodes: &[WorldNode], node: &WorldNode) -> Option<(&'static str, String)> {
    nodes.iter().find_map(|other| {
        if other.address == node.address {
            return Some((
                "metadata.annotations",
                format!("{} is the address of {} too", node.address, other.name),
            ));
        }
        let overlap = other.pod_cidr.covers(&node.pod_cidr) || node.pod_cidr.covers(&other.pod_cidr);
        overlap.then(|| ("spec.podCIDR", format!("{} overlaps the block of {}", node.pod_cidr, other.name)))
    })
}
