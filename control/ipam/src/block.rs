//! A block: the addresses of a prefix, and who has which.
//!
//! ```text
//!   address      allocations   attributes
//!   10.244.1.0   Some(0) ────► 0: handle vxlan-tunnel-addr-n1
//!   10.244.1.1   Some(1) ────► 1: released at …              (cooling down)
//!   10.244.1.2   None                                        unallocated: 2, 3, …   the first is given next
//! ```
//!
//! Every address is in exactly one of two places: it has an allocation, or it is in `unallocated`, once. Every entry of
//! `attributes` is somebody's. [`Block::check`] sees to it that this is so of what others wrote, or says why it cannot.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use serde_json::Value;

use crate::Nanoseconds;

/// The largest block that is read: as many as a /16 of IPv4, more than any pool's `blockSize` allows.
const ADDRESSES_MAX: u32 = 1 << 16;

/// Who allocates from a block of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A node.
    Host(String),
    /// Something else: `load-balancer`.
    Virtual(String),
}

impl Owner {
    /// `host:NODE` or `virtual:NAME`, as a block's `affinity` has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Owner> {
        let (kind, name) = text.split_once(':')?;
        match kind {
            "host" => Some(Owner::Host(name.to_owned())),
            "virtual" => Some(Owner::Virtual(name.to_owned())),
            _ => None,
        }
    }

    /// The node's name, or what stands for it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Owner::Host(name) | Owner::Virtual(name) => name,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Host(name) => write!(f, "host:{name}"),
            Owner::Virtual(name) => write!(f, "virtual:{name}"),
        }
    }
}

/// What is known of addresses that were given out together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The handle that they are released by.
    pub handle: Option<String>,
    /// Their owner: `node`, `pod`, `namespace`, `timestamp`, `type`.
    pub owner: BTreeMap<String, String>,
    /// Who may take them over.
    pub alternate_owner: BTreeMap<String, String>,
    /// Since when they have been given back, while they cool down. They are nobody's then.
    pub released: Option<Nanoseconds>,
    /// Whatever else others wrote about them, kept as it is.
    pub others: BTreeMap<String, Value>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cidr: Cidr,
    /// Who allocates from it; anybody who has found nothing of its own may borrow.
    pub owner: Option<Owner>,
    /// Since when it has that owner.
    pub claimed: Option<Nanoseconds>,
    /// Whether nobody may borrow.
    pub strict_affinity: bool,
    allocations: Vec<Option<usize>>,
    unallocated: Vec<u32>,
    attributes: Vec<Attributes>,
    /// Grows with each write; begins at the nanosecond of its making.
    sequence: u64,
    sequence_of: BTreeMap<u32, u64>,
}

/// What of a block others wrote does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// As many addresses are not managed as one block.
    #[error("block {cidr} has more than {ADDRESSES_MAX} addresses")]
    Size {
        /// The block.
        cidr: Cidr,
    },
    /// There is not one allocation for each address.
    #[error("block {cidr} has {found} allocations for {addresses} addresses")]
    Allocations {
        /// The block.
        cidr: Cidr,
        /// How many there are.
        found: usize,
        /// How many there should be.
        addresses: u32,
    },
    /// An allocation leads nowhere.
    #[error("block {cidr}: address {ordinal} has attributes {attribute}, and there are none")]
    Attribute {
        /// The block.
        cidr: Cidr,
        /// The address's place.
        ordinal: u32,
        /// What it names.
        attribute: i64,
    },
}

/// The parts of a block, as its object has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// See [`Block::owner`].
    pub owner: Option<Owner>,
    /// See [`Block::claimed`].
    pub claimed: Option<Nanoseconds>,
    /// See [`Block::strict_affinity`].
    pub strict_affinity: bool,
    /// By address.
    pub allocations: Vec<Option<i64>>,
    /// Places of free addresses, in the order in which they are given.
    pub unallocated: Vec<i64>,
    /// What allocations name.
    pub attributes: Vec<Attributes>,
    /// Its sequence number.
    pub sequence: u64,
    /// Its sequence number when an address was given, by the address's place.
    pub sequence_of: BTreeMap<u32, u64>,
}

/// How many addresses a prefix has, if that is no more than a block may.
#[must_use]
pub fn size(cidr: Cidr) -> Option<u32> {
    let bits = if cidr.is_ipv4() { 32 } else { 128 };
    1u32.checked_shl(u32::from(bits - cidr.length())).filter(|size| *size <= ADDRESSES_MAX)
}

