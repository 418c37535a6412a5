//! Reads a schema as a definition writes it, and says everything for which it is not structural.

use regex::Regex;
use serde_json::{Map, Value};

use super::{Bounds, Checks, Limit, ListType, OF_EVERY_OBJECT, Schema, Type, within};

/// One thing for which a schema cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSchema {
    /// Where in the schema: `properties[spec].items`.
    pub field: String,
    /// Why.
    pub why: String,
}

/// Where a schema stands, which decides what it may say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is that of the whole object.
    Root,
    /// It is that of a field, or of a list's members.
    Inner,
    /// It only judges: it stands in `allOf`, `anyOf`, `oneOf` or `not`.
    Judging,
}

/// Reads a schema; what is wrong is added to `bad`.
pub fn compile(schema: &Value, bad: &mut Vec<BadSchema>) -> Schema {
    let before = bad.len();
    let mut reader = Reader { bad };
    let compiled = reader.schema(schema, "", Place::Root);
    if reader.bad.len() == before {
        reader.defaults(&compiled, "");
    }
    compiled
}

struct Reader<'a> {
    bad: &'a mut Vec<BadSchema>,
}

/// What JSON Schema knows and Kubernetes does not serve.
const FORBIDDEN: [&str; 9] = [
    "$ref",
    "$schema",
    "additionalItems",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
];

