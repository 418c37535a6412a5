//! Structural schemas: what a CustomResourceDefinition says that its objects look like. Pure.
//!
//! ```text
//!   sent ──► prune: fields that nobody knows go ──► default: what is missing comes ──► errors: everything wrong
//! ```
//!
//! *Structural* means that the shape can be read without evaluating anything: every field has one type, said in one place;
//! `allOf`, `anyOf`, `oneOf` and `not` only judge values of fields that are known without them.

mod compile;
mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

pub use compile::{BadSchema, compile};

/// A schema, ready to be applied.
#[derive(Debug, Default)]
pub struct Schema {
    /// None: any, as far as the rest allows.
    kind: Option<Type>,
    nullable: bool,
    int_or_string: bool,
    /// Unknown fields stay.
    preserves: bool,
    /// The value is an object of Kubernetes itself, with `apiVersion`, `kind` and `metadata`.
    embedded: bool,
    default: Option<Value>,
    properties: BTreeMap<String, Schema>,
    /// Of fields that are not properties.
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    checks: Checks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

/// What is asked of a value beyond its type.
#[derive(Debug, Default)]
struct Checks {
    required: Vec<String>,
    one_of_values: Option<Vec<Value>>,
    pattern: Option<Regex>,
    format: Option<String>,
    length: Bounds,
    count: Bounds,
    fields: Bounds,
    minimum: Option<Limit>,
    maximum: Option<Limit>,
    multiple_of: Option<f64>,
    list: ListType,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Debug, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    value: f64,
    exclusive: bool,
}

/// Which members of a list are the same.
#[derive(Debug, Default)]
enum ListType {
    /// It may hold the same twice.
    #[default]
    Atomic,
    /// Each value once.
    Set,
    /// Members are objects, one for each value of these fields.
    Map(Vec<String>),
}

/// What an object of Kubernetes has, whatever its schema says.
const OF_EVERY_OBJECT: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Removes the fields of an object that its schema does not know; returns where they were.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut pruned = Vec::new();
        prune(self, object, true, "", &mut pruned);
        pruned
    }

    /// Gives an object what it does not say.
    pub fn complete(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    // Null where it may not stand says the same as nothing.
                    let typed = schema.kind.is_some() || schema.int_or_string;
                    if typed && !schema.nullable && map.get(name).is_some_and(Value::is_null) {
                        map.remove(name);
                    }
                    if let Some(default) = schema.default.as_ref().filter(|_| !map.contains_key(name)) {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = map.get_mut(name) {
                        schema.complete(field);
                    }
                }
                if let Some(schema) = &self.additional {
                    let others = map.iter_mut().filter(|(name, _)| !self.properties.contains_key(*name));
                    others.for_each(|(_, value)| schema.complete(value));
                }
            }
            Value::Array(list) => {
                let schemas = self.items.iter().cycle();
                list.iter_mut().zip(schemas).for_each(|(value, schema)| schema.complete(value));
            }
            _ => {}
        }
    }
}

/// The name of a field within another; of an object's own ones, their plain name.
fn within(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

fn prune(schema: &Schema, value: &mut Value, is_object: bool, field: &str, pruned: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| {
                let known = schema.preserves
                    || schema.additional.is_some()
                    || schema.properties.contains_key(name)
                    || is_object && OF_EVERY_OBJECT.contains(&name.as_str());
                if !known {
                    pruned.push(within(field, name));
                }
                known
            });
            for (name, value) in map.iter_mut() {
                let inner = schema.properties.get(name).or(schema.additional.as_deref());
                // Metadata has a type of its own.
                if let Some(inner) = inner.filter(|_| !(is_object && name == "metadata")) {
                    prune(inner, value, inner.embedded, &within(field, name), pruned);
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                if let Some(inner) = &schema.items {
                    prune(inner, value, inner.embedded, &format!("{field}[{index}]"), pruned);
                }
            }
        }
        _ => {}
    }
}
