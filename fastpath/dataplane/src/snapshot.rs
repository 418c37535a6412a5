//! Publication of whole values from one writer to many readers, which never wait.
//!
//! ```text
//!   Publisher (controller)                    Subscriber (one a worker)
//!   publish(Arc<T>):                          refresh(), once per batch:
//!     keep a clone in `kept`                    published == adopted? ──yes──► done: one Acquire load
//!     slot  ◄── the newest                      no: try_lock the slot; busy ──► next batch
//!     published += 1 (Release)                      clone the newest, drop the former, adopted = its number (Release)
//!   reclaim(): drops what is older than every subscriber's `adopted`
//! ```
//!
//! The publisher keeps every value until all subscribers have adopted a newer one, so a reader's drop is never the last:
//! values are freed on the writer's thread. A value's number is stored with it in the slot, so what a reader adopts and
//! what it says it adopted are one thing even when the writer is publishing at that moment.

use std::collections::VecDeque;

use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

struct Shared<T> {
    published: AtomicU64,
    slot: Mutex<(u64, Arc<T>)>,
}

/// The writer's end.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    /// Every value that a subscriber may hold, oldest first, the newest always.
    kept: VecDeque<(u64, Arc<T>)>,
    latest: Arc<T>,
    /// By subscriber: the number of the value it uses.
    adopted: Vec<Arc<AtomicU64>>,
}

/// A reader's end.
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    adopted: Arc<AtomicU64>,
    number: u64,
    value: Arc<T>,
}

impl<T> Publisher<T> {
    /// Publishes `first` as number 0.
    pub fn new(first: Arc<T>) -> Publisher<T> {
        let shared = Shared { published: AtomicU64::new(0), slot: Mutex::new((0, Arc::clone(&first))) };
        let kept = VecDeque::from([(0, Arc::clone(&first))]);
        Publisher { shared: Arc::new(shared), kept, latest: first, adopted: Vec::new() }
    }

    /// A new reader, which has adopted the newest value.
    pub fn subscribe(&mut self) -> Subscriber<T> {
        let (number, value) = lock(&self.shared.slot, |(number, value)| (*number, Arc::clone(value)));
        let adopted = Arc::new(AtomicU64::new(number));
        self.adopted.push(Arc::clone(&adopted));
        Subscriber { shared: Arc::clone(&self.shared), adopted, number, value }
    }

    /// Makes `value` the newest; gives its number. Old values stay until [`reclaim`](Self::reclaim).
    pub fn publish(&mut self, value: Arc<T>) -> u64 {
        let number = self.newest() + 1;
        self.kept.push_back((number, Arc::clone(&value)));
        self.latest = Arc::clone(&value);
        // The former value stays in `kept`, so what is dropped here is never the last reference.
        lock(&self.shared.slot, |slot| *slot = (number, value));
        self.shared.published.store(number, Ordering::Release);
        number
    }

    /// The number of the newest value.
    pub fn newest(&self) -> u64 {
        self.kept.back().map_or(0, |(number, _)| *number)
    }

    /// The oldest value's number that a subscriber still uses; the newest's if nobody subscribes.
    pub fn adopted(&self) -> u64 {
        self.adopted_by().min().unwrap_or_else(|| self.newest())
    }

    /// By subscriber, in the order of subscription: the number of the value it uses.
    pub fn adopted_by(&self) -> impl Iterator<Item = u64> {
        self.adopted.iter().map(|adopted| adopted.load(Ordering::Acquire))
    }

    /// Frees the values that no subscriber uses any more; gives [`adopted`](Self::adopted).
    pub fn reclaim(&mut self) -> u64 {
        let adopted = self.adopted();
        while self.kept.front().is_some_and(|(number, _)| *number < adopted) {
            self.kept.pop_front();
        }
        adopted
    }

    /// The newest value.
    pub fn latest(&self) -> &Arc<T> {
        &self.latest
    }

    /// How many values are kept: the newest, and those that a slow subscriber may still use.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
}

impl<T> Subscriber<T> {
    /// Adopts the newest value if there is one that can be had without waiting. Says whether it did.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        self.shared.published.load(Ordering::Acquire) != self.number && self.adopt()
    }

    /// The value in use.
    #[inline]
    pub fn get(&self) -> &Arc<T> {
        &self.value
    }

    /// The number of the value in use.
    pub fn number(&self) -> u64 {
        self.number
    }

    #[cold]
    fn adopt(&mut self) -> bool {
        // The writer is in the slot for an instant only; if it is there now, the next batch will do.
        let Ok(slot) = self.shared.slot.try_lock() else { return false };
        self.number = slot.0;
        self.value = Arc::clone(&slot.1);
        drop(slot);
        // Only now may the writer let the former value go, and only the writer's reference is left of it.
        self.adopted.store(self.number, Ordering::Release);
        true
    }
}

/// Runs `f` on what is locked. The lock is held for assignments and clones only, so a poisoned one holds a whole value.
fn lock<T, R>(mutex: &Mutex<T>, f: impl FnOnce(&mut T) -> R) -> R {
    let mut guard = mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    f(&mut guard)
}

#[cfg(test)]
#[path = "snapshot/tests.rs"]
mod tests;
