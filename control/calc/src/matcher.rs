//! A selector over symbols: what the label index evaluates.

use caracal_model::labels::key;
use caracal_model::selector::Selector;

use crate::symbols::{Label, Symbol, Symbols, value_of};

/// A compiled selector. Whoever drops one releases it first.
#[derive(Debug)]
pub(crate) struct Matcher {
    term: Term,
    /// Every label map that matches has at least one of these; `None`: nothing of the kind can be said.
    pub handles: Option<Vec<Handle>>,
    /// The keys that it looks at, sorted: nothing else about a label map matters.
    keys: Vec<Symbol>,
    used: Vec<Symbol>,
}

/// Something that a label map may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    /// The key with this value.
    Label(Label),
    /// The key, with whatever value.
    Key(Symbol),
}

#[derive(Debug)]
enum Term {
    All,
    Has(Symbol),
    Equal(Label),
    In(Symbol, Vec<Symbol>),
    Text(Symbol, TextOperator, Box<str>),
    And(Vec<Term>),
    Or(Vec<Term>),
    Not(Box<Term>),
}

#[derive(Debug, Clone, Copy)]
enum TextOperator {
    Contains,
    StartsWith,
    EndsWith,
}

impl Matcher {
    pub fn new(selector: &Selector, symbols: &mut Symbols) -> Self {
        let mut used = Vec::new();
        let mut compiler = Compiler { symbols, used: &mut used, keys: Vec::new() };
        let term = compiler.term(selector);
        let handles = compiler.handles(selector).map(|handles| handles.of);
        let mut keys = compiler.keys;
        keys.sort_unstable();
        keys.dedup();
        Self { term, handles, keys, used }
    }

    /// Gives its symbols back.
    pub fn release(self, symbols: &mut Symbols) {
        self.used.into_iter().for_each(|symbol| symbols.release(symbol));
    }

    /// Whether labels, sorted by key, are selected.
    pub fn matches(&self, labels: &[Label], symbols: &Symbols) -> bool {
        self.term.matches(labels, symbols)
    }

    /// Whether it looks at any of these keys, sorted.
    pub fn looks_at(&self, keys: &[Symbol]) -> bool {
        keys.iter().any(|key| self.keys.binary_search(key).is_ok())
    }
}

impl Term {
    fn matches(&self, labels: &[Label], symbols: &Symbols) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => value_of(labels, *key).is_some(),
            Self::Equal(label) => value_of(labels, label.key) == Some(label.value),
            Self::In(key, values) => {
                value_of(labels, *key).is_some_and(|value| values.binary_search(&value).is_ok())
            }
            Self::Text(key, operator, text) => value_of(labels, *key).is_some_and(|value| {
                let (value, text) = (symbols.text(value), text.as_ref());
                match operator {
                    TextOperator::Contains => value.contains(text),
                    TextOperator::StartsWith => value.starts_with(text),
                    TextOperator::EndsWith => value.ends_with(text),
                }
            }),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels, symbols)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels, symbols)),
            Self::Not(term) => !term.matches(labels, symbols),
        }
    }
}

/// Handles, and how many label maps they are likely to let through; less is better.
struct Handles {
    of: Vec<Handle>,
    breadth: (u8, usize),
}

struct Compiler<'a> {
    symbols: &'a mut Symbols,
    used: &'a mut Vec<Symbol>,
    keys: Vec<Symbol>,
}

