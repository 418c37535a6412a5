//! Label selectors and field selectors, as they stand in a query. Pure.

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::ApiError;

/// `labelSelector` and `fieldSelector` of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// One term of a field selector: the field as a path of names, the value, and whether it must differ.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: Vec<String>,
    value: String,
    differs: bool,
}

impl Selection {
    /// Reads both selectors; `resource` says which fields may be selected by.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Selection, ApiError> {
        let unable = |what: &str, text: &str, why: String| {
            ApiError::bad_request(format!("unable to parse {what} selector \"{text}\": {why}"))
        };
        let labels = parse_labels(labels).map_err(|why| unable("label", labels, why))?;
        let fields = parse_fields(resource, fields).map_err(|why| unable("field", fields, why))?;
        Ok(Selection { labels, fields })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        self.labels.iter().all(|requirement| requirement.operator.matches(label(&requirement.key)))
            && self
                .fields
                .iter()
                .all(|field| (field_text(object, &field.path) == field.value) != field.differs)
    }
}

impl Operator {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Operator::NotIn(values) => !value.is_some_and(|value| values.iter().any(|one| one == value)),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
            Operator::Greater(bound) => number().is_some_and(|value| value > *bound),
            Operator::Less(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// A field as text; what is not there is empty.
fn field_text(object: &Value, path: &[String]) -> String {
    let found = path.iter().try_fold(object, |value, name| value.get(name));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<FieldRequirement>, String> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| {
            let (field, value, differs) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, true)
            } else if let Some((field, value)) = term.split_once("==") {
                (field, value, false)
            } else if let Some((field, value)) = term.split_once('=') {
                (field, value, false)
            } else {
                return Err(format!("invalid selector: '{term}'; can't understand '{term}'"));
            };
            if !resource.selects_by(field) {
                return Err(format!("field label not supported: {field}"));
            }
            Ok(FieldRequirement {
                path: field.split('.').map(str::to_owned).collect(),
                value: value.to_owned(),
                differs,
            })
        })
        .collect()
}

/// The grammar of label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut rest = Scanner { rest: text.trim() };
    let mut requirements = Vec::new();
    while !rest.rest.is_empty() {
        requirements.push(rest.requirement()?);
        rest.space();
        if !rest.rest.is_empty() && !rest.eat(",") {
            return Err(format!("found '{}', expected: ','", rest.rest));
        }
        rest.space();
    }
    Ok(requirements)
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.space();
        let end =
            self.rest.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.eat("!");
        let key = self.word();
        if !is_label_key(key) {
            return Err(format!("'{key}' is not a label key"));
        }
        let operator = if absent {
            Operator::Absent
        } else if self.eat("!=") {
            Operator::NotIn(vec![self.value()?])
        } else if self.eat("==") || self.eat("=") {
            Operator::In(vec![self.value()?])
        } else if self.eat(">") {
            Operator::Greater(self.number()?)
        } else if self.eat("<") {
            Operator::Less(self.number()?)
        } else {
            self.space();
            if self.rest.is_empty() || self.rest.starts_with(',') {
                Operator::Exists
            } else {
                match self.word() {
                    "in" => Operator::In(self.values()?),
                    "notin" => Operator::NotIn(self.values()?),
                    other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
                }
            }
        };
        Ok(Requirement { key: key.to_owned(), operator })
    }

    fn number(&mut self) -> Result<i64, String> {
        let word = self.word();
        word.parse().map_err(|_| format!("'{word}' is not an integer"))
    }

    fn value(&mut self) -> Result<String, String> {
        let word = self.word();
        if is_label_value(word) { Ok(word.to_owned()) } else { Err(format!("'{word}' is not a label value")) }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.eat("(") {
            return Err(format!("found '{}', expected: '('", self.rest));
        }
        let mut values = vec![self.value()?];
        while self.eat(",") {
            values.push(self.value()?);
        }
        if self.eat(")") { Ok(values) } else { Err(format!("found '{}', expected: ',' or ')'", self.rest)) }
    }
}

/// Letters, digits, `-`, `_`, `.`; a letter or digit at both ends; at most 63.
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// `name` or `dns.subdomain/name`.
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(crate::metadata::is_dns_subdomain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(labels: &str, fields: &str, object: &Value) -> bool {
        let pods = crate::kinds::find("", "v1", "pods").expect("pods are served");
        Selection::parse(pods, labels, fields).expect("a selector").matches(object)
    }

    #[test]
    fn each_operator_selects_what_kubernetes_selects() {
        let object = json!({ "metadata": { "labels": { "app": "web", "n": "5", "empty": "" } } });
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , n", true),
            ("app!=web", false),
            ("tier!=db", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("app notin (db,api)", true),
            ("tier notin (db)", true),
            ("app", true),
            ("tier", false),
            ("!tier", true),
            ("!app", false),
            ("n>4", true),
            ("n>5", false),
            ("n<6", true),
            ("app>1", false),
            ("empty=", true),
            ("example.com/x", false),
            ("in", false),
        ] {
            assert_eq!(selects(selector, "", &object), expected, "{selector}");
        }
    }

    #[test]
    fn fields_select_by_their_text_and_the_missing_is_empty() {
        let object =
            json!({ "metadata": { "name": "a", "namespace": "n" }, "spec": { "nodeName": "node1" } });
        assert!(selects("", "metadata.name=a,spec.nodeName==node1,status.phase!=Failed", &object));
        assert!(selects("", "status.phase=", &object));
        assert!(!selects("", "metadata.name!=a", &object));
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let pods = crate::kinds::find("", "v1", "pods").expect("pods are served");
        for labels in ["=a", "a=b c", "a in b", "a in (b", "a ~ b", "!", "a=-b", "A_/b", "a>b", ",", "a,,b"] {
            assert!(Selection::parse(pods, labels, "").is_err(), "{labels}");
        }
        for fields in ["a", "spec.dnsPolicy=x"] {
            assert!(Selection::parse(pods, "", fields).is_err(), "{fields}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_selector_or_refused(labels in "[a-c!=<>(), inot0-9é/.-]{0,20}", fields in ".{0,20}") {
            let pods = crate::kinds::find("", "v1", "pods").expect("pods are served");
            for (labels, fields) in [(labels.as_str(), ""), ("", fields.as_str())] {
                if let Ok(selection) = Selection::parse(pods, labels, fields) {
                    selection.matches(&json!({ "metadata": { "labels": { "a": "1" } } }));
                }
            }
        }
    }
}
