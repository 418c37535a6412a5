//! Giving addresses.
//!
//! ```text
//!   pools that qualify ─► own blocks, in the store's order ─► enough? done
//!                          │ no: at the limit of blocks? ─► short
//!                          ├─ a block that nobody has, from a place that the node's name gives ─► claim ─► take
//!                          ├─ else an empty one of another node's, a minute old ─► reclaim ─► take
//!                          └─ else, if blocks are not strictly their owners', borrow from any
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use caracal_model::cidr::Cidr;

use crate::affinity::{self, AffinityError, AffinityState, Claim};
use crate::block::{Attributes, Block, Owner};
use crate::handle::{HandleError, decrement, increment};
use crate::pool::{Pool, Use, World};
use crate::store::{Key, Record, Store, StoreError, WriteError, block, handle, overlap};
use crate::{Nanoseconds, RETRIES};

/// An empty block of another owner's is left to it for so long.
const RECLAIM_AFTER_S: u64 = 60;
/// Blocks that are looked at for a free one beyond those that exist: reserved ones, that is.
const RESERVED_MAX: usize = 1 << 16;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoAssign {
    /// IPv4 addresses.
    pub v4: usize,
    /// IPv6 addresses.
    pub v6: usize,
    /// The handle to release them by, and who has them.
    pub attributes: Attributes,
    /// Who asks, and owns the blocks that are claimed.
    pub owner: Owner,
    /// Exactly these pools, by their CIDRs; none: those that select the asker.
    pub pools: Vec<Cidr>,
    /// What they are for.
    pub usage: Use,
    /// How many blocks the owner may have; 0: as the settings say.
    pub max_blocks: u32,
}

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assigned {
    /// Addresses, with the prefix lengths of their blocks.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Why they are fewer than asked for.
    pub short: Option<Short>,
}

/// Why fewer addresses were given than asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// The owner may have no more blocks.
    #[error(
        "{owner} has {limit} blocks, as many as it may have; raise maxBlocksPerHost of IPAMConfiguration, or add a pool with larger blocks (a smaller blockSize)"
    )]
    BlockLimit {
        /// Who asked.
        owner: Owner,
        /// How many it may have.
        limit: u32,
    },
    /// The pools are used up.
    #[error("no free address in pools {0}; add a pool, or remove pods")]
    Exhausted(String),
    /// The pools have no free block, and others' are not borrowed from.
    #[error(
        "no free block in pools {0}, and strictAffinity forbids borrowing from other nodes' blocks; add a pool"
    )]
    Strict(String),
}

/// Why no address was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// A requested pool.
    #[error("there is no enabled pool {0}")]
    NoSuchPool(Cidr),
    /// No pool is for the one who asks.
    #[error("no configured Calico pools for node {node}")]
    NoPools {
        /// The node.
        node: String,
    },
    /// No pool is for that.
    #[error("no qualified pool: none of the pools allows addresses for {usage:?}")]
    NoQualifiedPool {
        /// For what.
        usage: Use,
    },
    /// An address that is in no pool.
    #[error("{0} is in no enabled pool")]
    NotInAPool(IpAddr),
    /// Somebody has it.
    #[error("{0} is given already, or cools down")]
    AlreadyGiven(IpAddr),
    /// The handle has as many addresses as it may.
    #[error("handle {handle} has {count} addresses, and may have {max} at most")]
    HandleFull {
        /// The handle.
        handle: String,
        /// How many it has.
        count: u64,
        /// How many it may have.
        max: u64,
    },
    /// It is of a block of somebody else's.
    #[error(
        "{address} is of block {cidr}, which is not {owner}'s, and strictAffinity forbids borrowing from others"
    )]
    NotYourBlock {
        /// The address.
        address: IpAddr,
        /// Its block.
        cidr: Cidr,
        /// Who asked.
        owner: Owner,
    },
    /// A block gives nothing where one of another size is.
    #[error(
        "block {cidr} cannot be used: block {other} has addresses of it; release those, or give the pool the former blockSize"
    )]
    Overlap {
        /// The block.
        cidr: Cidr,
        /// The one that is there.
        other: Cidr,
    },
    /// Others changed the block each time.
    #[error("block {0}: others changed it in every one of {RETRIES} attempts")]
    Contended(Cidr),
    /// A block could not be claimed.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// The handle could not be changed.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives addresses of both families, as many as asked for if there are any. Fewer is no error: [`Assigned::short`] says why,
