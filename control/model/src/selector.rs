//! Calico's selector language as a tree: which labels a selector matches, and the text that stands for it.
//!
//! The text is canonical: two selectors with the same text are the same selector. Single spaces, `&&` and `||` groups
//! always in parentheses, sets sorted and without duplicates, values in double quotes unless they contain one, `!`
//! directly before its operand. It is what sets of addresses are named after, so it must not depend on how a selector was made.

use std::collections::BTreeSet;
use std::fmt;

use crate::labels::Labels;

/// A selector. Build `&&`, `||` and `!` with [`Selector::and`], [`Selector::or`] and [`Selector::negate`], which keep the tree canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`: everything.
    All,
    /// `has(key)`: the key is there, with whatever value.
    Has(String),
    /// `key == "value"`.
    Equal(String, String),
    /// `key != "value"`: true also when the key is missing.
    NotEqual(String, String),
    /// `key in {…}`.
    In(String, BTreeSet<String>),
    /// `key not in {…}`: true also when the key is missing.
    NotIn(String, BTreeSet<String>),
    /// `(a && b && …)`: two or more.
    And(Vec<Selector>),
    /// `(a || b || …)`: two or more.
    Or(Vec<Selector>),
    /// `!a`.
    Not(Box<Selector>),
}

impl Selector {
    /// `key == "value"`.
    pub fn equal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Equal(key.into(), value.into())
    }

    /// `has(key)`.
    pub fn has(key: impl Into<String>) -> Self {
        Self::Has(key.into())
    }

    /// All of `terms` hold. Nested conjunctions are flattened and `all()` terms left out; none left is `all()`.
    pub fn and(terms: impl IntoIterator<Item = Selector>) -> Self {
        let mut flat = Vec::new();
        for term in terms {
            match term {
                Self::All => {}
                Self::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match (flat.pop(), flat.is_empty()) {
            (None, _) => Self::All,
            (Some(only), true) => only,
            (Some(last), false) => {
                flat.push(last);
                Self::And(flat)
            }
        }
    }

    /// At least one of `terms` holds. Nested disjunctions are flattened; no terms at all match nothing.
    pub fn or(terms: impl IntoIterator<Item = Selector>) -> Self {
        let mut flat = Vec::new();
        for term in terms {
            match term {
                Self::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match (flat.pop(), flat.is_empty()) {
            (None, _) => Self::Not(Box::new(Self::All)),
            (Some(only), true) => only,
            (Some(last), false) => {
                flat.push(last);
                Self::Or(flat)
            }
        }
    }

    /// The opposite; a pair of `!` cancels.
    pub fn negate(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Whether `labels` are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => labels.has(key),
            Self::Equal(key, value) => labels.get(key) == Some(value),
            Self::NotEqual(key, value) => labels.get(key) != Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels)),
            Self::Not(term) => !term.matches(labels),
        }
    }

    /// What every label map that matches must hold, for indices: the most telling requirement that can be read off.
    pub fn requirement(&self) -> Requirement<'_> {
        match self {
            Self::Equal(key, value) => Requirement::Values(key, vec![value]),
            Self::In(key, values) => Requirement::Values(key, values.iter().map(String::as_str).collect()),
            Self::Has(key) => Requirement::Key(key),
            Self::And(terms) => {
                terms.iter().map(Self::requirement).fold(Requirement::None, Requirement::better)
            }
            Self::All | Self::NotEqual(..) | Self::NotIn(..) | Self::Or(_) | Self::Not(_) => {
                Requirement::None
            }
        }
    }
}

/// What a selector requires of every label map that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement<'a> {
    /// The key with one of these values.
    Values(&'a str, Vec<&'a str>),
    /// The key, with whatever value.
    Key(&'a str),
    /// Nothing that can be read off.
    None,
}

impl Requirement<'_> {
    /// How many label maps the requirement is likely to let through; less is better.
    fn breadth(&self) -> (usize, usize) {
        match self {
            // Every pod has the orchestrator's label, and a namespace holds many pods.
            Self::Values(crate::labels::key::ORCHESTRATOR, _) => (3, 0),
            Self::Values(crate::labels::key::NAMESPACE, values) => (1, values.len()),
            Self::Values(_, values) => (0, values.len()),
            Self::Key(_) => (2, 0),
            Self::None => (4, 0),
        }
    }

    fn better(self, other: Self) -> Self {
        if other.breadth() < self.breadth() { other } else { self }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equal(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::And(terms) => group(f, terms, " && "),
            Self::Or(terms) => group(f, terms, " || "),
            Self::Not(term) => write!(f, "!{term}"),
        }
    }
}

