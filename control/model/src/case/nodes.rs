//! The nodes of the default world: node i at 192.0.2.(10+i) with the block 10.244.i.0/24, whose first address is that of
//! its VXLAN tunnel, the second that of its IPIP tunnel. `node7` is node 7; nodes of other names take the lowest numbers
//! that are left, in the order in which they are named.
//!
//! Where anything of the case is IPv6, nodes are, too: in the subnet fd00:192:0:2::/80 beside 192.0.2.0/24 (and so on for
//! others: the groups are written like the bytes), at its ::(10+i), with the block fd00:10:244:i::/64.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, Pod};

use super::pools::Pools;
use super::world::{Given, WorldError};
use super::{Between, Case, Party, WorldNode};
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
    pools: &Pools,
    is_dual_stack: bool,
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
        let is_kernel = case.lab.kernel_nodes.contains(&name);
        let node = node(number, &name, &mut object, pools, is_dual_stack, is_kernel);
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

/// Whether a node is given anything of IPv6.
pub(super) fn have_ipv6(given: &[Given<'_, Node>]) -> bool {
    given.iter().any(|node| {
        let info = node_info(&node.object);
        info.address_v6.is_some() || info.pod_cidrs.iter().any(|block| !block.is_ipv4())
    })
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
    pools: &Pools,
    is_dual_stack: bool,
    kernel: bool,
) -> Result<WorldNode, (&'static str, String)> {
    let info = node_info(object);
    let block = |default: Cidr| {
        let given = info.pod_cidrs.iter().copied().find(|block| block.is_ipv4() == default.is_ipv4());
        let none =
            || ("spec.podCIDR", format!("the first pool has no block number {number}; say which is its"));
        given.or_else(|| pools.block(number, default)).ok_or_else(none)
    };
    let pod_cidr = block(default_cidr(Ipv4Addr::new(10, 244, number, 0)))?;
    let IpAddr::V4(first) = pod_cidr.address() else {
        return Err(("spec.podCIDR", "must be IPv4".to_owned()));
    };
    let address = info.address.unwrap_or(Ipv4Addr::new(192, 0, 2, 10 + number));
    let subnet = info.subnet.unwrap_or(default_cidr(address));
    let second = Ipv4Addr::from_bits(first.to_bits().saturating_add(1));
    let too_small =
        || ("metadata.annotations", format!("the subnet {subnet} has no room for nodes and a router"));
    let mut node = WorldNode {
        name: name.to_owned(),
        address,
        subnet,
        router: router(&subnet).ok_or_else(too_small)?,
        pod_cidr,
        tunnel_address: info.vxlan_tunnel_address.unwrap_or(first),
        ipip_tunnel_address: info.ipip_tunnel_address.unwrap_or(second),
        address_v6: None,
        subnet_v6: None,
        router_v6: None,
        pod_cidr_v6: None,
        tunnel_address_v6: None,
        kernel,
    };
    if node.router == address {
        return Err(("metadata.annotations", format!("{address} is the address of the subnet's router")));
    }
    if is_dual_stack || info.address_v6.is_some() {
        let groups = [0xfd00, 0x10, 0x244, as_written(number), 0, 0, 0, 0];
        let block = block(cidr_v6(Ipv6Addr::from(groups), 64))?;
        let IpAddr::V6(first) = block.address() else {
            return Err(("spec.podCIDRs", "must be IPv6".to_owned()));
        };
        let (default, length) = (default_v6(&subnet, 10 + number), 80);
        let address = info.address_v6.unwrap_or(default);
        let length = if info.address_v6.is_some() { 64 } else { length };
        let subnet = info.subnet_v6.unwrap_or(cidr_v6(address, length));
        node.address_v6 = Some(address);
        node.router_v6 = router_v6(&subnet);
        node.subnet_v6 = Some(subnet);
        node.pod_cidr_v6 = Some(block);
        node.tunnel_address_v6 = Some(info.vxlan_tunnel_address_v6.unwrap_or(first));
    }
    annotate(object, &node, pools);
    Ok(node)
}

/// Writes into a node's object what it came to: addresses with their masks, and the tunnels that the pools need.
fn annotate(object: &mut Node, node: &WorldNode, pools: &Pools) {
    let has = |is_ipv4: bool, mode: fn(&super::WorldPool) -> Between| {
        pools.all.iter().any(|pool| pool.cidr.is_ipv4() == is_ipv4 && mode(pool) != Between::Never)
    };
    let with_mask = |address: IpAddr, subnet: &Cidr| format!("{address}/{}", subnet.length());
    let v6 = node.address_v6.zip(node.subnet_v6);
    let wanted = [
        (annotations::NODE_IPV4_ADDRESS, Some(with_mask(node.address.into(), &node.subnet))),
        (annotations::NODE_IPV6_ADDRESS, v6.map(|(address, subnet)| with_mask(address.into(), &subnet))),
        (
            annotations::NODE_IPV4_VXLAN_TUNNEL_ADDRESS,
            has(true, |pool| pool.vxlan).then(|| node.tunnel_address.to_string()),
        ),
        (
            annotations::NODE_IPV6_VXLAN_TUNNEL_ADDRESS,
            node.tunnel_address_v6.filter(|_| has(false, |pool| pool.vxlan)).map(|own| own.to_string()),
        ),
        (
            annotations::NODE_IPV4_IPIP_TUNNEL_ADDRESS,
            has(true, |pool| pool.ipip).then(|| node.ipip_tunnel_address.to_string()),
        ),
    ];
    let annotations = object.metadata.annotations.get_or_insert_default();
    for (key, value) in wanted {
        if let Some(value) = value {
            annotations.entry(key.to_owned()).or_insert(value);
        }
    }

    let spec: &mut NodeSpec = object.spec.get_or_insert_default();
    let given = spec.pod_cidrs.take().filter(|all| !all.is_empty());
    let mut blocks = given.or_else(|| spec.pod_cidr.take().map(|one| vec![one])).unwrap_or_default();
    for block in [Some(node.pod_cidr), node.pod_cidr_v6].into_iter().flatten() {
        let is_there =
            |text: &String| text.parse::<Cidr>().is_ok_and(|other| other.is_ipv4() == block.is_ipv4());
        if !blocks.iter().any(is_there) {
            blocks.push(block.to_string());
        }
    }
    spec.pod_cidr = blocks.first().cloned();
    spec.pod_cidrs = Some(blocks);

    let addresses = object.status.get_or_insert_default().addresses.get_or_insert_default();
    for own in [Some(IpAddr::V4(node.address)), node.address_v6.map(IpAddr::V6)].into_iter().flatten() {
        let is_there = |known: &NodeAddress| {
            let is_of_family =
                known.address.parse().is_ok_and(|known: IpAddr| known.is_ipv4() == own.is_ipv4());
            known.type_ == "InternalIP" && is_of_family
        };
        if !addresses.iter().any(is_there) {
            addresses.push(NodeAddress { type_: "InternalIP".to_owned(), address: own.to_string() });
        }
    }
}

/// The number whose hexadecimal digits are this one's decimal ones: 12 as 0x12.
fn as_written(number: u8) -> u16 {
    let (hundreds, tens, ones) = (number / 100, number / 10 % 10, number % 10);
    u16::from(hundreds) << 8 | u16::from(tens) << 4 | u16::from(ones)
}

/// The IPv6 address with this last number beside an IPv4 subnet.
fn default_v6(subnet: &Cidr, last: u8) -> Ipv6Addr {
    let bytes = match subnet.address() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let [a, b, c, d] = bytes.map(as_written);
    Ipv6Addr::new(0xfd00, a, b, c, d, 0, 0, as_written(last))
}

fn cidr_v6(address: Ipv6Addr, length: u8) -> Cidr {
    Cidr::new(address.into(), length).unwrap_or(Cidr::host(address.into()))
}

/// The router of an IPv6 subnet: its ::254.
fn router_v6(subnet: &Cidr) -> Option<Ipv6Addr> {
    match subnet.nth(as_written(254).into())? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
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
        let own = [Some(IpAddr::V4(node.address)), node.address_v6.map(IpAddr::V6)].into_iter().flatten();
        let mut shared = own.filter(|address| other.has_address(*address));
        if let Some(address) = shared.next() {
            return Some(("metadata.annotations", format!("{address} is the address of {} too", other.name)));
        }
        let blocks = |node: &WorldNode| [Some(node.pod_cidr), node.pod_cidr_v6].into_iter().flatten();
        let overlaps = |own: &Cidr| blocks(other).any(|other| other.covers(own) || own.covers(&other));
        blocks(node)
            .find(overlaps)
            .map(|own| ("spec.podCIDR", format!("{own} overlaps the block of {}", other.name)))
    })
}