/// and the caller gives back what it does not want.
///
/// # Errors
/// No pool qualifies, or the store could not be asked. Addresses that were given before that are released by their handle.
pub async fn auto_assign<S: Store>(
    store: &S,
    world: &World,
    wanted: &AutoAssign,
    now: Nanoseconds,
) -> Result<(Assigned, Assigned), AssignError> {
    auto_assign_near(store, world, wanted, &[], now).await
}

/// The same, beginning with blocks that the owner is thought to have, the likeliest first: as long as they have room, nobody
/// is asked which there are, and an address costs three requests. A wrong one costs a look.
///
/// # Errors
/// As [`auto_assign`].
pub async fn auto_assign_near<S: Store>(
    store: &S,
    world: &World,
    wanted: &AutoAssign,
    near: &[Cidr],
    now: Nanoseconds,
) -> Result<(Assigned, Assigned), AssignError> {
    let mut taker = Taker { store, world, attributes: &wanted.attributes, now, may_be_counted: false };
    let mut given = [Assigned::default(), Assigned::default()];
    for ((ipv4, count), given) in [(true, wanted.v4), (false, wanted.v6)].into_iter().zip(&mut given) {
        if count > 0 {
            *given = of_family(&mut taker, wanted, near, ipv4, count).await?;
        }
    }
    let [v4, v6] = given;
    Ok((v4, v6))
}

async fn of_family<S: Store>(
    taker: &mut Taker<'_, S>,
    wanted: &AutoAssign,
    near: &[Cidr],
    ipv4: bool,
    count: usize,
) -> Result<Assigned, AssignError> {
    let (store, world, now) = (taker.store, taker.world, taker.now);
    let owner = &wanted.owner;
    let requested: Vec<Cidr> = wanted.pools.iter().copied().filter(|pool| pool.is_ipv4() == ipv4).collect();
    let pools = world.candidates(ipv4, &requested, wanted.usage, owner.name())?;
    let is_candidate = |cidr: Cidr| pools.iter().any(|pool| pool.cidr.covers(&cidr));
    let mut given = Assigned::default();
    for cidr in near.iter().copied().filter(|cidr| is_candidate(*cidr)) {
        taker.take(cidr, Some(owner), count, &mut given).await?;
        if given.addresses.len() >= count {
            return Ok(given);
        }
    }

    let mut own = BTreeSet::new();
    // Blocks that gave way to others are not claimed once more for this request.
    let mut tried = BTreeSet::new();
    for (claim, _) in store.affinities(owner).await? {
        if claim.cidr.is_ipv4() != ipv4 {
            continue;
        }
        let pool = world.pools.iter().find(|pool| pool.cidr.covers(&claim.cidr));
        if pool.is_some_and(|pool| !world.selects_node(pool)) {
            // Kept while it is used; who cannot be asked now is asked the next time.
            let _ = affinity::release(store, owner, claim.cidr, true).await;
        }
        if !is_candidate(claim.cidr) {
            continue;
        }
        own.insert(claim.cidr);
        if given.addresses.len() < count && claim.state != AffinityState::PendingDeletion {
            let strict = world.settings.strict_affinity;
            if claim.state == AffinityState::Pending
                && if_readable(affinity::claim(store, owner, claim.cidr, strict, now).await)? == Claim::Taken
            {
                own.remove(&claim.cidr);
                continue;
            }
            if taker.take(claim.cidr, Some(owner), count, &mut given).await? == Took::GaveWay {
                own.remove(&claim.cidr);
                tried.insert(claim.cidr);
            }
        }
    }

    let limit = world.block_limit(wanted.max_blocks);
    let mut attempts = 0;
    while given.addresses.len() < count {
        if own.len() as u64 >= u64::from(limit) {
            given.short = Some(Short::BlockLimit { owner: owner.clone(), limit });
            return Ok(given);
        }
        attempts += 1;
        let found = match world.settings.auto_allocate_blocks && attempts <= RETRIES {
            true => new_block(store, world, &pools, owner, &(&own | &tried), now).await?,
            false => None,
        };
        let Some(cidr) = found else { break };
        match taker.take(cidr, Some(owner), count, &mut given).await? {
            Took::What => own.insert(cidr),
            Took::GaveWay => tried.insert(cidr),
        };
    }

    let names = || pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
    if given.addresses.len() < count && world.settings.strict_affinity {
        given.short = Some(Short::Strict(names()));
        return Ok(given);
    }
    if given.addresses.len() < count {
        for (mut block, _) in store.blocks().await? {
            if given.addresses.len() >= count || !is_candidate(block.cidr()) || block.strict_affinity {
                continue;
            }
            // Most are full; those are not asked for again.
            block.end_cooldowns(world.settings.cooldown_s, now);
            if block.has_free(|address| world.is_reserved(address)) {
                taker.take(block.cidr(), None, count, &mut given).await?;
            }
        }
    }
    if given.addresses.len() < count {
        given.short = Some(Short::Exhausted(names()));
    }
    Ok(given)
}