fn group(f: &mut fmt::Formatter<'_>, terms: &[Selector], between: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, term) in terms.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{term}")?;
    }
    f.write_str(")")
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    fn values(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_missing_matches_only_the_negative_operators() {
        let none = Labels::new();
        assert!(!Selector::equal("a", "").matches(&none));
        assert!(!Selector::In("a".into(), values("x")).matches(&none));
        assert!(!Selector::has("a").matches(&none));
        assert!(Selector::NotEqual("a".into(), "x".into()).matches(&none));
        assert!(Selector::NotIn("a".into(), values("x")).matches(&none));
        assert!(Selector::All.matches(&none));
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert!(Selector::has("a").matches(&labels("a=")));
        assert!(Selector::equal("a", "").matches(&labels("a=")));
        assert!(Selector::NotIn("a".into(), values("x")).matches(&labels("a=")));
    }

    #[test]
    fn operators_compare_the_value() {
        let one = labels("a=1,b=2");
        for (selector, expected) in [
            (Selector::equal("a", "1"), true),
            (Selector::equal("a", "2"), false),
            (Selector::NotEqual("a".into(), "1".into()), false),
            (Selector::In("a".into(), values("0 1")), true),
            (Selector::In("a".into(), BTreeSet::new()), false),
            (Selector::NotIn("a".into(), values("0 1")), false),
            (Selector::NotIn("a".into(), BTreeSet::new()), true),
            (Selector::and([Selector::has("a"), Selector::has("b")]), true),
            (Selector::and([Selector::has("a"), Selector::has("c")]), false),
            (Selector::or([Selector::has("c"), Selector::has("b")]), true),
            (Selector::or([]), false),
            (Selector::and([]), true),
            (Selector::has("a").negate(), false),
        ] {
            assert_eq!(selector.matches(&one), expected, "{selector}");
        }
    }

    #[test]
    fn the_text_is_canonical() {
        let nested = Selector::and([
            Selector::and([Selector::has("a"), Selector::All]),
            Selector::and([Selector::equal("b", "x"), Selector::NotEqual("c".into(), "it\"s".into())]),
        ]);
        assert_eq!(nested.to_string(), r#"(has(a) && b == "x" && c != 'it"s')"#);
        let either = Selector::or([Selector::NotIn("k".into(), values("b a b")), nested.clone()]);
        assert_eq!(either.to_string(), format!(r#"(k not in {{"a", "b"}} || {nested})"#));
        assert_eq!(either.clone().negate().to_string(), format!("!{either}"));
        assert_eq!(either.clone().negate().negate(), either);
        assert_eq!(Selector::and([Selector::All]).to_string(), "all()");
        assert_eq!(Selector::In("k".into(), BTreeSet::new()).to_string(), "k in {}");
    }

    #[test]
    fn whatever_matches_has_what_is_required() {
        let selectors = [
            Selector::equal("a", "1"),
            Selector::In("a".into(), values("1 2")),
            Selector::has("b"),
            Selector::NotIn("a".into(), values("1")),
            Selector::and([Selector::has("b"), Selector::In("a".into(), values("1 2"))]),
            Selector::and([Selector::has("c").negate(), Selector::has("b")]),
            Selector::or([Selector::has("a"), Selector::has("b")]),
            Selector::has("a").negate(),
        ];
        let maps = ["", "a=1", "a=2", "a=3", "b=1", "a=1,b=1", "a=2,b=1,c=1", "b=1,c=1"].map(labels);
        for selector in &selectors {
            for map in maps.iter().filter(|map| selector.matches(map)) {
                let has = match selector.requirement() {
                    Requirement::Values(key, values) => {
                        map.get(key).is_some_and(|value| values.contains(&value))
                    }
                    Requirement::Key(key) => map.has(key),
                    Requirement::None => true,
                };
                assert!(has, "{selector} matches {map} without what it requires");
            }
        }
    }

    #[test]
    fn the_most_telling_requirement_is_chosen() {
        use crate::labels::key;
        let app = Selector::equal("app", "web");
        let policy = Selector::and([
            Selector::equal(key::ORCHESTRATOR, "k8s"),
            app,
            Selector::equal(key::NAMESPACE, "x"),
        ]);
        assert_eq!(policy.requirement(), Requirement::Values("app", vec!["web"]));
        let all_here =
            Selector::and([Selector::equal(key::ORCHESTRATOR, "k8s"), Selector::equal(key::NAMESPACE, "x")]);
        assert_eq!(all_here.requirement(), Requirement::Values(key::NAMESPACE, vec!["x"]));
    }
}
