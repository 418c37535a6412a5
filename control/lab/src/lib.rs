//! Clusters of network namespaces from case files: real packets of real kernel sockets through our data plane, objects through the
//! Kubernetes API, and nothing that stays behind.
//!
//! [`Cluster::up`] brings a [`World`](caracal_model::case::World) up; [`run_case`] also sends every flow of a case and judges what came
//! back; [`sweep`] removes what a crashed run left. `caracal lab` is these, as a command.

mod api;
mod blocks;
mod children;
mod cluster;
mod cni;
mod door;
mod drive;
mod error;
mod evidence;
mod exec;
mod host_flows;
mod kernel_node;
mod mtu;
mod name;
mod network;
mod pods;
mod probe;
mod process;
mod ready;
mod responder;
mod run;
mod sctp;
mod state;
mod stop;
mod wire;

pub use api::ApiError;
pub use caracal_plane_api::{PlaneError, Reader};
pub use cluster::{Cluster, Progress, check_root};
pub use cni::{Attachment, CniError, Network, Running, addresses, plugin_folder};
pub use error::LabError;
pub use exec::{Target, exec};
pub use name::{DIRECTORY, LabName};
pub use pods::network as pod_network;
pub use process::{MARK, Process};
pub use ready::{interfaces_of, missing, status};
pub use run::{TryFlow, run_case, try_flow};
pub use state::{NodeState, Phase, PodState, ProcessState, State, names, sweep, take_down};
pub use stop::Stop;
