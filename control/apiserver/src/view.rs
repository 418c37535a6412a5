//! How a client wants its answer: whole objects, rows for `kubectl get`, or metadata only. Pure.
//!
//! It says so in `Accept`: `application/json;as=Table;g=meta.k8s.io;v=v1, application/json`.

use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::status::ApiError;

/// A form of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The objects as they are.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, with this beside the cells.
    Table(Beside),
}

/// What accompanies a table's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
}

/// A `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The snapshot's revision.
    pub revision: u64,
    /// Where the next page begins.
    pub more: Option<String>,
    /// How many follow, if that is known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut meta = json!({ "resourceVersion": self.revision.to_string() });
        if let Some(more) = &self.more {
            meta["continue"] = more.clone().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

impl View {
    /// The first form in `accept` that can be made; `include` is the query's `includeObject`.
    pub fn from_accept(accept: &str, include: &str) -> Result<View, ApiError> {
        if accept.trim().is_empty() {
            return Ok(View::Whole);
        }
        for wanted in accept.split(',') {
            let mut parts = wanted.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            if !["application/json", "application/*", "*/*"].contains(&media) {
                continue;
            }
            let parameter = |name: &str| {
                wanted.split(';').filter_map(|part| part.trim().split_once('=')).find(|(key, _)| *key == name)
            };
            let served = parameter("v").is_none_or(|(_, version)| version == "v1");
            match parameter("as").map(|(_, form)| form) {
                None => return Ok(View::Whole),
                Some("Table") if served => {
                    return Ok(View::Table(match include {
                        "None" => Beside::Nothing,
                        "Object" => Beside::Object,
                        _ => Beside::Metadata,
                    }));
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if served => {
                    return Ok(View::Metadata);
                }
                Some(_) => {}
            }
        }
        Err(ApiError::not_acceptable(accept))
    }

    /// One object. `header` says whether a table names its columns.
    pub fn object(self, resource: &Resource, object: &Value, header: bool) -> Value {
        match self {
            View::Whole => resource.shown(object).into_owned(),
            View::Metadata => metadata_only(object),
            View::Table(beside) => {
                let revision = crate::metadata::field(object, "resourceVersion");
                let meta = json!({ "resourceVersion": revision });
                table(resource, beside, std::iter::once(object), meta, header)
            }
        }
    }

    /// A list, as JSON text: long lists are not built twice.
    pub fn list(self, resource: &Resource, objects: &[&Value], meta: &ListMeta) -> String {
        let meta = meta.value();
        let (kind, version) = match self {
            View::Whole => (resource.list_kind(), resource.api_version()),
            View::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
            View::Table(beside) => {
                return table(resource, beside, objects.iter().copied(), meta, true).to_string();
            }
        };
        let mut text = format!(
            r#"{{"kind":{},"apiVersion":{},"metadata":{meta},"items":["#,
            json!(kind),
            json!(version)
        );
        for (index, object) in objects.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let shown = match self {
                View::Metadata => metadata_only(object).to_string(),
                _ => resource.shown(object).to_string(),
            };
            text.push_str(&shown);
        }
        text.push_str("]}");
        text
    }

    /// A bookmark's object: nothing but a revision.
    pub fn bookmark(self, resource: &Resource, revision: u64) -> Value {
        let (kind, version) = match self {
            View::Whole => (resource.kind.clone(), resource.api_version()),
            View::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            View::Table(_) => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let mut bookmark = json!({ "kind": kind, "apiVersion": version, "metadata": { "resourceVersion": revision.to_string() } });
        if let View::Table(_) = self {
            bookmark["columnDefinitions"] = json!([]);
            bookmark["rows"] = json!([]);
        }
        bookmark
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

fn table<'a>(
    resource: &Resource,
    beside: Beside,
    objects: impl Iterator<Item = &'a Value>,
    meta: Value,
    header: bool,
) -> Value {
    let now = crate::metadata::timestamp();
    let columns = if header { resource.headers() } else { Vec::new() };
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells = resource.cells(object, now);
            let object = match beside {
                Beside::Nothing => Value::Null,
                Beside::Metadata => metadata_only(object),
                Beside::Object => resource.shown(object).into_owned(),
            };
            json!({ "cells": cells, "object": object })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": columns, "rows": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_made_is_taken() {
        let table = Ok(View::Table(Beside::Metadata));
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(View::from_accept(kubectl, ""), table);
        assert_eq!(View::from_accept("", ""), Ok(View::Whole));
        assert_eq!(View::from_accept("*/*", ""), Ok(View::Whole));
        assert_eq!(
            View::from_accept("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", ""),
            Ok(View::Whole)
        );
        assert_eq!(
            View::from_accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", ""),
            Ok(View::Metadata)
        );
        assert_eq!(
            View::from_accept("application/vnd.kubernetes.protobuf, application/json", ""),
            Ok(View::Whole)
        );
        assert!(View::from_accept("application/vnd.kubernetes.protobuf", "").is_err());
        assert!(View::from_accept(";;=,", "").is_err());
    }
}