/// Claims a block that is none of `but`: one that does not exist, or that is the
/// owner's and has lost its affinity; else an empty one that another has had for a while.
async fn new_block<S: Store>(
    store: &S,
    world: &World,
    pools: &[&Pool],
    owner: &Owner,
    but: &BTreeSet<Cidr>,
    now: Nanoseconds,
) -> Result<Option<Cidr>, AssignError> {
    let existing: BTreeMap<Cidr, Block> =
        store.blocks().await?.into_iter().map(|(block, _)| (block.cidr(), block)).collect();
    let strict = world.settings.strict_affinity;
    for pool in pools {
        let is_single =
            crate::block::size(Cidr::new(pool.cidr.address(), pool.block_length).unwrap_or(pool.cidr))
                == Some(1);
        let odd = existing.keys().filter(|block| block.length() != pool.block_length);
        let odd: Vec<Cidr> = odd.copied().filter(|block| overlap(*block, pool.cidr)).collect();
        let start = if is_single { u128::from(now.0) } else { u128::from(fnv32(owner.name())) };
        for cidr in pool.blocks_from(start).take(existing.len() + RESERVED_MAX) {
            let is_anothers = existing.get(&cidr).is_some_and(|block| block.owner.as_ref() != Some(owner));
            let is_given_otherwise = odd.iter().any(|block| overlap(*block, cidr));
            if is_anothers || is_given_otherwise || but.contains(&cidr) || world.is_all_reserved(cidr) {
                continue;
            }
            let claimed = match existing.contains_key(&cidr) {
                true => affinity::claim(store, owner, cidr, strict, now).await,
                false => affinity::claim_new(store, owner, cidr, strict, now).await,
            };
            if if_readable(claimed)? == Claim::Ours {
                return Ok(Some(cidr));
            }
        }
    }
    for pool in pools {
        let of_pool = existing.values().filter(|block| pool.cidr.covers(&block.cidr()));
        let left = of_pool.filter(|block| {
            let is_old = block.claimed.is_none_or(|since| now.seconds_since(since) >= RECLAIM_AFTER_S);
            let is_free = block.is_empty() && !block.is_cooling(world.settings.cooldown_s, now);
            is_free && is_old && !but.contains(&block.cidr()) && !world.is_all_reserved(block.cidr())
        });
        for block in left {
            let Some(former) = block.owner.as_ref().filter(|former| *former != owner) else { continue };
            match affinity::release(store, former, block.cidr(), true).await {
                Ok(()) => {}
                Err(AffinityError::Store(error)) => return Err(error.into()),
                Err(_) => continue,
            }
            if affinity::claim(store, owner, block.cidr(), strict, now).await? == Claim::Ours {
                return Ok(Some(block.cidr()));
            }
        }
    }
    Ok(None)
}

/// A block that cannot be read is somebody else's.
fn if_readable(claimed: Result<Claim, AffinityError>) -> Result<Claim, AffinityError> {
    match claimed {
        Err(AffinityError::Store(StoreError::Nonsense(_))) => Ok(Claim::Taken),
        claimed => claimed,
    }
}

