//! What a table holds: chains of rules, and sets.

use std::collections::BTreeMap;
use std::fmt;

use crate::set::Set;
use crate::statement::Statement;

/// A table of family inet, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table's name.
    pub table: String,
    /// Its sets, by name.
    pub sets: BTreeMap<String, Set>,
    /// Its chains, by name. A chain that others lead to is there as well.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel comes to it; None: only where a rule leads to it.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where a base chain is. Its policy is to accept: what it is not about is not its business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// Lower comes first.
    pub priority: i32,
}

/// A hook of the inet family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Everything that comes in.
    Prerouting = 0,
    /// What is for this host.
    Input = 1,
    /// What this host forwards.
    Forward = 2,
    /// What this host originates.
    Output = 3,
}

/// A rule: conditions that must all hold, then what is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// In order; a condition that does not hold ends the rule.
    pub statements: Vec<Statement>,
    /// For whoever reads the table.
    pub comment: String,
}

impl Rule {
    /// A rule that says nothing of itself.
    #[must_use]
    pub fn new(statements: Vec<Statement>) -> Rule {
        Rule { statements, comment: String::new() }
    }

    /// With a comment; what the kernel does not hold of it is cut off.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Rule {
        self.comment = clipped(comment, COMMENT_BYTES).to_owned();
        self
    }
}

/// The longest comment that nft(8) shows.
const COMMENT_BYTES: usize = 127;

/// The beginning of a text, of so many bytes at most.
pub(crate) fn clipped(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Ruleset {
    /// A table with nothing in it.
    #[must_use]
    pub fn new(table: &str) -> Ruleset {
        Ruleset { table: table.to_owned(), sets: BTreeMap::new(), chains: BTreeMap::new() }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    /// The rules of all chains.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.chains.values().map(|chain| chain.rules.len()).sum()
    }

    /// Whether `other` differs in nothing but the elements of sets.
    #[must_use]
    pub fn is_same_but_for_elements(&self, other: &Ruleset) -> bool {
        let shapes = |ruleset: &Ruleset| {
            let shape = |(name, set): (&String, &Set)| (name.clone(), set.fields().to_vec());
            ruleset.sets.iter().map(shape).collect::<Vec<_>>()
        };
        self.table == other.table && self.chains == other.chains && shapes(self) == shapes(other)
    }
}

impl Hook {
    fn as_str(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        for (name, set) in &self.sets {
            write!(f, "\tset {name} {{\n{set}\t}}\n\n")?;
        }
        for (at, (name, chain)) in self.chains.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "\tchain {name} {{\n{chain}\t}}\n")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Base { hook, priority }) = self.base {
            writeln!(f, "\t\ttype filter hook {} priority {priority}; policy accept;", hook.as_str())?;
        }
        self.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, statement) in self.statements.iter().enumerate() {
            write!(f, "{}{statement}", if at == 0 { "" } else { " " })?;
        }
        match self.comment.as_str() {
            "" => Ok(()),
            comment => write!(f, " comment \"{comment}\""),
        }
    }
}
