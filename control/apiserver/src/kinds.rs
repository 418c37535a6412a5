//! What is served natively. A new kind is one row: a [`Resource`] here or in a file of its own. What else is served, by
//! CustomResourceDefinitions, is in the [`crate::table::Table`].

mod calico;
mod data;
mod definition;
mod event;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod service;
mod service_account;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use caracal_model::object::{FieldError, FieldErrorReason, NameFormat, Object, validate_metadata};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::custom::{Definition, Names, PrinterColumn};
use crate::pointer::{items, text};
use crate::shape::{Decoded, Shape};

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
    pub group: String,
    /// API version.
    pub version: String,
    /// `NetworkPolicy`.
    pub kind: String,
    /// `networkpolicies`.
    pub plural: String,
    /// `networkpolicy`.
    pub singular: String,
    /// `netpol`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
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
    fields: &'static [&'static str],
    /// What its objects look like.
    pub form: Form,
    /// Fills in what Kubernetes fills in: defaults, and at creation the initial status.
    prepare: fn(&mut Value, Moment),
    /// Everything wrong with an object beyond its form.
    validate: fn(&Value) -> Vec<FieldError>,
    /// Everything wrong with a change (before, after) of what `/status` does not cover.
    validate_change: fn(&Value, &Value) -> Vec<FieldError>,
    /// What `kubectl get` shows of objects that have a type here.
    columns: &'static [Column],
}

/// Where it is said what the objects of a resource look like.
pub enum Form {
    /// A type here, for decoding and for the schemas.
    Typed(fn() -> Shape),
    /// A version of a CustomResourceDefinition.
    Defined(Box<Definition>),
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.qualified())
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Resource) -> bool {
        (&self.group, &self.version, &self.plural) == (&other.group, &other.version, &other.plural)
    }
}

impl Eq for Resource {}

impl Resource {
    /// `networkpolicies.networking.k8s.io`; the plural alone in the core group. All versions of a resource share it, and
    /// so their objects.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `networking.k8s.io/v1`; the version alone in the core group.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `/apis/networking.k8s.io/v1`.
    pub fn root(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Whether it is this resource of Kubernetes' own.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        (self.group.as_str(), self.plural.as_str()) == (group, plural)
    }

    /// The definition that it is served by; none if it is served natively.
    pub fn definition(&self) -> Option<&Definition> {
        match &self.form {
            Form::Typed(_) => None,
            Form::Defined(definition) => Some(definition),
        }
    }

    /// `NetworkPolicyList`.
    pub fn list_kind(&self) -> String {
        self.definition().map_or_else(|| format!("{}List", self.kind), |defined| defined.list_kind.clone())
    }

    /// Reads an object, so that only known fields remain.
    pub fn decode(&self, object: Value) -> Result<Decoded, String> {
        match &self.form {
            Form::Typed(shape) => (shape().decode)(object),
            Form::Defined(definition) => definition.decode(object),
        }
    }

    /// Fills in what Kubernetes fills in.
    pub fn prepare(&self, object: &mut Value, moment: Moment) {
        (self.prepare)(object, moment);
        if moment == Moment::Create
            && self.status
            && self.definition().is_some()
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
    }

    /// Everything wrong with an object beyond its form.
    pub fn errors(&self, object: &Value) -> Vec<FieldError> {
        let named = self.names.and_then(|names| {
            let metadata = ObjectMeta::deserialize(object.get("metadata")?).ok()?;
            Some(validate_metadata(names, self.scope == Scope::Namespaced, &metadata))
        });
        let mut errors = named.unwrap_or_default();
        errors.extend((self.validate)(object));
        errors.extend(self.definition().into_iter().flat_map(|definition| definition.errors(object)));
        errors
    }

    /// Everything wrong with a change of what `/status` does not cover.
    pub fn change_errors(&self, before: &Value, after: &Value) -> Vec<FieldError> {
        (self.validate_change)(before, after)
    }

    /// Whether a field selector may name this field.
    pub fn selects_by(&self, field: &str) -> bool {
        ["metadata.name", "metadata.namespace"].contains(&field)
            || self.fields.contains(&field)
            || self.definition().is_some_and(|definition| definition.fields.iter().any(|one| one == field))
    }

