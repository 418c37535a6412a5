//! A handle: addresses that are released together, by block.

use std::collections::BTreeMap;

use caracal_model::cidr::Cidr;

use crate::RETRIES;
use crate::store::{Key, Record, Store, StoreError, WriteError, handle};

/// Which addresses belong together: how many of which block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handle {
    /// Its name: for the CNI plugin, `NETWORK.CONTAINER`.
    pub id: String,
    /// How many addresses of each block. None is zero.
    pub blocks: BTreeMap<Cidr, u64>,
}

/// Why a handle could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Others changed it each time.
    #[error("handle {0}: others changed it in every one of {RETRIES} attempts")]
    Contended(String),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Counts `more` addresses of a block, before the block gives them. `is_new`: there is probably no such handle yet, so that it
/// is made without asking first.
pub(crate) async fn increment<S: Store>(
    store: &S,
    id: &str,
    cidr: Cidr,
    more: u64,
    is_new: bool,
) -> Result<(), HandleError> {
    if is_new {
        let handle = Handle { id: id.to_owned(), blocks: BTreeMap::from([(cidr, more)]) };
        match store.swap(&Key::Handle(id.to_owned()), None, Some(Record::Handle(handle))).await {
            Ok(()) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Store(error)) => return Err(error.into()),
        }
    }
    change(store, id, None, |blocks| *blocks.entry(cidr).or_default() += more).await
}

/// Counts `fewer`, after the block took them back. A handle that counts nothing goes.
pub(crate) async fn decrement<S: Store>(
    store: &S,
    id: &str,
    cidr: Cidr,
    fewer: u64,
) -> Result<(), HandleError> {
    settle(store, id, None, &BTreeMap::from([(cidr, fewer)])).await
}

/// The same for several blocks, beginning with the handle as it was read.
pub(crate) async fn settle<S: Store>(
    store: &S,
    id: &str,
    known: Option<(Handle, S::Revision)>,
    fewer: &BTreeMap<Cidr, u64>,
) -> Result<(), HandleError> {
    change(store, id, known, |blocks| {
        for (cidr, fewer) in fewer {
            let count = blocks.entry(*cidr).or_default();
            *count = count.saturating_sub(*fewer);
        }
    })
    .await
}

async fn change<S: Store>(
    store: &S,
    id: &str,
    mut known: Option<(Handle, S::Revision)>,
    mut with: impl FnMut(&mut BTreeMap<Cidr, u64>),
) -> Result<(), HandleError> {
    for _ in 0..RETRIES {
        let found = match known.take() {
            None => handle(store, id).await?,
            known => known,
        };
        let (mut blocks, revision) = match found {
            Some((handle, revision)) => (handle.blocks, Some(revision)),
            None => (BTreeMap::new(), None),
        };
        with(&mut blocks);
        blocks.retain(|_, count| *count > 0);
        if blocks.is_empty() && revision.is_none() {
            return Ok(());
        }
        let new = (!blocks.is_empty()).then(|| Record::Handle(Handle { id: id.to_owned(), blocks }));
        match store.swap(&Key::Handle(id.to_owned()), revision, new).await {
            Ok(()) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Store(error)) => return Err(error.into()),
        }
    }
    Err(HandleError::Contended(id.to_owned()))
}
