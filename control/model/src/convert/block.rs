//! BlockAffinity, IPAMBlock → [`Block`]: whose addresses are where.

use std::net::IpAddr;

use crate::calico::{BlockAffinity, IPAMBlock};
use crate::cidr::Cidr;

/// A block of addresses, as address management says it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The addresses.
    pub cidr: Cidr,
    /// The node that it belongs to; `None` when no node has it.
    pub node: Option<String>,
    /// Addresses of it that other nodes have borrowed.
    pub borrowed: Vec<(IpAddr, String)>,
}

/// The block that a node has; `None` while it is not its own for certain, or is about to go.
pub fn block_affinity(affinity: &BlockAffinity) -> Option<Block> {
    let spec = &affinity.spec;
    let is_of_a_node = spec.kind.as_deref().is_none_or(|kind| kind.is_empty() || kind == "host");
    let is_confirmed = spec.state == "confirmed" && spec.deleted != Some(true);
    let is_named = !spec.node.is_empty();
    (is_of_a_node && is_confirmed && is_named).then_some(())?;
    Some(Block { cidr: block_cidr(&spec.cidr)?, node: Some(spec.node.clone()), borrowed: Vec::new() })
}

/// The addresses of a block. `None` also for those that are all there are: the host's default route would end with us.
pub(super) fn block_cidr(text: &str) -> Option<Cidr> {
    text.parse().ok().filter(|cidr: &Cidr| cidr.length() > 0)
}

/// The block with who has its addresses; `None` when it is about to go, or cannot be read.
pub fn ipam_block(block: &IPAMBlock) -> Option<Block> {
    let spec = &block.spec;
    if spec.deleted == Some(true) {
        return None;
    }
    let cidr = block_cidr(&spec.cidr)?;
    let node = spec.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"));
    let attributes = spec.attributes.as_deref().unwrap_or_default();
    let borrowed = (0..).zip(spec.allocations.iter().flatten()).filter_map(|(offset, attribute)| {
        let attribute = attributes.get(usize::try_from((*attribute)?).ok()?)?;
        // An address that cools down is nobody's.
        let owner = attribute.secondary.as_ref().filter(|_| attribute.released_at.is_none())?.get("node")?;
        (Some(owner.as_str()) != node).then_some(())?;
        Some((cidr.nth(offset)?, owner.clone()))
    });
    Some(Block { cidr, node: node.map(str::to_owned), borrowed: borrowed.collect() })
}
