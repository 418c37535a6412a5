//! Patches: a sent change and a stored object in, the changed object out. Pure.

mod json;
mod strategic;

use caracal_model::object::FieldErrorReason;
use serde_json::Value;

use crate::kinds::{self, Resource};
use crate::schema::definitions;
use crate::status::ApiError;

/// A sent change.
#[derive(Debug)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(json_patch::Patch),
    /// RFC 7386: objects merge, all else is replaced, null deletes.
    Merge(Value),
    /// Kubernetes' own: as merge, but lists may merge by a key of their members.
    Strategic(Value),
}

impl Patch {
    /// Reads a body as its media type says.
    pub fn parse(media_type: &str, body: &[u8]) -> Result<Patch, ApiError> {
        let json = || -> Result<Value, ApiError> {
            serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("the patch is not JSON: {error}")))
        };
        let object = || -> Result<Value, ApiError> {
            let value = json()?;
            if value.is_object() {
                Ok(value)
            } else {
                Err(ApiError::bad_request("the patch is not an object"))
            }
        };
        match media_type {
            "application/json-patch+json" => serde_json::from_value(json()?)
                .map(Patch::Json)
                .map_err(|error| ApiError::bad_request(format!("the body is not a JSON patch: {error}"))),
            "application/merge-patch+json" => Ok(Patch::Merge(object()?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object()?)),
            "application/apply-patch+yaml" => Err(ApiError::unsupported_media_type(
                "server-side apply is not served here: have the client merge (kubectl apply without --server-side; \
                 helm 4 with --server-side=false; Argo CD without ServerSideApply=true)",
            )),
            other => Err(ApiError::unsupported_media_type(format!(
                "the body's media type is \"{other}\"; patches are application/json-patch+json, \
                 application/merge-patch+json or application/strategic-merge-patch+json"
            ))),
        }
    }

    /// The object as the patch leaves it.
    pub fn apply(&self, resource: &Resource, object: &Value) -> Result<Value, ApiError> {
        let name = crate::metadata::field(object, "name");
        let refused = |why: String| {
            ApiError::invalid(resource, name, &[kinds::cause("patch", FieldErrorReason::Invalid, why)])
        };
        match self {
            Patch::Json(patch) => json::apply(object, patch).map_err(|error| refused(error.to_string())),
            Patch::Merge(patch) => {
                let mut changed = object.clone();
                json_patch::merge(&mut changed, patch);
                Ok(changed)
            }
            Patch::Strategic(_) if resource.custom => Err(ApiError::unsupported_media_type(format!(
                "{} are custom resources, which take no application/strategic-merge-patch+json; \
                 send application/merge-patch+json or application/json-patch+json",
                resource.qualified()
            ))),
            Patch::Strategic(patch) => {
                strategic::merge(object, patch, definitions().root(resource)).map_err(|error| {
                    ApiError::bad_request(format!("the strategic merge patch is wrong: {error}"))
                })
            }
        }
    }
}
