//! Everything wrong with a value, in the words of Kubernetes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use caracal_model::cidr::Cidr;
use caracal_model::object::{FieldError, FieldErrorReason};
use data_encoding::BASE64;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Bounds, Checks, Limit, ListType, OF_EVERY_OBJECT, Schema, Type, within};
use crate::kinds::cause;

impl Schema {
    /// Everything wrong with a value.
    pub fn errors(&self, value: &Value) -> Vec<FieldError> {
        let mut judge = Judge { errors: Vec::new() };
        judge.value(self, value, "");
        judge.errors
    }
}

impl Checks {
    /// The parts that only judge.
    pub(super) fn junctors(&self) -> impl Iterator<Item = &Schema> {
        self.all_of.iter().chain(&self.any_of).chain(&self.one_of).chain(self.not.as_deref())
    }
}

impl Type {
    pub(super) const ALL: [Type; 6] =
        [Type::Array, Type::Boolean, Type::Integer, Type::Number, Type::Object, Type::String];

    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Array => "array",
            Type::Boolean => "boolean",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Object => "object",
            Type::String => "string",
        }
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Type::Array => value.is_array(),
            Type::Boolean => value.is_boolean(),
            Type::Integer => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            Type::Number => value.is_number(),
            Type::Object => value.is_object(),
            Type::String => value.is_string(),
        }
    }

    /// What a value is; none: null.
    fn of(value: &Value) -> Option<Type> {
        // Every integer is a number, too; the narrower word says more.
        Type::ALL.into_iter().find(|kind| kind.takes(value))
    }
}

fn name_of(kind: Option<Type>) -> &'static str {
    kind.map_or("null", Type::name)
}

/// A value as messages show it: of what is large, only what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => format!("{:?}", name_of(Type::of(value))),
        other => other.to_string(),
    }
}

struct Judge {
    errors: Vec<FieldError>,
}

impl Judge {
    fn refuse(&mut self, field: &str, reason: FieldErrorReason, message: String) {
        self.errors.push(cause(field, reason, message));
    }

    /// `why` is what the field should do: `should be at least 1`.
    fn invalid(&mut self, field: &str, value: &Value, why: &str) {
        let place = if field.is_empty() { "<nil>" } else { field };
        let message = format!("Invalid value: {}: {place} in body {why}", shown(value));
        self.refuse(field, FieldErrorReason::Invalid, message);
    }

