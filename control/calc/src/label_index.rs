//! Which items match which selectors, kept up to date as both come, change and go.
//!
//! A selector is filed under [handles](Handle): things of which every label map that it matches has at least one. Only
//! selectors without are asked about every item. And of an item that changes, only those are asked that look at a key
//! whose label has changed:
//!
//! ```text
//!   item {app: web, tier: 1} ──► app=web:  s1, s7      tier=1: s4      app: s9      (no handle): s3
//!                                └──────── candidates: those that look at what has changed are asked once ───────┘
//! ```
//!
//! The other way round, a new selector is compared with the items that have one of its handles.

use std::collections::BTreeSet;
use std::sync::Arc;

use caracal_model::selector::Selector;
use hashbrown::HashMap;

use crate::matcher::{Handle, Matcher};
use crate::symbols::{Label, Symbol, Symbols};

/// What began to match, and what ceased to: selectors of an item, or items of a selector; sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MatchChanges {
    pub began: Vec<u32>,
    pub ceased: Vec<u32>,
}

/// The index. Its users number items and selectors.
#[derive(Debug, Default)]
pub(crate) struct LabelIndex {
    items: HashMap<u32, Item>,
    selectors: HashMap<u32, Entry>,
    items_filed: HashMap<Symbol, HashMap<Symbol, BTreeSet<u32>>>,
    selectors_filed: FiledSelectors,
    /// How often a selector was compared with an item.
    pub comparisons: u64,
}

#[derive(Debug)]
struct Item {
    labels: Arc<[Label]>,
    /// Sorted.
    matching: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    matcher: Matcher,
    matching: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct FiledSelectors {
    by_label: HashMap<Label, BTreeSet<u32>>,
    by_key: HashMap<Symbol, BTreeSet<u32>>,
    /// Those without handles.
    elsewhere: BTreeSet<u32>,
}

impl LabelIndex {
    /// The item is there with these labels, sorted by key. Returns the selectors that it began and ceased to match.
    pub fn set_item(&mut self, item: u32, labels: &Arc<[Label]>, symbols: &Symbols) -> MatchChanges {
        let mut changes = MatchChanges::default();
        let is_new = !self.items.contains_key(&item);
        let known =
            self.items.entry(item).or_insert_with(|| Item { labels: Arc::from([]), matching: Vec::new() });
        let (gone, come) = differences(&known.labels, labels);
        if gone.is_empty() && come.is_empty() && !is_new {
            return changes;
        }
        let mut changed: Vec<Symbol> = gone.iter().chain(&come).map(|label| label.key).collect();
        changed.sort_unstable();
        changed.dedup();

        let mut candidates = self.selectors_filed.candidates_of(labels);
        candidates.extend(&known.matching);
        candidates.sort_unstable();
        candidates.dedup();
        for id in candidates {
            let Some(entry) = self.selectors.get_mut(&id) else { continue };
            if !is_new && !entry.matcher.looks_at(&changed) {
                continue;
            }
            self.comparisons += 1;
            let matches = entry.matcher.matches(labels, symbols);
            match known.matching.binary_search(&id) {
                Err(place) if matches => {
                    known.matching.insert(place, id);
                    entry.matching.insert(item);
                    changes.began.push(id);
                }
                Ok(place) if !matches => {
                    known.matching.remove(place);
                    entry.matching.remove(&item);
                    changes.ceased.push(id);
                }
                _ => {}
            }
        }
        known.labels = labels.clone();
        gone.into_iter().for_each(|label| self.unfile_item(item, label));
        for label in come {
            self.items_filed.entry(label.key).or_default().entry(label.value).or_default().insert(item);
        }
        changes
    }

    /// The item is gone. Returns the selectors that it matched.
    pub fn remove_item(&mut self, item: u32) -> Vec<u32> {
        let Some(known) = self.items.remove(&item) else { return Vec::new() };
        known.labels.iter().for_each(|label| self.unfile_item(item, *label));
        for id in &known.matching {
            if let Some(entry) = self.selectors.get_mut(id) {
                entry.matching.remove(&item);
            }
        }
        known.matching
    }

    fn unfile_item(&mut self, item: u32, label: Label) {
        let Some(values) = self.items_filed.get_mut(&label.key) else { return };
        remove_from(values, &label.value, item);
        if values.is_empty() {
            self.items_filed.remove(&label.key);
        }
    }

