//! What a controller is.

use std::time::{Duration, Instant};

use caracal_ipam::Nanoseconds;
use caracal_model::object::Kind;

use crate::{Action, Cluster, settings::Settings};

/// The time, twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For how long things have been so: never goes back.
    pub instant: Instant,
    /// What is written into objects.
    pub time: Nanoseconds,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In this order, each on its own: what fails does not keep the next from being done.
    pub actions: Vec<Action>,
    /// What cannot be done as long as things are as they are, for people.
    pub problems: Vec<String>,
    /// When to look again, even if nothing changes.
    pub again: Option<Duration>,
}

/// Looks at the cluster and says what is to be done. Whoever begins to lead begins with a new one: what it remembers is
/// only since when it has seen something.
pub trait Controller: Send {
    /// Its name, in logs.
    fn name(&self) -> &'static str;

    /// What it looks at: it plans when one of these has changed.
    fn kinds(&self) -> &'static [Kind];

    /// What is to be done now.
    fn plan(&mut self, cluster: &Cluster, settings: &Settings, now: Now) -> Plan;
}
