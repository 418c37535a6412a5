//! Selectors, evaluated while they are read: nothing is built.
//!
//! ```text
//!   or      = and { "||" and }
//!   and     = unary { "&&" unary }
//!   unary   = { "!" } primary
//!   primary = "all()" | "global()" | "has(" label ")" | "(" or ")" | label operator
//! ```

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels as objects carry them.
pub(super) type LabelMap = BTreeMap<String, String>;

/// Whose labels a selector asks for, and what its two constants say of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// All that it has and inherits.
    pub(super) labels: &'a LabelMap,
    /// What the labels that the selector names begin with.
    pub(super) prefix: &'a str,
    /// What `all()` says.
    pub(super) all: bool,
    /// What `global()` says.
    pub(super) global: bool,
}

impl<'a> Subject<'a> {
    fn value(&self, label: &str) -> Option<&'a str> {
        if self.prefix.is_empty() {
            return self.labels.get(label).map(String::as_str);
        }
        self.labels.get(&format!("{}{label}", self.prefix)).map(String::as_str)
    }
}

/// What the selector `text` says of `subject`; `None` when it is no selector.
pub(super) fn evaluate(text: &str, subject: &Subject<'_>) -> Option<bool> {
    let mut reader = Reader { rest: text, subject };
    reader.skip_blanks();
    if reader.rest.is_empty() {
        return Some(subject.all);
    }
    let value = reader.or()?;
    reader.rest.is_empty().then_some(value)
}

/// Reads one text. After every step `rest` begins with what is no blank.
struct Reader<'t, 's> {
    rest: &'t str,
    subject: &'s Subject<'s>,
}

impl<'t, 's> Reader<'t, 's> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Takes `sign` if it is next.
    fn eat(&mut self, sign: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(sign) else { return false };
        self.rest = rest;
        self.skip_blanks();
        true
    }

    /// Takes the words if they are next, blanks between them or none, and no letter of a label after the last.
    fn eat_words(&mut self, words: &[&str]) -> bool {
        let before = self.rest;
        let all = words.iter().all(|word| {
            self.skip_blanks();
            let rest = self.rest.strip_prefix(word);
            self.rest = rest.unwrap_or(self.rest);
            rest.is_some()
        });
        if all && !self.rest.starts_with(is_of_label) {
            self.skip_blanks();
            return true;
        }
        self.rest = before;
        false
    }

    fn or(&mut self) -> Option<bool> {
        let mut value = self.and()?;
        while self.eat("||") {
            value |= self.and()?;
        }
        Some(value)
    }

    fn and(&mut self) -> Option<bool> {
        let mut value = self.unary()?;
        while self.eat("&&") {
            value &= self.unary()?;
        }
        Some(value)
    }

    fn unary(&mut self) -> Option<bool> {
        let mut negated = false;
        while self.eat("!") {
            negated = !negated;
        }
        Some(self.primary()? != negated)
    }

    fn primary(&mut self) -> Option<bool> {
        if self.eat("all(") {
            return self.eat(")").then_some(self.subject.all);
        }
        if self.eat("global(") {
            return self.eat(")").then_some(self.subject.global);
        }
        if self.eat("has(") {
            let value = self.label()?;
            return self.eat(")").then_some(value.is_some());
        }
        if self.eat("(") {
            let value = self.or()?;
            return self.eat(")").then_some(value);
        }
        let value = self.label()?;
        self.operator(value)
    }

    /// The value of the label that is next.
    fn label(&mut self) -> Option<Option<&'s str>> {
        let end = self.rest.find(|letter| !is_of_label(letter)).unwrap_or(self.rest.len());
        let (label, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_blanks();
        (1..=512).contains(&label.len()).then(|| self.subject.value(label))
    }

    fn operator(&mut self, value: Option<&str>) -> Option<bool> {
        if self.eat("==") {
            return Some(value == Some(self.string()?));
        }
        if self.eat("!=") {
            return Some(value != Some(self.string()?));
        }
        if self.eat_words(&["contains"]) {
            let part = self.string()?;
            return Some(value.is_some_and(|value| value.contains(part)));
        }
        if self.eat_words(&["starts", "with"]) {
            let part = self.string()?;
            return Some(value.is_some_and(|value| value.starts_with(part)));
        }
        if self.eat_words(&["ends", "with"]) {
            let part = self.string()?;
            return Some(value.is_some_and(|value| value.ends_with(part)));
        }
        if self.eat_words(&["not", "in"]) {
            return Some(!self.is_in_set(value)?);
        }
        self.eat_words(&["in"]).then(|| self.is_in_set(value))?
    }

    fn is_in_set(&mut self, value: Option<&str>) -> Option<bool> {
        if !self.eat("{") {
            return None;
        }
        let mut found = false;
        while !self.eat("}") {
            found |= value == Some(self.string()?);
            if !self.eat(",") {
                return self.eat("}").then_some(found);
            }
        }
        Some(found)
    }

    fn string(&mut self) -> Option<&'t str> {
        let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (text, rest) = self.rest.get(1..)?.split_once(quote)?;
        self.rest = rest;
        self.skip_blanks();
        Some(text)
    }
}

