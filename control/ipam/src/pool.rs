//! What address management only reads: pools, reservations, settings, labels; and which pools qualify.

use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_model::labels::Labels;
use caracal_model::selector::Selector;

use crate::assign::AssignError;
use crate::block;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A pod.
    Workload,
    /// A node's end of a tunnel.
    Tunnel,
    /// A service's external address.
    LoadBalancer,
}

/// A pool, as far as addresses are given from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub cidr: Cidr,
    /// The prefix length of its blocks.
    pub block_length: u8,
    /// Whether it gives nothing.
    pub disabled: bool,
    /// What its addresses may be for.
    pub uses: Vec<Use>,
    /// Whether only those get addresses of it who ask for it by name.
    pub manual: bool,
    /// Nodes that take addresses of it. None: a selector that cannot be read, which selects nobody.
    pub nodes: Option<Selector>,
    /// Namespaces whose pods do.
    pub namespaces: Option<Selector>,
    /// Whether packets to its addresses go in VXLAN, between some nodes or all.
    pub vxlan: bool,
    /// The same of IPIP.
    pub ipip: bool,
}

/// IPAMConfiguration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Nobody allocates from another's block.
    pub strict_affinity: bool,
    /// Nodes take blocks as they need them.
    pub auto_allocate_blocks: bool,
    /// How many blocks a node may have; 0: the built-in limit, unless the request has one.
    pub max_blocks_per_host: u32,
    /// For how long an address that came back is not given again, seconds.
    pub cooldown_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { strict_affinity: false, auto_allocate_blocks: true, max_blocks_per_host: 0, cooldown_s: 0 }
    }
}

/// How many blocks a node may have where nobody says.
const BLOCKS_OF_A_HOST: u32 = 20;

/// All that is read and not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct World {
    /// Every pool.
    pub pools: Vec<Pool>,
    /// Addresses that nobody is given.
    pub reservations: Vec<Cidr>,
    /// How addresses are given.
    pub settings: Settings,
    /// Of the node that asks.
    pub node_labels: Labels,
    /// Of the namespace of the pod that asks; empty if that is not known.
    pub namespace_labels: Labels,
}

impl World {
    /// Whether an address is reserved.
    #[must_use]
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.reservations.iter().any(|reserved| reserved.contains(address))
    }

    /// Whether every address of a block is reserved.
    #[must_use]
    pub fn is_all_reserved(&self, cidr: Cidr) -> bool {
        if self.reservations.iter().any(|reserved| reserved.covers(&cidr)) {
            return true;
        }
        let touched = self.reservations.iter().any(|reserved| cidr.covers(reserved));
        touched
            && (0..block::size(cidr).unwrap_or(0)).all(|i| cidr.nth(i).is_some_and(|a| self.is_reserved(a)))
    }

    /// How many blocks a node may have.
    #[must_use]
    pub fn block_limit(&self, requested: u32) -> u32 {
        let limits = [requested, self.settings.max_blocks_per_host].into_iter().filter(|limit| *limit > 0);
        limits.min().unwrap_or(BLOCKS_OF_A_HOST)
    }

    /// The pools that addresses of a family may come from, in the order in which they are asked. `requested`: exactly these.
    ///
    /// # Errors
    /// There are none; or a requested one is not there, or disabled.
    pub fn candidates(
        &self,
        ipv4: bool,
        requested: &[Cidr],
        usage: Use,
        node: &str,
    ) -> Result<Vec<&Pool>, AssignError> {
        let mut enabled: Vec<&Pool> =
            self.pools.iter().filter(|pool| !pool.disabled && pool.cidr.is_ipv4() == ipv4).collect();
        enabled.sort_by(|a, b| a.name.cmp(&b.name));
        let candidates: Vec<&Pool> = if requested.is_empty() {
            let selects = |pool: &&Pool| {
                !pool.manual
                    && self.selects_node(pool)
                    && pool
                        .namespaces
                        .as_ref()
                        .is_some_and(|selector| selector.matches(&self.namespace_labels))
            };
            enabled.into_iter().filter(selects).collect()
        } else {
            let find = |cidr: &Cidr| {
                let found = enabled.iter().find(|pool| pool.cidr == *cidr);
                found.copied().ok_or(AssignError::NoSuchPool(*cidr))
            };
            requested.iter().map(find).collect::<Result<_, _>>()?
        };
        if candidates.is_empty() {
            return Err(AssignError::NoPools { node: node.to_owned() });
        }
        let allowed: Vec<&Pool> = candidates.into_iter().filter(|pool| pool.uses.contains(&usage)).collect();
        if allowed.is_empty() { Err(AssignError::NoQualifiedPool { usage }) } else { Ok(allowed) }
    }

    /// Whether a pool's node selector takes the node that asks.
    #[must_use]
    pub fn selects_node(&self, pool: &Pool) -> bool {
        pool.nodes.as_ref().is_some_and(|selector| selector.matches(&self.node_labels))
    }

    /// The enabled pool that an address is in.
    #[must_use]
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| !pool.disabled && pool.cidr.contains(address))
    }
}

impl Pool {
    /// The block that holds an address of this pool.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<Cidr> {
        if !self.cidr.contains(address) || self.block_length < self.cidr.length() {
            return None;
        }
        Cidr::new(address, self.block_length).ok()
    }

    /// The blocks, once each, from the `start`th on and round.
    pub fn blocks_from(&self, start: u128) -> impl Iterator<Item = Cidr> {
        let (bits, first) = match self.cidr.address() {
            IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (128, v6.to_bits()),
        };
        let (is_ipv4, length) = (self.cidr.is_ipv4(), self.block_length);
        // Blocks larger than the pool would hold addresses that are not its; smaller than an address there are none.
        let is_possible = (self.cidr.length()..=bits).contains(&length);
        let shift = u32::from(length.saturating_sub(self.cidr.length()));
        // As many as there are; 2^128 of them nobody walks.
        let count = if is_possible { 1u128.checked_shl(shift).unwrap_or(u128::MAX) } else { 0 };
        let step = 1u128.checked_shl(u32::from(bits.saturating_sub(length))).unwrap_or(0);
        let start = start.checked_rem(count).unwrap_or(0);
        (0..count).filter_map(move |i| {
            let number = start.checked_add(i).map_or(i, |at| at % count);
            let address = first.checked_add(number.checked_mul(step)?)?;
            let address = if is_ipv4 {
                IpAddr::V4(u32::try_from(address).ok()?.into())
            } else {
                IpAddr::V6(address.into())
            };
            Cidr::new(address, length).ok()
        })
    }
}
