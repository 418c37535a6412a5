//! Decoding: strictly, with a path for everything that is wrong, and as far as it goes when something is.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::{FieldError, Kind, ObjectError};

/// How often an object is mended before it is given up: more errors than anybody reads.
const ATTEMPTS_MAX: usize = 128;

/// Decodes an object of a kind; fields that the kind does not have are left out and returned.
pub(super) fn object<T: DeserializeOwned>(
    kind: Kind,
    mut value: Value,
) -> Result<(T, Vec<String>), ObjectError> {
    let unwanted = take_type(kind, &mut value);
    let (object, mut unknown) = decode_lenient(value)?;
    unknown.extend(unwanted);
    Ok((object, unknown))
}

/// Decodes any of Kubernetes' types; fields that the type does not have are left out and returned.
pub fn decode_lenient<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), ObjectError> {
    decode(value).map_err(|(path, message)| ObjectError::Type { field: path.to_string(), message })
}

/// Decodes an object of a kind without the values that are of the wrong type, and says what is wrong with each.
pub(super) fn mended<T: DeserializeOwned>(kind: Kind, mut value: Value) -> (Option<T>, Vec<FieldError>) {
    let unwanted = take_type(kind, &mut value);
    let mut errors: Vec<FieldError> = unwanted.into_iter().map(FieldError::unknown).collect();
    let mut mending: Option<Mending> = None;
    for _ in 0..ATTEMPTS_MAX {
        match decode(value.clone()) {
            Ok((object, unknown)) => {
                errors.extend(unknown.into_iter().map(FieldError::unknown));
                return (Some(object), errors);
            }
            Err((path, message)) => {
                let field = path.to_string();
                if errors.iter().all(|error| error.field != field) {
                    errors.push(FieldError::of_type(field.clone(), &message));
                }
                let same = mending.take().filter(|mending| mending.field == field);
                let mut here = same.unwrap_or_else(|| Mending::new(field, &path, &message));
                if !here.try_next(&mut value) {
                    break;
                }
                mending = Some(here);
            }
        }
    }
    (None, errors)
}

/// A value that cannot be decoded and what can be done about it: leave the field out, put something else into the list
/// (so that the indices of the others stay), and when nothing helps, do so with what it is part of.
struct Mending {
    field: String,
    path: Vec<Segment>,
    /// What seems to have been expected.
    guess: Value,
    /// How many substitutes have been tried in the list at the end of the path.
    tried: usize,
}

impl Mending {
    fn new(field: String, path: &Path, message: &str) -> Self {
        Self { field, path: path.iter().cloned().collect(), guess: guess(message), tried: 0 }
    }

    /// The guess, then a value of each type.
    fn substitutes(&self) -> [Value; 7] {
        let (map, list) = (Value::Object(Map::new()), Value::Array(Vec::new()));
        [self.guess.clone(), Value::Null, map, "".into(), 0.into(), false.into(), list]
    }

    /// Changes `value` in the next way; false when there is none left.
    fn try_next(&mut self, value: &mut Value) -> bool {
        loop {
            let Some((last, way)) = self.path.split_last() else { return false };
            let done = match (last, at(value, way)) {
                (Segment::Map { key }, Some(Value::Object(map))) => map.remove(key).is_some(),
                (Segment::Seq { index }, Some(Value::Array(items))) => {
                    let substitute = self.substitutes().into_iter().nth(self.tried);
                    self.tried += 1;
                    match (items.get_mut(*index), substitute) {
                        (Some(item), Some(substitute)) => {
                            *item = substitute;
                            true
                        }
                        _ => false,
                    }
                }
                _ => false,
            };
            if done {
                return true;
            }
            self.path.pop();
            self.tried = 0;
        }
    }
}

/// A value of the type that a message says was expected.
fn guess(message: &str) -> Value {
    match message.rsplit_once("expected ").map(|(_, expected)| expected) {
        Some("a string") => "".into(),
        Some("an integer" | "a number") => 0.into(),
        Some("a boolean") => false.into(),
        Some("a list") => Value::Array(Vec::new()),
        Some("a map") => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// The value at the end of a path.
fn at<'a>(value: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key),
        Segment::Seq { index } => value.get_mut(index),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// Takes what says the kind out of an object, and what the kind does not have.
fn take_type(kind: Kind, value: &mut Value) -> Option<String> {
    let map = value.as_object_mut()?;
    // A field of null is not given, as it is to a Kubernetes API server.
    map.retain(|field, value| field != "apiVersion" && field != "kind" && !value.is_null());
    if kind.has_status() {
        return None;
    }
    map.remove("status").map(|_| "status".to_owned())
}

type Undecodable = (Path, String);

fn decode<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), Undecodable> {
    let mut track = serde_path_to_error::Track::new();
    let mut unknown = Vec::new();
    let decoded = {
        let value = serde_path_to_error::Deserializer::new(value, &mut track);
        serde_ignored::deserialize(value, |path: serde_ignored::Path<'_>| unknown.push(field_path(&path)))
    };
    match decoded {
        Ok(object) => Ok((object, unknown)),
        Err(error) => Err((track.path(), in_words(&serde_json::Error::to_string(&error)))),
    }
}

/// What serde expected, in the words of those who write manifests.
fn in_words(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let expected = match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => "an integer",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a map",
        other => other,
    };
    format!("{found}expected {expected}")
}

/// Kubernetes' syntax for a path: fields joined by dots, indices in brackets.
fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => {
            let parent = field_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field_path(parent)
        }
    }
}
