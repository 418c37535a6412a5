//! A growing array whose snapshots are cheap and never change.
//!
//! ```text
//!   PagedBuilder (controller)          Paged (readers, one per generation)
//!   pages: [•,•,•,–]                   pages: [•,•,•,–]        – : a page of nothing but defaults
//!           │ │ └──── page of N T ◄────────────┘ │ │
//!           │ └────── page of N T ◄──────────────┘ │      shared until the builder writes to it:
//!           └──► page of N T (copied on write)     └──► the former one
//! ```
//!
//! A write copies the one page it touches, and the array of page pointers once per snapshot. Indexes may grow without
//! end while old ones fall empty (ids that are never reused): a page with nothing in it takes a pointer only.

use std::sync::Arc;

use caracal_wire::MacAddr;

use super::fib::FibEntry;
use super::policy::ClassId;

/// The reader's part: immutable, cheap to clone.
#[derive(Debug, Clone)]
pub struct Paged<T, const N: usize> {
    pages: Arc<[Option<Arc<[T; N]>>]>,
}

impl<T, const N: usize> Paged<T, N> {
    /// The value at `index`, if its page has any.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        // N is a power of two: a shift, a mask, and no second bounds check.
        self.pages.get(index / N)?.as_ref().map(|page| &page[index % N])
    }

    /// Every value in a page that has any, with its index; defaults included.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let pages = self.pages.iter().enumerate();
        pages
            .filter_map(|(number, page)| page.as_ref().map(|page| (number, page)))
            .flat_map(|(number, page)| page.iter().enumerate().map(move |(i, value)| (number * N + i, value)))
    }

    /// Whether both are one snapshot: nothing has been set between them.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pages, &other.pages)
    }

    /// Bytes that the pages and their pointers take.
    pub fn bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count();
        self.pages.len() * size_of::<Option<Arc<[T; N]>>>() + pages * size_of::<[T; N]>()
    }
}

impl<T, const N: usize> Default for Paged<T, N> {
    fn default() -> Self {
        Paged { pages: Arc::new([]) }
    }
}

/// The controller's part: the array being changed.
#[derive(Debug, Clone)]
pub struct PagedBuilder<T, const N: usize> {
    pages: Vec<Option<Arc<[T; N]>>>,
    /// What readers were last given; None once something has changed since.
    published: Option<Paged<T, N>>,
}

impl<T, const N: usize> Default for PagedBuilder<T, N> {
    fn default() -> Self {
        PagedBuilder { pages: Vec::new(), published: None }
    }
}

/// What an array may hold; its default is nothing.
pub trait Slot: Clone + Default {
    /// Whether setting one to the other would change nothing.
    fn is_same(&self, other: &Self) -> bool;
}

/// Plain values are the same when they are equal.
macro_rules! plain_slots {
    ($($plain:ty),*) => {$(
        impl Slot for $plain {
            fn is_same(&self, other: &Self) -> bool {
                self == other
            }
        }
    )*};
}

plain_slots!(u32, ClassId, Option<FibEntry>, Option<MacAddr>);

/// Shared things are the same when they are one.
impl<T: ?Sized> Slot for Option<Arc<T>> {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl<T: Slot, const N: usize> PagedBuilder<T, N> {
    const _POWER_OF_TWO: () = assert!(N.is_power_of_two());

    /// The value at `index`, if its page has any.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pages.get(index / N)?.as_ref().map(|page| &page[index % N])
    }

    /// Makes sure the page of `index` is there and no reader's, and gives it.
    pub fn page_mut(&mut self, index: usize) -> &mut [T; N] {
        let () = Self::_POWER_OF_TWO;
        self.published = None;
        let number = index / N;
        if self.pages.len() <= number {
            self.pages.resize(number + 1, None);
        }
        let page = self.pages[number].get_or_insert_with(|| Arc::new(std::array::from_fn(|_| T::default())));
        Arc::make_mut(page)
    }

    /// Sets the value at `index`; copies its page if a reader may hold it.
    pub fn set(&mut self, index: usize, value: T) {
        if !self.get(index).is_some_and(|held| held.is_same(&value)) {
            self.page_mut(index)[index % N] = value;
        }
    }

    /// Sets `index` to the default, and lets its page go if nothing else is in it.
    pub fn clear(&mut self, index: usize) {
        if self.get(index).is_none_or(|value| value.is_same(&T::default())) {
            return;
        }
        let page = self.page_mut(index);
        page[index % N] = T::default();
        // Where indexes are never used again the last of a page is the likeliest to be in use.
        if page.iter().rev().all(|value| value.is_same(&T::default())) {
            self.pages[index / N] = None;
        }
    }

    /// The array as it is now, for readers.
    pub fn snapshot(&mut self) -> Paged<T, N> {
        self.published.get_or_insert_with(|| Paged { pages: Arc::from(self.pages.as_slice()) }).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_its_values_while_the_builder_changes() {
        let mut builder = PagedBuilder::<u32, 4>::default();
        builder.set(1, 10);
        builder.set(9, 90);
        let before = builder.snapshot();
        builder.set(1, 11);
        builder.clear(9);
        let after = builder.snapshot();
        assert_eq!((before.get(1), before.get(9), before.get(5)), (Some(&10), Some(&90), None));
        assert_eq!((after.get(1), after.get(9)), (Some(&11), None));
    }

    #[test]
    fn an_untouched_page_is_shared_between_snapshots() {
        let mut builder = PagedBuilder::<u32, 4>::default();
        builder.set(0, 1);
        builder.set(4, 2);
        let before = builder.snapshot();
        builder.set(4, 3);
        let after = builder.snapshot();
        let shared = |page: usize| matches!((&before.pages[page], &after.pages[page]), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        assert!(shared(0));
        assert!(!shared(1));
    }
}
