//! The strategic merge patch: a merge patch in which lists may merge, as the object's type says.
//!
//! Directives in a patch begin with `$`:
//!
//! | directive | where | means |
//! |---|---|---|
//! | `$patch: replace` | in an object | take the patch instead of what is there |
//! | `$patch: delete` | in an object | remove what is there |
//! | `$patch: replace` | in a member of a merging list | the other members are the whole list |
//! | `$patch: delete` | in a member of a merging list | remove the member with this key |
//! | `$retainKeys: [a, b]` | in an object | remove all other fields |
//! | `$deleteFromPrimitiveList/f: [a]` | in an object | remove these values from the list `f` |
//! | `$setElementOrder/f: […]` | in an object | put the list `f` into this order |

use serde_json::{Map, Value};

use crate::schema::{Merge, definitions, merge_of};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// A patch that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// `$patch` with something else than replace, delete or merge.
    #[error("{0}: $patch must be replace, delete or merge")]
    UnknownDirective(String),
    /// A directive's value has the wrong type.
    #[error("{0}: must be a list")]
    NotAList(String),
    /// A member of a merging list does not say which one it is.
    #[error("{field}: a member has no {key}, by which members are matched")]
    NoKey {
        /// The list.
        field: String,
        /// What its members must have.
        key: &'static str,
    },
    /// `$setElementOrder` leaves out a member that the patch sends.
    #[error("{0}: has to name every member that the patch sends")]
    OrderIncomplete(String),
}

/// The object that `patch` makes of `object`, whose type is `definition`.
pub fn merge(object: &Value, patch: &Value, definition: &str) -> Result<Value, MergeError> {
    let empty = Map::new();
    let (object, patch) = (object.as_object().unwrap_or(&empty), patch.as_object().unwrap_or(&empty));
    Ok(merge_objects(object, patch, Some(definition))?.map_or(Value::Null, Value::Object))
}

/// None: the object is to be removed.
fn merge_objects(
    object: &Map<String, Value>,
    patch: &Map<String, Value>,
    definition: Option<&str>,
) -> Result<Option<Map<String, Value>>, MergeError> {
    let empty = Map::new();
    let mut merged = match patch.get(PATCH) {
        None => object.clone(),
        Some(directive) => match directive.as_str() {
            Some("merge") => object.clone(),
            Some("replace") => empty,
            Some("delete") => return Ok(None),
            _ => return Err(MergeError::UnknownDirective(PATCH.into())),
        },
    };
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = retained.as_array().ok_or_else(|| MergeError::NotAList(RETAIN_KEYS.into()))?;
        merged.retain(|field, _| retained.iter().any(|kept| kept == field));
    }
    for (field, removed) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            let removed = removed.as_array().ok_or_else(|| MergeError::NotAList(field.clone()))?;
            if let Some(Value::Array(values)) = merged.get_mut(list) {
                values.retain(|value| !removed.contains(value));
            }
        }
    }
    for (field, change) in patch.iter().filter(|(field, _)| !is_directive(field)) {
        let here = merged.get(field);
        let inner = definition.and_then(|definition| definitions().field(definition, field));
        let result = match (here, change) {
            (_, Value::Null) => None,
            (here, Value::Object(change)) => {
                let nothing = Map::new();
                let here = here.and_then(Value::as_object).unwrap_or(&nothing);
                merge_objects(here, change, inner)?.map(Value::Object)
            }
            (here, Value::Array(change)) => {
                let strategy = definition.and_then(|definition| merge_of(definition, field));
                let here = here.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                Some(Value::Array(match strategy {
                    None => change.clone(),
                    Some(Merge::AsSet) => merge_sets(here, change),
                    Some(Merge::ByKey(key) | Merge::ByKeyRetaining(key)) => {
                        merge_lists(field, here, change, key, inner)?
                    }
                }))
            }
            (_, change) => Some(change.clone()),
        };
        match result {
            Some(value) => drop(merged.insert(field.clone(), value)),
            None => drop(merged.remove(field)),
        }
    }
    set_orders(object, patch, definition, &mut merged)?;
    Ok(Some(merged))
}

fn is_directive(field: &str) -> bool {
    field == PATCH || field == RETAIN_KEYS || field.starts_with(DELETE_FROM) || field.starts_with(SET_ORDER)
}

