//! The table of what is served. A new kind is one row: a [`Resource`] here or in a file of its own.

mod calico;
mod data;
mod event;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod service;
mod service_account;

use std::sync::LazyLock;

use caracal_model::object::{FieldError, FieldErrorReason, NameFormat, Object, validate_metadata};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::shape::Shape;

/// Whether a resource's objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They belong to the cluster.
    Cluster,
    /// They belong to a namespace.
    Namespaced,
}

/// One row: a resource, its names, and what is special about it.
pub struct Resource {
    /// API group; empty for the core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// `NetworkPolicy`.
    pub kind: &'static str,
    /// `networkpolicies`.
    pub plural: &'static str,
    /// `netpol`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Cluster or namespace.
    pub scope: Scope,
    /// Whether `/status` is written apart from the rest.
    pub status: bool,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    /// Whether it is a custom resource in a real cluster: those take no strategic merge patch.
    pub custom: bool,
    /// What its objects may be called; none: `validate` judges their metadata too.
    pub names: Option<NameFormat>,
    /// What a field selector may name, beside metadata.name and metadata.namespace.
    pub fields: &'static [&'static str],
    /// Its type, for decoding and for the schemas.
    pub shape: fn() -> Shape,
    /// Fills in what Kubernetes fills in: defaults, and at creation the initial status.
    pub prepare: fn(&mut Value, Moment),
    /// Everything wrong with an object beyond its shape.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Everything wrong with a change (before, after) of what `/status` does not cover.
    pub validate_change: fn(&Value, &Value) -> Vec<FieldError>,
    /// What `kubectl get` shows.
    pub columns: &'static [Column],
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.qualified())
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Resource) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}

impl Eq for Resource {}

impl Resource {
    /// `networkpolicies.networking.k8s.io`; the plural alone in the core group.
    pub fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Everything wrong with an object beyond its shape.
    pub fn errors(&self, object: &Value) -> Vec<FieldError> {
        let named = self.names.and_then(|names| {
            let metadata = ObjectMeta::deserialize(object.get("metadata")?).ok()?;
            Some(validate_metadata(names, self.scope == Scope::Namespaced, &metadata))
        });
        let mut errors = named.unwrap_or_default();
        errors.extend((self.validate)(object));
        errors
    }

    /// `networkpolicy`.
    pub fn singular(&self) -> String {
        self.kind.to_lowercase()
    }

    /// `networking.k8s.io/v1`; the version alone in the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `/apis/networking.k8s.io/v1`.
    pub fn root(&self) -> String {
        match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }
}

/// When an object is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is being made.
    Create,
    /// It replaces another.
    Update,
}

/// A column of `kubectl get`.
pub struct Column {
    /// Its header.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`.
    pub kind: &'static str,
    /// 0: always; 1: with `-o wide`.
    pub priority: u8,
    /// What it says, for people.
    pub description: &'static str,
    /// The cell of an object, at a moment.
    pub cell: fn(&Value, Timestamp) -> Value,
}

impl Column {
    /// A text that is always shown.
    const fn text(
        name: &'static str,
        description: &'static str,
        cell: fn(&Value, Timestamp) -> Value,
    ) -> Column {
        Column { name, kind: "string", priority: 0, description, cell }
    }

    /// The same, shown with `-o wide` only.
    const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }
}

/// All that is served, in the order of discovery: of two kinds of the same name kubectl takes the first, so Kubernetes'
/// NetworkPolicy stands before Calico's.
pub static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let built_in = [
        event::EVENT,
        namespace::NAMESPACE,
        node::NODE,
        pod::POD,
        service::SERVICE,
        service_account::SERVICE_ACCOUNT,
        service::ENDPOINT_SLICE,
        network_policy::NETWORK_POLICY,
    ];
    built_in.into_iter().chain(data::rows()).chain(calico::rows()).collect()
});

