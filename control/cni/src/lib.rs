//! The CNI plugin: what a container runtime executes to attach pods ([`plugin`]), how it gets onto a node ([`install`]), the links that it
//! makes ([`link`], by [`netns`] and [`netlink`]: by system call, nothing is shelled out), and what it asks its node's agent
//! ([`node_socket`]).

pub mod install;
pub mod link;
pub mod netlink;
pub mod netns;
pub mod node_socket;
pub mod plugin;