fn is_of_label(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '/' | '-')
}

/// Whether every label and every expression of a Kubernetes label selector holds of the labels that begin with `prefix`;
/// an empty one holds always.
pub(super) fn evaluate_kubernetes(selector: &LabelSelector, prefix: &str, labels: &LabelMap) -> bool {
    let value = |label: &str| labels.get(&format!("{prefix}{label}"));
    selector.match_labels.iter().flatten().all(|(label, wanted)| value(label) == Some(wanted))
        && selector.match_expressions.iter().flatten().all(|one| holds(one, value(&one.key)))
}

fn holds(expression: &LabelSelectorRequirement, value: Option<&String>) -> bool {
    let is_listed = |value| expression.values.iter().flatten().any(|listed| listed == value);
    match expression.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Validation lets no other through.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> LabelMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn says(text: &str, pairs: &[(&str, &str)]) -> Option<bool> {
        evaluate(text, &Subject { labels: &labels(pairs), prefix: "", all: true, global: true })
    }

    #[test]
    fn operators_treat_a_missing_label_as_the_language_says() {
        let row = |text| [&[("k", "vw")][..], &[("k", "x")], &[]].map(|pairs| says(text, pairs).unwrap());
        assert_eq!(row("k == 'vw'"), [true, false, false]);
        assert_eq!(row("k != 'vw'"), [false, true, true]);
        assert_eq!(row("k in {'vw', \"y\",}"), [true, false, false]);
        assert_eq!(row("k notin{'vw'}"), [false, true, true]);
        assert_eq!(row("k not \t in {}"), [true, true, true]);
        assert_eq!(row("has( k )"), [true, true, false]);
        assert_eq!(row("k contains 'w'"), [true, false, false]);
        assert_eq!(row("k startswith 'v'"), [true, false, false]);
        assert_eq!(row("k ends   with 'w'"), [true, false, false]);
        assert_eq!(row("!!k == 'vw'"), [true, false, false]);
        assert_eq!(row("!k == 'vw'"), [false, true, true]);
    }

    #[test]
    fn and_binds_tighter_than_or_and_words_may_be_labels() {
        assert_eq!(says("a == '1' || b == '1' && c == '1'", &[("a", "1")]), Some(true));
        assert_eq!(says("(a == '1' || b == '1') && c == '1'", &[("a", "1")]), Some(false));
        assert_eq!(
            says("in in {'x'} && has(has) && all == 'y'", &[("in", "x"), ("has", ""), ("all", "y")]),
            Some(true)
        );
        assert_eq!(says(" \t", &[]), Some(true));
    }

    #[test]
    fn what_is_no_selector_is_none() {
        for text in [
            "a",
            "a = 'x'",
            "a == x",
            "a == 'x' b",
            "(a == 'x'",
            "a inf {'x'}",
            "a == 'x' &",
            "\nall()",
            "all ()",
            "a in {,}",
            "'x' == a",
            "has(a",
            "a ==",
            "!",
            "a startswiths 'x'",
        ] {
            assert_eq!(says(text, &[]), None, "{text}");
        }
    }

    #[test]
    fn a_prefix_is_put_before_every_label_and_the_constants_say_what_they_are_told() {
        let labels = labels(&[("pcns.a", "1")]);
        let subject = Subject { labels: &labels, prefix: "pcns.", all: false, global: true };
        assert_eq!(evaluate("a == '1' && has(a)", &subject), Some(true));
        assert_eq!(evaluate("all()", &subject), Some(false));
        assert_eq!(evaluate("global()", &subject), Some(true));
    }

    #[test]
    fn kubernetes_terms_must_all_hold_and_none_is_everything() {
        let selector = |json| serde_json::from_value::<LabelSelector>(json).unwrap();
        let both = selector(serde_json::json!({
            "matchLabels": {"a": "1", "b": ""}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]
        }));
        let says = |selector: &LabelSelector, pairs| evaluate_kubernetes(selector, "", &labels(pairs));
        assert!(says(&both, &[("a", "1"), ("b", "")]));
        assert!(!says(&both, &[("a", "1")]));
        assert!(!says(&both, &[("a", "1"), ("b", ""), ("c", "")]));
        assert!(says(&selector(serde_json::json!({})), &[]));
        let with = |operator: &str| {
            selector(
                serde_json::json!({"matchExpressions": [{"key": "k", "operator": operator, "values": ["v"]}]}),
            )
        };
        let row =
            |operator| [&[("k", "v")][..], &[("k", "w")], &[]].map(|pairs| says(&with(operator), pairs));
        assert_eq!(row("In"), [true, false, false]);
        assert_eq!(row("NotIn"), [false, true, true]);
        assert_eq!(row("Exists"), [true, true, false]);
        assert_eq!(row("DoesNotExist"), [false, false, true]);
    }
}