impl Block {
    /// A block of which nothing is given.
    ///
    /// # Errors
    /// It is too large.
    pub fn new(
        cidr: Cidr,
        owner: Option<Owner>,
        strict_affinity: bool,
        now: Nanoseconds,
    ) -> Result<Block, BlockError> {
        let size = size(cidr).ok_or(BlockError::Size { cidr })?;
        Ok(Block {
            cidr,
            claimed: owner.as_ref().map(|_| now),
            owner,
            strict_affinity,
            allocations: vec![None; size as usize],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequence: now.0,
            sequence_of: BTreeMap::new(),
        })
    }

    /// A block as somebody wrote it, if it fits together.
    ///
    /// # Errors
    /// It does not.
    pub fn check(cidr: Cidr, parts: Parts) -> Result<Block, BlockError> {
        let size = size(cidr).ok_or(BlockError::Size { cidr })?;
        let found = parts.allocations.len();
        if found != size as usize {
            return Err(BlockError::Allocations { cidr, found, addresses: size });
        }
        let attributes = parts.attributes.len();
        let named = |(ordinal, allocation): (u32, Option<i64>)| match allocation {
            None => Ok(None),
            Some(attribute) => usize::try_from(attribute)
                .ok()
                .filter(|index| *index < attributes)
                .map(Some)
                .ok_or(BlockError::Attribute { cidr, ordinal, attribute }),
        };
        let allocations: Vec<Option<usize>> =
            (0..size).zip(parts.allocations).map(named).collect::<Result<_, _>>()?;
        // Allocations decide. What is free besides is free once, however often it is said, or if it is not said at all.
        let mut is_said = vec![false; size as usize];
        let mut unallocated = Vec::with_capacity(parts.unallocated.len());
        for ordinal in
            parts.unallocated.into_iter().filter_map(|place| u32::try_from(place).ok()).chain(0..size)
        {
            let is_free = allocations.get(ordinal as usize).is_some_and(Option::is_none);
            if let Some(said) = is_said.get_mut(ordinal as usize).filter(|said| is_free && !**said) {
                *said = true;
                unallocated.push(ordinal);
            }
        }
        Ok(Block {
            cidr,
            owner: parts.owner,
            claimed: parts.claimed,
            strict_affinity: parts.strict_affinity,
            allocations,
            unallocated,
            attributes: parts.attributes,
            sequence: parts.sequence,
            sequence_of: parts.sequence_of,
        })
    }