/// Sees to it that no block of another size has addresses of this one: to be called between reading a block of which nothing is
/// given and writing it, before its first address.
///
/// Of two blocks that overlap never both have given addresses, then. Each was there, empty, before its first look and until its
/// first address; whichever looked later must have seen the other, which stays as long as it has addresses.
///
/// # Errors
/// [`AssignError::Overlap`]; the block has been given up, if it still was empty.
pub(crate) async fn is_alone<S: Store>(store: &S, block: &Block) -> Result<(), AssignError> {
    let cidr = block.cidr();
    let Some(other) = store.overlapping(cidr).await?.first().copied() else { return Ok(()) };
    if let Some(owner) = &block.owner {
        // Who cannot be asked now is asked at its next address.
        let _ = affinity::release(store, owner, cidr, true).await;
    }
    Err(AssignError::Overlap { cidr, other })
}

/// What came of taking from a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    /// What it had, if anything.
    What,
    /// Nothing: it overlaps another.
    GaveWay,
}

/// FNV-1 of 32 bits: where a node begins to look for a block, so that nodes do not all want the same one.
fn fnv32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

/// Takes addresses from blocks.
struct Taker<'a, S> {
    store: &'a S,
    world: &'a World,
    attributes: &'a Attributes,
    now: Nanoseconds,
    /// Whether the handle may be there already: it is asked for before it is made.
    may_be_counted: bool,
}

impl<S: Store> Taker<'_, S> {
    /// Takes from one block until there are `count`, or it has no more. `owner`: only if it is this one's; none: borrows.
    async fn take(
        &mut self,
        cidr: Cidr,
        owner: Option<&Owner>,
        count: usize,
        given: &mut Assigned,
    ) -> Result<Took, AssignError> {
        let missing = count - given.addresses.len();
        let (world, attributes) = (self.world, self.attributes);
        let choose = |block: &mut Block| {
            if owner.is_some() && block.owner.as_ref() != owner || owner.is_none() && block.strict_affinity {
                return Ok(Vec::new());
            }
            Ok(block.take(missing, attributes, |address| world.is_reserved(address)))
        };
        let taken = match self.write(cidr, choose).await {
            // Others may have room.
            Err(AssignError::Store(StoreError::Nonsense(_))) => return Ok(Took::What),
            Err(AssignError::Overlap { .. }) => return Ok(Took::GaveWay),
            taken => taken?.unwrap_or_default(),
        };
        given.addresses.extend(taken.into_iter().map(|address| (address, cidr.length())));
        Ok(Took::What)
    }

    /// Has a block give what `choose` takes of it, after the handle has counted it. What the handle counted in vain is taken
    /// off again once. `None`: there is no such block.
    async fn write(
        &mut self,
        cidr: Cidr,
        choose: impl Fn(&mut Block) -> Result<Vec<IpAddr>, AssignError>,
    ) -> Result<Option<Vec<IpAddr>>, AssignError> {
        let mut counted = 0;
        let mut outcome = Err(AssignError::Contended(cidr));
        for _ in 0..RETRIES {
            let Some((mut block, revision)) = block(self.store, cidr).await? else {
                outcome = Ok(None);
                break;
            };
            block.end_cooldowns(self.world.settings.cooldown_s, self.now);
            let was_empty = block.is_empty();
            let taken = match choose(&mut block) {
                Ok(taken) if !taken.is_empty() => taken,
                nothing => {
                    outcome = nothing.map(Some);
                    break;
                }
            };
            if was_empty && let Err(overlaps) = is_alone(self.store, &block).await {
                outcome = Err(overlaps);
                break;
            }
            let wanted = taken.len() as u64;
            if wanted > counted {
                self.count(cidr, wanted - counted).await?;
                counted = wanted;
            }
            block.count_write();
            match self.store.swap(&Key::Block(cidr), Some(revision), Some(Record::Block(block))).await {
                Ok(()) => {
                    counted -= wanted;
                    outcome = Ok(Some(taken));
                    break;
                }
                Err(WriteError::Conflict) => {}
                // It may have been written: the handle goes on counting it.
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        if let Some(handle) = self.attributes.handle.as_deref().filter(|_| counted > 0) {
            decrement(self.store, handle, cidr, counted).await?;
        }
        outcome
    }

    async fn count(&mut self, cidr: Cidr, more: u64) -> Result<(), AssignError> {
        if let Some(handle) = self.attributes.handle.as_deref() {
            let is_new = !std::mem::replace(&mut self.may_be_counted, true);
            increment(self.store, handle, cidr, more, is_new).await?;
        }
        Ok(())
    }
}

/// One address that is asked for by name.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignAddress {
    /// The address.
    pub address: IpAddr,
    /// The handle to release it by, and who has it.
    pub attributes: Attributes,
    /// Who asks, and owns the block if it has to be claimed.
    pub owner: Owner,
    /// What it is for; its pool must allow that. None: any pool will do.
    pub usage: Option<Use>,
    /// The handle may have no more addresses than these; then an address that it has already is given again. None: it may
    /// have any number, and one that it has is an error as anybody's.
    pub max_of_handle: Option<u64>,
}

