//! What address management needs of a store: to read one thing or all of a kind, and to swap one.

use std::future::Future;

use caracal_model::cidr::Cidr;

use crate::affinity::Affinity;
use crate::block::{Block, Owner};
use crate::handle::Handle;

/// Which thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A block.
    Block(Cidr),
    /// An owner's claim to a block.
    Affinity(Owner, Cidr),
    /// A handle.
    Handle(String),
}

/// A thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A block.
    Block(Block),
    /// An owner's claim to a block.
    Affinity(Affinity),
    /// A handle.
    Handle(Handle),
}

impl Record {
    /// The key that it is kept under.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Record::Block(block) => Key::Block(block.cidr()),
            Record::Affinity(affinity) => Key::Affinity(affinity.owner.clone(), affinity.cidr),
            Record::Handle(handle) => Key::Handle(handle.id.clone()),
        }
    }
}

/// Why the store does not say what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It could not be asked, or did not answer.
    #[error("the datastore: {0}")]
    Unanswered(String),
    /// The thing is there and cannot be read: it is left alone, and who can do without it does.
    #[error("the datastore: {0}")]
    Nonsense(String),
}

/// Why a swap was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Somebody else was quicker: what was expected is not what is there.
    #[error("somebody else has changed it meanwhile")]
    Conflict,
    /// It is not known whether it was made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A compare-and-swap store. What it holds under a key is the thing of that key, and a revision that differs after each write.
pub trait Store {
    /// A version of a thing.
    type Revision: Clone;

    /// The thing of this key, if there is one; one that is marked deleted is not, one that cannot be read is an error.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<(Record, Self::Revision)>, StoreError>>;

    /// The claims of an owner, in the store's order.
    fn affinities(
        &self,
        owner: &Owner,
    ) -> impl Future<Output = Result<Vec<(Affinity, Self::Revision)>, StoreError>>;

    /// All blocks that can be read, in the store's order.
    fn blocks(&self) -> impl Future<Output = Result<Vec<(Block, Self::Revision)>, StoreError>>;

    /// The blocks that can be read and, of another size, have addresses of this one.
    fn overlapping(&self, cidr: Cidr) -> impl Future<Output = Result<Vec<Cidr>, StoreError>> {
        async move {
            let blocks = self.blocks().await?.into_iter().map(|(block, _)| block.cidr());
            Ok(blocks.filter(|other| overlap(*other, cidr)).collect())
        }
    }

    /// Everything that there is, for whoever cleans up.
    fn everything(&self) -> impl Future<Output = Result<Vec<Record>, StoreError>>;

    /// Makes the thing of `key` what `new` says, or removes it, if it still is of revision `expected`; `None`: if there is none.
    fn swap(
        &self,
        key: &Key,
        expected: Option<Self::Revision>,
        new: Option<Record>,
    ) -> impl Future<Output = Result<(), WriteError>>;
}

/// Whether two prefixes of different lengths have an address in common. Blocks that do are there when somebody has made the pool
/// anew, or laid another over it. Then what there was first gives those addresses, or they would be given twice.
pub(crate) fn overlap(a: Cidr, b: Cidr) -> bool {
    a != b && (a.covers(&b) || b.covers(&a))
}

/// The block, if there is one.
pub(crate) async fn block<S: Store>(
    store: &S,
    cidr: Cidr,
) -> Result<Option<(Block, S::Revision)>, StoreError> {
    Ok(match store.get(&Key::Block(cidr)).await? {
        Some((Record::Block(block), revision)) => Some((block, revision)),
        _ => None,
    })
}

/// The owner's claim to a block, if there is one.
pub(crate) async fn affinity<S: Store>(
    store: &S,
    owner: &Owner,
    cidr: Cidr,
) -> Result<Option<(Affinity, S::Revision)>, StoreError> {
    Ok(match store.get(&Key::Affinity(owner.clone(), cidr)).await? {
        Some((Record::Affinity(affinity), revision)) => Some((affinity, revision)),
        _ => None,
    })
}

/// The handle, if there is one.
pub(crate) async fn handle<S: Store>(
    store: &S,
    id: &str,
) -> Result<Option<(Handle, S::Revision)>, StoreError> {
    Ok(match store.get(&Key::Handle(id.to_owned())).await? {
        Some((Record::Handle(handle), revision)) => Some((handle, revision)),
        _ => None,
    })
}