/// What is here, and then what is new.
fn merge_sets(here: &[Value], change: &[Value]) -> Vec<Value> {
    let mut merged = here.to_vec();
    for value in change {
        if !merged.contains(value) {
            merged.push(value.clone());
        }
    }
    merged
}

fn merge_lists(
    field: &str,
    here: &[Value],
    change: &[Value],
    key: &'static str,
    member: Option<&str>,
) -> Result<Vec<Value>, MergeError> {
    let directive = |change: &Value| change.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    let replaces = change.iter().any(|change| directive(change).as_deref() == Some("replace"));
    let mut merged = if replaces { Vec::new() } else { here.to_vec() };
    for change in change {
        let change_map = change.as_object().ok_or_else(|| MergeError::NoKey { field: field.into(), key })?;
        match directive(change).as_deref() {
            None | Some("merge") => {}
            // It may be alone, or carry a member too.
            Some("replace") if change_map.len() == 1 => continue,
            Some("replace") => {}
            Some("delete") => {
                let wanted = key_of(field, change, key)?;
                merged.retain(|one| one.get(key) != Some(wanted));
                continue;
            }
            Some(_) => return Err(MergeError::UnknownDirective(field.into())),
        }
        let wanted = key_of(field, change, key)?;
        let nothing = Map::new();
        match merged.iter().position(|one| one.get(key) == Some(wanted)) {
            Some(index) => {
                let one = merged[index].as_object().unwrap_or(&nothing);
                if let Some(result) = merge_objects(one, change_map, member)? {
                    merged[index] = Value::Object(result);
                }
            }
            None => {
                if let Some(result) = merge_objects(&nothing, change_map, member)? {
                    merged.push(Value::Object(result));
                }
            }
        }
    }
    Ok(merged)
}

fn key_of<'a>(field: &str, member: &'a Value, key: &'static str) -> Result<&'a Value, MergeError> {
    member.get(key).ok_or_else(|| MergeError::NoKey { field: field.into(), key })
}

/// Puts lists into the order that `$setElementOrder` asks for. Members that it does not name keep their places among
/// those that were here before.
fn set_orders(
    object: &Map<String, Value>,
    patch: &Map<String, Value>,
    definition: Option<&str>,
    merged: &mut Map<String, Value>,
) -> Result<(), MergeError> {
    for (directive, order) in patch {
        let Some(field) = directive.strip_prefix(SET_ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| MergeError::NotAList(directive.clone()))?;
        let key = match definition.and_then(|definition| merge_of(definition, field)) {
            Some(Merge::ByKey(key) | Merge::ByKeyRetaining(key)) => Some(key),
            Some(Merge::AsSet) => None,
            // A list that is replaced has the order it was sent in.
            None => continue,
        };
        let identity = |member: &Value| match key {
            Some(key) => member.get(key).cloned().unwrap_or(Value::Null),
            None => member.clone(),
        };
        let order: Vec<Value> = order.iter().map(&identity).collect();
        let sent = patch.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let kept = sent.iter().filter(|member| member.get(PATCH).is_none());
        if kept.map(&identity).any(|member| !order.contains(&member)) {
            return Err(MergeError::OrderIncomplete(directive.clone()));
        }
        let before = object.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let before: Vec<Value> = before.iter().map(&identity).collect();
        if let Some(Value::Array(list)) = merged.get_mut(field) {
            *list = ordered(std::mem::take(list), &identity, &order, &before);
        }
    }
    Ok(())
}

fn ordered(
    list: Vec<Value>,
    identity: &impl Fn(&Value) -> Value,
    order: &[Value],
    before: &[Value],
) -> Vec<Value> {
    let place = |places: &[Value], member: &Value| places.iter().position(|one| *one == identity(member));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|member| place(order, member).is_some());
    named.sort_by_key(|member| place(order, member));
    // Merge the two: another goes before the first named member that it used to stand before.
    let mut merged = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let stood = place(before, &other);
        while let Some(next) = named.peek() {
            match (place(before, next), stood) {
                (Some(next), Some(stood)) if next > stood => break,
                _ => merged.extend(named.next()),
            }
        }
        merged.push(other);
    }
    merged.extend(named);
    merged
}

#[cfg(test)]
mod tests;
