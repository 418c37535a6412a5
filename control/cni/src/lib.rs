//! The CNI plugin: what a container runtime executes to attach pods ([`plugin`]), how it gets onto a node ([`install`]), the links that it
//! makes ([`link`], by [`netns`] and [`netlink`]: by system call, nothing is shelled out), and what it asks its node's agent
//! ([`node_socket`]).

pub mod install;
pub mod link;
pub mod netlink;
pub mod netns;
pub mod node_socket;
pub mod plugin;

pub use caracal_xsk::xdp::DEFAULT_BPF_DIR;

/// The file in which the agent tells the plugin this node's name, unless both are told another.
pub const DEFAULT_NODENAME_FILE: &str = "/var/lib/calico/nodename";
/// The file in which the agent tells the plugin the pods' MTU, unless both are told another.
pub const DEFAULT_MTU_FILE: &str = "/var/lib/calico/mtu";
