//! Label keys, label values and names as small numbers, so that they are kept once and compared at no cost.
//!
//! A symbol is there while it has users; one without is forgotten at the next [`Symbols::sweep`], and only then may its
//! number come to mean another text. So between two sweeps nothing can take one text for another, whoever releases first.

use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

/// A text, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(u32);

/// A label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    pub key: Symbol,
    pub value: Symbol,
}

/// The value of a key in labels that are sorted by key.
pub(crate) fn value_of(labels: &[Label], key: Symbol) -> Option<Symbol> {
    let place = labels.binary_search_by_key(&key, |label| label.key).ok()?;
    labels.get(place).map(|label| label.value)
}

#[derive(Debug)]
struct Text {
    text: Arc<str>,
    users: u32,
}

/// All symbols that are in use.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    known: HashMap<Arc<str>, Symbol>,
    texts: Slab<Text>,
    unused: Vec<Symbol>,
}

impl Symbols {
    /// The symbol of a text, which has one user more now.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.known.get(text).copied() {
            self.retain(symbol);
            return symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = Symbol(self.texts.insert(Text { text: text.clone(), users: 1 }) as u32);
        self.known.insert(text, symbol);
        symbol
    }

    /// One user more.
    pub fn retain(&mut self, symbol: Symbol) {
        if let Some(text) = self.texts.get_mut(symbol.0 as usize) {
            text.users += 1;
        }
    }

    /// One user less.
    pub fn release(&mut self, symbol: Symbol) {
        if let Some(text) = self.texts.get_mut(symbol.0 as usize) {
            text.users = text.users.saturating_sub(1);
            if text.users == 0 {
                self.unused.push(symbol);
            }
        }
    }

    /// One user less of each label's key and value.
    pub fn release_labels(&mut self, labels: &[Label]) {
        for label in labels {
            self.release(label.key);
            self.release(label.value);
        }
    }

    /// The text of a symbol in use.
    pub fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", |text| &text.text)
    }

    /// Forgets what has no users.
    pub fn sweep(&mut self) {
        for symbol in std::mem::take(&mut self.unused) {
            let index = symbol.0 as usize;
            if self.texts.get(index).is_some_and(|text| text.users == 0) {
                let text = self.texts.remove(index);
                self.known.remove(&text.text);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.texts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_kept_while_it_has_users_and_until_the_sweep() {
        let mut symbols = Symbols::default();
        let (a, b) = (symbols.intern("a"), symbols.intern("b"));
        assert_eq!(symbols.intern("a"), a);
        symbols.release(a);
        symbols.release(b);
        let c = symbols.intern("c");
        assert!(c != a && c != b, "a number came to mean another text before the sweep");
        assert_eq!(symbols.text(b), "b");
        symbols.sweep();
        assert_eq!((symbols.text(a), symbols.len()), ("a", 2));
        assert_ne!(symbols.intern("b"), c);
    }

    #[test]
    fn what_is_wanted_again_before_the_sweep_stays() {
        let mut symbols = Symbols::default();
        let a = symbols.intern("a");
        symbols.release(a);
        assert_eq!(symbols.intern("a"), a);
        symbols.release(a);
        symbols.intern("a");
        symbols.sweep();
        assert_eq!((symbols.text(a), symbols.len()), ("a", 1));
    }
}
