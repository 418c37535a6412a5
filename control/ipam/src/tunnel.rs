//! A node's addresses at the ends of its tunnels: one of each kind that a pool needs, kept as long as a pool does.
//!
//! ```text
//!   no pool of the kind takes the node ──────────────────► what its handle holds is given back; none
//!   its handle holds one that such a pool has ───────────► that one, by choice the one that the node says; others go
//!   the node says one of such a pool, and it is free ────► that one
//!   else ────────────────────────────────────────────────► a new one
//! ```
//!
//! What the handle holds counts, not what the node says: who dies between taking an address and saying so finds it again.

use std::net::IpAddr;

use crate::Nanoseconds;
use crate::assign::{AssignError, AutoAssign, Short, assign_address, auto_assign};
use crate::block::{Attributes, Owner};
use crate::pool::{Pool, Use, World};
use crate::release::{Release, ReleaseError, release_addresses};
use crate::store::{Store, StoreError, block, handle};

/// The kinds of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// VXLAN for IPv4.
    VxlanV4,
    /// VXLAN for IPv6.
    VxlanV6,
    /// IPIP.
    Ipip,
    /// WireGuard for IPv4.
    WireguardV4,
    /// WireGuard for IPv6.
    WireguardV6,
}

impl Tunnel {
    /// All of them.
    pub const ALL: [Tunnel; 5] =
        [Tunnel::VxlanV4, Tunnel::VxlanV6, Tunnel::Ipip, Tunnel::WireguardV4, Tunnel::WireguardV6];

    /// The handle that a node's address is given under.
    #[must_use]
    pub fn handle(self, node: &str) -> String {
        let prefix = match self {
            Tunnel::VxlanV4 => "vxlan-tunnel-addr",
            Tunnel::VxlanV6 => "vxlan-v6-tunnel-addr",
            Tunnel::Ipip => "ipip-tunnel-addr",
            Tunnel::WireguardV4 => "wireguard-tunnel-addr",
            Tunnel::WireguardV6 => "wireguard-v6-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    /// What the attribute `type` of its address says.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Tunnel::VxlanV4 => "vxlanTunnelAddress",
            Tunnel::VxlanV6 => "vxlanV6TunnelAddress",
            Tunnel::Ipip => "ipipTunnelAddress",
            Tunnel::WireguardV4 => "wireguardTunnelAddress",
            Tunnel::WireguardV6 => "wireguardV6TunnelAddress",
        }
    }

    /// Which family its address is of.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        !matches!(self, Tunnel::VxlanV6 | Tunnel::WireguardV6)
    }

    /// The kind that an address was given for.
    #[must_use]
    pub fn of(attributes: &Attributes) -> Option<Tunnel> {
        let kind = attributes.owner.get("type")?;
        Tunnel::ALL.into_iter().find(|tunnel| tunnel.attribute() == kind)
    }

    /// The pools that the address may come from, for the node that `world` has the labels of.
    #[must_use]
    pub fn pools(self, world: &World) -> Vec<&Pool> {
        let is_of_kind = |pool: &&Pool| {
            let has_tunnel = match self {
                Tunnel::VxlanV4 | Tunnel::VxlanV6 => pool.vxlan,
                Tunnel::Ipip => pool.ipip,
                Tunnel::WireguardV4 | Tunnel::WireguardV6 => true,
            };
            has_tunnel
                && !pool.disabled
                && pool.cidr.is_ipv4() == self.is_ipv4()
                && pool.uses.contains(&Use::Tunnel)
                && world.selects_node(pool)
        };
        world.pools.iter().filter(is_of_kind).collect()
    }
}