impl Reader<'_> {
    fn refuse(&mut self, field: &str, why: impl Into<String>) {
        self.bad.push(BadSchema { field: field.to_owned(), why: why.into() });
    }

    fn schema(&mut self, schema: &Value, at: &str, place: Place) -> Schema {
        let empty = Map::new();
        let Some(map) = schema.as_object() else {
            self.refuse(at, "must be a schema");
            return Schema::default();
        };
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = self.kind(map, at);
        let mut compiled = Schema {
            kind,
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserves: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: map.get("default").cloned(),
            ..Schema::default()
        };
        self.judge_place(map, &compiled, at, place);

        let inner = if place == Place::Judging { Place::Judging } else { Place::Inner };
        let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for (name, property) in properties {
            let at = within(at, &format!("properties[{name}]"));
            if place == Place::Root && name == "metadata" {
                self.metadata(property, &at);
            }
            compiled.properties.insert(name.clone(), self.schema(property, &at, inner));
        }
        match map.get("additionalProperties") {
            None | Some(Value::Bool(false)) => {}
            Some(_) if !properties.is_empty() => {
                self.refuse(&within(at, "additionalProperties"), "properties and it exclude each other");
            }
            Some(Value::Bool(true)) => compiled.preserves = true,
            Some(additional) => {
                let at = within(at, "additionalProperties");
                compiled.additional = Some(Box::new(self.schema(additional, &at, inner)));
            }
        }
        match map.get("items") {
            Some(Value::Array(_)) => self.refuse(&within(at, "items"), "must be one schema for all members"),
            Some(items) => {
                compiled.items = Some(Box::new(self.schema(items, &within(at, "items"), inner)));
            }
            None if kind == Some(Type::Array) && place != Place::Judging => {
                self.refuse(&within(at, "items"), "must be said of an array");
            }
            None => {}
        }
        compiled.checks = self.checks(map, &compiled, at);
        for part in compiled.checks.junctors() {
            self.known(part, &compiled, at);
        }
        compiled
    }

    fn kind(&mut self, map: &Map<String, Value>, at: &str) -> Option<Type> {
        let sent = map.get("type").and_then(Value::as_str).filter(|sent| !sent.is_empty())?;
        let known = Type::ALL.into_iter().find(|known| known.name() == sent);
        if known.is_none() {
            let names = Type::ALL.map(Type::name).join(", ");
            self.refuse(&within(at, "type"), format!("\"{sent}\" is none of {names}"));
        }
        known
    }

    /// What makes a schema structural, at the place where it stands.
    fn judge_place(&mut self, map: &Map<String, Value>, schema: &Schema, at: &str, place: Place) {
        for name in FORBIDDEN.into_iter().filter(|name| map.contains_key(*name)) {
            self.refuse(&within(at, name), "is not supported");
        }
        if map.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.refuse(&within(at, "uniqueItems"), "cannot be true; say x-kubernetes-list-type: set");
        }
        let typed = map.contains_key("type");
        match place {
            Place::Judging => {
                // `anyOf: [{type: integer}, {type: string}]` says what int-or-string says, and is let be.
                let alternative = map.len() == 1 && typed;
                for name in ["type", "default", "additionalProperties", "nullable", "description"] {
                    if map.contains_key(name) && !alternative {
                        self.refuse(&within(at, name), "must not be said where values are only judged");
                    }
                }
            }
            Place::Root if schema.kind != Some(Type::Object) => {
                self.refuse(&within(at, "type"), "must be object at the root");
            }
            Place::Root | Place::Inner => {
                if !typed && !schema.int_or_string && !schema.preserves {
                    self.refuse(&within(at, "type"), "must not be empty for specified fields");
                }
                if typed && schema.int_or_string {
                    self.refuse(
                        &within(at, "type"),
                        "must be empty where x-kubernetes-int-or-string is true",
                    );
                }
            }
        }
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            self.refuse(&within(at, "x-kubernetes-preserve-unknown-fields"), "must be true or not said");
        }
        if schema.embedded && schema.kind != Some(Type::Object) {
            self.refuse(&within(at, "type"), "must be object where x-kubernetes-embedded-resource is true");
        }
    }

    /// Of metadata, a definition may restrict the name only.
    fn metadata(&mut self, schema: &Value, at: &str) {
        let fields = schema.get("properties").and_then(Value::as_object);
        let allowed = |name: &String| ["name", "generateName"].contains(&name.as_str());
        if !fields.into_iter().flatten().all(|(name, _)| allowed(name)) {
            self.refuse(at, "must not specify anything other than name and generateName");
        }
    }

    fn checks(&mut self, map: &Map<String, Value>, schema: &Schema, at: &str) -> Checks {
        let texts = |name: &str| -> Vec<String> {
            let list = map.get(name).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let number = |name: &str| map.get(name).and_then(Value::as_f64);
        let bounds = |least: &str, most: &str| {
            let bound = |name: &str| map.get(name).and_then(Value::as_u64);
            Bounds { least: bound(least), most: bound(most) }
        };
        let limit = |name: &str, exclusive: &str| {
            let exclusive = map.get(exclusive) == Some(&Value::Bool(true));
            number(name).map(|value| Limit { value, exclusive })
        };
        let pattern = match map.get("pattern").and_then(Value::as_str).map(Regex::new) {
            Some(Err(error)) => {
                self.refuse(&within(at, "pattern"), format!("is not a regular expression: {error}"));
                None
            }
            Some(Ok(pattern)) => Some(pattern),
            None => None,
        };
        let list = match map.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or("") {
            "set" => ListType::Set,
            "map" => self.list_of_map(texts("x-kubernetes-list-map-keys"), schema, at),
            "" | "atomic" => ListType::Atomic,
            other => {
                let why = format!("\"{other}\" is none of atomic, set, map");
                self.refuse(&within(at, "x-kubernetes-list-type"), why);
                ListType::Atomic
            }
        };
        let mut parts = |name: &str| -> Vec<Schema> {
            let list = map.get(name).and_then(Value::as_array).into_iter().flatten().enumerate();
            let at = |index| within(at, &format!("{name}[{index}]"));
            list.map(|(index, part)| self.schema(part, &at(index), Place::Judging)).collect()
        };
        let (all_of, any_of, one_of) = (parts("allOf"), parts("anyOf"), parts("oneOf"));
        let not = map.get("not").map(|not| self.schema(not, &within(at, "not"), Place::Judging));
        Checks {
            required: texts("required"),
            one_of_values: map.get("enum").and_then(Value::as_array).cloned(),
            pattern,
            format: map.get("format").and_then(Value::as_str).map(str::to_owned),
            length: bounds("minLength", "maxLength"),
            count: bounds("minItems", "maxItems"),
            fields: bounds("minProperties", "maxProperties"),
            minimum: limit("minimum", "exclusiveMinimum"),
            maximum: limit("maximum", "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            list,
            all_of,
            any_of,
            one_of,
            not: not.map(Box::new),
        }
    }

    fn list_of_map(&mut self, keys: Vec<String>, schema: &Schema, at: &str) -> ListType {
        let at = within(at, "x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.refuse(&at, "must not be empty if x-kubernetes-list-type is map");
        }
        let members = schema.items.as_deref();
        let known = |key: &&String| members.is_some_and(|schema| schema.properties.contains_key(*key));
        for key in keys.iter().filter(|key| !known(key)) {
            self.refuse(&at, format!("the members have no field \"{key}\""));
        }
        ListType::Map(keys)
    }

    /// What only judges may speak only of fields that are known without it.
    fn known(&mut self, part: &Schema, outside: &Schema, at: &str) {
        for (name, inner) in &part.properties {
            match outside.properties.get(name).or(outside.additional.as_deref()) {
                Some(outside) => self.known(inner, outside, at),
                None if outside.preserves || OF_EVERY_OBJECT.contains(&name.as_str()) => {}
                None => self.refuse(at, format!("judges properties[{name}], whose type it does not say")),
            }
        }
        if let (Some(inner), Some(outside)) = (&part.items, &outside.items) {
            self.known(inner, outside, at);
        }
    }

    /// A default must be what the schema itself would take.
    fn defaults(&mut self, schema: &Schema, at: &str) {
        if let Some(default) = &schema.default {
            let mut taken = default.clone();
            let mut unknown = Vec::new();
            super::prune(schema, &mut taken, schema.embedded, "", &mut unknown);
            schema.complete(&mut taken);
            for field in unknown {
                self.refuse(&within(at, "default"), format!("has the unknown field {field}"));
            }
            for error in schema.errors(&taken) {
                self.refuse(&within(at, "default"), error.to_string());
            }
        }
        for (name, property) in &schema.properties {
            self.defaults(property, &within(at, &format!("properties[{name}]")));
        }
        if let Some(additional) = &schema.additional {
            self.defaults(additional, &within(at, "additionalProperties"));
        }
        if let Some(items) = &schema.items {
            self.defaults(items, &within(at, "items"));
        }
    }
}
