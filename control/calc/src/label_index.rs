//! Which items match which selectors, kept up to date as both come, change and go.
//!
//! A selector is filed under something that it requires of every label map it matches (a key with a value, or a key);
//! only selectors that require nothing are asked about every item. So an item that changes is compared with the
//! selectors filed under its labels and with those that it matched before, and with no others:
//!
//! ```text
//!   item {app: web, tier: 1} ──► app=web:  s1, s7      tier=1: s4      app: s9      (nothing required): s3
//!                                └────────────────── candidates, each asked once ─────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use caracal_model::labels::Labels;
use caracal_model::selector::{Requirement, Selector};

/// An item that began or ceased to match a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatchChange<I, S> {
    pub item: I,
    pub selector: S,
    pub matches: bool,
}

/// The index; `I` names items, `S` names selectors.
#[derive(Debug)]
pub(crate) struct LabelIndex<I, S> {
    items: BTreeMap<I, Item<S>>,
    selectors: BTreeMap<S, Entry<I>>,
    items_filed: Filed<I>,
    selectors_filed: Filed<S>,
    /// How often a selector was compared with an item.
    pub comparisons: u64,
}

#[derive(Debug)]
struct Item<S> {
    labels: Labels,
    matching: BTreeSet<S>,
}

#[derive(Debug)]
struct Entry<I> {
    selector: Selector,
    matching: BTreeSet<I>,
}

impl<I: Clone + Ord, S: Clone + Ord> LabelIndex<I, S> {
    pub fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            selectors: BTreeMap::new(),
            items_filed: Filed::new(),
            selectors_filed: Filed::new(),
            comparisons: 0,
        }
    }

    /// The item is there with these labels.
    pub fn set_item(&mut self, item: &I, labels: &Labels) -> Vec<MatchChange<I, S>> {
        let mut candidates = self.selectors_filed.candidates_of(labels);
        match self.items.get_mut(item) {
            Some(known) if known.labels == *labels => return Vec::new(),
            Some(known) => {
                candidates.extend(known.matching.iter().cloned());
                self.items_filed.remove_item(item, &known.labels);
                known.labels = labels.clone();
            }
            None => {
                let known = Item { labels: labels.clone(), matching: BTreeSet::new() };
                self.items.insert(item.clone(), known);
            }
        }
        self.items_filed.add_item(item, labels);
        candidates.into_iter().filter_map(|selector| self.compare(item, &selector)).collect()
    }

    /// The item is gone.
    pub fn remove_item(&mut self, item: &I) -> Vec<MatchChange<I, S>> {
        let Some(known) = self.items.remove(item) else { return Vec::new() };
        self.items_filed.remove_item(item, &known.labels);
        for selector in &known.matching {
            if let Some(entry) = self.selectors.get_mut(selector) {
                entry.matching.remove(item);
            }
        }
        let matching = known.matching.into_iter();
        matching.map(|selector| MatchChange { item: item.clone(), selector, matches: false }).collect()
    }

    /// The selector is there, and says this.
    pub fn set_selector(&mut self, id: &S, selector: &Selector) -> Vec<MatchChange<I, S>> {
        let mut candidates = self.items_filed.candidates_for(selector, self.items.keys());
        match self.selectors.get_mut(id) {
            Some(known) if known.selector == *selector => return Vec::new(),
            Some(known) => {
                candidates.extend(known.matching.iter().cloned());
                self.selectors_filed.remove_selector(id, &known.selector);
                known.selector = selector.clone();
            }
            None => {
                let entry = Entry { selector: selector.clone(), matching: BTreeSet::new() };
                self.selectors.insert(id.clone(), entry);
            }
        }
        self.selectors_filed.add_selector(id, selector);
        candidates.into_iter().filter_map(|item| self.compare(&item, id)).collect()
    }

    /// The selector is gone.
    pub fn remove_selector(&mut self, id: &S) -> Vec<MatchChange<I, S>> {
        let Some(known) = self.selectors.remove(id) else { return Vec::new() };
        self.selectors_filed.remove_selector(id, &known.selector);
        for item in &known.matching {
            if let Some(item) = self.items.get_mut(item) {
                item.matching.remove(id);
            }
        }
        let matching = known.matching.into_iter();
        matching.map(|item| MatchChange { item, selector: id.clone(), matches: false }).collect()
    }

    /// The selectors that the item matches, in order.
    pub fn selectors_of(&self, item: &I) -> impl Iterator<Item = &S> {
        self.items.get(item).into_iter().flat_map(|item| &item.matching)
    }

    /// The items that the selector matches, in order.
    pub fn items_of(&self, selector: &S) -> impl Iterator<Item = &I> {
        self.selectors.get(selector).into_iter().flat_map(|entry| &entry.matching)
    }

    fn compare(&mut self, item_id: &I, selector_id: &S) -> Option<MatchChange<I, S>> {
        let item = self.items.get_mut(item_id)?;
        let entry = self.selectors.get_mut(selector_id)?;
        self.comparisons += 1;
        let matches = entry.selector.matches(&item.labels);
        let changed = if matches {
            entry.matching.insert(item_id.clone());
            item.matching.insert(selector_id.clone())
        } else {
            entry.matching.remove(item_id);
            item.matching.remove(selector_id)
        };
        changed.then(|| MatchChange { item: item_id.clone(), selector: selector_id.clone(), matches })
    }
}

