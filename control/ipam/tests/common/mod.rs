//! A store in memory whose every operation waits for its turn, and a scheduler that gives turns, kills and lies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use caracal_ipam::{Affinity, Block, Key, Owner, Pool, Record, Store, StoreError, Use, WriteError};
use caracal_model::cidr::Cidr;
use caracal_model::selector::Selector;

/// A store. Clones share it.
#[derive(Clone, Default)]
pub struct Memory {
    things: Rc<RefCell<BTreeMap<Key, (Record, u64)>>>,
    writes: Rc<Cell<u64>>,
    /// How many writes from now on one is made and yet reported as failed; 0: none.
    lie_in: Rc<Cell<u64>>,
    /// A block that cannot be read.
    unreadable: Rc<Cell<Option<Cidr>>>,
}

impl Memory {
    pub fn things(&self) -> Vec<Record> {
        self.things.borrow().values().map(|(record, _)| record.clone()).collect()
    }

    pub fn blocks_now(&self) -> Vec<Block> {
        self.things()
            .into_iter()
            .filter_map(|thing| match thing {
                Record::Block(block) => Some(block),
                _ => None,
            })
            .collect()
    }

    /// How many writes have been made.
    #[allow(dead_code, reason = "not every test follows orders")]
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    #[allow(dead_code, reason = "not every test follows orders")]
    pub fn with_revisions(&self) -> Vec<(Record, u64)> {
        self.things.borrow().values().cloned().collect()
    }

    #[allow(dead_code, reason = "not every test has what cannot be read")]
    pub fn make_unreadable(&self, block: Option<Cidr>) {
        self.unreadable.set(block);
    }

    #[allow(dead_code, reason = "not every test lies")]
    pub fn lie_in(&self, writes: u64) {
        self.lie_in.set(writes);
    }
}

/// What a key is of.
trait OfKind {
    fn is_block(&self) -> bool;
    fn is_handle(&self) -> bool;
    fn is_affinity(&self) -> bool;
}

impl OfKind for Key {
    fn is_block(&self) -> bool {
        matches!(self, Key::Block(_))
    }

    fn is_handle(&self) -> bool {
        matches!(self, Key::Handle(_))
    }

    fn is_affinity(&self) -> bool {
        matches!(self, Key::Affinity(..))
    }
}

/// Pending once.
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Store for Memory {
    type Revision = u64;

    async fn get(&self, key: &Key) -> Result<Option<(Record, u64)>, StoreError> {
        Turn(false).await;
        if matches!(key, Key::Block(cidr) if self.unreadable.get() == Some(*cidr)) {
            return Err(StoreError::Nonsense("it is no block".into()));
        }
        Ok(self.things.borrow().get(key).cloned())
    }

    async fn affinities(&self, owner: &Owner) -> Result<Vec<(Affinity, u64)>, StoreError> {
        Turn(false).await;
        let things = self.things.borrow();
        let of = things.values().filter_map(|(record, revision)| match record {
            Record::Affinity(affinity) if affinity.owner == *owner => Some((affinity.clone(), *revision)),
            _ => None,
        });
        Ok(of.collect())
    }

    async fn blocks(&self) -> Result<Vec<(Block, u64)>, StoreError> {
        Turn(false).await;
        let things = self.things.borrow();
        let blocks = things.values().filter_map(|(record, revision)| match record {
            Record::Block(block) if self.unreadable.get() != Some(block.cidr()) => {
                Some((block.clone(), *revision))
            }
            _ => None,
        });
        Ok(blocks.collect())
    }

    async fn everything(&self) -> Result<Vec<Record>, StoreError> {
        // Kind by kind, as over the network; a thing may change between.
        let mut all = Vec::new();
        for kind in [Key::is_block, Key::is_handle, Key::is_affinity] {
            Turn(false).await;
            all.extend(self.things().into_iter().filter(|thing| kind(&thing.key())));
        }
        Ok(all)
    }

    async fn swap(&self, key: &Key, expected: Option<u64>, new: Option<Record>) -> Result<(), WriteError> {
        Turn(false).await;
        let mut things = self.things.borrow_mut();
        if things.get(key).map(|(_, revision)| *revision) != expected {
            return Err(WriteError::Conflict);
        }
        self.writes.set(self.writes.get() + 1);
        match new {
            Some(record) => {
                assert_eq!(record.key(), *key, "a thing is written under its own key");
                things.insert(key.clone(), (record, self.writes.get()));
            }
            None => drop(things.remove(key)),
        }
        let lost = StoreError::Unanswered("the connection was lost".into());
        match self.lie_in.get() {
            0 => Ok(()),
            left => {
                self.lie_in.set(left - 1);
                if left == 1 { Err(lost.into()) } else { Ok(()) }
            }
        }
    }
}

/// A pool for all nodes, namespaces and uses, of VXLAN.
#[allow(dead_code, reason = "not every test has pools")]
pub fn pool(name: &str, range: &str, block_length: u8) -> Pool {
    Pool {
        name: name.into(),
        cidr: range.parse().unwrap(),
        block_length,
        disabled: false,
        uses: vec![Use::Workload, Use::Tunnel],
        manual: false,
        nodes: Some(Selector::parse("").unwrap()),
        namespaces: Some(Selector::parse("").unwrap()),
        vxlan: true,
        ipip: false,
    }
}

/// Polls once.
#[allow(dead_code, reason = "not every test schedules")]
pub fn step<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Runs alone to the end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

/// How many cases there are time for.
#[allow(dead_code, reason = "not every test is of random cases")]
pub fn cases(short: u32, long: u32) -> u32 {
    if std::env::var_os("CARACAL_LONG").is_some() { long } else { short }
}

/// Handles count what blocks give, and affinities say whose blocks are, once nobody is at work.
#[allow(dead_code, reason = "not every test collects")]
pub fn consistent(store: &Memory) {
    use std::collections::BTreeSet;
    let mut given: BTreeMap<_, u64> = BTreeMap::new();
    let mut counted = BTreeMap::new();
    let (mut owners, mut claims) = (BTreeSet::new(), BTreeSet::new());
    for thing in store.things() {
        match thing {
            Record::Block(block) => {
                assert!(
                    block.owner.is_some() || !block.is_empty(),
                    "{} is nobody's, and empty",
                    block.cidr()
                );
                owners.extend(block.owner.clone().map(|owner| (owner, block.cidr())));
                for (_, attributes) in block.given() {
                    *given.entry((attributes.handle.clone(), block.cidr())).or_default() += 1;
                }
            }
            Record::Handle(handle) => {
                assert!(!handle.blocks.is_empty(), "{} counts nothing", handle.id);
                for (cidr, count) in &handle.blocks {
                    counted.insert((Some(handle.id.clone()), *cidr), *count);
                }
            }
            Record::Affinity(affinity) => {
                assert_eq!(affinity.state, caracal_ipam::AffinityState::Confirmed);
                claims.insert((affinity.owner, affinity.cidr));
            }
        }
    }
    assert_eq!(given, counted, "handles count what blocks give");
    assert_eq!(owners, claims, "affinities say whose blocks are");
}
