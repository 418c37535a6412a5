//! Taking addresses back: one by one, or all of a handle.
//!
//! The block gives an address up before the handle stops counting it: what dies in between leaves a handle that counts too
//! many. A block that nobody owns goes when its last address comes back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_model::cidr::Cidr;

use crate::block::Block;
use crate::handle::{HandleError, decrement, settle};
use crate::pool::World;
use crate::store::{Key, Record, Store, StoreError, WriteError, block, handle};
use crate::{Nanoseconds, RETRIES};

/// What is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The address.
    pub address: IpAddr,
    /// Only if it was given under this handle.
    pub handle: Option<String>,
    /// Only if the block had this sequence number when it was given: somebody else may have it by now.
    pub sequence: Option<u64>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Addresses that came back.
    pub addresses: Vec<IpAddr>,
    /// Addresses that nobody had.
    pub unallocated: Vec<IpAddr>,
}

/// Why addresses could not be taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Somebody else has it.
    #[error("{address} was given to somebody else: {what} is not the one expected")]
    NotYours {
        /// The address.
        address: IpAddr,
        /// What is another.
        what: &'static str,
    },
    /// Others changed the block each time.
    #[error("block {0}: others changed it in every one of {RETRIES} attempts")]
    Contended(Cidr),
    /// The handle could not be changed.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes addresses back.
///
/// # Errors
/// One of them is somebody else's: what was taken back before stays so. Or the store could not be asked.
pub async fn release_addresses<S: Store>(
    store: &S,
    world: &World,
    wanted: &[Release],
    now: Nanoseconds,
) -> Result<Released, ReleaseError> {
    let mut released = Released::default();
    let mut by_block: BTreeMap<Cidr, Vec<&Release>> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for release in wanted {
        let pool = world.pools.iter().find(|pool| pool.cidr.contains(release.address));
        match pool.and_then(|pool| pool.block_of(release.address)) {
            Some(cidr) => by_block.entry(cidr).or_default().push(release),
            None => elsewhere.push(release),
        }
    }
    for (cidr, of_block) in &mut by_block {
        let found = block(store, *cidr).await?;
        let has = |release: &&Release| {
            found.as_ref().is_some_and(|(block, _)| block.attributes(release.address).is_some())
        };
        elsewhere.extend(of_block.extract_if(.., |release| !has(release)));
    }
    by_block.retain(|_, of_block| !of_block.is_empty());
    if !elsewhere.is_empty() {
        // Their pool has gone, was made anew with blocks of another size, or overlaps another; the block may still be there.
        let blocks = store.blocks().await?;
        for release in elsewhere {
            match blocks.iter().find(|(block, _)| block.attributes(release.address).is_some()) {
                Some((block, _)) => by_block.entry(block.cidr()).or_default().push(release),
                None => released.unallocated.push(release.address),
            }
        }
    }
    for (cidr, wanted) in by_block {
        let choose = |block: &Block| {
            let mut addresses = Vec::new();
            for release in &wanted {
                let Some(attributes) = block.attributes(release.address) else { continue };
                let address = release.address;
                if release.handle.is_some() && release.handle != attributes.handle {
                    return Err(ReleaseError::NotYours { address, what: "the handle" });
                }
                if release.sequence.is_some() && release.sequence != block.sequence_of(address) {
                    return Err(ReleaseError::NotYours { address, what: "the sequence number" });
                }
                addresses.push(address);
            }
            Ok(addresses)
        };
        let back = from_block(store, cidr, world.settings.cooldown_s, now, 0, choose).await?;
        let mut of_handle: BTreeMap<String, u64> = BTreeMap::new();
        for handle in back.iter().filter_map(|(_, handle)| handle.clone()) {
            *of_handle.entry(handle).or_default() += 1;
        }
        for (handle, count) in of_handle {
            decrement(store, &handle, cidr, count).await?;
        }
        let addresses: Vec<IpAddr> = back.into_iter().map(|(address, _)| address).collect();
        let missing = wanted.iter().map(|release| release.address).filter(|a| !addresses.contains(a));
        released.unallocated.extend(missing);
        released.addresses.extend(addresses);
    }
    Ok(released)
}

/// Takes back all addresses of a handle; None: there is no such handle.
///
/// # Errors
/// The store could not be asked, or others changed a block again and again.
pub async fn release_by_handle<S: Store>(
    store: &S,
    world: &World,
    id: &str,
    now: Nanoseconds,
) -> Result<Option<Released>, ReleaseError> {
    let Some(known) = handle(store, id).await? else { return Ok(None) };
    let mut released = Released::default();
    for (&cidr, &counted) in &known.0.blocks {
        let of_handle = |block: &Block| {
            let given = block.given().filter(|(_, attributes)| attributes.handle.as_deref() == Some(id));
            Ok(given.map(|(address, _)| address).collect())
        };
        let back = from_block(store, cidr, world.settings.cooldown_s, now, counted, of_handle).await?;
        released.addresses.extend(back.into_iter().map(|(address, _)| address));
    }
    // What it counted too many goes, too.
    let counted = known.0.blocks.clone();
    settle(store, id, Some(known), &counted).await?;
    Ok(Some(released))
}

/// Has a block take back the addresses that `choose` names.
///
/// Where a handle has `counted` addresses, the block is written even if it gave none: the write that gives them may be on its way from
/// somebody who was killed, and must find the block changed.
async fn from_block<S: Store>(
    store: &S,
    cidr: Cidr,
    cooldown_s: u64,
    now: Nanoseconds,
    counted: u64,
    choose: impl Fn(&Block) -> Result<Vec<IpAddr>, ReleaseError>,
) -> Result<Vec<(IpAddr, Option<String>)>, ReleaseError> {
    for _ in 0..RETRIES {
        let Some((mut block, revision)) = block(store, cidr).await? else { return Ok(Vec::new()) };
        let addresses = choose(&block)?;
        block.end_cooldowns(cooldown_s, now);
        let back = block.release(&addresses, cooldown_s, now);
        if back.is_empty() && counted == 0 {
            return Ok(back);
        }
        // One that cools down is removed by who collects.
        let goes = block.owner.is_none() && block.is_empty() && !block.is_cooling(cooldown_s, now);
        block.count_write();
        let new = (!goes).then_some(Record::Block(block));
        match store.swap(&Key::Block(cidr), Some(revision), new).await {
            Ok(()) => return Ok(back),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Store(error)) => return Err(error.into()),
        }
    }
    Err(ReleaseError::Contended(cidr))
}