/// Why a node has no tunnel address, or why it is not known whether it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// None is free.
    #[error(transparent)]
    Short(#[from] Short),
    /// One could not be taken.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// One could not be given back.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sees to it that a node has the address that it needs for a kind of tunnel, and no other; none when it needs none.
/// `current`: the one that the node says it has. One that is in no pool, and not of the node's handle, is somebody else's
/// business and stays.
///
/// To be called at start and when pools, or the node's labels, change; twice in a row is once. For WireGuard only when it is
/// wanted at all.
///
/// # Errors
/// [`TunnelError`]; what was done until then is found again the next time.
pub async fn ensure_tunnel_address<S: Store>(
    store: &S,
    world: &World,
    node: &str,
    tunnel: Tunnel,
    current: Option<IpAddr>,
    now: Nanoseconds,
) -> Result<Option<IpAddr>, TunnelError> {
    let current = current.filter(|address| address.is_ipv4() == tunnel.is_ipv4());
    let pools = tunnel.pools(world);
    let is_good = |address: &IpAddr| pools.iter().any(|pool| pool.cidr.contains(*address));
    let id = tunnel.handle(node);

    let held = held(store, world, &id, current).await?;
    let of_node = current.filter(|address| held.contains(address) && is_good(address));
    let kept = of_node.or_else(|| held.iter().copied().find(is_good));
    let others: Vec<Release> = held
        .iter()
        .filter(|address| Some(**address) != kept)
        .map(|address| Release { address: *address, handle: Some(id.clone()), sequence: None })
        .collect();
    if !others.is_empty() {
        release_addresses(store, world, &others, now).await?;
    }
    if kept.is_some() {
        return Ok(kept);
    }
    let is_in_a_pool = |address: &IpAddr| world.pools.iter().any(|pool| pool.cidr.contains(*address));
    if let Some(somebodys) = current.filter(|address| !is_in_a_pool(address) && !held.contains(address)) {
        return Ok(Some(somebodys));
    }
    if pools.is_empty() {
        return Ok(None);
    }

    let owner = Owner::Host(node.to_owned());
    let attributes = Attributes {
        handle: Some(id),
        owner: [("node", node), ("type", tunnel.attribute())]
            .map(|(key, text)| (key.to_owned(), text.to_owned()))
            .into(),
        ..Attributes::default()
    };
    if let Some(wanted) = current.filter(is_good) {
        match assign_address(store, world, wanted, &attributes, &owner, Some(Use::Tunnel), now).await {
            Ok(()) => return Ok(Some(wanted)),
            // Somebody else's by now.
            Err(AssignError::AlreadyGiven(_) | AssignError::NotYourBlock { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let wanted = AutoAssign {
        v4: usize::from(tunnel.is_ipv4()),
        v6: usize::from(!tunnel.is_ipv4()),
        attributes,
        owner,
        pools: pools.iter().map(|pool| pool.cidr).collect(),
        usage: Use::Tunnel,
        max_blocks: 0,
    };
    let (v4, v6) = auto_assign(store, world, &wanted, now).await?;
    let given = if tunnel.is_ipv4() { v4 } else { v6 };
    match (given.addresses.first(), given.short) {
        (Some((address, _)), _) => Ok(Some(*address)),
        (None, Some(short)) => Err(short.into()),
        (None, None) => Ok(None),
    }
}

/// The addresses that a handle holds; with the current one, which it may hold without counting it.
async fn held<S: Store>(
    store: &S,
    world: &World,
    id: &str,
    current: Option<IpAddr>,
) -> Result<Vec<IpAddr>, StoreError> {
    let mut cidrs: Vec<_> = match handle(store, id).await? {
        Some((handle, _)) => handle.blocks.into_keys().collect(),
        None => Vec::new(),
    };
    let of = |address| world.pools.iter().find_map(|pool| pool.block_of(address));
    if let Some(cidr) = current.and_then(of).filter(|cidr| !cidrs.contains(cidr)) {
        cidrs.push(cidr);
    }
    let mut held = Vec::new();
    for cidr in cidrs {
        if let Some((block, _)) = block(store, cidr).await? {
            let of_handle = block.given().filter(|(_, attributes)| attributes.handle.as_deref() == Some(id));
            held.extend(of_handle.map(|(address, _)| address));
        }
    }
    Ok(held)
}