/// Names filed under keys and values: items under all of their labels, selectors under what they require.
#[derive(Debug)]
struct Filed<T> {
    by_value: HashMap<String, HashMap<String, BTreeSet<T>>>,
    by_key: HashMap<String, BTreeSet<T>>,
    /// Selectors that require nothing.
    elsewhere: BTreeSet<T>,
}

impl<T: Clone + Ord> Filed<T> {
    fn new() -> Self {
        Self { by_value: HashMap::new(), by_key: HashMap::new(), elsewhere: BTreeSet::new() }
    }

    fn add_item(&mut self, item: &T, labels: &Labels) {
        for (key, value) in labels.iter() {
            self.add_value(item, key, value);
            self.by_key.entry(key.to_owned()).or_default().insert(item.clone());
        }
    }

    fn remove_item(&mut self, item: &T, labels: &Labels) {
        for (key, value) in labels.iter() {
            self.remove_value(item, key, value);
            remove_from(&mut self.by_key, key, item);
        }
    }

    fn add_selector(&mut self, id: &T, selector: &Selector) {
        match selector.requirement() {
            Requirement::Values(key, values) => {
                values.into_iter().for_each(|value| self.add_value(id, key, value));
            }
            Requirement::Key(key) => {
                self.by_key.entry(key.to_owned()).or_default().insert(id.clone());
            }
            Requirement::None => {
                self.elsewhere.insert(id.clone());
            }
        }
    }

    fn remove_selector(&mut self, id: &T, selector: &Selector) {
        match selector.requirement() {
            Requirement::Values(key, values) => {
                values.into_iter().for_each(|value| self.remove_value(id, key, value));
            }
            Requirement::Key(key) => remove_from(&mut self.by_key, key, id),
            Requirement::None => drop(self.elsewhere.remove(id)),
        }
    }

    fn add_value(&mut self, name: &T, key: &str, value: &str) {
        let values = self.by_value.entry(key.to_owned()).or_default();
        values.entry(value.to_owned()).or_default().insert(name.clone());
    }

    fn remove_value(&mut self, name: &T, key: &str, value: &str) {
        let Some(values) = self.by_value.get_mut(key) else { return };
        remove_from(values, value, name);
        if values.is_empty() {
            self.by_value.remove(key);
        }
    }