/// The row of a resource, by the names in its path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|resource| (resource.group, resource.version, resource.plural) == (group, version, plural))
}

/// The served groups with their versions, in the table's order.
pub fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for resource in RESOURCES.iter() {
        if !groups.contains(&(resource.group, resource.version)) {
            groups.push((resource.group, resource.version));
        }
    }
    groups
}

/// Nothing to fill in.
fn leave(_: &mut Value, _: Moment) {}

/// What the model knows to be missing.
fn model_defaults(object: &mut Value) {
    if let Ok((mut typed, _)) = Object::from_value_lenient(object.clone()) {
        typed.set_defaults();
        *object = typed.to_value();
    }
}

/// What the model knows to be wrong.
fn model_validate(object: &Value) -> Vec<FieldError> {
    match Object::from_value_lenient(object.clone()) {
        Ok((typed, _)) => typed.validate(),
        Err(error) => vec![cause("(object)", FieldErrorReason::Invalid, error.to_string())],
    }
}

/// Nothing beyond its shape.
fn nothing_wrong(_: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// What the model knows that may not change.
fn model_change(before: &Value, after: &Value) -> Vec<FieldError> {
    let typed = |object: &Value| Object::from_value_lenient(object.clone()).ok().map(|(typed, _)| typed);
    match (typed(before), typed(after)) {
        (Some(before), Some(after)) => after.validate_change(&before),
        _ => Vec::new(),
    }
}

/// One thing that is wrong.
pub fn cause(field: &str, reason: FieldErrorReason, message: impl Into<String>) -> FieldError {
    FieldError { field: field.into(), reason, message: message.into() }
}

/// Nothing that may not change.
fn any_change(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// The text at a JSON pointer; empty if there is none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The list at a JSON pointer; empty if there is none.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Sets a field of an object unless it is there.
fn default_to(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.into(), value.into());
    }
}

/// The members of the list at a JSON pointer, to change.
fn items_mut<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    object.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

const NAME: Column = Column::text("Name", "The name, unique within the namespace.", |object, _| {
    text(object, "/metadata/name").into()
});

const AGE: Column = Column::text("Age", "How long ago it was made.", |object, now| {
    age(text(object, "/metadata/creationTimestamp"), now).into()
});

/// How long ago an instant was, as kubectl says it: the two largest units while they matter.
fn age(since: &str, now: Timestamp) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = (now.as_second() - since.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => with(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use caracal_model::object::Kind;

    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().expect("an instant");
        for (since, told) in [
            ("2026-01-10T00:00:05Z", "0s"),
            ("2026-01-09T23:58:01Z", "119s"),
            ("2026-01-09T23:55:30Z", "4m30s"),
            ("2026-01-09T23:30:00Z", "30m"),
            ("2026-01-09T19:30:00Z", "4h30m"),
            ("2026-01-09T02:00:00Z", "22h"),
            ("2026-01-07T02:00:00Z", "2d22h"),
            ("2025-12-01T00:00:00Z", "40d"),
            ("2023-01-01T00:00:00Z", "3y10d"),
            ("", "<unknown>"),
        ] {
            assert_eq!(age(since, now), told, "{since}");
        }
    }

    #[test]
    fn every_kind_of_the_model_is_served_under_the_names_it_has_there() {
        for &kind in Kind::ALL {
            let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
            let row = find(group, version, kind.plural()).unwrap_or_else(|| panic!("{kind:?}"));
            assert_eq!(row.kind, kind.as_str());
            assert_eq!(row.scope == Scope::Namespaced, kind.is_namespaced(), "{kind:?}");
        }
    }

    #[test]
    fn no_two_rows_share_a_path_or_a_short_name() {
        let mut names = Vec::new();
        for resource in RESOURCES.iter() {
            names.push(format!("{}/{}", resource.root(), resource.plural));
            names.extend(resource.short_names.iter().map(|name| (*name).to_owned()));
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
