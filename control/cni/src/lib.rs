//! Makes and removes pods' links, as the CNI plugin does at ADD and DEL; and what that takes: network namespaces and rtnetlink.
//!
//! Everything is synchronous and by system call; nothing is shelled out.

pub mod link;
pub mod netlink;
pub mod netns;
pub mod node_socket;
pub mod plugin;
