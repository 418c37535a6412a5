//! What one process of a cluster sees to for all nodes: addresses that nobody has are taken back, what is left of nodes that
//! have gone is cleaned up, host endpoints are made, pools say whether they give addresses, services get external ones.
//!
//! ```text
//!   Kubernetes API ──list, watch──► Syncer ──► Cluster ──┬─► a controller's plan ──► Actions ──► Kubernetes API, IPAM
//!                        Lease ◄──► Election ─ may act? ─┘         ▲ pure                 each as if it were the last
//! ```
//!
//! A controller is a pure function: what the cluster is, what it should do now. Whatever it has done is in the cluster
//! before it plans again, so it may die after any action, and whoever plans next goes on. The rules that hold throughout:
//! nothing is done before everything is known once, nor by two at a time; a write is a swap of what was seen; before an
//! address is taken back because its owner has gone, the API server itself is asked whether it has; and what a controller
//! has not made, it does not touch.

mod action;
mod cluster;
mod configuration;
mod controller;
pub mod election;
mod lease;
mod load_balancer;
mod run;
pub mod settings;

use caracal_datastore::ApiGroup;

pub use action::Action;
pub use cluster::Cluster;
pub use configuration::Configuration;
pub use controller::{Controller, Now, Plan};
pub use lease::LeaseName;
pub use load_balancer::LoadBalancer;
pub use run::{ControllersError, Options, View, run};

/// All controllers for a cluster that keeps Calico's kinds in a group, each as what makes a new one.
fn all(_group: ApiGroup) -> Vec<fn() -> Box<dyn Controller>> {
    vec![|| Box::new(Configuration), || Box::new(LoadBalancer)]
}
