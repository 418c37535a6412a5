//! What Caracal's control plane knows, as types: Kubernetes objects and their validation, labels and selectors, the
//! internal form of policies, the conversions between them, and the case files that state what must happen.
//!
//! Everything here is pure: no I/O, no clock, and no panic on any input. The way of an object:
//!
//! ```text
//!   YAML ── manifest ──► Value ── Object::from_value ──► Object ── validate ──► FieldErrors, all of them
//!                                                          │
//!                                                          └─ convert ──► Policy · Profile · PodEndpoint · NodeInfo
//!   case file ── Case::parse ──► Case ── world ──► World: every default filled in
//! ```

pub mod annotations;
pub mod calico;
pub mod case;
pub mod cidr;
pub mod convert;
pub mod duration;
pub mod labels;
pub mod manifest;
pub mod names;
pub mod object;
pub mod pod_port;
pub mod policy;
pub mod protocol;
pub mod quantity;
pub mod selector;
pub mod services;
pub mod switch;
mod validate;
mod yaml;
