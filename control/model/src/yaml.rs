//! YAML as a tree whose every value knows its line, so that errors can name it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

/// Why a text is not the YAML that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    /// Where, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// A value and the line on which it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub line: u64,
    pub value: TreeValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TreeValue {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Sequence(Vec<Tree>),
    /// In the order of the text; keys are unique.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The value without its lines.
    pub fn to_json(&self) -> Value {
        match &self.value {
            TreeValue::Null => Value::Null,
            TreeValue::Bool(value) => Value::Bool(*value),
            TreeValue::Number(value) => Value::Number(value.clone()),
            TreeValue::String(value) => Value::String(value.clone()),
            TreeValue::Sequence(items) => items.iter().map(Self::to_json).collect(),
            TreeValue::Map(entries) => {
                Value::Object(entries.iter().map(|(key, tree)| (key.clone(), tree.to_json())).collect())
            }
        }
    }

    /// What the value is, for messages.
    pub fn describe(&self) -> &'static str {
        match &self.value {
            TreeValue::Null => "nothing",
            TreeValue::Bool(_) => "a boolean",
            TreeValue::Number(_) => "a number",
            TreeValue::String(_) => "a string",
            TreeValue::Sequence(_) => "a list",
            TreeValue::Map(_) => "a map",
        }
    }

    /// The line of the value at a path in Kubernetes' syntax, or of the innermost value on the way that exists.
    pub fn line_of(&self, path: &str) -> u64 {
        let mut here = self;
        let mut rest = path;
        while !rest.is_empty() {
            let next = match &here.value {
                TreeValue::Map(entries) => {
                    // Keys may hold dots themselves (labels do): the longest key that the path starts with is meant.
                    let entry = entries
                        .iter()
                        .filter(|(key, _)| {
                            rest.strip_prefix(key.as_str())
                                .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                        })
                        .max_by_key(|(key, _)| key.len());
                    entry.map(|(key, tree)| (tree, rest.get(key.len()..).unwrap_or("")))
                }
                TreeValue::Sequence(items) => rest.strip_prefix('[').and_then(|after| {
                    let (index, after) = after.split_once(']')?;
                    Some((items.get(index.parse::<usize>().ok()?)?, after))
                }),
                _ => None,
            };
            let Some((tree, after)) = next else { break };
            here = tree;
            rest = after.strip_prefix('.').unwrap_or(after);
        }
        here.line
    }
}

/// Reads every document of a text; a key given twice in a map is an error. Only `true` and `false` are booleans, so
/// that `name: n` is a name.
pub(crate) fn parse_documents(text: &str) -> Result<Vec<Tree>, YamlError> {
    // As much as a text of this size can hold: what stays limited is depth, and what aliases make of it.
    let least = serde_saphyr::Budget::default();
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: least.max_documents.max(text.len()),
            max_nodes: least.max_nodes.max(text.len()),
            max_events: least.max_events.max(2 * text.len()),
            max_total_scalar_bytes: least.max_total_scalar_bytes.max(text.len()),
        },
    };
    let documents: Vec<Spanned<TreeValue>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(located)?;
    Ok(documents.into_iter().map(Tree::from).collect())
}

fn located(error: serde_saphyr::Error) -> YamlError {
    let line = error.location().map_or(1, |location| location.line());
    // The first line says what is wrong; those after it draw the place, which we name ourselves.
    let text = error.without_snippet().to_string();
    let message = text.lines().next().unwrap_or("not YAML").to_owned();
    YamlError { line, message }
}

impl From<Spanned<TreeValue>> for Tree {
    fn from(spanned: Spanned<TreeValue>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for TreeValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = TreeValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<TreeValue, E> {
        Ok(TreeValue::Null)
    }

    fn visit_none<E>(self) -> Result<TreeValue, E> {
        Ok(TreeValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<TreeValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<TreeValue, E> {
        Ok(TreeValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<TreeValue, E> {
        Ok(TreeValue::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<TreeValue, E> {
        Ok(TreeValue::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<TreeValue, E> {
        Number::from_f64(value).map(TreeValue::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<TreeValue, E> {
        Ok(TreeValue::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<TreeValue, E> {
        Ok(TreeValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TreeValue, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element::<Spanned<TreeValue>>()? {
            sequence.push(Tree::from(item));
        }
        Ok(TreeValue::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<TreeValue, A::Error> {
        let mut map: Vec<(String, Tree)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Spanned<TreeValue>>()? {
            if map.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("{key:?} is given twice")));
            }
            map.push((key, Tree::from(value)));
        }
        Ok(TreeValue::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a: 1\nb:\n  - x: {p: 1, q: [1,\n      2]}\n  - ~\nmetadata:\n  labels:\n    app.kubernetes.io/name: web\n";

    #[test]
    fn every_value_knows_its_line() {
        let tree = &parse_documents(TEXT).unwrap()[0];
        assert_eq!(tree.line_of("a"), 1);
        assert_eq!(tree.line_of("b[0].x.p"), 3);
        assert_eq!(tree.line_of("b[0].x.q[1]"), 4);
        assert_eq!(tree.line_of("metadata.labels.app.kubernetes.io/name"), 8);
    }

    #[test]
    fn a_path_that_ends_nowhere_leads_to_the_innermost_value_on_the_way() {
        let tree = &parse_documents(TEXT).unwrap()[0];
        assert_eq!(tree.line_of("b[0].x.missing.more"), 3);
        assert_eq!(tree.line_of("b[9]"), 3);
        assert_eq!(tree.line_of(""), 1);
    }

    #[test]
    fn broken_yaml_and_keys_given_twice_name_the_line() {
        assert_eq!(parse_documents("a: 1\nb: [1,\n").unwrap_err().line, 2);
        let twice = parse_documents("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(twice.line, 3, "{twice}");
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        let tree = &parse_documents("[n, no, on, yes, true, 1e3, ~, \"1\"]").unwrap()[0];
        assert_eq!(tree.to_json(), serde_json::json!(["n", "no", "on", "yes", true, 1000.0, null, "1"]));
    }

    #[test]
    fn aliases_are_followed() {
        let tree = &parse_documents("a: &x {p: 1}\nb: *x\n").unwrap()[0];
        assert_eq!(tree.to_json(), serde_json::json!({"a": {"p": 1}, "b": {"p": 1}}));
    }
}