    /// The selector is there, and says this. Returns the items that began and ceased to match it.
    pub fn set_selector(&mut self, id: u32, selector: &Selector, symbols: &mut Symbols) -> MatchChanges {
        let matcher = Matcher::new(selector, symbols);
        let former = self.selectors.remove(&id).map(|former| {
            self.selectors_filed.remove(id, &former.matcher);
            former.matcher.release(symbols);
            former.matching
        });
        let mut candidates = self.candidates_for(&matcher);
        candidates.sort_unstable();
        candidates.dedup();
        self.comparisons += candidates.len() as u64;
        candidates
            .retain(|item| self.items.get(item).is_some_and(|item| matcher.matches(&item.labels, symbols)));
        self.selectors_filed.add(id, &matcher);

        let mut changes = MatchChanges::default();
        match former {
            None => {
                for item in &candidates {
                    self.note_match(*item, id);
                }
                changes.began.clone_from(&candidates);
            }
            Some(former) => {
                for item in candidates.iter().filter(|item| !former.contains(*item)) {
                    self.note_match(*item, id);
                    changes.began.push(*item);
                }
                for item in former.into_iter().filter(|item| candidates.binary_search(item).is_err()) {
                    self.note_mismatch(item, id);
                    changes.ceased.push(item);
                }
            }
        }
        self.selectors.insert(id, Entry { matcher, matching: candidates.into_iter().collect() });
        changes
    }

    /// The selector is gone. Returns the items that matched it.
    pub fn remove_selector(&mut self, id: u32, symbols: &mut Symbols) -> Vec<u32> {
        let Some(known) = self.selectors.remove(&id) else { return Vec::new() };
        self.selectors_filed.remove(id, &known.matcher);
        known.matcher.release(symbols);
        for item in &known.matching {
            self.note_mismatch(*item, id);
        }
        known.matching.into_iter().collect()
    }

    fn note_match(&mut self, item: u32, selector: u32) {
        if let Some(item) = self.items.get_mut(&item)
            && let Err(place) = item.matching.binary_search(&selector)
        {
            item.matching.insert(place, selector);
        }
    }

    fn note_mismatch(&mut self, item: u32, selector: u32) {
        if let Some(item) = self.items.get_mut(&item)
            && let Ok(place) = item.matching.binary_search(&selector)
        {
            item.matching.remove(place);
        }
    }

    /// The items that a selector may match, in no order, some perhaps twice.
    fn candidates_for(&self, matcher: &Matcher) -> Vec<u32> {
        let Some(handles) = &matcher.handles else { return self.items.keys().copied().collect() };
        let mut candidates = Vec::new();
        for handle in handles {
            match handle {
                Handle::Label(label) => {
                    let filed = self.items_filed.get(&label.key).and_then(|values| values.get(&label.value));
                    candidates.extend(filed.into_iter().flatten());
                }
                Handle::Key(key) => {
                    let filed = self.items_filed.get(key).map(HashMap::values);
                    candidates.extend(filed.into_iter().flatten().flatten());
                }
            }
        }
        candidates
    }

    /// The selectors that the item matches, in order.
    pub fn selectors_of(&self, item: u32) -> &[u32] {
        self.items.get(&item).map_or(&[], |item| &item.matching)
    }

    /// The items that the selector matches, in order.
    pub fn items_of(&self, selector: u32) -> impl Iterator<Item = u32> {
        self.selectors.get(&selector).into_iter().flat_map(|entry| entry.matching.iter().copied())
    }

    /// Whether the item matches the selector.
    pub fn is_match(&self, item: u32, selector: u32) -> bool {
        self.selectors_of(item).binary_search(&selector).is_ok()
    }
}

impl FiledSelectors {
    fn add(&mut self, id: u32, matcher: &Matcher) {
        match &matcher.handles {
            None => drop(self.elsewhere.insert(id)),
            Some(handles) => {
                for handle in handles {
                    match handle {
                        Handle::Label(label) => self.by_label.entry(*label).or_default().insert(id),
                        Handle::Key(key) => self.by_key.entry(*key).or_default().insert(id),
                    };
                }
            }
        }
    }

    fn remove(&mut self, id: u32, matcher: &Matcher) {
        match &matcher.handles {
            None => drop(self.elsewhere.remove(&id)),
            Some(handles) => {
                for handle in handles {
                    match handle {
                        Handle::Label(label) => remove_from(&mut self.by_label, label, id),
                        Handle::Key(key) => remove_from(&mut self.by_key, key, id),
                    }
                }
            }
        }
    }

