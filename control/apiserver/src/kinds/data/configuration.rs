//! ConfigMaps, secrets and leases.

use caracal_model::object::{FieldError, FieldErrorReason};
use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::super::node::or_none;
use super::super::{AGE, Column, Moment, NAME, cause, default_to, text};

/// All values of a ConfigMap or a secret together, as in Kubernetes.
const DATA_MOST: usize = 1 << 20;

const DATA: Column = Column {
    name: "Data",
    kind: "integer",
    priority: 0,
    description: "How many entries it has.",
    cell: |object, _| entries(object).into(),
};

pub const CONFIG_MAP: &[Column] = &[NAME, DATA, AGE];

pub const SECRET: &[Column] =
    &[NAME, Column::text("Type", "What it is for.", |object, _| text(object, "/type").into()), DATA, AGE];

pub const LEASE: &[Column] = &[
    NAME,
    Column::text("Holder", "Who has it.", |object, _| or_none(text(object, "/spec/holderIdentity"))),
    AGE,
];

/// The map at a field.
fn map<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

fn entries(object: &Value) -> usize {
    map(object, "data").count() + map(object, "binaryData").count()
}

/// A key of the data can be the name of a file.
fn judge_keys(object: &Value, field: &str, causes: &mut Vec<FieldError>) {
    for (key, _) in map(object, field) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let good = !key.is_empty() && key.len() <= 253 && key.bytes().all(plain);
        if !good || key == "." || key.starts_with("..") {
            let why = format!(
                "Invalid value: \"{key}\": must be letters, digits, '-', '_' and '.', at most 253, and not \
                 begin with \"..\""
            );
            causes.push(cause(&format!("{field}[{key}]"), FieldErrorReason::Invalid, why));
        }
    }
}

/// The length of a value; of one in base64, of what it stands for.
fn length(value: &Value, encoded: bool) -> usize {
    let text = value.as_str().unwrap_or("");
    match BASE64.decode(text.as_bytes()) {
        Ok(bytes) if encoded => bytes.len(),
        _ => text.len(),
    }
}

fn judge_size(size: usize, causes: &mut Vec<FieldError>) {
    if size > DATA_MOST {
        let why = format!("Too long: may not be more than {DATA_MOST} bytes");
        causes.push(cause("data", FieldErrorReason::Invalid, why));
    }
}

pub fn config_map(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    judge_keys(object, "data", &mut causes);
    judge_keys(object, "binaryData", &mut causes);
    for (key, _) in map(object, "binaryData") {
        if map(object, "data").any(|(other, _)| other == key) {
            let why = format!("Invalid value: \"{key}\": duplicate of key present in binaryData");
            causes.push(cause(&format!("data[{key}]"), FieldErrorReason::Invalid, why));
        }
    }
    let texts: usize = map(object, "data").map(|(_, value)| length(value, false)).sum();
    let bytes: usize = map(object, "binaryData").map(|(_, value)| length(value, true)).sum();
    judge_size(texts + bytes, &mut causes);
    causes
}

/// What is said to be immutable stays, and stays so.
pub fn immutable(before: &Value, after: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    if before["immutable"] != true {
        return causes;
    }
    let why = "Forbidden: field is immutable when `immutable` is set";
    if after["immutable"] != true {
        causes.push(cause("immutable", FieldErrorReason::Forbidden, why));
    }
    for field in ["data", "binaryData"] {
        if !map(before, field).eq(map(after, field)) {
            causes.push(cause(field, FieldErrorReason::Forbidden, why));
        }
    }
    causes
}

const OPAQUE: &str = "Opaque";

/// What may be written as text is kept encoded.
pub fn prepare_secret(object: &mut Value, _: Moment) {
    default_to(object, "type", OPAQUE);
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|map| map.remove("stringData")) else {
        return;
    };
    default_to(object, "data", Map::new());
    for (key, text) in texts {
        object["data"][key] = BASE64.encode(text.as_str().unwrap_or("").as_bytes()).into();
    }
}

/// The entries that a secret of a type must have: all of one of these lists.
fn needed(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        "kubernetes.io/tls" => &[&["tls.crt", "tls.key"]],
        "kubernetes.io/dockerconfigjson" => &[&[".dockerconfigjson"]],
        "kubernetes.io/dockercfg" => &[&[".dockercfg"]],
        "kubernetes.io/ssh-auth" => &[&["ssh-privatekey"]],
        "kubernetes.io/basic-auth" => &[&["username"], &["password"]],
        _ => &[],
    }
}

pub fn secret(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    judge_keys(object, "data", &mut causes);
    judge_size(map(object, "data").map(|(_, value)| length(value, true)).sum(), &mut causes);
    let has = |key: &&str| map(object, "data").any(|(found, _)| found == key);
    let kind = text(object, "/type");
    let ways = needed(kind);
    if !ways.is_empty() && !ways.iter().any(|way| way.iter().all(has)) {
        for key in ways.iter().flat_map(|way| way.iter()).filter(|key| !has(key)) {
            let field = format!("data[{key}]");
            causes.push(cause(&field, FieldErrorReason::Required, "Required value"));
        }
    }
    for json in [".dockerconfigjson", ".dockercfg"] {
        let Some(sent) = map(object, "data").find(|(key, _)| *key == json).map(|(_, value)| value) else {
            continue;
        };
        let decoded = BASE64.decode(sent.as_str().unwrap_or("").as_bytes()).unwrap_or_default();
        if kind.starts_with("kubernetes.io/dockerc") && serde_json::from_slice::<Value>(&decoded).is_err() {
            let why = "Invalid value: \"<secret contents redacted>\": is not JSON";
            causes.push(cause(&format!("data[{json}]"), FieldErrorReason::Invalid, why));
        }
    }
    let account = object.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
    if kind == "kubernetes.io/service-account-token" && account.is_none() {
        let field = "metadata.annotations[kubernetes.io/service-account.name]";
        causes.push(cause(field, FieldErrorReason::Required, "Required value"));
    }
    causes
}

pub fn secret_change(before: &Value, after: &Value) -> Vec<FieldError> {
    let mut causes = immutable(before, after);
    let (old, new) = (text(before, "/type"), text(after, "/type"));
    if old != new {
        let why = format!("Invalid value: {}: field is immutable", json!(new));
        causes.push(cause("type", FieldErrorReason::Invalid, why));
    }
    causes
}

pub fn lease(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    let number = |field: &str| object.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_i64);
    if let Some(seconds) = number("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        let why = format!("Invalid value: {seconds}: must be greater than 0");
        causes.push(cause("spec.leaseDurationSeconds", FieldErrorReason::Invalid, why));
    }
    if let Some(count) = number("leaseTransitions").filter(|count| *count < 0) {
        let why = format!("Invalid value: {count}: must be greater than or equal to 0");
        causes.push(cause("spec.leaseTransitions", FieldErrorReason::Invalid, why));
    }
    let given = |field: &str| !text(object, &format!("/spec/{field}")).is_empty();
    if given("preferredHolder") && !given("strategy") {
        let why = "Forbidden: may only be specified when strategy is defined";
        causes.push(cause("spec.preferredHolder", FieldErrorReason::Forbidden, why));
    }
    causes
}
