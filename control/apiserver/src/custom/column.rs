//! What `kubectl get` shows of a custom resource: the columns of its definition, found by JSON paths. Pure.
//!
//! Of JSON paths there is what printer columns use: `.a.b`, `['a.b']`, `.a\.b`, `[0]`, `[*]`, `[?(@.a=="b")]`.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::age;

/// One column.
#[derive(Debug)]
pub struct PrinterColumn {
    name: String,
    kind: String,
    format: String,
    priority: i64,
    description: String,
    path: Path,
}

impl PrinterColumn {
    /// A column as a definition writes it.
    pub fn of(column: &Value) -> Result<PrinterColumn, BadPath> {
        let text = |name: &str| column.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        Ok(PrinterColumn {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            description: text("description"),
            path: Path::parse(&text("jsonPath"))?,
        })
    }

    /// The columns of a definition, the name first; the age where it says none.
    pub fn all(columns: &[Value]) -> Result<Vec<PrinterColumn>, BadPath> {
        let name = json!({
            "name": "Name", "type": "string", "format": "name", "jsonPath": ".metadata.name",
            "description": "The name, unique within the namespace.",
        });
        let age = [json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "How long ago it was made.",
        })];
        let columns = if columns.is_empty() { &age } else { columns };
        std::iter::once(&name).chain(columns).map(PrinterColumn::of).collect()
    }

    /// As a table names it.
    pub fn header(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "priority": self.priority,
            "description": self.description,
        })
    }

    /// What it shows of an object, at a moment; null where there is nothing.
    pub fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object);
        let Some(first) = found.first() else { return Value::Null };
        match (self.kind.as_str(), first) {
            ("date", Value::String(since)) => age(since, now).into(),
            ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
            ("string", _) => {
                let texts: Vec<String> = found.iter().map(|value| plain(value)).collect();
                texts.join(" ").into()
            }
            _ => Value::Null,
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A path that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{path}\" is not a JSON path of a printer column: {why}")]
pub struct BadPath {
    path: String,
    why: &'static str,
}

#[derive(Debug, PartialEq)]
struct Path(Vec<Step>);

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    /// Of a list; negative ones count from its end.
    Index(i64),
    All,
    /// The members of which a field is, or is not, this.
    Filter {
        path: Path,
        equal: bool,
        value: Value,
    },
}

impl Path {
    fn parse(text: &str) -> Result<Path, BadPath> {
        let bad = |why| BadPath { path: text.to_owned(), why };
        // Braces may stand around it.
        let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let bare = bare.strip_prefix('$').unwrap_or(bare);
        if !bare.starts_with(['.', '[']) {
            return Err(bad("it must begin with '.' or '['"));
        }
        steps(bare).map_err(bad).map(Path)
    }

    fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Field(name), value) => value.get(name).into_iter().collect(),
            (Step::Index(index), Value::Array(list)) => {
                let index = if *index < 0 { list.len() as i64 + index } else { *index };
                usize::try_from(index).ok().and_then(|index| list.get(index)).into_iter().collect()
            }
            (Step::All, Value::Array(list)) => list.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Filter { path, equal, value: wanted }, Value::Array(list)) => {
                let chosen = |member: &&Value| path.find(member).contains(&wanted) == *equal;
                list.iter().filter(chosen).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn steps(mut rest: &str) -> Result<Vec<Step>, &'static str> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[?(") {
            let (filter, after) = inner.split_once(")]").ok_or("a filter has no end")?;
            steps.push(filter_step(filter)?);
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']').ok_or("a bracket has no end")?;
            let quoted = |quote| index.strip_prefix(quote).and_then(|name: &str| name.strip_suffix(quote));
            steps.push(match quoted('\'').or_else(|| quoted('"')) {
                Some(name) => Step::Field(name.to_owned()),
                None if index == "*" => Step::All,
                None => {
                    Step::Index(index.parse().map_err(|_| "an index must be a number, '*' or a quoted name")?)
                }
            });
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            let (name, after) = name(after);
            match name.as_str() {
                // The whole: `.` alone, or a dot before a bracket.
                "" if after.is_empty() && steps.is_empty() || after.starts_with('[') => {}
                "" => return Err("a name is empty"),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        } else {
            return Err("names are divided by dots");
        }
    }
    Ok(steps)
}

/// A name up to the next dot or bracket that has no backslash before it.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

fn filter_step(text: &str) -> Result<Step, &'static str> {
    let (left, right, equal) = match (text.split_once("=="), text.split_once("!=")) {
        (Some((left, right)), _) => (left, right, true),
        (None, Some((left, right))) => (left, right, false),
        (None, None) => return Err("a filter compares with == or !="),
    };
    let path = left.trim().strip_prefix('@').ok_or("a filter begins with '@'")?;
    let right = right.trim();
    let quoted = |quote| right.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    let value = match quoted('\'').or_else(|| quoted('"')) {
        Some(text) => Value::String(text.to_owned()),
        None => serde_json::from_str(right)
            .map_err(|_| "a filter compares with a text, a number or true or false")?,
    };
    // No filters within filters: what is compared is a field.
    if path.contains('?') {
        return Err("a filter may not stand within another");
    }
    Ok(Step::Filter { path: Path(steps(path)?), equal, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(kind: &str, path: &str, object: &Value) -> Value {
        let now = "2026-01-02T00:00:00Z".parse().expect("an instant");
        let column =
            PrinterColumn::of(&json!({ "name": "X", "type": kind, "jsonPath": path })).expect("a path");
        column.cell(object, now)
    }

    #[test]
    fn paths_find_what_kubectl_shows() {
        let object = json!({
            "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "a.b/c": "d" } },
            "spec": { "count": 3, "on": true, "list": [{ "n": "x" }, { "n": "y" }], "none": null },
            "status": { "conditions": [{ "type": "A", "status": "no" }, { "type": "Ready", "status": "yes" }] },
        });
        for (kind, path, expected) in [
            ("integer", ".spec.count", json!(3)),
            ("string", ".spec.count", json!("3")),
            ("boolean", ".spec.on", json!(true)),
            ("integer", ".spec.on", Value::Null),
            ("date", ".metadata.creationTimestamp", json!("24h")),
            ("string", r".metadata.labels.a\.b/c", json!("d")),
            ("string", ".metadata.labels['a.b/c']", json!("d")),
            ("string", ".spec.list[0].n", json!("x")),
            ("string", ".spec.list[-1].n", json!("y")),
            ("string", ".spec.list[*].n", json!("x y")),
            ("string", ".spec.list[7].n", Value::Null),
            ("string", r#".status.conditions[?(@.type=="Ready")].status"#, json!("yes")),
            ("string", ".status.conditions[?(@.type != 'Ready')].status", json!("no")),
            ("string", ".spec.none", Value::Null),
            ("string", "{.spec.count}", json!("3")),
        ] {
            assert_eq!(cell(kind, path, &object), expected, "{kind} {path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in
            ["", "spec", ".a..b", ".a[", ".a[x]", ".a[?(@.b)]", ".a[?(b==1)]", ".a[?(@.b==x)]", ".a]b["]
        {
            assert!(Path::parse(path).is_err() || path == ".a]b[", "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_path_or_refused(text in r#"[.a\[\]?(@='"*0-9)$\\{}é-]{0,16}"#) {
            if let Ok(path) = Path::parse(&text) {
                path.find(&json!({ "a": [{ "a": 0 }, [1]] }));
            }
        }
    }
}
