//! Reads selectors.
//!
//! ```text
//!   selector   = [ or ]                       ; blank = all()
//!   or         = and { "||" and }
//!   and        = unary { "&&" unary }
//!   unary      = { "!" } primary              ; pairs of ! cancel
//!   primary    = "all" "(" ")" | "global" "(" ")" | "has" "(" label ")" | "(" or ")" | label op
//!   op         = ( "==" | "!=" | "contains" | "starts" "with" | "ends" "with" ) string
//!              | ( "in" | "not" "in" ) "{" [ string { "," string } [ "," ] ] "}"
//! ```
//!
//! Words are keywords only where they can be: after a label comes an operator, so a label may be called `in`, and `has`,
//! `all` and `global` are functions only with the parenthesis right behind them. Groups wait on a stack of their own, not
//! on the thread's, so that no text, however deep, can exhaust it.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::Selector;

/// How deep parentheses may be nested: more than fit into the 1,024 characters that an API takes.
const DEPTH_MAX: usize = 512;
/// The longest label.
const LABEL_MAX: usize = 512;
/// What can stand where a condition is needed.
const CONDITION: &str = "a label, has(label), all(), global(), \"!\" or \"(\"";
/// What can stand behind a label.
const OPERATOR: &str = "an operator (==, !=, in, not in, contains, starts with, ends with)";

/// Why a text is no [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct SelectorError {
    /// Where, in characters, counted from 1; one more than there are for the end of the text.
    pub column: usize,
    /// What was expected there and what was found.
    pub message: String,
}

impl Selector {
    /// Reads a selector; a blank one is `all()`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut cursor = Cursor { text, at: 0 };
        cursor.skip_blanks();
        if cursor.rest().is_empty() {
            return Ok(Self::All);
        }
        let mut outer: Vec<Group> = Vec::new();
        let mut group = Group::default();
        loop {
            let negated = cursor.negated();
            let opened_at = cursor.at;
            if cursor.take("(") {
                if outer.len() == DEPTH_MAX {
                    return Err(
                        cursor.error_at(opened_at, format!("parentheses are nested deeper than {DEPTH_MAX}"))
                    );
                }
                outer.push(std::mem::replace(&mut group, Group { negated, opened_at, ..Group::default() }));
                continue;
            }
            let mut operand = cursor.condition()?.negated_if(negated);
            // What is behind a condition: another one, or the ends of any number of groups.
            loop {
                group.all_of.push(operand);
                cursor.skip_blanks();
                if cursor.take("&&") {
                    break;
                }
                if cursor.take("||") {
                    group.end_alternative();
                    break;
                }
                if cursor.rest().starts_with(')') && !outer.is_empty() {
                    cursor.take(")");
                    let negated = group.negated;
                    let whole = std::mem::replace(&mut group, outer.pop().unwrap_or_default());
                    operand = whole.selector().negated_if(negated);
                    continue;
                }
                if !cursor.rest().is_empty() {
                    let closing = if outer.is_empty() { "the end" } else { "\")\"" };
                    return Err(cursor.expected(&format!("\"&&\", \"||\" or {closing}")));
                }
                if !outer.is_empty() {
                    let opened = cursor.column(group.opened_at);
                    return Err(cursor.expected(&format!("\")\" for the \"(\" in column {opened}")));
                }
                return Ok(group.selector());
            }
        }
    }

    fn negated_if(self, negated: bool) -> Self {
        if negated { self.negate() } else { self }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// A parenthesis, or the whole text, as far as it has been read.
#[derive(Default)]
struct Group {
    negated: bool,
    opened_at: usize,
    /// The alternatives before this one.
    any_of: Vec<Selector>,
    /// The conditions of this alternative.
    all_of: Vec<Selector>,
}

impl Group {
    fn end_alternative(&mut self) {
        self.any_of.push(only_or(std::mem::take(&mut self.all_of), Selector::And));
    }

    fn selector(mut self) -> Selector {
        self.end_alternative();
        only_or(self.any_of, Selector::Or)
    }
}

/// The only term, or all of them together.
fn only_or(mut terms: Vec<Selector>, together: impl Fn(Vec<Selector>) -> Selector) -> Selector {
    match (terms.len(), terms.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            terms.extend(last);
            together(terms)
        }
    }
}

