//! What a definition's resource is called, and which of two definitions may have a name. Pure.

use std::cmp::Reverse;

use caracal_model::object::{FieldError, FieldErrorReason};
use serde_json::{Value, json};

use super::{items, text};
use crate::kinds::{NATIVE, Resource, cause};

/// The names of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `foos`.
    pub plural: String,
    /// `foo`.
    pub singular: String,
    /// `Foo`.
    pub kind: String,
    /// `FooList`.
    pub list_kind: String,
    /// `f`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
}

impl Names {
    /// The names as a definition writes them.
    pub fn of(names: &Value) -> Names {
        let text = |field: &str| text(names, field).to_owned();
        let list = |field: &str| -> Vec<String> {
            items(names, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Names {
            plural: text("/plural"),
            singular: text("/singular"),
            kind: text("/kind"),
            list_kind: text("/listKind"),
            short_names: list("/shortNames"),
            categories: list("/categories"),
        }
    }

    /// The names of a row.
    fn of_row(row: &Resource) -> Names {
        Names {
            plural: row.plural.clone(),
            singular: row.singular.clone(),
            kind: row.kind.clone(),
            list_kind: row.list_kind(),
            short_names: row.short_names.clone(),
            categories: row.categories.clone(),
        }
    }

    /// Why these names cannot be had beside others of the same group.
    fn conflict(&self, other: &Names) -> Option<String> {
        let words = |names: &Names| -> Vec<String> {
            [&names.plural, &names.singular].into_iter().chain(&names.short_names).cloned().collect()
        };
        let taken = words(other);
        let word = words(self).into_iter().find(|word| taken.contains(word));
        let kinds = |names: &Names| [names.kind.clone(), names.list_kind.clone()];
        let kind = kinds(self).into_iter().find(|kind| kinds(other).contains(kind));
        let name = word.or(kind)?;
        Some(format!("\"{name}\" is already in use by {}", other.plural))
    }
}

/// Where a version stands in discovery: stable ones first, newer ones first: v2, v1, v1beta2, v1alpha1, then what is no
/// version of Kubernetes, by its letters.
pub fn version_order(version: &str) -> impl Ord + use<> {
    let number = |text: &str| text.parse::<u32>().ok();
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = rest.split_at(digits);
        let stability = match rest {
            "" => (3, 0),
            rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
                (Some(minor), _) => (2, number(minor)?),
                (_, Some(minor)) => (1, number(minor)?),
                _ => return None,
            },
        };
        Some((stability.0, number(major)?, stability.1))
    });
    (Reverse(parsed), version.to_owned())
}

/// A DNS label that begins with a letter.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Everything wrong with the names of a definition.
pub fn errors(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut refuse = |field: &str, reason, message: String| errors.push(cause(field, reason, message));
    let group = text(definition, "/spec/group");
    if !group.contains('.') || !crate::metadata::is_dns_subdomain(group) {
        let why = format!("Invalid value: {group:?}: should be a domain with at least one dot");
        refuse("spec.group", FieldErrorReason::Invalid, why);
    }
    let names = Names::of(definition.pointer("/spec/names").unwrap_or(&Value::Null));
    let name = text(definition, "/metadata/name");
    if name != format!("{}.{group}", names.plural) {
        let why = format!("Invalid value: {name:?}: must be spec.names.plural+\".\"+spec.group");
        refuse("metadata.name", FieldErrorReason::Invalid, why);
    }
    let words = [("plural", &names.plural), ("singular", &names.singular)].into_iter();
    let more = ["shortNames", "categories"].into_iter().zip([&names.short_names, &names.categories]);
    let words = words.chain(more.flat_map(|(field, list)| list.iter().map(move |word| (field, word))));
    for (field, word) in words.filter(|(_, word)| !is_label(word)) {
        let why =
            format!("Invalid value: {word:?}: must be lower-case letters, digits and '-' (a DNS label)");
        refuse(&format!("spec.names.{field}"), FieldErrorReason::Invalid, why);
    }
    for (field, kind) in [("kind", &names.kind), ("listKind", &names.list_kind)] {
        if !is_label(&kind.to_lowercase()) {
            let why =
                format!("Invalid value: {kind:?}: must be letters, digits and '-', and begin with a letter");
            refuse(&format!("spec.names.{field}"), FieldErrorReason::Invalid, why);
        }
    }
    if names.kind == names.list_kind && !names.kind.is_empty() {
        let why = format!("Invalid value: {:?}: kind and listKind may not be the same", names.kind);
        refuse("spec.names.listKind", FieldErrorReason::Invalid, why);
    }
    errors
}

