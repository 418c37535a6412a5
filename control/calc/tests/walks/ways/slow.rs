//! A slow reading of whose claim to an address wins and how packets to it are carried, from the objects one by one.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_model::convert::{NodeInfo, block_affinity, ip_pool, ipam_block, node_info, pod_endpoint};
use caracal_model::object::Object;

use super::way;
use crate::NODE;
use crate::expand::World;
use crate::simulator::Fastpath;

/// What a fastpath is to do with packets to any address that the world speaks of, read from the objects one by one.
/// Addresses of this node's own pods are left out: their endpoints say it.
pub fn check(world: &World, fastpath: &Fastpath) {
    for address in addresses(world) {
        if let Some(expected) = slow_way(world, address) {
            assert_eq!(way(fastpath, &address.to_string()), expected, "{address}");
        }
    }
}

fn nodes(world: &World) -> Vec<NodeInfo> {
    let nodes = world.values().filter_map(|object| match object {
        Object::Node(node) => Some(node_info(node)),
        _ => None,
    });
    nodes.collect()
}

/// Addresses worth asking for: those that are named, and the first and the second-last of every prefix.
fn addresses(world: &World) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    let mut prefixes = Vec::new();
    for object in world.values() {
        match object {
            Object::Node(node) => {
                let info = node_info(node);
                all.extend(info.addresses().chain(info.tunnel_addresses()));
                prefixes.extend(info.pod_cidrs);
            }
            Object::Pod(pod) => all.extend(pod_endpoint(pod).into_iter().flat_map(|pod| pod.addresses)),
            Object::IPPool(pool) => prefixes.extend(ip_pool(pool).map(|pool| pool.cidr)),
            Object::BlockAffinity(block) => prefixes.extend(block_affinity(block).map(|block| block.cidr)),
            Object::IPAMBlock(block) => prefixes.extend(ipam_block(block).map(|block| block.cidr)),
            _ => {}
        }
    }
    all.extend(prefixes.iter().flat_map(|cidr| [0, 1, 2].map(|offset| cidr.nth(offset))).flatten());
    all
}

/// Who claims an address, by whose word (the lower counts more), how specifically.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Word {
    /// The more specific first.
    length: Reverse<u8>,
    rank: u8,
    by: String,
    node: String,
}

fn slow_way(world: &World, address: IpAddr) -> Option<String> {
    let mut words = Vec::new();
    let mut say = |prefix: Cidr, rank, by: &str, node: &str| {
        if prefix.contains(address) {
            let length = Reverse(prefix.length());
            words.push(Word { length, rank, by: by.to_owned(), node: node.to_owned() });
        }
    };
    let nodes = nodes(world);
    for info in &nodes {
        info.addresses().for_each(|own| say(Cidr::host(own), 0, "", &info.name));
        info.tunnel_addresses().for_each(|own| say(Cidr::host(own), 1, "", &info.name));
        info.pod_cidrs.iter().for_each(|cidr| say(*cidr, 4, "", &info.name));
    }
    for (key, object) in world {
        let block = match object {
            Object::IPAMBlock(block) => ipam_block(block).map(|block| (2, block)),
            Object::BlockAffinity(block) => block_affinity(block).map(|block| (3, block)),
            _ => None,
        };
        if let Some((rank, block)) = block {
            block.node.iter().for_each(|node| say(block.cidr, rank, &key.name, node));
            block.borrowed.iter().for_each(|(own, node)| say(Cidr::host(*own), 6, &key.name, node));
        }
        if let Object::Pod(pod) = object
            && let Some(pod) = pod_endpoint(pod)
        {
            let id = format!("{}/{}", pod.namespace, pod.name);
            pod.addresses.iter().for_each(|own| say(Cidr::host(*own), 5, &id, &pod.node));
        }
    }
    words.sort();
    // Of each prefix the best word; then the most specific that leads anywhere.
    words.dedup_by_key(|word| word.length);
    let own = nodes.iter().find(|info| info.name == NODE);
    let is_in_a_block = words.iter().any(|word| word.rank != 0);
    for word in &words {
        let remote = nodes.iter().find(|info| info.name == word.node);
        let way = match word.rank {
            0 if !is_in_a_block => None,
            0 | 1 if word.node == NODE => Some("host".to_owned()),
            5 if word.node == NODE => return None,
            6 if word.node == NODE => None,
            _ if word.node == NODE => Some("block".to_owned()),
            // Not said where nothing around it leads anywhere.
            0 => match slow_ways_around(world, &words, own, &nodes, address) {
                true => Some(word.node.clone()),
                false => None,
            },
            _ => remote.and_then(|remote| {
                let how = slow_carriage(world, Cidr::new(address, word.length.0).unwrap(), own, remote)?;
                Some(format!("{}{how}", word.node))
            }),
        };
        if way.is_some() {
            return way;
        }
    }
    Some("-".to_owned())
}

/// Whether any word but the first leads anywhere.
fn slow_ways_around(
    world: &World,
    words: &[Word],
    own: Option<&NodeInfo>,
    nodes: &[NodeInfo],
    address: IpAddr,
) -> bool {
    words[1..].iter().any(|word| {
        let remote = nodes.iter().find(|info| info.name == word.node);
        word.node == NODE
            || remote.is_some_and(|remote| {
                slow_carriage(world, Cidr::new(address, word.length.0).unwrap(), own, remote).is_some()
            })
    })
}

/// The table of modes, read line by line.
fn slow_carriage(
    world: &World,
    prefix: Cidr,
    own: Option<&NodeInfo>,
    remote: &NodeInfo,
) -> Option<&'static str> {
    let mut pools: Vec<(u8, &str, &str, &str)> = Vec::new();
    for (key, object) in world {
        if let Object::IPPool(pool) = object {
            let cidr: Cidr = pool.spec.cidr.parse().unwrap();
            if cidr.covers(&prefix) {
                let (vxlan, ipip) = (&pool.spec.vxlan_mode, &pool.spec.ipip_mode);
                pools.push((
                    255 - cidr.length(),
                    &key.name,
                    vxlan.as_deref().unwrap_or("Never"),
                    ipip.as_deref().unwrap_or("Never"),
                ));
            }
        }
    }
    pools.sort();
    let (vxlan, ipip) = pools.first().map_or(("Always", "Never"), |(_, _, vxlan, ipip)| (*vxlan, *ipip));
    let v4 = prefix.is_ipv4();
    let (mine, theirs) = if v4 {
        (own.and_then(|own| own.subnet), remote.address.map(IpAddr::V4))
    } else {
        (own.and_then(|own| own.subnet_v6), remote.address_v6.map(IpAddr::V6))
    };
    let neighbours = match (mine, theirs) {
        (Some(subnet), Some(address)) => subnet.contains(address),
        _ => false,
    };
    let tunnelled = |mode: &str| mode == "Always" || mode == "CrossSubnet" && !neighbours;
    if tunnelled(ipip) && v4 {
        return remote.address.map(|_| " ipip");
    }
    if !tunnelled(vxlan) {
        return theirs.map(|_| "");
    }
    let four = remote.address.is_some()
        && remote.vxlan_tunnel_address.is_some()
        && own.is_none_or(|own| own.address.is_some());
    let six = [own, Some(remote)].iter().all(|node| {
        node.is_some_and(|node| node.address_v6.is_some() && node.vxlan_tunnel_address_v6.is_some())
    });
    match (v4, four, six) {
        (true, true, _) => Some(" vxlan"),
        (true, false, true) => Some(" vxlan6"),
        (false, _, true) => Some(" vxlan6"),
        (false, true, false) => Some(" vxlan"),
        (_, false, false) => None,
    }
}