/// Gives one address, claiming its block for `owner` if there is none. Reservations and selectors are not looked at.
///
/// # Errors
/// It is in no pool that may be used for `usage`, somebody has it, or its block is another's and that is strict.
pub async fn assign_address<S: Store>(
    store: &S,
    world: &World,
    address: IpAddr,
    attributes: &Attributes,
    owner: &Owner,
    usage: Option<Use>,
    now: Nanoseconds,
) -> Result<(), AssignError> {
    let (attributes, owner) = (attributes.clone(), owner.clone());
    let wanted = AssignAddress { address, attributes, owner, usage, max_of_handle: None };
    assign_address_as(store, world, &wanted, now).await
}

/// The same, for a handle that may not have any number of addresses.
///
/// # Errors
/// As [`assign_address`]; or the handle has others already.
pub async fn assign_address_as<S: Store>(
    store: &S,
    world: &World,
    wanted: &AssignAddress,
    now: Nanoseconds,
) -> Result<(), AssignError> {
    let AssignAddress { address, attributes, owner, usage, max_of_handle } = wanted;
    let address = *address;
    let pool = world.pool_of(address).ok_or(AssignError::NotInAPool(address))?;
    if let Some(usage) = usage.filter(|usage| !pool.uses.contains(usage)) {
        return Err(AssignError::NoQualifiedPool { usage });
    }
    let mut cidr = pool.block_of(address).ok_or(AssignError::NotInAPool(address))?;
    if block(store, cidr).await?.is_none() {
        // There may be one of another size.
        let others = store.overlapping(cidr).await?;
        cidr = match others.iter().find(|block| block.contains(address)) {
            Some(holder) => *holder,
            None if others.is_empty() => cidr,
            None => {
                return Err(AssignError::Overlap { cidr, other: others.first().copied().unwrap_or(cidr) });
            }
        };
    }
    let id = attributes.handle.as_deref();
    if let (Some(id), Some(max)) = (id, *max_of_handle) {
        let has_it =
            |block: &Block| block.attributes(address).is_some_and(|of| of.handle.as_deref() == Some(id));
        if block(store, cidr).await?.is_some_and(|(block, _)| has_it(&block)) {
            return Ok(());
        }
        let count = handle(store, id).await?.map_or(0, |(handle, _)| handle.blocks.values().sum());
        if count >= max {
            return Err(AssignError::HandleFull { handle: id.to_owned(), count, max });
        }
    }
    let mut taker = Taker { store, world, attributes, now, may_be_counted: false };
    for _ in 0..RETRIES {
        let choose = |block: &mut Block| {
            if world.settings.strict_affinity && block.owner.as_ref() != Some(owner) {
                return Err(AssignError::NotYourBlock { address, cidr, owner: owner.clone() });
            }
            match block.take_address(address, attributes) {
                true => Ok(vec![address]),
                false => Err(AssignError::AlreadyGiven(address)),
            }
        };
        if taker.write(cidr, choose).await?.is_some() {
            return Ok(());
        }
        // Another's claim may come first; then it is another's block.
        affinity::claim(store, owner, cidr, world.settings.strict_affinity, now).await?;
    }
    Err(AssignError::Contended(cidr))
}