/// What becomes of a definition's names.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served by them.
    Accepted,
    /// The resource is served natively, and the definition is not used.
    Native,
    /// Another has one of them, as this says.
    Conflict(String),
}

/// What becomes of a definition's names beside those that others of its group have.
pub fn verdict<'a>(definition: &Value, others: impl Iterator<Item = &'a Value>) -> Verdict {
    let group = text(definition, "/spec/group");
    let names = Names::of(definition.pointer("/spec/names").unwrap_or(&Value::Null));
    if NATIVE.iter().any(|row| row.is(group, &names.plural)) {
        return Verdict::Native;
    }
    let native = NATIVE.iter().filter(|row| row.group == group).map(|row| Names::of_row(row));
    let others = others.filter(|other| text(other, "/spec/group") == group);
    let others = others.filter_map(|other| Some(Names::of(other.pointer("/status/acceptedNames")?)));
    let conflict = native.chain(others).find_map(|other| names.conflict(&other));
    conflict.map_or(Verdict::Accepted, Verdict::Conflict)
}

/// The status of a definition with this verdict.
pub fn status(definition: &Value, verdict: &Verdict, now: &str) -> Value {
    // Names that were accepted once stay until others are.
    let former_names =
        definition.pointer("/status/acceptedNames").filter(|names| !text(names, "/plural").is_empty());
    let (names, established) = match verdict {
        Verdict::Accepted => (
            ("True", "NoConflicts", "no conflicts found".to_owned()),
            ("True", "InitialNamesAccepted", "the initial names have been accepted".to_owned()),
        ),
        Verdict::Native => {
            let why =
                "this server serves the resource itself: the definition is kept, and not used".to_owned();
            (("True", "ServedNatively", why.clone()), ("True", "ServedNatively", why))
        }
        Verdict::Conflict(why) if former_names.is_some() => (
            ("False", "NamesConflict", why.clone()),
            ("True", "InitialNamesAccepted", "the initial names have been accepted".to_owned()),
        ),
        Verdict::Conflict(why) => (
            ("False", "NamesConflict", why.clone()),
            ("False", "NotAccepted", "not all names are accepted".to_owned()),
        ),
    };
    let mut conditions = vec![("NamesAccepted", names), ("Established", established)];
    let rules = rules(definition);
    if rules > 0 && *verdict != Verdict::Native {
        let why = format!(
            "x-kubernetes-validations: {rules} rules are kept and shown, and not evaluated by this server"
        );
        conditions.push(("RulesEvaluated", ("False", "NotSupported", why)));
    }
    if !text(definition, "/metadata/deletionTimestamp").is_empty() {
        let why = "the objects of this resource are being deleted".to_owned();
        conditions.push(("Terminating", ("True", "InstanceDeletionInProgress", why)));
    }
    let former = items(definition, "/status/conditions");
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, (status, reason, message))| {
            let former = former.iter().find(|one| text(one, "/type") == kind && text(one, "/status") == status);
            let since = former.map_or(now, |one| text(one, "/lastTransitionTime"));
            json!({
                "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
            })
        })
        .collect();
    let mut stored: Vec<Value> = items(definition, "/status/storedVersions").to_vec();
    let kept = items(definition, "/spec/versions").iter().find(|version| version["storage"] == true);
    if let Some(name) = kept.map(|version| version["name"].clone()).filter(|name| !stored.contains(name)) {
        stored.push(name);
    }
    let sent = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let accepted = match (verdict, former_names) {
        (Verdict::Accepted | Verdict::Native, _) => sent,
        (Verdict::Conflict(_), Some(former)) => former.clone(),
        (Verdict::Conflict(_), None) => json!({ "plural": "", "kind": "" }),
    };
    json!({
        "acceptedNames": accepted,
        "conditions": conditions, "storedVersions": stored,
    })
}

/// How many rules in CEL the schemas of a definition have.
fn rules(definition: &Value) -> usize {
    fn count(value: &Value) -> usize {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(name, value)| match (name.as_str(), value) {
                    ("x-kubernetes-validations", Value::Array(rules)) => rules.len(),
                    (_, value) => count(value),
                })
                .sum(),
            Value::Array(list) => list.iter().map(count).sum(),
            _ => 0,
        }
    }
    items(definition, "/spec/versions").iter().map(|version| count(super::written(version))).sum()
}