/// The text, and how far it has been read, in bytes.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    /// Any number of `!`: whether it is odd.
    fn negated(&mut self) -> bool {
        let mut negated = false;
        self.skip_blanks();
        while self.take("!") {
            negated = !negated;
            self.skip_blanks();
        }
        negated
    }

    /// A condition on one label, or on none.
    fn condition(&mut self) -> Result<Selector, SelectorError> {
        let start = self.at;
        let word = self.take_while(is_label_char);
        if word.is_empty() {
            return Err(self.expected(CONDITION));
        }
        if self.rest().starts_with('(') && matches!(word, "has" | "all" | "global") {
            self.take("(");
            self.skip_blanks();
            let function = match word {
                "all" => Selector::All,
                "global" => Selector::Global,
                _ => {
                    let start = self.at;
                    let label = self.take_while(is_label_char);
                    self.check_label(start, label)?;
                    Selector::has(label)
                }
            };
            self.skip_blanks();
            return if self.take(")") { Ok(function) } else { Err(self.expected("\")\"")) };
        }
        self.check_label(start, word)?;
        self.comparison(word)
    }

    fn check_label(&self, start: usize, label: &str) -> Result<(), SelectorError> {
        match label.len() {
            0 => Err(self.expected("a label")),
            1..=LABEL_MAX => Ok(()),
            length => Err(self
                .error_at(start, format!("a label has at most {LABEL_MAX} characters, this one {length}"))),
        }
    }

    /// An operator and what a label is compared with.
    fn comparison(&mut self, label: &str) -> Result<Selector, SelectorError> {
        self.skip_blanks();
        let start = self.at;
        if self.take("==") {
            return Ok(Selector::Equal(label.to_owned(), self.string()?));
        }
        if self.take("!=") {
            return Ok(Selector::NotEqual(label.to_owned(), self.string()?));
        }
        let operator = self.word_operator();
        // The word must end here: `inf` is no operator.
        let Some(operator) = operator.filter(|_| !self.rest().starts_with(is_label_char)) else {
            self.at = start;
            return Err(self.expected(OPERATOR));
        };
        let label = label.to_owned();
        Ok(match operator {
            WordOperator::In => Selector::In(label, self.set()?),
            WordOperator::NotIn => Selector::NotIn(label, self.set()?),
            WordOperator::Contains => Selector::Contains(label, self.string()?),
            WordOperator::StartsWith => Selector::StartsWith(label, self.string()?),
            WordOperator::EndsWith => Selector::EndsWith(label, self.string()?),
        })
    }

    fn word_operator(&mut self) -> Option<WordOperator> {
        if self.take("contains") {
            return Some(WordOperator::Contains);
        }
        if self.take("in") {
            return Some(WordOperator::In);
        }
        let (second, operator) = if self.take("not") {
            ("in", WordOperator::NotIn)
        } else if self.take("starts") {
            ("with", WordOperator::StartsWith)
        } else if self.take("ends") {
            ("with", WordOperator::EndsWith)
        } else {
            return None;
        };
        self.skip_blanks();
        self.take(second).then_some(operator)
    }

    /// Everything between two quotes of one kind; there are no escapes.
    fn string(&mut self) -> Result<String, SelectorError> {
        self.skip_blanks();
        let start = self.at;
        let quote = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err(self.expected("a value in quotes")),
        };
        self.at += quote.len_utf8();
        let value = self.take_while(|c| c != quote);
        if self.rest().is_empty() {
            return Err(self.error_at(start, format!("the closing {quote} of this value is missing")));
        }
        self.at += quote.len_utf8();
        Ok(value.to_owned())
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.skip_blanks();
        if !self.take("{") {
            return Err(self.expected("\"{\""));
        }
        let mut values = BTreeSet::new();
        loop {
            self.skip_blanks();
            if self.take("}") {
                return Ok(values);
            }
            if !self.rest().starts_with(['"', '\'']) {
                return Err(self.expected("a value in quotes or \"}\""));
            }
            values.insert(self.string()?);
            self.skip_blanks();
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.expected("\",\" or \"}\""));
            }
        }
    }

    fn column(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().chars().count() + 1
    }

    fn error_at(&self, at: usize, message: String) -> SelectorError {
        SelectorError { column: self.column(at), message }
    }

    fn expected(&self, what: &str) -> SelectorError {
        let found = match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some(c) if is_label_char(c) => {
                let rest = self.rest();
                let end = rest.find(|c| !is_label_char(c)).unwrap_or(rest.len());
                // A word of a sane length is shown whole.
                format!("{:?}", rest.get(..end.min(64)).unwrap_or_default())
            }
            Some(c) => format!("{:?}", c.to_string()),
        };
        self.error_at(self.at, format!("expected {what}, found {found}"))
    }
}

#[derive(Clone, Copy)]
enum WordOperator {
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
}

fn is_label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}
