//! A node's start, as Calico's node does it: what it is called, which addresses are its own, what a cluster has from its
//! first node on. All decisions are pure; [`Start`] is the task that reads, writes and tries again.

mod condition;
mod defaults;
mod detect;
mod interfaces;
mod name;
mod record;
mod settings;
mod start;
mod tunnel;

pub use name::node_name;
pub use settings::{Settings, SettingsError};
pub use start::{Config, Progress, Seen, Start};
