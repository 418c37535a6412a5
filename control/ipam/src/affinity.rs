//! An owner's claim to a block, and the block's own word for it.
//!
//! ```text
//!   claim     affinity: pending ──► block with this owner ──► affinity: confirmed
//!   release   affinity: pendingDeletion ──► block goes, or loses its owner ──► affinity goes
//! ```
//!
//! Whoever dies on the way leaves an affinity that says how far it came; the next one goes on from there. Only when a claim
//! and a release of one block cross, and the claimer dies then, a block is left with an owner and no affinity: its owner
//! finds it when it looks for a block, and [`release`] knows it.

use caracal_model::cidr::Cidr;

use crate::block::{Block, BlockError, Owner};
use crate::store::{Key, Record, Store, StoreError, WriteError, affinity, block};
use crate::{Nanoseconds, RETRIES};

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Whose.
    pub owner: Owner,
    /// To which block.
    pub cidr: Cidr,
    /// How far it is.
    pub state: AffinityState,
}

/// How far a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffinityState {
    /// Said, and not yet true.
    Pending,
    /// True.
    Confirmed,
    /// No longer wanted.
    PendingDeletion,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The block is the owner's.
    Ours,
    /// Somebody else's, or nobody's and in use.
    Taken,
}

/// Why a claim could not be made or given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AffinityError {
    /// Addresses of it are given.
    #[error("block {0} is not empty")]
    NotEmpty(Cidr),
    /// Others changed it each time.
    #[error("the claim of {owner} to block {cidr}: others changed it in every one of {RETRIES} attempts")]
    Contended {
        /// Whose claim.
        owner: Owner,
        /// To which block.
        cidr: Cidr,
    },
    /// There cannot be such a block.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Claims a block for an owner, making it if there is none.
///
/// # Errors
/// The store could not be asked, or others changed the claim again and again.
pub async fn claim<S: Store>(
    store: &S,
    owner: &Owner,
    cidr: Cidr,
    strict_affinity: bool,
    now: Nanoseconds,
) -> Result<Claim, AffinityError> {
    let key = Key::Affinity(owner.clone(), cidr);
    let of = |state| Some(Record::Affinity(Affinity { owner: owner.clone(), cidr, state }));
    for _ in 0..RETRIES {
        let known = affinity(store, owner, cidr).await?;
        let found = block(store, cidr).await?;
        let is_ours = found.as_ref().is_some_and(|(block, _)| block.owner.as_ref() == Some(owner));
        if let Some((Affinity { state: AffinityState::Confirmed, .. }, _)) = &known
            && is_ours
        {
            return Ok(Claim::Ours);
        }
        if found.is_some() && !is_ours {
            // Nobody shall look for addresses of ours there.
            if let Some((_, revision)) = known
                && conflicts(store.swap(&key, Some(revision), None).await)?
            {
                continue;
            }
            return Ok(Claim::Taken);
        }
        let is_pending = matches!(&known, Some((Affinity { state: AffinityState::Pending, .. }, _)));
        if !is_pending {
            let revision = known.map(|(_, revision)| revision);
            conflicts(store.swap(&key, revision, of(AffinityState::Pending)).await)?;
            // Read again: what is there now has another revision.
            continue;
        }
        if found.is_none() {
            let new = Block::new(cidr, Some(owner.clone()), strict_affinity, now)?;
            conflicts(store.swap(&Key::Block(cidr), None, Some(Record::Block(new))).await)?;
            continue;
        }
        let revision = known.map(|(_, revision)| revision);
        conflicts(store.swap(&key, revision, of(AffinityState::Confirmed)).await)?;
    }
    Err(AffinityError::Contended { owner: owner.clone(), cidr })
}

/// Claims a block that is thought not to exist: without looking first, in a third of the requests.
pub(crate) async fn claim_new<S: Store>(
    store: &S,
    owner: &Owner,
    cidr: Cidr,
    strict_affinity: bool,
    now: Nanoseconds,
) -> Result<Claim, AffinityError> {
    let key = Key::Affinity(owner.clone(), cidr);
    let of = |state| Some(Record::Affinity(Affinity { owner: owner.clone(), cidr, state }));
    let new = Block::new(cidr, Some(owner.clone()), strict_affinity, now)?;
    if !conflicts(store.swap(&key, None, of(AffinityState::Pending)).await)?
        && !conflicts(store.swap(&Key::Block(cidr), None, Some(Record::Block(new))).await)?
        && let Some((Affinity { state: AffinityState::Pending, .. }, revision)) =
            affinity(store, owner, cidr).await?
        && !conflicts(store.swap(&key, Some(revision), of(AffinityState::Confirmed)).await)?
    {
        return Ok(Claim::Ours);
    }
    // It is otherwise: on from what there is.
    claim(store, owner, cidr, strict_affinity, now).await
}

/// Gives a claim up. A block that is empty goes, another only loses its owner; with `must_be_empty` it keeps that. A claim
/// that is not there has been given up.
///
/// # Errors
/// The block is not empty and had to be; the store could not be asked; or others changed the claim again and again.
pub async fn release<S: Store>(
    store: &S,
    owner: &Owner,
    cidr: Cidr,
    must_be_empty: bool,
) -> Result<(), AffinityError> {
    let key = Key::Affinity(owner.clone(), cidr);
    for _ in 0..RETRIES {
        let known = affinity(store, owner, cidr).await?;
        let found = block(store, cidr).await?.filter(|(block, _)| block.owner.as_ref() == Some(owner));
        let is_used = found.as_ref().is_some_and(|(block, _)| !block.is_empty());
        let of = |state| Some(Record::Affinity(Affinity { owner: owner.clone(), cidr, state }));
        if is_used && must_be_empty {
            if let Some((Affinity { state: AffinityState::PendingDeletion, .. }, revision)) = known {
                // Begun, and used meanwhile: it stays.
                conflicts(store.swap(&key, Some(revision), of(AffinityState::Confirmed)).await)?;
            }
            return Err(AffinityError::NotEmpty(cidr));
        }
        if let Some((known, revision)) = &known
            && known.state != AffinityState::PendingDeletion
        {
            conflicts(store.swap(&key, Some(revision.clone()), of(AffinityState::PendingDeletion)).await)?;
            continue;
        }
        if let Some((mut block, revision)) = found {
            let new = if block.is_empty() {
                None
            } else {
                block.owner = None;
                block.claimed = None;
                block.count_write();
                Some(Record::Block(block))
            };
            conflicts(store.swap(&Key::Block(cidr), Some(revision), new).await)?;
            continue;
        }
        let Some((_, revision)) = known else { return Ok(()) };
        if !conflicts(store.swap(&key, Some(revision), None).await)? {
            return Ok(());
        }
    }
    Err(AffinityError::Contended { owner: owner.clone(), cidr })
}

/// Whether somebody else was quicker.
fn conflicts(written: Result<(), WriteError>) -> Result<bool, StoreError> {
    match written {
        Ok(()) => Ok(false),
        Err(WriteError::Conflict) => Ok(true),
        Err(WriteError::Store(error)) => Err(error),
    }
}
