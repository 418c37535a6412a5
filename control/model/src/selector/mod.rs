//! Calico's selector language as a tree: which labels a selector matches, and the text that stands for it.
//!
//! The text is canonical: two selectors with the same text are the same selector, and reading the text gives the selector
//! back. Single spaces, `&&` and `||` groups always in parentheses, sets sorted and without duplicates, values in double
//! quotes unless they contain one, `!` directly before its operand and never twice. It is what sets of addresses are named
//! after, so it must not depend on how a selector was made.
//!
//! ```text
//!   text ── parse ──► Selector ── prefixed · replacing ──► effective selector ── Display ──► canonical text
//!                        └── matches(labels)
//! ```

mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use crate::labels::Labels;

pub use parse::SelectorError;

/// A selector. Build `&&`, `||` and `!` with [`Selector::and`], [`Selector::or`] and [`Selector::negate`], which keep the tree canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `all()`: everything.
    All,
    /// `global()`: everything, too; where namespaces are selected it stands for what is in none.
    Global,
    /// `has(key)`: the key is there, with whatever value.
    Has(String),
    /// `key == "value"`.
    Equal(String, String),
    /// `key != "value"`: true also when the key is missing.
    NotEqual(String, String),
    /// `key contains "text"`.
    Contains(String, String),
    /// `key starts with "text"`.
    StartsWith(String, String),
    /// `key ends with "text"`.
    EndsWith(String, String),
    /// `key in {…}`.
    In(String, BTreeSet<String>),
    /// `key not in {…}`: true also when the key is missing.
    NotIn(String, BTreeSet<String>),
    /// `(a && b && …)`: two or more. A group within a group stays one when it was written so.
    And(Vec<Selector>),
    /// `(a || b || …)`: two or more.
    Or(Vec<Selector>),
    /// `!a`; never of another `!`.
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
            Self::All | Self::Global => true,
            Self::Has(key) => labels.has(key),
            Self::Equal(key, value) => labels.get(key) == Some(value),
            Self::NotEqual(key, value) => labels.get(key) != Some(value),
            Self::Contains(key, text) => labels.get(key).is_some_and(|value| value.contains(text.as_str())),
            Self::StartsWith(key, text) => {
                labels.get(key).is_some_and(|value| value.starts_with(text.as_str()))
            }
            Self::EndsWith(key, text) => labels.get(key).is_some_and(|value| value.ends_with(text.as_str())),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::And(terms) => terms.iter().all(|term| term.matches(labels)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(labels)),
            Self::Not(term) => !term.matches(labels),
        }
    }

    /// The same selector about the labels behind a prefix, those that an endpoint inherits.
    pub fn prefixed(self, prefix: &str) -> Self {
        let behind = |key: String| format!("{prefix}{key}");
        match self {
            Self::All | Self::Global => self,
            Self::Has(key) => Self::Has(behind(key)),
            Self::Equal(key, value) => Self::Equal(behind(key), value),
            Self::NotEqual(key, value) => Self::NotEqual(behind(key), value),
            Self::Contains(key, text) => Self::Contains(behind(key), text),
            Self::StartsWith(key, text) => Self::StartsWith(behind(key), text),
            Self::EndsWith(key, text) => Self::EndsWith(behind(key), text),
            Self::In(key, values) => Self::In(behind(key), values),
            Self::NotIn(key, values) => Self::NotIn(behind(key), values),
            Self::And(terms) => Self::And(terms.into_iter().map(|term| term.prefixed(prefix)).collect()),
            Self::Or(terms) => Self::Or(terms.into_iter().map(|term| term.prefixed(prefix)).collect()),
            Self::Not(term) => Self::Not(Box::new(term.prefixed(prefix))),
        }
    }

    /// The same selector with every `what` in it, however deep, replaced: `all()` and `global()` mean something else
    /// where namespaces or service accounts are selected.
    pub fn replacing(self, what: &Selector, with: &Selector) -> Self {
        if self == *what {
            return with.clone();
        }
        let each = |terms: Vec<Self>| terms.into_iter().map(|term| term.replacing(what, with)).collect();
        match self {
            Self::And(terms) => Self::And(each(terms)),
            Self::Or(terms) => Self::Or(each(terms)),
            Self::Not(term) => term.replacing(what, with).negate(),
            leaf => leaf,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equal(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::Contains(key, text) => write!(f, "{key} contains {}", Quoted(text)),
            Self::StartsWith(key, text) => write!(f, "{key} starts with {}", Quoted(text)),
            Self::EndsWith(key, text) => write!(f, "{key} ends with {}", Quoted(text)),
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
