//! The calc graph: Kubernetes objects in, what this node's fastpath must do out. Pure and incremental.
//!
//! What comes out depends on the objects alone, not on the way there: any sequence of updates that ends in the same
//! objects ends in the same state, and a fastpath that has applied every flush has exactly that state.

mod config;
mod definition;
mod delta;
mod encapsulation;
mod graph;
mod host_endpoints;
mod ip_sets;
mod label_index;
mod matcher;
mod members;
mod mtu;
mod plane;
mod policies;
mod pools;
mod profiles;
mod routes;
mod rules;
mod served;
mod services;
mod sources;
mod symbols;
mod tiers;

pub use caracal_model::object::Update;
pub use config::HostServices;
pub use graph::{CalcGraph, Census, Work};
pub use mtu::{Demand, Mtu};