    /// Of filed selectors: those that may match these labels.
    fn candidates_of(&self, labels: &Labels) -> BTreeSet<T> {
        let mut candidates = self.elsewhere.clone();
        for (key, value) in labels.iter() {
            let by_value = self.by_value.get(key).and_then(|values| values.get(value));
            candidates.extend(by_value.into_iter().chain(self.by_key.get(key)).flatten().cloned());
        }
        candidates
    }

    /// Of filed items: those that the selector may match.
    fn candidates_for<'a>(&self, selector: &Selector, all: impl Iterator<Item = &'a T>) -> BTreeSet<T>
    where
        T: 'a,
    {
        match selector.requirement() {
            Requirement::Values(key, wanted) => {
                let values = self.by_value.get(key);
                let sets = wanted.into_iter().filter_map(|value| values?.get(value));
                sets.flatten().cloned().collect()
            }
            Requirement::Key(key) => self.by_key.get(key).cloned().unwrap_or_default(),
            Requirement::None => all.cloned().collect(),
        }
    }
}

fn remove_from<T: Ord>(sets: &mut HashMap<String, BTreeSet<T>>, key: &str, name: &T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(name);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    fn index() -> LabelIndex<u32, &'static str> {
        LabelIndex::new()
    }

    #[test]
    fn an_item_is_compared_only_with_selectors_filed_under_its_labels() {
        let mut index = index();
        for id in ["a", "b", "c", "d"] {
            index.set_selector(&id, &Selector::equal("app", id));
        }
        index.set_selector(&"none", &Selector::NotEqual("app".into(), "a".into()));
        index.comparisons = 0;
        let changes = index.set_item(&1, &labels("app=b"));
        assert_eq!(index.comparisons, 2, "b, and the one that requires nothing");
        let started: Vec<&str> = changes.iter().map(|change| change.selector).collect();
        assert_eq!(started, ["b", "none"]);
    }

    #[test]
    fn a_selector_is_compared_only_with_items_that_have_what_it_requires() {
        let mut index = index();
        for item in 0..10 {
            index.set_item(&item, &labels(if item < 3 { "app=a" } else { "app=b" }));
        }
        assert_eq!(index.set_selector(&"s", &Selector::equal("app", "a")).len(), 3);
        assert_eq!(index.comparisons, 3);
    }

    #[test]
    fn a_change_tells_only_what_has_changed() {
        let mut index = index();
        index.set_selector(&"s", &Selector::equal("app", "a"));
        assert_eq!(
            index.set_item(&1, &labels("app=a")),
            [MatchChange { item: 1, selector: "s", matches: true }]
        );
        assert_eq!(index.set_item(&1, &labels("app=a,x=y")), []);
        assert_eq!(
            index.set_item(&1, &labels("app=b")),
            [MatchChange { item: 1, selector: "s", matches: false }]
        );
        assert_eq!(
            index.set_selector(&"s", &Selector::has("app")),
            [MatchChange { item: 1, selector: "s", matches: true }]
        );
        assert_eq!(index.items_of(&"s").count(), 1);
        assert_eq!(index.remove_item(&1), [MatchChange { item: 1, selector: "s", matches: false }]);
        assert_eq!(index.items_of(&"s").count(), 0);
        assert_eq!(index.remove_selector(&"s"), []);
    }

    #[test]
    fn nothing_stays_filed_once_everything_is_gone() {
        let mut index = index();
        index.set_selector(&"s", &Selector::In("app".into(), ["a".to_owned(), "b".to_owned()].into()));
        index.set_selector(&"t", &Selector::has("app"));
        index.set_selector(&"u", &Selector::All);
        index.set_item(&1, &labels("app=a,x=y"));
        for id in ["s", "t", "u"] {
            index.remove_selector(&id);
        }
        index.remove_item(&1);
        assert!(index.items_filed.by_value.is_empty() && index.items_filed.by_key.is_empty());
        assert!(index.selectors_filed.by_value.is_empty() && index.selectors_filed.by_key.is_empty());
        assert!(index.selectors_filed.elsewhere.is_empty());
    }
}