    /// The selectors that may match these labels, some perhaps twice.
    fn candidates_of(&self, labels: &[Label]) -> Vec<u32> {
        let mut candidates: Vec<u32> = self.elsewhere.iter().copied().collect();
        for label in labels {
            candidates.extend(self.by_label.get(label).into_iter().flatten());
            candidates.extend(self.by_key.get(&label.key).into_iter().flatten());
        }
        candidates
    }
}

fn remove_from<K: std::hash::Hash + Eq>(sets: &mut HashMap<K, BTreeSet<u32>>, key: &K, name: u32) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&name);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// What is only in the one and only in the other of two sorted lists without duplicates.
pub(crate) fn differences<T: Ord + Copy>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => gone.extend(old.next()),
            (Some(_), None) => gone.extend(old.next()),
            (_, Some(_)) => come.extend(new.next()),
            (None, None) => return (gone, come),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with names for symbols.
    #[derive(Default)]
    struct Named {
        index: LabelIndex,
        symbols: Symbols,
    }

    impl Named {
        fn item(&mut self, item: u32, labels: &str) -> MatchChanges {
            let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            let label =
                |(key, value)| Label { key: self.symbols.intern(key), value: self.symbols.intern(value) };
            let mut labels: Vec<Label> = pairs.map(label).collect();
            labels.sort_unstable();
            self.index.set_item(item, &labels.into(), &self.symbols)
        }

        fn selector(&mut self, id: u32, text: &str) -> MatchChanges {
            self.index.set_selector(id, &Selector::parse(text).unwrap(), &mut self.symbols)
        }
    }

    fn began(ids: &[u32]) -> MatchChanges {
        MatchChanges { began: ids.to_vec(), ceased: Vec::new() }
    }

    fn ceased(ids: &[u32]) -> MatchChanges {
        MatchChanges { began: Vec::new(), ceased: ids.to_vec() }
    }

    #[test]
    fn an_item_is_compared_only_with_selectors_filed_under_its_labels() {
        let mut named = Named::default();
        for (id, app) in ["a", "b", "c", "d"].into_iter().enumerate() {
            named.selector(id as u32, &format!("app == '{app}'"));
        }
        named.selector(7, "app != 'a'");
        named.index.comparisons = 0;
        assert_eq!(named.item(1, "app=b"), began(&[1, 7]));
        assert_eq!(named.index.comparisons, 2, "b, and the one without a handle");
    }

    #[test]
    fn a_label_that_changes_is_shown_only_to_selectors_that_look_at_it() {
        let mut named = Named::default();
        for id in 0..10 {
            named.selector(id, &format!("app == 'a' && zone != 'z{id}'"));
        }
        named.selector(10, "app == 'a' && tier == 'x'");
        named.selector(11, "tier == 'y' || has(never)");
        named.item(1, "app=a,tier=x");
        named.index.comparisons = 0;
        assert_eq!(named.item(1, "app=a,tier=y"), MatchChanges { began: vec![11], ceased: vec![10] });
        assert_eq!(named.index.comparisons, 2);
    }

    #[test]
    fn a_selector_is_compared_only_with_items_that_have_a_handle() {
        let mut named = Named::default();
        for item in 0..10 {
            named.item(item, if item < 3 { "app=a" } else { "app=b" });
        }
        assert_eq!(named.selector(0, "app == 'a'"), began(&[0, 1, 2]));
        assert_eq!(named.index.comparisons, 3);
        assert_eq!(named.selector(1, "app == 'a' || app == 'c'"), began(&[0, 1, 2]));
        assert_eq!(named.index.comparisons, 6);
    }

    #[test]
    fn a_change_tells_only_what_has_changed() {
        let mut named = Named::default();
        named.selector(5, "app == 'a'");
        assert_eq!(named.item(1, "app=a"), began(&[5]));
        assert_eq!(named.item(1, "app=a,x=y"), MatchChanges::default());
        assert_eq!(named.item(1, "app=b"), ceased(&[5]));
        assert_eq!(named.selector(5, "has(app)"), began(&[1]));
        assert_eq!(named.selector(5, "app == 'b'"), MatchChanges::default());
        assert_eq!(named.selector(5, "app == 'c'"), ceased(&[1]));
        assert_eq!(named.selector(5, "app != 'c'"), began(&[1]));
        assert_eq!(named.index.items_of(5).collect::<Vec<_>>(), [1]);
        assert!(named.index.is_match(1, 5) && named.index.selectors_of(1) == [5]);
        assert_eq!(named.index.remove_item(1), [5]);
        assert_eq!(named.index.items_of(5).count(), 0);
        assert!(named.index.remove_selector(5, &mut named.symbols).is_empty());
    }

    #[test]
    fn an_item_without_labels_matches_what_asks_for_none() {
        let mut named = Named::default();
        named.selector(1, "all()");
        named.selector(2, "!has(a)");
        assert_eq!(named.item(1, ""), began(&[1, 2]));
        assert_eq!(named.item(1, "a=b"), ceased(&[2]));
    }

    #[test]
    fn nothing_stays_filed_once_everything_is_gone() {
        let mut named = Named::default();
        named.selector(1, "app in {'a', 'b'}");
        named.selector(2, "has(app) || x == 'y'");
        named.selector(3, "all()");
        named.item(1, "app=a,x=y");
        for id in 1..4 {
            named.index.remove_selector(id, &mut named.symbols);
        }
        named.index.remove_item(1);
        assert!(named.index.items_filed.is_empty());
        let filed = &named.index.selectors_filed;
        assert!(filed.by_label.is_empty() && filed.by_key.is_empty() && filed.elsewhere.is_empty());
    }

    #[test]
    fn differences_are_what_only_one_list_has() {
        assert_eq!(differences(&[1, 2, 4, 9], &[2, 3, 9, 10]), (vec![1, 4], vec![3, 10]));
        assert_eq!(differences::<u8>(&[], &[]), (vec![], vec![]));
    }
}