    /// The same, to be written.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            owner: self.owner.clone(),
            claimed: self.claimed,
            strict_affinity: self.strict_affinity,
            allocations: self.allocations.iter().map(|index| index.map(|index| index as i64)).collect(),
            unallocated: self.unallocated.iter().map(|ordinal| i64::from(*ordinal)).collect(),
            attributes: self.attributes.clone(),
            sequence: self.sequence,
            sequence_of: self.sequence_of.clone(),
        }
    }

    /// Its prefix.
    #[must_use]
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// Its sequence number: another after each write.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether nobody has an address of it. One that cools down is nobody's.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given().next().is_none()
    }

    /// Whether an address of it cools down still: until then the block stays, or who makes it anew would give that at once.
    #[must_use]
    pub fn is_cooling(&self, cooldown_s: u64, now: Nanoseconds) -> bool {
        let since = self.attributes.iter().filter_map(|attributes| attributes.released);
        since.into_iter().any(|since| now.seconds_since(since) < cooldown_s)
    }

    /// The address at a place.
    #[must_use]
    pub fn address(&self, ordinal: u32) -> Option<IpAddr> {
        self.cidr.nth(ordinal)
    }

    /// The place of an address.
    #[must_use]
    pub fn ordinal(&self, address: IpAddr) -> Option<u32> {
        if !self.cidr.contains(address) {
            return None;
        }
        let offset = match (address, self.cidr.address()) {
            (IpAddr::V4(a), IpAddr::V4(first)) => u128::from(a.to_bits() - first.to_bits()),
            (IpAddr::V6(a), IpAddr::V6(first)) => a.to_bits() - first.to_bits(),
            _ => return None,
        };
        u32::try_from(offset).ok()
    }

    /// The addresses that somebody has, with what is known of them.
    pub fn given(&self) -> impl Iterator<Item = (IpAddr, &Attributes)> {
        (0u32..).zip(&self.allocations).filter_map(|(ordinal, allocation)| {
            let attributes = self.attributes.get((*allocation)?)?;
            if attributes.released.is_some() {
                return None;
            }
            Some((self.address(ordinal)?, attributes))
        })
    }

    /// What is known of an address that somebody has.
    #[must_use]
    pub fn attributes(&self, address: IpAddr) -> Option<&Attributes> {
        let allocation = self.allocations.get(self.ordinal(address)? as usize)?;
        self.attributes.get((*allocation)?).filter(|attributes| attributes.released.is_none())
    }

    /// The block's sequence number when the address was given.
    #[must_use]
    pub fn sequence_of(&self, address: IpAddr) -> Option<u64> {
        self.sequence_of.get(&self.ordinal(address)?).copied()
    }

    /// Whether an address could be taken now.
    #[must_use]
    pub fn has_free(&self, is_reserved: impl Fn(IpAddr) -> bool) -> bool {
        self.unallocated.iter().any(|ordinal| self.address(*ordinal).is_some_and(|a| !is_reserved(a)))
    }

    /// Gives up to `count` addresses in the order in which they became free, leaving out reserved ones.
    pub fn take(
        &mut self,
        count: usize,
        attributes: &Attributes,
        is_reserved: impl Fn(IpAddr) -> bool,
    ) -> Vec<IpAddr> {
        let wanted = self.unallocated.iter().copied().filter_map(|ordinal| {
            let address = self.cidr.nth(ordinal)?;
            (!is_reserved(address)).then_some((ordinal, address))
        });
        let taken: Vec<(u32, IpAddr)> = wanted.take(count).collect();
        for (ordinal, _) in &taken {
            self.give(*ordinal, attributes);
        }
        taken.into_iter().map(|(_, address)| address).collect()
    }

    /// Gives one address. False: somebody has it, it cools down, or it is not of this block.
    pub fn take_address(&mut self, address: IpAddr, attributes: &Attributes) -> bool {
        match self.ordinal(address) {
            Some(ordinal) if self.unallocated.contains(&ordinal) => {
                self.give(ordinal, attributes);
                true
            }
            _ => false,
        }
    }

    fn give(&mut self, ordinal: u32, attributes: &Attributes) {
        let index = self.attribute_index(attributes);
        self.unallocated.retain(|free| *free != ordinal);
        if let Some(allocation) = self.allocations.get_mut(ordinal as usize) {
            *allocation = Some(index);
        }
        self.sequence_of.insert(ordinal, self.sequence);
    }

    fn attribute_index(&mut self, attributes: &Attributes) -> usize {
        let known = self.attributes.iter().position(|known| known == attributes);
        known.unwrap_or_else(|| {
            self.attributes.push(attributes.clone());
            self.attributes.len() - 1
        })
    }

    /// Takes addresses back; those that nobody has are left out. They are given again when `cooldown_s` has passed, after all
    /// that are free before. Returns the addresses and their handles.
    pub fn release(
        &mut self,
        addresses: &[IpAddr],
        cooldown_s: u64,
        now: Nanoseconds,
    ) -> Vec<(IpAddr, Option<String>)> {
        let mut ordinals: Vec<u32> = addresses.iter().filter_map(|address| self.ordinal(*address)).collect();
        // In the order of the addresses, however they were named, and each once.
        ordinals.sort_unstable();
        ordinals.dedup();
        let mut released = Vec::new();
        for ordinal in ordinals {
            let Some(address) = self.address(ordinal) else { continue };
            let Some(attributes) = self.attributes(address) else { continue };
            released.push((address, attributes.handle.clone()));
            self.sequence_of.remove(&ordinal);
            let cooling = Attributes { released: Some(now), ..Attributes::default() };
            let allocation = if cooldown_s == 0 { None } else { Some(self.attribute_index(&cooling)) };
            if allocation.is_none() {
                self.unallocated.push(ordinal);
            }
            if let Some(place) = self.allocations.get_mut(ordinal as usize) {
                *place = allocation;
            }
        }
        self.forget_unused_attributes();
        released
    }

    /// Makes addresses free that have cooled down. Whether there were any.
    pub fn end_cooldowns(&mut self, cooldown_s: u64, now: Nanoseconds) -> bool {
        let is_over = |attributes: &Attributes| {
            attributes.released.is_some_and(|since| now.seconds_since(since) >= cooldown_s)
        };
        let over: Vec<bool> = self.attributes.iter().map(is_over).collect();
        let mut ended = false;
        for (ordinal, allocation) in (0u32..).zip(&mut self.allocations) {
            if allocation.is_some_and(|index| over.get(index) == Some(&true)) {
                *allocation = None;
                self.unallocated.push(ordinal);
                ended = true;
            }
        }
        self.forget_unused_attributes();
        ended
    }

    fn forget_unused_attributes(&mut self) {
        let mut new_index = vec![None; self.attributes.len()];
        for index in self.allocations.iter().flatten() {
            if let Some(used) = new_index.get_mut(*index) {
                *used = Some(0);
            }
        }
        for (kept, used) in new_index.iter_mut().flatten().enumerate() {
            *used = kept;
        }
        let mut of = new_index.iter();
        self.attributes.retain(|_| of.next().is_some_and(Option::is_some));
        for allocation in &mut self.allocations {
            *allocation = allocation.and_then(|index| new_index.get(index).copied().flatten());
        }
    }

    /// To be called once for each write.
    pub fn count_write(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }
}