    /// The columns of `kubectl get`, as a table names them.
    pub fn headers(&self) -> Vec<Value> {
        match &self.form {
            Form::Typed(_) => self.columns.iter().map(Column::header).collect(),
            Form::Defined(definition) => definition.columns.iter().map(PrinterColumn::header).collect(),
        }
    }

    /// What they show of an object, at a moment.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.form {
            Form::Typed(_) => self.columns.iter().map(|column| (column.cell)(object, now)).collect(),
            Form::Defined(definition) => {
                definition.columns.iter().map(|column| column.cell(object, now)).collect()
            }
        }
    }

    /// An object as it is shown in this version, whatever version it is kept in.
    pub fn shown<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        if self.definition().is_none() || object["apiVersion"] == self.api_version() {
            return Cow::Borrowed(object);
        }
        let mut object = object.clone();
        object["apiVersion"] = self.api_version().into();
        Cow::Owned(object)
    }

    /// Makes an object of this version one of the version in which all are kept.
    pub fn keep(&self, object: &mut Value) {
        if let Some(definition) = self.definition() {
            object["apiVersion"] = definition.kept_as.as_str().into();
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

    /// As a table names it.
    fn header(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "priority": self.priority,
            "format": if self.name == "Name" { "name" } else { "" }, "description": self.description,
        })
    }

    /// The same, shown with `-o wide` only.
    const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }
}

/// All that is served natively, in the order of discovery: of two kinds of the same name kubectl takes the first, so
/// Kubernetes' NetworkPolicy stands before Calico's.
pub static NATIVE: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
    let built_in = [
        event::row(),
        definition::row(),
        namespace::row(),
        node::row(),
        pod::row(),
        service::service(),
        service_account::row(),
        service::endpoint_slice(),
        network_policy::row(),
    ];
    built_in.into_iter().chain(data::rows()).chain(calico::rows()).map(Arc::new).collect()
});

/// The native row of a resource, by the names in its path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Resource>> {
    NATIVE.iter().find(|resource| resource.is(group, plural) && resource.version == version)
}

/// The row of one version of a CustomResourceDefinition.
pub fn defined(group: &str, version: &str, names: Names, scope: Scope, definition: Definition) -> Resource {
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: names.kind,
        plural: names.plural,
        singular: names.singular,
        short_names: names.short_names,
        categories: names.categories,
        scope,
        status: definition.has_status,
        generation: true,
        custom: true,
        fields: &[],
        names: Some(NameFormat::Subdomain),
        form: Form::Defined(Box::new(definition)),
        prepare: leave,
        validate: nothing_wrong,
        validate_change: any_change,
        columns: &[],
    }
}

/// A plain row of a kind whose objects live in namespaces.
fn namespaced<T>() -> Resource
where
    T: k8s_openapi::Resource<Scope = NamespaceResourceScope> + DeserializeOwned + Serialize + JsonSchema,
{
    plain::<T>(Scope::Namespaced)
}

/// A plain row of a kind whose objects belong to the cluster.
fn cluster<T>() -> Resource
where
    T: k8s_openapi::Resource<Scope = ClusterResourceScope> + DeserializeOwned + Serialize + JsonSchema,
{
    plain::<T>(Scope::Cluster)
}

fn plain<T: k8s_openapi::Resource + DeserializeOwned + Serialize + JsonSchema>(scope: Scope) -> Resource {
    Resource {
        group: T::GROUP.to_owned(),
        version: T::VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        plural: T::URL_PATH_SEGMENT.to_owned(),
        singular: T::KIND.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope,
        status: false,
        generation: false,
        custom: false,
        fields: &[],
        names: Some(NameFormat::Subdomain),
        form: Form::Typed(Shape::of::<T>),
        prepare: leave,
        validate: nothing_wrong,
        validate_change: any_change,
        columns: &[NAME, AGE],
    }
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
pub fn age(since: &str, now: Timestamp) -> String {
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
            assert_eq!(row.kind, kind.as_str(), "{kind:?}");
            assert_eq!(row.scope == Scope::Namespaced, kind.is_namespaced(), "{kind:?}");
        }
    }

    #[test]
    fn no_two_rows_share_a_path_or_a_short_name() {
        let mut names = Vec::new();
        for resource in NATIVE.iter() {
            names.push(format!("{}/{}", resource.root(), resource.plural));
            names.extend(resource.short_names.iter().cloned());
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