    fn value(&mut self, schema: &Schema, value: &Value, field: &str) {
        if value.is_null() && schema.nullable {
            return;
        }
        let good = match schema.kind {
            Some(kind) => kind.takes(value),
            None if schema.int_or_string => Type::Integer.takes(value) || value.is_string(),
            None => true,
        };
        if !good {
            let wanted = schema.kind.map_or("integer or string", Type::name);
            let found = name_of(Type::of(value));
            let message =
                format!("Invalid value: {found:?}: {field} in body must be of type {wanted}: {found:?}");
            self.refuse(field, FieldErrorReason::Invalid, message);
            return;
        }
        let checks = &schema.checks;
        if let Some(values) = checks.one_of_values.as_ref().filter(|values| !values.contains(value)) {
            let supported: Vec<String> = values.iter().map(Value::to_string).collect();
            let message =
                format!("Unsupported value: {}: supported values: {}", shown(value), supported.join(", "));
            self.refuse(field, FieldErrorReason::NotSupported, message);
        }
        match value {
            Value::String(text) => self.text(checks, value, text, field),
            Value::Number(number) => {
                self.number(checks, value, number.as_f64().unwrap_or(f64::NAN), field);
            }
            Value::Array(list) => {
                self.list(checks, value, list, field);
                for (index, member) in list.iter().enumerate() {
                    if let Some(inner) = &schema.items {
                        self.value(inner, member, &format!("{field}[{index}]"));
                    }
                }
            }
            Value::Object(map) => {
                self.bounded(&checks.fields, map.len(), "properties", value, field);
                let of_object = schema.embedded.then_some(OF_EVERY_OBJECT).into_iter().flatten();
                let required = checks.required.iter().map(String::as_str).chain(of_object);
                for name in required.filter(|name| !map.contains_key(*name)) {
                    self.refuse(&within(field, name), FieldErrorReason::Required, "Required value".into());
                }
                for (name, value) in map {
                    if let Some(inner) = schema.properties.get(name).or(schema.additional.as_deref()) {
                        self.value(inner, value, &within(field, name));
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.junctors(checks, value, field);
    }

    fn junctors(&mut self, checks: &Checks, value: &Value, field: &str) {
        for part in &checks.all_of {
            self.value(part, value, field);
        }
        let takes = |part: &&Schema| part.errors(value).is_empty();
        if !checks.any_of.is_empty() && !checks.any_of.iter().any(|part| takes(&part)) {
            self.invalid(field, value, "must validate at least one schema (anyOf)");
        }
        let matching = checks.one_of.iter().filter(takes).count();
        if !checks.one_of.is_empty() && matching != 1 {
            let found = if matching == 0 { "none".to_owned() } else { matching.to_string() };
            let why = format!("must validate one and only one schema (oneOf). Found {found} valid");
            self.invalid(field, value, &why);
        }
        if checks.not.as_deref().is_some_and(|not| takes(&not)) {
            self.invalid(field, value, "must not validate the schema (not)");
        }
    }

    fn bounded(&mut self, bounds: &Bounds, count: usize, what: &str, value: &Value, field: &str) {
        let count = count as u64;
        if let Some(least) = bounds.least.filter(|least| count < *least) {
            self.invalid(field, value, &format!("should have at least {least} {what}"));
        }
        if let Some(most) = bounds.most.filter(|most| count > *most) {
            self.invalid(field, value, &format!("should have at most {most} {what}"));
        }
    }

    fn text(&mut self, checks: &Checks, value: &Value, text: &str, field: &str) {
        self.bounded(&checks.length, text.chars().count(), "characters", value, field);
        if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(field, value, &format!("should match '{pattern}'"));
        }
        // Formats that are not known here say nothing, as in Kubernetes.
        let good = match checks.format.as_deref().unwrap_or("") {
            "byte" => BASE64.decode(text.as_bytes()).is_ok(),
            "cidr" => text.parse::<Cidr>().is_ok(),
            "date-time" | "datetime" => text.parse::<Timestamp>().is_ok(),
            "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
            "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
            "uuid" => uuid::Uuid::parse_str(text).is_ok(),
            _ => true,
        };
        self.formatted(checks, good, value, field);
    }

    fn number(&mut self, checks: &Checks, value: &Value, number: f64, field: &str) {
        let than = |limit: &Limit| if limit.exclusive { "than" } else { "than or equal to" };
        let at = |limit: &Limit| limit.exclusive && number == limit.value;
        if let Some(limit) = checks.minimum.filter(|limit| number < limit.value || at(limit)) {
            self.invalid(field, value, &format!("should be greater {} {}", than(&limit), limit.value));
        }
        if let Some(limit) = checks.maximum.filter(|limit| number > limit.value || at(limit)) {
            self.invalid(field, value, &format!("should be less {} {}", than(&limit), limit.value));
        }
        if let Some(step) = checks.multiple_of.filter(|step| *step > 0.0 && (number / step).fract() != 0.0) {
            self.invalid(field, value, &format!("should be a multiple of {step}"));
        }
        let good = match checks.format.as_deref().unwrap_or("") {
            "int32" => (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number),
            "int64" => value.as_i64().is_some() || value.is_f64(),
            _ => true,
        };
        self.formatted(checks, good, value, field);
    }

    fn formatted(&mut self, checks: &Checks, good: bool, value: &Value, field: &str) {
        if let Some(format) = checks.format.as_deref().filter(|_| !good) {
            self.invalid(field, value, &format!("must be of type {format}: {value}"));
        }
    }

    fn list(&mut self, checks: &Checks, value: &Value, list: &[Value], field: &str) {
        self.bounded(&checks.count, list.len(), "items", value, field);
        let mut seen = BTreeSet::new();
        for (index, member) in list.iter().enumerate() {
            let identity = match &checks.list {
                ListType::Atomic => return,
                ListType::Set => member.to_string(),
                ListType::Map(keys) => {
                    let of = |key: &String| member.get(key).unwrap_or(&Value::Null).to_string();
                    keys.iter().map(of).collect::<Vec<_>>().join(",")
                }
            };
            if !seen.insert(identity) {
                let message = format!("Duplicate value: {}", shown(member));
                self.refuse(&format!("{field}[{index}]"), FieldErrorReason::Duplicate, message);
            }
        }
    }
}
