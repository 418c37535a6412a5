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
mod collector;
mod configuration;
mod controller;
pub mod election;
mod host_endpoints;
mod lease;
mod load_balancer;
pub mod monitoring;
mod pools;
mod run;
pub mod settings;
mod tiers;
#[cfg(test)]
mod walks;

use caracal_datastore::ApiGroup;

pub use action::Action;
pub use cluster::Cluster;
pub use collector::Collector;
pub use configuration::Configuration;
pub use controller::{Controller, Now, Plan};
pub use host_endpoints::HostEndpoints;
pub use lease::LeaseName;
pub use load_balancer::LoadBalancer;
pub use pools::Pools;
pub use run::{Collected, ControllersError, Options, View, connect, run};
pub use tiers::Tiers;

/// What makes a controller.
type Make = fn() -> Box<dyn Controller>;

/// All controllers for a cluster that keeps Calico's kinds in a group.
fn all(group: ApiGroup) -> Vec<Make> {
    let mut all: Vec<Make> = vec![
        || Box::new(Configuration),
        || Box::new(Collector::default()),
        || Box::new(HostEndpoints),
        || Box::new(LoadBalancer),
    ];
    match group {
        ApiGroup::V3 => {
            all.push(|| Box::new(Pools::default()));
            all.push(|| Box::new(Tiers::new(ApiGroup::V3)));
        }
        ApiGroup::Crd => all.push(|| Box::new(Tiers::new(ApiGroup::Crd))),
    }
    all
}
