//! What a client is told when it cannot have what it asked: Kubernetes' `Status`, with its reasons and its wording,
//! which kubectl and controllers act upon.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use caracal_model::object::FieldError;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::store::{CommitError, ReadError};

/// A refusal, ready to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub code: StatusCode,
    /// Kubernetes' machine-readable reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Name, group, kind, causes.
    pub details: Option<Value>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> ApiError {
        self.details = Some(json!({ "name": name, "group": resource.group, "kind": resource.plural }));
        self
    }

    /// The request itself makes no sense.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// No token, or not ours.
    pub fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// Understood and refused.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> ApiError {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// No such path.
    pub fn no_such_path() -> ApiError {
        ApiError {
            details: Some(json!({})),
            ..ApiError::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                "the server could not find the requested resource",
            )
        }
    }

    /// No such object.
    pub fn not_found(resource: &Resource, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// The path exists, the verb does not.
    pub fn method_not_allowed() -> ApiError {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// Nothing that the client accepts can be made.
    pub fn not_acceptable(accept: &str) -> ApiError {
        let message = format!("only JSON can be answered here, and the client accepts only {accept}");
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The body's media type is not served.
    pub fn unsupported_media_type(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// The body, or the object, is larger than any may be.
    pub fn too_large(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// The name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        ApiError::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    /// Somebody else was faster.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        ApiError::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// The object that was sent is older than the one that is stored.
    pub fn stale(resource: &Resource, name: &str) -> ApiError {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(resource, name, why)
    }

    /// Some fields are not right: all of them are named.
    pub fn invalid(resource: &Resource, name: &str, causes: &[FieldError]) -> ApiError {
        let kind = match resource.group.as_str() {
            "" => resource.kind.clone(),
            group => format!("{}.{group}", resource.kind),
        };
        let told: Vec<String> = causes.iter().map(FieldError::to_string).collect();
        let told = match told.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({ "reason": cause.reason.as_str(), "message": cause.message, "field": cause.field }))
            .collect();
        ApiError {
            details: Some(
                json!({ "name": name, "group": resource.group, "kind": resource.kind, "causes": causes }),
            ),
            ..ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!("{kind} \"{name}\" is invalid: {told}"),
            )
        }
    }

    /// Something here failed, and it is not the client's fault.
    pub fn internal(message: impl Into<String>) -> ApiError {
        let message = format!("Internal error occurred: {}", message.into());
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// Try again elsewhere or later.
    pub fn stopping() -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the server is stopping")
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }

    /// The answer.
    pub fn response(&self) -> Response<Body> {
        json_response(self.code, &self.status())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> ApiError {
        match error {
            // 410 makes a client list again.
            ReadError::Expired { .. } => ApiError::new(StatusCode::GONE, "Expired", error.to_string()),
            ReadError::Future { .. } => ApiError {
                details: Some(json!({
                    "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                    "retryAfterSeconds": 1,
                })),
                ..ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", error.to_string())
            },
        }
    }
}

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> ApiError {
        match error {
            CommitError::Stopped => ApiError::stopping(),
            CommitError::Full(_) => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", error.to_string())
            }
            CommitError::TooLarge(_) => ApiError::too_large(error.to_string()),
            other => ApiError::internal(other.to_string()),
        }
    }
}

/// An answer with a JSON body.
pub fn json_response(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forgotten_past_is_410_and_the_future_504() {
        let expired = ApiError::from(ReadError::Expired { asked: 1, oldest: 2 }).status();
        assert_eq!((&expired["code"], &expired["reason"]), (&json!(410), &json!("Expired")));
        let future = ApiError::from(ReadError::Future { asked: 2, current: 1 }).status();
        assert_eq!((&future["code"], &future["reason"]), (&json!(504), &json!("Timeout")));
        // By this cause client-go knows to ask for whatever is newest.
        assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }

    #[test]
    fn all_causes_are_told_in_the_message_and_apart() {
        let policies = crate::kinds::find("networking.k8s.io", "v1", "networkpolicies").expect("served");
        let cause = |field: &str| {
            crate::kinds::cause(field, caracal_model::object::FieldErrorReason::Required, "Required value")
        };
        let status = ApiError::invalid(policies, "a", &[cause("spec.x"), cause("spec.y")]).status();
        assert_eq!(
            status["message"],
            "NetworkPolicy.networking.k8s.io \"a\" is invalid: [spec.x: Required value, spec.y: Required value]"
        );
        assert_eq!(
            status["details"]["causes"][1],
            json!({
                "reason": "FieldValueRequired", "message": "Required value", "field": "spec.y",
            })
        );
    }
}