impl Compiler<'_> {
    fn symbol(&mut self, text: &str) -> Symbol {
        let symbol = self.symbols.intern(text);
        self.used.push(symbol);
        symbol
    }

    fn key(&mut self, key: &str) -> Symbol {
        let key = self.symbol(key);
        self.keys.push(key);
        key
    }

    fn label(&mut self, key: &str, value: &str) -> Label {
        Label { key: self.key(key), value: self.symbol(value) }
    }

    fn term(&mut self, selector: &Selector) -> Term {
        match selector {
            Selector::All | Selector::Global => Term::All,
            Selector::Has(key) => Term::Has(self.key(key)),
            Selector::Equal(key, value) => Term::Equal(self.label(key, value)),
            Selector::NotEqual(key, value) => Term::Not(Box::new(Term::Equal(self.label(key, value)))),
            Selector::In(key, values) => self.one_of(key, values),
            Selector::NotIn(key, values) => Term::Not(Box::new(self.one_of(key, values))),
            Selector::Contains(key, text) => self.text(key, TextOperator::Contains, text),
            Selector::StartsWith(key, text) => self.text(key, TextOperator::StartsWith, text),
            Selector::EndsWith(key, text) => self.text(key, TextOperator::EndsWith, text),
            Selector::And(terms) => Term::And(terms.iter().map(|term| self.term(term)).collect()),
            Selector::Or(terms) => Term::Or(terms.iter().map(|term| self.term(term)).collect()),
            Selector::Not(term) => Term::Not(Box::new(self.term(term))),
        }
    }

    fn one_of<'v>(&mut self, key: &str, values: impl IntoIterator<Item = &'v String>) -> Term {
        let mut values: Vec<Symbol> = values.into_iter().map(|value| self.symbol(value)).collect();
        values.sort_unstable();
        Term::In(self.key(key), values)
    }

    fn text(&mut self, key: &str, operator: TextOperator, text: &str) -> Term {
        Term::Text(self.key(key), operator, text.into())
    }

    /// The most telling handles that can be read off.
    fn handles(&mut self, selector: &Selector) -> Option<Handles> {
        match selector {
            Selector::Equal(key, value) => Some(self.label_handles(key, [value])),
            Selector::In(key, values) => Some(self.label_handles(key, values)),
            Selector::Has(key)
            | Selector::Contains(key, _)
            | Selector::StartsWith(key, _)
            | Selector::EndsWith(key, _) => {
                Some(Handles { of: vec![Handle::Key(self.symbol(key))], breadth: (2, 0) })
            }
            Selector::And(terms) => {
                let handles: Vec<Handles> = terms.iter().filter_map(|term| self.handles(term)).collect();
                handles.into_iter().min_by_key(|handles| handles.breadth)
            }
            Selector::Or(terms) => {
                let mut either = Handles { of: Vec::new(), breadth: (0, 0) };
                for term in terms {
                    let handles = self.handles(term)?;
                    either.of.extend(handles.of);
                    either.breadth = either.breadth.max(handles.breadth);
                }
                Some(either)
            }
            Selector::All
            | Selector::Global
            | Selector::NotEqual(..)
            | Selector::NotIn(..)
            | Selector::Not(_) => None,
        }
    }

    fn label_handles<'v>(&mut self, key: &str, values: impl IntoIterator<Item = &'v String>) -> Handles {
        let of: Vec<Handle> = values
            .into_iter()
            .map(|value| Handle::Label(Label { key: self.symbol(key), value: self.symbol(value) }))
            .collect();
        // Every pod has the orchestrator's label, and a namespace holds many pods.
        let class = match key {
            key::ORCHESTRATOR => 3,
            key::NAMESPACE => 1,
            _ => 0,
        };
        Handles { breadth: (class, of.len()), of }
    }
}

#[cfg(test)]
mod tests {
    use caracal_model::labels::Labels;

    use super::*;

    fn interned(labels: &Labels, symbols: &mut Symbols) -> Vec<Label> {
        let label =
            |(key, value): (&str, &str)| Label { key: symbols.intern(key), value: symbols.intern(value) };
        let mut labels: Vec<Label> = labels.iter().map(label).collect();
        labels.sort_unstable();
        labels
    }

    const SELECTORS: [&str; 17] = [
        "all()",
        "global()",
        "has(a)",
        "!has(a)",
        "a == 'x'",
        "a != 'x'",
        "a in {'x', 'y'}",
        "a in {}",
        "a not in {'x', 'z'}",
        "a contains 'x'",
        "a starts with 'x'",
        "a ends with 'x'",
        "a == 'x' && b == 'y'",
        "has(b) && a in {'x', 'xy'}",
        "a == 'x' || b == 'y'",
        "a == 'x' || b != 'y'",
        "!(a == 'x' || has(b)) && b != 'x'",
    ];
    const MAPS: [&str; 10] = ["", "a=", "a=x", "a=y", "a=xy", "a=yx", "b=y", "a=x,b=y", "a=y,b=x", "c=x"];

    #[test]
    fn a_matcher_agrees_with_its_selector_and_its_handles_are_necessary() {
        let mut symbols = Symbols::default();
        for text in SELECTORS {
            let selector = Selector::parse(text).unwrap();
            let matcher = Matcher::new(&selector, &mut symbols);
            for map in MAPS {
                let labels: Labels = map.split(',').filter_map(|pair| pair.split_once('=')).collect();
                let map = interned(&labels, &mut symbols);
                let matches = matcher.matches(&map, &symbols);
                assert_eq!(matches, selector.matches(&labels), "{text} on {labels}");
                let holds = |handle: &Handle| match handle {
                    Handle::Label(label) => map.contains(label),
                    Handle::Key(key) => value_of(&map, *key).is_some(),
                };
                let held = matcher.handles.as_ref().is_none_or(|handles| handles.iter().any(holds));
                assert!(held || !matches, "{text} matches {labels} by no handle");
            }
            matcher.release(&mut symbols);
        }
    }

    #[test]
    fn a_released_matcher_leaves_no_symbol_behind() {
        let mut symbols = Symbols::default();
        for text in SELECTORS {
            Matcher::new(&Selector::parse(text).unwrap(), &mut symbols).release(&mut symbols);
        }
        symbols.sweep();
        assert_eq!(symbols.len(), 0);
    }

    #[test]
    fn the_most_telling_handle_is_chosen() {
        let mut symbols = Symbols::default();
        let text =
            "projectcalico.org/orchestrator == 'k8s' && app == 'web' && projectcalico.org/namespace == 'x'";
        let matcher = Matcher::new(&Selector::parse(text).unwrap(), &mut symbols);
        let app = Label { key: symbols.intern("app"), value: symbols.intern("web") };
        assert_eq!(matcher.handles, Some(vec![Handle::Label(app)]));
    }
}
